//! How long frames of a flow that is known take, while other ports of the switch are silent, or send
//! frames of flows that are known too, or open flows, as fast as they can.
//!
//! One thread sends all of it and looks for the frame that is timed between two steps of the others:
//! what a step takes is part of the time that is found, in both cases in which the others send.

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

/// Frames that one of the others may send, and receive, between two looks for the one that is timed:
/// few, so that looking stays exact.
const STORM_STEP: u16 = 8;

/// Flows that the others have, when they send known ones.
const KNOWN: usize = 1000;

/// What the others do meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Others {
    Silent,
    /// Frames of known flows, as fast as it goes.
    Known,
    /// Nothing but new flows, as fast as it goes.
    New,
    /// Nothing; the first takes away what it gets.
    Sniff,
}

/// What became of the frames.
#[derive(Debug)]
pub(in super::super) struct Established {
    /// Nanoseconds of those that came through.
    pub(in super::super) times: Histogram<u64>,
    pub(in super::super) lost: u64,
    /// Frames a second that the switch took from the others.
    pub(in super::super) others_pps: f64,
}

impl Guest {
    /// Sends one frame after the other from the first device to the second for so long, while
    /// the guest beside it does the other thing, both ways.
    ///
    /// # Errors
    /// When a device fails.
    pub(in super::super) fn established(
        &mut self,
        (beside, others): (&mut Guest, Others),
        size_bytes: usize,
        duration: Duration,
    ) -> anyhow::Result<Established> {
        let mut devices = self.at_rest()?;
        devices.prepare(self.traffic, size_bytes)?;
        // One that the rules for new flows do not deny.
        let known = Traffic::NewFlows.flows(0, size_bytes)?.next();
        let [first, _] = &devices.0;
        (0..first.transmit.slots()).for_each(|slot| known.write(first, slot));
        let fresh = Traffic::NewFlows.flows(0, size_bytes)?;
        let mut flows = match others {
            Others::Silent | Others::Sniff => None,
            Others::Known => Some(fresh.known(KNOWN)),
            Others::New => Some(fresh),
        };
        let mut beside_devices = beside.at_rest()?;
        beside_devices.prepare(beside.traffic, size_bytes)?;
        let core = self.core;
        let run = || -> anyhow::Result<Established> {
            process::pin(core)?;
            let devices_beside = &mut beside_devices;
            if others == Others::Sniff {
                let sniffer = &mut devices_beside.0[0];
                return devices
                    .established(duration, || sniffer.take_received(STORM_STEP).map(|_| 0));
            }
            let Some(flows) = &mut flows else {
                return devices.established(duration, || Ok(0));
            };
            devices_beside.fill(flows)?;
            let mut turns = (0..devices_beside.0.len()).cycle();
            let step = || {
                let number = turns.next().unwrap_or(0);
                devices_beside.step(number, flows, STORM_STEP)
            };
            let found = devices.established(duration, step)?;
            devices_beside.drain(&AtomicBool::new(false))?;
            Ok(found)
        };
        // A thread of its own, because a thread does not leave its core again.
        let found = std::thread::scope(|scope| scope.spawn(run).join());
        let found = found.ok().context("the guest's thread panicked")??;
        self.devices = Some(devices);
        beside.devices = Some(beside_devices);
        Ok(found)
    }
}

impl Devices {
    fn established(
        &mut self,
        duration: Duration,
        mut meanwhile: impl FnMut() -> anyhow::Result<u64>,
    ) -> anyhow::Result<Established> {
        let mut found = Established {
            times: Histogram::new_with_max(LOST.as_nanos() as u64, 3)?,
            lost: 0,
            others_pps: 0.0,
        };
        let mut others_sent = 0;
        let [first, second] = &mut self.0;
        // Buffers go round: a frame that was given up may still hold its own.
        let mut slot = 0;
        let mut away = 0;
        let end = Instant::now() + duration;
        while Instant::now() < end {
            interrupt::check()?;
            let gap = Instant::now();
            while gap.elapsed() < GAP {
                others_sent += meanwhile()?;
                second.take_received(super::BATCH)?;
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
                if second.take_received(super::BATCH)?.0 > 0 {
                    found
                        .times
                        .saturating_record(began.elapsed().as_nanos() as u64);
                    break;
                }
                if began.elapsed() > LOST {
                    found.lost += 1;
                    break;
                }
                others_sent += meanwhile()?;
            }
        }
        found.others_pps = others_sent as f64 / duration.as_secs_f64();
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
