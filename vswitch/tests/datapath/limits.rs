//! Limits of rules: what passes up to one and what becomes of the rest, from the slow path and from
//! the cache alike.

use policy::{
    DropReason, PortId, RuleId,
    conntrack::packet::flags,
    model::{Action, Model, RateLimit, SenderChecks, Vnic},
    rule::{Match, Rule},
};

use vswitch::explain::{Explainer, Given, Outcome};

use crate::bed::{Bed, Options, build::*, frames::*};

const SYN: u8 = flags::SYN;
const ACK: u8 = flags::ACK;
const RST: u8 = flags::RST;

fn limited(id: u32, action: Action, per_second: u32, burst: u32) -> Rule {
    Rule {
        limit: Some(RateLimit { per_second, burst }),
        ..rule(id, action, Match::default())
    }
}

fn open(n: u8) -> Vnic {
    vnic(mac(n)).checks(SenderChecks::NONE)
}

/// Ports 0 to 2 with these vNICs, port 3 with none; everybody knows where everybody is.
fn bed(vnics: [Vnic; 3], options: Options) -> Bed {
    let mut bed = Bed::with(&world(vnics), options);
    for port in 0..4 {
        bed.shared
            .bridge
            .pass(
                policy::NetworkId(0),
                vswitch::bridge::Sender {
                    mac: mac(port as u8 + 1),
                    port: PortId(port),
                    port_limit: 10,
                },
                None,
                0,
            )
            .expect("learned");
    }
    bed.run();
    bed
}

fn world(vnics: [Vnic; 3]) -> Model {
    let ports = (0..).zip(vnics).map(|(id, vnic)| access(id, 0).vnic(vnic));
    model([network(0)], ports.chain([access(3, 0)]))
}

fn datagram(from: u8, to: u8, port: u16) -> Vec<u8> {
    let packet = ipv4([10, 0, 0, from], [10, 0, 0, to], UDP, &udp(port, 53));
    ether(mac(to), mac(from), IPV4, &packet)
}

fn segment(from: u8, to: u8, ports: (u16, u16), flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    let mut segment = tcp(ports.0, ports.1, flags);
    segment[4..8].copy_from_slice(&seq.to_be_bytes());
    segment[8..12].copy_from_slice(&ack.to_be_bytes());
    let packet = ipv4([10, 0, 0, from], [10, 0, 0, to], TCP, &segment);
    ether(mac(to), mac(from), IPV4, &packet)
}

/// How many of `frames` frames reach `to`.
fn through(
    bed: &mut Bed,
    from: u16,
    to: u16,
    frames: usize,
    frame: impl Fn(usize) -> Vec<u8>,
) -> usize {
    for number in 0..frames {
        bed.send(from, &frame(number));
        if number % 64 == 63 {
            bed.run();
        }
    }
    bed.run();
    bed.received(to).len()
}

/// So long later, and a little: what the clock says is rounded down.
fn later(bed: &mut Bed, ms: u64) {
    bed.advance_ms(ms + 1);
}

fn passed_by(bed: &mut Bed, rule: u32) -> u64 {
    let at_s = bed.now_s();
    let mut frames = 0;
    for worker in &mut bed.workers {
        let capacity = worker.cache.capacity();
        let rules = &worker.slow_path.rules;
        worker.cache.settle(0, capacity, rules, at_s);
        let rows = rules.rows();
        let rows = rows.entries().filter(|row| row.rule == RuleId(rule));
        frames += rows.map(|row| row.frames).sum::<u64>();
    }
    frames
}

fn dropped_by(bed: &Bed, port: u16, reason: DropReason, rule: u32) -> u64 {
    let rows = bed.ledger().into_iter();
    let rows = rows.filter(|row| (row.0, row.1, row.2) == (port, reason, Some(RuleId(rule))));
    rows.map(|row| row.3).sum()
}

#[test]
fn a_burst_passes_an_allow_and_then_its_rate_in_either_direction() {
    let rule = || [limited(7, Action::Allow, 100, 20)];
    let directions = [
        (
            [open(1).outbound(Action::Deny, rule()), open(2), open(3)],
            (0, DropReason::LimitOut),
        ),
        (
            [open(1), open(2).inbound(Action::Deny, rule()), open(3)],
            (1, DropReason::LimitIn),
        ),
    ];
    // One flow, answered by the cache after its first frame, or many, each a miss.
    for (vnics, (account, reason)) in directions {
        for flows in [1, 1000] {
            let mut bed = bed(vnics.clone(), Options::default());
            let frame = |number: usize| datagram(1, 2, 1000 + (number % flows) as u16);
            assert_eq!(through(&mut bed, 0, 1, 100, frame), 20);
            later(&mut bed, 100);
            assert_eq!(through(&mut bed, 0, 1, 100, frame), 10);
            bed.advance_ms(60_000);
            assert_eq!(through(&mut bed, 0, 1, 100, frame), 20);
            assert_eq!(bed.counts(account).dropped(reason), 250);
            assert_eq!(dropped_by(&bed, account, reason, 7), 250);
            assert_eq!(passed_by(&mut bed, 7), 50);
            bed.check_conservation();
        }
    }
}

