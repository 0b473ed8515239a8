//! The switch against the reference: random frames, random policy, changes mid-stream.
//!
//! What must hold: what leaves is the same, byte by byte and port by port, and so are the drop
//! counters, whatever the flow cache holds or evicts, and however many workers there are.

use std::collections::BTreeMap;

use policy::{DropReason, Stage, conntrack::timeouts::Timeouts, model::Model};
use proptest::{prelude::*, sample::select, strategy::ValueTree, test_runner::TestRunner};

use super::{
    conversations,
    universe::{self, Arrival},
};
use crate::{
    bed::{Bed, Options},
    model::Reference,
};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// Frames arrive, one after the other.
    Frames(Vec<Arrival>),
    /// Frames arrive at one port, in one burst.
    Burst(u16, Vec<Arrival>),
    /// Another model takes effect.
    Publish(Model),
    /// So many milliseconds pass: all of them together are less than any connection's timeout.
    Wait(u64),
    /// Whoever does not send is forgotten.
    Age,
}

/// Steps in which such frames arrive, and such models take effect.
fn steps<A: Strategy<Value = Arrival>>(
    arrival: impl Fn() -> A,
    model: impl Strategy<Value = Model>,
) -> impl Strategy<Value = Vec<Step>> {
    let arrivals = || prop::collection::vec(arrival(), 1..32);
    let step = prop_oneof![
        8 => arrivals().prop_map(Step::Frames),
        4 => (0..universe::PORTS, arrivals()).prop_map(|(port, frames)| Step::Burst(port, frames)),
        2 => model.prop_map(Step::Publish),
        4 => select(vec![1, 10, 99, 100, 500, 1000, 2001]).prop_map(Step::Wait),
        1 => Just(Step::Age),
    ];
    prop::collection::vec(step, 1..14)
}

/// Frames of every kind, for rules that allow nothing statefully.
fn any_frames() -> impl Strategy<Value = (Model, Vec<Step>)> {
    let steps = steps(universe::arrival, universe::some_model());
    (universe::some_model(), steps)
}

/// Frames that have connections, and others that can have none.
fn datagrams() -> impl Strategy<Value = (Model, Vec<Step>)> {
    let steps = steps(conversations::arrival, conversations::some_model());
    (conversations::some_model(), steps)
}

struct Pair {
    bed: Bed,
    reference: Reference,
}

impl Pair {
    fn new(model: &Model, workers: usize) -> Self {
        let options = Options {
            cache_entries: 32,
            workers,
            ..Options::default()
        };
        let mut bed = Bed::with(&universe::everything(), options);
        bed.publish(model);
        let mut reference = Reference::new(model);
        reference.at(bed.now_ns());
        Self { bed, reference }
    }

    fn wait(&mut self, ms: u64) {
        self.bed.advance_ms(ms);
        self.reference.at(self.bed.now_ns());
    }

    fn send(&mut self, port: u16, arrival: &Arrival) {
        match arrival.beside {
            None => self.bed.send(port, &arrival.bytes),
            Some(tci) => self.bed.send_tagged(port, &arrival.bytes, tci),
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Frames(arrivals) => {
                // Twice, so that the cache has its say, and then nearly the same.
                for arrival in arrivals {
                    for arrival in [arrival, arrival, &arrival.sibling()] {
                        self.send(arrival.port, arrival);
                        self.compare(arrival.port, &[arrival])?;
                    }
                }
            }
            Step::Burst(port, arrivals) => {
                let mut arrivals: Vec<Arrival> =
                    arrivals.iter().map(|a| a.at_home(*port)).collect();
                // In the order in which the queue gives them.
                arrivals.sort_by_key(|arrival| arrival.beside.is_some());
                self.burst(*port, &arrivals)?;
            }
            Step::Publish(model) => {
                self.bed.publish(model);
                self.reference.adopt(model);
            }
            Step::Wait(ms) => self.wait(*ms),
            Step::Age => {
                self.wait(1_000_000);
                let now_s = self.bed.now_s();
                self.bed.shared.bridge.age(now_s);
                let connections = &self.bed.shared.connections;
                connections.sweep(1, &Timeouts::default(), now_s);
                self.reference.age_all();
            }
        }
        Ok(())
    }

