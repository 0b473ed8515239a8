//! The table of connections, shared by all workers.
//!
//! ```text
//!   hash(zone, tuple) ─► stripe (one lock) ─► bucket ─► chain of records      the slow path
//!   Token ─► lines[slot]: gate, numbers                                       a hit, no lock
//! ```
//!
//! Who owns what: records, chains and free slots belong to the stripe whose lock is held. Lines
//! and the buckets' generations are atomic: hits read them without the lock. A slot that becomes
//! free goes behind all other free slots of its stripe, so that a hit which is under way at that
//! moment has ended long before the slot is another connection's.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

use super::{
    fragments::Fragments,
    line::{ABSENT, Line, Lines, Token, at_or_after},
    packet::{Probe, Segment},
    tcp::{State, Step, Tcp},
    timeouts::Timeouts,
    tuple::{Direction, Kind, Tuple, Zone},
};
use crate::{Denial, DropReason, PortId, key::FlowKey};

/// No slot.
const NONE: u32 = u32::MAX;

/// Most connections a table can be made for: slots and buckets are named by 30 bits.
pub const MOST_CONNECTIONS: usize = 1 << 26;

/// Connections for each lock.
const CONNECTIONS_A_STRIPE: usize = 4096;

/// Most locks.
const MOST_STRIPES: usize = 64;

/// Records looked at under one lock when connections are swept or listed.
const SLICE: usize = 128;

/// Connections that one owner may have opened, when nothing else is said.
pub const DEFAULT_LIMIT: u32 = 65_536;

/// What is kept of a connection besides its lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// Of the frame that opened it.
    pub(super) opener: FlowKey,
    /// The next of the bucket, or of the free slots.
    next: u32,
    /// Never 0; another one for each connection that uses the slot.
    generation: u32,
    pub(super) opened_s: u32,
    pub(super) zone: Zone,
    /// Whose limit it counts against.
    pub(super) owner: PortId,
    pub(super) tcp: Tcp,
    /// `None` for a free slot.
    pub(super) kind: Option<Kind>,
}

impl Record {
    const FREE: Self = Self {
        opener: FlowKey([0; 8]),
        next: NONE,
        generation: 1,
        opened_s: 0,
        zone: Zone(0),
        owner: PortId(0),
        tcp: Tcp {
            phases: [super::tcp::Phase::Nothing; 2],
            marks: [0; 2],
            replied: false,
            liberal: false,
        },
        kind: None,
    };

    /// Which way a frame with this tuple goes, if it is the connection's.
    fn direction(&self, zone: Zone, tuple: &Tuple) -> Option<Direction> {
        let opener = Tuple::of(&self.opener)?;
        if self.zone != zone {
            None
        } else if opener == *tuple {
            Some(Direction::Original)
        } else if opener.reverse() == *tuple {
            Some(Direction::Reply)
        } else {
            None
        }
    }
}

/// What one lock guards.
#[derive(Debug)]
struct Stripe {
    /// First record of each bucket.
    heads: Box<[u32]>,
    records: Box<[Record]>,
    /// The free slot that waits longest, and the one that does least.
    free: (u32, u32),
    /// Number of its first slot among all.
    first_slot: u32,
    /// Number of its first bucket among all.
    first_bucket: u32,
}

/// Counters of a table.
#[derive(Debug, Default)]
pub struct Counts {
    opened: AtomicU64,
    expired: AtomicU64,
}

/// The table.
#[derive(Debug)]
pub struct Connections {
    stripes: Box<[Mutex<Stripe>]>,
    /// By slot.
    lines: Box<[Lines]>,
    /// By bucket: advances when a connection appears in it.
    appeared: Box<[AtomicU32]>,
    /// Connections of each owner, by port number.
    owned: Box<[AtomicU32]>,
    live: AtomicU32,
    max: u32,
    buckets_a_stripe: usize,
    slots_a_stripe: usize,
    secret: [u64; 6],
    counts: Counts,
    fragments: Fragments,
    /// Where the next sweep goes on.
    swept: AtomicU64,
}

