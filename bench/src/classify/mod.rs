//! What a lookup in a rule list costs: the classifier beside a linear scan and a plain tuple
//! space, on the same rules and headers, in the same run, on one thread.
//!
//! Headers are of three sorts. *Matching* ones lie inside a rule. *Denied* ones mix the fields of
//! several rules, or are random, and no rule matches but perhaps a last one that matches all: they
//! are what an attacker sends. *Worst* ones were searched for, by operations counted.

pub mod classbench;
pub mod headers;
mod report;
mod tuple_space;
mod update;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use policy::{
    FlowKey,
    acl::{Bound, Classifier, Method},
    reader::Exact,
    rule::{Rule, RuleList},
};

use crate::generator::random::Random;
use headers::{Kind, header};
pub use report::Report;
use tuple_space::TupleSpace;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// A rule set of `ClassBench`.
    pub rules: PathBuf,
    /// How many of its rules, from the first.
    pub first: Option<usize>,
    /// Headers of a sort.
    pub headers: usize,
    /// The core to measure on.
    pub core: Option<usize>,
}

/// Measures one rule set.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    if let Some(id) = options.core {
        let pinned = core_affinity::set_for_current(core_affinity::CoreId { id });
        ensure!(pinned, "core {id} cannot be used; choose another --core");
    }
    let rules = load(&options.rules, options.first)?;
    let build_ms = least((0..5).map(|_| {
        let start = Instant::now();
        let built = Classifier::compile_as(rules.clone().into(), Method::TupleMerge);
        let took = start.elapsed();
        drop(built);
        took.as_secs_f64() * 1e3
    }));
    let tables = Classifier::compile_as(rules.clone().into(), Method::TupleMerge);
    let linear = Classifier::compile_as(rules.clone().into(), Method::Linear);
    let space = TupleSpace::new(&rules);
    let mut random = Random::new(5);
    let matching = matching(&rules, options.headers, &mut random);
    let denied = denied(&rules, &tables, options.headers, &mut random);
    let worst = search(&rules, &tables, &mut random);
    let mut all = [matching.clone(), denied.clone()].concat();
    random.shuffle(&mut all);
    check(&all, &tables, &linear, &space)?;

    let mut histogram = Histogram::<u64>::new(3)?;
    // What was searched for stands among the others, so that caches are as traffic leaves them.
    let each = each_ns(&[all.as_slice(), &worst].concat(), &tables);
    for &ns in &each[..all.len()] {
        histogram.record(ns)?;
    }
    let costs: Vec<Bound> = all.iter().map(|key| tables.cost(key)).collect();
    let worst_costs = all.iter().chain(&worst).map(|key| tables.cost(key));
    let decide = |key: &FlowKey| tables.decide(&mut Exact(key)).is_some();
    let scan = |key: &FlowKey| linear.decide(&mut Exact(key)).is_some();
    // A scan takes long, and does not depend much on which headers are taken.
    let few = &all[..all.len().min(400_000_000 / (rules.len() * 1000) + 50)];
    let bound = tables.bound();
    let (updates, updated) = update::measure(&rules, &mut random);
    check_updated(&updates.rules, &updated, &mut random)?;
    let (policy_whole_us, policy_changed_us) = update::policy_us(&rules, &mut random)?;
    let fresh = updated.renewed();
    let probes_of = |tables: &Classifier| mean(all.iter().map(|key| tables.cost(key).probes));
    Ok(Report {
        rules: rules.len(),
        ns_mean: mean_ns(&all, decide),
        ns_mean_matching: mean_ns(&matching, decide),
        ns_mean_denied: (!denied.is_empty()).then(|| mean_ns(&denied, decide)),
        ns_p99: histogram.value_at_quantile(0.99),
        ns_worst: each.into_iter().max().unwrap_or(0),
        probes_mean: mean(costs.iter().map(|cost| cost.probes)),
        compares_mean: mean(costs.iter().map(|cost| cost.compares)),
        probes_worst: worst_costs.clone().map(|c| c.probes).max().unwrap_or(0),
        compares_worst: worst_costs.map(|c| c.compares).max().unwrap_or(0),
        probes_bound: bound.probes,
        compares_bound: bound.compares,
        tables: tables.tables(),
        build_ms,
        bytes_per_rule: tables.heap_bytes() as f64 / rules.len() as f64,
        update_us: updates.mean_us,
        update_us_worst: updates.worst_us,
        update_us_worst_patched: updates.patched_worst_us,
        update_bytes: updates.bytes_mean,
        updates: updates.count,
        updates_rebuilt: updates.rebuilt,
        updates_renumbered: updates.renumbered,
        updates_renewed: updates.renewed,
        renewal_ms_worst: updates.renewal_ms_worst,
        ns_mean_updated: mean_ns(&all, |key| updated.decide(&mut Exact(key)).is_some()),
        probes_mean_updated: probes_of(&updated),
        ns_mean_fresh: mean_ns(&all, |key| fresh.decide(&mut Exact(key)).is_some()),
        probes_mean_fresh: probes_of(&fresh),
        policy_us: policy_whole_us,
        policy_us_changed: policy_changed_us,
        linear_ns_mean: mean_ns(few, scan),
        tuple_space_ns_mean: mean_ns(&all, |key| space.decide(key).0.is_some()),
        tuple_space_tables: space.tables(),
        tuple_space_probes_mean: mean(all.iter().map(|key| space.decide(key).1)),
        tuple_space_probes_worst: all.iter().map(|k| space.decide(k).1).max().unwrap_or(0),
    })
}

