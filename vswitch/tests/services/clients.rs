//! Clients that nobody here wrote, on a link with nothing but the services: busybox' udhcpc, ISC dhclient,
//! dhcpcd, arping, rdisc6, and the kernel's own IPv6; dnsmasq behind the relay. Needs root; a program that is not
//! there is left out.

use std::{fs, net::Ipv4Addr, sync::Arc};

use vswitch::services::plan::{Lease4, Mode4, Mode6, Relay4, Relay6};

use crate::{
    bed::*,
    link::{Link, dnsmasq, udhcpc},
};

#[test]
fn relays_lead_to_dnsmasq() {
    let mut plan = a_plan();
    plan.vnics[0].dhcp4.mode = Mode4::Relay(Relay4 {
        // The first is not there.
        servers: vec![Ipv4Addr::new(192, 0, 2, 9), Ipv4Addr::new(192, 0, 2, 1)],
        timeout_ms: 500,
        max_hops: 4,
        fallback: false,
    });
    plan.vnics[0].dhcp6.mode = Mode6::Relay(Relay6 {
        link: GATEWAY6,
        servers: vec!["fd00:9::1".parse().expect("valid")],
    });
    let Some(mut link) = Link::new(plan) else {
        return;
    };
    link.add_server();
    let Some(_dnsmasq) = dnsmasq(&link) else {
        return;
    };
    let ask = udhcpc(&link, "");
    if let Some((well, text)) = link.run(&ask) {
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
    // The client does not wait for its link-local address to be probed.
    link.run("sysctl -qw net.ipv6.conf.eth0.accept_dad=0");
    link.run("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0");
    if let Some((_dhclient, leases)) = link.dhclient("-6") {
        let text = link.serve("a lease", || {
            fs::read_to_string(&leases)
                .ok()
                .filter(|text| text.contains("iaaddr fd00:1::1"))
        });
        assert!(!text.contains("iaaddr fd00:1::1 "), "not its own: {text}");
    }
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
    let Some((_dhclient, leases)) = link.dhclient("-4") else {
        return;
    };
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
    if let Some((_dhclient, leases)) = link.dhclient("-6") {
        let text = link.serve("a lease", || {
            let text = fs::read_to_string(&leases).ok();
            text.filter(|text| text.contains("iaaddr fd00:1::1 {"))
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
fn dhcpcd_takes_what_the_router_says_and_its_own_address() {
    let mut plan = a_plan();
    plan.networks[0].advertisements = Some(advertisements());
    let Some(mut link) = Link::new(plan) else {
        return;
    };
    if link.run("dhcpcd --version").is_none() {
        return;
    }
    // It keeps its leases and sockets by the interface's name, which is no other's in these mounts.
    let script = "mount -t tmpfs none /var/lib/dhcpcd && mount -t tmpfs none /run &&
        exec dhcpcd -6 --oneshot --persistent --timeout 20 --config /dev/null --script /bin/true eth0";
    fs::write(link.path("dhcpcd"), script).expect("written");
    link.run("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0");
    let (well, text) = link.run("sh FOLDER/dhcpcd").expect("sh");
    let state = link.state();
    assert!(well && state.contains("inet6 fd00:1::1/"), "{text}{state}");
    assert!(
        state.contains("default via fe80::ff:fe00:fe dev eth0"),
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
