//! `[[mirror_target]]`: where tenants' mirror sessions may send their copies.
//!
//! In: sections. Out: targets whose parts go together. What must hold: two targets never give two
//! sessions the same outer addresses, format and number, since nothing else tells them apart.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    sync::Arc,
};

use mirror::wire::{Oversize, TunnelKind};
use policy::{Mac, VlanId};

use super::{
    check::exists,
    read::{Draft, own_mac},
    router::derived_mac,
    section::{At, Section},
};

/// The formats, as they are written.
pub const KINDS: &[(&str, TunnelKind)] = &[
    ("erspan-1", TunnelKind::ErspanI),
    ("erspan-2", TunnelKind::ErspanII),
    ("erspan-3", TunnelKind::ErspanIII),
    ("gre", TunnelKind::Ethernet),
    ("vxlan", TunnelKind::Vxlan),
];
const OVERSIZE: &[(&str, Oversize)] = &[
    ("truncate", Oversize::Truncate),
    ("fragment", Oversize::Fragment),
    ("count", Oversize::Count),
];
/// What every host takes in one piece (RFC 791, RFC 8200 §5).
const LEAST_MTU_V4: u16 = 576;
const LEAST_MTU_V6: u16 = 1280;
const DEFAULT_MTU: u16 = 1500;
/// Unless the target says otherwise: 0 is what many other senders use.
const DEFAULT_NUMBERS: RangeInclusive<u32> = 1..=1023;

/// `[[mirror_target]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorTarget {
    /// Its name.
    pub name: Arc<str>,
    /// The format.
    pub kind: TunnelKind,
    /// The tunnel's own address.
    pub local: IpAddr,
    /// The decapsulator's.
    pub remote: IpAddr,
    /// How copies leave the switch.
    pub way: Way,
    /// The longest outer packet, bytes.
    pub mtu: u16,
    /// What becomes of longer ones.
    pub too_long: Oversize,
    /// Of the outer packets.
    pub dscp: u8,
    /// Who may use it; none is everybody.
    pub tenants: Vec<Arc<str>>,
    /// The numbers that its sessions get.
    pub numbers: RangeInclusive<u32>,
}

impl MirrorTarget {
    /// Whether a tenant may use it.
    pub fn is_for(&self, tenant: &str) -> bool {
        self.tenants.is_empty() || self.tenants.iter().any(|one| **one == *tenant)
    }
}

/// How copies leave the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// As that router would send them.
    Router(Arc<str>),
    /// By that port, to that neighbour.
    Port {
        /// The port.
        port: Arc<str>,
        /// The neighbour's Ethernet address.
        peer: Mac,
        /// The address that they leave with.
        own: Mac,
        /// The tag that they leave with.
        vlan: Option<VlanId>,
    },
}

/// The format's name in a configuration.
pub fn kind_name(kind: TunnelKind) -> &'static str {
    let found = KINDS.iter().find(|(_, known)| *known == kind);
    found.map_or(kind.name(), |(name, _)| name)
}

/// `[[mirror_target]]`
pub(super) fn target(section: &Section<'_>, name: &Arc<str>) -> Option<MirrorTarget> {
    let kind = section
        .required("kind")
        .and_then(|text| section.reader.choice(&text, KINDS));
    let (local, remote) = (address(section, "local"), address(section, "remote"));
    let way = way(section, name);
    let too_long = section
        .string("too_long")
        .and_then(|text| section.reader.choice(&text, OVERSIZE));
    let dscp = section.integer("dscp", 0..=63_u8).unwrap_or(0);
    let tenants = section.strings("tenants");
    if tenants.is_empty() && section.get("tenants").is_some() {
        let help = "name tenants, or leave tenants out: then every tenant may use it";
        let span = section.value_span("tenants");
        section
            .reader
            .report(&span, "nobody may use the target", help);
    }
    let (local, remote) = ends(section, &local?, &remote?)?;
    let least = if local.is_ipv4() {
        LEAST_MTU_V4
    } else {
        LEAST_MTU_V6
    };
    let mtu = match section.get("mtu") {
        Some(_) => section.integer("mtu", least..=u16::MAX)?,
        None => DEFAULT_MTU,
    };
    let kind = kind?;
    Some(MirrorTarget {
        name: Arc::clone(name),
        kind,
        local,
        remote,
        way: way?,
        mtu,
        too_long: too_long.unwrap_or(Oversize::Truncate),
        dscp,
        tenants: tenants
            .into_iter()
            .map(|tenant| tenant.value.into())
            .collect(),
        numbers: numbers(section, kind)?,
    })
}

