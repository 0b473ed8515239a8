//! What the tests of this crate share: captures, and tunnels to choose from.
#![allow(dead_code, reason = "each test uses some of it")]

pub(crate) mod bed;

use std::{
    fs,
    path::{Path, PathBuf},
};

use mirror::wire::{
    Addresses, Carrier, Granularity, Link, MAX_PREFIX_BYTES, Oversize, SessionId, Template, Tunnel,
    Vni,
};
use pmd::pcap::{LinkType, Reader};
use policy::Mac;

/// Where captures lie; a checkout without them skips the tests that read them.
pub(crate) const CAPTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/pcap");

/// Whether there are captures; says so when there are not.
pub(crate) fn captures_exist() -> bool {
    let exist = Path::new(CAPTURES).is_dir();
    if !exist {
        println!("skipped: no captures at {CAPTURES}");
    }
    exist
}

/// The records of a capture, as far as it is sound, with the place of each in the file, from 1.
pub(crate) fn frames(path: &Path) -> Vec<(usize, Vec<u8>)> {
    let Ok(reader) = Reader::open(path) else {
        return Vec::new();
    };
    let sound = reader.map_while(Result::ok);
    let bytes = sound.map(|record| record.bytes);
    bytes.enumerate().map(|(at, b)| (at + 1, b)).collect()
}

/// Whether a capture is of Ethernet.
pub(crate) fn is_ethernet(path: &Path) -> bool {
    let first = Reader::open(path).ok().and_then(|mut reader| reader.next());
    matches!(first, Some(Ok(record)) if record.link_type == LinkType::ETHERNET)
}

/// Every capture below a folder.
pub(crate) fn captures(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            captures(&path, found);
        } else if path
            .extension()
            .is_some_and(|e| e == "pcap" || e == "pcapng")
        {
            found.push(path);
        }
    }
    found.sort();
}

pub(crate) fn v4() -> Addresses {
    Addresses::V4 {
        source: [192, 0, 2, 1].into(),
        destination: [192, 0, 2, 99].into(),
    }
}

pub(crate) fn v6() -> Addresses {
    Addresses::V6 {
        source: "2001:db8::1".parse().expect("an address"),
        destination: "2001:db8::99".parse().expect("an address"),
    }
}

pub(crate) fn tunnel(addresses: Addresses, carrier: Carrier) -> Tunnel {
    Tunnel {
        link: Link {
            destination: Mac([2, 0, 0, 0, 0, 0x99]),
            source: Mac([2, 0, 0, 0, 0, 1]),
            tci: None,
        },
        addresses,
        dscp: 8,
        ttl: 64,
        dont_fragment: false,
        carrier,
        mtu_bytes: 1500,
        oversize: Oversize::Truncate,
    }
}

pub(crate) fn session(number: u16) -> SessionId {
    SessionId::new(number).expect("10 bits")
}

/// One carrier of each shape, all of the session or key `number`.
pub(crate) fn carriers(number: u16) -> Vec<Carrier> {
    let session = session(number);
    let type_iii = |granularity, sequence, port| Carrier::ErspanIII {
        session,
        granularity,
        hardware: 5,
        sequence,
        port,
    };
    let key = Some(u32::from(number));
    vec![
        Carrier::ErspanI,
        Carrier::ErspanII { session, index: 77 },
        type_iii(Granularity::Microseconds100, true, None),
        type_iii(Granularity::Nanoseconds100, true, Some(9)),
        type_iii(Granularity::Ieee1588, true, Some(9)),
        type_iii(Granularity::Nanoseconds100, false, None),
        Carrier::Ethernet {
            key,
            sequence: false,
        },
        Carrier::Ethernet {
            key,
            sequence: true,
        },
        Carrier::Ethernet {
            key: None,
            sequence: false,
        },
        Carrier::Vxlan {
            vni: Vni::new(u32::from(number)).expect("24 bits"),
        },
    ]
}

/// The frame that a template makes of a mirrored one.
pub(crate) fn encode(template: &Template, fields: &mirror::wire::Fields, inner: &[u8]) -> Vec<u8> {
    let mut prefix = [0; MAX_PREFIX_BYTES];
    let len = template.write(fields, &mut prefix);
    [&prefix[..len], inner].concat()
}

/// A UDP frame with a payload of `len` bytes.
pub(crate) fn udp_frame(
    source: [u8; 4],
    destination: [u8; 4],
    ports: (u16, u16),
    len: usize,
) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 3, 8, 0];
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0];
    ip[2..4].copy_from_slice(&((28 + len) as u16).to_be_bytes());
    ip.extend(source.iter().chain(&destination));
    let words = ip.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum = words.sum::<u32>();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend(ports.0.to_be_bytes());
    frame.extend(ports.1.to_be_bytes());
    frame.extend(((8 + len) as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend((0..len).map(|at| at as u8));
    frame
}
