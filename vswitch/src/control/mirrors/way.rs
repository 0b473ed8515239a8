//! Where copies leave for a target: by which port, to whom, with which tag.
//!
//! In: a target, the snapshot, the neighbours and the MAC tables. Out: the Ethernet header and the
//! port, or why there is none. What must hold: nothing is asked of a worker. A neighbour of which
//! nothing is known is asked for by the desk, and found at the supervisor's next look.

use std::net::IpAddr;

use mirror::wire::Link;
use policy::{
    Field, FlowKey, InterfaceId, NetworkId, PortId,
    key::{protocol, shape},
    snapshot::{Gateway, Snapshot},
};

use crate::{
    config::mirroring::{MirrorTarget, Way},
    control::ids::Ids,
    engine::Outlook,
    neighbors::Answer,
    router::{self, End, Leg},
};

/// How copies leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) port: PortId,
    pub(super) link: Link,
    /// The longest packet that the way takes, bytes.
    pub(super) mtu: u16,
}

/// What tells where neighbours are.
pub(super) struct Surroundings<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) outlook: &'a Outlook,
    pub(super) now_s: u32,
    /// Has the desk ask for a neighbour.
    pub(super) seek: &'a dyn Fn(NetworkId, IpAddr),
}

/// The network that a router sends a target's copies to, if it does.
pub(super) fn leg(snapshot: &Snapshot, name: &str, target: &MirrorTarget) -> Result<Leg, String> {
    const ERSPAN_OVER: u8 = 47;
    let routers = snapshot.routers().iter();
    let mut routers = (0..).zip(routers);
    let found = routers.find(|(_, router)| *router.name == *name);
    let Some((number, router)) = found else {
        return Err(format!("router \"{name}\" is not in force"));
    };
    let gateway = Gateway {
        mac: router.mac,
        router: number,
        interface: InterfaceId(0),
    };
    let mut key = FlowKey::default();
    let ipv4 = target.remote.is_ipv4();
    key.set(Field::SHAPE, if ipv4 { shape::IPV4 } else { shape::IPV6 });
    key.set(
        Field::PROTOCOL,
        u64::from(if target.kind == mirror::wire::TunnelKind::Vxlan {
            protocol::UDP
        } else {
            ERSPAN_OVER
        }),
    );
    let halves = |address: IpAddr| match address {
        IpAddr::V4(four) => (0, u64::from(u32::from(four))),
        IpAddr::V6(six) => ((u128::from(six) >> 64) as u64, u128::from(six) as u64),
    };
    let ((high, low), (to_high, to_low)) = (halves(target.local), halves(target.remote));
    key.set(Field::IP_SRC_HIGH, high);
    key.set(Field::IP_SRC_LOW, low);
    key.set(Field::IP_DST_HIGH, to_high);
    key.set(Field::IP_DST_LOW, to_low);
    match router::plot(snapshot, gateway, &key).end {
        End::Onward(leg) => Ok(leg),
        End::Local => Err(format!(
            "{} is router \"{name}\"'s own address",
            target.remote
        )),
        End::Refused(reason) => Err(format!(
            "router \"{name}\" has no way to {} ({reason}); see `vswitch show routes`",
            target.remote
        )),
    }
}

/// How copies for a target leave now.
///
/// # Errors
/// Why there is no way, for a person.
pub(super) fn find(
    target: &MirrorTarget,
    ids: &Ids,
    around: &Surroundings<'_>,
) -> Result<Found, String> {
    match &target.way {
        Way::Port {
            port,
            peer,
            own,
            vlan,
        } => {
            let id = ids
                .port(port)
                .ok_or_else(|| format!("there is no port \"{port}\""))?;
            let link = Link {
                destination: *peer,
                source: *own,
                tci: vlan.map(policy::VlanId::get),
            };
            Ok(Found {
                port: id,
                link,
                mtu: target.mtu,
            })
        }
        Way::Router(name) => by_router(name, target, around),
    }
}

fn by_router(
    name: &str,
    target: &MirrorTarget,
    around: &Surroundings<'_>,
) -> Result<Found, String> {
    let leg = leg(around.snapshot, name, target)?;
    let network = around.snapshot.network(leg.network);
    let network = network.ok_or_else(|| "the router's network is not in force".to_owned())?;
    let shared = &around.outlook.shared;
    let silent = |what: &str| {
        format!(
            "neighbour {} of network \"{}\" {what}",
            leg.neighbor, network.name
        )
    };
    let mac = match network.hosts.get(&leg.neighbor) {
        Some(host) => host.mac,
        None => match shared
            .neighbors
            .find(leg.network, leg.neighbor, around.now_s)
        {
            Answer::Known(mac) => mac,
            Answer::Unknown => {
                (around.seek)(leg.network, leg.neighbor);
                return Err(silent("has not answered yet"));
            }
            Answer::Nobody => return Err(silent("does not answer")),
        },
    };
    let Some(port) = shared.bridge.locate(leg.network, mac) else {
        (around.seek)(leg.network, leg.neighbor);
        return Err(silent("has sent nothing yet"));
    };
    let member = around.snapshot.port(port);
    let tag = member.and_then(|port| port.egress_tag(leg.network));
    let tag = tag.ok_or_else(|| silent("is at a port that has left the network"))?;
    Ok(Found {
        port,
        link: Link {
            destination: mac,
            source: leg.from,
            tci: tag.map(policy::VlanId::get),
        },
        mtu: target.mtu.min(leg.mtu),
    })
}
