//! Bridges behind ports: the kernel's, which speak spanning tree, and loops that they make.

use vswitch::api::types;

use super::{
    frames::{BROADCAST, numbered},
    lab::{Lab, Link, NETWORK, mac, port},
    netns::eventually,
};

/// A bridge on the member's interface that sends a spanning tree frame every second.
const BRIDGE: &str = "ip link add br0 type bridge stp_state 1 hello_time 100 forward_delay 200 &&
    ip link set eth0 master br0 && ip link set br0 up";

#[test]
fn a_bridge_behind_a_guarded_port_disables_it_until_somebody_enables_it() {
    let Some(mut lab) = Lab::new() else { return };
    let mut config = NETWORK.to_owned();
    for (name, tree) in [
        ("guarded", "spanning_tree = \"disable\""),
        ("brief", "spanning_tree = \"disable\"\nenable_after_s = 1"),
        ("deaf", ""),
        ("other", ""),
    ] {
        lab.member(name, Link::default());
        config += &port(name, &format!("network = \"lan\"\n{tree}"));
    }
    lab.start(&config);
    for name in ["guarded", "other"] {
        lab.address(name);
    }
    lab.ping("guarded", "10.0.0.4", 3);

    lab.sh("deaf", BRIDGE);
    eventually("its frames are dropped by name", || {
        (lab.dropped("deaf", "bpdu") > 0).then_some(())
    });
    assert_eq!(lab.port("deaf").state, "up");

    lab.sh("guarded", BRIDGE);
    let disabled = lab.await_state("guarded", "disabled");
    assert!(disabled.reason.contains("vswitch port enable guarded"));
    assert!(lab.log().contains("port disabled"), "{}", lab.log());
    assert_eq!(lab.dropped("guarded", "bpdu_guard"), 1);
    // Its frames and those to it are dropped under names of their own.
    lab.sh("other", "ping -n -c 2 -i 0.1 -W 1 10.0.0.1 || true");
    eventually("frames from it and to it are dropped", || {
        let from = lab.dropped("guarded", "port_disabled");
        let to = lab.dropped("guarded", "port_down");
        (from > 0 && to > 0).then_some(())
    });
    let (status, refusal) = lab.request("POST", "/v1/ports/other/enable", "");
    assert_eq!(status, 409, "{refusal}");
    lab.sh("guarded", "ip link set eth0 nomaster && ip link del br0");
    let shown = lab.cli("port enable guarded");
    assert!(shown.contains("up"), "{shown}");
    lab.ping("guarded", "10.0.0.4", 3);

    lab.sh("brief", BRIDGE);
    lab.await_state("brief", "disabled");
    lab.sh("brief", "ip link set eth0 nomaster && ip link del br0");
    lab.await_state("brief", "up");
    lab.check_conservation();
}

#[test]
fn an_address_that_flaps_is_held_and_told() {
    let network = NETWORK.replace(
        "tenant = \"lab\"\n",
        "tenant = \"lab\"\nmac_moves = 3\nmac_hold_s = 60\n",
    );
    let Some(mut lab) = Lab::new() else { return };
    let mut config = network;
    for name in ["a", "b", "c"] {
        lab.member(name, Link::default());
        config += &port(name, "network = \"lan\"");
    }
    lab.start(&config);
    let (a, b) = (lab.socket("a"), lab.socket("b"));
    // The same address now here, now there, as behind a loop.
    let looped = numbered(BROADCAST, mac(77), 1);
    let stats = eventually("the address is held", || {
        for socket in [&a, &b] {
            socket.send(&looped);
        }
        let stats: types::Stats = lab.get("/v1/stats");
        (stats.macs.flaps > 0).then_some(stats)
    });
    assert!(stats.macs.moves >= 3, "{:?}", stats.macs);
    let shown = lab.cli("show macs");
    assert!(shown.contains("flaps; held for"), "{shown}");
    eventually("it is logged", || {
        let log = lab.log();
        log.contains("moves between ports too often").then_some(())
    });
    eventually("claims elsewhere are dropped by name", || {
        for socket in [&a, &b] {
            socket.send(&looped);
        }
        let dropped = |port| lab.dropped(port, "mac_flapping");
        (dropped("a") + dropped("b") > 3).then_some(())
    });
    let (_, metrics) = lab.request("GET", "/metrics", "");
    let text = metrics.as_str().expect("text");
    assert!(text.contains("\nvswitch_mac_flaps_total 1\n"), "{text}");
    lab.check_conservation();
}
