//! The allocator of the programs: large tables lie in huge pages.
//!
//! In: every allocation of a program that installs [`HugePages`] as its global allocator. Out:
//! one of a huge page or more is a mapping of its own, aligned to huge pages, for which the kernel
//! is asked for such (`madvise(2)`, `MADV_HUGEPAGE`), and goes back to the kernel when it is freed;
//! all others are the system allocator's. A load that misses the caches then waits for memory
//! alone, not for page tables too, which on a virtual machine are walked in two dimensions.
//!
//! What must hold: the size and alignment of an allocation alone say whose it is, so that what
//! frees it knows. Where the kernel has no huge pages to give, only speed is lost.
//!
//! It stands in this crate because an allocator cannot be written without `unsafe`.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ffi::c_void,
    ptr,
};

use rustix::mm::{self, Advice, MapFlags, MremapFlags, ProtFlags};

/// Bytes of a huge page.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Mappings are multiples of it; it is a multiple of every ordinary page's size.
const GRAIN_BYTES: usize = 64 << 10;

/// The system allocator, and huge pages for what is large. Install it with `#[global_allocator]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct HugePages;

// SAFETY: `is_large` depends on the layout alone, so that each allocation is reallocated and freed
// by who made it. The system allocator gets the caller's own arguments, and its contract is the
// one wanted here. A mapping is as long as asked for or longer, aligned to a huge page, which is
// as much as a large layout may ask for, zero when it is new, and nobody else's.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return map(layout.size());
        }
        // SAFETY: the caller keeps `GlobalAlloc::alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return map(layout.size());
        }
        // SAFETY: the caller keeps `GlobalAlloc::alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller says that `size`, rounded up to the alignment, is no more than
        // `isize::MAX`.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_large(layout), is_large(wanted)) {
            // SAFETY: `old` came from System, and the caller keeps the rest of the contract.
            (false, false) => unsafe { System.realloc(old, layout, size) },
            // SAFETY: `old` came from `map` with the layout's size.
            (true, true) => unsafe { remap(old, layout.size(), size) },
            // SAFETY: both allocations have room for the lesser of the two sizes, are not the
            // same, and `old` is freed with the layout that it has, and only when it was copied.
            _ => unsafe {
                let new = self.alloc(wanted);
                if !new.is_null() {
                    ptr::copy_nonoverlapping(old, new, layout.size().min(size));
                    self.dealloc(old, layout);
                }
                new
            },
        }
    }

    // SAFETY: the impl says why both ways keep the contract.
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        if is_large(layout) {
            // SAFETY: the mapping is one that `map` or `remap` made for this size, and the caller
            // says that nobody uses it any more.
            unsafe { unmap(place, mapped_bytes(layout.size())) };
        } else {
            // SAFETY: the caller keeps `GlobalAlloc::dealloc`'s contract, and `place` came from
            // System.
            unsafe { System.dealloc(place, layout) };
        }
    }
}

fn is_large(layout: Layout) -> bool {
    layout.size() >= HUGE_PAGE_BYTES && layout.align() <= HUGE_PAGE_BYTES
}

/// How much is mapped for an allocation.
fn mapped_bytes(size: usize) -> usize {
    size.next_multiple_of(GRAIN_BYTES)
}

/// A mapping for `size` bytes; null where there is none to be had.
fn map(size: usize) -> *mut u8 {
    let bytes = mapped_bytes(size);
    // What is too much is cut off before and behind, so that the rest is aligned.
    let all_bytes = bytes + HUGE_PAGE_BYTES;
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new mapping, at a place that the kernel chooses, touches no other.
    let all = unsafe { mm::mmap_anonymous(ptr::null_mut(), all_bytes, protection, flags) };
    let Ok(all) = all else {
        return ptr::null_mut();
    };
    let all = all.cast::<u8>();
    let before = all.align_offset(HUGE_PAGE_BYTES);
    // SAFETY: `before` is less than a huge page, so that what is cut off and what is kept lie in
    // the mapping, which nobody knows of yet.
    let place = unsafe {
        let place = all.add(before);
        unmap(all, before);
        unmap(place.add(bytes), HUGE_PAGE_BYTES - before);
        place
    };
    // SAFETY: the range is this mapping, and MADV_HUGEPAGE changes how memory is backed, never
    // what it holds. A refusal only costs speed.
    let _ = unsafe { mm::madvise(place.cast::<c_void>(), bytes, Advice::LinuxHugepage) };
    place
}

/// Gives memory back to the kernel.
///
/// # Safety
/// All of it is mapped by this allocator, and nobody uses it.
unsafe fn unmap(place: *mut u8, bytes: usize) {
    if bytes > 0 {
        // SAFETY: as the caller says. The kernel refuses only where the process has as many
        // mappings as it may; then the memory is lost, and nothing else.
        let _ = unsafe { mm::munmap(place.cast::<c_void>(), bytes) };
    }
}

