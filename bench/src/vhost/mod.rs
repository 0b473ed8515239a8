//! The vhost bench: frames from one guest interface to another, through `vswitch` and through Open
//! vSwitch with DPDK.
//!
//! In: flows, sizes and cases to measure. Out: a [`Row`] for each of them and each switch. Each
//! switch has one core and a guest of its own, which sends both ways from another core, the same
//! for both, with rings of the same size. In the case [`Case::PortToPort`] there is no policy; in
//! the others both switches enforce the same thousand rules ([`rules`]), none of which matches.
//!
//! A measurement is a *turn*: a switch wakes, its guest sends; after a while frames are counted for
//! some time, with the CPU time that the switch takes meanwhile with all its threads, as the
//! scheduler accounts it. Then the guest is silent and the switch is put to sleep by SIGSTOP. The
//! switches take turns, A B A B, and the figure is the median turn.
//!
//! Each load has its turns with two guests:
//! - DPDK's [`testpmd`] says what a real guest gets ([`Row::mframes_per_s`]). It is often the limit
//!   itself ([`Row::refused_share`] tells), and then says little about the switch.
//! - [`guest`] is several times faster, so that the switch is the limit: frames per CPU second
//!   ([`Row::mframes_per_cpu_s`]) and cycles per frame are from there.
//!
//! A CPU quota for the switch would not make it the limit. The kernel enforces one at its ticks,
//! and in the milliseconds that the switch has then it runs at full speed: a ring is empty after
//! 50 µs, and it waits for testpmd as before. Slices as short as that falsify: taking the core away
//! for 400 µs of every 600 halved Open vSwitch's frames per CPU second.
//!
//! What must hold: only one switch runs at a time; when the run ends, in whichever way but SIGKILL,
//! nothing of it is left.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use pmd::Clock;

mod contender;
mod guest;
mod hugepages;
mod load;
mod open_vswitch;
mod reply;
mod report;
mod rules;
mod testpmd;
mod vswitch;

pub use contender::Case;
pub use report::{Report, Row};

use contender::Contender;
use guest::Guest;
use hugepages::Hugepages;
use load::Load;
use testpmd::Testpmd;

use crate::{
    process::{Directory, Process, interrupt, priority::Priority},
    walk::Spread,
};

/// How long a switch may take until frames come through.
const FIRST_FRAME: Duration = Duration::from_secs(20);

/// How long frames run before they are counted: rings, caches and flow tables fill.
const WARM_UP: Duration = Duration::from_millis(500);

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
    /// Seconds that frames are counted in a turn.
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

/// A switch, its guest, and what was measured.
struct Bed {
    switch: Box<dyn Contender>,
    guest: Option<Box<dyn Load>>,
    /// Where the guest keeps its files.
    directory: Directory,
    turns: Turns,
}

/// Which guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Testpmd,
    Own,
}

/// What the turns of one number of flows found, by guest, case and size.
type Turns = BTreeMap<(Kind, &'static str, usize), Vec<Count>>;

/// What happened in a turn.
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
    let _priority = Priority::enter().inspect_err(|error| {
        eprintln!("what else runs on this machine will disturb the figures: {error:#}");
    });
    let cycles_per_s = Clock::calibrate().cycles_per_s();
    let _hugepages = Hugepages::provide(hugepages_needed(options))?;
    let mut beds = beds(options)?;
    let mut rows = Vec::new();
    for &flows in &options.flows {
        for kind in [Kind::Testpmd, Kind::Own] {
            for bed in &mut beds {
                bed.connect(kind, flows, options.guest_core)?;
            }
            for &case in &options.cases {
                for bed in &mut beds {
                    bed.enforce(case)?;
                }
                for &size_bytes in &options.sizes_bytes {
                    let load = (kind, case.name(), size_bytes);
                    measure(&mut beds, options, load)
                        .with_context(|| format!("{load:?}, {flows} flows"))?;
                }
            }
        }
        for &case in &options.cases {
            for &size_bytes in &options.sizes_bytes {
                for bed in &beds {
                    let turns = |kind| &bed.turns[&(kind, case.name(), size_bytes)];
                    let (testpmd, own) = (turns(Kind::Testpmd), turns(Kind::Own));
                    let load = (case, flows, size_bytes);
                    let row = Row::new(bed.switch.name(), load, testpmd, own, cycles_per_s);
                    finished(&row)?;
                    rows.push(row);
                }
            }
        }
        beds.iter_mut().for_each(|bed| bed.turns.clear());
    }
    Ok(Report { rows })
}

