//! `vswitch-bench`: measures the switch and prints what it found.
#![forbid(unsafe_code)]

mod commands;

use std::{io::Write, path::PathBuf};

use bench::{
    generator::size::SizeMix,
    veth::Path,
    vhost::{Case, Peer, Row, What},
};
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
    /// What a DPDK guest gets through the switch and through Open vSwitch with DPDK, in turns;
    /// needs root
    Vhost(Vhost),
    /// What a lookup in a long rule list costs, beside a linear scan and a plain tuple space
    Classify(Classify),
    /// What a lookup in a long route table costs, and a change of it, beside hash tables and a
    /// linear scan
    Routes(commands::routes::Routes),
    /// What the decapsulator costs a mirrored frame, driven from memory on one core
    Decap(commands::decap::Decap),
    /// The packet generator and analyser, between two ends of your own
    Pktgen(commands::pktgen::Pktgen),
    /// Every figure of docs/performance.md, next to other switches; needs root
    Suite(commands::suite::Suite),
    /// How many instructions a frame costs, held against a table; needs valgrind
    Instructions(commands::instructions::Instructions),
    /// What `instructions` runs under callgrind
    #[command(hide = true)]
    CountInstructions(commands::instructions::CountInstructions),
    /// Draws a result of the suite, and writes the tables of the documentation
    Report(commands::suite::Report),
}

#[derive(Debug, Args)]
struct Classify {
    /// A rule set in the format of `ClassBench`, one rule a line
    #[arg(long, value_name = "FILE")]
    rules: PathBuf,
    /// Take only so many of its rules
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    first: Option<u32>,
    /// Headers that match, and as many that do not
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    headers: u32,
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
    reason = "five independent switches of a command"
)]
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
    /// TCP that the rules allow statefully: every flow is a connection
    #[arg(long)]
    stateful: bool,
    /// Sender and receiver are in two networks, which a router joins
    #[arg(long, conflicts_with = "stateful")]
    routed: bool,
    /// Compare with a mirror session that copies every frame: what that adds
    #[arg(long, conflicts_with_all = ["miss", "stateful"])]
    mirrored: bool,
    /// Frames that the worker finds in a turn
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=64))]
    burst: u16,
    /// Measured time
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
    /// Room in the flow cache [default: twice the flows, four times with --stateful]
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

#[derive(Debug, Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent switches of the command line"
)]
struct Vhost {
    /// What to measure
    #[arg(long, value_name = "WHAT", value_delimiter = ',', default_values_t = [VhostWhat::Frames, VhostWhat::RoundTrips, VhostWhat::Segments])]
    what: Vec<VhostWhat>,
    /// Flows each way
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 1000, 10_000, 100_000], value_parser = clap::value_parser!(u32).range(1..=100_000))]
    flows: Vec<u32>,
    /// Lengths of frames in bytes, without FCS
    #[arg(long, value_name = "B", value_delimiter = ',', default_values_t = [64, 512, 1500], value_parser = clap::value_parser!(u16).range(60..=1510))]
    size: Vec<u16>,
    /// What the switch does with them
    #[arg(long, value_name = "WHAT", value_delimiter = ',', default_values_t = [VhostCase::PortToPort, VhostCase::Acl])]
    case: Vec<VhostCase>,
    /// Turns of each switch; the figure is the median turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Seconds that frames are counted in a turn
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    seconds: f64,
    /// A look of a minute: one short round of 64-byte frames, 1 and 10,000 flows
    #[arg(long, conflicts_with_all = ["flows", "size", "rounds", "seconds"])]
    quick: bool,
    /// The vswitch binary [default: next to this one]
    #[arg(long, value_name = "PATH")]
    switch: Option<PathBuf>,
    /// Leave vswitch out
    #[arg(long, conflicts_with = "switch")]
    no_switch: bool,
    /// Leave Open vSwitch out
    #[arg(long)]
    no_ovs: bool,
    /// Measure testpmd too, as a switch that looks at nothing (case port-to-port alone)
    #[arg(long)]
    testpmd: bool,
    /// Print one JSON object for each row
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum VhostWhat {
    /// Frames per second, and per CPU second of the switch
    Frames,
    /// How long one frame and its answer take
    RoundTrips,
    /// Bytes per second of TCP super-segments, next to copying as much
    Segments,
    /// CPU time of a frame with split rings in order, next to rings in any order
    InOrder,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum VhostCase {
    /// Each port's frames leave at the other
    PortToPort,
    /// The same, where 1,000 rules allow it that lie among the flows' addresses
    Acl,
    /// The same, where the rules are far from any flow
    AclElsewhere,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compare {
    /// A Linux bridge
    Bridge,
    /// The same, with the switch's rules in nftables
    BridgeNftables,
    /// Open vSwitch's userspace datapath with ports on XDP sockets
    OpenVswitch,
    /// A program in the kernel that passes everything on (XDP redirect)
    XdpRedirect,
    /// A veth pair with nothing in between
    Direct,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Walk(walk) => {
            let options = bench::walk::Options {
                flows: walk.flows,
                rules: walk.rules,
                size_bytes: walk.size,
                miss: walk.miss,
                stateful: walk.stateful,
                routed: walk.routed,
                seconds: walk.seconds,
                cache_entries: walk.cache_entries,
                core: walk.core,
                burst: walk.burst.into(),
                mirrored: walk.mirrored,
            };
            if walk.mirrored {
                return print(&bench::walk::mirrored::run(&options)?, walk.json);
            }
            print(&bench::walk::run(&options)?, walk.json)
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
                rounds: bench::veth::ROUNDS,
                lenient: false,
                switch_core: 0,
                generator_core: cores - 1,
            })?;
            print(&report, veth.json)
        }
        Command::Vhost(vhost) => vhost.run(),
        Command::Decap(decap) => decap.run(),
        Command::Pktgen(pktgen) => pktgen.run(),
        Command::Suite(suite) => suite.run(),
        Command::Instructions(instructions) => instructions.run(),
        Command::CountInstructions(count) => count.run(),
        Command::Report(report) => report.run(),
        Command::Routes(routes) => routes.run(),
        Command::Classify(classify) => {
            let report = bench::classify::run(&bench::classify::Options {
                rules: classify.rules,
                first: classify.first.map(|first| first as usize),
                headers: classify.headers as usize,
                core: classify.core,
            })?;
            print(&report, classify.json)
        }
    }
}

