//! Mirror sessions as workers see them: which ports they tap, and what becomes of a frame's copies.
//!
//! ```text
//!   control ──Mirrors──► Bundle ─► walk ─┬─ received frames of tapped ports ─┬─► Copier ─► tunnel port
//!                                        └─ plans that left by tapped ports ─┘    or memory ─► capture
//! ```
//!
//! What must hold: a bundle without sessions costs a burst one branch; what workers share of a
//! session ([`SessionShared`]) outlives any bundle, so that its counts, its numbers and its budget go
//! on; no session taps the port that its copies leave by.
//!
//! Rooms: `copier` (a worker's part: which frames, how many, with which prefix), `sent` (what left by
//! tapped ports), [`memory`] (where copies stay that go nowhere else), `foresight` (the same questions for a
//! frame that is not there).

mod copier;
mod foresight;
pub mod memory;
mod sent;

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, atomic::AtomicU32},
};

use mirror::{
    session::{CopyCounters, Ready},
    wire::{InnerTunnel, inner_tunnel},
};
use policy::{Field, Mac, PortId, key::shape, rule::Direction};

pub use copier::{Copier, Received};
pub use foresight::{Foreseen, Seen};
pub use memory::Memory;

/// What workers share of a session, for as long as it exists.
#[derive(Debug)]
pub struct SessionShared {
    /// By worker.
    pub counters: Box<[CopyCounters]>,
    /// The number of its next copy. A worker reserves as many as a burst has copies, at once: so
    /// numbers have no gap but for copies that the tunnel's port did not take, however many workers
    /// the session has, and none is held back by a worker that has no frames any more.
    pub(crate) sequence: AtomicU32,
    /// What flows are told apart by: the same on every worker.
    pub(crate) secret: u64,
}

impl SessionShared {
    /// For so many workers.
    pub fn new(workers: usize, secret: u64) -> Self {
        Self {
            counters: (0..workers).map(|_| CopyCounters::default()).collect(),
            sequence: AtomicU32::new(0),
            secret,
        }
    }
}

/// A session in force.
#[derive(Clone, Debug)]
pub struct Session {
    /// What it wants, how much, and how copies are carried.
    pub ready: Ready,
    /// What it shares with its former and later self.
    pub shared: Arc<SessionShared>,
    /// Its place in each worker's own part. No two sessions in force have the same.
    pub slot: usize,
    /// The ports that it taps.
    pub ports: Vec<PortId>,
    /// Where copies go; `None` while there is no way to the decapsulator.
    pub way: Option<Way>,
}

/// Where a session's copies go.
#[derive(Clone, Debug)]
pub enum Way {
    /// They leave by a port, behind the session's tunnel.
    Port(PortId),
    /// They stay, for who reads a memory, where they are told to be of this interface.
    Memory(Arc<Memory>, u32),
}

impl Session {
    /// The port that copies leave by, if they do and there is a way.
    pub(crate) fn exit(&self) -> Option<PortId> {
        match self.way {
            Some(Way::Port(port)) => Some(port),
            Some(Way::Memory(..)) | None => None,
        }
    }
}

/// The sessions that tap a port, by their place in [`Mirrors::sessions`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Taps {
    /// Those that want frames from the port's VM.
    pub(crate) received: Vec<u32>,
    /// Those that want frames to it.
    pub(crate) sent: Vec<u32>,
    /// Some of those want what policy rejects, too.
    pub(crate) rejected: bool,
}

/// Sniffers' Ethernet addresses.
#[derive(Debug, Default)]
struct Sniffers {
    /// A bit for each, by its last byte: most frames are looked at no further.
    filter: u64,
    macs: HashSet<[u8; 6]>,
}

impl Sniffers {
    #[inline]
    fn bit(mac: [u8; 6]) -> u64 {
        1 << (mac[5] & 63)
    }

    #[inline]
    fn has(&self, mac: [u8; 6]) -> bool {
        self.filter & Self::bit(mac) != 0 && self.macs.contains(&mac)
    }
}

