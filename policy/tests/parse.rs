//! The parser takes any bytes, agrees with smoltcp's wire parsers on what both understand, and
//! decides the doubtful cases as its header says.

mod common;

use std::{fs, path::Path};

use common::{Fragment, L3, L4, Spec, any_spec, ipv4_packet, ipv6_packet};
use policy::{
    Field, FlowKey, Parsed, PortId,
    key::{Class, shape},
    parse,
};
use proptest::{collection::vec, prelude::*};
use smoltcp::wire::{
    ArpPacket, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6ExtHeader,
    Ipv6FragmentHeader, Ipv6Packet, TcpPacket, UdpPacket,
};

const PORT: PortId = PortId(7);

fn parse_whole(frame: &[u8]) -> Parsed {
    parse(frame, frame.len(), None, PORT)
}

/// What smoltcp reads of an untagged frame; `None` when it refuses a header.
#[derive(Debug, Default, PartialEq, Eq)]
struct Facts {
    src: u128,
    dst: u128,
    protocol: u8,
    tos: u8,
    later: bool,
    more: bool,
    ports: Option<(u16, u16)>,
    flags: u8,
}

fn facts_of_smoltcp(frame: &[u8]) -> Option<Facts> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    match frame.ethertype() {
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
            if packet.version() != 4 || packet.header_len() < 20 {
                return None;
            }
            let mut facts = Facts {
                src: u32::from(packet.src_addr()).into(),
                dst: u32::from(packet.dst_addr()).into(),
                protocol: packet.next_header().into(),
                tos: packet.dscp() << 2 | packet.ecn(),
                later: packet.frag_offset() != 0,
                more: packet.more_frags(),
                ..Facts::default()
            };
            if packet.frag_offset() == 8 && packet.next_header() == IpProtocol::Tcp {
                return None;
            }
            l4_of_smoltcp(&mut facts, packet.payload())?;
            Some(facts)
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(frame.payload()).ok()?;
            if packet.version() != 6 {
                return None;
            }
            let mut facts = Facts {
                src: packet.src_addr().into(),
                dst: packet.dst_addr().into(),
                tos: packet.traffic_class(),
                ..Facts::default()
            };
            let (mut next, mut rest) = (packet.next_header(), packet.payload());
            let mut fragments = 0;
            for _ in 0..8 {
                match u8::from(next) {
                    44 => {
                        let header = Ipv6FragmentHeader::new_checked(rest.get(2..8)?).ok()?;
                        next = rest[0].into();
                        rest = &rest[8..];
                        fragments += 1;
                        facts.later = header.frag_offset() != 0;
                        facts.more = header.more_frags();
                        if facts.later {
                            break;
                        }
                    }
                    51 => {
                        let len = (usize::from(*rest.get(1)?) + 2) * 4;
                        next = rest[0].into();
                        rest = rest.get(len.max(8)..)?;
                    }
                    0 | 43 | 60 | 135 | 139 | 140 => {
                        let header = Ipv6ExtHeader::new_checked(rest).ok()?;
                        next = header.next_header();
                        rest = &rest[(usize::from(header.header_len()) + 1) * 8..];
                    }
                    _ => break,
                }
            }
            if fragments > 1
                || matches!(u8::from(next), 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140) && !facts.later
            {
                return None;
            }
            facts.protocol = next.into();
            l4_of_smoltcp(&mut facts, rest)?;
            Some(facts)
        }
        _ => None,
    }
}

fn l4_of_smoltcp(facts: &mut Facts, payload: &[u8]) -> Option<()> {
    if facts.later {
        return Some(());
    }
    match facts.protocol {
        17 if facts.more => facts.ports = ports_of_first_fragment(payload),
        17 => {
            let packet = UdpPacket::new_checked(payload).ok()?;
            facts.ports = Some((packet.src_port(), packet.dst_port()));
        }
        6 => {
            let packet = TcpPacket::new_checked(payload).ok()?;
            if packet.header_len() < 20 {
                return None;
            }
            facts.ports = Some((packet.src_port(), packet.dst_port()));
            facts.flags = payload[13];
        }
        _ => {}
    }
    Some(())
}

