//! Anti-spoofing, case by case: what a guest may claim to be.

mod common;

use std::net::{Ipv4Addr, Ipv6Addr};

use common::{Fragment, L3, L4, Spec, ipv4_packet, ipv6_packet, mac, vnic};
use policy::{
    DropReason, Mac, NeighborClaim, PortId,
    model::{Action, SenderChecks},
    reader::Exact,
    sender::{SenderPolicy, link_local_address},
};

/// What the vNIC of `common::vnic` with address `mac(1)` is told of a frame.
fn check_with(checks: SenderChecks, spec: &Spec) -> Result<(), DropReason> {
    let mut vnic = vnic(1, Action::Allow);
    vnic.checks = checks;
    let (frame, parsed) = spec.parse(PortId(1));
    let claim = NeighborClaim::read(&frame, &parsed);
    SenderPolicy::compile(&vnic)
        .check(&mut Exact(&parsed.key), claim.as_ref())
        .map_err(|denial| denial.reason)
}

fn check(l3: L3) -> Result<(), DropReason> {
    check_with(SenderChecks::ALL, &Spec::new(l3))
}

const OWN_LINK_LOCAL: &str = "fe80::ff:fe00:1";

#[test]
fn the_ethernet_source_is_the_vnics() {
    let mut spec = Spec::new(L3::Other(0x88cc));
    assert_eq!(check_with(SenderChecks::ALL, &spec), Ok(()));
    spec.src = mac(2);
    let spoofed = Err(DropReason::SpoofedMac);
    assert_eq!(check_with(SenderChecks::ALL, &spec), spoofed);
    assert_eq!(check_with(SenderChecks::NONE, &spec), Ok(()));
}

#[test]
fn the_ipv4_source_is_own_or_a_dhcp_clients() {
    let spoofed = Err(DropReason::SpoofedIpv4);
    for (source, l4, expected) in [
        ("10.0.0.1", L4::Udp(1024, 80), Ok(())),
        ("10.0.0.255", L4::Icmp(8, 0), Ok(())),
        ("10.0.1.1", L4::Udp(1024, 80), spoofed),
        ("255.255.255.255", L4::Udp(1024, 80), spoofed),
        ("0.0.0.0", L4::Udp(68, 67), Ok(())),
        ("0.0.0.0", L4::Udp(67, 68), spoofed),
        ("0.0.0.0", L4::Tcp(68, 67, 2), spoofed),
        ("0.0.0.0", L4::Sctp(68, 67), spoofed),
        ("0.0.0.0", L4::Icmp(8, 0), spoofed),
        ("0.0.0.1", L4::Udp(68, 67), spoofed),
        ("10.0.0.1", L4::Other(47), Ok(())),
    ] {
        let packet = ipv4_packet(source, "10.0.0.9", l4);
        assert_eq!(check(packet.clone()), expected, "{source}");
        let unchecked = SenderChecks {
            ipv4: false,
            ..SenderChecks::ALL
        };
        assert_eq!(check_with(unchecked, &Spec::new(packet)), Ok(()));
    }
    let later = L3::V4 {
        src: Ipv4Addr::UNSPECIFIED,
        dst: Ipv4Addr::BROADCAST,
        tos: 0,
        fragment: Fragment::Later,
        options: false,
        l4: L4::Udp(68, 67),
    };
    assert_eq!(check(later), spoofed);
}

#[test]
fn the_ipv6_source_is_own_or_a_newcomers() {
    let spoofed = Err(DropReason::SpoofedIpv6);
    for (source, l4, expected) in [
        ("2001:db8::1", L4::Udp(1024, 80), Ok(())),
        ("2001:db8:0:1::1", L4::Udp(1024, 80), spoofed),
        (OWN_LINK_LOCAL, L4::Udp(546, 547), Ok(())),
        ("fe80::ff:fe00:2", L4::Udp(546, 547), spoofed),
        ("::", L4::Udp(546, 547), spoofed),
        ("::", L4::Icmp(143, 0), Ok(())),
        ("::", L4::Icmp(131, 0), Ok(())),
        ("::", L4::Icmp(128, 0), spoofed),
        ("::", L4::IcmpBody(133, vec![0; 4]), Ok(())),
        ("::", L4::Tcp(0x8f00, 80, 2), spoofed),
    ] {
        let packet = ipv6_packet(source, "ff02::2", l4);
        assert_eq!(check(packet), expected, "{source}");
    }
}

#[test]
fn the_link_local_address_is_formed_as_rfc_4291_says() {
    let mac: Mac = "34:56:78:9a:bc:de".parse().expect("valid");
    let expected: Ipv6Addr = "fe80::3656:78ff:fe9a:bcde".parse().expect("valid");
    assert_eq!(link_local_address(mac), expected);
}

fn arp(claimed: Mac, sender: &str) -> L3 {
    L3::Arp {
        operation: 1,
        mac: claimed,
        sender: sender.parse().expect("an address"),
        target: Ipv4Addr::new(10, 0, 0, 9),
    }
}

