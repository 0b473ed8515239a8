//! Long buckets by destination port.
//!
//! Rules that hash alike and ask for different ranges of destination ports stand in one bucket,
//! however many they are. In come their ranges; out goes, for a port, the list of those that hold
//! it.

use std::{collections::BTreeMap, ops::RangeInclusive};

/// A bucket's entries by destination port.
#[derive(Debug)]
pub(super) struct PortIndex {
    /// Where each interval begins; the first at 0.
    starts: Box<[u16]>,
    /// Where each interval's entries begin in `entries`, and where the last one's end.
    firsts: Box<[u32]>,
    /// Numbers of entries in the bucket, in the rules' order.
    entries: Box<[u32]>,
}

/// An index takes at most so many numbers for each entry; ranges that overlap more are scanned.
const NUMBERS_PER_ENTRY: usize = 4;

impl PortIndex {
    /// `ranges` holds those of each entry. `None` if the index would be too large, or of no use.
    pub(super) fn compile(ranges: &[Vec<RangeInclusive<u16>>]) -> Option<Self> {
        // Where a range begins or has ended, and whose.
        let mut edges: Vec<(u32, u32, i32)> = Vec::new();
        for (entry, ranges) in (0..).zip(ranges) {
            for range in ranges {
                edges.push((u32::from(*range.start()), entry, 1));
                edges.push((u32::from(*range.end()) + 1, entry, -1));
            }
        }
        edges.sort_unstable();
        // A rule's ranges may overlap, so each counts.
        let mut open: BTreeMap<u32, i32> = BTreeMap::new();
        let (mut starts, mut firsts, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        let mut edges = edges.iter().peekable();
        let mut start = 0;
        while let Ok(port) = u16::try_from(start) {
            while let Some((_, entry, change)) = edges.next_if(|(at, ..)| *at == start) {
                *open.entry(*entry).or_default() += change;
            }
            open.retain(|_, count| *count > 0);
            starts.push(port);
            firsts.push(entries.len() as u32);
            entries.extend(open.keys());
            if entries.len() > NUMBERS_PER_ENTRY * ranges.len() {
                return None;
            }
            let Some((next, ..)) = edges.peek() else {
                break;
            };
            start = *next;
        }
        firsts.push(entries.len() as u32);
        let index = Self {
            starts: starts.into(),
            firsts: firsts.into(),
            entries: entries.into(),
        };
        (index.longest() < ranges.len()).then_some(index)
    }

    /// The numbers of the entries that ask for the port.
    #[inline]
    pub(super) fn entries(&self, port: u16) -> &[u32] {
        let after = self.starts.partition_point(|&start| start <= port);
        match self.firsts.get(after.wrapping_sub(1)..=after) {
            Some(&[first, end]) => self.entries.get(first as usize..end as usize),
            _ => None,
        }
        .unwrap_or(&[])
    }

    /// The most entries that a port has.
    pub(super) fn longest(&self) -> usize {
        let lists = self.firsts.windows(2);
        let lengths = lists.map(|ends| (ends[1] - ends[0]) as usize);
        lengths.max().unwrap_or(0)
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.firsts) + size_of_val(&*self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_the_entries_whose_ranges_hold_it() {
        let ranges: Vec<Vec<RangeInclusive<u16>>> = vec![
            vec![10..=19],
            vec![15..=24, 20..=30, 65535..=65535],
            vec![0..=4],
            vec![20..=20],
        ];
        let index = PortIndex::compile(&ranges).expect("of use");
        for port in (0..40).chain([65534, 65535]) {
            let holds = |r: &Vec<RangeInclusive<u16>>| r.iter().any(|range| range.contains(&port));
            let expected: Vec<u32> = (0..)
                .zip(&ranges)
                .filter_map(|(entry, ranges)| holds(ranges).then_some(entry))
                .collect();
            assert_eq!(index.entries(port), expected, "port {port}");
        }
        assert_eq!(index.longest(), 2);
    }

    #[test]
    fn entries_of_every_port_are_not_indexed() {
        let every = vec![0..=u16::MAX];
        assert!(PortIndex::compile(&[every.clone(), every.clone(), every]).is_none());
    }
}
