//! The highest rate that a device passes on with at most so much loss (RFC 2544, §26.1), by halving.

use serde::Serialize;

/// What is searched for, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// The share of frames that may be lost.
    pub loss: f64,
    /// The rate to begin with, the highest there is, frames per second.
    pub most_pps: f64,
    /// How near the answer has to be, as a share of the rate to begin with.
    pub resolution: f64,
    /// The most trials.
    pub trials: usize,
}

/// A trial: so much was asked for, and this became of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Frames per second asked for.
    pub rate_pps: f64,
    /// Frames per second that left the generator.
    pub offered_pps: f64,
    /// The share of these that never arrived.
    pub loss: f64,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// The highest rate that passed; `None` when no trial did.
    pub best: Option<Trial>,
    /// All trials, in order.
    pub trials: Vec<Trial>,
}

/// Searches. `trial` offers a rate, and says what became of it.
///
/// # Errors
/// When a trial fails.
pub fn highest<E>(
    search: &Search,
    mut trial: impl FnMut(f64) -> Result<Trial, E>,
) -> Result<Found, E> {
    let mut found = Found {
        best: None,
        trials: Vec::new(),
    };
    // What is below passes, as far as is known; what is above does not.
    let (mut below, mut above) = (0.0, search.most_pps);
    let mut rate_pps = search.most_pps;
    while found.trials.len() < search.trials {
        let result = trial(rate_pps)?;
        found.trials.push(result);
        if result.loss <= search.loss {
            if found
                .best
                .is_none_or(|best| result.offered_pps > best.offered_pps)
            {
                found.best = Some(result);
            }
            below = rate_pps;
        } else {
            above = rate_pps;
        }
        if above - below <= search.resolution * search.most_pps {
            break;
        }
        rate_pps = f64::midpoint(below, above);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEARCH: Search = Search {
        loss: 0.0,
        most_pps: 1_000_000.0,
        resolution: 0.001,
        trials: 20,
    };

    /// A device that drops whatever exceeds `capacity_pps`, behind a generator that reaches
    /// `generator_pps`.
    fn device(capacity_pps: f64, generator_pps: f64) -> impl FnMut(f64) -> Result<Trial, String> {
        move |rate_pps| {
            let offered_pps = rate_pps.min(generator_pps);
            Ok(Trial {
                rate_pps,
                offered_pps,
                loss: (1.0 - capacity_pps / offered_pps).max(0.0),
            })
        }
    }

    #[test]
    fn the_capacity_of_a_device_is_found_to_the_resolution() {
        for capacity in [1500.0, 123_456.0, 700_000.0, 999_999.0] {
            let found = highest(&SEARCH, device(capacity, 1e9)).expect("no trial fails");
            let best = found.best.expect("a rate passes").rate_pps;
            assert!(
                best <= capacity && capacity - best <= 1000.0,
                "{capacity}: {best}"
            );
            assert!(found.trials.len() <= 12, "{} trials", found.trials.len());
        }
    }

    #[test]
    fn one_trial_is_enough_where_nothing_is_lost() {
        let found = highest(&SEARCH, device(2e6, 1e9)).expect("no trial fails");
        assert_eq!(found.trials.len(), 1);
        assert_eq!(found.best.map(|best| best.rate_pps), Some(SEARCH.most_pps));
    }

    #[test]
    fn a_share_of_loss_is_allowed_when_it_is_asked_for() {
        let search = Search {
            loss: 0.1,
            ..SEARCH
        };
        let found = highest(&search, device(450_000.0, 1e9)).expect("no trial fails");
        let best = found.best.expect("a rate passes").rate_pps;
        assert!((499_000.0..=500_000.0).contains(&best), "{best}");
    }

    #[test]
    fn what_the_generator_did_not_reach_is_not_claimed() {
        let found = highest(&SEARCH, device(1e9, 300_000.0)).expect("no trial fails");
        let best = found.best.map(|best| best.offered_pps);
        assert_eq!(best, Some(300_000.0));
    }

    #[test]
    fn a_device_that_loses_everything_has_no_rate_and_trials_are_bounded() {
        let found = highest(&SEARCH, device(0.0, 1e9)).expect("no trial fails");
        assert_eq!(found.best, None);
        let bounded = Search {
            resolution: 0.0,
            ..SEARCH
        };
        let found = highest(&bounded, device(123_456.7, 1e9)).expect("no trial fails");
        assert_eq!(found.trials.len(), SEARCH.trials);
    }

    #[test]
    fn a_trial_that_fails_ends_the_search() {
        let failed = highest(&SEARCH, |_| Err::<Trial, _>("broken"));
        assert_eq!(failed, Err("broken"));
    }
}
