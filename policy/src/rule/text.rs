//! The one-line text form of rules.
//!
//! In: a text such as `allow in tcp from @office to any port 443,8000-8999 stateful`. Out: a
//! [`WrittenRule`], or a [`TextError`] that points at what is wrong. What must hold: whatever the
//! text, no panic; what a rule prints is read back to the same rule.
//!
//! ```text
//!   rule     = action [ "in" | "out" ] { part }            each part at most once, in any order
//!   action   = "allow" | "deny" | "reject"
//!   part     = "any" | PROTOCOL | "protocol" NUMBER | ETHERTYPE | "ethertype" NUMBER
//!            | "type" NUMBER [ "code" NUMBER ]
//!            | "from" address [ "port" ports ] | "to" address [ "port" ports ]
//!            | "flags" [ "!" ] FLAG { "," [ "!" ] FLAG }
//!            | "fragment" ( "no" | "any" | "first" | "later" )
//!            | "vlan" NUMBER | "src-mac" MAC [ "/" MAC ] | "dst-mac" MAC [ "/" MAC ]
//!            | "stateful" | "log" | "limit" NUMBER "/s" [ "burst" NUMBER ] | "priority" NUMBER
//!   address  = "any" | ADDRESS [ "/" LENGTH ] | "@" NAME | "group:" NAME
//!   ports    = "any" | item { "," item }     item = NUMBER [ "-" NUMBER ] | "@" NAME
//! ```

use std::{fmt::Display, ops::Range, ops::RangeInclusive, str::FromStr, sync::Arc};

use ipnet::IpNet;

use super::{
    Direction, FlagsMatch, IcmpMatch, MacMatch, Match, MatchError, Members, RateLimitError,
    WrittenRule,
    words::{self, ETHERTYPES, FLAGS, FRAGMENTS, PROTOCOLS},
};
use crate::{
    Mac, VlanId,
    model::{Action, RateLimit},
    nearest::nearest,
};

const ACTIONS: &[(&str, Action)] = &[
    ("allow", Action::Allow),
    ("deny", Action::Deny),
    ("reject", Action::Reject),
];
const DIRECTIONS: &[(&str, Direction)] = &[("in", Direction::In), ("out", Direction::Out)];
/// What a part may begin with, besides protocols and ethertypes.
const PARTS: &[&str] = &[
    "any",
    "protocol",
    "ethertype",
    "type",
    "from",
    "to",
    "flags",
    "fragment",
    "vlan",
    "src-mac",
    "dst-mac",
    "stateful",
    "log",
    "limit",
    "priority",
];

/// What is wrong with a rule's text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}{}", if .help.is_empty() { String::new() } else { format!("; {}", .help) })]
pub struct TextError {
    /// The bytes meant.
    pub span: Range<usize>,
    /// Where they begin, in characters from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead; may be empty.
    pub help: String,
}

impl FromStr for WrittenRule {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        Parser::new(text).rule()
    }
}

/// Reads what stands between `from` or `to` and `port`: an address or prefix, or a name.
///
/// # Errors
/// What to write instead.
pub fn address(text: &str) -> Result<(Option<IpNet>, Option<Members>), String> {
    let name = |name: &str| {
        let valid = words::is_name(name).then(|| name.into());
        valid.ok_or("a name has 1 to 64 letters, digits, - _ or .")
    };
    if let Some(set) = text.strip_prefix('@') {
        return Ok((None, Some(Members::Set(name(set)?))));
    }
    if let Some(group) = text.strip_prefix("group:") {
        return Ok((None, Some(Members::Group(name(group)?))));
    }
    let alone = || text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
    let net = text.parse().ok().or_else(alone);
    let net: IpNet = net
        .ok_or("write it as in 10.0.0.0/8, fd00::1, @web-servers (an address set) or group:web")?;
    if net.trunc() == net {
        return Ok((Some(net), None));
    }
    Err(format!(
        "it has bits behind its prefix; write {} or {}",
        net.trunc(),
        net.addr()
    ))
}

/// Reads one of a list of ports: a number or a range, lower one first.
pub fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| digits)
    };
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (number(low.trim())?, number(high.trim())?);
    (low <= high).then_some(low..=high)
}

