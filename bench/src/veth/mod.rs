//! The veth bench: a load between two namespaces, through the switch and through others.
//!
//! The generator holds both namespaces' interfaces by `AF_XDP` on one core, the switch process runs
//! its worker on another. With `compare` the same load also goes through a Linux bridge, or
//! through nothing but a veth pair, in the same run, in turns, so that all see the same machine.

use std::{
    fmt,
    net::Ipv4Addr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use pmd::{Clock, Port};
use serde::Serialize;

use crate::generator::{
    flow::{Flow, FlowSpace, Flows, Order},
    load,
    random::Random,
    sender::Traffic,
    size::SizeMix,
    template::{Headers, Template, Transport},
};
use crate::process::{self, Process, interrupt};

mod lab;
mod peers;
mod switch;

pub use crate::generator::load::Outcome;
pub use lab::{Lab, Path, Side};
pub use switch::Switch;

use peers::Peer;

/// How often each path has its turn.
pub const ROUNDS: usize = 3;

/// How long a path may take until it carries the first frame.
const START: Duration = Duration::from_secs(10);

/// IPv4 addresses of the two sides.
struct Addresses;

impl Addresses {
    const A: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Offered frames per second; `None` is as many as the sending port takes.
    pub rate_pps: Option<f64>,
    /// Seconds of each path's turn.
    pub seconds: f64,
    /// Lengths of frames.
    pub sizes: SizeMix,
    /// Flows.
    pub flows: u32,
    /// The switch's binary; `None` leaves the switch out.
    pub switch: Option<PathBuf>,
    /// The switch never sleeps.
    pub busy_poll: bool,
    /// What to compare with.
    pub compare: Vec<Path>,
    /// How often each path has its turn.
    pub rounds: usize,
    /// Goes on without a comparison that cannot be had.
    pub lenient: bool,
    /// The core of the switch's worker.
    pub switch_core: usize,
    /// The core of the generator.
    pub generator_core: usize,
}

/// A path's result.
#[derive(Clone, Debug, Serialize)]
pub struct PathReport {
    /// [`Path::name`].
    pub path: String,
    /// The round with the median of delivered frames.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Delivered frames per second of every round.
    pub rounds_delivered_pps: Vec<f64>,
    /// Every round.
    #[serde(skip)]
    pub rounds: Vec<Outcome>,
    /// What the sending port obtained.
    pub mode: String,
    /// Busy cycles per frame as the switch counts them, kernel time of its calls included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch_cycles_per_frame: Option<f64>,
}

/// The result. Its JSON names are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Flows of the load.
    pub flows: u32,
    /// Lengths of frames, in their order.
    pub sizes_bytes: Vec<usize>,
    /// Rounds of each path.
    pub rounds: usize,
    /// Each path.
    pub paths: Vec<PathReport>,
    /// Paths that could not be had, and why.
    #[serde(skip)]
    pub missing: Vec<(Path, String)>,
    /// Delivered frames through the switch for each through the other, by the other's name.
    pub ratios: std::collections::BTreeMap<String, f64>,
}

/// A path with its two open ends.
struct Bed {
    path: Path,
    /// What stands there, if it is not the switch.
    peer: Option<Box<dyn Peer>>,
    a: Port,
    b: Port,
    outcomes: Vec<Outcome>,
}

/// Measures. Needs root.
///
/// # Errors
/// When namespaces, ports or the switch cannot be had, or a path carries nothing.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    // On a thread of its own, because a thread does not leave its core again.
    match thread::scope(|scope| scope.spawn(|| measure(options)).join()) {
        Ok(report) => report,
        Err(_) => anyhow::bail!("the measuring thread panicked"),
    }
}

fn measure(options: &Options) -> anyhow::Result<Report> {
    interrupt::watch()?;
    let mut paths = options.compare.clone();
    if options.switch.is_some() {
        paths.insert(0, Path::Switch);
    }
    ensure!(
        !paths.is_empty(),
        "nothing to measure: name a switch or a comparison"
    );
    let lab = Lab::new(&paths).context("making namespaces; are you root?")?;
    let mut switch = match &options.switch {
        Some(binary) => {
            let core = options.switch_core;
            Some(Switch::start(binary, &lab, core, options.busy_poll)?)
        }
        None => None,
    };
    let clock = Clock::calibrate();
    let made: Vec<_> = paths
        .into_iter()
        .map(|path| (path, Bed::new(path, &lab, options)))
        .collect();
    // After all is started, for what is started has the cores of who starts it.
    process::pin(options.generator_core)?;
    let mut beds = Vec::new();
    let mut missing = Vec::new();
    for (path, bed) in made {
        let carries = bed.and_then(|mut bed| {
            bed.await_first_frame(options, switch.as_mut(), &clock)?;
            Ok(bed)
        });
        match carries.with_context(|| path.name()) {
            Ok(bed) => beds.push(bed),
            // The others can be compared without it.
            Err(error) if options.lenient => missing.push((path, format!("{error:#}"))),
            Err(error) => return Err(error),
        }
    }
    // Whoever polls takes its core from the others, also while it has nothing to do.
    for process in beds.iter().filter_map(|bed| bed.process(switch.as_ref())) {
        process.pause()?;
    }
    for _ in 0..options.rounds {
        for bed in &mut beds {
            interrupt::check()?;
            let traffic = traffic(options)?;
            if let Some(process) = bed.process(switch.as_ref()) {
                process.resume()?;
            }
            let Bed { a, b, .. } = bed;
            let outcome = load::run(a, b, traffic, options.rate_pps, options.seconds, &clock)?;
            bed.outcomes.push(outcome);
            if let Some(process) = bed.process(switch.as_ref()) {
                process.pause()?;
            }
            if let Some(peer) = &mut bed.peer {
                peer.check()?;
            }
        }
        if let Some(switch) = &mut switch {
            switch.check()?;
        }
    }
    let cycles = match &switch {
        Some(switch) => {
            switch.process().resume()?;
            switch.cycles_per_frame()
        }
        None => None,
    };
    Ok(Report {
        missing,
        ..Report::new(options, &beds, cycles)
    })
}