fn load(path: &Path, first: Option<usize>) -> anyhow::Result<Arc<[Rule]>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let rules = classbench::parse(&text)
        .map_err(|fault| anyhow::anyhow!("{}: not a ClassBench rule: {fault}", path.display()))?;
    ensure!(!rules.is_empty(), "{}: no rules in it", path.display());
    let count = first.unwrap_or(rules.len()).clamp(1, rules.len());
    Ok(rules[..count].into())
}

fn matching(rules: &[Rule], count: usize, random: &mut Random) -> Vec<FlowKey> {
    let mut inside = || header(rules, Kind::Inside, &mut |limit| random.below(limit));
    (0..count).map(|_| inside()).collect()
}

/// Fewer than `count`, even none, where nearly everything matches.
fn denied(rules: &[Rule], tables: &Classifier, count: usize, random: &mut Random) -> Vec<FlowKey> {
    let catch_all = rules.last().filter(|rule| {
        let nets = [rule.matches.src, rule.matches.dst];
        let wide = nets.iter().flatten().all(|net| net.prefix_len() == 0);
        wide && rule.matches.protocol.is_none()
    });
    let nowhere = [Rule {
        matches: policy::rule::Match::default(),
        ..rules[0].clone()
    }];
    let mut denied = Vec::new();
    for number in 0..count * 20 {
        let from = if number % 2 == 0 { rules } else { &nowhere };
        let key = header(from, Kind::Mixed, &mut |limit| random.below(limit));
        let decided = tables.decide(&mut Exact(&key)).map(|(_, id)| id);
        if decided.is_none() || decided == catch_all.map(|rule| rule.id) {
            denied.push(key);
        }
        if denied.len() == count {
            break;
        }
    }
    denied
}

/// Headers that cost the most operations, found by changing what cost much a little.
fn search(rules: &[Rule], tables: &Classifier, random: &mut Random) -> Vec<FlowKey> {
    const KEPT: usize = 64;
    let cost = |key: &FlowKey| {
        let cost = tables.cost(key);
        2 * cost.probes + cost.compares
    };
    let mut kept: Vec<(usize, FlowKey)> = Vec::new();
    for number in 0..200_000 {
        let mut key = header(rules, Kind::Mixed, &mut |limit| random.below(limit));
        if number % 2 == 0 && kept.len() == KEPT {
            // A word of it in a header that cost much.
            let word = 3 + number / 2 % 4;
            let (_, old) = kept[random.below(KEPT as u64) as usize];
            let new = std::mem::replace(&mut key, old);
            key.0[word] = new.0[word];
            if word == 6 {
                key.0[7] = new.0[7];
            }
        }
        let cost = cost(&key);
        if kept.len() < KEPT {
            kept.push((cost, key));
        } else if let Some(least) = kept.iter_mut().min_by_key(|(cost, _)| *cost)
            && least.0 < cost
        {
            *least = (cost, key);
        }
    }
    kept.into_iter().map(|(_, key)| key).collect()
}

/// What is compared must agree.
fn check(
    keys: &[FlowKey],
    tables: &Classifier,
    linear: &Classifier,
    space: &TupleSpace,
) -> anyhow::Result<()> {
    for key in keys.iter().take(500) {
        let decided = tables.decide(&mut Exact(key));
        ensure!(
            decided == linear.decide(&mut Exact(key)),
            "the classifier and the linear scan disagree about {key:x?}"
        );
        ensure!(
            decided.map(|(_, id)| id) == space.decide(key).0,
            "the classifier and the tuple space disagree about {key:x?}"
        );
    }
    Ok(())
}

/// A list that was changed decides as a scan of it does.
fn check_updated(list: &RuleList, updated: &Classifier, random: &mut Random) -> anyhow::Result<()> {
    let rules: Vec<Rule> = list.iter().cloned().collect();
    let linear = Classifier::compile_as(list.clone(), Method::Linear);
    for number in 0..2000 {
        let kind = [Kind::Inside, Kind::Mixed][number % 2];
        let key = header(&rules, kind, &mut |limit| random.below(limit));
        ensure!(
            updated.decide(&mut Exact(&key)) == linear.decide(&mut Exact(&key)),
            "the changed classifier and the linear scan disagree about {key:x?}"
        );
    }
    Ok(())
}

fn mean(numbers: impl ExactSizeIterator<Item = usize>) -> f64 {
    let count = numbers.len().max(1) as f64;
    numbers.sum::<usize>() as f64 / count
}

fn least(figures: impl Iterator<Item = f64>) -> f64 {
    figures.fold(f64::INFINITY, f64::min)
}

/// Nanoseconds per key: the least of passes over all of them, so that what else the machine did
/// does not count.
fn mean_ns(keys: &[FlowKey], decide: impl Fn(&FlowKey) -> bool) -> f64 {
    let until = Instant::now() + Duration::from_millis(300);
    let mut passes = 0;
    least(std::iter::from_fn(|| {
        passes += 1;
        (passes <= 5 || Instant::now() < until).then(|| {
            let start = Instant::now();
            for key in keys {
                std::hint::black_box(decide(std::hint::black_box(key)));
            }
            start.elapsed().as_secs_f64() * 1e9 / keys.len() as f64
        })
    }))
}

/// Nanoseconds of each key: the least of several passes, less what reading the clock takes.
fn each_ns(keys: &[FlowKey], tables: &Classifier) -> Vec<u64> {
    let time = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed().as_nanos() as u64
    };
    let clock = (0..1000).map(|_| time(&mut || ())).min().unwrap_or(0);
    let mut least = vec![u64::MAX; keys.len()];
    for _ in 0..15 {
        for (key, least) in keys.iter().zip(&mut least) {
            let took = time(&mut || {
                std::hint::black_box(tables.decide(&mut Exact(std::hint::black_box(key))));
            });
            *least = took.saturating_sub(clock).min(*least);
        }
    }
    least
}
