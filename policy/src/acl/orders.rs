//! Numbers that grow along a list, with gaps between them: a rule's *order* is what it is compared
//! with other rules by, and stays when rules are put in before it.
//!
//! In comes a rule's place; out goes its order. What must hold: orders grow strictly with places,
//! and are neither 0 nor [`u32::MAX`].

use std::sync::Arc;

/// The orders of a list's rules, in chunks that versions share.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    /// None is empty.
    chunks: Vec<Arc<Vec<u32>>>,
}

/// A chunk is split at twice as many.
const CHUNK: usize = 256;

impl Orders {
    /// Evenly spread.
    pub(super) fn spread(count: usize) -> Self {
        let gap = u32::MAX / (count as u32).saturating_add(1);
        let orders: Vec<u32> = (1..=count as u32).map(|number| number * gap).collect();
        let chunks = orders.chunks(CHUNK);
        Self {
            chunks: chunks.map(|chunk| Arc::new(chunk.to_vec())).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }

    /// All, from the first.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().copied())
    }

    /// The order of the rule at `place`.
    pub(super) fn get(&self, place: usize) -> Option<u32> {
        let (chunk, place) = self.find(place)?;
        Some(self.chunks[chunk][place])
    }

    /// Takes the rule at `place` out of the list and gives its order.
    pub(super) fn remove(&mut self, place: usize) -> Option<u32> {
        let (number, place) = self.find(place)?;
        let chunk = Arc::make_mut(&mut self.chunks[number]);
        let order = chunk.remove(place);
        if chunk.is_empty() {
            self.chunks.remove(number);
        }
        Some(order)
    }

    /// Whether there is an order before that of the rule at `place`.
    pub(super) fn has_room(&self, place: usize) -> bool {
        self.before(place).is_some()
    }

    /// The order in the middle between those of the rule at `place` and of the one before it.
    fn before(&self, place: usize) -> Option<u32> {
        let before = place.checked_sub(1).and_then(|place| self.get(place));
        let before = before.unwrap_or(0);
        let after = self.get(place).unwrap_or(u32::MAX);
        let order = before + (after - before) / 2;
        (order != before).then_some(order)
    }

    /// Puts a rule in before the one at `place` and gives its order; `None` if there is no room.
    pub(super) fn insert(&mut self, place: usize) -> Option<u32> {
        let order = self.before(place)?;
        let (number, place) = match self.find(place) {
            Some(found) => found,
            None if self.chunks.is_empty() => {
                self.chunks.push(Arc::default());
                (0, 0)
            }
            None => {
                let last = self.chunks.len() - 1;
                (last, self.chunks[last].len())
            }
        };
        let chunk = Arc::make_mut(&mut self.chunks[number]);
        chunk.insert(place, order);
        if chunk.len() >= 2 * CHUNK {
            let rest = chunk.split_off(CHUNK);
            self.chunks.insert(number + 1, Arc::new(rest));
        }
        Some(order)
    }

    /// A place's chunk, and its place there.
    fn find(&self, mut place: usize) -> Option<(usize, usize)> {
        for (number, chunk) in self.chunks.iter().enumerate() {
            if place < chunk.len() {
                return Some((number, place));
            }
            place -= chunk.len();
        }
        None
    }

    /// Bytes on the heap, chunks that `other` has too left out.
    pub(super) fn bytes_beside(&self, other: Option<&Self>) -> usize {
        let theirs = other.map_or(&[][..], |other| &other.chunks);
        let own = self
            .chunks
            .iter()
            .filter(|chunk| !theirs.iter().any(|theirs| Arc::ptr_eq(theirs, chunk)));
        own.map(|chunk| chunk.capacity() * size_of::<u32>())
            .sum::<usize>()
            + size_of_val(self.chunks.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_grow_with_places_whatever_is_put_in_and_taken_out() {
        for count in [0, 1, 255, 256, 257, 3000] {
            let mut orders = Orders::spread(count);
            let mut state = 1_usize;
            for _ in 0..3000 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let place = (state >> 33) % (orders.len() + 1);
                let before = orders.len();
                if state >> 62 == 0 {
                    let removed = orders.remove(place);
                    assert_eq!(removed.is_some(), place < before);
                } else {
                    let order = orders.insert(place).expect("room");
                    assert_eq!(orders.get(place), Some(order));
                    assert_eq!(orders.len(), before + 1);
                }
            }
            assert!(orders.iter().is_sorted_by(|a, b| a < b));
            assert!(orders.iter().all(|order| order != 0 && order != u32::MAX));
        }
    }

    #[test]
    fn gaps_run_out_without_a_wrong_order() {
        let mut orders = Orders::spread(1000);
        let count = std::iter::from_fn(|| orders.insert(500)).count();
        assert!((15..32).contains(&count), "{count}");
        assert!(orders.iter().is_sorted_by(|a, b| a < b));
        assert_eq!(orders.len(), 1000 + count);
    }
}
