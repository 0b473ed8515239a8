//! What a vNIC may not send or receive does not pass, and the counters say why.

use super::{
    frames::{
        arp_reply, collect, ethernet, ipv4, ipv6, numbered, numbered_udp, udp, udp_number_of,
    },
    lab::{Lab, Link, NETWORK, access_port, mac, mac_text, ok},
    netns::eventually,
};
use vswitch::api::types;

/// fd00::N
fn address6(number: u8) -> [u8; 16] {
    let mut address = [0; 16];
    (address[0], address[15]) = (0xfd, number);
    address
}

/// A vNIC with the addresses of member N.
fn vnic(name: &str, number: u8, more: &str) -> String {
    format!(
        "[[vnic]]\nname = \"{name}\"\nvm = \"vm-{name}\"\nport = \"{name}\"\nmac = \"{}\"\n\
         ipv4 = [\"10.0.0.{number}\"]\nipv6 = [\"fd00::{number}\"]\n{more}\n",
        mac_text(number)
    )
}

/// A neighbour advertisement (RFC 4861 §4.4) that claims `target`.
fn advertisement(src: [u8; 16], target: [u8; 16], hardware: [u8; 6]) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(target);
    message.extend([2, 1]);
    message.extend(hardware);
    // The checksum is over a pseudo-header too (RFC 4443 §2.3).
    let dst = address6(2);
    let mut summed = [src, dst].concat();
    summed.extend([0, 0, 0, message.len() as u8, 0, 0, 0, 58]);
    summed.extend(&message);
    let words = summed
        .chunks(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let mut sum: u32 = words.sum();
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    ipv6(src, dst, 58, &message)
}

#[test]
fn a_vm_speaks_only_for_itself() {
    let Some(lab) = Lab::quiet(&["a", "b"], &vnic("a", 1, "")) else {
        return;
    };
    let [a, b] = ["a", "b"].map(|name| lab.socket(name));
    let datagram = udp(1, 2, &[0; 20]);
    let frame4 = |src: [u8; 4]| {
        let packet = ipv4(src, [10, 0, 0, 2], 17, &datagram);
        ethernet(mac(2), mac(1), [8, 0], &packet)
    };
    let frame6 = |packet: Vec<u8>| ethernet(mac(2), mac(1), [0x86, 0xdd], &packet);
    let arp = |hardware, ip| {
        let packet = arp_reply(hardware, ip, mac(2), [10, 0, 0, 2]);
        ethernet(mac(2), mac(1), [8, 6], &packet)
    };
    let spoofed = [
        ("spoofed_mac", numbered(mac(2), mac(7), 0)),
        ("spoofed_ipv4", frame4([10, 0, 0, 7])),
        (
            "spoofed_ipv6",
            frame6(ipv6(address6(7), address6(2), 17, &datagram)),
        ),
        ("spoofed_arp", arp(mac(1), [10, 0, 0, 7])),
        ("spoofed_arp", arp(mac(7), [10, 0, 0, 1])),
        (
            "spoofed_nd",
            frame6(advertisement(address6(1), address6(7), mac(1))),
        ),
        (
            "spoofed_nd",
            frame6(advertisement(address6(1), address6(1), mac(7))),
        ),
    ];
    let own = [
        numbered(mac(2), mac(1), 1),
        frame4([10, 0, 0, 1]),
        frame6(ipv6(address6(1), address6(2), 17, &datagram)),
        arp(mac(1), [10, 0, 0, 1]),
        frame6(advertisement(address6(1), address6(1), mac(1))),
    ];
    // Twice: by the slow path, and from the cache. What is allowed comes behind what is not, so
    // that all that could arrive has arrived.
    for round in 1..=2 {
        for (_, frame) in &spoofed {
            a.send(frame);
        }
        for frame in &own {
            a.send(frame);
        }
        let arrived = collect(&b, own.len(), |frame| Some(frame.to_vec()));
        assert_eq!(arrived, own);
        for (reason, _) in &spoofed {
            let times = spoofed.iter().filter(|(other, _)| other == reason).count();
            assert_eq!(lab.dropped("a", reason), (round * times) as u64, "{reason}");
        }
    }
    lab.check_conservation();
}

const ACLS: &str = r#"
[[acl]]
name = "in"
rules = [
    { action = "allow", protocol = "udp", dst_ports = ["1000-1999"] },
    { action = "deny", protocol = "udp", dst_ports = ["2000"] },
]
[[acl]]
name = "out"
rules = [{ action = "deny", protocol = "udp", dst_ports = ["1500"] }]
"#;

