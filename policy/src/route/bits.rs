//! Addresses of both families as strings of bits, taken [`STRIDE`] at a time from the highest on.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Bits that a node decides: a bitmap of its slots is one word.
pub(super) const STRIDE: u8 = 6;

/// The bits of an address.
pub(super) trait Bits: Copy + Ord {
    /// The first [`STRIDE`] of them; what is missing is 0.
    fn slot(self) -> usize;
    /// Those behind.
    fn rest(self) -> Self;
    /// The first `depth` of them, which are fewer than there are.
    fn first(self, depth: u8) -> Self;
    /// Those behind the first `depth`, which are fewer than there are.
    fn after(self, depth: u8) -> Self;
    /// With the bits of `slot` from `depth` on, where it has zeros.
    fn with(self, slot: usize, depth: u8) -> Self;
    /// Behind the bits of `slot`; as many at the end are lost.
    fn behind(self, slot: usize) -> Self;
    /// With other bits from `depth` on, where it has zeros.
    fn joined(self, other: Self, depth: u8) -> Self;
    /// From the highest bit on.
    fn to_words(self) -> [u64; 2];
    /// What [`Bits::to_words`] made.
    fn from_words(words: [u64; 2]) -> Self;
    /// How many bits are the same before one is not.
    fn alike(self, other: Self) -> u32;
    /// A prefix of it, not longer than it is.
    fn net(self, len: u8) -> IpNet;
}

impl Bits for u32 {
    #[inline(always)]
    fn slot(self) -> usize {
        (self >> (32 - STRIDE)) as usize
    }

    #[inline(always)]
    fn rest(self) -> Self {
        self << STRIDE
    }

    fn first(self, depth: u8) -> Self {
        self & !(u32::MAX >> depth)
    }

    fn after(self, depth: u8) -> Self {
        self << depth
    }

    fn with(self, slot: usize, depth: u8) -> Self {
        self | ((slot as u32) << (32 - STRIDE)) >> depth
    }

    fn behind(self, slot: usize) -> Self {
        (self >> STRIDE) | (slot as Self) << (32 - STRIDE)
    }

    fn joined(self, other: Self, depth: u8) -> Self {
        self | other >> depth
    }

    fn to_words(self) -> [u64; 2] {
        [u64::from(self) << 32, 0]
    }

    #[inline(always)]
    fn from_words(words: [u64; 2]) -> Self {
        (words[0] >> 32) as Self
    }

    #[inline(always)]
    fn alike(self, other: Self) -> u32 {
        (self ^ other).leading_zeros()
    }

    fn net(self, len: u8) -> IpNet {
        Ipv4Net::new_assert(self.into(), len).into()
    }
}

impl Bits for u128 {
    #[inline(always)]
    fn slot(self) -> usize {
        (self >> (128 - STRIDE)) as usize
    }

    #[inline(always)]
    fn rest(self) -> Self {
        self << STRIDE
    }

    fn first(self, depth: u8) -> Self {
        self & !(u128::MAX >> depth)
    }

    fn after(self, depth: u8) -> Self {
        self << depth
    }

    fn with(self, slot: usize, depth: u8) -> Self {
        self | ((slot as u128) << (128 - STRIDE)) >> depth
    }

    fn behind(self, slot: usize) -> Self {
        (self >> STRIDE) | (slot as Self) << (128 - STRIDE)
    }

    fn joined(self, other: Self, depth: u8) -> Self {
        self | other >> depth
    }

    fn to_words(self) -> [u64; 2] {
        [(self >> 64) as u64, self as u64]
    }

    #[inline(always)]
    fn from_words(words: [u64; 2]) -> Self {
        Self::from(words[0]) << 64 | Self::from(words[1])
    }

    #[inline(always)]
    fn alike(self, other: Self) -> u32 {
        (self ^ other).leading_zeros()
    }

    fn net(self, len: u8) -> IpNet {
        Ipv6Net::new_assert(self.into(), len).into()
    }
}
