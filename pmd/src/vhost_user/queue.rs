//! What workers, control and the monitor share of a port.
//!
//! Why nothing is unmapped under a worker, and no worker waits: each virtqueue has its own
//! [`QueueLock`] around its [`Ring`], and the ring holds the memory map that its places lie in.
//!
//! - A worker only touches a guest's memory inside the lock of a queue of that guest: a receive
//!   queue stays inside from `receive` to `release`, so also while another port copies from the
//!   frames it lent; a transmit queue is inside while it transmits.
//! - Control changes a ring, its memory, its log or its descriptors by taking the ring out of
//!   its lock, which waits for a burst at most, and putting another one in. Once all queues of a
//!   port have let go of a map, control alone holds its regions, and unmaps them.
//! - A worker that finds control inside takes the queue for empty, or its frames for dropped,
//!   and goes on.
//!
//! - The one system call that a worker makes is the notification, and [`super::watch`] ends that
//!   where a front end lets it wait.
//!
//! Wake-ups: a receive queue's worker sleeps on an epoll descriptor of the port's own, which
//! stays the same whatever the guest does. In it are, edge-triggered, the guest's kick
//! descriptor and an event descriptor of ours. Edge-triggered, because nothing is then read from
//! a descriptor that the guest holds too and could make block: draining the epoll descriptor is
//! enough. Control writes to the event descriptor after every change, for a change may be that
//! frames wait already.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use super::{
    features::{GUEST_CSUM, GUEST_TSO4, GUEST_TSO6},
    lock::QueueLock,
    ring::Ring,
    violation::Violation,
    watch::Calls,
};
use crate::segment;

/// One virtqueue of a port.
pub(super) struct Queue {
    /// `None` while no frame may pass.
    pub(super) ring: QueueLock<Option<Ring>>,
    pub(super) tally: Tally,
    pub(super) calls: Calls,
    waker: Option<Waker>,
}

/// What a queue counts, with one writer at a time: whoever is inside its lock.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) notified: AtomicU64,
    pub(super) suppressed: AtomicU64,
    pub(super) woken: AtomicU64,
}

impl Tally {
    #[inline(always)]
    pub(super) fn add(counter: &AtomicU64, more: u64) {
        counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }
}

impl Queue {
    /// A queue that a worker `receives` from, or transmits to.
    pub(super) fn new(receives: bool) -> io::Result<Self> {
        Ok(Self {
            ring: QueueLock::new(None),
            tally: Tally::default(),
            calls: Calls::default(),
            waker: receives.then(Waker::new).transpose()?,
        })
    }

    pub(super) fn waker(&self) -> Option<&Waker> {
        self.waker.as_ref()
    }
}

/// How a sleeping worker learns of frames.
#[derive(Debug)]
pub(super) struct Waker {
    epoll: OwnedFd,
    nudge: OwnedFd,
}

impl Waker {
    fn new() -> io::Result<Self> {
        let waker = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            nudge: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        };
        waker.watch(&waker.nudge)?;
        Ok(waker)
    }

    /// Wakes the worker whenever `kick` is written to.
    pub(super) fn watch(&self, kick: impl AsFd) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        Ok(epoll::add(
            &self.epoll,
            kick,
            epoll::EventData::new_u64(0),
            flags,
        )?)
    }

    /// Ends that.
    pub(super) fn forget(&self, kick: impl AsFd) {
        let _ = epoll::delete(&self.epoll, kick);
    }

    /// Wakes the worker.
    pub(super) fn nudge(&self) {
        let _ = rustix::io::write(&self.nudge, &1u64.to_ne_bytes());
    }

    /// Forgets what came so far. True when something had come.
    pub(super) fn drain(&self) -> bool {
        let mut events = [const {
            epoll::Event {
                flags: epoll::EventFlags::empty(),
                data: epoll::EventData::new_u64(0),
            }
        }; 2];
        let now = Timespec::default();
        epoll::wait(&self.epoll, &mut events, Some(&now)).is_ok_and(|count| count > 0)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// What everybody who has to do with a port shares.
pub(super) struct Shared {
    /// By virtqueue number: even ones the guest receives from, odd ones it transmits to.
    pub(super) queues: Vec<Queue>,
    /// Bit n: virtqueue n passes frames.
    pub(super) active: AtomicU64,
    /// The guest broke a rule: nothing passes until its driver is reset, or another one connects.
    broken: AtomicBool,
    /// 1 and the queue's number in the upper half, the violation's in the lower; 0 for none.
    violation: AtomicU64,
    pub(super) violations: AtomicU32,
    /// The guest takes TCP super-segments of either IP version.
    super_segments: AtomicBool,
    /// What was done to those it does not take.
    pub(super) segments: Arc<segment::Tally>,
    status: Mutex<Status>,
}

/// How the connection stands, for people.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    /// Since when a guest is connected.
    pub(super) connected: Option<Instant>,
    /// Why the last connection ended or none came to be.
    pub(super) reason: Option<String>,
    pub(super) connections: u64,
    pub(super) refused: u64,
    /// What rule a guest broke last, if the port went on since.
    pub(super) last_violation: Option<String>,
    pub(super) features: u64,
    pub(super) protocol_features: u64,
    pub(super) regions: usize,
    pub(super) region_bytes: u64,
    pub(super) logging: bool,
    /// Ring size of each virtqueue that passes frames, or why it does not.
    pub(super) queues: Vec<Result<u16, String>>,
}

