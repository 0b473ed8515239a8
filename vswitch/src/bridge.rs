//! The learning bridge: one MAC table per network, shared by the workers.
//!
//! Only the slow path comes here: a hit in the flow cache already knows where its frame goes.
//! What a cached decision took from a table it holds under the network's *generation*, which
//! advances whenever an answer that was given may no longer be right: an address moved, aged out,
//! was forgotten, or was learned after frames to it had been flooded. For the last, the table
//! remembers the unknown addresses that it was asked for, so many and no more; beyond them, floods
//! are not cached, until the next ageing forgets them all.
//!
//! What must hold:
//! - a decision holds the generation of the very table it was made from ([`Bridge::pass`]), so
//!   that one made from an older table is a miss at its first use;
//! - an address of a vNIC is where its configuration says, and cannot be learned elsewhere;
//! - a table never grows beyond its limit, nor a port's share of all tables beyond its own;
//! - an address that moves more often than it may stays where it was, for a time.

use std::sync::{
    Arc,
    atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use arrayvec::ArrayVec;
use hashbrown::{HashMap, HashSet};
use parking_lot::{Mutex, RwLock};
use policy::{
    DropReason, Mac, NetworkId, PortId,
    model::MoveLimit,
    snapshot::{PortPolicy, Snapshot},
};

use crate::guard::Guards;

/// A number per network that tells whether decisions made from its MAC table still stand.
#[derive(Debug)]
pub struct Generations(Box<[AtomicU32; NETWORKS]>);

/// As many as a [`NetworkId`] can name, so that none is looked for in vain.
const NETWORKS: usize = 1 << 16;

impl Default for Generations {
    fn default() -> Self {
        let all: Box<[AtomicU32]> = (0..NETWORKS).map(|_| AtomicU32::new(0)).collect();
        let Ok(all) = all.try_into() else {
            unreachable!("as many were collected")
        };
        Self(all)
    }
}

impl Generations {
    /// The present generation. Read it before the table.
    #[inline]
    pub fn current(&self, network: NetworkId) -> u32 {
        self.0[network.index()].load(Acquire)
    }

    /// Every decision made so far from this network's table is void.
    pub fn advance(&self, network: NetworkId) {
        self.0[network.index()].fetch_add(1, Release);
    }
}

/// Who sends, and how many addresses it may have.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// Its address.
    pub mac: Mac,
    /// Where it sends from.
    pub port: PortId,
    /// Most addresses that port may have learned.
    pub port_limit: u32,
}

/// What the bridge knows of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Where its target is; `None` when there was none to look up.
    pub target: Option<Lookup>,
    /// The generation from which on all this holds.
    pub generation: u32,
}

/// An address, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacRow {
    /// Whose table.
    pub network: NetworkId,
    /// The address.
    pub mac: Mac,
    /// Where it is.
    pub port: PortId,
    /// Seconds since it last sent; `None` for a vNIC's own address, which does not age.
    pub age_s: Option<u32>,
    /// For how many seconds more it is held there, because it moved too often.
    pub held_s: Option<u32>,
}

/// An address that moved too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flap {
    /// Whose table.
    pub network: NetworkId,
    /// The address.
    pub mac: Mac,
    /// Where it is held.
    pub port: PortId,
    /// Where it was claimed to be.
    pub refused: PortId,
    /// For how long, seconds.
    pub hold_s: u32,
}

/// How many addresses that moved too often are told of, between two looks.
const MOST_FLAPS: usize = 64;

/// What happened to addresses, in all networks since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Times that one moved to another port.
    pub moves: u64,
    /// Times that one had moved too often and was held where it was.
    pub flaps: u64,
}

#[derive(Clone, Copy, Debug)]
struct Location {
    port: PortId,
    seen_s: u32,
    /// Since when its moves are counted, and how many there were.
    counted_s: u32,
    moves: u32,
    /// Until when it stays where it is, whoever claims it; 0 without need.
    held_s: u32,
    /// A vNIC's own address, at its port by configuration.
    fixed: bool,
}

impl Location {
    fn new(port: PortId, seen_s: u32, fixed: bool) -> Self {
        Self {
            port,
            seen_s,
            counted_s: seen_s,
            moves: 0,
            held_s: 0,
            fixed,
        }
    }

