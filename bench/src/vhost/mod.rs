//! The vhost bench: frames from one guest interface to another, through `vswitch` and through Open
//! vSwitch with DPDK.
//!
//! In: flows, sizes and cases to measure. Out: a [`Row`] for each of them and each switch. Each
//! switch has one core and a guest of its own, DPDK's testpmd, which sends both ways from another
//! core, the same for both ([`testpmd`]). Both guests negotiate what their switch offers, and have
//! rings of the same size. In the case [`Case::PortToPort`] there is no policy; in the
//! others both switches enforce the same thousand rules ([`rules`]), none of which matches.
//!
//! A measurement is a *turn*: a switch wakes, its guest sends; after a while frames are counted for
//! some time ([`Row::mframes_per_s`]). Then the switch gets a quota of its core ([`QUOTA_PERCENT`]),
//! so that it and not the guest is the limit, and frames are counted together with the CPU time
//! that the switch takes with all its threads, as the scheduler accounts it
//! ([`Row::mframes_per_cpu_s`]). Then the guest is silent and the switch is put to sleep by SIGSTOP.
//! The switches take turns, A B A B, and the figure is the median turn.
//!
//! The kernel enforces a quota in slices of milliseconds, and within one the switch runs at full
//! speed. So a switch that outruns the guest is underrated: it finds the rings full at the start of
//! a slice and then waits for frames as before. [`Row::refused_share`] tells. Shorter slices would
//! cure that and falsify more: taking the core away every 200 µs and for 400 µs by a thread of
//! real-time priority cost Open vSwitch up to half of its frames per CPU second, slices of 12 ms
//! a twentieth, against none.
//!
//! What must hold: only one switch runs at a time; when the run ends, in whichever way but SIGKILL,
//! nothing of it is left.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use pmd::Clock;

mod contender;
mod hugepages;
mod open_vswitch;
mod reply;
mod report;
mod rules;
mod testpmd;
mod vswitch;

pub use contender::Case;
pub use report::{Report, Row};

use contender::Contender;
use hugepages::Hugepages;
use testpmd::Testpmd;

use crate::{
    process::{Directory, Process, interrupt},
    walk::Spread,
};

/// How long a switch may take until frames come through.
const FIRST_FRAME: Duration = Duration::from_secs(20);

/// How long frames run before they are counted: rings, caches and flow tables fill.
const WARM_UP: Duration = Duration::from_millis(500);

/// The quota under which frames per CPU second are counted, in hundredths of a core.
pub const QUOTA_PERCENT: u32 = 30;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Numbers of flows, at most 100,000.
    pub flows: Vec<u32>,
    /// Cases.
    pub cases: Vec<Case>,
    /// Lengths of frames in bytes, without FCS.
    pub sizes_bytes: Vec<usize>,
    /// Turns of each switch.
    pub rounds: usize,
    /// Seconds that frames are counted, without quota and again with it.
    pub seconds: f64,
    /// The binary of `vswitch`; `None` leaves it out.
    pub switch: Option<PathBuf>,
    /// Whether Open vSwitch is measured too.
    pub open_vswitch: bool,
    /// The core of the switches.
    pub switch_core: usize,
    /// The core of the guests.
    pub guest_core: usize,
}

/// A switch, its guest, and what was measured of the present row.
struct Bed {
    switch: Box<dyn Contender>,
    guest: Option<Testpmd>,
    /// Where the guest keeps its files.
    directory: Directory,
    /// Whether the switch can be given a quota.
    governed: bool,
    turns: Vec<Turn>,
}

/// What one turn found.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Without a quota.
    free: Count,
    /// With it, where there can be one.
    limited: Count,
}

/// What happened in some time.
#[derive(Clone, Copy, Debug)]
struct Count {
    seconds: f64,
    cpu_seconds: f64,
    mframes: f64,
    /// Of the frames that the guest wanted to send, those that found the ring full.
    refused_share: f64,
}

/// Measures, and hands each row to `finished` as soon as it is there. Needs root.
///
/// # Errors
/// When a program is missing or ends, frames do not come through, or the run is interrupted.
pub fn run(
    options: &Options,
    mut finished: impl FnMut(&Row) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    ensure!(
        options.switch_core != options.guest_core,
        "the switch and the generator need a core each, and both are to have core {}",
        options.guest_core
    );
    interrupt::watch()?;
    let cycles_per_s = Clock::calibrate().cycles_per_s();
    let _hugepages = Hugepages::provide(hugepages_needed(options))?;
    let mut beds = beds(options)?;
    let mut rows = Vec::new();
    for &flows in &options.flows {
        for bed in &mut beds {
            bed.connect(flows, options.guest_core)?;
        }
        for &case in &options.cases {
            for bed in &mut beds {
                bed.enforce(case)?;
            }
            for &size_bytes in &options.sizes_bytes {
                measure(&mut beds, options, size_bytes).with_context(|| {
                    format!("{}, {flows} flows, {size_bytes} bytes", case.name())
                })?;
                for bed in &mut beds {
                    let load = (case, flows, size_bytes);
                    let row = Row::new(bed.switch.name(), load, &bed.turns, cycles_per_s);
                    finished(&row)?;
                    rows.push(row);
                    bed.turns.clear();
                }
            }
        }
    }
    Ok(Report { rows })
}

