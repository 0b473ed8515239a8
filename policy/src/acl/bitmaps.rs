//! Field bitmaps: which tables can hold a rule for a frame with these addresses, ports, protocol
//! and ethertype.
//!
//! In come the rules of each table; out goes, for a frame, one row of bits for each field, a bit
//! for each table. A table can matter only if its bit is set in every row. A row depends on no
//! more of the key than the rules compare, and a rule that matches a frame always has its table's
//! bit there; so a verdict does not depend on what is read here. Bits of rules that were taken out
//! stay: they cost probes, which the bound counts.

use std::ops::RangeInclusive;

use hashbrown::HashMap;
use ipnet::IpNet;

use super::{cost::Bound, intervals::Intervals, matcher::required_any, paged::Paged};
use crate::{
    key::{Field, shape},
    reader::KeyReader,
    rule::Match,
};

/// How many fields there are a row of.
const FIELDS: usize = 6;

/// Rows by field value.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    rows: Rows,
    src: Addresses,
    dst: Addresses,
    src_port: Numbers<u16>,
    dst_port: Numbers<u16>,
    protocol: Numbers<u8>,
    ethertype: Numbers<u16>,
}

/// Rows by address.
#[derive(Clone, Debug)]
struct Addresses {
    ipv4: Numbers<u32>,
    ipv6: Numbers<u128>,
    /// The row of frames without IP addresses.
    other: u32,
}

/// Rows by number.
#[derive(Clone, Debug)]
struct Numbers<T> {
    intervals: Intervals<T>,
    /// Tables that are in every row.
    always: Box<[u64]>,
    /// No row sums up to more.
    most: Bound,
}

/// Bitmaps of tables. The one at 0 holds all tables that there were at first.
#[derive(Clone, Debug)]
struct Rows {
    /// Words of a row.
    width: usize,
    /// A row is known by its first word's number.
    words: Paged<u64, 512>,
    /// How many words there were at first.
    first_words: usize,
}

impl Fields {
    /// `tables` holds the matches of each table's rules, `longest` the most rules of a slot.
    pub(super) fn compile(tables: &[Vec<&Match>], longest: &[u32]) -> Self {
        let width = tables.len().div_ceil(64).max(1);
        let mut draft = Draft::new(width);
        let mut sweeps: [Sweep; 8] = std::array::from_fn(|_| Sweep::new(width));
        let mut other = vec![0; width];
        for (table, rules) in tables.iter().enumerate() {
            draft.all[table / 64] |= 1 << (table % 64);
            for rule in rules {
                let asked = Asked::of(rule);
                for (sweep, ranges) in sweeps.iter_mut().zip(asked.ranges) {
                    for range in ranges {
                        sweep.add(range.0, range.1, table);
                    }
                }
                if asked.other {
                    other[table / 64] |= 1 << (table % 64);
                }
            }
        }
        draft.intern(&draft.all.clone());
        let other = draft.intern(&other);
        let [
            src4,
            src6,
            dst4,
            dst6,
            src_port,
            dst_port,
            protocol,
            ethertype,
        ] = sweeps;
        let mut fields = Self {
            src: Addresses {
                ipv4: src4.build(&mut draft, |start| start as u32),
                ipv6: src6.build(&mut draft, |start| start),
                other,
            },
            dst: Addresses {
                ipv4: dst4.build(&mut draft, |start| start as u32),
                ipv6: dst6.build(&mut draft, |start| start),
                other,
            },
            src_port: src_port.build(&mut draft, |start| start as u16),
            dst_port: dst_port.build(&mut draft, |start| start as u16),
            protocol: protocol.build(&mut draft, |start| start as u8),
            ethertype: ethertype.build(&mut draft, |start| start as u16),
            rows: Rows {
                width,
                first_words: draft.words.len(),
                words: draft.words,
            },
        };
        fields.rows.words.shrink();
        fields.weigh(longest);
        fields
    }

