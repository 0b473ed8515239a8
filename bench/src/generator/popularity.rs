//! How often flows are seen: a few often, most seldom.

use super::random::Random;

/// Draws of numbers below some count, by given weights, in constant time (Vose, "A Linear Algorithm
/// for Generating Random Numbers with a Given Distribution", 1991).
#[derive(Clone, Debug)]
pub struct Weighted {
    random: Random,
    /// For each number, how likely it is itself when its turn comes, and what it is otherwise.
    columns: Box<[(f64, u32)]>,
}

impl Weighted {
    /// Zipf's law: the flow of rank `r`, from 1, is seen in proportion to `1 / r^exponent`. The ranks
    /// are the flows' numbers, in order.
    pub fn zipf(flows: u32, exponent: f64, random: Random) -> Self {
        let weights = (1..=flows.max(1)).map(|rank| f64::from(rank).powf(-exponent));
        Self::new(&weights.collect::<Vec<_>>(), random)
    }

    fn new(weights: &[f64], random: Random) -> Self {
        let mean = weights.iter().sum::<f64>() / weights.len() as f64;
        let mut columns: Box<[(f64, u32)]> = (0..)
            .zip(weights)
            .map(|(own, weight)| (weight / mean, own))
            .collect();
        let (mut poor, mut rich) = (Vec::new(), Vec::new());
        for (own, weight) in (0..).zip(weights) {
            let side = if *weight < mean { &mut poor } else { &mut rich };
            side.push(own);
        }
        // Each poor column is filled up by a rich one, which may become poor by it.
        while let (Some(low), Some(high)) = (poor.pop(), rich.pop()) {
            let lacks = 1.0 - columns[low as usize].0;
            columns[low as usize].1 = high;
            columns[high as usize].0 -= lacks;
            let side = if columns[high as usize].0 < 1.0 {
                &mut poor
            } else {
                &mut rich
            };
            side.push(high);
        }
        for left in poor.into_iter().chain(rich) {
            // What is left lacks but what rounding took.
            columns[left as usize].0 = 1.0;
        }
        Self { random, columns }
    }

    /// The next number.
    #[inline]
    pub fn draw(&mut self) -> u32 {
        let column = self.random.below(self.columns.len() as u64) as u32;
        let (own, other) = self.columns[column as usize];
        let share = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        if share < own { column } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u32 = 200_000;

    fn shares(mut weighted: Weighted, flows: usize) -> Vec<f64> {
        let mut counts = vec![0_u32; flows];
        for _ in 0..DRAWS {
            counts[weighted.draw() as usize] += 1;
        }
        counts
            .into_iter()
            .map(|count| f64::from(count) / f64::from(DRAWS))
            .collect()
    }

    #[test]
    fn flows_are_seen_as_often_as_zipf_says() {
        for exponent in [0.5, 1.0, 1.3] {
            let found = shares(Weighted::zipf(1000, exponent, Random::new(1)), 1000);
            let total: f64 = (1..=1000).map(|rank| f64::from(rank).powf(-exponent)).sum();
            for rank in [1, 2, 10, 100] {
                let expected = f64::from(rank).powf(-exponent) / total;
                let sigma = (expected / f64::from(DRAWS)).sqrt();
                let off = (found[rank as usize - 1] - expected).abs();
                assert!(
                    off < 5.0 * sigma,
                    "rank {rank}, exponent {exponent}: off by {off}"
                );
            }
        }
    }

    #[test]
    fn exponent_zero_is_uniform_and_one_flow_is_always_that_one() {
        let found = shares(Weighted::zipf(10, 0.0, Random::new(2)), 10);
        assert!(
            found.iter().all(|share| (share - 0.1).abs() < 0.005),
            "{found:?}"
        );
        assert_eq!(shares(Weighted::zipf(1, 1.0, Random::new(3)), 1), [1.0]);
    }
}
