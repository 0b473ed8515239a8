//! Rules: what they match and what they do.
//!
//! ```text
//!   text, TOML or JSON ──► WrittenRule ──expand──► Match ──► Rule of a list ──► classifier
//!                          (sets by name)   ▲
//!                                           └── Sets
//! ```
//!
//! Rooms: `list` (rules in order), `places` (where they stand), `written` (rules with names of sets), [`text`] (the one-line form, read), `display`
//! (the same, printed), [`words`] (names of protocols and the like).

use std::{ops::RangeInclusive, str::FromStr, sync::Arc};

use ipnet::IpNet;

use crate::{
    Mac, RuleId, VlanId,
    acl::Matcher,
    key::{ethertype, protocol},
    model::{Action, RateLimit},
    reader::KeyReader,
};

mod display;
mod list;
mod places;
pub mod text;
pub mod words;
mod written;

pub use display::{net_text, range_text};
pub use list::{RuleList, Runs};
pub use places::{Place, Places};
pub use text::TextError;
pub use written::{Direction, Members, Names, Sets, WrittenRule};

/// One rule of an ACL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its number, the same across reloads.
    pub id: RuleId,
    /// What happens to a frame that it matches.
    pub action: Action,
    /// Whether frames that it decides are logged.
    pub log: bool,
    /// Most frames that it lets pass in a second; see [`WrittenRule::limit`]. `None` is no limit.
    pub limit: Option<RateLimit>,
    /// What it matches; every part that is present must hold.
    pub matches: Match,
    /// What was written, for people.
    pub origin: Arc<Origin>,
}

/// What was written. Where it stands now says [`Places`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The ACL it belongs to, or `group:` and the name of its group.
    pub acl: Arc<str>,
    /// The rule in one line, as in `deny tcp to 10.0.0.0/8 port 22`.
    pub text: Arc<str>,
}

/// What a rule matches. An absent part matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Match {
    /// Ethernet source under a mask.
    pub eth_src: Option<MacMatch>,
    /// Ethernet destination under a mask.
    pub eth_dst: Option<MacMatch>,
    /// Ethertype behind the outer tag.
    pub ethertype: Option<u16>,
    /// VLAN of the outer tag, as the frame came in.
    pub vlan: Option<VlanId>,
    /// IP source. Implies the address family.
    pub src: Option<IpNet>,
    /// IP destination. Implies the address family.
    pub dst: Option<IpNet>,
    /// IP protocol or final next header. Implies IP.
    pub protocol: Option<u8>,
    /// TCP, UDP or SCTP source ports; any of the ranges.
    pub src_ports: Vec<RangeInclusive<u16>>,
    /// TCP, UDP or SCTP destination ports; any of the ranges.
    pub dst_ports: Vec<RangeInclusive<u16>>,
    /// ICMP type and, if given, code. Needs protocol 1 or 58.
    pub icmp: Option<IcmpMatch>,
    /// TCP flags under a mask. Needs protocol 6.
    pub tcp_flags: Option<FlagsMatch>,
    /// Whether the frame is a fragment. Implies IP.
    pub fragment: Option<FragmentMatch>,
}

/// An Ethernet address under a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacMatch {
    /// The address; bits outside the mask are zero.
    pub address: Mac,
    /// Which bits are compared.
    pub mask: Mac,
}

/// ICMP type and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpMatch {
    /// The type.
    pub kind: u8,
    /// The code; `None` matches any.
    pub code: Option<u8>,
}

/// TCP flags, FIN lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlagsMatch {
    /// Which flags are set, among those of the mask.
    pub set: u8,
    /// Which flags are compared.
    pub mask: u8,
}

/// Which fragments a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FragmentMatch {
    /// Whole packets.
    No,
    /// Any fragment.
    Any,
    /// The first fragment of several.
    First,
    /// A fragment other than the first. It has no ports, so no rule with ports matches it.
    Later,
}

impl Match {
    /// Whether the frame that `r` reads is matched. Compiles the match each time: for a list of
    /// rules use [`Classifier`](crate::acl::Classifier).
    pub fn test<R: KeyReader>(&self, r: &mut R) -> bool {
        Matcher::new(self).test(r)
    }
}

