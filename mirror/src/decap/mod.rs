//! The decapsulator's core: a tunnel's frames in, mirrored frames for sniffers out. No thread, no
//! I/O; whoever has a thread calls [`Decapsulator::receive`] for each frame.
//!
//! ```text
//!   frame ─► outer ─┬─────────────────► decode ─► session ─► once? ─► sniffers
//!                   └─ fragment ─► reassembly ┘      │
//!                                                sequence, counts
//! ```
//!
//! What must hold: the laws of [`counts`]; a frame goes to sniffers of its session's tenant and to
//! nobody else; nothing is allocated after the start, whatever comes; of a mirrored frame nothing
//! but the Ethernet destination is changed, and that in a prefix, so that nothing is copied here.
//!
//! Of a burst, [`Decapsulator::receive_all`] reads all frames first and looks all sessions up, so that what
//! they wait for in memory comes at once and not one after the other.
//!
//! Rooms: [`table`] (who gets what), `reassembly`, [`sequence`], `duplicates`, `unknown`,
//! [`counts`].

use std::{ops::Range, sync::Arc};

use policy::PortId;

use crate::{
    flow,
    wire::{
        Decoded, Header, Identity, Refusal, decode,
        decode::decode_payload,
        outer::{self, Outer},
    },
};

pub mod counts;
mod duplicates;
mod reassembly;
pub mod sequence;
pub mod table;
mod unknown;

pub use counts::{SessionCounters, Totals};
pub use reassembly::{Reassembly, ReassemblyLimits};
pub use table::{
    FanOut, Reception, SessionSlot, Sniffer, SnifferId, Table, TableError, Target, Version,
};
pub use unknown::{UnknownSession, UnknownSessions};

use duplicates::Duplicates;
use reassembly::{Added, Place};
use sequence::Tracker;

/// Length of an Ethernet address: what a prefix replaces.
const MAC_LEN: usize = 6;

/// What a decapsulator is started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most sessions there will be.
    pub sessions: usize,
    /// Bounds of reassembly.
    pub reassembly: ReassemblyLimits,
    /// Frames that are remembered to leave out duplicates.
    pub duplicate_entries: usize,
    /// For how long, in nanoseconds.
    pub duplicate_window_ns: u64,
    /// What flows are spread and duplicates are found by; nobody who sends should know it.
    pub secret: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sessions: 10_000,
            reassembly: ReassemblyLimits::default(),
            duplicate_entries: 1 << 14,
            duplicate_window_ns: 50_000_000,
            secret: 0,
        }
    }
}

/// What is counted, for everyone who reads it.
#[derive(Debug)]
pub struct Counters {
    /// Of all sessions, and of frames without one.
    pub totals: Totals,
    /// By slot.
    pub sessions: Box<[SessionCounters]>,
}

/// What became of a frame.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// It goes to sniffers.
    Delivered(Delivery<'a>),
    /// It is a fragment, and waits for others.
    Held,
    /// It goes to nobody.
    Refused(Refusal),
}

/// A mirrored frame on its way to sniffers: for each target `target.prefix() ++ rest()`.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Whose it is.
    pub session: SessionSlot,
    /// The table that it was decided by; see [`Table::admits`].
    pub version: Version,
    /// What the tunnel says of it.
    pub header: Header,
    /// The mirrored frame.
    pub inner: &'a [u8],
    /// Where it stands in the frame that was received; `None` when it was put together from several.
    pub offset: Option<usize>,
    /// Who gets it; at least one.
    pub targets: &'a [Target],
}

impl<'a> Delivery<'a> {
    /// What stands behind the prefix.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        &self.inner[MAC_LEN..]
    }

    /// How long the mirrored frame was before it was cut, in bytes: what its IP header says, and for
    /// anything but IP what there is of it.
    pub fn original_len(&self) -> usize {
        let claimed = outer::claimed_len(self.inner).unwrap_or(0);
        claimed.max(self.inner.len())
    }
}

/// What the decapsulator knows of a session beside the counters.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct State {
    /// The version that gave the slot to the session; `None` for nobody's.
    since: Option<Version>,
    tracker: Tracker,
}

/// The decapsulator's core.
#[derive(Debug)]
pub struct Decapsulator {
    reassembly: Reassembly,
    core: Core,
    /// Empty but within [`Decapsulator::receive_all`].
    ahead: Vec<Ahead>,
}

/// All but reassembly, so that what it holds can be borrowed meanwhile.
#[derive(Debug)]
struct Core {
    table: Arc<Table>,
    states: Box<[State]>,
    counters: Arc<Counters>,
    duplicates: Duplicates,
    unknown: UnknownSessions,
    secret: u64,
}

