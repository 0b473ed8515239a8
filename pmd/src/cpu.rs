//! What the processor is asked for, as safe calls.

/// Starts bringing the first `LINES` cache lines of `places[index]` into the first-level cache.
/// Where there is no such place nothing comes of it, so that nobody has to check.
#[inline]
pub fn prefetch_in<const LINES: usize, T>(places: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..LINES {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = places.as_ptr().wrapping_add(index).cast::<i8>();
        // SAFETY: a prefetch reads nothing as far as the program can tell and never faults,
        // whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line * 64)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (places, index);
}

/// Sixteen numbers that are compared at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Lanes(pub [u16; 16]);

/// Which lanes are `wanted`: bit n for lane n.
#[inline]
pub fn equal_lanes(lanes: &Lanes, wanted: u16) -> u32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of x86_64, and both 16-byte loads lie within the 32 bytes of `lanes`,
    // aligned to 16.
    unsafe {
        use core::arch::x86_64::{
            __m128i, _mm_cmpeq_epi16, _mm_load_si128, _mm_movemask_epi8, _mm_packs_epi16,
            _mm_set1_epi16,
        };
        let start = std::ptr::from_ref(lanes).cast::<__m128i>();
        let wanted = _mm_set1_epi16(wanted.cast_signed());
        let low = _mm_cmpeq_epi16(_mm_load_si128(start), wanted);
        let high = _mm_cmpeq_epi16(_mm_load_si128(start.add(1)), wanted);
        _mm_movemask_epi8(_mm_packs_epi16(low, high)).cast_unsigned()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let lanes = lanes.0.iter().enumerate();
        lanes.fold(0, |found, (lane, value)| {
            found | u32::from(*value == wanted) << lane
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lanes_names_every_lane_and_no_other() {
        let mut lanes = Lanes(std::array::from_fn(|lane| 0x7ffe + lane as u16 % 4));
        lanes.0[15] = 0xffff;
        for wanted in [0, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xffff] {
            let found = equal_lanes(&lanes, wanted);
            for (lane, value) in lanes.0.iter().enumerate() {
                assert_eq!(
                    found & 1 << lane != 0,
                    *value == wanted,
                    "{wanted:x} {lane}"
                );
            }
            assert_eq!(found >> 16, 0);
        }
    }
}
