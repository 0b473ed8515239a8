//! Long route tables: what a lookup costs, and when a change of one route is in effect.

use std::thread;

use anyhow::Context;

use super::{Axis, Scenario, hit_path::options};
use crate::{
    routes,
    suite::{Better, Load, Run, results::grouped},
    vhost,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "routes",
    title: "Long route tables",
    about: "\"ns a lookup\": the table alone, asked for 2^20 addresses that are known beforehand, each in a \
            route that is as likely as any other, so that caches help as little as may be; \"chained\": each \
            hangs on the answer before. Beside it a hash table for each prefix length, on the same routes and \
            addresses, and one load that hangs on the load before, among as many bytes: what no table can \
            beat when chained. \"ms to the first frame\": a guest sends frames that no route takes; from the \
            request to the control API that adds one until the first frame is through, at a router with so many \
            others, 1,000 rules in force (vhost-user).",
    axis: Axis::Case,
    measure,
};

/// Routes, and whether they are of IPv6.
const TABLES: [(usize, bool); 4] = [
    (10_000, false),
    (100_000, false),
    (1_000_000, false),
    (200_000, true),
];

fn measure(run: &mut Run<'_>) -> anyhow::Result<()> {
    for (routes, ipv6) in run.pick(TABLES.to_vec(), vec![TABLES[0]]) {
        lookups(run, routes, ipv6)?;
    }
    let options = vhost::Options {
        rounds: run.pick(7, 2),
        ..options(run, Vec::new())
    };
    let routes = run.pick(vec![1000, 100_000], vec![1000]);
    for (routes, values) in vhost::route_updates(&options, &routes)? {
        let load = load(format!("{} routes", grouped(routes.into())));
        let metric = ("ms to the first frame", Better::Lower);
        run.found("vswitch", metric, load, &values);
    }
    Ok(())
}

fn lookups(run: &mut Run<'_>, count: usize, ipv6: bool) -> anyhow::Result<()> {
    let options = routes::Options {
        routes: count,
        ipv6,
        addresses: 1 << 20,
        core: Some(run.options.switch_core),
    };
    // It pins the thread that it runs on.
    let mut found = Vec::new();
    for _ in 0..run.pick(3, 1) {
        let options = options.clone();
        let one = thread::spawn(move || routes::run(&options)).join();
        found.push(one.ok().context("the thread that measures panicked")??);
    }
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    let load = load(format!("{} {family} routes", grouped(count as u64)));
    let mut all = |contender: &str, metric: &str, of: fn(&routes::Report) -> f64| {
        let values: Vec<f64> = found.iter().map(of).collect();
        run.found(contender, (metric, Better::Lower), load.clone(), &values);
    };
    all("vswitch", "ns a lookup", |found| found.ns_mean);
    all("hash tables", "ns a lookup", |found| found.hashed_ns_mean);
    all("vswitch", "ns a lookup, chained", |found| {
        found.ns_mean_chained
    });
    all("hash tables", "ns a lookup, chained", |found| {
        found.hashed_ns_mean_chained
    });
    all("one load", "ns a lookup, chained", |found| found.load_ns);
    all("vswitch", "bytes a route", |found| found.bytes_per_route);
    Ok(())
}

fn load(case: String) -> Load {
    Load {
        case: Some(case),
        cores: 1,
        ..Load::default()
    }
}
