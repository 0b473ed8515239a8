//! What no section can tell alone: names that must be unique or exist, and parts that must fit
//! together.

use std::{collections::HashMap, ops::Range};

use super::{
    Machine, check_rules, check_services, decapsulator, host_routes, mirroring,
    problem::nearest,
    read::{Draft, Named},
    router,
    types::{Network, Vnic},
};

/// The most ports of a switch.
pub(super) const MAX_PORTS: usize = 1024;
/// The most networks of a switch.
pub(super) const MAX_NETWORKS: usize = 4096;
/// The most routers of a switch.
pub(super) const MAX_ROUTERS: usize = 1024;
/// The most mirror targets of a switch.
const MAX_MIRROR_TARGETS: usize = 256;

/// Notes every problem between sections.
pub(super) fn all(draft: &Draft<'_>, machine: &Machine) {
    cores(draft, machine);
    memory(draft, machine);
    unique(draft, "network", &draft.networks, MAX_NETWORKS);
    unique(draft, "port", &draft.ports, MAX_PORTS);
    unique(draft, "vnic", &draft.vnics, MAX_PORTS);
    unique(draft, "router", &draft.routers, MAX_ROUTERS);
    unique(draft, "acl", &draft.acls, usize::MAX);
    for port in &draft.ports {
        port_networks(draft, port);
        port_workers(draft, port);
    }
    unique(draft, "group", &draft.groups, usize::MAX);
    unique(draft, "address_set", &draft.address_sets, usize::MAX);
    unique(draft, "port_set", &draft.port_sets, usize::MAX);
    unique(
        draft,
        "mirror_target",
        &draft.mirror_targets,
        MAX_MIRROR_TARGETS,
    );
    resources(draft);
    vnics(draft);
    tenants(draft);
    router::check(draft);
    host_routes::check(draft);
    mirroring::check(draft);
    check_services::all(draft, &|vnic| networks_of(draft, vnic));
    check_rules::references(draft);
    check_rules::groups(draft, &|vnic| tenant_of(draft, vnic));
}

fn cores(draft: &Draft<'_>, machine: &Machine) {
    let Some(section) = &draft.workers_section else {
        return;
    };
    let cores = section.integers("cores", &(0..=4095_u16));
    let given = section.get("cores").and_then(|v| v.get_ref().as_array());
    if given.is_some_and(|array| array.is_empty()) {
        let span = section.value_span("cores");
        let help = "name at least one core, as in cores = [0]";
        draft.reader.report(&span, "no worker would run", help);
    }
    for (index, core) in cores.iter().enumerate() {
        if !machine.cores.is_empty() && !machine.cores.contains(&(core.value as usize)) {
            let known: Vec<String> = machine.cores.iter().map(ToString::to_string).collect();
            draft.reader.report(
                &core.span,
                format!("this process may not run on core {}", core.value),
                format!("it may run on: {}", known.join(", ")),
            );
        }
        if cores[..index].iter().any(|other| other.value == core.value) {
            let message = format!("core {} is named twice", core.value);
            draft
                .reader
                .report(&core.span, message, "each core has one worker");
        }
    }
}

/// What does not fit is found out here, and not when memory runs out.
fn memory(draft: &Draft<'_>, machine: &Machine) {
    const ENTRY_BYTES: u64 = 128;
    const CONNECTION_BYTES: u64 = 256;
    let entries = draft.workers.flow_cache_entries as u64 * draft.workers.cores.len() as u64;
    let caches = entries * ENTRY_BYTES;
    let tables = mac_tables(draft);
    let connections = draft.connections.max as u64 * CONNECTION_BYTES;
    let most = machine.memory_bytes / 2;
    if machine.memory_bytes == 0 || caches + tables + connections <= most {
        return;
    }
    if let Some(section) = draft.workers_section.as_ref().filter(|_| caches > most) {
        draft.reader.report(
            &section.value_span("flow_cache_entries"),
            format!(
                "the flow caches would take {} MiB of this machine's {} MiB",
                caches >> 20,
                machine.memory_bytes >> 20
            ),
            "use fewer entries",
        );
        return;
    }
    let limit = |named: &&Named<'_, Network>| named.value.as_ref().map(|n| n.mac_limit);
    let Some(largest) = draft.networks.iter().max_by_key(limit) else {
        return;
    };
    draft.reader.report(
        &largest.section.value_span("mac_limit"),
        format!(
            "the MAC tables of all networks would take {} MiB, the flow caches {} MiB and connections {} MiB of this machine's {} MiB",
            tables >> 20,
            caches >> 20,
            connections >> 20,
            machine.memory_bytes >> 20
        ),
        "use a lower mac_limit, fewer networks, fewer flow_cache_entries or a lower max of connections",
    );
}