fn hugepages_needed(options: &Options) -> u64 {
    let beds = u64::from(options.switch.is_some()) + u64::from(options.open_vswitch);
    let guests = beds * guest::HUGEPAGES.max(testpmd::MEMORY_MIB / 2);
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
            turns: Turns::new(),
        })
    };
    switches.into_iter().map(bed).collect()
}

fn sleep_all(switches: &mut [Box<dyn Contender>]) -> anyhow::Result<()> {
    switches
        .iter_mut()
        .try_for_each(|switch| switch.process().pause())
}

/// All rounds of one load, in turns.
fn measure(
    beds: &mut [Bed],
    options: &Options,
    load: (Kind, &'static str, usize),
) -> anyhow::Result<()> {
    let (_, _, size_bytes) = load;
    for _ in 0..options.rounds {
        for bed in &mut *beds {
            let count = bed
                .turn(options.seconds, size_bytes)
                .with_context(|| bed.switch.name())?;
            bed.turns.entry(load).or_default().push(count);
        }
    }
    Ok(())
}

impl Bed {
    /// Gives the switch a new guest, and waits until frames come through both ways.
    fn connect(&mut self, kind: Kind, flows: u32, core: usize) -> anyhow::Result<()> {
        self.awake(|bed| {
            bed.guest = None;
            bed.switch.enforce(Case::PortToPort)?;
            let sockets = bed.switch.sockets();
            let mut guest: Box<dyn Load> = match kind {
                Kind::Testpmd => Box::new(Testpmd::start(&bed.directory, &sockets, flows, core)?),
                Kind::Own => Box::new(Guest::start(&sockets, flows, core)?),
            };
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
            let (log, name) = (self.switch.process().log(), self.switch.name());
            format!("{name}: connecting a guest; it said:\n{log}")
        })
    }

    fn enforce(&mut self, case: Case) -> anyhow::Result<()> {
        self.awake(|bed| bed.switch.enforce(case))
    }

    fn turn(&mut self, seconds: f64, size_bytes: usize) -> anyhow::Result<Count> {
        self.awake(|bed| {
            let guest = bed.guest.as_mut().context("there is no guest")?;
            let process = bed.switch.process();
            guest.begin(size_bytes)?;
            interrupt::sleep(WARM_UP)?;
            let count = Count::during(Duration::from_secs_f64(seconds), guest.as_mut(), process)?;
            guest.end()?;
            process.check()?;
            Ok(count)
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
    fn during(duration: Duration, guest: &mut dyn Load, process: &Process) -> anyhow::Result<Self> {
        let (from, cpu_from_ns) = (guest.sample()?, process.cpu_time_ns()?);
        interrupt::sleep(duration)?;
        let (to, cpu_to_ns) = (guest.sample()?, process.cpu_time_ns()?);
        let frames = (0..2)
            .map(|port| to.received[port] - from.received[port])
            .sum::<u64>();
        let (tried, refused) = (to.tried - from.tried, to.refused - from.refused);
        ensure!(frames > 0, "no frame came through in {duration:?}");
        Ok(Self {
            seconds: (to.at - from.at).as_secs_f64(),
            cpu_seconds: (cpu_to_ns - cpu_from_ns) as f64 / 1e9,
            mframes: frames as f64 / 1e6,
            refused_share: refused as f64 / tried.max(1) as f64,
        })
    }
}
