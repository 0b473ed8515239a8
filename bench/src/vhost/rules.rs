//! The policy that both switches enforce: the same rules in both languages.
//!
//! A thousand rules, or as many as the case says, each of which denies something to one destination
//! prefix, of 24, 28 and 32 bits by turns. None matches what the generator sends; what no rule denies passes.
//!
//! - [`Case::Acl`]: the prefixes lie scattered over the very addresses that the generator sends to,
//!   and each rule denies UDP to one port there, never the generator's. To know that none matches a
//!   switch must look at the whole address and the port of every flow: it can neither stop at the
//!   first bits of an address, nor treat all flows alike.
//! - [`Case::AclElsewhere`]: the prefixes, with all that goes there, lie far from any flow. A switch
//!   that stops at the first bit of an address that tells it so treats all flows alike.
//! - [`Case::NewFlows`]: half of the rules deny one address, half UDP from one port, scattered over all
//!   that the generator uses, and always a neighbour of what it uses.
//! - [`Case::Gate`]: as `Acl`, with a last rule that denies all that the generator sends, or not.

use std::{fmt::Write, net::Ipv4Addr};

use super::Case;

/// Rules in force in either case.
pub(super) const RULES: u32 = 1000;

/// The first address that flowgen sends to, and one far below.
const FIRST_DST: Ipv4Addr = Ipv4Addr::new(10, 253, 0, 0);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 0);

/// The UDP port that it sends to.
const GENERATOR_PORT: u32 = 1001;

/// As many addresses from there as rules lie among: a power of two, above the most flows.
const SPAN: u32 = 1 << 17;

/// What a rule denies: all, or UDP alone where a port is named.
#[derive(Clone, Copy, Debug, Default)]
struct Denied {
    /// Network and length of its prefix.
    dst: Option<(Ipv4Addr, u32)>,
    src_port: Option<u32>,
    dst_port: Option<u32>,
}

fn rules(case: Case) -> impl Iterator<Item = Denied> {
    let gate = matches!(case, Case::Gate { open: false, .. });
    let count = case.rules() - u32::from(gate);
    let shut = gate.then_some(Denied {
        dst_port: Some(GENERATOR_PORT),
        ..Denied::default()
    });
    (0..count).map(move |index| rule(case, index)).chain(shut)
}

fn rule(case: Case, index: u32) -> Denied {
    // An odd factor visits each place of the span once; this one jumps far.
    let place = index.wrapping_mul(0x9e37_79b1) % SPAN;
    if let Case::NewFlows { .. } = case {
        // Even addresses and ports, where flows have odd ones.
        let even = place / 4 * 2;
        let dst = (u32::from(FIRST_DST) + even).into();
        return if index.is_multiple_of(2) {
            Denied {
                dst: Some((dst, 32)),
                ..Denied::default()
            }
        } else {
            Denied {
                src_port: Some(even.max(2)),
                ..Denied::default()
            }
        };
    }
    let first = if case == Case::AclElsewhere {
        ELSEWHERE
    } else {
        FIRST_DST
    };
    let prefix_len = [24, 28, 32][index as usize % 3];
    let mask = u32::MAX << (32 - prefix_len);
    let network = ((u32::from(first) + place) & mask).into();
    Denied {
        dst: Some((network, prefix_len)),
        src_port: None,
        dst_port: (case != Case::AclElsewhere).then_some(index % (GENERATOR_PORT - 1) + 1),
    }
}

/// The rules as a `vswitch` ACL: what stands between the brackets of `rules = [ ]`.
pub(super) fn for_vswitch(case: Case) -> String {
    rules(case).fold(String::new(), |mut text, rule| {
        text += "  { action = \"deny\"";
        if let Some((network, len)) = rule.dst {
            let _ = write!(text, ", dst = \"{network}/{len}\"");
        }
        if rule.src_port.or(rule.dst_port).is_some() {
            text += ", protocol = \"udp\"";
        }
        for (name, port) in [("src_ports", rule.src_port), ("dst_ports", rule.dst_port)] {
            if let Some(port) = port {
                let _ = write!(text, ", {name} = [{port}]");
            }
        }
        text += " },\n";
        text
    })
}

