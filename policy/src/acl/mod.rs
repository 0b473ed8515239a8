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
//! A compiled list never changes. [`Classifier::updated`] makes another one for a list that differs
//! in some rules; the two share what is the same in both.
//!
//! Rooms: `matcher` (one rule), `linear`, `tuple_merge` (lookup), `plan` (which rule goes
//! to which table, by `tuple`s), `bitmaps` (which tables a frame's fields leave, found by
//! `intervals`), `buckets` (rules by hash), `ports` (long buckets), `cost` (counted and bounded
//! operations); for updates `changes` (what differs), `update`, `orders` (which rule is first),
//! `paged` (arrays that versions share).

use crate::{FlowKey, RuleId, model::Action, reader::Exact, reader::KeyReader, rule::RuleList};

mod bitmaps;
mod buckets;
mod changes;
mod cost;
mod intervals;
mod linear;
mod matcher;
mod orders;
mod paged;
mod plan;
mod ports;
mod tuple;
mod tuple_merge;
mod update;

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

/// How [`Classifier::updated`] came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// What differs was changed.
    Patched {
        /// The places of the rules that were put in.
        inserted: Vec<usize>,
        /// How often every rule had to be given another number to be told first from last by.
        renumbered: usize,
    },
    /// The list was compiled whole.
    Rebuilt(Rebuild),
}

/// Why a list was compiled whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rebuild {
    /// It is, or was, too short for tables.
    Short,
    /// More rules differ than it pays to change.
    Changes,
    /// The bound would have grown by more than half.
    Bound,
    /// It would have needed more tables than rows have bits for.
    Tables,
    /// What changes left behind takes too much space.
    Space,
    /// There are no numbers left between two rules.
    Orders,
}

/// A compiled rule list.
#[derive(Debug)]
pub struct Classifier {
    lookup: Lookup,
    rules: RuleList,
}

#[derive(Debug)]
enum Lookup {
    Linear(Linear),
    TupleMerge(Box<TupleMerge>),
}

impl Classifier {
    /// Compiles a rule list; the first rule that matches decides.
    pub fn compile(rules: RuleList) -> Self {
        let method = if rules.len() <= LINEAR_MOST {
            Method::Linear
        } else {
            Method::TupleMerge
        };
        Self::compile_as(rules, method)
    }

    /// Compiles a rule list for a method, whatever its length: for measurements and tests.
    pub fn compile_as(rules: RuleList, method: Method) -> Self {
        let lookup = match method {
            Method::Linear => Lookup::Linear(Linear::compile(&rules)),
            Method::TupleMerge => Lookup::TupleMerge(Box::new(TupleMerge::compile(&rules))),
        };
        Self { lookup, rules }
    }

    /// Compiles another rule list, with what this one has in common with it. Both decide on their
    /// own list; neither is disturbed by the other's end. The masks that are traced over a patched
    /// list hold what its rules need, and may hold what rules needed that are gone.
    pub fn updated(&self, rules: RuleList) -> (Self, Update) {
        let rebuilt = |rules, why| (self.recompiled(rules), Update::Rebuilt(why));
        // A list that was compiled for a method whatever its length keeps it.
        let short = |rules: &RuleList| rules.len() <= LINEAR_MOST;
        match &self.lookup {
            Lookup::TupleMerge(tables) if !short(&rules) || short(&self.rules) => {
                match tables.updated(&self.rules, &rules) {
                    Ok((tables, update)) => {
                        let lookup = Lookup::TupleMerge(Box::new(tables));
                        (Self { lookup, rules }, update)
                    }
                    Err(why) => rebuilt(rules, why),
                }
            }
            _ => rebuilt(rules, Rebuild::Short),
        }
    }

    /// Whether changes have put so many rules where the list compiled whole would not have them
    /// that it should be [`renewed`](Self::renewed). It decides and is bounded as before, and is
    /// looked up slower.
    pub fn is_worn(&self) -> bool {
        match &self.lookup {
            Lookup::Linear(_) => false,
            Lookup::TupleMerge(tables) => tables.worn,
        }
    }

    /// The same list compiled whole: milliseconds for every thousand rules.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self::compile_as(self.rules.clone(), self.method())
    }

    fn recompiled(&self, rules: RuleList) -> Self {
        if self.rules.len() <= LINEAR_MOST && rules.len() <= LINEAR_MOST {
            Self::compile_as(rules, self.method())
        } else {
            Self::compile(rules)
        }
    }

    /// The first rule that matches: what it does and its number. A tracing reader visits every
    /// rule that could match a frame of its class, and gets `None`.
    #[inline]
    pub fn decide<R: KeyReader>(&self, r: &mut R) -> Option<(Action, RuleId)> {
        self.find(r, &mut Uncounted)
    }

    #[inline]
    fn find<R: KeyReader>(&self, r: &mut R, count: &mut impl Count) -> Option<(Action, RuleId)> {
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
            Lookup::TupleMerge(tables) => tables.bytes_beside(None),
        }
    }

    /// As [`Self::heap_bytes`], without what `other` has too.
    pub fn heap_bytes_beside(&self, other: &Self) -> usize {
        match (&self.lookup, &other.lookup) {
            (Lookup::TupleMerge(tables), Lookup::TupleMerge(others)) => {
                tables.bytes_beside(Some(others))
            }
            _ => self.heap_bytes(),
        }
    }

    /// The rules, in order.
    pub fn rules(&self) -> &RuleList {
        &self.rules
    }
}
