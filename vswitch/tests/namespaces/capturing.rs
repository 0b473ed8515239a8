//! `vswitch capture` and the extcap program, read by programs that nobody here wrote: `tshark` and
//! `tcpdump`.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::Signal;
use vswitch::api::{
    capture_types::{Capture, CaptureSummary},
    mirror_types::MirrorAudit,
};

use super::{
    frames::{collect, numbered_udp, udp_number_of},
    lab::{Lab, Link, NETWORK, Task, access_port, mac_text, ok},
    netns::eventually,
};

/// Two members that have spoken with each other.
fn lab() -> Option<Lab> {
    let lab = Lab::quiet(&["one", "two"], "")?;
    lab.address("one");
    lab.address("two");
    lab.ping("one", "10.0.0.2", 1);
    Some(lab)
}

fn captures(lab: &Lab) -> Vec<Capture> {
    lab.get("/v1/captures")
}

fn await_captures(lab: &Lab, count: usize) -> Vec<Capture> {
    eventually(&format!("{count} captures go on"), || {
        Some(captures(lab)).filter(|rows| rows.len() == count)
    })
}

/// A client that captures, and its standard error.
struct Client {
    task: Task,
    said: PathBuf,
}

impl Client {
    /// `vswitch capture WORDS`, whose stream goes to `output`; `count` captures go on then.
    fn start(lab: &Lab, words: &str, output: impl Into<Stdio>, count: usize) -> Self {
        let said = lab.path(&format!("said-{}", captures(lab).len()));
        let mut command = lab.client(&format!("capture {words}"));
        let log = File::create(&said).expect("a log");
        let task = Task::spawn(command.stdout(output).stderr(log));
        await_captures(lab, count);
        Self { task, said }
    }

    /// What it says when it has ended well.
    fn ended(&mut self) -> String {
        let status = self.task.ended("the client ends");
        let said = fs::read_to_string(&self.said).expect("a log");
        assert!(status.success(), "{status}: {said}");
        said
    }
}

/// A client that has begun to write.
fn writing(lab: &Lab, name: &str) -> Client {
    let path = lab.path(name);
    let words = format!("--port one --write {}", path.display());
    let client = Client::start(lab, &words, Stdio::null(), 1);
    eventually("it writes", || {
        let written = fs::metadata(&path).is_ok_and(|file| file.len() > 0);
        written.then_some(())
    });
    client
}

/// What tshark makes of a capture.
fn dissected(path: &Path, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command
        .args(["-n", "-T", "fields", "-E", "separator=;", "-r"])
        .arg(path);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = ok(&mut command);
    let text = String::from_utf8(output.stdout).expect("text");
    let row = |line: &str| line.split(';').map(str::to_owned).collect();
    text.lines().map(row).collect()
}

const PORTS: (u16, u16) = (4000, 5000);

/// Sends numbered datagrams from one to two, which receives them.
fn send(lab: &Lab, numbers: std::ops::Range<u32>) {
    let (one, two) = (lab.socket("one"), lab.socket("two"));
    let count = numbers.len();
    for number in numbers {
        one.send(&numbered_udp(1, 2, PORTS, number));
    }
    collect(&two, count, udp_number_of);
}

#[test]
fn tshark_and_tcpdump_read_every_frame_in_order_with_its_direction() {
    let Some(lab) = lab() else { return };
    let path = lab.path("both.pcapng");
    let mut command = lab.client("capture --port one --port two --count 200 --filter");
    command.args(["allow udp", "--write"]).arg(&path);
    let output = command.stderr(Stdio::piped()).spawn().expect("a client");
    await_captures(&lab, 1);
    send(&lab, 0..100);
    let output = output.wait_with_output().expect("ended");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(
        said.trim(),
        "200 frames captured, 0 dropped; all frames that were asked for"
    );
    await_captures(&lab, 0);

    let fields = [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "udp.payload",
        "frame.len",
        "frame.time_epoch",
    ];
    let rows = dissected(&path, &fields);
    assert_eq!(rows.len(), 200);
    for (port, direction) in [("one", "1"), ("two", "2")] {
        let own: Vec<_> = rows.iter().filter(|row| row[0] == port).collect();
        assert_eq!(own.len(), 100);
        for (number, row) in own.iter().enumerate() {
            assert_eq!(row[1].trim_start_matches("0x0000000"), direction, "{row:?}");
            assert_eq!(row[2], format!("{number:08x}"), "{row:?}");
            assert_eq!(row[3], "46", "{row:?}");
        }
    }
    let times: Vec<f64> = rows.iter().map(|row| row[4].parse().expect("s")).collect();
    assert!(times.is_sorted(), "{times:?}");
    let text = ok(Command::new("tcpdump").args(["-n", "-r"]).arg(&path)).stdout;
    let text = String::from_utf8(text).expect("text");
    assert_eq!(text.matches("10.0.0.1.4000 > 10.0.0.2.5000").count(), 200);
    lab.check_conservation();
}

