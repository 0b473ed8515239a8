//! How decisions read the key: exactly, or traced.
//!
//! A decision is written once, generic over [`KeyReader`]. With [`Exact`] it judges a frame.
//! With [`Tracer`] the same code is run at compile time to record every bit it could read for
//! frames of one class; the union is the footprint mask.
//!
//! What must hold for the trace to be complete: **further reads follow only from `true`.** A
//! decision may stop at a test that fails, never at one that succeeds, unless
//! [`KeyReader::TRACING`] is checked. The tracer answers `true` to all it does not know.

use crate::key::{Class, Field, FlowKey, ICMP_TYPE, ethertype, protocol, shape};

/// Reads key bits on behalf of a decision.
pub trait KeyReader {
    /// True when every path must be visited, whatever the answers.
    const TRACING: bool;

    /// Whether `accept` holds for `field & mask` (both at bit 0). The decision now depends on
    /// those bits.
    fn test(&mut self, field: Field, mask: u64, accept: impl FnOnce(u64) -> bool) -> bool;

    /// Whether `field & mask == value`.
    #[inline]
    fn equals(&mut self, field: Field, mask: u64, value: u64) -> bool {
        self.test(field, mask, |bits| bits == value)
    }

    /// False when `field & mask == value` holds for no frame at hand, as far as that is known
    /// without reading. A conjunction with such a part may be skipped whole.
    #[inline]
    fn possible(&self, _field: Field, _mask: u64, _value: u64) -> bool {
        true
    }
}

/// Reads a frame's key.
#[derive(Debug)]
pub struct Exact<'a>(pub &'a FlowKey);

impl KeyReader for Exact<'_> {
    const TRACING: bool = false;

    #[inline]
    fn test(&mut self, field: Field, mask: u64, accept: impl FnOnce(u64) -> bool) -> bool {
        accept(self.0.get(field) & mask)
    }
}

/// Records the bits that a decision could read for frames of one class.
#[derive(Debug)]
pub struct Tracer {
    /// Bits whose value is the same for every frame of the class, and that value.
    known: FlowKey,
    value: FlowKey,
    /// What was read so far, with the bits that every mask contains.
    pub mask: FlowKey,
}

impl Tracer {
    /// A tracer for `class`, whose mask holds the bits that tell classes apart.
    pub fn new(class: Class) -> Self {
        let (mut known, mut value) = (FlowKey::default(), FlowKey::default());
        let mut know = |field: Field, mask: u64, bits: u64| {
            let old = (known.get(field), value.get(field));
            known.set(field, old.0 | mask);
            value.set(field, old.1 | bits);
        };
        if let Some(ethertype) = class_ethertype(class) {
            know(Field::ETHERTYPE, Field::ETHERTYPE.ones(), ethertype);
        }
        let (protocol_mask, protocol_bits) = class_protocol(class);
        know(Field::PROTOCOL, protocol_mask, protocol_bits);
        let (shape_mask, shape_bits) = class_shape(class);
        know(Field::SHAPE, shape_mask, shape_bits);
        Self {
            known,
            value,
            mask: class_mask(class),
        }
    }
}

/// The bits from which the parser chose the class: in every mask.
fn class_mask(class: Class) -> FlowKey {
    let mut mask = FlowKey::default();
    for field in [
        Field::INGRESS,
        Field::ETHERTYPE,
        Field::PROTOCOL,
        Field::SHAPE,
    ] {
        mask.set(field, field.ones());
    }
    if matches!(class, Class::Ipv6Icmp | Class::Ipv6Neighbor) {
        mask.set(Field::L4_SRC, ICMP_TYPE);
    }
    mask
}

/// The ethertype, where all frames of the class have the same.
fn class_ethertype(class: Class) -> Option<u64> {
    match class {
        Class::Runt => Some(0),
        // Any, and any but those of IPv4, IPv6 and ARP.
        Class::Malformed | Class::NonIp => None,
        Class::Arp => Some(ethertype::ARP.into()),
        Class::Ipv4Tcp
        | Class::Ipv4Udp
        | Class::Ipv4Icmp
        | Class::Ipv4Other
        | Class::Ipv4Fragment => Some(ethertype::IPV4.into()),
        Class::Ipv6Tcp
        | Class::Ipv6Udp
        | Class::Ipv6Icmp
        | Class::Ipv6Neighbor
        | Class::Ipv6Other
        | Class::Ipv6Fragment => Some(ethertype::IPV6.into()),
    }
}

