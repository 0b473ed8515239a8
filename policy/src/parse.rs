//! Frame bytes to flow key and class.
//!
//! In come the first bytes of a frame (all of it, or at least 256), its whole length and the tag
//! that its driver found beside it; out go the key, the class and where L3 and L4 begin. Any
//! bytes may come in: nothing here panics, allocates or reads past the frame.
//!
//! Headers are judged from the lengths they claim, checked against the frame; what stands behind
//! the IP packet is padding. A frame is malformed when a header contradicts itself or is cut off:
//! its key then keeps Ethernet, VLAN and ethertype and holds nothing else. Choices made here:
//!
//! - A frame that ends within its outer tag is a runt: which network it belongs to is unknown.
//! - A second tag ends parsing: class `NonIp`, ethertype the inner tag's TPID.
//! - IPv6 payload length 0 means no payload; jumbograms (RFC 2675) are therefore malformed.
//! - At most eight IPv6 extension headers, all of which must stand in the bytes given.
//! - A first fragment must hold the L4 header whole (RFC 1858, RFC 7112), and TCP at fragment
//!   offset 1 is malformed (RFC 3128). An IPv6 "atomic fragment" (RFC 6946) is a whole packet.
//! - A later IPv6 fragment's protocol is what its fragment header names, which may be another
//!   extension header.
//! - ARP for anything but IPv4 on Ethernet is class `Arp` with addresses and operation zero; the
//!   sender check refuses it, because there is no claim that it could check.

use crate::{
    PortId,
    key::{Class, FlowKey, ethertype, protocol, shape},
};

/// What [`parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The frame's key.
    pub key: FlowKey,
    /// Its class.
    pub class: Class,
    /// First byte behind the ethertype that the key holds: behind Ethernet and the outer tag if
    /// that stands in the frame; with a nested tag, the inner tag's TCI. 0 for runts.
    pub l3_offset: u16,
    /// First byte of TCP, UDP, SCTP or ICMP; 0 when the frame has none of them.
    pub l4_offset: u16,
    /// The outer tag stands in the frame, at byte 12, not beside it.
    pub tag_in_frame: bool,
}

const ETHERNET_LEN: usize = 14;
const TAGGED_LEN: usize = 18;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const ARP_LEN: usize = 28;

/// Most IPv6 extension headers that are walked.
const MAX_EXTENSION_HEADERS: usize = 8;

/// Parses a frame.
///
/// `head` is the whole frame or at least its first 256 bytes, `frame_len` the whole length in
/// bytes. `vlan_tci` is the tag that came beside the frame: it is then the outer tag.
pub fn parse(head: &[u8], frame_len: usize, vlan_tci: Option<u16>, ingress: PortId) -> Parsed {
    let mut parsed = Parsed::RUNT;
    match plain(head, frame_len, vlan_tci, ingress) {
        Some(plain) => parsed = plain,
        None => general(&mut parsed, head, frame_len, vlan_tci, ingress),
    }
    parsed
}

