//! Routes of VMs in the host's own tables: what `ip route` shows, what the host's stack reaches, and
//! what FRR tells its neighbour.

use std::{fmt::Write, path::Path, process::Command};

use rustix::process::Signal;

use super::{
    lab::{Lab, Link, Task, mac_text, ok, port},
    netns::eventually,
};

/// A handoff network whose router leads to the VM's, and a VM in each.
const NETWORKS: &str = r#"
[[network]]
name = "handoff"
tenant = "lab"
[[network]]
name = "blue"
tenant = "lab"
[[port]]
name = "host"
driver = "tap"
interface = "vswitch0"
network = "handoff"
[host_routes]
port = "host"
addresses = ["10.255.0.1/24", "fd00:ff::1/64"]
[[router]]
name = "edge"
tenant = "lab"
[[router.interface]]
network = "handoff"
addresses = ["10.255.0.254/24", "fd00:ff::fe/64"]
[[router.interface]]
network = "blue"
addresses = ["10.1.0.1/24", "fd01::1/64"]
[[router.route]]
to = "0.0.0.0/0"
via = "10.255.0.1"
[[router.route]]
to = "::/0"
via = "fd00:ff::1"
"#;

/// A lab with member `far` in network blue and member `near` in the handoff network.
fn lab() -> Option<(Lab, String)> {
    let mut lab = Lab::new()?;
    let mut config = NETWORKS.to_owned();
    for (name, network, four, six) in [
        ("far", "blue", "10.1.0.5", "fd01::5"),
        ("near", "handoff", "10.255.0.5", "fd00:ff::5"),
    ] {
        lab.member(name, Link::default());
        let mac = mac_text(lab.number(name));
        config += &port(name, &format!("network = \"{network}\""));
        let _ = write!(
            config,
            "[[vnic]]\nname = \"{name}\"\nvm = \"vm-{name}\"\nport = \"{name}\"\nmac = \"{mac}\"\n\
             ipv4 = [\"{four}\"]\nipv6 = [\"{six}\"]\ninbound = {{ default = \"allow\" }}\n"
        );
    }
    for of in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{of}/disable_ipv6");
        std::fs::write(path, "0").expect("IPv6 for the host");
    }
    lab.host.ip("link set lo up");
    lab.start(&config);
    settle(
        &lab,
        "far",
        ["10.1.0.5", "fd01::5"],
        ["10.1.0.1", "fd01::1"],
    );
    settle(
        &lab,
        "near",
        ["10.255.0.5", "fd00:ff::5"],
        ["10.255.0.254", "fd00:ff::fe"],
    );
    Some((lab, config))
}

fn settle(lab: &Lab, member: &str, [four, six]: [&str; 2], [by4, by6]: [&str; 2]) {
    lab.sh(
        member,
        &format!(
            "cd /proc/sys/net/ipv6/conf/eth0 && echo 0 > accept_ra && echo 0 > disable_ipv6 &&
             ip addr add {four}/24 dev eth0 && ip route add default via {by4} &&
             ip -6 addr add {six}/64 dev eth0 nodad && ip -6 route add default via {by6}"
        ),
    );
}

/// The routes of a protocol number, in both families.
fn routes(lab: &Lab) -> String {
    let four = lab.host.ip_output("-4 route show proto 118");
    four + &lab.host.ip_output("-6 route show proto 118")
}

fn await_routes(lab: &Lab, what: &str, wanted: impl Fn(&str) -> bool) -> String {
    eventually(what, || {
        let shown = routes(lab);
        wanted(&shown).then_some(shown)
    })
}

fn ping(address: &str) {
    eventually("an answer to the host", || {
        let mut ping = Command::new("ping");
        let ping = ping.args(["-n", "-q", "-c", "1", "-W", "1", address]);
        ping.output().expect("ping").status.success().then_some(())
    });
}

#[test]
fn the_host_has_a_route_to_every_vm_that_is_up_and_reaches_it() {
    let Some((lab, config)) = lab() else { return };
    let all = await_routes(&lab, "four routes", |shown| shown.lines().count() == 4);
    for route in [
        "10.1.0.5 via 10.255.0.254 dev vswitch0 metric 100 onlink",
        "10.255.0.5 dev vswitch0 scope link metric 100",
        "fd01::5 via fd00:ff::fe dev vswitch0 metric 100 onlink",
        "fd00:ff::5 dev vswitch0 metric 100",
    ] {
        assert!(all.contains(route), "{route} in:\n{all}");
    }
    for address in ["10.1.0.5", "10.255.0.5", "fd01::5", "fd00:ff::5"] {
        ping(address);
    }
    // A VM that goes takes its routes along, and brings them when it is back.
    lab.host.ip("link del far");
    await_routes(&lab, "the routes of one VM", |shown| {
        shown.lines().count() == 2 && !shown.contains("10.1.0.5")
    });
    lab.connect("far", Link::default());
    settle(
        &lab,
        "far",
        ["10.1.0.5", "fd01::5"],
        ["10.1.0.1", "fd01::1"],
    );
    await_routes(&lab, "all again", |shown| shown.lines().count() == 4);
    ping("10.1.0.5");
    // What somebody takes away is put back with the next change, and other settings are followed.
    lab.host.ip("route del 10.255.0.5 proto 118");
    lab.apply(&config.replace(
        "port = \"host\"\naddresses",
        "port = \"host\"\nmetric = 7\ntable = 1000\nnetworks = [\"blue\"]\naddresses",
    ));
    await_routes(&lab, "none in the main table", str::is_empty);
    let other = lab.host.ip_output("route show table 1000 proto 118");
    assert!(other.contains("10.1.0.5 via 10.255.0.254"), "{other}");
    assert!(
        other.contains("metric 7") && other.lines().count() == 1,
        "{other}"
    );
    lab.check_conservation();
}

