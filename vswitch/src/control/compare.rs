//! A configuration against traffic: which flows would be judged otherwise.
//!
//! In: a configuration that is not applied, and frames: captured ones, or those that come in over
//! some seconds. Out: the flows whose frames would go elsewhere, be dropped, not be dropped any
//! more, or come under another limit. What must hold: both policies are asked by the forwarding
//! code, each with its own MAC tables and as if every bucket had a token; nothing changes; memory is
//! bounded by [`MOST_FLOWS`].

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use policy::{
    Denial, DropReason, Epoch, FlowKey, PortId, RuleId, VlanId,
    model::{Action, RateLimit},
    parse::parse,
    rule::Direction,
    snapshot::Snapshot,
};

use super::{
    Control, ControlError, Origin, compile,
    explain::{GivenBytes, outcome_words, rule_of},
};
use crate::{
    api::types::{ChangedFlow, Compared, FlowLimit, FrameText},
    config::{self, lists::Lists},
    decode,
    drop_watch::{Filter, MOST_PER_SECOND, Watch, What},
    engine::Outlook,
    explain::{Explained, Explainer, Outcome},
    meter::Meters,
    slow_path::{Allowed, Step},
    verdict::Purpose,
};

/// Most flows that are told apart.
pub const MOST_FLOWS: usize = 20_000;

/// Longest time that traffic is looked at, seconds.
pub const MOST_SECONDS: u32 = 300;

/// Most flows that are listed.
const MOST_ROWS: usize = 1000;

/// How long the rings of samples may fill up between two looks.
pub const PAUSE: Duration = Duration::from_millis(2);

/// What one flow is told from another by: all that policy could ever read of its frames.
type Identity = (FlowKey, Option<Box<[u8]>>);

/// Flows, each with one of its frames.
#[derive(Default)]
struct Flows {
    known: HashMap<Identity, (PortId, GivenBytes)>,
    frames: u64,
    left_out_frames: u64,
}

impl Flows {
    fn add(&mut self, port: PortId, frame: GivenBytes) {
        let given = frame.at(port);
        let parsed = parse(given.head, given.len_bytes, given.vlan_tci, port);
        // What is judged by its payload is told apart by that too.
        let payload = (!parsed.class.cacheable()).then(|| frame.head.clone().into());
        self.frames += frame.seen;
        let full = self.known.len() >= MOST_FLOWS;
        match self.known.entry((parsed.key, payload)) {
            std::collections::hash_map::Entry::Occupied(mut known) => {
                known.get_mut().1.seen += frame.seen;
            }
            std::collections::hash_map::Entry::Vacant(_) if full => {
                self.left_out_frames += frame.seen;
            }
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert((port, frame));
            }
        }
    }
}

/// The traffic that two policies are asked about.
pub struct Traffic {
    flows: Flows,
    /// Frames that came and are in no flow.
    skipped: u64,
}

/// Traffic as it comes in: samples of it, for some seconds.
pub struct Collector {
    watch: Watch,
    traffic: Traffic,
    end: Instant,
}

impl Collector {
    /// Takes what has come. False when the time is up.
    pub fn look(&mut self) -> bool {
        let is_over = Instant::now() >= self.end;
        while let Some((sample, missed)) = self.watch.next_sample() {
            self.traffic.skipped += missed;
            if let (Some(port), Some(frame)) = (sample.ingress, sample.frame) {
                let given = GivenBytes {
                    head: frame.bytes().to_vec(),
                    len_bytes: frame.frame_len_bytes as usize,
                    vlan_tci: frame.vlan_tci,
                    seen: 1,
                };
                self.traffic.flows.add(port, given);
            }
        }
        !is_over
    }

    /// What came.
    pub fn finish(mut self) -> Traffic {
        self.traffic.skipped += self.watch.take_skipped();
        self.traffic
    }
}

