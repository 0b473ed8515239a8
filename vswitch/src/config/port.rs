//! `[[port]]`: the fields that every port has, and those of its driver.

use std::{path::PathBuf, sync::Arc};

use pmd::{
    af_xdp::{Mode, ZeroCopy},
    fault::Probability,
    pcap::{Pace, Repeat},
    vhost_user::{Features, Role},
};
use policy::model::{SpanningTree, StormLimits};

use super::{
    problem::nearest,
    read::own_mac,
    schema,
    section::Section,
    types::{AfXdp, Attachment, Driver, Memory, Pcap, Port, VhostUser},
};

/// The most that the buffers of a `memory` port may take in one direction.
const MAX_MEMORY_PORT_BYTES: usize = 256 << 20;

/// The longest path of a socket, in bytes (unix(7): 108 with the zero behind it).
pub(super) const MAX_SOCKET_BYTES: usize = 107;
/// The permissions that a socket may have.
const SOCKET_MODES: &[(&str, u32)] = &[("0600", 0o600), ("0660", 0o660), ("0666", 0o666)];

pub(super) fn port(section: &Section<'_>, name: &Arc<str>) -> Option<Port> {
    let driver = driver(section);
    let attachment = attachment(section);
    let isolated = section.bool("isolated").unwrap_or(false);
    let (spanning_tree, enable_after_s) = spanning_tree(section);
    let mac_limit = section.integer("mac_limit", 1..=1_048_576);
    let misses_per_turn = section.integer("misses_per_turn", 1..=65_536);
    let storm = section
        .section("storm", &schema::STORM)
        .map(|section| storm(&section))
        .unwrap_or_default();
    let fault = section
        .section("fault", &schema::FAULT)
        .map(|section| fault(&section));
    let workers = section.integers("workers", &(0..=4095_u16));
    Some(Port {
        name: Arc::clone(name),
        driver: driver?,
        attachment: attachment?,
        isolated,
        spanning_tree,
        enable_after_s,
        mac_limit: mac_limit.unwrap_or(4096),
        storm,
        misses_per_turn: misses_per_turn.unwrap_or(4),
        workers: workers.iter().map(|w| w.value as usize).collect(),
        fault,
    })
}

/// What becomes of spanning tree frames, and when a port that one disabled is enabled again.
fn spanning_tree(section: &Section<'_>) -> (SpanningTree, Option<u32>) {
    let named = section.string("spanning_tree").and_then(|text| {
        let choices = SpanningTree::ALL.map(|choice| (choice.name(), choice));
        section.reader.choice(&text, &choices)
    });
    let spanning_tree = named.unwrap_or_default();
    let enable_after_s = section.integer("enable_after_s", 1..=86_400);
    if let Some(span) = section.key_span("enable_after_s")
        && spanning_tree != SpanningTree::Disable
    {
        section.reader.report(
            &span,
            "enable_after_s is of a port that spanning tree frames disable",
            "add spanning_tree = \"disable\", or leave it out",
        );
    }
    (spanning_tree, enable_after_s)
}

fn attachment(section: &Section<'_>) -> Option<Attachment> {
    let reader = section.reader;
    let tagged = section.strings("trunk");
    let native = section.string("native");
    if let Some(network) = section.string("network") {
        for field in ["trunk", "native"] {
            if let Some(span) = section.key_span(field) {
                reader.report(
                    &span,
                    format!("a port with network has no {field}"),
                    "use network for an access port, trunk and native for a trunk port",
                );
            }
        }
        return Some(Attachment::Access(network.value.into()));
    }
    if section.get("trunk").is_none() && native.is_none() {
        if section.get("network").is_none() {
            reader.report(
                &section.span,
                "the port belongs to no network",
                "add network = \"...\" (access port) or trunk = [\"...\"] (trunk port)",
            );
        }
        return None;
    }
    if section.get("trunk").is_none() {
        reader.report(
            &section.value_span("native"),
            "native without trunk",
            "for a port of one network without tags, use network = \"...\"",
        );
    }
    Some(Attachment::Trunk {
        tagged: tagged.into_iter().map(|n| n.value.into()).collect(),
        native: native.map(|n| n.value.into()),
    })
}

fn storm(section: &Section<'_>) -> StormLimits {
    StormLimits {
        broadcast_pps: section.integer("broadcast_pps", 0..=100_000_000),
        multicast_pps: section.integer("multicast_pps", 0..=100_000_000),
        unknown_pps: section.integer("unknown_pps", 0..=100_000_000),
    }
}