/// Reads an Ethernet address, with or without a mask.
///
/// # Errors
/// What is wrong and what to write instead.
pub fn mac_match(text: &str) -> Result<MacMatch, (String, String)> {
    let part = |text: &str| {
        text.parse::<Mac>()
            .map_err(|error| (error.to_string(), String::new()))
    };
    let (address, mask) = match text.split_once('/') {
        Some((address, mask)) => (part(address)?, part(mask)?),
        None => (part(text)?, Mac::BROADCAST),
    };
    let within = Mac::from_u64(address.to_u64() & mask.to_u64());
    if within == address {
        return Ok(MacMatch { address, mask });
    }
    Err((
        "the address has bits outside its mask".to_owned(),
        format!("write \"{within}/{mask}\""),
    ))
}

/// A word and where it begins.
#[derive(Clone, Copy, Debug)]
struct Word<'t> {
    text: &'t str,
    start: usize,
}

impl<'t> Word<'t> {
    fn span(self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }

    fn is(self, keyword: &str) -> bool {
        self.text.eq_ignore_ascii_case(keyword)
    }

    /// Its items between commas.
    fn items(self) -> impl Iterator<Item = Word<'t>> {
        self.text.split(',').map(move |item| Word {
            text: item,
            start: self.start + (item.as_ptr() as usize - self.text.as_ptr() as usize),
        })
    }
}

struct Parser<'t> {
    text: &'t str,
    words: Vec<Word<'t>>,
    next: usize,
    /// The parts that were read, and where each stands.
    seen: Vec<(&'static str, Range<usize>)>,
}

