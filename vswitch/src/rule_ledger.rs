//! Frames by rule: which rules let how much pass, and when last.
//!
//! A worker writes its ledger, control reads it while the worker runs. A frame that the flow cache
//! answers costs nothing here: its entry counts it, as ever, and what an entry counted goes to the
//! rules when the entry is settled: now and then, when it makes room for another, and when
//! somebody asks. What a rule denied stands in the [drop ledger](crate::drop_ledger).

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use policy::RuleId;

use crate::counters::Counter;

/// Rows of a worker's ledger: rules beyond them that let frames pass are not counted one by one.
const ROWS: usize = 32_768;

/// Rules with higher numbers have no row. Control gives out the lowest that are free, and keeps
/// those of 65,536 rules that are gone.
const NUMBERS: usize = 1 << 18;

/// A row's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleSlot(u16);

impl RuleSlot {
    /// No rule decided, or the ledger has no row for it.
    pub const NONE: Self = Self(0);
}

/// The rows, as control sees them.
#[derive(Debug)]
pub struct RuleRows(Box<[Row]>);

#[derive(Debug, Default)]
struct Row {
    /// The rule's number and [`PRESENT`]; 0 for a free row.
    label: AtomicU64,
    frames: Counter,
    last_s: AtomicU32,
}

const PRESENT: u64 = 1 << 32;

/// What one rule let pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleCount {
    /// The rule.
    pub rule: RuleId,
    /// Frames that it let pass.
    pub frames: u64,
    /// When the last of them came, in seconds of the clock, at most a few too late.
    pub last_s: u32,
}

impl RuleRows {
    /// Every row that has counted something.
    pub fn entries(&self) -> impl Iterator<Item = RuleCount> + '_ {
        self.0.iter().filter_map(|row| {
            let label = row.label.load(Relaxed);
            let frames = row.frames.get();
            (label & PRESENT != 0 && frames > 0).then(|| RuleCount {
                rule: RuleId(label as u32),
                frames,
                last_s: row.last_s.load(Relaxed),
            })
        })
    }
}

/// The worker's side.
#[derive(Debug)]
pub struct RuleLedger {
    rows: Arc<RuleRows>,
    /// By rule number: a miss looks two up, and a hash of each would be a tenth of its cost.
    slots: Box<[RuleSlot]>,
    free: Vec<u16>,
}

impl Default for RuleLedger {
    fn default() -> Self {
        Self::new(ROWS)
    }
}

impl RuleLedger {
    /// A ledger of so many rows, one of which is for all that has none; at most 65,536.
    pub fn new(rows: usize) -> Self {
        Self {
            rows: Arc::new(RuleRows((0..rows).map(|_| Row::default()).collect())),
            slots: vec![RuleSlot::NONE; NUMBERS].into(),
            free: (1..rows as u16).rev().collect(),
        }
    }

    /// The rows, for control.
    pub fn rows(&self) -> Arc<RuleRows> {
        Arc::clone(&self.rows)
    }

    /// The row that counts what `rule` lets pass.
    pub fn slot(&mut self, rule: Option<RuleId>) -> RuleSlot {
        let Some(rule) = rule else {
            return RuleSlot::NONE;
        };
        let Some(slot) = self.slots.get_mut(rule.0 as usize) else {
            return RuleSlot::NONE;
        };
        if *slot == RuleSlot::NONE
            && let Some(free) = self.free.pop()
        {
            let label = PRESENT | u64::from(rule.0);
            self.rows.0[free as usize].label.store(label, Relaxed);
            *slot = RuleSlot(free);
        }
        *slot
    }

    /// Counts frames, the last of which came at `at_s`.
    #[inline]
    pub fn count(&self, slot: RuleSlot, frames: u64, at_s: u32) {
        let row = &self.rows.0[slot.0 as usize];
        row.frames.add(frames);
        row.last_s.store(at_s, Relaxed);
    }

    /// Frees the rows of rules that are gone, once half of all rows are taken: until then what they
    /// let pass stays known.
    pub fn make_room(&mut self, is_there: impl Fn(RuleId) -> bool) {
        if self.free.len() > self.rows.0.len() / 2 {
            return;
        }
        for (number, row) in self.rows.0.iter().enumerate() {
            let label = row.label.load(Relaxed);
            let rule = RuleId(label as u32);
            if label & PRESENT != 0 && !is_there(rule) {
                row.label.store(0, Relaxed);
                row.frames.set(0);
                self.slots[rule.0 as usize] = RuleSlot::NONE;
                self.free.push(number as u16);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_what_they_count_and_when_last() {
        let mut ledger = RuleLedger::default();
        let last = NUMBERS as u32 - 1;
        for (rule, frames, at_s) in [(0, 1, 5), (last, 2, 6), (0, 3, 7)] {
            let slot = ledger.slot(Some(RuleId(rule)));
            ledger.count(slot, frames, at_s);
        }
        for nobody in [None, Some(RuleId(u32::MAX))] {
            let nobody = ledger.slot(nobody);
            ledger.count(nobody, 9, 9);
        }
        let mut seen: Vec<_> = ledger.rows().entries().collect();
        seen.sort_by_key(|row| row.rule);
        let expected = [(0, 4, 7), (last, 2, 6)].map(|(rule, frames, last_s)| RuleCount {
            rule: RuleId(rule),
            frames,
            last_s,
        });
        assert_eq!(seen, expected);
    }

    #[test]
    fn rules_that_are_gone_make_room_when_it_is_needed() {
        let mut ledger = RuleLedger::default();
        let fill = |ledger: &mut RuleLedger, rules: std::ops::Range<u32>| {
            rules
                .map(|rule| {
                    let slot = ledger.slot(Some(RuleId(rule)));
                    ledger.count(slot, 1, 0);
                    slot
                })
                .filter(|slot| *slot != RuleSlot::NONE)
                .count()
        };
        assert_eq!(fill(&mut ledger, 0..100), 100);
        ledger.make_room(|_| false);
        assert_eq!(ledger.rows().entries().count(), 100, "there was room");
        assert_eq!(fill(&mut ledger, 100..2 * ROWS as u32), ROWS - 101);
        ledger.make_room(|rule| rule.0 < 10);
        assert_eq!(ledger.rows().entries().count(), 10);
        let new = ledger.slot(Some(RuleId(NUMBERS as u32 - 1)));
        ledger.count(new, 1, 3);
        let counts: Vec<_> = ledger.rows().entries().map(|row| row.frames).collect();
        assert_eq!(counts, [1; 11]);
    }
}
