//! The transmitting half of a queue: transmit ring, completion ring, and the free frames.
//!
//! In: plans. Out: copies in UMEM frames on the transmit ring, and a kick. What must hold: each
//! of this half's UMEM frames is free, in the batch, or with the kernel (transmit ring, driver,
//! completion ring), and nowhere twice; no frame waits on the ring for a kick that nobody owes.

use std::{
    os::fd::AsRawFd,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use arrayvec::ArrayVec;
use xsk_rs::FrameDesc;

use super::{
    frames::{FrameMemory, OwnedFrame},
    queue::{Kicked, QueueState},
};
use crate::{TxBurst, TxPlan, TxQueue, TxReport};

/// Descriptors that go to the ring, or come from it, in one go.
const BATCH: usize = 256;

const ETHERNET_HEADER_BYTES: usize = 14;
pub(super) const VLAN_TAG_BYTES: usize = 4;

/// How long a frame may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A whole frame without a tag.
    pub(super) max_frame_bytes: usize,
    /// What one UMEM frame holds.
    pub(super) piece_bytes: usize,
}

pub(super) struct AfXdpTx {
    ring: xsk_rs::TxQueue,
    completions: xsk_rs::CompQueue,
    memory: FrameMemory,
    state: Arc<QueueState>,
    limits: Limits,
    free: Vec<OwnedFrame>,
    batch: ArrayVec<FrameDesc, BATCH>,
    /// Where descriptors from the completion ring land first.
    completed: Box<[FrameDesc; BATCH]>,
    /// Where a frame of several pieces is put together before it is cut.
    whole: Box<[u8]>,
    /// The last kick found the interface down.
    down: bool,
    /// Frames with the kernel, and all frames of this half.
    in_kernel: usize,
    total: usize,
}

/// What became of one plan.
enum Placed {
    Yes,
    Full,
    TooBig,
}

impl AfXdpTx {
    pub(super) fn new(
        ring: xsk_rs::TxQueue,
        completions: xsk_rs::CompQueue,
        memory: FrameMemory,
        state: Arc<QueueState>,
        limits: Limits,
        free: Vec<OwnedFrame>,
    ) -> Self {
        Self {
            ring,
            completions,
            memory,
            state,
            limits,
            total: free.len(),
            free,
            batch: ArrayVec::new(),
            completed: Box::new([FrameDesc::default(); BATCH]),
            whole: vec![0; limits.max_frame_bytes + VLAN_TAG_BYTES].into_boxed_slice(),
            down: false,
            in_kernel: 0,
        }
    }

    /// Takes back the frames that the kernel is done with.
    fn reap(&mut self) {
        loop {
            // SAFETY: the ring belongs to the UMEM of this half.
            let count = unsafe { self.completions.consume(&mut *self.completed) };
            for desc in &self.completed[..count] {
                // SAFETY: the kernel gave this frame up by putting it on the completion ring.
                self.free.push(unsafe { OwnedFrame::claim(*desc) });
            }
            self.in_kernel -= count;
            if count < BATCH {
                break;
            }
        }
        self.check_law();
    }

    fn place(&mut self, burst: &TxBurst<'_>, plan: &TxPlan) -> Placed {
        let len = plan.wire_len();
        if len < ETHERNET_HEADER_BYTES {
            self.state.tx_runts.fetch_add(1, Relaxed);
            return Placed::TooBig;
        }
        if len > self.limits.max_frame_bytes + VLAN_TAG_BYTES {
            return Placed::TooBig;
        }
        let pieces = len.div_ceil(self.limits.piece_bytes);
        if pieces > self.free.len() {
            return Placed::Full;
        }
        if self.batch.remaining_capacity() < pieces {
            self.submit();
        }
        if pieces > 1 {
            return self.place_pieces(burst, plan);
        }
        let Some(mut frame) = self.free.pop() else {
            return Placed::Full;
        };
        let mut fits = true;
        self.memory.fill(&mut frame, len, |bytes| {
            burst.write(plan, bytes);
            fits = self.limits.fits(bytes);
        });
        if !fits {
            self.free.push(frame);
            return Placed::TooBig;
        }
        frame.set_continued(false);
        self.batch.push(frame.into_desc());
        Placed::Yes
    }

    /// Cuts a frame that one UMEM frame cannot hold. It is copied twice: completing a checksum
    /// needs it in one piece.
    fn place_pieces(&mut self, burst: &TxBurst<'_>, plan: &TxPlan) -> Placed {
        let len = burst.write(plan, &mut self.whole);
        if !self.limits.fits(&self.whole[..len]) {
            return Placed::TooBig;
        }
        let mut pieces = self.whole[..len].chunks(self.limits.piece_bytes).peekable();
        while let Some(piece) = pieces.next() {
            // The caller saw that there are enough free frames.
            let Some(mut frame) = self.free.pop() else {
                break;
            };
            self.memory.fill(&mut frame, piece.len(), |bytes| {
                bytes.copy_from_slice(piece);
            });
            frame.set_continued(pieces.peek().is_some());
            self.batch.push(frame.into_desc());
        }
        Placed::Yes
    }

    /// Puts the batch on the transmit ring.
    fn submit(&mut self) {
        // SAFETY: the frames are of the UMEM that the ring belongs to, and were given up when
        // they went into the batch.
        let count = unsafe { self.ring.produce(&self.batch) };
        debug_assert_eq!(count, self.batch.len(), "the ring has room for every frame");
        self.in_kernel += self.batch.len();
        self.batch.clear();
        self.check_law();
    }

    fn kick(&mut self) -> Kicked {
        let kicked = self.state.kick(self.ring.fd().as_raw_fd(), self.in_kernel);
        self.down = kicked == Kicked::Down;
        kicked
    }

    fn check_law(&self) {
        debug_assert_eq!(
            self.free.len() + self.batch.len() + self.in_kernel,
            self.total,
            "free + batch + tx + completion = total"
        );
    }
}

impl Drop for AfXdpTx {
    /// Frames that wait for a kick get a last one. What the kernel has no room for even then is
    /// lost with the ring.
    fn drop(&mut self) {
        if self.state.tx_pending.load(Relaxed) {
            self.kick();
        }
    }
}

impl Limits {
    /// True when these bytes are not too long: a frame of the greatest length may carry a tag
    /// on top.
    fn fits(&self, bytes: &[u8]) -> bool {
        let tagged = matches!(bytes.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]));
        bytes.len() <= self.max_frame_bytes || tagged
    }
}

impl TxQueue for AfXdpTx {
    fn transmit(&mut self, burst: &TxBurst<'_>) -> TxReport {
        let mut report = TxReport::default();
        let owed = self.down || self.state.tx_pending.load(Relaxed);
        if owed && self.kick() == Kicked::Down {
            report.down = burst.plans.len() as u32;
            return report;
        }
        self.reap();
        for plan in burst.plans {
            match self.place(burst, plan) {
                Placed::Yes => {
                    report.sent += 1;
                    report.sent_bytes += plan.wire_len() as u64;
                }
                Placed::Full => report.full += 1,
                Placed::TooBig => report.too_big += 1,
            }
        }
        self.submit();
        if report.sent > 0 && self.ring.needs_wakeup() && self.kick() == Kicked::Down {
            report.down += report.sent;
            report.sent = 0;
            report.sent_bytes = 0;
        }
        report
    }
}
