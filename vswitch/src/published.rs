//! What control publishes to the workers, and what all of them share.
//!
//! What must hold: control frees a replaced bundle only when every worker has said that it works
//! under a later one, so no worker ever pays for freeing it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use policy::{Epoch, PortId, conntrack::Connections, snapshot::Snapshot};

use crate::{
    bridge::Bridge,
    counters::PortCounters,
    meter::Meters,
    mirroring::Mirrors,
    neighbors::Neighbors,
    rule_log::Quota,
    storm::{Gate, StormGates},
};

/// A snapshot with the counters of the ports it speaks of.
#[derive(Debug)]
pub struct Bundle {
    /// The compiled policy.
    pub snapshot: Arc<Snapshot>,
    /// By port number: every port of the snapshot, and every other that is still attached.
    pub ports: Vec<Option<Arc<PortShared>>>,
    /// The limits of its rules.
    pub meters: Arc<Meters>,
    /// The mirror sessions.
    pub mirrors: Arc<Mirrors>,
    /// Its number. One with the same snapshot as the last voids no cached verdict.
    pub revision: u64,
}

impl Bundle {
    /// What the workers share of a port.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&PortShared> {
        self.ports.get(id.index())?.as_deref()
    }
}

/// What the workers share of a port. It outlives any bundle, so that counts go on.
#[derive(Debug)]
pub struct PortShared {
    /// By worker, and behind them those of the desk: each has one writer.
    pub counters: Box<[PortCounters]>,
    /// The limits on what it floods.
    pub storm: StormGates,
    /// The limit on what its senders are told of rejected frames.
    pub rejects: Gate,
    /// The limit on what its senders are told of packets that routers do not send on.
    pub errors: Gate,
    /// The limit on what its vNIC's rules log.
    pub log: Quota,
}

impl PortShared {
    /// For so many workers and the desk.
    pub fn new(workers: usize) -> Self {
        Self {
            counters: (0..=workers).map(|_| PortCounters::default()).collect(),
            storm: StormGates::default(),
            rejects: Gate::default(),
            errors: Gate::default(),
            log: Quota::default(),
        }
    }
}

/// Everything that workers have in common.
#[derive(Debug)]
pub struct Shared {
    /// What is in force.
    pub current: Arc<ArcSwap<Bundle>>,
    /// The MAC tables.
    pub bridge: Bridge,
    /// Who is where, of those that routers send to.
    pub neighbors: Neighbors,
    /// The connections.
    pub connections: Connections,
    /// The time base of ageing and limits.
    pub clock: pmd::Clock,
    /// What the clock's nanoseconds are more in, since 1970.
    wall_offset_ns: AtomicU64,
}

impl Shared {
    /// With an empty snapshot, and `connections`, whose memory is taken already.
    pub fn new(clock: pmd::Clock, connections: Connections) -> Self {
        let nothing = Bundle {
            snapshot: Arc::default(),
            ports: Vec::new(),
            meters: Arc::default(),
            mirrors: Arc::default(),
            revision: 0,
        };
        Self {
            current: Arc::new(ArcSwap::from_pointee(nothing)),
            bridge: Bridge::default(),
            neighbors: Neighbors::default(),
            connections,
            clock,
            wall_offset_ns: AtomicU64::new(wall_offset_ns(clock)),
        }
    }

    /// A time of the clock, in nanoseconds since 1970.
    #[inline]
    pub fn wall_ns(&self, now_ns: u64) -> u64 {
        self.wall_offset_ns
            .load(Ordering::Relaxed)
            .wrapping_add(now_ns)
    }

    /// Follows the system's clock, which may be set.
    pub fn set_wall_clock(&self) {
        let offset_ns = wall_offset_ns(self.clock);
        self.wall_offset_ns.store(offset_ns, Ordering::Relaxed);
    }
}

fn wall_offset_ns(clock: pmd::Clock) -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let wall_ns = since_1970.map_or(0, |since| since.as_nanos() as u64);
    wall_ns.wrapping_sub(clock.ns_at(pmd::clock::cycles()))
}

/// The latest bundle that a worker works under.
#[derive(Debug, Default)]
pub struct Acknowledged {
    epoch: AtomicU64,
    revision: AtomicU64,
}

impl Acknowledged {
    /// Said by the worker, once no frame judged under an older bundle is left in its hands.
    pub fn set(&self, bundle: &Bundle) {
        self.epoch
            .store(bundle.snapshot.epoch().0, Ordering::Release);
        self.revision.store(bundle.revision, Ordering::Release);
    }

    /// The epoch that it said last.
    pub fn get(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// The revision that it said last.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }
}
