//! Interfaces vanish, return, come late, and have many queues.

use std::thread;

use super::{
    frames::{BROADCAST, collect, drain, number_of, numbered, numbered_udp, udp_number_of},
    lab::{Lab, Link, NETWORK, access_port, mac, mac_text},
    netns::{PacketSocket, eventually},
};
use vswitch::api::types;

/// Lets the switch learn where every member is, so that nothing is flooded. The frames that do it
/// have the number 0.
fn introduce(lab: &Lab, members: &[&str]) {
    for name in members {
        let own = mac(lab.number(name));
        lab.socket(name).send(&numbered(BROADCAST, own, 0));
        eventually("the address is learned", || {
            let macs: Vec<types::Mac> = lab.get("/v1/macs");
            let known = |row: &types::Mac| row.port == *name && row.mac == mac_text(own[5]);
            macs.iter().any(known).then_some(())
        });
    }
}

/// Sends `count` numbered frames to member `to` and checks that each arrives once, in order.
fn all_arrive(from: &PacketSocket, to: &PacketSocket, addresses: (u8, u8), count: u32) {
    for number in 1..=count {
        from.send(&numbered(mac(addresses.1), mac(addresses.0), number));
    }
    let wanted: Vec<_> = (1..=count).collect();
    assert_eq!(
        collect(to, wanted.len(), |f| number_of(f).filter(|n| *n != 0)),
        wanted
    );
}

#[test]
fn a_removed_interface_costs_its_own_port_only_and_returns() {
    let Some(lab) = Lab::quiet(&["a", "b", "c"], "") else {
        return;
    };
    introduce(&lab, &["a", "b", "c"]);
    let [b, c] = ["b", "c"].map(|name| lab.socket(name));
    for round in 1..=3 {
        let a = lab.socket("a");
        thread::scope(|scope| {
            // Load on the port that goes, from both sides, while it goes.
            let sender = scope.spawn(move || {
                let frame = numbered(BROADCAST, mac(1), 0);
                while a.try_send(&frame) {
                    thread::sleep(std::time::Duration::from_micros(500));
                }
            });
            eventually("load arrives", || c.receive().map(drop));
            for number in 0..20 {
                b.send(&numbered(mac(1), mac(2), number));
            }
            lab.host.ip("link del dev a");
            all_arrive(&b, &c, (2, 3), 300);
            sender.join().expect("the sender");
        });
        let port = lab.await_state("a", "waiting");
        assert!(
            port.reason.contains('a') && !port.reason.is_empty(),
            "{port:?}"
        );
        assert!(lab.log().contains("port gone"));
        all_arrive(&c, &b, (3, 2), 100);
        // What is for the missing port is accounted for.
        b.send(&numbered(mac(1), mac(2), 0));

        lab.connect("a", Link::default());
        let port = lab.await_state("a", "up");
        assert_eq!(port.reattached, round);
        let a = lab.socket("a");
        a.send(&numbered(BROADCAST, mac(1), 7));
        collect(&b, 1, |f| (number_of(f)? == 7).then_some(()));
        b.send(&numbered(mac(1), mac(2), 8));
        collect(&a, 1, |f| (number_of(f)? == 8).then_some(()));
        drain(&b);
        drain(&c);
        lab.check_conservation();
    }
}

#[test]
fn a_peer_that_is_down_shows_and_comes_back() {
    let Some(lab) = Lab::quiet(&["a", "b"], "") else {
        return;
    };
    introduce(&lab, &["a", "b"]);
    let [a, b] = ["a", "b"].map(|name| lab.socket(name));
    all_arrive(&a, &b, (1, 2), 10);
    lab.sh("a", "ip link set dev eth0 down");
    let port = lab.await_state("a", "down");
    assert!(port.reason.contains("carrier"), "{port:?}");
    for number in 0..10 {
        b.send(&numbered(mac(1), mac(2), number));
    }
    lab.check_conservation();
    lab.sh("a", "ip link set dev eth0 up");
    lab.await_state("a", "up");
    all_arrive(&b, &lab.socket("a"), (2, 1), 10);
    all_arrive(&lab.socket("a"), &b, (1, 2), 10);
    lab.check_conservation();
}

#[test]
fn ports_whose_interface_is_missing_wait_for_it() {
    let Some(mut lab) = Lab::new() else { return };
    lab.member("a", Link::default());
    lab.member("b", Link::default());
    lab.host.ip("link del dev b");
    lab.start(&(NETWORK.to_owned() + &access_port("a") + &access_port("b")));
    let port = lab.port("b");
    assert_eq!(port.state, "waiting");
    assert!(port.reason.contains('b'), "{port:?}");
    assert_eq!(lab.port("a").state, "up");
    let health: types::Health = lab.get("/v1/health");
    assert!(
        health.ports_not_up.iter().any(|text| text.contains('b')),
        "{health:?}"
    );
    lab.connect("b", Link::default());
    lab.await_state("b", "up");
    introduce(&lab, &["a", "b"]);
    all_arrive(&lab.socket("a"), &lab.socket("b"), (1, 2), 50);
    lab.check_conservation();
}

#[test]
fn queues_move_between_workers_and_lose_nothing() {
    const FLOWS: u16 = 32;
    let Some(mut lab) = Lab::new() else { return };
    let link = Link {
        queues: 4,
        ..Link::default()
    };
    let mut config = NETWORK.to_owned() + "[workers]\ncores = [0, 1]\n";
    for name in ["a", "b"] {
        lab.member(name, link);
        config += &access_port(name);
    }
    lab.start(&config);
    let queues: Vec<types::Queue> = lab.get("/v1/queues");
    assert_eq!(queues.len(), 8);
    for worker in 0..2 {
        assert!(
            queues.iter().any(|queue| queue.worker == worker),
            "{queues:?}"
        );
    }
    introduce(&lab, &["a", "b"]);
    let [a, b] = ["a", "b"].map(|name| lab.socket(name));
    let mut arrived = 0;
    for round in 0..24_usize {
        for number in 0..4 {
            for flow in 0..FLOWS {
                a.send(&numbered_udp(1, 2, (1000 + flow, 9), number));
            }
        }
        // While they are under way.
        let wanted = format!(
            r#"{{"port":"a","queue":{},"worker":{}}}"#,
            round % 4,
            round / 4 % 2
        );
        let (status, body) = lab.request("POST", "/v1/queues/assign", &wanted);
        assert_eq!(status, 200, "{body}");
        arrived += drain(&b).iter().filter_map(|f| udp_number_of(f)).count();
    }
    let sent = 24 * 4 * usize::from(FLOWS);
    if arrived < sent {
        arrived += collect(&b, sent - arrived, udp_number_of).len();
    }
    assert_eq!(arrived, sent);
    let stats = lab.check_conservation();
    for worker in &stats.workers {
        assert!(worker.frames > 0, "both had queues: {:?}", stats.workers);
    }
    for unknown in [
        r#"{"port":"a","queue":4,"worker":0}"#,
        r#"{"port":"a","queue":0,"worker":2}"#,
        r#"{"port":"z","queue":0,"worker":0}"#,
    ] {
        let (status, body) = lab.request("POST", "/v1/queues/assign", unknown);
        assert!((400..500).contains(&status), "{status} {body}");
    }
}
