//! The headers of a TCP super-segment, and those of the segments it is cut into.
//!
//! In: the first bytes that leave for a plan, written by a guest that may be hostile. Out: the
//! headers of any segment of it. What must hold: any bytes may come in, and nothing here panics
//! or reads past them; what contradicts itself is refused; a segment's headers and its slice of
//! payload make a valid packet, whatever else the guest wrote.

use super::Refusal;
use crate::{
    TxBurst, TxPlan,
    transmit::{MAX_PREFIX_BYTES, fold, sum},
};

const MAC_PAIR_BYTES: usize = 12;
const TAG_BYTES: usize = 4;
/// The most 802.1Q tags that are walked, those of the guest and of the switch together.
const MAX_TAGS: usize = 2;
const TPID_C: u16 = 0x8100;
const TPID_S: u16 = 0x88a8;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

const IPV4_MIN_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
/// More fragments, and the fragment offset (RFC 791).
const FRAGMENT: u16 = 0x3fff;
const PROTOCOL_TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;

const TCP_MIN_BYTES: usize = 20;
/// Where the flags stand in a TCP header, and where the checksum does.
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

/// All headers of a super-segment, as they leave.
#[derive(Debug)]
pub(super) struct Headers {
    bytes: [u8; MAX_PREFIX_BYTES],
    /// Through the last TCP option.
    len: usize,
    version: Version,
    ip_start: usize,
    tcp_start: usize,
    /// The sum of the pseudo header without the length (RFC 9293 §3.1, RFC 8200 §8.1).
    pseudo_sum: u64,
    payload_bytes: usize,
}

impl Headers {
    /// Reads the headers that leave for `plan`: its prefix and what follows in its frame's head.
    pub(super) fn read(burst: &TxBurst<'_>, plan: &TxPlan) -> Result<Self, Refusal> {
        let frame = &burst.frames[plan.frame as usize];
        let mut bytes = [0; MAX_PREFIX_BYTES];
        let prefix = burst.prefixes.get(plan);
        bytes[..prefix.len()].copy_from_slice(prefix);
        // Only the head: what was judged is what is cut, even where a guest may still write to
        // the rest.
        let rest = frame.head().get(plan.skip_bytes as usize..).unwrap_or(&[]);
        let rest_len = rest.len().min(MAX_PREFIX_BYTES - prefix.len());
        let known = prefix.len() + rest_len;
        bytes[prefix.len()..known].copy_from_slice(&rest[..rest_len]);

        let found = parse(&bytes[..known])?;
        // The prefix holds nothing but headers, so the payload lies where the frame has it.
        if found.len < prefix.len() || found.ip_end > plan.wire_len() {
            return Err(Refusal::Lengths);
        }
        if bytes[found.tcp_start + TCP_FLAGS] & (SYN | RST | URG) != 0 {
            return Err(Refusal::Flags);
        }
        let Some(partial) = frame.partial_checksum else {
            return Err(Refusal::Checksum);
        };
        // Behind an outer header, TCP would be elsewhere too.
        let tcp_start = prefix.len() + partial.start as usize;
        if tcp_start != found.tcp_start + plan.skip_bytes as usize
            || partial.offset as usize != TCP_CHECKSUM
        {
            return Err(Refusal::Checksum);
        }
        let addresses = match found.version {
            Version::V4 => &bytes[found.ip_start + 12..found.ip_start + 20],
            Version::V6 => &bytes[found.ip_start + 8..found.ip_start + 40],
        };
        Ok(Self {
            len: found.len,
            version: found.version,
            ip_start: found.ip_start,
            tcp_start: found.tcp_start,
            pseudo_sum: sum(addresses) + u64::from(PROTOCOL_TCP),
            payload_bytes: found.ip_end - found.len,
            bytes,
        })
    }

    /// Length of the headers, in bytes: at most [`MAX_PREFIX_BYTES`].
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// First byte of the TCP header.
    pub(super) fn tcp_start(&self) -> usize {
        self.tcp_start
    }

