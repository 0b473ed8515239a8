//! Rule lists by linear scan: what few rules are looked up by.
//!
//! The most telling comparison of each rule, the one that fewest other rules of the list make,
//! stands in an array of its own: a rule that does not match usually costs one load, one mask and
//! one compare.

use std::cmp::Reverse;

use hashbrown::HashMap;

use super::{
    Bound,
    cost::Count,
    matcher::{Matcher, WordTest, word_tests},
};
use crate::{RuleId, model::Action, reader::KeyReader, rule::RuleList};

/// A compiled rule list.
#[derive(Debug)]
pub(super) struct Linear {
    /// Each rule's most telling comparison, in the rules' order.
    heads: Box<[WordTest]>,
    /// What else each rule compares.
    matchers: Box<[Matcher]>,
    /// What each rule does, and its number.
    decisions: Box<[(Action, RuleId)]>,
}

impl Linear {
    pub(super) fn compile(rules: &RuleList) -> Self {
        let tests: Vec<_> = rules.iter().map(|r| word_tests(&r.matches)).collect();
        let mut sharers = HashMap::<WordTest, usize>::new();
        for test in tests.iter().flatten() {
            *sharers.entry(*test).or_default() += 1;
        }
        let matchers: Box<[Matcher]> = rules
            .iter()
            .zip(tests)
            .map(|(rule, mut tests)| {
                // What few rules ask for, few frames have: the rules of one service, say, differ
                // in the service's address as little as its clients' frames do.
                tests.sort_by_key(|test| (sharers[test], Reverse(test.mask.count_ones())));
                Matcher::new(&rule.matches, &tests)
            })
            .collect();
        Self {
            heads: matchers.iter().map(|matcher| matcher.head).collect(),
            matchers,
            decisions: rules.iter().map(|rule| (rule.action, rule.id)).collect(),
        }
    }

    /// The first rule that matches: what it does and its number. A tracing reader visits every rule that could
    /// match a frame of its class, and gets `None`.
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
        let mut next = 0;
        loop {
            // Without a count of its own: this is what a miss spends its time in.
            let mut heads = self.heads.get(next..)?.iter();
            if heads.find(|head| head.test(r)).is_none() {
                count.compares(self.heads.len() - next);
                return None;
            }
            let index = self.heads.len() - heads.len() - 1;
            count.compares(index + 1 - next);
            if self.matchers[index].test_rest(r) {
                return self.decisions.get(index).copied();
            }
            next = index + 1;
        }
    }

    /// Every rule may have to be compared.
    pub(super) fn bound(&self) -> Bound {
        Bound {
            probes: 0,
            compares: self.heads.len(),
        }
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.heads)
            + size_of_val(&*self.matchers)
            + size_of_val(&*self.decisions)
            + self.matchers.iter().map(Matcher::heap_bytes).sum::<usize>()
    }
}