fn fault(section: &Section<'_>) -> pmd::fault::Config {
    let probability = |field| {
        section
            .share(field)
            .and_then(Probability::new)
            .unwrap_or(Probability::NEVER)
    };
    pmd::fault::Config {
        seed: section.integer("seed", 0..=i64::MAX).unwrap_or(0) as u64,
        drop: probability("drop"),
        corrupt: probability("corrupt"),
        duplicate: probability("duplicate"),
        delay: probability("delay"),
        delay_receives: section
            .integer("delay_receives", 1..=1_000_000)
            .unwrap_or(1),
        full: probability("full"),
    }
}

pub(super) fn driver(section: &Section<'_>) -> Option<Driver> {
    const DRIVERS: &[(&str, &str)] = &[
        ("af_xdp", "af_xdp"),
        ("tap", "tap"),
        ("pcap", "pcap"),
        ("memory", "memory"),
        ("vhost_user", "vhost_user"),
    ];
    let name = section.required("driver")?;
    let driver = section.reader.choice(&name, DRIVERS)?;
    foreign_fields(section, driver);
    match driver {
        "af_xdp" => af_xdp(section).map(Driver::AfXdp),
        "tap" => tap(section).map(Driver::Tap),
        "pcap" => pcap(section).map(Driver::Pcap),
        "vhost_user" => vhost_user(section).map(Driver::VhostUser),
        _ => Some(Driver::Memory(memory(section))),
    }
}

/// Notes fields that belong to other drivers.
fn foreign_fields(section: &Section<'_>, driver: &str) {
    let own = schema::DRIVER_FIELDS
        .iter()
        .find(|(name, _)| *name == driver)
        .map_or(&[][..], |(_, fields)| fields);
    for field in schema::PORT.fields.iter().filter(|f| !own.contains(f)) {
        let owners = schema::DRIVER_FIELDS
            .iter()
            .filter(|(_, fields)| fields.contains(field));
        let owners: Vec<_> = owners.map(|(name, _)| format!("\"{name}\"")).collect();
        if let Some(span) = section.key_span(field).filter(|_| !owners.is_empty()) {
            section.reader.report(
                &span,
                format!(
                    "{field} is a field of driver {}, and this port's is \"{driver}\"",
                    owners.join(" and ")
                ),
                format!("fields of \"{driver}\": {}", own.join(", ")),
            );
        }
    }
}

/// An interface name that the kernel takes.
fn interface(section: &Section<'_>) -> Option<String> {
    let name = section.required("interface")?;
    let valid = (1..=15).contains(&name.value.len())
        && !name
            .value
            .contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if !valid {
        section.reader.report(
            &name.span,
            format!(
                "\"{}\" cannot be the name of a network interface",
                name.value
            ),
            "use 1 to 15 bytes without spaces, / and :",
        );
    }
    valid.then_some(name.value)
}

fn af_xdp(section: &Section<'_>) -> Option<AfXdp> {
    const MODES: &[(&str, Mode)] = &[
        ("auto", Mode::Auto),
        ("native", Mode::Native),
        ("generic", Mode::Generic),
    ];
    let interface = interface(section);
    let queues = section.integer("queues", 1..=256);
    let mode = section
        .string("mode")
        .and_then(|text| section.reader.choice(&text, MODES));
    let zero_copy = section.bool("zero_copy");
    let ring_size = section.integer("ring_size", 64..=16_384_u32);
    power_of_two(section, "ring_size", ring_size);
    let frame_bytes = section.integer("frame_bytes", 2048..=4096_u32);
    power_of_two(section, "frame_bytes", frame_bytes);
    let defaults = pmd::af_xdp::Config::new("");
    Some(AfXdp {
        interface: interface?,
        queues,
        mode: mode.unwrap_or_default(),
        zero_copy: match zero_copy {
            Some(false) => ZeroCopy::Never,
            _ => ZeroCopy::Auto,
        },
        ring_size: ring_size.unwrap_or(defaults.ring_size),
        frame_bytes,
    })
}

pub(super) fn power_of_two(section: &Section<'_>, field: &str, value: Option<u32>) {
    if let Some(value) = value.filter(|n| !n.is_power_of_two()) {
        section.reader.report(
            &section.value_span(field),
            format!("{field} = {value} is not a power of two"),
            format!("use {}", value.next_power_of_two()),
        );
    }
}

fn tap(section: &Section<'_>) -> Option<pmd::tap::Config> {
    let interface = interface(section);
    let queues = section.integer("queues", 1..=256);
    let mtu = section.integer("mtu", 68..=65_521);
    let mac = section
        .string("mac")
        .and_then(|text| own_mac(section, &text));
    Some(pmd::tap::Config {
        queues: queues.unwrap_or(1),
        mtu,
        mac: mac.map(|mac| mac.0),
        ..pmd::tap::Config::new(interface?)
    })
}

