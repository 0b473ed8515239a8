//! Copies that go nowhere: they stay in memory until somebody reads them.
//!
//! ```text
//!   worker 0 ──► ring ──┐
//!   worker 1 ──► ring ──┴─ Reader, by time ──► a capture's stream
//! ```
//!
//! In: copies, with what is known of each. Out: the same, in the order of their times. What must hold:
//! a worker never waits for the reader, nor for another worker: where there is no room a copy is not
//! made; nothing is allocated once a memory is there.
//!
//! A ring is one vector that its worker appends to and the reader takes away whole, for an empty one. So
//! the lock between them is held by the reader for as long as it takes to exchange two vectors.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// Room of all rings together, in bytes. The reader holds as much again.
const ROOM_BYTES: usize = 16 << 20;
/// Room of one ring, at least: many of the longest frames.
const LEAST_BYTES: usize = 2 << 20;
/// How often a worker asks for its ring while the reader takes it. Longer than that takes, unless the
/// system stops the reader in between.
const TRIES: u32 = 256;
/// Length of what stands before a copy.
const HEAD_BYTES: usize = 24;

/// What is known of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// When, in nanoseconds since 1970.
    pub time_ns: u64,
    /// How long what was copied is, in bytes, before it was cut.
    pub original_len: u32,
    /// Which of the capture's interfaces it is of.
    pub interface: u32,
    /// It was leaving by the port.
    pub sent: bool,
    /// Policy let it pass.
    pub accepted: bool,
}

impl Note {
    fn write(&self, len: u32, to: &mut [u8; HEAD_BYTES]) {
        to[..8].copy_from_slice(&self.time_ns.to_le_bytes());
        to[8..12].copy_from_slice(&self.original_len.to_le_bytes());
        to[12..16].copy_from_slice(&self.interface.to_le_bytes());
        to[16..20].copy_from_slice(&len.to_le_bytes());
        to[20..].copy_from_slice(&[self.sent.into(), self.accepted.into(), 0, 0]);
    }

    /// What was written, and how many bytes the copy has.
    fn read(head: &[u8; HEAD_BYTES]) -> (Self, usize) {
        let word = |at: usize| {
            let bytes = head[at..].first_chunk();
            bytes.copied().map_or(0, u32::from_le_bytes)
        };
        let note = Self {
            time_ns: u64::from(word(4)) << 32 | u64::from(word(0)),
            original_len: word(8),
            interface: word(12),
            sent: head[20] != 0,
            accepted: head[21] != 0,
        };
        (note, word(16) as usize)
    }
}

/// Where copies stay.
#[derive(Debug)]
pub struct Memory {
    /// By worker.
    rings: Box<[Mutex<Vec<u8>>]>,
}

/// A vector with so much room, all of which the system has given already: no worker is to wait for it.
fn room(bytes: usize) -> Vec<u8> {
    let mut room = vec![1; bytes];
    room.clear();
    room
}

impl Memory {
    /// For so many workers, and its one reader.
    pub fn new(workers: usize) -> (Arc<Self>, Reader) {
        Self::with_room(
            workers,
            (ROOM_BYTES / workers.max(1)).max(LEAST_BYTES),
        )
    }

    /// The same, with room for so many bytes of each worker's.
    pub fn with_room(workers: usize, bytes: usize) -> (Arc<Self>, Reader) {
        let rings = (0..workers).map(|_| Mutex::new(room(bytes)));
        let memory = Arc::new(Self {
            rings: rings.collect(),
        });
        let taken = (0..workers).map(|_| Taken {
            bytes: room(bytes),
            at: 0,
        });
        let reader = Reader {
            memory: Arc::clone(&memory),
            taken: taken.collect(),
        };
        (memory, reader)
    }

    /// A worker's ring, to append to; `None` when it cannot be had now.
    pub(super) fn pen(&self, worker: usize) -> Option<Pen<'_>> {
        let ring = self.rings.get(worker)?;
        for _ in 0..TRIES {
            if let Some(ring) = ring.try_lock() {
                return Some(Pen(ring));
            }
            std::hint::spin_loop();
        }
        None
    }
}

/// Appends copies.
pub(super) struct Pen<'a>(MutexGuard<'a, Vec<u8>>);

impl Pen<'_> {
    /// Room for a copy of `len` bytes, all of which are to be written; `None` when there is none.
    pub(super) fn append(&mut self, note: &Note, len: usize) -> Option<&mut [u8]> {
        let start = self.0.len();
        let end = start + HEAD_BYTES + len;
        if end > self.0.capacity() {
            return None;
        }
        self.0.resize(end, 0);
        let (head, copy) = self.0[start..].split_first_chunk_mut()?;
        note.write(len as u32, head);
        Some(copy)
    }
}

