//! Routers and the services of networks, as programs that nobody here wrote meet them: `ping`,
//! `traceroute`, `tracepath`, `arping`, `iperf3`, DHCP clients, the kernel's own stacks.

use std::process::Command;

use vswitch::api::types;

use super::{
    lab::{Lab, Link, Task, mac_text, ok, port},
    netns::eventually,
};

/// Two networks, joined by a router that has .1 in each.
const NETWORKS: &str = r#"
[[network]]
name = "blue"
tenant = "lab"
[[network]]
name = "red"
tenant = "lab"
"#;

const ROUTER: &str = r#"
[[router]]
name = "r1"
tenant = "lab"
[[router.interface]]
network = "blue"
addresses = ["10.1.0.1/24", "fd01::1/64"]
[[router.interface]]
network = "red"
addresses = ["10.2.0.1/24", "fd02::1/64"]
"#;

/// Gives a member an address and a default gateway of each family.
fn settle(lab: &Lab, member: &str, v4: &str, v6: &str) {
    lab.sh(
        member,
        &format!(
            "cd /proc/sys/net/ipv6/conf/eth0 && echo 0 > accept_ra && echo 0 > disable_ipv6 &&
             ip addr add {v4}.5/24 dev eth0 && ip route add default via {v4}.1 &&
             ip -6 addr add {v6}::5/64 dev eth0 nodad && ip -6 route add default via {v6}::1"
        ),
    );
}

/// A member in each network; the switch runs with `more` added to the configuration.
fn two_networks(more: &str) -> Option<Lab> {
    let mut lab = Lab::new()?;
    let mut config = format!("{NETWORKS}{more}");
    for name in ["blue", "red"] {
        lab.member(name, Link::default());
        config += &port(name, &format!("network = \"{name}\""));
    }
    lab.start(&config);
    settle(&lab, "blue", "10.1.0", "fd01");
    settle(&lab, "red", "10.2.0", "fd02");
    Some(lab)
}

