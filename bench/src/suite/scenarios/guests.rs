//! What guests see of the switch beside its speed on known flows: flow set-up, changes of rules,
//! other ports' storms, and waking up.

use std::time::Duration;

use super::{Axis, Scenario, hit_path::options};
use crate::{
    suite::{Better, Load, Run},
    vhost::{
        self, Options, Peer,
        experiments::{self, FRAME_BYTES, Rounds},
    },
};

pub(super) const SET_UP: Scenario = Scenario {
    name: "set-up",
    title: "Flow set-up: every frame a new flow (vhost-user)",
    about: "As \"hit-path\", with each frame of another flow: 32,768 destinations by as many source ports. \
            Half of the rules deny one address, half one port, scattered among those of the flows, so \
            that a switch has to look at most bits of both; none matches. Open vSwitch resolves misses \
            in its poll-mode thread, and caches no more than its flow limit. Without rules, \
            policy reads nothing in which the flows differ, and every frame is a hit.",
    axis: Axis::Rules,
    measure: set_up,
};

pub(super) const UPDATE: Scenario = Scenario {
    name: "update",
    title: "From a change of the rules to the first frame judged by it (vhost-user)",
    about: "So many rules are in force, of which the last denies what the guest sends, one frame every \
            0.1 ms or so. Then a command replaces all rules by the same without the last: `vswitch apply`, \
            `ovs-ofctl replace-flows`. The time is from the start of that command until the first frame \
            is through, the command's own start and reading of its file included.",
    axis: Axis::Rules,
    measure: update,
};

pub(super) const ISOLATION: Scenario = Scenario {
    name: "isolation",
    title: "An established flow while other ports open flows (vhost-user)",
    about: "One frame of a known flow after the other, each 20 µs after the last came through, and how \
            long it took from one guest to the other; two other ports of the switch are quiet, or send \
            frames of 1,000 known flows, or nothing but new flows, both ways, as fast as it goes. 1,000 \
            rules as in \"set-up\". What opening flows costs others is the ratio of the last two: both \
            have the worker and the generator, which sends and times on one core, equally busy, so that \
            the share of both that any frame costs cancels out. testpmd (mode io) looks at nothing: \
            what it shows is what that load does to a frame by itself, and the bound.",
    axis: Axis::Case,
    measure: isolation,
};

pub(super) const MIRROR: Scenario = Scenario {
    name: "mirror",
    title: "What mirroring costs what is mirrored (vhost-user)",
    about: "As \"hit-path\", 10,000 flows and the rules of \"acl\", without and with every frame of the first \
            interface, both ways, copied to a third port: in an ERSPAN tunnel of type II by vswitch, as it \
            is by Open vSwitch. A guest there takes the copies away, on the core of the one that sends. \
            Then how long one frame after the other takes, each 20 µs after the last.",
    axis: Axis::Case,
    measure: mirror,
};

pub(super) const IDLE: Scenario = Scenario {
    name: "idle",
    title: "A switch with nothing to do (vhost-user)",
    about: "No frame comes: what the process takes of a core, as the scheduler accounts it. Then one frame \
            and its answer after pauses of 5 ms; the switch has two wake-ups in each, if it sleeps. \
            Open vSwitch with DPDK polls as it does by default.",
    axis: Axis::Case,
    measure: idle,
};

/// Flows that are mirrored.
const MIRRORED_FLOWS: u32 = 10_000;

fn some(run: &mut Run<'_>) -> Options {
    let peers = match Peer::OpenVswitch.check() {
        Ok(()) => vec![Peer::OpenVswitch],
        Err(why) => {
            run.missing(Peer::OpenVswitch.name(), &why);
            Vec::new()
        }
    };
    options(run, peers)
}

fn load(case: Option<&str>, rules: u32) -> Load {
    Load {
        case: case.map(str::to_owned),
        frame_bytes: Some(FRAME_BYTES),
        rules: Some(rules.into()),
        cores: 1,
        ..Load::default()
    }
}

fn report(run: &mut Run<'_>, rounds: &Rounds, better: Better, load: Load) {
    run.found(rounds.switch, (rounds.what, better), load, &rounds.values);
}

fn set_up(run: &mut Run<'_>) -> anyhow::Result<()> {
    let options = some(run);
    let rules = run.pick(vec![0, 1000, 10_000], vec![0, 1000]);
    for rounds in experiments::new_flows(&options, &rules)? {
        let load = load(None, rounds.rules);
        report(run, &rounds, Better::Higher, load);
    }
    Ok(())
}

fn update(run: &mut Run<'_>) -> anyhow::Result<()> {
    let options = Options {
        rounds: run.pick(7, 2),
        ..some(run)
    };
    let rules = run.pick(vec![1000, 10_000, 100_000], vec![1000]);
    for rounds in experiments::updates(&options, &rules)? {
        let load = load(None, rounds.rules);
        report(run, &rounds, Better::Lower, load);
    }
    Ok(())
}

fn isolation(run: &mut Run<'_>) -> anyhow::Result<()> {
    let mut options = Options {
        seconds: run.pick(1.0, 0.3),
        ..some(run)
    };
    match Peer::Testpmd.check() {
        Ok(()) => options.peers.push(Peer::Testpmd),
        Err(why) => run.missing(Peer::Testpmd.name(), &why),
    }
    for (case, rounds) in experiments::isolation(&options, 1000)? {
        let load = load(Some(case), rounds.rules);
        report(run, &rounds, Better::Lower, load);
    }
    Ok(())
}

fn mirror(run: &mut Run<'_>) -> anyhow::Result<()> {
    let options = Options {
        rounds: run.pick(5, 1),
        ..some(run)
    };
    for (case, rounds) in vhost::mirroring(&options, MIRRORED_FLOWS)? {
        let load = Load {
            flows: Some(MIRRORED_FLOWS.into()),
            ..load(Some(case), rounds.rules)
        };
        let better = if rounds.what.ends_with("µs") {
            Better::Lower
        } else {
            Better::Higher
        };
        report(run, &rounds, better, load);
    }
    Ok(())
}

fn idle(run: &mut Run<'_>) -> anyhow::Result<()> {
    let options = Options {
        seconds: run.pick(1.5, 0.3),
        ..some(run)
    };
    for rounds in experiments::idle(&options, Duration::from_millis(5))? {
        let load = load(Some("two ports"), rounds.rules);
        report(run, &rounds, Better::Lower, load);
    }
    Ok(())
}
