//! What rules do beside letting pass and dropping: senders of rejected frames are told, and rules
//! count what they decided.

use policy::{
    DropReason, RuleId,
    model::{Action, Model, SenderChecks, StormLimits, Vnic},
    rule::{Match, Rule},
};

use crate::bed::{Bed, build::*, frames::*};

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];

fn open(n: u8) -> Vnic {
    vnic(mac(n)).checks(SenderChecks::NONE)
}

fn to_port(id: u32, action: Action, port: u16) -> Rule {
    let matches = Match {
        protocol: Some(TCP),
        dst_ports: vec![port..=port],
        ..Match::default()
    };
    Rule {
        action,
        ..allow(id, matches)
    }
}

/// Port 0 with vNIC A, port 1 with vNIC B and port 2 in one network.
fn three(a: Vnic, b: Vnic) -> Model {
    model(
        [network(0)],
        [access(0, 0).vnic(a), access(1, 0).vnic(b), access(2, 0)],
    )
}

/// A bed that knows where every address is.
fn bed(model: &Model) -> Bed {
    let mut bed = Bed::new(model);
    for port in 0..3 {
        bed.send(port, &plain(BROADCAST, mac(port as u8 + 1)));
    }
    bed.run();
    bed.all_received();
    bed
}

fn segment(port: u16) -> Vec<u8> {
    ether(mac(2), mac(1), IPV4, &ipv4(A, B, TCP, &tcp(1000, port, 2)))
}

fn counted(bed: &mut Bed) -> Vec<(u32, u64)> {
    let at_s = bed.now_s();
    let worker = &mut bed.workers[0];
    let capacity = worker.cache.capacity();
    worker
        .cache
        .settle(0, capacity, &worker.slow_path.rules, at_s);
    let rows = worker.slow_path.rules.rows();
    let mut counts: Vec<_> = rows.entries().map(|row| (row.rule.0, row.frames)).collect();
    counts.sort_unstable();
    counts
}

#[test]
fn the_sender_of_a_rejected_frame_is_told_whoever_rejects_it() {
    let rejects = |id| [to_port(id, Action::Reject, 22)];
    let models = [
        (
            open(1).outbound(Action::Allow, rejects(1)),
            open(2),
            (0, DropReason::RejectOut),
        ),
        (
            open(1),
            open(2).inbound(Action::Allow, rejects(1)),
            (1, DropReason::RejectIn),
        ),
        (
            open(1),
            open(2).inbound(Action::Reject, []),
            (1, DropReason::RejectIn),
        ),
    ];
    for (a, b, (account, reason)) in models {
        let mut bed = bed(&three(a, b));
        let before = bed.counts(account).dropped(reason);
        // The first is a miss, the second a hit.
        for times in 1..=2 {
            let told = bed.pass(0, &segment(22));
            let [(0, reply)] = told.as_slice() else {
                panic!("{told:?}");
            };
            let sent = segment(22);
            assert_eq!((&reply[..6], &reply[6..12]), (&sent[6..12], &sent[..6]));
            assert_eq!((reply[23], reply[47]), (TCP, 0x14), "reset, acknowledging");
            assert_eq!(bed.counts(account).dropped(reason) - before, times);
            assert_eq!(bed.counts(0).originated, times);
        }
        bed.check_conservation();
    }
}

#[test]
fn a_reply_to_a_tagged_frame_has_its_tag() {
    let a = open(1).outbound(Action::Reject, []);
    let ports = [trunk(0, &[0], None).vnic(a), access(1, 0)];
    let mut bed = Bed::new(&model([vlan_network(0, 10)], ports));
    let told = bed.pass(0, &tag(&segment(22), 0x600a));
    let [(0, reply)] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(reply[12..16], [0x81, 0, 0x60, 0x0a]);
    bed.check_conservation();
}

#[test]
fn a_receiver_of_a_flooded_frame_rejects_it_in_silence() {
    let b = open(2).inbound(Action::Reject, []);
    let mut bed = Bed::new(&three(open(1), b));
    // Nobody knows where it goes, so it also comes to whom it is not for.
    let packet = ipv4(A, B, TCP, &tcp(1000, 22, 2));
    let frame = ether(mac(9), mac(1), IPV4, &packet);
    assert_eq!(bed.ports_of(0, &frame), [2]);
    assert_eq!(bed.counts(1).dropped(DropReason::RejectIn), 1);
    assert_eq!(bed.counts(0).originated, 0);
    bed.check_conservation();
}

#[test]
fn senders_are_told_so_often_and_no_more() {
    let mut bed = bed(&three(open(1).outbound(Action::Reject, []), open(2)));
    let mut told = 0;
    for _ in 0..100 {
        for _ in 0..64 {
            bed.send(0, &segment(22));
        }
        bed.run();
        told += bed.received(0).len();
        bed.advance_ms(10);
    }
    assert!((200..=260).contains(&told), "{told} in a second");
    bed.check_conservation();
}

#[test]
fn every_frame_that_a_rule_lets_pass_is_counted_once() {
    let a = open(1).outbound(
        Action::Deny,
        [
            to_port(10, Action::Allow, 80),
            to_port(11, Action::Allow, 443),
        ],
    );
    let b = open(2).inbound(
        Action::Deny,
        [
            to_port(20, Action::Deny, 443),
            to_port(21, Action::Allow, 80),
        ],
    );
    let model = three(a, b);
    let mut bed = bed(&model);
    assert_eq!(counted(&mut bed), []);
    for _ in 0..10 {
        bed.pass(0, &segment(80));
        bed.pass(0, &segment(443));
        bed.pass(0, &segment(1));
    }
    assert_eq!(counted(&mut bed), [(10, 10), (11, 10), (21, 10)]);
    // Settled twice is counted once; what an entry counted is not lost with it.
    assert_eq!(counted(&mut bed), [(10, 10), (11, 10), (21, 10)]);
    for _ in 0..5 {
        bed.pass(0, &segment(80));
    }
    bed.publish(&model);
    bed.pass(0, &segment(80));
    assert_eq!(counted(&mut bed), [(10, 16), (11, 10), (21, 16)]);
    let denied = (1, DropReason::AclIn, Some(RuleId(20)), 10);
    assert!(bed.ledger().contains(&denied), "{:?}", bed.ledger());
    bed.check_conservation();
}

#[test]
fn a_flooded_frame_is_counted_once_for_each_receiver_that_lets_it_pass() {
    let everything = |id| [allow(id, Match::default())];
    let limited = StormLimits {
        broadcast_pps: Some(1000),
        ..StormLimits::default()
    };
    let ports = [
        access(0, 0)
            .vnic(open(1).outbound(Action::Deny, everything(1)))
            .storm(limited),
        access(1, 0).vnic(open(2).inbound(Action::Deny, everything(2))),
        access(2, 0).vnic(open(3).inbound(Action::Deny, everything(2))),
        access(3, 0).vnic(open(4).inbound(Action::Deny, [])),
    ];
    let mut bed = Bed::new(&model([network(0)], ports));
    for _ in 0..6 {
        assert_eq!(bed.ports_of(0, &plain(BROADCAST, mac(1))), [1, 2]);
    }
    assert_eq!(counted(&mut bed), [(1, 6), (2, 12)]);
}
