//! A guest that knows nothing boots, is told its address by the switch, and reaches the outside.

use super::{
    lab::{Link, mac_text, port},
    vm::{Guest, Plan, Role, Site, lab, transfer},
};

#[test]
fn a_guest_boots_with_dhcp_and_reaches_the_outside_through_the_router() {
    let Some((mut lab, _turn)) = lab() else {
        return;
    };
    let plan = Plan {
        dhcp: true,
        ..Plan::new("guest", 9, Role::Client)
    };
    lab.member("outside", Link::default());
    let config = format!(
        r#"
[[network]]
name = "lan"
tenant = "lab"
[network.dhcp]
mode = "fixed"
dns = ["198.51.100.53"]
mtu = 1400
[[network]]
name = "uplink"
tenant = "lab"
{}{}
[[vnic]]
name = "guest"
vm = "web-1"
port = "guest"
mac = "{}"
ipv4 = ["10.0.0.77"]
outbound = {{ default = "allow_stateful" }}
[[router]]
name = "edge"
tenant = "lab"
[[router.interface]]
network = "lan"
addresses = ["10.0.0.1/24"]
[[router.interface]]
network = "uplink"
addresses = ["192.0.2.1/24"]
clamp_mss = true
[[router.route]]
to = "0.0.0.0/0"
via = "192.0.2.254"
"#,
        plan.port(&lab),
        port("outside", "network = \"uplink\""),
        mac_text(plan.number),
    );
    lab.start(&config);
    // The outside's router, and a host behind it.
    lab.sh(
        "outside",
        "ip addr add 192.0.2.254/24 dev eth0 && ip addr add 198.51.100.1/32 dev lo &&
         ip route add 10.0.0.0/24 via 192.0.2.1",
    );
    let guests = Guest::start_all(&lab, &[plan]);
    let guest = &guests[0];
    let said = guest.run("ip addr show dev eth0; ip route; cat /tmp/resolv.conf; hostname");
    for told in [
        "inet 10.0.0.77/24",
        "mtu 1400",
        "default via 10.0.0.1",
        "nameserver 198.51.100.53",
        "web-1",
    ] {
        assert!(said.contains(told), "{told}: {said}");
    }
    guest.ping("10.0.0.1", 56, 3);
    guest.ping("198.51.100.1", 1372, 5);
    let (inside, outside) = (Site::Guest(guest), Site::Member(&lab, "outside"));
    transfer(&inside, &outside, "198.51.100.1", 2 << 10);
    // Nobody outside may begin a connection: the guest's rules deny what it did not ask for.
    let ping = lab.at("outside", "ping -n -c 1 -W 1 10.0.0.77").output();
    assert!(!ping.expect("ping").status.success());
    assert!(lab.dropped("guest", "acl_in") > 0);
    lab.check_conservation();
}
