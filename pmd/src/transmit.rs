//! What leaves: transmit plans, and the one copy that carries them out.
//!
//! In: the frames of a burst and plans that refer to them. Out: bytes in the transmitting port's
//! own memory. What must hold: a plan reads only its own frame and its own prefix; a partial
//! checksum is completed for every plan that carries its whole summed range.

use crate::frame::{Frame, PartialChecksum};

/// The longest prefix a plan may put before a frame, in bytes: Ethernet, two tags, IPv6 with 70
/// bytes of extension headers and the longest TCP header fit, as [`crate::segment`] makes them.
/// A prefix costs memory only once it was used.
pub const MAX_PREFIX_BYTES: usize = 192;

/// The prefix of a frame whose first bytes were rewritten and replace as many, in bytes: Ethernet
/// and what routing changes of an IP header fit. Drivers copy prefixes of this length fastest.
pub const REWRITTEN_HEAD_BYTES: usize = 32;

/// Prefixes that are copied as one piece: Ethernet and a tag; the headers of most tunnels over IPv4.
const SHORT_PREFIX_BYTES: usize = 32;
const TUNNEL_PREFIX_BYTES: usize = 64;

/// Up to this length copies are made of pieces of a length known here.
pub(crate) const SHORT_FRAME_BYTES: usize = 128;

/// The [`TxPlan::beginning`] of a frame that leaves as it came.
const AS_IT_CAME: u32 = 0;
/// The same where a prefix of [`REWRITTEN_HEAD_BYTES`] replaces as many bytes.
const REWRITTEN: u32 = (REWRITTEN_HEAD_BYTES << 8 | REWRITTEN_HEAD_BYTES) as u32;

/// How many prefixes a burst may use at most.
pub const MAX_PREFIXES: usize = 256;

/// What leaves for one frame on one port: `prefix ++ frame[skip..skip + len]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxPlan {
    /// Bytes of the original that leave, after `skip`. Less than the rest truncates.
    pub len_bytes: u32,
    /// Bytes of the original that the prefix replaces.
    pub skip_bytes: u16,
    /// Which prefix of the burst's [`PrefixArena`].
    pub prefix: u16,
    /// Length of the prefix; 0 for none.
    pub prefix_len_bytes: u8,
    /// Where in the bytes that leave the range of the transport checksum begins, for a plan that
    /// carries a segment of its frame's payload behind headers of its own, all in the prefix; 0
    /// for every other plan, whose frame says it. The prefix then holds the sum of the segment's
    /// own pseudo header.
    pub checksum_start: u8,
    /// Which frame of the burst.
    pub frame: u8,
}

// A burst's plans are written, and read again, for every frame.
const _: () = assert!(size_of::<TxPlan>() == 12);

impl TxPlan {
    /// The whole of frame number `index` of the burst, as it came.
    #[inline]
    pub fn whole(index: usize, frame: &Frame<'_>) -> Self {
        Self {
            frame: index as u8,
            len_bytes: frame.len() as u32,
            ..Self::default()
        }
    }

    /// What stands before the frame, and in place of how much of it, as one number: it is asked
    /// of every frame.
    #[inline(always)]
    fn beginning(&self) -> u32 {
        u32::from(self.skip_bytes) << 8 | u32::from(self.prefix_len_bytes)
    }

    /// Length on the wire, in bytes, without FCS.
    #[inline]
    pub fn wire_len(&self) -> usize {
        self.prefix_len_bytes as usize + self.len_bytes as usize
    }
}

/// The new leading bytes of a burst's plans. Owned by the worker, reused every burst.
#[derive(Debug)]
pub struct PrefixArena {
    bytes: Box<[[u8; MAX_PREFIX_BYTES]]>,
    used: usize,
}

impl Default for PrefixArena {
    fn default() -> Self {
        Self {
            bytes: vec![[0; MAX_PREFIX_BYTES]; MAX_PREFIXES].into_boxed_slice(),
            used: 0,
        }
    }
}

impl PrefixArena {
    /// Forgets all prefixes; done once a burst.
    #[inline]
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// True when the burst has used all.
    pub fn is_full(&self) -> bool {
        self.used == self.bytes.len()
    }

