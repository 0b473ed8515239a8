//! A guest that costs next to nothing: frames that stand ready in its memory.
//!
//! In: two sockets that a switch connects to, how many flows. Out: how many frames came through,
//! or how long they took ([`round_trip`]). Where testpmd builds each frame anew and so is often
//! slower than the switch, this one writes the bytes in which flows differ into a buffer that just
//! came back, and makes it available again. The frames are testpmd's, flow after flow, or TCP
//! super-segments of one flow ([`Traffic`]).

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use super::load::{Load, Sample};
use crate::process;

mod established;
mod first;
mod front_end;
mod mirrored;
mod ring;
mod round_trip;
mod traffic;

pub(super) use established::Others;
pub(super) use traffic::{Traffic, router_mac};

pub(super) use front_end::{FrontEnd, listen};
pub(super) use ring::HEADER_BYTES;
use ring::Layout;
use traffic::{FLOW, Flows, LARGEST_BYTES};

/// Descriptors of a ring, as testpmd has them.
const SLOTS: u16 = super::testpmd::RING_SLOTS as u16;

/// What a guest's devices take of 2 MiB pages, at most.
pub(super) const HUGEPAGES: u64 =
    2 * (2 * LARGEST_BYTES as u64 * SLOTS as u64).div_ceil(2 << 20) + 2;

/// Buffers that are made available before the switch is told.
const BATCH: u16 = 64;

/// How long the switch may keep buffers when no more are coming.
const DRAIN: Duration = Duration::from_secs(5);

/// Two devices of one guest, side by side.
#[derive(Debug)]
struct Devices([FrontEnd; 2]);

/// The guest.
#[derive(Debug)]
pub(super) struct Guest {
    traffic: Traffic,
    flows: u32,
    core: usize,
    /// At rest, or in the hands of a thread.
    devices: Option<Devices>,
    running: Option<Running>,
}

/// A thread that sends and receives.
#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    thread: JoinHandle<anyhow::Result<Devices>>,
}

/// What the thread is told, and what it has counted.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Not even to wait for the switch.
    abandon: AtomicBool,
    received: [AtomicU64; 2],
    bytes: AtomicU64,
    /// Looks at a transmit ring, and those that found nothing back in it.
    looks: AtomicU64,
    full: AtomicU64,
}

impl Guest {
    /// Waits until a switch has connected to both `sockets`. Its thread will run on `core`.
    ///
    /// # Errors
    /// When no switch connects, or not with what is needed.
    pub(super) fn start(
        sockets: &[impl AsRef<Path>; 2],
        traffic: Traffic,
        flows: u32,
        core: usize,
    ) -> anyhow::Result<Self> {
        let devices = Devices::accept(sockets, traffic.features(), &traffic.layout())?;
        Ok(Self {
            traffic,
            flows,
            core,
            devices: Some(devices),
            running: None,
        })
    }

    fn at_rest(&mut self) -> anyhow::Result<Devices> {
        self.devices.take().context("the guest's devices are lost")
    }
}

impl Load for Guest {
    fn begin(&mut self, size_bytes: usize) -> anyhow::Result<()> {
        let devices = self.at_rest()?;
        devices.prepare(self.traffic, size_bytes)?;
        let shared = Arc::new(Shared::default());
        let (flows, core) = (self.traffic.flows(self.flows, size_bytes)?, self.core);
        let with_thread = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            process::pin(core)?;
            devices.exchange(flows, &with_thread)
        });
        self.running = Some(Running { shared, thread });
        Ok(())
    }

    fn sample(&mut self) -> anyhow::Result<Sample> {
        let running = self.running.as_ref().context("the guest does not run")?;
        ensure!(
            !running.thread.is_finished(),
            "the guest's thread has ended"
        );
        Ok(Sample {
            at: Instant::now(),
            received: [0, 1].map(|port| running.shared.received[port].load(Relaxed)),
            bytes: running.shared.bytes.load(Relaxed),
            tried: running.shared.looks.load(Relaxed),
            refused: running.shared.full.load(Relaxed),
        })
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        running.shared.stop.store(true, Relaxed);
        let Ok(ended) = running.thread.join() else {
            bail!("the guest's thread panicked");
        };
        self.devices = Some(ended?);
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.shared.abandon.store(true, Relaxed);
        }
        let _ = self.end();
    }
}

impl Devices {
    fn accept(
        sockets: &[impl AsRef<Path>; 2],
        features: u64,
        layout: &Layout,
    ) -> anyhow::Result<Self> {
        // Both at once, for a switch may connect in any order.
        let [first, second] = [listen(sockets[0].as_ref())?, listen(sockets[1].as_ref())?];
        let mut devices = [
            FrontEnd::accept(&first, features, layout)?,
            FrontEnd::accept(&second, features, layout)?,
        ];
        for device in &mut devices {
            for slot in 0..device.receive.slots() {
                device.receive.offer(&device.memory, slot);
            }
            device.receive.publish(&device.memory)?;
        }
        Ok(Self(devices))
    }

