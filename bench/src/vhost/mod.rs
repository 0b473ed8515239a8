//! The vhost bench: frames from one guest interface to another, through `vswitch` and through Open
//! vSwitch with DPDK.
//!
//! In: flows, sizes and cases to measure. Out: a [`Row`] for each of them and each switch. Each
//! switch has one core and a guest of its own, DPDK's testpmd, which sends both ways from another
//! core, the same for both ([`testpmd`]). Both guests negotiate what their switch offers, and have
//! rings of the same size. In the case [`Case::PortToPort`] there is no policy; in
//! [`Case::Acl`] both switches enforce the same thousand rules ([`rules`]), none of which
//! matches.
//!
//! A measurement is a *turn*: a switch wakes, its guest sends; after a while frames are counted for
//! some time ([`Row::mframes_per_s`]); then the switch is braked ([`brake`]), and frames are
//! counted together with the CPU time that the switch takes ([`Row::mframes_per_cpu_s`]), with all
//! its threads, as the scheduler accounts it. Then the guest is silent and the switch is put to
//! sleep by SIGSTOP. The switches take turns, A B A B, and the figure is the median turn.
//!
//! What must hold: only one switch runs at a time; when the run ends, in whichever way but SIGKILL,
//! nothing of it is left.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use pmd::Clock;

mod brake;
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

use brake::Brake;
use contender::Contender;
use hugepages::Hugepages;
use testpmd::Testpmd;

use crate::{
    process::{Directory, interrupt},
    walk::Spread,
};

/// How long a switch may take until frames come through.
const FIRST_FRAME: Duration = Duration::from_secs(20);

/// How long frames run before they are counted: rings, caches and flow tables fill.
const WARM_UP: Duration = Duration::from_millis(500);

/// How long before they are counted when the brake has been put on.
const SETTLE: Duration = Duration::from_millis(50);

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
    /// Seconds that frames are counted, without brake and again with it.
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
    turns: Vec<Turn>,
}

/// What one turn found.
#[derive(Clone, Copy, Debug)]
struct Turn {
    mframes_per_s: f64,
    mframes_per_cpu_s: f64,
}

/// Measures, and hands each row to `finished` as soon as it is there. Needs root.
///
/// # Errors
/// When a program is missing or ends, frames do not come through, or the run is interrupted.
pub fn run(options: &Options, mut finished: impl FnMut(&Row) -> anyhow::Result<()>) -> anyhow::Result<Report> {
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
    let bed = |switch| {
        Ok(Bed {
            switch,
            guest: None,
            directory: Directory::new()?,
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
                Ok((!guest.received()?.contains(&0)).then_some(()))
            })?;
            guest.end()?;
            bed.guest = Some(guest);
            Ok(())
        })
        .with_context(|| {
            let log = self.switch.process().log();
            format!("{}: connecting a guest; it said:\n{log}", self.switch.name())
        })
    }

    fn enforce(&mut self, case: Case) -> anyhow::Result<()> {
        self.awake(|bed| bed.switch.enforce(case))
    }

    fn turn(&mut self, options: &Options, size_bytes: usize) -> anyhow::Result<Turn> {
        self.awake(|bed| {
            let guest = bed.guest.as_mut().context("there is no guest")?;
            guest.begin(size_bytes)?;
            interrupt::sleep(WARM_UP)?;
            let seconds = Duration::from_secs_f64(options.seconds);

            let before = guest.sample()?;
            interrupt::sleep(seconds)?;
            let mframes_per_s = testpmd::mframes_per_s(before, guest.sample()?)?;

            let brake = Brake::apply(options.switch_core)?;
            interrupt::sleep(SETTLE)?;
            let process = bed.switch.process();
            let (before, cpu_before_ns) = (guest.sample()?, process.cpu_time_ns()?);
            interrupt::sleep(seconds)?;
            let (after, cpu_after_ns) = (guest.sample()?, process.cpu_time_ns()?);
            drop(brake);

            guest.end()?;
            process.check()?;
            let cpu_s = (cpu_after_ns - cpu_before_ns) as f64 / 1e9;
            let mframes = (after.received - before.received) as f64 / 1e6;
            Ok(Turn {
                mframes_per_s,
                mframes_per_cpu_s: mframes / cpu_s,
            })
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
