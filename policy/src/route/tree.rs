//! Routes of one address family by prefix: a tree bitmap (Eatherton, Varghese, Dittia, "Tree
//! bitmap: hardware/software IP lookups with incremental updates", ACM SIGCOMM CCR 2004).
//!
//! In come prefixes, each with an entry; out goes the entry of the longest one that an address
//! lies in.
//!
//! ```text
//!   address   6 bits ─► slot of the root
//!             6 bits ─────► slot of its child, and so on
//! ```
//!
//! A node decides [`STRIDE`] bits. Prefixes that end within them stand in its entries, in the
//! order of their numbers: `1` for none of the bits, `10` and `11` for one, ..., `1xxxxxx` for six.
//! Bitmaps say which numbers and which children are there; how many are set before a bit is the
//! place in the array.
//!
//! What must hold: a change copies the nodes above it and their arrays, where another version has
//! them too, and nothing else; a prefix that is the only one longer than its slot stands in the
//! slot itself, with all its bits, so that every node but the root has two prefixes or more.

use std::{hint::select_unpredictable, sync::Arc};

use super::{
    bits::{Bits, STRIDE},
    entry::Entry,
    target::Target,
};

/// What all addresses lead to that begin alike.
pub(super) enum Alike<'a> {
    /// To a prefix that is not longer than what they have in common.
    Entry(&'a Entry),
    /// To a prefix that is too short to be asked for, or to none.
    Shorter,
    /// Not all to the same.
    Not,
}

/// What an `Arc` adds to what it holds: two counts.
pub(super) const ARC_BYTES: usize = 16;

/// Six bits of all addresses that begin alike.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// Slots that have a child.
    pub(super) parents: u64,
    /// Numbers of prefixes: those below 64, then those from 64, which are slots.
    pub(super) numbers: [u64; 2],
    pub(super) children: Arc<[Child]>,
    pub(super) entries: Arc<[Entry]>,
}

/// What a slot leads to, other than entries of its node.
#[derive(Clone, Debug)]
pub(super) enum Child {
    /// Two prefixes or more.
    Node(Node),
    /// One prefix.
    Alone(Alone),
}

/// A prefix in the slot where it is the only one that is longer than the slot.
#[derive(Clone, Debug)]
pub(super) struct Alone {
    /// Its bits behind those that led here.
    rest: [u64; 2],
    /// How many there are.
    pub(super) len: u8,
    pub(super) entry: Entry,
}

impl Alone {
    pub(super) fn new(bits: impl Bits, len: u8, entry: Entry) -> Self {
        Self {
            rest: bits.to_words(),
            len,
            entry,
        }
    }

    #[inline(always)]
    pub(super) fn bits<B: Bits>(&self) -> B {
        B::from_words(self.rest)
    }

    /// Whether an address, as far as it is behind what led here, lies in it.
    #[inline(always)]
    fn covers<B: Bits>(&self, address: B) -> bool {
        self.bits::<B>().alike(address) >= self.len.into()
    }
}

/// For each pair of slots the numbers of prefixes of less than six bits that they lie in.
const SHORTER: [u64; 32] = {
    let mut shorter = [0; 32];
    let mut pair = 0;
    while pair < 32 {
        let mut number = 32 + pair;
        while number > 0 {
            shorter[pair] |= 1 << number;
            number /= 2;
        }
        pair += 1;
    }
    shorter
};

/// How many bits are set below one.
#[inline(always)]
fn rank(bits: u64, bit: usize) -> usize {
    (bits & ((1 << bit) - 1)).count_ones() as usize
}

/// The number of a prefix in its node; `len` is at most [`STRIDE`].
pub(super) fn number(slot: usize, len: u8) -> usize {
    (1 << len) + (slot >> (STRIDE - len))
}

impl Node {
    /// Where the entry of a number stands, or would.
    #[inline(always)]
    fn place(&self, number: usize) -> usize {
        if number < 64 {
            rank(self.numbers[0], number)
        } else {
            self.numbers[0].count_ones() as usize + rank(self.numbers[1], number - 64)
        }
    }

    fn has(&self, number: usize) -> bool {
        self.numbers[number / 64] >> (number % 64) & 1 == 1
    }

    /// The child that a slot leads to.
    #[inline(always)]
    fn child(&self, slot: usize) -> Option<&Child> {
        if self.parents >> slot & 1 == 0 {
            return None;
        }
        self.children.get(rank(self.parents, slot))
    }

    /// Whether any prefix of this node covers a slot.
    #[inline(always)]
    fn covers(&self, slot: usize) -> bool {
        (self.numbers[1] >> slot & 1) | (self.numbers[0] & SHORTER[slot / 2]) != 0
    }