    /// Fills all transmit buffers, which must be ours.
    fn prepare(&self, traffic: Traffic, size_bytes: usize) -> anyhow::Result<()> {
        for (number, device) in (0..).zip(&self.0) {
            let template = traffic.template(number, size_bytes)?;
            let mut buffer = traffic.header().to_vec();
            buffer.resize(HEADER_BYTES + size_bytes, 0);
            traffic.write(&template, &FLOW, &mut buffer[HEADER_BYTES..]);
            for slot in 0..device.transmit.slots() {
                let (memory, ring) = (&device.memory, &device.transmit);
                memory.write(ring.buffer(slot), &buffer);
                ring.set_len(memory, slot, buffer.len());
            }
        }
        Ok(())
    }

    /// One look at the rings of one device: takes what came, and sends again what came back, up to
    /// `most` frames each. How many were sent.
    fn step(&mut self, number: usize, flows: &mut Flows, most: u16) -> anyhow::Result<u64> {
        let device = &mut self.0[number];
        device.take_received(most)?;
        device.send_again(flows, most).map(u64::from)
    }

    /// Makes every transmit buffer available, each with the next flow in it.
    fn fill(&mut self, flows: &mut Flows) -> anyhow::Result<()> {
        for device in &mut self.0 {
            for _ in 0..device.transmit.slots() {
                let slot = device.transmit.turn();
                flows.next().write(device, slot);
                device.transmit.offer(&device.memory, slot);
            }
            device.transmit.publish(&device.memory)?;
        }
        Ok(())
    }

    /// Sends and receives as fast as it goes, until stopped and every buffer is back.
    fn exchange(mut self, mut flows: Flows, shared: &Shared) -> anyhow::Result<Self> {
        self.fill(&mut flows)?;
        while !shared.stop.load(Relaxed) {
            for (device, count) in self.0.iter_mut().zip(&shared.received) {
                let (frames, bytes) = device.take_received(BATCH)?;
                count.fetch_add(frames.into(), Relaxed);
                shared.bytes.fetch_add(bytes, Relaxed);
                let back = device.send_again(&mut flows, BATCH)?;
                shared.looks.fetch_add(1, Relaxed);
                shared.full.fetch_add(u64::from(back == 0), Relaxed);
            }
        }
        self.drain(&shared.abandon)?;
        Ok(self)
    }

    /// Waits until the switch has given every transmit buffer back.
    fn drain(&mut self, abandon: &AtomicBool) -> anyhow::Result<()> {
        let began = Instant::now();
        while self
            .0
            .iter()
            .any(|device| device.transmit.ready(&device.memory) < device.transmit.slots())
        {
            for device in &mut self.0 {
                device.take_received(BATCH)?;
            }
            if abandon.load(Relaxed) {
                return Ok(());
            }
            ensure!(
                began.elapsed() < DRAIN,
                "the switch keeps transmit buffers for more than {DRAIN:?}"
            );
        }
        for device in &mut self.0 {
            for _ in 0..device.transmit.slots() {
                device.transmit.take(&device.memory)?;
            }
        }
        Ok(())
    }
}

impl FrontEnd {
    /// Takes up to `most` receive buffers and gives them back unread. How many, and how many bytes of
    /// frames they held.
    #[inline]
    fn take_received(&mut self, most: u16) -> anyhow::Result<(u16, u64)> {
        let frames = self.receive.ready(&self.memory).min(most);
        let mut bytes = 0;
        for _ in 0..frames {
            let (slot, len) = self.receive.take(&self.memory)?;
            bytes += len.saturating_sub(HEADER_BYTES) as u64;
            self.receive.offer(&self.memory, slot);
        }
        if frames > 0 {
            self.receive.publish(&self.memory)?;
        }
        Ok((frames, bytes))
    }

    /// Sends up to `most` of the transmit buffers that came back, each with the next flow in it. How
    /// many.
    #[inline]
    fn send_again(&mut self, flows: &mut Flows, most: u16) -> anyhow::Result<u16> {
        let back = self.transmit.ready(&self.memory).min(most);
        for _ in 0..back {
            let (slot, _) = self.transmit.take(&self.memory)?;
            flows.next().write(self, slot);
            self.transmit.offer(&self.memory, slot);
        }
        if back > 0 {
            self.transmit.publish(&self.memory)?;
        }
        Ok(back)
    }
}
