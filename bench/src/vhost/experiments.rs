//! Measurements of the suite that need guests, beside those of [`run`](super::run).
//!
//! Each is a function: settings in, one [`Rounds`] out for each switch and load. Switches take turns
//! and sleep in between, as they do there.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::{
    Options,
    bed::Kind,
    beds,
    contender::{Case, Settings},
    guard,
    guest::{Guest, Others, Traffic},
};
use crate::process::{self, interrupt};

/// Length of all frames here, without FCS.
pub const FRAME_BYTES: usize = 64;

/// What the rounds of one switch under one load found.
#[derive(Clone, Debug)]
pub struct Rounds {
    /// `vswitch`, or the name of a [peer](super::Peer).
    pub switch: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Rules in force.
    pub rules: u32,
    /// A value for each round.
    pub values: Vec<f64>,
}

/// Millions of frames that come through in a second of the switch's CPU time when every frame is of
/// a new flow, with so many rules.
///
/// # Errors
/// As [`run`](super::run).
pub fn new_flows(options: &Options, rules: &[u32]) -> anyhow::Result<Vec<Rounds>> {
    let settings = Settings {
        unlimited_flows: true,
        ..Settings::on(options.switch_core)
    };
    let cases = rules.iter().map(|&rules| Case::NewFlows { rules });
    per_cpu_second(options, &settings, (Kind::NewFlows, 1), cases)
}

/// Millions of frames that come through in a second of the switch's CPU time when it routes them, of
/// so many flows.
///
/// # Errors
/// As [`run`](super::run).
pub fn routed(options: &Options, flows: u32) -> anyhow::Result<Vec<Rounds>> {
    let settings = Settings::on(options.switch_core);
    per_cpu_second(options, &settings, (Kind::Routed, flows), [Case::Routed])
}

fn per_cpu_second(
    options: &Options,
    settings: &Settings,
    (kind, flows): (Kind, u32),
    cases: impl IntoIterator<Item = Case>,
) -> anyhow::Result<Vec<Rounds>> {
    let _guard = guard(options, settings)?;
    let mut beds = beds(options, settings)?;
    for bed in &mut beds {
        bed.connect(kind, flows, options.guest_core)?;
    }
    let mut all = Vec::new();
    for case in cases {
        let mut rates = vec![Vec::new(); beds.len()];
        for bed in &mut beds {
            bed.enforce(case)?;
        }
        for _ in 0..options.rounds {
            for (bed, rates) in beds.iter_mut().zip(&mut rates) {
                let count = bed.turn(options.seconds, FRAME_BYTES);
                let count = count.with_context(|| bed.switch.name())?;
                rates.push(count.mframes / count.cpu_seconds);
            }
        }
        for (bed, values) in beds.iter().zip(rates) {
            all.push(Rounds {
                switch: bed.switch.name(),
                what: "Mframes/CPU second",
                rules: case.rules(),
                values,
            });
        }
    }
    Ok(all)
}

/// From so many rules on a change of them is made once.
const MANY: u32 = 100_000;

/// Milliseconds from the beginning of the command that changes the rules until a frame comes through
/// that none but the new ones let through; and until the command has ended.
///
/// # Errors
/// As [`run`](super::run).
pub fn updates(options: &Options, rules: &[u32]) -> anyhow::Result<Vec<Rounds>> {
    let settings = Settings {
        alone: false,
        ..Settings::on(options.switch_core)
    };
    let _guard = guard(options, &settings)?;
    let mut all = Vec::new();
    for mut bed in beds(options, &settings)? {
        let name = bed.switch.name();
        let rounds = bed.awake(|bed| {
            bed.switch.enforce(Case::PortToPort)?;
            let sockets = bed.switch.sockets(0);
            let mut guest = Guest::start(&sockets, Traffic::Frames, 1, options.guest_core)?;
            bed.await_frames(&mut guest)?;
            let mut all = Vec::new();
            for &rules in rules {
                let (mut first, mut whole) = (Vec::new(), Vec::new());
                // Open vSwitch takes half a minute for each change of so many.
                let rounds = if rules < MANY { options.rounds } else { 1 };
                for _ in 0..rounds {
                    bed.switch.enforce(Case::Gate { rules, open: false })?;
                    let mut command = bed.switch.change(Case::Gate { rules, open: true })?;
                    let act = || process::run(&mut command).map(drop);
                    let (seen, took) = guest.first_after(FRAME_BYTES, act)?;
                    first.push(seen.as_secs_f64() * 1e3);
                    whole.push(took.as_secs_f64() * 1e3);
                    bed.switch.process().check()?;
                }
                for (what, values) in [
                    ("ms to the first frame", first),
                    ("ms until the command ended", whole),
                ] {
                    all.push(Rounds {
                        switch: name,
                        what,
                        rules,
                        values,
                    });
                }
            }
            Ok(all)
        });
        all.extend(rounds.with_context(|| name)?);
    }
    Ok(all)
}

