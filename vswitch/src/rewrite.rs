//! What routing changes in a packet, as the leading bytes of a transmit plan.
//!
//! In: the first bytes of a frame and the adjacency that it is sent to. Out: the prefix that leaves
//! in place of its first bytes: new Ethernet addresses, a lower TTL, and where they are asked for a
//! smaller segment size or the headers of a fragment. What must hold: the frame itself is not
//! touched, and checksums that were right are right afterwards (RFC 1624), wrong ones wrong.

use pmd::{MAX_PREFIX_BYTES, REWRITTEN_HEAD_BYTES};
use policy::{
    Mac, NetworkId, VlanId,
    key::{ethertype, shape},
    parse::Parsed,
};

use crate::{adjacency::Adjacency, outbox::OwnTag};

const MACS_BYTES: usize = 12;
const TPID: [u8; 2] = ethertype::CUSTOMER_TAG.to_be_bytes();
/// Of the IPv4 header, up to and with the checksum.
pub(crate) const IPV4_REWRITTEN: usize = 12;
/// Of the IPv6 header, up to and with the hop limit.
pub(crate) const IPV6_REWRITTEN: usize = 8;

/// The first bytes of a frame, before or after they were rewritten.
pub(crate) type RewrittenHead = [u8; REWRITTEN_HEAD_BYTES];

/// A prefix: how long it is, and how many bytes of the frame it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) len: usize,
    pub(crate) skip: usize,
}

/// Which family a packet is of, by its first byte.
fn is_ipv6(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 6)
}

/// A packet's TTL or hop limit.
#[inline]
pub(crate) fn ttl(packet: &[u8]) -> Option<u8> {
    packet.get(if is_ipv6(packet) { 7 } else { 8 }).copied()
}

/// Writes the prefix of a routed frame whose packet begins at `l3`; `None` when the frame is too
/// short to be one.
#[inline]
pub(crate) fn routed(
    prefix: &mut [u8; MAX_PREFIX_BYTES],
    head: &[u8],
    l3: usize,
    own: Option<OwnTag>,
    to: &Adjacency,
) -> Option<Prefix> {
    let packet = head.get(l3..)?;
    let ip = ethernet(prefix, packet, own, to);
    let len = if is_ipv6(packet) {
        let header = packet.first_chunk::<IPV6_REWRITTEN>()?;
        let target = prefix[ip..].first_chunk_mut::<IPV6_REWRITTEN>()?;
        *target = *header;
        target[7] = header[7].wrapping_sub(to.hops);
        IPV6_REWRITTEN
    } else {
        let header = packet.first_chunk::<IPV4_REWRITTEN>()?;
        let target = prefix[ip..].first_chunk_mut::<IPV4_REWRITTEN>()?;
        *target = *header;
        target[8] = header[8].wrapping_sub(to.hops);
        let [high, low] = [header[10], header[11]];
        let before = u16::from_be_bytes([header[8], header[9]]);
        let after = u16::from_be_bytes([target[8], target[9]]);
        let sum = updated(u16::from_be_bytes([high, low]), before, after);
        [target[10], target[11]] = sum.to_be_bytes();
        IPV4_REWRITTEN
    };
    Some(Prefix {
        len: ip + len,
        skip: l3 + len,
    })
}

/// Word number `number` of a head.
#[inline(always)]
fn word(head: &RewrittenHead, number: usize) -> u64 {
    let bytes = head[8 * number..].first_chunk();
    u64::from_le_bytes(*bytes.unwrap_or(&[0; 8]))
}

/// Where in the third word of an untagged frame the TTL or hop limit stands, in bits.
#[inline(always)]
fn ttl_shift(is_ipv6: bool) -> u32 {
    if is_ipv6 { 40 } else { 48 }
}

/// Whether the TTL or hop limit of an untagged frame suffices.
#[inline(always)]
pub(crate) fn outlives(head: &RewrittenHead, is_ipv6: bool, to: &Adjacency) -> bool {
    let ttl = if is_ipv6 { head[21] } else { head[22] };
    ttl > to.hops
}

