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
    above: Arc<[Box<[Starts<T>]>]>,
    nodes: Paged<Node<T>, PAGE>,
}

/// The starts of a node, in one line of memory for fields of up to 32 bits.
#[repr(align(64))]
#[derive(Clone, Copy, Debug)]
struct Starts<T>([T; FANOUT]);

/// A node of the last level: intervals, each with its start and its row, filled up with the last.
#[derive(Clone, Copy, Debug)]
struct Node<T> {
    starts: Starts<T>,
    rows: [u32; FANOUT],
}

const FANOUT: usize = 16;
/// How many starts of a node are taken at first.
const FILLED: usize = 12;
/// How many may be taken of nodes that take from a full one.
const SPREAD: usize = 14;
const PAGE: usize = 32;
/// How far away a full node's intervals are spread, before all are laid out anew.
const NEIGHBOURS: [u32; 3] = [4, 32, 128];

impl<T: Copy + Ord> Starts<T> {
    /// The last that is not beyond the value, which the first one is not. In two steps without a
    /// branch: first among every fourth start, then among the three behind it.
    #[inline(always)]
    fn find(&self, value: T) -> usize {
        let starts = &self.0;
        let begun = |start: T| usize::from(start <= value);
        let fourth = 4 * (begun(starts[4]) + begun(starts[8]) + begun(starts[12]));
        let behind = [fourth + 1, fourth + 2, fourth + 3];
        // Never more than 15; said to the compiler, which then does not check it.
        let behind = behind.map(|place| begun(starts[place % FANOUT]));
        fourth + behind[0] + behind[1] + behind[2]
    }
}

impl<T: Copy + Ord> Node<T> {
    /// `intervals` are from one to [`FANOUT`].
    fn new(intervals: &[(T, u32)]) -> Self {
        let last = intervals.len() - 1;
        let filled: [_; FANOUT] = std::array::from_fn(|place| intervals[place.min(last)]);
        Self {
            starts: Starts(filled.map(|(start, _)| start)),
            rows: filled.map(|(_, row)| row),
        }
    }

    /// Its intervals, without what fills it up.
    fn intervals(&self) -> Vec<(T, u32)> {
        let mut intervals: Vec<(T, u32)> = self.starts.0.into_iter().zip(self.rows).collect();
        intervals.dedup_by_key(|(start, _)| *start);
        intervals
    }
}

impl<T: Copy + Ord> Intervals<T> {
    /// Intervals in order, each with its start and its row; the first begins with the least value.
    pub(super) fn new(intervals: &[(T, u32)]) -> Self {
        let nodes: Vec<Node<T>> = intervals.chunks(FILLED).map(Node::new).collect();
        let mut above = Vec::new();
        let mut level: Vec<T> = nodes.iter().map(|node| node.starts.0[0]).collect();
        while level.len() > 1 {
            let next: Vec<T> = level.iter().copied().step_by(FANOUT).collect();
            if let Some(&last) = level.last() {
                level.resize(next.len() * FANOUT, last);
            }
            let (starts, _) = level.as_chunks::<FANOUT>();
            above.push(starts.iter().copied().map(Starts).collect());
            level = next;
        }
        above.reverse();
        Self {
            above: above.into(),
            nodes: Paged::new(&nodes),
        }
    }

    /// The row of the interval that holds the value.
    #[inline(always)]
    pub(super) fn row(&self, value: T) -> u32 {
        let node = self.nodes.get(self.find(value) as u32);
        node.rows[node.starts.find(value)]
    }

    /// The node that holds the value.
    #[inline(always)]
    fn find(&self, value: T) -> usize {
        let mut node = 0;
        for level in &*self.above {
            // Beyond the last there is what nodes were filled up with.
            node = node.min(level.len() - 1);
            node = node * FANOUT + level[node].find(value);
        }
        node.min(self.nodes.len() - 1)
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
        let behind = (last < most).then(|| (next(last), last));
        for (start, value) in [Some((first, first)), behind].into_iter().flatten() {
            // An interval that stays as it is needs no start within it.
            let row = self.row(value);
            if change(row) != row {
                self.split(start);
            }
        }
        for number in self.find(first)..self.nodes.len() {
            let node = *self.nodes.get(number as u32);
            if node.starts.0[0] > last {
                break;
            }
            let mut changed = node;
            for (start, row) in node.starts.0.into_iter().zip(&mut changed.rows) {
                if range.contains(&start) {
                    *row = change(*row);
                }
            }
            if changed.rows != node.rows {
                *self.nodes.get_mut(number as u32) = changed;
            }
        }
    }

