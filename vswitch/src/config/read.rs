//! The sections of the file, each to its typed part. Nothing is looked up in another section
//! here; [`super::check`] does that.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc};

use ipnet::{Ipv4Net, Ipv6Net};
use policy::{
    Mac, VlanId,
    conntrack::table::DEFAULT_LIMIT,
    model::{Action, MoveLimit, SenderChecks},
};
use toml::de::DeTable;

use super::{
    Machine,
    connections::{self, Connections},
    decapsulator::{self, Decapsulator},
    host_routes::{self, HostRoutesDraft},
    mirroring::{self, MirrorTarget},
    port, router, rules, schema,
    section::{At, Reader, Section},
    services,
    types::{
        Acl, AddressSet, Config, Direction, Group, Network, Policy, Port, PortSet, Router, Switch,
        Vnic, Workers,
    },
};

/// Where the control socket is unless `[switch]` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/vswitch/vswitch.sock";

/// The most operations that looking up a vNIC's rules may take, unless `[policy]` says otherwise:
/// several times what published lists of 58,000 rules need (docs/decisions/0006).
const DEFAULT_LOOKUP_COST: u32 = 1024;
/// The most addresses of a set.
const MOST_ADDRESSES: usize = 16_384;
/// The most ports and ranges of a set: each is compared.
const MOST_PORTS: usize = 256;

/// A named section: its name if it has a usable one, its content if it has no problem.
pub(super) struct Named<'d, T> {
    pub(super) name: Option<At<String>>,
    pub(super) section: Section<'d>,
    pub(super) value: Option<T>,
}

/// Everything that was read.
pub(super) struct Draft<'d> {
    pub(super) reader: &'d Reader<'d>,
    pub(super) switch: Switch,
    pub(super) workers: Workers,
    pub(super) workers_section: Option<Section<'d>>,
    pub(super) connections: Connections,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) networks: Vec<Named<'d, Network>>,
    pub(super) ports: Vec<Named<'d, Port>>,
    pub(super) vnics: Vec<Named<'d, Vnic>>,
    pub(super) routers: Vec<Named<'d, Router>>,
    pub(super) acls: Vec<Named<'d, Acl>>,
    pub(super) groups: Vec<Named<'d, Group>>,
    pub(super) address_sets: Vec<Named<'d, AddressSet>>,
    pub(super) port_sets: Vec<Named<'d, PortSet>>,
    pub(super) host_routes: Option<HostRoutesDraft<'d>>,
    pub(super) decapsulator: Option<Decapsulator>,
    pub(super) decapsulator_span: std::ops::Range<usize>,
    pub(super) mirror_targets: Vec<Named<'d, MirrorTarget>>,
    policy: Policy,
}

impl Draft<'_> {
    /// The configuration, without the parts that have a problem.
    pub(super) fn into_config(self) -> Config {
        fn values<T>(named: Vec<Named<'_, T>>) -> Vec<T> {
            named.into_iter().filter_map(|n| n.value).collect()
        }
        Config {
            file: self.reader.source.file().into(),
            switch: self.switch,
            workers: self.workers,
            connections: self.connections,
            metrics: self.metrics,
            networks: values(self.networks),
            ports: values(self.ports),
            vnics: values(self.vnics),
            routers: values(self.routers),
            acls: values(self.acls),
            groups: values(self.groups),
            address_sets: values(self.address_sets),
            port_sets: values(self.port_sets),
            host_routes: self.host_routes.and_then(|draft| draft.value),
            decapsulator: self.decapsulator,
            mirror_targets: values(self.mirror_targets),
            policy: self.policy,
        }
    }
}

pub(super) fn draft<'d>(
    reader: &'d Reader<'d>,
    root: &'d DeTable<'d>,
    machine: &Machine,
) -> Draft<'d> {
    let root = Section::open(reader, root, 0..0, &schema::ROOT);
    let workers_section = root.section("workers", &schema::WORKERS);
    Draft {
        reader,
        switch: switch(root.section("switch", &schema::SWITCH).as_ref()),
        workers: workers(workers_section.as_ref(), machine),
        workers_section,
        connections: root
            .section("connections", &schema::CONNECTIONS)
            .map(|section| connections::connections(&section))
            .unwrap_or_default(),
        metrics: root
            .section("metrics", &schema::METRICS)
            .and_then(|section| metrics(&section)),
        networks: named(&root, "network", &schema::NETWORK, network),
        ports: named(&root, "port", &schema::PORT, port::port),
        vnics: named(&root, "vnic", &schema::VNIC, vnic),
        routers: named(&root, "router", &schema::ROUTER, router::router),
        acls: named(&root, "acl", &schema::ACL, |section, name| {
            Some(rules::acl(section, name))
        }),
        groups: named(&root, "group", &schema::GROUP, |section, name| {
            Some(rules::group(section, name))
        }),
        address_sets: named(&root, "address_set", &schema::ADDRESS_SET, address_set),
        port_sets: named(&root, "port_set", &schema::PORT_SET, port_set),
        host_routes: root
            .section("host_routes", &schema::HOST_ROUTES)
            .map(host_routes::read),
        decapsulator: decapsulator::read(&root, machine),
        decapsulator_span: root.value_span("decapsulator"),
        mirror_targets: named(
            &root,
            "mirror_target",
            &schema::MIRROR_TARGET,
            mirroring::target,
        ),
        policy: policy(root.section("policy", &schema::POLICY).as_ref()),
    }
}

