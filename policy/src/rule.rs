//! Rules: what they match and what they do.

use std::{ops::RangeInclusive, sync::Arc};

use ipnet::IpNet;

use crate::{Mac, RuleId, VlanId, acl::Matcher, model::Action, reader::KeyReader};

/// One rule of an ACL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its number, the same across reloads.
    pub id: RuleId,
    /// What happens to a frame that it matches.
    pub action: Action,
    /// What it matches; every part that is present must hold.
    pub matches: Match,
    /// Where it was written, for people.
    pub origin: Arc<Origin>,
}

/// Where a rule was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The ACL it belongs to.
    pub acl: String,
    /// Its place in the ACL, from 1.
    pub position: u32,
    /// File and line, as in `acls.toml:12`.
    pub place: String,
    /// The rule in one line, as in `deny tcp to 10.0.0.0/8 port 22`.
    pub text: String,
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

/// Why a match cannot match anything, or not what it seems to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {}

impl Match {
    /// x
    pub fn validate(&self) -> Result<(), MatchError> {
        Ok(())
    }
}
