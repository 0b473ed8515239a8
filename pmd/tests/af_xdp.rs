//! `AF_XDP` ports on real veth pairs. Each test needs root and makes a namespace of its own.

mod netns;

use std::{
    io::{BufRead, BufReader},
    net::UdpSocket,
    os::fd::AsRawFd,
    process::{Command, Stdio},
    slice,
};

use netns::{Netns, PATIENCE, PacketSocket, eventually, is_root};
use pmd::{
    Burst, Frame, Health, OpenError, Port, PrefixArena, TxBurst, TxPlan, TxQueue, TxReport, Wait,
    af_xdp::{self, Config, Mode},
    memory::Endpoint,
};

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
fn the_kernel_redirects_until_told_to_stop() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "near", 1500, 1);
    netns.veth("right", "far", 1500, 1);
    let sender = PacketSocket::open("near");
    let mut receiver = endpoint("far");
    let redirection = af_xdp::Redirection::new("left", "right").expect("redirect");
    for number in 0..10 {
        sender.send(&frame(number, 100));
        assert_eq!(receive(&mut receiver, 1), [frame(number, 100)]);
    }
    assert!(af_xdp::Redirection::new("left", "nowhere").is_err());
    drop(redirection);
    // The interface is free for another program.
    let mut left = endpoint("left");
    sender.send(&frame(11, 100));
    assert_eq!(receive(&mut left, 1), [frame(11, 100)]);
    assert!(receiver.drain().is_empty());
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
        assert_eq!(receive(&mut port, 1), slice::from_ref(&sent));
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
    assert!(port.info.mode.starts_with("generic XDP"), "{:?}", port.info);
    assert!(port.info.notes.iter().any(|note| note.contains("tso off")));
    let host = PacketSocket::open("right");
    let mut port = Endpoint::new(port);
    let sent = frame(1, 700);
    host.send(&sent);
    assert_eq!(receive(&mut port, 1), slice::from_ref(&sent));
    assert!(port.send(&sent));
    assert_eq!(eventually("a frame", || host.receive()), sent);
}

/// The next frame as the driver lends it: its bytes and the tag beside it.
fn receive_tagged(port: &mut Port) -> (Vec<u8>, Option<u16>) {
    eventually("a frame", || {
        let mut burst = Burst::new();
        port.rx[0].receive(&mut burst);
        assert!(burst.len() <= 1, "one at a time");
        let first = burst.first().map(|f| (f.to_vec(), f.vlan_tci));
        drop(burst);
        port.rx[0].release();
        first
    })
}

/// `frame(number, len)` with an 802.1Q tag in it.
fn tagged_frame(number: u32, len: usize, tci: u16) -> Vec<u8> {
    let mut frame = frame(number, len);
    let [high, low] = tci.to_be_bytes();
    frame.splice(12..12, [0x81, 0x00, high, low]);
    frame
}

#[test]
fn a_tag_in_the_frame_stays_in_the_frame() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let host = PacketSocket::open("right");
    let mut port = open(&Config::new("left"));
    for len in [60, 1514] {
        let sent = tagged_frame(1, len, 100);
        host.send(&sent);
        assert_eq!(receive_tagged(&mut port), (sent, None));
    }
}

