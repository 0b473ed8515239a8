//! `vswitch-bench`: measures the switch and prints what it found.
#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

/// Counts what the measured part allocates.
#[global_allocator]
static ALLOCATOR: pmd::allocations::Counting = pmd::allocations::Counting;

#[derive(Debug, Parser)]
#[command(version, about = "Measures vswitch")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What a frame costs inside the switch: the real worker over memory ports, on one core
    Walk(Walk),
}

#[derive(Debug, Args)]
struct Walk {
    /// Flows of the traffic, visited in random order
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1 << 26))]
    flows: u32,
    /// Outbound rules of the ingress port; only the last matches
    #[arg(long, value_name = "R", default_value_t = 64)]
    rules: usize,
    /// Length of a frame in bytes, without FCS
    #[arg(long, value_name = "B", default_value_t = 64)]
    size: usize,
    /// Make every frame the first of a new flow
    #[arg(long)]
    miss: bool,
    /// Measured time
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
    /// Room in the flow cache [default: twice the flows]
    #[arg(long, value_name = "E")]
    cache_entries: Option<usize>,
    /// The core to measure on
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Walk(walk) => {
            let report = bench::walk::run(&bench::walk::Options {
                flows: walk.flows,
                rules: walk.rules,
                size_bytes: walk.size,
                miss: walk.miss,
                seconds: walk.seconds,
                cache_entries: walk.cache_entries,
                core: walk.core,
            })?;
            print(&report, walk.json)
        }
    }
}

fn print<R: Serialize + std::fmt::Display>(report: &R, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}
