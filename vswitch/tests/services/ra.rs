//! Router advertisements: RFC 4861 §6.2.

use std::net::Ipv6Addr;

use policy::PortId;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        Icmpv6Packet, Icmpv6Repr, Ipv6Packet, NdiscPrefixInfoFlags, NdiscPrefixInformation,
        NdiscRepr, NdiscRouterFlags,
    },
};
use vswitch::services::{Destination, Verdict, plan::*};

use crate::{bed::*, neighbors::ndisc};

const EVERYBODY: Destination = Destination::Flood { except: None };
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const MINUTE_NS: u64 = 60 * SECOND_NS;

fn with(what: Option<Advertisements>) -> Plan {
    let mut plan = a_plan();
    plan.networks[0].advertisements = what;
    plan
}

/// What a frame says: the router's lifetime in seconds, its flags, and the prefix with its preferred lifetime.
fn said(frame: &[u8]) -> (u64, NdiscRouterFlags, NdiscPrefixInformation) {
    let ip = Ipv6Packet::new_checked(&frame[14..]).expect("IPv6");
    assert_eq!(
        (ip.src_addr(), ip.hop_limit()),
        (link_local(GATEWAY_MAC), 255)
    );
    let icmp = Icmpv6Packet::new_checked(ip.payload()).expect("ICMPv6");
    let sums = ChecksumCapabilities::default();
    let repr = Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &icmp, &sums);
    let Ok(Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
        flags,
        router_lifetime,
        lladdr,
        mtu,
        prefix_info: Some(prefix),
        ..
    })) = repr
    else {
        panic!("{repr:?}");
    };
    assert_eq!(lladdr.expect("said").as_bytes(), GATEWAY_MAC.0);
    assert_eq!(mtu, Some(1450));
    (router_lifetime.secs(), flags, prefix)
}

#[test]
fn advertisements_come_by_themselves_with_jitter() {
    let mut bed = Bed::new(with(Some(advertisements())));
    let sent = bed.wait(60 * MINUTE_NS);
    assert!(sent.iter().all(|(_, (to, _))| *to == EVERYBODY));
    let (lifetime_s, flags, prefix) = said(&sent[0].1.1);
    assert_eq!((lifetime_s, flags), (1800, NdiscRouterFlags::all()));
    assert_eq!(prefix.flags, NdiscPrefixInfoFlags::ON_LINK);
    assert_eq!(
        (prefix.prefix_len, prefix.valid_lifetime.secs()),
        (64, 7200)
    );
    assert_eq!(prefix.preferred_lifetime.secs(), 3600);
    let times: Vec<u64> = sent.iter().map(|(ns, _)| *ns).collect();
    let gaps: Vec<u64> = times.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(times[0], SECOND_NS);
    let (first, others) = gaps.split_at(3);
    assert!(first.iter().all(|gap| *gap <= 16 * SECOND_NS), "{first:?}");
    let bounds = 20 * SECOND_NS..=MINUTE_NS;
    assert!(others.iter().all(|gap| bounds.contains(gap)), "{others:?}");
    let distinct: std::collections::HashSet<&u64> = others.iter().collect();
    assert!(distinct.len() > others.len() / 2, "no jitter: {others:?}");
}

#[test]
fn a_solicitation_is_answered_to_its_port_alone() {
    let mut bed = Bed::new(with(Some(advertisements())));
    bed.wait(10 * MINUTE_NS);
    let solicit = |src| {
        ndisc(
            MAC,
            src,
            ALL_ROUTERS,
            &NdiscRepr::RouterSolicit { lladdr: None },
        )
    };
    for (src, dst) in [
        (link_local(MAC), link_local(MAC)),
        (Ipv6Addr::UNSPECIFIED, vswitch::services::nd::ALL_NODES),
    ] {
        let asked_ns = bed.now_ns;
        for _ in 0..3 {
            let said = bed.receive(PORT, &solicit(src));
            assert_eq!(said, (Verdict::Consumed, vec![]));
        }
        let sent = bed.wait(SECOND_NS / 2);
        let answers: Vec<_> = sent
            .iter()
            .filter(|(_, (to, _))| *to != EVERYBODY)
            .collect();
        let [(at_ns, (to, frame))] = answers[..] else {
            panic!("{} answers", answers.len());
        };
        assert_eq!(*to, Destination::Port(PORT));
        assert!(*at_ns <= asked_ns + SECOND_NS / 2);
        let ip = Ipv6Packet::new_checked(&frame[14..]).expect("IPv6");
        assert_eq!(ip.dst_addr(), dst);
        assert_eq!(said(frame).0, 1800);
    }
    let mut bed = Bed::new(with(None));
    assert_eq!(
        bed.receive(PortId(1), &solicit(link_local(MAC))).0,
        Verdict::Pass
    );
}

#[test]
fn hosts_are_told_when_the_switch_is_no_router_any_more() {
    for after in [with(None), Plan::default()] {
        let mut bed = Bed::new(with(Some(advertisements())));
        bed.wait(MINUTE_NS);
        let sent = bed.replace(after);
        let [(EVERYBODY, frame)] = &sent[..] else {
            panic!("{sent:?}");
        };
        let (lifetime_s, _, prefix) = said(frame);
        assert_eq!((lifetime_s, prefix.preferred_lifetime.secs()), (0, 0));
        assert!(bed.wait(10 * MINUTE_NS).is_empty());
    }
}

#[test]
fn a_prefix_that_is_taken_away_is_ended() {
    let mut bed = Bed::new(with(Some(advertisements())));
    bed.wait(10 * MINUTE_NS);
    let mut changed = advertisements();
    let old = changed.prefixes[0].net;
    changed.prefixes[0].net = "fd00:2::/64".parse().expect("valid");
    assert!(bed.replace(with(Some(changed))).is_empty());
    // The last prefix of an advertisement is the one that is read here.
    let sent = bed.wait(20 * SECOND_NS);
    let (_, _, prefix) = said(&sent[0].1.1);
    assert!(sent[0].0 <= bed.now_ns - 17 * SECOND_NS, "soon");
    assert_eq!(
        (prefix.prefix, prefix.preferred_lifetime.secs()),
        (old.addr(), 0)
    );
    bed.wait(3 * MINUTE_NS);
    let sent = bed.wait(3 * MINUTE_NS);
    assert_eq!(said(&sent[0].1.1).2.preferred_lifetime.secs(), 3600);
    // A plan that is the same changes nothing.
    let next_ns = bed.services.next_deadline_ns();
    let mut same = advertisements();
    same.prefixes[0].net = "fd00:2::/64".parse().expect("valid");
    assert!(bed.replace(with(Some(same))).is_empty());
    assert_eq!(bed.services.next_deadline_ns(), next_ns);
}