#[test]
fn a_tag_beside_the_frame_is_read_from_metadata() {
    if !is_root() {
        return;
    }
    // The bridge takes the tag out of the frame on receive and sends it on beside the frame.
    let netns = Netns::enter_new();
    netns.veth("source", "in", 1500, 1);
    netns.veth("port", "out", 1500, 1);
    netns.ip("link add bridge type bridge forward_delay 0");
    netns.ip("link set in master bridge");
    netns.ip("link set out master bridge");
    netns.ip("link set bridge up");
    let source = PacketSocket::open("source");
    let mut port = open(&Config::new("port"));
    let tci = 0x6064;
    let untagged = frame(1, 80);
    // The bridge forwards as soon as its ports do.
    eventually("the bridge forwards", || {
        source.send(&untagged);
        (!receive_from(&mut port, 0).is_empty()).then_some(())
    });
    // What was sent meanwhile comes before this.
    let last = frame(100, 80);
    source.send(&last);
    eventually("the last of them", || {
        let came = receive_from(&mut port, 0);
        came.contains(&last).then_some(())
    });
    for number in 2..100 {
        source.send(&tagged_frame(number, 80, tci));
        assert_eq!(
            receive_tagged(&mut port),
            (frame(number, 80), Some(tci)),
            "the tag is beside the frame"
        );
        // Memory that held a tagged frame shows no tag of an untagged one.
        source.send(&untagged);
        assert_eq!(receive_tagged(&mut port), (untagged.clone(), None));
    }

    // A tag of another kind is not mistaken for one of ours.
    let mut service_tagged = tagged_frame(1, 80, tci);
    service_tagged[12..14].copy_from_slice(&[0x88, 0xa8]);
    source.send(&service_tagged);
    source.send(&untagged);
    assert_eq!(receive_tagged(&mut port), (untagged, None));
    assert_eq!(count(&mut port, "rx_other_tag"), 1);
}

#[test]
fn jumbo_frames_pass_in_pieces() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 9000, 1);
    let host = PacketSocket::open("right");
    let port = open(&Config::new("left"));
    assert_eq!(port.info.max_frame_bytes, 9014);
    let mut port = Endpoint::new(port);
    for (number, len) in [(1, 60), (2, 3840), (3, 3841), (4, 7680), (5, 9014)] {
        let sent = frame(number, len);
        host.send(&sent);
        assert!(receive(&mut port, 1) == [sent.clone()], "{len} bytes in");
        assert!(port.send(&sent));
        assert!(
            eventually("a frame", || host.receive()) == sent,
            "{len} bytes out"
        );
    }
    let tagged = tagged_frame(6, 9014, 5);
    assert!(port.send(&tagged), "a tag comes on top");
    // The host's stack takes the tag out of the frame.
    assert!(eventually("a frame", || host.receive()) == frame(6, 9014));
    assert!(!port.send(&frame(7, 9015)), "too long without a tag");
    assert!(!port.send(&tagged_frame(7, 9015, 5)), "too long with a tag");
}

#[test]
fn many_jumbo_frames_keep_their_order_and_pieces() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 9000, 1);
    let (mut left, mut right) = (endpoint("left"), endpoint("right"));
    let sent: Vec<_> = (0..300)
        .map(|number| frame(number, 100 + number as usize * 29))
        .collect();
    let mut received = Vec::new();
    for frame in &sent {
        assert!(left.send(frame));
        received.extend(right.drain());
    }
    eventually("all arrive", || {
        received.extend(right.drain());
        (received.len() == sent.len()).then_some(())
    });
    assert!(received == sent);
}

#[test]
fn many_bursts_without_a_pause_all_arrive() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let (mut left, mut right) = (endpoint("left"), endpoint("right"));
    let sent: Vec<_> = (0..64 * 20).map(|number| frame(number, 60)).collect();
    for burst in sent.chunks(pmd::BURST) {
        let frames: Vec<_> = burst.iter().map(|f| pmd::Frame::contiguous(f)).collect();
        assert_eq!(left.send_burst(&frames), frames.len());
    }
    // No further transmit: what is left on the ring leaves when the port is polled.
    let mut received = Vec::new();
    eventually("all arrive", || {
        left.drain();
        received.extend(right.drain());
        (received.len() >= sent.len()).then_some(())
    });
    assert!(received == sent);
}

