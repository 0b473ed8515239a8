//! What the sequence numbers of a session tell.
//!
//! In come the numbers of a session's frames, in the order in which they arrive; out go counts. What
//! must hold: every number is counted in exactly one class, but for the few last ones whose class
//! the next ones will tell:
//!
//! ```text
//!   sequenced = in_order + gaps + reordered + duplicates + resets + constant + undecided
//! ```
//!
//! Numbers are compared in a signed window of 32 bits (RFC 1982), so that wrapping is nothing
//! special. A number far behind, or further ahead than any loss explains, is a sender that began
//! anew if the next one follows it, and a straggler otherwise (as RFC 3550 appendix A.1 has it). A
//! number that repeats is a duplicate; when it goes on repeating it is a sender that does not count.

use crate::counter::Counter;

/// Numbers behind the newest that are remembered.
const WINDOW: i32 = 64;
/// The longest gap that is taken for loss: 16 million frames.
const LONGEST_GAP: i32 = 1 << 24;
/// A number that comes so often again is constant.
const CONSTANT: u64 = 3;

/// What the numbers of one session told.
#[derive(Debug, Default)]
#[repr(C)]
pub struct SequenceCounters {
    /// Frames that had a number.
    pub sequenced: Counter,
    /// The first frame, and each that followed the one before.
    pub in_order: Counter,
    /// Frames before which others were missing.
    pub gaps: Counter,
    /// How many were missing there. What came late after all is also [`reordered`](Self::reordered).
    pub missing: Counter,
    /// Frames that came after later ones.
    pub reordered: Counter,
    /// Frames whose number had come already.
    pub duplicates: Counter,
    /// Frames with which the sender began to count anew.
    pub resets: Counter,
    /// Frames of a sender that does not count.
    pub constant: Counter,
}

/// The state of one session's numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracker {
    begun: bool,
    /// The newest number.
    last: u32,
    /// Bit n: `last - n` has come.
    seen: u64,
    /// How often `last` has come again, without another in between.
    repeats: u64,
    /// A number that does not fit, until the next one tells why.
    strange: Option<u32>,
}

impl Tracker {
    /// Frames whose class is not decided yet.
    pub fn undecided(&self) -> u64 {
        let repeats = if self.repeats < CONSTANT {
            self.repeats
        } else {
            0
        };
        repeats + u64::from(self.strange.is_some())
    }

    /// Counts the next frame's number.
    #[inline]
    pub fn observe(&mut self, sequence: u32, counts: &SequenceCounters) {
        counts.sequenced.add(1);
        let ahead = sequence.wrapping_sub(self.last).cast_signed();
        if ahead == 1 && self.begun && self.repeats == 0 && self.strange.is_none() {
            counts.in_order.add(1);
            self.last = sequence;
            self.seen = self.seen << 1 | 1;
        } else {
            self.judge(sequence, ahead, counts);
        }
    }

    fn judge(&mut self, sequence: u32, ahead: i32, counts: &SequenceCounters) {
        if !self.begun {
            self.begin(sequence);
            counts.in_order.add(1);
            return;
        }
        if ahead == 0 {
            self.settle_strange(counts);
            self.repeats += 1;
            match self.repeats {
                CONSTANT => counts.constant.add(CONSTANT),
                more if more > CONSTANT => counts.constant.add(1),
                _ => {}
            }
            return;
        }
        if self.repeats < CONSTANT {
            counts.duplicates.add(self.repeats);
        }
        self.repeats = 0;
        let mut ahead = ahead;
        if let Some(strange) = self.strange {
            let behind_it = sequence.wrapping_sub(strange).cast_signed();
            if (1..=WINDOW).contains(&behind_it) {
                counts.resets.add(1);
                self.begin(strange);
                ahead = behind_it;
            }
        }
        self.settle_strange(counts);
        match ahead {
            1 => {
                counts.in_order.add(1);
                self.advance(sequence, ahead);
            }
            2..=LONGEST_GAP => {
                counts.gaps.add(1);
                counts.missing.add(u64::from(ahead.unsigned_abs()) - 1);
                self.advance(sequence, ahead);
            }
            ..=-1 if ahead > -WINDOW => {
                let bit = 1 << ahead.unsigned_abs();
                let counter = if self.seen & bit == 0 {
                    &counts.reordered
                } else {
                    &counts.duplicates
                };
                counter.add(1);
                self.seen |= bit;
            }
            _ => self.strange = Some(sequence),
        }
    }

