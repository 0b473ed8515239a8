//! Mirror sessions: copies of what passes mirrored ports leave by the tunnel's port, and the originals
//! know nothing of it.

use std::{
    num::NonZeroU32,
    sync::{Arc, atomic::AtomicU32},
};

use mirror::{
    session::{
        Directions, Limits, Rate, Ready, Role, Sampling, Session as Wanted, Skip, Source,
        SourceFacts,
    },
    wire::{
        Addresses, Carrier, Decoded, Granularity, Header, Link, Oversize, SessionId, Tunnel, Vni,
        decode,
    },
};
use pmd::memory;
use policy::{
    DropReason, Mac, PortId, RuleId, VlanId,
    model::{Action, Model},
    rule::{Match, Origin, Rule, RuleList, Sets, WrittenRule},
};
use vswitch::mirroring::{Mirrors, Session, SessionShared, Way};

use crate::bed::{Bed, Options, build::*, frames::*};

/// Where copies leave.
const TUNNEL: u16 = 3;
const DECAPSULATOR: Mac = mac(0xd0);

fn v4() -> Addresses {
    Addresses::V4 {
        source: [192, 0, 2, 1].into(),
        destination: [192, 0, 2, 9].into(),
    }
}

fn v6() -> Addresses {
    let address = |text: &str| text.parse().expect("an address");
    Addresses::V6 {
        source: address("2001:db8::1"),
        destination: address("2001:db8::9"),
    }
}

fn erspan_ii(session: u16) -> Carrier {
    Carrier::ErspanII {
        session: SessionId::new(session).expect("10 bits"),
        index: 0,
    }
}

fn carriers() -> [Carrier; 5] {
    let session = SessionId::new(7).expect("10 bits");
    [
        Carrier::ErspanI,
        erspan_ii(7),
        Carrier::ErspanIII {
            session,
            granularity: Granularity::Nanoseconds100,
            hardware: 0,
            sequence: true,
            port: Some(1),
        },
        Carrier::Ethernet {
            key: Some(7),
            sequence: true,
        },
        Carrier::Vxlan {
            vni: Vni::new(7).expect("24 bits"),
        },
    ]
}

