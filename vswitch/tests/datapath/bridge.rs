//! The learning bridge, as seen from its ports.

use policy::{DropReason, Mac, model::StormLimits};

use crate::bed::{Bed, Options, build::*, frames::*};

/// Three access ports of one network.
fn three() -> Bed {
    Bed::new(&model([network(0)], (0..3).map(|id| access(id, 0))))
}

#[test]
fn an_unknown_destination_is_flooded_to_all_but_the_sender_and_unicast_once_learned() {
    let mut bed = three();
    let frame = plain(mac(2), mac(1));
    assert_eq!(
        bed.pass(0, &frame),
        [(1, frame.clone()), (2, frame.clone())]
    );
    // The answer teaches the bridge where 2 is; 1 it knows.
    assert_eq!(bed.ports_of(1, &plain(mac(1), mac(2))), [0]);
    for _ in 0..3 {
        assert_eq!(bed.pass(0, &frame), [(1, frame.clone())]);
    }
    assert_eq!(bed.counts(0).cache_hits, 2);
}

#[test]
fn groups_are_flooded_and_the_frame_arrives_as_it_was_sent() {
    let mut bed = three();
    for dst in [BROADCAST, Mac([0x33, 0x33, 0, 0, 0, 1])] {
        for _ in 0..2 {
            let frame = plain(dst, mac(1));
            assert_eq!(
                bed.pass(2, &frame),
                [(0, frame.clone()), (1, frame.clone())]
            );
        }
    }
    assert_eq!(bed.counts(2).replicas, 4);
}

#[test]
fn networks_are_separate_even_with_the_same_addresses() {
    let ports = [access(0, 0), access(1, 0), access(2, 1), access(3, 1)];
    let mut bed = Bed::new(&model([network(0), network(1)], ports));
    assert_eq!(bed.ports_of(0, &plain(BROADCAST, mac(1))), [1]);
    assert_eq!(bed.ports_of(2, &plain(BROADCAST, mac(1))), [3]);
    assert_eq!(bed.ports_of(1, &plain(mac(1), mac(9))), [0]);
    assert_eq!(bed.ports_of(3, &plain(mac(1), mac(9))), [2]);
}

#[test]
fn a_move_takes_effect_on_cached_flows_at_once() {
    let mut bed = three();
    let to_1 = plain(mac(1), mac(3));
    bed.pass(0, &plain(BROADCAST, mac(1)));
    for _ in 0..3 {
        assert_eq!(bed.ports_of(2, &to_1), [0]);
    }
    let hits = bed.counts(2).cache_hits;
    assert!(hits > 0, "the flow was cached");
    bed.pass(1, &plain(BROADCAST, mac(1)));
    assert_eq!(bed.ports_of(2, &to_1), [1]);
    assert_eq!(bed.counts(2).cache_hits, hits);
    assert_eq!(bed.shared.bridge.moved().moves, 1);
}

#[test]
fn an_address_learned_after_floods_to_it_takes_effect_on_cached_floods_at_once() {
    let options = Options {
        workers: 2,
        ..Options::default()
    };
    let mut bed = Bed::with(
        &model([network(0)], (0..3).map(|id| access(id, 0))),
        options,
    );
    let unknown = plain(mac(2), mac(1));
    for _ in 0..3 {
        assert_eq!(bed.ports_of(0, &unknown), [1, 2]);
    }
    assert_eq!(bed.counts(0).cache_hits, 2);
    // The other worker hears the address.
    bed.pass(1, &plain(BROADCAST, mac(2)));
    assert_eq!(bed.ports_of(0, &unknown), [1]);
    // More unknown addresses than a network remembers are flooded and found all the same.
    let address = |n: u16| {
        let [high, low] = n.to_be_bytes();
        Mac([2, 0, 0, 1, high, low])
    };
    for n in 0..300 {
        assert_eq!(bed.ports_of(0, &plain(address(n), mac(1))), [1, 2]);
    }
    for n in (0..300).rev() {
        bed.pass(2, &plain(BROADCAST, address(n)));
        assert_eq!(bed.ports_of(0, &plain(address(n), mac(1))), [2], "{n}");
    }
}

#[test]
fn two_workers_share_what_they_learn() {
    let mut bed = Bed::with(
        &model([network(0)], (0..3).map(|id| access(id, 0))),
        Options {
            workers: 2,
            ..Options::default()
        },
    );
    bed.pass(1, &plain(BROADCAST, mac(1)));
    let to_1 = plain(mac(1), mac(3));
    assert_eq!(bed.ports_of(0, &to_1), [1]);
    assert_eq!(bed.ports_of(0, &to_1), [1]);
    // The other worker sees the move; this one's cache follows.
    bed.pass(2, &plain(BROADCAST, mac(1)));
    assert_eq!(bed.ports_of(0, &to_1), [2]);
}

