//! The brake: takes a core away from whoever runs there, most of the time.
//!
//! A switch that is faster than the generator idles between frames, and then frames per second say
//! nothing about it. Braked, it finds full receive rings whenever it runs, so that frames per
//! second of *its CPU time* are what it can do: the switch is the limit, whatever the generator
//! manages.
//!
//! A cgroup's CPU quota cannot do this. The kernel enforces it at its ticks, thus in slices of
//! milliseconds, and a ring of 1,024 frames is empty after a tenth of one: for the rest of the slice
//! the generator is the limit again. So the brake is a thread of real-time priority on the switch's
//! core, which spins for [`AWAY`] and sleeps for [`GIVEN`]. In between the generator fills the
//! rings; what is given is too short to empty them, and long enough that the interrupt at its end
//! is a small part of it.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::process;

/// How long the core is the switch's in each turn.
const GIVEN: Duration = Duration::from_micros(200);

/// How long it is not.
const AWAY: Duration = Duration::from_micros(400);

/// A brake on a core, released when dropped.
#[derive(Debug)]
pub(super) struct Brake {
    released: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Brake {
    /// Brakes what runs on `core`.
    ///
    /// # Errors
    /// When the thread cannot have that core, or not real-time priority.
    pub(super) fn apply(core: usize) -> anyhow::Result<Self> {
        let released = Arc::new(AtomicBool::new(false));
        let (report, outcome) = std::sync::mpsc::channel();
        let seen = Arc::clone(&released);
        let thread = thread::spawn(move || {
            let ready = process::pin(core).and_then(|()| outrank());
            let failed = ready.is_err();
            if report.send(ready).is_err() || failed {
                return;
            }
            while !seen.load(Relaxed) {
                let began = Instant::now();
                while began.elapsed() < AWAY {}
                thread::sleep(GIVEN);
            }
        });
        let brake = Self {
            released,
            thread: Some(thread),
        };
        match outcome.recv() {
            Ok(ready) => ready.map(|()| brake),
            Err(_) => bail!("the brake's thread panicked"),
        }
    }
}

/// Puts the calling thread before all threads of ordinary priority.
fn outrank() -> anyhow::Result<()> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    process::run(Command::new("chrt").args(["--fifo", "--pid", "10", &thread]))
        .map(drop)
        .context("braking the switch; are you root?")
}

impl Drop for Brake {
    fn drop(&mut self) {
        self.released.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
