//! Tunnels of real senders through the whole: what sniffers get is what TShark finds in them, and what may
//! not be delivered is refused by name.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use mirror::wire::{Identity, TunnelKind, decode};
use serde_json::Value;

use crate::{
    bed::{Bed, TUNNEL, session, sniffer},
    mirrored::{CAPTURES, captures, captures_exist, frames, is_ethernet},
};

const TENANTS: [&str; 3] = ["blue", "green", "red"];

/// Room for the longest frames there are.
const LONG: &str = "max_frame_bytes = 16384\nqueue_frames = 256\n";
/// Length of the address that is replaced.
const MAC: usize = 6;

/// A configuration in which the tenants take turns at the sessions, each with a sniffer of its own; and
/// which tenant a session is of.
fn shared_out(identities: &[Identity]) -> (String, HashMap<Identity, usize>) {
    let mut text = TUNNEL.to_owned();
    let mut owners = HashMap::new();
    for (number, identity) in identities.iter().enumerate() {
        let tenant = number % TENANTS.len();
        let name = format!("s{number}");
        text += &session(&name, TENANTS[tenant], identity, &[TENANTS[tenant]]);
        owners.insert(*identity, tenant);
    }
    for (number, tenant) in TENANTS.iter().enumerate() {
        text += &sniffer(tenant, tenant, number as u8, LONG)
            .replace("slots = 1024", "slots = 256, max_frame_bytes = 16384");
    }
    (text, owners)
}

/// The destination that a tenant's sniffer has.
fn mac(tenant: usize) -> [u8; MAC] {
    [2, 0xff, 0, 0, 0, tenant as u8]
}

fn number(value: &Value) -> Option<u32> {
    let text = value.as_str()?;
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// What names a record's session, as TShark reads it; `None` for tunnels that carry no mirrored frames.
fn identity(record: &Value) -> Option<Identity> {
    let protocols = record["protocols"].as_str()?;
    let ours = ["ip:gre:erspan", "ip:gre:eth:", "ip:udp:vxlan"];
    let is_ours = |ours: &&str| protocols.starts_with(&format!("eth:ethertype:{ours}"));
    ours.iter().find(|ours| is_ours(ours))?;
    record["inner_hex"].as_str()?;
    let (erspan, gre) = (&record["erspan"], &record["gre"]);
    let (kind, id) = match (number(&gre["proto"]), number(&erspan["version"])) {
        (Some(0x88be), None) => (TunnelKind::ErspanI, None),
        (Some(0x88be), Some(_)) => (TunnelKind::ErspanII, number(&erspan["spanid"])),
        (Some(0x22eb), _) => (TunnelKind::ErspanIII, number(&erspan["spanid"])),
        (Some(_), _) => (TunnelKind::Ethernet, number(&gre["key"])),
        (None, _) => (TunnelKind::Vxlan, number(&record["vxlan"]["vni"])),
    };
    let address = |name: &str| record[name].as_str()?.parse().ok();
    Some(Identity::new(
        address("outer_src")?,
        address("outer_dst")?,
        kind,
        id,
    ))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(digits).collect()
}

/// The records of Ethernet captures, by file.
fn oracle() -> BTreeMap<String, Vec<Value>> {
    let text = fs::read_to_string(Path::new(CAPTURES).join("oracle.jsonl")).expect("the oracle");
    let mut files: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).expect("JSON");
        let file = record["file"].as_str().expect("a file").to_owned();
        files.entry(file).or_default().push(record);
    }
    files.retain(|file, _| is_ethernet(&Path::new(CAPTURES).join(file)));
    files
}

#[test]
fn sniffers_get_what_the_oracle_has_byte_by_byte_and_in_order() {
    if !captures_exist() {
        return;
    }
    let oracle = oracle();
    let mut identities: Vec<Identity> = Vec::new();
    for identity in oracle.values().flatten().filter_map(identity) {
        if !identities.contains(&identity) {
            identities.push(identity);
        }
    }
    let (text, owners) = shared_out(&identities);
    let mut bed = Bed::new(&text);
    let mut compared = 0;
    for (file, records) in &oracle {
        let sent: HashMap<usize, Vec<u8>> = frames(&Path::new(CAPTURES).join(file))
            .into_iter()
            .collect();
        let mut expected = vec![Vec::new(); TENANTS.len()];
        for record in records {
            let Some(identity) = identity(record) else {
                continue;
            };
            let place = record["frame"].as_u64().expect("a number") as usize;
            bed.send(&sent[&place]);
            let tenant = owners[&identity];
            let inner = bytes(record["inner_hex"].as_str().expect("bytes"));
            expected[tenant].push([&mac(tenant)[..], &inner[MAC..]].concat());
        }
        bed.settle();
        for (tenant, expected) in TENANTS.iter().zip(expected) {
            let got = bed.got(tenant);
            compared += got.len();
            assert!(got == expected, "{file}: {tenant}'s {} frames", got.len());
        }
    }
    println!(
        "{compared} frames of {} sessions as the oracle has them",
        identities.len()
    );
    assert!(compared > 480, "{compared} frames");
}

