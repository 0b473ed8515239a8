//! What else can stand between the two namespaces, started for one run and gone when dropped.
//!
//! Each gets the host ends of two veth pairs: a redirecting program to show what XDP itself takes, the Linux
//! bridge with the switch's rules in nftables' language, and Open vSwitch's userspace datapath with
//! `AF_XDP` ports.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, ensure};
use pmd::af_xdp::Redirection;

use super::{
    Addresses,
    lab::{Lab, Path, Side},
};
use crate::{
    process::{self, Directory, Process, interrupt},
    vhost::database::{DAEMON, Database, own},
};

const START: Duration = Duration::from_secs(20);

/// Something that forwards from one namespace to the other.
pub(super) trait Peer {
    /// Fails, with what it last said, when it has ended.
    ///
    /// # Errors
    /// When it has ended.
    fn check(&mut self) -> anyhow::Result<()>;

    /// What it has said so far.
    fn log(&self) -> String;

    /// The process that forwards, where that is not the kernel.
    fn process(&self) -> Option<&Process> {
        None
    }
}

/// Starts what stands on `path`, if that takes a process or rules.
///
/// # Errors
/// When it is not installed, or does not come up.
pub(super) fn start(path: Path, lab: &Lab, core: usize) -> anyhow::Result<Option<Box<dyn Peer>>> {
    let ends = [Side::A, Side::B].map(|side| lab.host_end(path, side));
    Ok(match path {
        Path::Direct | Path::Switch | Path::Bridge => None,
        Path::BridgeNftables => Some(Box::new(Rules::enforce(lab.name(), &ends)?)),
        Path::XdpRedirect => Some(Box::new(Redirect {
            _redirection: Redirection::new(&ends[0], &ends[1])?,
        })),
        Path::OpenVswitch => Some(Box::new(OpenVswitch::start(&lab.room(), &ends, core)?)),
    })
}

/// A table of nftables with the rules that the switch has at port B.
struct Rules {
    table: String,
}

impl Rules {
    fn enforce(name: &str, ends: &[String; 2]) -> anyhow::Result<Self> {
        let rules = Self {
            table: format!("vswitch-bench-{name}"),
        };
        let (table, [a, b], from) = (&rules.table, ends, Addresses::A);
        let mac = Side::A.mac();
        let text = format!(
            "table bridge {table} {{\n chain forward {{\n  type filter hook forward priority 0; policy accept;\n  \
             iifname \"{a}\" ether saddr != {mac} drop\n  iifname \"{a}\" ip saddr != {from} drop\n  \
             oifname \"{b}\" tcp dport 22 drop\n  oifname \"{b}\" udp sport 53 udp dport 53 drop\n  \
             oifname \"{b}\" ip saddr {from} meta l4proto udp accept\n  oifname \"{b}\" drop\n }}\n}}\n"
        );
        let directory = Directory::new()?;
        let file = directory.join("rules");
        fs::write(&file, text)?;
        process::run(Command::new("nft").arg("-f").arg(&file))
            .context("rules of the bridge; install nftables")?;
        Ok(rules)
    }
}

impl Peer for Rules {
    fn check(&mut self) -> anyhow::Result<()> {
        let mut list = Command::new("nft");
        list.args(["list", "table", "bridge", &self.table]);
        process::run(&mut list).map(drop)
    }

    fn log(&self) -> String {
        String::new()
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        let mut delete = Command::new("nft");
        let _ = process::run(delete.args(["delete", "table", "bridge", &self.table]));
    }
}

/// Kernel XDP, one way: what arrives at one interface leaves at the other, unread.
struct Redirect {
    _redirection: Redirection,
}

impl Peer for Redirect {
    fn check(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn log(&self) -> String {
        String::new()
    }
}

/// Open vSwitch with `AF_XDP` ports, polled by one thread on a core of its own. Fields are dropped in
/// their order.
struct OpenVswitch {
    daemon: Process,
    _database: Database,
    _directory: Directory,
}

impl OpenVswitch {
    fn start(room: &str, ends: &[String; 2], core: usize) -> anyhow::Result<Self> {
        ensure!(
            std::path::Path::new(DAEMON).exists(),
            "install openvswitch-switch-dpdk: it is the build that has AF_XDP"
        );
        let directory = Directory::new()?;
        let path = directory.path();
        let database = Database::start(path, None)?;
        database.set(&[
            "--no-wait",
            "set",
            "Open_vSwitch",
            ".",
            &format!("other_config:pmd-cpu-mask={:#x}", 1_u128 << core),
        ])?;
        let mut daemon = database.daemon(None, &["ip", "netns", "exec", room])?;
        let log = |daemon: &Process| format!("Open vSwitch said:\n{}", daemon.log());
        let bridge = "add-br br0 -- set bridge br0 datapath_type=netdev fail_mode=secure";
        let bridge: Vec<&str> = bridge.split(' ').collect();
        database.set(&bridge).with_context(|| log(&daemon))?;
        for (number, end) in (1..).zip(ends) {
            let request = format!("ofport_request={number}");
            let port = [
                "add-port",
                "br0",
                end,
                "--",
                "set",
                "interface",
                end,
                "type=afxdp",
                "options:n_rxq=1",
            ];
            let port = [&port[..], &[request.as_str()]].concat();
            database.set(&port).with_context(|| log(&daemon))?;
        }
        let flows = path.join("flows");
        fs::write(&flows, flows_of())?;
        interrupt::wait_for("Open vSwitch taking rules", START, || {
            daemon.check()?;
            let mut replace = own(path, "ovs-ofctl");
            replace
                .arg("replace-flows")
                .args([path.join("br0.mgmt"), PathBuf::from(&flows)]);
            Ok(process::run(&mut replace).ok())
        })
        .with_context(|| log(&daemon))?;
        Ok(Self {
            daemon,
            _database: database,
            _directory: directory,
        })
    }
}

/// The rules that the switch has, in `OpenFlow`.
fn flows_of() -> String {
    let (from, mac) = (Addresses::A, Side::A.mac());
    format!(
        "priority=50,in_port=1,tcp,tp_dst=22,actions=drop\n\
         priority=40,in_port=1,udp,tp_src=53,tp_dst=53,actions=drop\n\
         priority=30,in_port=1,udp,dl_src={mac},nw_src={from},actions=output:2\n\
         priority=20,in_port=2,icmp,dl_src={},nw_src={},actions=output:1\n",
        Side::B.mac(),
        Addresses::B,
    )
}

impl Peer for OpenVswitch {
    fn check(&mut self) -> anyhow::Result<()> {
        self.daemon.check()
    }

    fn log(&self) -> String {
        self.daemon.log()
    }

    fn process(&self) -> Option<&Process> {
        Some(&self.daemon)
    }
}