    /// Begins an interval at `value`.
    fn split(&mut self, value: T) {
        let number = self.find(value) as u32;
        let node = self.nodes.get(number);
        let found = node.starts.find(value);
        if node.starts.0[found] == value {
            return;
        }
        let new = (value, node.rows[found]);
        let mut intervals = node.intervals();
        put(&mut intervals, new);
        if intervals.len() <= FANOUT {
            *self.nodes.get_mut(number) = Node::new(&intervals);
        } else if !NEIGHBOURS.iter().any(|&far| self.spread(number, far, new)) {
            let mut all: Vec<(T, u32)> = self.nodes.iter().flat_map(Node::intervals).collect();
            put(&mut all, new);
            *self = Self::new(&all);
        }
    }

    /// Puts an interval into the node `number`, which is full, and spreads what it has over those
    /// up to `far` away. False if those are too full as well.
    fn spread(&mut self, number: u32, far: u32, new: (T, u32)) -> bool {
        let end = (number + far + 1).min(self.nodes.len() as u32);
        let range = number.saturating_sub(far)..end;
        let nodes = range.clone().map(|number| self.nodes.get(number));
        let mut all: Vec<(T, u32)> = nodes.flat_map(Node::intervals).collect();
        put(&mut all, new);
        if all.len() > range.len() * SPREAD {
            return false;
        }
        // Never empty: nodes hold at least one interval each, and these are more.
        let (each, more) = (all.len() / range.len(), all.len() % range.len());
        let mut rest = all.as_slice();
        for (place, number) in range.clone().enumerate() {
            let (these, others) = rest.split_at(each + usize::from(place < more));
            *self.nodes.get_mut(number) = Node::new(these);
            rest = others;
        }
        self.raise(range.start as usize, range.end as usize);
        true
    }

    /// Tells the levels above where the nodes from `first` to before `end` start.
    fn raise(&mut self, mut first: usize, mut end: usize) {
        let nodes = (first..end).map(|number| self.nodes.get(number as u32));
        let mut starts: Vec<T> = nodes.map(|node| node.starts.0[0]).collect();
        let mut below = self.nodes.len();
        for level in Arc::make_mut(&mut self.above).iter_mut().rev() {
            if let Some(&last) = starts.last().filter(|_| end == below) {
                // What fills the level up follows its last start.
                end = level.len() * FANOUT;
                starts.resize(end - first, last);
            }
            for (place, start) in (first..end).zip(&starts) {
                level[place / FANOUT].0[place % FANOUT] = *start;
            }
            (first, end, below) = (first / FANOUT, end.div_ceil(FANOUT), level.len());
            starts = level[first..end].iter().map(|node| node.0[0]).collect();
        }
    }

    /// Each interval's row.
    pub(super) fn rows(&self) -> impl Iterator<Item = u32> {
        self.nodes.iter().flat_map(|node| node.rows)
    }

    /// Bytes on the heap, what `other` has too left out.
    pub(super) fn bytes_beside(&self, other: Option<&Self>) -> usize {
        let above = match other {
            Some(other) if Arc::ptr_eq(&self.above, &other.above) => 0,
            _ => self.above.iter().map(|level| size_of_val(&**level)).sum(),
        };
        above + self.nodes.bytes_beside(other.map(|other| &other.nodes))
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
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
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

    #[test]
    fn full_nodes_spread_to_their_neighbours() {
        const COUNT: u32 = 6000;
        // The first values, the last ones, and some between.
        for base in [0, COUNT * 1000 - 400, 3_111_000] {
            let mut plain: Vec<(u32, u32)> = (0..COUNT).map(|n| (n * 1000, n)).collect();
            let mut intervals = Intervals::new(&plain);
            let all = intervals.bytes_beside(None);
            let mut laid_out = 0;
            for number in 0..300_u32 {
                let start = base + 1 + number * 7919 % 900;
                let before = intervals.clone();
                let range = start..=start;
                intervals.change(&range, u32::MAX, |value| value + 1, |_| COUNT + number);
                let row = before.row(start + 1);
                for (value, row) in [(start, COUNT + number), (start + 1, row)] {
                    match plain.binary_search_by_key(&value, |(start, _)| *start) {
                        Ok(place) => plain[place].1 = row,
                        Err(place) => plain.insert(place, (value, row)),
                    }
                }
                let near = |value: u32| value.abs_diff(start) < 20_000 || value.is_multiple_of(997);
                let mut around = plain
                    .iter()
                    .enumerate()
                    .filter(|(_, (start, _))| near(*start));
                assert!(around.all(|(place, (start, row))| {
                    let last = plain.get(place + 1).map_or(*start, |next| next.0 - 1);
                    intervals.row(*start) == *row && intervals.row(last) == *row
                }));
                let own = intervals.bytes_beside(Some(&before));
                // The widest spread changes little more than half.
                laid_out += u32::from(own * 4 > all * 3);
            }
            // Every node spread to has room for two more.
            assert!(laid_out <= 4, "{base}: laid out anew {laid_out} times");
        }
    }
}