    /// A fresh prefix to write into and its number, or `None` when the burst has used all.
    #[inline]
    pub fn allocate(&mut self) -> Option<(u16, &mut [u8; MAX_PREFIX_BYTES])> {
        let index = self.used;
        let slot = self.bytes.get_mut(index)?;
        self.used += 1;
        Some((index as u16, slot))
    }

    /// The prefixes that the burst has used so far, in the order of their numbers.
    pub fn used_mut(&mut self) -> &mut [[u8; MAX_PREFIX_BYTES]] {
        &mut self.bytes[..self.used]
    }

    /// The first bytes of a plan's prefix, and what stands behind them if it is shorter.
    #[inline]
    fn first_bytes<const N: usize>(&self, plan: &TxPlan) -> &[u8; N] {
        let prefix = &self.bytes[plan.prefix as usize];
        const { assert!(N <= MAX_PREFIX_BYTES) };
        prefix.first_chunk().unwrap_or(&[0; N])
    }

    /// A plan's prefix.
    #[inline]
    pub fn get(&self, plan: &TxPlan) -> &[u8] {
        &self.bytes[plan.prefix as usize][..plan.prefix_len_bytes as usize]
    }
}

/// Everything one `TxQueue::transmit` is asked to send.
#[derive(Clone, Copy, Debug)]
pub struct TxBurst<'a> {
    /// The burst's frames.
    pub frames: &'a [Frame<'a>],
    /// The prefixes that plans refer to.
    pub prefixes: &'a PrefixArena,
    /// What to send, in order.
    pub plans: &'a [TxPlan],
}

