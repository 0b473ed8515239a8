//! The dirty log: while a guest is migrated, which pages of its memory the switch wrote.
//!
//! In: guest addresses that were written. Out: one bit for each 4 KiB page, in memory that the
//! front end shares. What must hold: a bit is set after the write that it tells of, atomically,
//! and never outside the log.
//!
//! Source: QEMU's docs/interop/vhost-user.rst, "Migration".

use std::{
    fs::File,
    sync::atomic::{AtomicU8, Ordering, fence},
};

use super::mapping::Mapping;

const PAGE_BYTES: u64 = 4096;

/// The log of one guest.
#[derive(Debug)]
pub(super) struct DirtyLog {
    bits: Mapping,
    bytes: u64,
}

impl DirtyLog {
    /// Maps `bytes` at `offset` of `file`.
    pub(super) fn map(file: &File, offset: u64, bytes: u64) -> Result<Self, String> {
        let bits = Mapping::new("the dirty log", file, offset, bytes)?;
        Ok(Self { bits, bytes })
    }

    /// True when the log has a bit for every page below `end`.
    pub(super) fn covers(&self, end: u64) -> bool {
        end.div_ceil(PAGE_BYTES).div_ceil(8) <= self.bytes
    }

    /// Marks the pages of `len` bytes at guest address `start`, which were written before.
    pub(super) fn mark(&self, start: u64, len: u64) {
        if len == 0 {
            return;
        }
        // The write first, for whoever sees the bit.
        fence(Ordering::Release);
        let last = start.saturating_add(len - 1) / PAGE_BYTES;
        for page in start / PAGE_BYTES..=last {
            if page / 8 >= self.bytes {
                return;
            }
            // SAFETY: the byte lies within the log, which is mapped as long as `self` lives; it
            // is only ever touched atomically.
            let byte = unsafe { AtomicU8::from_ptr(self.bits.place().add((page / 8) as usize)) };
            byte.fetch_or(1 << (page % 8), Ordering::Relaxed);
        }
    }

    /// True when the log's file shrank under an access.
    pub(super) fn is_lost(&self) -> bool {
        self.bits.is_lost()
    }
}
