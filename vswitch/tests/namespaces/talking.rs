//! Network stacks with their default settings talk to each other.

use std::{process::Stdio, thread, time::Duration};

use super::{
    frames::{BROADCAST, collect, drain, number_of, numbered},
    lab::{Lab, Link, NETWORK, Task, access_port, mac, mac_text},
    netns::eventually,
    tcp::{listen, send_to},
};
use vswitch::api::types;

/// Members `a` and `b` with addresses, on one network.
fn pair(link: Link) -> Option<Lab> {
    pair_on(link, "")
}

/// As [`pair`]; the configuration begins with `head`.
fn pair_on(link: Link, head: &str) -> Option<Lab> {
    let mut lab = Lab::new()?;
    let mut config = head.to_owned() + NETWORK;
    for name in ["a", "b"] {
        lab.member(name, link);
        lab.address(name);
        config += &access_port(name);
    }
    lab.start(&config);
    Some(lab)
}

/// What the server of an iperf3 run counted. It stops counting when the client is done sending,
/// so what is under way then is missing.
fn received_bytes(report: &serde_json::Value) -> u64 {
    let bytes = report["end"]["sum_received"]["bytes"].as_u64();
    bytes.unwrap_or_else(|| panic!("a report: {report}"))
}

/// Sends `len` bytes by TCP from member `a` to member `b` at `address`; all arrive unchanged.
fn transfer(lab: &Lab, address: &str, len: usize) {
    let listener = lab.within("b", || listen(address));
    send_to(lab, "a", &listener, len);
}

#[test]
fn ping_and_tcp_and_udp_pass_with_the_peers_default_offloads() {
    let Some(lab) = pair(Link::default()) else {
        return;
    };
    lab.ping("a", "10.0.0.2", 20);
    lab.ping("a", "fd00::2", 20);
    lab.ping("b", "-s 1472 -M do 10.0.0.1", 5);
    for address in ["10.0.0.2", "fd00::2"] {
        transfer(&lab, address, 1 << 20);
        for direction in ["", "--reverse"] {
            let tcp = format!("--client {address} --bytes 24M {direction}");
            let report = lab.iperf3("a", "b", &tcp);
            // Socket buffers hold a few megabytes.
            assert!(received_bytes(&report) > 12 << 20, "{report}");
        }
        let udp = format!("--client {address} --udp --bitrate 4M --length 1200 --time 1");
        assert!(received_bytes(&lab.iperf3("a", "b", &udp)) > 0);
    }
    let stats = lab.check_conservation();
    assert!(stats.ports.iter().all(|port| port.counts.tx_frames > 1000));
}

#[test]
fn jumbo_frames_pass() {
    let Some(lab) = pair(Link {
        mtu: 9000,
        ..Link::default()
    }) else {
        return;
    };
    assert_eq!(lab.port("a").max_frame_bytes, 9014);
    lab.ping("a", "-s 8900 -M do 10.0.0.2", 10);
    lab.ping("b", "-s 8900 -M do fd00::1", 10);
    transfer(&lab, "10.0.0.2", 2 << 20);
    transfer(&lab, "fd00::2", 2 << 20);
    let stats = lab.check_conservation();
    // Large frames went through whole: far fewer than of 1,500 bytes there would be.
    let b = stats.ports.iter().find(|port| port.name == "b").expect("b");
    assert!(b.counts.tx_bytes / b.counts.tx_frames > 3000, "{b:?}");
}

#[test]
fn tcp_passes_by_many_queues_and_two_workers() {
    let Some(lab) = pair_on(
        Link {
            queues: 4,
            ..Link::default()
        },
        "[workers]\ncores = [0, 1]\n",
    ) else {
        return;
    };
    for direction in ["", "--reverse"] {
        let tcp = format!("--client fd00::2 --parallel 4 --bytes 24M {direction}");
        let report = lab.iperf3("a", "b", &tcp);
        assert!(received_bytes(&report) > 4 << 20, "{report}");
    }
    transfer(&lab, "10.0.0.2", 1 << 20);
    let stats = lab.check_conservation();
    for worker in &stats.workers {
        assert!(worker.frames > 0, "{:?}", stats.workers);
    }
}

