//! ARP and neighbour discovery messages as [`Services`] meets them: who claims what, who asks for what.

use std::{collections::HashMap, net::IpAddr};

use policy::{Mac, NetworkId};

use super::{
    Destination, Event, Ingress, Output, Services, Verdict,
    directory::Owner,
    frame::{Arp, Received},
    nd::{Body, Message},
    neighbors::{self, Judgement, Question},
};

/// An address is defended, and a conflict told, once in that time (RFC 5227 §2.4, `DEFEND_INTERVAL`).
const DEFEND_NS: u64 = 10_000_000_000;
const MOST_CONFLICTS: usize = 1024;

/// When conflicts were told last.
#[derive(Clone, Debug, Default)]
pub(super) struct Conflicts(HashMap<(NetworkId, IpAddr), u64>);

impl Conflicts {
    /// Whether this one is to be told now.
    fn is_new(&mut self, network: NetworkId, address: IpAddr, now_ns: u64) -> bool {
        let is_old = |told_ns: u64| now_ns.saturating_sub(told_ns) >= DEFEND_NS;
        if self.0.len() >= MOST_CONFLICTS {
            self.0.retain(|_, told_ns| !is_old(*told_ns));
        }
        let told = self.0.get(&(network, address));
        let new = told.is_none_or(|told_ns| is_old(*told_ns)) && self.0.len() < MOST_CONFLICTS;
        if new {
            self.0.insert((network, address), now_ns);
        }
        new
    }
}

impl Services {
    pub(super) fn arp(
        &mut self,
        ingress: &Ingress,
        received: &Received<'_>,
        arp: &Arp,
        out: &mut Output,
    ) -> Verdict {
        let sender = IpAddr::V4(arp.sender);
        let is_probe = arp.sender.is_unspecified();
        if !is_probe {
            let claim = self.claim(ingress, sender, arp.sender_mac, out);
            if claim == Verdict::Consumed {
                return claim;
            }
        }
        // An announcement asks nothing (RFC 5227 §2.3).
        if arp.reply || arp.sender == arp.target {
            return Verdict::Pass;
        }
        let question = Question {
            port: ingress.port,
            target: arp.target.into(),
            asker: (!is_probe).then_some(sender),
            asker_mac: arp.sender_mac,
            unicast: self.is_elsewhere(ingress, received.dst),
        };
        self.question(ingress, question, out)
    }

    pub(super) fn nd(
        &mut self,
        ingress: &Ingress,
        received: &Received<'_>,
        message: &Message,
        out: &mut Output,
    ) -> Verdict {
        let asker = (!message.is_probe()).then_some(IpAddr::V6(message.src));
        match message.body {
            Body::RouterSolicit => {
                let to = (!message.is_probe()).then_some((message.src, received.src));
                match self.schedules.get_mut(&ingress.network) {
                    Some(schedule) => {
                        schedule.solicited(ingress.port, to, ingress.now_ns, &mut self.dice);
                        Verdict::Consumed
                    }
                    None => Verdict::Pass,
                }
            }
            Body::NeighborSolicit { target, mac } => {
                if let (Some(address), Some(mac)) = (asker, mac) {
                    let claim = self.claim(ingress, address, mac, out);
                    if claim == Verdict::Consumed {
                        return claim;
                    }
                }
                let question = Question {
                    port: ingress.port,
                    target: target.into(),
                    asker,
                    asker_mac: mac.unwrap_or(received.src),
                    unicast: self.is_elsewhere(ingress, received.dst),
                };
                self.question(ingress, question, out)
            }
            Body::NeighborAdvert { target, mac } => {
                let mac = mac.unwrap_or(received.src);
                self.claim(ingress, target.into(), mac, out)
            }
        }
    }

    /// Whether a frame is for one host that is not the gateway.
    fn is_elsewhere(&self, ingress: &Ingress, dst: Mac) -> bool {
        let network = self.directory.network(ingress.network);
        !dst.is_group() && network.is_some_and(|network| network.mac != dst)
    }

    /// Somebody says that it has an address.
    fn claim(&mut self, ingress: &Ingress, address: IpAddr, mac: Mac, out: &mut Output) -> Verdict {
        let &Ingress {
            port,
            network: id,
            now_ns,
        } = ingress;
        self.questions.answered(id, address);
        let Some(network) = self.directory.network(id) else {
            return Verdict::Pass;
        };
        let owner = self.directory.mac_of(network, address);
        let Some(owner) = owner.filter(|owner| *owner != mac) else {
            // The same gateway on another host is nobody that a router would send to.
            if mac != network.mac {
                out.events.push(Event::Neighbor {
                    network: id,
                    port,
                    address,
                    mac,
                });
            }
            return Verdict::Pass;
        };
        let is_gateways = matches!(
            self.directory.owner(network, address),
            Some(Owner::Gateway(_))
        );
        if self.conflicts.is_new(id, address, now_ns) {
            out.events.push(Event::Conflict {
                network: id,
                port,
                address,
                mac,
                owner,
            });
            if is_gateways {
                let frame = match address {
                    IpAddr::V4(address) => neighbors::claim4(owner, address),
                    IpAddr::V6(address) => neighbors::claim6(owner, address, true),
                };
                out.send(id, Destination::Flood { except: None }, frame);
            }
        }
        // Nobody shall believe it.
        if is_gateways {
            Verdict::Consumed
        } else {
            Verdict::Pass
        }
    }

    fn question(&mut self, ingress: &Ingress, question: Question, out: &mut Output) -> Verdict {
        let Some(network) = self.directory.network(ingress.network) else {
            return Verdict::Pass;
        };
        let is_away = |port| self.away.contains(&port);
        match neighbors::judge((&self.directory, is_away), network, &question) {
            Judgement::Pass => Verdict::Pass,
            Judgement::PassFirst => {
                let wait_ms = network.neighbors.fallback_ms.unwrap_or_default();
                let deadline_ns = ingress.now_ns + u64::from(wait_ms) * 1_000_000;
                self.questions.note(network.id, question, deadline_ns);
                Verdict::Pass
            }
            Judgement::Answer { mac, gateway } => {
                if let Some(frame) = neighbors::answer(&question, (mac, gateway)) {
                    let to = Destination::Port(ingress.port);
                    out.send(ingress.network, to, frame);
                }
                Verdict::Consumed
            }
        }
    }
}
