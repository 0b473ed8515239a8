//! DHCP with fixed addresses: RFC 2131 §3, §4.1, §4.3; RFC 3442, RFC 6842.

use std::net::Ipv4Addr;

use policy::Mac;
use vswitch::services::{
    Destination, Event, Verdict,
    dhcp4::message::{Kind, Message, option},
    frame::{self, Datagram},
    plan::Mode4,
    refusal::Refusal,
};

use crate::bed::*;

/// The answer that a frame carries, and how it is addressed.
pub(crate) fn heard(sent: &[Sent]) -> (Mac, Datagram<'_, Ipv4Addr>, Message) {
    let [(to, frame)] = sent else {
        panic!("{} frames", sent.len());
    };
    assert_eq!(*to, Destination::Port(PORT));
    let received = frame::read(frame).expect("valid").expect("for a service");
    let frame::Message::Dhcp4(datagram) = received.message else {
        panic!("{received:?}");
    };
    let message = Message::read(datagram.payload).expect("valid");
    assert!(message.reply);
    (received.dst, datagram, message)
}

fn ask(client: &Client, options: &[(u8, &[u8])]) -> (Verdict, Vec<Sent>) {
    Bed::new(a_plan()).receive(PORT, &client.frame(options))
}

fn refused(client: &Client, options: &[(u8, &[u8])]) -> Refusal {
    let mut bed = Bed::new(a_plan());
    let (verdict, sent) = bed.receive(PORT, &client.frame(options));
    assert!(sent.is_empty());
    let Verdict::Refused(refusal) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(bed.services.refusals().get(NETWORK, refusal), 1);
    refusal
}

const SERVER: [u8; 4] = GATEWAY.octets();
const OWN: [u8; 4] = ADDRESS.octets();
const FOREIGN: [u8; 4] = STRANGER.octets();

#[test]
fn a_discovery_is_offered_the_vnics_address() {
    let options: [(u8, &[u8]); 3] = [
        (53, &[1]),
        (61, b"\x01client"),
        (55, &[121, 3, 1, 6, 15, 26, 28, 12, 119, 43, 66, 67, 42, 99]),
    ];
    let (verdict, sent) = ask(&Client::default(), &options);
    assert_eq!(verdict, Verdict::Consumed);
    let (mac, datagram, message) = heard(&sent);
    assert_eq!((mac, datagram.dst, datagram.dst_port), (MAC, ADDRESS, 68));
    assert_eq!((datagram.src, datagram.src_port), (GATEWAY, 67));
    assert_eq!(message.options.kind(), Ok(Kind::Offer));
    assert_eq!((message.yiaddr, message.xid), (ADDRESS, 0x1234_5678));
    assert_eq!(message.siaddr, Ipv4Addr::new(10, 1, 0, 66));
    for (code, data) in [
        (option::SERVER, &SERVER[..]),
        (option::CLIENT, b"\x01client"),
        (option::LEASE, &3600_u32.to_be_bytes()),
        (option::T1, &1800_u32.to_be_bytes()),
        (option::T2, &3150_u32.to_be_bytes()),
        (option::MASK, &[255, 255, 255, 0]),
        (option::ROUTER, &SERVER),
        (option::DNS, &[10, 1, 0, 53, 10, 1, 0, 54]),
        (option::DOMAIN, b"blue.example"),
        (option::MTU, &1450_u16.to_be_bytes()),
        (option::BROADCAST, &[10, 1, 0, 255]),
        (option::HOSTNAME, b"vm-1"),
        (option::SEARCH, b"\x04blue\x07example\0\x07example\0"),
        (43, &[1, 4, 10, 1, 0, 7]),
        (option::TFTP_SERVER, b"10.1.0.66"),
        (option::BOOT_FILE, b"pxelinux.0"),
        (42, &[10, 1, 0, 123]),
        // RFC 3442: significant octets only, and the default route among them.
        (
            option::ROUTES,
            &[17, 10, 9, 0, 10, 1, 0, 9, 0, 10, 1, 0, 254],
        ),
    ] {
        assert_eq!(message.options.get(code), Some(data), "option {code}");
    }
    assert_eq!(message.options.get(99), None);
    assert_eq!(&datagram.payload[108..119], b"pxelinux.0\0");
}

#[test]
fn options_come_in_the_order_in_which_they_are_asked_for() {
    let order = |asked: &[u8]| {
        let (_, sent) = ask(&Client::default(), &[(53, &[1]), (55, asked)]);
        let (_, datagram, _) = heard(&sent);
        let mut codes = Vec::new();
        let mut rest = &datagram.payload[240..];
        while let [code, length, ..] = rest
            && *code != 255
        {
            codes.push(*code);
            rest = &rest[2 + usize::from(*length)..];
        }
        codes.retain(|code| asked.contains(code) || *code == option::MASK);
        codes
    };
    // The mask before the router whatever the client says (RFC 2132 §3.3).
    assert_eq!(order(&[6, 3, 12, 1]), [1, 6, 3, 12]);
    assert_eq!(order(&[12, 12, 3, 6]), [1, 12, 3, 6]);
}

