//! From the configuration to the model that policy compiles: names become numbers, and rules lists.
//!
//! In: a configuration, and what was made of the one in force. Out: the model, and what was made of
//! this one. What must hold: rules that both configurations have are the same in memory in both
//! models, so that nothing behind this looks at them again.

use std::sync::Arc;

use hashbrown::HashMap;
use policy::{
    InterfaceId, NetworkId, PortId, RuleId,
    model::{self, Model},
    route::{Origin as RouteOrigin, Route, RouteTable, Target},
    router::{Interface, Router},
    rule::{Names, Origin, Rule, RuleList, Sets},
};

use super::ids::{Ids, Renumbered};
use crate::config::{
    self, Config,
    lists::{Lists, Use},
    service_types::{Dhcp6Mode, DhcpMode},
    types::{Attachment, Direction, RouteAction, Vnic},
};

/// The rule lists of a configuration's vNICs, for the next one to be made after.
#[derive(Debug, Default)]
pub(super) struct Made {
    lists: HashMap<Use, Arc<List>>,
    sets: Sets,
}

/// A rule list of vNICs.
#[derive(Debug)]
struct List {
    /// The numbers of the written rules, in order.
    order: Arc<[RuleId]>,
    /// For each of them the place of its first plain rule, and their count at the end; none where each
    /// stands for one.
    starts: Option<Vec<usize>>,
    rules: RuleList,
}

/// A model, and what comes into force with it.
pub(super) struct Draft {
    pub(super) model: Model,
    pub(super) rules: Renumbered,
    pub(super) made: Made,
    /// How many plain rules were made.
    pub(super) rules_made: usize,
}

/// The model of a configuration, after the one that `made` is of. `number` gives its rules their
/// numbers. New names get numbers; none is released. `None` when numbers run out.
pub(super) fn model(
    config: &Config,
    ids: &mut Ids,
    number: impl FnOnce(&Lists<'_>) -> Renumbered,
    made: &Made,
) -> Option<Draft> {
    let lists = Lists::new(config);
    let numbered = number(&lists);
    let mut lists = RuleLists::new(config, &lists, &numbered.numbers, made);
    let mut networks = Vec::with_capacity(config.networks.len());
    for network in &config.networks {
        networks.push(model::Network {
            id: NetworkId(ids.networks.intern(&network.name)?),
            name: Arc::clone(&network.name),
            tenant: Arc::clone(&network.tenant),
            vlan: network.vlan,
            mac_limit: network.mac_limit,
            ageing_s: network.ageing_s,
            moves: network.moves,
            services: services(network, config),
        });
    }
    let bound = config.vnics.iter().map(|vnic| (&*vnic.port, vnic));
    let bound: HashMap<&str, &Vnic> = bound.collect();
    let mut ports = Vec::with_capacity(config.ports.len());
    for port in &config.ports {
        let bound = bound.get(&*port.name);
        ports.push(model::Port {
            id: PortId(ids.ports.intern(&port.name)?),
            name: Arc::clone(&port.name),
            attachment: attachment(&port.attachment, ids)?,
            isolated: port.isolated,
            spanning_tree: port.spanning_tree,
            mac_limit: port.mac_limit,
            storm: port.storm,
            misses_per_turn: port.misses_per_turn,
            vnic: bound.map(|vnic| self::vnic(vnic, &mut lists)),
        });
    }
    let mut routers = Vec::with_capacity(config.routers.len());
    for router in &config.routers {
        routers.push(Arc::new(self::router(router, config, ids)?));
    }
    let RuleLists {
        made: lists,
        sets,
        rules_made,
        ..
    } = lists;
    let model = Model {
        networks,
        ports,
        routers,
        places: Arc::clone(&numbered.places),
    };
    Some(Draft {
        model,
        rules: numbered,
        made: Made { lists, sets },
        rules_made,
    })
}

/// What the services have to see of a network's frames.
fn services(network: &config::types::Network, config: &Config) -> model::Services {
    let on = |mode: Option<DhcpMode>| mode.is_some_and(|mode| mode != DhcpMode::Off);
    let on6 = |mode: Option<Dhcp6Mode>| mode.is_some_and(|mode| mode != Dhcp6Mode::Off);
    let own = &network.services;
    let in_it = |vnic: &&Vnic| {
        let mut ports = config.ports.iter();
        let port = ports.find(|port| port.name == vnic.port);
        port.is_some_and(|port| port.attachment.networks().contains(&&network.name))
    };
    let vnics = || config.vnics.iter().filter(in_it).map(|vnic| &vnic.services);
    model::Services {
        proxy: own.neighbors.proxy,
        fallback: own.neighbors.fallback_ms.is_some(),
        advertises: own.advertisements.is_some(),
        dhcp: on(own.dhcp.mode) || vnics().any(|vnic| on(vnic.dhcp.mode)),
        dhcp6: on6(own.dhcp6.mode) || vnics().any(|vnic| on6(vnic.dhcp6.mode)),
    }
}

/// `None` when the router's networks or routes contradict what was checked.
fn router(router: &config::types::Router, config: &Config, ids: &Ids) -> Option<Router> {
    let mut interfaces = Vec::with_capacity(router.interfaces.len());
    for interface in &router.interfaces {
        interfaces.push(Interface {
            network: ids.network(&interface.network)?,
            addresses: interface.addresses.clone(),
            mtu: interface.mtu,
            clamp_mss: interface.clamp_mss,
        });
    }
    Some(Router {
        name: Arc::clone(&router.name),
        tenant: Arc::clone(&router.tenant),
        mac: router.mac,
        home: ids.network(router.home(&config.networks)?)?,
        interfaces,
        routes: RouteTable::from_routes(routes(router)).ok()?,
    })
}

/// A router's routes: to its own networks, and those that are written down.
fn routes(router: &config::types::Router) -> impl Iterator<Item = Route> + '_ {
    let connected = (0..)
        .zip(&router.interfaces)
        .flat_map(|(number, interface)| {
            let target = Arc::new(Target::Connected {
                interface: InterfaceId(number),
            });
            interface.addresses.iter().map(move |address| Route {
                prefix: address.trunc(),
                metric: 0,
                origin: RouteOrigin::Network,
                target: Arc::clone(&target),
            })
        });
    let written = router.routes.iter();
    let written = written.filter_map(|route| self::route(route, RouteOrigin::Configuration));
    connected.chain(written)
}

