//! Mirror sessions: what tenants ask for while the switch runs.
//!
//! ```text
//!   request ──► Entry ─┐
//!   configuration ─────┼─ resolve ──► Resolution ──publish──► commit: what readers see, file, audit
//!   neighbours ────────┘
//! ```
//!
//! In: requests, configurations as they are applied, the supervisor's looks. Out: the sessions in
//! force. What must hold:
//!
//! - a session outlives an apply; its source is looked up anew each time. A source that is gone ends
//!   it, one that is another tenant's or carries copies itself suspends it until it is the owner's again;
//! - no two sessions of a target have the same number;
//! - whatever changes a session leaves a line of audit.
//!
//! Rooms: `source` (whose traffic it is), `way` (where copies leave), `request` (what is asked for),
//! `captures` (sessions whose copies stay here), `file` (kept over a restart), `audit`, `explain` (who
//! would copy a frame).

mod audit;
#[cfg(test)]
mod capture_tests;
pub(super) mod captures;
mod explain;
mod file;
mod request;
mod source;
#[cfg(test)]
mod tests;
mod way;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasher, Hasher, RandomState},
    path::PathBuf,
    sync::{Arc, atomic::AtomicU32},
};

use mirror::{
    session::{CopyCounters, Ready, Role, SessionError, Skip},
    wire::{Link, Tunnel},
};
use policy::{Mac, rule::RuleList, snapshot::Snapshot};

pub use audit::Who;
pub(super) use explain::Explaining;

use super::{Control, ControlError, Hands};
use crate::{
    api::mirror_types::{MirrorAudit, MirrorRequest, MirrorSession},
    config::{
        Config,
        mirroring::{MirrorTarget, Way},
        problem::nearest,
    },
    mirroring::{self, Mirrors, Session, SessionShared},
};
use audit::{Audit, now_s};
pub use captures::Feed;
use captures::{Capture, free_slot, slots};
use file::Kept;
use source::Sources;
use way::Surroundings;

/// The most sessions of a switch.
const MOST_SESSIONS: usize = 16_384;
/// What a template has while there is no way.
const NO_LINK: Link = Link {
    destination: Mac([2, 0, 0, 0, 0, 1]),
    source: Mac([2, 0, 0, 0, 0, 2]),
    tci: None,
};

/// How a session is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Copies are made.
    Active,
    /// There is no way to the decapsulator: what is wanted is counted.
    Unreachable(String),
    /// Nothing is looked at.
    Suspended(String),
}

/// A session.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// As it was asked for; without its lease.
    request: MirrorRequest,
    filter: RuleList,
    number: u32,
    lease_until_s: Option<u64>,
    slot: usize,
    shared: Arc<SessionShared>,
    standing: Standing,
    ports: Vec<Arc<str>>,
    /// What it was made ready with last.
    made: Option<(Tunnel, Ready)>,
}

type Ways = BTreeMap<Arc<str>, Result<way::Found, String>>;

/// All sessions, and what became of their targets.
#[derive(Default)]
pub(super) struct Sessions {
    entries: Vec<Entry>,
    captures: Vec<Capture>,
    /// The number of the last one.
    last_capture: u32,
    ways: Ways,
    datagrams: Arc<AtomicU32>,
    audit: Audit,
    file: Option<PathBuf>,
}

/// What sessions are under a configuration, before it is in force.
pub(super) struct Resolution {
    entries: Vec<Entry>,
    /// Those whose source is gone, and why they end.
    ended: Vec<(MirrorRequest, String)>,
    captures: Vec<Capture>,
    lost: Vec<captures::Lost>,
    ways: Ways,
    pub(super) mirrors: Arc<Mirrors>,
}

impl Entry {
    fn is_called(&self, owner: &str, name: &str) -> bool {
        self.request.owner == owner && self.request.name == name
    }
}

/// What keeps a session from being in force.
enum Obstacle {
    /// For ever.
    Gone(String),
    /// Until something changes.
    Suspended(String),
}

