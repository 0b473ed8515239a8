//! The switch process under test, ended when dropped.

use std::{
    fmt::Write,
    fs,
    path::{Path as FilePath, PathBuf},
    process::Command,
};

use anyhow::Context;

use super::{
    Addresses,
    lab::{Lab, Path, Side},
};
use crate::process::{Directory, Process};

/// `vswitch run`, with a configuration of its own. Fields are dropped in their order.
#[derive(Debug)]
pub struct Switch {
    process: Process,
    directory: Directory,
    binary: PathBuf,
}

impl Switch {
    /// Starts `binary` on the lab's switch path, its worker on `core`.
    ///
    /// # Errors
    /// When the configuration cannot be written or the process not be started.
    pub fn start(
        binary: &FilePath,
        lab: &Lab,
        core: usize,
        busy_poll: bool,
    ) -> anyhow::Result<Self> {
        let directory = Directory::new()?;
        let file = directory.join("vswitch.toml");
        fs::write(&file, config(lab, directory.path(), core, busy_poll))?;
        let mut command = Command::new(binary);
        command.arg("run").arg("--config").arg(&file);
        // On no core alone: the worker pins itself, and the rest may run beside it.
        let process = Process::start_deaf(&mut command, directory.join("log"), None)
            .context("starting the switch under test; build it, or name it with --switch")?;
        Ok(Self {
            process,
            directory,
            binary: binary.to_owned(),
        })
    }

    /// Fails, with what the process last said, when it has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.process.check()
    }

    /// The process itself.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What the process has said so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Busy cycles per frame of its worker, as it counts them itself.
    pub fn cycles_per_frame(&self) -> Option<f64> {
        let output = Command::new(&self.binary)
            .arg("stats")
            .arg("--json")
            .arg("--socket")
            .arg(self.directory.join("socket"))
            .output()
            .ok()?;
        let stats: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        stats["workers"][0]["cycles_per_frame"].as_f64()
    }
}

/// Two access ports of one network with a vNIC each: senders are checked, and what arrives at B
/// is judged by rules.
fn config(lab: &Lab, directory: &FilePath, core: usize, busy_poll: bool) -> String {
    let mut text = format!(
        "[switch]\nsocket = \"{}\"\n\n[workers]\ncores = [{core}]\nbusy_poll = {busy_poll}\n\n\
         [[network]]\nname = \"bench\"\ntenant = \"bench\"\n\n\
         [[acl]]\nname = \"to-b\"\nrules = [\n  \
         {{ action = \"deny\", protocol = \"tcp\", dst_ports = [22] }},\n  \
         {{ action = \"deny\", protocol = \"udp\", src_ports = [53], dst_ports = [53] }},\n  \
         {{ action = \"allow\", src = \"{}\", protocol = \"udp\" }},\n]\n\n\
         [[acl]]\nname = \"to-a\"\nrules = [{{ action = \"allow\", protocol = \"icmp\" }}]\n",
        directory.join("socket").display(),
        Addresses::A,
    );
    for (side, name, address) in [(Side::A, "a", Addresses::A), (Side::B, "b", Addresses::B)] {
        let interface = lab.host_end(Path::Switch, side);
        let _ = write!(
            text,
            "\n[[port]]\nname = \"{name}\"\ndriver = \"af_xdp\"\ninterface = \"{interface}\"\n\
             network = \"bench\"\nmisses_per_turn = 256\n\n\
             [[vnic]]\nname = \"{name}\"\nvm = \"{name}\"\nport = \"{name}\"\nmac = \"{}\"\n\
             ipv4 = [\"{address}\"]\ninbound = {{ acl = \"to-{name}\" }}\n",
            side.mac(),
        );
    }
    text
}
