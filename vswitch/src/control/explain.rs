//! Explanations for people: the steps of the slow path, with names put to them.
//!
//! In: frames as text, or flows. Out: the rows of the API. What must hold: the outcome is that of
//! [`Explainer`], which is the forwarding code; here is only the telling.

use std::{collections::HashMap, fmt::Write, sync::Arc};

use policy::{
    Denial, DropReason, Field, FlowKey, PortId, RuleId, Stage, VlanId,
    acl::Classifier,
    key::shape,
    snapshot::{PortPolicy, Snapshot},
};

use super::{Control, ControlError, flow_frame, mirrors::Explaining, view};
use crate::{
    api::types::{
        CacheAnswer, ExplainRequest, ExplainedDestination, ExplainedStage, Explanation, FrameText,
        LookedAt, Rule,
    },
    bridge::Lookup,
    decode,
    explain::{Explained, Explainer, Given, HEAD_BYTES, Outcome},
    meter::Meters,
    router::{self, Course, End},
    slow_path::{Allowed, Step},
    storm::{self, FloodKind},
    verdict::Purpose,
};

/// Most frames of one request.
pub const MOST_FRAMES: usize = 1000;

/// Longest frame that may be given, bytes: a super-segment of a guest with its headers.
const MOST_BYTES: usize = 1 << 17;

/// A frame that somebody gave.
pub(super) struct GivenBytes {
    pub(super) head: Vec<u8>,
    pub(super) len_bytes: usize,
    pub(super) vlan_tci: Option<u16>,
    pub(super) seen: u64,
}

impl GivenBytes {
    pub(super) fn at(&self, port: PortId) -> Given<'_> {
        Given {
            port,
            head: &self.head,
            len_bytes: self.len_bytes,
            vlan_tci: self.vlan_tci,
        }
    }

    pub(super) fn read(text: &FrameText) -> Result<Self, ControlError> {
        let refuse = |what: String| Err(ControlError::Refused(what));
        let Some(head) = decode::from_hex(&text.hex) else {
            return refuse("a frame is written as hexadecimal digits, two for each byte".into());
        };
        let len_bytes = text.len_bytes.unwrap_or(head.len());
        if len_bytes > MOST_BYTES {
            return refuse(format!("a frame has at most {MOST_BYTES} bytes"));
        }
        if len_bytes < head.len() || (len_bytes > head.len() && head.len() < HEAD_BYTES) {
            return refuse(format!(
                "of a frame of {len_bytes} bytes, all or the first {HEAD_BYTES} at least are wanted; {} are given",
                head.len()
            ));
        }
        Ok(Self {
            head,
            len_bytes,
            vlan_tci: None,
            seen: text.seen.unwrap_or(1),
        })
    }
}

impl Control {
    /// What would become of frames, and why. Nothing changes.
    ///
    /// # Errors
    ///
    /// When there is no such port, a frame cannot be read or made, or a worker does not answer.
    pub fn explain(&self, request: &ExplainRequest) -> Result<Vec<Explanation>, ControlError> {
        let port = self.port_id(&request.port)?;
        if request.frames.len() > MOST_FRAMES {
            let refusal = format!("at most {MOST_FRAMES} frames are explained at once");
            return Err(ControlError::Refused(refusal));
        }
        let mut frames = Vec::new();
        for text in &request.frames {
            frames.push(GivenBytes::read(text)?);
        }
        if let Some(flow) = &request.flow {
            let bytes = flow_frame::build(flow, &self.config(), &request.port)
                .map_err(ControlError::Refused)?;
            frames.push(GivenBytes {
                len_bytes: bytes.len(),
                head: bytes,
                vlan_tci: None,
                seen: 1,
            });
        }
        if frames.is_empty() {
            let refusal = "name a frame, or a flow that one is to be made for";
            return Err(ControlError::Refused(refusal.into()));
        }
        let outlook = self.datapath.outlook();
        let snapshot = &outlook.bundle.snapshot;
        let shared = &outlook.shared;
        let now_ns = self.datapath.now_ns();
        let meters = &outlook.bundle.meters;
        let (places, connections) = ((&shared.bridge, &shared.neighbors), &shared.connections);
        let mut explainer = Explainer::new(snapshot, places, connections, meters, now_ns);
        let names = self.port_names();
        let config = self.config();
        let (entries, captures) = {
            let state = self.state.read();
            (Arc::clone(&state.mirrors), Arc::clone(&state.captures))
        };
        let now_s = self.datapath.now_s();
        let mirrors = Explaining::new((&config, &entries, &captures), &outlook, &names, now_s);
        let mut explanations = Vec::with_capacity(frames.len());
        for frame in &frames {
            let limits = outlook.bundle.port(port);
            let limits = limits.map(|shared| (shared, now_ns));
            let explained = explainer.judge(frame.at(port), limits);
            let mut row = Teller {
                snapshot,
                meters,
                now_ns,
                ingress: port,
                explained: &explained,
                names: &names,
            }
            .tell(frame);
            row.port.clone_from(&request.port);
            row.mirrors = mirrors.rows(frame.at(port), &explained);
            let masked = &explained.parsed.key & &explained.mask;
            let answers = self.datapath.look_up(port, &masked, snapshot.epoch())?;
            row.cache = answers
                .into_iter()
                .map(|(worker, found)| CacheAnswer {
                    worker,
                    hit: found.is_some(),
                    hits: found.as_ref().map_or(0, |flow| flow.hits),
                    verdict: found.map(|flow| view::verdict(&flow.verdict, &names)),
                })
                .collect();
            explanations.push(row);
        }
        Ok(explanations)
    }
}

