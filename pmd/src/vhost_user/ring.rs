//! A split virtqueue, seen from the device's side and polled (virtio 1.2 §2.7).
//!
//! In: what the guest makes available. Out: chains of descriptors as places, and used entries.
//! What must hold:
//! - whatever is read from the ring is copied to a local first, and that copy is checked and
//!   used: the guest may change the ring at any moment;
//! - every index is below the size it belongs to, every place lies within one region, every walk
//!   along a chain ends;
//! - used entries are written before the index that publishes them (one release store a burst);
//! - a notification is sent unless the guest, seen after a full fence behind that store, asks
//!   for none (§2.7.7, §2.7.10).

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use super::{
    cursor::{Cursor, DESCRIPTOR_BYTES, Descriptor, INDIRECT, NEXT, Parts, Position, WRITE},
    dirty_log::DirtyLog,
    features::{EVENT_IDX, IN_ORDER, INDIRECT_DESC, Negotiated},
    memory::MemoryMap,
    pieces::{MAX_PIECES, Piece, Pieces},
    violation::Violation,
    watch::Calls,
};
use crate::guest;

/// `VIRTQ_USED_F_NO_NOTIFY` and `VIRTQ_AVAIL_F_NO_INTERRUPT`.
const NO_NOTIFY: u16 = 1;

/// The largest ring (virtio 1.2 §2.7).
pub(super) const MAX_SIZE: u32 = 32_768;

/// A ring that frames may pass. Whoever holds it is inside its queue's lock.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) cursor: Cursor,
    pub(super) memory: MemoryMap,
    pub(super) negotiated: Negotiated,
    /// The used index at the last decision about a notification, if there was one.
    signalled: Option<u16>,
    /// The guest was asked to notify.
    kicks_on: bool,
    call: Option<OwnedFd>,
    log: Option<Arc<DirtyLog>>,
    /// The guest address of the used ring, where writes to it are to be logged.
    used_log: Option<u64>,
    /// The guest has a way to notify.
    pub(super) kicked: bool,
}

// SAFETY: the places belong to the process and are accessed by whoever holds the queue's lock.
unsafe impl Send for Ring {}

/// What a ring is made of, beside its parts and its place to begin.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// Where the ring's parts lie, and its buffers.
    pub(super) memory: MemoryMap,
    pub(super) negotiated: Negotiated,
    pub(super) call: Option<OwnedFd>,
    pub(super) log: Option<Arc<DirtyLog>>,
    pub(super) used_log: Option<u64>,
    /// The guest has a way to notify; without one it expects to be polled.
    pub(super) kicked: bool,
}

impl Ring {
    /// A ring that goes on at `at`. The `parts` are places within the memory of `around`.
    pub(super) fn new(parts: Parts, at: Position, around: Surroundings) -> Self {
        Self {
            cursor: Cursor::new(parts, at),
            memory: around.memory,
            negotiated: around.negotiated,
            signalled: None,
            kicks_on: true,
            call: around.call,
            log: around.log,
            used_log: around.used_log,
            kicked: around.kicked,
        }
    }

    /// Where the ring stands.
    pub(super) fn position(&self) -> Position {
        self.cursor.at
    }

    /// The ring's size.
    pub(super) fn size(&self) -> u16 {
        self.cursor.parts.size
    }

    fn place(&mut self, guest: u64, len: u32) -> Option<*mut u8> {
        self.cursor.place(&self.memory, guest, len)
    }

    /// Appends every piece of the chain at `head` to `pieces` and returns their bytes together.
    pub(super) fn chain(
        &mut self,
        head: u16,
        writable: bool,
        pieces: &mut Pieces,
    ) -> Result<u32, Violation> {
        let mut descriptor = self.cursor.descriptor(head)?;
        if descriptor.flags & INDIRECT != 0 {
            return self.indirect_chain(descriptor, writable, pieces);
        }
        let mut bytes = self.append(descriptor, writable, pieces)?;
        let mut steps = 1;
        while descriptor.flags & NEXT != 0 {
            if steps == self.size() {
                return Err(Violation::Loop);
            }
            steps += 1;
            if descriptor.next >= self.size() {
                return Err(Violation::NextIndex);
            }
            descriptor = self.cursor.table_entry(descriptor.next);
            if descriptor.flags & INDIRECT != 0 {
                return Err(Violation::IndirectNext);
            }
            bytes = add(bytes, self.append(descriptor, writable, pieces)?)?;
        }
        Ok(bytes)
    }

