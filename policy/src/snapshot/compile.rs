//! From the desired state to a [`Snapshot`], or the reason why it cannot be.

use super::{
    Action, Arc, Attachment, Class, Classifier, Epoch, Field, FlowKey, HashMap, Judge, Mac, Masks,
    Member, Model, NetworkId, NetworkPolicy, OnceLock, Origin, Places, PortId, PortPolicy,
    RateLimit, Refusals, Rule, RuleId, RuleIndex, RuleList, SenderPolicy, Snapshot, VlanId,
    VnicPolicy, model,
};
use super::{Gateway, Host, Router, rogue};
use crate::{acl::Update, conntrack, reader::Tracer, rule::MatchError};

mod reach;
use reach::{Reach, find_hosts, join_routers};

/// Why a desired state cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Two ports have one number.
    #[error("ports \"{first}\" and \"{second}\" have the same number {id}; give each its own")]
    DuplicatePort {
        /// The number.
        id: u16,
        /// One port.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
    },
    /// Two networks have one number.
    #[error("networks \"{first}\" and \"{second}\" have the same number {id}; give each its own")]
    DuplicateNetwork {
        /// The number.
        id: u16,
        /// One network.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
    },
    /// A port is attached to a network that does not exist.
    #[error("port \"{port}\" is attached to network number {network}, which does not exist")]
    UnknownNetwork {
        /// The port.
        port: Arc<str>,
        /// The network's number.
        network: u16,
    },
    /// A trunk carries a network tagged that has no VLAN.
    #[error(
        "trunk port \"{port}\" carries network \"{network}\" tagged, but the network has no vlan; \
         give it one, or make it the trunk's native network"
    )]
    NoVlan {
        /// The port.
        port: Arc<str>,
        /// The network.
        network: Arc<str>,
    },
    /// A trunk could not tell two networks apart, or one is listed twice.
    #[error(
        "trunk port \"{port}\" carries networks \"{first}\" and \"{second}\" with the same vlan \
         {vlan}; give them different vlans, or take one off the trunk"
    )]
    SharedVlan {
        /// The port.
        port: Arc<str>,
        /// The VLAN.
        vlan: u16,
        /// One network.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
    },
    /// A router has an interface in a network that does not exist.
    #[error(
        "router \"{router}\" has an interface in network number {network}, which does not exist"
    )]
    UnknownRouted {
        /// The router.
        router: Arc<str>,
        /// The network's number.
        network: u16,
    },
    /// Two routers of a network could not be told apart.
    #[error(
        "routers \"{first}\" and \"{second}\" have the same address {mac} in network \"{network}\"; \
         give one another mac"
    )]
    SharedGatewayMac {
        /// The address.
        mac: Mac,
        /// The network.
        network: Arc<str>,
        /// One router.
        first: Arc<str>,
        /// The other, or the same one with a second interface.
        second: Arc<str>,
    },
    /// A rule contradicts itself.
    #[error("rule \"{text}\" of ACL \"{acl}\": {error}")]
    Rule {
        /// The rule.
        text: Arc<str>,
        /// The ACL.
        acl: Arc<str>,
        /// What is wrong with it.
        error: MatchError,
    },
    /// Two different rules have one number.
    #[error("\"{first}\" and \"{second}\": two different rules have the same number {id}")]
    DuplicateRule {
        /// The number.
        id: u32,
        /// One rule.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
    },
}

/// Compiles one desired state after another. A rule list that differs little from one of the state
/// before is not compiled whole: what differs is changed
/// ([`Classifier::updated`](crate::acl::Classifier::updated)). Of a list that shares memory with one
/// of the state before, only what is not shared is read.
#[derive(Debug, Default)]
pub struct Compiler {
    /// Those of the state before.
    lists: Vec<List>,
    /// For each address at which rules of them lie, the list's number.
    by_address: HashMap<usize, usize>,
    rules: Arc<RuleIndex>,
    rules_read: usize,
}