impl Vhost {
    fn run(self) -> anyhow::Result<()> {
        let cores = std::thread::available_parallelism()?.get();
        let mut peers = Vec::new();
        peers.extend((!self.no_ovs).then_some(Peer::OpenVswitch));
        peers.extend(self.testpmd.then_some(Peer::Testpmd));
        let mut options = bench::vhost::Options {
            what: self.what.into_iter().map(What::from).collect(),
            flows: self.flows,
            cases: self.case.into_iter().map(Case::from).collect(),
            sizes_bytes: self.size.into_iter().map(usize::from).collect(),
            rounds: self.rounds.into(),
            seconds: self.seconds,
            switch: if self.no_switch {
                None
            } else {
                Some(self.switch.map_or_else(sibling, Ok)?)
            },
            peers,
            switch_core: 0,
            guest_core: cores - 1,
        };
        if self.quick {
            (options.flows, options.sizes_bytes) = (vec![1, 10_000], vec![64]);
            (options.rounds, options.seconds) = (1, 0.5);
        }
        if !self.json && options.what.contains(&What::Frames) {
            println!("{}", Row::heading());
        }
        // They come minutes apart, so each is shown when it is there.
        let report = bench::vhost::run(&options, |finding| print(finding, self.json))?;
        if !self.json {
            print!("\n{report}");
        }
        Ok(())
    }
}

/// The switch that was built with this program.
fn sibling() -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("vswitch"))
}

impl std::fmt::Display for VhostWhat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Frames => "frames",
            Self::RoundTrips => "round-trips",
            Self::Segments => "segments",
            Self::InOrder => "in-order",
        })
    }
}

impl From<VhostWhat> for What {
    fn from(what: VhostWhat) -> Self {
        match what {
            VhostWhat::Frames => Self::Frames,
            VhostWhat::RoundTrips => Self::RoundTrips,
            VhostWhat::Segments => Self::Segments,
            VhostWhat::InOrder => Self::InOrder,
        }
    }
}

impl std::fmt::Display for VhostCase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Case::from(*self).name())
    }
}

impl From<VhostCase> for Case {
    fn from(case: VhostCase) -> Self {
        match case {
            VhostCase::PortToPort => Self::PortToPort,
            VhostCase::Acl => Self::Acl,
            VhostCase::AclElsewhere => Self::AclElsewhere,
        }
    }
}

impl From<Compare> for Path {
    fn from(compare: Compare) -> Self {
        match compare {
            Compare::Bridge => Self::Bridge,
            Compare::BridgeNftables => Self::BridgeNftables,
            Compare::OpenVswitch => Self::OpenVswitch,
            Compare::XdpRedirect => Self::XdpRedirect,
            Compare::Direct => Self::Direct,
        }
    }
}

fn print<R: Serialize + std::fmt::Display>(report: &R, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
    } else {
        writeln!(out, "{report}")?;
    }
    Ok(())
}
