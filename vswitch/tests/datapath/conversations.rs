//! A small universe in which frames have connections: models with stateful rules, and datagrams
//! between so few ends that they answer each other by chance. With a little that has none.

use policy::{
    Mac,
    model::{Action, DirectionPolicy, Model, Port, SenderChecks, Vnic},
    rule::Match,
};
use proptest::{prelude::*, sample::select};

use super::universe::{Arrival, PORTS, a_rule, numbered};
use crate::bed::{build::*, frames::*};

pub(crate) fn some_model() -> impl Strategy<Value = Model> {
    let port = (
        prop::bool::weighted(0.15),
        prop::option::weighted(0.8, some_vnic()),
    );
    let port = port.prop_map(|(elsewhere, vnic)| Port {
        vnic,
        ..access(0, u16::from(elsewhere))
    });
    prop::collection::vec(port, PORTS as usize).prop_map(|ports| {
        let ports = (0..).zip(ports).map(|(id, port)| numbered(id, port));
        model([network(0), network(1)], ports)
    })
}

fn some_vnic() -> impl Strategy<Value = Vnic> {
    (direction_policy(), direction_policy()).prop_map(|(inbound, outbound)| Vnic {
        inbound,
        outbound,
        ..vnic(mac(0)).checks(SenderChecks::NONE)
    })
}

fn action() -> impl Strategy<Value = Action> {
    select(vec![
        Action::AllowStateful,
        Action::AllowStateful,
        Action::AllowStateful,
        Action::Allow,
        Action::Deny,
        Action::Reject,
    ])
}

fn direction_policy() -> impl Strategy<Value = DirectionPolicy> {
    let rules = prop::collection::vec(a_rule(action(), a_match()), 0..4);
    (action(), rules).prop_map(|(default, rules)| direction(default, rules))
}

/// Every one is for some datagram.
fn a_match() -> impl Strategy<Value = Match> {
    let udp = Match {
        protocol: Some(UDP),
        ..Match::default()
    };
    let net = |net: &str| net.parse().ok();
    select(vec![
        Match::default(),
        udp.clone(),
        Match {
            dst_ports: vec![1..=1],
            ..udp.clone()
        },
        Match {
            src_ports: vec![2..=2],
            ..udp
        },
        Match {
            src: net("10.0.0.0/30"),
            ..Match::default()
        },
        Match {
            dst: net("10.0.0.2/31"),
            ..Match::default()
        },
    ])
}

/// A frame from where its addresses belong.
pub(crate) fn arrival() -> impl Strategy<Value = Arrival> {
    let to = prop_oneof![9 => (0..PORTS).prop_map(Some), 1 => Just(None)];
    let ends = select(vec![(1, 1), (1, 2), (2, 1)]);
    (0..PORTS, to, 0..PORTS, ends, 0..8u8).prop_map(|(port, to, address, ends, kind)| {
        let [from, address] = [port, address].map(|port| port as u8 + 1);
        let to = to.map_or(BROADCAST, |to| mac(to as u8 + 1));
        let address = if to == BROADCAST { address } else { to.0[5] };
        Arrival::sound(port, frame(kind, from, to, address, ends))
    })
}

fn frame(kind: u8, from: u8, to: Mac, address: u8, (src, dst): (u16, u16)) -> Vec<u8> {
    let [own, address] = [from, address].map(|last| [10, 0, 0, last]);
    match kind {
        0 => plain(to, mac(from)),
        1 => ether(to, mac(from), ARP, &arp(1, mac(from), own, address)),
        _ => ether(
            to,
            mac(from),
            IPV4,
            &ipv4(own, address, UDP, &udp(src, dst)),
        ),
    }
}