fn output(command: &mut Command) -> String {
    let output = ok(command);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn hosts_of_two_networks_reach_each_other_and_their_gateways() {
    let Some(lab) = two_networks(ROUTER) else {
        return;
    };
    for address in ["10.1.0.1", "10.2.0.1", "fd01::1", "fd02::1"] {
        lab.ping("blue", address, 3);
    }
    for address in ["10.2.0.5", "fd02::5"] {
        lab.ping("blue", address, 20);
        let text = output(&mut lab.at("blue", &format!("ping -n -c 1 -W 5 {address}")));
        assert!(text.contains("ttl=63"), "{text}");
    }
    // Echoes that are cut on their way, and those that their sender cuts for the gateway.
    for address in ["10.2.0.5", "fd02::5", "10.1.0.1", "fd01::1"] {
        lab.ping("blue", &format!("-s 4000 {address}"), 3);
    }
    let report = lab.iperf3("blue", "red", "--client 10.2.0.5 --bytes 5000000");
    let sent = report["end"]["sum_sent"]["bytes"].as_u64();
    assert!(sent.is_some_and(|bytes| bytes >= 5_000_000), "{report}");
    lab.iperf3("blue", "red", "-6 --client fd02::5 --bytes 2M");
    lab.check_conservation();
}

/// What docs/networking.md explains, as it stands in the file.
#[test]
fn the_example_routes_between_its_networks_and_to_the_outside() {
    let Some(mut lab) = Lab::new() else {
        return;
    };
    for name in ["web-1", "db-1", "uplink"] {
        lab.member(name, Link::default());
    }
    lab.start(include_str!("../../../examples/networking.toml"));
    settle(&lab, "web-1", "10.1.0", "fd01");
    settle(&lab, "db-1", "10.2.0", "fd02");
    lab.sh(
        "uplink",
        "ip addr add 192.0.2.254/24 dev eth0 && ip addr add 203.0.113.1/32 dev lo &&
         ip route add 10.0.0.0/8 via 192.0.2.1",
    );
    for target in ["10.2.0.5", "fd02::5", "203.0.113.1"] {
        lab.ping("web-1", target, 3);
    }
    // Rules of the database let in what is for its own port.
    let connect = |port| {
        let command = format!("busybox nc -w 1 10.2.0.5 {port}");
        let mut command = lab.at("web-1", &command);
        command.stdin(std::process::Stdio::null());
        command.output().expect("busybox").status.success()
    };
    for (port, well) in [(5432, true), (5433, false)] {
        let serve = format!("busybox nc -l -p {port}");
        let mut serve = lab.at("db-1", &serve);
        serve.stdin(std::process::Stdio::null());
        let _server = Task::spawn(&mut serve);
        let open = format!(":{port} ");
        eventually("the server listens", || {
            output(&mut lab.at("db-1", "ss -Hlnt"))
                .contains(&open)
                .then_some(())
        });
        assert_eq!(connect(port), well, "port {port}");
    }
    let denied = ["web-1", "db-1"].map(|port| lab.dropped(port, "acl_in"));
    assert!(denied.iter().sum::<u64>() > 0);
    lab.check_conservation();
}

#[test]
fn traceroute_and_tracepath_see_the_router_and_the_narrow_network_behind_it() {
    let narrow = ROUTER.replace(
        "addresses = [\"10.2.0.1/24\", \"fd02::1/64\"]",
        "addresses = [\"10.2.0.1/24\", \"fd02::1/64\"]\nmtu = 1300",
    );
    let Some(lab) = two_networks(&narrow) else {
        return;
    };
    for (target, gateway) in [("10.2.0.5", "10.1.0.1"), ("fd02::5", "fd01::1")] {
        lab.ping("blue", target, 1);
        for method in ["", "-I"] {
            // Hosts say "port unreachable" once a second at most.
            let words = format!("traceroute -n -N 1 -q 2 -z 1.1 -w 3 {method} {target}");
            let text = output(&mut lab.at("blue", &words));
            let hops: Vec<_> = text.lines().skip(1).collect();
            assert_eq!(hops.len(), 2, "{text}");
            assert!(hops[0].contains(gateway), "{text}");
            assert!(hops[1].contains(target), "{text}");
        }
        let text = output(&mut lab.at("blue", &format!("tracepath -n {target}")));
        assert!(text.contains("pmtu 1300"), "{text}");
        // TCP finds its way through by the router's errors.
        let six = if target.contains(':') { "-6" } else { "" };
        lab.iperf3(
            "blue",
            "red",
            &format!("{six} --client {target} --bytes 2M"),
        );
    }
    lab.check_conservation();
}

#[test]
fn a_gateway_answers_arp_and_who_claims_its_address_is_reported() {
    let Some(lab) = two_networks(ROUTER) else {
        return;
    };
    let text = output(&mut lab.at("blue", "arping -c 2 -w 10 -I eth0 10.1.0.1"));
    assert!(text.contains("Received 2 response"), "{text}");
    // Somebody else would like to be the gateway.
    lab.sh(
        "blue",
        "ip addr add 10.1.0.1/24 dev eth0 && arping -U -c 1 -I eth0 -s 10.1.0.1 10.1.0.1 || true",
    );
    eventually("the conflict is logged", || {
        let log = lab.log();
        let told = log.contains("two claim one address") && log.contains("10.1.0.1");
        told.then_some(())
    });
    lab.check_conservation();
}

#[test]
fn an_address_that_nobody_has_is_told_as_unreachable_and_waits_are_bounded() {
    let Some(lab) = two_networks(ROUTER) else {
        return;
    };
    let output = lab
        .at("blue", "ping -n -c 2 -i 0.2 -W 8 10.2.0.99")
        .output()
        .expect("ping");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("Destination Host Unreachable"), "{text}");
    let unresolved = eventually("the frames are dropped by name", || {
        let stats: types::Stats = lab.get("/v1/stats");
        let blue = stats.ports.into_iter().find(|port| port.name == "blue")?;
        blue.counts.drops.get("neighbor_unresolved").copied()
    });
    assert!(unresolved >= 1);
    // A scan of the network keeps nobody from its answer.
    lab.sh(
        "blue",
        "for i in $(seq 100 250); do ping -n -c 1 -W 0.01 10.2.0.$i >/dev/null & done; wait; true",
    );
    lab.ping("blue", "10.2.0.5", 3);
    lab.check_conservation();
}

#[test]
fn udhcpc_gets_the_address_that_the_vnic_has() {
    let Some(mut lab) = Lab::new() else {
        return;
    };
    let mut config = format!("{NETWORKS}{ROUTER}");
    config = config.replacen(
        "name = \"blue\"\ntenant = \"lab\"\n",
        "name = \"blue\"\ntenant = \"lab\"\n[network.dhcp]\nmode = \"fixed\"\ndns = [\"10.1.0.53\"]\n",
        1,
    );
    for name in ["blue", "red"] {
        lab.member(name, Link::default());
        config += &port(name, &format!("network = \"{name}\""));
    }
    let mac = mac_text(lab.number("blue"));
    let vnic = format!(
        "[[vnic]]\nname = \"blue\"\nvm = \"vm-blue\"\nport = \"blue\"\nmac = \"{mac}\"\n\
         ipv4 = [\"10.1.0.77\"]\ninbound = {{ default = \"allow\" }}\n"
    );
    config += &vnic;
    lab.start(&config);
    settle(&lab, "red", "10.2.0", "fd02");
    let script = lab.path("udhcpc.sh");
    std::fs::write(
        &script,
        "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\n\
         ip addr add $ip/$mask dev $interface && ip route add default via $router\n\
         echo \"$ip $mask $router $dns $hostname\"\n",
    )
    .expect("write a script");
    lab.sh("blue", &format!("chmod +x {}", script.display()));
    let words = format!(
        "busybox udhcpc -f -q -n -t 5 -i eth0 -s {}",
        script.display()
    );
    let text = output(&mut lab.at("blue", &words));
    assert!(text.contains("10.1.0.77"), "{text}");
    lab.ping("blue", "10.2.0.5", 3);
    lab.check_conservation();
}