impl Compiler {
    /// Compiles a desired state. Costs one trace per class of every rule list, or of what is new
    /// in it; vNICs that share a list share that.
    ///
    /// # Errors
    /// The first fault found; nothing is compiled then, and the state before stays the one that
    /// the next is compared with.
    pub fn compile(&mut self, model: &Model, epoch: Epoch) -> Result<Snapshot, CompileError> {
        let mut networks = compile_networks(model)?;
        let mut lists = Draft::after(self);
        let mut ports: Vec<Option<PortPolicy>> = Vec::new();
        for port in &model.ports {
            let policy = compile_port(port, &networks, &mut lists)?;
            let slot = slot(&mut ports, port.id.index());
            if let Some(first) = slot {
                return Err(CompileError::DuplicatePort {
                    id: port.id.0,
                    first: first.name.clone(),
                    second: port.name.clone(),
                });
            }
            *slot = Some(policy);
        }
        for port in ports.iter().flatten() {
            for (network, tag) in port.memberships() {
                if let Some(network) = &mut networks[network.index()] {
                    network.members.push(Member {
                        port: port.id,
                        tag,
                        isolated: port.isolated,
                    });
                }
            }
        }
        join_routers(&model.routers, &mut networks)?;
        find_hosts(model, &ports, &mut networks);
        let reach = Reach::of(&model.routers, &networks);
        let mut masks = compile_masks(&ports, &networks, &reach, &lists);
        let tracked = compile_tracked(&ports, &networks, &reach, &lists);
        for (masks, tracked) in masks.iter_mut().zip(&tracked) {
            for class in Class::ALL {
                if tracked & 1 << class as u16 != 0 {
                    masks.0[class as usize] |= &conntrack::footprint(class);
                }
            }
        }
        *self = lists.finish(&model.places)?;
        Ok(Snapshot {
            epoch,
            ports,
            networks,
            routers: model.routers.clone(),
            masks,
            tracked,
            connections: conntrack::Settings::default(),
            rules: Arc::clone(&self.rules),
        })
    }
}

impl Compiler {
    /// A rule list of the state before that should be compiled whole, if there is one.
    pub fn worn(&self) -> Option<Worn> {
        let mut lists = self.lists.iter();
        let worn = lists.find(|list| list.classifier.is_worn())?;
        Some(Worn(worn.classifier.clone()))
    }

    /// How many rules the last state had read one by one; the others were those of the state before.
    pub fn rules_read(&self) -> usize {
        self.rules_read
    }

    /// Has the next state made from a list that was compiled whole, with what has changed in it
    /// meanwhile.
    pub fn adopt(&mut self, Renewed(renewed): Renewed) {
        let Some(list) = self.like(renewed.classifier.rules()) else {
            return;
        };
        let list = &mut self.lists[list];
        if list.classifier.is_worn()
            && let Ok((mut next, _)) = List::after(&renewed, list.classifier.rules())
        {
            next.limits = list.limits.clone();
            next.logged = list.logged.clone();
            *list = next;
        }
    }

    /// The number of the list of the state before that shares rules with `rules`, or else has one
    /// of them.
    fn like(&self, rules: &RuleList) -> Option<usize> {
        let mut addresses = rules.addresses();
        let shared = addresses.find_map(|at| self.by_address.get(&at).copied());
        shared.or_else(|| {
            let known = |rule: &Rule| self.rules.find(rule.id);
            let (list, _) = rules.iter().find_map(known)?;
            Some(list as usize)
        })
    }
}

impl Snapshot {
    /// Compiles a desired state on its own.
    ///
    /// # Errors
    /// As [`Compiler::compile`].
    pub fn compile(model: &Model, epoch: Epoch) -> Result<Self, CompileError> {
        Compiler::default().compile(model, epoch)
    }
}

/// The slot of a number, in a table that grows as needed.
fn slot<T>(table: &mut Vec<Option<T>>, index: usize) -> &mut Option<T> {
    if table.len() <= index {
        table.resize_with(index + 1, || None);
    }
    &mut table[index]
}

