//! `DHCPv6` messages, read and written (RFC 8415 §8, §9, §21). Reading is total and copies nothing.

use std::net::Ipv6Addr;

use crate::services::refusal::Refusal;

/// Where servers and relays listen (RFC 8415 §7.1).
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// The longest message: nothing is cut on an Ethernet.
const MOST_BYTES: usize = 1500 - 40 - 8;

/// Message types (RFC 8415 §7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are those of the RFC")]
pub enum Kind {
    Solicit = 1,
    Advertise = 2,
    Request = 3,
    Confirm = 4,
    Renew = 5,
    Rebind = 6,
    Reply = 7,
    Release = 8,
    Decline = 9,
    Reconfigure = 10,
    InformationRequest = 11,
    RelayForward = 12,
    RelayReply = 13,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::Solicit,
        Self::Advertise,
        Self::Request,
        Self::Confirm,
        Self::Renew,
        Self::Rebind,
        Self::Reply,
        Self::Release,
        Self::Decline,
        Self::Reconfigure,
        Self::InformationRequest,
        Self::RelayForward,
        Self::RelayReply,
    ];

    /// The type of a message.
    ///
    /// # Errors
    ///
    /// When it is unknown.
    pub fn of(message: &[u8]) -> Result<Self, Refusal> {
        let number = message.first().ok_or(Refusal::Dhcp6Form)?;
        let kind = Self::ALL.into_iter().find(|kind| *kind as u8 == *number);
        kind.ok_or(Refusal::Dhcp6Type)
    }
}

/// Option codes (RFC 8415 §21 unless said otherwise).
pub mod option {
    /// Client identifier.
    pub const CLIENT: u16 = 1;
    /// Server identifier.
    pub const SERVER: u16 = 2;
    /// Addresses that are not temporary.
    pub const IA_NA: u16 = 3;
    /// Temporary addresses.
    pub const IA_TA: u16 = 4;
    /// An address.
    pub const ADDRESS: u16 = 5;
    /// What the client asks for.
    pub const ORO: u16 = 6;
    /// A message within a relay's.
    pub const RELAY_MESSAGE: u16 = 9;
    /// Status.
    pub const STATUS: u16 = 13;
    /// Rapid commit.
    pub const RAPID_COMMIT: u16 = 14;
    /// Where a relay got the message.
    pub const INTERFACE_ID: u16 = 18;
    /// DNS servers (RFC 3646).
    pub const DNS: u16 = 23;
    /// Domain search list (RFC 3646).
    pub const SEARCH: u16 = 24;
    /// Prefixes.
    pub const IA_PD: u16 = 25;
    /// When settings are asked for again.
    pub const REFRESH: u16 = 32;
    /// The client's link-layer address, by a relay (RFC 6939).
    pub const LINK_ADDRESS: u16 = 79;
    /// Boot file (RFC 5970).
    pub const BOOT_FILE: u16 = 59;
}

/// Status codes (RFC 8415 §21.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs, reason = "the names are those of the RFC")]
pub enum Status {
    Success = 0,
    NoAddrsAvail = 2,
    NoBinding = 3,
    NotOnLink = 4,
    UseMulticast = 5,
    NoPrefixAvail = 6,
}

/// A message between client and server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'m> {
    /// Its type.
    pub kind: Kind,
    /// Transaction.
    pub xid: [u8; 3],
    /// Its options.
    pub options: Options<'m>,
}

/// A relay's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayMessage<'m> {
    /// Its type.
    pub kind: Kind,
    /// Relays it has passed.
    pub hops: u8,
    /// The client's link.
    pub link: Ipv6Addr,
    /// The client.
    pub peer: Ipv6Addr,
    /// Its options.
    pub options: Options<'m>,
}

/// Options in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options<'m>(pub Vec<(u16, &'m [u8])>);

impl<'m> Options<'m> {
    /// Reads options up to the end.
    ///
    /// # Errors
    ///
    /// When one is cut off.
    pub fn read(mut bytes: &'m [u8]) -> Result<Self, Refusal> {
        let mut options = Vec::new();
        while let [c0, c1, l0, l1, rest @ ..] = bytes {
            let length = u16::from_be_bytes([*l0, *l1]);
            let (data, rest) = rest
                .split_at_checked(length.into())
                .ok_or(Refusal::Dhcp6Form)?;
            options.push((u16::from_be_bytes([*c0, *c1]), data));
            bytes = rest;
        }
        if bytes.is_empty() {
            Ok(Self(options))
        } else {
            Err(Refusal::Dhcp6Form)
        }
    }