#[test]
fn arp_claims_are_own_or_probes() {
    let spoofed = Err(DropReason::SpoofedArp);
    for (claimed, sender, expected) in [
        (mac(1), "10.0.0.1", Ok(())),
        (mac(1), "0.0.0.0", Ok(())),
        (mac(1), "10.0.1.1", spoofed),
        (mac(2), "10.0.0.1", spoofed),
        (mac(2), "0.0.0.0", spoofed),
    ] {
        assert_eq!(check(arp(claimed, sender)), expected, "{claimed} {sender}");
    }
}

#[test]
fn arp_that_cannot_be_read_is_refused() {
    let policy = SenderPolicy::compile(&vnic(1, Action::Allow));
    let (mut frame, _) = Spec::new(arp(mac(1), "10.0.0.1")).bytes();
    frame[14 + 5] = 16;
    let parsed = policy::parse(&frame, frame.len(), None, PortId(1));
    assert_eq!(NeighborClaim::read(&frame, &parsed), None);
    let denial = policy
        .check(&mut Exact(&parsed.key), None)
        .expect_err("no claim");
    assert_eq!(denial.reason, DropReason::SpoofedArp);
}

/// Neighbour discovery with a target and link-layer address options.
fn nd(source: &str, kind: u8, target: &str, options: &[&[u8]]) -> L3 {
    let target: Ipv6Addr = target.parse().expect("an address");
    let body = [&[0; 4], &target.octets()[..], &options.concat()].concat();
    ipv6_packet(source, "ff02::1", L4::IcmpBody(kind, body))
}

#[test]
fn neighbour_discovery_claims_are_own() {
    const OWN: &[u8] = &[1, 1, 2, 0, 0, 0, 0, 1];
    const OWN_TARGET: &[u8] = &[2, 1, 2, 0, 0, 0, 0, 1];
    const OTHER: &[u8] = &[2, 1, 2, 0, 0, 0, 0, 2];
    const NONCE: &[u8] = &[14, 1, 9, 9, 9, 9, 9, 9];
    const ENDLESS: &[u8] = &[14, 0, 9, 9, 9, 9, 9, 9];
    const LONG: &[u8] = &[2, 2, 2, 0, 0, 0, 0, 1];
    let (own, other) = ("2001:db8::1", "2001:db8:1::1");
    let spoofed = Err(DropReason::SpoofedNd);
    for (what, source, kind, target, options, expected) in [
        ("advertisement", own, 136, own, &[OWN_TARGET][..], Ok(())),
        ("of the link-local", own, 136, OWN_LINK_LOCAL, &[], Ok(())),
        ("of another's", own, 136, other, &[], spoofed),
        ("to another address", own, 136, own, &[OTHER], spoofed),
        ("to both", own, 136, own, &[OWN_TARGET, OTHER], spoofed),
        ("solicitation", own, 135, other, &[OWN], Ok(())),
        ("for another", own, 135, other, &[OTHER], spoofed),
        ("other options", own, 135, other, &[NONCE, OWN], Ok(())),
        ("hidden", own, 135, other, &[NONCE, OTHER], spoofed),
        ("endless option", own, 135, other, &[ENDLESS, OWN], spoofed),
        ("cut off option", own, 135, other, &[LONG], spoofed),
        ("stray byte", own, 135, other, &[OWN, &[1]], spoofed),
        ("detection", "::", 135, own, &[NONCE], Ok(())),
        ("of another's", "::", 135, other, &[], spoofed),
        // Whether it may be a router is asked elsewhere (`policy::rogue`).
        ("router", own, 134, own, &[], Ok(())),
        ("redirect", own, 137, own, &[], Ok(())),
    ] {
        assert_eq!(check(nd(source, kind, target, options)), expected, "{what}");
    }
    let unchecked = SenderChecks {
        nd: false,
        ..SenderChecks::ALL
    };
    let spec = Spec::new(nd(own, 134, own, &[]));
    assert_eq!(check_with(unchecked, &spec), Ok(()));
}

#[test]
fn fragmented_neighbour_discovery_is_refused() {
    let mut packet = nd("2001:db8::1", 136, "2001:db8::1", &[]);
    assert_eq!(check(packet.clone()), Ok(()));
    if let L3::V6 { fragment, .. } = &mut packet {
        *fragment = Fragment::First;
    }
    assert_eq!(check(packet), Err(DropReason::SpoofedNd));
}

#[test]
fn malformed_frames_and_nested_tags_are_refused_whatever_the_checks() {
    let mut nested = Spec::new(L3::Other(0x0800));
    nested.tci = Some(5);
    nested.nested = true;
    let refused = check_with(SenderChecks::NONE, &nested);
    assert_eq!(refused, Err(DropReason::VlanNested));
    let malformed = Spec::new(L3::Other(0x86dd));
    let refused = check_with(SenderChecks::NONE, &malformed);
    assert_eq!(refused, Err(DropReason::Malformed));
}
