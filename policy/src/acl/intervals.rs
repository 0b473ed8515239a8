//! From a field's value to the row of the interval that holds it.
//!
//! In come values at which a row begins, then tables for ranges of values; out goes the row of a
//! value. What must hold: the starts of a node grow, but for the last one, which fills the node up.

use std::{ops::RangeInclusive, sync::Arc};

use super::paged::Paged;

/// Rows by intervals of a field's values: a search tree with [`FANOUT`] starts in a node, so that
/// a search in 100,000 intervals touches five runs of memory, the first three always the same.
/// Nodes of the last level have room for starts that are put in later.
#[derive(Clone, Debug)]
pub(super) struct Intervals<T> {
    /// From the root: the starts of the next level's nodes, in whole nodes that are filled up with
    /// the last start.
    above: Arc<[Box<[T]>]>,
    /// The intervals' starts, in whole nodes, each filled up with its last.
    starts: Paged<T, PAGE>,
    /// Each start's row.
    rows: Paged<u32, PAGE>,
}

const FANOUT: usize = 16;
/// How many starts of a node are taken at first.
const FILLED: usize = 12;
const PAGE: usize = 512;

impl<T: Copy + Ord> Intervals<T> {
    /// Intervals in order, each with its start and its row; the first begins with the least value.
    pub(super) fn new(intervals: &[(T, u32)]) -> Self {
        let (mut starts, mut rows) = (Vec::new(), Vec::new());
        for node in intervals.chunks(FILLED) {
            let filled = (0..FANOUT).filter_map(|place| node.get(place).or(node.last()));
            let (node_starts, node_rows): (Vec<T>, Vec<u32>) = filled.copied().unzip();
            starts.extend(node_starts);
            rows.extend(node_rows);
        }
        let mut above = Vec::new();
        let mut level: Vec<T> = starts.iter().copied().step_by(FANOUT).collect();
        while level.len() > 1 {
            let next: Vec<T> = level.iter().copied().step_by(FANOUT).collect();
            if let Some(&last) = level.last() {
                level.resize(next.len() * FANOUT, last);
            }
            above.push(std::mem::replace(&mut level, next).into_boxed_slice());
        }
        above.reverse();
        Self {
            above: above.into(),
            starts: Paged::new(&starts),
            rows: Paged::new(&rows),
        }
    }

    /// The row of the interval that holds the value.
    #[inline]
    pub(super) fn row(&self, value: T) -> u32 {
        *self.rows.get(self.find(value))
    }

    /// The last start that is not beyond the value, by number.
    #[inline]
    fn find(&self, value: T) -> u32 {
        let begun = |node: &[T]| {
            let (nodes, _) = node.as_chunks::<FANOUT>();
            let begun = nodes[0].iter().map(|start| u32::from(*start <= value));
            begun.sum::<u32>() - 1
        };
        let mut node = 0;
        for level in &*self.above {
            // Beyond the last there is what nodes were filled up with.
            node = node.min(level.len() / FANOUT - 1);
            node = node * FANOUT + begun(&level[node * FANOUT..]) as usize;
        }
        let first = (node * FANOUT).min(self.starts.len() - FANOUT) as u32;
        first + begun(self.starts.from(first))
    }

    /// Gives the values in `range`, of those up to `most`, the row that `change` makes of the one
    /// they have. `next` is the value behind another one.
    pub(super) fn change(
        &mut self,
        range: &RangeInclusive<T>,
        most: T,
        next: impl Fn(T) -> T,
        mut change: impl FnMut(u32) -> u32,
    ) {
        let (first, last) = (*range.start(), *range.end());
        for (value, behind) in [(Some(first), first), ((last < most).then(|| next(last)), last)] {
            // An interval that stays as it is needs no start within it.
            let row = self.row(behind);
            if let Some(value) = value
                && change(row) != row
            {
                self.split(value);
            }
        }
        let mut number = self.find(first) / FANOUT as u32 * FANOUT as u32;
        while (number as usize) < self.starts.len() && *self.starts.get(number) <= last {
            if *self.starts.get(number) >= first {
                let row = *self.rows.get(number);
                let changed = change(row);
                if changed != row {
                    *self.rows.get_mut(number) = changed;
                }
            }
            number += 1;
        }
    }

