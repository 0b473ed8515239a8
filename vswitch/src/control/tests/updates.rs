//! One configuration after another: what it shares with the one before is what it says, and nothing
//! else is looked at.

use std::{collections::HashMap, ops::Range};

use policy::{
    PortId, RuleId,
    rule::{Direction, Rule},
};

use super::{
    Control, Shared, origin,
    rules::{applied, two},
};

/// A configuration in the making.
#[derive(Clone)]
struct Draft {
    /// Lines above all others.
    above: usize,
    own: Vec<String>,
    group: Vec<String>,
    office: Vec<u8>,
    member: bool,
}

impl Draft {
    fn new(rules: usize) -> Self {
        Self {
            above: 0,
            own: (0..rules).map(Self::rule).collect(),
            group: (0..80)
                .map(|n| format!("deny in tcp to any port {n}"))
                .collect(),
            office: vec![1, 4],
            member: true,
        }
    }

    /// A rule that no other number stands for.
    fn rule(number: usize) -> String {
        let (a, b) = (number / 250 % 250, number % 250);
        match number % 50 {
            7 => format!(
                "allow in udp from @office to 10.{a}.{b}.0/24 port {}",
                1 + number / 62_500
            ),
            11 => format!("deny out from 10.{a}.{b}.1"),
            13 => format!("deny from 10.{a}.{b}.2 priority {}", 900 + number % 7 * 50),
            _ => format!("deny to 10.{a}.{b}.3"),
        }
    }

    fn toml(&self) -> String {
        let list = |rules: &[String]| {
            let lines = rules.iter().map(|rule| format!("  \"{rule}\",\n"));
            lines.collect::<String>()
        };
        let office = self.office.iter().map(|n| format!("\"192.0.2.{n}\""));
        let office: Vec<String> = office.collect();
        let rest = format!(
            "[[acl]]\nname = \"own\"\nrules = [\n{}]\n[[address_set]]\nname = \"office\"\naddresses = [{}]\n[[group]]\nname = \"web\"\nrules = [\n{}]\n",
            list(&self.own),
            office.join(", "),
            list(&self.group),
        );
        let own = "inbound = { acl = \"own\" }\noutbound = { acl = \"own\" }";
        let member = if self.member {
            "groups = [\"web\"]"
        } else {
            ""
        };
        "#\n".repeat(self.above) + &two(&format!("{own}\n{member}"), own, &rest)
    }

    fn change(&mut self, choice: usize, at: usize, fresh: usize) {
        let place = at % self.own.len();
        match choice {
            0 => self.own.insert(place, Self::rule(fresh)),
            1 => drop(self.own.remove(place)),
            2 => self.own[place] = Self::rule(fresh),
            3 => self.own.insert(0, Self::rule(fresh)),
            4 => {
                let moved = self.own.remove(place);
                self.own.push(moved);
            }
            5 => self.above = at % 5,
            6 => self.office = vec![1, (at % 200) as u8 + 2],
            7 => self.member = !self.member,
            8 => {
                let other = at / 7 % self.own.len();
                self.own.swap(place, other);
            }
            9 => {
                let place = at % self.group.len();
                self.group.remove(place);
            }
            _ => self.group.insert(
                at % self.group.len(),
                format!("deny in tcp to any port {}", 1000 + fresh),
            ),
        }
    }
}

/// Every rule of a vNIC's lists, with where it stands.
fn told(world: &Shared, numbers: &mut HashMap<String, RuleId>) -> Vec<String> {
    let world = world.lock();
    let snapshot = world.snapshot.as_ref().expect("published");
    let mut all = Vec::new();
    for (port, direction) in [(0, Direction::In), (0, Direction::Out), (1, Direction::In)] {
        let vnic = snapshot
            .port(PortId(port))
            .and_then(|port| port.vnic.as_ref());
        let classifier = vnic.expect("a vNIC").classifier(direction);
        let row = |rule: &Rule| {
            let place = snapshot.places().of(rule.id).expect("a place");
            assert!(snapshot.places().has(rule.id));
            numbers.insert(format!("{} {}", rule.origin.acl, rule.origin.text), rule.id);
            format!(
                "{place} {}/{} {rule}: {}",
                place.acl, place.position, rule.origin.text
            )
        };
        all.extend(classifier.rules().iter().map(row));
    }
    all
}

