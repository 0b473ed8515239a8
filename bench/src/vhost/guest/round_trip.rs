//! One frame in flight: there, and an answer back.

use std::time::{Duration, Instant};

use anyhow::ensure;
use hdrhistogram::Histogram;

use super::{Devices, Guest, front_end::FrontEnd};
use crate::process::{self, interrupt};

/// How long a frame may be on its way.
const LOST: Duration = Duration::from_secs(2);

/// The one buffer that each device sends from.
const SLOT: u16 = 0;

impl Guest {
    /// Lets frames of `size_bytes` go from the first device to the second and an answer of the same
    /// size back, one at a time, with a pause after each, for so long. What each took, in
    /// nanoseconds.
    ///
    /// # Errors
    /// When a frame is lost.
    pub(in super::super) fn round_trips(
        &mut self,
        size_bytes: usize,
        duration: Duration,
        pause: Duration,
    ) -> anyhow::Result<Histogram<u64>> {
        let mut devices = self.at_rest()?;
        devices.prepare(self.traffic, size_bytes)?;
        let core = self.core;
        let thread = std::thread::spawn(move || -> anyhow::Result<_> {
            process::pin(core)?;
            let times = devices.round_trips(duration, pause)?;
            Ok((devices, times))
        });
        let Ok(done) = thread.join() else {
            anyhow::bail!("the guest's thread panicked");
        };
        let (devices, times) = done?;
        self.devices = Some(devices);
        Ok(times)
    }
}

impl Devices {
    fn round_trips(
        &mut self,
        duration: Duration,
        pause: Duration,
    ) -> anyhow::Result<Histogram<u64>> {
        let mut times = Histogram::new_with_max(LOST.as_nanos() as u64, 3)?;
        let [first, second] = &mut self.0;
        let end = Instant::now() + duration;
        while Instant::now() < end {
            interrupt::check()?;
            let began = Instant::now();
            first.send_one()?;
            second.await_one()?;
            second.send_one()?;
            first.await_one()?;
            times.saturating_record(began.elapsed().as_nanos() as u64);
            first.take_back()?;
            second.take_back()?;
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
        }
        Ok(times)
    }
}

impl FrontEnd {
    pub(super) fn send_one(&mut self) -> anyhow::Result<()> {
        self.transmit.offer(&self.memory, SLOT);
        self.transmit.publish(&self.memory)
    }

    fn await_one(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.take_received(super::BATCH)?.0 == 0 {
            ensure!(
                began.elapsed() < LOST,
                "a frame did not come through in {LOST:?}"
            );
        }
        Ok(())
    }

    /// Waits until the switch has given the sent buffer back.
    pub(super) fn take_back(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.transmit.ready(&self.memory) == 0 {
            ensure!(
                began.elapsed() < LOST,
                "the switch keeps a buffer for more than {LOST:?}"
            );
        }
        self.transmit.take(&self.memory).map(drop)
    }
}