#[test]
fn every_queue_is_opened_and_receives() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 2);
    let mut right = open(&Config::new("right"));
    let first_only = open(&Config {
        queues: Some(1),
        ..Config::new("left")
    });
    assert_eq!((first_only.rx.len(), first_only.tx.len()), (1, 1));
    let notes = first_only.info.notes.join("\n");
    assert!(notes.contains("1 of 2 receive queues"), "{notes}");
    drop(first_only);
    let mut left = open(&Config::new("left"));
    assert_eq!((left.rx.len(), left.tx.len()), (2, 2));
    assert_eq!(left.info.notes, [""; 0]);
    for queue in 0..2 {
        // What leaves through a queue of a veth arrives at the same queue of its peer.
        let sent = frame(queue as u32, 60);
        assert_eq!(transmit(&mut right, queue, &[&sent]).sent, 1);
        eventually("a frame on its queue", || {
            let frames = receive_from(&mut left, queue);
            (!frames.is_empty()).then(|| assert_eq!(frames, slice::from_ref(&sent)))
        });
    }
}

/// Sends whole frames through one queue.
fn transmit(port: &mut Port, queue: usize, frames: &[&[u8]]) -> TxReport {
    transmit_on(&mut port.tx[queue], frames)
}

fn transmit_on(queue: &mut Box<dyn TxQueue>, frames: &[&[u8]]) -> TxReport {
    let prefixes = PrefixArena::default();
    let plans: Vec<_> = (0u8..)
        .zip(frames)
        .map(|(frame, bytes)| TxPlan {
            frame,
            len_bytes: bytes.len() as u32,
            ..Default::default()
        })
        .collect();
    let frames: Vec<_> = frames.iter().map(|f| Frame::contiguous(f)).collect();
    queue.transmit(&TxBurst {
        frames: &frames,
        prefixes: &prefixes,
        plans: &plans,
    })
}

/// What one `receive` of a queue gives.
fn receive_from(port: &mut Port, queue: usize) -> Vec<Vec<u8>> {
    let mut burst = Burst::new();
    port.rx[queue].receive(&mut burst);
    let frames = burst.iter().map(Frame::to_vec).collect();
    drop(burst);
    port.rx[queue].release();
    frames
}

fn count(port: &mut Port, name: &str) -> u64 {
    let counts = port.monitor.counts();
    let found = counts.iter().find(|(counter, _)| *counter == name);
    found.expect("the counter exists").1
}

#[test]
fn an_interface_deleted_under_load_is_gone_and_can_be_opened_again() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let mut left = open(&Config::new("left"));
    let mut right = open(&Config::new("right"));
    let sent = frame(1, 60);
    let burst = [sent.as_slice(); 64];
    let mut deletion = None;
    let mut turns = 0;
    eventually("the interface is gone", || {
        turns += 1;
        if turns == 20 {
            deletion = Some(netns.spawn_ip("link del left"));
        }
        for port in [&mut left, &mut right] {
            let report = transmit(port, 0, &burst);
            assert_eq!(report.sent + report.full + report.down, 64);
            receive_from(port, 0);
        }
        matches!(left.monitor.health(), Health::Gone(_)).then_some(())
    });
    assert!(deletion.expect("started").wait().expect("ip").success());
    for port in [&mut left, &mut right] {
        assert!(matches!(port.monitor.health(), Health::Gone(_)));
        assert_eq!(transmit(port, 0, &burst).down, 64);
        while !receive_from(port, 0).is_empty() {}
        assert_eq!(port.rx[0].prepare_wait(), Wait::Until(None));
        port.monitor.counts();
    }
    assert!(matches!(
        af_xdp::open(&Config::new("left")),
        Err(OpenError::Missing(_))
    ));

    netns.veth("left", "right", 1500, 1);
    assert!(
        matches!(left.monitor.health(), Health::Gone(_)),
        "another interface of the same name is not ours"
    );
    let (mut left, mut right) = (endpoint("left"), endpoint("right"));
    assert!(left.send(&sent));
    assert_eq!(receive(&mut right, 1), [sent]);
}

