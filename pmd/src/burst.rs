//! The frames that a worker borrows at once, from one receive queue after another.
//!
//! In: frames that queues lend, each as many as it is allowed. Out: those frames, in the order in
//! which they were lent. What must hold: a queue is never asked for more than there is room.

use std::ops::{Deref, DerefMut};

use arrayvec::ArrayVec;

use crate::{BURST, Frame};

/// Up to [`BURST`] frames on loan. Dropping it ends the loan; `RxQueue::release` takes it back.
#[derive(Debug)]
pub struct Burst<'a> {
    frames: ArrayVec<Frame<'a>, BURST>,
    /// How many there may be for now.
    most: usize,
}

impl<'a> Burst<'a> {
    /// No frame, and room for [`BURST`].
    #[inline]
    pub fn new() -> Self {
        Self {
            frames: ArrayVec::new(),
            most: BURST,
        }
    }

    /// From now on there is room for `more` frames beyond those that are there, or for [`BURST`]
    /// altogether if that is less.
    #[inline]
    pub fn allow(&mut self, more: usize) {
        self.most = BURST.min(self.frames.len().saturating_add(more));
    }

    /// How many frames a queue may still lend.
    #[inline]
    pub fn remaining_capacity(&self) -> usize {
        self.most - self.frames.len()
    }

    /// True when a queue may lend no more.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.remaining_capacity() == 0
    }

    /// Takes one more frame.
    ///
    /// # Panics
    ///
    /// When [`BURST`] frames are there.
    #[inline]
    pub fn push(&mut self, frame: Frame<'a>) {
        debug_assert!(!self.is_full(), "a queue lent more than it may");
        self.frames.push(frame);
    }

    /// Gives up the frames behind the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.frames.truncate(len);
    }
}

impl Default for Burst<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Deref for Burst<'a> {
    type Target = [Frame<'a>];

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.frames
    }
}

impl DerefMut for Burst<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.frames
    }
}

impl<'a> Extend<Frame<'a>> for Burst<'a> {
    fn extend<T: IntoIterator<Item = Frame<'a>>>(&mut self, frames: T) {
        frames.into_iter().for_each(|frame| self.push(frame));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_counts_from_the_frames_that_are_there() {
        let mut burst = Burst::new();
        assert_eq!(burst.remaining_capacity(), BURST);
        burst.extend([Frame::contiguous(b"one"), Frame::contiguous(b"two")]);
        burst.allow(1);
        assert_eq!(burst.remaining_capacity(), 1);
        burst.push(Frame::contiguous(b"three"));
        assert!(burst.is_full());
        burst.allow(BURST);
        assert_eq!(burst.remaining_capacity(), BURST - 3);
    }
}
