//! From the configuration to the model that policy compiles: names become numbers, and rules lists.

use std::{collections::HashMap, sync::Arc};

use policy::{
    NetworkId, PortId, RuleId,
    model::{self, Model},
    rule::{Origin, Rule, RuleList, Sets},
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

/// The rule lists of vNICs, with the sets put in. Equal lists are one, whoever uses them; rules
/// that no vNIC has are never written out.
struct RuleLists<'c> {
    lists: Lists<'c>,
    sets: Sets,
    /// The number and place of each rule of `lists`.
    named: Vec<(RuleId, Arc<Origin>)>,
    made: HashMap<Vec<usize>, RuleList>,
}

impl<'c> RuleLists<'c> {
    fn new(config: &'c Config, ids: &mut Ids) -> Self {
        let lists = Lists::new(config);
        let origins = lists.rules().iter().map(|listed| {
            Arc::new(Origin {
                acl: Arc::clone(&listed.list),
                position: listed.position,
                place: Arc::clone(&listed.rule.place),
                text: Arc::clone(&listed.rule.text),
            })
        });
        let origins: Vec<_> = origins.collect();
        Self {
            lists,
            sets: config::lists::sets(config),
            named: ids
                .rules
                .renumber(&origins)
                .into_iter()
                .zip(origins)
                .collect(),
            made: HashMap::new(),
        }
    }

    fn of(&mut self, vnic: &Vnic, direction: policy::rule::Direction) -> RuleList {
        let numbers = self.lists.of(vnic, direction);
        if let Some(made) = self.made.get(&numbers) {
            return made.clone();
        }
        let list: RuleList = numbers.iter().flat_map(|n| self.plain(*n)).collect();
        self.made.insert(numbers, list.clone());
        list
    }

    /// The plain rules that a written one stands for.
    fn plain(&self, number: usize) -> impl Iterator<Item = Rule> + use<'_, 'c> {
        let written = &self.lists.rules()[number].rule.rule;
        let (id, origin) = &self.named[number];
        let matches = written.expand(&self.sets).into_iter();
        matches.map(|matches| Rule {
            id: *id,
            action: written.action,
            log: written.log,
            limit: written.limit,
            matches,
            origin: Arc::clone(origin),
        })
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
        connection_limit: vnic.connection_limit,
        checks: vnic.checks,
        inbound,
        outbound,
    }
}
