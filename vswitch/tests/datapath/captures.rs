//! Frames from the wild: every capture at hand, whole and cut off, and noise.
//!
//! What must hold: no panic, and the switch does with each frame what the reference does, on a
//! trunk, an access port and vNIC ports. That frames are counted the bed checks itself.

use std::path::{Path, PathBuf};

use pmd::pcap::Reader;
use policy::model::{Action, Model, SenderChecks};
use policy::rule::{FragmentMatch, Match};

use crate::bed::{Bed, Options, build::*, frames::*};
use crate::model::Reference;

/// Where captures lie; a checkout without them skips the test.
const CAPTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/pcap");

/// Longer frames are cut to what the ports carry.
const LONGEST: usize = 1500;

/// A linear congruential generator: the same noise each time.
struct Noise(u64);

impl Noise {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

/// Port 0 is a trunk, 1 an access port, 2 and 3 have vNICs: one that checks every sender and one
/// whose rules look at everything.
fn a_model() -> Model {
    let networks = [
        network(0),
        vlan_network(1, 1),
        vlan_network(2, 10),
        vlan_network(3, 100),
    ];
    let protocol = |number| Match {
        protocol: Some(number),
        ..Match::default()
    };
    let rules = |first| {
        let low_ports = Match {
            dst_ports: vec![0..=1023, 8080..=8081],
            ..protocol(UDP)
        };
        let later = Match {
            fragment: Some(FragmentMatch::Later),
            ..Match::default()
        };
        let to_net = Match {
            dst: Some("192.168.0.0/16".parse().expect("a prefix")),
            ..Match::default()
        };
        [
            deny(first, low_ports),
            allow(first + 1, protocol(UDP)),
            deny(first + 2, later),
            allow(first + 3, protocol(TCP)),
            allow(first + 4, to_net),
            deny(first + 5, protocol(ICMP)),
        ]
    };
    let curious = vnic(mac(3))
        .checks(SenderChecks::NONE)
        .inbound(Action::Deny, rules(100))
        .outbound(Action::Allow, rules(200));
    let ports = [
        trunk(0, &[1, 2, 3], Some(0)),
        access(1, 0),
        access(2, 0).vnic(vnic(mac(2)).ipv4("192.168.0.0/16")),
        access(3, 0).vnic(curious),
    ];
    model(networks, ports)
}

struct Replay {
    bed: Bed,
    reference: Reference,
    frames: usize,
}

impl Replay {
    fn new() -> Self {
        let mut options = Options::default();
        options.port.max_frame_bytes = 2048;
        // A bed for each capture; its frames come one by one.
        options.port.slots = 8;
        Self {
            bed: Bed::with(&a_model(), options),
            reference: Reference::new(&a_model()),
            frames: 0,
        }
    }

    fn frame(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(LONGEST)];
        for port in 0..4 {
            self.frames += 1;
            let real = self.bed.pass(port, bytes);
            let mut expected = self.reference.receive(port, bytes, None);
            expected.sort_by_key(|(port, _)| *port);
            assert_eq!(real, expected, "from port {port}: {bytes:02x?}");
        }
    }

    fn compare_drops(&self, what: &str) {
        let drops = self.bed.drops().into_iter();
        let drops: Vec<_> = drops
            .map(|(port, reason, n)| ((port, reason.name()), n))
            .collect();
        let mut expected: Vec<_> = self.reference.drops.clone().into_iter().collect();
        let number = |name: &str| {
            let mut reasons = policy::DropReason::ALL.iter();
            reasons.position(|reason| reason.name() == name)
        };
        expected.sort_by_key(|((port, reason), _)| (*port, number(reason)));
        assert_eq!(drops, expected, "after {what}");
    }
}

pub(crate) fn captures(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).expect("a readable folder");
    for entry in entries {
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
}

/// Each frame of each capture, then cut off anywhere. The captures that are of no Ethernet serve
/// as noise with a meaning. `part` of `parts` of the files.
fn replay_part(part: usize, parts: usize) {
    let mut files = Vec::new();
    if Path::new(CAPTURES).is_dir() {
        captures(Path::new(CAPTURES), &mut files);
    }
    if files.is_empty() {
        eprintln!("skipped: no captures at {CAPTURES}");
        return;
    }
    files.sort();
    let mut noise = Noise(1);
    let mut frames = 0;
    for file in files.iter().skip(part).step_by(parts) {
        let Ok(reader) = Reader::open(file) else {
            continue;
        };
        let mut replay = Replay::new();
        // A capture may end in the middle of a record: what came before counts.
        for record in reader.map_while(Result::ok).take(200) {
            replay.frame(&record.bytes);
            let len = record.bytes.len().min(LONGEST);
            replay.frame(&record.bytes[..noise.below(len)]);
            // Most headers end early.
            replay.frame(&record.bytes[..noise.below(len.min(80))]);
        }
        replay.compare_drops(&file.display().to_string());
        frames += replay.frames;
    }
    assert!(frames > 1000, "only {frames} frames in {CAPTURES}");
    eprintln!("{frames} frames of captures");
}

#[test]
fn captures_are_forwarded_as_the_reference_does_one() {
    replay_part(0, 2);
}

#[test]
fn captures_are_forwarded_as_the_reference_does_two() {
    replay_part(1, 2);
}

#[test]
fn noise_is_counted_and_stops_nothing() {
    let mut replay = Replay::new();
    let mut noise = Noise(2);
    for _ in 0..2000 {
        let len = noise.below(200);
        let mut frame: Vec<u8> = (0..len).map(|_| noise.below(256) as u8).collect();
        if len > 20 && noise.below(2) == 0 {
            // With an ethertype that is looked into.
            let ethertypes = [IPV4, IPV6, ARP, 0x8100, 0x88a8];
            let ethertype = ethertypes[noise.below(ethertypes.len())];
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            frame[14] = [0x45, 0x60, 0x46][noise.below(3)];
            frame[6] &= !1;
        }
        replay.frame(&frame);
    }
    replay.compare_drops("noise");
}
