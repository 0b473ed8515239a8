//! Software TCP segmentation: lets any port take super-segments.
//!
//! ```text
//!   plans ──┬─ ordinary ────────────────────────────────────────────► inner queue
//!           └─ super-segment ─► headers read, checked ─► one plan a segment: own headers as
//!                                                        prefix, a slice of the payload ─┘
//! ```
//!
//! In: the plans of a burst, some of frames that are to be cut ([`Frame::segment_bytes`]). Out:
//! the same, in the same order, with one plan for each segment instead; the copy completes the
//! checksums. What must hold:
//!
//! - a burst without super-segments passes as it is;
//! - no frame leaves that is longer than its headers and its segment's payload;
//! - of a frame that cannot be cut ([`Refusal`]) nothing leaves. Frames and metadata come from
//!   guests that may be hostile;
//! - every plan that comes in is counted once, whatever became of its segments.
//!
//! Encapsulated frames are refused: the switch's own outer header is not one that is cut behind.

mod headers;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arrayvec::ArrayVec;

use crate::{
    BURST, Counts, Details, Frame, Health, Monitor, Port, PrefixArena, TxBurst, TxPlan, TxQueue,
    TxReport,
};
use headers::Headers;

/// The least [`Frame::segment_bytes`] that a frame is cut by, in bytes.
///
/// The number that Linux calls the minimal accepted MSS (`TCP_MIN_MSS`); the paths of today carry
/// 536 and more. A smaller one would serve to make much work of little: 64 KiB by single bytes
/// are 65,000 frames, by this size they are 745.
pub const MIN_SEGMENT_BYTES: u16 = 88;

/// Why a super-segment was not cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// What leaves is not TCP in IPv4 or IPv6 behind at most two tags, or is a fragment of it, or
    /// has an IPv6 extension header that cannot be repeated.
    NotTcp,
    /// A header is cut off, contradicts itself or claims more than leaves, as in a truncated
    /// copy; or all of them are longer than a prefix may be; or there is no payload; or the last
    /// segment begins beyond what a plan can skip.
    Lengths,
    /// SYN, RST or URG is set: none of these can be repeated.
    Flags,
    /// There is no partial checksum, or it is not TCP's.
    Checksum,
    /// The segments would be smaller than [`MIN_SEGMENT_BYTES`].
    SegmentBytes,
}

impl Refusal {
    /// Names of the counts, by reason.
    const COUNTS: [&str; 5] = [
        "tso_refused_not_tcp",
        "tso_refused_lengths",
        "tso_refused_flags",
        "tso_refused_checksum",
        "tso_refused_segment_bytes",
    ];
}

/// What was done to super-segments, over all queues of a port.
#[derive(Debug, Default)]
pub struct Tally {
    cut: AtomicU64,
    segments: AtomicU64,
    refused: [AtomicU64; Refusal::COUNTS.len()],
}

impl Tally {
    /// The counts by name, for a port's [`Monitor::counts`]: frames that were cut, the segments
    /// made of them, and frames that could not be cut, by [`Refusal`].
    pub fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let refused = self.refused.iter().map(read);
        let mut counts = vec![
            ("tso_cut", read(&self.cut)),
            ("tso_segments", read(&self.segments)),
        ];
        counts.extend(Refusal::COUNTS.into_iter().zip(refused));
        counts
    }
}

/// Wraps `port` so that its transmit queues take super-segments.
pub fn wrap(mut port: Port) -> Port {
    let tally = Arc::new(Tally::default());
    port.tx = port
        .tx
        .into_iter()
        .map(|inner| {
            Box::new(SegmentingTx {
                inner,
                segmenter: Segmenter::new(Arc::clone(&tally)),
            }) as Box<dyn TxQueue>
        })
        .collect();
    port.monitor = Box::new(SegmentingMonitor {
        inner: port.monitor,
        tally,
    });
    port
}

