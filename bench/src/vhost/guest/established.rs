//! How long frames of a flow that is known take, while other ports of the switch open flows as fast
//! as they can, or are silent.

use std::{
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use anyhow::Context;
use hdrhistogram::Histogram;

use super::{Devices, Guest, Traffic};
use crate::process::{self, interrupt};

/// How long after one frame came through (or was given up) the next is sent.
const GAP: Duration = Duration::from_micros(20);

/// A frame that is not there by then is lost.
const LOST: Duration = Duration::from_millis(20);

/// Frames that the others may send between two looks for the one that is timed: few, so that
/// looking stays exact.
const STORM_STEP: u16 = 8;

/// What became of the frames.
#[derive(Debug)]
pub(in super::super) struct Established {
    /// Nanoseconds of those that came through.
    pub(in super::super) times: Histogram<u64>,
    pub(in super::super) lost: u64,
}

impl Guest {
    /// Sends one frame after the other from the first device to the second for so long, while
    /// `others` send both ways as fast as it goes.
    ///
    /// # Errors
    /// When a device fails.
    pub(in super::super) fn established(
        &mut self,
        others: Option<&mut Guest>,
        size_bytes: usize,
        duration: Duration,
    ) -> anyhow::Result<Established> {
        let mut devices = self.at_rest()?;
        devices.prepare(self.traffic, size_bytes)?;
        // One that the rules for new flows do not deny.
        let known = Traffic::NewFlows.flows(0, size_bytes)?.next();
        let [first, _] = &devices.0;
        (0..first.transmit.slots()).for_each(|slot| known.write(first, slot));
        let mut storm = match &others {
            Some(guest) => Some(guest.traffic.flows(guest.flows, size_bytes)?),
            None => None,
        };
        let mut others = others;
        let mut other_devices = match &mut others {
            Some(guest) => {
                let devices = guest.at_rest()?;
                devices.prepare(guest.traffic, size_bytes)?;
                Some(devices)
            }
            None => None,
        };
        let core = self.core;
        let run = || -> anyhow::Result<Established> {
            process::pin(core)?;
            if let (Some(others), Some(flows)) = (&mut other_devices, &mut storm) {
                others.fill(flows)?;
            }
            let found =
                devices.established(duration, || match (&mut other_devices, &mut storm) {
                    (Some(others), Some(flows)) => others.step(flows, STORM_STEP),
                    _ => Ok(()),
                })?;
            if let Some(others) = &mut other_devices {
                others.drain(&AtomicBool::new(false))?;
            }
            Ok(found)
        };
        // A thread of its own, because a thread does not leave its core again.
        let found = std::thread::scope(|scope| scope.spawn(run).join());
        let found = found.ok().context("the guest's thread panicked")??;
        self.devices = Some(devices);
        if let (Some(guest), Some(devices)) = (others, other_devices) {
            guest.devices = Some(devices);
        }
        Ok(found)
    }
}

impl Devices {
    fn established(
        &mut self,
        duration: Duration,
        mut meanwhile: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Established> {
        let mut found = Established {
            times: Histogram::new_with_max(LOST.as_nanos() as u64, 3)?,
            lost: 0,
        };
        let [first, second] = &mut self.0;
        // Buffers go round: a frame that was given up may still hold its own.
        let mut slot = 0;
        let mut away = 0;
        let end = Instant::now() + duration;
        while Instant::now() < end {
            interrupt::check()?;
            let gap = Instant::now();
            while gap.elapsed() < GAP {
                meanwhile()?;
                second.take_received()?;
                while first.transmit.ready(&first.memory) > 0 {
                    first.transmit.take(&first.memory)?;
                    away -= 1;
                }
            }
            anyhow::ensure!(
                away < first.transmit.slots(),
                "the switch keeps every buffer"
            );
            first.transmit.offer(&first.memory, slot);
            slot = (slot + 1) % first.transmit.slots();
            away += 1;
            let began = Instant::now();
            first.transmit.publish(&first.memory)?;
            loop {
                if second.take_received()?.0 > 0 {
                    found
                        .times
                        .saturating_record(began.elapsed().as_nanos() as u64);
                    break;
                }
                if began.elapsed() > LOST {
                    found.lost += 1;
                    break;
                }
                meanwhile()?;
            }
        }
        let waited = Instant::now();
        while away > 0 && waited.elapsed() < LOST {
            while first.transmit.ready(&first.memory) > 0 {
                first.transmit.take(&first.memory)?;
                away -= 1;
            }
        }
        anyhow::ensure!(away == 0, "the switch keeps a buffer");
        Ok(found)
    }
}