/// The length of a first fragment's datagram is beyond it, which smoltcp refuses.
fn ports_of_first_fragment(payload: &[u8]) -> Option<(u16, u16)> {
    let be16 = |at: usize| {
        Some(u16::from_be_bytes([
            *payload.get(at)?,
            *payload.get(at + 1)?,
        ]))
    };
    (be16(4)? >= 8 && payload.len() >= 8).then_some((be16(0)?, be16(2)?))
}

fn facts_of(parsed: &Parsed) -> Facts {
    let key = &parsed.key;
    let address =
        |high: Field, low: Field| u128::from(key.get(high)) << 64 | u128::from(key.get(low));
    let has_ports = parsed.key.has(shape::L4) && matches!(key.get(Field::PROTOCOL), 6 | 17);
    Facts {
        src: address(Field::IP_SRC_HIGH, Field::IP_SRC_LOW),
        dst: address(Field::IP_DST_HIGH, Field::IP_DST_LOW),
        protocol: key.get(Field::PROTOCOL) as u8,
        tos: key.get(Field::TOS) as u8,
        later: key.has(shape::LATER_FRAGMENT),
        // The key does not say whether more follow a later fragment.
        more: key.has(shape::FIRST_FRAGMENT),
        ports: has_ports.then(|| (key.get(Field::L4_SRC) as u16, key.get(Field::L4_DST) as u16)),
        flags: key.get(Field::TCP_FLAGS) as u8,
    }
}

/// Asserts that both parsers say the same of an untagged frame's bytes.
fn assert_agreement(frame: &[u8]) {
    let parsed = parse_whole(frame);
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else {
        assert_eq!(parsed.class, Class::Runt);
        return;
    };
    if parsed.key.has(shape::TAGGED) || parsed.class == Class::Runt {
        return;
    }
    assert_eq!(parsed.key.eth_dst().0, ethernet.dst_addr().0);
    assert_eq!(parsed.key.eth_src().0, ethernet.src_addr().0);
    match ethernet.ethertype() {
        EthernetProtocol::Arp => match ArpPacket::new_checked(ethernet.payload()) {
            Ok(packet) if parsed.key.get(Field::PROTOCOL) != 0 => {
                let sender: [u8; 4] = packet.source_protocol_addr().try_into().expect("IPv4");
                let sender = u32::from_be_bytes(sender);
                assert_eq!(parsed.key.get(Field::IP_SRC_LOW), sender.into());
            }
            _ => assert!(matches!(parsed.class, Class::Arp | Class::Malformed)),
        },
        EthernetProtocol::Ipv4 | EthernetProtocol::Ipv6 => match facts_of_smoltcp(frame) {
            Some(mut facts) => {
                let l4_cut_off = matches!(facts.protocol, 1 | 58 | 132)
                    || (facts.protocol == 17 && facts.more && facts.ports.is_none());
                if parsed.class == Class::Malformed && l4_cut_off && !facts.later {
                    return;
                }
                facts.more &= !facts.later;
                assert_eq!(facts_of(&parsed), facts, "{frame:02x?} {parsed:?}");
            }
            None => assert_eq!(parsed.class, Class::Malformed, "{frame:02x?} {parsed:?}"),
        },
        EthernetProtocol::Unknown(_) => assert_eq!(parsed.class, Class::NonIp),
    }
}

