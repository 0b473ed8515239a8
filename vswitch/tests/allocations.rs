//! Nothing allocates in a turn: hits, misses, floods, drops of every kind, new addresses and new
//! rows of the ledger included. A program of its own, because it counts a whole process.

#[allow(dead_code, reason = "the bed serves other test programs too")]
mod bed;

use policy::model::{Action, StormLimits};
use policy::rule::Match;

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

#[test]
fn a_turn_allocates_nothing() {
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
    bed.run();
    let mut frames_judged = 0;
    for round in 0..40 {
        for (port, frame) in frames(round / 2) {
            bed.send(port, &frame);
        }
        loop {
            let before = pmd::allocations::count();
            let frames = bed.turn();
            assert_eq!(pmd::allocations::count(), before, "in round {round}");
            bed.collect();
            frames_judged += frames;
            if frames == 0 {
                break;
            }
        }
    }
    assert_eq!(frames_judged, 40 * 70);
    assert!(pmd::allocations::count() > 0, "the allocator is installed");
    assert!(bed.drops().len() > 8, "{:?}", bed.drops());
}
