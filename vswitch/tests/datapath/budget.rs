//! The budget of misses: who opens flows as fast as it can slows nobody but itself.

use policy::DropReason;

use crate::bed::{Bed, build::*, frames::*};

const FULL: usize = pmd::BURST;

/// Port 0 opens flows, with 8 judgements a turn; ports 1 and 2 talk; port 3 is a sink.
fn bed() -> Bed {
    let ports = [
        access(0, 0).misses_per_turn(8),
        access(1, 0).misses_per_turn(8),
        access(2, 0),
        access(3, 0),
    ];
    let mut bed = Bed::new(&model([network(0)], ports));
    for port in 1..4 {
        bed.pass(port, &plain(BROADCAST, mac(port as u8)));
    }
    bed.pass(1, &plain(mac(2), mac(1)));
    bed
}

/// A frame of a flow that nobody has seen; to the sink, so that it costs two judgements.
fn new_flow(n: usize) -> Vec<u8> {
    let mut source = mac(100);
    source.0[3..5].copy_from_slice(&(n as u16).to_be_bytes());
    plain(mac(3), source)
}

#[test]
fn an_established_flow_loses_nothing_next_to_a_port_that_opens_flows() {
    let mut bed = bed();
    let established = plain(mac(2), mac(1));
    let mut opened = 0;
    for _ in 0..50 {
        for _ in 0..FULL / 2 {
            bed.send(0, &new_flow(opened));
            opened += 1;
            bed.send(1, &established);
        }
        while bed.turn() > 0 {}
        bed.collect();
    }
    assert_eq!(bed.counts(1).dropped_total(), 0);
    assert_eq!(bed.received(2).len(), 50 * FULL / 2);
    // Eight judgements a turn are four flows of two.
    let dropped = bed.counts(0).dropped(DropReason::MissBudget);
    assert_eq!(dropped, 50 * (FULL as u64 / 2 - 4));
    assert_eq!(bed.workers[0].counters.budget_drops.get(), dropped);
}

#[test]
fn within_its_budget_a_port_opens_flows_next_to_others() {
    let mut bed = bed();
    let established = plain(mac(2), mac(1));
    for turn in 0..50 {
        for flow in 0..4 {
            bed.send(0, &new_flow(4 * turn + flow));
            bed.send(1, &established);
        }
        bed.run();
    }
    assert_eq!(bed.counts(0).dropped_total(), 0);
    assert_eq!(bed.counts(1).dropped_total(), 0);
}

#[test]
fn a_port_that_is_alone_loses_nothing() {
    let mut bed = bed();
    bed.pass(0, &new_flow(0));
    for flow in 0..10 * FULL {
        bed.send(0, &new_flow(1 + flow));
        if flow % FULL == FULL - 1 {
            bed.run();
        }
    }
    assert_eq!(bed.counts(0).dropped(DropReason::MissBudget), 0);
}

#[test]
fn a_port_with_two_queues_is_alone_all_the_same() {
    let mut bed = bed();
    let second = bed.add_queue(0);
    bed.pass(0, &new_flow(0));
    for turn in 0..10 {
        for flow in 0..FULL / 2 {
            bed.send(0, &new_flow(1 + turn * FULL + flow));
            second.push(&new_flow(1 + turn * FULL + FULL / 2 + flow), None);
        }
        bed.run();
    }
    bed.fed(0, 10 * FULL as u64 / 2);
    assert_eq!(bed.counts(0).dropped(DropReason::MissBudget), 0);
}

/// How many of a port's floods pass in 60 turns in which another port has frames too. Each costs
/// 22 judgements; eight come in a turn.
fn floods_passed(queues: u64) -> u64 {
    let ports = (2..22).map(|id| access(id, 0));
    let first = [access(0, 0).misses_per_turn(8), access(1, 0)];
    let mut bed = Bed::new(&model([network(0)], first.into_iter().chain(ports)));
    let feeds: Vec<_> = (1..queues).map(|_| bed.add_queue(0)).collect();
    bed.pass(1, &plain(BROADCAST, mac(1)));
    // Each to another address, so that each is decided anew.
    let mut targets = (0..=u16::MAX).map(|target| {
        let [high, low] = target.to_be_bytes();
        plain(policy::Mac([2, 0, 0, 1, high, low]), mac(100))
    });
    let mut flood = || targets.next().expect("fewer frames than addresses");
    for _ in 0..60 {
        bed.send(0, &flood());
        for feed in &feeds {
            feed.push(&flood(), None);
        }
        bed.fed(0, feeds.len() as u64);
        bed.send(1, &plain(BROADCAST, mac(1)));
        bed.run();
        bed.all_received();
    }
    60 * queues - bed.counts(0).dropped(DropReason::MissBudget)
}

#[test]
fn what_a_port_overdraws_it_pays_back_however_many_queues_it_has() {
    for queues in 1..=3 {
        let passed = floods_passed(queues);
        assert!((20..=24).contains(&passed), "{passed} with {queues} queues");
    }
}
