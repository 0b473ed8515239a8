//! The DHCP relay: RFC 1542 §4, RFC 3046.

use std::net::Ipv4Addr;

use policy::{Mac, PortId};
use vswitch::services::{
    Destination, Verdict,
    dhcp4::{
        message::{Kind, Message, option},
        relay::MOST_OF_A_VNIC,
    },
    frame,
    plan::{Mode4, Plan, Relay4},
    refusal::Refusal,
};

use crate::{bed::*, dhcp4::heard};

const FIRST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const TIMEOUT_NS: u64 = 2 * SECOND_NS;
const AGENT: &[u8] = b"\x01\x08one-port\x02\x06one-vm";
const DISCOVER: [(u8, &[u8]); 2] = [(53, &[1]), (61, b"\x01client")];

fn a_relay(fallback: bool) -> Plan {
    let mut plan = a_plan();
    for vnic in &mut plan.vnics {
        vnic.dhcp4.mode = Mode4::Relay(Relay4 {
            servers: vec![FIRST, SECOND],
            timeout_ms: 2000,
            max_hops: 4,
            fallback,
        });
    }
    plan
}

/// The message in a frame for the router, and the server it is for.
fn relayed((to, frame): &Sent) -> (Ipv4Addr, Message) {
    assert_eq!(*to, Destination::Route);
    let received = frame::read(frame).expect("valid").expect("for a service");
    assert_eq!((received.src, received.dst), (GATEWAY_MAC, GATEWAY_MAC));
    let frame::Message::Dhcp4(datagram) = received.message else {
        panic!("{received:?}");
    };
    assert_eq!(
        (datagram.src, datagram.src_port, datagram.dst_port),
        (GATEWAY, 67, 67)
    );
    (
        datagram.dst,
        Message::read(datagram.payload).expect("valid"),
    )
}

/// What a server answers to a relay.
struct Server {
    address: Ipv4Addr,
    kind: Kind,
    yiaddr: Ipv4Addr,
    flags: u16,
    xid: u32,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            address: FIRST,
            kind: Kind::Offer,
            yiaddr: ADDRESS,
            flags: 0,
            xid: Client::default().xid,
        }
    }
}

impl Server {
    fn frame(&self) -> Vec<u8> {
        let client = Client {
            giaddr: GATEWAY,
            flags: self.flags,
            xid: self.xid,
            ..Client::default()
        };
        let kind = [self.kind as u8];
        let server = self.address.octets();
        let mut message = client.message(&[
            (53, &kind),
            (54, &server),
            (option::RELAY, AGENT),
            (6, &[1, 2, 3, 4]),
        ]);
        message[0] = 2;
        message[16..20].copy_from_slice(&self.yiaddr.octets());
        udp4(
            (STRANGER_MAC, GATEWAY_MAC),
            (self.address, 67),
            (GATEWAY, 67),
            &message,
        )
    }
}

fn discover(bed: &mut Bed) -> Sent {
    let (verdict, mut sent) = bed.receive(PORT, &Client::default().frame(&DISCOVER));
    assert_eq!((verdict, sent.len()), (Verdict::Consumed, 1));
    sent.remove(0)
}

#[test]
fn a_message_goes_to_the_server_with_the_relays_marks_and_the_answer_without() {
    let mut bed = Bed::new(a_relay(false));
    let (server, message) = relayed(&discover(&mut bed));
    assert_eq!(server, FIRST);
    assert_eq!(
        (message.giaddr, message.hops, message.chaddr),
        (GATEWAY, 1, MAC)
    );
    assert_eq!(message.options.get(option::RELAY), Some(AGENT));
    assert_eq!(
        message.options.get(option::CLIENT),
        Some(&b"\x01client"[..])
    );
    let (verdict, sent) = bed.receive(UPLINK, &Server::default().frame());
    assert_eq!(verdict, Verdict::Consumed);
    let (mac, datagram, message) = heard(&sent);
    assert_eq!((mac, datagram.dst, datagram.dst_port), (MAC, ADDRESS, 68));
    assert_eq!(message.options.get(option::RELAY), None);
    assert_eq!(
        message.options.get(option::SERVER),
        Some(&FIRST.octets()[..])
    );
    assert_eq!(message.options.get(6), Some(&[1, 2, 3, 4][..]));
}

#[test]
fn replies_are_broadcast_where_the_client_needs_it() {
    for (kind, flags) in [(Kind::Offer, 0x8000), (Kind::Nak, 0)] {
        let mut bed = Bed::new(a_relay(false));
        discover(&mut bed);
        let (_, sent) = bed.receive(
            UPLINK,
            &Server {
                kind,
                flags,
                ..Server::default()
            }
            .frame(),
        );
        assert_eq!(heard(&sent).0, Mac::BROADCAST, "{kind:?}");
    }
}

