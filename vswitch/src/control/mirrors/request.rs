//! From what a tenant asks for to a session that can be prepared.

use std::{num::NonZeroU32, sync::Arc};

use mirror::{
    session::{Directions, Limits, Rate, Sampling, Session, Source},
    wire::{
        Addresses, Carrier, Granularity, Link, MAX_PREFIX_BYTES, Oversize, SessionId, Tunnel,
        TunnelKind, Vni,
    },
};
use policy::{
    RuleId,
    rule::{Origin, Rule, RuleList, Sets, WrittenRule},
};

use super::Entry;
use crate::{
    api::{
        capture_types::CaptureRequest,
        mirror_types::{MirrorDirection, MirrorRequest, MirrorSampling, MirrorSource},
    },
    config::mirroring::MirrorTarget,
};

/// The most lines of a filter.
const MOST_LINES: usize = 256;
/// Parts of a second that a budget may be spent at once of.
const BURSTS_A_SECOND: u64 = 10;
const TTL: u8 = 64;

/// Reads a filter.
///
/// # Errors
/// The first line that cannot be in one, and why.
pub(super) fn filter(lines: &[String]) -> Result<RuleList, String> {
    if lines.len() > MOST_LINES {
        return Err(format!(
            "a filter has at most {MOST_LINES} lines, not {}",
            lines.len()
        ));
    }
    let mut rules = Vec::new();
    for (number, line) in (0..).zip(lines) {
        let wrong = |what: &str| format!("filter rule {}: \"{line}\": {what}", number + 1);
        let rule: WrittenRule = line.parse().map_err(|error| wrong(&format!("{error}")))?;
        let ports = rule.src_port_sets.iter().chain(&rule.dst_port_sets);
        if rule.src.is_some() || rule.dst.is_some() || ports.count() > 0 {
            return Err(wrong(
                "sets and groups are the provider's; write addresses and ports",
            ));
        }
        if rule.direction.is_some() {
            return Err(wrong("say the direction of the session, not of its rules"));
        }
        if rule.priority != WrittenRule::DEFAULT_PRIORITY {
            return Err(wrong(
                "the first rule that matches decides; leave the priority out",
            ));
        }
        let origin = Arc::new(Origin {
            acl: "filter".into(),
            text: line.as_str().into(),
        });
        let expanded = rule.expand(&Sets::default()).into_iter();
        rules.extend(expanded.map(|matches| Rule {
            id: RuleId(number),
            action: rule.action,
            log: rule.log,
            limit: rule.limit,
            matches,
            origin: Arc::clone(&origin),
        }));
    }
    Ok(rules.into())
}

/// What is wrong with a request, whatever the configuration.
pub(super) fn check(request: &MirrorRequest) -> Result<(), String> {
    for (what, name) in [("name", &request.name), ("owner", &request.owner)] {
        if !policy::rule::words::is_name(name) {
            return Err(format!(
                "\"{name}\" cannot be the {what} of a session: use 1 to 64 letters, digits, - _ or ."
            ));
        }
    }
    if request.sample == Some(0) {
        return Err("one in 0 is none: sample one in at least 1".into());
    }
    Ok(())
}

/// How a session's copies are carried.
pub(super) fn tunnel(
    target: &MirrorTarget,
    number: u32,
    link: Link,
    mtu_bytes: u16,
) -> Option<Tunnel> {
    let session = || SessionId::new(u16::try_from(number).ok()?);
    let carrier = match target.kind {
        TunnelKind::ErspanI => Carrier::ErspanI,
        TunnelKind::ErspanII => Carrier::ErspanII {
            session: session()?,
            index: 0,
        },
        TunnelKind::ErspanIII => Carrier::ErspanIII {
            session: session()?,
            granularity: Granularity::Nanoseconds100,
            hardware: 0,
            sequence: true,
            port: None,
        },
        TunnelKind::Ethernet => Carrier::Ethernet {
            key: Some(number),
            sequence: true,
        },
        TunnelKind::Vxlan => Carrier::Vxlan {
            vni: Vni::new(number)?,
        },
    };
    let addresses = match (target.local, target.remote) {
        (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) => Addresses::V4 {
            source,
            destination,
        },
        (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) => Addresses::V6 {
            source,
            destination,
        },
        _ => return None,
    };
    Some(Tunnel {
        link,
        addresses,
        dscp: target.dscp,
        ttl: TTL,
        dont_fragment: target.too_long != Oversize::Fragment,
        carrier,
        mtu_bytes,
        oversize: target.too_long,
    })
}

