//! Open vSwitch's userspace sends to our decapsulator and receives what our encoder writes, in namespaces.
//!
//! ```text
//!   namespace HOST               namespace HOST-ovs                         HOST-ids
//!     tunnel0 ─── veth ─── wire ─ bridge br-phy (192.0.2.1)                  eth0: tcpdump
//!        │                        bridge br-int: vm0, erspan0                  │
//!     decapsulator ── ids0 ──────────────────────── veth ──────────────────────┘
//! ```

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
};

use mirror::wire::{
    Addresses, Carrier, Fields, Granularity, Link, Oversize, SessionId, Template, Tunnel,
};
use pmd::pcap::Reader;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    mirrored::{encode, udp_frame},
    netns::{Netns, PacketSocket, eventually, is_root},
};

/// Where Debian has the schema of its database.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// A process that ends with the test.
struct Task(Child);

impl Drop for Task {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A namespace beside the test's own, removed at the end.
struct Beside(String);

impl Beside {
    fn new(host: &Netns, name: &str) -> Self {
        let beside = Self(format!("{}-{name}", host.name()));
        ok(Command::new("ip").args(["netns", "add", &beside.0]));
        beside.sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6; ip link set lo up");
        beside
    }

    fn sh(&self, line: &str) -> String {
        let output = ok(Command::new("ip").args(["netns", "exec", &self.0, "sh", "-ec", line]));
        output.trim().to_owned()
    }

