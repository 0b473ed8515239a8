//! Messages that only a server or a router sends: dropped when a guest does, unless its vNIC may.
//!
//! What is read: the class's own fields (ethertype, protocol, shape), and `L4_SRC` and `L4_DST` of
//! UDP, the ICMP type of `ICMPv6`. A first fragment has these fields like a whole packet; a later one has
//! none and is not judged: without its first fragment nobody puts it together.

use crate::{
    KeyReader,
    key::{Field, ICMP_TYPE, protocol, shape},
};

/// RFC 2131 §4.1.
const DHCP_SERVER: u16 = 67;
/// RFC 2131 §4.1.
const DHCP_CLIENT: u16 = 68;
/// RFC 8415 §7.2.
const DHCP6_CLIENT: u16 = 546;
/// RFC 8415 §7.2.
const DHCP6_SERVER: u16 = 547;

/// What a guest pretends to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rogue {
    /// A DHCP server, of either version: UDP from a server's port, or to a client's. Either alone
    /// is enough: clients listen to their port whoever sends.
    DhcpServer,
    /// A router: a router advertisement (RFC 4861 §4.2) or a redirect (§4.5).
    Router,
}

const ROUTER_ADVERTISEMENT: u64 = 134 << 8;
const REDIRECT: u64 = 137 << 8;

/// Whether a frame with this key pretends to be a server or a router.
///
/// May be traced: further reads follow only from `true`.
pub fn classify<K: KeyReader>(key: &mut K) -> Option<Rogue> {
    let ports = [
        (shape::IPV4, DHCP_SERVER, DHCP_CLIENT),
        (shape::IPV6, DHCP6_SERVER, DHCP6_CLIENT),
    ];
    for (family, server, client) in ports {
        if is(key, family, protocol::UDP) {
            let from = key.equals(Field::L4_SRC, 0xffff, server.into());
            let to = key.equals(Field::L4_DST, 0xffff, client.into());
            if (from || to) && !K::TRACING {
                return Some(Rogue::DhcpServer);
            }
        }
    }
    if is(key, shape::IPV6, protocol::ICMPV6) {
        let kind = |bits| bits == ROUTER_ADVERTISEMENT || bits == REDIRECT;
        if key.test(Field::L4_SRC, ICMP_TYPE, kind) && !K::TRACING {
            return Some(Rogue::Router);
        }
    }
    None
}

/// Whether a frame with this key is a client's message to DHCP servers: of the version for IPv4, or
/// of that for IPv6.
pub fn asks_dhcp<K: KeyReader>(key: &mut K, is_v6: bool) -> bool {
    let (family, server) = if is_v6 {
        (shape::IPV6, DHCP6_SERVER)
    } else {
        (shape::IPV4, DHCP_SERVER)
    };
    is(key, family, protocol::UDP) && key.equals(Field::L4_DST, 0xffff, server.into())
}

fn is<K: KeyReader>(key: &mut K, family: u64, protocol: u8) -> bool {
    let bits = family | shape::L4;
    key.equals(Field::SHAPE, bits, bits)
        && key.equals(Field::PROTOCOL, Field::PROTOCOL.ones(), protocol.into())
}

#[cfg(test)]
mod tests {
    use crate::{
        FlowKey,
        key::Class,
        reader::{Exact, Tracer},
    };

    use super::*;

    fn key(family: u64, number: u8, src: u64, dst: u64) -> FlowKey {
        let mut key = FlowKey::default();
        key.set(Field::SHAPE, family | shape::L4);
        key.set(Field::PROTOCOL, number.into());
        key.set(Field::L4_SRC, src);
        key.set(Field::L4_DST, dst);
        key
    }

    #[test]
    fn servers_and_routers_are_told_from_clients_and_hosts() {
        let (v4, v6) = (shape::IPV4, shape::IPV6);
        let (udp, icmp6) = (protocol::UDP, protocol::ICMPV6);
        for (key, rogue) in [
            (key(v4, udp, 67, 68), Some(Rogue::DhcpServer)),
            (key(v4, udp, 4000, 68), Some(Rogue::DhcpServer)),
            (key(v4, udp, 67, 67), Some(Rogue::DhcpServer)),
            (key(v4, udp, 68, 67), None),
            (key(v6, udp, 547, 546), Some(Rogue::DhcpServer)),
            (key(v6, udp, 546, 547), None),
            (key(v4, udp, 547, 546), None),
            (key(v4, protocol::TCP, 67, 68), None),
            (key(v6, icmp6, 134 << 8, 0), Some(Rogue::Router)),
            (key(v6, icmp6, 137 << 8, 0), Some(Rogue::Router)),
            (key(v6, icmp6, 133 << 8, 0), None),
            (key(v4, icmp6, 134 << 8, 0), None),
        ] {
            assert_eq!(classify(&mut Exact(&key)), rogue, "{key:?}");
        }
    }

    #[test]
    fn the_ports_are_in_the_footprint_of_udp_alone() {
        let reads = |class| {
            let mut tracer = Tracer::new(class);
            assert_eq!(classify(&mut tracer), None);
            let mask = tracer.mask;
            (mask.get(Field::L4_SRC), mask.get(Field::L4_DST))
        };
        assert_eq!(reads(Class::Ipv4Udp), (0xffff, 0xffff));
        assert_eq!(reads(Class::Ipv6Udp), (0xffff, 0xffff));
        assert_eq!(reads(Class::Ipv4Tcp), (0, 0));
        assert_eq!(reads(Class::Ipv6Neighbor).1, 0);
    }
}
