//! Rule lists by `TupleMerge` tables behind field bitmaps (Daly et al., "`TupleMerge`: Fast
//! Software Packet Processing for Online Packet Classification", IEEE/ACM Transactions on
//! Networking 2019).
//!
//! A lookup takes, in this order and at this cost:
//!
//! ```text
//!   one row of bits for each field   a search in a tree of some levels, all fields at once
//!   candidate tables, AND of rows    by their first rule: stop when it is behind the match in hand
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
    cost::Count,
    matcher::{Rest, WordTest, required_bits},
    plan::{BUCKET_MOST, PlannedTable, plan},
    ports::PortIndex,
    tuple::Tuple,
};
use crate::{
    key::{Field, FlowKey},
    reader::{Exact, KeyReader},
    rule::{Match, Rule},
};

/// A compiled rule list.
#[derive(Debug)]
pub(super) struct TupleMerge {
    fields: Fields,
    /// By their first rule.
    tables: Box<[Table]>,
    /// All tables' slots.
    slots: Box<[Slot]>,
    /// All slots' rules by name: a probe reads eight of them with one line of memory.
    names: Box<[Name]>,
    /// What the rules compare, in the order of the names.
    entries: Box<[Entry]>,
    /// Masks that entries compare under, each once.
    masks: Box<[[u64; 4]]>,
    /// What entries compare besides, each once; number 0 is nothing.
    rests: Box<[Rest]>,
    /// Slots with many rules.
    indexes: Box<[PortIndex]>,
}

#[derive(Debug)]
struct Table {
    tuple: Tuple,
    /// Its first rule's place in the list.
    first_rule: u32,
    first_slot: u32,
    /// One less than its slots, a power of two.
    slot_mask: u32,
}

/// The rules whose hashes share some bits.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Its first name; its port index if `entries` is [`INDEXED`].
    first: u32,
    entries: u32,
}

const INDEXED: u32 = u32::MAX;

/// Which rule it is.
#[derive(Clone, Copy, Debug)]
struct Name {
    /// The half of its hash that did not choose the slot.
    tag: u32,
    /// Its place in the list.
    rule: u32,
}

/// One rule.
#[derive(Debug)]
struct Entry {
    /// The words of [`COMPARED`], under the mask.
    values: [u64; 4],
    mask: u32,
    rest: u32,
}

/// The words that most rules are told by: IPv4 addresses, ports with protocol, shape.
const COMPARED: [usize; 4] = [3, 5, 6, 7];

impl TupleMerge {
    pub(super) fn compile(rules: &[Rule]) -> Self {
        let bits: Vec<(FlowKey, FlowKey)> =
            rules.iter().map(|r| required_bits(&r.matches)).collect();
        let planned = plan(&bits);
        let matches: Vec<Vec<&Match>> = planned
            .iter()
            .map(|table| table.rules.iter().map(|&r| &rules[r as usize].matches))
            .map(Iterator::collect)
            .collect();
        let mut draft = Draft::new(rules, &bits);
        let tables = planned.iter().map(|table| draft.table(table)).collect();
        Self {
            fields: Fields::compile(&matches),
            tables,
            slots: draft.slots.into(),
            names: draft.names.into(),
            entries: draft.entries.into(),
            masks: draft.masks.in_order.into(),
            rests: draft.rests.in_order.into(),
            indexes: draft.indexes.into(),
        }
    }

    /// The first rule that matches, by its place. A tracing reader visits every rule that could
    /// match a frame of its class, and gets `None`.
    #[inline]
    pub(super) fn decide<R: KeyReader>(&self, r: &mut R, count: &mut impl Count) -> Option<usize> {
        if R::TRACING {
            for entry in &self.entries {
                let _ = self.possible(r, entry) && self.test(r, entry);
            }
            return None;
        }
        let mut best = u32::MAX;
        for (word, bits) in self.fields.candidates(r).enumerate() {
            for bit in ones(bits) {
                let Some(table) = self.tables.get(word * 64 + bit) else {
                    break;
                };
                if table.first_rule >= best {
                    return Some(best as usize);
                }
                count.probe();
                best = self.search(r, table, best, count);
            }
        }
        (best != u32::MAX).then_some(best as usize)
    }

