//! Captures: mirror sessions whose copies stay in memory, for one client of the control socket.
//!
//! ```text
//!   request ──► Capture ── resolve: a session for each port ──► Way::Memory ──► Feed ──► the client
//! ```
//!
//! In: requests, configurations as they are applied. Out: the sessions in force, and a [`Feed`] for each
//! capture. What must hold: a capture lives no longer than its feed; it obeys the same rules as any
//! session: a source that is gone or another tenant's is captured no more; beginning and end leave a
//! line of audit.
//!
//! Each port has a session of its own, so that what was lost is told by port; all of a capture's share one
//! budget, one memory and one filter.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
};

use mirror::session::{self, MAX_FRAME_BYTES, Ready, Role, Skip};
use parking_lot::Mutex;

use super::{
    Entry, Resolution, Who,
    audit::now_s,
    request::{self, Asked},
    source::Sources,
    transports,
};
use crate::{
    api::{
        capture_types::{Capture as Row, CapturePort, CaptureRequest, CaptureTotals},
        mirror_types::MirrorSource,
    },
    control::{Control, ControlError, Hands, ids::Ids},
    mirroring::{self, Memory, Session, SessionShared, memory::Reader},
};

/// The most captures at once: each has its memory.
const MOST_CAPTURES: usize = 16;
/// The most sources of one.
const MOST_SOURCES: usize = 256;

/// A port of a capture, which is an interface of its stream.
#[derive(Clone, Debug)]
struct Tap {
    port: Arc<str>,
    shared: Arc<SessionShared>,
    slot: usize,
}

/// What a capture and its feed share.
#[derive(Debug)]
struct Life {
    /// In the order of their interfaces' numbers; none is ever taken away.
    taps: Mutex<Vec<Tap>>,
    /// Why it is over, if it is.
    over: Mutex<Option<String>>,
}

/// One of a capture's sources.
#[derive(Clone, Debug)]
struct Taken {
    source: MirrorSource,
    /// Whose it was when the capture began.
    tenant: Arc<str>,
    ready: Ready,
}

/// A capture.
#[derive(Clone, Debug)]
pub(in crate::control) struct Capture {
    id: u32,
    request: CaptureRequest,
    who: Who,
    since_s: u64,
    sources: Vec<Taken>,
    memory: Arc<Memory>,
    life: Arc<Life>,
}

/// A source that is captured no more.
pub(in crate::control) struct Lost {
    id: u32,
    tenant: Arc<str>,
    why: String,
}

/// Slots that sessions have.
pub(super) fn slots(entries: &[Entry], captures: &[Capture]) -> Vec<usize> {
    let mut slots: Vec<usize> = entries.iter().map(|entry| entry.slot).collect();
    for capture in captures {
        slots.extend(capture.life.taps.lock().iter().map(|tap| tap.slot));
    }
    slots
}

/// A slot that none of `taken` is.
pub(super) fn free_slot(taken: &[usize]) -> usize {
    let mut slots = 0..=taken.len();
    slots.find(|slot| !taken.contains(slot)).unwrap_or_default()
}

impl Capture {
    pub(super) fn name(&self) -> String {
        name(self.id)
    }

    pub(super) fn filter(&self) -> &[String] {
        &self.request.filter
    }

    /// Whether one of its sessions has a slot.
    pub(super) fn has(&self, slot: usize) -> bool {
        self.life.taps.lock().iter().any(|tap| tap.slot == slot)
    }

    pub(super) fn is_among(&self, captures: &[Self]) -> bool {
        captures.iter().any(|capture| capture.id == self.id)
    }

    /// Adds what was counted of its ports.
    pub(super) fn add_to(&self, totals: &mut CaptureTotals) {
        for port in self.life.taps.lock().iter().map(port_row) {
            let sampled_out = port.skipped.get(Skip::NotSampled.name()).unwrap_or(&0);
            totals.wanted += port.wanted;
            totals.copied += port.copied;
            totals.bytes += port.bytes;
            totals.lost += port.skipped.values().sum::<u64>() - sampled_out;
        }
    }

