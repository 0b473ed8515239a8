//! The vhost bench: frames from one guest interface to another, through `vswitch` and through its
//! [peers](Peer).
//!
//! In: flows, sizes and cases to measure. Out: a [`Row`] for each of them and each switch. Each
//! switch has one core and a guest of its own, which sends both ways from another core, the same
//! for both, with rings of the same size. In the case [`Case::PortToPort`] there is no policy; in
//! the others both switches enforce the same thousand rules (`rules`), none of which matches.
//!
//! A measurement is a *turn*: a switch wakes, its guest sends; after a while frames are counted for
//! some time, with the CPU time that the switch takes meanwhile with all its threads, as the
//! scheduler accounts it. Then the guest is silent and the switch is put to sleep by SIGSTOP. The
//! switches take turns, A B A B, and the figure is the median turn.
//!
//! Each load has its turns with two guests:
//! - DPDK's `testpmd` says what a real guest gets ([`Row::mframes_per_s`]). It is often the limit
//!   itself ([`Row::refused_share`] tells), and then says little about the switch.
//! - `guest` is several times faster, so that the switch is the limit: frames per CPU second
//!   ([`Row::mframes_per_cpu_s`]) and cycles per frame are from there.
//!
//! A CPU quota for the switch would not make it the limit. The kernel enforces one at its ticks,
//! and in the milliseconds that the switch has then it runs at full speed: a ring is empty after
//! 50 µs, and it waits for testpmd as before. Slices as short as that falsify: taking the core away
//! for 400 µs of every 600 halved Open vSwitch's frames per CPU second.
//!
//! What must hold: only one switch runs at a time; when the run ends, in whichever way but SIGKILL,
//! nothing of it is left.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use pmd::Clock;

mod bed;
mod contender;
mod copy;
pub(crate) mod database;
pub mod experiments;
mod forwarder;
mod guest;
mod hugepages;
mod load;
mod mirroring;
mod open_vswitch;
mod peer;
pub(crate) mod port;
mod reply;
mod report;
mod route_updates;
mod rules;
mod testpmd;
mod vswitch;

pub use contender::Case;
pub use mirroring::mirroring;
pub use peer::Peer;
pub use report::{Finding, InOrder, Report, RoundTrip, Row, Segments};
pub use route_updates::route_updates;

use bed::{Bed, Kind};
use contender::{Contender, Settings};
use hugepages::Hugepages;

use crate::process::{interrupt, priority::Priority};

/// Length of the frames whose round trips are measured, and of TCP super-segments: 45 segments of
/// an MTU of 1500.
const ROUND_TRIP_BYTES: usize = 64;
const SEGMENTS_BYTES: usize = 54 + 45 * 1448;

/// What there is to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Frames per second, and per CPU second of the switch.
    Frames,
    /// How long one frame and its answer take.
    RoundTrips,
    /// Bytes per second of TCP super-segments, next to copying as much.
    Segments,
    /// Frames per CPU second of `vswitch` with a guest whose buffers are used in order, next to one
    /// whose are used in any.
    InOrder,
}

/// What to measure, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to measure.
    pub what: Vec<What>,
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
    /// What else is measured, in turns.
    pub peers: Vec<Peer>,
    /// The core of the switches.
    pub switch_core: usize,
    /// The core of the guests.
    pub guest_core: usize,
}

/// Measures, and hands each finding to `found` as soon as it is there. Needs root.
///
/// # Errors
/// When a program is missing or ends, frames do not come through, or the run is interrupted.
pub fn run(
    options: &Options,
    mut found: impl FnMut(&Finding) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    if options.what.contains(&What::InOrder) {
        // With a switch of its own, which has four ports.
        let row = InOrder::new(experiments::FRAME_BYTES, &experiments::in_order(options)?);
        found(&Finding::InOrder(row))?;
    }
    let mut rows = Vec::new();
    if options.what.iter().all(|what| *what == What::InOrder) {
        return Ok(Report { rows });
    }
    let settings = Settings::on(options.switch_core);
    let _guard = guard(options, &settings)?;
    let mut beds = beds(options, &settings)?;
    for what in &options.what {
        match what {
            What::InOrder => {}
            What::Frames => {
                for &flows in &options.flows {
                    for row in frames(&mut beds, options, flows)? {
                        found(&Finding::Frames(row.clone()))?;
                        rows.push(row);
                    }
                }
            }
            What::RoundTrips => round_trips(&mut beds, options, &mut found)?,
            What::Segments => segments(&mut beds, options, &mut found)?,
        }
    }
    Ok(Report { rows })
}

