//! Numbers for names: ports, networks and rules.
//!
//! In: names of the desired state. Out: small numbers that the workers index tables with. What
//! must hold: a name keeps its number as long as it is there; a number is given again only after
//! it was released; a rule keeps its number across reloads, and even after it was gone for a
//! while, so that its count goes on.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
    sync::Arc,
};

use hashbrown::{HashMap, hash_map::Entry};
use policy::{
    NetworkId, PortId, RuleId,
    rule::{Place, Places, Runs},
};

use crate::config::{lists::Lists, types::AclRule};

/// Numbers below a limit, given out lowest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    numbers: HashMap<Arc<str>, u16>,
    free: BTreeSet<u16>,
    next: u16,
}

impl Names {
    /// The number of `name`, a new one if it has none; `None` when all 65,535 are in use.
    pub(super) fn intern(&mut self, name: &Arc<str>) -> Option<u16> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        let number = if let Some(number) = self.free.pop_first() {
            number
        } else {
            self.next = self.next.checked_add(1)?;
            self.next - 1
        };
        self.numbers.insert(Arc::clone(name), number);
        Some(number)
    }

    /// The number of `name`, if it has one.
    pub(super) fn get(&self, name: &str) -> Option<u16> {
        self.numbers.get(name).copied()
    }

    /// Forgets every name that `keep` does not want; their numbers may be given again.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.numbers.retain(|name, number| {
            let kept = keep(name);
            if !kept {
                self.free.insert(*number);
            }
            kept
        });
    }
}

/// How many rules that are gone are remembered.
const REMEMBERED_RULES: usize = 65_536;

/// What makes a rule the same rule: its list and its text. Equal ones are told apart by their
/// order.
type RuleKey = (Arc<str>, Arc<str>);

/// What was written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) place: Place,
    pub(super) text: Arc<str>,
}

/// Rule numbers.
#[derive(Debug, Default)]
pub(super) struct Rules {
    live: HashMap<Arc<str>, Numbered>,
    places: Arc<Places>,
    /// Those that are gone, the first of each key the longest.
    gone: HashMap<RuleKey, VecDeque<RuleId>>,
    gone_order: VecDeque<RuleId>,
    /// Of those that are gone.
    origins: HashMap<RuleId, Written>,
    free: Vec<RuleId>,
    next: u32,
}

/// The rules of a list with their numbers and lines.
#[derive(Debug)]
struct Numbered {
    rules: Runs<AclRule>,
    numbers: Arc<[RuleId]>,
    lines: Arc<[u32]>,
}

/// The numbers of a desired state. Nothing is given out before it is
/// [in force](Rules::put_in_force).
#[derive(Debug, Default)]
pub(super) struct Renumbered {
    live: HashMap<Arc<str>, Numbered>,
    /// All numbers, list by list.
    pub(super) numbers: Vec<RuleId>,
    /// Where the rules stand.
    pub(super) places: Arc<Places>,
    left: Vec<(RuleId, Written)>,
    back: HashMap<RuleKey, usize>,
    fresh: usize,
    /// How many rules were looked at one by one.
    pub(super) looked_at: usize,
}

impl Rules {
    /// The numbers of the rules of a desired state. Those that a list has in common with the same
    /// list before, at its beginning and its end, are not looked at one by one.
    pub(super) fn renumber(&self, file: &str, lists: &Lists<'_>) -> Renumbered {
        let mut next = Renumbered::default();
        let mut places = Places::new(file.into());
        let empty = Numbered {
            rules: Runs::default(),
            numbers: [].into(),
            lines: [].into(),
        };
        for list in lists.lists() {
            let old = self.live.get(&list.name).unwrap_or(&empty);
            let new = list.rules.rules();
            let (ahead, behind) = old.rules.common_ends(new, AclRule::same);
            let kept = old.numbers.len() - behind;
            let first = next.numbers.len();
            next.numbers.extend(&old.numbers[..ahead]);
            self.renumber_some(
                &mut next,
                &list.name,
                (old, ahead..kept),
                new.range(ahead..new.len() - behind),
            );
            next.numbers.extend(&old.numbers[kept..]);
            let lines = list.rules.heads().iter().map(|head| head.line);
            let numbered = Numbered {
                rules: new.clone(),
                numbers: next.numbers[first..].into(),
                lines: lines.collect(),
            };
            let name = Arc::clone(&list.name);
            places.add(
                name,
                Arc::clone(&numbered.numbers),
                Arc::clone(&numbered.lines),
            );
            next.live.insert(Arc::clone(&list.name), numbered);
        }
        for (name, old) in &self.live {
            if !next.live.contains_key(name) {
                let all = (0..old.numbers.len()).map(|place| self.written(name, old, place));
                next.left.extend(all.flatten());
            }
        }
        next.places = Arc::new(places);
        next
    }

