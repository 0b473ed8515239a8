//! The virtio-net header before each frame (virtio 1.2 §5.1.6.1), and what it says of offloads.
//!
//! In: a header from a guest and the frame behind it, or a plan for a guest. Out: a frame's
//! offload metadata, or a header. What must hold: an offset that is lent further lies within its
//! frame; a guest is only told of offloads that it negotiated.

use super::{
    features::{GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, Negotiated},
    violation::Violation,
};
use crate::{Frame, PartialChecksum, TxBurst, TxPlan, guest, segment::MIN_SEGMENT_BYTES};

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// The bits of `flags` and `gso_type` that ask for something, in the header's first eight bytes
/// as a little-endian word.
const ASKS: u64 = 0xff01;

const TCP_MIN_HEADER_BYTES: usize = 20;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// IEEE 802.1Q §9.6: C-VLAN and S-VLAN tags.
const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];

/// The longest header.
pub(super) const MAX_HEADER_BYTES: usize = 12;

/// True when a header, of which `first` is the first eight bytes, asks for nothing.
#[inline(always)]
pub(super) fn is_plain(first: u64) -> bool {
    u64::from_le(first) & ASKS == 0
}

/// What the header says of `frame`, where checksums were negotiated: without them a header says
/// nothing. `header` is the first ten bytes.
///
/// # Errors
///
/// When it asks for what was not negotiated, or points outside the frame.
#[cold]
pub(super) fn decode(
    header: [u8; 10],
    negotiated: Negotiated,
    frame: &mut Frame<'_>,
) -> Result<(), Violation> {
    let [flags, kind, _, _, size @ .., s0, s1, o0, o1] = header;
    if kind == GSO_NONE && flags & NEEDS_CSUM == 0 {
        return Ok(());
    }
    if flags & NEEDS_CSUM == 0 {
        return Err(Violation::Segmentation);
    }
    let start = u16::from_le_bytes([s0, s1]);
    let offset = u16::from_le_bytes([o0, o1]);
    if usize::from(start) + usize::from(offset) + 2 > frame.len() {
        return Err(Violation::Checksum);
    }
    frame.partial_checksum = Some(PartialChecksum { start, offset });
    if kind == GSO_NONE {
        return Ok(());
    }
    let (feature, ethertype) = match kind {
        GSO_TCPV4 => (HOST_TSO4, ETHERTYPE_IPV4),
        GSO_TCPV6 => (HOST_TSO6, ETHERTYPE_IPV6),
        _ => return Err(Violation::OffloadNotNegotiated),
    };
    if !negotiated.has(feature) {
        return Err(Violation::OffloadNotNegotiated);
    }
    let segment_bytes = u16::from_le_bytes(size);
    let fits = usize::from(start) + TCP_MIN_HEADER_BYTES <= frame.len();
    if segment_bytes == 0
        || !fits
        || ethertype_of(|at| frame.head().get(at).copied()) != Some(ethertype)
    {
        return Err(Violation::Segmentation);
    }
    frame.segment_bytes = segment_bytes;
    Ok(())
}

/// What the header at `place`, of which `first` is the first eight bytes, says of `frame`.
///
/// # Safety
///
/// `place` has ten readable bytes.
#[cold]
pub(super) unsafe fn decode_at(
    place: *const u8,
    first: u64,
    negotiated: Negotiated,
    frame: &mut Frame<'_>,
) -> Result<(), Violation> {
    let mut header = [0; 10];
    header[..8].copy_from_slice(&first.to_ne_bytes());
    // SAFETY: the caller's promise.
    unsafe { guest::copy(place.add(8), header.as_mut_ptr().add(8), 2) };
    decode(header, negotiated, frame)
}

/// What is to stand before a frame for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoded {
    /// This header; the checksum is as it has to be.
    Header([u8; MAX_HEADER_BYTES]),
    /// This header, and a checksum that the switch completes: where in what leaves.
    Complete([u8; MAX_HEADER_BYTES], PartialChecksum),
    /// The guest cannot take the frame in one piece.
    TooBig,
}

/// A header for a frame without offloads that fills one buffer.
pub(super) const PLAIN: [u8; MAX_HEADER_BYTES] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// The same, as the words that a processor stores.
pub(super) const PLAIN_WORDS: (u64, u32) = (0, 0x1_0000_u32.to_le());

