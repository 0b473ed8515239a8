//! Memory that a front end shares, mapped into this process.
//!
//! In: a file and which of its bytes. Out: the place of the first of them. What must hold: the
//! file had all of them when they were mapped; a file that shrinks later is
//! [`super::sigbus`]'s to contain; what is mapped is unmapped with the value.

use std::{ffi::c_void, fs::File, os::fd::AsFd, ptr};

use rustix::{
    fs::fstat,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

use super::sigbus::{self, Watch};

const PAGE_BYTES: u64 = 4096;

/// Bytes of a file, mapped for as long as this value lives.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Where the first byte is that was asked for.
    place: *mut u8,
    /// The mapping itself, which begins and ends at pages of the file.
    start: *mut c_void,
    len: usize,
    watch: Watch,
}

// SAFETY: the mapping belongs to the process, not to a thread; access goes through `guest`, or is
// atomic.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` at `offset` of `file`; `name` is what people call it.
    pub(super) fn new(name: &str, file: &File, offset: u64, bytes: u64) -> Result<Self, String> {
        let wraps = || format!("{name} wraps around");
        let end = offset.checked_add(bytes).ok_or_else(wraps)?;
        if bytes == 0 {
            return Err(format!("{name} is empty"));
        }
        let stat = fstat(file.as_fd()).map_err(|e| format!("{name}: its file: {e}"))?;
        if u64::try_from(stat.st_size).unwrap_or(0) < end {
            return Err(format!(
                "{name} ends at {end:#x} of its file, which has {:#x} bytes",
                stat.st_size
            ));
        }
        // The size of a huge page, for a file of them.
        let page = u64::try_from(stat.st_blksize).unwrap_or(0).max(PAGE_BYTES);
        let first = offset / page * page;
        let lead = offset - first;
        let len = (lead + bytes)
            .checked_next_multiple_of(page)
            .and_then(|len| usize::try_from(len).ok())
            .ok_or_else(wraps)?;
        // SAFETY: a fresh mapping, at a place of the kernel's choice, disturbs no other.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                file.as_fd(),
                first,
            )
        }
        .map_err(|e| format!("{name} cannot be mapped: {e}"))?;
        let Some(watch) = sigbus::watch(start as usize, len) else {
            // SAFETY: nobody knows the mapping yet.
            let _ = unsafe { munmap(start, len) };
            return Err("the process maps too many memory regions of guests".into());
        };
        Ok(Self {
            place: start.cast::<u8>().wrapping_add(lead as usize),
            start,
            len,
            watch,
        })
    }

    /// The place of the first byte.
    #[inline(always)]
    pub(super) fn place(&self) -> *mut u8 {
        self.place
    }

    /// True when the file shrank under an access.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.watch.is_lost()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.watch.end();
        // SAFETY: places are only given out to users that hold the mapping.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}