    /// How many moves there were within the window that `now_s` is in.
    fn recent_moves(&self, now_s: u32) -> u32 {
        let is_recent = now_s.saturating_sub(self.counted_s) < MoveLimit::WINDOW_S;
        if is_recent { self.moves } else { 0 }
    }
}

/// Unknown addresses that a network remembers being asked for.
const REMEMBERED_UNKNOWN: usize = 256;

/// How often, at most, remembered unknown addresses are forgotten to make room: it voids every
/// cached answer, and whoever sends to invented addresses can bring it about. Seconds.
const FORGET_UNKNOWN_EVERY_S: u32 = 30;

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// At this port.
    At(PortId),
    /// Nobody knows. When `remembered`, learning it will advance the generation, and so "nobody
    /// knows" may be cached.
    Unknown {
        /// Whether the table had room to remember that it was asked.
        remembered: bool,
    },
}

#[derive(Debug, Default)]
struct Table {
    locations: HashMap<u64, Location>,
    /// Addresses that are in no `locations` and were asked for.
    unknown: HashSet<u64>,
    /// When `unknown` was last emptied.
    emptied_s: u32,
    limit: usize,
    ageing_s: u32,
    /// Addresses that were learned, that is, are not fixed.
    learned: usize,
    most_moves: MoveLimit,
}

impl Table {
    /// Where `mac` is. An unknown address is remembered under the same lock, so that whoever
    /// learns it later finds it.
    fn lookup(&mut self, mac: Mac) -> Lookup {
        let found = self.find(mac);
        if found == (Lookup::Unknown { remembered: true }) {
            self.unknown.insert(mac.to_u64());
        }
        found
    }

    /// Where `mac` is, as [`Table::lookup`] would say.
    fn find(&self, mac: Mac) -> Lookup {
        if let Some(location) = self.locations.get(&mac.to_u64()) {
            return Lookup::At(location.port);
        }
        let room = self.unknown.len() < REMEMBERED_UNKNOWN;
        Lookup::Unknown {
            remembered: room || self.unknown.contains(&mac.to_u64()),
        }
    }

    fn has_room(&self) -> bool {
        self.learned < self.limit
    }
}

/// Where a sender was, as far as the table knows.
enum Whereabouts {
    /// Where it is.
    Known,
    /// Nowhere.
    New,
    /// At another port.
    Moved(PortId),
}

/// All networks' tables.
#[derive(Debug)]
pub struct Bridge {
    generations: Generations,
    tables: RwLock<Vec<Option<Arc<Mutex<Table>>>>>,
    /// Learned addresses of each port, over all tables.
    learned_by_port: Box<[AtomicU32]>,
    /// Addresses that moved too often since somebody looked.
    flaps: Mutex<ArrayVec<Flap, MOST_FLAPS>>,
    moves: AtomicU64,
    held: AtomicU64,
    guards: Guards,
}

impl Default for Bridge {
    fn default() -> Self {
        Self {
            generations: Generations::default(),
            tables: RwLock::default(),
            learned_by_port: (0..=u16::MAX).map(|_| AtomicU32::new(0)).collect(),
            flaps: Mutex::default(),
            moves: AtomicU64::new(0),
            held: AtomicU64::new(0),
            guards: Guards::default(),
        }
    }
}

impl Bridge {
    /// The networks' generations.
    #[inline]
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    /// Which ports are disabled.
    #[inline]
    pub fn guards(&self) -> &Guards {
        &self.guards
    }

    /// Disables a port, if it is not yet: every decision about its networks is void.
    pub fn disable(&self, port: &PortPolicy, now_s: u32) {
        if self.guards.disable(port.id, now_s) {
            port.networks().for_each(|id| self.generations.advance(id));
        }
    }

    /// Enables a port again. Whether it was disabled.
    pub fn enable(&self, port: &PortPolicy) -> bool {
        let was_disabled = self.guards.enable(port.id);
        if was_disabled {
            port.networks().for_each(|id| self.generations.advance(id));
        }
        was_disabled
    }

    /// Forgets what is known of a port whose number may be another's next.
    pub fn retire(&self, port: PortId) {
        self.guards.enable(port);
    }

    /// Addresses that moved too often since this was asked last, as many as there was room for.
    pub fn take_flaps(&self) -> ArrayVec<Flap, MOST_FLAPS> {
        std::mem::take(&mut *self.flaps.lock())
    }

