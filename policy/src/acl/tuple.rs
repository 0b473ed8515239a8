//! Tuples: the key bits that all rules of a table compare, and that the table hashes.

use crate::{
    key::{Field, FlowKey, shape},
    reader::KeyReader,
};

/// The bits of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    /// Bits that are hashed.
    mask: FlowKey,
    /// Whether words are hashed beyond those of IPv4 addresses, protocol and ports.
    wide: bool,
}

/// What every tuple's hash takes in: IPv4 addresses, ports, VLAN and protocol.
const NARROW: [usize; 3] = [3, 5, 6];
/// The rest of what can be hashed: upper halves of IPv6 addresses, and Ethernet.
const WIDE: [usize; 4] = [0, 1, 2, 4];
/// Odd, and without a pattern: digits of the fractional parts of square roots.
const FACTORS: [u64; 8] = [
    0x6a09_e667_f3bc_c909,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

impl Tuple {
    fn new(mask: FlowKey) -> Self {
        Self {
            mask,
            wide: WIDE.iter().any(|&word| mask.0[word] != 0),
        }
    }

    /// All that can be hashed of what a rule compares under `mask`: everything but TCP flags,
    /// parts of a port and the frame's shape.
    pub(super) fn exact(mask: &FlowKey) -> Self {
        let mut hashed = *mask;
        hashed.set(Field::TCP_FLAGS, 0);
        hashed.set(Field::SHAPE, 0);
        for port in [Field::L4_SRC, Field::L4_DST] {
            if mask.get(port) != port.ones() {
                hashed.set(port, 0);
            }
        }
        Self::new(hashed)
    }

    /// What rules with addresses in prefixes of about this length have in common; the exact
    /// tuple of rules without addresses.
    pub(super) fn coarse(mask: &FlowKey) -> Self {
        let mut hashed = FlowKey::default();
        let ipv6 = mask.has(shape::IPV6);
        for (high, low) in [
            (Field::IP_SRC_HIGH, Field::IP_SRC_LOW),
            (Field::IP_DST_HIGH, Field::IP_DST_LOW),
        ] {
            let length = mask.get(high).count_ones() + mask.get(low).count_ones();
            if ipv6 {
                let bits = prefix(length - length % 16, 128);
                hashed.set(high, (bits >> 64) as u64);
                hashed.set(low, bits as u64);
            } else {
                hashed.set(low, prefix(length - length % 8, 32) as u64);
            }
        }
        if hashed == FlowKey::default() {
            return Self::exact(mask);
        }
        Self::new(hashed)
    }

    /// Whether a rule that compares under `mask` compares all that is hashed.
    pub(super) fn fits(&self, mask: &FlowKey) -> bool {
        &self.mask & mask == self.mask
    }

    /// The hash of a key's bits.
    #[inline]
    pub(super) fn hash<R: KeyReader>(&self, r: &mut R) -> u64 {
        // Multiplications that do not wait for each other, then one that mixes.
        let mut sum = 0_u64;
        let mut add = |word: usize| {
            r.test(Field::word(word), self.mask.0[word], |bits| {
                sum = sum.wrapping_add(bits.wrapping_mul(FACTORS[word]));
                true
            });
        };
        NARROW.into_iter().for_each(&mut add);
        if self.wide {
            WIDE.into_iter().for_each(add);
        }
        (sum ^ sum >> 32).wrapping_mul(FACTORS[7])
    }
}

/// The mask of a prefix of `length` bits in an address of `bits`.
fn prefix(length: u32, bits: u32) -> u128 {
    let all = u128::MAX >> (128 - bits);
    all & !all.checked_shr(length).unwrap_or(0)
}
