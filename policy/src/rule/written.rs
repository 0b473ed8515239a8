//! Rules as they are written: addresses and ports may be names of sets, which a set of [`Sets`]
//! turns into the plain [`Match`]es that are compiled.

use std::{fmt, ops::RangeInclusive, sync::Arc};

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;

use super::{Match, MatchError};
use crate::{
    key::{ethertype, protocol},
    model::{Action, RateLimit},
};

/// Which frames of a vNIC a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Those to the VM.
    In,
    /// Those from the VM.
    Out,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "in",
            Self::Out => "out",
        })
    }
}

/// Addresses by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Members {
    /// Of an address set.
    Set(Arc<str>),
    /// Of the vNICs of a group.
    Group(Arc<str>),
}

/// A rule as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WrittenRule {
    /// What happens to a frame that it matches.
    pub action: Action,
    /// Which frames it is for; `None` is those of any direction that its list is used in.
    pub direction: Option<Direction>,
    /// What it matches, without what is named in the four fields below.
    pub matches: Match,
    /// Instead of `matches.src`: any of these addresses.
    pub src: Option<Members>,
    /// Instead of `matches.dst`: any of these addresses.
    pub dst: Option<Members>,
    /// Besides `matches.src_ports`: the ports of these sets.
    pub src_port_sets: Vec<Arc<str>>,
    /// Besides `matches.dst_ports`: the ports of these sets.
    pub dst_port_sets: Vec<Arc<str>>,
    /// Whether frames that it decides are logged.
    pub log: bool,
    /// Most frames that it lets pass in a second, of each vNIC; of one that allows statefully most
    /// connections opened, of one that rejects most answers to the senders.
    pub limit: Option<RateLimit>,
    /// Rules of a higher priority are asked first.
    pub priority: u16,
}

/// What the names of sets and groups stand for.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    addresses: HashMap<Members, Vec<IpNet>>,
    ports: HashMap<Arc<str>, Vec<RangeInclusive<u16>>>,
}

impl Sets {
    /// Gives a name its addresses. Prefixes that others cover are left out and neighbours joined.
    pub fn addresses(&mut self, name: Members, members: &[IpNet]) {
        let members: Vec<IpNet> = members.iter().map(IpNet::trunc).collect();
        self.addresses.insert(name, IpNet::aggregate(&members));
    }

    /// Gives a name its ports. Ranges that meet are joined: each is compared.
    pub fn ports(&mut self, name: Arc<str>, mut members: Vec<RangeInclusive<u16>>) {
        members.sort_unstable_by_key(|range| *range.start());
        let mut joined: Vec<RangeInclusive<u16>> = Vec::with_capacity(members.len());
        for range in members {
            match joined.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => joined.push(range),
            }
        }
        self.ports.insert(name, joined);
    }

    /// The names that stand for something else than in `before`.
    pub fn changed(&self, before: &Self) -> Names {
        let addresses = self.addresses.iter();
        let addresses = addresses.filter(|(name, nets)| before.addresses.get(*name) != Some(nets));
        let ports = self.ports.iter();
        let ports = ports.filter(|(name, ports)| before.ports.get(*name) != Some(ports));
        Names {
            addresses: addresses.map(|(name, _)| name.clone()).collect(),
            ports: ports.map(|(name, _)| name.clone()).collect(),
        }
    }
}

/// Names of sets and groups.
#[derive(Clone, Debug, Default)]
pub struct Names {
    addresses: HashSet<Members>,
    ports: HashSet<Arc<str>>,
}

impl Names {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.ports.is_empty()
    }
}

impl WrittenRule {
    /// The priority of a rule that does not say one.
    pub const DEFAULT_PRIORITY: u16 = 1000;

    /// A rule that matches what `matches` does, in either direction.
    pub fn new(action: Action, matches: Match) -> Self {
        Self {
            action,
            direction: None,
            matches,
            src: None,
            dst: None,
            src_port_sets: Vec::new(),
            dst_port_sets: Vec::new(),
            log: false,
            limit: None,
            priority: Self::DEFAULT_PRIORITY,
        }
    }

