//! Field bitmaps: which tables can hold a rule for a frame with these addresses, ports, protocol
//! and ethertype.
//!
//! In come the rules of each table; out goes, for a frame, one row of bits for each field, a bit
//! for each table. A table can matter only if its bit is set in every row. A row depends on no
//! more of the key than the rules compare, and a rule that matches a frame always has its table's
//! bit there; so a verdict does not depend on what is read here.

use std::ops::RangeInclusive;

use hashbrown::HashMap;
use ipnet::IpNet;

use super::{intervals::Intervals, matcher::required_any};
use crate::{
    key::{Field, shape},
    reader::KeyReader,
    rule::Match,
};

/// How many fields there are a row of.
const FIELDS: usize = 6;

/// Rows by field value.
#[derive(Debug)]
pub(super) struct Fields {
    rows: Rows,
    src: Addresses,
    dst: Addresses,
    src_port: Intervals<u16>,
    dst_port: Intervals<u16>,
    protocol: Intervals<u8>,
    ethertype: Intervals<u16>,
}

/// Rows by address.
#[derive(Debug)]
struct Addresses {
    ipv4: Intervals<u32>,
    ipv6: Intervals<u128>,
    /// The row of frames without IP addresses.
    other: u32,
}

/// Bitmaps of tables, each once; number 0 holds all tables.
#[derive(Debug)]
struct Rows {
    /// Words of a row.
    width: usize,
    words: Vec<u64>,
}

impl Fields {
    /// `tables` holds the matches of each table's rules.
    pub(super) fn compile(tables: &[Vec<&Match>]) -> Self {
        let width = tables.len().div_ceil(64).max(1);
        let mut draft = Draft::new(width);
        let mut sweeps: [Sweep; 8] = std::array::from_fn(|_| Sweep::new(width));
        let mut other = vec![0; width];
        for (table, rules) in tables.iter().enumerate() {
            draft.all[table / 64] |= 1 << (table % 64);
            for rule in rules {
                add(&mut sweeps, &mut other, table, rule);
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
        Self {
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
                words: draft.words,
            },
        }
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
            self.src_port.row(value(r, Field::L4_SRC) as u16),
            self.dst_port.row(value(r, Field::L4_DST) as u16),
            self.protocol.row(value(r, Field::PROTOCOL) as u8),
            self.ethertype.row(value(r, Field::ETHERTYPE) as u16),
        ]
        .map(|row| self.rows.get(row));
        (0..self.rows.width).map(move |word| {
            let bits = rows.iter().map(|row| row.get(word).copied().unwrap_or(0));
            bits.fold(u64::MAX, |all, bits| all & bits)
        })
    }

