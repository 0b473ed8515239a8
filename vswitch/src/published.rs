//! What control publishes to the workers, and what all of them share.
//!
//! What must hold: control frees a replaced bundle only when every worker has said that it works
//! under a later one, so no worker ever pays for freeing it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use policy::{Epoch, PortId, conntrack::Connections, snapshot::Snapshot};

use crate::{
    bridge::Bridge,
    counters::PortCounters,
    meter::Meters,
    neighbors::Neighbors,
    rule_log::Quota,
    storm::{Gate, StormGates},
};

/// A snapshot with the counters of the ports it speaks of.
#[derive(Debug)]
pub struct Bundle {
    /// The compiled policy.
    pub snapshot: Snapshot,
    /// By port number: every port of the snapshot, and every other that is still attached.
    pub ports: Vec<Option<Arc<PortShared>>>,
    /// The limits of its rules.
    pub meters: Meters,
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
    /// By worker.
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
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            counters: (0..workers).map(|_| PortCounters::default()).collect(),
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
}

impl Shared {
    /// With an empty snapshot, and `connections`, whose memory is taken already.
    pub fn new(clock: pmd::Clock, connections: Connections) -> Self {
        let nothing = Bundle {
            snapshot: Snapshot::empty(),
            ports: Vec::new(),
            meters: Meters::default(),
        };
        Self {
            current: Arc::new(ArcSwap::from_pointee(nothing)),
            bridge: Bridge::default(),
            neighbors: Neighbors::default(),
            connections,
            clock,
        }
    }
}

/// The latest epoch that a worker works under.
#[derive(Debug, Default)]
pub struct Acknowledged(AtomicU64);

impl Acknowledged {
    /// Said by the worker, once no frame judged under an older epoch is left in its hands.
    pub fn set(&self, epoch: Epoch) {
        self.0.store(epoch.0, Ordering::Release);
    }

    /// What it said last.
    pub fn get(&self) -> Epoch {
        Epoch(self.0.load(Ordering::Acquire))
    }
}
