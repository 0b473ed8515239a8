//! The receiving half of a pcap port: lends a file's frames when they are due.
//!
//! In: a capture in memory and the time. Out: its frames, in file order, none before it is due.
//! What must hold: the frames never move after open, so lending them costs nothing.

use std::{
    os::fd::BorrowedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    MAX_FRAME_BYTES, Pace, Repeat, open_error,
    read::{LinkType, Reader, Record},
    record::Recording,
};
use crate::{Burst, Frame, OpenError, RxQueue, Wait};

/// How long what leaves may stay in the buffer while nothing arrives.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// A capture file's frames in one piece of memory.
#[derive(Debug, Default)]
pub(super) struct Capture {
    bytes: Vec<u8>,
    frames: Vec<Entry>,
    /// Frames of which the file holds only a part.
    pub(super) truncated: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// From the first frame of the file, never going back.
    at_ns: u64,
    start: u32,
    len: u32,
}

impl Capture {
    pub(super) fn load(path: &Path, max_bytes: usize) -> Result<Self, OpenError> {
        let reader = Reader::open(path).map_err(|e| open_error(e, path))?;
        let mut capture = Self::default();
        let mut first_ns = None;
        for (index, record) in reader.enumerate() {
            let record = record.map_err(|e| open_error(e, path))?;
            let refuse = |why: String| {
                let number = index + 1;
                OpenError::Unsupported(format!(
                    "pcap port: {}: frame {number} {why}",
                    path.display()
                ))
            };
            check(&record).map_err(refuse)?;
            let first_ns = *first_ns.get_or_insert(record.timestamp_ns);
            capture.push(&record, first_ns);
            if capture.bytes.len() + capture.frames.len() * size_of::<Entry>() > max_bytes {
                return Err(refuse(format!(
                    "takes the file beyond {} MiB, the most that is replayed; split it",
                    max_bytes >> 20
                )));
            }
        }
        Ok(capture)
    }

    fn push(&mut self, record: &Record, first_ns: u64) {
        let earlier_ns = self.frames.last().map_or(0, |entry| entry.at_ns);
        self.truncated += u64::from(record.original_len as usize > record.bytes.len());
        self.frames.push(Entry {
            at_ns: record.timestamp_ns.saturating_sub(first_ns).max(earlier_ns),
            start: self.bytes.len() as u32,
            len: record.bytes.len() as u32,
        });
        self.bytes.extend_from_slice(&record.bytes);
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// From the first frame of one pass to the first of the next: one mean gap more than to the
    /// last frame.
    fn period_ns(&self) -> u64 {
        let span_ns = self.frames.last().map_or(0, |entry| entry.at_ns);
        let gaps = (self.len() as u64).saturating_sub(1).max(1);
        span_ns.saturating_add(span_ns / gaps)
    }

    fn get(&self, index: usize) -> &[u8] {
        let entry = &self.frames[index];
        &self.bytes[entry.start as usize..][..entry.len as usize]
    }
}

fn check(record: &Record) -> Result<(), String> {
    if record.link_type != LinkType::ETHERNET {
        return Err(format!(
            "has {}; only link type 1, Ethernet (EN10MB), can be replayed",
            record.link_type
        ));
    }
    if record.bytes.len() > MAX_FRAME_BYTES {
        return Err(format!(
            "is {} bytes long; at most {MAX_FRAME_BYTES} can be replayed",
            record.bytes.len()
        ));
    }
    Ok(())
}

#[derive(Debug, Default)]
pub(super) struct ReplayCounts {
    pub(super) frames: AtomicU64,
    pub(super) passes: AtomicU64,
}

pub(super) struct ReplayRx {
    capture: Capture,
    schedule: Schedule,
    counts: Arc<ReplayCounts>,
    /// Flushed when the worker has nothing else to do.
    recording: Arc<Recording>,
}

impl ReplayRx {
    pub(super) fn new(
        capture: Capture,
        pace: Pace,
        repeat: Repeat,
        counts: Arc<ReplayCounts>,
        recording: Arc<Recording>,
    ) -> Self {
        let passes = match repeat {
            _ if capture.len() == 0 => 0,
            Repeat::Once => 1,
            Repeat::Times(passes) => passes,
            Repeat::Forever => u64::MAX,
        };
        Self {
            schedule: Schedule {
                pace,
                passes,
                period_ns: capture.period_ns(),
                started: None,
                pass: 0,
                index: 0,
            },
            capture,
            counts,
            recording,
        }
    }
}

impl RxQueue for ReplayRx {
    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) {
        if self.schedule.finished() {
            return;
        }
        let now_ns = self.schedule.now_ns();
        let first_pass = self.schedule.pass;
        let mut lent = 0;
        while !burst.is_full()
            && self
                .schedule
                .next_due_ns(&self.capture)
                .is_some_and(|due_ns| due_ns <= now_ns)
        {
            burst.push(Frame::contiguous(self.capture.get(self.schedule.index)));
            self.schedule.advance(self.capture.len());
            lent += 1;
        }
        let passes = self.schedule.pass - first_pass;
        self.counts.frames.fetch_add(lent, Ordering::Relaxed);
        self.counts.passes.fetch_add(passes, Ordering::Relaxed);
    }

