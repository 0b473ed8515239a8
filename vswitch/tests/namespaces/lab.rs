//! A switch on a machine of its own: the real program in a namespace, and members in others.
//!
//! In: what members there are and a configuration. Out: the running `vswitch`, its API, commands
//! and raw sockets in the members. What must hold: everything is gone when the lab is dropped,
//! the test having failed or not; no two labs ever meet, so tests may run side by side.
//!
//! ```text
//!   namespace HOST (the test's thread and the switch)        namespace HOST-NAME, a member
//!     interface NAME ────────────── veth ────────────────────── eth0
//! ```

use std::{
    ffi::OsStr,
    fs::{self, File},
    num::NonZero,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use vswitch::api::types;

use super::{
    http, laws,
    netns::{Netns, PacketSocket, eventually, is_root},
};

/// A process that ends with the test.
pub(crate) struct Task(Child);

impl Task {
    /// Starts `command`.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().expect("start a command"))
    }

    /// Its exit status, awaited.
    pub(crate) fn ended(&mut self, what: &str) -> ExitStatus {
        eventually(what, || self.0.try_wait().expect("wait"))
    }

    /// Its standard output, if that is piped and nobody has taken it.
    pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
        self.0.stdout.take()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).expect("send a signal");
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sets a flag at the end of a scope, also when the test fails: threads that look at it end.
pub(crate) struct SetAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How a member is attached.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub(crate) mtu: u32,
    pub(crate) queues: u32,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            mtu: 1500,
            queues: 1,
        }
    }
}

/// The switch, its members, and the test's thread among them.
pub(crate) struct Lab {
    switch: Option<Task>,
    members: Vec<String>,
    folder: tempfile::TempDir,
    /// Where its worker runs: tests that run side by side take turns.
    core: u32,
    pub(crate) host: Netns,
}

