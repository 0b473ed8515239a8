//! What keeps loops behind ports from the network: spanning tree frames, and addresses that flap.

use policy::{
    DropReason, Mac, PortId,
    model::{MoveLimit, Network, Port, SpanningTree},
};

use crate::bed::{Bed, build::*, frames::*};

const BRIDGES: Mac = Mac([1, 0x80, 0xc2, 0, 0, 0]);
const PROVIDER_BRIDGES: Mac = Mac([1, 0x80, 0xc2, 0, 0, 8]);
const PVST: Mac = Mac([1, 0, 0x0c, 0xcc, 0xcc, 0xcd]);
const LLDP: Mac = Mac([1, 0x80, 0xc2, 0, 0, 0x0e]);

/// Access ports of one network that do so with spanning tree frames.
fn bed(each: &[SpanningTree]) -> Bed {
    let port = |(id, spanning_tree): (u16, &SpanningTree)| Port {
        spanning_tree: *spanning_tree,
        ..access(id, 0)
    };
    Bed::new(&model([network(0)], (0..).zip(each).map(port)))
}

#[test]
fn spanning_tree_frames_pass_only_between_ports_that_pass_them() {
    use SpanningTree::{Disable, Drop, Pass};
    let mut bed = bed(&[Pass, Drop, Pass, Disable]);
    for group in [BRIDGES, PROVIDER_BRIDGES, PVST] {
        for _ in 0..2 {
            assert_eq!(bed.ports_of(0, &plain(group, mac(1))), [2]);
        }
        assert_eq!(bed.dropped(1, &plain(group, mac(2))), (1, DropReason::Bpdu));
    }
    let other = plain(LLDP, mac(1));
    assert_eq!(bed.dropped(0, &other), (0, DropReason::LinkLocalGroup));
    // Whom none is sent to has not sent one.
    assert_eq!(bed.ports_of(0, &plain(BROADCAST, mac(1))), [1, 2, 3]);
}

#[test]
fn the_first_spanning_tree_frame_disables_a_port_for_flows_that_are_cached_too() {
    use SpanningTree::{Disable, Pass};
    let mut bed = bed(&[Disable, Pass, Pass]);
    let (to_0, from_0) = (plain(mac(1), mac(2)), plain(mac(2), mac(1)));
    bed.pass(0, &plain(BROADCAST, mac(1)));
    bed.pass(1, &plain(BROADCAST, mac(2)));
    for _ in 0..2 {
        assert_eq!(bed.ports_of(1, &to_0), [0]);
        assert_eq!(bed.ports_of(0, &from_0), [1]);
    }
    let bpdu = plain(BRIDGES, mac(1));
    assert_eq!(bed.dropped(0, &bpdu), (0, DropReason::BpduGuard));
    let hits = bed.counts(0).cache_hits;
    for _ in 0..3 {
        assert_eq!(bed.dropped(0, &from_0), (0, DropReason::PortDisabled));
        assert_eq!(bed.dropped(1, &to_0), (0, DropReason::PortDown));
        assert_eq!(bed.dropped(0, &bpdu), (0, DropReason::PortDisabled));
    }
    assert!(bed.counts(0).cache_hits > hits, "such drops are cached");
    // What others flood goes to the others.
    let before = bed.drops();
    assert_eq!(bed.ports_of(1, &plain(BROADCAST, mac(2))), [2]);
    assert_eq!(bed.new_drop(&before), (0, DropReason::PortDown));

    let bundle = bed.shared.current.load_full();
    let port = bundle.snapshot.port(PortId(0)).expect("there");
    assert!(bed.shared.bridge.enable(port));
    assert_eq!(bed.ports_of(0, &from_0), [1]);
    assert_eq!(bed.ports_of(1, &to_0), [0]);
    assert_eq!(bed.dropped(0, &bpdu), (0, DropReason::BpduGuard), "again");
    bed.check_conservation();
}

fn flapping(most: u32) -> Bed {
    let network = Network {
        moves: MoveLimit { most, hold_s: 20 },
        ..network(0)
    };
    Bed::new(&model([network], (0..3).map(|id| access(id, 0))))
}

#[test]
fn an_address_that_moves_too_often_stays_where_it_was_for_a_time() {
    let mut bed = flapping(3);
    let frame = plain(BROADCAST, mac(1));
    for port in [0, 1, 0, 1] {
        assert_eq!(bed.pass(port, &frame).len(), 2);
    }
    // It was at port 1 last, and whoever says otherwise is not believed.
    for _ in 0..3 {
        assert_eq!(bed.dropped(0, &frame), (0, DropReason::MacFlapping));
    }
    assert_eq!(bed.dropped(2, &frame), (2, DropReason::MacFlapping));
    assert_eq!(bed.pass(1, &frame).len(), 2);
    let to_it = plain(mac(1), mac(9));
    assert_eq!(bed.ports_of(2, &to_it), [1]);

    let flaps = bed.shared.bridge.take_flaps();
    assert_eq!(flaps.len(), 1, "once told, however many frames");
    let (flap, at) = (flaps[0], |id| PortId(id));
    assert_eq!((flap.port, flap.refused, flap.hold_s), (at(1), at(0), 20));
    let moved = bed.shared.bridge.moved();
    assert_eq!((moved.moves, moved.flaps), (3, 1));
    let held = |bed: &Bed| {
        let rows = bed.shared.bridge.rows(bed.now_s());
        rows.iter().find_map(|row| row.held_s)
    };
    assert_eq!(held(&bed), Some(20));

    bed.advance_ms(20_000);
    assert_eq!(held(&bed), None);
    assert_eq!(bed.pass(0, &frame).len(), 2, "believed again");
    assert_eq!(bed.ports_of(2, &to_it), [0]);
}

#[test]
fn an_address_that_moves_now_and_then_is_believed() {
    let mut bed = flapping(3);
    let frame = plain(BROADCAST, mac(1));
    for round in 0..20 {
        assert_eq!(bed.pass(round % 2, &frame).len(), 2, "{round}");
        bed.advance_ms(4_000);
    }
    assert_eq!(bed.shared.bridge.moved().flaps, 0);
}
