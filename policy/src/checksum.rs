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

/// True when a checksum that a frame's sender marked as to be completed, at `offset` behind
/// `start`, is one that the sender may leave: TCP's or UDP's own, or one behind everything that
/// is judged.
///
/// Completing writes two bytes that depend on the payload. Anywhere else they would replace, on
/// the way out, an address or a port that was judged: a sender could make any value of them.
pub fn may_be_left(parsed: &Parsed, start: u16, offset: u16) -> bool {
    const UDP: u64 = protocol::UDP as u64;
    /// Behind a nested tag's TCI stands the next ethertype.
    const NESTED_TAG_BYTES: u16 = 4;

    let field = match parsed.class {
        Class::Ipv4Tcp | Class::Ipv6Tcp => 16,
        Class::Ipv4Udp | Class::Ipv6Udp if parsed.key.get(Field::PROTOCOL) == UDP => 6,
        Class::NonIp => return start >= parsed.l3_offset + NESTED_TAG_BYTES,
        _ => return false,
    };
    (start, offset) == (parsed.l4_offset, field)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PortId, parse::parse};

    fn frame(behind_macs: &[u8]) -> Parsed {
        let mut bytes = [&[2; 12], behind_macs].concat();
        bytes.resize(120, 0);
        parse(&bytes, bytes.len(), None, PortId(1))
    }

    fn ipv4(protocol: u8) -> Vec<u8> {
        let mut bytes = vec![0x08, 0, 0x45, 0, 0, 86, 0, 0, 0, 0, 64, protocol, 0, 0];
        bytes.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2, 0, 8]);
        bytes.resize(34, 0);
        bytes.extend([0x50, 0x10]);
        bytes
    }

    /// Every place in the first 90 bytes that a sender may name.
    fn allowed(parsed: &Parsed) -> Vec<(u16, u16)> {
        let places = (0..90).flat_map(|start| (0..90 - start).map(move |offset| (start, offset)));
        places
            .filter(|(start, offset)| may_be_left(parsed, *start, *offset))
            .collect()
    }

    #[test]
    fn only_the_checksum_of_tcp_and_udp_may_be_left() {
        assert_eq!(allowed(&frame(&ipv4(6))), [(34, 16)]);
        assert_eq!(allowed(&frame(&ipv4(17))), [(34, 6)]);
        for protocol in [1, 47, 132] {
            assert_eq!(allowed(&frame(&ipv4(protocol))), []);
        }
        let tagged = [&[0x81, 0, 0, 5], &ipv4(6)[..]].concat();
        assert_eq!(allowed(&frame(&tagged)), [(38, 16)]);
        // ARP; a frame whose headers contradict themselves.
        assert_eq!(allowed(&frame(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1])), []);
        assert_eq!(allowed(&frame(&[0x08, 0x00, 0x41])), []);
        assert!(!may_be_left(&frame(&ipv4(6)), u16::MAX, u16::MAX));
    }

    #[test]
    fn behind_what_is_not_judged_any_checksum_may_be_left() {
        let nested = [&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6], &ipv4(6)[..]].concat();
        let parsed = frame(&nested);
        assert_eq!(parsed.class, Class::NonIp);
        assert!(may_be_left(&parsed, 42, 16));
        assert!(allowed(&parsed).iter().all(|(start, _)| *start >= 22));
    }
}