    /// Within a burst the cache is asked before the first miss is resolved, and tokens are taken in
    /// that order: frames of a burst in which something decides over those behind come one by one.
    fn burst(&mut self, port: u16, arrivals: &[Arrival]) -> Result<(), TestCaseError> {
        let mut trial = self.reference.clone();
        for arrival in arrivals {
            trial.receive(port, &arrival.bytes, arrival.beside);
        }
        let size = if trial.turns == self.reference.turns {
            arrivals.len()
        } else {
            1
        };
        for chunk in arrivals.chunks(size) {
            for arrival in chunk {
                self.send(port, arrival);
            }
            self.compare(port, &chunk.iter().collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn compare(&mut self, port: u16, arrivals: &[&Arrival]) -> Result<(), TestCaseError> {
        self.bed.run();
        let real = self.bed.all_received();
        let mut expected = Vec::new();
        for arrival in arrivals {
            let sent = self.reference.receive(port, &arrival.bytes, arrival.beside);
            expected.extend(sent);
        }
        // By port; each port's frames stay in their order.
        expected.sort_by_key(|(port, _)| *port);
        prop_assert_eq!(real, expected, "from port {}: {:02x?}", port, arrivals);
        let drops: BTreeMap<_, _> = self
            .bed
            .drops()
            .into_iter()
            .map(|d| ((d.0, d.1.name()), d.2))
            .collect();
        prop_assert_eq!(
            &drops,
            &self.reference.drops,
            "from port {}: {:02x?}",
            port,
            arrivals
        );
        Ok(())
    }
}

fn agree(model: &Model, steps: &[Step], workers: usize) -> Result<Pair, TestCaseError> {
    let mut pair = Pair::new(model, workers);
    for step in steps {
        pair.step(step)?;
    }
    Ok(pair)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn one_worker_is_as_the_reference((model, steps) in any_frames()) {
        agree(&model, &steps, 1)?;
    }

    #[test]
    fn two_workers_are_as_the_reference((model, steps) in any_frames()) {
        agree(&model, &steps, 2)?;
    }

    #[test]
    fn connections_are_as_the_reference((model, steps) in datagrams(), workers in 1..3usize) {
        agree(&model, &steps, workers)?;
    }
}

/// What was met in some runs.
#[derive(Default)]
struct Met {
    drops: BTreeMap<&'static str, u64>,
    rx: u64,
    tx: u64,
    hits: u64,
    opened: u64,
}

fn met(runs: impl Strategy<Value = (Model, Vec<Step>)>) -> Met {
    let mut runner = TestRunner::deterministic();
    let mut met = Met::default();
    for _ in 0..64 {
        let (model, steps) = runs.new_tree(&mut runner).expect("a case").current();
        let pair = agree(&model, &steps, 1).expect("the same as the reference");
        for ((_, reason), frames) in &pair.reference.drops {
            *met.drops.entry(*reason).or_insert(0) += frames;
        }
        for port in 0..universe::PORTS {
            let counts = pair.bed.counts(port);
            met.rx += counts.rx_frames;
            met.tx += counts.tx_frames;
            met.hits += counts.cache_hits;
        }
        met.opened += pair.bed.shared.connections.opened();
    }
    met
}

/// What the random runs are worth: they meet every reason but those of time, budgets and
/// drivers, frames pass too, and the cache is both hit and overfull.
#[test]
fn the_universe_is_no_desert() {
    let Met {
        drops: seen,
        rx,
        tx,
        hits,
        ..
    } = met(any_frames());
    let out_of_reach = [
        DropReason::MissBudget,
        DropReason::TxFull,
        DropReason::TooBig,
        DropReason::PortDown,
        DropReason::ServiceLost,
        // No rule allows anything statefully here, and the reference knows only what cannot meet these.
        DropReason::ConnectionInvalid,
        DropReason::ConnectionLimit,
        DropReason::ConnectionTableFull,
        DropReason::FragmentUnknown,
        // Nor is a port disabled, or an address held where it is.
        DropReason::BpduGuard,
        DropReason::PortDisabled,
        DropReason::MacFlapping,
    ];
    for reason in DropReason::ALL {
        let met = seen.contains_key(reason.name());
        // Nor routers and services.
        let routed = matches!(reason.stage(), Stage::Route | Stage::Service);
        let expected = !routed && !out_of_reach.contains(reason);
        assert_eq!(met, expected, "{reason}: {seen:?}");
    }
    assert!(tx * 4 > rx, "{tx} frames left, {rx} came");
    assert!(hits * 4 > rx, "{hits} hits, {rx} frames");
}

/// Connections are opened, most frames belong to one, and limits are met in either direction.
#[test]
fn conversations_are_no_silence() {
    let met = met(datagrams());
    for reason in [DropReason::LimitOut, DropReason::LimitIn] {
        let dropped = met.drops.get(reason.name()).copied().unwrap_or(0);
        assert!(dropped * 100 > met.rx, "{reason}: {:?}", met.drops);
    }
    let (opened, tx, rx) = (met.opened, met.tx, met.rx);
    assert!(opened * 50 > rx, "{opened} connections, {rx} frames");
    assert!(tx * 3 > rx, "{tx} frames left, {rx} came");
    assert!(met.hits * 5 > rx, "{} hits, {rx} frames", met.hits);
}