/// What names the session of a frame, delivered or not.
fn named(frame: &[u8]) -> Option<Identity> {
    match decode(frame) {
        Ok(decoded) => Some(decoded.identity),
        Err(refused) => refused.session.map(|(identity, _)| identity),
    }
}

#[test]
fn what_is_no_mirrored_frame_is_refused_by_name() {
    if !captures_exist() {
        return;
    }
    let cases: &[(&str, &[(&str, u64)])] = &[
        // Unknown frame types, with a subheader that the header denies.
        (
            "tcpdump/tests/erspan-type-iii-ft-7.pcap",
            &[("not_ethernet", 58)],
        ),
        (
            "tcpdump/tests/erspan-type-i-4.pcap",
            &[("not_ip", 7), ("not_a_tunnel", 16), ("gre_protocol", 8)],
        ),
        ("zeek/tunnels/gre-sample.pcap", &[("gre_protocol", 40)]),
        ("zeek/tunnels/gre-within-gre.pcap", &[("gre_protocol", 628)]),
        ("zeek/tunnels/gre-aruba.pcap", &[("gre_protocol", 2407)]),
    ];
    for (file, expected) in cases {
        let sent = frames(&Path::new(CAPTURES).join(file));
        let mut identities: Vec<Identity> = Vec::new();
        for identity in sent.iter().filter_map(|(_, frame)| named(frame)) {
            if !identities.contains(&identity) {
                identities.push(identity);
            }
        }
        let mut bed = Bed::new(&shared_out(&identities).0);
        for (_, frame) in &sent {
            bed.send(frame);
        }
        let all = bed.settle();
        let refused: BTreeMap<_, _> = [
            all.totals.refused_fragments,
            all.totals.refused_frames,
            all.totals.refused_mirrored,
        ]
        .into_iter()
        .flatten()
        .collect();
        let wanted: BTreeMap<_, _> = expected
            .iter()
            .map(|(name, frames)| ((*name).to_owned(), *frames))
            .collect();
        assert_eq!(refused, wanted, "{file}");
    }
}

#[test]
fn whatever_comes_nobody_gets_what_is_not_his() {
    if !captures_exist() {
        return;
    }
    let mut files = Vec::new();
    captures(Path::new(CAPTURES), &mut files);
    let files: Vec<_> = files.iter().map(|file| frames(file)).collect();
    let mut identities: Vec<Identity> = Vec::new();
    for (_, frame) in files.iter().flatten() {
        if let Some(identity) = named(frame)
            && !identities.contains(&identity)
        {
            identities.push(identity);
        }
    }
    let (text, owners) = shared_out(&identities);
    let mut bed = Bed::new(&text);
    let (mut sent, mut delivered, mut strange) = (0, 0, 0);
    for file in &files {
        // How often each tenant may get which bytes.
        let mut own: Vec<HashMap<Vec<u8>, u64>> = vec![HashMap::new(); TENANTS.len()];
        // In parts that no queue is too short for.
        for part in file.chunks(256) {
            for (_, frame) in part.iter().filter(|(_, frame)| frame.len() <= 16_384) {
                bed.send(frame);
                sent += 1;
                if let Ok(decoded) = decode(frame) {
                    let tenant = owners[&decoded.identity];
                    let rest = frame[decoded.inner].get(MAC..).unwrap_or_default();
                    *own[tenant].entry(rest.to_vec()).or_default() += 1;
                }
            }
            bed.settle();
            for (tenant, own) in own.iter_mut().enumerate() {
                for frame in bed.got(TENANTS[tenant]) {
                    assert_eq!(frame[..MAC], mac(tenant));
                    delivered += 1;
                    match own.get_mut(&frame[MAC..]).filter(|left| **left > 0) {
                        Some(left) => *left -= 1,
                        None => strange += 1,
                    }
                }
            }
        }
    }
    let all = bed.settle();
    println!(
        "{sent} frames, {delivered} delivered to {} sessions, {} put together of fragments",
        identities.len(),
        all.totals.reassembled
    );
    // Those that were put together are in no frame.
    assert!(strange <= all.totals.reassembled, "{strange}");
    assert_eq!(delivered, all.totals.copies);
    assert!(delivered > 480);
}
