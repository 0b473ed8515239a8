//! DPDK's testpmd as a guest of its own kind (virtio-user): both roles of the socket, buffers that
//! merge and that do not, one queue and four, short frames and long ones. Both sides count the
//! same.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    frames::{ethernet, ipv4, udp},
    lab::{Lab, Link, access_port, mac, mac_text},
    netns::eventually,
    vm::{Plan, Role, config, lab},
};

/// A testpmd that takes commands, one network card for each of some ports of the switch.
struct Testpmd {
    process: Child,
    commands: ChildStdin,
    said: PathBuf,
    cards: usize,
    /// The folder that DPDK makes.
    folder: PathBuf,
}

impl Testpmd {
    fn start(lab: &Lab, plans: &[Plan], mergeable: bool, more: &[&str]) -> Self {
        static PROCESSES: AtomicU32 = AtomicU32::new(0);
        let number = PROCESSES.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("vswitch-{}-{number}", std::process::id());
        let said = lab.path(&format!("{prefix}.log"));
        // Line by line, or what it says is mixed with its prompts.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "dpdk-testpmd"]);
        // Pages of the ordinary size, in files that can be shared; no devices but ours.
        command.args([
            "--no-pci",
            "--no-huge",
            "-m",
            "256",
            "--single-file-segments",
        ]);
        command.args([
            "--no-telemetry",
            "--file-prefix",
            &prefix,
            "--lcores",
            "0@0-1,1@0-1",
        ]);
        for (card, plan) in plans.iter().enumerate() {
            let server = match plan.role {
                Role::Client => ",server=1",
                Role::Server => "",
            };
            command.arg(format!(
                "--vdev=net_virtio_user{card},path={}{server},queues={},mrg_rxbuf={},mac={}",
                lab.path(&format!("{}.sock", plan.name)).display(),
                plan.queues,
                u8::from(mergeable),
                mac_text(plan.number)
            ));
        }
        let queues = plans[0].queues;
        command.args(["--", "-i", "--total-num-mbufs=8192", "--mbuf-size=9600"]);
        command.args([format!("--rxq={queues}"), format!("--txq={queues}")]);
        command.args(more);
        let log = File::create(&said).expect("a log");
        command.stderr(log.try_clone().expect("a log")).stdout(log);
        let mut process = command.stdin(Stdio::piped()).spawn().expect("dpdk-testpmd");
        let commands = process.stdin.take().expect("its input");
        let folder = PathBuf::from("/var/run/dpdk").join(prefix);
        Self {
            process,
            commands,
            said,
            cards: plans.len(),
            folder,
        }
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("testpmd listens");
    }

    /// Frames received and sent by a card, as far as it told.
    fn counts(&mut self, card: usize) -> (u64, u64) {
        let closed = |said: &str| {
            let lines = said.lines().map(str::trim);
            let line = |line: &&str| !line.is_empty() && line.bytes().all(|c| c == b'#');
            lines.filter(line).count()
        };
        let before = closed(&self.log());
        self.tell("show port stats all");
        let said = eventually("testpmd tells its counts", || {
            let ended = self.process.try_wait().expect("wait");
            assert!(ended.is_none(), "testpmd ended: {ended:?}");
            let said = self.log();
            (closed(&said) >= before + self.cards).then_some(said)
        });
        let head = format!("NIC statistics for port {card} ");
        let block = said.rsplit(&head).next().expect("the card's block");
        let value = |name: &str| {
            let rest = block.split(name).nth(1).expect("a count");
            let number = rest.split_whitespace().next().expect("a count");
            number.parse().expect("a number")
        };
        (value("RX-packets:"), value("TX-packets:"))
    }

