//! A worker's part of mirroring: which frames of a burst are copied, and the copies.
//!
//! In: the bundle's sessions, the burst's frames, which of them were rejected, and what left by tapped
//! ports. Out: copies at the tunnels' ports or in memory, counts in the sessions. What must hold:
//!
//! - originals have left before the first copy is made;
//! - of each session, `wanted = copied + Σ skipped`; a copy that the tunnel's port did not take counts
//!   there alone, and neither as offered nor as dropped in the port's account;
//! - nothing that was copied is copied again: copies pass the outbox by.
//!
//! A session's frames are chosen first, up to a burst of them, and then written and sent together: so
//! one look at its counter numbers them all, and what the port took of them is one session's. Most
//! frames of most sessions take the short way of `plain`. Copies that stay in memory are made by `record`.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use arrayvec::ArrayVec;
use mirror::{
    flow,
    session::{Budget, CopyCounters, Cut, Purse, Sampler, Sampling, Skip},
    wire::{Fields, MAX_PREFIX_BYTES as TUNNEL_BYTES, Tag, Template},
};
use pmd::{BURST, Frame, MAX_PREFIX_BYTES, PrefixArena, TxBurst, TxPlan, TxReport};
use policy::{FlowKey, PortId, key::ethertype, reader::Exact, rule::Direction};

mod plain;
mod record;

use super::{Mirrors, Session, Way, sent::Sent};
use crate::intake::Groups;

const MACS_BYTES: usize = 12;
const TAG_BYTES: usize = 4;
const TPID: [u8; 2] = ethertype::CUSTOMER_TAG.to_be_bytes();
/// Of a frame whose headers stand in a prefix: what is parsed of it.
const HEAD_BYTES: usize = 256;
/// The longest frame that is put together before it is copied: a super-segment, with room for headers.
const ASSEMBLED_BYTES: usize = (1 << 16) + HEAD_BYTES;

/// What a burst's frames are, and when it is.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The frames.
    pub frames: &'a [Frame<'a>],
    /// Where they were received; none for what the switch itself sends.
    pub groups: &'a Groups,
    /// The turn's time, in nanoseconds of the clock.
    pub now_ns: u64,
    /// The same, in nanoseconds since 1970.
    pub wall_ns: u64,
}

/// A worker's own part of a session.
#[derive(Debug)]
struct Own {
    /// What its purse is filled from: with another one it is begun anew.
    budget: Option<Arc<Budget>>,
    purse: Purse,
    sampler: Sampler,
}

/// A frame that is copied.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    /// What of the frame is copied: what left, or all that was received.
    plan: TxPlan,
    cut: Cut,
    /// The frame was leaving.
    sent: bool,
    /// Policy let it pass.
    accepted: bool,
    /// The tag that came beside the frame.
    beside: Option<u16>,
    entropy: u16,
}

/// A worker's part of mirroring.
#[derive(Debug)]
pub struct Copier {
    worker: usize,
    sent: Sent,
    /// Frames that were received and dropped, as bits.
    dropped: u64,
    /// Frames that were not let out by a tapped port.
    refused: ArrayVec<(u8, PortId), BURST>,
    own: Vec<Own>,
    /// The sessions that the burst concerns.
    concerned: Vec<u32>,
    chosen: Box<ArrayVec<Chosen, BURST>>,
    plans: Box<ArrayVec<TxPlan, BURST>>,
    prefixes: PrefixArena,
    /// Room for one frame.
    scratch: Vec<u8>,
}

impl Copier {
    /// Of worker number `worker`.
    pub fn new(worker: usize) -> Self {
        Self {
            worker,
            sent: Sent::default(),
            dropped: 0,
            refused: ArrayVec::new(),
            own: Vec::new(),
            concerned: Vec::new(),
            chosen: Box::default(),
            plans: Box::default(),
            prefixes: PrefixArena::default(),
            scratch: vec![0; ASSEMBLED_BYTES],
        }
    }

