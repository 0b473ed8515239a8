//! Prefixes of many copies that differ in nothing but their lengths and their numbers.
//!
//! In: a [`Template`], once a burst, and of each copy its length and its number. Out: the bytes that
//! [`Template::write`] gives for the same fields, in a third of the instructions. What must hold: only
//! whole frames without a tag are stamped, over IPv4 and by formats that say nothing of a frame's flow.

use super::{
    Tag, Template,
    encode::{Fields, MAX_PREFIX_BYTES, put2, put4},
    fold,
};

/// The prefix of a burst's copies.
#[derive(Clone, Debug)]
pub struct Stamp {
    bytes: [u8; MAX_PREFIX_BYTES],
    len: usize,
    ip: usize,
    /// Sum of the IPv4 header without its length.
    ip_sum: u64,
    sequence: Option<usize>,
}

impl Template {
    /// What the copies of frames have in common that were seen at `time_ns`, in nanoseconds since
    /// 1970, in one direction. `None` where each copy says more of its frame than that.
    pub fn stamp(&self, egress: bool, time_ns: u64) -> Option<Stamp> {
        if self.has_entropy() || self.may_fragment() {
            return None;
        }
        let fields = Fields {
            egress,
            time_ns,
            tag: Tag::None,
            ..Fields::default()
        };
        let mut bytes = [0; MAX_PREFIX_BYTES];
        let len = self.write(&fields, &mut bytes);
        Some(Stamp {
            bytes,
            len,
            ip: self.ip,
            ip_sum: self.ip_sum,
            sequence: self.sequence,
        })
    }
}

impl Stamp {
    /// Writes the prefix of a copy of so many bytes, without its number; returns its length.
    #[inline(always)]
    pub fn write(&self, inner_len: u32, prefix: &mut [u8; MAX_PREFIX_BYTES]) -> usize {
        *prefix = self.bytes;
        let total_len = (self.len - self.ip) as u32 + inner_len;
        put2(prefix, self.ip + 2, total_len as u16);
        put2(
            prefix,
            self.ip + 10,
            !fold(self.ip_sum + u64::from(total_len)),
        );
        self.len
    }

    /// Numbers a copy whose prefix was written.
    #[inline(always)]
    pub fn number(&self, sequence: u32, prefix: &mut [u8; MAX_PREFIX_BYTES]) {
        if let Some(at) = self.sequence {
            put4(prefix, at, sequence);
        }
    }
}
