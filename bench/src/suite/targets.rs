//! What is to be reached, judged by what was found.

use super::{
    Figure, Results,
    results::{Better, digits},
};

/// Something to reach.
#[derive(Clone, Debug)]
pub struct Target {
    /// In words.
    pub what: String,
    /// The number to reach.
    pub limit: f64,
    /// Which side of it is good.
    pub better: Better,
    /// What the number counts.
    pub unit: &'static str,
    /// What was found, if it was measured.
    pub value: Option<f64>,
}

impl Target {
    /// Whether it was reached, if it was measured.
    pub fn reached(&self) -> Option<bool> {
        let value = self.value?;
        Some(match self.better {
            Better::Higher => value >= self.limit,
            Better::Lower => value <= self.limit,
        })
    }

    /// What to reach, in words.
    pub fn need(&self) -> String {
        let sign = match self.better {
            Better::Higher => "≥",
            Better::Lower => "≤",
        };
        format!("{sign} {} {}", self.limit, self.unit)
    }

    /// What was found, in words.
    pub fn found(&self) -> String {
        self.value.map_or_else(
            || "–".to_owned(),
            |value| format!("{} {}", digits(value), self.unit),
        )
    }
}

/// Which figures.
struct Of<'a> {
    scenario: &'a str,
    metric: &'a str,
    case: Option<&'a str>,
    flows: Option<u64>,
    rules: Option<u64>,
    frame_bytes: Option<usize>,
}

impl Of<'_> {
    fn median(&self, results: &Results, contender: &str) -> Option<f64> {
        let same = |figure: &&Figure| {
            let load = &figure.load;
            figure.contender == contender
                && figure.metric == self.metric
                && self
                    .case
                    .is_none_or(|case| load.case.as_deref() == Some(case))
                && self.flows.is_none_or(|flows| load.flows == Some(flows))
                && self.rules.is_none_or(|rules| load.rules == Some(rules))
                && self
                    .frame_bytes
                    .is_none_or(|bytes| load.frame_bytes == Some(bytes))
        };
        let found = results.of(self.scenario).find(same)?;
        Some(found.spread.median)
    }
}

/// Everything that is to be reached.
pub fn all(results: &Results) -> Vec<Target> {
    let hit = |case, flows, metric| Of {
        scenario: "hit-path",
        metric,
        case: Some(case),
        flows: Some(flows),
        rules: None,
        frame_bytes: Some(64),
    };
    let plain = |scenario, metric, case, rules| Of {
        scenario,
        metric,
        case,
        flows: None,
        rules,
        frame_bytes: None,
    };
    let ratio = |of: &Of<'_>, other: &str| {
        Some(of.median(results, "vswitch")? / of.median(results, other)?)
    };
    let per_cpu = "Mframes/CPU second";
    let times = |what: &str, limit, value| Target {
        what: what.to_owned(),
        limit,
        better: Better::Higher,
        unit: "times",
        value,
    };
    let acl = hit("acl", 10_000, per_cpu);
    let generator = hit("port-to-port", 1000, "Mframes/s").median(results, "testpmd-io");
    let ours = hit("acl", 1000, "Mframes/s").median(results, "vswitch");
    let set_up = plain("set-up", per_cpu, None, Some(1000));
    let veth = plain(
        "veth",
        "delivered Mframes/s",
        Some("as fast as it goes"),
        None,
    );
    let isolation =
        |case| plain("isolation", "p99, µs", Some(case), None).median(results, "vswitch");
    let storm_to = |what: &str, other| Target {
        what: what.to_owned(),
        limit: 1.5,
        better: Better::Lower,
        unit: "times",
        value: isolation("flow storm")
            .zip(isolation(other))
            .map(|(storm, other)| storm / other),
    };
    let update = plain("update", "ms to the first frame", None, Some(10_000));
    vec![
        times(
            "frames per CPU second of Open vSwitch with DPDK: 64 bytes, 1,000 rules, 10,000 flows",
            2.5,
            ratio(&acl, "openvswitch"),
        ),
        times(
            "what testpmd sends through a switch that does nothing: 64 bytes, 1,000 rules, 1,000 flows",
            1.0,
            ours.zip(generator).map(|(ours, most)| ours / most),
        ),
        times(
            "new flows per CPU second of Open vSwitch with DPDK: 1,000 rules",
            10.0,
            ratio(&set_up, "openvswitch"),
        ),
        times(
            "frames delivered by Open vSwitch with AF_XDP (veth)",
            1.3,
            ratio(&veth, "openvswitch-afxdp"),
        ),
        times(
            "frames delivered by the Linux bridge with nftables (veth)",
            1.0,
            ratio(&veth, "bridge-nftables"),
        ),
        storm_to(
            "p99 of an established flow while other ports open flows, to that of quiet",
            "quiet",
        ),
        storm_to(
            "p99 of an established flow while other ports open flows, to that while they send known ones",
            "known flows",
        ),
        Target {
            what: "from apply to the first frame judged by it: 10,000 rules".to_owned(),
            limit: 10.0,
            better: Better::Lower,
            unit: "ms",
            value: update.median(results, "vswitch"),
        },
    ]
}