/// How long frames of a known flow take, in microseconds, when all else is quiet, while two other
/// ports of the switch send frames of known flows as fast as they can, and while these open flows as
/// fast as they can; the percentage of them that is lost; and how many frames the others send. To a
/// switch without rules the flows of the storm are frames like any others: what it finds is what the
/// load itself does to a frame.
///
/// # Errors
/// As [`run`](super::run).
pub fn isolation(options: &Options, rules: u32) -> anyhow::Result<Vec<(&'static str, Rounds)>> {
    const WARM_UP: Duration = Duration::from_millis(200);
    let settings = Settings {
        pairs: 2,
        ..Settings::on(options.switch_core)
    };
    let _guard = guard(options, &settings)?;
    let duration = Duration::from_secs_f64(options.seconds);
    let case = Case::NewFlows { rules };
    let mut all = Vec::new();
    let mut beds = beds(options, &settings)?;
    let mut guests = Vec::new();
    for bed in &mut beds {
        let pair = bed.awake(|bed| {
            bed.switch.enforce(Case::PortToPort)?;
            let mut start = |pair, traffic| -> anyhow::Result<Guest> {
                let sockets = bed.switch.sockets(pair);
                let mut guest = Guest::start(&sockets, traffic, 1, options.guest_core)?;
                bed.await_frames(&mut guest)?;
                Ok(guest)
            };
            let known = start(0, Traffic::Frames)?;
            let opening = start(1, Traffic::NewFlows)?;
            if bed.switch.can(case) {
                bed.switch.enforce(case)?;
            }
            Ok((known, opening))
        });
        guests.push(pair.with_context(|| bed.switch.name())?);
    }
    let cases = [
        ("quiet", Others::Silent),
        ("known flows", Others::Known),
        ("flow storm", Others::New),
    ];
    let mut all_found = vec![vec![[const { Vec::new() }; 5]; beds.len()]; cases.len()];
    for _ in 0..options.rounds {
        for ((_, others), found) in cases.iter().zip(&mut all_found) {
            for ((bed, guests), found) in beds.iter_mut().zip(&mut guests).zip(found) {
                let (known, beside) = guests;
                let established = bed.awake(|_| {
                    known.established((&mut *beside, *others), FRAME_BYTES, WARM_UP)?;
                    known.established((&mut *beside, *others), FRAME_BYTES, duration)
                });
                let established = established.with_context(|| bed.switch.name())?;
                for (quantile, values) in [0.5, 0.99, 0.999].into_iter().zip(found.iter_mut()) {
                    values.push(established.times.value_at_quantile(quantile) as f64 / 1e3);
                }
                let sent = established.times.len() + established.lost;
                found[3].push(100.0 * established.lost as f64 / sent.max(1) as f64);
                found[4].push(established.others_pps / 1e6);
            }
        }
    }
    for ((what, _), found) in cases.into_iter().zip(all_found) {
        for (bed, found) in beds.iter().zip(found) {
            let names = [
                "p50, µs",
                "p99, µs",
                "p99.9, µs",
                "lost, %",
                "Mframes/s of others",
            ];
            for (name, values) in names.into_iter().zip(found) {
                let rounds = Rounds {
                    switch: bed.switch.name(),
                    what: name,
                    rules,
                    values,
                };
                all.push((what, rounds));
            }
        }
    }
    Ok(all)
}