struct SegmentingTx {
    inner: Box<dyn TxQueue>,
    segmenter: Segmenter,
}

impl TxQueue for SegmentingTx {
    fn transmit(&mut self, burst: &TxBurst<'_>) -> TxReport {
        self.segmenter.transmit(burst, &mut *self.inner)
    }
}

struct SegmentingMonitor {
    inner: Box<dyn Monitor>,
    tally: Arc<Tally>,
}

impl Monitor for SegmentingMonitor {
    fn health(&mut self) -> Health {
        self.inner.health()
    }

    fn counts(&mut self) -> Counts {
        let mut counts = self.inner.counts();
        counts.extend(self.tally.counts());
        counts
    }

    fn details(&mut self) -> Details {
        self.inner.details()
    }
}

/// Cuts what one transmit queue is given. [`wrap`] puts one before each queue of a port; a driver
/// whose peer may or may not take super-segments holds its own.
#[derive(Debug, Default)]
pub struct Segmenter {
    prefixes: PrefixArena,
    plans: Box<ArrayVec<TxPlan, BURST>>,
    tally: Arc<Tally>,
}

impl Segmenter {
    /// A segmenter that counts in `tally`. It allocates here, and nothing later.
    pub fn new(tally: Arc<Tally>) -> Self {
        Self {
            prefixes: PrefixArena::default(),
            plans: Box::default(),
            tally,
        }
    }

    /// Transmits `burst` through `inner`, with segments in the place of super-segments.
    ///
    /// The report counts the frames that came in. One that was cut is `sent` when the queue took
    /// all its segments, and `sent_bytes` are then those of all of them; it is `full` when any
    /// found the queue full. Its further segments are then not tried; those that were taken have
    /// left. One that cannot be cut is `too_big`.
    #[inline]
    pub fn transmit(&mut self, burst: &TxBurst<'_>, inner: &mut dyn TxQueue) -> TxReport {
        // Nearly every burst ends here. Frames lie in a row: one look at all of them costs a third
        // of following every plan to its own, which pays while there are few plans.
        let few = burst.plans.len() < burst.frames.len() / 3;
        let any = |any, frame: &Frame<'_>| any | frame.segment_bytes;
        if !few && burst.frames.iter().fold(0, any) == 0 {
            return inner.transmit(burst);
        }
        self.transmit_mixed(burst, inner)
    }

    /// Each super-segment has a `transmit` of its own: the queue's report is a sum, and only so
    /// tells whose segments it took.
    #[inline(never)]
    fn transmit_mixed(&mut self, burst: &TxBurst<'_>, inner: &mut dyn TxQueue) -> TxReport {
        let mut report = TxReport::default();
        let mut ordinary_from = 0;
        for (index, plan) in burst.plans.iter().enumerate() {
            let segment_bytes = burst.frames[plan.frame as usize].segment_bytes;
            // The second is a copy that was truncated for a sniffer, as a rule.
            if segment_bytes == 0 || plan.len_bytes <= u32::from(segment_bytes) {
                continue;
            }
            let cut = match Cut::new(burst, plan, segment_bytes) {
                Ok(None) => continue,
                cut => cut,
            };
            transmit_ordinary(burst, ordinary_from..index, inner, &mut report);
            ordinary_from = index + 1;
            match cut {
                Ok(Some(cut)) => self.transmit_cut(burst, &cut, inner, &mut report),
                Ok(None) => {}
                Err(refusal) => {
                    self.tally.refused[refusal as usize].fetch_add(1, Ordering::Relaxed);
                    report.too_big += 1;
                }
            }
        }
        transmit_ordinary(burst, ordinary_from..burst.plans.len(), inner, &mut report);
        report
    }