fn named<'d, T>(
    root: &Section<'d>,
    field: &str,
    schema: &schema::Schema,
    read: impl Fn(&Section<'d>, &Arc<str>) -> Option<T>,
) -> Vec<Named<'d, T>> {
    root.sections(field, schema)
        .into_iter()
        .map(|section| {
            let name = section.name();
            // A section without a usable name is read all the same, for its other problems.
            let label = name.as_ref().map_or("?", |n| &n.value).into();
            let value = read(&section, &label);
            Named {
                value: value.filter(|_| name.is_some()),
                name,
                section,
            }
        })
        .collect()
}

pub(super) fn switch(section: Option<&Section<'_>>) -> Switch {
    let mut switch = Switch {
        socket: PathBuf::from(DEFAULT_SOCKET),
        socket_mode: 0o600,
    };
    let Some(section) = section else {
        return switch;
    };
    if let Some(socket) = section.string("socket") {
        if !socket.value.starts_with('/') || socket.value.len() > port::MAX_SOCKET_BYTES {
            section.reader.report(
                &socket.span,
                format!(
                    "socket must be an absolute path of at most {} bytes",
                    port::MAX_SOCKET_BYTES
                ),
                format!("the default is \"{DEFAULT_SOCKET}\""),
            );
        }
        switch.socket = socket.value.into();
    }
    if let Some(mode) = section.string("socket_mode") {
        const MODES: &[(&str, u32)] = &[("0600", 0o600), ("0660", 0o660)];
        if let Some(mode) = section.reader.choice(&mode, MODES) {
            switch.socket_mode = mode;
        }
    }
    switch
}

fn workers(section: Option<&Section<'_>>, machine: &Machine) -> Workers {
    let mut workers = Workers {
        cores: vec![machine.cores.first().copied().unwrap_or(0)],
        busy_poll: false,
        max_sleep_us: 50,
        flow_cache_entries: 1 << 16,
    };
    let Some(section) = section else {
        return workers;
    };
    if section.get("cores").is_some() {
        let cores = section.integers("cores", &(0..=4095_u16));
        workers.cores = cores.iter().map(|core| core.value as usize).collect();
    }
    if let Some(busy_poll) = section.bool("busy_poll") {
        workers.busy_poll = busy_poll;
    }
    if let Some(us) = section.integer("max_sleep_us", 1..=10_000) {
        workers.max_sleep_us = us;
    }
    if let Some(entries) = section.integer("flow_cache_entries", 256..=1_u32 << 24) {
        workers.flow_cache_entries = entries as usize;
    }
    workers
}

pub(super) fn metrics(section: &Section<'_>) -> Option<SocketAddr> {
    let listen = section.required("listen")?;
    let address = listen.value.parse().ok();
    if address.is_none() {
        section.reader.report(
            &listen.span,
            format!("\"{}\" is not an address and port", listen.value),
            "write it as in \"127.0.0.1:9464\" or \"[::1]:9464\"",
        );
    }
    address
}

fn policy(section: Option<&Section<'_>>) -> Policy {
    let cost = section.and_then(|section| section.integer("max_lookup_cost", 1..=u32::MAX));
    Policy {
        max_lookup_cost: cost.unwrap_or(DEFAULT_LOOKUP_COST),
    }
}

fn address_set(section: &Section<'_>, name: &Arc<str>) -> Option<AddressSet> {
    let addresses = section.strings("addresses");
    too_many(section, "addresses", addresses.len(), MOST_ADDRESSES);
    if section.get("addresses").is_none() {
        section.missing("addresses");
        return None;
    }
    let nets = addresses.iter().filter_map(|text| {
        let net = rules::net(&text.value).map_err(|help| {
            let message = format!("\"{}\" cannot be in a set of addresses", text.value);
            section.reader.report(&text.span, message, help);
        });
        net.ok()
    });
    Some(AddressSet {
        name: Arc::clone(name),
        addresses: nets.collect(),
        span: section.reader.whole(&section.value_span("addresses")),
    })
}

fn port_set(section: &Section<'_>, name: &Arc<str>) -> Option<PortSet> {
    let ports = section.words("ports");
    too_many(section, "ports", ports.len(), MOST_PORTS);
    if section.get("ports").is_none() {
        section.missing("ports");
        return None;
    }
    let ranges = ports.iter().filter_map(|w| rules::port_range(section, w));
    Some(PortSet {
        name: Arc::clone(name),
        ports: ranges.collect(),
        span: section.reader.whole(&section.value_span("ports")),
    })
}

