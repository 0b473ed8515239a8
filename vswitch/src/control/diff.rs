//! What differs between the running configuration and another.

use std::{
    collections::HashMap,
    fmt::{self, Debug},
};

use policy::{
    InterfaceId,
    rule::{Runs, net_text, range_text},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::{
    Config,
    decapsulator::Decapsulator,
    mirroring::MirrorTarget,
    service_types::VnicServices,
    types::{
        AclRule, AclRules, AddressSet, Driver, HostRoutes, Network, Port, PortSet, RouteAction,
        Router, RouterRoute, Vnic,
    },
};

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// `added`, `removed` or `changed`.
    pub change: ChangeKind,
    /// `network`, `port`, `vnic`, `router`, `acl`, `group`, `address_set`, `port_set`,
    /// `mirror_target`, `decapsulator`, `decapsulator_session`, `sniffer`, `policy`, `host_routes` or
    /// `connections`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What differs, one line each.
    pub details: Vec<String>,
}

/// How a thing differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// It stays and differs.
    Changed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.change {
            ChangeKind::Added => '+',
            ChangeKind::Removed => '-',
            ChangeKind::Changed => '~',
        };
        write!(f, "{sign} {} {}", self.kind, self.name)?;
        for detail in &self.details {
            write!(f, "\n    {detail}")?;
        }
        Ok(())
    }
}

/// Everything that can change under traffic: what must go, come, or differ.
pub fn changes(running: &Config, wanted: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(
        &mut changes,
        "network",
        &running.networks,
        &wanted.networks,
        |n| &n.name,
        network,
    );
    compare(
        &mut changes,
        "port",
        &running.ports,
        &wanted.ports,
        |p| &p.name,
        port,
    );
    compare(
        &mut changes,
        "vnic",
        &running.vnics,
        &wanted.vnics,
        |v| &v.name,
        vnic,
    );
    compare(
        &mut changes,
        "router",
        &running.routers,
        &wanted.routers,
        |r| &r.name,
        router,
    );
    compare(
        &mut changes,
        "acl",
        &running.acls,
        &wanted.acls,
        |a| &a.name,
        |old, new| rules(&old.rules, &new.rules),
    );
    compare(
        &mut changes,
        "group",
        &running.groups,
        &wanted.groups,
        |g| &g.name,
        |old, new| rules(&old.rules, &new.rules),
    );
    compare(
        &mut changes,
        "address_set",
        &running.address_sets,
        &wanted.address_sets,
        |s| &s.name,
        address_set,
    );
    compare(
        &mut changes,
        "port_set",
        &running.port_sets,
        &wanted.port_sets,
        |s| &s.name,
        port_set,
    );
    compare(
        &mut changes,
        "mirror_target",
        &running.mirror_targets,
        &wanted.mirror_targets,
        |t| &t.name,
        mirror_target,
    );
    decapsulator(&mut changes, running, wanted);
    single_sections(&mut changes, running, wanted);
    changes
}

/// What differs in the sections that there is one of.
fn single_sections(changes: &mut Vec<Change>, running: &Config, wanted: &Config) {
    compare(
        changes,
        "policy",
        &[running.policy],
        &[wanted.policy],
        |_| "policy",
        |old, new| {
            let mut details = Vec::new();
            let (old, new) = (old.max_lookup_cost, new.max_lookup_cost);
            field(&mut details, "max_lookup_cost", &old, &new);
            details
        },
    );
    compare(
        changes,
        "host_routes",
        running.host_routes.as_slice(),
        wanted.host_routes.as_slice(),
        |_| "host_routes",
        host_routes,
    );
    let details = connections(running, wanted);
    if !details.is_empty() {
        changes.push(Change {
            change: ChangeKind::Changed,
            kind: "connections".into(),
            name: "all".into(),
            details,
        });
    }
}

/// What differs and cannot change while the process runs, with the reason.
pub fn needs_restart(running: &Config, wanted: &Config) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut details = Vec::new();
    field(
        &mut details,
        "cores",
        &running.workers.cores,
        &wanted.workers.cores,
    );
    field(
        &mut details,
        "busy_poll",
        &running.workers.busy_poll,
        &wanted.workers.busy_poll,
    );
    field(
        &mut details,
        "max_sleep_us",
        &running.workers.max_sleep_us,
        &wanted.workers.max_sleep_us,
    );
    field(
        &mut details,
        "flow_cache_entries",
        &running.workers.flow_cache_entries,
        &wanted.workers.flow_cache_entries,
    );
    for detail in details.drain(..) {
        reasons.push(format!("[workers] {detail}: workers are made at start"));
    }
    field(
        &mut details,
        "max",
        &running.connections.max,
        &wanted.connections.max,
    );
    for detail in details.drain(..) {
        reasons.push(format!(
            "[connections] {detail}: the table is made at start"
        ));
    }
    field(
        &mut details,
        "socket",
        &running.switch.socket,
        &wanted.switch.socket,
    );
    field(
        &mut details,
        "socket_mode",
        &running.switch.socket_mode,
        &wanted.switch.socket_mode,
    );
    for detail in details.drain(..) {
        reasons.push(format!("[switch] {detail}: the socket is made at start"));
    }
    field(&mut details, "listen", &running.metrics, &wanted.metrics);
    for detail in details.drain(..) {
        reasons.push(format!("[metrics] {detail}: it is opened at start"));
    }
    reasons
}

