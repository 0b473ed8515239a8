//! The routers' part of the slow path: the way of a frame through one router after another.
//!
//! In: a frame's key, and the gateway that it is for. Out: a [`Course`]. What must hold: all that is
//! read of the key stands in `policy::router::Router::read`; what else a course depends on is the
//! snapshot, and the neighbour that it ends at.

use std::{net::IpAddr, sync::Arc};

use policy::{
    DropReason, FlowKey, Mac, NetworkId,
    router::{Router, Way},
    snapshot::{Gateway, NetworkPolicy, Snapshot},
};

/// The most routers of the switch that a packet goes through.
pub const MOST_HOPS: u8 = 8;

/// Where a frame goes that is for a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// The network by whose name its connection goes.
    pub zone: NetworkId,
    /// The last router, and the interface that it came in by.
    pub at: Gateway,
    /// What that one does with it.
    pub end: End,
}

/// What the last router does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Takes it for itself.
    Local,
    /// Sends it to a neighbour.
    Onward(Leg),
    /// Drops it.
    Refused(DropReason),
}

/// The last leg of a frame's way, and what all of it asks of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The network that it goes out to.
    pub network: NetworkId,
    /// The neighbour there.
    pub neighbor: IpAddr,
    /// The last router's Ethernet address.
    pub from: Mac,
    /// Routers passed.
    pub hops: u8,
    /// The least MTU of all networks entered.
    pub mtu: u16,
    /// Whether TCP's segment size is clamped on the way.
    pub clamp_mss: bool,
}

/// The way of a frame with this key from `gateway` on.
pub fn plot(snapshot: &Snapshot, gateway: Gateway, key: &FlowKey) -> Course {
    follow(snapshot, gateway, key, MOST_HOPS)
}

/// As [`plot`], for a packet that may pass `most` routers: the course ends at the one that it may
/// not pass.
pub fn follow(snapshot: &Snapshot, gateway: Gateway, key: &FlowKey, most: u8) -> Course {
    let mut at = gateway;
    let (mut mtu, mut clamp_mss) = (u16::MAX, false);
    let mut first: Option<&Router> = None;
    let mut hops = 0;
    let end = loop {
        let Some(router) = snapshot.router(at.router) else {
            break End::Refused(DropReason::NoPolicy);
        };
        // Both directions of a connection pass the same routers: they agree on one of them.
        let is_first = first.is_none_or(|first| router.name < first.name);
        first = if is_first { Some(router) } else { first };
        let (interface, neighbor) = match router.way(key) {
            Way::Local => break End::Local,
            Way::Refused(reason) => break End::Refused(reason),
            Way::Via {
                interface,
                neighbor,
            } => (interface, neighbor),
        };
        if hops == MOST_HOPS {
            break End::Refused(DropReason::RoutingLoop);
        }
        if hops == most {
            break End::Refused(DropReason::TtlExpired);
        }
        hops += 1;
        let interface = router.interface(interface);
        let network = interface.and_then(|interface| snapshot.network(interface.network));
        let (Some(interface), Some(network)) = (interface, network) else {
            break End::Refused(DropReason::NoPolicy);
        };
        mtu = mtu.min(interface.mtu);
        clamp_mss |= interface.clamp_mss;
        if let Some(next) = router_at(snapshot, network, neighbor) {
            at = next;
            continue;
        }
        break End::Onward(Leg {
            network: network.id,
            neighbor,
            from: router.mac,
            hops,
            mtu,
            clamp_mss,
        });
    };
    let zone = first.map_or(NetworkId::default(), |router| router.home);
    Course { zone, at, end }
}

/// The router of a network that has `address` there.
fn router_at(snapshot: &Snapshot, network: &NetworkPolicy, address: IpAddr) -> Option<Gateway> {
    let mut gateways = network.gateways.iter().copied();
    gateways.find(|gateway| {
        let router = snapshot.router(gateway.router);
        let interface = router.and_then(|router| router.interface(gateway.interface));
        interface.is_some_and(|interface| interface.has(address, gateway.mac))
    })
}

/// The address that a router says something from to a sender that it hears by `gateway`.
pub fn own_address(snapshot: &Snapshot, gateway: Gateway, like: IpAddr) -> Option<IpAddr> {
    let router = snapshot.router(gateway.router)?;
    let by = router.interface(gateway.interface)?;
    let all = || router.interfaces.iter();
    let any = all().find_map(|interface| interface.address_like(like));
    by.address_like(like).or(any)
}

/// The names of routers, for people.
pub fn name(snapshot: &Snapshot, gateway: Gateway) -> Option<&Arc<str>> {
    snapshot.router(gateway.router).map(|router| &router.name)
}
