//! What is refused, and what the operator reads.

use std::sync::Arc;

use ipnet::IpNet;
use policy::{
    InterfaceId,
    route::{MAX_NEXT_HOPS, Origin, Route, RouteError, RouteTable, Target},
};

use crate::oracle::hop;

fn route(prefix: &str, target: Target) -> Route {
    Route {
        prefix: prefix.parse().expect("a prefix"),
        metric: 10,
        origin: Origin::Api,
        target: Arc::new(target),
    }
}

fn refused(route: Route) -> String {
    let mut table = RouteTable::default();
    let error = table.insert(route.clone()).expect_err("refused");
    assert!(table.is_empty());
    let built = RouteTable::from_routes([route]).expect_err("refused");
    assert_eq!(error, built);
    error.to_string()
}

#[test]
fn bad_routes_are_refused_in_words() {
    let via = || Target::via([hop(true, 1, 1)]).expect("a next hop");
    assert_eq!(
        refused(route("10.1.2.3/8", via())),
        "route to 10.1.2.3/8: the address has bits beyond /8; write 10.0.0.0/8"
    );
    assert_eq!(
        refused(route("2001:db8::1/32", Target::Blackhole)),
        "route to 2001:db8::1/32: the address has bits beyond /32; write 2001:db8::/32"
    );
    assert_eq!(
        refused(route("2001:db8::/32", via())),
        "route to 2001:db8::/32 via 10.0.0.1: the next hop is of the other address family"
    );
    let interface = InterfaceId(3);
    assert_eq!(
        refused(route("10.1.0.0/16", Target::Host { interface })),
        "host route to 10.1.0.0/16: a host route is to one address; write /32 or make it a route \
         of another kind"
    );
}

#[test]
fn bad_next_hops_are_refused_in_words() {
    let text = |hops: Vec<_>| Target::via(hops).expect_err("refused").to_string();
    assert_eq!(
        text(vec![]),
        "a route via next hops needs one at least; name one, or make it blackhole or reject"
    );
    assert_eq!(
        text(vec![hop(true, 1, 1), hop(true, 1, 2)]),
        "next hop 10.0.0.1 stands twice in one route; give it once, with a weight"
    );
    for address in [
        "0.0.0.0",
        "224.0.0.5",
        "127.0.0.1",
        "255.255.255.255",
        "::",
        "ff02::1",
        "::1",
    ] {
        let mut bad = hop(true, 1, 1);
        bad.address = address.parse().expect("an address");
        let wanted = format!("next hop {address} is not the address of one host");
        assert_eq!(text(vec![bad]), wanted);
    }
    let many = (1..=MAX_NEXT_HOPS as u8 + 1).map(|number| hop(true, number, 1));
    assert_eq!(
        text(many.collect()),
        "more than 64 next hops of one metric for one prefix; remove some"
    );
}

#[test]
fn what_is_there_and_what_is_not_is_told() {
    let mut table = RouteTable::default();
    let wanted = route(
        "10.0.0.0/8",
        Target::via([hop(true, 4, 2)]).expect("a next hop"),
    );
    table.insert(wanted.clone()).expect("a route");
    let name = "10.0.0.0/8 via 10.0.0.4 interface 1 weight 2 metric 10";
    assert_eq!(
        table
            .insert(wanted.clone())
            .expect_err("refused")
            .to_string(),
        format!("{name}: the table has this route already; remove one of the two")
    );
    assert!(matches!(
        RouteTable::from_routes([wanted.clone(), wanted.clone()]),
        Err(RouteError::Duplicate(_))
    ));
    let other = Route {
        metric: 11,
        ..wanted.clone()
    };
    assert_eq!(
        table.remove(&other).expect_err("refused").to_string(),
        "10.0.0.0/8 via 10.0.0.4 interface 1 weight 2 metric 11: the table has no such route; \
         see which it has for 10.0.0.0/8"
    );
    // Not the route to 10.0.0.0/8, though its first bits are the same.
    let prefix: IpNet = "10.0.0.1/8".parse().expect("a prefix");
    assert!(table.remove(&Route { prefix, ..wanted }).is_err());
    assert_eq!(table.len(), 1);
}