#[test]
fn a_filter_a_direction_and_a_length_choose_what_is_captured() {
    let Some(lab) = lab() else { return };
    let path = lab.path("few.pcapng");
    let mut command = lab.client("capture --vnic none");
    let refused = command.stdout(Stdio::piped()).output().expect("run");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("vnic none does not exist"), "{said}");
    let mut command = lab.client("capture --port one --owner stranger");
    let refused = command.output().expect("run");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("not tenant \"stranger\"'s"), "{said}");
    let mut command = lab.client("capture --port one --filter");
    let refused = command.arg("allow icmp; alow udp").output().expect("run");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("column 13") && said.contains("             ^^^^"),
        "{said}"
    );

    let mut command = lab.client("capture --port two --direction in --snap 100 --count 3 --filter");
    command.args(["deny udp; allow icmp", "--write"]).arg(&path);
    let mut client = Task::spawn(command.stderr(Stdio::null()));
    await_captures(&lab, 1);
    send(&lab, 0..10);
    ok(&mut lab.at("one", "ping -n -c 3 -i 0.01 -s 500 10.0.0.2"));
    assert!(client.ended("the client ends").success());
    let rows = dissected(&path, &["icmp.type", "frame.len", "frame.cap_len"]);
    assert_eq!(rows, vec![vec!["8", "542", "100"]; 3]);
    assert_eq!(captures(&lab), []);
}

#[test]
fn what_policy_rejects_is_captured_and_marked_when_it_is_asked_for() {
    let Some(mut lab) = Lab::new() else { return };
    let mut config = NETWORK.to_owned();
    for name in ["one", "two"] {
        lab.member(name, Link::default());
        config += &access_port(name);
    }
    // Nothing reaches a VM that nobody let in.
    let vnic = format!(
        "[[vnic]]\nname = \"two\"\nvm = \"two\"\nport = \"two\"\nmac = \"{}\"\nipv4 = [\"10.0.0.2\"]\n",
        mac_text(2)
    );
    config += &vnic;
    lab.start(&config);
    let path = lab.path("rejected.pcapng");
    let words = format!(
        "--vnic two --rejected --count 20 --write {}",
        path.display()
    );
    let mut client = Client::start(&lab, &words, Stdio::null(), 1);
    let one = lab.socket("one");
    for number in 0..20 {
        one.send(&numbered_udp(1, 2, PORTS, number));
    }
    client.ended();
    let rows = dissected(
        &path,
        &[
            "frame.comment",
            "frame.packet_flags_direction",
            "udp.payload",
        ],
    );
    assert_eq!(rows.len(), 20);
    for (number, row) in rows.iter().enumerate() {
        assert_eq!(row[0], "rejected");
        assert!(row[1].ends_with('2'), "{row:?}");
        assert_eq!(row[2], format!("{number:08x}"));
    }
    assert_eq!(lab.dropped("two", "acl_in"), 20);
}

