//! How an idle worker rests: a little longer each empty turn, then blocked until something comes.
//!
//! No wake-up is lost. Before it blocks, the worker asks every queue to arm
//! ([`pmd::RxQueue::prepare_wait`]); a queue that got a frame in between says so, and one that
//! gets a frame later makes its descriptor readable. Commands come with a write to the worker's
//! own event descriptor, which stays readable until it is read here. Both are level-triggered,
//! so whatever happens between arming and polling ends the poll.

use std::{
    num::NonZeroU64,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use pmd::Wait;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{counters::WorkerCounters, intake::Intake};

/// Longest time blocked, so that control sees a living worker.
const MAX_BLOCK: Duration = Duration::from_millis(500);

/// A worker's rest.
#[derive(Debug)]
pub struct Sleeper {
    /// `None` never sleeps.
    max_sleep_us: Option<u32>,
    empty_turns: u32,
}

impl Sleeper {
    /// Sleeps grow to `max_sleep_us` microseconds; `None` never sleeps.
    pub fn new(max_sleep_us: Option<u32>) -> Self {
        // Without it the kernel adds 50 µs to each sleep. Where it is refused, sleeps are longer.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        Self {
            max_sleep_us,
            empty_turns: 0,
        }
    }

    /// A turn had frames: the next rest is short again.
    #[inline]
    pub fn reset(&mut self) {
        self.empty_turns = 0;
    }

    /// Rests after an empty turn.
    pub fn rest(&mut self, intake: &mut Intake, wake: &OwnedFd, counters: &WorkerCounters) {
        let Some(max_sleep_us) = self.max_sleep_us else {
            std::hint::spin_loop();
            return;
        };
        self.empty_turns = self.empty_turns.saturating_add(1);
        let began = Instant::now();
        if self.empty_turns <= max_sleep_us {
            std::thread::sleep(Duration::from_micros(u64::from(self.empty_turns)));
        } else if block(intake, wake) {
            counters.blocks.add(1);
            self.empty_turns = 0;
        } else {
            self.empty_turns = 0;
            return;
        }
        counters.sleep_ns.add(began.elapsed().as_nanos() as u64);
    }
}

/// Blocks until a queue or a command comes, a queue's own time is due, or [`MAX_BLOCK`] has
/// passed. False when frames are there already.
fn block(intake: &mut Intake, wake: &OwnedFd) -> bool {
    let mut longest = MAX_BLOCK;
    for owned in intake.queues() {
        match owned.queue.prepare_wait() {
            Wait::Ready => return false,
            Wait::Until(Some(time)) => longest = longest.min(time),
            Wait::Until(None) => {}
        }
    }
    let mut fds: Vec<PollFd<'_>> = intake
        .queues()
        .iter()
        .filter_map(|owned| owned.queue.wake_fd())
        .chain([wake.as_fd()])
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    let timeout = Timespec::try_from(longest).ok();
    // An interrupted poll is an early end of the rest.
    let _ = poll(&mut fds, timeout.as_ref());
    // Empty is as good as read.
    let _ = rustix::io::read(wake, &mut [0; 8]);
    true
}
