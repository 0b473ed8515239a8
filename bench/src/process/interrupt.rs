//! Ctrl-C and SIGTERM as errors, so that a run that is broken off still takes down what it set up.
//!
//! What must hold: whoever waits in a bench that started processes waits here.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static WATCHING: AtomicBool = AtomicBool::new(false);

/// How long an interrupt may go unnoticed.
const NOTICE: Duration = Duration::from_millis(50);

/// From here on, Ctrl-C and SIGTERM end waits instead of the process. Asking twice is asking once.
///
/// # Errors
/// When signals cannot be caught.
pub fn watch() -> anyhow::Result<()> {
    if WATCHING.swap(true, Relaxed) {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("catching signals")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                INTERRUPTED.store(true, Relaxed);
            }
        });
    });
    Ok(())
}

/// Fails once the run was interrupted.
///
/// # Errors
/// When it was.
pub fn check() -> anyhow::Result<()> {
    ensure!(!INTERRUPTED.load(Relaxed), "interrupted");
    Ok(())
}

/// Waits.
///
/// # Errors
/// When interrupted.
pub fn sleep(duration: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        check()?;
        let left = duration.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(NOTICE));
    }
}

/// Waits until `ready` has a value, asking every few milliseconds.
///
/// # Errors
/// When `ready` fails, when interrupted, or when there is no value within `limit`.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if began.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        sleep(Duration::from_millis(2))?;
    }
}
