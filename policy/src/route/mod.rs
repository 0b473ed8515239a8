//! Routes: where a router sends what is addressed to a destination.
//!
//! In come routes; out goes, for an address, the [`Target`] of the longest prefix that it lies in.
//!
//! ```text
//!   address ─► tree ─► entry of a prefix ─► best metric ─► Target ─► select(hash) ─► NextHop
//! ```
//!
//! What must hold: a table is a value. A clone costs the same whatever its length and shares all
//! that neither of the two changes; [`RouteTable::insert`] and [`RouteTable::remove`] copy the way
//! to one prefix, and whoever reads another version never meets half of a change. A table with few
//! routes takes little memory: a switch has hundreds of routers, whose addresses may overlap.
//!
//! What a lookup reads of an address is bounded by [`RouteTable::depth_bits_v4`] and its like for
//! IPv6; what it reads of the rest of a flow, by [`RouteTable::is_multipath_v4`].
//!
//! Rooms: `target` (where a route leads, ECMP), `entry` (the routes of one prefix), `tree`
//! (longest prefix match, by `bits`), `front` (its answers where IPv4 prefixes are many, in `pages`), `family` (a tree with its counts), `build` (many routes at once), `iter`
//! (all of them in order), `error`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hashbrown::HashSet;
use ipnet::IpNet;

mod bits;
mod build;
mod entry;
mod error;
mod family;
mod front;
mod iter;
mod leaves;
mod pages;
mod target;
mod tree;

pub use error::RouteError;
pub use target::{MAX_NEXT_HOPS, NextHop, NextHops, Target};

use build::{Builder, Targets};
use entry::Candidate;
use family::Family;
use front::{Answer, Front};
use iter::Routes;

/// Where a prefix leads, by one who says so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// What it is a route to.
    pub prefix: IpNet,
    /// The least is followed.
    pub metric: u32,
    /// Who put it there.
    pub origin: Origin,
    /// Where it leads. Routes that lead to the same place do best to share this.
    pub target: Arc<Target>,
}

/// Who put a route there, and takes it away again. Makes no difference to which is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A network that the router is attached to.
    Network,
    /// A vNIC that has the address.
    Vnic,
    /// The configuration.
    Configuration,
    /// The control API.
    Api,
}

/// The routes of one router, IPv4 and IPv6.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    v4: Family,
    front_v4: Front,
    v6: Family,
}

impl RouteTable {
    /// A table of many routes, in whatever order; equal targets become one. A second takes some
    /// millions.
    ///
    /// # Errors
    /// That of the first route, in the order of prefixes, that [`RouteTable::insert`] would refuse.
    pub fn from_routes(routes: impl IntoIterator<Item = Route>) -> Result<Self, RouteError> {
        let (mut v4, mut v6) = (Builder::default(), Builder::default());
        let mut targets = Targets::default();
        for route in routes {
            route.check()?;
            let candidate = Candidate {
                target: targets.shared(route.target),
                metric: route.metric,
                origin: route.origin,
            };
            match route.prefix {
                IpNet::V4(net) => v4.add(u32::from(net.network()), net.prefix_len(), candidate),
                IpNet::V6(net) => v6.add(u128::from(net.network()), net.prefix_len(), candidate),
            }
        }
        let (v4, prefixes) = v4.build()?;
        let front_v4 = Front::new(&prefixes);
        let (v6, _) = v6.build()?;
        Ok(Self { v4, front_v4, v6 })
    }

    /// Adds a route. Others of the prefix stay.
    ///
    /// # Errors
    /// The route is not well formed, it is there already, or there are too many next hops.
    pub fn insert(&mut self, route: Route) -> Result<(), RouteError> {
        route.check()?;
        let (prefix, candidate) = route.split();
        self.change(prefix, |candidates| {
            if candidates.contains(&candidate) {
                let route = Route::new(prefix, candidate);
                return Err(RouteError::Duplicate(Box::new(route)));
            }
            candidates.push(candidate);
            Ok(())
        })
    }

    /// Takes away the route that says exactly this.
    ///
    /// # Errors
    /// There is none.
    pub fn remove(&mut self, route: &Route) -> Result<(), RouteError> {
        let unknown = || RouteError::Unknown(Box::new(route.clone()));
        if route.prefix != route.prefix.trunc() {
            return Err(unknown());
        }
        let (prefix, candidate) = route.clone().split();
        self.change(prefix, |candidates| {
            let place = candidates.iter().position(|other| *other == candidate);
            candidates.remove(place.ok_or_else(unknown)?);
            Ok(())
        })
    }

    fn change(
        &mut self,
        prefix: IpNet,
        change: impl FnOnce(&mut Vec<Candidate>) -> Result<(), RouteError>,
    ) -> Result<(), RouteError> {
        let len = prefix.prefix_len();
        match prefix.network() {
            IpAddr::V4(bits) => {
                let bits = bits.to_bits();
                let is_there = |v4: &Family| v4.root.get(bits, len).is_some();
                let was_there = is_there(&self.v4);
                self.v4.change(bits, len, change)?;
                let tree = &self.v4.root;
                self.front_v4
                    .follow(tree, (bits, len), was_there, is_there(&self.v4));
                Ok(())
            }
            IpAddr::V6(bits) => self.v6.change(bits.to_bits(), len, change),
        }
    }

