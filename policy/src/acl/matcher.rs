//! One rule as comparisons of whole key words.
//!
//! In comes a [`Match`]; out go the comparisons that a frame's key must pass. What stays as ranges
//! is compared last. Every read goes through the [`KeyReader`], so that what a rule compares and
//! what a footprint mask holds are the same.

use std::{ops::RangeInclusive, sync::Arc};

use ipnet::IpNet;

use crate::{
    key::{Field, FlowKey, ICMP_TYPE, shape},
    reader::KeyReader,
    rule::{FragmentMatch, Match},
};

/// Whether a key word under a mask has a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct WordTest {
    /// From 0 to 7.
    pub(super) word: usize,
    pub(super) mask: u64,
    pub(super) value: u64,
}

impl WordTest {
    #[inline(always)]
    pub(super) fn test<R: KeyReader>(&self, r: &mut R) -> bool {
        // Said once more to the compiler, which then does not check it for every rule.
        r.equals(Field::word(self.word % 8), self.mask, self.value)
    }

    pub(super) fn possible<R: KeyReader>(&self, r: &R) -> bool {
        r.possible(Field::word(self.word), self.mask, self.value)
    }
}

/// One compiled [`Match`].
#[derive(Debug)]
pub(crate) struct Matcher(Rest);

impl Matcher {
    pub(crate) fn new(matches: &Match) -> Self {
        Self(Rest::new(matches, &word_tests(matches)))
    }

    #[inline]
    pub(crate) fn test<R: KeyReader>(&self, r: &mut R) -> bool {
        self.0.possible(r) && self.0.test(r)
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }
}

/// Comparisons that stand apart from a rule's first ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Rest {
    words: Arc<[WordTest]>,
    /// Shape bits of which one must be set; zero when there is no such need.
    any_shape: u64,
    src_ports: Arc<[RangeInclusive<u16>]>,
    dst_ports: Arc<[RangeInclusive<u16>]>,
}

impl Rest {
    /// `words`, and what of the match is not among [`word_tests`].
    pub(super) fn new(matches: &Match, words: &[WordTest]) -> Self {
        let ranges = |ports: &[RangeInclusive<u16>]| match ports {
            [ports] if is_prefix(ports) => Arc::default(),
            ports => ports.into(),
        };
        Self {
            words: words.into(),
            any_shape: required_any(matches),
            src_ports: ranges(&matches.src_ports),
            dst_ports: ranges(&matches.dst_ports),
        }
    }

    #[inline]
    pub(super) fn test<R: KeyReader>(&self, r: &mut R) -> bool {
        (self.any_shape == 0 || r.test(Field::SHAPE, self.any_shape, |bits| bits != 0))
            && self.words.iter().all(|test| test.test(r))
            && in_ranges(r, Field::L4_SRC, &self.src_ports)
            && in_ranges(r, Field::L4_DST, &self.dst_ports)
    }

    pub(super) fn possible<R: KeyReader>(&self, r: &R) -> bool {
        self.words.iter().all(|test| test.possible(r))
    }

    /// The destination ports, where their common bits do not tell them.
    pub(super) fn dst_ports(&self) -> &[RangeInclusive<u16>] {
        &self.dst_ports
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.words) + size_of_val(&*self.src_ports) + size_of_val(&*self.dst_ports)
    }
}

/// The comparisons of whole words that a match needs.
pub(super) fn word_tests(matches: &Match) -> Vec<WordTest> {
    let (mask, value) = required_bits(matches);
    (0..mask.0.len())
        .filter(|&word| mask.0[word] != 0)
        .map(|word| WordTest {
            word,
            mask: mask.0[word],
            value: value.0[word],
        })
        .collect()
}

/// The bits that a frame must have, and their values.
#[derive(Default)]
struct Required {
    mask: FlowKey,
    value: FlowKey,
}

impl Required {
    fn need(&mut self, field: Field, bits: u64, wanted: u64) {
        let mask = self.mask.get(field) | bits;
        let value = self.value.get(field) | (wanted & bits);
        self.mask.set(field, mask);
        self.value.set(field, value);
    }

    fn need_shape(&mut self, bits: u64) {
        self.need(Field::SHAPE, bits, bits);
    }

    /// An address within a prefix, in the words `high` and `low`.
    fn need_net(&mut self, net: IpNet, high: Field, low: Field) {
        match net {
            IpNet::V4(net) => {
                let (bits, mask) = (u32::from(net.network()), u32::from(net.netmask()));
                self.need_shape(shape::IPV4);
                self.need(low, mask.into(), bits.into());
            }
            IpNet::V6(net) => {
                let (bits, mask) = (u128::from(net.network()), u128::from(net.netmask()));
                self.need_shape(shape::IPV6);
                self.need(high, (mask >> 64) as u64, (bits >> 64) as u64);
                self.need(low, mask as u64, bits as u64);
            }
        }
    }

    /// A port in the ranges: the bits that all ports of a range share. A range that these bits do
    /// not tell whole stays with the ranges.
    fn need_ports(&mut self, field: Field, ports: &[RangeInclusive<u16>]) {
        if !ports.is_empty() {
            self.need_shape(shape::L4);
        }
        if let [ports] = ports {
            let (mask, value) = common_bits(ports);
            self.need(field, mask.into(), value.into());
        }
    }
}