impl Control {
    /// Keeps sessions in a file from now on, and reads those that it has.
    pub fn keep_mirrors(&self, path: PathBuf) {
        let mut hands = self.hands.lock();
        let kept = file::read(&path).unwrap_or_else(|error| {
            tracing::error!("{error}");
            Vec::new()
        });
        hands.mirrors.file = Some(path);
        for kept in kept {
            let filter = request::filter(&kept.request.filter);
            match filter.and_then(|filter| request::check(&kept.request).map(|()| filter)) {
                Ok(filter) => {
                    let entry = self.entry(&hands.mirrors, kept, filter);
                    hands.mirrors.entries.push(entry);
                }
                Err(error) => {
                    tracing::error!(session = kept.request.name, "not kept: {error}");
                }
            }
        }
    }

    fn entry(&self, others: &Sessions, kept: Kept, filter: RuleList) -> Entry {
        let workers = self.datapath.worker_counts().len();
        Entry {
            request: kept.request,
            filter,
            number: kept.number,
            lease_until_s: kept.lease_until_s,
            slot: free_slot(&slots(&others.entries, &others.captures)),
            shared: Arc::new(SessionShared::new(
                workers,
                RandomState::new().build_hasher().finish(),
            )),
            standing: Standing::Active,
            ports: Vec::new(),
            made: None,
        }
    }

    /// Every session.
    pub fn mirrors(&self) -> Vec<MirrorSession> {
        let entries = Arc::clone(&self.state.read().mirrors);
        entries.iter().map(row).collect()
    }

    /// One session.
    ///
    /// # Errors
    /// [`ControlError::NotFound`].
    pub fn mirror(&self, owner: &str, name: &str) -> Result<MirrorSession, ControlError> {
        let entries = Arc::clone(&self.state.read().mirrors);
        let entry = entries.iter().find(|entry| entry.is_called(owner, name));
        entry
            .map(row)
            .ok_or_else(|| not_found(&entries, owner, name))
    }

    /// What was done to sessions last.
    pub fn mirror_audit(&self) -> Vec<MirrorAudit> {
        self.hands.lock().mirrors.audit.rows()
    }

    /// Makes a session.
    ///
    /// # Errors
    /// What is wrong with it; nothing is changed then.
    pub fn create_mirror(
        &self,
        wanted: MirrorRequest,
        who: Who,
    ) -> Result<MirrorSession, ControlError> {
        let mut hands = self.hands.lock();
        let entries = &hands.mirrors.entries;
        if entries
            .iter()
            .any(|entry| entry.is_called(&wanted.owner, &wanted.name))
        {
            return Err(ControlError::Refused(format!(
                "tenant \"{}\" has a session \"{}\" already; change it with `vswitch mirror update`, or choose another name",
                wanted.owner, wanted.name
            )));
        }
        if entries.len() >= MOST_SESSIONS {
            return Err(ControlError::Refused(format!(
                "there are {MOST_SESSIONS} sessions, and no more are possible; delete some"
            )));
        }
        let kept = Kept {
            number: u32::MAX,
            lease_until_s: wanted.lease_s.map(|lease| now_s().saturating_add(lease)),
            request: MirrorRequest {
                lease_s: None,
                ..wanted
            },
        };
        request::check(&kept.request).map_err(ControlError::Refused)?;
        let filter = request::filter(&kept.request.filter).map_err(ControlError::Refused)?;
        let entry = self.entry(&hands.mirrors, kept, filter);
        let mut entries = entries.clone();
        entries.push(entry);
        let index = entries.len() - 1;
        self.put(&mut hands, entries, index, ("created", who))
    }

