//! What identifies a generated frame at the far end: the first bytes of its payload.

/// Length of an encoded stamp, in bytes.
pub const STAMP_BYTES: usize = 18;

const MAGIC: [u8; 2] = [0xbe, 0x4c];

/// Which frame it is, and when it was made. It fits a UDP frame of 60 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The flow's number.
    pub flow: u32,
    /// Its place in the flow, from 0; wraps.
    pub sequence: u32,
    /// The time-stamp counter when it was made.
    pub cycles: u64,
}

impl Stamp {
    /// As payload.
    pub fn encode(&self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2..6].copy_from_slice(&self.flow.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[10..].copy_from_slice(&self.cycles.to_be_bytes());
        bytes
    }

    /// From a payload; `None` when it is none of ours.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let bytes = payload.first_chunk::<STAMP_BYTES>()?;
        if bytes[..2] != MAGIC {
            return None;
        }
        let (flow, rest) = bytes[2..].split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<4>()?;
        Some(Self {
            flow: u32::from_be_bytes(*flow),
            sequence: u32::from_be_bytes(*sequence),
            cycles: u64::from_be_bytes(*rest.first_chunk()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_and_other_payload_is_not_one() {
        let stamp = Stamp {
            flow: 7,
            sequence: u32::MAX,
            cycles: 0x0123_4567_89ab_cdef,
        };
        let bytes = stamp.encode();
        assert_eq!(Stamp::decode(&bytes), Some(stamp));
        assert_eq!(Stamp::decode(&bytes[..17]), None);
        assert_eq!(Stamp::decode(&[0; 64]), None);
    }
}