/// Parses what most frames are: IPv4 without options or fragments, whole TCP or UDP, untagged.
/// `None` for all else. Says what [`general`] says, in half the instructions: every offset
/// is known, so one length check serves all reads. Parameters as for [`parse`].
///
/// Whether `head` is longer than the frame needs no check: what is read lies in the headers, these
/// in the packet as it claims to be, and that is checked against the frame.
// Inlined, so that the caller can go on with the key's words in registers. Read back from memory
// they would be waited for until they have left the store buffer.
#[inline(always)]
pub fn plain(
    head: &[u8],
    frame_len: usize,
    vlan_tci: Option<u16>,
    ingress: PortId,
) -> Option<Parsed> {
    const L4: usize = ETHERNET_LEN + IPV4_LEN;
    const VERSION_4_LENGTH_5: u8 = 0x45;
    /// More fragments, and the offset; "don't fragment" may be set.
    const FRAGMENT: u16 = 0x3fff;

    if vlan_tci.is_some() {
        return None;
    }
    let frame = head.first_chunk::<{ L4 + 8 }>()?;
    // Together as the key has them.
    let source_and_ethertype = be64::<6, _>(frame);
    let total_len = usize::from(be16::<16, _>(frame));
    let is_plain = source_and_ethertype as u16 == ethertype::IPV4
        && frame[14] == VERSION_4_LENGTH_5
        && be16::<20, _>(frame) & FRAGMENT == 0
        && ETHERNET_LEN + total_len <= frame_len;
    if !is_plain {
        return None;
    }
    let (class, flags) = match frame[23] {
        protocol::UDP => {
            let udp_len = usize::from(be16::<38, _>(frame));
            if udp_len < 8 || IPV4_LEN + udp_len > total_len {
                return None;
            }
            (Class::Ipv4Udp, 0)
        }
        protocol::TCP => {
            let frame = head.first_chunk::<{ L4 + 14 }>()?;
            let header_len = usize::from(frame[46] >> 4) * 4;
            if header_len < 20 || IPV4_LEN + header_len > total_len {
                return None;
            }
            (Class::Ipv4Tcp, frame[47])
        }
        _ => return None,
    };
    let key = FlowKey([
        be64::<0, _>(frame) & !0xffff | u64::from(ingress.0),
        source_and_ethertype,
        0,
        be32::<26, _>(frame),
        0,
        be32::<30, _>(frame),
        be32::<L4, _>(frame) << 32 | u64::from(flags) << 8 | u64::from(frame[23]),
        u64::from(frame[15]) << 16 | shape::IPV4 | shape::L4,
    ]);
    Some(Parsed {
        key,
        class,
        l3_offset: ETHERNET_LEN as u16,
        l4_offset: L4 as u16,
        tag_in_frame: false,
    })
}

/// Parses any frame. Parameters as for [`parse`].
#[inline(never)]
pub fn general(
    parsed: &mut Parsed,
    head: &[u8],
    frame_len: usize,
    vlan_tci: Option<u16>,
    ingress: PortId,
) {
    let head = &head[..head.len().min(frame_len)];
    let Some(ethernet) = head.first_chunk::<ETHERNET_LEN>() else {
        return runt(parsed, ingress);
    };
    let mut link = Link {
        destination: be64::<0, _>(ethernet) & !0xffff | u64::from(ingress.0),
        source: be64::<6, _>(ethernet) & !0xffff,
        kind: be16::<12, _>(ethernet),
        tci: vlan_tci.unwrap_or(0),
        shape: if vlan_tci.is_some() { shape::TAGGED } else { 0 },
        l3_offset: ETHERNET_LEN,
        tag_in_frame: false,
    };
    if is_tpid(link.kind) && vlan_tci.is_none() {
        let Some(tagged) = head.first_chunk::<TAGGED_LEN>() else {
            return runt(parsed, ingress);
        };
        link.tci = be16::<14, _>(tagged);
        link.kind = be16::<16, _>(tagged);
        link.shape = shape::TAGGED;
        (link.l3_offset, link.tag_in_frame) = (TAGGED_LEN, true);
    }
    let mut layers = Layers::NONE;
    let sound = match link.kind {
        ethertype::IPV4 => ipv4(head, frame_len, link.l3_offset, &mut layers),
        ethertype::IPV6 => ipv6(head, frame_len, link.l3_offset, &mut layers),
        ethertype::ARP => arp(head, link.l3_offset, &mut layers),
        ethertype::CUSTOMER_TAG | ethertype::SERVICE_TAG => {
            link.shape |= shape::NESTED;
            Some(())
        }
        ..ethertype::MIN => {
            link.kind = 0;
            Some(())
        }
        _ => Some(()),
    };
    link.store(sound.map_or(&Layers::MALFORMED, |()| &layers), parsed);
}

fn is_tpid(kind: u16) -> bool {
    matches!(kind, ethertype::CUSTOMER_TAG | ethertype::SERVICE_TAG)
}

#[cold]
fn runt(parsed: &mut Parsed, ingress: PortId) {
    *parsed = Parsed::RUNT;
    parsed.key.0[0] = u64::from(ingress.0);
}

impl Parsed {
    const RUNT: Self = Self {
        key: FlowKey([0, 0, 0, 0, 0, 0, 0, shape::RUNT]),
        class: Class::Runt,
        l3_offset: 0,
        l4_offset: 0,
        tag_in_frame: false,
    };
}