type Parsed<T> = Result<T, TextError>;
/// Port ranges, and names of port sets.
type Ports = (Vec<RangeInclusive<u16>>, Vec<Arc<str>>);

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Self {
        let words = text.split_ascii_whitespace().map(|word| Word {
            text: word,
            start: word.as_ptr() as usize - text.as_ptr() as usize,
        });
        Self {
            text,
            words: words.collect(),
            next: 0,
            seen: Vec::new(),
        }
    }

    fn rule(mut self) -> Parsed<WrittenRule> {
        let word = self.word("an action")?;
        let action = self.choose(word, "an action", ACTIONS)?;
        let mut rule = WrittenRule::new(action, Match::default());
        if let Some(word) = self.peek()
            && let Some(direction) = words::value_of(DIRECTIONS, word.text)
        {
            self.next += 1;
            rule.direction = Some(direction);
        }
        let first = self.next;
        while let Some(word) = self.peek() {
            self.next += 1;
            self.part(word, &mut rule)?;
        }
        if first == self.next {
            // Nothing said is seldom everything meant.
            let span = self.text.len()..self.text.len();
            return Err(self.error(
                span,
                "what the rule matches is missing",
                "for everything, write any",
            ));
        }
        let valid = rule.validate();
        valid.map_err(|error| self.contradiction(error))?;
        Ok(rule)
    }

    fn part(&mut self, word: Word<'t>, rule: &mut WrittenRule) -> Parsed<()> {
        let matches = &mut rule.matches;
        if let Some(protocol) = words::value_of(PROTOCOLS, word.text) {
            self.once("protocol", word)?;
            matches.protocol = Some(protocol);
            return Ok(());
        }
        if let Some(kind) = words::value_of(ETHERTYPES, word.text) {
            self.once("ethertype", word)?;
            matches.ethertype = Some(kind);
            return Ok(());
        }
        let Some(&part) = PARTS.iter().find(|part| word.is(part)) else {
            return Err(self.unknown_part(word));
        };
        // "any" is a protocol as "tcp" is: any of them.
        self.once(if part == "any" { "protocol" } else { part }, word)?;
        match part {
            "protocol" => matches.protocol = Some(self.number(part, PROTOCOLS)?),
            "ethertype" => matches.ethertype = Some(self.number(part, ETHERTYPES)?),
            "type" => matches.icmp = Some(self.icmp()?),
            "from" => {
                (matches.src, rule.src) = self.address(part)?;
                (matches.src_ports, rule.src_port_sets) = self.ports()?;
            }
            "to" => {
                (matches.dst, rule.dst) = self.address(part)?;
                (matches.dst_ports, rule.dst_port_sets) = self.ports()?;
            }
            "flags" => matches.tcp_flags = Some(self.flags()?),
            "fragment" => {
                let word = self.word("no, any, first or later")?;
                matches.fragment = Some(self.choose(word, "a kind of fragment", FRAGMENTS)?);
            }
            "vlan" => {
                let word = self.word("a VLAN")?;
                let vlan = words::number_of(&[], word.text).and_then(VlanId::new);
                matches.vlan = Some(self.expect(word, vlan, "a VLAN", "write 1 to 4094")?);
            }
            "src-mac" => matches.eth_src = Some(self.mac()?),
            "dst-mac" => matches.eth_dst = Some(self.mac()?),
            "stateful" if rule.action == Action::Allow => rule.action = Action::AllowStateful,
            "stateful" => {
                let message = "only what is allowed can be stateful";
                return Err(self.error(word.span(), message, "leave it out, or write allow"));
            }
            "log" => rule.log = true,
            "limit" => rule.limit = Some(self.limit()?),
            "priority" => {
                let word = self.word("a priority")?;
                let number = words::number_of(&[], word.text);
                rule.priority = self.expect(word, number, "a priority", "write 0 to 65535")?;
            }
            // "any" says nothing more.
            _ => {}
        }
        Ok(())
    }

    fn unknown_part(&self, word: Word<'_>) -> TextError {
        let lower = word.text.to_ascii_lowercase();
        if ["port", "code", "burst"].contains(&&*lower) {
            let behind = match &*lower {
                "port" => "an address: write to any port 443, or from any port 53",
                "code" => "an ICMP type: write type 3 code 4",
                _ => "a limit: write limit 100/s burst 20",
            };
            let message = format!("\"{lower}\" stands behind {behind}");
            return self.error(word.span(), message, "");
        }
        let known = PARTS.iter().copied();
        let protocols = PROTOCOLS.iter().map(|(name, _)| *name);
        let ethertypes = ETHERTYPES.iter().map(|(name, _)| *name);
        let help = nearest(&lower, known.chain(protocols).chain(ethertypes));
        let help = if help.is_empty() {
            "here stands a protocol, from, to, flags, fragment, ethertype, vlan, src-mac, dst-mac, \
             stateful, log, limit or priority"
                .to_owned()
        } else {
            help
        };
        self.error(
            word.span(),
            format!("\"{}\" is not known here", word.text),
            help,
        )
    }

    /// Notes a part, which a rule has at most once.
    fn once(&mut self, part: &'static str, word: Word<'_>) -> Parsed<()> {
        if self.seen.iter().any(|(seen, _)| *seen == part) {
            let message = format!("the rule says twice what its {part} is");
            return Err(self.error(word.span(), message, "keep one"));
        }
        self.seen.push((part, word.span()));
        Ok(())
    }

    fn address(&mut self, end: &'static str) -> Parsed<(Option<IpNet>, Option<Members>)> {
        let word = self.word("an address, or any")?;
        if word.is("any") {
            return Ok((None, None));
        }
        address(word.text).map_err(|help| {
            let message = format!("\"{}\" cannot stand behind {end}", word.text);
            self.error(word.span(), message, help)
        })
    }

    fn ports(&mut self) -> Parsed<Ports> {
        let (mut ranges, mut sets) = (Vec::new(), Vec::new());
        let Some(keyword) = self.take("port") else {
            return Ok((ranges, sets));
        };
        let word = self.word("ports, or any")?;
        if word.is("any") {
            return Ok((ranges, sets));
        }
        self.seen.push(("port", keyword.span()));
        for item in word.items() {
            let set = item.text.strip_prefix('@');
            if let Some(name) = set.filter(|name| words::is_name(name)) {
                sets.push(name.into());
                continue;
            }
            let help = "write ports and ranges with commas and no spaces, lower one first, as in \
                        443,8000-8999, or the name of a port set, as in @web";
            ranges.push(self.expect(item, port_range(item.text), "a port", help)?);
        }
        Ok((ranges, sets))
    }

    fn icmp(&mut self) -> Parsed<IcmpMatch> {
        let kind = self.byte("an ICMP type")?;
        let code = if self.take("code").is_some() {
            Some(self.byte("an ICMP code")?)
        } else {
            None
        };
        Ok(IcmpMatch { kind, code })
    }

    fn byte(&mut self, what: &str) -> Parsed<u8> {
        let word = self.word(what)?;
        self.expect(
            word,
            words::number_of(&[], word.text),
            what,
            "write 0 to 255",
        )
    }

    fn flags(&mut self) -> Parsed<FlagsMatch> {
        let word = self.word("TCP flags")?;
        let mut flags = FlagsMatch { set: 0, mask: 0 };
        for item in word.items() {
            let name = item.text.strip_prefix('!').unwrap_or(item.text);
            let bit = self.choose(Word { text: name, ..item }, "a TCP flag", FLAGS)?;
            if flags.mask & bit != 0 {
                let message = format!("flag {name} is named twice");
                return Err(self.error(item.span(), message, "keep one"));
            }
            flags.mask |= bit;
            if name == item.text {
                flags.set |= bit;
            }
        }
        Ok(flags)
    }

    fn mac(&mut self) -> Parsed<MacMatch> {
        let word = self.word("an Ethernet address")?;
        mac_match(word.text).map_err(|(message, help)| self.error(word.span(), message, help))
    }

    fn limit(&mut self) -> Parsed<RateLimit> {
        let rate = self.word("a rate")?;
        let mut span = rate.span();
        if self.take("burst").is_some() {
            span.end = self.word("a number of frames")?.span().end;
        }
        let text = self.text[span.clone()].to_ascii_lowercase();
        text.parse().map_err(|RateLimitError| {
            let message = format!("\"{text}\" is not a rate");
            self.error(span, message, RateLimitError.to_string())
        })
    }

    fn number<T: Copy + TryFrom<u64>>(&mut self, what: &str, names: &[(&str, T)]) -> Parsed<T> {
        let word = self.word(what)?;
        let help = nearest(
            &word.text.to_ascii_lowercase(),
            names.iter().map(|(n, _)| *n),
        );
        self.expect(word, words::number_of(names, word.text), what, &help)
    }

    fn peek(&self) -> Option<Word<'t>> {
        self.words.get(self.next).copied()
    }

    /// The next word, if it is this one.
    fn take(&mut self, keyword: &str) -> Option<Word<'t>> {
        let word = self.peek().filter(|word| word.is(keyword))?;
        self.next += 1;
        Some(word)
    }

    /// The next word, which must be there.
    fn word(&mut self, what: &str) -> Parsed<Word<'t>> {
        let word = self.peek().ok_or_else(|| {
            let span = self.text.len()..self.text.len();
            self.error(span, format!("the rule ends where {what} is expected"), "")
        })?;
        self.next += 1;
        Ok(word)
    }

    fn choose<T: Copy>(&self, word: Word<'_>, what: &str, names: &[(&str, T)]) -> Parsed<T> {
        let lower = word.text.to_ascii_lowercase();
        let help = nearest(&lower, names.iter().map(|(name, _)| *name));
        self.expect(word, words::value_of(names, &lower), what, &help)
    }

    fn expect<T>(&self, word: Word<'_>, found: Option<T>, what: &str, help: &str) -> Parsed<T> {
        found.ok_or_else(|| {
            let article = if what.contains(' ') { "" } else { "a valid " };
            let message = format!("\"{}\" is not {article}{what}", word.text);
            self.error(word.span(), message, help)
        })
    }

    /// A contradiction between parts, told at the one that can be mended.
    fn contradiction(&self, error: MatchError) -> TextError {
        let part = match error {
            MatchError::PortsWithoutProtocol | MatchError::EmptyRange(..) => "port",
            MatchError::IcmpWithoutProtocol => "type",
            MatchError::FlagsWithoutTcp | MatchError::FlagsOutsideMask => "flags",
            MatchError::MacOutsideMask(_) => "src-mac",
            MatchError::MixedFamilies => "to",
            MatchError::IcmpFamily => "protocol",
            MatchError::EthertypeContradicts(_) | MatchError::EthertypeIsLength(_) => "ethertype",
            MatchError::LaterFragmentWithL4 => "fragment",
            MatchError::LimitOnDeny => "limit",
        };
        let found = self.seen.iter().find(|(seen, _)| *seen == part);
        let span = found.map_or(0..self.text.len(), |(_, span)| span.clone());
        self.error(span, error.to_string(), "")
    }

    fn error(&self, span: Range<usize>, message: impl Display, help: impl Display) -> TextError {
        TextError {
            column: self.text[..span.start].chars().count() + 1,
            span,
            message: message.to_string(),
            help: help.to_string(),
        }
    }
}
