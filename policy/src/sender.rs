//! Anti-spoofing: a vNIC sends only from addresses that are its own.
//!
//! In come a frame's key and, for ARP and neighbour discovery, the claim in its payload; out
//! goes nothing, or a denial. Own addresses are the vNIC's Ethernet address, its configured
//! prefixes, and the IPv6 link-local address formed from its Ethernet address. A guest that forms
//! its link-local address otherwise (RFC 7217) needs it, or `fe80::/64`, among its prefixes.
//!
//! Without an own address a guest may still ask for one:
//! - from 0.0.0.0: DHCP (UDP 68 to 67, RFC 2131) and ARP probes (RFC 5227);
//! - from `::`: router solicitations and duplicate address detection (RFC 4861, RFC 4862), the
//!   latter for own addresses only, and listener reports (RFC 2710, RFC 3810).
//!
//! Malformed frames and nested tags are refused whatever the checks: nothing in them can be judged.

use std::net::Ipv6Addr;

use crate::{
    Denial, DropReason, Mac,
    key::{Class, Field, ICMP_TYPE, ethertype, protocol, shape},
    model::{SenderChecks, Vnic},
    parse::{Parsed, is_neighbor_discovery},
    reader::KeyReader,
};

const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// What a frame's payload says of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighborClaim {
    /// ARP: the sender's addresses (RFC 826).
    Arp {
        /// Sender hardware address.
        mac: Mac,
        /// Sender protocol address.
        ip: u32,
    },
    /// Neighbour discovery (RFC 4861).
    Nd {
        /// The `ICMPv6` type, 133 to 137.
        kind: u8,
        /// The target of a neighbour solicitation or advertisement.
        target: Option<u128>,
        /// The source or target link-layer address option.
        link_address: Option<Mac>,
    },
}

impl NeighborClaim {
    /// Reads the claim of a frame of class `Arp` or `Ipv6Neighbor`. `None` for other classes and
    /// when there is none that can be read whole: ARP for anything but IPv4 on Ethernet, fragments
    /// (RFC 6980), options that are cut off, contradict each other or reach beyond `head`.
    pub fn read(head: &[u8], parsed: &Parsed) -> Option<Self> {
        match parsed.class {
            Class::Arp => read_arp(head, parsed),
            Class::Ipv6Neighbor if !parsed.key.has(shape::FIRST_FRAGMENT) => read_nd(head, parsed),
            _ => None,
        }
    }
}

fn read_arp(head: &[u8], parsed: &Parsed) -> Option<NeighborClaim> {
    let packet = head.get(usize::from(parsed.l3_offset)..)?;
    let packet = packet.first_chunk::<28>()?;
    // The parser leaves the operation zero when the addresses are not IPv4 on Ethernet.
    if parsed.key.get(Field::PROTOCOL) == 0 {
        return None;
    }
    let [.., m0, m1, m2, m3, m4, m5, i0, i1, i2, i3] = *packet.first_chunk::<18>()?;
    Some(NeighborClaim::Arp {
        mac: Mac([m0, m1, m2, m3, m4, m5]),
        ip: u32::from_be_bytes([i0, i1, i2, i3]),
    })
}

fn read_nd(head: &[u8], parsed: &Parsed) -> Option<NeighborClaim> {
    let ip = usize::from(parsed.l3_offset);
    let payload_len = head.get(ip + 4..)?.first_chunk::<2>()?;
    let end = ip + 40 + usize::from(u16::from_be_bytes(*payload_len));
    let message = head.get(usize::from(parsed.l4_offset)..end)?;
    let kind = *message.first()?;
    let (target, options) = match kind {
        ROUTER_SOLICITATION => (None, message.get(8..)?),
        NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT => {
            let target = message.get(8..)?.first_chunk::<16>()?;
            (Some(u128::from_be_bytes(*target)), message.get(24..)?)
        }
        // What only a router sends.
        _ => (None, [].as_slice()),
    };
    Some(NeighborClaim::Nd {
        kind,
        target,
        link_address: link_address(options)?,
    })
}