    /// How many tables there can be.
    pub(super) fn capacity(&self) -> usize {
        self.rows.width * 64
    }

    /// A rule was put into the table. `longest` holds the most rules of each table's slots.
    pub(super) fn add(&mut self, table: usize, rule: &Match, longest: &[u32]) {
        let asked = Asked::of(rule);
        let [
            src4,
            src6,
            dst4,
            dst6,
            src_port,
            dst_port,
            protocol,
            ethertype,
        ] = asked.ranges;
        let rows = &mut self.rows;
        let mut change = Change {
            rows,
            table,
            longest,
        };
        let more = &mut change;
        self.src.ipv4.add(&src4, more, |v| v as u32, |v| v + 1);
        self.src.ipv6.add(&src6, more, |v| v, |v| v + 1);
        self.dst.ipv4.add(&dst4, more, |v| v as u32, |v| v + 1);
        self.dst.ipv6.add(&dst6, more, |v| v, |v| v + 1);
        self.src_port.add(&src_port, more, |v| v as u16, |v| v + 1);
        self.dst_port.add(&dst_port, more, |v| v as u16, |v| v + 1);
        self.protocol.add(&protocol, more, |v| v as u8, |v| v + 1);
        self.ethertype
            .add(&ethertype, more, |v| v as u16, |v| v + 1);
        if asked.other {
            for addresses in [&mut self.src, &mut self.dst] {
                (addresses.other, _) = change.row(addresses.other);
            }
        }
    }

    /// A table's longest slot has so many rules more.
    pub(super) fn lengthen(&mut self, rules: usize) {
        let Self {
            src,
            dst,
            src_port,
            dst_port,
            protocol,
            ethertype,
            ..
        } = self;
        for addresses in [src, dst] {
            addresses.ipv4.most.compares += rules;
            addresses.ipv6.most.compares += rules;
        }
        for most in [
            &mut src_port.most,
            &mut dst_port.most,
            &mut protocol.most,
            &mut ethertype.most,
        ] {
            most.compares += rules;
        }
    }

    /// Sums every row up anew.
    pub(super) fn weigh(&mut self, longest: &[u32]) {
        let rows = &self.rows;
        for addresses in [&mut self.src, &mut self.dst] {
            addresses.ipv4.weigh(rows, longest);
            addresses.ipv6.weigh(rows, longest);
            // No interval's, but as good a row of the field as those.
            addresses
                .ipv6
                .most
                .raise(rows.sum(addresses.other, longest));
        }
        self.src_port.weigh(rows, longest);
        self.dst_port.weigh(rows, longest);
        self.protocol.weigh(rows, longest);
        self.ethertype.weigh(rows, longest);
    }

    /// The most tables that are candidates of a frame, and the most rules in their longest slots,
    /// or somewhat more.
    pub(super) fn bound(&self) -> Bound {
        let fields: [Bound; FIELDS] = [
            self.src.ipv4.most.or_more(self.src.ipv6.most),
            self.dst.ipv4.most.or_more(self.dst.ipv6.most),
            self.src_port.most,
            self.dst_port.most,
            self.protocol.most,
            self.ethertype.most,
        ];
        Bound {
            probes: fields.iter().map(|most| most.probes).min().unwrap_or(0),
            compares: fields.iter().map(|most| most.compares).min().unwrap_or(0),
        }
    }

    /// How many times as many words rows take as at first, a few aside: what values had before
    /// changes is left there.
    pub(super) fn left_behind(&self) -> usize {
        const FREE: usize = 4096;
        self.rows.words.len().saturating_sub(FREE) / self.rows.first_words.max(1)
    }

