//! Buckets: the rules of all tables by their hashes.
//!
//! In come rules with their hashes; out goes, for a slot and a hash, the first rule there that
//! matches. What must hold: a slot's rules stand in their order, and each compares the whole of its
//! rule. A slot that changes is written anew, at the end: what it held is left behind, where only a
//! tracing reader still finds it.

use std::{ops::RangeInclusive, sync::Arc};

use super::{
    cost::Count,
    matcher::{Rest, WordTest},
    paged::Paged,
    plan::BUCKET_MOST,
    ports::PortIndex,
};
use crate::{
    RuleId,
    key::{Field, FlowKey},
    model::Action,
    reader::KeyReader,
};

/// All tables' slots and their rules.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    slots: Paged<Slot, 1024>,
    /// All slots' rules by name: a probe reads eight of them with one line of memory.
    names: Paged<Name, PAGE>,
    /// What the rules compare, by the names' numbers.
    entries: Paged<Entry, PAGE>,
    /// Masks that entries compare under; number 0 is nothing.
    masks: Arc<Vec<[u64; 4]>>,
    /// What entries compare besides; number 0 is nothing.
    rests: Paged<Rest, 64>,
    /// Slots with many rules.
    long: Vec<Arc<Long>>,
}

const PAGE: usize = 256;

/// The rules whose hashes share some bits.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Its first name; its place among the long ones if `entries` is [`LONG`].
    first: u32,
    entries: u16,
    /// A bit for each hash that a rule has, by some of the hash's bits.
    seen: u16,
}

const LONG: u16 = u16::MAX;

/// A slot with many rules.
#[derive(Debug)]
struct Long {
    first: u32,
    entries: u32,
    index: Option<PortIndex>,
}

/// Which rule it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    /// The half of its hash that did not choose the slot.
    pub(super) tag: u32,
    /// What it stands before or behind others by.
    pub(super) order: u32,
}

/// One rule.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The words of [`COMPARED`], under the mask.
    values: [u64; 4],
    mask: u32,
    rest: u32,
    pub(super) id: RuleId,
    pub(super) action: Action,
}

/// The words that most rules are told by: IPv4 addresses, ports with protocol, shape.
const COMPARED: [usize; 4] = [3, 5, 6, 7];

impl Default for Buckets {
    fn default() -> Self {
        Self {
            slots: Paged::default(),
            names: Paged::default(),
            entries: Paged::default(),
            masks: Arc::new(vec![[0; 4]]),
            rests: Paged::new(&[Rest::default()]),
            long: Vec::new(),
        }
    }
}

impl Buckets {
    /// The slot's first rule that matches and stands before `best`, if there is one.
    #[inline]
    pub(super) fn search<R: KeyReader>(
        &self,
        r: &mut R,
        slot: u32,
        hash: u64,
        best: u32,
        count: &mut impl Count,
    ) -> Option<(u32, &Entry)> {
        let Slot {
            first,
            entries,
            seen,
        } = *self.slots.get(slot);
        if seen & seen_bit(hash) == 0 {
            return None;
        }
        if entries == LONG {
            return self.search_long(r, &self.long[first as usize], hash, best, count);
        }
        let names = &self.names.from(first)[..entries.into()];
        self.first_of(r, first, names.iter().zip(0..), hash, best, count)
    }

    /// [`Self::search`] in a slot with many rules.
    fn search_long<R: KeyReader>(
        &self,
        r: &mut R,
        long: &Long,
        hash: u64,
        best: u32,
        count: &mut impl Count,
    ) -> Option<(u32, &Entry)> {
        let names = self.names.from(long.first);
        let Some(index) = &long.index else {
            let names = &names[..long.entries as usize];
            return self.first_of(r, long.first, names.iter().zip(0..), hash, best, count);
        };
        let mut port = 0;
        r.test(Field::L4_DST, Field::L4_DST.ones(), |bits| {
            port = bits as u16;
            true
        });
        let numbers = index.entries(port).iter();
        let names = numbers.map(|&number| (&names[number as usize], number));
        self.first_of(r, long.first, names, hash, best, count)
    }