/// Two routers with a narrow network between them; `narrow` is what the interfaces there say.
fn two_routers(narrow: &str) -> String {
    let router = |name: &str, [own4, own6]: [&str; 2], n: u8, [far4, far6]: [&str; 2], peer: u8| {
        let network = if n == 1 { "blue" } else { "red" };
        format!(
            "[[router]]\nname = \"{name}\"\ntenant = \"lab\"\n\
             [[router.interface]]\nnetwork = \"{network}\"\naddresses = [\"{own4}\", \"{own6}\"]\n\
             [[router.interface]]\nnetwork = \"between\"\n{narrow}\n\
             addresses = [\"10.3.0.{n}/24\", \"fd03::{n}/64\"]\n\
             [[router.route]]\nto = \"{far4}\"\nvia = \"10.3.0.{peer}\"\n\
             [[router.route]]\nto = \"{far6}\"\nvia = \"fd03::{peer}\"\n"
        )
    };
    let (blue, red) = (["10.1.0.1/24", "fd01::1/64"], ["10.2.0.1/24", "fd02::1/64"]);
    let (to_blue, to_red) = (["10.1.0.0/24", "fd01::/64"], ["10.2.0.0/24", "fd02::/64"]);
    format!(
        "[[network]]\nname = \"between\"\ntenant = \"lab\"\n{}{}",
        router("r1", blue, 1, to_red, 2),
        router("r2", red, 2, to_blue, 1)
    )
}

/// TCP both ways between two members, in both families.
fn tcp_both_ways(lab: &Lab) {
    for (family, target) in [("", "10.2.0.5"), ("-6", "fd02::5")] {
        lab.ping("blue", target, 1);
        for reverse in ["", "-R"] {
            let words = format!("{family} --client {target} --bytes 4M {reverse}");
            let report = lab.iperf3("blue", "red", &words);
            // What is under way when the client ends is not counted.
            let received = report["end"]["sum_received"]["bytes"].as_u64();
            assert!(received.is_some_and(|bytes| bytes >= 1 << 18), "{report}");
        }
    }
}

fn too_big(lab: &Lab) -> u64 {
    lab.dropped("blue", "packet_too_big") + lab.dropped("red", "packet_too_big")
}

#[test]
fn tcp_finds_its_way_through_a_narrow_network_between_two_routers() {
    let Some(lab) = two_networks(&two_routers("mtu = 1300")) else {
        return;
    };
    tcp_both_ways(&lab);
    // The sender was told by its router, in each family, and has remembered it.
    assert!(lab.dropped("blue", "packet_too_big") > 0);
    for target in ["10.2.0.5", "fd02::5"] {
        let text = output(&mut lab.at("blue", &format!("ip route get {target}")));
        assert!(text.contains("mtu 1300"), "{text}");
    }
    lab.check_conservation();
}

#[test]
fn with_clamping_tcp_needs_no_error_that_somebody_may_block() {
    let Some(lab) = two_networks(&two_routers("mtu = 1300\nclamp_mss = true")) else {
        return;
    };
    // Hosts that hear of no ICMP error whatever.
    for member in ["blue", "red"] {
        lab.sh(
            member,
            "nft add table inet deaf &&
             nft 'add chain inet deaf in { type filter hook input priority 0; }' &&
             nft add rule inet deaf in icmp type destination-unreachable drop &&
             nft add rule inet deaf in icmpv6 type packet-too-big drop",
        );
    }
    tcp_both_ways(&lab);
    assert_eq!(too_big(&lab), 0, "no segment was too long");
    // What is no TCP is not clamped, and nobody hears why it is lost.
    let ping = lab
        .at("blue", "ping -n -c 1 -W 1 -M do -s 1400 10.2.0.5")
        .output();
    assert!(!ping.expect("ping").status.success());
    assert_eq!(too_big(&lab), 1);
    lab.check_conservation();
}
