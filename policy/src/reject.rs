//! What a sender is told of a frame that a rule rejected, or that a router does not send on: a TCP
//! reset, or an ICMP error.
//!
//! In: the first bytes of the frame and what was parsed of them. Out: a whole frame to its source,
//! from its destination or from the router, or nothing. What must hold: nothing is told of what
//! RFC 1122 §3.2.2 and RFC 4443 §2.4 (e) forbid to answer (ICMP errors, groups, later fragments,
//! senders without an address of their own) nor of a reset, so that two switches never answer each
//! other; a reply is no longer than a transmit plan's prefix.

use std::{net::IpAddr, ops::Range};

use crate::{
    key::{Class, Field, ethertype, protocol, shape},
    parse::Parsed,
};

/// The longest reply, in bytes. It quotes the rejected packet's first 126 bytes and more; RFC 792
/// asks for its header and eight bytes, RFC 1812 §4.3.2.3 and RFC 4443 would like more.
pub const MAX_REPLY_BYTES: usize = 192;

const MACS_BYTES: usize = 12;
const CUSTOMER_TAG: [u8; 2] = ethertype::CUSTOMER_TAG.to_be_bytes();
const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u8 = 0x40;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Communication is administratively prohibited.
    Prohibited,
    /// There is no route to the destination.
    NoRoute,
    /// The destination does not answer, or a route says that it is not to be reached.
    Unreachable,
    /// Nobody listens at the destination's port.
    NoPort,
    /// The packet has passed as many routers as it may.
    TimeExceeded,
    /// The packet is longer than the next network's MTU, which is so many bytes.
    TooBig(u16),
}

impl Error {
    /// Type and code, and what stands in the four bytes behind the checksum: RFC 792, RFC 1191 §4
    /// and RFC 1812 §5.2.7.1; RFC 4443 §3.
    fn message(self, is_v6: bool) -> ([u8; 2], u32) {
        match (self, is_v6) {
            (Self::Prohibited, false) => ([3, 13], 0),
            (Self::Prohibited, true) => ([1, 1], 0),
            (Self::NoRoute, true) => ([1, 0], 0),
            (Self::Unreachable, false) => ([3, 1], 0),
            (Self::Unreachable, true) => ([1, 3], 0),
            (Self::NoPort, false) => ([3, 3], 0),
            (Self::NoPort, true) => ([1, 4], 0),
            (Self::TimeExceeded, false) => ([11, 0], 0),
            // Type 3 is "unreachable" in the one, and "time exceeded" in the other.
            (Self::NoRoute, false) | (Self::TimeExceeded, true) => ([3, 0], 0),
            (Self::TooBig(mtu), false) => ([3, 4], mtu.into()),
            (Self::TooBig(mtu), true) => ([2, 0], mtu.into()),
        }
    }
}

/// Writes what the sender of a rejected frame is told, and returns its length; `None` when it is
/// told nothing.
///
/// `head` and `parsed` are what [`parse`](crate::parse::parse) took and gave. `tci` is the tag
/// that the reply leaves with.
pub fn reply(
    to: &mut [u8; MAX_REPLY_BYTES],
    head: &[u8],
    parsed: &Parsed,
    tci: Option<u16>,
) -> Option<usize> {
    let mut reply = Reply::begin(to, head, parsed, tci, None)?;
    let l4 = parsed.l4_offset.checked_sub(parsed.l3_offset);
    let is_tcp = matches!(parsed.class, Class::Ipv4Tcp | Class::Ipv6Tcp);
    if !is_tcp || parsed.key.has(shape::FIRST_FRAGMENT) {
        return reply.finish_error(Error::Prohibited);
    }
    let l4 = usize::from(l4?);
    let (packet, family) = (reply.packet, reply.family);
    let bytes = family.end.checked_sub(l4)?;
    put_reset(&mut reply.writer, packet.get(l4..)?, bytes)?;
    Some(reply.finish(protocol::TCP))
}

/// Writes the ICMP error that a router with the address `source` has for the sender of a frame,
/// and returns its length; `None` when it is told nothing.
pub fn error(
    to: &mut [u8; MAX_REPLY_BYTES],
    head: &[u8],
    parsed: &Parsed,
    tci: Option<u16>,
    (source, error): (IpAddr, Error),
) -> Option<usize> {
    Reply::begin(to, head, parsed, tci, Some(source))?.finish_error(error)
}

