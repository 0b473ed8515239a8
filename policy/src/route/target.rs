//! Where a route leads, and which of several next hops a flow takes.
//!
//! In come next hops and the hash of a flow; out goes one next hop. What must hold: a flow keeps
//! its next hop as long as that is among them, whatever others come or go, but for flows that
//! move to one that came; and each next hop has a share of flows in proportion to its weight.
//! That is rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit
//! rates", IEEE/ACM Transactions on Networking 1998): every next hop draws a number by the flow's
//! hash, and the highest takes the flow. Nothing is remembered, so two hosts with the same routes
//! choose alike.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    net::IpAddr,
    num::NonZeroU8,
};

use super::RouteError;
use crate::ids::InterfaceId;

/// The most next hops that a choice is among.
pub const MAX_NEXT_HOPS: usize = 64;

/// Where a route leads. Of routes with the same metric the least is followed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The destination is a neighbour on the interface: its network is attached there.
    Connected {
        /// Of the router.
        interface: InterfaceId,
    },
    /// The destination is a neighbour on the interface, and the prefix this one address.
    Host {
        /// Of the router.
        interface: InterfaceId,
    },
    /// To one of several neighbours.
    Via(NextHops),
    /// Nowhere, and the sender is told that the destination is unreachable.
    Reject,
    /// Nowhere, and nobody is told.
    Blackhole,
}

/// A neighbour that carries on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// Whose Ethernet address is asked for.
    pub address: IpAddr,
    /// Where it is asked for.
    pub interface: InterfaceId,
    /// Its share of flows, beside those of the others.
    pub weight: NonZeroU8,
}

/// One next hop or several, each other than the rest, by address and interface.
#[derive(Clone, Debug)]
pub struct NextHops {
    /// In order.
    hops: Box<[Seeded]>,
    /// Whether all have the same weight.
    even: bool,
}

/// A next hop and what it draws its numbers by.
#[derive(Clone, Copy, Debug)]
struct Seeded {
    hop: NextHop,
    seed: u64,
}

impl Target {
    /// To one of these next hops.
    ///
    /// # Errors
    /// There is none, one stands twice or is no unicast address, or there are too many.
    pub fn via(hops: impl IntoIterator<Item = NextHop>) -> Result<Self, RouteError> {
        NextHops::new(hops.into_iter().collect()).map(Self::Via)
    }

    /// The next hops, if it is by way of such.
    pub fn next_hops(&self) -> Option<&NextHops> {
        match self {
            Self::Via(hops) => Some(hops),
            _ => None,
        }
    }

    /// Whether the flow's hash makes a difference.
    pub fn is_multipath(&self) -> bool {
        self.next_hops().is_some_and(|hops| hops.hops.len() > 1)
    }

    /// Bytes on the heap, without itself.
    pub(super) fn heap_bytes(&self) -> usize {
        self.next_hops().map_or(0, |hops| size_of_val(&*hops.hops))
    }
}

impl NextHops {
    fn new(mut hops: Vec<NextHop>) -> Result<Self, RouteError> {
        if hops.is_empty() {
            return Err(RouteError::NoNextHop);
        }
        if hops.len() > MAX_NEXT_HOPS {
            return Err(RouteError::TooManyNextHops);
        }
        if let Some(hop) = hops.iter().find(|hop| !is_unicast(hop.address)) {
            return Err(RouteError::NotUnicast(hop.address));
        }
        hops.sort_unstable();
        if let Some(pair) = hops
            .windows(2)
            .find(|pair| pair[0].name() == pair[1].name())
        {
            return Err(RouteError::NextHopTwice(pair[0].address));
        }
        Ok(Self::sorted(&hops))
    }

    /// Of all of them together; what stands in several counts once, with its largest weight.
    pub(super) fn union<'a>(all: impl IntoIterator<Item = &'a Self>) -> Result<Self, RouteError> {
        let mut hops: Vec<NextHop> = all.into_iter().flat_map(Self::iter).copied().collect();
        hops.sort_unstable_by(|a, b| (a.name(), b.weight).cmp(&(b.name(), a.weight)));
        hops.dedup_by_key(|hop| hop.name());
        if hops.len() > MAX_NEXT_HOPS {
            return Err(RouteError::TooManyNextHops);
        }
        Ok(Self::sorted(&hops))
    }

    fn sorted(hops: &[NextHop]) -> Self {
        let seeded = hops.iter().map(|hop| Seeded {
            hop: *hop,
            seed: hop.seed(),
        });
        Self {
            hops: seeded.collect(),
            even: hops.iter().all(|hop| hop.weight == hops[0].weight),
        }
    }

    /// By address, then interface.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &NextHop> {
        self.hops.iter().map(|seeded| &seeded.hop)
    }

    /// The next hop of a flow: the same for the same hash while it is among them. Time grows with
    /// their number.
    #[inline]
    pub fn select(&self, hash: u64) -> &NextHop {
        let mut best = &self.hops[0];
        if self.hops.len() > 1 {
            let mut most = best.draw(hash, self.even);
            for other in &self.hops[1..] {
                let draw = other.draw(hash, self.even);
                if draw > most {
                    (best, most) = (other, draw);
                }
            }
        }
        &best.hop
    }
}

impl Seeded {
    /// What the next hop bids for a flow. Where weights are `even` the number drawn is enough:
    /// the other one grows with it.
    #[inline]
    fn draw(&self, hash: u64, even: bool) -> (f64, u64) {
        let number = mix(hash ^ self.seed);
        if even {
            return (0.0, number);
        }
        // Of -w / ln(u), with u even over (0, 1), the highest is that of a next hop with a
        // probability in proportion to its w.
        let even_draw = ((number >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        (-f64::from(self.hop.weight.get()) / even_draw.ln(), number)
    }
}

impl NextHop {
    /// What makes it another one.
    fn name(&self) -> (IpAddr, InterfaceId) {
        (self.address, self.interface)
    }

    /// The same on every machine, and whatever its weight.
    fn seed(&self) -> u64 {
        let bits = match self.address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        mix(mix(mix(bits as u64) ^ (bits >> 64) as u64) ^ u64::from(self.interface.0))
    }
}

/// The finalizer of `SplitMix64` (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", 2014), behind its increment.
#[inline]
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast)
}

impl PartialEq for NextHops {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for NextHops {}

impl PartialOrd for NextHops {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for NextHops {
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

impl Hash for NextHops {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.iter().for_each(|hop| hop.hash(state));
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { interface } => write!(f, "connected {interface}"),
            Self::Host { interface } => write!(f, "host {interface}"),
            Self::Via(hops) => {
                for (number, hop) in hops.iter().enumerate() {
                    f.write_str(if number == 0 { "" } else { ", " })?;
                    write!(f, "via {} {}", hop.address, hop.interface)?;
                    if hop.weight.get() != 1 {
                        write!(f, " weight {}", hop.weight)?;
                    }
                }
                Ok(())
            }
            Self::Blackhole => f.write_str("blackhole"),
            Self::Reject => f.write_str("reject"),
        }
    }
}
