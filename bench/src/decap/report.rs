//! What the decapsulator bench found, for people and for programs.

use std::fmt;

use serde::Serialize;

use super::{Drive, Options};
use crate::spread::Spread;

/// The result. Its JSON names are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How frames were carried.
    pub format: String,
    /// Sessions.
    pub sessions: usize,
    /// Sniffers.
    pub sniffers: u16,
    /// Sniffers that each frame went to.
    pub copies: u64,
    /// Flows were spread over a session's sniffers.
    pub spread: bool,
    /// Duplicates were looked for.
    pub once: bool,
    /// Length of a mirrored frame, without FCS.
    pub size_bytes: u32,
    /// Frames received in a second, in the median round.
    pub frames_per_s: f64,
    /// Cycles of the time-stamp counter per frame received, in the median round: decapsulation and
    /// the copies to sniffers' memory.
    pub cycles_per_frame: f64,
    /// Over the rounds.
    pub cycles_per_frame_spread: Spread,
    /// Cycles to pay for a copy and write its prefix, on the mirrored port's side.
    pub cycles_per_prefix: f64,
    /// Over the rounds.
    pub cycles_per_prefix_spread: Spread,
    /// Bytes of the frames that came round and round.
    pub ring_bytes: usize,
    /// Frames measured.
    pub frames: u64,
    /// Ticks of the time-stamp counter in a second.
    pub tsc_hz: f64,
}

impl Report {
    pub(super) fn new(options: &Options, drive: &Drive, rounds: &[f64], prefixes: &[f64]) -> Self {
        let tsc_hz = pmd::Clock::calibrate().cycles_per_s();
        let spread = Spread::of(rounds.iter().copied());
        let prefix = Spread::of(prefixes.iter().copied());
        Self {
            format: drive.templates[0].identity().kind().name().to_owned(),
            sessions: drive.templates.len(),
            sniffers: options.sniffers.get(),
            copies: drive.copies_of_frame,
            spread: options.spread,
            once: options.once,
            size_bytes: drive.size,
            frames_per_s: tsc_hz / spread.median,
            cycles_per_frame: spread.median,
            cycles_per_frame_spread: spread,
            cycles_per_prefix: prefix.median,
            cycles_per_prefix_spread: prefix,
            ring_bytes: drive.ring.iter().map(|sent| sent.bytes.len()).sum(),
            frames: drive.sent,
            tsc_hz,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "decap ({}): {} sessions, {} sniffers, {} copies of each frame{}{}, {} bytes",
            self.format,
            self.sessions,
            self.sniffers,
            self.copies,
            if self.spread { ", spread by flow" } else { "" },
            if self.once { ", each once" } else { "" },
            self.size_bytes
        )?;
        writeln!(f, "  {:>12.0} frames/s", self.frames_per_s)?;
        let line = |f: &mut fmt::Formatter<'_>, spread: Spread, what: &str| {
            let Spread { min, median, max } = spread;
            write!(f, "  {median:>12.1} cycles/{what} ({min:.1} to {max:.1})")
        };
        line(f, self.cycles_per_frame_spread, "frame")?;
        writeln!(f, ", {} frames, copied to sniffers' memory", self.frames)?;
        line(f, self.cycles_per_prefix_spread, "prefix")?;
        write!(f, ", on the mirrored port's side")
    }
}
