//! What the decapsulator counts. One thread writes, others read while it runs.
//!
//! What must hold, whenever no frame is being received:
//!
//! ```text
//!   frames    = whole + fragments
//!   fragments = joined + held + Σ refused in fragments' account
//!   whole + reassembled = received + Σ refused in frames' account
//!   received = delivered + Σ refused in sessions' account, in total and of each session
//! ```
//!
//! A session's counts begin anew when its slot is given to another; the total's do not.

use super::sequence::SequenceCounters;
use crate::{counter::Counter, wire::Refusal};

/// One counter for each refusal.
#[derive(Debug)]
pub struct RefusalCounters([Counter; Refusal::COUNT]);

impl Default for RefusalCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl RefusalCounters {
    pub(crate) fn add(&self, refusal: Refusal, more: u64) {
        self.0[refusal as usize].add(more);
    }

    /// How often there was one.
    pub fn get(&self, refusal: Refusal) -> u64 {
        self.0[refusal as usize].get()
    }

    /// All of them together.
    pub fn sum(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }

    fn clear(&self) {
        for counter in &self.0 {
            counter.set(0);
        }
    }
}

/// What is counted of one session. What every frame changes stands in the first cache line: with
/// thousands of sessions it is memory that a frame waits for.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct SessionCounters {
    /// Mirrored frames that named it.
    pub received: Counter,
    /// Bytes of those that were delivered, without the tunnel.
    pub delivered_bytes: Counter,
    /// Frames that went to at least one sniffer.
    pub delivered: Counter,
    /// To how many they went, all together.
    pub copies: Counter,
    /// When the last one came, by the clock that [`receive`](super::Decapsulator::receive) is told.
    pub last_seen_ns: Counter,
    /// What the sequence numbers told.
    pub sequence: SequenceCounters,
    /// Frames that were not delivered.
    pub refused: RefusalCounters,
}

impl SessionCounters {
    pub(crate) fn clear(&self) {
        let Self {
            received,
            delivered_bytes,
            delivered,
            copies,
            last_seen_ns,
            sequence,
            refused,
        } = self;
        let SequenceCounters {
            sequenced,
            in_order,
            gaps,
            missing,
            reordered,
            duplicates,
            resets,
            constant,
        } = sequence;
        let all = [
            received,
            delivered_bytes,
            delivered,
            copies,
            last_seen_ns,
            sequenced,
            in_order,
            gaps,
            missing,
            reordered,
            duplicates,
            resets,
            constant,
        ];
        for counter in all {
            counter.set(0);
        }
        refused.clear();
    }
}

/// What is counted of all sessions, and of frames without one.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Totals {
    /// Frames that came.
    pub frames: Counter,
    /// Bytes of those.
    pub bytes: Counter,
    /// Those that were no fragments.
    pub whole: Counter,
    /// Outer fragments.
    pub fragments: Counter,
    /// Datagrams that were put together.
    pub reassembled: Counter,
    /// The fragments that those were made of.
    pub joined: Counter,
    /// Fragments that wait for others now.
    pub held: Counter,
    /// Mirrored frames of known sessions.
    pub received: Counter,
    /// Those that were delivered.
    pub delivered: Counter,
    /// To how many sniffers, all together.
    pub copies: Counter,
    /// What was refused, in sessions and without.
    pub refused: RefusalCounters,
}
