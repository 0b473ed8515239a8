//! `vswitch` with vhost-user ports and one worker, on the switch's core.
//!
//! Its flow cache has room for every flow in both directions. The ports of a pair are in one network. In
//! the case `port-to-port` no port has a vNIC and nobody is judged; in the others each has a vNIC, whose senders are
//! checked and whose outbound frames meet the rules.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use ::vswitch::api::types::RouteChange;
use anyhow::{Context, ensure};

use super::{
    contender::{Case, Contender, Settings, socket_names},
    guest::router_mac,
    rules,
};
use crate::process::{self, Directory, Process, interrupt};

/// The most flows, both ways, twice over: then few sets of the cache are overfull.
const FLOW_CACHE_ENTRIES: u32 = 1 << 19;

const START: Duration = Duration::from_secs(10);

/// The generator's addresses, by port, and the address that its packets come from.
pub(super) const MACS: [&str; 2] = ["00:01:02:03:04:00", "00:01:02:03:04:01"];
const SENDER: &str = "10.254.0.0";

/// All that the generator sends to.
pub(super) const DESTINATIONS: &str = "10.252.0.0/14";

/// Where [`Contender::mirror`] has copies sent: what is behind the third port takes any.
const MIRROR_TARGET: &str = "
[[mirror_target]]
name = \"bench\"
kind = \"erspan-2\"
local = \"192.0.2.1\"
remote = \"192.0.2.2\"
port = \"v2\"
peer_mac = \"00:01:02:03:06:00\"
";

/// The running switch. Fields are dropped in their order.
#[derive(Debug)]
pub(super) struct Vswitch {
    daemon: Process,
    binary: PathBuf,
    settings: Settings,
    directory: Directory,
}

impl Vswitch {
    /// Starts `binary` with its ports and one worker.
    ///
    /// # Errors
    /// When it cannot be started, or refuses the configuration.
    pub(super) fn start(binary: &Path, settings: &Settings) -> anyhow::Result<Self> {
        let directory = Directory::new()?;
        let file = directory.join("vswitch.toml");
        fs::write(&file, config(&directory, settings, Case::PortToPort))?;
        let mut command = Command::new(binary);
        command.arg("run").arg("--config").arg(&file);
        let log = directory.join("log");
        let mut daemon = Process::start_deaf(&mut command, log, settings.process_core())
            .context("starting the switch under test; build it, or name it with --switch")?;
        let socket = directory.join("socket");
        interrupt::wait_for("the switch's control socket", START, || {
            daemon.check()?;
            Ok(socket.exists().then_some(()))
        })?;
        Ok(Self {
            daemon,
            binary: binary.to_owned(),
            settings: *settings,
            directory,
        })
    }
}

impl Contender for Vswitch {
    fn name(&self) -> &'static str {
        "vswitch"
    }

    fn sockets(&self, pair: usize) -> [PathBuf; 2] {
        sockets(&self.directory, pair)
    }

    fn change(&mut self, case: Case) -> anyhow::Result<Command> {
        let file = self.directory.join("vswitch.toml");
        fs::write(&file, config(&self.directory, &self.settings, case))?;
        let mut command = Command::new(&self.binary);
        command
            .arg("apply")
            .arg(&file)
            .arg("--socket")
            .arg(self.directory.join("socket"));
        Ok(command)
    }

    fn mirror(&mut self, on: bool) -> anyhow::Result<()> {
        let words = if on {
            "mirror create bench --owner bench --vnic v0 --to bench"
        } else {
            "mirror delete bench --owner bench"
        };
        let mut command = Command::new(&self.binary);
        command.args(words.split(' '));
        command.arg("--socket").arg(self.directory.join("socket"));
        process::run(&mut command).map(drop)
    }

    fn change_routes(&mut self, change: &RouteChange) -> anyhow::Result<()> {
        let body = serde_json::to_string(change)?;
        let mut stream = UnixStream::connect(self.directory.join("socket"))?;
        write!(
            stream,
            "POST /v1/routers/from-v0/routes HTTP/1.1\r\nHost: vswitch\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.lines().next().unwrap_or_default();
        ensure!(status.contains(" 200 "), "changing routes: {answer}");
        Ok(())
    }

    fn process(&mut self) -> &mut Process {
        &mut self.daemon
    }
}

fn sockets(directory: &Directory, pair: usize) -> [PathBuf; 2] {
    socket_names(pair).map(|name| directory.join(&name))
}

fn config(directory: &Directory, settings: &Settings, case: Case) -> String {
    let mut text = format!(
        "[switch]\nsocket = \"{}\"\n\n[workers]\ncores = [{}]\nbusy_poll = {}\n\
         flow_cache_entries = {FLOW_CACHE_ENTRIES}\n",
        directory.join("socket").display(),
        settings.core,
        !settings.may_sleep,
    );
    // The most that a burst can have, and more.
    let budget = if settings.unlimited_flows {
        "misses_per_turn = 256\n"
    } else {
        ""
    };
    for pair in 0..settings.pairs {
        for (side, socket) in sockets(directory, pair).iter().enumerate() {
            let port = 2 * pair + side;
            let network = if case == Case::Routed { port } else { 2 * pair };
            if network == port {
                let _ = write!(
                    text,
                    "\n[[network]]\nname = \"bench{network}\"\ntenant = \"bench\"\n"
                );
            }
            let _ = write!(
                text,
                "\n[[port]]\nname = \"v{port}\"\ndriver = \"vhost_user\"\nsocket = \"{}\"\n\
                 role = \"client\"\nnetwork = \"bench{network}\"\n{budget}",
                socket.display()
            );
        }
    }
    if settings.pairs > 1 {
        text += MIRROR_TARGET;
    }
    if case == Case::Routed {
        text += &routers();
    }
    if case != Case::PortToPort {
        for (index, mac) in (0..settings.pairs).flat_map(|_| MACS).enumerate() {
            let _ = write!(
                text,
                "\n[[vnic]]\nname = \"v{index}\"\nvm = \"v{index}\"\nport = \"v{index}\"\n\
                 mac = \"{mac}\"\nipv4 = [\"{SENDER}\", \"{}\"]\ninbound = {{ default = \"allow\" }}\n\
                 outbound = {{ acl = \"bench\", default = \"allow\" }}\n",
                next_hop(index)
            );
        }
        let rules = rules::for_vswitch(case);
        let _ = write!(text, "\n[[acl]]\nname = \"bench\"\nrules = [\n{rules}]\n");
    }
    text
}

/// The address by which routers know a vNIC.
pub(super) fn next_hop(index: usize) -> String {
    format!("10.{index}.0.5")
}

/// One router for what comes from each of the first two ports. The generator sends to the same
/// addresses both ways, so one router could not tell where they are.
fn routers() -> String {
    let mut text = String::new();
    for from in [0, 1] {
        let _ = write!(
            text,
            "\n[[router]]\nname = \"from-v{from}\"\ntenant = \"bench\"\nmac = \"{}\"\n",
            router_mac(from)
        );
        for side in [0, 1] {
            let _ = write!(
                text,
                "\n[[router.interface]]\nnetwork = \"bench{side}\"\n\
                 addresses = [\"10.{side}.0.{}/24\"]\n",
                from + 1
            );
        }
        let via = next_hop(usize::from(1 - from));
        let _ = write!(
            text,
            "\n[[router.route]]\nto = \"{DESTINATIONS}\"\nvia = \"{via}\"\n"
        );
    }
    text
}
