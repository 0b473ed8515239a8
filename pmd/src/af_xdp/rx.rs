//! The receiving half of a queue: receive ring, fill ring, and the frames between them.
//!
//! In: descriptors from the receive ring. Out: frames on loan, then the same descriptors on the
//! fill ring. What must hold: each of this half's UMEM frames is with the kernel (fill ring,
//! driver, receive ring) or in `held`, and nowhere twice.

use std::{
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    ptr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use arrayvec::ArrayVec;
use xsk_rs::FrameDesc;

use super::{
    frames::{FrameMemory, OwnedFrame, Tag},
    queue::{KICK_FRAMES, QueueState},
};
use crate::{BURST, Burst, Frame, MIN_HEAD_BYTES, Run, RxQueue, Wait};

/// The most pieces of a frame: what the kernel puts in one packet buffer (`MAX_SKB_FRAGS` + 1).
pub(super) const MAX_PIECES: usize = 18;

/// A burst, and before it what the last one left of an unfinished frame.
const HELD: usize = BURST + MAX_PIECES;

/// How soon to try again when the kernel had no room for frames to send.
const RETRY: Duration = Duration::from_millis(1);

/// One frame of the burst: `held[first..first + pieces]`.
#[derive(Clone, Copy, Debug)]
struct Packet {
    first: usize,
    pieces: usize,
    /// Its further pieces start here in `runs`.
    first_run: usize,
    tag: Tag,
}

/// Finds where frames end among their pieces.
#[derive(Debug, Default)]
struct Divider {
    /// The last pieces were refused and their frame goes on.
    refusing: bool,
    /// Frames refused for too many pieces.
    refused: u64,
}

/// What to do with the next pieces.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// So many are a frame.
    Take(usize),
    /// So many are, or go on with, a frame of too many.
    Refuse(usize),
    /// They are a frame whose end is not here yet.
    Wait,
}

impl Divider {
    /// `continued` says of each piece whether its frame goes on after it.
    fn step(&mut self, mut continued: impl ExactSizeIterator<Item = bool>) -> Step {
        let available = continued.len();
        let end = continued.position(|goes_on| !goes_on).map(|last| last + 1);
        match end {
            Some(pieces) if pieces <= MAX_PIECES && !self.refusing => Step::Take(pieces),
            None if available < MAX_PIECES && !self.refusing => Step::Wait,
            _ => {
                self.refused += u64::from(!self.refusing);
                self.refusing = end.is_none();
                Step::Refuse(end.unwrap_or(available))
            }
        }
    }
}

pub(super) struct AfXdpRx {
    ring: xsk_rs::RxQueue,
    fill: xsk_rs::FillQueue,
    memory: FrameMemory,
    state: Arc<QueueState>,
    /// Whether the XDP program writes metadata.
    metadata: bool,
    /// Where descriptors from the ring land first.
    descs: Box<[FrameDesc; BURST]>,
    /// The frames of the burst, then those of a frame that is not complete yet.
    held: ArrayVec<OwnedFrame, HELD>,
    /// So many of `held` are on loan.
    lent: usize,
    divider: Divider,
    packets: ArrayVec<Packet, BURST>,
    runs: ArrayVec<Run, HELD>,
    /// Frames with the kernel, and all frames of this half.
    in_kernel: usize,
    total: usize,
}

impl AfXdpRx {
    /// Gives all of `frames` to the kernel and starts.
    pub(super) fn new(
        ring: xsk_rs::RxQueue,
        mut fill: xsk_rs::FillQueue,
        memory: FrameMemory,
        state: Arc<QueueState>,
        metadata: bool,
        frames: Vec<OwnedFrame>,
    ) -> Self {
        let total = frames.len();
        let descs: Vec<FrameDesc> = frames.into_iter().map(OwnedFrame::into_desc).collect();
        // SAFETY: the frames are of the UMEM that the ring belongs to, and were just given up.
        let in_kernel = unsafe { fill.produce(&descs) };
        debug_assert_eq!(in_kernel, total, "the fill ring holds all frames");
        Self {
            ring,
            fill,
            memory,
            state,
            metadata,
            descs: Box::new([FrameDesc::default(); BURST]),
            held: ArrayVec::new(),
            lent: 0,
            divider: Divider::default(),
            packets: ArrayVec::new(),
            runs: ArrayVec::new(),
            in_kernel,
            total,
        }
    }

    fn fd(&self) -> RawFd {
        self.ring.fd().as_raw_fd()
    }

    /// Moves descriptors from the receive ring to `held`.
    fn collect(&mut self) {
        let room = self.held.remaining_capacity().min(BURST);
        // SAFETY: the ring belongs to the UMEM of this half.
        let count = unsafe { self.ring.consume(&mut self.descs[..room]) };
        for desc in &self.descs[..count] {
            // SAFETY: the kernel gave this frame up by putting it on the receive ring.
            self.held.push(unsafe { OwnedFrame::claim(*desc) });
        }
        self.in_kernel -= count;
        self.check_law();
    }

    /// Divides `held` into at most `room` whole frames and what must be given back unseen.
    fn divide(&mut self, room: usize) {
        self.packets.clear();
        self.runs.clear();
        let mut at = 0;
        while at < self.held.len() && self.packets.len() < room {
            let continued = self.held[at..].iter().map(OwnedFrame::continued);
            match self.divider.step(continued) {
                Step::Take(pieces) => {
                    self.take_packet(at, pieces);
                    at += pieces;
                }
                Step::Refuse(pieces) => at += pieces,
                Step::Wait => break,
            }
        }
        if self.divider.refused > 0 {
            let refused = std::mem::take(&mut self.divider.refused);
            self.state.rx_too_many_pieces.fetch_add(refused, Relaxed);
        }
        self.lent = at;
    }

