//! Several next hops: each has its share, and a change moves only whose flows it must.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use policy::route::{
    MAX_NEXT_HOPS, NextHop, NextHops, Origin, Route, RouteError, RouteTable, Target,
};
use proptest::prelude::*;

use crate::oracle::hop;

fn next_hops(hops: &[NextHop]) -> NextHops {
    match Target::via(hops.iter().copied()) {
        Ok(Target::Via(hops)) => hops,
        other => panic!("{other:?}"),
    }
}

fn some_hops() -> impl Strategy<Value = Vec<NextHop>> {
    let hops = proptest::collection::btree_map(1..250_u8, 1..=255_u8, 2..12);
    (hops, any::<bool>()).prop_map(|(hops, even)| {
        let hops = hops.into_iter();
        hops.map(|(number, weight)| hop(true, number, if even { 7 } else { weight }))
            .collect()
    })
}

proptest! {
    #[test]
    fn a_next_hop_that_goes_moves_only_its_own_flows(
        hops in some_hops(),
        gone in any::<proptest::sample::Index>(),
        hashes in proptest::collection::vec(any::<u64>(), 200),
    ) {
        let mut fewer = hops.clone();
        let gone = fewer.remove(gone.index(hops.len()));
        let (all, fewer) = (next_hops(&hops), next_hops(&fewer));
        // Low bits alone differ in some.
        for hash in hashes.into_iter().chain(0..200) {
            let before = all.select(hash);
            prop_assert!(hops.contains(before));
            if *before == gone {
                prop_assert_ne!(fewer.select(hash), before);
            } else {
                prop_assert_eq!(fewer.select(hash), before);
            }
        }
    }

    #[test]
    fn the_order_in_which_next_hops_are_named_makes_no_difference(
        hops in some_hops(),
        hash in any::<u64>(),
    ) {
        let reversed: Vec<_> = hops.iter().rev().copied().collect();
        let (hops, reversed) = (next_hops(&hops), next_hops(&reversed));
        prop_assert_eq!(hops.select(hash), reversed.select(hash));
    }
}

fn shares(hops: &NextHops, flows: u64) -> HashMap<IpAddr, u64> {
    let mut shares = HashMap::new();
    for hash in 0..flows {
        *shares.entry(hops.select(hash).address).or_default() += 1;
    }
    shares
}

#[test]
fn flows_are_shared_in_proportion_to_weights() {
    const FLOWS: u64 = 100_000;
    for weights in [
        vec![1; 8],
        vec![1, 2, 3, 4],
        vec![255, 1],
        vec![3; MAX_NEXT_HOPS],
    ] {
        let hops: Vec<_> = weights
            .iter()
            .zip(1..)
            .map(|(weight, number)| hop(true, number, *weight))
            .collect();
        let shares = shares(&next_hops(&hops), FLOWS);
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for hop in &hops {
            let wanted = FLOWS * u64::from(hop.weight.get()) / sum;
            let found = shares.get(&hop.address).copied().unwrap_or(0);
            // Six standard deviations of a binomial draw.
            let slack = 6.0 * (wanted as f64).sqrt();
            assert!(
                (found as f64 - wanted as f64).abs() <= slack,
                "{hop:?}: {found}, {wanted}"
            );
        }
    }
}

#[test]
fn a_weight_that_grows_moves_flows_to_its_next_hop_alone() {
    let before = next_hops(&[hop(true, 1, 2), hop(true, 2, 2), hop(true, 3, 2)]);
    let after = next_hops(&[hop(true, 1, 2), hop(true, 2, 5), hop(true, 3, 2)]);
    let mut moved = 0;
    for hash in 0..20_000 {
        let (from, to) = (before.select(hash).address, after.select(hash).address);
        if from != to {
            assert_eq!(to, hop(true, 2, 1).address);
            moved += 1;
        }
    }
    // 5/9 instead of 1/3 of them.
    assert!((4000..4900).contains(&moved), "{moved}");
}

fn route(metric: u32, hops: &[NextHop]) -> Route {
    Route {
        prefix: "192.0.2.0/24".parse().expect("a prefix"),
        metric,
        origin: Origin::Configuration,
        target: Arc::new(Target::via(hops.iter().copied()).expect("next hops")),
    }
}

#[test]
fn routes_of_the_best_metric_are_one_choice() {
    let mut table = RouteTable::default();
    let (first, second) = (route(5, &[hop(true, 1, 1)]), route(5, &[hop(true, 2, 1)]));
    table.insert(first.clone()).expect("a route");
    assert!(!table.is_multipath_v4());
    table.insert(second.clone()).expect("a route");
    table.insert(route(6, &[hop(true, 3, 1)])).expect("a route");
    assert!(table.is_multipath_v4() && !table.is_multipath_v6());
    let chosen = |table: &RouteTable| {
        let target = table.lookup_v4([192, 0, 2, 9].into()).expect("a route");
        let hops = target.next_hops().expect("next hops");
        let mut chosen: Vec<_> = (0..100).map(|hash| hops.select(hash).address).collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    };
    assert_eq!(
        chosen(&table),
        [hop(true, 1, 1).address, hop(true, 2, 1).address]
    );
    table.remove(&first).expect("a route");
    assert_eq!(chosen(&table), [hop(true, 2, 1).address]);
    assert!(!table.is_multipath_v4());
    table.remove(&second).expect("a route");
    assert_eq!(chosen(&table), [hop(true, 3, 1).address]);
}

#[test]
fn a_choice_is_among_a_bounded_number_at_every_metric() {
    let hops: Vec<_> = (1..=MAX_NEXT_HOPS as u8)
        .map(|number| hop(true, number, 1))
        .collect();
    let mut table = RouteTable::default();
    table
        .insert(route(5, &[hop(true, 200, 1)]))
        .expect("a route");
    table.insert(route(7, &hops)).expect("a route");
    let one_more = route(7, &[hop(true, 201, 1)]);
    assert_eq!(
        table.insert(one_more.clone()),
        Err(RouteError::TooManyNextHops)
    );
    assert_eq!(table.len(), 2);
    assert_eq!(
        table.remove(&one_more),
        Err(RouteError::Unknown(Box::new(one_more)))
    );
    // What is among them already adds none.
    table.insert(route(7, &hops[..2])).expect("a route");
}