fn too_many(section: &Section<'_>, field: &str, count: usize, most: usize) {
    if count > most {
        section.reader.report(
            &section.value_span(field),
            format!("there are {count} {field} in the set; {most} are allowed"),
            "make two sets of it",
        );
    }
}

fn network(section: &Section<'_>, name: &Arc<str>) -> Option<Network> {
    let shared_with = section.strings("shared_with");
    let tenant = section.required("tenant");
    let vlan = section.integer("vlan", 1..=4094_u16).and_then(VlanId::new);
    let mac_limit = section.integer("mac_limit", 1..=1_048_576);
    let ageing_s = section.integer("ageing_s", 1..=86_400);
    let defaults = MoveLimit::default();
    let most = section.integer("mac_moves", 1..=1_000_000);
    let hold_s = section.integer("mac_hold_s", 1..=3600);
    Some(Network {
        name: Arc::clone(name),
        tenant: tenant?.value.into(),
        shared_with: shared_with.into_iter().map(|t| t.value.into()).collect(),
        vlan,
        mac_limit: mac_limit.unwrap_or(16_384),
        ageing_s: ageing_s.unwrap_or(300),
        moves: MoveLimit {
            most: most.unwrap_or(defaults.most),
            hold_s: hold_s.unwrap_or(defaults.hold_s),
        },
        services: services::of_network(section),
    })
}

fn vnic(section: &Section<'_>, name: &Arc<str>) -> Option<Vnic> {
    let vm = section.required("vm");
    let port = section.required("port");
    let mac = section
        .required("mac")
        .and_then(|text| own_mac(section, &text));
    let ipv4 = prefixes::<Ipv4Net, std::net::Ipv4Addr>(section, "ipv4");
    let ipv6 = prefixes::<Ipv6Net, std::net::Ipv6Addr>(section, "ipv6");
    let checks = checks(section);
    let connection_limit = section.integer("connection_limit", 1..=1_u32 << 26);
    let tenant = section.string("tenant");
    let groups = section.strings("groups");
    let inbound = direction(section, "inbound", Action::Deny);
    let outbound = direction(section, "outbound", Action::Allow);
    Some(Vnic {
        name: Arc::clone(name),
        vm: vm?.value.into(),
        tenant: tenant.map(|tenant| tenant.value.into()),
        port: port?.value.into(),
        mac: mac?,
        ipv4,
        ipv6,
        checks,
        connection_limit: connection_limit.unwrap_or(DEFAULT_LIMIT),
        groups: groups.into_iter().map(|group| group.value.into()).collect(),
        inbound,
        outbound,
        services: services::of_vnic(section),
    })
}

/// An address that an interface can have: not a group, not zero.
pub(super) fn own_mac(section: &Section<'_>, text: &At<String>) -> Option<Mac> {
    let mac: Mac = section.reader.parse(text)?;
    if mac.is_group() || mac == Mac::default() {
        section.reader.report(
            &text.span,
            format!("{mac} cannot be an interface's own address"),
            "an own address is not zero, and the lowest bit of its first byte is 0",
        );
        return None;
    }
    Some(mac)
}

/// Addresses or prefixes; an address alone is a prefix of full length.
fn prefixes<N: FromStr, A: FromStr + Into<N>>(section: &Section<'_>, field: &str) -> Vec<N> {
    let mut nets = Vec::new();
    for text in section.strings(field) {
        let alone = text.value.parse::<A>().ok().map(Into::into);
        match alone.or_else(|| text.value.parse().ok()) {
            Some(net) => nets.push(net),
            None => section.reader.report(
                &text.span,
                format!("\"{}\" is not an {field} address or prefix", text.value),
                "write one address, as in 10.0.0.5 or fd00::5, or a prefix with its length",
            ),
        }
    }
    nets
}

fn checks(section: &Section<'_>) -> SenderChecks {
    match section.get("anti_spoofing").map(toml::Spanned::get_ref) {
        Some(toml::de::DeValue::Table(_)) => {
            let Some(table) = section.section("anti_spoofing", &schema::ANTI_SPOOFING) else {
                return SenderChecks::ALL;
            };
            SenderChecks {
                mac: table.bool("mac").unwrap_or(true),
                ipv4: table.bool("ipv4").unwrap_or(true),
                ipv6: table.bool("ipv6").unwrap_or(true),
                arp: table.bool("arp").unwrap_or(true),
                nd: table.bool("nd").unwrap_or(true),
            }
        }
        Some(_) if section.bool("anti_spoofing") == Some(false) => SenderChecks::NONE,
        _ => SenderChecks::ALL,
    }
}

fn direction(section: &Section<'_>, field: &str, default: Action) -> Direction {
    let Some(table) = section.section(field, &schema::DIRECTION) else {
        return Direction { acl: None, default };
    };
    let named = table
        .string("default")
        .and_then(|text| table.reader.choice(&text, rules::ACTIONS));
    Direction {
        acl: table.string("acl").map(|acl| acl.value.into()),
        default: named.unwrap_or(default),
    }
}