    pub(super) fn owner(&self) -> &str {
        let first = self.sources.first().map(|taken| &*taken.tenant);
        first.unwrap_or_default()
    }

    /// The interface of a port, which it has from the first time on.
    fn tap(&self, port: &Arc<str>, slots: &mut Vec<usize>, workers: usize) -> (u32, Tap) {
        let mut taps = self.life.taps.lock();
        if let Some(place) = taps.iter().position(|tap| tap.port == *port) {
            return (place as u32, taps[place].clone());
        }
        let slot = free_slot(slots);
        slots.push(slot);
        let tap = Tap {
            port: Arc::clone(port),
            shared: Arc::new(SessionShared::new(
                workers,
                RandomState::new().build_hasher().finish(),
            )),
            slot,
        };
        taps.push(tap.clone());
        (taps.len() as u32 - 1, tap)
    }

    /// Its sessions under a configuration; what of its sources it has lost goes to `lost`.
    pub(super) fn resolve(
        &mut self,
        sources: &Sources<'_>,
        (ids, workers): (&Ids, usize),
        slots: &mut Vec<usize>,
        lost: &mut Vec<Lost>,
    ) -> Vec<Session> {
        let (mut stay, mut sessions, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        for taken in std::mem::take(&mut self.sources) {
            let found = sources.find(&taken.source, &taken.tenant);
            let why = match &found {
                None => "does not exist any more",
                Some(found) if found.facts.tenant != taken.tenant => "is another tenant's now",
                Some(found) if found.facts.role != Role::Ordinary => "carries copies now",
                Some(_) => "",
            };
            if !why.is_empty() {
                lost.push(Lost {
                    id: self.id,
                    why: format!("{} {why}", request::source(&taken.source)),
                    tenant: taken.tenant,
                });
                continue;
            }
            for port in found.map(|found| found.ports).unwrap_or_default() {
                let Some(id) = ids.port(&port).filter(|id| !seen.contains(id)) else {
                    continue;
                };
                seen.push(id);
                let (interface, tap) = self.tap(&port, slots, workers);
                sessions.push(Session {
                    ready: taken.ready.clone(),
                    shared: tap.shared,
                    slot: tap.slot,
                    ports: vec![id],
                    way: Some(mirroring::Way::Memory(Arc::clone(&self.memory), interface)),
                });
            }
            stay.push(taken);
        }
        self.sources = stay;
        sessions
    }

    fn row(&self) -> Row {
        let taps = self.life.taps.lock();
        Row {
            id: self.id,
            who: self.who.to_string(),
            since_s: self.since_s,
            request: self.request.clone(),
            ports: taps.iter().map(port_row).collect(),
        }
    }
}

fn name(id: u32) -> String {
    format!("capture-{id}")
}

fn port_row(tap: &Tap) -> CapturePort {
    let counted = super::counted(&tap.shared);
    CapturePort {
        port: tap.port.to_string(),
        wanted: counted.wanted,
        copied: counted.copied,
        bytes: counted.bytes,
        truncated: counted.truncated,
        skipped: counted.skipped,
    }
}

/// What ended captures is told, and written down.
pub(super) fn commit(hands: &mut Hands, captures: Vec<Capture>, lost: &[Lost]) -> Vec<Capture> {
    for lost in lost {
        let audit = &mut hands.mirrors.audit;
        let name = name(lost.id);
        audit.note(
            Who::Switch,
            (&lost.tenant, &name),
            "ended",
            lost.why.clone(),
        );
    }
    let (stay, over): (Vec<_>, Vec<_>) = captures.into_iter().partition(|c| !c.sources.is_empty());
    for capture in over {
        let last = lost.iter().rfind(|lost| lost.id == capture.id);
        let why = last.map(|lost| lost.why.clone()).unwrap_or_default();
        *capture.life.over.lock() = Some(why);
    }
    stay
}

impl Control {
    /// Every capture that goes on.
    pub fn captures(&self) -> Vec<Row> {
        let captures = Arc::clone(&self.state.read().captures);
        captures.iter().map(Capture::row).collect()
    }