/// A route as policy has it; `None` when it has too many next hops.
pub(super) fn route(route: &config::types::RouterRoute, origin: RouteOrigin) -> Option<Route> {
    let target = match &route.action {
        RouteAction::Via(hops) => Target::via(hops.iter().copied()).ok()?,
        RouteAction::OnLink(interface) => Target::Connected {
            interface: *interface,
        },
        RouteAction::Blackhole => Target::Blackhole,
        RouteAction::Reject => Target::Reject,
    };
    Some(Route {
        prefix: route.to,
        metric: route.metric,
        origin,
        target: Arc::new(target),
    })
}

/// The rule lists of vNICs, with the sets put in. Equal lists are one, whoever uses them; rules
/// that no vNIC has are never written out.
struct RuleLists<'c> {
    lists: &'c Lists<'c>,
    /// By the rules' place in `lists`.
    numbers: &'c [RuleId],
    sets: Sets,
    before: &'c Made,
    /// What stands for something else than before.
    changed: Names,
    some_by_name: bool,
    made: HashMap<Use, Arc<List>>,
    by_order: HashMap<Arc<[RuleId]>, Arc<List>>,
    rules_made: usize,
}

impl<'c> RuleLists<'c> {
    fn new(config: &Config, lists: &'c Lists<'c>, numbers: &'c [RuleId], before: &'c Made) -> Self {
        let sets = config::lists::sets(config);
        Self {
            lists,
            numbers,
            changed: sets.changed(&before.sets),
            sets,
            before,
            some_by_name: lists.by_name().next().is_some(),
            made: HashMap::new(),
            by_order: HashMap::new(),
            rules_made: 0,
        }
    }

    fn of(&mut self, vnic: &Vnic, direction: policy::rule::Direction) -> RuleList {
        let of = Use::of(vnic, direction);
        if let Some(made) = self.made.get(&of) {
            return made.rules.clone();
        }
        let written = self.lists.order(&of);
        let order = written.iter().map(|rule| self.numbers[*rule]);
        let order: Arc<[RuleId]> = order.collect();
        let list = match self.by_order.get(&order) {
            Some(list) => Arc::clone(list),
            None => self.make(self.before.lists.get(&of), &written, order),
        };
        let rules = list.rules.clone();
        self.by_order
            .insert(Arc::clone(&list.order), Arc::clone(&list));
        self.made.insert(of, list);
        rules
    }