    /// Numbers the rules that stand where those of a range of the old list stood.
    fn renumber_some<'r>(
        &self,
        next: &mut Renumbered,
        list: &Arc<str>,
        (old, range): (&Numbered, Range<usize>),
        rules: impl Iterator<Item = &'r AclRule>,
    ) {
        let mut known: HashMap<&str, VecDeque<usize>> = HashMap::new();
        for (place, rule) in range.clone().zip(old.rules.range(range)) {
            known.entry(&rule.text).or_default().push_back(place);
            next.looked_at += 1;
        }
        for rule in rules {
            next.looked_at += 1;
            let moved = known.get_mut(&*rule.text).and_then(VecDeque::pop_front);
            let number = match moved {
                Some(place) => old.numbers[place],
                None => self
                    .back(next, list, rule)
                    .unwrap_or_else(|| self.fresh(next)),
            };
            next.numbers.push(number);
        }
        let mut left: Vec<usize> = known.into_values().flatten().collect();
        left.sort_unstable();
        let left = left.into_iter().map(|place| self.written(list, old, place));
        next.left.extend(left.flatten());
    }

    /// The number that a rule had before it went.
    fn back(&self, next: &mut Renumbered, list: &Arc<str>, rule: &AclRule) -> Option<RuleId> {
        let key = (Arc::clone(list), Arc::clone(&rule.text));
        let gone = self.gone.get(&key)?;
        let taken = next.back.entry(key).or_default();
        let number = *gone.get(*taken)?;
        *taken += 1;
        Some(number)
    }

    fn fresh(&self, next: &mut Renumbered) -> RuleId {
        next.fresh += 1;
        match self.free.len().checked_sub(next.fresh) {
            Some(last) => self.free[last],
            None => RuleId(self.next + (next.fresh - self.free.len()) as u32 - 1),
        }
    }

    fn written(&self, list: &Arc<str>, old: &Numbered, place: usize) -> Option<(RuleId, Written)> {
        let at = Place {
            acl: Arc::clone(list),
            position: place as u32 + 1,
            file: Arc::clone(self.places.file()),
            line: *old.lines.get(place)?,
        };
        let text = Arc::clone(&old.rules.get(place)?.text);
        let written = Written { place: at, text };
        Some((*old.numbers.get(place)?, written))
    }

    /// Says that a desired state is in force, that was numbered after the one in force so far. Rules
    /// that are not among its own any more are remembered for a while.
    pub(super) fn put_in_force(&mut self, next: Renumbered) {
        for (key, count) in next.back {
            if let Some(gone) = self.gone.get_mut(&key) {
                for number in gone.drain(..count) {
                    self.origins.remove(&number);
                }
                if gone.is_empty() {
                    self.gone.remove(&key);
                }
            }
        }
        for _ in 0..next.fresh {
            if self.free.pop().is_none() {
                self.next += 1;
            }
        }
        for (number, written) in next.left {
            let key = (Arc::clone(&written.place.acl), Arc::clone(&written.text));
            self.gone.entry(key).or_default().push_back(number);
            self.gone_order.push_back(number);
            self.origins.insert(number, written);
        }
        self.live = next.live;
        self.places = next.places;
        self.forget();
    }

    fn forget(&mut self) {
        // One that came back to life may stand in the order still; it is dropped on the way.
        while self.origins.len() > REMEMBERED_RULES || self.gone_order.len() > 2 * REMEMBERED_RULES
        {
            let Some(number) = self.gone_order.pop_front() else {
                break;
            };
            let Some(written) = self.origins.remove(&number) else {
                continue;
            };
            let key = (written.place.acl, written.text);
            if let Entry::Occupied(mut gone) = self.gone.entry(key) {
                gone.get_mut().retain(|other| *other != number);
                if gone.get().is_empty() {
                    gone.remove();
                }
            }
            self.free.push(number);
        }
    }

    /// The rules of the state in force.
    pub(super) fn live(&self) -> impl Iterator<Item = RuleId> + '_ {
        self.places.numbers()
    }

    /// What was written of a rule, and where, or where it stood last.
    pub(super) fn written_of(&self, rule: RuleId) -> Option<Written> {
        let Some(place) = self.places.of(rule) else {
            return self.origins.get(&rule).cloned();
        };
        let list = self.live.get(&place.acl)?;
        let text = Arc::clone(&list.rules.get(place.position as usize - 1)?.text);
        Some(Written { place, text })
    }
}

/// The numbers of ports and networks.
#[derive(Clone, Debug, Default)]
pub(super) struct Ids {
    /// Of ports.
    pub(super) ports: Names,
    /// Of networks.
    pub(super) networks: Names,
}

impl Ids {
    /// A port's number.
    pub(super) fn port(&self, name: &str) -> Option<PortId> {
        self.ports.get(name).map(PortId)
    }