    /// Makes room for the sessions of a new bundle.
    pub fn adopt(&mut self, mirrors: &Mirrors) {
        self.own
            .resize_with(mirrors.slots.max(self.own.len()), || Own {
                budget: None,
                purse: Purse::default(),
                sampler: Sampler::new(0),
            });
        for session in &mirrors.sessions {
            let budget = &session.ready.budget;
            let own = &mut self.own[session.slot];
            if !own
                .budget
                .as_ref()
                .is_some_and(|own| Arc::ptr_eq(own, budget))
            {
                let seed = session.shared.secret.rotate_left(self.worker as u32);
                *own = Own {
                    budget: Some(Arc::clone(budget)),
                    purse: Purse::default(),
                    sampler: Sampler::new(seed),
                };
            }
        }
        self.concerned.reserve(mirrors.sessions.len());
    }

    /// Frame number `index`, received by `ingress`, was dropped in `account`'s account.
    #[cold]
    pub(crate) fn note_drop(
        &mut self,
        mirrors: &Mirrors,
        index: usize,
        (ingress, account): (PortId, PortId),
    ) {
        if ingress == account {
            self.dropped |= 1 << index;
        } else if mirrors.taps(account).is_some_and(|taps| taps.rejected) {
            // Only of a flooded frame there is more than one: what finds no room is not mirrored.
            if self.refused.try_push((index as u8, account)).is_err() {
                self.count_lost(mirrors, account);
            }
        }
    }

    /// Counts a rejected frame for which there is no room, in each session that may want it.
    fn count_lost(&self, mirrors: &Mirrors, account: PortId) {
        let places = mirrors.taps(account).map(|taps| &*taps.sent);
        for place in places.unwrap_or_default() {
            let session = &mirrors.sessions[*place as usize];
            if session.ready.wants_rejected()
                && let Some(counters) = session.shared.counters.get(self.worker)
            {
                counters.wanted.add(1);
                counters.skip(Skip::NoRoom);
            }
        }
    }

    /// Whether so many plans that leave by `port` can be kept.
    #[inline]
    pub(crate) fn has_room(&self, mirrors: &Mirrors, port: PortId, plans: usize) -> bool {
        self.sent.has_room(plans) || !taps_sent(mirrors, port)
    }

    /// Keeps what left by `port` if that is tapped. There is room for it.
    #[inline]
    pub(crate) fn keep(
        &mut self,
        mirrors: &Mirrors,
        port: PortId,
        plans: &[TxPlan],
        prefixes: &PrefixArena,
    ) {
        if taps_sent(mirrors, port) {
            self.sent.keep(port, plans, prefixes);
        }
    }

    pub(crate) fn worker(&self) -> usize {
        self.worker
    }

    /// The burst is over.
    pub(crate) fn end(&mut self) {
        self.dropped = 0;
    }

    /// Makes the copies of a burst. `transmit` hands a session's copies to a port, and is told how
    /// many they are; `None` when the port is not attached.
    #[inline(never)]
    pub(crate) fn run(
        &mut self,
        mirrors: &Mirrors,
        received: Received<'_>,
        transmit: &dyn Fn(PortId, &TxBurst<'_>) -> Option<TxReport>,
    ) {
        self.concerned.clear();
        for group in received.groups.iter().filter(|group| !group.returned) {
            if let Some(taps) = mirrors.taps(group.port) {
                concern(&mut self.concerned, &taps.received);
            }
        }
        let runs = self.sent.runs().iter().map(|run| run.port);
        for port in runs.chain(self.refused.iter().map(|(_, port)| *port)) {
            if let Some(taps) = mirrors.taps(port) {
                concern(&mut self.concerned, &taps.sent);
            }
        }
        // Who is served first stands first.
        self.concerned.sort_unstable();
        let concerned = std::mem::take(&mut self.concerned);
        for place in &concerned {
            let session = &mirrors.sessions[*place as usize];
            if let Some(own) = self.own.get_mut(session.slot)
                && let Some(counters) = session.shared.counters.get(self.worker)
            {
                let mut making = Making {
                    mirrors,
                    session,
                    worker: self.worker,
                    place: *place,
                    own,
                    counters,
                    received,
                    sent: &self.sent,
                    chosen: &mut self.chosen,
                    plans: &mut self.plans,
                    prefixes: &mut self.prefixes,
                    scratch: &mut self.scratch,
                    transmit,
                };
                making.copy_received(self.dropped);
                making.copy_refused(&self.refused);
                making.copy_sent();
                making.send();
            }
        }
        self.concerned = concerned;
        self.sent.clear();
        self.refused.clear();
    }
}

/// Whether a session wants what leaves by a port.
#[inline]
fn taps_sent(mirrors: &Mirrors, port: PortId) -> bool {
    mirrors.taps(port).is_some_and(|taps| !taps.sent.is_empty())
}

/// Adds sessions that are not there yet. There is room for all.
fn concern(concerned: &mut Vec<u32>, places: &[u32]) {
    for place in places {
        if !concerned.contains(place) {
            concerned.push(*place);
        }
    }
}

/// One session's copies of a burst in the making.
struct Making<'a> {
    mirrors: &'a Mirrors,
    session: &'a Session,
    worker: usize,
    place: u32,
    own: &'a mut Own,
    counters: &'a CopyCounters,
    received: Received<'a>,
    sent: &'a Sent,
    chosen: &'a mut ArrayVec<Chosen, BURST>,
    plans: &'a mut ArrayVec<TxPlan, BURST>,
    prefixes: &'a mut PrefixArena,
    scratch: &'a mut Vec<u8>,
    transmit: &'a dyn Fn(PortId, &TxBurst<'_>) -> Option<TxReport>,
}