/// Bytes of the MAC tables: each is made with room for twice its addresses, seven eighths full at
/// most, in a power of two of slots.
fn mac_tables(draft: &Draft<'_>) -> u64 {
    const SLOT_BYTES: u64 = 25;
    let mut members: HashMap<&str, u64> = HashMap::new();
    let ports = draft.ports.iter().filter_map(|port| port.value.as_ref());
    for network in ports.flat_map(|port| port.attachment.networks()) {
        *members.entry(network).or_default() += 1;
    }
    let networks = draft.networks.iter().filter_map(|n| n.value.as_ref());
    let bytes = networks.map(|network| {
        let ports = members.get(&*network.name).copied().unwrap_or(0);
        let room = 2 * (u64::from(network.mac_limit) + ports);
        (room * 8).div_ceil(7).next_power_of_two() * SLOT_BYTES
    });
    bytes.sum()
}

fn unique<T>(draft: &Draft<'_>, kind: &str, named: &[Named<'_, T>], most: usize) {
    let mut first: HashMap<&str, &Range<usize>> = HashMap::new();
    for item in named {
        let Some(name) = &item.name else { continue };
        if let Some(other) = first.get(name.value.as_str()) {
            draft.reader.report(
                &name.span,
                format!("there are two of {kind} \"{}\"", name.value),
                format!("the first is at {}", draft.reader.source.place(other.start)),
            );
        } else {
            first.insert(&name.value, &name.span);
        }
    }
    if named.len() > most {
        draft.reader.report(
            &named[most].section.span,
            format!("there are more than {most} of {kind}"),
            "remove some",
        );
    }
}

