//! Neighbours: the Ethernet addresses of hosts that routers send to and that no vNIC of this
//! switch has, as ARP and neighbour discovery told them.
//!
//! In: claims (from the services thread) and questions (from the slow paths). Out: addresses,
//! which questions are to be asked on the wire, and who did not answer. What must hold:
//! - a claim is believed only where somebody was asked, or the neighbour is known already;
//! - a network has so many entries and no more; addresses that nobody answers for make room first,
//!   so that a scan cannot push out a neighbour that is there;
//! - what changes an answer that was given advances the network's generation.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use hashbrown::HashMap;
use parking_lot::RwLock;
use policy::{Mac, NetworkId};

use crate::bridge::Generations;

/// The most entries of a network, those without an answer included.
pub const MOST_OF_A_NETWORK: usize = 8192;
/// The most of them that have no answer.
const MOST_UNANSWERED: usize = 1024;
/// How long an answer is good, in seconds (Linux: 15 to 45).
const REACHABLE_S: u32 = 30;
/// How long after that it is used while it is asked for again.
const STALE_S: u32 = 30;
/// How long after it was last wanted an address is asked for again, in seconds. Cached verdicts do
/// not say that they use it: then they are voided once, and those in use come and ask.
const IDLE_S: u32 = 300;
/// How often a question is asked, once a second.
const QUESTIONS: u8 = 3;
/// How long it is remembered that nobody answered, in seconds.
const NEGATIVE_S: u32 = 3;

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has this Ethernet address.
    Known(Mac),
    /// Nobody has asked, or nobody has answered yet.
    Unknown,
    /// Nobody answered.
    Nobody,
}

/// A neighbour, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborRow {
    /// Its network.
    pub network: NetworkId,
    /// Its address.
    pub address: IpAddr,
    /// What is known of it.
    pub answer: Answer,
    /// Seconds since that was learned, or first asked.
    pub age_s: u32,
}

/// Somebody who is to be asked for on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where.
    pub network: NetworkId,
    /// Whose Ethernet address is wanted.
    pub address: IpAddr,
    /// Who had it when it was last known: asked alone first.
    pub last: Option<Mac>,
}

#[derive(Debug)]
struct Entry {
    mac: Option<Mac>,
    /// When `mac` was learned, or the address first asked for.
    since_s: u32,
    /// Questions since then without an answer.
    asked: u8,
    asked_s: u32,
    /// When a slow path last wanted it.
    used_s: AtomicU32,
    /// Since when the verdicts that may use it are void, if they have not asked since.
    doubted_s: Option<u32>,
}

impl Entry {
    fn answer(&self, now_s: u32) -> Answer {
        match self.mac {
            Some(mac) => Answer::Known(mac),
            None if self.asked < QUESTIONS || now_s <= self.asked_s => Answer::Unknown,
            None => Answer::Nobody,
        }
    }
}

/// The neighbours of all networks.
#[derive(Debug, Default)]
pub struct Neighbors {
    networks: RwLock<HashMap<NetworkId, HashMap<IpAddr, Entry>>>,
}

impl Neighbors {
    /// What is known of `address`; who wants it notes that it is in use.
    pub fn find(&self, network: NetworkId, address: IpAddr, now_s: u32) -> Answer {
        let networks = self.networks.read();
        let entry = networks.get(&network).and_then(|all| all.get(&address));
        entry.map_or(Answer::Unknown, |entry| {
            entry.used_s.store(now_s, Relaxed);
            entry.answer(now_s)
        })
    }

    /// What is known of `address`. Nothing is noted.
    pub fn peek(&self, network: NetworkId, address: IpAddr, now_s: u32) -> Answer {
        let networks = self.networks.read();
        let entry = networks.get(&network).and_then(|all| all.get(&address));
        entry.map_or(Answer::Unknown, |entry| entry.answer(now_s))
    }

