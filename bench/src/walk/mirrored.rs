//! What a mirror session costs the frames that it copies.
//!
//! In: the options of the walk. Out: cycles per frame with a session and without one, from passes in
//! alternation over two beds, so that whatever else the machine does meets both. The session copies
//! every frame as it is received: ERSPAN type II over IPv4, no filter, no budget. The copy on the
//! tunnel's port, a memory port too, is part of what is measured.

use std::{fmt, time::Instant};

use anyhow::ensure;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Drive, Options, RING_SLOTS};
use crate::process;

/// The result. Its JSON names are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Cycles per frame of the median pass without a session.
    pub plain_cycles_per_frame: f64,
    /// The same with one, the copy included.
    pub mirrored_cycles_per_frame: f64,
    /// What a copy adds.
    pub extra_cycles_per_frame: f64,
    /// Originals per second with the session, as a share of those without.
    pub throughput_ratio: f64,
    /// Length of a frame, without FCS.
    pub size_bytes: usize,
    /// Frames of each kind.
    pub frames: u64,
    /// Heap allocations in the measured part.
    pub allocations: u64,
}

/// Measures.
///
/// # Errors
/// When frames or copies are not accounted for, or something was allocated.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    if let Some(core) = options.core {
        process::pin(core)?;
    }
    ensure!(!options.miss, "--mirrored measures frames of known flows");
    let entries = options.entries();
    let drive = |mirrored| -> anyhow::Result<Drive> {
        let mut drive = Drive::new(
            &Options {
                mirrored,
                ..*options
            },
            entries,
        )?;
        drive.warm_up(options.flows)?;
        Ok(drive)
    };
    let mut drives = [drive(false)?, drive(true)?];
    let mut passes = [
        Histogram::<u64>::new_with_max(1 << 40, 3)?,
        Histogram::new_with_max(1 << 40, 3)?,
    ];
    let (mut frames, allocations) = (0, pmd::allocations::count());
    let began = Instant::now();
    while began.elapsed().as_secs_f64() < options.seconds {
        for (drive, passes) in drives.iter_mut().zip(&mut passes) {
            passes.saturating_record(drive.pass().cycles);
        }
        frames += u64::from(RING_SLOTS);
    }
    let allocations = pmd::allocations::count() - allocations;
    ensure!(allocations == 0, "the walk allocated {allocations} times");
    for drive in &drives {
        drive.check_accounts()?;
    }
    let median =
        |passes: &Histogram<u64>| passes.value_at_quantile(0.5) as f64 / f64::from(RING_SLOTS);
    let [plain, mirrored] = [median(&passes[0]), median(&passes[1])];
    Ok(Report {
        plain_cycles_per_frame: plain,
        mirrored_cycles_per_frame: mirrored,
        extra_cycles_per_frame: mirrored - plain,
        throughput_ratio: plain / mirrored,
        size_bytes: options.size_bytes,
        frames,
        allocations,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:.1} cycles/frame without a session, {:.1} with one: {:.1} for a copy of {} bytes",
            self.plain_cycles_per_frame,
            self.mirrored_cycles_per_frame,
            self.extra_cycles_per_frame,
            self.size_bytes
        )?;
        write!(
            f,
            "throughput of the originals: {:.2} of that without ({} frames each, {} allocations)",
            self.throughput_ratio, self.frames, self.allocations
        )
    }
}