    /// Checks that the parts go together, whatever the sets will hold.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn validate(&self) -> Result<(), MatchError> {
        if self.limit.is_some() && self.action == Action::Deny {
            return Err(MatchError::LimitOnDeny);
        }
        let mut matches = self.matches.clone();
        for (sets, ports) in [
            (&self.src_port_sets, &mut matches.src_ports),
            (&self.dst_port_sets, &mut matches.dst_ports),
        ] {
            ports.extend(sets.iter().map(|_| 0..=0));
        }
        if self.src.is_none() && self.dst.is_none() {
            return matches.validate();
        }
        // A set may hold addresses of either family: one of the two must do.
        let with = |any: IpNet| {
            let mut matches = matches.clone();
            matches.src = self.src.as_ref().map_or(matches.src, |_| Some(any));
            matches.dst = self.dst.as_ref().map_or(matches.dst, |_| Some(any));
            matches.validate()
        };
        let ipv4 = with(IpNet::V4(ipnet::Ipv4Net::default()));
        ipv4.or_else(|error| with(IpNet::V6(ipnet::Ipv6Net::default())).map_err(|_| error))
    }

    /// Whether it names one of `names`.
    pub fn mentions(&self, names: &Names) -> bool {
        let members = [&self.src, &self.dst].into_iter().flatten();
        let ports = self.src_port_sets.iter().chain(&self.dst_port_sets);
        members
            .into_iter()
            .any(|name| names.addresses.contains(name))
            || ports.into_iter().any(|name| names.ports.contains(name))
    }

    /// How many plain rules it stands for.
    pub fn expansions(&self, sets: &Sets) -> usize {
        let [src, dst] = self.ends(sets);
        let count = |nets: &[Option<IpNet>]| {
            let of = |wanted: fn(&Option<IpNet>) -> bool| nets.iter().filter(|n| wanted(n)).count();
            [
                of(Option::is_none),
                of(|net| matches!(net, Some(IpNet::V4(_)))),
                of(|net| matches!(net, Some(IpNet::V6(_)))),
            ]
        };
        let ([any, ipv4, ipv6], [to_any, to_ipv4, to_ipv6]) = (count(&src), count(&dst));
        let pairs = any * dst.len() + ipv4 * (to_any + to_ipv4) + ipv6 * (to_any + to_ipv6);
        if self.has_ports(sets) { pairs } else { 0 }
    }

    /// The plain rules' matches. Addresses of a family that the rule is not for are left out; a
    /// rule that names nothing but empty sets stands for no rule at all.
    pub fn expand(&self, sets: &Sets) -> Vec<Match> {
        if !self.has_ports(sets) {
            return Vec::new();
        }
        let mut matches = self.matches.clone();
        for (names, ports) in [
            (&self.src_port_sets, &mut matches.src_ports),
            (&self.dst_port_sets, &mut matches.dst_ports),
        ] {
            let named = names.iter().filter_map(|name| sets.ports.get(name));
            ports.extend(named.flatten().cloned());
        }
        let [from, to] = self.ends(sets);
        let mut expanded = Vec::with_capacity(self.expansions(sets));
        for src in from {
            for dst in to.iter().copied().filter(|dst| one_family(src, *dst)) {
                let matches = matches.clone();
                expanded.push(Match {
                    src,
                    dst,
                    ..matches
                });
            }
        }
        expanded
    }

    /// Whether there is a port left where the rule asks for any.
    fn has_ports(&self, sets: &Sets) -> bool {
        let some = |names: &[Arc<str>], ports: &[RangeInclusive<u16>]| {
            let named = |name| sets.ports.get(name).is_some_and(|ports| !ports.is_empty());
            names.is_empty() || !ports.is_empty() || names.iter().any(named)
        };
        some(&self.src_port_sets, &self.matches.src_ports)
            && some(&self.dst_port_sets, &self.matches.dst_ports)
    }

    /// Source and destination addresses that the rule's other parts leave.
    fn ends(&self, sets: &Sets) -> [Vec<Option<IpNet>>; 2] {
        let matches = &self.matches;
        let ipv4 = matches.protocol != Some(protocol::ICMPV6)
            && matches.ethertype.is_none_or(|kind| kind == ethertype::IPV4);
        let ipv6 = matches.protocol != Some(protocol::ICMP)
            && matches.ethertype.is_none_or(|kind| kind == ethertype::IPV6);
        let end = |named: &Option<Members>, net: Option<IpNet>| {
            let Some(members) = named else {
                return vec![net];
            };
            let nets = sets.addresses.get(members).into_iter().flatten();
            let fitting = nets.filter(|net| match net {
                IpNet::V4(_) => ipv4,
                IpNet::V6(_) => ipv6,
            });
            fitting.copied().map(Some).collect()
        };
        [end(&self.src, matches.src), end(&self.dst, matches.dst)]
    }
}

fn one_family(src: Option<IpNet>, dst: Option<IpNet>) -> bool {
    !matches!(
        (src, dst),
        (Some(IpNet::V4(_)), Some(IpNet::V6(_))) | (Some(IpNet::V6(_)), Some(IpNet::V4(_)))
    )
}