/// A frame whose tunnel was read.
#[derive(Debug)]
struct Read {
    identity: Identity,
    sequence: Option<u32>,
    decoded: Result<Decoded, Refusal>,
}

/// A frame of a burst that was read, and looked up.
#[derive(Debug)]
enum Ahead {
    /// What is wrong with it.
    Refused(Refusal),
    /// It is received like one that comes alone.
    Fragment,
    /// Its GRE or UDP, what stands there, and whose it is.
    Whole {
        payload: Range<usize>,
        read: Result<Read, Refusal>,
        session: Option<SessionSlot>,
    },
}

/// Frames of a burst that are read ahead: as many as the first-level cache has room for.
const AHEAD: usize = 32;

/// A decision about a mirrored frame.
struct Decision {
    decoded: Decoded,
    session: SessionSlot,
    targets: Range<usize>,
}

impl Decapsulator {
    /// A decapsulator without sessions. Everything that it will ever use is allocated now.
    pub fn new(options: &Options) -> Self {
        let sessions = std::iter::repeat_with(SessionCounters::default);
        let counters = Counters {
            totals: Totals::default(),
            sessions: sessions.take(options.sessions).collect(),
        };
        Self {
            reassembly: Reassembly::new(options.reassembly),
            ahead: Vec::with_capacity(AHEAD),
            core: Core {
                table: Arc::new(Table::empty(options.sessions)),
                states: vec![State::default(); options.sessions].into(),
                counters: Arc::new(counters),
                duplicates: Duplicates::new(options.duplicate_entries, options.duplicate_window_ns),
                unknown: UnknownSessions::default(),
                secret: options.secret,
            },
        }
    }

    /// The table in force: what the next one is made after.
    pub fn table(&self) -> &Arc<Table> {
        &self.core.table
    }

    /// The counters, to be read by others.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.core.counters
    }

    /// Sessions that are sent and not known.
    pub fn unknown(&self) -> &UnknownSessions {
        &self.core.unknown
    }

    /// Takes a table over: every later delivery is decided by it. Returns the former one, for
    /// somebody else to free. A table with more room than there are counters is not taken.
    ///
    /// # Errors
    /// The table itself.
    pub fn adopt(&mut self, table: Arc<Table>) -> Result<Arc<Table>, Arc<Table>> {
        let core = &mut self.core;
        if table.room() > core.states.len() {
            return Err(table);
        }
        for (slot, state) in core.states.iter_mut().enumerate() {
            let since = table.since(SessionSlot(slot as u32));
            if state.since != since {
                *state = State {
                    since,
                    tracker: Tracker::default(),
                };
                core.counters.sessions[slot].clear();
            }
        }
        Ok(std::mem::replace(&mut core.table, table))
    }

    /// Frames of a session whose sequence numbers do not tell yet what they are.
    pub fn undecided(&self, session: SessionSlot) -> u64 {
        let state = self.core.states.get(session.index());
        state.map_or(0, |state| state.tracker.undecided())
    }

    /// Gives up fragments that waited too long. [`receive`](Self::receive) does so before each
    /// fragment; call it now and then where none may come.
    pub fn expire(&mut self, now_ns: u64) {
        let expired = self.reassembly.expire(now_ns);
        if expired > 0 {
            let totals = &self.core.counters.totals;
            totals.refused.add(Refusal::FragmentTimeout, expired);
            totals.held.set(self.reassembly.held());
        }
    }

    /// Takes a frame. `now_ns` is any clock that does not go back.
    #[inline]
    pub fn receive<'a>(&'a mut self, frame: &'a [u8], now_ns: u64) -> Outcome<'a> {
        let totals = &self.core.counters.totals;
        totals.frames.add(1);
        totals.bytes.add(frame.len() as u64);
        let (outer, payload, offset) = match outer::parse(frame) {
            Err(refusal) => {
                totals.whole.add(1);
                totals.refused.add(refusal, 1);
                return Outcome::Refused(refusal);
            }
            Ok(outer) if outer.fragment.is_none() => {
                totals.whole.add(1);
                let payload = &frame[outer.payload.clone()];
                let start = outer.payload.start;
                (outer, payload, Some(start))
            }
            Ok(outer) => match self.fragment(&outer, frame, now_ns) {
                Ok(Some(place)) => (outer, self.reassembly.datagram(place), None),
                Ok(None) => return Outcome::Held,
                Err(refusal) => return Outcome::Refused(refusal),
            },
        };
        let read = read(&outer, payload);
        let session = read.as_ref().ok();
        let session = session.and_then(|read| self.core.table.find(&read.identity));
        self.core.receive(read, session, (payload, offset), now_ns)
    }

    /// Takes the frames of a burst, in order, as [`receive`](Self::receive) takes each, and gives what
    /// became of each to `take`, with its place among them.
    #[inline]
    pub fn receive_all(
        &mut self,
        frames: &[&[u8]],
        now_ns: u64,
        mut take: impl FnMut(usize, Outcome<'_>),
    ) {
        let mut ahead = std::mem::take(&mut self.ahead);
        for (part, frames) in frames.chunks(AHEAD).enumerate() {
            ahead.extend(frames.iter().map(|frame| read_ahead(frame)));
            self.core.look_up(&mut ahead);
            for (at, (frame, ahead)) in frames.iter().zip(ahead.drain(..)).enumerate() {
                take(part * AHEAD + at, self.receive_read(frame, ahead, now_ns));
            }
        }
        self.ahead = ahead;
    }

    /// Takes a frame that was read ahead.
    #[inline]
    fn receive_read<'a>(&'a mut self, frame: &'a [u8], ahead: Ahead, now_ns: u64) -> Outcome<'a> {
        if matches!(ahead, Ahead::Fragment) {
            return self.receive(frame, now_ns);
        }
        let totals = &self.core.counters.totals;
        totals.frames.add(1);
        totals.bytes.add(frame.len() as u64);
        totals.whole.add(1);
        match ahead {
            Ahead::Whole {
                payload,
                read,
                session,
            } => {
                let place = (&frame[payload.clone()], Some(payload.start));
                self.core.receive(read, session, place, now_ns)
            }
            Ahead::Refused(refusal) => {
                totals.refused.add(refusal, 1);
                Outcome::Refused(refusal)
            }
            Ahead::Fragment => Outcome::Held,
        }
    }

    /// Takes a fragment; returns the datagram that it completes.
    #[cold]
    fn fragment(
        &mut self,
        outer: &Outer,
        frame: &[u8],
        now_ns: u64,
    ) -> Result<Option<Place>, Refusal> {
        self.expire(now_ns);
        let core = &self.core;
        let totals = &core.counters.totals;
        totals.fragments.add(1);
        let added = if core.table.has_ends(outer.source, outer.destination) {
            let payload = &frame[outer.payload.clone()];
            self.reassembly.add(outer, payload, now_ns)
        } else {
            Added::Refused {
                refusal: Refusal::UnknownSender,
                fragments: 1,
            }
        };
        totals.held.set(self.reassembly.held());
        match added {
            Added::Held => Ok(None),
            Added::Complete { place, fragments } => {
                totals.reassembled.add(1);
                totals.joined.add(fragments);
                Ok(Some(place))
            }
            Added::Refused { refusal, fragments } => {
                totals.refused.add(refusal, fragments);
                Err(refusal)
            }
        }
    }
}

