//! The classifier agrees with a plain reading of the rules over what the frame was meant to be.

mod common;

use common::{Fragment, L3, L4, Spec, any_rules, any_spec};
use ipnet::IpNet;
use policy::{
    PortId,
    acl::Classifier,
    reader::Exact,
    rule::{FragmentMatch, Match},
};
use proptest::prelude::*;
use std::{net::IpAddr, ops::RangeInclusive};

/// What of a frame is IP.
struct Ip<'a> {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    fragment: Fragment,
    l4: Option<&'a L4>,
}

fn ip_of(spec: &Spec) -> Option<Ip<'_>> {
    let (src, dst, fragment, l4, ipv6): (IpAddr, IpAddr, _, _, _) = match &spec.l3 {
        _ if spec.nested => return None,
        L3::V4 {
            src,
            dst,
            fragment,
            l4,
            ..
        } => ((*src).into(), (*dst).into(), *fragment, l4, false),
        L3::V6 {
            src,
            dst,
            fragment,
            l4,
            ..
        } => ((*src).into(), (*dst).into(), *fragment, l4, true),
        _ => return None,
    };
    Some(Ip {
        src,
        dst,
        protocol: l4.protocol(ipv6),
        fragment,
        l4: Some(l4).filter(|_| fragment != Fragment::Later),
    })
}

fn matches(wanted: &Match, spec: &Spec) -> bool {
    let masked = |mac: policy::Mac, mask: policy::Mac| mac.to_u64() & mask.to_u64();
    let link = wanted
        .eth_src
        .is_none_or(|m| masked(spec.src, m.mask) == m.address.to_u64())
        && wanted
            .eth_dst
            .is_none_or(|m| masked(spec.dst, m.mask) == m.address.to_u64())
        && wanted.ethertype.is_none_or(|e| e == spec.ethertype())
        && wanted
            .vlan
            .is_none_or(|v| spec.tci.is_some_and(|tci| tci & 0xfff == v.get()));
    let asks_ip = wanted.src.is_some()
        || wanted.dst.is_some()
        || wanted.protocol.is_some()
        || wanted.fragment.is_some();
    if !asks_ip {
        return link;
    }
    link && ip_of(spec).is_some_and(|ip| matches_ip(wanted, &ip))
}

fn matches_ip(wanted: &Match, ip: &Ip<'_>) -> bool {
    let within = |net: Option<IpNet>, address: IpAddr| net.is_none_or(|n| n.contains(&address));
    let fragment = match wanted.fragment {
        None => true,
        Some(FragmentMatch::No) => ip.fragment == Fragment::No,
        Some(FragmentMatch::Any) => ip.fragment != Fragment::No,
        Some(FragmentMatch::First) => ip.fragment == Fragment::First,
        Some(FragmentMatch::Later) => ip.fragment == Fragment::Later,
    };
    within(wanted.src, ip.src)
        && within(wanted.dst, ip.dst)
        && wanted.protocol.is_none_or(|p| p == ip.protocol)
        && fragment
        && matches_l4(wanted, ip.l4)
}

fn matches_l4(wanted: &Match, l4: Option<&L4>) -> bool {
    let any = |ranges: &[RangeInclusive<u16>], port: u16| {
        ranges.is_empty() || ranges.iter().any(|range| range.contains(&port))
    };
    let asks_ports = !(wanted.src_ports.is_empty() && wanted.dst_ports.is_empty());
    let ports = match l4 {
        Some(L4::Tcp(src, dst, _) | L4::Udp(src, dst) | L4::Sctp(src, dst)) => {
            any(&wanted.src_ports, *src) && any(&wanted.dst_ports, *dst)
        }
        _ => !asks_ports,
    };
    let flags = wanted.tcp_flags.is_none_or(|wanted| match l4 {
        Some(L4::Tcp(_, _, flags)) => flags & wanted.mask == wanted.set,
        _ => false,
    });
    let icmp = wanted.icmp.is_none_or(|wanted| match l4 {
        Some(L4::Icmp(kind, code)) => {
            *kind == wanted.kind && wanted.code.is_none_or(|wanted| wanted == *code)
        }
        _ => false,
    });
    ports && flags && icmp
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_first_rule_that_matches_decides(
        rules in any_rules(1, 24),
        specs in proptest::collection::vec(any_spec(), 40),
    ) {
        let classifier = Classifier::compile(rules.clone().into());
        for spec in specs {
            let (_, parsed) = spec.parse(PortId(3));
            let expected = rules.iter().find(|rule| matches(&rule.matches, &spec));
            prop_assert_eq!(
                classifier.decide(&mut Exact(&parsed.key)),
                expected.map(|rule| (rule.action, rule.id)),
                "{:?} {:?}", spec, parsed
            );
            for rule in rules.iter() {
                prop_assert_eq!(
                    rule.matches.test(&mut Exact(&parsed.key)),
                    matches(&rule.matches, &spec),
                    "{} {:?}", rule, spec
                );
            }
        }
    }
}
