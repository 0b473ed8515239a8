//! `vswitch-bench suite` and `vswitch-bench report`.

use std::path::PathBuf;

use bench::suite::{self, Results, report};
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Suite {
    /// Only these scenarios
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// A look that says that everything works, and nothing about speed
    #[arg(long)]
    quick: bool,
    /// What the machine is called in the result, instead of its name
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Where the result goes
    #[arg(long, value_name = "FOLDER", default_value = "bench/results")]
    directory: PathBuf,
    /// The vswitch binary [default: next to this one]
    #[arg(long, value_name = "PATH")]
    switch: Option<PathBuf>,
    /// The core of the switches
    #[arg(long, value_name = "N", default_value_t = 0)]
    switch_core: usize,
    /// The core of guests and generators [default: the last one]
    #[arg(long, value_name = "N")]
    generator_core: Option<usize>,
    /// Say which scenarios there are, and measure nothing
    #[arg(long)]
    list: bool,
}

impl Suite {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if self.list {
            for scenario in &suite::SCENARIOS {
                println!("{:14} {}", scenario.name, scenario.title);
            }
            return Ok(());
        }
        let cores = std::thread::available_parallelism()?.get();
        let written = suite::run(&suite::Options {
            only: self.only,
            quick: self.quick,
            switch: self.switch.map_or_else(crate::sibling, Ok)?,
            host: self.host,
            directory: self.directory,
            switch_core: self.switch_core,
            generator_core: self.generator_core.unwrap_or(cores - 1),
        })?;
        for target in suite::targets::all(&written.results) {
            println!(
                "{:13} {}: {} (to reach {})",
                target.verdict(),
                target.what,
                target.found(),
                target.need()
            );
        }
        println!("{}\n{}", written.json.display(), written.html.display());
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// A result of the suite
    #[arg(value_name = "FILE")]
    results: PathBuf,
    /// Draw it here
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the tables of this file anew, between its markers "results: performance"
    #[arg(long, value_name = "FILE")]
    performance: Option<PathBuf>,
    /// Write the table of this file anew, between its markers "results: readme"
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,
}

impl Report {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let results = Results::read(&self.results)?;
        if let Some(path) = self.html {
            std::fs::write(path, report::page(&results)?)?;
        }
        if let Some(path) = self.performance {
            report::markdown::put(
                &path,
                "performance",
                &report::markdown::performance(&results),
            )?;
        }
        if let Some(path) = self.readme {
            report::markdown::put(&path, "readme", &report::markdown::readme(&results))?;
        }
        Ok(())
    }
}
