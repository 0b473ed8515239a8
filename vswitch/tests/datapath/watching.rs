//! Whoever watches sees every dropped frame while they are few, so many a second when they are
//! many, and nobody is sampled for who has gone.

use std::collections::BTreeMap;

use policy::{
    DropReason, PortId, Side,
    model::{Action, Model},
};
use proptest::prelude::*;
use vswitch::drop_watch::{Filter, MOST_WATCHES, RING, Sample, Watch, Watches, What};

use super::universe;
use crate::bed::{Bed, Options, build::*, frames::*};

const ANY: Filter = Filter {
    what: What::Dropped(None),
    port: None,
    per_second: 1000,
};

fn watches(bed: &Bed) -> Watches {
    Watches::new(bed.workers.iter().map(vswitch::worker::Worker::taps))
}

fn samples(watch: &mut Watch) -> (Vec<Sample>, u64) {
    let (mut samples, mut skipped) = (Vec::new(), 0);
    while let Some((sample, before)) = watch.next_sample() {
        samples.push(sample);
        skipped += before;
    }
    (samples, skipped + watch.take_skipped())
}

/// Rule 7 keeps TCP from the vNIC at port 1.
fn denying() -> Model {
    let no_tcp = policy::rule::Match {
        protocol: Some(TCP),
        ..Default::default()
    };
    let closed = vnic(mac(2)).inbound(Action::Allow, [deny(7, no_tcp)]);
    model(
        [network(0)],
        [access(0, 0), access(1, 0).vnic(closed), access(2, 0)],
    )
}

fn tcp_frame(to: u8, from: u8) -> Vec<u8> {
    let packet = ipv4([10, 0, 0, from], [10, 0, 0, to], TCP, &tcp(1, 2, 2));
    ether(mac(to), mac(from), IPV4, &packet)
}

#[test]
fn a_sample_tells_all_there_is_to_know_of_a_drop() {
    let mut bed = Bed::new(&denying());
    let watches = watches(&bed);
    let mut watch = watches.start(ANY).expect("a place");
    let frame = tcp_frame(2, 1);
    // By the slow path, then from the cache.
    for _ in 0..2 {
        bed.pass(0, &frame);
    }
    bed.pass(2, &[1, 2, 3]);
    let (samples, skipped) = samples(&mut watch);
    assert_eq!(skipped, 0);
    let told: Vec<_> = samples
        .iter()
        .map(|sample| {
            let (account, denial) = sample.drop.expect("a drop");
            let head = sample.frame.as_ref().expect("a frame");
            (
                sample.ingress.expect("known").0,
                account.0,
                denial.reason.name(),
                denial.rule.map(|rule| rule.0),
                head.bytes().to_vec(),
            )
        })
        .collect();
    let denied = (0, 1, "acl_in", Some(7), frame);
    let runt = (2, 2, "runt", None, vec![1, 2, 3]);
    assert_eq!(told, [denied.clone(), denied, runt]);
    assert!(
        samples
            .windows(2)
            .all(|pair| pair[0].at_ns <= pair[1].at_ns)
    );
}

#[test]
fn filters_choose_by_port_and_reason() {
    let mut bed = Bed::new(&denying());
    let watches = watches(&bed);
    let of = |port, reason| Filter {
        what: What::Dropped(reason),
        port,
        ..ANY
    };
    let filters = [
        (of(Some(PortId(0)), None), 1),
        (of(Some(PortId(1)), None), 1),
        (of(None, Some(DropReason::Runt)), 1),
        (of(Some(PortId(0)), Some(DropReason::Runt)), 0),
    ];
    let mut all: Vec<Watch> = filters
        .iter()
        .map(|(filter, _)| watches.start(*filter).expect("a place"))
        .collect();
    bed.pass(0, &tcp_frame(2, 1));
    bed.pass(2, &[1, 2, 3]);
    for (watch, (filter, expected)) in all.iter_mut().zip(filters) {
        let (samples, skipped) = samples(watch);
        assert_eq!((samples.len(), skipped), (expected, 0), "{filter:?}");
    }
}

/// More than any watch takes at once.
const FRAMES: usize = 1000;

#[test]
fn samples_are_bounded_and_the_rest_is_counted() {
    let mut bed = Bed::new(&denying());
    let watches = watches(&bed);
    let slow = Filter {
        per_second: 10,
        ..ANY
    };
    let mut slow = watches.start(slow).expect("a place");
    let mut fast = watches.start(ANY).expect("a place");
    for _ in 0..FRAMES {
        bed.pass(0, &tcp_frame(2, 1));
    }
    for (watch, most) in [(&mut slow, 11), (&mut fast, RING)] {
        let (samples, skipped) = samples(watch);
        assert_eq!(samples.len(), most);
        assert_eq!(samples.len() as u64 + skipped, FRAMES as u64);
    }
    // A second later there are ten more.
    bed.advance_ms(1000);
    for _ in 0..FRAMES {
        bed.pass(0, &tcp_frame(2, 1));
    }
    let (samples, skipped) = samples(&mut slow);
    assert!((9..=11).contains(&samples.len()), "{}", samples.len());
    assert_eq!(samples.len() as u64 + skipped, FRAMES as u64);
}