#[test]
fn an_address_that_is_silent_for_the_ageing_time_is_forgotten() {
    let mut bed = three();
    bed.pass(1, &plain(BROADCAST, mac(2)));
    let to_2 = plain(mac(2), mac(1));
    assert_eq!(bed.ports_of(0, &to_2), [1]);
    assert_eq!(bed.ports_of(0, &to_2), [1]);
    bed.advance_ms(299_000);
    // The sender of the cached flow is seen again, the other is not.
    assert_eq!(bed.ports_of(0, &to_2), [1]);
    bed.advance_ms(3_000);
    assert_eq!(bed.shared.bridge.age(bed.now_s()), 1);
    assert_eq!(bed.ports_of(0, &to_2), [1, 2], "flooded again");
    assert_eq!(bed.ports_of(1, &plain(mac(1), mac(2))), [0], "still known");
}

#[test]
fn a_port_that_goes_down_is_forgotten() {
    let mut bed = three();
    bed.pass(1, &plain(BROADCAST, mac(2)));
    let to_2 = plain(mac(2), mac(1));
    assert_eq!(bed.ports_of(0, &to_2), [1]);
    assert_eq!(bed.ports_of(0, &to_2), [1]);
    assert_eq!(bed.shared.bridge.forget_port(policy::PortId(1)), 1);
    assert_eq!(bed.ports_of(0, &to_2), [1, 2]);
}

#[test]
fn a_port_learns_no_more_than_its_limit() {
    let ports = [access(0, 0).mac_limit(2), access(1, 0)];
    let mut bed = Bed::new(&model([network(0)], ports));
    for n in 1..=2 {
        assert_eq!(bed.ports_of(0, &plain(BROADCAST, mac(n))), [1]);
    }
    let third = plain(BROADCAST, mac(3));
    assert_eq!(bed.dropped(0, &third), (0, DropReason::MacLimitPort));
    assert_eq!(bed.ports_of(0, &plain(BROADCAST, mac(1))), [1]);
    // An address less: the next may come.
    bed.pass(1, &plain(BROADCAST, mac(1)));
    assert_eq!(bed.ports_of(0, &third), [1]);
}

#[test]
fn a_ports_limit_is_over_all_its_networks() {
    let networks = [vlan_network(0, 10), vlan_network(1, 20)];
    let ports = [
        trunk(0, &[0, 1], None).mac_limit(2),
        access(1, 0),
        access(2, 1),
    ];
    let mut bed = Bed::new(&model(networks, ports));
    assert_eq!(bed.ports_of(0, &tag(&plain(BROADCAST, mac(1)), 10)), [1]);
    assert_eq!(bed.ports_of(0, &tag(&plain(BROADCAST, mac(1)), 20)), [2]);
    let third = tag(&plain(BROADCAST, mac(2)), 10);
    assert_eq!(bed.dropped(0, &third), (0, DropReason::MacLimitPort));
}

#[test]
fn a_network_learns_no_more_than_its_limit_and_moves_stay_possible() {
    let net = policy::model::Network {
        mac_limit: 2,
        ..network(0)
    };
    let mut bed = Bed::new(&model([net], (0..3).map(|id| access(id, 0))));
    bed.pass(0, &plain(BROADCAST, mac(1)));
    bed.pass(1, &plain(BROADCAST, mac(2)));
    let third = plain(BROADCAST, mac(3));
    assert_eq!(bed.dropped(2, &third), (2, DropReason::MacLimitNetwork));
    assert_eq!(bed.ports_of(2, &plain(mac(1), mac(2))), [0], "2 moved");
    bed.advance_ms(302_000);
    bed.shared.bridge.age(bed.now_s());
    assert_eq!(bed.ports_of(2, &third), [0, 1]);
}

#[test]
fn link_local_groups_and_group_sources_are_not_forwarded() {
    let mut bed = three();
    for last in [0x01, 0x03, 0x0e, 0x0f] {
        let frame = plain(Mac([1, 0x80, 0xc2, 0, 0, last]), mac(1));
        assert_eq!(bed.dropped(0, &frame), (0, DropReason::LinkLocalGroup));
    }
    let beyond = plain(Mac([1, 0x80, 0xc2, 0, 0, 0x10]), mac(1));
    assert_eq!(bed.ports_of(0, &beyond), [1, 2]);
    for source in [BROADCAST, Mac([3, 0, 0, 0, 0, 1])] {
        let frame = plain(mac(2), source);
        assert_eq!(bed.dropped(0, &frame), (0, DropReason::GroupSource));
    }
}

