//! `DHCPv6`: RFC 8415 §16, §18.3, §19.

use std::net::Ipv6Addr;

use policy::Mac;
use vswitch::services::{
    Destination, Event, Verdict,
    dhcp6::{
        message::{ALL_SERVERS, Association, Kind, Message, RelayMessage, Status, Writer, option},
        server::identifier,
    },
    frame::{self, Datagram},
    plan::{Mode6, Plan, Relay6, link_local},
    refusal::Refusal,
};

use crate::bed::*;

const CLIENT: &[u8] = b"\0\x03\0\x01\x02\0\0\0\0\x01";
const XID: [u8; 3] = [1, 2, 3];
const STRANGER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 9);

pub(crate) fn udp6(
    macs: (Mac, Mac),
    src: (Ipv6Addr, u16),
    dst: (Ipv6Addr, u16),
    payload: &[u8],
) -> Vec<u8> {
    let datagram = Datagram {
        src: src.0,
        dst: dst.0,
        src_port: src.1,
        dst_port: dst.1,
        payload,
    };
    frame::udp6(macs, &datagram)
}

fn from_client(to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let group = Mac([0x33, 0x33, 0, 1, 0, 2]);
    udp6((MAC, group), (link_local(MAC), 546), (to, 547), payload)
}

fn message(kind: Kind, options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::message(kind, XID);
    for (code, data) in options {
        writer.option(*code, data);
    }
    writer.finish().expect("short")
}

/// An association with addresses.
fn association(id: u8, addresses: &[Ipv6Addr]) -> Vec<u8> {
    let mut data = vec![0, 0, 0, id];
    data.extend([0; 8]);
    for address in addresses {
        data.extend([0, 5, 0, 24]);
        data.extend(address.octets());
        data.extend([0; 8]);
    }
    data
}

fn ask(kind: Kind, options: &[(u16, &[u8])]) -> (Verdict, Vec<Sent>, Vec<Event>) {
    let mut bed = Bed::new(a_plan());
    let (verdict, sent) = bed.receive(PORT, &from_client(ALL_SERVERS, &message(kind, options)));
    (verdict, sent, bed.events)
}

/// The bytes of the answer that a frame carries.
fn payload(sent: &[Sent]) -> &[u8] {
    let [(Destination::Port(PORT), frame)] = sent else {
        panic!("{sent:?}");
    };
    let received = frame::read(frame).expect("valid").expect("for a service");
    assert_eq!((received.src, received.dst), (GATEWAY_MAC, MAC));
    let frame::Message::Dhcp6(datagram) = received.message else {
        panic!("{received:?}");
    };
    let ends = (
        datagram.src,
        datagram.dst,
        datagram.src_port,
        datagram.dst_port,
    );
    assert_eq!(ends, (link_local(GATEWAY_MAC), link_local(MAC), 547, 546));
    datagram.payload
}

fn heard(sent: &[Sent]) -> Message<'_> {
    let message = Message::read(payload(sent)).expect("valid");
    assert_eq!(message.xid, XID);
    assert_eq!(
        message.options.get(option::SERVER),
        Some(&identifier(GATEWAY_MAC)[..])
    );
    message
}

fn status(data: Option<&[u8]>) -> Option<u16> {
    data.map(|data| u16::from_be_bytes([data[0], data[1]]))
}

/// The status within an association.
fn status_of(association: &[u8], header_bytes: usize) -> Option<u16> {
    let options = vswitch::services::dhcp6::message::Options::read(&association[header_bytes..]);
    status(options.expect("valid").get(option::STATUS))
}

