//! What rules with `log` leave in the process's log.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use policy::{
    conntrack::packet::flags,
    model::{Action, RateLimit, SenderChecks, Vnic},
    rule::{Match, Rule},
};
use vswitch::rule_log::{MOST_PER_SECOND, Writer};

use crate::bed::{Bed, build::*, frames::*};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("lock").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines that are written of what the workers left.
fn lines(bed: &Bed) -> Vec<String> {
    let sink = Sink::default();
    let into = sink.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_target(false)
        .with_writer(move || into.clone())
        .finish();
    let rings = bed.workers.iter().map(|worker| Arc::clone(&worker.log));
    let mut writer = Writer::new(rings.collect(), bed.shared.clock);
    let bundle = bed.shared.current.load_full();
    tracing::subscriber::with_default(subscriber, || writer.write(&bundle));
    let bytes = sink.0.lock().expect("lock").clone();
    let text = String::from_utf8(bytes).expect("text");
    text.lines().map(Into::into).collect()
}

fn open(n: u8) -> Vnic {
    vnic(mac(n)).checks(SenderChecks::NONE)
}

fn logged(id: u32, action: Action, protocol: u8) -> Rule {
    Rule {
        log: true,
        matches: Match {
            protocol: Some(protocol),
            ..Match::default()
        },
        ..rule(id, action, Match::default())
    }
}

/// Makes flows of different source ports different: without it policy reads none.
fn by_source_port() -> Rule {
    let matches = Match {
        protocol: Some(UDP),
        src_ports: vec![65_000..=65_000],
        ..Match::default()
    };
    deny(100, matches)
}

fn bed(a: Vnic, b: Vnic) -> Bed {
    let ports = [access(0, 0).vnic(a), access(1, 0).vnic(b)];
    let mut bed = Bed::new(&model([network(0)], ports));
    bed.pass(0, &plain(BROADCAST, mac(1)));
    bed.pass(1, &plain(BROADCAST, mac(2)));
    assert_eq!(lines(&bed), [""; 0], "no rule with log decided");
    bed
}

fn frame(from: u8, to: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let packet = ipv4([10, 0, 0, from], [10, 0, 0, to], protocol, payload);
    ether(mac(to), mac(from), IPV4, &packet)
}

fn datagram(port: u16) -> Vec<u8> {
    frame(1, 2, UDP, &udp(port, 53))
}

#[test]
fn a_line_for_each_flow_says_who_what_and_by_which_rule() {
    let rules = [
        logged(7, Action::Allow, UDP),
        logged(8, Action::Deny, TCP),
        logged(9, Action::Reject, 47),
    ];
    let mut bed = bed(
        open(1).outbound(Action::Allow, []),
        open(2).inbound(Action::Deny, rules),
    );
    for _ in 0..10 {
        bed.pass(0, &datagram(1000));
        bed.pass(0, &frame(1, 2, TCP, &tcp(5, 22, 2)));
        bed.pass(0, &frame(1, 2, 47, &[0; 8]));
    }
    let lines = lines(&bed);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, words) in lines.iter().zip([
        [
            "verdict=\"passed\"",
            "10.0.0.1:1000 > 10.0.0.2:53: UDP",
            "test:7",
        ],
        [
            "verdict=\"denied\"",
            "10.0.0.1:5 > 10.0.0.2:22: TCP [S]",
            "test:8",
        ],
        [
            "verdict=\"rejected\"",
            "10.0.0.1 > 10.0.0.2: protocol 47",
            "test:9",
        ],
    ]) {
        let all = [
            "INFO",
            "direction=in",
            "vm=vm-02:00:00:00:00:02",
            "vnic=vnic-02:00:00:00:00:02",
            "port=port1",
            "network=net0",
            "time=",
        ];
        for word in words.iter().chain(&all) {
            assert!(line.contains(word), "{word} in {line}");
        }
    }
}

#[test]
fn of_a_connection_only_the_opening_is_logged() {
    let a = open(1)
        .outbound(Action::Deny, [logged(1, Action::AllowStateful, TCP)])
        .inbound(Action::Deny, []);
    let mut bed = bed(a, open(2));
    let segment = |flags: u8, seq: u32, ack: u32, back: bool| {
        let (from, to, ports) = if back {
            (2, 1, (80, 1000))
        } else {
            (1, 2, (1000, 80))
        };
        let mut segment = tcp(ports.0, ports.1, flags);
        segment[4..8].copy_from_slice(&seq.to_be_bytes());
        segment[8..12].copy_from_slice(&ack.to_be_bytes());
        frame(from, to, TCP, &segment)
    };
    let conversation = [
        (0, segment(flags::SYN, 100, 0, false)),
        (1, segment(flags::SYN | flags::ACK, 500, 101, true)),
        (0, segment(flags::ACK, 101, 501, false)),
        (1, segment(flags::ACK, 501, 101, true)),
        (0, segment(flags::FIN | flags::ACK, 101, 501, false)),
        (1, segment(flags::FIN | flags::ACK, 501, 102, true)),
        (0, segment(flags::ACK, 102, 502, false)),
    ];
    for (port, frame) in &conversation {
        assert_eq!(bed.pass(*port, frame).len(), 1);
    }
    let lines = lines(&bed);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(
        lines[0].contains("direction=out") && lines[0].contains("[S]"),
        "{lines:#?}"
    );
}

#[test]
fn a_flood_of_flows_is_cut_and_the_rest_told_by_its_number() {
    let rules = [by_source_port(), logged(7, Action::Allow, UDP)];
    let mut bed = bed(open(1), open(2).inbound(Action::Deny, rules));
    for port in 2000..2500 {
        bed.pass(0, &datagram(port));
    }
    let told = lines(&bed);
    let most = MOST_PER_SECOND as usize + 1;
    assert_eq!(told.len(), most + 1, "{told:#?}");
    let rest = format!("{} more not logged port=port1", 500 - most);
    assert!(told[most].contains(&rest), "{}", told[most]);
    bed.advance_ms(500);
    for port in 1000..1500 {
        bed.pass(0, &datagram(port));
    }
    let told = lines(&bed).len();
    assert!((49..=52).contains(&told), "{told}");
    bed.check_conservation();
}

#[test]
fn what_is_over_a_limit_is_logged_as_that() {
    let limit = Some(RateLimit {
        per_second: 1,
        burst: 2,
    });
    for action in [Action::Allow, Action::AllowStateful] {
        for inbound in [false, true] {
            let rules = [
                by_source_port(),
                Rule {
                    limit,
                    ..logged(7, action, UDP)
                },
            ];
            let [mut a, mut b] = [open(1), open(2)];
            if inbound {
                b = b.inbound(Action::Deny, rules);
            } else {
                a = a.outbound(Action::Deny, rules);
            }
            let mut bed = bed(a, b);
            for port in 0..3 {
                bed.pass(0, &datagram(port));
            }
            let (lines, over) = (lines(&bed), if inbound { "limit_in" } else { "limit_out" });
            assert_eq!(lines.len(), 3, "{lines:#?}");
            for (line, verdict) in lines.iter().zip(["passed", "passed", over]) {
                assert!(line.contains(&format!("verdict=\"{verdict}\"")), "{line}");
            }
        }
    }
}
