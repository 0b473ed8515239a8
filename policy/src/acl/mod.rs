//! Rule lists: which rule decides a frame.
//!
//! In comes a list of rules; out goes a [`Classifier`] that names the first rule that matches a
//! key.
//!
//! ```text
//!   up to LINEAR_MOST rules   linear        heads of rules in one array, scanned in order
//!   more                      tuple_merge   field bitmaps ─► candidate tables ─► buckets ─► rules
//! ```
//!
//! What must hold: both answer alike, and both compare a rule only by `matcher`, so that
//! tracing them visits every bit that can make a difference to a frame of the class. What goes
//! before (bitmaps, hashes) only leaves out rules that do not match; docs/decisions/0006 has the
//! measurements behind the choice.
//!
//! Rooms: `matcher` (one rule), `linear`, `tuple_merge` (lookup), `plan` (which rule goes
//! to which table, by `tuple`s), `bitmaps` (which tables a frame's fields leave, found by
//! `intervals`), `ports` (long buckets), `cost` (counted and bounded operations).

use std::sync::Arc;

use crate::{FlowKey, RuleId, model::Action, reader::Exact, reader::KeyReader, rule::Rule};

mod bitmaps;
mod cost;
mod intervals;
mod linear;
mod matcher;
mod plan;
mod ports;
mod tuple;
mod tuple_merge;

pub use cost::Bound;
pub(crate) use matcher::Matcher;

use cost::{Count, Uncounted};
use linear::Linear;
use tuple_merge::TupleMerge;

/// The longest list that is scanned: up to here the scan is no slower for a frame that no rule
/// matches (docs/decisions/0006).
pub const LINEAR_MOST: usize = 96;

/// How a list is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// One rule after the other.
    Linear,
    /// Tables of hashed rules, behind field bitmaps.
    TupleMerge,
}

/// A compiled rule list.
#[derive(Debug)]
pub struct Classifier {
    lookup: Lookup,
    rules: Arc<[Rule]>,
}

#[derive(Debug)]
enum Lookup {
    Linear(Linear),
    TupleMerge(Box<TupleMerge>),
}

impl Classifier {
    /// Compiles a rule list; the first rule that matches decides.
    pub fn compile(rules: Arc<[Rule]>) -> Self {
        let method = if rules.len() <= LINEAR_MOST {
            Method::Linear
        } else {
            Method::TupleMerge
        };
        Self::compile_as(rules, method)
    }

    /// Compiles a rule list for a method, whatever its length: for measurements and tests.
    pub fn compile_as(rules: Arc<[Rule]>, method: Method) -> Self {
        let lookup = match method {
            Method::Linear => Lookup::Linear(Linear::compile(&rules)),
            Method::TupleMerge => Lookup::TupleMerge(Box::new(TupleMerge::compile(&rules))),
        };
        Self { lookup, rules }
    }

    /// The first rule that matches: what it does and its number. A tracing reader visits every
    /// rule that could match a frame of its class, and gets `None`.
    #[inline]
    pub fn decide<R: KeyReader>(&self, r: &mut R) -> Option<(Action, RuleId)> {
        let rule = &self.rules[self.find(r, &mut Uncounted)?];
        Some((rule.action, rule.id))
    }

    #[inline]
    fn find<R: KeyReader>(&self, r: &mut R, count: &mut impl Count) -> Option<usize> {
        match &self.lookup {
            Lookup::Linear(linear) => linear.decide(r, count),
            Lookup::TupleMerge(tables) => tables.decide(r, count),
        }
    }

    /// What looking up `key` costs.
    pub fn cost(&self, key: &FlowKey) -> Bound {
        let mut cost = Bound::default();
        let _ = self.find(&mut Exact(key), &mut cost);
        cost
    }

    /// What no lookup exceeds, whatever the frame.
    pub fn bound(&self) -> Bound {
        match &self.lookup {
            Lookup::Linear(linear) => linear.bound(),
            Lookup::TupleMerge(tables) => tables.bound(),
        }
    }

    /// How the list is looked up.
    pub fn method(&self) -> Method {
        match &self.lookup {
            Lookup::Linear(_) => Method::Linear,
            Lookup::TupleMerge(_) => Method::TupleMerge,
        }
    }

    /// How many tables the rules stand in; 0 for a linear list.
    pub fn tables(&self) -> usize {
        match &self.lookup {
            Lookup::Linear(_) => 0,
            Lookup::TupleMerge(tables) => tables.tables(),
        }
    }

    /// Bytes that the lookup takes on the heap, the rules themselves left out.
    pub fn heap_bytes(&self) -> usize {
        match &self.lookup {
            Lookup::Linear(linear) => linear.heap_bytes(),
            Lookup::TupleMerge(tables) => tables.heap_bytes(),
        }
    }

    /// The rules, in order.
    pub fn rules(&self) -> &Arc<[Rule]> {
        &self.rules
    }
}
