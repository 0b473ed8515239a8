//! The switch against the reference: random frames, random policy, changes mid-stream.
//!
//! What must hold: what leaves is the same, byte by byte and port by port, and so are the drop
//! counters, whatever the flow cache holds or evicts, and however many workers there are.

use std::collections::BTreeMap;

use policy::{DropReason, Stage, model::Model};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

use super::universe::{self, Arrival};
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
    /// Whoever does not send is forgotten.
    Age,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let arrivals = || prop::collection::vec(universe::arrival(), 1..32);
    let step = prop_oneof![
        8 => arrivals().prop_map(Step::Frames),
        4 => (0..universe::PORTS, arrivals()).prop_map(|(port, frames)| Step::Burst(port, frames)),
        2 => universe::some_model().prop_map(Step::Publish),
        1 => Just(Step::Age),
    ];
    prop::collection::vec(step, 1..14)
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
        let reference = Reference::new(model);
        Self { bed, reference }
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
            Step::Age => {
                self.bed.advance_ms(1_000_000);
                self.bed.shared.bridge.age(self.bed.now_s());
                self.reference.age_all();
            }
        }
        Ok(())
    }

    /// Within a burst the cache is asked before the first miss is resolved, so what is learned
    /// voids cached decisions from the next burst on: frames of a burst that voids any come one
    /// by one.
    fn burst(&mut self, port: u16, arrivals: &[Arrival]) -> Result<(), TestCaseError> {
        let mut trial = self.reference.clone();
        for arrival in arrivals {
            trial.receive(port, &arrival.bytes, arrival.beside);
        }
        let size = if trial.voided == self.reference.voided {
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
    fn one_worker_is_as_the_reference(model in universe::some_model(), steps in steps()) {
        agree(&model, &steps, 1)?;
    }

    #[test]
    fn two_workers_are_as_the_reference(model in universe::some_model(), steps in steps()) {
        agree(&model, &steps, 2)?;
    }
}

/// What the random runs are worth: they meet every reason but those of time, budgets and
/// drivers, frames pass too, and the cache is both hit and overfull.
#[test]
fn the_universe_is_no_desert() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::new();
    let (mut rx, mut tx, mut hits) = (0, 0, 0);
    for _ in 0..64 {
        let case = (universe::some_model(), steps()).new_tree(&mut runner);
        let (model, steps) = case.expect("a case").current();
        let pair = agree(&model, &steps, 1).expect("the same as the reference");
        for ((_, reason), frames) in &pair.reference.drops {
            *seen.entry(*reason).or_insert(0) += frames;
        }
        for port in 0..universe::PORTS {
            let counts = pair.bed.counts(port);
            rx += counts.rx_frames;
            tx += counts.tx_frames;
            hits += counts.cache_hits;
        }
    }
    let out_of_reach = [
        DropReason::MissBudget,
        DropReason::TxFull,
        DropReason::TooBig,
        DropReason::PortDown,
        DropReason::ServiceLost,
        // The reference knows no connections, so no rule allows anything statefully.
        DropReason::ConnectionInvalid,
        DropReason::ConnectionLimit,
        DropReason::ConnectionTableFull,
        DropReason::FragmentUnknown,
        // Nor is a port disabled, or an address held where it is.
        DropReason::BpduGuard,
        DropReason::PortDisabled,
        DropReason::MacFlapping,
        // Nor do its rules have limits.
        DropReason::LimitOut,
        DropReason::LimitIn,
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
