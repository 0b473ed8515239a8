//! Receiving: the frames that a guest transmits.
//!
//! ```text
//!   available ring ─► heads ─► descriptors ─► places      (stage 1: copied, checked, on their way)
//!   header + first bytes ─► this queue's own memory       (stage 2: the snapshot that is judged)
//!   the rest stays in the guest until a port copies it    (the frame's tail)
//!   release ─► used ring, one index store, one notification at most
//! ```
//!
//! What must hold: from `receive` to `release` this side stays inside the queue's lock, so that
//! the memory which frames refer to stays mapped; a chain goes back to the guest only in
//! `release`, when every port has copied from it; what is judged is the snapshot, which the
//! guest cannot reach.

use std::{cell::UnsafeCell, mem::MaybeUninit, os::fd::BorrowedFd, sync::Arc, time::Duration};

use super::{
    PortHandle,
    features::CSUM,
    header,
    pieces::{MAX_PIECES, Pieces, Reader},
    queue::{Queue, Tally},
    ring::Ring,
    violation::Violation,
};
use crate::{BURST, Burst, Frame, MIN_HEAD_BYTES, Run, RxQueue, Wait, guest};

/// An odd number of cache lines, so that the heads of a burst spread over the cache's sets.
const HEAD_STRIDE: usize = MIN_HEAD_BYTES + 64;

/// How long a worker sleeps at most where a guest has no way to notify.
const POLL_PERIOD: Duration = Duration::from_micros(100);

/// Of a cache line.
const LINE_BYTES: u32 = 64;

/// Pieces of the frames of one burst beyond their heads. A chain that finds no room waits for
/// the next burst.
const MAX_RUNS: usize = 4 * MAX_PIECES;

/// Longest frame: 64 KiB of IP and its headers, as the largest TCP segments have.
pub(super) const MAX_FRAME_BYTES: u32 = 65_550;

pub(super) struct VhostRx {
    handle: Arc<PortHandle>,
    number: usize,
    /// Inside the queue's lock, with `taken` chains out.
    inside: bool,
    taken: u16,
    heads: [u16; BURST],
    snapshots: Box<[UnsafeCell<[u8; HEAD_STRIDE]>]>,
    runs: Box<[UnsafeCell<Run>]>,
    pieces: Pieces,
}

// SAFETY: the cells are only reached through `&mut self`, or through frames that borrow `self`.
unsafe impl Send for VhostRx {}

/// A chain of one descriptor, found good in stage 1; anything else has no length.
#[derive(Clone, Copy)]
struct Single {
    place: *const u8,
    len: u32,
}

impl VhostRx {
    pub(super) fn new(handle: Arc<PortHandle>, number: usize) -> Self {
        // SAFETY: no bytes to read.
        let nothing = unsafe { Run::new(std::ptr::null(), 0) };
        Self {
            handle,
            number,
            inside: false,
            taken: 0,
            heads: [0; BURST],
            snapshots: (0..BURST)
                .map(|_| UnsafeCell::new([0; HEAD_STRIDE]))
                .collect(),
            runs: (0..MAX_RUNS).map(|_| UnsafeCell::new(nothing)).collect(),
            pieces: Pieces::default(),
        }
    }

    fn queue(&self) -> &Queue {
        &self.handle.shared.queues[self.number]
    }

    fn leave(&mut self) {
        if self.inside {
            self.inside = false;
            // SAFETY: `inside` says that `receive` kept the stay, and is false from now on.
            drop(unsafe { self.queue().ring.resume() });
        }
    }
}