    fn log(&self) -> String {
        let text = fs::read(&self.said).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("testpmd said: {}", self.log());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Sends frames of each size both ways and compares the counts of both sides.
fn counts_agree(mergeable: bool, queues: u16) {
    const FRAMES: u64 = 1000;
    let Some((mut lab, _turn)) = lab() else {
        return;
    };
    let plan = |name, number, role| Plan {
        queues,
        ..Plan::new(name, number, role)
    };
    let plans = [plan("a", 1, Role::Client), plan("b", 2, Role::Server)];
    lab.start(&config(&lab, &plans, ""));
    let peers = [
        format!("--eth-peer=0,{}", mac_text(2)),
        format!("--eth-peer=1,{}", mac_text(1)),
    ];
    let mut testpmd = Testpmd::start(
        &lab,
        &plans,
        mergeable,
        &[&peers[0], &peers[1], "--flowgen-flows=100"],
    );
    for name in ["a", "b"] {
        lab.await_state(name, "up");
    }
    for bytes in [64, 594, 1514, 9000] {
        let start = ["a", "b"].map(|name| lab.port(name).counts.rx_frames);
        testpmd.tell(&format!("set txpkts {bytes}"));
        testpmd.tell("set fwd flowgen");
        testpmd.tell("start");
        eventually(
            &format!("{FRAMES} frames of {bytes} bytes each way"),
            || {
                let now = ["a", "b"].map(|name| lab.port(name).counts.rx_frames);
                (now[0] - start[0] > FRAMES && now[1] - start[1] > FRAMES).then_some(())
            },
        );
        testpmd.tell("stop");
        // What is in the rings is received, and nothing is sent.
        testpmd.tell("set fwd rxonly");
        testpmd.tell("start");
        let mut seen = Vec::new();
        let agreed = (0..100).any(|_| {
            let stats = lab.check_conservation();
            seen.clear();
            let equal = (0..2).all(|card| {
                let (received, sent) = testpmd.counts(card);
                let counts = &stats.ports[card].counts;
                seen.push(format!(
                    "card {card}: {received} received, {sent} sent; {counts:?}"
                ));
                (received, sent) == (counts.tx_frames, counts.rx_frames)
            });
            if !equal {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            equal
        });
        testpmd.tell("stop");
        assert!(agreed, "{bytes} bytes: {seen:#?}");
        let stats = lab.check_conservation();
        let forwarded: u64 = stats.ports.iter().map(|port| port.counts.tx_frames).sum();
        assert!(forwarded > 0);
    }
    // Rings fill up, and both cards send from the same address; nothing else goes wrong.
    let stats = lab.check_conservation();
    for port in &stats.ports {
        for reason in port.counts.drops.keys() {
            let expected = ["tx_full", "miss_budget", "mac_flapping"].contains(&reason.as_str());
            assert!(expected, "{}: {:?}", port.name, port.counts.drops);
        }
    }
}

#[test]
fn counts_agree_with_mergeable_buffers_and_one_queue() {
    counts_agree(true, 1);
}

#[test]
fn counts_agree_with_mergeable_buffers_and_four_queues() {
    counts_agree(true, 4);
}

#[test]
fn counts_agree_without_mergeable_buffers_and_with_one_queue() {
    counts_agree(false, 1);
}

#[test]
fn counts_agree_without_mergeable_buffers_and_with_four_queues() {
    counts_agree(false, 4);
}

/// The sum over an IPv4 datagram of UDP and its pseudo-header (RFC 768); 0xffff when it is right.
fn udp_sum(packet: &[u8]) -> u16 {
    let datagram = &packet[20..];
    let mut summed = packet[12..20].to_vec();
    summed.extend([0, 17]);
    summed.extend((datagram.len() as u16).to_be_bytes());
    summed.extend(datagram);
    summed.resize(summed.len().next_multiple_of(2), 0);
    let words = summed
        .chunks(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn checksums_that_a_guest_leaves_to_its_card_are_right_where_frames_leave() {
    let Some((mut lab, _turn)) = lab() else {
        return;
    };
    lab.member("m", Link::default());
    let plans = [Plan::new("a", 2, Role::Client)];
    lab.start(&config(&lab, &plans, &access_port("m")));
    let peer = format!("--eth-peer=0,{}", mac_text(1));
    let mut testpmd = Testpmd::start(&lab, &plans, true, &[&peer]);
    lab.await_state("a", "up");
    for command in [
        "port stop 0",
        "csum set ip sw 0",
        "csum set udp hw 0",
        "port start 0",
        "set fwd csum",
        "start",
    ] {
        testpmd.tell(command);
    }
    lab.await_state("a", "up");
    let member = lab.socket("m");
    for len in [1_usize, 2, 33, 700, 1472] {
        let payload: Vec<u8> = (0..len).map(|at| (at * 5 + len) as u8).collect();
        let mut packet = ipv4([10, 0, 0, 1], [10, 0, 0, 9], 17, &udp(7, 4242, &payload));
        // Something that is not there yet, so that the card has to sum.
        packet[26..28].copy_from_slice(&[0x12, 0x34]);
        let frame = ethernet(mac(2), mac(1), [8, 0], &packet);
        // It may not forward yet.
        let back = eventually("the datagram comes back", || {
            member.send(&frame);
            let back = member.receive()?;
            // From the card, and no further copy of a former one.
            let datagram_len = (len as u16 + 8).to_be_bytes();
            let is_it = back.get(6..12) == Some(&mac(2)) && back.get(38..40) == Some(&datagram_len);
            is_it.then(|| back[14..14 + 28 + len].to_vec())
        });
        assert_eq!(&back[28..], payload, "the payload");
        assert_ne!(back[26..28], [0x12, 0x34]);
        assert_eq!(udp_sum(&back), 0xffff, "{len} bytes");
    }
    lab.check_conservation();
}