/// Ethernet and the outer tag.
struct Link {
    /// Word 0 of the key.
    destination: u64,
    /// The address in the upper 48 bits.
    source: u64,
    kind: u16,
    tci: u16,
    shape: u64,
    l3_offset: usize,
    tag_in_frame: bool,
}

impl Link {
    #[inline(always)]
    fn store(&self, layers: &Layers, parsed: &mut Parsed) {
        let Layers { ip, l4, tos, .. } = *layers;
        let key = &mut parsed.key.0;
        key[0] = self.destination;
        key[1] = self.source | u64::from(self.kind);
        key[2] = ip[0];
        key[3] = ip[1];
        key[4] = ip[2];
        key[5] = ip[3];
        key[6] = l4 | u64::from(self.tci) << 16;
        key[7] = u64::from(tos) << 16 | self.shape | layers.shape;
        parsed.class = layers.class;
        parsed.l3_offset = self.l3_offset as u16;
        parsed.l4_offset = layers.l4_offset as u16;
        parsed.tag_in_frame = self.tag_in_frame;
    }
}

/// What stands behind Ethernet.
struct Layers {
    class: Class,
    shape: u64,
    /// Words 2 to 5 of the key.
    ip: [u64; 4],
    /// Word 6 of the key, without the tag.
    l4: u64,
    tos: u8,
    l4_offset: usize,
}

impl Layers {
    const NONE: Self = Self {
        class: Class::NonIp,
        shape: 0,
        ip: [0; 4],
        l4: 0,
        tos: 0,
        l4_offset: 0,
    };
    const MALFORMED: Self = Self {
        class: Class::Malformed,
        shape: shape::MALFORMED,
        ..Self::NONE
    };
}

/// RFC 826, for IPv4 on Ethernet.
fn arp(head: &[u8], l3_offset: usize, layers: &mut Layers) -> Option<()> {
    let packet = chunk::<ARP_LEN>(head, l3_offset)?;
    layers.class = Class::Arp;
    // Hardware Ethernet, protocol IPv4, address lengths 6 and 4, operation below 256.
    if let [0, 1, 8, 0, 6, 4, 0, operation, ..] = *packet {
        layers.ip = [0, be32::<14, _>(packet), 0, be32::<24, _>(packet)];
        layers.l4 = u64::from(operation);
    }
    Some(())
}

/// RFC 791.
fn ipv4(head: &[u8], frame_len: usize, l3_offset: usize, layers: &mut Layers) -> Option<()> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const FRAGMENT_OFFSET: u16 = 0x1fff;

    let header = chunk::<IPV4_LEN>(head, l3_offset)?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    let total_len = usize::from(be16::<2, _>(header));
    let l4_offset = l3_offset + header_len;
    let sound = header[0] >> 4 == 4
        && header_len >= IPV4_LEN
        && header_len <= total_len
        && l3_offset + total_len <= frame_len
        && l4_offset <= head.len();
    if !sound {
        return None;
    }
    layers.class = Class::Ipv4Other;
    layers.shape = shape::IPV4;
    layers.ip = [0, be32::<12, _>(header), 0, be32::<16, _>(header)];
    layers.l4 = u64::from(header[9]);
    layers.tos = header[1];
    if header_len > IPV4_LEN {
        layers.shape |= shape::OPTIONS;
    }
    let fragment = be16::<6, _>(header) & (MORE_FRAGMENTS | FRAGMENT_OFFSET);
    if fragment != 0 {
        match fragment & FRAGMENT_OFFSET {
            0 => layers.shape |= shape::FIRST_FRAGMENT,
            1 if header[9] == protocol::TCP => return None,
            _ => {
                layers.shape |= shape::LATER_FRAGMENT;
                layers.class = Class::Ipv4Fragment;
                return Some(());
            }
        }
    }
    l4::<false>(head, l4_offset, total_len - header_len, layers)
}

