//! The walk bench: what one frame costs inside the switch.
//!
//! In: how many flows, rules, bytes. Out: a [`Report`]. The real [`Worker`](vswitch::worker)
//! turns over memory ports on one pinned core; only [`Worker::turn`](vswitch::worker::Worker)
//! is timed, so receiving from and copying to the memory ports count, making the frames and
//! taking them away does not. Traffic goes through the flows in a random order that is the same
//! every time, over and over, so that the next flow is never the neighbour of the last.
//!
//! The unit of measurement is a *pass*: a ring of 256 frames, filled, walked and emptied. A round's
//! figure is the median of its passes, so that a pass during which the kernel ran something else
//! on this core does not count; the mean over everything stands beside it in the report.
//!
//! What must hold, or there is no report: every frame is accounted for, nothing is allocated,
//! and policy tells the flows apart.

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use pmd::{BURST, Frame, clock::cycles};

use vswitch::worker::Worker;

use crate::{
    generator::{
        flow::{Flow, FlowSpace},
        random::Random,
        template::Template,
    },
    process,
};

pub mod bed;
pub mod contention;
pub mod mirrored;
mod report;
pub mod together;

pub use bed::{Bed, RING_SLOTS};
pub use report::Report;

/// How many rounds the measured time is cut into.
pub const ROUNDS: usize = 11;

/// What to measure.
#[derive(Clone, Copy, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent switches of the bench"
)]
pub struct Options {
    /// Flows, each of which is an entry of the cache.
    pub flows: u32,
    /// Outbound rules of the ingress port.
    pub rules: usize,
    /// Length of a frame in bytes, without FCS.
    pub size_bytes: usize,
    /// Every frame is of a flow that was never seen.
    pub miss: bool,
    /// The traffic is TCP that a rule of each side allows statefully, so that every flow is a
    /// connection.
    pub stateful: bool,
    /// Sender and receiver are in two networks, which a router joins.
    pub routed: bool,
    /// A mirror session copies every frame that the sender sends.
    pub mirrored: bool,
    /// Measured time, in seconds; making frames takes its share.
    pub seconds: f64,
    /// Room in the flow cache; `None` is for twice the flows, whose connections have two entries.
    pub cache_entries: Option<usize>,
    /// The core to measure on; `None` stays where the scheduler puts it.
    pub core: Option<usize>,
    /// Frames that the worker finds in a turn: a power of two, at most [`BURST`].
    pub burst: usize,
}

impl Options {
    /// Room in the flow cache.
    fn entries(&self) -> usize {
        // A connection has an entry for each direction.
        let entries = self.flows as usize * if self.stateful { 2 } else { 1 };
        self.cache_entries
            .unwrap_or_else(|| (2 * entries).max(LEAST_CACHE_ENTRIES))
    }
}

/// The least room in the flow cache unless asked for otherwise.
const LEAST_CACHE_ENTRIES: usize = 1 << 15;

/// What a pass or a round took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    /// Frames walked.
    pub frames: u64,
    /// Cycles that took.
    pub cycles: u64,
    /// Cycles per frame in the median pass; 0 for a single pass.
    pub median: f64,
}

/// Measures.
///
/// # Errors
/// When frames are not accounted for, flows share cache entries, or a port cannot be opened.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    if let Some(core) = options.core {
        process::pin(core)?;
    }
    let cache_entries = options.entries();
    ensure!(
        options.burst.is_power_of_two() && options.burst <= BURST,
        "--burst {}: choose 1, 2, 4 and so on, to {BURST}",
        options.burst
    );
    let mut drive = Drive::new(options, cache_entries)?;
    if options.miss {
        drive.pass();
    } else {
        drive.warm_up(options.flows)?;
    }
    let before = drive.bed.counts();
    let (rounds, allocations) = drive.measure(options.seconds)?;
    drive.check_accounts()?;
    ensure!(
        allocations == 0,
        "the walk allocated {allocations} times: it must not allocate after start"
    );
    let after = drive.bed.counts();
    let hits = after.cache_hits - before.cache_hits;
    let misses = after.cache_misses - before.cache_misses;
    Ok(Report::new(
        options,
        &drive.bed,
        &rounds,
        &report::Measured {
            allocations,
            hits,
            misses,
        },
    ))
}

