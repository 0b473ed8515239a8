//! Policy holds for real guests: who may begin, and who one says one is.

use super::{
    lab::mac_text,
    vm::{Guest, Plan, Role, config, lab},
};
use vswitch::api::types;

/// A vNIC with the addresses of a plan.
fn vnic(name: &str, number: u8, inbound: &str) -> String {
    format!(
        "[[vnic]]\nname = \"{name}\"\nvm = \"vm-{name}\"\nport = \"{name}\"\nmac = \"{}\"\n\
         ipv4 = [\"10.0.0.{number}\"]\nipv6 = [\"fd00::{number}\"]\ninbound = {inbound}\n",
        mac_text(number)
    )
}

/// `b` may ask and be answered, and may not be asked.
const ACL: &str = r#"
[[acl]]
name = "answers"
rules = [
    { action = "deny", protocol = "icmp", icmp_type = 8 },
    { action = "allow", protocol = "icmp" },
    { action = "allow", protocol = "icmpv6" },
]
"#;

#[test]
fn a_guest_is_held_to_its_policy_and_its_addresses() {
    let Some((mut lab, _turn)) = lab() else {
        return;
    };
    let plans = [
        Plan::new("a", 1, Role::Client),
        Plan::new("b", 2, Role::Server),
    ];
    let policy =
        vnic("a", 1, "{ default = \"allow\" }") + &vnic("b", 2, "{ acl = \"answers\" }") + ACL;
    lab.start(&config(&lab, &plans, &policy));
    let guests = Guest::start_all(&lab, &plans);
    let [a, b] = &guests[..] else { panic!("two") };

    // Nothing that a guest sends by itself is taken for another's.
    b.ping("10.0.0.1", 56, 5);
    b.ping("fd00::1", 56, 5);
    let drops: Vec<types::Drop> = lab.get("/v1/drops");
    let spoofed = drops.iter().find(|row| row.reason.starts_with("spoofed"));
    assert!(spoofed.is_none(), "{drops:?}");

    assert!(!a.reaches("10.0.0.2"), "denied by the first rule");
    let drops: Vec<types::Drop> = lab.get("/v1/drops");
    let denied = drops.iter().find(|row| row.reason == "acl_in");
    let denied = denied.unwrap_or_else(|| panic!("{drops:?}"));
    assert_eq!(denied.vm.as_deref(), Some("vm-b"));
    assert_eq!(denied.rule.as_ref().expect("a rule").position, 1);

    // Another's IPv4 address, then another's Ethernet address.
    a.run("ip addr add 10.0.0.9/24 dev eth0");
    assert!(
        !a.try_run("ping -c 2 -i 0.2 -W 1 -I 10.0.0.9 10.0.0.2")
            .status
            .success()
    );
    let spoofed = |reason| lab.dropped("a", reason);
    assert!(spoofed("spoofed_ipv4") + spoofed("spoofed_arp") > 0);
    a.run("ip addr del 10.0.0.9/24 dev eth0");
    a.run(&format!(
        "ip link set eth0 down; ip link set eth0 address {}; ip link set eth0 up",
        mac_text(9)
    ));
    assert!(!b.reaches("10.0.0.1"), "its answers are not its own");
    assert!(!a.reaches("10.0.0.77"), "nor its questions");
    assert!(spoofed("spoofed_mac") > 0);
    a.run(&format!(
        "ip link set eth0 down; ip link set eth0 address {}; ip link set eth0 up",
        mac_text(1)
    ));
    b.ping("10.0.0.1", 56, 3);
    lab.check_conservation();
}
