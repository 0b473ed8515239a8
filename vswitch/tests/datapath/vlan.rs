//! VLANs: which frames a port may send, and exactly what leaves.

use policy::DropReason;

use crate::bed::{Bed, build::*, frames::*};

/// VLAN 10 and 20; network 2 has no VLAN and is native on the second trunk.
///
/// | port | attachment |
/// |---|---|
/// | 0, 1 | access to 10 |
/// | 2 | access to 20 |
/// | 3 | trunk of 10 and 20, nothing native |
/// | 4 | trunk of 20, native 10 |
fn switch() -> Bed {
    let networks = [vlan_network(0, 10), vlan_network(1, 20)];
    let ports = [
        access(0, 0),
        access(1, 0),
        access(2, 1),
        trunk(3, &[0, 1], None),
        trunk(4, &[1], Some(0)),
    ];
    Bed::new(&model(networks, ports))
}

/// How a frame may carry its tag.
#[derive(Clone, Copy, Debug)]
enum Tag {
    Absent,
    InFrame(u16),
    Beside(u16),
}

fn send(bed: &mut Bed, port: u16, frame: &[u8], how: Tag) -> Vec<(u16, Vec<u8>)> {
    match how {
        Tag::Absent => bed.send(port, frame),
        Tag::InFrame(tci) => bed.send(port, &tag(frame, tci)),
        Tag::Beside(tci) => bed.send_tagged(port, frame, tci),
    }
    bed.run();
    bed.all_received()
}

/// Ports and the TCI that a frame leaves there with.
type Exits = &'static [(u16, Option<u16>)];

#[test]
fn every_way_in_and_every_way_out() {
    use Tag::{Absent, Beside, InFrame};
    let mut bed = switch();
    let frame = plain(BROADCAST, mac(1));
    // Where it goes in, how; where it comes out, and the TCI it has there.
    let cases: &[(u16, Tag, Exits)] = &[
        (0, Absent, &[(1, None), (3, Some(10)), (4, None)]),
        // A priority tag counts as none; its priority stays where there is a tag to hold it.
        (
            0,
            InFrame(0xa000),
            &[(1, None), (3, Some(0xa00a)), (4, None)],
        ),
        (
            0,
            Beside(0xa000),
            &[(1, None), (3, Some(0xa00a)), (4, None)],
        ),
        (2, Absent, &[(3, Some(20)), (4, Some(20))]),
        (2, InFrame(0xb000), &[(3, Some(0xb014)), (4, Some(0xb014))]),
        (2, Beside(0xb000), &[(3, Some(0xb014)), (4, Some(0xb014))]),
        (3, InFrame(10), &[(0, None), (1, None), (4, None)]),
        (3, Beside(10), &[(0, None), (1, None), (4, None)]),
        (3, InFrame(0xf00a), &[(0, None), (1, None), (4, None)]),
        (3, InFrame(0xe014), &[(2, None), (4, Some(0xe014))]),
        (3, Beside(0xe014), &[(2, None), (4, Some(0xe014))]),
        (4, Absent, &[(0, None), (1, None), (3, Some(10))]),
        (
            4,
            InFrame(0x6000),
            &[(0, None), (1, None), (3, Some(0x600a))],
        ),
        (
            4,
            Beside(0x6000),
            &[(0, None), (1, None), (3, Some(0x600a))],
        ),
        (4, InFrame(0x3014), &[(2, None), (3, Some(0x3014))]),
        (4, Beside(0x3014), &[(2, None), (3, Some(0x3014))]),
    ];
    // The second round meets the flow cache.
    for _ in 0..2 {
        for (port, how, expected) in cases {
            let expected: Vec<_> = expected
                .iter()
                .map(|(port, tci)| (*port, tci.map_or(frame.clone(), |tci| tag(&frame, tci))))
                .collect();
            let passed = send(&mut bed, *port, &frame, *how);
            assert_eq!(passed, expected, "into {port} with {how:?}");
        }
    }
}

#[test]
fn a_frame_a_port_may_not_send_is_refused() {
    let mut bed = switch();
    let frame = plain(BROADCAST, mac(1));
    let refused = DropReason::VlanNotAllowed;
    for (port, vid, reason) in [
        (0, 10, refused),
        (0, 20, refused),
        (0, 4095, refused),
        (3, 30, refused),
        (3, 4095, refused),
        (3, 0, DropReason::UntaggedNotAllowed),
        // Native frames come without a tag.
        (4, 10, refused),
    ] {
        for _ in 0..2 {
            let in_frame = tag(&frame, 0xe000 | vid);
            assert_eq!(bed.dropped(port, &in_frame), (port, reason), "VLAN {vid}");
            let before = bed.drops();
            let passed = send(&mut bed, port, &frame, Tag::Beside(0xe000 | vid));
            assert!(passed.is_empty());
            assert_eq!(bed.new_drop(&before), (port, reason), "VLAN {vid} beside");
        }
    }
    assert_eq!(bed.dropped(3, &frame), (3, DropReason::UntaggedNotAllowed));
}

