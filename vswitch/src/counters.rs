//! Counters: one writer each, read by control while they run.
//!
//! What must hold, per port and in total, whenever no burst is under way:
//!
//! ```text
//!   rx + returned + replicas = forwarded + taken + Σ drops (ingress reasons)   what came in
//!   offered                  = tx + Σ drops (egress reasons)                   what was to go out
//!   Σ forwarded + Σ originated = Σ offered
//!   so in total: rx + returned + replicas + originated = tx + taken + Σ drops
//! ```
//!
//! A frame with one destination or none makes no replica; with n destinations it makes n - 1. What
//! the switch itself sends, no port received: it is originated. What it keeps, to answer it or until
//! a neighbour is found, is taken; of that, what comes back to be judged is returned.

use policy::DropReason;

pub use mirror::counter::Counter;

/// What one worker counts for one port. See the module for how they add up.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct PortCounters {
    /// Frames received.
    pub rx_frames: Counter,
    /// Bytes received, without FCS.
    pub rx_bytes: Counter,
    /// Frames handed to the driver.
    pub tx_frames: Counter,
    /// Bytes of those, without FCS.
    pub tx_bytes: Counter,
    /// Further destinations of frames received here.
    pub replicas: Counter,
    /// Destinations that frames received here were sent on to.
    pub forwarded: Counter,
    /// Frames that were to leave here.
    pub offered: Counter,
    /// Those of them that the switch itself made.
    pub originated: Counter,
    /// Frames received here that the switch took itself.
    pub taken: Counter,
    /// Those of them that came back to be judged, when what they waited for was there.
    pub returned: Counter,
    /// Frames that the flow cache answered.
    pub cache_hits: Counter,
    /// Frames that the slow path answered, or the budget dropped.
    pub cache_misses: Counter,
    /// Dropped frames in this port's account, by reason.
    pub drops: DropCounters,
}

/// One counter for each reason to drop a frame, in the order of their numbers.
#[derive(Debug)]
pub struct DropCounters([Counter; DropReason::COUNT]);

impl Default for DropCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl PortCounters {
    /// Counts dropped frames.
    #[inline]
    pub fn drop_frames(&self, reason: DropReason, frames: u64) {
        self.drops.0[reason as usize].add(frames);
    }
}

/// What a port counted, over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortCounts {
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received, without FCS.
    pub rx_bytes: u64,
    /// Frames handed to the driver.
    pub tx_frames: u64,
    /// Bytes of those, without FCS.
    pub tx_bytes: u64,
    /// Further destinations of frames received here.
    pub replicas: u64,
    /// Destinations that frames received here were sent on to.
    pub forwarded: u64,
    /// Frames that were to leave here.
    pub offered: u64,
    /// Those of them that the switch itself made.
    pub originated: u64,
    /// Frames received here that the switch took itself.
    pub taken: u64,
    /// Those of them that came back to be judged, when what they waited for was there.
    pub returned: u64,
    /// Frames that the flow cache answered.
    pub cache_hits: u64,
    /// Frames that the slow path answered, or the budget dropped.
    pub cache_misses: u64,
    /// Dropped frames by reason, those that are not zero.
    pub drops: Vec<(DropReason, u64)>,
}

impl PortCounts {
    /// Adds what one worker counted.
    pub fn add(&mut self, counters: &PortCounters) {
        self.rx_frames += counters.rx_frames.get();
        self.rx_bytes += counters.rx_bytes.get();
        self.tx_frames += counters.tx_frames.get();
        self.tx_bytes += counters.tx_bytes.get();
        self.replicas += counters.replicas.get();
        self.forwarded += counters.forwarded.get();
        self.offered += counters.offered.get();
        self.originated += counters.originated.get();
        self.taken += counters.taken.get();
        self.returned += counters.returned.get();
        self.cache_hits += counters.cache_hits.get();
        self.cache_misses += counters.cache_misses.get();
        for (reason, counter) in DropReason::ALL.iter().zip(&counters.drops.0) {
            let frames = counter.get();
            if frames == 0 {
                continue;
            }
            match self.drops.iter_mut().find(|(known, _)| known == reason) {
                Some((_, total)) => *total += frames,
                None => self.drops.push((*reason, frames)),
            }
        }
    }

    /// Dropped frames for one reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops
            .iter()
            .find(|(known, _)| *known == reason)
            .map_or(0, |(_, frames)| *frames)
    }

    /// All dropped frames.
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().map(|(_, frames)| frames).sum()
    }
}

/// What a worker counts of itself.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerCounters {
    /// Turns of the loop.
    pub turns: Counter,
    /// Turns that had frames.
    pub bursts: Counter,
    /// Frames received.
    pub frames: Counter,
    /// Bytes received.
    pub bytes: Counter,
    /// Frames that the flow cache answered.
    pub cache_hits: Counter,
    /// Frames that the slow path answered.
    pub cache_misses: Counter,
    /// Frames dropped because their port's budget of misses was spent.
    pub budget_drops: Counter,
    /// Cycles spent in turns that had frames.
    pub busy_cycles: Counter,
    /// Nanoseconds asleep.
    pub sleep_ns: Counter,
    /// Times it blocked until woken.
    pub blocks: Counter,
    /// Nanoseconds since the worker's start at its last turn.
    pub running_ns: Counter,
    /// Entries in its flow cache that are in use.
    pub cache_entries: Counter,
}

/// A reading of one worker's counters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerCounts {
    /// Its number.
    pub worker: usize,
    /// The core it is pinned to.
    pub core: usize,
    /// Turns of the loop.
    pub turns: u64,
    /// Turns that had frames.
    pub bursts: u64,
    /// Frames received.
    pub frames: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Frames that the flow cache answered.
    pub cache_hits: u64,
    /// Frames that the slow path answered.
    pub cache_misses: u64,
    /// Frames dropped because their port's budget of misses was spent.
    pub budget_drops: u64,
    /// Cycles spent in turns that had frames.
    pub busy_cycles: u64,
    /// Nanoseconds asleep.
    pub sleep_ns: u64,
    /// Times it blocked until woken.
    pub blocks: u64,
    /// Nanoseconds since its start, as of its last turn.
    pub running_ns: u64,
    /// Entries of its flow cache that are in use.
    pub cache_entries: u64,
}

impl WorkerCounts {
    /// A reading of `counters`.
    pub fn read(worker: usize, core: usize, counters: &WorkerCounters) -> Self {
        Self {
            worker,
            core,
            turns: counters.turns.get(),
            bursts: counters.bursts.get(),
            frames: counters.frames.get(),
            bytes: counters.bytes.get(),
            cache_hits: counters.cache_hits.get(),
            cache_misses: counters.cache_misses.get(),
            budget_drops: counters.budget_drops.get(),
            busy_cycles: counters.busy_cycles.get(),
            sleep_ns: counters.sleep_ns.get(),
            blocks: counters.blocks.get(),
            running_ns: counters.running_ns.get(),
            cache_entries: counters.cache_entries.get(),
        }
    }

    /// Busy cycles for each frame, ports included; 0 before the first frame.
    pub fn cycles_per_frame(&self) -> f64 {
        if self.frames == 0 {
            0.0
        } else {
            self.busy_cycles as f64 / self.frames as f64
        }
    }

    /// Share of its time that it slept, from 0 to 1.
    pub fn sleep_share(&self) -> f64 {
        if self.running_ns == 0 {
            0.0
        } else {
            self.sleep_ns as f64 / self.running_ns as f64
        }
    }
}