/// As [`routed`], for a frame without a tag that leaves without one: what most of them are. The
/// first bytes of a frame that [`outlives`] its way become those of the neighbour's.
#[inline(always)]
pub(crate) fn routed_plain(head: &RewrittenHead, is_ipv6: bool, to: &Adjacency) -> RewrittenHead {
    let word = |number| word(head, number);
    let hops = u64::from(to.hops);
    let (Mac([a, b, c, d, e, f]), Mac([g, h, i, j, k, l])) = (to.to, to.from);
    let more = u64::from(u32::from_le_bytes([i, j, k, l]));
    // RFC 1624, equation 3, for a word that becomes smaller by `hops`. The TTL is a byte of a word
    // of the header, as the checksum is one: their sum is updated in either byte order (RFC 1071
    // §2 (B)).
    let sum = (word(3) & 0xffff) + hops;
    let sum = (sum + u64::from(sum >= 0xffff)) & 0xffff;
    let words = [
        u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        word(1) >> 32 << 32 | more,
        word(2).wrapping_sub(hops << ttl_shift(is_ipv6)),
        if is_ipv6 {
            word(3)
        } else {
            word(3) >> 16 << 16 | sum
        },
    ];
    let mut rewritten = [0; REWRITTEN_HEAD_BYTES];
    for (bytes, word) in rewritten.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    rewritten
}

/// Writes the Ethernet header of a routed frame, and says how long it is.
#[inline]
fn ethernet(
    prefix: &mut [u8; MAX_PREFIX_BYTES],
    packet: &[u8],
    own: Option<OwnTag>,
    to: &Adjacency,
) -> usize {
    prefix[..6].copy_from_slice(&to.to.0);
    prefix[6..MACS_BYTES].copy_from_slice(&to.from.0);
    let mut len = MACS_BYTES;
    if let Some(tag) = to.tag {
        let priority = own.map_or(0, |own| own.tci & 0xf000);
        prefix[len..len + 2].copy_from_slice(&TPID);
        prefix[len + 2..len + 4].copy_from_slice(&(priority | tag.get()).to_be_bytes());
        len += 4;
    }
    let ethertype = if is_ipv6(packet) {
        ethertype::IPV6
    } else {
        ethertype::IPV4
    };
    prefix[len..len + 2].copy_from_slice(&ethertype.to_be_bytes());
    len + 2
}

/// Writes the headers of the answer to an echo request (RFC 792, RFC 4443 §4.2) that `parsed` was
/// parsed from, or to one of its fragments: what stands behind them in the frame is its data.
pub(crate) fn echo_reply(
    prefix: &mut [u8; MAX_PREFIX_BYTES],
    head: &[u8],
    parsed: &Parsed,
    own: Option<OwnTag>,
) -> Option<Prefix> {
    const TTL: u8 = 64;
    const ICMP_BYTES: usize = 4;
    let l3 = usize::from(parsed.l3_offset);
    let packet = head.get(l3..)?;
    // ICMP's header is in the first fragment alone.
    let icmp = (!parsed.key.has(shape::LATER_FRAGMENT))
        .then(|| usize::from(parsed.l4_offset).saturating_sub(l3));
    let header_bytes = match icmp {
        Some(icmp) => icmp + ICMP_BYTES,
        None if is_ipv6(packet) => 40,
        None => usize::from(packet.first()? & 15) * 4,
    };
    let back = Adjacency {
        to: parsed.key.eth_src(),
        from: parsed.key.eth_dst(),
        network: NetworkId::default(),
        port: parsed.key.ingress(),
        tag: own
            .and_then(|own| VlanId::new(own.tci & 0xfff))
            .map(Into::into),
        mtu: u16::MAX,
        hops: 0,
        clamp_mss: false,
    };
    let ip = ethernet(prefix, packet, own, &back);
    let headers = packet.get(..header_bytes)?;
    let len = ip + headers.len();
    let reply = prefix.get_mut(ip..len)?;
    reply.copy_from_slice(headers);
    let (kind, addresses) = if is_ipv6(packet) {
        reply[7] = TTL;
        (129, 8..40)
    } else {
        let before = u16::from_be_bytes([reply[8], reply[9]]);
        reply[8] = TTL;
        let after = u16::from_be_bytes([reply[8], reply[9]]);
        let checksum = u16::from_be_bytes([reply[10], reply[11]]);
        reply[10..12].copy_from_slice(&updated(checksum, before, after).to_be_bytes());
        (0, 12..20)
    };
    let (one, other) = reply[addresses.clone()].split_at_mut(addresses.len() / 2);
    one.swap_with_slice(other);
    if let Some(icmp) = icmp {
        let before = u16::from_be_bytes([reply[icmp], reply[icmp + 1]]);
        reply[icmp] = kind;
        let after = u16::from_be_bytes([reply[icmp], reply[icmp + 1]]);
        let checksum = u16::from_be_bytes([reply[icmp + 2], reply[icmp + 3]]);
        reply[icmp + 2..].copy_from_slice(&updated(checksum, before, after).to_be_bytes());
    }
    Some(Prefix {
        len,
        skip: l3 + header_bytes,
    })
}