    /// Somebody wants `address`, of which nothing is known, or not where it is: whether it should be
    /// asked for on the wire now. False when it was already, or there is no room.
    pub fn want(&self, network: NetworkId, address: IpAddr, now_s: u32) -> bool {
        let mut networks = self.networks.write();
        let all = networks.entry(network).or_default();
        if let Some(entry) = all.get_mut(&address) {
            return ask(entry, now_s, QUESTIONS);
        }
        let unanswered = all.values().filter(|entry| entry.mac.is_none()).count();
        if unanswered >= MOST_UNANSWERED || all.len() >= MOST_OF_A_NETWORK {
            let oldest = all
                .iter()
                .filter(|(_, entry)| entry.mac.is_none() && entry.asked >= QUESTIONS)
                .min_by_key(|(_, entry)| entry.since_s)
                .map(|(address, _)| *address);
            match oldest {
                Some(oldest) => all.remove(&oldest),
                None => return false,
            };
        }
        all.insert(
            address,
            Entry {
                mac: None,
                since_s: now_s,
                asked: 1,
                asked_s: now_s,
                used_s: AtomicU32::new(now_s),
                doubted_s: None,
            },
        );
        true
    }

    /// Somebody claims to have `address`. True when that was asked, and somebody may wait for it.
    pub fn learn(
        &self,
        network: NetworkId,
        address: IpAddr,
        mac: Mac,
        now_s: u32,
        generations: &Generations,
    ) -> bool {
        let mut networks = self.networks.write();
        let entry = networks
            .get_mut(&network)
            .and_then(|all| all.get_mut(&address));
        let Some(entry) = entry else {
            return false;
        };
        let is_news = entry.mac != Some(mac);
        entry.mac = Some(mac);
        (entry.since_s, entry.asked) = (now_s, 0);
        if is_news {
            generations.advance(network);
        }
        true
    }

    /// What time brings about: questions to be asked again, and answers that are too old. Returns
    /// the questions, and of which addresses it is certain now that nobody has them.
    pub fn age(
        &self,
        now_s: u32,
        generations: &Generations,
    ) -> (Vec<Question>, Vec<(NetworkId, IpAddr)>) {
        let (mut questions, mut nobody) = (Vec::new(), Vec::new());
        for (network, all) in &mut *self.networks.write() {
            let mut changed = false;
            all.retain(|address, entry| {
                let question = Question {
                    network: *network,
                    address: *address,
                    last: entry.mac,
                };
                let age_s = now_s.saturating_sub(entry.since_s);
                if entry.mac.is_none() {
                    if ask(entry, now_s, QUESTIONS) {
                        questions.push(question);
                    } else if entry.asked >= QUESTIONS && now_s > entry.asked_s {
                        nobody.push((*network, *address));
                        return now_s <= entry.asked_s + NEGATIVE_S;
                    }
                    return true;
                }
                let used_s = entry.used_s.load(Relaxed);
                if used_s + IDLE_S >= now_s {
                    entry.doubted_s = None;
                } else if entry.doubted_s.is_none() {
                    entry.doubted_s = Some(now_s);
                    changed = true;
                }
                let doubted = |since: u32| since + REACHABLE_S < now_s;
                let in_use = !entry.doubted_s.is_some_and(doubted);
                if age_s >= REACHABLE_S && in_use && ask(entry, now_s, QUESTIONS) {
                    questions.push(question);
                }
                let stays = age_s < REACHABLE_S + STALE_S;
                changed |= !stays;
                stays
            });
            if changed {
                generations.advance(*network);
            }
        }
        (questions, nobody)
    }

    /// Forgets the neighbours of networks that `keep` does not want.
    pub fn retain(&self, keep: impl Fn(NetworkId) -> bool) {
        self.networks.write().retain(|network, _| keep(*network));
    }

    /// All neighbours, for people.
    pub fn rows(&self, now_s: u32) -> Vec<NeighborRow> {
        let networks = self.networks.read();
        let rows = networks.iter().flat_map(|(network, all)| {
            all.iter().map(|(address, entry)| NeighborRow {
                network: *network,
                address: *address,
                answer: entry.answer(now_s),
                age_s: now_s.saturating_sub(entry.since_s),
            })
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|row| (row.network, row.address));
        rows
    }
}

/// Whether a question is due, which is then taken as asked: the first at once, then one a second.
fn ask(entry: &mut Entry, now_s: u32, most: u8) -> bool {
    let due = entry.asked < most && (entry.asked == 0 || now_s > entry.asked_s);
    if due {
        entry.asked += 1;
        entry.asked_s = now_s;
    }
    due
}
