//! `memory`: two ports joined in this process, for tests, benches and embedded guests.
//!
//! ```text
//!   end A  tx ──► ring of buffers ──► rx  end B
//!          rx ◄── ring of buffers ◄── tx
//! ```
//!
//! Each direction is a ring with one producer and one consumer. The producer's indices own the
//! buffers from `tail + slots` back to `head`, the consumer's those from `tail` to `head`:
//!
//! - only the producer stores `head`, after it wrote the buffers below it (release);
//! - only the consumer stores `tail`, after it stopped reading the buffers below it (release).

use std::{
    cell::UnsafeCell,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering, fence},
    },
};

use crossbeam::utils::CachePadded;
use rustix::event::{EventfdFlags, eventfd};

use crate::{
    Burst, Counts, Frame, Health, Monitor, OpenError, Port, PortInfo, RxQueue, TxBurst, TxPlan,
    TxQueue, TxReport, Wait,
};

/// How a pair of memory ports is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Buffers in each direction; a power of two.
    pub slots: u32,
    /// Longest frame, in bytes.
    pub max_frame_bytes: usize,
    /// What [`PortInfo::unmarked_partial_checksums`] says of both ends.
    pub unmarked_partial_checksums: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            slots: 256,
            max_frame_bytes: 2048,
            unmarked_partial_checksums: false,
        }
    }
}

/// Two ports; what leaves one arrives at the other.
///
/// # Errors
///
/// [`OpenError::Unsupported`] when `slots` is not a power of two, [`OpenError::System`] when the
/// process is out of file descriptors.
pub fn pair(config: Config) -> Result<(Port, Port), OpenError> {
    if !config.slots.is_power_of_two() {
        return Err(OpenError::Unsupported(format!(
            "memory port: slots is {}, which is not a power of two",
            config.slots
        )));
    }
    let ring = || {
        Ring::new(config)
            .map(Arc::new)
            .map_err(|e| OpenError::system("memory port: eventfd", e))
    };
    let (a_to_b, b_to_a) = (ring()?, ring()?);
    let port = |tx: &Arc<Ring>, rx: &Arc<Ring>| Port {
        info: PortInfo {
            driver: "memory",
            mode: format!(
                "{} buffers of {} bytes",
                config.slots, config.max_frame_bytes
            ),
            max_frame_bytes: config.max_frame_bytes,
            unmarked_partial_checksums: config.unmarked_partial_checksums,
            hidden_vlan_tags: false,
            notes: Vec::new(),
        },
        rx: vec![Box::new(MemoryRx {
            ring: Arc::clone(rx),
            lent: 0,
        })],
        tx: vec![Box::new(MemoryTx {
            ring: Arc::clone(tx),
        })],
        monitor: Box::new(MemoryMonitor {
            peer: Arc::clone(rx),
        }),
    };
    Ok((port(&a_to_b, &b_to_a), port(&b_to_a, &a_to_b)))
}

struct Ring {
    /// `slots` buffers of `stride` bytes.
    buffers: Box<[UnsafeCell<u8>]>,
    lengths: Box<[UnsafeCell<u32>]>,
    stride: usize,
    /// At most `stride`.
    max_frame_bytes: usize,
    head: CachePadded<AtomicU32>,
    tail: CachePadded<AtomicU32>,
    /// The consumer is about to sleep and wants `wake` written.
    armed: AtomicBool,
    wake: OwnedFd,
    producer_gone: AtomicBool,
    consumer_gone: AtomicBool,
}

// SAFETY: the module's index rule gives every buffer and length to exactly one side at a time,
// and the release/acquire pairs on `head` and `tail` order the hand-over.
unsafe impl Sync for Ring {}
// SAFETY: nothing in a ring belongs to a thread.
unsafe impl Send for Ring {}

