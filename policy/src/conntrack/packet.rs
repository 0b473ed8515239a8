//! What the tracker reads of a frame besides its key.

use super::tuple::{Tuple, icmp};
use crate::{
    key::{Class, Field, protocol, shape},
    parse::Parsed,
};

/// TCP flags (RFC 9293 §3.1).
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// The acknowledgement counts.
    pub const ACK: u8 = 16;
    /// Those that change a connection's state by themselves.
    pub const STATE: u8 = FIN | SYN | RST;
}

/// A TCP segment's part in its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// First sequence number.
    pub seq: u32,
    /// The acknowledgement; says something only with the flag.
    pub ack: u32,
    /// The window as it stands in the header.
    pub window: u16,
    /// The flags.
    pub flags: u8,
    /// Bytes of payload.
    pub payload: u32,
}

impl Segment {
    /// Reads the segment of a frame of a TCP class; `head` is what `parsed` was parsed from.
    /// `None` when the bytes at hand end before the window.
    #[inline]
    pub fn read(head: &[u8], parsed: &Parsed) -> Option<Self> {
        let (l3, l4) = (usize::from(parsed.l3_offset), usize::from(parsed.l4_offset));
        if parsed.class == Class::Ipv4Tcp {
            Self::read_at::<false>(head, l3, l4)
        } else {
            Self::read_at::<true>(head, l3, l4)
        }
    }

    /// The same, where the headers begin at `l3` and `l4`.
    #[inline(always)]
    pub fn read_at<const IPV6: bool>(head: &[u8], l3: usize, l4: usize) -> Option<Self> {
        let tcp = head.get(l4..)?.first_chunk::<16>()?;
        let header_len = u32::from(tcp[12] >> 4) * 4;
        // From the start of IP to the end of its packet.
        let ip_len = if IPV6 {
            let ip = head.get(l3..)?.first_chunk::<6>()?;
            u32::from(u16::from_be_bytes([ip[4], ip[5]])) + 40
        } else {
            let ip = head.get(l3..)?.first_chunk::<4>()?;
            u32::from(u16::from_be_bytes([ip[2], ip[3]]))
        };
        let l4_len = ip_len.wrapping_sub(l4.wrapping_sub(l3) as u32);
        Some(Self {
            seq: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            ack: u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]]),
            window: u16::from_be_bytes([tcp[14], tcp[15]]),
            flags: tcp[13],
            payload: l4_len.wrapping_sub(header_len),
        })
    }

    /// Whether all of these flags are set.
    #[inline]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The sequence number behind the segment, in which SYN and FIN count as one each.
    #[inline]
    pub fn end(&self) -> u32 {
        let marks = u32::from(self.has(flags::SYN)) + u32::from(self.has(flags::FIN));
        self.seq.wrapping_add(self.payload).wrapping_add(marks)
    }
}

/// What the tracker reads of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A TCP segment.
    Tcp {
        /// Its numbers.
        segment: Segment,
        /// The window scale option of a SYN (RFC 7323 §2.2).
        scale: Option<u8>,
        /// The segment's first fragment: how long it is is not known.
        fragment: bool,
    },
    /// An ICMP error about another packet.
    Error {
        /// That packet's tuple, from its sender's view.
        about: Tuple,
        /// The sequence number of that packet, where it was TCP.
        seq: Option<u32>,
    },
    /// Anything else that can belong to a connection.
    Other,
}

impl Probe {
    /// Reads a frame's head, which `parsed` was parsed from. `None` for what can neither belong
    /// to a connection nor concern one.
    pub fn read(head: &[u8], parsed: &Parsed) -> Option<Self> {
        match parsed.class {
            Class::Ipv4Tcp | Class::Ipv6Tcp => {
                let segment = Segment::read(head, parsed)?;
                let scale = segment
                    .has(flags::SYN)
                    .then(|| window_scale(head.get(usize::from(parsed.l4_offset)..)?))
                    .flatten();
                Some(Self::Tcp {
                    segment,
                    scale,
                    fragment: parsed.key.has(shape::FIRST_FRAGMENT),
                })
            }
            Class::Ipv4Icmp | Class::Ipv6Icmp => {
                let kind = (parsed.key.get(Field::L4_SRC) >> 8) as u8;
                let message = head.get(usize::from(parsed.l4_offset)..)?;
                match (parsed.class, kind) {
                    (
                        Class::Ipv4Icmp,
                        icmp::UNREACHABLE
                        | icmp::SOURCE_QUENCH
                        | icmp::TIME_EXCEEDED
                        | icmp::PARAMETER_PROBLEM,
                    ) => quoted_v4(message.get(8..)?),
                    (Class::Ipv6Icmp, 1..=4) => quoted_v6(message.get(8..)?),
                    _ => Some(Self::Other),
                }
            }
            class if class.trackable() => Some(Self::Other),
            _ => None,
        }
    }
}

/// The packet that an ICMP error is about (RFC 792: its header and at least 64 bits behind it).
fn quoted_v4(packet: &[u8]) -> Option<Probe> {
    let header = packet.first_chunk::<20>()?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    if header[0] >> 4 != 4 || header_len < 20 || offset != 0 {
        return None;
    }
    let word = |at: usize| u64::from(u32::from_be_bytes([0, 1, 2, 3].map(|i| header[at + i])));
    let l4 = packet.get(header_len..)?.first_chunk::<8>()?;
    error(([0, word(12)], [0, word(16)]), header[9], false, *l4)
}

/// As for IPv4 (RFC 4443 §2.4), where no extension header stands between.
fn quoted_v6(packet: &[u8]) -> Option<Probe> {
    let header = packet.first_chunk::<40>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let word = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| header[at + i]));
    let l4 = packet.get(40..)?.first_chunk::<8>()?;
    let addresses = ([word(8), word(16)], [word(24), word(32)]);
    error(addresses, header[6], true, *l4)
}

fn error(addresses: ([u64; 2], [u64; 2]), protocol: u8, ipv6: bool, l4: [u8; 8]) -> Option<Probe> {
    let about = Tuple::quoted(addresses, protocol, ipv6, l4)?;
    let seq = u32::from_be_bytes([l4[4], l4[5], l4[6], l4[7]]);
    Some(Probe::Error {
        about,
        seq: (protocol == protocol::TCP).then_some(seq),
    })
}

/// The window scale option, at most 14 (RFC 7323 §2.3).
fn window_scale(tcp: &[u8]) -> Option<u8> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const WINDOW_SCALE: u8 = 3;

    let header_len = usize::from(tcp.get(12)? >> 4) * 4;
    let mut options = tcp.get(20..header_len.min(tcp.len()))?;
    loop {
        options = match options {
            [] | [END, ..] => return None,
            [NOTHING, rest @ ..] => rest,
            [WINDOW_SCALE, 3, shift, ..] => return Some((*shift).min(14)),
            [_, len, ..] if *len >= 2 => options.get(usize::from(*len)..)?,
            _ => return None,
        };
    }
}
