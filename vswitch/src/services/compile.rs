//! From a configuration to a [`Plan`]: names become numbers, what a vNIC leaves out is as its network says.
//!
//! In: a checked configuration, the numbers that control gave out, the gateways that routers make.
//! Out: the plan; or what a service lacks that only the gateways tell.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::{Ipv4Net, Ipv6Net};
use policy::{Mac, NetworkId, PortId};

use super::plan::{
    DEFAULT_SERVER, Dhcp4, Dhcp6, Lease4, Mode4, Mode6, NetworkPlan, Plan, Relay4, Relay6,
    Settings6, VnicPlan,
};
use crate::config::{
    Config,
    service_types::{
        self, DEFAULT_LEASE_S, DEFAULT_MAX_HOPS, DEFAULT_TIMEOUT_MS, Dhcp6Mode, DhcpMode, Hostname,
    },
    types::{Network, Vnic},
};

/// The Ethernet address of a network's services when it has no gateway; the same on every host.
pub const DEFAULT_MAC: Mac = Mac([0x02, 0x76, 0x73, 0x77, 0x00, 0x01]);

/// A network's gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its Ethernet address, the same on every host.
    pub mac: Mac,
    /// Its IPv4 addresses, each with its subnet's prefix length.
    pub ipv4: Vec<Ipv4Net>,
    /// Its IPv6 addresses.
    pub ipv6: Vec<Ipv6Net>,
    /// The addresses of further gateways, with their Ethernet addresses.
    pub others: Vec<(IpAddr, Mac)>,
    /// The MTU that hosts are told when the configuration says none.
    pub mtu: Option<u16>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            mac: DEFAULT_MAC,
            ipv4: Vec::new(),
            ipv6: Vec::new(),
            others: Vec::new(),
            mtu: None,
        }
    }
}

/// The plan of a configuration. `network` and `port` give the numbers of names, `gateway` what
/// routers have in a network; parts without a number are left out.
pub fn plan(
    config: &Config,
    network: impl Fn(&str) -> Option<NetworkId>,
    port: impl Fn(&str) -> Option<PortId>,
    gateway: impl Fn(&str) -> Gateway,
) -> Plan {
    let mut plan = Plan::default();
    for of in &config.networks {
        let Some(id) = network(&of.name) else {
            continue;
        };
        let gateway = gateway(&of.name);
        for vnic in &config.vnics {
            let Some(number) = port(&vnic.port) else {
                continue;
            };
            if is_in(config, vnic, of) {
                let lease = lease(vnic, of, &gateway);
                plan.vnics.push(VnicPlan {
                    name: Arc::clone(&vnic.name),
                    vm: Arc::clone(&vnic.vm),
                    port: number,
                    port_name: Arc::clone(&vnic.port),
                    network: id,
                    mac: vnic.mac,
                    ipv4: vnic.hosts4().collect(),
                    ipv6: vnic.hosts6().collect(),
                    router: vnic.services.router,
                    dhcp4: dhcp4(vnic, of, &gateway, lease),
                    dhcp6: dhcp6(vnic, of, &gateway),
                });
            }
        }
        plan.networks.push(NetworkPlan {
            id,
            name: Arc::clone(&of.name),
            mac: gateway.mac,
            gateways4: gateway.ipv4,
            gateways6: gateway.ipv6,
            others: gateway.others,
            advertisements: of.services.advertisements.clone(),
            neighbors: of.services.neighbors,
        });
    }
    plan
}

/// What services lack, each in a sentence: they are off until routers give it.
pub fn lacking(config: &Config, gateway: impl Fn(&str) -> Gateway) -> Vec<String> {
    let mut lacking = Vec::new();
    for network in &config.networks {
        let gateway = gateway(&network.name);
        for vnic in config.vnics.iter().filter(|v| is_in(config, v, network)) {
            let own = vnic.services.dhcp.over(&network.services.dhcp);
            let own6 = vnic.services.dhcp6.over(&network.services.dhcp6);
            let (vnic, network) = (&vnic.name, &network.name);
            let relays = own.mode == Some(DhcpMode::Relay);
            if relays && gateway.ipv4.is_empty() {
                lacking.push(format!("vNIC \"{vnic}\": its DHCP relay needs a router that has an IPv4 address in network \"{network}\""));
            }
            let relays6 = own6.mode == Some(Dhcp6Mode::Relay);
            if relays6 && gateway.ipv6.is_empty() {
                lacking.push(format!("vNIC \"{vnic}\": its DHCPv6 relay needs a router that has an IPv6 address in network \"{network}\""));
            }
        }
    }
    lacking
}