#[test]
fn two_captures_of_one_port_both_have_everything() {
    let Some(lab) = lab() else { return };
    let paths = ["a", "b"].map(|name| lab.path(name));
    let mut clients: Vec<Client> = (1..)
        .zip(&paths)
        .map(|(count, path)| {
            let words = format!("--port one --direction out --write {}", path.display());
            Client::start(&lab, &words, Stdio::null(), count)
        })
        .collect();
    send(&lab, 0..50);
    eventually("both have 50", || {
        let rows = captures(&lab);
        let all = rows.iter().all(|row| row.ports[0].copied >= 50);
        all.then_some(())
    });
    let frame = numbered_udp(1, 2, PORTS, 0);
    let hex = vswitch::decode::hex(&frame);
    let explained = lab.cli(&format!("explain --port one --frame {hex}"));
    let ids: Vec<u32> = captures(&lab).iter().map(|row| row.id).collect();
    for id in &ids {
        let line = format!(
            " capture-{id} of lab at one out: copies all {} bytes, to its client",
            frame.len()
        );
        assert!(explained.contains(&line), "{line:?} is not in {explained}");
    }
    let told = |name: &str| -> u64 {
        let (_, metrics) = lab.request("GET", "/metrics", "");
        let text = metrics.as_str().expect("text");
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|line| line.0 == name);
        found.and_then(|line| line.1.parse().ok()).expect(name)
    };
    let copied = || told("vswitch_capture_copied_total");
    assert_eq!(told("vswitch_captures"), 2);
    assert!(copied() >= 100);
    for id in ids {
        lab.cli(&format!("capture --end {id}"));
    }
    // What they counted stays counted.
    assert_eq!(told("vswitch_captures"), 0);
    assert!(copied() >= 100);
    assert_eq!(told("vswitch_capture_lost_total"), 0);
    for (client, path) in clients.iter_mut().zip(&paths) {
        let said = client.ended();
        assert!(said.contains("0 dropped; ended by uid 0"), "{said}");
        let rows = dissected(path, &["udp.payload"]);
        let numbers: Vec<&String> = rows
            .iter()
            .map(|row| &row[0])
            .filter(|p| !p.is_empty())
            .collect();
        let expected: Vec<String> = (0..50).map(|number| format!("{number:08x}")).collect();
        assert!(numbers.into_iter().eq(&expected));
    }
}

#[test]
fn a_capture_ends_with_its_client_however_that_ends() {
    let Some(mut lab) = lab() else { return };
    // Killed.
    let killed = Client::start(&lab, "--port one", Stdio::piped(), 1);
    killed.task.signal(Signal::KILL);
    await_captures(&lab, 0);
    // Its reader went, and not a frame passes.
    let mut piped = Client::start(&lab, "--port one", Stdio::piped(), 1);
    drop(piped.task.stdout());
    let said = piped.ended();
    assert!(said.contains("dropped; ended by uid"), "{said}");
    await_captures(&lab, 0);
    // Interrupted.
    let mut interrupted = Client::start(&lab, "--port one", Stdio::null(), 1);
    interrupted.task.signal(Signal::INT);
    let said = interrupted.ended();
    assert!(said.contains("dropped; ended by uid"), "{said}");
    await_captures(&lab, 0);
    let audit: Vec<MirrorAudit> = lab.get("/v1/mirrors/audit");
    let actions: Vec<&str> = audit.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["created", "ended"].repeat(3));
    assert!(audit.iter().all(|row| row.who.contains("uid 0 pid")));
    // Its port is removed.
    let mut removed = Client::start(&lab, "--port two", Stdio::null(), 1);
    lab.cli("port remove two");
    let said = removed.ended();
    assert!(said.contains("port two does not exist any more"), "{said}");
    assert_eq!(captures(&lab), []);
    // The switch ends.
    let mut left = writing(&lab, "left");
    assert!(lab.end(Signal::TERM).success());
    let said = left.ended();
    assert!(said.contains("vswitch stops"), "{said}");
    lab.start_again();
    let mut orphan = writing(&lab, "orphan");
    lab.end(Signal::KILL);
    assert!(!orphan.task.ended("the client ends").success());
    let said = fs::read_to_string(&orphan.said).expect("a log");
    assert!(said.contains("the switch has gone"), "{said}");
    lab.start_again();
}