fn address(section: &Section<'_>, field: &str) -> Option<At<IpAddr>> {
    let text = section.required(field)?;
    let refuse = |message: String, help: &str| {
        section.reader.report(&text.span, message, help);
        None
    };
    let Ok(value) = text.value.parse::<IpAddr>() else {
        return refuse(
            format!("\"{}\" is not an address", text.value),
            "write it as in 192.0.2.9 or 2001:db8::9",
        );
    };
    let is_mapped = matches!(value, IpAddr::V6(six) if six.to_ipv4_mapped().is_some());
    let is_hosts = !value.is_unspecified()
        && !value.is_multicast()
        && value != IpAddr::V4(Ipv4Addr::BROADCAST)
        && !is_mapped;
    if !is_hosts {
        return refuse(
            format!("{value} is no host's address"),
            "a tunnel has an end at one host each; give a unicast address",
        );
    }
    Some(At {
        value,
        span: text.span.clone(),
    })
}

fn ends(
    section: &Section<'_>,
    local: &At<IpAddr>,
    remote: &At<IpAddr>,
) -> Option<(IpAddr, IpAddr)> {
    let (local, span, remote) = (local.value, &remote.span, remote.value);
    let message = if local.is_ipv4() != remote.is_ipv4() {
        format!("{local} and {remote} are of two families")
    } else if local == remote {
        format!("the tunnel would begin and end at {local}")
    } else {
        return Some((local, remote));
    };
    let help = "local is this switch's address, remote the decapsulator's";
    section.reader.report(span, message, help);
    None
}

fn way(section: &Section<'_>, name: &Arc<str>) -> Option<Way> {
    let given = |field: &&str| section.get(field).is_some();
    let router = section.string("router");
    let of_port = ["port", "peer_mac", "mac", "vlan"].into_iter().find(given);
    match (router, of_port) {
        (Some(router), None) => Some(Way::Router(router.value.into())),
        (Some(_), Some(field)) => {
            section.reader.report(
                &section.value_span(field),
                format!("a router knows what {field} is to be"),
                "give the router, or the port and what belongs to it",
            );
            None
        }
        (None, None) => {
            section.reader.report(
                &section.span,
                "how do copies leave the switch?",
                "say router = \"...\" (its routes and neighbours tell), or port = \"...\" and peer_mac = \"...\"",
            );
            None
        }
        (None, Some(_)) => {
            let port = section.required("port");
            let peer = section.required("peer_mac");
            let peer = peer.and_then(|text| own_mac(section, &text));
            let own = match section.string("mac") {
                Some(text) => own_mac(section, &text),
                None => Some(derived_mac("mirror_target", name)),
            };
            let vlan = section.integer("vlan", 1..=4094_u16).and_then(VlanId::new);
            Some(Way::Port {
                port: port?.value.into(),
                peer: peer?,
                own: own?,
                vlan,
            })
        }
    }
}

/// The numbers that sessions get: so many as the format has room for.
fn numbers(section: &Section<'_>, kind: TunnelKind) -> Option<RangeInclusive<u32>> {
    let most = match kind {
        // It has no number, so that there can be one session.
        TunnelKind::ErspanI => 0,
        TunnelKind::ErspanII | TunnelKind::ErspanIII => (1 << 10) - 1,
        TunnelKind::Ethernet => u32::MAX,
        TunnelKind::Vxlan => (1 << 24) - 1,
    };
    let Some(text) = section.string("session_numbers") else {
        return Some(if most == 0 { 0..=0 } else { DEFAULT_NUMBERS });
    };
    let (first, last) = text
        .value
        .split_once('-')
        .unwrap_or((&text.value, &text.value));
    let range = first
        .trim()
        .parse::<u32>()
        .ok()
        .zip(last.trim().parse::<u32>().ok());
    let range = range.filter(|(first, last)| first <= last && *last <= most);
    if range.is_none() {
        section.reader.report(
            &text.span,
            format!("\"{}\" are no session numbers of {}", text.value, kind_name(kind)),
            if most == 0 {
                "this format has no number: one session can use the target; leave session_numbers out"
                    .to_owned()
            } else {
                format!("write them as in \"1-100\", from 0 to {most}")
            },
        );
    }
    range.map(|(first, last)| first..=last)
}

/// What no target can tell alone.
pub(super) fn check(draft: &Draft<'_>) {
    for (index, named) in draft.mirror_targets.iter().enumerate() {
        let (section, Some(target)) = (&named.section, &named.value) else {
            continue;
        };
        match &target.way {
            Way::Router(router) => {
                exists(
                    draft,
                    "router",
                    &draft.routers,
                    router,
                    &section.value_span("router"),
                );
            }
            Way::Port { port, .. } => {
                exists(
                    draft,
                    "port",
                    &draft.ports,
                    port,
                    &section.value_span("port"),
                );
            }
        }
        let others = draft.mirror_targets[..index].iter();
        let same = others
            .filter_map(|other| other.value.as_ref())
            .find(|other| {
                let of = |t: &MirrorTarget| (t.kind, t.local, t.remote);
                of(other) == of(target)
                    && other.numbers.start() <= target.numbers.end()
                    && target.numbers.start() <= other.numbers.end()
            });
        if let Some(other) = same {
            section.reader.report(
                &section.value_span("session_numbers"),
                format!(
                    "target \"{}\" has the same ends, the same kind and some of the same session numbers",
                    other.name
                ),
                "the decapsulator could not tell their sessions apart; give each its own session_numbers",
            );
        }
    }
}
