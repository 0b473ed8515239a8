//! Why a frame that a session wanted was not copied, and what is counted of its copies.

use crate::counter::Counter;

policy::reasons! {
    /// Why a frame that a session wanted was not copied.
    pub enum Skip;

    NotSampled "not_sampled"
        "The session asks for one in so many.",
        "Nothing; to see more, sample less.";
    OverBudget "over_budget"
        "The session has used up its frames or bits per second.",
        "Filter, truncate or sample, or raise the budget.";
    TooLong "too_long"
        "The copy would be longer than the tunnel's MTU.",
        "Have the session truncate or fragment, or raise the MTU.";
    NoRoom "no_room"
        "The mirror's queue, or the burst's room for prefixes, was full.",
        "The tunnel port is slower than what is mirrored: give the session a budget.";
    Unreachable "unreachable"
        "There is no way to the decapsulator, or its port is down.",
        "See `vswitch show ports`, and the route to the decapsulator.";
    Nested "carries_mirrored"
        "The frame was mirrored before, or carries one that was.",
        "Mirror where the traffic comes from, not what carries its copies.";
}

/// What one worker counts of one session. What must hold, whenever no burst is under way:
/// `wanted = copied + Σ skipped`.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct CopyCounters {
    /// Frames that the session's direction and filter chose.
    pub wanted: Counter,
    /// Those that were copied.
    pub copied: Counter,
    /// Bytes that left for them, headers of the tunnel included, without FCS.
    pub bytes: Counter,
    /// Copies that were cut.
    pub truncated: Counter,
    /// Outer fragments that copies were sent in.
    pub fragments: Counter,
    /// Frames that were not copied, by reason.
    pub skipped: [Counter; Skip::COUNT],
}

impl CopyCounters {
    /// Counts a frame that was not copied.
    #[inline]
    pub fn skip(&self, skip: Skip) {
        self.skipped[skip as usize].add(1);
    }
}
