//! Ordered lists whose versions share what is the same in both.
//!
//! In come rules, then changes of some of them; out go versions of the list. What must hold: a
//! change copies no more than some rules around it, and rules that two versions share are the same
//! in memory, so that what differs is found without reading the rest.

use std::{fmt, ops::Range, ptr, sync::Arc};

use super::Rule;

/// An ordered list, of rules or of what stands for them. A clone shares them.
pub struct Runs<T> {
    /// None is empty.
    pieces: Arc<Vec<Piece<T>>>,
    len: usize,
}

/// An ordered list of rules.
pub type RuleList = Runs<Rule>;

/// Items that follow each other, and lie in memory so.
struct Piece<T> {
    /// The place of its first item in the list.
    first: usize,
    items: Arc<[T]>,
    range: Range<usize>,
}

/// Pieces of fewer items are joined where a change is made.
const SMALL: usize = 32;

impl<T> Piece<T> {
    fn items(&self) -> &[T] {
        &self.items[self.range.clone()]
    }
}

impl<T> Clone for Piece<T> {
    fn clone(&self) -> Self {
        Self {
            first: self.first,
            items: Arc::clone(&self.items),
            range: self.range.clone(),
        }
    }
}

/// Its items, wherever they lie.
impl<T: fmt::Debug> fmt::Debug for Runs<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T> Clone for Runs<T> {
    fn clone(&self) -> Self {
        Self {
            pieces: Arc::clone(&self.pieces),
            len: self.len,
        }
    }
}

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl<T> From<Arc<[T]>> for Runs<T> {
    fn from(items: Arc<[T]>) -> Self {
        let len = items.len();
        let range = 0..len;
        let whole = (len > 0).then_some(Piece {
            first: 0,
            items,
            range,
        });
        Self {
            pieces: Arc::new(whole.into_iter().collect()),
            len,
        }
    }
}

impl<T> From<Vec<T>> for Runs<T> {
    fn from(items: Vec<T>) -> Self {
        Self::from(Arc::<[T]>::from(items))
    }
}

impl<T, const N: usize> From<[T; N]> for Runs<T> {
    fn from(items: [T; N]) -> Self {
        Self::from(Arc::<[T]>::from(items))
    }
}

impl<T: Clone> From<&[T]> for Runs<T> {
    fn from(items: &[T]) -> Self {
        Self::from(Arc::<[T]>::from(items))
    }
}

impl<T> FromIterator<T> for Runs<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::from(items.into_iter().collect::<Arc<[T]>>())
    }
}

impl<T> Runs<T> {
    /// How many items there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The item at a place, from 0.
    pub fn get(&self, place: usize) -> Option<&T> {
        self.run(place).first()
    }

    /// The items from `place` on that lie in memory one behind the other; none behind the end.
    pub(crate) fn run(&self, place: usize) -> &[T] {
        match self.pieces.get(self.piece(place)) {
            Some(piece) => &piece.items()[place - piece.first..],
            None => &[],
        }
    }

    /// The items before `place` that lie in memory one behind the other; none at the beginning.
    fn run_before(&self, place: usize) -> &[T] {
        let last = place.checked_sub(1).map(|last| self.piece(last));
        match last.and_then(|last| self.pieces.get(last)) {
            Some(piece) => &piece.items()[..place - piece.first],
            None => &[],
        }
    }

    /// All items, from the first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + Clone {
        self.pieces.iter().flat_map(Piece::items)
    }

    /// Those of a range of places, cut off at the end.
    pub fn range(&self, range: Range<usize>) -> impl Iterator<Item = &T> {
        let mut place = range.start;
        let runs = std::iter::from_fn(move || {
            let run = self.run(place);
            let run = &run[..run.len().min(range.end.saturating_sub(place))];
            place += run.len();
            (!run.is_empty()).then_some(run)
        });
        runs.flatten()
    }

    /// Whether both are the same in memory.
    pub fn is(&self, other: &Self) -> bool {
        ptr::eq(self.identity(), other.identity())
    }

    /// What clones have in common and other lists have not.
    pub(crate) fn identity(&self) -> *const () {
        Arc::as_ptr(&self.pieces).cast()
    }

    /// The addresses at which its items lie: what versions have in common and other lists that are
    /// there have not.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = usize> {
        let pieces = self.pieces.iter();
        pieces.map(|piece| Arc::as_ptr(&piece.items).addr())
    }

    /// How many items both lists have in common at their beginnings, and how many of the rest at
    /// their ends. What they share in memory is not asked about.
    pub fn common_ends(&self, other: &Self, same: impl Fn(&T, &T) -> bool) -> (usize, usize) {
        let alike = |pair: &(&T, &T)| same(pair.0, pair.1);
        let mut ahead = 0;
        loop {
            let (old, new) = (self.run(ahead), other.run(ahead));
            let most = old.len().min(new.len());
            let common = if ptr::eq(old.as_ptr(), new.as_ptr()) {
                most
            } else {
                old.iter().zip(new).take_while(alike).count()
            };
            ahead += common;
            if common < most || most == 0 {
                break;
            }
        }
        let rest = self.len.min(other.len) - ahead;
        let mut behind = 0;
        while behind < rest {
            let old = self.run_before(self.len - behind);
            let new = other.run_before(other.len - behind);
            let most = old.len().min(new.len()).min(rest - behind);
            let common = if ptr::eq(old.as_ptr_range().end, new.as_ptr_range().end) {
                most
            } else {
                let pairs = old.iter().rev().zip(new.iter().rev());
                pairs.take(most).take_while(alike).count()
            };
            behind += common;
            if common < most {
                break;
            }
        }
        (ahead, behind)
    }

    /// The number of the piece that holds a place; that of none behind the end.
    fn piece(&self, place: usize) -> usize {
        if place >= self.len {
            return self.pieces.len();
        }
        let begun = self.pieces.partition_point(|piece| piece.first <= place);
        begun.saturating_sub(1)
    }
}

