//! Golden cases: folders that a person can read.
//!
//! In: `tests/golden/datapath/NAME/case.toml` (networks, ports, vNICs, rules) and `in.txt`, one
//! frame a line: the port's name, a tag beside the frame if it has one (`beside=200a`), and the
//! bytes in hexadecimal, grouped as the writer likes; lines that are indented go on with the
//! frame, `#` begins a comment. Out: `out.txt`, what became of each frame, and `counters.txt`.
//! With `UPDATE_GOLDEN=1` in the environment the two are written anew instead of compared.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use policy::{
    NetworkId,
    model::{Action, Attachment, DirectionPolicy, Model, SenderChecks},
    rule::{FragmentMatch, IcmpMatch, Match, Rule},
};
use serde::Deserialize;

use crate::bed::{Bed, build::*};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/datapath");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    network: Vec<CaseNetwork>,
    port: Vec<CasePort>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseNetwork {
    name: String,
    vlan: Option<u16>,
}

/// A port has `access`, or `trunk` and `native`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CasePort {
    name: String,
    access: Option<String>,
    #[serde(default)]
    trunk: Vec<String>,
    native: Option<String>,
    #[serde(default)]
    isolated: bool,
    vnic: Option<CaseVnic>,
}

/// Policies are lists of rules; the last entry may be a bare `allow` or `deny`: the default,
/// otherwise `allow`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseVnic {
    mac: String,
    #[serde(default)]
    ipv4: Vec<String>,
    #[serde(default)]
    ipv6: Vec<String>,
    #[serde(default = "yes")]
    checks: bool,
    #[serde(default)]
    inbound: Vec<String>,
    #[serde(default)]
    outbound: Vec<String>,
}

fn yes() -> bool {
    true
}

impl Case {
    fn model(&self) -> Model {
        let networks = self.network.iter().enumerate().map(|(id, case)| {
            case.vlan
                .map_or(network(id as u16), |vlan| vlan_network(id as u16, vlan))
        });
        let mut rules = 0;
        let ports = self.port.iter().enumerate();
        let ports = ports.map(|(id, case)| {
            let mut port = access(id as u16, 0);
            port.name = case.name.as_str().into();
            port.attachment = self.attachment(case);
            port.isolated = case.isolated;
            port.vnic = case.vnic.as_ref().map(|case| {
                let mut vnic = vnic(case.mac.parse().expect("an Ethernet address"));
                vnic = case.ipv4.iter().fold(vnic, |vnic, net| vnic.ipv4(net));
                vnic = case.ipv6.iter().fold(vnic, |vnic, net| vnic.ipv6(net));
                if !case.checks {
                    vnic.checks = SenderChecks::NONE;
                }
                vnic.inbound = direction_of(&case.inbound, &mut rules);
                vnic.outbound = direction_of(&case.outbound, &mut rules);
                vnic
            });
            port
        });
        model(networks, ports)
    }

    fn attachment(&self, case: &CasePort) -> Attachment {
        let network = |name: &String| {
            let mut networks = self.network.iter();
            let number = networks.position(|network| network.name == *name);
            NetworkId(number.expect("a network of the case") as u16)
        };
        match &case.access {
            Some(name) => Attachment::Access(network(name)),
            None => Attachment::Trunk {
                tagged: case.trunk.iter().map(network).collect(),
                native: case.native.as_ref().map(network),
            },
        }
    }
}

/// Numbers rules from 1 over the whole case.
fn direction_of(lines: &[String], rules: &mut u32) -> DirectionPolicy {
    let mut default = Action::Allow;
    let mut list = Vec::new();
    for line in lines {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let action = match word {
            "allow" => Action::Allow,
            "deny" => Action::Deny,
            _ => panic!("a rule begins with allow or deny: {line}"),
        };
        if rest.is_empty() {
            default = action;
        } else {
            *rules += 1;
            list.push(rule_of(*rules, action, rest));
        }
    }
    direction(default, list)
}

/// As in `proto 6 dport 80-81 dst 10.0.0.0/8`.
fn rule_of(id: u32, action: Action, text: &str) -> Rule {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut matches = Match::default();
    for pair in words.chunks(2) {
        let [key, value] = *pair else {
            panic!("a word without a value: {text}");
        };
        let number = || value.parse().expect("a number");
        let range = || {
            let (first, last) = value.split_once('-').unwrap_or((value, value));
            first.parse().expect("a port")..=last.parse().expect("a port")
        };
        match key {
            "proto" => matches.protocol = Some(number()),
            "icmp" => {
                matches.icmp = Some(IcmpMatch {
                    kind: number(),
                    code: None,
                });
            }
            "sport" => matches.src_ports.push(range()),
            "dport" => matches.dst_ports.push(range()),
            "src" => matches.src = Some(value.parse().expect("a prefix")),
            "dst" => matches.dst = Some(value.parse().expect("a prefix")),
            "ethertype" => matches.ethertype = u16::from_str_radix(value, 16).ok(),
            "fragment" => {
                matches.fragment = Some(match value {
                    "later" => FragmentMatch::Later,
                    "first" => FragmentMatch::First,
                    "any" => FragmentMatch::Any,
                    _ => FragmentMatch::No,
                });
            }
            _ => panic!("unknown word {key} in: {text}"),
        }
    }
    rule(id, action, matches)
}

