//! Frames of known flows between guests, by flows, rules and size.

use super::{Axis, Scenario};
use crate::{
    suite::{Better, Load, Run},
    vhost::{self, Case, Finding, Peer, Row, What, experiments},
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "hit-path",
    title: "Frames of known flows between two guests (vhost-user)",
    about: "A guest with two vhost-user interfaces sends from each to the other; the switch has one \
            core, the guest the other. \"Mframes/s\" is with DPDK's testpmd as the guest, which often \
            is the limit itself. \"Mframes/CPU second\" is with a guest that keeps the switch's rings \
            full: frames that came through, by the CPU time of the whole switch process as the \
            scheduler accounts it, taken from outside in the same way for every switch. In the case \
            \"acl\" the rules lie among the flows' addresses and none matches; testpmd as a switch \
            (mode io) looks at nothing and has no rules: it is the bound. \"routed\" is \"acl\" with the \
            interfaces in two networks and a router between: new Ethernet addresses, a lower TTL.",
    axis: Axis::Flows,
    measure,
};

/// What all scenarios with guests have in common.
pub(super) fn options(run: &Run<'_>, peers: Vec<Peer>) -> vhost::Options {
    vhost::Options {
        what: vec![What::Frames],
        flows: Vec::new(),
        cases: vec![Case::PortToPort, Case::Acl],
        sizes_bytes: vec![64],
        rounds: run.pick(3, 1),
        seconds: run.pick(0.4, 0.2),
        switch: Some(run.options.switch.clone()),
        peers,
        switch_core: run.options.switch_core,
        guest_core: run.options.generator_core,
    }
}

fn measure(run: &mut Run<'_>) -> anyhow::Result<()> {
    let mut peers = Vec::new();
    for peer in [Peer::OpenVswitch, Peer::Testpmd] {
        match peer.check() {
            Ok(()) => peers.push(peer),
            Err(why) => run.missing(peer.name(), &why),
        }
    }
    let by_flows = vhost::Options {
        flows: run.pick(vec![1, 1000, 10_000, 100_000], vec![10_000]),
        ..options(run, peers.clone())
    };
    let by_size = vhost::Options {
        flows: vec![10_000],
        sizes_bytes: vec![512, 1500],
        ..options(run, peers)
    };
    let parts = run.pick(vec![by_flows.clone(), by_size], vec![by_flows]);
    // With the guest that keeps rings full alone: testpmd's cannot speak to a router.
    let mut routers = parts[0].clone();
    routers.peers.retain(|peer| *peer == Peer::OpenVswitch);
    for rounds in experiments::routed(&routers, ROUTED_FLOWS)? {
        let load = Load {
            case: Some(Case::Routed.name().to_owned()),
            frame_bytes: Some(experiments::FRAME_BYTES),
            flows: Some(ROUTED_FLOWS.into()),
            rules: Some(rounds.rules.into()),
            cores: 1,
            ..Load::default()
        };
        run.found(
            rounds.switch,
            (rounds.what, Better::Higher),
            load,
            &rounds.values,
        );
    }
    for options in parts {
        vhost::run(&options, |finding| {
            if let Finding::Frames(row) = finding {
                report(run, row);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Flows of the case "routed".
const ROUTED_FLOWS: u32 = 10_000;

fn report(run: &mut Run<'_>, row: &Row) {
    let load = Load {
        case: Some(row.case.to_owned()),
        frame_bytes: Some(row.size_bytes),
        flows: Some(row.flows.into()),
        rules: Some(row.rules.into()),
        cores: 1,
        ..Load::default()
    };
    for (metric, spread) in [
        ("Mframes/CPU second", row.mframes_per_cpu_s_spread),
        ("Mframes/s", row.mframes_per_s_spread),
    ] {
        let metric = (metric, Better::Higher);
        run.found_spread(row.switch, metric, load.clone(), spread, row.rounds);
    }
}
