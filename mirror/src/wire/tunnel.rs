//! How a session's copies are carried: what is asked for, checked before a template is made of it.

use std::net::{Ipv4Addr, Ipv6Addr};

use policy::Mac;

use super::{SessionId, TunnelKind, Vni};

/// The unit of a type III time stamp (draft-foschiano-erspan-03, Gra).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// 100 microseconds; wraps after five days.
    Microseconds100,
    /// 100 nanoseconds; wraps after seven minutes.
    Nanoseconds100,
    /// Seconds and nanoseconds (IEEE 1588): the seconds stand in the subheader.
    Ieee1588,
    /// What the sender likes; written as nanoseconds, and not read.
    Custom,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Granularity {
    /// Every granularity, in the order of their bits.
    pub const ALL: [Self; 4] = [
        Self::Microseconds100,
        Self::Nanoseconds100,
        Self::Ieee1588,
        Self::Custom,
    ];

    /// The two bits that name it.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Microseconds100 => 0,
            Self::Nanoseconds100 => 1,
            Self::Ieee1588 => 2,
            Self::Custom => 3,
        }
    }

    pub(crate) fn from_bits(bits: u8) -> Self {
        Self::ALL[usize::from(bits & 3)]
    }

    /// A time as lower and upper half of a stamp.
    #[inline]
    pub fn stamp(self, time_ns: u64) -> (u32, u32) {
        let units = match self {
            Self::Microseconds100 => time_ns / 100_000,
            Self::Nanoseconds100 => time_ns / 100,
            Self::Ieee1588 => {
                return ((time_ns % SECOND_NS) as u32, (time_ns / SECOND_NS) as u32);
            }
            Self::Custom => time_ns,
        };
        (units as u32, (units >> 32) as u32)
    }

    /// The time of a stamp, as far as its upper half is known; `None` for what it does not tell.
    pub fn time_ns(self, lower: u32, upper: u32) -> Option<u64> {
        let units = u64::from(upper) << 32 | u64::from(lower);
        match self {
            Self::Microseconds100 => units.checked_mul(100_000),
            Self::Nanoseconds100 => units.checked_mul(100),
            Self::Ieee1588 => Some(u64::from(upper) * SECOND_NS + u64::from(lower)),
            Self::Custom => None,
        }
    }
}

/// The Ethernet header that copies leave with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The next hop's address.
    pub destination: Mac,
    /// The tunnel port's address.
    pub source: Mac,
    /// Tag control information of an outer 802.1Q tag, if copies are to have one.
    pub tci: Option<u16>,
}

/// The ends of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Over IPv4.
    V4 {
        /// The tunnel port's address.
        source: Ipv4Addr,
        /// The decapsulator's.
        destination: Ipv4Addr,
    },
    /// Over IPv6.
    V6 {
        /// The tunnel port's address.
        source: Ipv6Addr,
        /// The decapsulator's.
        destination: Ipv6Addr,
    },
}

/// What stands between IP and the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// ERSPAN type I: neither session nor sequence.
    ErspanI,
    /// ERSPAN type II.
    ErspanII {
        /// The session.
        session: SessionId,
        /// The sender's number for port and direction, 20 bits.
        index: u32,
    },
    /// ERSPAN type III.
    ErspanIII {
        /// The session.
        session: SessionId,
        /// The unit of the time stamp.
        granularity: Granularity,
        /// The sender's mirroring hardware, 6 bits.
        hardware: u8,
        /// With a sequence number.
        sequence: bool,
        /// With a subheader that holds this port (14 bits) and the stamp's upper half.
        port: Option<u16>,
    },
    /// Ethernet in GRE.
    Ethernet {
        /// The key that names the session.
        key: Option<u32>,
        /// With a sequence number.
        sequence: bool,
    },
    /// VXLAN.
    Vxlan {
        /// The network that names the session.
        vni: Vni,
    },
}

impl Carrier {
    /// Its format.
    pub fn kind(&self) -> TunnelKind {
        match self {
            Self::ErspanI => TunnelKind::ErspanI,
            Self::ErspanII { .. } => TunnelKind::ErspanII,
            Self::ErspanIII { .. } => TunnelKind::ErspanIII,
            Self::Ethernet { .. } => TunnelKind::Ethernet,
            Self::Vxlan { .. } => TunnelKind::Vxlan,
        }
    }

    /// What names the session in it.
    pub fn id(&self) -> Option<u32> {
        match self {
            Self::ErspanI => None,
            Self::ErspanII { session, .. } | Self::ErspanIII { session, .. } => {
                Some(u32::from(session.get()))
            }
            Self::Ethernet { key, .. } => *key,
            Self::Vxlan { vni } => Some(vni.get()),
        }
    }
}

/// What happens to a copy that is too long for the tunnel's MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Oversize {
    /// It is cut, and marked so where the format has a mark.
    Truncate,
    /// The outer packet is sent in fragments.
    Fragment,
    /// It is not sent, and counted.
    Count,
}

