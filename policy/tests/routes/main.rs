//! Route tables: they answer as a list of all routes does, whatever was put in and taken out.

mod ecmp;
mod errors;
mod oracle;

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use oracle::{Answer, Oracle, address, crowded_route, lookup, prefix, route};
use policy::route::{Origin, Route, RouteError, RouteTable, Target};
use proptest::{prelude::*, sample::Index};

#[derive(Clone, Debug)]
enum Change {
    Insert(Route),
    /// One that was put in, or a like of it.
    Remove(Index),
    /// A prefix that others have too.
    Again(Index, Route),
    RemoveUnknown(Route),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => route().prop_map(Change::Insert),
        3 => any::<Index>().prop_map(Change::Remove),
        3 => (any::<Index>(), route()).prop_map(|(index, route)| Change::Again(index, route)),
        1 => route().prop_map(Change::RemoveUnknown),
    ]
}

fn make(change: &Change, table: &mut RouteTable, oracle: &mut Oracle) {
    let insert = |table: &mut RouteTable, oracle: &mut Oracle, route: &Route| {
        if oracle.0.contains(route) {
            let error = RouteError::Duplicate(Box::new(route.clone()));
            assert_eq!(table.insert(route.clone()), Err(error));
        } else {
            table.insert(route.clone()).expect("a good route");
            oracle.0.push(route.clone());
        }
    };
    match change {
        Change::Insert(route) => insert(table, oracle, route),
        Change::Again(index, like) if !oracle.0.is_empty() => {
            let prefix = index.get(&oracle.0).prefix;
            let route = Route {
                prefix,
                ..like.clone()
            };
            // Its target may not be one for that prefix.
            match route.check() {
                Ok(()) => insert(table, oracle, &route),
                Err(error) => assert_eq!(table.insert(route), Err(error)),
            }
        }
        Change::Remove(index) if !oracle.0.is_empty() => {
            let route = oracle.0.swap_remove(index.index(oracle.0.len()));
            table.remove(&route).expect("a route that is there");
        }
        Change::RemoveUnknown(route) if !oracle.0.contains(route) => {
            let error = RouteError::Unknown(Box::new(route.clone()));
            assert_eq!(table.remove(route), Err(error));
        }
        _ => {}
    }
}

fn last(prefix: IpNet) -> IpAddr {
    prefix.broadcast()
}

/// Both ends of each prefix, and what is next to them.
fn probes(oracle: &Oracle, others: &[IpAddr]) -> Vec<IpAddr> {
    let mut probes = others.to_vec();
    for route in &oracle.0 {
        for end in [route.prefix.network(), last(route.prefix)] {
            probes.push(end);
            probes.extend(match end {
                IpAddr::V4(end) => {
                    [-1, 1].map(|step| IpAddr::V4(end.to_bits().wrapping_add_signed(step).into()))
                }
                IpAddr::V6(end) => {
                    [-1, 1].map(|step| IpAddr::V6(end.to_bits().wrapping_add_signed(step).into()))
                }
            });
        }
    }
    probes
}

fn assert_same(table: &RouteTable, oracle: &Oracle, others: &[IpAddr]) {
    for address in probes(oracle, others) {
        let found = lookup(table, address).map(Answer::of);
        let found = table.matching(address).zip(found);
        assert_eq!(found, oracle.lookup(address), "{address}");
    }
    let mut all: Vec<Route> = table.routes().collect();
    let sorted = all.is_sorted_by_key(|route| {
        let v6 = route.prefix.addr().is_ipv6();
        (
            v6,
            route.prefix.network(),
            route.prefix.prefix_len(),
            route.metric,
        )
    });
    assert!(sorted, "{all:?}");
    assert_eq!(
        (table.len(), table.is_empty()),
        (all.len(), oracle.0.is_empty())
    );
    let mut wanted = oracle.0.clone();
    for route in &wanted {
        let mut here: Vec<_> = table.get(route.prefix).collect();
        assert!(here.is_sorted_by_key(|route| route.metric), "{here:?}");
        here.retain(|other| other == route);
        assert_eq!(here.len(), 1, "{route} once at its prefix");
    }
    let name = |route: &Route| format!("{route} {:?}", route.origin);
    all.sort_by_key(name);
    wanted.sort_by_key(name);
    assert_eq!(all, wanted);
}

