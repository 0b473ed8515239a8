//! The formats that carry mirrored frames: what stands before the inner frame, read and written.
//!
//! ```text
//!   Ethernet ─ tag? ─ IPv4 or IPv6 ─┬─ GRE ─┬───────────────────────── inner frame   ERSPAN I, Ethernet
//!                                   │       └─ ERSPAN II or III ────── inner frame
//!                                   └─ UDP ─── VXLAN ───────────────── inner frame
//! ```
//!
//! In come bytes from anywhere; out goes where the inner frame stands and what its header says, or
//! a [`Refusal`]. What must hold: nothing here panics, allocates or believes a length that the
//! bytes at hand do not bear out.
//!
//! Rooms: [`outer`] (Ethernet and IP), [`gre`], [`erspan`], [`vxlan`], [`decode`](mod@decode) (all of
//! them in a row), [`encode`] (the same, written), [`refusal`] (why not).

pub mod decode;
pub mod encode;
pub mod erspan;
mod fragments;
pub mod gre;
mod identity;
pub mod outer;
pub mod refusal;
mod stamp;
mod tunnel;
pub mod vxlan;

pub use decode::{Decoded, Header, InnerTunnel, Refused, decode, inner_tunnel};
pub use encode::{Fields, MAX_PREFIX_BYTES, Tag, Template};
pub use fragments::Piece;
pub use identity::{Identity, SessionId, TunnelKind, Vni};
pub use refusal::Refusal;
pub use stamp::Stamp;
pub use tunnel::{Addresses, Carrier, Granularity, Link, Oversize, Tunnel, TunnelError};

/// Two bytes at a place, if they are there.
#[inline]
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*bytes))
}

/// Four bytes at a place, if they are there.
#[inline]
pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*bytes))
}

/// The one's complement sum of 16-bit words, not yet folded; an odd byte is padded (RFC 1071).
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let last: u64 = match *rest {
        [] => 0,
        [a] => u64::from(a) << 8,
        [a, b] => u64::from(u16::from_be_bytes([a, b])),
        [a, b, c, ..] => u64::from(u16::from_be_bytes([a, b])) + (u64::from(c) << 8),
    };
    let words = words
        .iter()
        .map(|word| u64::from(u32::from_be_bytes(*word)));
    words.sum::<u64>() + last
}

/// Folds a sum to 16 bits.
#[inline]
pub(crate) fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}