#[test]
fn the_priority_of_each_frame_of_a_flow_is_its_own() {
    let mut bed = switch();
    send(&mut bed, 4, &plain(BROADCAST, mac(9)), Tag::InFrame(20));
    let frame = plain(mac(9), mac(1));
    for (round, priority) in [0x0000, 0xe000, 0x1000, 0x8000].into_iter().enumerate() {
        let out = [(4, tag(&frame, priority | 0x014))];
        assert_eq!(
            send(&mut bed, 3, &frame, Tag::InFrame(priority | 0x014)),
            out
        );
        assert_eq!(
            send(&mut bed, 3, &frame, Tag::Beside(priority | 0x014)),
            out
        );
        let hits = bed.counts(3).cache_hits as usize;
        assert_eq!(hits, 2 * round + 1, "one flow");
    }
}

#[test]
fn a_service_tag_is_a_tag() {
    let mut bed = switch();
    let frame = plain(BROADCAST, mac(1));
    let sent = tag_as(&frame, 0x88a8, 0x2014);
    // Where the tag need not change the frame leaves as it came.
    assert_eq!(bed.pass(3, &sent), [(2, frame.clone()), (4, sent.clone())]);
    assert_eq!(bed.dropped(0, &sent), (0, DropReason::VlanNotAllowed));
}

#[test]
fn a_nested_tag_leaves_only_behind_an_outer_one() {
    let mut bed = switch();
    let frame = plain(BROADCAST, mac(1));
    let inner = tag(&frame, 0x4123);
    // Untagged at port 2 it would pass for a frame of the inner tag's VLAN.
    let expected = [(4, tag(&inner, 20))];
    assert_eq!(bed.pass(3, &tag(&inner, 20)), expected);
    assert_eq!(send(&mut bed, 3, &inner, Tag::Beside(20)), expected);
    let dropped = bed.counts(2).dropped(DropReason::NestedUntagged);
    assert_eq!(dropped, 2);
}

#[test]
fn no_tag_can_be_smuggled_behind_a_priority_tag() {
    let mut bed = switch();
    // Stripped of its priority tag the frame would leave port 4 tagged for another network.
    let inner = tag(&plain(BROADCAST, mac(1)), 20);
    for port in [0, 4] {
        let frame = tag(&inner, 0xe000);
        assert_eq!(bed.dropped(port, &frame), (port, DropReason::VlanNested));
        let before = bed.drops();
        assert!(send(&mut bed, port, &inner, Tag::Beside(0)).is_empty());
        assert_eq!(bed.new_drop(&before), (port, DropReason::VlanNested));
    }
}

#[test]
fn a_vnic_may_not_nest_tags() {
    let networks = [vlan_network(0, 10)];
    let ports = [
        trunk(0, &[0], None).vnic(vnic(mac(1))),
        access(1, 0),
        access(2, 0).vnic(vnic(mac(2))),
    ];
    let mut bed = Bed::new(&model(networks, ports));
    let frame = plain(BROADCAST, mac(1));
    assert_eq!(bed.pass(0, &tag(&frame, 10)).len(), 2);
    let nested = tag(&tag(&frame, 10), 10);
    assert_eq!(bed.dropped(0, &nested), (0, DropReason::VlanNested));
    let own = plain(BROADCAST, mac(2));
    assert_eq!(
        bed.dropped(2, &tag(&own, 10)),
        (2, DropReason::VlanNotAllowed)
    );
}

#[test]
fn a_burst_that_needs_more_prefixes_than_there_are_leaves_whole_and_in_order() {
    let ports = (1..=9).map(|id| trunk(id, &[0], None));
    let networks = [vlan_network(0, 10)];
    let mut bed = Bed::new(&model(networks, ports.chain([access(0, 0)])));
    let frames: Vec<_> = (0..64u8)
        .map(|n| ether(BROADCAST, mac(1), 0x88b5, &[n; 60]))
        .collect();
    for frame in &frames {
        bed.send(0, frame);
    }
    bed.run();
    for port in 1..=9 {
        let expected: Vec<_> = frames.iter().map(|frame| tag(frame, 10)).collect();
        assert_eq!(bed.received(port), expected, "port {port}");
    }
}