fn compile_networks(model: &Model) -> Result<Vec<Option<NetworkPolicy>>, CompileError> {
    let mut networks: Vec<Option<NetworkPolicy>> = Vec::new();
    for network in &model.networks {
        let slot = slot(&mut networks, network.id.index());
        if let Some(first) = slot {
            return Err(CompileError::DuplicateNetwork {
                id: network.id.0,
                first: first.name.clone(),
                second: network.name.clone(),
            });
        }
        *slot = Some(NetworkPolicy {
            id: network.id,
            name: network.name.clone(),
            tenant: network.tenant.clone(),
            vlan: network.vlan,
            mac_limit: network.mac_limit,
            ageing_s: network.ageing_s,
            moves: network.moves,
            members: Vec::new(),
            gateways: Vec::new(),
            services: network.services,
            hosts: HashMap::new(),
        });
    }
    Ok(networks)
}

fn compile_port(
    port: &model::Port,
    networks: &[Option<NetworkPolicy>],
    lists: &mut Draft<'_>,
) -> Result<PortPolicy, CompileError> {
    let known = |id: NetworkId| {
        let network = networks.get(id.index()).and_then(Option::as_ref);
        network.ok_or_else(|| CompileError::UnknownNetwork {
            port: port.name.clone(),
            network: id.0,
        })
    };
    let (untagged, tagged) = match &port.attachment {
        Attachment::Access(network) => (Some(*network), &[][..]),
        Attachment::Trunk { tagged, native } => (*native, tagged.as_slice()),
    };
    if let Some(network) = untagged {
        known(network)?;
    }
    let mut by_vlan: Vec<(VlanId, NetworkId)> = Vec::with_capacity(tagged.len());
    for &id in tagged {
        let network = known(id)?;
        let vlan = network.vlan.ok_or_else(|| CompileError::NoVlan {
            port: port.name.clone(),
            network: network.name.clone(),
        })?;
        by_vlan.push((vlan, id));
    }
    by_vlan.sort_unstable();
    for pair in by_vlan.windows(2) {
        if let [(vlan, first), (other, second)] = *pair
            && vlan == other
        {
            return Err(CompileError::SharedVlan {
                port: port.name.clone(),
                vlan: vlan.get(),
                first: known(first)?.name.clone(),
                second: known(second)?.name.clone(),
            });
        }
    }
    let vnic = match &port.vnic {
        None => None,
        Some(vnic) => Some(VnicPolicy {
            name: vnic.name.clone(),
            vm: vnic.vm.clone(),
            mac: vnic.mac,
            connection_limit: vnic.connection_limit,
            sender: SenderPolicy::compile(vnic),
            roles: vnic.roles,
            inbound: lists.judge(&vnic.inbound)?,
            outbound: lists.judge(&vnic.outbound)?,
        }),
    };
    Ok(PortPolicy {
        id: port.id,
        name: port.name.clone(),
        isolated: port.isolated,
        spanning_tree: port.spanning_tree,
        mac_limit: port.mac_limit,
        storm: port.storm,
        misses_per_turn: port.misses_per_turn,
        vnic,
        untagged,
        tagged: by_vlan.into(),
    })
}

/// A rule list that changes have worn ([`Classifier::is_worn`]).
#[derive(Debug)]
pub struct Worn(Arc<Classifier>);

/// A rule list that was worn, compiled whole.
#[derive(Debug)]
pub struct Renewed(List);

impl Worn {
    /// Compiles it whole. Takes long: nobody who waits for a change should wait for this.
    pub fn renew(&self) -> Renewed {
        Renewed(List::new(self.0.renewed()))
    }
}

/// A compiled rule list.
#[derive(Clone, Debug)]
struct List {
    classifier: Arc<Classifier>,
    /// What judging by it reads.
    masks: Masks,
    /// The classes of which its rules may allow a frame statefully, as bits. After rules were
    /// taken out, it may be one too many.
    stateful: u16,
    /// The rules that have a limit.
    limits: Arc<[(RuleId, RateLimit)]>,
    /// The rules whose decisions are logged.
    logged: Arc<[(RuleId, Arc<Origin>)]>,
}

/// Rule lists by identity: compiled and traced once, whoever shares them.
struct Draft<'a> {
    before: &'a Compiler,
    /// By the list's place in memory, a number among `lists`.
    by_address: HashMap<*const (), usize>,
    lists: Vec<List>,
    rules_read: usize,
}

