//! What the vhost bench found, for people and for programs.

use std::fmt;

use serde::Serialize;

use super::{Case, Count, Spread};

/// What one switch did with one load. Its JSON names are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `vswitch` or `openvswitch`.
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
        let spread = |Spread { min, median, max }| format!("{median:.2} ({min:.2}–{max:.2})");
        write!(
            f,
            "{:13} {:>7} {:>5} {:12} {:>20} {:>6.0} % {:>20} {:>12.0}",
            self.case,
            self.flows,
            self.size_bytes,
            self.switch,
            spread(self.mframes_per_s_spread),
            self.refused_share * 100.0,
            spread(self.mframes_per_cpu_s_spread),
            self.cycles_per_frame
        )
    }
}

/// All rows, in the order in which they were measured.
#[derive(Clone, Debug)]
pub struct Report {
    /// For each load, one row for each switch.
    pub rows: Vec<Row>,
}

impl Report {
    /// For each load that both switches had, how many times the frames of Open vSwitch `vswitch`
    /// moved: per second, and per CPU second.
    pub fn ratios(&self) -> impl Iterator<Item = (&Row, f64, f64)> {
        let load = |row: &Row| (row.case, row.flows, row.size_bytes);
        let ours = self.rows.iter().filter(|row| row.switch == "vswitch");
        ours.filter_map(move |ours| {
            let other = |row: &&Row| row.switch != ours.switch && load(row) == load(ours);
            let theirs = self.rows.iter().find(other)?;
            let wall = ours.mframes_per_s / theirs.mframes_per_s;
            let cpu = ours.mframes_per_cpu_s / theirs.mframes_per_cpu_s;
            Some((ours, wall, cpu))
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (row, wall, cpu) in self.ratios() {
            writeln!(
                f,
                "{}, {} flows, {} bytes: vswitch moves {cpu:.2} times the frames per CPU second \
                 that Open vSwitch does, {wall:.2} times per second",
                row.case, row.flows, row.size_bytes
            )?;
        }
        Ok(())
    }
}
