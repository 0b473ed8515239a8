//! What is told of a mirrored frame on its way to a sniffer: a few bytes before it in the queue.

use mirror::decap::{SessionSlot, Version};
use pmd::pcap::{Direction, Stamp};

/// Length of what stands before a frame in a sniffer's queue: no more than is copied as one piece.
pub const META_BYTES: usize = 32;

/// What is told of a mirrored frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// The table that it was decided by.
    pub(super) version: Version,
    /// When it was received, in nanoseconds since 1970.
    pub(super) time_ns: u64,
    /// How long it was before it was cut, in bytes.
    pub(super) original_len: u32,
    /// Which way it went at the mirrored port.
    pub(super) direction: Direction,
    /// Whose it is, under that table.
    pub(super) session: SessionSlot,
}

impl Meta {
    pub(super) fn write(&self, to: &mut [u8]) {
        to[..8].copy_from_slice(&self.version.0.to_le_bytes());
        to[8..16].copy_from_slice(&self.time_ns.to_le_bytes());
        to[16..20].copy_from_slice(&self.original_len.to_le_bytes());
        to[20..24].copy_from_slice(&[self.direction as u8, 0, 0, 0]);
        to[24..28].copy_from_slice(&self.session.0.to_le_bytes());
        to[28..META_BYTES].fill(0);
    }

    /// Reads what was written; `None` for less.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..)?.first_chunk::<8>().copied();
        let [version, time_ns] = [word(0)?, word(8)?].map(u64::from_le_bytes);
        let tail = bytes.get(16..META_BYTES)?;
        Some(Self {
            version: Version(version),
            time_ns,
            original_len: u32::from_le_bytes(*tail.first_chunk()?),
            direction: match tail[4] {
                1 => Direction::In,
                2 => Direction::Out,
                _ => Direction::Unknown,
            },
            session: SessionSlot(u32::from_le_bytes(*tail.get(8..)?.first_chunk()?)),
        })
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp {
            time_ns: self.time_ns,
            original_len: self.original_len,
            direction: self.direction,
            ..Stamp::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for direction in [Direction::Unknown, Direction::In, Direction::Out] {
            let meta = Meta {
                version: Version(7),
                time_ns: u64::MAX - 1,
                original_len: 1514,
                direction,
                session: SessionSlot(0x0102_0304),
            };
            let mut bytes = [0xff; META_BYTES];
            meta.write(&mut bytes);
            assert_eq!(Meta::read(&bytes), Some(meta));
            assert_eq!(Meta::read(&bytes[1..]), None);
        }
    }
}
