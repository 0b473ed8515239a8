//! Samples of frames for whoever watches: of those that are dropped, or of all that come in.
//!
//! ```text
//!   worker: drop ─► anybody watching? ─► filter ─► rate ─► ring ─► Watch (control) ─► a person
//!           (one relaxed load)           (cold from here on)
//! ```
//!
//! What must hold:
//! - while nobody watches, a drop costs one relaxed load, and so does a burst;
//! - while somebody does, a worker gives away at most so many samples a second, and a ring holds
//!   at most [`RING`]: what finds no room is counted, never waited for;
//! - a watch ends with its [`Watch`], and nobody is left sampling for it.

use std::sync::{
    Arc,
    atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use crossbeam::queue::ArrayQueue;
use parking_lot::Mutex;
use pmd::Frame;
use policy::{Denial, DropReason, PortId};

use crate::{counters::Counter, explain::HEAD_BYTES, storm::drained_after};

/// How many may watch at a time.
pub const MOST_WATCHES: usize = 4;

/// Samples that wait in one worker's ring for one watch.
pub const RING: usize = 256;

/// Fastest rate of samples, per second and worker.
pub const MOST_PER_SECOND: u32 = 20_000;

/// After silence, so much of a second's samples may come at once, nanoseconds.
const TOLERANCE_NS: u64 = 1_000_000_000;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Dropped frames, or all that come in.
    pub what: What,
    /// Only those that came in here or are in this port's account; `None` is any.
    pub port: Option<PortId>,
    /// Most samples per second and worker, up to [`MOST_PER_SECOND`].
    pub per_second: u32,
}

/// Which frames are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Those that come in.
    Received,
    /// Those that are dropped for this reason; `None` is any.
    Dropped(Option<DropReason>),
}

/// One frame, or several of which it is not known which they are.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The watch it is for.
    watch: u32,
    /// Its number among the frames that its worker found for the watch, from 1.
    number: u64,
    /// When, nanoseconds of the clock.
    pub at_ns: u64,
    /// Where it came in, when that is known.
    pub ingress: Option<PortId>,
    /// In whose account it was dropped, and why; `None` when it is one that came in.
    pub drop: Option<(PortId, Denial)>,
    /// How many frames this is; 1 when `frame` is there.
    pub frames: u32,
    /// The frame.
    pub frame: Option<Head>,
}

/// A frame's beginning.
#[derive(Clone, Debug)]
pub struct Head {
    /// The whole length, bytes.
    pub frame_len_bytes: u32,
    /// The tag that came beside it.
    pub vlan_tci: Option<u16>,
    bytes: [u8; HEAD_BYTES],
    len_bytes: u16,
}

impl Head {
    /// Of a frame.
    fn of(frame: &Frame<'_>) -> Self {
        let mut bytes = [0; HEAD_BYTES];
        let len = frame.len().min(HEAD_BYTES);
        frame.copy_to(0, &mut bytes[..len]);
        Self {
            frame_len_bytes: frame.len() as u32,
            vlan_tci: frame.vlan_tci,
            bytes,
            len_bytes: len as u16,
        }
    }

    /// All of it, or its first [`HEAD_BYTES`] bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len_bytes as usize]
    }
}

/// Where one worker leaves samples. The worker writes, control reads.
#[derive(Debug)]
pub struct Taps {
    /// One bit for each watch of dropped frames.
    drops: AtomicU32,
    /// One bit for each watch of received frames.
    received: AtomicU32,
    by_watch: [Tap; MOST_WATCHES],
}

#[derive(Debug)]
struct Tap {
    /// Whose it is. Written behind the filter: whoever sees the watch sees its filter.
    watch: AtomicU32,
    /// Which port; beyond `u16::MAX` any.
    port: AtomicU32,
    /// One bit for each reason.
    reasons: AtomicU64,
    per_second: AtomicU32,
    /// The watch that the worker counts for.
    counted_watch: AtomicU32,
    /// Frames found for that watch.
    found: Counter,
    /// When the worker's rate is used up to.
    drained_ns: Counter,
    ring: ArrayQueue<Sample>,
}

