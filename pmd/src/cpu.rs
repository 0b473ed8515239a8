//! What the processor and the memory manager are asked for, as safe calls.

use std::ffi::c_void;

/// Starts bringing the cache line at `place` into the first-level cache.
#[inline]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing as far as the program can tell and never faults.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// `count` copies of `value` in memory for which the kernel is asked for huge pages, so that a
/// large table costs few TLB misses. Without huge pages it is an ordinary vector.
pub fn huge_vec<T: Clone>(value: T, count: usize) -> Vec<T> {
    const HUGE_PAGE_BYTES: usize = 2 << 20;
    let mut vec = Vec::with_capacity(count);
    let start = vec.as_mut_ptr() as usize;
    let first = start.next_multiple_of(HUGE_PAGE_BYTES);
    let end = (start + count * size_of::<T>()) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    if first < end {
        // SAFETY: the range lies within the vector's own allocation, and MADV_HUGEPAGE changes
        // how memory is backed, never what it holds. A refusal only costs speed.
        let _ = unsafe {
            rustix::mm::madvise(
                first as *mut c_void,
                end - first,
                rustix::mm::Advice::LinuxHugepage,
            )
        };
    }
    vec.resize(count, value);
    vec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_huge_vec_is_a_vec() {
        assert!(huge_vec(7u8, 0).is_empty());
        let large = huge_vec(0x0123_4567_u32, 3 << 20);
        assert_eq!(large.len(), 3 << 20);
        assert!(large.iter().all(|v| *v == 0x0123_4567));
    }
}
