//! Connections: answers pass where a rule allowed the question statefully, and nothing else does.

use std::{collections::HashSet, path::Path};

use pmd::pcap::Reader;
use policy::{
    DropReason, Field, PortId,
    conntrack::{
        Connections, Probe, Sought, Timeouts, Tuple, Zone,
        packet::flags,
        table::Opening,
        tcp::{State, Step, Tcp},
    },
    model::{Action, Model, SenderChecks, Vnic},
    parse,
    rule::{FlagsMatch, Match, Rule},
};
use vswitch::explain::{Explainer, Given, Outcome};

use crate::bed::{Bed, Options, build::*, frames::*};

const ACK: u8 = flags::ACK;
const SYN: u8 = flags::SYN;
const RST: u8 = flags::RST;
const FIN: u8 = flags::FIN;

fn stateful(id: u32, matches: Match) -> Rule {
    rule(id, Action::AllowStateful, matches)
}

fn protocol(number: u8) -> Match {
    Match {
        protocol: Some(number),
        ..Match::default()
    }
}

fn guest(number: u8) -> Vnic {
    vnic(mac(number))
        .ipv4(&format!("10.0.0.{number}/32"))
        .ipv6(&format!("2001:db8::{number}/128"))
}

/// Ports 0 and 1 with guests 1 and 2, port 2 without a vNIC.
fn world(client: Vnic, server: Vnic) -> Model {
    model(
        [network(0)],
        [
            access(0, 0).vnic(client),
            access(1, 0).vnic(server),
            access(2, 0),
        ],
    )
}

/// The client may ask anything, and nobody may send to it unasked.
fn asking() -> Model {
    let client = guest(1)
        .outbound(Action::AllowStateful, [])
        .inbound(Action::Deny, []);
    world(client, guest(2))
}

fn v4(from: u8, to: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let packet = ipv4([10, 0, 0, from], [10, 0, 0, to], protocol, payload);
    ether(mac(to), mac(from), IPV4, &packet)
}

fn v6(from: u8, to: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let packet = ipv6(
        &format!("2001:db8::{from}"),
        &format!("2001:db8::{to}"),
        protocol,
        payload,
    );
    ether(mac(to), mac(from), IPV6, &packet)
}

fn segment(ports: (u16, u16), flags: u8, seq: u32, ack: u32, payload: usize) -> Vec<u8> {
    let mut segment = tcp(ports.0, ports.1, flags);
    segment[4..8].copy_from_slice(&seq.to_be_bytes());
    segment[8..12].copy_from_slice(&ack.to_be_bytes());
    segment.resize(20 + payload, 0x55);
    segment
}

/// From guest 1 port 1000 to guest 2 port 80.
fn ask(flags: u8, seq: u32, ack: u32, payload: usize) -> Vec<u8> {
    v4(1, 2, TCP, &segment((1000, 80), flags, seq, ack, payload))
}

fn answer(flags: u8, seq: u32, ack: u32, payload: usize) -> Vec<u8> {
    v4(2, 1, TCP, &segment((80, 1000), flags, seq, ack, payload))
}

/// Opens TCP; the client is at 101, the server at 501.
fn shake_hands(bed: &mut Bed) {
    assert_eq!(bed.ports_of(0, &ask(SYN, 100, 0, 0)), [1]);
    assert_eq!(bed.ports_of(1, &answer(SYN | ACK, 500, 101, 0)), [0]);
    assert_eq!(bed.ports_of(0, &ask(ACK, 101, 501, 0)), [1]);
}

fn echo(kind: u8, id: u16) -> Vec<u8> {
    let mut message = icmp(kind, 0);
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message
}

