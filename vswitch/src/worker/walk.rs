//! The stages of a worker's turn.
//!
//! In: a burst of borrowed frames and the groups they came in. Out: plans in the outbox, drops in
//! the accounts. What must hold: each stage works over the whole burst and leaves in the slots
//! what the next one needs; frames of one flow leave in the order in which they came.

use std::ops::Range;

use pmd::{BURST, Burst, Frame, PartialChecksum, TxPlan};
use policy::{
    Class, Denial, DropReason, Field, FlowKey, Stage,
    conntrack::{Segment, Token},
    key::{protocol, shape},
    parse::Parsed,
    snapshot::Masks,
};

use crate::{
    bridge::Generations,
    budget::Budget,
    counters::{PortCounters, WorkerCounters},
    flow_cache::{
        Candidate, Entry, FlowCache, Hash, NO_NETWORK, Standing, Straight, is_plain, is_plain_tcp,
    },
    handoff::Handoff,
    intake::{Group, Groups},
    meter::MeterSlot,
    outbox::{Outbox, OwnTag},
    published::{Bundle, Shared},
    rule_log::Ring,
    slow_path::{Decision, Inputs, SlowPath},
    verdict::{Denied, Destination, Verdict},
};

/// How many rejected frames a second the sender behind a port is told of (RFC 4443 §2.4 (f)).
const REJECTS_PER_SECOND: u32 = 200;

/// What the stages know of one frame of the burst.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Slot {
    /// Under its footprint mask.
    pub(super) key: FlowKey,
    hash: Hash,
    pub(super) candidate: Candidate,
    verdict: Verdict,
    /// Of a frame that is not plain. A plain one is parsed again where more is asked than its
    /// masked key says: to keep it for all takes a tenth of the instructions of a hit.
    general: Parsed,
}

impl Slot {
    /// Frame and slot as the parser saw them.
    pub(super) fn parsed(&self, frame: &Frame<'_>) -> Parsed {
        let (head, len, tag) = (frame.head(), frame.len(), frame.vlan_tci);
        policy::parse::plain(head, len, tag, self.ingress()).unwrap_or(self.general)
    }

    /// Every mask has the ingress port.
    pub(super) fn ingress(&self) -> policy::PortId {
        self.key.ingress()
    }

    /// The frame's tag; plain frames have none, and every mask has the shape.
    pub(super) fn tag(&self) -> Option<OwnTag> {
        self.key.has(shape::TAGGED).then(|| OwnTag {
            tci: self.general.key.get(Field::VLAN_TCI) as u16,
            in_frame: self.general.tag_in_frame,
        })
    }
}

/// What the stages know of the burst.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) frames: [Slot; BURST],
    /// Frames that the cache had no answer for.
    misses: arrayvec::ArrayVec<u8, BURST>,
    /// The groups that have such frames, as bits.
    missed: u64,
    /// How many frames, from the first on, have their plan already.
    planned: usize,
}

impl Slots {
    pub(super) fn new() -> Self {
        let slot = Slot {
            key: FlowKey::default(),
            hash: Hash::default(),
            candidate: Candidate::NONE,
            verdict: Verdict::NOTHING,
            general: policy::parse::parse(&[], 0, None, policy::PortId(0)),
        };
        Self {
            frames: [slot; BURST],
            misses: arrayvec::ArrayVec::new(),
            missed: 0,
            planned: 0,
        }
    }
}

/// The time of a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) ns: u64,
    pub(super) s: u32,
}

impl Now {
    pub(super) fn at(ns: u64) -> Self {
        Self {
            ns,
            s: (ns / 1_000_000_000) as u32,
        }
    }
}

/// One burst's way through the stages: the worker's parts, borrowed apart from the intake that
/// the frames are borrowed from.
pub(super) struct Walk<'a> {
    pub(super) id: usize,
    pub(super) bundle: &'a Bundle,
    pub(super) shared: &'a Shared,
    pub(super) now: Now,
    pub(super) groups: &'a Groups,
    pub(super) slots: &'a mut Slots,
    pub(super) cache: &'a mut FlowCache,
    pub(super) slow_path: &'a mut SlowPath,
    pub(super) outbox: &'a mut Outbox,
    pub(super) log: &'a Ring,
    pub(super) handoff: &'a Handoff,
    /// Whether the services have yet to see these frames.
    pub(super) serves: bool,
    pub(super) counters: &'a WorkerCounters,
}

