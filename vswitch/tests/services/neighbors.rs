//! ARP and neighbour discovery: RFC 826, RFC 5227, RFC 4861 §7, RFC 4862 §5.4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::{Mac, PortId};
use smoltcp::wire::{EthernetAddress, Icmpv6Packet, Icmpv6Repr, NdiscNeighborFlags, NdiscRepr};
use vswitch::services::{
    Destination, Event, Verdict,
    frame::{self, Arp},
    nd::{self, ALL_NODES, Body, solicited_node},
    plan::link_local,
    refusal::Refusal,
};

use crate::bed::*;

const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const NONE6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

/// A neighbour solicitation; from :: without the sender's Ethernet address.
pub(crate) fn solicit(mac: Mac, src: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let lladdr = (!src.is_unspecified()).then(|| EthernetAddress(mac.0).into());
    ndisc(
        mac,
        src,
        solicited_node(target),
        &NdiscRepr::NeighborSolicit {
            target_addr: target,
            lladdr,
        },
    )
}

pub(crate) fn ndisc(mac: Mac, src: Ipv6Addr, dst: Ipv6Addr, message: &NdiscRepr<'_>) -> Vec<u8> {
    let repr = Icmpv6Repr::Ndisc(*message);
    let mut body = vec![0; repr.buffer_len()];
    let sums = smoltcp::phy::ChecksumCapabilities::default();
    repr.emit(
        &src,
        &dst,
        &mut Icmpv6Packet::new_unchecked(&mut body[..]),
        &sums,
    );
    let [.., a, b, c, d] = dst.octets();
    let mut frame = vec![0x33, 0x33, a, b, c, d];
    frame.extend(mac.0);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((body.len() as u16).to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(src.octets());
    frame.extend(dst.octets());
    frame.extend(body);
    frame
}

/// The ARP reply that was sent to `port`.
fn replied(port: PortId, (verdict, sent): &(Verdict, Vec<Sent>)) -> Option<(Mac, Arp)> {
    let [(to, frame)] = &sent[..] else {
        assert_eq!((*verdict, sent.len()), (Verdict::Pass, 0));
        return None;
    };
    assert_eq!(
        (*to, *verdict),
        (Destination::Port(port), Verdict::Consumed)
    );
    let received = frame::read(frame).expect("valid").expect("for a service");
    let frame::Message::Arp(arp) = received.message else {
        panic!("{received:?}");
    };
    assert!(arp.reply);
    Some((received.dst, arp))
}

#[test]
fn the_gateway_and_known_vnics_are_answered_for() {
    let mut bed = Bed::new(a_plan());
    for (target, owner) in [
        (GATEWAY, Some(GATEWAY_MAC)),
        (OTHER_ADDRESS, Some(OTHER_MAC)),
        (STRANGER, None),
    ] {
        let said = bed.receive(PORT, &arp(MAC, ADDRESS, target));
        let reply = replied(PORT, &said);
        let Some((dst, reply)) = reply else {
            assert_eq!(owner, None, "{target}");
            continue;
        };
        assert_eq!((dst, reply.target_mac, reply.target), (MAC, MAC, ADDRESS));
        assert_eq!((Some(reply.sender_mac), reply.sender), (owner, target));
    }
}

#[test]
fn a_vnic_is_not_answered_for_its_own_address() {
    let mut bed = Bed::new(a_plan());
    let probe = arp(MAC, NONE, ADDRESS);
    for port in [PORT, UPLINK] {
        assert_eq!(bed.receive(port, &probe), (Verdict::Pass, vec![]));
    }
    // Nor when it announces the address.
    assert_eq!(
        bed.receive(PORT, &arp(MAC, ADDRESS, ADDRESS)),
        (Verdict::Pass, vec![])
    );
    let probe = solicit(MAC, NONE6, ADDRESS6);
    assert_eq!(bed.receive(PORT, &probe), (Verdict::Pass, vec![]));
    assert!(
        bed.events
            .iter()
            .all(|event| matches!(event, Event::Neighbor { .. }))
    );
}

#[test]
fn a_probe_for_anothers_address_is_answered() {
    let mut bed = Bed::new(a_plan());
    for (target, owner) in [(ADDRESS, MAC), (GATEWAY, GATEWAY_MAC)] {
        let said = bed.receive(OTHER, &arp(OTHER_MAC, NONE, target));
        let (dst, reply) = replied(OTHER, &said).expect("answered");
        assert_eq!(
            (dst, reply.sender_mac, reply.sender),
            (OTHER_MAC, owner, target)
        );
        assert_eq!(reply.target, NONE);
    }
    for (target, owner) in [(ADDRESS6, MAC), (GATEWAY6, GATEWAY_MAC)] {
        let (verdict, sent) = bed.receive(OTHER, &solicit(OTHER_MAC, NONE6, target));
        assert_eq!(verdict, Verdict::Consumed);
        // RFC 4861 §7.2.4: to all nodes, not solicited.
        let (flags, mac, dst) = advert(&sent, OTHER, target);
        assert_eq!((mac, dst), (owner, Mac([0x33, 0x33, 0, 0, 0, 1])));
        assert!(!flags.contains(NdiscNeighborFlags::SOLICITED));
    }
    assert!(bed.events.is_empty());
}

/// The flags, owner and Ethernet destination of the advertisement that was sent to `port`.
fn advert(sent: &[Sent], port: PortId, target: Ipv6Addr) -> (NdiscNeighborFlags, Mac, Mac) {
    let [(to, frame)] = sent else {
        panic!("{sent:?}");
    };
    assert_eq!(*to, Destination::Port(port));
    let received = frame::read(frame).expect("valid").expect("for a service");
    let frame::Message::Nd(nd::Message { src, body }) = received.message else {
        panic!("{received:?}");
    };
    let Body::NeighborAdvert { target: told, mac } = body else {
        panic!("{body:?}");
    };
    assert_eq!((src, told), (target, target));
    let flags = NdiscNeighborFlags::from_bits_truncate(frame[14 + 40 + 4]);
    (flags, mac.expect("said"), received.dst)
}

#[test]
fn solicitations_are_answered_with_the_right_flags() {
    let mut bed = Bed::new(a_plan());
    let all = NdiscNeighborFlags::all();
    for (target, owner, expected) in [
        (GATEWAY6, GATEWAY_MAC, all),
        (link_local(GATEWAY_MAC), GATEWAY_MAC, all),
        (OTHER_ADDRESS6, OTHER_MAC, NdiscNeighborFlags::SOLICITED),
    ] {
        let (_, sent) = bed.receive(PORT, &solicit(MAC, ADDRESS6, target));
        assert_eq!(advert(&sent, PORT, target), (expected, owner, MAC));
    }
    let (verdict, sent) = bed.receive(PORT, &solicit(MAC, ADDRESS6, Ipv6Addr::LOCALHOST));
    assert_eq!((verdict, sent), (Verdict::Pass, vec![]));
}

#[test]
fn only_the_owner_knows_whether_it_is_still_there_and_whether_it_routes() {
    let mut plan = a_plan();
    plan.vnics[1].router = true;
    let mut bed = Bed::new(plan.clone());
    assert_eq!(
        bed.receive(PORT, &solicit(MAC, ADDRESS6, OTHER_ADDRESS6)).0,
        Verdict::Pass
    );
    assert_eq!(
        bed.receive(PORT, &arp(MAC, ADDRESS, OTHER_ADDRESS)).0,
        Verdict::Consumed
    );
    let mut unicast = arp(MAC, ADDRESS, OTHER_ADDRESS);
    unicast[..6].copy_from_slice(&OTHER_MAC.0);
    assert_eq!(bed.receive(PORT, &unicast), (Verdict::Pass, vec![]));
    let mut to_gateway = arp(MAC, ADDRESS, GATEWAY);
    to_gateway[..6].copy_from_slice(&GATEWAY_MAC.0);
    assert_eq!(bed.receive(PORT, &to_gateway).0, Verdict::Consumed);
    plan.networks[0].neighbors.proxy = false;
    let mut bed = Bed::new(plan);
    assert_eq!(
        bed.receive(PORT, &arp(MAC, ADDRESS, OTHER_ADDRESS)).0,
        Verdict::Pass
    );
    assert_eq!(
        bed.receive(PORT, &arp(MAC, ADDRESS, GATEWAY)).0,
        Verdict::Consumed
    );
}

#[test]
fn claims_are_told_and_the_gateways_address_is_defended() {
    let mut bed = Bed::new(a_plan());
    bed.receive(UPLINK, &arp(STRANGER_MAC, STRANGER, GATEWAY));
    let neighbor = |address: IpAddr, mac| Event::Neighbor {
        network: NETWORK,
        port: UPLINK,
        address,
        mac,
    };
    assert_eq!(
        std::mem::take(&mut bed.events),
        [neighbor(STRANGER.into(), STRANGER_MAC)]
    );
    let conflict = |address: IpAddr, owner| Event::Conflict {
        network: NETWORK,
        port: UPLINK,
        address,
        mac: STRANGER_MAC,
        owner,
    };
    // Of a vNIC: it defends itself.
    let claim = arp(STRANGER_MAC, ADDRESS, ADDRESS);
    assert_eq!(bed.receive(UPLINK, &claim), (Verdict::Pass, vec![]));
    assert_eq!(
        std::mem::take(&mut bed.events),
        [conflict(ADDRESS.into(), MAC)]
    );
    // Of the gateway: the switch does, once in ten seconds, and nobody hears the claim.
    let claim = arp(STRANGER_MAC, GATEWAY, GATEWAY);
    for _ in 0..2 {
        let (verdict, sent) = bed.receive(UPLINK, &claim);
        assert_eq!((verdict, sent.len()), (Verdict::Consumed, 1));
        let (to, frame) = &sent[0];
        assert_eq!(*to, Destination::Flood { except: None });
        assert_eq!(*frame, arp(GATEWAY_MAC, GATEWAY, GATEWAY));
        assert_eq!(
            std::mem::take(&mut bed.events),
            [conflict(GATEWAY.into(), GATEWAY_MAC)]
        );
        assert_eq!(bed.receive(UPLINK, &claim), (Verdict::Consumed, vec![]));
        assert!(bed.events.is_empty());
        bed.now_ns += 10 * SECOND_NS;
    }
    let claim = nd::advert(
        (STRANGER_MAC, Mac::BROADCAST),
        ALL_NODES,
        &nd::Advert {
            target: GATEWAY6,
            mac: STRANGER_MAC,
            router: false,
            solicited: false,
            overrides: true,
        },
    );
    let (verdict, sent) = bed.receive(UPLINK, &claim);
    assert_eq!((verdict, sent.len()), (Verdict::Consumed, 1));
    assert_eq!(bed.events, [conflict(GATEWAY6.into(), GATEWAY_MAC)]);
    // The gateway on another host is no conflict.
    bed.events.clear();
    assert_eq!(
        bed.receive(UPLINK, &arp(GATEWAY_MAC, GATEWAY, STRANGER)).0,
        Verdict::Pass
    );
    assert!(bed.events.is_empty());
}

#[test]
fn where_nobody_answers_in_time_the_gateway_does() {
    let mut plan = a_plan();
    plan.networks[0].neighbors.fallback_ms = Some(500);
    let mut bed = Bed::new(plan);
    let question = arp(MAC, ADDRESS, STRANGER);
    for _ in 0..3 {
        assert_eq!(bed.receive(PORT, &question), (Verdict::Pass, vec![]));
    }
    let sent = bed.wait(SECOND_NS);
    assert_eq!(
        sent.len(),
        1,
        "one answer to a question that was asked again"
    );
    let (at_ns, answer) = sent.into_iter().next().expect("one");
    assert_eq!(at_ns, SECOND_NS + 500_000_000);
    let (_, reply) = replied(PORT, &(Verdict::Consumed, vec![answer])).expect("answered");
    assert_eq!((reply.sender_mac, reply.sender), (GATEWAY_MAC, STRANGER));
    // Somebody answers.
    bed.receive(PORT, &question);
    bed.receive(UPLINK, &arp(STRANGER_MAC, STRANGER, ADDRESS));
    assert!(bed.wait(SECOND_NS).is_empty());
    // Probes, announcements, and addresses that are not of the link.
    for frame in [
        arp(MAC, NONE, STRANGER),
        arp(STRANGER_MAC, STRANGER, STRANGER),
        arp(MAC, ADDRESS, Ipv4Addr::new(10, 2, 0, 1)),
    ] {
        bed.receive(PORT, &frame);
        assert!(bed.wait(SECOND_NS).is_empty());
    }
}

#[test]
fn a_vnic_that_appears_is_announced_to_others() {
    let mut bed = Bed::new(a_plan());
    bed.services.appeared(PORT, bed.now_ns);
    let sent = bed.wait(10 * SECOND_NS);
    let others = Destination::Flood { except: Some(PORT) };
    assert!(sent.iter().all(|(_, (to, _))| *to == others));
    let times: Vec<u64> = sent
        .iter()
        .step_by(3)
        .map(|(ns, _)| ns / SECOND_NS)
        .collect();
    assert_eq!((sent.len(), times), (9, vec![1, 2, 3]));
    assert_eq!(sent[0].1.1[12..14], [0x80, 0x35]);
    assert_eq!(sent[1].1.1, arp(MAC, ADDRESS, ADDRESS));
    let advert = frame::read(&sent[2].1.1)
        .expect("valid")
        .expect("for a service");
    let frame::Message::Nd(message) = advert.message else {
        panic!("{advert:?}");
    };
    let own = Body::NeighborAdvert {
        target: ADDRESS6,
        mac: Some(MAC),
    };
    assert_eq!(message.body, own);
    // About to move: until it does not after all.
    bed.services.moving(PORT, true, bed.now_ns);
    assert_eq!(bed.wait(9 * SECOND_NS).len(), 30);
    bed.services.moving(PORT, false, bed.now_ns);
    assert!(bed.wait(100 * SECOND_NS).is_empty());
}

#[test]
fn messages_that_break_the_rules_are_refused() {
    let mut bed = Bed::new(a_plan());
    let mut refused = |frame: &[u8], refusal| {
        let said = bed.receive(PORT, frame);
        assert_eq!(said, (Verdict::Refused(refusal), vec![]));
    };
    let changed = |frame: &[u8], at: usize, to: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + to.len()].copy_from_slice(to);
        frame
    };
    let question = arp(MAC, ADDRESS, GATEWAY);
    refused(&question[..10], Refusal::Malformed);
    refused(&question[..30], Refusal::Malformed);
    refused(&changed(&question, 14, &[0, 6]), Refusal::ArpForm);
    refused(&changed(&question, 20, &[0, 3]), Refusal::ArpForm);
    refused(&changed(&question, 22, &[255; 6]), Refusal::ArpSender);
    refused(&changed(&question, 28, &[224, 0, 0, 1]), Refusal::ArpSender);
    let question = solicit(MAC, ADDRESS6, GATEWAY6);
    refused(&changed(&question, 21, &[254]), Refusal::NdHopLimit);
    refused(&changed(&question, 56, &[9]), Refusal::Checksum);
    refused(&solicit(MAC, ADDRESS6, ALL_NODES), Refusal::NdForm);
    let to_all = NdiscRepr::NeighborSolicit {
        target_addr: GATEWAY6,
        lladdr: None,
    };
    refused(
        &ndisc(MAC, NONE6, ALL_NODES, &to_all),
        Refusal::NdUnspecified,
    );
    let says = Some(EthernetAddress(MAC.0).into());
    let says_address = NdiscRepr::NeighborSolicit {
        target_addr: GATEWAY6,
        lladdr: says,
    };
    let group = solicited_node(GATEWAY6);
    refused(
        &ndisc(MAC, NONE6, group, &says_address),
        Refusal::NdUnspecified,
    );
    let says_address = NdiscRepr::RouterSolicit { lladdr: says };
    refused(
        &ndisc(MAC, NONE6, group, &says_address),
        Refusal::NdUnspecified,
    );
}

#[test]
fn a_vnic_whose_port_does_not_work_is_not_answered_for() {
    let mut bed = Bed::new(a_plan());
    let four = arp(MAC, ADDRESS, OTHER_ADDRESS);
    let six = solicit(MAC, ADDRESS6, OTHER_ADDRESS6);
    let is_answered = |bed: &mut Bed, frame: &[u8]| {
        let (verdict, sent) = bed.receive(PORT, frame);
        assert_eq!(verdict == Verdict::Consumed, sent.len() == 1);
        verdict == Verdict::Consumed
    };
    assert!(is_answered(&mut bed, &four) && is_answered(&mut bed, &six));
    bed.services.disappeared(OTHER);
    // Others may know where its VM is.
    assert!(!is_answered(&mut bed, &four) && !is_answered(&mut bed, &six));
    assert!(is_answered(&mut bed, &arp(MAC, ADDRESS, GATEWAY)));
    bed.services.appeared(OTHER, bed.now_ns);
    assert!(is_answered(&mut bed, &four) && is_answered(&mut bed, &six));
}