#[test]
fn tcp_survives_faults() {
    let Some(lab) = pair_on(Link::default(), "") else {
        return;
    };
    let fault = "fault = { seed = 7, drop = 0.01, duplicate = 0.02, delay = 0.02, delay_receives = 3, full = 0.01 }\n";
    lab.apply(&(NETWORK.to_owned() + &access_port("a") + fault + &access_port("b") + fault));
    transfer(&lab, "10.0.0.2", 1 << 20);
    transfer(&lab, "fd00::2", 1 << 20);
    assert!(lab.dropped("b", "tx_full") > 0, "faults were injected");
    lab.check_conservation();
}

#[test]
fn a_frame_that_is_too_long_for_a_port_is_counted_there() {
    let Some(mut lab) = Lab::new() else { return };
    let mut config = NETWORK.to_owned();
    for (name, mtu) in [("a", 9000), ("b", 1500), ("c", 9000)] {
        let link = Link {
            mtu,
            ..Link::default()
        };
        lab.member(name, link);
        config += &access_port(name);
    }
    lab.start(&config);
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.socket(name));
    let mut long = numbered(BROADCAST, mac(1), 1);
    long.resize(9014, 0x5a);
    a.send(&long);
    a.send(&numbered(BROADCAST, mac(1), 2));
    assert_eq!(collect(&c, 2, number_of), [1, 2]);
    assert_eq!(collect(&b, 1, number_of), [2]);
    lab.check_conservation();
    assert_eq!(lab.dropped("b", "too_big"), 1);
}

#[test]
fn generic_mode_says_what_it_lacks_and_counts_what_it_cannot_take() {
    let Some(lab) = pair_on(Link::default(), "") else {
        return;
    };
    let generic = "mode = \"generic\"\n";
    lab.apply(&(NETWORK.to_owned() + &access_port("a") + generic + &access_port("b") + generic));
    assert!(lab.port("a").mode.contains("generic"));
    lab.ping("a", "10.0.0.2", 5);
    lab.ping("a", "fd00::2", 5);
    let notes = lab.port("a").notes.join(" ");
    assert!(notes.contains("tso off"), "{notes}");
    // Super-frames, which that would prevent.
    let mut client = lab.at(
        "a",
        "iperf3 --client 10.0.0.2 --time 1 --connect-timeout 9000",
    );
    let _server = Task::spawn(
        lab.at("b", "iperf3 --server --one-off")
            .stdout(Stdio::null()),
    );
    eventually("super-frames are counted", || {
        let _client = Task::spawn(client.stdout(Stdio::null()).stderr(Stdio::null()));
        // A port that was just opened has no counts yet.
        let counted = || {
            let counts = lab.port("a").driver_counts;
            let dropped = counts.get("rx_dropped").is_some_and(|frames| *frames > 0);
            dropped.then_some(())
        };
        (0..20).find_map(|_| {
            thread::sleep(Duration::from_millis(50));
            counted()
        })
    });
    lab.check_conservation();
}

#[test]
fn traffic_follows_an_address_that_moves() {
    let Some(lab) = Lab::quiet(&["a", "b", "c"], "") else {
        return;
    };
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.socket(name));
    let mover = mac(99);
    for (number, (here, there)) in (0..).step_by(2).zip([(&a, &b), (&b, &a), (&a, &b)]) {
        here.send(&numbered(BROADCAST, mover, number));
        collect(&c, 1, number_of);
        collect(there, 1, number_of);
        c.send(&numbered(mover, mac(3), number + 1));
        assert_eq!(collect(here, 1, number_of), [number + 1]);
        // A frame to everybody comes behind what might have gone astray.
        c.send(&numbered(BROADCAST, mac(3), 1000));
        let elsewhere = collect(there, 1, number_of);
        assert_eq!(elsewhere, [1000], "the address has left");
        collect(here, 1, number_of);
        let macs: Vec<types::Mac> = lab.get("/v1/macs");
        let name = if std::ptr::eq(here, &raw const a) {
            "a"
        } else {
            "b"
        };
        let known: Vec<_> = macs.iter().filter(|row| row.mac == mac_text(99)).collect();
        assert_eq!(known.len(), 1, "{macs:?}");
        assert_eq!(known[0].port, name);
    }
    assert_eq!(drain(&c).len(), 0);
    lab.check_conservation();
}