/// The bed with the traffic that runs over it.
#[derive(Debug)]
pub struct Drive {
    bed: Bed,
    traffic: Traffic,
    burst: usize,
    sent: u64,
    received: u64,
    copies: u64,
}

impl Drive {
    /// A bed whose flow cache has at least `cache_entries` entries, and traffic for it.
    ///
    /// # Errors
    /// When a port cannot be opened, or the frames are too short for their headers.
    pub fn new(options: &Options, cache_entries: usize) -> anyhow::Result<Self> {
        Self::over(Bed::new(options, cache_entries)?, options)
    }

    /// As [`Drive::new`], over a bed that is there already.
    ///
    /// # Errors
    /// When the frames are too short for their headers.
    pub fn over(bed: Bed, options: &Options) -> anyhow::Result<Self> {
        Ok(Self {
            bed,
            traffic: Traffic::new(options)?,
            burst: options.burst,
            sent: 0,
            received: 0,
            copies: 0,
        })
    }

    /// Shows every flow to the cache, twice, and checks that each has its own entry there. A few
    /// may find their set full.
    ///
    /// # Errors
    /// When flows share entries.
    pub fn warm_up(&mut self, flows: u32) -> anyhow::Result<()> {
        while self.sent < 2 * u64::from(flows) {
            self.pass();
        }
        if self.bed.stateful {
            for flow in 0..u64::from(flows) {
                self.sent += self.traffic.answer(&mut self.bed, flow);
                self.bed.worker.turn();
                self.received += self.bed.source.receive(|_| ()) as u64;
            }
            while self.sent < 5 * u64::from(flows) {
                self.pass();
            }
        }
        let used = self.bed.worker.cache.used();
        let expected = u64::from(flows).min(self.bed.worker.cache.capacity() as u64);
        ensure!(
            used * 100 >= expected * 99,
            "{flows} flows made {used} cache entries; give --cache-entries more room, or more \
             rules, so that policy reads all that the flows differ in"
        );
        Ok(())
    }

    /// As many frames as the ring has, a burst at a time: put in, walked, taken away.
    pub fn pass(&mut self) -> Round {
        self.pass_by(Worker::turn)
    }

    /// As [`Drive::pass`], with something else in place of [`Worker::turn`].
    pub fn pass_by(&mut self, mut turn: impl FnMut(&mut Worker) -> usize) -> Round {
        let mut round = Round::default();
        if self.burst == BURST {
            // The whole ring at once, as it is when the worker is what everybody waits for.
            for _ in 0..RING_SLOTS as usize / BURST {
                self.sent += self.traffic.send(&mut self.bed, BURST);
            }
            self.walk(&mut round, &mut turn);
        } else {
            while round.frames < RING_SLOTS.into() {
                self.sent += self.traffic.send(&mut self.bed, self.burst);
                self.walk(&mut round, &mut turn);
            }
        }
        self.received += drained(&mut self.bed.sink);
        if let Some(tunnel) = &mut self.bed.tunnel {
            self.copies += drained(tunnel);
        }
        self.bed.make_room();
        round
    }

    /// Turns until nothing is left.
    fn walk(&mut self, round: &mut Round, turn: &mut impl FnMut(&mut Worker) -> usize) {
        loop {
            let began = cycles();
            let frames = turn(&mut self.bed.worker);
            let ended = cycles();
            if frames == 0 {
                break;
            }
            round.frames += frames as u64;
            round.cycles += ended - began;
        }
    }