#[test]
fn the_next_server_is_asked_when_one_is_silent() {
    let mut bed = Bed::new(a_relay(false));
    discover(&mut bed);
    let sent = bed.wait(TIMEOUT_NS - 1);
    assert!(sent.is_empty());
    let sent = bed.wait(1);
    assert_eq!(relayed(&sent[0].1).0, SECOND);
    // It has an offer: the request goes to it, and nobody else is asked for the discovery.
    bed.receive(
        UPLINK,
        &Server {
            address: SECOND,
            ..Server::default()
        }
        .frame(),
    );
    assert!(bed.wait(10 * TIMEOUT_NS).is_empty());
    let second = SECOND.octets();
    let request = Client::default().frame(&[(53, &[3]), (54, &second), (50, &ADDRESS.octets())]);
    let (_, sent) = bed.receive(PORT, &request);
    assert_eq!(relayed(&sent[0]).0, SECOND);
    let ack = Server {
        address: SECOND,
        kind: Kind::Ack,
        ..Server::default()
    };
    assert_eq!(bed.receive(UPLINK, &ack.frame()).1.len(), 1);
    // It was answered: a second answer is to nothing.
    let again = bed.receive(UPLINK, &ack.frame());
    assert_eq!(again, (Verdict::Refused(Refusal::RelayUnasked), vec![]));
    assert_eq!(
        bed.services.refusals().get(NETWORK, Refusal::RelaySilent),
        0
    );
}

#[test]
fn when_no_server_answers_the_fallback_does_if_there_is_one() {
    for fallback in [false, true] {
        let mut bed = Bed::new(a_relay(fallback));
        discover(&mut bed);
        let mut sent = bed.wait(10 * TIMEOUT_NS);
        assert_eq!(relayed(&sent.remove(0).1).0, SECOND);
        assert_eq!(
            bed.services.refusals().get(NETWORK, Refusal::RelaySilent),
            1
        );
        assert_eq!(sent.len(), usize::from(fallback));
        if let Some((at_ns, offer)) = sent.pop() {
            assert_eq!(at_ns, SECOND_NS + 2 * TIMEOUT_NS);
            let sent = [offer];
            let (_, _, message) = heard(&sent);
            assert_eq!(
                (message.yiaddr, message.options.kind()),
                (ADDRESS, Ok(Kind::Offer))
            );
        }
    }
}

#[test]
fn messages_that_pretend_or_have_gone_far_are_refused() {
    let refused = |client: &Client, options: &[(u8, &[u8])]| {
        let mut bed = Bed::new(a_relay(false));
        match bed.receive(PORT, &client.frame(options)) {
            (Verdict::Refused(refusal), sent) if sent.is_empty() => refusal,
            other => panic!("{other:?}"),
        }
    };
    let none = Client::default();
    let through = Client {
        giaddr: STRANGER,
        ..none.clone()
    };
    assert_eq!(refused(&through, &DISCOVER), Refusal::RelayForged);
    assert_eq!(
        refused(&none, &[(53, &[1]), (82, AGENT)]),
        Refusal::RelayForged
    );
    let far = Client {
        hops: 4,
        ..none.clone()
    };
    assert_eq!(refused(&far, &DISCOVER), Refusal::RelayHops);
    assert_eq!(refused(&none, &[(53, &[5])]), Refusal::DhcpType);
    let long = [(200, &[0; 250][..]); 5];
    let long: Vec<(u8, &[u8])> = [(53, &[1][..])].into_iter().chain(long).collect();
    assert_eq!(refused(&none, &long), Refusal::RelayTooLong);
}

#[test]
fn replies_that_nobody_asked_for_reach_nobody() {
    let mut bed = Bed::new(a_relay(false));
    discover(&mut bed);
    let mut refused = |server: Server, refusal| {
        let said = bed.receive(UPLINK, &server.frame());
        assert_eq!(said, (Verdict::Refused(refusal), vec![]));
    };
    refused(
        Server {
            xid: 1,
            ..Server::default()
        },
        Refusal::RelayUnasked,
    );
    refused(
        Server {
            address: STRANGER,
            ..Server::default()
        },
        Refusal::RelayServer,
    );
    refused(
        Server {
            kind: Kind::Request,
            ..Server::default()
        },
        Refusal::DhcpType,
    );
    // Nor when the vNIC is gone.
    bed.replace(Plan {
        vnics: a_relay(false).vnics.split_off(1),
        ..a_relay(false)
    });
    let said = bed.receive(UPLINK, &Server::default().frame());
    assert_eq!(said, (Verdict::Refused(Refusal::RelayUnasked), vec![]));
}

#[test]
fn one_vnic_cannot_fill_the_table() {
    let mut bed = Bed::new(a_relay(false));
    let ask = |bed: &mut Bed, port: PortId, chaddr, xid| {
        let client = Client {
            chaddr,
            xid,
            ..Client::default()
        };
        bed.receive(port, &client.frame(&DISCOVER)).0
    };
    for xid in 0..MOST_OF_A_VNIC as u32 {
        assert_eq!(ask(&mut bed, PORT, MAC, xid), Verdict::Consumed);
    }
    assert_eq!(
        ask(&mut bed, PORT, MAC, 1000),
        Verdict::Refused(Refusal::RelayFull)
    );
    // One that is known is no more, and another vNIC has its own share.
    assert_eq!(ask(&mut bed, PORT, MAC, 0), Verdict::Consumed);
    assert_eq!(ask(&mut bed, OTHER, OTHER_MAC, 0), Verdict::Consumed);
    bed.wait(61 * SECOND_NS);
    assert_eq!(ask(&mut bed, PORT, MAC, 1000), Verdict::Consumed);
}