pub(super) fn names<'n, T>(named: &'n [Named<'_, T>]) -> impl Iterator<Item = &'n str> {
    named
        .iter()
        .filter_map(|item| item.name.as_ref().map(|name| name.value.as_str()))
}

/// Notes a name that none of `named` has.
pub(super) fn exists<T>(
    draft: &Draft<'_>,
    kind: &str,
    named: &[Named<'_, T>],
    name: &str,
    span: &Range<usize>,
) {
    if !names(named).any(|known| known == name) {
        let message = format!("there is no {kind} \"{name}\"");
        draft
            .reader
            .report(span, message, nearest(name, names(named)));
    }
}

fn network_of<'n>(draft: &'n Draft<'_>, name: &str) -> Option<&'n Network> {
    let mut values = draft.networks.iter().filter_map(|n| n.value.as_ref());
    values.find(|network| &*network.name == name)
}

fn port_networks(draft: &Draft<'_>, port: &Named<'_, super::types::Port>) {
    let section = &port.section;
    for field in ["network", "native"] {
        if let Some(name) = section.get(field).and_then(|v| v.get_ref().as_str()) {
            let span = section.value_span(field);
            exists(draft, "network", &draft.networks, name, &span);
        }
    }
    if section.get("trunk").is_none() {
        return;
    }
    let tagged = section.strings("trunk");
    let native = section.get("native").and_then(|v| v.get_ref().as_str());
    for (index, name) in tagged.iter().enumerate() {
        exists(draft, "network", &draft.networks, &name.value, &name.span);
        if tagged[..index]
            .iter()
            .any(|other| other.value == name.value)
        {
            let message = format!("network \"{}\" is on the trunk twice", name.value);
            draft.reader.report(&name.span, message, "name it once");
        }
        if native == Some(&name.value) {
            draft.reader.report(
                &name.span,
                format!(
                    "network \"{}\" is on the trunk both tagged and native",
                    name.value
                ),
                "keep one: its frames leave either with a tag or without",
            );
        }
        let Some(network) = network_of(draft, &name.value) else {
            continue;
        };
        let Some(vlan) = network.vlan else {
            draft.reader.report(
                &name.span,
                format!(
                    "network \"{}\" has no vlan, so a trunk cannot carry it",
                    name.value
                ),
                "give the network a vlan = ..., or make it the native one",
            );
            continue;
        };
        let same = tagged[..index].iter().find(|other| {
            other.value != name.value
                && network_of(draft, &other.value).is_some_and(|n| n.vlan == Some(vlan))
        });
        if let Some(other) = same {
            draft.reader.report(
                &name.span,
                format!(
                    "networks \"{}\" and \"{}\" of this trunk have the same VLAN {}",
                    other.value,
                    name.value,
                    vlan.get()
                ),
                "give one of them another vlan",
            );
        }
    }
}

fn port_workers(draft: &Draft<'_>, port: &Named<'_, super::types::Port>) {
    let count = draft.workers.cores.len();
    for worker in port.section.integers("workers", &(0..=4095_u16)) {
        if worker.value as usize >= count {
            draft.reader.report(
                &worker.span,
                format!("there is no worker {}", worker.value),
                format!("[workers] cores makes {count}; they count from 0"),
            );
        }
    }
}

/// One interface, output file and socket belong to one port.
fn resources(draft: &Draft<'_>) {
    let mut interfaces: HashMap<String, String> = HashMap::new();
    let mut files: HashMap<String, String> = HashMap::new();
    let control = draft.switch.socket.display().to_string();
    let mut sockets = HashMap::from([(control, "[switch]".to_owned())]);
    for port in &draft.ports {
        let Some(value) = &port.value else { continue };
        let interface = value.driver.interface().map(str::to_owned);
        let file = value.driver.output().map(|p| p.display().to_string());
        let socket = value.driver.socket().map(|p| p.display().to_string());
        for (field, taken, resource) in [
            ("interface", &mut interfaces, interface),
            ("write", &mut files, file),
            ("socket", &mut sockets, socket),
        ] {
            let Some(resource) = resource else { continue };
            if let Some(owner) = taken.get(&resource) {
                draft.reader.report(
                    &port.section.value_span(field),
                    format!("{field} \"{resource}\" is used by {owner} already"),
                    "it cannot be shared",
                );
            } else {
                taken.insert(resource, format!("port \"{}\"", value.name));
            }
        }
    }
    let Some(decapsulator) = &draft.decapsulator else {
        return;
    };
    for (owner, driver) in decapsulator.drivers() {
        let Some(place) = decapsulator::place(driver) else {
            continue;
        };
        let taken = [&interfaces, &files, &sockets];
        if let Some(other) = taken.iter().find_map(|taken| taken.get(&place)) {
            let span = draft.decapsulator_span.clone();
            draft.reader.report(
                &span,
                format!("{owner} uses \"{place}\", which is used by {other} already"),
                "it cannot be shared",
            );
        }
    }
}

fn vnics(draft: &Draft<'_>) {
    let mut bound: HashMap<String, String> = HashMap::new();
    for vnic in &draft.vnics {
        let section = &vnic.section;
        let name = vnic.name.as_ref().map_or("?", |n| &n.value);
        if let Some(port) = section.get("port").and_then(|v| v.get_ref().as_str()) {
            let span = section.value_span("port");
            exists(draft, "port", &draft.ports, port, &span);
            if let Some(other) = bound.insert(port.to_owned(), name.to_owned()) {
                draft.reader.report(
                    &span,
                    format!("port \"{port}\" has vNIC \"{other}\" already"),
                    "a port has at most one vNIC",
                );
            }
        }
        for field in ["inbound", "outbound"] {
            let table = section.get(field).and_then(|v| v.get_ref().as_table());
            let Some(acl) = table.and_then(|table| table.get("acl")) else {
                continue;
            };
            if let Some(acl_name) = acl.get_ref().as_str() {
                exists(draft, "acl", &draft.acls, acl_name, &acl.span());
            }
        }
    }
}

/// The networks of a vNIC's port.
pub(super) fn networks_of<'n>(draft: &'n Draft<'_>, vnic: &Vnic) -> Vec<&'n Network> {
    let mut ports = draft.ports.iter().filter_map(|p| p.value.as_ref());
    let port = ports.find(|port| port.name == vnic.port);
    let names = port.map_or_else(Vec::new, |port| port.attachment.networks());
    let networks = names.into_iter().filter_map(|n| network_of(draft, n));
    networks.collect()
}

/// Whose a vNIC is.
fn tenant_of(draft: &Draft<'_>, vnic: &Vnic) -> Option<String> {
    let own = vnic.tenant.as_ref().map(ToString::to_string);
    let first = || Some(networks_of(draft, vnic).first()?.tenant.to_string());
    own.or_else(first)
}

/// A vNIC is in networks of its own tenant, or of one that shares them with it; all vNICs of a VM
/// have one tenant; an address is used once in a network.
fn tenants(draft: &Draft<'_>) {
    let mut tenant_of_vm: HashMap<&str, (String, String)> = HashMap::new();
    let mut mac_owner: HashMap<(&str, policy::Mac), &str> = HashMap::new();
    for named in &draft.vnics {
        let Some(vnic) = &named.value else { continue };
        for network in networks_of(draft, vnic) {
            let tenant = vnic.tenant.as_ref().unwrap_or(&network.tenant);
            if let Some(problem) = crossing(vnic, network) {
                let help = format!(
                    "if \"{}\" agrees, add shared_with = [\"{tenant}\"] to the network; else bind the vNIC to a port of \"{tenant}\"'s networks",
                    network.tenant
                );
                let span = named.section.value_span("tenant");
                draft.reader.report(&span, problem, help);
                break;
            }
            let (first, of) = tenant_of_vm.entry(&vnic.vm).or_insert_with(|| {
                let of = format!("network \"{}\"", network.name);
                (tenant.to_string(), of)
            });
            if *first != **tenant {
                draft.reader.report(
                    &named.section.value_span("port"),
                    format!(
                        "VM \"{}\" would be of two tenants: of \"{first}\" by {of}, and of \"{tenant}\" by network \"{}\"",
                        vnic.vm, network.name
                    ),
                    "a VM belongs to one tenant; bind this vNIC to a port of that tenant's networks, or name its tenant",
                );
                break;
            }
            if let Some(owner) = mac_owner.insert((&network.name, vnic.mac), &vnic.name) {
                draft.reader.report(
                    &named.section.value_span("mac"),
                    format!(
                        "vNIC \"{owner}\" has {} in network \"{}\" already",
                        vnic.mac, network.name
                    ),
                    "give each vNIC its own address",
                );
            }
        }
    }
}

/// What is wrong with a vNIC's being in a network of another tenant. Both sides must say so: the
/// vNIC by its `tenant`, the network by `shared_with`.
fn crossing(vnic: &Vnic, network: &Network) -> Option<String> {
    let tenant = vnic.tenant.as_ref()?;
    let own = *tenant == network.tenant;
    (!own && !network.shared_with.contains(tenant)).then(|| {
        format!(
            "vNIC \"{}\" of tenant \"{tenant}\" would be in network \"{}\" of \"{}\"",
            vnic.name, network.name, network.tenant
        )
    })
}
