//! Transmitting: the frames that a guest receives.
//!
//! In: plans. Out: header and frame in the guest's buffers, used entries, one index store and
//! one notification at most for a burst. What must hold: a plan takes all the buffers it needs
//! or none; nothing is written outside a buffer that the guest made available for writing; with
//! the frame's source still in the lock of its own queue, the copy is the only one there is.

use std::{mem::MaybeUninit, sync::Arc};

use super::{
    PortHandle,
    cursor::Position,
    features::MRG_RXBUF,
    header::{self, Encoded, MAX_HEADER_BYTES},
    pieces::{MAX_PIECES, Pieces, Writer},
    queue::Tally,
    ring::Ring,
    rx::MAX_FRAME_BYTES,
    sum::complete_checksum,
    violation::Violation,
};
use crate::{
    BURST, Frame, PartialChecksum, TxBurst, TxPlan, TxQueue, TxReport, guest, segment::Segmenter,
};

/// A transmit queue: what its guest cannot take whole is cut.
pub(super) struct VhostTx {
    queue: GuestTx,
    segmenter: Segmenter,
}

/// The guest's queue itself.
struct GuestTx {
    handle: Arc<PortHandle>,
    number: usize,
    pieces: Pieces,
    /// Head and bytes of each buffer that a frame fills.
    buffers: Vec<(u16, u32)>,
    max_wire_bytes: usize,
}

/// A VLAN tag may come on top of the longest frame.
const TAG_BYTES: usize = 4;

impl VhostTx {
    pub(super) fn new(handle: Arc<PortHandle>, number: usize, max_frame_bytes: usize) -> Self {
        Self {
            segmenter: Segmenter::new(Arc::clone(&handle.shared.segments)),
            queue: GuestTx {
                handle,
                number,
                pieces: Pieces::default(),
                buffers: Vec::with_capacity(MAX_PIECES),
                max_wire_bytes: max_frame_bytes + TAG_BYTES,
            },
        }
    }
}

impl TxQueue for VhostTx {
    #[inline]
    fn transmit(&mut self, burst: &TxBurst<'_>) -> TxReport {
        let takes_all = self.queue.max_wire_bytes >= MAX_FRAME_BYTES as usize
            && self.queue.handle.shared.takes_super_segments();
        if takes_all {
            self.queue.transmit(burst)
        } else {
            self.segmenter.transmit(burst, &mut self.queue)
        }
    }
}

/// What becomes of one plan.
enum Outcome {
    Sent,
    Full,
    TooBig,
}

impl TxQueue for GuestTx {
    #[inline]
    fn transmit(&mut self, burst: &TxBurst<'_>) -> TxReport {
        let mut report = TxReport::default();
        let all = burst.plans.len() as u32;
        let shared = &self.handle.shared;
        let target = shared.transmit_target(self.number);
        let Some(number) = target.filter(|_| !shared.is_broken()) else {
            report.down = all;
            return report;
        };
        let queue = &shared.queues[number];
        let Some(mut entered) = queue.ring.enter_behind_worker() else {
            report.full = all;
            return report;
        };
        let Some(ring) = entered.as_mut() else {
            report.down = all;
            return report;
        };
        let mut walk = Walk {
            ring,
            used: 0,
            pieces: &mut self.pieces,
            buffers: &mut self.buffers,
            max_wire_bytes: self.max_wire_bytes,
            least_full: u32::MAX,
            too_big: None,
        };
        let sent = walk.send_all(burst, &mut report);
        let used = walk.used;
        if used > 0 {
            ring.publish(used);
            let told = ring.notify(&queue.calls);
            let tally = &queue.tally;
            Tally::add(
                if told {
                    &tally.notified
                } else {
                    &tally.suppressed
                },
                1,
            );
        }
        if let Err(violation) = sent {
            shared.break_off(number, violation);
            report.down = all - report.sent - report.full - report.too_big;
        } else if ring.is_memory_lost() {
            shared.break_off(number, Violation::MemoryLost);
        }
        report
    }
}

/// A chain of one buffer, found good in stage 1; anything else has no length.
#[derive(Clone, Copy)]
struct Single {
    place: *mut u8,
    len: u32,
    head: u16,
}

/// One burst's way into the ring.
struct Walk<'a> {
    ring: &'a mut Ring,
    /// Used entries written and not yet published.
    used: u16,
    pieces: &'a mut Pieces,
    buffers: &'a mut Vec<(u16, u32)>,
    max_wire_bytes: usize,
    /// The least number of bytes that found too few buffers in this burst: a guest with
    /// thousands of tiny ones has them looked at once a burst, not once a frame.
    least_full: u32,
    /// Likewise for one buffer that is too small, and where in the ring it stands.
    too_big: Option<(Position, u32)>,
}