    fn take_packet(&mut self, first: usize, pieces: usize) {
        let tag = if self.metadata {
            self.memory.take_tag(&mut self.held[first])
        } else {
            Tag::None
        };
        if tag == Tag::Other {
            self.state.rx_other_tag.fetch_add(1, Relaxed);
            return;
        }
        if pieces > 1 && self.held[first].len() < MIN_HEAD_BYTES {
            self.state.rx_short_head.fetch_add(1, Relaxed);
            return;
        }
        let first_run = self.runs.len();
        for frame in &self.held[first + 1..first + pieces] {
            let bytes = self.memory.bytes(frame);
            // SAFETY: the bytes stay while `held` owns the frame, which is until `release`, and
            // the UMEM stays mapped while this half lives.
            let run = unsafe { Run::new(bytes.as_ptr(), bytes.len() as u32) };
            self.runs.push(run);
        }
        self.packets.push(Packet {
            first,
            pieces,
            first_run,
            tag,
        });
    }

    /// Sends what the transmitting half could not, so that no frame waits for the next one.
    fn kick_pending(&self) {
        if self.state.tx_pending.load(Relaxed) {
            self.state.kick(self.fd(), KICK_FRAMES);
        }
    }

    fn check_law(&self) {
        debug_assert_eq!(
            self.in_kernel + self.held.len(),
            self.total,
            "fill + rx + held = total"
        );
    }
}

impl RxQueue for AfXdpRx {
    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) {
        debug_assert_eq!(self.lent, 0, "receive before release");
        self.kick_pending();
        self.collect();
        self.divide(burst.remaining_capacity());
        let this: &'a Self = self;
        for packet in &this.packets {
            let head = this.memory.bytes(&this.held[packet.first]);
            let mut frame = if packet.pieces == 1 {
                Frame::contiguous(head)
            } else {
                let tail = packet.first_run..packet.first_run + packet.pieces - 1;
                Frame::in_runs(head, &this.runs[tail])
            };
            if let Tag::Vlan(tci) = packet.tag {
                frame.vlan_tci = Some(tci);
            }
            burst.push(frame);
        }
    }

    fn release(&mut self) {
        if self.lent == 0 {
            return;
        }
        let descs: ArrayVec<FrameDesc, HELD> = self
            .held
            .drain(..self.lent)
            .map(OwnedFrame::into_desc)
            .collect();
        // SAFETY: the frames are of the UMEM that the ring belongs to, and were just given up.
        let given = unsafe { self.fill.produce(&descs) };
        debug_assert_eq!(given, descs.len(), "the fill ring has room for every frame");
        self.in_kernel += descs.len();
        self.lent = 0;
        self.check_law();
        if self.fill.needs_wakeup() {
            // SAFETY: an empty buffer and no address are what AF_XDP expects of a wake-up.
            unsafe {
                libc::recvfrom(
                    self.fd(),
                    ptr::null_mut(),
                    0,
                    libc::MSG_DONTWAIT,
                    ptr::null_mut(),
                    ptr::null_mut(),
                );
            }
        }
    }

    fn prepare_wait(&mut self) -> Wait {
        self.kick_pending();
        let whole_frame_held = self.held.iter().any(|frame| !frame.continued());
        if whole_frame_held || self.ring.nb_avail_exact() > 0 {
            return Wait::Ready;
        }
        let pending = self.state.tx_pending.load(Relaxed);
        Wait::Until(pending.then_some(RETRY))
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the descriptor stays open while `ring` lives, which `self` owns.
        Some(unsafe { BorrowedFd::borrow_raw(self.fd()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a divider makes of `pieces` when so many are available at a time.
    fn divide(pieces: &[bool], at_a_time: usize) -> (Vec<usize>, u64) {
        let mut divider = Divider::default();
        let mut taken = Vec::new();
        let (mut from, mut to) = (0, 0);
        while from < pieces.len() {
            to = (to + at_a_time).min(pieces.len());
            while from < to {
                match divider.step(pieces[from..to].iter().copied()) {
                    Step::Take(count) => {
                        taken.push(count);
                        from += count;
                    }
                    Step::Refuse(count) => from += count,
                    Step::Wait => break,
                }
            }
            if to == pieces.len() {
                break;
            }
        }
        (taken, divider.refused)
    }

    fn packet(pieces: usize) -> Vec<bool> {
        (1..=pieces).map(|piece| piece < pieces).collect()
    }

    #[test]
    fn frames_are_found_however_their_pieces_arrive() {
        let sizes = [1, 3, MAX_PIECES, 1, 2];
        let pieces: Vec<_> = sizes.iter().flat_map(|size| packet(*size)).collect();
        for at_a_time in 1..=pieces.len() {
            assert_eq!(divide(&pieces, at_a_time), (sizes.to_vec(), 0));
        }
    }

    #[test]
    fn a_frame_of_too_many_pieces_is_refused_once_and_the_next_is_whole() {
        let sizes = [2, MAX_PIECES + 1, 1, 3 * MAX_PIECES, 4];
        let pieces: Vec<_> = sizes.iter().flat_map(|size| packet(*size)).collect();
        for at_a_time in 1..=pieces.len() {
            assert_eq!(divide(&pieces, at_a_time), (vec![2, 1, 4], 2));
        }
    }

    #[test]
    fn an_unfinished_frame_waits() {
        assert_eq!(Divider::default().step([true; 3].into_iter()), Step::Wait);
    }
}
