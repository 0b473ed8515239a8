//! DPDK's testpmd as a switch that does nothing: what comes in at one port leaves at the other,
//! unread. What a vhost-user port costs by itself, in DPDK.

use std::{
    path::PathBuf,
    process::{ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};

use super::contender::{Case, Contender, Settings, socket_names};
use crate::process::{Directory, Process, interrupt};

pub(super) const NAME: &str = "testpmd-io";
pub(super) const NEEDED: [&str; 1] = ["/usr/bin/dpdk-testpmd"];

/// Memory of its own, in hugepages.
pub(super) const MEMORY_MIB: u64 = 128;

const START: Duration = Duration::from_secs(30);

/// The running switch. Fields are dropped in their order.
#[derive(Debug)]
pub(super) struct Forwarder {
    process: Process,
    /// It ends when nobody can speak to it any more.
    _commands: ChildStdin,
    directory: Directory,
}

impl Forwarder {
    /// Starts it. Ports are joined in the order of their numbers: 0 with 1, 2 with 3.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub(super) fn start(settings: &Settings) -> anyhow::Result<Self> {
        let core = settings.core;
        let directory = Directory::new()?;
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "dpdk-testpmd", "--no-pci", "--in-memory"]);
        command.arg("--single-file-segments");
        command.arg(format!("--lcores=0@{core},1@{core}"));
        command.arg(format!("--socket-mem={MEMORY_MIB}"));
        let sockets = (0..settings.pairs).flat_map(|pair| sockets(&directory, pair));
        for (index, socket) in sockets.enumerate() {
            let socket = socket.display();
            command.arg(format!("--vdev=net_vhost{index},iface={socket},client=1"));
        }
        command.args(["--", "--interactive", "--auto-start", "--nb-cores=1"]);
        command.args(["--forward-mode=io", "--total-num-mbufs=8192"]);
        command.stdin(Stdio::piped());
        let mut process = Process::start(&mut command, directory.join("log"), Some(core))
            .context("starting testpmd; install dpdk-dev and librte-net-vhost23")?;
        let commands = process.take_stdin().context("testpmd has no input")?;
        interrupt::wait_for("testpmd being ready", START, || {
            process.check()?;
            Ok(process.log().contains("testpmd> ").then_some(()))
        })
        .with_context(|| format!("testpmd said:\n{}", process.log()))?;
        Ok(Self {
            process,
            _commands: commands,
            directory,
        })
    }
}

impl Contender for Forwarder {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sockets(&self, pair: usize) -> [PathBuf; 2] {
        sockets(&self.directory, pair)
    }

    fn can(&self, case: Case) -> bool {
        case == Case::PortToPort
    }

    fn change(&mut self, case: Case) -> anyhow::Result<Command> {
        ensure!(self.can(case), "testpmd has no rules");
        Ok(Command::new("true"))
    }

    fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn sockets(directory: &Directory, pair: usize) -> [PathBuf; 2] {
    socket_names(pair).map(|name| directory.join(&name))
}