/// A source, as the session has it.
pub(super) fn source(source: &MirrorSource) -> Source {
    match source {
        MirrorSource::Vnic(name) => Source::Vnic(name.as_str().into()),
        MirrorSource::Port(name) => Source::Port(name.as_str().into()),
        MirrorSource::Network(name) => Source::Network(name.as_str().into()),
    }
}

/// What mirror sessions and captures are asked for alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    name: &'a str,
    owner: &'a str,
    source: &'a MirrorSource,
    filter: &'a RuleList,
    direction: MirrorDirection,
    rejected: bool,
    truncate_bytes: Option<u32>,
    sample: (Option<u32>, MirrorSampling),
    frames_per_second: Option<u64>,
    bits_per_second: Option<u64>,
    priority: u16,
}

impl<'a> Asked<'a> {
    /// One source of a capture. Whose it is, is not known yet; it is served last.
    pub(super) fn capture(
        name: &'a str,
        request: &CaptureRequest,
        source: &'a MirrorSource,
        filter: &'a RuleList,
    ) -> Self {
        Self {
            name,
            owner: "",
            source,
            filter,
            direction: request.direction,
            rejected: request.rejected,
            truncate_bytes: request.truncate_bytes,
            sample: (request.sample, request.sample_by),
            frames_per_second: request.frames_per_second,
            bits_per_second: request.bits_per_second,
            priority: u16::MAX,
        }
    }

    fn mirror(request: &'a MirrorRequest, filter: &'a RuleList) -> Self {
        Self {
            name: &request.name,
            owner: &request.owner,
            source: &request.source,
            filter,
            direction: request.direction,
            rejected: request.rejected,
            truncate_bytes: request.truncate_bytes,
            sample: (request.sample, request.sample_by),
            frames_per_second: request.frames_per_second,
            bits_per_second: request.bits_per_second,
            priority: request.priority,
        }
    }

    /// The session, without lease and tunnel. A budget's burst has room for a copy of `longest` bits.
    pub(super) fn session(&self, longest: u64) -> Session {
        let rate = |per_second: u64, least: u64| Rate {
            per_second,
            burst: (per_second / BURSTS_A_SECOND).max(least),
        };
        let (one_in, by) = self.sample;
        Session {
            name: self.name.into(),
            owner: self.owner.into(),
            source: source(self.source),
            directions: match self.direction {
                MirrorDirection::In => Directions::In,
                MirrorDirection::Out => Directions::Out,
                MirrorDirection::Both => Directions::Both,
            },
            filter: self.filter.clone(),
            rejected: self.rejected,
            truncate_bytes: self.truncate_bytes,
            sampling: match (one_in.and_then(NonZeroU32::new), by) {
                (None, _) => Sampling::All,
                (Some(one_in), MirrorSampling::Frames) => Sampling::Frames(one_in),
                (Some(one_in), MirrorSampling::Flows) => Sampling::Flows(one_in),
            },
            limits: Limits {
                frames: self.frames_per_second.map(|frames| rate(frames, 1)),
                bits: self.bits_per_second.map(|bits| rate(bits, longest)),
            },
            priority: self.priority,
            lease_until_s: None,
            tunnel: None,
        }
    }
}

/// The session that an entry stands for.
pub(super) fn session(entry: &Entry, tunnel: Tunnel) -> Session {
    // The longest copy must be possible.
    let longest = (u64::from(tunnel.mtu_bytes) + MAX_PREFIX_BYTES as u64) * 8;
    Session {
        lease_until_s: entry.lease_until_s,
        tunnel: Some(tunnel),
        ..Asked::mirror(&entry.request, &entry.filter).session(longest)
    }
}
