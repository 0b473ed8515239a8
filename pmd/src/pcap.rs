//! `pcap`: a capture file as a port, and the codec of such files.
//!
//! ```text
//!   replay file ──► memory, once, at open ──► rx queue, paced ──► the switch
//!   write file  ◄── buffer ◄── tx queue ◄── the switch
//! ```
//!
//! In: a capture file ([`Reader`]: classic pcap or pcapng). Out: its frames as if they had just
//! arrived, and what leaves in a file of our own ([`Writer`]: classic pcap, nanoseconds; [`Blocks`]:
//! pcapng, for captures that tell more of a frame). What must hold: a file is refused whole at open or replayed whole; a file that cannot be written on
//! takes the port down and nothing else.

mod blocks;
mod ng;
mod read;
mod record;
mod replay;
mod write;

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

pub use blocks::{Blocks, Direction, Stamp, Statistics};
pub use read::{Error, LinkType, MAX_RECORD_BYTES, Reader, Record};
use record::{RecordTx, Recording};
use replay::{Capture, ReplayCounts, ReplayRx};
pub use write::Writer;

use crate::{Counts, Health, Monitor, OpenError, Port, PortInfo};

/// The longest frame a pcap port carries, in bytes.
pub const MAX_FRAME_BYTES: usize = 65_550;

/// The most memory that a replayed file may take, in bytes.
pub const MAX_REPLAY_BYTES: usize = 1 << 30;

/// When the frames of a replayed file arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Whenever the worker asks.
    AsFast,
    /// So many frames in a second, evenly; what a late worker missed follows at once.
    RatePps(u64),
    /// With the gaps of the file's stamps. A stamp that goes back counts as no gap. The next pass
    /// begins one mean gap after the last frame, so a file of one frame repeats without a pause.
    Recorded,
}

/// How often a file is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// One pass.
    Once,
    /// Pass after pass.
    Forever,
    /// So many passes, at least one.
    Times(u64),
}

/// How a pcap port is made. At least one of `replay` and `write` is given.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file whose frames arrive; the first one when the worker first looks.
    pub replay: Option<PathBuf>,
    /// When they arrive.
    pub pace: Pace,
    /// How often they do.
    pub repeat: Repeat,
    /// The file that takes what leaves, emptied at open; `None` discards and counts it.
    pub write: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            replay: None,
            pace: Pace::Recorded,
            repeat: Repeat::Once,
            write: None,
        }
    }
}

/// Opens a pcap port: reads the whole file to replay, creates the file to write.
///
/// # Errors
///
/// [`OpenError::Missing`] when the file to replay does not exist, [`OpenError::Unsupported`] when
/// it is no sound capture of Ethernet frames of at most [`MAX_FRAME_BYTES`], takes more than
/// [`MAX_REPLAY_BYTES`] or the request makes no sense, [`OpenError::System`] when a file cannot be
/// opened.
pub fn open(config: &Config) -> Result<Port, OpenError> {
    check(config)?;
    let capture = match &config.replay {
        Some(path) => Capture::load(path, MAX_REPLAY_BYTES)?,
        None => Capture::default(),
    };
    let (mode, notes) = describe(config, &capture);
    let recording = Arc::new(Recording::create(config.write.as_deref())?);
    let counts = Arc::new(ReplayCounts::default());
    Ok(Port {
        info: PortInfo {
            driver: "pcap",
            mode,
            max_frame_bytes: MAX_FRAME_BYTES,
            unmarked_partial_checksums: false,
            hidden_vlan_tags: false,
            notes,
        },
        rx: vec![Box::new(ReplayRx::new(
            capture,
            config.pace,
            config.repeat,
            Arc::clone(&counts),
            Arc::clone(&recording),
        ))],
        tx: vec![Box::new(RecordTx::new(Arc::clone(&recording)))],
        monitor: Box::new(PcapMonitor { counts, recording }),
    })
}

fn check(config: &Config) -> Result<(), OpenError> {
    let wrong = if config.replay.is_none() && config.write.is_none() {
        "give a file to replay, a file to write, or both"
    } else if same_file(config) {
        "replay and write name the same file; writing would empty it"
    } else if config.pace == Pace::RatePps(0) {
        "a rate of 0 frames per second never sends; give at least 1"
    } else if config.repeat == Repeat::Times(0) {
        "0 passes never send; give at least 1"
    } else {
        return Ok(());
    };
    Err(OpenError::Unsupported(format!("pcap port: {wrong}")))
}

/// True when both files exist and are one, however their paths are spelled.
fn same_file(config: &Config) -> bool {
    let place = |path: &Option<PathBuf>| path.as_ref().and_then(|path| path.canonicalize().ok());
    let replay = place(&config.replay);
    replay.is_some() && replay == place(&config.write)
}

fn describe(config: &Config, capture: &Capture) -> (String, Vec<String>) {
    let mut parts = Vec::new();
    let mut notes = Vec::new();
    if let Some(path) = &config.replay {
        let frames = capture.len();
        parts.push(format!("replays {frames} frames of {}", path.display()));
        if frames == 0 {
            notes.push(format!("{} holds no frames.", path.display()));
        }
        if capture.truncated > 0 {
            notes.push(format!(
                "{} frames of {} were captured only in part and are replayed so; capture with \
                 a larger snapshot length.",
                capture.truncated,
                path.display()
            ));
        }
    }
    match &config.write {
        Some(path) => parts.push(format!("writes to {}", path.display())),
        None => parts.push("discards what leaves".into()),
    }
    (parts.join(", "), notes)
}

/// Opens a regular file, or when `devices` says so a character device. Opening a FIFO would wait
/// for its other end, perhaps for ever, so it is opened without waiting, and refused.
fn open_file(options: &mut OpenOptions, path: &Path, devices: bool) -> io::Result<File> {
    let refused = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file; name a file, or a path where none is yet",
        )
    };
    let opened = options.custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        // A FIFO that nobody reads, or a socket.
        Some(libc::ENXIO) => refused(),
        _ => error,
    })?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || devices && kind.is_char_device() {
        Ok(file)
    } else {
        Err(refused())
    }
}

/// Turns a codec's error into what a port's opener hears.
fn open_error(error: Error, path: &Path) -> OpenError {
    match error {
        Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            OpenError::Missing(format!("pcap port: {}: no such file", path.display()))
        }
        Error::Io { source, .. } => {
            OpenError::system(format!("pcap port: read {}", path.display()), source)
        }
        Error::Format { .. } => OpenError::Unsupported(format!("pcap port: {error}")),
    }
}

struct PcapMonitor {
    counts: Arc<ReplayCounts>,
    recording: Arc<Recording>,
}

impl Monitor for PcapMonitor {
    fn health(&mut self) -> Health {
        self.recording.failure().map_or(Health::Up, Health::Down)
    }

    fn counts(&mut self) -> Counts {
        vec![
            (
                "frames_replayed",
                self.counts.frames.load(Ordering::Relaxed),
            ),
            ("passes", self.counts.passes.load(Ordering::Relaxed)),
            ("frames_written", self.recording.written()),
            ("frames_discarded", self.recording.discarded()),
        ]
    }
}
