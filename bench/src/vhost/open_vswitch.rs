//! Open vSwitch with DPDK, with a database, sockets and logs of its own: the system's service is
//! neither needed nor touched.
//!
//! One poll-mode thread, on the switch's core, where its main thread is too. Its caches have their
//! default sizes: exact-match cache on (8,192 entries, one insertion in a hundred), signature-match
//! cache off. They are emptied when the rules change, so that each case begins afresh. Flows stay in its cache for an hour instead of ten seconds without traffic, so
//! that it need not learn them anew when it was another switch's turn.

use std::{fmt::Write, fs, path::PathBuf, process::Command};

use anyhow::Context;

use super::{
    contender::{Case, Contender, Settings, socket_names},
    database::{DAEMON, Database, SCHEMA, own},
    guest::router_mac,
    rules,
    vswitch::MACS,
};
use crate::process::{self, Directory, Process};

pub(super) const NAME: &str = "openvswitch";

pub(super) const NEEDED: [&str; 2] = [DAEMON, SCHEMA];

/// What it takes for itself at start; its frame buffers come on top.
const MEMORY_MIB: u64 = 64;

/// 2 MiB pages that it uses in all, found by trying: it makes 262,144 frame buffers.
pub(super) const HUGEPAGES: u64 = 450;

/// The running switch. Fields are dropped in their order.
#[derive(Debug)]
pub(super) struct OpenVswitch {
    daemon: Process,
    database: Database,
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
        let database = Database::start(directory.path(), core)?;
        let mask = format!("{:#x}", 1_u128 << settings.core);
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
        database.set(&set)?;

        // In a network namespace of its own: it makes interfaces of fixed names.
        let daemon = database.daemon(core, &["unshare", "--net"])?;
        let mut switch = Self {
            daemon,
            database,
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
        let bridge = "add-br br0 -- set bridge br0 datapath_type=netdev fail_mode=secure";
        self.database.set(&bridge.split(' ').collect::<Vec<_>>())?;
        for (index, socket) in sockets.enumerate() {
            let socket = socket.display();
            let port = format!(
                "add-port br0 v{index} -- set interface v{index} type=dpdkvhostuserclient \
                 options:vhost-server-path={socket} ofport_request={}",
                index + 1
            );
            self.database.set(&port.split(' ').collect::<Vec<_>>())?;
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
                let _ = write!(flows, "priority=1,in_port={from},");
                if case == Case::Routed {
                    let (own, next) = (router_mac(u8::from(from == first)), MACS[to - first]);
                    let _ = write!(
                        flows,
                        "ip,actions=mod_dl_src:{own},mod_dl_dst:{next},dec_ttl,"
                    );
                } else {
                    flows += "actions=";
                }
                let _ = writeln!(flows, "output:{to}");
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

    fn mirror(&mut self, on: bool) -> anyhow::Result<()> {
        let command = if on {
            "-- --id=@from get port v0 -- --id=@to get port v2 -- --id=@mirror create mirror \
             name=bench select_src_port=@from select_dst_port=@from output_port=@to \
             -- set bridge br0 mirrors=@mirror"
        } else {
            "clear bridge br0 mirrors"
        };
        self.database
            .set(&command.split_whitespace().collect::<Vec<_>>())?;
        self.settle()
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