    /// §2.7.5.3.
    fn indirect_chain(
        &mut self,
        table: Descriptor,
        writable: bool,
        pieces: &mut Pieces,
    ) -> Result<u32, Violation> {
        if !self.negotiated.has(INDIRECT_DESC) {
            return Err(Violation::IndirectNotNegotiated);
        }
        if table.flags & NEXT != 0 {
            return Err(Violation::IndirectNext);
        }
        let entries = table.len / DESCRIPTOR_BYTES;
        if entries == 0
            || !table.len.is_multiple_of(DESCRIPTOR_BYTES)
            || entries as usize > MAX_PIECES
        {
            return Err(Violation::IndirectLength);
        }
        let start = self
            .place(table.guest, table.len)
            .ok_or(Violation::Address)?;
        let (mut bytes, mut index, mut steps) = (0, 0, 0);
        loop {
            // SAFETY: `index` is below `entries`, and the table's `entries * 16` bytes lie at
            // `start`.
            let descriptor = unsafe {
                let entry = start.add((index * DESCRIPTOR_BYTES) as usize);
                Descriptor::from_words(guest::load_u64(entry), guest::load_u64(entry.add(8)))
            };
            if descriptor.flags & INDIRECT != 0 {
                return Err(Violation::IndirectNested);
            }
            bytes = add(bytes, self.append(descriptor, writable, pieces)?)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(bytes);
            }
            index = u32::from(descriptor.next);
            if index >= entries {
                return Err(Violation::NextIndex);
            }
            steps += 1;
            if steps == entries {
                return Err(Violation::Loop);
            }
        }
    }

    fn append(
        &mut self,
        descriptor: Descriptor,
        writable: bool,
        pieces: &mut Pieces,
    ) -> Result<u32, Violation> {
        let Descriptor {
            guest, len, flags, ..
        } = descriptor;
        if len == 0 {
            return Err(Violation::ZeroLength);
        }
        if (flags & WRITE != 0) != writable {
            return Err(Violation::Direction);
        }
        if let Some(place) = self.place(guest, len) {
            pieces.push(Piece { place, len, guest })?;
            return Ok(len);
        }
        let (mut at, mut pushed) = (guest, Ok(()));
        let whole = self.memory.places(guest, len, |place, len| {
            let piece = Piece {
                place,
                len,
                guest: at,
            };
            at = at.wrapping_add(u64::from(len));
            if pushed.is_ok() {
                pushed = pieces.push(piece);
            }
        });
        pushed?;
        if whole {
            Ok(len)
        } else {
            Err(Violation::Address)
        }
    }

    /// Gives back chains that were only read, and all that came before them.
    #[inline(always)]
    pub(super) fn give_back(&mut self, heads: &[u16]) {
        match heads.last() {
            // §2.7.9: the entry of the first place names the last chain, and stands for all.
            Some(last) if self.negotiated.has(IN_ORDER) => self.cursor.write_used(0, *last, 0),
            _ => {
                for (ahead, head) in heads.iter().enumerate() {
                    self.cursor.write_used(ahead as u16, *head, 0);
                }
            }
        }
        self.publish(heads.len() as u16);
    }

    /// Publishes `count` used entries.
    #[inline(always)]
    pub(super) fn publish(&mut self, count: u16) {
        let first = self.cursor.at.used;
        self.cursor.at.used = first.wrapping_add(count);
        // SAFETY: the index is the second 16-bit word of the used ring, aligned to 4.
        unsafe {
            let index = self.cursor.parts.used.cast::<u16>().add(1);
            guest::store_index(index, self.cursor.at.used, Ordering::Release);
        }
        if self.log.is_some() {
            self.log_used(first, count);
        }
    }

    #[cold]
    fn log_used(&self, first: u16, count: u16) {
        let (Some(log), Some(start)) = (&self.log, self.used_log) else {
            return;
        };
        for ahead in 0..count {
            let slot = self.cursor.slot(first.wrapping_add(ahead)) as u64;
            log.mark(start.saturating_add(4 + 8 * slot), 8);
        }
        log.mark(start, 4);
    }

    /// True while the guest is migrated.
    #[inline(always)]
    pub(super) fn is_logged(&self) -> bool {
        self.log.is_some()
    }

    /// Marks what was written to a guest's buffer.
    pub(super) fn log_written(&self, guest: u64, len: u32) {
        if let Some(log) = &self.log {
            log.mark(guest, u64::from(len));
        }
    }

    /// Tells the guest of what was published since the last call, if it wants to know. True when
    /// it was told.
    ///
    /// The fence pairs with the guest's own: it writes what it wants to be told of, fences, and
    /// looks at the used index once more before it sleeps. Either it sees the index, or this
    /// sees the wish.
    #[inline(always)]
    pub(super) fn notify(&mut self, calls: &Calls) -> bool {
        fence(Ordering::SeqCst);
        if !self.is_told() {
            return false;
        }
        if let Some(call) = &self.call {
            calls.write(call);
        }
        true
    }

    #[inline(always)]
    fn is_told(&mut self) -> bool {
        if !self.negotiated.has(EVENT_IDX) {
            // SAFETY: the flags are the first word of the available ring.
            let flags = unsafe { self.cursor.parts.available.read_volatile() };
            return flags & NO_NOTIFY == 0;
        }
        let new = self.cursor.at.used;
        let Some(old) = self.signalled.replace(new) else {
            return true;
        };
        // SAFETY: `used_event` is the word behind the entries (checked with the ring's length).
        let event = unsafe {
            self.cursor
                .parts
                .available
                .add(2 + self.cursor.parts.size as usize)
                .read_volatile()
        };
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// Asks the guest not to notify. With an event index there is nothing to do: the index that
    /// was asked for stays behind.
    #[inline(always)]
    pub(super) fn stop_kicks(&mut self) {
        if self.kicks_on {
            self.kicks_on = false;
            if !self.negotiated.has(EVENT_IDX) {
                self.write_used_flags(NO_NOTIFY);
            }
        }
    }

    /// Asks the guest to notify of whatever comes next, and looks whether something came before.
    /// True when there is nothing, so that the worker may sleep.
    ///
    /// The guest makes available, fences, then looks whether to notify; this side writes its
    /// wish, fences, then looks at what is available. One of the two sees the other's write.
    pub(super) fn ask_for_kicks(&mut self) -> bool {
        self.kicks_on = true;
        if self.negotiated.has(EVENT_IDX) {
            // SAFETY: `avail_event` is the 16-bit word behind the used entries, aligned to 4.
            unsafe {
                let event = self
                    .cursor
                    .parts
                    .used
                    .add(1 + 2 * self.cursor.parts.size as usize);
                event.cast::<u16>().write_volatile(self.cursor.at.available);
            }
            if let (Some(log), Some(start)) = (&self.log, self.used_log) {
                let event = 4 + 8 * u64::from(self.cursor.parts.size);
                log.mark(start.saturating_add(event), 2);
            }
        } else {
            self.write_used_flags(0);
        }
        fence(Ordering::SeqCst);
        // SAFETY: as in `available`.
        let index =
            unsafe { guest::load_index(self.cursor.parts.available.add(1), Ordering::Acquire) };
        index == self.cursor.at.available
    }

    fn write_used_flags(&mut self, flags: u16) {
        // SAFETY: the flags are the first 16-bit word of the used ring, aligned to 4.
        unsafe { self.cursor.parts.used.cast::<u16>().write_volatile(flags) };
        if let (Some(log), Some(start)) = (&self.log, self.used_log) {
            log.mark(start, 2);
        }
    }

    /// The used index that stands in the guest's memory.
    pub(super) fn published(parts: &Parts) -> u16 {
        // SAFETY: as in `publish`.
        unsafe { guest::load_index(parts.used.cast::<u16>().add(1), Ordering::Acquire) }
    }

    /// True when memory of the guest went away under an access.
    #[inline(always)]
    pub(super) fn is_memory_lost(&self) -> bool {
        self.memory.is_lost() || self.log.as_ref().is_some_and(|log| log.is_lost())
    }
}

fn add(bytes: u32, more: u32) -> Result<u32, Violation> {
    bytes.checked_add(more).ok_or(Violation::FrameTooLong)
}
