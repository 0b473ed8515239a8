//! The services of networks and vNICs: `dhcp`, `dhcp6`, `router_advertisements`, `neighbors`, `roles`.

use std::{fmt::Display, net::Ipv4Addr, ops::Range, str::FromStr, sync::Arc};

use ipnet::Ipv4Net;

use super::{
    advertisements::{advertisements, neighbors},
    schema,
    section::{At, Section},
    service_types::{Dhcp, Dhcp6, Dhcp6Mode, DhcpMode, Hostname, NetworkServices, VnicServices},
};
use crate::services::{dhcp4::message::option, dns};

const MODES: &[(&str, DhcpMode)] = &[
    ("off", DhcpMode::Off),
    ("fixed", DhcpMode::Fixed),
    ("relay", DhcpMode::Relay),
];
const MODES6: &[(&str, Dhcp6Mode)] = &[
    ("off", Dhcp6Mode::Off),
    ("stateless", Dhcp6Mode::Stateless),
    ("fixed", Dhcp6Mode::Fixed),
    ("relay", Dhcp6Mode::Relay),
];
const HOSTNAMES: &[(&str, Hostname)] = &[
    ("vm", Hostname::Vm),
    ("vnic", Hostname::Vnic),
    ("none", Hostname::None),
];
/// The most entries of a list: what they make stays within one message.
const MOST_ENTRIES: usize = 8;
/// The longest boot file name: a field of 128 bytes with a zero behind it (RFC 2131 §2).
const MOST_FILE_BYTES: usize = 127;
/// Options that the service makes itself, and the field that says what is in them, if any does.
const OWN_OPTIONS: &[(u8, &str)] = &[
    (option::PAD, ""),
    (option::MASK, "subnet"),
    (option::ROUTER, "router"),
    (option::DNS, "dns"),
    (option::HOSTNAME, "hostname"),
    (option::DOMAIN, "search"),
    (option::MTU, "mtu"),
    (option::BROADCAST, "subnet"),
    (option::REQUESTED, ""),
    (option::LEASE, "lease_s"),
    (option::OVERLOAD, ""),
    (option::TYPE, ""),
    (option::SERVER, "server_address"),
    (option::PARAMETERS, ""),
    (option::TEXT, ""),
    (option::MAX_BYTES, ""),
    (option::T1, "lease_s"),
    (option::T2, "lease_s"),
    (option::CLIENT, ""),
    (option::TFTP_SERVER, "next_server"),
    (option::BOOT_FILE, "boot_file"),
    (option::RELAY, ""),
    (option::SEARCH, "search"),
    (option::ROUTES, "routes"),
    (option::END, ""),
];

pub(super) fn of_network(section: &Section<'_>) -> NetworkServices {
    let dhcp6 = dhcp6(section);
    let advertisements = section
        .section("router_advertisements", &schema::ROUTER_ADVERTISEMENTS)
        .map(|table| advertisements(&table, &dhcp6));
    let neighbors = section
        .section("neighbors", &schema::NEIGHBORS)
        .map(|table| neighbors(&table));
    NetworkServices {
        dhcp: dhcp(section),
        dhcp6,
        advertisements,
        neighbors: neighbors.unwrap_or_default(),
    }
}

pub(super) fn of_vnic(section: &Section<'_>) -> VnicServices {
    const ROLES: &[(&str, &str)] = &[("dhcp_server", "dhcp_server"), ("router", "router")];

    let roles = section.strings("roles");
    let roles = roles.iter().filter_map(|r| section.reader.choice(r, ROLES));
    let roles: Vec<&str> = roles.collect();
    VnicServices {
        dhcp: dhcp(section),
        dhcp6: dhcp6(section),
        dhcp_server: roles.contains(&"dhcp_server"),
        router: roles.contains(&"router"),
    }
}

