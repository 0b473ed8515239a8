//! The slow path: what a frame's key has coming to it, decided from policy and the MAC tables.
//!
//! In: a parsed frame that the flow cache had no answer for. Out: a [`Decision`]. It runs on the
//! worker, to completion. What it reads of the key stands in the snapshot's footprint mask; what
//! it reads besides (an ARP or neighbour discovery payload, an unknown destination) makes the
//! decision one that is not cached.
//!
//! ```text
//!   admit (VLAN ─► network) ─► sender checks                         of the ingress port
//!     ─► { the switch itself, if it asks for a service }             service
//!     ─► connection ─► outbound policy                               (trail)
//!     ─► learn ─► look up ─► { one destination | flood }             bridge
//!              ╰► route ─► neighbour ─► { one destination | wait }   router
//!     ─► inbound policy of each destination                          of the egress ports
//!     ─► connection opened or advanced                               (trail)
//! ```
//!
//! An [`Observer`] may look on, and then nothing is learned of the frame: so `vswitch explain` is
//! answered by the very functions that forward.

use std::slice;

use policy::{
    Class, Denial, DropReason, Mac, NetworkId, PortId, VlanId,
    conntrack::{Connections, Token},
    key::shape,
    model::SpanningTree,
    parse::Parsed,
    reader::Exact,
    rule::Direction,
    sender::NeighborClaim,
    snapshot::{NetworkPolicy, PortPolicy, Snapshot, is_spanning_tree},
};

use crate::{
    adjacency::{Adjacencies, Adjacency},
    bridge::{Bridge, Lookup, Passage, Sender},
    drop_ledger::DropLedger,
    flow_cache::NO_NETWORK,
    meter::{MeterSlot, Meters},
    neighbors::Neighbors,
    router::Course,
    rule_ledger::{RuleLedger, RuleSlot},
    rule_log::{Note, Notes},
    storm::FloodKind,
    trail::{self, Footing, Trail},
    verdict::{Denied, Destination, DestinationLog, ListId, Purpose, Verdict, VlanTag},
};

mod route;

pub use crate::trail::Allowed;

/// What was decided, and what it depends on.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    /// What becomes of the frame.
    pub verdict: Verdict,
    /// The network whose MAC table was read; [`NO_NETWORK`] for none.
    pub network: NetworkId,
    /// That table's generation before it was read.
    pub generation: u32,
    /// The connection, or the absence of one, that it rests on.
    pub token: Token,
    /// Whether the next frame with this key, under its mask, would have the same coming to it.
    pub cacheable: bool,
    /// What it took, in judgements: 1 and one for each destination.
    pub cost: u32,
    /// The rule of the sending vNIC that let the frame pass, unless that has a limit.
    pub outbound: RuleSlot,
    /// The limit of that rule: each frame takes a token, this one too, or is dropped.
    pub outbound_meter: Option<MeterSlot>,
    /// Of a frame that is not there: why its connection would not take it, or not be opened.
    pub refusal: Option<Denial>,
}

impl Decision {
    fn rest_on(&mut self, footing: Footing) {
        self.token = footing.token;
        self.cacheable &= footing.cacheable;
    }

    /// As a denial before the frame has a destination.
    fn rest_on_refusal<O: Observer>(&mut self, trail: Option<&Trail<'_>>, snapshot: &Snapshot) {
        if let Some(trail) = trail {
            self.rest_on(trail.refused::<O>(snapshot));
        }
    }
}

/// What one worker's slow path keeps.
#[derive(Debug)]
pub struct SlowPath {
    /// Drops by rule.
    pub ledger: DropLedger,
    /// What passed, by rule.
    pub rules: RuleLedger,
    /// Lists of destinations.
    pub lists: DestinationLog,
    /// The neighbours that routed frames are sent to.
    pub adjacencies: Adjacencies,
    /// What is to be logged of the frame at hand.
    pub notes: Notes,
}

impl Default for SlowPath {
    fn default() -> Self {
        Self {
            ledger: DropLedger::default(),
            rules: RuleLedger::default(),
            lists: DestinationLog::new(64),
            adjacencies: Adjacencies::default(),
            notes: Notes::default(),
        }
    }
}

