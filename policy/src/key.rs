//! The flow key: everything about a frame that policy may read, in eight words.
//!
//! ```text
//!  word  bits 63..0
//!   0    eth dst 48 | ingress port 16
//!   1    eth src 48 | ethertype 16
//!   2,3  IP source, 128 bits; IPv4 in the low 32 bits of word 3
//!   4,5  IP destination, the same way
//!   6    L4 source 16 | L4 destination 16 | VLAN TCI 16 | TCP flags 8 | protocol 8
//!   7    0 | TOS or traffic class 8 | shape 16
//! ```
//!
//! A field that a frame does not have is zero; the shape bits and the ethertype say which it has.
//! For ARP the IP words hold the sender's and the target's protocol address and the protocol
//! byte the operation. For ICMP the L4 source holds `type << 8 | code`, the destination the
//! identifier of an echo and zero for other messages.
//! The ethertype is the one behind the outer VLAN tag; 802.3 frames (a length there) have 0.

use std::{
    hash::{Hash, Hasher},
    ops::{BitAnd, BitOrAssign},
};

use crate::{Mac, PortId};

/// A frame's key, or a mask of key bits.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Default, Eq)]
pub struct FlowKey(pub [u64; 8]);

impl PartialEq for FlowKey {
    /// Without a branch or a call: the flow cache compares one key per frame.
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let words = self.0.iter().zip(&other.0);
        words.fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// A run of bits within one word of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Which word.
    pub word: usize,
    /// Lowest bit.
    pub shift: u32,
    /// How many bits.
    pub bits: u32,
}

impl Field {
    const fn new(word: usize, shift: u32, bits: u32) -> Self {
        Self { word, shift, bits }
    }

    /// All of a word.
    #[inline]
    pub const fn word(word: usize) -> Self {
        Self::new(word, 0, 64)
    }

    /// 32 bits of a word, from bit 0 or 32.
    pub(crate) const fn half(word: usize, shift: u32) -> Self {
        Self::new(word, shift, 32)
    }

    /// All bits of the field, at bit 0.
    #[inline]
    pub const fn ones(self) -> u64 {
        u64::MAX >> (64 - self.bits)
    }

    /// The ingress port's number.
    pub const INGRESS: Self = Self::new(0, 0, 16);
    /// Ethernet destination.
    pub const ETH_DST: Self = Self::new(0, 16, 48);
    /// Ethertype behind the outer tag; 0 for 802.3 frames.
    pub const ETHERTYPE: Self = Self::new(1, 0, 16);
    /// Ethernet source.
    pub const ETH_SRC: Self = Self::new(1, 16, 48);
    /// Upper half of an IPv6 source.
    pub const IP_SRC_HIGH: Self = Self::new(2, 0, 64);
    /// Lower half of an IPv6 source, or an IPv4 source.
    pub const IP_SRC_LOW: Self = Self::new(3, 0, 64);
    /// Upper half of an IPv6 destination.
    pub const IP_DST_HIGH: Self = Self::new(4, 0, 64);
    /// Lower half of an IPv6 destination, or an IPv4 destination.
    pub const IP_DST_LOW: Self = Self::new(5, 0, 64);
    /// IP protocol or final next header; for ARP the operation's low byte.
    pub const PROTOCOL: Self = Self::new(6, 0, 8);
    /// TCP flags, FIN lowest (RFC 9293 §3.1).
    pub const TCP_FLAGS: Self = Self::new(6, 8, 8);
    /// The outer tag's PCP, DEI and VID.
    pub const VLAN_TCI: Self = Self::new(6, 16, 16);
    /// The outer tag's VID alone.
    pub const VLAN_VID: Self = Self::new(6, 16, 12);
    /// TCP, UDP or SCTP destination port; identifier of an ICMP echo.
    pub const L4_DST: Self = Self::new(6, 32, 16);
    /// TCP, UDP or SCTP source port; ICMP type and code.
    pub const L4_SRC: Self = Self::new(6, 48, 16);
    /// [`shape`] bits.
    pub const SHAPE: Self = Self::new(7, 0, 16);
    /// IPv4 TOS or IPv6 traffic class.
    pub const TOS: Self = Self::new(7, 16, 8);
}

/// The ICMP type within [`Field::L4_SRC`].
pub const ICMP_TYPE: u64 = 0xff00;

/// Ethertypes that are told apart (IEEE 802 numbers).
pub mod ethertype {
    /// RFC 894.
    pub const IPV4: u16 = 0x0800;
    /// RFC 826.
    pub const ARP: u16 = 0x0806;
    /// RFC 2464.
    pub const IPV6: u16 = 0x86dd;
    /// The TPID of a customer tag (IEEE 802.1Q).
    pub const CUSTOMER_TAG: u16 = 0x8100;
    /// The TPID of a service tag (IEEE 802.1ad).
    pub const SERVICE_TAG: u16 = 0x88a8;
    /// Below it the field is an 802.3 length (IEEE 802.3 §3.2.6).
    pub const MIN: u16 = 0x0600;
}

/// IP protocols that are told apart (IANA's Assigned Internet Protocol Numbers).
pub mod protocol {
    /// RFC 792.
    pub const ICMP: u8 = 1;
    /// RFC 9293.
    pub const TCP: u8 = 6;
    /// RFC 768.
    pub const UDP: u8 = 17;
    /// RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// RFC 9260.
    pub const SCTP: u8 = 132;
}