#[test]
fn an_interface_that_is_down_or_without_peer_is_reported() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let mut left = open(&Config::new("left"));
    assert_eq!(left.monitor.health(), Health::Up);
    netns.ip("link set right down");
    let health = eventually("no carrier", || match left.monitor.health() {
        Health::Down(why) => Some(why),
        _ => None,
    });
    assert!(health.contains("carrier"), "{health}");
    netns.ip("link set left down");
    let Health::Down(why) = left.monitor.health() else {
        panic!("not down");
    };
    assert!(why.contains("ip link set left up"), "{why}");
    let sent = frame(1, 60);
    assert_eq!(transmit(&mut left, 0, &[&sent]).down, 1);
    netns.ip("link set left up");
    netns.ip("link set right up");
    eventually("up again", || {
        (left.monitor.health() == Health::Up).then_some(())
    });
    assert_eq!(transmit(&mut left, 0, &[&sent]).sent, 1);
}

#[test]
fn a_port_can_be_closed_and_opened_at_once() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let host = PacketSocket::open("right");
    for number in 0..5 {
        let mut port = endpoint("left");
        let sent = frame(number, 60);
        host.send(&sent);
        assert_eq!(receive(&mut port, 1), [sent]);
    }
    assert!(!netns.ip_output("link show left").contains("xdp"));
}

#[test]
fn a_second_owner_is_told_what_to_do() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let _first = open(&Config::new("left"));
    let error = af_xdp::open(&Config::new("left")).expect_err("taken");
    assert!(error.to_string().contains("xdp off"), "{error}");
    assert!(error.to_string().contains("program id"), "{error}");
}

#[test]
fn what_cannot_be_opened_says_why() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let refused = |config: Config| af_xdp::open(&config).expect_err("refused").to_string();
    let base = Config::new("left");
    let ring_size = 100;
    assert!(
        refused(Config {
            ring_size,
            ..base.clone()
        })
        .contains("power of two")
    );
    let queues = Some(2);
    assert!(
        refused(Config {
            queues,
            ..base.clone()
        })
        .contains("use 1 to 1")
    );
    let frame_bytes = Some(1024);
    assert!(
        refused(Config {
            frame_bytes,
            ..base
        })
        .contains("2048 or 4096")
    );
    assert!(refused(Config::new("a-name-that-is-too-long")).contains("15 characters"));
    assert!(refused(Config::new("nothing")).contains("no network interface nothing"));
    netns.ip("link set left down");
    assert!(refused(Config::new("left")).contains("ip link set left up"));
}

const HOLD: &str = "PMD_TEST_HOLD_PORT";

#[test]
#[ignore = "run by the next test, as a process of its own to kill"]
fn hold_a_port_until_killed() {
    let interface = std::env::var(HOLD).expect("which interface");
    let _port = open(&Config::new(interface));
    println!("\nholding");
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_process_leaves_no_program_and_no_socket() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let mut holder = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--ignored",
            "--exact",
            "hold_a_port_until_killed",
            "--nocapture",
        ])
        .env(HOLD, "left")
        .stdout(Stdio::piped())
        .spawn()
        .expect("run this program again");
    let output = BufReader::new(holder.stdout.take().expect("piped"));
    let holding = output
        .lines()
        .map_while(Result::ok)
        .any(|line| line == "holding");
    let attached = netns.ip_output("link show left").contains("xdp");
    holder.kill().expect("SIGKILL");
    holder.wait().expect("its end");
    assert!(
        holding && attached,
        "the port was open: {holding}, {attached}"
    );
    eventually("the program is gone", || {
        (!netns.ip_output("link show left").contains("xdp")).then_some(())
    });
    let (mut left, mut right) = (endpoint("left"), endpoint("right"));
    let sent = frame(1, 60);
    assert!(left.send(&sent));
    assert_eq!(receive(&mut right, 1), [sent]);
}

/// Gives `right` an address, and a UDP socket that sends to a neighbour behind `left`.
fn udp_to_left(netns: &Netns) -> UdpSocket {
    netns.ip("addr add 192.0.2.1/24 dev right");
    netns.ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev right");
    let socket = UdpSocket::bind("192.0.2.1:1000").expect("bind");
    socket.connect("192.0.2.2:2000").expect("connect");
    socket
}

