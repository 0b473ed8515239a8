//! Writing pcapng (draft-ietf-opsawg-pcapng): little-endian blocks of one section, with Ethernet
//! interfaces and nanosecond stamps.
//!
//! In: frames with what is known of them. Out: bytes in memory, in whole blocks, for a file or a
//! stream. What must hold: what was taken out ends with a whole block, whenever it is taken; nothing
//! is allocated while what was added stays within the room that was asked for.

use super::read::MAX_RECORD_BYTES;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;

/// Type, both lengths, the fixed part of a packet, and its flags with the end of options.
const PACKET_OVERHEAD_BYTES: usize = 12 + 20 + 12;

/// The blocks at the head of a file, and those at its end.
const ENDS_BYTES: usize = 1024;

/// Which way a frame went at the port that it was captured at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Nobody said.
    #[default]
    Unknown = 0,
    /// Into the switch, as `epb_flags` inbound.
    In = 1,
    /// Out of the switch, as `epb_flags` outbound.
    Out = 2,
}

/// What is known of a frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamp {
    /// When, in nanoseconds since 1970.
    pub time_ns: u64,
    /// How long it was before it was cut, in bytes.
    pub original_len: u32,
    /// Which way it went.
    pub direction: Direction,
    /// Where it was captured: the number of the interface, in the order in which they were told.
    pub interface: u32,
    /// What else a person is told of it; nothing when empty. It is cut after 255 bytes.
    pub comment: &'static str,
}

/// What is told of an interface beside its frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics<'a> {
    /// The number of the interface.
    pub interface: u32,
    /// When, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Frames that were captured, those that were dropped later included.
    pub received: u64,
    /// Those that are missing in the file because something was too slow.
    pub dropped: u64,
    /// What else a person is told; nothing when empty. It is cut after 255 bytes.
    pub comment: &'a str,
}

/// Blocks on their way to a file or a stream.
#[derive(Debug)]
pub struct Blocks {
    bytes: Vec<u8>,
}

impl Blocks {
    /// Nothing yet, and room for a burst of frames of at most `max_frame_bytes`.
    pub fn new(max_frame_bytes: usize) -> Self {
        let frame = PACKET_OVERHEAD_BYTES + max_frame_bytes.next_multiple_of(4);
        Self {
            bytes: Vec::with_capacity(ENDS_BYTES + crate::BURST * frame),
        }
    }

    /// The blocks.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets them: they were written.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// The head of a section, with one Ethernet interface that is number 0. `application` and
    /// `interface` are cut after 255 bytes.
    pub fn begin(&mut self, application: &str, interface: &str) {
        self.section(application);
        self.interface(interface, "");
    }

    /// The head of a section. `application` is cut after 255 bytes.
    pub fn section(&mut self, application: &str) {
        self.block(SECTION_HEADER, |bytes| {
            put32(bytes, BYTE_ORDER_MAGIC);
            // Version 1.0, of unknown length.
            bytes.extend_from_slice(&[1, 0, 0, 0]);
            bytes.extend_from_slice(&u64::MAX.to_le_bytes());
            option(bytes, 4, application.as_bytes());
            end_of_options(bytes);
        });
    }

    /// A further Ethernet interface: its name, and what it is unless that is empty, both cut after 255
    /// bytes. Frames of it may follow.
    pub fn interface(&mut self, name: &str, description: &str) {
        self.block(INTERFACE_DESCRIPTION, |bytes| {
            put32(bytes, 1);
            put32(bytes, MAX_RECORD_BYTES);
            option(bytes, 2, name.as_bytes());
            if !description.is_empty() {
                option(bytes, 3, description.as_bytes());
            }
            // if_tsresol: 10^-9 s.
            option(bytes, 9, &[9]);
            end_of_options(bytes);
        });
    }