/// A reply in the making.
struct Reply<'a> {
    writer: Writer<'a>,
    /// The packet that is answered.
    packet: &'a [u8],
    family: Family,
    /// Where the reply's IP header begins.
    ip: usize,
    /// Where it ends.
    start: usize,
}

impl<'a> Reply<'a> {
    /// All headers up to IP's, from `source` or else the packet's destination.
    fn begin(
        to: &'a mut [u8; MAX_REPLY_BYTES],
        head: &'a [u8],
        parsed: &Parsed,
        tci: Option<u16>,
        source: Option<IpAddr>,
    ) -> Option<Self> {
        if !may_be_answered(parsed) {
            return None;
        }
        let packet = head.get(parsed.l3_offset.into()..)?;
        let mut writer = Writer { bytes: to, len: 0 };
        let macs = head.first_chunk::<MACS_BYTES>()?;
        writer.put(&macs[6..]);
        writer.put(&macs[..6]);
        if let Some(tci) = tci {
            writer.put(&CUSTOMER_TAG);
            writer.put(&tci.to_be_bytes());
        }
        let family = Family::of(packet, parsed)?;
        writer.put(&family.ethertype().to_be_bytes());
        let ip = writer.len;
        family.put_header(&mut writer, packet, source)?;
        Some(Self {
            start: writer.len,
            writer,
            packet,
            family,
            ip,
        })
    }

    fn finish_error(mut self, error: Error) -> Option<usize> {
        let packet = self.packet;
        let packet = packet.get(..self.family.end.min(packet.len()))?;
        let (kind, rest) = error.message(self.family.is_v6);
        put_error(&mut self.writer, packet, kind, rest);
        let protocol = self.family.icmp();
        Some(self.finish(protocol))
    }

    fn finish(mut self, protocol: u8) -> usize {
        let (ip, start) = (self.ip, self.start);
        self.family.finish(&mut self.writer, ip, start, protocol);
        self.writer.len
    }
}

fn may_be_answered(parsed: &Parsed) -> bool {
    /// RFC 792; and RFC 6633, which retires source quench (4).
    const ICMP_ERRORS: [u64; 5] = [3, 4, 5, 11, 12];
    /// Below it are errors (RFC 4443 §2.1).
    const ICMPV6_INFORMATION: u64 = 128;

    let key = &parsed.key;
    let is_ip = key.has(shape::IPV4) || key.has(shape::IPV6);
    if !is_ip || key.has(shape::MALFORMED) || key.has(shape::LATER_FRAGMENT) {
        return false;
    }
    if key.eth_src().is_group() || key.eth_dst().is_group() {
        return false;
    }
    let [_, _, source_high, source, destination_high, destination, ..] = key.0;
    let is_one_host = |high: u64, low: u64| {
        if key.has(shape::IPV4) {
            // Neither 0/8, nor 127/8, nor 224/3: groups, reserved, broadcast (RFC 1122 §3.2.1.3).
            !matches!(low >> 24, 0 | 127 | 224..)
        } else {
            // Neither ff00::/8 nor :: and ::1 (RFC 4291 §2.4).
            high >> 56 != 0xff && (high != 0 || low > 1)
        }
    };
    if !is_one_host(source_high, source) || !is_one_host(destination_high, destination) {
        return false;
    }
    let kind = key.get(Field::L4_SRC) >> 8;
    match key.get(Field::PROTOCOL) as u8 {
        _ if !key.has(shape::L4) => true,
        protocol::ICMP => !ICMP_ERRORS.contains(&kind),
        protocol::ICMPV6 => kind >= ICMPV6_INFORMATION && parsed.class != Class::Ipv6Neighbor,
        protocol::TCP => key.get(Field::TCP_FLAGS) as u8 & RST == 0,
        _ => true,
    }
}

/// An IP packet's version, and where it ends.
#[derive(Clone, Copy)]
struct Family {
    is_v6: bool,
    /// From the packet's first byte; what stands behind is padding.
    end: usize,
}

impl Family {
    fn of(packet: &[u8], parsed: &Parsed) -> Option<Self> {
        let is_v6 = parsed.key.has(shape::IPV6);
        let end = if is_v6 {
            40 + be16(packet, 4)?
        } else {
            be16(packet, 2)?
        };
        Some(Self { is_v6, end })
    }

    fn ethertype(self) -> u16 {
        if self.is_v6 {
            ethertype::IPV6
        } else {
            ethertype::IPV4
        }
    }

    fn icmp(self) -> u8 {
        if self.is_v6 {
            protocol::ICMPV6
        } else {
            protocol::ICMP
        }
    }

