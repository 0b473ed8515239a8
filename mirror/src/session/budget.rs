//! Budgets: how many copies a session may send, in frames and in bits.
//!
//! What must hold: whatever the number of workers, copies never exceed the burst at once and the
//! rate from then on, but for what workers hold in their purses, which was taken from the bucket
//! before. A frame that one of the two buckets refuses takes nothing from the other.
//!
//! A bucket is one number, the time at which it will be full again (GCRA, ITU-T I.371), changed by
//! one compare-and-swap, as rules' limits are. Copies are many and a cache line that every worker
//! writes for each is dear: a worker takes a handful at once into a [`Purse`] of its own, and
//! spends them without asking.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A rate: a bucket of `burst` tokens that `per_second` refill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Tokens that come back each second; at least 1.
    pub per_second: u64,
    /// Most tokens there are; at least 1.
    pub burst: u64,
}

/// What a session may send; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Copies.
    pub frames: Option<Rate>,
    /// Bits of them, headers of the tunnel included, without FCS.
    pub bits: Option<Rate>,
}

/// Parts of a nanosecond that tokens are timed in, as bits: the clock may run for 36 years.
const PART_BITS: u32 = 4;
const SECOND: u128 = 1_000_000_000 << PART_BITS;
/// Up to here a token takes so long that rounding it up is less than one in a thousand.
const SLOW: u64 = 1 << 24;
/// Most frames that a purse is filled with, and bits for as many of medium length.
const PURSE_FRAMES: u64 = 32;
const PURSE_BITS: u64 = PURSE_FRAMES * 512 * 8;
/// A purse holds no more than this part of a bucket.
const PURSE_PART: u64 = 16;

/// One bucket.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// When it will be full.
    full_at: AtomicU64,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            full_at: AtomicU64::new(0),
        }
    }

    /// How long tokens take to come back; rounded up, so that no rate is exceeded.
    ///
    /// Of slow rates each token is rounded, so that a bucket gives its burst to the last token
    /// however it is asked; of fast ones that would cost more of the rate than anyone wants to miss.
    fn time(&self, tokens: u64) -> u64 {
        let (tokens, rate) = (u128::from(tokens), u128::from(self.rate.per_second.max(1)));
        let time = if self.rate.per_second <= SLOW {
            tokens * SECOND.div_ceil(rate)
        } else {
            (tokens * SECOND).div_ceil(rate)
        };
        u64::try_from(time).unwrap_or(u64::MAX)
    }

    /// Takes `tokens` if there are so many.
    fn take(&self, tokens: u64, now_ns: u64) -> bool {
        let now = now_ns << PART_BITS;
        let (cost, room) = (self.time(tokens), self.time(self.rate.burst));
        let next = |full_at: u64| {
            let after = full_at.max(now).saturating_add(cost);
            (after - now <= room).then_some(after)
        };
        self.full_at.fetch_update(Relaxed, Relaxed, next).is_ok()
    }

    /// Takes what a purse holds, or at least `needed`; returns how many were taken.
    fn draw(&self, needed: u64, purse: u64, now_ns: u64) -> u64 {
        let more = needed.max(purse.min(self.rate.burst / PURSE_PART));
        if self.take(more, now_ns) {
            more
        } else if more > needed && self.take(needed, now_ns) {
            needed
        } else {
            0
        }
    }
}

/// What a session may send, over all workers.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    frames: Option<Bucket>,
    bits: Option<Bucket>,
}

impl Budget {
    /// Full buckets.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            frames: limits.frames.map(Bucket::new),
            bits: limits.bits.map(Bucket::new),
        }
    }

    /// What it was made of.
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

/// What a worker has taken of a session's budget and not spent. It belongs to one budget: with
/// another, begin with an empty one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Purse {
    frames: u64,
    bits: u64,
}

impl Purse {
    /// Whether a copy of `len_bytes` may be sent; if so it is paid for. `now_ns` is a clock that
    /// began with the process.
    #[inline]
    pub fn pay(&mut self, budget: &Budget, len_bytes: u32, now_ns: u64) -> bool {
        let bits = u64::from(len_bytes) * 8;
        if self.frames == 0 || self.bits < bits {
            self.fill(budget, bits, now_ns);
        }
        match (self.frames.checked_sub(1), self.bits.checked_sub(bits)) {
            (Some(frames), Some(bits)) => {
                (self.frames, self.bits) = (frames, bits);
                true
            }
            _ => false,
        }
    }

    #[inline(never)]
    fn fill(&mut self, budget: &Budget, bits: u64, now_ns: u64) {
        if self.frames == 0 {
            self.frames = match &budget.frames {
                None => u64::MAX,
                Some(bucket) => bucket.draw(1, PURSE_FRAMES, now_ns),
            };
        }
        if self.bits < bits {
            self.bits = match &budget.bits {
                None => u64::MAX,
                Some(bucket) => self.bits + bucket.draw(bits - self.bits, PURSE_BITS, now_ns),
            };
        }
    }
}
