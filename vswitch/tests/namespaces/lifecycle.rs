//! The process comes, goes, is killed, and comes again.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::process::Signal;

use super::{
    frames::{BROADCAST, collect, number_of, numbered},
    lab::{Lab, Link, SetAtEnd, Task, mac},
    netns::eventually,
};

/// A frame from `a` arrives at `b`.
fn passes(lab: &Lab, number: u32) {
    let [a, b] = ["a", "b"].map(|name| lab.socket(name));
    a.send(&numbered(BROADCAST, mac(1), number));
    assert_eq!(collect(&b, 1, number_of), [number]);
}

fn no_xdp_is_left(lab: &Lab) {
    for port in ["a", "b"] {
        eventually("no XDP program is left", || {
            (!lab.has_xdp(port)).then_some(())
        });
    }
}

#[test]
fn a_terminated_switch_leaves_nothing_behind() {
    for signal in [Signal::TERM, Signal::INT] {
        let Some(mut lab) = Lab::quiet(&["a", "b"], "") else {
            return;
        };
        passes(&lab, 1);
        assert!(lab.has_xdp("a") && lab.has_xdp("b"));
        let lock = lab.path("vswitch.sock.lock");
        assert!(lock.exists());
        let status = lab.end(signal);
        assert!(status.success(), "{status}: {}", lab.log());
        assert!(!lab.control().exists() && !lock.exists());
        assert!(!lab.has_xdp("a") && !lab.has_xdp("b"));
        lab.start_again();
        passes(&lab, 2);
    }
}

#[test]
fn a_terminated_switch_drains_what_it_received() {
    let Some(mut lab) = Lab::quiet(&["a", "b"], "") else {
        return;
    };
    let [a, b] = ["a", "b"].map(|name| lab.socket(name));
    // Addresses are known before, so that nothing is flooded.
    b.send(&numbered(BROADCAST, mac(2), 0));
    collect(&a, 1, number_of);
    for number in 1..=500 {
        a.send(&numbered(mac(2), mac(1), number));
    }
    assert!(lab.end(Signal::TERM).success());
    assert_eq!(collect(&b, 500, number_of).len(), 500);
}

#[test]
fn neither_load_nor_a_client_that_stays_keep_a_switch_from_ending() {
    let Some(mut lab) = Lab::quiet(&["a", "b"], "") else {
        return;
    };
    passes(&lab, 0);
    let a = lab.socket("a");
    let client = UnixStream::connect(lab.control()).expect("connect");
    let ended = AtomicBool::new(false);
    let status = thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                a.send(&numbered(BROADCAST, mac(1), 1));
            }
        });
        let _ending = SetAtEnd(&ended);
        let judged = lab.port("a").counts.rx_frames + 100;
        eventually("load arrives", || {
            (lab.port("a").counts.rx_frames > judged).then_some(())
        });
        lab.end(Signal::TERM)
    });
    assert!(status.success(), "{status}");
    assert!(!lab.control().exists());
    assert!(!lab.has_xdp("a") && !lab.has_xdp("b"));
    drop(client);
}

#[test]
fn after_a_kill_the_next_start_cleans_up_and_forwards() {
    let Some(mut lab) = Lab::quiet(&["a", "b"], "") else {
        return;
    };
    for round in 0..3 {
        passes(&lab, round);
        lab.end(Signal::KILL);
        assert!(lab.control().exists(), "the socket is a leftover");
        no_xdp_is_left(&lab);
        lab.start_again();
    }
    passes(&lab, 9);
    lab.check_conservation();
}

#[test]
fn a_second_switch_on_the_same_socket_is_refused() {
    let Some(lab) = Lab::quiet(&["a", "b"], "") else {
        return;
    };
    let output = lab.command().output().expect("start another");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("runs already on"), "{said}");
    assert!(said.contains("--socket"), "what to do: {said}");
    // The first goes on.
    passes(&lab, 1);
}

#[test]
fn a_second_switch_on_the_same_interface_is_refused_and_takes_nothing() {
    let Some(lab) = Lab::quiet(&["a", "b"], "") else {
        return;
    };
    passes(&lab, 1);
    let mut second = lab.command();
    second.arg("--socket").arg(lab.path("second.sock"));
    second.stderr(std::fs::File::create(lab.path("second.log")).expect("a log"));
    let mut second = Task::spawn(&mut second);
    let status = second.ended("the second switch gives up");
    let said = std::fs::read_to_string(lab.path("second.log")).expect("a log");
    assert!(!status.success(), "{said}");
    assert!(
        said.contains("\"a\"") || said.contains("interface a"),
        "{said}"
    );
    assert!(!lab.path("second.sock").exists());
    passes(&lab, 2);
}

#[test]
fn metrics_are_served_where_the_configuration_says() {
    let Some(mut lab) = Lab::quiet(&["a", "b"], "[metrics]\nlisten = \"127.0.0.1:9100\"\n") else {
        return;
    };
    lab.host.ip("link set dev lo up");
    passes(&lab, 1);
    let mut stream = TcpStream::connect("127.0.0.1:9100").expect("connect");
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .expect("ask");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    assert!(
        text.contains("vswitch_port_tx_frames_total{port=\"b\"} 1"),
        "{text}"
    );
    assert!(lab.end(Signal::TERM).success());
}

#[test]
fn a_bad_configuration_is_refused_at_start_and_nothing_is_touched() {
    let Some(mut lab) = Lab::new() else { return };
    lab.member("a", Link::default());
    lab.write_config(
        "[[port]]\nname = \"a\"\ndriver = \"af_xdp\"\ninterface = \"a\"\nnetwork = \"lan\"\n",
    );
    let output = lab.command().output().expect("start");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("vswitch.toml:") && said.contains("lan"),
        "{said}"
    );
    assert!(!lab.control().exists() && !lab.path("vswitch.sock.lock").exists());
    assert!(!lab.has_xdp("a"));
}