    /// Where source and destination stand, side by side.
    fn addresses(self) -> Range<usize> {
        if self.is_v6 { 8..40 } else { 12..20 }
    }

    /// A header without lengths, checksum and protocol.
    fn put_header(
        self,
        writer: &mut Writer<'_>,
        packet: &[u8],
        from: Option<IpAddr>,
    ) -> Option<()> {
        let addresses = packet.get(self.addresses())?;
        let (source, destination) = addresses.split_at(addresses.len() / 2);
        if self.is_v6 {
            writer.put(&[0x60, 0, 0, 0, 0, 0, 0, HOP_LIMIT]);
        } else {
            writer.put(&[0x45, 0, 0, 0, 0, 0, DONT_FRAGMENT, 0, HOP_LIMIT, 0, 0, 0]);
        }
        match from {
            None => writer.put(destination),
            Some(IpAddr::V4(from)) if !self.is_v6 => writer.put(&from.octets()),
            Some(IpAddr::V6(from)) if self.is_v6 => writer.put(&from.octets()),
            Some(_) => return None,
        }
        writer.put(source);
        Some(())
    }

    /// Fills in what the header at `ip` lacks, and the checksum of what stands from `start` on.
    fn finish(self, writer: &mut Writer<'_>, ip: usize, start: usize, protocol: u8) {
        let reply = &mut writer.bytes[..writer.len];
        let l4_bytes = reply.len() - start;
        let field = start + if protocol == protocol::TCP { 16 } else { 2 };
        let mut total = sum(&reply[start..]);
        // ICMP for IPv4 is the one that has no pseudo header (RFC 792).
        if protocol != protocol::ICMP {
            let Range { start, end } = self.addresses();
            total += sum(&reply[ip + start..ip + end]) + l4_bytes as u64 + u64::from(protocol);
        }
        reply[field..field + 2].copy_from_slice(&(!fold(total)).to_be_bytes());
        if self.is_v6 {
            reply[ip + 4..ip + 6].copy_from_slice(&(l4_bytes as u16).to_be_bytes());
            reply[ip + 6] = protocol;
        } else {
            let bytes = (reply.len() - ip) as u16;
            reply[ip + 2..ip + 4].copy_from_slice(&bytes.to_be_bytes());
            reply[ip + 9] = protocol;
            let checksum = !fold(sum(&reply[ip..start]));
            reply[ip + 10..ip + 12].copy_from_slice(&checksum.to_be_bytes());
        }
    }
}

/// RFC 9293 §3.10.7.1: a reset that the sender of `segment`, `bytes` long, believes.
fn put_reset(writer: &mut Writer<'_>, segment: &[u8], bytes: usize) -> Option<()> {
    let header = segment.first_chunk::<20>()?;
    let flags = header[13];
    let header_bytes = usize::from(header[12] >> 4) * 4;
    let [sequence, acknowledged] = [4, 8].map(|at| be32(header, at));
    writer.put(&header[2..4]);
    writer.put(&header[..2]);
    let (sequence, acknowledges, flags) = if flags & ACK == 0 {
        let controls = u32::from(flags & SYN > 0) + u32::from(flags & FIN > 0);
        let payload = bytes.checked_sub(header_bytes)? as u32;
        let next = sequence.wrapping_add(payload).wrapping_add(controls);
        (0, next, RST | ACK)
    } else {
        (acknowledged, 0, RST)
    };
    writer.put(&sequence.to_be_bytes());
    writer.put(&acknowledges.to_be_bytes());
    writer.put(&[0x50, flags, 0, 0, 0, 0, 0, 0]);
    Some(())
}

/// An error that quotes as much of `packet` as finds room.
fn put_error(writer: &mut Writer<'_>, packet: &[u8], kind: [u8; 2], rest: u32) {
    writer.put(&kind);
    writer.put(&[0; 2]);
    writer.put(&rest.to_be_bytes());
    let room = writer.bytes.len() - writer.len;
    writer.put(&packet[..packet.len().min(room)]);
}

struct Writer<'a> {
    bytes: &'a mut [u8; MAX_REPLY_BYTES],
    len: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<usize> {
    let pair = bytes.get(at..at + 2)?;
    Some(usize::from(pair[0]) << 8 | usize::from(pair[1]))
}

fn be32(header: &[u8; 20], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// The sum of big-endian 16-bit words, to be folded (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2);
    words
        .map(|word| u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0)))
        .sum()
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}