impl<'a> Draft<'a> {
    fn after(before: &'a Compiler) -> Self {
        Self {
            before,
            by_address: HashMap::new(),
            lists: Vec::new(),
            rules_read: 0,
        }
    }

    fn judge(&mut self, policy: &model::DirectionPolicy) -> Result<Judge, CompileError> {
        let judge = |list: &List| Judge {
            classifier: list.classifier.clone(),
            limits: list.limits.clone(),
            default: policy.default,
        };
        let address = policy.rules.identity();
        if let Some(&list) = self.by_address.get(&address) {
            return Ok(judge(&self.lists[list]));
        }
        let before = self.before.like(&policy.rules);
        let (list, read) = match before.map(|list| &self.before.lists[list]) {
            Some(before) => List::after(before, &policy.rules)?,
            None => List::whole(&policy.rules)?,
        };
        self.rules_read += read;
        let judge = judge(&list);
        self.by_address.insert(address, self.lists.len());
        self.lists.push(list);
        Ok(judge)
    }

    /// What the next state is compiled after.
    fn finish(self, places: &Arc<Places>) -> Result<Compiler, CompileError> {
        let mut by_address = HashMap::new();
        let mut logged = HashMap::new();
        for (number, list) in self.lists.iter().enumerate() {
            let addresses = list.classifier.rules().addresses();
            by_address.extend(addresses.map(|at| (at, number)));
            logged.extend(list.logged.iter().cloned());
        }
        let lists = self
            .lists
            .iter()
            .map(|list| list.classifier.rules().clone());
        let rules = RuleIndex {
            lists: lists.collect(),
            by_number: OnceLock::new(),
            logged,
            places: places.clone(),
        };
        // Numbers that were apart stay apart, unless whoever gives them is wrong.
        if self.before.lists.is_empty() || cfg!(debug_assertions) {
            check_numbers(&rules)?;
        }
        Ok(Compiler {
            lists: self.lists,
            by_address,
            rules: Arc::new(rules),
            rules_read: self.rules_read,
        })
    }

    fn list(&self, judge: &Judge) -> Option<&List> {
        let list = self.by_address.get(&judge.classifier.rules().identity())?;
        Some(&self.lists[*list])
    }

    fn masks(&self, judge: &Judge) -> Option<&Masks> {
        self.list(judge).map(|list| &list.masks)
    }

    /// The classes of which a frame may be allowed statefully, as bits.
    fn stateful(&self, judge: &Judge) -> u16 {
        if judge.default == Action::AllowStateful {
            return trackable_classes();
        }
        self.list(judge).map_or(0, |list| list.stateful)
    }
}

impl List {
    /// Compiles a list whole; says how many rules were read.
    fn whole(rules: &RuleList) -> Result<(Self, usize), CompileError> {
        validate(rules.iter())?;
        let list = Self::new(Classifier::compile(rules.clone()));
        Ok((list.with_marks(rules), rules.len()))
    }

    /// Without limits and logs.
    fn new(classifier: Classifier) -> Self {
        let classifier = Arc::new(classifier);
        // The same list may stand with another default elsewhere; denying reads more.
        let widest = Judge {
            classifier: classifier.clone(),
            limits: Arc::default(),
            default: Action::Deny,
        };
        let masks = trace(|tracer| {
            let _ = widest.judge(tracer, Refusals::INBOUND);
        });
        let stateful = stateful_classes(classifier.rules());
        Self {
            classifier,
            masks,
            stateful,
            limits: widest.limits,
            logged: Arc::default(),
        }
    }

    /// With the limits and logs of all its rules.
    fn with_marks(mut self, rules: &RuleList) -> Self {
        let limits = rules.iter().map(|rule| Some((rule.id, rule.limit?)));
        let logged = rules.iter().filter(|rule| rule.log);
        self.limits = limits.flatten().collect();
        self.logged = logged.map(|rule| (rule.id, rule.origin.clone())).collect();
        self
    }