/// Puts routes in, changes them and takes them out again, and asks each version.
fn check(crowd: &[Route], changes: &[Change], others: &[IpAddr]) {
    let (mut table, mut oracle) = (RouteTable::default(), Oracle::default());
    for route in crowd {
        make(&Change::Insert(route.clone()), &mut table, &mut oracle);
    }
    let mut versions = Vec::new();
    for change in changes {
        make(change, &mut table, &mut oracle);
        versions.push((table.clone(), oracle.clone()));
    }
    // Each version is still what it was, whatever came after it.
    for (table, oracle) in versions.iter().step_by(7).chain(versions.last()) {
        assert_same(table, oracle, others);
    }
    let built = RouteTable::from_routes(oracle.0.clone()).expect("the same routes");
    assert_same(&built, &oracle, others);
    let counts = |table: &RouteTable| {
        (
            table.depth_bits_v4(),
            table.depth_bits_v6(),
            table.is_multipath_v4(),
            table.is_multipath_v6(),
        )
    };
    assert_eq!(counts(&table), counts(&built));
    let rest = Oracle(oracle.0.split_off(oracle.0.len() / 2));
    for route in &oracle.0 {
        table.remove(route).expect("a route that is there");
    }
    assert_same(&table, &rest, others);
    for route in &rest.0 {
        table.remove(route).expect("a route that is there");
    }
    let empty = RouteTable::default();
    assert_eq!(
        table.memory_bytes(),
        empty.memory_bytes(),
        "nothing is left behind"
    );
    assert_eq!(counts(&table), counts(&empty));
}

proptest! {
    // What each case costs grows with the square of its routes.
    #![proptest_config(ProptestConfig::with_cases(50))]

    /// With as many prefixes in one place as the front has a page for, and not so many again.
    #[test]
    fn a_crowded_table_answers_as_a_list_of_all_routes(
        crowd in proptest::collection::vec(crowded_route(), 5..50),
        changes in proptest::collection::vec(change(), 0..40),
        others in proptest::collection::vec(address(), 20),
    ) {
        check(&crowd, &changes, &others);
    }
}

/// A change may cover more /24s with longer prefixes in them than it may write anew.
#[test]
fn a_route_to_many_networks_of_hosts_is_where_theirs_are_not() {
    let route = |prefix: String, target: Target| Route {
        prefix: prefix.parse().expect("a prefix"),
        metric: 0,
        origin: Origin::Api,
        target: Arc::new(target),
    };
    let reject = Target::Reject;
    let hosts = (0..40).flat_map(|net| [1, 77, 255].map(|host| format!("10.1.{net}.{host}/32")));
    let all: Vec<Route> = hosts.map(|host| route(host, reject.clone())).collect();
    let (mut table, mut oracle) = (RouteTable::default(), Oracle::default());
    let built = RouteTable::from_routes(all.clone()).expect("good routes");
    for route in all {
        make(&Change::Insert(route), &mut table, &mut oracle);
    }
    assert_same(&built, &oracle, &[]);
    for mut table in [table, built] {
        let mut oracle = oracle.clone();
        let around = route("10.1.0.0/16".into(), Target::Blackhole);
        let within = route("10.1.7.64/26".into(), Target::Blackhole);
        for change in [Change::Insert(around.clone()), Change::Insert(within)] {
            make(&change, &mut table, &mut oracle);
            assert_same(&table, &oracle, &[]);
        }
        table.remove(&around).expect("it is there");
        oracle.0.retain(|route| *route != around);
        assert_same(&table, &oracle, &[]);
        let gone: Vec<Route> = oracle.0.drain(..).collect();
        for route in gone {
            table.remove(&route).expect("it is there");
        }
        assert_same(&table, &oracle, &["10.1.7.77".parse().expect("an address")]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_table_answers_as_a_list_of_all_routes(
        changes in proptest::collection::vec(change(), 0..60),
        others in proptest::collection::vec(address(), 20),
    ) {
        check(&[], &changes, &others);
    }

    #[test]
    fn addresses_that_are_equal_in_the_leading_bits_get_the_same_answer(
        changes in proptest::collection::vec(change(), 0..40),
        most in 0..=128_u8,
        addresses in proptest::collection::vec((prefix(), address(), any::<u128>()), 30),
    ) {
        let (mut table, mut oracle) = (RouteTable::default(), Oracle::default());
        for change in &changes {
            match change {
                // Short prefixes alone, so that the bits left out are many.
                Change::Insert(route) if route.prefix.prefix_len() > most => {}
                change => make(change, &mut table, &mut oracle),
            }
            let longest = |ipv4: bool| {
                let here = oracle.0.iter().filter(|route| route.prefix.addr().is_ipv4() == ipv4);
                here.map(|route| route.prefix.prefix_len()).max().unwrap_or(0)
            };
            prop_assert_eq!(table.depth_bits_v4(), longest(true), "no more than is needed");
            prop_assert_eq!(table.depth_bits_v6(), longest(false), "no more than is needed");
            for (prefix, address, noise) in &addresses {
                for address in [*address, prefix.network(), last(*prefix)] {
                    let like = behind(&table, address, *noise);
                    prop_assert_eq!(lookup(&table, address), lookup(&table, like));
                }
            }
        }
    }
}

/// An address that is other in the bits behind those that a lookup reads.
fn behind(table: &RouteTable, address: IpAddr, noise: u128) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let behind = u32::MAX
                .checked_shr(table.depth_bits_v4().into())
                .unwrap_or(0);
            IpAddr::V4((address.to_bits() ^ noise as u32 & behind).into())
        }
        IpAddr::V6(address) => {
            let behind = u128::MAX
                .checked_shr(table.depth_bits_v6().into())
                .unwrap_or(0);
            IpAddr::V6((address.to_bits() ^ noise & behind).into())
        }
    }
}
