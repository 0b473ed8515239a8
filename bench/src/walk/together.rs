//! Several workers of one switch, each on a core of its own: what they share must not cost them.
//!
//! Each has its own queues and its own traffic; ports, snapshot and MAC table are shared. As in the
//! rest of the walk bench only turns are timed, so that a core's part is what its worker could do
//! with all of it. More cores than the machine has say nothing, and are refused.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use pmd::Clock;

use super::{Bed, Drive, Options, RING_SLOTS};
use crate::process;

/// Millions of frames that all workers walk in a second of turns, one for each core of `cores`,
/// over `options.seconds`.
///
/// # Errors
/// When a core is not to be had, or frames are lost.
pub fn mframes_per_s(options: &Options, cores: &[usize]) -> anyhow::Result<f64> {
    let there = thread::available_parallelism()?.get();
    ensure!(
        cores.len() <= there,
        "{} workers need as many cores, and there are {there}",
        cores.len()
    );
    let entries = options.entries();
    let beds = Bed::several(options, entries, cores.len())?;
    let start = Barrier::new(cores.len());
    let duration = Duration::from_secs_f64(options.seconds);
    let cycles_per_s = Clock::calibrate().cycles_per_s();
    let rates = thread::scope(|scope| {
        let walk = |bed, core| -> anyhow::Result<f64> {
            let prepared = process::pin(core).and_then(|()| {
                let mut drive = Drive::over(bed, options)?;
                drive.warm_up(options.flows)?;
                Ok(drive)
            });
            // Whoever has failed must not let the others wait.
            start.wait();
            let mut drive = prepared?;
            let began = Instant::now();
            // The median pass: one in which the core did something else too says nothing.
            let mut passes = Histogram::<u64>::new_with_max(1 << 40, 3)?;
            while began.elapsed() < duration {
                passes.saturating_record(drive.pass().cycles);
            }
            ensure!(drive.sent == drive.received, "frames were lost");
            let cycles = passes.value_at_quantile(0.5) as f64;
            Ok(f64::from(RING_SLOTS) / cycles * cycles_per_s / 1e6)
        };
        let threads: Vec<_> = beds
            .into_iter()
            .zip(cores)
            .map(|(bed, core)| scope.spawn(move || walk(bed, *core)))
            .collect();
        let joined = threads.into_iter().map(|thread| {
            let ended = thread.join().ok();
            ended.context("a worker's thread panicked")?
        });
        joined.collect::<anyhow::Result<Vec<f64>>>()
    })?;
    Ok(rates.iter().sum())
}