/// True when a port must be closed and opened again to become what is wanted.
pub(super) fn must_reopen(running: &Port, wanted: &Port) -> bool {
    running.driver != wanted.driver || running.fault != wanted.fault
}

fn compare<'t, T>(
    changes: &mut Vec<Change>,
    kind: &str,
    running: &'t [T],
    wanted: &'t [T],
    name: impl Fn(&'t T) -> &'t str,
    differ: impl Fn(&T, &T) -> Vec<String>,
) {
    let mut push = |change, item: &'t T, details| {
        changes.push(Change {
            change,
            kind: kind.to_owned(),
            name: name(item).to_owned(),
            details,
        });
    };
    // Names are unique, so one look each.
    let by_name = |items: &'t [T]| -> HashMap<&'t str, &'t T> {
        items.iter().map(|item| (name(item), item)).collect()
    };
    let (before, after) = (by_name(running), by_name(wanted));
    for old in running {
        match after.get(name(old)) {
            None => push(ChangeKind::Removed, old, Vec::new()),
            Some(new) => {
                let details = differ(old, new);
                if !details.is_empty() {
                    push(ChangeKind::Changed, new, details);
                }
            }
        }
    }
    for new in wanted {
        if !before.contains_key(name(new)) {
            push(ChangeKind::Added, new, Vec::new());
        }
    }
}

fn field<T: PartialEq + Debug>(details: &mut Vec<String>, name: &str, old: &T, new: &T) {
    if old != new {
        details.push(format!("{name}: {old:?} -> {new:?}"));
    }
}

/// Says which fields of a table change.
fn changed(details: &mut Vec<String>, table: &str, fields: &[&str]) {
    if !fields.is_empty() {
        details.push(format!("{table}: {} change", fields.join(", ")));
    }
}

fn network(old: &Network, new: &Network) -> Vec<String> {
    let mut details = Vec::new();
    field(&mut details, "tenant", &old.tenant, &new.tenant);
    field(
        &mut details,
        "shared_with",
        &old.shared_with,
        &new.shared_with,
    );
    let vid = |n: &Network| n.vlan.map(policy::VlanId::get);
    field(&mut details, "vlan", &vid(old), &vid(new));
    field(&mut details, "mac_limit", &old.mac_limit, &new.mac_limit);
    field(&mut details, "ageing_s", &old.ageing_s, &new.ageing_s);
    let (a, b) = (&old.moves, &new.moves);
    field(&mut details, "mac_moves", &a.most, &b.most);
    field(&mut details, "mac_hold_s", &a.hold_s, &b.hold_s);
    let (old, new) = (&old.services, &new.services);
    changed(&mut details, "dhcp", &old.dhcp.changed(&new.dhcp));
    changed(&mut details, "dhcp6", &old.dhcp6.changed(&new.dhcp6));
    if old.advertisements != new.advertisements {
        details.push("router_advertisements change".into());
    }
    field(&mut details, "neighbors", &old.neighbors, &new.neighbors);
    details
}

fn host_routes(old: &HostRoutes, new: &HostRoutes) -> Vec<String> {
    let mut details = Vec::new();
    field(&mut details, "port", &old.port, &new.port);
    field(&mut details, "networks", &old.networks, &new.networks);
    field(&mut details, "addresses", &old.addresses, &new.addresses);
    field(&mut details, "protocol", &old.protocol, &new.protocol);
    field(&mut details, "metric", &old.metric, &new.metric);
    field(&mut details, "table", &old.table, &new.table);
    details
}

