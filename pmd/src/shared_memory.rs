//! Memory shared with another process by file descriptor: what a guest's memory is to a
//! hypervisor.
//!
//! In: how much. Out: a file to hand over, and access by offset. The other process may write
//! anything at any time, so values are copied in and out and no reference to the memory is ever
//! made. What must hold: every access lies inside, which is checked each time.
//!
//! For programs that play the guest's part: benches, and what else drives a switch from outside.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::Ordering::{Acquire, Release},
};

use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

use crate::guest;

/// Memory behind a file without a name.
#[derive(Debug)]
pub struct SharedMemory {
    file: OwnedFd,
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is owned by this value and stays where it is until dropped; nothing about it
// depends on the thread.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// `bytes` bytes, all zero, of 2 MiB pages when `huge`.
    ///
    /// # Errors
    /// When the kernel has no such memory, or `huge` and `bytes` is no multiple of 2 MiB.
    pub fn new(bytes: usize, huge: bool) -> io::Result<Self> {
        let pages = if huge {
            MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB
        } else {
            MemfdFlags::empty()
        };
        let file = memfd_create("shared", MemfdFlags::CLOEXEC | pages)?;
        ftruncate(&file, bytes as u64)?;
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing away from
        // anybody. The file is ours and does not shrink; the pages are there once this succeeds.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                &file,
                0,
            )?
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { file, base, bytes })
    }

    /// The file, to hand over.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// How much it is.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// Where `len` bytes at `offset` are.
    ///
    /// # Panics
    /// When they are not all inside, or not aligned to `align`.
    #[inline]
    fn place(&self, offset: usize, len: usize, align: usize) -> *mut u8 {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.bytes);
        assert!(
            inside && offset.is_multiple_of(align),
            "{len} bytes at {offset} of {}",
            self.bytes
        );
        // SAFETY: the offset was just found to lie within the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Loads a 16-bit value; what the other side wrote before it is then seen too.
    ///
    /// # Panics
    /// When `offset` is outside or odd, as with all of these.
    #[inline]
    pub fn load_u16(&self, offset: usize) -> u16 {
        // SAFETY: `place` has checked bounds and alignment.
        unsafe { guest::load_index(self.place(offset, 2, 2).cast(), Acquire) }
    }

    /// Stores a 16-bit value; the other side then sees what was written before it too.
    ///
    /// # Panics
    /// When `offset` is outside or odd.
    #[inline]
    pub fn store_u16(&self, offset: usize, value: u16) {
        // SAFETY: `place` has checked bounds and alignment.
        unsafe { guest::store_index(self.place(offset, 2, 2).cast(), value, Release) }
    }

    /// Reads eight bytes as a little-endian number.
    ///
    /// # Panics
    /// When `offset` is outside.
    #[inline]
    pub fn read_u64(&self, offset: usize) -> u64 {
        // SAFETY: `place` has checked bounds; alignment is not needed.
        u64::from_le(unsafe { guest::load_u64(self.place(offset, 8, 1)) })
    }

    /// Writes a number as eight little-endian bytes.
    ///
    /// # Panics
    /// When `offset` is outside.
    #[inline]
    pub fn write_u64(&self, offset: usize, value: u64) {
        // SAFETY: `place` has checked bounds; alignment is not needed.
        unsafe { guest::store_u64(self.place(offset, 8, 1), value.to_le()) }
    }

    /// Copies bytes in.
    ///
    /// # Panics
    /// When they do not fit at `offset`.
    #[inline]
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let place = self.place(offset, bytes.len(), 1);
        // SAFETY: `place` has checked bounds, and the slice is readable.
        unsafe { guest::copy(bytes.as_ptr(), place, bytes.len()) }
    }

    /// Copies bytes out.
    ///
    /// # Panics
    /// When there are not so many at `offset`.
    #[inline]
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        let place = self.place(offset, bytes.len(), 1);
        // SAFETY: `place` has checked bounds, and the slice is writable.
        unsafe { guest::copy(place, bytes.as_mut_ptr(), bytes.len()) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, as long as this, and nothing refers to it any more.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::SharedMemory;

    #[test]
    fn what_is_written_is_read_at_both_ends() {
        let memory = SharedMemory::new(4096, false).expect("memory");
        memory.write(5, b"abc");
        memory.store_u16(4094, 0x1234);
        memory.write_u64(100, 7);
        let mut bytes = [0; 5];
        memory.read(4, &mut bytes);
        assert_eq!(&bytes, b"\0abc\0");
        assert_eq!((memory.load_u16(4094), memory.read_u64(100)), (0x1234, 7));
        let file = std::fs::File::from(memory.file().try_clone_to_owned().expect("clone"));
        let mut seen = [0; 3];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut seen, 5).expect("read");
        assert_eq!(&seen, b"abc");
    }

    #[test]
    fn nothing_outside_is_touched() {
        let memory = SharedMemory::new(4096, false).expect("memory");
        let outside: [fn(&SharedMemory); 6] = [
            |memory| _ = memory.load_u16(4096),
            |memory| _ = memory.load_u16(1),
            |memory| memory.store_u16(4095, 0),
            |memory| _ = memory.read_u64(4089),
            |memory| memory.write(4094, b"abc"),
            |memory| memory.read(usize::MAX, &mut [0; 2]),
        ];
        for access in outside {
            let refused =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| access(&memory)));
            assert!(refused.is_err());
        }
    }
}