    /// What happened to addresses.
    pub fn moved(&self) -> Moves {
        Moves {
            moves: self.moves.load(Relaxed),
            flaps: self.held.load(Relaxed),
        }
    }

    /// Brings the tables in line with a snapshot that is about to be published: networks come
    /// and go, vNIC addresses are pinned to their ports, and addresses at ports that left a
    /// network are forgotten.
    ///
    /// Workers may be at work meanwhile; each table is locked on its own, for as long as it takes
    /// to walk it. What they learn under the former snapshot may be out of line again: done once
    /// more when every worker has left it, this settles the rest.
    pub fn configure(&self, snapshot: &Snapshot) {
        let mut tables = self.tables.read().clone();
        let mut gone = Vec::new();
        for (index, slot) in tables.iter_mut().enumerate() {
            let id = NetworkId(index as u16);
            if snapshot.network(id).is_none() {
                gone.extend(slot.take().map(|table| (id, table)));
            }
        }
        for network in snapshot.networks() {
            if tables.len() <= network.id.index() {
                tables.resize(network.id.index() + 1, None);
            }
            let slot = tables[network.id.index()].get_or_insert_default();
            let mut table = slot.lock();
            table.limit = network.mac_limit as usize;
            table.ageing_s = network.ageing_s;
            table.most_moves = network.moves;
            // The slow path then never grows a table: one that is at most half full makes room
            // in place when removed addresses have used it up.
            let room = 2 * (table.limit + network.members.len());
            let missing = room.saturating_sub(table.locations.len());
            table.locations.reserve(missing);
            let missing = (2 * REMEMBERED_UNKNOWN).saturating_sub(table.unknown.len());
            table.unknown.reserve(missing);
            let members: HashSet<PortId> = network.members.iter().map(|m| m.port).collect();
            let fixed: HashMap<u64, PortId> = members
                .iter()
                .filter_map(|port| {
                    let vnic = snapshot.port(*port)?.vnic.as_ref()?;
                    Some((vnic.mac.to_u64(), *port))
                })
                .collect();
            self.retain(network.id, &mut table, |mac, location| {
                members.contains(&location.port)
                    && fixed.get(&mac).is_none_or(|port| *port == location.port)
                    && (!location.fixed || fixed.contains_key(&mac))
            });
            for (mac, port) in fixed {
                self.pin(network.id, &mut table, mac, port);
            }
        }
        *self.tables.write() = tables;
        // Only now, when no worker can learn into them any more.
        for (id, table) in gone {
            self.retain(id, &mut table.lock(), |_, _| false);
        }
    }

    /// The tables as they would be under another snapshot: what is learned now and may stay, and
    /// the addresses of that snapshot's vNICs.
    #[must_use]
    pub fn successor(&self, snapshot: &Snapshot) -> Self {
        let next = Self::default();
        next.configure(snapshot);
        for row in self.rows(0) {
            let network = snapshot.network(row.network);
            let stays = network.is_some_and(|network| {
                let mut members = network.members.iter();
                row.age_s.is_some() && members.any(|member| member.port == row.port)
            });
            if stays {
                let sender = Sender {
                    mac: row.mac,
                    port: row.port,
                    port_limit: u32::MAX,
                };
                // An address that a vNIC has now is the vNIC's.
                let _ = next.pass(row.network, sender, None, 0);
            }
        }
        next
    }

    fn pin(&self, network: NetworkId, table: &mut Table, mac: u64, port: PortId) {
        let location = Location::new(port, 0, true);
        match table.locations.insert(mac, location) {
            Some(old) if old.fixed => {}
            Some(old) => self.unlearn(table, old),
            None => {
                table.unknown.remove(&mac);
                self.generations.advance(network);
            }
        }
    }

    fn unlearn(&self, table: &mut Table, location: Location) {
        if !location.fixed {
            table.learned -= 1;
            self.learned_by_port[location.port.index()].fetch_sub(1, Relaxed);
        }
    }

    fn retain(
        &self,
        network: NetworkId,
        table: &mut Table,
        keep: impl Fn(u64, &Location) -> bool,
    ) -> usize {
        let mut removed = Vec::new();
        table.locations.retain(|mac, location| {
            let keep = keep(*mac, location);
            if !keep {
                removed.push(*location);
            }
            keep
        });
        for location in &removed {
            self.unlearn(table, *location);
        }
        if !removed.is_empty() {
            self.generations.advance(network);
        }
        removed.len()
    }

