//! Counts heap allocations, so that a bench or a test can hold that a stage makes none.
//!
//! In: every allocation of the program that installs [`Counting`] as its global allocator. Out:
//! their number by thread, so that what other threads do, a test runner's for one, is not taken
//! for the stage's. What must hold: memory comes from and goes to [`HugePages`] unchanged, as
//! in the program that is measured.
//!
//! It stands in this crate because an allocator cannot be written without `unsafe`.

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
};

use crate::huge_pages::HugePages;

thread_local! {
    // Constant and without a destructor: reaching it never allocates and never fails.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The allocator of the programs, counted. Install it with `#[global_allocator]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counting;

/// Allocations and reallocations that the calling thread made since its start; 0 for ever in a
/// program that did not install [`Counting`].
pub fn count() -> u64 {
    ALLOCATIONS.get()
}

fn count_one() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every call goes to `HugePages` with the caller's own arguments, so its contract is
// that one's; counting touches no memory but the counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_one();
        // SAFETY: the caller keeps `GlobalAlloc::alloc`'s contract.
        unsafe { HugePages.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count_one();
        // SAFETY: the caller keeps `GlobalAlloc::alloc_zeroed`'s contract.
        unsafe { HugePages.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count_one();
        // SAFETY: the caller keeps `GlobalAlloc::realloc`'s contract, and `ptr` came from HugePages.
        unsafe { HugePages.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `GlobalAlloc::dealloc`'s contract, and `ptr` came from HugePages.
        unsafe { HugePages.dealloc(ptr, layout) }
    }
}