/// A frame of `in.txt`.
struct Input {
    port: String,
    beside: Option<u16>,
    bytes: Vec<u8>,
}

fn inputs(text: &str) -> Vec<Input> {
    let mut inputs: Vec<Input> = Vec::new();
    for line in text.lines() {
        let content = line.split('#').next().unwrap_or("");
        let mut words = content.split_whitespace().peekable();
        if words.peek().is_none() {
            continue;
        }
        if !line.starts_with(char::is_whitespace) {
            inputs.push(Input {
                port: words.next().expect("a port").to_owned(),
                beside: None,
                bytes: Vec::new(),
            });
        }
        let input = inputs.last_mut().expect("the first line begins a frame");
        for word in words {
            match word.strip_prefix("beside=") {
                Some(tci) => input.beside = u16::from_str_radix(tci, 16).ok(),
                None => input.bytes.extend(hex(word)),
            }
        }
    }
    inputs
}

fn hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "half a byte in {text}");
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Addresses, tag, ethertype and the rest apart.
fn grouped(frame: &[u8]) -> String {
    let tagged = frame.len() >= 18 && frame[12..14] == [0x81, 0x00];
    let ends: &[usize] = if tagged {
        &[6, 12, 16, 18]
    } else {
        &[6, 12, 14]
    };
    let mut text = String::new();
    for (at, byte) in frame.iter().enumerate() {
        if ends.contains(&at) {
            text.push(' ');
        }
        write!(text, "{byte:02x}").expect("a string takes all");
    }
    text
}

type Ledger = BTreeMap<(u16, u8, Option<u32>), u64>;

fn ledger(bed: &Bed) -> Ledger {
    let rows = bed.ledger().into_iter();
    rows.map(|(port, reason, rule, n)| ((port, reason as u8, rule.map(|r| r.0)), n))
        .collect()
}

/// Plays a case: what became of each frame, and the counters at the end.
fn play(model: &Model, inputs: &[Input]) -> (String, String) {
    let mut bed = Bed::new(model);
    let name = |port: u16| &*model.ports[port as usize].name;
    let mut out = String::new();
    for (number, input) in inputs.iter().enumerate() {
        let from = model
            .ports
            .iter()
            .position(|port| *port.name == *input.port);
        let from = from.unwrap_or_else(|| panic!("no port {}", input.port)) as u16;
        let before = ledger(&bed);
        match input.beside {
            None => bed.send(from, &input.bytes),
            Some(tci) => bed.send_tagged(from, &input.bytes, tci),
        }
        bed.run();
        writeln!(out, "# frame {} from {}", number + 1, input.port).expect("a string");
        for (port, frame) in bed.all_received() {
            writeln!(out, "{} {}", name(port), grouped(&frame)).expect("a string");
        }
        for ((port, reason, rule), n) in ledger(&bed) {
            if before.get(&(port, reason, rule)) != Some(&n) {
                let reason = policy::DropReason::ALL[reason as usize];
                let rule = rule.map_or(String::new(), |rule| format!(" by rule {rule}"));
                writeln!(out, "dropped at {}: {reason}{rule}", name(port)).expect("a string");
            }
        }
    }
    let mut counters = String::new();
    for port in 0..model.ports.len() as u16 {
        let counts = bed.counts(port);
        write!(
            counters,
            "{} rx {} tx {}",
            name(port),
            counts.rx_frames,
            counts.tx_frames
        )
        .expect("a string");
        for (reason, frames) in counts.drops {
            write!(counters, " {reason} {frames}").expect("a string");
        }
        counters.push('\n');
    }
    (out, counters)
}

fn check(folder: &Path) {
    let read = |file: &str| {
        let path = folder.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let case: Case = toml::from_str(&read("case.toml"))
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let (out, counters) = play(&case.model(), &inputs(&read("in.txt")));
    for (file, text) in [("out.txt", out), ("counters.txt", counters)] {
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(folder.join(file), text).expect("a folder that can be written to");
        } else {
            let expected = read(file);
            assert_eq!(text, expected, "{}/{file}", folder.display());
        }
    }
}

#[test]
fn every_golden_case_comes_out_as_written() {
    let mut cases: Vec<_> = fs::read_dir(FOLDER)
        .expect("the folder of golden cases")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(cases.len() >= 6, "only {} cases in {FOLDER}", cases.len());
    for folder in cases {
        check(&folder);
    }
}