    fn with_table<T>(&self, network: NetworkId, work: impl FnOnce(&mut Table) -> T) -> Option<T> {
        let tables = self.tables.read();
        let table = tables.get(network.index())?.as_ref()?;
        Some(work(&mut table.lock()))
    }

    /// A frame from `sender` to `target`: notes where the one is and tells where the other is,
    /// under one lock. Group addresses are nowhere; `target` is then `None`.
    ///
    /// # Errors
    ///
    /// Why the frame is dropped: the sender's address belongs to a vNIC elsewhere, or a limit is
    /// reached.
    pub fn pass(
        &self,
        network: NetworkId,
        sender: Sender,
        target: Option<Mac>,
        now_s: u32,
    ) -> Result<Passage, DropReason> {
        self.with_table(network, |table| {
            self.learn(network, table, sender, now_s)?;
            let target = target.map(|mac| table.lookup(mac));
            // Whatever changes the table advances the generation under its lock, so this is the
            // generation of the table as it is now.
            Ok(Passage {
                target,
                generation: self.generations.current(network),
            })
        })
        .unwrap_or(Err(DropReason::NoPolicy))
    }

    /// Where `mac` is. Nothing is remembered.
    pub fn locate(&self, network: NetworkId, mac: Mac) -> Option<PortId> {
        self.with_table(network, |table| match table.find(mac) {
            Lookup::At(port) => Some(port),
            Lookup::Unknown { .. } => None,
        })?
    }

    /// What [`Bridge::pass`] would say now. Nothing is learned, remembered or changed.
    ///
    /// # Errors
    ///
    /// As [`Bridge::pass`].
    pub fn foresee(
        &self,
        network: NetworkId,
        sender: Sender,
        target: Option<Mac>,
        now_s: u32,
    ) -> Result<Passage, DropReason> {
        self.with_table(network, |table| {
            let known = table.locations.get(&sender.mac.to_u64());
            let whereabouts = self.judge(sender, known, table.has_room(), now_s)?;
            if let (Whereabouts::Moved(_), Some(known)) = (whereabouts, known)
                && known.recent_moves(now_s) >= table.most_moves.most
            {
                return Err(DropReason::MacFlapping);
            }
            Ok(Passage {
                target: target.map(|mac| {
                    // The sender itself would be learned first.
                    if mac == sender.mac {
                        Lookup::At(sender.port)
                    } else {
                        table.find(mac)
                    }
                }),
                generation: self.generations.current(network),
            })
        })
        .unwrap_or(Err(DropReason::NoPolicy))
    }

    /// Whether `sender` may be where it is, given where it is `known` to be and whether the table
    /// has room for one more.
    #[inline]
    fn judge(
        &self,
        sender: Sender,
        known: Option<&Location>,
        room: bool,
        now_s: u32,
    ) -> Result<Whereabouts, DropReason> {
        match known {
            Some(at) if at.port == sender.port => return Ok(Whereabouts::Known),
            Some(at) if at.fixed => return Err(DropReason::MacOwned),
            Some(at) if now_s < at.held_s => return Err(DropReason::MacFlapping),
            _ => {}
        }
        if self.learned_by_port[sender.port.index()].load(Relaxed) >= sender.port_limit {
            return Err(DropReason::MacLimitPort);
        }
        match known {
            Some(former) => Ok(Whereabouts::Moved(former.port)),
            None if room => Ok(Whereabouts::New),
            None => Err(DropReason::MacLimitNetwork),
        }
    }