    /// The number of the longest prefix that covers a slot, which [`Node::covers`] has.
    #[inline(always)]
    fn longest(&self, slot: usize) -> usize {
        if self.numbers[1] >> slot & 1 == 1 {
            return 64 + slot;
        }
        (self.numbers[0] & SHORTER[slot / 2] | 1).ilog2() as usize
    }

    /// Sets or removes the entry of a prefix whose first bits led here.
    pub(super) fn set<B: Bits>(&mut self, bits: B, len: u8, entry: Option<Entry>) {
        let slot = bits.slot();
        if len <= STRIDE {
            self.set_here(number(slot, len), entry);
            return;
        }
        let (place, rest, len) = (rank(self.parents, slot), bits.rest(), len - STRIDE);
        if self.parents >> slot & 1 == 0 {
            if let Some(entry) = entry {
                let alone = Child::Alone(Alone::new(rest, len, entry));
                self.children = inserted(&self.children, place, alone);
                self.parents |= 1 << slot;
            }
            return;
        }
        let child = &mut Arc::make_mut(&mut self.children)[place];
        match (child, entry) {
            (Child::Node(node), entry) => {
                node.set(rest, len, entry);
                if let Some(alone) = node.only::<B>() {
                    Arc::make_mut(&mut self.children)[place] = Child::Alone(alone);
                }
            }
            (Child::Alone(alone), entry) if (alone.bits::<B>(), alone.len) == (rest, len) => {
                if let Some(entry) = entry {
                    alone.entry = entry;
                } else {
                    self.children = removed(&self.children, place);
                    self.parents &= !(1 << slot);
                }
            }
            (child @ Child::Alone(_), Some(entry)) => {
                let mut node = Self::default();
                if let Child::Alone(alone) = child {
                    node.set(alone.bits::<B>(), alone.len, Some(alone.entry.clone()));
                }
                node.set(rest, len, Some(entry));
                *child = Child::Node(node);
            }
            (Child::Alone(_), None) => {}
        }
    }

    /// The only prefix of this node, if it is one.
    fn only<B: Bits>(&self) -> Option<Alone> {
        match (&*self.entries, &*self.children) {
            ([entry], []) => {
                let number = match self.numbers {
                    [0, slots] => 64 + slots.trailing_zeros(),
                    [shorter, _] => shorter.trailing_zeros(),
                };
                let len = number.ilog2() as u8;
                let slot = (number as usize - (1 << len)) << (STRIDE - len);
                let zeros = B::from_words([0; 2]);
                Some(Alone::new(zeros.behind(slot), len, entry.clone()))
            }
            ([], [Child::Alone(alone)]) => {
                let bits = alone
                    .bits::<B>()
                    .behind(self.parents.trailing_zeros() as usize);
                Some(Alone::new(bits, alone.len + STRIDE, alone.entry.clone()))
            }
            _ => None,
        }
    }

    fn set_here(&mut self, number: usize, entry: Option<Entry>) {
        let place = self.place(number);
        let bit = 1 << (number % 64);
        match (entry, self.has(number)) {
            (Some(entry), true) => Arc::make_mut(&mut self.entries)[place] = entry,
            (Some(entry), false) => {
                self.entries = inserted(&self.entries, place, entry);
                self.numbers[number / 64] |= bit;
            }
            (None, true) => {
                self.entries = removed(&self.entries, place);
                self.numbers[number / 64] &= !bit;
            }
            (None, false) => {}
        }
    }

    /// The entry of exactly this prefix.
    pub(super) fn get<B: Bits>(&self, mut bits: B, mut len: u8) -> Option<&Entry> {
        let mut node = self;
        while len > STRIDE {
            let child = node.child(bits.slot())?;
            (bits, len) = (bits.rest(), len - STRIDE);
            match child {
                Child::Node(child) => node = child,
                Child::Alone(alone) => {
                    let same = (alone.bits::<B>(), alone.len) == (bits, len);
                    return same.then_some(&alone.entry);
                }
            }
        }
        let number = number(bits.slot(), len);
        let found = node.has(number).then(|| node.place(number));
        node.entries.get(found?)
    }

    /// The entry of the longest prefix that covers a slot; there is one. Without branches: which
    /// it will be cannot be guessed, and a guess would be found wrong only when the node has come
    /// from memory, with the next lookups waiting behind it.
    #[inline(always)]
    fn longest_entry(&self, slot: usize) -> Option<&Entry> {
        let here = self.numbers[1] >> slot & 1 == 1;
        let shorter = (self.numbers[0] & SHORTER[slot / 2] | 1).ilog2();
        let before = select_unpredictable(here, u64::MAX, (1 << shorter) - 1);
        let before_here = select_unpredictable(here, (1 << slot) - 1, 0);
        let place =
            (self.numbers[0] & before).count_ones() + (self.numbers[1] & before_here).count_ones();
        self.entries.get(place as usize)
    }

