//! The formats as properties: what is written is read back, field for field; what is read, whatever
//! it is, is found within the bytes or refused.

mod common;

use common::{carriers, encode, tunnel, udp_frame, v4, v6};
use mirror::wire::{
    Addresses, Carrier, Fields, Granularity, Header, InnerTunnel, MAX_PREFIX_BYTES, Oversize,
    Refusal, Tag, Template, Tunnel, TunnelError, decode,
    encode::Fit,
    erspan::{Common, Subheader, TypeII, TypeIII},
    inner_tunnel,
    refusal::Account,
};
use proptest::{collection::vec, prelude::*};

fn any_tag() -> impl Strategy<Value = Tag> {
    prop_oneof![
        Just(Tag::None),
        any::<u16>().prop_map(Tag::InFrame),
        any::<u16>().prop_map(Tag::Removed),
    ]
}

prop_compose! {
    fn any_fields()(
        sequence: u32, ip_id: u32, entropy: u16, tag in any_tag(),
        truncated: bool, egress: bool, time_ns in 0..u64::MAX / 2,
    ) -> Fields {
        Fields { inner_len: 0, sequence, ip_id, entropy, tag, truncated, egress, time_ns }
    }
}

prop_compose! {
    fn any_tunnel()(
        ipv6: bool, which in 0..carriers(0).len(), number in 0u16..1024,
        tci in proptest::option::of(any::<u16>()), dscp in 0u8..64, ttl in 1u8..,
        dont_fragment: bool,
    ) -> Tunnel {
        let mut tunnel = tunnel(if ipv6 { v6() } else { v4() }, carriers(number)[which]);
        tunnel.link.tci = tci;
        (tunnel.dscp, tunnel.ttl, tunnel.dont_fragment) = (dscp, ttl, dont_fragment);
        tunnel
    }
}

/// What a decoder must find of what was written.
fn assert_same(tunnel: &Tunnel, fields: &Fields, header: &Header) {
    let (tci, tagging) = match fields.tag {
        Tag::None => (0, 0),
        Tag::InFrame(tci) => (tci, 3),
        Tag::Removed(tci) => (tci, 2),
    };
    let common = |found: &Common, session| {
        assert_eq!(found.session, session);
        assert_eq!(found.vlan, tci & 0xfff);
        assert_eq!(u16::from(found.cos), tci >> 13);
        assert_eq!(found.truncated, fields.truncated);
    };
    match (tunnel.carrier, header) {
        (Carrier::ErspanII { session, index }, Header::TypeII(found)) => {
            common(&found.common, session);
            assert_eq!((found.index, found.common.kind), (index, tagging));
        }
        (
            Carrier::ErspanIII {
                session,
                granularity,
                hardware,
                port,
                ..
            },
            Header::TypeIII(found),
        ) => {
            common(&found.common, session);
            assert_eq!(found.common.kind, 0, "a good frame");
            assert_eq!((found.egress, found.hardware), (fields.egress, hardware));
            assert_eq!(found.granularity, granularity);
            assert_eq!(found.subheader.map(|sub| sub.low), port.map(u32::from));
            assert_time(found, fields.time_ns);
        }
        (Carrier::ErspanI | Carrier::Ethernet { .. } | Carrier::Vxlan { .. }, Header::None) => {}
        (carrier, header) => panic!("{carrier:?} is read as {header:?}"),
    }
}

/// The stamp tells the time to its unit, from where it began anew.
fn assert_time(header: &TypeIII, time_ns: u64) {
    let unit: u64 = match header.granularity {
        Granularity::Microseconds100 => 100_000,
        Granularity::Nanoseconds100 => 100,
        _ => 1,
    };
    let wraps = match (header.subheader, header.granularity) {
        (None, _) => u128::from(unit) << 32,
        // 32 bits of seconds.
        (Some(_), Granularity::Ieee1588) => 1_000_000_000 << 32,
        (Some(_), _) => u128::MAX,
    };
    let expected = u128::from(time_ns) % wraps / u128::from(unit) * u128::from(unit);
    assert_eq!(header.time_ns().map(u128::from), Some(expected));
}

