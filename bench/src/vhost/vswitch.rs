//! `vswitch` with two vhost-user ports, one worker that never sleeps, on the switch's core.
//!
//! Its flow cache has room for every flow in both directions. In the case `port-to-port` both ports
//! are in one network and nobody is judged; in the others each has a vNIC, whose senders are
//! checked and whose outbound frames meet the rules.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context;

use super::{
    contender::{Case, Contender},
    rules,
};
use crate::process::{self, Directory, Process, interrupt};

/// The most flows, both ways, twice over: then few sets of the cache are overfull.
const FLOW_CACHE_ENTRIES: u32 = 1 << 19;

const START: Duration = Duration::from_secs(10);

/// The generator's addresses, by port, and the address that its packets come from.
const MACS: [&str; 2] = ["00:01:02:03:04:00", "00:01:02:03:04:01"];
const SENDER: &str = "10.254.0.0";

/// The running switch. Fields are dropped in their order.
#[derive(Debug)]
pub(super) struct Vswitch {
    daemon: Process,
    binary: PathBuf,
    core: usize,
    directory: Directory,
}

impl Vswitch {
    /// Starts `binary` with two ports, its worker on `core`.
    ///
    /// # Errors
    /// When it cannot be started, or refuses the configuration.
    pub(super) fn start(binary: &Path, core: usize) -> anyhow::Result<Self> {
        let directory = Directory::new()?;
        let file = directory.join("vswitch.toml");
        fs::write(&file, config(&directory, core, Case::PortToPort))?;
        let mut command = Command::new(binary);
        command.arg("run").arg("--config").arg(&file);
        let log = directory.join("log");
        let mut daemon = Process::start_deaf(&mut command, log, Some(core))
            .context("starting the switch under test; build it, or name it with --switch")?;
        let socket = directory.join("socket");
        interrupt::wait_for("the switch's control socket", START, || {
            daemon.check()?;
            Ok(socket.exists().then_some(()))
        })?;
        Ok(Self {
            daemon,
            binary: binary.to_owned(),
            core,
            directory,
        })
    }
}

impl Contender for Vswitch {
    fn name(&self) -> &'static str {
        "vswitch"
    }

    fn sockets(&self) -> [PathBuf; 2] {
        sockets(&self.directory)
    }

    fn enforce(&mut self, case: Case) -> anyhow::Result<()> {
        let file = self.directory.join("vswitch.toml");
        fs::write(&file, config(&self.directory, self.core, case))?;
        process::run(
            Command::new(&self.binary)
                .arg("apply")
                .arg(&file)
                .arg("--socket")
                .arg(self.directory.join("socket")),
        )
        .map(drop)
    }

    fn process(&mut self) -> &mut Process {
        &mut self.daemon
    }
}

fn sockets(directory: &Directory) -> [PathBuf; 2] {
    ["v0.sock", "v1.sock"].map(|name| directory.join(name))
}

fn config(directory: &Directory, core: usize, case: Case) -> String {
    let mut text = format!(
        "[switch]\nsocket = \"{}\"\n\n[workers]\ncores = [{core}]\nbusy_poll = true\n\
         flow_cache_entries = {FLOW_CACHE_ENTRIES}\n\n\
         [[network]]\nname = \"bench\"\ntenant = \"bench\"\n",
        directory.join("socket").display(),
    );
    for (index, socket) in sockets(directory).iter().enumerate() {
        let _ = write!(
            text,
            "\n[[port]]\nname = \"v{index}\"\ndriver = \"vhost_user\"\nsocket = \"{}\"\n\
             role = \"client\"\nnetwork = \"bench\"\n",
            socket.display()
        );
    }
    if case != Case::PortToPort {
        for (index, mac) in MACS.iter().enumerate() {
            let _ = write!(
                text,
                "\n[[vnic]]\nname = \"v{index}\"\nvm = \"v{index}\"\nport = \"v{index}\"\n\
                 mac = \"{mac}\"\nipv4 = [\"{SENDER}\"]\ninbound = {{ default = \"allow\" }}\n\
                 outbound = {{ acl = \"bench\", default = \"allow\" }}\n"
            );
        }
        let rules = rules::for_vswitch(case);
        let _ = write!(text, "\n[[acl]]\nname = \"bench\"\nrules = [\n{rules}]\n");
    }
    text
}
