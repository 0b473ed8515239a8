//! Single routes of routers, changed while everything else stays.

use std::{fmt::Write, net::Ipv4Addr};

use policy::route::{Origin, Target};

use super::{Control, Shared, log, origin, running};
use crate::api::types::{RouteChange, RouteSpec};

/// Two networks, a router, a vNIC with rules, and so many routes.
fn text(routes: usize) -> String {
    let mut text = String::from(
        r#"
[[network]]
name = "a"
tenant = "t"
[[network]]
name = "b"
tenant = "t"
[[router]]
name = "r"
tenant = "t"
[[router.interface]]
network = "a"
addresses = ["10.0.0.1/24", "fd00::1/64"]
[[router.interface]]
network = "b"
addresses = ["10.0.1.1/24"]
[[port]]
name = "p"
network = "a"
driver = "memory"
[[vnic]]
name = "v"
vm = "v"
port = "p"
mac = "02:00:00:00:00:05"
inbound = { acl = "many" }
[[acl]]
name = "many"
rules = ["deny in tcp to any port 1", "deny in tcp to any port 2"]
"#,
    );
    for number in 0..routes {
        let [_, a, b, c] = (number as u32).to_be_bytes();
        let _ = write!(
            text,
            "[[router.route]]\nto = \"{}.{b}.{c}.0/24\"\nvia = \"10.0.0.254\"\n",
            20 + a
        );
    }
    text
}

fn started(routes: usize) -> (Control, Shared) {
    let (control, world) = running(&[]);
    control
        .apply(origin(&text(routes)), false)
        .expect("applied");
    log(&world);
    (control, world)
}

fn spec(to: &str, via: &[&str]) -> RouteSpec {
    RouteSpec {
        to: to.into(),
        via: via.iter().map(|hop| (*hop).to_owned()).collect(),
        ..RouteSpec::default()
    }
}

fn action(to: &str, action: &str) -> RouteSpec {
    RouteSpec {
        action: Some(action.into()),
        ..spec(to, &[])
    }
}

fn add(control: &Control, spec: RouteSpec) -> Result<usize, String> {
    let change = RouteChange {
        add: vec![spec],
        ..RouteChange::default()
    };
    let done = control.change_routes("r", &change);
    done.map(|done| done.added)
        .map_err(|error| error.to_string())
}

fn delete(control: &Control, spec: RouteSpec) -> Result<usize, String> {
    let change = RouteChange {
        delete: vec![spec],
        ..RouteChange::default()
    };
    let done = control.change_routes("r", &change);
    done.map(|done| done.deleted)
        .map_err(|error| error.to_string())
}

/// Where the snapshot in force sends what is for an address.
fn target(world: &Shared, to: [u8; 4]) -> Option<Target> {
    let world = world.lock();
    let snapshot = world.snapshot.as_ref().expect("published");
    let router = &snapshot.routers()[0];
    router.routes.lookup_v4(Ipv4Addr::from(to)).cloned()
}

fn is_via(world: &Shared, to: [u8; 4], hops: &[&str]) -> bool {
    let hops: Vec<std::net::IpAddr> = hops.iter().map(|hop| hop.parse().expect("one")).collect();
    let found = target(world, to);
    found.is_some_and(|target| {
        let next = target.next_hops();
        next.is_some_and(|next| next.iter().map(|hop| hop.address).eq(hops))
    })
}

