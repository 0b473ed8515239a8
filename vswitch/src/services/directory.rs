//! Who is who: a [`Plan`] with its parts to be found by number, port and address.

use std::{collections::HashMap, net::IpAddr};

use policy::{Mac, NetworkId, PortId};

use super::plan::{NetworkPlan, Plan, VnicPlan};

/// Whose an address is.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'p> {
    /// The switch's own, as a gateway of the network with this Ethernet address.
    Gateway(Mac),
    /// A vNIC's.
    Vnic(&'p VnicPlan),
}

/// A plan, indexed.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    plan: Plan,
    networks: HashMap<NetworkId, usize>,
    vnics: HashMap<(NetworkId, PortId), usize>,
    addresses: HashMap<(NetworkId, IpAddr), usize>,
}

impl Directory {
    /// Indexes a plan.
    pub fn new(plan: Plan) -> Self {
        let numbered = plan.networks.iter().enumerate();
        let networks = numbered.map(|(n, network)| (network.id, n)).collect();
        let mut vnics = HashMap::new();
        let mut addresses = HashMap::new();
        for (number, vnic) in plan.vnics.iter().enumerate() {
            vnics.insert((vnic.network, vnic.port), number);
            let ipv4 = vnic.ipv4.iter().copied().map(IpAddr::V4);
            for address in ipv4.chain(vnic.ipv6.iter().copied().map(IpAddr::V6)) {
                addresses.insert((vnic.network, address), number);
            }
        }
        Self {
            plan,
            networks,
            vnics,
            addresses,
        }
    }

    /// The networks that have services.
    pub fn networks(&self) -> &[NetworkPlan] {
        &self.plan.networks
    }

    /// Every vNIC.
    pub fn vnics(&self) -> &[VnicPlan] {
        &self.plan.vnics
    }

    /// A network by number.
    pub fn network(&self, id: NetworkId) -> Option<&NetworkPlan> {
        self.networks.get(&id).map(|n| &self.plan.networks[*n])
    }

    /// The vNIC behind a port.
    pub fn vnic(&self, network: NetworkId, port: PortId) -> Option<&VnicPlan> {
        let number = self.vnics.get(&(network, port));
        number.map(|n| &self.plan.vnics[*n])
    }

    /// Whose an address is in a network.
    pub fn owner(&self, network: &NetworkPlan, address: IpAddr) -> Option<Owner<'_>> {
        if let Some(mac) = network.gateway_mac(address) {
            return Some(Owner::Gateway(mac));
        }
        let number = self.addresses.get(&(network.id, address))?;
        Some(Owner::Vnic(&self.plan.vnics[*number]))
    }

    /// The Ethernet address that an address should have.
    pub fn mac_of(&self, network: &NetworkPlan, address: IpAddr) -> Option<Mac> {
        let owner = self.owner(network, address)?;
        Some(match owner {
            Owner::Gateway(mac) => mac,
            Owner::Vnic(vnic) => vnic.mac,
        })
    }
}
