//! Rules: from a text or a table of the file to a [`WrittenRule`], and the lists of them.

use std::{ops::Range, ops::RangeInclusive, sync::Arc};

use ipnet::IpNet;
use policy::{
    VlanId,
    model::Action,
    rule::{
        Direction, FlagsMatch, IcmpMatch, MacMatch, Match, MatchError, Members, WrittenRule, text,
        words::{self, ETHERTYPES, FLAGS, FRAGMENTS, PROTOCOLS},
    },
};
use toml::{Spanned, de::DeValue};

use super::{
    problem::nearest,
    reuse::{acl_owner, group_owner},
    schema,
    section::{At, Section},
    types::{Acl, AclRule, AclRules, Group},
};

/// What a rule or a default does, by name.
pub(super) const ACTIONS: &[(&str, Action)] = &[
    (Action::Allow.name(), Action::Allow),
    (Action::AllowStateful.name(), Action::AllowStateful),
    (Action::Deny.name(), Action::Deny),
    (Action::Reject.name(), Action::Reject),
];
const DIRECTIONS: &[(&str, Direction)] = &[("in", Direction::In), ("out", Direction::Out)];

/// Reads an ACL; a rule with a problem is left out, and the problem noted.
pub(super) fn acl(section: &Section<'_>, name: &Arc<str>) -> Acl {
    Acl {
        name: Arc::clone(name),
        rules: list(section, &acl_owner(name)),
    }
}

/// Reads a group. Its rules say which direction they are for.
pub(super) fn group(section: &Section<'_>, name: &Arc<str>) -> Group {
    let rules = list(section, &group_owner(name));
    for head in rules.heads().iter().filter(|head| head.direction.is_none()) {
        section.reader.report(
            &head.span(),
            "a rule of a group must say which direction it is for",
            "write in (to the members' VMs) or out (from them) behind the action, or direction = \"in\" or \"out\"",
        );
    }
    Group {
        name: Arc::clone(name),
        rules,
    }
}

fn list(section: &Section<'_>, owner: &str) -> AclRules {
    let mut items = section.items("rules");
    let headed = section.items("rule");
    if let (false, Some(first)) = (items.is_empty(), headed.first()) {
        section.reader.report(
            &first.span(),
            format!("{owner} has rules in two places"),
            "their order would be unclear; write all of them under rules or each under a header of its own",
        );
    }
    let mut rules = AclRules::new(headed.is_empty());
    items.extend(headed);
    let mut read = Vec::new();
    for item in items {
        if let Some(kept) = section.reader.kept {
            kept.before(owner, item.span().start, |list, run| {
                rules.extend(std::mem::take(&mut read));
                run.share_with(&mut rules, list);
            });
        }
        read.extend(rule(section, item));
    }
    rules.extend(read);
    rules
}

fn rule<'d>(
    list: &Section<'d>,
    item: &'d Spanned<DeValue<'d>>,
) -> Option<(AclRule, Range<usize>, usize)> {
    let span = item.span();
    let rule = match item.get_ref() {
        DeValue::String(text) => from_text(list, text, &span)?,
        DeValue::Table(table) => from_table(&Section::open(
            list.reader,
            table,
            span.clone(),
            &schema::RULE,
        ))?,
        _ => {
            list.wrong_type("rules", item, "a list of rules: texts in quotes, or tables");
            return None;
        }
    };
    let span = list.reader.whole(&span);
    let (line, _) = list.reader.source.position(span.start);
    Some((AclRule::new(rule), span, line))
}

/// Reads the one-line form. What is wrong is pointed at within the quotes, unless the text in the
/// file is written with escapes.
fn from_text(list: &Section<'_>, text: &str, span: &Range<usize>) -> Option<WrittenRule> {
    let error = match text.parse() {
        Ok(rule) => return Some(rule),
        Err(error) => error,
    };
    let error: text::TextError = error;
    let inside = span.start + 1..span.end.saturating_sub(1);
    let span = if list.reader.source.text(&inside) == Some(text) {
        inside.start + error.span.start..inside.start + error.span.end
    } else {
        span.clone()
    };
    list.reader.report(&span, error.message, error.help);
    None
}

