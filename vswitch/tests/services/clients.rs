//! Clients that nobody here wrote, on a link with nothing but the services: busybox' udhcpc, ISC dhclient,
//! arping, rdisc6, and the kernel's own IPv6; dnsmasq behind the relay. Needs root; a program that is not
//! there is left out.
//!
//! ```text
//!   namespace HOST (the test's thread: services)       namespace HOST-guest
//!     port0 ──────────────────────── veth ──────────────── eth0
//!                                                    namespace HOST-server, where there is one
//!     port1 ──────────────────────── veth ──────────────── eth0
//! ```

use std::{
    fs,
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Instant,
};

use vswitch::services::{
    Destination, Ingress, Output, Services,
    plan::{Lease4, Mode4, Plan, Relay4},
};

use crate::{
    bed::*,
    netns::{Netns, PATIENCE, PacketSocket, is_root},
};

/// The services, a guest, and the DHCP server behind the router, if there is one.
struct Link {
    services: Services,
    socket: PacketSocket,
    server: Option<(PacketSocket, Guest)>,
    began: Instant,
    folder: tempfile::TempDir,
    guest: Guest,
    host: Netns,
}

impl Link {
    /// A guest with the first vNIC's Ethernet address, that sends nothing by itself.
    fn new(plan: Plan) -> Option<Self> {
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

    /// Adds the server's namespace: it has 192.0.2.1, and the gateway leads to the guest's network.
    fn add_server(&mut self) {
        let server = Guest::new(format!("{}-server", self.host.name()));
        self.host.veth("port1", "eth0", 1500, 1);
        self.host
            .ip(&format!("link set eth0 address {STRANGER_MAC}"));
        self.host.ip(&format!("link set eth0 netns {}", server.0));
        for arguments in [
            "link set lo up",
            "link set eth0 up",
            "address add 192.0.2.1/24 dev eth0",
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

    fn command(&self, line: &str) -> Command {
        let line = line.replace("FOLDER", &self.folder.path().display().to_string());
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.guest.0]);
        command.args(line.split_whitespace());
        command
    }

    /// Serves until `done` gives something.
    fn serve<T>(&mut self, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
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
    fn run(&mut self, line: &str) -> Option<(bool, String)> {
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

    /// The guest's addresses and routes.
    fn state(&mut self) -> String {
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
struct Guest(String);

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
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the guest's udhcpc is given, and how it is asked for.
fn udhcpc(link: &Link, more: &str) -> String {
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

#[test]
fn a_relay_leads_to_dnsmasq() {
    let mut plan = a_plan();
    plan.vnics[0].dhcp4.mode = Mode4::Relay(Relay4 {
        // The first is not there.
        servers: vec![Ipv4Addr::new(192, 0, 2, 9), Ipv4Addr::new(192, 0, 2, 1)],
        timeout_ms: 500,
        max_hops: 4,
        fallback: false,
    });
    let known = Command::new("sh")
        .args(["-c", "command -v dnsmasq"])
        .output();
    if !known.is_ok_and(|output| output.status.success()) {
        eprintln!("left out: dnsmasq is not there");
        return;
    }
    let Some(mut link) = Link::new(plan) else {
        return;
    };
    link.add_server();
    let server = link.server.as_ref().map(|(_, server)| server.0.clone());
    let arguments = "dnsmasq --keep-in-foreground --port=0 --conf-file=/dev/null --user=root --pid-file= \
        --interface=eth0 --bind-interfaces --dhcp-authoritative --dhcp-leasefile=FOLDER/dnsmasq \
        --dhcp-range=10.1.0.100,10.1.0.200,255.255.255.0,1h --dhcp-circuitid=set:here,one-port \
        --dhcp-option=tag:here,option:domain-name,here.example";
    let arguments = arguments.replace("FOLDER", &link.folder.path().display().to_string());
    let mut dnsmasq = Command::new("ip");
    dnsmasq.args(["netns", "exec", &server.expect("added")]);
    dnsmasq.args(arguments.split_whitespace());
    let _dnsmasq = Ended(dnsmasq.stderr(Stdio::null()).spawn().expect("started"));
    let ask = udhcpc(&link, "");
    let Some((well, text)) = link.run(&ask) else {
        return;
    };
    // By the second server, the subnet by giaddr, the domain by the circuit-id.
    assert!(well, "{text}");
    for expected in [
        "ip='10.1.0.1",
        "serverid='192.0.2.1'",
        "domain='here.example'",
        "mask='24'",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(!text.contains("ip='10.1.0.1'"), "not its own: {text}");
}

#[test]
fn udhcpc_gets_its_lease() {
    let Some(mut link) = Link::new(a_plan()) else {
        return;
    };
    let ask = udhcpc(&link, "");
    let Some((well, text)) = link.run(&ask) else {
        return;
    };
    assert!(well, "{text}");
    for expected in [
        "ip='10.1.0.1'",
        "mask='24'",
        "router='10.1.0.254'",
        "dns='10.1.0.53 10.1.0.54'",
        "mtu='1450'",
        "lease='3600'",
        "staticroutes='10.9.0.0/17 10.1.0.9 0.0.0.0/0 10.1.0.254'",
        "hostname='vm-1'",
        "search='blue.example example'",
        "broadcast='10.1.0.255'",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    // Another address than its own is refused, and the client begins anew.
    let (well, text) = link
        .run(&udhcpc(&link, "-r 10.1.0.77"))
        .expect("it is there");
    assert!(well && text.contains("ip='10.1.0.1'"), "{text}");
}

#[test]
fn dhclient_gets_its_lease() {
    let Some(mut link) = Link::new(a_plan()) else {
        return;
    };
    let ask = "dhclient -1 -v -d -lf FOLDER/leases -pf FOLDER/pid -sf /bin/true -cf /dev/null eth0";
    let known = Command::new("sh")
        .args(["-c", "command -v dhclient"])
        .output();
    if !known.is_ok_and(|output| output.status.success()) {
        eprintln!("left out: dhclient is not there");
        return;
    }
    let child = link
        .command(ask)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _child = Ended(child.expect("started"));
    let leases = link.folder.path().join("leases");
    let text = link.serve("a lease", || {
        fs::read_to_string(&leases)
            .ok()
            .filter(|text| text.contains("expire"))
    });
    for expected in [
        "fixed-address 10.1.0.1;",
        "option subnet-mask 255.255.255.0;",
        "option routers 10.1.0.254;",
        "option domain-name-servers 10.1.0.53,10.1.0.54;",
        "option dhcp-server-identifier 10.1.0.254;",
        "option domain-name \"blue.example\";",
        "option host-name \"vm-1\";",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn the_kernel_takes_its_router_and_dhclient_its_address() {
    let mut plan = a_plan();
    plan.networks[0].advertisements = Some(advertisements());
    let Some(mut link) = Link::new(plan) else {
        return;
    };
    link.run("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0");
    let mut state = String::new();
    for _ in 0..100 {
        state = link.state();
        if state.contains("default via fe80::ff:fe00:fe") && !state.contains("tentative") {
            break;
        }
    }
    for expected in [
        "default via fe80::ff:fe00:fe dev eth0 proto ra",
        "fd00:1::/64 dev eth0 proto kernel",
        // Not a duplicate: nobody answered its probe.
        "inet6 fe80::ff:fe00:1/64 scope link",
    ] {
        assert!(state.contains(expected), "{expected}\n{state}");
    }
    assert!(!state.contains("dadfailed"), "{state}");
    if let Some((well, text)) = link.run("rdisc6 -1 eth0") {
        assert!(well, "{text}");
        for expected in [
            "Stateful address conf.    :          Yes",
            "fd00:1::53",
            "blue.example",
            "fd00:1::/64",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }
    let ask =
        "dhclient -6 -1 -v -d -lf FOLDER/leases -pf FOLDER/pid -sf /bin/true -cf /dev/null eth0";
    let known = Command::new("sh")
        .args(["-c", "command -v dhclient"])
        .output();
    if known.is_ok_and(|output| output.status.success()) {
        let child = link
            .command(ask)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let _child = Ended(child.expect("started"));
        let leases = link.folder.path().join("leases");
        let text = link.serve("a lease", || {
            fs::read_to_string(&leases)
                .ok()
                .filter(|text| text.contains("iaaddr fd00:1::1 {"))
        });
        for expected in [
            "preferred-life 1000;",
            "max-life 2000;",
            "option dhcp6.name-servers fd00:1::53;",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }
    // The address by hand is probed, is nobody else's, and the gateway is found.
    link.run("ip address add fd00:1::1/64 dev eth0");
    let (_, text) = link.run("ping -6 -c 1 -W 1 fd00:1::fe").expect("ping");
    let state = link.state();
    assert!(
        state.contains("fd00:1::fe dev eth0 lladdr 02:00:00:00:00:fe router"),
        "{text}{state}"
    );
}

#[test]
fn arping_finds_the_gateway_and_no_duplicate_of_itself() {
    let mut plan = a_plan();
    let lease = Lease4 {
        routes: Vec::new(),
        ..lease()
    };
    plan.vnics[0].dhcp4.lease = Some(Arc::new(lease));
    let Some(mut link) = Link::new(plan) else {
        return;
    };
    link.run("ip address add 10.1.0.1/24 dev eth0");
    for (address, mac) in [(GATEWAY, GATEWAY_MAC), (OTHER_ADDRESS, OTHER_MAC)] {
        let Some((well, text)) = link.run(&format!("arping -c 2 -f -w 5 -I eth0 {address}")) else {
            return;
        };
        let mac = mac.to_string();
        assert!(well && text.to_lowercase().contains(&mac), "{text}");
    }
    // -D: succeeds when nobody else has the address.
    let (own, text) = link
        .run("arping -D -c 2 -w 3 -I eth0 10.1.0.1")
        .expect("it is there");
    assert!(own, "{text}");
    let (taken, text) = link
        .run("arping -D -c 2 -w 3 -I eth0 10.1.0.2")
        .expect("it is there");
    assert!(!taken, "{text}");
}