    /// The table's first rule that matches and stands before `best`, or `best`.
    #[inline]
    fn search<R: KeyReader>(
        &self,
        r: &mut R,
        table: &Table,
        best: u32,
        count: &mut impl Count,
    ) -> u32 {
        let hash = table.tuple.hash(r);
        let slot = table.first_slot + (slot_of(hash) & table.slot_mask);
        let Slot { first, entries } = self.slots[slot as usize];
        if entries == INDEXED {
            return self.search_index(r, first, hash, best, count);
        }
        let numbers = first as usize..first as usize + entries as usize;
        for (number, name) in numbers.clone().zip(&self.names[numbers]) {
            if name.rule >= best {
                break;
            }
            count.compares(1);
            if name.tag == tag_of(hash) && self.test(r, &self.entries[number]) {
                return name.rule;
            }
        }
        best
    }

    /// [`Self::search`] in a slot with many rules.
    fn search_index<R: KeyReader>(
        &self,
        r: &mut R,
        index: u32,
        hash: u64,
        best: u32,
        count: &mut impl Count,
    ) -> u32 {
        let mut port = 0;
        r.test(Field::L4_DST, Field::L4_DST.ones(), |bits| {
            port = bits as u16;
            true
        });
        for &number in self.indexes[index as usize].entries(port) {
            let name = self.names[number as usize];
            if name.rule >= best {
                break;
            }
            count.compares(1);
            if name.tag == tag_of(hash) && self.test(r, &self.entries[number as usize]) {
                return name.rule;
            }
        }
        best
    }

    /// Whether the entry's rule matches.
    #[inline]
    fn test<R: KeyReader>(&self, r: &mut R, entry: &Entry) -> bool {
        let mut same = true;
        for test in self.words(entry) {
            // Four compares without a branch between them.
            same &= test.test(r);
        }
        same && (entry.rest == 0 || self.rests[entry.rest as usize].test(r))
    }

    /// Whether the entry's rule can match a frame that the reader knows only in part.
    fn possible<R: KeyReader>(&self, r: &R, entry: &Entry) -> bool {
        self.words(entry).iter().all(|test| test.possible(r))
            && self.rests[entry.rest as usize].possible(r)
    }

    #[inline]
    fn words(&self, entry: &Entry) -> [WordTest; 4] {
        let masks = &self.masks[entry.mask as usize];
        std::array::from_fn(|index| WordTest {
            word: COMPARED[index],
            mask: masks[index],
            value: entry.values[index],
        })
    }

    /// Every candidate table is probed, and the longest slot compared in each.
    pub(super) fn bound(&self) -> Bound {
        Bound {
            probes: self.fields.most(|_| 1),
            compares: self.fields.most(|table| self.longest_slot(table)),
        }
    }

    fn longest_slot(&self, table: usize) -> usize {
        let table = &self.tables[table];
        let first = table.first_slot as usize;
        let slots = &self.slots[first..=first + table.slot_mask as usize];
        let lengths = slots.iter().map(|slot| match slot.entries {
            INDEXED => self.indexes[slot.first as usize].longest(),
            entries => entries as usize,
        });
        lengths.max().unwrap_or(0)
    }

    pub(super) fn tables(&self) -> usize {
        self.tables.len()
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.fields.heap_bytes()
            + size_of_val(&*self.tables)
            + size_of_val(&*self.slots)
            + size_of_val(&*self.names)
            + size_of_val(&*self.entries)
            + size_of_val(&*self.masks)
            + size_of_val(&*self.rests)
            + self.rests.iter().map(Rest::heap_bytes).sum::<usize>()
            + size_of_val(&*self.indexes)
            + self
                .indexes
                .iter()
                .map(PortIndex::heap_bytes)
                .sum::<usize>()
    }
}