/// RFC 8200.
fn ipv6(head: &[u8], frame_len: usize, l3_offset: usize, layers: &mut Layers) -> Option<()> {
    let header = chunk::<IPV6_LEN>(head, l3_offset)?;
    let end = l3_offset + IPV6_LEN + usize::from(be16::<4, _>(header));
    if header[0] >> 4 != 6 || end > frame_len {
        return None;
    }
    let seen = &head[..head.len().min(end)];
    let chain = extension_headers(seen, header[6], l3_offset + IPV6_LEN)?;
    layers.class = Class::Ipv6Other;
    layers.shape = shape::IPV6 | chain.shape;
    layers.ip = [
        be64::<8, _>(header),
        be64::<16, _>(header),
        be64::<24, _>(header),
        be64::<32, _>(header),
    ];
    layers.l4 = u64::from(chain.next);
    layers.tos = (be16::<0, _>(header) >> 4) as u8;
    if chain.shape & shape::LATER_FRAGMENT != 0 {
        layers.class = Class::Ipv6Fragment;
        return Some(());
    }
    l4::<true>(head, chain.offset, end - chain.offset, layers)
}

/// The end of an IPv6 header chain.
struct Chain {
    /// What stands there.
    next: u8,
    /// Where.
    offset: usize,
    /// `OPTIONS` and the fragment bits.
    shape: u64,
}

/// Walks the extension headers from `offset`; `seen` ends where the packet or the given bytes do.
#[inline]
fn extension_headers(seen: &[u8], next: u8, offset: usize) -> Option<Chain> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    const MOBILITY: u8 = 135;
    const HIP: u8 = 139;
    const SHIM6: u8 = 140;

    let mut chain = Chain {
        next,
        offset,
        shape: 0,
    };
    let mut fragment_seen = false;
    for walked in 0.. {
        if !matches!(
            chain.next,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP | SHIM6
        ) {
            break;
        }
        let header = chunk::<8>(seen, chain.offset)?;
        if walked == MAX_EXTENSION_HEADERS {
            return None;
        }
        let len = match chain.next {
            // A fragment of a fragment is none that a receiver could put together.
            FRAGMENT if fragment_seen => return None,
            FRAGMENT => 8,
            // RFC 4302 §2.2: in 4-byte units, less 2.
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        let is_fragment = chain.next == FRAGMENT;
        chain.shape |= shape::OPTIONS;
        chain.next = header[0];
        chain.offset += len;
        if chain.offset > seen.len() {
            return None;
        }
        if is_fragment {
            fragment_seen = true;
            let offset_and_more = be16::<2, _>(header);
            if offset_and_more & 0xfff8 != 0 {
                chain.shape |= shape::LATER_FRAGMENT;
                break;
            }
            if offset_and_more & 1 != 0 {
                chain.shape |= shape::FIRST_FRAGMENT;
            }
        }
    }
    Some(chain)
}

/// Ports, TCP flags, ICMP type and code of a packet that is whole or a first fragment, whose
/// protocol is in `layers.l4`. `payload_len` is what the IP header claims.
#[inline(always)]
fn l4<const IPV6: bool>(
    head: &[u8],
    offset: usize,
    payload_len: usize,
    layers: &mut Layers,
) -> Option<()> {
    let class = |ipv4, ipv6| if IPV6 { ipv6 } else { ipv4 };
    // Of what stands behind the packet nothing belongs to it.
    let seen = head.get(offset..)?;
    let seen = &seen[..seen.len().min(payload_len)];
    layers.class = match layers.l4 as u8 {
        protocol::UDP => {
            // RFC 768. A fragment's length is that of the whole datagram.
            let header = seen.first_chunk::<8>()?;
            let len = usize::from(be16::<4, _>(header));
            let whole = layers.shape & shape::FIRST_FRAGMENT == 0;
            if len < 8 || (whole && len > payload_len) {
                return None;
            }
            layers.l4 |= be32::<0, _>(header) << 32;
            class(Class::Ipv4Udp, Class::Ipv6Udp)
        }
        protocol::TCP => {
            // RFC 9293 §3.1: data offset in 4-byte units, then the flags.
            let header = seen.first_chunk::<14>()?;
            let header_len = usize::from(header[12] >> 4) * 4;
            if header_len < 20 || header_len > payload_len {
                return None;
            }
            layers.l4 |= be32::<0, _>(header) << 32 | u64::from(header[13]) << 8;
            class(Class::Ipv4Tcp, Class::Ipv6Tcp)
        }
        protocol::SCTP => {
            // RFC 9260 §3.1: a common header of 12 bytes.
            let header = seen.first_chunk::<12>()?;
            layers.l4 |= be32::<0, _>(header) << 32;
            class(Class::Ipv4Udp, Class::Ipv6Udp)
        }
        protocol::ICMP if !IPV6 => {
            let header = seen.first_chunk::<4>()?;
            layers.l4 |= u64::from(be16::<0, _>(header)) << 48;
            Class::Ipv4Icmp
        }
        protocol::ICMPV6 if IPV6 => {
            let header = seen.first_chunk::<4>()?;
            layers.l4 |= u64::from(be16::<0, _>(header)) << 48;
            if is_neighbor_discovery(header[0]) {
                Class::Ipv6Neighbor
            } else {
                Class::Ipv6Icmp
            }
        }
        _ => return Some(()),
    };
    layers.shape |= shape::L4;
    layers.l4_offset = offset;
    Some(())
}