/// Asserts what must hold of any bytes.
fn assert_sane(head: &[u8], frame_len: usize, tci: Option<u16>) {
    let parsed = parse(head, frame_len, tci, PORT);
    let key = &parsed.key;
    assert_eq!(key.ingress(), PORT);
    assert!(usize::from(parsed.l3_offset) <= frame_len);
    assert!(usize::from(parsed.l4_offset) < frame_len.max(1));
    assert_eq!(parsed.l4_offset != 0, key.has(shape::L4));
    assert_eq!(parsed.class == Class::Runt, key.has(shape::RUNT));
    assert_eq!(parsed.class == Class::Malformed, key.has(shape::MALFORMED));
    if key.has(shape::MALFORMED) {
        let mut link = FlowKey(key.0);
        for word in 2..6 {
            assert_eq!(link.0[word], 0);
        }
        link.set(Field::VLAN_TCI, 0);
        assert_eq!(link.0[6], 0);
        let known = shape::MALFORMED | shape::TAGGED;
        assert_eq!(link.0[7] & !known, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_taken(
        bytes in vec(any::<u8>(), 0..300),
        ethertype in proptest::sample::select(&[0x0800_u16, 0x0806, 0x86dd, 0x8100, 0x88a8, 60][..]),
        version in any::<Option<bool>>(),
        frame_len in 0..2000_usize,
        tci in any::<Option<u16>>(),
    ) {
        assert_sane(&bytes, bytes.len(), tci);
        assert_sane(&bytes, frame_len, tci);
        let mut likely = bytes;
        if let Some(field) = likely.get_mut(12..14) {
            field.copy_from_slice(&ethertype.to_be_bytes());
        }
        if let (Some(ipv6), Some(first)) = (version, likely.get_mut(14)) {
            *first = if ipv6 { 0x60 } else { 0x45 };
        }
        assert_sane(&likely, likely.len(), tci);
        assert_agreement(&likely);
    }

    #[test]
    fn frames_are_read_as_they_were_meant(spec in any_spec()) {
        let (frame, parsed) = spec.parse(PORT);
        let key = &parsed.key;
        prop_assert_eq!(key.eth_src(), spec.src);
        prop_assert_eq!(key.eth_dst(), spec.dst);
        prop_assert_eq!(key.get(Field::ETHERTYPE), u64::from(spec.ethertype()));
        prop_assert_eq!(key.has(shape::TAGGED), spec.tci.is_some());
        prop_assert_eq!(key.has(shape::NESTED), spec.nested);
        prop_assert_eq!(key.get(Field::VLAN_TCI), u64::from(spec.tci.unwrap_or(0)));
        prop_assert_eq!(parsed.tag_in_frame, spec.tci.is_some() && !spec.beside);
        let l3_offset = if parsed.tag_in_frame { 18 } else { 14 };
        prop_assert_eq!(parsed.l3_offset, l3_offset);
        if spec.nested {
            prop_assert_eq!(parsed.class, Class::NonIp);
            return Ok(());
        }
        let untagged = Spec { tci: None, ..spec.clone() };
        let (bytes, plain) = untagged.parse(PORT);
        prop_assert_eq!(plain.class, parsed.class);
        prop_assert_eq!(&plain.key.0[2..6], &key.0[2..6]);
        assert_agreement(&bytes);
        if let L3::V4 { options, fragment, .. } | L3::V6 { options, fragment, .. } = spec.l3 {
            let ipv6_fragment = matches!(spec.l3, L3::V6 { .. }) && fragment != Fragment::No;
            prop_assert_eq!(key.has(shape::OPTIONS), options || ipv6_fragment);
            prop_assert_eq!(key.has(shape::FIRST_FRAGMENT), fragment == Fragment::First);
            prop_assert_eq!(key.has(shape::LATER_FRAGMENT), fragment == Fragment::Later);
        }
        if parsed.l4_offset != 0 {
            let port = &frame[usize::from(parsed.l4_offset)..][..2];
            prop_assert_eq!(key.get(Field::L4_SRC), u64::from(u16::from_be_bytes([port[0], port[1]])));
        }
    }

    #[test]
    fn cut_and_corrupted_frames_agree_too(
        spec in any_spec(),
        cut in any::<proptest::sample::Index>(),
        changes in vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let (mut frame, tci) = Spec { tci: None, nested: false, ..spec }.bytes();
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        assert_sane(&frame, frame.len(), tci);
        assert_agreement(&frame);
        let len = cut.index(frame.len() + 1);
        // Bytes beyond the frame's length are not the frame's.
        prop_assert_eq!(parse(&frame, len, tci, PORT), parse(&frame[..len], len, tci, PORT));
        frame.truncate(len);
        assert_sane(&frame, len, tci);
        assert_agreement(&frame);
    }

    #[test]
    fn padding_and_payload_change_nothing(
        spec in any_spec(),
        padding in vec(any::<u8>(), 0..400),
        payload in any::<u8>(),
    ) {
        let (mut frame, tci) = spec.bytes();
        let parsed = parse(&frame, frame.len(), tci, PORT);
        frame.extend(&padding);
        prop_assert_eq!(parse(&frame, frame.len(), tci, PORT), parsed);
        let head = &frame[..frame.len().min(256)];
        prop_assert_eq!(parse(head, frame.len(), tci, PORT), parsed);
        if let L3::V4 { l4: L4::Udp(..), .. } | L3::V6 { l4: L4::Udp(..), .. } = spec.l3 {
            let last = frame.len() - padding.len() - 1;
            frame[last] = payload;
            prop_assert_eq!(parse(&frame, frame.len(), tci, PORT), parsed);
        }
    }
}

#[test]
fn every_capture_can_be_parsed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/pcap");
    if !root.is_dir() {
        println!("skipped: no captures at {}", root.display());
        return;
    }
    let (mut folders, mut frames) = (vec![root], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|e| e == "pcap" || e == "pcapng")
            {
                for frame in frames_of_capture(&fs::read(&path).expect("readable")) {
                    assert_sane(frame, frame.len(), None);
                    assert_agreement(frame);
                    frames += 1;
                }
            }
        }
    }
    println!("{frames} frames");
    assert!(frames > 1000);
}