/// Moves a mapping for `old_size` bytes to where `size` have room, with all its pages; null, and
/// the old one is as it was, where there is none.
///
/// # Safety
/// `old` came from [`map`] or from here, for `old_size` bytes.
unsafe fn remap(old: *mut u8, old_size: usize, size: usize) -> *mut u8 {
    let (old_bytes, bytes) = (mapped_bytes(old_size), mapped_bytes(size));
    if bytes <= old_bytes {
        // SAFETY: what is behind the new end is the caller's to give up.
        unsafe { unmap(old.add(bytes), old_bytes - bytes) };
        return old;
    }
    let new = map(size);
    if new.is_null() {
        return new;
    }
    // SAFETY: both mappings are this allocator's, and nobody knows of the new one, which the
    // kernel replaces by the old one's pages. If it refuses it may have unmapped the new one
    // already, so that is left to it: better lost than somebody else's.
    let moved = unsafe {
        let (old, new) = (old.cast::<c_void>(), new.cast::<c_void>());
        mm::mremap_fixed(old, old_bytes, bytes, MremapFlags::MAYMOVE, new)
    };
    moved.map_or(ptr::null_mut(), <*mut c_void>::cast)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::{Mutex, PoisonError},
    };

    use super::*;

    /// One test at a time maps and unmaps, so that no other's mapping comes where one was.
    static TURN: Mutex<()> = Mutex::new(());

    const SMALL: usize = 100_000;
    const LARGE: usize = HUGE_PAGE_BYTES;
    const LARGER: usize = 3 * HUGE_PAGE_BYTES + 5;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 64).expect("a layout")
    }

    /// What the kernel says of the mapping that an address lies in (proc(5), `smaps`).
    fn flags(place: *const u8) -> Option<String> {
        let smaps = fs::read_to_string("/proc/self/smaps").expect("smaps");
        let mut inside = false;
        for line in smaps.lines() {
            let range = line
                .split(' ')
                .next()
                .and_then(|range| range.split_once('-'));
            let bounds = range.and_then(|(start, end)| {
                let number = |text| usize::from_str_radix(text, 16).ok();
                Some(number(start)?..number(end)?)
            });
            if let Some(bounds) = bounds {
                inside = bounds.contains(&place.addr());
            }
            if inside && line.starts_with("VmFlags:") {
                return Some(line.to_owned());
            }
        }
        None
    }

    #[test]
    fn what_is_large_lies_in_huge_pages_and_goes_back_to_the_kernel() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = fs::exists("/sys/kernel/mm/transparent_hugepage").expect("sysfs");
        for size in [LARGE, LARGER] {
            // SAFETY: the layout is not empty, and what it is freed with is the same.
            unsafe {
                let place = HugePages.alloc_zeroed(layout(size));
                assert_eq!(place.addr() % HUGE_PAGE_BYTES, 0);
                assert!((0..size).all(|byte| *place.add(byte) == 0));
                for byte in [0, size - 1] {
                    let flags = flags(place.add(byte)).expect("it is mapped");
                    assert!(!known || flags.contains(" hg"), "{flags}");
                }
                HugePages.dealloc(place, layout(size));
                for byte in [0, size - 1] {
                    let flags = flags(place.add(byte)).unwrap_or_default();
                    assert!(!flags.contains(" hg"), "{flags}");
                }
            }
        }
    }

    #[test]
    fn what_changes_its_size_keeps_its_bytes() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let sizes = [SMALL, 2 * SMALL, LARGE, LARGER, LARGE + 1, 2 * LARGE, SMALL];
        // SAFETY: every layout is the one of the last size, and every byte lies below it.
        unsafe {
            let mut place = HugePages.alloc(layout(sizes[0]));
            let mut known = 0;
            for (now, next) in sizes.iter().zip(&sizes[1..]) {
                for byte in known..*now {
                    place.add(byte).write(byte as u8 ^ (byte >> 8) as u8);
                }
                place = HugePages.realloc(place, layout(*now), *next);
                assert!(!place.is_null() && place.addr().is_multiple_of(64));
                known = *now.min(next);
                assert!((0..known).all(|byte| *place.add(byte) == byte as u8 ^ (byte >> 8) as u8));
            }
            HugePages.dealloc(place, layout(SMALL));
        }
    }

    #[test]
    fn what_asks_for_more_alignment_than_a_huge_page_gets_it() {
        let layout = Layout::from_size_align(LARGE, 2 * HUGE_PAGE_BYTES).expect("a layout");
        // SAFETY: the layout is not empty, and what it is freed with is the same.
        unsafe {
            let place = HugePages.alloc(layout);
            assert_eq!(place.addr() % (2 * HUGE_PAGE_BYTES), 0);
            HugePages.dealloc(place, layout);
        }
    }
}
