//! Access to memory that somebody else may write at any time: a guest's.
//!
//! In: raw places that a memory map vouched for. Out: values and copies. What must hold: no
//! reference to such memory is ever made, the compiler neither repeats nor invents an access,
//! and a value that was read is the one that is then judged and used.
//!
//! Index words are atomics and ring entries volatile, as each is aligned. Bytes, which are not,
//! go through assembly that the compiler cannot look into (on other processors: volatile bytes).

use std::sync::atomic::{AtomicU16, Ordering};

/// Loads a 16-bit index that a guest publishes things with.
///
/// # Safety
///
/// `place` is aligned to 2 and readable.
#[inline(always)]
pub(crate) unsafe fn load_index(place: *const u16, order: Ordering) -> u16 {
    // SAFETY: the caller's promise. The reference lives for this one atomic load, and an atomic
    // may be written by others.
    unsafe { AtomicU16::from_ptr(place.cast_mut()) }.load(order)
}

/// Stores a 16-bit index that a guest reads.
///
/// # Safety
///
/// `place` is aligned to 2 and writable.
#[inline(always)]
pub(crate) unsafe fn store_index(place: *mut u16, value: u16, order: Ordering) {
    // SAFETY: as above.
    unsafe { AtomicU16::from_ptr(place) }.store(value, order);
}

/// Loads eight bytes that need no alignment.
///
/// # Safety
///
/// `place` has eight readable bytes.
#[inline(always)]
pub(crate) unsafe fn load_u64(place: *const u8) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        let value: u64;
        // SAFETY: one load from what the caller vouches for.
        unsafe {
            core::arch::asm!("mov {}, [{}]", out(reg) value, in(reg) place,
                options(nostack, preserves_flags, readonly));
        }
        value
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let mut bytes = [0; 8];
        // SAFETY: the caller's promise; `bytes` has eight bytes.
        unsafe { copy(place, bytes.as_mut_ptr(), 8) };
        u64::from_ne_bytes(bytes)
    }
}

