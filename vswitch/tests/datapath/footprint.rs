//! The flow cache may only be a shortcut: with it and without it the same leaves.

use policy::{Mac, model::Action, rule::Match};
use proptest::prelude::*;

use super::universe;
use crate::bed::{Bed, Options, build::*, frames::*};

/// What left where, and the drops, of one frame after the other.
fn outcomes(bed: &mut Bed, arrivals: &[universe::Arrival], cold: bool) -> Vec<(u16, Vec<u8>)> {
    let mut out = Vec::new();
    for arrival in arrivals {
        if cold {
            bed.forget_flows();
        }
        match arrival.beside {
            None => bed.send(arrival.port, &arrival.bytes),
            Some(tci) => bed.send_tagged(arrival.port, &arrival.bytes, tci),
        }
        bed.run();
        out.extend(bed.all_received());
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A footprint mask that left out a bit which some decision reads would show here: two frames
    /// that differ in it would share an entry.
    #[test]
    fn a_cache_changes_nothing(
        model in universe::some_model(),
        arrivals in prop::collection::vec(universe::arrival(), 1..100),
    ) {
        let pairs = arrivals.iter().map(|arrival| [arrival.clone(), arrival.sibling()]);
        let arrivals: Vec<_> = pairs.flatten().collect();
        let bed = || {
            let mut bed = Bed::with(&universe::everything(), Options::default());
            bed.publish(&model);
            bed
        };
        let (mut warm, mut cold) = (bed(), bed());
        let warm_out = outcomes(&mut warm, &arrivals, false);
        let cold_out = outcomes(&mut cold, &arrivals, true);
        prop_assert_eq!(warm_out, cold_out);
        prop_assert_eq!(warm.drops(), cold.drops());
        prop_assert_eq!(warm.ledger(), cold.ledger());
        let hits: u64 = (0..universe::PORTS).map(|port| cold.counts(port).cache_hits).sum();
        prop_assert_eq!(hits, 0);
    }
}

#[test]
fn flows_that_policy_cannot_tell_apart_share_an_entry() {
    let mut bed = Bed::new(&model([network(0)], (0..2).map(|id| access(id, 0))));
    bed.pass(1, &plain(BROADCAST, mac(2)));
    for port in 0..1000 {
        let payload = ipv4(
            [10, 0, (port >> 8) as u8, port as u8],
            [10, 1, 0, 1],
            UDP,
            &udp(port, 53),
        );
        bed.pass(0, &ether(mac(2), mac(1), IPV4, &payload));
    }
    // Nothing reads addresses or ports here.
    assert_eq!(bed.counts(0).cache_misses, 1);
}

#[test]
fn more_flows_than_entries_are_judged_right_all_the_same() {
    let options = Options {
        cache_entries: 16,
        ..Options::default()
    };
    let mut bed = Bed::with(
        &model([network(0)], (0..2).map(|id| access(id, 0))),
        options,
    );
    let source = |n: u8| Mac([2, 0, 0, 0, 1, n]);
    for n in 0..200 {
        bed.pass(1, &plain(BROADCAST, source(n)));
    }
    for _ in 0..3 {
        for n in 0..200 {
            assert_eq!(bed.ports_of(0, &plain(source(n), mac(1))), [1]);
        }
    }
    assert!(bed.workers[0].cache.used() <= 16);
}

/// A trunk of three networks with a guest in each; only guest `reader`'s policy looks at ports.
fn one_reader(reader: u8) -> Bed {
    let rule = deny(
        1,
        Match {
            protocol: Some(UDP),
            dst_ports: vec![501..=501],
            ..Match::default()
        },
    );
    let guest = |n: u8| vnic(mac(n)).inbound(Action::Allow, (n == reader).then(|| rule.clone()));
    let networks = [network(0), vlan_network(1, 10), vlan_network(2, 20)];
    let ports = [
        trunk(0, &[1, 2], Some(0)),
        access(1, 0).vnic(guest(1)),
        access(2, 1).vnic(guest(2)),
        access(3, 2).vnic(guest(3)),
    ];
    Bed::new(&model(networks, ports))
}

#[test]
fn a_trunks_masks_hold_what_the_policies_of_all_its_networks_read() {
    for (reader, tci) in [(1, None), (2, Some(10)), (3, Some(20))] {
        let mut bed = one_reader(reader);
        for port in [500, 501, 502, 500, 501, 502] {
            let packet = ipv4([10, 0, 0, 9], [10, 0, 0, reader], UDP, &udp(1, port));
            let frame = ether(mac(reader), mac(9), IPV4, &packet);
            let frame = tci.map_or(frame.clone(), |tci| tag(&frame, tci));
            let open = port != 501;
            let expected = Vec::from_iter(open.then_some(u16::from(reader)));
            assert_eq!(
                bed.ports_of(0, &frame),
                expected,
                "to {reader}, port {port}"
            );
        }
    }
}
