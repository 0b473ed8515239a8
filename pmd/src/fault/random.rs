//! Chances that are the same on every machine: `SplitMix64` (Steele, Lea, Flood: "Fast
//! splittable pseudorandom number generators", OOPSLA 2014).

use super::Probability;

/// A sequence of random numbers; all of it follows from the seed.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to but not with `end`, which is not 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// Whether something of this probability happens now. Always takes one number, so that one
    /// fault's setting does not move another's chances.
    pub(super) fn happens(&mut self, probability: Probability) -> bool {
        // 53 bits: every value is exact and below 1.
        let chance = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        chance < probability.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_that_of_splitmix64() {
        let mut random = Random::new(1_234_567);
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        assert_eq!([random.next(), random.next(), random.next()], expected);
    }

    #[test]
    fn chances_keep_to_their_ends_and_their_mean() {
        let mut random = Random::new(7);
        let tenth = Probability::new(0.1).expect("in range");
        let mut hits = 0;
        for _ in 0..10_000 {
            assert!(!random.happens(Probability::NEVER));
            assert!(random.happens(Probability::ALWAYS));
            assert!(random.below(3) < 3);
            hits += u32::from(random.happens(tenth));
        }
        assert!((900..1100).contains(&hits), "{hits} of 10,000 at 0.1");
    }

    #[test]
    fn a_probability_lies_between_0_and_1() {
        for value in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Probability::new(value), None);
        }
        assert_eq!(Probability::new(1.0), Some(Probability::ALWAYS));
    }
}
