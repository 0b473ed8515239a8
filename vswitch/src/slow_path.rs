//! The slow path: what a frame's key has coming to it, decided from policy and the MAC tables.
//!
//! In: a parsed frame that the flow cache had no answer for. Out: a [`Decision`]. It runs on the
//! worker, to completion. What it reads of the key stands in the snapshot's footprint mask; what
//! it reads besides (an ARP or neighbour discovery payload, an unknown destination) makes the
//! decision one that is not cached.
//!
//! ```text
//!   admit (VLAN ─► network) ─► sender checks ─► outbound policy      of the ingress port
//!     ─► learn ─► look up ─► { one destination | flood }             bridge
//!     ─► inbound policy of each destination                          of the egress ports
//! ```

use policy::{
    Class, Denial, DropReason, NetworkId, PortId, RuleId, VlanId,
    key::shape,
    parse::Parsed,
    reader::Exact,
    sender::NeighborClaim,
    snapshot::{NetworkPolicy, PortPolicy, Snapshot},
};

use crate::{
    bridge::{Bridge, Lookup, Sender},
    drop_ledger::DropLedger,
    flow_cache::NO_NETWORK,
    rule_ledger::{RuleLedger, RuleSlot},
    storm::FloodKind,
    verdict::{Denied, Destination, DestinationLog, Verdict},
};

/// What was decided, and what it depends on.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    /// What becomes of the frame.
    pub verdict: Verdict,
    /// The network whose MAC table was read; [`NO_NETWORK`] for none.
    pub network: NetworkId,
    /// That table's generation before it was read.
    pub generation: u32,
    /// Whether the next frame with this key, under its mask, would have the same coming to it.
    pub cacheable: bool,
    /// What it took, in judgements: 1 and one for each destination.
    pub cost: u32,
    /// The rule of the sending vNIC that let the frame pass.
    pub outbound: RuleSlot,
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
}

impl Default for SlowPath {
    fn default() -> Self {
        Self {
            ledger: DropLedger::default(),
            rules: RuleLedger::default(),
            lists: DestinationLog::new(64),
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
    /// The time, in seconds of the clock.
    pub now_s: u32,
}

/// A decision in the making: dropped, or bound for these places.
enum Route {
    One(PortId, Option<VlanId>),
    Flood { kind: FloodKind, cacheable: bool },
}

impl SlowPath {
    /// Decides. `head` is the frame's first bytes, which `parsed` was parsed from.
    pub fn resolve(&mut self, inputs: Inputs<'_>, head: &[u8], parsed: &Parsed) -> Decision {
        let mut decision = Decision {
            verdict: Verdict::NOTHING,
            network: NO_NETWORK,
            generation: 0,
            cacheable: parsed.class.cacheable(),
            cost: 1,
            outbound: RuleSlot::NONE,
        };
        decision.verdict = match self.decide(inputs, head, parsed, &mut decision) {
            Ok(verdict) => verdict,
            Err(denial) => {
                let row = self.ledger.slot(parsed.key.ingress(), denial);
                Verdict::Drop(Denied {
                    reason: denial.reason,
                    row,
                })
            }
        };
        decision
    }

    fn decide(
        &mut self,
        inputs: Inputs<'_>,
        head: &[u8],
        parsed: &Parsed,
        decision: &mut Decision,
    ) -> Result<Verdict, Denial> {
        let no_policy = Denial::new(DropReason::NoPolicy);
        let port = inputs
            .snapshot
            .port(parsed.key.ingress())
            .ok_or(no_policy)?;
        let (network, allowed) = admit(port, head, parsed)?;
        decision.outbound = self.rules.slot(allowed);
        let network = inputs.snapshot.network(network).ok_or(no_policy)?;

        let sender = Sender {
            mac: parsed.key.eth_src(),
            port: port.id,
            port_limit: port.mac_limit,
        };
        let target = Some(parsed.key.eth_dst()).filter(|mac| !mac.is_group());
        let passage = match inputs.bridge.pass(network.id, sender, target, inputs.now_s) {
            Ok(passage) => passage,
            Err(reason) => {
                // An address less somewhere else, and the next frame may pass.
                decision.cacheable = false;
                return Err(Denial::new(reason));
            }
        };
        (decision.network, decision.generation) = (network.id, passage.generation);
        match route(inputs.snapshot, network, port, parsed, passage.target)? {
            Route::One(to, tag) => {
                decision.cost += 1;
                Ok(Verdict::Unicast(self.destination(
                    inputs.snapshot,
                    to,
                    tag,
                    parsed,
                )))
            }
            Route::Flood { kind, cacheable } => {
                decision.cacheable &= cacheable;
                self.flood(
                    inputs.snapshot,
                    network,
                    port,
                    parsed,
                    kind,
                    &mut decision.cost,
                )
            }
        }
    }

    fn flood(
        &mut self,
        snapshot: &Snapshot,
        network: &NetworkPolicy,
        from: &PortPolicy,
        parsed: &Parsed,
        kind: FloodKind,
        cost: &mut u32,
    ) -> Result<Verdict, Denial> {
        self.lists.begin(network.members.len());
        for member in &network.members {
            if member.port != from.id && !(member.isolated && from.isolated) {
                let destination = self.destination(snapshot, member.port, member.tag, parsed);
                self.lists.push(destination);
                *cost += 1;
            }
        }
        let list = self.lists.finish();
        if self.lists.get(list).is_empty() {
            return Err(Denial::new(DropReason::NoDestination));
        }
        Ok(Verdict::Flood(kind, list))
    }

    fn destination(
        &mut self,
        snapshot: &Snapshot,
        to: PortId,
        tag: Option<VlanId>,
        parsed: &Parsed,
    ) -> Destination {
        // Without its outer tag the frame would pass for one of the inner tag's VLAN.
        let hops = tag.is_none() && parsed.key.has(shape::NESTED);
        let vnic = snapshot.port(to).and_then(|port| port.vnic.as_ref());
        let judged = match vnic {
            _ if hops => Err(Denial::new(DropReason::NestedUntagged)),
            Some(vnic) => vnic.judge_inbound(&mut Exact(&parsed.key)),
            None => Ok(None),
        };
        let denied = judged.err().map(|denial| Denied {
            reason: denial.reason,
            row: self
                .ledger
                .slot(denial.account(parsed.key.ingress(), to), denial),
        });
        Destination {
            port: to,
            tag: tag.map(Into::into),
            denied,
            allowed: self.rules.slot(judged.ok().flatten()),
        }
    }
}

/// Whether the ingress port may send the frame, on which network, and by which rule.
fn admit(
    port: &PortPolicy,
    head: &[u8],
    parsed: &Parsed,
) -> Result<(NetworkId, Option<RuleId>), Denial> {
    let mut reader = Exact(&parsed.key);
    let network = port.admit(&mut reader)?;
    let mut allowed = None;
    if let Some(vnic) = &port.vnic {
        let claim = match parsed.class {
            Class::Arp | Class::Ipv6Neighbor => NeighborClaim::read(head, parsed),
            _ => None,
        };
        vnic.check_sender(&mut reader, claim.as_ref())?;
        allowed = vnic.judge_outbound(&mut reader)?;
    }
    Ok((network, allowed))
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
