//! Which mirror sessions and captures would copy a frame, and why the others would not, in words.
//!
//! In: a frame with what would become of it. Out: a row for each session, and for each capture, that taps a port
//! which it passes.
//! What must hold: the answer is that of [`Mirrors::foresee`](crate::mirroring::Mirrors::foresee); nothing
//! changes.

use std::collections::HashMap;

use mirror::session::{Cut, Skip, Unwanted};
use policy::{FlowKey, PortId, RuleId, VlanId, key::ethertype, rule::Direction};

use super::{Entry, Standing, captures::Capture, source::Sources, transports};
use crate::{
    api::types::ExplainedMirror,
    config::Config,
    engine::Outlook,
    explain::{Explained, Given, Outcome},
    mirroring::{Foreseen, Seen},
    neighbors::Answer,
    router::End,
    slow_path::Step,
};

const MACS_BYTES: usize = 12;
const TAG_BYTES: usize = 4;

/// What explaining needs beside the frame.
pub(in crate::control) struct Explaining<'a> {
    entries: &'a [Entry],
    captures: &'a [Capture],
    outlook: &'a Outlook,
    names: &'a HashMap<PortId, String>,
    sources: Sources<'a>,
    now_s: u32,
}

/// Whose copies they are: a mirror session's or a capture's.
struct Whose<'a> {
    owner: &'a str,
    name: String,
    filter: &'a [String],
    /// Where copies go.
    to: &'a str,
    /// What the session's state says of copies that do not get there.
    unreachable: Option<&'a str>,
}

impl<'a> Whose<'a> {
    fn session(entry: &'a Entry) -> Self {
        Self {
            owner: &entry.request.owner,
            name: entry.request.name.clone(),
            filter: &entry.request.filter,
            to: &entry.request.target,
            unreachable: match &entry.standing {
                Standing::Unreachable(why) => Some(why),
                Standing::Active | Standing::Suspended(_) => None,
            },
        }
    }

    fn capture(capture: &'a Capture) -> Self {
        Self {
            owner: capture.owner(),
            name: capture.name(),
            filter: capture.filter(),
            to: "its client",
            unreachable: None,
        }
    }
}

/// A port that a frame passes, and what of it is seen there.
struct Sight<'a> {
    port: PortId,
    direction: Direction,
    accepted: bool,
    head: &'a [u8],
    len: usize,
    key: &'a FlowKey,
}

impl<'a> Explaining<'a> {
    /// `now_s` is the clock of neighbours, in seconds.
    pub(in crate::control) fn new(
        (config, entries, captures): (&'a Config, &'a [Entry], &'a [Capture]),
        outlook: &'a Outlook,
        names: &'a HashMap<PortId, String>,
        now_s: u32,
    ) -> Self {
        let sources = Sources::new(config, transports(config, &outlook.bundle.snapshot));
        Self {
            entries,
            captures,
            outlook,
            names,
            sources,
            now_s,
        }
    }

    /// The sessions of the ports that a frame passes.
    pub(in crate::control) fn rows(
        &self,
        frame: Given<'_>,
        explained: &Explained,
    ) -> Vec<ExplainedMirror> {
        if self.entries.is_empty() && self.captures.is_empty() {
            return Vec::new();
        }
        let outcome = explained.outcome();
        let received = Sight {
            port: frame.port,
            direction: Direction::Out,
            accepted: !matches!(outcome, Outcome::Dropped(_)),
            head: frame.head,
            len: frame.len_bytes,
            key: &explained.parsed.key,
        };
        let mut rows = self.at(&received);
        let Outcome::Forwarded(exits) = outcome else {
            return rows;
        };
        for (port, tag, judged) in exits {
            let mut sight = Sight {
                port,
                direction: Direction::In,
                accepted: judged.is_ok(),
                ..received
            };
            if judged.is_err() {
                // What policy keeps from the VM is seen as it was received.
                rows.extend(self.at(&sight));
                continue;
            }
            let head = self.as_it_leaves(frame.head, explained, tag);
            let len = frame.len_bytes + head.len() - frame.head.len();
            let parsed = policy::parse(&head, len, None, PortId::default());
            (sight.head, sight.len, sight.key) = (&head, len, &parsed.key);
            rows.extend(self.at(&sight));
        }
        rows
    }

    /// The first bytes of a frame as they leave: with the tag and the Ethernet addresses that it gets.
    fn as_it_leaves(&self, head: &[u8], explained: &Explained, tag: Option<VlanId>) -> Vec<u8> {
        let mut leaves = head.to_vec();
        let own = |bytes: &[u8]| -> Option<u16> {
            let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
            (word(MACS_BYTES)? == ethertype::CUSTOMER_TAG).then(|| word(MACS_BYTES + 2))?
        };
        let tci = own(&leaves);
        if tci.is_some() && leaves.len() >= MACS_BYTES + TAG_BYTES {
            leaves.drain(MACS_BYTES..MACS_BYTES + TAG_BYTES);
        }
        if let Some(vlan) = tag
            && leaves.len() >= MACS_BYTES
        {
            let tci = tci.unwrap_or(0) & 0xf000 | vlan.get();
            let words = [ethertype::CUSTOMER_TAG, tci].map(u16::to_be_bytes);
            leaves.splice(MACS_BYTES..MACS_BYTES, words.concat());
        }
        let leg = explained.steps.iter().find_map(|step| match step {
            Step::Routed(course) => match course.end {
                End::Onward(leg) => Some(leg),
                End::Local | End::Refused(_) => None,
            },
            _ => None,
        });
        if let Some(leg) = leg
            && let Some(macs) = leaves.first_chunk_mut::<MACS_BYTES>()
        {
            macs[6..].copy_from_slice(&leg.from.0);
            let (snapshot, shared) = (&self.outlook.bundle.snapshot, &self.outlook.shared);
            let network = snapshot.network(leg.network);
            let host = network.and_then(|network| network.hosts.get(&leg.neighbor));
            let known = shared.neighbors.find(leg.network, leg.neighbor, self.now_s);
            match (host, known) {
                (Some(host), _) => macs[..6].copy_from_slice(&host.mac.0),
                (None, Answer::Known(mac)) => macs[..6].copy_from_slice(&mac.0),
                (None, Answer::Unknown | Answer::Nobody) => {}
            }
        }
        leaves
    }

    /// The sessions that tap a port, in the order in which they are served, then those that are
    /// suspended.
    fn at(&self, sight: &Sight<'_>) -> Vec<ExplainedMirror> {
        let mirrors = &self.outlook.bundle.mirrors;
        let mut rows = Vec::new();
        for session in mirrors.sessions() {
            if !session.ports.contains(&sight.port) || session.exit() == Some(sight.port) {
                continue;
            }
            let Some(whose) = self.whose(session.slot) else {
                continue;
            };
            let foreseen = mirrors.foresee(
                session,
                &Seen {
                    head: sight.head,
                    len: sight.len,
                    key: sight.key,
                    direction: sight.direction,
                    accepted: sight.accepted,
                },
            );
            let said = words(&whose, foreseen, sight.len);
            rows.push(self.row(whose, sight, said));
        }
        let suspended = self
            .entries
            .iter()
            .filter_map(|entry| match &entry.standing {
                Standing::Suspended(why) if self.is_source(entry, sight.port) => Some((entry, why)),
                _ => None,
            });
        rows.extend(suspended.map(|(entry, why)| {
            let said = (false, Some("suspended".into()), why.clone());
            self.row(Whose::session(entry), sight, said)
        }));
        rows
    }

    /// Whose session has a slot.
    fn whose(&self, slot: usize) -> Option<Whose<'_>> {
        let mut entries = self.entries.iter();
        let entry = entries.find(|entry| entry.slot == slot);
        let mut captures = self.captures.iter();
        entry
            .map(Whose::session)
            .or_else(|| captures.find(|c| c.has(slot)).map(Whose::capture))
    }

