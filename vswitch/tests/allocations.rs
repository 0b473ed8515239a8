//! Nothing allocates in a turn: hits, misses, floods, drops of every kind, new addresses and new
//! rows of the ledger included. A program of its own, because only a whole program has an allocator
//! that counts.

#[allow(dead_code, reason = "the bed serves other test programs too")]
mod bed;

use std::sync::Arc;

use policy::model::{Action, StormLimits};
use policy::rule::Match;
use vswitch::mirroring::{self, Memory};

use bed::{Bed, Options, build::*, frames::*};

#[global_allocator]
static ALLOCATOR: pmd::allocations::Counting = pmd::allocations::Counting;

/// Frames of every fate; `round` makes new addresses and flows.
fn frames(round: u8) -> Vec<(u16, Vec<u8>)> {
    let source = |n: u8| policy::Mac([2, 0, 0, round, 0, n]);
    let ip = |src: u8, payload: &[u8]| ipv4([10, 0, round, src], [10, 0, 0, 2], UDP, payload);
    let datagram = |dst, src, n| ether(dst, src, IPV4, &ip(n, &udp(1000 + u16::from(n), 53)));
    let mut frames = vec![
        (0, Vec::new()),
        (0, vec![0; 13]),
        (0, tag(&plain(BROADCAST, mac(1)), 10)),
        (1, tag(&plain(BROADCAST, source(1)), 0xe00a)),
        (1, tag(&plain(BROADCAST, source(1)), 30)),
        (2, plain(BROADCAST, source(2))),
        (
            3,
            ether(
                BROADCAST,
                mac(3),
                ARP,
                &arp(1, mac(3), [10, 0, 0, 3], [10, 0, 0, 1]),
            ),
        ),
        (
            3,
            ether(
                BROADCAST,
                mac(3),
                ARP,
                &arp(1, mac(4), [10, 0, 0, 3], [10, 0, 0, 1]),
            ),
        ),
        (3, plain(mac(1), mac(4))),
        (3, ether(mac(1), mac(3), IPV4, &[0x45; 10])),
    ];
    for n in 0..20 {
        frames.push((2, datagram(mac(3), source(n), n)));
        frames.push((2, datagram(mac(99), source(n), n)));
        frames.push((4, datagram(mac(3), source(n), n)));
    }
    frames
}

/// Turns until nothing moves, none of which allocates.
fn run(bed: &mut Bed, what: &str) -> usize {
    let mut judged = 0;
    loop {
        let before = pmd::allocations::count();
        let frames = bed.turn();
        assert_eq!(pmd::allocations::count(), before, "{what}");
        bed.collect();
        judged += frames;
        if frames == 0 {
            return judged;
        }
    }
}

/// A table that is nearly full and whose addresses come and go.
#[test]
fn addresses_that_come_and_go_allocate_nothing() {
    let nearly_full = policy::model::Network {
        mac_limit: 1785,
        ..network(0)
    };
    let ports = (0..4).map(|id| access(id, 0).mac_limit(10_000));
    let mut bed = Bed::new(&model([nearly_full], ports));
    bed.turn();
    for round in 0..40u16 {
        let port = round % 4;
        for n in 0..440u16 {
            let [high, low] = n.to_be_bytes();
            let source = policy::Mac([2, 0, round as u8, 0, high, low]);
            bed.send(port, &plain(BROADCAST, source));
            if n % 64 == 63 {
                run(&mut bed, "learning");
            }
        }
        run(&mut bed, "learning");
        bed.all_received();
        bed.shared
            .bridge
            .forget_port(policy::PortId((port + 1) % 4));
    }
    assert_eq!(bed.drops(), []);
}

/// Captures all that passes these ports. What is copied stays there: nobody reads.
fn capture(bed: &mut Bed, ports: &[u16]) {
    let wanted = mirror::session::Session {
        name: "capture".into(),
        owner: "tenant".into(),
        source: mirror::session::Source::Port("port".into()),
        directions: mirror::session::Directions::Both,
        filter: policy::rule::RuleList::default(),
        rejected: true,
        truncate_bytes: None,
        sampling: mirror::session::Sampling::All,
        limits: mirror::session::Limits::default(),
        priority: 100,
        lease_until_s: None,
        tunnel: None,
    };
    let facts = mirror::session::SourceFacts {
        tenant: "tenant".into(),
        role: mirror::session::Role::Ordinary,
    };
    let (memory, _reader) = Memory::with_room(2, 100_000);
    let session = mirroring::Session {
        ready: wanted.prepare(Some(&facts), None).expect("a sound session"),
        shared: Arc::new(mirroring::SessionShared::new(2, 1)),
        slot: 0,
        ports: ports.iter().copied().map(policy::PortId).collect(),
        way: Some(mirroring::Way::Memory(memory, 0)),
    };
    bed.mirror(mirroring::Mirrors::new(vec![session], Arc::default()));
}

#[test]
fn frames_of_every_fate_allocate_nothing() {
    let networks = [vlan_network(0, 10), vlan_network(1, 20)];
    let udp_rule = |id| {
        deny(
            id,
            Match {
                src: Some("10.0.0.0/29".parse().expect("a prefix")),
                ..Match::default()
            },
        )
    };
    let limited = StormLimits {
        unknown_pps: Some(1),
        ..StormLimits::default()
    };
    let ports = [
        access(0, 0),
        trunk(1, &[0, 1], None),
        access(2, 0).storm(limited),
        access(3, 0).vnic(
            vnic(mac(3))
                .ipv4("10.0.0.3/32")
                .inbound(Action::Deny, [udp_rule(1)]),
        ),
        access(4, 0).misses_per_turn(4).mac_limit(30),
    ];
    let options = Options {
        cache_entries: 64,
        ..Options::default()
    };
    let mut bed = Bed::with(&model(networks, ports), options);
    // The first turn makes room for what the snapshot may ask for.
    bed.turn();
    let mut frames_judged = 0;
    for round in 0..40 {
        if round == 20 {
            capture(&mut bed, &[0, 1, 2, 3, 4]);
            bed.turn();
        }
        for (port, frame) in frames(round / 2) {
            bed.send(port, &frame);
        }
        frames_judged += run(&mut bed, "frames of every fate");
    }
    assert_eq!(frames_judged, 40 * 70);
    assert!(pmd::allocations::count() > 0, "the allocator is installed");
    assert!(bed.drops().len() > 8, "{:?}", bed.drops());
}