#[test]
fn frames_shorter_than_an_ethernet_header_are_runts() {
    let mut bed = three();
    let frame = plain(mac(2), mac(1));
    for len in 0..14 {
        assert_eq!(bed.dropped(0, &frame[..len]), (0, DropReason::Runt));
    }
    assert_eq!(bed.ports_of(0, &frame[..14]), [1, 2]);
    // A tag that is cut off says nothing of its network.
    let tagged = tag(&frame, 10);
    for len in 14..18 {
        assert_eq!(bed.dropped(0, &tagged[..len]), (0, DropReason::Runt));
    }
}

#[test]
fn isolated_ports_reach_only_ports_that_are_not() {
    let ports = [
        access(0, 0).isolated(),
        access(1, 0).isolated(),
        access(2, 0),
    ];
    let mut bed = Bed::new(&model([network(0)], ports));
    assert_eq!(bed.ports_of(0, &plain(BROADCAST, mac(1))), [2]);
    assert_eq!(bed.ports_of(1, &plain(BROADCAST, mac(2))), [2]);
    assert_eq!(bed.ports_of(2, &plain(BROADCAST, mac(3))), [0, 1]);
    assert_eq!(bed.ports_of(0, &plain(mac(9), mac(1))), [2], "unknown");
    let between = plain(mac(2), mac(1));
    for _ in 0..2 {
        assert_eq!(bed.dropped(0, &between), (0, DropReason::Isolated));
    }
    assert_eq!(bed.ports_of(0, &plain(mac(3), mac(1))), [2]);
    assert_eq!(bed.ports_of(2, &plain(mac(1), mac(3))), [0]);
}

#[test]
fn isolated_ports_alone_have_no_destination() {
    let ports = [access(0, 0).isolated(), access(1, 0).isolated()];
    let mut bed = Bed::new(&model([network(0)], ports));
    for _ in 0..2 {
        let frame = plain(BROADCAST, mac(1));
        assert_eq!(bed.dropped(0, &frame), (0, DropReason::NoDestination));
    }
}

#[test]
fn a_port_alone_in_its_network_has_no_destination() {
    let mut bed = Bed::new(&model([network(0)], [access(0, 0)]));
    for dst in [BROADCAST, mac(2)] {
        let frame = plain(dst, mac(1));
        assert_eq!(bed.dropped(0, &frame), (0, DropReason::NoDestination));
    }
}

#[test]
fn a_frame_never_leaves_where_it_came_in() {
    let mut bed = three();
    bed.pass(0, &plain(BROADCAST, mac(1)));
    bed.pass(0, &plain(BROADCAST, mac(2)));
    let frame = plain(mac(2), mac(1));
    for _ in 0..2 {
        assert_eq!(bed.dropped(0, &frame), (0, DropReason::SamePort));
    }
    // To itself as well.
    let frame = plain(mac(1), mac(1));
    assert_eq!(bed.dropped(0, &frame), (0, DropReason::SamePort));
}

#[test]
fn a_vnics_address_cannot_be_learned_elsewhere() {
    let ports = [access(0, 0).vnic(vnic(mac(1))), access(1, 0), access(2, 0)];
    let mut bed = Bed::new(&model([network(0)], ports));
    // It is known before it ever sent.
    assert_eq!(bed.ports_of(1, &plain(mac(1), mac(2))), [0]);
    let stolen = plain(BROADCAST, mac(1));
    for _ in 0..2 {
        assert_eq!(bed.dropped(2, &stolen), (2, DropReason::MacOwned));
    }
    assert_eq!(bed.ports_of(1, &plain(mac(1), mac(2))), [0]);
    // Nor does it age.
    bed.advance_ms(1_000_000);
    bed.shared.bridge.age(bed.now_s());
    assert_eq!(bed.ports_of(1, &plain(mac(1), mac(2))), [0]);
}

#[test]
fn a_vnic_takes_its_address_from_whoever_had_learned_it() {
    let before = model([network(0)], (0..3).map(|id| access(id, 0)));
    let mut after = before.clone();
    after.ports[0].vnic = Some(vnic(mac(1)));
    let mut bed = Bed::new(&before);
    bed.pass(1, &plain(BROADCAST, mac(1)));
    let to_1 = plain(mac(1), mac(3));
    assert_eq!(bed.ports_of(2, &to_1), [1]);
    bed.publish(&after);
    assert_eq!(bed.ports_of(2, &to_1), [0]);
    // And gives it back.
    bed.publish(&before);
    assert_eq!(bed.ports_of(2, &to_1), [0, 1]);
    bed.pass(1, &plain(BROADCAST, mac(1)));
    assert_eq!(bed.ports_of(2, &to_1), [1]);
}

