//! Drops by (port, reason, rule): which rule dropped how much.
//!
//! A worker writes its ledger, control reads it while the worker runs. A cached verdict keeps the
//! row it counts in, so that counting costs one addition. The ledger has a fixed number of rows;
//! when all are taken, drops count in the row "not itemised" (the counters by reason stay exact).

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use hashbrown::HashMap;
use policy::{Denial, DropReason, PortId, RuleId};

use crate::counters::Counter;

/// Rows of a worker's ledger: so many (port, reason, rule) may drop and still be told apart.
const ROWS: usize = 32_768;

/// A row's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerSlot(u16);

impl LedgerSlot {
    /// The row for what the ledger had no row for.
    pub const NOT_ITEMISED: Self = Self(0);
}

/// The rows, as control sees them.
#[derive(Debug)]
pub struct LedgerRows(Box<[Row]>);

#[derive(Debug, Default)]
struct Row {
    /// What the row counts, packed by [`pack`]; 0 for a free row.
    label: AtomicU64,
    frames: Counter,
    last_s: AtomicU32,
}

/// One row that counts something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// In whose account the drops stand.
    pub port: PortId,
    /// What dropped the frames.
    pub denial: Denial,
    /// How many.
    pub frames: u64,
    /// When the last one was, in seconds of the clock.
    pub last_s: u32,
}

impl LedgerRows {
    /// Every row that has counted something.
    pub fn entries(&self) -> impl Iterator<Item = LedgerEntry> + '_ {
        self.0.iter().filter_map(|row| {
            let (port, denial) = unpack(row.label.load(Relaxed))?;
            let frames = row.frames.get();
            (frames > 0).then_some(LedgerEntry {
                port,
                denial,
                frames,
                last_s: row.last_s.load(Relaxed),
            })
        })
    }
}

/// The worker's side.
#[derive(Debug)]
pub struct DropLedger {
    rows: Arc<LedgerRows>,
    slots: HashMap<u64, LedgerSlot>,
    free: Vec<u16>,
}

impl Default for DropLedger {
    fn default() -> Self {
        Self::new(ROWS)
    }
}

impl DropLedger {
    /// A ledger of so many rows, at most 65,536.
    pub fn new(rows: usize) -> Self {
        let numbers = 0..=u16::try_from(rows.saturating_sub(1)).unwrap_or(u16::MAX);
        Self {
            rows: Arc::new(LedgerRows(
                numbers.clone().map(|_| Row::default()).collect(),
            )),
            slots: HashMap::with_capacity(rows),
            free: numbers.skip(1).rev().collect(),
        }
    }

    /// The rows, for control.
    pub fn rows(&self) -> Arc<LedgerRows> {
        Arc::clone(&self.rows)
    }

    /// The row that counts `denial` in `port`'s account.
    pub fn slot(&mut self, port: PortId, denial: Denial) -> LedgerSlot {
        let label = pack(port, denial);
        if let Some(slot) = self.slots.get(&label) {
            return *slot;
        }
        let Some(free) = self.free.pop() else {
            return LedgerSlot::NOT_ITEMISED;
        };
        self.rows.0[free as usize].label.store(label, Relaxed);
        self.slots.insert(label, LedgerSlot(free));
        LedgerSlot(free)
    }

    /// What a row counts; `None` for what is not itemised.
    pub fn denial(&self, slot: LedgerSlot) -> Option<Denial> {
        let label = self.rows.0[slot.0 as usize].label.load(Relaxed);
        unpack(label).map(|(_, denial)| denial)
    }

    /// Counts one frame, dropped at `now_s`.
    #[inline]
    pub fn count(&self, slot: LedgerSlot, now_s: u32) {
        let row = &self.rows.0[slot.0 as usize];
        row.frames.add(1);
        row.last_s.store(now_s, Relaxed);
    }

    /// Frees the rows of a port that is gone.
    pub fn forget(&mut self, port: PortId) {
        let (rows, free) = (&self.rows, &mut self.free);
        self.slots.retain(|label, slot| {
            let keep = unpack(*label).is_none_or(|(owner, _)| owner != port);
            if !keep {
                let row = &rows.0[slot.0 as usize];
                row.label.store(0, Relaxed);
                row.frames.set(0);
                free.push(slot.0);
            }
            keep
        });
    }
}

const RULE_PRESENT: u64 = 1 << 62;
const ROW_PRESENT: u64 = 1 << 63;

fn pack(port: PortId, denial: Denial) -> u64 {
    let rule = denial
        .rule
        .map_or(0, |RuleId(id)| RULE_PRESENT | u64::from(id));
    ROW_PRESENT | rule | u64::from(port.0) << 32 | (denial.reason as u64) << 48
}

fn unpack(label: u64) -> Option<(PortId, Denial)> {
    if label & ROW_PRESENT == 0 {
        return None;
    }
    let reason = *DropReason::ALL.get((label >> 48) as usize & 0xff)?;
    let rule = (label & RULE_PRESENT != 0).then_some(RuleId(label as u32));
    Some((PortId((label >> 32) as u16), Denial { reason, rule }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(rule: Option<u32>) -> Denial {
        Denial {
            reason: DropReason::PortDown,
            rule: rule.map(RuleId),
        }
    }

    #[test]
    fn rows_say_what_they_count() {
        let mut ledger = DropLedger::default();
        for (port, rule, times) in [(0, None, 1), (3, Some(0), 2), (u16::MAX, Some(u32::MAX), 3)] {
            for _ in 0..times {
                let slot = ledger.slot(PortId(port), denial(rule));
                ledger.count(slot, 0);
            }
        }
        let mut seen: Vec<_> = ledger
            .rows()
            .entries()
            .map(|e| (e.port.0, e.denial, e.frames))
            .collect();
        seen.sort_by_key(|row| row.2);
        let expected = [
            (0, denial(None), 1),
            (3, denial(Some(0)), 2),
            (u16::MAX, denial(Some(u32::MAX)), 3),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_full_ledger_goes_on_and_a_forgotten_port_makes_room() {
        let mut ledger = DropLedger::default();
        for rule in 0..2 * ROWS as u32 {
            let slot = ledger.slot(PortId((rule % 2) as u16), denial(Some(rule)));
            ledger.count(slot, 0);
        }
        assert_eq!(
            ledger.slot(PortId(9), denial(None)),
            LedgerSlot::NOT_ITEMISED
        );
        ledger.forget(PortId(1));
        assert!(ledger.rows().entries().all(|entry| entry.port == PortId(0)));
        assert_ne!(
            ledger.slot(PortId(9), denial(None)),
            LedgerSlot::NOT_ITEMISED
        );
    }
}
