//! The database of an Open vSwitch of our own, and its commands.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context;

use crate::process::{self, Process, interrupt};

pub(crate) const DAEMON: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
pub(crate) const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

const START: Duration = Duration::from_secs(20);

/// A running database server, ended when dropped. Its files are in a directory of its user's.
#[derive(Debug)]
pub(crate) struct Database {
    _server: Process,
    directory: PathBuf,
}

impl Database {
    /// Starts an empty one, on `core` if there is one.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub(crate) fn start(directory: &Path, core: Option<usize>) -> anyhow::Result<Self> {
        let file = directory.join("conf.db");
        process::run(
            own(directory, "ovsdb-tool")
                .arg("create")
                .args([&file, Path::new(SCHEMA)]),
        )?;
        let socket = directory.join("db.sock");
        let mut command = own(directory, "ovsdb-server");
        command
            .arg(&file)
            .arg(format!("--remote=punix:{}", socket.display()))
            .arg(format!("--unixctl={}", directory.join("db.ctl").display()));
        let mut server = Process::start_deaf(&mut command, directory.join("db.log"), core)?;
        interrupt::wait_for("the socket of ovsdb-server", START, || {
            server.check()?;
            Ok(socket.exists().then_some(()))
        })?;
        let database = Self {
            _server: server,
            directory: directory.to_owned(),
        };
        database.set(&["--no-wait", "init"])?;
        Ok(database)
    }

    /// Runs `ovs-vsctl`.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn set(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let socket = self.directory.join("db.sock");
        let mut command = own(&self.directory, "ovs-vsctl");
        command
            .arg(format!("--db=unix:{}", socket.display()))
            .arg(format!("--timeout={}", START.as_secs()))
            .args(arguments);
        process::run(&mut command).map(drop)
    }

    /// Starts the switch, behind the words of `wrapper`.
    ///
    /// # Errors
    /// When it is not installed.
    pub(crate) fn daemon(&self, core: Option<usize>, wrapper: &[&str]) -> anyhow::Result<Process> {
        let directory = &self.directory;
        let words = [wrapper, &[DAEMON]].concat();
        let mut command = own(directory, words[0]);
        command
            .args(&words[1..])
            .arg(format!("unix:{}", self.directory.join("db.sock").display()))
            .arg(format!(
                "--unixctl={}",
                directory.join("switch.ctl").display()
            ));
        Process::start_deaf(&mut command, directory.join("switch.log"), core)
            .context("starting Open vSwitch")
    }
}

/// A command of Open vSwitch that keeps to this directory.
pub(crate) fn own(directory: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, directory);
    }
    command
}