#[test]
fn frames_of_a_veth_peer_come_with_the_partial_checksums_that_the_port_announces() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let port = open(&Config::new("left"));
    let announced = port.info.unmarked_partial_checksums;
    let mut port = Endpoint::new(port);
    udp_to_left(&netns).send(&[0x55; 100]).expect("send");
    let received = receive(&mut port, 1).remove(0);
    // Ethernet 14, IPv4 20: addresses at 26..34; UDP: length at 38..40, checksum at 40..42.
    let pseudo_header = [&received[26..34], &[0, 17], &received[38..40]].concat();
    let sum = pmd::transmit::fold(pmd::transmit::sum(&pseudo_header));
    let partial = received[40..42] == sum.to_be_bytes();
    assert_eq!(announced, partial);
}

/// Sends five datagrams of 1400 bytes as one super-frame.
fn send_super_frame(socket: &UdpSocket) {
    const UDP_SEGMENT: libc::c_int = 103;
    let size: libc::c_int = 1400;
    // SAFETY: the value is one int and lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            UDP_SEGMENT,
            (&raw const size).cast(),
            4,
        )
    };
    assert_eq!(result, 0);
    assert_eq!(socket.send(&[0x55; 7000]).expect("send"), 7000);
}

#[test]
fn native_mode_receives_segments_and_no_super_frame() {
    if !is_root() {
        return;
    }
    for mtu in [1500, 9000] {
        let netns = Netns::enter_new();
        netns.veth("left", "right", mtu, 1);
        let mut port = endpoint("left");
        send_super_frame(&udp_to_left(&netns));
        let lengths: Vec<_> = receive(&mut port, 5).iter().map(Vec::len).collect();
        assert_eq!(lengths, [1442; 5], "with an MTU of {mtu}");
    }
}

#[test]
fn generic_mode_counts_the_super_frames_that_the_kernel_drops() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let mut port = open(&Config {
        mode: Mode::Generic,
        ..Config::new("left")
    });
    assert_eq!(count(&mut port, "rx_dropped"), 0);
    send_super_frame(&udp_to_left(&netns));
    eventually("the drop is counted", || {
        assert!(receive_from(&mut port, 0).is_empty());
        (count(&mut port, "rx_dropped") == 1).then_some(())
    });
}

#[test]
fn a_sleeper_is_woken_by_a_frame() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let host = PacketSocket::open("right");
    let mut port = open(&Config::new("left"));
    assert_eq!(port.rx[0].prepare_wait(), Wait::Until(None));
    host.send(&frame(1, 60));
    {
        let wake = port.rx[0].wake_fd().expect("a descriptor");
        let mut fds = [rustix::event::PollFd::new(
            &wake,
            rustix::event::PollFlags::IN,
        )];
        let patience = PATIENCE.try_into().expect("a time");
        assert_eq!(rustix::event::poll(&mut fds, Some(&patience)), Ok(1));
    }
    assert_eq!(port.rx[0].prepare_wait(), Wait::Ready);
    assert_eq!(receive_from(&mut port, 0), [frame(1, 60)]);
}

#[test]
fn a_receiver_that_does_not_receive_costs_counted_frames_and_recovers() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let small = |interface| Config {
        ring_size: 64,
        ..Config::new(interface)
    };
    let (mut left, mut right) = (open(&small("left")), open(&small("right")));
    let sent = frame(1, 60);
    let mut taken = 0;
    for _ in 0..100 {
        taken += u64::from(transmit(&mut left, 0, &[sent.as_slice(); 64]).sent);
    }
    let mut received = 0;
    eventually("each frame is received or counted", || {
        receive_from(&mut left, 0);
        received += receive_from(&mut right, 0).len() as u64;
        let lost = count(&mut right, "rx_dropped")
            + count(&mut right, "rx_ring_full")
            + count(&mut left, "tx_lost");
        (received >= 64 && received + lost >= taken).then_some(())
    });
    assert_eq!(transmit(&mut left, 0, &[&sent]).sent, 1);
    eventually("frames pass again", || {
        (!receive_from(&mut right, 0).is_empty()).then_some(())
    });
}

