//! The transmitting half of a pcap port: what leaves goes into a file.
//!
//! What must hold: a frame is counted as sent only when the file's buffer took it; after the
//! first error nothing more is written, and every frame counts as down.

use std::{
    fs::File,
    io::BufWriter,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use super::{MAX_FRAME_BYTES, write::Writer};
use crate::{OpenError, TxBurst, TxQueue, TxReport};

/// The file that is written, shared by the queue that writes, the queue that flushes when idle,
/// and the monitor.
#[derive(Debug)]
pub(super) struct Recording {
    /// Taken once per burst, and by the other two now and then.
    state: Option<Mutex<State>>,
    written: AtomicU64,
    discarded: AtomicU64,
    /// The buffer may hold something that the file does not.
    buffered: AtomicBool,
}

#[derive(Debug)]
struct State {
    writer: Writer<BufWriter<File>>,
    /// The file's name, for the reason why it failed.
    file: String,
    failure: Option<String>,
}

impl Recording {
    pub(super) fn create(path: Option<&Path>) -> Result<Self, OpenError> {
        let state = match path {
            None => None,
            Some(path) => {
                let file = path.display().to_string();
                let writer = Writer::create(path).map_err(|e| {
                    OpenError::system(format!("pcap port: create {file} to write to"), e)
                })?;
                Some(Mutex::new(State {
                    writer,
                    file,
                    failure: None,
                }))
            }
        };
        Ok(Self {
            buffered: AtomicBool::new(state.is_some()),
            state,
            written: AtomicU64::new(0),
            discarded: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.state.as_ref()?;
        Some(state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn exists(&self) -> bool {
        self.state.is_some()
    }

    /// Hands the buffer to the system, if there is anything in it.
    pub(super) fn flush(&self) {
        if !self.buffered.load(Ordering::Relaxed) {
            return;
        }
        if let Some(mut state) = self.lock() {
            self.buffered.store(false, Ordering::Relaxed);
            if state.failure.is_none() {
                let flushed = state.writer.flush();
                state.note(flushed);
            }
        }
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.lock()?.failure.clone()
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(super) fn discarded(&self) -> u64 {
        self.discarded.load(Ordering::Relaxed)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.flush();
        if let Some(why) = self.failure() {
            tracing::error!("{why}; frames that were counted as sent may be missing");
        }
    }
}

impl State {
    /// Keeps the first failure; true when there was none.
    fn note(&mut self, result: std::io::Result<()>) -> bool {
        if let Err(error) = result {
            self.failure = Some(format!("pcap port: cannot write {}: {error}", self.file));
        }
        self.failure.is_none()
    }
}

pub(super) struct RecordTx {
    recording: Arc<Recording>,
    scratch: Box<[u8]>,
}

impl RecordTx {
    pub(super) fn new(recording: Arc<Recording>) -> Self {
        Self {
            recording,
            scratch: vec![0; MAX_FRAME_BYTES].into_boxed_slice(),
        }
    }
}

impl TxQueue for RecordTx {
    fn transmit(&mut self, burst: &TxBurst<'_>) -> TxReport {
        let mut report = TxReport::default();
        let mut state = self.recording.lock();
        // One stamp for the burst: its frames leave together.
        let now_ns = wall_clock_ns();
        for plan in burst.plans {
            if plan.wire_len() > self.scratch.len() {
                report.too_big += 1;
                continue;
            }
            if let Some(state) = &mut state {
                if state.failure.is_some() {
                    report.down += 1;
                    continue;
                }
                let len = burst.write(plan, &mut self.scratch);
                let written = state.writer.write(now_ns, len as u32, &self.scratch[..len]);
                if !state.note(written) {
                    report.down += 1;
                    continue;
                }
            }
            report.sent += 1;
            report.sent_bytes += plan.wire_len() as u64;
        }
        let count = if state.is_some() {
            self.recording.buffered.store(true, Ordering::Relaxed);
            &self.recording.written
        } else {
            &self.recording.discarded
        };
        count.fetch_add(u64::from(report.sent), Ordering::Relaxed);
        report
    }
}

fn wall_clock_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}
