//! A session's template, and the bytes that stand before each of its copies.
//!
//! In come a [`Tunnel`], once, and the [`Fields`] of a frame, each time; out go the leading bytes of
//! a transmit plan, `prefix ++ frame[..len]`. What must hold: a prefix that was written is one that
//! [`decode`](super::decode()) reads back, field for field; nothing is looked at but the template
//! and the fields.
//!
//! Per frame the template is copied whole, a constant number of bytes, and the lengths, the
//! checksum, the sequence number and the few fields that depend on the frame are written over it.

use super::{
    Addresses, Carrier, Identity, Oversize, Tunnel, TunnelError,
    erspan::{Common, PLATFORM_PORT, Subheader, TYPE_III_LEN, TypeII, TypeIII, tagging},
    fold, gre,
    identity::address_bits,
    outer::{ETHERNET_LEN, GRE, IPV4_LEN, IPV6_LEN, VXLAN_PORT},
    sum,
    vxlan::{UDP_LEN, VALID},
};
use policy::key::{ethertype, protocol};

/// Room for the longest prefix: Ethernet, a tag, IPv6, a fragment header, GRE with key and
/// sequence, ERSPAN type III with its subheader.
pub const MAX_PREFIX_BYTES: usize = 112;

const DONT_FRAGMENT: u16 = 0x4000;
/// The first dynamic port (RFC 6335 §6), from which VXLAN sources are chosen (RFC 7348 §5).
const DYNAMIC_PORTS: u16 = 0xc000;

/// The VLAN tag of a frame that is copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tag {
    /// It has none.
    #[default]
    None,
    /// It is in the bytes that are copied.
    InFrame(u16),
    /// It was taken off, and is not in the bytes that are copied.
    Removed(u16),
}

/// What of a prefix depends on the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// Bytes of the frame that are sent.
    pub inner_len: u32,
    /// The session's sequence number.
    pub sequence: u32,
    /// What tells the fragments of one datagram from another's between the same addresses.
    pub ip_id: u32,
    /// What spreads flows over links on the way: VXLAN's source port, IPv6's flow label (RFC 6438).
    pub entropy: u16,
    /// The frame's tag.
    pub tag: Tag,
    /// The frame was cut.
    pub truncated: bool,
    /// The frame was leaving the port that is mirrored.
    pub egress: bool,
    /// When, in nanoseconds since 1970.
    pub time_ns: u64,
}

/// The ERSPAN header, as far as it is the same for every frame.
#[derive(Clone, Copy, Debug)]
enum Shim {
    None,
    TypeII(TypeII),
    TypeIII(TypeIII),
}

/// The prefix of a session's copies, made once.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: [u8; MAX_PREFIX_BYTES],
    /// Length of the whole prefix.
    len: usize,
    /// Where IP stands.
    pub(super) ip: usize,
    pub(super) ipv6: bool,
    /// Sum of the IPv4 header without its length and identification.
    pub(super) ip_sum: u64,
    /// Where GRE or UDP stands.
    pub(super) tunnel: usize,
    /// Where the sequence number stands, if there is one.
    pub(super) sequence: Option<usize>,
    /// Where the ERSPAN header stands.
    shim_at: usize,
    shim: Shim,
    udp: bool,
    pub(super) mtu: usize,
    oversize: Oversize,
    identity: Identity,
}

/// What becomes of a frame of some length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It is sent whole.
    Whole,
    /// Only so many of its bytes are sent.
    Truncated(u32),
    /// It is sent in fragments, one for each [`Template::piece`].
    Fragments,
    /// It is not sent.
    TooLong,
}

/// Writes bytes one behind the other.
struct Writer<'a> {
    bytes: &'a mut [u8; MAX_PREFIX_BYTES],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> usize {
        let at = self.at;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        at
    }
}

impl Template {
    /// The template of a tunnel.
    ///
    /// # Errors
    /// The tunnel's parts do not go together.
    pub fn new(tunnel: &Tunnel) -> Result<Self, TunnelError> {
        tunnel.validate()?;
        let mut bytes = [0; MAX_PREFIX_BYTES];
        let mut writer = Writer {
            bytes: &mut bytes,
            at: 0,
        };
        writer.put(&tunnel.link.destination.0);
        writer.put(&tunnel.link.source.0);
        if let Some(tci) = tunnel.link.tci {
            writer.put(&ethertype::CUSTOMER_TAG.to_be_bytes());
            writer.put(&tci.to_be_bytes());
        }
        let udp = matches!(tunnel.carrier, Carrier::Vxlan { .. });
        let (ip, source, destination) = put_ip(&mut writer, tunnel, udp);
        let start = writer.at;
        let (sequence, shim_at, shim) = put_carrier(&mut writer, &tunnel.carrier);
        let len = writer.at;
        let kind = tunnel.carrier.kind();
        Ok(Self {
            ip_sum: sum(&bytes[ip..ip + IPV4_LEN]),
            bytes,
            len,
            ip,
            ipv6: matches!(tunnel.addresses, Addresses::V6 { .. }),
            tunnel: start,
            sequence,
            shim_at,
            shim,
            udp,
            mtu: usize::from(tunnel.mtu_bytes),
            oversize: tunnel.oversize,
            identity: Identity::of_bits(source, destination, kind, tunnel.carrier.id()),
        })
    }

