//! Chains of descriptors as runs of guest memory.
//!
//! In: places that the memory map vouched for. Out: bytes read from, or written to, one after
//! another. What must hold: nothing is touched outside the pieces; their number has a limit, and
//! what holds them never grows.

use super::violation::Violation;
use crate::guest;

/// Most pieces that one chain, or the buffers of one frame, may have: the longest chain that
/// common guests make is a ring of 1,024.
pub(super) const MAX_PIECES: usize = 1024;

/// A run of guest memory that a chain names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) place: *mut u8,
    pub(super) len: u32,
    /// Where it is for the guest; the dirty log wants to know.
    pub(super) guest: u64,
}

// SAFETY: a piece is only a place; whoever uses it holds the ring's lock, and with it the map.
unsafe impl Send for Piece {}

/// Pieces, in a vector that never grows.
#[derive(Debug)]
pub(super) struct Pieces(Vec<Piece>);

impl Default for Pieces {
    fn default() -> Self {
        Self(Vec::with_capacity(MAX_PIECES))
    }
}

impl Pieces {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn push(&mut self, piece: Piece) -> Result<(), Violation> {
        if self.0.len() == MAX_PIECES {
            return Err(Violation::TooManyDescriptors);
        }
        self.0.push(piece);
        Ok(())
    }

    pub(super) fn as_slice(&self) -> &[Piece] {
        &self.0
    }
}

/// Reads along the pieces of a chain.
pub(super) struct Reader<'a> {
    pieces: &'a [Piece],
    /// Bytes of the first piece that are read.
    skip: u32,
}

impl<'a> Reader<'a> {
    /// Begins with the first byte.
    pub(super) fn new(pieces: &'a Pieces) -> Self {
        let pieces = pieces.as_slice();
        Self { pieces, skip: 0 }
    }

    /// The next run, of at most `most` bytes.
    pub(super) fn next_run(&mut self, most: u32) -> Option<(*const u8, u32)> {
        let (piece, rest) = self.pieces.split_first()?;
        let place = piece.place.wrapping_add(self.skip as usize).cast_const();
        let left = piece.len - self.skip;
        if left > most {
            self.skip += most;
            return Some((place, most));
        }
        self.pieces = rest;
        self.skip = 0;
        Some((place, left))
    }

    /// Copies the next `len` bytes, or as many as there are.
    ///
    /// # Safety
    ///
    /// The pieces are readable and `to` has room for `len` bytes.
    pub(super) unsafe fn read(&mut self, mut to: *mut u8, len: u32) {
        let mut left = len;
        while left > 0 {
            let Some((place, run)) = self.next_run(left) else {
                return;
            };
            // SAFETY: the caller's promise; `run` is at most what is left.
            unsafe {
                guest::copy(place, to, run as usize);
                to = to.add(run as usize);
            }
            left -= run;
        }
    }
}

/// Writes along the pieces of a frame's buffers.
#[derive(Clone, Copy)]
pub(super) struct Writer<'a> {
    pieces: &'a [Piece],
    /// Bytes of the first piece that are written.
    skip: u32,
}

impl<'a> Writer<'a> {
    /// Begins with the first byte.
    pub(super) fn new(pieces: &'a Pieces) -> Self {
        let pieces = pieces.as_slice();
        Self { pieces, skip: 0 }
    }

    /// Writes `len` bytes, or as many as there is room for.
    ///
    /// # Safety
    ///
    /// The pieces are writable, and `from` has `len` bytes.
    pub(super) unsafe fn write(&mut self, mut from: *const u8, mut len: usize) {
        while len > 0 {
            let Some((piece, rest)) = self.pieces.split_first() else {
                return;
            };
            let room = (piece.len - self.skip) as usize;
            let run = room.min(len);
            // SAFETY: the run lies within the piece and within what is left.
            unsafe {
                guest::copy(from, piece.place.add(self.skip as usize), run);
                from = from.add(run);
            }
            len -= run;
            self.skip += run as u32;
            if run == room {
                self.pieces = rest;
                self.skip = 0;
            }
        }
    }

    /// Each run of `len` bytes from byte `from` on.
    pub(super) fn runs(&self, from: usize, len: usize, mut take: impl FnMut(*mut u8, usize)) {
        let (mut begin, end) = (0, from + len);
        let mut skip = self.skip;
        for piece in self.pieces {
            let room = (piece.len - skip) as usize;
            let (first, last) = (from.max(begin), end.min(begin + room));
            if first < last {
                let place = piece.place.wrapping_add(skip as usize + first - begin);
                take(place, last - first);
            }
            begin += room;
            skip = 0;
        }
    }
}
