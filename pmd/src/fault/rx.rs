//! The receiving half: what comes of each frame that the inner queue lends.
//!
//! A burst is made in two steps, because copies are written first and lent after:
//!
//! 1. for each lent frame, draw its fate; write copies; note what leaves, in order;
//! 2. push what was noted, borrowing the copies for as long as the inner frames.

use std::{collections::VecDeque, os::fd::BorrowedFd, sync::Arc};

use arrayvec::ArrayVec;

use super::{COPIES, Config, Random, Tallies, add};
use crate::{BURST, Burst, Frame, PartialChecksum, RxQueue, Wait};

/// Room in a copy for a tag that lies in the frame: a port's longest frame does not count it.
pub(super) const TAG_BYTES: usize = 4;

pub(super) struct FaultRx {
    inner: Box<dyn RxQueue>,
    copies: Copies,
    /// Copies held back, the first due at the front.
    held: VecDeque<Held>,
    /// The number of this `receive` call.
    turn: u64,
    config: Config,
    random: Random,
    tallies: Arc<Tallies>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    copy: u16,
    due_turn: u64,
}

/// One frame that goes into the burst.
#[derive(Clone, Copy, Debug)]
enum Out {
    /// The inner queue's frame of this number.
    Lent(u8),
    /// A copy of this number.
    Copy(u16),
}

impl FaultRx {
    pub(super) fn new(
        inner: Box<dyn RxQueue>,
        config: Config,
        random: Random,
        copy_bytes: usize,
        tallies: Arc<Tallies>,
    ) -> Self {
        Self {
            inner,
            copies: Copies::new(copy_bytes),
            held: VecDeque::with_capacity(COPIES),
            turn: 0,
            config,
            random,
            tallies,
        }
    }
}

impl RxQueue for FaultRx {
    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) {
        self.turn += 1;
        let capacity = burst.remaining_capacity();
        let mut out = ArrayVec::<Out, BURST>::new();
        let due = self.held.iter().take(capacity);
        let due = due.take_while(|held| held.due_turn <= self.turn).count();
        for held in self.held.drain(..due) {
            self.copies.lend(held.copy);
            out.push(Out::Copy(held.copy));
        }
        add(&self.tallies.delay_ended, due);

        let room = capacity - due;
        // Half the room when each frame may come twice.
        let wanted = if self.config.duplicate.get() > 0.0 {
            room.div_ceil(2)
        } else {
            room
        };
        let mut lent = Burst::<'a>::new();
        lent.allow(wanted);
        self.inner.receive(&mut lent);

        let mut fates = Fates {
            copies: &mut self.copies,
            held: &mut self.held,
            turn: self.turn,
            config: &self.config,
            random: &mut self.random,
            tallies: &self.tallies,
        };
        for (index, frame) in lent.iter().enumerate() {
            let behind = lent.len() - index - 1;
            fates.decide(index, frame, capacity - behind, &mut out);
        }
        let copies: &'a Copies = &self.copies;
        burst.extend(out.iter().map(|out| match *out {
            Out::Lent(index) => lent[usize::from(index)],
            Out::Copy(copy) => copies.frame(copy),
        }));
    }

    fn release(&mut self) {
        self.copies.take_back();
        self.inner.release();
    }

    fn prepare_wait(&mut self) -> Wait {
        // Only further `receive` calls bring held frames out.
        if self.held.is_empty() {
            self.inner.prepare_wait()
        } else {
            Wait::Ready
        }
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wake_fd()
    }
}

/// All that a frame's fate depends on and changes.
struct Fates<'q> {
    copies: &'q mut Copies,
    held: &'q mut VecDeque<Held>,
    turn: u64,
    config: &'q Config,
    random: &'q mut Random,
    tallies: &'q Tallies,
}

