//! `[host_routes]`: VMs' addresses in the host's own routing tables.
//!
//! In: the section, and everything else that was read. Out: the settings. What must hold: the port is
//! one whose interface the host has, and each network that is named is reached through it.

use std::sync::Arc;

use ipnet::IpNet;

use super::{
    check::exists,
    read::Draft,
    section::{At, Section},
    types::{Attachment, Driver, HostRoutes, Port},
};

/// Unless the section says otherwise. No routing daemon has it for itself.
const DEFAULT_PROTOCOL: u8 = 118;
/// Unless the section says otherwise.
const DEFAULT_METRIC: u32 = 100;
/// The kernel's main table (`RT_TABLE_MAIN` of rtnetlink(7)).
const MAIN_TABLE: u32 = 254;
/// The kernel's table of its own addresses.
const LOCAL_TABLE: u32 = 255;

/// The section as it was read.
pub(super) struct HostRoutesDraft<'d> {
    section: Section<'d>,
    port: Option<At<String>>,
    networks: Vec<At<String>>,
    pub(super) value: Option<HostRoutes>,
}

pub(super) fn read(section: Section<'_>) -> HostRoutesDraft<'_> {
    let port = section.required("port");
    let networks = section.strings("networks");
    let addresses = section.strings("addresses");
    let addresses: Vec<_> = addresses.iter().map(|a| address(&section, a)).collect();
    let protocol = section.integer("protocol", 1..=255_u8);
    let metric = section.integer("metric", 1..=u32::MAX);
    let table = section.integer("table", 1..=u32::MAX);
    if let Some(owner) = protocol.and_then(owner) {
        section.reader.report(
            &section.value_span("protocol"),
            format!("routes of this protocol number are {owner}"),
            "every route of the number is the switch's to take away: use one that is nobody's, such as 118",
        );
    }
    if table == Some(LOCAL_TABLE) {
        section.reader.report(
            &section.value_span("table"),
            "table 255 holds the host's own addresses",
            "254 is the main table",
        );
    }
    let value = port.as_ref().map(|port| HostRoutes {
        port: port.value.as_str().into(),
        networks: networks.iter().map(|n| n.value.as_str().into()).collect(),
        addresses: addresses.into_iter().flatten().collect(),
        protocol: protocol.unwrap_or(DEFAULT_PROTOCOL),
        metric: metric.unwrap_or(DEFAULT_METRIC),
        table: table.unwrap_or(MAIN_TABLE),
    });
    HostRoutesDraft {
        section,
        port,
        networks,
        value,
    }
}

/// Whose routes of a protocol number are (the kernel's `rtnetlink.h`, FRR's `zebra/rt_netlink.h`).
fn owner(protocol: u8) -> Option<&'static str> {
    match protocol {
        1..=4 => Some("the kernel's, or static ones of the host's administrator"),
        11 | 42 | 186..=198 => Some("FRR's own, which it does not advertise as the kernel's"),
        9 | 12 | 16 => Some("those of another program (router advertisements, BIRD, DHCP)"),
        _ => None,
    }
}

fn address(section: &Section<'_>, text: &At<String>) -> Option<IpNet> {
    let net = text.value.parse().ok();
    if net.is_none() {
        let message = format!(
            "\"{}\" is not an address with its prefix length",
            text.value
        );
        let help = "write it as in 10.255.0.1/24 or fd00:ff::1/64";
        section.reader.report(&text.span, message, help);
    }
    net
}

/// What the section cannot tell alone.
pub(super) fn check(draft: &Draft<'_>) {
    let Some(own) = &draft.host_routes else {
        return;
    };
    let Some(at) = &own.port else { return };
    exists(draft, "port", &draft.ports, &at.value, &at.span);
    let ports = draft.ports.iter().filter_map(|port| port.value.as_ref());
    let Some(port) = ports.clone().find(|port| *port.name == *at.value) else {
        return;
    };
    let near = near(own, at, port);
    for name in &own.networks {
        exists(draft, "network", &draft.networks, &name.value, &name.span);
        let joined = near.is_none_or(|near| {
            let mut routers = draft.routers.iter().filter_map(|r| r.value.as_ref());
            let is_in = |router: &super::types::Router, name: &str| {
                let mut interfaces = router.interfaces.iter();
                interfaces.any(|interface| *interface.network == *name)
            };
            **near == *name.value
                || routers.any(|router| is_in(router, near) && is_in(router, &name.value))
        });
        if !joined {
            let near = near.map_or("", |near| near);
            own.section.reader.report(
                &name.span,
                format!(
                    "no router joins network \"{}\" and \"{near}\", which the port is in",
                    name.value
                ),
                "give a router an interface in each, or leave the network out",
            );
        }
    }
}

/// The network that the port is in, if it can be a handoff port.
fn near<'p>(own: &HostRoutesDraft<'_>, at: &At<String>, port: &'p Port) -> Option<&'p Arc<str>> {
    let refuse = |message: String, help: &str| {
        own.section.reader.report(&at.span, message, help);
        None
    };
    if !matches!(port.driver, Driver::Tap(_)) {
        let message = format!("port \"{}\" is no interface of the host's", port.name);
        return refuse(message, "routes lead through a port with driver = \"tap\"");
    }
    match &port.attachment {
        Attachment::Access(network) => Some(network),
        Attachment::Trunk { .. } => {
            let message = format!("port \"{}\" is a trunk", port.name);
            refuse(
                message,
                "routes lead through an access port, of one network",
            )
        }
    }
}
