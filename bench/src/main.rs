//! `vswitch-bench`: measures the switch and prints what it found.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use bench::{generator::size::SizeMix, veth::Path};
use clap::{Args, Parser, Subcommand, ValueEnum};
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
    /// Loss and latency of a load between two namespaces, through the switch and others; needs
    /// root
    Veth(Veth),
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

#[derive(Debug, Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent switches of the command line"
)]
struct Veth {
    /// Offered frames per second
    #[arg(
        long,
        value_name = "PPS",
        conflicts_with = "max",
        default_value_t = 100_000.0
    )]
    rate: f64,
    /// Offer as many as the sending port takes
    #[arg(long)]
    max: bool,
    /// Length of each path's turn; each has three
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    seconds: f64,
    /// Length of a frame in bytes, without FCS, or "imix"
    #[arg(long, value_name = "B", default_value = "64")]
    size: SizeMix,
    /// Flows, of which each frame picks one at random
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    flows: u32,
    /// The vswitch binary [default: next to this one]
    #[arg(long, value_name = "PATH")]
    switch: Option<PathBuf>,
    /// Leave the switch out
    #[arg(long, conflicts_with = "switch")]
    no_switch: bool,
    /// The switch never sleeps
    #[arg(long)]
    busy_poll: bool,
    /// The same load through something else too, in turns
    #[arg(long, value_name = "WHAT")]
    compare: Vec<Compare>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compare {
    /// A Linux bridge
    Bridge,
    /// A veth pair with nothing in between
    Direct,
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
        Command::Veth(veth) => {
            let cores = std::thread::available_parallelism()?.get();
            let report = bench::veth::run(&bench::veth::Options {
                rate_pps: (!veth.max).then_some(veth.rate),
                seconds: veth.seconds,
                sizes: veth.size,
                flows: veth.flows,
                switch: if veth.no_switch {
                    None
                } else {
                    Some(veth.switch.map_or_else(sibling, Ok)?)
                },
                busy_poll: veth.busy_poll,
                compare: veth.compare.into_iter().map(Path::from).collect(),
                switch_core: 0,
                generator_core: cores - 1,
            })?;
            print(&report, veth.json)
        }
    }
}

/// The switch that was built with this program.
fn sibling() -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("vswitch"))
}

impl From<Compare> for Path {
    fn from(compare: Compare) -> Self {
        match compare {
            Compare::Bridge => Self::Bridge,
            Compare::Direct => Self::Direct,
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
