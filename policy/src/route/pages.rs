//! Pages of the front, in slabs of 2 MiB. An allocator that puts such allocations into huge pages,
//! as the programs' does, spares lookups the walk through page tables.
//!
//! In comes who wants a page to write; out goes a page that nobody else reads.
//!
//! ```text
//!   versions of a table ─┬─► Pool ───► Slab: up to 256 pages, and how many hold each
//!                        └─► Page ──────▲ its place
//! ```
//!
//! What must hold: a page is written only while its one holder is the writer, so that versions
//! share pages and whoever reads another never meets half of a change. A page that nobody holds is
//! the next writer's, of whatever version. A slab that is added for one page is not larger than all
//! before it together, so that a table with few pages takes few. A slab stays as long as one of its
//! pages is held; pages are taken from the first that has a free one, so that later ones empty.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU16, AtomicU32, Ordering},
};

use super::tree::ARC_BYTES;

/// Numbers of a page.
pub(super) const NUMBERS: usize = 4096;
/// The most pages of a slab, which are a huge page.
const SLAB_PAGES: usize = 256;

/// Written while one holds them, read while several do. Loads and stores are relaxed, as cheap as
/// any others; counting the holders orders them.
type Numbers = [AtomicU16; NUMBERS];

/// All pages of the versions of a table: a clone is the same pool.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool {
    slabs: Arc<Mutex<Vec<Arc<Slab>>>>,
}

/// Pages that are allocated together.
#[derive(Debug)]
struct Slab {
    numbers: Box<[Numbers]>,
    /// How many hold each; nobody holds a free one.
    holders: Box<[AtomicU32]>,
    /// Pages that somebody holds.
    used: AtomicU32,
}

/// A page, held.
#[derive(Debug)]
pub(super) struct Page {
    slab: Arc<Slab>,
    place: u32,
}

impl Pool {
    /// Has room for so many more pages.
    pub(super) fn reserve(&self, pages: usize) {
        reserve(&mut self.slabs(), pages);
    }

    /// A page for one who writes, filled with `number`.
    pub(super) fn filled(&self, number: u16) -> Page {
        let page = self.take();
        for place in page.numbers() {
            place.store(number, Ordering::Relaxed);
        }
        page
    }

    /// Makes the page one that nobody else holds: a copy, where somebody does.
    pub(super) fn own(&self, page: &mut Page) {
        // Pairs with the release of who held it before: what they read, they have read.
        if page.holders().load(Ordering::Acquire) == 1 {
            return;
        }
        let copy = self.take();
        for (to, from) in copy.numbers().iter().zip(page.numbers()) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        *page = copy;
    }

    /// A page with any numbers.
    fn take(&self) -> Page {
        let mut slabs = self.slabs();
        loop {
            if let Some(page) = slabs.iter().find_map(Slab::take) {
                shrink(&mut slabs);
                return page;
            }
            let pages: usize = slabs.iter().map(|slab| slab.holders.len()).sum();
            reserve(&mut slabs, pages.clamp(1, SLAB_PAGES));
        }
    }

    fn slabs(&self) -> MutexGuard<'_, Vec<Arc<Slab>>> {
        // Whoever panicked in it left a list of slabs all the same.
        self.slabs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes on the heap, those that other versions use included.
    pub(super) fn heap_bytes(&self) -> usize {
        let slab = |slab: &Arc<Slab>| {
            ARC_BYTES
                + size_of::<Slab>()
                + size_of_val(&*slab.numbers)
                + size_of_val(&*slab.holders)
        };
        let slabs = self.slabs();
        ARC_BYTES
            + size_of::<Mutex<Vec<Arc<Slab>>>>()
            + slabs.capacity() * size_of::<Arc<Slab>>()
            + slabs.iter().map(slab).sum::<usize>()
    }
}

/// Adds slabs for so many pages.
fn reserve(slabs: &mut Vec<Arc<Slab>>, pages: usize) {
    for first in (0..pages).step_by(SLAB_PAGES) {
        slabs.push(Arc::new(Slab::new(SLAB_PAGES.min(pages - first))));
    }
}

/// Lets go of empty slabs, but for one, so that a page that comes and goes costs no slab.
fn shrink(slabs: &mut Vec<Arc<Slab>>) {
    let mut empty = 0;
    slabs.retain(|slab| {
        let is_empty = slab.used.load(Ordering::Relaxed) == 0;
        empty += u32::from(is_empty);
        !is_empty || empty == 1
    });
}

impl Slab {
    fn new(pages: usize) -> Self {
        let page = || [const { AtomicU16::new(0) }; NUMBERS];
        Self {
            numbers: (0..pages).map(|_| page()).collect(),
            holders: (0..pages).map(|_| AtomicU32::new(0)).collect(),
            used: AtomicU32::new(0),
        }
    }