    /// The entry of the longest prefix that an address lies in.
    #[inline]
    pub(super) fn lookup(&self, address: impl Bits) -> Option<&Entry> {
        self.lookup_in(u8::MAX, address)
    }

    /// The entry of the longest prefix that an address lies in, where it lies in none that is
    /// longer than so many nodes decide.
    #[inline(always)]
    pub(super) fn lookup_in(&self, nodes: u8, mut address: impl Bits) -> Option<&Entry> {
        let mut node = self;
        let (mut found, mut any) = ((self, 0), false);
        for _ in 0..nodes {
            let slot = address.slot();
            let covers = node.covers(slot);
            found = select_unpredictable(covers, (node, slot), found);
            any |= covers;
            let child = node.child(slot);
            address = address.rest();
            match child {
                Some(Child::Node(child)) => node = child,
                Some(Child::Alone(alone)) if alone.covers(address) => return Some(&alone.entry),
                _ => break,
            }
        }
        let (node, slot) = found;
        if any { node.longest_entry(slot) } else { None }
    }

    /// What addresses lead to that begin with the first `depth` bits of this one, asked for a
    /// prefix of more than `least` bits. Nodes end at `depth`.
    pub(super) fn alike<B: Bits>(&self, address: B, least: u8, depth: u8) -> Alike<'_> {
        let (mut node, mut left, mut at) = (self, address, 0);
        let mut found = Alike::Shorter;
        loop {
            let slot = left.slot();
            if node.covers(slot) {
                let number = node.longest(slot);
                if at + number.ilog2() as u8 > least {
                    let entry = node.entries.get(node.place(number));
                    found = entry.map_or(found, Alike::Entry);
                }
            }
            let child = node.child(slot);
            (at, left) = (at + STRIDE, left.rest());
            match child {
                Some(Child::Node(child)) if at < depth => node = child,
                Some(Child::Node(_)) => return Alike::Not,
                Some(Child::Alone(alone)) => {
                    let len = at + alone.len;
                    let alike = alone.bits::<B>().alike(left) as u8;
                    return if len > depth && at + alike >= depth {
                        Alike::Not
                    } else if len > least && len <= depth && alike >= alone.len {
                        Alike::Entry(&alone.entry)
                    } else {
                        found
                    };
                }
                None => return found,
            }
        }
    }

    /// The length of the longest prefix that an address lies in.
    pub(super) fn matching_len(&self, mut address: impl Bits) -> Option<u8> {
        let (mut node, mut depth) = (self, 0);
        let mut found = None;
        loop {
            let slot = address.slot();
            if node.covers(slot) {
                found = Some(depth + node.longest(slot).ilog2() as u8);
            }
            let child = node.child(slot);
            (depth, address) = (depth + STRIDE, address.rest());
            match child {
                Some(Child::Node(child)) => node = child,
                Some(Child::Alone(alone)) if alone.covers(address) => {
                    return Some(depth + alone.len);
                }
                _ => return found,
            }
        }
    }

    /// Every target that it keeps alive, once for each that leads there.
    pub(super) fn targets(&self) -> Box<dyn Iterator<Item = &Arc<Target>> + '_> {
        let alone = self.children.iter().filter_map(Child::alone);
        let here = self.entries.iter().chain(alone.map(|alone| &alone.entry));
        let below = self
            .children
            .iter()
            .filter_map(Child::node)
            .flat_map(Self::targets);
        Box::new(here.flat_map(Entry::targets).chain(below))
    }

    /// Bytes on the heap, targets left out.
    pub(super) fn heap_bytes(&self) -> usize {
        let arc = |bytes| if bytes == 0 { 0 } else { ARC_BYTES + bytes };
        arc(size_of_val(&*self.children))
            + arc(size_of_val(&*self.entries))
            + self.children.iter().map(Child::heap_bytes).sum::<usize>()
            + self.entries.iter().map(Entry::heap_bytes).sum::<usize>()
    }
}

impl Child {
    fn node(&self) -> Option<&Node> {
        match self {
            Self::Node(node) => Some(node),
            Self::Alone(_) => None,
        }
    }

    fn alone(&self) -> Option<&Alone> {
        match self {
            Self::Node(_) => None,
            Self::Alone(alone) => Some(alone),
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::Node(node) => node.heap_bytes(),
            Self::Alone(alone) => alone.entry.heap_bytes(),
        }
    }
}

fn inserted<T: Clone>(items: &[T], place: usize, item: T) -> Arc<[T]> {
    let (before, after) = items.split_at(place);
    let before = before.iter().cloned();
    before.chain([item]).chain(after.iter().cloned()).collect()
}

fn removed<T: Clone>(items: &[T], place: usize) -> Arc<[T]> {
    let (before, after) = items.split_at(place);
    before.iter().chain(&after[1..]).cloned().collect()
}
