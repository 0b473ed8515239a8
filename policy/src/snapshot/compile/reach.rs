//! What routers join: which networks' policies a frame may meet, and which bits routing reads.
//!
//! In: routers and networks. Out: for each network the union of what may be asked of its frames on
//! their way through any router. What must hold: a network that a frame may leave by is among
//! those that its ingress network reaches, however many routers lie between.

use super::{
    Arc, Class, CompileError, FlowKey, Gateway, HashMap, Host, Masks, Model, NetworkPolicy,
    PortPolicy, Router, Tracer, widen,
};
use crate::{InterfaceId, model::Services};

/// Gives each network its gateways.
pub(super) fn join_routers(
    routers: &[Arc<Router>],
    networks: &mut [Option<NetworkPolicy>],
) -> Result<(), CompileError> {
    for (number, router) in (0..).zip(routers) {
        for (interface, joined) in (0..).zip(&router.interfaces) {
            let network = networks.get_mut(joined.network.index());
            let network =
                network
                    .and_then(Option::as_mut)
                    .ok_or_else(|| CompileError::UnknownRouted {
                        router: router.name.clone(),
                        network: joined.network.0,
                    })?;
            if let Some(first) = network.gateway(router.mac) {
                return Err(CompileError::SharedGatewayMac {
                    mac: router.mac,
                    network: network.name.clone(),
                    first: routers[usize::from(first.router)].name.clone(),
                    second: router.name.clone(),
                });
            }
            network.gateways.push(Gateway {
                mac: router.mac,
                router: number,
                interface: InterfaceId(interface),
            });
        }
    }
    Ok(())
}

/// Notes the addresses of vNICs in the networks that have a router or a service.
pub(super) fn find_hosts(
    model: &Model,
    ports: &[Option<PortPolicy>],
    networks: &mut [Option<NetworkPolicy>],
) {
    for port in &model.ports {
        let (Some(vnic), Some(policy)) = (&port.vnic, &ports[port.id.index()]) else {
            continue;
        };
        let host = Host {
            mac: vnic.mac,
            port: port.id,
        };
        for (network, _) in policy.memberships() {
            let network = networks[network.index()].as_mut();
            let served = |n: &&mut NetworkPolicy| {
                !n.gateways.is_empty() || n.services != Services::default()
            };
            let Some(network) = network.filter(served) else {
                continue;
            };
            let v4 = vnic.ipv4.iter().filter(|net| net.prefix_len() == 32);
            let v6 = vnic.ipv6.iter().filter(|net| net.prefix_len() == 128);
            let addresses = v4
                .map(|net| net.addr().into())
                .chain(v6.map(|net| net.addr().into()));
            network
                .hosts
                .extend(addresses.map(|address| (address, host)));
        }
    }
}

/// Which networks are joined by routers, and what those read.
pub(super) struct Reach {
    /// By network: the lowest number among those that it is joined with.
    domain: Vec<usize>,
    /// By router: what routing reads of a frame, its own and any further router on the way.
    routing: Vec<Masks>,
}

impl Reach {
    pub(super) fn of(routers: &[Arc<Router>], networks: &[Option<NetworkPolicy>]) -> Self {
        let mut domain: Vec<usize> = (0..networks.len()).collect();
        // Until nothing changes: as many rounds as routers lie one behind another, and one.
        let mut changed = true;
        while changed {
            changed = false;
            for router in routers {
                let joined = || router.interfaces.iter().map(|i| i.network.index());
                let lowest = joined().map(|network| domain[network]).min();
                for network in joined() {
                    let lowest = lowest.unwrap_or(domain[network]);
                    changed |= domain[network] != lowest;
                    domain[network] = lowest;
                }
            }
        }
        let mut reach = Self {
            domain,
            routing: Vec::new(),
        };
        let nothing = Masks([FlowKey::default(); Class::COUNT]);
        let mut by_network = vec![nothing; networks.len()];
        for router in routers {
            let read = routing(router);
            for interface in &router.interfaces {
                widen(&mut by_network[interface.network.index()], &read);
            }
        }
        let by_network = reach.unions(by_network, widen);
        let first = |router: &Arc<Router>| {
            let first = router.interfaces.first();
            first.map_or(nothing, |i| by_network[i.network.index()])
        };
        reach.routing = routers.iter().map(first).collect();
        reach
    }

    /// For each network the union over all that it is joined with.
    pub(super) fn unions<T: Clone>(&self, own: Vec<T>, add: impl Fn(&mut T, &T)) -> Vec<T> {
        let mut unions: HashMap<usize, T> = HashMap::new();
        for (network, value) in own.iter().enumerate() {
            unions
                .entry(self.domain[network])
                .and_modify(|union| add(union, value))
                .or_insert_with(|| value.clone());
        }
        let union = |(network, value): (usize, T)| {
            let union = unions.get(&self.domain[network]);
            union.cloned().unwrap_or(value)
        };
        own.into_iter().enumerate().map(union).collect()
    }

    /// What routing a frame that is for a router reads.
    pub(super) fn routing(&self, router: u16) -> &Masks {
        &self.routing[usize::from(router)]
    }
}

/// What a router reads of a frame of each class.
fn routing(router: &Router) -> Masks {
    Masks(Class::ALL.map(|class| {
        let mut tracer = Tracer::new(class);
        router.read(&mut tracer);
        tracer.mask
    }))
}
