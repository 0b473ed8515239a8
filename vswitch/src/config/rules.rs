//! ACL rules: from a table of the file to a [`Match`].

use std::{ops::RangeInclusive, str::FromStr, sync::Arc};

use ipnet::IpNet;
use policy::{
    Mac, VlanId,
    model::{Action, RateLimit},
    rule::{FlagsMatch, FragmentMatch, IcmpMatch, MacMatch, Match},
};

use super::{
    problem::nearest,
    schema,
    section::{At, Section},
    types::{Acl, AclRule},
};

/// IP protocols by name (IANA "Assigned Internet Protocol Numbers").
const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ospf", 89),
    ("vrrp", 112),
    ("sctp", 132),
];
/// Ethertypes by name (IANA "IEEE 802 Numbers").
const ETHERTYPES: &[(&str, u16)] = &[
    ("ipv4", 0x0800),
    ("arp", 0x0806),
    ("ipv6", 0x86dd),
    ("lldp", 0x88cc),
];
/// TCP flags, FIN lowest (RFC 9293 §3.1).
const FLAGS: &[(&str, u8)] = &[
    ("fin", 1),
    ("syn", 2),
    ("rst", 4),
    ("psh", 8),
    ("ack", 16),
    ("urg", 32),
    ("ece", 64),
    ("cwr", 128),
];
const FRAGMENTS: &[(&str, FragmentMatch)] = &[
    ("no", FragmentMatch::No),
    ("any", FragmentMatch::Any),
    ("first", FragmentMatch::First),
    ("later", FragmentMatch::Later),
];
/// What a rule or a default does, by name.
pub(super) const ACTIONS: &[(&str, Action)] = &[
    (Action::Allow.name(), Action::Allow),
    (Action::AllowStateful.name(), Action::AllowStateful),
    (Action::Deny.name(), Action::Deny),
    (Action::Reject.name(), Action::Reject),
];

/// Reads an ACL; a rule with a problem is left out, and the problem noted.
pub(super) fn acl(section: &Section<'_>, name: &Arc<str>) -> Acl {
    let mut rules = section.sections("rules", &schema::RULE);
    let headed = section.sections("rule", &schema::RULE);
    if !rules.is_empty() && !headed.is_empty() {
        section.reader.report(
            &headed[0].span,
            format!("ACL \"{name}\" has rules in two places"),
            "their order would be unclear; write all of them under rules or all as [[acl.rule]]",
        );
    }
    rules.extend(headed);
    Acl {
        name: Arc::clone(name),
        rules: rules.iter().filter_map(rule).collect(),
    }
}

fn rule(section: &Section<'_>) -> Option<AclRule> {
    let reader = section.reader;
    let problems_before = reader.count();
    let action = section
        .required("action")
        .and_then(|text| reader.choice(&text, ACTIONS));
    let log = section.bool("log").unwrap_or(false);
    let limit = section.string("limit").and_then(|text| reader.parse(&text));
    let matches = Match {
        eth_src: section.string("eth_src").and_then(|t| mac(section, &t)),
        eth_dst: section.string("eth_dst").and_then(|t| mac(section, &t)),
        ethertype: section
            .word("ethertype")
            .and_then(|t| number(section, &t, ETHERTYPES, "an ethertype")),
        vlan: section.integer("vlan", 1..=4094_u16).and_then(VlanId::new),
        src: section.string("src").and_then(|t| network(section, &t)),
        dst: section.string("dst").and_then(|t| network(section, &t)),
        protocol: section
            .word("protocol")
            .and_then(|t| number(section, &t, PROTOCOLS, "a protocol")),
        src_ports: ports(section, "src_ports"),
        dst_ports: ports(section, "dst_ports"),
        icmp: icmp(section),
        tcp_flags: section.string("tcp_flags").and_then(|t| flags(section, &t)),
        fragment: section
            .string("fragment")
            .and_then(|t| reader.choice(&t, FRAGMENTS)),
    };
    let action = action?;
    if reader.count() > problems_before {
        return None;
    }
    if let Err(error) = matches.validate() {
        reader.report(&section.span, error.to_string(), "");
        return None;
    }
    Some(AclRule {
        action,
        log,
        limit,
        text: text(action, log, limit, &matches),
        matches,
        place: reader.source.place(section.span.start),
    })
}

fn text(action: Action, log: bool, limit: Option<RateLimit>, matches: &Match) -> String {
    let (verb, stateful) = match action {
        Action::Allow => ("allow", ""),
        Action::AllowStateful => ("allow", " stateful"),
        Action::Deny => ("deny", ""),
        Action::Reject => ("reject", ""),
    };
    let log = if log { " log" } else { "" };
    let limit = limit.map_or(String::new(), |limit| format!(" limit {limit}"));
    format!("{verb} {matches}{stateful}{log}{limit}")
}

