//! What tests of compiled rule lists share: rule sets, headers that find their weak spots, and the
//! search for masks that are too narrow.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

// The rule sets and headers that `vswitch-bench classify` measures with.
#[path = "../../../bench/src/classify/classbench.rs"]
pub mod classbench;
#[path = "../../../bench/src/classify/headers.rs"]
pub mod headers;
#[path = "../../../bench/src/generator/random.rs"]
pub mod random;

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use headers::{Kind, header};
use policy::{
    Field, FlowKey, Mac, RuleId, VlanId,
    acl::{Bound, Classifier, Method},
    key::{Class, shape},
    model::Action,
    reader::{Exact, Tracer},
    rule::{FlagsMatch, FragmentMatch, IcmpMatch, MacMatch, Match, Rule},
};
use random::Random;

use crate::common::rule;

pub const KINDS: [Kind; 3] = [Kind::Inside, Kind::Corner, Kind::Mixed];

pub fn verdict(classifier: &Classifier, key: &FlowKey) -> Option<(Action, RuleId)> {
    classifier.decide(&mut Exact(key))
}

pub fn both(rules: &Arc<[Rule]>) -> (Classifier, Classifier) {
    let tables = Classifier::compile_as(rules.clone().into(), Method::TupleMerge);
    let linear = Classifier::compile_as(rules.clone().into(), Method::Linear);
    (tables, linear)
}

/// Headers of all kinds, every fourth with one bit turned over.
pub fn some_headers(rules: &[Rule], count: usize, random: &mut Random) -> Vec<FlowKey> {
    (0..count)
        .map(|number| {
            let kind = KINDS[number % KINDS.len()];
            let mut key = header(rules, kind, &mut |limit| random.below(limit));
            if number % 4 == 0 {
                let bit = random.below(512) as usize;
                key.0[bit / 64] ^= 1 << (bit % 64);
            }
            key
        })
        .collect()
}

pub fn within(name: &str, cost: Bound, bound: Bound) {
    assert!(
        cost.probes <= bound.probes && cost.compares <= bound.compares,
        "{name}: {cost:?} is more than {bound:?}"
    );
}

/// Rule sets of other people, by path; none when they are not there.
pub fn classbench_sets(wanted: impl Fn(&str) -> bool) -> Vec<(String, Arc<[Rule]>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/classbench");
    let mut sets = Vec::new();
    for folder in ["neurocuts", "partitionsort", "jiachang"] {
        for file in fs::read_dir(root.join(folder)).into_iter().flatten() {
            let path = file.expect("a readable folder").path();
            let name = path.display().to_string();
            if !name.ends_with("_trace") && wanted(&name) {
                let text = fs::read_to_string(&path).expect("a readable file");
                let rules = classbench::parse(&text).expect("a rule set");
                sets.push((name, rules));
            }
        }
    }
    if sets.is_empty() {
        eprintln!("skipped: no rule sets in {}", root.display());
    }
    sets
}

/// Rules over small universes of everything that rules can ask for, so that they overlap.
pub fn generated(count: u32, random: &mut Random) -> Arc<[Rule]> {
    (1..=count)
        .map(|id| {
            let action = [Action::Allow, Action::Deny][random.below(2) as usize];
            rule(id, action, generated_match(random))
        })
        .collect()
}

pub fn generated_match(random: &mut Random) -> Match {
    let mut matches = Match::default();
    let mut one_in = |n: u64| random.below(n) == 0;
    let link = [one_in(6), one_in(6), one_in(8), one_in(16)];
    let [src, dst] = [!one_in(3), !one_in(3)];
    let ipv6 = one_in(2);
    let mac = |random: &mut Random| {
        let masks = [Mac::BROADCAST, Mac([255, 255, 255, 0, 0, 0])];
        let mask = masks[random.below(2) as usize];
        let address = Mac([2, 0, 0, 0, 0, random.below(4) as u8]).to_u64();
        MacMatch {
            address: Mac::from_u64(address & mask.to_u64()),
            mask,
        }
    };
    matches.eth_src = link[0].then(|| mac(random));
    matches.eth_dst = link[1].then(|| mac(random));
    matches.vlan = link[2].then(|| VlanId::new(1 + random.below(5) as u16).expect("in range"));
    if link[3] {
        matches.ethertype = Some([0x88cc, 0x0806][random.below(2) as usize]);
        return matches;
    }
    let mut net = || {
        let host = random.below(64);
        let text = if ipv6 {
            let length = [0, 16, 32, 48, 57, 64, 112, 128][random.below(8) as usize];
            format!("2001:db8:{host:x}:{host:x}::{host:x}/{length}")
        } else {
            let length = [0, 8, 16, 20, 24, 27, 30, 32][random.below(8) as usize];
            format!("10.{host}.{host}.{host}/{length}")
        };
        text.parse::<ipnet::IpNet>().expect("a prefix").trunc()
    };
    matches.src = src.then(&mut net);
    matches.dst = dst.then(&mut net);
    let icmp = if ipv6 { 58 } else { 1 };
    matches.protocol = [None, Some(6), Some(6), Some(17), Some(icmp)][random.below(5) as usize];
    let mut ports = || match random.below(4) {
        0 => vec![],
        1 => vec![random.below(100) as u16..=65535],
        2 => {
            let first = random.below(100) as u16;
            vec![first..=first + 7, 900..=first + 1000]
        }
        _ => [80, 443, 0, 65535]
            .into_iter()
            .nth(random.below(4) as usize)
            .map(|port| port..=port)
            .into_iter()
            .collect(),
    };
    if matches!(matches.protocol, Some(6 | 17)) {
        matches.src_ports = ports();
        matches.dst_ports = ports();
    }
    if matches.protocol == Some(icmp) && random.below(2) == 0 {
        matches.icmp = Some(IcmpMatch {
            kind: [0, 8, 128][random.below(3) as usize],
            code: [None, Some(0), Some(3)][random.below(3) as usize],
        });
    }
    if matches.protocol == Some(6) && random.below(2) == 0 {
        let mask = 1 + random.below(63) as u8;
        matches.tcp_flags = Some(FlagsMatch {
            set: random.below(64) as u8 & mask,
            mask,
        });
    }
    if random.below(5) == 0 {
        let has_l4 = matches.icmp.is_some()
            || matches.tcp_flags.is_some()
            || !(matches.src_ports.is_empty() && matches.dst_ports.is_empty());
        let fragments = [
            FragmentMatch::No,
            FragmentMatch::Any,
            FragmentMatch::First,
            FragmentMatch::Later,
        ];
        let kinds = if has_l4 { 3 } else { 4 };
        matches.fragment = Some(fragments[random.below(kinds) as usize]);
    }
    matches
}

