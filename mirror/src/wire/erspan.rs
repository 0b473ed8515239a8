//! ERSPAN headers of type II and III (draft-foschiano-erspan-03). Type I has none.
//!
//! ```text
//!   byte  type II                                    type III
//!    0    version 1 [7:4], VLAN [11:8]               version 2, VLAN
//!    1    VLAN [7:0]                                 the same
//!    2    COS [7:5], En [4:3], T [2], session [9:8]  COS, BSO [4:3], T, session
//!    3    session [7:0]                              the same
//!    4    reserved 12 bits, index 20 bits            time stamp, 32 bits
//!    8                                               SGT, 16 bits
//!   10                                               P [7], FT [6:2], hardware [5:4]
//!   11                                               hardware [3:0], D [3], Gra [2:1], O [0]
//!   12                                               O: platform 6 bits, the rest by platform
//! ```

use super::{Granularity, Refusal, SessionId, be16, be32};

/// Length of a type II header in bytes.
pub const TYPE_II_LEN: usize = 8;
/// Length of a type III header in bytes, without subheader.
pub const TYPE_III_LEN: usize = 12;
/// Length of a type III subheader in bytes.
pub const SUBHEADER_LEN: usize = 8;
/// The platform whose subheader holds a port and the upper half of the time stamp.
pub const PLATFORM_PORT: u8 = 3;
/// Platforms whose subheader ends with the upper half of the time stamp.
const STAMPING_PLATFORMS: [u8; 4] = [PLATFORM_PORT, 5, 6, 7];
/// The frame type of Ethernet.
pub const FRAME_TYPE_ETHERNET: u8 = 0;

/// What both types begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Common {
    /// The VLAN of the frame, 12 bits.
    pub vlan: u16,
    /// The priority of the frame, 3 bits.
    pub cos: u8,
    /// Type II: how the frame was tagged ([`tagging`]). Type III: whether it was good (0), short,
    /// oversized or bad.
    pub kind: u8,
    /// The frame was cut.
    pub truncated: bool,
    /// The session.
    pub session: SessionId,
}

/// How a mirrored frame of type II was tagged. Senders are wrong about it: nobody may tag a frame
/// by it.
pub mod tagging {
    /// It had no tag.
    pub const NONE: u8 = 0;
    /// It was in ISL.
    pub const ISL: u8 = 1;
    /// Its 802.1Q tag was taken off.
    pub const REMOVED: u8 = 2;
    /// Its tag is in the frame.
    pub const IN_FRAME: u8 = 3;
}

impl Common {
    fn parse(header: &[u8], version: u8) -> Result<Self, Refusal> {
        let word = be32(header, 0).ok_or(Refusal::ErspanMalformed)?;
        if (word >> 28) as u8 != version {
            return Err(Refusal::ErspanVersion);
        }
        Ok(Self {
            vlan: (word >> 16) as u16 & 0xfff,
            cos: (word >> 13) as u8 & 7,
            kind: (word >> 11) as u8 & 3,
            truncated: word & 1 << 10 != 0,
            session: SessionId::from_bits(word as u16),
        })
    }

    /// The header's first word.
    #[inline]
    pub(crate) fn word(self, version: u8) -> u32 {
        u32::from(version & 0xf) << 28
            | u32::from(self.vlan & 0xfff) << 16
            | u32::from(self.cos & 7) << 13
            | u32::from(self.kind & 3) << 11
            | u32::from(self.truncated) << 10
            | u32::from(self.session.get())
    }
}

/// A type II header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypeII {
    /// What both types have.
    pub common: Common,
    /// The sender's number for port and direction, 20 bits.
    pub index: u32,
}

impl TypeII {
    pub(crate) const VERSION: u8 = 1;

    /// Reads a header.
    ///
    /// # Errors
    /// It is cut off, or of another version.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let header = bytes.get(..TYPE_II_LEN).ok_or(Refusal::ErspanMalformed)?;
        let index = be32(header, 4).ok_or(Refusal::ErspanMalformed)?;
        Ok(Self {
            common: Common::parse(header, Self::VERSION)?,
            index: index & 0xf_ffff,
        })
    }

    /// The header's bytes.
    pub fn emit(&self) -> [u8; TYPE_II_LEN] {
        let mut bytes = [0; TYPE_II_LEN];
        bytes[..4].copy_from_slice(&self.common.word(Self::VERSION).to_be_bytes());
        bytes[4..].copy_from_slice(&(self.index & 0xf_ffff).to_be_bytes());
        bytes
    }
}

