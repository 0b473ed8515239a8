//! Outer fragments, put together within bounds.
//!
//! In come fragments of GRE or UDP; out go whole datagrams. What must hold: memory is what was
//! allocated at the start, whatever comes; one pair of addresses never takes all of it; every
//! fragment is held, part of a datagram, or refused by name; a datagram whose fragments overlap is
//! given up (RFC 8200 §4.5), for nobody could say what it was meant to be.

use std::ops::Range;

use crate::wire::{Refusal, outer::Outer};

/// Bounds of reassembly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReassemblyLimits {
    /// Datagrams that are held at once.
    pub datagrams: usize,
    /// Those of them that are of one pair of addresses.
    pub datagrams_of_sender: usize,
    /// Length of the longest datagram, in bytes.
    pub datagram_bytes: usize,
    /// How long the fragments of a datagram are waited for, in nanoseconds.
    pub timeout_ns: u64,
}

impl Default for ReassemblyLimits {
    /// A megabyte: jumbo frames, and a tenth of a second's worth of reordering.
    fn default() -> Self {
        Self {
            datagrams: 64,
            datagrams_of_sender: 32,
            datagram_bytes: 16 * 1024,
            timeout_ns: 500_000_000,
        }
    }
}

/// Stretches of a datagram that are there while others between them are missing.
const MAX_STRETCHES: usize = 32;
/// The longest payload of an IP packet.
const MAX_PAYLOAD: usize = u16::MAX as usize;

/// What the fragments of a datagram have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Key {
    source: u128,
    destination: u128,
    id: u32,
    protocol: u8,
}

/// A datagram of which some fragments are there.
#[derive(Clone, Debug, Default)]
struct Entry {
    /// Fragments that are there; 0 for an entry that is free.
    fragments: u64,
    key: Key,
    began_ns: u64,
    /// Where the datagram ends, once its last fragment is there.
    end: Option<usize>,
    stretches: [(usize, usize); MAX_STRETCHES],
    count: usize,
}

/// What became of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// Others are waited for.
    Held,
    /// It was the last one missing.
    Complete {
        /// Where the datagram is, until the next fragment is added.
        place: Place,
        /// Of how many fragments it was made.
        fragments: u64,
    },
    /// It, and perhaps those before it, are given up.
    Refused {
        /// Why.
        refusal: Refusal,
        /// How many they are.
        fragments: u64,
    },
}

/// Where a complete datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    entry: usize,
    len: usize,
}

/// Datagrams whose fragments are being collected.
#[derive(Debug)]
pub struct Reassembly {
    limits: ReassemblyLimits,
    entries: Box<[Entry]>,
    bytes: Box<[u8]>,
    held: u64,
    /// No datagram is waited for since before.
    oldest_ns: u64,
}

impl Reassembly {
    /// Nothing held yet; all memory is taken now.
    pub fn new(limits: ReassemblyLimits) -> Self {
        Self {
            limits,
            entries: vec![Entry::default(); limits.datagrams].into(),
            bytes: vec![0; limits.datagrams * limits.datagram_bytes].into(),
            held: 0,
            oldest_ns: u64::MAX,
        }
    }

    /// Fragments that are held.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Gives up what was waited for too long; returns how many fragments.
    pub fn expire(&mut self, now_ns: u64) -> u64 {
        let late = |began_ns: u64| now_ns.saturating_sub(began_ns) > self.limits.timeout_ns;
        if !late(self.oldest_ns) {
            return 0;
        }
        let (mut expired, mut oldest_ns) = (0, u64::MAX);
        for entry in self.entries.iter_mut().filter(|entry| entry.fragments > 0) {
            if late(entry.began_ns) {
                expired += std::mem::take(&mut entry.fragments);
            } else {
                oldest_ns = oldest_ns.min(entry.began_ns);
            }
        }
        self.oldest_ns = oldest_ns;
        self.held -= expired;
        expired
    }

    /// A complete datagram.
    pub fn datagram(&self, place: Place) -> &[u8] {
        let start = place.entry * self.limits.datagram_bytes;
        &self.bytes[start..start + place.len]
    }

