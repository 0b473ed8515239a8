//! The packet generator and analyser as a tool: frames in at one end, judged at the other.
//!
//! In: two ends ([`Driver`]), what frames look like ([`text`] or [`capture`]), how long they are, how
//! often each flow is seen, how fast. Out: a [`Report`]: what was lost, came twice or out of order,
//! how long it took, and, if asked for, the highest rate with little enough loss ([`search`]).

use std::{fmt, path::PathBuf};

use anyhow::{Context, ensure};
use pmd::Clock;
use serde::Serialize;

use crate::{
    generator::{
        flow::{Flows, Order},
        load::{self, Outcome, Progress},
        popularity::Weighted,
        random::Random,
        sender::Traffic,
        size::SizeMix,
        template::Template,
    },
    process::{self, interrupt},
};

pub mod capture;
pub mod driver;
pub mod search;
pub mod text;

pub use driver::Driver;
use search::{Found, Search, Trial};

/// What frames look like.
#[derive(Clone, Debug)]
pub enum Source {
    /// By a template.
    Text {
        /// What they have in common, and how flows differ.
        spec: Box<text::Spec>,
        /// Lengths.
        sizes: SizeMix,
        /// Flows.
        flows: u32,
        /// How often each is seen.
        popularity: Popularity,
    },
    /// As in a capture.
    Capture(PathBuf),
}

/// How often flows are seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Popularity {
    /// One after the other.
    InTurn,
    /// Any, equally likely.
    Uniform,
    /// By Zipf's law with this exponent.
    Zipf(f64),
}

/// How fast.
#[derive(Clone, Copy, Debug)]
pub enum Rate {
    /// As fast as the sending end takes frames.
    Most,
    /// So many frames per second.
    Constant(f64),
    /// The highest rate with at most such a loss.
    Search(Search),
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where frames leave.
    pub from: Driver,
    /// Where they arrive.
    pub to: Driver,
    /// What they look like.
    pub source: Source,
    /// How fast they leave.
    pub rate: Rate,
    /// For how long, each trial of a search too.
    pub seconds: f64,
    /// The core to run on.
    pub core: Option<usize>,
}

/// The result. Its JSON names are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Flows.
    pub flows: u32,
    /// Lengths of frames in bytes, without FCS.
    pub sizes_bytes: Vec<usize>,
    /// Frames of a capture that cannot be sent.
    pub left_out: u64,
    /// What became of the frames; of a search, in the best trial, or the last when none passed.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What a search found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Found>,
}

/// Generates and analyses; tells `tell` now and then how far it is.
///
/// # Errors
/// When an end cannot be had, the traffic makes no sense, or the run is interrupted.
pub fn run(
    options: &Options,
    mut tell: impl FnMut(&Progress) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    interrupt::watch()?;
    let (traffic, left_out) = traffic(&options.source)?;
    let (mut from, mut to) = driver::open(&options.from, &options.to)?;
    if let Some(core) = options.core {
        process::pin(core)?;
    }
    let clock = Clock::calibrate();
    let mut trial = |rate_pps: Option<f64>| {
        let traffic = traffic.clone();
        let how = (rate_pps, options.seconds);
        load::run_telling(&mut from, &mut to, traffic, how, &clock, |progress| {
            interrupt::check()?;
            tell(&progress)
        })
    };
    let (outcome, search) = match options.rate {
        Rate::Most => (trial(None)?, None),
        Rate::Constant(rate_pps) => (trial(Some(rate_pps))?, None),
        Rate::Search(search) => {
            let mut outcomes: Vec<(f64, Outcome)> = Vec::new();
            let found = search::highest(&search, |rate_pps| -> anyhow::Result<Trial> {
                let outcome = trial(Some(rate_pps))?;
                outcomes.push((rate_pps, outcome));
                Ok(Trial {
                    rate_pps,
                    offered_pps: outcome.offered_pps,
                    loss: outcome.lost as f64 / outcome.offered.max(1) as f64,
                })
            })?;
            let best = found.best.map(|best| best.rate_pps);
            let best = outcomes.iter().find(|(rate, _)| Some(*rate) == best);
            let outcome = best.or(outcomes.last()).context("no trial was allowed")?.1;
            (outcome, Some(found))
        }
    };
    let mut sizes_bytes: Vec<usize> = traffic.templates.iter().map(Template::size_bytes).collect();
    sizes_bytes.sort_unstable();
    sizes_bytes.dedup();
    Ok(Report {
        flows: traffic.flows,
        sizes_bytes,
        left_out,
        outcome,
        search,
    })
}

