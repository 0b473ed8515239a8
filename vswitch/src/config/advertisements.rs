//! `router_advertisements` and `neighbors` of a network.

use ipnet::Ipv6Net;

use super::{
    schema,
    section::{At, Section},
    service_types::Dhcp6,
    services::{addresses, bounded, search, value},
};
use crate::services::plan::{Advertisements, Neighbors, Prefix};

pub(super) fn neighbors(table: &Section<'_>) -> Neighbors {
    let default = Neighbors::default();
    let ms = |field| table.integer(field, 100..=60_000_u32);
    let announcements = table.integer("announcements", 0..=10_u8);
    Neighbors {
        proxy: table.bool("proxy").unwrap_or(default.proxy),
        fallback_ms: ms("fallback_ms"),
        announcements: announcements.unwrap_or(default.announcements),
        announcement_interval_ms: ms("announcement_interval_ms")
            .unwrap_or(default.announcement_interval_ms),
        moving_interval_ms: ms("moving_interval_ms").unwrap_or(default.moving_interval_ms),
    }
}

/// DNS is as `DHCPv6` says unless the table says otherwise.
pub(super) fn advertisements(table: &Section<'_>, dhcp6: &Dhcp6) -> Advertisements {
    let interval_s = table.integer("interval_s", 4..=1800_u32).unwrap_or(600);
    let lifetime_s = table.integer("lifetime_s", 0..=9000_u16);
    // RFC 4861 §6.2.1, RFC 8106 §5.1: three times the interval, so that two may be lost.
    let thrice_s = (3 * interval_s).min(9000);
    if lifetime_s.is_some_and(|s| s > 0 && u32::from(s) < interval_s) {
        table.reader.report(
            &table.value_span("lifetime_s"),
            format!("lifetime_s is less than interval_s ({interval_s})"),
            "hosts would forget the router between two advertisements; use 0 or more than the interval",
        );
    }
    let dns = addresses(table, "dns", "as in fd00::53");
    let dns_lifetime_s = table.integer("dns_lifetime_s", 0..=u32::MAX);
    let domains = search(table);
    let prefixes = table.sections("prefixes", &schema::PREFIX);
    bounded(table, "prefixes", prefixes.len());
    Advertisements {
        interval_s,
        lifetime_s: lifetime_s.unwrap_or(thrice_s as u16),
        managed: table.bool("managed").unwrap_or(false),
        other: table.bool("other").unwrap_or(false),
        hop_limit: table.integer("hop_limit", 0..=255_u8).unwrap_or(64),
        mtu: table.integer("mtu", 1280..=65_535_u32),
        prefixes: prefixes.iter().filter_map(prefix).collect(),
        dns: dns.or_else(|| dhcp6.dns.clone()).unwrap_or_default(),
        search: domains.or_else(|| dhcp6.search.clone()).unwrap_or_default(),
        dns_lifetime_s: dns_lifetime_s.unwrap_or(thrice_s),
    }
}

fn prefix(table: &Section<'_>) -> Option<Prefix> {
    const VALID_S: u32 = 2_592_000;
    const PREFERRED_S: u32 = 604_800;

    let autonomous = table.bool("autonomous").unwrap_or(true);
    let on_link = table.bool("on_link").unwrap_or(true);
    let valid_s = table.integer("valid_s", 0..=u32::MAX).unwrap_or(VALID_S);
    let preferred_s = table.integer("preferred_s", 0..=u32::MAX);
    let preferred_s = preferred_s.unwrap_or(PREFERRED_S.min(valid_s));
    lifetimes(table, preferred_s, valid_s);
    if table.get("prefix").is_none() {
        table.missing("prefix");
    }
    let net: At<Ipv6Net> = value(table, "prefix", "as in fd00:1::/64")?;
    // RFC 2464 §4: interface identifiers have 64 bits.
    if autonomous && net.value.prefix_len() != 64 {
        table.reader.report(
            &net.span,
            format!("hosts cannot make addresses of {}", net.value),
            "use a prefix of length 64, or autonomous = false",
        );
    }
    Some(Prefix {
        net: net.value,
        on_link,
        autonomous,
        valid_s,
        preferred_s,
    })
}

/// Notes an address that would be preferred for longer than it is valid.
pub(super) fn lifetimes(table: &Section<'_>, preferred_s: u32, valid_s: u32) {
    if preferred_s > valid_s {
        table.reader.report(
            &table.value_span("preferred_s"),
            format!("preferred_s ({preferred_s}) is more than valid_s ({valid_s})"),
            "an address is valid for at least as long as it is preferred",
        );
    }
}