    /// The most that `weight` sums up to over the candidates of any frame, or somewhat more.
    pub(super) fn most(&self, weight: impl Fn(usize) -> usize) -> usize {
        let sum = |row: u32| -> usize {
            let words = self.rows.get(row).iter().enumerate();
            words
                .flat_map(|(word, &bits)| ones(bits).map(move |bit| word * 64 + bit))
                .map(&weight)
                .sum()
        };
        let fields: [Vec<u32>; FIELDS] = [
            self.src.all_rows(),
            self.dst.all_rows(),
            self.src_port.rows().to_vec(),
            self.dst_port.rows().to_vec(),
            self.protocol.rows().to_vec(),
            self.ethertype.rows().to_vec(),
        ];
        let most = fields.map(|mut rows| {
            rows.sort_unstable();
            rows.dedup();
            rows.into_iter().map(sum).max().unwrap_or(0)
        });
        most.into_iter().min().unwrap_or(0)
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.rows.words.capacity() * 8
            + self.src.heap_bytes()
            + self.dst.heap_bytes()
            + self.src_port.heap_bytes()
            + self.dst_port.heap_bytes()
            + self.protocol.heap_bytes()
            + self.ethertype.heap_bytes()
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

/// The values that a rule asks for, by field, to the sweeps of [`Fields::compile`].
fn add(sweeps: &mut [Sweep; 8], other: &mut [u64], table: usize, rule: &Match) {
    let family = rule.src.or(rule.dst);
    let range = |net: Option<IpNet>, all: u128| match net {
        None => 0..=all,
        Some(IpNet::V4(net)) => u32::from(net.network()).into()..=u32::from(net.broadcast()).into(),
        Some(IpNet::V6(net)) => net.network().into()..=net.broadcast().into(),
    };
    if !matches!(family, Some(IpNet::V6(_))) {
        sweeps[0].add(range(rule.src, u32::MAX.into()), u32::MAX.into(), table);
        sweeps[2].add(range(rule.dst, u32::MAX.into()), u32::MAX.into(), table);
    }
    if !matches!(family, Some(IpNet::V4(_))) {
        sweeps[1].add(range(rule.src, u128::MAX), u128::MAX, table);
        sweeps[3].add(range(rule.dst, u128::MAX), u128::MAX, table);
    }
    if family.is_none() && required_any(rule) == 0 {
        other[table / 64] |= 1 << (table % 64);
    }
    let mut numbers = |sweep: usize, all: u16, ranges: &[RangeInclusive<u16>]| {
        let everything = [0..=all];
        let ranges = if ranges.is_empty() {
            &everything
        } else {
            ranges
        };
        for range in ranges {
            let (first, last) = (*range.start(), *range.end());
            sweeps[sweep].add(first.into()..=last.into(), all.into(), table);
        }
    };
    match rule.icmp {
        Some(icmp) => {
            let first = u16::from(icmp.kind) << 8;
            let range = match icmp.code {
                Some(code) => first | u16::from(code)..=first | u16::from(code),
                None => first..=first | 0xff,
            };
            numbers(4, u16::MAX, &[range]);
        }
        None => numbers(4, u16::MAX, &rule.src_ports),
    }
    numbers(5, u16::MAX, &rule.dst_ports);
    let exactly = |number: Option<u16>| number.map(|number| number..=number);
    numbers(
        6,
        u8::MAX.into(),
        exactly(rule.protocol.map(u16::from)).as_slice(),
    );
    numbers(7, u16::MAX, exactly(rule.ethertype).as_slice());
}

impl Addresses {
    #[inline]
    fn row<R: KeyReader>(&self, r: &mut R, families: u64, high: Field, low: Field) -> u32 {
        match families {
            shape::IPV4 => self.ipv4.row(value(r, low) as u32),
            shape::IPV6 => {
                let high = u128::from(value(r, high)) << 64;
                self.ipv6.row(high | u128::from(value(r, low)))
            }
            0 => self.other,
            // No frame is both.
            _ => 0,
        }
    }

    fn all_rows(&self) -> Vec<u32> {
        [self.ipv4.rows(), self.ipv6.rows(), &[self.other]].concat()
    }

    fn heap_bytes(&self) -> usize {
        self.ipv4.heap_bytes() + self.ipv6.heap_bytes()
    }
}

impl Rows {
    #[inline]
    fn get(&self, row: u32) -> &[u64] {
        let first = row as usize * self.width;
        self.words.get(first..first + self.width).unwrap_or(&[])
    }
}

/// Rows while they are gathered.
struct Draft {
    all: Vec<u64>,
    words: Vec<u64>,
    numbers: HashMap<Vec<u64>, u32>,
}

impl Draft {
    fn new(width: usize) -> Self {
        Self {
            all: vec![0; width],
            words: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    /// The number of a row.
    fn intern(&mut self, row: &[u64]) -> u32 {
        if let Some(&number) = self.numbers.get(row) {
            return number;
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(row.to_vec(), number);
        self.words.extend_from_slice(row);
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

    fn build<T: Copy + Ord>(
        mut self,
        draft: &mut Draft,
        narrow: impl Fn(u128) -> T,
    ) -> Intervals<T> {
        self.edges
            .retain(|(_, table, _)| self.always[table / 64] >> (table % 64) & 1 == 0);
        self.edges.sort_unstable();
        let mut open = vec![0_u32; self.always.len() * 64];
        let mut row = self.always;
        let (mut starts, mut rows) = (Vec::new(), Vec::new());
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
            if rows.last() != Some(&number) {
                starts.push(narrow(start));
                rows.push(number);
            }
            let Some((next, ..)) = edges.peek() else {
                break;
            };
            start = *next;
        }
        Intervals::new(starts, rows)
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
        let intervals = sweep.build(&mut draft, |start| start as u8);
        for value in 0..16_u8 {
            let tables = ranges.iter().filter(|(_, r)| r.contains(&value.into()));
            let expected = tables.fold(0, |bits, (table, _)| bits | 1 << table);
            assert_eq!(
                draft.words[intervals.row(value) as usize],
                expected,
                "{value}"
            );
        }
    }
}
