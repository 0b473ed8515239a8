//! What a hit reads and writes of a connection: one cache line.
//!
//! What is said of a direction is written by whoever forwards that direction's frames and read by
//! whoever forwards the other's. Both directions share a cache line: each hit reads both, so that
//! a line for each would move between two workers as often, and take twice the cache. All of it is atomic and relaxed: each number only ever says how
//! far the direction has come, so one that is a frame old makes a frame go the long way, never
//! pass that must not. Two workers may forward frames of one direction only while a guest moves
//! the flow between its queues; of two updates the older may then win, and the next frame mends
//! that.

use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use super::{
    packet::{Segment, flags},
    tuple::Direction,
};

/// What a cached verdict rests on: a connection with the direction of its frames, or that there is
/// none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Twice the slot and the direction; or [`ABSENT`] and the bucket.
    pub(super) place: u32,
    /// Of the slot, or of the bucket.
    pub(super) generation: u32,
}

/// Marks a token that says that there is no connection.
pub(super) const ABSENT: u32 = 1 << 31;

impl Token {
    /// Of a verdict that no connection could have a part in.
    pub const UNTRACKED: Self = Self {
        place: u32::MAX,
        generation: 0,
    };

    pub(super) fn connection(slot: u32, direction: Direction, generation: u32) -> Self {
        Self {
            place: slot << 1 | direction as u32,
            generation,
        }
    }

    pub(super) fn absence(bucket: u32, generation: u32) -> Self {
        Self {
            place: ABSENT | bucket,
            generation,
        }
    }

    /// The slot and direction, where the token is a connection's.
    #[inline]
    pub(super) fn slot(self) -> Option<(usize, Direction)> {
        self.is_connection()
            .then_some(((self.place >> 1) as usize, self.direction()))
    }

    /// The direction, of a token that is a connection's.
    #[inline(always)]
    pub(super) fn direction(self) -> Direction {
        if self.place & 1 == 0 {
            Direction::Original
        } else {
            Direction::Reply
        }
    }

    /// Whether it is a connection's.
    #[inline]
    pub fn is_connection(self) -> bool {
        self.place & ABSENT == 0
    }
}

/// How far one direction of a connection has come.
#[derive(Debug, Default)]
#[repr(align(32))]
pub struct Line {
    /// The connection's generation while the direction's frames change nothing but these
    /// numbers, else 0.
    gate: AtomicU32,
    /// Behind the last sequence number that it sent.
    pub(super) end: AtomicU32,
    /// The last sequence number that it lets the other side send.
    pub(super) limit: AtomicU32,
    /// The largest window that it announced, bytes; see [`Line::set_max_window`].
    pub(super) max_window: AtomicU32,
    /// The same, or [`LEAST_ACK_WINDOW`] if that is more.
    ack_window: AtomicU32,
    /// The last acknowledgement that it sent.
    pub(super) max_ack: AtomicU32,
    /// How far its windows are shifted (RFC 7323 §2).
    pub(super) scale: AtomicU32,
    /// Its last frame, in seconds of the clock.
    pub(super) seen_s: AtomicU32,
}

/// Both directions of a connection.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Lines(pub(super) [Line; 2]);

const _: () = assert!(size_of::<Lines>() == 64, "one cache line");

/// A window below this is not taken to say how old an acknowledgement may be.
const LEAST_ACK_WINDOW: u32 = 66_000;

/// Whether `a` comes at or behind `b` in sequence space (RFC 9293 §3.4).
#[inline(always)]
pub(super) fn at_or_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() >= 0
}

impl Line {
    /// Whether a token's generation still opens the short way.
    #[inline(always)]
    pub(super) fn is_open(&self, generation: u32) -> bool {
        self.gate.load(Acquire) == generation
    }

    pub(super) fn set_gate(&self, generation: u32) {
        self.gate.store(generation, Release);
    }

