//! Routers: frames for a gateway leave in another network, a hop nearer to their end.

use std::sync::Arc;

use policy::{
    DropReason, InterfaceId, Mac, NetworkId,
    model::{Action, Model},
    route::{NextHop, Origin, Route, RouteTable, Target},
    router::{Interface, Router},
};

use crate::bed::{Bed, build::*, frames::*};

const GATEWAY: Mac = mac(0xfe);

/// A router with an interface in each of these networks.
fn router(
    name: &str,
    mac: Mac,
    interfaces: &[(u16, &[&str], u16)],
    routes: &[(&str, Target)],
) -> Arc<Router> {
    let interfaces: Vec<Interface> = interfaces
        .iter()
        .map(|(network, addresses, mtu)| Interface {
            network: NetworkId(*network),
            addresses: addresses
                .iter()
                .map(|a| a.parse().expect("an address"))
                .collect(),
            mtu: *mtu,
            clamp_mss: false,
        })
        .collect();
    let connected = interfaces
        .iter()
        .enumerate()
        .flat_map(|(number, interface)| {
            interface.addresses.iter().map(move |address| Route {
                prefix: address.trunc(),
                metric: 0,
                origin: Origin::Network,
                target: Arc::new(Target::Connected {
                    interface: InterfaceId(number as u16),
                }),
            })
        });
    let more = routes.iter().map(|(prefix, target)| Route {
        prefix: prefix.parse().expect("a prefix"),
        metric: 0,
        origin: Origin::Configuration,
        target: Arc::new(target.clone()),
    });
    let routes = RouteTable::from_routes(connected.chain(more)).expect("sound routes");
    Arc::new(Router {
        name: name.into(),
        tenant: "tenant".into(),
        mac,
        home: interfaces[0].network,
        interfaces,
        routes,
    })
}

fn via(address: &str, interface: u16) -> Target {
    Target::via([NextHop {
        address: address.parse().expect("an address"),
        interface: InterfaceId(interface),
        weight: std::num::NonZeroU8::MIN,
    }])
    .expect("a next hop")
}

/// VM 1 (port 0) in network 0 and VM 2 (port 1) in network 1, joined by a router.
fn two_networks(mtu: u16, routes: &[(&str, Target)]) -> Model {
    let one = vnic(mac(1)).ipv4("10.0.1.5/32").ipv6("fd00:1::5/128");
    let two = vnic(mac(2)).ipv4("10.0.2.5/32").ipv6("fd00:2::5/128");
    let ports = [access(0, 0).vnic(one), access(1, 1).vnic(two)];
    let mut model = model([network(0), network(1)], ports);
    model.routers = vec![router(
        "r",
        GATEWAY,
        &[
            (0, &["10.0.1.1/24", "fd00:1::1/64"], 1500),
            (1, &["10.0.2.1/24", "fd00:2::1/64"], mtu),
        ],
        routes,
    )];
    model
}

/// A packet from VM 1 to its gateway.
fn out(packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 6 { IPV6 } else { IPV4 };
    ether(GATEWAY, mac(1), ethertype, &checked(packet))
}