    /// Bytes of payload that the super-segment has by its own account. Padding is none.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Writes the headers of segment number `number`, which carries `payload[from..to]`. The
    /// checksum field gets the sum of the pseudo header.
    pub(super) fn write(
        &self,
        number: usize,
        from: usize,
        to: usize,
        out: &mut [u8; MAX_PREFIX_BYTES],
    ) {
        out[..self.len].copy_from_slice(&self.bytes[..self.len]);
        let ip = &mut out[self.ip_start..self.len];
        let ip_bytes = self.len - self.ip_start + to - from;
        match self.version {
            Version::V4 => {
                put(ip, 2, ip_bytes as u16);
                // Each is a datagram of its own, and a fragment of one must not be taken for
                // another's (RFC 6864).
                let id = u16::from_be_bytes([ip[4], ip[5]]);
                put(ip, 4, id.wrapping_add(number as u16));
                put(ip, 10, 0);
                let header = &ip[..self.ipv4_header_bytes()];
                put(ip, 10, !fold(sum(header)));
            }
            Version::V6 => put(ip, 4, (ip_bytes - IPV6_BYTES) as u16),
        }
        let tcp = &mut out[self.tcp_start..self.len];
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        tcp[4..8].copy_from_slice(&sequence.wrapping_add(from as u32).to_be_bytes());
        if from > 0 {
            tcp[TCP_FLAGS] &= !CWR;
        }
        if to < self.payload_bytes {
            tcp[TCP_FLAGS] &= !(FIN | PSH);
        }
        let tcp_bytes = self.len - self.tcp_start + to - from;
        let pseudo = fold(self.pseudo_sum + tcp_bytes as u64);
        put(tcp, TCP_CHECKSUM, pseudo);
    }

    fn ipv4_header_bytes(&self) -> usize {
        self.tcp_start - self.ip_start
    }
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Where things stand in the bytes that leave.
struct Found {
    version: Version,
    ip_start: usize,
    tcp_start: usize,
    /// First byte behind all headers.
    len: usize,
    /// First byte behind the IP packet.
    ip_end: usize,
}

/// Finds TCP behind Ethernet, tags and IP. Each header lies wholly in `bytes` and in the packet.
fn parse(bytes: &[u8]) -> Result<Found, Refusal> {
    let mut ip_start = MAC_PAIR_BYTES + 2;
    let mut ethertype = be16(bytes, MAC_PAIR_BYTES)?;
    for _ in 0..MAX_TAGS {
        if matches!(ethertype, TPID_C | TPID_S) {
            ethertype = be16(bytes, ip_start + 2)?;
            ip_start += TAG_BYTES;
        }
    }
    let (version, tcp_start, ip_end) = match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(bytes, ip_start)?,
        ETHERTYPE_IPV6 => parse_ipv6(bytes, ip_start)?,
        _ => return Err(Refusal::NotTcp),
    };
    let tcp_bytes = usize::from(byte(bytes, tcp_start + 12)? >> 4) * 4;
    let len = tcp_start + tcp_bytes;
    if tcp_bytes < TCP_MIN_BYTES || len > bytes.len() || len > ip_end {
        return Err(Refusal::Lengths);
    }
    Ok(Found {
        version,
        ip_start,
        tcp_start,
        len,
        ip_end,
    })
}

fn parse_ipv4(bytes: &[u8], start: usize) -> Result<(Version, usize, usize), Refusal> {
    let first = byte(bytes, start)?;
    let header_bytes = usize::from(first & 0xf) * 4;
    let total_bytes = usize::from(be16(bytes, start + 2)?);
    if first >> 4 != 4 || header_bytes < IPV4_MIN_BYTES || start + header_bytes > bytes.len() {
        return Err(Refusal::Lengths);
    }
    if byte(bytes, start + 9)? != PROTOCOL_TCP || be16(bytes, start + 6)? & FRAGMENT != 0 {
        return Err(Refusal::NotTcp);
    }
    Ok((Version::V4, start + header_bytes, start + total_bytes))
}

/// Every turn of the walk passes at least eight bytes, so it ends with the bytes.
fn parse_ipv6(bytes: &[u8], start: usize) -> Result<(Version, usize, usize), Refusal> {
    if byte(bytes, start)? >> 4 != 6 {
        return Err(Refusal::Lengths);
    }
    let payload_bytes = usize::from(be16(bytes, start + 4)?);
    let mut next = byte(bytes, start + 6)?;
    let mut at = start + IPV6_BYTES;
    while next != PROTOCOL_TCP {
        // With a route still ahead, the last address of the route is the one that the checksum
        // covers; no guest offloads such a frame. Fragments, and AH which signs the length,
        // cannot be cut at all.
        let passed = match next {
            HOP_BY_HOP | DESTINATION_OPTIONS => true,
            ROUTING => byte(bytes, at + 3)? == 0,
            _ => false,
        };
        if !passed {
            return Err(Refusal::NotTcp);
        }
        next = byte(bytes, at)?;
        at += (usize::from(byte(bytes, at + 1)?) + 1) * 8;
    }
    Ok((Version::V6, at, start + IPV6_BYTES + payload_bytes))
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, Refusal> {
    bytes.get(at).copied().ok_or(Refusal::Lengths)
}

fn be16(bytes: &[u8], at: usize) -> Result<u16, Refusal> {
    Ok(u16::from_be_bytes([byte(bytes, at)?, byte(bytes, at + 1)?]))
}
