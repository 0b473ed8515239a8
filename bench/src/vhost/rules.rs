//! The policy that both switches enforce in the case `acl`: the same rules in both languages.
//!
//! A thousand rules, each of which denies UDP to one destination prefix and one port. The prefixes
//! are of 24, 28 and 32 bits by turns and lie scattered over the very addresses that the
//! generator sends to; no port is the generator's. So no rule matches, and to know that a switch
//! must look at the whole address and the port of every flow: it can neither stop at the first
//! bits of an address, nor treat all flows alike. What no rule denies passes.

use std::{fmt::Write, net::Ipv4Addr};

/// Rules in force in the case `acl`.
pub(super) const RULES: u32 = 1000;

/// The first address that flowgen sends to.
const FIRST_DST: Ipv4Addr = Ipv4Addr::new(10, 253, 0, 0);

/// As many addresses from there as rules lie among: a power of two, above the most flows.
const SPAN: u32 = 1 << 17;

/// A rule: what it denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Denied {
    network: Ipv4Addr,
    prefix_len: u32,
    port: u32,
}

fn rules() -> impl Iterator<Item = Denied> {
    (0..RULES).map(|index| {
        // An odd factor visits each place of the span once; this one jumps far.
        let place = index.wrapping_mul(0x9e37_79b1) % SPAN;
        let prefix_len = [24, 28, 32][index as usize % 3];
        let mask = u32::MAX << (32 - prefix_len);
        Denied {
            network: ((u32::from(FIRST_DST) + place) & mask).into(),
            prefix_len,
            // Up to 1000; the generator's is 1001.
            port: index + 1,
        }
    })
}

/// The rules as a `vswitch` ACL: what stands between the brackets of `rules = [ ]`.
pub(super) fn for_vswitch() -> String {
    rules().fold(String::new(), |mut text, rule| {
        let _ = writeln!(
            text,
            "  {{ action = \"deny\", dst = \"{}/{}\", protocol = \"udp\", dst_ports = [{}] }},",
            rule.network, rule.prefix_len, rule.port
        );
        text
    })
}

/// The rules as OpenFlow flows, a line each, above the priority of what lets the rest pass.
pub(super) fn for_openflow() -> String {
    (0..)
        .zip(rules())
        .fold(String::new(), |mut text, (index, rule)| {
            let _ = writeln!(
                text,
                "priority={},udp,nw_dst={}/{},tp_dst={},actions=drop",
                // Ordered, as an ACL is.
                2 * RULES - index,
                rule.network,
                rule.prefix_len,
                rule.port
            );
            text
        })
}
