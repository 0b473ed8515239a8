//! `scripts/topo`: every kind comes up, works with the switch, and goes without a trace.

use std::{path::Path, process::Command};

use super::{
    lab::{Lab, ok},
    netns::eventually,
};
use vswitch::api::types;

fn topo(words: &[&str]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/topo");
    let mut command = Command::new(script);
    command.args(words);
    command
}

/// Brings a topology down when the test fails.
struct Up<'a>(&'a str);

impl Drop for Up<'_> {
    fn drop(&mut self) {
        let _ = topo(&["down", self.0]).output();
    }
}

/// Makes a topology of `kind` in the lab's namespace, runs the switch in it, has a member ping an
/// address, and takes everything down.
fn comes_and_goes(kind: &str, more: &[&str], ping: Option<(&str, &str)>, members: usize) {
    let Some(mut lab) = Lab::new() else { return };
    // At most 11 bytes, and nobody else's.
    let name = format!("t{}{}", std::process::id() % 1_000_000, &kind[..2]);
    let up = ok(&mut topo(&[&["up", kind, "--name", &name], more].concat()));
    let guard = Up(&name);
    let config = String::from_utf8(up.stdout).expect("a path");
    let config = config.trim();
    let namespaces = || {
        let list = ok(Command::new("ip").args(["netns", "list"])).stdout;
        let list = String::from_utf8(list).expect("names");
        let prefix = format!("{name}-");
        list.lines()
            .filter(|line| line.starts_with(&prefix))
            .count()
    };
    assert_eq!(namespaces(), members);
    let again = topo(&["up", kind, "--name", &name]).output().expect("topo");
    assert!(
        !again.status.success() && namespaces() == members,
        "up twice"
    );
    let listed = String::from_utf8(ok(&mut topo(&["list"])).stdout).expect("text");
    assert!(listed.contains(&format!("up: {name} ")), "{listed}");

    lab.start_file(Path::new(config));
    let ports: Vec<types::Port> = lab.get("/v1/ports");
    assert_eq!(ports.len(), members);
    assert!(ports.iter().all(|port| port.state == "up"), "{ports:?}");
    if let Some((from, address)) = ping {
        eventually("an answer to a ping", || {
            let ping = [
                "exec", &name, from, "ping", "-n", "-c", "1", "-W", "2", address,
            ];
            let output = topo(&ping).output().expect("ping");
            output.status.success().then_some(())
        });
    }
    lab.check_conservation();
    assert!(lab.end(rustix::process::Signal::TERM).success());

    drop(guard);
    assert_eq!(namespaces(), 0);
    let links = lab.host.ip_output("-brief link show");
    assert!(!links.contains(&name), "{links}");
    assert!(!Path::new(config).parent().expect("a folder").exists());
    let again = topo(&["down", &name]).output().expect("topo");
    assert!(!again.status.success(), "down twice");
}

#[test]
fn pair() {
    comes_and_goes("pair", &[], Some(("m1", "10.0.0.2")), 2);
}

#[test]
fn star() {
    let more = ["--count", "5", "--mtu", "9000"];
    comes_and_goes("star", &more, Some(("m5", "fd00::1")), 5);
}

#[test]
fn trunk() {
    // Its members meet by tags alone.
    comes_and_goes("trunk", &[], None, 3);
}

#[test]
fn two_tenants() {
    comes_and_goes("two-tenants", &[], Some(("app", "10.0.0.2")), 4);
}