    /// What all captures counted together, since start.
    pub fn capture_totals(&self) -> CaptureTotals {
        let state = self.state.read();
        let mut totals = state.captured;
        totals.running = state.captures.len() as u64;
        state
            .captures
            .iter()
            .for_each(|capture| capture.add_to(&mut totals));
        totals
    }

    /// Begins a capture, which ends with what is returned.
    ///
    /// # Errors
    /// What is wrong with it; nothing is changed then.
    pub fn start_capture(
        self: &Arc<Self>,
        wanted: CaptureRequest,
        who: Who,
    ) -> Result<Feed, ControlError> {
        let refuse = |why: String| ControlError::Refused(why);
        check(&wanted).map_err(refuse)?;
        let filter = request::filter(&wanted.filter).map_err(refuse)?;
        let mut hands = self.hands.lock();
        let mut captures = hands.mirrors.captures.clone();
        if captures.len() >= MOST_CAPTURES {
            return Err(refuse(format!(
                "{MOST_CAPTURES} captures go on already; one of them has to end first (`vswitch capture --list`)"
            )));
        }
        let id = hands.mirrors.last_capture.wrapping_add(1);
        let config = self.config();
        let outlook = self.datapath.outlook();
        let known = Sources::new(&config, transports(&config, &outlook.bundle.snapshot));
        let called = name(id);
        let mut sources: Vec<Taken> = Vec::new();
        for source in &wanted.sources {
            let asked = Asked::capture(&called, &wanted, source, &filter);
            let former = sources.first().map(|taken| &taken.ready);
            let taken = take(&known, &wanted, source, asked, former).map_err(refuse)?;
            sources.push(taken);
        }
        let workers = self.datapath.worker_counts().len();
        let (memory, reader) = Memory::new(workers);
        let capture = Capture {
            id,
            who,
            since_s: now_s(),
            sources,
            memory,
            life: Arc::new(Life {
                taps: Mutex::default(),
                over: Mutex::default(),
            }),
            request: wanted,
        };
        let life = Arc::clone(&capture.life);
        let detail = serde_json::to_string(&capture.request).unwrap_or_default();
        let owner = capture.owner().to_owned();
        captures.push(capture);
        let entries = hands.mirrors.entries.clone();
        let resolution = self.resolve(&hands, (entries, captures), &config, None);
        self.put_captures(&mut hands, resolution)?;
        hands.mirrors.last_capture = id;
        let audit = &mut hands.mirrors.audit;
        audit.note(who, (&owner, &called), "created", detail);
        Ok(Feed {
            control: Arc::clone(self),
            id,
            who,
            life,
            reader,
        })
    }

    /// Ends a capture; its client is told.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], or what the workers say.
    pub fn end_capture(&self, id: u32, who: Who) -> Result<Row, ControlError> {
        let mut hands = self.hands.lock();
        let mut captures = hands.mirrors.captures.clone();
        let found = captures.iter().position(|capture| capture.id == id);
        let Some(place) = found else {
            return Err(ControlError::NotFound {
                message: format!("there is no capture {id}"),
                help: "`vswitch capture --list` shows those that go on".into(),
            });
        };
        let capture = captures.remove(place);
        let entries = hands.mirrors.entries.clone();
        let resolution = self.resolve(&hands, (entries, captures), &self.config(), None);
        self.put_captures(&mut hands, resolution)?;
        let row = capture.row();
        let sum = |count: fn(&CapturePort) -> u64| row.ports.iter().map(count).sum::<u64>();
        let (wanted, copied) = (sum(|port| port.wanted), sum(|port| port.copied));
        let detail = format!("{wanted} wanted, {copied} copied");
        let audit = &mut hands.mirrors.audit;
        audit.note(who, (capture.owner(), &capture.name()), "ended", detail);
        let mut over = capture.life.over.lock();
        over.get_or_insert_with(|| format!("ended by {who}"));
        Ok(row)
    }