#[test]
fn a_slow_reader_loses_copies_and_nobody_else_anything() {
    let Some(lab) = lab() else { return };
    let words = "--json --port one --port two --unlimited";
    let mut slow = Client::start(&lab, words, Stdio::piped(), 1);
    let mut stream = slow.task.stdout().expect("piped");
    lab.iperf3("one", "two", "--client 10.0.0.2 --bytes 64M");
    let counted = captures(&lab);
    assert_eq!(counted[0].ports.len(), 2);
    for port in &counted[0].ports {
        let skipped: u64 = port.skipped.values().sum();
        assert_eq!(port.wanted, port.copied + skipped, "{port:?}");
        assert_eq!(skipped, port.skipped.get("no_room").copied().unwrap_or(0));
        assert!(skipped > 0, "{port:?}");
    }
    lab.ping("one", "10.0.0.2", 20);
    // It reads on: what was kept comes, and behind it what was not.
    lab.cli(&format!("capture --end {}", counted[0].id));
    let path = lab.path("slow.pcapng");
    let mut file = File::create(&path).expect("a file");
    std::io::copy(&mut stream, &mut file).expect("read");
    let said = slow.ended();
    let summary: CaptureSummary = serde_json::from_str(said.trim()).expect("a summary");
    let dropped: u64 = summary.dropped.values().sum();
    assert!(summary.dropped["no_room"] > 0, "{summary:?}");
    let text = ok(Command::new("capinfos").args(["-T", "-r", "-c"]).arg(&path)).stdout;
    let text = String::from_utf8(text).expect("text");
    let frames = text.split_ascii_whitespace().last().expect("a number");
    assert_eq!(frames.parse(), Ok(summary.captured), "{text}");
    let wanted: u64 = counted[0].ports.iter().map(|port| port.wanted).sum();
    assert!(summary.captured + dropped >= wanted, "{summary:?}");
    lab.check_conservation();
}

#[test]
fn tshark_finds_the_ports_by_itself_and_captures_live() {
    let Some(mut lab) = lab() else { return };
    let folder = lab.path("extcap");
    fs::create_dir(&folder).expect("a folder");
    let program = folder.join("vswitch-extcap");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vswitch"), &program).expect("a link");
    let folders = ok(Command::new("tshark").args(["-G", "folders"])).stdout;
    let folders = String::from_utf8(folders).expect("text");
    let place = folders
        .lines()
        .find_map(|line| line.strip_prefix("Extcap path:"));
    let place = place.expect("Wireshark's extcap folder").trim();
    // Root's tshark looks there alone, so this one's mounts have ours in its place.
    let mount = format!(
        "mount --bind {} {place} && exec tshark \"$@\"",
        folder.display()
    );
    let tshark = |lab: &Lab| {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-ec", &mount, "tshark"])
            .env("HOME", lab.path(""))
            .env("VSWITCH_SOCKET", lab.control());
        command
    };
    let listed = ok(tshark(&lab).arg("-D"));
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        listed.contains("vswitch-one (vswitch port one)"),
        "{listed}"
    );

    let mut command = tshark(&lab);
    command.args([
        "-n",
        "-l",
        "-i",
        "vswitch-one",
        "-f",
        "allow icmp",
        "-c",
        "6",
    ]);
    command.args(["-T", "fields"]);
    for field in ["frame.packet_flags_direction", "icmp.type", "icmp.seq"] {
        command.args(["-e", field]);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut live = Task::spawn(&mut command);
    await_captures(&lab, 1);
    ok(&mut lab.at("one", "ping -n -c 3 -i 0.05 10.0.0.2"));
    let mut text = String::new();
    let mut stdout = live.stdout().expect("piped");
    stdout.read_to_string(&mut text).expect("text");
    assert!(live.ended("tshark ends").success());
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    assert_eq!(rows.len(), 6, "{text}");
    for (number, row) in rows.iter().enumerate() {
        // From the VM and into the switch goes what asks; what answers comes back.
        let (direction, kind) = [("1", "8"), ("2", "0")][number % 2];
        assert!(row[0].ends_with(direction), "{text}");
        assert_eq!(row[1], kind, "{text}");
        assert_eq!(row[2], (number / 2 + 1).to_string(), "{text}");
    }
    await_captures(&lab, 0);

    // A filter that is none is pointed at, as Wireshark asks for it.
    let mut check = Command::new(&program);
    check.args(["--extcap-interface", "vswitch-one"]);
    let said = ok(check.args(["--extcap-capture-filter", "allow icmp; alow udp"])).stdout;
    let said = String::from_utf8(said).expect("text");
    assert!(said.contains("column 13"), "{said}");
    lab.end(Signal::TERM);
    let mut command = Command::new(&program);
    command.env("VSWITCH_SOCKET", lab.control());
    let output = ok(command.args(["--extcap-interfaces", "--extcap-version=4.0"]));
    assert_eq!(output.stdout, b"");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("no switch answers"), "{said}");
}
