//! What the walk bench found, for people and for programs.

use std::fmt;

use serde::Serialize;

use super::{Bed, Options, Round};
use crate::spread::Spread;

/// The result. Its JSON names are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `hit` (every flow is in the cache), `miss` (no flow is), `stateful hit` (every flow is a
    /// connection too) or `new connection` (every frame opens one).
    pub mode: &'static str,
    /// Frames per second of worker time, in the median round.
    pub frames_per_s: f64,
    /// Nanoseconds of worker time per frame, in the median round.
    pub ns_per_frame: f64,
    /// Cycles of the time-stamp counter per frame, in the median round.
    pub cycles_per_frame: f64,
    /// Over the rounds.
    pub cycles_per_frame_spread: Spread,
    /// Over all frames, those included that were walked while the core also did something else.
    pub cycles_per_frame_mean: f64,
    /// Heap allocations in the measured part.
    pub allocations: u64,
    /// Flows of the traffic; with `miss`, as many as frames.
    pub flows: u64,
    /// Outbound rules of the ingress port.
    pub rules: usize,
    /// Inbound rules of the egress port.
    pub inbound_rules: usize,
    /// Length of a frame, without FCS.
    pub size_bytes: usize,
    /// Room in the flow cache.
    pub cache_entries: usize,
    /// Entries of it in use at the end.
    pub cache_used: u64,
    /// Share of frames that the cache answered.
    pub hit_ratio: f64,
    /// Frames measured.
    pub frames: u64,
    /// Rounds measured.
    pub rounds: usize,
    /// Connections at the end; 0 without `stateful`.
    pub connections: u32,
    /// Bytes of memory for each connection that there can be; 0 without `stateful`.
    pub connection_bytes: f64,
    /// Ticks of the time-stamp counter in a second.
    pub tsc_hz: f64,
}

/// What the run counted.
pub(super) struct Measured {
    pub(super) allocations: u64,
    pub(super) hits: u64,
    pub(super) misses: u64,
}

impl Report {
    pub(super) fn new(options: &Options, bed: &Bed, rounds: &[Round], counted: &Measured) -> Self {
        let spread = Spread::of(rounds.iter().map(|round| round.median));
        let cycles: u64 = rounds.iter().map(|round| round.cycles).sum();
        let tsc_hz = pmd::Clock::calibrate().cycles_per_s();
        let frames: u64 = rounds.iter().map(|round| round.frames).sum();
        Self {
            mode: match (options.miss, options.stateful, options.routed) {
                (false, false, false) => "hit",
                (true, false, false) => "miss",
                (false, false, true) => "routed hit",
                (true, false, true) => "routed miss",
                (false, true, _) => "stateful hit",
                (true, true, _) => "new connection",
            },
            frames_per_s: tsc_hz / spread.median,
            ns_per_frame: spread.median * 1e9 / tsc_hz,
            cycles_per_frame: spread.median,
            cycles_per_frame_spread: spread,
            cycles_per_frame_mean: cycles as f64 / frames as f64,
            allocations: counted.allocations,
            flows: if options.miss {
                frames
            } else {
                options.flows.into()
            },
            rules: options.rules,
            inbound_rules: bed.inbound_rules,
            size_bytes: options.size_bytes,
            cache_entries: bed.worker.cache.capacity(),
            cache_used: bed.worker.cache.used(),
            hit_ratio: counted.hits as f64 / (counted.hits + counted.misses).max(1) as f64,
            frames,
            rounds: rounds.len(),
            connections: bed.connections().len(),
            connection_bytes: if options.stateful {
                let table = bed.connections();
                table.memory_bytes() as f64 / f64::from(table.capacity())
            } else {
                0.0
            },
            tsc_hz,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { min, median, max } = self.cycles_per_frame_spread;
        writeln!(
            f,
            "walk ({}): {} flows, {} rules outbound, {} inbound, {} bytes",
            self.mode, self.flows, self.rules, self.inbound_rules, self.size_bytes
        )?;
        writeln!(f, "  {:>12.0} frames/s", self.frames_per_s)?;
        writeln!(f, "  {:>12.1} ns/frame", self.ns_per_frame)?;
        writeln!(
            f,
            "  {median:>12.1} cycles/frame (median of {} rounds, {min:.1} to {max:.1}; mean {:.1}; counter at {:.2} GHz)",
            self.rounds,
            self.cycles_per_frame_mean,
            self.tsc_hz / 1e9
        )?;
        writeln!(
            f,
            "  {:>12} allocations in {} frames",
            self.allocations, self.frames
        )?;
        if self.connection_bytes > 0.0 {
            writeln!(
                f,
                "  {:>12} connections, {:.0} bytes for each that there can be",
                self.connections, self.connection_bytes
            )?;
        }
        write!(
            f,
            "  {:>12.2} % answered by the cache, {} of {} entries used",
            self.hit_ratio * 100.0,
            self.cache_used,
            self.cache_entries
        )
    }
}
