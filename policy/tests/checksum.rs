//! Checksums that were left to hardware are found, complete ones are not mistaken for them in a
//! way that changes a frame.

mod common;

use common::{L3, L4, Spec, any_spec, ipv4_packet, ipv6_packet};
use policy::{PortId, parse, partial_checksum};
use proptest::prelude::*;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol,
        IpRepr, UdpPacket, UdpRepr, checksum,
    },
};

/// A UDP frame with its checksum complete.
fn udp_frame(src: IpAddress, dst: IpAddress, payload: &[u8]) -> Vec<u8> {
    let udp = UdpRepr {
        src_port: 1024,
        dst_port: 80,
    };
    let len = udp.header_len() + payload.len();
    let ip = IpRepr::new(src, dst, IpProtocol::Udp, len, 64);
    let mut bytes = vec![0; 14 + ip.header_len() + len];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    let ethertype = match src {
        IpAddress::Ipv4(_) => EthernetProtocol::Ipv4,
        IpAddress::Ipv6(_) => EthernetProtocol::Ipv6,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
        dst_addr: EthernetAddress([2, 0, 0, 0, 0, 2]),
        ethertype,
    };
    ethernet.emit(&mut frame);
    let checksums = ChecksumCapabilities::default();
    ip.emit(&mut bytes[14..], &checksums);
    let mut packet = UdpPacket::new_unchecked(&mut bytes[14 + ip.header_len()..]);
    let fill = |data: &mut [u8]| data.copy_from_slice(payload);
    udp.emit(&mut packet, &src, &dst, payload.len(), fill, &checksums);
    bytes
}

fn any_ip_pair() -> impl Strategy<Value = (IpAddress, IpAddress)> {
    prop_oneof![
        any::<[[u8; 4]; 2]>()
            .prop_map(|[a, b]| { (IpAddress::Ipv4(a.into()), IpAddress::Ipv4(b.into())) }),
        any::<[[u8; 16]; 2]>()
            .prop_map(|[a, b]| { (IpAddress::Ipv6(a.into()), IpAddress::Ipv6(b.into())) }),
    ]
}

fn find(frame: &[u8]) -> Option<(u16, u16)> {
    let parsed = parse(frame, frame.len(), None, PortId(1));
    partial_checksum(frame, frame.len(), &parsed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_partial_checksum_is_found_and_completes_to_the_right_one(
        (src, dst) in any_ip_pair(),
        payload in proptest::collection::vec(any::<u8>(), 0..64),
        padding in 0..8_usize,
    ) {
        let complete = udp_frame(src, dst, &payload);
        let l4 = complete.len() - payload.len() - 8;
        let len = (payload.len() + 8) as u32;
        let partial = checksum::pseudo_header(&src, &dst, IpProtocol::Udp, len);
        let mut frame = complete.clone();
        frame[l4 + 6..l4 + 8].copy_from_slice(&partial.to_be_bytes());
        frame.extend(vec![0; padding]);
        prop_assert_eq!(find(&frame), Some((l4 as u16, 6)));
        let end = frame.len();
        let sum = !checksum::data(&frame[l4..end]);
        let sum = if sum == 0 { 0xffff } else { sum };
        frame[l4 + 6..l4 + 8].copy_from_slice(&sum.to_be_bytes());
        prop_assert_eq!(&frame[..complete.len()], &complete[..]);
        // Complete, it is found again only when both happen to be the same.
        prop_assert_eq!(find(&complete).is_some(), sum == partial);
        frame.push(7);
        prop_assert_eq!(find(&frame), None);
    }

    #[test]
    fn any_frame_can_be_asked(spec in any_spec(), cut in any::<proptest::sample::Index>()) {
        let (frame, tci) = spec.bytes();
        let head = &frame[..cut.index(frame.len() + 1)];
        let parsed = parse(head, frame.len(), tci, PortId(1));
        let _ = partial_checksum(head, frame.len(), &parsed);
    }
}

/// A frame with its pseudo header's sum in the checksum field, and where its L4 begins.
fn with_partial(spec: &Spec, field: usize) -> (Vec<u8>, usize) {
    let (mut frame, _) = spec.bytes();
    let parsed = parse(&frame, frame.len(), None, PortId(1));
    let l4 = usize::from(parsed.l4_offset);
    let (src, dst, protocol): (IpAddress, IpAddress, _) = match &spec.l3 {
        L3::V4 { src, dst, l4, .. } => ((*src).into(), (*dst).into(), l4.protocol(false)),
        L3::V6 { src, dst, l4, .. } => ((*src).into(), (*dst).into(), l4.protocol(true)),
        _ => panic!("not IP"),
    };
    let len = (frame.len() - l4) as u32;
    let sum = checksum::pseudo_header(&src, &dst, protocol.into(), len);
    frame[l4 + field..l4 + field + 2].copy_from_slice(&sum.to_be_bytes());
    (frame, l4)
}

#[test]
fn tcp_has_its_checksum_at_16_behind_options_too() {
    for mut l3 in [
        ipv4_packet("10.0.0.1", "10.0.0.2", L4::Tcp(1, 2, 0x10)),
        ipv6_packet("2001:db8::1", "2001:db8::2", L4::Tcp(1, 2, 0x10)),
    ] {
        if let L3::V4 { options, .. } | L3::V6 { options, .. } = &mut l3 {
            *options = true;
        }
        let (frame, l4) = with_partial(&Spec::new(l3), 16);
        assert_eq!(find(&frame), Some((l4 as u16, 16)));
    }
}

#[test]
fn fragments_and_other_protocols_have_none() {
    let packet = |l4| Spec::new(ipv4_packet("10.0.0.1", "10.0.0.2", l4));
    let (mut first, _) = with_partial(&packet(L4::Udp(1, 2)), 6);
    assert!(find(&first).is_some());
    first[20] = 0x20;
    assert_eq!(find(&first), None);
    let (sctp, _) = with_partial(&packet(L4::Sctp(1, 2)), 6);
    assert_eq!(find(&sctp), None);
}
