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
    /// What stands in for the switch and does no work at all, and what was found for it: what is
    /// beyond that, no switch reaches on this machine.
    pub bound: Option<(&'static str, f64)>,
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

    /// The judgement, in words.
    pub fn verdict(&self) -> &'static str {
        match self.reached() {
            Some(true) => "reached",
            Some(false) => "missed",
            None => "not measured",
        }
    }

    /// What to reach, in words.
    pub fn need(&self) -> String {
        let sign = match self.better {
            Better::Higher => "≥",
            Better::Lower => "≤",
        };
        format!("{sign} {} {}", self.limit, self.unit)
    }

    /// What was found, in words, and what is the most that could be.
    pub fn found(&self) -> String {
        let Some(value) = self.value else {
            return "–".to_owned();
        };
        let found = format!("{} {}", digits(value), self.unit);
        match self.bound {
            Some((what, bound)) => format!("{found}; bound: {} ({what})", digits(bound)),
            None => found,
        }
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

    /// Of `vswitch`, to that of another.
    fn ratio(&self, results: &Results, other: &str) -> Option<f64> {
        Some(self.median(results, "vswitch")? / self.median(results, other)?)
    }
}

/// What passes frames on unread.
const TESTPMD: &str = "testpmd-io";

/// Everything that is to be reached.
pub fn all(results: &Results) -> Vec<Target> {
    [
        guests(results),
        veth(results),
        isolation(results),
        mirror(results),
        update(results),
        routes(results),
    ]
    .concat()
}

fn at_least(what: &str, limit: f64, value: Option<f64>) -> Target {
    Target {
        what: what.to_owned(),
        limit,
        better: Better::Higher,
        unit: "times",
        value,
        bound: None,
    }
}

fn at_most(what: &str, limit: f64, unit: &'static str, value: Option<f64>) -> Target {
    Target {
        better: Better::Lower,
        unit,
        ..at_least(what, limit, value)
    }
}

fn plain<'a>(
    scenario: &'a str,
    metric: &'a str,
    case: Option<&'a str>,
    rules: Option<u64>,
) -> Of<'a> {
    Of {
        scenario,
        metric,
        case,
        flows: None,
        rules,
        frame_bytes: None,
    }
}

fn guests(results: &Results) -> Vec<Target> {
    let hit = |case, flows, metric| Of {
        case: Some(case),
        flows: Some(flows),
        frame_bytes: Some(64),
        ..plain("hit-path", metric, None, None)
    };
    let per_cpu = "Mframes/CPU second";
    let acl = hit("acl", 10_000, per_cpu);
    let generator = hit("port-to-port", 1000, "Mframes/s").median(results, TESTPMD);
    let ours = hit("acl", 1000, "Mframes/s").median(results, "vswitch");
    let set_up = plain("set-up", per_cpu, None, Some(1000));
    vec![
        at_least(
            "frames per CPU second of Open vSwitch with DPDK: 64 bytes, 1,000 rules, 10,000 flows",
            2.5,
            acl.ratio(results, "openvswitch"),
        ),
        at_least(
            "what testpmd sends through a switch that does nothing: 64 bytes, 1,000 rules, 1,000 flows",
            1.0,
            ours.zip(generator).map(|(ours, most)| ours / most),
        ),
        at_least(
            "new flows per CPU second of Open vSwitch with DPDK: 1,000 rules",
            10.0,
            set_up.ratio(results, "openvswitch"),
        ),
    ]
}

fn veth(results: &Results) -> Vec<Target> {
    let delivered = plain(
        "veth",
        "delivered Mframes/s",
        Some("as fast as it goes"),
        None,
    );
    // The kernel's own redirection of each frame, unread.
    let bound = "xdp-redirect";
    let most = delivered.median(results, bound);
    let peer = delivered.median(results, "openvswitch-afxdp");
    vec![
        Target {
            bound: most.zip(peer).map(|(most, peer)| (bound, most / peer)),
            ..at_least(
                "frames delivered by Open vSwitch with AF_XDP (veth)",
                1.3,
                delivered.ratio(results, "openvswitch-afxdp"),
            )
        },
        at_least(
            "frames delivered by the Linux bridge with nftables (veth)",
            1.0,
            delivered.ratio(results, "bridge-nftables"),
        ),
    ]
}

fn isolation(results: &Results) -> Vec<Target> {
    let p99 = |case, contender| {
        plain("isolation", "p99, µs", Some(case), None).median(results, contender)
    };
    let storm = |contender| p99("flow storm", contender);
    let storm_to = |case, contender| Some(storm(contender)? / p99(case, contender)?);
    let target = |what: &str, value| {
        let what =
            format!("p99 of an established flow while other ports open flows, to that {what}");
        at_most(&what, 1.5, "times", value)
    };
    vec![
        Target {
            bound: storm_to("quiet", TESTPMD).map(|bound| (TESTPMD, bound)),
            ..target("of quiet", storm_to("quiet", "vswitch"))
        },
        target(
            "while they send known ones",
            storm_to("known flows", "vswitch"),
        ),
        target(
            "through a switch that does nothing",
            storm("vswitch")
                .zip(storm(TESTPMD))
                .map(|(ours, bound)| ours / bound),
        ),
    ]
}

fn mirror(results: &Results) -> Vec<Target> {
    let of = |metric, case| plain("mirror", metric, Some(case), None).median(results, "vswitch");
    let to_without = |metric| Some(of(metric, "with mirror")? / of(metric, "without mirror")?);
    vec![
        at_least(
            "frames per CPU second with all of them mirrored, to those without",
            0.75,
            to_without("Mframes/CPU second"),
        ),
        at_most(
            "p99 of a frame that is mirrored, to that of one that is not",
            1.2,
            "times",
            to_without("p99, µs"),
        ),
    ]
}

fn update(results: &Results) -> Vec<Target> {
    let first = plain("update", "ms to the first frame", None, Some(10_000));
    vec![at_most(
        "from apply to the first frame judged by it: 10,000 rules",
        10.0,
        "ms",
        first.median(results, "vswitch"),
    )]
}

fn routes(results: &Results) -> Vec<Target> {
    let of = |metric, case| plain("routes", metric, Some(case), None).median(results, "vswitch");
    vec![
        at_most(
            "a lookup among 1,000,000 IPv4 routes",
            40.0,
            "ns",
            of("ns a lookup", "1,000,000 IPv4 routes"),
        ),
        at_most(
            "from adding a route to the first frame that it routes: 100,000 routes",
            1.0,
            "ms",
            of("ms to the first frame", "100,000 routes"),
        ),
    ]
}
