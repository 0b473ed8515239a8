//! `[[router]]`: what joins networks.
//!
//! In: sections. Out: routers whose routes name their interfaces. What must hold: a next hop lies in
//! a network of the router, so that somebody can be asked for it; no two interfaces of a router have
//! the same addresses behind them.

use std::{collections::HashMap, net::IpAddr, num::NonZeroU8, sync::Arc};

use ipnet::IpNet;
use policy::{InterfaceId, Mac, route::NextHop};
use toml::de::DeTable;

use super::{
    check::exists,
    problem::Problems,
    read::{Draft, Named, own_mac},
    rules, schema,
    section::{At, Reader, Section},
    types::{RouteAction, Router, RouterInterface, RouterRoute},
};

/// The longest packet on Ethernet, and what an interface has unless it says otherwise.
const DEFAULT_MTU: u16 = 1500;
/// What every host takes in one piece (RFC 791), and IPv6 asks for more (RFC 8200 §5).
const LEAST_MTU: u16 = 576;
/// The most interfaces of a router.
const MOST_INTERFACES: usize = 256;

/// `[[router]]`
pub(super) fn router(section: &Section<'_>, name: &Arc<str>) -> Option<Router> {
    let tenant = section.required("tenant");
    let mac = section.string("mac").map(|text| own_mac(section, &text));
    let sections = section.sections("interface", &schema::ROUTER_INTERFACE);
    if sections.is_empty() {
        let message = "the router joins no network".to_owned();
        let help = "give it a [[router.interface]] for each of its networks";
        section.reader.report(&section.span, message, help);
    }
    if sections.len() > MOST_INTERFACES {
        let message = format!(
            "there are {} interfaces; {MOST_INTERFACES} are allowed",
            sections.len()
        );
        section
            .reader
            .report(&section.span, message, "make two routers of it");
    }
    let read: Vec<_> = sections.iter().map(interface).collect();
    let interfaces: Vec<_> = read.into_iter().flatten().collect();
    if interfaces.len() < sections.len() {
        return None;
    }
    apart(&sections, &interfaces);
    let routes = section.sections("route", &schema::ROUTER_ROUTE);
    let routes = routes.iter().filter_map(|one| route(one, &interfaces));
    let routes = routes.collect();
    let tenant: Arc<str> = tenant?.value.into();
    let mac = match mac {
        Some(mac) => mac?,
        None => derived_mac(&tenant, name),
    };
    Some(Router {
        name: Arc::clone(name),
        tenant,
        mac,
        interfaces,
        routes,
    })
}

