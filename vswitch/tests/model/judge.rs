//! The reference's reading of rules and of sender checks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use policy::{
    DropReason, Mac,
    model::{Action, DirectionPolicy, Vnic},
    rule::{FragmentMatch, MacMatch, Match, Rule},
};

use super::view::{Body, Fragment, Ip, Transport, View};

/// What a vNIC's policy for one direction says of a frame, and by which rule.
pub(crate) fn ruling<'p>(
    policy: &'p DirectionPolicy,
    view: &View<'_>,
) -> (Action, Option<&'p Rule>) {
    if matches!(view.body, Body::Malformed) || view.nested {
        return (Action::Deny, None);
    }
    let first = policy
        .rules
        .iter()
        .find(|rule| matches(&rule.matches, view));
    match first {
        Some(rule) => (rule.action, Some(rule)),
        None if is_arp(view) || is_whole_nd(view) => (Action::Allow, None),
        None => (policy.default, None),
    }
}

fn is_arp(view: &View<'_>) -> bool {
    matches!(view.body, Body::Arp(_))
}

fn is_whole_nd(view: &View<'_>) -> bool {
    nd_message(view).is_some_and(|(ip, _)| ip.fragment == Fragment::Whole)
}

fn nd_message<'v>(view: &'v View<'_>) -> Option<(&'v Ip, &'v [u8])> {
    match &view.body {
        Body::Ip(ip) => match &ip.transport {
            Transport::Icmp { kind, message, .. } => {
                let nd = ip.src.is_ipv6() && (133..=137).contains(kind);
                nd.then_some((ip, message.as_slice()))
            }
            _ => None,
        },
        _ => None,
    }
}

fn matches(rule: &Match, view: &View<'_>) -> bool {
    let holds = |wanted: &Option<MacMatch>, mac: [u8; 6]| {
        wanted.is_none_or(|wanted| (0..6).all(|i| mac[i] & wanted.mask.0[i] == wanted.address.0[i]))
    };
    let vid = view.tci.map(|tci| tci & 0xfff);
    holds(&rule.eth_src, view.src)
        && holds(&rule.eth_dst, view.dst)
        && rule.ethertype.is_none_or(|wanted| wanted == view.ethertype)
        && rule.vlan.is_none_or(|wanted| Some(wanted.get()) == vid)
        && matches_ip(rule, view)
}

fn matches_ip(rule: &Match, view: &View<'_>) -> bool {
    let asks_for_ip = rule.src.is_some()
        || rule.dst.is_some()
        || rule.protocol.is_some()
        || rule.fragment.is_some();
    let Body::Ip(ip) = &view.body else {
        return !asks_for_ip;
    };
    let inside =
        |net: &Option<IpNet>, address: IpAddr| net.is_none_or(|net| net.contains(&address));
    let fragment = rule.fragment.is_none_or(|wanted| match wanted {
        FragmentMatch::No => ip.fragment == Fragment::Whole,
        FragmentMatch::Any => ip.fragment != Fragment::Whole,
        FragmentMatch::First => ip.fragment == Fragment::First,
        FragmentMatch::Later => ip.fragment == Fragment::Later,
    });
    inside(&rule.src, ip.src)
        && inside(&rule.dst, ip.dst)
        && rule.protocol.is_none_or(|wanted| wanted == ip.protocol)
        && fragment
        && matches_transport(rule, &ip.transport)
}

fn matches_transport(rule: &Match, transport: &Transport) -> bool {
    let ports = match transport {
        Transport::Tcp { src, dst, .. } | Transport::Ports { src, dst } => Some((*src, *dst)),
        _ => None,
    };
    let in_ranges = |ranges: &[std::ops::RangeInclusive<u16>], port: Option<u16>| {
        ranges.is_empty() || port.is_some_and(|port| ranges.iter().any(|r| r.contains(&port)))
    };
    let icmp = rule.icmp.is_none_or(|wanted| match transport {
        Transport::Icmp { kind, code, .. } => {
            wanted.kind == *kind && wanted.code.is_none_or(|wanted| wanted == *code)
        }
        _ => false,
    });
    let flags = rule.tcp_flags.is_none_or(|wanted| match transport {
        Transport::Tcp { flags, .. } => flags & wanted.mask == wanted.set,
        _ => false,
    });
    in_ranges(&rule.src_ports, ports.map(|ports| ports.0))
        && in_ranges(&rule.dst_ports, ports.map(|ports| ports.1))
        && icmp
        && flags
}