    /// Length of the prefix of an unfragmented copy, in bytes.
    pub fn len_bytes(&self) -> usize {
        self.len
    }

    /// Whether packets need an identification of their own: fragments are made of them, here or on
    /// the way.
    #[inline]
    pub fn may_fragment(&self) -> bool {
        self.oversize == Oversize::Fragment
    }

    /// Whether a copy says which flow it is of ([`Fields::entropy`]).
    #[inline]
    pub fn has_entropy(&self) -> bool {
        self.udp || self.ipv6
    }

    /// What the receiver knows the session by.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// What becomes of a frame of which `inner_len` bytes are to be sent.
    #[inline]
    pub fn fit(&self, inner_len: u32) -> Fit {
        /// What IP's length fields can say.
        const LONGEST: usize = u16::MAX as usize;

        let headers = self.len - self.ip;
        if headers + inner_len as usize <= self.mtu {
            return Fit::Whole;
        }
        match self.oversize {
            Oversize::Truncate => Fit::Truncated((self.mtu - headers) as u32),
            Oversize::Fragment if headers + inner_len as usize <= LONGEST => Fit::Fragments,
            Oversize::Fragment | Oversize::Count => Fit::TooLong,
        }
    }

    /// The most bytes that fit into one packet.
    pub fn whole_most(&self) -> u32 {
        (self.mtu - (self.len - self.ip)) as u32
    }

    /// Writes the prefix of an unfragmented copy and returns its length.
    #[inline]
    pub fn write(&self, fields: &Fields, prefix: &mut [u8; MAX_PREFIX_BYTES]) -> usize {
        *prefix = self.bytes;
        self.write_tunnel(fields, prefix, 0);
        let payload = self.len - self.tunnel + fields.inner_len as usize;
        self.write_ip(fields, prefix, payload, 0);
        self.len
    }

    /// The template's bytes as they are, for a fragment to begin with.
    pub(super) fn start(&self, prefix: &mut [u8; MAX_PREFIX_BYTES]) {
        *prefix = self.bytes;
    }

    /// Length of GRE or UDP and what follows up to the copy.
    pub(super) fn tunnel_len(&self) -> usize {
        self.len - self.tunnel
    }

    /// Writes what depends on the frame behind IP, `shift` bytes from where the template has it.
    #[inline]
    pub(super) fn write_tunnel(
        &self,
        fields: &Fields,
        prefix: &mut [u8; MAX_PREFIX_BYTES],
        shift: usize,
    ) {
        if let Some(at) = self.sequence {
            put4(prefix, at + shift, fields.sequence);
        }
        if self.udp {
            let at = self.tunnel + shift;
            let udp_len = self.tunnel_len() + fields.inner_len as usize;
            put2(prefix, at, fields.entropy | DYNAMIC_PORTS);
            put2(prefix, at + 4, udp_len as u16);
        }
        let at = self.shim_at + shift;
        match &self.shim {
            Shim::None => {}
            Shim::TypeII(header) => {
                let (common, kind) = frame_fields(header.common, fields);
                let common = Common { kind, ..common };
                put4(prefix, at, common.word(TypeII::VERSION));
            }
            Shim::TypeIII(header) => {
                let (common, _) = frame_fields(header.common, fields);
                let (lower, upper) = header.granularity.stamp(fields.time_ns);
                put4(prefix, at, common.word(TypeIII::VERSION));
                put4(prefix, at + 4, lower);
                let egress = fields.egress;
                put2(prefix, at + 10, TypeIII { egress, ..*header }.last());
                if header.subheader.is_some() {
                    put4(prefix, at + TYPE_III_LEN + 4, upper);
                }
            }
        }
    }

    /// Writes what depends on the packet into IP: its payload's length, and for IPv4 the place of
    /// a fragment.
    #[inline]
    pub(super) fn write_ip(
        &self,
        fields: &Fields,
        prefix: &mut [u8; MAX_PREFIX_BYTES],
        payload: usize,
        place: u16,
    ) {
        let ip = self.ip;
        if self.ipv6 {
            put2(prefix, ip + 4, payload as u16);
            put2(prefix, ip + 2, fields.entropy);
            return;
        }
        let total_len = (IPV4_LEN + payload) as u16;
        let id = fields.ip_id as u16;
        put2(prefix, ip + 2, total_len);
        put2(prefix, ip + 4, id);
        let sum = self.ip_sum + u64::from(total_len) + u64::from(id) + u64::from(place);
        if place != 0 {
            // Fragments are only made of packets that do not forbid it.
            put2(prefix, ip + 6, place);
        }
        put2(prefix, ip + 10, !fold(sum));
    }
}

