//! What an engine tells of itself: counts, tables, drops.
//!
//! In: questions, from any thread. Out: rows. Nothing here changes what the workers do.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use policy::{Denial, DropReason, Epoch, FlowKey, PortId, RuleId, Stage, conntrack::Connections};

use super::{Engine, EngineError, PATIENCE};
use crate::{
    bridge::{MacRow, Moves},
    counters::{PortCounts, WorkerCounts},
    drop_watch::{Filter, Watch},
    published::{Bundle, Shared},
    runner::{Command, FlowRow},
};

/// Most cached flows that are listed of a worker.
pub const MOST_FLOWS: usize = 65_536;

/// Which worker owns which receive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRow {
    /// The port.
    pub port: PortId,
    /// The queue's number within it.
    pub queue: usize,
    /// Its owner.
    pub worker: usize,
}

/// Drops for one reason and rule in one port's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropRow {
    /// Whose account.
    pub port: PortId,
    /// Why, and by which rule.
    pub denial: Denial,
    /// False for what no ledger itemises: a rule may have decided, but not which is known.
    pub itemised: bool,
    /// How many.
    pub frames: u64,
}

/// What a rule decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleHits {
    /// Frames that it let pass, each counted once for each receiver whose rule it is.
    pub passed: u64,
    /// Frames that it denied or rejected.
    pub dropped: u64,
    /// When it last decided, in seconds of the clock.
    pub last_s: u32,
}

/// What frames would meet: the snapshot in force when it was asked for, and the MAC tables.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// The snapshot, with the ports' counters and limits.
    pub bundle: Arc<Bundle>,
    /// The MAC tables, and the clock.
    pub shared: Arc<Shared>,
}

impl Engine {
    /// Which worker owns which receive queue.
    pub fn queues(&self) -> Vec<QueueRow> {
        let state = self.state.lock();
        let mut rows: Vec<_> = state
            .ports
            .iter()
            .flat_map(|(port, record)| {
                record
                    .placement
                    .iter()
                    .enumerate()
                    .map(|(queue, worker)| QueueRow {
                        port: *port,
                        queue,
                        worker: *worker,
                    })
            })
            .collect();
        rows.sort_by_key(|row| (row.port, row.queue));
        rows
    }

    /// What a port counted; zeros for one that does not exist.
    pub fn port_counts(&self, id: PortId) -> PortCounts {
        let mut counts = PortCounts::default();
        if let Some(record) = self.state.lock().ports.get(&id) {
            record
                .shared
                .counters
                .iter()
                .for_each(|counters| counts.add(counters));
        }
        counts
    }

    /// What ports counted that are no more.
    pub fn retired_counts(&self) -> PortCounts {
        self.state.lock().retired.clone()
    }

    /// What each worker counted.
    pub fn worker_counts(&self) -> Vec<WorkerCounts> {
        self.workers
            .iter()
            .enumerate()
            .map(|(id, worker)| WorkerCounts::read(id, worker.core, &worker.counters))
            .collect()
    }

    /// Every address in every MAC table.
    pub fn macs(&self) -> Vec<MacRow> {
        let mut rows = self.shared.bridge.rows(self.now_s());
        rows.sort_by_key(|row| (row.network, row.port, row.mac));
        rows
    }

    /// How often addresses moved between ports.
    pub fn moves(&self) -> Moves {
        self.shared.bridge.moved()
    }

    /// Cached flows, at most `limit` and [`MOST_FLOWS`] of each worker. Callers wait for each
    /// other: a worker makes one list at a time.
    ///
    /// # Errors
    ///
    /// When a worker does not answer.
    pub fn flows(&self, limit: usize) -> Result<Vec<FlowRow>, EngineError> {
        let _one_at_a_time = self.listing.lock();
        let limit = limit.min(MOST_FLOWS);
        let mut rows = Vec::new();
        for worker in 0..self.workers.len() {
            rows.extend(self.call(worker, |reply| Command::Flows { limit, reply })?);
        }
        Ok(rows)
    }