impl Fates<'_> {
    /// Draws what becomes of one frame. It may leave `out` no longer than `limit`, so that those
    /// behind it have room.
    fn decide(
        &mut self,
        index: usize,
        frame: &Frame<'_>,
        limit: usize,
        out: &mut ArrayVec<Out, BURST>,
    ) {
        // Every frame draws all of its chances, whichever come to matter.
        let drop = self.random.happens(self.config.drop);
        let corrupt = self.random.happens(self.config.corrupt);
        let delay = self.random.happens(self.config.delay);
        let duplicate = self.random.happens(self.config.duplicate);
        let bit = self.random.below((frame.len() as u64 * 8).max(1));
        if drop {
            add(&self.tallies.dropped, 1);
            return;
        }
        let corrupt = corrupt && !frame.is_empty();
        let copy = if corrupt || delay {
            self.copies.copy(frame)
        } else {
            None
        };
        let Some(copy) = copy else {
            add(&self.tallies.no_copy, usize::from(corrupt || delay));
            self.pass(Out::Lent(index as u8), duplicate, limit, out);
            return;
        };
        if corrupt {
            self.copies.flip(copy, bit);
            add(&self.tallies.corrupted, 1);
        }
        if delay {
            let due_turn = self.turn + u64::from(self.config.delay_receives.max(1));
            self.held.push_back(Held { copy, due_turn });
            add(&self.tallies.delayed, 1);
        } else {
            self.copies.lend(copy);
            self.pass(Out::Copy(copy), duplicate, limit, out);
        }
    }

    fn pass(&mut self, frame: Out, duplicate: bool, limit: usize, out: &mut ArrayVec<Out, BURST>) {
        out.push(frame);
        if duplicate && out.len() < limit {
            out.push(frame);
            add(&self.tallies.duplicated, 1);
        }
    }
}

/// A fixed store of frame copies. Each is free, held back, or lent until `take_back`.
struct Copies {
    bytes: Box<[u8]>,
    copy_bytes: usize,
    meta: Box<[Meta]>,
    free: ArrayVec<u16, COPIES>,
    lent: ArrayVec<u16, COPIES>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Meta {
    len: usize,
    vlan_tci: Option<u16>,
    partial_checksum: Option<PartialChecksum>,
    segment_bytes: u16,
}

impl Copies {
    fn new(copy_bytes: usize) -> Self {
        Self {
            bytes: vec![0; COPIES * copy_bytes].into_boxed_slice(),
            copy_bytes,
            meta: vec![Meta::default(); COPIES].into_boxed_slice(),
            free: (0..COPIES as u16).rev().collect(),
            lent: ArrayVec::new(),
        }
    }

    /// Copies a frame; `None` when it is too long or no copy is free.
    fn copy(&mut self, frame: &Frame<'_>) -> Option<u16> {
        if frame.len() > self.copy_bytes {
            return None;
        }
        let copy = self.free.pop()?;
        let start = usize::from(copy) * self.copy_bytes;
        frame.copy_to(0, &mut self.bytes[start..start + frame.len()]);
        self.meta[usize::from(copy)] = Meta {
            len: frame.len(),
            vlan_tci: frame.vlan_tci,
            partial_checksum: frame.partial_checksum,
            segment_bytes: frame.segment_bytes,
        };
        Some(copy)
    }

    fn flip(&mut self, copy: u16, bit: u64) {
        let start = usize::from(copy) * self.copy_bytes;
        self.bytes[start + (bit / 8) as usize] ^= 1 << (bit % 8);
    }

    fn lend(&mut self, copy: u16) {
        self.lent.push(copy);
    }

    fn take_back(&mut self) {
        self.free.extend(self.lent.drain(..));
    }

    fn frame(&self, copy: u16) -> Frame<'_> {
        let meta = &self.meta[usize::from(copy)];
        let start = usize::from(copy) * self.copy_bytes;
        let mut frame = Frame::contiguous(&self.bytes[start..start + meta.len]);
        frame.vlan_tci = meta.vlan_tci;
        frame.partial_checksum = meta.partial_checksum;
        frame.segment_bytes = meta.segment_bytes;
        frame
    }
}