/// The captured bytes of a pcap or pcapng file, as far as it is sound.
fn frames_of_capture(file: &[u8]) -> Vec<&[u8]> {
    let (pcapng, big) = match file.get(..4) {
        Some([0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1]) => (false, false),
        Some([0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d]) => (false, true),
        Some([0x0a, 0x0d, 0x0d, 0x0a]) => (true, file.get(8) == Some(&0x1a)),
        _ => return Vec::new(),
    };
    let word = |at: usize| -> Option<usize> {
        let bytes = *file.get(at..)?.first_chunk::<4>()?;
        let value = if big {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        };
        usize::try_from(value).ok()
    };
    let mut frames = Vec::new();
    let mut at = if pcapng { 0 } else { 24 };
    loop {
        // A pcap record, or an enhanced packet block among other blocks.
        let (data, next) = match (pcapng, word(at), word(at + 4), word(at + 8)) {
            (false, _, _, Some(len)) => (Some((at + 16, len)), at + 16 + len),
            (true, Some(6), Some(block), _) => {
                (word(at + 20).map(|len| (at + 28, len)), at + block.max(12))
            }
            (true, Some(_), Some(block), _) => (None, at + block.max(12)),
            _ => return frames,
        };
        if let Some((start, len)) = data {
            let Some(frame) = file.get(start..start.saturating_add(len)) else {
                return frames;
            };
            frames.push(frame);
        }
        at = next;
    }
}

fn udp4() -> Vec<u8> {
    Spec::new(ipv4_packet("10.0.0.1", "10.0.0.2", L4::Udp(1024, 80)))
        .bytes()
        .0
}

fn tcp4() -> Vec<u8> {
    Spec::new(ipv4_packet("10.0.0.1", "10.0.0.2", L4::Tcp(1024, 80, 2)))
        .bytes()
        .0
}

/// The class of a frame with some bytes replaced.
fn class_with(frame: &[u8], changes: &[(usize, u8)]) -> Class {
    let mut frame = frame.to_vec();
    for &(at, value) in changes {
        frame[at] = value;
    }
    parse_whole(&frame).class
}

#[test]
fn a_frame_shorter_than_its_ethernet_header_is_a_runt() {
    let mut tagged = udp4();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    for runt in [&udp4()[..13], &tagged[..14], &tagged[..17], &[]] {
        let parsed = parse_whole(runt);
        let mut expected = FlowKey::default();
        expected.set(Field::INGRESS, PORT.0.into());
        expected.set(Field::SHAPE, shape::RUNT);
        assert_eq!((parsed.class, parsed.key), (Class::Runt, expected));
    }
    assert_eq!(parse_whole(&udp4()[..14]).class, Class::Malformed);
}