proptest! {
    #[test]
    fn a_stamp_writes_what_the_template_writes(
        tunnel in any_tunnel(), fields in any_fields(), len in 60u32..1400, before in 60u32..1400,
    ) {
        let template = Template::new(&tunnel).expect("valid");
        let fields = Fields { inner_len: len, ip_id: 0, tag: Tag::None, truncated: false, ..fields };
        let stamp = template.stamp(fields.egress, fields.time_ns);
        let says_more = template.has_entropy() || template.may_fragment();
        prop_assert_eq!(stamp.is_none(), says_more);
        if let Some(stamp) = stamp {
            let (mut whole, mut stamped) = ([0; MAX_PREFIX_BYTES], [0xff; MAX_PREFIX_BYTES]);
            // Nothing of one copy is left in the next.
            stamp.write(before, &mut stamped);
            stamp.number(!fields.sequence, &mut stamped);
            let stamped_len = stamp.write(len, &mut stamped);
            stamp.number(fields.sequence, &mut stamped);
            prop_assert_eq!(template.write(&fields, &mut whole), stamped_len);
            prop_assert_eq!(whole, stamped);
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        tunnel in any_tunnel(), fields in any_fields(), len in 14usize..600,
    ) {
        let template = Template::new(&tunnel).expect("valid");
        // Behind the addresses anything may stand: it is not IP.
        let inner: Vec<u8> = (0..len).map(|at| if at == 12 { 0x88 } else { at as u8 }).collect();
        let fields = Fields { inner_len: len as u32, ..fields };
        let mut frame = encode(&template, &fields, &inner);
        prop_assert_eq!(frame.len(), template.len_bytes() + len);
        // Ethernet pads short frames.
        frame.resize(frame.len().max(60), 0);
        let decoded = decode(&frame).unwrap_or_else(|e| panic!("{e:?}"));
        prop_assert_eq!(decoded.identity, template.identity());
        prop_assert_eq!(decoded.identity.id(), tunnel.carrier.id());
        prop_assert_eq!(&frame[decoded.inner], &inner);
        let sequence = match tunnel.carrier {
            Carrier::ErspanII { .. }
            | Carrier::ErspanIII { sequence: true, .. }
            | Carrier::Ethernet { sequence: true, .. } => Some(fields.sequence),
            _ => None,
        };
        prop_assert_eq!(decoded.sequence, sequence);
        assert_same(&tunnel, &fields, &decoded.header);
    }

    #[test]
    fn headers_are_read_back(
        vlan in 0u16..4096, cos in 0u8..8, kind in 0u8..4, truncated: bool, number in 0u16..1024,
        index in 0u32..1 << 20, timestamp: u32, sgt: u16, pdu: bool, frame_type in 0u8..32,
        hardware in 0u8..64, egress: bool, granularity in 0usize..4,
        sub in proptest::option::of((0u8..64, 0u32..1 << 26, any::<u32>())),
    ) {
        let common = Common { vlan, cos, kind, truncated, session: common::session(number) };
        let two = TypeII { common, index };
        prop_assert_eq!(TypeII::parse(&two.emit()), Ok(two));
        let three = TypeIII {
            common, timestamp, sgt, pdu, frame_type, hardware, egress,
            granularity: Granularity::ALL[granularity],
            subheader: sub.map(|(platform, low, high)| Subheader { platform, low, high }),
        };
        let bytes = three.emit();
        prop_assert_eq!(TypeIII::parse(&bytes[..three.len_bytes()]), Ok(three));
        for len in 0..three.len_bytes() {
            prop_assert_eq!(TypeIII::parse(&bytes[..len]), Err(Refusal::ErspanMalformed));
        }
        // Neither type is taken for the other.
        prop_assert_eq!(TypeII::parse(&bytes), Err(Refusal::ErspanVersion));
    }

    #[test]
    fn any_bytes_are_found_or_refused(
        tunnel in any_tunnel(), fields in any_fields(), noise in vec((0usize..200, any::<u8>()), 0..4),
        cut in 0usize..200,
    ) {
        let template = Template::new(&tunnel).expect("valid");
        let inner = udp_frame([10, 0, 0, 1], [10, 0, 0, 2], (1, 2), 60);
        let fields = Fields { inner_len: inner.len() as u32, ..fields };
        let mut frame = encode(&template, &fields, &inner);
        for (at, byte) in noise {
            let at = at % frame.len();
            frame[at] = byte;
        }
        frame.truncate(frame.len() - cut.min(frame.len()));
        match decode(&frame) {
            Ok(decoded) => prop_assert!(frame.get(decoded.inner).is_some_and(|i| i.len() >= 14)),
            Err(refused) => prop_assert_eq!(
                refused.session.is_some(), refused.refusal.account() == Account::Session, "{:?}", refused,
            ),
        }
    }

    #[test]
    fn noise_is_refused(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn a_copy_within_the_mtu_is_as_long_as_it_says(
        tunnel in any_tunnel(), mtu in 1280u16..9000, len in 0u32..70_000,
        oversize in prop_oneof![Just(Oversize::Truncate), Just(Oversize::Fragment), Just(Oversize::Count)],
    ) {
        let tunnel = Tunnel { mtu_bytes: mtu, oversize, dont_fragment: false, ..tunnel };
        let template = Template::new(&tunnel).expect("valid");
        let link = 14 + if tunnel.link.tci.is_some() { 4 } else { 0 };
        let room = u32::from(mtu) - (template.len_bytes() - link) as u32;
        let fit = template.fit(len);
        if len <= room {
            prop_assert_eq!(fit, Fit::Whole);
        } else if oversize == Oversize::Truncate {
            prop_assert_eq!(fit, Fit::Truncated(room));
        } else if oversize == Oversize::Fragment && len + u32::from(mtu) - room <= 65_535 {
            prop_assert_eq!(fit, Fit::Fragments);
        } else {
            prop_assert_eq!(fit, Fit::TooLong);
        }
    }
}

#[test]
fn prefixes_are_as_long_as_the_formats_say() {
    let len = |addresses: Addresses, carrier| {
        let template = Template::new(&tunnel(addresses, carrier)).expect("valid");
        template.len_bytes()
    };
    let expected = [38, 50, 54, 62, 62, 50, 42, 46, 38, 50];
    for (carrier, expected) in carriers(1).into_iter().zip(expected) {
        assert_eq!(len(v4(), carrier), expected, "{carrier:?}");
        assert_eq!(len(v6(), carrier), expected + 20, "{carrier:?}");
        assert!(expected + 20 + 4 + 8 <= MAX_PREFIX_BYTES);
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let good = tunnel(v4(), common::carriers(1)[2]);
    assert_eq!(good.validate(), Ok(()));
    let type_iii = |granularity, hardware, port| Carrier::ErspanIII {
        session: common::session(1),
        granularity,
        hardware,
        sequence: true,
        port,
    };
    let with = |change: &dyn Fn(&mut Tunnel)| {
        let mut tunnel = good;
        change(&mut tunnel);
        let error = Template::new(&tunnel).expect_err("refused");
        assert!(error.to_string().contains("give") || error == TunnelError::FragmentForbidden);
        error
    };
    let group = policy::Mac([1, 0, 0, 0, 0, 1]);
    assert_eq!(
        with(&|t| t.link.destination = group),
        TunnelError::Mac(group)
    );
    assert_eq!(with(&|t| t.dscp = 64), TunnelError::Dscp(64));
    assert_eq!(with(&|t| t.ttl = 0), TunnelError::Ttl);
    assert_eq!(
        with(&|t| t.mtu_bytes = 575),
        TunnelError::Mtu {
            mtu: 575,
            least: 576
        }
    );
    assert_eq!(
        with(&|t| (t.dont_fragment, t.oversize) = (true, Oversize::Fragment)),
        TunnelError::FragmentForbidden
    );
    let stamp = Granularity::Microseconds100;
    assert_eq!(
        with(&|t| t.carrier = type_iii(stamp, 64, None)),
        TunnelError::Hardware(64)
    );
    assert_eq!(
        with(&|t| t.carrier = type_iii(stamp, 1, Some(1 << 14))),
        TunnelError::Port(1 << 14)
    );
    assert_eq!(
        with(&|t| t.carrier = type_iii(Granularity::Ieee1588, 1, None)),
        TunnelError::Seconds
    );
    let source = [224, 0, 0, 1].into();
    assert_eq!(
        with(&|t| t.addresses = Addresses::V4 {
            source,
            destination: [10, 0, 0, 1].into()
        }),
        TunnelError::Address(source.into())
    );
}

/// GRE and its payload, with a checksum before it.
fn with_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    frame[34] |= 0x80;
    frame.splice(38..38, [0; 4]);
    let words = frame[34..].chunks(2);
    let mut sum: u32 = words
        .map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[38..40].copy_from_slice(&(!sum as u16).to_be_bytes());
    let len = (frame.len() - 14) as u16;
    with_ipv4_len(frame, len)
}

/// The frame with another total length, and the header's checksum as it must then be.
fn with_ipv4_len(mut frame: Vec<u8>, len: u16) -> Vec<u8> {
    frame[16..18].copy_from_slice(&len.to_be_bytes());
    frame[24..26].fill(0);
    let words = frame[14..34].chunks(2);
    let sum: u32 = words.map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn sample(carrier: Carrier) -> Vec<u8> {
    let inner = udp_frame([10, 0, 0, 1], [10, 0, 0, 2], (1, 2), 33);
    let template = Template::new(&tunnel(v4(), carrier)).expect("valid");
    let fields = Fields {
        inner_len: inner.len() as u32,
        ..Fields::default()
    };
    encode(&template, &fields, &inner)
}

#[test]
fn a_gre_checksum_is_checked() {
    for carrier in &carriers(3)[..9] {
        let frame = with_checksum(sample(*carrier));
        assert_eq!(
            decode(&frame).expect("right").identity.id(),
            carrier.id(),
            "{carrier:?}"
        );
        let mut wrong = frame;
        *wrong.last_mut().expect("a byte") ^= 1;
        assert_eq!(
            decode(&wrong).expect_err("wrong").refusal,
            Refusal::GreChecksum
        );
    }
}

#[test]
fn each_defect_has_its_refusal() {
    let type_ii = carriers(3)[1];
    let changed = |at: usize, bytes: &[u8]| {
        let mut frame = sample(type_ii);
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        decode(&frame).expect_err("refused").refusal
    };
    assert_eq!(changed(12, &[8, 6]), Refusal::NotIp);
    assert_eq!(changed(14, &[0x44]), Refusal::OuterMalformed);
    assert_eq!(changed(16, &[0xff]), Refusal::OuterMalformed);
    assert_eq!(changed(22, &[1]), Refusal::OuterChecksum);
    assert_eq!(changed(34, &[0x50]), Refusal::GreReserved);
    assert_eq!(changed(35, &[1]), Refusal::GreVersion);
    assert_eq!(changed(36, &[8, 0]), Refusal::GreProtocol);
    assert_eq!(changed(42, &[0x20]), Refusal::ErspanVersion);
    assert_eq!(decode(&[0; 13]).expect_err("short").refusal, Refusal::Runt);

    let cut = |len: u16| {
        let frame = with_ipv4_len(sample(type_ii), len);
        decode(&frame).expect_err("refused").refusal
    };
    assert_eq!(cut(22), Refusal::GreMalformed);
    assert_eq!(cut(26), Refusal::GreMalformed);
    assert_eq!(cut(33), Refusal::ErspanMalformed);
    assert_eq!(cut(36 + 13), Refusal::InnerRunt);

    let mut vxlan = sample(carriers(3)[9]);
    vxlan[42] = 0;
    assert_eq!(
        decode(&vxlan).expect_err("no VNI").refusal,
        Refusal::VxlanMalformed
    );
    // The header names a next protocol that is not Ethernet.
    (vxlan[42], vxlan[45]) = (0x0c, 1);
    assert_eq!(
        decode(&vxlan).expect_err("IPv4").refusal,
        Refusal::NotEthernet
    );
    vxlan[37] = 0;
    assert_eq!(
        decode(&vxlan).expect_err("other port").refusal,
        Refusal::NotATunnel
    );
}

#[test]
fn erspan_in_erspan_is_refused() {
    for inside in &carriers(3) {
        let inner = sample(*inside);
        let tagged: Vec<u8> = [&inner[..12], &[0x81, 0, 0, 5], &inner[12..]].concat();
        for inner in [inner, tagged] {
            let template = Template::new(&tunnel(v6(), carriers(9)[1])).expect("valid");
            let fields = Fields {
                inner_len: inner.len() as u32,
                ..Fields::default()
            };
            let found = decode(&encode(&template, &fields, &inner));
            let erspan = matches!(
                inside,
                Carrier::ErspanI | Carrier::ErspanII { .. } | Carrier::ErspanIII { .. }
            );
            // A tenant may have tunnels of its own.
            let refusal = found.err().map(|refused| refused.refusal);
            assert_eq!(refusal, erspan.then_some(Refusal::Nested), "{inside:?}");
        }
    }
}

#[test]
fn what_a_fragment_carries_is_told_by_its_beginning_alone() {
    let ether = |kind: [u8; 2], packet: &[u8]| [&[2; 12], &kind[..], packet].concat();
    let fragment4 = |protocol: u8, place: u16, payload: &[u8]| {
        let mut packet = vec![0x45, 0, 5, 0xdc, 0, 1, 0, 0, 64, protocol, 0, 0];
        packet[6..8].copy_from_slice(&place.to_be_bytes());
        packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        ether([8, 0], &[&packet, payload].concat())
    };
    // Behind hop-by-hop options of 8 bytes; of a packet that is longer than what there is of it.
    let fragment6 = |protocol: u8, place: u16, payload: &[u8]| {
        let mut packet = vec![0x60, 0, 0, 0, 5, 0xdc, 0, 64];
        packet.extend([1; 32]);
        packet.extend([44, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend([protocol, 0]);
        packet.extend(place.to_be_bytes());
        packet.extend([0, 0, 0, 7]);
        ether([0x86, 0xdd], &[&packet, payload].concat())
    };
    let erspan = [0x10, 0, 0x88, 0xbe, 0, 0, 0, 1];
    for (protocol, later) in [
        (47, Some(InnerTunnel::Other)),
        (17, Some(InnerTunnel::Other)),
        (6, None),
        (1, None),
    ] {
        assert_eq!(inner_tunnel(&fragment4(protocol, 0x0010, &[0; 64])), later);
        assert_eq!(inner_tunnel(&fragment6(protocol, 0x0080, &[0; 64])), later);
    }
    for first in [
        fragment4(47, 0x2000, &erspan),
        fragment6(47, 0x0001, &erspan),
    ] {
        assert_eq!(inner_tunnel(&first), Some(InnerTunnel::Erspan));
        for len in 0..first.len() {
            let _ = inner_tunnel(&first[..len]);
        }
    }
}

#[test]
fn a_type_i_frame_is_not_mistaken_for_another_type() {
    // Destinations that begin like headers of types II and III.
    for first in [0x10, 0x12, 0x20, 0x2e] {
        let mut inner = udp_frame([10, 0, 0, 1], [10, 0, 0, 2], (1, 2), 33);
        inner[0] = first;
        let template = Template::new(&tunnel(v4(), Carrier::ErspanI)).expect("valid");
        let fields = Fields {
            inner_len: inner.len() as u32,
            ..Fields::default()
        };
        let frame = encode(&template, &fields, &inner);
        let decoded = decode(&frame).expect("type I");
        assert_eq!(decoded.header, Header::None);
        assert_eq!(frame[decoded.inner], inner);
    }
}
