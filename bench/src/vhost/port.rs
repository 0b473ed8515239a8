//! The hypervisor's half of a vhost-user device as a port of the generator: what it transmits, the
//! guest sends, and what the guest gets, it receives.
//!
//! Frames are copied in and out: a guest's memory is shared with a switch that may be any program.

use std::{
    os::{fd::BorrowedFd, unix::net::UnixListener},
    path::Path,
    sync::Arc,
};

use parking_lot::Mutex;
use pmd::{
    BURST, Burst, Counts, Frame, Health, Monitor, Port, PortInfo, RxQueue, TxBurst, TxQueue,
    TxReport, Wait,
};

use super::{
    guest::{FrontEnd, HEADER_BYTES, Traffic},
    hugepages::Hugepages,
};

/// Longest frame.
const MAX_FRAME_BYTES: usize = 2048 - HEADER_BYTES;

/// Listens where a switch will connect.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    super::guest::listen(socket)
}

/// Waits for a switch, and opens the device.
///
/// # Errors
/// When no switch connects, or there are no hugepages.
pub(crate) fn open(listener: &UnixListener) -> anyhow::Result<Port> {
    let traffic = Traffic::Frames;
    let layout = traffic.layout();
    let pages = Hugepages::provide((layout.memory_bytes() >> 21) as u64)?;
    let mut device = FrontEnd::accept(listener, traffic.features(), &layout)?;
    for slot in 0..device.receive.slots() {
        device.receive.offer(&device.memory, slot);
    }
    device.receive.publish(&device.memory)?;
    let free = (0..device.transmit.slots()).collect();
    let device = Arc::new(Mutex::new(device));
    Ok(Port {
        info: PortInfo {
            driver: "vhost_user",
            mode: "front end, split rings".to_owned(),
            max_frame_bytes: MAX_FRAME_BYTES,
            unmarked_partial_checksums: false,
            hidden_vlan_tags: false,
            notes: Vec::new(),
        },
        rx: vec![Box::new(Rx {
            device: Arc::clone(&device),
            buffers: vec![vec![0; layout.buffer_bytes]; BURST],
            _pages: pages,
        })],
        tx: vec![Box::new(Tx { device, free })],
        monitor: Box::new(Always),
    })
}

/// What the guest gets.
struct Rx {
    device: Arc<Mutex<FrontEnd>>,
    buffers: Vec<Vec<u8>>,
    _pages: Hugepages,
}

impl RxQueue for Rx {
    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) {
        let device = &mut *self.device.lock();
        let (memory, ring) = (&device.memory, &mut device.receive);
        let ready = usize::from(ring.ready(memory)).min(burst.remaining_capacity());
        let mut taken = 0;
        for buffer in self.buffers.iter_mut().take(ready) {
            // A switch that makes no sense is one from which nothing comes.
            let Ok((slot, len)) = ring.take(memory) else {
                break;
            };
            let len = len.saturating_sub(HEADER_BYTES).min(MAX_FRAME_BYTES);
            let buffer = &mut buffer[..len];
            memory.read(ring.buffer(slot) + HEADER_BYTES, buffer);
            ring.offer(memory, slot);
            burst.push(Frame::contiguous(buffer));
            taken += 1;
        }
        if taken > 0 {
            // It is told again with the next burst.
            let _ = ring.publish(memory);
        }
    }

    fn release(&mut self) {}

    fn prepare_wait(&mut self) -> Wait {
        Wait::Ready
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// What the guest sends.
struct Tx {
    device: Arc<Mutex<FrontEnd>>,
    free: Vec<u16>,
}

impl TxQueue for Tx {
    fn transmit(&mut self, burst: &TxBurst<'_>) -> TxReport {
        let mut report = TxReport::default();
        let device = &mut *self.device.lock();
        let (memory, ring) = (&device.memory, &mut device.transmit);
        while ring.ready(memory) > 0 {
            let Ok((slot, _)) = ring.take(memory) else {
                break;
            };
            self.free.push(slot);
        }
        for plan in burst.plans {
            let head = burst.frames[usize::from(plan.frame)].head();
            let (skip, len) = (usize::from(plan.skip_bytes), plan.len_bytes as usize);
            // The generator's frames are in one piece, and sent as they are.
            let Some(bytes) = head
                .get(skip..skip + len)
                .filter(|bytes| bytes.len() <= MAX_FRAME_BYTES)
            else {
                report.too_big += 1;
                continue;
            };
            let Some(slot) = self.free.pop() else {
                report.full += 1;
                continue;
            };
            let at = ring.buffer(slot);
            memory.write(at, &Traffic::Frames.header());
            memory.write(at + HEADER_BYTES, bytes);
            ring.set_len(memory, slot, HEADER_BYTES + len);
            ring.offer(memory, slot);
            report.sent += 1;
            report.sent_bytes += len as u64;
        }
        if report.sent > 0 {
            // It is told again with the next burst.
            let _ = ring.publish(memory);
        }
        report
    }
}

/// Nobody looks at a port of the generator.
struct Always;

impl Monitor for Always {
    fn health(&mut self) -> Health {
        Health::Up
    }

    fn counts(&mut self) -> Counts {
        Counts::default()
    }
}
