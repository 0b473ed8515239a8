//! What would become of a frame, and why, told by the code that forwards.
//!
//! In: a frame that is not there, the policy, MAC tables and connections that it would meet. Out:
//! each step of the slow path and the outcome. What must hold: nothing changes. No address is
//! learned, no flow cached, no connection opened or advanced, no token of a limit taken, no frame
//! counted or logged; the ledger and lists that judging needs are the explainer's own.

use policy::{
    Denial, DropReason, FlowKey, Parsed, PortId, RuleId, VlanId, conntrack::Connections,
    parse::parse, snapshot::Snapshot,
};

use crate::{
    adjacency::Adjacencies,
    bridge::Bridge,
    drop_ledger::DropLedger,
    meter::Meters,
    neighbors::Neighbors,
    published::PortShared,
    rule_ledger::RuleLedger,
    rule_log::Notes,
    slow_path::{Inputs, Observer, SlowPath, Step},
    storm::FloodKind,
    verdict::{DestinationLog, Purpose, Verdict},
};

/// First bytes of a frame that are judged: what [`parse`] wants of a longer frame.
pub const HEAD_BYTES: usize = 256;

/// A frame that might arrive.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// Where.
    pub port: PortId,
    /// All of it, or at least its first [`HEAD_BYTES`] bytes.
    pub head: &'a [u8],
    /// Its whole length, bytes.
    pub len_bytes: usize,
    /// The tag that came beside it.
    pub vlan_tci: Option<u16>,
}

/// How a frame would be judged.
#[derive(Clone, Debug)]
pub struct Explained {
    /// What its headers say.
    pub parsed: Parsed,
    /// The key bits that policy could read of its class.
    pub mask: FlowKey,
    /// What the slow path found, in order.
    pub steps: Vec<Step>,
    /// Whether the flow cache would keep the verdict.
    pub cacheable: bool,
    /// Why it would come to nothing now, though policy has it pass: its connection would not take
    /// it or not be opened, or its port floods too much.
    pub prevented: Option<DropReason>,
}

/// Where a frame would go, with which tag, or by what it is stopped at that port.
pub type Exit = (PortId, Option<VlanId>, Result<Option<RuleId>, Denial>);

/// What would become of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is dropped in the ingress port's account.
    Dropped(Denial),
    /// It goes there.
    Forwarded(Vec<Exit>),
    /// The switch takes it itself.
    Taken(Purpose),
}

impl Explained {
    /// What would become of the frame.
    pub fn outcome(&self) -> Outcome {
        if let Some(reason) = self.prevented {
            return Outcome::Dropped(Denial::new(reason));
        }
        let mut exits = Vec::new();
        for step in &self.steps {
            match *step {
                Step::Denied(denial) => return Outcome::Dropped(denial),
                Step::Taken(purpose) => return Outcome::Taken(purpose),
                Step::To { port, tag, judged } => {
                    exits.push((port, tag, judged.map(|allowed| allowed.rule)));
                }
                _ => {}
            }
        }
        Outcome::Forwarded(exits)
    }

    /// How the frame is flooded, if it is.
    pub fn flood(&self) -> Option<FloodKind> {
        self.steps.iter().find_map(|step| match step {
            Step::Flooded(kind) => Some(*kind),
            _ => None,
        })
    }
}

/// Looks on, and has nothing learned.
#[derive(Debug, Default)]
struct Recorder(Vec<Step>);

impl Observer for Recorder {
    const LEARNS: bool = false;

    fn step(&mut self, step: Step) {
        self.0.push(step);
    }
}

/// Judges frames that are not there, under one snapshot.
#[derive(Debug)]
pub struct Explainer<'a> {
    snapshot: &'a Snapshot,
    bridge: &'a Bridge,
    neighbors: &'a Neighbors,
    connections: &'a Connections,
    meters: &'a Meters,
    now_ns: u64,
    slow_path: SlowPath,
}

impl<'a> Explainer<'a> {
    /// With the MAC tables, neighbours, connections and limits of rules as they are when each frame is judged,
    /// those connections left out that have come to their end at `now_ns` of the clock.
    pub fn new(
        snapshot: &'a Snapshot,
        (bridge, neighbors): (&'a Bridge, &'a Neighbors),
        connections: &'a Connections,
        meters: &'a Meters,
        now_ns: u64,
    ) -> Self {
        let longest = snapshot.networks().map(|n| n.members.len()).max();
        Self {
            snapshot,
            bridge,
            neighbors,
            connections,
            meters,
            now_ns,
            slow_path: SlowPath {
                adjacencies: Adjacencies::default(),
                lists: DestinationLog::new(longest.unwrap_or(0)),
                // Whoever explains looks at the steps.
                ledger: DropLedger::new(1),
                rules: RuleLedger::new(1),
                notes: Notes::default(),
            },
        }
    }

    /// Judges a frame. With `limits`, those of its port, also what would prevent it just now, at
    /// `now_ns` of the clock: without, it is asked as one of frames that come in their order.
    pub fn judge(&mut self, frame: Given<'_>, limits: Option<(&PortShared, u64)>) -> Explained {
        let parsed = parse(frame.head, frame.len_bytes, frame.vlan_tci, frame.port);
        let inputs = Inputs {
            snapshot: self.snapshot,
            bridge: self.bridge,
            neighbors: self.neighbors,
            connections: self.connections,
            meters: self.meters,
            serves: true,
            now_ns: self.now_ns,
            now_s: (self.now_ns / 1_000_000_000) as u32,
        };
        let mut recorder = Recorder::default();
        let decision = self
            .slow_path
            .resolve_observed(inputs, frame.head, &parsed, &mut recorder);
        let flood = match (decision.verdict, self.snapshot.port(frame.port), limits) {
            (Verdict::Flood(kind, _), Some(port), Some((shared, now_ns))) => {
                shared.storm.foresee(kind, &port.storm, now_ns).err()
            }
            _ => None,
        };
        Explained {
            mask: *self.snapshot.masks(frame.port).of(parsed.class),
            parsed,
            steps: recorder.0,
            cacheable: decision.cacheable,
            prevented: limits
                .and(decision.refusal)
                .map(|denial| denial.reason)
                .or(flood),
        }
    }
}