fn from_table(section: &Section<'_>) -> Option<WrittenRule> {
    let reader = section.reader;
    let problems_before = reader.count();
    let action = section
        .required("action")
        .and_then(|text| reader.choice(&text, ACTIONS));
    let (src, src_members) = address(section, "src");
    let (dst, dst_members) = address(section, "dst");
    let (src_ports, src_port_sets) = ports(section, "src_ports");
    let (dst_ports, dst_port_sets) = ports(section, "dst_ports");
    let matches = Match {
        eth_src: section.string("eth_src").and_then(|t| mac(section, &t)),
        eth_dst: section.string("eth_dst").and_then(|t| mac(section, &t)),
        ethertype: section
            .word("ethertype")
            .and_then(|t| number(section, &t, ETHERTYPES, "an ethertype")),
        vlan: section.integer("vlan", 1..=4094_u16).and_then(VlanId::new),
        src,
        dst,
        protocol: section
            .word("protocol")
            .and_then(|t| number(section, &t, PROTOCOLS, "a protocol")),
        src_ports,
        dst_ports,
        icmp: icmp(section),
        tcp_flags: section.string("tcp_flags").and_then(|t| flags(section, &t)),
        fragment: section
            .string("fragment")
            .and_then(|t| reader.choice(&t, FRAGMENTS)),
    };
    let direction = section.string("direction");
    let limit = section.string("limit");
    let limit_span = limit.as_ref().map(|text| text.span.clone());
    let rule = WrittenRule {
        direction: direction.and_then(|t| reader.choice(&t, DIRECTIONS)),
        src: src_members,
        dst: dst_members,
        src_port_sets,
        dst_port_sets,
        log: section.bool("log").unwrap_or(false),
        limit: limit.and_then(|text| reader.parse(&text)),
        priority: section
            .integer("priority", 0..=u16::MAX)
            .unwrap_or(WrittenRule::DEFAULT_PRIORITY),
        ..WrittenRule::new(action.unwrap_or(Action::Deny), matches)
    };
    if action.is_none() || reader.count() > problems_before {
        return None;
    }
    if let Err(error) = rule.validate() {
        let span = limit_span.filter(|_| error == MatchError::LimitOnDeny);
        let span = span.unwrap_or_else(|| section.span.clone());
        reader.report(&span, error.to_string(), "");
        return None;
    }
    Some(rule)
}

fn mac(section: &Section<'_>, text: &At<String>) -> Option<MacMatch> {
    match text::mac_match(&text.value) {
        Ok(mac) => Some(mac),
        Err((message, help)) => {
            section.reader.report(&text.span, message, help);
            None
        }
    }
}

/// An address, a prefix without host bits, or the name of a set or group.
fn address(section: &Section<'_>, field: &str) -> (Option<IpNet>, Option<Members>) {
    let Some(text) = section.string(field) else {
        return (None, None);
    };
    text::address(&text.value).unwrap_or_else(|help| {
        let message = format!("\"{}\" is no address for {field}", text.value);
        section.reader.report(&text.span, message, help);
        (None, None)
    })
}

/// A member of a set: an address or a prefix without host bits.
pub(super) fn net(text: &str) -> Result<IpNet, String> {
    match text::address(text)? {
        (Some(net), _) => Ok(net),
        _ => Err("a set holds addresses and prefixes, not other sets".into()),
    }
}

fn number<T: TryFrom<u64> + Copy>(
    section: &Section<'_>,
    text: &At<String>,
    names: &[(&str, T)],
    what: &str,
) -> Option<T> {
    let found = words::number_of(names, &text.value);
    if found.is_none() {
        let lower = text.value.to_ascii_lowercase();
        section.reader.report(
            &text.span,
            format!("\"{}\" is not {what}", text.value),
            nearest(&lower, names.iter().map(|(name, _)| *name)),
        );
    }
    found
}

fn ports(section: &Section<'_>, field: &str) -> (Vec<RangeInclusive<u16>>, Vec<Arc<str>>) {
    let (mut ranges, mut sets) = (Vec::new(), Vec::new());
    for word in section.words(field) {
        let set = word.value.strip_prefix('@');
        if let Some(name) = set.filter(|name| words::is_name(name)) {
            sets.push(name.into());
        } else {
            ranges.extend(port_range(section, &word));
        }
    }
    let list = section.get(field).and_then(|v| v.get_ref().as_array());
    if list.is_some_and(|list| list.is_empty()) {
        section.reader.report(
            &section.value_span(field),
            format!("{field} is empty, so the rule could never match"),
            "leave it out to match every port",
        );
    }
    (ranges, sets)
}

pub(super) fn port_range(section: &Section<'_>, word: &At<String>) -> Option<RangeInclusive<u16>> {
    let range = text::port_range(&word.value);
    if range.is_none() {
        section.reader.report(
            &word.span,
            format!("\"{}\" is not a port or a range of ports", word.value),
            "write it as in 80 or \"8000-8999\", from 0 to 65535, lower one first",
        );
    }
    range
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
            if let Some(bit) = words::value_of(FLAGS, name) {
                bits |= bit;
            } else {
                let lower = name.to_ascii_lowercase();
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