pub(super) fn required_bits(matches: &Match) -> (FlowKey, FlowKey) {
    let mut required = Required::default();
    if let Some(mac) = matches.eth_src {
        required.need(Field::ETH_SRC, mac.mask.to_u64(), mac.address.to_u64());
    }
    if let Some(mac) = matches.eth_dst {
        required.need(Field::ETH_DST, mac.mask.to_u64(), mac.address.to_u64());
    }
    if let Some(ethertype) = matches.ethertype {
        required.need(Field::ETHERTYPE, Field::ETHERTYPE.ones(), ethertype.into());
    }
    if let Some(vlan) = matches.vlan {
        required.need_shape(shape::TAGGED);
        required.need(Field::VLAN_VID, Field::VLAN_VID.ones(), vlan.get().into());
    }
    if let Some(net) = matches.src {
        required.need_net(net, Field::IP_SRC_HIGH, Field::IP_SRC_LOW);
    }
    if let Some(net) = matches.dst {
        required.need_net(net, Field::IP_DST_HIGH, Field::IP_DST_LOW);
    }
    if let Some(protocol) = matches.protocol {
        required.need(Field::PROTOCOL, Field::PROTOCOL.ones(), protocol.into());
    }
    required.need_ports(Field::L4_SRC, &matches.src_ports);
    required.need_ports(Field::L4_DST, &matches.dst_ports);
    if let Some(icmp) = matches.icmp {
        required.need_shape(shape::L4);
        required.need(Field::L4_SRC, ICMP_TYPE, u64::from(icmp.kind) << 8);
        if let Some(code) = icmp.code {
            required.need(Field::L4_SRC, 0xff, code.into());
        }
    }
    if let Some(flags) = matches.tcp_flags {
        required.need_shape(shape::L4);
        required.need(Field::TCP_FLAGS, flags.mask.into(), flags.set.into());
    }
    let either = shape::FIRST_FRAGMENT | shape::LATER_FRAGMENT;
    match matches.fragment {
        Some(FragmentMatch::First) => required.need_shape(shape::FIRST_FRAGMENT),
        Some(FragmentMatch::Later) => required.need_shape(shape::LATER_FRAGMENT),
        Some(FragmentMatch::No) => required.need(Field::SHAPE, either, 0),
        Some(FragmentMatch::Any) | None => {}
    }
    (required.mask, required.value)
}

/// Shape bits of which a frame must have one; zero when there is no such need.
pub(super) fn required_any(matches: &Match) -> u64 {
    match matches.fragment {
        // Only IP has fragments.
        Some(FragmentMatch::Any) => shape::FIRST_FRAGMENT | shape::LATER_FRAGMENT,
        Some(FragmentMatch::No) => shape::IPV4 | shape::IPV6,
        // Addresses say which of the two.
        _ if matches.src.or(matches.dst).is_some() => 0,
        _ if matches.protocol.is_some() => shape::IPV4 | shape::IPV6,
        _ => 0,
    }
}

/// Whether the field is in one of the ranges; true when there are none.
#[inline]
fn in_ranges<R: KeyReader>(r: &mut R, field: Field, ranges: &[RangeInclusive<u16>]) -> bool {
    ranges.is_empty()
        || r.test(field, field.ones(), |port| {
            ranges.iter().any(|range| range.contains(&(port as u16)))
        })
}

/// The bits that all ports of a range have in common, as mask and value.
fn common_bits(ports: &RangeInclusive<u16>) -> (u16, u16) {
    let varying = ports.start() ^ ports.end();
    let mask = !u16::MAX.checked_shr(varying.leading_zeros()).unwrap_or(0);
    (mask, ports.start() & mask)
}

/// Whether a range holds every port that has the bits its ports have in common.
fn is_prefix(ports: &RangeInclusive<u16>) -> bool {
    let (mask, value) = common_bits(ports);
    *ports.start() == value && *ports.end() == value | !mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::{Exact, Tracer};
    use crate::{Class, key::protocol};

    fn to_ports(ports: RangeInclusive<u16>) -> Match {
        Match {
            protocol: Some(protocol::UDP),
            dst_ports: vec![ports],
            ..Match::default()
        }
    }

    #[test]
    fn a_port_range_holds_exactly_its_ports() {
        let mut key = FlowKey::default();
        key.set(Field::PROTOCOL, protocol::UDP.into());
        key.set(Field::SHAPE, shape::IPV4 | shape::L4);
        for first in 0..18 {
            for last in first..18 {
                let matcher = Matcher::new(&to_ports(first..=last));
                for port in 0..20 {
                    key.set(Field::L4_DST, port.into());
                    let inside = (first..=last).contains(&port);
                    assert_eq!(
                        matcher.test(&mut Exact(&key)),
                        inside,
                        "{first} {last} {port}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_range_that_shares_a_prefix_reads_only_the_prefix() {
        let mask_of = |ports| {
            let mut tracer = Tracer::new(Class::Ipv4Udp);
            Matcher::new(&to_ports(ports)).test(&mut tracer);
            tracer.mask.get(Field::L4_DST)
        };
        assert_eq!(mask_of(1024..=2047), 0xfc00);
        assert_eq!(mask_of(0..=65535), 0);
        assert_eq!(mask_of(53..=53), 0xffff);
        assert_eq!(mask_of(1025..=2047), 0xffff);
    }
}
