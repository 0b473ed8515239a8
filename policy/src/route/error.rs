//! What is wrong with a route, for the operator.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Route, target::MAX_NEXT_HOPS};

/// Why a route was refused. The table is as it was before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Bits behind the prefix length are set.
    #[error("route to {prefix}: the address has bits beyond /{}; write {}", prefix.prefix_len(), prefix.trunc())]
    HostBits {
        /// As given.
        prefix: IpNet,
    },
    /// The table has this route.
    #[error("{0}: the table has this route already; remove one of the two")]
    Duplicate(Box<Route>),
    /// The table has no such route.
    #[error("{0}: the table has no such route; see which it has for {net}", net = .0.prefix)]
    Unknown(Box<Route>),
    /// A host route is to one address.
    #[error(
        "host route to {prefix}: a host route is to one address; write /{} or make it a route of \
         another kind",
        prefix.max_prefix_len()
    )]
    NotOneHost {
        /// As given.
        prefix: IpNet,
    },
    /// An IPv4 route by way of an IPv6 address, or the other way.
    #[error("route to {prefix} via {address}: the next hop is of the other address family")]
    Family {
        /// The route's.
        prefix: IpNet,
        /// The next hop's.
        address: IpAddr,
    },
    /// A route via nothing.
    #[error("a route via next hops needs one at least; name one, or make it blackhole or reject")]
    NoNextHop,
    /// The same next hop twice in one route.
    #[error("next hop {0} stands twice in one route; give it once, with a weight")]
    NextHopTwice(IpAddr),
    /// Nobody can be asked for this address.
    #[error("next hop {0} is not the address of one host")]
    NotUnicast(IpAddr),
    /// More than a choice may be among.
    #[error("more than {MAX_NEXT_HOPS} next hops of one metric for one prefix; remove some")]
    TooManyNextHops,
}