#[test]
fn answers_pass_and_what_nobody_asked_for_does_not() {
    let pairs = [
        (v4(1, 2, UDP, &udp(1000, 53)), v4(2, 1, UDP, &udp(53, 1000))),
        (v6(1, 2, UDP, &udp(1000, 53)), v6(2, 1, UDP, &udp(53, 1000))),
        (v4(1, 2, ICMP, &echo(8, 7)), v4(2, 1, ICMP, &echo(0, 7))),
        (
            v6(1, 2, ICMPV6, &echo(128, 7)),
            v6(2, 1, ICMPV6, &echo(129, 7)),
        ),
        // GRE: by addresses alone.
        (v4(1, 2, 47, &[0; 8]), v4(2, 1, 47, &[0; 8])),
    ];
    for (question, reply) in pairs {
        let mut bed = Bed::new(&asking());
        for _ in 0..3 {
            assert_eq!(bed.dropped(1, &reply), (0, DropReason::AclIn));
        }
        for _ in 0..3 {
            assert_eq!(bed.ports_of(0, &question), [1]);
            assert_eq!(bed.ports_of(1, &reply), [0]);
        }
        assert_eq!(bed.shared.connections.len(), 1);
    }
    let mut bed = Bed::new(&asking());
    bed.pass(0, &v4(1, 2, UDP, &udp(1000, 53)));
    bed.pass(0, &v4(1, 2, ICMP, &echo(8, 7)));
    for other in [
        v4(2, 1, UDP, &udp(53, 1001)),
        v4(2, 1, UDP, &udp(54, 1000)),
        v4(2, 1, TCP, &tcp(53, 1000, ACK)),
        v4(2, 1, ICMP, &echo(0, 8)),
        v4(2, 1, ICMP, &echo(8, 7)),
    ] {
        for _ in 0..3 {
            assert_eq!(bed.dropped(1, &other), (0, DropReason::AclIn));
        }
    }
}

#[test]
fn tcp_opens_talks_and_ends() {
    let mut bed = Bed::new(&asking());
    assert_eq!(
        bed.dropped(1, &answer(SYN | ACK, 500, 101, 0)).1,
        DropReason::AclIn
    );
    assert_eq!(
        bed.dropped(0, &ask(ACK, 101, 501, 10)).1,
        DropReason::ConnectionInvalid
    );
    shake_hands(&mut bed);
    for part in 0..50 {
        assert_eq!(
            bed.ports_of(0, &ask(ACK, 101 + 10 * part, 501 + 20 * part, 10)),
            [1]
        );
        let reply = answer(ACK, 501 + 20 * part, 111 + 10 * part, 20);
        assert_eq!(bed.ports_of(1, &reply), [0]);
    }
    // Out of the window, then a reset there.
    for _ in 0..2 {
        let outside = answer(ACK, 1501 + 0x1001, 601, 20);
        assert_eq!(bed.dropped(1, &outside), (1, DropReason::ConnectionInvalid));
        let outside = answer(RST, 1000, 601, 0);
        assert_eq!(bed.dropped(1, &outside), (1, DropReason::ConnectionInvalid));
    }
    assert_eq!(bed.ports_of(0, &ask(FIN | ACK, 601, 1501, 0)), [1]);
    assert_eq!(bed.ports_of(1, &answer(ACK, 1501, 602, 0)), [0]);
    for part in 0..5 {
        assert_eq!(
            bed.ports_of(1, &answer(ACK, 1501 + 20 * part, 602, 20)),
            [0]
        );
        assert_eq!(bed.ports_of(0, &ask(ACK, 602, 1521 + 20 * part, 0)), [1]);
    }
    assert_eq!(bed.ports_of(1, &answer(FIN | ACK, 1601, 602, 0)), [0]);
    assert_eq!(bed.ports_of(0, &ask(ACK, 602, 1602, 0)), [1]);
    // Over: the server's side may not open one in its place, the client's may.
    assert_eq!(
        bed.dropped(1, &answer(SYN, 9000, 0, 0)).1,
        DropReason::AclIn
    );
    assert_eq!(bed.ports_of(0, &ask(SYN, 9000, 0, 0)), [1]);
}

#[test]
fn a_reset_ends_a_connection_at_once() {
    let mut bed = Bed::new(&asking());
    shake_hands(&mut bed);
    assert_eq!(bed.ports_of(0, &ask(ACK, 101, 501, 10)), [1]);
    assert_eq!(bed.ports_of(1, &answer(RST, 501, 0, 0)), [0]);
    bed.advance_ms(11_000);
    assert_eq!(
        bed.dropped(1, &answer(ACK, 501, 111, 10)).1,
        DropReason::AclIn
    );
}