#[test]
fn a_solicitation_is_advertised_and_a_request_gets_the_address() {
    let server = identifier(GATEWAY_MAC);
    let own = association(7, &[]);
    let oro = [0, 23, 0, 24, 0, 59];
    let solicit: [(u16, &[u8]); 3] = [
        (option::CLIENT, CLIENT),
        (option::IA_NA, &own),
        (option::ORO, &oro),
    ];
    let mut request = solicit.to_vec();
    request.push((option::SERVER, &server));
    let mut rapid = solicit.to_vec();
    rapid.push((option::RAPID_COMMIT, &[]));
    for (kind, options, answer) in [
        (Kind::Solicit, &solicit[..], Kind::Advertise),
        (Kind::Solicit, &rapid, Kind::Reply),
        (Kind::Request, &request, Kind::Reply),
        (Kind::Renew, &request, Kind::Reply),
        (Kind::Rebind, &solicit, Kind::Reply),
    ] {
        let (verdict, sent, _) = ask(kind, options);
        assert_eq!(verdict, Verdict::Consumed);
        let reply = heard(&sent);
        assert_eq!(reply.kind, answer);
        assert_eq!(reply.options.get(option::CLIENT), Some(CLIENT));
        assert_eq!(
            reply.options.get(option::RAPID_COMMIT).is_some(),
            options.len() == 4 && kind == Kind::Solicit
        );
        let given = reply.options.get(option::IA_NA).expect("an association");
        let read = Association::read(given).expect("valid");
        assert_eq!((read.id, read.addresses), ([0, 0, 0, 7], vec![ADDRESS6]));
        // T1 and T2, then the lifetimes.
        assert_eq!(
            given[4..12],
            [500_u32.to_be_bytes(), 800_u32.to_be_bytes()].concat()
        );
        assert_eq!(
            given[32..40],
            [1000_u32.to_be_bytes(), 2000_u32.to_be_bytes()].concat()
        );
        let dns = a_plan().vnics[0].dhcp6.settings.dns[0].octets();
        assert_eq!(reply.options.get(option::DNS), Some(&dns[..]));
        assert_eq!(
            reply.options.get(option::SEARCH),
            Some(&b"\x04blue\x07example\0"[..])
        );
        assert_eq!(
            reply.options.get(option::BOOT_FILE),
            Some(&b"tftp://[fd00:1::2]/boot.efi"[..])
        );
    }
}

#[test]
fn what_the_vnic_does_not_have_is_not_given() {
    let first = association(1, &[STRANGER6]);
    let second = association(2, &[]);
    let temporary = [0, 0, 0, 3];
    let prefix = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0];
    let options: [(u16, &[u8]); 5] = [
        (option::CLIENT, CLIENT),
        (option::IA_NA, &first),
        (option::IA_NA, &second),
        (option::IA_TA, &temporary),
        (option::IA_PD, &prefix),
    ];
    let (_, sent, _) = ask(Kind::Rebind, &options);
    let reply = heard(&sent);
    let given: Vec<&[u8]> = reply.options.all(option::IA_NA).collect();
    let addresses = Association::read(given[0]).expect("valid").addresses;
    // The foreign one with lifetimes of nothing.
    assert_eq!(addresses, [ADDRESS6, STRANGER6]);
    assert_eq!(given[0][given[0].len() - 8..], [0; 8]);
    assert_eq!(status_of(given[1], 12), Some(Status::NoAddrsAvail as u16));
    let temporary = reply.options.get(option::IA_TA).expect("told");
    assert_eq!(status_of(temporary, 4), Some(Status::NoAddrsAvail as u16));
    let prefix = reply.options.get(option::IA_PD).expect("told");
    assert_eq!(status_of(prefix, 12), Some(Status::NoPrefixAvail as u16));
}

#[test]
fn a_confirmation_says_whether_addresses_are_of_the_link() {
    for (addresses, expected) in [
        (vec![ADDRESS6], Status::Success),
        (vec![ADDRESS6, STRANGER6], Status::NotOnLink),
    ] {
        let own = association(1, &addresses);
        let (_, sent, _) = ask(
            Kind::Confirm,
            &[(option::CLIENT, CLIENT), (option::IA_NA, &own)],
        );
        let reply = heard(&sent);
        assert_eq!(
            status(reply.options.get(option::STATUS)),
            Some(expected as u16)
        );
    }
    let none = association(1, &[]);
    let (verdict, sent, _) = ask(
        Kind::Confirm,
        &[(option::CLIENT, CLIENT), (option::IA_NA, &none)],
    );
    assert_eq!(verdict, Verdict::Refused(Refusal::Dhcp6NothingToConfirm));
    assert!(sent.is_empty());
}

#[test]
fn release_and_decline_are_acknowledged() {
    let server = identifier(GATEWAY_MAC);
    let own = association(1, &[ADDRESS6, STRANGER6]);
    let options: [(u16, &[u8]); 3] = [
        (option::CLIENT, CLIENT),
        (option::SERVER, &server),
        (option::IA_NA, &own),
    ];
    let (_, sent, events) = ask(Kind::Release, &options);
    let reply = heard(&sent);
    assert_eq!(status(reply.options.get(option::STATUS)), Some(0));
    let foreign = reply.options.get(option::IA_NA).expect("told");
    assert_eq!(status_of(foreign, 12), Some(Status::NoBinding as u16));
    assert!(events.is_empty());
    let (_, _, events) = ask(Kind::Decline, &options);
    let told = Event::Declined {
        network: NETWORK,
        port: PORT,
        address: ADDRESS6.into(),
    };
    assert_eq!(events, [told]);
}