/// Reads what a frame's GRE or UDP carries.
#[inline]
fn read(outer: &Outer, payload: &[u8]) -> Result<Read, Refusal> {
    match decode_payload(outer, payload) {
        Ok(decoded) => Ok(Read {
            identity: decoded.identity,
            sequence: decoded.sequence,
            decoded: Ok(decoded),
        }),
        Err(refused) => match refused.session {
            Some((identity, sequence)) => Ok(Read {
                identity,
                sequence,
                decoded: Err(refused.refusal),
            }),
            None => Err(refused.refusal),
        },
    }
}

/// Reads a frame without looking anything up.
#[inline]
fn read_ahead(frame: &[u8]) -> Ahead {
    match outer::parse(frame) {
        Err(refusal) => Ahead::Refused(refusal),
        Ok(outer) if outer.fragment.is_some() => Ahead::Fragment,
        Ok(outer) => Ahead::Whole {
            read: read(&outer, &frame[outer.payload.clone()]),
            payload: outer.payload,
            session: None,
        },
    }
}

impl Core {
    /// Finds the sessions of frames, and touches what each of them will need.
    #[inline]
    fn look_up(&self, ahead: &mut [Ahead]) {
        for ahead in ahead.iter_mut() {
            if let Ahead::Whole {
                read: Ok(read),
                session,
                ..
            } = ahead
            {
                *session = self.table.find(&read.identity);
            }
        }
        // Loads that wait for nothing but themselves: the processor has many of them under way.
        let mut touched = 0;
        for ahead in ahead.iter() {
            if let Ahead::Whole {
                session: Some(session),
                ..
            } = ahead
            {
                let counters = self.counters.sessions.get(session.index());
                touched ^= counters.map_or(0, |counters| counters.received.get());
                touched ^= u64::from(self.table.touch(*session));
                let state = self.states.get(session.index());
                touched ^= u64::from(state.is_some_and(|state| state.since.is_some()));
            }
        }
        std::hint::black_box(touched);
    }

