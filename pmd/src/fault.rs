//! `fault`: wraps any port and makes it misbehave, the same way each time for the same seed.
//!
//! ```text
//!   inner rx ──► drop? ──► corrupt? (one bit, in a copy) ──┬─► delay? ──► copies held ──┐
//!                                                          └─► duplicate? ──────────────┴─► burst
//!   inner tx ◄── full? ◄── plans
//! ```
//!
//! In: a port and how likely each fault is. Out: a port. What must hold:
//!
//! - the inner port's frames stay borrowed until `release`, whatever becomes of them here;
//! - frames in = frames out + dropped − duplicated + held, where held is what was delayed and
//!   whose delay has not ended;
//! - while a frame is held, the worker is told not to sleep;
//! - copies come from a fixed store; when it is empty, the fault that wants one does not happen
//!   and is counted under `fault_no_copy`.

mod random;
mod rx;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arrayvec::ArrayVec;

use crate::{
    BURST, Counts, Details, Health, Monitor, Port, RxQueue, TxBurst, TxPlan, TxQueue, TxReport,
};
use random::Random;
use rx::FaultRx;

/// Copies a receive queue can hold at once: those on loan and those held back.
pub const COPIES: usize = 256;

/// How likely something is, from 0 (never) to 1 (always).
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Probability(f64);

impl Probability {
    /// It never happens.
    pub const NEVER: Self = Self(0.0);
    /// It always happens.
    pub const ALWAYS: Self = Self(1.0);

    /// A probability of `value`, or `None` when that is not from 0 to 1.
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0).contains(&value).then_some(Self(value))
    }

    /// The value, from 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// Which faults a wrapped port has. The default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Config {
    /// What all chances derive from: the same seed and the same calls give the same faults.
    pub seed: u64,
    /// A received frame is lost.
    pub drop: Probability,
    /// One bit of a received frame is flipped, in a copy.
    pub corrupt: Probability,
    /// A received frame comes twice, unless it is delayed or the burst has no room for it.
    pub duplicate: Probability,
    /// A received frame is held back while those behind it overtake.
    pub delay: Probability,
    /// For how many further `receive` calls a delayed frame is held; 0 counts as 1.
    pub delay_receives: u32,
    /// A transmitted frame finds the queue full.
    pub full: Probability,
}

/// Wraps `port`.
pub fn wrap(mut port: Port, config: Config) -> Port {
    let tallies = Arc::new(Tallies::default());
    let mut seeds = Random::new(config.seed);
    let copy_bytes = port.info.max_frame_bytes + rx::TAG_BYTES;
    port.rx = port
        .rx
        .into_iter()
        .map(|inner| {
            let random = Random::new(seeds.next());
            let queue = FaultRx::new(inner, config, random, copy_bytes, Arc::clone(&tallies));
            Box::new(queue) as Box<dyn RxQueue>
        })
        .collect();
    port.tx = port
        .tx
        .into_iter()
        .map(|inner| {
            Box::new(FaultTx {
                inner,
                full: config.full,
                random: Random::new(seeds.next()),
                tallies: Arc::clone(&tallies),
            }) as Box<dyn TxQueue>
        })
        .collect();
    port.monitor = Box::new(FaultMonitor {
        inner: port.monitor,
        tallies,
    });
    port.info.notes.push(format!(
        "faults are injected (seed {}): drop {}, corrupt {}, duplicate {}, delay {}, full {}.",
        config.seed,
        config.drop.0,
        config.corrupt.0,
        config.duplicate.0,
        config.delay.0,
        config.full.0
    ));
    port
}

/// What was done to frames, over all queues.
#[derive(Debug, Default)]
struct Tallies {
    dropped: AtomicU64,
    corrupted: AtomicU64,
    duplicated: AtomicU64,
    delayed: AtomicU64,
    delay_ended: AtomicU64,
    no_copy: AtomicU64,
    full: AtomicU64,
}

fn add(tally: &AtomicU64, count: usize) {
    if count > 0 {
        tally.fetch_add(count as u64, Ordering::Relaxed);
    }
}

struct FaultTx {
    inner: Box<dyn TxQueue>,
    full: Probability,
    random: Random,
    tallies: Arc<Tallies>,
}

impl TxQueue for FaultTx {
    fn transmit(&mut self, burst: &TxBurst<'_>) -> TxReport {
        let mut report = TxReport::default();
        // A transmit may have any number of plans; those that pass go on in pieces of this size.
        let mut passing = ArrayVec::<TxPlan, BURST>::new();
        let mut injected = 0;
        for plan in burst.plans {
            if self.random.happens(self.full) {
                injected += 1;
                continue;
            }
            passing.push(*plan);
            if passing.is_full() {
                send(&mut *self.inner, burst, &passing, &mut report);
                passing.clear();
            }
        }
        if !passing.is_empty() {
            send(&mut *self.inner, burst, &passing, &mut report);
        }
        report.full += injected as u32;
        add(&self.tallies.full, injected);
        report
    }
}

fn send(inner: &mut dyn TxQueue, burst: &TxBurst<'_>, plans: &[TxPlan], total: &mut TxReport) {
    let report = inner.transmit(&TxBurst { plans, ..*burst });
    total.sent += report.sent;
    total.sent_bytes += report.sent_bytes;
    total.full += report.full;
    total.too_big += report.too_big;
    total.down += report.down;
}

struct FaultMonitor {
    inner: Box<dyn Monitor>,
    tallies: Arc<Tallies>,
}

impl Monitor for FaultMonitor {
    fn health(&mut self) -> Health {
        self.inner.health()
    }

    fn details(&mut self) -> Details {
        self.inner.details()
    }

    fn counts(&mut self) -> Counts {
        let tallies = &*self.tallies;
        let named = [
            ("fault_dropped", &tallies.dropped),
            ("fault_corrupted", &tallies.corrupted),
            ("fault_duplicated", &tallies.duplicated),
            ("fault_delayed", &tallies.delayed),
            ("fault_delay_ended", &tallies.delay_ended),
            ("fault_no_copy", &tallies.no_copy),
            ("fault_full", &tallies.full),
        ];
        let mut counts = self.inner.counts();
        counts.extend(named.map(|(name, tally)| (name, tally.load(Ordering::Relaxed))));
        counts
    }
}