/// What was taken from a worker.
#[derive(Debug)]
struct Taken {
    bytes: Vec<u8>,
    /// Where the next copy stands.
    at: usize,
}

impl Taken {
    fn next(&self) -> Option<(Note, usize)> {
        let head = self.bytes.get(self.at..)?.first_chunk()?;
        Some(Note::read(head))
    }
}

/// Who reads a memory.
#[derive(Debug)]
pub struct Reader {
    memory: Arc<Memory>,
    taken: Box<[Taken]>,
}

impl Reader {
    /// The next copy that was made before `horizon_ns`, in nanoseconds since 1970. Workers' copies come
    /// in the order of their times if the horizon is as far behind as a worker may be with its turn.
    pub fn next_copy(&mut self, horizon_ns: u64) -> Option<(Note, &[u8])> {
        let mut first: Option<(usize, Note, usize)> = None;
        for (worker, taken) in self.taken.iter_mut().enumerate() {
            if taken.at == taken.bytes.len() {
                taken.at = 0;
                taken.bytes.clear();
                std::mem::swap(&mut *self.memory.rings[worker].lock(), &mut taken.bytes);
            }
            if let Some((note, len)) = taken.next()
                && first.is_none_or(|(_, first, _)| note.time_ns < first.time_ns)
            {
                first = Some((worker, note, len));
            }
        }
        let (worker, note, len) = first.filter(|(_, note, _)| note.time_ns < horizon_ns)?;
        let taken = &mut self.taken[worker];
        let start = taken.at + HEAD_BYTES;
        taken.at = start + len;
        Some((note, taken.bytes.get(start..start + len)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(time_ns: u64) -> Note {
        Note {
            time_ns,
            original_len: 1514,
            interface: 3,
            sent: time_ns.is_multiple_of(2),
            accepted: true,
        }
    }

    fn put(memory: &Memory, worker: usize, time_ns: u64, len: usize) -> bool {
        let mut pen = memory.pen(worker).expect("nobody reads");
        let copy = pen.append(&note(time_ns), len);
        copy.map(|copy| copy.fill(time_ns as u8)).is_some()
    }

    fn times(reader: &mut Reader, horizon_ns: u64) -> Vec<u64> {
        let mut times = Vec::new();
        while let Some((found, bytes)) = reader.next_copy(horizon_ns) {
            assert_eq!(found, note(found.time_ns));
            assert!(bytes.iter().all(|byte| *byte == found.time_ns as u8));
            times.push(found.time_ns);
        }
        times
    }

    #[test]
    fn copies_of_several_workers_come_in_the_order_of_their_times() {
        let (memory, mut reader) = Memory::with_room(3, 4096);
        for (worker, time_ns) in [(0, 1), (0, 4), (2, 2), (2, 3), (2, 9), (1, 5)] {
            assert!(put(&memory, worker, time_ns, 60 + worker));
        }
        assert_eq!(times(&mut reader, 5), [1, 2, 3, 4]);
        assert!(put(&memory, 0, 6, 60));
        assert_eq!(times(&mut reader, 7), [5, 6]);
        assert_eq!(times(&mut reader, u64::MAX), [9]);
        assert!(times(&mut reader, u64::MAX).is_empty());
    }

    #[test]
    fn a_ring_that_is_full_takes_nothing_and_grows_not() {
        let (memory, mut reader) = Memory::with_room(1, 1000);
        let room = memory.rings[0].lock().capacity();
        let taken = (0..).take_while(|time| put(&memory, 0, *time, 60)).count();
        assert_eq!(taken, room / (60 + HEAD_BYTES));
        assert!(put(&memory, 0, 0, 0) == (room % (60 + HEAD_BYTES) >= HEAD_BYTES));
        assert_eq!(memory.rings[0].lock().capacity(), room);
        assert!(times(&mut reader, u64::MAX).len() >= taken);
        assert!(put(&memory, 0, 1, 60), "what was read made room");
        assert_eq!(times(&mut reader, u64::MAX), [1]);
    }

    #[test]
    fn a_worker_does_not_wait_for_who_holds_its_ring() {
        let (memory, _reader) = Memory::with_room(1, 1000);
        let _held = memory.rings[0].lock();
        assert!(memory.pen(0).is_none());
        assert!(memory.pen(1).is_none(), "there is one worker");
    }
}
