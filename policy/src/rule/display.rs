//! Rules as text, in the one way that [`super::text`] reads back to the same rule.

use std::{fmt, ops::RangeInclusive, sync::Arc};

use ipnet::IpNet;

use super::{
    FlagsMatch, IcmpMatch, MacMatch, Match, Members, Rule, WrittenRule,
    words::{ETHERTYPES, FLAGS, FRAGMENTS, PROTOCOLS, name_of},
};
use crate::{
    Mac,
    model::{Action, RateLimit},
};

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", verb(self.action), self.matches)?;
        write_effects(f, self.action, self.log, self.limit)
    }
}

impl fmt::Display for WrittenRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", verb(self.action))?;
        if let Some(direction) = self.direction {
            write!(f, " {direction}")?;
        }
        let src = End {
            members: self.src.as_ref(),
            port_sets: &self.src_port_sets,
            ..End::of(self.matches.src, &self.matches.src_ports)
        };
        let dst = End {
            members: self.dst.as_ref(),
            port_sets: &self.dst_port_sets,
            ..End::of(self.matches.dst, &self.matches.dst_ports)
        };
        write!(f, " {}", match_text(&self.matches, &src, &dst))?;
        write_effects(f, self.action, self.log, self.limit)?;
        if self.priority != WrittenRule::DEFAULT_PRIORITY {
            write!(f, " priority {}", self.priority)?;
        }
        Ok(())
    }
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Allow | Action::AllowStateful => "allow",
        Action::Deny => "deny",
        Action::Reject => "reject",
    }
}

fn write_effects(
    f: &mut fmt::Formatter<'_>,
    action: Action,
    log: bool,
    limit: Option<RateLimit>,
) -> fmt::Result {
    if action == Action::AllowStateful {
        f.write_str(" stateful")?;
    }
    if log {
        f.write_str(" log")?;
    }
    limit.map_or(Ok(()), |limit| write!(f, " limit {limit}"))
}

/// One line, as in `tcp from any port 1024-65535 to 10.0.0.0/8 port 22,80 flags syn,!ack`; `any`
/// when everything matches.
impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let src = End::of(self.src, &self.src_ports);
        let dst = End::of(self.dst, &self.dst_ports);
        f.write_str(&match_text(self, &src, &dst))
    }
}

/// What stands behind `from` or `to`.
#[derive(Default)]
struct End<'r> {
    net: Option<IpNet>,
    members: Option<&'r Members>,
    ports: &'r [RangeInclusive<u16>],
    port_sets: &'r [Arc<str>],
}

impl<'r> End<'r> {
    fn of(net: Option<IpNet>, ports: &'r [RangeInclusive<u16>]) -> Self {
        Self {
            net,
            ports,
            ..Self::default()
        }
    }

    fn text(&self, word: &str) -> Option<String> {
        let ports: Vec<String> = self
            .ports
            .iter()
            .map(range_text)
            .chain(self.port_sets.iter().map(|name| format!("@{name}")))
            .collect();
        let address = match (self.members, self.net) {
            (Some(members), _) => members.to_string(),
            (None, Some(net)) => net_text(net),
            (None, None) if ports.is_empty() => return None,
            (None, None) => "any".to_owned(),
        };
        if ports.is_empty() {
            return Some(format!("{word} {address}"));
        }
        Some(format!("{word} {address} port {}", ports.join(",")))
    }
}

fn match_text(matches: &Match, src: &End<'_>, dst: &End<'_>) -> String {
    let mut parts = Vec::new();
    let mut unnamed = None;
    if let Some(number) = matches.ethertype {
        match name_of(ETHERTYPES, number) {
            Some(name) => parts.push(name.to_owned()),
            None => unnamed = Some(format!("ethertype {number:#06x}")),
        }
    }
    parts.extend(matches.protocol.map(|number| {
        name_of(PROTOCOLS, number).map_or_else(|| format!("protocol {number}"), str::to_owned)
    }));
    parts.extend(matches.icmp.map(|icmp| icmp.to_string()));
    parts.extend(src.text("from"));
    parts.extend(dst.text("to"));
    parts.extend(matches.tcp_flags.map(|flags| format!("flags {flags}")));
    let fragment = matches.fragment.and_then(|f| name_of(FRAGMENTS, f));
    parts.extend(fragment.map(|name| format!("fragment {name}")));
    parts.extend(unnamed);
    parts.extend(matches.vlan.map(|vlan| format!("vlan {}", vlan.get())));
    parts.extend(matches.eth_src.map(|mac| format!("src-mac {mac}")));
    parts.extend(matches.eth_dst.map(|mac| format!("dst-mac {mac}")));
    if parts.is_empty() {
        parts.push("any".to_owned());
    }
    parts.join(" ")
}

/// A prefix; of full length without its length.
pub fn net_text(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}

/// A port, or a range of them.
pub fn range_text(range: &RangeInclusive<u16>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{}-{}", range.start(), range.end())
    }
}

/// As in `@web-servers` and `group:web`.
impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(name) => write!(f, "@{name}"),
            Self::Group(name) => write!(f, "group:{name}"),
        }
    }
}

/// As in `type 3 code 4`.
impl fmt::Display for IcmpMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type {}", self.kind)?;
        self.code.map_or(Ok(()), |code| write!(f, " code {code}"))
    }
}

impl fmt::Display for MacMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mask == Mac::BROADCAST {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.mask)
        }
    }
}

/// As in `syn,!ack`: flags that must be set, and those that must not.
impl fmt::Display for FlagsMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let compared = FLAGS.iter().filter(|(_, bit)| self.mask & bit != 0);
        for (index, (name, bit)) in compared.enumerate() {
            let separator = if index == 0 { "" } else { "," };
            let not = if self.set & bit == 0 { "!" } else { "" };
            write!(f, "{separator}{not}{name}")?;
        }
        Ok(())
    }
}

/// As in `100/s`, with ` burst 20` behind it where that is not what comes back in a second.
impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.per_second)?;
        if self.burst == self.per_second {
            return Ok(());
        }
        write!(f, " burst {}", self.burst)
    }
}