    /// The first of some rules of the run at `first` that matches and stands before `best`.
    #[inline(always)]
    fn first_of<'a, R: KeyReader>(
        &self,
        r: &mut R,
        first: u32,
        names: impl Iterator<Item = (&'a Name, u32)>,
        hash: u64,
        best: u32,
        count: &mut impl Count,
    ) -> Option<(u32, &Entry)> {
        for (name, number) in names {
            if name.order >= best {
                break;
            }
            count.compares(1);
            if name.tag == tag_of(hash) {
                let entry = &self.entries.from(first)[number as usize];
                if self.test(r, entry) {
                    return Some((name.order, entry));
                }
            }
        }
        None
    }

    /// Whether the entry's rule matches.
    #[inline]
    fn test<R: KeyReader>(&self, r: &mut R, entry: &Entry) -> bool {
        let mut same = true;
        for test in self.words(entry) {
            // Four compares without a branch between them.
            same &= test.test(r);
        }
        same && (entry.rest == 0 || self.rests.get(entry.rest).test(r))
    }

    /// Visits what a frame of the reader's class could be compared with, now or before a change.
    pub(super) fn trace<R: KeyReader>(&self, r: &mut R) {
        for entry in self.entries.iter() {
            let possible = self.words(entry).iter().all(|test| test.possible(r))
                && self.rests.get(entry.rest).possible(r);
            let _ = possible && self.test(r, entry);
        }
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

    /// Adds empty slots and gives the first one's number.
    pub(super) fn open(&mut self, slots: u32) -> u32 {
        let first = self.slots.len() as u32;
        for _ in 0..slots {
            self.slots.push(&[Slot::default()]);
        }
        first
    }

    /// A slot's rules.
    pub(super) fn rules(&self, slot: u32) -> (&[Name], &[Entry]) {
        let Slot { first, entries, .. } = *self.slots.get(slot);
        let (first, entries) = match entries {
            0 => return (&[], &[]),
            LONG => {
                let long = &self.long[first as usize];
                (long.first, long.entries as usize)
            }
            entries => (first, entries.into()),
        };
        let names = &self.names.from(first)[..entries];
        (names, &self.entries.from(first)[..entries])
    }

    /// How many rules a slot has.
    pub(super) fn len(&self, slot: u32) -> usize {
        let Slot { first, entries, .. } = *self.slots.get(slot);
        match entries {
            LONG => self.long[first as usize].entries as usize,
            entries => entries.into(),
        }
    }

    /// The most rules that a frame is compared with in a slot.
    pub(super) fn longest(&self, slot: u32) -> u32 {
        let Slot { first, entries, .. } = *self.slots.get(slot);
        match entries {
            LONG => {
                let long = &self.long[first as usize];
                let indexed = long.index.as_ref().map(|index| index.longest() as u32);
                indexed.unwrap_or(long.entries)
            }
            entries => entries.into(),
        }
    }

    /// Writes a slot: its rules in their order.
    pub(super) fn write(&mut self, slot: u32, names: &[Name], entries: &[Entry]) {
        let old = *self.slots.get(slot);
        if names.is_empty() {
            *self.slots.get_mut(slot) = Slot::default();
            return;
        }
        let first = self.names.push(names);
        let same = self.entries.push(entries);
        debug_assert_eq!(first, same, "names and entries have the same numbers");
        let mut new = Slot {
            first,
            entries: names.len() as u16,
            seen: names.iter().fold(0, |seen, name| seen | tag_bit(name.tag)),
        };
        let index = if names.len() > BUCKET_MOST as usize {
            let ports: Vec<_> = entries.iter().map(|entry| self.dst_ports(entry)).collect();
            PortIndex::compile(&ports)
        } else {
            None
        };
        if index.is_some() || names.len() >= LONG.into() {
            let long = Arc::new(Long {
                first,
                entries: names.len() as u32,
                index,
            });
            if old.entries == LONG {
                new.first = old.first;
                self.long[old.first as usize] = long;
            } else {
                new.first = self.long.len() as u32;
                self.long.push(long);
            }
            new.entries = LONG;
        }
        *self.slots.get_mut(slot) = new;
    }

    /// The destination ports that an entry asks for.
    fn dst_ports(&self, entry: &Entry) -> Vec<RangeInclusive<u16>> {
        const PORTS: Field = Field::L4_DST;
        let ranges = self.rests.get(entry.rest).dst_ports();
        if !ranges.is_empty() {
            return ranges.to_vec();
        }
        let (mut mask, mut value) = (FlowKey::default(), FlowKey::default());
        for (index, word) in COMPARED.into_iter().enumerate() {
            mask.0[word] = self.masks[entry.mask as usize][index];
            value.0[word] = entry.values[index];
        }
        let first = value.get(PORTS);
        let last = first | PORTS.ones() & !mask.get(PORTS);
        vec![first as u16..=last as u16]
    }

    /// A rule's entry; `mask` and `rest` are numbers.
    pub(super) fn entry(
        value: &FlowKey,
        mask: u32,
        rest: u32,
        id: RuleId,
        action: Action,
    ) -> Entry {
        Entry {
            values: COMPARED.map(|word| value.0[word]),
            mask,
            rest,
            id,
            action,
        }
    }

    /// The number of a mask that is not there yet.
    pub(super) fn add_mask(&mut self, mask: [u64; 4]) -> u32 {
        let masks = Arc::make_mut(&mut self.masks);
        masks.push(mask);
        masks.len() as u32 - 1
    }

    /// The number of a mask.
    pub(super) fn find_mask(&self, mask: [u64; 4]) -> Option<u32> {
        let place = self.masks.iter().position(|other| *other == mask);
        place.map(|place| place as u32)
    }

    /// The number of further comparisons that are not there yet.
    pub(super) fn add_rest(&mut self, rest: Rest) -> u32 {
        self.rests.push(&[rest])
    }

    /// Gives every rule another order.
    pub(super) fn reorder(&mut self, order: impl Fn(u32) -> u32) {
        self.names.change(|name| name.order = order(name.order));
    }

    /// How many rules are there or were left behind.
    pub(super) fn written(&self) -> usize {
        self.names.len()
    }

    /// Gives back what there was room for.
    pub(super) fn shrink(&mut self) {
        self.slots.shrink();
        self.names.shrink();
        self.entries.shrink();
        Arc::make_mut(&mut self.masks).shrink_to_fit();
        self.rests.shrink();
        self.long.shrink_to_fit();
    }

    /// Bytes on the heap, what `other` has too left out.
    pub(super) fn bytes_beside(&self, other: Option<&Self>) -> usize {
        let rests = self.rests.iter().map(Rest::heap_bytes).sum::<usize>();
        let long = self.long.iter().enumerate().filter(|(number, long)| {
            let same = other.and_then(|other| other.long.get(*number));
            !same.is_some_and(|same| Arc::ptr_eq(same, long))
        });
        let index = |long: &Long| long.index.as_ref().map_or(0, PortIndex::heap_bytes);
        self.slots.bytes_beside(other.map(|o| &o.slots))
            + self.names.bytes_beside(other.map(|o| &o.names))
            + self.entries.bytes_beside(other.map(|o| &o.entries))
            + if other.is_some_and(|o| Arc::ptr_eq(&o.masks, &self.masks)) {
                0
            } else {
                size_of_val(self.masks.as_slice())
            }
            + self.rests.bytes_beside(other.map(|o| &o.rests))
            + if other.is_none() { rests } else { 0 }
            + size_of_val(self.long.as_slice())
            + long
                .map(|(_, long)| size_of::<Long>() + index(long))
                .sum::<usize>()
    }
}

/// The words of a key that entries hold.
pub(super) fn compared(key: &FlowKey) -> [u64; 4] {
    COMPARED.map(|word| key.0[word])
}

/// Whether entries hold a word.
pub(super) fn is_compared(word: usize) -> bool {
    COMPARED.contains(&word)
}

/// The half of a hash that chooses the slot.
#[inline]
pub(super) fn slot_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// The half of a hash that names keep.
#[inline]
pub(super) fn tag_of(hash: u64) -> u32 {
    hash as u32
}

#[inline]
fn seen_bit(hash: u64) -> u16 {
    tag_bit(tag_of(hash))
}

/// The bit of [`Slot::seen`] by which a tag is known.
#[inline]
fn tag_bit(tag: u32) -> u16 {
    1 << (tag >> 28)
}