impl<T: Clone> Runs<T> {
    /// Puts an item in before the one at `place`, which is not behind the end.
    pub fn insert(&mut self, place: usize, item: T) {
        self.splice(place..place, vec![item]);
    }

    /// Takes the item at `place` out, if there is one.
    pub fn remove(&mut self, place: usize) {
        self.splice(place..place + 1, Vec::new());
    }

    /// Puts an item in for the one at `place`.
    pub fn replace(&mut self, place: usize, item: T) {
        self.splice(place..place + 1, vec![item]);
    }

    /// Puts items at the end.
    pub fn extend(&mut self, items: Vec<T>) {
        self.splice(self.len..self.len, items);
    }

    /// Puts items of another list at the end, and shares them.
    pub fn share(&mut self, other: &Self, range: Range<usize>) {
        let mut place = range.start;
        while place < range.end.min(other.len) {
            let piece = &other.pieces[other.piece(place)];
            let start = piece.range.start + place - piece.first;
            let end = piece.range.end.min(start + range.end - place);
            self.splice_part(self.len..self.len, (Arc::clone(&piece.items), start..end));
            place += end - start;
        }
    }

    /// Puts items in for those of the range, with the small pieces around it.
    pub fn splice(&mut self, range: Range<usize>, items: Vec<T>) {
        let whole = 0..items.len();
        self.splice_part(range, (items.into(), whole));
    }

    fn splice_part(&mut self, range: Range<usize>, part: (Arc<[T]>, Range<usize>)) {
        let (start, end) = (range.start.min(self.len), range.end.min(self.len));
        // From the piece before to the one behind: those that the change parts among them.
        let first = self.piece(start).saturating_sub(1);
        let last = (self.piece(end) + 2).min(self.pieces.len());
        let mut parts: Vec<(Arc<[T]>, Range<usize>)> = Vec::new();
        let mut part = Some(part);
        for piece in &self.pieces[first..last] {
            let (from, to) = (piece.first, piece.first + piece.range.len());
            let (before, behind) = (start.clamp(from, to), end.clamp(from, to));
            let offset = |place: usize| piece.range.start + place - from;
            parts.push((piece.items.clone(), piece.range.start..offset(before)));
            if start < to {
                parts.extend(part.take());
            }
            parts.push((piece.items.clone(), offset(behind)..piece.range.end));
        }
        parts.extend(part);
        parts.retain(|(_, range)| !range.is_empty());

        let joined = parts.chunk_by(|a, b| a.1.len() < SMALL && b.1.len() < SMALL);
        let joined = joined.map(|parts| match parts {
            [(items, range)] => (items.clone(), range.clone()),
            parts => {
                let all = parts
                    .iter()
                    .flat_map(|(items, range)| &items[range.clone()]);
                let all: Arc<[T]> = all.cloned().collect();
                let range = 0..all.len();
                (all, range)
            }
        });
        let joined: Vec<Piece<T>> = joined
            .map(|(items, range)| Piece {
                first: 0,
                items,
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
    fn what_two_lists_have_in_common_at_their_ends_is_found() {
        let whole: RuleList = (0..200).map(rule).collect();
        let apart: RuleList = (0..200).map(rule).collect();
        let ends = |old: &RuleList, new: &RuleList| old.common_ends(new, |a, b| a.id == b.id);
        for from in [&whole, &apart] {
            assert_eq!(ends(from, &whole), (200, 0));
            for place in [0, 1, 99, 198, 199] {
                let mut other = whole.clone();
                other.replace(place, rule(500));
                assert_eq!(ends(from, &other), (place, 199 - place));
                other.remove(place);
                assert_eq!(ends(from, &other), (place, 199 - place));
                other.splice(place..place, vec![rule(500), rule(501)]);
                assert_eq!(ends(from, &other), (place, 199 - place));
            }
        }
        // What is twice there is counted once.
        let equal: RuleList = (0..5).map(|_| rule(1)).collect();
        let fewer: RuleList = (0..3).map(|_| rule(1)).collect();
        assert_eq!(ends(&equal, &fewer), (3, 0));
        assert_eq!(ends(&RuleList::default(), &fewer), (0, 0));
    }

    #[test]
    fn ranges_of_other_lists_are_shared() {
        let mut from: RuleList = (0..300).map(rule).collect();
        from.replace(150, rule(900));
        for range in [0..300, 7..7, 3..149, 140..170, 299..300, 290..400] {
            let mut list: RuleList = (400..403).map(rule).collect();
            list.share(&from, range.clone());
            list.extend(vec![rule(700)]);
            let plain: Vec<&Rule> = from.range(range.clone()).collect();
            let wanted = range.start..range.end.min(300);
            assert!(
                plain
                    .iter()
                    .copied()
                    .eq(from.iter().skip(wanted.start).take(wanted.len()))
            );
            let ids: Vec<u32> = list.iter().map(|rule| rule.id.0).collect();
            let shared = plain.iter().map(|rule| rule.id.0);
            let all = (400..403).chain(shared).chain([700]);
            assert_eq!(ids, all.collect::<Vec<_>>(), "{range:?}");
        }
        let mut list = RuleList::default();
        list.share(&from, 0..120);
        assert_eq!(list.run(0).as_ptr(), from.run(0).as_ptr());
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
