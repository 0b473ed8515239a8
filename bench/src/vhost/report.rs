//! What the vhost bench found, for people and for programs.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Case, bed::Count};
use crate::spread::Spread;

/// What one switch did with one load. Its JSON names are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `vswitch`, or the name of a [peer](super::Peer).
    pub switch: &'static str,
    /// `port-to-port`, `acl` or `acl-elsewhere`.
    pub case: &'static str,
    /// Flows each way.
    pub flows: u32,
    /// Rules in force.
    pub rules: u32,
    /// Length of a frame, without FCS.
    pub size_bytes: usize,
    /// Millions of frames that came through in a second, both ways together, with testpmd as the
    /// guest, in the median round.
    pub mframes_per_s: f64,
    /// Over the rounds.
    pub mframes_per_s_spread: Spread,
    /// Millions of frames that came through in a second of the switch's CPU time, with the faster
    /// guest, in the median round.
    pub mframes_per_cpu_s: f64,
    /// Over the rounds.
    pub mframes_per_cpu_s_spread: Spread,
    /// The same turned round: ticks of the time-stamp counter for a frame.
    pub cycles_per_frame: f64,
    /// Of the frames that testpmd wanted to send, those that found the ring full, in the median
    /// round. Near 0 testpmd was the limit and the switch could have done more.
    pub refused_share: f64,
    /// The same for the faster guest, of its looks at a ring. Near 0 the switch could have done more
    /// even there.
    pub fast_refused_share: f64,
    /// Rounds measured.
    pub rounds: usize,
}

impl Row {
    pub(super) fn new(
        switch: &'static str,
        (case, flows, size_bytes): (Case, u32, usize),
        testpmd: &[Count],
        own: &[Count],
        cycles_per_s: f64,
    ) -> Self {
        let wall = testpmd.iter().map(|count| count.mframes / count.seconds);
        let refused = testpmd.iter().map(|count| count.refused_share);
        let cpu = own.iter().map(|count| count.mframes / count.cpu_seconds);
        let (wall, cpu) = (Spread::of(wall), Spread::of(cpu));
        Self {
            switch,
            case: case.name(),
            flows,
            rules: case.rules(),
            size_bytes,
            mframes_per_s: wall.median,
            mframes_per_s_spread: wall,
            mframes_per_cpu_s: cpu.median,
            mframes_per_cpu_s_spread: cpu,
            cycles_per_frame: cycles_per_s / (cpu.median * 1e6),
            refused_share: Spread::of(refused).median,
            fast_refused_share: Spread::of(own.iter().map(|count| count.refused_share)).median,
            rounds: own.len(),
        }
    }

    /// The heading of a table of rows.
    pub fn heading() -> String {
        format!(
            "{:13} {:>7} {:>5} {:12} {:>20} {:>8} {:>20} {:>12}",
            "case",
            "flows",
            "bytes",
            "switch",
            "Mframes/s",
            "refused",
            "Mframes/CPU second",
            "cycles/frame"
        )
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:13} {:>7} {:>5} {:12} {:>20} {:>6.0} % {:>20} {:>12.0}",
            self.case,
            self.flows,
            self.size_bytes,
            self.switch,
            self.mframes_per_s_spread,
            self.refused_share * 100.0,
            self.mframes_per_cpu_s_spread,
            self.cycles_per_frame
        )
    }
}

/// How long one frame of 64 bytes and its answer take through two ports, with the rules of the case
/// `acl` in force and nothing else on its way. Its JSON names are stable.
#[derive(Clone, Debug, Serialize)]
pub struct RoundTrip {
    /// `vswitch`, or the name of a [peer](super::Peer).
    pub switch: &'static str,
    /// `round-trip`.
    pub case: &'static str,
    /// Length of a frame, without FCS.
    pub size_bytes: usize,
    /// The time that half of the round trips took at most, in microseconds, in the median round.
    pub p50_us: f64,
    /// Over the rounds.
    pub p50_us_spread: Spread,
    /// The time that 99 of 100 took at most, in microseconds, in the median round.
    pub p99_us: f64,
    /// Over the rounds.
    pub p99_us_spread: Spread,
    /// Round trips of all rounds.
    pub round_trips: u64,
}

impl RoundTrip {
    pub(super) fn new(switch: &'static str, size_bytes: usize, rounds: &[Histogram<u64>]) -> Self {
        let quantile = |quantile| {
            let times = rounds.iter().map(|times| times.value_at_quantile(quantile));
            Spread::of(times.map(|nanoseconds| nanoseconds as f64 / 1e3))
        };
        let (p50, p99) = (quantile(0.5), quantile(0.99));
        Self {
            switch,
            case: "round-trip",
            size_bytes,
            p50_us: p50.median,
            p50_us_spread: p50,
            p99_us: p99.median,
            p99_us_spread: p99,
            round_trips: rounds.iter().map(Histogram::len).sum(),
        }
    }
}

impl fmt::Display for RoundTrip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "round trip of {} bytes, {}: p50 {} µs, p99 {} µs, of {}",
            self.size_bytes, self.switch, self.p50_us_spread, self.p99_us_spread, self.round_trips
        )
    }
}