impl Ring {
    fn new(config: Config) -> io::Result<Self> {
        let slots = config.slots as usize;
        // An odd number of cache lines: with a power of two, the first lines of all buffers would
        // share a few sets of the first-level cache and evict each other within a burst.
        let stride = (config.max_frame_bytes.div_ceil(64) | 1) * 64;
        Ok(Self {
            buffers: (0..slots * stride).map(|_| UnsafeCell::new(0)).collect(),
            lengths: (0..slots).map(|_| UnsafeCell::new(0)).collect(),
            stride,
            max_frame_bytes: config.max_frame_bytes,
            head: CachePadded::default(),
            tail: CachePadded::default(),
            armed: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            producer_gone: AtomicBool::new(false),
            consumer_gone: AtomicBool::new(false),
        })
    }

    fn slots(&self) -> Slots {
        Slots {
            buffers: UnsafeCell::raw_get(self.buffers.as_ptr()),
            lengths: UnsafeCell::raw_get(self.lengths.as_ptr()),
            mask: self.lengths.len() - 1,
            stride: self.stride,
        }
    }

    fn wake_consumer(&self) {
        // Pairs with the fence in `prepare_wait`: either this load sees `armed`, or the consumer
        // sees the new head.
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::Relaxed) {
            // A full eventfd counter is readable already, which is all that is wanted.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }
}

/// Where a ring's buffers are: copied out of it for a burst, so that what is written to the
/// buffers cannot, for all the compiler knows, have changed it.
#[derive(Clone, Copy)]
struct Slots {
    buffers: *mut u8,
    lengths: *mut u32,
    mask: usize,
    stride: usize,
}

impl Slots {
    /// Where a slot's buffer begins, and its length's place.
    #[inline(always)]
    fn at(&self, index: u32) -> (*mut u8, *mut u32) {
        let slot = index as usize & self.mask;
        // SAFETY: `slot` is less than the number of slots, a power of two; `buffers` has `stride`
        // bytes and `lengths` one place for each.
        unsafe { (self.buffers.add(slot * self.stride), self.lengths.add(slot)) }
    }
}

struct MemoryRx {
    ring: Arc<Ring>,
    lent: u32,
}

impl RxQueue for MemoryRx {
    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) {
        debug_assert_eq!(self.lent, 0, "receive before release");
        let ring = &*self.ring;
        let tail = ring.tail.load(Ordering::Relaxed);
        let ready = ring.head.load(Ordering::Acquire).wrapping_sub(tail);
        self.lent = ready.min(burst.remaining_capacity() as u32);
        let slots = ring.slots();
        for index in 0..self.lent {
            let (buffer, length) = slots.at(tail.wrapping_add(index));
            // SAFETY: slots from `tail` to `head` are the consumer's until it stores `tail`,
            // which `release` does only after the burst, and so this borrow, has ended. The
            // producer wrote the length, at most `stride`.
            let bytes = unsafe { std::slice::from_raw_parts(buffer, *length as usize) };
            burst.push(Frame::contiguous(bytes));
        }
    }

    fn release(&mut self) {
        let tail = self.ring.tail.load(Ordering::Relaxed);
        self.ring
            .tail
            .store(tail.wrapping_add(self.lent), Ordering::Release);
        self.lent = 0;
    }

    fn prepare_wait(&mut self) -> Wait {
        let ring = &*self.ring;
        let _ = rustix::io::read(&ring.wake, &mut [0; 8]);
        ring.armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if ring.head.load(Ordering::Acquire) == ring.tail.load(Ordering::Relaxed) {
            Wait::Until(None)
        } else {
            ring.armed.store(false, Ordering::Relaxed);
            Wait::Ready
        }
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.wake.as_fd())
    }
}

impl Drop for MemoryRx {
    fn drop(&mut self) {
        self.ring.consumer_gone.store(true, Ordering::Release);
    }
}

/// The producer's way through the free slots of a ring.
struct Writer {
    slots: Slots,
    max_frame_bytes: usize,
    next: u32,
}

impl Writer {
    /// The next slot's buffer.
    ///
    /// # Safety
    ///
    /// The slot is free, and nobody else is the ring's producer.
    #[inline(always)]
    unsafe fn buffer<'a>(&self) -> &'a mut [u8] {
        let (buffer, _) = self.slots.at(self.next);
        // SAFETY: slots from `head` to `tail + slots` are the producer's until it stores `head`.
        // A buffer has `stride` bytes, at least `max_frame_bytes`.
        unsafe { std::slice::from_raw_parts_mut(buffer, self.max_frame_bytes) }
    }

