//! Ordered lists of rules whose versions share what is the same in both.
//!
//! In come rules, then changes of some of them; out go versions of the list. What must hold: a
//! change copies no more than some rules around it, and rules that two versions share are the same
//! in memory, so that what differs is found without reading the rest.

use std::{ops::Range, ptr, sync::Arc};

use super::Rule;

/// An ordered list of rules. A clone shares them.
#[derive(Clone, Debug)]
pub struct RuleList {
    /// None is empty.
    pieces: Arc<Vec<Piece>>,
    len: usize,
}

/// Rules that follow each other, and lie in memory so.
#[derive(Clone, Debug)]
struct Piece {
    /// The place of its first rule in the list.
    first: usize,
    rules: Arc<[Rule]>,
    range: Range<usize>,
}

/// Pieces of fewer rules are joined where a change is made.
const SMALL: usize = 32;

impl Piece {
    fn rules(&self) -> &[Rule] {
        &self.rules[self.range.clone()]
    }
}

impl Default for RuleList {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl From<Arc<[Rule]>> for RuleList {
    fn from(rules: Arc<[Rule]>) -> Self {
        let len = rules.len();
        let range = 0..len;
        let whole = (len > 0).then_some(Piece {
            first: 0,
            rules,
            range,
        });
        Self {
            pieces: Arc::new(whole.into_iter().collect()),
            len,
        }
    }
}

impl From<Vec<Rule>> for RuleList {
    fn from(rules: Vec<Rule>) -> Self {
        Self::from(Arc::<[Rule]>::from(rules))
    }
}

impl<const N: usize> From<[Rule; N]> for RuleList {
    fn from(rules: [Rule; N]) -> Self {
        Self::from(Arc::<[Rule]>::from(rules))
    }
}

impl From<&[Rule]> for RuleList {
    fn from(rules: &[Rule]) -> Self {
        Self::from(Arc::<[Rule]>::from(rules))
    }
}

impl FromIterator<Rule> for RuleList {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Self {
        Self::from(rules.into_iter().collect::<Arc<[Rule]>>())
    }
}

impl RuleList {
    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The rule at a place, from 0.
    pub fn get(&self, place: usize) -> Option<&Rule> {
        self.run(place).first()
    }

    /// The rules from `place` on that lie in memory one behind the other; none behind the end.
    pub(crate) fn run(&self, place: usize) -> &[Rule] {
        match self.pieces.get(self.piece(place)) {
            Some(piece) => &piece.rules()[place - piece.first..],
            None => &[],
        }
    }

    /// All rules, from the first.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> + Clone {
        self.pieces.iter().flat_map(Piece::rules)
    }

    /// Whether both are the same in memory.
    pub fn is(&self, other: &Self) -> bool {
        ptr::eq(self.identity(), other.identity())
    }

    /// What clones have in common and other lists have not.
    pub(crate) fn identity(&self) -> *const () {
        Arc::as_ptr(&self.pieces).cast()
    }

    /// Puts a rule in before the one at `place`, which is not behind the end.
    pub fn insert(&mut self, place: usize, rule: Rule) {
        self.splice(place..place, Some(rule));
    }

    /// Takes the rule at `place` out, if there is one.
    pub fn remove(&mut self, place: usize) {
        self.splice(place..place + 1, None);
    }

    /// Puts a rule in for the one at `place`.
    pub fn replace(&mut self, place: usize, rule: Rule) {
        self.splice(place..place + 1, Some(rule));
    }

    /// The number of the piece that holds a place; that of none behind the end.
    fn piece(&self, place: usize) -> usize {
        if place >= self.len {
            return self.pieces.len();
        }
        let begun = self.pieces.partition_point(|piece| piece.first <= place);
        begun.saturating_sub(1)
    }

