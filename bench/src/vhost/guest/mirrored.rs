//! What comes through while a third guest's device takes the copies of it.
//!
//! One thread does all of it, so that the switch has a core for itself: with copies and without, the
//! thread looks at the same rings.

use std::{
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{BATCH, Guest};
use crate::process;

/// What came through in a time.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Mirrored {
    /// From each device to the other.
    pub(in super::super) frames: u64,
    /// At the first device of the guest beside.
    pub(in super::super) copies: u64,
    pub(in super::super) seconds: f64,
    /// CPU time of the switch in that time.
    pub(in super::super) cpu_seconds: f64,
}

impl Guest {
    /// Sends from each device to the other, as fast as it goes, and takes away what the first device
    /// of the guest beside gets. Counts for so long, after a while in which caches fill; `cpu_ns` is
    /// asked for the switch's CPU time.
    ///
    /// # Errors
    /// When a device fails.
    pub(in super::super) fn mirrored(
        &mut self,
        sniffer: &mut Guest,
        size_bytes: usize,
        (warm_up, duration): (Duration, Duration),
        cpu_ns: impl Fn() -> anyhow::Result<u64> + Sync,
    ) -> anyhow::Result<Mirrored> {
        let mut devices = self.at_rest()?;
        devices.prepare(self.traffic, size_bytes)?;
        let mut flows = self.traffic.flows(self.flows, size_bytes)?;
        let mut beside = sniffer.at_rest()?;
        let core = self.core;
        let run = || -> anyhow::Result<Mirrored> {
            process::pin(core)?;
            devices.fill(&mut flows)?;
            let mut count = |duration: Duration| -> anyhow::Result<Mirrored> {
                let (began, cpu_began_ns) = (Instant::now(), cpu_ns()?);
                let (mut frames, mut copies) = (0, 0);
                while began.elapsed() < duration {
                    for device in &mut devices.0 {
                        frames += u64::from(device.take_received(BATCH)?.0);
                        device.send_again(&mut flows, BATCH)?;
                        copies += u64::from(beside.0[0].take_received(BATCH)?.0);
                    }
                }
                Ok(Mirrored {
                    frames,
                    copies,
                    seconds: began.elapsed().as_secs_f64(),
                    cpu_seconds: (cpu_ns()? - cpu_began_ns) as f64 / 1e9,
                })
            };
            count(warm_up)?;
            let counted = count(duration)?;
            devices.drain(&AtomicBool::new(false))?;
            Ok(counted)
        };
        // A thread of its own, because a thread does not leave its core again.
        let counted = std::thread::scope(|scope| scope.spawn(run).join());
        let counted = counted.ok().context("the guest's thread panicked")??;
        self.devices = Some(devices);
        sniffer.devices = Some(beside);
        Ok(counted)
    }
}
