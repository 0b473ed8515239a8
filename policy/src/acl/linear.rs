//! Rule lists by linear scan: what few rules are looked up by.
//!
//! The most telling comparison of each rule, the one that fewest other rules of the list make,
//! stands apart: 32 bits of one key word under a mask. Rules whose comparison reads the same bits
//! form a group, and a group is scanned in blocks that the processor compares at once.
//!
//! ```text
//!   key word half ─► block of masks and values ─► any equal? ─► the rule's other comparisons
//! ```

use std::{cmp::Reverse, collections::BTreeMap};

use hashbrown::HashMap;

use super::{
    Bound,
    cost::Count,
    matcher::{Matcher, WordTest, word_tests},
};
use crate::{RuleId, key::Field, model::Action, reader::KeyReader, rule::RuleList};

/// Rules that are compared at once: two vectors of 16 bytes, which every processor has.
const BLOCK: usize = 8;

/// The place of no rule.
const NOWHERE: u32 = u32::MAX;

/// A compiled rule list.
#[derive(Debug)]
pub(super) struct Linear {
    groups: Box<[Group]>,
    /// What each rule compares, in the rules' order.
    matchers: Box<[Matcher]>,
    /// What each rule does, and its number.
    decisions: Box<[(Action, RuleId)]>,
}

/// Rules whose most telling comparison reads the same half of a key word.
#[derive(Debug)]
struct Group {
    half: Field,
    /// In the rules' order.
    blocks: Box<[Block]>,
}

/// The most telling comparisons of some rules, in the rules' order.
#[derive(Debug)]
struct Block {
    masks: [u32; BLOCK],
    values: [u32; BLOCK],
    /// Which rules they are.
    places: [u32; BLOCK],
}

impl Block {
    /// What is missing to a whole block is a comparison that never holds.
    fn new(heads: &[(HalfTest, usize)]) -> Self {
        let mut block = Self {
            masks: [0; BLOCK],
            values: [1; BLOCK],
            places: [NOWHERE; BLOCK],
        };
        for (at, (head, place)) in heads.iter().enumerate() {
            block.masks[at] = head.mask;
            block.values[at] = head.value;
            block.places[at] = *place as u32;
        }
        block
    }

    /// Whether any of the comparisons holds; without a branch between them, so that vectors do.
    #[inline(always)]
    fn any(&self, half: u32) -> bool {
        let tests = self.masks.iter().zip(&self.values);
        let hits = tests.fold(0, |hits, (mask, value)| {
            hits | u32::from(half & mask == *value)
        });
        hits != 0
    }

    /// The rules whose comparison holds, in order.
    #[inline]
    fn hits(&self, half: u32) -> impl Iterator<Item = u32> {
        (0..BLOCK)
            .filter(move |&at| half & self.masks[at] == self.values[at])
            .map(|at| self.places[at])
    }

    /// How many rules are in it. Inline, so that nothing is left of it where nobody counts.
    #[inline(always)]
    fn len(&self) -> usize {
        self.places
            .iter()
            .filter(|place| **place != NOWHERE)
            .count()
    }
}

/// A comparison of half a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct HalfTest {
    word: usize,
    /// The half's lowest bit.
    shift: u32,
    mask: u32,
    value: u32,
}

impl HalfTest {
    /// Those that a word's comparison is made of.
    fn of(test: &WordTest) -> impl Iterator<Item = Self> {
        let WordTest { word, mask, value } = *test;
        [0, 32]
            .map(|shift| Self {
                word,
                shift,
                mask: (mask >> shift) as u32,
                value: (value >> shift) as u32,
            })
            .into_iter()
            .filter(|half| half.mask != 0)
    }
}

impl Linear {
    pub(super) fn compile(rules: &RuleList) -> Self {
        let tests: Vec<_> = rules.iter().map(|r| word_tests(&r.matches)).collect();
        let mut sharers = HashMap::<HalfTest, usize>::new();
        for half in tests.iter().flatten().flat_map(HalfTest::of) {
            *sharers.entry(half).or_default() += 1;
        }
        let mut heads = BTreeMap::<_, Vec<_>>::new();
        for (place, tests) in tests.iter().enumerate() {
            // What few rules ask for, few frames have: the rules of one service, say, differ
            // in the service's address as little as its clients' frames do.
            let rarity = |half: &HalfTest| (sharers[half], Reverse(half.mask.count_ones()));
            // A rule that matches everything compares no bits.
            let head = tests.iter().flat_map(HalfTest::of).min_by_key(rarity);
            let head = head.unwrap_or_default();
            let group = heads.entry((head.word, head.shift)).or_default();
            group.push((head, place));
        }
        let mut groups: Vec<_> = heads
            .into_iter()
            .map(|((word, shift), heads)| Group {
                half: Field::half(word, shift),
                blocks: heads.chunks(BLOCK).map(Block::new).collect(),
            })
            .collect();
        // The sooner a rule is found to match, the fewer are compared.
        groups.sort_by_key(|group| group.blocks[0].places[0]);
        Self {
            decisions: rules.iter().map(|rule| (rule.action, rule.id)).collect(),
            groups: groups.into(),
            matchers: rules
                .iter()
                .map(|rule| Matcher::new(&rule.matches))
                .collect(),
        }
    }

    /// The first rule that matches: what it does and its number. A tracing reader visits every rule
    /// that could match a frame of its class, and gets `None`.
    #[inline]
    pub(super) fn decide<R: KeyReader>(
        &self,
        r: &mut R,
        count: &mut impl Count,
    ) -> Option<(Action, RuleId)> {
        if R::TRACING {
            for matcher in &self.matchers {
                let _ = matcher.test(r);
            }
            return None;
        }
        let mut first = NOWHERE;
        for group in &self.groups {
            let mut half = 0;
            r.test(group.half, group.half.ones(), |bits| {
                half = bits as u32;
                true
            });
            for block in &group.blocks {
                // What stands after a rule that matches cannot be the first.
                if block.places[0] > first {
                    break;
                }
                count.compares(block.len());
                if block.any(half) {
                    let mut hits = block.hits(half);
                    let hit = hits.find(|&place| self.matchers[place as usize].test(r));
                    first = first.min(hit.unwrap_or(NOWHERE));
                }
            }
        }
        // No rule's place is nowhere.
        self.decisions.get(first as usize).copied()
    }

    /// Every rule may have to be compared.
    pub(super) fn bound(&self) -> Bound {
        Bound {
            probes: 0,
            compares: self.matchers.len(),
        }
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let blocks = self.groups.iter().map(|group| size_of_val(&*group.blocks));
        size_of_val(&*self.groups)
            + blocks.sum::<usize>()
            + size_of_val(&*self.matchers)
            + size_of_val(&*self.decisions)
            + self.matchers.iter().map(Matcher::heap_bytes).sum::<usize>()
    }
}