    /// Does something with the test's thread in it.
    fn within<T>(&self, host: &Netns, work: impl FnOnce() -> T) -> T {
        enter(&self.0);
        let value = work();
        enter(host.name());
        value
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn enter(netns: &str) {
    use std::os::fd::AsFd;
    let file = File::open(Path::new("/run/netns").join(netns)).expect("a namespace");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter");
}

/// Runs a command that must succeed; returns what it wrote.
fn ok(command: &mut Command) -> String {
    let output = command.output().expect("run a command");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// Open vSwitch in a namespace of its own, with its bridges and an ERSPAN port. What ends first stands
/// first.
struct OpenVswitch {
    _daemon: Task,
    _database: Task,
    beside: Beside,
    folder: tempfile::TempDir,
}

impl OpenVswitch {
    /// `version` is the ERSPAN port's.
    fn start(host: &Netns, version: u8) -> Self {
        let beside = Beside::new(host, "ovs");
        let folder = tempfile::tempdir().expect("a folder");
        host.ip(&format!(
            "link add tunnel0 address 02:00:00:00:00:99 type veth peer name wire netns {}",
            beside.0
        ));
        host.ip("link set tunnel0 up");
        beside.sh(
            "ip link set wire up; ip link add vm0 type veth peer name guest; \
                   ip link set vm0 up; ip link set guest up",
        );
        let place = folder.path().display().to_string();
        ok(Command::new("ovsdb-tool").args(["create", &format!("{place}/conf.db"), SCHEMA]));
        let spawn = |program: &str, log: &str, words: &[&str]| {
            let log = File::create(folder.path().join(log)).expect("a log");
            let mut command = Command::new("ip");
            command
                .args(["netns", "exec", &beside.0, program])
                .args(words);
            for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"] {
                command.env(variable, folder.path());
            }
            Task(
                command
                    .stdout(Stdio::null())
                    .stderr(log)
                    .spawn()
                    .expect("it starts"),
            )
        };
        let database = spawn(
            "ovsdb-server",
            "db.log",
            &[
                &format!("{place}/conf.db"),
                &format!("--remote=punix:{place}/db.sock"),
                &format!("--unixctl={place}/db.ctl"),
            ],
        );
        eventually("the database's socket", || {
            folder.path().join("db.sock").exists().then_some(())
        });
        let set = |words: &str| {
            ok(Command::new("ovs-vsctl")
                .arg(format!("--db=unix:{place}/db.sock"))
                .arg("--timeout=20")
                .args(words.split_whitespace()))
        };
        set("--no-wait init");
        let daemon = spawn(
            "ovs-vswitchd",
            "switch.log",
            &[
                &format!("unix:{place}/db.sock"),
                &format!("--unixctl={place}/switch.ctl"),
            ],
        );
        set("add-br br-phy -- set bridge br-phy datapath_type=netdev -- add-port br-phy wire");
        beside.sh("ip addr add 192.0.2.1/24 dev br-phy; ip link set br-phy up");
        set(&format!(
            "add-br br-int -- set bridge br-int datapath_type=netdev fail_mode=secure \
             -- add-port br-int vm0 -- set interface vm0 ofport_request=1 \
             -- add-port br-int erspan0 -- set interface erspan0 type=erspan ofport_request=2 \
             options:remote_ip=192.0.2.99 options:key=7 options:erspan_ver={version} \
             options:erspan_idx=0x3 options:erspan_dir=1 options:erspan_hwid=4"
        ));
        let flows = folder.path().join("flows");
        fs::write(
            &flows,
            "in_port=1,actions=output:2\nin_port=2,actions=output:1\n",
        )
        .expect("written");
        ok(Command::new("ovs-ofctl")
            .arg("replace-flows")
            .args([folder.path().join("br-int.mgmt"), flows]));
        Self {
            _daemon: daemon,
            _database: database,
            beside,
            folder,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("switch.log")).unwrap_or_default()
    }
}

/// Whether the programs are there; says so when one is not.
fn programs_exist() -> bool {
    let programs = ["ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "tcpdump"];
    let missing = programs.iter().find(|program| {
        let found = Command::new(program).arg("--version").output();
        found.is_err()
    });
    if let Some(program) = missing {
        println!("skipped: no {program}; scripts/setup installs it");
    }
    missing.is_none() && is_root()
}

fn inner(number: u16) -> Vec<u8> {
    udp_frame(
        [10, 0, 0, 1],
        [10, 0, 0, 2],
        (number, 80),
        64 + usize::from(number) % 1000,
    )
}

/// A tcpdump that listens to what comes in at a namespace's interface.
fn start_tcpdump(namespace: &Beside, capture: &Path) -> Task {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespace.0]);
    command.args("tcpdump --immediate-mode -U -n -Q in -i eth0 -w".split(' '));
    let tcpdump = command.arg(capture).stderr(Stdio::null()).spawn();
    let tcpdump = Task(tcpdump.expect("it starts"));
    eventually("tcpdump listens", || {
        let length = fs::metadata(capture).ok()?.len();
        (length >= 24).then_some(())
    });
    tcpdump
}

/// Sends frames into Open vSwitch's port, and compares what tcpdump sees at the sniffer.
fn from_openvswitch(version: u8) {
    const COUNT: u16 = 300;
    if !programs_exist() {
        return;
    }
    let host = Netns::enter_new();
    let ovs = OpenVswitch::start(&host, version);
    let ids = Beside::new(&host, "ids");
    host.ip(&format!(
        "link add ids0 type veth peer name eth0 netns {}",
        ids.0
    ));
    host.ip("link set ids0 up");
    ids.sh("ip link set eth0 up");
    let folder = tempfile::tempdir().expect("a folder");
    let format = if version == 1 {
        "erspan_ii"
    } else {
        "erspan_iii"
    };
    let config = folder.path().join("decap.toml");
    let socket = folder.path().join("decap.sock");
    fs::write(
        &config,
        format!(
            "[switch]\nsocket = \"{}\"\n[decapsulator]\naddresses = [\"192.0.2.99\"]\n\
             mac = \"02:00:00:00:00:99\"\nport = {{ driver = \"af_xdp\", interface = \"tunnel0\" }}\n\
             [[decapsulator.session]]\nname = \"vm0\"\ntenant = \"blue\"\nsource = \"192.0.2.1\"\n\
             format = \"{format}\"\nid = 7\nsniffers = [\"ids\"]\n\
             [[sniffer]]\nname = \"ids\"\ntenant = \"blue\"\nmac = \"02:ff:00:00:00:01\"\n\
             port = {{ driver = \"af_xdp\", interface = \"ids0\" }}\n",
            socket.display()
        ),
    )
    .expect("written");
    let log = File::create(folder.path().join("log")).expect("a log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vswitch"));
    command
        .arg("decap")
        .arg("--config")
        .arg(&config)
        .stderr(log);
    let decap = Task(command.spawn().expect("it starts"));
    let show = |what: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vswitch"));
        command.arg("--socket").arg(&socket);
        command.args(["decap", "show", what, "--json"]);
        let output = command.output().expect("it runs");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).ok()
    };
    eventually("the decapsulator answers", || show("totals"));

    // It answers for its address as any host does.
    ovs.beside.sh("ping -c 3 -i 0.1 -W 5 192.0.2.99");

    let capture = folder.path().join("seen.pcap");
    let tcpdump = start_tcpdump(&ids, &capture);
    let guest = ovs.beside.within(&host, || PacketSocket::open("guest"));
    // The first ones may be lost while Open vSwitch asks for its neighbour.
    eventually("Open vSwitch sends", || {
        guest.send(&udp_frame([10, 0, 0, 9], [10, 0, 0, 2], (9, 9), 10));
        let seen = show("sniffers")?[0]["sent"].as_u64()?;
        (seen > 0).then_some(())
    });
    let seen = || -> Vec<Vec<u8>> {
        let records = Reader::open(&capture).expect("a capture");
        let frames = records.map_while(Result::ok).map(|record| record.bytes);
        // Those of before have another port.
        frames
            .filter(|frame| frame[34..36] != [0, 9] || frame.len() > 60)
            .collect()
    };
    for number in 0..COUNT {
        guest.send(&inner(number));
        if number % 16 != 15 && number + 1 != COUNT {
            continue;
        }
        // No more at once than it takes.
        let what = format!("{number} frames are seen; Open vSwitch said {}", ovs.log());
        eventually(&what, || (seen().len() > usize::from(number)).then_some(()));
    }
    let expected: Vec<Vec<u8>> = (0..COUNT)
        .map(|number| [&[2, 0xff, 0, 0, 0, 1], &inner(number)[6..]].concat())
        .collect();
    assert!(seen() == expected, "{} frames", seen().len());
    let sessions = show("sessions").expect("sessions");
    assert_eq!(sessions[0]["received"], sessions[0]["delivered"]);
    println!(
        "ERSPAN {format} of Open vSwitch: {COUNT} frames in order; {}",
        sessions[0]["sequence"]
    );
    drop(tcpdump);
    drop(decap);
}