fn tunnel(addresses: Addresses, carrier: Carrier) -> Tunnel {
    Tunnel {
        link: Link {
            destination: DECAPSULATOR,
            source: mac(0xd1),
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

/// What a tenant asks for unless a test says otherwise: all that passes, by ERSPAN type II.
pub(crate) fn wanted() -> Wanted {
    Wanted {
        name: "look".into(),
        owner: "tenant".into(),
        source: Source::Port("port0".into()),
        directions: Directions::Both,
        filter: RuleList::default(),
        rejected: false,
        truncate_bytes: None,
        sampling: Sampling::All,
        limits: Limits::default(),
        priority: 100,
        lease_until_s: None,
        tunnel: Some(tunnel(v4(), erspan_ii(7))),
    }
}

pub(crate) fn ready(wanted: &Wanted) -> Ready {
    let facts = SourceFacts {
        tenant: "tenant".into(),
        role: Role::Ordinary,
    };
    wanted.prepare(Some(&facts), None).expect("a sound session")
}

fn in_force(wanted: &Wanted, slot: usize, ports: &[u16]) -> Session {
    Session {
        ready: ready(wanted),
        shared: Arc::new(SessionShared::new(2, 0x5eed)),
        slot,
        ports: ports.iter().copied().map(PortId).collect(),
        way: Some(Way::Port(PortId(TUNNEL))),
    }
}

/// Puts one session in force that taps `ports`.
fn mirror(bed: &mut Bed, wanted: &Wanted, ports: &[u16]) -> Session {
    let session = in_force(wanted, 0, ports);
    put(bed, vec![session.clone()]);
    session
}

pub(crate) fn put(bed: &mut Bed, sessions: Vec<Session>) {
    bed.mirror(Mirrors::new(sessions, Arc::new(AtomicU32::new(0))));
}

/// What a session counted: wanted, copied, and skips.
pub(crate) fn counts(session: &Session) -> (u64, u64, Vec<(Skip, u64)>) {
    let workers = || session.shared.counters.iter();
    let wanted = workers().map(|c| c.wanted.get()).sum();
    let copied = workers().map(|c| c.copied.get()).sum();
    let skipped = |skip: &Skip| -> u64 { workers().map(|c| c.skipped[*skip as usize].get()).sum() };
    let skips: Vec<_> = Skip::ALL
        .iter()
        .map(|skip| (*skip, skipped(skip)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let all: u64 = skips.iter().map(|(_, count)| count).sum();
    assert_eq!(wanted, copied + all, "{skips:?}");
    (wanted, copied, skips)
}

/// Two VMs (ports 0 and 1), a stranger (port 2) and the tunnel (port 3), each in its place.
pub(crate) fn world() -> Model {
    let one = vnic(mac(1)).ipv4("10.0.0.1/32").ipv6("fd00::1/128");
    let two = vnic(mac(2)).ipv4("10.0.0.2/32").ipv6("fd00::2/128");
    let two = two.inbound(Action::Allow, [deny(1, to_port(99))]);
    let one = one.outbound(Action::Allow, [deny(2, to_port(98))]);
    model(
        [network(0), network(1)],
        [
            access(0, 0).vnic(one),
            access(1, 0).vnic(two),
            access(2, 0),
            access(TUNNEL, 1),
        ],
    )
}

fn to_port(port: u16) -> Match {
    Match {
        protocol: Some(UDP),
        dst_ports: vec![port..=port],
        ..Match::default()
    }
}

fn options() -> Options {
    Options {
        port: memory::Config {
            slots: 256,
            max_frame_bytes: 4096,
            ..memory::Config::default()
        },
        ..Options::default()
    }
}

pub(crate) fn bed() -> Bed {
    let mut bed = Bed::with(&world(), options());
    // Everybody is known.
    for (port, who) in [(0, mac(1)), (1, mac(2))] {
        bed.pass(port, &ether(BROADCAST, who, 0x88b5, &[0; 46]));
    }
    bed
}

/// A datagram of VM 1 to VM 2.
pub(crate) fn datagram(to: u16, len: usize) -> Vec<u8> {
    let mut payload = vec![0x5a; len];
    payload[..12].copy_from_slice(&udp(1000, to));
    payload[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    ether(
        mac(2),
        mac(1),
        IPV4,
        &ipv4([10, 0, 0, 1], [10, 0, 0, 2], UDP, &payload),
    )
}

pub(crate) fn answer(len: usize) -> Vec<u8> {
    let mut frame = datagram(5, len);
    frame[..12].copy_from_slice(&[mac(1).0, mac(2).0].concat());
    frame[26..34].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);
    frame
}

fn decoded(copy: &[u8]) -> (Decoded, Vec<u8>) {
    let decoded = decode(copy).expect("a copy");
    let inner = copy[decoded.inner.clone()].to_vec();
    (decoded, inner)
}

fn inner(copies: &[Vec<u8>]) -> Vec<Vec<u8>> {
    copies.iter().map(|copy| decoded(copy).1).collect()
}

#[test]
fn copies_are_byte_exact_in_every_format_over_both_families() {
    for addresses in [v4(), v6()] {
        for carrier in carriers() {
            let mut bed = bed();
            let wanted = Wanted {
                tunnel: Some(tunnel(addresses, carrier)),
                ..wanted()
            };
            let session = mirror(&mut bed, &wanted, &[0]);
            let frames = (0..5).flat_map(|n| [(datagram(80 + n, 60), false), (answer(70), true)]);
            for (frame, egress) in frames {
                bed.send(u16::from(egress), &frame);
                bed.run();
                let all = bed.all_received();
                let original = all.iter().find(|(port, _)| *port != TUNNEL);
                assert_eq!(original.map(|(_, bytes)| bytes), Some(&frame));
                let copies: Vec<_> = all.iter().filter(|(port, _)| *port == TUNNEL).collect();
                let [(_, copy)] = copies[..] else {
                    panic!("{carrier:?}: one copy");
                };
                assert_eq!(copy[..12], [DECAPSULATOR.0, mac(0xd1).0].concat());
                let (decoded, inner) = decoded(copy);
                assert_eq!(inner, frame, "{carrier:?}");
                assert_eq!(
                    decoded.identity,
                    session.ready.template.as_ref().expect("one").identity()
                );
                if matches!(decoded.header, Header::TypeIII(_)) {
                    assert_eq!(decoded.header.egress(), Some(egress));
                }
            }
            assert_eq!(counts(&session), (10, 10, vec![]));
        }
    }
}

#[test]
fn copies_come_in_order_and_are_numbered_without_a_gap() {
    let mut bed = bed();
    let session = mirror(&mut bed, &wanted(), &[0]);
    bed.pass(0, &datagram(1, 60));
    for _ in 0..3 {
        for number in 0..50 {
            bed.send(0, &datagram(1, 60 + number));
        }
        bed.run();
    }
    let copies = bed.received(TUNNEL);
    assert_eq!(copies.len(), 150);
    for (number, copy) in copies.iter().enumerate() {
        let (decoded, inner) = decoded(copy);
        assert_eq!(inner, datagram(1, 60 + number % 50));
        assert_eq!(decoded.sequence, Some(1 + number as u32));
    }
    let bytes: u64 = session.shared.counters[0].bytes.get();
    let sent: usize = copies.iter().map(Vec::len).sum();
    assert_eq!(bytes, sent as u64 + (50 + 14 + 20 + 60));
    assert_eq!(counts(&session), (151, 151, vec![]));
}

#[test]
fn directions_are_as_the_vm_sees_them() {
    for (directions, copies) in [
        (Directions::Out, vec![datagram(1, 60)]),
        (Directions::In, vec![answer(60)]),
        (Directions::Both, vec![datagram(1, 60), answer(60)]),
    ] {
        let mut bed = bed();
        let wanted = Wanted {
            directions,
            ..wanted()
        };
        mirror(&mut bed, &wanted, &[0]);
        bed.send(0, &datagram(1, 60));
        bed.send(1, &answer(60));
        bed.run();
        assert_eq!(inner(&bed.received(TUNNEL)), copies, "{directions:?}");
        assert_eq!(bed.received(1), [datagram(1, 60)]);
        assert_eq!(bed.received(0), [answer(60)]);
    }
}

#[test]
fn a_session_is_in_force_for_live_flows_at_the_next_burst_and_costs_them_no_miss() {
    let mut bed = bed();
    bed.pass(0, &datagram(1, 60));
    bed.pass(0, &datagram(1, 60));
    let misses = bed.counts(0).cache_misses;
    assert_eq!(bed.ports_of(0, &datagram(1, 60)), [1]);
    let session = mirror(&mut bed, &wanted(), &[0]);
    assert_eq!(bed.ports_of(0, &datagram(1, 60)), [1, TUNNEL]);
    put(&mut bed, Vec::new());
    assert_eq!(bed.ports_of(0, &datagram(1, 60)), [1]);
    assert_eq!(bed.counts(0).cache_misses, misses);
    assert_eq!(counts(&session), (1, 1, vec![]));
}

#[test]
fn what_leaves_with_a_tag_is_copied_with_it_and_so_is_a_tag_that_came_beside() {
    let mut model = world();
    model.networks[0].vlan = VlanId::new(10);
    model.ports[2] = trunk(2, &[0], None);
    let mut bed = Bed::new(&model);
    let session = mirror(&mut bed, &wanted(), &[2]);
    bed.pass(1, &ether(BROADCAST, mac(2), 0x88b5, &[0; 46]));
    let frame = plain(mac(2), mac(9));
    // In: beside the frame, then in it. Out: to the trunk, as it leaves.
    bed.send_tagged(2, &frame, 0x600a);
    bed.run();
    bed.send(2, &tag(&frame, 10));
    bed.run();
    let back = plain(mac(9), mac(2));
    bed.send(1, &back);
    bed.run();
    let copies = bed.received(TUNNEL);
    let expected = [tag(&frame, 0x600a), tag(&frame, 10), tag(&back, 10)];
    assert_eq!(inner(&copies), expected);
    for copy in &copies {
        let Header::TypeII(header) = decoded(copy).0.header else {
            panic!("type II");
        };
        assert_eq!(header.common.vlan, 10);
    }
    assert_eq!(counts(&session).0, 4);
}

#[test]
fn a_session_may_cut_its_copies_and_the_cut_is_marked() {
    let mut bed = bed();
    let short = Wanted {
        truncate_bytes: Some(78),
        ..wanted()
    };
    let session = mirror(&mut bed, &short, &[0]);
    bed.send(0, &datagram(1, 30));
    bed.send(0, &datagram(1, 300));
    bed.run();
    let copies = bed.received(TUNNEL);
    let marks: Vec<_> = copies
        .iter()
        .map(|copy| decoded(copy).0.header.truncated())
        .collect();
    assert_eq!(marks, [false, true]);
    assert_eq!(inner(&copies)[1], datagram(1, 300)[..78]);
    assert_eq!(session.shared.counters[0].truncated.get(), 1);
    assert_eq!(counts(&session), (2, 2, vec![]));
}

#[test]
fn a_copy_that_is_too_long_is_cut_or_fragmented_or_counted() {
    let long = datagram(1, 2000);
    for (addresses, room) in [(v4(), 1500 - 36), (v6(), 1500 - 56)] {
        for oversize in [Oversize::Truncate, Oversize::Fragment, Oversize::Count] {
            let mut bed = bed();
            let wanted = Wanted {
                tunnel: Some(Tunnel {
                    oversize,
                    ..tunnel(addresses, erspan_ii(7))
                }),
                ..wanted()
            };
            let session = mirror(&mut bed, &wanted, &[0]);
            bed.send(0, &long);
            bed.run();
            assert_eq!(bed.received(1), [&long[..]]);
            let copies = bed.received(TUNNEL);
            match oversize {
                Oversize::Truncate => {
                    assert_eq!(inner(&copies), [&long[..room]]);
                    assert_eq!(counts(&session), (1, 1, vec![]));
                }
                Oversize::Fragment => {
                    assert_eq!(copies.len(), 2);
                    assert_eq!(joined(&copies), long);
                    assert_eq!(session.shared.counters[0].fragments.get(), 2);
                    assert_eq!(counts(&session), (1, 1, vec![]));
                }
                Oversize::Count => {
                    assert!(copies.is_empty());
                    assert_eq!(counts(&session), (1, 0, vec![(Skip::TooLong, 1)]));
                }
            }
        }
    }
}

/// The mirrored frame in the fragments of a type II copy, which come in order.
fn joined(fragments: &[Vec<u8>]) -> Vec<u8> {
    let is_v6 = fragments[0][14] >> 4 == 6;
    let headers = if is_v6 { 14 + 40 + 8 } else { 14 + 20 };
    let datagram: Vec<u8> = fragments
        .iter()
        .flat_map(|f| f[headers..].to_vec())
        .collect();
    datagram[8 + 8..].to_vec()
}

#[test]
fn a_super_segment_is_copied_as_the_vm_left_it() {
    let mut bed = bed();
    let session = mirror(&mut bed, &wanted(), &[0]);
    let long = datagram(1, 1400);
    let mark = pmd::PartialChecksum {
        start: 34,
        offset: 6,
    };
    bed.send_marked(0, &long, mark);
    bed.run();
    let original = bed.received(1);
    // The switch completes the checksum, in the copy as in the original.
    assert_ne!(original, [&long[..]]);
    assert_eq!(inner(&bed.received(TUNNEL)), original);
    assert_eq!(counts(&session), (1, 1, vec![]));
}

#[test]
fn a_filter_chooses_by_what_is_copied() {
    let mut bed = bed();
    let rule: WrittenRule = "allow udp to any port 53".parse().expect("a rule");
    let rules = rule
        .expand(&Sets::default())
        .into_iter()
        .map(|matches| Rule {
            id: RuleId(0),
            action: rule.action,
            log: false,
            limit: None,
            matches,
            origin: Arc::new(Origin {
                acl: "filter".into(),
                text: "".into(),
            }),
        });
    let filtered = Wanted {
        filter: rules.collect(),
        ..wanted()
    };
    let session = mirror(&mut bed, &filtered, &[0, 1]);
    for port in [53, 54, 53] {
        bed.send(0, &datagram(port, 60));
    }
    bed.run();
    // As received from VM 1, and as it left to VM 2.
    assert_eq!(inner(&bed.received(TUNNEL)), vec![datagram(53, 60); 4]);
    assert_eq!(counts(&session), (4, 4, vec![]));
}

#[test]
fn rejected_frames_are_copied_only_if_asked_for() {
    // VM 1 may not send to 98, VM 2 may not receive at 99.
    for (rejected, from_one, to_two) in [(false, 2, 1), (true, 3, 2)] {
        let mut bed = bed();
        let both = Wanted {
            rejected,
            ..wanted()
        };
        let one = in_force(
            &Wanted {
                directions: Directions::Out,
                ..both.clone()
            },
            0,
            &[0],
        );
        let two = in_force(
            &Wanted {
                directions: Directions::In,
                ..both
            },
            1,
            &[1],
        );
        put(&mut bed, vec![one.clone(), two.clone()]);
        for _ in 0..2 {
            for port in [97, 98, 99] {
                bed.send(0, &datagram(port, 60));
            }
            bed.run();
        }
        assert_eq!(bed.received(1), vec![datagram(97, 60); 2]);
        assert_eq!(counts(&one), (2 * from_one, 2 * from_one, vec![]));
        assert_eq!(counts(&two), (2 * to_two, 2 * to_two, vec![]));
        assert_eq!(
            bed.drops(),
            [(0, DropReason::AclOut, 2), (1, DropReason::AclIn, 2)]
        );
    }
}

#[test]
fn a_budget_bounds_the_copies_and_never_the_originals() {
    let mut bed = bed();
    let frames = Some(Rate {
        per_second: 100,
        burst: 10,
    });
    let limited = Wanted {
        limits: Limits { frames, bits: None },
        ..wanted()
    };
    let session = mirror(&mut bed, &limited, &[0]);
    for _ in 0..60 {
        bed.send(0, &datagram(1, 60));
    }
    bed.run();
    assert_eq!(bed.received(1).len(), 60);
    assert_eq!(bed.received(TUNNEL).len(), 10);
    assert_eq!(counts(&session), (60, 10, vec![(Skip::OverBudget, 50)]));
    bed.advance_ms(55);
    for _ in 0..60 {
        bed.send(0, &datagram(1, 60));
    }
    bed.run();
    assert_eq!(bed.received(1).len(), 60);
    assert_eq!(bed.received(TUNNEL).len(), 5);
    counts(&session);
}

#[test]
fn one_in_so_many_is_copied_and_the_others_are_counted() {
    for sampling in [
        Sampling::Frames(NonZeroU32::new(4).expect("not zero")),
        Sampling::Flows(NonZeroU32::new(4).expect("not zero")),
    ] {
        let mut bed = bed();
        let sampled = Wanted {
            sampling,
            ..wanted()
        };
        let session = mirror(&mut bed, &sampled, &[0]);
        for flow in 0..400 {
            bed.send(0, &datagram(1000 + flow, 60));
            if flow % 40 == 39 {
                bed.run();
            }
        }
        let copied = bed.received(TUNNEL).len() as u64;
        assert!((50..200).contains(&copied), "{sampling:?}: {copied} of 400");
        let skipped = vec![(Skip::NotSampled, 400 - copied)];
        assert_eq!(counts(&session), (400, copied, skipped));
    }
}

#[test]
fn a_tunnel_port_that_is_full_loses_copies_and_nothing_else() {
    let mut bed = bed();
    let session = mirror(&mut bed, &wanted(), &[0]);
    // Nobody takes anything away: the ring holds 256.
    for _ in 0..6 {
        for _ in 0..50 {
            bed.send(0, &datagram(1, 60));
        }
        bed.turn();
        if session.shared.counters[0].wanted.get() == 250 {
            break;
        }
    }
    // The receiver's ring is as long; so it lost nothing either.
    assert_eq!(bed.drops(), []);
    let second = in_force(
        &Wanted {
            name: "second".into(),
            ..wanted()
        },
        1,
        &[0],
    );
    bed.collect();
    put(&mut bed, vec![session.clone(), second.clone()]);
    let before = bed.received(TUNNEL).len();
    assert_eq!(before, 250);
    for _ in 0..4 {
        for _ in 0..50 {
            bed.send(0, &datagram(1, 60));
        }
        bed.turn();
    }
    bed.collect();
    assert_eq!(bed.received(1).len(), 450);
    assert_eq!(bed.received(TUNNEL).len(), 256);
    assert_eq!(bed.drops(), [], "no drop in anybody's account");
    let copied = counts(&session).1 - 250 + counts(&second).1;
    assert_eq!(copied, 256);
    assert!(
        counts(&session).1 - 250 > counts(&second).1,
        "by priority, then name"
    );
}

#[test]
fn copies_without_a_way_are_counted_and_originals_pass() {
    let mut bed = bed();
    let nowhere = Session {
        way: None,
        ..in_force(&wanted(), 0, &[0])
    };
    put(&mut bed, vec![nowhere.clone()]);
    assert_eq!(bed.ports_of(0, &datagram(1, 60)), [1]);
    assert_eq!(counts(&nowhere), (1, 0, vec![(Skip::Unreachable, 1)]));
    let detached = mirror(&mut bed, &wanted(), &[0]);
    bed.detach(TUNNEL);
    assert_eq!(bed.ports_of(0, &datagram(1, 60)), [1]);
    assert_eq!(counts(&detached), (1, 0, vec![(Skip::Unreachable, 1)]));
}

#[test]
fn what_the_switch_itself_says_to_a_vm_is_copied_whole() {
    let one = vnic(mac(1)).ipv4("10.0.0.1/32");
    let two = vnic(mac(2)).ipv4("10.0.0.2/32").inbound(Action::Reject, []);
    let ports = [
        access(0, 0).vnic(one),
        access(1, 0).vnic(two),
        access(TUNNEL, 1),
    ];
    let model = model([network(0), network(1)], ports);
    for addresses in [v4(), v6()] {
        for carrier in carriers() {
            let mut bed = Bed::with(&model, options());
            bed.pass(1, &ether(BROADCAST, mac(2), 0x88b5, &[0; 46]));
            let to_it = Wanted {
                directions: Directions::In,
                tunnel: Some(tunnel(addresses, carrier)),
                ..wanted()
            };
            let session = mirror(&mut bed, &to_it, &[0]);
            // The answer quotes it, as far as an answer may be long.
            bed.send(0, &datagram(99, 400));
            bed.run();
            let (copies, told) = (bed.received(TUNNEL), bed.received(0));
            assert_eq!(told[0].len(), policy::reject::MAX_REPLY_BYTES);
            assert_eq!(inner(&copies), told, "{carrier:?}");
            assert_eq!(counts(&session), (1, 1, vec![]));
            let cut = session.shared.counters.iter().map(|c| c.truncated.get());
            assert_eq!(cut.sum::<u64>(), 0);
        }
    }
}

#[test]
fn what_is_for_a_sniffer_was_mirrored_and_is_not_again() {
    let mut bed = bed();
    let session = in_force(&wanted(), 0, &[0]);
    let mirrors = Mirrors::new(vec![session.clone()], Arc::default());
    let sniffers = [mac(0xee), mac(0xee ^ 64)];
    bed.mirror(mirrors.with_sniffers(sniffers));
    let to = |mac: Mac, mut frame: Vec<u8>| {
        frame[..6].copy_from_slice(&mac.0);
        frame
    };
    // By the short way and by the long one; the last byte of others is like one of theirs.
    for (number, sniffer) in (0..).zip(sniffers) {
        bed.send(0, &to(sniffer, datagram(1, 60)));
        bed.send(0, &ether(sniffer, mac(1), 0x88b5, &[0; 46]));
        bed.send(0, &to(mac(0x6e), datagram(number, 60)));
    }
    bed.run();
    let skipped = vec![(Skip::Nested, 4)];
    assert_eq!(counts(&session), (6, 2, skipped));
}

#[test]
fn copies_are_never_copied() {
    let mut bed = bed();
    // The tunnel's own port is a source, too; and VM 1 sends what copies look like.
    let session = mirror(&mut bed, &wanted(), &[0, TUNNEL]);
    assert_eq!(bed.ports_of(0, &datagram(1, 60)), [1, TUNNEL]);
    bed.send(0, &datagram(1, 60));
    bed.run();
    let copy = bed.received(TUNNEL).remove(0);
    bed.received(1);
    let mut again = copy;
    again[..12].copy_from_slice(&[mac(2).0, mac(1).0].concat());
    again[26..30].copy_from_slice(&[10, 0, 0, 1]);
    assert_eq!(bed.ports_of(0, &again), [1], "ERSPAN of the tenant's own");
    assert_eq!(counts(&session), (3, 2, vec![(Skip::Nested, 1)]));
}

#[test]
fn a_tenants_own_vxlan_is_copied_and_a_mirrors_is_not() {
    let mut bed = bed();
    let vxlan = Wanted {
        tunnel: Some(tunnel(v4(), carriers()[4])),
        ..wanted()
    };
    let session = mirror(&mut bed, &vxlan, &[2]);
    let packet = |from, to| {
        let mut datagram = udp(50_000, 4789);
        datagram[4..6].copy_from_slice(&30u16.to_be_bytes());
        datagram.splice(8.., [8, 0, 0, 0, 0, 0, 7, 0]);
        datagram.extend([2; 14]);
        ether(mac(2), mac(9), IPV4, &ipv4(from, to, UDP, &datagram))
    };
    let own = packet([10, 0, 0, 7], [10, 0, 0, 2]);
    assert_eq!(bed.ports_of(2, &own), [1, TUNNEL]);
    let mirrored = packet([192, 0, 2, 1], [192, 0, 2, 9]);
    assert_eq!(bed.ports_of(2, &mirrored), [1]);
    assert_eq!(counts(&session), (2, 1, vec![(Skip::Nested, 1)]));
    // Later fragments begin with anything: their addresses tell.
    let later = |from, to| {
        let packet = ipv4_fragment(from, to, UDP, 0x0010, &[0x5a; 64]);
        ether(mac(2), mac(9), IPV4, &packet)
    };
    let (own, mirrored) = (
        later([10, 0, 0, 7], [10, 0, 0, 2]),
        later([192, 0, 2, 1], [192, 0, 2, 9]),
    );
    assert_eq!(bed.ports_of(2, &own), [1, TUNNEL]);
    assert_eq!(bed.ports_of(2, &mirrored), [1]);
    assert_eq!(counts(&session), (4, 2, vec![(Skip::Nested, 2)]));
}

#[test]
fn each_session_sees_its_own_source_and_no_other() {
    let mut bed = bed();
    let of = |name: &str, number, port, slot| {
        let wanted = Wanted {
            name: name.into(),
            directions: Directions::Out,
            tunnel: Some(tunnel(v4(), erspan_ii(number))),
            ..wanted()
        };
        in_force(&wanted, slot, &[port])
    };
    let (one, two) = (of("one", 1, 0, 0), of("two", 2, 1, 1));
    put(&mut bed, vec![one.clone(), two.clone()]);
    for _ in 0..5 {
        bed.send(0, &datagram(1, 60));
        bed.send(1, &answer(90));
    }
    bed.run();
    for copy in bed.received(TUNNEL) {
        let (decoded, inner) = decoded(&copy);
        let expected = match decoded.identity.id() {
            Some(1) => datagram(1, 60),
            Some(2) => answer(90),
            other => panic!("session {other:?}"),
        };
        assert_eq!(inner, expected);
    }
    assert_eq!(counts(&one), (5, 5, vec![]));
    assert_eq!(counts(&two), (5, 5, vec![]));
}

#[test]
fn floods_to_many_mirrored_ports_are_all_copied() {
    let ports = (0..10).map(|port| access(port, u16::from(port == TUNNEL)));
    let mut bed = Bed::with(
        &model([network(0), network(1)], ports),
        Options {
            port: memory::Config {
                slots: 1024,
                ..memory::Config::default()
            },
            ..Options::default()
        },
    );
    let tapped: Vec<u16> = (0..10).filter(|port| *port != TUNNEL).collect();
    let to_vms = Wanted {
        directions: Directions::In,
        ..wanted()
    };
    let session = mirror(&mut bed, &to_vms, &tapped);
    let frame = ether(BROADCAST, mac(1), 0x88b5, &[7; 46]);
    for _ in 0..60 {
        bed.send(0, &frame);
    }
    bed.run();
    assert_eq!(inner(&bed.received(TUNNEL)), vec![frame; 60 * 8]);
    assert_eq!(counts(&session), (480, 480, vec![]));
}

#[test]
fn rejected_frames_beyond_a_bursts_room_are_counted() {
    let guarded = |port| access(port, 0).vnic(vnic(mac(port as u8)).inbound(Action::Deny, []));
    let ports = (0..10).map(|port| match port {
        0 | TUNNEL => access(port, u16::from(port == TUNNEL)),
        _ => guarded(port),
    });
    let mut bed = Bed::with(
        &model([network(0), network(1)], ports),
        Options {
            port: memory::Config {
                slots: 1024,
                ..memory::Config::default()
            },
            ..Options::default()
        },
    );
    let tapped: Vec<u16> = (1..10).filter(|port| *port != TUNNEL).collect();
    let rejected = Wanted {
        directions: Directions::In,
        rejected: true,
        ..wanted()
    };
    let session = mirror(&mut bed, &rejected, &tapped);
    for _ in 0..60 {
        bed.send(0, &ether(BROADCAST, mac(77), 0x88b5, &[7; 46]));
    }
    bed.run();
    // Each frame is rejected at eight ports.
    let (wanted, copied, skips) = counts(&session);
    assert_eq!(wanted, 60 * 8);
    assert_eq!(bed.received(TUNNEL).len() as u64, copied);
    assert_eq!(skips, [(Skip::NoRoom, wanted - copied)]);
}

#[test]
fn workers_share_a_sessions_numbers() {
    let options = Options {
        workers: 2,
        ..Options::default()
    };
    let mut bed = Bed::with(&world(), options);
    let session = mirror(&mut bed, &wanted(), &[0, 1]);
    for _ in 0..4 {
        for _ in 0..10 {
            bed.send(0, &datagram(1, 60));
            bed.send(1, &answer(60));
        }
        bed.run();
    }
    let copies = bed.received(TUNNEL);
    let mut numbers: Vec<_> = copies
        .iter()
        .filter_map(|c| decoded(c).0.sequence)
        .collect();
    numbers.sort_unstable();
    assert!(
        numbers.iter().copied().eq(0..copies.len() as u32),
        "{numbers:?}"
    );
    let (wanted, copied, skips) = counts(&session);
    assert_eq!((wanted, copied), (copies.len() as u64, copies.len() as u64));
    assert!(skips.is_empty());
}
