//! Priority tuple-space search, to compare with (Srinivasan, Suri and Varghese, SIGCOMM '99; with
//! the order of Open vSwitch's classifier): one hash table for every combination of prefix
//! lengths, protocol and exact ports, visited by its first rule until that stands behind the
//! match in hand. For IPv4 rules.

use std::ops::RangeInclusive;

use hashbrown::HashMap;
use ipnet::IpNet;
use policy::{
    Field, FlowKey, RuleId,
    key::shape,
    rule::{Match, Rule},
};

/// A compiled rule list.
pub(super) struct TupleSpace {
    tables: Vec<Table>,
    rules: Vec<Plain>,
}

/// Key words 3, 5, 6: addresses, and ports with protocol.
type Words = [u64; 3];

struct Table {
    mask: Words,
    first_rule: usize,
    buckets: HashMap<Words, Vec<usize>>,
}

/// What is left to compare where the hash holds.
struct Plain {
    id: RuleId,
    src_ports: RangeInclusive<u16>,
    dst_ports: RangeInclusive<u16>,
    flags: (u8, u8),
    /// Source port bits: ICMP type and code.
    icmp: (u16, u16),
    ports: bool,
}

impl TupleSpace {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut tables: Vec<Table> = Vec::new();
        let mut by_mask: HashMap<Words, usize> = HashMap::new();
        for (number, rule) in rules.iter().enumerate() {
            let (mask, value) = words(&rule.matches);
            let table = *by_mask.entry(mask).or_insert_with(|| {
                tables.push(Table {
                    mask,
                    first_rule: number,
                    buckets: HashMap::new(),
                });
                tables.len() - 1
            });
            let bucket = tables[table].buckets.entry(value).or_default();
            bucket.push(number);
        }
        Self {
            tables,
            rules: rules.iter().map(Plain::new).collect(),
        }
    }

    /// The first rule that matches, and how many tables were probed.
    pub(super) fn decide(&self, key: &FlowKey) -> (Option<RuleId>, usize) {
        let mut best = usize::MAX;
        let mut probes = 0;
        for table in &self.tables {
            if table.first_rule >= best {
                break;
            }
            probes += 1;
            let masked = [3, 5, 6].map(|word| key.0[word]);
            let masked: Words = std::array::from_fn(|word| masked[word] & table.mask[word]);
            let bucket = table.buckets.get(&masked).map_or(&[][..], Vec::as_slice);
            let found = bucket
                .iter()
                .take_while(|rule| **rule < best)
                .find(|rule| self.rules[**rule].test(key));
            best = found.copied().unwrap_or(best);
        }
        (self.rules.get(best).map(|rule| rule.id), probes)
    }

    pub(super) fn tables(&self) -> usize {
        self.tables.len()
    }
}

fn words(matches: &Match) -> (Words, Words) {
    let (mut mask, mut value) = (FlowKey::default(), FlowKey::default());
    let mut need = |field: Field, bits: u64, wanted: u64| {
        mask.set(field, bits);
        value.set(field, wanted);
    };
    for (net, field) in [
        (matches.src, Field::IP_SRC_LOW),
        (matches.dst, Field::IP_DST_LOW),
    ] {
        if let Some(IpNet::V4(net)) = net {
            let (bits, wanted) = (u32::from(net.netmask()), u32::from(net.network()));
            need(field, bits.into(), wanted.into());
        }
    }
    if let Some(protocol) = matches.protocol {
        need(Field::PROTOCOL, 0xff, protocol.into());
    }
    for (ports, field) in [
        (&matches.src_ports, Field::L4_SRC),
        (&matches.dst_ports, Field::L4_DST),
    ] {
        if let [range] = ports.as_slice()
            && range.start() == range.end()
        {
            need(field, 0xffff, (*range.start()).into());
        }
    }
    (
        [3, 5, 6].map(|word| mask.0[word]),
        [3, 5, 6].map(|word| value.0[word]),
    )
}

impl Plain {
    fn new(rule: &Rule) -> Self {
        let matches = &rule.matches;
        let range = |ports: &[RangeInclusive<u16>]| ports.first().cloned().unwrap_or(0..=u16::MAX);
        let icmp = matches.icmp.map(|icmp| {
            let code = icmp.code.map_or((0, 0), |code| (0xff, code.into()));
            (0xff00 | code.0, u16::from(icmp.kind) << 8 | code.1)
        });
        Self {
            id: rule.id,
            src_ports: range(&matches.src_ports),
            dst_ports: range(&matches.dst_ports),
            flags: matches.tcp_flags.map_or((0, 0), |f| (f.mask, f.set)),
            icmp: icmp.unwrap_or((0, 0)),
            ports: !(matches.src_ports.is_empty() && matches.dst_ports.is_empty()),
        }
    }

    fn test(&self, key: &FlowKey) -> bool {
        let (src, dst) = (key.get(Field::L4_SRC) as u16, key.get(Field::L4_DST) as u16);
        let needs_l4 = self.ports || self.flags.0 != 0 || self.icmp.0 != 0;
        key.has(shape::IPV4)
            && (key.has(shape::L4) || !needs_l4)
            && self.src_ports.contains(&src)
            && self.dst_ports.contains(&dst)
            && key.get(Field::TCP_FLAGS) as u8 & self.flags.0 == self.flags.1
            && src & self.icmp.0 == self.icmp.1
    }
}