#[test]
fn a_route_comes_and_goes_and_no_rule_is_compiled() {
    let (control, world) = started(10);
    assert_ne!(control.hands.lock().work.compiled, 0, "it counts");
    assert_eq!(add(&control, spec("10.9.0.0/16", &["10.0.1.9"])), Ok(1));
    assert_eq!(log(&world), ["publish"]);
    assert_eq!(control.hands.lock().work.compiled, 0);
    assert!(is_via(&world, [10, 9, 1, 1], &["10.0.1.9"]));
    assert!(is_via(&world, [20, 0, 3, 1], &["10.0.0.254"]), "as before");
    assert_eq!(add(&control, action("10.9.7.0/24", "blackhole")), Ok(1));
    assert_eq!(target(&world, [10, 9, 7, 1]), Some(Target::Blackhole));
    let two = spec("10.8.0.0/16", &["10.0.1.9", "10.0.1.8"]);
    assert_eq!(add(&control, two), Ok(1));
    assert!(is_via(&world, [10, 8, 1, 1], &["10.0.1.8", "10.0.1.9"]));

    assert_eq!(delete(&control, spec("10.9.7.0/24", &[])), Ok(1));
    assert!(is_via(&world, [10, 9, 7, 1], &["10.0.1.9"]));
    assert_eq!(
        delete(&control, spec("20.0.3.0/24", &[])),
        Ok(1),
        "the file's"
    );
    assert_eq!(target(&world, [20, 0, 3, 1]), None);
    assert_eq!(control.hands.lock().work.compiled, 0);
    let world = world.lock();
    let snapshot = world.snapshot.as_ref().expect("published");
    let routes = snapshot.routers()[0].routes.routes();
    let ours = routes.filter(|route| route.origin == Origin::Api);
    let ours: Vec<_> = ours.map(|route| route.prefix.to_string()).collect();
    assert_eq!(ours, ["10.8.0.0/16", "10.9.0.0/16"]);
}

#[test]
fn what_was_changed_outlives_an_edit_and_ends_with_the_next_configuration() {
    let (control, world) = started(3);
    assert_eq!(add(&control, spec("10.9.0.0/16", &["10.0.1.9"])), Ok(1));
    assert_eq!(delete(&control, spec("20.0.1.0/24", &[])), Ok(1));
    control
        .add_port("name = \"q\"\nnetwork = \"a\"\ndriver = \"memory\"\n")
        .expect("added");
    assert!(is_via(&world, [10, 9, 1, 1], &["10.0.1.9"]));
    assert_eq!(target(&world, [20, 0, 1, 1]), None);
    control.apply(origin(&text(4)), false).expect("applied");
    assert_eq!(target(&world, [10, 9, 1, 1]), None);
    assert!(is_via(&world, [20, 0, 1, 1], &["10.0.0.254"]));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let (control, world) = started(3);
    let refused = |outcome: Result<usize, String>, word: &str| {
        let error = outcome.expect_err(word);
        assert!(error.contains(word), "{error}");
    };
    refused(
        add(&control, spec("10.9.0.0/16", &["192.0.2.1"])),
        "in no network",
    );
    refused(
        add(&control, spec("fd01::/64", &["10.0.0.9"])),
        "address family",
    );
    refused(
        add(&control, spec("10.9.0.0/33", &["10.0.0.9"])),
        "route can lead",
    );
    refused(add(&control, spec("10.9.0.0/16", &[])), "where do packets");
    refused(add(&control, action("10.9.0.0/16", "nowhere")), "nowhere");
    refused(
        add(&control, spec("20.0.1.0/24", &["10.0.0.254"])),
        "already",
    );
    refused(delete(&control, spec("10.77.0.0/16", &[])), "no such route");
    refused(
        delete(&control, spec("20.0.1.0/24", &["10.0.0.9"])),
        "no such route",
    );
    refused(
        delete(&control, spec("10.0.0.0/24", &[])),
        "network of router",
    );
    // One step: the second cannot be, so the first is not.
    let change = RouteChange {
        add: vec![
            spec("10.9.0.0/16", &["10.0.1.9"]),
            spec("20.0.1.0/24", &["10.0.0.254"]),
        ],
        ..RouteChange::default()
    };
    control.change_routes("r", &change).expect_err("half of it");
    let nobody = control.change_routes("s", &RouteChange::default());
    assert!(
        nobody
            .expect_err("no router")
            .to_string()
            .contains("no router \"s\"")
    );
    assert_eq!(target(&world, [10, 9, 1, 1]), None);
    assert_eq!(log(&world), [""; 0]);
}
