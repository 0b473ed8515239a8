//! Rule lists by `TupleMerge` tables behind field bitmaps (Daly et al., "`TupleMerge`: Fast
//! Software Packet Processing for Online Packet Classification", IEEE/ACM Transactions on
//! Networking 2019).
//!
//! A lookup takes, in this order and at this cost:
//!
//! ```text
//!   one row of bits for each field   a search in a tree of some levels, all fields at once
//!   candidate tables, AND of rows    stop when all that are left are behind the match in hand
//!   a probe per candidate            a hash of three to seven words, one load
//!   the bucket's entries, in order   a hash compare; whole rules only where that holds
//! ```
//!
//! What must hold: an entry compares the whole of its rule, whatever led to it. A table's tuple
//! and the field rows hold no more bits than its rules compare; so tracing the rules that are
//! possible for a class reads every bit that can change its verdict.

use hashbrown::HashMap;

use super::{
    Bound,
    bitmaps::{Fields, ones},
    buckets::{Buckets, Entry, Name, compared, is_compared, slot_of, tag_of},
    cost::Count,
    matcher::{Rest, WordTest, required_bits},
    orders::Orders,
    plan::{BUCKET_MOST, PlannedTable, plan},
    tuple::Tuple,
};
use crate::{
    RuleId,
    key::FlowKey,
    model::Action,
    reader::{Exact, KeyReader},
    rule::{Match, Rule, RuleList},
};

/// A compiled rule list. A clone shares what neither changes.
#[derive(Clone, Debug)]
pub(super) struct TupleMerge {
    pub(super) fields: Fields,
    /// At first by their first rule.
    pub(super) tables: Vec<Table>,
    /// The most rules that a frame is compared with in a slot of each table, or somewhat more.
    pub(super) longest: Vec<u32>,
    pub(super) buckets: Buckets,
    /// Where each rule of the list stands.
    pub(super) orders: Orders,
    /// What all this was when the whole list was compiled.
    pub(super) first: First,
    /// How many rules were put in or taken out since.
    pub(super) changes: usize,
    /// Whether so much was changed that the list compiled whole is looked up faster.
    pub(super) worn: bool,
}

/// What changes are measured against.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    pub(super) bound: Bound,
    /// Rules that buckets were written with.
    pub(super) written: usize,
}

impl First {
    /// The bound grown by so many eighths of itself, and somewhat more.
    pub(super) fn grown(&self, eighths: usize) -> Bound {
        let Bound { probes, compares } = self.bound;
        Bound {
            probes: probes + probes * eighths / 8 + 2,
            compares: compares + compares * eighths / 8 + BUCKET_MOST as usize,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) tuple: Tuple,
    /// No rule of the table stands before it.
    pub(super) first: u32,
    /// No rule of this table or of those behind stands before it.
    pub(super) all_first: u32,
    pub(super) first_slot: u32,
    /// One less than its slots, a power of two.
    pub(super) slot_mask: u32,
}

impl Table {
    /// The slot of the rules with a hash.
    #[inline]
    pub(super) fn slot(&self, hash: u64) -> u32 {
        self.first_slot + (slot_of(hash) & self.slot_mask)
    }
}

impl TupleMerge {
    pub(super) fn compile(rules: &RuleList) -> Self {
        let rules: Vec<&Rule> = rules.iter().collect();
        let bits: Vec<(FlowKey, FlowKey)> =
            rules.iter().map(|r| required_bits(&r.matches)).collect();
        let planned = plan(&bits);
        let matches: Vec<Vec<&Match>> = planned
            .iter()
            .map(|table| table.rules.iter().map(|&r| &rules[r as usize].matches))
            .map(Iterator::collect)
            .collect();
        let mut draft = Draft::new(&rules, &bits);
        let tables: Vec<Table> = planned.iter().map(|table| draft.table(table)).collect();
        let Draft {
            mut buckets,
            orders,
            ..
        } = draft;
        buckets.shrink();
        let longest: Vec<u32> = tables
            .iter()
            .map(|table| {
                (table.first_slot..=table.first_slot + table.slot_mask)
                    .map(|slot| buckets.longest(slot))
            })
            .map(|lengths| lengths.max().unwrap_or(0))
            .collect();
        let fields = Fields::compile(&matches, &longest);
        Self {
            first: First {
                bound: fields.bound(),
                written: buckets.written(),
            },
            fields,
            tables,
            longest,
            buckets,
            orders,
            changes: 0,
            worn: false,
        }
    }