fn dhcp(section: &Section<'_>) -> Dhcp {
    let Some(table) = section.section("dhcp", &schema::DHCP) else {
        return Dhcp::default();
    };
    let choice = |field| table.string(field);
    Dhcp {
        mode: choice("mode").and_then(|mode| table.reader.choice(&mode, MODES)),
        subnet: value(&table, "subnet", "as in 10.0.0.0/24").and_then(|net: At<Ipv4Net>| {
            let exact = net.value.trunc() == net.value;
            if !exact {
                let message = format!("{} has bits beyond its prefix length", net.value);
                let help = format!("write {}", net.value.trunc());
                table.reader.report(&net.span, message, help);
            }
            exact.then_some(net.value)
        }),
        server_address: host(&table, "server_address"),
        router: host(&table, "router"),
        dns: hosts(&table, "dns"),
        search: search(&table),
        mtu: table.integer("mtu", 576..=u16::MAX),
        routes: table.get("routes").is_some().then(|| routes(&table)),
        lease_s: table.integer("lease_s", 60..=u32::MAX),
        hostname: choice("hostname").and_then(|name| table.reader.choice(&name, HOSTNAMES)),
        options: table.get("options").is_some().then(|| options(&table)),
        next_server: host(&table, "next_server"),
        boot_file: text(&table, "boot_file", MOST_FILE_BYTES),
        servers: hosts(&table, "servers"),
        timeout_ms: table.integer("timeout_ms", 100..=60_000),
        max_hops: table.integer("max_hops", 1..=16),
        fallback: table.bool("fallback"),
    }
}

fn dhcp6(section: &Section<'_>) -> Dhcp6 {
    let Some(table) = section.section("dhcp6", &schema::DHCP6) else {
        return Dhcp6::default();
    };
    let mode = table.string("mode");
    Dhcp6 {
        mode: mode.and_then(|mode| table.reader.choice(&mode, MODES6)),
        dns: addresses(&table, "dns", "as in fd00::53"),
        search: search(&table),
        preferred_s: table.integer("preferred_s", 60..=u32::MAX),
        valid_s: table.integer("valid_s", 60..=u32::MAX),
        rapid_commit: table.bool("rapid_commit"),
        boot_file_url: text(&table, "boot_file_url", 255),
        servers: addresses(&table, "servers", "as in fd00::547"),
    }
}

fn routes(table: &Section<'_>) -> Vec<(Ipv4Net, Ipv4Addr)> {
    let tables = table.sections("routes", &schema::DHCP_ROUTE);
    bounded(table, "routes", tables.len());
    let routes = tables.iter().filter_map(|route| {
        for field in ["destination", "next_hop"] {
            if route.get(field).is_none() {
                route.missing(field);
            }
        }
        let destination = value(route, "destination", "as in 10.9.0.0/16");
        let next_hop = host(route, "next_hop");
        let destination: At<Ipv4Net> = destination?;
        Some((destination.value.trunc(), next_hop?))
    });
    routes.collect()
}

fn options(table: &Section<'_>) -> Vec<(u8, Vec<u8>)> {
    let tables = table.sections("options", &schema::DHCP_OPTION);
    bounded(table, "options", tables.len());
    let mut options: Vec<(u8, Vec<u8>)> = Vec::new();
    for table in &tables {
        if table.get("code").is_none() {
            table.missing("code");
        }
        let Some(code) = table.integer("code", 1..=254_u8) else {
            continue;
        };
        let own = OWN_OPTIONS.iter().find(|(own, _)| *own == code);
        let problem = match own {
            Some((_, "")) => Some(("is made by the service itself", "remove it".to_owned())),
            Some((_, field)) => Some(("has a field of its own", format!("use {field} = ..."))),
            None if options.iter().any(|(other, _)| *other == code) => {
                Some(("is there twice", "an option has one value".to_owned()))
            }
            None => None,
        };
        if let Some((problem, help)) = problem {
            let message = format!("DHCP option {code} {problem}");
            table
                .reader
                .report(&table.value_span("code"), message, help);
        }
        if let Some(data) = option_data(table) {
            options.push((code, data));
        }
    }
    options
}