    fn learn(
        &self,
        network: NetworkId,
        table: &mut Table,
        sender: Sender,
        now_s: u32,
    ) -> Result<(), DropReason> {
        let Sender { mac, port, .. } = sender;
        let mut here = Location::new(port, now_s, false);
        let (room, limit) = (table.has_room(), table.most_moves);
        let known = table.locations.get_mut(&mac.to_u64());
        let former = match (self.judge(sender, known.as_deref(), room, now_s)?, known) {
            (Whereabouts::Known, known) => {
                if let Some(location) = known {
                    location.seen_s = now_s;
                }
                return Ok(());
            }
            (Whereabouts::Moved(former), Some(known)) => {
                here.moves = known.recent_moves(now_s) + 1;
                if here.moves > 1 {
                    here.counted_s = known.counted_s;
                }
                if here.moves > limit.most {
                    known.held_s = now_s.saturating_add(limit.hold_s);
                    self.held.fetch_add(1, Relaxed);
                    // Without room it is counted alone.
                    let _ = self.flaps.lock().try_push(Flap {
                        network,
                        mac,
                        port: former,
                        refused: port,
                        hold_s: limit.hold_s,
                    });
                    return Err(DropReason::MacFlapping);
                }
                Some(former)
            }
            (Whereabouts::Moved(_) | Whereabouts::New, _) => None,
        };
        let share = |port: PortId| &self.learned_by_port[port.index()];
        share(port).fetch_add(1, Relaxed);
        table.locations.insert(mac.to_u64(), here);
        if let Some(former) = former {
            share(former).fetch_sub(1, Relaxed);
            self.moves.fetch_add(1, Relaxed);
            self.generations.advance(network);
        } else {
            table.learned += 1;
            if table.unknown.remove(&mac.to_u64()) {
                self.generations.advance(network);
            }
        }
        Ok(())
    }

    /// Notes that `mac` still sends, if it is still at `port`.
    pub fn refresh(&self, network: NetworkId, mac: Mac, port: PortId, now_s: u32) {
        self.with_table(network, |table| {
            match table.locations.get_mut(&mac.to_u64()) {
                Some(location) if location.port == port => location.seen_s = now_s,
                _ => {}
            }
        });
    }

    /// Forgets addresses that have sent nothing for their network's ageing time, and remembered
    /// unknown ones where there is no more room. Returns how many of the former.
    pub fn age(&self, now_s: u32) -> usize {
        self.each(|network, table| {
            let due_s = table.emptied_s + FORGET_UNKNOWN_EVERY_S;
            if table.unknown.len() >= REMEMBERED_UNKNOWN && now_s >= due_s {
                table.unknown.clear();
                table.emptied_s = now_s;
                self.generations.advance(network);
            }
            let ageing_s = table.ageing_s;
            self.retain(network, table, |_, location| {
                location.fixed || now_s.saturating_sub(location.seen_s) <= ageing_s
            })
        })
    }

    /// Forgets every learned address at `port`, which has gone down, so that frames to them are
    /// flooded rather than lost. Returns how many.
    pub fn forget_port(&self, port: PortId) -> usize {
        self.each(|network, table| {
            self.retain(network, table, |_, location| {
                location.fixed || location.port != port
            })
        })
    }

    /// Every address.
    pub fn rows(&self, now_s: u32) -> Vec<MacRow> {
        let mut rows = Vec::new();
        self.each(|network, table| {
            rows.extend(table.locations.iter().map(|(mac, location)| MacRow {
                network,
                mac: Mac::from_u64(*mac),
                port: location.port,
                age_s: (!location.fixed).then(|| now_s.saturating_sub(location.seen_s)),
                held_s: location.held_s.checked_sub(now_s).filter(|left| *left > 0),
            }));
            0
        });
        rows
    }