#[test]
fn places_are_few_and_given_again() {
    let mut bed = Bed::new(&denying());
    let watches = watches(&bed);
    let mut all: Vec<_> = (0..MOST_WATCHES).map(|_| watches.start(ANY)).collect();
    assert!(all.iter().all(Option::is_some));
    assert!(watches.start(ANY).is_none(), "one too many");
    bed.pass(0, &tcp_frame(2, 1));
    all.clear();
    assert!(!bed.workers[0].taps().watch_drops(), "all have gone");
    // What was left for the former is not for the next.
    let mut next = watches.start(ANY).expect("a place");
    assert_eq!(samples(&mut next).0.len(), 0);
    bed.pass(0, &tcp_frame(2, 1));
    let (samples, skipped) = samples(&mut next);
    assert_eq!((samples.len(), skipped), (1, 0));
}

#[test]
fn what_a_driver_refuses_is_told_with_its_frame_where_it_is_known() {
    let mut bed = Bed::new(&denying());
    let watches = watches(&bed);
    let mut watch = watches.start(ANY).expect("a place");
    let too_big = ether(mac(3), mac(1), 0x88b5, &[0; 600]);
    let fits = ether(mac(1), mac(3), 0x88b5, &[0; 60]);
    bed.pass(2, &fits);
    // A feed carries what the memory port at the far end could not send.
    let feed = bed.add_queue(0);
    feed.push(&too_big, None);
    bed.fed(0, 1);
    bed.run();
    bed.detach(2);
    bed.pass(0, &ether(mac(3), mac(1), 0x88b5, &[0; 60]));
    let (samples, skipped) = samples(&mut watch);
    assert_eq!(skipped, 0);
    let told: Vec<_> = samples
        .iter()
        .map(|sample| {
            let (account, denial) = sample.drop.expect("a drop");
            let len = sample.frame.as_ref().map(|frame| frame.frame_len_bytes);
            (account.0, denial.reason, len)
        })
        .collect();
    let expected = [
        (2, DropReason::TooBig, Some(614)),
        (2, DropReason::PortDown, Some(74)),
    ];
    assert_eq!(told, expected);
}

#[test]
fn received_frames_are_sampled_whatever_becomes_of_them() {
    let mut bed = Bed::new(&denying());
    let watches = watches(&bed);
    let all = Filter {
        what: What::Received,
        ..ANY
    };
    let mut watch = watches.start(all).expect("a place");
    let frames = [tcp_frame(2, 1), plain(mac(3), mac(1))];
    for frame in &frames {
        bed.pass(0, frame);
    }
    let (samples, _) = samples(&mut watch);
    let seen: Vec<_> = samples
        .iter()
        .map(|sample| sample.frame.as_ref().expect("a frame").bytes().to_vec())
        .collect();
    assert_eq!(seen, frames);
    assert!(samples.iter().all(|sample| sample.drop.is_none()));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 32,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Every drop of any kind is told once, in the account and with the rule that count it.
    #[test]
    fn on_a_quiet_switch_every_drop_is_told(
        model in universe::some_model(),
        arrivals in prop::collection::vec(universe::arrival(), 1..40),
    ) {
        let options = Options { cache_entries: 64, workers: 2, ..Options::default() };
        let mut bed = Bed::with(&universe::everything(), options);
        bed.publish(&model);
        let watches = watches(&bed);
        let mut watch = watches.start(ANY).expect("a place");
        let mut told = BTreeMap::new();
        for arrival in &arrivals {
            match arrival.beside {
                None => bed.send(arrival.port, &arrival.bytes),
                Some(tci) => bed.send_tagged(arrival.port, &arrival.bytes, tci),
            }
            bed.run();
            let (samples, skipped) = samples(&mut watch);
            prop_assert_eq!(skipped, 0);
            for sample in samples {
                let (account, denial) = sample.drop.expect("a drop");
                let ingress = sample.ingress.expect("known");
                prop_assert_eq!(ingress.0, arrival.port);
                if denial.reason.side() == Side::Ingress {
                    prop_assert_eq!(account, ingress);
                }
                let label = (account.0, denial.reason.name(), denial.rule);
                *told.entry(label).or_insert(0) += 1;
            }
        }
        let mut counted = BTreeMap::new();
        for (port, reason, rule, frames) in bed.ledger() {
            if frames > 0 {
                counted.insert((port, reason.name(), rule), frames);
            }
        }
        prop_assert_eq!(told, counted);
    }
}
