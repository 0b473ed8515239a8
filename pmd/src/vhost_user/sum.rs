//! The Internet checksum (RFC 1071) over memory that a guest may write meanwhile.
//!
//! In: runs of bytes, of any length each. Out: the folded sum, as over one run, or a frame whose
//! checksum is completed.

use super::pieces::Writer;
use crate::{PartialChecksum, guest};

/// A sum in the making. Words are summed as the processor reads them, and swapped once at the
/// end (RFC 1071 §2, byte order independence).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Summer {
    total: u64,
    /// An odd number of bytes came before.
    odd: bool,
}

impl Summer {
    /// Adds `len` bytes at `place`.
    ///
    /// # Safety
    ///
    /// They are readable.
    pub(super) unsafe fn add(&mut self, place: *const u8, len: usize) {
        let mut total = 0u64;
        let mut at = 0;
        while at + 8 <= len {
            // SAFETY: eight bytes from `at` lie within.
            let word = unsafe { guest::load_u64(place.add(at)) };
            total += (word & 0xffff_ffff) + (word >> 32);
            at += 8;
        }
        let mut last = [0; 8];
        // SAFETY: fewer than eight bytes are left from `at`.
        unsafe { guest::copy(place.add(at), last.as_mut_ptr(), len - at) };
        let word = u64::from_ne_bytes(last);
        total += (word & 0xffff_ffff) + (word >> 32);
        let folded = crate::transmit::fold(total);
        let aligned = if self.odd {
            folded.swap_bytes()
        } else {
            folded
        };
        self.total += u64::from(aligned);
        self.odd ^= len % 2 == 1;
    }

    /// The sum of 16-bit big-endian words.
    pub(super) fn folded(self) -> u16 {
        u16::from_be_bytes(crate::transmit::fold(self.total).to_ne_bytes())
    }
}

/// Completes the checksum of the frame that was written to `body`, in the guest's buffers. A
/// guest that writes there meanwhile only spoils its own frame.
pub(super) fn complete_checksum(body: &Writer<'_>, partial: PartialChecksum, wire_len: usize) {
    let start = partial.start as usize;
    let mut sum = Summer::default();
    body.runs(start, wire_len - start, |place, len| {
        // SAFETY: the runs lie within the guest's buffers, mapped while the lock is held.
        unsafe { sum.add(place, len) };
    });
    // A transmitted zero would mean "no checksum" to UDP (RFC 768).
    let checksum = match !sum.folded() {
        0 => 0xffff,
        checksum => checksum,
    };
    let value = checksum.to_be_bytes();
    let mut at = 0;
    body.runs(start + partial.offset as usize, 2, |place, len| {
        // SAFETY: the runs have two bytes together, as `value` has.
        unsafe { guest::copy(value.as_ptr().add(at), place, len) };
        at += len;
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transmit::{fold, sum};

    #[test]
    fn pieces_sum_to_the_sum_of_the_whole() {
        let bytes: Vec<u8> = (0..999u32).map(|i| (i * 7 % 256) as u8).collect();
        for cuts in [[0, 0], [1, 2], [3, 500], [8, 9], [17, 998], [999, 999]] {
            let mut summer = Summer::default();
            for piece in [
                &bytes[..cuts[0]],
                &bytes[cuts[0]..cuts[1]],
                &bytes[cuts[1]..],
            ] {
                // SAFETY: a slice is readable.
                unsafe { summer.add(piece.as_ptr(), piece.len()) };
            }
            assert_eq!(summer.folded(), fold(sum(&bytes)), "{cuts:?}");
        }
    }
}