/// Why a match could never match, or would not match what it seems to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {
    /// Ports need a protocol that has them.
    #[error("ports need protocol tcp, udp or sctp; add it")]
    PortsWithoutProtocol,
    /// ICMP type and code need ICMP.
    #[error("an ICMP type needs protocol icmp or icmpv6; add it")]
    IcmpWithoutProtocol,
    /// Flags need TCP.
    #[error("TCP flags need protocol tcp; add it")]
    FlagsWithoutTcp,
    /// Set flags that are not compared, or none compared.
    #[error("TCP flags: every flag that must be set must also be compared, and at least one")]
    FlagsOutsideMask,
    /// Address bits that are not compared.
    #[error("Ethernet address {0} has bits outside its mask; clear them")]
    MacOutsideMask(Mac),
    /// A range that ends before it starts.
    #[error("port range {0}-{1} is empty; write the lower port first")]
    EmptyRange(u16, u16),
    /// IPv4 and IPv6 in one rule.
    #[error("source and destination are of different address families; write two rules")]
    MixedFamilies,
    /// ICMP of one family, addresses of the other.
    #[error("icmp goes with IPv4 addresses and icmpv6 with IPv6 addresses")]
    IcmpFamily,
    /// An ethertype that excludes the rest.
    #[error(
        "ethertype {0:#06x} excludes the addresses, protocol or fragments that the rule asks for"
    )]
    EthertypeContradicts(u16),
    /// A length, not an ethertype.
    #[error("ethertype {0:#06x} is an 802.3 length; write 0 for all 802.3 frames")]
    EthertypeIsLength(u16),
    /// A limit without anything that it could be a limit of.
    #[error("deny lets nothing pass, so there is nothing to limit; leave the limit out")]
    LimitOnDeny,
    /// Later fragments have no L4 header.
    #[error("a later fragment has no ports, ICMP type or TCP flags; leave them out")]
    LaterFragmentWithL4,
}

impl Match {
    /// Checks that the parts go together.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn validate(&self) -> Result<(), MatchError> {
        for mac in [self.eth_src, self.eth_dst].into_iter().flatten() {
            if mac.address.to_u64() & !mac.mask.to_u64() != 0 {
                return Err(MatchError::MacOutsideMask(mac.address));
            }
        }
        self.validate_ip()?;
        self.validate_l4()
    }

    fn validate_ip(&self) -> Result<(), MatchError> {
        let families = |ipv4: bool| {
            let mut nets = [self.src, self.dst].into_iter().flatten();
            nets.any(|net| matches!(net, IpNet::V4(_)) == ipv4)
        };
        let (ipv4, ipv6) = (families(true), families(false));
        if ipv4 && ipv6 {
            return Err(MatchError::MixedFamilies);
        }
        let wants_ipv4 = ipv4 || self.protocol == Some(protocol::ICMP);
        let wants_ipv6 = ipv6 || self.protocol == Some(protocol::ICMPV6);
        if wants_ipv4 && wants_ipv6 {
            return Err(MatchError::IcmpFamily);
        }
        let Some(kind) = self.ethertype else {
            return Ok(());
        };
        let wants_ip =
            self.src.or(self.dst).is_some() || self.protocol.is_some() || self.fragment.is_some();
        let contradicts = match kind {
            1..ethertype::MIN => return Err(MatchError::EthertypeIsLength(kind)),
            ethertype::IPV4 => wants_ipv6,
            ethertype::IPV6 => wants_ipv4,
            _ => wants_ip,
        };
        if contradicts {
            return Err(MatchError::EthertypeContradicts(kind));
        }
        Ok(())
    }

    fn validate_l4(&self) -> Result<(), MatchError> {
        for range in self.src_ports.iter().chain(&self.dst_ports) {
            if range.is_empty() {
                return Err(MatchError::EmptyRange(*range.start(), *range.end()));
            }
        }
        let has_ports = !self.src_ports.is_empty() || !self.dst_ports.is_empty();
        let protocol_has_ports = |p| matches!(p, protocol::TCP | protocol::UDP | protocol::SCTP);
        if has_ports && !self.protocol.is_some_and(protocol_has_ports) {
            return Err(MatchError::PortsWithoutProtocol);
        }
        if self.icmp.is_some() && !matches!(self.protocol, Some(protocol::ICMP | protocol::ICMPV6))
        {
            return Err(MatchError::IcmpWithoutProtocol);
        }
        if let Some(flags) = self.tcp_flags {
            if self.protocol != Some(protocol::TCP) {
                return Err(MatchError::FlagsWithoutTcp);
            }
            if flags.mask == 0 || flags.set & !flags.mask != 0 {
                return Err(MatchError::FlagsOutsideMask);
            }
        }
        let has_l4 = has_ports || self.icmp.is_some() || self.tcp_flags.is_some();
        if has_l4 && self.fragment == Some(FragmentMatch::Later) {
            return Err(MatchError::LaterFragmentWithL4);
        }
        Ok(())
    }
}

/// A text that is not a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a rate as in 100/s, or 100/s burst 20, both at least 1")]
pub struct RateLimitError;

impl FromStr for RateLimit {
    type Err = RateLimitError;

    fn from_str(text: &str) -> Result<Self, RateLimitError> {
        let number = |text: &str| {
            let found = text.parse().ok().filter(|&number: &u32| number > 0);
            found.ok_or(RateLimitError)
        };
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let (rate, burst) = match words[..] {
            [rate] => (rate, None),
            [rate, "burst", burst] => (rate, Some(number(burst)?)),
            _ => return Err(RateLimitError),
        };
        let per_second = number(rate.strip_suffix("/s").ok_or(RateLimitError)?)?;
        Ok(Self {
            per_second,
            burst: burst.unwrap_or(per_second),
        })
    }
}
