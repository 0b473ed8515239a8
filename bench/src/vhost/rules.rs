//! The policy that both switches enforce: the same rules in both languages.
//!
//! A thousand rules, each of which denies something to one destination prefix, of 24, 28 and 32
//! bits by turns. None matches what the generator sends; what no rule denies passes.
//!
//! - [`Case::Acl`]: the prefixes lie scattered over the very addresses that the generator sends to,
//!   and each rule denies UDP to one port there, never the generator's. To know that none matches a
//!   switch must look at the whole address and the port of every flow: it can neither stop at the
//!   first bits of an address, nor treat all flows alike.
//! - [`Case::AclElsewhere`]: the prefixes, with all that goes there, lie far from any flow. A switch
//!   that stops at the first bit of an address that tells it so treats all flows alike.

use std::{fmt::Write, net::Ipv4Addr};

use super::Case;

/// Rules in force in either case.
pub(super) const RULES: u32 = 1000;

/// The first address that flowgen sends to, and one far below.
const FIRST_DST: Ipv4Addr = Ipv4Addr::new(10, 253, 0, 0);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 0);

/// As many addresses from there as rules lie among: a power of two, above the most flows.
const SPAN: u32 = 1 << 17;

/// What a rule denies.
#[derive(Clone, Copy, Debug)]
struct Denied {
    network: Ipv4Addr,
    prefix_len: u32,
    /// A UDP port, or everything.
    port: Option<u32>,
}

fn rules(case: Case) -> impl Iterator<Item = Denied> {
    let first = match case {
        Case::AclElsewhere => ELSEWHERE,
        Case::PortToPort | Case::Acl => FIRST_DST,
    };
    (0..case.rules()).map(move |index| {
        // An odd factor visits each place of the span once; this one jumps far.
        let place = index.wrapping_mul(0x9e37_79b1) % SPAN;
        let prefix_len = [24, 28, 32][index as usize % 3];
        let mask = u32::MAX << (32 - prefix_len);
        Denied {
            network: ((u32::from(first) + place) & mask).into(),
            prefix_len,
            // Up to 1000; the generator's is 1001.
            port: (case == Case::Acl).then_some(index + 1),
        }
    })
}

/// The rules as a `vswitch` ACL: what stands between the brackets of `rules = [ ]`.
pub(super) fn for_vswitch(case: Case) -> String {
    rules(case).fold(String::new(), |mut text, rule| {
        let port = rule.port.map_or_else(String::new, |port| {
            format!(", protocol = \"udp\", dst_ports = [{port}]")
        });
        let _ = writeln!(
            text,
            "  {{ action = \"deny\", dst = \"{}/{}\"{port} }},",
            rule.network, rule.prefix_len
        );
        text
    })
}

/// The rules as `OpenFlow` flows, a line each, above priority 1, with which the rest passes.
pub(super) fn for_openflow(case: Case) -> String {
    (0..)
        .zip(rules(case))
        .fold(String::new(), |mut text, (index, rule)| {
            let (protocol, port) = match rule.port {
                Some(port) => ("udp", format!(",tp_dst={port}")),
                None => ("ip", String::new()),
            };
            let _ = writeln!(
                text,
                "priority={},{protocol},nw_dst={}/{}{port},actions=drop",
                // Ordered, as an ACL is.
                2 * RULES - index,
                rule.network,
                rule.prefix_len,
            );
            text
        })
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;

    use super::*;

    const GENERATOR_PORT: u32 = 1001;

    fn prefix(rule: &Denied) -> Ipv4Net {
        Ipv4Net::new(rule.network, rule.prefix_len as u8).expect("a prefix")
    }

    /// The addresses of the most flows there can be.
    fn destinations() -> impl Iterator<Item = Ipv4Addr> {
        (0..100_000).map(|flow| (u32::from(FIRST_DST) + flow).into())
    }

    #[test]
    fn no_rule_matches_the_generator_though_rules_lie_all_over_its_addresses() {
        let all: Vec<Denied> = rules(Case::Acl).collect();
        assert!(all.iter().all(|rule| rule.port != Some(GENERATOR_PORT)));
        let near = |dst: &Ipv4Addr| all.iter().any(|rule| prefix(rule).contains(dst));
        let covered = destinations().step_by(97).filter(near).count();
        assert!(
            covered > 100,
            "the prefixes hold {covered} of 1031 addresses"
        );
        let quarters: std::collections::BTreeSet<u32> = all
            .iter()
            .map(|rule| (u32::from(rule.network) - u32::from(FIRST_DST)) / (SPAN / 4))
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
