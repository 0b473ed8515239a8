//! What a rejected sender is told: smoltcp reads every reply, with its checksums, and finds in it
//! what the RFCs ask for; nothing answers what must not be answered; any bytes may be rejected.

mod common;

use common::{Fragment, L3, L4, Spec, any_spec, ipv4_packet, ipv6_packet};
use policy::{Mac, PortId, parse, reject};
use proptest::prelude::*;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable, Icmpv4Packet,
        Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol,
        Ipv4Packet, Ipv6Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
    },
};

fn reply_to(frame: &[u8], tci: Option<u16>) -> Option<Vec<u8>> {
    let parsed = parse(frame, frame.len(), None, PortId(1));
    let mut bytes = [0xee; reject::MAX_REPLY_BYTES];
    let len = reject::reply(&mut bytes, frame, &parsed, tci)?;
    Some(bytes[..len].to_vec())
}

fn answer(l3: L3) -> Option<Vec<u8>> {
    reply_to(&Spec::new(l3).bytes().0, None)
}

/// The reply's IP packet: its ends, protocol and payload. Checks all that stands before.
fn open(reply: &[u8]) -> (IpAddress, IpAddress, IpProtocol, Vec<u8>) {
    let frame = EthernetFrame::new_checked(reply).expect("Ethernet");
    let [to, from] = [common::mac(1), common::mac(2)].map(|Mac(bytes)| EthernetAddress(bytes));
    assert_eq!((frame.dst_addr(), frame.src_addr()), (to, from));
    match frame.ethertype() {
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(frame.payload()).expect("IPv4");
            assert!(packet.verify_checksum());
            assert_eq!(usize::from(packet.total_len()), frame.payload().len());
            assert!(packet.hop_limit() > 1);
            (
                packet.src_addr().into(),
                packet.dst_addr().into(),
                packet.next_header(),
                packet.payload().to_vec(),
            )
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(frame.payload()).expect("IPv6");
            assert_eq!(packet.total_len(), frame.payload().len());
            assert!(packet.hop_limit() > 1);
            (
                packet.src_addr().into(),
                packet.dst_addr().into(),
                packet.next_header(),
                packet.payload().to_vec(),
            )
        }
        other => panic!("{other}"),
    }
}

/// Rejected packets of either family with `l4` in them, and their ends.
fn packets(l4: &L4) -> [(L3, IpAddress, IpAddress); 2] {
    let ends = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];
    let address = |text: &str| -> IpAddress { text.parse().expect("an address") };
    let [v4, v6] = ends.map(|(from, to)| (address(from), address(to)));
    [
        (ipv4_packet(ends[0].0, ends[0].1, l4.clone()), v4.0, v4.1),
        (ipv6_packet(ends[1].0, ends[1].1, l4.clone()), v6.0, v6.1),
    ]
}

fn resets(flags: u8) -> Vec<TcpRepr<'static>> {
    packets(&L4::Tcp(1234, 22, flags))
        .map(|(l3, from, to)| {
            let (source, destination, protocol, segment) = open(&answer(l3).expect("a reply"));
            assert_eq!((source, destination, protocol), (to, from, IpProtocol::Tcp));
            let packet = TcpPacket::new_checked(segment.as_slice()).expect("TCP");
            let capabilities = ChecksumCapabilities::default();
            let repr = TcpRepr::parse(&packet, &source, &destination, &capabilities).expect("TCP");
            assert_eq!((repr.src_port, repr.dst_port), (22, 1234));
            assert_eq!(repr.control, TcpControl::Rst);
            TcpRepr {
                payload: &[],
                ..repr
            }
        })
        .to_vec()
}

#[test]
fn a_connection_that_opens_is_reset_as_its_sender_believes() {
    // The tests' segments have sequence 1 and acknowledge 2.
    for repr in resets(0x02) {
        assert_eq!(repr.seq_number, TcpSeqNumber(0));
        assert_eq!(repr.ack_number, Some(TcpSeqNumber(2)));
    }
    for repr in resets(0x10) {
        assert_eq!(repr.seq_number, TcpSeqNumber(2));
        assert_eq!(repr.ack_number, None);
    }
}

#[test]
fn other_packets_are_answered_with_an_error_that_quotes_them() {
    for l4 in [L4::Udp(1, 2), L4::Icmp(8, 0), L4::Other(47)] {
        let [(v4, from4, to4), (v6, from6, to6)] = packets(&l4);
        let sent = Spec::new(v4.clone()).bytes().0;
        let (source, destination, protocol, message) = open(&answer(v4).expect("a reply"));
        assert_eq!(
            (source, destination, protocol),
            (to4, from4, IpProtocol::Icmp)
        );
        assert!(sent[14..].starts_with(&message[8..]), "{l4:?}");
        let packet = Icmpv4Packet::new_checked(message.as_slice()).expect("ICMP");
        let repr = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).expect("ICMP");
        let Icmpv4Repr::DstUnreachable { reason, header, .. } = repr else {
            panic!("{repr:?}");
        };
        assert_eq!(reason, Icmpv4DstUnreachable::CommProhibited);
        assert_eq!(IpAddress::from(header.src_addr), from4);

        let (IpAddress::Ipv6(at), IpAddress::Ipv6(from)) = (to6, from6) else {
            panic!("IPv6");
        };
        // An echo request of ICMPv6 has another number.
        let l3 = if let L4::Icmp(..) = l4 {
            ipv6_packet("fd00::1", "fd00::2", L4::Icmp(128, 0))
        } else {
            v6
        };
        let (_, _, protocol, message) = open(&answer(l3).expect("a reply"));
        assert_eq!(protocol, IpProtocol::Icmpv6);
        let packet = Icmpv6Packet::new_checked(message.as_slice()).expect("ICMP");
        let repr = Icmpv6Repr::parse(&at, &from, &packet, &ChecksumCapabilities::default());
        let Ok(Icmpv6Repr::DstUnreachable { reason, header, .. }) = repr else {
            panic!("{repr:?}");
        };
        assert_eq!(reason, Icmpv6DstUnreachable::AdminProhibit);
        assert_eq!(header.src_addr, from);
    }
}