#[test]
fn a_rule_for_the_first_frame_is_enough() {
    let syn = Match {
        tcp_flags: Some(FlagsMatch {
            set: SYN,
            mask: SYN | ACK,
        }),
        dst_ports: vec![80..=80],
        ..protocol(TCP)
    };
    // Both sides allow nothing but that SYN.
    let client = guest(1)
        .outbound(Action::Deny, [stateful(1, syn.clone())])
        .inbound(Action::Deny, []);
    let server = guest(2)
        .outbound(Action::Deny, [])
        .inbound(Action::Deny, [stateful(2, syn)]);
    let mut bed = Bed::new(&world(client, server));
    shake_hands(&mut bed);
    for part in 0..5 {
        assert_eq!(bed.ports_of(0, &ask(ACK, 101 + 10 * part, 501, 10)), [1]);
        assert_eq!(bed.ports_of(1, &answer(ACK, 501, 111 + 10 * part, 0)), [0]);
    }
    assert_eq!(
        bed.dropped(1, &v4(2, 1, TCP, &tcp(80, 1001, SYN))).1,
        DropReason::AclOut
    );
}

#[test]
fn each_side_permits_for_itself_alone() {
    // The server lets its answers out statefully; the client's side is stateless and denies.
    let client = guest(1).inbound(Action::Deny, []);
    let server = guest(2)
        .inbound(Action::Deny, [stateful(1, protocol(UDP))])
        .outbound(Action::Deny, []);
    let mut bed = Bed::new(&world(client, server));
    assert_eq!(bed.ports_of(0, &v4(1, 2, UDP, &udp(1000, 53))), [1]);
    for _ in 0..2 {
        let reply = v4(2, 1, UDP, &udp(53, 1000));
        assert_eq!(bed.dropped(1, &reply), (0, DropReason::AclIn));
        let other = v4(2, 1, UDP, &udp(53, 1001));
        assert_eq!(bed.dropped(1, &other), (1, DropReason::AclOut));
    }
    // And the other way round.
    let client = guest(1)
        .inbound(Action::Deny, [])
        .outbound(Action::AllowStateful, []);
    let server = guest(2).outbound(Action::Deny, []);
    let mut bed = Bed::new(&world(client, server));
    assert_eq!(bed.ports_of(0, &v4(1, 2, UDP, &udp(1000, 53))), [1]);
    for _ in 0..2 {
        let reply = v4(2, 1, UDP, &udp(53, 1000));
        assert_eq!(bed.dropped(1, &reply), (1, DropReason::AclOut));
    }
}

#[test]
fn a_port_without_policy_may_be_answered() {
    let server = guest(2)
        .inbound(Action::Deny, [stateful(1, protocol(TCP))])
        .outbound(Action::Deny, []);
    let mut bed = Bed::new(&world(guest(1), server));
    let from = |flags, seq, ack| {
        let packet = ipv4(
            [192, 0, 2, 1],
            [10, 0, 0, 2],
            TCP,
            &segment((1000, 80), flags, seq, ack, 0),
        );
        ether(mac(2), mac(9), IPV4, &packet)
    };
    let to = |flags, seq, ack| {
        let packet = ipv4(
            [10, 0, 0, 2],
            [192, 0, 2, 1],
            TCP,
            &segment((80, 1000), flags, seq, ack, 0),
        );
        ether(mac(9), mac(2), IPV4, &packet)
    };
    assert_eq!(bed.ports_of(2, &from(SYN, 100, 0)), [1]);
    assert_eq!(bed.ports_of(1, &to(SYN | ACK, 500, 101)), [2]);
    assert_eq!(bed.ports_of(2, &from(ACK, 101, 501)), [1]);
    // It counts against the one that lets it in.
    assert_eq!(bed.shared.connections.owned_by(PortId(1)), 1);
    let elsewhere = ipv4([10, 0, 0, 2], [192, 0, 2, 2], TCP, &tcp(80, 1000, SYN));
    let elsewhere = ether(mac(9), mac(2), IPV4, &elsewhere);
    assert_eq!(bed.dropped(1, &elsewhere).1, DropReason::AclOut);
}