/// A rule of a snapshot, for people.
pub(super) fn rule_of(snapshot: &Snapshot, id: RuleId) -> Rule {
    match snapshot.rule(id).zip(snapshot.places().of(id)) {
        Some((rule, place)) => Rule {
            id: id.0,
            acl: rule.origin.acl.to_string(),
            position: place.position,
            text: rule.origin.text.to_string(),
            place: place.to_string(),
        },
        None => Rule {
            id: id.0,
            acl: String::new(),
            position: 0,
            text: "(a rule that is gone)".into(),
            place: String::new(),
        },
    }
}

/// What becomes of a frame, in words.
pub(super) fn outcome_words(
    outcome: &Outcome,
    flood: Option<FloodKind>,
    names: &HashMap<PortId, String>,
) -> String {
    match outcome {
        Outcome::Dropped(denial) => format!("dropped: {}", denial.reason),
        Outcome::Taken(purpose) => format!("taken by the switch: {}", purpose_words(*purpose)),
        Outcome::Forwarded(exits) => {
            let texts = exits.iter().map(|(port, tag, judged)| {
                let mut text = view::name_of(names, *port);
                match judged {
                    Err(denial) => {
                        let _ = write!(text, " (dropped: {})", denial.reason);
                    }
                    Ok(_) => {
                        if let Some(vlan) = tag {
                            let _ = write!(text, " (vlan {})", vlan.get());
                        }
                    }
                }
                text
            });
            let texts: Vec<_> = texts.collect();
            let how = if flood.is_some() { "flooded to" } else { "to" };
            format!("{how} {}", texts.join(", "))
        }
    }
}

/// What the switch takes a frame for, in words.
fn purpose_words(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Router => "it is for a router itself",
        Purpose::Neighbor => "it waits until the next hop's Ethernet address is known",
        Purpose::Service => "a service of the network answers it",
    }
}

/// Puts words to what was found.
struct Teller<'a> {
    snapshot: &'a Snapshot,
    meters: &'a Meters,
    now_ns: u64,
    ingress: PortId,
    explained: &'a Explained,
    names: &'a HashMap<PortId, String>,
}