/// The half of a hash that chooses the slot.
#[inline]
fn slot_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// The half of a hash that names keep.
#[inline]
fn tag_of(hash: u64) -> u32 {
    hash as u32
}

/// The arrays of [`TupleMerge`] while they grow.
struct Draft<'a> {
    rules: &'a [Rule],
    /// Each rule's mask and value.
    bits: &'a [(FlowKey, FlowKey)],
    slots: Vec<Slot>,
    names: Vec<Name>,
    entries: Vec<Entry>,
    masks: Interned<[u64; 4]>,
    rests: Interned<Rest>,
    indexes: Vec<PortIndex>,
}

impl<'a> Draft<'a> {
    fn new(rules: &'a [Rule], bits: &'a [(FlowKey, FlowKey)]) -> Self {
        let mut rests = Interned::default();
        rests.number(Rest::default());
        Self {
            rules,
            bits,
            slots: Vec::new(),
            names: Vec::with_capacity(rules.len()),
            entries: Vec::with_capacity(rules.len()),
            masks: Interned::default(),
            rests,
            indexes: Vec::new(),
        }
    }

    fn table(&mut self, planned: &PlannedTable) -> Table {
        let slot_mask = planned.rules.len().next_power_of_two() as u32 - 1;
        let mut in_slots: Vec<(u32, Name)> = planned
            .rules
            .iter()
            .map(|&rule| {
                let hash = planned.tuple.hash(&mut Exact(&self.bits[rule as usize].1));
                let tag = tag_of(hash);
                (slot_of(hash) & slot_mask, Name { tag, rule })
            })
            .collect();
        in_slots.sort_unstable_by_key(|(slot, name)| (*slot, name.rule));
        let first_slot = self.slots.len() as u32;
        let mut in_slots = in_slots.into_iter().peekable();
        for slot in 0..=slot_mask {
            let first = self.names.len();
            while let Some((_, name)) = in_slots.next_if(|(in_slot, _)| *in_slot == slot) {
                self.names.push(name);
                let entry = self.entry(name.rule);
                self.entries.push(entry);
            }
            let slot = self.slot(first);
            self.slots.push(slot);
        }
        Table {
            tuple: planned.tuple,
            first_rule: planned.rules[0],
            first_slot,
            slot_mask,
        }
    }

    /// The slot of the entries from `first` on.
    fn slot(&mut self, first: usize) -> Slot {
        let names = &self.names[first..];
        if names.len() > BUCKET_MOST as usize {
            let ports: Vec<_> = names
                .iter()
                .map(|name| &*self.rules[name.rule as usize].matches.dst_ports)
                .collect();
            if let Some(index) = PortIndex::compile(first as u32, &ports) {
                self.indexes.push(index);
                return Slot {
                    first: self.indexes.len() as u32 - 1,
                    entries: INDEXED,
                };
            }
        }
        Slot {
            first: first as u32,
            entries: names.len() as u32,
        }
    }

    fn entry(&mut self, rule: u32) -> Entry {
        let (mask, value) = &self.bits[rule as usize];
        let others: Vec<WordTest> = (0..mask.0.len())
            .filter(|word| mask.0[*word] != 0 && !COMPARED.contains(word))
            .map(|word| WordTest {
                word,
                mask: mask.0[word],
                value: value.0[word],
            })
            .collect();
        let matches = &self.rules[rule as usize].matches;
        Entry {
            values: COMPARED.map(|word| value.0[word]),
            mask: self.masks.number(COMPARED.map(|word| mask.0[word])),
            rest: self.rests.number(Rest::new(matches, &others)),
        }
    }
}

/// Values, each once, by number.
struct Interned<T> {
    numbers: HashMap<T, u32>,
    in_order: Vec<T>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            in_order: Vec::new(),
        }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Interned<T> {
    fn number(&mut self, value: T) -> u32 {
        let next = self.in_order.len() as u32;
        *self.numbers.entry(value).or_insert_with_key(|value| {
            self.in_order.push(value.clone());
            next
        })
    }
}
