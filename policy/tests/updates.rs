//! A compiled list that is changed rule by rule decides as a scan of the list does, within its
//! bound and under masks that hold all that can make a difference; versions share what is the same
//! in both, and none disturbs another.

mod common;
mod lists;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Barrier, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use common::rule;
use lists::{
    classbench_sets, costliest, generated, generated_match, headers_of, random::Random,
    some_headers, tiny_universe, traced, unsound, verdict, within,
};
use policy::{
    Field, FlowKey, RuleId,
    acl::{Classifier, LINEAR_MOST, Method, Rebuild, Update},
    key::{Class, shape},
    model::Action,
    rule::{FlagsMatch, Match, Rule, RuleList},
};

/// A list that changes, and where new rules come from.
struct List {
    rules: Vec<Rule>,
    /// The same, of which versions share what they have in common.
    shared: RuleList,
    next: u32,
    random: Random,
    /// New rules ask for what one of these does; made up if there are none.
    from: Vec<Match>,
}

impl List {
    fn new(rules: &[Rule], from: Vec<Match>, seed: u64) -> Self {
        Self {
            rules: rules.to_vec(),
            shared: rules.into(),
            next: 1_000_000,
            random: Random::new(seed),
            from,
        }
    }

    fn place(&mut self, most: usize) -> usize {
        self.random.below(most as u64) as usize
    }

    fn rule(&mut self) -> Rule {
        self.next += 1;
        let matches = if self.from.is_empty() {
            generated_match(&mut self.random)
        } else {
            let number = self.place(self.from.len());
            self.from[number].clone()
        };
        let action = [Action::Allow, Action::Deny][self.place(2)];
        rule(self.next, action, matches)
    }

    /// One to three changes at random places. Every fourth list shares nothing with the one before.
    fn step(&mut self) -> RuleList {
        for _ in 0..[1, 1, 1, 3][self.place(4)] {
            let new = self.rule();
            let length = self.rules.len();
            let (place, other) = (self.place(length), self.place(length));
            match self.place(4) {
                0 => {
                    let place = self.place(length + 1);
                    self.insert(place, new);
                }
                1 => drop(self.remove(place)),
                2 => {
                    self.shared.replace(place, new.clone());
                    self.rules[place] = new;
                }
                _ => {
                    let moved = self.remove(place);
                    self.insert(other, moved);
                }
            }
        }
        if self.place(4) == 0 {
            self.shared = self.rules.clone().into();
        }
        assert!(self.shared.iter().eq(&self.rules));
        self.shared.clone()
    }

    fn insert(&mut self, place: usize, rule: Rule) {
        self.shared.insert(place, rule.clone());
        self.rules.insert(place, rule);
    }

    fn remove(&mut self, place: usize) -> Rule {
        self.shared.remove(place);
        self.rules.remove(place)
    }
}

/// The classifier decides on its list as a scan does, within its bound.
fn agree(name: &str, tables: &Classifier, headers: &[FlowKey]) {
    let linear = Classifier::compile_as(tables.rules().clone(), Method::Linear);
    let bound = tables.bound();
    for key in headers {
        assert_eq!(
            verdict(tables, key),
            verdict(&linear, key),
            "{name}: {key:x?}"
        );
        // No frame is of both families.
        if !key.has(shape::IPV4 | shape::IPV6) {
            within(name, tables.cost(key), bound);
        }
    }
}

/// The masks hold those of the list compiled whole.
fn masks_suffice(name: &str, tables: &Classifier) {
    let whole = Classifier::compile_as(tables.rules().clone(), Method::TupleMerge);
    for class in Class::ALL {
        let (needed, mask) = (traced(&whole, class), traced(tables, class));
        assert_eq!(&needed & &mask, needed, "{name}: {class:?}");
    }
}

#[derive(Default)]
struct Tally {
    patched: usize,
    rebuilt: BTreeMap<Rebuild, usize>,
}

impl Tally {
    fn count(&mut self, update: &Update) {
        match update {
            Update::Patched { .. } => self.patched += 1,
            Update::Rebuilt(why) => *self.rebuilt.entry(*why).or_default() += 1,
        }
    }
}

