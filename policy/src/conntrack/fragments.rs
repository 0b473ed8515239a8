//! Fragments: what was decided of the first one, for those that follow it.
//!
//! In: first fragments that passed, then later ones, which have no ports to judge them by. Out:
//! where the first was let through. What must hold: the table never grows; of the fragments of one
//! set the oldest makes room, and none is remembered for longer than [`TIMEOUT_S`].

use std::sync::{Mutex, PoisonError};

use super::tuple::Zone;
use crate::{
    PortId,
    key::{Field, FlowKey, shape},
    parse::Parsed,
};

/// How long a first fragment is remembered, seconds (RFC 8200 §4.5 gives up after 60, most hosts
/// after 30).
pub const TIMEOUT_S: u32 = 30;

const SETS: usize = 1024;
const WAYS: usize = 4;

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FragmentKey {
    addresses: [u64; 4],
    /// Zone, ingress port, protocol and family.
    place: u64,
    id: u32,
}

impl FragmentKey {
    /// Of a frame that is a fragment; `head` is what `parsed` was parsed from.
    pub fn read(zone: Zone, head: &[u8], parsed: &Parsed) -> Option<Self> {
        let key = &parsed.key;
        let either = shape::FIRST_FRAGMENT | shape::LATER_FRAGMENT;
        if key.get(Field::SHAPE) & either == 0 {
            return None;
        }
        let ipv6 = key.has(shape::IPV6);
        let packet = head.get(usize::from(parsed.l3_offset)..)?;
        let id = if ipv6 {
            ipv6_id(packet)?
        } else {
            let header = packet.first_chunk::<6>()?;
            u32::from(u16::from_be_bytes([header[4], header[5]]))
        };
        // IPv6 tells packets apart by addresses and identification alone (RFC 8200 §4.5).
        let protocol = if ipv6 { 0 } else { key.get(Field::PROTOCOL) };
        let port = key.get(Field::INGRESS);
        Some(Self {
            addresses: addresses(key),
            place: u64::from(zone.0) << 32 | port << 16 | u64::from(ipv6) << 8 | protocol,
            id,
        })
    }

    fn set(&self, secret: u64) -> usize {
        let words = self.addresses.iter().chain([&self.place]);
        let hash = words.fold(u64::from(self.id) ^ secret, |hash, word| {
            let product = u128::from(hash ^ word) * u128::from(secret | 1);
            product as u64 ^ (product >> 64) as u64
        });
        (hash >> 32) as usize % SETS
    }
}

fn addresses(key: &FlowKey) -> [u64; 4] {
    [
        key.get(Field::IP_SRC_HIGH),
        key.get(Field::IP_SRC_LOW),
        key.get(Field::IP_DST_HIGH),
        key.get(Field::IP_DST_LOW),
    ]
}

/// The identification in the fragment header, which the parser has found sound.
fn ipv6_id(packet: &[u8]) -> Option<u32> {
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    let mut next = *packet.get(6)?;
    let mut at = 40;
    for _ in 0..8 {
        let header = packet.get(at..)?.first_chunk::<8>()?;
        match next {
            FRAGMENT => {
                let id = [header[4], header[5], header[6], header[7]];
                return Some(u32::from_be_bytes(id));
            }
            AUTHENTICATION => at += (usize::from(header[1]) + 2) * 4,
            _ => at += (usize::from(header[1]) + 1) * 8,
        }
        next = header[0];
    }
    None
}

/// Where a first fragment was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The port, when it was one; whoever else the later ones reach judges them itself.
    pub to: Option<PortId>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: FragmentKey,
    grant: Grant,
    seen_s: u32,
}

/// The table.
#[derive(Debug)]
pub struct Fragments {
    sets: Mutex<Box<[[Option<Entry>; WAYS]]>>,
    secret: u64,
}

impl Fragments {
    pub(super) fn new(secret: u64) -> Self {
        Self {
            sets: Mutex::new(vec![[None; WAYS]; SETS].into()),
            secret,
        }
    }

    /// Remembers a first fragment that passed.
    pub fn remember(&self, key: FragmentKey, grant: Grant, now_s: u32) {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let set = &mut sets[key.set(self.secret)];
        let same = set
            .iter()
            .position(|entry| entry.is_some_and(|entry| entry.key == key));
        let oldest = || {
            let ages = set.iter().map(|entry| entry.map(|entry| entry.seen_s));
            ages.enumerate()
                .min_by_key(|(_, seen_s)| *seen_s)
                .map_or(0, |(way, _)| way)
        };
        let way = same.unwrap_or_else(oldest);
        set[way] = Some(Entry {
            key,
            grant,
            seen_s: now_s,
        });
    }

    /// What a later fragment follows.
    pub fn follow(&self, key: &FragmentKey, now_s: u32) -> Option<Grant> {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let set = &sets[key.set(self.secret)];
        let entry = set.iter().flatten().find(|entry| entry.key == *key)?;
        (now_s.saturating_sub(entry.seen_s) <= TIMEOUT_S).then_some(entry.grant)
    }
}