impl Walk<'_> {
    #[inline(always)]
    fn send_all(&mut self, burst: &TxBurst<'_>, report: &mut TxReport) -> Result<(), Violation> {
        self.ring.stop_kicks();
        let mut singles = [const { MaybeUninit::uninit() }; BURST];
        let singles = self.find(&mut singles, burst.plans.len())?;
        let header_bytes = self.ring.negotiated.header_bytes();
        let with_care = self.ring.is_logged();
        // In locals, which stay in registers.
        let mut cursor = self.ring.cursor;
        let (mut sent, mut sent_bytes, mut used) = (0, 0, 0);
        for plan in burst.plans {
            let wire_len = plan.wire_len();
            if wire_len > self.max_wire_bytes {
                report.too_big += 1;
                continue;
            }
            let frame = &burst.frames[plan.frame as usize];
            let needed = header_bytes + wire_len as u32;
            // Every chain before this one is used: stage 1 counted from the same place.
            if let Some(single) = singles.get(used as usize)
                && single.len >= needed
                && frame.partial_checksum.is_none()
                && !with_care
            {
                // SAFETY: stage 1 found `len` bytes at `place`, which are the guest's and mapped
                // while this side is inside the lock; header and pieces have no more.
                unsafe { write_plain(burst, plan, frame, single.place, header_bytes) };
                cursor.take(1);
                cursor.write_used(used, single.head, needed);
                (sent, used) = (sent + 1, used + 1);
                sent_bytes += wire_len as u64;
                continue;
            }
            (self.ring.cursor, self.used) = (cursor, used);
            (report.sent, report.sent_bytes) = (sent, sent_bytes);
            let outcome = self.send_with_care(burst, plan)?;
            (cursor, used) = (self.ring.cursor, self.used);
            match outcome {
                Outcome::Sent => {
                    sent += 1;
                    sent_bytes += wire_len as u64;
                }
                Outcome::Full => report.full += 1,
                Outcome::TooBig => report.too_big += 1,
            }
        }
        (self.ring.cursor, self.used) = (cursor, used);
        (report.sent, report.sent_bytes) = (sent, sent_bytes);
        Ok(())
    }

    /// Stage 1: the next `wanted` chains, as far as each is one buffer; their first lines are on
    /// their way when it ends.
    #[inline(always)]
    fn find<'s>(
        &mut self,
        singles: &'s mut [MaybeUninit<Single>; BURST],
        wanted: usize,
    ) -> Result<&'s [Single], Violation> {
        let wanted = wanted.min(BURST);
        let mut cursor = self.ring.cursor;
        let count = (cursor.available(wanted as u16)? as usize).min(wanted);
        let mut heads = [0; BURST];
        cursor.heads(&mut heads[..count]);
        for (single, head) in singles.iter_mut().zip(heads[..count].iter().copied()) {
            let descriptor = cursor.descriptor(head)?;
            let found = if descriptor.is_single_writable() {
                cursor.place(&self.ring.memory, descriptor.guest, descriptor.len)
            } else {
                None
            };
            single.write(match found {
                Some(place) => {
                    guest::prefetch_to_write(place);
                    guest::prefetch_to_write(place.wrapping_add(64));
                    Single {
                        place,
                        len: descriptor.len,
                        head,
                    }
                }
                None => Single {
                    place: std::ptr::null_mut(),
                    len: 0,
                    head,
                },
            });
        }
        self.ring.cursor = cursor;
        let written = singles.as_ptr().cast::<Single>();
        // SAFETY: the loop wrote the first `count`.
        Ok(unsafe { std::slice::from_raw_parts(written, count) })
    }

    /// A frame with offloads, or to a guest that is being migrated.
    #[inline(never)]
    fn send_with_care(&mut self, burst: &TxBurst<'_>, plan: &TxPlan) -> Result<Outcome, Violation> {
        match header::encode(burst, plan, self.ring.negotiated) {
            Encoded::Header(header) => self.send_in_pieces(burst, plan, header, None),
            Encoded::Complete(header, partial) => {
                self.send_in_pieces(burst, plan, header, Some(partial))
            }
            Encoded::TooBig => Ok(Outcome::TooBig),
        }
    }

    /// A frame into as many buffers and pieces as it takes.
    #[inline(never)]
    fn send_in_pieces(
        &mut self,
        burst: &TxBurst<'_>,
        plan: &TxPlan,
        mut header: [u8; MAX_HEADER_BYTES],
        complete: Option<PartialChecksum>,
    ) -> Result<Outcome, Violation> {
        let header_bytes = self.ring.negotiated.header_bytes();
        let needed = header_bytes + plan.wire_len() as u32;
        let here = self.ring.position();
        if self
            .too_big
            .is_some_and(|(at, least)| at == here && needed >= least)
        {
            return Ok(Outcome::TooBig);
        }
        if needed >= self.least_full {
            return Ok(Outcome::Full);
        }
        match self.reserve(needed)? {
            Outcome::Sent => {}
            Outcome::Full => {
                self.least_full = needed;
                return Ok(Outcome::Full);
            }
            Outcome::TooBig => {
                self.too_big = Some((here, needed));
                return Ok(Outcome::TooBig);
            }
        }
        let count = self.buffers.len() as u16;
        header[10..].copy_from_slice(&count.to_le_bytes());
        let mut writer = Writer::new(self.pieces);
        // SAFETY: the pieces are the guest's buffers, mapped while this side is inside the lock.
        unsafe { writer.write(header.as_ptr(), header_bytes as usize) };
        let body = writer;
        burst.pieces(plan, |from, len| {
            // SAFETY: as above; `from` has `len` bytes.
            unsafe { writer.write(from, len) };
        });
        if let Some(partial) = complete {
            complete_checksum(&body, partial, plan.wire_len());
        }
        let mut left = needed;
        for (ahead, (head, len)) in self.buffers.iter().enumerate() {
            let written = left.min(*len);
            left -= written;
            let ahead = self.used + ahead as u16;
            self.ring.cursor.write_used(ahead, *head, written);
        }
        if self.ring.is_logged() {
            let mut left = needed;
            for piece in self.pieces.as_slice() {
                let written = left.min(piece.len);
                left -= written;
                self.ring.log_written(piece.guest, written);
            }
        }
        self.ring.cursor.take(count);
        self.used += count;
        Ok(Outcome::Sent)
    }

    /// Finds buffers for `needed` bytes, in `pieces` and `buffers`. Takes none of them. `Sent`
    /// says that they are there.
    fn reserve(&mut self, needed: u32) -> Result<Outcome, Violation> {
        self.pieces.clear();
        self.buffers.clear();
        let mergeable = self.ring.negotiated.has(MRG_RXBUF);
        let mut room = 0;
        while room < needed {
            let ahead = self.buffers.len() as u16;
            if ahead > 0 && !mergeable {
                return Ok(Outcome::TooBig);
            }
            if ahead >= self.ring.size() {
                return Ok(Outcome::TooBig);
            }
            if self.ring.cursor.available(ahead + 1)? <= ahead {
                return Ok(Outcome::Full);
            }
            let head = self.ring.cursor.head(ahead);
            let len = self.ring.chain(head, true, self.pieces)?;
            if self.buffers.len() == MAX_PIECES {
                return Err(Violation::TooManyDescriptors);
            }
            self.buffers.push((head, len));
            room += len.min(needed - room);
        }
        Ok(Outcome::Sent)
    }
}