/// True for the `ICMPv6` types of neighbour discovery (RFC 4861 §4).
#[inline]
pub(crate) fn is_neighbor_discovery(icmp_type: u8) -> bool {
    matches!(icmp_type, 133..=137)
}

#[inline(always)]
fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

#[inline(always)]
fn be16<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u16 {
    u16::from_be_bytes(*part::<AT, 2, N>(bytes))
}

#[inline(always)]
fn be32<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u64 {
    u64::from(u32::from_be_bytes(*part::<AT, 4, N>(bytes)))
}

#[inline(always)]
fn be64<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u64 {
    u64::from_be_bytes(*part::<AT, 8, N>(bytes))
}

/// `LEN` bytes from byte `AT` on, in one load: put together from single bytes, those that a mask
/// then takes away would make several of it.
#[inline(always)]
fn part<const AT: usize, const LEN: usize, const N: usize>(bytes: &[u8; N]) -> &[u8; LEN] {
    const { assert!(AT + LEN <= N) };
    let Some(part) = bytes[AT..].first_chunk() else {
        unreachable!("checked when this was compiled")
    };
    part
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Plain frames and ones that are not quite, from few bytes' worth of chances.
    fn nearly_plain() -> impl Strategy<Value = (Vec<u8>, usize, Option<u16>)> {
        let frame = (
            prop::sample::select(vec![6u8, 17, 1, 132]),
            prop::collection::vec(any::<u8>(), 0..80),
            prop::collection::vec((0usize..60, any::<u8>()), 0..3),
            0usize..8,
            prop::option::of(any::<u16>()),
        );
        frame.prop_map(|(protocol, payload, changes, end, tci)| {
            let mut bytes = vec![2; 12];
            let total_len = 20 + payload.len();
            bytes.extend([
                8,
                0,
                0x45,
                0,
                0,
                total_len as u8,
                0,
                1,
                0x40,
                0,
                64,
                protocol,
                0,
                0,
            ]);
            bytes.extend([10, 0, 0, 1, 10, 0, 0, 2]);
            bytes.extend(payload);
            if protocol == 17 && bytes.len() >= 42 {
                let udp_len = (total_len - 20) as u16;
                bytes[38..40].copy_from_slice(&udp_len.to_be_bytes());
            }
            if protocol == 6 && bytes.len() >= 54 {
                bytes[46] = 0x50;
            }
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            // From four bytes less than there are.
            let frame_len = (bytes.len() + end).saturating_sub(4);
            (bytes, frame_len, tci)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn the_short_way_says_what_the_long_one_says((head, frame_len, tci) in nearly_plain()) {
            let mut long = Parsed::RUNT;
            general(&mut long, &head, frame_len, tci, PortId(7));
            if let Some(short) = plain(&head, frame_len, tci, PortId(7)) {
                prop_assert_eq!(short, long);
            } else {
                let plain = matches!(long.class, Class::Ipv4Tcp | Class::Ipv4Udp);
                let options = long.key.has(shape::OPTIONS) || head.get(23) == Some(&132);
                let fragment = long.key.has(shape::FIRST_FRAGMENT);
                prop_assert!(!plain || options || fragment || long.key.has(shape::TAGGED));
            }
        }
    }
}
