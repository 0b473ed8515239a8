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