impl TxBurst<'_> {
    /// Writes what leaves for `plan` to `dst` and returns its length.
    ///
    /// # Panics
    ///
    /// When `dst` is shorter than [`TxPlan::wire_len`]: the driver checks that first, because a
    /// frame too long for it is the driver's to refuse.
    #[inline(always)]
    pub fn write(&self, plan: &TxPlan, dst: &mut [u8]) -> usize {
        if let Some(room) = dst.first_chunk_mut()
            && let Some(len) = self.write_short(plan, room)
        {
            return len;
        }
        let dst = &mut dst[..plan.wire_len()];
        let frame = &self.frames[plan.frame as usize];
        if plan.beginning() == AS_IT_CAME
            && frame.partial_checksum.is_none()
            && let Some(source) = frame.head().get(..dst.len())
        {
            dst.copy_from_slice(source);
            return dst.len();
        }
        self.assemble(plan, dst)
    }

    /// As [`TxBurst::write`], for what most frames are by number: 32 to 128 bytes that leave as
    /// they came, or 32 to 64 of which the first 32 are rewritten. `None` of all else.
    ///
    /// There is no call in it, so that a loop of nothing else has all registers.
    #[inline(always)]
    pub(crate) fn write_short(
        &self,
        plan: &TxPlan,
        dst: &mut [u8; SHORT_FRAME_BYTES],
    ) -> Option<usize> {
        const HALF: usize = REWRITTEN_HEAD_BYTES;
        let len = plan.wire_len();
        let frame = self.frames.get(plan.frame as usize)?;
        if frame.partial_checksum.is_some() {
            return None;
        }
        let source = frame.head().get(..len)?;
        match (plan.beginning(), len) {
            (AS_IT_CAME, HALF..=SHORT_FRAME_BYTES) => copy_short(&mut dst[..len], source),
            (REWRITTEN, HALF..=64) => {
                *dst[..len].last_chunk_mut::<HALF>()? = *source.last_chunk()?;
                *dst.first_chunk_mut::<HALF>()? = *self.prefixes.first_bytes(plan);
            }
            _ => return None,
        }
        Some(len)
    }

    /// What begins with other bytes than the frame. Marked cold so that the loops around
    /// [`TxBurst::write`] are laid out for frames that leave as they came.
    #[cold]
    #[inline(never)]
    fn assemble(&self, plan: &TxPlan, dst: &mut [u8]) -> usize {
        let frame = &self.frames[plan.frame as usize];
        let (skip, len) = (plan.skip_bytes as usize, plan.len_bytes as usize);
        let prefix_len = plan.prefix_len_bytes as usize;
        // What a mirrored or a tagged frame is: a short prefix, before the rest of the head.
        if prefix_len <= TUNNEL_PREFIX_BYTES
            && frame.partial_checksum.is_none()
            && let Some(rest) = frame.head().get(skip..skip + len)
        {
            // Whole, since that has a length known here; what is too much of it is written over.
            let is_begun = if prefix_len <= SHORT_PREFIX_BYTES {
                self.begin::<SHORT_PREFIX_BYTES>(plan, dst)
            } else {
                self.begin::<TUNNEL_PREFIX_BYTES>(plan, dst)
            };
            if is_begun {
                copy_short(&mut dst[prefix_len..], rest);
                return dst.len();
            }
        }
        if prefix_len > 0 {
            dst[..prefix_len].copy_from_slice(self.prefixes.get(plan));
        }
        let rest = &mut dst[prefix_len..plan.wire_len()];
        frame.copy_to(plan.skip_bytes as usize, rest);
        if let Some(partial) = self.partial_checksum(plan) {
            complete_checksum(partial, &mut dst[..plan.wire_len()]);
        }
        plan.wire_len()
    }

    /// Writes `N` bytes of a plan's prefix and what stands behind it, if there is room.
    #[inline(always)]
    fn begin<const N: usize>(&self, plan: &TxPlan, dst: &mut [u8]) -> bool {
        let Some(first) = dst.first_chunk_mut::<N>() else {
            return false;
        };
        *first = *self.prefixes.first_bytes(plan);
        true
    }

    /// The checksum that is still to be completed in what leaves for `plan`, and where in those
    /// bytes. It lies within them.
    ///
    /// `None` also for a truncated frame, which leaves with its checksum as it is, because that
    /// covers bytes that do not leave. A prefix that reaches beyond where the range begins says
    /// there, byte for byte, what it replaces.
    pub fn partial_checksum(&self, plan: &TxPlan) -> Option<PartialChecksum> {
        let frame = &self.frames[plan.frame as usize];
        let PartialChecksum { start, offset } = frame.partial_checksum?;
        let start = if plan.checksum_start > 0 {
            u16::from(plan.checksum_start)
        } else {
            let is_whole = plan.skip_bytes as usize + plan.len_bytes as usize == frame.len();
            let moved = start.checked_add(plan.prefix_len_bytes.into());
            moved.filter(|_| is_whole)?.checked_sub(plan.skip_bytes)?
        };
        let end = usize::from(start) + usize::from(offset) + 2;
        (end <= plan.wire_len()).then_some(PartialChecksum { start, offset })
    }

    /// What leaves for `plan`, where that is one run of the frame's head without a prefix.
    #[inline(always)]
    pub(crate) fn single_piece<'f>(frame: &Frame<'f>, plan: &TxPlan) -> Option<&'f [u8]> {
        let start = plan.skip_bytes as usize;
        let piece = frame.head().get(start..start + plan.len_bytes as usize);
        piece.filter(|_| plan.prefix_len_bytes == 0)
    }

    /// Byte number `at` of what leaves for `plan`, as far as it lies in the prefix or the
    /// frame's head.
    pub(crate) fn wire_byte(&self, plan: &TxPlan, at: usize) -> Option<u8> {
        let prefix = if plan.prefix_len_bytes > 0 {
            self.prefixes.get(plan)
        } else {
            &[]
        };
        match at.checked_sub(prefix.len()) {
            None => Some(prefix[at]),
            Some(behind) => {
                let head = self.frames[plan.frame as usize].head();
                head.get(plan.skip_bytes as usize + behind).copied()
            }
        }
    }

    /// Gives each piece of what leaves for `plan` to `take`, in order, for a driver whose own
    /// memory does not lie in one piece. A partial checksum is left to that driver.
    #[inline(always)]
    pub(crate) fn pieces(&self, plan: &TxPlan, mut take: impl FnMut(*const u8, usize)) {
        if plan.prefix_len_bytes > 0 {
            let prefix = self.prefixes.get(plan);
            take(prefix.as_ptr(), prefix.len());
        }
        let frame = &self.frames[plan.frame as usize];
        frame.pieces(plan.skip_bytes as usize, plan.len_bytes as usize, take);
    }
}