/// TCP super-segments from guest to guest, both ways, next to copying. Its JSON names are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Segments {
    /// `vswitch`.
    pub switch: &'static str,
    /// `segments`.
    pub case: &'static str,
    /// Length of a super-segment with its headers.
    pub size_bytes: usize,
    /// Billions of bytes that came through in a second, in the median round.
    pub gbytes_per_s: f64,
    /// Over the rounds.
    pub gbytes_per_s_spread: Spread,
    /// Billions of bytes that the core copies in a second, in the median round.
    pub memcpy_gbytes_per_s: f64,
    /// Over the rounds.
    pub memcpy_gbytes_per_s_spread: Spread,
}

impl Segments {
    pub(super) fn new(
        switch: &'static str,
        size_bytes: usize,
        switched: Vec<f64>,
        copied: Vec<f64>,
    ) -> Self {
        let billions = |values: Vec<f64>| Spread::of(values.into_iter().map(|bytes| bytes / 1e9));
        let (switched, copied) = (billions(switched), billions(copied));
        Self {
            switch,
            case: "segments",
            size_bytes,
            gbytes_per_s: switched.median,
            gbytes_per_s_spread: switched,
            memcpy_gbytes_per_s: copied.median,
            memcpy_gbytes_per_s_spread: copied,
        }
    }
}

impl fmt::Display for Segments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "TCP super-segments of {} bytes, {}: {} GB/s; plain memcpy: {} GB/s",
            self.size_bytes, self.switch, self.gbytes_per_s_spread, self.memcpy_gbytes_per_s_spread
        )
    }
}

/// A guest whose buffers are used in order next to one whose are used in any. Its JSON names are
/// stable.
#[derive(Clone, Debug, Serialize)]
pub struct InOrder {
    /// `vswitch`.
    pub switch: &'static str,
    /// `in-order`.
    pub case: &'static str,
    /// Length of a frame, without FCS.
    pub size_bytes: usize,
    /// Millions of frames in a second of the switch's CPU time, in any order.
    pub mframes_per_cpu_s_spread: Spread,
    /// The same in order.
    pub in_order_mframes_per_cpu_s_spread: Spread,
    /// CPU time of a frame in order by that in any order, in the median pair of rounds.
    pub cpu_ratio: f64,
    /// Over the pairs.
    pub cpu_ratio_spread: Spread,
    /// Pairs of rounds, one right after the other.
    pub rounds: usize,
}

impl InOrder {
    /// Of Mframes per CPU second in any order and in order.
    pub(super) fn new(size_bytes: usize, [any, ordered]: &[Vec<f64>; 2]) -> Self {
        let ratio = Spread::of(any.iter().zip(ordered).map(|(any, ordered)| any / ordered));
        Self {
            switch: "vswitch",
            case: "in-order",
            size_bytes,
            mframes_per_cpu_s_spread: Spread::of(any.iter().copied()),
            in_order_mframes_per_cpu_s_spread: Spread::of(ordered.iter().copied()),
            cpu_ratio: ratio.median,
            cpu_ratio_spread: ratio,
            rounds: any.len(),
        }
    }
}

impl fmt::Display for InOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "split rings in order, {} bytes, {}: {} Mframes/CPU second, in any order {}; a frame \
             takes {} times the CPU time, in {} pairs of rounds",
            self.size_bytes,
            self.switch,
            self.in_order_mframes_per_cpu_s_spread,
            self.mframes_per_cpu_s_spread,
            self.cpu_ratio_spread,
            self.rounds
        )
    }
}

/// One thing that was found.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Finding {
    /// Of [`What::Frames`](super::What::Frames).
    Frames(Row),
    /// Of [`What::RoundTrips`](super::What::RoundTrips).
    RoundTrip(RoundTrip),
    /// Of [`What::Segments`](super::What::Segments).
    Segments(Segments),
    /// Of [`What::InOrder`](super::What::InOrder).
    InOrder(InOrder),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frames(row) => row.fmt(f),
            Self::RoundTrip(row) => row.fmt(f),
            Self::Segments(row) => row.fmt(f),
            Self::InOrder(row) => row.fmt(f),
        }
    }
}

/// All rows, in the order in which they were measured.
#[derive(Clone, Debug)]
pub struct Report {
    /// For each load, one row for each switch.
    pub rows: Vec<Row>,
}

impl Report {
    /// For each load that `vswitch` and a peer had, the row of the peer, and how many times its frames
    /// `vswitch` moved: per second, and per CPU second.
    pub fn ratios(&self) -> impl Iterator<Item = (&Row, f64, f64)> {
        let load = |row: &Row| (row.case, row.flows, row.size_bytes);
        let peers = self.rows.iter().filter(|row| row.switch != "vswitch");
        peers.filter_map(move |theirs| {
            let ours = |row: &&Row| row.switch == "vswitch" && load(row) == load(theirs);
            let ours = self.rows.iter().find(ours)?;
            let wall = ours.mframes_per_s / theirs.mframes_per_s;
            let cpu = ours.mframes_per_cpu_s / theirs.mframes_per_cpu_s;
            Some((theirs, wall, cpu))
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (row, wall, cpu) in self.ratios() {
            writeln!(
                f,
                "{}, {} flows, {} bytes: vswitch moves {cpu:.2} times the frames per CPU second \
                 that {} does, {wall:.2} times per second",
                row.case, row.flows, row.size_bytes, row.switch
            )?;
        }
        Ok(())
    }
}