    /// A list of written rules, after the one that stood there before.
    fn make(
        &mut self,
        before: Option<&Arc<List>>,
        written: &[usize],
        order: Arc<[RuleId]>,
    ) -> Arc<List> {
        if let Some(before) = before
            && before.order == order
            && !written.iter().any(|rule| self.stands_for_others(*rule))
        {
            return Arc::clone(before);
        }
        let rules = match before.and_then(|before| self.amended(before, written, &order)) {
            Some(rules) => rules,
            None => written.iter().flat_map(|rule| self.plain(*rule)).collect(),
        };
        Arc::new(List {
            starts: self.starts(written),
            order,
            rules,
        })
    }

    /// The list before with what differs changed; `None` when that is much.
    fn amended(&mut self, before: &List, written: &[usize], order: &[RuleId]) -> Option<RuleList> {
        let pairs = before.order.iter().zip(order);
        let ahead = pairs.take_while(|(old, new)| old == new).count();
        let (old_rest, rest) = (&before.order[ahead..], &order[ahead..]);
        let pairs = old_rest.iter().rev().zip(rest.iter().rev());
        let behind = pairs.take_while(|(old, new)| old == new).count();
        let (old_end, end) = (before.order.len() - behind, order.len() - behind);
        let kept = (0..ahead).chain(end..order.len());
        let stale = kept.filter(|place| self.stands_for_others(written[*place]));
        let stale: Vec<usize> = stale.collect();
        if stale.len() + (end - ahead) > 64 + order.len() / 16 {
            return None;
        }
        let start = |place: usize| before.starts.as_ref().map_or(place, |all| all[place]);
        let mut rules = before.rules.clone();
        // From the last on, so that the places of those before stay.
        let (stale_ahead, stale_behind) = stale.split_at(stale.partition_point(|p| *p < ahead));
        for place in stale_behind.iter().rev() {
            let old = place + old_end - end;
            rules.splice(start(old)..start(old + 1), self.plain(written[*place]));
        }
        if ahead < old_end || ahead < end {
            let new = written[ahead..end].iter();
            let new = new.flat_map(|rule| self.plain(*rule)).collect();
            rules.splice(start(ahead)..start(old_end), new);
        }
        for place in stale_ahead.iter().rev() {
            rules.splice(start(*place)..start(place + 1), self.plain(written[*place]));
        }
        Some(rules)
    }

    fn starts(&self, written: &[usize]) -> Option<Vec<usize>> {
        if !self.some_by_name {
            return None;
        }
        let mut starts = Vec::with_capacity(written.len() + 1);
        let mut next = 0;
        starts.push(next);
        for rule in written {
            next += match self.lists.get(*rule) {
                Some(listed) if listed.head.by_name => listed.rule.rule.expansions(&self.sets),
                _ => 1,
            };
            starts.push(next);
        }
        Some(starts)
    }

    /// Whether a rule stands for other plain rules than before.
    fn stands_for_others(&self, rule: usize) -> bool {
        !self.changed.is_empty()
            && self.lists.get(rule).is_some_and(|listed| {
                listed.head.by_name && listed.rule.rule.mentions(&self.changed)
            })
    }

    /// The plain rules that a written one stands for.
    fn plain(&mut self, rule: usize) -> Vec<Rule> {
        let Some(listed) = self.lists.get(rule) else {
            return Vec::new();
        };
        let written = &listed.rule.rule;
        let origin = Arc::new(Origin {
            acl: Arc::clone(listed.list),
            text: Arc::clone(&listed.rule.text),
        });
        let matches = written.expand(&self.sets).into_iter();
        let rules = matches.map(|matches| Rule {
            id: self.numbers[rule],
            action: written.action,
            log: written.log,
            limit: written.limit,
            matches,
            origin: Arc::clone(&origin),
        });
        let rules: Vec<Rule> = rules.collect();
        self.rules_made += rules.len();
        rules
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
        roles: model::Roles {
            dhcp_server: vnic.services.dhcp_server,
            router: vnic.services.router,
        },
        inbound,
        outbound,
    }
}