#[test]
fn an_address_at_a_port_that_left_the_network_is_unknown() {
    let networks = || [network(0), network(1)];
    let before = model(networks(), (0..3).map(|id| access(id, 0)));
    let after = model(networks(), [access(0, 0), access(1, 1), access(2, 0)]);
    let mut bed = Bed::new(&before);
    bed.pass(1, &plain(BROADCAST, mac(2)));
    assert_eq!(bed.ports_of(0, &plain(mac(2), mac(1))), [1]);
    bed.publish(&after);
    assert_eq!(bed.ports_of(0, &plain(mac(2), mac(1))), [2]);
}

#[test]
fn an_address_learned_while_its_port_is_leaving_is_unknown() {
    let networks = || [network(0), network(1)];
    let before = model(networks(), (0..3).map(|id| access(id, 0)));
    let after = model(networks(), [access(0, 0), access(1, 1), access(2, 0)]);
    let mut bed = Bed::new(&before);
    let snapshot = bed.prepare(&after);
    // The tables are ready for what is to come, the worker does not know of it yet.
    bed.pass(1, &plain(BROADCAST, mac(2)));
    bed.put_in_force(snapshot);
    for _ in 0..2 {
        assert_eq!(bed.ports_of(0, &plain(mac(2), mac(1))), [2]);
    }
}

/// Sends `count` frames within one turn's time and returns how many came out.
fn flood(bed: &mut Bed, dst: Mac, count: usize) -> usize {
    for _ in 0..count {
        bed.send(0, &plain(dst, mac(1)));
        bed.run();
    }
    bed.all_received().len()
}

#[test]
fn each_kind_of_flood_has_its_limit_and_its_reason() {
    let limit = Some(100);
    let kinds = [
        (
            BROADCAST,
            DropReason::StormBroadcast,
            StormLimits {
                broadcast_pps: limit,
                ..StormLimits::default()
            },
        ),
        (
            Mac([0x33, 0x33, 0, 0, 0, 1]),
            DropReason::StormMulticast,
            StormLimits {
                multicast_pps: limit,
                ..StormLimits::default()
            },
        ),
        (
            mac(99),
            DropReason::StormUnknown,
            StormLimits {
                unknown_pps: limit,
                ..StormLimits::default()
            },
        ),
    ];
    for (dst, reason, limits) in kinds {
        let ports = [access(0, 0).storm(limits), access(1, 0)];
        let mut bed = Bed::new(&model([network(0)], ports));
        // A tenth of a second's worth passes at once, and the frame that is due.
        assert_eq!(flood(&mut bed, dst, 100), 11, "{reason}");
        assert_eq!(bed.counts(0).dropped(reason), 89);
        bed.advance_ms(1_000);
        assert_eq!(flood(&mut bed, dst, 100), 11);
        let mut passed = 0;
        for _ in 0..100 {
            bed.advance_ms(10);
            passed += flood(&mut bed, dst, 3);
        }
        assert!((99..=101).contains(&passed), "{passed} in one second");
        // The other kinds, and known addresses, have no limit here.
        for (other, other_reason, _) in kinds {
            if other_reason != reason {
                assert_eq!(flood(&mut bed, other, 50), 50);
            }
        }
        bed.send(1, &plain(mac(1), mac(2)));
        bed.run();
        bed.all_received();
        assert_eq!(flood(&mut bed, mac(2), 50), 50);
    }
}

#[test]
fn a_full_queue_costs_only_the_frames_that_find_it_full() {
    let mut bed = three();
    for _ in 0..3 {
        for _ in 0..64 {
            bed.send(0, &plain(BROADCAST, mac(1)));
        }
        while bed.turn() > 0 {}
    }
    // 192 frames, 128 slots, nobody drained.
    for port in [1, 2] {
        assert_eq!(bed.counts(port).dropped(DropReason::TxFull), 64);
        assert_eq!(bed.counts(port).tx_frames, 128);
    }
}

#[test]
fn a_port_without_a_queue_is_down_and_only_that_one() {
    let mut bed = three();
    bed.detach(1);
    assert_eq!(bed.ports_of(0, &plain(BROADCAST, mac(1))), [2]);
    assert_eq!(bed.counts(1).dropped(DropReason::PortDown), 1);
}

#[test]
fn a_frame_too_long_for_a_port_is_too_big_there_and_only_there() {
    let ports = [access(0, 0), access(1, 0), trunk(2, &[0], None)];
    let mut bed = Bed::new(&model([vlan_network(0, 10)], ports));
    // 512 bytes fit; with a tag they do not.
    let longest = ether(BROADCAST, mac(1), 0x88b5, &[7; 498]);
    assert_eq!(bed.pass(0, &longest), [(1, longest.clone())]);
    assert_eq!(bed.counts(2).dropped(DropReason::TooBig), 1);
}
