//! Tunnels of real senders: what stands in them is found byte by byte as `TShark` finds it, and what
//! may not be delivered is refused for the right reason.

mod common;

use std::{collections::HashMap, fs, path::Path};

use common::{CAPTURES, captures_exist, frames, is_ethernet};
use mirror::wire::{Decoded, Header, Refusal, TunnelKind, decode};
use serde_json::Value;

/// The oracle's records by file.
fn oracle() -> HashMap<String, Vec<Value>> {
    let path = Path::new(CAPTURES).join("oracle.jsonl");
    let text = fs::read_to_string(path).expect("the oracle");
    let mut files: HashMap<String, Vec<Value>> = HashMap::new();
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).expect("JSON");
        let file = record["file"].as_str().expect("a file").to_owned();
        files.entry(file).or_default().push(record);
    }
    files
}

/// A number that stands in a text, decimal or hexadecimal.
fn number(value: &Value) -> Option<u64> {
    let text = value.as_str()?;
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn compare_tunnel(record: &Value, decoded: &Decoded) {
    let address = |name: &str| record[name].as_str().expect("an address").to_owned();
    assert_eq!(decoded.identity.source().to_string(), address("outer_src"));
    let destination = decoded.identity.destination().to_string();
    assert_eq!(destination, address("outer_dst"));
    let sequence = number(&record["gre"]["sequence_number"]);
    assert_eq!(decoded.sequence.map(u64::from), sequence);

    let erspan = &record["erspan"];
    let same = |name: &str, found: u64| {
        assert_eq!(number(&erspan[name]), Some(found), "{name} of {record}");
    };
    let common = |common: &mirror::wire::erspan::Common| {
        same("vlan", common.vlan.into());
        same("cos", common.cos.into());
        same("truncated", common.truncated.into());
        same("spanid", common.session.get().into());
        let id = u64::from(common.session.get());
        assert_eq!(decoded.identity.id().map(u64::from), Some(id));
    };
    match decoded.header {
        Header::None => {
            assert_eq!(number(&erspan["version"]), None);
            let id = match decoded.identity.kind() {
                TunnelKind::Vxlan => number(&record["vxlan"]["vni"]),
                _ => number(&record["gre"]["key"]),
            };
            assert_eq!(decoded.identity.id().map(u64::from), id);
        }
        Header::TypeII(header) => {
            common(&header.common);
            same("version", 1);
            same("encap", header.common.kind.into());
            same("index", header.index.into());
        }
        Header::TypeIII(header) => {
            common(&header.common);
            same("version", 2);
            same("bso", header.common.kind.into());
            same("timestamp", header.timestamp.into());
            same("sgt", header.sgt.into());
            same("p", header.pdu.into());
            same("ft", header.frame_type.into());
            same("hw", header.hardware.into());
            same("direction", header.egress.into());
            same("gra", header.granularity.bits().into());
            same("o", header.subheader.is_some().into());
            if let Some(sub) = header.subheader {
                same("platid", sub.platform.into());
                same("pid3.port_index", (sub.low & 0x3fff).into());
                same("pid3.timestamp", sub.high.into());
            }
        }
    }
}

/// The tunnels that are read here; the oracle has others.
fn is_ours(record: &Value) -> bool {
    let protocols = record["protocols"].as_str().expect("protocols");
    ["ip:gre:erspan", "ip:gre:eth:", "ip:udp:vxlan"]
        .iter()
        .any(|ours| protocols.starts_with(&format!("eth:ethertype:{ours}")))
}

#[test]
fn every_frame_is_found_where_the_oracle_has_it() {
    if !captures_exist() {
        return;
    }
    let (mut found, mut refused) = (0, 0);
    for (file, records) in oracle() {
        let path = Path::new(CAPTURES).join(&file);
        let frames: HashMap<usize, Vec<u8>> = frames(&path).into_iter().collect();
        for record in records.iter().filter(|_| is_ethernet(&path)) {
            let place = record["frame"].as_u64().expect("a number") as usize;
            let frame = &frames[&place];
            let decoded = decode(frame);
            let Some(inner) = record["inner_hex"].as_str().filter(|_| is_ours(record)) else {
                let decoded = decoded.expect_err(&format!("{file} frame {place}"));
                assert!(!decoded.refusal.text().is_empty());
                refused += 1;
                continue;
            };
            let decoded = decoded.unwrap_or_else(|e| panic!("{file} frame {place}: {e:?}"));
            let offset = record["inner_off"].as_u64().expect("a number") as usize;
            assert_eq!(decoded.inner.start, offset, "{file} frame {place}");
            let bytes = hex(&frame[decoded.inner.clone()]);
            assert_eq!(bytes, inner, "{file} frame {place}");
            compare_tunnel(record, &decoded);
            found += 1;
        }
    }
    println!("{found} frames as the oracle has them, {refused} refused");
    assert!(found > 480, "{found} frames");
}

/// What becomes of the frames of a capture, by refusal.
fn refusals(file: &str) -> Vec<(Refusal, usize)> {
    let mut counts: Vec<(Refusal, usize)> = Vec::new();
    for (_, frame) in frames(&Path::new(CAPTURES).join(file)) {
        if let Err(refused) = decode(&frame) {
            match counts.iter_mut().find(|(r, _)| *r == refused.refusal) {
                Some((_, count)) => *count += 1,
                None => counts.push((refused.refusal, 1)),
            }
        }
    }
    counts.sort_by_key(|(refusal, _)| *refusal as u8);
    counts
}

#[test]
fn what_is_no_mirrored_frame_is_refused_by_name() {
    if !captures_exist() {
        return;
    }
    let cases: &[(&str, &[(Refusal, usize)])] = &[
        // Unknown frame types, with a subheader that the header denies.
        (
            "tcpdump/tests/erspan-type-iii-ft-7.pcap",
            &[(Refusal::NotEthernet, 58)],
        ),
        // OSPF beside and inside the tunnel, LLDP.
        (
            "tcpdump/tests/erspan-type-i-4.pcap",
            &[
                (Refusal::NotIp, 7),
                (Refusal::NotATunnel, 16),
                (Refusal::GreProtocol, 8),
            ],
        ),
        // Fragments, first and later.
        ("zeek/erspan.pcap", &[(Refusal::FragmentsFull, 55)]),
        (
            "zeek/tunnels/gre-sample.pcap",
            &[(Refusal::GreProtocol, 40)],
        ),
        (
            "zeek/tunnels/gre-within-gre.pcap",
            &[(Refusal::GreProtocol, 628)],
        ),
        (
            "zeek/tunnels/gre-aruba.pcap",
            &[(Refusal::GreProtocol, 2407)],
        ),
        ("zeek/tunnels/geneve.pcap", &[(Refusal::NotATunnel, 6)]),
        // A header that begins with IPv6's, read as Ethernet.
        (
            "tcpdump/tests/erspan-type-iii-pb-1.pcap",
            &[(Refusal::NotIp, 1)],
        ),
    ];
    for (file, expected) in cases {
        assert_eq!(&refusals(file), expected, "{file}");
    }
}

#[test]
fn a_tag_is_left_as_it_came_whatever_the_header_says() {
    if !captures_exist() {
        return;
    }
    let (mut tagged, mut all) = (0, 0);
    for (place, frame) in frames(&Path::new(CAPTURES).join("tcpdump/tests/erspan-type-ii-3.pcap")) {
        let decoded = decode(&frame).unwrap_or_else(|e| panic!("frame {place}: {e:?}"));
        let Header::TypeII(header) = decoded.header else {
            panic!("frame {place} is of type II");
        };
        assert_eq!(header.common.kind, mirror::wire::erspan::tagging::REMOVED);
        tagged += usize::from(frame[decoded.inner][12..14] == [0x81, 0]);
        all += 1;
    }
    assert_eq!((tagged, all), (38, 108));
}