fn option_data(table: &Section<'_>) -> Option<Vec<u8>> {
    let given = ["hex", "text", "addresses"];
    let given: Vec<&str> = given
        .into_iter()
        .filter(|f| table.get(f).is_some())
        .collect();
    let &[field] = &given[..] else {
        let help = "give one of hex = \"0104\", text = \"...\", addresses = [\"10.0.0.1\"]";
        table
            .reader
            .report(&table.span, "the option has not one value", help);
        return None;
    };
    let data = match field {
        "hex" => {
            let hex = table.string("hex")?;
            let data = from_hex(&hex.value);
            if data.is_none() {
                let message = format!("\"{}\" is not a row of hexadecimal bytes", hex.value);
                table
                    .reader
                    .report(&hex.span, message, "as in \"01:04:0a:00\" or \"01040a00\"");
            }
            data?
        }
        "text" => table.string("text")?.value.into_bytes(),
        _ => hosts(table, "addresses")?
            .iter()
            .flat_map(Ipv4Addr::octets)
            .collect(),
    };
    if data.is_empty() || data.len() > 255 {
        let message = format!("an option has 1 to 255 bytes, not {}", data.len());
        table.reader.report(&table.value_span(field), message, "");
        return None;
    }
    Some(data)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|c| !b": ".contains(c)).collect();
    let pairs = digits.chunks(2).map(|pair| {
        let [high, low] = pair else { return None };
        let digit = |c: &u8| char::from(*c).to_digit(16);
        Some((digit(high)? << 4 | digit(low)?) as u8)
    });
    pairs.collect()
}

/// A value with its place.
pub(super) fn value<T: FromStr>(table: &Section<'_>, field: &str, help: &str) -> Option<At<T>> {
    let text = table.string(field)?;
    let value = parsed(table, &text, field, help)?;
    let span = text.span;
    Some(At { value, span })
}

fn parsed<T: FromStr>(
    table: &Section<'_>,
    text: &At<String>,
    field: &str,
    help: &str,
) -> Option<T> {
    let value = text.value.parse().ok();
    if value.is_none() {
        let message = format!("\"{}\" cannot be {field}", text.value);
        table.reader.report(&text.span, message, help);
    }
    value
}

/// An IPv4 address that a host can have.
fn host(table: &Section<'_>, field: &str) -> Option<Ipv4Addr> {
    let address: At<Ipv4Addr> = value(table, field, "as in 10.0.0.1")?;
    one_host(table, &address.span, address.value)
}

fn one_host(table: &Section<'_>, span: &Range<usize>, address: Ipv4Addr) -> Option<Ipv4Addr> {
    let is_host = !address.is_multicast() && !address.is_broadcast() && !address.is_unspecified();
    if !is_host {
        let message = format!("{address} is not the address of a host");
        table.reader.report(span, message, "");
    }
    is_host.then_some(address)
}

fn hosts(table: &Section<'_>, field: &str) -> Option<Vec<Ipv4Addr>> {
    table.get(field)?;
    let texts = table.strings(field);
    bounded(table, field, texts.len());
    let addresses = texts.iter().filter_map(|text| {
        let address = parsed(table, text, field, "as in 10.0.0.53")?;
        one_host(table, &text.span, address)
    });
    Some(addresses.collect())
}

pub(super) fn addresses<T: FromStr + Display>(
    table: &Section<'_>,
    field: &str,
    help: &str,
) -> Option<Vec<T>> {
    table.get(field)?;
    let texts = table.strings(field);
    bounded(table, field, texts.len());
    let addresses = texts.iter().filter_map(|t| parsed(table, t, field, help));
    Some(addresses.collect())
}

pub(super) fn search(table: &Section<'_>) -> Option<Vec<Arc<str>>> {
    table.get("search")?;
    let names = table.strings("search");
    bounded(table, "search", names.len());
    for name in names.iter().filter(|name| !dns::is_name(&name.value)) {
        let message = format!("\"{}\" is not a domain name", name.value);
        let help = "labels of letters, digits, - and _, with dots between";
        table.reader.report(&name.span, message, help);
    }
    Some(names.into_iter().map(|name| name.value.into()).collect())
}

fn text(table: &Section<'_>, field: &str, most: usize) -> Option<Arc<str>> {
    let text = table.string(field)?;
    let fits = (1..=most).contains(&text.value.len()) && !text.value.contains('\0');
    if !fits {
        let message = format!("{field} must have 1 to {most} bytes");
        table.reader.report(&text.span, message, "");
    }
    fits.then(|| text.value.into())
}

pub(super) fn bounded(table: &Section<'_>, field: &str, count: usize) {
    if count > MOST_ENTRIES {
        let message = format!("there are {count} {field}; {MOST_ENTRIES} are allowed");
        table.reader.report(&table.value_span(field), message, "");
    }
}