fn is_in(config: &Config, vnic: &Vnic, network: &Network) -> bool {
    let port = config.ports.iter().find(|port| port.name == vnic.port);
    port.is_some_and(|port| port.attachment.networks().contains(&&network.name))
}

/// The gateway's address in the subnet of `address`, if it has one.
fn gateway_of(gateway: &Gateway, address: Ipv4Addr) -> Option<Ipv4Net> {
    let mut nets = gateway.ipv4.iter();
    nets.find(|net| net.contains(&address)).copied()
}

fn lease(vnic: &Vnic, network: &Network, gateway: &Gateway) -> Option<Lease4> {
    let own = vnic.services.dhcp.over(&network.services.dhcp);
    let address = vnic.hosts4().next()?;
    let router = gateway_of(gateway, address);
    let subnet = own.subnet.filter(|subnet| subnet.contains(&address));
    let prefix_len = subnet.or(router).map_or(32, |net| net.prefix_len());
    let hostname = match own.hostname.unwrap_or(Hostname::Vm) {
        Hostname::Vm => Some(&vnic.vm),
        Hostname::Vnic => Some(&vnic.name),
        Hostname::None => None,
    };
    Some(Lease4 {
        address: Ipv4Net::new_assert(address, prefix_len),
        router: own.router.or(router.map(|net| net.addr())),
        dns: own.dns.unwrap_or_default(),
        search: own.search.unwrap_or_default(),
        mtu: own.mtu.or(gateway.mtu),
        routes: own.routes.unwrap_or_default(),
        lease_s: own.lease_s.unwrap_or(DEFAULT_LEASE_S),
        hostname: hostname.cloned(),
        options: own.options.unwrap_or_default(),
        next_server: own.next_server,
        boot_file: own.boot_file,
    })
}

fn dhcp4(vnic: &Vnic, network: &Network, gateway: &Gateway, lease: Option<Lease4>) -> Dhcp4 {
    let own = vnic.services.dhcp.over(&network.services.dhcp);
    let near = lease.as_ref().map(|lease| lease.address.addr());
    let near = near.and_then(|address| gateway_of(gateway, address));
    let relay_address = near.or(gateway.ipv4.first().copied()).map(|net| net.addr());
    let mode = match own.mode.unwrap_or(DhcpMode::Off) {
        DhcpMode::Relay if relay_address.is_some() => Mode4::Relay(Relay4 {
            servers: own.servers.unwrap_or_default(),
            timeout_ms: own.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS),
            max_hops: own.max_hops.unwrap_or(DEFAULT_MAX_HOPS),
            fallback: own.fallback.unwrap_or(false),
        }),
        DhcpMode::Fixed => Mode4::Fixed,
        DhcpMode::Off | DhcpMode::Relay => Mode4::Off,
    };
    let server = relay_address.or(own.server_address);
    Dhcp4 {
        mode,
        server: server.unwrap_or(DEFAULT_SERVER),
        lease: lease.map(Arc::new),
    }
}

fn dhcp6(vnic: &Vnic, network: &Network, gateway: &Gateway) -> Dhcp6 {
    let service_types::Dhcp6 {
        mode,
        dns,
        search,
        preferred_s,
        valid_s,
        rapid_commit,
        boot_file_url,
        servers,
    } = vnic.services.dhcp6.over(&network.services.dhcp6);
    let link = gateway.ipv6.first().map(Ipv6Net::addr);
    let mode = match (mode.unwrap_or(Dhcp6Mode::Off), link) {
        (Dhcp6Mode::Relay, Some(link)) => Mode6::Relay(Relay6 {
            link,
            servers: servers.unwrap_or_default(),
        }),
        (Dhcp6Mode::Stateless, _) => Mode6::Stateless,
        (Dhcp6Mode::Fixed, _) => Mode6::Fixed,
        (Dhcp6Mode::Off, _) | (Dhcp6Mode::Relay, None) => Mode6::Off,
    };
    let valid_s = valid_s.unwrap_or(DEFAULT_LEASE_S.max(preferred_s.unwrap_or(0)));
    Dhcp6 {
        mode,
        settings: Arc::new(Settings6 {
            dns: dns.unwrap_or_default(),
            search: search.unwrap_or_default(),
            preferred_s: preferred_s.unwrap_or(valid_s / 2),
            valid_s,
            rapid_commit: rapid_commit.unwrap_or(false),
            boot_file_url,
        }),
    }
}
