//! AF_XDP ports on real veth pairs. Each test needs root and makes a namespace of its own.

mod support;

use pmd::{
    Port,
    af_xdp::{self, Config, Mode},
    memory::Endpoint,
};
use support::{Netns, PacketSocket, eventually, is_root};

/// An ethertype for local experiments (IEEE 802): nothing else here sends it.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// A frame of `len` bytes that differs from every other `number`.
fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(ETHERTYPE);
    frame.extend(number.to_be_bytes());
    let body = frame.len()..len;
    frame.extend(body.map(|at| (at as u32).wrapping_mul(number + 7) as u8));
    frame
}

fn open(config: &Config) -> Port {
    af_xdp::open(config).expect("open the port")
}

fn endpoint(interface: &str) -> Endpoint {
    Endpoint::new(open(&Config::new(interface)))
}

/// The next frames that come, `count` of them.
fn receive(endpoint: &mut Endpoint, count: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    eventually("frames arrive", || {
        frames.extend(endpoint.drain());
        (frames.len() >= count).then_some(())
    });
    frames
}

#[test]
fn frames_pass_both_ways_unchanged() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let host = PacketSocket::open("right");
    let mut port = endpoint("left");
    for (number, len) in [(1, 60), (2, 61), (3, 1000), (4, 1514)] {
        let sent = frame(number, len);
        host.send(&sent);
        assert_eq!(receive(&mut port, 1), [sent.clone()]);
        assert!(port.send(&sent));
        assert_eq!(eventually("a frame", || host.receive()), sent);
    }
}

#[test]
fn native_mode_and_the_veth_driver_are_reported() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let port = open(&Config::new("left"));
    println!("{:?}", port.info);
    assert!(
        port.info.mode.starts_with("native XDP, copy"),
        "{:?}",
        port.info
    );
    assert!(port.info.unmarked_partial_checksums);
    assert_eq!(port.info.max_frame_bytes, 1514);
}

#[test]
fn generic_mode_passes_frames_and_says_what_it_lacks() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let port = open(&Config {
        mode: Mode::Generic,
        ..Config::new("left")
    });
    println!("{:?}", port.info);
    assert!(port.info.mode.starts_with("generic XDP"), "{:?}", port.info);
    assert!(port.info.notes.iter().any(|note| note.contains("tso off")));
    let host = PacketSocket::open("right");
    let mut port = Endpoint::new(port);
    let sent = frame(1, 700);
    host.send(&sent);
    assert_eq!(receive(&mut port, 1), [sent.clone()]);
    assert!(port.send(&sent));
    assert_eq!(eventually("a frame", || host.receive()), sent);
}
