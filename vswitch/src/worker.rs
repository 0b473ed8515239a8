//! The worker: one pinned thread that owns receive queues and walks their frames.
//!
//! Begin reading here: `walk_burst`, in [`Worker::turn_at`], is the walk of a frame, one line a stage, each stage
//! working over the whole burst; the stages stand in `worker/walk.rs`.
//!
//! ```text
//!   intake ─► parse ─► probe ─► match ─┬─ hit, straight to a port ───────────┐
//!   (borrow)                           ├─ other hit ────────────────► apply ─┴─► outbox ─► transmit ─► mirror
//!                                      └─ miss ─► slow path ─► insert ─┘                   (copy)
//! ```
//!
//! Costs, dearest first: a miss (policy is read rule by rule) ≫ the cache's entry and set lines
//! when many flows are live (hence the two prefetching stages) > the copy on transmit > parsing.
//!
//! Who owns what: the intake, the cache, the slots and the outbox belong to this worker alone.
//! Shared are the published bundle (read once a turn), the MAC tables (slow path only), transmit
//! queues (one lock a burst) and the counters (this worker is the only writer of its own).
//! Nothing allocates per frame, nothing waits, nothing logs.

mod route;
mod serve;
mod walk;

use std::sync::Arc;

use arc_swap::Cache;
use pmd::Burst;
use policy::{Epoch, FlowKey};

use crate::{
    budget::Budget,
    counters::WorkerCounters,
    drop_watch::Taps,
    flow_cache::{Entry, FlowCache, Standing},
    handoff::Handoff,
    intake::{Groups, Intake},
    outbox::Outbox,
    published::{Acknowledged, Bundle, Shared},
    rule_log::Ring,
    slow_path::SlowPath,
    verdict::DestinationLog,
};
use walk::{Now, Slots, Walk, is_good};

/// One worker.
#[derive(Debug)]
pub struct Worker {
    /// Its number.
    pub id: usize,
    /// Its receive queues.
    pub intake: Intake,
    /// Its way out.
    pub outbox: Outbox,
    /// Its counters.
    pub counters: Arc<WorkerCounters>,
    /// What it tells control.
    pub acknowledged: Arc<Acknowledged>,
    /// Its flow cache.
    pub cache: FlowCache,
    /// Its slow path.
    pub slow_path: SlowPath,
    /// Where it leaves what rules log.
    pub log: Arc<Ring>,
    /// Where it leaves what the switch answers itself.
    pub handoff: Arc<Handoff>,
    /// When its last turn that had frames ended, in nanoseconds of the clock.
    pub busy_ns: u64,
    shared: Arc<Shared>,
    current: Cache<Arc<arc_swap::ArcSwap<Bundle>>, Arc<Bundle>>,
    slots: Box<Slots>,
    groups: Groups,
    budget: Budget,
}

impl Worker {
    /// A worker without queues, whose cache has at least `cache_entries` entries.
    pub fn new(id: usize, shared: Arc<Shared>, cache_entries: usize, secret: [u64; 8]) -> Self {
        Self {
            id,
            intake: Intake::default(),
            outbox: Outbox::new(id),
            counters: Arc::default(),
            acknowledged: Arc::default(),
            cache: FlowCache::new(cache_entries, secret),
            slow_path: SlowPath::default(),
            log: Arc::default(),
            handoff: Arc::default(),
            busy_ns: 0,
            current: Cache::new(Arc::clone(&shared.current)),
            shared,
            slots: Box::new(Slots::new()),
            groups: Groups::new(),
            budget: Budget::default(),
        }
    }

    /// One turn: whatever was received is judged and sent, under one snapshot. Returns how many
    /// frames it was.
    pub fn turn(&mut self) -> usize {
        self.turn_at(pmd::clock::cycles())
    }

    /// The turn that begins at `began`, a reading of [`pmd::clock::cycles`]: the only time that
    /// its frames are judged by.
    #[inline]
    pub fn turn_at(&mut self, began: u64) -> usize {
        let bundle = self.load_bundle(began);
        if self.slow_path.adjacencies.is_crowded() {
            self.forget_adjacencies(began);
        }
        let mut burst = Burst::new();
        self.intake.receive(&mut burst, &mut self.groups);
        let (frames, mut served) = (burst.len(), 0);
        if frames > 0 {
            let now = Now::at(self.shared.clock.ns_at(began));
            self.outbox.now_ns = now.ns;
            self.outbox.wall_ns = self.shared.wall_ns(now.ns);
            let mut walk = Walk {
                id: self.id,
                bundle: &bundle,
                shared: &self.shared,
                now,
                groups: &self.groups,
                slots: &mut self.slots,
                cache: &mut self.cache,
                slow_path: &mut self.slow_path,
                outbox: &mut self.outbox,
                log: &self.log,
                handoff: &self.handoff,
                serves: true,
                counters: &self.counters,
            };
            walk_burst(&mut walk, &mut burst, &mut self.budget);
        }
        drop(burst);
        self.intake.release();
        self.budget.pace(&mut self.intake);
        if self.handoff.is_pending() {
            let now = Now::at(self.shared.clock.ns_at(began));
            served = self.serve(&bundle, now);
        }
        self.account(began, frames);
        frames + served
    }