    /// The tables that can matter to a frame, 64 at a time.
    #[inline]
    pub(super) fn candidates<'a, R: KeyReader>(
        &'a self,
        r: &mut R,
    ) -> impl Iterator<Item = u64> + use<'a, R> {
        let families = value(r, Field::SHAPE) & (shape::IPV4 | shape::IPV6);
        let rows = [
            self.src
                .row(r, families, Field::IP_SRC_HIGH, Field::IP_SRC_LOW),
            self.dst
                .row(r, families, Field::IP_DST_HIGH, Field::IP_DST_LOW),
            self.src_port.intervals.row(value(r, Field::L4_SRC) as u16),
            self.dst_port.intervals.row(value(r, Field::L4_DST) as u16),
            self.protocol.intervals.row(value(r, Field::PROTOCOL) as u8),
            self.ethertype
                .intervals
                .row(value(r, Field::ETHERTYPE) as u16),
        ];
        // One by one: the compiler makes a call of `map`.
        let words = &self.rows.words;
        let [src, dst, src_port, dst_port, protocol, ethertype] = rows;
        let words = [
            words.from(src),
            words.from(dst),
            words.from(src_port),
            words.from(dst_port),
            words.from(protocol),
            words.from(ethertype),
        ];
        (0..self.rows.width).map(move |word| {
            let bits = words.iter().map(|row| row.get(word).copied().unwrap_or(0));
            bits.fold(u64::MAX, |all, bits| all & bits)
        })
    }

    /// Bytes on the heap, what `other` has too left out.
    pub(super) fn bytes_beside(&self, other: Option<&Self>) -> usize {
        self.rows
            .words
            .bytes_beside(other.map(|other| &other.rows.words))
            + self.src.bytes_beside(other.map(|other| &other.src))
            + self.dst.bytes_beside(other.map(|other| &other.dst))
            + self.src_port.bytes_beside(other.map(|o| &o.src_port))
            + self.dst_port.bytes_beside(other.map(|o| &o.dst_port))
            + self.protocol.bytes_beside(other.map(|o| &o.protocol))
            + self.ethertype.bytes_beside(other.map(|o| &o.ethertype))
    }
}

/// The numbers of the bits that are set, from the lowest.
pub(super) fn ones(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = bits.trailing_zeros() as usize;
        (bits != 0).then(|| {
            bits &= bits - 1;
            lowest
        })
    })
}

#[inline]
fn value<R: KeyReader>(r: &mut R, field: Field) -> u64 {
    let mut value = 0;
    r.test(field, field.ones(), |bits| {
        value = bits;
        true
    });
    value
}

/// The values that a rule asks for.
struct Asked {
    /// By field, both families of addresses apart: ranges, and the greatest value there is.
    ranges: [Vec<(RangeInclusive<u128>, u128)>; 8],
    /// Whether frames without IP addresses can match.
    other: bool,
}

impl Asked {
    fn of(rule: &Match) -> Self {
        let (all4, all6) = (u128::from(u32::MAX), u128::MAX);
        let family = rule.src.or(rule.dst);
        let net = |net: Option<IpNet>, all: u128| {
            let range = match net {
                None => 0..=all,
                Some(IpNet::V4(net)) => {
                    u32::from(net.network()).into()..=u32::from(net.broadcast()).into()
                }
                Some(IpNet::V6(net)) => net.network().into()..=net.broadcast().into(),
            };
            (range, all)
        };
        let ipv4 = !matches!(family, Some(IpNet::V6(_)));
        let ipv6 = !matches!(family, Some(IpNet::V4(_)));
        let nets =
            |wanted: bool, of: Option<IpNet>, all| Vec::from_iter(wanted.then(|| net(of, all)));
        let numbers = |all: u16, ranges: &[RangeInclusive<u16>]| {
            let everything = [0..=all];
            let ranges = if ranges.is_empty() {
                &everything
            } else {
                ranges
            };
            let wide = |range: &RangeInclusive<u16>| {
                let (first, last) = (*range.start(), *range.end());
                (first.into()..=last.into(), u128::from(all))
            };
            ranges.iter().map(wide).collect()
        };
        let exactly = |number: Option<u16>| number.map(|number| number..=number);
        let icmp = rule.icmp.map(|icmp| {
            let first = u16::from(icmp.kind) << 8;
            match icmp.code {
                Some(code) => first | u16::from(code)..=first | u16::from(code),
                None => first..=first | 0xff,
            }
        });
        let src_ports = icmp.as_ref().map_or(&*rule.src_ports, std::slice::from_ref);
        Self {
            ranges: [
                nets(ipv4, rule.src, all4),
                nets(ipv6, rule.src, all6),
                nets(ipv4, rule.dst, all4),
                nets(ipv6, rule.dst, all6),
                numbers(u16::MAX, src_ports),
                numbers(u16::MAX, &rule.dst_ports),
                numbers(
                    u8::MAX.into(),
                    exactly(rule.protocol.map(u16::from)).as_slice(),
                ),
                numbers(u16::MAX, exactly(rule.ethertype).as_slice()),
            ],
            other: family.is_none() && required_any(rule) == 0,
        }
    }
}