    /// Puts a rule in for those of the range, with the small pieces around it.
    fn splice(&mut self, range: Range<usize>, rule: Option<Rule>) {
        let (start, end) = (range.start.min(self.len), range.end.min(self.len));
        // From the piece before to the one behind: those that the change parts among them.
        let first = self.piece(start).saturating_sub(1);
        let last = (self.piece(end) + 2).min(self.pieces.len());
        let mut parts: Vec<(Arc<[Rule]>, Range<usize>)> = Vec::new();
        let mut rule = rule.map(|rule| (Arc::from([rule]), 0..1));
        for piece in &self.pieces[first..last] {
            let (from, to) = (piece.first, piece.first + piece.range.len());
            let (before, behind) = (start.clamp(from, to), end.clamp(from, to));
            let offset = |place: usize| piece.range.start + place - from;
            parts.push((piece.rules.clone(), piece.range.start..offset(before)));
            if start < to {
                parts.extend(rule.take());
            }
            parts.push((piece.rules.clone(), offset(behind)..piece.range.end));
        }
        parts.extend(rule);
        parts.retain(|(_, range)| !range.is_empty());

        let joined = parts.chunk_by(|a, b| a.1.len() < SMALL && b.1.len() < SMALL);
        let joined = joined.map(|parts| match parts {
            [(rules, range)] => (rules.clone(), range.clone()),
            parts => {
                let all = parts
                    .iter()
                    .flat_map(|(rules, range)| &rules[range.clone()]);
                let all: Arc<[Rule]> = all.cloned().collect();
                let range = 0..all.len();
                (all, range)
            }
        });
        let joined: Vec<Piece> = joined
            .map(|(rules, range)| Piece {
                first: 0,
                rules,
                range,
            })
            .collect();
        let pieces = Arc::make_mut(&mut self.pieces);
        pieces.splice(first..last, joined);
        let mut next = pieces[..first]
            .last()
            .map_or(0, |piece| piece.first + piece.range.len());
        for piece in &mut pieces[first..] {
            piece.first = next;
            next += piece.range.len();
        }
        self.len = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        RuleId,
        model::Action,
        rule::{Match, Origin},
    };

    fn rule(id: u32) -> Rule {
        Rule {
            id: RuleId(id),
            action: Action::Allow,
            log: false,
            limit: None,
            matches: Match::default(),
            origin: Arc::new(Origin {
                acl: "".into(),
                position: 1,
                place: "".into(),
                text: "".into(),
            }),
        }
    }

    #[test]
    fn a_list_holds_what_a_plain_one_would_and_versions_do_not_disturb_each_other() {
        for count in [0, 1, 31, 300] {
            let mut plain: Vec<Rule> = (0..count).map(rule).collect();
            let mut list = RuleList::from(plain.clone());
            let mut state = 7_u64;
            for number in 0..600 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let place = (state >> 33) as usize % (plain.len() + 1);
                let (old, was) = (list.clone(), plain.clone());
                match state >> 62 {
                    0 | 1 => {
                        list.insert(place, rule(1000 + number));
                        plain.insert(place, rule(1000 + number));
                    }
                    _ if place == plain.len() => list.remove(place),
                    2 => {
                        list.remove(place);
                        plain.remove(place);
                    }
                    _ => {
                        list.replace(place, rule(1000 + number));
                        plain[place] = rule(1000 + number);
                    }
                }
                assert_eq!(list.len(), plain.len());
                assert!(list.iter().eq(&plain));
                assert!(old.iter().eq(&was));
                assert!(
                    plain
                        .iter()
                        .enumerate()
                        .all(|(n, rule)| list.get(n) == Some(rule))
                );
                assert_eq!(list.get(plain.len()), None);
            }
        }
    }

    #[test]
    fn versions_share_all_but_some_rules_around_the_change() {
        let mut list: RuleList = (0..10_000).map(rule).collect();
        for number in 0..2000 {
            let old = list.clone();
            let place = (number * 7919) % 10_000;
            list.replace(place, rule(20_000 + number as u32));
            let own = (0..10_000).filter(|&n| {
                let same = |list: &RuleList| list.run(n).as_ptr();
                same(&list) != same(&old)
            });
            assert!(own.count() <= 4 * SMALL);
        }
        assert!(list.pieces.len() < 2 * 10_000 / SMALL + 2);
    }
}