#[test]
fn ipv4_headers_that_contradict_themselves_are_malformed() {
    let frame = udp4();
    assert_eq!(parse_whole(&frame).class, Class::Ipv4Udp);
    for (what, changes) in [
        ("version 5", (14, 0x55)),
        ("IHL 4", (14, 0x44)),
        ("IHL beyond the total length", (14, 0x4f)),
        (
            "total length beyond the frame",
            (17, frame.len() as u8 - 13),
        ),
        ("total length within the header", (17, 19)),
        ("UDP length below 8", (39, 7)),
        ("UDP length beyond the packet", (39, 13)),
        ("UDP header cut off", (17, 27)),
    ] {
        assert_eq!(class_with(&frame, &[changes]), Class::Malformed, "{what}");
    }
    let tcp = tcp4();
    assert_eq!(
        class_with(&tcp, &[(46, 0x40)]),
        Class::Malformed,
        "data offset 4"
    );
    assert_eq!(
        class_with(&tcp, &[(46, 0x60)]),
        Class::Malformed,
        "options beyond"
    );
    assert_eq!(
        class_with(&tcp, &[(17, 39)]),
        Class::Malformed,
        "TCP cut off"
    );
}

#[test]
fn a_fragment_is_first_or_later_and_tiny_ones_are_malformed() {
    let (udp, tcp) = (udp4(), tcp4());
    assert_eq!(class_with(&udp, &[(20, 0x20)]), Class::Ipv4Udp);
    assert_eq!(class_with(&udp, &[(20, 0x20), (39, 200)]), Class::Ipv4Udp);
    assert_eq!(class_with(&udp, &[(20, 0x20), (17, 24)]), Class::Malformed);
    assert_eq!(class_with(&tcp, &[(20, 0x20), (17, 28)]), Class::Malformed);
    assert_eq!(class_with(&tcp, &[(20, 0), (21, 1)]), Class::Malformed);
    assert_eq!(class_with(&tcp, &[(20, 0), (21, 2)]), Class::Ipv4Fragment);
    assert_eq!(class_with(&udp, &[(20, 0), (21, 1)]), Class::Ipv4Fragment);
}

/// An IPv6 UDP frame behind the given headers, each written without its next header.
fn ipv6_behind(headers: &[(u8, &[u8])]) -> Vec<u8> {
    let spec = Spec::new(ipv6_packet("2001:db8::1", "2001:db8::2", L4::Udp(1024, 80)));
    let (mut frame, _) = spec.bytes();
    let mut next = 17;
    for (kind, body) in headers.iter().rev() {
        frame.splice(54..54, [&[next], *body].concat());
        next = *kind;
    }
    frame[20] = next;
    let payload = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&payload.to_be_bytes());
    frame
}

#[test]
fn ipv6_extension_headers_are_walked_to_a_bound() {
    const PAD: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    let hops = |count: usize| ipv6_behind(&vec![(60, PAD); count]);
    for count in 0..=8 {
        let parsed = parse_whole(&hops(count));
        assert_eq!(parsed.class, Class::Ipv6Udp);
        assert_eq!(parsed.key.get(Field::L4_DST), 80);
        assert_eq!(usize::from(parsed.l4_offset), 54 + 8 * count);
    }
    assert_eq!(parse_whole(&hops(9)).class, Class::Malformed);
    for kind in [0, 43, 51, 135, 139, 140] {
        let body: &[u8] = if kind == 51 {
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        } else {
            PAD
        };
        assert_eq!(
            parse_whole(&ipv6_behind(&[(kind, body)])).class,
            Class::Ipv6Udp,
            "{kind}"
        );
    }
    let mut beyond = hops(1);
    beyond[55] = 200;
    assert_eq!(parse_whole(&beyond).class, Class::Malformed);
}

#[test]
fn ipv6_headers_beyond_the_bytes_given_are_malformed() {
    let long = [&[30_u8][..], &[0; 246]].concat();
    let frame = ipv6_behind(&[(60, &long)]);
    assert_eq!(parse_whole(&frame).class, Class::Ipv6Udp);
    assert_eq!(
        parse(&frame[..256], frame.len(), None, PORT).class,
        Class::Malformed
    );
}