/// What every decision reads.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The compiled policy.
    pub snapshot: &'a Snapshot,
    /// The MAC tables.
    pub bridge: &'a Bridge,
    /// Who is where, of those that routers send to.
    pub neighbors: &'a Neighbors,
    /// The connections.
    pub connections: &'a Connections,
    /// The limits of the rules.
    pub meters: &'a Meters,
    /// Whether the services have yet to see what asks for one.
    pub serves: bool,
    /// The time, in nanoseconds of the clock.
    pub now_ns: u64,
    /// The same in seconds.
    pub now_s: u32,
}

/// Something that was found on the way to a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The port may send the frame, on this network.
    Admitted(NetworkId),
    /// The vNIC of the ingress port may be its sender.
    OwnSender,
    /// The outbound policy of that vNIC lets it pass.
    Outbound(Allowed),
    /// The sender may be where it is, and this is known of the target; `None` for a group.
    Bridged(Option<Lookup>),
    /// It is for a router, and takes this way.
    Routed(Course),
    /// The switch takes it itself.
    Taken(Purpose),
    /// It is flooded.
    Flooded(FloodKind),
    /// It is bound for a port.
    To {
        /// Which.
        port: PortId,
        /// The tag it leaves with.
        tag: Option<VlanId>,
        /// What the receiving vNIC's policy says, if one is bound there.
        judged: Result<Allowed, Denial>,
    },
    /// It is dropped in the ingress port's account.
    Denied(Denial),
}

/// Who looks on while the slow path decides.
pub trait Observer {
    /// False when the frame is not there: nothing is learned of it, and no table changes.
    const LEARNS: bool;

    /// Is told each step, in order.
    fn step(&mut self, step: Step);
}

/// Nobody, at no cost: how frames are forwarded.
impl Observer for () {
    const LEARNS: bool = true;

    #[inline(always)]
    fn step(&mut self, _step: Step) {}
}

/// A decision in the making: dropped, or bound for these places.
enum Route {
    One(PortId, Option<VlanId>),
    Flood {
        kind: FloodKind,
        cacheable: bool,
    },
    /// To a neighbour of a router, known as of this generation of its network.
    Neighbor(Adjacency, u32),
    /// Nowhere: the switch takes it.
    Taken(Purpose),
}

/// A frame on its way to its destinations.
struct Onward<'a, 't, O> {
    inputs: Inputs<'a>,
    network: NetworkId,
    parsed: &'a Parsed,
    /// `None` where no frame of its class at its port has a connection.
    trail: Option<&'a mut Trail<'t>>,
    observer: &'a mut O,
}

impl SlowPath {
    /// Decides. `head` is the frame's first bytes, which `parsed` was parsed from.
    pub fn resolve(&mut self, inputs: Inputs<'_>, head: &[u8], parsed: &Parsed) -> Decision {
        self.resolve_observed(inputs, head, parsed, &mut ())
    }

    /// As [`SlowPath::resolve`], before an observer.
    pub fn resolve_observed<O: Observer>(
        &mut self,
        inputs: Inputs<'_>,
        head: &[u8],
        parsed: &Parsed,
        observer: &mut O,
    ) -> Decision {
        let mut decision = Decision {
            verdict: Verdict::NOTHING,
            network: NO_NETWORK,
            generation: 0,
            token: Token::UNTRACKED,
            cacheable: parsed.class.cacheable(),
            cost: 1,
            outbound: RuleSlot::NONE,
            outbound_meter: None,
            refusal: None,
        };
        decision.verdict = match self.decide(inputs, head, parsed, &mut decision, observer) {
            Ok(verdict) => verdict,
            Err(denial) => {
                observer.step(Step::Denied(denial));
                let row = self.ledger.slot(parsed.key.ingress(), denial);
                Verdict::Drop(Denied {
                    reason: denial.reason,
                    row,
                })
            }
        };
        decision
    }

