//! What a lookup costs, in operations: counted for one frame, bounded for all.

/// What one lookup did, or the most that any lookup of a list can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Bound {
    /// Tables whose hash was looked up.
    pub probes: usize,
    /// Rules that were compared, if only by their first comparison.
    pub compares: usize,
}

impl Bound {
    /// Each figure the greater one.
    pub(super) fn or_more(self, other: Self) -> Self {
        Self {
            probes: self.probes.max(other.probes),
            compares: self.compares.max(other.compares),
        }
    }

    /// Becomes no less than `other`.
    pub(super) fn raise(&mut self, other: Self) {
        *self = self.or_more(other);
    }

    /// Whether neither figure is more than the other's.
    pub fn within(&self, other: &Self) -> bool {
        self.probes <= other.probes && self.compares <= other.compares
    }
}

/// Counts operations, or does not.
pub(super) trait Count {
    fn probe(&mut self);
    fn compares(&mut self, rules: usize);
}

/// Does not: what frames are judged with.
pub(super) struct Uncounted;

impl Count for Uncounted {
    #[inline(always)]
    fn probe(&mut self) {}
    #[inline(always)]
    fn compares(&mut self, _rules: usize) {}
}

impl Count for Bound {
    fn probe(&mut self) {
        self.probes += 1;
    }

    fn compares(&mut self, rules: usize) {
        self.compares += rules;
    }
}