    /// Where whoever watches gets samples.
    pub fn taps(&self) -> Arc<Taps> {
        Arc::clone(&self.outbox.taps)
    }

    /// The flow of a key under its mask, if a frame of it would be answered under `epoch` without
    /// the slow path.
    pub fn cached(&self, masked: &FlowKey, epoch: Epoch) -> Option<&Entry> {
        let now = Standing {
            epoch,
            generations: self.shared.bridge.generations(),
        };
        let entry = self.cache.peek(masked, now)?;
        let stands = self.shared.connections.stands(entry.token());
        (stands && is_good(&entry.verdict, &self.slow_path, now.generations)).then_some(entry)
    }

    /// The flows that stand, among so many cache entries from the one numbered `from`.
    pub fn live_entries(&self, from: usize, count: usize) -> impl Iterator<Item = &Entry> {
        let now = Standing {
            epoch: self.acknowledged.get(),
            generations: self.shared.bridge.generations(),
        };
        let slow_path = &self.slow_path;
        self.cache.scan(from, count, now).filter(move |entry| {
            is_good(&entry.verdict, slow_path, now.generations)
                && self.shared.connections.stands(entry.token())
        })
    }

    /// Makes room for neighbours: who counts on those that were met so far is decided anew.
    #[cold]
    fn forget_adjacencies(&mut self, began: u64) {
        let now = Now::at(self.shared.clock.ns_at(began));
        self.cache.clear(&self.slow_path.rules, now.s);
        self.slow_path.adjacencies.clear();
    }

    /// What is in force, read once a turn, so that no frame meets half of a change.
    fn load_bundle(&mut self, began: u64) -> Arc<Bundle> {
        let bundle = Arc::clone(self.current.load());
        if bundle.revision != self.acknowledged.revision() {
            self.adopt(&bundle, began);
            self.acknowledged.set(&bundle);
        }
        bundle
    }

    /// Makes room for what the snapshot may ask for, so that no frame has to.
    #[cold]
    fn adopt(&mut self, bundle: &Bundle, began: u64) {
        self.outbox.copier.adopt(&bundle.mirrors);
        if bundle.snapshot.epoch() == self.acknowledged.get() {
            return;
        }
        let longest = bundle
            .snapshot
            .networks()
            .map(|n| n.members.len())
            .max()
            .unwrap_or(0);
        if !self.slow_path.lists.holds(longest) {
            self.slow_path.lists = DestinationLog::new(longest);
        }
        let snapshot = &bundle.snapshot;
        if !snapshot.routers().is_empty() {
            self.slow_path.adjacencies.make_room();
        }
        self.handoff.make_room();
        let is_there = |rule| snapshot.places().has(rule);
        self.slow_path.rules.make_room(is_there);
        let now_ns = self.shared.clock.ns_at(began);
        self.budget.adopt(bundle, self.acknowledged.get(), now_ns);
    }

    fn account(&mut self, began: u64, frames: usize) {
        let counters = &self.counters;
        counters.turns.add(1);
        let ended = pmd::clock::cycles();
        let ended_ns = self.shared.clock.ns_at(ended);
        counters.running_ns.set(ended_ns);
        if frames > 0 {
            self.busy_ns = ended_ns;
            counters.bursts.add(1);
            counters.frames.add(frames as u64);
            counters.busy_cycles.add(ended.saturating_sub(began));
            counters.cache_entries.set(self.cache.used());
        }
    }
}

/// The walk of a burst, stage by stage.
#[inline(always)]
fn walk_burst(walk: &mut Walk<'_>, burst: &mut Burst<'_>, budget: &mut Budget) {
    walk.parse(burst);
    if walk.outbox.taps.watch_received() {
        walk.show_received(burst);
    }
    walk.probe();
    walk.match_entries(burst);
    walk.resolve_misses(burst, budget);
    walk.apply(burst);
    walk.outbox.transmit(walk.bundle, burst);
    if walk.bundle.mirrors.is_active() {
        walk.mirror(burst);
    }
}