fn port(old: &Port, new: &Port) -> Vec<String> {
    let mut details = Vec::new();
    driver(&mut details, &old.driver, &new.driver);
    field(&mut details, "fault", &old.fault, &new.fault);
    if !details.is_empty() {
        details.push("the port is closed and opened again".into());
    }
    field(&mut details, "network", &old.attachment, &new.attachment);
    field(&mut details, "isolated", &old.isolated, &new.isolated);
    field(
        &mut details,
        "spanning_tree",
        &old.spanning_tree.name(),
        &new.spanning_tree.name(),
    );
    field(
        &mut details,
        "enable_after_s",
        &old.enable_after_s,
        &new.enable_after_s,
    );
    field(&mut details, "mac_limit", &old.mac_limit, &new.mac_limit);
    field(&mut details, "storm", &old.storm, &new.storm);
    field(
        &mut details,
        "misses_per_turn",
        &old.misses_per_turn,
        &new.misses_per_turn,
    );
    field(&mut details, "workers", &old.workers, &new.workers);
    details
}

fn driver(details: &mut Vec<String>, old: &Driver, new: &Driver) {
    match (old, new) {
        (Driver::AfXdp(old), Driver::AfXdp(new)) => {
            field(details, "interface", &old.interface, &new.interface);
            field(details, "queues", &old.queues, &new.queues);
            field(details, "mode", &old.mode, &new.mode);
            field(details, "zero_copy", &old.zero_copy, &new.zero_copy);
            field(details, "ring_size", &old.ring_size, &new.ring_size);
            field(details, "frame_bytes", &old.frame_bytes, &new.frame_bytes);
        }
        (Driver::Tap(old), Driver::Tap(new)) => {
            field(details, "interface", &old.interface, &new.interface);
            field(details, "queues", &old.queues, &new.queues);
            field(details, "mtu", &old.mtu, &new.mtu);
            let mac = |mac: Option<[u8; 6]>| mac.map(policy::Mac);
            field(details, "mac", &mac(old.mac), &mac(new.mac));
        }
        (Driver::Pcap(old), Driver::Pcap(new)) => {
            field(details, "replay", &old.replay, &new.replay);
            field(details, "pace", &old.pace, &new.pace);
            field(details, "repeat", &old.repeat, &new.repeat);
            field(details, "write", &old.write, &new.write);
        }
        (Driver::Memory(old), Driver::Memory(new)) => {
            field(details, "slots", &old.slots, &new.slots);
            field(
                details,
                "max_frame_bytes",
                &old.max_frame_bytes,
                &new.max_frame_bytes,
            );
        }
        (Driver::VhostUser(old), Driver::VhostUser(new)) => {
            field(details, "socket", &old.socket, &new.socket);
            field(details, "role", &old.role, &new.role);
            field(details, "socket_mode", &old.socket_mode, &new.socket_mode);
            field(details, "queues", &old.queues, &new.queues);
            field(details, "features", &old.features, &new.features);
            field(
                details,
                "max_frame_bytes",
                &old.max_frame_bytes,
                &new.max_frame_bytes,
            );
        }
        _ => field(details, "driver", &old.name(), &new.name()),
    }
}

fn vnic(old: &Vnic, new: &Vnic) -> Vec<String> {
    let mut details = Vec::new();
    field(&mut details, "vm", &old.vm, &new.vm);
    field(&mut details, "tenant", &old.tenant, &new.tenant);
    field(&mut details, "groups", &old.groups, &new.groups);
    field(&mut details, "port", &old.port, &new.port);
    field(&mut details, "mac", &old.mac, &new.mac);
    field(&mut details, "ipv4", &old.ipv4, &new.ipv4);
    field(&mut details, "ipv6", &old.ipv6, &new.ipv6);
    field(&mut details, "anti_spoofing", &old.checks, &new.checks);
    field(
        &mut details,
        "connection_limit",
        &old.connection_limit,
        &new.connection_limit,
    );
    field(&mut details, "inbound", &old.inbound, &new.inbound);
    field(&mut details, "outbound", &old.outbound, &new.outbound);
    let (old, new) = (&old.services, &new.services);
    let roles = |services: &VnicServices| (services.dhcp_server, services.router);
    if roles(old) != roles(new) {
        details.push("roles change".into());
    }
    changed(&mut details, "dhcp", &old.dhcp.changed(&new.dhcp));
    changed(&mut details, "dhcp6", &old.dhcp6.changed(&new.dhcp6));
    details
}

fn connections(running: &Config, wanted: &Config) -> Vec<String> {
    let mut details = Vec::new();
    let (old, new) = (&running.connections.settings, &wanted.connections.settings);
    field(&mut details, "tcp_loose", &old.tcp_loose, &new.tcp_loose);
    field(&mut details, "timeouts", &old.timeouts, &new.timeouts);
    details
}

/// How many lines of one list are shown at most.
const LINES_SHOWN: usize = 20;