impl Control {
    /// Begins to look at what comes in: by `port`, or by any.
    ///
    /// # Errors
    ///
    /// When there is no such port, `seconds` is not from 1 to [`MOST_SECONDS`], or too many watch
    /// already.
    pub fn collect(&self, port: Option<&str>, seconds: u32) -> Result<Collector, ControlError> {
        if !(1..=MOST_SECONDS).contains(&seconds) {
            let refusal = format!("traffic is looked at for 1 to {MOST_SECONDS} seconds");
            return Err(ControlError::Refused(refusal));
        }
        let port = port.map(|name| self.port_id(name)).transpose()?;
        let watch = self.watch(Filter {
            what: What::Received,
            port,
            per_second: MOST_PER_SECOND,
        })?;
        Ok(Collector {
            watch,
            traffic: Traffic {
                flows: Flows::default(),
                skipped: 0,
            },
            end: Instant::now() + Duration::from_secs(seconds.into()),
        })
    }

    /// Traffic that was captured: frames that come in by a port.
    ///
    /// # Errors
    ///
    /// When there is no such port, there are more than [`MOST_FLOWS`] frames, or one cannot be
    /// read.
    pub fn captured(&self, port: &str, frames: &[FrameText]) -> Result<Traffic, ControlError> {
        let id = self.port_id(port)?;
        if frames.len() > MOST_FLOWS {
            let refusal = format!("at most {MOST_FLOWS} frames are compared at once");
            return Err(ControlError::Refused(refusal));
        }
        let mut flows = Flows::default();
        for text in frames {
            flows.add(id, GivenBytes::read(text)?);
        }
        Ok(Traffic { flows, skipped: 0 })
    }

    /// Which flows of some traffic a configuration would judge otherwise than the running one.
    ///
    /// # Errors
    ///
    /// When the configuration is not sound.
    pub fn compare(&self, origin: &Origin, traffic: &Traffic) -> Result<Compared, ControlError> {
        let wanted = config::parse(&origin.file, &origin.text, &self.machine)?;
        let mut ids = self.state.read().ids.clone();
        let number = |lists: &Lists<'_>| self.state.read().rules.renumber(&wanted.file, lists);
        let draft = compile::model(&wanted, &mut ids, number, &compile::Made::default());
        let draft = draft.ok_or(ControlError::TooMany)?;
        let outlook = self.datapath.outlook();
        let next = Epoch(outlook.bundle.snapshot.epoch().0 + 1);
        let then = Snapshot::compile(&draft.model, next).map_err(ControlError::Compile)?;
        let then = then.with_connections(wanted.connections.settings);
        Ok(judge_both(&outlook, &then, self.datapath.now_ns(), traffic))
    }
}

fn judge_both(outlook: &Outlook, then: &Snapshot, now_ns: u64, traffic: &Traffic) -> Compared {
    let flows = &traffic.flows;
    let now = &outlook.bundle.snapshot;
    let bridge = &outlook.shared.bridge;
    let tables = bridge.successor(then);
    let connections = &outlook.shared.connections;
    // Whether there is a token depends on the moment: what a limit lets pass at times passes here.
    let meters = Meters::default();
    let neighbors = &outlook.shared.neighbors;
    let mut by_now = Explainer::new(now, (bridge, neighbors), connections, &meters, now_ns);
    let mut by_then = Explainer::new(then, (&tables, neighbors), connections, &meters, now_ns);
    let names: HashMap<PortId, String> = [now, then]
        .iter()
        .flat_map(|snapshot| snapshot.ports())
        .map(|port| (port.id, port.name.to_string()))
        .collect();
    let mut changed = Vec::new();
    let mut changed_limits_only = 0;
    for (port, frame) in flows.known.values() {
        let verdicts = [&mut by_now, &mut by_then].map(|by| by.judge(frame.at(*port), None));
        let now_limits = limits(&verdicts[0], now, *port);
        let then_limits = limits(&verdicts[1], then, *port);
        if where_to(&verdicts[0]) == where_to(&verdicts[1]) {
            if now_limits
                .iter()
                .map(|met| met.0)
                .eq(then_limits.iter().map(|met| met.0))
            {
                continue;
            }
            changed_limits_only += 1;
        }
        let words = |of: &Explained| outcome_words(&of.outcome(), of.flood(), &names);
        let rule = |of: &Explained, snapshot| deciding(of).map(|id| rule_of(snapshot, id));
        changed.push(ChangedFlow {
            port: names.get(port).cloned().unwrap_or_default(),
            frame: decode::one_line(&frame.head, frame.len_bytes, frame.vlan_tci),
            seen: frame.seen,
            now: words(&verdicts[0]),
            now_rule: rule(&verdicts[0], now),
            then: words(&verdicts[1]),
            then_rule: rule(&verdicts[1], then),
            now_limits: limit_rows(&now_limits, now, &names),
            then_limits: limit_rows(&then_limits, then, &names),
        });
    }
    changed.sort_by(|a, b| b.seen.cmp(&a.seen).then_with(|| a.frame.cmp(&b.frame)));
    let changed_flows = changed.len() as u64;
    let changed_frames = changed.iter().map(|flow| flow.seen).sum();
    changed.truncate(MOST_ROWS);
    Compared {
        flows: flows.known.len() as u64,
        frames: flows.frames - flows.left_out_frames,
        frames_not_looked_at: traffic.skipped + flows.left_out_frames,
        changed_flows,
        changed_frames,
        changed_limits_only,
        changed,
    }
}