    /// Where frames to an IPv4 address go; `None` if there is no route.
    #[inline]
    pub fn lookup_v4(&self, destination: Ipv4Addr) -> Option<&Target> {
        let (tree, bits) = (&self.v4.root, destination.to_bits());
        let entry = match self.front_v4.lookup(bits) {
            Answer::Target(target) => return Some(target),
            Answer::Shorter => tree.lookup_in(front::ROOM_BITS / bits::STRIDE, bits),
            Answer::Tree => tree.lookup(bits),
        };
        Some(entry?.best())
    }

    /// Where frames to an IPv6 address go; `None` if there is no route.
    #[inline]
    pub fn lookup_v6(&self, destination: Ipv6Addr) -> Option<&Target> {
        let entry = self.v6.root.lookup(destination.to_bits())?;
        Some(entry.best())
    }

    /// The prefix that a lookup of this address finds, for those who ask why.
    pub fn matching(&self, destination: IpAddr) -> Option<IpNet> {
        let len = match destination {
            IpAddr::V4(address) => self.v4.root.matching_len(address.to_bits()),
            IpAddr::V6(address) => self.v6.root.matching_len(address.to_bits()),
        };
        Some(IpNet::new(destination, len?).ok()?.trunc())
    }

    /// The routes of exactly this prefix, best first.
    pub fn get(&self, prefix: IpNet) -> impl Iterator<Item = Route> {
        let prefix = prefix.trunc();
        let len = prefix.prefix_len();
        let entry = match prefix.network() {
            IpAddr::V4(bits) => self.v4.root.get(bits.to_bits(), len),
            IpAddr::V6(bits) => self.v6.root.get(bits.to_bits(), len),
        };
        let candidates = entry.map(entry::Entry::candidates).unwrap_or_default();
        candidates
            .iter()
            .map(move |candidate| Route::new(prefix, candidate.clone()))
    }

    /// All routes: IPv4 first, by address, then prefix length, then best first.
    pub fn routes(&self) -> impl Iterator<Item = Route> {
        let v4 = Routes::<u32>::new(&self.v4.root);
        v4.chain(Routes::<u128>::new(&self.v6.root))
    }

    /// How many routes there are, of both families.
    pub fn len(&self) -> usize {
        self.v4.routes + self.v6.routes
    }

    /// Whether there are no routes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Leading bits of an IPv4 address that [`RouteTable::lookup_v4`] depends on: addresses that
    /// are equal in them get the same answer. It grows and shrinks with the routes. What comes
    /// after the lookup may read more: the neighbour of a [`Target::Connected`] is the destination.
    pub fn depth_bits_v4(&self) -> u8 {
        self.v4.depth_bits()
    }

    /// [`RouteTable::depth_bits_v4`] of IPv6.
    pub fn depth_bits_v6(&self) -> u8 {
        self.v6.depth_bits()
    }

    /// Whether any IPv4 address leads to several next hops, among which the flow's hash chooses.
    pub fn is_multipath_v4(&self) -> bool {
        self.v4.is_multipath()
    }

    /// Whether any IPv6 address leads to several next hops, among which the flow's hash chooses.
    pub fn is_multipath_v6(&self) -> bool {
        self.v6.is_multipath()
    }

    /// Bytes that this version keeps alive, what it shares with others included and what the
    /// allocator adds left out. Visits every route.
    pub fn memory_bytes(&self) -> usize {
        let nodes = self.v4.root.heap_bytes() + self.v6.root.heap_bytes();
        let front = self.front_v4.heap_bytes();
        let mut seen = HashSet::new();
        let mut targets = 0;
        let trees = self.v4.root.targets().chain(self.v6.root.targets());
        for target in trees.chain(self.front_v4.targets()) {
            if seen.insert(Arc::as_ptr(target)) {
                targets += tree::ARC_BYTES + size_of::<Target>() + target.heap_bytes();
            }
        }
        size_of::<Self>() + nodes + front + targets
    }
}

impl Route {
    fn new(prefix: IpNet, candidate: Candidate) -> Self {
        Self {
            prefix,
            metric: candidate.metric,
            origin: candidate.origin,
            target: candidate.target,
        }
    }

    fn split(self) -> (IpNet, Candidate) {
        let candidate = Candidate {
            target: self.target,
            metric: self.metric,
            origin: self.origin,
        };
        (self.prefix, candidate)
    }

    /// Whether a table would take it, as far as that can be told without the table.
    ///
    /// # Errors
    /// It is not well formed.
    pub fn check(&self) -> Result<(), RouteError> {
        let prefix = self.prefix;
        if prefix != prefix.trunc() {
            return Err(RouteError::HostBits { prefix });
        }
        match &*self.target {
            Target::Host { .. } if prefix.prefix_len() != prefix.max_prefix_len() => {
                Err(RouteError::NotOneHost { prefix })
            }
            Target::Via(hops) => {
                let ipv4 = prefix.addr().is_ipv4();
                let other = hops.iter().find(|hop| hop.address.is_ipv4() != ipv4);
                other.map_or(Ok(()), |hop| {
                    let address = hop.address;
                    Err(RouteError::Family { prefix, address })
                })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} metric {}", self.prefix, self.target, self.metric)
    }
}