impl Lab {
    /// An empty lab; none when the test may not make namespaces.
    pub(crate) fn new() -> Option<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get) as u32;
        is_root().then(|| Self {
            core: (std::process::id() + LABS.fetch_add(1, Ordering::Relaxed)) % cores,
            switch: None,
            members: Vec::new(),
            folder: tempfile::tempdir().expect("a folder"),
            host: Netns::enter_new(),
        })
    }

    /// A lab with members `names` that send nothing by themselves, and a configuration in which
    /// each is an access port of one network; `more` is added to it. The switch runs.
    pub(crate) fn quiet(names: &[&str], more: &str) -> Option<Self> {
        let mut lab = Self::new()?;
        let mut config = NETWORK.to_owned();
        for name in names {
            lab.member(name, Link::default());
            config += &access_port(name);
        }
        lab.start(&(config + more));
        Some(lab)
    }

    /// A file of the lab.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The namespace of a member.
    pub(crate) fn netns_of(&self, member: &str) -> String {
        format!("{}-{member}", self.host.name())
    }

    /// Adds a member that sends nothing by itself. Its address is [`mac`] of its number, counted
    /// from 1.
    pub(crate) fn member(&mut self, name: &str, link: Link) {
        let netns = self.netns_of(name);
        ok(Command::new("ip").args(["netns", "add", &netns]));
        self.members.push(name.to_owned());
        self.sh(
            name,
            "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6",
        );
        self.sh(name, "ip link set lo up");
        self.connect(name, link);
    }

    /// Makes the veth pair of a member, again if it was removed.
    pub(crate) fn connect(&self, name: &str, link: Link) {
        let Link { mtu, queues } = link;
        let queues = format!("numrxqueues {queues} numtxqueues {queues}");
        self.host.ip(&format!(
            "link add name {name} mtu {mtu} {queues} type veth \
             peer name eth0 mtu {mtu} {queues} address {} netns {}",
            mac_text(self.number(name)),
            self.netns_of(name)
        ));
        self.host.ip(&format!("link set dev {name} up"));
        self.sh(name, "ip link set eth0 up");
    }

    /// Gives a member 10.0.0.N/24 and fd00::N/64, N being its number.
    pub(crate) fn address(&self, name: &str) {
        let number = self.number(name);
        // Its own neighbour and router messages would make counts differ from run to run.
        self.sh(
            name,
            &format!(
                "cd /proc/sys/net/ipv6/conf/eth0 && echo 0 > accept_ra && echo 0 > disable_ipv6 &&
                 ip addr add 10.0.0.{number}/24 dev eth0 &&
                 ip -6 addr add fd00::{number:x}/64 dev eth0 nodad"
            ),
        );
    }

    /// A member's number, from 1.
    pub(crate) fn number(&self, name: &str) -> u8 {
        let place = self.members.iter().position(|member| member == name);
        place.expect("a member") as u8 + 1
    }

    /// A raw socket on a member's interface.
    pub(crate) fn socket(&self, member: &str) -> PacketSocket {
        self.socket_on(member, "eth0")
    }

    /// A raw socket on some interface of a member's namespace.
    pub(crate) fn socket_on(&self, member: &str, interface: &str) -> PacketSocket {
        self.within(member, || PacketSocket::open(interface))
    }

    /// Does something with the test's thread in a member's namespace, where the sockets that it
    /// opens stay.
    pub(crate) fn within<T>(&self, member: &str, work: impl FnOnce() -> T) -> T {
        enter(self.netns_of(member));
        let value = work();
        enter(self.host.name());
        value
    }

    /// A command in a member.
    pub(crate) fn at(&self, member: &str, words: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns_of(member)]);
        command.args(words.split_whitespace());
        command
    }

    /// Runs a shell line in a member; it must succeed.
    pub(crate) fn sh(&self, member: &str, line: &str) {
        ok(Command::new("ip").args(["netns", "exec", &self.netns_of(member), "sh", "-ec", line]));
    }

    /// Pings until an answer comes; then `count` pings must all be answered.
    pub(crate) fn ping(&self, from: &str, words: &str, count: u32) {
        eventually("an answer to a ping", || {
            let mut first = self.at(from, &format!("ping -n -q -c 1 -W 1 {words}"));
            first.output().expect("ping").status.success().then_some(())
        });
        // All at once: with pauses, ping either waits for the last answers for two round trips only, or
        // sends more while it waits.
        let many = format!("ping -n -q -l {count} -c {count} -i 10 -w 10 {words}");
        let output = ok(&mut self.at(from, &many));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(" 0% packet loss"), "{text}");
    }

    /// Runs iperf3 from a client to a server; returns the client's report.
    pub(crate) fn iperf3(&self, client: &str, server: &str, words: &str) -> Value {
        let mut serve = self.at(server, "iperf3 --server --one-off");
        let mut serving = Task::spawn(serve.stdout(Stdio::null()));
        eventually("iperf3 listens", || {
            let sockets = ok(&mut self.at(server, "ss -Hltn sport = :5201"));
            (!sockets.stdout.is_empty()).then_some(())
        });
        let output = ok(&mut self.at(client, &format!("iperf3 --json {words}")));
        serving.ended("iperf3 ends");
        serde_json::from_slice(&output.stdout).expect("iperf3 reports JSON")
    }

    /// The control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.path("vswitch.sock")
    }

    /// Writes the configuration: `text`, with the lab's control socket and one worker unless it
    /// names its own.
    pub(crate) fn write_config(&self, text: &str) -> PathBuf {
        let path = self.path("vswitch.toml");
        fs::write(&path, self.whole(text)).expect("write the configuration");
        path
    }

    /// `text` with what every configuration of the lab has.
    pub(crate) fn whole(&self, text: &str) -> String {
        let socket = self.control();
        let workers = if text.contains("[workers]") {
            String::new()
        } else {
            let core = self.core;
            format!("[workers]\ncores = [{core}]\nflow_cache_entries = 4096\n")
        };
        format!(
            "[switch]\nsocket = \"{}\"\n{workers}{text}",
            socket.display()
        )
    }

    /// The program, ready to be started with the lab's configuration.
    pub(crate) fn command(&self) -> Command {
        program(&self.path("vswitch.toml"))
    }

    /// Starts the switch and waits until it answers.
    pub(crate) fn start(&mut self, config: &str) {
        self.write_config(config);
        self.start_again();
    }

    /// Starts the switch with the configuration that was written last.
    pub(crate) fn start_again(&mut self) {
        self.run(self.command());
    }

    /// Starts the switch with somebody else's configuration, but the lab's control socket.
    pub(crate) fn start_file(&mut self, config: &Path) {
        let mut command = program(config);
        command.arg("--socket").arg(self.control());
        self.run(command);
    }

    fn run(&mut self, mut command: Command) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"));
        command.stderr(log.expect("open the log"));
        let control = self.control();
        let switch = self.switch.insert(Task::spawn(&mut command));
        eventually("the switch answers", || {
            if let Some(status) = switch.0.try_wait().expect("wait") {
                panic!("the switch ended at start: {status}");
            }
            http::request(&control, "GET", "/v1/health", "").map(drop)
        });
    }

    /// Sends the switch a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.switch.as_ref().expect("a switch").signal(signal);
    }

    /// Sends the switch a signal that ends it, and waits.
    pub(crate) fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let status = self
            .switch
            .as_mut()
            .expect("a switch")
            .ended("the switch ends");
        self.switch = None;
        status
    }

    /// What the switch has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Asks the API.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.request("GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_value(body).expect("the documented shape")
    }

    /// A request of the API: status and answer.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        http::request(&self.control(), method, path, body).expect("the switch answers")
    }

    /// Runs the command line against the switch; it must succeed. Returns what it wrote.
    pub(crate) fn cli(&self, words: &str) -> String {
        let output = ok(&mut self.client(words));
        String::from_utf8(output.stdout).expect("text")
    }

    /// The command line against the switch, ready to be run.
    pub(crate) fn client(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vswitch"));
        command
            .arg("--socket")
            .arg(self.control())
            .env("NO_COLOR", "1")
            .args(words.split_whitespace());
        command
    }

    /// Applies a configuration; it must be accepted. Returns the epoch.
    pub(crate) fn apply(&self, config: &str) -> u64 {
        let (status, body) = self.request("POST", "/v1/apply", &self.whole(config));
        assert_eq!(status, 200, "{body}");
        body["epoch"].as_u64().expect("an epoch")
    }

    /// One port.
    pub(crate) fn port(&self, name: &str) -> types::Port {
        self.get(&format!("/v1/ports/{name}"))
    }

    /// Waits until a port is in `state`.
    pub(crate) fn await_state(&self, name: &str, state: &str) -> types::Port {
        eventually(&format!("port {name} is {state}"), || {
            let port = self.port(name);
            (port.state == state).then_some(port)
        })
    }

    /// Frames that a port dropped for a reason.
    pub(crate) fn dropped(&self, port: &str, reason: &str) -> u64 {
        let counts = self.port(port).counts;
        counts.drops.get(reason).copied().unwrap_or(0)
    }

    /// Holds the counters to the laws of `vswitch::counters`, once what is under way has passed.
    pub(crate) fn check_conservation(&self) -> types::Stats {
        let mut last = String::new();
        let stats = patiently(|| {
            let stats: types::Stats = self.get("/v1/stats");
            laws::check(&stats)
                .map(|()| stats)
                .map_err(|why| last = why)
                .ok()
        });
        stats.unwrap_or_else(|| panic!("frames are not accounted for: {last}"))
    }

    /// True when an interface of the host has an XDP program.
    pub(crate) fn has_xdp(&self, interface: &str) -> bool {
        let shown = self
            .host
            .ip_output(&format!("-details link show dev {interface}"));
        assert!(shown.contains(interface), "no interface {interface}");
        shown.contains("xdp")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ports = http::request(&self.control(), "GET", "/v1/ports", "");
            let ports = ports.map_or(Value::Null, |(_, body)| body);
            eprintln!("the ports: {ports:#}");
        }
        if let Some(switch) = &mut self.switch
            && let Ok(None) = switch.0.try_wait()
        {
            switch.signal(Signal::TERM);
            let _ = patiently(|| switch.0.try_wait().expect("wait"));
        }
        self.switch = None;
        if std::thread::panicking() {
            eprintln!("the switch said:\n{}", self.log());
        }
        for member in &self.members {
            let netns = self.netns_of(member);
            let _ = Command::new("ip").args(["netns", "del", &netns]).status();
        }
    }
}

