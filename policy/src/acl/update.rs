//! A compiled list with some rules changed.
//!
//! In come a compiled list, its rules, and the rules that it is to have; out goes another compiled
//! list that shares with the first what did not change, or why the list must be compiled whole.
//! Readers of the first are not disturbed: nothing that they can see is written.
//!
//! What must hold: the result decides as the second list compiled whole would, and its bound holds
//! for every frame. Its masks may be wider: what was taken out is still traced.

use super::{
    Rebuild, Update,
    buckets::{Buckets, Name, compared, tag_of},
    changes::{Change, changes},
    matcher::{Rest, required_bits},
    orders::Orders,
    plan::BUCKET_MOST,
    tuple::Tuple,
    tuple_merge::{Table, TupleMerge, rest_of},
};
use crate::{
    key::FlowKey,
    reader::Exact,
    rule::{Rule, RuleList},
};

/// So many changes wear no list, however short.
const WORN_FROM: usize = 64;
/// Slots of a table that an update opens.
const OPENED_SLOTS: u32 = 64;

impl TupleMerge {
    /// `old` are the rules that it was compiled from.
    pub(super) fn updated(
        &self,
        old: &RuleList,
        new: &RuleList,
    ) -> Result<(Self, Update), Rebuild> {
        // Compiling the list costs about as much as changing one rule of sixteen.
        let most = 8 + new.len() / 16;
        let changes = changes(old, new, most).ok_or(Rebuild::Changes)?;
        let mut next = self.clone();
        next.changes += changes.len();
        let (mut inserted, mut renumbered) = (Vec::new(), 0);
        for change in changes {
            match change {
                Change::Remove { place, old: rule } => {
                    let rule = old.get(rule).ok_or(Rebuild::Orders)?;
                    next.remove(place, rule)?;
                }
                Change::Insert { place } => {
                    renumbered += usize::from(next.make_room(place));
                    let rule = new.get(place).ok_or(Rebuild::Orders)?;
                    next.insert(place, rule)?;
                    inserted.push(place);
                }
            }
        }
        next.check()?;
        let update = Update::Patched {
            inserted,
            renumbered,
        };
        Ok((next, update))
    }

    fn remove(&mut self, place: usize, rule: &Rule) -> Result<(), Rebuild> {
        let order = self.orders.remove(place).ok_or(Rebuild::Orders)?;
        let (mask, value) = required_bits(&rule.matches);
        let slots = self.tables.iter().filter(|table| table.tuple.fits(&mask));
        let found = slots
            .map(|table| table.slot(table.tuple.hash(&mut Exact(&value))))
            .find_map(|slot| {
                let (names, _) = self.buckets.rules(slot);
                let at = names.iter().position(|name| name.order == order)?;
                Some((slot, at))
            });
        let (slot, at) = found.ok_or(Rebuild::Orders)?;
        let (names, entries) = self.buckets.rules(slot);
        let (mut names, mut entries) = (names.to_vec(), entries.to_vec());
        names.remove(at);
        entries.remove(at);
        self.buckets.write(slot, &names, &entries);
        Ok(())
    }

    fn insert(&mut self, place: usize, rule: &Rule) -> Result<(), Rebuild> {
        let order = self.orders.insert(place).ok_or(Rebuild::Orders)?;
        let (mask, value) = required_bits(&rule.matches);
        let number = self.table_for(&mask, &value, order)?;
        let table = &mut self.tables[number];
        let hash = table.tuple.hash(&mut Exact(&value));
        let slot = table.slot(hash);
        table.first = table.first.min(order);
        for table in &mut self.tables[..=number] {
            table.all_first = table.all_first.min(order);
        }

        let words = compared(&mask);
        let words = match self.buckets.find_mask(words) {
            Some(number) => number,
            None => self.buckets.add_mask(words),
        };
        let rest = rest_of(rule, &mask, &value);
        let rest = if rest == Rest::default() {
            0
        } else {
            self.buckets.add_rest(rest)
        };
        let entry = Buckets::entry(&value, words, rest, rule.id, rule.action);
        let (names, entries) = self.buckets.rules(slot);
        let (mut names, mut entries) = (names.to_vec(), entries.to_vec());
        let at = names.partition_point(|name| name.order < order);
        let tag = tag_of(hash);
        names.insert(at, Name { tag, order });
        entries.insert(at, entry);
        self.buckets.write(slot, &names, &entries);

        let longest = self.buckets.longest(slot);
        if longest > self.longest[number] {
            let more = longest - self.longest[number];
            self.fields.lengthen(more as usize);
            self.longest[number] = longest;
        }
        self.fields.add(number, &rule.matches, &self.longest);
        Ok(())
    }

