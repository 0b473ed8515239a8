//! From the configuration to what the services know.

use std::collections::HashMap;

use ipnet::IpNet;

use super::ids::Ids;
use crate::{
    config::Config,
    services::{
        compile::{self, Gateway},
        plan::{Plan, link_local},
    },
};

/// The services of a configuration whose names have numbers.
pub(super) fn plan(config: &Config, ids: &Ids) -> Plan {
    let gateways = gateways(config);
    let gateway = |name: &str| gateways.get(name).cloned().unwrap_or_default();
    for lack in compile::lacking(config, gateway) {
        tracing::warn!("{lack}");
    }
    compile::plan(
        config,
        |name| ids.network(name),
        |name| ids.port(name),
        gateway,
    )
}

/// What routers have in each network: of several, the first is the one that speaks for it.
fn gateways(config: &Config) -> HashMap<&str, Gateway> {
    let mut gateways: HashMap<&str, Gateway> = HashMap::new();
    for router in &config.routers {
        for interface in &router.interfaces {
            if let Some(first) = gateways.get_mut(&*interface.network) {
                let own = interface
                    .addresses
                    .iter()
                    .map(|net| (net.addr(), router.mac));
                first.others.extend(own);
                first
                    .others
                    .push((link_local(router.mac).into(), router.mac));
                continue;
            }
            let mut gateway = Gateway {
                mac: router.mac,
                mtu: Some(interface.mtu),
                ..Gateway::default()
            };
            for address in &interface.addresses {
                match address {
                    IpNet::V4(net) => gateway.ipv4.push(*net),
                    IpNet::V6(net) => gateway.ipv6.push(*net),
                }
            }
            gateways.insert(&interface.network, gateway);
        }
    }
    gateways
}
