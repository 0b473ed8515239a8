//! The dirty log: while a guest is migrated, which pages of its memory the switch wrote.
//!
//! In: guest addresses that were written. Out: one bit for each 4 KiB page, in memory that the
//! front end shares. What must hold: a bit is set after the write that it tells of, atomically,
//! and never outside the log.
//!
//! Source: QEMU's docs/interop/vhost-user.rst, "Migration".

use std::{
    ffi::c_void,
    fs::File,
    os::fd::AsFd,
    ptr,
    sync::atomic::{AtomicU8, Ordering, fence},
};

use rustix::{
    fs::fstat,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

use super::sigbus::{self, Watch};

const PAGE_BYTES: u64 = 4096;

/// The log of one guest.
#[derive(Debug)]
pub(super) struct DirtyLog {
    bits: *mut u8,
    bytes: u64,
    mapping: *mut c_void,
    mapping_len: usize,
    watch: Watch,
}

// SAFETY: as for guest memory, the mapping belongs to the process; bits are set atomically.
unsafe impl Send for DirtyLog {}
// SAFETY: as above.
unsafe impl Sync for DirtyLog {}

impl DirtyLog {
    /// Maps `bytes` at `offset` of `file`.
    pub(super) fn map(file: &File, offset: u64, bytes: u64) -> Result<Self, String> {
        let first = offset / PAGE_BYTES * PAGE_BYTES;
        let lead = offset - first;
        let end = offset
            .checked_add(bytes)
            .ok_or("the dirty log wraps around")?;
        let stat = fstat(file.as_fd()).map_err(|e| format!("the dirty log's file: {e}"))?;
        if bytes == 0 || u64::try_from(stat.st_size).unwrap_or(0) < end {
            return Err(format!(
                "the dirty log ends at {end:#x} of its file, which has {:#x} bytes",
                stat.st_size
            ));
        }
        let len = usize::try_from(lead + bytes).map_err(|_| "the dirty log wraps around")?;
        // SAFETY: a fresh mapping, at a place of the kernel's choice, disturbs no other.
        let mapping = unsafe {
            mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                file.as_fd(),
                first,
            )
        }
        .map_err(|e| format!("the dirty log cannot be mapped: {e}"))?;
        let Some(watch) = sigbus::watch(mapping as usize, len) else {
            // SAFETY: nobody knows the mapping yet.
            let _ = unsafe { munmap(mapping, len) };
            return Err("the process maps too many memory regions of guests".into());
        };
        Ok(Self {
            bits: mapping.cast::<u8>().wrapping_add(lead as usize),
            bytes,
            mapping,
            mapping_len: len,
            watch,
        })
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
            let byte = unsafe { AtomicU8::from_ptr(self.bits.add((page / 8) as usize)) };
            byte.fetch_or(1 << (page % 8), Ordering::Relaxed);
        }
    }

    /// True when the log's file shrank under an access.
    pub(super) fn is_lost(&self) -> bool {
        self.watch.is_lost()
    }
}

impl Drop for DirtyLog {
    fn drop(&mut self) {
        self.watch.end();
        // SAFETY: whoever marks pages holds the log.
        let _ = unsafe { munmap(self.mapping, self.mapping_len) };
    }
}
