//! Bytes that nobody chose well: no panic, nothing beyond bounds, and what is written is read back.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use pmd::pcap::Reader;
use proptest::prelude::*;
use vswitch::services::{
    Verdict,
    dhcp4::message::Message,
    dhcp6,
    frame::{self, Datagram},
    plan::{Mode4, Mode6, Plan, Relay4, Relay6},
};

use crate::{bed::*, dhcp6::udp6};

/// Where captures lie; a checkout without them skips the test.
const CAPTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/pcap");

fn relays() -> Plan {
    let mut plan = a_plan();
    plan.vnics[0].dhcp4.mode = Mode4::Relay(Relay4 {
        servers: vec![STRANGER],
        timeout_ms: 1000,
        max_hops: 16,
        fallback: true,
    });
    plan.vnics[0].dhcp6.mode = Mode6::Relay(Relay6 {
        link: GATEWAY6,
        servers: vec![OTHER_ADDRESS6],
    });
    plan
}

fn everything() -> Plan {
    let mut plan = a_plan();
    plan.networks[0].advertisements = Some(advertisements());
    plan.networks[0].neighbors.fallback_ms = Some(100);
    plan
}

/// Gives a frame to services of each kind; whatever they say can be read again.
fn say(beds: &mut [Bed], frame: &[u8]) {
    for bed in beds {
        for port in [PORT, OTHER, UPLINK] {
            let (verdict, sent) = bed.receive(port, frame);
            if let Verdict::Refused(refusal) = verdict {
                assert!(sent.is_empty(), "{refusal} with an answer");
                assert!(bed.services.refusals().get(NETWORK, refusal) > 0);
            }
            assert!(sent.len() <= 2, "{} frames for one", sent.len());
            for (_, frame) in sent {
                let read = frame::read(&frame);
                assert!(matches!(read, Ok(Some(_))), "{read:?} of {frame:02x?}");
            }
        }
        bed.wait(SECOND_NS / 10);
        bed.events.clear();
    }
}

fn captures(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.expect("entry").path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                captures(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn frames_from_the_wild_are_taken() {
    let mut beds = [Bed::new(everything()), Bed::new(relays())];
    let (mut frames, mut files) = (0, 0);
    for path in captures(Path::new(CAPTURES)) {
        let Ok(reader) = Reader::open(&path) else {
            continue;
        };
        files += 1;
        // A capture may end in the middle of a record: what came before counts.
        for record in reader.map_while(Result::ok).take(500) {
            say(&mut beds, &record.bytes);
            frames += 1;
        }
    }
    if files == 0 {
        eprintln!("skipped: no captures at {CAPTURES}");
    } else {
        assert!(frames > 1000, "{frames} frames of {files} captures");
    }
}

fn options() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let code = prop_oneof![
        Just(50),
        Just(51),
        Just(52),
        Just(53),
        Just(54),
        Just(55),
        Just(57),
        Just(61),
        Just(82),
        any::<u8>()
    ];
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..8),
        Just(vec![1]),
        Just(vec![3]),
        Just(GATEWAY.octets().to_vec()),
        Just(ADDRESS.octets().to_vec()),
        prop::collection::vec(any::<u8>(), 0..255),
    ];
    prop::collection::vec((code, data), 0..12)
}

fn options6() -> impl Strategy<Value = Vec<(u16, Vec<u8>)>> {
    let code = prop_oneof![0_u16..33, any::<u16>()];
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(dhcp6::server::identifier(GATEWAY_MAC).to_vec()),
        Just(b"one-port".to_vec()),
    ];
    prop::collection::vec((code, data), 0..12)
}