impl Making<'_> {
    fn copy_received(&mut self, dropped: u64) {
        let Received { frames, groups, .. } = self.received;
        let plain = self.plain(false);
        for group in groups.iter().filter(|group| !group.returned) {
            let taps = self.mirrors.taps(group.port);
            if !taps.is_some_and(|taps| taps.received.contains(&self.place)) {
                continue;
            }
            for index in group.range() {
                let accepted = dropped >> index & 1 == 0;
                if accepted || self.session.ready.wants_rejected() {
                    let frame = &frames[index];
                    let plan = TxPlan::whole(index, frame);
                    if !self.copy_plain(plain.as_ref(), plan, frame) {
                        self.consider(plan, frame.vlan_tci, false, accepted);
                    }
                }
            }
        }
        self.send_plain(plain.as_ref());
    }

    fn copy_refused(&mut self, refused: &[(u8, PortId)]) {
        for (index, port) in refused {
            let taps = self.mirrors.taps(*port);
            if self.session.ready.wants_rejected()
                && taps.is_some_and(|taps| taps.sent.contains(&self.place))
            {
                let frame = &self.received.frames[usize::from(*index)];
                let plan = TxPlan::whole((*index).into(), frame);
                self.consider(plan, frame.vlan_tci, true, false);
            }
        }
    }

    fn copy_sent(&mut self) {
        let sent = self.sent;
        let plain = self.plain(true);
        for run in sent.runs() {
            let taps = self.mirrors.taps(run.port);
            if !taps.is_some_and(|taps| taps.sent.contains(&self.place)) {
                continue;
            }
            for plan in sent.plans(run) {
                let frame = &self.received.frames[usize::from(plan.frame)];
                if !self.copy_plain(plain.as_ref(), *plan, frame) {
                    self.consider(*plan, None, true, true);
                }
            }
        }
        self.send_plain(plain.as_ref());
    }

    /// Chooses a frame, or counts why not.
    #[inline]
    fn consider(&mut self, plan: TxPlan, beside: Option<u16>, sent: bool, accepted: bool) {
        let ready = &self.session.ready;
        let mut entropy = 0;
        if ready.reads_key() || ready.template.as_ref().is_some_and(Template::has_entropy) {
            let key = self.key(&plan, beside);
            let direction = if sent { Direction::In } else { Direction::Out };
            if !ready.wants(&mut Exact(&key), direction, accepted) {
                return;
            }
            self.counters.wanted.add(1);
            if !self
                .own
                .sampler
                .takes(ready.sampling, &key, self.session.shared.secret)
            {
                return self.counters.skip(Skip::NotSampled);
            }
            entropy = flow::hash(&key, self.session.shared.secret) as u16;
        } else {
            self.counters.wanted.add(1);
            let no_key = FlowKey::default();
            if ready.sampling != Sampling::All
                && !self.own.sampler.takes(ready.sampling, &no_key, 0)
            {
                return self.counters.skip(Skip::NotSampled);
            }
        }
        let restored = if beside.is_some() { TAG_BYTES } else { 0 };
        let len = (plan.wire_len() + restored) as u32;
        match self.judge(&plan, len) {
            Ok(cut) => {
                if self.chosen.is_full() {
                    self.send();
                }
                self.chosen.push(Chosen {
                    plan,
                    cut,
                    sent,
                    accepted,
                    beside,
                    entropy,
                });
            }
            Err(skip) => self.counters.skip(skip),
        }
    }

    /// How much of a frame that is wanted is sent; it is paid for then.
    #[inline]
    fn judge(&mut self, plan: &TxPlan, len: u32) -> Result<Cut, Skip> {
        let ready = &self.session.ready;
        let is_nested = if plan.prefix_len_bytes == 0 {
            let head = self.received.frames[usize::from(plan.frame)].head();
            let head = head.get(usize::from(plan.skip_bytes)..).unwrap_or_default();
            self.mirrors.is_nested(head, len as usize)
        } else {
            let mut bytes = [0; HEAD_BYTES];
            let head = self.head(plan, &mut bytes);
            self.mirrors.is_nested(head, len as usize)
        };
        if is_nested {
            return Err(Skip::Nested);
        }
        if self.session.way.is_none() {
            return Err(Skip::Unreachable);
        }
        let cut = ready.cut(len)?;
        let bytes = ready.overhead_bytes() + cut.len;
        if !self
            .own
            .purse
            .pay(&ready.budget, bytes, self.received.now_ns)
        {
            return Err(Skip::OverBudget);
        }
        Ok(cut)
    }

    /// The key of what is copied.
    fn key(&self, plan: &TxPlan, beside: Option<u16>) -> FlowKey {
        let frame = &self.received.frames[usize::from(plan.frame)];
        if plan.prefix_len_bytes == 0 && plan.skip_bytes == 0 {
            return policy::parse(frame.head(), frame.len(), beside, PortId::default()).key;
        }
        let mut bytes = [0; HEAD_BYTES];
        let head = self.head(plan, &mut bytes);
        policy::parse(head, plan.wire_len(), None, PortId::default()).key
    }

    /// The first bytes of what left for a plan.
    fn head<'b>(&self, plan: &TxPlan, bytes: &'b mut [u8; HEAD_BYTES]) -> &'b [u8] {
        let prefix = self.sent.prefix(plan);
        let frame = &self.received.frames[usize::from(plan.frame)];
        let rest = frame.head().get(usize::from(plan.skip_bytes)..);
        let rest = rest.unwrap_or_default();
        let rest = &rest[..rest.len().min(plan.len_bytes as usize)];
        let own = prefix.len().min(bytes.len());
        bytes[..own].copy_from_slice(&prefix[..own]);
        let more = rest.len().min(bytes.len() - own);
        bytes[own..own + more].copy_from_slice(&rest[..more]);
        &bytes[..own + more]
    }

    /// Writes and sends what was chosen.
    fn send(&mut self) {
        let copies = self.chosen.len() as u32;
        if copies == 0 {
            return;
        }
        if let Some(Way::Memory(memory, interface)) = &self.session.way {
            return self.record(memory, *interface);
        }
        let template = self.session.ready.template.as_ref();
        let first = self.session.shared.sequence.fetch_add(copies, Relaxed);
        let datagram = if template.is_some_and(Template::may_fragment) {
            self.mirrors.datagrams.fetch_add(copies, Relaxed)
        } else {
            0
        };
        for number in 0..self.chosen.len() {
            let chosen = self.chosen[number];
            let more = number as u32;
            let (frame, sent) = (
                &self.received.frames[usize::from(chosen.plan.frame)],
                self.sent,
            );
            let mut buffer = [0; MACS_BYTES + TAG_BYTES];
            let (own, source) = own_bytes(sent, &chosen, frame, &mut buffer);
            let fields = Fields {
                inner_len: chosen.cut.len,
                sequence: first.wrapping_add(more),
                ip_id: datagram.wrapping_add(more),
                entropy: chosen.entropy,
                tag: tag_of(own, frame),
                truncated: chosen.cut.truncated,
                egress: chosen.sent,
                time_ns: self.received.wall_ns,
            };
            let frames = self.received.frames;
            let tunnel_bytes = if chosen.cut.fragments {
                TUNNEL_BYTES
            } else {
                self.session.ready.overhead_bytes() as usize
            };
            if own.len() + tunnel_bytes > MAX_PREFIX_BYTES {
                self.transmit_whole(frames);
                self.send_assembled(&chosen, &fields);
            } else if chosen.cut.fragments {
                // Its pieces are counted apart from whole copies.
                self.transmit_whole(frames);
                self.send_pieces(frames, &fields, own, &source);
            } else {
                self.plan_whole(fields, own, &source);
            }
        }
        self.transmit_whole(self.received.frames);
        self.chosen.clear();
    }

    /// Sends a copy of a frame that left behind more bytes of its own than a prefix has room for
    /// beside the tunnel's, as the switch's own answers do: it is put together first.
    #[cold]
    fn send_assembled(&mut self, chosen: &Chosen, fields: &Fields) {
        let mut scratch = std::mem::take(self.scratch);
        if let Some(bytes) = scratch.get_mut(..chosen.plan.wire_len()) {
            let left = TxBurst {
                frames: self.received.frames,
                prefixes: self.sent.prefixes(),
                plans: &[],
            };
            left.write(&chosen.plan, bytes);
            let frames = [Frame::contiguous(bytes)];
            let source = TxPlan::whole(0, &frames[0]);
            if chosen.cut.fragments {
                self.send_pieces(&frames, fields, &[], &source);
            } else {
                self.plan_whole(*fields, &[], &source);
                self.transmit_whole(&frames);
            }
        } else {
            self.counters.skip(Skip::TooLong);
        }
        *self.scratch = scratch;
    }

    /// Plans a copy that is one packet. `own` are the bytes that stand before `source` in it.
    #[inline]
    fn plan_whole(&mut self, fields: Fields, own: &[u8], source: &TxPlan) {
        let Some(template) = &self.session.ready.template else {
            return self.counters.skip(Skip::Unreachable);
        };
        let len = fields.inner_len as usize;
        let own_len = own.len().min(len);
        if fields.truncated {
            self.counters.truncated.add(1);
        }
        let Some((number, prefix)) = self.prefixes.allocate() else {
            // There are more prefixes than plans.
            return self.counters.skip(Skip::NoRoom);
        };
        let Some(tunnel) = prefix.first_chunk_mut::<TUNNEL_BYTES>() else {
            return self.counters.skip(Skip::NoRoom);
        };
        let mut prefix_len = template.write(&fields, tunnel);
        if own_len > 0 {
            prefix[prefix_len..prefix_len + own_len].copy_from_slice(&own[..own_len]);
            prefix_len += own_len;
        }
        self.plans.push(TxPlan {
            prefix: number,
            prefix_len_bytes: prefix_len as u8,
            len_bytes: (len - own_len) as u32,
            ..*source
        });
    }

    /// Hands whole copies to the tunnel's port, and counts what became of them.
    fn transmit_whole(&mut self, frames: &[Frame<'_>]) {
        if self.plans.is_empty() {
            return;
        }
        let report = self.transmit(frames);
        self.counters.copied.add(report.sent.into());
        self.counters.bytes.add(report.sent_bytes);
        for (skip, copies) in [
            (Skip::NoRoom, report.full),
            (Skip::TooLong, report.too_big),
            (Skip::Unreachable, report.down),
        ] {
            if copies > 0 {
                self.counters.skipped[skip as usize].add(copies.into());
            }
        }
    }

    /// Sends a copy in outer fragments. It is copied when the port has taken all of them.
    #[cold]
    fn send_pieces(&mut self, frames: &[Frame<'_>], fields: &Fields, own: &[u8], source: &TxPlan) {
        let Some(template) = &self.session.ready.template else {
            return self.counters.skip(Skip::Unreachable);
        };
        if fields.truncated {
            self.counters.truncated.add(1);
        }
        let (mut number, mut all) = (0, TxReport::default());
        loop {
            let prefix = self.prefixes.allocate();
            let piece = prefix.and_then(|(place, prefix)| {
                let tunnel = prefix.first_chunk_mut::<TUNNEL_BYTES>()?;
                let piece = template.piece(fields, number, tunnel)?;
                let (from, to) = (piece.skip as usize, (piece.skip + piece.len) as usize);
                let part = &own[from.min(own.len())..to.min(own.len())];
                let prefix_len = piece.prefix_len + part.len();
                prefix[piece.prefix_len..prefix_len].copy_from_slice(part);
                let behind = from.saturating_sub(own.len()) as u16;
                Some(TxPlan {
                    prefix: place,
                    prefix_len_bytes: prefix_len as u8,
                    skip_bytes: source.skip_bytes + behind,
                    len_bytes: piece.len - part.len() as u32,
                    ..*source
                })
            });
            if let Some(plan) = piece {
                number += 1;
                self.plans.push(plan);
            }
            if piece.is_none() || self.plans.is_full() {
                add(&mut all, &self.transmit(frames));
                if piece.is_none() || all.sent < number {
                    break;
                }
            }
        }
        self.counters.bytes.add(all.sent_bytes);
        self.counters.fragments.add(all.sent.into());
        match (all.too_big, all.down, all.full) {
            (0, 0, 0) => self.counters.copied.add(1),
            (0, 0, _) => self.counters.skip(Skip::NoRoom),
            (0, _, _) => self.counters.skip(Skip::Unreachable),
            _ => self.counters.skip(Skip::TooLong),
        }
    }

    /// Hands what is planned to the tunnel's port.
    fn transmit(&mut self, frames: &[Frame<'_>]) -> TxReport {
        let down = TxReport {
            down: self.plans.len() as u32,
            ..TxReport::default()
        };
        let burst = TxBurst {
            frames,
            prefixes: self.prefixes,
            plans: self.plans,
        };
        let report = match self.session.exit() {
            // A copy of a super-segment is a copy of what the VM left: it is not cut into segments.
            Some(way) if frames.iter().any(|frame| frame.segment_bytes > 0) => {
                let frames: ArrayVec<Frame<'_>, BURST> = frames
                    .iter()
                    .map(|frame| {
                        let mut frame = *frame;
                        frame.segment_bytes = 0;
                        frame
                    })
                    .collect();
                (self.transmit)(
                    way,
                    &TxBurst {
                        frames: &frames,
                        ..burst
                    },
                )
            }
            Some(way) => (self.transmit)(way, &burst),
            None => None,
        };
        self.plans.clear();
        self.prefixes.clear();
        report.unwrap_or(down)
    }
}

fn add(all: &mut TxReport, more: &TxReport) {
    all.sent += more.sent;
    all.sent_bytes += more.sent_bytes;
    all.full += more.full;
    all.too_big += more.too_big;
    all.down += more.down;
}

/// The bytes of a copy that do not stand in the frame, and what of the frame follows them.
#[inline]
fn own_bytes<'b>(
    sent: &'b Sent,
    chosen: &Chosen,
    frame: &Frame<'_>,
    buffer: &'b mut [u8; MACS_BYTES + TAG_BYTES],
) -> (&'b [u8], TxPlan) {
    let plan = chosen.plan;
    let (Some(tci), Some(macs)) = (chosen.beside, frame.head().first_chunk::<MACS_BYTES>()) else {
        return (sent.prefix(&plan), plan);
    };
    // A tag that came beside the frame is part of it (see `Frame::vlan_tci`).
    buffer[..MACS_BYTES].copy_from_slice(macs);
    buffer[MACS_BYTES..MACS_BYTES + 2].copy_from_slice(&TPID);
    buffer[MACS_BYTES + 2..].copy_from_slice(&tci.to_be_bytes());
    let plan = TxPlan {
        skip_bytes: MACS_BYTES as u16,
        len_bytes: plan.len_bytes - MACS_BYTES as u32,
        ..plan
    };
    (buffer, plan)
}

/// The tag of what is copied.
#[inline]
fn tag_of(own: &[u8], frame: &Frame<'_>) -> Tag {
    let head = if own.is_empty() { frame.head() } else { own };
    match head.get(MACS_BYTES..MACS_BYTES + TAG_BYTES) {
        Some([0x81, 0x00, high, low]) => Tag::InFrame(u16::from_be_bytes([*high, *low])),
        _ => Tag::None,
    }
}