/// A header's first word as the frame has it, and how the frame is tagged.
#[inline]
fn frame_fields(common: Common, fields: &Fields) -> (Common, u8) {
    let (tci, kind) = match fields.tag {
        Tag::None => (0, tagging::NONE),
        Tag::InFrame(tci) => (tci, tagging::IN_FRAME),
        Tag::Removed(tci) => (tci, tagging::REMOVED),
    };
    let common = Common {
        vlan: tci & 0xfff,
        cos: (tci >> 13) as u8,
        truncated: fields.truncated,
        ..common
    };
    (common, kind)
}

/// Writes the ethertype and IP without what depends on the packet; returns where IP stands and its
/// addresses.
fn put_ip(writer: &mut Writer<'_>, tunnel: &Tunnel, udp: bool) -> (usize, u128, u128) {
    let next = if udp { protocol::UDP } else { GRE };
    match tunnel.addresses {
        Addresses::V4 {
            source,
            destination,
        } => {
            writer.put(&ethertype::IPV4.to_be_bytes());
            let place = if tunnel.dont_fragment {
                DONT_FRAGMENT
            } else {
                0
            };
            let ip = writer.put(&[0x45, tunnel.dscp << 2, 0, 0, 0, 0]);
            writer.put(&place.to_be_bytes());
            writer.put(&[tunnel.ttl, next, 0, 0]);
            writer.put(&source.octets());
            writer.put(&destination.octets());
            let bits = |address: std::net::Ipv4Addr| address_bits(address.into());
            (ip, bits(source), bits(destination))
        }
        Addresses::V6 {
            source,
            destination,
        } => {
            writer.put(&ethertype::IPV6.to_be_bytes());
            let class = u32::from(tunnel.dscp) << 2;
            let ip = writer.put(&(6 << 28 | class << 20).to_be_bytes());
            writer.put(&[0, 0, next, tunnel.ttl]);
            writer.put(&source.octets());
            writer.put(&destination.octets());
            (ip, u128::from(source), u128::from(destination))
        }
    }
}

/// Writes GRE or UDP and what follows up to the copy; returns where the sequence number and the
/// ERSPAN header stand.
fn put_carrier(writer: &mut Writer<'_>, carrier: &Carrier) -> (Option<usize>, usize, Shim) {
    let mut gre = |protocol: u16, key: Option<u32>, sequence: bool| {
        let key_flag = key.map_or(0, |_| gre::KEY);
        let sequence_flag = if sequence { gre::SEQUENCE } else { 0 };
        writer.put(&(key_flag | sequence_flag).to_be_bytes());
        writer.put(&protocol.to_be_bytes());
        if let Some(key) = key {
            writer.put(&key.to_be_bytes());
        }
        sequence.then(|| writer.put(&[0; 4]))
    };
    match *carrier {
        Carrier::ErspanI => (gre(gre::ERSPAN, None, false), 0, Shim::None),
        Carrier::Ethernet { key, sequence } => (gre(gre::ETHERNET, key, sequence), 0, Shim::None),
        Carrier::ErspanII { session, index } => {
            let sequence = gre(gre::ERSPAN, None, true);
            let mut header = TypeII {
                index,
                ..TypeII::default()
            };
            header.common.session = session;
            (sequence, writer.put(&header.emit()), Shim::TypeII(header))
        }
        Carrier::ErspanIII {
            session,
            granularity,
            hardware,
            sequence,
            port,
        } => {
            let sequence = gre(gre::ERSPAN_III, None, sequence);
            let mut header = TypeIII {
                common: Common::default(),
                timestamp: 0,
                sgt: 0,
                pdu: true,
                frame_type: super::erspan::FRAME_TYPE_ETHERNET,
                hardware,
                egress: false,
                granularity,
                subheader: port.map(|port| Subheader {
                    platform: PLATFORM_PORT,
                    low: u32::from(port),
                    high: 0,
                }),
            };
            header.common.session = session;
            let at = writer.put(&header.emit()[..header.len_bytes()]);
            (sequence, at, Shim::TypeIII(header))
        }
        Carrier::Vxlan { vni } => {
            writer.put(&[0, 0]);
            writer.put(&VXLAN_PORT.to_be_bytes());
            writer.put(&[0; UDP_LEN - 4]);
            writer.put(&[VALID, 0, 0, 0]);
            let at = writer.put(&(vni.get() << 8).to_be_bytes());
            (None, at, Shim::None)
        }
    }
}

#[inline]
pub(super) fn put2(prefix: &mut [u8; MAX_PREFIX_BYTES], at: usize, value: u16) {
    prefix[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[inline]
pub(super) fn put4(prefix: &mut [u8; MAX_PREFIX_BYTES], at: usize, value: u32) {
    prefix[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

const _: () = assert!(
    MAX_PREFIX_BYTES >= ETHERNET_LEN + 4 + IPV6_LEN + 8 + 12 + TYPE_III_LEN + 8,
    "the longest prefix must fit"
);
