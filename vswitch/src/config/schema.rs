//! The names of every table and field of a configuration. What is not here is an unknown field;
//! what is here is documented in `docs/config.md` (a test holds that).

/// A table of the configuration: how it is called in messages, and its fields.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// As it is written, such as `[[port]]`.
    pub name: &'static str,
    /// Its fields.
    pub fields: &'static [&'static str],
}

/// The file itself.
pub const ROOT: Schema = Schema {
    name: "the configuration",
    fields: &[
        "switch",
        "workers",
        "connections",
        "metrics",
        "policy",
        "host_routes",
        "network",
        "port",
        "vnic",
        "router",
        "acl",
        "group",
        "address_set",
        "port_set",
        "decapsulator",
        "sniffer",
        "mirror_target",
    ],
};
/// The file of a decapsulator that runs alone.
pub const DECAPSULATOR_ALONE: Schema = Schema {
    name: "the configuration of a decapsulator",
    fields: &["switch", "metrics", "decapsulator", "sniffer"],
};
/// `[decapsulator]`
pub const DECAPSULATOR: Schema = Schema {
    name: "[decapsulator]",
    fields: &[
        "port",
        "addresses",
        "mac",
        "core",
        "max_sleep_us",
        "max_sessions",
        "reassembly",
        "duplicates",
        "session",
    ],
};
/// `port` of the decapsulator or of a sniffer
pub const TUNNEL_PORT: Schema = Schema {
    name: "port",
    fields: &[
        "driver",
        "interface",
        "queues",
        "mode",
        "zero_copy",
        "ring_size",
        "frame_bytes",
        "mtu",
        "mac",
        "replay",
        "pace",
        "rate_pps",
        "repeat",
        "write",
        "slots",
        "max_frame_bytes",
        "socket",
        "socket_mode",
        "role",
        "features",
    ],
};
/// `reassembly` of the decapsulator
pub const REASSEMBLY: Schema = Schema {
    name: "reassembly",
    fields: &[
        "datagrams",
        "datagrams_of_sender",
        "datagram_bytes",
        "timeout_ms",
    ],
};
/// `duplicates` of the decapsulator
pub const DUPLICATES: Schema = Schema {
    name: "duplicates",
    fields: &["entries", "window_ms"],
};
/// `session` of the decapsulator
pub const SESSION: Schema = Schema {
    name: "[[decapsulator.session]]",
    fields: &[
        "name",
        "tenant",
        "source",
        "destination",
        "format",
        "id",
        "sniffers",
        "fan_out",
        "once",
    ],
};
/// `[[sniffer]]`
pub const SNIFFER: Schema = Schema {
    name: "[[sniffer]]",
    fields: &[
        "name",
        "tenant",
        "mac",
        "port",
        "files",
        "stream",
        "queue_frames",
        "max_frame_bytes",
    ],
};
/// `files` of a sniffer
pub const FILES: Schema = Schema {
    name: "files",
    fields: &["folder", "file_bytes", "file_s", "total_bytes"],
};
/// `[switch]`
pub const SWITCH: Schema = Schema {
    name: "[switch]",
    fields: &["socket", "socket_mode"],
};
/// `[workers]`
pub const WORKERS: Schema = Schema {
    name: "[workers]",
    fields: &["cores", "busy_poll", "max_sleep_us", "flow_cache_entries"],
};
/// `[connections]`
pub const CONNECTIONS: Schema = Schema {
    name: "[connections]",
    fields: &[
        "max",
        "tcp_loose",
        "tcp_syn_sent_s",
        "tcp_syn_recv_s",
        "tcp_established_s",
        "tcp_fin_wait_s",
        "tcp_close_wait_s",
        "tcp_last_ack_s",
        "tcp_time_wait_s",
        "tcp_close_s",
        "udp_unreplied_s",
        "udp_replied_s",
        "icmp_s",
        "other_s",
    ],
};
/// `[metrics]`
pub const METRICS: Schema = Schema {
    name: "[metrics]",
    fields: &["listen"],
};
/// `[policy]`
pub const POLICY: Schema = Schema {
    name: "[policy]",
    fields: &["max_lookup_cost"],
};
/// `[host_routes]`
pub const HOST_ROUTES: Schema = Schema {
    name: "[host_routes]",
    fields: &[
        "port",
        "networks",
        "addresses",
        "protocol",
        "metric",
        "table",
    ],
};
/// `[[network]]`
pub const NETWORK: Schema = Schema {
    name: "[[network]]",
    fields: &[
        "name",
        "tenant",
        "shared_with",
        "vlan",
        "mac_limit",
        "ageing_s",
        "mac_moves",
        "mac_hold_s",
        "dhcp",
        "dhcp6",
        "router_advertisements",
        "neighbors",
    ],
};
/// `dhcp` of a network or a vNIC
pub const DHCP: Schema = Schema {
    name: "dhcp",
    fields: &[
        "mode",
        "subnet",
        "server_address",
        "router",
        "dns",
        "search",
        "mtu",
        "routes",
        "lease_s",
        "hostname",
        "options",
        "next_server",
        "boot_file",
        "servers",
        "timeout_ms",
        "max_hops",
        "fallback",
    ],
};
/// One of `routes` of `dhcp`
pub const DHCP_ROUTE: Schema = Schema {
    name: "a route",
    fields: &["destination", "next_hop"],
};
/// One of `options` of `dhcp`
pub const DHCP_OPTION: Schema = Schema {
    name: "a DHCP option",
    fields: &["code", "hex", "text", "addresses"],
};
/// `dhcp6` of a network or a vNIC
pub const DHCP6: Schema = Schema {
    name: "dhcp6",
    fields: &[
        "mode",
        "dns",
        "search",
        "preferred_s",
        "valid_s",
        "rapid_commit",
        "boot_file_url",
        "servers",
    ],
};
/// `router_advertisements` of a network
pub const ROUTER_ADVERTISEMENTS: Schema = Schema {
    name: "router_advertisements",
    fields: &[
        "interval_s",
        "lifetime_s",
        "managed",
        "other",
        "hop_limit",
        "mtu",
        "prefixes",
        "dns",
        "search",
        "dns_lifetime_s",
    ],
};
/// One of `prefixes` of `router_advertisements`
pub const PREFIX: Schema = Schema {
    name: "a prefix",
    fields: &["prefix", "on_link", "autonomous", "valid_s", "preferred_s"],
};
/// `neighbors` of a network
pub const NEIGHBORS: Schema = Schema {
    name: "neighbors",
    fields: &[
        "proxy",
        "fallback_ms",
        "announcements",
        "announcement_interval_ms",
        "moving_interval_ms",
    ],
};
/// `[[port]]`
pub const PORT: Schema = Schema {
    name: "[[port]]",
    fields: &[
        "name",
        "driver",
        "network",
        "trunk",
        "native",
        "isolated",
        "spanning_tree",
        "enable_after_s",
        "mac_limit",
        "storm",
        "misses_per_turn",
        "workers",
        "fault",
        "interface",
        "queues",
        "mode",
        "zero_copy",
        "ring_size",
        "frame_bytes",
        "mtu",
        "mac",
        "replay",
        "pace",
        "rate_pps",
        "repeat",
        "write",
        "slots",
        "max_frame_bytes",
        "socket",
        "socket_mode",
        "role",
        "features",
    ],
};
/// The fields of `[[port]]` that belong to a driver, by driver.
pub const DRIVER_FIELDS: &[(&str, &[&str])] = &[
    (
        "af_xdp",
        &[
            "interface",
            "queues",
            "mode",
            "zero_copy",
            "ring_size",
            "frame_bytes",
        ],
    ),
    ("tap", &["interface", "queues", "mtu", "mac"]),
    ("pcap", &["replay", "pace", "rate_pps", "repeat", "write"]),
    ("memory", &["slots", "max_frame_bytes"]),
    (
        "vhost_user",
        &[
            "socket",
            "role",
            "socket_mode",
            "queues",
            "features",
            "max_frame_bytes",
        ],
    ),
];
/// `storm` of a port
pub const STORM: Schema = Schema {
    name: "storm",
    fields: &["broadcast_pps", "multicast_pps", "unknown_pps"],
};
/// `fault` of a port
pub const FAULT: Schema = Schema {
    name: "fault",
    fields: &[
        "seed",
        "drop",
        "corrupt",
        "duplicate",
        "delay",
        "delay_receives",
        "full",
    ],
};
/// `[[vnic]]`
pub const VNIC: Schema = Schema {
    name: "[[vnic]]",
    fields: &[
        "name",
        "vm",
        "tenant",
        "port",
        "mac",
        "ipv4",
        "ipv6",
        "anti_spoofing",
        "connection_limit",
        "groups",
        "inbound",
        "outbound",
        "roles",
        "dhcp",
        "dhcp6",
    ],
};
/// `[[router]]`
pub const ROUTER: Schema = Schema {
    name: "[[router]]",
    fields: &["name", "tenant", "mac", "interface", "route"],
};
/// `interface` of a router
pub const ROUTER_INTERFACE: Schema = Schema {
    name: "[[router.interface]]",
    fields: &["network", "addresses", "mtu", "clamp_mss"],
};
/// `route` of a router
pub const ROUTER_ROUTE: Schema = Schema {
    name: "[[router.route]]",
    fields: &["to", "via", "network", "action", "metric"],
};
/// `[[mirror_target]]`
pub const MIRROR_TARGET: Schema = Schema {
    name: "[[mirror_target]]",
    fields: &[
        "name",
        "kind",
        "local",
        "remote",
        "router",
        "port",
        "peer_mac",
        "mac",
        "vlan",
        "mtu",
        "too_long",
        "dscp",
        "tenants",
        "session_numbers",
    ],
};
/// `anti_spoofing` of a vNIC
pub const ANTI_SPOOFING: Schema = Schema {
    name: "anti_spoofing",
    fields: &["mac", "ipv4", "ipv6", "arp", "nd"],
};
/// `inbound` and `outbound` of a vNIC
pub const DIRECTION: Schema = Schema {
    name: "inbound/outbound",
    fields: &["acl", "default"],
};
/// `[[acl]]`
pub const ACL: Schema = Schema {
    name: "[[acl]]",
    fields: &["name", "rules", "rule"],
};
/// `[[group]]`
pub const GROUP: Schema = Schema {
    name: "[[group]]",
    fields: &["name", "rules", "rule"],
};
/// `[[address_set]]`
pub const ADDRESS_SET: Schema = Schema {
    name: "[[address_set]]",
    fields: &["name", "addresses"],
};
/// `[[port_set]]`
pub const PORT_SET: Schema = Schema {
    name: "[[port_set]]",
    fields: &["name", "ports"],
};
/// A rule of an ACL or a group
pub const RULE: Schema = Schema {
    name: "a rule",
    fields: &[
        "action",
        "direction",
        "priority",
        "log",
        "limit",
        "eth_src",
        "eth_dst",
        "ethertype",
        "vlan",
        "src",
        "dst",
        "protocol",
        "src_ports",
        "dst_ports",
        "icmp_type",
        "icmp_code",
        "tcp_flags",
        "fragment",
    ],
};

/// Every table there is.
pub const ALL: &[Schema] = &[
    ROOT,
    SWITCH,
    WORKERS,
    CONNECTIONS,
    METRICS,
    POLICY,
    HOST_ROUTES,
    NETWORK,
    DHCP,
    DHCP_ROUTE,
    DHCP_OPTION,
    DHCP6,
    ROUTER_ADVERTISEMENTS,
    PREFIX,
    NEIGHBORS,
    PORT,
    STORM,
    FAULT,
    VNIC,
    MIRROR_TARGET,
    ANTI_SPOOFING,
    DIRECTION,
    ACL,
    GROUP,
    ADDRESS_SET,
    PORT_SET,
    RULE,
    DECAPSULATOR,
    TUNNEL_PORT,
    REASSEMBLY,
    DUPLICATES,
    SESSION,
    SNIFFER,
    FILES,
];
