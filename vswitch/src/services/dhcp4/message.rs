//! DHCP messages, read and written (RFC 2131 §2, RFC 2132, RFC 3396).
//!
//! Options are read from the options field and, where option 52 says so, from `file` and `sname`; an
//! option that comes in parts is put together (RFC 3396). Reading is total.

use std::net::Ipv4Addr;

use policy::Mac;
use smoltcp::wire::{DhcpPacket, EthernetAddress};

use crate::services::refusal::Refusal;

/// Option codes (RFC 2132 unless said otherwise).
pub mod option {
    /// Subnet mask.
    pub const MASK: u8 = 1;
    /// Routers.
    pub const ROUTER: u8 = 3;
    /// DNS servers.
    pub const DNS: u8 = 6;
    /// Host name.
    pub const HOSTNAME: u8 = 12;
    /// Domain name.
    pub const DOMAIN: u8 = 15;
    /// Interface MTU.
    pub const MTU: u8 = 26;
    /// Broadcast address.
    pub const BROADCAST: u8 = 28;
    /// Requested address.
    pub const REQUESTED: u8 = 50;
    /// Lease time.
    pub const LEASE: u8 = 51;
    /// Option overload.
    pub const OVERLOAD: u8 = 52;
    /// Message type.
    pub const TYPE: u8 = 53;
    /// Server identifier.
    pub const SERVER: u8 = 54;
    /// Parameter request list.
    pub const PARAMETERS: u8 = 55;
    /// A text for people, in a DHCPNAK.
    pub const TEXT: u8 = 56;
    /// The longest message that the client takes.
    pub const MAX_BYTES: u8 = 57;
    /// Renewal time, T1.
    pub const T1: u8 = 58;
    /// Rebinding time, T2.
    pub const T2: u8 = 59;
    /// Client identifier.
    pub const CLIENT: u8 = 61;
    /// TFTP server name.
    pub const TFTP_SERVER: u8 = 66;
    /// Boot file name.
    pub const BOOT_FILE: u8 = 67;
    /// Relay agent information (RFC 3046).
    pub const RELAY: u8 = 82;
    /// Domain search list (RFC 3397).
    pub const SEARCH: u8 = 119;
    /// Classless static routes (RFC 3442).
    pub const ROUTES: u8 = 121;
    /// Padding.
    pub const PAD: u8 = 0;
    /// The last one.
    pub const END: u8 = 255;
}

pub(super) const OPTIONS_AT: usize = 240;
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
/// Of the first byte of the flags.
const BROADCAST: u8 = 0x80;
const MAGIC: u32 = 0x6382_5363;
/// What clients take at least: a BOOTP message's options field of 64 bytes (RFC 1542 §2.1).
pub(super) const MIN_BYTES: usize = 300;
/// What every client takes: 576 bytes with IP and UDP headers (RFC 2131 §2).
pub(super) const MAX_BYTES: usize = 576 - HEADERS_BYTES;
/// Of IP and UDP.
pub(super) const HEADERS_BYTES: usize = 28;

/// Message types (RFC 2132 §9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are those of the RFC")]
pub enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
    Inform = 8,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Discover,
        Self::Offer,
        Self::Request,
        Self::Decline,
        Self::Ack,
        Self::Nak,
        Self::Release,
        Self::Inform,
    ];
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// It is from a server (BOOTREPLY).
    pub reply: bool,
    /// Relays it has passed.
    pub hops: u8,
    /// Transaction.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    /// The client cannot take unicast yet.
    pub broadcast: bool,
    /// The client's address, if it has one.
    pub ciaddr: Ipv4Addr,
    /// The address given.
    pub yiaddr: Ipv4Addr,
    /// The next server of a boot.
    pub siaddr: Ipv4Addr,
    /// The relay.
    pub giaddr: Ipv4Addr,
    /// The client's Ethernet address.
    pub chaddr: Mac,
    /// Options, each code once.
    pub options: Options,
}