impl Teller<'_> {
    fn tell(&self, frame: &GivenBytes) -> Explanation {
        let parsed = &self.explained.parsed;
        let class = format!("{:?}", parsed.class);
        let in_one_line = decode::one_line(&frame.head, frame.len_bytes, None);
        let mut stages = vec![ExplainedStage {
            stage: Stage::Parse.name().into(),
            port: view::name_of(self.names, self.ingress),
            passed: true,
            text: format!("class {class}"),
            ..ExplainedStage::default()
        }];
        stages.extend(self.explained.steps.iter().map(|step| self.stage(step)));
        if let Some(reason) = self.explained.prevented {
            stages.push(self.refused(self.ingress, Denial::new(reason)));
        }
        let outcome = self.explained.outcome();
        let (reason, destinations) = match &outcome {
            Outcome::Dropped(denial) => (Some(denial.reason), Vec::new()),
            Outcome::Taken(_) => (None, Vec::new()),
            Outcome::Forwarded(exits) => {
                let rows = exits
                    .iter()
                    .map(|(port, tag, judged)| ExplainedDestination {
                        port: view::name_of(self.names, *port),
                        vlan: tag.map(VlanId::get),
                        tag: self.tag_words(*tag).into(),
                        sent: judged.is_ok(),
                        reason: judged.err().map(|denial| denial.reason.name().into()),
                    });
                let mut fates = exits.iter().map(|(.., judged)| judged.err());
                let first = fates.next().flatten();
                let reaches_nobody = first.filter(|_| fates.all(|denial| denial.is_some()));
                (reaches_nobody.map(|denial| denial.reason), rows.collect())
            }
        };
        Explanation {
            port: String::new(),
            frame: in_one_line,
            epoch: self.snapshot.epoch().0,
            class,
            mask: decode::mask_words(&self.explained.mask, parsed.class),
            stages,
            verdict: outcome_words(&outcome, self.explained.flood(), self.names),
            reason: reason.map(|reason| reason.name().into()),
            advice: reason.map(|reason| reason.advice().into()),
            destinations,
            mirrors: Vec::new(),
            cacheable: self.explained.cacheable,
            cache: Vec::new(),
        }
    }

    fn port(&self, id: PortId) -> Option<&PortPolicy> {
        self.snapshot.port(id)
    }

    fn network(&self, id: policy::NetworkId) -> &str {
        self.snapshot.network(id).map_or("?", |n| &n.name)
    }

    fn passed(&self, stage: Stage, port: PortId, text: String) -> ExplainedStage {
        ExplainedStage {
            stage: stage.name().into(),
            port: view::name_of(self.names, port),
            passed: true,
            text,
            ..ExplainedStage::default()
        }
    }

    fn stage(&self, step: &Step) -> ExplainedStage {
        let here = self.ingress;
        let key = &self.explained.parsed.key;
        match *step {
            Step::Admitted(network) => {
                let network = self.network(network);
                self.passed(Stage::Admission, here, format!("network {network}"))
            }
            Step::OwnSender => {
                let name = self.vnic_name(here);
                self.passed(Stage::Sender, here, format!("the sender is {name}"))
            }
            Step::Outbound(allowed) => self.by_rules(Stage::Outbound, here, Ok(allowed)),
            Step::Bridged(found) => {
                let text = match found {
                    None => "to a group address".into(),
                    Some(Lookup::At(port)) => format!(
                        "{} is at port {}",
                        key.eth_dst(),
                        view::name_of(self.names, port)
                    ),
                    Some(Lookup::Unknown { .. }) => {
                        format!("nobody knows where {} is", key.eth_dst())
                    }
                };
                self.passed(Stage::Bridge, here, text)
            }
            Step::Routed(course) => self.routed(here, course),
            Step::Taken(purpose) => {
                let stage = match purpose {
                    Purpose::Service => Stage::Service,
                    Purpose::Router | Purpose::Neighbor => Stage::Route,
                };
                self.passed(stage, here, purpose_words(purpose).into())
            }
            Step::Flooded(kind) => self.passed(Stage::Flood, here, self.flood_words(kind)),
            Step::To { port, judged, .. } => match judged {
                Err(denial) if denial.reason.stage() != Stage::Inbound => {
                    self.refused(port, denial)
                }
                judged => self.by_rules(Stage::Inbound, port, judged),
            },
            Step::Denied(denial) if denial.reason.stage() == Stage::Outbound => {
                self.by_rules(Stage::Outbound, here, Err(denial))
            }
            Step::Denied(denial) => self.refused(here, denial),
        }
    }

    fn routed(&self, here: PortId, course: Course) -> ExplainedStage {
        let router = router::name(self.snapshot, course.at).map_or("?", |name| name);
        let text = match course.end {
            End::Local => format!("an address of router {router}"),
            End::Refused(_) => format!("router {router} refuses it"),
            End::Onward(leg) => {
                let (to, network) = (leg.neighbor, self.network(leg.network));
                let hops = match leg.hops {
                    1 => String::new(),
                    hops => format!(" through {hops} routers"),
                };
                format!(
                    "router {router} sends it to {to} in network {network}{hops}, MTU {}",
                    leg.mtu
                )
            }
        };
        self.passed(Stage::Route, here, text)
    }

    fn refused(&self, port: PortId, denial: Denial) -> ExplainedStage {
        ExplainedStage {
            passed: false,
            reason: Some(denial.reason.name().into()),
            ..self.passed(denial.reason.stage(), port, denial.reason.text().into())
        }
    }

    fn by_rules(
        &self,
        stage: Stage,
        port: PortId,
        judged: Result<Allowed, Denial>,
    ) -> ExplainedStage {
        let vnic = self.port(port).and_then(|port| port.vnic.as_ref());
        let Some(vnic) = vnic else {
            return self.passed(stage, port, "no vNIC there, so nothing is asked".into());
        };
        let list = if stage == Stage::Outbound {
            vnic.outbound()
        } else {
            vnic.inbound()
        };
        let key = &self.explained.parsed.key;
        let legible = !key.has(shape::MALFORMED) && !key.has(shape::NESTED);
        let (rule, reason) = match judged {
            Ok(allowed) => (allowed.rule, None),
            Err(denial) => (denial.rule, Some(denial.reason)),
        };
        let mut text: String = match (rule, reason) {
            (Some(_), Some(DropReason::LimitOut | DropReason::LimitIn)) => {
                "allowed by a rule whose limit is used up".into()
            }
            (Some(_), None) => "allowed by a rule".into(),
            (Some(_), Some(DropReason::RejectOut | DropReason::RejectIn)) => {
                "rejected by a rule".into()
            }
            (Some(_), Some(_)) => "denied by a rule".into(),
            (None, None) => format!("{}: no rule matches; passes by default", vnic.name),
            (None, Some(_)) if !legible => "no rule can read it".into(),
            (None, Some(_)) => format!("{}: no rule matches; denied by default", vnic.name),
        };
        if let Some(rule) = rule {
            text += &self.besides(port, rule, judged);
        }
        ExplainedStage {
            passed: reason.is_none(),
            reason: reason.map(|reason| reason.name().into()),
            rule: rule.map(|id| rule_of(self.snapshot, id)),
            looked_at: legible.then(|| looked_at(list, key)),
            ..self.passed(stage, port, text)
        }
    }

    /// What a rule does besides: its limit, and whether it is logged.
    fn besides(&self, port: PortId, id: RuleId, judged: Result<Allowed, Denial>) -> String {
        let mut words = Vec::new();
        let limit = self.snapshot.rule(id).and_then(|rule| rule.limit);
        if let (Some(limit), Some(meter)) = (limit, self.meters.slot(port, Some(id))) {
            let answers = match judged {
                Err(_) => "answers, ",
                Ok(_) => "",
            };
            let left = match judged {
                Ok(Allowed { meter: None, .. }) => "not asked of this frame",
                _ if self.meters.has(meter, self.now_ns) => "a token is there",
                _ => "no token is left",
            };
            words.push(format!("{answers}limit {limit}: {left}"));
        }
        if self.snapshot.logs(id) {
            words.push("logged".into());
        }
        if words.is_empty() {
            return String::new();
        }
        format!(" ({})", words.join("; "))
    }

    fn vnic_name(&self, port: PortId) -> String {
        let vnic = self.port(port).and_then(|port| port.vnic.as_ref());
        vnic.map_or_else(String::new, |vnic| {
            format!("vNIC {} of VM {}", vnic.name, vnic.vm)
        })
    }

    fn flood_words(&self, kind: FloodKind) -> String {
        let kind_words = match kind {
            FloodKind::Broadcast => "broadcast",
            FloodKind::Multicast => "multicast",
            FloodKind::Unknown => "to an unknown address",
        };
        let limits = self.port(self.ingress).map(|port| port.storm);
        match limits.map(|limits| storm::limit(kind, &limits).0) {
            Some(Some(pps)) => format!("{kind_words}; the port may flood {pps} such a second"),
            _ => format!("{kind_words}; no limit"),
        }
    }

    fn tag_words(&self, tag: Option<VlanId>) -> &'static str {
        let key = &self.explained.parsed.key;
        let tagged = key.has(shape::TAGGED);
        match tag {
            Some(vlan) if tagged && u64::from(vlan.get()) == key.get(Field::VLAN_VID) => "stays",
            Some(_) if tagged => "changed",
            Some(_) => "added",
            None if tagged => "removed",
            None => "none",
        }
    }
}

fn looked_at(list: &Classifier, key: &FlowKey) -> LookedAt {
    let cost = list.cost(key);
    LookedAt {
        rules: list.rules().len(),
        tables: list.tables(),
        rules_compared: cost.compares,
        tables_probed: cost.probes,
    }
}