    /// Changes a session: `change` holds fields of the request, which replace what was; null takes
    /// one back.
    ///
    /// # Errors
    /// What is wrong; nothing is changed then.
    pub fn update_mirror(
        &self,
        (owner, name): (&str, &str),
        change: serde_json::Map<String, serde_json::Value>,
        who: Who,
    ) -> Result<MirrorSession, ControlError> {
        let mut hands = self.hands.lock();
        let mut entries = hands.mirrors.entries.clone();
        let found = entries
            .iter()
            .position(|entry| entry.is_called(owner, name));
        let index = found.ok_or_else(|| not_found(&entries, owner, name))?;
        let refuse = |error: String| ControlError::Refused(error);
        let malformed = |error: serde_json::Error| refuse(format!("the change: {error}"));
        let entry = &mut entries[index];
        let lease = change.get("lease_s").cloned();
        let mut merged = serde_json::to_value(&entry.request).map_err(malformed)?;
        if let Some(fields) = merged.as_object_mut() {
            for (field, value) in change {
                if value.is_null() {
                    fields.remove(&field);
                } else {
                    fields.insert(field, value);
                }
            }
        }
        let wanted: MirrorRequest = serde_json::from_value(merged).map_err(malformed)?;
        if wanted.owner != owner || wanted.name != name {
            return Err(refuse(
                "a session keeps its name and its owner; delete it and create another".into(),
            ));
        }
        request::check(&wanted).map_err(refuse)?;
        entry.filter = request::filter(&wanted.filter).map_err(refuse)?;
        if lease.is_some() {
            entry.lease_until_s = wanted.lease_s.map(|lease| now_s().saturating_add(lease));
        }
        entry.request = MirrorRequest {
            lease_s: None,
            ..wanted
        };
        // What it was made with before is not what it is now; its budget goes on if it is the same.
        if let Some((tunnel, _)) = &mut entry.made {
            tunnel.ttl = 0;
        }
        self.put(&mut hands, entries, index, ("changed", who))
    }

    /// Puts sessions in force, of which one was made or changed just now.
    fn put(
        &self,
        hands: &mut Hands,
        entries: Vec<Entry>,
        index: usize,
        (action, who): (&str, Who),
    ) -> Result<MirrorSession, ControlError> {
        let config = self.config();
        let request = entries[index].request.clone();
        if !config
            .mirror_targets
            .iter()
            .any(|target| *target.name == *request.target)
        {
            let known = config.mirror_targets.iter().map(|target| &*target.name);
            return Err(ControlError::NotFound {
                message: format!("there is no mirror target \"{}\"", request.target),
                help: nearest(&request.target, known),
            });
        }
        let captures = hands.mirrors.captures.clone();
        let resolution = self.resolve(hands, (entries, captures), &config, None);
        let mine =
            |other: &MirrorRequest| other.owner == request.owner && other.name == request.name;
        if let Some((_, why)) = resolution.ended.iter().find(|(other, _)| mine(other)) {
            return Err(ControlError::Refused(why.clone()));
        }
        let entry = resolution.entries.iter().find(|entry| mine(&entry.request));
        if let Some(Standing::Suspended(why)) = entry.map(|entry| &entry.standing) {
            return Err(ControlError::Refused(why.clone()));
        }
        self.datapath
            .publish_mirrors(Arc::clone(&resolution.mirrors))?;
        let detail = serde_json::to_string(&request).unwrap_or_default();
        let audit = &mut hands.mirrors.audit;
        audit.note(who, (&request.owner, &request.name), action, detail);
        self.commit(hands, resolution);
        self.mirror(&request.owner, &request.name)
    }

    /// Ends a session.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], or what the workers say.
    pub fn delete_mirror(
        &self,
        owner: &str,
        name: &str,
        who: Who,
    ) -> Result<MirrorSession, ControlError> {
        let mut hands = self.hands.lock();
        let mut entries = hands.mirrors.entries.clone();
        let found = entries
            .iter()
            .position(|entry| entry.is_called(owner, name));
        let index = found.ok_or_else(|| not_found(&entries, owner, name))?;
        let gone = entries.remove(index);
        let captures = hands.mirrors.captures.clone();
        let resolution = self.resolve(&hands, (entries, captures), &self.config(), None);
        self.datapath
            .publish_mirrors(Arc::clone(&resolution.mirrors))?;
        let last = row(&gone);
        let detail = format!("{} wanted, {} copied", last.wanted, last.copied);
        hands
            .mirrors
            .audit
            .note(who, (owner, name), "deleted", detail);
        self.commit(&mut hands, resolution);
        Ok(last)
    }