/// Changes a list step by step and looks at every version.
fn change(name: &str, list: &mut List, steps: usize, headers: usize) -> Tally {
    let mut tables = Classifier::compile_as(list.rules.clone().into(), Method::TupleMerge);
    let mut tally = Tally::default();
    for step in 0..steps {
        let before: Vec<Rule> = tables.rules().iter().cloned().collect();
        let shared = list.step();
        let (next, update) = tables.updated(shared.clone());
        tally.count(&update);
        assert!(next.rules().is(&shared));
        let rules = &list.rules;
        if let Update::Patched { inserted, .. } = &update {
            for (place, rule) in rules.iter().enumerate() {
                let known = before.contains(rule) || inserted.contains(&place);
                assert!(known || rules.len() > 1000, "{name}: rule {place} is new");
            }
        }
        let name = format!("{name}, step {step}, {update:?}");
        let mut keys = some_headers(rules, headers, &mut list.random);
        // Where rules were and are no more.
        keys.extend(some_headers(&before, headers / 4, &mut list.random));
        if let Update::Patched { inserted, .. } = &update {
            let new: Vec<Rule> = inserted.iter().map(|place| rules[*place].clone()).collect();
            if !new.is_empty() {
                keys.extend(some_headers(&new, headers / 4, &mut list.random));
            }
        }
        agree(&name, &next, &keys);
        if step % 10 == 0 {
            masks_suffice(&name, &next);
        }
        tables = next;
    }
    tally
}

#[test]
fn changed_lists_of_every_kind_are_looked_up_as_a_scan_would() {
    for seed in 0..6 {
        let rules = generated(180 + 60 * seed as u32, &mut Random::new(seed));
        let mut list = List::new(&rules, Vec::new(), seed);
        let name = format!("seed {seed}");
        let tally = change(&name, &mut list, 100, 60);
        assert!(tally.patched > 50, "{name}: {:?}", tally.rebuilt);
    }
}

#[test]
fn changed_rule_sets_are_looked_up_as_a_scan_would() {
    for (name, rules) in classbench_sets(|name| name.ends_with("_1k")) {
        // Rules of the set's own kind, some of them in the list already.
        let from = rules.iter().map(|rule| rule.matches.clone()).collect();
        let mut list = List::new(&rules, from, 5);
        let tally = change(&name, &mut list, 30, 60);
        assert!(tally.patched > 15, "{name}: {:?}", tally.rebuilt);
    }
}

#[test]
fn rules_of_another_kind_are_looked_up_as_a_scan_would() {
    let sets = classbench_sets(|name| name.ends_with("fw1_10k") || name.ends_with("ipc1_1k"));
    if let [(_, one), (_, other)] = &sets[..] {
        for (rules, from) in [(one, other), (other, one)] {
            let from = from.iter().map(|rule| rule.matches.clone()).collect();
            let mut list = List::new(rules, from, 6);
            let tally = change("mixed sets", &mut list, 6, 40);
            assert!(tally.patched > 1, "{:?}", tally.rebuilt);
        }
    }
}

#[test]
fn the_whole_of_a_tiny_universe_is_judged_as_a_scan_would_after_changes() {
    let keys = tiny_universe();
    let mut random = Random::new(4);
    let mut tiny = || {
        let length = 28 + random.below(5);
        let net = format!("10.0.0.{}/{length}", random.below(16));
        let first = 80 + random.below(16) as u16;
        let mask = random.below(16) as u8;
        Match {
            src: (random.below(3) != 0).then(|| net.parse().expect("a prefix")),
            protocol: Some(6),
            dst_ports: vec![first..=first + random.below(16) as u16],
            tcp_flags: (mask != 0).then_some(FlagsMatch {
                set: random.below(16) as u8 & mask,
                mask,
            }),
            ..Match::default()
        }
    };
    let from: Vec<Match> = (0..200).map(|_| tiny()).collect();
    let first: Vec<Rule> = (1..8)
        .map(|id| rule(id, Action::Allow, from[id as usize].clone()))
        .collect();
    let mut list = List::new(&first, from, 8);
    let mut tables = Classifier::compile_as(first.into(), Method::TupleMerge);
    for step in 0..16 {
        while list.rules.len() < 4 {
            let more = list.rule();
            list.insert(list.rules.len(), more);
        }
        (tables, _) = tables.updated(list.step());
        assert_eq!(tables.method(), Method::TupleMerge);
        agree(&format!("step {step}"), &tables, &keys);
        assert_eq!(unsound(&tables, &keys, |_| {}), None, "step {step}");
    }
}

#[test]
fn keys_equal_under_a_mask_are_judged_alike_after_changes() {
    for seed in 20..24 {
        let rules = generated(120, &mut Random::new(seed));
        let mut list = List::new(&rules, Vec::new(), seed);
        let mut tables = Classifier::compile(rules.into());
        for step in 0..40 {
            (tables, _) = tables.updated(list.step());
            if step % 10 == 9 {
                let keys = headers_of(&list.rules, 1500);
                assert_eq!(unsound(&tables, &keys, |_| {}), None);
            }
        }
    }
}

