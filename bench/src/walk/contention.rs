//! What more workers would lose by waiting for each other: a simulation.
//!
//! In: what a burst costs a worker, of which so much holds a transmit queue, both measured here on
//! one core. Out: the rate of so many workers. A worker waits for nothing but a transmit queue that
//! another one fills (a spin lock, held while a burst is copied); that is all that is simulated.
//! What caches and memory channels make of more cores is not in it.

use std::{cmp::Reverse, collections::BinaryHeap};

use anyhow::ensure;
use pmd::{
    BURST, Frame,
    clock::cycles,
    memory::{self, Endpoint},
};

use crate::generator::random::Random;

/// What a worker does over and over, in cycles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// A burst, from receive to release.
    pub whole: f64,
    /// The part of it during which no other worker can use the same transmit queue.
    pub held: f64,
}

/// How many bursts of all workers are simulated.
const BURSTS: usize = 20_000;

impl Turn {
    /// Bursts a cycle of `workers` that transmit by turns to `queues` queues, each burst to one. A
    /// burst's own part takes between half and one and a half of its mean, so that workers do not
    /// fall into step.
    ///
    /// # Panics
    /// When there are no workers or no queues.
    pub fn bursts_per_cycle(&self, workers: usize, queues: usize) -> f64 {
        let mut random = Random::new(workers as u64);
        let mut own_part = || {
            let unit = random.below(1 << 32) as f64 / f64::from(u32::MAX);
            (self.whole - self.held) * (0.5 + unit)
        };
        // Who next wants a queue, and when: thousandths of cycles, which have an order.
        let mut wanting: BinaryHeap<_> = (0..workers)
            .map(|worker| Reverse(((own_part() * 1e3) as u64, worker)))
            .collect();
        let mut free_at = vec![0.0_f64; queues];
        let mut ended = 0.0_f64;
        for burst in 0..BURSTS {
            let Reverse((when, worker)) = wanting.pop().expect("workers never end");
            let queue = &mut free_at[(worker + burst) % queues];
            *queue = queue.max(when as f64 / 1e3) + self.held;
            ended = ended.max(*queue);
            wanting.push(Reverse((((*queue + own_part()) * 1e3) as u64, worker)));
        }
        BURSTS as f64 / ended
    }
}

/// Cycles for which a burst of frames of `size_bytes` holds a memory port's transmit queue.
///
/// # Errors
/// When the ports cannot be had.
pub fn held_cycles(size_bytes: usize) -> anyhow::Result<f64> {
    let (near, far) = memory::pair(memory::Config::default())?;
    let (mut near, mut far) = (Endpoint::new(near), Endpoint::new(far));
    let bytes = vec![0; size_bytes];
    let frames = [Frame::contiguous(&bytes); BURST];
    let mut taken: Vec<u64> = Vec::new();
    for _ in 0..2000 {
        let before = cycles();
        let sent = near.send_burst(&frames);
        taken.push(cycles() - before);
        let received = far.receive(|_| {});
        ensure!(sent == BURST && received == BURST, "frames were lost");
    }
    taken.sort_unstable();
    Ok(taken[taken.len() / 2] as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: Turn = Turn {
        whole: 100.0,
        held: 10.0,
    };

    fn gain(workers: usize, queues: usize) -> f64 {
        TURN.bursts_per_cycle(workers, queues) / TURN.bursts_per_cycle(1, queues)
    }

    #[test]
    fn one_worker_waits_for_nobody() {
        let rate = TURN.bursts_per_cycle(1, 1);
        assert!((rate * TURN.whole - 1.0).abs() < 0.02, "{rate}");
    }

    #[test]
    fn no_more_than_one_holds_a_queue() {
        // A tenth of a turn is held: there cannot be more than ten turns' worth.
        assert!((9.8..=10.2).contains(&gain(32, 1)), "{}", gain(32, 1));
        assert!(gain(32, 2) > 19.0);
    }

    #[test]
    fn few_workers_lose_little_and_more_are_never_slower() {
        assert!((1.9..=2.02).contains(&gain(2, 1)), "{}", gain(2, 1));
        for workers in 1..32 {
            assert!(gain(workers + 1, 1) > 0.98 * gain(workers, 1));
            assert!(gain(workers, 32) <= 1.02 * workers as f64);
        }
    }
}