    /// The next slot holds a frame of `len` bytes.
    ///
    /// # Safety
    ///
    /// As [`Writer::buffer`].
    #[inline(always)]
    unsafe fn keep(&mut self, len: usize) {
        let (_, length) = self.slots.at(self.next);
        // SAFETY: the length is the producer's as long as its buffer.
        unsafe { *length = len as u32 };
        self.next = self.next.wrapping_add(1);
    }

    /// Writes plans up to the first that is not short, and says how many and how many bytes that
    /// is. None where buffers are too short for all that is called short.
    ///
    /// # Safety
    ///
    /// As many slots as plans are free, and nobody else is the ring's producer.
    // A function of its own, without a call: its loop has the registers to itself.
    #[inline(never)]
    unsafe fn write_short(&mut self, burst: &TxBurst<'_>, plans: &[TxPlan]) -> (usize, u64) {
        let (mut writer, mut bytes) = (Self { ..*self }, 0);
        for plan in plans {
            // SAFETY: as the caller says.
            let buffer = unsafe { writer.buffer() };
            let Some(buffer) = buffer.first_chunk_mut() else {
                break;
            };
            let Some(len) = burst.write_short(plan, buffer) else {
                break;
            };
            // SAFETY: as the caller says.
            unsafe { writer.keep(len) };
            bytes += len as u64;
        }
        let written = writer.next.wrapping_sub(self.next) as usize;
        self.next = writer.next;
        (written, bytes)
    }
}

struct MemoryTx {
    ring: Arc<Ring>,
}

impl TxQueue for MemoryTx {
    fn transmit(&mut self, burst: &TxBurst<'_>) -> TxReport {
        let ring = &*self.ring;
        let mut report = TxReport::default();
        if ring.consumer_gone.load(Ordering::Relaxed) {
            report.down = burst.plans.len() as u32;
            return report;
        }
        let head = ring.head.load(Ordering::Relaxed);
        let used = head.wrapping_sub(ring.tail.load(Ordering::Acquire));
        let free = ring.lengths.len() as u32 - used;
        let mut writer = Writer {
            slots: ring.slots(),
            max_frame_bytes: ring.max_frame_bytes,
            next: head,
        };
        // SAFETY: `&mut self` makes this the only producer, and so many slots are free.
        let (written, bytes) = unsafe {
            let plans = burst.plans.len().min(free as usize);
            writer.write_short(burst, &burst.plans[..plans])
        };
        report.sent_bytes = bytes;
        let end = head.wrapping_add(free);
        for plan in &burst.plans[written..] {
            if plan.wire_len() > writer.max_frame_bytes {
                report.too_big += 1;
            } else if writer.next == end {
                report.full += 1;
            } else {
                // SAFETY: as before; this slot is one of them.
                report.sent_bytes += unsafe {
                    let len = burst.write(plan, writer.buffer());
                    writer.keep(len);
                    len as u64
                };
            }
        }
        report.sent = writer.next.wrapping_sub(head);
        if report.sent > 0 {
            ring.head.store(writer.next, Ordering::Release);
            ring.wake_consumer();
        }
        report
    }
}

impl Drop for MemoryTx {
    fn drop(&mut self) {
        self.ring.producer_gone.store(true, Ordering::Release);
    }
}

struct MemoryMonitor {
    peer: Arc<Ring>,
}

impl Monitor for MemoryMonitor {
    fn health(&mut self) -> Health {
        if self.peer.producer_gone.load(Ordering::Acquire) {
            Health::Down("the other end of the memory pair was closed".into())
        } else {
            Health::Up
        }
    }

    fn counts(&mut self) -> Counts {
        Counts::new()
    }
}

/// The far end of a memory pair, as a test, a bench or an embedded guest holds it: whole frames
/// in and out, without bursts and plans.
#[derive(Debug)]
pub struct Endpoint {
    port: Port,
    prefixes: crate::PrefixArena,
}

