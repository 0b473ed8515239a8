//! The headers before the tunnel: Ethernet, tags, IPv4 or IPv6.
//!
//! Lengths are those that the IP header claims, checked against the frame; what stands behind the
//! packet is Ethernet's padding. UDP checksums are not looked at (RFC 7348 §4.1 leaves it open, and
//! the mirrored frame has its own); IPv4's header checksum is, because it guards the addresses that
//! name a session.

use std::ops::Range;

use policy::key::{ethertype, protocol};

use super::{Refusal, be16, be32, fold, sum};

/// IP protocol of GRE (RFC 2784).
pub const GRE: u8 = 47;
/// UDP port of VXLAN (RFC 7348 §5).
pub const VXLAN_PORT: u16 = 4789;

pub(crate) const ETHERNET_LEN: usize = 14;
pub(crate) const IPV4_LEN: usize = 20;
pub(crate) const IPV6_LEN: usize = 40;
const TAG_LEN: usize = 4;
/// Tags that are passed over.
const MAX_TAGS: usize = 2;
/// IPv6 extension headers that are passed over.
const MAX_EXTENSION_HEADERS: usize = 4;

/// What stands before the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    pub(crate) source: u128,
    pub(crate) destination: u128,
    /// GRE or UDP.
    pub protocol: u8,
    /// Where GRE or UDP stands in the frame, to the end of the packet.
    pub payload: Range<usize>,
    /// Its place, when the packet is a fragment.
    pub fragment: Option<Fragment>,
}

/// The place of a fragment in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// What the fragments of one datagram have in common.
    pub id: u32,
    /// Where it begins, in bytes.
    pub offset: usize,
    /// Others come behind it.
    pub more: bool,
}

/// Where the network header stands, and of which ethertype it is, behind at most [`MAX_TAGS`] tags.
pub(crate) fn network(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = ETHERNET_LEN;
    for _ in 0..=MAX_TAGS {
        match be16(frame, at - 2)? {
            ethertype::CUSTOMER_TAG | ethertype::SERVICE_TAG => at += TAG_LEN,
            kind => return Some((kind, at)),
        }
    }
    None
}

/// How long a frame is by its IP header, Ethernet and tags included.
pub(crate) fn claimed_len(frame: &[u8]) -> Option<usize> {
    let (kind, at) = network(frame)?;
    match kind {
        ethertype::IPV4 => Some(at + usize::from(be16(frame, at + 2)?)),
        ethertype::IPV6 => Some(at + IPV6_LEN + usize::from(be16(frame, at + 4)?)),
        _ => None,
    }
}

/// Reads a frame up to GRE or UDP.
///
/// # Errors
/// The frame carries nothing of the kind, or a header contradicts itself.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Outer, Refusal> {
    let (kind, at) = network(frame).ok_or(Refusal::Runt)?;
    let outer = match kind {
        ethertype::IPV4 => ipv4(frame, at)?,
        ethertype::IPV6 => ipv6(frame, at)?,
        _ => return Err(Refusal::NotIp),
    };
    match outer.protocol {
        GRE | protocol::UDP => Ok(outer),
        _ => Err(Refusal::NotATunnel),
    }
}

#[inline]
fn ipv4(frame: &[u8], at: usize) -> Result<Outer, Refusal> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;

    let packet = &frame[at..];
    let fixed = packet.first_chunk::<IPV4_LEN>().ok_or(Refusal::Runt)?;
    let header_len = usize::from(fixed[0] & 0xf) * 4;
    let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let sound = fixed[0] >> 4 == 4
        && header_len >= IPV4_LEN
        && header_len <= total_len
        && total_len <= packet.len();
    if !sound {
        return Err(Refusal::OuterMalformed);
    }
    if fold(sum(&packet[..header_len])) != 0xffff {
        return Err(Refusal::OuterChecksum);
    }
    let place = u16::from_be_bytes([fixed[6], fixed[7]]);
    let mapped = |a: &[u8]| 0xffff_0000_0000 | u128::from(be32(a, 0).unwrap_or(0));
    Ok(Outer {
        source: mapped(&fixed[12..16]),
        destination: mapped(&fixed[16..20]),
        protocol: fixed[9],
        payload: at + header_len..at + total_len,
        fragment: (place & (MORE_FRAGMENTS | OFFSET) != 0).then(|| Fragment {
            id: u32::from(u16::from_be_bytes([fixed[4], fixed[5]])),
            offset: usize::from(place & OFFSET) * 8,
            more: place & MORE_FRAGMENTS != 0,
        }),
    })
}

fn ipv6(frame: &[u8], at: usize) -> Result<Outer, Refusal> {
    /// `::ffff:0:0/96` is no address of an IPv6 packet (RFC 4291 §2.5.5.2), and here IPv4's.
    const MAPPED: u128 = 0xffff;

    let packet = &frame[at..];
    let fixed = packet.first_chunk::<IPV6_LEN>().ok_or(Refusal::Runt)?;
    let end = IPV6_LEN + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    if fixed[0] >> 4 != 6 || end > packet.len() {
        return Err(Refusal::OuterMalformed);
    }
    let address = |at: usize| -> u128 {
        let words = [0, 4, 8, 12].map(|more| be32(fixed, at + more).unwrap_or(0));
        words
            .iter()
            .fold(0, |bits, word| bits << 32 | u128::from(*word))
    };
    let (source, destination) = (address(8), address(24));
    if source >> 32 == MAPPED || destination >> 32 == MAPPED {
        return Err(Refusal::OuterMalformed);
    }
    let transport = behind_extensions(&packet[..end]).ok_or(Refusal::OuterMalformed)?;
    Ok(Outer {
        source,
        destination,
        protocol: transport.protocol,
        payload: at + transport.at..at + end,
        fragment: transport.fragment,
    })
}

/// What stands behind an IPv6 packet's headers.
pub(super) struct Transport {
    pub(super) protocol: u8,
    /// Where in the packet.
    pub(super) at: usize,
    pub(super) fragment: Option<Fragment>,
}

/// Passes over extension headers. `packet` is an IPv6 packet, or so much of it that they are in it;
/// `None` when they are not.
pub(super) fn behind_extensions(packet: &[u8]) -> Option<Transport> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION_OPTIONS: u8 = 60;

    let mut transport = Transport {
        protocol: *packet.get(6)?,
        at: IPV6_LEN,
        fragment: None,
    };
    for _ in 0..MAX_EXTENSION_HEADERS {
        let header = packet.get(transport.at..)?;
        let len = match transport.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => 8 + usize::from(*header.get(1)?) * 8,
            FRAGMENT => {
                let place = be16(header, 2)?;
                let (offset, more) = (usize::from(place & !7), place & 1 != 0);
                // An atomic fragment (RFC 6946) is a whole packet.
                if offset > 0 || more {
                    let id = be32(header, 4)?;
                    transport.fragment = Some(Fragment { id, offset, more });
                }
                8
            }
            _ => break,
        };
        if len > header.len() {
            return None;
        }
        transport.protocol = header[0];
        transport.at += len;
        if transport.fragment.is_some() {
            break;
        }
    }
    Some(transport)
}
