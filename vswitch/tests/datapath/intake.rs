//! How a worker takes its frames: fairly among its queues, each loan ended once (which the bed's
//! queues check on every turn of every test), a burst at a time.

use crate::bed::{Bed, Options, build::*, frames::*};

fn switch(ports: u16, workers: usize) -> Bed {
    let options = Options {
        workers,
        ..Options::default()
    };
    Bed::with(
        &model([network(0)], (0..ports).map(|id| access(id, 0))),
        options,
    )
}

#[test]
fn a_busy_queue_keeps_no_other_from_its_turn() {
    let mut bed = switch(4, 1);
    let frame = |n: u8| plain(BROADCAST, mac(n));
    for _ in 0..20 {
        // Port 0 has a full burst for every turn there is.
        for _ in 0..pmd::BURST {
            bed.send(0, &frame(1));
        }
        for port in 1..4 {
            bed.send(port, &frame(10 + port as u8));
        }
        // Two turns: one may be taken up by port 0 alone.
        bed.turn();
        bed.collect();
        bed.turn();
        bed.collect();
        let own = |frames: &[Vec<u8>], n| frames.iter().filter(|f| **f == frame(n)).count();
        let left = bed.received(0);
        for port in 1..4 {
            assert_eq!(own(&left, 10 + port), 1, "port {port}");
        }
        bed.run();
        bed.all_received();
    }
}

#[test]
fn no_turn_takes_more_than_a_burst_and_none_is_lost() {
    let mut bed = switch(3, 1);
    for port in 0..3 {
        for _ in 0..100 {
            bed.send(port, &plain(BROADCAST, mac(port as u8)));
        }
    }
    let mut turns = 0;
    loop {
        let frames = bed.turn();
        bed.collect();
        assert!(frames <= pmd::BURST);
        if frames == 0 {
            break;
        }
        turns += 1;
    }
    assert_eq!(turns, 300_usize.div_ceil(pmd::BURST));
    for port in 0..3 {
        assert_eq!(bed.received(port).len(), 200);
    }
}

#[test]
fn a_port_keeps_its_frames_in_order() {
    let mut bed = switch(2, 2);
    for n in 0..120u8 {
        // Some are answered by the cache, some not, within one burst.
        let dst = if n % 3 == 0 { BROADCAST } else { mac(n) };
        bed.send(0, &ether(dst, mac(200), 0x88b5, &[n; 50]));
    }
    bed.run();
    let order: Vec<u8> = bed.received(1).iter().map(|frame| frame[20]).collect();
    assert_eq!(order, (0..120).collect::<Vec<u8>>());
}

#[test]
fn a_queue_can_be_handed_to_another_worker_between_turns() {
    let mut bed = switch(3, 2);
    for round in 0..10u8 {
        for n in 0..100 {
            bed.send(0, &ether(BROADCAST, mac(1), 0x88b5, &[round, n, 0, 0]));
        }
        bed.turn();
        bed.collect();
        let (from, to) = if round % 2 == 0 { (0, 1) } else { (1, 0) };
        let queues = bed.workers[from]
            .intake
            .remove(|queue| queue.port == policy::PortId(0));
        assert_eq!(queues.len(), 1);
        for queue in queues {
            bed.workers[to].intake.add(queue);
        }
        bed.run();
        let order: Vec<u8> = bed.received(1).iter().map(|frame| frame[15]).collect();
        assert_eq!(order, (0..100).collect::<Vec<u8>>());
        bed.all_received();
    }
}