#[test]
fn a_mask_that_lost_what_an_update_brought_is_caught() {
    let mut rules: Vec<Rule> = generated(400, &mut Random::new(20)).to_vec();
    rules.retain(|rule| rule.matches.tcp_flags.is_none() && rule.matches.fragment.is_none());
    let tables = Classifier::compile(rules.clone().into());
    assert_eq!(traced(&tables, Class::Ipv4Tcp).get(Field::TCP_FLAGS), 0);
    let syn = Match {
        protocol: Some(6),
        tcp_flags: Some(FlagsMatch { set: 2, mask: 2 }),
        ..Match::default()
    };
    rules.insert(0, rule(5000, Action::Deny, syn));
    let (tables, update) = tables.updated(rules.clone().into());
    assert!(matches!(&update, Update::Patched { inserted, .. } if inserted == &[0]));
    let keys = headers_of(&rules, 3000);
    assert_eq!(unsound(&tables, &keys, |_| {}), None);
    let caught = unsound(&tables, &keys, |mask| mask.set(Field::TCP_FLAGS, 0));
    assert!(caught.is_some());
}

#[test]
fn hostile_headers_stay_below_the_bound_after_many_changes() {
    let rules = generated(1000, &mut Random::new(2));
    let mut list = List::new(&rules, Vec::new(), 3);
    let mut tables = Classifier::compile(rules.into());
    let first = tables.bound();
    let mut rebuilt = 0;
    for _ in 0..300 {
        let update;
        (tables, update) = tables.updated(list.step());
        rebuilt += usize::from(matches!(update, Update::Rebuilt(_)));
    }
    let (bound, most) = (tables.bound(), costliest(&list.rules, &tables, 20_000));
    within("changed", most, bound);
    assert!(rebuilt < 60, "{rebuilt} of 300 rebuilt");
    assert!(bound.compares < 2 * first.compares, "{bound:?} {first:?}");
}

#[test]
fn a_list_renewed_when_worn_stays_near_one_compiled_whole() {
    let mut lists = vec![(generated(1000, &mut Random::new(7)), 400)];
    let set = classbench_sets(|name| name.ends_with("fw1_1k")).pop();
    lists.extend(set.map(|(_, rules)| (rules, 200)));
    for (rules, steps) in lists {
        let mut list = List::new(&rules, Vec::new(), 7);
        let mut tables = Classifier::compile(rules.into());
        let (mut since, mut renewals) = (0, 0);
        for _ in 0..steps {
            let (next, update) = tables.updated(list.step());
            tables = next;
            since += 1;
            if let Update::Rebuilt(_) = update {
                since = 0;
                assert!(!tables.is_worn());
            }
            if tables.is_worn() {
                let renewed = tables.renewed();
                assert!(!renewed.is_worn() && renewed.rules().is(tables.rules()));
                tables = renewed;
                (since, renewals) = (0, renewals + 1);
            }
            assert!(since <= 64 + list.rules.len() / 256);
        }
        assert!(renewals > 2, "{renewals}");
        let keys = headers_of(&list.rules, 3000);
        agree("renewed", &tables, &keys);
        let cost = |tables: &Classifier| {
            let costs = keys.iter().map(|key| tables.cost(key));
            costs.map(|cost| cost.probes + cost.compares).sum::<usize>()
        };
        let (patched, fresh) = (cost(&tables), cost(&tables.renewed()));
        assert!(patched * 2 <= fresh * 3, "{patched} {fresh}");
    }
}

/// Rules for hosts, told apart by their addresses.
fn hosts(count: u32) -> Vec<Rule> {
    (0..count).map(host).collect()
}

fn host(number: u32) -> Rule {
    let address = std::net::Ipv4Addr::from(0x0a00_0000 | number.wrapping_mul(2_654_435_761) >> 8);
    let matches = Match {
        dst: format!("{address}/32").parse().ok(),
        protocol: Some([6, 17][number as usize % 2]),
        dst_ports: vec![[22..=22, 1024..=2000, 80..=90][number as usize % 3].clone()],
        ..Match::default()
    };
    rule(number + 1, Action::Allow, matches)
}

#[test]
fn a_rule_put_in_again_and_again_at_one_place_stands_where_it_was_put() {
    let mut rules = hosts(500);
    let mut tables = Classifier::compile(rules.clone().into());
    let mut renumbered = 0;
    for number in 500..700 {
        rules.insert(250, host(number));
        let update;
        (tables, update) = tables.updated(rules.clone().into());
        match update {
            Update::Patched {
                inserted,
                renumbered: times,
            } => {
                assert_eq!(inserted, [250]);
                renumbered += times;
            }
            Update::Rebuilt(why) => assert!(matches!(why, Rebuild::Space | Rebuild::Bound)),
        }
        if number % 4 == 0 {
            agree("one place", &tables, &headers_of(&rules, 100));
        }
    }
    assert!((1..20).contains(&renumbered), "{renumbered}");
}