/// Where a frame's copies go and which are dropped, whatever rule decided.
#[derive(Debug, PartialEq, Eq)]
enum WhereTo {
    Dropped(DropReason),
    Taken(Purpose),
    Forwarded(Vec<(PortId, Option<VlanId>, Option<DropReason>)>),
}

fn where_to(explained: &Explained) -> WhereTo {
    match explained.outcome() {
        Outcome::Dropped(denial) => WhereTo::Dropped(denial.reason),
        Outcome::Taken(purpose) => WhereTo::Taken(purpose),
        Outcome::Forwarded(exits) => WhereTo::Forwarded(
            exits
                .into_iter()
                .map(|(port, tag, judged)| (port, tag, judged.err().map(|denial| denial.reason)))
                .collect(),
        ),
    }
}

/// The rule that decided, of several that of the first port.
fn deciding(explained: &Explained) -> Option<RuleId> {
    match explained.outcome() {
        Outcome::Dropped(denial) => denial.rule,
        Outcome::Taken(_) => None,
        Outcome::Forwarded(exits) => exits.into_iter().find_map(|(.., judged)| match judged {
            Ok(rule) => rule,
            Err(denial) => denial.rule,
        }),
    }
}

/// A limit that a frame is under: at which port, in which direction, of what, and how many.
type Limit = (PortId, Direction, Action, RateLimit);

/// The limits that a frame from port `from` is under, in the order in which it meets them, whether
/// or not it takes a token of each, with their rules. Of a connection that is open, those under
/// which the next one like it is opened.
fn limits(explained: &Explained, snapshot: &Snapshot, from: PortId) -> Vec<(Limit, RuleId)> {
    let rule_of = |judged: &Result<Allowed, Denial>| match judged {
        Ok(allowed) => allowed.rule,
        Err(denial) => denial.rule,
    };
    let met = explained.steps.iter().filter_map(|step| {
        let (port, direction, rule) = match step {
            Step::Outbound(allowed) => (from, Direction::Out, allowed.rule),
            Step::Denied(denial) => (from, Direction::Out, denial.rule),
            Step::To { port, judged, .. } => (*port, Direction::In, rule_of(judged)),
            _ => return None,
        };
        let rule = snapshot.rule(rule?)?;
        Some(((port, direction, rule.action, rule.limit?), rule.id))
    });
    met.collect()
}

fn limit_rows(
    met: &[(Limit, RuleId)],
    snapshot: &Snapshot,
    names: &HashMap<PortId, String>,
) -> Vec<FlowLimit> {
    let row = |((port, direction, action, limit), rule): &(Limit, RuleId)| FlowLimit {
        port: names.get(port).cloned().unwrap_or_default(),
        direction: direction.to_string(),
        of: match action {
            Action::AllowStateful => "connections",
            Action::Reject => "answers",
            Action::Allow | Action::Deny => "frames",
        }
        .into(),
        limit: limit.to_string(),
        rule: rule_of(snapshot, *rule),
    };
    met.iter().map(row).collect()
}