/// A rule more in a table.
struct Change<'a> {
    rows: &'a mut Rows,
    table: usize,
    longest: &'a [u32],
}

impl Change<'_> {
    /// The row with the table in it, and its sum if it is a new one.
    fn row(&mut self, row: u32) -> (u32, Option<Bound>) {
        let (word, bit) = (self.table / 64, 1 << (self.table % 64));
        let mut words = self.rows.get(row).to_vec();
        if words[word] & bit != 0 {
            return (row, None);
        }
        words[word] |= bit;
        let row = self.rows.words.push(&words);
        (row, Some(self.rows.sum(row, self.longest)))
    }
}

impl<T: Copy + Ord> Numbers<T> {
    /// The table may matter to values in the ranges.
    fn add(
        &mut self,
        ranges: &[(RangeInclusive<u128>, u128)],
        more: &mut Change<'_>,
        narrow: impl Fn(u128) -> T,
        next: impl Fn(T) -> T,
    ) {
        let (word, bit) = (more.table / 64, 1 << (more.table % 64));
        let Self {
            intervals,
            always,
            most,
        } = self;
        // What became of a row.
        let mut changed: HashMap<u32, u32> = HashMap::new();
        for (range, all) in ranges {
            if always[word] & bit != 0 {
                return;
            }
            if *range == (0..=*all) {
                always[word] |= bit;
            }
            let values = narrow(*range.start())..=narrow(*range.end());
            intervals.change(&values, narrow(*all), &next, |row| {
                *changed.entry(row).or_insert_with(|| {
                    let (row, sum) = more.row(row);
                    most.raise(sum.unwrap_or_default());
                    row
                })
            });
        }
    }

    fn weigh(&mut self, rows: &Rows, longest: &[u32]) {
        let mut seen = vec![false; rows.words.len()];
        self.most = Bound::default();
        for row in self.intervals.rows() {
            if !std::mem::replace(&mut seen[row as usize], true) {
                self.most.raise(rows.sum(row, longest));
            }
        }
    }

    fn bytes_beside(&self, other: Option<&Self>) -> usize {
        let other = other.map(|other| &other.intervals);
        self.intervals.bytes_beside(other) + size_of_val(&*self.always)
    }
}

impl Addresses {
    #[inline(always)]
    fn row<R: KeyReader>(&self, r: &mut R, families: u64, high: Field, low: Field) -> u32 {
        match families {
            shape::IPV4 => self.ipv4.intervals.row(value(r, low) as u32),
            shape::IPV6 => {
                let high = u128::from(value(r, high)) << 64;
                let low = u128::from(value(r, low));
                self.ipv6.intervals.row(high | low)
            }
            0 => self.other,
            // No frame is both.
            _ => 0,
        }
    }

    fn bytes_beside(&self, other: Option<&Self>) -> usize {
        self.ipv4.bytes_beside(other.map(|other| &other.ipv4))
            + self.ipv6.bytes_beside(other.map(|other| &other.ipv6))
    }
}

impl Rows {
    #[inline]
    fn get(&self, row: u32) -> &[u64] {
        let words = self.words.from(row);
        words.get(..self.width).unwrap_or(words)
    }