/// The header of what leaves for `plan`.
///
/// A truncated frame leaves with its checksum as it is, which covers bytes that do not leave,
/// and as no segment of anything.
#[cold]
pub(super) fn encode(burst: &TxBurst<'_>, plan: &TxPlan, negotiated: Negotiated) -> Encoded {
    let frame = &burst.frames[plan.frame as usize];
    let Some(partial) = burst.partial_checksum(plan) else {
        return Encoded::Header(PLAIN);
    };
    let PartialChecksum { start, offset } = partial;
    let mut header = PLAIN;
    if negotiated.has(GUEST_CSUM) {
        header[0] = NEEDS_CSUM;
        header[6..8].copy_from_slice(&start.to_le_bytes());
        header[8..10].copy_from_slice(&offset.to_le_bytes());
    }
    // One that was cut already is a segment, not of several.
    if frame.segment_bytes > 0 && plan.checksum_start == 0 {
        let byte = |at| burst.wire_byte(plan, at);
        let (kind, feature) = match ethertype_of(byte) {
            Some(ETHERTYPE_IPV4) => (GSO_TCPV4, GUEST_TSO4),
            Some(ETHERTYPE_IPV6) => (GSO_TCPV6, GUEST_TSO6),
            _ => return Encoded::TooBig,
        };
        // A guest's kernel is not handed what a cut here would refuse.
        let sound = frame.segment_bytes >= MIN_SEGMENT_BYTES;
        if !sound || !negotiated.has(feature) || !negotiated.has(GUEST_CSUM) {
            return Encoded::TooBig;
        }
        // The data offset of the TCP header, in words (RFC 9293 §3.1).
        let words = byte(start as usize + 12).map_or(5, |byte| byte >> 4).max(5);
        header[1] = kind;
        let headers = start.saturating_add(u16::from(words) * 4);
        header[2..4].copy_from_slice(&headers.to_le_bytes());
        header[4..6].copy_from_slice(&frame.segment_bytes.to_le_bytes());
    }
    if negotiated.has(GUEST_CSUM) {
        Encoded::Header(header)
    } else {
        Encoded::Complete(header, partial)
    }
}

/// The type behind up to two tags.
fn ethertype_of(byte: impl Fn(usize) -> Option<u8>) -> Option<[u8; 2]> {
    let mut at = 12;
    for _ in 0..3 {
        let found = [byte(at)?, byte(at + 1)?];
        if !TAGS.contains(&found) {
            return Some(found);
        }
        at += 4;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PrefixArena;

    /// The header of a plan of 54 bytes of prefix and `payload` bytes behind it, cut out of a
    /// super-segment of 3,000, to a guest that negotiated `bits`.
    fn encode_cut(payload: u32, checksum_start: u8, bits: u64) -> Encoded {
        let bytes = [0; 54 + 3000];
        let mut frame = Frame::contiguous(&bytes);
        frame.segment_bytes = 1400;
        frame.partial_checksum = Some(PartialChecksum {
            start: 34,
            offset: 16,
        });
        let plan = TxPlan {
            prefix_len_bytes: 54,
            // The last of them: it ends where the frame does.
            skip_bytes: (bytes.len() - payload as usize) as u16,
            len_bytes: payload,
            checksum_start,
            ..TxPlan::default()
        };
        let burst = TxBurst {
            frames: &[frame],
            prefixes: &PrefixArena::default(),
            plans: &[plan],
        };
        encode(&burst, &plan, Negotiated { bits })
    }

    #[test]
    fn a_segment_that_was_cut_is_one_frame_with_a_checksum_of_its_own() {
        let place = PartialChecksum {
            start: 34,
            offset: 16,
        };
        assert_eq!(encode_cut(200, 34, 0), Encoded::Complete(PLAIN, place));
        for tso in [0, GUEST_TSO4] {
            let header = [NEEDS_CSUM, GSO_NONE, 0, 0, 0, 0, 34, 0, 16, 0, 1, 0];
            let encoded = encode_cut(200, 34, GUEST_CSUM | tso);
            assert_eq!(encoded, Encoded::Header(header));
        }
    }
}