    fn decide<O: Observer>(
        &mut self,
        inputs: Inputs<'_>,
        head: &[u8],
        parsed: &Parsed,
        decision: &mut Decision,
        observer: &mut O,
    ) -> Result<Verdict, Denial> {
        let no_policy = Denial::new(DropReason::NoPolicy);
        let port = inputs
            .snapshot
            .port(parsed.key.ingress())
            .ok_or(no_policy)?;
        guard(inputs, port, decision)?;
        let network = admit(port, head, parsed, observer).inspect_err(|denial| {
            if denial.reason == DropReason::BpduGuard {
                // The next one may come when the port was enabled again.
                decision.cacheable = false;
                if O::LEARNS {
                    inputs.bridge.disable(port, inputs.now_s);
                }
            }
        })?;
        let snapshot = inputs.snapshot;
        let network = snapshot.network(network).ok_or(no_policy)?;
        if inputs.serves && route::asks_a_service(snapshot, port, network, head, parsed) {
            decision.cacheable = false;
            meet_sender::<O>(inputs, port, network.id, parsed, None)?;
            observer.step(Step::Taken(Purpose::Service));
            return Ok(Verdict::Taken(Purpose::Service));
        }
        let course = route::course(snapshot, network, parsed);
        let zone = course.map_or(network.id, |course| course.zone);
        let begin = || Trail::begin::<O>(inputs, zone, head, parsed);
        let mut trail = snapshot.tracks(port.id, parsed.class).then(begin);
        let stray = trail.as_ref().map_or(Ok(()), Trail::check_fragment);
        stray.inspect_err(|_| decision.cacheable = false)?;
        if let Some(vnic) = &port.vnic {
            let judged = if let Some(trail) = &mut trail {
                trail.judge_sender::<O>(vnic, &parsed.key)
            } else {
                let judged = vnic.pass_outbound(&mut Exact(&parsed.key));
                trail::untracked::<O>(inputs, port.id, judged, DropReason::LimitOut)
            };
            self.note::<O>(snapshot, (port.id, Direction::Out, network.id), &judged);
            let refused = |_: &Denial| decision.rest_on_refusal::<O>(trail.as_ref(), snapshot);
            let allowed = judged.inspect_err(refused)?;
            observer.step(Step::Outbound(allowed));
            decision.outbound = self.rules.slot(allowed.counted_at_once());
            decision.outbound_meter = allowed.meter;
        }

        let target = Some(parsed.key.eth_dst());
        let target = target.filter(|mac| !mac.is_group() && course.is_none());
        let passage = meet_sender::<O>(inputs, port, network.id, parsed, target);
        // An address less somewhere else, and the next frame may pass.
        let passage = passage.inspect_err(|_| decision.cacheable = false)?;
        (decision.network, decision.generation) = (network.id, passage.generation);
        // Who disabled the port meanwhile may have voided what was decided before that generation.
        decision.cacheable &= !inputs.bridge.guards().is_disabled(port.id);
        let route = if let Some(course) = course {
            observer.step(Step::Routed(course));
            route::leave::<O>(inputs, course, (network.id, port))
        } else {
            observer.step(Step::Bridged(passage.target));
            route(snapshot, network, port, parsed, passage.target)
        };
        let route = route.inspect_err(|denial| {
            decision.rest_on_refusal::<O>(trail.as_ref(), snapshot);
            // Somebody may answer for it any time.
            decision.cacheable &= denial.reason != DropReason::NeighborUnresolved;
        })?;
        let mut onward = Onward {
            inputs,
            network: network.id,
            parsed,
            trail: trail.as_mut(),
            observer,
        };
        let verdict = match route {
            Route::One(to, tag) => {
                decision.cost += 1;
                Verdict::Unicast(self.destination(&mut onward, to, tag))
            }
            Route::Flood { kind, cacheable } => {
                decision.cacheable &= cacheable;
                onward.observer.step(Step::Flooded(kind));
                let list = self.flood(&mut onward, network, port);
                let refused = |_: &Denial| decision.rest_on_refusal::<O>(trail.as_ref(), snapshot);
                let list = list.inspect_err(refused)?;
                decision.cost += self.lists.get(list).len() as u32;
                Verdict::Flood(kind, list)
            }
            Route::Neighbor(adjacency, generation) => {
                decision.cost += 1;
                let tag = adjacency.tag.and_then(VlanTag::id);
                let to = self.destination(&mut onward, adjacency.port, tag);
                // Without room the frame is dropped, and the next burst finds some.
                let Some(id) = self.adjacencies.intern(adjacency, generation) else {
                    decision.cacheable = false;
                    return Err(Denial::new(DropReason::ServiceBusy));
                };
                Verdict::Routed(to, id)
            }
            Route::Taken(purpose) => {
                decision.cacheable = false;
                onward.observer.step(Step::Taken(purpose));
                return Ok(Verdict::Taken(purpose));
            }
        };
        match trail {
            Some(trail) => self.conclude::<O>(snapshot, trail, port, parsed, verdict, decision),
            None => Ok(verdict),
        }
    }

