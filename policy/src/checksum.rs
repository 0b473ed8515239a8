//! Finds checksums that a sender left for its hardware to complete.
//!
//! A veth peer with checksum offload hands over TCP and UDP frames whose checksum field holds
//! only the pseudo header's sum, folded and not inverted (Linux: `CHECKSUM_PARTIAL`,
//! include/linux/skbuff.h), and XDP does not say so. The value itself does: a complete checksum
//! equals it in one of 65,536 frames. Such a frame is completed as well, which is harmless: a
//! right checksum of the same data comes out the same. (A wrong one is not noticed here: that
//! one corrupted frame in 65,536 would reach the receiver with a right checksum.)
//!
//! Not seen: TCP and UDP behind an IPv6 routing header whose destination is not yet the final one.

use crate::{
    key::{Class, Field, protocol, shape},
    parse::Parsed,
};

/// Where to complete the checksum of a frame whose sender left that to hardware: the first byte
/// to sum (L4's, from the frame's start), and the field's offset from there. The sum goes from
/// there to the end of the frame (what stands behind the IP packet is zero) and starts from the
/// field's own value.
///
/// `head`, `frame_len` and `parsed` are what [`parse`](crate::parse::parse) took and gave.
#[inline]
pub fn partial_checksum(head: &[u8], frame_len: usize, parsed: &Parsed) -> Option<(u16, u16)> {
    const UDP: u64 = protocol::UDP as u64;

    let key = &parsed.key;
    let protocol = key.get(Field::PROTOCOL);
    let (field, ipv6) = match parsed.class {
        Class::Ipv4Tcp => (16, false),
        Class::Ipv6Tcp => (16, true),
        Class::Ipv4Udp if protocol == UDP => (6, false),
        Class::Ipv6Udp if protocol == UDP => (6, true),
        _ => return None,
    };
    if key.has(shape::FIRST_FRAGMENT) {
        return None;
    }
    let (l3, l4) = (usize::from(parsed.l3_offset), usize::from(parsed.l4_offset));
    let end = if ipv6 {
        l3 + 40 + be16(head, l3 + 4)?
    } else {
        l3 + be16(head, l3 + 2)?
    };
    let halves = |word: u64| (word >> 32) + (word & 0xffff_ffff);
    let [_, _, source_high, source, destination_high, destination, ..] = key.0;
    let mut sum = halves(source) + halves(destination);
    if ipv6 {
        sum += halves(source_high) + halves(destination_high);
    }
    sum += protocol + end.checked_sub(l4)? as u64;
    if fold(sum) != be16(head, l4 + field)? as u64 {
        return None;
    }
    let padding_is_zero = end >= frame_len || head.get(end..)?.iter().all(|byte| *byte == 0);
    padding_is_zero.then_some((parsed.l4_offset, field as u16))
}

/// The one's complement sum of a sum's 16-bit parts (RFC 1071).
#[inline]
fn fold(sum: u64) -> u64 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum >> 16) + (sum & 0xffff)
}

#[inline]
fn be16(head: &[u8], at: usize) -> Option<usize> {
    let bytes = head.get(at..)?.first_chunk::<2>()?;
    Some(usize::from(u16::from_be_bytes(*bytes)))
}