/// The link-layer address among neighbour discovery options (RFC 4861 §4.6); `None` when the
/// options cannot be read or name different addresses. Each option takes 8 bytes or more, which
/// bounds the walk.
#[allow(
    clippy::option_option,
    reason = "unreadable, absent and present are three answers"
)]
fn link_address(mut options: &[u8]) -> Option<Option<Mac>> {
    const SOURCE: u8 = 1;
    const TARGET: u8 = 2;

    let mut found = None;
    while let [kind, units, ..] = *options {
        if units == 0 {
            return None;
        }
        let (option, rest) = options.split_at_checked(usize::from(units) * 8)?;
        if matches!(kind, SOURCE | TARGET) {
            let &[_, 1, m0, m1, m2, m3, m4, m5] = option else {
                return None;
            };
            let mac = Mac([m0, m1, m2, m3, m4, m5]);
            if found.is_some_and(|other| other != mac) {
                return None;
            }
            found = Some(mac);
        }
        options = rest;
    }
    options.is_empty().then_some(found)
}

/// The compiled checks of a vNIC.
#[derive(Clone, Debug)]
pub struct SenderPolicy {
    checks: SenderChecks,
    mac: Mac,
    /// Mask and value.
    ipv4: Box<[(u32, u32)]>,
    ipv6: Box<[(u128, u128)]>,
}

impl SenderPolicy {
    /// Compiles a vNIC's checks.
    pub fn compile(vnic: &Vnic) -> Self {
        let ipv4 = vnic.ipv4.iter();
        let ipv6 = vnic.ipv6.iter();
        let link_local = (u128::MAX, u128::from(link_local_address(vnic.mac)));
        Self {
            checks: vnic.checks,
            mac: vnic.mac,
            ipv4: ipv4
                .map(|net| (net.netmask().into(), net.network().into()))
                .collect(),
            ipv6: ipv6
                .map(|net| (net.netmask().into(), net.network().into()))
                .chain([link_local])
                .collect(),
        }
    }

    /// Checks a frame's sender. `claim` is the frame's [`NeighborClaim`], for ARP and neighbour
    /// discovery; a frame of these without one is refused.
    ///
    /// # Errors
    /// `malformed`, `vlan_nested` or one of the `spoofed_` reasons.
    pub fn check<R: KeyReader>(
        &self,
        r: &mut R,
        claim: Option<&NeighborClaim>,
    ) -> Result<(), Denial> {
        let refuse = |reason| Err(Denial::new(reason));
        if has(r, shape::MALFORMED) && !R::TRACING {
            return refuse(DropReason::Malformed);
        }
        if has(r, shape::NESTED) && !R::TRACING {
            return refuse(DropReason::VlanNested);
        }
        let own_mac = Field::ETH_SRC.ones();
        if self.checks.mac && !r.equals(Field::ETH_SRC, own_mac, self.mac.to_u64()) {
            return refuse(DropReason::SpoofedMac);
        }
        if self.checks.ipv4 && has(r, shape::IPV4) && !self.ipv4_source_is_own(r) {
            return refuse(DropReason::SpoofedIpv4);
        }
        if self.checks.ipv6 && has(r, shape::IPV6) && !self.ipv6_source_is_own(r) {
            return refuse(DropReason::SpoofedIpv6);
        }
        if self.checks.arp && is_arp(r) && !R::TRACING && !self.arp_claim_is_own(claim) {
            return refuse(DropReason::SpoofedArp);
        }
        if self.checks.nd && is_nd(r) {
            let unspecified = r.equals(Field::IP_SRC_HIGH, u64::MAX, 0)
                && r.equals(Field::IP_SRC_LOW, u64::MAX, 0);
            if !R::TRACING && !self.nd_claim_is_own(unspecified, claim) {
                return refuse(DropReason::SpoofedNd);
            }
        }
        Ok(())
    }

    fn ipv4_source_is_own<R: KeyReader>(&self, r: &mut R) -> bool {
        let mut own = false;
        for &(mask, value) in &self.ipv4 {
            own |= r.equals(Field::IP_SRC_LOW, mask.into(), value.into());
            if own && !R::TRACING {
                return true;
            }
        }
        own | (r.equals(Field::IP_SRC_LOW, u32::MAX.into(), 0)
            && has(r, shape::L4)
            && r.equals(Field::PROTOCOL, 0xff, protocol::UDP.into())
            && r.equals(Field::L4_SRC, 0xffff, 68)
            && r.equals(Field::L4_DST, 0xffff, 67))
    }