/// A type III header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeIII {
    /// What both types have.
    pub common: Common,
    /// The time, in units of `granularity`.
    pub timestamp: u32,
    /// Security group tag.
    pub sgt: u16,
    /// The payload is a protocol data unit.
    pub pdu: bool,
    /// What the payload is, 5 bits: Ethernet (0), IP (2), or unknown.
    pub frame_type: u8,
    /// The sender's mirroring hardware, 6 bits.
    pub hardware: u8,
    /// The frame was leaving, not arriving.
    pub egress: bool,
    /// The time stamp's unit.
    pub granularity: Granularity,
    /// The subheader, if there is one.
    pub subheader: Option<Subheader>,
}

/// A type III subheader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subheader {
    /// Which platform's it is, 6 bits.
    pub platform: u8,
    /// The rest of its first word, 26 bits; of [`PLATFORM_PORT`] the low 14 are a port.
    pub low: u32,
    /// Its second word; of [`PLATFORM_PORT`] the upper half of the time stamp.
    pub high: u32,
}

impl TypeIII {
    pub(crate) const VERSION: u8 = 2;

    /// Reads a header, subheader included if it says that there is one.
    ///
    /// # Errors
    /// It is cut off, or of another version.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let cut = Refusal::ErspanMalformed;
        let header = bytes.get(..TYPE_III_LEN).ok_or(cut)?;
        let last = be16(header, 10).ok_or(cut)?;
        let common = Common::parse(header, Self::VERSION)?;
        let subheader = if last & 1 == 0 {
            None
        } else {
            let first = be32(bytes, TYPE_III_LEN).ok_or(cut)?;
            Some(Subheader {
                platform: (first >> 26) as u8,
                low: first & 0x3ff_ffff,
                high: be32(bytes, TYPE_III_LEN + 4).ok_or(cut)?,
            })
        };
        Ok(Self {
            common,
            timestamp: be32(header, 4).ok_or(cut)?,
            sgt: be16(header, 8).ok_or(cut)?,
            pdu: last & 0x8000 != 0,
            frame_type: (last >> 10) as u8 & 0x1f,
            hardware: (last >> 4) as u8 & 0x3f,
            egress: last & 8 != 0,
            granularity: Granularity::from_bits((last >> 1) as u8),
            subheader,
        })
    }

    /// Length in bytes.
    pub fn len_bytes(&self) -> usize {
        TYPE_III_LEN + self.subheader.map_or(0, |_| SUBHEADER_LEN)
    }

    /// Bytes 10 and 11.
    #[inline]
    pub(crate) fn last(&self) -> u16 {
        u16::from(self.pdu) << 15
            | u16::from(self.frame_type & 0x1f) << 10
            | u16::from(self.hardware & 0x3f) << 4
            | u16::from(self.egress) << 3
            | u16::from(self.granularity.bits()) << 1
            | u16::from(self.subheader.is_some())
    }

    /// The header's bytes, of which the first [`len_bytes`](Self::len_bytes) count.
    pub fn emit(&self) -> [u8; TYPE_III_LEN + SUBHEADER_LEN] {
        let mut bytes = [0; TYPE_III_LEN + SUBHEADER_LEN];
        bytes[..4].copy_from_slice(&self.common.word(Self::VERSION).to_be_bytes());
        bytes[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.sgt.to_be_bytes());
        bytes[10..12].copy_from_slice(&self.last().to_be_bytes());
        if let Some(sub) = self.subheader {
            let first = u32::from(sub.platform & 0x3f) << 26 | sub.low & 0x3ff_ffff;
            bytes[12..16].copy_from_slice(&first.to_be_bytes());
            bytes[16..].copy_from_slice(&sub.high.to_be_bytes());
        }
        bytes
    }

    /// The time in nanoseconds as the sender's clock has it, where granularity and subheader tell:
    /// since its epoch with a subheader that has the stamp's upper half, otherwise since the counter
    /// last began anew.
    pub fn time_ns(&self) -> Option<u64> {
        let upper = self
            .subheader
            .filter(|sub| STAMPING_PLATFORMS.contains(&sub.platform))
            .map_or(0, |sub| sub.high);
        self.granularity.time_ns(self.timestamp, upper)
    }
}