    fn each(&self, mut work: impl FnMut(NetworkId, &mut Table) -> usize) -> usize {
        let tables = self.tables.read().clone();
        let present = tables
            .iter()
            .enumerate()
            .filter_map(|(i, t)| Some((i, t.as_ref()?)));
        present
            .map(|(index, table)| work(NetworkId(index as u16), &mut table.lock()))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use policy::{Epoch, model};

    use super::*;

    const BLUE: NetworkId = NetworkId(2);

    fn network() -> model::Network {
        model::Network {
            id: BLUE,
            name: "blue".into(),
            tenant: "acme".into(),
            vlan: None,
            mac_limit: 1000,
            ageing_s: 300,
            moves: model::MoveLimit::default(),
            services: policy::model::Services::default(),
        }
    }

    fn bridge() -> Bridge {
        let model = model::Model {
            networks: vec![network()],
            ports: Vec::new(),
            ..model::Model::default()
        };
        let bridge = Bridge::default();
        bridge.configure(&Snapshot::compile(&model, Epoch(1)).expect("compiles"));
        bridge
    }

    fn mac(number: u64) -> Mac {
        Mac::from_u64(0x0200_0000_0000 | number)
    }

    fn pass(
        bridge: &Bridge,
        number: u64,
        port: u16,
        target: Option<u64>,
    ) -> Result<Passage, DropReason> {
        let sender = Sender {
            mac: mac(number),
            port: PortId(port),
            port_limit: 1000,
        };
        bridge.pass(BLUE, sender, target.map(mac), 0)
    }

    /// What a station that is long known is told.
    fn lookup(bridge: &Bridge, target: u64) -> Lookup {
        let passage = pass(bridge, 0xffff_ffff, 1, Some(target)).expect("known");
        passage.target.expect("asked")
    }

    fn learn(bridge: &Bridge, number: u64, port: u16) {
        pass(bridge, number, port, None).expect("room");
    }

    #[test]
    fn learning_voids_cached_answers_only_if_somebody_asked() {
        let bridge = bridge();
        learn(&bridge, 0xffff_ffff, 1);
        let generation = || bridge.generations().current(BLUE);
        let before = generation();
        learn(&bridge, 1, 1);
        assert_eq!(generation(), before, "nobody had asked");
        let unknown = Lookup::Unknown { remembered: true };
        assert_eq!(lookup(&bridge, 2), unknown);
        assert_eq!(lookup(&bridge, 2), unknown);
        assert_eq!(generation(), before);
        learn(&bridge, 2, 1);
        assert_eq!(generation(), before + 1);
        assert_eq!(lookup(&bridge, 2), Lookup::At(PortId(1)));
    }

    #[test]
    fn foreseeing_changes_nothing() {
        let bridge = bridge();
        learn(&bridge, 1, 1);
        let before = (bridge.rows(0), bridge.generations().current(BLUE));
        let sender = |number, port| Sender {
            mac: mac(number),
            port: PortId(port),
            port_limit: 1,
        };
        let unknown = Some(Lookup::Unknown { remembered: true });
        for _ in 0..2 * REMEMBERED_UNKNOWN as u64 {
            // Known, moved and new senders, to known and unknown targets.
            let foreseen = |number, port, target| {
                let passage = bridge.foresee(BLUE, sender(number, port), Some(mac(target)), 0);
                passage.map(|passage| passage.target)
            };
            assert_eq!(foreseen(1, 1, 2), Ok(unknown));
            assert_eq!(foreseen(1, 2, 1), Ok(Some(Lookup::At(PortId(2)))));
            assert_eq!(foreseen(3, 2, 1), Ok(Some(Lookup::At(PortId(1)))));
            assert_eq!(foreseen(3, 1, 1), Err(DropReason::MacLimitPort));
        }
        assert_eq!(before, (bridge.rows(0), bridge.generations().current(BLUE)));
        assert_eq!(lookup(&bridge, 9), Lookup::Unknown { remembered: true });
    }

    #[test]
    fn a_successor_keeps_what_was_learned_at_ports_that_stay() {
        let bridge = bridge();
        learn(&bridge, 1, 1);
        learn(&bridge, 2, 2);
        let port = model::Port {
            id: PortId(1),
            name: "one".into(),
            attachment: model::Attachment::Access(BLUE),
            isolated: false,
            mac_limit: 1,
            storm: model::StormLimits::default(),
            misses_per_turn: 1,
            spanning_tree: model::SpanningTree::default(),
            vnic: None,
        };
        let model = model::Model {
            networks: vec![network()],
            ports: vec![port],
            ..model::Model::default()
        };
        let next = bridge.successor(&Snapshot::compile(&model, Epoch(2)).expect("compiles"));
        let rows: Vec<_> = next.rows(0).iter().map(|row| (row.mac, row.port)).collect();
        assert_eq!(rows, [(mac(1), PortId(1))]);
        assert_eq!(bridge.rows(0).len(), 2, "the tables in force stay");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten_as_a_whole() {
        let bridge = bridge();
        learn(&bridge, 0xffff_ffff, 1);
        for number in 0..REMEMBERED_UNKNOWN as u64 {
            assert_eq!(
                lookup(&bridge, number),
                Lookup::Unknown { remembered: true }
            );
        }
        let one_more = || lookup(&bridge, 9999);
        assert_eq!(one_more(), Lookup::Unknown { remembered: false });
        let before = bridge.generations().current(BLUE);
        bridge.age(0);
        assert_eq!(bridge.generations().current(BLUE), before, "not so soon");
        bridge.age(FORGET_UNKNOWN_EVERY_S);
        assert_eq!(bridge.generations().current(BLUE), before + 1);
        assert_eq!(one_more(), Lookup::Unknown { remembered: true });
    }
}