/// The class that the parser would say, for keys of [`header`].
pub fn class_of(key: &FlowKey) -> Class {
    let ipv6 = key.has(shape::IPV6);
    let classes = if key.has(shape::LATER_FRAGMENT) {
        [Class::Ipv4Fragment, Class::Ipv6Fragment]
    } else {
        match key.get(Field::PROTOCOL) {
            6 => [Class::Ipv4Tcp, Class::Ipv6Tcp],
            17 | 132 => [Class::Ipv4Udp, Class::Ipv6Udp],
            1 if !ipv6 => [Class::Ipv4Icmp; 2],
            58 if ipv6 => [Class::Ipv6Icmp; 2],
            _ => [Class::Ipv4Other, Class::Ipv6Other],
        }
    };
    match (key.has(shape::IPV4), key.get(Field::ETHERTYPE)) {
        (false, 0x0806) => Class::Arp,
        (false, _) if !ipv6 => Class::NonIp,
        _ => classes[usize::from(ipv6)],
    }
}

pub fn traced(classifier: &Classifier, class: Class) -> FlowKey {
    let mut tracer = Tracer::new(class);
    assert_eq!(classifier.decide(&mut tracer), None);
    tracer.mask
}

/// Two keys that `narrow`ed masks take for one although they are judged differently.
pub fn unsound(
    classifier: &Classifier,
    keys: &[FlowKey],
    narrow: impl Fn(&mut FlowKey),
) -> Option<(FlowKey, FlowKey)> {
    let masks = Class::ALL.map(|class| {
        let mut mask = traced(classifier, class);
        narrow(&mut mask);
        mask
    });
    let mut random = Random::new(3);
    let mut seen: HashMap<(Class, FlowKey), FlowKey> = HashMap::new();
    for key in keys {
        let class = class_of(key);
        let mask = &masks[class as usize];
        // What the mask leaves out, at random.
        let mut other = *key;
        for (word, mask) in other.0.iter_mut().zip(mask.0) {
            *word ^= random.next_u64() & !mask;
        }
        let first = *seen.entry((class, key & mask)).or_insert(*key);
        for other in [other, first] {
            if verdict(classifier, &other) != verdict(classifier, key) {
                return Some((other, *key));
            }
        }
    }
    None
}

pub fn headers_of(rules: &[Rule], count: usize) -> Vec<FlowKey> {
    let mut random = Random::new(7);
    (0..count)
        .map(|number| {
            header(rules, KINDS[number % KINDS.len()], &mut |limit| {
                random.below(limit)
            })
        })
        .collect()
}

/// Every key over 4 bits each of source address, destination port and TCP flags.
pub fn tiny_universe() -> Vec<FlowKey> {
    (0..1_u64 << 12)
        .map(|bits| {
            let mut key = FlowKey::default();
            key.set(Field::ETHERTYPE, 0x0800);
            key.set(Field::PROTOCOL, 6);
            key.set(Field::SHAPE, shape::IPV4 | shape::L4);
            key.set(Field::IP_SRC_LOW, 0x0a00_0000 | bits & 15);
            key.set(Field::L4_DST, 80 + (bits >> 4 & 15));
            key.set(Field::TCP_FLAGS, bits >> 8);
            key
        })
        .collect()
}

/// Headers that cost more and more: what cost much is changed a little.
pub fn costliest(rules: &[Rule], tables: &Classifier, count: usize) -> Bound {
    let mut random = Random::new(11);
    let mut most = Bound::default();
    let mut best = (0, FlowKey::default());
    for number in 0..count {
        let mut key = header(rules, Kind::Mixed, &mut |limit| random.below(limit));
        if number % 2 == 0 && best.0 > 0 {
            let word = 3 + random.below(4) as usize;
            let drawn = std::mem::replace(&mut key, best.1);
            key.0[word] = drawn.0[word];
            key.0[7] = if word == 6 { drawn.0[7] } else { key.0[7] };
        }
        let cost = tables.cost(&key);
        most.probes = most.probes.max(cost.probes);
        most.compares = most.compares.max(cost.compares);
        if cost.probes + cost.compares >= best.0 {
            best = (cost.probes + cost.compares, key);
        }
    }
    most
}