fn rules(old: &AclRules, new: &AclRules) -> Vec<String> {
    // What a long list has in common at both ends is not counted rule by rule.
    let (old, new) = (old.rules(), new.rules());
    let (ahead, behind) = old.common_ends(new, AclRule::same);
    let texts = |rules: &Runs<AclRule>| {
        let middle = rules.range(ahead..rules.len() - behind);
        middle.map(|rule| rule.text.to_string()).collect()
    };
    lines(texts(old), texts(new), "rules")
}

fn address_set(old: &AddressSet, new: &AddressSet) -> Vec<String> {
    let texts = |set: &AddressSet| set.addresses.iter().copied().map(net_text).collect();
    lines(texts(old), texts(new), "addresses")
}

fn router(old: &Router, new: &Router) -> Vec<String> {
    let mut details = Vec::new();
    field(&mut details, "tenant", &old.tenant, &new.tenant);
    field(&mut details, "mac", &old.mac, &new.mac);
    field(&mut details, "interface", &old.interfaces, &new.interfaces);
    let routes = |router: &Router| {
        let routes = router.routes.iter();
        let text = |route: &RouterRoute| {
            let name = |to: InterfaceId| &router.interfaces[to.index()].network;
            let leads = match &route.action {
                RouteAction::Via(hops) => {
                    let hops = hops.iter().map(|hop| hop.address.to_string());
                    format!("via {}", hops.collect::<Vec<_>>().join(", "))
                }
                RouteAction::OnLink(interface) => format!("in network {}", name(*interface)),
                RouteAction::Blackhole => "blackhole".into(),
                RouteAction::Reject => "reject".into(),
            };
            format!("{} {leads} metric {}", route.to, route.metric)
        };
        routes.map(text).collect()
    };
    details.extend(lines(routes(old), routes(new), "routes"));
    details
}

/// The decapsulator with its sessions and sniffers.
fn decapsulator<'c>(changes: &mut Vec<Change>, running: &'c Config, wanted: &'c Config) {
    let (old, new) = (&running.decapsulator, &wanted.decapsulator);
    compare(
        changes,
        "decapsulator",
        old.as_slice(),
        new.as_slice(),
        |_| "decapsulator",
        |old, new| {
            let mut details = Vec::new();
            field(&mut details, "port", &old.port, &new.port);
            field(&mut details, "addresses", &old.addresses, &new.addresses);
            field(&mut details, "mac", &old.mac, &new.mac);
            field(&mut details, "core", &old.core, &new.core);
            let naps = (old.max_sleep_us, new.max_sleep_us);
            field(&mut details, "max_sleep_us", &naps.0, &naps.1);
            field(&mut details, "bounds", &old.options, &new.options);
            details
        },
    );
    let [before, after] = [old, new].map(Option::as_ref);
    let sessions = |d: Option<&'c Decapsulator>| d.map_or(&[][..], |d| &d.sessions);
    compare(
        changes,
        "decapsulator_session",
        sessions(before),
        sessions(after),
        |session| &session.name,
        |old, new| {
            let mut details = Vec::new();
            field(&mut details, "tenant", &old.tenant, &new.tenant);
            field(&mut details, "carried", &old.identity, &new.identity);
            field(&mut details, "sniffers", &old.sniffers, &new.sniffers);
            field(&mut details, "fan_out", &old.fan_out, &new.fan_out);
            field(&mut details, "once", &old.once, &new.once);
            details
        },
    );
    let sniffers = |d: Option<&'c Decapsulator>| d.map_or(&[][..], |d| &d.sniffers);
    compare(
        changes,
        "sniffer",
        sniffers(before),
        sniffers(after),
        |sniffer| &sniffer.name,
        |old, new| {
            let mut details = Vec::new();
            field(&mut details, "tenant", &old.tenant, &new.tenant);
            field(&mut details, "mac", &old.mac, &new.mac);
            field(&mut details, "to", &old.sink, &new.sink);
            let queues = (old.queue_frames, new.queue_frames);
            field(&mut details, "queue_frames", &queues.0, &queues.1);
            let longest = (old.max_frame_bytes, new.max_frame_bytes);
            field(&mut details, "max_frame_bytes", &longest.0, &longest.1);
            details
        },
    );
}

fn mirror_target(old: &MirrorTarget, new: &MirrorTarget) -> Vec<String> {
    let mut details = Vec::new();
    field(&mut details, "kind", &old.kind, &new.kind);
    field(&mut details, "local", &old.local, &new.local);
    field(&mut details, "remote", &old.remote, &new.remote);
    field(&mut details, "way", &old.way, &new.way);
    field(&mut details, "mtu", &old.mtu, &new.mtu);
    field(&mut details, "too_long", &old.too_long, &new.too_long);
    field(&mut details, "dscp", &old.dscp, &new.dscp);
    field(&mut details, "tenants", &old.tenants, &new.tenants);
    field(&mut details, "session_numbers", &old.numbers, &new.numbers);
    details
}