#[test]
fn withdrawing_a_rule_ends_what_it_permitted_at_once() {
    let mut bed = Bed::new(&asking());
    shake_hands(&mut bed);
    bed.pass(0, &v4(1, 2, UDP, &udp(1000, 53)));
    let reply = v4(2, 1, UDP, &udp(53, 1000));
    assert_eq!(bed.ports_of(1, &reply), [0]);
    // Another epoch of the same policy changes nothing.
    bed.publish(&asking());
    assert_eq!(bed.ports_of(1, &reply), [0]);
    assert_eq!(bed.ports_of(1, &answer(ACK, 501, 101, 10)), [0]);
    assert_eq!(bed.shared.connections.len(), 2);
    // Only stateless permission is left for the client's own frames.
    let client = guest(1).inbound(Action::Deny, []);
    bed.publish(&world(client, guest(2)));
    assert_eq!(bed.dropped(1, &reply).1, DropReason::AclIn);
    assert_eq!(
        bed.dropped(1, &answer(ACK, 511, 101, 10)).1,
        DropReason::AclIn
    );
    // And with tracking elsewhere in the network, what was open is removed.
    let client = guest(1).inbound(Action::Deny, []);
    let server = guest(2).inbound(Action::Allow, [stateful(1, protocol(ICMP))]);
    bed.publish(&asking());
    assert_eq!(bed.ports_of(1, &reply), [0]);
    bed.publish(&world(
        client.clone(),
        server.clone().inbound(
            Action::Allow,
            [stateful(
                1,
                Match {
                    dst_ports: vec![99..=99],
                    ..protocol(UDP)
                },
            )],
        ),
    ));
    assert_eq!(bed.dropped(1, &reply).1, DropReason::AclIn);
    assert_eq!(bed.shared.connections.len(), 1);
    bed.publish(&world(client, server));
    bed.publish(&asking());
    assert_eq!(bed.dropped(1, &reply).1, DropReason::AclIn);
}

#[test]
fn limits_are_named_and_leave_others_alone() {
    let mut limited = guest(1).outbound(Action::AllowStateful, []);
    limited.connection_limit = 3;
    let other = guest(2).outbound(Action::AllowStateful, []);
    let options = Options {
        connections: 5,
        ..Options::default()
    };
    let mut bed = Bed::with(&world(limited, other), options);
    for port in 0..3 {
        assert_eq!(bed.ports_of(0, &v4(1, 2, UDP, &udp(1000 + port, 53))), [1]);
    }
    let refused = v4(1, 2, UDP, &udp(2000, 53));
    assert_eq!(
        foretell(&bed, 0, &refused),
        Err(DropReason::ConnectionLimit)
    );
    assert_eq!(bed.dropped(0, &refused), (0, DropReason::ConnectionLimit));
    assert_eq!(bed.dropped(0, &refused), (0, DropReason::ConnectionLimit));
    assert_eq!(bed.ports_of(0, &v4(1, 2, UDP, &udp(1000, 53))), [1]);
    // The answers to those it has are none of its own.
    assert_eq!(bed.ports_of(1, &v4(2, 1, UDP, &udp(53, 1000))), [0]);
    for port in 0..2 {
        assert_eq!(bed.ports_of(1, &v4(2, 1, UDP, &udp(3000 + port, 53))), [0]);
    }
    let refused = v4(2, 1, UDP, &udp(3002, 53));
    assert_eq!(
        foretell(&bed, 1, &refused),
        Err(DropReason::ConnectionTableFull)
    );
    assert_eq!(
        bed.dropped(1, &refused),
        (1, DropReason::ConnectionTableFull)
    );
    // What has expired makes room.
    bed.advance_ms(301_000);
    let (timeouts, now_s) = (Timeouts::default(), bed.now_s());
    assert_eq!(bed.shared.connections.sweep(1, &timeouts, now_s), 5);
    assert_eq!(bed.ports_of(1, &refused), [0]);
}