/// The protocol bits that are the same for all frames of the class, and their values.
fn class_protocol(class: Class) -> (u64, u64) {
    const UDP: u64 = protocol::UDP as u64;
    const SCTP: u64 = protocol::SCTP as u64;
    match class {
        Class::Runt | Class::Malformed | Class::NonIp => (0xff, 0),
        Class::Ipv4Tcp | Class::Ipv6Tcp => (0xff, protocol::TCP.into()),
        // The bits in which the two agree are enough to tell them from TCP.
        Class::Ipv4Udp | Class::Ipv6Udp => (0xff & !(UDP ^ SCTP), UDP & SCTP),
        Class::Ipv4Icmp => (0xff, protocol::ICMP.into()),
        Class::Ipv6Icmp | Class::Ipv6Neighbor => (0xff, protocol::ICMPV6.into()),
        Class::Arp
        | Class::Ipv4Other
        | Class::Ipv4Fragment
        | Class::Ipv6Other
        | Class::Ipv6Fragment => (0, 0),
    }
}

/// The shape bits that are the same for all frames of the class, and their values.
fn class_shape(class: Class) -> (u64, u64) {
    let basic = shape::IPV4 | shape::IPV6 | shape::MALFORMED | shape::RUNT;
    let layers = basic | shape::L4 | shape::LATER_FRAGMENT;
    // What only IP has.
    let ip = layers | shape::FIRST_FRAGMENT | shape::OPTIONS;
    match class {
        Class::Runt => (ip | shape::TAGGED | shape::NESTED, shape::RUNT),
        Class::Malformed => (ip, shape::MALFORMED),
        Class::NonIp => (ip, 0),
        Class::Arp => (ip | shape::NESTED, 0),
        Class::Ipv4Tcp | Class::Ipv4Udp | Class::Ipv4Icmp => {
            (layers | shape::NESTED, shape::IPV4 | shape::L4)
        }
        Class::Ipv4Other => (layers | shape::NESTED, shape::IPV4),
        Class::Ipv4Fragment => (
            layers | shape::FIRST_FRAGMENT | shape::NESTED,
            shape::IPV4 | shape::LATER_FRAGMENT,
        ),
        Class::Ipv6Tcp | Class::Ipv6Udp | Class::Ipv6Icmp | Class::Ipv6Neighbor => {
            (layers | shape::NESTED, shape::IPV6 | shape::L4)
        }
        Class::Ipv6Other => (layers | shape::NESTED, shape::IPV6),
        Class::Ipv6Fragment => (
            layers | shape::FIRST_FRAGMENT | shape::NESTED | shape::OPTIONS,
            shape::IPV6 | shape::LATER_FRAGMENT | shape::OPTIONS,
        ),
    }
}

impl KeyReader for Tracer {
    const TRACING: bool = true;

    fn test(&mut self, field: Field, mask: u64, accept: impl FnOnce(u64) -> bool) -> bool {
        let already = self.mask.get(field);
        self.mask.set(field, already | mask);
        let known = self.known.get(field) & mask == mask;
        !known || accept(self.value.get(field) & mask)
    }

    fn possible(&self, field: Field, mask: u64, value: u64) -> bool {
        (self.value.get(field) ^ value) & self.known.get(field) & mask == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracer_records_what_it_is_asked_and_follows_unknown_bits() {
        let mut tracer = Tracer::new(Class::Ipv4Tcp);
        assert!(tracer.equals(Field::L4_DST, 0xff00, 0x1200));
        assert!(tracer.equals(Field::L4_DST, 0x00f0, 0x0010));
        assert_eq!(tracer.mask.get(Field::L4_DST), 0xfff0);
        assert_eq!(tracer.mask.get(Field::L4_SRC), 0);
    }

    #[test]
    fn a_tracer_knows_what_the_class_fixes() {
        let mut tracer = Tracer::new(Class::Ipv4Tcp);
        assert!(tracer.equals(Field::PROTOCOL, 0xff, 6));
        assert!(!tracer.equals(Field::PROTOCOL, 0xff, 17));
        assert!(!tracer.equals(Field::ETHERTYPE, 0xffff, 0x86dd));
    }
}
