//! Ports that are no peer's interface: the host's own stack, and capture files.

use std::fs;

use super::{
    frames::{BROADCAST, collect, number_of, numbered},
    lab::{Lab, Link, NETWORK, access_port, mac, ok},
    netns::eventually,
    tcp::{listen, send_to},
};

const TAP: &str = r#"
[[port]]
name = "host"
driver = "tap"
interface = "tap0"
network = "lan"
"#;

#[test]
fn the_hosts_own_stack_is_a_port() {
    let Some(mut lab) = Lab::new() else { return };
    lab.member("a", Link::default());
    lab.address("a");
    lab.start(&(NETWORK.to_owned() + &access_port("a") + TAP));
    assert_eq!(lab.port("host").state, "up");
    lab.host.ip("addr add 10.0.0.100/24 dev tap0");
    lab.host.ip("link set dev tap0 up");
    lab.ping("a", "10.0.0.100", 10);
    let mut ping = std::process::Command::new("ping");
    ok(ping.args(["-n", "-q", "-c", "3", "-i", "0.01", "-W", "10", "10.0.0.1"]));
    send_to(&lab, "a", &listen("10.0.0.100"), 1 << 20);
    lab.check_conservation();
    // The interface is the switch's, and goes with it.
    assert!(lab.end(rustix::process::Signal::TERM).success());
    assert!(!lab.host.ip_output("link show").contains("tap0"));
    lab.start_again();
    assert_eq!(lab.port("host").state, "up");
    lab.end(rustix::process::Signal::KILL);
    lab.start_again();
    assert_eq!(lab.port("host").state, "up");
}

/// A pcap file (microseconds, Ethernet) of these frames, a millisecond apart.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4_u32.to_le_bytes());
    file.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(65_535_u32.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for (at_us, frame) in (0_u32..).step_by(1000).zip(frames) {
        let len = frame.len() as u32;
        for field in [0, at_us, len, len] {
            file.extend(field.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

/// The frames of a capture, as tcpdump reads it.
fn tcpdump_count(file: &std::path::Path) -> usize {
    let mut read = std::process::Command::new("tcpdump");
    let output = ok(read.args(["-n", "-t", "-r"]).arg(file));
    output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| line.starts_with(b"02:"))
        .count()
}

#[test]
fn a_capture_is_replayed_and_what_leaves_is_written() {
    let Some(mut lab) = Lab::new() else { return };
    lab.member("a", Link::default());
    let a = lab.socket("a");
    let frames: Vec<_> = (1..=100).map(|n| numbered(BROADCAST, mac(50), n)).collect();
    let (replay, written) = (lab.path("in.pcap"), lab.path("out.pcap"));
    fs::write(&replay, pcap(&frames)).expect("write the capture");
    let port = format!(
        "[[port]]\nname = \"file\"\ndriver = \"pcap\"\nnetwork = \"lan\"\nreplay = \"{}\"\n\
         write = \"{}\"\nrepeat = 2\n",
        replay.display(),
        written.display()
    );
    lab.start(&(NETWORK.to_owned() + &access_port("a") + &port));
    let expected: Vec<_> = (1..=100).chain(1..=100).collect();
    assert_eq!(collect(&a, 200, number_of), expected);
    for number in 0..50 {
        a.send(&numbered(mac(50), mac(1), number));
    }
    eventually("all leave", || {
        (lab.port("file").counts.tx_frames == 50).then_some(())
    });
    let stats = lab.check_conservation();
    let file = stats
        .ports
        .iter()
        .find(|port| port.name == "file")
        .expect("the port");
    assert_eq!(file.counts.rx_frames, 200);
    assert!(lab.end(rustix::process::Signal::TERM).success());
    assert_eq!(tcpdump_count(&written), 50);
}