    fn begin(&mut self, sequence: u32) {
        *self = Self {
            begun: true,
            last: sequence,
            seen: 1,
            repeats: 0,
            strange: None,
        };
    }

    fn advance(&mut self, sequence: u32, ahead: i32) {
        self.last = sequence;
        self.seen = self.seen.checked_shl(ahead.unsigned_abs()).unwrap_or(0) | 1;
    }

    /// What did not fit and was not followed was a straggler.
    fn settle_strange(&mut self, counts: &SequenceCounters) {
        if self.strange.take().is_some() {
            counts.reordered.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In order, gaps, missing, reordered, duplicates, resets, constant.
    fn told(numbers: impl IntoIterator<Item = u32>) -> [u64; 7] {
        let (mut tracker, counts) = (Tracker::default(), SequenceCounters::default());
        for number in numbers {
            tracker.observe(number, &counts);
            let classes = [
                &counts.in_order,
                &counts.gaps,
                &counts.reordered,
                &counts.duplicates,
                &counts.resets,
                &counts.constant,
            ];
            let decided: u64 = classes.iter().map(|counter| counter.get()).sum();
            assert_eq!(decided + tracker.undecided(), counts.sequenced.get());
        }
        let all = [
            &counts.in_order,
            &counts.gaps,
            &counts.missing,
            &counts.reordered,
            &counts.duplicates,
            &counts.resets,
            &counts.constant,
        ];
        all.map(Counter::get)
    }

    #[test]
    fn each_kind_of_trouble_is_told_from_the_others() {
        assert_eq!(told([]), [0; 7]);
        assert_eq!(told(5..105), [100, 0, 0, 0, 0, 0, 0]);
        assert_eq!(told([5, 6, 10, 11]), [3, 1, 3, 0, 0, 0, 0]);
        assert_eq!(told([5, 7, 6, 8]), [2, 1, 1, 1, 0, 0, 0]);
        assert_eq!(told([5, 6, 6, 7, 5, 8]), [4, 0, 0, 0, 2, 0, 0]);
        assert_eq!(told([1000, 1001, 0, 1, 2]), [4, 0, 0, 0, 0, 1, 0]);
        assert_eq!(told([0; 50]), [1, 0, 0, 0, 0, 0, 49]);
        // A straggler from before the window, between frames that go on.
        assert_eq!(told([5000, 5001, 7, 5002]), [3, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn numbers_wrap() {
        let wrapping = (0..10).map(|more| u32::MAX.wrapping_add(more).wrapping_sub(5));
        assert_eq!(told(wrapping), [10, 0, 0, 0, 0, 0, 0]);
        assert_eq!(told([u32::MAX, 1, 0, 2]), [2, 1, 1, 1, 0, 0, 0]);
    }

    #[test]
    fn a_sender_that_begins_anew_ahead_is_no_loss_of_a_billion() {
        assert_eq!(told([5, 6, 1 << 30, (1 << 30) + 1]), [3, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn a_long_loss_is_a_loss() {
        assert_eq!(told([5, 5_000_006]), [1, 1, 5_000_000, 0, 0, 0, 0]);
    }

    #[test]
    fn noise_is_counted_once_each() {
        let mut state = 1u64;
        let noise = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let word = (state >> 32) as u32;
            if word.is_multiple_of(8) {
                word
            } else {
                (word >> 3) & 3
            }
        });
        let told = told(noise.take(100_000));
        assert!(told.iter().all(|count| *count > 0), "{told:?}");
    }
}