impl Default for Taps {
    fn default() -> Self {
        let tap = || Tap {
            watch: AtomicU32::new(0),
            port: AtomicU32::new(u32::MAX),
            reasons: AtomicU64::new(0),
            per_second: AtomicU32::new(0),
            counted_watch: AtomicU32::new(0),
            found: Counter::default(),
            drained_ns: Counter::default(),
            ring: ArrayQueue::new(RING),
        };
        Self {
            drops: AtomicU32::new(0),
            received: AtomicU32::new(0),
            by_watch: std::array::from_fn(|_| tap()),
        }
    }
}

impl Taps {
    /// Whether anybody watches dropped frames.
    #[inline(always)]
    pub fn watch_drops(&self) -> bool {
        self.drops.load(Relaxed) != 0
    }

    /// Whether anybody watches received frames.
    #[inline(always)]
    pub fn watch_received(&self) -> bool {
        self.received.load(Relaxed) != 0
    }

    /// A frame was dropped in `account`'s account. Where it came in is told when it is known.
    #[cold]
    pub fn dropped(
        &self,
        now_ns: u64,
        ingress: Option<PortId>,
        drop: (PortId, Denial),
        frame: &Frame<'_>,
    ) {
        for tap in self.active(&self.drops) {
            tap.offer(now_ns, ingress, Some(drop), Some(frame), 1);
        }
    }

    /// So many frames, it is not known which, were dropped in `account`'s account.
    #[cold]
    pub fn dropped_some(&self, now_ns: u64, account: PortId, reason: DropReason, frames: u32) {
        for tap in self.active(&self.drops) {
            let drop = Some((account, Denial::new(reason)));
            tap.offer(now_ns, None, drop, None, frames);
        }
    }

    /// A frame came in.
    #[cold]
    pub fn received(&self, now_ns: u64, ingress: PortId, frame: &Frame<'_>) {
        for tap in self.active(&self.received) {
            tap.offer(now_ns, Some(ingress), None, Some(frame), 1);
        }
    }

    fn active(&self, watches: &AtomicU32) -> impl Iterator<Item = &Tap> {
        let bits = watches.load(Acquire);
        let taps = self.by_watch.iter().enumerate();
        taps.filter(move |(slot, _)| bits & 1 << slot != 0)
            .map(|(_, tap)| tap)
    }
}

impl Tap {
    fn offer(
        &self,
        now_ns: u64,
        ingress: Option<PortId>,
        drop: Option<(PortId, Denial)>,
        frame: Option<&Frame<'_>>,
        frames: u32,
    ) {
        let watch = self.watch.load(Acquire);
        if self.counted_watch.load(Relaxed) != watch {
            self.found.set(0);
            self.drained_ns.set(0);
            self.counted_watch.store(watch, Release);
        }
        let wanted_port = self.port.load(Relaxed);
        let here = |port: PortId| u32::from(port.0) == wanted_port;
        let wanted = wanted_port > u32::from(u16::MAX)
            || ingress.is_some_and(here)
            || drop.is_some_and(|(account, _)| here(account));
        let of_reason = |(_, denial): (PortId, Denial)| {
            self.reasons.load(Relaxed) & 1 << denial.reason as u64 != 0
        };
        if !wanted || !drop.is_none_or(of_reason) {
            return;
        }
        self.found.add(u64::from(frames));
        let per_second = self.per_second.load(Relaxed);
        let drained = drained_after(self.drained_ns.get(), per_second, now_ns, TOLERANCE_NS);
        let Some(drained_ns) = drained else { return };
        let sample = Sample {
            watch,
            number: self.found.get(),
            at_ns: now_ns,
            ingress,
            drop,
            frames,
            frame: frame.map(Head::of),
        };
        if self.ring.push(sample).is_ok() {
            self.drained_ns.set(drained_ns);
        }
    }
}

