//! Answers to "who has this address?", by ARP and neighbour discovery.
//!
//! The gateway's addresses are answered for always; those of vNICs where the network's proxy is on, by
//! the vNIC's own Ethernet address. What must hold, so that hosts find out about duplicates:
//!
//! - A probe (ARP from 0.0.0.0, RFC 5227 §2.1; a solicitation from ::, RFC 4862 §5.4) by the address's own
//!   vNIC is never answered: it would take that for another's claim and give its address up. It
//!   passes, for others to answer.
//! - A probe by anybody else is answered as its owner would answer.
//! - A question to one Ethernet address asks whether its owner is still there: only the owner knows.
//! - A vNIC whose port does not work is not answered for: its VM is gone, or is somewhere else.
//! - A vNIC that may be a router is not answered for by neighbour discovery: the answer says whether it is
//!   one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::{Mac, NetworkId, PortId};

use super::{
    directory::{Directory, Owner},
    frame::{self, Arp},
    nd::{self, ALL_NODES},
    plan::NetworkPlan,
};

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The port it came from.
    pub port: PortId,
    /// The address that is asked for.
    pub target: IpAddr,
    /// Who asks; `None` in a probe.
    pub asker: Option<IpAddr>,
    /// Its Ethernet address.
    pub asker_mac: Mac,
    /// It is for one Ethernet address that is not the gateway's.
    pub unicast: bool,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Others may answer.
    Pass,
    /// Others may answer; if nobody does in time, the gateway's address is the answer.
    PassFirst,
    /// It is answered.
    Answer {
        /// With this Ethernet address.
        mac: Mac,
        /// Which is the gateway's.
        gateway: bool,
    },
}

/// Decides on a question; nobody is answered for who is behind a port that `is_away`.
pub fn judge(
    (directory, is_away): (&Directory, impl Fn(PortId) -> bool),
    network: &NetworkPlan,
    question: &Question,
) -> Judgement {
    match directory.owner(network, question.target) {
        // The same gateway on another host.
        Some(Owner::Gateway(mac)) if question.asker_mac == mac => Judgement::Pass,
        Some(Owner::Gateway(mac)) => Judgement::Answer { mac, gateway: true },
        Some(Owner::Vnic(vnic)) => {
            let is_own = vnic.port == question.port || vnic.mac == question.asker_mac;
            let is_router = vnic.router && question.target.is_ipv6();
            if is_away(vnic.port)
                || is_own
                || is_router
                || question.unicast
                || !network.neighbors.proxy
            {
                Judgement::Pass
            } else {
                Judgement::Answer {
                    mac: vnic.mac,
                    gateway: false,
                }
            }
        }
        None if has_fallback(network, question) => Judgement::PassFirst,
        None => Judgement::Pass,
    }
}

fn has_fallback(network: &NetworkPlan, question: &Question) -> bool {
    let on_link = match question.target {
        IpAddr::V4(target) => network.gateways4.iter().any(|net| net.contains(&target)),
        IpAddr::V6(target) => network.gateways6.iter().any(|net| net.contains(&target)),
    };
    let asks = question.asker.is_some_and(|asker| asker != question.target);
    network.neighbors.fallback_ms.is_some() && on_link && asks && !question.unicast
}

/// The frame of an answer.
pub fn answer(question: &Question, (mac, gateway): (Mac, bool)) -> Option<Vec<u8>> {
    match (question.target, question.asker) {
        (IpAddr::V4(target), asker) => {
            let asker = match asker {
                Some(IpAddr::V4(asker)) => asker,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            let reply = Arp {
                reply: true,
                sender_mac: mac,
                sender: target,
                target_mac: question.asker_mac,
                target: asker,
            };
            Some(frame::arp((mac, question.asker_mac), &reply))
        }
        (IpAddr::V6(target), asker) => {
            let (dst, dst_mac) = match asker {
                Some(IpAddr::V6(asker)) => (asker, question.asker_mac),
                Some(IpAddr::V4(_)) => return None,
                // RFC 4861 §7.2.4.
                None => (ALL_NODES, frame::group_mac(ALL_NODES)),
            };
            let advert = nd::Advert {
                target,
                mac,
                router: gateway,
                solicited: asker.is_some(),
                // RFC 4861 §7.2.8: a proxy leaves the last word to the owner.
                overrides: gateway,
            };
            Some(nd::advert((mac, dst_mac), dst, &advert))
        }
    }
}

/// The gateway says that an IPv4 address is its own (RFC 5227 §2.4).
pub fn claim4(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let message = Arp {
        reply: false,
        sender_mac: mac,
        sender: address,
        target_mac: Mac::default(),
        target: address,
    };
    frame::arp((mac, Mac::BROADCAST), &message)
}

/// The owner of an IPv6 address says so (RFC 4861 §7.2.6).
pub fn claim6(mac: Mac, address: Ipv6Addr, router: bool) -> Vec<u8> {
    let advert = nd::Advert {
        target: address,
        mac,
        router,
        solicited: false,
        overrides: true,
    };
    nd::advert((mac, frame::group_mac(ALL_NODES)), ALL_NODES, &advert)
}

/// Most questions that wait for somebody else's answer.
const MOST_QUESTIONS: usize = 1024;

/// Questions that others may answer first.
#[derive(Clone, Debug, Default)]
pub struct Questions(Vec<(u64, NetworkId, Question)>);

impl Questions {
    /// Notes one. One that is asked again waits no longer for that; beyond the bound it is not noted.
    pub fn note(&mut self, network: NetworkId, question: Question, deadline_ns: u64) {
        let is_new = !self
            .0
            .iter()
            .any(|(_, of, other)| *of == network && *other == question);
        if is_new && self.0.len() < MOST_QUESTIONS {
            self.0.push((deadline_ns, network, question));
        }
    }

    /// Somebody has answered for an address.
    pub fn answered(&mut self, network: NetworkId, address: IpAddr) {
        self.0
            .retain(|(_, of, question)| *of != network || question.target != address);
    }

    /// When the first is due.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.0.iter().map(|(deadline, ..)| *deadline).min()
    }

    /// Those that nobody answered.
    pub fn due(&mut self, now_ns: u64) -> Vec<(NetworkId, Question)> {
        let mut due = Vec::new();
        self.0.retain(|(deadline, network, question)| {
            if *deadline <= now_ns {
                due.push((*network, *question));
            }
            *deadline > now_ns
        });
        due
    }
}