    /// Whether a port is a session's source, whosever it is now.
    fn is_source(&self, entry: &Entry, port: PortId) -> bool {
        let found = self
            .sources
            .find(&entry.request.source, &entry.request.owner);
        let name: Option<&String> = self.names.get(&port);
        found.is_some_and(|found| {
            found
                .ports
                .iter()
                .any(|port| name.is_some_and(|n| **n == **port))
        })
    }

    fn row(
        &self,
        whose: Whose<'_>,
        sight: &Sight<'_>,
        (copied, reason, text): (bool, Option<String>, String),
    ) -> ExplainedMirror {
        ExplainedMirror {
            owner: whose.owner.to_owned(),
            session: whose.name,
            port: self.names.get(&sight.port).cloned().unwrap_or_default(),
            direction: direction_name(sight.direction).into(),
            copied,
            reason,
            text,
        }
    }
}

fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in",
        Direction::Out => "out",
    }
}

/// Whether a session would copy a frame of `len` bytes, the reason if not, and that in words.
fn words(whose: &Whose<'_>, foreseen: Foreseen, len: usize) -> (bool, Option<String>, String) {
    let extent = |cut: Cut| {
        let how_much = if cut.truncated {
            format!("its first {} bytes", cut.len)
        } else {
            format!("all {len} bytes")
        };
        let pieces = if cut.fragments {
            " in outer fragments"
        } else {
            ""
        };
        format!("{how_much}{pieces}, to {}", whose.to)
    };
    let refused = |reason: &str, text: String| (false, Some(reason.to_owned()), text);
    match foreseen {
        Foreseen::Copied(cut) => (true, None, extent(cut)),
        Foreseen::OneIn(one_in, cut) => {
            (true, None, format!("one in {one_in} such: {}", extent(cut)))
        }
        Foreseen::Unwanted(Unwanted::Direction) => {
            refused("direction", "the session is for the other direction".into())
        }
        Foreseen::Unwanted(Unwanted::Rejected) => refused(
            "rejected",
            "policy rejects it; see --rejected of `vswitch mirror` and `vswitch capture`".into(),
        ),
        Foreseen::Unwanted(Unwanted::Filter(rule)) => {
            refused("filter", filter_words(whose.filter, rule))
        }
        Foreseen::Skipped(Skip::NotSampled) => {
            let text = "its flow is not one of those that the session's sampling takes";
            refused(Skip::NotSampled.name(), text.into())
        }
        Foreseen::Skipped(skip) => {
            let known = whose.unreachable.filter(|_| skip == Skip::Unreachable);
            refused(skip.name(), known.unwrap_or(skip.text()).to_owned())
        }
    }
}

fn filter_words(lines: &[String], rule: Option<RuleId>) -> String {
    match rule.and_then(|rule| Some((rule.0 + 1, lines.get(rule.0 as usize)?))) {
        Some((number, text)) => format!("its rule {number} leaves it out: {text}"),
        None => "no rule of its filter matches".into(),
    }
}