/// Millions of frames that come through in a second of the switch's CPU time with a guest whose split
/// rings are used in any order, and with one that negotiated order; the rounds of both beside each
/// other. Both are guests of one switch, which takes their frames in turns; half of the rounds are
/// with each of the two on the ports that the other had.
///
/// # Errors
/// As [`run`](super::run).
pub fn in_order(options: &Options) -> anyhow::Result<[Vec<f64>; 2]> {
    let settings = Settings {
        pairs: 2,
        ..Settings::on(options.switch_core)
    };
    let alone = Options {
        peers: Vec::new(),
        ..options.clone()
    };
    let _guard = guard(&alone, &settings)?;
    let mut found = [Vec::new(), Vec::new()];
    for places in [[0, 1], [1, 0]] {
        for bed in &mut beds(&alone, &settings)? {
            let mut guests = bed.awake(|bed| {
                bed.switch.enforce(Case::PortToPort)?;
                let mut start = |place, traffic| {
                    let sockets = bed.switch.sockets(place);
                    let mut guest = Guest::start(&sockets, traffic, 1, options.guest_core)?;
                    bed.await_frames(&mut guest)?;
                    anyhow::Ok(guest)
                };
                let split = start(places[0], Traffic::Frames)?;
                Ok([split, start(places[1], Traffic::InOrder)?])
            })?;
            for _ in 0..options.rounds {
                for (guest, found) in guests.iter_mut().zip(&mut found) {
                    let count = bed.turn_of(guest, options.seconds, FRAME_BYTES)?;
                    found.push(count.mframes / count.cpu_seconds);
                }
            }
        }
    }
    Ok(found)
}

/// What a switch takes of its core when no frame comes, in percent; and how long the first frame and
/// its answer take after a pause of so long, in microseconds: half of them, and 99 of 100.
///
/// # Errors
/// As [`run`](super::run).
pub fn idle(options: &Options, pause: Duration) -> anyhow::Result<Vec<Rounds>> {
    const CALM: Duration = Duration::from_millis(300);
    let settings = Settings {
        may_sleep: true,
        ..Settings::on(options.switch_core)
    };
    let _guard = guard(options, &settings)?;
    let duration = Duration::from_secs_f64(options.seconds);
    let mut all = Vec::new();
    for mut bed in beds(options, &settings)? {
        let switch = bed.switch.name();
        let rounds = bed.awake(|bed| {
            bed.switch.enforce(Case::PortToPort)?;
            let sockets = bed.switch.sockets(0);
            let mut guest = Guest::start(&sockets, Traffic::Frames, 1, options.guest_core)?;
            bed.await_frames(&mut guest)?;
            let mut found = [const { Vec::new() }; 3];
            for _ in 0..options.rounds {
                interrupt::sleep(CALM)?;
                let (began, from) = (Instant::now(), bed.switch.process().cpu_time_ns()?);
                interrupt::sleep(duration)?;
                let took = bed.switch.process().cpu_time_ns()? - from;
                found[0].push(took as f64 / began.elapsed().as_nanos() as f64 * 100.0);
                let times = guest.round_trips(FRAME_BYTES, duration, pause)?;
                for (index, quantile) in [(1, 0.5), (2, 0.99)] {
                    found[index].push(times.value_at_quantile(quantile) as f64 / 1e3);
                }
            }
            let names = ["CPU while idle, %", "wake-up p50, µs", "wake-up p99, µs"];
            let rounds = names.into_iter().zip(found).map(|(what, values)| Rounds {
                switch,
                what,
                rules: 0,
                values,
            });
            Ok(rounds.collect::<Vec<_>>())
        });
        all.extend(rounds.with_context(|| switch)?);
    }
    Ok(all)
}