    fn ipv6_source_is_own<R: KeyReader>(&self, r: &mut R) -> bool {
        let mut own = false;
        for &(mask, value) in &self.ipv6 {
            own |= r.equals(
                Field::IP_SRC_HIGH,
                (mask >> 64) as u64,
                (value >> 64) as u64,
            ) && r.equals(Field::IP_SRC_LOW, mask as u64, value as u64);
            if own && !R::TRACING {
                return true;
            }
        }
        own | (r.equals(Field::IP_SRC_HIGH, u64::MAX, 0)
            && r.equals(Field::IP_SRC_LOW, u64::MAX, 0)
            && has(r, shape::L4)
            && r.equals(Field::PROTOCOL, 0xff, protocol::ICMPV6.into())
            && r.test(Field::L4_SRC, ICMP_TYPE, |bits| {
                // Listener reports and done, solicitations, version 2 reports.
                matches!(bits >> 8, 131..=133 | 135 | 143)
            }))
    }

    fn arp_claim_is_own(&self, claim: Option<&NeighborClaim>) -> bool {
        let Some(&NeighborClaim::Arp { mac, ip }) = claim else {
            return false;
        };
        let own_ip = || self.ipv4.iter().any(|&(mask, value)| ip & mask == value);
        mac == self.mac && (ip == 0 || own_ip())
    }

    /// `unspecified`: the frame's source is `::`.
    fn nd_claim_is_own(&self, unspecified: bool, claim: Option<&NeighborClaim>) -> bool {
        let Some(&NeighborClaim::Nd {
            kind,
            target,
            link_address,
        }) = claim
        else {
            return false;
        };
        if link_address.is_some_and(|mac| mac != self.mac) {
            return false;
        }
        let own_target = || {
            let mut own = self.ipv6.iter();
            target.is_some_and(|ip| own.any(|&(mask, value)| ip & mask == value))
        };
        match kind {
            // From `::` it is duplicate address detection: the sender means to use the target.
            NEIGHBOR_SOLICITATION => !unspecified || own_target(),
            NEIGHBOR_ADVERTISEMENT => own_target(),
            // Solicitations are anybody's. Advertisements and redirects are a router's, and
            // `crate::rogue` looks at those.
            _ => true,
        }
    }
}

/// The link-local address formed from an Ethernet address (RFC 4291 appendix A).
pub fn link_local_address(mac: Mac) -> Ipv6Addr {
    let [m0, m1, m2, m3, m4, m5] = mac.0;
    let interface = u64::from_be_bytes([m0 ^ 2, m1, m2, 0xff, 0xfe, m3, m4, m5]);
    Ipv6Addr::from(0xfe80 << 112 | u128::from(interface))
}

/// Whether the frame is ARP or whole neighbour discovery, which pass a vNIC's default policy.
pub(crate) fn is_arp_or_nd<R: KeyReader>(r: &mut R) -> bool {
    is_arp(r) || (r.equals(Field::SHAPE, shape::FIRST_FRAGMENT, 0) && is_nd(r))
}

fn is_arp<R: KeyReader>(r: &mut R) -> bool {
    r.equals(Field::SHAPE, shape::MALFORMED | shape::NESTED, 0)
        && r.equals(Field::ETHERTYPE, 0xffff, ethertype::ARP.into())
}

fn is_nd<R: KeyReader>(r: &mut R) -> bool {
    has(r, shape::IPV6 | shape::L4)
        && r.equals(Field::PROTOCOL, 0xff, protocol::ICMPV6.into())
        && r.test(Field::L4_SRC, ICMP_TYPE, |bits| {
            is_neighbor_discovery((bits >> 8) as u8)
        })
}

fn has<R: KeyReader>(r: &mut R, bits: u64) -> bool {
    r.equals(Field::SHAPE, bits, bits)
}
