//! The suite: every figure of docs/performance.md, taken by one command, next to other switches.
//!
//! In: which scenarios, how long. Out: [`Results`], one JSON file, from which [`report`] draws a
//! page and writes the tables of the documentation.
//!
//! A scenario measures each contender in turns, A B A B, so that all see the same machine, and a
//! figure is the median round with the least and the most. What a contender needs and is not
//! there is reported as missing, and the rest goes on.
//!
//! What must hold: when the run ends, in whichever way but SIGKILL, nothing of it is left; and what
//! was measured until then is in the file.

use std::{path::PathBuf, thread};

use crate::{process::interrupt, spread::Spread};

pub mod machine;
pub mod report;
pub mod results;
mod scenarios;
pub mod targets;

pub use results::{Better, Figure, Load, Missing, Results};
pub use scenarios::{Axis, SCENARIOS, Scenario};

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only scenarios of these names; empty is all.
    pub only: Vec<String>,
    /// A look that says that everything works.
    pub quick: bool,
    /// The binary of `vswitch`.
    pub switch: PathBuf,
    /// What the machine is to be called; `None` is its name.
    pub host: Option<String>,
    /// Where the result goes.
    pub directory: PathBuf,
    /// The core of the switches.
    pub switch_core: usize,
    /// The core of the guests and generators.
    pub generator_core: usize,
}

/// What a scenario is given, and where it puts what it finds.
#[derive(Debug)]
pub struct Run<'a> {
    /// How to measure.
    pub options: &'a Options,
    scenario: &'static str,
    figures: &'a mut Vec<Figure>,
    missing: &'a mut Vec<Missing>,
}

/// Where the files of a run are.
#[derive(Clone, Debug)]
pub struct Written {
    /// What was found.
    pub results: Results,
    /// The JSON file.
    pub json: PathBuf,
    /// The page.
    pub html: PathBuf,
}

/// Measures, and writes what was found. Needs root for most scenarios.
///
/// # Errors
/// When a scenario is unknown, the run is interrupted, or a file cannot be written. A scenario that
/// fails is reported as missing.
pub fn run(options: &Options) -> anyhow::Result<Written> {
    for name in &options.only {
        anyhow::ensure!(
            SCENARIOS.iter().any(|scenario| scenario.name == name),
            "there is no scenario \"{name}\"; there are: {}",
            SCENARIOS.map(|scenario| scenario.name).join(", ")
        );
    }
    interrupt::watch()?;
    let mut results = Results {
        machine: machine::Machine::here(options.host.as_deref()),
        date: machine::today(),
        quick: options.quick,
        figures: Vec::new(),
        missing: Vec::new(),
    };
    std::fs::create_dir_all(&options.directory)?;
    let stem = format!("{}-{}", results.machine.name, results.date);
    let json = options.directory.join(format!("{stem}.json"));
    let html = options.directory.join(format!("{stem}.html"));
    for scenario in &SCENARIOS {
        if !options.only.is_empty() && !options.only.iter().any(|name| name == scenario.name) {
            continue;
        }
        let began = std::time::Instant::now();
        eprintln!("--- {}: {}", scenario.name, scenario.title);
        let mut run = Run {
            options,
            scenario: scenario.name,
            figures: &mut results.figures,
            missing: &mut results.missing,
        };
        // A thread of its own: some pin the thread they run on.
        let measured = thread::scope(|scope| {
            let measuring = scope.spawn(|| (scenario.measure)(&mut run));
            measuring
                .join()
                .map_err(|_| anyhow::anyhow!("it panicked"))?
        });
        if let Err(error) = measured {
            eprintln!("{}: {error:#}", scenario.name);
            results.missing.push(Missing {
                scenario: scenario.name.to_owned(),
                contender: None,
                why: format!("{error:#}"),
            });
        }
        results.write(&json)?;
        eprintln!(
            "--- {}: {:.0} s",
            scenario.name,
            began.elapsed().as_secs_f64()
        );
        interrupt::check()?;
    }
    std::fs::write(&html, report::page(&results)?)?;
    Ok(Written {
        results,
        json,
        html,
    })
}

impl Run<'_> {
    /// Reports a figure.
    pub fn found(
        &mut self,
        contender: &str,
        (metric, better): (&str, Better),
        load: Load,
        values: &[f64],
    ) {
        self.found_spread(
            contender,
            (metric, better),
            load,
            Spread::of(values.iter().copied()),
            values.len(),
        );
    }

    /// Reports a figure whose rounds are summed up already.
    pub fn found_spread(
        &mut self,
        contender: &str,
        (metric, better): (&str, Better),
        load: Load,
        spread: Spread,
        rounds: usize,
    ) {
        eprintln!(
            "{:12} {:18} {:>12} {metric} ({} to {}); {}",
            self.scenario,
            contender,
            results::digits(spread.median),
            results::digits(spread.min),
            results::digits(spread.max),
            load.words()
        );
        self.figures.push(Figure {
            scenario: self.scenario.to_owned(),
            contender: contender.to_owned(),
            metric: metric.to_owned(),
            better,
            load,
            spread,
            rounds,
            command: format!("scripts/bench --only {}", self.scenario),
        });
    }

    /// Reports that something cannot be measured.
    pub fn missing(&mut self, contender: &str, why: &anyhow::Error) {
        eprintln!("{}: {contender}: {why:#}", self.scenario);
        self.missing.push(Missing {
            scenario: self.scenario.to_owned(),
            contender: Some(contender.to_owned()),
            why: format!("{why:#}"),
        });
    }

    /// Of two numbers, the one for this kind of run.
    pub fn pick<T>(&self, whole: T, quick: T) -> T {
        if self.options.quick { quick } else { whole }
    }
}