    /// The end of the way of a frame that may have a connection.
    fn conclude<O: Observer>(
        &self,
        snapshot: &Snapshot,
        mut trail: Trail<'_>,
        port: &PortPolicy,
        parsed: &Parsed,
        verdict: Verdict,
        decision: &mut Decision,
    ) -> Result<Verdict, Denial> {
        let (destinations, to) = match &verdict {
            Verdict::Unicast(to) | Verdict::Routed(to, _) => (slice::from_ref(to), Some(to.port)),
            Verdict::Flood(_, list) => (self.lists.get(*list), None),
            Verdict::Drop(_) | Verdict::Taken(_) => (&[][..], None),
        };
        let takers = || destinations.iter().filter(|to| to.denied.is_none());
        let passes = takers().next().is_some();
        let owner = trail::owner(snapshot, port, takers().map(|to| to.port));
        if !O::LEARNS {
            let (footing, refusal) = trail.foresee(passes, &parsed.key, owner);
            decision.rest_on(footing);
            decision.refusal = refusal;
            return Ok(verdict);
        }
        match trail.settle(passes, to, &parsed.key, owner) {
            Ok(footing) => {
                decision.rest_on(footing);
                Ok(verdict)
            }
            Err(denial) => {
                // The next frame may be one that belongs to the connection, or find room.
                decision.cacheable = false;
                Err(denial)
            }
        }
    }

    fn flood<O: Observer>(
        &mut self,
        onward: &mut Onward<'_, '_, O>,
        network: &NetworkPolicy,
        from: &PortPolicy,
    ) -> Result<ListId, Denial> {
        self.lists.begin(network.members.len());
        let is_spanning_tree = is_spanning_tree(&mut Exact(&onward.parsed.key));
        let snapshot = onward.inputs.snapshot;
        let passes = |port| {
            let port = snapshot.port(port);
            port.is_some_and(|port| port.spanning_tree == SpanningTree::Pass)
        };
        for member in &network.members {
            if is_spanning_tree && !passes(member.port) {
                continue;
            }
            if member.port != from.id && !(member.isolated && from.isolated) {
                let destination = self.destination(onward, member.port, member.tag);
                self.lists.push(destination);
            }
        }
        let list = self.lists.finish();
        if self.lists.get(list).is_empty() {
            return Err(Denial::new(DropReason::NoDestination));
        }
        Ok(list)
    }

    fn destination<O: Observer>(
        &mut self,
        onward: &mut Onward<'_, '_, O>,
        to: PortId,
        tag: Option<VlanId>,
    ) -> Destination {
        let key = &onward.parsed.key;
        // Without its outer tag the frame would pass for one of the inner tag's VLAN.
        let hops = tag.is_none() && key.has(shape::NESTED);
        let snapshot = onward.inputs.snapshot;
        let receiver = snapshot.port(to);
        let judged = match receiver.and_then(|port| port.vnic.as_ref()) {
            _ if onward.inputs.bridge.guards().is_disabled(to) => {
                Err(Denial::new(DropReason::PortDown))
            }
            _ if hops => Err(Denial::new(DropReason::NestedUntagged)),
            Some(vnic) => {
                if let Some(trail) = &mut onward.trail {
                    trail.judge_receiver::<O>(vnic, to, key)
                } else {
                    let judged = vnic.pass_inbound(&mut Exact(key));
                    trail::untracked::<O>(onward.inputs, to, judged, DropReason::LimitIn)
                }
            }
            None => Ok(Allowed::BY_DEFAULT),
        };
        let place = (to, Direction::In, onward.network);
        self.note::<O>(snapshot, place, &judged);
        onward.observer.step(Step::To {
            port: to,
            tag,
            judged,
        });
        let denied = judged.err().map(|denial| Denied {
            reason: denial.reason,
            row: self.ledger.slot(denial.account(key.ingress(), to), denial),
        });
        let allowed = judged.unwrap_or(Allowed::BY_DEFAULT);
        Destination {
            port: to,
            tag: tag.map(Into::into),
            denied,
            allowed: self.rules.slot(allowed.counted_at_once()),
            meter: allowed.meter,
        }
    }

