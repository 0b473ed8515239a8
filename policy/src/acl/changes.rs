//! What makes one rule list of another.
//!
//! In come two lists; out goes what is taken out and put in, one after the other. What must hold:
//! done in order, it makes the second list of the first. It is short where the lists differ
//! little, but not always as short as can be.

use std::ptr;

use crate::rule::{Rule, RuleList};

/// One step. Places are those of the list as the steps before left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The rule at `place`, which is at `old` in the first list, is taken out.
    Remove {
        /// Its place.
        place: usize,
        /// Its place in the first list.
        old: usize,
    },
    /// The rule at `place` in the second list is put in there.
    Insert {
        /// Its place.
        place: usize,
    },
}

/// How far apart the next rule that both lists have is looked for.
const WINDOW: usize = 32;

/// The steps from `old` to `new`; `None` if there would be more than `most`. Rules that both have
/// in memory are not read.
pub(super) fn changes(old: &RuleList, new: &RuleList, most: usize) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    let (mut i, mut j) = (0, 0);
    let equal = |i: usize, j: usize| match (old.get(i), new.get(j)) {
        (Some(old), Some(new)) => same(old, new),
        _ => false,
    };
    while i < old.len() || j < new.len() {
        let alike = alike(old.run(i), new.run(j));
        if alike > 0 {
            (i, j) = (i + alike, j + alike);
            continue;
        }
        // To where they agree again: something was put in, taken out, or replaced.
        let ways = (1..=WINDOW).flat_map(|n| [(0, n), (n, 0), (n, n)]);
        let way = ways.into_iter().find(|&(n, m)| equal(i + n, j + m));
        let (removed, inserted) = way.unwrap_or((1, 1));
        for _ in 0..removed.min(old.len() - i) {
            changes.push(Change::Remove { place: j, old: i });
            i += 1;
        }
        for _ in 0..inserted.min(new.len() - j) {
            changes.push(Change::Insert { place: j });
            j += 1;
        }
        if changes.len() > most {
            return None;
        }
    }
    Some(changes)
}

/// How many rules from the first on are the same.
fn alike(old: &[Rule], new: &[Rule]) -> usize {
    if ptr::eq(old.as_ptr(), new.as_ptr()) {
        return old.len().min(new.len());
    }
    let pairs = old.iter().zip(new);
    pairs.take_while(|(old, new)| same(old, new)).count()
}

/// Whether rules are alike in all but what was written.
fn same(a: &Rule, b: &Rule) -> bool {
    let head = |rule: &Rule| (rule.id, rule.action, rule.log, rule.limit);
    head(a) == head(b) && a.matches == b.matches
}