    /// Notes that a frame came.
    #[inline(always)]
    pub(super) fn see(&self, now_s: u32) {
        if self.seen_s.load(Relaxed) != now_s {
            self.seen_s.store(now_s, Relaxed);
        }
    }

    pub(super) fn reset(&self) {
        let zero = [
            &self.gate,
            &self.end,
            &self.limit,
            &self.max_ack,
            &self.scale,
            &self.seen_s,
        ];
        for number in zero {
            number.store(0, Relaxed);
        }
        self.set_max_window(0);
    }

    pub(super) fn set_max_window(&self, bytes: u32) {
        self.max_window.store(bytes, Relaxed);
        let bytes = bytes.max(LEAST_ACK_WINDOW);
        self.ack_window.store(bytes, Relaxed);
    }

    /// Takes in a segment of this direction that [`in_window`] let pass.
    #[inline(always)]
    pub(super) fn take(&self, segment: &Segment, end: u32) {
        let further = |number: &AtomicU32, value: u32| {
            if !at_or_after(number.load(Relaxed), value) {
                number.store(value, Relaxed);
            }
        };
        further(&self.end, end);
        if segment.has(flags::ACK) {
            let window = u32::from(segment.window) << (self.scale.load(Relaxed) & 15);
            if window > self.max_window.load(Relaxed) {
                self.set_max_window(window);
            }
            further(&self.limit, segment.ack.wrapping_add(window));
            further(&self.max_ack, segment.ack);
        }
    }
}

impl Lines {
    /// The same numbers, to try something on.
    pub(super) fn copy(&self) -> Self {
        let copy = |number: &AtomicU32| AtomicU32::new(number.load(Relaxed));
        Self(self.0.each_ref().map(|line| Line {
            gate: copy(&line.gate),
            end: copy(&line.end),
            limit: copy(&line.limit),
            max_window: copy(&line.max_window),
            ack_window: copy(&line.ack_window),
            max_ack: copy(&line.max_ack),
            scale: copy(&line.scale),
            seen_s: copy(&line.seen_s),
        }))
    }

    #[inline(always)]
    pub(super) fn of(&self, direction: Direction) -> (&Line, &Line) {
        let own = direction as usize;
        (&self.0[own], &self.0[own ^ 1])
    }

    /// The short way: whether a segment changes nothing but how far its direction has come; that
    /// is then noted.
    #[inline(always)]
    pub(super) fn follow(&self, direction: Direction, segment: &Segment) -> bool {
        let (sender, receiver) = self.of(direction);
        let end = segment.seq.wrapping_add(segment.payload);
        let follows = segment.flags & (flags::STATE | flags::ACK) == flags::ACK
            && in_window(sender, receiver, segment, end);
        if follows {
            sender.take(segment, end);
        }
        follows
    }
}

/// Whether a segment that ends at `end` lies where both sides could expect it: "Real Stateful TCP
/// Packet Filtering in IP Filter" (van Rooij, 2001), with the acknowledgement's lower bound that
/// firewalls have used since.
#[inline(always)]
pub(super) fn in_window(sender: &Line, receiver: &Line, segment: &Segment, end: u32) -> bool {
    let (sent, answered) = (sender.end.load(Relaxed), receiver.end.load(Relaxed));
    // It begins within what the receiver allowed, and ends not more than a window ago.
    let newest = receiver.limit.load(Relaxed).wrapping_sub(segment.seq);
    let oldest = sent.wrapping_sub(receiver.max_window.load(Relaxed));
    let oldest = end.wrapping_sub(oldest);
    let mut signs = newest | oldest;
    if segment.has(flags::ACK) {
        // It acknowledges what was sent, and not what was acknowledged long ago.
        let newest = answered.wrapping_sub(segment.ack);
        let window = sender.ack_window.load(Relaxed);
        let oldest = segment.ack.wrapping_sub(answered.wrapping_sub(window));
        signs |= newest | oldest;
    }
    signs.cast_signed() >= 0
}
