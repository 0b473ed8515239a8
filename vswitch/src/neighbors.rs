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
    collections::VecDeque,
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

/// The neighbours of a network.
#[derive(Debug, Default)]
struct Network {
    entries: HashMap<IpAddr, Entry>,
    /// How many of them have no answer.
    unanswered: usize,
    /// Those and some that had none once, in the order in which they were first asked for.
    oldest: VecDeque<IpAddr>,
}

impl Network {
    fn is_unanswered(&self, address: &IpAddr) -> bool {
        let entry = self.entries.get(address);
        entry.is_some_and(|entry| entry.mac.is_none())
    }

    /// Whether there is room for one more without an answer, made by forgetting the oldest of those
    /// that were asked for in vain. Each is looked at once.
    fn make_room(&mut self) -> bool {
        if self.unanswered < MOST_UNANSWERED && self.entries.len() < MOST_OF_A_NETWORK {
            return true;
        }
        while let Some(oldest) = self.oldest.front().copied() {
            if self.is_unanswered(&oldest) {
                let entry = self.entries.get(&oldest);
                if entry.is_some_and(|entry| entry.asked < QUESTIONS) {
                    return false;
                }
                self.entries.remove(&oldest);
                self.oldest.pop_front();
                self.unanswered -= 1;
                return true;
            }
            self.oldest.pop_front();
        }
        false
    }
}

/// The neighbours of all networks.
#[derive(Debug, Default)]
pub struct Neighbors {
    networks: RwLock<HashMap<NetworkId, Network>>,
}

impl Neighbors {
    /// What is known of `address`; who wants it notes that it is in use.
    pub fn find(&self, network: NetworkId, address: IpAddr, now_s: u32) -> Answer {
        let networks = self.networks.read();
        let entry = networks
            .get(&network)
            .and_then(|all| all.entries.get(&address));
        entry.map_or(Answer::Unknown, |entry| {
            entry.used_s.store(now_s, Relaxed);
            entry.answer(now_s)
        })
    }

    /// What is known of `address`. Nothing is noted.
    pub fn peek(&self, network: NetworkId, address: IpAddr, now_s: u32) -> Answer {
        let networks = self.networks.read();
        let entry = networks
            .get(&network)
            .and_then(|all| all.entries.get(&address));
        entry.map_or(Answer::Unknown, |entry| entry.answer(now_s))
    }

    /// Somebody wants `address`, of which nothing is known, or not where it is: whether it should be
    /// asked for on the wire now. False when it was already, or there is no room.
    pub fn want(&self, network: NetworkId, address: IpAddr, now_s: u32) -> bool {
        let mut networks = self.networks.write();
        let all = networks.entry(network).or_default();
        if let Some(entry) = all.entries.get_mut(&address) {
            return ask(entry, now_s, QUESTIONS);
        }
        if !all.make_room() {
            return false;
        }
        all.unanswered += 1;
        all.oldest.push_back(address);
        all.entries.insert(
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
        let Some(all) = networks.get_mut(&network) else {
            return false;
        };
        let Some(entry) = all.entries.get_mut(&address) else {
            return false;
        };
        let is_news = entry.mac != Some(mac);
        if entry.mac.replace(mac).is_none() {
            all.unanswered -= 1;
        }
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
            all.entries.retain(|address, entry| {
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
            let entries = &all.entries;
            let is_unanswered = |address: &IpAddr| {
                let entry = entries.get(address);
                entry.is_some_and(|entry| entry.mac.is_none())
            };
            all.oldest.retain(is_unanswered);
            all.unanswered = all.oldest.len();
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
            all.entries.iter().map(|(address, entry)| NeighborRow {
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

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: NetworkId = NetworkId(1);

    fn address(number: usize) -> IpAddr {
        let [_, a, b, c] = (number as u32).to_be_bytes();
        IpAddr::from([10, a, b, c])
    }

    fn counts(neighbors: &Neighbors) -> (usize, usize, usize) {
        let networks = neighbors.networks.read();
        let all = &networks[&NETWORK];
        let open = all.entries.values().filter(|entry| entry.mac.is_none());
        (all.unanswered, open.count(), all.oldest.len())
    }

    #[test]
    fn a_scan_takes_so_many_entries_and_the_oldest_asked_in_vain_makes_room() {
        let (neighbors, generations) = (Neighbors::default(), Generations::default());
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        assert!(neighbors.want(NETWORK, address(0), 1));
        assert!(neighbors.learn(NETWORK, address(0), mac, 1, &generations));
        for number in 1..=MOST_UNANSWERED {
            assert!(neighbors.want(NETWORK, address(number), 1), "{number}");
        }
        // All of them may be answered yet.
        assert!(!neighbors.want(NETWORK, address(5000), 1));
        for now_s in 2..=4 {
            neighbors.age(now_s, &generations);
        }
        for number in 5000..5010 {
            assert!(neighbors.want(NETWORK, address(number), 4), "{number}");
        }
        // In the order in which they came; who answered stays.
        for gone in 1..=10 {
            let answer = neighbors.peek(NETWORK, address(gone), 5);
            assert_eq!(answer, Answer::Unknown, "{gone}");
        }
        assert_eq!(neighbors.peek(NETWORK, address(11), 5), Answer::Nobody);
        assert_eq!(neighbors.peek(NETWORK, address(0), 5), Answer::Known(mac));
        let (unanswered, open, queued) = counts(&neighbors);
        assert_eq!((unanswered, open), (MOST_UNANSWERED, MOST_UNANSWERED));
        assert!(queued <= MOST_UNANSWERED + 1, "{queued}");
        // What nobody had is forgotten in time, and its count with it.
        for now_s in 5..20 {
            neighbors.age(now_s, &generations);
        }
        assert_eq!(counts(&neighbors), (0, 0, 0));
    }
}