/// All sessions in force.
#[derive(Debug, Default)]
pub struct Mirrors {
    /// Who is served first stands first.
    sessions: Vec<Session>,
    /// By port number.
    taps: Vec<Taps>,
    /// How many slots there are.
    slots: usize,
    /// Between which addresses copies travel.
    tunnels: HashSet<(IpAddr, IpAddr)>,
    sniffers: Sniffers,
    /// Tells the packets apart that fragments are made of: one for all sessions, since several may
    /// have the same addresses.
    pub(crate) datagrams: Arc<AtomicU32>,
}

impl Mirrors {
    /// Puts sessions in force. `datagrams` is the same for every one that follows another.
    pub fn new(mut sessions: Vec<Session>, datagrams: Arc<AtomicU32>) -> Self {
        sessions.sort_by_cached_key(|session| session.ready.precedence());
        let mut taps: Vec<Taps> = Vec::new();
        for (place, session) in (0..).zip(&sessions) {
            let directions = session.ready.directions();
            for port in session
                .ports
                .iter()
                .filter(|port| Some(**port) != session.exit())
            {
                if taps.len() <= port.index() {
                    taps.resize_with(port.index() + 1, Taps::default);
                }
                let taps = &mut taps[port.index()];
                if directions.has(Direction::Out) {
                    taps.received.push(place);
                }
                if directions.has(Direction::In) {
                    taps.sent.push(place);
                    taps.rejected |= session.ready.wants_rejected();
                }
            }
        }
        let templates = sessions.iter().filter_map(|s| s.ready.template.as_ref());
        let ends = templates.map(mirror::wire::Template::identity);
        Self {
            tunnels: ends.map(|id| (id.source(), id.destination())).collect(),
            sniffers: Sniffers::default(),
            slots: sessions.iter().map(|s| s.slot + 1).max().unwrap_or(0),
            sessions,
            taps,
            datagrams,
        }
    }

    /// What is sent to these Ethernet addresses was mirrored, for it is the decapsulator alone that
    /// sends to them: it is not mirrored again, should a sniffer's frames come back by some port.
    #[must_use]
    pub fn with_sniffers(mut self, macs: impl IntoIterator<Item = Mac>) -> Self {
        for mac in macs {
            self.sniffers.filter |= Sniffers::bit(mac.0);
            self.sniffers.macs.insert(mac.0);
        }
        self
    }

    /// Whether there is any.
    #[inline]
    pub fn is_active(&self) -> bool {
        !self.taps.is_empty()
    }

    /// The sessions.
    pub fn sessions(&self) -> &[Session] {
        &self.sessions
    }

    #[inline]
    pub(crate) fn taps(&self, port: PortId) -> Option<&Taps> {
        self.taps.get(port.index())
    }

    /// Whether a frame is or carries a mirrored one: one for a sniffer; ERSPAN, whosever it is; or
    /// what travels between a target's addresses. `head` is the frame's first bytes, as
    /// [`policy::parse()`] wants them.
    #[inline]
    pub(crate) fn is_nested(&self, head: &[u8], len: usize) -> bool {
        self.is_for_sniffer(head)
            || inner_tunnel(head).is_some_and(|kind| self.is_tunnel(kind, head, len))
    }

    /// Whether a frame is for a sniffer of the decapsulator beside this switch.
    #[inline]
    pub(crate) fn is_for_sniffer(&self, head: &[u8]) -> bool {
        head.first_chunk()
            .is_some_and(|mac| self.sniffers.has(*mac))
    }

    #[cold]
    fn is_tunnel(&self, kind: InnerTunnel, head: &[u8], len: usize) -> bool {
        let key = policy::parse(head, len, None, PortId::default()).key;
        let address = |high: Field, low: Field| -> IpAddr {
            if key.has(shape::IPV4) {
                return Ipv4Addr::from(key.get(low) as u32).into();
            }
            let bits = u128::from(key.get(high)) << 64 | u128::from(key.get(low));
            Ipv6Addr::from(bits).into()
        };
        let source = address(Field::IP_SRC_HIGH, Field::IP_SRC_LOW);
        let destination = address(Field::IP_DST_HIGH, Field::IP_DST_LOW);
        kind == InnerTunnel::Erspan || self.tunnels.contains(&(source, destination))
    }
}
