//! A guest's memory: the regions that its front end shares, and how addresses become places.
//!
//! In: file descriptors and the regions they claim to hold. Out: places in this process. What
//! must hold:
//! - a place is given out only for bytes that lie wholly within one region, which the file held
//!   when it was mapped; a file that shrinks later is [`super::sigbus`]'s to contain;
//! - no two regions share an address;
//! - a region is unmapped when its last user lets go of it, and no worker is that user
//!   ([`super::queue`]).

use std::{fs::File, os::fd::AsFd, ptr, sync::Arc};

use rustix::fs::{SealFlags, fcntl_add_seals, fstatfs};

use super::mapping::Mapping;

/// File systems whose pages are there, or made, without waiting for anybody: tmpfs, which memfds
/// are on too, and hugetlbfs (linux/magic.h). A worker that touches a page of another may wait for
/// a disk, or for whoever answers for a file system in user space.
const IN_MEMORY: [rustix::fs::FsWord; 2] = [0x0102_1994, 0x9584_58f6];

/// Most regions of one guest: what the protocol library takes in one message.
pub(super) const MAX_REGIONS: usize = 32;

/// Where a region lies, as its front end says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// First address for the guest.
    pub(super) guest: u64,
    /// First address for the front end, whose process names rings that way.
    pub(super) user: u64,
    /// Bytes.
    pub(super) size: u64,
    /// Where the region begins in its file.
    pub(super) offset: u64,
}

impl Claim {
    fn overlaps(&self, other: &Self) -> bool {
        let apart = |a: u64, b: u64| a >= b + other.size || b >= a + self.size;
        !(apart(self.guest, other.guest) && apart(self.user, other.user))
    }
}

/// A region, mapped for as long as this value lives.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) claim: Claim,
    mapping: Mapping,
}

impl Region {
    /// Maps what `claim` says of `file`.
    pub(super) fn map(claim: Claim, file: &File) -> Result<Self, String> {
        let at = format!("memory region {:#x}+{:#x}", claim.guest, claim.size);
        let sums = [claim.guest, claim.user].map(|start| start.checked_add(claim.size));
        let [Some(_), Some(_)] = sums else {
            return Err(format!("{at} wraps around"));
        };
        let kind = fstatfs(file.as_fd()).map_err(|e| format!("{at}: its file: {e}"))?;
        if !IN_MEMORY.contains(&kind.f_type) {
            return Err(format!(
                "{at}: its file lies on a file system that may make the switch wait for it; use \
                 memory-backend-memfd, or a file on tmpfs or hugetlbfs"
            ));
        }
        // Before the size is read, so that it cannot shrink afterwards. Files that take no seals
        // are mapped all the same.
        let _ = fcntl_add_seals(file.as_fd(), SealFlags::SHRINK);
        let mapping = Mapping::new(&at, file, claim.offset, claim.size)?;
        Ok(Self { claim, mapping })
    }
}

/// Where a run of guest addresses lies: copied out of a region for quick translation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    guest: u64,
    size: u64,
    host: *mut u8,
}

impl Window {
    /// Holds no address.
    pub(super) const NOTHING: Self = Self {
        guest: 0,
        size: 0,
        host: ptr::null_mut(),
    };

    /// The place of `len` bytes at `guest`, if all of them lie here.
    #[inline(always)]
    pub(super) fn find(&self, guest: u64, len: u32) -> Option<*mut u8> {
        let offset = guest.wrapping_sub(self.guest);
        let fits = offset < self.size && u64::from(len) <= self.size - offset;
        fits.then(|| self.host.wrapping_add(offset as usize))
    }
}

/// All regions of a guest. Never changes: a change of memory is another map.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryMap {
    regions: Vec<Arc<Region>>,
}

impl MemoryMap {
    /// A map with a further region.
    pub(super) fn with(&self, region: Region) -> Result<Self, String> {
        let Claim { guest, size, .. } = region.claim;
        if self.regions.len() == MAX_REGIONS {
            return Err(format!("more than {MAX_REGIONS} memory regions"));
        }
        if let Some(other) = self
            .regions
            .iter()
            .find(|r| r.claim.overlaps(&region.claim))
        {
            return Err(format!(
                "memory region {guest:#x}+{size:#x} overlaps {:#x}+{:#x}",
                other.claim.guest, other.claim.size
            ));
        }
        let mut regions = self.regions.clone();
        regions.push(Arc::new(region));
        Ok(Self { regions })
    }

    /// True when just this region is there.
    pub(super) fn holds(&self, claim: Claim) -> bool {
        self.regions.iter().any(|region| region.claim == claim)
    }

    /// A map without the region at `guest` and `user` of `size` bytes; `None` if there is none.
    pub(super) fn without(&self, guest: u64, user: u64, size: u64) -> Option<Self> {
        let is_it = |r: &Region| (r.claim.guest, r.claim.user, r.claim.size) == (guest, user, size);
        let at = self.regions.iter().position(|region| is_it(region))?;
        let mut regions = self.regions.clone();
        regions.remove(at);
        Some(Self { regions })
    }

    /// The place of `len` bytes at the front end's address `user`.
    pub(super) fn place_of_user(&self, user: u64, len: u64) -> Option<*mut u8> {
        self.regions.iter().find_map(|region| {
            let offset = user.checked_sub(region.claim.user)?;
            let fits = offset < region.claim.size && len <= region.claim.size - offset;
            fits.then(|| region.mapping.place().wrapping_add(offset as usize))
        })
    }

    /// The region that holds the guest's address.
    #[inline]
    pub(super) fn window(&self, guest: u64) -> Option<Window> {
        let holds = |r: &&Arc<Region>| guest.wrapping_sub(r.claim.guest) < r.claim.size;
        let region = self.regions.iter().find(holds)?;
        Some(Window {
            guest: region.claim.guest,
            size: region.claim.size,
            host: region.mapping.place(),
        })
    }

    /// Calls `take` with the place of each run of the `len` bytes at `guest`: one, or several
    /// where regions meet. False when some byte lies in no region.
    pub(super) fn places(&self, guest: u64, len: u32, mut take: impl FnMut(*mut u8, u32)) -> bool {
        let (mut guest, mut left) = (guest, len);
        while left > 0 {
            let Some(window) = self.window(guest) else {
                return false;
            };
            let here = window.size - (guest - window.guest);
            let run = left.min(u32::try_from(here).unwrap_or(u32::MAX));
            let Some(place) = window.find(guest, run) else {
                return false;
            };
            take(place, run);
            guest = guest.wrapping_add(u64::from(run));
            left -= run;
        }
        true
    }

    /// True when a region's file shrank under an access, and the bytes are gone.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.regions.iter().any(|region| region.mapping.is_lost())
    }

    /// How many regions.
    pub(super) fn len(&self) -> usize {
        self.regions.len()
    }

    /// Their bytes together.
    pub(super) fn bytes(&self) -> u64 {
        self.regions.iter().map(|region| region.claim.size).sum()
    }

    /// One past the highest guest address.
    pub(super) fn guest_end(&self) -> u64 {
        let end = |region: &Arc<Region>| region.claim.guest + region.claim.size;
        self.regions.iter().map(end).max().unwrap_or(0)
    }
}
