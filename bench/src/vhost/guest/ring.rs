//! A split virtqueue, from the driver's side (virtio 1.2, §2.7), and where it lies.
//!
//! In: buffers that the switch has used. Out: the same buffers, made available again: each
//! descriptor is a chain of its own and has one buffer for ever. What must hold: a buffer belongs
//! either to us or to the switch; what the switch writes into the ring is checked; where order was
//! negotiated, descriptors take turns (§2.7.8) and one used entry may stand for a batch (§2.7.9).

use std::{
    os::fd::OwnedFd,
    sync::atomic::{Ordering::SeqCst, fence},
};

use anyhow::ensure;
use pmd::shared_memory::SharedMemory;

const DESCRIPTOR_BYTES: usize = 16;
const USED_BYTES: usize = 8;

/// Descriptor flag: the switch writes to the buffer.
const WRITE: u64 = 2;

/// Flag of the used area: no need to notify.
const NO_NOTIFY: u16 = 1;

/// Flag of the available area: do not interrupt.
const NO_INTERRUPT: u16 = 1;

/// Bytes of the header before each frame.
pub(in super::super) const HEADER_BYTES: usize = 12;

/// How the memory of a device is divided: two rings, then the buffers of each.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Layout {
    /// Descriptors of a ring, a power of two.
    pub(super) slots: u16,
    /// From one receive or transmit buffer to the next.
    pub(super) stride_bytes: [usize; 2],
    /// Usable bytes of a receive buffer.
    pub(in super::super) buffer_bytes: usize,
}

impl Layout {
    /// What one ring takes, a page at least.
    fn ring_bytes(&self) -> usize {
        let slots = usize::from(self.slots);
        (slots * (DESCRIPTOR_BYTES + 2 + USED_BYTES) + 128).next_multiple_of(4096)
    }

    fn buffers_at(&self, number: usize) -> usize {
        let before = number * usize::from(self.slots) * self.stride_bytes[0];
        2 * self.ring_bytes() + before
    }

    /// All of it, in 2 MiB pages.
    pub(in super::super) fn memory_bytes(&self) -> usize {
        let slots = usize::from(self.slots);
        (self.buffers_at(1) + slots * self.stride_bytes[1]).next_multiple_of(2 << 20)
    }

    /// Ring number 0 (receive) or 1 (transmit); all its buffers are ours.
    pub(in super::super) fn ring(
        &self,
        number: usize,
        guest_base: u64,
        kick: OwnedFd,
        in_order: bool,
        memory: &SharedMemory,
    ) -> Ring {
        let slots = usize::from(self.slots);
        let descriptors = number * self.ring_bytes();
        let available = descriptors + slots * DESCRIPTOR_BYTES;
        let used = (available + 4 + 2 * slots + 2).next_multiple_of(64);
        let ring = Ring {
            slots: self.slots,
            descriptors,
            available,
            used,
            buffers: self.buffers_at(number),
            stride_bytes: self.stride_bytes[number],
            published: 0,
            taken: 0,
            in_order,
            batch: None,
            kick,
        };
        let flags = if number == 0 { WRITE } else { 0 };
        for slot in 0..self.slots {
            let at = descriptors + usize::from(slot) * DESCRIPTOR_BYTES;
            memory.write_u64(at, guest_base + ring.buffer(slot) as u64);
            memory.write_u64(at + 8, self.buffer_bytes as u64 | flags << 32);
        }
        memory.store_u16(available, NO_INTERRUPT);
        ring
    }
}

/// A virtqueue.
#[derive(Debug)]
pub(in super::super) struct Ring {
    slots: u16,
    descriptors: usize,
    available: usize,
    used: usize,
    buffers: usize,
    stride_bytes: usize,
    /// The available index, as far as it was published.
    published: u16,
    /// Buffers taken back.
    taken: u16,
    /// The switch gives buffers back in the order in which they became available, and may say so of
    /// a batch at once.
    in_order: bool,
    /// Last descriptor of the batch that is being taken, and the bytes written to it.
    batch: Option<(u16, usize)>,
    /// Where the switch wants to be notified.
    pub(super) kick: OwnedFd,
}

impl Ring {
    /// Offsets of the descriptors, the available and the used area.
    pub(in super::super) fn areas(&self) -> [usize; 3] {
        [self.descriptors, self.available, self.used]
    }

    /// How many descriptors it has.
    pub(in super::super) fn slots(&self) -> u16 {
        self.slots
    }

    /// Offset of the buffer of a descriptor.
    #[inline]
    pub(in super::super) fn buffer(&self, slot: u16) -> usize {
        self.buffers + usize::from(slot) * self.stride_bytes
    }

    /// Sets how many bytes of a buffer hold something.
    pub(in super::super) fn set_len(&self, memory: &SharedMemory, slot: u16, len_bytes: usize) {
        let at = self.descriptors + usize::from(slot) * DESCRIPTOR_BYTES + 8;
        memory.write_u64(at, len_bytes as u64);
    }

    /// How many buffers the switch has given back that were not taken yet.
    #[inline]
    pub(in super::super) fn ready(&self, memory: &SharedMemory) -> u16 {
        memory.load_u16(self.used + 2).wrapping_sub(self.taken)
    }