fn hugepages_needed(options: &Options) -> u64 {
    let beds = u64::from(options.switch.is_some()) + u64::from(options.open_vswitch);
    let guests = beds * testpmd::MEMORY_MIB / 2;
    guests + u64::from(options.open_vswitch) * open_vswitch::HUGEPAGES
}

/// The switches, asleep.
fn beds(options: &Options) -> anyhow::Result<Vec<Bed>> {
    let core = options.switch_core;
    let mut switches: Vec<Box<dyn Contender>> = Vec::new();
    if let Some(binary) = &options.switch {
        switches.push(Box::new(vswitch::Vswitch::start(binary, core)?));
        sleep_all(&mut switches)?;
    }
    if options.open_vswitch {
        switches.push(Box::new(open_vswitch::OpenVswitch::start(core)?));
        sleep_all(&mut switches)?;
    }
    ensure!(!switches.is_empty(), "there is no switch to measure");
    let bed = |mut switch: Box<dyn Contender>| {
        let governed = switch.process().govern();
        if let Err(error) = &governed {
            eprintln!(
                "{}: no CPU quota, frames per CPU second are counted without: {error:#}",
                switch.name()
            );
        }
        Ok(Bed {
            switch,
            guest: None,
            directory: Directory::new()?,
            governed: governed.is_ok(),
            turns: Vec::new(),
        })
    };
    switches.into_iter().map(bed).collect()
}

fn sleep_all(switches: &mut [Box<dyn Contender>]) -> anyhow::Result<()> {
    switches
        .iter_mut()
        .try_for_each(|switch| switch.process().pause())
}

/// All rounds of one row, in turns.
fn measure(beds: &mut [Bed], options: &Options, size_bytes: usize) -> anyhow::Result<()> {
    for _ in 0..options.rounds {
        for bed in &mut *beds {
            let turn = bed
                .turn(options, size_bytes)
                .with_context(|| bed.switch.name())?;
            bed.turns.push(turn);
        }
    }
    Ok(())
}

impl Bed {
    /// Gives the switch a new guest, and waits until frames come through both ways.
    fn connect(&mut self, flows: u32, core: usize) -> anyhow::Result<()> {
        self.guest = None;
        self.awake(|bed| {
            bed.switch.enforce(Case::PortToPort)?;
            let sockets = bed.switch.sockets();
            let mut guest = Testpmd::start(&bed.directory, &sockets, flows, core)?;
            guest.begin(64)?;
            interrupt::wait_for("frames both ways", FIRST_FRAME, || {
                bed.switch.process().check()?;
                Ok((!guest.sample()?.received.contains(&0)).then_some(()))
            })?;
            guest.end()?;
            bed.guest = Some(guest);
            Ok(())
        })
        .with_context(|| {
            let log = self.switch.process().log();
            format!(
                "{}: connecting a guest; it said:\n{log}",
                self.switch.name()
            )
        })
    }

    fn enforce(&mut self, case: Case) -> anyhow::Result<()> {
        self.awake(|bed| bed.switch.enforce(case))
    }

    fn turn(&mut self, options: &Options, size_bytes: usize) -> anyhow::Result<Turn> {
        let governed = self.governed;
        let duration = Duration::from_secs_f64(options.seconds);
        self.awake(|bed| {
            let guest = bed.guest.as_mut().context("there is no guest")?;
            let process = bed.switch.process();
            guest.begin(size_bytes)?;
            interrupt::sleep(WARM_UP)?;
            let free = Count::during(duration, guest, process)?;
            let mut limited = free;
            if governed {
                process.limit(Some(QUOTA_PERCENT))?;
                limited = Count::during(duration, guest, process)?;
                process.limit(None)?;
            }
            guest.end()?;
            process.check()?;
            Ok(Turn { free, limited })
        })
    }

    /// Does something while the switch runs.
    fn awake<T>(&mut self, work: impl FnOnce(&mut Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.switch.process().resume()?;
        let done = work(self);
        self.switch.process().pause()?;
        done
    }
}

impl Count {
    /// Counts for some time.
    fn during(duration: Duration, guest: &mut Testpmd, process: &Process) -> anyhow::Result<Self> {
        let (from, cpu_from_ns) = (guest.sample()?, process.cpu_time_ns()?);
        interrupt::sleep(duration)?;
        let (to, cpu_to_ns) = (guest.sample()?, process.cpu_time_ns()?);
        let frames = (0..2)
            .map(|port| to.received[port] - from.received[port])
            .sum::<u64>();
        let (sent, refused) = (to.sent - from.sent, to.refused - from.refused);
        ensure!(frames > 0, "no frame came through in {duration:?}");
        Ok(Self {
            seconds: (to.at - from.at).as_secs_f64(),
            cpu_seconds: (cpu_to_ns - cpu_from_ns) as f64 / 1e9,
            mframes: frames as f64 / 1e6,
            refused_share: refused as f64 / (sent + refused).max(1) as f64,
        })
    }
}