/// A connection that a frame belongs to, or concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// It, in the frame's direction.
    pub token: Token,
    /// Which way the frame goes.
    pub direction: Direction,
    /// The key of the frame that opened it.
    pub opener: FlowKey,
    /// TCP that is over: a new SYN opens another connection in its place.
    pub over: bool,
}

/// What was found for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// No connection; the token says so.
    Absent(Token),
    /// This one.
    Found(Found),
}

/// A connection to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// Where its tuple is unique.
    pub zone: Zone,
    /// The key of the frame that opens it.
    pub key: &'a FlowKey,
    /// What the tracker read of that frame.
    pub probe: &'a Probe,
    /// Whose limit it counts against.
    pub owner: PortId,
    /// That limit.
    pub limit: u32,
    /// Whether a TCP connection may be picked up in its middle.
    pub loose: bool,
    /// The time, in seconds of the clock.
    pub now_s: u32,
}

impl Opening<'_> {
    /// Whether the frame can open a connection.
    fn is_possible(&self) -> bool {
        match self.probe {
            Probe::Tcp { segment, .. } => {
                let whole = segment.has(super::packet::flags::ACK)
                    && segment.flags & super::packet::flags::STATE == 0;
                Tcp::opens(segment) || (self.loose && whole)
            }
            Probe::Other => true,
            Probe::Error { .. } => false,
        }
    }
}

/// A connection, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its zone.
    pub zone: Zone,
    /// Whose limit it counts against.
    pub owner: PortId,
    /// The port of the frame that opened it.
    pub ingress: PortId,
    /// The key of that frame.
    pub opener: FlowKey,
    /// Its tuple.
    pub tuple: Tuple,
    /// Its kind.
    pub kind: Kind,
    /// Its state; for what has none, `Established` once it was answered and `SynSent` before.
    pub state: State,
    /// Whether the other side has sent anything.
    pub replied: bool,
    /// Seconds since it was opened.
    pub age_s: u32,
    /// Seconds since its last frame.
    pub idle_s: u32,
    /// Seconds until it is forgotten, if no frame comes.
    pub left_s: u32,
}

/// One comparison tells both what is no connection's and what is no connection of this table.
#[inline(always)]
fn lines_of(all: &[Lines], token: Token) -> Option<&Lines> {
    const { assert!(MOST_CONNECTIONS < (ABSENT >> 2) as usize, "no such slot") };
    all.get((token.place >> 1) as usize)
}

impl Connections {
    /// A table for `max` connections, at least 1 and at most [`MOST_CONNECTIONS`], whose hash is
    /// keyed with `secret`. All its memory is taken now: 240 bytes or less for each connection.
    pub fn new(max: usize, secret: [u64; 6]) -> Self {
        let max = max.clamp(1, MOST_CONNECTIONS);
        let stripes = (max / CONNECTIONS_A_STRIPE).clamp(1, MOST_STRIPES);
        let stripes = stripes.next_power_of_two();
        let even = max.div_ceil(stripes);
        // Where connections are thrown into stripes by a hash, one has hardly ever more than six
        // deviations above the mean.
        let margin = if stripes == 1 { 0 } else { 6 * even.isqrt() };
        let slots = even + margin;
        let buckets = (slots.next_power_of_two() / 2).max(1);
        let stripe = |number: usize| {
            let mut records = vec![Record::FREE; slots].into_boxed_slice();
            for (index, record) in records.iter_mut().enumerate() {
                record.next = if index + 1 < slots {
                    index as u32 + 1
                } else {
                    NONE
                };
            }
            Mutex::new(Stripe {
                heads: vec![NONE; buckets].into(),
                records,
                free: (0, slots as u32 - 1),
                first_slot: (number * slots) as u32,
                first_bucket: (number * buckets) as u32,
            })
        };
        Self {
            stripes: (0..stripes).map(stripe).collect(),
            lines: (0..stripes * slots).map(|_| Lines::default()).collect(),
            appeared: (0..stripes * buckets).map(|_| AtomicU32::new(0)).collect(),
            owned: (0..=u16::MAX).map(|_| AtomicU32::new(0)).collect(),
            live: AtomicU32::new(0),
            max: max as u32,
            buckets_a_stripe: buckets,
            slots_a_stripe: slots,
            secret: secret.map(|part| part | 1),
            counts: Counts::default(),
            fragments: Fragments::new(secret[0]),
            swept: AtomicU64::new(0),
        }
    }

