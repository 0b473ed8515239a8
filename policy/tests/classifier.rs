//! Long rule lists are looked up as a linear scan would, within the bound that they compile to,
//! and under masks that hold all that can make a difference.

mod common;

// The rule sets and headers that `vswitch-bench classify` measures with.
#[path = "../../bench/src/classify/classbench.rs"]
mod classbench;
#[path = "../../bench/src/classify/headers.rs"]
mod headers;
#[path = "../../bench/src/generator/random.rs"]
mod random;

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use common::{any_rules, any_spec, rule};
use headers::{Kind, header};
use policy::{
    Field, FlowKey, Mac, PortId, RuleId, VlanId,
    acl::{Bound, Classifier, LINEAR_MOST, Method},
    key::{Class, shape},
    model::Action,
    reader::{Exact, Tracer},
    rule::{FlagsMatch, FragmentMatch, IcmpMatch, MacMatch, Match, Rule},
};
use proptest::prelude::*;
use random::Random;

const KINDS: [Kind; 3] = [Kind::Inside, Kind::Corner, Kind::Mixed];

fn verdict(classifier: &Classifier, key: &FlowKey) -> Option<(Action, RuleId)> {
    classifier.decide(&mut Exact(key))
}

fn both(rules: &Arc<[Rule]>) -> (Classifier, Classifier) {
    let tables = Classifier::compile_as(rules.clone(), Method::TupleMerge);
    let linear = Classifier::compile_as(rules.clone(), Method::Linear);
    (tables, linear)
}

/// Headers of all kinds, every fourth with one bit turned over.
fn some_headers(rules: &[Rule], count: usize, random: &mut Random) -> Vec<FlowKey> {
    (0..count)
        .map(|number| {
            let kind = KINDS[number % KINDS.len()];
            let mut key = header(rules, kind, &mut |limit| random.below(limit));
            if number % 4 == 0 {
                let bit = random.below(512) as usize;
                key.0[bit / 64] ^= 1 << (bit % 64);
            }
            key
        })
        .collect()
}

/// Both ways agree on the headers, and none costs more than the bound.
fn agree(name: &str, rules: &Arc<[Rule]>, count: usize, seed: u64) {
    let (tables, linear) = both(rules);
    let bound = tables.bound();
    for key in some_headers(rules, count, &mut Random::new(seed)) {
        let expected = verdict(&linear, &key);
        assert_eq!(verdict(&tables, &key), expected, "{name}: {key:x?}");
        // No frame is of both families.
        if !key.has(shape::IPV4 | shape::IPV6) {
            within(name, tables.cost(&key), bound);
        }
    }
}

fn within(name: &str, cost: Bound, bound: Bound) {
    assert!(
        cost.probes <= bound.probes && cost.compares <= bound.compares,
        "{name}: {cost:?} is more than {bound:?}"
    );
}

/// Rule sets of other people, by name; none when they are not there.
fn classbench_sets() -> Vec<(String, Arc<[Rule]>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/classbench");
    let mut sets = Vec::new();
    for folder in ["neurocuts", "partitionsort", "jiachang"] {
        for file in fs::read_dir(root.join(folder)).into_iter().flatten() {
            let path = file.expect("a readable folder").path();
            let name = path.display().to_string();
            if !name.ends_with("_trace") {
                let text = fs::read_to_string(&path).expect("a readable file");
                let rules = classbench::parse(&text).expect("a rule set");
                sets.push((name, rules));
            }
        }
    }
    if sets.is_empty() {
        eprintln!("skipped: no rule sets in {}", root.display());
    }
    sets
}

#[test]
fn rule_sets_are_looked_up_as_a_scan_would() {
    for (name, rules) in classbench_sets() {
        agree(&name, &rules, 6_000_000 / (rules.len() + 2000), 1);
    }
}