    /// What the sessions are under a configuration. `snapshot` is its own, where it is not in force
    /// yet.
    pub(super) fn resolve_mirrors(
        &self,
        hands: &Hands,
        config: &Config,
        snapshot: &Snapshot,
    ) -> Resolution {
        let (entries, captures) = (&hands.mirrors.entries, &hands.mirrors.captures);
        let all = (entries.clone(), captures.clone());
        self.resolve(hands, all, config, Some(snapshot))
    }

    fn resolve(
        &self,
        hands: &Hands,
        (entries, mut captures): (Vec<Entry>, Vec<Capture>),
        config: &Config,
        snapshot: Option<&Snapshot>,
    ) -> Resolution {
        let mut resolution = Resolution {
            entries: Vec::with_capacity(entries.len()),
            ended: Vec::new(),
            captures: Vec::new(),
            lost: Vec::new(),
            ways: Ways::new(),
            mirrors: Arc::default(),
        };
        if entries.is_empty() && captures.is_empty() {
            return resolution;
        }
        let outlook = self.datapath.outlook();
        let around = Surroundings {
            snapshot: snapshot.unwrap_or(&outlook.bundle.snapshot),
            outlook: &outlook,
            now_s: self.datapath.now_s(),
            seek: &|network, address| self.datapath.seek(network, address),
        };
        let used =
            |target: &&MirrorTarget| entries.iter().any(|e| *e.request.target == *target.name);
        for target in config.mirror_targets.iter().filter(used) {
            let found = way::find(target, &hands.ids, &around);
            resolution.ways.insert(Arc::clone(&target.name), found);
        }
        let sources = Sources::new(config, transports(config, around.snapshot));
        let mut numbers = Numbers::default();
        let mut sessions = Vec::with_capacity(entries.len());
        let mut slots = slots(&entries, &captures);
        for mut entry in entries {
            let target = config
                .mirror_targets
                .iter()
                .find(|t| *t.name == *entry.request.target);
            let ready = prepare(&mut entry, &sources, target, &resolution.ways, &mut numbers);
            match ready {
                Ok((ready, way)) => {
                    let ports = entry.ports.iter().filter_map(|name| hands.ids.port(name));
                    sessions.push(Session {
                        ready,
                        shared: Arc::clone(&entry.shared),
                        slot: entry.slot,
                        ports: ports.collect(),
                        way: way.map(mirroring::Way::Port),
                    });
                    resolution.entries.push(entry);
                }
                Err(Obstacle::Suspended(why)) => {
                    entry.standing = Standing::Suspended(why);
                    entry.ports = Vec::new();
                    resolution.entries.push(entry);
                }
                Err(Obstacle::Gone(why)) => resolution.ended.push((entry.request, why)),
            }
        }
        let around = (&hands.ids, self.datapath.worker_counts().len());
        for capture in &mut captures {
            sessions.extend(capture.resolve(&sources, around, &mut slots, &mut resolution.lost));
        }
        resolution.captures = captures;
        let datagrams = Arc::clone(&hands.mirrors.datagrams);
        let sniffers = config.decapsulator.iter().flat_map(|decap| &decap.sniffers);
        let macs = sniffers.map(|sniffer| sniffer.mac);
        resolution.mirrors = Arc::new(Mirrors::new(sessions, datagrams).with_sniffers(macs));
        resolution
    }