#[test]
fn frames_that_no_ethernet_carries_are_refused() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let mut port = open(&Config::new("left"));
    let (runt, long) = (vec![0xff; 13], frame(1, 1515));
    let report = transmit(&mut port, 0, &[&runt, &[], &long, &frame(2, 60)]);
    assert_eq!((report.too_big, report.sent), (3, 1));
    assert_eq!(count(&mut port, "tx_runts"), 2);
}

#[test]
fn a_veth_whose_peer_has_too_many_queues_gets_generic_mode_and_a_note() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.ip("link add right numtxqueues 4 type veth peer name left");
    netns.ip("link set left up");
    netns.ip("link set right up");
    let port = open(&Config::new("left"));
    assert!(port.info.mode.starts_with("generic"), "{:?}", port.info);
    let notes = port.info.notes.join("\n");
    assert!(notes.contains("numrxqueues"), "{notes}");
    drop(port);
    let error = af_xdp::open(&Config {
        mode: Mode::Native,
        ..Config::new("left")
    });
    assert!(
        error
            .expect_err("refused")
            .to_string()
            .contains("numrxqueues")
    );
}

#[test]
fn jumbo_frames_pass_in_generic_mode() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 9000, 1);
    let host = PacketSocket::open("right");
    let mut port = Endpoint::new(open(&Config {
        mode: Mode::Generic,
        ..Config::new("left")
    }));
    for (number, len) in [(1, 60), (2, 3841), (3, 9014)] {
        let sent = frame(number, len);
        host.send(&sent);
        assert!(receive(&mut port, 1) == slice::from_ref(&sent), "{len} in");
        assert!(port.send(&sent));
        assert!(
            eventually("a frame", || host.receive()) == sent,
            "{len} out"
        );
    }
}

#[test]
fn the_halves_of_a_queue_run_on_different_threads_and_no_frame_is_unaccounted() {
    if !is_root() {
        return;
    }
    let netns = Netns::enter_new();
    netns.veth("left", "right", 1500, 1);
    let small = |interface| Config {
        ring_size: 256,
        ..Config::new(interface)
    };
    let mut ports = [open(&small("left")), open(&small("right"))];
    // A peer that receives on a thread of its own falls behind, so that kicks are refused.
    netns.receive_on_a_thread("right");
    let mut senders: Vec<_> = ports.iter_mut().map(|port| port.tx.remove(0)).collect();
    let sent_bytes = frame(1, 60);
    let sent: Vec<u64> = std::thread::scope(|scope| {
        let running: Vec<_> = senders
            .iter_mut()
            .map(|sender| {
                let frame = &sent_bytes;
                scope.spawn(move || {
                    (0..500)
                        .map(|_| u64::from(transmit_on(sender, &[frame.as_slice(); 64]).sent))
                        .sum()
                })
            })
            .collect();
        let mut received = [0, 0];
        let mut receive_all = |ports: &mut [Port; 2]| {
            for (port, received) in ports.iter_mut().zip(&mut received) {
                let frames = receive_from(port, 0);
                assert!(frames.iter().all(|frame| *frame == sent_bytes));
                *received += frames.len() as u64;
            }
            received
        };
        while !running
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            receive_all(&mut ports);
        }
        let sent: Vec<u64> = running
            .into_iter()
            .map(|thread| thread.join().expect("a sender"))
            .collect();
        eventually("every frame is received or counted", || {
            let received = receive_all(&mut ports);
            (0..2)
                .all(|from| {
                    let to = 1 - from;
                    let lost = count(&mut ports[from], "tx_lost")
                        + count(&mut ports[to], "rx_dropped")
                        + count(&mut ports[to], "rx_ring_full");
                    sent[from] == received[to] + lost
                })
                .then_some(())
        });
        sent
    });
    assert!(sent.iter().all(|sent| *sent > 0));
}