    /// The first option with a code.
    pub fn get(&self, code: u16) -> Option<&'m [u8]> {
        self.all(code).next()
    }

    /// Every option with a code.
    pub fn all(&self, code: u16) -> impl Iterator<Item = &'m [u8]> + '_ {
        let options = self.0.iter().filter(move |(known, _)| *known == code);
        options.map(|(_, data)| *data)
    }
}

impl<'m> Message<'m> {
    /// Reads a message that is not a relay's.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn read(bytes: &'m [u8]) -> Result<Self, Refusal> {
        let kind = Kind::of(bytes)?;
        let [_, x0, x1, x2, options @ ..] = bytes else {
            return Err(Refusal::Dhcp6Form);
        };
        if matches!(kind, Kind::RelayForward | Kind::RelayReply) {
            return Err(Refusal::RelayForged);
        }
        Ok(Self {
            kind,
            xid: [*x0, *x1, *x2],
            options: Options::read(options)?,
        })
    }
}

impl<'m> RelayMessage<'m> {
    /// Reads a relay's message.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn read(bytes: &'m [u8]) -> Result<Self, Refusal> {
        let kind = Kind::of(bytes)?;
        if !matches!(kind, Kind::RelayForward | Kind::RelayReply) {
            return Err(Refusal::Dhcp6Type);
        }
        let (header, options) = bytes.split_at_checked(34).ok_or(Refusal::Dhcp6Form)?;
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&header[at..at + 16]);
            Ipv6Addr::from(octets)
        };
        Ok(Self {
            kind,
            hops: header[1],
            link: address(2),
            peer: address(18),
            options: Options::read(options)?,
        })
    }
}

/// A set of addresses that a client asks for (`IA_NA`, RFC 8415 §21.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Association {
    /// The client's number for it.
    pub id: [u8; 4],
    /// The addresses that the client has or would like.
    pub addresses: Vec<Ipv6Addr>,
}

impl Association {
    /// Reads an option.
    ///
    /// # Errors
    ///
    /// When it, or one in it, is cut off.
    pub fn read(data: &[u8]) -> Result<Self, Refusal> {
        const HEADER_BYTES: usize = 12;

        let (header, options) = data
            .split_at_checked(HEADER_BYTES)
            .ok_or(Refusal::Dhcp6Form)?;
        let options = Options::read(options)?;
        let addresses = options.all(option::ADDRESS).map(|data| {
            let (address, rest) = data.split_first_chunk::<16>().ok_or(Refusal::Dhcp6Form)?;
            // Lifetimes, and options that say nothing here.
            if rest.len() < 8 {
                return Err(Refusal::Dhcp6Form);
            }
            Ok(Ipv6Addr::from(*address))
        });
        Ok(Self {
            id: [header[0], header[1], header[2], header[3]],
            addresses: addresses.collect::<Result<_, _>>()?,
        })
    }
}

/// Writes a message, option by option.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A message between client and server.
    pub fn message(kind: Kind, xid: [u8; 3]) -> Self {
        let mut bytes = vec![kind as u8];
        bytes.extend(xid);
        Self(bytes)
    }

    /// A relay's message.
    pub fn relay(kind: Kind, hops: u8, link: Ipv6Addr, peer: Ipv6Addr) -> Self {
        let mut bytes = vec![kind as u8, hops];
        bytes.extend(link.octets());
        bytes.extend(peer.octets());
        Self(bytes)
    }

    /// Appends an option; one of more than 65535 bytes is left out.
    pub fn option(&mut self, code: u16, data: &[u8]) {
        if let Ok(length) = u16::try_from(data.len()) {
            self.0.extend(code.to_be_bytes());
            self.0.extend(length.to_be_bytes());
            self.0.extend_from_slice(data);
        }
    }

    /// Appends a status.
    pub fn status(&mut self, status: Status, text: &str) {
        let mut data = (status as u16).to_be_bytes().to_vec();
        data.extend_from_slice(text.as_bytes());
        self.option(option::STATUS, &data);
    }

    /// The bytes.
    ///
    /// # Errors
    ///
    /// When they do not fit into a packet.
    pub fn finish(self) -> Result<Vec<u8>, Refusal> {
        if self.0.len() > MOST_BYTES {
            return Err(Refusal::Dhcp6TooLong);
        }
        Ok(self.0)
    }
}
