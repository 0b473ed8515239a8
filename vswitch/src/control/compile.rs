//! From the configuration to the model that policy compiles: names become numbers, and rules lists.

use std::{collections::HashMap, sync::Arc};

use policy::{
    NetworkId, PortId,
    model::{self, Model},
    rule::{Origin, Rule},
};

use super::ids::Ids;
use crate::config::{
    self, Config,
    lists::Lists,
    types::{Attachment, Direction, Vnic},
};

/// The model of a configuration. New names get numbers; none is released. `None` when numbers
/// run out.
pub(super) fn model(config: &Config, ids: &mut Ids) -> Option<Model> {
    let mut lists = RuleLists::new(config, ids);
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
            vnic: bound.map(|vnic| self::vnic(vnic, &mut lists)),
        });
    }
    Some(Model { networks, ports })
}

/// The rule lists of vNICs, with the sets put in. Equal lists are one, whoever uses them.
struct RuleLists<'c> {
    lists: Lists<'c>,
    /// The plain rules of each written one, by its number in `lists`.
    plain: Vec<Vec<Rule>>,
    made: HashMap<Vec<usize>, Arc<[Rule]>>,
}

impl<'c> RuleLists<'c> {
    fn new(config: &'c Config, ids: &mut Ids) -> Self {
        let lists = Lists::new(config);
        let origins: Vec<_> = lists
            .rules()
            .iter()
            .map(|listed| {
                Arc::new(Origin {
                    acl: listed.list.clone(),
                    position: listed.position,
                    place: listed.rule.place.clone(),
                    text: listed.rule.text.clone(),
                })
            })
            .collect();
        let sets = config::lists::sets(config);
        let numbered = ids.rules.renumber(&origins).into_iter().zip(origins);
        let plain = lists
            .rules()
            .iter()
            .zip(numbered)
            .map(|(listed, (id, origin))| {
                let written = &listed.rule.rule;
                let rule = |matches| Rule {
                    id,
                    action: written.action,
                    log: written.log,
                    limit: written.limit,
                    matches,
                    origin: Arc::clone(&origin),
                };
                written.expand(&sets).into_iter().map(rule).collect()
            });
        Self {
            plain: plain.collect(),
            lists,
            made: HashMap::new(),
        }
    }

    fn of(&mut self, vnic: &Vnic, direction: policy::rule::Direction) -> Arc<[Rule]> {
        let numbers = self.lists.of(vnic, direction);
        if let Some(made) = self.made.get(&numbers) {
            return Arc::clone(made);
        }
        let rules = numbers.iter().flat_map(|number| &self.plain[*number]);
        let list: Arc<[Rule]> = rules.cloned().collect();
        self.made.insert(numbers, Arc::clone(&list));
        list
    }
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

fn vnic(vnic: &Vnic, lists: &mut RuleLists<'_>) -> model::Vnic {
    let mut direction = |to, policy: &Direction| model::DirectionPolicy {
        rules: lists.of(vnic, to),
        default: policy.default,
    };
    let inbound = direction(policy::rule::Direction::In, &vnic.inbound);
    let outbound = direction(policy::rule::Direction::Out, &vnic.outbound);
    model::Vnic {
        name: Arc::clone(&vnic.name),
        vm: Arc::clone(&vnic.vm),
        mac: vnic.mac,
        ipv4: vnic.ipv4.clone(),
        ipv6: vnic.ipv6.clone(),
        checks: vnic.checks,
        inbound,
        outbound,
    }
}