#[test]
fn settings_are_told_without_state() {
    let oro = [0, 23, 0, 32];
    let (_, sent, _) = ask(Kind::InformationRequest, &[(option::ORO, &oro)]);
    let reply = heard(&sent);
    assert_eq!(reply.kind, Kind::Reply);
    assert!(reply.options.get(option::DNS).is_some());
    assert!(reply.options.get(option::SEARCH).is_none());
    assert_eq!(
        reply.options.get(option::REFRESH),
        Some(&86_400_u32.to_be_bytes()[..])
    );
    let mut plan = a_plan();
    plan.vnics[0].dhcp6.mode = Mode6::Stateless;
    let mut bed = Bed::new(plan);
    let request = message(Kind::InformationRequest, &[]);
    let (_, sent) = bed.receive(PORT, &from_client(ALL_SERVERS, &request));
    assert!(heard(&sent).options.get(option::DNS).is_some());
    let solicit = message(Kind::Solicit, &[(option::CLIENT, CLIENT)]);
    let (verdict, _) = bed.receive(PORT, &from_client(ALL_SERVERS, &solicit));
    assert_eq!(verdict, Verdict::Refused(Refusal::Dhcp6NoAddresses));
}

#[test]
fn messages_have_the_identifiers_that_section_16_demands() {
    let refused = |kind, options: &[(u16, &[u8])]| match ask(kind, options) {
        (Verdict::Refused(refusal), sent, _) if sent.is_empty() => refusal,
        other => panic!("{other:?}"),
    };
    let client: (u16, &[u8]) = (option::CLIENT, CLIENT);
    let server = identifier(GATEWAY_MAC);
    let server: (u16, &[u8]) = (option::SERVER, &server);
    for kind in [Kind::Solicit, Kind::Confirm, Kind::Rebind] {
        assert_eq!(refused(kind, &[]), Refusal::Dhcp6Identity);
        assert_eq!(refused(kind, &[client, server]), Refusal::Dhcp6Identity);
    }
    for kind in [Kind::Request, Kind::Renew, Kind::Release, Kind::Decline] {
        assert_eq!(refused(kind, &[server]), Refusal::Dhcp6Identity);
        assert_eq!(refused(kind, &[client]), Refusal::Dhcp6Identity);
        let other: (u16, &[u8]) = (option::SERVER, b"other");
        assert_eq!(refused(kind, &[client, other]), Refusal::Dhcp6OtherServer);
    }
    let own = association(1, &[]);
    let own: (u16, &[u8]) = (option::IA_NA, &own);
    assert_eq!(
        refused(Kind::InformationRequest, &[own]),
        Refusal::Dhcp6Identity
    );
    for kind in [Kind::Advertise, Kind::Reply, Kind::Reconfigure] {
        assert_eq!(refused(kind, &[client]), Refusal::Dhcp6Type);
    }
    let short: (u16, &[u8]) = (option::IA_NA, &[1, 2, 3]);
    assert_eq!(refused(Kind::Solicit, &[client, short]), Refusal::Dhcp6Form);
}

#[test]
fn what_does_not_fit_into_a_packet_is_refused() {
    // Each is answered by more bytes than it has.
    let prefix = [0; 12];
    let many = [(option::IA_PD, &prefix[..]); 75];
    let options: Vec<(u16, &[u8])> = [(option::CLIENT, CLIENT)].into_iter().chain(many).collect();
    let (verdict, sent, _) = ask(Kind::Solicit, &options);
    assert_eq!(verdict, Verdict::Refused(Refusal::Dhcp6TooLong));
    assert!(sent.is_empty());
}

#[test]
fn nobody_was_told_that_it_may_send_to_the_server_alone() {
    let mut bed = Bed::new(a_plan());
    let server = identifier(GATEWAY_MAC);
    let renew = message(
        Kind::Renew,
        &[(option::CLIENT, CLIENT), (option::SERVER, &server)],
    );
    let (_, sent) = bed.receive(PORT, &from_client(GATEWAY6, &renew));
    let reply = heard(&sent);
    assert_eq!(
        status(reply.options.get(option::STATUS)),
        Some(Status::UseMulticast as u16)
    );
    let solicit = message(Kind::Solicit, &[(option::CLIENT, CLIENT)]);
    let (verdict, _) = bed.receive(PORT, &from_client(GATEWAY6, &solicit));
    assert_eq!(verdict, Verdict::Refused(Refusal::Dhcp6Type));
}