    /// Its tables, and the rules in their longest slots.
    fn sum(&self, row: u32, longest: &[u32]) -> Bound {
        let mut sum = Bound::default();
        for (word, &bits) in self.get(row).iter().enumerate() {
            for bit in ones(bits) {
                sum.probes += 1;
                sum.compares += longest[word * 64 + bit] as usize;
            }
        }
        sum
    }
}

/// Rows while they are gathered.
struct Draft {
    all: Vec<u64>,
    words: Paged<u64, 512>,
    numbers: HashMap<Vec<u64>, u32>,
}

impl Draft {
    fn new(width: usize) -> Self {
        Self {
            all: vec![0; width],
            words: Paged::default(),
            numbers: HashMap::new(),
        }
    }

    /// The number of a row.
    fn intern(&mut self, row: &[u64]) -> u32 {
        if let Some(&number) = self.numbers.get(row) {
            return number;
        }
        let number = self.words.push(row);
        self.numbers.insert(row.to_vec(), number);
        number
    }
}

/// The values of one field that tables ask for, while they are gathered.
struct Sweep {
    /// Tables with a rule that asks for no value.
    always: Vec<u64>,
    /// A value, a table, and whether an interval of the table's begins there or has ended.
    edges: Vec<(u128, usize, bool)>,
}

impl Sweep {
    fn new(width: usize) -> Self {
        Self {
            always: vec![0; width],
            edges: Vec::new(),
        }
    }

    /// A rule of the table asks for values in `range`, of those from 0 to `all`.
    fn add(&mut self, range: RangeInclusive<u128>, all: u128, table: usize) {
        let (first, last) = range.into_inner();
        if first == 0 && last == all {
            self.always[table / 64] |= 1 << (table % 64);
            return;
        }
        self.edges.push((first, table, true));
        if last < all {
            self.edges.push((last + 1, table, false));
        }
    }

    fn build<T: Copy + Ord>(mut self, draft: &mut Draft, narrow: impl Fn(u128) -> T) -> Numbers<T> {
        self.edges
            .retain(|(_, table, _)| self.always[table / 64] >> (table % 64) & 1 == 0);
        self.edges.sort_unstable();
        let mut open = vec![0_u32; self.always.len() * 64];
        let mut row = self.always.clone();
        let mut intervals: Vec<(T, u32)> = Vec::new();
        let mut edges = self.edges.iter().peekable();
        let mut start = 0;
        loop {
            while let Some((_, table, opens)) = edges.next_if(|(at, ..)| *at == start) {
                if *opens {
                    open[*table] += 1;
                } else {
                    open[*table] -= 1;
                }
                let bit = 1 << (table % 64);
                if open[*table] == 0 {
                    row[table / 64] &= !bit;
                } else {
                    row[table / 64] |= bit;
                }
            }
            let number = draft.intern(&row);
            if intervals.last().is_none_or(|(_, row)| *row != number) {
                intervals.push((narrow(start), number));
            }
            let Some((next, ..)) = edges.peek() else {
                break;
            };
            start = *next;
        }
        Numbers {
            intervals: Intervals::new(&intervals),
            always: self.always.into(),
            most: Bound::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_the_tables_that_ask_for_the_value() {
        let ranges = [(0, 3..=9), (1, 0..=5), (2, 9..=9), (0, 5..=6), (3, 0..=15)];
        let mut sweep = Sweep::new(1);
        for (table, range) in &ranges {
            sweep.add(range.clone(), 15, *table);
        }
        let mut draft = Draft::new(1);
        let numbers = sweep.build(&mut draft, |start| start as u8);
        for value in 0..16_u8 {
            let tables = ranges.iter().filter(|(_, r)| r.contains(&value.into()));
            let expected = tables.fold(0, |bits, (table, _)| bits | 1 << table);
            assert_eq!(
                *draft.words.get(numbers.intervals.row(value)),
                expected,
                "{value}"
            );
        }
    }
}