/// All workers' taps, and who watches by which.
#[derive(Debug)]
pub struct Watches {
    taps: Arc<[Arc<Taps>]>,
    slots: Arc<Mutex<Slots>>,
}

#[derive(Debug, Default)]
struct Slots {
    taken: [bool; MOST_WATCHES],
    last_watch: u32,
}

impl Watches {
    /// Of these workers, nobody.
    pub fn new(taps: impl IntoIterator<Item = Arc<Taps>>) -> Self {
        Self {
            taps: taps.into_iter().collect(),
            slots: Arc::default(),
        }
    }

    /// Somebody watches, from now until it is dropped. `None` when [`MOST_WATCHES`] do already.
    pub fn start(&self, filter: Filter) -> Option<Watch> {
        let mut slots = self.slots.lock();
        let slot = slots.taken.iter().position(|taken| !taken)?;
        slots.taken[slot] = true;
        slots.last_watch = slots.last_watch.wrapping_add(1).max(1);
        let id = slots.last_watch;
        let reasons = match filter.what {
            What::Dropped(Some(reason)) => 1 << reason as u64,
            What::Dropped(None) | What::Received => u64::MAX,
        };
        for taps in self.taps.iter() {
            let tap = &taps.by_watch[slot];
            // What the former watch left.
            while tap.ring.pop().is_some() {}
            tap.port
                .store(filter.port.map_or(u32::MAX, |p| p.0.into()), Relaxed);
            tap.reasons.store(reasons, Relaxed);
            let per_second = filter.per_second.min(MOST_PER_SECOND);
            tap.per_second.store(per_second, Relaxed);
            tap.watch.store(id, Release);
            let watches = match filter.what {
                What::Dropped(_) => &taps.drops,
                What::Received => &taps.received,
            };
            watches.fetch_or(1 << slot, Release);
        }
        Some(Watch {
            numbers: vec![0; self.taps.len()],
            taps: Arc::clone(&self.taps),
            slots: Arc::clone(&self.slots),
            slot,
            id,
        })
    }
}

/// Somebody who watches.
#[derive(Debug)]
pub struct Watch {
    taps: Arc<[Arc<Taps>]>,
    slots: Arc<Mutex<Slots>>,
    slot: usize,
    id: u32,
    /// The number of the last sample from each worker.
    numbers: Vec<u64>,
}

impl Watch {
    /// The next sample of any worker, with how many frames the worker found since the one before
    /// and gave no sample of. Never waits.
    pub fn next_sample(&mut self) -> Option<(Sample, u64)> {
        for (taps, last) in self.taps.iter().zip(&mut self.numbers) {
            let ring = &taps.by_watch[self.slot].ring;
            while let Some(sample) = ring.pop() {
                if sample.watch != self.id {
                    continue;
                }
                let skipped = (sample.number - u64::from(sample.frames)).saturating_sub(*last);
                *last = sample.number.max(*last);
                return Some((sample, skipped));
            }
        }
        None
    }

    /// Frames found since the last sample of each worker, of which no sample will come. Each is
    /// told once. Asked when [`Watch::next_sample`] has none.
    pub fn take_skipped(&mut self) -> u64 {
        let mut skipped = 0;
        for (taps, last) in self.taps.iter().zip(&mut self.numbers) {
            let tap = &taps.by_watch[self.slot];
            // A sample that is on its way just now is told as one of them, and comes all the same.
            if tap.counted_watch.load(Acquire) == self.id && tap.ring.is_empty() {
                let found = tap.found.get();
                skipped += found.saturating_sub(*last);
                *last = found.max(*last);
            }
        }
        skipped
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for taps in self.taps.iter() {
            taps.drops.fetch_and(!(1 << self.slot), Release);
            taps.received.fetch_and(!(1 << self.slot), Release);
        }
        self.slots.lock().taken[self.slot] = false;
    }
}
