//! What left by tapped ports in a burst: the plans, until their copies are made.
//!
//! In: plans that a driver was handed, with their prefixes. Out: the same, in that order. What must
//! hold: the prefixes are kept here, for the outbox forgets its own before the burst ends.

use pmd::{PrefixArena, TxPlan};
use policy::PortId;

/// Most plans that are kept: then copies are made of them, and it begins anew.
const MOST: usize = 256;

/// Plans of one port, which follow each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) port: PortId,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What left by tapped ports.
#[derive(Debug)]
pub(super) struct Sent {
    plans: Vec<TxPlan>,
    runs: Vec<Run>,
    prefixes: PrefixArena,
}

impl Default for Sent {
    fn default() -> Self {
        Self {
            plans: Vec::with_capacity(MOST),
            // Each run has a plan.
            runs: Vec::with_capacity(MOST),
            prefixes: PrefixArena::default(),
        }
    }
}

impl Sent {
    /// Whether so many more plans fit.
    #[inline]
    pub(super) fn has_room(&self, plans: usize) -> bool {
        self.plans.len() + plans <= MOST
    }

    /// Keeps plans that left by a port. There is room for them.
    #[inline]
    pub(super) fn keep(&mut self, port: PortId, plans: &[TxPlan], prefixes: &PrefixArena) {
        let start = self.plans.len();
        for plan in plans {
            let mut plan = *plan;
            if plan.prefix_len_bytes > 0 {
                // No plan has more than one prefix, so there is one for each.
                let Some((number, own)) = self.prefixes.allocate() else {
                    continue;
                };
                let bytes = prefixes.get(&plan);
                own[..bytes.len()].copy_from_slice(bytes);
                plan.prefix = number;
            }
            self.plans.push(plan);
        }
        let end = self.plans.len();
        self.runs.push(Run { port, start, end });
    }

    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The plans of a run.
    pub(super) fn plans(&self, run: &Run) -> &[TxPlan] {
        self.plans.get(run.start..run.end).unwrap_or_default()
    }

    /// The bytes that a plan puts before its frame.
    pub(super) fn prefix(&self, plan: &TxPlan) -> &[u8] {
        if plan.prefix_len_bytes == 0 {
            return &[];
        }
        self.prefixes.get(plan)
    }

    /// Where plans' prefixes are.
    pub(super) fn prefixes(&self) -> &PrefixArena {
        &self.prefixes
    }

    pub(super) fn clear(&mut self) {
        self.plans.clear();
        self.runs.clear();
        self.prefixes.clear();
    }
}