/// A checksum after one of the words that it covers has changed (RFC 1624, equation 3).
pub(crate) fn updated(checksum: u16, before: u16, after: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!before) + u32::from(after);
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// Lowers the segment size that the SYN of a TCP connection announces to what fits `mtu`, in a
/// prefix that ends behind the rewritten IP header: the prefix then goes on to the end of TCP's
/// header. Where nothing is to be lowered it stays as it is.
///
/// `packet` is the packet from its IP header on, `l4` where TCP begins in it. `is_partial` is for a
/// frame whose transport checksum is still to be completed, and covers what is changed here then.
pub(crate) fn clamp_mss(
    prefix: &mut [u8; MAX_PREFIX_BYTES],
    made: Prefix,
    (packet, l4): (&[u8], usize),
    mtu: u16,
    is_partial: bool,
) -> Prefix {
    const TCP_BYTES: usize = 20;
    let ip_bytes = if is_ipv6(packet) { 40 } else { 20 };
    let most = usize::from(mtu).saturating_sub(ip_bytes + TCP_BYTES) as u16;
    let Some(tcp) = packet.get(l4..).filter(|tcp| tcp.len() >= TCP_BYTES) else {
        return made;
    };
    let header_bytes = usize::from(tcp[12] >> 4) * 4;
    let Some(at) = segment_size(tcp.get(..header_bytes).unwrap_or_default()) else {
        return made;
    };
    let announced = u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let rewritten = if is_ipv6(packet) {
        IPV6_REWRITTEN
    } else {
        IPV4_REWRITTEN
    };
    let ip = made.len - rewritten;
    let (start, end) = (ip + l4, ip + l4 + header_bytes);
    if announced <= most || end > prefix.len() {
        return made;
    }
    let between = &packet[rewritten..l4 + header_bytes];
    prefix[made.len..end].copy_from_slice(between);
    let tcp = &mut prefix[start..end];
    tcp[at..at + 2].copy_from_slice(&most.to_be_bytes());
    if !is_partial {
        let checksum = u16::from_be_bytes([tcp[16], tcp[17]]);
        // At an odd place the bytes stand in two words the other way round; so does their sum.
        let turn = |word: u16| if at % 2 == 0 { word } else { word.swap_bytes() };
        let checksum = updated(checksum, turn(announced), turn(most));
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    }
    Prefix {
        len: end,
        skip: made.skip + between.len(),
    }
}

/// Where in a TCP header the maximum segment size stands (RFC 9293 §3.2).
fn segment_size(header: &[u8]) -> Option<usize> {
    let mut at = 20;
    loop {
        match *header.get(at..)? {
            [0, ..] | [] => return None,
            [1, ..] => at += 1,
            [2, 4, _, _, ..] => return Some(at + 2),
            [_, len, ..] if len >= 2 => at += usize::from(len),
            _ => return None,
        }
    }
}

/// One fragment of an IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// Where its data begins, in bytes from the end of the packet's IP header.
    pub(crate) start: usize,
    /// How many bytes it has.
    pub(crate) len: usize,
    /// Whether more follow.
    pub(crate) more: bool,
}

/// The fragments that a packet with so many bytes of header and data is cut into for `mtu`. None
/// when that leaves no room for data.
pub(crate) fn fragments(header: usize, data: usize, mtu: usize) -> impl Iterator<Item = Fragment> {
    // RFC 791 §2.3: offsets count in eight bytes.
    let most = mtu.saturating_sub(header) & !7;
    let count = if most == 0 { 0 } else { data.div_ceil(most) };
    (0..count).map(move |number| {
        let start = number * most;
        Fragment {
            start,
            len: most.min(data - start),
            more: number + 1 < count,
        }
    })
}