#[test]
fn a_request_is_answered_by_the_clients_state() {
    let none = Client::default();
    let bound = |ciaddr| Client {
        ciaddr,
        ..Client::default()
    };
    let kind: (u8, &[u8]) = (53, &[3]);
    for (client, options, answer) in [
        // SELECTING
        (
            none.clone(),
            vec![kind, (54, &SERVER), (50, &OWN)],
            Kind::Ack,
        ),
        (
            none.clone(),
            vec![kind, (54, &SERVER), (50, &FOREIGN)],
            Kind::Nak,
        ),
        // INIT-REBOOT
        (none.clone(), vec![kind, (50, &OWN)], Kind::Ack),
        (none.clone(), vec![kind, (50, &FOREIGN)], Kind::Nak),
        // REBINDING
        (bound(ADDRESS), vec![kind], Kind::Ack),
        (bound(STRANGER), vec![kind], Kind::Nak),
        // RENEWING: to the server alone
        (
            Client {
                to: GATEWAY,
                ..bound(ADDRESS)
            },
            vec![kind],
            Kind::Ack,
        ),
    ] {
        let (verdict, sent) = ask(&client, &options);
        assert_eq!(verdict, Verdict::Consumed);
        let (mac, datagram, message) = heard(&sent);
        assert_eq!(message.options.kind(), Ok(answer), "{options:?}");
        assert_eq!(message.options.get(option::SERVER), Some(&SERVER[..]));
        if answer == Kind::Nak {
            assert_eq!((mac, datagram.dst), (Mac::BROADCAST, Ipv4Addr::BROADCAST));
            assert_eq!(message.yiaddr, Ipv4Addr::UNSPECIFIED);
            assert_eq!(message.options.get(option::LEASE), None);
        } else {
            assert_eq!((mac, datagram.dst), (MAC, ADDRESS));
            assert_eq!((message.yiaddr, message.ciaddr), (ADDRESS, client.ciaddr));
        }
    }
}

#[test]
fn requests_that_contradict_themselves_are_refused() {
    let none = Client::default();
    let bound = Client {
        ciaddr: ADDRESS,
        ..Client::default()
    };
    let request: (u8, &[u8]) = (53, &[3]);
    assert_eq!(refused(&none, &[request]), Refusal::DhcpRequest);
    assert_eq!(
        refused(&bound, &[request, (50, &OWN)]),
        Refusal::DhcpRequest
    );
    assert_eq!(
        refused(&bound, &[request, (54, &SERVER)]),
        Refusal::DhcpRequest
    );
    assert_eq!(
        refused(&none, &[request, (54, &FOREIGN), (50, &OWN)]),
        Refusal::DhcpOtherServer
    );
    assert_eq!(
        refused(&none, &[request, (50, &[1, 2])]),
        Refusal::DhcpOptions
    );
    assert_eq!(refused(&none, &[(53, &[8])]), Refusal::DhcpRequest);
    assert_eq!(refused(&none, &[(53, &[4])]), Refusal::DhcpRequest);
    assert_eq!(refused(&none, &[(53, &[2])]), Refusal::DhcpType);
    assert_eq!(refused(&none, &[(53, &[99])]), Refusal::DhcpType);
    assert_eq!(refused(&none, &[]), Refusal::DhcpType);
    assert_eq!(
        refused(&none, &[(53, &[1]), (52, &[4])]),
        Refusal::DhcpOptions
    );
    let other = Client {
        chaddr: OTHER_MAC,
        ..none
    };
    assert_eq!(refused(&other, &[(53, &[1])]), Refusal::DhcpAddress);
}

#[test]
fn answers_go_where_rfc_2131_4_1_says() {
    let discover: [(u8, &[u8]); 1] = [(53, &[1])];
    let broadcast = Client {
        flags: 0x8000,
        ..Client::default()
    };
    let (_, sent) = ask(&broadcast, &discover);
    let (mac, datagram, message) = heard(&sent);
    assert_eq!(
        (mac, datagram.dst, datagram.dst_port),
        (Mac::BROADCAST, Ipv4Addr::BROADCAST, 68)
    );
    assert!(message.broadcast);
    let relayed = Client {
        giaddr: STRANGER,
        ..Client::default()
    };
    let (_, sent) = ask(&relayed, &discover);
    let (_, datagram, message) = heard(&sent);
    assert_eq!((datagram.dst, datagram.dst_port), (STRANGER, 67));
    assert_eq!((message.giaddr, message.broadcast), (STRANGER, false));
    // A relay broadcasts a refusal to the client.
    let (_, sent) = ask(&relayed, &[(53, &[3]), (50, &FOREIGN)]);
    let (_, datagram, message) = heard(&sent);
    assert_eq!((datagram.dst, message.broadcast), (STRANGER, true));
}