    /// Fragments whose first was let pass.
    pub fn fragments(&self) -> &Fragments {
        &self.fragments
    }

    /// Most connections at once.
    pub fn capacity(&self) -> u32 {
        self.max
    }

    /// Connections there are, those that have expired and were not swept yet included.
    pub fn len(&self) -> u32 {
        self.live.load(Relaxed)
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections that count against an owner's limit.
    pub fn owned_by(&self, owner: PortId) -> u32 {
        self.owned[owner.index()].load(Relaxed)
    }

    /// Connections opened so far.
    pub fn opened(&self) -> u64 {
        self.counts.opened.load(Relaxed)
    }

    /// Connections forgotten so far because no frame came.
    pub fn expired(&self) -> u64 {
        self.counts.expired.load(Relaxed)
    }

    /// Bytes of memory that the table takes.
    pub fn memory_bytes(&self) -> usize {
        let slots = self.lines.len();
        let stripes = size_of_val(&*self.stripes);
        slots * (size_of::<Record>() + size_of::<Lines>())
            + self.appeared.len() * (size_of::<u32>() + size_of::<AtomicU32>())
            + size_of_val(&*self.owned)
            + stripes
    }

    /// The lines that hits on these tokens read, as far as they are connections'.
    #[inline(always)]
    pub fn lines(&self, tokens: impl Iterator<Item = Token>) -> impl Iterator<Item = &[Line; 2]> {
        // Copied out of `self`, so that it stays in registers.
        let lines = &self.lines[..];
        tokens.filter_map(|token| Some(&lines_of(lines, token)?.0))
    }

    /// Whether a token still says what is true. No lock is taken.
    #[inline(always)]
    pub fn stands(&self, token: Token) -> bool {
        match token.slot() {
            Some((slot, direction)) => self
                .lines
                .get(slot)
                .is_some_and(|lines| lines.0[direction as usize].is_open(token.generation)),
            None if token == Token::UNTRACKED => true,
            None => self
                .appeared
                .get((token.place & !ABSENT) as usize)
                .is_some_and(|appeared| appeared.load(Acquire) == token.generation),
        }
    }

    /// Whether a frame that is not TCP may take a cached verdict that rests on `token`; that it came
    /// is noted then. No lock is taken.
    #[inline(always)]
    pub fn follows(&self, token: Token, now_s: u32) -> bool {
        self.lets_pass(token, now_s, |_, _| true)
    }

    /// The same for a TCP segment; how far it goes is noted too. Without one nothing passes that
    /// belongs to a connection.
    // The segment is read once it is known to be of use: so fewer numbers are held at a time.
    #[inline(always)]
    pub fn follows_tcp(
        &self,
        token: Token,
        now_s: u32,
        segment: impl FnOnce() -> Option<Segment>,
    ) -> bool {
        self.lets_pass(token, now_s, |lines, direction| {
            segment().is_some_and(|segment| lines.follow(direction, &segment))
        })
    }

    #[inline(always)]
    fn lets_pass(
        &self,
        token: Token,
        now_s: u32,
        passes: impl FnOnce(&Lines, Direction) -> bool,
    ) -> bool {
        let Some(lines) = lines_of(&self.lines, token) else {
            return self.stands(token);
        };
        let direction = token.direction();
        let (own, _) = lines.of(direction);
        let follows = own.is_open(token.generation) && passes(lines, direction);
        if follows {
            own.see(now_s);
        }
        follows
    }

    /// The connection of a tuple.
    pub fn find(&self, zone: Zone, tuple: &Tuple, timeouts: &Timeouts, now_s: u32) -> Sought {
        let hash = self.hash(zone, tuple);
        let mut stripe = self.stripe(hash);
        let bucket = self.bucket(hash);
        self.find_in(&mut stripe, bucket, zone, tuple, timeouts, now_s)
    }

    fn find_in(
        &self,
        stripe: &mut Stripe,
        bucket: usize,
        zone: Zone,
        tuple: &Tuple,
        timeouts: &Timeouts,
        now_s: u32,
    ) -> Sought {
        if let Some((index, direction)) = stripe.search(bucket, zone, tuple) {
            if self.left_s(stripe, index, timeouts, now_s).is_some() {
                return Sought::Found(stripe.found(index, direction));
            }
            self.counts.expired.fetch_add(1, Relaxed);
            self.remove_at(stripe, bucket, index);
        }
        let global = stripe.first_bucket + bucket as u32;
        let generation = self.appeared[global as usize].load(Acquire);
        Sought::Absent(Token::absence(global, generation))
    }

    /// Whether an ICMP error can be about a packet of a live connection: `seq` is that packet's,
    /// where it was TCP. The direction found is that of the packet, not of the error.
    pub fn concerned(
        &self,
        zone: Zone,
        about: &Tuple,
        seq: Option<u32>,
        timeouts: &Timeouts,
        now_s: u32,
    ) -> Option<Found> {
        let Sought::Found(found) = self.find(zone, about, timeouts, now_s) else {
            return None;
        };
        let (slot, direction) = found.token.slot()?;
        let (sender, receiver) = self.lines[slot].of(direction);
        seq.is_none_or(|seq| {
            let end = sender.end.load(Relaxed);
            let window = receiver.max_window.load(Relaxed).max(1);
            at_or_after(end, seq) && at_or_after(seq, end.wrapping_sub(window))
        })
        .then_some(found)
    }

    /// Opens a connection, or continues the one that another worker has opened meanwhile.
    ///
    /// # Errors
    /// `connection_invalid` when the frame can open none, `connection_limit`,
    /// `connection_table_full`.
    pub fn open(&self, opening: &Opening<'_>, timeouts: &Timeouts) -> Result<Token, Denial> {
        let invalid = Denial::new(DropReason::ConnectionInvalid);
        let tuple = Tuple::of(opening.key).ok_or(invalid)?;
        let hash = self.hash(opening.zone, &tuple);
        let mut stripe = self.stripe(hash);
        let bucket = self.bucket(hash);
        let now_s = opening.now_s;
        let sought = self.find_in(&mut stripe, bucket, opening.zone, &tuple, timeouts, now_s);
        if let Sought::Found(found) = sought {
            match self.advance_in(&mut stripe, found.token, opening.probe, now_s)? {
                Step::Goes => return Ok(found.token),
                Step::Reopens => {
                    let index = stripe.local(found.token).ok_or(invalid)?;
                    self.remove_at(&mut stripe, bucket, index);
                }
            }
        }
        if !opening.is_possible() {
            return Err(invalid);
        }
        let index = self.take_slot(&mut stripe, opening.owner, opening.limit)?;
        let slot = stripe.first_slot + index as u32;
        let lines = &self.lines[slot as usize];
        lines.0.iter().for_each(Line::reset);
        let mut tcp = match opening.probe {
            Probe::Tcp { segment, scale, .. } if Tcp::opens(segment) => {
                Tcp::open(lines, segment, *scale)
            }
            Probe::Tcp { segment, .. } => Tcp::pick_up(lines, segment),
            _ => Tcp::default(),
        };
        tcp.liberal |= matches!(opening.probe, Probe::Tcp { fragment: true, .. });
        let record = Record {
            opener: *opening.key,
            opened_s: now_s,
            zone: opening.zone,
            owner: opening.owner,
            tcp,
            kind: Some(Kind::of(tuple.protocol())),
            ..stripe.records[index]
        };
        Ok(self.link(&mut stripe, bucket, index, record, now_s))
    }

    /// What [`Connections::open`] would say of a frame that is not there.
    ///
    /// # Errors
    /// As there.
    pub fn foresee_open(&self, opening: &Opening<'_>, timeouts: &Timeouts) -> Result<(), Denial> {
        let invalid = Denial::new(DropReason::ConnectionInvalid);
        let tuple = Tuple::of(opening.key).ok_or(invalid)?;
        if let Sought::Found(found) = self.find(opening.zone, &tuple, timeouts, opening.now_s)
            && self.foresee_advance(found.token, opening.probe)? == Step::Goes
        {
            return Ok(());
        }
        if !opening.is_possible() {
            return Err(invalid);
        }
        if self.owned_by(opening.owner) >= opening.limit {
            return Err(Denial::new(DropReason::ConnectionLimit));
        }
        if self.len() >= self.max {
            return Err(Denial::new(DropReason::ConnectionTableFull));
        }
        Ok(())
    }

    /// What [`Connections::advance`] would say of a frame that is not there.
    ///
    /// # Errors
    /// As there.
    pub fn foresee_advance(&self, token: Token, probe: &Probe) -> Result<Step, Denial> {
        let invalid = Denial::new(DropReason::ConnectionInvalid);
        let stripe = self.stripe_of(token)?;
        let index = stripe.local(token).ok_or(invalid)?;
        let (slot, direction) = token.slot().ok_or(invalid)?;
        let Probe::Tcp { segment, scale, .. } = probe else {
            return Ok(Step::Goes);
        };
        let mut tcp = stripe.records[index].tcp;
        let advanced = tcp.advance(&self.lines[slot].copy(), direction, segment, *scale);
        advanced.map_err(|_| invalid)
    }

    /// A slot for one more connection of `owner`, counted.
    fn take_slot(&self, stripe: &mut Stripe, owner: PortId, limit: u32) -> Result<usize, Denial> {
        let below = |limit: u32| move |count: u32| (count < limit).then_some(count + 1);
        let owned = &self.owned[owner.index()];
        if owned.fetch_update(Relaxed, Relaxed, below(limit)).is_err() {
            return Err(Denial::new(DropReason::ConnectionLimit));
        }
        if self
            .live
            .fetch_update(Relaxed, Relaxed, below(self.max))
            .is_ok()
        {
            if let Some(index) = stripe.take_free() {
                return Ok(index);
            }
            self.live.fetch_sub(1, Relaxed);
        }
        owned.fetch_sub(1, Relaxed);
        Err(Denial::new(DropReason::ConnectionTableFull))
    }

    /// Puts a record whose slot was taken where it will be found.
    fn link(
        &self,
        stripe: &mut Stripe,
        bucket: usize,
        index: usize,
        record: Record,
        now_s: u32,
    ) -> Token {
        let slot = stripe.first_slot + index as u32;
        let lines = &self.lines[slot as usize];
        lines
            .0
            .iter()
            .for_each(|line| line.seen_s.store(now_s, Relaxed));
        stripe.records[index] = Record {
            next: stripe.heads[bucket],
            ..record
        };
        stripe.heads[bucket] = index as u32;
        set_gates(&stripe.records[index], lines);
        // From here on no cached verdict says that there is no such connection.
        self.appeared[stripe.first_bucket as usize + bucket].fetch_add(1, Release);
        self.counts.opened.fetch_add(1, Relaxed);
        Token::connection(slot, Direction::Original, record.generation)
    }

    /// Takes in a frame that passes.
    ///
    /// # Errors
    /// `connection_invalid` when the frame cannot belong to the connection, also when that is
    /// gone by now.
    pub fn advance(&self, token: Token, probe: &Probe, now_s: u32) -> Result<Step, Denial> {
        let mut stripe = self.stripe_of(token)?;
        self.advance_in(&mut stripe, token, probe, now_s)
    }

    fn advance_in(
        &self,
        stripe: &mut Stripe,
        token: Token,
        probe: &Probe,
        now_s: u32,
    ) -> Result<Step, Denial> {
        let invalid = Denial::new(DropReason::ConnectionInvalid);
        let index = stripe.local(token).ok_or(invalid)?;
        let (slot, direction) = token.slot().ok_or(invalid)?;
        let lines = &self.lines[slot];
        let record = &mut stripe.records[index];
        let mut step = Step::Goes;
        if let Probe::Tcp {
            segment,
            scale,
            fragment,
        } = probe
        {
            record.tcp.liberal |= *fragment;
            let advanced = record.tcp.advance(lines, direction, segment, *scale);
            step = advanced.map_err(|_| invalid)?;
            set_gates(record, lines);
        }
        if step == Step::Goes {
            record.tcp.replied |= direction == Direction::Reply;
            lines.of(direction).0.see(now_s);
        }
        Ok(step)
    }

    /// Forgets a connection.
    pub fn remove(&self, token: Token) {
        if let Ok(mut stripe) = self.stripe_of(token)
            && let Some(index) = stripe.local(token)
        {
            self.remove_from_its_bucket(&mut stripe, index);
        }
    }

    /// Forgets connections without frames. Goes over a `share` of the table, one part in so many,
    /// each call over the next one, and holds each lock for a short while only. Returns how many.
    pub fn sweep(&self, share: u32, timeouts: &Timeouts, now_s: u32) -> u32 {
        let slots = self.lines.len();
        let part = slots.div_ceil(share.max(1) as usize);
        let from = self.swept.fetch_add(part as u64, Relaxed) as usize % slots;
        let mut expired = 0;
        self.each_slice(from, part, |table, stripe, indices| {
            for index in indices {
                let gone = stripe.records[index].kind.is_some()
                    && table.left_s(stripe, index, timeouts, now_s).is_none();
                if gone {
                    table.remove_from_its_bucket(stripe, index);
                    expired += 1;
                }
            }
        });
        self.counts.expired.fetch_add(u64::from(expired), Relaxed);
        expired
    }

    /// Forgets the connections that `select` picks. Returns how many.
    pub fn flush(&self, mut select: impl FnMut(&Row) -> bool) -> u32 {
        let timeouts = Timeouts::default();
        let mut flushed = 0;
        self.each_slice(0, self.lines.len(), |table, stripe, indices| {
            for index in indices {
                let row = table.row(stripe, index, &timeouts, 0);
                if row.is_some_and(|row| select(&row)) {
                    table.remove_from_its_bucket(stripe, index);
                    flushed += 1;
                }
            }
        });
        flushed
    }

    /// At most `limit` connections that `select` picks.
    pub fn rows(
        &self,
        timeouts: &Timeouts,
        now_s: u32,
        limit: usize,
        mut select: impl FnMut(&Row) -> bool,
    ) -> Vec<Row> {
        let mut rows = Vec::new();
        self.each_slice(0, self.lines.len(), |table, stripe, indices| {
            for index in indices {
                if rows.len() < limit {
                    let row = table.row(stripe, index, timeouts, now_s);
                    rows.extend(row.filter(&mut select));
                }
            }
        });
        rows
    }

    /// Visits `count` slots from `from` on, round the end, a slice under each lock.
    fn each_slice(
        &self,
        from: usize,
        count: usize,
        mut visit: impl FnMut(&Self, &mut Stripe, std::ops::Range<usize>),
    ) {
        let slots = self.lines.len();
        let mut at = from % slots;
        let mut left = count.min(slots);
        while left > 0 {
            let (number, first) = (at / self.slots_a_stripe, at % self.slots_a_stripe);
            let len = SLICE.min(left).min(self.slots_a_stripe - first);
            visit(self, &mut lock(&self.stripes[number]), first..first + len);
            left -= len;
            at = (at + len) % slots;
        }
    }

    pub(super) fn each_live(&self, mut visit: impl FnMut(&Record, &[Line; 2])) {
        self.each_slice(0, self.lines.len(), |table, stripe, indices| {
            for index in indices {
                let record = &stripe.records[index];
                if record.kind.is_some() {
                    visit(record, &table.lines[stripe.first_slot as usize + index].0);
                }
            }
        });
    }

    /// Puts in a connection that is known from elsewhere; `fill` sets its lines. `false` when
    /// there is one with its tuple.
    pub(super) fn insert(
        &self,
        record: &Record,
        limit: u32,
        now_s: u32,
        fill: impl FnOnce(&[Line; 2]),
    ) -> Result<bool, Denial> {
        let invalid = Denial::new(DropReason::ConnectionInvalid);
        let tuple = Tuple::of(&record.opener).ok_or(invalid)?;
        let hash = self.hash(record.zone, &tuple);
        let mut stripe = self.stripe(hash);
        let bucket = self.bucket(hash);
        if stripe.search(bucket, record.zone, &tuple).is_some() {
            return Ok(false);
        }
        let index = self.take_slot(&mut stripe, record.owner, limit)?;
        let lines = &self.lines[stripe.first_slot as usize + index].0;
        lines.iter().for_each(Line::reset);
        fill(lines);
        let record = Record {
            generation: stripe.records[index].generation,
            ..*record
        };
        self.link(&mut stripe, bucket, index, record, now_s);
        Ok(true)
    }

    /// A record to fill in for [`Connections::insert`].
    pub(super) fn blank(opener: FlowKey) -> Record {
        Record {
            opener,
            ..Record::FREE
        }
    }

    fn row(&self, stripe: &Stripe, index: usize, timeouts: &Timeouts, now_s: u32) -> Option<Row> {
        let record = &stripe.records[index];
        let kind = record.kind?;
        let tuple = Tuple::of(&record.opener)?;
        let state = match kind {
            Kind::Tcp => record.tcp.state(),
            _ if record.tcp.replied => State::Established,
            _ => State::SynSent,
        };
        Some(Row {
            zone: record.zone,
            owner: record.owner,
            ingress: record.opener.ingress(),
            opener: record.opener,
            tuple,
            kind,
            state,
            replied: record.tcp.replied,
            age_s: now_s.saturating_sub(record.opened_s),
            idle_s: self.idle_s(stripe, index, now_s),
            left_s: self.left_s(stripe, index, timeouts, now_s).unwrap_or(0),
        })
    }

    fn idle_s(&self, stripe: &Stripe, index: usize, now_s: u32) -> u32 {
        let lines = &self.lines[stripe.first_slot as usize + index].0;
        let seen = lines.iter().map(|line| line.seen_s.load(Relaxed)).max();
        now_s.saturating_sub(seen.unwrap_or(0))
    }

    /// Seconds that a connection has left; `None` when it has expired.
    fn left_s(
        &self,
        stripe: &Stripe,
        index: usize,
        timeouts: &Timeouts,
        now_s: u32,
    ) -> Option<u32> {
        let record = &stripe.records[index];
        let timeout_s = timeouts.of(record.kind?, &record.tcp);
        timeout_s.checked_sub(self.idle_s(stripe, index, now_s))
    }

    fn remove_from_its_bucket(&self, stripe: &mut Stripe, index: usize) {
        let record = &stripe.records[index];
        if let Some(tuple) = Tuple::of(&record.opener) {
            let bucket = self.bucket(self.hash(record.zone, &tuple));
            self.remove_at(stripe, bucket, index);
        }
    }

    fn remove_at(&self, stripe: &mut Stripe, bucket: usize, index: usize) {
        let lines = &self.lines[stripe.first_slot as usize + index];
        lines.0.iter().for_each(|line| line.set_gate(0));
        stripe.unlink(bucket, index);
        let record = &mut stripe.records[index];
        record.kind = None;
        record.generation = record.generation.checked_add(1).unwrap_or(1);
        self.owned[record.owner.index()].fetch_sub(1, Relaxed);
        self.live.fetch_sub(1, AcqRel);
        stripe.give_back(index);
    }

    fn stripe_of(&self, token: Token) -> Result<MutexGuard<'_, Stripe>, Denial> {
        token
            .slot()
            .and_then(|(slot, _)| self.stripes.get(slot / self.slots_a_stripe))
            .map(lock)
            .ok_or(Denial::new(DropReason::ConnectionInvalid))
    }