/// The address of a router that names none: the same on every host, by its names alone.
pub(super) fn derived_mac(tenant: &str, name: &str) -> Mac {
    // FNV-1a, 64 bits.
    let bytes = tenant.bytes().chain([0]).chain(name.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [_, _, _, a, b, c, d, e] = hash.to_be_bytes();
    // Locally administered, one host's (IEEE 802 §8.4).
    Mac([0x02, a, b, c, d, e])
}

fn interface(section: &Section<'_>) -> Option<RouterInterface> {
    let network = section.required("network");
    let texts = section.strings("addresses");
    if texts.is_empty() {
        section.missing("addresses");
    }
    let addresses: Vec<_> = texts
        .iter()
        .map(|text| own_address(section, text))
        .collect();
    let mtu = section.integer("mtu", LEAST_MTU..=u16::MAX);
    let mtu = mtu.unwrap_or(DEFAULT_MTU);
    let clamp_mss = section.bool("clamp_mss").unwrap_or(false);
    let addresses: Vec<IpNet> = addresses.into_iter().collect::<Option<_>>()?;
    if mtu < 1280
        && addresses
            .iter()
            .any(|address| matches!(address, IpNet::V6(_)))
    {
        section.reader.report(
            &section.value_span("mtu"),
            format!("an MTU of {mtu} is too small for IPv6"),
            "IPv6 needs 1280 (RFC 8200 section 5), or leave out the IPv6 addresses",
        );
    }
    Some(RouterInterface {
        network: network?.value.into(),
        addresses,
        mtu,
        clamp_mss,
    })
}

/// An address with the length of its network's prefix.
fn own_address(section: &Section<'_>, text: &At<String>) -> Option<IpNet> {
    let net: Option<IpNet> = text.value.parse().ok();
    let Some(net) = net else {
        section.reader.report(
            &text.span,
            format!(
                "\"{}\" is not an address with its prefix length",
                text.value
            ),
            "write it as in 10.0.1.1/24 or fd00:1::1/64",
        );
        return None;
    };
    let address = net.addr();
    let short = net.max_prefix_len() - net.prefix_len() < 2;
    let first_or_last =
        address == net.network() || net.addr().is_ipv4() && address == net.broadcast();
    let nobodys = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    if nobodys || first_or_last && !short {
        section.reader.report(
            &text.span,
            format!("{address} cannot be a router's address in {}", net.trunc()),
            "an own address is neither the prefix's first, nor its last, nor a group's",
        );
        return None;
    }
    Some(net)
}

/// Notes interfaces behind which the same addresses would be.
fn apart(sections: &[Section<'_>], interfaces: &[RouterInterface]) {
    for (index, one) in interfaces.iter().enumerate() {
        let section = &sections[index];
        for other in &interfaces[..index] {
            if one.network == other.network {
                let message = format!("network \"{}\" has an interface already", one.network);
                let help = "give that interface all addresses";
                section
                    .reader
                    .report(&section.value_span("network"), message, help);
            }
            let overlap = one.addresses.iter().find_map(|a| {
                let same = |b: &&IpNet| a.contains(&b.network()) || b.contains(&a.network());
                Some((a, other.addresses.iter().find(same)?))
            });
            if let Some((a, b)) = overlap {
                section.reader.report(
                    &section.value_span("addresses"),
                    format!(
                        "{} overlaps {} of network \"{}\": the router could not tell where a host is",
                        a.trunc(),
                        b.trunc(),
                        other.network
                    ),
                    "networks of one router have prefixes apart",
                );
            }
        }
    }
}

fn route(section: &Section<'_>, interfaces: &[RouterInterface]) -> Option<RouterRoute> {
    let to = section.required("to")?;
    let net = rules::net(&to.value).map_err(|help| {
        let message = format!("\"{}\" is not where a route can lead", to.value);
        section.reader.report(&to.span, message, help);
    });
    let net = net.ok()?;
    let metric = section.integer("metric", 0..=u32::MAX).unwrap_or(0);
    let given: Vec<_> = ["via", "network", "action"]
        .into_iter()
        .filter(|field| section.get(field).is_some())
        .collect();
    // A link-local next hop needs both.
    let action = match given[..] {
        ["via"] | ["via", "network"] => via(section, net, interfaces)?,
        ["network"] => RouteAction::OnLink(named_interface(section, interfaces)?),
        ["action"] => action(section)?,
        _ => {
            section.reader.report(
                &section.span,
                format!("where do packets to {net} go?"),
                "say one of: via = [\"10.0.0.254\"], network = \"lan\" (hosts there have the \
                 addresses), action = \"blackhole\" or \"reject\"",
            );
            return None;
        }
    };
    Some(RouterRoute {
        to: net,
        metric,
        action,
    })
}

/// Reads one route of a router that is there. `text` holds the fields of a `[[router.route]]`.
///
/// # Errors
///
/// Every problem that was found, in the order of the text.
pub fn read_route(text: &str, interfaces: &[RouterInterface]) -> Result<RouterRoute, Problems> {
    let reader = Reader::new("the route", text);
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        reader.report(&error.span().unwrap_or(0..0), error.message(), "");
    }
    let read = {
        let whole = 0..text.len();
        let section = Section::open(&reader, root.get_ref(), whole, &schema::ROUTER_ROUTE);
        route(&section, interfaces)
    };
    let problems = reader.into_problems();
    match read.filter(|_| problems.is_empty()) {
        Some(route) => Ok(route),
        None => Err(Problems(problems)),
    }
}

fn action(section: &Section<'_>) -> Option<RouteAction> {
    let text = section.string("action")?;
    let choices = &[("blackhole", false), ("reject", true)];
    Some(if section.reader.choice(&text, choices)? {
        RouteAction::Reject
    } else {
        RouteAction::Blackhole
    })
}

fn named_interface(section: &Section<'_>, interfaces: &[RouterInterface]) -> Option<InterfaceId> {
    let name = section.string("network")?;
    let found = interfaces.iter().position(|i| *i.network == *name.value);
    if found.is_none() {
        section.reader.report(
            &name.span,
            format!("the router has no interface in network \"{}\"", name.value),
            "name a network of one of its interfaces",
        );
    }
    found.map(|index| InterfaceId(index as u16))
}

fn via(section: &Section<'_>, to: IpNet, interfaces: &[RouterInterface]) -> Option<RouteAction> {
    let one = section
        .get("via")
        .is_some_and(|value| value.get_ref().as_str().is_some());
    let texts = if one {
        section.string("via").into_iter().collect()
    } else {
        section.strings("via")
    };
    if texts.is_empty() {
        section.missing("via");
    }
    let named = match section.get("network") {
        Some(_) => Some(named_interface(section, interfaces)?),
        None => None,
    };
    let hops = texts.iter().map(|text| {
        let address = section.reader.parse::<IpAddr>(text)?;
        next_hop(section, text, (to, address), named, interfaces)
    });
    let hops: Vec<_> = hops.collect();
    Some(RouteAction::Via(hops.into_iter().collect::<Option<_>>()?))
}

fn next_hop(
    section: &Section<'_>,
    text: &At<String>,
    (to, address): (IpNet, IpAddr),
    named: Option<InterfaceId>,
    interfaces: &[RouterInterface],
) -> Option<NextHop> {
    let refuse = |message: String, help: &str| {
        section.reader.report(&text.span, message, help);
        None
    };
    if address.is_ipv4() != to.addr().is_ipv4() {
        let message = format!("{address} cannot be the next hop to {to}: another address family");
        return refuse(
            message,
            "routes of IPv4 and IPv6 have next hops of their own kind",
        );
    }
    let holds = |i: &RouterInterface| i.addresses.iter().any(|net| net.contains(&address));
    let found = interfaces.iter().position(holds);
    let interface = match (named, found) {
        (Some(named), _) => named,
        (None, Some(found)) => InterfaceId(found as u16),
        (None, None) => {
            let message = format!("{address} is in no network of the router");
            return refuse(
                message,
                "a next hop is a neighbour; for a link-local one name its network too",
            );
        }
    };
    let own = &interfaces[interface.index()];
    if own.addresses.iter().any(|net| net.addr() == address) {
        let message = format!("{address} is the router itself");
        return refuse(message, "the next hop is another one's address");
    }
    Some(NextHop {
        address,
        interface,
        weight: NonZeroU8::MIN,
    })
}

/// What no router can tell alone.
pub(super) fn check(draft: &Draft<'_>) {
    let mut owners: HashMap<(&str, IpAddr), String> = HashMap::new();
    let mut macs: HashMap<(&str, Mac), &str> = HashMap::new();
    for named in &draft.routers {
        let Some(router) = &named.value else { continue };
        let sections = named
            .section
            .sections("interface", &schema::ROUTER_INTERFACE);
        for (section, interface) in sections.iter().zip(&router.interfaces) {
            let name: &str = &interface.network;
            let span = section.value_span("network");
            exists(draft, "network", &draft.networks, name, &span);
            whose(draft, named, section, interface);
            for net in &interface.addresses {
                let owner = format!("router \"{}\"", router.name);
                if let Some(other) = owners.insert((name, net.addr()), owner) {
                    section.reader.report(
                        &section.value_span("addresses"),
                        format!("{} is {other}'s in network \"{name}\" already", net.addr()),
                        "two routers of a network need addresses of their own",
                    );
                }
            }
            if let Some(other) = macs.insert((name, router.mac), &router.name) {
                section.reader.report(
                    &span,
                    format!(
                        "router \"{other}\" has {} in network \"{name}\" too",
                        router.mac
                    ),
                    "give one of them another mac",
                );
            }
        }
    }
    vnics(draft, &owners, &macs);
}

/// Notes a network of another tenant that does not share it.
fn whose(
    draft: &Draft<'_>,
    named: &Named<'_, Router>,
    section: &Section<'_>,
    interface: &RouterInterface,
) {
    let Some(router) = &named.value else { return };
    let networks = draft.networks.iter().filter_map(|n| n.value.as_ref());
    for network in networks.filter(|network| network.name == interface.network) {
        if network.tenant != router.tenant && !network.shared_with.contains(&router.tenant) {
            section.reader.report(
                &section.value_span("network"),
                format!(
                    "router \"{}\" of tenant \"{}\" would join network \"{}\" of \"{}\"",
                    router.name, router.tenant, network.name, network.tenant
                ),
                format!(
                    "if \"{}\" agrees, add shared_with = [\"{}\"] to the network",
                    network.tenant, router.tenant
                ),
            );
        }
    }
}

/// Notes vNICs that have an address of a router.
fn vnics(
    draft: &Draft<'_>,
    owners: &HashMap<(&str, IpAddr), String>,
    macs: &HashMap<(&str, Mac), &str>,
) {
    for named in &draft.vnics {
        let Some(vnic) = &named.value else { continue };
        for network in super::check::networks_of(draft, vnic) {
            let hosts = vnic.ipv4.iter().filter(|net| net.prefix_len() == 32);
            let hosts = hosts.map(|net| ("ipv4", IpAddr::V4(net.addr())));
            let six = vnic.ipv6.iter().filter(|net| net.prefix_len() == 128);
            let six = six.map(|net| ("ipv6", IpAddr::V6(net.addr())));
            for (field, address) in hosts.chain(six) {
                if let Some(owner) = owners.get(&(&*network.name, address)) {
                    let message = format!("{address} is {owner}'s in network \"{}\"", network.name);
                    let help = "give the vNIC another address, or the router";
                    named
                        .section
                        .reader
                        .report(&named.section.value_span(field), message, help);
                }
            }
            if let Some(router) = macs.get(&(&*network.name, vnic.mac)) {
                let message = format!(
                    "router \"{router}\" has {} in network \"{}\"",
                    vnic.mac, network.name
                );
                let help = "give the vNIC another address, or the router a mac";
                named
                    .section
                    .reader
                    .report(&named.section.value_span("mac"), message, help);
            }
        }
    }
}
