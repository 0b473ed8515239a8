//! Open vSwitch with DPDK, with a database, sockets and logs of its own: the system's service is
//! neither needed nor touched.
//!
//! One poll-mode thread, on the switch's core, where its main thread is too. Its caches have their
//! default sizes: exact-match cache on (8,192 entries, one insertion in a hundred), signature-match
//! cache off. They are emptied when the rules change, so that each case begins afresh. Flows stay in its cache for an hour instead of ten seconds without traffic, so
//! that it need not learn them anew when it was another switch's turn.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context;

use super::{
    contender::{Case, Contender, Settings, socket_names},
    rules,
};
use crate::process::{self, Directory, Process, interrupt};

pub(super) const NAME: &str = "openvswitch";

const DAEMON: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
pub(super) const NEEDED: [&str; 2] = [DAEMON, SCHEMA];

/// What it takes for itself at start; its frame buffers come on top.
const MEMORY_MIB: u64 = 64;

/// 2 MiB pages that it uses in all, found by trying: it makes 262,144 frame buffers.
pub(super) const HUGEPAGES: u64 = 450;

const START: Duration = Duration::from_secs(20);

/// The running switch. Fields are dropped in their order.
#[derive(Debug)]
pub(super) struct OpenVswitch {
    daemon: Process,
    _database: Process,
    directory: Directory,
    pairs: usize,
}

impl OpenVswitch {
    /// Starts it with its ports.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub(super) fn start(settings: &Settings) -> anyhow::Result<Self> {
        let core = settings.process_core();
        let directory = Directory::new()?;
        let path = directory.path();
        let database_file = path.join("conf.db");
        process::run(
            own(path, "ovsdb-tool")
                .arg("create")
                .args([&database_file, Path::new(SCHEMA)]),
        )?;
        let socket = path.join("db.sock");
        let mut command = own(path, "ovsdb-server");
        command
            .arg(&database_file)
            .arg(format!("--remote=punix:{}", socket.display()))
            .arg(format!("--unixctl={}", path.join("db.ctl").display()));
        let mut database = Process::start_deaf(&mut command, path.join("db.log"), core)?;
        interrupt::wait_for("the socket of ovsdb-server", START, || {
            database.check()?;
            Ok(socket.exists().then_some(()))
        })?;

        let mask = format!("{:#x}", 1_u128 << settings.core);
        vsctl(path, &["--no-wait", "init"])?;
        let options = [
            "dpdk-init=true".to_owned(),
            "dpdk-extra=--in-memory --no-pci --single-file-segments".to_owned(),
            format!("dpdk-socket-mem={MEMORY_MIB}"),
            format!("pmd-cpu-mask={mask}"),
            "max-idle=3600000".to_owned(),
            // Where its main thread is; without it, anywhere.
            format!("dpdk-lcore-mask={mask}"),
        ]
        .map(|setting| format!("other_config:{setting}"));
        let mut set = vec!["--no-wait", "set", "Open_vSwitch", "."];
        let count = options.len() - usize::from(!settings.alone);
        set.extend(options[..count].iter().map(String::as_str));
        vsctl(path, &set)?;

        // In a network namespace of its own: it makes interfaces of fixed names.
        let mut command = own(path, "unshare");
        command
            .args(["--net", DAEMON])
            .arg(format!("unix:{}", socket.display()))
            .arg(format!("--unixctl={}", path.join("switch.ctl").display()));
        let daemon = Process::start_deaf(&mut command, path.join("switch.log"), core)
            .context("starting Open vSwitch")?;
        let mut switch = Self {
            daemon,
            _database: database,
            directory,
            pairs: settings.pairs,
        };
        switch.add_ports().with_context(|| {
            let log = switch.daemon.log();
            format!("Open vSwitch said:\n{log}")
        })?;
        Ok(switch)
    }

    fn add_ports(&mut self) -> anyhow::Result<()> {
        let sockets = (0..self.pairs).flat_map(|pair| self.sockets(pair));
        let path = self.directory.path();
        let bridge = "add-br br0 -- set bridge br0 datapath_type=netdev fail_mode=secure";
        vsctl(path, &bridge.split(' ').collect::<Vec<_>>())?;
        for (index, socket) in sockets.enumerate() {
            let socket = socket.display();
            let port = format!(
                "add-port br0 v{index} -- set interface v{index} type=dpdkvhostuserclient \
                 options:vhost-server-path={socket} ofport_request={}",
                index + 1
            );
            vsctl(path, &port.split(' ').collect::<Vec<_>>())?;
        }
        self.daemon.check()
    }
}

impl Contender for OpenVswitch {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sockets(&self, pair: usize) -> [PathBuf; 2] {
        socket_names(pair).map(|name| self.directory.join(&name))
    }

    fn change(&mut self, case: Case) -> anyhow::Result<Command> {
        let mut flows = rules::for_openflow(case);
        for pair in 0..self.pairs {
            let (first, second) = (2 * pair + 1, 2 * pair + 2);
            for (from, to) in [(first, second), (second, first)] {
                let _ = writeln!(flows, "priority=1,in_port={from},actions=output:{to}");
            }
        }
        let file = self.directory.join("flows");
        fs::write(&file, flows)?;
        let path = self.directory.path();
        let mut command = own(path, "ovs-ofctl");
        command
            .arg("replace-flows")
            .args([path.join("br0.mgmt"), file]);
        Ok(command)
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        // What it has cached under the former rules stays as long as it is not wrong, and is slower
        // than what the new ones allow.
        let path = self.directory.path();
        process::run(
            own(path, "ovs-appctl")
                .arg("--target")
                .arg(path.join("switch.ctl"))
                .arg("revalidator/purge"),
        )
        .map(drop)
    }

    fn process(&mut self) -> &mut Process {
        &mut self.daemon
    }
}

/// A command of Open vSwitch that keeps to this directory.
fn own(directory: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, directory);
    }
    command
}

fn vsctl(directory: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let database = format!("--db=unix:{}", directory.join("db.sock").display());
    let limit = format!("--timeout={}", START.as_secs());
    process::run(
        own(directory, "ovs-vsctl")
            .args([&database, &limit])
            .args(arguments),
    )
    .map(drop)
}
