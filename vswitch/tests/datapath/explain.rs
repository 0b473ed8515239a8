//! What is explained is what happens, and explaining changes nothing.

use std::sync::Arc;

use policy::{FlowKey, PortId, model::Model};
use proptest::prelude::*;
use vswitch::{
    explain::{Explained, Explainer, Given, Outcome},
    flow_cache::Standing,
    published::Bundle,
};

use super::universe::{self, Arrival};
use crate::bed::{Bed, Options};

/// Everything that forwarding changes.
#[derive(Debug, PartialEq)]
struct World {
    counts: Vec<vswitch::counters::PortCounts>,
    ledger: Vec<(u16, policy::DropReason, Option<policy::RuleId>, u64)>,
    addresses: Vec<(u16, policy::Mac, u16)>,
    generations: Vec<u32>,
    flows: Vec<(FlowKey, u64)>,
}

fn world(bed: &Bed) -> World {
    let bridge = &bed.shared.bridge;
    let mut addresses: Vec<_> = bridge
        .rows(0)
        .into_iter()
        .map(|row| (row.network.0, row.mac, row.port.0))
        .collect();
    addresses.sort_unstable();
    let cached = bed.workers.iter().flat_map(|worker| {
        let entries = worker.live_entries(0, worker.cache.capacity());
        entries.map(|entry| (entry.key, entry.hits))
    });
    World {
        counts: (0..universe::PORTS).map(|port| bed.counts(port)).collect(),
        ledger: bed.ledger(),
        addresses,
        generations: (0..3)
            .map(|network| bridge.generations().current(policy::NetworkId(network)))
            .collect(),
        flows: cached.collect(),
    }
}

fn explain(bed: &Bed, bundle: &Bundle, arrival: &Arrival) -> Explained {
    let given = Given {
        port: PortId(arrival.port),
        head: &arrival.bytes,
        len_bytes: arrival.bytes.len(),
        vlan_tci: arrival.beside,
    };
    let shared = bundle.port(given.port).map(|port| (port, bed.now_ns()));
    let places = (&bed.shared.bridge, &bed.shared.neighbors);
    let connections = &bed.shared.connections;
    let (snapshot, meters) = (&bundle.snapshot, &bundle.meters);
    Explainer::new(snapshot, places, connections, meters, bed.now_ns()).judge(given, shared)
}

/// The drops and the ports, with the VLAN of each frame that leaves with a tag.
type Happened = (
    Vec<(u16, &'static str, Option<u32>)>,
    Vec<(u16, Option<u16>)>,
);

fn foretold(explained: &Explained, from: u16) -> Happened {
    let (mut drops, mut sent) = (Vec::new(), Vec::new());
    let mut drop = |port, denial: policy::Denial| {
        drops.push((port, denial.reason.name(), denial.rule.map(|rule| rule.0)));
    };
    match explained.outcome() {
        Outcome::Dropped(denial) => drop(from, denial),
        Outcome::Taken(_) => unreachable!("no router is here"),
        Outcome::Forwarded(exits) => {
            for (port, tag, judged) in exits {
                match judged {
                    Ok(_) => sent.push((port.0, tag.map(policy::VlanId::get))),
                    Err(denial) => drop(port.0, denial),
                }
            }
        }
    }
    drops.sort_unstable();
    sent.sort_unstable();
    (drops, sent)
}

fn happened(bed: &mut Bed, before: &World, arrival: &Arrival) -> Happened {
    match arrival.beside {
        None => bed.send(arrival.port, &arrival.bytes),
        Some(tci) => bed.send_tagged(arrival.port, &arrival.bytes, tci),
    }
    bed.run();
    let mut drops = Vec::new();
    for (port, reason, rule, frames) in bed.ledger() {
        let row = |row: &&(u16, policy::DropReason, Option<policy::RuleId>, u64)| {
            (row.0, row.1, row.2) == (port, reason, rule)
        };
        let known = before.ledger.iter().find(row).map_or(0, |row| row.3);
        for _ in known..frames {
            drops.push((port, reason.name(), rule.map(|rule| rule.0)));
        }
    }
    let mut sent: Vec<_> = bed
        .all_received()
        .into_iter()
        // What its sender is told of a rejected frame; frames themselves never leave where they came.
        .filter(|(port, _)| *port != arrival.port)
        .map(|(port, frame)| {
            let tagged = [[0x81, 0], [0x88, 0xa8]]
                .iter()
                .any(|tpid| frame[12..14] == *tpid);
            let tag = tagged.then(|| (frame[14], frame[15]));
            (
                port,
                tag.map(|(high, low)| u16::from_be_bytes([high & 0xf, low])),
            )
        })
        .collect();
    drops.sort_unstable();
    sent.sort_unstable();
    (drops, sent)
}

fn agree(model: &Model, arrivals: &[Arrival]) -> Result<(), TestCaseError> {
    let options = Options {
        cache_entries: 64,
        ..Options::default()
    };
    let mut bed = Bed::with(&universe::everything(), options);
    bed.publish(model);
    for arrival in arrivals {
        // The second time the cache answers the frame, and has to agree too.
        for _ in 0..2 {
            let bundle = Arc::clone(&bed.shared.current.load());
            let before = world(&bed);
            let explained = explain(&bed, &bundle, arrival);
            prop_assert_eq!(&before, &world(&bed), "explaining changed something");
            let masked = &explained.parsed.key & &explained.mask;
            let cached = |bed: &Bed| {
                let now = Standing {
                    epoch: bundle.snapshot.epoch(),
                    generations: bed.shared.bridge.generations(),
                };
                bed.workers[0].cache.peek(&masked, now).is_some()
            };
            let hits = bed.workers[0].counters.cache_hits.get();
            let in_cache = cached(&bed);
            let foretold = foretold(&explained, arrival.port);
            let happened = happened(&mut bed, &before, arrival);
            prop_assert_eq!(foretold, happened, "{:?}\n{:?}", arrival, explained);
            let hit = bed.workers[0].counters.cache_hits.get() > hits;
            prop_assert_eq!(hit, in_cache, "who answers");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_explained_happens_and_explaining_changes_nothing(
        model in universe::some_model(),
        arrivals in prop::collection::vec(universe::arrival(), 1..24),
    ) {
        agree(&model, &arrivals)?;
    }
}