#[test]
fn flows_without_a_limit_beside_one_lose_nothing() {
    let matches = Match {
        protocol: Some(UDP),
        ..Match::default()
    };
    let rules = [
        Rule {
            matches,
            ..limited(1, Action::Allow, 1, 5)
        },
        allow(2, Match::default()),
    ];
    let vnics = [open(1), open(2).inbound(Action::Deny, rules), open(3)];
    let mut bed = bed(vnics, Options::default());
    let mixed = |number: usize| match number % 2 {
        0 => datagram(1, 2, 9),
        _ => segment(1, 2, (9, 80), ACK, 1, 1),
    };
    assert_eq!(through(&mut bed, 0, 1, 200, mixed), 105);
    assert_eq!((passed_by(&mut bed, 1), passed_by(&mut bed, 2)), (5, 100));
    bed.check_conservation();
}

#[test]
fn each_vnic_has_a_shared_rules_limit_for_itself() {
    let rule = || [limited(7, Action::Allow, 1, 10)];
    let [a, b, c] = [1, 2, 3].map(|n| open(n).outbound(Action::Deny, rule()));
    let mut bed = bed([a, b, c], Options::default());
    for from in [0, 1, 2] {
        let frame = |_| datagram(from as u8 + 1, 4, 9);
        assert_eq!(
            through(&mut bed, from, 3, 50, frame),
            10,
            "from port {from}"
        );
    }
    bed.check_conservation();
}

#[test]
fn workers_share_a_limit() {
    let rule = [limited(7, Action::Allow, 1, 10)];
    let vnics = [open(1), open(2), open(3).inbound(Action::Deny, rule)];
    let options = Options {
        workers: 2,
        ..Options::default()
    };
    let mut bed = bed(vnics, options);
    for number in 0..20 {
        bed.send(0, &datagram(1, 3, number));
        bed.send(1, &datagram(2, 3, number));
    }
    bed.run();
    assert_eq!(bed.received(2).len(), 10);
    assert_eq!(bed.counts(2).dropped(DropReason::LimitIn), 30);
    bed.check_conservation();
}

#[test]
fn each_receiver_of_a_flood_has_its_own_limit() {
    let rule = |id, burst| [limited(id, Action::Allow, 1, burst)];
    let vnics = [
        open(1).outbound(Action::Deny, rule(1, 30)),
        open(2).inbound(Action::Deny, rule(2, 10)),
        open(3).inbound(Action::Deny, rule(3, 20)),
    ];
    let mut bed = bed(vnics, Options::default());
    for _ in 0..40 {
        bed.pass(0, &plain(BROADCAST, mac(1)));
    }
    let sent = |bed: &Bed, port| bed.counts(port).tx_frames;
    assert_eq!([1, 2, 3].map(|port| sent(&bed, port)), [10, 20, 30]);
    assert_eq!(bed.counts(0).dropped(DropReason::LimitOut), 10);
    assert_eq!(bed.counts(1).dropped(DropReason::LimitIn), 20);
    assert_eq!([1, 2, 3].map(|id| passed_by(&mut bed, id)), [30, 10, 20]);
    bed.check_conservation();
}

#[test]
fn a_bucket_goes_on_across_changes_of_everything_else() {
    let rule = |burst| [limited(7, Action::Allow, 1, burst)];
    let vnics = |burst, other: Action| {
        let a = open(1).outbound(Action::Deny, rule(burst));
        [a, open(2), open(3).inbound(other, [])]
    };
    let mut bed = bed(vnics(10, Action::Allow), Options::default());
    let frame = |number| datagram(1, 2, number as u16);
    assert_eq!(through(&mut bed, 0, 1, 6, frame), 6);
    bed.publish(&world(vnics(10, Action::Deny)));
    assert_eq!(through(&mut bed, 0, 1, 20, frame), 4, "what was left");
    // Another limit begins with a full bucket.
    bed.publish(&world(vnics(12, Action::Deny)));
    assert_eq!(through(&mut bed, 0, 1, 20, frame), 12);
    bed.check_conservation();
}