proptest! {
    #[test]
    fn any_frame_is_taken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        say(&mut [Bed::new(everything()), Bed::new(relays())], &bytes);
    }

    #[test]
    fn any_payload_is_taken(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        server in any::<bool>(),
    ) {
        let (src, to) = if server { (67, GATEWAY) } else { (68, Ipv4Addr::BROADCAST) };
        let frame = udp4((MAC, GATEWAY_MAC), (STRANGER, src), (to, 67), &bytes);
        say(&mut [Bed::new(everything()), Bed::new(relays())], &frame);
        let (src, to) = if server {
            (547, GATEWAY6)
        } else {
            (546, dhcp6::message::ALL_SERVERS)
        };
        let frame = udp6((MAC, GATEWAY_MAC), (OTHER_ADDRESS6, src), (to, 547), &bytes);
        say(&mut [Bed::new(everything()), Bed::new(relays())], &frame);
    }

    #[test]
    fn any_dhcp_message_is_taken(
        options in options(),
        ciaddr in prop_oneof![Just(ADDRESS), Just(Ipv4Addr::UNSPECIFIED), any::<Ipv4Addr>()],
        flags in any::<u16>(),
        cut in 0_usize..40,
    ) {
        let client = Client { ciaddr, flags, ..Client::default() };
        let borrowed: Vec<(u8, &[u8])> = options.iter().map(|(code, data)| (*code, &data[..])).collect();
        let mut message = client.message(&borrowed);
        message.truncate(message.len() - cut.min(message.len() - 1));
        let frame = udp4((MAC, GATEWAY_MAC), (ciaddr, 68), (Ipv4Addr::BROADCAST, 67), &message);
        say(&mut [Bed::new(everything()), Bed::new(relays())], &frame);
    }

    #[test]
    fn any_dhcp6_message_is_taken(kind in 0_u8..15, options in options6(), inner in options6()) {
        let mut bytes = vec![kind, 1, 2, 3];
        if kind >= 12 {
            bytes.extend(GATEWAY6.octets()[2..].iter().chain(&[0; 18]));
        }
        for (code, data) in options.iter().chain(&inner) {
            bytes.extend(code.to_be_bytes());
            bytes.extend((data.len() as u16).to_be_bytes());
            bytes.extend(data);
        }
        for (src, to) in [(546, dhcp6::message::ALL_SERVERS), (547, GATEWAY6)] {
            let frame = udp6((MAC, GATEWAY_MAC), (OTHER_ADDRESS6, src), (to, 547), &bytes);
            say(&mut [Bed::new(everything()), Bed::new(relays())], &frame);
        }
    }

    #[test]
    fn a_datagram_is_read_as_it_was_written(
        ends in any::<(Ipv4Addr, Ipv4Addr, Ipv6Addr, Ipv6Addr)>(),
        payload in prop::collection::vec(any::<u8>(), 0..1400),
        port in any::<u16>(),
    ) {
        let datagram = Datagram { src: ends.0, dst: ends.1, src_port: port, dst_port: 68, payload: &payload };
        let frame = frame::udp4((MAC, OTHER_MAC), &datagram);
        let read = frame::read(&frame).expect("valid").expect("for a service");
        prop_assert_eq!(read.message, frame::Message::Dhcp4(datagram));
        let datagram = Datagram { src: ends.2, dst: ends.3, src_port: port, dst_port: 546, payload: &payload };
        let frame = frame::udp6((MAC, OTHER_MAC), &datagram);
        let read = frame::read(&frame).expect("valid").expect("for a service");
        prop_assert_eq!(read.message, frame::Message::Dhcp6(datagram));
        prop_assert_eq!((read.src, read.dst), (MAC, OTHER_MAC));
        // A bit that flipped on the way is noticed.
        let mut damaged = frame.clone();
        let at = 14 + 40 + 8 + payload.len() / 2;
        if let Some(byte) = damaged.get_mut(at).filter(|_| !payload.is_empty()) {
            *byte ^= 1;
            prop_assert!(frame::read(&damaged).is_err());
        }
    }

    #[test]
    fn a_relayed_message_keeps_its_options(options in options(), xid in any::<u32>()) {
        let given: Vec<(u8, &[u8])> = [(53, &[1][..])]
            .into_iter()
            .chain(options.iter().filter(|(code, _)| !matches!(code, 0 | 52 | 53 | 82 | 255)).map(|(c, d)| (*c, &d[..])))
            .collect();
        let client = Client { xid, ..Client::default() };
        let before = Message::read(&client.message(&given)).expect("valid");
        let mut bed = Bed::new(relays());
        let (verdict, sent) = bed.receive(PORT, &client.frame(&given));
        if verdict == Verdict::Consumed {
            let read = frame::read(&sent[0].1).expect("valid").expect("for a service");
            let frame::Message::Dhcp4(datagram) = read.message else { panic!("{read:?}") };
            let after = Message::read(datagram.payload).expect("valid");
            prop_assert_eq!((after.xid, after.hops, after.giaddr), (xid, 1, GATEWAY));
            for (code, _) in &given {
                prop_assert_eq!(after.options.get(*code), before.options.get(*code));
            }
        }
    }
}