#[test]
fn a_rule_of_ten_thousand_costs_a_few_pages() {
    let rules = hosts(10_000);
    let tables = Classifier::compile(rules.clone().into());
    let mut random = Random::new(1);
    for number in 0..40 {
        let mut rules = rules.clone();
        let place = random.below(10_000) as usize;
        match number % 3 {
            0 => rules.insert(place, host(20_000 + number)),
            1 => drop(rules.remove(place)),
            _ => rules[place] = host(20_000 + number),
        }
        let (next, update) = tables.updated(rules.into());
        assert!(matches!(update, Update::Patched { .. }), "{update:?}");
        let (own, all) = (next.heap_bytes_beside(&tables), next.heap_bytes());
        assert!(own * 8 < all, "{own} of {all} bytes are the version's own");
    }
}

#[test]
fn what_does_not_pay_is_compiled_whole() {
    let rules = hosts(1000);
    let tables = Classifier::compile(rules.clone().into());
    let why = |rules: &[Rule]| match tables.updated(rules.into()).1 {
        Update::Patched { .. } => None,
        Update::Rebuilt(why) => Some(why),
    };
    assert_eq!(why(&rules[..LINEAR_MOST]), Some(Rebuild::Short));
    assert_eq!(why(&rules[500..]), Some(Rebuild::Changes));
    let (same, update) = tables.updated(rules.clone().into());
    let nothing = Update::Patched {
        inserted: vec![],
        renumbered: 0,
    };
    assert_eq!(update, nothing);
    agree("the same", &same, &headers_of(&rules, 500));
    let short = Classifier::compile(rules[..50].into());
    let (_, update) = short.updated(rules[..51].into());
    assert_eq!(update, Update::Rebuilt(Rebuild::Short));
}

#[test]
fn a_rule_s_action_and_number_change_with_it() {
    let mut rules = hosts(200);
    let tables = Classifier::compile(rules.clone().into());
    let key = headers_of(&rules[70..71], 1)[0];
    assert_eq!(verdict(&tables, &key), Some((Action::Allow, RuleId(71))));
    rules[70].action = Action::Deny;
    let (denied, _) = tables.updated(rules.clone().into());
    assert_eq!(verdict(&denied, &key), Some((Action::Deny, RuleId(71))));
    rules[70].id = RuleId(9000);
    let (numbered, _) = denied.updated(rules.into());
    assert_eq!(verdict(&numbered, &key), Some((Action::Deny, RuleId(9000))));
    assert_eq!(verdict(&tables, &key), Some((Action::Allow, RuleId(71))));
}

/// A version and how a scan of its list decides the headers.
struct Version {
    tables: Classifier,
    verdicts: Vec<Option<(Action, RuleId)>>,
}

impl Version {
    fn new(tables: Classifier, keys: &[FlowKey]) -> Self {
        let linear = Classifier::compile_as(tables.rules().clone(), Method::Linear);
        let verdicts = keys.iter().map(|key| verdict(&linear, key)).collect();
        Self { tables, verdicts }
    }
}

#[test]
fn readers_see_one_version_or_another_but_no_mixture() {
    let rules = generated(300, &mut Random::new(9));
    let keys = headers_of(&rules, 200);
    let first = Version::new(Classifier::compile(rules.clone().into()), &keys);
    let current = RwLock::new(Arc::new(first));
    let (ended, begun) = (AtomicBool::new(false), Barrier::new(3));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                begun.wait();
                let mut last = false;
                while !last {
                    last = ended.load(Ordering::Acquire);
                    let version = current.read().expect("no panic elsewhere").clone();
                    for (key, expected) in keys.iter().zip(&version.verdicts) {
                        assert_eq!(verdict(&version.tables, key), *expected);
                    }
                }
            });
        }
        let mut list = List::new(&rules, Vec::new(), 9);
        begun.wait();
        for _ in 0..150 {
            let now = current.read().expect("no panic elsewhere").clone();
            let (tables, _) = now.tables.updated(list.step());
            let next = Arc::new(Version::new(tables, &keys));
            *current.write().expect("no panic elsewhere") = next;
        }
        ended.store(true, Ordering::Release);
    });
}

#[test]
fn an_old_version_decides_as_before() {
    let rules = generated(300, &mut Random::new(12));
    let keys = headers_of(&rules, 300);
    let mut list = List::new(&rules, Vec::new(), 12);
    let mut versions = vec![Version::new(Classifier::compile(rules.into()), &keys)];
    for _ in 0..40 {
        let last = &versions[versions.len() - 1];
        let (tables, _) = last.tables.updated(list.step());
        versions.push(Version::new(tables, &keys));
    }
    versions.remove(20);
    for version in &versions {
        for (key, expected) in keys.iter().zip(&version.verdicts) {
            assert_eq!(verdict(&version.tables, key), *expected);
        }
    }
}