    fn put_captures(&self, hands: &mut Hands, resolution: Resolution) -> Result<(), ControlError> {
        let mirrors = Arc::clone(&resolution.mirrors);
        self.datapath.publish_mirrors(mirrors)?;
        self.commit(hands, resolution);
        Ok(())
    }
}

/// What is wrong with a request, whatever the configuration.
fn check(wanted: &CaptureRequest) -> Result<(), String> {
    if wanted.sources.is_empty() || wanted.sources.len() > MOST_SOURCES {
        return Err(format!(
            "a capture has 1 to {MOST_SOURCES} sources, not {}",
            wanted.sources.len()
        ));
    }
    if wanted.sample == Some(0) {
        return Err("one in 0 is none: sample one in at least 1".into());
    }
    if wanted.count == Some(0) || wanted.seconds == Some(0) {
        return Err("a capture of 0 frames or seconds captures nothing".into());
    }
    Ok(())
}

/// Whose a source is, and how its frames are copied.
fn take(
    known: &Sources<'_>,
    wanted: &CaptureRequest,
    source: &MirrorSource,
    asked: Asked<'_>,
    former: Option<&Ready>,
) -> Result<Taken, String> {
    // Without an owner it is the provider who asks, for whosever source it is.
    let found = match &wanted.owner {
        Some(owner) => known.find(source, owner),
        None => known.find_anyones(source),
    };
    let facts = found.map(|found| found.facts);
    let tenant: Arc<str> = match (&wanted.owner, &facts) {
        (Some(owner), _) => owner.as_str().into(),
        (None, Some(facts)) => Arc::clone(&facts.tenant),
        (None, None) => "".into(),
    };
    let session = session::Session {
        owner: Arc::clone(&tenant),
        ..asked.session(u64::from(MAX_FRAME_BYTES) * 8)
    };
    let ready = session.prepare(facts.as_ref(), former);
    Ok(Taken {
        source: source.clone(),
        tenant,
        ready: ready.map_err(|error| error.to_string())?,
    })
}

/// A capture's copies, for its client. With it the capture ends.
pub struct Feed {
    control: Arc<Control>,
    id: u32,
    who: Who,
    life: Arc<Life>,
    /// Its copies.
    pub reader: Reader,
}

impl Feed {
    /// The capture's number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Why the capture is over, if it is.
    pub fn over(&self) -> Option<String> {
        if self.control.streams_end() {
            return Some("vswitch stops".into());
        }
        self.life.over.lock().clone()
    }

    /// Its ports, in the order of their interfaces' numbers, from number `from` on.
    pub fn ports(&self, from: usize) -> Vec<Arc<str>> {
        let taps = self.life.taps.lock();
        let new = taps.iter().skip(from);
        new.map(|tap| Arc::clone(&tap.port)).collect()
    }

    /// What was wanted of a port and not copied, by reason. What was sampled out is not among it:
    /// that was asked for.
    pub fn skipped(&self, interface: usize) -> BTreeMap<String, u64> {
        let taps = self.life.taps.lock();
        let counted = taps.get(interface).map(|tap| super::counted(&tap.shared));
        let mut skipped = counted.map(|counted| counted.skipped).unwrap_or_default();
        skipped.remove(Skip::NotSampled.name());
        skipped
    }

    /// Takes the sessions out of force. No copy is made any more when it returns; what was made can
    /// still be read.
    pub fn stop(&mut self) {
        let is_over = self.life.over.lock().is_some();
        if !is_over && let Err(error) = self.control.end_capture(self.id, self.who) {
            tracing::error!(capture = self.id, %error, "the capture's sessions stay in force");
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop();
    }
}
