//! Where a split virtqueue is, and what of it is known (virtio 1.2 §2.7.5 to §2.7.8).
//!
//! In: places in a guest's memory. Out: heads, descriptors and places of buffers, copied; used
//! entries. What must hold: nothing outside the ring's parts is touched, whatever index stands
//! in them.

use std::sync::atomic::Ordering;

use super::{
    memory::{MemoryMap, Window},
    violation::Violation,
};
use crate::guest;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;
pub(super) const DESCRIPTOR_BYTES: u32 = 16;

/// One descriptor, copied out of its table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub(super) guest: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

impl Descriptor {
    #[inline(always)]
    pub(super) fn from_words(guest: u64, rest: u64) -> Self {
        Self {
            guest,
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }

    /// A chain of this descriptor alone, for the switch to read.
    #[inline(always)]
    pub(super) fn is_single_readable(self) -> bool {
        self.flags & (NEXT | WRITE | INDIRECT) == 0
    }

    /// A chain of this descriptor alone, for the switch to write.
    #[inline(always)]
    pub(super) fn is_single_writable(self) -> bool {
        self.flags & (NEXT | WRITE | INDIRECT) == WRITE
    }
}

/// Where a ring lies: places in this process, checked for length and alignment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) size: u16,
    pub(super) descriptors: *const u64,
    pub(super) available: *const u16,
    pub(super) used: *mut u32,
}

/// What a ring came to, to go on from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) available: u16,
    pub(super) used: u16,
}

/// Where a ring is and what of it is known: all that the common case needs, small enough to be
/// kept in registers over a burst. A copy is worked with, and put back at the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    pub(super) parts: Parts,
    pub(super) at: Position,
    /// The guest's available index as last loaded.
    seen: u16,
    /// Where buffers were found last.
    window: Window,
}

impl Cursor {
    /// At a place of a ring, with nothing known of what the guest made available there.
    pub(super) fn new(parts: Parts, at: Position) -> Self {
        Self {
            parts,
            at,
            seen: at.available,
            window: Window::NOTHING,
        }
    }

    #[inline(always)]
    pub(super) fn slot(&self, index: u16) -> usize {
        (index & (self.parts.size - 1)) as usize
    }

    /// How many chains are available, at most the ring's size; looks at the guest's index when
    /// fewer than `wanted` are known of.
    #[inline(always)]
    pub(super) fn available(&mut self, wanted: u16) -> Result<u16, Violation> {
        let known = self.seen.wrapping_sub(self.at.available);
        if known >= wanted {
            return Ok(known);
        }
        // SAFETY: the index is the second word of the available ring, which has two words and
        // more, aligned to 2.
        self.seen = unsafe { guest::load_index(self.parts.available.add(1), Ordering::Acquire) };
        let ahead = self.seen.wrapping_sub(self.at.available);
        if ahead > self.parts.size {
            return Err(Violation::AvailIndex);
        }
        Ok(ahead)
    }

    /// The head of the chain that is available `ahead` places further.
    #[inline(always)]
    pub(super) fn head(&self, ahead: u16) -> u16 {
        let slot = self.slot(self.at.available.wrapping_add(ahead));
        // SAFETY: entries begin at the third word, and there are as many as the ring's size.
        unsafe { self.parts.available.add(2 + slot).read_volatile() }
    }

    /// The heads of the next chains, one for each of `heads`; their descriptors are on their way
    /// when it ends: they come from another core, a line at a time, and waiting for one line
    /// after another would cost more than all the rest.
    #[inline(always)]
    pub(super) fn heads(&self, heads: &mut [u16]) {
        for (ahead, slot) in heads.iter_mut().enumerate() {
            let head = self.head(ahead as u16);
            *slot = head;
            // A head beyond the table is found out later; a prefetch never faults.
            let entry = self.parts.descriptors.wrapping_add(head as usize * 2);
            guest::prefetch(entry.cast());
        }
    }

    /// The descriptor that heads a chain.
    #[inline(always)]
    pub(super) fn descriptor(&self, head: u16) -> Result<Descriptor, Violation> {
        if head >= self.parts.size {
            return Err(Violation::HeadIndex);
        }
        Ok(self.table_entry(head))
    }

    #[inline(always)]
    pub(super) fn table_entry(&self, index: u16) -> Descriptor {
        debug_assert!(index < self.parts.size);
        // SAFETY: the index is below the ring's size (checked by both callers); the table has
        // that many entries of two words, aligned to 16.
        unsafe {
            let entry = self.parts.descriptors.add(index as usize * 2);
            Descriptor::from_words(entry.read_volatile(), entry.add(1).read_volatile())
        }
    }

    /// The place of a buffer, where the last one was found or in `memory`, if it lies in one
    /// region.
    #[inline(always)]
    pub(super) fn place(&mut self, memory: &MemoryMap, guest: u64, len: u32) -> Option<*mut u8> {
        if let Some(place) = self.window.find(guest, len) {
            return Some(place);
        }
        self.window = memory.window(guest)?;
        self.window.find(guest, len)
    }

    /// Steps past `count` chains.
    #[inline(always)]
    pub(super) fn take(&mut self, count: u16) {
        self.at.available = self.at.available.wrapping_add(count);
    }

    /// Writes the used entry `ahead` places further: the chain at `head`, in which `len` bytes
    /// were written.
    #[inline(always)]
    pub(super) fn write_used(&self, ahead: u16, head: u16, len: u32) {
        let slot = self.slot(self.at.used.wrapping_add(ahead));
        // SAFETY: entries of two words begin at the second word of the used ring, and there are
        // as many as the ring's size.
        unsafe {
            let entry = self.parts.used.add(1 + 2 * slot).cast::<u8>();
            guest::store_u64(entry, (u64::from(head) | u64::from(len) << 32).to_le());
        }
    }
}