fn pcap(section: &Section<'_>) -> Option<Pcap> {
    const PACES: &[(&str, Pace)] = &[("recorded", Pace::Recorded), ("as_fast", Pace::AsFast)];
    const REPEATS: &[(&str, Repeat)] = &[("once", Repeat::Once), ("forever", Repeat::Forever)];
    let reader = section.reader;
    let replay = section.string("replay").map(|p| PathBuf::from(p.value));
    let write = section.string("write").map(|p| PathBuf::from(p.value));
    if section.get("replay").is_none() && section.get("write").is_none() {
        reader.report(
            &section.span,
            "a pcap port replays a file, writes one, or both",
            "add replay = \"FILE\" or write = \"FILE\"",
        );
        return None;
    }
    let rate = section.integer("rate_pps", 1..=1_000_000_000_u32);
    let named = section
        .string("pace")
        .and_then(|text| reader.choice(&text, PACES));
    if let Some(span) = section.key_span("rate_pps").filter(|_| named.is_some()) {
        reader.report(&span, "rate_pps and pace exclude each other", "keep one");
    }
    let repeat = match section.get("repeat").map(toml::Spanned::get_ref) {
        Some(toml::de::DeValue::Integer(_)) => section
            .integer("repeat", 1..=u32::MAX)
            .map(|n| Repeat::Times(n as u64)),
        Some(_) => section
            .string("repeat")
            .and_then(|text| reader.choice(&text, REPEATS)),
        None => None,
    };
    Some(Pcap {
        replay,
        pace: rate.map_or(named.unwrap_or(Pace::Recorded), |n| Pace::RatePps(n as u64)),
        repeat: repeat.unwrap_or(Repeat::Once),
        write,
    })
}

fn memory(section: &Section<'_>) -> Memory {
    let slots = section.integer("slots", 2..=65_536_u32);
    power_of_two(section, "slots", slots);
    let max_frame_bytes = section.integer("max_frame_bytes", 64..=65_536_u32);
    let memory = Memory {
        slots: slots.unwrap_or(256),
        max_frame_bytes: max_frame_bytes.unwrap_or(2048) as usize,
    };
    let bytes = memory.slots as usize * memory.max_frame_bytes;
    if bytes > MAX_MEMORY_PORT_BYTES {
        section.reader.report(
            &section.value_span("slots"),
            format!("{} MiB of buffers in each direction", bytes >> 20),
            format!(
                "use fewer slots: at most {} MiB",
                MAX_MEMORY_PORT_BYTES >> 20
            ),
        );
    }
    memory
}

fn vhost_user(section: &Section<'_>) -> Option<VhostUser> {
    const ROLES: &[(&str, Role)] = &[("client", Role::Client), ("server", Role::Server)];
    let socket = section.required("socket");
    if let Some(socket) = &socket
        && (!socket.value.starts_with('/') || socket.value.len() > MAX_SOCKET_BYTES)
    {
        section.reader.report(
            &socket.span,
            format!("socket must be an absolute path of at most {MAX_SOCKET_BYTES} bytes"),
            "as in \"/run/vhost/vm1.sock\"",
        );
    }
    let role = section
        .string("role")
        .and_then(|text| section.reader.choice(&text, ROLES));
    if let Some(span) = section
        .key_span("socket_mode")
        .filter(|_| role != Some(Role::Server))
    {
        section.reader.report(
            &span,
            "with role = \"client\" the socket is the front end's",
            "set its permissions there, or use role = \"server\"",
        );
    }
    let socket_mode = section
        .string("socket_mode")
        .and_then(|text| section.reader.choice(&text, SOCKET_MODES));
    let queues = section.integer("queues", 1..=8_u16);
    let features = features(section);
    let max_frame_bytes = section.integer("max_frame_bytes", 1514..=65_550_u32);
    Some(VhostUser {
        socket: socket?.value.into(),
        // The one that survives a restart of the switch.
        role: role.unwrap_or(Role::Client),
        socket_mode: socket_mode.unwrap_or(0o600),
        queues: queues.unwrap_or(1),
        features,
        max_frame_bytes: max_frame_bytes.unwrap_or(65_550) as usize,
    })
}

/// What is offered: all that is known, or what is named.
fn features(section: &Section<'_>) -> Features {
    if section.get("features").is_none() {
        return Features::default();
    }
    let mut features = Features::NONE;
    for name in section.strings("features") {
        match features.with(&name.value) {
            Some(more) => features = more,
            None => section.reader.report(
                &name.span,
                format!("there is no feature \"{}\"", name.value),
                nearest(&name.value, Features::known().map(|(name, _)| name)),
            ),
        }
    }
    features
}