/// The packet with its header checksum.
fn checked(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
        let sum = !sum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

fn sum(bytes: &[u8]) -> u16 {
    let mut total: u32 = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

const ONE: [u8; 4] = [10, 0, 1, 5];
const TWO: [u8; 4] = [10, 0, 2, 5];

#[test]
fn a_routed_frame_has_new_addresses_and_a_lower_ttl_and_all_else_as_it_was() {
    let mut bed = Bed::new(&two_networks(1500, &[]));
    for round in 0..4 {
        let packet = checked(&ipv4(ONE, TWO, UDP, &udp(1, 2)));
        let passed = bed.pass(0, &out(&packet));
        let mut expected = packet.clone();
        expected[8] = 63;
        let expected = ether(mac(2), GATEWAY, IPV4, &checked(&expected));
        assert_eq!(passed, [(1, expected)], "round {round}");

        let packet = ipv6("fd00:1::5", "fd00:2::5", UDP, &udp(1, 2));
        let passed = bed.pass(0, &out(&packet));
        let mut expected = packet.clone();
        expected[7] -= 1;
        assert_eq!(passed, [(1, ether(mac(2), GATEWAY, IPV6, &expected))]);
    }
    assert_eq!(bed.counts(0).cache_hits, 6);
}

#[test]
fn what_is_not_for_the_gateway_stays_in_its_network() {
    let mut bed = Bed::new(&two_networks(1500, &[]));
    let frame = ether(
        mac(9),
        mac(1),
        IPV4,
        &checked(&ipv4(ONE, TWO, UDP, &udp(1, 2))),
    );
    assert_eq!(bed.dropped(0, &frame), (0, DropReason::NoDestination));
}

#[test]
fn a_packet_that_may_not_pass_another_router_is_dropped_and_its_sender_told_by_the_router() {
    let mut bed = Bed::new(&two_networks(1500, &[]));
    // Once as a miss, then as hits of a flow that others of its packets have opened.
    for round in 0..3 {
        let mut packet = ipv4(ONE, TWO, UDP, &udp(1, 2));
        packet[8] = 1;
        let told = bed.pass(0, &out(&packet));
        assert_eq!(told.len(), 1, "round {round}");
        let (port, frame) = &told[0];
        assert_eq!(*port, 0);
        assert_eq!(frame[..12], [mac(1).0, GATEWAY.0].concat());
        assert_eq!(frame[26..34], [10, 0, 1, 1, 10, 0, 1, 5]);
        assert_eq!(frame[34..36], [11, 0]);
        assert_eq!(sum(&frame[14..34]), 0xffff);
        assert_eq!(sum(&frame[34..]), 0xffff);
        packet[8] = 9;
        assert_eq!(bed.ports_of(0, &out(&packet)), [1]);
    }
    assert_eq!(bed.drops(), [(0, DropReason::TtlExpired, 3)]);
}

#[test]
fn a_route_that_is_not_there_and_routes_that_lead_nowhere_have_their_own_reasons() {
    let routes = [
        ("10.9.0.0/16", Target::Blackhole),
        ("10.8.0.0/16", Target::Reject),
    ];
    let mut bed = Bed::new(&two_networks(1500, &routes));
    let mut fate = |dst: [u8; 4]| {
        let before = bed.drops();
        let told = bed.pass(0, &out(&ipv4(ONE, dst, UDP, &udp(1, 2))));
        let (_, reason) = bed.new_drop(&before);
        (
            reason,
            told.first().map(|(_, frame)| [frame[34], frame[35]]),
        )
    };
    for _ in 0..2 {
        assert_eq!(fate([10, 9, 1, 1]), (DropReason::RouteBlackhole, None));
        assert_eq!(fate([10, 8, 1, 1]), (DropReason::RouteReject, Some([3, 1])));
        assert_eq!(fate([10, 7, 1, 1]), (DropReason::NoRoute, Some([3, 0])));
        assert_eq!(fate([224, 0, 0, 9]), (DropReason::NotRoutable, None));
    }
}

#[test]
fn a_longer_packet_is_cut_where_it_may_be_and_else_its_sender_learns_the_mtu() {
    let mut bed = Bed::new(&two_networks(576, &[]));
    let payload: Vec<u8> = (0..400).map(|n| n as u8).collect();
    // Fits.
    assert_eq!(bed.ports_of(0, &out(&ipv4(ONE, TWO, 99, &payload))), [1]);
    let mut model = two_networks(576, &[]);
    let mut small = Router::clone(&model.routers[0]);
    small.interfaces[1].mtu = 220;
    model.routers = vec![Arc::new(small)];
    bed.publish(&model);
    // 200 bytes of data a piece.
    let pieces = bed.pass(0, &out(&ipv4(ONE, TWO, 99, &payload)));
    let mut whole: Vec<u8> = Vec::new();
    for (port, frame) in &pieces {
        assert_eq!(*port, 1);
        assert!(frame.len() <= 14 + 220);
        assert_eq!(sum(&frame[14..34]), 0xffff, "the header's checksum");
        let offset = (usize::from(frame[20] & 0x1f) << 8 | usize::from(frame[21])) * 8;
        assert_eq!(offset, whole.len());
        whole.extend(&frame[34..14 + usize::from(frame[17]) + (usize::from(frame[16]) << 8)]);
    }
    assert_eq!(whole, payload);
    assert!(pieces.len() >= 2);
    let told = bed.pass(0, &out(&ipv4_fragment(ONE, TWO, 99, 0x4000, &payload)));
    assert_eq!(told[0].1[34..36], [3, 4]);
    assert_eq!(told[0].1[40..42], 220u16.to_be_bytes());
    let told = bed.pass(0, &out(&ipv6("fd00:1::5", "fd00:2::5", 59, &payload)));
    assert_eq!(told[0].1[54..56], [2, 0]);
    assert_eq!(told[0].1[58..62], 220u32.to_be_bytes());
    assert_eq!(bed.drops(), [(0, DropReason::PacketTooBig, 2)]);
}

#[test]
fn a_partial_checksum_is_completed_before_a_packet_is_cut() {
    let mut model = two_networks(1500, &[]);
    let mut small = Router::clone(&model.routers[0]);
    small.interfaces[1].mtu = 120;
    model.routers = vec![Arc::new(small)];
    let mut bed = Bed::new(&model);
    let mut datagram = vec![0, 1, 0, 2, 0, 208, 0, 0];
    datagram.extend((0..200).map(|n| n as u8));
    let pseudo: Vec<u8> = [&ONE[..], &TWO[..], &[0, UDP, 0, 208]].concat();
    datagram[6..8].copy_from_slice(&sum(&pseudo).to_be_bytes());
    let frame = out(&ipv4(ONE, TWO, UDP, &datagram));
    let mark = pmd::PartialChecksum {
        start: 34,
        offset: 6,
    };
    bed.send_marked(0, &frame, mark);
    bed.run();
    let mut whole: Vec<u8> = Vec::new();
    for (_, frame) in bed.all_received() {
        whole.extend(&frame[34..]);
    }
    assert_eq!(whole.len(), 208);
    assert_eq!(whole[8..], datagram[8..]);
    let total = u32::from(sum(&pseudo)) + u32::from(sum(&whole));
    assert_eq!((total & 0xffff) + (total >> 16), 0xffff);
}

#[test]
fn policy_judges_a_routed_frame_at_both_ends_and_answers_pass_by_their_connection() {
    let mut model = two_networks(1500, &[]);
    let one = model.ports[0].vnic.take().expect("a vNIC");
    model.ports[0].vnic = Some(
        one.inbound(Action::Deny, [])
            .outbound(Action::AllowStateful, []),
    );
    let mut bed = Bed::new(&model);
    let there = out(&ipv4(ONE, TWO, UDP, &udp(7, 53)));
    let back = |port| {
        let packet = checked(&ipv4(TWO, ONE, UDP, &udp(53, port)));
        ether(GATEWAY, mac(2), IPV4, &packet)
    };
    assert_eq!(bed.dropped(1, &back(7)), (0, DropReason::AclIn));
    for _ in 0..3 {
        assert_eq!(bed.ports_of(0, &there), [1]);
        assert_eq!(bed.ports_of(1, &back(7)), [0]);
    }
    assert_eq!(bed.dropped(1, &back(8)), (0, DropReason::AclIn));
}

#[test]
fn a_packet_goes_through_two_routers_at_once_and_each_can_be_the_one_that_it_may_not_pass() {
    let one = vnic(mac(1)).ipv4("10.0.1.5/32");
    let two = vnic(mac(2)).ipv4("10.0.2.5/32");
    let ports = [access(0, 0).vnic(one), access(1, 2).vnic(two)];
    let mut model = model([network(0), network(1), network(2)], ports);
    let far = mac(0xfd);
    model.routers = vec![
        router(
            "a",
            GATEWAY,
            &[(0, &["10.0.1.1/24"], 1500), (1, &["192.0.2.1/24"], 1500)],
            &[("0.0.0.0/0", via("192.0.2.2", 1))],
        ),
        router(
            "b",
            far,
            &[(1, &["192.0.2.2/24"], 1500), (2, &["10.0.2.1/24"], 1500)],
            &[
                ("10.0.1.0/24", via("192.0.2.1", 0)),
                ("10.3.0.0/16", via("192.0.2.1", 0)),
            ],
        ),
    ];
    let mut bed = Bed::new(&model);
    let with_ttl = |ttl: u8, dst| {
        let mut packet = ipv4(ONE, dst, UDP, &udp(1, 2));
        packet[8] = ttl;
        out(&packet)
    };
    for _ in 0..2 {
        let passed = bed.pass(0, &with_ttl(64, TWO));
        assert_eq!(passed.len(), 1);
        assert_eq!(passed[0].1[..12], [mac(2).0, far.0].concat());
        assert_eq!(passed[0].1[22], 62);
        let told = bed.pass(0, &with_ttl(1, TWO));
        assert_eq!(told[0].1[26..30], [10, 0, 1, 1]);
        let told = bed.pass(0, &with_ttl(2, TWO));
        assert_eq!(told[0].1[26..30], [192, 0, 2, 2]);
    }
    // Each sends it to the other.
    let told = bed.pass(0, &with_ttl(64, [10, 3, 0, 1]));
    assert_eq!(told, []);
    let loops = bed
        .drops()
        .into_iter()
        .find(|(_, reason, _)| *reason == DropReason::RoutingLoop);
    assert_eq!(loops, Some((0, DropReason::RoutingLoop, 1)));
}

#[test]
fn an_echo_to_a_gateway_is_answered_whatever_its_length_and_other_packets_have_nobody() {
    let mut bed = Bed::new(&two_networks(1500, &[]));
    for size in [0usize, 1, 56, 300] {
        let mut echo = vec![8, 0, 0, 0, 0, 7, 0, 1];
        echo.extend((0..size).map(|n| n as u8));
        let checksum = !sum(&echo);
        echo[2..4].copy_from_slice(&checksum.to_be_bytes());
        // Of the other interface, too.
        for gateway in [[10, 0, 1, 1], [10, 0, 2, 1]] {
            let answer = bed.pass(0, &out(&ipv4(ONE, gateway, ICMP, &echo)));
            assert_eq!(answer.len(), 1);
            let frame = &answer[0].1;
            assert_eq!(frame[..12], [mac(1).0, GATEWAY.0].concat());
            assert_eq!(frame[26..34], [gateway, ONE].concat());
            assert_eq!(sum(&frame[14..34]), 0xffff);
            assert_eq!(sum(&frame[34..]), 0xffff);
            assert_eq!(frame[34], 0);
            assert_eq!(frame[38..], echo[4..]);
        }
    }
    let told = bed.pass(0, &out(&ipv4(ONE, [10, 0, 1, 1], UDP, &udp(1, 33434))));
    assert_eq!(told[0].1[34..36], [3, 3]);
    assert_eq!(bed.drops(), [(0, DropReason::NoService, 1)]);
}

#[test]
fn a_piece_of_an_echo_is_answered_once_its_first_was_and_no_other_is() {
    let mut bed = Bed::new(&two_networks(1500, &[]));
    let gateway = [10, 0, 1, 1];
    let first = |kind: u8| [&[kind, 0, 0, 0, 0, 7, 0, 1][..], &[5; 16]].concat();
    let piece = |flags_offset: u16, bytes: &[u8]| {
        out(&ipv4_fragment(ONE, gateway, ICMP, flags_offset, bytes))
    };
    let later = piece(3, &[6; 24]);
    assert!(bed.pass(0, &later).is_empty(), "nobody knows what it is of");
    // Answers are not answered, or two routers would send one to each other without end.
    assert!(bed.pass(0, &piece(0x2000, &first(0))).is_empty());
    assert!(bed.pass(0, &later).is_empty());
    assert_eq!(bed.drops(), [(0, DropReason::NoService, 3)]);
    assert_eq!(bed.pass(0, &piece(0x2000, &first(8)))[0].1[34], 0);
    let answer = &bed.pass(0, &later)[0].1;
    assert_eq!(answer[20..22], [0, 3], "its place is the same");
    assert_eq!(answer[26..34], [gateway, ONE].concat());
    assert_eq!(answer[34..58], [6; 24]);
}

#[test]
fn who_has_moved_in_another_network_gets_what_is_routed_to_it_at_once() {
    let mut model = two_networks(1500, &[]);
    let mut bed = Bed::new(&model);
    let frame = out(&ipv4(ONE, TWO, UDP, &udp(1, 2)));
    assert_eq!(bed.ports_of(0, &frame), [1]);
    let vnic = model.ports[1].vnic.take();
    model.ports.push(access(2, 1));
    model.ports[2].vnic = vnic;
    bed.publish(&model);
    assert_eq!(bed.ports_of(0, &frame), [2]);
    assert_eq!(bed.ports_of(0, &frame), [2]);
}

#[test]
fn a_gateway_is_no_way_round_isolation() {
    let mut model = two_networks(1500, &[]);
    let three = vnic(mac(3)).ipv4("10.0.1.6/32");
    model.ports.push(access(2, 0).vnic(three));
    let mut bed = Bed::new(&model);
    let frame = out(&ipv4(ONE, [10, 0, 1, 6], UDP, &udp(1, 2)));
    assert_eq!(bed.ports_of(0, &frame), [2], "back into its own network");
    for port in [0, 2] {
        model.ports[port].isolated = true;
    }
    bed.publish(&model);
    for _ in 0..2 {
        assert_eq!(bed.dropped(0, &frame), (0, DropReason::Isolated));
    }
    let elsewhere = out(&ipv4(ONE, TWO, UDP, &udp(1, 2)));
    assert_eq!(bed.ports_of(0, &elsewhere), [1]);
}

#[test]
fn a_host_that_no_vnic_has_is_waited_for_and_then_reached() {
    let mut model = two_networks(1500, &[]);
    model.ports.push(access(2, 1));
    let mut bed = Bed::new(&model);
    let frame = out(&ipv4(ONE, [10, 0, 2, 77], UDP, &udp(1, 2)));
    assert_eq!(bed.pass(0, &frame), []);
    assert_eq!(bed.counts(0).taken, 1);
    // It says where it is, as it would in answer to the router.
    let (network, address) = (NetworkId(1), [10, 0, 2, 77].into());
    let now_s = bed.now_s();
    let shared = Arc::clone(&bed.shared);
    assert!(shared.neighbors.want(network, address, now_s));
    let answer = ether(
        GATEWAY,
        mac(7),
        ARP,
        &arp(2, mac(7), [10, 0, 2, 77], [10, 0, 2, 1]),
    );
    assert_eq!(bed.pass(2, &answer), []);
    assert_eq!(bed.counts(2).taken, 1);
    shared
        .neighbors
        .learn(network, address, mac(7), now_s, shared.bridge.generations());
    for _ in 0..2 {
        let passed = bed.pass(0, &frame);
        assert_eq!(passed.len(), 1);
        assert_eq!((passed[0].0, &passed[0].1[..6]), (2, &mac(7).0[..]));
    }
    // Its Ethernet address changes.
    shared
        .neighbors
        .learn(network, address, mac(8), now_s, shared.bridge.generations());
    assert_eq!(bed.pass(0, &frame), [], "nobody knows where 8 is");
    bed.pass(2, &ether(mac(9), mac(8), 0x88b5, &[0; 46]));
    assert_eq!(bed.pass(0, &frame)[0].1[..6], mac(8).0);
}
