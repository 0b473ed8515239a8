//! What a frame costs inside the switch: hits, misses, short bursts, several cores.

use super::{Axis, Scenario};
use crate::{
    spread::Spread,
    suite::{Better, Load, Run},
    walk::{self, Options, contention, together},
};

const RULES: usize = 64;
const FRAME_BYTES: usize = 64;
const CYCLES: (&str, Better) = ("cycles/frame", Better::Lower);

pub(super) const WALK: Scenario = Scenario {
    name: "walk",
    title: "Inside the switch: cycles a frame",
    about: "The real worker over memory ports, on one core; only its turns are timed. 64 outbound \
            rules, of which the last matches, all sender checks, 8 inbound rules. Cycles are ticks of \
            the time-stamp counter; a round is the median of its passes of 256 frames. \"Connections\": \
            TCP that both sides allow statefully. \"Routed\": between two networks. \"New flows\": no \
            frame's flow was ever seen.",
    axis: Axis::Flows,
    measure: cost,
};

pub(super) const BURST: Scenario = Scenario {
    name: "burst",
    title: "Inside the switch: by the frames of a turn",
    about: "As \"walk\", with 1,000 flows; the worker finds so many frames in each turn. A turn costs \
            something however few they are.",
    axis: Axis::Case,
    measure: bursts,
};

pub(super) const CORES: Scenario = Scenario {
    name: "cores",
    title: "Inside the switch: by the number of workers",
    about: "As \"walk\", with 1,000 flows a worker; each worker has a core and queues of its own, and \
            shares ports, counters, snapshot and MAC table with the others. Only turns are timed: a \
            core's part is what its worker could do with all of it. \"simulated\" is what more workers \
            would do if nothing slowed them but waiting for each other's transmit queue, with the cost \
            of a burst, and of its part that holds the queue, as measured here on one core: no \
            measurement, and no word on caches and memory.",
    axis: Axis::Cores,
    measure: cores,
};

fn options(run: &Run<'_>, flows: u32) -> Options {
    Options {
        flows,
        rules: RULES,
        size_bytes: FRAME_BYTES,
        miss: false,
        seconds: run.pick(1.5, 0.1),
        cache_entries: None,
        core: Some(run.options.switch_core),
        stateful: false,
        routed: false,
        mirrored: false,
        burst: pmd::BURST,
    }
}

fn load(case: &str, flows: u32) -> Load {
    Load {
        case: Some(case.to_owned()),
        frame_bytes: Some(FRAME_BYTES),
        flows: Some(flows.into()),
        rules: Some(RULES as u64),
        cores: 1,
        ..Load::default()
    }
}

fn cost(run: &mut Run<'_>) -> anyhow::Result<()> {
    for flows in run.pick(vec![1000, 100_000, 1_000_000], vec![1000]) {
        let report = walk::run(&options(run, flows))?;
        let spread = report.cycles_per_frame_spread;
        run.found_spread(
            "vswitch",
            CYCLES,
            load("known flows", flows),
            spread,
            report.rounds,
        );
    }
    let report = walk::run(&Options {
        routed: true,
        ..options(run, 1000)
    })?;
    let spread = report.cycles_per_frame_spread;
    run.found_spread(
        "vswitch",
        CYCLES,
        load("routed", 1000),
        spread,
        report.rounds,
    );
    let report = walk::run(&Options {
        stateful: true,
        ..options(run, 10_000)
    })?;
    let spread = report.cycles_per_frame_spread;
    run.found_spread(
        "vswitch",
        CYCLES,
        load("connections", 10_000),
        spread,
        report.rounds,
    );
    let report = walk::run(&Options {
        miss: true,
        cache_entries: Some(1 << 16),
        ..options(run, 1)
    })?;
    let load = Load {
        flows: None,
        ..load("new flows", 0)
    };
    let spread = report.cycles_per_frame_spread;
    run.found_spread("vswitch", CYCLES, load, spread, report.rounds);
    Ok(())
}

fn bursts(run: &mut Run<'_>) -> anyhow::Result<()> {
    for burst in [1, 2, 4, 8, 16, 32, 64] {
        let report = walk::run(&Options {
            burst,
            ..options(run, 1000)
        })?;
        let load = load(&format!("{burst} a turn"), 1000);
        let spread = report.cycles_per_frame_spread;
        run.found_spread("vswitch", CYCLES, load, spread, report.rounds);
    }
    Ok(())
}

fn cores(run: &mut Run<'_>) -> anyhow::Result<()> {
    let (first, second) = (run.options.switch_core, run.options.generator_core);
    let mut sets = vec![vec![first]];
    if first != second {
        sets.push(vec![first, second]);
    }
    let options = Options {
        seconds: run.pick(0.5, 0.1),
        ..options(run, 1000)
    };
    let mut rates = vec![Vec::new(); sets.len()];
    for _ in 0..run.pick(5, 1) {
        for (cores, rates) in sets.iter().zip(&mut rates) {
            rates.push(together::mframes_per_s(&options, cores)?);
        }
    }
    let metric = ("Mframes/s of all workers", Better::Higher);
    let load = |cores| Load {
        cores,
        ..load("known flows", 1000)
    };
    for (set, rates) in sets.iter().zip(&rates) {
        run.found("vswitch", metric, load(set.len()), rates);
    }
    let cycles_per_s = pmd::Clock::calibrate().cycles_per_s();
    let mframes = pmd::BURST as f64 / 1e6;
    let turn = contention::Turn {
        whole: mframes * cycles_per_s / Spread::of(rates[0].iter().copied()).median,
        held: contention::held_cycles(FRAME_BYTES)?,
    };
    for workers in [1, 2, 4, 8, 16, 32] {
        for (name, queues) in [
            ("simulated, a transmit queue each", workers),
            ("simulated, one transmit queue", 1),
        ] {
            let bursts_per_s = turn.bursts_per_cycle(workers, queues) * cycles_per_s;
            run.found(name, metric, load(workers), &[bursts_per_s * mframes]);
        }
    }
    Ok(())
}
