//! Routers: what joins a tenant's networks, and where a frame that is for one goes.
//!
//! In: a router's interfaces and routes, a frame's key. Out: the way of the frame out of that one
//! router. What must hold: [`Router::way`] reads of a key only what [`Router::read`] says, so that
//! frames that the flow cache takes for equal go the same way.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{
    DropReason, InterfaceId, Mac, NetworkId,
    key::{Field, FlowKey, shape},
    reader::KeyReader,
    route::{RouteTable, Target},
    sender::link_local_address,
};

/// A router of one tenant.
#[derive(Clone, Debug)]
pub struct Router {
    /// Its name.
    pub name: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Its Ethernet address in every network, the same on every host.
    pub mac: Mac,
    /// Its places in networks.
    pub interfaces: Vec<Interface>,
    /// Where its connections are tracked: among those of this network.
    pub home: NetworkId,
    /// Its routes, those to its own networks included.
    pub routes: RouteTable,
}

/// A router's place in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Which.
    pub network: NetworkId,
    /// Its addresses there, with the length of the network's prefix.
    pub addresses: Vec<IpNet>,
    /// The longest packet that it sends, in bytes from the IP header on.
    pub mtu: u16,
    /// Whether TCP connections that pass it are told to send segments that fit the MTU.
    pub clamp_mss: bool,
}

/// Where a router sends a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is for the router itself.
    Local,
    /// By an interface, to the neighbour that has this address.
    Via {
        /// The interface.
        interface: InterfaceId,
        /// The neighbour.
        neighbor: IpAddr,
    },
    /// Nowhere.
    Refused(DropReason),
}

impl Interface {
    /// Its first address of the family of `like`, as the source of what the router says there.
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter().map(IpNet::addr);
        addresses.find(|address| address.is_ipv4() == like.is_ipv4())
    }

    /// Whether `address` is its own, the link-local one formed from `mac` included.
    pub fn has(&self, address: IpAddr, mac: Mac) -> bool {
        address == IpAddr::V6(link_local_address(mac))
            || self.addresses.iter().any(|own| own.addr() == address)
    }
}

impl Router {
    /// One of its interfaces.
    pub fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        self.interfaces.get(usize::from(id.0))
    }

    /// Notes what routing a frame reads of its key: [`Router::way`], and whoever sends it on.
    pub fn read<R: KeyReader>(&self, r: &mut R) {
        let ip = |shape| shape & (shape::IPV4 | shape::IPV6) != 0;
        if !r.test(Field::SHAPE, Field::SHAPE.ones(), ip) && !R::TRACING {
            return;
        }
        let mut read = |field: Field, mask: u64| {
            let _ = r.test(field, mask, |_| true);
        };
        read(Field::IP_DST_HIGH, u64::MAX);
        read(Field::IP_DST_LOW, u64::MAX);
        read(Field::IP_SRC_HIGH, SOURCE_V6);
        read(Field::IP_SRC_LOW, SOURCE_V4);
        if self.routes.is_multipath_v4() || self.routes.is_multipath_v6() {
            read(Field::IP_SRC_HIGH, u64::MAX);
            read(Field::IP_SRC_LOW, u64::MAX);
            for field in [Field::PROTOCOL, Field::L4_SRC, Field::L4_DST] {
                read(field, field.ones());
            }
        }
        if self.interfaces.iter().any(|interface| interface.clamp_mss) {
            read(Field::TCP_FLAGS, SYN);
        }
    }

    /// Where a frame with this key, which is for this router, goes.
    pub fn way(&self, key: &FlowKey) -> Way {
        let Some(destination) = destination(key) else {
            return Way::Refused(DropReason::NotRoutable);
        };
        let owned = |interface: &Interface| interface.has(destination, self.mac);
        if self.interfaces.iter().any(owned) {
            return Way::Local;
        }
        if !is_routable(key) {
            return Way::Refused(DropReason::NotRoutable);
        }
        let target = match destination {
            IpAddr::V4(destination) => self.routes.lookup_v4(destination),
            IpAddr::V6(destination) => self.routes.lookup_v6(destination),
        };
        match target {
            None => Way::Refused(DropReason::NoRoute),
            Some(Target::Blackhole) => Way::Refused(DropReason::RouteBlackhole),
            Some(Target::Reject) => Way::Refused(DropReason::RouteReject),
            Some(Target::Connected { interface } | Target::Host { interface }) => Way::Via {
                interface: *interface,
                neighbor: destination,
            },
            Some(Target::Via(hops)) => {
                let hop = hops.select(flow_hash(key));
                Way::Via {
                    interface: hop.interface,
                    neighbor: hop.address,
                }
            }
        }
    }
}

/// The address that a frame with this key is for, if it is an IP packet's.
pub fn destination(key: &FlowKey) -> Option<IpAddr> {
    let [_, _, _, _, high, low, ..] = key.0;
    if key.has(shape::IPV4) {
        Some(IpAddr::V4((low as u32).into()))
    } else {
        let address = u128::from(high) << 64 | u128::from(low);
        key.has(shape::IPV6).then(|| IpAddr::V6(address.into()))
    }
}

/// What is read of an IPv6 source: enough to know it for a reserved one (RFC 4291 §2.4).
const SOURCE_V6: u64 = 0xffff << 48;
/// The same of an IPv4 source.
const SOURCE_V4: u64 = 0xffff_0000;
/// In [`Field::TCP_FLAGS`].
const SYN: u64 = 2;

/// Whether a packet may leave its link: whole headers, and source and destination one host's
/// (RFC 1812 §5.3.7, RFC 4291 §2.4).
fn is_routable(key: &FlowKey) -> bool {
    let [_, _, source_high, source, high, low, ..] = key.0;
    if key.has(shape::MALFORMED) || key.has(shape::NESTED) {
        return false;
    }
    if key.has(shape::IPV4) {
        // 0/8, 127/8, 169.254/16 (RFC 3927 §7) and 224/3.
        let stays =
            |address: u64| matches!(address >> 24, 0 | 127 | 224..) || address >> 16 == 0xa9fe;
        !stays(source & SOURCE_V4) && !stays(low)
    } else {
        // ::/16 (nobody, oneself, and IPv4 in disguise), fe80::/10 and ff00::/8.
        let stays = |high: u64| high >> 48 == 0 || high >> 54 == 0xfe80 >> 6 || high >> 56 == 0xff;
        !stays(source_high & SOURCE_V6) && !stays(high)
    }
}

/// A number that is the same for all packets of a flow.
fn flow_hash(key: &FlowKey) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let [_, _, a, b, c, d, ..] = key.0;
    let ports = key.get(Field::L4_SRC) << 16 | key.get(Field::L4_DST);
    let rest = ports << 8 | key.get(Field::PROTOCOL);
    [a, b, c, d, rest].into_iter().fold(0, |hash: u64, word| {
        let product = u128::from(hash ^ word ^ FACTOR) * u128::from(FACTOR);
        (product >> 64) as u64 ^ product as u64
    })
}