#[test]
fn what_open_vswitch_sends_as_type_ii_a_sniffer_sees_in_order() {
    from_openvswitch(1);
}

#[test]
fn what_open_vswitch_sends_as_type_iii_a_sniffer_sees_in_order() {
    from_openvswitch(2);
}

/// Sends what our encoder writes to Open vSwitch's port, and compares what its bridge gets.
fn to_openvswitch(version: u8) {
    const COUNT: u16 = 200;
    if !programs_exist() {
        return;
    }
    let host = Netns::enter_new();
    let ovs = OpenVswitch::start(&host, version);
    let mac = ovs.beside.sh("cat /sys/class/net/br-phy/address");
    let session = SessionId::new(7).expect("10 bits");
    let carrier = match version {
        1 => Carrier::ErspanII { session, index: 3 },
        _ => Carrier::ErspanIII {
            session,
            granularity: Granularity::Microseconds100,
            hardware: 4,
            sequence: true,
            port: None,
        },
    };
    let template = Template::new(&Tunnel {
        link: Link {
            destination: mac.parse().expect("an address"),
            source: "02:00:00:00:00:99".parse().expect("an address"),
            tci: None,
        },
        addresses: Addresses::V4 {
            source: [192, 0, 2, 99].into(),
            destination: [192, 0, 2, 1].into(),
        },
        dscp: 0,
        ttl: 64,
        dont_fragment: true,
        carrier,
        mtu_bytes: 1500,
        oversize: Oversize::Count,
    })
    .expect("valid");
    let wire = PacketSocket::open("tunnel0");
    let guest = ovs.beside.within(&host, || PacketSocket::open("guest"));
    let carried = |number: u16| {
        let inner = inner(number);
        let fields = Fields {
            inner_len: inner.len() as u32,
            sequence: number.into(),
            ip_id: number.into(),
            egress: true,
            ..Fields::default()
        };
        encode(&template, &fields, &inner)
    };
    // Until its ports are there.
    eventually("Open vSwitch receives", || {
        wire.send(&carried(0));
        guest.receive()
    });
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for number in 1..=COUNT {
        wire.send(&carried(number));
        if number % 16 != 0 && number != COUNT {
            continue;
        }
        // No more at once than it takes.
        let what = format!("{number} frames come; Open vSwitch said {}", ovs.log());
        eventually(&what, || {
            while let Some(frame) = guest.receive() {
                if frame != inner(0) {
                    seen.push(frame);
                }
            }
            (seen.len() >= usize::from(number)).then_some(())
        });
    }
    let expected: Vec<Vec<u8>> = (1..=COUNT).map(inner).collect();
    assert!(seen == expected, "{} frames", seen.len());
}

#[test]
fn open_vswitch_receives_our_type_ii() {
    to_openvswitch(1);
}

#[test]
fn open_vswitch_receives_our_type_iii() {
    to_openvswitch(2);
}
