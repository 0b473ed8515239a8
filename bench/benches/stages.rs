//! The stages of the walk, each on its own, by criterion. Short: what counts is `vswitch-bench
//! walk`; these say which stage moved.
#![allow(
    missing_docs,
    reason = "criterion's macros make functions without docs"
)]

use std::{hint::black_box, time::Duration};

use bench::{
    generator::random::Random,
    walk::{Drive, Options, bed},
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pmd::BURST;
use policy::{Epoch, PortId};
use vswitch::{
    bridge::Generations,
    flow_cache::{Candidate, Entry, FlowCache, Hash, Standing},
    rule_ledger::RuleLedger,
    verdict::Verdict,
};

fn options(flows: u32) -> Options {
    Options {
        routed: false,
        mirrored: false,
        flows,
        rules: 64,
        size_bytes: 64,
        miss: false,
        stateful: false,
        seconds: 0.0,
        cache_entries: None,
        core: None,
        burst: 64,
    }
}

/// The whole walk, generator included.
fn walk(c: &mut Criterion) {
    let mut group = c.benchmark_group("walk");
    for flows in [1000, 100_000] {
        let mut drive = Drive::new(&options(flows), 4 * flows as usize).expect("a bed");
        drive.warm_up(flows).expect("flows of their own");
        group.throughput(Throughput::Elements(bench::walk::RING_SLOTS.into()));
        group.bench_function(BenchmarkId::from_parameter(flows), |b| {
            b.iter(|| drive.pass());
        });
    }
    group.finish();
}

fn parse(c: &mut Criterion) {
    let template = bed::template(64, false).expect("fits");
    let mut frames = vec![vec![0; 64]; BURST];
    for (index, frame) in frames.iter_mut().enumerate() {
        template.write(&bed::flows().flow(index as u64), &[], frame);
    }
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Elements(BURST as u64));
    group.bench_function("ipv4 udp", |b| {
        b.iter(|| {
            for frame in &frames {
                black_box(policy::parse(black_box(frame), 64, None, PortId(0)));
            }
        });
    });
    group.finish();
}

fn probe(c: &mut Criterion) {
    let mut group = c.benchmark_group("probe");
    for flows in [1000u64, 100_000] {
        let mut seeds = Random::new(7);
        let mut cache = FlowCache::new(
            4 * flows as usize,
            std::array::from_fn(|_| seeds.next_u64()),
        );
        let template = bed::template(64, false).expect("fits");
        let mut frame = vec![0; 64];
        let mut keys = Vec::new();
        let rules = RuleLedger::new(1);
        for flow in 0..flows {
            template.write(&bed::flows().flow(flow), &[], &mut frame);
            let key = policy::parse(&frame, 64, None, PortId(0)).key;
            let entry = Entry::new(key, Epoch(1), Verdict::NOTHING);
            let place = cache.reserve(cache.hash(&key), key.ingress());
            cache.insert(place, entry, &rules, 0);
            keys.push(key);
        }
        seeds.shuffle(&mut keys);
        let generations = Generations::default();
        let now = Standing {
            epoch: Epoch(1),
            generations: &generations,
        };
        let mut bursts = keys.chunks_exact(BURST).cycle();
        group.throughput(Throughput::Elements(BURST as u64));
        group.bench_function(BenchmarkId::from_parameter(flows), |b| {
            b.iter(|| {
                let keys = bursts.next().unwrap_or(&[]);
                let mut found = [(Hash::default(), Candidate::NONE); BURST];
                for (key, (hash, _)) in keys.iter().zip(&mut found) {
                    *hash = cache.hash(key);
                    cache.prefetch_set(*hash);
                }
                cache.candidates(found.iter_mut().map(|(hash, candidate)| (*hash, candidate)));
                for (key, (hash, candidate)) in keys.iter().zip(&found) {
                    black_box(cache.get(*hash, *candidate, key, now).is_some());
                }
            });
        });
    }
    group.finish();
}

/// A linear scan of 64 rules, of which the last matches.
fn classifier(c: &mut Criterion) {
    let mut frame = vec![0; 64];
    let template = bed::template(64, false).expect("fits");
    template.write(&bed::flows().flow(0), &[], &mut frame);
    let key = policy::parse(&frame, 64, None, PortId(0)).key;
    let rules = bed::rules("bench", 0, 64).rules;
    let classifier = policy::acl::Classifier::compile(rules);
    c.bench_function("classifier/64 rules", |b| {
        b.iter(|| black_box(classifier.decide(&mut policy::reader::Exact(black_box(&key)))));
    });
}

criterion_group! {
    name = stages;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);
    targets = walk, parse, probe, classifier
}
criterion_main!(stages);