    /// What frames from ports would meet now.
    pub fn outlook(&self) -> Outlook {
        Outlook {
            bundle: self.shared.current.load_full(),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Which of the workers that own a receive queue of `port` have a flow in their cache: each
    /// with the entry, if it has one. Nothing is touched.
    ///
    /// # Errors
    ///
    /// When a worker does not answer.
    pub fn look_up(
        &self,
        port: PortId,
        masked: &FlowKey,
        epoch: Epoch,
    ) -> Result<Vec<(usize, Option<FlowRow>)>, EngineError> {
        let owners: BTreeSet<usize> = {
            let state = self.state.lock();
            let record = state.ports.get(&port);
            record.map_or_else(BTreeSet::new, |r| r.placement.iter().copied().collect())
        };
        let mut answers = Vec::new();
        for worker in owners {
            let found = self.call(worker, |reply| Command::Look {
                masked: *masked,
                epoch,
                reply,
            })?;
            answers.push((worker, found));
        }
        Ok(answers)
    }

    /// Samples of frames, until the watch is dropped; `None` when too many watch already.
    pub fn watch(&self, filter: Filter) -> Option<Watch> {
        self.watches.start(filter)
    }

    /// The clock that samples are stamped by, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.shared.clock.ns_at(pmd::clock::cycles())
    }

    /// Drops by port, reason and rule, over all workers. What a full ledger had no row for stands
    /// under its reason, marked; what drivers refuse is in no ledger, for no rule decides there.
    pub fn drops(&self) -> Vec<DropRow> {
        // Before the ledgers: a frame dropped in between must not look as if none itemised it.
        let ports: Vec<PortId> = self.state.lock().ports.keys().copied().collect();
        let totals: Vec<_> = ports
            .into_iter()
            .map(|port| (port, self.port_counts(port).drops))
            .collect();
        let mut rows: BTreeMap<_, DropRow> = BTreeMap::new();
        let mut itemised: HashMap<(PortId, DropReason), u64> = HashMap::new();
        let mut count = |port, denial: Denial, itemised, frames| {
            let empty = DropRow {
                port,
                denial,
                itemised,
                frames: 0,
            };
            let row = rows.entry((port, denial.reason as u8, denial.rule, itemised));
            row.or_insert(empty).frames += frames;
        };
        for entry in self
            .workers
            .iter()
            .flat_map(|worker| worker.ledger.entries())
        {
            *itemised
                .entry((entry.port, entry.denial.reason))
                .or_default() += entry.frames;
            count(entry.port, entry.denial, true, entry.frames);
        }
        for (port, drops) in totals {
            for (reason, total) in drops {
                let known = itemised.get(&(port, reason)).copied().unwrap_or(0);
                if total > known {
                    let itemised = reason.stage() == Stage::Transmit;
                    count(port, Denial::new(reason), itemised, total - known);
                }
            }
        }
        rows.into_values().collect()
    }

    /// What each rule that decided anything decided so far, over all ports and workers.
    ///
    /// # Errors
    ///
    /// When a worker does not answer.
    pub fn rules(&self) -> Result<HashMap<RuleId, RuleHits>, EngineError> {
        let _one_at_a_time = self.listing.lock();
        for worker in 0..self.workers.len() {
            self.call(worker, |reply| Command::Settle { reply })?;
        }
        let mut hits: HashMap<RuleId, RuleHits> = HashMap::new();
        for worker in &self.workers {
            for row in worker.rules.entries() {
                let hits = hits.entry(row.rule).or_default();
                hits.passed += row.frames;
                hits.last_s = hits.last_s.max(row.last_s);
            }
            for row in worker.ledger.entries() {
                if let Some(rule) = row.denial.rule {
                    let hits = hits.entry(rule).or_default();
                    hits.dropped += row.frames;
                    hits.last_s = hits.last_s.max(row.last_s);
                }
            }
        }
        Ok(hits)
    }

    /// Seconds of the clock that hits are told in.
    pub fn now_s(&self) -> u32 {
        (self.shared.clock.ns_at(pmd::clock::cycles()) / 1_000_000_000) as u32
    }

    /// The epoch in force.
    pub fn epoch(&self) -> Epoch {
        self.shared.current.load().snapshot.epoch()
    }

    /// True when every worker turned within the last seconds: what a watchdog asks.
    pub fn alive(&self) -> bool {
        let now_ns = self.shared.clock.ns_at(pmd::clock::cycles());
        self.workers.iter().all(|worker| {
            let last_ns = worker.counters.running_ns.get();
            Duration::from_nanos(now_ns.saturating_sub(last_ns)) < PATIENCE
        })
    }

    /// The connections of all workers.
    pub fn connections(&self) -> &Connections {
        &self.shared.connections
    }
}
