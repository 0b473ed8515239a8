//! Frees a worker that a front end holds fast in a notification.
//!
//! In: the call descriptors of a port's virtqueues, and marks that workers set around each write
//! to one. Out: a port that stops, under a name, when a write does not end. What must hold: no
//! worker stays in such a write for longer than two [`PERIOD`]s, whatever the front end does.
//!
//! A call descriptor is made not to block when it comes ([`super::device`]); but the front end
//! holds the same open file, and can make it block again and fill its counter, so that the next
//! write waits for a reader. The kernel has no write to an event descriptor that never waits; it
//! has such a read (`RWF_NOWAIT`), and that empties the counter.

use std::{
    io::IoSliceMut,
    os::fd::OwnedFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::io::{ReadWriteFlags, preadv2};

use super::{queue::Shared, socket::Stop, violation::Violation};

/// How often workers are looked after.
const PERIOD: Duration = Duration::from_millis(50);

/// How long a port stays away from front ends after one that held a worker fast.
pub(super) const PENALTY: Duration = Duration::from_secs(5);

/// One virtqueue's notifications.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Odd while a worker is in a write.
    count: AtomicU64,
    /// The descriptor that is written to.
    descriptor: Mutex<Option<OwnedFd>>,
}

impl Calls {
    /// What is written to from now on.
    pub(super) fn set(&self, descriptor: Option<OwnedFd>) {
        *self
            .descriptor
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = descriptor;
    }

    /// Writes to `call`. There is one writer at a time: whoever is inside the queue's lock.
    #[inline]
    pub(super) fn write(&self, call: &OwnedFd) {
        let count = self.count.load(Ordering::Relaxed);
        self.count.store(count + 1, Ordering::Relaxed);
        // A counter that is full is readable already, which is all that is wanted.
        let _ = rustix::io::write(call, &1u64.to_ne_bytes());
        self.count.store(count + 2, Ordering::Relaxed);
    }

    fn free_the_writer(&self) {
        let descriptor = self
            .descriptor
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(descriptor) = descriptor.as_ref() {
            let mut counter = [0; 8];
            let mut parts = [IoSliceMut::new(&mut counter)];
            // The offset of all ones stands for "where the file is", as streams need it.
            let _ = preadv2(descriptor, &mut parts, u64::MAX, ReadWriteFlags::NOWAIT);
        }
    }
}

/// Looks after a port's workers until `stop`.
pub(super) fn run(shared: &Shared, stop: &Stop) {
    let mut before = vec![0; shared.queues.len()];
    while !stop.pause(PERIOD) {
        for (number, (queue, before)) in shared.queues.iter().zip(&mut before).enumerate() {
            let count = queue.calls.count.load(Ordering::Relaxed);
            if count % 2 == 1 && count == *before {
                shared.break_off(number, Violation::CallBlocks);
                queue.calls.free_the_writer();
            }
            *before = count;
        }
    }
}
