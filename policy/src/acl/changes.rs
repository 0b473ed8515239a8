//! What makes one rule list of another.
//!
//! In come two lists; out goes what is taken out and put in, one after the other. What must hold:
//! done in order, it makes the second list of the first. It is short where the lists differ
//! little, but not always as short as can be.

use crate::rule::Rule;

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

/// The steps from `old` to `new`; `None` if there would be more than `most`.
pub(super) fn changes(old: &[Rule], new: &[Rule], most: usize) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    let (mut i, mut j) = (0, 0);
    let equal = |i: usize, j: usize| match (old.get(i), new.get(j)) {
        (Some(old), Some(new)) => same(old, new),
        _ => false,
    };
    while i < old.len() || j < new.len() {
        if equal(i, j) {
            (i, j) = (i + 1, j + 1);
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

/// Whether rules are looked up alike; where they were written does not matter.
fn same(a: &Rule, b: &Rule) -> bool {
    a.id == b.id && a.action == b.action && a.matches == b.matches
}