#[test]
fn an_inform_is_answered_without_a_lease() {
    let client = Client {
        ciaddr: STRANGER,
        ..Client::default()
    };
    let (_, sent) = ask(&client, &[(53, &[8]), (55, &[6])]);
    let (_, datagram, message) = heard(&sent);
    assert_eq!(message.options.kind(), Ok(Kind::Ack));
    assert_eq!(
        (datagram.dst, message.yiaddr),
        (STRANGER, Ipv4Addr::UNSPECIFIED)
    );
    for code in [option::LEASE, option::T1, option::T2] {
        assert_eq!(message.options.get(code), None);
    }
    assert!(message.options.get(option::DNS).is_some());
}

#[test]
fn a_decline_is_told_and_a_release_changes_nothing() {
    let mut bed = Bed::new(a_plan());
    let client = Client::default();
    let decline = client.frame(&[(53, &[4]), (54, &SERVER), (50, &OWN)]);
    assert_eq!(bed.receive(PORT, &decline), (Verdict::Consumed, vec![]));
    let told = Event::Declined {
        network: NETWORK,
        port: PORT,
        address: ADDRESS.into(),
    };
    assert_eq!(bed.events, [told]);
    let release = Client {
        ciaddr: ADDRESS,
        to: GATEWAY,
        ..client.clone()
    };
    let release = release.frame(&[(53, &[7]), (54, &SERVER)]);
    assert_eq!(bed.receive(PORT, &release), (Verdict::Consumed, vec![]));
    let (_, sent) = bed.receive(PORT, &client.frame(&[(53, &[1])]));
    assert_eq!(heard(&sent).2.yiaddr, ADDRESS);
}

#[test]
fn options_in_parts_and_in_other_fields_are_read() {
    // RFC 3396: the client identifier in three parts; the type in the file field.
    let client = Client::default();
    let mut message = client.message(&[(52, &[1]), (61, b"\x01c"), (61, b"li")]);
    message[108..117].copy_from_slice(&[53, 1, 1, 61, 3, b'e', b'n', b't', 255]);
    let frame = udp4(
        (MAC, Mac::BROADCAST),
        (Ipv4Addr::UNSPECIFIED, 68),
        (Ipv4Addr::BROADCAST, 67),
        &message,
    );
    let (_, sent) = Bed::new(a_plan()).receive(PORT, &frame);
    assert_eq!(
        heard(&sent).2.options.get(option::CLIENT),
        Some(&b"\x01client"[..])
    );
}

#[test]
fn answers_are_no_longer_than_the_client_takes() {
    let mut plan = a_plan();
    let long = vgiven();
    plan.vnics[0].dhcp4.lease = Some(std::sync::Arc::new(long));
    let ask = |most: u16| {
        let parameters: Vec<u8> = (200..210).chain([6]).collect();
        let most = most.to_be_bytes();
        let options: [(u8, &[u8]); 3] = [(53, &[1]), (55, &parameters), (57, &most)];
        let mut bed = Bed::new(plan.clone());
        let (_, sent) = bed.receive(PORT, &Client::default().frame(&options));
        let (_, datagram, message) = heard(&sent);
        let given = (200..210).filter(|code| message.options.get(*code).is_some());
        // What does not fit is left out, what is short enough comes all the same.
        assert!(message.options.get(option::DNS).is_some());
        (datagram.payload.len() + 28, given.count())
    };
    for (most, bound) in [(0, 576), (576, 576), (1200, 1200), (9000, 1500)] {
        let (bytes, given) = ask(most);
        assert!(bytes <= bound, "{bytes} of {most}");
        assert!(given >= (bound - 400) / 202, "{given} of {most}");
    }
}

/// A lease with more options than fit.
fn vgiven() -> vswitch::services::plan::Lease4 {
    let mut lease = lease();
    lease.options = (200..210).map(|code| (code, vec![code; 200])).collect();
    lease
}

#[test]
fn only_vnics_with_dhcp_are_answered() {
    let discover = Client::default().frame(&[(53, &[1])]);
    let mut plan = a_plan();
    assert_eq!(
        Bed::new(plan.clone()).receive(UPLINK, &discover),
        (Verdict::Pass, vec![])
    );
    plan.vnics[0].dhcp4.lease = None;
    let no_lease = Verdict::Refused(Refusal::DhcpNoLease);
    assert_eq!(
        Bed::new(plan.clone()).receive(PORT, &discover),
        (no_lease, vec![])
    );
    plan.vnics[0].dhcp4.mode = Mode4::Off;
    assert_eq!(
        Bed::new(plan).receive(PORT, &discover),
        (Verdict::Pass, vec![])
    );
    // A renewal with a server elsewhere goes there.
    let elsewhere = Client {
        ciaddr: ADDRESS,
        to: STRANGER,
        ..Client::default()
    };
    let (verdict, _) = ask(&elsewhere, &[(53, &[3])]);
    assert_eq!(verdict, Verdict::Pass);
}