fn all_rows(bed: &Bed) -> Vec<policy::conntrack::Row> {
    let connections = &bed.shared.connections;
    connections.rows(&Timeouts::default(), bed.now_s(), usize::MAX, |_| true)
}

/// Where a frame would go, or why it would not, told by `vswitch explain`.
fn foretell(bed: &Bed, port: u16, frame: &[u8]) -> Result<Vec<u16>, DropReason> {
    let (bundle, shared) = (bed.shared.current.load(), &bed.shared);
    let given = Given {
        port: PortId(port),
        head: frame,
        len_bytes: frame.len(),
        vlan_tci: None,
    };
    let (places, connections) = ((&shared.bridge, &shared.neighbors), &shared.connections);
    let (snapshot, meters) = (&bundle.snapshot, &bundle.meters);
    let mut explainer = Explainer::new(snapshot, places, connections, meters, bed.now_ns());
    let limits = bundle.port(given.port).map(|port| (port, bed.now_ns()));
    match explainer.judge(given, limits).outcome() {
        Outcome::Dropped(denial) => Err(denial.reason),
        Outcome::Taken(_) => unreachable!("no router is here"),
        Outcome::Forwarded(exits) => exits
            .into_iter()
            .map(|(to, _, judged)| judged.map(|_| to.0).map_err(|denial| denial.reason))
            .collect(),
    }
}

#[test]
fn explaining_knows_of_connections_and_leaves_them_alone() {
    let mut bed = Bed::new(&asking());
    assert_eq!(foretell(&bed, 0, &ask(SYN, 100, 0, 0)), Ok(vec![1]));
    assert!(bed.shared.connections.is_empty());
    let reply = answer(ACK, 501, 101, 0);
    assert_eq!(foretell(&bed, 1, &reply), Err(DropReason::AclIn));
    // From the middle of a connection that nobody saw begin.
    let stray = ask(ACK, 101, 501, 0);
    assert_eq!(
        foretell(&bed, 0, &stray),
        Err(DropReason::ConnectionInvalid)
    );

    shake_hands(&mut bed);
    let open = all_rows(&bed);
    assert_eq!(open.len(), 1);
    assert_eq!(foretell(&bed, 1, &reply), Ok(vec![0]));
    for last in [FIN | ACK, RST] {
        assert_eq!(foretell(&bed, 0, &ask(last, 101, 501, 0)), Ok(vec![1]));
    }
    let far_out = ask(ACK, 101 + (1 << 30), 501, 1);
    assert_eq!(
        foretell(&bed, 0, &far_out),
        Err(DropReason::ConnectionInvalid)
    );
    assert_eq!(all_rows(&bed), open);
    assert_eq!(bed.dropped(0, &far_out), (0, DropReason::ConnectionInvalid));

    // A connection that nobody allows any more goes with the next frame that comes, and stays
    // when one is only asked about.
    bed.publish(&world(guest(1).outbound(Action::Deny, []), guest(2)));
    let denied = ask(ACK, 101, 501, 0);
    assert_eq!(foretell(&bed, 0, &denied), Err(DropReason::AclOut));
    assert_eq!(bed.shared.connections.len(), 1);
}

#[test]
fn icmp_errors_pass_for_live_connections_only() {
    let error = |about: &[u8]| {
        let mut message = vec![3, 1, 0, 0, 0, 0, 0, 0];
        message.extend(&about[14..14 + 28]);
        // From a router on the way, behind the port without policy.
        let packet = ipv4([10, 0, 0, 9], [10, 0, 0, 1], ICMP, &message);
        ether(mac(1), mac(9), IPV4, &packet)
    };
    let mut bed = Bed::new(&asking());
    let question = v4(1, 2, UDP, &udp(1000, 53));
    assert_eq!(bed.dropped(2, &error(&question)).1, DropReason::AclIn);
    bed.pass(0, &question);
    assert_eq!(bed.ports_of(2, &error(&question)), [0]);
    let other = v4(1, 2, UDP, &udp(1001, 53));
    assert_eq!(bed.dropped(2, &error(&other)).1, DropReason::AclIn);
    shake_hands(&mut bed);
    assert_eq!(bed.ports_of(0, &ask(ACK, 101, 501, 100)), [1]);
    assert_eq!(bed.ports_of(2, &error(&ask(ACK, 101, 501, 100))), [0]);
    let guessed = ask(ACK, 70_000, 501, 100);
    assert_eq!(bed.dropped(2, &error(&guessed)).1, DropReason::AclIn);
}

