//! Short words for models: networks, ports, vNICs, rules.

use std::{collections::BTreeSet, sync::Arc};

use policy::{
    Mac, NetworkId, PortId, RuleId, VlanId,
    model::{
        Action, Attachment, DirectionPolicy, Model, MoveLimit, Network, Port, SenderChecks,
        StormLimits, Vnic,
    },
    rule::{Match, Origin, Places, Rule},
};

pub(crate) fn model(
    networks: impl IntoIterator<Item = Network>,
    ports: impl IntoIterator<Item = Port>,
) -> Model {
    let ports: Vec<Port> = ports.into_iter().collect();
    Model {
        networks: networks.into_iter().collect(),
        places: places(&ports),
        ports,
        routers: Vec::new(),
    }
}

/// As if each rule stood in the line of its number.
fn places(ports: &[Port]) -> Arc<Places> {
    let vnics = ports.iter().filter_map(|port| port.vnic.as_ref());
    let lists = vnics.flat_map(|vnic| [&vnic.inbound.rules, &vnic.outbound.rules]);
    let numbers: BTreeSet<RuleId> = lists
        .flat_map(policy::rule::RuleList::iter)
        .map(|r| r.id)
        .collect();
    let mut places = Places::new("test".into());
    let lines = numbers.iter().map(|number| number.0).collect();
    places.add("acl".into(), numbers.into_iter().collect(), lines);
    places.into()
}

/// Network `id` without a VLAN, with more room than a test uses.
pub(crate) fn network(id: u16) -> Network {
    Network {
        id: NetworkId(id),
        name: format!("net{id}").into(),
        tenant: "tenant".into(),
        vlan: None,
        mac_limit: 1024,
        ageing_s: 300,
        moves: MoveLimit {
            most: u32::MAX,
            hold_s: 1,
        },
        services: policy::model::Services::default(),
    }
}

/// Network `id` whose VLAN on trunks is `vlan`.
pub(crate) fn vlan_network(id: u16, vlan: u16) -> Network {
    Network {
        vlan: VlanId::new(vlan),
        ..network(id)
    }
}

fn port(id: u16, attachment: Attachment) -> Port {
    Port {
        id: PortId(id),
        name: format!("port{id}").into(),
        attachment,
        isolated: false,
        mac_limit: 1024,
        storm: StormLimits::default(),
        misses_per_turn: 1_000_000,
        spanning_tree: policy::model::SpanningTree::default(),
        vnic: None,
    }
}

/// An access port of a network.
pub(crate) fn access(id: u16, network: u16) -> Port {
    port(id, Attachment::Access(NetworkId(network)))
}

/// A trunk.
pub(crate) fn trunk(id: u16, tagged: &[u16], native: Option<u16>) -> Port {
    let tagged = tagged.iter().copied().map(NetworkId).collect();
    let native = native.map(NetworkId);
    port(id, Attachment::Trunk { tagged, native })
}

/// What a port may have besides its attachment.
pub(crate) trait PortWords: Sized {
    fn isolated(self) -> Self;
    fn mac_limit(self, limit: u32) -> Self;
    fn storm(self, storm: StormLimits) -> Self;
    fn misses_per_turn(self, misses: u32) -> Self;
    fn vnic(self, vnic: Vnic) -> Self;
}

impl PortWords for Port {
    fn isolated(self) -> Self {
        Self {
            isolated: true,
            ..self
        }
    }

    fn mac_limit(self, mac_limit: u32) -> Self {
        Self { mac_limit, ..self }
    }

    fn storm(self, storm: StormLimits) -> Self {
        Self { storm, ..self }
    }

    fn misses_per_turn(self, misses_per_turn: u32) -> Self {
        Self {
            misses_per_turn,
            ..self
        }
    }

    fn vnic(self, vnic: Vnic) -> Self {
        Self {
            vnic: Some(vnic),
            ..self
        }
    }
}

/// A vNIC with every sender check, without IP addresses, that allows everything else.
pub(crate) fn vnic(mac: Mac) -> Vnic {
    Vnic {
        name: format!("vnic-{mac}").into(),
        vm: format!("vm-{mac}").into(),
        mac,
        ipv4: Vec::new(),
        ipv6: Vec::new(),
        connection_limit: 1000,
        checks: SenderChecks::ALL,
        roles: policy::model::Roles::default(),
        inbound: direction(Action::Allow, []),
        outbound: direction(Action::Allow, []),
    }
}

/// What a vNIC may have besides its address.
pub(crate) trait VnicWords: Sized {
    fn ipv4(self, net: &str) -> Self;
    fn ipv6(self, net: &str) -> Self;
    fn checks(self, checks: SenderChecks) -> Self;
    fn inbound(self, default: Action, rules: impl IntoIterator<Item = Rule>) -> Self;
    fn outbound(self, default: Action, rules: impl IntoIterator<Item = Rule>) -> Self;
}

impl VnicWords for Vnic {
    fn ipv4(mut self, net: &str) -> Self {
        self.ipv4.push(net.parse().expect("an IPv4 prefix"));
        self
    }

    fn ipv6(mut self, net: &str) -> Self {
        self.ipv6.push(net.parse().expect("an IPv6 prefix"));
        self
    }

    fn checks(self, checks: SenderChecks) -> Self {
        Self { checks, ..self }
    }

    fn inbound(self, default: Action, rules: impl IntoIterator<Item = Rule>) -> Self {
        Self {
            inbound: direction(default, rules),
            ..self
        }
    }

    fn outbound(self, default: Action, rules: impl IntoIterator<Item = Rule>) -> Self {
        Self {
            outbound: direction(default, rules),
            ..self
        }
    }
}

pub(crate) fn direction(default: Action, rules: impl IntoIterator<Item = Rule>) -> DirectionPolicy {
    DirectionPolicy {
        rules: rules.into_iter().collect(),
        default,
    }
}

/// Rule number `id`.
pub(crate) fn rule(id: u32, action: Action, matches: Match) -> Rule {
    Rule {
        id: RuleId(id),
        action,
        log: false,
        limit: None,
        matches,
        origin: Arc::new(Origin {
            acl: "acl".into(),
            text: "".into(),
        }),
    }
}

pub(crate) fn allow(id: u32, matches: Match) -> Rule {
    rule(id, Action::Allow, matches)
}

pub(crate) fn deny(id: u32, matches: Match) -> Rule {
    rule(id, Action::Deny, matches)
}
