//! A received frame, lent by its port for one burst.
//!
//! In: bytes that stay where the port received them. Out: a read-only view. What must hold: the
//! bytes do not move and are not written by the switch until the burst is released.

use crate::guest;

/// A frame whose transport checksum its sender left for the hardware to complete.
///
/// `start` is where summing begins and `start + offset` where the 16-bit result goes, both in
/// bytes from the frame's first byte (virtio 1.2 §5.1.6.2 `csum_start`, `csum_offset`). The field
/// holds the sum of the pseudo header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// First byte that is summed, from the start of the frame.
    pub start: u16,
    /// Where the result goes, from `start`.
    pub offset: u16,
}

/// A run of bytes: a further piece of a frame that does not lie in one.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    start: *const u8,
    len_bytes: u32,
}

// SAFETY: a run is only a place to read from; whoever made it promised (`Run::new`) that
// the place stays readable for the life of the burst, on whatever thread holds the burst.
unsafe impl Send for Run {}

impl Run {
    /// A piece of `len_bytes` bytes at `start`.
    ///
    /// # Safety
    ///
    /// The bytes must stay mapped and readable for as long as any [`Frame`] that refers to this
    /// run lives. They may change meanwhile.
    pub unsafe fn new(start: *const u8, len_bytes: u32) -> Self {
        Self { start, len_bytes }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len_bytes as usize
    }

    /// True when the piece has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    fn copy_to(&self, from: usize, dst: &mut [u8]) {
        assert!(from + dst.len() <= self.len());
        // SAFETY: the range was checked against the run, which `new`'s contract keeps
        // readable.
        unsafe { guest::copy(self.start.add(from), dst.as_mut_ptr(), dst.len()) };
    }
}

/// One received frame: a head in one piece, and for long frames the rest in further runs.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    head: &'a [u8],
    tail: &'a [Run],
    len_bytes: u32,
    /// The 802.1Q tag control information that came beside the frame instead of in it, as
    /// network interfaces and veth deliver it. Part of the frame for every purpose.
    pub vlan_tci: Option<u16>,
    /// Set when the transport checksum is still to be completed.
    pub partial_checksum: Option<PartialChecksum>,
    /// Payload bytes of each segment when the frame is a TCP super-segment that is to be cut
    /// before it meets a wire (virtio 1.2 §5.1.6.2 `gso_size`); 0 for every other frame. A frame
    /// with segments also has a partial checksum, which says where its TCP header begins.
    pub segment_bytes: u16,
}

impl<'a> Frame<'a> {
    /// A frame that lies in one piece.
    #[inline]
    pub fn contiguous(bytes: &'a [u8]) -> Self {
        Self {
            head: bytes,
            tail: &[],
            len_bytes: bytes.len() as u32,
            vlan_tci: None,
            partial_checksum: None,
            segment_bytes: 0,
        }
    }

    /// A frame whose first bytes are `head` and whose further bytes are `tail`, in order.
    ///
    /// `head` holds at least [`crate::MIN_HEAD_BYTES`] bytes unless the whole frame is shorter.
    pub fn in_runs(head: &'a [u8], tail: &'a [Run]) -> Self {
        let tail_bytes: usize = tail.iter().map(Run::len).sum();
        Self {
            head,
            tail,
            len_bytes: (head.len() + tail_bytes) as u32,
            vlan_tci: None,
            partial_checksum: None,
            segment_bytes: 0,
        }
    }

    /// As [`Frame::in_runs`], for a driver that knows the whole length already.
    #[inline(always)]
    pub(crate) fn with_tail(head: &'a [u8], tail: &'a [Run], len_bytes: u32) -> Self {
        debug_assert_eq!(
            len_bytes as usize,
            head.len() + tail.iter().map(Run::len).sum::<usize>()
        );
        Self {
            head,
            tail,
            len_bytes,
            vlan_tci: None,
            partial_checksum: None,
            segment_bytes: 0,
        }
    }