    /// What was resolved is in force: readers see it, and it is written down.
    pub(super) fn commit(&self, hands: &mut Hands, mut resolution: Resolution) {
        let captures = std::mem::take(&mut resolution.captures);
        let captures = captures::commit(hands, captures, &resolution.lost);
        let sessions = &mut hands.mirrors;
        for (request, why) in &resolution.ended {
            let name = (request.owner.as_str(), request.name.as_str());
            sessions.audit.note(Who::Switch, name, "ended", why.clone());
        }
        for entry in &resolution.entries {
            let (owner, name) = (entry.request.owner.as_str(), entry.request.name.as_str());
            let before = sessions.entries.iter().find(|e| e.is_called(owner, name));
            let was_suspended =
                before.is_some_and(|e| matches!(e.standing, Standing::Suspended(_)));
            match &entry.standing {
                Standing::Suspended(why) if !was_suspended => {
                    sessions
                        .audit
                        .note(Who::Switch, (owner, name), "suspended", why.clone());
                }
                Standing::Active | Standing::Unreachable(_) if was_suspended => {
                    let why = "its source is its owner's again".to_owned();
                    sessions
                        .audit
                        .note(Who::Switch, (owner, name), "resumed", why);
                }
                _ => {}
            }
        }
        let kept = |entries: &[Entry]| -> Vec<Kept> {
            let kept = entries.iter().map(|entry| Kept {
                request: entry.request.clone(),
                number: entry.number,
                lease_until_s: entry.lease_until_s,
            });
            kept.collect()
        };
        let now = kept(&resolution.entries);
        let differs = now != kept(&sessions.entries);
        sessions.entries = resolution.entries;
        sessions.ways = resolution.ways;
        let former = std::mem::replace(&mut sessions.captures, captures);
        let mut state = self.state.write();
        for gone in former.iter().filter(|c| !c.is_among(&sessions.captures)) {
            gone.add_to(&mut state.captured);
        }
        state.mirrors = Arc::new(sessions.entries.clone());
        state.captures = Arc::new(sessions.captures.clone());
        drop(state);
        if let Some(path) = sessions.file.as_ref().filter(|_| differs)
            && let Err(error) = file::write(path, now)
        {
            tracing::error!(
                "the mirror sessions cannot be kept in {}: {error}; they are in force, but a restart forgets them",
                path.display()
            );
        }
    }

    /// Ends sessions whose time is over, and follows neighbours that moved or answered.
    pub(super) fn tend_mirrors(&self, hands: &mut Hands) {
        if hands.mirrors.entries.is_empty() {
            return;
        }
        let now = now_s();
        let is_over = |entry: &Entry| entry.lease_until_s.is_some_and(|until| until <= now);
        let (over, stay): (Vec<_>, Vec<_>) =
            hands.mirrors.entries.iter().cloned().partition(is_over);
        let captures = hands.mirrors.captures.clone();
        let mut resolution = self.resolve(hands, (stay, captures), &self.config(), None);
        if over.is_empty() && resolution.ways == hands.mirrors.ways {
            return;
        }
        let ended = over
            .into_iter()
            .map(|entry| (entry.request, "its lease is over".to_owned()));
        resolution.ended.extend(ended);
        match self
            .datapath
            .publish_mirrors(Arc::clone(&resolution.mirrors))
        {
            Ok(()) => self.commit(hands, resolution),
            Err(error) => tracing::error!(%error, "mirror sessions not published"),
        }
    }
}

/// The numbers that sessions have, by target.
#[derive(Default)]
struct Numbers(HashMap<Arc<str>, HashSet<u32>>);

impl Numbers {
    /// The number of a session that had `former`, if it may keep that.
    fn give(&mut self, target: &MirrorTarget, former: u32) -> Option<u32> {
        let taken = self.0.entry(Arc::clone(&target.name)).or_default();
        let may_stay = target.numbers.contains(&former) && !taken.contains(&former);
        let number = if may_stay {
            former
        } else {
            target
                .numbers
                .clone()
                .find(|number| !taken.contains(number))?
        };
        taken.insert(number);
        Some(number)
    }
}

