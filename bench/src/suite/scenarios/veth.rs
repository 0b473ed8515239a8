//! Frames between two namespaces.

use super::{Axis, Scenario};
use crate::{
    generator::size::SizeMix,
    suite::{Better, Load, Run},
    veth::{self, Options, Path},
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "veth",
    title: "Frames between two namespaces (veth, AF_XDP)",
    about: "The generator holds an AF_XDP socket in each namespace, on one core; 64 bytes, 1,000 flows, \
            one way. The switch, Open vSwitch (userspace datapath, AF_XDP ports, polling) and the \
            Linux bridge (nftables) check the sender and enforce the same few rules; xdp-redirect is a \
            program in the kernel that passes everything on, and direct a veth pair with nothing in \
            between: the bounds of veth. The bridge and xdp-redirect run where the sender runs, which \
            slows the sender instead of losing frames. The switch polls, as Open vSwitch always does; \
            \"vswitch, sleeping\" is what it does by default, on a core that is free while nothing comes.",
    axis: Axis::Case,
    measure,
};

const FLOWS: u32 = 1000;
const FRAME_BYTES: usize = 64;

const PEERS: [Path; 4] = [
    Path::OpenVswitch,
    Path::BridgeNftables,
    Path::XdpRedirect,
    Path::Direct,
];

fn measure(run: &mut Run<'_>) -> anyhow::Result<()> {
    for (case, rate_pps) in [
        ("as fast as it goes", None),
        ("100,000 a second", Some(100_000.0)),
    ] {
        let polling = Options {
            rate_pps,
            seconds: run.pick(1.0, 0.2),
            sizes: SizeMix::fixed(FRAME_BYTES),
            flows: FLOWS,
            switch: Some(run.options.switch.clone()),
            busy_poll: true,
            compare: PEERS.to_vec(),
            rounds: run.pick(5, 1),
            lenient: true,
            switch_core: run.options.switch_core,
            generator_core: run.options.generator_core,
        };
        let sleeping = Options {
            busy_poll: false,
            compare: Vec::new(),
            ..polling.clone()
        };
        compare(run, case, "vswitch", &polling)?;
        compare(run, case, "vswitch, sleeping", &sleeping)?;
    }
    Ok(())
}

/// Reports one run, in which the switch is called `name`.
fn compare(run: &mut Run<'_>, case: &str, name: &str, options: &Options) -> anyhow::Result<()> {
    let report = veth::run(options)?;
    for (path, why) in &report.missing {
        run.missing(path.name(), &anyhow::anyhow!("{why}"));
    }
    for path in &report.paths {
        let contender = match path.path.as_str() {
            "switch" => name,
            other => other,
        };
        let load = Load {
            case: Some(case.to_owned()),
            frame_bytes: Some(FRAME_BYTES),
            flows: Some(FLOWS.into()),
            cores: 1,
            ..Load::default()
        };
        let mut found = |metric, better, value: fn(&veth::Outcome) -> f64| {
            let values: Vec<f64> = path.rounds.iter().map(value).collect();
            run.found(contender, (metric, better), load.clone(), &values);
        };
        found("delivered Mframes/s", Better::Higher, |o| {
            o.delivered_pps / 1e6
        });
        found("lost, %", Better::Lower, |o| {
            100.0 * o.lost as f64 / o.offered.max(1) as f64
        });
        found("p50, µs", Better::Lower, |o| o.latency_p50_ns as f64 / 1e3);
        found("p99, µs", Better::Lower, |o| o.latency_p99_ns as f64 / 1e3);
    }
    Ok(())
}
