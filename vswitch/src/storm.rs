//! Limits on flooded frames: so many per second and port, whoever the worker is.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use policy::{DropReason, model::StormLimits};

/// Why a frame is flooded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloodKind {
    /// It is for everybody.
    Broadcast,
    /// It is for a group.
    Multicast,
    /// Nobody knows where its destination is.
    Unknown,
}

/// How long a port that was silent may exceed its rate, nanoseconds: a tenth of a second's worth
/// of frames passes at once.
const TOLERANCE_NS: u64 = 100_000_000;

/// The three limits' state of one port, shared by the workers.
#[derive(Debug, Default)]
pub struct StormGates([Gate; 3]);

impl StormGates {
    /// Whether one more frame may be flooded at `now_ns`.
    ///
    /// # Errors
    ///
    /// The reason under which it is dropped.
    #[inline]
    pub fn pass(
        &self,
        kind: FloodKind,
        limits: &StormLimits,
        now_ns: u64,
    ) -> Result<(), DropReason> {
        match limit(kind, limits) {
            (Some(pps), reason) if !self.0[kind as usize].pass(pps, now_ns) => Err(reason),
            _ => Ok(()),
        }
    }

    /// What [`StormGates::pass`] would say at `now_ns`, of a frame that is not there.
    ///
    /// # Errors
    ///
    /// As [`StormGates::pass`].
    pub fn foresee(
        &self,
        kind: FloodKind,
        limits: &StormLimits,
        now_ns: u64,
    ) -> Result<(), DropReason> {
        match limit(kind, limits) {
            (Some(pps), reason) if !self.0[kind as usize].would_pass(pps, now_ns) => Err(reason),
            _ => Ok(()),
        }
    }
}

/// The limit on frames of a kind, and the reason under which the excess is dropped.
#[inline]
pub fn limit(kind: FloodKind, limits: &StormLimits) -> (Option<u32>, DropReason) {
    match kind {
        FloodKind::Broadcast => (limits.broadcast_pps, DropReason::StormBroadcast),
        FloodKind::Multicast => (limits.multicast_pps, DropReason::StormMulticast),
        FloodKind::Unknown => (limits.unknown_pps, DropReason::StormUnknown),
    }
}

/// A leaky bucket as one number: the time at which it will have drained (GCRA, ITU-T I.371).
#[derive(Debug, Default)]
pub struct Gate(AtomicU64);

impl Gate {
    /// Whether one more frame may pass, of `pps` a second.
    pub fn pass(&self, pps: u32, now_ns: u64) -> bool {
        let next = |drained_ns| drained_after(drained_ns, pps, now_ns, TOLERANCE_NS);
        self.0.fetch_update(Relaxed, Relaxed, next).is_ok()
    }

    fn would_pass(&self, pps: u32, now_ns: u64) -> bool {
        drained_after(self.0.load(Relaxed), pps, now_ns, TOLERANCE_NS).is_some()
    }
}

/// When a bucket that will have drained at `drained_ns` has drained after one more frame at
/// `now_ns`; `None` when that frame is one too many. `tolerance_ns` is how far one that was silent
/// may be ahead of its rate.
#[inline]
pub(crate) fn drained_after(
    drained_ns: u64,
    pps: u32,
    now_ns: u64,
    tolerance_ns: u64,
) -> Option<u64> {
    let interval_ns = 1_000_000_000u64.checked_div(u64::from(pps))?;
    let drained_ns = drained_ns.max(now_ns);
    (drained_ns - now_ns <= tolerance_ns).then_some(drained_ns + interval_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(gates: &StormGates, limits: &StormLimits, from_ns: u64, to_ns: u64) -> usize {
        (from_ns..to_ns)
            .step_by(100_000)
            .filter(|now| gates.pass(FloodKind::Broadcast, limits, *now).is_ok())
            .count()
    }

    #[test]
    fn the_rate_holds_after_the_first_tenth_of_a_second() {
        let limits = StormLimits {
            broadcast_pps: Some(1000),
            ..Default::default()
        };
        let gates = StormGates::default();
        // 10,000 frames a second are offered for two seconds.
        let first = passed(&gates, &limits, 0, 1_000_000_000);
        let second = passed(&gates, &limits, 1_000_000_000, 2_000_000_000);
        assert!((1000..=1101).contains(&first), "{first}");
        assert!((999..=1001).contains(&second), "{second}");
        // Other kinds have no limit here.
        assert!(gates.pass(FloodKind::Unknown, &limits, 0).is_ok());
    }

    #[test]
    fn zero_lets_nothing_pass_and_none_everything() {
        let zero = StormLimits {
            broadcast_pps: Some(0),
            ..Default::default()
        };
        assert_eq!(passed(&StormGates::default(), &zero, 0, 1_000_000_000), 0);
        assert_eq!(
            passed(
                &StormGates::default(),
                &StormLimits::default(),
                0,
                1_000_000
            ),
            10
        );
    }
}