/// Writes what leaves for `plan` behind a header that asks for nothing.
///
/// # Safety
///
/// `place` has room for both.
#[inline(always)]
unsafe fn write_plain(
    burst: &TxBurst<'_>,
    plan: &TxPlan,
    frame: &Frame<'_>,
    place: *mut u8,
    header_bytes: u32,
) {
    // SAFETY: the caller's promise; the pieces have the plan's length together.
    unsafe {
        let to = place.add(header_bytes as usize);
        if header_bytes == 12 {
            guest::store_u64(place, header::PLAIN_WORDS.0);
            guest::store_u32(place.add(8), header::PLAIN_WORDS.1);
        } else {
            guest::copy(header::PLAIN.as_ptr(), place, header_bytes as usize);
        }
        match TxBurst::single_piece(frame, plan) {
            Some(piece) => guest::copy(piece.as_ptr(), to, piece.len()),
            None => write_pieces(burst, plan, to),
        }
    }
}

/// # Safety
///
/// `to` has room for what leaves for `plan`.
#[inline(never)]
unsafe fn write_pieces(burst: &TxBurst<'_>, plan: &TxPlan, mut to: *mut u8) {
    burst.pieces(plan, |from, len| {
        // SAFETY: the caller's promise; the pieces have the plan's length together.
        unsafe {
            guest::copy(from, to, len);
            to = to.add(len);
        }
    });
}
