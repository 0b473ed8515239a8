//! Where the rules of a state were written.
//!
//! In: the numbers and lines of each list of a configuration. Out: a rule's place, by number. What
//! must hold: making it costs no more than a few words a rule. Rules stay what they are when one is
//! put in before them, but their places do not: so these stand apart, and are looked up by number
//! only once somebody asks.

use std::{fmt, sync::Arc, sync::OnceLock};

use hashbrown::HashMap;

use crate::RuleId;

/// The places of all rules of a configuration.
#[derive(Debug, Default)]
pub struct Places {
    file: Arc<str>,
    lists: Vec<List>,
    /// A bit for each number that is a rule's.
    present: Vec<u64>,
    /// For each number its list, and its place there.
    by_number: OnceLock<HashMap<RuleId, (u32, u32)>>,
}

#[derive(Debug)]
struct List {
    name: Arc<str>,
    numbers: Arc<[RuleId]>,
    lines: Arc<[u32]>,
}

/// Where a rule stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The ACL it belongs to, or `group:` and the name of its group.
    pub acl: Arc<str>,
    /// Its place there, from 1.
    pub position: u32,
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
}

/// As in `acls.toml:12`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl Places {
    /// Of no list yet.
    pub fn new(file: Arc<str>) -> Self {
        Self {
            file,
            ..Self::default()
        }
    }

    /// Takes a list in: the number of each of its rules, and the line.
    pub fn add(&mut self, name: Arc<str>, numbers: Arc<[RuleId]>, lines: Arc<[u32]>) {
        for number in &*numbers {
            let word = number.0 as usize / 64;
            if word >= self.present.len() {
                self.present.resize(word + 1, 0);
            }
            self.present[word] |= 1 << (number.0 % 64);
        }
        self.lists.push(List {
            name,
            numbers,
            lines,
        });
    }

    /// The file's name.
    pub fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// Whether there is a rule of this number. Allocates nothing.
    pub fn has(&self, rule: RuleId) -> bool {
        let word = self.present.get(rule.0 as usize / 64);
        word.is_some_and(|word| word & 1 << (rule.0 % 64) != 0)
    }

    /// All numbers, list by list.
    pub fn numbers(&self) -> impl Iterator<Item = RuleId> {
        self.lists
            .iter()
            .flat_map(|list| list.numbers.iter().copied())
    }

    /// Where a rule stands. The first that is asked for makes the index of all.
    pub fn of(&self, rule: RuleId) -> Option<Place> {
        let by_number = self.by_number.get_or_init(|| self.index());
        let (list, place) = by_number.get(&rule)?;
        let list = &self.lists[*list as usize];
        Some(Place {
            acl: Arc::clone(&list.name),
            position: place + 1,
            file: Arc::clone(&self.file),
            line: list.lines.get(*place as usize).copied().unwrap_or(0),
        })
    }

    fn index(&self) -> HashMap<RuleId, (u32, u32)> {
        let lists = (0..).zip(&self.lists);
        let all = lists.flat_map(|(number, list)| {
            let places = (0..).zip(list.numbers.iter());
            places.map(move |(place, rule)| (*rule, (number, place)))
        });
        all.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_found_by_its_number() {
        let mut places = Places::new("a.toml".into());
        let numbers = |of: &[u32]| of.iter().map(|n| RuleId(*n)).collect::<Arc<[_]>>();
        places.add("web".into(), numbers(&[7, 64]), [3, 9].into());
        places.add("group:db".into(), numbers(&[0]), [12].into());
        let place = places.of(RuleId(64)).expect("there");
        assert_eq!((&*place.acl, place.position), ("web", 2));
        assert_eq!(place.to_string(), "a.toml:9");
        assert_eq!(
            places.of(RuleId(0)).expect("there").to_string(),
            "a.toml:12"
        );
        let has = (0..200).filter(|n| places.has(RuleId(*n)));
        assert_eq!(has.collect::<Vec<_>>(), [0, 7, 64]);
        assert_eq!(places.of(RuleId(1)), None);
    }
}