fn mac(section: &Section<'_>, text: &At<String>) -> Option<MacMatch> {
    let part = |part: &str| {
        section.reader.parse::<Mac>(&At {
            value: part.to_owned(),
            span: text.span.clone(),
        })
    };
    let (address, mask) = match text.value.split_once('/') {
        Some((address, mask)) => (part(address)?, part(mask)?),
        None => (part(&text.value)?, Mac::BROADCAST),
    };
    let outside = address.to_u64() & !mask.to_u64();
    if outside != 0 {
        section.reader.report(
            &text.span,
            "the address has bits outside its mask".to_owned(),
            format!(
                "write \"{}/{mask}\"",
                Mac::from_u64(address.to_u64() & mask.to_u64())
            ),
        );
        return None;
    }
    Some(MacMatch { address, mask })
}

/// An address or a prefix without host bits.
fn network(section: &Section<'_>, text: &At<String>) -> Option<IpNet> {
    let found = IpNet::from_str(&text.value)
        .ok()
        .or_else(|| text.value.parse::<std::net::IpAddr>().ok().map(IpNet::from));
    let Some(net) = found else {
        section.reader.report(
            &text.span,
            format!("\"{}\" is not an IP address or prefix", text.value),
            "write it as in 10.0.0.0/8 or fd00::1",
        );
        return None;
    };
    if net.trunc() != net {
        section.reader.report(
            &text.span,
            format!("\"{}\" has bits behind its prefix", text.value),
            format!("write \"{}\" or \"{}\"", net.trunc(), net.addr()),
        );
        return None;
    }
    Some(net)
}

fn number<T: TryFrom<u64> + Copy>(
    section: &Section<'_>,
    text: &At<String>,
    names: &[(&str, T)],
    what: &str,
) -> Option<T> {
    let lower = text.value.to_ascii_lowercase();
    if let Some((_, value)) = names.iter().find(|(name, _)| *name == lower) {
        return Some(*value);
    }
    let parsed = match lower.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => lower.parse().ok(),
    };
    let found = parsed.and_then(|n| T::try_from(n).ok());
    if found.is_none() {
        section.reader.report(
            &text.span,
            format!("\"{}\" is not {what}", text.value),
            nearest(&lower, names.iter().map(|(name, _)| *name)),
        );
    }
    found
}

fn ports(section: &Section<'_>, field: &str) -> Vec<RangeInclusive<u16>> {
    let mut ranges = Vec::new();
    for word in section.words(field) {
        let range = match word.value.split_once('-') {
            Some((low, high)) => low.trim().parse().ok().zip(high.trim().parse().ok()),
            None => word.value.parse().ok().map(|port| (port, port)),
        };
        match range {
            Some((low, high)) if low <= high => ranges.push(low..=high),
            _ => section.reader.report(
                &word.span,
                format!("\"{}\" is not a port or a range of ports", word.value),
                "write it as in 80 or \"8000-8999\", from 0 to 65535, lower one first",
            ),
        }
    }
    if ranges.is_empty()
        && section
            .get(field)
            .is_some_and(|v| v.get_ref().as_array().is_some_and(|a| a.is_empty()))
    {
        section.reader.report(
            &section.value_span(field),
            format!("{field} is empty, so the rule could never match"),
            "leave it out to match every port",
        );
    }
    ranges
}

fn icmp(section: &Section<'_>) -> Option<IcmpMatch> {
    let code = section.integer("icmp_code", 0..=255_u8);
    if let Some(kind) = section.integer("icmp_type", 0..=255_u8) {
        return Some(IcmpMatch { kind, code });
    }
    if let Some(span) = section
        .key_span("icmp_code")
        .filter(|_| section.get("icmp_type").is_none())
    {
        section
            .reader
            .report(&span, "icmp_code without icmp_type", "add icmp_type = ...");
    }
    None
}

/// `syn` (set, others do not matter) or `syn/syn,ack` (set, among those compared).
fn flags(section: &Section<'_>, text: &At<String>) -> Option<FlagsMatch> {
    let bits = |list: &str| {
        let mut bits = 0;
        for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            let lower = name.to_ascii_lowercase();
            if let Some((_, bit)) = FLAGS.iter().find(|(flag, _)| *flag == lower) {
                bits |= bit;
            } else {
                section.reader.report(
                    &text.span,
                    format!("\"{name}\" is not a TCP flag"),
                    nearest(&lower, FLAGS.iter().map(|(flag, _)| *flag)),
                );
                return None;
            }
        }
        Some(bits)
    };
    // Without a slash, the flags named are those compared.
    let (set, mask) = text
        .value
        .split_once('/')
        .unwrap_or((&text.value, &text.value));
    let (set, mask) = (bits(set)?, bits(mask)?);
    if mask == 0 || set & !mask != 0 {
        section.reader.report(
            &text.span,
            format!(
                "\"{}\" compares nothing, or a flag it does not look at",
                text.value
            ),
            "write the flags that are set, a slash, and all flags compared, as in \"syn/syn,ack\"",
        );
        return None;
    }
    Some(FlagsMatch { set, mask })
}