impl Walk<'_> {
    /// Stage: keys and the hashes of what policy reads of them; the cache's sets are on their way
    /// when it ends.
    #[inline]
    pub(super) fn parse(&mut self, burst: &mut Burst<'_>) {
        let mut bytes = 0;
        for group in self.groups {
            let masks = self.bundle.snapshot.masks(group.port);
            let (frames, slots) = (
                &mut burst[group.range()],
                &mut self.slots.frames[group.range()],
            );
            let group_bytes = parse_group(*group, masks, self.cache, frames, slots);
            if let Some(counters) = port_counters(self.bundle, group.port, self.id) {
                if group.returned {
                    counters.returned.add(group.range().len() as u64);
                    continue;
                }
                counters.rx_frames.add(group.range().len() as u64);
                counters.rx_bytes.add(group_bytes);
            }
            bytes += group_bytes;
        }
        self.counters.bytes.add(bytes);
    }

    /// Stage: tags are compared; the entries are on their way when it ends.
    #[inline]
    pub(super) fn probe(&mut self) {
        let slots = &mut self.slots.frames[..frames_in(self.groups)];
        let keys = slots.iter_mut().map(|s| (s.hash, &mut s.candidate));
        self.cache.candidates(keys);
    }

    /// Stage: keys are compared. A frame has its plan, or, from the first on for which that is not
    /// all there is to do, its verdict or a place among the misses: so frames keep their order.
    #[inline]
    pub(super) fn match_entries(&mut self, frames: &[Frame<'_>]) {
        self.slots.misses.clear();
        self.slots.missed = 0;
        self.slots.planned = 0;
        for (number, group) in self.groups.iter().enumerate() {
            let misses_before = self.slots.misses.len();
            let straight = if self.slots.planned == group.start as usize {
                self.match_group(*group, frames)
            } else {
                0
            };
            self.slots.planned += straight;
            for index in group.start as usize + straight..group.end as usize {
                match self.cached(frames, index) {
                    Some(verdict) => self.slots.frames[index].verdict = verdict,
                    None => self.slots.misses.push(index as u8),
                }
            }
            let misses = (self.slots.misses.len() - misses_before) as u64;
            self.slots.missed |= u64::from(misses > 0) << number;
            if let Some(counters) = port_counters(self.bundle, group.port, self.id) {
                counters.cache_hits.add(group.range().len() as u64 - misses);
                counters.cache_misses.add(misses);
                counters.forwarded.add(straight as u64);
            }
        }
        let (frames, misses) = (frames_in(self.groups), self.slots.misses.len());
        self.counters.cache_hits.add((frames - misses) as u64);
        self.counters.cache_misses.add(misses as u64);
    }

    /// Plans the frames of `group` up to the first that does not go straight to a port, and says
    /// how many that is.
    #[inline]
    fn match_group(&mut self, group: Group, frames: &[Frame<'_>]) -> usize {
        let (start, end) = (group.start as usize, group.end as usize);
        let mut planned = self.match_straight(start..end, frames);
        if planned < end {
            planned = self.match_routed::<false>(planned..end, frames);
        }
        if planned < end {
            self.prefetch_connections(planned..end);
        }
        // Frames with a connection, routed ones and others, in turns.
        while planned < end {
            let mut next = self.match_tracked::<true>(planned..end, frames);
            next = self.match_tracked::<false>(next..end, frames);
            next = self.match_routed::<true>(next..end, frames);
            next = self.match_straight(next..end, frames);
            next = self.match_routed::<false>(next..end, frames);
            if next == planned {
                break;
            }
            planned = next;
        }
        planned - start
    }

    /// The connections of cached verdicts are on their way when it ends.
    #[inline]
    fn prefetch_connections(&self, range: Range<usize>) {
        let slots = &self.slots.frames[range];
        let tokens = self.cache.tokens(slots.iter().map(|slot| slot.candidate));
        for lines in self.shared.connections.lines(tokens) {
            pmd::cpu::prefetch_in::<1, _>(std::slice::from_ref(lines), 0);
        }
    }

    /// Plans frames whose verdict rests on a connection: those of plain TCP if `PLAIN_TCP`, all
    /// others if not. Says which is the first that is not one of them, that changes its connection,
    /// or that does not go straight to a port.
    #[inline(never)]
    fn match_tracked<const PLAIN_TCP: bool>(
        &mut self,
        range: Range<usize>,
        frames: &[Frame<'_>],
    ) -> usize {
        let (shared, now_s) = (self.shared, self.now.s);
        let now = (standing(self.bundle, shared), now_s);
        let mut index = range.start;
        for (slot, frame) in self.slots.frames[range.clone()].iter().zip(&frames[range]) {
            let port = self.cache.answer(
                slot.candidate,
                &slot.key,
                now,
                |straight| match straight {
                    Straight::Tracked(port) if !PLAIN_TCP => Some(port),
                    Straight::TrackedTcp(port) if PLAIN_TCP => Some(port),
                    _ => None,
                },
                |port, token| {
                    let follows = if PLAIN_TCP {
                        follows_plain_tcp(shared, token, frame, now_s)
                    } else {
                        follows(shared, token, slot, frame, now_s)
                    };
                    follows.then_some(port)
                },
            );
            let Some(port) = port else { break };
            let plan = TxPlan::whole(index, frame);
            self.outbox.push(self.bundle, frames, port, plan);
            index += 1;
        }
        index
    }

    /// Plans frames up to the first that has a connection or does not go straight to a port. Says
    /// which that is.
    // A function of its own, as is `parse_group`: its loop then has the registers to itself.
    #[inline(never)]
    fn match_straight(&mut self, range: Range<usize>, frames: &[Frame<'_>]) -> usize {
        let now = (standing(self.bundle, self.shared), self.now.s);
        let mut index = range.start;
        for (slot, frame) in self.slots.frames[range.clone()].iter().zip(&frames[range]) {
            let port = self.cache.answer(
                slot.candidate,
                &slot.key,
                now,
                |straight| match straight {
                    Straight::To(port) => Some(port),
                    _ => None,
                },
                |port, _| Some(port),
            );
            let Some(port) = port else { break };
            let plan = TxPlan::whole(index, frame);
            self.outbox.push(self.bundle, frames, port, plan);
            index += 1;
        }
        index
    }

    /// The verdict that the cache has for a frame, if it still stands.
    #[inline]
    fn cached(&mut self, frames: &[Frame<'_>], index: usize) -> Option<Verdict> {
        let slot = &self.slots.frames[index];
        let now = standing(self.bundle, self.shared);
        let entry = self.cache.get(slot.hash, slot.candidate, &slot.key, now)?;
        let token = entry.token();
        if token != Token::UNTRACKED
            && !follows(self.shared, token, slot, &frames[index], self.now.s)
        {
            return None;
        }
        if entry.is_due(self.now.s) {
            let frame = &frames[index];
            refresh(entry, slot, frame, self.bundle, self.shared, self.now);
        }
        let (verdict, meter) = (entry.verdict, entry.outbound_meter());
        if !is_good(&verdict, self.slow_path, now.generations) {
            return None;
        }
        Some(self.limit_outbound(index, meter, verdict))
    }

    /// What becomes of a frame whose sender's rule has a limit, if `meter` is there.
    #[inline]
    fn limit_outbound(
        &mut self,
        index: usize,
        meter: Option<MeterSlot>,
        verdict: Verdict,
    ) -> Verdict {
        let Some(meter) = meter else {
            return verdict;
        };
        let ingress = self.slots.frames[index].ingress();
        let over = self.take_token(meter, ingress, DropReason::LimitOut);
        over.map_or(verdict, Verdict::Drop)
    }

    /// Takes a token for a frame, which then counts as one that the rule let pass. Without a token
    /// it is to be dropped for `reason` in `account`'s account.
    #[cold]
    pub(super) fn take_token(
        &mut self,
        meter: MeterSlot,
        account: policy::PortId,
        reason: DropReason,
    ) -> Option<Denied> {
        let meters = &self.bundle.meters;
        let rule = meters.rule(meter);
        if meters.take(meter, self.now.ns) {
            let row = self.slow_path.rules.slot(rule);
            self.slow_path.rules.count(row, 1, self.now.s);
            return None;
        }
        let row = self.slow_path.ledger.slot(account, Denial { reason, rule });
        Some(Denied { reason, row })
    }

    /// Stage: the slow path decides for each miss, within its port's [`Budget`]. The ports that have
    /// none do not wait for it: their frames leave before.
    pub(super) fn resolve_misses(&mut self, frames: &Burst<'_>, budget: &mut Budget) {
        budget.see(self.groups, self.now.ns);
        if self.slots.misses.is_empty() {
            return;
        }
        self.apply_to(!self.slots.missed, frames);
        self.outbox.transmit(self.bundle, frames);
        budget.fill(self.groups, self.bundle, self.now.ns);
        for miss in 0..self.slots.misses.len() {
            let index = self.slots.misses[miss] as usize;
            let ingress = self.slots.frames[index].ingress();
            let verdict = if !budget.allows(ingress) && !self.is_known(index) {
                self.counters.budget_drops.add(1);
                let denial = Denial::new(DropReason::MissBudget);
                let row = self.slow_path.ledger.slot(ingress, denial);
                let reason = denial.reason;
                Verdict::Drop(Denied { reason, row })
            } else if let Some(verdict) = self.answered_since(frames, index) {
                verdict
            } else {
                let (verdict, cost) = self.resolve(&frames[index], index);
                budget.charge(ingress, cost);
                verdict
            };
            self.slots.frames[index].verdict = verdict;
        }
    }

    /// The verdict for a miss whose flow an earlier miss of this burst has opened.
    fn answered_since(&mut self, frames: &[Frame<'_>], index: usize) -> Option<Verdict> {
        let slot = &mut self.slots.frames[index];
        slot.candidate = self.cache.candidate(slot.hash);
        self.cached(frames, index)
    }

    /// Whether the miss is of a flow that was decided before, and not a new one.
    fn is_known(&self, index: usize) -> bool {
        let slot = &self.slots.frames[index];
        self.cache.knows(slot.hash, &slot.key)
    }

    /// The verdict for one miss, and what it cost.
    fn resolve(&mut self, frame: &Frame<'_>, index: usize) -> (Verdict, u32) {
        let slot = &self.slots.frames[index];
        let place = self.cache.reserve(slot.hash, slot.ingress());
        let epoch = self.bundle.snapshot.epoch();
        let bridge = &self.shared.bridge;
        let inputs = Inputs {
            snapshot: &self.bundle.snapshot,
            bridge,
            neighbors: &self.shared.neighbors,
            connections: &self.shared.connections,
            meters: &self.bundle.meters,
            serves: self.serves,
            now_ns: self.now.ns,
            now_s: self.now.s,
        };
        let decision = self
            .slow_path
            .resolve(inputs, frame.head(), &slot.parsed(frame));
        let rules = &self.slow_path.rules;
        rules.count(decision.outbound, 1, self.now.s);
        if let Some(to) = decision.verdict.destination() {
            rules.count(to.allowed, 1, self.now.s);
        }
        if decision.cacheable {
            let Decision {
                verdict,
                network,
                generation,
                token,
                outbound,
                ..
            } = decision;
            let mut entry = Entry::new(slot.key, epoch, verdict)
                .resting_on(token)
                .limited_by(decision.outbound_meter);
            (entry.network, entry.generation) = (network, generation);
            entry.outbound = outbound;
            entry.refresh_s = next_refresh_s(&entry, self.bundle, self.now);
            let rules = &self.slow_path.rules;
            self.cache.insert(place, entry, rules, self.now.s);
        }
        let verdict = self.limit_outbound(index, decision.outbound_meter, decision.verdict);
        if !self.slow_path.notes.is_empty() {
            self.tell_log(frame, index, verdict);
        }
        (verdict, decision.cost)
    }

    /// Logs what was noted of a frame whose outbound limit has been asked.
    #[cold]
    fn tell_log(&mut self, frame: &Frame<'_>, index: usize, verdict: Verdict) {
        let over_limit = match verdict {
            Verdict::Drop(denied) => denied.reason == DropReason::LimitOut,
            _ => false,
        };
        let (meters, now_ns) = (&self.bundle.meters, self.now.ns);
        let notes = &mut self.slow_path.notes;
        notes.amend(over_limit, |meter| meters.has(meter, now_ns));
        let parsed = self.slots.frames[index].parsed(frame);
        self.log.tell(self.bundle, notes, &parsed, now_ns);
    }

    /// Stage: the other verdicts become transmit plans or drops. After misses these are those of
    /// the ports that have some.
    #[inline]
    pub(super) fn apply(&mut self, frames: &[Frame<'_>]) {
        let missed = self.slots.missed;
        self.apply_to(if missed == 0 { !0 } else { missed }, frames);
    }

    /// The same for the groups whose bits are set.
    #[inline]
    fn apply_to(&mut self, wanted: u64, frames: &[Frame<'_>]) {
        let planned = self.slots.planned;
        for (number, group) in self.groups.iter().enumerate() {
            if wanted & 1 << number == 0 {
                continue;
            }
            if planned >= group.end as usize {
                continue;
            }
            let mut outcome = Outcome::default();
            for index in group.range().start.max(planned)..group.range().end {
                match self.slots.frames[index].verdict {
                    Verdict::Unicast(destination) => {
                        outcome.forwarded += 1;
                        // Of a flooded frame's receivers another may be the one it is for.
                        if destination.is_rejected()
                            && let Some(denied) = destination.denied
                        {
                            self.reject(frames, index, destination.port, denied);
                        }
                        self.send(frames, index, destination);
                    }
                    Verdict::Drop(denied) => {
                        if denied.reason == DropReason::RejectOut {
                            self.reject(frames, index, group.port, denied);
                        } else if denied.reason.stage() == Stage::Route {
                            self.tell_of_route(frames, index, denied.reason);
                        }
                        self.drop(frames, index, group.port, denied);
                    }
                    Verdict::Routed(to, id) => {
                        self.send_routed(frames, index, (to, id), &mut outcome);
                    }
                    Verdict::Taken(purpose) => self.take(frames, index, purpose),
                    Verdict::Flood(kind, list) => {
                        self.flood(frames, index, kind, list, &mut outcome);
                    }
                }
            }
            if let Some(counters) = port_counters(self.bundle, group.port, self.id) {
                counters.forwarded.add(outcome.forwarded);
                counters.replicas.add(outcome.replicas);
            }
        }
    }

    #[inline(never)]
    fn flood(
        &mut self,
        frames: &[Frame<'_>],
        index: usize,
        kind: crate::storm::FloodKind,
        list: crate::verdict::ListId,
        outcome: &mut Outcome,
    ) {
        let ingress = self.slots.frames[index].ingress();
        if let (Some(port), Some(shared)) = (
            self.bundle.snapshot.port(ingress),
            self.bundle.port(ingress),
        ) && let Err(reason) = shared.storm.pass(kind, &port.storm, self.now.ns)
        {
            let row = self.slow_path.ledger.slot(ingress, Denial::new(reason));
            self.drop(frames, index, ingress, Denied { reason, row });
            return;
        }
        let len = self.slow_path.lists.get(list).len();
        for place in 0..len {
            let destination = self.slow_path.lists.get(list)[place];
            let rules = &self.slow_path.rules;
            rules.count(destination.allowed, 1, self.now.s);
            self.send(frames, index, destination);
        }
        outcome.forwarded += len as u64;
        outcome.replicas += len as u64 - 1;
    }

    #[inline]
    fn send(&mut self, frames: &[Frame<'_>], index: usize, to: Destination) {
        if is_plain(to, &self.slots.frames[index].key) {
            let plan = TxPlan::whole(index, &frames[index]);
            self.outbox.push(self.bundle, frames, to.port, plan);
        } else {
            self.send_tagged(frames, index, to);
        }
    }

    /// Sends with a tag, or instead of one, or if there is a token, or not at all.
    #[inline(never)]
    fn send_tagged(&mut self, frames: &[Frame<'_>], index: usize, to: Destination) {
        let over_limit = |meter| self.take_token(meter, to.port, DropReason::LimitIn);
        if let Some(denied) = to.denied.or_else(|| to.meter.and_then(over_limit)) {
            if let Some(counters) = port_counters(self.bundle, to.port, self.id) {
                counters.offered.add(1);
            }
            self.drop(frames, index, to.port, denied);
            return;
        }
        let own = self.slots.frames[index].tag();
        self.outbox.plan_tagged(self.bundle, frames, index, own, to);
    }

    /// Tells the sender of a frame so that the vNIC of port `at` rejects, if it may be told.
    #[cold]
    pub(super) fn reject(
        &mut self,
        frames: &[Frame<'_>],
        index: usize,
        at: policy::PortId,
        denied: Denied,
    ) {
        let slot = &self.slots.frames[index];
        let ingress = slot.ingress();
        // A drop that is not itemised names no rule; what a port is told at most holds all the same.
        let denial = self.slow_path.ledger.denial(denied.row);
        let meters = &self.bundle.meters;
        let meter = meters.slot(at, denial.and_then(|denial| denial.rule));
        if meter.is_some_and(|meter| !meters.take(meter, self.now.ns)) {
            return;
        }
        let gate = self.bundle.port(ingress).map(|shared| &shared.rejects);
        if !gate.is_some_and(|gate| gate.pass(REJECTS_PER_SECOND, self.now.ns)) {
            return;
        }
        let (parsed, tci) = (slot.parsed(&frames[index]), slot.tag().map(|tag| tag.tci));
        let head = frames[index].head();
        self.outbox
            .originate(self.bundle, frames, index, ingress, |to| {
                policy::reject::reply(to, head, &parsed, tci)
            });
    }

    #[inline]
    pub(super) fn drop(
        &mut self,
        frames: &[Frame<'_>],
        index: usize,
        account: policy::PortId,
        denied: Denied,
    ) {
        self.slow_path.ledger.count(denied.row, self.now.s);
        if let Some(counters) = port_counters(self.bundle, account, self.id) {
            counters.drop_frames(denied.reason, 1);
        }
        if self.outbox.taps.watch_drops() {
            self.show_drop(&frames[index], index, account, denied);
        }
        if self.bundle.mirrors.is_active() {
            let (mirrors, ingress) = (&self.bundle.mirrors, self.slots.frames[index].ingress());
            self.outbox
                .copier
                .note_drop(mirrors, index, (ingress, account));
        }
    }

    /// Stage: what mirror sessions want of the burst is copied; its originals have left.
    #[inline(never)]
    pub(super) fn mirror(&mut self, frames: &[Frame<'_>]) {
        self.outbox.mirror(self.bundle, frames, self.groups);
    }

    /// Gives whoever watches drops a sample.
    #[cold]
    fn show_drop(&self, frame: &Frame<'_>, index: usize, account: policy::PortId, denied: Denied) {
        let ingress = self.slots.frames[index].ingress();
        let itemised = self.slow_path.ledger.denial(denied.row);
        let denial = itemised.unwrap_or(Denial::new(denied.reason));
        let taps = &self.outbox.taps;
        taps.dropped(self.now.ns, Some(ingress), (account, denial), frame);
    }

    /// Gives whoever watches received frames samples.
    #[cold]
    pub(super) fn show_received(&self, frames: &[Frame<'_>]) {
        for group in self.groups {
            for frame in &frames[group.range()] {
                let taps = &self.outbox.taps;
                taps.received(self.now.ns, group.port, frame);
            }
        }
    }
}

/// The keys of one group of frames and their hashes. Returns how many bytes the frames have.
#[inline(never)]
fn parse_group(
    group: Group,
    masks: &Masks,
    cache: &FlowCache,
    frames: &mut [Frame<'_>],
    slots: &mut [Slot],
) -> u64 {
    let port = group.port;
    let mut bytes = 0;
    for (frame, slot) in frames.iter_mut().zip(slots) {
        bytes += frame.len() as u64;
        let (head, len, tag) = (frame.head(), frame.len(), frame.vlan_tci);
        if !may_be_partial(frame, group)
            && let Some(plain) = policy::parse::plain(head, len, tag, port)
        {
            // Masked and hashed where it is parsed, while the key's words are in registers.
            slot.key = &plain.key & masks.of(plain.class);
            slot.hash = cache.hash(&slot.key);
        } else {
            parse_other(group, masks, frame, slot);
            slot.hash = cache.hash(&slot.key);
        }
        cache.prefetch_set(slot.hash);
    }
    bytes
}

/// The key of a frame that is not plain or may have a partial checksum: a mark is checked, and
/// one that is missing is looked for.
#[inline(never)]
fn parse_other(group: Group, masks: &Masks, frame: &mut Frame<'_>, slot: &mut Slot) {
    let (head, len, tag) = (frame.head(), frame.len(), frame.vlan_tci);
    let parsed = &mut slot.general;
    // Without a checksum in question it is here because it is not plain.
    if may_be_partial(frame, group)
        && let Some(plain) = policy::parse::plain(head, len, tag, group.port)
    {
        *parsed = plain;
    } else {
        policy::parse::general(parsed, head, len, tag, group.port);
    }
    slot.key = &parsed.key & masks.of(parsed.class);
    forget_false_mark(frame, parsed);
    if group.unmarked_partial_checksums {
        find_partial_checksum(frame, parsed);
    }
}

/// Whether a frame may take a verdict that rests on `token`; its connection is told then.
#[inline(always)]
pub(super) fn follows(
    shared: &Shared,
    token: Token,
    slot: &Slot,
    frame: &Frame<'_>,
    now_s: u32,
) -> bool {
    if is_plain_tcp(&slot.key) {
        return follows_plain_tcp(shared, token, frame, now_s);
    }
    let connections = &shared.connections;
    if slot.key.get(Field::PROTOCOL) != u64::from(protocol::TCP) {
        return connections.follows(token, now_s);
    }
    let read = || Segment::read(frame.head(), &slot.parsed(frame));
    connections.follows_tcp(token, now_s, read)
}

/// The same for a frame whose TCP stands behind Ethernet and 20 bytes of IPv4.
#[inline(always)]
fn follows_plain_tcp(shared: &Shared, token: Token, frame: &Frame<'_>, now_s: u32) -> bool {
    let read = || Segment::read_at::<false>(frame.head(), 14, 34);
    shared.connections.follows_tcp(token, now_s, read)
}

/// What became of one group of frames.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) forwarded: u64,
    pub(super) replicas: u64,
}

#[inline]
fn frames_in(groups: &Groups) -> usize {
    groups.last().map_or(0, |group| group.end as usize)
}

#[inline]
pub(super) fn is_good(verdict: &Verdict, slow_path: &SlowPath, generations: &Generations) -> bool {
    match verdict {
        Verdict::Flood(_, list) => slow_path.lists.is_good(*list),
        Verdict::Routed(_, id) => slow_path.adjacencies.standing(*id, generations).is_some(),
        Verdict::Drop(_) | Verdict::Unicast(_) | Verdict::Taken(_) => true,
    }
}

/// What a cached decision must have been made under.
#[inline(always)]
pub(super) fn standing<'a>(bundle: &Bundle, shared: &'a Shared) -> Standing<'a> {
    Standing {
        epoch: bundle.snapshot.epoch(),
        generations: shared.bridge.generations(),
    }
}

/// Tells the bridge that the sender of a cached flow is still there: a few times in its ageing
/// time, not once a frame.
#[cold]
#[inline(never)]
pub(super) fn refresh(
    entry: &mut Entry,
    slot: &Slot,
    frame: &Frame<'_>,
    bundle: &Bundle,
    shared: &Shared,
    now: Now,
) {
    let key = &slot.parsed(frame).key;
    shared
        .bridge
        .refresh(entry.network, key.eth_src(), key.ingress(), now.s);
    entry.refresh_s = next_refresh_s(entry, bundle, now);
}

fn next_refresh_s(entry: &Entry, bundle: &Bundle, now: Now) -> u32 {
    if entry.network == NO_NETWORK {
        return u32::MAX;
    }
    let ageing_s = bundle
        .snapshot
        .network(entry.network)
        .map_or(0, |network| network.ageing_s);
    now.s + (ageing_s / 8).max(1)
}

#[inline(always)]
fn may_be_partial(frame: &Frame<'_>, group: Group) -> bool {
    frame.partial_checksum.is_some() | group.unmarked_partial_checksums
}

/// A frame leaves as it was judged: where completing a checksum would change more than that, it
/// is not completed, and no port cuts the frame.
fn forget_false_mark(frame: &mut Frame<'_>, parsed: &Parsed) {
    if let Some(PartialChecksum { start, offset }) = frame.partial_checksum
        && !policy::checksum::may_be_left(parsed, start, offset)
    {
        frame.partial_checksum = None;
        frame.segment_bytes = 0;
    }
}

fn find_partial_checksum(frame: &mut Frame<'_>, parsed: &Parsed) {
    let transport = matches!(
        parsed.class,
        Class::Ipv4Tcp | Class::Ipv4Udp | Class::Ipv6Tcp | Class::Ipv6Udp
    );
    if transport && frame.partial_checksum.is_none() {
        frame.partial_checksum =
            policy::checksum::partial_checksum(frame.head(), frame.len(), parsed)
                .map(|(start, offset)| PartialChecksum { start, offset });
    }
}

#[inline]
pub(super) fn port_counters(
    bundle: &Bundle,
    port: policy::PortId,
    worker: usize,
) -> Option<&PortCounters> {
    bundle.port(port).map(|shared| &shared.counters[worker])
}
