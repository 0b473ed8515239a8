//! What networks and vNICs say of their services together: an address is in its subnet, a relay has
//! servers, an address that is to be given is there.

use std::{collections::HashMap, net::Ipv4Addr};

use super::{
    advertisements::lifetimes,
    read::{Draft, Named},
    section::Section,
    service_types::{Dhcp, Dhcp6, Dhcp6Mode, DhcpMode},
    types::{Network, Vnic},
};

/// Notes every problem. `networks_of` gives the networks of a vNIC.
pub(super) fn all<'n>(draft: &'n Draft<'_>, networks_of: &dyn Fn(&Vnic) -> Vec<&'n Network>) {
    for named in &draft.networks {
        let Some(network) = &named.value else {
            continue;
        };
        let services = &network.services;
        dhcp(&named.section, &services.dhcp, services.dhcp.mode);
        dhcp6(&named.section, &services.dhcp6, services.dhcp6.mode);
    }
    let mut owners = HashMap::new();
    for named in &draft.vnics {
        if let Some(vnic) = &named.value {
            for network in networks_of(vnic) {
                of_vnic(named, vnic, network);
            }
            owned_once(named, vnic, &networks_of(vnic), &mut owners);
        }
    }
}

fn table(section: &Section<'_>, field: &str) -> std::ops::Range<usize> {
    section.key_span(field).unwrap_or(section.span.clone())
}

fn dhcp(section: &Section<'_>, dhcp: &Dhcp, mode: Option<DhcpMode>) {
    let report = |message: String, help: &str| {
        section
            .reader
            .report(&table(section, "dhcp"), message, help);
    };
    let servers = dhcp.servers.as_ref().map_or(0, Vec::len);
    if mode == Some(DhcpMode::Relay) && servers == 0 {
        let help = "add servers = [\"10.0.0.1\"] to [vnic.dhcp] or [network.dhcp]";
        report("a DHCP relay has no servers".to_owned(), help);
    }
    let Some(subnet) = dhcp.subnet else { return };
    let inside = |address: &Ipv4Addr| subnet.contains(address);
    let hops = dhcp.routes.iter().flatten().map(|(_, hop)| *hop);
    for (what, address) in dhcp
        .router
        .map(|router| ("the router", router))
        .into_iter()
        .chain(hops.map(|hop| ("a route's next hop", hop)))
    {
        if !inside(&address) {
            let message = format!("{what} {address} is not in the subnet {subnet} of its network");
            report(
                message,
                "hosts could not reach it; use an address of the subnet",
            );
        }
    }
}

fn dhcp6(section: &Section<'_>, dhcp6: &Dhcp6, mode: Option<Dhcp6Mode>) {
    let servers = dhcp6.servers.as_ref().map_or(0, Vec::len);
    if mode == Some(Dhcp6Mode::Relay) && servers == 0 {
        section.reader.report(
            &table(section, "dhcp6"),
            "a DHCPv6 relay has no servers",
            "add servers = [\"fd00::547\"] to [vnic.dhcp6] or [network.dhcp6]",
        );
    }
    if let (Some(preferred_s), Some(valid_s)) = (dhcp6.preferred_s, dhcp6.valid_s)
        && preferred_s > valid_s
    {
        let schema = &super::schema::DHCP6;
        if let Some(table) = section.section("dhcp6", schema) {
            lifetimes(&table, preferred_s, valid_s);
        }
    }
}

fn of_vnic(named: &Named<'_, Vnic>, vnic: &Vnic, network: &Network) {
    let section = &named.section;
    let own = vnic.services.dhcp.over(&network.services.dhcp);
    let own6 = vnic.services.dhcp6.over(&network.services.dhcp6);
    // What the network says alone was told there.
    if section.get("dhcp").is_some() {
        dhcp(section, &own, own.mode);
    }
    if section.get("dhcp6").is_some() {
        dhcp6(section, &own6, own6.mode);
    }
    let addresses: Vec<Ipv4Addr> = vnic.hosts4().collect();
    if vnic.services.dhcp.mode == Some(DhcpMode::Fixed) && addresses.is_empty() {
        section.reader.report(
            &table(section, "dhcp"),
            format!("vNIC \"{}\" has no IPv4 address to be given", vnic.name),
            "add ipv4 = [\"10.0.0.5\"]: an address, not a prefix",
        );
    }
    if vnic.services.dhcp6.mode == Some(Dhcp6Mode::Fixed) && vnic.hosts6().next().is_none() {
        section.reader.report(
            &table(section, "dhcp6"),
            format!("vNIC \"{}\" has no IPv6 address to be given", vnic.name),
            "add ipv6 = [\"fd00::5\"]: an address, not a prefix",
        );
    }
    let (Some(subnet), Some(lease)) = (own.subnet, addresses.first()) else {
        return;
    };
    let gives = own.mode == Some(DhcpMode::Fixed) || own.fallback == Some(true);
    let ends = subnet.prefix_len() < 31;
    let reserved = ends && [subnet.network(), subnet.broadcast()].contains(lease);
    if gives && (!subnet.contains(lease) || reserved) {
        section.reader.report(
            &section.value_span("ipv4"),
            format!(
                "{lease} is not an address of a host in the subnet {subnet} of network \"{}\"",
                network.name
            ),
            "DHCP would give it to the VM; use an address of the subnet",
        );
    }
}

/// An address that is given or answered for belongs to one vNIC of a network.
fn owned_once<'n>(
    named: &Named<'_, Vnic>,
    vnic: &'n Vnic,
    networks: &[&'n Network],
    owners: &mut HashMap<(&'n str, std::net::IpAddr), &'n str>,
) {
    for network in networks {
        let ipv4 = vnic.hosts4().map(std::net::IpAddr::V4);
        let ipv6 = vnic.hosts6().map(std::net::IpAddr::V6);
        for address in ipv4.chain(ipv6) {
            let owner = owners.entry((&network.name, address)).or_insert(&vnic.name);
            let given = network.services.dhcp.mode.is_some() || vnic.services.dhcp.mode.is_some();
            if **owner != *vnic.name && given {
                let field = if address.is_ipv4() { "ipv4" } else { "ipv6" };
                named.section.reader.report(
                    &named.section.value_span(field),
                    format!(
                        "vNIC \"{owner}\" has {address} in network \"{}\" already",
                        network.name
                    ),
                    "the network has DHCP: give each vNIC its own address",
                );
            }
        }
    }
}
