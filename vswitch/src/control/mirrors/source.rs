//! Whose a session's source is, and which ports it means.
//!
//! What must hold: a port's tenant is its vNIC's, or that of all its networks; ports that tunnels use
//! are nobody's source.

use std::{collections::HashSet, sync::Arc};

use mirror::session::{Role, SourceFacts};

use crate::{
    api::mirror_types::MirrorSource,
    config::{
        Config,
        mirroring::Way,
        types::{Attachment, Port, Vnic},
    },
};

/// What a source is.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) facts: SourceFacts,
    pub(super) ports: Vec<Arc<str>>,
}

/// What of a configuration decides what sources are.
pub(super) struct Sources<'c> {
    config: &'c Config,
    /// Networks by which copies travel.
    transports: HashSet<&'c str>,
}

impl<'c> Sources<'c> {
    /// `transports` are the networks that routers send copies to.
    pub(super) fn new(config: &'c Config, transports: HashSet<&'c str>) -> Self {
        Self { config, transports }
    }

    /// What a source is for `owner`; `None` when it is not there.
    pub(super) fn find(&self, source: &MirrorSource, owner: &str) -> Option<Found> {
        match source {
            MirrorSource::Vnic(name) => {
                let vnic = self.config.vnics.iter().find(|vnic| *vnic.name == **name)?;
                self.of_port(&vnic.port)
            }
            MirrorSource::Port(name) => self.of_port(name),
            MirrorSource::Network(name) => self.of_network(name, owner),
        }
    }

    /// What a source is for whoever it is.
    pub(super) fn find_anyones(&self, source: &MirrorSource) -> Option<Found> {
        let mut networks = self.config.networks.iter();
        let owner = match source {
            MirrorSource::Network(name) => networks.find(|n| *n.name == **name),
            MirrorSource::Vnic(_) | MirrorSource::Port(_) => None,
        };
        self.find(source, owner.map_or("", |network| &*network.tenant))
    }

    fn of_port(&self, name: &str) -> Option<Found> {
        let port = self.config.ports.iter().find(|port| *port.name == *name)?;
        let facts = SourceFacts {
            tenant: self.tenant(port),
            role: self.role(port),
        };
        let ports = vec![Arc::clone(&port.name)];
        Some(Found { facts, ports })
    }

    /// The access ports of a network that are the owner's. Of a trunk other networks pass, too; what
    /// passes it of this one is seen where the VM is.
    fn of_network(&self, name: &str, owner: &str) -> Option<Found> {
        let network = self.config.networks.iter().find(|n| *n.name == *name)?;
        let ports = self.config.ports.iter().filter(|port| {
            let is_in_it = matches!(&port.attachment, Attachment::Access(n) if **n == *name);
            is_in_it && *self.tenant(port) == *owner && self.role(port) == Role::Ordinary
        });
        let role = if self.transports.contains(name) {
            Role::Tunnel
        } else {
            Role::Ordinary
        };
        Some(Found {
            ports: ports.map(|port| Arc::clone(&port.name)).collect(),
            facts: SourceFacts {
                tenant: Arc::clone(&network.tenant),
                role,
            },
        })
    }

    fn role(&self, port: &Port) -> Role {
        let mut targets = self.config.mirror_targets.iter();
        let is_way =
            targets.any(|t| matches!(&t.way, Way::Port { port: way, .. } if *way == port.name));
        let mut networks = port.attachment.networks().into_iter();
        if is_way || networks.any(|network| self.transports.contains(&**network)) {
            Role::Tunnel
        } else {
            Role::Ordinary
        }
    }

    /// Whose a port is; nobody's when its networks are several tenants'.
    fn tenant(&self, port: &Port) -> Arc<str> {
        let mut vnics = self.config.vnics.iter();
        let bound = |vnic: &&Vnic| vnic.port == port.name;
        if let Some(tenant) = vnics.find(bound).and_then(|vnic| vnic.tenant.as_ref()) {
            return Arc::clone(tenant);
        }
        let of = |name: &Arc<str>| {
            let mut networks = self.config.networks.iter();
            networks.find(|n| n.name == *name).map(|n| &n.tenant)
        };
        let mut tenants = port.attachment.networks().into_iter().filter_map(of);
        match tenants.next() {
            Some(first) if tenants.all(|tenant| tenant == first) => Arc::clone(first),
            _ => "".into(),
        }
    }
}
