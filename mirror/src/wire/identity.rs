//! What names a session on the wire.

use std::{
    fmt,
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv6Addr},
};

/// An ERSPAN session's number, 0 to 1023.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u16);

impl SessionId {
    /// `None` above 1023: the field has 10 bits.
    pub fn new(number: u16) -> Option<Self> {
        (number < 1 << 10).then_some(Self(number))
    }

    /// The number in the low 10 bits of a header word.
    pub(crate) fn from_bits(bits: u16) -> Self {
        Self(bits & 0x3ff)
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

/// A VXLAN network identifier, 24 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// `None` above 24 bits.
    pub fn new(number: u32) -> Option<Self> {
        (number < 1 << 24).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// The format that carries a mirrored frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TunnelKind {
    /// ERSPAN type I: GRE protocol 0x88be without sequence, and no header of its own.
    ErspanI,
    /// ERSPAN type II: GRE protocol 0x88be with sequence.
    ErspanII,
    /// ERSPAN type III: GRE protocol 0x22eb.
    ErspanIII,
    /// Ethernet in GRE, protocol 0x6558 (RFC 1701), mostly with a key (RFC 2890).
    Ethernet,
    /// VXLAN (RFC 7348).
    Vxlan,
}

impl TunnelKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::ErspanI,
        Self::ErspanII,
        Self::ErspanIII,
        Self::Ethernet,
        Self::Vxlan,
    ];

    /// The name used in configurations and counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ErspanI => "erspan_i",
            Self::ErspanII => "erspan_ii",
            Self::ErspanIII => "erspan_iii",
            Self::Ethernet => "gre",
            Self::Vxlan => "vxlan",
        }
    }
}

impl fmt::Display for TunnelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What names a session on the wire. The 10 bits of an ERSPAN session cannot: several senders use
/// the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// IPv4 addresses stand as mapped ones (RFC 4291 §2.5.5.2), which no IPv6 packet may have.
    pub(crate) source: u128,
    pub(crate) destination: u128,
    kind: TunnelKind,
    id: Option<u32>,
}

/// An address as it stands in an [`Identity`].
pub(crate) fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn address(bits: u128) -> IpAddr {
    let address = Ipv6Addr::from(bits);
    match address.to_ipv4_mapped() {
        Some(address) => IpAddr::V4(address),
        None => IpAddr::V6(address),
    }
}

impl Identity {
    /// Of frames from `source` to `destination`. `id` is the ERSPAN session, the GRE key or the
    /// VNI, and `None` where the format or the sender has none.
    pub fn new(source: IpAddr, destination: IpAddr, kind: TunnelKind, id: Option<u32>) -> Self {
        Self::of_bits(address_bits(source), address_bits(destination), kind, id)
    }

    pub(crate) fn of_bits(
        source: u128,
        destination: u128,
        kind: TunnelKind,
        id: Option<u32>,
    ) -> Self {
        Self {
            source,
            destination,
            kind,
            id,
        }
    }

    /// The tunnel's sender.
    pub fn source(&self) -> IpAddr {
        address(self.source)
    }

    /// The address it sends to.
    pub fn destination(&self) -> IpAddr {
        address(self.destination)
    }

    /// The format.
    pub fn kind(&self) -> TunnelKind {
        self.kind
    }

    /// The ERSPAN session, the GRE key or the VNI.
    pub fn id(&self) -> Option<u32> {
        self.id
    }
}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.source);
        state.write_u128(self.destination);
        let id = self.id.map_or(1 << 32, u64::from);
        state.write_u64(id << 8 | self.kind as u64);
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, destination, kind) = (self.source(), self.destination(), self.kind);
        match self.id {
            Some(id) => write!(f, "{source} to {destination} {kind} {id}"),
            None => write!(f, "{source} to {destination} {kind}"),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
