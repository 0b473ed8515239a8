//! The routes of one prefix: all that are kept, and what a frame follows.
//!
//! What must hold: frames follow the least metric; of one metric, what is connected before next
//! hops, those before reject and that before blackhole. Next hops of all routes with that metric
//! are one choice.

use std::{slice, sync::Arc};

use super::{
    Origin, RouteError,
    target::{NextHops, Target},
};

/// A route without its prefix.
/// Ordered as they are preferred, so that a table does not depend on what was put in first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) metric: u32,
    pub(super) target: Arc<Target>,
    pub(super) origin: Origin,
}

/// The routes of one prefix; there is one at least.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    One(Candidate),
    Many(Arc<Many>),
}

/// Several routes of one prefix.
#[derive(Debug)]
pub(super) struct Many {
    /// What a frame follows.
    best: Arc<Target>,
    /// Best first.
    candidates: Box<[Candidate]>,
}

impl Entry {
    /// What a frame follows.
    #[inline]
    pub(super) fn best(&self) -> &Arc<Target> {
        match self {
            Self::One(candidate) => &candidate.target,
            Self::Many(many) => &many.best,
        }
    }

    /// Best first.
    pub(super) fn candidates(&self) -> &[Candidate] {
        match self {
            Self::One(candidate) => slice::from_ref(candidate),
            Self::Many(many) => &many.candidates,
        }
    }

    /// Of these; `None` of none.
    ///
    /// # Errors
    /// Routes of one metric have too many next hops together.
    pub(super) fn new(mut candidates: Vec<Candidate>) -> Result<Option<Self>, RouteError> {
        if candidates.len() <= 1 {
            return Ok(candidates.pop().map(Self::One));
        }
        candidates.sort_unstable();
        let mut best = None;
        // A metric that is not the least may be it one day, and then nothing can be refused.
        for group in candidates.chunk_by(|a, b| a.metric == b.metric) {
            let together = together(group)?;
            best.get_or_insert(together);
        }
        Ok(best.map(|best| {
            Self::Many(Arc::new(Many {
                best,
                candidates: candidates.into(),
            }))
        }))
    }

    /// Bytes on the heap, targets left out.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Many(many) => {
                super::tree::ARC_BYTES + size_of::<Many>() + size_of_val(&*many.candidates)
            }
        }
    }

    /// Every target that it keeps alive.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        let best = match self {
            Self::One(_) => None,
            Self::Many(many) => Some(&many.best),
        };
        best.into_iter()
            .chain(self.candidates().iter().map(|candidate| &candidate.target))
    }
}

/// What routes of one metric lead to; the best is first.
fn together(group: &[Candidate]) -> Result<Arc<Target>, RouteError> {
    let mut hops = group
        .iter()
        .filter_map(|candidate| candidate.target.next_hops());
    let several = hops.clone().nth(1).is_some();
    let union = several.then(|| NextHops::union(&mut hops)).transpose()?;
    match (&*group[0].target, union) {
        (Target::Via(_), Some(hops)) => Ok(Arc::new(Target::Via(hops))),
        _ => Ok(group[0].target.clone()),
    }
}