#[test]
fn a_long_packet_is_quoted_as_far_as_there_is_room() {
    let (mut frame, _) = Spec::new(ipv4_packet("10.0.0.1", "10.0.0.2", L4::Udp(1, 2))).bytes();
    frame.resize(14 + 1500, 0xab);
    frame[16..18].copy_from_slice(&1500u16.to_be_bytes());
    let reply = reply_to(&frame, None).expect("a reply");
    assert_eq!(reply.len(), reject::MAX_REPLY_BYTES);
    let (_, _, _, message) = open(&reply);
    assert!(frame[14..].starts_with(&message[8..]));
    // Only its first bytes may be at hand.
    let parsed = parse(&frame[..256], frame.len(), None, PortId(1));
    let mut bytes = [0; reject::MAX_REPLY_BYTES];
    let len = reject::reply(&mut bytes, &frame[..256], &parsed, None).expect("a reply");
    assert_eq!(bytes[..len], reply);
}

#[test]
fn a_segment_is_acknowledged_to_its_end_however_long() {
    let (mut frame, _) = Spec::new(ipv4_packet("10.0.0.1", "10.0.0.2", L4::Tcp(1, 2, 1))).bytes();
    frame.resize(14 + 1500, 0);
    frame[16..18].copy_from_slice(&1500u16.to_be_bytes());
    let parsed = parse(&frame[..256], frame.len(), None, PortId(1));
    let mut bytes = [0; reject::MAX_REPLY_BYTES];
    reject::reply(&mut bytes, &frame[..256], &parsed, None).expect("a reply");
    // Sequence 1, 1460 bytes, and the FIN.
    assert_eq!(bytes[42..46], 1462u32.to_be_bytes());
}

#[test]
fn a_reply_has_the_tag_that_it_is_to_have() {
    let mut spec = Spec::new(ipv4_packet("10.0.0.1", "10.0.0.2", L4::Tcp(1, 2, 2)));
    let plain = reply_to(&spec.bytes().0, None).expect("a reply");
    spec.tci = Some(0x200a);
    let tagged = reply_to(&spec.bytes().0, Some(0xe00b)).expect("a reply");
    assert_eq!(tagged[12..16], [0x81, 0, 0xe0, 0x0b]);
    assert_eq!([&tagged[..12], &tagged[16..]].concat(), plain);
}

#[test]
fn what_must_not_be_answered_is_not() {
    let v4 = |src, dst, l4| answer(ipv4_packet(src, dst, l4));
    let v6 = |src, dst, l4| answer(ipv6_packet(src, dst, l4));
    let udp = || L4::Udp(1, 2);
    for source in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        assert_eq!(v4(source, "10.0.0.2", udp()), None, "{source}");
        assert_eq!(v4("10.0.0.1", source, udp()), None, "{source}");
    }
    for source in ["::", "::1", "ff02::1"] {
        assert_eq!(v6(source, "fd00::2", udp()), None, "{source}");
        assert_eq!(v6("fd00::1", source, udp()), None, "{source}");
    }
    for kind in [3, 4, 5, 11, 12] {
        assert_eq!(v4("10.0.0.1", "10.0.0.2", L4::Icmp(kind, 0)), None);
    }
    for kind in [1, 2, 3, 4, 127] {
        assert_eq!(v6("fd00::1", "fd00::2", L4::Icmp(kind, 0)), None);
    }
    assert_eq!(v4("10.0.0.1", "10.0.0.2", L4::Tcp(1, 2, 0x14)), None);
    assert_eq!(answer(L3::Other(0x88b5)), None);
    let later = L3::V4 {
        src: "10.0.0.1".parse().expect("an address"),
        dst: "10.0.0.2".parse().expect("an address"),
        tos: 0,
        fragment: Fragment::Later,
        options: false,
        l4: udp(),
    };
    assert_eq!(answer(later), None);
    let mut group = Spec::new(ipv4_packet("10.0.0.1", "10.0.0.2", udp()));
    group.dst = Mac([1, 0, 0x5e, 0, 0, 1]);
    assert_eq!(reply_to(&group.bytes().0, None), None);
}

proptest! {
    /// Two switches that reject each other's replies end there.
    #[test]
    fn no_reply_is_answered(spec in any_spec()) {
        let (frame, _) = spec.bytes();
        if let Some(reply) = reply_to(&frame, None) {
            prop_assert_eq!(reply_to(&reply, None), None);
        }
    }

    #[test]
    fn any_bytes_may_be_rejected(
        spec in any_spec(),
        cut in 0usize..120,
        changes in proptest::collection::vec((0usize..100, any::<u8>()), 0..8),
    ) {
        let (mut frame, _) = spec.bytes();
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(cut);
        let _ = reply_to(&frame, Some(5));
    }
}
