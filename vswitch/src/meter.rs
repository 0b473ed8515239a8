//! The limits of rules: token buckets, one for each limited rule of each vNIC.
//!
//! In: the snapshot, and the buckets of the one before. Out: a [`Meters`] that tells whether a rule
//! has a limit at a port and, asked for a token, whether there is one. What must hold:
//! - over all workers no bucket gives more than its burst at once, nor more than its rate from
//!   then on;
//! - a bucket goes on as it is when the next snapshot has the same rule at the same vNIC, whatever
//!   else changed;
//! - a vNIC's bucket is its own: who shares a group's rule does not share its tokens.
//!
//! A bucket is one number, the time at which it will be full again (GCRA, ITU-T I.371), changed by
//! one compare-and-swap. It is exact over all workers, at the price of a cache line that those which
//! pass frames of one rule at one vNIC hand to each other; frames without a limit never come here.

use std::{
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use hashbrown::HashMap;
use policy::{PortId, RuleId, model::RateLimit, snapshot::Snapshot};

/// Most buckets of a snapshot.
pub const MOST: usize = u16::MAX as usize;

/// Parts of a nanosecond that tokens are timed in, as bits: a rate is met to 1 in 16,000 at a
/// million a second, and always from below, and the clock may run for 36 years.
const PART_BITS: u32 = 4;

/// A bucket's number, under the snapshot that it was told for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeterSlot(NonZeroU16);

/// One bucket.
#[derive(Debug)]
struct Meter {
    rule: RuleId,
    vnic: Arc<str>,
    limit: RateLimit,
    /// Between two tokens.
    interval: u64,
    /// How far ahead of the time it may run: all tokens but one.
    tolerance: u64,
    /// When it will be full.
    full_at: AtomicU64,
}

impl Meter {
    fn new(rule: RuleId, vnic: Arc<str>, limit: RateLimit) -> Self {
        let second = 1_000_000_000u64 << PART_BITS;
        let interval = second.div_ceil(u64::from(limit.per_second.max(1)));
        Self {
            rule,
            vnic,
            limit,
            interval,
            tolerance: interval.saturating_mul(u64::from(limit.burst.saturating_sub(1))),
            full_at: AtomicU64::new(0),
        }
    }

    /// When it will be full once it has given one more token at `now_ns`; `None` when it has none.
    fn after_one(&self, full_at: u64, now_ns: u64) -> Option<u64> {
        let now = now_ns << PART_BITS;
        let full_at = full_at.max(now);
        (full_at - now <= self.tolerance).then(|| full_at.saturating_add(self.interval))
    }
}

/// The buckets of one snapshot.
#[derive(Debug, Default)]
pub struct Meters {
    /// By slot, from 1.
    buckets: Vec<Arc<Meter>>,
    slots: HashMap<(PortId, RuleId), MeterSlot>,
}

/// A snapshot has more than [`MOST`] limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there are more than {MOST} limits, counting each limited rule once for each vNIC that has it; \
     give fewer vNICs rules with `limit`"
)]
pub struct TooMany;

impl Meters {
    /// The buckets of a snapshot: those that `former` has too, and full ones.
    ///
    /// # Errors
    ///
    /// [`TooMany`].
    pub fn after(former: &Self, snapshot: &Snapshot) -> Result<Self, TooMany> {
        let key = |meter: &Arc<Meter>| (Arc::clone(&meter.vnic), meter.rule);
        let known = former.buckets.iter().map(|meter| (key(meter), meter));
        let known: HashMap<(Arc<str>, RuleId), &Arc<Meter>> = known.collect();
        let mut meters = Self::default();
        for port in snapshot.ports() {
            let Some(vnic) = &port.vnic else { continue };
            for (rule, limit) in vnic.limits() {
                if meters.slots.contains_key(&(port.id, rule)) {
                    continue;
                }
                let same = known.get(&(Arc::clone(&vnic.name), rule));
                let bucket = match same.filter(|meter| meter.limit == limit) {
                    Some(meter) => Arc::clone(meter),
                    None => Arc::new(Meter::new(rule, Arc::clone(&vnic.name), limit)),
                };
                meters.buckets.push(bucket);
                let number = u16::try_from(meters.buckets.len()).map_err(|_| TooMany)?;
                let slot = NonZeroU16::new(number).ok_or(TooMany)?;
                meters.slots.insert((port.id, rule), MeterSlot(slot));
            }
        }
        Ok(meters)
    }

