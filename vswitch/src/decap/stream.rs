//! One pcapng stream into a FIFO or standard output.
//!
//! What must hold: whoever reads sees whole blocks, with a head of its own for each reader of a FIFO;
//! a reader that is slow makes the thread take no more from the sniffer's queue, and nothing else wait;
//! a frame counts as sent when the system has taken all of it, and as lost when it has not and cannot any
//! more. What a reader that goes leaves in the pipe was sent.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    slice,
    sync::Arc,
    time::Duration,
};

use arrayvec::ArrayVec;
use pmd::{BURST, pcap::Blocks};
use policy::Mac;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
};

use super::{
    attachment::State,
    counts::{Fate, Loss, SessionLosses, SnifferCounters},
    meta::Meta,
    sink::{APPLICATION, Mirrored, encode, statistics},
};

/// Standard output, opened anew: without waiting, and without changing how others see it.
const STANDARD_OUTPUT: &str = "/proc/self/fd/1";
/// Longest wait for a reader, so that control sees a living thread.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// A frame among the blocks that are written.
struct Pending {
    /// Where its block ends.
    end: usize,
    /// Its length, in bytes.
    bytes: u64,
    meta: Meta,
}

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
    /// The frames in `blocks`, none of which counts yet.
    pending: ArrayVec<Pending, BURST>,
    counters: Arc<SnifferCounters>,
    losses: Arc<SessionLosses>,
    /// Frames that were offered when statistics were written last.
    told: u64,
    pub(super) mac: Mac,
    pub(super) state: State,
}

impl StreamSink {
    pub(super) fn new(
        path: &Path,
        name: &str,
        (mac, max_frame_bytes): (Mac, usize),
        (counters, losses): (Arc<SnifferCounters>, Arc<SessionLosses>),
    ) -> Self {
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
            pending: ArrayVec::new(),
            counters,
            losses,
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
        // A burst is taken only when the one before is written, so that there is room for it.
        for mirrored in own {
            let bytes = encode(&mut self.blocks, self.mac, slice::from_ref(mirrored));
            let end = self.blocks.bytes().len();
            let meta = mirrored.meta;
            self.pending.push(Pending { end, bytes, meta });
        }
        self.flush();
    }

    /// Writes what waits; false when the reader must read first.
    pub(super) fn flush(&mut self) -> bool {
        let Some(file) = &mut self.file else {
            return true;
        };
        while self.written < self.blocks.bytes().len() {
            match file.write(&self.blocks.bytes()[self.written..]) {
                Ok(0) => break,
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let why = match error.kind() {
                        ErrorKind::BrokenPipe => "its reader has gone".to_owned(),
                        _ => error.to_string(),
                    };
                    self.end(Loss::PortDown, format!("{}: {why}", self.path.display()));
                    return true;
                }
            }
        }
        if self.written < self.blocks.bytes().len() {
            self.count_written();
            return false;
        }
        self.settle(Loss::PortDown);
        self.say(None);
        true
    }

    /// Counts the frames that were written.
    fn count_written(&mut self) {
        let mut fate = Fate::default();
        let written = self.pending.iter().take_while(|f| f.end <= self.written);
        let written = written.count();
        for frame in self.pending.drain(..written) {
            fate.sent += 1;
            fate.sent_bytes += frame.bytes;
        }
        self.counters.settle(&fate);
    }

    /// Counts the frames that were written, the others as lost, and begins anew.
    fn settle(&mut self, loss: Loss) {
        self.count_written();
        let mut fate = Fate::default();
        for frame in self.pending.drain(..) {
            self.losses.count(&frame.meta, loss);
            match loss {
                Loss::FormerOwner => fate.former_owner += 1,
                _ => fate.down += 1,
            }
        }
        self.counters.settle(&fate);
        self.blocks.clear();
        self.written = 0;
    }

    fn end(&mut self, loss: Loss, why: String) {
        self.file = None;
        self.settle(loss);
        self.ended = self.path.as_os_str() == STANDARD_OUTPUT;
        self.say(Some(why));
    }

    /// What waits is not the sniffer's any more. A block of which the reader has a part can be neither
    /// ended nor left out: the stream ends, and its next reader begins anew.
    pub(super) fn forget(&mut self) {
        if self.written < self.blocks.bytes().len() {
            let why = "ended, for a frame of a session that was taken away was being read";
            self.end(Loss::FormerOwner, why.into());
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
    pub(super) fn tend(&mut self, now_ns: u64) {
        if self.file.is_none() && !self.ended {
            self.open();
        } else if self.file.is_some() && self.flush() {
            self.tell(now_ns);
        }
    }

    fn tell(&mut self, now_ns: u64) {
        let offered = self.counters.offered.frames.get();
        if self.file.is_some() && offered != self.told {
            self.told = offered;
            self.blocks.statistics(&statistics(now_ns, &self.counters));
            self.flush();
        }
    }

    pub(super) fn close(&mut self, now_ns: u64) {
        self.told = u64::MAX;
        if self.flush() {
            self.tell(now_ns);
        }
        self.settle(Loss::PortDown);
    }
}
