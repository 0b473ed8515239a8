//! Where a worker's frames come from: its receive queues, polled in turn.
//!
//! In: queues that the worker owns. Out: one burst of borrowed frames, and which of them came
//! from where. What must hold: a busy queue never keeps another from its turn, since each burst
//! begins at the queue behind the one that the last burst ended with; and of a port that opens more
//! flows than others can wait for, a burst takes few frames ([`Intake::shorten`]).

use arrayvec::ArrayVec;
use pmd::{BURST, Burst, RxQueue};
use policy::PortId;

/// A receive queue that the worker owns.
pub struct OwnedQueue {
    /// The queue.
    pub queue: Box<dyn RxQueue>,
    /// Its port.
    pub port: PortId,
    /// Its number within the port.
    pub number: usize,
    /// The walk looks for partial checksums that nothing marks.
    pub unmarked_partial_checksums: bool,
    /// Most frames of it in a burst.
    pub most_frames: usize,
}

impl std::fmt::Debug for OwnedQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnedQueue({:?}, {})", self.port, self.number)
    }
}

/// A run of frames of a burst that came from one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Where they came from.
    pub port: PortId,
    /// The first frame.
    pub start: u8,
    /// Behind the last frame.
    pub end: u8,
    /// See [`OwnedQueue::unmarked_partial_checksums`].
    pub unmarked_partial_checksums: bool,
    /// They were received, and counted, before, and had to wait.
    pub returned: bool,
}

impl Group {
    /// The frames' numbers.
    #[inline]
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The groups of a burst; each has at least one frame.
pub type Groups = ArrayVec<Group, BURST>;

/// A worker's receive queues.
#[derive(Debug, Default)]
pub struct Intake {
    queues: Vec<OwnedQueue>,
    /// Where the next burst begins.
    next: usize,
    /// Which queues lent frames to this burst: from here, so many.
    lent_from: usize,
    lent_count: usize,
}

impl Intake {
    /// The queues.
    pub fn queues(&mut self) -> &mut [OwnedQueue] {
        &mut self.queues
    }

    /// Takes a queue over.
    pub fn add(&mut self, queue: OwnedQueue) {
        // Where it comes from its bursts may have been short.
        let most_frames = BURST;
        self.queues.push(OwnedQueue {
            most_frames,
            ..queue
        });
    }

    /// Gives up the queues that `wanted` names.
    pub fn remove(&mut self, wanted: impl Fn(&OwnedQueue) -> bool) -> Vec<OwnedQueue> {
        let (removed, kept) = self.queues.drain(..).partition(|queue| wanted(queue));
        self.queues = kept;
        self.next = 0;
        removed
    }

    /// From now on a burst takes at most so many frames from each queue of `port`.
    pub fn shorten(&mut self, port: PortId, most_frames: usize) {
        let queues = self.queues.iter_mut().filter(|queue| queue.port == port);
        queues.for_each(|queue| queue.most_frames = most_frames);
    }

    /// Borrows frames from one queue after another until the burst is full or every queue was
    /// asked once.
    #[inline]
    pub fn receive<'a>(&'a mut self, burst: &mut Burst<'a>, groups: &mut Groups) {
        groups.clear();
        let total = self.queues.len();
        self.lent_from = self.next;
        self.lent_count = 0;
        let (before, from_next) = self.queues.split_at_mut(self.next);
        for queue in from_next.iter_mut().chain(before) {
            let start = burst.len() as u8;
            burst.allow(queue.most_frames);
            queue.queue.receive(burst);
            self.lent_count += 1;
            let end = burst.len() as u8;
            if end > start {
                groups.push(Group {
                    port: queue.port,
                    start,
                    end,
                    unmarked_partial_checksums: queue.unmarked_partial_checksums,
                    returned: false,
                });
            }
            if burst.len() == BURST {
                break;
            }
        }
        if total > 0 {
            self.next = (self.next + self.lent_count) % total;
        }
    }

    /// Gives every frame of the burst back.
    #[inline]
    pub fn release(&mut self) {
        let total = self.queues.len();
        for step in 0..self.lent_count {
            self.queues[(self.lent_from + step) % total].queue.release();
        }
        self.lent_count = 0;
    }
}
