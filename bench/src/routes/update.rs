//! What a change of a table costs, from a version to the next: its clone, one route in or out, and
//! letting go of the version before.

use std::time::Instant;

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy::route::{Route, RouteTable};
use serde::Serialize;

use crate::generator::random::Random;

/// Changes, half of which take out what the other half puts in.
const CHANGES: usize = 20_000;

/// Microseconds from a version to the next.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Updates {
    /// How many were made.
    pub count: usize,
    /// Mean of all.
    pub us_mean: f64,
    /// 99 of 100 take less.
    pub us_p99: f64,
    /// The slowest; each the least of three.
    pub us_worst: f64,
    /// The slowest of those of prefixes of at most 8 bits (of at most 24 in IPv6), the default
    /// route among them.
    pub us_worst_short: f64,
    /// Allocations, mean of all; 0 where they are not counted.
    pub allocations_mean: f64,
}

/// Takes routes out and puts them in again, at random, one after the other: the table has the same
/// routes at the end, in other places of memory.
pub(super) fn measure(
    table: &mut RouteTable,
    routes: &mut [Route],
    random: &mut Random,
) -> anyhow::Result<Updates> {
    random.shuffle(routes);
    let default: IpNet = match routes.first().context("no routes")?.prefix {
        IpNet::V4(_) => Ipv4Net::default().into(),
        IpNet::V6(_) => Ipv6Net::default().into(),
    };
    let shortest = if default.addr().is_ipv4() { 8 } else { 24 };
    let is_short = |route: &Route| route.prefix.prefix_len() <= shortest;
    let short = routes.iter().filter(|route| is_short(route)).take(200);
    let mut changed: Vec<Route> = routes
        .iter()
        .take(CHANGES / 2)
        .chain(short)
        .cloned()
        .collect();
    changed.push(Route {
        prefix: default,
        ..routes[0].clone()
    });
    let mut found = Updates::default();
    let mut all_us = Vec::new();
    let mut allocations = 0;
    for _ in ["out", "in again"] {
        for route in &changed {
            let there = table.get(route.prefix).any(|other| other == *route);
            let change = |table: &mut RouteTable| {
                if there {
                    table.remove(route)
                } else {
                    table.insert(route.clone())
                }
            };
            let mut least_us = f64::INFINITY;
            for _ in 0..3 {
                let start = Instant::now();
                let mut next = table.clone();
                change(&mut next)?;
                drop(next);
                least_us = least_us.min(start.elapsed().as_secs_f64() * 1e6);
            }
            let before = pmd::allocations::count();
            change(table).context("a change that went well before")?;
            allocations += pmd::allocations::count() - before;
            all_us.push(least_us);
            if is_short(route) {
                found.us_worst_short = found.us_worst_short.max(least_us);
            }
        }
    }
    all_us.sort_unstable_by(f64::total_cmp);
    found.count = all_us.len();
    found.us_mean = all_us.iter().sum::<f64>() / all_us.len().max(1) as f64;
    found.us_p99 = all_us.get(all_us.len() * 99 / 100).copied().unwrap_or(0.0);
    found.us_worst = all_us.last().copied().unwrap_or(0.0);
    found.allocations_mean = allocations as f64 / all_us.len().max(1) as f64;
    Ok(found)
}