    /// Adds a fragment; `payload` is its part of the datagram.
    pub fn add(&mut self, outer: &Outer, payload: &[u8], now_ns: u64) -> Added {
        let refused = |refusal, before: u64| Added::Refused {
            refusal,
            fragments: before + 1,
        };
        let Some(fragment) = outer.fragment else {
            return refused(Refusal::FragmentMalformed, 0);
        };
        let key = Key {
            source: outer.source,
            destination: outer.destination,
            id: fragment.id,
            protocol: outer.protocol,
        };
        let range = fragment.offset..fragment.offset + payload.len();
        let index = match self.entry(&key) {
            Ok(index) => index,
            Err(refusal) => return refused(refusal, 0),
        };
        let entry = &mut self.entries[index];
        if entry.fragments == 0 {
            self.oldest_ns = self.oldest_ns.min(now_ns);
            *entry = Entry {
                key,
                began_ns: now_ns,
                ..Entry::default()
            };
        }
        let most = self.limits.datagram_bytes;
        if let Err(refusal) = entry.insert(range.clone(), fragment.more, most) {
            let before = std::mem::take(&mut entry.fragments);
            self.held -= before;
            return refused(refusal, before);
        }
        entry.fragments += 1;
        self.held += 1;
        let start = index * most;
        self.bytes[start + range.start..start + range.end].copy_from_slice(payload);
        let Some(len) = entry.complete() else {
            return Added::Held;
        };
        // Its bytes stay until another datagram begins here.
        let fragments = std::mem::take(&mut entry.fragments);
        self.held -= fragments;
        let place = Place { entry: index, len };
        Added::Complete { place, fragments }
    }

    /// The entry of a datagram, or a free one.
    fn entry(&self, key: &Key) -> Result<usize, Refusal> {
        let (mut free, mut same) = (None, 0);
        for (index, entry) in self.entries.iter().enumerate() {
            if entry.fragments == 0 {
                free = free.or(Some(index));
                continue;
            }
            if entry.key == *key {
                return Ok(index);
            }
            let (source, destination) = (entry.key.source, entry.key.destination);
            same += usize::from((source, destination) == (key.source, key.destination));
        }
        free.filter(|_| same < self.limits.datagrams_of_sender)
            .ok_or(Refusal::FragmentsFull)
    }
}

impl Entry {
    /// Takes note of a fragment.
    fn insert(&mut self, range: Range<usize>, more: bool, most: usize) -> Result<(), Refusal> {
        let len = range.len();
        let aligned = !more || len.is_multiple_of(8);
        if len == 0 || !aligned || range.end > MAX_PAYLOAD {
            return Err(Refusal::FragmentMalformed);
        }
        if range.end > most {
            return Err(Refusal::FragmentTooBig);
        }
        let there = &self.stretches[..self.count];
        if !more {
            let beyond = there.iter().any(|(_, end)| *end > range.end);
            if self.end.is_some_and(|end| end != range.end) || beyond {
                return Err(Refusal::FragmentMalformed);
            }
            self.end = Some(range.end);
        } else if self.end.is_some_and(|end| range.end > end) {
            return Err(Refusal::FragmentMalformed);
        }
        if there
            .iter()
            .any(|(start, end)| *start < range.end && range.start < *end)
        {
            return Err(Refusal::FragmentOverlap);
        }
        self.join(range)
    }

    /// Adds a stretch, as part of those that it touches.
    fn join(&mut self, mut range: Range<usize>) -> Result<(), Refusal> {
        let mut kept = 0;
        for at in 0..self.count {
            let (start, end) = self.stretches[at];
            if end == range.start {
                range.start = start;
            } else if start == range.end {
                range.end = end;
            } else {
                self.stretches[kept] = (start, end);
                kept += 1;
            }
        }
        let slot = self.stretches.get_mut(kept).ok_or(Refusal::FragmentsFull)?;
        *slot = (range.start, range.end);
        self.count = kept + 1;
        Ok(())
    }

    /// The datagram's length, when all of it is there.
    fn complete(&self) -> Option<usize> {
        let end = self.end?;
        (self.count == 1 && self.stretches[0] == (0, end)).then_some(end)
    }
}