    fn transmit_cut(
        &mut self,
        burst: &TxBurst<'_>,
        cut: &Cut<'_>,
        inner: &mut dyn TxQueue,
        report: &mut TxReport,
    ) {
        let mut sent_bytes = 0;
        let mut segments = 0;
        while segments < cut.segments() {
            self.prefixes.clear();
            self.plans.clear();
            while segments < cut.segments() && !self.plans.is_full() {
                let Some((prefix, out)) = self.prefixes.allocate() else {
                    break;
                };
                self.plans.push(cut.plan(segments, prefix, out));
                segments += 1;
            }
            let part = inner.transmit(&TxBurst {
                frames: burst.frames,
                prefixes: &self.prefixes,
                plans: &self.plans,
            });
            if part.sent as usize != self.plans.len() {
                *refused(&part, report) += 1;
                return;
            }
            sent_bytes += part.sent_bytes;
        }
        report.sent += 1;
        report.sent_bytes += sent_bytes;
        self.tally.cut.fetch_add(1, Ordering::Relaxed);
        self.tally
            .segments
            .fetch_add(segments as u64, Ordering::Relaxed);
    }
}

/// Which count a frame goes to of whose segments not all were taken.
fn refused<'a>(part: &TxReport, report: &'a mut TxReport) -> &'a mut u32 {
    if part.full > 0 {
        &mut report.full
    } else if part.too_big > 0 {
        &mut report.too_big
    } else {
        &mut report.down
    }
}

fn transmit_ordinary(
    burst: &TxBurst<'_>,
    range: std::ops::Range<usize>,
    inner: &mut dyn TxQueue,
    report: &mut TxReport,
) {
    if range.is_empty() {
        return;
    }
    let part = inner.transmit(&TxBurst {
        plans: &burst.plans[range],
        ..*burst
    });
    report.sent += part.sent;
    report.sent_bytes += part.sent_bytes;
    report.full += part.full;
    report.too_big += part.too_big;
    report.down += part.down;
}

/// A super-segment that can be cut.
struct Cut<'a> {
    plan: &'a TxPlan,
    headers: Headers,
    segment_bytes: usize,
    /// Where the frame's payload begins in the frame.
    payload_start: usize,
}

impl<'a> Cut<'a> {
    /// `None` for a frame that is no longer than a segment.
    fn new(
        burst: &TxBurst<'_>,
        plan: &'a TxPlan,
        segment_bytes: u16,
    ) -> Result<Option<Self>, Refusal> {
        let headers = Headers::read(burst, plan)?;
        if plan.wire_len() <= headers.len() + segment_bytes as usize {
            return Ok(None);
        }
        if segment_bytes < MIN_SEGMENT_BYTES {
            return Err(Refusal::SegmentBytes);
        }
        let own_headers = headers.len() - plan.prefix_len_bytes as usize;
        let cut = Self {
            plan,
            headers,
            segment_bytes: segment_bytes.into(),
            payload_start: plan.skip_bytes as usize + own_headers,
        };
        let Some(last) = cut.segments().checked_sub(1) else {
            return Err(Refusal::Lengths);
        };
        if cut.payload_start + last * cut.segment_bytes > u16::MAX.into() {
            return Err(Refusal::Lengths);
        }
        Ok(Some(cut))
    }

    fn segments(&self) -> usize {
        self.headers.payload_bytes().div_ceil(self.segment_bytes)
    }

    /// Segment number `number`, with its headers written to `out`, which is prefix number `prefix`.
    fn plan(
        &self,
        number: usize,
        prefix: u16,
        out: &mut [u8; crate::transmit::MAX_PREFIX_BYTES],
    ) -> TxPlan {
        let from = number * self.segment_bytes;
        let to = (from + self.segment_bytes).min(self.headers.payload_bytes());
        self.headers.write(number, from, to, out);
        TxPlan {
            len_bytes: (to - from) as u32,
            skip_bytes: (self.payload_start + from) as u16,
            prefix,
            prefix_len_bytes: self.headers.len() as u8,
            frame: self.plan.frame,
            checksum_start: self.headers.tcp_start() as u8,
        }
    }
}