/// Every written rule, as `vswitch show rules` has them.
fn shown(control: &Control) -> Vec<String> {
    let rows = control.rules().expect("an answer");
    let row = |row: &crate::api::types::RuleHits| {
        let rule = &row.rule;
        format!(
            "{} {}/{} {}",
            rule.place, rule.acl, rule.position, rule.text
        )
    };
    rows.iter().map(row).collect()
}

fn apply(control: &Control, draft: &Draft) {
    control
        .apply(origin(&draft.toml()), false)
        .expect("applied");
}

/// Numbers that look chosen by chance, the same in every run.
fn chances(mut state: u64) -> impl FnMut(Range<usize>) -> usize {
    move |range| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        range.start + (state >> 33) as usize % range.len()
    }
}

#[test]
fn a_configuration_after_others_says_what_it_says_alone() {
    for seed in 0..2 {
        let mut chance = chances(seed);
        let mut draft = Draft::new(300);
        let (control, world) = applied(&draft.toml());
        let mut before = HashMap::new();
        told(&world, &mut before);
        for step in 0..30 {
            for change in 0..chance(1..3) {
                draft.change(chance(0..11), chance(0..100_000), 1000 + step * 4 + change);
            }
            apply(&control, &draft);
            let (mut after, mut alone) = (HashMap::new(), HashMap::new());
            let now = told(&world, &mut after);
            let (fresh, other) = applied(&draft.toml());
            assert_eq!(now, told(&other, &mut alone), "seed {seed}, step {step}");
            assert_eq!(shown(&control), shown(&fresh), "seed {seed}, step {step}");
            for (rule, number) in &after {
                let kept = before.get(rule).is_none_or(|before| before == number);
                assert!(kept, "{rule} has another number after step {step}");
            }
            before = after;
        }
    }
}

#[test]
fn a_change_looks_at_what_changed_and_not_at_thousands_of_rules() {
    let mut draft = Draft::new(3000);
    let (control, _world) = applied(&draft.toml());
    for (choice, at) in [
        (0, 1500),
        (1, 2900),
        (2, 1),
        (2, 2998),
        (3, 0),
        (5, 3),
        (9, 3),
    ] {
        draft.change(choice, at, 20_000 + choice);
        apply(&control, &draft);
        let work = control.hands.lock().work;
        let most = work.numbered.max(work.made).max(work.compiled);
        assert!(most <= 8, "change {choice} at {at}: {work:?}");
    }
    // A set's members come with the rules that name it, 60 of them, in two lists.
    let addresses = crate::api::types::SetChange {
        add: vec!["192.0.2.77".into()],
        remove: Vec::new(),
    };
    control.change_set("office", &addresses).expect("changed");
    let work = control.hands.lock().work;
    assert_eq!(work.numbered, 0);
    assert_eq!(work.made, 2 * 60 * 3, "{work:?}");
}

#[test]
fn a_change_that_is_refused_leaves_numbers_and_lists_as_they_are() {
    let mut draft = Draft::new(300);
    let (control, world) = applied(&draft.toml());
    let mut before = HashMap::new();
    let rules = told(&world, &mut before);
    let costly = {
        let mut other = draft.clone();
        other.change(0, 7, 5000);
        format!("[policy]\nmax_lookup_cost = 1\n{}", other.toml())
    };
    control
        .apply(origin(&costly), false)
        .expect_err("too costly");
    assert_eq!(told(&world, &mut HashMap::new()), rules);
    draft.change(0, 9, 6000);
    apply(&control, &draft);
    let mut after = HashMap::new();
    told(&world, &mut after);
    let new = after.keys().filter(|rule| !before.contains_key(*rule));
    assert_eq!(new.count(), 1);
    assert!(before.iter().all(|(rule, number)| after[rule] == *number));
}