/// The rules as `OpenFlow` flows, a line each, above priority 1, with which the rest passes.
pub(super) fn for_openflow(case: Case) -> String {
    const HIGHEST: u64 = 65_000;
    const LOWEST: u64 = 1000;
    let count = u64::from(case.rules()).max(1);
    (0..)
        .zip(rules(case))
        .fold(String::new(), |mut text, (index, rule)| {
            // Ordered, as an ACL is; where there are more rules than priorities, neighbours share one.
            let priority = HIGHEST - index * (HIGHEST - LOWEST) / count;
            let udp = rule.src_port.or(rule.dst_port).is_some();
            let _ = write!(
                text,
                "priority={priority},{}",
                if udp { "udp" } else { "ip" }
            );
            if let Some((network, len)) = rule.dst {
                let _ = write!(text, ",nw_dst={network}/{len}");
            }
            for (name, port) in [("tp_src", rule.src_port), ("tp_dst", rule.dst_port)] {
                if let Some(port) = port {
                    let _ = write!(text, ",{name}={port}");
                }
            }
            text += ",actions=drop\n";
            text
        })
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;

    use super::*;

    fn prefix(rule: &Denied) -> Ipv4Net {
        let (network, len) = rule.dst.expect("a destination");
        Ipv4Net::new(network, len as u8).expect("a prefix")
    }

    /// The addresses of the most flows there can be.
    fn destinations() -> impl Iterator<Item = Ipv4Addr> {
        (0..100_000).map(|flow| (u32::from(FIRST_DST) + flow).into())
    }

    #[test]
    fn no_rule_matches_the_generator_though_rules_lie_all_over_its_addresses() {
        let all: Vec<Denied> = rules(Case::Acl).collect();
        assert!(all.iter().all(|rule| rule.dst_port != Some(GENERATOR_PORT)));
        let near = |dst: &Ipv4Addr| all.iter().any(|rule| prefix(rule).contains(dst));
        let covered = destinations().step_by(97).filter(near).count();
        assert!(
            covered > 100,
            "the prefixes hold {covered} of 1031 addresses"
        );
        let quarters: std::collections::BTreeSet<u32> = all
            .iter()
            .map(|rule| (u32::from(prefix(rule).network()) - u32::from(FIRST_DST)) / (SPAN / 4))
            .collect();
        assert_eq!(quarters, (0..4).collect());
    }

    #[test]
    fn rules_elsewhere_hold_no_address_of_a_flow() {
        let rules: Vec<Ipv4Net> = rules(Case::AclElsewhere)
            .map(|rule| prefix(&rule))
            .collect();
        assert_eq!(rules.len(), RULES as usize);
        for dst in destinations().step_by(97) {
            assert!(rules.iter().all(|prefix| !prefix.contains(&dst)), "{dst}");
        }
    }

    #[test]
    fn a_shut_gate_denies_the_generators_frames_by_its_last_rule_alone() {
        let gate = |open| rules(Case::Gate { rules: 5000, open }).collect::<Vec<_>>();
        for open in [true, false] {
            let rules = gate(open);
            assert_eq!(rules.len(), 5000);
            let hit = |rule: &&Denied| rule.dst_port == Some(GENERATOR_PORT);
            let hits = rules.iter().filter(hit).count();
            assert_eq!(hits, usize::from(!open));
        }
        assert!(gate(false).last().is_some_and(|rule| rule.dst.is_none()));
    }

    #[test]
    fn rules_for_new_flows_name_even_addresses_and_ports_only() {
        for rule in rules(Case::NewFlows { rules: 10_000 }) {
            let even = |number: Option<u32>| number.is_none_or(|number| number.is_multiple_of(2));
            assert!(
                even(rule.dst.map(|(dst, _)| dst.into())) && even(rule.src_port),
                "{rule:?}"
            );
            assert!(rule.dst.is_some() != rule.src_port.is_some());
        }
    }

    #[test]
    fn both_switches_are_told_the_same_rules_in_the_same_order() {
        let ours = for_vswitch(Case::Acl);
        let theirs = for_openflow(Case::Acl);
        assert_eq!(ours.lines().count(), RULES as usize);
        let priority = |line: &str| -> u32 {
            let number = line
                .strip_prefix("priority=")
                .and_then(|rest| rest.split(',').next());
            number.and_then(|n| n.parse().ok()).expect("a priority")
        };
        let mut last = u32::MAX;
        for (ours, theirs) in ours.lines().zip(theirs.lines()) {
            let prefix = ours.split('"').nth(3).expect("a prefix");
            let port = ours.split(['[', ']']).nth(1).expect("a port");
            assert!(
                theirs.contains(&format!("nw_dst={prefix},tp_dst={port},")),
                "{theirs}"
            );
            assert!(priority(theirs) < last && priority(theirs) > 1);
            last = priority(theirs);
        }
    }

    #[test]
    fn port_to_port_has_no_rules() {
        assert_eq!(for_vswitch(Case::PortToPort), "");
        assert_eq!(for_openflow(Case::PortToPort), "");
    }
}
