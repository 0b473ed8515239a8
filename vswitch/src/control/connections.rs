//! Connections, as people and other hosts see them: by the names of VMs, ports and networks.
//!
//! In: questions and imports. Out: rows, exports. What must hold: an import names only networks
//! and ports that are here; what it cannot place it refuses, connection by connection.

use std::{collections::HashMap, sync::Arc};

use policy::{
    FlowKey, Mac, PortId,
    conntrack::{
        Exported, Row, Zone,
        transfer::{Imported, Owner, VERSION},
        tuple::Kind,
    },
};

use super::{Control, ControlError};
use crate::{
    api::types,
    config::{problem::nearest, types::Vnic},
};

/// What tells a VM's connections from others.
struct Mine {
    ports: Vec<(PortId, Mac, u32)>,
    /// Their networks.
    zones: Vec<Zone>,
}

impl Mine {
    fn has(&self, zone: Zone, opener: &FlowKey, owner: PortId) -> bool {
        let (at, from, to) = (opener.ingress(), opener.eth_src(), opener.eth_dst());
        self.zones.contains(&zone)
            && self
                .ports
                .iter()
                .any(|(port, mac, _)| *port == at || *port == owner || *mac == from || *mac == to)
    }
}

impl Control {
    /// At most `limit` connections, of a VM, of a port, or of all.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] when there is no such VM or port.
    pub fn connections(
        &self,
        vm: Option<&str>,
        port: Option<&str>,
        limit: usize,
    ) -> Result<Vec<types::Connection>, ControlError> {
        let of_vm = vm.map(|vm| self.of_vm(vm)).transpose()?;
        let of_port = port.map(|port| self.of_port(port)).transpose()?;
        let chosen = |row: &Row| {
            let mine = |mine: &Mine| mine.has(row.zone, &row.opener, row.owner);
            of_vm.as_ref().is_none_or(mine) && of_port.as_ref().is_none_or(mine)
        };
        let timeouts = self.config().connections.settings.timeouts;
        let now_s = self.datapath.now_s();
        let rows = self
            .datapath
            .connections()
            .rows(&timeouts, now_s, limit, chosen);
        let (ports, networks) = (self.port_names(), self.networks());
        let name = |id: PortId| ports.get(&id).cloned();
        let rows = rows.iter().map(|row| types::Connection {
            network: networks
                .get(&row.zone)
                .map_or_else(String::new, ToString::to_string),
            protocol: protocol(row),
            src: row.tuple.src().to_string(),
            src_port: row.tuple.src_port(),
            dst: row.tuple.dst().to_string(),
            dst_port: row.tuple.dst_port(),
            state: state(row).to_owned(),
            port: name(row.ingress),
            counts_against: name(row.owner),
            age_s: row.age_s,
            idle_s: row.idle_s,
            left_s: row.left_s,
        });
        Ok(rows.collect())
    }

    /// Forgets a VM's connections, or all.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] when there is no such VM.
    pub fn flush_connections(&self, vm: Option<&str>) -> Result<types::Flushed, ControlError> {
        let mine = vm.map(|vm| self.of_vm(vm)).transpose()?;
        let chosen = |row: &Row| {
            mine.as_ref()
                .is_none_or(|mine| mine.has(row.zone, &row.opener, row.owner))
        };
        let connections = self.datapath.connections().flush(chosen);
        tracing::info!(
            vm = vm.unwrap_or("(all)"),
            connections,
            "connections flushed"
        );
        Ok(types::Flushed { connections })
    }

    /// A VM's connections, for another host.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] when there is no such VM.
    pub fn export_connections(&self, vm: &str) -> Result<Exported, ControlError> {
        let mine = self.of_vm(vm)?;
        let (ports, networks) = (self.port_names(), self.networks());
        Ok(self.datapath.connections().export(
            self.datapath.now_s(),
            |zone| networks.get(&zone).cloned(),
            |port| ports.get(&port).map(|name| name.as_str().into()),
            |zone, opener, owner| mine.has(zone, opener, owner),
        ))
    }