    /// The first rule that matches. A tracing reader visits every rule that could match a frame of
    /// its class, and gets `None`.
    #[inline]
    pub(super) fn decide<R: KeyReader>(
        &self,
        r: &mut R,
        count: &mut impl Count,
    ) -> Option<(Action, RuleId)> {
        if R::TRACING {
            self.buckets.trace(r);
            return None;
        }
        let (mut best, mut found) = (u32::MAX, None::<&Entry>);
        'all: for (word, bits) in self.fields.candidates(r).enumerate() {
            for bit in ones(bits) {
                let Some(table) = self.tables.get(word * 64 + bit) else {
                    break;
                };
                if table.all_first >= best {
                    break 'all;
                }
                if table.first >= best {
                    continue;
                }
                count.probe();
                let hash = table.tuple.hash(r);
                let slot = table.slot(hash);
                if let Some((order, entry)) = self.buckets.search(r, slot, hash, best, count) {
                    (best, found) = (order, Some(entry));
                }
            }
        }
        found.map(|entry| (entry.action, entry.id))
    }

    /// Every candidate table is probed, and the longest slot compared in each.
    pub(super) fn bound(&self) -> Bound {
        self.fields.bound()
    }

    pub(super) fn tables(&self) -> usize {
        self.tables.len()
    }

    /// Bytes on the heap, what `other` has too left out.
    pub(super) fn bytes_beside(&self, other: Option<&Self>) -> usize {
        self.fields.bytes_beside(other.map(|other| &other.fields))
            + size_of_val(self.tables.as_slice())
            + size_of_val(self.longest.as_slice())
            + self.buckets.bytes_beside(other.map(|other| &other.buckets))
            + self.orders.bytes_beside(other.map(|other| &other.orders))
    }
}

/// What a rule compares beyond the words that entries hold.
pub(super) fn rest_of(rule: &Rule, mask: &FlowKey, value: &FlowKey) -> Rest {
    let others: Vec<WordTest> = (0..mask.0.len())
        .filter(|&word| mask.0[word] != 0 && !is_compared(word))
        .map(|word| WordTest {
            word,
            mask: mask.0[word],
            value: value.0[word],
        })
        .collect();
    Rest::new(&rule.matches, &others)
}

/// The buckets of [`TupleMerge`] while they are filled.
struct Draft<'a> {
    rules: &'a [&'a Rule],
    /// Each rule's mask and value.
    bits: &'a [(FlowKey, FlowKey)],
    orders: Orders,
    /// The same, by place.
    by_place: Vec<u32>,
    buckets: Buckets,
    masks: HashMap<[u64; 4], u32>,
    rests: HashMap<Rest, u32>,
}

impl<'a> Draft<'a> {
    fn new(rules: &'a [&'a Rule], bits: &'a [(FlowKey, FlowKey)]) -> Self {
        let orders = Orders::spread(rules.len());
        Self {
            rules,
            bits,
            by_place: orders.iter().collect(),
            orders,
            buckets: Buckets::default(),
            masks: HashMap::from_iter([([0; 4], 0)]),
            rests: HashMap::from_iter([(Rest::default(), 0)]),
        }
    }

    fn table(&mut self, planned: &PlannedTable) -> Table {
        let slots = planned.rules.len().next_power_of_two() as u32;
        let order = self.by_place[planned.rules[0] as usize];
        let table = Table {
            tuple: planned.tuple,
            first: order,
            // Tables stand by their first rule.
            all_first: order,
            first_slot: self.buckets.open(slots),
            slot_mask: slots - 1,
        };
        let mut in_slots: Vec<(u32, u32, Name)> = planned
            .rules
            .iter()
            .map(|&rule| {
                let hash = table.tuple.hash(&mut Exact(&self.bits[rule as usize].1));
                let order = self.by_place[rule as usize];
                let tag = tag_of(hash);
                (table.slot(hash), rule, Name { tag, order })
            })
            .collect();
        in_slots.sort_unstable_by_key(|(slot, rule, _)| (*slot, *rule));
        for slot in in_slots.chunk_by(|a, b| a.0 == b.0) {
            let names: Vec<Name> = slot.iter().map(|(_, _, name)| *name).collect();
            let entries: Vec<Entry> = slot.iter().map(|(_, rule, _)| self.entry(*rule)).collect();
            self.buckets.write(slot[0].0, &names, &entries);
        }
        table
    }

    fn entry(&mut self, rule: u32) -> Entry {
        let (mask, value) = &self.bits[rule as usize];
        let rule = self.rules[rule as usize];
        let words = compared(mask);
        let number = self.masks.entry(words);
        let number = *number.or_insert_with(|| self.buckets.add_mask(words));
        let rest = rest_of(rule, mask, value);
        let rest = self.rests.entry(rest);
        let rest = *rest.or_insert_with_key(|rest| self.buckets.add_rest(rest.clone()));
        Buckets::entry(value, number, rest, rule.id, rule.action)
    }
}