#[test]
fn ipv6_fragments_and_lengths() {
    let fragment = |offset_and_more: u8| ipv6_behind(&[(44, &[0, 0, offset_and_more, 0, 0, 0, 1])]);
    let whole = parse_whole(&fragment(0));
    assert_eq!(whole.class, Class::Ipv6Udp);
    assert!(whole.key.has(shape::OPTIONS));
    assert!(!whole.key.has(shape::FIRST_FRAGMENT));
    assert!(
        parse_whole(&fragment(1))
            .key
            .has(shape::FIRST_FRAGMENT | shape::L4)
    );
    assert_eq!(parse_whole(&fragment(9)).class, Class::Ipv6Fragment);
    let atomic: (u8, &[u8]) = (44, &[0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(
        parse_whole(&ipv6_behind(&[atomic, atomic])).class,
        Class::Malformed
    );

    let mut jumbo = ipv6_behind(&[(0, &[0, 0xc2, 4, 0, 1, 0, 0])]);
    jumbo[18..20].copy_from_slice(&[0, 0]);
    assert_eq!(parse_whole(&jumbo).class, Class::Malformed);
    let mut beyond = ipv6_behind(&[]);
    beyond[19] += 1;
    assert_eq!(parse_whole(&beyond).class, Class::Malformed);
    let mut empty = ipv6_behind(&[])[..54].to_vec();
    (empty[19], empty[20]) = (0, 59);
    assert_eq!(parse_whole(&empty).class, Class::Ipv6Other);
}

#[test]
fn tags_in_the_frame_and_beside_it() {
    let mut service = udp4();
    service.splice(12..12, [0x88, 0xa8, 0x60, 5]);
    let parsed = parse_whole(&service);
    assert_eq!(parsed.class, Class::Ipv4Udp);
    assert_eq!(parsed.key.get(Field::VLAN_VID), 5);
    assert_eq!(parsed.key.get(Field::VLAN_TCI), 0x6005);
    assert!(parsed.tag_in_frame);

    let nested = parse(&service, service.len(), Some(9), PORT);
    assert_eq!(nested.class, Class::NonIp);
    assert!(nested.key.has(shape::TAGGED | shape::NESTED));
    assert_eq!(nested.key.get(Field::VLAN_VID), 9);
    assert_eq!(nested.key.get(Field::ETHERTYPE), 0x88a8);
    assert!(!nested.tag_in_frame);

    let beside = parse(&udp4(), udp4().len(), Some(0), PORT);
    assert_eq!(beside.class, Class::Ipv4Udp);
    assert!(beside.key.has(shape::TAGGED));
}

#[test]
fn lengths_are_no_ethertypes() {
    let parsed = parse_whole(&Spec::new(L3::Other(0x05ff)).bytes().0);
    assert_eq!(
        (parsed.class, parsed.key.get(Field::ETHERTYPE)),
        (Class::NonIp, 0)
    );
    let parsed = parse_whole(&Spec::new(L3::Other(0x0600)).bytes().0);
    assert_eq!(parsed.key.get(Field::ETHERTYPE), 0x0600);
}

#[test]
fn arp_holds_addresses_only_of_ipv4_on_ethernet() {
    let arp = Spec::new(L3::Arp {
        operation: 2,
        mac: common::mac(1),
        sender: "10.0.0.1".parse().expect("an address"),
        target: "10.0.0.2".parse().expect("an address"),
    });
    let (frame, parsed) = arp.parse(PORT);
    assert_eq!(parsed.key.get(Field::IP_SRC_LOW), 0x0a00_0001);
    assert_eq!(parsed.key.get(Field::IP_DST_LOW), 0x0a00_0002);
    assert_eq!(parsed.key.get(Field::PROTOCOL), 2);
    let mut other = frame.clone();
    other[15] = 6;
    let parsed = parse_whole(&other);
    assert_eq!((parsed.class, parsed.key.0[3]), (Class::Arp, 0));
    assert_eq!(parsed.key.get(Field::PROTOCOL), 0);
    assert_eq!(parse_whole(&frame[..41]).class, Class::Malformed);
}
