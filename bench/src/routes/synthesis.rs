//! Routes as the Internet has them, without the Internet: prefix lengths in the proportions of a
//! full BGP table of 2024, half of the prefixes within shorter ones, the same for the same seed.

use anyhow::ensure;
use hashbrown::HashSet;

use crate::generator::random::Random;

/// The leading `len` bits of an address, which begins at the highest bit whatever the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Prefix {
    pub(super) bits: u128,
    pub(super) len: u8,
}

/// How long prefixes of a family are, and where they lie.
#[derive(Debug)]
pub(super) struct Lengths {
    /// A length, and how many of 10,000 prefixes have it.
    shares: &'static [(u8, u16)],
    /// Blocks that all lie in, alike.
    blocks: &'static [Prefix],
}

const fn block(bits: u128, shift: u32, len: u8) -> Prefix {
    Prefix {
        bits: bits << shift,
        len,
    }
}

/// Unicast addresses: 0.0.0.0/1, 128.0.0.0/2 and 192.0.0.0/3.
pub(super) const IPV4: Lengths = Lengths {
    shares: &[
        (24, 6000),
        (23, 970),
        (22, 1120),
        (21, 520),
        (20, 440),
        (19, 270),
        (18, 150),
        (17, 90),
        (16, 140),
        (15, 25),
        (14, 20),
        (13, 10),
        (12, 6),
        (11, 3),
        (10, 2),
        (9, 1),
        (8, 3),
        (32, 100),
        (28, 50),
        (25, 80),
    ],
    blocks: &[block(0, 125, 1), block(0b10, 126, 2), block(0b110, 125, 3)],
};

/// What the registries give out of `2000::/3`.
pub(super) const IPV6: Lengths = Lengths {
    shares: &[
        (48, 4600),
        (32, 1150),
        (44, 1050),
        (40, 850),
        (36, 420),
        (46, 380),
        (47, 280),
        (42, 250),
        (45, 200),
        (33, 180),
        (29, 240),
        (34, 130),
        (35, 70),
        (64, 100),
        (128, 60),
        (56, 40),
    ],
    blocks: &[
        block(0x2001, 112, 16),
        block(0x240, 116, 12),
        block(0x260, 116, 12),
        block(0x280, 116, 12),
        block(0x2a0, 116, 12),
        block(0x2c0, 116, 12),
    ],
};

impl Prefix {
    /// An address in it, as long as an address may be.
    pub(super) fn host(self, random: &mut Random) -> Self {
        let noise = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
        Self {
            bits: self.bits | noise & behind(self.len),
            len: 128,
        }
    }
}

impl Lengths {
    /// An address in one of the blocks.
    pub(super) fn address(&self, random: &mut Random) -> Prefix {
        self.blocks[random.below(self.blocks.len() as u64) as usize].host(random)
    }

    fn len(&self, random: &mut Random) -> u8 {
        let sum = self.shares.iter().map(|(_, share)| u64::from(*share)).sum();
        let mut left = random.below(sum);
        for (len, share) in self.shares {
            match left.checked_sub(u64::from(*share)) {
                Some(less) => left = less,
                None => return *len,
            }
        }
        self.shares[0].0
    }
}

/// The bits that a prefix of this length does not have.
fn behind(len: u8) -> u128 {
    u128::MAX.checked_shr(len.into()).unwrap_or(0)
}

/// So many, each other than the rest, in random order.
///
/// # Errors
/// There are not so many.
pub(super) fn prefixes(
    count: usize,
    lengths: &Lengths,
    random: &mut Random,
) -> anyhow::Result<Vec<Prefix>> {
    let mut seen = HashSet::with_capacity(count);
    let mut prefixes = Vec::<Prefix>::with_capacity(count);
    for _ in 0..count.saturating_mul(20) {
        if prefixes.len() == count {
            break;
        }
        let len = lengths.len(random);
        let mut around = lengths.address(random);
        if !prefixes.is_empty() && random.below(2) == 0 {
            let other = prefixes[random.below(prefixes.len() as u64) as usize];
            if other.len < len {
                around = other.host(random);
            }
        }
        let bits = around.bits & !behind(len);
        let prefix = Prefix { bits, len };
        if seen.insert(prefix) {
            prefixes.push(prefix);
        }
    }
    ensure!(
        prefixes.len() == count,
        "only {} different prefixes were found; ask for fewer --routes",
        prefixes.len()
    );
    Ok(prefixes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_whole_different_and_in_proportion() {
        for (lengths, most, within) in [(&IPV4, 24, 32), (&IPV6, 48, 128)] {
            let prefixes = prefixes(20_000, lengths, &mut Random::new(1)).expect("enough");
            let unique: HashSet<_> = prefixes.iter().collect();
            assert_eq!(unique.len(), 20_000);
            let count = |len| prefixes.iter().filter(|prefix| prefix.len == len).count();
            assert!((8000..13_000).contains(&count(most)), "{}", count(most));
            for prefix in &prefixes {
                assert!(prefix.len <= within && prefix.bits & behind(prefix.len) == 0);
            }
        }
    }
}
