//! From a field's value to the row of the interval that holds it.

/// Rows by intervals of a field's values: a search tree with [`FANOUT`] starts in a node, so that
/// a search in 100,000 intervals touches five runs of memory, the first three always the same.
#[derive(Debug)]
pub(super) struct Intervals<T> {
    /// From the root: the starts of the next level's nodes, in the last of intervals, in whole
    /// nodes that are filled up with the last start.
    levels: Box<[Box<[T]>]>,
    /// Each interval's row.
    rows: Box<[u32]>,
}

const FANOUT: usize = 16;

impl<T: Copy + Ord> Intervals<T> {
    /// `starts` begins with the least value.
    pub(super) fn new(starts: Vec<T>, rows: Vec<u32>) -> Self {
        let mut levels = Vec::new();
        let mut level = starts;
        loop {
            let above: Vec<T> = level.iter().copied().step_by(FANOUT).collect();
            let nodes = above.len();
            if let Some(&last) = level.last() {
                level.resize(nodes * FANOUT, last);
            }
            levels.push(level.into_boxed_slice());
            if nodes <= 1 {
                break;
            }
            level = above;
        }
        levels.reverse();
        Self {
            levels: levels.into(),
            rows: rows.into(),
        }
    }

    /// The row of the interval that holds the value.
    #[inline]
    pub(super) fn row(&self, value: T) -> u32 {
        let mut node = 0;
        for level in &self.levels {
            let (nodes, _) = level.as_chunks::<FANOUT>();
            // Beyond the last there is what nodes were filled up with.
            node = node.min(nodes.len() - 1);
            let begun = nodes[node].iter().map(|start| u32::from(*start <= value));
            node = node * FANOUT + begun.sum::<u32>() as usize - 1;
        }
        self.rows[node.min(self.rows.len() - 1)]
    }

    /// Each interval's row.
    pub(super) fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let levels = self.levels.iter().map(|level| size_of_val(&**level));
        levels.sum::<usize>() + size_of_val(&*self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_the_row_of_the_last_interval_that_began() {
        for count in [1, 2, 15, 16, 17, 255, 256, 257, 300, 5000] {
            let starts: Vec<u16> = (0..count).map(|number| number * 13).collect();
            let intervals = Intervals::new(starts.clone(), (0..u32::from(count)).collect());
            for value in (0..count * 13 + 20).chain([u16::MAX]) {
                let expected = starts.partition_point(|start| *start <= value) - 1;
                assert_eq!(intervals.row(value) as usize, expected, "{count} {value}");
            }
        }
    }
}