/// Makes a session ready, and says by which port its copies leave.
fn prepare(
    entry: &mut Entry,
    sources: &Sources<'_>,
    target: Option<&MirrorTarget>,
    ways: &Ways,
    numbers: &mut Numbers,
) -> Result<(Ready, Option<policy::PortId>), Obstacle> {
    let request = &entry.request;
    let suspend = |why: String| Err(Obstacle::Suspended(why));
    let Some(target) = target else {
        return suspend(format!("there is no mirror target \"{}\"", request.target));
    };
    if !target.is_for(&request.owner) {
        return suspend(format!(
            "mirror target \"{}\" is not for tenant \"{}\"",
            target.name, request.owner
        ));
    }
    let Some(number) = numbers.give(target, entry.number) else {
        return suspend(format!(
            "mirror target \"{}\" has no session number left",
            target.name
        ));
    };
    entry.number = number;
    let (link, mtu, way) = match ways.get(&target.name) {
        Some(Ok(found)) => {
            entry.standing = Standing::Active;
            (found.link, found.mtu, Some(found.port))
        }
        other => {
            let why = match other {
                Some(Err(why)) => why.clone(),
                _ => "there is no way".to_owned(),
            };
            entry.standing = Standing::Unreachable(why);
            (NO_LINK, target.mtu, None)
        }
    };
    let Some(tunnel) = request::tunnel(target, number, link, mtu) else {
        return suspend(format!(
            "mirror target \"{}\" cannot carry session number {number}",
            target.name
        ));
    };
    let source = sources.find(&request.source, &request.owner);
    entry.ports = source
        .as_ref()
        .map(|source| source.ports.clone())
        .unwrap_or_default();
    let facts = source.as_ref().map(|source| &source.facts);
    if let Some((made_with, ready)) = &entry.made
        && *made_with == tunnel
        && facts.is_some_and(|f| *f.tenant == *request.owner && f.role == Role::Ordinary)
    {
        return Ok((ready.clone(), way));
    }
    let former = entry.made.as_ref().map(|(_, ready)| ready);
    match request::session(entry, tunnel).prepare(facts, former) {
        Ok(ready) => {
            entry.made = Some((tunnel, ready.clone()));
            Ok((ready, way))
        }
        Err(error @ SessionError::NoSource(_)) => Err(Obstacle::Gone(error.to_string())),
        Err(error) => suspend(error.to_string()),
    }
}

/// The networks by which routers send copies.
fn transports<'c>(config: &'c Config, snapshot: &Snapshot) -> HashSet<&'c str> {
    let targets = config
        .mirror_targets
        .iter()
        .filter_map(|target| match &target.way {
            Way::Router(router) => way::leg(snapshot, router, target).ok(),
            Way::Port { .. } => None,
        });
    let networks = targets.filter_map(|leg| {
        let name = &snapshot.network(leg.network)?.name;
        config.networks.iter().find(|network| network.name == *name)
    });
    networks.map(|network| &*network.name).collect()
}

fn not_found(entries: &[Entry], owner: &str, name: &str) -> ControlError {
    let own = entries.iter().filter(|entry| entry.request.owner == owner);
    ControlError::NotFound {
        message: format!("tenant \"{owner}\" has no mirror session \"{name}\""),
        help: nearest(name, own.map(|entry| entry.request.name.as_str())),
    }
}

/// What all workers counted of a session.
struct Counted {
    wanted: u64,
    copied: u64,
    bytes: u64,
    truncated: u64,
    fragments: u64,
    /// Only what happened.
    skipped: BTreeMap<String, u64>,
}

fn counted(shared: &SessionShared) -> Counted {
    let counters = &shared.counters;
    let sum = |count: fn(&CopyCounters) -> u64| counters.iter().map(count).sum();
    let skipped = Skip::ALL.iter().map(|skip| {
        let frames = counters.iter().map(|c| c.skipped[*skip as usize].get());
        (skip.name().to_owned(), frames.sum::<u64>())
    });
    Counted {
        wanted: sum(|c| c.wanted.get()),
        copied: sum(|c| c.copied.get()),
        bytes: sum(|c| c.bytes.get()),
        truncated: sum(|c| c.truncated.get()),
        fragments: sum(|c| c.fragments.get()),
        skipped: skipped.filter(|(_, frames)| *frames > 0).collect(),
    }
}

fn row(entry: &Entry) -> MirrorSession {
    let counted = counted(&entry.shared);
    let (state, reason) = match &entry.standing {
        Standing::Active => ("active", String::new()),
        Standing::Unreachable(why) => ("unreachable", why.clone()),
        Standing::Suspended(why) => ("suspended", why.clone()),
    };
    MirrorSession {
        request: MirrorRequest {
            lease_s: entry
                .lease_until_s
                .map(|until| until.saturating_sub(now_s())),
            ..entry.request.clone()
        },
        number: entry.number,
        state: state.into(),
        reason,
        ports: entry.ports.iter().map(ToString::to_string).collect(),
        wanted: counted.wanted,
        copied: counted.copied,
        bytes: counted.bytes,
        truncated: counted.truncated,
        fragments: counted.fragments,
        skipped: counted.skipped,
    }
}