    /// The masks of a list that was changed are those that it had, with what the new rules read.
    /// Says how many rules were read.
    fn after(before: &Self, rules: &RuleList) -> Result<(Self, usize), CompileError> {
        if before.classifier.rules().is(rules) {
            return Ok((before.clone(), 0));
        }
        let (classifier, update) = before.classifier.updated(rules.clone());
        let Update::Patched { inserted, .. } = update else {
            validate(rules.iter())?;
            return Ok((Self::new(classifier).with_marks(rules), rules.len()));
        };
        let inserted = inserted.iter().filter_map(|place| rules.get(*place));
        let inserted: RuleList = inserted.cloned().collect();
        validate(inserted.iter())?;
        let new = Self::new(Classifier::compile(inserted.clone()));
        let mut masks = before.masks;
        widen(&mut masks, &new.masks);
        let next = Self {
            classifier: Arc::new(classifier),
            masks,
            stateful: before.stateful | new.stateful,
            limits: Arc::default(),
            logged: Arc::default(),
        };
        let marked = |rule: &Rule| rule.log || rule.limit.is_some();
        let unmarked = before.limits.is_empty() && before.logged.is_empty();
        if unmarked && !inserted.iter().any(marked) {
            return Ok((next, inserted.len()));
        }
        Ok((next.with_marks(rules), rules.len()))
    }
}

fn validate<'r>(rules: impl Iterator<Item = &'r Rule>) -> Result<(), CompileError> {
    for rule in rules {
        let valid = rule.matches.validate();
        valid.map_err(|error| CompileError::Rule {
            text: rule.origin.text.clone(),
            acl: rule.origin.acl.clone(),
            error,
        })?;
    }
    Ok(())
}

/// Refuses one number for two different rules. Those that one written rule with sets expands to
/// have one number.
fn check_numbers(rules: &RuleIndex) -> Result<(), CompileError> {
    let mut first: HashMap<RuleId, &Rule> = HashMap::new();
    for rule in rules.lists.iter().flat_map(RuleList::iter) {
        let first = *first.entry(rule.id).or_insert(rule);
        if !same_origin(first, rule) {
            return Err(CompileError::DuplicateRule {
                id: rule.id.0,
                first: first.origin.text.clone(),
                second: rule.origin.text.clone(),
            });
        }
    }
    Ok(())
}

/// Whether two rules of one number are the same, or two of those that one written rule with sets
/// expands to.
fn same_origin(a: &Rule, b: &Rule) -> bool {
    (a.action, a.log, a.limit, &a.origin) == (b.action, b.log, b.limit, &b.origin)
}

/// What `decide` could read, for each class.
fn trace(mut decide: impl FnMut(&mut Tracer)) -> Masks {
    Masks(Class::ALL.map(|class| {
        let mut tracer = Tracer::new(class);
        decide(&mut tracer);
        tracer.mask
    }))
}

fn widen(masks: &mut Masks, more: &Masks) {
    for (mask, more) in masks.0.iter_mut().zip(&more.0) {
        *mask |= more;
    }
}

fn compile_masks(
    ports: &[Option<PortPolicy>],
    networks: &[Option<NetworkPolicy>],
    reach: &Reach,
    lists: &Draft<'_>,
) -> Vec<Masks> {
    let vnic_of = |port: PortId| ports[port.index()].as_ref()?.vnic.as_ref();
    // What judging a frame of the network on its way out could read.
    let inbound: Vec<Masks> = networks
        .iter()
        .map(|network| {
            let mut union = Masks([FlowKey::default(); Class::COUNT]);
            for member in network.iter().flat_map(|network| &network.members) {
                if let Some(masks) = vnic_of(member.port).and_then(|v| lists.masks(&v.inbound)) {
                    widen(&mut union, masks);
                }
            }
            union
        })
        .collect();
    let inbound = reach.unions(inbound, widen);
    ports
        .iter()
        .map(|port| {
            let Some(port) = port else {
                return Masks::ALL_ONES;
            };
            let mut masks = trace(|tracer| {
                let _ = port.admit(tracer);
                if let Some(vnic) = &port.vnic {
                    let _ = vnic.check_role(tracer);
                    let _ = vnic.check_sender(tracer, None);
                    let _ = rogue::asks_dhcp(tracer, false);
                    let _ = rogue::asks_dhcp(tracer, true);
                }
                bridge(tracer);
            });
            if let Some(outbound) = port.vnic.as_ref().and_then(|v| lists.masks(&v.outbound)) {
                widen(&mut masks, outbound);
            }
            for (network, _) in port.memberships() {
                widen(&mut masks, &inbound[network.index()]);
                let gateways = &networks[network.index()];
                for gateway in gateways.iter().flat_map(|network| &network.gateways) {
                    widen(&mut masks, reach.routing(gateway.router));
                }
            }
            masks
        })
        .collect()
}

