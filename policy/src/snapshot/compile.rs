//! From the desired state to a [`Snapshot`], or the reason why it cannot be.

use super::{
    Action, Arc, Attachment, Class, Classifier, Epoch, Field, FlowKey, HashMap, Judge, Masks,
    Member, Model, NetworkId, NetworkPolicy, PortId, PortPolicy, Refusals, Rule, RuleId,
    SenderPolicy, Snapshot, VlanId, VnicPolicy, model,
};
use crate::{reader::Tracer, rule::MatchError};

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
    /// A rule contradicts itself.
    #[error("{place}: rule {position} of ACL \"{acl}\": {error}")]
    Rule {
        /// File and line.
        place: String,
        /// The rule's place in its ACL, from 1.
        position: u32,
        /// The ACL.
        acl: String,
        /// What is wrong with it.
        error: MatchError,
    },
    /// Two different rules have one number.
    #[error("{first} and {second}: two different rules have the same number {id}")]
    DuplicateRule {
        /// The number.
        id: u32,
        /// Where one was written.
        first: String,
        /// Where the other was.
        second: String,
    },
}

impl Snapshot {
    /// Compiles the desired state. Costs one trace per class of every rule list, which vNICs
    /// that share a list share.
    ///
    /// # Errors
    /// The first fault found; nothing is compiled then.
    pub fn compile(model: &Model, epoch: Epoch) -> Result<Self, CompileError> {
        let mut networks = compile_networks(model)?;
        let mut lists = Lists::default();
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
        let masks = compile_masks(&ports, &networks, &lists);
        Ok(Self {
            epoch,
            ports,
            networks,
            masks,
            rules: lists.rules,
        })
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
            members: Vec::new(),
        });
    }
    Ok(networks)
}

fn compile_port(
    port: &model::Port,
    networks: &[Option<NetworkPolicy>],
    lists: &mut Lists,
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
            sender: SenderPolicy::compile(vnic),
            inbound: lists.judge(&vnic.inbound)?,
            outbound: lists.judge(&vnic.outbound)?,
        }),
    };
    Ok(PortPolicy {
        id: port.id,
        name: port.name.clone(),
        isolated: port.isolated,
        mac_limit: port.mac_limit,
        storm: port.storm,
        misses_per_turn: port.misses_per_turn,
        vnic,
        untagged,
        tagged: by_vlan.into(),
    })
}

/// Rule lists by identity: compiled and traced once, whoever shares them.
#[derive(Default)]
struct Lists {
    by_address: HashMap<*const Rule, (Arc<Classifier>, Masks)>,
    rules: HashMap<RuleId, (Arc<[Rule]>, u32)>,
}

impl Lists {
    fn judge(&mut self, policy: &model::DirectionPolicy) -> Result<Judge, CompileError> {
        let judge = |classifier: &Arc<Classifier>| Judge {
            classifier: classifier.clone(),
            default: policy.default,
        };
        let address = key_of(&policy.rules);
        if let Some((classifier, _)) = self.by_address.get(&address) {
            return Ok(judge(classifier));
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            self.check(rule)?;
            self.rules
                .entry(rule.id)
                .or_insert_with(|| (policy.rules.clone(), index as u32));
        }
        let classifier = Arc::new(Classifier::compile(policy.rules.clone()));
        let judge = judge(&classifier);
        // The same list may stand with another default elsewhere; denying reads more.
        let widest = Judge {
            default: Action::Deny,
            ..judge.clone()
        };
        let masks = trace(|tracer| {
            let _ = widest.judge(tracer, Refusals::INBOUND);
        });
        self.by_address.insert(address, (classifier, masks));
        Ok(judge)
    }

    fn check(&self, rule: &Rule) -> Result<(), CompileError> {
        rule.matches
            .validate()
            .map_err(|error| CompileError::Rule {
                place: rule.origin.place.clone(),
                position: rule.origin.position,
                acl: rule.origin.acl.clone(),
                error,
            })?;
        match self.rules.get(&rule.id) {
            Some((list, index)) if !same_origin(&list[*index as usize], rule) => {
                Err(CompileError::DuplicateRule {
                    id: rule.id.0,
                    first: list[*index as usize].origin.place.clone(),
                    second: rule.origin.place.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    fn masks(&self, judge: &Judge) -> Option<&Masks> {
        let (_, masks) = self.by_address.get(&key_of(judge.classifier.rules()))?;
        Some(masks)
    }
}

/// Whether two rules of one number are the same, or two of those that one written rule with sets
/// expands to.
fn same_origin(a: &Rule, b: &Rule) -> bool {
    (a.action, a.log, a.limit, &a.origin) == (b.action, b.log, b.limit, &b.origin)
}

fn key_of(rules: &Arc<[Rule]>) -> *const Rule {
    rules.as_ptr()
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
    lists: &Lists,
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
    ports
        .iter()
        .map(|port| {
            let Some(port) = port else {
                return Masks::ALL_ONES;
            };
            let mut masks = trace(|tracer| {
                let _ = port.admit(tracer);
                if let Some(vnic) = &port.vnic {
                    let _ = vnic.check_sender(tracer, None);
                }
                bridge(tracer);
            });
            if let Some(outbound) = port.vnic.as_ref().and_then(|v| lists.masks(&v.outbound)) {
                widen(&mut masks, outbound);
            }
            for (network, _) in port.memberships() {
                widen(&mut masks, &inbound[network.index()]);
            }
            masks
        })
        .collect()
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
