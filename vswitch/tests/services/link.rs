//! A link with nothing but the services, a guest on it, and a DHCP server behind its router.
//!
//! ```text
//!   namespace HOST (the test's thread: services)       namespace HOST-guest
//!     port0 ──────────────────────── veth ──────────────── eth0
//!                                                    namespace HOST-server, where there is one
//!     port1 ──────────────────────── veth ──────────────── eth0
//! ```

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Instant,
};

use vswitch::services::{Destination, Ingress, Output, Services, plan::Plan};

use crate::{
    bed::*,
    netns::{Netns, PATIENCE, PacketSocket, is_root},
};

/// The services, a guest, and the DHCP server behind the router, if there is one.
pub(crate) struct Link {
    pub(crate) services: Services,
    socket: PacketSocket,
    server: Option<(PacketSocket, Guest)>,
    began: Instant,
    pub(crate) folder: tempfile::TempDir,
    guest: Guest,
    host: Netns,
}

impl Link {
    /// A guest with the first vNIC's Ethernet address, that sends nothing by itself.
    pub(crate) fn new(plan: Plan) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let host = Netns::enter_new();
        let guest = format!("{}-guest", host.name());
        let guest = Guest::new(guest);
        host.veth("port0", "eth0", 1500, 1);
        host.ip(&format!("link set eth0 address {MAC}"));
        host.ip(&format!("link set eth0 netns {}", guest.0));
        let mut link = Self {
            services: Services::new(7),
            socket: PacketSocket::open("port0"),
            server: None,
            began: Instant::now(),
            folder: tempfile::tempdir().expect("a folder"),
            guest,
            host,
        };
        link.services.replace(plan, 0, &mut Output::default());
        for command in [
            "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1",
            "ip link set lo up",
            "ip link set eth0 up",
        ] {
            link.run(command).expect("ip and sysctl");
        }
        Some(link)
    }

    /// Adds the server's namespace: it has 192.0.2.1 and `fd00:9::1`, and the gateway leads to the guest's
    /// network.
    pub(crate) fn add_server(&mut self) {
        let server = Guest::new(format!("{}-server", self.host.name()));
        self.host.veth("port1", "eth0", 1500, 1);
        self.host
            .ip(&format!("link set eth0 address {STRANGER_MAC}"));
        self.host.ip(&format!("link set eth0 netns {}", server.0));
        for arguments in [
            "link set lo up",
            "link set eth0 up",
            "address add 192.0.2.1/24 dev eth0",
            "address add fd00:9::1/64 dev eth0 nodad",
            "-6 route add fd00:1::/64 via fd00:9::fe",
            &format!("-6 neighbor add fd00:9::fe lladdr {GATEWAY_MAC} dev eth0"),
            "route add 10.1.0.0/24 via 192.0.2.254",
            &format!("neighbor add 192.0.2.254 lladdr {GATEWAY_MAC} dev eth0"),
        ] {
            let mut command = Command::new("ip");
            command
                .args(["-n", &server.0])
                .args(arguments.split_whitespace());
            assert!(
                command.status().is_ok_and(|status| status.success()),
                "{arguments}"
            );
        }
        self.server = Some((PacketSocket::open("port1"), server));
    }

    /// A file of the test's own, which a command may name as `FOLDER/name`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let line = line.replace("FOLDER", &self.folder.path().display().to_string());
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.guest.0]);
        command.args(line.split_whitespace());
        command
    }

    /// Serves until `done` gives something.
    pub(crate) fn serve<T>(&mut self, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = done() {
                return value;
            }
            assert!(Instant::now() < deadline, "did not happen: {what}");
            self.turn();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    fn turn(&mut self) {
        let mut out = Output::default();
        let now_ns = self.began.elapsed().as_nanos() as u64;
        while let Some(frame) = self.socket.receive() {
            let ingress = Ingress {
                port: PORT,
                network: NETWORK,
                now_ns,
            };
            self.services.receive(&ingress, &frame, &mut out);
        }
        while let Some(frame) = self
            .server
            .as_ref()
            .and_then(|(socket, _)| socket.receive())
        {
            let ingress = Ingress {
                port: UPLINK,
                network: NETWORK,
                now_ns,
            };
            self.services.receive(&ingress, &frame, &mut out);
        }
        self.services.tick(now_ns, &mut out);
        for outgoing in out.frames {
            match outgoing.to {
                Destination::Port(PORT) | Destination::Flood { except: None } => {
                    self.socket.send(&outgoing.frame);
                }
                // What a router would do.
                Destination::Route => {
                    let mut frame = outgoing.frame;
                    frame[..6].copy_from_slice(&STRANGER_MAC.0);
                    if let Some((socket, _)) = &self.server {
                        socket.send(&frame);
                    }
                }
                _ => {}
            }
        }
    }

    /// What a program in the guest wrote and whether it succeeded; `None` when it is not there.
    pub(crate) fn run(&mut self, line: &str) -> Option<(bool, String)> {
        let program = line.split_whitespace().next().unwrap_or_default();
        let known = Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .output();
        if !known.is_ok_and(|output| output.status.success()) {
            eprintln!("left out: {program} is not there");
            return None;
        }
        let log = self.folder.path().join("log");
        let file = || {
            fs::File::options()
                .append(true)
                .create(true)
                .open(&log)
                .expect("a log")
        };
        let _ = fs::remove_file(&log);
        let child = self
            .command(line)
            .stdin(Stdio::null())
            .stdout(file())
            .stderr(file())
            .spawn();
        let mut child = Ended(child.expect("started"));
        let status = self.serve(line, || child.0.try_wait().expect("wait"));
        let text = fs::read_to_string(&log).unwrap_or_default();
        Some((status.success(), text))
    }

    /// ISC's client in the guest, and where it writes its leases; `None` when it is not there.
    pub(crate) fn dhclient(&self, version: &str) -> Option<(Ended, PathBuf)> {
        let known = Command::new("sh")
            .args(["-c", "command -v dhclient"])
            .output();
        if !known.is_ok_and(|output| output.status.success()) {
            eprintln!("left out: dhclient is not there");
            return None;
        }
        let mut command = self.command(&format!(
            "dhclient {version} -1 -d -lf FOLDER/leases -pf FOLDER/pid -sf /bin/true -cf /dev/null eth0"
        ));
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let client = Ended(command.spawn().expect("started"));
        Some((client, self.folder.path().join("leases")))
    }

    /// The guest's addresses and routes.
    pub(crate) fn state(&mut self) -> String {
        let mut state = String::new();
        for line in [
            "ip address show dev eth0",
            "ip route",
            "ip -6 route",
            "ip neigh",
        ] {
            state += &self.run(line).expect("ip").1;
        }
        state
    }
}