/// The traffic, and how many frames of a capture are not in it.
fn traffic(source: &Source) -> anyhow::Result<(Traffic, u64)> {
    match source {
        Source::Text {
            spec,
            sizes,
            flows,
            popularity,
        } => {
            ensure!(*flows > 0, "there has to be a flow");
            let templates = sizes
                .pattern
                .iter()
                .map(|size| Template::new(&spec.headers, *size));
            let listed = spec.flows(*flows).map_err(anyhow::Error::msg)?;
            let random = Random::new(1);
            let traffic = Traffic {
                templates: templates.collect::<Result<_, _>>()?,
                space: Flows::Listed(listed.into()),
                flows: *flows,
                order: match *popularity {
                    Popularity::InTurn => Order::RoundRobin(0),
                    Popularity::Uniform => Order::Uniform(random),
                    Popularity::Zipf(exponent) => {
                        Order::Weighted(Weighted::zipf(*flows, exponent, random))
                    }
                },
            };
            Ok((traffic, 0))
        }
        Source::Capture(path) => {
            let capture = capture::read(path)?;
            let traffic = Traffic {
                templates: capture.templates,
                flows: capture.flows.len() as u32,
                space: Flows::Listed(capture.flows.into()),
                order: Order::Recorded(capture.frames.into(), 0),
            };
            Ok((traffic, capture.left_out))
        }
    }
}

impl std::str::FromStr for Popularity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = || format!("\"{text}\": write in-turn, uniform, or zipf:EXPONENT");
        match text.split_once(':') {
            None if text == "in-turn" => Ok(Self::InTurn),
            None if text == "uniform" => Ok(Self::Uniform),
            Some(("zipf", exponent)) => {
                let exponent = exponent.parse().ok();
                let exponent = exponent.filter(|exponent| (0.0..=10.0).contains(exponent));
                exponent.map(Self::Zipf).ok_or_else(fault)
            }
            _ => Err(fault()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} flows, sizes {:?} bytes\n{}",
            self.flows, self.sizes_bytes, self.outcome
        )?;
        if self.left_out > 0 {
            write!(
                f,
                "\n{} frames of the capture cannot be sent",
                self.left_out
            )?;
        }
        let Some(found) = &self.search else {
            return Ok(());
        };
        for Trial {
            rate_pps,
            offered_pps,
            loss,
        } in &found.trials
        {
            write!(
                f,
                "\n  at {rate_pps:>12.0} pps: {offered_pps:>12.0} left, {:.4} % lost",
                loss * 100.0
            )?;
        }
        match found.best {
            Some(best) => {
                write!(f, "\nhighest rate that passes: {:.0} pps", best.offered_pps)?;
                if best.offered_pps < 0.98 * best.rate_pps {
                    write!(f, " (the generator sends no faster)")?;
                }
                Ok(())
            }
            None => write!(f, "\nno rate that was tried passes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(rate: Rate) -> Options {
        Options {
            from: Driver::Memory,
            to: Driver::Memory,
            source: Source::Text {
                spec: Box::new("udp.dst=1..500".parse().expect("a template")),
                sizes: SizeMix::imix(),
                flows: 500,
                popularity: Popularity::Zipf(1.0),
            },
            rate,
            seconds: 0.02,
            core: None,
        }
    }

    #[test]
    fn a_load_over_memory_arrives_whole() {
        let mut told = 0;
        let report = run(&options(Rate::Most), |_| {
            told += 1;
            Ok(())
        });
        let report = report.expect("runs");
        assert!(told > 0 && report.outcome.offered > 0);
        assert_eq!(report.outcome.lost, 0);
        assert_eq!(report.sizes_bytes, [60, 590, 1514]);
    }

    #[test]
    fn a_search_over_memory_ends_at_once_because_nothing_is_lost() {
        let search = Search {
            loss: 0.0,
            most_pps: 10_000.0,
            resolution: 0.01,
            trials: 10,
        };
        let report = run(&options(Rate::Search(search)), |_| Ok(())).expect("runs");
        let found = report.search.expect("it was a search");
        assert_eq!(found.trials.len(), 1);
        assert!(found.best.is_some());
    }

    #[test]
    fn whoever_is_told_can_end_the_run() {
        let ended = run(&options(Rate::Most), |_| anyhow::bail!("enough"));
        assert!(ended.is_err());
    }

    #[test]
    fn popularities_have_names() {
        assert_eq!("in-turn".parse(), Ok(Popularity::InTurn));
        assert_eq!("zipf:1.5".parse(), Ok(Popularity::Zipf(1.5)));
        for bad in ["zipf", "zipf:x", "zipf:-1", "uniform:1", ""] {
            assert!(bad.parse::<Popularity>().is_err(), "{bad}");
        }
    }
}