    /// A frame, which is what the pieces make together.
    pub fn frame(&mut self, stamp: &Stamp, pieces: &[&[u8]]) {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.block(ENHANCED_PACKET, |bytes| {
            put32(bytes, stamp.interface);
            time(bytes, stamp.time_ns);
            put32(bytes, len as u32);
            put32(bytes, stamp.original_len.max(len as u32));
            for piece in pieces {
                bytes.extend_from_slice(piece);
            }
            pad(bytes, len);
            let flags: u32 = stamp.direction as u32;
            if !stamp.comment.is_empty() {
                option(bytes, 1, stamp.comment.as_bytes());
            }
            if stamp.direction != Direction::Unknown {
                option(bytes, 2, &flags.to_le_bytes());
            }
            // Without options there is no end of them.
            if flags > 0 || !stamp.comment.is_empty() {
                end_of_options(bytes);
            }
        });
    }

    /// What became of frames so far.
    pub fn statistics(&mut self, statistics: &Statistics<'_>) {
        self.block(INTERFACE_STATISTICS, |bytes| {
            put32(bytes, statistics.interface);
            time(bytes, statistics.time_ns);
            if !statistics.comment.is_empty() {
                option(bytes, 1, statistics.comment.as_bytes());
            }
            option(bytes, 4, &statistics.received.to_le_bytes());
            option(bytes, 5, &statistics.dropped.to_le_bytes());
            end_of_options(bytes);
        });
    }

    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        put32(&mut self.bytes, kind);
        put32(&mut self.bytes, 0);
        body(&mut self.bytes);
        let total = (self.bytes.len() - start + 4) as u32;
        self.bytes[start + 4..start + 8].copy_from_slice(&total.to_le_bytes());
        put32(&mut self.bytes, total);
    }
}

fn put32(bytes: &mut Vec<u8>, value: u32) {
    bytes.extend_from_slice(&value.to_le_bytes());
}

fn time(bytes: &mut Vec<u8>, time_ns: u64) {
    put32(bytes, (time_ns >> 32) as u32);
    put32(bytes, time_ns as u32);
}

fn pad(bytes: &mut Vec<u8>, len: usize) {
    let padding = len.next_multiple_of(4) - len;
    bytes.extend_from_slice(&[0; 3][..padding]);
}

fn option(bytes: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(255)];
    bytes.extend_from_slice(&code.to_le_bytes());
    bytes.extend_from_slice(&(value.len() as u16).to_le_bytes());
    bytes.extend_from_slice(value);
    pad(bytes, value.len());
}

fn end_of_options(bytes: &mut Vec<u8>) {
    put32(bytes, 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pcap::{LinkType, Reader};

    #[test]
    fn what_is_written_is_read_again() {
        let mut blocks = Blocks::new(128);
        let room = blocks.bytes.capacity();
        blocks.begin("vswitch", "sniffer");
        let frames: Vec<Vec<u8>> = (0..crate::BURST)
            .map(|len| vec![len as u8; 64 + len])
            .collect();
        for (at, frame) in frames.iter().enumerate() {
            let direction = [Direction::Unknown, Direction::In, Direction::Out][at % 3];
            let stamp = Stamp {
                time_ns: 1_700_000_000_123_456_789 + at as u64,
                original_len: 1000,
                direction,
                ..Stamp::default()
            };
            blocks.frame(&stamp, &[&frame[..6], &frame[6..]]);
        }
        blocks.statistics(&Statistics {
            time_ns: 1_700_000_001_000_000_000,
            received: 70,
            dropped: 6,
            ..Statistics::default()
        });
        assert_eq!(blocks.bytes.capacity(), room, "it had to grow");
        let read = Reader::new(blocks.bytes(), "blocks").expect("pcapng");
        let records: Result<Vec<_>, _> = read.collect();
        let records = records.expect("sound");
        assert_eq!(records.len(), frames.len());
        for (at, (record, frame)) in records.iter().zip(&frames).enumerate() {
            assert_eq!(record.bytes, *frame);
            assert_eq!(record.original_len, 1000);
            assert_eq!(record.timestamp_ns, 1_700_000_000_123_456_789 + at as u64);
            assert_eq!(record.link_type, LinkType::ETHERNET);
        }
    }
}