/// The guest's namespace.
pub(crate) struct Guest(String);

impl Guest {
    fn new(name: String) -> Self {
        let added = Command::new("ip").args(["netns", "add", &name]).status();
        assert!(added.is_ok_and(|status| status.success()), "{name}");
        Self(name)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// A program that ends with the test.
pub(crate) struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the guest's udhcpc is given, and how it is asked for.
pub(crate) fn udhcpc(link: &Link, more: &str) -> String {
    const SCRIPT: &str = r#"#!/bin/sh
[ "$1" = bound ] && set | grep -E '^(ip|mask|router|dns|mtu|lease|staticroutes|hostname|domain|search|serverid|broadcast)='
true
"#;
    let script = link.folder.path().join("script");
    fs::write(&script, SCRIPT).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, mode).expect("executable");
    let ask = "busybox udhcpc -f -q -n -i eth0 -t 5 -T 2 -O search -O staticroutes -O mtu -s FOLDER/script";
    format!("{ask} {more}")
}

/// Starts dnsmasq behind the relays; `None` without it.
pub(crate) fn dnsmasq(link: &Link) -> Option<Ended> {
    let known = Command::new("sh")
        .args(["-c", "command -v dnsmasq"])
        .output();
    if !known.is_ok_and(|output| output.status.success()) {
        eprintln!("left out: dnsmasq is not there");
        return None;
    }
    let arguments = "dnsmasq --keep-in-foreground --port=0 --conf-file=/dev/null --user=root --pid-file= \
        --interface=eth0 --bind-interfaces --dhcp-authoritative --dhcp-leasefile=FOLDER/dnsmasq \
        --dhcp-range=10.1.0.100,10.1.0.200,255.255.255.0,1h --dhcp-circuitid=set:here,one-port \
        --dhcp-option=tag:here,option:domain-name,here.example \
        --dhcp-range=fd00:1::100,fd00:1::1ff,64,1h";
    let arguments = arguments.replace("FOLDER", &link.folder.path().display().to_string());
    let (_, server) = link.server.as_ref()?;
    let mut dnsmasq = Command::new("ip");
    dnsmasq.args(["netns", "exec", &server.0]);
    dnsmasq.args(arguments.split_whitespace());
    Some(Ended(
        dnsmasq.stderr(Stdio::null()).spawn().expect("started"),
    ))
}