/// Stores eight bytes that need no alignment.
///
/// # Safety
///
/// `place` has eight writable bytes.
#[inline(always)]
pub(crate) unsafe fn store_u64(place: *mut u8, value: u64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: one store to what the caller vouches for.
    unsafe {
        core::arch::asm!("mov [{}], {}", in(reg) place, in(reg) value,
            options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's promise; the value has eight bytes.
    unsafe {
        copy(value.to_ne_bytes().as_ptr(), place, 8);
    }
}

/// Stores four bytes that need no alignment.
///
/// # Safety
///
/// `place` has four writable bytes.
#[inline(always)]
pub(crate) unsafe fn store_u32(place: *mut u8, value: u32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: one store to what the caller vouches for.
    unsafe {
        core::arch::asm!("mov [{}], {:e}", in(reg) place, in(reg) value,
            options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's promise; the value has four bytes.
    unsafe {
        copy(value.to_ne_bytes().as_ptr(), place, 4);
    }
}

/// Brings the cache line at `place` near, to be read.
#[inline(always)]
pub(crate) fn prefetch(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing as far as the program can tell and never faults.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Brings the cache line at `place` near, to be written.
#[inline(always)]
pub(crate) fn prefetch_to_write(place: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as `prefetch`. A processor without the instruction takes it for no operation.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) place,
            options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Copies `len` bytes; either place may be a guest's.
///
/// # Safety
///
/// `from` has `len` readable bytes, `to` has `len` writable ones. Where the places overlap, what
/// arrives is some mixture of the bytes, and nothing worse.
#[inline(always)]
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise.
    unsafe {
        x86::copy(from, to, len);
    }
    #[cfg(not(target_arch = "x86_64"))]
    for at in 0..len {
        // SAFETY: `at` is less than `len`.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::asm;

    /// From here on the processor's own string move is at least as fast as a loop.
    const STRING_MOVE_BYTES: usize = 512;

    /// Chooses by length. Up to 128 bytes two runs of loads, one from each end, overlap where
    /// the length is odd: no loop and one branch per size class.
    ///
    /// # Safety
    ///
    /// That of [`super::copy`].
    #[inline(always)]
    pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: each arm touches `from..from + len` and `to..to + len` only.
        unsafe {
            match len {
                33..=64 => copy_64(from, to, len),
                65..=128 => {
                    copy_64(from, to, 64);
                    copy_64(from.add(len - 64), to.add(len - 64), 64);
                }
                17..=32 => copy_32(from, to, len),
                0..=16 => copy_16(from, to, len),
                129..STRING_MOVE_BYTES => copy_loop(from, to, len),
                _ => copy_string(from, to, len),
            }
        }
    }

    /// 33 to 64 bytes.
    ///
    /// # Safety
    ///
    /// That of [`super::copy`].
    #[inline(always)]
    unsafe fn copy_64(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: the first 32 and the last 32 of `len` bytes, of at least 32.
        unsafe {
            asm!(
                "movdqu {a}, [{from}]",
                "movdqu {b}, [{from} + 16]",
                "movdqu {c}, [{from} + {len} - 32]",
                "movdqu {d}, [{from} + {len} - 16]",
                "movdqu [{to}], {a}",
                "movdqu [{to} + 16], {b}",
                "movdqu [{to} + {len} - 32], {c}",
                "movdqu [{to} + {len} - 16], {d}",
                from = in(reg) from, to = in(reg) to, len = in(reg) len,
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                options(nostack, preserves_flags),
            );
        }
    }

    /// 16 to 32 bytes.
    ///
    /// # Safety
    ///
    /// That of [`super::copy`].
    #[inline(always)]
    unsafe fn copy_32(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: the first 16 and the last 16 of `len` bytes, of at least 16.
        unsafe {
            asm!(
                "movdqu {a}, [{from}]",
                "movdqu {b}, [{from} + {len} - 16]",
                "movdqu [{to}], {a}",
                "movdqu [{to} + {len} - 16], {b}",
                from = in(reg) from, to = in(reg) to, len = in(reg) len,
                a = out(xmm_reg) _, b = out(xmm_reg) _,
                options(nostack, preserves_flags),
            );
        }
    }

    /// 0 to 16 bytes.
    ///
    /// # Safety
    ///
    /// That of [`super::copy`].
    #[inline]
    unsafe fn copy_16(from: *const u8, to: *mut u8, len: usize) {
        if len >= 8 {
            // SAFETY: the first 8 and the last 8 of `len` bytes, of at least 8.
            unsafe {
                asm!(
                    "mov {a}, [{from}]",
                    "mov {b}, [{from} + {len} - 8]",
                    "mov [{to}], {a}",
                    "mov [{to} + {len} - 8], {b}",
                    from = in(reg) from, to = in(reg) to, len = in(reg) len,
                    a = out(reg) _, b = out(reg) _,
                    options(nostack, preserves_flags),
                );
            }
        } else {
            for at in 0..len {
                // SAFETY: `at` is less than `len`.
                unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
            }
        }
    }

    /// More than 64 bytes: 64 at a time, the last run overlapping.
    ///
    /// # Safety
    ///
    /// That of [`super::copy`].
    #[inline]
    unsafe fn copy_loop(from: *const u8, to: *mut u8, len: usize) {
        let mut at = 0;
        while at + 64 < len {
            // SAFETY: `at + 64` is less than `len`.
            unsafe { copy_64(from.add(at), to.add(at), 64) };
            at += 64;
        }
        // SAFETY: the last 64 of more than 64 bytes.
        unsafe { copy_64(from.add(len - 64), to.add(len - 64), 64) };
    }

    /// By the processor's own string move, for any number of bytes.
    ///
    /// # Safety
    ///
    /// That of [`super::copy`].
    #[inline]
    unsafe fn copy_string(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: the direction flag is clear wherever Rust code runs (the ABI says so), so
        // exactly `len` bytes from each start are touched.
        unsafe {
            asm!(
                "rep movsb",
                inout("rsi") from => _, inout("rdi") to => _, inout("rcx") len => _,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_any_length_copies_that_and_no_more() {
        let from: Vec<u8> = (0..1200u32).map(|i| (i % 251) as u8).collect();
        for len in (0..200).chain([255, 256, 257, 511, 512, 513, 1000, 1199]) {
            let mut to = vec![0xee; 1300];
            // SAFETY: both vectors are longer than one plus `len`.
            unsafe { copy(from.as_ptr().add(1), to.as_mut_ptr().add(1), len) };
            assert_eq!(to[0], 0xee);
            assert_eq!(to[1..=len], from[1..=len], "{len}");
            assert!(to[len + 1..].iter().all(|b| *b == 0xee), "{len}");
        }
    }

    #[test]
    fn loads_and_stores_need_no_alignment() {
        let bytes: Vec<u8> = (0..32).collect();
        for at in 0..24 {
            // SAFETY: eight bytes from `at` lie within.
            let value = unsafe { load_u64(bytes.as_ptr().add(at)) };
            assert_eq!(value.to_ne_bytes()[..], bytes[at..at + 8]);
            let mut to = [0; 40];
            // SAFETY: twelve bytes from `at` lie within.
            unsafe {
                store_u64(to.as_mut_ptr().add(at), value);
                store_u32(to.as_mut_ptr().add(at + 8), 0x0403_0201);
            }
            assert_eq!(to[at..at + 8], bytes[at..at + 8]);
            assert_eq!(to[at + 8..at + 12], 0x0403_0201_u32.to_ne_bytes());
        }
    }
}