impl RxQueue for VhostRx {
    #[inline]
    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) {
        debug_assert!(!self.inside, "receive before release");
        let shared = &self.handle.shared;
        let queue = &shared.queues[self.number];
        if shared.is_broken() {
            return;
        }
        let Some(mut entered) = queue.ring.try_enter() else {
            return;
        };
        let Some(ring) = entered.as_mut() else {
            return;
        };
        let before = burst.len();
        let mut walk = Walk {
            snapshots: UnsafeCell::raw_get(self.snapshots.as_ptr()),
            runs: UnsafeCell::raw_get(self.runs.as_ptr()),
            runs_used: 0,
            pieces: &mut self.pieces,
        };
        match walk.lend(ring, &mut self.heads, burst) {
            Ok(0) => {}
            Ok(taken) => {
                self.taken = taken;
                self.inside = true;
                entered.keep();
            }
            Err(violation) => {
                burst.truncate(before);
                shared.break_off(self.number, violation);
            }
        }
    }

    #[inline]
    fn release(&mut self) {
        if !self.inside {
            return;
        }
        self.inside = false;
        let shared = &self.handle.shared;
        let queue = &shared.queues[self.number];
        // SAFETY: `inside` said that `receive` kept the stay.
        let mut entered = unsafe { queue.ring.resume() };
        let Some(ring) = entered.as_mut() else {
            return;
        };
        ring.give_back(&self.heads[..self.taken as usize]);
        let told = ring.notify(&queue.calls);
        if ring.is_memory_lost() {
            shared.break_off(self.number, Violation::MemoryLost);
        }
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

    fn prepare_wait(&mut self) -> Wait {
        debug_assert!(!self.inside, "wait before release");
        let shared = &self.handle.shared;
        let queue = &shared.queues[self.number];
        // Whatever comes from here on makes the descriptor readable again.
        if queue.waker().is_some_and(super::queue::Waker::drain) {
            Tally::add(&queue.tally.woken, 1);
        }
        if shared.is_broken() {
            return Wait::Until(None);
        }
        // Where control is inside it nudges after it left; where no ring is, when there is one.
        let Some(mut entered) = queue.ring.try_enter() else {
            return Wait::Until(None);
        };
        let Some(ring) = entered.as_mut() else {
            return Wait::Until(None);
        };
        if ring.ask_for_kicks() {
            Wait::Until((!ring.kicked).then_some(POLL_PERIOD))
        } else {
            Wait::Ready
        }
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        self.queue().waker().map(super::queue::Waker::as_fd)
    }
}

impl Drop for VhostRx {
    fn drop(&mut self) {
        self.leave();
    }
}

/// One burst's way out of the ring.
struct Walk<'a> {
    snapshots: *mut [u8; HEAD_STRIDE],
    runs: *mut Run,
    runs_used: usize,
    pieces: &'a mut Pieces,
}

