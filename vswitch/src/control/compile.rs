//! From the configuration to the model that policy compiles: names become numbers.

use std::{collections::HashMap, sync::Arc};

use policy::{
    NetworkId, PortId,
    model::{self, Model},
    rule::{Origin, Rule},
};

use super::ids::Ids;
use crate::config::{
    Config,
    types::{Attachment, Direction, Vnic},
};

/// The model of a configuration. New names get numbers; none is released. `None` when numbers
/// run out.
pub(super) fn model(config: &Config, ids: &mut Ids) -> Option<Model> {
    let acls = acls(config, ids);
    let mut networks = Vec::with_capacity(config.networks.len());
    for network in &config.networks {
        networks.push(model::Network {
            id: NetworkId(ids.networks.intern(&network.name)?),
            name: Arc::clone(&network.name),
            tenant: Arc::clone(&network.tenant),
            vlan: network.vlan,
            mac_limit: network.mac_limit,
            ageing_s: network.ageing_s,
        });
    }
    let mut ports = Vec::with_capacity(config.ports.len());
    for port in &config.ports {
        let bound = config.vnics.iter().find(|vnic| vnic.port == port.name);
        ports.push(model::Port {
            id: PortId(ids.ports.intern(&port.name)?),
            name: Arc::clone(&port.name),
            attachment: attachment(&port.attachment, ids)?,
            isolated: port.isolated,
            mac_limit: port.mac_limit,
            storm: port.storm,
            misses_per_turn: port.misses_per_turn,
            vnic: bound.map(|vnic| self::vnic(vnic, &acls)),
        });
    }
    Some(Model { networks, ports })
}

type Acls<'c> = HashMap<&'c str, Arc<[Rule]>>;

fn acls<'c>(config: &'c Config, ids: &mut Ids) -> Acls<'c> {
    let mut origins = Vec::new();
    for acl in &config.acls {
        for (position, rule) in (1..).zip(&acl.rules) {
            origins.push(Arc::new(Origin {
                acl: acl.name.to_string(),
                position,
                place: rule.place.clone(),
                text: rule.text.clone(),
            }));
        }
    }
    let mut numbered = ids.rules.renumber(&origins).into_iter().zip(origins);
    let rules = config.acls.iter().map(|acl| {
        let rules = acl.rules.iter().zip(numbered.by_ref());
        let rules = rules.map(|(rule, (id, origin))| Rule {
            id,
            action: rule.action,
            log: rule.log,
            limit: rule.limit,
            matches: rule.matches.clone(),
            origin,
        });
        (&*acl.name, rules.collect())
    });
    rules.collect()
}

fn attachment(attachment: &Attachment, ids: &Ids) -> Option<model::Attachment> {
    Some(match attachment {
        Attachment::Access(network) => model::Attachment::Access(ids.network(network)?),
        Attachment::Trunk { tagged, native } => model::Attachment::Trunk {
            tagged: tagged
                .iter()
                .map(|name| ids.network(name))
                .collect::<Option<_>>()?,
            native: match native {
                Some(name) => Some(ids.network(name)?),
                None => None,
            },
        },
    })
}

fn vnic(vnic: &Vnic, acls: &Acls<'_>) -> model::Vnic {
    let direction = |direction: &Direction| model::DirectionPolicy {
        rules: direction
            .acl
            .as_ref()
            .and_then(|name| acls.get(&**name))
            .map_or_else(|| [].into(), Arc::clone),
        default: direction.default,
    };
    model::Vnic {
        name: Arc::clone(&vnic.name),
        vm: Arc::clone(&vnic.vm),
        mac: vnic.mac,
        ipv4: vnic.ipv4.clone(),
        ipv6: vnic.ipv6.clone(),
        checks: vnic.checks,
        inbound: direction(&vnic.inbound),
        outbound: direction(&vnic.outbound),
    }
}