/// How a session's copies are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The Ethernet header.
    pub link: Link,
    /// The ends.
    pub addresses: Addresses,
    /// Differentiated services code point, 6 bits.
    pub dscp: u8,
    /// Time to live, or hop limit; at least 1.
    pub ttl: u8,
    /// Routers may not fragment (IPv4; with IPv6 they never do).
    pub dont_fragment: bool,
    /// What stands between IP and the copy.
    pub carrier: Carrier,
    /// The longest outer IP packet, in bytes.
    pub mtu_bytes: u16,
    /// What happens to longer ones.
    pub oversize: Oversize,
}

/// The smallest MTU over IPv4: what every host takes (RFC 791).
pub(super) const MIN_MTU_V4: u16 = 576;
/// The smallest MTU over IPv6 (RFC 8200 §5).
pub(super) const MIN_MTU_V6: u16 = 1280;

/// Why a tunnel cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// A group address, or none.
    #[error("{0} is no Ethernet address that a frame can be sent to or from; give one host's")]
    Mac(Mac),
    /// An address that is no host's.
    #[error("the tunnel's {0} is no host's address; give a unicast address")]
    Address(std::net::IpAddr),
    /// 6 bits.
    #[error("DSCP {0} does not fit; give 0 to 63")]
    Dscp(u8),
    /// It would be dropped at once.
    #[error("a TTL of 0 reaches nobody; give 1 to 255")]
    Ttl,
    /// 20 bits.
    #[error("ERSPAN index {0} does not fit; give 0 to 1048575")]
    Index(u32),
    /// 6 bits.
    #[error("ERSPAN hardware number {0} does not fit; give 0 to 63")]
    Hardware(u8),
    /// 14 bits.
    #[error("ERSPAN port number {0} does not fit; give 0 to 16383")]
    Port(u16),
    /// The seconds would be nowhere.
    #[error(
        "a stamp of IEEE 1588 has its seconds in the subheader; give the session a port number"
    )]
    Seconds,
    /// Below what every host takes.
    #[error("an MTU of {mtu} bytes is too small; give at least {least}")]
    Mtu {
        /// What was given.
        mtu: u16,
        /// What is needed.
        least: u16,
    },
    /// Both at once.
    #[error("a copy cannot be fragmented and forbid it; leave out one of the two")]
    FragmentForbidden,
}

impl Tunnel {
    /// Checks that the parts go together.
    ///
    /// # Errors
    /// The first that does not.
    pub fn validate(&self) -> Result<(), TunnelError> {
        for mac in [self.link.destination, self.link.source] {
            if mac.is_group() || mac.to_u64() == 0 {
                return Err(TunnelError::Mac(mac));
            }
        }
        self.validate_addresses()?;
        if self.dscp > 63 {
            return Err(TunnelError::Dscp(self.dscp));
        }
        if self.ttl == 0 {
            return Err(TunnelError::Ttl);
        }
        match self.carrier {
            Carrier::ErspanII { index, .. } if index >= 1 << 20 => {
                return Err(TunnelError::Index(index));
            }
            Carrier::ErspanIII { hardware, .. } if hardware >= 1 << 6 => {
                return Err(TunnelError::Hardware(hardware));
            }
            Carrier::ErspanIII {
                port: Some(port), ..
            } if port >= 1 << 14 => return Err(TunnelError::Port(port)),
            Carrier::ErspanIII {
                granularity: Granularity::Ieee1588,
                port: None,
                ..
            } => return Err(TunnelError::Seconds),
            _ => {}
        }
        let ipv4 = matches!(self.addresses, Addresses::V4 { .. });
        let least = if ipv4 { MIN_MTU_V4 } else { MIN_MTU_V6 };
        if self.mtu_bytes < least {
            let mtu = self.mtu_bytes;
            return Err(TunnelError::Mtu { mtu, least });
        }
        if ipv4 && self.dont_fragment && self.oversize == Oversize::Fragment {
            return Err(TunnelError::FragmentForbidden);
        }
        Ok(())
    }

    fn validate_addresses(&self) -> Result<(), TunnelError> {
        match self.addresses {
            Addresses::V4 {
                source,
                destination,
            } => {
                let group = |a: &Ipv4Addr| {
                    a.is_unspecified() || a.is_multicast() || *a == Ipv4Addr::BROADCAST
                };
                let wrong = [source, destination].into_iter().find(group);
                wrong.map_or(Ok(()), |a| Err(TunnelError::Address(a.into())))
            }
            Addresses::V6 {
                source,
                destination,
            } => {
                let group = |a: &Ipv6Addr| {
                    a.is_unspecified() || a.is_multicast() || a.to_ipv4_mapped().is_some()
                };
                let wrong = [source, destination].into_iter().find(group);
                wrong.map_or(Ok(()), |a| Err(TunnelError::Address(a.into())))
            }
        }
    }
}
