//! The leaves of the front: what each address of a /24 leads to, where not all lead to the same.
//!
//! In comes who writes a leaf, or an address of which a page says in which leaf it is; out goes a
//! number, as pages have them.
//!
//! ```text
//!   number in a page, from FIRST_LEAF on ─► which leaf ─► 8 bits of the address ─► number
//! ```
//!
//! A tenant whose machines have routes of their own has many in few /24s; without a leaf each of
//! them is looked for down the whole tree. Leaves lie sixteen to a page of the front's pool, so
//! that versions share them as they share pages.
//!
//! What must hold: a leaf is one /24's, until it is given back. There are [`MAX_LEAVES`] at most;
//! a /24 that finds none is left to the tree.

use super::pages::{NUMBERS, Page, Pool};

/// Numbers of a leaf: the addresses of a /24.
pub(super) const LEAF_NUMBERS: usize = 256;
/// Leaves of a page.
const LEAVES_A_PAGE: usize = NUMBERS / LEAF_NUMBERS;
/// The number of the first leaf; below are those of targets.
pub(super) const FIRST_LEAF: u16 = 0x8000;
/// Most leaves of a table: 17 MB.
const MAX_LEAVES: usize = (u16::MAX - FIRST_LEAF) as usize + 1;

/// Those of a version of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaves {
    pages: Vec<Page>,
    /// Given back, to be taken before others.
    free: Vec<u16>,
    /// Numbers below are in use, or free.
    next: u16,
}

impl Leaves {
    /// A leaf for one who writes, by its number; its own numbers are any.
    pub(super) fn take(&mut self, pool: &Pool) -> Option<u16> {
        if let Some(leaf) = self.free.pop() {
            return Some(leaf);
        }
        let index = usize::from(self.next);
        if index == MAX_LEAVES {
            return None;
        }
        if index == self.pages.len() * LEAVES_A_PAGE {
            self.pages.push(pool.filled(0));
        }
        self.next += 1;
        Some(FIRST_LEAF + index as u16)
    }

    /// Gives a leaf back.
    pub(super) fn give_back(&mut self, leaf: u16) {
        self.free.push(leaf);
    }

    /// Writes the numbers of a leaf from `first` on, for this version alone.
    pub(super) fn write(
        &mut self,
        pool: &Pool,
        leaf: u16,
        first: usize,
        numbers: impl Iterator<Item = u16>,
    ) {
        let (page, start) = place(leaf);
        if let Some(page) = self.pages.get_mut(page) {
            pool.own(page);
            for (place, number) in (start + first..start + LEAF_NUMBERS).zip(numbers) {
                page.set(place, number);
            }
        }
    }

    /// What a leaf says of the address whose last eight bits these are.
    #[inline]
    pub(super) fn number(&self, leaf: u16, last: u8) -> Option<u16> {
        let (page, start) = place(leaf);
        Some(self.pages.get(page)?.number(start + usize::from(last)))
    }

    /// Bytes on the heap, pages left out.
    pub(super) fn heap_bytes(&self) -> usize {
        self.pages.capacity() * size_of::<Page>() + self.free.capacity() * size_of::<u16>()
    }
}

/// The page of a leaf, and where in it the leaf begins.
#[inline]
fn place(leaf: u16) -> (usize, usize) {
    let index = usize::from(leaf - FIRST_LEAF);
    (index / LEAVES_A_PAGE, index % LEAVES_A_PAGE * LEAF_NUMBERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_written_for_one_version_alone() {
        let pool = Pool::default();
        let mut old = Leaves::default();
        let leaves = [(); 20].map(|()| old.take(&pool).expect("room"));
        for leaf in leaves {
            old.write(&pool, leaf, 0, (0..256).map(|last| leaf ^ last));
        }
        let mut new = old.clone();
        new.write(&pool, leaves[17], 254, [1, 2, 3].into_iter());
        for leaf in leaves {
            for last in 0..=255 {
                let is_new = leaf == leaves[17] && last >= 254;
                let before = leaf ^ u16::from(last);
                let after = if is_new {
                    u16::from(last) - 253
                } else {
                    before
                };
                assert_eq!(old.number(leaf, last), Some(before));
                assert_eq!(new.number(leaf, last), Some(after));
            }
        }
    }

    #[test]
    fn there_is_an_end_to_leaves_and_those_given_back_are_taken_again() {
        let pool = Pool::default();
        let mut leaves = Leaves::default();
        let taken: Vec<u16> = std::iter::from_fn(|| leaves.take(&pool)).collect();
        assert_eq!(taken.len(), MAX_LEAVES);
        assert_eq!(taken.last(), Some(&u16::MAX));
        leaves.give_back(taken[7]);
        assert_eq!(leaves.take(&pool), Some(taken[7]));
        assert_eq!(leaves.take(&pool), None);
    }
}