#[test]
fn networks_with_the_same_addresses_share_no_connection() {
    let client = || {
        guest(1)
            .checks(SenderChecks::NONE)
            .outbound(Action::AllowStateful, [])
            .inbound(Action::Deny, [])
    };
    let plain = || guest(2).checks(SenderChecks::NONE);
    let ports = [
        access(0, 0).vnic(client()),
        access(1, 0).vnic(plain()),
        access(2, 1).vnic(client()),
        access(3, 1).vnic(plain()),
    ];
    let mut bed = Bed::new(&model([network(0), network(1)], ports));
    assert_eq!(bed.ports_of(0, &v4(1, 2, UDP, &udp(1000, 53))), [1]);
    let reply = v4(2, 1, UDP, &udp(53, 1000));
    assert_eq!(bed.dropped(3, &reply), (2, DropReason::AclIn));
    assert_eq!(bed.ports_of(1, &reply), [0]);
}

#[test]
fn a_flooded_answer_passes_to_the_asker_alone() {
    // Guest 3 may ask the same, but has not.
    let asker = |number| {
        guest(number)
            .outbound(Action::AllowStateful, [])
            .inbound(Action::Deny, [])
    };
    let ports = [
        access(0, 0).vnic(asker(1)),
        access(1, 0),
        access(2, 0).vnic(asker(3)),
    ];
    let mut bed = Bed::new(&model([network(0)], ports));
    bed.pass(0, &v4(1, 2, UDP, &udp(1000, 53)));
    let packet = ipv4([10, 0, 0, 2], [10, 0, 0, 1], UDP, &udp(53, 1000));
    let flooded = ether(BROADCAST, mac(2), IPV4, &packet);
    for _ in 0..2 {
        assert_eq!(bed.ports_of(1, &flooded), [0]);
    }
    assert_eq!(bed.counts(2).dropped(DropReason::AclIn), 2 + 1);
}

#[test]
fn nothing_is_tracked_where_no_rule_asks_for_it() {
    let mut bed = Bed::new(&world(guest(1), guest(2)));
    shake_hands(&mut bed);
    assert!(bed.shared.connections.is_empty());
    let client = guest(1).outbound(Action::Allow, [stateful(1, protocol(UDP))]);
    bed.publish(&world(client, guest(2)));
    assert_eq!(bed.ports_of(0, &ask(ACK, 101, 501, 0)), [1]);
    assert!(bed.shared.connections.is_empty());
    assert_eq!(bed.ports_of(0, &v4(1, 2, UDP, &udp(1000, 53))), [1]);
    assert_eq!(bed.shared.connections.len(), 1);
}

/// Where captures lie; a checkout without them skips the test.
const CAPTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/pcap");

