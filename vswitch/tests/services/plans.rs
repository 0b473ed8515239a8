//! From a configuration to a plan.

use std::net::Ipv4Addr;

use policy::{NetworkId, PortId};
use vswitch::{
    config::{self, Config, Machine},
    services::{
        compile::{self, DEFAULT_MAC, Gateway},
        plan::{DEFAULT_SERVER, Mode4, Mode6, Plan},
    },
};

const TEXT: &str = r#"
[[network]]
name = "blue"
tenant = "acme"

[network.dhcp]
mode = "fixed"
dns = ["10.1.0.53"]
lease_s = 600

[network.dhcp6]
mode = "relay"
servers = ["fd00:9::1"]

[network.router_advertisements]
interval_s = 200

[[port]]
name = "p1"
driver = "memory"
network = "blue"

[[port]]
name = "p2"
driver = "memory"
network = "blue"

[[vnic]]
name = "one"
vm = "vm-1"
port = "p1"
mac = "02:00:00:00:00:01"
ipv4 = ["10.1.0.1", "10.8.0.0/16"]
ipv6 = ["fe80::/64", "fd00:1::1"]
roles = ["router"]

[[vnic]]
name = "two"
vm = "vm-2"
port = "p2"
mac = "02:00:00:00:00:02"
ipv4 = ["10.1.0.2"]

[vnic.dhcp]
mode = "relay"
servers = ["10.9.0.1"]
dns = []
hostname = "vnic"
fallback = true
"#;

fn a_config() -> Config {
    let machine = Machine {
        cores: vec![0],
        memory_bytes: 0,
    };
    config::parse("test.toml", TEXT, &machine).unwrap_or_else(|problems| panic!("{problems}"))
}

fn a_gateway() -> Gateway {
    Gateway {
        others: Vec::new(),
        mac: crate::bed::GATEWAY_MAC,
        ipv4: vec![
            "10.7.0.254/16".parse().expect("valid"),
            "10.1.0.254/24".parse().expect("valid"),
        ],
        ipv6: vec!["fd00:1::fe/64".parse().expect("valid")],
        mtu: Some(1400),
    }
}

fn plan(gateway: &Gateway) -> Plan {
    let port = |name: &str| name.strip_prefix('p')?.parse().ok().map(PortId);
    compile::plan(
        &a_config(),
        |_| Some(NetworkId(3)),
        port,
        |_| gateway.clone(),
    )
}

#[test]
fn a_vnic_has_what_its_network_says_unless_it_says_otherwise() {
    let plan = plan(&a_gateway());
    let [one, two] = &plan.vnics[..] else {
        panic!("{plan:?}");
    };
    let gateway = Ipv4Addr::new(10, 1, 0, 254);
    assert_eq!(
        (one.port, one.network, one.router),
        (PortId(1), NetworkId(3), true)
    );
    assert_eq!((one.ipv4.len(), one.ipv6.len()), (1, 1));
    assert_eq!(
        (&one.dhcp4.mode, one.dhcp4.server),
        (&Mode4::Fixed, gateway)
    );
    let lease = one.dhcp4.lease.as_ref().expect("a lease");
    assert_eq!(lease.address.to_string(), "10.1.0.1/24");
    assert_eq!(
        (lease.router, lease.mtu, lease.lease_s),
        (Some(gateway), Some(1400), 600)
    );
    assert_eq!(
        (lease.dns.len(), lease.hostname.as_deref()),
        (1, Some("vm-1"))
    );
    let Mode4::Relay(relay) = &two.dhcp4.mode else {
        panic!("{two:?}");
    };
    assert!(relay.fallback);
    assert_eq!(
        (relay.timeout_ms, relay.max_hops, two.dhcp4.server),
        (2000, 4, gateway)
    );
    let lease = two.dhcp4.lease.as_ref().expect("a lease");
    assert_eq!(
        (lease.dns.len(), lease.hostname.as_deref()),
        (0, Some("two"))
    );
    assert_eq!(lease.lease_s, 600);
    assert!(
        matches!(&two.dhcp6.mode, Mode6::Relay(relay) if relay.link.to_string() == "fd00:1::fe")
    );
    let network = &plan.networks[0];
    assert_eq!(network.mac, crate::bed::GATEWAY_MAC);
    let advertisements = network.advertisements.as_ref().expect("some");
    assert_eq!(
        (advertisements.interval_s, advertisements.lifetime_s),
        (200, 600)
    );
}

#[test]
fn without_a_gateway_what_needs_one_is_off_and_said_so() {
    let none = Gateway::default();
    let plan = plan(&none);
    let [one, two] = &plan.vnics[..] else {
        panic!("{plan:?}");
    };
    assert_eq!(plan.networks[0].mac, DEFAULT_MAC);
    assert_eq!(
        (&one.dhcp4.mode, one.dhcp4.server),
        (&Mode4::Fixed, DEFAULT_SERVER)
    );
    let lease = one.dhcp4.lease.as_ref().expect("a lease");
    assert_eq!((lease.address.prefix_len(), lease.router), (32, None));
    assert_eq!(
        (&two.dhcp4.mode, &two.dhcp6.mode),
        (&Mode4::Off, &Mode6::Off)
    );
    let lacking = compile::lacking(&a_config(), |_| none.clone());
    assert_eq!(lacking.len(), 3, "{lacking:?}");
    assert!(compile::lacking(&a_config(), |_| a_gateway()).is_empty());
}