impl Bed {
    /// Starts what stands on the path, and opens both ends of it.
    fn new(path: Path, lab: &Lab, options: &Options) -> anyhow::Result<Self> {
        let peer = peers::start(path, lab, options.switch_core)?;
        Ok(Self {
            path,
            peer,
            a: lab.open(path, Side::A)?,
            b: lab.open(path, Side::B)?,
            outcomes: Vec::new(),
        })
    }

    /// The process that forwards on the path, where one does.
    fn process<'p>(&'p self, switch: Option<&'p Switch>) -> Option<&'p Process> {
        match self.path {
            Path::Switch => switch.map(Switch::process),
            _ => self.peer.as_ref()?.process(),
        }
    }

    /// Offers a trickle until something arrives.
    fn await_first_frame(
        &mut self,
        options: &Options,
        mut switch: Option<&mut Switch>,
        clock: &Clock,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            interrupt::check()?;
            let probe = traffic(options)?;
            let outcome = load::run(&mut self.a, &mut self.b, probe, Some(1000.0), 0.02, clock)?;
            if outcome.delivered > 0 {
                return Ok(());
            }
            if let Some(switch) = &mut switch {
                switch.check()?;
            }
            if let Some(peer) = &mut self.peer {
                peer.check()?;
            }
            let log = || match (&self.peer, &switch) {
                (Some(peer), _) => peer.log(),
                (None, Some(switch)) => switch.log(),
                (None, None) => String::new(),
            };
            ensure!(
                began.elapsed() < START,
                "{:?} path: no frame arrived within {START:?}\n{}",
                self.path,
                log()
            );
        }
    }
}

fn traffic(options: &Options) -> anyhow::Result<Traffic> {
    let headers = Headers {
        eth_src: Side::A.mac(),
        eth_dst: Side::B.mac(),
        vlan_tci: None,
        transport: Transport::Udp,
        ipv6: false,
    };
    let templates = options.sizes.pattern.iter();
    let templates: Result<_, _> = templates
        .map(|size| Template::new(&headers, *size))
        .collect();
    Ok(Traffic {
        templates: templates.context("--size")?,
        space: Flows::Space(FlowSpace {
            first: Flow {
                src: Addresses::A.into(),
                dst: Addresses::B.into(),
                src_port: 20_000,
                dst_port: 10_000,
            },
            dst_ports: 1024,
            dst_hosts: 1,
            src_ports: 1 << 14,
        }),
        flows: options.flows,
        order: Order::Uniform(Random::new(1)),
    })
}

impl Report {
    fn new(options: &Options, beds: &[Bed], switch_cycles_per_frame: Option<f64>) -> Self {
        let paths: Vec<PathReport> = beds
            .iter()
            .map(|bed| {
                let mut rounds = bed.outcomes.clone();
                rounds.sort_by(|a, b| a.delivered_pps.total_cmp(&b.delivered_pps));
                PathReport {
                    path: bed.path.name().to_owned(),
                    outcome: rounds[rounds.len() / 2],
                    rounds_delivered_pps: bed.outcomes.iter().map(|o| o.delivered_pps).collect(),
                    rounds: bed.outcomes.clone(),
                    mode: bed.a.info.mode.clone(),
                    switch_cycles_per_frame: switch_cycles_per_frame
                        .filter(|_| bed.path == Path::Switch),
                }
            })
            .collect();
        let switch = paths.iter().find(|path| path.path == "switch");
        let ratios = switch.map(|switch| {
            let others = paths.iter().filter(|path| path.path != "switch");
            let ratio =
                |other: &PathReport| switch.outcome.delivered_pps / other.outcome.delivered_pps;
            others
                .map(|other| (other.path.clone(), ratio(other)))
                .collect()
        });
        Self {
            flows: options.flows,
            sizes_bytes: options.sizes.pattern.clone(),
            rounds: options.rounds,
            missing: Vec::new(),
            ratios: ratios.unwrap_or_default(),
            paths,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "veth: {} flows, sizes {:?} bytes, median of {} rounds",
            self.flows, self.sizes_bytes, self.rounds
        )?;
        for path in &self.paths {
            write!(f, "\n  {:7} {}", path.path, path.outcome)?;
            if let Some(cycles) = path.switch_cycles_per_frame {
                write!(f, "; switch {cycles:.0} cycles/frame")?;
            }
        }
        for (other, ratio) in &self.ratios {
            write!(
                f,
                "\n  the switch delivers {ratio:.2} times what {other} does"
            )?;
        }
        Ok(())
    }
}
