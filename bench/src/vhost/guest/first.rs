//! When the first frame comes through.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use super::{Devices, Guest};
use crate::process::interrupt;

/// From one frame to the next, about.
const GAP: Duration = Duration::from_micros(20);

/// So long nothing may come through before it counts.
const SILENCE: Duration = Duration::from_millis(50);

/// How long that, and the first frame, may take.
const PATIENCE: Duration = Duration::from_secs(60);

impl Guest {
    /// Sends a frame every now and then, which must not come through, then does `act`, and returns
    /// how long after its beginning the first frame came through; and how long `act` took.
    ///
    /// # Errors
    /// When frames come through before, or none after, or `act` fails.
    pub(in super::super) fn first_after(
        &mut self,
        size_bytes: usize,
        act: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<(Duration, Duration)> {
        let mut devices = self.at_rest()?;
        devices.prepare(self.traffic, size_bytes)?;
        let (silent, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let found = thread::scope(|scope| {
            let sending = scope.spawn(|| devices.trickle(&silent, &stop));
            let acted = interrupt::wait_for("frames being denied", PATIENCE, || {
                Ok(silent.load(Relaxed).then_some(()))
            })
            .and_then(|()| {
                // A while longer: what is denied stays so.
                interrupt::sleep(SILENCE)?;
                let began = Instant::now();
                act()?;
                let took = began.elapsed();
                interrupt::wait_for("the first frame", PATIENCE, || {
                    Ok(sending.is_finished().then_some(()))
                })?;
                Ok((began, took))
            });
            stop.store(true, Relaxed);
            let first = sending
                .join()
                .ok()
                .context("the guest's thread panicked")??;
            let (began, took) = acted?;
            let first = first.context("no frame came through")?;
            ensure!(first > began, "frames came through though rules deny them");
            Ok((first - began, took))
        })?;
        self.devices = Some(devices);
        Ok(found)
    }
}

impl Devices {
    /// Sends until a frame comes through after a silence, or stopped.
    fn trickle(
        &mut self,
        silent: &AtomicBool,
        stop: &AtomicBool,
    ) -> anyhow::Result<Option<Instant>> {
        let [first, second] = &mut self.0;
        let (mut last, mut found, mut away) = (Instant::now(), None, false);
        while !stop.load(Relaxed) && found.is_none() {
            if !away {
                first.send_one()?;
                away = true;
            }
            thread::sleep(GAP);
            if second.take_received(super::BATCH)?.0 > 0 {
                last = Instant::now();
                found = silent.load(Relaxed).then_some(last);
            }
            if last.elapsed() > SILENCE {
                silent.store(true, Relaxed);
            }
            if away && first.transmit.ready(&first.memory) > 0 {
                first.take_back()?;
                away = false;
            }
        }
        if away {
            first.take_back()?;
        }
        Ok(found)
    }
}