/// As [`eventually`], for what may fail.
pub(crate) fn patiently<T>(mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = std::time::Instant::now() + super::netns::PATIENCE;
    loop {
        let value = condition();
        if value.is_some() || std::time::Instant::now() > deadline {
            return value;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// The switch's program with a configuration.
fn program(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vswitch"));
    command.arg("run").arg("--config").arg(config);
    command.env_remove("VSWITCH_SOCKET").env_remove("RUST_LOG");
    command.env("NO_COLOR", "1");
    command
}

/// One network, `lan`, in which members speak for themselves.
pub(crate) const NETWORK: &str = "[[network]]\nname = \"lan\"\ntenant = \"lab\"\n[network.neighbors]\nproxy = false\nannouncements = 0\n";

/// An access port of `lan` on the interface of the same name.
pub(crate) fn access_port(name: &str) -> String {
    port(name, "network = \"lan\"")
}

/// A port on the interface of the same name.
pub(crate) fn port(name: &str, fields: &str) -> String {
    format!("[[port]]\nname = \"{name}\"\ndriver = \"af_xdp\"\ninterface = \"{name}\"\n{fields}\n")
}

/// The address of the member with this number.
pub(crate) fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

/// [`mac`] as people write it.
pub(crate) fn mac_text(number: u8) -> String {
    format!("02:00:00:00:00:{number:02x}")
}

/// Runs a command that must succeed.
pub(crate) fn ok(command: &mut Command) -> Output {
    let output = command.output().expect("run a command");
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Moves the current thread into a namespace.
fn enter(netns: impl AsRef<OsStr>) {
    let file = File::open(Path::new("/run/netns").join(netns.as_ref())).expect("a namespace");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter");
}