fn port_set(old: &PortSet, new: &PortSet) -> Vec<String> {
    let texts = |set: &PortSet| set.ports.iter().map(range_text).collect();
    lines(texts(old), texts(new), "ports")
}

/// What went and what came, one line each.
fn lines(old: Vec<String>, new: Vec<String>, what: &str) -> Vec<String> {
    if old == new {
        return Vec::new();
    }
    let count = |texts: &[String]| {
        let mut counts = std::collections::HashMap::<String, i64>::new();
        for text in texts {
            *counts.entry(text.clone()).or_default() += 1;
        }
        counts
    };
    let (mut before, mut after) = (count(&old), count(&new));
    let mut details = Vec::new();
    for (sign, texts, others) in [("- ", old, &mut after), ("+ ", new, &mut before)] {
        for text in texts {
            let left = others.entry(text.clone()).or_default();
            *left -= 1;
            if *left < 0 {
                details.push(format!("{sign}{text}"));
            }
        }
    }
    if details.is_empty() {
        details.push(format!("the {what} are in another order"));
    }
    let more = details.len().saturating_sub(LINES_SHOWN);
    if more > 0 {
        details.truncate(LINES_SHOWN);
        details.push(format!("and {more} more"));
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Machine};

    const BASE: &str = r#"
[[network]]
name = "blue"
tenant = "acme"
[[port]]
name = "p"
driver = "memory"
network = "blue"
[[acl]]
name = "web"
rules = [
  { action = "allow", protocol = "tcp" },
  { action = "deny", protocol = "udp" },
]
"#;

    fn parsed(text: &str) -> Config {
        let machine = Machine {
            cores: vec![0, 1],
            memory_bytes: 0,
        };
        config::parse("a.toml", text, &machine).expect("valid")
    }

    fn told(from: &str, to: &str) -> Vec<String> {
        let changes = changes(&parsed(from), &parsed(to));
        changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn moved_lines_and_comments_are_no_change() {
        let moved = format!("# a comment\n\n{BASE}");
        assert!(told(BASE, &moved).is_empty());
    }

    #[test]
    fn each_change_is_told_with_its_field() {
        let to = BASE
            .replace("tenant = \"acme\"", "tenant = \"acme\"\nageing_s = 60")
            .replace("driver = \"memory\"", "driver = \"memory\"\nslots = 64")
            .replace("\"udp\"", "\"icmp\"");
        assert_eq!(
            told(BASE, &to),
            [
                "~ network blue\n    ageing_s: 300 -> 60",
                "~ port p\n    slots: 256 -> 64\n    the port is closed and opened again",
                "~ acl web\n    - deny udp\n    + deny icmp",
            ]
        );
    }

    #[test]
    fn another_order_of_rules_is_a_change() {
        let to = BASE
            .replace("{ action = \"allow\", protocol = \"tcp\" },\n", "")
            .replace(
                "\"udp\" },",
                "\"udp\" }, { action = \"allow\", protocol = \"tcp\" },",
            );
        assert_eq!(
            told(BASE, &to),
            ["~ acl web\n    the rules are in another order"]
        );
    }

    #[test]
    fn what_needs_a_restart_says_so() {
        let to = format!("[workers]\ncores = [1]\n[metrics]\nlisten = \"[::1]:1\"\n{BASE}");
        let reasons = needs_restart(&parsed(BASE), &parsed(&to));
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        assert!(reasons[0].contains("cores: [0] -> [1]"), "{reasons:?}");
    }

    #[test]
    fn what_is_named_is_looked_up_once_however_much_there_is() {
        const COUNT: usize = 10_000;
        let names =
            |skip: usize| -> Vec<String> { (skip..skip + COUNT).map(|n| n.to_string()).collect() };
        let (running, wanted) = (names(0), names(1));
        let (asked, differ) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        let mut changes = Vec::new();
        compare(
            &mut changes,
            "thing",
            &running,
            &wanted,
            |item| {
                asked.set(asked.get() + 1);
                item.as_str()
            },
            |_, _| {
                differ.set(differ.get() + 1);
                Vec::new()
            },
        );
        assert_eq!(changes.len(), 2);
        assert_eq!(differ.get(), COUNT - 1);
        // Of each, for the table and for the look, and of what changed.
        assert_eq!(asked.get(), 4 * COUNT + 2);
    }
}