/// Guest 2 takes so many new connections.
fn guarded(burst: u32) -> [Vnic; 3] {
    let rule = [limited(7, Action::AllowStateful, 1, burst)];
    [
        open(1),
        open(2)
            .inbound(Action::Deny, rule)
            .outbound(Action::Deny, []),
        open(3),
    ]
}

#[test]
fn a_stateful_limit_is_of_connections_and_spares_those_that_are_open() {
    let mut bed = bed(guarded(5), Options::default());
    let syn = |port| segment(1, 2, (port, 80), SYN, 100, 0);
    assert_eq!(bed.ports_of(0, &syn(999)), [1]);
    assert_eq!(
        bed.ports_of(1, &segment(2, 1, (80, 999), SYN | ACK, 500, 101)),
        [0]
    );
    // A flood of openings: four more are let in.
    assert_eq!(through(&mut bed, 0, 1, 300, |number| syn(number as u16)), 4);
    assert_eq!(bed.shared.connections.len(), 5);
    assert_eq!(dropped_by(&bed, 1, DropReason::LimitIn, 7), 296);
    assert_eq!(passed_by(&mut bed, 7), 6, "the openings, and an answer");
    // The open connection does not feel it, in either direction.
    for _ in 0..50 {
        assert_eq!(
            bed.ports_of(0, &segment(1, 2, (999, 80), ACK, 101, 501)),
            [1]
        );
        assert_eq!(
            bed.ports_of(1, &segment(2, 1, (80, 999), ACK, 501, 101)),
            [0]
        );
    }
    // Nor does a repeated opening, and a token that came back lets one more in.
    assert_eq!(bed.ports_of(0, &syn(0)), [1]);
    later(&mut bed, 1000);
    assert_eq!(
        through(&mut bed, 0, 1, 300, |number| syn(2000 + number as u16)),
        1
    );
    bed.check_conservation();
}

#[test]
fn a_stateful_limit_holds_for_datagrams_and_is_not_remembered_against_a_flow() {
    let mut bed = bed(guarded(3), Options::default());
    let frame = |number: usize| datagram(1, 2, (number % 10) as u16);
    // Three flows of ten; all frames of those.
    assert_eq!(through(&mut bed, 0, 1, 100, frame), 30);
    assert_eq!(bed.dropped(0, &datagram(1, 2, 5)), (1, DropReason::LimitIn));
    later(&mut bed, 1000);
    assert_eq!(
        bed.ports_of(0, &datagram(1, 2, 5)),
        [1],
        "a token came back"
    );
    assert_eq!(bed.ports_of(0, &datagram(1, 2, 5)), [1]);
    bed.check_conservation();
}

#[test]
fn what_opens_no_connection_takes_no_token() {
    let mut bed = bed(guarded(1), Options::default());
    for (flags, port) in [(ACK, 1), (RST, 2), (SYN | ACK, 3)] {
        let frame = segment(1, 2, (port, 80), flags, 7, 7);
        assert_eq!(bed.dropped(0, &frame), (0, DropReason::ConnectionInvalid));
    }
    assert_eq!(bed.ports_of(0, &segment(1, 2, (9, 80), SYN, 7, 0)), [1]);
}

#[test]
fn what_can_have_no_connection_counts_by_frames_under_a_stateful_limit() {
    let mut bed = bed(guarded(5), Options::default());
    let frame = |_| ether(mac(2), mac(1), 0x88b5, &[0; 46]);
    assert_eq!(through(&mut bed, 0, 1, 20, frame), 5);
    assert_eq!(dropped_by(&bed, 1, DropReason::LimitIn, 7), 15);
    bed.check_conservation();
}

#[test]
fn a_flood_opens_no_connection_for_a_receiver_without_a_token() {
    let mut bed = bed(guarded(1), Options::default());
    let to = |mac, port| ether(mac, self::mac(1), IPV4, &datagram(1, 2, port)[14..]);
    assert_eq!(bed.ports_of(0, &to(mac(2), 1)), [1]);
    assert_eq!(bed.ports_of(0, &to(BROADCAST, 2)), [2, 3]);
    let (account, reason) = bed.dropped(0, &to(mac(2), 2));
    assert_eq!((account, reason), (1, DropReason::LimitIn));
    bed.check_conservation();
}

#[test]
fn a_frame_that_would_open_a_connection_takes_a_token_whether_or_not_it_was_seen_before() {
    let rule = [limited(7, Action::AllowStateful, 1, 3)];
    let vnics = [
        open(1).outbound(Action::Deny, rule),
        open(2).inbound(Action::Deny, []),
        open(3),
    ];
    let mut bed = bed(vnics, Options::default());
    let refused: Vec<_> = (0..4).map(|_| bed.dropped(0, &datagram(1, 2, 9))).collect();
    let (denied, over) = ((1, DropReason::AclIn), (0, DropReason::LimitOut));
    assert_eq!(refused, [denied, denied, denied, over]);
    bed.check_conservation();
}