    /// A network's number.
    pub(super) fn network(&self, name: &str) -> Option<NetworkId> {
        self.networks.get(name).map(NetworkId)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::config::Config;

    /// A configuration with lists of rules, each a protocol's number, with a name of one letter.
    fn config(lists: &[(&str, &[u8])]) -> Config {
        let mut text = String::new();
        for (name, rules) in lists {
            let rules = rules.iter().map(|n| format!("\"deny protocol {n}\",\n"));
            let rules: String = rules.collect();
            let _ = write!(text, "[[acl]]\nname = \"{name}\"\nrules = [\n{rules}]\n");
        }
        let machine = crate::config::Machine {
            cores: vec![0],
            memory_bytes: 0,
        };
        crate::config::parse("a.toml", &text, &machine).expect("valid")
    }

    /// The numbers of a list of rules, put in force.
    fn numbers(rules: &mut Rules, of: &[u8]) -> Vec<u32> {
        let config = config(&[("a", of)]);
        let next = rules.renumber("a.toml", &Lists::new(&config));
        let numbers = next.numbers.iter().map(|number| number.0).collect();
        rules.put_in_force(next);
        numbers
    }

    #[test]
    fn a_name_keeps_its_number_and_a_released_one_is_given_again() {
        let mut names = Names::default();
        let (a, b, c) = ("a".into(), "b".into(), "c".into());
        assert_eq!(names.intern(&a), Some(0));
        assert_eq!(names.intern(&b), Some(1));
        names.retain(|name| name != "a");
        assert_eq!(names.intern(&b), Some(1));
        assert_eq!(names.intern(&c), Some(0));
        assert_eq!(names.get("a"), None);
    }

    #[test]
    fn numbers_run_out_without_a_panic() {
        let mut names = Names::default();
        for number in 0..u16::MAX {
            assert_eq!(names.intern(&number.to_string().into()), Some(number));
        }
        assert_eq!(names.intern(&"more".into()), None);
    }

    #[test]
    fn a_rule_keeps_its_number_wherever_it_moves() {
        let mut rules = Rules::default();
        let first = numbers(&mut rules, &[1, 2, 3]);
        let second = numbers(&mut rules, &[3, 9, 1, 2]);
        assert_eq!([second[2], second[3], second[0]], first[..]);
        assert!(!first.contains(&second[1]));
        numbers(&mut rules, &[]);
        assert_eq!(
            numbers(&mut rules, &[1, 2, 3]),
            first,
            "remembered while gone"
        );
    }

    #[test]
    fn equal_rules_are_told_apart_by_their_order() {
        let mut rules = Rules::default();
        let ids = numbers(&mut rules, &[7, 7, 7]);
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
        assert_eq!(numbers(&mut rules, &[7, 7, 7]), ids);
        let fewer = numbers(&mut rules, &[7, 8]);
        let all = numbers(&mut rules, &[8, 7, 7, 7]);
        assert_eq!(all[0], fewer[1]);
        let (mut before, mut after) = (ids.clone(), all[1..].to_vec());
        before.sort_unstable();
        after.sort_unstable();
        assert_eq!(after, before);
    }

    #[test]
    fn what_is_not_put_in_force_gives_no_number_out() {
        let mut rules = Rules::default();
        numbers(&mut rules, &[1, 2, 3]);
        let dropped = config(&[("a", &[1, 7, 3]), ("b", &[5])]);
        rules.renumber("a.toml", &Lists::new(&dropped));
        assert_eq!(numbers(&mut rules, &[1, 8, 3]), [0, 3, 2]);
    }

    #[test]
    fn rules_that_stay_are_not_looked_at() {
        let mut rules = Rules::default();
        let many: Vec<u8> = (0..=250).collect();
        numbers(&mut rules, &many);
        let mut other = many.clone();
        other[99] = 251;
        other.remove(101);
        let config = config(&[("a", &other)]);
        let next = rules.renumber("a.toml", &Lists::new(&config));
        assert!(next.looked_at <= 6, "{}", next.looked_at);
    }

    #[test]
    fn a_rule_is_known_by_its_number_and_after_it_is_gone_by_its_last_place() {
        let mut rules = Rules::default();
        numbers(&mut rules, &[1, 2, 3]);
        let told = |rules: &Rules, number| {
            let written = rules.written_of(RuleId(number)).expect("known");
            format!(
                "{} {} {}",
                written.place, written.place.position, written.text
            )
        };
        assert_eq!(told(&rules, 2), "a.toml:6 3 deny protocol 3");
        numbers(&mut rules, &[9, 1, 3]);
        assert_eq!(told(&rules, 0), "a.toml:5 2 deny icmp");
        assert_eq!(told(&rules, 1), "a.toml:5 2 deny igmp", "gone");
        assert_eq!(rules.written_of(RuleId(77)), None);
    }

    #[test]
    fn memory_of_gone_rules_is_bounded() {
        let mut rules = Rules::default();
        let place = |acl: &str| Place {
            acl: acl.into(),
            position: 1,
            file: "".into(),
            line: 1,
        };
        for generation in 0..4_u32 {
            let many = 0..=REMEMBERED_RULES as u32 / 2;
            let left = many.clone().map(|n| {
                let text = format!("{generation} {n}").into();
                (
                    RuleId(generation * 40_000 + n),
                    Written {
                        place: place("a"),
                        text,
                    },
                )
            });
            rules.put_in_force(Renumbered {
                left: left.collect(),
                ..Renumbered::default()
            });
        }
        assert!(rules.gone.len() <= REMEMBERED_RULES);
        assert!(rules.origins.len() <= REMEMBERED_RULES);
        assert!(rules.free.len() > REMEMBERED_RULES / 2);
    }
}