impl Shared {
    pub(super) fn new(queue_pairs: usize) -> io::Result<Self> {
        Ok(Self {
            queues: (0..queue_pairs * 2)
                .map(|number| Queue::new(number % 2 == 1))
                .collect::<io::Result<_>>()?,
            active: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            violation: AtomicU64::new(0),
            violations: AtomicU32::new(0),
            super_segments: AtomicBool::new(false),
            segments: Arc::default(),
            status: Mutex::default(),
        })
    }

    /// True when the guest broke a rule.
    #[inline(always)]
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// True when the guest takes TCP super-segments. Where that is no longer so by the time that
    /// one reaches the ring, the ring refuses it.
    #[inline(always)]
    pub(super) fn takes_super_segments(&self) -> bool {
        self.super_segments.load(Ordering::Relaxed)
    }

    /// Says what the guest takes from now on.
    pub(super) fn adopt(&self, features: u64) {
        const ALL: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6;
        let takes = features & ALL == ALL;
        self.super_segments.store(takes, Ordering::Relaxed);
    }

    /// Stops the port: the guest broke a rule on virtqueue number `queue`.
    #[cold]
    pub(super) fn break_off(&self, queue: usize, violation: Violation) {
        let code = (queue as u64 + 1) << 32 | u64::from(violation as u32);
        let first = self
            .violation
            .compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_ok() {
            self.violations.fetch_add(1, Ordering::Relaxed);
        }
        self.broken.store(true, Ordering::Relaxed);
    }

    /// A new guest, or one whose driver was reset, starts with a clean slate.
    pub(super) fn mend(&self) {
        if let Some(violation) = self.violation() {
            self.tell(|status| status.last_violation = Some(violation));
        }
        self.violation.store(0, Ordering::Relaxed);
        self.broken.store(false, Ordering::Relaxed);
    }

    /// True when the guest held a worker fast.
    pub(super) fn held_up(&self) -> bool {
        let code = self.violation.load(Ordering::Relaxed);
        code as u32 == Violation::CallBlocks as u32 && code >> 32 != 0
    }

    /// What rule the guest broke, if it did.
    pub(super) fn violation(&self) -> Option<String> {
        let code = self.violation.load(Ordering::Relaxed);
        let queue = (code >> 32).checked_sub(1)?;
        Some(Violation::text(code as u32, queue as u32))
    }

    /// The virtqueue that transmit queue number `number` sends to now: its own while the guest
    /// uses that, else one of those it does use.
    #[inline(always)]
    pub(super) fn transmit_target(&self, number: usize) -> Option<usize> {
        let active = self.active.load(Ordering::Relaxed) & EVEN;
        if active >> (2 * number) & 1 == 1 {
            return Some(2 * number);
        }
        other_target(active, number)
    }

    /// Changes what people are told.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What people are told.
    pub(super) fn status(&self) -> Status {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.clone()
    }
}

const EVEN: u64 = 0x5555_5555_5555_5555;

#[cold]
fn other_target(active: u64, number: usize) -> Option<usize> {
    let count = active.count_ones() as usize;
    let nth = number.checked_rem(count)?;
    (0..64).filter(|bit| active >> bit & 1 == 1).nth(nth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transmit_queue_without_its_own_virtqueue_uses_another() {
        let shared = Shared::new(4).expect("descriptors");
        assert_eq!(shared.transmit_target(0), None);
        shared.active.store(0b0000_0111, Ordering::Relaxed);
        let targets: Vec<_> = (0..4).map(|n| shared.transmit_target(n)).collect();
        assert_eq!(targets, [Some(0), Some(2), Some(0), Some(2)]);
    }

    #[test]
    fn an_edge_wakes_once() {
        let queue = Queue::new(true).expect("descriptors");
        let waker = queue.waker().expect("receives");
        assert!(!waker.drain());
        waker.nudge();
        assert!(waker.drain());
        assert!(!waker.drain());
        waker.nudge();
        assert!(waker.drain());
    }
}
