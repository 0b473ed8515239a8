//! The budget of misses: who opens flows as fast as it can slows nobody but itself.

use policy::DropReason;
use vswitch::budget::{SAVED_MOST, SHORT_BURST};

use crate::bed::{Bed, build::*, frames::*};

const FULL: usize = pmd::BURST;

/// What a flow from port 0 to the sink costs.
const FLOW: usize = 2;

/// How long storms last here: the bridge has room for the addresses.
const TURNS: usize = 150;

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

/// A port that has a new flow in its ring whenever there is room.
struct Storm {
    opened: usize,
    waiting: usize,
}

impl Storm {
    fn begin() -> Self {
        Self {
            opened: 0,
            waiting: 0,
        }
    }

    /// Fills the ring of port 0, turns once, and says how many of its frames that took and how many
    /// flows it resolved.
    fn turn(&mut self, bed: &mut Bed) -> (usize, usize) {
        while self.waiting < 2 * FULL {
            bed.send(0, &new_flow(self.opened));
            self.opened += 1;
            self.waiting += 1;
        }
        let counts = |bed: &Bed| {
            let counts = bed.counts(0);
            (counts.rx_frames, counts.dropped(DropReason::MissBudget))
        };
        let before = counts(bed);
        bed.turn();
        bed.collect();
        let after = counts(bed);
        let taken = (after.0 - before.0) as usize;
        self.waiting -= taken;
        (taken, taken - (after.1 - before.1) as usize)
    }
}

#[test]
fn between_two_looks_at_another_port_little_is_resolved_for_one_that_opens_flows() {
    let mut bed = bed();
    let established = plain(mac(2), mac(1));
    let mut storm = Storm::begin();
    // Nothing was known of it yet.
    let (taken, mut resolved_ever) = storm.turn(&mut bed);
    assert_eq!((taken, resolved_ever), (FULL, FULL));
    for turn in 1..TURNS {
        bed.send(1, &established);
        let (taken, resolved) = storm.turn(&mut bed);
        // Every port was looked at.
        assert_eq!(
            bed.received(2),
            std::slice::from_ref(&established),
            "turn {turn}"
        );
        resolved_ever += resolved;
        assert_eq!(taken, SHORT_BURST, "turn {turn}");
        if turn > SAVED_MOST as usize / FLOW / 4 {
            assert!(resolved <= 8 / FLOW, "{resolved} resolved in turn {turn}");
        }
    }
    // It got what its policy allows, and what it had saved.
    let allowed = SAVED_MOST as usize / FLOW + TURNS * 8 / FLOW;
    assert!(
        (allowed - FULL..=allowed).contains(&resolved_ever),
        "{resolved_ever}"
    );
    assert_eq!(bed.received(3).len(), resolved_ever);
    assert_eq!(bed.counts(1).dropped_total(), 0);
    let dropped = bed.counts(0).dropped(DropReason::MissBudget);
    assert_eq!(dropped, bed.counts(0).dropped_total());
    assert_eq!(dropped, bed.workers[0].counters.budget_drops.get());
    assert!(dropped > 0);
}

#[test]
fn a_quiet_port_opens_its_flows_in_the_turn_in_which_they_come() {
    let mut bed = bed();
    let mut storm = Storm::begin();
    storm.turn(&mut bed);
    bed.received(3);
    for turn in 0..TURNS as u16 {
        // To where all others go, so that their order is seen.
        let mut source = mac(50);
        source.0[3..5].copy_from_slice(&turn.to_be_bytes());
        let quiet = plain(mac(3), source);
        bed.send(1, &quiet);
        storm.turn(&mut bed);
        assert!(bed.received(3).contains(&quiet), "turn {turn}");
    }
    assert_eq!(bed.counts(1).dropped_total(), 0);
}

#[test]
fn known_frames_of_other_ports_leave_before_misses_are_resolved() {
    let mut bed = bed();
    let known = plain(mac(3), mac(1));
    bed.pass(1, &known);
    let mut storm = Storm::begin();
    storm.turn(&mut bed);
    bed.received(3);
    for turn in 0..100 {
        bed.send(1, &known);
        storm.turn(&mut bed);
        assert_eq!(bed.received(3).first(), Some(&known), "turn {turn}");
    }
}

#[test]
fn a_port_that_opens_many_flows_now_and_then_loses_none() {
    let mut bed = bed();
    let established = plain(mac(2), mac(1));
    let flows = SAVED_MOST as usize / FLOW;
    for round in 0..5 {
        for flow in 0..flows {
            bed.send(0, &new_flow(flows * round + flow));
        }
        for _ in 0..flows {
            bed.send(1, &established);
            bed.turn();
            bed.collect();
        }
        bed.run();
        bed.advance_ms(100);
    }
    assert_eq!(bed.counts(0).dropped_total(), 0);
    assert_eq!(bed.counts(1).dropped_total(), 0);
}

#[test]
fn bursts_are_whole_again_when_a_port_has_stopped() {
    let mut bed = bed();
    let established = plain(mac(2), mac(1));
    let mut storm = Storm::begin();
    for _ in 0..10 {
        bed.send(1, &established);
        storm.turn(&mut bed);
    }
    bed.run();
    let burst_of_known = |bed: &mut Bed| {
        for _ in 0..FULL {
            bed.send(0, &new_flow(0));
        }
        let frames = bed.turn();
        bed.collect();
        bed.run();
        frames
    };
    assert_eq!(burst_of_known(&mut bed), SHORT_BURST);
    bed.advance_ms(2);
    // Which the turn that finds it so still takes.
    bed.pass(1, &established);
    assert_eq!(burst_of_known(&mut bed), FULL);
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
    bed.advance_ms(2);
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
    bed.advance_ms(2);
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
/// 22 judgements; eight come in a turn, besides what it had saved.
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
        assert!((31..=35).contains(&passed), "{passed} with {queues} queues");
    }
}