#[test]
fn what_a_killed_switch_left_is_gone_after_the_next_start_and_nothing_after_its_end() {
    let Some((mut lab, _)) = lab() else { return };
    await_routes(&lab, "four routes", |shown| shown.lines().count() == 4);
    lab.end(Signal::KILL);
    // The kernel takes those away that led through the interface; these are as good as left.
    lab.host.ip("route add blackhole 203.0.113.9/32 proto 118");
    lab.host
        .ip("route add 203.0.113.10/32 dev lo proto 118 metric 9");
    lab.host.ip("-6 route add fd09::9/128 dev lo proto 118");
    lab.host
        .ip("route add 203.0.113.11/32 dev lo table 77 proto 118");
    lab.host.ip("route add 198.51.100.0/24 dev lo proto static");
    lab.start_again();
    let shown = await_routes(&lab, "the VMs' routes alone", |shown| {
        shown.lines().count() == 4 && !shown.contains("203.0.113") && !shown.contains("fd09")
    });
    assert!(shown.contains("10.1.0.5"), "{shown}");
    let tables = lab.host.ip_output("route show table all proto 118");
    assert!(!tables.contains("203.0.113.11"), "{tables}");
    lab.end(Signal::TERM);
    assert_eq!(routes(&lab), "");
    let others = lab.host.ip_output("route show proto static");
    assert!(others.contains("198.51.100.0/24"), "{others}");
}

/// FRR's programs of one router, which end with the test.
struct Frr(#[allow(dead_code, reason = "held until the test ends")] Vec<Task>);

impl Frr {
    /// Starts zebra and ospfd in the namespace that `within` names, or in that of the thread.
    fn start(folder: &Path, within: Option<&str>, config: &str) -> Self {
        // They give up root, and write here as a user of their own.
        std::fs::create_dir_all(folder).expect("a folder");
        ok(Command::new("chmod").arg("755").args(folder.parent()));
        ok(Command::new("chown").arg("frr:").arg(folder));
        let daemon = |name: &str, config: &str| {
            let file = folder.join(format!("{name}.conf"));
            std::fs::write(&file, config).expect("a configuration");
            let program = format!("/usr/lib/frr/{name}");
            let mut command = match within {
                Some(netns) => {
                    let mut ip = Command::new("ip");
                    ip.args(["netns", "exec", netns, &program]);
                    ip
                }
                None => Command::new(program),
            };
            command.args(["-P", "0", "-f"]);
            command
                .arg(&file)
                .arg("-i")
                .arg(folder.join(format!("{name}.pid")));
            command.arg("--vty_socket").arg(folder);
            command.arg("-z").arg(folder.join("zserv.api"));
            command.arg("--log").arg("stdout");
            let log = std::fs::File::create(folder.join(format!("{name}.log")));
            command.stdout(log.expect("a log"));
            Task::spawn(&mut command)
        };
        let zebra = daemon("zebra", "hostname r\n");
        eventually("zebra listens", || {
            folder.join("zserv.api").exists().then_some(())
        });
        Self(vec![zebra, daemon("ospfd", config)])
    }
}

/// OSPF on one link, with neighbours that are missed after four seconds.
fn ospf(interface: &str, number: u8, more: &str) -> String {
    format!(
        "interface {interface}\n ip ospf area 0\n ip ospf network point-to-point\n \
         ip ospf hello-interval 1\n ip ospf dead-interval 4\n\
         router ospf\n ospf router-id 192.0.2.{number}\n timers throttle spf 0 50 100\n{more}"
    )
}

#[test]
fn a_routing_daemon_advertises_a_vm_and_withdraws_it() {
    if !Path::new("/usr/lib/frr/ospfd").exists() {
        println!("skipped: FRR is not installed (scripts/setup)");
        return;
    }
    let Some((mut lab, _)) = lab() else { return };
    lab.member("peer", Link::default());
    lab.host.ip("addr add 192.0.2.1/30 dev peer");
    lab.sh("peer", "ip addr add 192.0.2.2/30 dev eth0");
    let folder = tempfile::tempdir().expect("a folder");
    let own = ospf("peer", 1, " redistribute kernel\n");
    let _here = Frr::start(&folder.path().join("here"), None, &own);
    let netns = lab.netns_of("peer");
    let peer = ospf("eth0", 2, "");
    let _there = Frr::start(&folder.path().join("there"), Some(&netns), &peer);
    let learned = || {
        let shown = ok(&mut lab.at("peer", "ip -4 route show proto ospf"));
        String::from_utf8_lossy(&shown.stdout).into_owned()
    };
    let await_learned = |what: &str, wanted: &dyn Fn(&str) -> bool| {
        eventually(what, || {
            let shown = learned();
            wanted(&shown).then_some(shown)
        })
    };
    let shown = await_learned("the neighbour learns both VMs", &|shown| {
        shown.contains("10.1.0.5 ") && shown.contains("10.255.0.5 ")
    });
    assert!(shown.contains("via 192.0.2.1"), "{shown}");
    // By the route that it learned it reaches the VM.
    lab.host.ip("link set lo up");
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
    lab.ping("peer", "10.1.0.5", 3);
    lab.host.ip("link del far");
    await_learned("the neighbour loses the VM that went", &|shown| {
        !shown.contains("10.1.0.5 ") && shown.contains("10.255.0.5 ")
    });
    lab.connect("far", Link::default());
    await_learned("and learns it again", &|shown| shown.contains("10.1.0.5 "));
}