    /// The table for a rule: one with room, best where the rule makes no slot the longest and
    /// stands behind the table's first; or else a new one.
    fn table_for(&mut self, mask: &FlowKey, value: &FlowKey, order: u32) -> Result<usize, Rebuild> {
        let tables = self.tables.iter().enumerate();
        let roomy = tables.filter_map(|(number, table)| {
            if !table.tuple.fits(mask) {
                return None;
            }
            let slot = table.slot(table.tuple.hash(&mut Exact(value)));
            let length = self.buckets.len(slot) as u32;
            let drawback = (length >= self.longest[number], table.first > order);
            (length < BUCKET_MOST).then_some((drawback, number))
        });
        if let Some((_, number)) = roomy.min() {
            return Ok(number);
        }
        let find = |tuple: Tuple| self.tables.iter().position(|table| table.tuple == tuple);
        let (coarse, exact) = (Tuple::coarse(mask), Tuple::exact(mask));
        let tuple = match (find(coarse), find(exact)) {
            (None, _) => coarse,
            (Some(_), None) => exact,
            (Some(_), Some(exact)) => return Ok(exact),
        };
        if self.tables.len() >= self.fields.capacity() {
            return Err(Rebuild::Tables);
        }
        self.tables.push(Table {
            tuple,
            first: u32::MAX,
            all_first: u32::MAX,
            first_slot: self.buckets.open(OPENED_SLOTS),
            slot_mask: OPENED_SLOTS - 1,
        });
        self.longest.push(0);
        Ok(self.tables.len() - 1)
    }

    /// Spreads the orders evenly if there is none before the rule at `place`; says if so.
    fn make_room(&mut self, place: usize) -> bool {
        if self.orders.has_room(place) {
            return false;
        }
        let old: Vec<u32> = self.orders.iter().collect();
        self.orders = Orders::spread(old.len());
        let new: Vec<u32> = self.orders.iter().collect();
        // Orders of rules that were taken out become the next one's.
        let of = |order| {
            let place = old.partition_point(|old| *old < order);
            new.get(place).copied().unwrap_or(u32::MAX)
        };
        self.buckets.reorder(of);
        for table in &mut self.tables {
            table.first = of(table.first);
            table.all_first = of(table.all_first);
        }
        true
    }

    /// Whether changes have worn the list, or left so much behind and made the bound so much greater
    /// that it must be compiled whole before anyone looks it up.
    fn check(&mut self) -> Result<(), Rebuild> {
        let length = self.orders.len();
        let left_behind = self.buckets.written() - self.first.written;
        if left_behind > 256 + length / 2 || self.fields.left_behind() > 4 {
            return Err(Rebuild::Space);
        }
        let within = |tables: &Self, eighths| {
            let most = tables.first.grown(eighths);
            tables.fields.bound().within(&most)
        };
        if !within(self, 1) {
            self.fields.weigh(&self.longest);
        }
        if !within(self, 4) {
            return Err(Rebuild::Bound);
        }
        self.worn = self.changes > WORN_FROM + length / 256
            || left_behind > 128 + length / 4
            || self.fields.left_behind() > 2
            || !within(self, 1);
        Ok(())
    }
}