/// Whether a vNIC may be the sender of a frame.
pub(crate) fn sender(vnic: &Vnic, view: &View<'_>) -> Result<(), DropReason> {
    if matches!(view.body, Body::Malformed) {
        return Err(DropReason::Malformed);
    }
    if view.nested {
        return Err(DropReason::VlanNested);
    }
    if vnic.checks.mac && view.src != vnic.mac.0 {
        return Err(DropReason::SpoofedMac);
    }
    if let Body::Ip(ip) = &view.body {
        match ip.src {
            IpAddr::V4(src) if vnic.checks.ipv4 && !may_send_from_v4(vnic, src, ip) => {
                return Err(DropReason::SpoofedIpv4);
            }
            IpAddr::V6(src) if vnic.checks.ipv6 && !may_send_from_v6(vnic, src, ip) => {
                return Err(DropReason::SpoofedIpv6);
            }
            _ => {}
        }
    }
    if let Body::Arp(arp) = &view.body
        && vnic.checks.arp
    {
        let own = arp.as_ref().is_some_and(|arp| {
            let ip = arp.sender_ip;
            arp.sender_mac == vnic.mac.0 && (ip.is_unspecified() || owns_v4(vnic, ip))
        });
        if !own {
            return Err(DropReason::SpoofedArp);
        }
    }
    if let Some((ip, message)) = nd_message(view)
        && vnic.checks.nd
    {
        let whole = ip.fragment == Fragment::Whole;
        if !whole || !may_send_nd(vnic, ip, message).unwrap_or(false) {
            return Err(DropReason::SpoofedNd);
        }
    }
    role(vnic, view)
}

/// Whether a vNIC sends what only servers and routers send, and is none.
fn role(vnic: &Vnic, view: &View<'_>) -> Result<(), DropReason> {
    let Body::Ip(ip) = &view.body else {
        return Ok(());
    };
    let servers = match ip.src {
        IpAddr::V4(_) => (67, 68),
        IpAddr::V6(_) => (547, 546),
    };
    match ip.transport {
        Transport::Ports { src, dst }
            if ip.protocol == 17 && (src == servers.0 || dst == servers.1) =>
        {
            let allowed = vnic.roles.dhcp_server;
            allowed.then_some(()).ok_or(DropReason::RogueDhcp)
        }
        Transport::Icmp {
            kind: 134 | 137, ..
        } if ip.protocol == 58 => {
            let allowed = vnic.roles.router;
            allowed.then_some(()).ok_or(DropReason::RogueRa)
        }
        _ => Ok(()),
    }
}

fn owns_v4(vnic: &Vnic, address: Ipv4Addr) -> bool {
    vnic.ipv4.iter().any(|net| net.contains(&address))
}

fn owns_v6(vnic: &Vnic, address: Ipv6Addr) -> bool {
    let Mac([a, b, c, d, e, f]) = vnic.mac;
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    let own = [pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f)];
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, own[0], own[1], own[2], own[3]);
    address == link_local || vnic.ipv6.iter().any(|net| net.contains(&address))
}

fn may_send_from_v4(vnic: &Vnic, src: Ipv4Addr, ip: &Ip) -> bool {
    let dhcp = matches!(ip.transport, Transport::Ports { src: 68, dst: 67 }) && ip.protocol == 17;
    owns_v4(vnic, src) || (src.is_unspecified() && dhcp)
}

fn may_send_from_v6(vnic: &Vnic, src: Ipv6Addr, ip: &Ip) -> bool {
    let asking = matches!(
        ip.transport,
        Transport::Icmp {
            kind: 131 | 132 | 133 | 135 | 143,
            ..
        }
    );
    owns_v6(vnic, src) || (src.is_unspecified() && asking)
}

/// `None` when the message cannot be read whole.
fn may_send_nd(vnic: &Vnic, ip: &Ip, message: &[u8]) -> Option<bool> {
    let kind = message[0];
    let fixed_len = match kind {
        133 => 8,
        135 | 136 => 24,
        _ => return Some(true),
    };
    let mut options = message.get(fixed_len..)?;
    while !options.is_empty() {
        let len = usize::from(*options.get(1)?) * 8;
        if len == 0 {
            return None;
        }
        let option = options.get(..len)?;
        if [1, 2].contains(&option[0]) && (len != 8 || option[2..8] != vnic.mac.0) {
            return Some(false);
        }
        options = &options[len..];
    }
    let target = || -> Option<Ipv6Addr> {
        let octets: [u8; 16] = message.get(8..24)?.try_into().ok()?;
        Some(octets.into())
    };
    Some(match kind {
        135 => !ip.src.is_unspecified() || owns_v6(vnic, target()?),
        136 => owns_v6(vnic, target()?),
        _ => true,
    })
}
