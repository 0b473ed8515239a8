//! Headers that find the weak spots of a rule list: inside rules, at their corners, and with
//! fields of different rules.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use policy::{
    Field, FlowKey,
    key::{ethertype, protocol, shape},
    rule::{FragmentMatch, Match, Rule},
};

/// Where a header lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anywhere in one rule.
    Inside,
    /// At the ends of one rule's ranges and prefixes, or one beyond them.
    Corner,
    /// Each field in another rule.
    Mixed,
}

/// A number below another one, at random.
pub type Below<'a> = &'a mut dyn FnMut(u64) -> u64;

/// A key as the parser makes it; its numbers come from `below`. `rules` is not empty.
pub fn header(rules: &[Rule], kind: Kind, below: Below<'_>) -> FlowKey {
    let mut any = || &rules[below(rules.len() as u64) as usize].matches;
    let one = any();
    let of: [&Match; 5] = match kind {
        Kind::Mixed => std::array::from_fn(|_| any()),
        Kind::Inside | Kind::Corner => [one; 5],
    };
    draw(of, kind == Kind::Corner, below)
}

/// Source, destination, source port, the rest of L4, and the rest come from a match each.
fn draw(of: [&Match; 5], corner: bool, below: Below<'_>) -> FlowKey {
    let [src, dst, src_port, l4, link] = of;
    let mut key = FlowKey::default();
    let mac = |mac: Option<policy::rule::MacMatch>, below: Below<'_>| {
        let random = below(4);
        mac.map_or(random, |mac| {
            mac.address.to_u64() | random & !mac.mask.to_u64()
        })
    };
    key.set(Field::ETH_SRC, mac(link.eth_src, below));
    key.set(Field::ETH_DST, mac(link.eth_dst, below));
    let mut shape = 0;
    if let Some(vlan) = link.vlan {
        key.set(Field::VLAN_TCI, u64::from(vlan.get()));
        shape |= shape::TAGGED;
    }
    let ipv6 = match (src.src.or(src.dst), l4.protocol) {
        (Some(net), _) => matches!(net, IpNet::V6(_)),
        (None, Some(protocol)) => protocol == protocol::ICMPV6 || below(2) == 0,
        (None, None) => match link.ethertype {
            Some(ethertype) if !matches!(ethertype, ethertype::IPV4 | ethertype::IPV6) => {
                key.set(Field::ETHERTYPE, ethertype.into());
                key.set(Field::SHAPE, shape);
                return key;
            }
            ethertype => ethertype == Some(ethertype::IPV6),
        },
    };
    let ethertypes = [ethertype::IPV4, ethertype::IPV6];
    key.set(Field::ETHERTYPE, ethertypes[usize::from(ipv6)].into());
    shape |= [shape::IPV4, shape::IPV6][usize::from(ipv6)];
    for (net, high, low) in [
        (src.src, Field::IP_SRC_HIGH, Field::IP_SRC_LOW),
        (dst.dst, Field::IP_DST_HIGH, Field::IP_DST_LOW),
    ] {
        let address = address(net, ipv6, corner, below);
        key.set(high, (address >> 64) as u64);
        key.set(low, address as u64);
    }
    let protocols = [protocol::TCP, protocol::UDP, protocol::ICMP, 47];
    let protocol = l4
        .protocol
        .unwrap_or_else(|| protocols[below(protocols.len() as u64) as usize]);
    key.set(Field::PROTOCOL, protocol.into());
    let later = shape::LATER_FRAGMENT;
    shape |= match link.fragment {
        Some(FragmentMatch::First) => shape::FIRST_FRAGMENT,
        Some(FragmentMatch::Later) => later,
        Some(FragmentMatch::Any) => [shape::FIRST_FRAGMENT, later][below(2) as usize],
        Some(FragmentMatch::No) | None => 0,
    };
    if shape & later == 0 {
        shape |= draw_l4(&mut key, protocol, src_port, l4, corner, below);
    }
    key.set(Field::SHAPE, shape);
    key
}

/// Sets the L4 fields and says so.
fn draw_l4(
    key: &mut FlowKey,
    protocol: u8,
    src_port: &Match,
    l4: &Match,
    corner: bool,
    below: Below<'_>,
) -> u64 {
    let ipv6 = u64::from(ethertype::IPV6) == key.get(Field::ETHERTYPE);
    match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            key.set(Field::L4_SRC, port(&src_port.src_ports, corner, below));
            key.set(Field::L4_DST, port(&l4.dst_ports, corner, below));
            if protocol == protocol::TCP {
                let random = below(64);
                let flags = l4.tcp_flags.map_or(random, |flags| {
                    u64::from(flags.set) | random & !u64::from(flags.mask)
                });
                key.set(Field::TCP_FLAGS, flags);
            }
        }
        // Each within its own family; elsewhere it is a protocol like others.
        protocol::ICMP | protocol::ICMPV6 if (protocol == protocol::ICMPV6) == ipv6 => {
            let random = below(1 << 16);
            let icmp = l4.icmp.map_or(random, |icmp| {
                u64::from(icmp.kind) << 8 | icmp.code.map_or(random & 0xff, u64::from)
            });
            key.set(Field::L4_SRC, icmp);
        }
        _ => return 0,
    }
    shape::L4
}

fn address(net: Option<IpNet>, ipv6: bool, corner: bool, below: Below<'_>) -> u128 {
    let random = u128::from(below(u64::MAX)) << 64 | u128::from(below(u64::MAX));
    let (first, last) = match net {
        Some(IpNet::V4(net)) if !ipv6 => {
            let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
            (u128::from(first), u128::from(last))
        }
        Some(IpNet::V6(net)) if ipv6 => (net.network().into(), net.broadcast().into()),
        _ => (0, if ipv6 { u128::MAX } else { u32::MAX.into() }),
    };
    let all = if ipv6 { u128::MAX } else { u32::MAX.into() };
    if corner {
        let corners = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
        corners[below(4) as usize] & all
    } else {
        let size = last - first;
        first + size.checked_add(1).map_or(random, |size| random % size)
    }
}

fn port(ranges: &[RangeInclusive<u16>], corner: bool, below: Below<'_>) -> u64 {
    if ranges.is_empty() {
        return below(1 << 16);
    }
    let range = &ranges[below(ranges.len() as u64) as usize];
    let (first, last) = (*range.start(), *range.end());
    if corner {
        let corners = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
        corners[below(4) as usize].into()
    } else {
        u64::from(first) + below(u64::from(last - first) + 1)
    }
}
