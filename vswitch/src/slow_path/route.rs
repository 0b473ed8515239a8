//! What of the slow path belongs to routers, and to what the switch answers itself.
//!
//! In: frames that are for a gateway, or that ask for one. Out: their way on, or that the switch
//! takes them. What must hold: ARP and neighbour discovery are looked at for what they ask, so
//! nothing of that is cached; of other frames only what stands in the footprint mask is read.

use std::net::IpAddr;

use policy::{
    Class, Denial, DropReason, Field, NetworkId,
    parse::Parsed,
    reader::Exact,
    rogue,
    sender::NeighborClaim,
    snapshot::{NetworkPolicy, PortPolicy, Snapshot},
};

use super::{Inputs, Observer, Route};
use crate::{
    adjacency::Adjacency,
    neighbors::Answer,
    router::{self, Course, End, Leg},
    verdict::Purpose,
};

/// Whether the switch answers a frame in place of its network, or learns from it what nobody else
/// needs to hear.
#[inline]
pub(super) fn asks_a_service(
    snapshot: &Snapshot,
    port: &PortPolicy,
    network: &NetworkPolicy,
    head: &[u8],
    parsed: &Parsed,
) -> bool {
    let services = network.services;
    match parsed.class {
        Class::Arp | Class::Ipv6Neighbor => {
            let serves = services.proxy || services.advertises || !network.gateways.is_empty();
            serves && concerns_the_switch(snapshot, network, head, parsed)
        }
        // Only of a vNIC is it known what it is to have.
        Class::Ipv4Udp if services.dhcp && port.vnic.is_some() => {
            rogue::asks_dhcp(&mut Exact(&parsed.key), false)
        }
        Class::Ipv6Udp if services.dhcp6 && port.vnic.is_some() => {
            rogue::asks_dhcp(&mut Exact(&parsed.key), true)
        }
        _ => false,
    }
}

/// ARP and neighbour discovery that is sent to a gateway, asks for the address of one or of a vNIC,
/// or says to all that somebody has an address.
fn concerns_the_switch(
    snapshot: &Snapshot,
    network: &NetworkPolicy,
    head: &[u8],
    parsed: &Parsed,
) -> bool {
    const SOLICITATION: u64 = 133 << 8;
    const ADVERTISEMENT: u8 = 136;
    if parsed.key.get(Field::L4_SRC) == SOLICITATION && parsed.class == Class::Ipv6Neighbor {
        return network.services.advertises;
    }
    if network.gateway(parsed.key.eth_dst()).is_some() {
        return true;
    }
    match NeighborClaim::read(head, parsed) {
        Some(NeighborClaim::Arp { ip: sender, .. }) => {
            let target = parsed.key.get(Field::IP_DST_LOW) as u32;
            network.services.fallback
                || target == sender
                || has(snapshot, network, IpAddr::V4(target.into()))
        }
        Some(NeighborClaim::Nd {
            kind,
            target: Some(target),
            ..
        }) => {
            network.services.fallback
                || kind == ADVERTISEMENT
                || has(snapshot, network, IpAddr::V6(target.into()))
        }
        _ => false,
    }
}

/// Whether the switch knows who has an address in a network.
fn has(snapshot: &Snapshot, network: &NetworkPolicy, address: IpAddr) -> bool {
    let mut gateways = network.gateways.iter();
    network.services.proxy && network.hosts.contains_key(&address)
        || gateways.any(|gateway| {
            let router = snapshot.router(gateway.router);
            let interface = router.and_then(|router| router.interface(gateway.interface));
            interface.is_some_and(|interface| interface.has(address, gateway.mac))
        })
}

/// The way of a frame that is for a gateway of its network.
#[inline]
pub(super) fn course(
    snapshot: &Snapshot,
    network: &NetworkPolicy,
    parsed: &Parsed,
) -> Option<Course> {
    if network.gateways.is_empty() {
        return None;
    }
    let gateway = network.gateway(parsed.key.eth_dst())?;
    Some(router::plot(snapshot, gateway, &parsed.key))
}

/// Where a routed frame leaves that came in by a port of a network.
pub(super) fn leave<O: Observer>(
    inputs: Inputs<'_>,
    course: Course,
    (network, from): (NetworkId, &PortPolicy),
) -> Result<Route, Denial> {
    let route = match course.end {
        End::Local => return Ok(Route::Taken(Purpose::Router)),
        End::Refused(reason) => return Err(Denial::new(reason)),
        End::Onward(leg) => meet::<O>(inputs, leg)?,
    };
    // A gateway is no way round what keeps two ports of a network apart.
    if let Route::Neighbor(to, _) = &route
        && to.network == network
        && from.isolated
        && inputs.snapshot.port(to.port).is_some_and(|to| to.isolated)
    {
        return Err(Denial::new(DropReason::Isolated));
    }
    Ok(route)
}

/// Where the neighbour is that a leg ends at.
fn meet<O: Observer>(inputs: Inputs<'_>, leg: Leg) -> Result<Route, Denial> {
    let no_policy = Denial::new(DropReason::NoPolicy);
    let network = inputs.snapshot.network(leg.network).ok_or(no_policy)?;
    // Before what it may change is read: a decision made of something older is void at once.
    let generation = inputs.bridge.generations().current(leg.network);
    let to = match network.hosts.get(&leg.neighbor) {
        Some(host) => host.mac,
        None => match ask::<O>(inputs, leg) {
            Answer::Known(mac) => mac,
            Answer::Unknown => return Ok(Route::Taken(Purpose::Neighbor)),
            Answer::Nobody => return Err(Denial::new(DropReason::NeighborUnresolved)),
        },
    };
    // One that has said nothing for long is asked where it is.
    let Some(port) = inputs.bridge.locate(leg.network, to) else {
        return Ok(Route::Taken(Purpose::Neighbor));
    };
    let member = inputs.snapshot.port(port);
    let tag = member.and_then(|port| port.egress_tag(leg.network));
    let tag = tag.ok_or(Denial::new(DropReason::NeighborUnresolved))?;
    let adjacency = Adjacency {
        to,
        from: leg.from,
        network: leg.network,
        port,
        tag: tag.map(Into::into),
        mtu: leg.mtu,
        hops: leg.hops,
        clamp_mss: leg.clamp_mss,
    };
    Ok(Route::Neighbor(adjacency, generation))
}

fn ask<O: Observer>(inputs: Inputs<'_>, leg: Leg) -> Answer {
    let Leg {
        network, neighbor, ..
    } = leg;
    if O::LEARNS {
        inputs.neighbors.find(network, neighbor, inputs.now_s)
    } else {
        inputs.neighbors.peek(network, neighbor, inputs.now_s)
    }
}