    fn take(slab: &Arc<Self>) -> Option<Page> {
        if slab.used.load(Ordering::Relaxed) as usize == slab.holders.len() {
            return None;
        }
        // Writers of other versions may take pages at the same time.
        let take = |holders: &AtomicU32| {
            holders
                .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        };
        let place = slab.holders.iter().position(take)? as u32;
        slab.used.fetch_add(1, Ordering::Relaxed);
        Some(Page {
            slab: slab.clone(),
            place,
        })
    }
}

impl Page {
    /// One of its numbers; `place` is less than [`NUMBERS`].
    #[inline]
    pub(super) fn number(&self, place: usize) -> u16 {
        self.numbers()[place].load(Ordering::Relaxed)
    }

    /// Changes one of its numbers. The caller is the only holder.
    pub(super) fn set(&mut self, place: usize, number: u16) {
        debug_assert_eq!(self.holders().load(Ordering::Relaxed), 1);
        self.numbers()[place].store(number, Ordering::Relaxed);
    }

    #[inline]
    fn numbers(&self) -> &Numbers {
        &self.slab.numbers[self.place as usize]
    }

    fn holders(&self) -> &AtomicU32 {
        &self.slab.holders[self.place as usize]
    }
}

impl Clone for Page {
    fn clone(&self) -> Self {
        self.holders().fetch_add(1, Ordering::Relaxed);
        Self {
            slab: self.slab.clone(),
            place: self.place,
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // Reading comes before the next writer's writes.
        if self.holders().fetch_sub(1, Ordering::Release) == 1 {
            self.slab.used.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slabs(pool: &Pool) -> Vec<usize> {
        pool.slabs().iter().map(|slab| slab.holders.len()).collect()
    }

    fn numbers(page: &Page) -> Vec<u16> {
        (0..NUMBERS).map(|place| page.number(place)).collect()
    }

    #[test]
    fn a_page_is_written_by_its_one_holder_alone() {
        let pool = Pool::default();
        let mut old = pool.filled(7);
        old.set(3, 8);
        let mut new = old.clone();
        pool.own(&mut new);
        new.set(4, 9);
        assert_eq!([old.number(3), old.number(4)], [8, 7], "read by others");
        assert_eq!(
            [new.number(3), new.number(4)],
            [8, 9],
            "a copy with the change"
        );
        let before = numbers(&old);
        let place = std::ptr::from_ref(old.numbers());
        pool.own(&mut old);
        assert!(std::ptr::eq(place, old.numbers()), "nobody else reads it");
        assert_eq!(numbers(&old), before);
    }

    #[test]
    fn a_page_that_nobody_holds_is_the_next_ones_in_whatever_version() {
        let pool = Pool::default();
        pool.reserve(2);
        let version = pool.clone();
        let (first, second) = (pool.filled(1), version.filled(2));
        assert_eq!(slabs(&pool), [2]);
        drop(first.clone());
        let third = pool.filled(3);
        assert_eq!(slabs(&pool), [2, 2], "held ones are not taken");
        assert!(numbers(&first).iter().all(|number| *number == 1));
        let place = std::ptr::from_ref(first.numbers());
        drop(first);
        let fourth = version.filled(4);
        assert!(std::ptr::eq(place, fourth.numbers()));
        assert!(numbers(&second).iter().all(|number| *number == 2));
        assert!(numbers(&third).iter().all(|number| *number == 3));
    }

    #[test]
    fn slabs_grow_with_the_pages_and_go_when_they_are_empty() {
        let pool = Pool::default();
        let mut pages: Vec<Page> = (0..1100).map(|_| pool.filled(0)).collect();
        assert_eq!(
            slabs(&pool),
            [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256, 256]
        );
        let full = pool.heap_bytes();
        pages.truncate(10);
        for _ in 0..3 {
            pages[0] = pool.filled(0);
        }
        assert_eq!(slabs(&pool), [1, 1, 2, 4, 8, 16], "and one that is empty");
        assert!(pool.heap_bytes() < full / 30);
    }

    #[test]
    fn writers_of_several_versions_never_meet_in_a_page() {
        let pool = Pool::default();
        std::thread::scope(|scope| {
            for number in 0..4 {
                let pool = pool.clone();
                scope.spawn(move || {
                    for _ in 0..200 {
                        let page = pool.filled(number);
                        let mut copy = page.clone();
                        pool.own(&mut copy);
                        assert!(numbers(&page).iter().all(|found| *found == number));
                        drop(page);
                        assert!(numbers(&copy).iter().all(|found| *found == number));
                    }
                });
            }
        });
        let held: u32 = pool
            .slabs()
            .iter()
            .map(|slab| slab.used.load(Ordering::Relaxed))
            .sum();
        assert_eq!(held, 0);
    }
}
