//! Guests of a lab: machines that `scripts/vm` starts, each on a `vhost_user` port.
//!
//! In: a lab whose switch runs, and what guests there shall be. Out: guests that obey shell lines.
//! What must hold: every machine has ended when its [`Guest`] is dropped, the test having failed
//! or not; two tests never meet.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{
    lab::{Lab, NETWORK, ok},
    netns::{eventually, is_root},
};

/// An empty lab for guests; none when the test may not make one. One test at a time has it:
/// machines without KVM take all there is of a processor.
pub(crate) fn lab() -> Option<(Lab, MutexGuard<'static, ()>)> {
    static TURN: Mutex<()> = Mutex::new(());
    if !is_root() {
        return None;
    }
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // While the thread is where packages can be fetched from, which a lab is not.
    ok(&mut script(&["image"]));
    Lab::new().map(|lab| (lab, turn))
}

/// Which end of its socket the *switch* is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// A guest that is to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Its port's name, too.
    pub(crate) name: &'static str,
    /// It has 10.0.0.N, fd00::N and [`super::lab::mac`] of N.
    pub(crate) number: u8,
    pub(crate) role: Role,
    pub(crate) mtu: u32,
    pub(crate) queues: u16,
    /// It has no address until it was given one.
    pub(crate) dhcp: bool,
    /// Further options of `scripts/vm up`.
    pub(crate) more: &'static [&'static str],
}

impl Plan {
    pub(crate) fn new(name: &'static str, number: u8, role: Role) -> Self {
        Self {
            name,
            number,
            role,
            mtu: 1500,
            queues: 1,
            dhcp: false,
            more: &[],
        }
    }

    /// Its port in the configuration.
    pub(crate) fn port(&self, lab: &Lab) -> String {
        let Self { name, queues, .. } = self;
        let role = match self.role {
            Role::Client => "client",
            Role::Server => "server",
        };
        format!(
            "[[port]]\nname = \"{name}\"\ndriver = \"vhost_user\"\nnetwork = \"lan\"\nqueues = {queues}\n\
             role = \"{role}\"\nsocket = \"{}\"\n",
            self.socket(lab).display()
        )
    }

    fn socket(&self, lab: &Lab) -> std::path::PathBuf {
        lab.path(&format!("{}.sock", self.name))
    }
}

/// A configuration with a port for each guest, and more.
pub(crate) fn config(lab: &Lab, plans: &[Plan], more: &str) -> String {
    let ports: String = plans.iter().map(|plan| plan.port(lab)).collect();
    format!("{NETWORK}{ports}{more}")
}

/// A machine that runs, or may be started again.
pub(crate) struct Guest {
    plan: Plan,
    machine: String,
}

fn script(words: &[&str]) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/vm");
    let mut command = Command::new(path);
    command.args(words);
    command
}

impl Guest {
    /// Starts guests side by side and waits until each answers and its port is up.
    pub(crate) fn start_all(lab: &Lab, plans: &[Plan]) -> Vec<Self> {
        static MACHINES: AtomicU32 = AtomicU32::new(0);
        let guests: Vec<_> = plans
            .iter()
            .map(|plan| {
                let number = MACHINES.fetch_add(1, Ordering::Relaxed);
                let machine = format!("t{}-{number}-{}", std::process::id(), plan.name);
                let plan = plan.clone();
                Self { plan, machine }
            })
            .collect();
        let starting: Vec<_> = guests
            .iter()
            .map(|guest| guest.up(lab, &[]).spawn().expect("scripts/vm"))
            .collect();
        for (guest, start) in guests.iter().zip(starting) {
            let output = start.wait_with_output().expect("scripts/vm");
            assert!(
                output.status.success(),
                "{}: {}",
                guest.plan.name,
                text(&output.stderr)
            );
            lab.await_state(guest.plan.name, "up");
        }
        guests
    }