    /// The first bytes, in one piece: the whole frame, or at least
    /// [`crate::MIN_HEAD_BYTES`] of it.
    #[inline]
    pub fn head(&self) -> &'a [u8] {
        self.head
    }

    /// Whole length in bytes, without a tag that came beside the frame.
    #[inline]
    pub fn len(&self) -> usize {
        self.len_bytes as usize
    }

    /// True when the frame has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    /// Copies `frame[from..from + dst.len()]` to `dst`.
    ///
    /// # Panics
    ///
    /// When the range does not lie within the frame.
    #[inline]
    pub fn copy_to(&self, from: usize, dst: &mut [u8]) {
        if let Some(source) = self.head.get(from..from + dst.len()) {
            dst.copy_from_slice(source);
        } else {
            self.copy_runs(from, dst);
        }
    }

    #[cold]
    fn copy_runs(&self, mut from: usize, mut dst: &mut [u8]) {
        assert!(from + dst.len() <= self.len(), "range beyond the frame");
        if let Some(source) = self.head.get(from..) {
            let (now, later) = dst.split_at_mut(source.len());
            now.copy_from_slice(source);
            dst = later;
            from = self.head.len();
        }
        let mut run_start = self.head.len();
        for run in self.tail {
            if dst.is_empty() {
                return;
            }
            let run_end = run_start + run.len();
            if from < run_end {
                let (now, later) = dst.split_at_mut(dst.len().min(run_end - from));
                run.copy_to(from - run_start, now);
                from += now.len();
                dst = later;
            }
            run_start = run_end;
        }
    }

    /// Gives each piece of `frame[from..from + len]` to `take`, in order: a place and how many
    /// bytes are there, at least one.
    ///
    /// # Panics
    ///
    /// When the range does not lie within the frame.
    #[inline(always)]
    pub(crate) fn pieces(&self, from: usize, len: usize, mut take: impl FnMut(*const u8, usize)) {
        let end = from + len;
        if end <= self.head.len() {
            if len > 0 {
                take(self.head[from..end].as_ptr(), len);
            }
        } else {
            self.run_pieces(from, end, &mut take);
        }
    }

    fn run_pieces(&self, from: usize, end: usize, take: &mut impl FnMut(*const u8, usize)) {
        assert!(end <= self.len(), "range beyond the frame");
        if let Some(source) = self.head.get(from..).filter(|source| !source.is_empty()) {
            take(source.as_ptr(), source.len());
        }
        let mut run_start = self.head.len();
        for run in self.tail {
            let run_end = run_start + run.len();
            let (first, last) = (from.max(run_start), end.min(run_end));
            if first < last {
                // SAFETY: `first` lies within the run.
                let start = unsafe { run.start.add(first - run_start) };
                take(start, last - first);
            }
            run_start = run_end;
        }
    }

    /// The whole frame in one vector, for captures, traces and tests.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.copy_to(0, &mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_in_runs_reads_like_a_contiguous_one() {
        let whole: Vec<u8> = (0..=255).collect();
        let tail: Vec<Run> = [&whole[100..101], &whole[101..101], &whole[101..256]]
            .iter()
            // SAFETY: `whole` outlives the runs.
            .map(|piece| unsafe { Run::new(piece.as_ptr(), piece.len() as u32) })
            .collect();
        let frame = Frame::in_runs(&whole[..100], &tail);
        assert_eq!(frame.to_vec(), whole);
        for from in [0, 1, 99, 100, 101, 255] {
            for len in [0, 1, 2, 5, 156] {
                if from + len <= 256 {
                    let mut out = vec![0; len];
                    frame.copy_to(from, &mut out);
                    assert_eq!(out, whole[from..from + len]);
                    let mut pieces = Vec::new();
                    // SAFETY: the pieces lie in `whole`.
                    frame.pieces(from, len, |start, len| unsafe {
                        pieces.extend_from_slice(std::slice::from_raw_parts(start, len));
                    });
                    assert_eq!(pieces, out);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "beyond the frame")]
    fn reading_beyond_the_frame_is_refused() {
        Frame::contiguous(&[1, 2, 3]).copy_to(2, &mut [0; 2]);
    }
}
