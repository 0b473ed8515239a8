//! What the switch itself says to VMs: their addresses (DHCP, `DHCPv6`), their router (router advertisements),
//! their neighbours (ARP, neighbour discovery).
//!
//! ```text
//!   frame ──frame──► message ──┬─ dhcp4, dhcp6 ─┐
//!                              ├─ neighbors ────┼──► frames, events
//!   time ─► tick ──────────────┴─ ra, announce ─┘
//! ```
//!
//! In: a [`Plan`], frames that workers set aside, time. Out: frames to send and [`Event`]s. What must
//! hold: no input makes it panic or grow beyond its bounds; what is refused is counted by network and
//! [`Refusal`]; nothing here does I/O or looks at a clock.
//!
//! Rooms: [`plan`] (what is to be), [`compile`] (made of a configuration), [`directory`] (the same, indexed), [`frame`](mod@frame) and [`nd`] (frames read and
//! written), [`dhcp4`], [`dhcp6`], [`ra`], [`neighbors`], [`announce`].

pub mod announce;
pub mod compile;
pub mod dhcp4;
pub mod dhcp6;
mod dice;
pub mod directory;
pub mod dns;
pub mod frame;
mod leases;
pub mod nd;
pub mod neighbors;
pub mod plan;
pub mod ra;
pub mod refusal;
mod resolve;
pub mod solicit;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv6Addr},
};

use policy::{Mac, NetworkId, PortId};

use announce::Announcements;
use dhcp4::relay::Relay;
use dice::Dice;
use directory::Directory;
use frame::Message;
use neighbors::Questions;
use plan::Plan;
use refusal::{Refusal, Refusals};

/// Where a frame came in, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// The port.
    pub port: PortId,
    /// The network it belongs to.
    pub network: NetworkId,
    /// Nanoseconds of the switch's clock.
    pub now_ns: u64,
}

/// What is to be done with a frame that was given to services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is dealt with and goes no further.
    Consumed,
    /// It is not for services: it goes on as any other frame.
    Pass,
    /// It goes no further, for this reason.
    Refused(Refusal),
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Out of one port.
    Port(PortId),
    /// To all of the network but a port.
    Flood {
        /// The port that does not get it.
        except: Option<PortId>,
    },
    /// To the network's router, which sends the IP packet in it as one of its own: both Ethernet addresses
    /// are the gateway's, the next hop is not known here.
    Route,
}

/// A frame to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its network.
    pub network: NetworkId,
    /// Where it goes.
    pub to: Destination,
    /// Its bytes, from the Ethernet header on, without a tag.
    pub frame: Vec<u8>,
}

/// What somebody should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A neighbour says that it has an address.
    Neighbor {
        /// In this network.
        network: NetworkId,
        /// Behind this port.
        port: PortId,
        /// The address.
        address: IpAddr,
        /// Its Ethernet address.
        mac: Mac,
    },
    /// A neighbour says that it has an address that is somebody else's. Told once in ten seconds for an
    /// address.
    Conflict {
        /// In this network.
        network: NetworkId,
        /// Behind this port.
        port: PortId,
        /// The address.
        address: IpAddr,
        /// Who says so.
        mac: Mac,
        /// Whose it is.
        owner: Mac,
    },
    /// A VM found out that somebody else uses the address it was given (DHCPDECLINE).
    Declined {
        /// In this network.
        network: NetworkId,
        /// Behind this port.
        port: PortId,
        /// The address.
        address: IpAddr,
    },
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Frames to send, in this order.
    pub frames: Vec<Outgoing>,
    /// What somebody should know.
    pub events: Vec<Event>,
}

impl Output {
    fn send(&mut self, network: NetworkId, to: Destination, frame: Vec<u8>) {
        self.frames.push(Outgoing { network, to, frame });
    }
}

/// The services of a switch.
#[derive(Clone, Debug)]
pub struct Services {
    directory: Directory,
    relay: Relay,
    questions: Questions,
    announcements: Announcements,
    schedules: HashMap<NetworkId, ra::Schedule>,
    /// Prefixes that are no longer advertised are ended by this many more advertisements.
    ended: HashMap<NetworkId, (u8, plan::Advertisements)>,
    conflicts: resolve::Conflicts,
    refusals: Refusals,
    dice: Dice,
    /// Ports that do not work: nobody is answered for who is behind one.
    away: HashSet<PortId>,
}

impl Services {
    /// Services that know nothing yet. `seed` is for jitter.
    pub fn new(seed: u64) -> Self {
        Self {
            directory: Directory::default(),
            relay: Relay::default(),
            questions: Questions::default(),
            announcements: Announcements::default(),
            schedules: HashMap::new(),
            ended: HashMap::new(),
            away: HashSet::new(),
            conflicts: resolve::Conflicts::default(),
            refusals: Refusals::default(),
            dice: Dice::new(seed),
        }
    }