    /// Begins an interval at `value`.
    fn split(&mut self, value: T) {
        let found = self.find(value);
        if *self.starts.get(found) == value {
            return;
        }
        let row = *self.rows.get(found);
        let first = found / FANOUT as u32 * FANOUT as u32;
        let numbers = first..first + FANOUT as u32;
        let mut node: Vec<(T, u32)> = numbers
            .clone()
            .map(|number| (*self.starts.get(number), *self.rows.get(number)))
            .collect();
        node.dedup_by_key(|(start, _)| *start);
        if node.len() == FANOUT {
            let mut intervals = self.intervals();
            put(&mut intervals, (value, row));
            *self = Self::new(&intervals);
            return;
        }
        put(&mut node, (value, row));
        let last = node[node.len() - 1];
        for (number, (start, row)) in numbers.zip(node.into_iter().chain(std::iter::repeat(last))) {
            *self.starts.get_mut(number) = start;
            *self.rows.get_mut(number) = row;
        }
    }

    /// The intervals without what fills nodes up.
    fn intervals(&self) -> Vec<(T, u32)> {
        let starts = self.starts.iter().copied();
        let mut intervals: Vec<(T, u32)> = starts.zip(self.rows.iter().copied()).collect();
        intervals.dedup_by_key(|(start, _)| *start);
        intervals
    }

    /// Each interval's row.
    pub(super) fn rows(&self) -> impl Iterator<Item = u32> {
        self.rows.iter().copied()
    }

    /// Bytes on the heap, what `other` has too left out.
    pub(super) fn bytes_beside(&self, other: Option<&Self>) -> usize {
        let above = match other {
            Some(other) if Arc::ptr_eq(&self.above, &other.above) => 0,
            _ => self.above.iter().map(|level| size_of_val(&**level)).sum(),
        };
        above
            + self.starts.bytes_beside(other.map(|other| &other.starts))
            + self.rows.bytes_beside(other.map(|other| &other.rows))
    }
}

/// Puts an interval in where it begins.
fn put<T: Copy + Ord>(intervals: &mut Vec<(T, u32)>, new: (T, u32)) {
    let place = intervals.partition_point(|(start, _)| *start < new.0);
    intervals.insert(place, new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_the_row_of_the_last_interval_that_began() {
        for count in [1, 2, 11, 12, 13, 15, 16, 17, 255, 256, 257, 300, 5000] {
            let starts: Vec<u16> = (0..count).map(|number| number * 13).collect();
            let intervals: Vec<_> = starts.iter().copied().zip(0..).collect();
            let intervals = Intervals::new(&intervals);
            for value in (0..count * 13 + 20).chain([u16::MAX]) {
                let expected = starts.partition_point(|start| *start <= value) - 1;
                assert_eq!(intervals.row(value) as usize, expected, "{count} {value}");
            }
        }
    }

    #[test]
    fn a_change_reaches_its_range_and_nothing_else() {
        for count in [1, 30, 400] {
            let before: Vec<(u16, u32)> = (0..count).map(|number| (number * 7, 1)).collect();
            let mut intervals = Intervals::new(&before);
            let mut expected = vec![1_u32; 4096];
            let mut state = 9_u64;
            for bit in 0..300 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let first = (state >> 33) as u16 % 4096;
                let size = [0, 3, 900, 4095][(state >> 62) as usize];
                let range = first..=first.saturating_add(size).min(4095);
                let row = 1 << (bit % 20);
                let old = intervals.clone();
                intervals.change(&range, 4095, |value| value + 1, |old| old | row);
                for value in 0..4096 {
                    assert_eq!(old.row(value), expected[value as usize], "the old version");
                    if range.contains(&value) {
                        expected[value as usize] |= row;
                    }
                    assert_eq!(intervals.row(value), expected[value as usize], "{value}");
                }
            }
        }
    }
}