impl Walk<'_> {
    /// Lends what is available and returns how many chains that takes.
    #[inline(always)]
    fn lend(
        &mut self,
        ring: &mut Ring,
        heads: &mut [u16; BURST],
        burst: &mut Burst<'_>,
    ) -> Result<u16, Violation> {
        ring.stop_kicks();
        let room = burst.remaining_capacity().min(BURST) as u16;
        let count = ring.cursor.available(room)?.min(room);
        if count == 0 {
            return Ok(0);
        }
        let mut singles = [const { MaybeUninit::uninit() }; BURST];
        let singles = Self::find(ring, heads, &mut singles, count)?;
        let (header_bytes, negotiated) = (ring.negotiated.header_bytes(), ring.negotiated);
        for (index, single) in singles.iter().enumerate() {
            let Single { place, len } = *single;
            if len > 0 {
                // Pushed as it is made: a frame that goes through a `Result` is copied about.
                // SAFETY: stage 1 found `len` bytes at `place`, more than a header's.
                burst.push(unsafe { self.snapshot_single(index, place, len, header_bytes) });
                if negotiated.has(CSUM)
                    && let Some(frame) = burst.last_mut()
                {
                    // SAFETY: as above; a header has more than eight bytes.
                    let first = unsafe { guest::load_u64(place) };
                    if !header::is_plain(first) {
                        // SAFETY: as above.
                        unsafe { header::decode_at(place, first, negotiated, frame) }?;
                    }
                }
            } else if let Some(frame) = self.snapshot_chain(index, heads[index], ring)? {
                burst.push(frame);
            } else {
                ring.cursor.take(index as u16);
                return Ok(index as u16);
            }
        }
        ring.cursor.take(count);
        Ok(count)
    }

    /// Stage 1.
    #[inline(always)]
    fn find<'s>(
        ring: &mut Ring,
        heads: &mut [u16; BURST],
        singles: &'s mut [MaybeUninit<Single>; BURST],
        count: u16,
    ) -> Result<&'s [Single], Violation> {
        let mut cursor = ring.cursor;
        let header_bytes = ring.negotiated.header_bytes();
        // A header that cannot ask for anything is not read.
        let first = if ring.negotiated.has(CSUM) {
            0
        } else {
            header_bytes
        };
        let heads = &mut heads[..count as usize];
        cursor.heads(heads);
        for (single, head) in singles.iter_mut().zip(heads) {
            let descriptor = cursor.descriptor(*head)?;
            // At least one byte of frame, and not too many.
            let fits = descriptor.len.wrapping_sub(header_bytes + 1) < MAX_FRAME_BYTES;
            let found = if descriptor.is_single_readable() && fits {
                cursor.place(&ring.memory, descriptor.guest, descriptor.len)
            } else {
                None
            };
            single.write(match found {
                Some(place) => {
                    let last = descriptor.len.min(2 * LINE_BYTES) - 1;
                    guest::prefetch(place.wrapping_add(first as usize));
                    guest::prefetch(place.wrapping_add(last as usize));
                    Single {
                        place,
                        len: descriptor.len,
                    }
                }
                None => Single {
                    place: std::ptr::null(),
                    len: 0,
                },
            });
        }
        ring.cursor = cursor;
        let written = singles.as_ptr().cast::<Single>();
        // SAFETY: the loop wrote the first `count`.
        Ok(unsafe { std::slice::from_raw_parts(written, count as usize) })
    }

    /// Stage 2, for a chain that is one run of memory.
    ///
    /// # Safety
    ///
    /// `place` has `len` bytes, which is more than `header_bytes`, for as long as this side is
    /// inside the lock.
    #[inline(always)]
    unsafe fn snapshot_single<'f>(
        &mut self,
        index: usize,
        place: *const u8,
        len: u32,
        header_bytes: u32,
    ) -> Frame<'f> {
        let frame_len = len - header_bytes;
        let head_len = frame_len.min(MIN_HEAD_BYTES as u32);
        // SAFETY: head and tail lie within the `len` bytes at `place`. Snapshot number `index`
        // belongs to this frame of the burst alone, and has room for the head. The frame borrows
        // it for as long as the burst borrows the queue.
        unsafe {
            let bytes = place.add(header_bytes as usize);
            let snapshot = self.snapshots.add(index).cast::<u8>();
            guest::copy(bytes, snapshot, head_len as usize);
            let head = std::slice::from_raw_parts(snapshot, head_len as usize);
            // Written whether it is needed or not: there is room for one run of each frame,
            // see `snapshot_chain`.
            let slot = self.runs.add(self.runs_used);
            slot.write(Run::new(bytes.add(head_len as usize), frame_len - head_len));
            let count = usize::from(frame_len > head_len);
            self.runs_used += count;
            Frame::with_tail(head, std::slice::from_raw_parts(slot, count), frame_len)
        }
    }

    /// Stage 2, for every other chain. `None` when its pieces find no room in this burst.
    #[inline(never)]
    fn snapshot_chain<'f>(
        &mut self,
        index: usize,
        head: u16,
        ring: &mut Ring,
    ) -> Result<Option<Frame<'f>>, Violation> {
        self.pieces.clear();
        let total = ring.chain(head, false, self.pieces)?;
        let pieces = self.pieces.as_slice();
        // One run is kept for each frame that may come behind this one.
        let room = MAX_RUNS - BURST - self.runs_used.min(MAX_RUNS - BURST);
        if pieces.len() > room {
            return if index == 0 {
                Err(Violation::TooManyDescriptors)
            } else {
                Ok(None)
            };
        }
        let header_bytes = ring.negotiated.header_bytes();
        if total <= header_bytes {
            return Err(Violation::ShorterThanHeader);
        }
        let frame_len = total - header_bytes;
        if frame_len > MAX_FRAME_BYTES {
            return Err(Violation::FrameTooLong);
        }
        let head_len = frame_len.min(MIN_HEAD_BYTES as u32);
        let mut reader = Reader::new(self.pieces);
        let mut header = [0; header::MAX_HEADER_BYTES];
        // SAFETY: as in `snapshot_single`: the pieces have `total` bytes, of which the header,
        // then the head, then the tail is taken; the runs lie within the room just checked.
        let mut frame = unsafe {
            reader.read(header.as_mut_ptr(), header_bytes);
            let snapshot = self.snapshots.add(index).cast::<u8>();
            reader.read(snapshot, head_len);
            let first = self.runs.add(self.runs_used);
            let mut count = 0;
            while let Some((place, len)) = reader.next_run(u32::MAX) {
                first.add(count).write(Run::new(place, len));
                count += 1;
            }
            self.runs_used += count;
            let head = std::slice::from_raw_parts(snapshot, head_len as usize);
            let tail = std::slice::from_raw_parts(first, count);
            Frame::with_tail(head, tail, frame_len)
        };
        if ring.negotiated.has(CSUM) {
            let mut first_ten = [0; 10];
            first_ten.copy_from_slice(&header[..10]);
            header::decode(first_ten, ring.negotiated, &mut frame)?;
        }
        Ok(Some(frame))
    }
}
