//! Long rule lists are looked up as a linear scan would, within the bound that they compile to,
//! and under masks that hold all that can make a difference.

mod common;
mod lists;

use std::sync::Arc;

use common::{any_rules, any_spec, rule};
use lists::{
    both, classbench_sets, costliest, generated, generated_match, headers_of, random::Random,
    some_headers, tiny_universe, traced, unsound, verdict, within,
};
use policy::{
    Field, FlowKey, PortId,
    acl::{Classifier, LINEAR_MOST, Method},
    key::{Class, shape},
    model::Action,
    rule::{FlagsMatch, FragmentMatch, Match, Rule, RuleList},
};
use proptest::prelude::*;

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

#[test]
fn rule_sets_are_looked_up_as_a_scan_would() {
    for (name, rules) in classbench_sets(|_| true) {
        agree(&name, &rules, 1_000_000 / (rules.len() + 500), 1);
    }
}

#[test]
fn generated_rules_of_every_kind_are_looked_up_as_a_scan_would() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let rules = generated(20 + 60 * seed as u32, &mut random);
        for rule in rules.iter() {
            assert_eq!(rule.matches.validate(), Ok(()), "{rule}");
        }
        agree(&format!("seed {seed}"), &rules, 3000, seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn parsed_frames_are_judged_as_a_scan_would(
        rules in any_rules(1, 100),
        specs in proptest::collection::vec(any_spec(), 60),
    ) {
        let (tables, linear) = both(&rules);
        for spec in specs {
            let key = spec.parse(PortId(3)).1.key;
            prop_assert_eq!(verdict(&tables, &key), verdict(&linear, &key), "{:?}", spec);
        }
    }
}

#[test]
fn the_length_of_a_list_chooses_how_it_is_looked_up() {
    let rules = generated(LINEAR_MOST as u32 + 1, &mut Random::new(1));
    let short = Classifier::compile(rules[1..].into());
    let long = Classifier::compile(rules.clone().into());
    assert_eq!(short.method(), Method::Linear);
    assert_eq!(long.method(), Method::TupleMerge);
    let empty = Classifier::compile_as(RuleList::default(), Method::TupleMerge);
    assert_eq!(verdict(&empty, &FlowKey::default()), None);
}

#[test]
fn keys_equal_under_a_mask_are_judged_alike() {
    for seed in 20..28 {
        let rules = generated(120, &mut Random::new(seed));
        let (tables, _) = both(&rules);
        assert_eq!(unsound(&tables, &headers_of(&rules, 3000), |_| {}), None);
        // Lists that differ in one sort of thing read less: then more keys fall together.
        for keep in [0, 1, 2, 3] {
            let mut random = Random::new(seed);
            let rules: Arc<[Rule]> = (1..60)
                .map(|id| {
                    let all = generated_match(&mut random);
                    let matches = only(keep, &all);
                    rule(id, Action::Allow, matches)
                })
                .collect();
            let (tables, _) = both(&rules);
            assert_eq!(unsound(&tables, &headers_of(&rules, 1000), |_| {}), None);
        }
    }
}

/// A part of a match.
fn only(part: u32, all: &Match) -> Match {
    let none = Match::default();
    match part {
        0 => Match {
            src: all.src,
            ..none
        },
        1 => Match {
            protocol: all.protocol,
            dst_ports: all.dst_ports.clone(),
            ..none
        },
        2 => Match {
            protocol: all.protocol,
            tcp_flags: all.tcp_flags,
            icmp: all.icmp,
            ..none
        },
        _ => Match {
            eth_src: all.eth_src,
            vlan: all.vlan,
            fragment: all.fragment.filter(|f| *f != FragmentMatch::Later),
            ..none
        },
    }
}

#[test]
fn masks_hold_no_more_than_those_of_the_scan() {
    for seed in 40..44 {
        let rules = generated(200, &mut Random::new(seed));
        let (tables, linear) = both(&rules);
        for class in Class::ALL {
            let (tables, linear) = (traced(&tables, class), traced(&linear, class));
            assert_eq!(&tables & &linear, tables, "{class:?}");
        }
    }
}

#[test]
fn a_mask_without_tcp_flags_is_caught() {
    let rules = generated(120, &mut Random::new(20));
    let (tables, _) = both(&rules);
    let keys = headers_of(&rules, 3000);
    assert_eq!(unsound(&tables, &keys, |_| {}), None);
    let caught = unsound(&tables, &keys, |mask| mask.set(Field::TCP_FLAGS, 0));
    assert!(caught.is_some());
}

#[test]
fn a_mask_without_the_fragment_bits_is_caught() {
    let rules = generated(120, &mut Random::new(20));
    let (tables, _) = both(&rules);
    let keys = headers_of(&rules, 3000);
    let bits = shape::FIRST_FRAGMENT | shape::LATER_FRAGMENT;
    let caught = unsound(&tables, &keys, |mask| {
        mask.set(Field::SHAPE, mask.get(Field::SHAPE) & !bits);
    });
    assert!(caught.is_some());
}

#[test]
fn the_whole_of_a_tiny_universe_is_judged_as_a_scan_would() {
    let keys = tiny_universe();
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let rules: Arc<[Rule]> = (1..=1 + random.below(8) as u32)
            .map(|id| {
                let length = 28 + random.below(5);
                let net = format!("10.0.0.{}/{length}", random.below(16));
                let net = net.parse::<ipnet::IpNet>().expect("a prefix").trunc();
                let first = 80 + random.below(16) as u16;
                let mask = random.below(16) as u8;
                let matches = Match {
                    src: (random.below(3) != 0).then_some(net),
                    protocol: Some(6),
                    dst_ports: vec![first..=first + random.below(16) as u16],
                    tcp_flags: (mask != 0).then_some(FlagsMatch {
                        set: random.below(16) as u8 & mask,
                        mask,
                    }),
                    ..Match::default()
                };
                rule(id, Action::Allow, matches)
            })
            .collect();
        let (tables, linear) = both(&rules);
        for key in &keys {
            assert_eq!(
                verdict(&tables, key),
                verdict(&linear, key),
                "{seed} {key:x?}"
            );
        }
        assert_eq!(unsound(&tables, &keys, |_| {}), None);
    }
}

#[test]
fn a_hundred_thousand_hostile_headers_stay_below_the_bound() {
    let mut lists = vec![("generated".to_owned(), generated(1000, &mut Random::new(2)))];
    let wanted = ["fw1_10k", "ipc1_10k"];
    lists.extend(classbench_sets(|name| {
        wanted.iter().any(|end| name.ends_with(end))
    }));
    for (name, rules) in lists {
        let tables = Classifier::compile(rules.clone().into());
        let (bound, most) = (tables.bound(), costliest(&rules, &tables, 100_000));
        within(&name, most, bound);
        assert!(
            most.probes > 1 && bound.compares * 4 < rules.len(),
            "{name}: {bound:?}"
        );
    }
}

#[test]
fn rules_that_differ_in_ranges_of_ports_alone_are_not_scanned() {
    let rules: Arc<[Rule]> = (0..2000_u16)
        .map(|id| {
            let matches = Match {
                dst: "10.0.0.1/32".parse().ok(),
                protocol: Some(17),
                dst_ports: vec![id * 30 + 1..=id * 30 + 20],
                ..Match::default()
            };
            rule(u32::from(id) + 1, Action::Allow, matches)
        })
        .collect();
    agree("ranges", &rules, 3000, 5);
    let bound = Classifier::compile(rules.into()).bound();
    assert!(bound.compares <= 8, "{bound:?}");
}