fn a_relay() -> Plan {
    let mut plan = a_plan();
    for vnic in &mut plan.vnics {
        vnic.dhcp6.mode = Mode6::Relay(Relay6 {
            link: GATEWAY6,
            servers: vec![STRANGER6, OTHER_ADDRESS6],
        });
    }
    plan
}

#[test]
fn a_relay_asks_every_server_and_answers_the_port_that_asked() {
    let mut bed = Bed::new(a_relay());
    let solicit = message(Kind::Solicit, &[(option::CLIENT, CLIENT)]);
    let (verdict, sent) = bed.receive(PORT, &from_client(ALL_SERVERS, &solicit));
    assert_eq!((verdict, sent.len()), (Verdict::Consumed, 2));
    for ((to, frame), server) in sent.iter().zip([STRANGER6, OTHER_ADDRESS6]) {
        assert_eq!(*to, Destination::Route);
        let received = frame::read(frame).expect("valid").expect("for a service");
        let frame::Message::Dhcp6(datagram) = received.message else {
            panic!("{received:?}");
        };
        assert_eq!(
            (datagram.src, datagram.dst, datagram.dst_port),
            (GATEWAY6, server, 547)
        );
        let relayed = RelayMessage::read(datagram.payload).expect("valid");
        assert_eq!((relayed.kind, relayed.hops), (Kind::RelayForward, 0));
        assert_eq!((relayed.link, relayed.peer), (GATEWAY6, link_local(MAC)));
        assert_eq!(
            relayed.options.get(option::INTERFACE_ID),
            Some(&b"one-port"[..])
        );
        assert_eq!(
            relayed.options.get(option::LINK_ADDRESS),
            Some(&[0, 1, 2, 0, 0, 0, 0, 1][..])
        );
        assert_eq!(
            relayed.options.get(option::RELAY_MESSAGE),
            Some(&solicit[..])
        );
    }
    let advertise = message(Kind::Advertise, &[(option::CLIENT, CLIENT)]);
    let reply = |from: Ipv6Addr, interface: &[u8], inner: &[u8]| {
        let mut writer = Writer::relay(Kind::RelayReply, 0, GATEWAY6, link_local(MAC));
        writer.option(option::INTERFACE_ID, interface);
        writer.option(option::RELAY_MESSAGE, inner);
        udp6(
            (STRANGER_MAC, GATEWAY_MAC),
            (from, 547),
            (GATEWAY6, 547),
            &writer.finish().expect("short"),
        )
    };
    let (verdict, sent) = bed.receive(UPLINK, &reply(STRANGER6, b"one-port", &advertise));
    assert_eq!(verdict, Verdict::Consumed);
    assert_eq!(payload(&sent), advertise);
    for (frame, refusal) in [
        (
            reply(ADDRESS6, b"one-port", &advertise),
            Refusal::RelayServer,
        ),
        (
            reply(STRANGER6, b"no-port", &advertise),
            Refusal::RelayUnasked,
        ),
        (reply(STRANGER6, b"one-port", &solicit), Refusal::Dhcp6Type),
        (
            reply(STRANGER6, b"one-port", &advertise[..3]),
            Refusal::Dhcp6Form,
        ),
    ] {
        assert_eq!(
            bed.receive(UPLINK, &frame),
            (Verdict::Refused(refusal), vec![])
        );
    }
}

#[test]
fn a_guest_is_no_relay() {
    let inner = message(Kind::Solicit, &[(option::CLIENT, CLIENT)]);
    let mut forged = Writer::relay(Kind::RelayForward, 0, GATEWAY6, link_local(MAC));
    forged.option(option::RELAY_MESSAGE, &inner);
    let forged = from_client(ALL_SERVERS, &forged.finish().expect("short"));
    for plan in [a_plan(), a_relay()] {
        let (verdict, sent) = Bed::new(plan).receive(PORT, &forged);
        assert_eq!(
            (verdict, sent),
            (Verdict::Refused(Refusal::RelayForged), vec![])
        );
    }
}