    /// Takes the next buffer that the switch has given back, and how much it wrote. Ask
    /// [`Ring::ready`] before.
    ///
    /// # Errors
    /// When what the switch wrote makes no sense.
    #[inline]
    pub(in super::super) fn take(&mut self, memory: &SharedMemory) -> anyhow::Result<(u16, usize)> {
        if self.in_order {
            return self.take_in_order(memory);
        }
        let used = self.used_entry(memory)?;
        self.taken = self.taken.wrapping_add(1);
        Ok(used)
    }

    /// The next buffer in turn. How much was written is known of the last of a batch alone.
    #[inline]
    fn take_in_order(&mut self, memory: &SharedMemory) -> anyhow::Result<(u16, usize)> {
        let turn = self.taken % self.slots;
        let (last, len) = if let Some(batch) = self.batch {
            batch
        } else {
            let batch = self.used_entry(memory)?;
            let ahead = batch.0.wrapping_sub(turn) % self.slots;
            ensure!(
                ahead < self.ready(memory),
                "the switch used descriptor {} out of order: it is the turn of {turn}",
                batch.0
            );
            batch
        };
        self.batch = (turn != last).then_some((last, len));
        self.taken = self.taken.wrapping_add(1);
        Ok((turn, if turn == last { len } else { 0 }))
    }

    /// Descriptor and length of the used entry that comes next.
    #[inline]
    fn used_entry(&self, memory: &SharedMemory) -> anyhow::Result<(u16, usize)> {
        let slot = usize::from(self.taken % self.slots);
        let entry = memory.read_u64(self.used + 4 + slot * USED_BYTES);
        let (descriptor, len) = (entry as u32, (entry >> 32) as usize);
        ensure!(
            descriptor < u32::from(self.slots),
            "the switch used descriptor {descriptor} of {}",
            self.slots
        );
        Ok((descriptor as u16, len))
    }

    /// Whose turn it is to become available, where descriptors take turns.
    #[inline]
    pub(super) fn turn(&self) -> u16 {
        self.published % self.slots
    }

    /// Puts a buffer among those that become available with [`Ring::publish`].
    #[inline]
    pub(in super::super) fn offer(&mut self, memory: &SharedMemory, descriptor: u16) {
        let slot = usize::from(self.published % self.slots);
        memory.store_u16(self.available + 4 + 2 * slot, descriptor);
        self.published = self.published.wrapping_add(1);
    }

    /// Makes what was offered available, and notifies the switch if it asks for that.
    ///
    /// # Errors
    /// When it cannot be notified.
    #[inline]
    pub(in super::super) fn publish(&self, memory: &SharedMemory) -> anyhow::Result<()> {
        memory.store_u16(self.available + 2, self.published);
        // The index before the question: a switch that goes to sleep asks the other way round.
        fence(SeqCst);
        if memory.load_u16(self.used) & NO_NOTIFY == 0 {
            rustix::io::write(&self.kick, &1_u64.to_ne_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    /// A ring of eight in order, all of it available.
    fn in_order() -> (Ring, SharedMemory) {
        let layout = Layout {
            slots: 8,
            stride_bytes: [64; 2],
            buffer_bytes: 64,
        };
        let memory = SharedMemory::new(layout.memory_bytes(), false).expect("memory");
        let kick = eventfd(0, EventfdFlags::NONBLOCK).expect("eventfd");
        let mut ring = layout.ring(1, 0, kick, true, &memory);
        for _ in 0..8 {
            ring.offer(&memory, ring.turn());
        }
        (ring, memory)
    }

    /// The switch uses a batch of `count` buffers, and says that `last` was its last.
    fn used(ring: &Ring, memory: &SharedMemory, count: u16, last: u16) {
        let index = memory.load_u16(ring.used + 2);
        let slot = usize::from(index % 8);
        memory.write_u64(ring.used + 4 + slot * USED_BYTES, u64::from(last) | 9 << 32);
        memory.store_u16(ring.used + 2, index.wrapping_add(count));
    }

    #[test]
    fn one_entry_gives_a_whole_batch_back() {
        let (mut ring, memory) = in_order();
        for batch in [[0, 1, 2], [3, 4, 5], [6, 7, 0], [1, 2, 3]] {
            used(&ring, &memory, 3, batch[2]);
            assert_eq!(ring.ready(&memory), 3);
            for (slot, len) in batch.into_iter().zip([0, 0, 9]) {
                assert_eq!(ring.take(&memory).expect("in order"), (slot, len));
                assert_eq!(ring.turn(), slot);
                ring.offer(&memory, slot);
            }
        }
    }

    #[test]
    fn what_is_out_of_order_is_refused() {
        let (mut ring, memory) = in_order();
        used(&ring, &memory, 2, 2);
        let error = ring.take(&memory).expect_err("two of three");
        assert!(error.to_string().contains("the turn of 0"), "{error}");
        let (mut ring, memory) = in_order();
        used(&ring, &memory, 2, 8);
        assert!(ring.take(&memory).is_err());
    }
}