    /// The bucket of a rule for the vNIC of a port, if the rule has a limit.
    #[inline]
    pub fn slot(&self, port: PortId, rule: Option<RuleId>) -> Option<MeterSlot> {
        // Every miss asks, and mostly no rule has a limit.
        if self.slots.is_empty() {
            return None;
        }
        self.slots.get(&(port, rule?)).copied()
    }

    /// Takes a token at `now_ns` of the clock, if there is one.
    pub fn take(&self, slot: MeterSlot, now_ns: u64) -> bool {
        let Some(meter) = self.get(slot) else {
            return true;
        };
        let next = |full_at| meter.after_one(full_at, now_ns);
        meter.full_at.fetch_update(Relaxed, Relaxed, next).is_ok()
    }

    /// Whether there is a token at `now_ns` of the clock.
    pub fn has(&self, slot: MeterSlot, now_ns: u64) -> bool {
        self.get(slot).is_none_or(|meter| {
            meter
                .after_one(meter.full_at.load(Relaxed), now_ns)
                .is_some()
        })
    }

    /// Whose bucket it is.
    pub fn rule(&self, slot: MeterSlot) -> Option<RuleId> {
        self.get(slot).map(|meter| meter.rule)
    }

    fn get(&self, slot: MeterSlot) -> Option<&Meter> {
        let bucket = self.buckets.get(usize::from(slot.0.get()) - 1);
        bucket.map(|meter| &**meter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn meters(per_second: u32, burst: u32) -> (Meters, MeterSlot) {
        let limit = RateLimit { per_second, burst };
        let meter = Meter::new(RuleId(1), "v".into(), limit);
        let meters = Meters {
            buckets: vec![Arc::new(meter)],
            slots: HashMap::new(),
        };
        (meters, MeterSlot(NonZeroU16::MIN))
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        for (rate, burst) in [(1, 1), (3, 2), (1000, 50), (7_000_001, 10), (10, 1_000_000)] {
            let (meters, slot) = meters(rate, burst);
            let start = 5 * SECOND;
            let taken = |at| (0..2 * burst).filter(|_| meters.take(slot, at)).count();
            assert_eq!(taken(start), burst as usize, "{rate}/s burst {burst}");
            assert!(!meters.has(slot, start));
            // After a second what was given back is there, at most a full bucket.
            let back = taken(start + SECOND) as u64;
            let most = u64::from(rate.min(burst));
            assert!(
                back <= most && back * 1000 >= most * 999,
                "{back} of {most}"
            );
            assert_eq!(taken(start + 10_000_000 * SECOND), burst as usize);
        }
    }

    #[test]
    fn a_rate_is_never_exceeded() {
        for rate in [1, 3, 999_999, 1_000_001, 123_456_789, u32::MAX] {
            let (meters, slot) = meters(rate, 1);
            let mut taken = 0u64;
            // Offered as often as it can be: at every nanosecond of a stretch.
            let ns = 200_000;
            for now in 0..ns {
                taken += u64::from(meters.take(slot, SECOND + now));
            }
            let most = u64::from(rate) * ns / SECOND + 1;
            assert!(taken <= most, "{taken} of {most} at {rate}/s");
        }
    }

    #[test]
    fn workers_share_a_bucket_exactly() {
        let (meters, slot) = meters(1, 1000);
        let taken: usize = std::thread::scope(|scope| {
            let worker = || (0..1000).filter(|_| meters.take(slot, SECOND)).count();
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            let counts = workers.into_iter().map(|w| w.join().expect("no panic"));
            counts.sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn the_largest_limits_do_not_overflow() {
        let (meters, slot) = meters(1, u32::MAX);
        let end = 36 * 365 * 24 * 3600 * SECOND;
        assert!((0..1000).all(|_| meters.take(slot, end)));
    }
}