    /// Follows a new plan, which may be empty. Hosts are told at once where the switch is no router
    /// any more.
    pub fn replace(&mut self, plan: Plan, now_ns: u64, out: &mut Output) {
        const TOLD: u8 = 3;

        let next = Directory::new(plan);
        for before in self.directory.networks() {
            let Some(old) = &before.advertisements else {
                continue;
            };
            let now = next.network(before.id).filter(|now| now.mac == before.mac);
            match now.and_then(|now| now.advertisements.as_ref()) {
                None => {
                    let frame = ra::frame(before.mac, None, &ra::last(old));
                    out.send(before.id, Destination::Flood { except: None }, frame);
                    self.schedules.remove(&before.id);
                    self.ended.remove(&before.id);
                }
                Some(new) if new != old => {
                    if let Some(schedule) = self.schedules.get_mut(&before.id) {
                        schedule.again(now_ns);
                    }
                    self.ended.insert(before.id, (TOLD, old.clone()));
                }
                Some(_) => {}
            }
        }
        for network in next.networks() {
            if network.advertisements.is_some() {
                let schedule = self.schedules.entry(network.id);
                schedule.or_insert_with(|| ra::Schedule::new(now_ns));
            }
        }
        self.directory = next;
        let directory = &self.directory;
        self.relay
            .retain(|network, port| directory.vnic(network, port).is_some());
        self.announcements
            .retain(|network, port| directory.vnic(network, port).is_some());
        self.refusals
            .retain(|network| directory.network(network).is_some());
    }

    /// A port works now: the vNIC behind it is announced.
    pub fn appeared(&mut self, port: PortId, now_ns: u64) {
        self.away.remove(&port);
        for vnic in self
            .directory
            .vnics()
            .iter()
            .filter(|vnic| vnic.port == port)
        {
            if let Some(network) = self.directory.network(vnic.network) {
                self.announcements
                    .appeared(vnic, &network.neighbors, now_ns);
            }
        }
    }

    /// A port does not work, or not any more: until it does, the vNIC behind it is not answered for,
    /// so that another place where its VM may be is.
    pub fn disappeared(&mut self, port: PortId) {
        self.away.insert(port);
    }

    /// The VM behind a port is about to move, or is not after all.
    pub fn moving(&mut self, port: PortId, moving: bool, now_ns: u64) {
        for vnic in self
            .directory
            .vnics()
            .iter()
            .filter(|vnic| vnic.port == port)
        {
            if let Some(network) = self.directory.network(vnic.network) {
                let wishes = &network.neighbors;
                self.announcements.moving(vnic, wishes, moving, now_ns);
            }
        }
    }

    /// Deals with a frame: its bytes from the Ethernet header on, without a tag.
    pub fn receive(&mut self, ingress: &Ingress, frame: &[u8], out: &mut Output) -> Verdict {
        let verdict = match frame::read(frame) {
            Ok(None) => Verdict::Pass,
            Ok(Some(received)) => match received.message {
                Message::Arp(arp) => self.arp(ingress, &received, &arp, out),
                Message::Nd(message) => self.nd(ingress, &received, &message, out),
                Message::Dhcp4(datagram) => {
                    let verdict = self.dhcp4(ingress, &received, &datagram, out);
                    verdict.unwrap_or_else(Verdict::Refused)
                }
                Message::Dhcp6(datagram) => {
                    let verdict = self.dhcp6(ingress, &received, &datagram, out);
                    verdict.unwrap_or_else(Verdict::Refused)
                }
            },
            Err(refusal) => Verdict::Refused(refusal),
        };
        if let Verdict::Refused(refusal) = verdict {
            self.refusals.count(ingress.network, refusal);
        }
        verdict
    }

    /// Does what is due at `now_ns`.
    pub fn tick(&mut self, now_ns: u64, out: &mut Output) {
        self.advertise(now_ns, out);
        for (network, port) in self.announcements.due(now_ns) {
            if let Some(vnic) = self.directory.vnic(network, port) {
                let to = Destination::Flood { except: Some(port) };
                for frame in announce::frames(vnic) {
                    out.send(network, to, frame);
                }
            }
        }
        for (network, question) in self.questions.due(now_ns) {
            let Some(plan) = self.directory.network(network) else {
                continue;
            };
            if let Some(frame) = neighbors::answer(&question, (plan.mac, false)) {
                out.send(network, Destination::Port(question.port), frame);
            }
        }
        self.relay_late(now_ns, out);
    }

    fn advertise(&mut self, now_ns: u64, out: &mut Output) {
        for network in self.directory.networks() {
            let (Some(what), Some(schedule)) =
                (&network.advertisements, self.schedules.get_mut(&network.id))
            else {
                continue;
            };
            for audience in schedule.due(what.interval_s, now_ns, &mut self.dice) {
                let (to, of) = match audience {
                    ra::Audience::Network => (Destination::Flood { except: None }, None),
                    ra::Audience::Port(port, of) => (Destination::Port(port), of),
                };
                let ended = self.ended.get_mut(&network.id);
                let frame = match ended.filter(|_| audience == ra::Audience::Network) {
                    Some((left, before)) => {
                        *left = left.saturating_sub(1);
                        ra::frame(network.mac, of, &ra::succeeding(before, what))
                    }
                    None => ra::frame(network.mac, of, what),
                };
                out.send(network.id, to, frame);
            }
        }
        self.ended.retain(|_, (left, _)| *left > 0);
    }

    /// When [`Services::tick`] has something to do next, nanoseconds of the switch's clock.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let schedules = self.schedules.values().map(ra::Schedule::next_deadline_ns);
        let others = [
            self.announcements.next_deadline_ns(),
            self.questions.next_deadline_ns(),
            self.relay.next_deadline_ns(),
        ];
        schedules.chain(others.into_iter().flatten()).min()
    }

    /// What was refused so far.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The vNIC of a link by the name of its port.
    fn vnic_of(&self, link: Ipv6Addr, port_name: &[u8]) -> Option<&plan::VnicPlan> {
        self.directory.vnics().iter().find(|vnic| {
            let relays = matches!(&vnic.dhcp6.mode, plan::Mode6::Relay(r) if r.link == link);
            relays && vnic.port_name.as_bytes() == port_name
        })
    }
}
