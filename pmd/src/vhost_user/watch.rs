//! Frees a worker that a front end holds fast in a notification.
//!
//! In: the call descriptors of a port's virtqueues, and marks that workers set around each write
//! to one. Out: a port that stops, under a name, when a write does not end. What must hold: no
//! worker stays in such a write for longer than two [`PERIOD`]s, whatever the front end does.
//!
//! A call descriptor is made not to block when it comes ([`super::device`]); but the front end
//! holds the same open file, and can make it block again and fill its counter, so that the next
//! write waits for a reader. The kernel has no write to an event descriptor that never waits; it
//! has such a read (`RWF_NOWAIT`), and that empties the counter. A full counter tells a worker that
//! is held fast from one that merely lost its processor to somebody else in the middle of a write.

use std::{
    io::IoSliceMut,
    os::fd::OwnedFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{ReadWriteFlags, preadv2},
};

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

    /// Lets a writer go on that waits because the counter is full. False when it is not.
    fn free_the_writer(&self) -> bool {
        let descriptor = self
            .descriptor
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(descriptor) = descriptor.as_ref() else {
            return false;
        };
        let writable = &mut [PollFd::new(descriptor, PollFlags::OUT)];
        if poll(writable, Some(&Timespec::default())) != Ok(0) {
            return false;
        }
        let mut counter = [0; 8];
        let mut parts = [IoSliceMut::new(&mut counter)];
        // The offset of all ones stands for "where the file is", as streams need it.
        let _ = preadv2(descriptor, &mut parts, u64::MAX, ReadWriteFlags::NOWAIT);
        true
    }
}

/// Looks after a port's workers until `stop`.
pub(super) fn run(shared: &Shared, stop: &Stop) {
    let mut before = vec![0; shared.queues.len()];
    while !stop.pause(PERIOD) {
        look(shared, &mut before);
    }
}

/// Looks once; `before` is what was seen the last time.
fn look(shared: &Shared, before: &mut [u64]) {
    for (number, (queue, before)) in shared.queues.iter().zip(before).enumerate() {
        let count = queue.calls.count.load(Ordering::Relaxed);
        if count % 2 == 1 && count == *before && queue.calls.free_the_writer() {
            shared.break_off(number, Violation::CallBlocks);
        }
        *before = count;
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    /// A port whose worker has been in one write for long, to a counter that stands at `counter`.
    fn writing(counter: u64) -> Shared {
        let shared = Shared::new(1).expect("descriptors");
        let call = eventfd(0, EventfdFlags::NONBLOCK).expect("a descriptor");
        rustix::io::write(&call, &counter.to_ne_bytes()).expect("a counter");
        let calls = &shared.queues[0].calls;
        calls.set(Some(call));
        calls.count.store(1, Ordering::Relaxed);
        let mut before = vec![0; shared.queues.len()];
        look(&shared, &mut before);
        assert!(!shared.is_broken(), "it may have begun just now");
        look(&shared, &mut before);
        shared
    }

    #[test]
    fn a_worker_that_lost_its_processor_is_not_the_guests_fault() {
        assert!(!writing(0).is_broken());
        assert!(!writing(u64::MAX - 2).is_broken());
    }

    #[test]
    fn a_full_counter_is() {
        assert!(writing(u64::MAX - 1).is_broken());
    }
}