    /// The rounds, and how many allocations were made in them.
    fn measure(&mut self, seconds: f64) -> anyhow::Result<([Round; ROUNDS], u64)> {
        let cycles_per_s = pmd::Clock::calibrate().cycles_per_s();
        let round_cycles = (cycles_per_s * seconds / ROUNDS as f64) as u64;
        let mut passes = Histogram::<u64>::new_with_max(1 << 40, 3)?;
        let mut rounds = [Round::default(); ROUNDS];
        let allocations_before = pmd::allocations::count();
        for round in &mut rounds {
            passes.reset();
            let began = cycles();
            while round.frames == 0 || cycles() - began < round_cycles {
                let pass = self.pass();
                round.frames += pass.frames;
                round.cycles += pass.cycles;
                passes.saturating_record(pass.cycles);
            }
            round.median = passes.value_at_quantile(0.5) as f64 / f64::from(RING_SLOTS);
        }
        Ok((rounds, pmd::allocations::count() - allocations_before))
    }

    /// rx + replicas = tx + drops, and the ports agree with both far ends.
    ///
    /// # Errors
    /// When a frame is not accounted for, or was dropped.
    pub fn check_accounts(&self) -> anyhow::Result<()> {
        let counts = self.bed.counts();
        ensure!(
            counts.rx_frames == self.sent
                && counts.tx_frames == self.received + self.copies
                && counts.originated == self.copies
                && counts.rx_frames + counts.replicas + counts.originated
                    == counts.tx_frames + counts.dropped_total(),
            "frames are not accounted for: {} sent, {} received, {} copies, {counts:?}",
            self.sent,
            self.received,
            self.copies
        );
        ensure!(
            self.bed.tunnel.is_none() || self.copies == self.sent,
            "{} frames were sent, and {} copied",
            self.sent,
            self.copies
        );
        ensure!(
            counts.dropped_total() == 0,
            "frames were dropped, so this measures something else: {:?}",
            counts.drops
        );
        Ok(())
    }
}

/// Takes all that has come, and says how many frames it was.
fn drained(end: &mut pmd::memory::Endpoint) -> u64 {
    let mut all = 0;
    loop {
        match end.receive(|_| ()) {
            0 => return all,
            frames => all += frames as u64,
        }
    }
}

/// Frames in their order.
#[derive(Debug)]
struct Traffic {
    template: Template,
    answers: Template,
    space: FlowSpace,
    /// Flow numbers in random order; empty when every frame is of a new flow.
    order: Vec<u32>,
    next: u64,
    buffers: Vec<Vec<u8>>,
}

impl Traffic {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let size = options.size_bytes;
        let template = if options.stateful {
            bed::tcp_template(size, false)
        } else {
            bed::template(size, options.routed)
        };
        let template = template.context("--size")?;
        let answers = bed::tcp_template(size.max(54), true).context("--size")?;
        let flows = if options.miss { 0 } else { options.flows };
        let mut order: Vec<u32> = (0..flows).collect();
        Random::new(1).shuffle(&mut order);
        Ok(Self {
            buffers: vec![vec![0; template.size_bytes()]; BURST],
            template,
            answers,
            space: bed::flows(),
            order,
            next: 0,
        })
    }

    /// Answers a flow from the other side.
    fn answer(&mut self, bed: &mut Bed, flow: u64) -> u64 {
        let flow = self.space.flow(flow);
        let back = Flow {
            src: flow.dst,
            dst: flow.src,
            src_port: flow.dst_port,
            dst_port: flow.src_port,
        };
        let mut frame = vec![0; self.answers.size_bytes()];
        self.answers.write(&back, &[], &mut frame);
        bed.sink.send_burst(&[Frame::contiguous(&frame)]) as u64
    }

    /// Sends `count` frames, at most a burst, and returns how many were taken.
    fn send(&mut self, bed: &mut Bed, count: usize) -> u64 {
        for buffer in &mut self.buffers[..count] {
            let index = match self.order.len() as u64 {
                0 => self.next,
                flows => u64::from(self.order[(self.next % flows) as usize]),
            };
            self.next += 1;
            self.template.write(&self.space.flow(index), &[], buffer);
        }
        let frames: [Frame<'_>; BURST] =
            std::array::from_fn(|index| Frame::contiguous(&self.buffers[index]));
        bed.source.send_burst(&frames[..count]) as u64
    }
}