/// Every TCP conversation of every capture that has both its sides from the SYN on, as a tracker
/// on the way sees it: nothing of it may be refused.
#[test]
fn recorded_conversations_pass_whole() {
    let mut files = Vec::new();
    if Path::new(CAPTURES).is_dir() {
        crate::captures::captures(Path::new(CAPTURES), &mut files);
    }
    if files.is_empty() {
        eprintln!("skipped: no captures at {CAPTURES}");
        return;
    }
    files.sort();
    let (mut segments, mut conversations, mut finished) = (0, 0, 0);
    let mut refused = Vec::new();
    for file in files {
        let Ok(reader) = Reader::open(&file) else {
            continue;
        };
        let table = Connections::new(2000, [1, 2, 3, 4, 5, 6]);
        let timeouts = Timeouts::default();
        let records: Vec<_> = reader.map_while(Result::ok).collect();
        let tuple_of = |bytes: &[u8]| {
            let parsed = parse(bytes, bytes.len(), None, PortId(0));
            Tuple::of(&parsed.key)
        };
        let sides: HashSet<Tuple> = records.iter().filter_map(|r| tuple_of(&r.bytes)).collect();
        for (number, record) in (1..).zip(&records) {
            let head = &record.bytes[..];
            let parsed = parse(head, head.len(), None, PortId(0));
            let (Some(tuple), Some(probe)) = (Tuple::of(&parsed.key), Probe::read(head, &parsed))
            else {
                continue;
            };
            let Probe::Tcp { segment, .. } = probe else {
                continue;
            };
            if !sides.contains(&tuple.reverse()) {
                continue;
            }
            let zone = Zone(parsed.key.get(Field::VLAN_VID) as u16);
            let sought = table.find(zone, &tuple, &timeouts, 0);
            if let Sought::Found(found) = sought {
                segments += 1;
                match table.advance(found.token, &probe, 0) {
                    Ok(Step::Goes) => continue,
                    Ok(Step::Reopens) => table.remove(found.token),
                    Err(_) => {
                        refused.push((file.clone(), number, segment));
                        continue;
                    }
                }
            }
            if Tcp::opens(&segment) {
                conversations += 1;
                let opening = Opening {
                    zone,
                    key: &parsed.key,
                    probe: &probe,
                    owner: PortId(0),
                    limit: u32::MAX,
                    loose: false,
                    now_s: 0,
                };
                table.open(&opening, &timeouts).expect("room");
            }
        }
        let over = |state| matches!(state, State::TimeWait | State::Close | State::LastAck);
        let rows = table.rows(&timeouts, 0, usize::MAX, |row| over(row.state));
        finished += rows.len();
    }
    eprintln!("{conversations} conversations, {finished} finished, {segments} segments");
    assert!(
        refused.is_empty(),
        "{} refused: {refused:#?}",
        refused.len()
    );
    assert!(conversations > 20 && finished > 10);
}

#[test]
fn later_fragments_follow_the_first_and_stray_ones_go_nowhere() {
    const MORE: u16 = 0x2000;
    let fragment = |to: u8, offset: u16, id: u16, payload: &[u8]| {
        let mut packet = ipv4_fragment([10, 0, 0, 3 - to], [10, 0, 0, to], UDP, offset, payload);
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        ether(mac(to), mac(3 - to), IPV4, &packet)
    };
    let client = guest(1).inbound(Action::Deny, []).outbound(
        Action::Deny,
        [stateful(
            1,
            Match {
                dst_ports: vec![53..=53],
                ..protocol(UDP)
            },
        )],
    );
    let mut bed = Bed::new(&world(client, guest(2)));
    let stray = DropReason::FragmentUnknown;
    assert_eq!(bed.dropped(0, &fragment(2, 2, 7, &[1; 32])), (0, stray));
    for id in 7..10 {
        assert_eq!(bed.ports_of(0, &fragment(2, MORE, id, &udp(1000, 53))), [1]);
        assert_eq!(bed.ports_of(0, &fragment(2, MORE | 2, id, &[1; 32])), [1]);
        assert_eq!(bed.ports_of(0, &fragment(2, 6, id, &[1; 32])), [1]);
        // The answer is as large.
        assert_eq!(bed.ports_of(1, &fragment(1, MORE, id, &udp(53, 1000))), [0]);
        assert_eq!(bed.ports_of(1, &fragment(1, 2, id, &[1; 32])), [0]);
    }
    // Of another packet, of one that was refused, and of one that is long gone.
    assert_eq!(bed.dropped(0, &fragment(2, 2, 99, &[1; 32])), (0, stray));
    let refused = fragment(2, MORE, 11, &udp(1000, 54));
    assert_eq!(bed.dropped(0, &refused).1, DropReason::AclOut);
    assert_eq!(bed.dropped(0, &fragment(2, 2, 11, &[1; 32])), (0, stray));
    bed.advance_ms(31_000);
    assert_eq!(bed.dropped(0, &fragment(2, 2, 7, &[1; 32])), (0, stray));
    // Where nothing is tracked they are judged by the rules alone.
    bed.publish(&world(guest(1), guest(2)));
    assert_eq!(bed.ports_of(0, &fragment(2, 2, 99, &[1; 32])), [1]);
}