impl Endpoint {
    /// Takes one end of a [`pair`] (or any other port) as an endpoint.
    pub fn new(port: Port) -> Self {
        Self {
            port,
            prefixes: crate::PrefixArena::default(),
        }
    }

    /// Sends one frame; false when the port did not take it.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.send_burst(&[Frame::contiguous(bytes)]) == 1
    }

    /// Sends up to a burst of frames and returns how many the port took.
    ///
    /// # Panics
    ///
    /// When there are more than [`crate::BURST`] frames.
    pub fn send_burst(&mut self, frames: &[Frame<'_>]) -> usize {
        let plans: arrayvec::ArrayVec<crate::TxPlan, { crate::BURST }> = frames
            .iter()
            .enumerate()
            .map(|(index, frame)| crate::TxPlan::whole(index, frame))
            .collect();
        let burst = TxBurst {
            frames,
            prefixes: &self.prefixes,
            plans: &plans,
        };
        self.port.tx[0].transmit(&burst).sent as usize
    }

    /// Takes every frame that is there, at most a burst a queue, and gives each to `take`.
    /// Returns how many.
    pub fn receive(&mut self, mut take: impl FnMut(&Frame<'_>)) -> usize {
        let mut count = 0;
        for queue in &mut self.port.rx {
            let mut burst = Burst::new();
            queue.receive(&mut burst);
            count += burst.len();
            burst.iter().for_each(&mut take);
            drop(burst);
            queue.release();
        }
        count
    }

    /// Every frame that is there, copied out.
    pub fn drain(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while self.receive(|frame| frames.push(frame.to_vec())) > 0 {}
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(config: Config) -> (Endpoint, Endpoint) {
        let (a, b) = pair(config).expect("pair");
        (Endpoint::new(a), Endpoint::new(b))
    }

    #[test]
    fn what_leaves_one_end_arrives_at_the_other() {
        let (mut a, mut b) = endpoints(Config::default());
        assert!(a.send(b"to b"));
        assert!(b.send(b"to a"));
        assert_eq!(a.drain(), [b"to a"]);
        assert_eq!(b.drain(), [b"to b"]);
        assert!(b.drain().is_empty());
    }

    #[test]
    fn a_full_ring_refuses_and_loses_nothing_it_took() {
        let (mut a, mut b) = endpoints(Config {
            slots: 4,
            ..Config::default()
        });
        let taken = (0..10u8).filter(|i| a.send(&[*i])).count();
        assert_eq!(taken, 4);
        assert_eq!(b.drain(), [[0], [1], [2], [3]]);
        assert!(a.send(&[9]));
        assert_eq!(b.drain(), [[9]]);
    }

    #[test]
    fn a_frame_longer_than_the_buffers_is_refused() {
        let (mut a, mut b) = endpoints(Config {
            max_frame_bytes: 64,
            ..Config::default()
        });
        assert!(!a.send(&[0; 65]));
        assert!(a.send(&[0; 64]));
        assert_eq!(b.drain().len(), 1);
    }

    #[test]
    fn a_closed_peer_is_seen_and_costs_only_frames() {
        let (a, mut b) = pair(Config::default()).expect("pair");
        drop(a);
        assert!(matches!(b.monitor.health(), Health::Down(_)));
        assert!(!Endpoint::new(b).send(b"nobody"));
    }

    #[test]
    fn a_sleeper_is_woken_and_a_frame_before_the_sleep_is_seen() {
        let (a, mut b) = pair(Config::default()).expect("pair");
        let mut a = Endpoint::new(a);
        assert_eq!(b.rx[0].prepare_wait(), Wait::Until(None));
        assert!(a.send(b"wake"));
        let mut buffer = [0; 8];
        let wake = b.rx[0].wake_fd().expect("memory queues have one");
        assert_eq!(rustix::io::read(wake, &mut buffer), Ok(8));
        assert_eq!(b.rx[0].prepare_wait(), Wait::Ready);
    }

    #[test]
    fn slots_must_be_a_power_of_two() {
        let error = pair(Config {
            slots: 3,
            ..Config::default()
        })
        .expect_err("refused");
        assert!(error.to_string().contains("slots is 3"), "{error}");
    }
}
