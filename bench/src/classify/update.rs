//! What changing one rule of a list costs: the classifier's part, and compiling the whole policy
//! of vNICs that share the list, as applying a configuration does.
//!
//! Rules are put in, taken out and replaced at random places, one after the other, so that a list
//! at the end has been changed many times. New rules have the fields of different rules of the
//! list, under other addresses.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net};
use policy::{
    Epoch, Mac, NetworkId, PortId, RuleId,
    acl::{Classifier, Method, Update},
    model::{
        Action, Attachment, DirectionPolicy, Model, Network, Port, SenderChecks, StormLimits, Vnic,
    },
    rule::{Rule, RuleList},
    snapshot::Compiler,
};

use crate::generator::random::Random;

/// How many changes of each sort.
const CHANGES: usize = 200;
/// vNICs that share the list, where a whole policy is compiled.
const VNICS: u16 = 64;

/// What was found. Times are microseconds.
#[derive(Debug, Default)]
pub(super) struct Updates {
    pub(super) mean_us: f64,
    pub(super) worst_us: f64,
    /// Of those whose list was not compiled whole.
    pub(super) patched_worst_us: f64,
    pub(super) count: usize,
    pub(super) rebuilt: usize,
    pub(super) renumbered: usize,
    /// How often the list was compiled whole beside, because changes had worn it.
    pub(super) renewed: usize,
    /// The slowest of those, in milliseconds. No change waits for it.
    pub(super) renewal_ms_worst: f64,
    /// Heap of a version that the one before has not.
    pub(super) bytes_mean: f64,
    /// The list as the changes left it.
    pub(super) rules: RuleList,
}

/// Changes a list, one rule after the other.
pub(super) fn measure(rules: &Arc<[Rule]>, random: &mut Random) -> (Updates, Classifier) {
    let mut list = RuleList::from(rules.clone());
    let mut tables = Classifier::compile_as(list.clone(), Method::TupleMerge);
    let mut found = Updates::default();
    let (mut total_us, mut bytes) = (0.0, 0);
    for number in 0..3 * CHANGES {
        let change = Change::new(&list, number, random);
        // The least of some: an update leaves what it updates as it was.
        let took_us = (0..3).map(|_| {
            us(|| {
                let mut list = list.clone();
                change.make(&mut list);
                drop(tables.updated(list));
            })
        });
        let took_us = took_us.fold(f64::INFINITY, f64::min);
        change.make(&mut list);
        let (next, update) = tables.updated(list.clone());
        match update {
            Update::Patched { renumbered, .. } => {
                found.renumbered += renumbered;
                found.patched_worst_us = found.patched_worst_us.max(took_us);
                bytes += next.heap_bytes_beside(&tables);
            }
            Update::Rebuilt(_) => found.rebuilt += 1,
        }
        total_us += took_us;
        found.worst_us = found.worst_us.max(took_us);
        found.count += 1;
        tables = next;
        if tables.is_worn() {
            let mut renewed = None;
            let took_us = us(|| renewed = Some(tables.renewed()));
            found.renewed += 1;
            found.renewal_ms_worst = found.renewal_ms_worst.max(took_us / 1e3);
            tables = renewed.unwrap_or(tables);
        }
    }
    found.mean_us = total_us / found.count as f64;
    found.bytes_mean = bytes as f64 / (found.count - found.rebuilt).max(1) as f64;
    found.rules = list;
    (found, tables)
}

fn us(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64() * 1e6
}

/// A rule to put in, to take out, or to replace.
struct Change {
    number: usize,
    place: usize,
    new: Option<Rule>,
}

impl Change {
    fn new(list: &RuleList, number: usize, random: &mut Random) -> Self {
        Self {
            number,
            place: random.below(list.len() as u64) as usize,
            new: new_rule(list, number, random),
        }
    }

    fn make(&self, list: &mut RuleList) {
        match (self.number % 3, self.new.clone()) {
            (0, Some(new)) => list.insert(self.place, new),
            (2, Some(new)) => list.replace(self.place, new),
            _ => list.remove(self.place),
        }
    }
}

/// None of an empty list.
fn new_rule(list: &RuleList, number: usize, random: &mut Random) -> Option<Rule> {
    let mut any = || list.get(random.below(list.len() as u64) as usize);
    let (one, other, third) = (any()?, any()?, any()?);
    let (mut new, src, dst) = (one.clone(), other.matches.src, third.matches.dst);
    let mut sibling = |net: Option<IpNet>| match net {
        Some(IpNet::V4(net)) => {
            let host = random.next_u64() as u32 & 0xffff;
            let address = u32::from(net.network()) ^ host;
            let net = Ipv4Net::new(address.into(), net.prefix_len());
            net.ok().map(|net| IpNet::V4(net.trunc()))
        }
        net => net,
    };
    (new.matches.src, new.matches.dst) = (sibling(src), sibling(dst));
    new.id = RuleId(1_000_000 + number as u32);
    Some(new)
}

/// Compiling a policy whose vNICs share the list: whole, and after one rule has changed. The least
/// of some, in microseconds.
pub(super) fn policy_us(rules: &Arc<[Rule]>, random: &mut Random) -> anyhow::Result<(f64, f64)> {
    let (mut whole, mut changed) = (Duration::MAX, Duration::MAX);
    for number in 0..5 {
        let list = RuleList::from(rules.clone());
        let mut wanted = list.clone();
        Change::new(&list, number, random).make(&mut wanted);
        let (before, after) = (model(&list), model(&wanted));
        let mut compiler = Compiler::default();
        let start = Instant::now();
        let first = compiler.compile(&before, Epoch(1)).context("the policy")?;
        whole = whole.min(start.elapsed());
        let start = Instant::now();
        let second = compiler.compile(&after, Epoch(2)).context("the policy")?;
        changed = changed.min(start.elapsed());
        drop((first, second));
    }
    Ok((whole.as_secs_f64() * 1e6, changed.as_secs_f64() * 1e6))
}

fn model(rules: &RuleList) -> Model {
    let network = Network {
        id: NetworkId(0),
        name: "net".into(),
        tenant: "tenant".into(),
        vlan: None,
        mac_limit: 1024,
        ageing_s: 300,
        moves: policy::model::MoveLimit::default(),
        services: policy::model::Services::default(),
    };
    let port = |number: u16| Port {
        id: PortId(number),
        name: format!("port{number}").into(),
        attachment: Attachment::Access(NetworkId(0)),
        isolated: false,
        mac_limit: 16,
        storm: StormLimits::default(),
        misses_per_turn: 64,
        spanning_tree: policy::model::SpanningTree::default(),
        vnic: Some(Vnic {
            name: format!("vnic{number}").into(),
            vm: format!("vm{number}").into(),
            mac: Mac([2, 0, 0, 0, 0, number as u8]),
            connection_limit: policy::conntrack::table::DEFAULT_LIMIT,
            ipv4: Vec::new(),
            ipv6: Vec::new(),
            checks: SenderChecks::ALL,
            roles: policy::model::Roles::default(),
            inbound: DirectionPolicy {
                rules: rules.clone(),
                default: Action::Deny,
            },
            outbound: DirectionPolicy {
                rules: RuleList::default(),
                default: Action::Allow,
            },
        }),
    };
    Model {
        networks: vec![network],
        ports: (0..VNICS).map(port).collect(),
        ..Model::default()
    }
}
