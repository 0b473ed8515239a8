//! Which frames belong to one connection: addresses, ports and protocol, both ways round.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    NetworkId,
    key::{Class, Field, FlowKey, protocol, shape},
};

/// Where tuples are unique. Networks may use the same addresses, those of one tenant too, so each
/// network is a zone of its own; a network belongs to one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Zone(pub u16);

impl From<NetworkId> for Zone {
    fn from(network: NetworkId) -> Self {
        Self(network.0)
    }
}

/// Which way a frame of a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// As the frame that opened it.
    Original = 0,
    /// The other way.
    Reply = 1,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// ICMP and `ICMPv6` types that the tracker knows.
pub mod icmp {
    /// Echo reply (RFC 792).
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable (RFC 792).
    pub const UNREACHABLE: u8 = 3;
    /// Source quench (RFC 792).
    pub const SOURCE_QUENCH: u8 = 4;
    /// Echo request (RFC 792).
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded (RFC 792).
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem (RFC 792).
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Echo request (RFC 4443).
    pub const ECHO_REQUEST_V6: u8 = 128;
    /// Echo reply (RFC 4443).
    pub const ECHO_REPLY_V6: u8 = 129;
}

/// Stands for a port on the side of an echo that answers: no identifier is as large, so that a
/// request in one direction is never taken for the answer to one in the other.
const ANSWERS: u32 = 1 << 16;

/// Addresses, ports and protocol of a frame, from its sender's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    src: [u64; 2],
    dst: [u64; 2],
    src_port: u32,
    dst_port: u32,
    protocol: u8,
    ipv6: bool,
}

impl Tuple {
    /// The tuple of a key, where its frame can belong to a connection: IP that is whole or a first
    /// fragment, no ICMP but echo.
    pub fn of(key: &FlowKey) -> Option<Self> {
        let ipv6 = key.has(shape::IPV6);
        if !(ipv6 || key.has(shape::IPV4)) || key.has(shape::LATER_FRAGMENT) {
            return None;
        }
        let protocol = key.get(Field::PROTOCOL) as u8;
        let l4 = key.has(shape::L4);
        let (src_port, dst_port) = match protocol {
            protocol::ICMP if l4 && !ipv6 => echo(key, icmp::ECHO_REQUEST, icmp::ECHO_REPLY)?,
            protocol::ICMPV6 if l4 && ipv6 => {
                echo(key, icmp::ECHO_REQUEST_V6, icmp::ECHO_REPLY_V6)?
            }
            _ if l4 => (key.get(Field::L4_SRC) as u32, key.get(Field::L4_DST) as u32),
            _ => (0, 0),
        };
        Some(Self {
            src: [key.get(Field::IP_SRC_HIGH), key.get(Field::IP_SRC_LOW)],
            dst: [key.get(Field::IP_DST_HIGH), key.get(Field::IP_DST_LOW)],
            src_port,
            dst_port,
            protocol,
            ipv6,
        })
    }

    /// The same connection, seen from the other side.
    #[must_use]
    pub fn reverse(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            ..*self
        }
    }

    /// The same for both directions.
    pub(super) fn words(&self, zone: Zone) -> [u64; 6] {
        let from = (self.src, self.src_port);
        let to = (self.dst, self.dst_port);
        let (a, b) = if from <= to { (from, to) } else { (to, from) };
        let rest = u64::from(zone.0) << 16 | u64::from(self.ipv6) << 8 | u64::from(self.protocol);
        let ports = u64::from(a.1) << 32 | u64::from(b.1);
        [a.0[0], a.0[1], b.0[0], b.0[1], ports, rest]
    }

    /// Source address.
    pub fn src(&self) -> IpAddr {
        address(self.src, self.ipv6)
    }

    /// Destination address.
    pub fn dst(&self) -> IpAddr {
        address(self.dst, self.ipv6)
    }

    /// Whether it goes to this address, given as the words of a key.
    pub fn is_to(&self, address: [u64; 2]) -> bool {
        self.dst == address
    }

    /// Source port, or the identifier of an echo; 0 for protocols without.
    pub fn src_port(&self) -> u16 {
        if self.src_port == ANSWERS {
            self.dst_port as u16
        } else {
            self.src_port as u16
        }
    }

    /// Destination port, or the identifier of an echo; 0 for protocols without.
    pub fn dst_port(&self) -> u16 {
        if self.dst_port == ANSWERS {
            self.src_port as u16
        } else {
            self.dst_port as u16
        }
    }

    /// IP protocol.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// A tuple put together from what an ICMP error holds of a packet. `None` for what cannot
    /// belong to a connection.
    pub(super) fn quoted(
        addresses: ([u64; 2], [u64; 2]),
        protocol: u8,
        ipv6: bool,
        l4: [u8; 8],
    ) -> Option<Self> {
        let first = u32::from(u16::from_be_bytes([l4[0], l4[1]]));
        let second = u32::from(u16::from_be_bytes([l4[2], l4[3]]));
        let id = u32::from(u16::from_be_bytes([l4[4], l4[5]]));
        let (src_port, dst_port) = match (protocol, ipv6) {
            (protocol::TCP | protocol::UDP | protocol::SCTP, _) => (first, second),
            (protocol::ICMP, false) => sides(l4[0], icmp::ECHO_REQUEST, icmp::ECHO_REPLY, id)?,
            (protocol::ICMPV6, true) => {
                sides(l4[0], icmp::ECHO_REQUEST_V6, icmp::ECHO_REPLY_V6, id)?
            }
            _ => (0, 0),
        };
        Some(Self {
            src: addresses.0,
            dst: addresses.1,
            src_port,
            dst_port,
            protocol,
            ipv6,
        })
    }
}

fn echo(key: &FlowKey, request: u8, reply: u8) -> Option<(u32, u32)> {
    let kind = (key.get(Field::L4_SRC) >> 8) as u8;
    sides(kind, request, reply, key.get(Field::L4_DST) as u32)
}

fn sides(kind: u8, request: u8, reply: u8, id: u32) -> Option<(u32, u32)> {
    match kind {
        kind if kind == request => Some((id, ANSWERS)),
        kind if kind == reply => Some((ANSWERS, id)),
        _ => None,
    }
}

fn address(words: [u64; 2], ipv6: bool) -> IpAddr {
    if ipv6 {
        Ipv6Addr::from(u128::from(words[0]) << 64 | u128::from(words[1])).into()
    } else {
        Ipv4Addr::from(words[1] as u32).into()
    }
}

/// What kind of connection a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// TCP, with states and windows.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo of either family.
    Icmp,
    /// Anything else, by its addresses (SCTP also by its ports).
    Other,
}

impl Kind {
    /// By IP protocol.
    pub fn of(protocol: u8) -> Self {
        match protocol {
            protocol::TCP => Self::Tcp,
            protocol::UDP => Self::Udp,
            protocol::ICMP | protocol::ICMPV6 => Self::Icmp,
            _ => Self::Other,
        }
    }
}

impl Class {
    /// Whether frames of the class can belong to a connection or concern one.
    pub fn trackable(self) -> bool {
        match self {
            Self::Ipv4Tcp
            | Self::Ipv4Udp
            | Self::Ipv4Icmp
            | Self::Ipv4Other
            | Self::Ipv6Tcp
            | Self::Ipv6Udp
            | Self::Ipv6Icmp
            | Self::Ipv6Other => true,
            Self::Runt
            | Self::Malformed
            | Self::NonIp
            | Self::Arp
            | Self::Ipv4Fragment
            | Self::Ipv6Neighbor
            | Self::Ipv6Fragment => false,
        }
    }
}