    /// The command that starts it.
    pub(crate) fn up(&self, lab: &Lab, more: &[&str]) -> Command {
        let plan = &self.plan;
        let n = plan.number;
        let mut command = script(&["up", &self.machine, "--lifetime", "600"]);
        command.arg("--socket").arg(plan.socket(lab));
        // The other end of the socket.
        command.arg(match plan.role {
            Role::Client => "--server",
            Role::Server => "--client",
        });
        if plan.dhcp {
            command.arg("--dhcp");
        } else {
            command.args(["--address", &format!("10.0.0.{n}/24")]);
            command.args(["--address", &format!("fd00::{n:x}/64")]);
        }
        command.args(["--mac", &super::lab::mac_text(n)]);
        command.args(["--mtu", &plan.mtu.to_string()]);
        command.args(["--queues", &plan.queues.to_string()]);
        command.args(plan.more).args(more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A guest of the same kind on another port, not started.
    pub(crate) fn twin(&self, name: &'static str, role: Role) -> Self {
        Self {
            plan: Plan {
                name,
                role,
                ..self.plan.clone()
            },
            machine: format!("{}-{name}", self.machine),
        }
    }

    /// Runs a shell line in it.
    pub(crate) fn try_run(&self, line: &str) -> Output {
        script(&["run", &self.machine, line])
            .output()
            .expect("scripts/vm")
    }

    /// Runs a shell line in it that must succeed; returns what it wrote.
    pub(crate) fn run(&self, line: &str) -> String {
        text(&ok(&mut script(&["run", &self.machine, line])).stdout)
    }

    /// Pings until an answer comes; then `count` pings of `bytes` must all be answered.
    pub(crate) fn ping(&self, address: &str, bytes: u32, count: u32) {
        eventually(&format!("{address} answers"), || {
            let first = self.try_run(&format!("ping -c 1 -W 1 {address}"));
            first.status.success().then_some(())
        });
        let said = self.run(&format!(
            "ping -c {count} -i 0.05 -W 20 -s {bytes} {address}"
        ));
        assert!(said.contains(" 0% packet loss"), "{said}");
    }

    /// True when one ping is answered.
    pub(crate) fn reaches(&self, address: &str) -> bool {
        self.try_run(&format!("ping -c 2 -i 0.2 -W 2 {address}"))
            .status
            .success()
    }

    /// Seconds since it booted.
    pub(crate) fn uptime(&self) -> f64 {
        let said = self.run("cut -d' ' -f1 /proc/uptime");
        said.trim().parse().expect("seconds")
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&self) {
        ok(&mut script(&["kill", &self.machine]));
    }

    /// Removes what is left of it, so that it can be started again.
    pub(crate) fn down(&self) {
        ok(&mut script(&["down", &self.machine]));
    }

    /// Moves it live to where `to` waits.
    pub(crate) fn migrate(&self, to: &Self) {
        ok(&mut script(&["migrate", &self.machine, &to.machine]));
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = script(&["console", &self.machine]).output();
            let said = said.map(|output| text(&output.stdout)).unwrap_or_default();
            eprintln!("{} said: {said}", self.plan.name);
        }
        let _ = script(&["down", &self.machine]).output();
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What runs shell lines: a guest, or a member of the lab.
pub(crate) enum Site<'a> {
    Guest(&'a Guest),
    Member(&'a Lab, &'static str),
}

impl Site<'_> {
    /// Runs a shell line in its folder of files.
    fn run(&self, line: &str) -> String {
        match self {
            Self::Guest(guest) => guest.run(&format!("cd /tmp; {line}")),
            Self::Member(lab, name) => {
                let folder = lab.path(name);
                std::fs::create_dir_all(&folder).expect("a folder");
                let mut command = lab.at(name, "busybox sh -c");
                command.current_dir(folder).arg(line);
                text(&ok(&mut command).stdout)
            }
        }
    }

    fn sum(&self, file: &str) -> String {
        let said = self.run(&format!("busybox sha256sum {file}"));
        said.split(' ').next().expect("a sum").to_owned()
    }
}

/// Sends random bytes by TCP from `from` to `to`, which has `address`. They arrive as they were.
pub(crate) fn transfer(from: &Site<'_>, to: &Site<'_>, address: &str, kib: u32) {
    static PORTS: AtomicU32 = AtomicU32::new(8000);
    let port = PORTS.fetch_add(1, Ordering::Relaxed);
    from.run(&format!(
        "busybox dd if=/dev/urandom of=sent bs=1024 count={kib} 2>/dev/null"
    ));
    // It ends when the sender has sent all, not when there is nothing to say to it.
    to.run(&format!(
        "rm -f received; {{ sleep 60 | busybox nc -l -p {port} >received; }} >/dev/null 2>&1 &"
    ));
    // The other may not listen yet.
    let line = format!("busybox nc {address} {port} <sent 2>/dev/null && echo done || true");
    eventually("the bytes are taken", || {
        from.run(&line).contains("done").then_some(())
    });
    let sent = from.sum("sent");
    eventually("the bytes are the same", || {
        (to.sum("received") == sent).then_some(())
    });
}