    fn stripe(&self, hash: u64) -> MutexGuard<'_, Stripe> {
        lock(&self.stripes[(hash >> 48) as usize & (self.stripes.len() - 1)])
    }

    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.buckets_a_stripe - 1)
    }

    fn hash(&self, zone: Zone, tuple: &Tuple) -> u64 {
        let [a, b, c, d, e, f] = tuple.words(zone);
        let s = &self.secret;
        let from = fold(a ^ s[0], b ^ s[1]);
        let to = fold(c ^ s[2], d ^ s[3]);
        let rest = fold(e ^ s[4], f ^ s[5]);
        fold(from ^ rest, to ^ rest.rotate_left(32) ^ s[0])
    }
}

/// Both halves of a 128-bit product, folded.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// A worker that panicked has left the stripe in order: nothing under the lock can panic.
fn lock(stripe: &Mutex<Stripe>) -> MutexGuard<'_, Stripe> {
    stripe.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set_gates(record: &Record, lines: &Lines) {
    for direction in [Direction::Original, Direction::Reply] {
        let open = record.kind != Some(Kind::Tcp) || record.tcp.is_steady(direction);
        let generation = if open { record.generation } else { 0 };
        lines.of(direction).0.set_gate(generation);
    }
}

impl Stripe {
    fn search(&self, bucket: usize, zone: Zone, tuple: &Tuple) -> Option<(usize, Direction)> {
        let mut at = self.heads[bucket];
        while at != NONE {
            let record = &self.records[at as usize];
            if let Some(direction) = record.direction(zone, tuple) {
                return Some((at as usize, direction));
            }
            at = record.next;
        }
        None
    }

