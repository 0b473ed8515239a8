//! One pcapng stream into a FIFO or standard output.
//!
//! What must hold: whoever reads sees whole blocks, with a head of its own for each reader of a FIFO;
//! a reader that is slow makes the thread take no more from the sniffer's queue, and nothing else wait.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use pmd::pcap::Blocks;
use policy::Mac;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
};

use super::{
    attachment::State,
    counts::SnifferCounters,
    sink::{APPLICATION, Fate, Mirrored, encode, statistics},
};

/// Standard output, opened anew: without waiting, and without changing how others see it.
const STANDARD_OUTPUT: &str = "/proc/self/fd/1";
/// Longest wait for a reader, so that control sees a living thread.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// A stream that is open or waits for a reader.
pub(super) struct StreamSink {
    path: PathBuf,
    name: String,
    file: Option<File>,
    /// Standard output has one reader, and when it goes none comes.
    ended: bool,
    blocks: Blocks,
    /// Bytes of `blocks` that were written.
    written: usize,
    /// Frames that were offered when statistics were written last.
    told: u64,
    pub(super) mac: Mac,
    pub(super) state: State,
}

impl StreamSink {
    pub(super) fn new(path: &Path, name: &str, mac: Mac, max_frame_bytes: usize) -> Self {
        let is_output = path.as_os_str() == "-";
        let path = if is_output {
            STANDARD_OUTPUT.as_ref()
        } else {
            path
        };
        let mut sink = Self {
            path: path.to_owned(),
            name: name.to_owned(),
            file: None,
            ended: false,
            blocks: Blocks::new(max_frame_bytes),
            written: 0,
            told: 0,
            mac,
            state: State::default(),
        };
        sink.open();
        sink
    }

    fn open(&mut self) {
        let opened = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(&self.path);
        let opened = opened.and_then(|file| {
            let kind = file.metadata()?.file_type();
            if kind.is_fifo() || self.path.as_os_str() == STANDARD_OUTPUT {
                Ok(file)
            } else {
                Err(io::Error::other("it is no FIFO; make one with mkfifo"))
            }
        });
        let why = match opened {
            Ok(file) => {
                self.file = Some(file);
                self.blocks.clear();
                self.written = 0;
                self.blocks.begin(APPLICATION, &self.name);
                self.flush();
                return;
            }
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                "nobody reads it yet".to_owned()
            }
            Err(error) => error.to_string(),
        };
        self.say(Some(format!("{}: {why}", self.path.display())));
    }

    fn say(&self, state: Option<String>) {
        *self.state.lock() = state;
    }

    pub(super) fn send(&mut self, own: &[Mirrored<'_>], fate: &mut Fate) {
        if self.file.is_none() {
            fate.down += own.len() as u64;
            return;
        }
        fate.sent_bytes += encode(&mut self.blocks, self.mac, own);
        fate.sent += own.len() as u64;
        self.flush();
    }

    /// Writes what waits; false when the reader must read first.
    pub(super) fn flush(&mut self) -> bool {
        let Some(file) = &mut self.file else {
            return true;
        };
        while self.written < self.blocks.bytes().len() {
            match file.write(&self.blocks.bytes()[self.written..]) {
                Ok(0) => return false,
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let why = match error.kind() {
                        ErrorKind::BrokenPipe => "its reader has gone".to_owned(),
                        _ => error.to_string(),
                    };
                    self.end(format!("{}: {why}", self.path.display()));
                    return true;
                }
            }
        }
        self.blocks.clear();
        self.written = 0;
        self.say(None);
        true
    }

    fn end(&mut self, why: String) {
        self.file = None;
        self.blocks.clear();
        self.written = 0;
        self.ended = self.path.as_os_str() == STANDARD_OUTPUT;
        self.say(Some(why));
    }

    /// What waits is not the sniffer's any more. A block of which the reader has a part can be neither
    /// ended nor left out: the stream ends, and its next reader begins anew.
    pub(super) fn forget(&mut self) {
        if self.written < self.blocks.bytes().len() {
            self.end("ended, for a frame of a session that was taken away was being read".into());
        }
    }

    pub(super) fn wait(&self, wake: &OwnedFd) {
        let Some(file) = &self.file else { return };
        let mut fds = [
            PollFd::from_borrowed_fd(file.as_fd(), PollFlags::OUT),
            PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN),
        ];
        // An interrupted poll is an early end of the wait.
        let _ = poll(&mut fds, Timespec::try_from(MAX_WAIT).ok().as_ref());
        let _ = rustix::io::read(wake, &mut [0; 8]);
    }

    /// Looks for a reader, or tells it what was lost.
    pub(super) fn tend(&mut self, now_ns: u64, counters: &SnifferCounters) {
        if self.file.is_none() && !self.ended {
            self.open();
        } else if self.file.is_some() && self.flush() {
            self.tell(now_ns, counters);
        }
    }

    fn tell(&mut self, now_ns: u64, counters: &SnifferCounters) {
        let offered = counters.offered.frames.get();
        if self.file.is_some() && offered != self.told {
            self.told = offered;
            self.blocks.statistics(&statistics(now_ns, counters));
            self.flush();
        }
    }

    pub(super) fn close(&mut self, now_ns: u64, counters: &SnifferCounters) {
        self.told = u64::MAX;
        if self.flush() {
            self.tell(now_ns, counters);
        }
    }
}