    fn release(&mut self) {}

    fn prepare_wait(&mut self) -> Wait {
        let until = match self.schedule.next_due_ns(&self.capture) {
            None => None,
            Some(due_ns) => match due_ns.saturating_sub(self.schedule.now_ns()) {
                0 => return Wait::Ready,
                rest_ns => Some(Duration::from_nanos(rest_ns)),
            },
        };
        if !self.recording.exists() {
            return Wait::Until(until);
        }
        // Another worker may write after this one fell asleep, so it looks again.
        self.recording.flush();
        Wait::Until(Some(
            until.map_or(FLUSH_INTERVAL, |rest| rest.min(FLUSH_INTERVAL)),
        ))
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Which frame is next, and when.
#[derive(Debug)]
struct Schedule {
    pace: Pace,
    /// How many there will be.
    passes: u64,
    period_ns: u64,
    /// When the worker first looked: time 0 of the replay.
    started: Option<Instant>,
    /// Passes completed.
    pass: u64,
    /// The next frame of this pass.
    index: usize,
}

impl Schedule {
    fn finished(&self) -> bool {
        self.pass >= self.passes
    }

    fn now_ns(&mut self) -> u64 {
        let elapsed = self.started.get_or_insert_with(Instant::now).elapsed();
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }

    /// When the next frame is due; `None` when all passes are done.
    fn next_due_ns(&self, capture: &Capture) -> Option<u64> {
        if self.finished() {
            return None;
        }
        Some(match self.pace {
            Pace::AsFast => 0,
            Pace::RatePps(rate_pps) => {
                let number = u128::from(self.pass) * capture.len() as u128 + self.index as u128;
                let due_ns = number * 1_000_000_000 / u128::from(rate_pps.max(1));
                u64::try_from(due_ns).unwrap_or(u64::MAX)
            }
            Pace::Recorded => self
                .pass
                .saturating_mul(self.period_ns)
                .saturating_add(capture.frames[self.index].at_ns),
        })
    }

    fn advance(&mut self, frames: usize) {
        self.index += 1;
        if self.index == frames {
            self.index = 0;
            self.pass += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(stamps_ns: &[u64]) -> Capture {
        let mut capture = Capture::default();
        for (number, timestamp_ns) in stamps_ns.iter().enumerate() {
            let record = Record {
                timestamp_ns: *timestamp_ns,
                original_len: 1,
                bytes: vec![number as u8],
                link_type: LinkType::ETHERNET,
            };
            capture.push(&record, stamps_ns[0]);
        }
        capture
    }

    fn due_ns(capture: &Capture, pace: Pace, passes: u64) -> Vec<u64> {
        let mut schedule = Schedule {
            pace,
            passes,
            period_ns: capture.period_ns(),
            started: None,
            pass: 0,
            index: 0,
        };
        let mut due = Vec::new();
        while let Some(due_ns) = schedule.next_due_ns(capture) {
            due.push(due_ns);
            schedule.advance(capture.len());
        }
        due
    }

    #[test]
    fn recorded_gaps_are_kept_and_never_go_back() {
        let capture = capture(&[1000, 1100, 1050, 1400]);
        let expected = [0, 100, 100, 400, 533, 633, 633, 933];
        assert_eq!(due_ns(&capture, Pace::Recorded, 2), expected);
    }

    #[test]
    fn a_rate_spaces_frames_evenly_over_passes() {
        let capture = capture(&[5, 5]);
        let expected = [0, 250_000_000, 500_000_000, 750_000_000];
        assert_eq!(due_ns(&capture, Pace::RatePps(4), 2), expected);
    }

    #[test]
    fn one_frame_repeats_without_a_pause() {
        assert_eq!(due_ns(&capture(&[7]), Pace::Recorded, 3), [0, 0, 0]);
    }

    #[test]
    fn a_file_beyond_the_memory_bound_is_refused() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("large.pcap");
        let mut writer = super::super::Writer::create(&path).expect("create");
        for _ in 0..10 {
            writer.write(0, 1000, &[0; 1000]).expect("write");
        }
        writer.flush().expect("flush");
        assert!(Capture::load(&path, 11_000).is_ok());
        let error = Capture::load(&path, 9000).expect_err("refused").to_string();
        assert!(error.contains("frame 9 takes the file beyond"), "{error}");
    }
}