/// Turns a prefix that ends behind the whole IPv4 header `ip..end` into that of a fragment.
pub(crate) fn fragment_header(
    prefix: &mut [u8; MAX_PREFIX_BYTES],
    ip: usize,
    end: usize,
    fragment: Fragment,
) {
    let header = &mut prefix[ip..end];
    let bytes = (end - ip + fragment.len) as u16;
    header[2..4].copy_from_slice(&bytes.to_be_bytes());
    let word = u16::from_be_bytes([header[6], header[7]]);
    // A packet that is a fragment itself keeps its place, and says that more follow if it did.
    let offset = (word & 0x1fff) + (fragment.start / 8) as u16;
    let flags = word & 0xe000 | u16::from(fragment.more) << 13;
    header[6..8].copy_from_slice(&(flags | offset & 0x1fff).to_be_bytes());
    header[10..12].fill(0);
    let sum = sum(header);
    header[10..12].copy_from_slice(&(!sum).to_be_bytes());
}

/// The ones' complement sum of big-endian words (RFC 1071).
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2);
    let total: u64 = words
        .map(|word| u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0)))
        .sum();
    fold(total)
}

/// A sum of words, folded to one.
pub(crate) fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_updated_checksum_is_the_one_computed_anew(
            mut words in proptest::collection::vec(any::<u16>(), 2..30),
            at in any::<prop::sample::Index>(),
            after in any::<u16>(),
        ) {
            let bytes = |words: &[u16]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<_>>();
            let at = at.index(words.len());
            let before = std::mem::replace(&mut words[at], after);
            let mut old = words.clone();
            old[at] = before;
            let updated = updated(!sum(&bytes(&old)), before, after);
            let anew = !sum(&bytes(&words));
            // Zero has two forms (RFC 1624 §3); what verifies is what counts.
            prop_assert!(updated == anew || !updated == 0 && !anew == 0xffff || updated == 0 && anew == 0xffff);
        }

        #[test]
        fn fragments_are_the_packet_in_pieces_that_fit(
            header in (5usize..=15).prop_map(|words| words * 4),
            data in 1usize..9000,
            mtu in 68usize..1500,
        ) {
            let pieces: Vec<_> = fragments(header, data, mtu).collect();
            let mut next = 0;
            for (number, piece) in pieces.iter().enumerate() {
                prop_assert_eq!(piece.start, next);
                prop_assert_eq!(piece.start % 8, 0);
                prop_assert!(header + piece.len <= mtu);
                prop_assert_eq!(piece.more, number + 1 < pieces.len());
                next += piece.len;
            }
            prop_assert_eq!(next, data);
        }
    }

    proptest! {
        #[test]
        fn the_short_way_writes_what_the_long_one_does(
            mut head in proptest::collection::vec(any::<u8>(), 60..64),
            is_v6 in any::<bool>(),
            hops in 1u8..8,
        ) {
            head[12..14].copy_from_slice(&if is_v6 { [0x86, 0xdd] } else { [8, 0] });
            head[14] = if is_v6 { 0x60 } else { 0x45 };
            let ttl = if is_v6 { 21 } else { 22 };
            head[ttl] = head[ttl].max(hops + 1);
            if !is_v6 {
                head[24..26].fill(0);
                let right = !sum(&head[14..34]);
                head[24..26].copy_from_slice(&right.to_be_bytes());
            }
            let to = Adjacency {
                to: policy::Mac([2, 0, 0, 0, 0, 1]),
                from: policy::Mac([2, 0, 0, 0, 0, 2]),
                network: NetworkId(0),
                port: policy::PortId(0),
                tag: None,
                mtu: 1500,
                hops,
                clamp_mss: false,
            };
            let mut long = [0; MAX_PREFIX_BYTES];
            let by_long = routed(&mut long, &head, 14, None, &to).expect("a packet");
            let short = head.first_chunk().expect("a packet");
            prop_assert!(outlives(short, is_v6, &to));
            let by_short = routed_plain(short, is_v6, &to);
            prop_assert_eq!(by_long.len, by_long.skip);
            prop_assert_eq!(&long[..by_long.len], &by_short[..by_long.len]);
            prop_assert_eq!(&by_short[by_long.len..], &head[by_long.len..REWRITTEN_HEAD_BYTES]);
            if !is_v6 {
                prop_assert_eq!(sum(&[&by_short[14..], &head[32..34]].concat()), 0xffff);
            }
        }
    }

    #[test]
    fn the_segment_size_is_found_behind_other_options() {
        let mut header = vec![0; 20];
        header.extend([1, 3, 3, 7, 2, 4, 5, 0xb4]);
        assert_eq!(segment_size(&header), Some(26));
        header[21..24].copy_from_slice(&[9, 0, 0]);
        assert_eq!(segment_size(&header), None, "an option without a length");
        assert_eq!(segment_size(&[0; 10]), None);
    }
}