/// Bits of [`Field::SHAPE`]: what the frame has and is.
pub mod shape {
    /// It has an outer VLAN tag, in the frame or beside it.
    pub const TAGGED: u64 = 1 << 0;
    /// Behind the outer tag stands another.
    pub const NESTED: u64 = 1 << 1;
    /// It is IPv4.
    pub const IPV4: u64 = 1 << 2;
    /// It is IPv6.
    pub const IPV6: u64 = 1 << 3;
    /// It is the first fragment of several.
    pub const FIRST_FRAGMENT: u64 = 1 << 4;
    /// It is a fragment other than the first: it has no L4 fields.
    pub const LATER_FRAGMENT: u64 = 1 << 5;
    /// The L4 fields are there.
    pub const L4: u64 = 1 << 6;
    /// A header contradicts itself or is cut off.
    pub const MALFORMED: u64 = 1 << 7;
    /// It has IPv4 options or IPv6 extension headers.
    pub const OPTIONS: u64 = 1 << 8;
    /// It is shorter than its Ethernet header, outer tag included.
    pub const RUNT: u64 = 1 << 9;
}

impl FlowKey {
    /// A field's value, at bit 0.
    #[inline]
    pub fn get(&self, field: Field) -> u64 {
        (self.0[field.word] >> field.shift) & field.ones()
    }

    /// Sets a field; bits of `value` beyond the field are ignored.
    #[inline]
    pub fn set(&mut self, field: Field, value: u64) {
        let word = &mut self.0[field.word];
        *word = (*word & !(field.ones() << field.shift)) | ((value & field.ones()) << field.shift);
    }

    /// Ethernet destination.
    #[inline]
    pub fn eth_dst(&self) -> Mac {
        Mac::from_u64(self.get(Field::ETH_DST))
    }

    /// Ethernet source.
    #[inline]
    pub fn eth_src(&self) -> Mac {
        Mac::from_u64(self.get(Field::ETH_SRC))
    }

    /// Ingress port.
    #[inline]
    pub fn ingress(&self) -> PortId {
        PortId(self.get(Field::INGRESS) as u16)
    }

    /// True when all of the [`shape`] bits `bits` are set.
    #[inline]
    pub fn has(&self, bits: u64) -> bool {
        self.get(Field::SHAPE) & bits == bits
    }
}

impl BitAnd for &FlowKey {
    type Output = FlowKey;

    #[inline]
    fn bitand(self, mask: Self) -> FlowKey {
        FlowKey(std::array::from_fn(|word| self.0[word] & mask.0[word]))
    }
}

impl BitOrAssign<&FlowKey> for FlowKey {
    fn bitor_assign(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }
}

/// What kind of frame it is, as far as footprint masks differ. The parser decides it, from bits
/// that every mask contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Shorter than its Ethernet header, outer tag included.
    Runt,
    /// A header contradicts itself or is cut off.
    Malformed,
    /// Neither IP nor ARP; also IP behind a nested tag.
    NonIp,
    /// ARP. Never cached: it is judged by its payload.
    Arp,
    /// IPv4, TCP, with ports.
    Ipv4Tcp,
    /// IPv4, UDP or SCTP, with ports.
    Ipv4Udp,
    /// IPv4, ICMP, with type and code.
    Ipv4Icmp,
    /// IPv4, any other protocol.
    Ipv4Other,
    /// IPv4, a fragment other than the first.
    Ipv4Fragment,
    /// IPv6, TCP, with ports.
    Ipv6Tcp,
    /// IPv6, UDP or SCTP, with ports.
    Ipv6Udp,
    /// `ICMPv6` but neighbour discovery.
    Ipv6Icmp,
    /// `ICMPv6` 133 to 137 (RFC 4861). Never cached: it is judged by its payload.
    Ipv6Neighbor,
    /// IPv6, any other protocol.
    Ipv6Other,
    /// IPv6, a fragment other than the first.
    Ipv6Fragment,
}

impl Class {
    /// Every class, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Runt,
        Self::Malformed,
        Self::NonIp,
        Self::Arp,
        Self::Ipv4Tcp,
        Self::Ipv4Udp,
        Self::Ipv4Icmp,
        Self::Ipv4Other,
        Self::Ipv4Fragment,
        Self::Ipv6Tcp,
        Self::Ipv6Udp,
        Self::Ipv6Icmp,
        Self::Ipv6Neighbor,
        Self::Ipv6Other,
        Self::Ipv6Fragment,
    ];

    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// False for frames that are judged by more than their key, each anew.
    #[inline]
    pub fn cacheable(self) -> bool {
        !matches!(self, Self::Arp | Self::Ipv6Neighbor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_overlap() {
        let fields = [
            Field::INGRESS,
            Field::ETH_DST,
            Field::ETHERTYPE,
            Field::ETH_SRC,
            Field::IP_SRC_HIGH,
            Field::IP_SRC_LOW,
            Field::IP_DST_HIGH,
            Field::IP_DST_LOW,
            Field::PROTOCOL,
            Field::TCP_FLAGS,
            Field::VLAN_TCI,
            Field::L4_DST,
            Field::L4_SRC,
            Field::SHAPE,
            Field::TOS,
        ];
        let mut seen = FlowKey::default();
        for field in fields {
            assert_eq!(seen.get(field), 0, "{field:?}");
            seen.set(field, u64::MAX);
            assert_eq!(seen.get(field), field.ones());
        }
    }

    #[test]
    fn classes_are_numbered_in_order() {
        for (number, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, number);
        }
    }
}
