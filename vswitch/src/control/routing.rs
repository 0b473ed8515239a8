//! Routers, as people see them: neighbours and routes with names put to them.

use policy::route::{Origin, Route, Target};

use super::{Control, ControlError};
use crate::{
    api::types,
    config::{problem::nearest, types::Router},
    neighbors::Answer,
};

impl Control {
    /// Every host that routers send to and that no vNIC is.
    pub fn neighbors(&self) -> Vec<types::Neighbor> {
        let outlook = self.datapath.outlook();
        let snapshot = &outlook.bundle.snapshot;
        let rows = outlook.shared.neighbors.rows(self.datapath.now_s());
        let row = |row: crate::neighbors::NeighborRow| {
            let (state, mac) = match row.answer {
                Answer::Known(mac) => ("known", Some(mac.to_string())),
                Answer::Unknown => ("asked", None),
                Answer::Nobody => ("nobody", None),
            };
            let network = snapshot.network(row.network);
            types::Neighbor {
                network: network.map_or_else(String::new, |network| network.name.to_string()),
                address: row.address.to_string(),
                mac,
                state: state.into(),
                age_s: row.age_s,
            }
        };
        rows.into_iter().map(row).collect()
    }

    /// At most `limit` routes, of a router or of all.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] when there is no such router.
    pub fn routes(
        &self,
        router: Option<&str>,
        limit: usize,
    ) -> Result<Vec<types::Route>, ControlError> {
        let outlook = self.datapath.outlook();
        let config = self.config();
        let routers = outlook.bundle.snapshot.routers();
        if let Some(name) = router
            && !routers.iter().any(|router| &*router.name == name)
        {
            let known = routers.iter().map(|router| &*router.name);
            return Err(ControlError::NotFound {
                message: format!("there is no router \"{name}\""),
                help: nearest(name, known),
            });
        }
        let chosen = routers
            .iter()
            .filter(|of| router.is_none_or(|name| &*of.name == name));
        let rows = chosen.flat_map(|router| {
            let written = config.routers.iter().find(|one| one.name == router.name);
            router.routes.routes().map(move |route| types::Route {
                router: router.name.to_string(),
                prefix: route.prefix.to_string(),
                to: target(&route, written),
                metric: route.metric,
                origin: match route.origin {
                    Origin::Network => "network",
                    Origin::Vnic => "vnic",
                    Origin::Configuration => "configuration",
                    Origin::Api => "api",
                }
                .into(),
            })
        });
        Ok(rows.take(limit).collect())
    }
}

/// Where a route leads, in words.
fn target(route: &Route, router: Option<&Router>) -> String {
    let network = |interface: policy::InterfaceId| {
        let found = router.and_then(|router| router.interfaces.get(interface.index()));
        found.map_or("?", |interface| &interface.network)
    };
    match &*route.target {
        Target::Connected { interface } | Target::Host { interface } => {
            format!("network {}", network(*interface))
        }
        Target::Via(hops) => {
            let hops = hops
                .iter()
                .map(|hop| format!("{} in network {}", hop.address, network(hop.interface)));
            format!("via {}", hops.collect::<Vec<_>>().join(", "))
        }
        Target::Blackhole => "blackhole".into(),
        Target::Reject => "reject".into(),
    }
}