    /// Takes over a VM's connections from another host. The VM must be configured here.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] when there is no such VM, [`ControlError::Refused`] when the
    /// export is of a version that is not understood.
    pub fn import_connections(
        &self,
        vm: &str,
        exported: &Exported,
    ) -> Result<Imported, ControlError> {
        if exported.version != VERSION {
            return Err(ControlError::Refused(format!(
                "the connections are of version {}, and this vswitch reads version {VERSION}; \
                 export them with the same release",
                exported.version
            )));
        }
        let mine = self.of_vm(vm)?;
        let networks: HashMap<_, _> = self
            .networks()
            .into_iter()
            .map(|(zone, name)| (name, zone))
            .collect();
        let ports: HashMap<_, _> = self
            .port_names()
            .into_iter()
            .map(|(id, name)| (name, id))
            .collect();
        let config = self.config();
        let limits = config.vnics.iter().filter_map(|vnic| {
            let id = *ports.get(&*vnic.port)?;
            Some((id, vnic.connection_limit))
        });
        let limits: HashMap<PortId, u32> = limits.collect();
        let owner = |port: PortId| Owner {
            port,
            limit: limits.get(&port).copied().unwrap_or(0),
        };
        let Some(&(first, _, _)) = mine.ports.first() else {
            return Err(ControlError::Refused(format!("VM \"{vm}\" has no port")));
        };
        let done = self.datapath.connections().import(
            exported,
            self.datapath.now_s(),
            |name| networks.get(name).copied(),
            |name| ports.get(name).map(|id| owner(*id)),
            owner(first),
        );
        tracing::info!(
            vm,
            imported = done.imported,
            refused = done.refused,
            "connections imported"
        );
        Ok(done)
    }

    fn of_vm(&self, vm: &str) -> Result<Mine, ControlError> {
        let mine = self.mine(|vnic| *vnic.vm == *vm);
        if mine.ports.is_empty() {
            let config = self.config();
            let names = config.vnics.iter().map(|vnic| &*vnic.vm);
            return Err(ControlError::NotFound {
                message: format!("there is no VM \"{vm}\""),
                help: nearest(vm, names),
            });
        }
        Ok(mine)
    }

    fn of_port(&self, port: &str) -> Result<Mine, ControlError> {
        let id = self.port_id(port)?;
        let mut mine = self.mine(|vnic| *vnic.port == *port);
        if mine.ports.is_empty() {
            // A port without a vNIC has no address of its own: what it opened is its own.
            mine.ports.push((id, Mac::default(), 0));
            mine.zones = self.networks().into_keys().collect();
        }
        Ok(mine)
    }

    fn mine(&self, of: impl Fn(&Vnic) -> bool) -> Mine {
        let state = self.state.read();
        let mut mine = Mine {
            ports: Vec::new(),
            zones: Vec::new(),
        };
        for vnic in state.config.vnics.iter().filter(|vnic| of(vnic)) {
            let Some(port) = state.ports.get(&vnic.port) else {
                continue;
            };
            mine.ports.push((port.id, vnic.mac, vnic.connection_limit));
            let ports = state.config.ports.iter();
            let networks: Vec<_> = ports
                .filter(|port| port.name == vnic.port)
                .flat_map(|port| port.attachment.networks())
                .collect();
            // What a router sends on is tracked where the router is at home.
            let routers = state.config.routers.iter().filter(|router| {
                let mut joined = router.interfaces.iter();
                joined.any(|interface| networks.contains(&&interface.network))
            });
            let homes = routers.filter_map(|router| router.home(&state.config.networks));
            let names = networks.iter().copied().chain(homes);
            let zones = names.filter_map(|name| state.ids.network(name));
            mine.zones.extend(zones.map(Zone::from));
        }
        mine
    }

    fn networks(&self) -> HashMap<Zone, Arc<str>> {
        let state = self.state.read();
        let networks = state.config.networks.iter();
        networks
            .filter_map(|n| Some((state.ids.network(&n.name)?.into(), Arc::clone(&n.name))))
            .collect()
    }
}

fn protocol(row: &Row) -> String {
    match row.kind {
        Kind::Tcp => "tcp".into(),
        Kind::Udp => "udp".into(),
        Kind::Icmp => "icmp".into(),
        Kind::Other => row.tuple.protocol().to_string(),
    }
}

fn state(row: &Row) -> &'static str {
    match row.kind {
        Kind::Tcp => row.state.name(),
        _ if row.replied => "replied",
        _ => "unreplied",
    }
}
