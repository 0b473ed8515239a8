//! Which rule stands in which table.
//!
//! In come the bits that each rule compares, in order; out come tables, each with a [`Tuple`] that
//! is part of what its rules compare. Rules are taken in order, so that early tables hold early
//! rules and a lookup can stop there. A rule goes to the first table that it fits and whose bucket
//! has room. If there is none it opens a table, coarse at first, so that others fit too; where
//! the coarse one exists and was full, an exact one.

use hashbrown::HashMap;

use super::tuple::Tuple;
use crate::{FlowKey, reader::Exact};

/// A bucket has no room beyond this many rules, unless they cannot be told apart by hashing.
pub(super) const BUCKET_MOST: u32 = 8;
/// No more tables than this: a lookup's bitmaps take one bit for each.
const TABLES_MOST: usize = 256;

/// A table and its rules, in order.
pub(super) struct PlannedTable {
    pub(super) tuple: Tuple,
    pub(super) rules: Vec<u32>,
    /// How many rules have a hash.
    buckets: HashMap<u64, u32>,
}

/// `rules` holds each rule's mask and value.
pub(super) fn plan(rules: &[(FlowKey, FlowKey)]) -> Vec<PlannedTable> {
    let mut planner = Planner::default();
    for (number, (mask, value)) in rules.iter().enumerate() {
        let table = planner.table(mask, value);
        let table = &mut planner.tables[table];
        let hash = table.tuple.hash(&mut Exact(value));
        *table.buckets.entry(hash).or_default() += 1;
        table.rules.push(number as u32);
    }
    planner.tables.sort_by_key(|table| table.rules[0]);
    planner.tables
}

#[derive(Default)]
struct Planner {
    tables: Vec<PlannedTable>,
    /// The tables that rules of a mask fit, for every mask so far.
    fitting: HashMap<FlowKey, Vec<usize>>,
}

impl Planner {
    /// The table for a rule, by number.
    fn table(&mut self, mask: &FlowKey, value: &FlowKey) -> usize {
        let tables = &self.tables;
        let fits = &*self.fitting.entry(*mask).or_insert_with(|| {
            let fits = |&table: &usize| tables[table].tuple.fits(mask);
            (0..tables.len()).filter(fits).collect()
        });
        let mut roomy = fits.iter().copied();
        if let Some(table) = roomy.find(|&table| tables[table].in_bucket(value) < BUCKET_MOST) {
            return table;
        }
        let number = |tuple: Tuple| tables.iter().position(|table| table.tuple == tuple);
        let (coarse, exact) = (Tuple::coarse(mask), Tuple::exact(mask));
        let tuple = match (number(coarse), number(exact)) {
            (None, _) => coarse,
            (Some(_), None) => exact,
            (Some(_), Some(exact)) => return exact,
        };
        match fits.last() {
            Some(&last) if tables.len() >= TABLES_MOST => last,
            _ => self.open(tuple),
        }
    }

    fn open(&mut self, tuple: Tuple) -> usize {
        let table = self.tables.len();
        self.tables.push(PlannedTable {
            tuple,
            rules: Vec::new(),
            buckets: HashMap::new(),
        });
        for (mask, fits) in &mut self.fitting {
            if tuple.fits(mask) {
                fits.push(table);
            }
        }
        table
    }
}

impl PlannedTable {
    /// How many rules stand in the bucket of a rule with `value`.
    fn in_bucket(&self, value: &FlowKey) -> u32 {
        let hash = self.tuple.hash(&mut Exact(value));
        self.buckets.get(&hash).copied().unwrap_or(0)
    }
}