    fn found(&self, index: usize, direction: Direction) -> Found {
        let record = &self.records[index];
        let slot = self.first_slot + index as u32;
        Found {
            token: Token::connection(slot, direction, record.generation),
            direction,
            opener: record.opener,
            over: matches!(record.tcp.state(), State::TimeWait | State::Close)
                && record.kind == Some(Kind::Tcp),
        }
    }

    /// The record of a token, if it is still that connection's.
    fn local(&self, token: Token) -> Option<usize> {
        let (slot, _) = token.slot()?;
        let index = slot.checked_sub(self.first_slot as usize)?;
        let record = self.records.get(index)?;
        (record.kind.is_some() && record.generation == token.generation).then_some(index)
    }

    fn unlink(&mut self, bucket: usize, index: usize) {
        let next = self.records[index].next;
        if self.heads[bucket] == index as u32 {
            self.heads[bucket] = next;
            return;
        }
        let mut at = self.heads[bucket];
        while at != NONE {
            let record = &mut self.records[at as usize];
            if record.next == index as u32 {
                record.next = next;
                return;
            }
            at = record.next;
        }
    }

    fn take_free(&mut self) -> Option<usize> {
        let index = self.free.0;
        if index == NONE {
            return None;
        }
        self.free.0 = self.records[index as usize].next;
        if self.free.0 == NONE {
            self.free.1 = NONE;
        }
        Some(index as usize)
    }

    fn give_back(&mut self, index: usize) {
        self.records[index].next = NONE;
        let index = index as u32;
        if self.free.1 == NONE {
            self.free.0 = index;
        } else {
            self.records[self.free.1 as usize].next = index;
        }
        self.free.1 = index;
    }
}