/// All loads of so many flows.
fn frames(beds: &mut [Bed], options: &Options, flows: u32) -> anyhow::Result<Vec<Row>> {
    let cycles_per_s = Clock::calibrate().cycles_per_s();
    for kind in [Kind::Testpmd, Kind::Own] {
        for bed in &mut *beds {
            bed.connect(kind, flows, options.guest_core)?;
        }
        for &case in &options.cases {
            for bed in beds.iter_mut().filter(|bed| bed.switch.can(case)) {
                bed.enforce(case)?;
            }
            for &size_bytes in &options.sizes_bytes {
                measure(beds, options, (kind, case, size_bytes)).with_context(|| {
                    format!(
                        "{kind:?}, {}, {size_bytes} bytes, {flows} flows",
                        case.name()
                    )
                })?;
            }
        }
    }
    let mut rows = Vec::new();
    for &case in &options.cases {
        for &size_bytes in &options.sizes_bytes {
            for bed in beds.iter().filter(|bed| bed.switch.can(case)) {
                let turns = |kind| &bed.turns[&(kind, case.name(), size_bytes)];
                let (testpmd, own) = (turns(Kind::Testpmd), turns(Kind::Own));
                let load = (case, flows, size_bytes);
                let name = bed.switch.name();
                rows.push(Row::new(name, load, testpmd, own, cycles_per_s));
            }
        }
    }
    for bed in beds {
        bed.turns.clear();
    }
    Ok(rows)
}

/// One frame in flight, through each switch in turns.
fn round_trips(
    beds: &mut [Bed],
    options: &Options,
    found: &mut impl FnMut(&Finding) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let duration = Duration::from_secs_f64(options.seconds);
    let mut times = vec![Vec::new(); beds.len()];
    for _ in 0..options.rounds {
        for (bed, times) in beds.iter_mut().zip(&mut times) {
            if !bed.switch.can(Case::Acl) {
                continue;
            }
            let trips = bed.round_trips(ROUND_TRIP_BYTES, duration, options.guest_core);
            times.push(trips.with_context(|| bed.switch.name())?);
        }
    }
    let measured = beds
        .iter()
        .zip(&times)
        .filter(|(_, times)| !times.is_empty());
    for (bed, times) in measured {
        let row = RoundTrip::new(bed.switch.name(), ROUND_TRIP_BYTES, times);
        found(&Finding::RoundTrip(row))?;
    }
    Ok(())
}

/// Super-segments through `vswitch`, in turns with plain copying on the same core. Open vSwitch does
/// not take them unless told to, and then as an experiment of its own.
fn segments(
    beds: &mut [Bed],
    options: &Options,
    found: &mut impl FnMut(&Finding) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some(bed) = beds.iter_mut().find(|bed| bed.switch.name() == "vswitch") else {
        return Ok(());
    };
    let (mut switched, mut copied) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let count = bed.segments(SEGMENTS_BYTES, options.seconds, options.guest_core)?;
        switched.push(count.bytes / count.seconds);
        copied.push(copy::bytes_per_s(
            SEGMENTS_BYTES,
            options.seconds,
            options.switch_core,
        )?);
    }
    let row = Segments::new(bed.switch.name(), SEGMENTS_BYTES, switched, copied);
    found(&Finding::Segments(row))
}

/// What a run needs of the machine, given back when dropped.
struct Guard {
    _hugepages: Hugepages,
    _priority: Option<Priority>,
}

fn guard(options: &Options, settings: &Settings) -> anyhow::Result<Guard> {
    ensure!(
        options.switch_core != options.guest_core,
        "the switch and the guest need a core each, and both are to have core {}",
        options.guest_core
    );
    interrupt::watch()?;
    let priority = Priority::enter().inspect_err(|error| {
        eprintln!("what else runs on this machine will disturb the figures: {error:#}");
    });
    Ok(Guard {
        _hugepages: Hugepages::provide(hugepages_needed(options, settings))?,
        _priority: priority.ok(),
    })
}

fn hugepages_needed(options: &Options, settings: &Settings) -> u64 {
    let beds = u64::from(options.switch.is_some()) + options.peers.len() as u64;
    let guests = beds * settings.pairs as u64 * guest::HUGEPAGES.max(testpmd::MEMORY_MIB / 2);
    guests
        + options
            .peers
            .iter()
            .map(|peer| peer.hugepages())
            .sum::<u64>()
}

/// The switches, asleep.
fn beds(options: &Options, settings: &Settings) -> anyhow::Result<Vec<Bed>> {
    let mut switches: Vec<Box<dyn Contender>> = Vec::new();
    if let Some(binary) = &options.switch {
        switches.push(Box::new(vswitch::Vswitch::start(binary, settings)?));
        sleep_all(&mut switches)?;
    }
    for peer in &options.peers {
        switches.push(peer.start(settings)?);
        sleep_all(&mut switches)?;
    }
    ensure!(!switches.is_empty(), "there is no switch to measure");
    switches.into_iter().map(Bed::new).collect()
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
    (kind, case, size_bytes): (Kind, Case, usize),
) -> anyhow::Result<()> {
    for _ in 0..options.rounds {
        for bed in beds.iter_mut().filter(|bed| bed.switch.can(case)) {
            let count = bed
                .turn(options.seconds, size_bytes)
                .with_context(|| bed.switch.name())?;
            let load = (kind, case.name(), size_bytes);
            bed.turns.entry(load).or_default().push(count);
        }
    }
    Ok(())
}