    /// What becomes of a frame that was read, and whose session was looked for. `payload` is its GRE or
    /// UDP, with its place in the frame if that is there in one.
    #[inline]
    fn receive<'a>(
        &'a mut self,
        read: Result<Read, Refusal>,
        session: Option<SessionSlot>,
        (payload, offset): (&'a [u8], Option<usize>),
        now_ns: u64,
    ) -> Outcome<'a> {
        let decision = read.and_then(|read| self.decide(read, session, payload, now_ns));
        match decision {
            Err(refusal) => {
                self.counters.totals.refused.add(refusal, 1);
                Outcome::Refused(refusal)
            }
            Ok(Decision {
                decoded,
                session,
                targets,
            }) => Outcome::Delivered(Delivery {
                session,
                version: self.table.version(),
                header: decoded.header,
                offset: offset.map(|start| start + decoded.inner.start),
                inner: &payload[decoded.inner],
                targets: self.table.target(targets),
            }),
        }
    }

    /// Decides who gets a mirrored frame.
    #[inline]
    fn decide(
        &mut self,
        read: Read,
        session: Option<SessionSlot>,
        payload: &[u8],
        now_ns: u64,
    ) -> Result<Decision, Refusal> {
        let Read {
            identity,
            sequence,
            decoded,
        } = read;
        let Some(session) = session else {
            return Err(self.unknown_session(identity, now_ns));
        };
        let counters = &self.counters.sessions[session.index()];
        self.counters.totals.received.add(1);
        counters.received.add(1);
        counters.last_seen_ns.set(now_ns);
        if let Some(sequence) = sequence {
            let tracker = &mut self.states[session.index()].tracker;
            tracker.observe(sequence, &counters.sequence);
        }
        let result = decoded.and_then(|decoded| {
            let targets =
                self.targets(session, &payload[decoded.inner.clone()], &decoded, now_ns)?;
            Ok((decoded, targets))
        });
        let counters = &self.counters.sessions[session.index()];
        match result {
            Ok((decoded, targets)) => {
                counters.delivered.add(1);
                counters.delivered_bytes.add(decoded.inner.len() as u64);
                counters.copies.add(targets.len() as u64);
                self.counters.totals.delivered.add(1);
                self.counters.totals.copies.add(targets.len() as u64);
                Ok(Decision {
                    decoded,
                    session,
                    targets,
                })
            }
            Err(refusal) => {
                counters.refused.add(refusal, 1);
                Err(refusal)
            }
        }
    }

    #[inline]
    fn targets(
        &mut self,
        session: SessionSlot,
        inner: &[u8],
        decoded: &Decoded,
        now_ns: u64,
    ) -> Result<Range<usize>, Refusal> {
        let path = self.table.path(session).ok_or(Refusal::NoSniffer)?;
        if decoded.is_tunnel && self.was_mirrored(inner) {
            return Err(Refusal::Nested);
        }
        let secret = self.secret;
        let targets = path.choose(|| {
            let parsed = policy::parse(inner, inner.len(), None, PortId(0));
            flow::hash(&parsed.key, secret)
        });
        if targets.is_empty() {
            return Err(Refusal::NoSniffer);
        }
        if path.once {
            let hash = flow::digest(inner, secret ^ u64::from(path.tenant) << 32);
            if self.duplicates.is_duplicate(hash, session.0, now_ns) {
                return Err(Refusal::Duplicate);
            }
        }
        Ok(targets)
    }

    /// Whether a frame in a frame is of a session, and not a tenant's own tunnel.
    #[cold]
    fn was_mirrored(&self, inner: &[u8]) -> bool {
        // What a fragment carries only its addresses tell.
        if let Ok(outer) = outer::parse(inner)
            && outer.fragment.is_some()
        {
            return self.table.has_ends(outer.source, outer.destination);
        }
        let identity = match decode(inner) {
            Ok(decoded) => Some(decoded.identity),
            Err(refused) => refused.session.map(|(identity, _)| identity),
        };
        identity.is_some_and(|identity| self.table.find(&identity).is_some())
    }

    #[cold]
    fn unknown_session(&mut self, identity: Identity, now_ns: u64) -> Refusal {
        let [source, destination] =
            [identity.source, identity.destination].map(|a| a as u64 ^ (a >> 64) as u64);
        let id = identity.id().map_or(0, |id| u64::from(id) << 8) | identity.kind() as u64;
        let hash = flow::mix(
            source ^ self.secret,
            flow::mix(destination ^ id, !self.secret),
        );
        self.unknown.count(identity, hash, now_ns);
        Refusal::UnknownSession
    }
}