/// Options by code, in the order in which they first came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    /// An option's bytes.
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        let mut options = self.0.iter();
        options
            .find(|(known, _)| *known == code)
            .map(|(_, data)| &data[..])
    }

    /// An option that is an address.
    ///
    /// # Errors
    ///
    /// When it has another length.
    pub fn address(&self, code: u8) -> Result<Option<Ipv4Addr>, Refusal> {
        let data = self.get(code);
        data.map(|data| <[u8; 4]>::try_from(data).map(Ipv4Addr::from))
            .transpose()
            .map_err(|_| Refusal::DhcpOptions)
    }

    /// The message type.
    ///
    /// # Errors
    ///
    /// When there is none, or it is unknown.
    pub fn kind(&self) -> Result<Kind, Refusal> {
        let Some([number]) = self.get(option::TYPE) else {
            return Err(Refusal::DhcpType);
        };
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == *number);
        kind.ok_or(Refusal::DhcpType)
    }

    fn walk(&mut self, mut field: &[u8]) -> Result<(), Refusal> {
        loop {
            match field {
                [] | [option::END, ..] => return Ok(()),
                [option::PAD, rest @ ..] => field = rest,
                [code, length, rest @ ..] => {
                    let (data, rest) = rest
                        .split_at_checked((*length).into())
                        .ok_or(Refusal::DhcpOptions)?;
                    self.append(*code, data);
                    field = rest;
                }
                [_] => return Err(Refusal::DhcpOptions),
            }
        }
    }

    fn append(&mut self, code: u8, data: &[u8]) {
        match self.0.iter_mut().find(|(known, _)| *known == code) {
            Some((_, whole)) => whole.extend_from_slice(data),
            None => self.0.push((code, data.to_vec())),
        }
    }
}

impl Message {
    /// Reads a message.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        const ETHERNET: [u8; 2] = [1, 6];

        let packet = DhcpPacket::new_checked(bytes).map_err(|_| Refusal::DhcpForm)?;
        if !matches!(bytes[0], 1 | 2) || bytes[1..3] != ETHERNET || packet.magic_number() != MAGIC {
            return Err(Refusal::DhcpForm);
        }
        let mut options = Options::default();
        options.walk(&bytes[OPTIONS_AT..])?;
        let overload = match options.get(option::OVERLOAD) {
            None => 0,
            Some([fields @ 1..=3]) => *fields,
            Some(_) => return Err(Refusal::DhcpOptions),
        };
        for (bit, field) in [(1, FILE), (2, SNAME)] {
            if overload & bit != 0 {
                options.walk(&bytes[field])?;
            }
        }
        Ok(Self {
            reply: bytes[0] == 2,
            hops: packet.hops(),
            xid: packet.transaction_id(),
            secs: packet.secs(),
            broadcast: bytes[10] & BROADCAST != 0,
            ciaddr: packet.client_ip(),
            yiaddr: packet.your_ip(),
            siaddr: packet.server_ip(),
            giaddr: packet.relay_agent_ip(),
            chaddr: Mac(packet.client_hardware_address().0),
            options,
        })
    }
}

/// Writes a server's message, option by option, up to a length.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    limit: usize,
}

impl Writer {
    /// An answer to `request`, of at most `limit` bytes.
    pub fn answer(request: &Message, limit: usize) -> Self {
        const REPLY: u8 = 2;
        const ETHERNET: [u8; 2] = [1, 6];

        let mut bytes = vec![0; OPTIONS_AT];
        bytes[0] = REPLY;
        bytes[1..3].copy_from_slice(&ETHERNET);
        bytes[10] = if request.broadcast { BROADCAST } else { 0 };
        let mut packet = DhcpPacket::new_unchecked(&mut bytes[..]);
        packet.set_transaction_id(request.xid);
        packet.set_relay_agent_ip(request.giaddr);
        packet.set_client_hardware_address(EthernetAddress(request.chaddr.0));
        packet.set_magic_number(MAGIC);
        Self { bytes, limit }
    }

    /// Asks for it to be broadcast to the client, whatever the request said.
    pub fn broadcast(&mut self) {
        self.bytes[10] |= BROADCAST;
    }

    /// `ciaddr`, `yiaddr` and `siaddr`.
    pub fn addresses(&mut self, client: Ipv4Addr, yours: Ipv4Addr, server: Ipv4Addr) {
        let mut packet = DhcpPacket::new_unchecked(&mut self.bytes[..]);
        packet.set_client_ip(client);
        packet.set_your_ip(yours);
        packet.set_server_ip(server);
    }

    /// `file`; what does not fit with a zero behind it is left out.
    pub fn file(&mut self, name: &str) {
        if name.len() < FILE.len() {
            self.bytes[FILE][..name.len()].copy_from_slice(name.as_bytes());
        }
    }

    /// Appends an option, in parts if it is long; one that does not fit is left out.
    pub fn option(&mut self, code: u8, data: &[u8]) {
        let parts = data.len().div_ceil(255).max(1);
        // One byte is for the end.
        if self.bytes.len() + 2 * parts + data.len() + 1 > self.limit {
            return;
        }
        for part in 0..parts {
            let part = &data[part * 255..data.len().min((part + 1) * 255)];
            self.bytes.extend([code, part.len() as u8]);
            self.bytes.extend_from_slice(part);
        }
    }

    /// The message.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(option::END);
        let padded = self.bytes.len().max(MIN_BYTES);
        self.bytes.resize(padded, option::PAD);
        self.bytes
    }
}