#[test]
fn a_limit_on_the_openers_side_is_of_its_connections() {
    let rule = [limited(7, Action::AllowStateful, 1, 4)];
    let vnics = [open(1).outbound(Action::Deny, rule), open(2), open(3)];
    let mut bed = bed(vnics, Options::default());
    let syn = |number: usize| segment(1, 2, (number as u16, 80), SYN, 100, 0);
    assert_eq!(through(&mut bed, 0, 1, 50, syn), 4);
    assert_eq!(dropped_by(&bed, 0, DropReason::LimitOut, 7), 46);
    bed.check_conservation();
}

#[test]
fn a_plain_limit_beside_a_connection_is_of_frames() {
    let vnics = [
        open(1).outbound(Action::Deny, [limited(1, Action::Allow, 1, 10)]),
        open(2).inbound(
            Action::Deny,
            [rule(2, Action::AllowStateful, Match::default())],
        ),
        open(3),
    ];
    let mut bed = bed(vnics, Options::default());
    let frame = |_| datagram(1, 2, 9);
    assert_eq!(through(&mut bed, 0, 1, 100, frame), 10);
    assert_eq!(dropped_by(&bed, 0, DropReason::LimitOut, 1), 90);
    assert_eq!(passed_by(&mut bed, 1), 10);
    bed.check_conservation();
}

/// What `vswitch explain` tells of a frame to guest 2.
fn foretell(bed: &Bed, frame: &[u8]) -> Result<(), DropReason> {
    let (bundle, shared) = (bed.shared.current.load(), &bed.shared);
    let given = Given {
        port: PortId(0),
        head: frame,
        len_bytes: frame.len(),
        vlan_tci: None,
    };
    let (snapshot, meters) = (&bundle.snapshot, &bundle.meters);
    let (places, connections) = ((&shared.bridge, &shared.neighbors), &shared.connections);
    let mut explainer = Explainer::new(snapshot, places, connections, meters, bed.now_ns());
    match explainer.judge(given, None).outcome() {
        Outcome::Dropped(denial) => Err(denial.reason),
        Outcome::Taken(_) => unreachable!("no router is here"),
        Outcome::Forwarded(exits) => exits[0].2.map(|_| ()).map_err(|denial| denial.reason),
    }
}

#[test]
fn to_be_explained_takes_no_token() {
    let plain = |action| [limited(7, action, 1, 2)];
    for (action, inbound) in [
        (Action::Allow, true),
        (Action::Allow, false),
        (Action::AllowStateful, true),
        (Action::AllowStateful, false),
    ] {
        let (vnics, over) = if inbound {
            let b = open(2).inbound(Action::Deny, plain(action));
            ([open(1), b, open(3)], DropReason::LimitIn)
        } else {
            let a = open(1).outbound(Action::Deny, plain(action));
            ([a, open(2), open(3)], DropReason::LimitOut)
        };
        let mut bed = bed(vnics, Options::default());
        for number in 0..2 {
            for _ in 0..5 {
                assert_eq!(foretell(&bed, &datagram(1, 2, number)), Ok(()));
            }
            assert_eq!(bed.ports_of(0, &datagram(1, 2, number)), [1]);
        }
        assert_eq!(foretell(&bed, &datagram(1, 2, 2)), Err(over));
        let open_flow = foretell(&bed, &datagram(1, 2, 1));
        let spared = action == Action::AllowStateful;
        assert_eq!(open_flow, if spared { Ok(()) } else { Err(over) });
    }
}

#[test]
fn a_limit_on_a_reject_is_of_answers() {
    for (a, b, account) in [
        (
            open(1).outbound(Action::Allow, [limited(7, Action::Reject, 1, 3)]),
            open(2),
            0,
        ),
        (
            open(1),
            open(2).inbound(Action::Allow, [limited(7, Action::Reject, 1, 3)]),
            1,
        ),
    ] {
        let mut bed = bed([a, b, open(3)], Options::default());
        let syn = |number: usize| segment(1, 2, (number as u16, 80), SYN, 100, 0);
        assert_eq!(through(&mut bed, 0, 0, 50, syn), 3, "resets");
        let reason = [DropReason::RejectOut, DropReason::RejectIn][account as usize];
        assert_eq!(dropped_by(&bed, account, reason, 7), 50);
        later(&mut bed, 1000);
        assert_eq!(through(&mut bed, 0, 0, 50, syn), 1);
        bed.check_conservation();
    }
}