/// Copies a frame; one of 32 to 128 bytes, as most are by number, without a call, so that the
/// loop around it keeps what it needs in registers: a fifth of what a memory port transmits in.
///
/// # Panics
///
/// When the lengths differ.
#[inline(always)]
fn copy_short(dst: &mut [u8], src: &[u8]) {
    assert_eq!(dst.len(), src.len());
    match src.len() {
        32..=64 => {
            copy_ends::<32>(dst, src);
        }
        65..=SHORT_FRAME_BYTES => {
            copy_ends::<64>(dst, src);
        }
        _ => copy_long(dst, src),
    }
}

/// Copies the first and the last `N` bytes, which overlap where there are fewer than twice `N`.
#[inline(always)]
fn copy_ends<const N: usize>(dst: &mut [u8], src: &[u8]) {
    if let (Some(to), Some(from)) = (dst.first_chunk_mut::<N>(), src.first_chunk()) {
        *to = *from;
    }
    if let (Some(to), Some(from)) = (dst.last_chunk_mut::<N>(), src.last_chunk()) {
        *to = *from;
    }
}

#[cold]
fn copy_long(dst: &mut [u8], src: &[u8]) {
    dst.copy_from_slice(src);
}

/// Completes a partial checksum in `wire`, the bytes that leave.
fn complete_checksum(partial: PartialChecksum, wire: &mut [u8]) {
    let start = partial.start as usize;
    let field = start + partial.offset as usize;
    // A transmitted zero would mean "no checksum" to UDP; its one's complement twin is as valid
    // for TCP (RFC 768).
    let checksum = match !fold(sum(&wire[start..])) {
        0 => 0xffff,
        checksum => checksum,
    };
    wire[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// One's complement sum of big-endian 16-bit words, to be folded (RFC 1071). An odd last byte
/// counts as the high byte of a word.
pub fn sum(bytes: &[u8]) -> u64 {
    // In the processor's own byte order, which only swaps the bytes of the folded sum (RFC 1071
    // §2 B): to swap each word instead takes twice the time of a long frame.
    let mut total = 0;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_ne_bytes(*word);
        total += (word >> 32) + (word & 0xffff_ffff);
    }
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let last = match *rest {
        [a] => [a, 0, 0, 0],
        [a, b] => [a, b, 0, 0],
        [a, b, c] => [a, b, c, 0],
        _ => [0; 4],
    };
    total += u64::from(u32::from_ne_bytes(last));
    u64::from(u16::from_be(fold(total)))
}

/// Folds a sum to 16 bits (RFC 1071).
pub fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(frame: Frame<'_>, prefix: &[u8], skip: u16, len: u32) -> Vec<u8> {
        let mut prefixes = PrefixArena::default();
        let (index, slot) = prefixes.allocate().expect("room");
        slot[..prefix.len()].copy_from_slice(prefix);
        let plan = TxPlan {
            frame: 0,
            prefix: index,
            prefix_len_bytes: prefix.len() as u8,
            skip_bytes: skip,
            len_bytes: len,
            checksum_start: 0,
        };
        let burst = TxBurst {
            frames: &[frame],
            prefixes: &prefixes,
            plans: &[plan],
        };
        let mut out = vec![0; 256];
        let len = burst.write(&plan, &mut out);
        out.truncate(len);
        out
    }

    #[test]
    fn a_plan_is_prefix_then_the_rest() {
        let frame = Frame::contiguous(b"ABCDEFGH");
        assert_eq!(write(frame, b"xy", 3, 5), b"xyDEFGH");
        assert_eq!(write(frame, b"", 0, 8), b"ABCDEFGH");
        assert_eq!(write(frame, b"", 0, 4), b"ABCD");
    }

    #[test]
    fn a_partial_checksum_is_completed_behind_a_prefix() {
        // Summed range: bytes 4..; field at 4 + 2. The pseudo header's sum is 0x1234.
        let bytes = [0, 0, 0, 0, 0xab, 0xcd, 0x12, 0x34, 0x01, 0x02, 0x03];
        let mut frame = Frame::contiguous(&bytes);
        frame.partial_checksum = Some(PartialChecksum {
            start: 4,
            offset: 2,
        });
        let out = write(frame, b"ppp", 2, 9);
        let expected = !fold(0xabcd + 0x1234 + 0x0102 + 0x0300);
        assert_eq!(out[7..9], expected.to_be_bytes());
        // Whoever sums the pseudo header, the data and the new field gets all ones.
        let mut check = out[5..].to_vec();
        check[2..4].copy_from_slice(&expected.to_be_bytes());
        assert_eq!(fold(sum(&check) + 0x1234), 0xffff);
    }

    #[test]
    fn a_partial_checksum_whose_range_begins_in_the_prefix_is_completed() {
        // The prefix says bytes 2 to 8 anew, of which 4.. are summed, behind two more bytes.
        let bytes = [0, 0, 0, 0, 0xab, 0xcd, 0x12, 0x34, 0x01, 0x02, 0x03];
        let mut frame = Frame::contiguous(&bytes);
        frame.partial_checksum = Some(PartialChecksum {
            start: 4,
            offset: 2,
        });
        let out = write(frame, b"pp\0\0\xab\x00\x12\x34", 8, 3);
        let expected = !fold(0xab00 + 0x1234 + 0x0102 + 0x0300);
        assert_eq!(out[..6], *b"pp\0\0\xab\x00");
        assert_eq!(out[6..8], expected.to_be_bytes());
        assert_eq!(out[8..], bytes[8..]);
        // Cut off, it keeps what it came with.
        let mut frame = Frame::contiguous(&bytes);
        frame.partial_checksum = Some(PartialChecksum {
            start: 4,
            offset: 2,
        });
        let out = write(frame, b"pp\0\0\xab\x00\x12\x34", 8, 2);
        assert_eq!(out[6..8], [0x12, 0x34]);
    }

    #[test]
    fn a_sum_is_that_of_16_bit_words_however_many() {
        let bytes: Vec<u8> = (0..100_u8).map(|n| n.wrapping_mul(151) ^ 0xa5).collect();
        for len in 0..bytes.len() {
            let word =
                |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
            let plain: u64 = bytes[..len].chunks(2).map(word).sum();
            assert_eq!(fold(sum(&bytes[..len])), fold(plain), "{len} bytes");
        }
        assert_eq!(
            fold(sum(&vec![0xff; 65_549])),
            fold(32_774 * 0xffff + 0xff00)
        );
        assert_eq!(sum(&[0; 9]), 0);
    }

    #[test]
    fn a_truncated_frame_keeps_its_partial_checksum() {
        let bytes = [0, 0, 0, 0, 0xab, 0xcd, 0x12, 0x34, 0x01, 0x02];
        let mut frame = Frame::contiguous(&bytes);
        frame.partial_checksum = Some(PartialChecksum {
            start: 4,
            offset: 2,
        });
        assert_eq!(write(frame, b"", 0, 9), bytes[..9]);
    }

    #[test]
    fn a_checksum_of_zero_leaves_as_ones() {
        let bytes = [0xff, 0xff, 0, 0];
        let mut frame = Frame::contiguous(&bytes);
        frame.partial_checksum = Some(PartialChecksum {
            start: 0,
            offset: 2,
        });
        assert_eq!(write(frame, b"", 0, 4), [0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn a_checksum_field_outside_the_frame_touches_nothing() {
        let bytes = [1, 2, 3, 4];
        for (start, offset) in [(0, 3), (0, 900), (4, 0), (900, 0), (u16::MAX, u16::MAX)] {
            let mut frame = Frame::contiguous(&bytes);
            frame.partial_checksum = Some(PartialChecksum { start, offset });
            assert_eq!(write(frame, b"", 0, 4), bytes);
        }
    }
}