/// For each port, the classes whose frames are tracked, as bits: those of which any member of its
/// networks may allow frames statefully, in either direction, and those that answer them.
fn compile_tracked(
    ports: &[Option<PortPolicy>],
    networks: &[Option<NetworkPolicy>],
    reach: &Reach,
    lists: &Draft<'_>,
) -> Vec<u16> {
    let vnic_of = |port: PortId| ports[port.index()].as_ref()?.vnic.as_ref();
    let by_network: Vec<u16> = networks
        .iter()
        .map(|network| {
            let members = network.iter().flat_map(|network| &network.members);
            let vnics = members.filter_map(|member| vnic_of(member.port));
            vnics.fold(0, |bits, vnic| {
                bits | lists.stateful(&vnic.inbound) | lists.stateful(&vnic.outbound)
            })
        })
        .collect();
    let by_network = reach.unions(by_network, |bits, more| *bits |= *more);
    let port_bits = |port: &PortPolicy| {
        let networks = port.memberships();
        let bits = networks.fold(0, |bits, (id, _)| bits | by_network[id.index()]);
        with_followers(bits)
    };
    ports
        .iter()
        .map(|port| port.as_ref().map_or(0, port_bits))
        .collect()
}

/// The classes of which `rules` may allow a frame statefully.
fn stateful_classes(rules: &RuleList) -> u16 {
    let all = trackable_classes();
    let mut found = 0;
    for rule in rules
        .iter()
        .filter(|rule| rule.action == Action::AllowStateful)
    {
        for class in Class::ALL {
            let bit = 1 << class as u16;
            if all & !found & bit != 0 && rule.matches.test(&mut Tracer::new(class)) {
                found |= bit;
            }
        }
        if found == all {
            break;
        }
    }
    found
}

fn trackable_classes() -> u16 {
    let classes = Class::ALL.into_iter().filter(|class| class.trackable());
    classes.fold(0, |bits, class| bits | 1 << class as u16)
}

/// ICMP errors answer frames of any class of their family, and later fragments follow them.
fn with_followers(bits: u16) -> u16 {
    use Class::{
        Ipv4Fragment, Ipv4Icmp, Ipv4Other, Ipv4Tcp, Ipv4Udp, Ipv6Fragment, Ipv6Icmp, Ipv6Other,
        Ipv6Tcp, Ipv6Udp,
    };

    let family = |classes: [Class; 4], followers: [Class; 2]| {
        let any = classes.iter().any(|class| bits & 1 << *class as u16 != 0);
        followers
            .iter()
            .fold(0, |bits, class| bits | u16::from(any) << *class as u16)
    };
    bits | family(
        [Ipv4Tcp, Ipv4Udp, Ipv4Icmp, Ipv4Other],
        [Ipv4Icmp, Ipv4Fragment],
    ) | family(
        [Ipv6Tcp, Ipv6Udp, Ipv6Icmp, Ipv6Other],
        [Ipv6Icmp, Ipv6Fragment],
    )
}

/// What the bridge reads of every frame.
fn bridge(tracer: &mut Tracer) {
    for field in [
        Field::ETH_DST,
        Field::ETH_SRC,
        Field::VLAN_VID,
        Field::SHAPE,
    ] {
        let read = tracer.mask.get(field);
        tracer.mask.set(field, read | field.ones());
    }
}