#[test]
fn a_denied_frame_is_counted_under_its_reason_and_rule() {
    let sender = vnic("a", 1, r#"outbound = { acl = "out" }"#);
    let receiver = vnic("b", 2, r#"inbound = { acl = "in" }"#);
    let Some(lab) = Lab::quiet(&["a", "b"], &(sender + &receiver + ACLS)) else {
        return;
    };
    let [a, b] = ["a", "b"].map(|name| lab.socket(name));
    for number in 0..3 {
        for port in [2000, 1500, 3000, 1000] {
            a.send(&numbered_udp(1, 2, (9, port), number));
        }
    }
    let arrived = collect(&b, 3, udp_number_of);
    assert_eq!(arrived, [(1000, 0), (1000, 1), (1000, 2)]);
    lab.check_conservation();

    let drops: Vec<types::Drop> = lab.get("/v1/drops");
    let row = |port: &str, reason: &str, acl: Option<(&str, u32)>| {
        let found = drops.iter().find(|row| {
            let rule = row.rule.as_ref().map(|rule| (&*rule.acl, rule.position));
            row.port == port && row.reason == reason && rule == acl
        });
        found.unwrap_or_else(|| panic!("no {reason} of {acl:?} at {port}: {drops:?}"))
    };
    let denied = row("b", "acl_in", Some(("in", 2)));
    assert_eq!((denied.frames, denied.vm.as_deref()), (3, Some("vm-b")));
    let rule = denied.rule.as_ref().expect("a rule");
    assert!(rule.text.contains("2000"), "{rule:?}");
    assert!(rule.place.contains("vswitch.toml:"), "{rule:?}");
    let denied = row("a", "acl_out", Some(("out", 1)));
    assert_eq!((denied.frames, denied.vm.as_deref()), (3, Some("vm-a")));
    assert_eq!(row("b", "acl_in", None).frames, 3, "by default");
    assert_eq!(drops.iter().map(|row| row.frames).sum::<u64>(), 9);

    // The command line says the same.
    let shown = lab.cli("show drops");
    assert!(
        shown.contains("acl_in") && shown.contains("2000"),
        "{shown}"
    );
    let json = lab.cli("--json show drops");
    assert_eq!(
        serde_json::from_str::<Vec<types::Drop>>(&json).expect("JSON"),
        drops
    );
    let stats: serde_json::Value = serde_json::from_str(&lab.cli("--json stats")).expect("JSON");
    assert_eq!(stats["ports"][1]["name"], "b");
    assert_eq!(stats["ports"][1]["drops"]["acl_in"], 6);
    assert!(stats["workers"][0]["cycles_per_frame"].as_f64() > Some(0.0));
}

#[test]
fn stacks_with_default_settings_break_no_rule_of_anti_spoofing() {
    let Some(mut lab) = Lab::new() else { return };
    let mut config = NETWORK.to_owned();
    for (number, name) in (1..).zip(["a", "b"]) {
        lab.member(name, Link::default());
        config += &(access_port(name) + &vnic(name, number, "inbound = { acl = \"in\" }"));
    }
    config += "[[acl]]\nname = \"in\"\n";
    for protocol in ["icmp", "icmpv6", "tcp"] {
        config += "[[acl.rule]]\naction = \"allow\"\nprotocol = \"";
        config += protocol;
        config += "\"\n";
    }
    lab.start(&config);
    // Only now, so that duplicate address detection, router solicitations and listener reports
    // meet the policy.
    for (number, name) in (1..).zip(["a", "b"]) {
        lab.sh(
            name,
            &format!(
                "ip link set dev eth0 down
                 echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6
                 ip link set dev eth0 up
                 ip addr add 10.0.0.{number}/24 dev eth0
                 ip -6 addr add fd00::{number}/64 dev eth0"
            ),
        );
    }
    for name in ["a", "b"] {
        // A stack that has no address yet sends from the loopback's.
        eventually("the addresses are found to be unique", || {
            let show = ok(&mut lab.at(name, "ip -6 addr show dev eth0 tentative"));
            show.stdout.is_empty().then_some(())
        });
    }
    lab.ping("a", "fd00::2", 5);
    lab.ping("b", "10.0.0.1", 5);
    lab.ping("a", "-s 4000 10.0.0.2", 3);
    lab.ping("a", "-s 4000 fd00::2", 3);
    // By the link-local address, which the stack forms from the MAC.
    lab.ping("b", "fe80::ff:fe00:1%eth0", 3);
    lab.iperf3("a", "b", "--client fd00::2 --bytes 200K");
    lab.check_conservation();
    let drops: Vec<types::Drop> = lab.get("/v1/drops");
    let spoofed = drops.iter().find(|row| row.reason.starts_with("spoofed"));
    assert!(spoofed.is_none(), "{drops:?}");
}