    /// Notes what the rule of a vNIC decided, if it is to be logged. What passes because of its
    /// connection was logged when that was opened.
    #[inline]
    fn note<O: Observer>(
        &mut self,
        snapshot: &Snapshot,
        (port, direction, network): (PortId, Direction, NetworkId),
        judged: &Result<Allowed, Denial>,
    ) {
        let rule = match judged {
            Ok(allowed) => allowed.rule.filter(|_| !allowed.by_connection),
            Err(denial) => denial.rule,
        };
        if O::LEARNS
            && let Some(rule) = rule
            && snapshot.logs(rule)
        {
            self.notes.push(Note {
                port,
                direction,
                network,
                rule,
                dropped: judged.err().map(|denial| denial.reason),
                meter: judged.ok().and_then(|allowed| allowed.meter),
            });
        }
    }
}

/// Refuses what comes from a port that a spanning tree frame has disabled, for as long as it is.
#[inline]
fn guard(inputs: Inputs<'_>, port: &PortPolicy, decision: &mut Decision) -> Result<(), Denial> {
    let Some(network) = port.networks().next() else {
        return Ok(());
    };
    // Before the port is looked at: who enables it advances the generation afterwards.
    let generation = inputs.bridge.generations().current(network);
    if inputs.bridge.guards().is_disabled(port.id) {
        (decision.network, decision.generation) = (network, generation);
        return Err(Denial::new(DropReason::PortDisabled));
    }
    Ok(())
}

/// Whether the ingress port may send the frame, and on which network.
fn admit<O: Observer>(
    port: &PortPolicy,
    head: &[u8],
    parsed: &Parsed,
    observer: &mut O,
) -> Result<NetworkId, Denial> {
    let mut reader = Exact(&parsed.key);
    let network = port.admit(&mut reader)?;
    observer.step(Step::Admitted(network));
    if let Some(vnic) = &port.vnic {
        let claim = match parsed.class {
            Class::Arp | Class::Ipv6Neighbor => NeighborClaim::read(head, parsed),
            _ => None,
        };
        vnic.check_sender(&mut reader, claim.as_ref())?;
        vnic.check_role(&mut reader)?;
        observer.step(Step::OwnSender);
    }
    Ok(network)
}

/// Notes where the sender is, and tells where the target is.
fn meet_sender<O: Observer>(
    inputs: Inputs<'_>,
    port: &PortPolicy,
    network: NetworkId,
    parsed: &Parsed,
    target: Option<Mac>,
) -> Result<Passage, Denial> {
    let sender = Sender {
        mac: parsed.key.eth_src(),
        port: port.id,
        port_limit: port.mac_limit,
    };
    let passed = if O::LEARNS {
        inputs.bridge.pass(network, sender, target, inputs.now_s)
    } else {
        inputs.bridge.foresee(network, sender, target, inputs.now_s)
    };
    passed.map_err(Denial::new)
}

fn route(
    snapshot: &Snapshot,
    network: &NetworkPolicy,
    from: &PortPolicy,
    parsed: &Parsed,
    target: Option<Lookup>,
) -> Result<Route, Denial> {
    let unknown = |cacheable| Route::Flood {
        kind: FloodKind::Unknown,
        cacheable,
    };
    let to = match target {
        Some(Lookup::At(port)) => port,
        Some(Lookup::Unknown { remembered }) => return Ok(unknown(remembered)),
        None => {
            let broadcast = parsed.key.eth_dst() == policy::Mac::BROADCAST;
            let kind = if broadcast {
                FloodKind::Broadcast
            } else {
                FloodKind::Multicast
            };
            return Ok(Route::Flood {
                kind,
                cacheable: true,
            });
        }
    };
    // A table may be ahead of the snapshot, or behind it while workers change over: an address
    // at a port that is not in the network is as good as unknown.
    let member = snapshot
        .port(to)
        .and_then(|to| Some((to, to.egress_tag(network.id)?)));
    let Some((to, tag)) = member else {
        return Ok(unknown(false));
    };
    if to.id == from.id {
        return Err(Denial::new(DropReason::SamePort));
    }
    if to.isolated && from.isolated {
        return Err(Denial::new(DropReason::Isolated));
    }
    Ok(Route::One(to.id, tag))
}
