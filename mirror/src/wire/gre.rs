//! GRE (RFC 2784) with key and sequence number (RFC 2890).
//!
//! ```text
//!   byte 0   C 0x80 | R 0x40 | K 0x20 | S 0x10 | reserved
//!   byte 1   reserved | version 0x07
//!   2, 3     protocol
//!   then     checksum and reserved (C), key (K), sequence (S), 4 bytes each
//! ```

use super::{Refusal, be16, be32, fold, sum};

/// GRE protocol of ERSPAN types I and II.
pub const ERSPAN: u16 = 0x88be;
/// GRE protocol of ERSPAN type III.
pub const ERSPAN_III: u16 = 0x22eb;
/// GRE protocol of Ethernet frames (RFC 1701: transparent Ethernet bridging).
pub const ETHERNET: u16 = 0x6558;

/// A checksum follows.
pub const CHECKSUM: u16 = 0x8000;
/// A key follows.
pub const KEY: u16 = 0x2000;
/// A sequence number follows.
pub const SEQUENCE: u16 = 0x1000;
/// The source route of RFC 1701 and two flags about it: a receiver discards them (RFC 2784 §2.3).
const MUST_BE_ZERO: u16 = 0x4c00;
const VERSION: u16 = 0x0007;

/// A GRE header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gre {
    /// What it carries.
    pub protocol: u16,
    /// The key, if there is one.
    pub key: Option<u32>,
    /// The sequence number, if there is one.
    pub sequence: Option<u32>,
    /// Length of the header in bytes.
    pub len: usize,
}

/// Reads a GRE header; `packet` is all of GRE and its payload, for the checksum.
///
/// # Errors
/// It is cut off, of another version, has a source route, or its checksum is wrong.
#[inline]
pub fn parse(packet: &[u8]) -> Result<Gre, Refusal> {
    let flags = be16(packet, 0).ok_or(Refusal::GreMalformed)?;
    let protocol = be16(packet, 2).ok_or(Refusal::GreMalformed)?;
    if flags & VERSION != 0 {
        return Err(Refusal::GreVersion);
    }
    if flags & MUST_BE_ZERO != 0 {
        return Err(Refusal::GreReserved);
    }
    let mut len = 4;
    let mut word = |flag| -> Result<Option<u32>, Refusal> {
        if flags & flag == 0 {
            return Ok(None);
        }
        let word = be32(packet, len).ok_or(Refusal::GreMalformed)?;
        len += 4;
        Ok(Some(word))
    };
    let checksum = word(CHECKSUM)?;
    let key = word(KEY)?;
    let sequence = word(SEQUENCE)?;
    if checksum.is_some() && fold(sum(packet)) != 0xffff {
        return Err(Refusal::GreChecksum);
    }
    Ok(Gre {
        protocol,
        key,
        sequence,
        len,
    })
}
