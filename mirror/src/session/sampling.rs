//! Sampling: one in so many frames, or all frames of one in so many flows.

use std::num::NonZeroU32;

use policy::FlowKey;

use crate::flow;

/// Which of the frames that a session wants are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sampling {
    /// All.
    #[default]
    All,
    /// One in so many, at random distances, so that nothing that recurs is always hit or missed.
    Frames(NonZeroU32),
    /// Every frame of one in so many flows, both directions alike, on every worker.
    Flows(NonZeroU32),
}

/// A worker's state for one session.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// Frames to pass over.
    skip: u64,
    random: u64,
}

impl Sampler {
    /// `seed` is the worker's own.
    pub fn new(seed: u64) -> Self {
        Self {
            skip: 0,
            random: seed | 1,
        }
    }

    /// Whether a frame is copied. `secret` is the session's, the same for all workers.
    #[inline]
    pub fn takes(&mut self, sampling: Sampling, key: &FlowKey, secret: u64) -> bool {
        match sampling {
            Sampling::All => true,
            Sampling::Frames(one_in) => {
                let due = self.skip == 0;
                self.skip = if due {
                    self.distance(one_in.get())
                } else {
                    self.skip - 1
                };
                due
            }
            Sampling::Flows(one_in) => {
                let scaled = u128::from(flow::hash(key, secret)) * u128::from(one_in.get());
                scaled >> 64 == 0
            }
        }
    }

    /// A random number from 0 to 2n - 2, so that on average one in n is taken (xorshift64).
    fn distance(&mut self, n: u32) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let range = u64::from(n) * 2 - 1;
        ((u128::from(self.random) * u128::from(range)) >> 64) as u64
    }
}
