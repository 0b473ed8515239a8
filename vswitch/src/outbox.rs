//! What is to leave: transmit plans, gathered by port over a burst, then handed to the drivers.
//!
//! In: (frame, destination) pairs. Out: one `TxQueue::transmit` per port that has plans. What
//! must hold: every pair that comes in is counted as offered, and then either as sent or as
//! dropped, in the egress port's account.

use std::sync::Arc;

use arrayvec::ArrayVec;
use parking_lot::Mutex;
use pmd::{
    BURST, Frame, MAX_PREFIX_BYTES, PrefixArena, REWRITTEN_HEAD_BYTES, TxBurst, TxPlan, TxQueue,
};
use policy::{Denial, DropReason, PortId};

use crate::{
    counters::PortCounters,
    drop_watch::Taps,
    intake::Groups,
    mirroring::{Copier, Received},
    published::Bundle,
    rewrite::{Prefix, RewrittenHead},
    verdict::{Destination, VlanTag},
};

/// A transmit queue, shared by the workers that send to it. The lock is taken once per burst;
/// with as many queues as workers nobody else takes it.
pub type SharedTxQueue = Arc<Mutex<Box<dyn TxQueue>>>;

const MAC_PAIR_BYTES: usize = 12;
const TAG_BYTES: usize = 4;
/// TPID of a C-VLAN tag (IEEE 802.1Q §9.6).
const TPID: [u8; 2] = [0x81, 0x00];

/// The outer tag that a frame came with.
#[derive(Clone, Copy, Debug)]
pub struct OwnTag {
    /// Its tag control information.
    pub tci: u16,
    /// It stands in the frame, not beside it.
    pub in_frame: bool,
}

#[derive(Debug, Default)]
struct Lane {
    plans: ArrayVec<TxPlan, BURST>,
    /// `None` while the port is not attached.
    queue: Option<Queue>,
}

struct Queue(SharedTxQueue);

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queue")
    }
}

/// Ports that have plans, each once: a list that nothing makes longer within a burst.
#[derive(Debug, Default)]
struct Busy {
    ports: Vec<PortId>,
    count: usize,
}

impl Busy {
    #[inline(always)]
    fn note(&mut self, port: PortId) {
        if let Some(place) = self.ports.get_mut(self.count) {
            *place = port;
            self.count += 1;
        }
    }
}

/// Where the plan of a frame goes whose head is rewritten. What does not become a plan costs the
/// burst a prefix.
pub(crate) struct Room<'a> {
    /// To be written.
    pub(crate) head: &'a mut RewrittenHead,
    number: u16,
    port: PortId,
    plans: &'a mut ArrayVec<TxPlan, BURST>,
    busy: &'a mut Busy,
}

impl Room<'_> {
    /// Plans frame number `index`.
    #[inline(always)]
    pub(crate) fn plan(self, index: usize, frame: &Frame<'_>) {
        const LEN: usize = REWRITTEN_HEAD_BYTES;
        if self.plans.is_empty() {
            self.busy.note(self.port);
        }
        self.plans.push(TxPlan {
            frame: index as u8,
            prefix: self.number,
            prefix_len_bytes: LEN as u8,
            skip_bytes: LEN as u16,
            len_bytes: (frame.len() - LEN) as u32,
            ..TxPlan::default()
        });
    }
}

/// One worker's plans of the burst at hand.
#[derive(Debug)]
pub struct Outbox {
    lanes: Vec<Lane>,
    busy: Busy,
    prefixes: PrefixArena,
    worker: usize,
    /// Where whoever watches drops gets samples.
    pub(crate) taps: Arc<Taps>,
    /// The time of the turn.
    pub(crate) now_ns: u64,
    /// The same, since 1970.
    pub(crate) wall_ns: u64,
    /// What copies are made with.
    pub(crate) copier: Copier,
}

impl Outbox {
    /// The outbox of worker number `worker`.
    pub fn new(worker: usize) -> Self {
        Self {
            lanes: Vec::new(),
            busy: Busy::default(),
            prefixes: PrefixArena::default(),
            worker,
            taps: Arc::default(),
            now_ns: 0,
            wall_ns: 0,
            copier: Copier::new(worker),
        }
    }

    /// Whether anything can leave by `port`.
    pub(crate) fn is_attached(&self, port: PortId) -> bool {
        let lane = self.lanes.get(port.index());
        lane.is_some_and(|lane| lane.queue.is_some())
    }

    /// From now on what is for `port` goes to `queue`. Returns the former queue.
    pub fn attach(&mut self, port: PortId, queue: Option<SharedTxQueue>) -> Option<SharedTxQueue> {
        if self.lanes.len() <= port.index() {
            self.lanes.resize_with(port.index() + 1, Lane::default);
            self.busy.ports.resize(self.lanes.len(), port);
        }
        let lane = &mut self.lanes[port.index()];
        std::mem::replace(&mut lane.queue, queue.map(Queue)).map(|Queue(queue)| queue)
    }

    /// Plans that frame number `index` of the burst, which has the tag `own`, leaves for `to` with
    /// that destination's tag.
    pub fn plan_tagged(
        &mut self,
        bundle: &Bundle,
        frames: &[Frame<'_>],
        index: usize,
        own: Option<OwnTag>,
        to: Destination,
    ) {
        let frame = &frames[index];
        let mut plan = TxPlan::whole(index, frame);
        let lane = self.lanes.get(to.port.index());
        let is_full = lane.is_some_and(|lane| lane.plans.is_full());
        if is_full || !self.retag(&mut plan, frame, own, to.tag) {
            // No room, or the burst has used all prefixes: send what is planned, then begin anew.
            self.transmit(bundle, frames);
            self.retag(&mut plan, frame, own, to.tag);
        }
        self.push(bundle, frames, to.port, plan);
    }

    /// Plans that the first bytes of a fresh prefix leave by `port`, as `write` makes them: a frame
    /// of the switch's own. Nothing leaves when `write` says so by making none.
    ///
    /// Frame number `index` of the burst, from which nothing is taken, stands for it.
    pub fn originate(
        &mut self,
        bundle: &Bundle,
        frames: &[Frame<'_>],
        index: usize,
        port: PortId,
        write: impl FnOnce(&mut [u8; MAX_PREFIX_BYTES]) -> Option<usize>,
    ) {
        let Some((number, len)) = self.prefix(bundle, frames, port, write) else {
            return;
        };
        if let Some(counters) = counters(bundle, port, self.worker) {
            counters.originated.add(1);
        }
        let plan = TxPlan {
            frame: index as u8,
            prefix: number,
            prefix_len_bytes: len as u8,
            ..TxPlan::default()
        };
        self.push(bundle, frames, port, plan);
    }

    /// Room for a plan by `port` of a frame whose head is rewritten, if there is any at once.
    #[inline(always)]
    pub(crate) fn room(&mut self, port: PortId) -> Option<Room<'_>> {
        let lane = self.lanes.get_mut(port.index())?;
        if lane.plans.is_full() {
            return None;
        }
        let (number, prefix) = self.prefixes.allocate()?;
        Some(Room {
            head: prefix.first_chunk_mut()?,
            number,
            port,
            plans: &mut lane.plans,
            busy: &mut self.busy,
        })
    }

    /// Plans that frame number `index` leaves by `port` with a prefix as `write` makes it, before
    /// all of the frame that the prefix does not replace. Nothing leaves when it makes none.
    #[inline(always)]
    pub(crate) fn plan_with_prefix(
        &mut self,
        bundle: &Bundle,
        frames: &[Frame<'_>],
        (index, port): (usize, PortId),
        write: impl FnOnce(&mut [u8; MAX_PREFIX_BYTES]) -> Option<Prefix>,
    ) {
        let mut skip = 0;
        let made = self.prefix(bundle, frames, port, |prefix| {
            let made = write(prefix)?;
            skip = made.skip;
            Some(made.len)
        });
        let Some((number, len)) = made else { return };
        let plan = TxPlan {
            frame: index as u8,
            prefix: number,
            prefix_len_bytes: len as u8,
            skip_bytes: skip as u16,
            len_bytes: frames[index].len().saturating_sub(skip) as u32,
            ..TxPlan::default()
        };
        self.push(bundle, frames, port, plan);
    }

    /// The same for a frame of the switch's own, made of what stands in frame number `index`.
    pub(crate) fn originate_with(
        &mut self,
        bundle: &Bundle,
        frames: &[Frame<'_>],
        (index, port): (usize, PortId),
        write: impl FnOnce(&mut [u8; MAX_PREFIX_BYTES]) -> Option<Prefix>,
    ) {
        if let Some(counters) = counters(bundle, port, self.worker) {
            counters.originated.add(1);
        }
        self.plan_with_prefix(bundle, frames, (index, port), write);
    }

    /// A fresh prefix for a plan to `port`, written by `write`, which says how long it is, and its
    /// number. There is room for the plan then.
    #[inline(always)]
    pub(crate) fn prefix(
        &mut self,
        bundle: &Bundle,
        frames: &[Frame<'_>],
        port: PortId,
        write: impl FnOnce(&mut [u8; MAX_PREFIX_BYTES]) -> Option<usize>,
    ) -> Option<(u16, usize)> {
        let lane = self.lanes.get(port.index());
        if self.prefixes.is_full() || lane.is_some_and(|lane| lane.plans.is_full()) {
            self.transmit(bundle, frames);
        }
        let (number, prefix) = self.prefixes.allocate()?;
        Some((number, write(prefix)?))
    }

    /// Takes a plan for `port`. What finds no such port is counted as dropped.
    ///
    /// A plan with a prefix must not come for a port that has a burst of plans: to make room
    /// clears all prefixes.
    #[inline(always)]
    pub fn push(&mut self, bundle: &Bundle, frames: &[Frame<'_>], port: PortId, plan: TxPlan) {
        let Some(lane) = self.lanes.get_mut(port.index()) else {
            return self.refuse(bundle, frames, port, &[plan]);
        };
        if lane.plans.is_empty() {
            self.busy.note(port);
        }
        if lane.plans.try_push(plan).is_err() {
            self.transmit(bundle, frames);
            self.busy.note(port);
            self.lanes[port.index()].plans.push(plan);
        }
    }

    /// Counts plans for a port that is not attached, and shows them to whoever watches.
    #[cold]
    #[inline(never)]
    fn refuse(&self, bundle: &Bundle, frames: &[Frame<'_>], port: PortId, plans: &[TxPlan]) {
        refuse(bundle, port, self.worker, plans.len() as u64);
        self.watcher()
            .show(frames, port, DropReason::PortDown, plans);
    }

    fn watcher(&self) -> Watcher<'_> {
        Watcher {
            taps: &self.taps,
            now_ns: self.now_ns,
        }
    }

    /// Makes the frame leave with `tag`, whether its own tag stands in it or came beside it. The
    /// priority bits stay. False when no prefix is left.
    fn retag(
        &mut self,
        plan: &mut TxPlan,
        frame: &Frame<'_>,
        own: Option<OwnTag>,
        tag: Option<VlanTag>,
    ) -> bool {
        let tci = own.map_or(0, |own| own.tci);
        let in_frame = own.is_some_and(|own| own.in_frame);
        let wanted = tag.map(|tag| (tci & 0xf000) | tag.get());
        if in_frame && wanted == Some(tci) || !in_frame && wanted.is_none() {
            return true;
        }
        let Some((number, prefix)) = self.prefixes.allocate() else {
            return false;
        };
        let replaced = MAC_PAIR_BYTES + if in_frame { TAG_BYTES } else { 0 };
        prefix[..MAC_PAIR_BYTES].copy_from_slice(&frame.head()[..MAC_PAIR_BYTES]);
        let mut len = MAC_PAIR_BYTES;
        if let Some(tci) = wanted {
            prefix[len..len + 2].copy_from_slice(&TPID);
            prefix[len + 2..len + TAG_BYTES].copy_from_slice(&tci.to_be_bytes());
            len += TAG_BYTES;
        }
        plan.prefix = number;
        plan.prefix_len_bytes = len as u8;
        plan.skip_bytes = replaced as u16;
        plan.len_bytes = (frame.len() - replaced) as u32;
        true
    }

    /// Hands every plan to its port's driver and counts what became of it.
    #[inline(never)]
    pub fn transmit(&mut self, bundle: &Bundle, frames: &[Frame<'_>]) {
        let is_mirrored = bundle.mirrors.is_active();
        let watcher = Watcher {
            taps: &self.taps,
            now_ns: self.now_ns,
        };
        for &port in &self.busy.ports[..self.busy.count] {
            let lane = &mut self.lanes[port.index()];
            if let Some(Queue(queue)) = &lane.queue {
                let burst = TxBurst {
                    frames,
                    prefixes: &self.prefixes,
                    plans: &lane.plans,
                };
                let report = queue.lock().transmit(&burst);
                if let Some(counters) = counters(bundle, port, self.worker) {
                    counters.offered.add(lane.plans.len() as u64);
                    counters.tx_frames.add(u64::from(report.sent));
                    counters.tx_bytes.add(report.sent_bytes);
                    for (reason, dropped) in [
                        (DropReason::TxFull, report.full),
                        (DropReason::TooBig, report.too_big),
                        (DropReason::PortDown, report.down),
                    ] {
                        if dropped > 0 {
                            counters.drop_frames(reason, u64::from(dropped));
                            watcher.show_some(frames, port, reason, &lane.plans, dropped);
                        }
                    }
                }
            } else {
                refuse(bundle, port, self.worker, lane.plans.len() as u64);
                watcher.show(frames, port, DropReason::PortDown, &lane.plans);
            }
            if is_mirrored {
                let copier = &mut self.copier;
                if !copier.has_room(&bundle.mirrors, port, lane.plans.len()) {
                    // Room is made: copies that wait for the end of the burst are made now.
                    let received = Received {
                        frames,
                        groups: &Groups::new(),
                        now_ns: self.now_ns,
                        wall_ns: self.wall_ns,
                    };
                    copy(copier, &self.lanes, bundle, received);
                }
                let plans = &self.lanes[port.index()].plans;
                copier.keep(&bundle.mirrors, port, plans, &self.prefixes);
            }
            self.lanes[port.index()].plans.clear();
        }
        self.busy.count = 0;
        self.prefixes.clear();
    }

    /// Makes the copies that mirror sessions want of a burst whose originals have left.
    pub(crate) fn mirror(&mut self, bundle: &Bundle, frames: &[Frame<'_>], groups: &Groups) {
        let received = Received {
            frames,
            groups,
            now_ns: self.now_ns,
            wall_ns: self.wall_ns,
        };
        copy(&mut self.copier, &self.lanes, bundle, received);
        self.copier.end();
    }
}

/// Makes copies. What their port takes of them is counted there as the switch's own.
fn copy(copier: &mut Copier, lanes: &[Lane], bundle: &Bundle, received: Received<'_>) {
    let worker = copier.worker();
    let transmit = |port: PortId, burst: &TxBurst<'_>| {
        let Queue(queue) = lanes.get(port.index())?.queue.as_ref()?;
        let report = queue.lock().transmit(burst);
        if let Some(counters) = counters(bundle, port, worker) {
            let sent = u64::from(report.sent);
            counters.originated.add(sent);
            counters.offered.add(sent);
            counters.tx_frames.add(sent);
            counters.tx_bytes.add(report.sent_bytes);
        }
        Some(report)
    };
    copier.run(&bundle.mirrors, received, &transmit);
}

/// Gives samples of what did not leave to whoever watches.
struct Watcher<'a> {
    taps: &'a Taps,
    now_ns: u64,
}

impl Watcher<'_> {
    /// Of `plans`, `dropped` were: all of them, or it is not known which.
    #[cold]
    fn show_some(
        &self,
        frames: &[Frame<'_>],
        port: PortId,
        reason: DropReason,
        plans: &[TxPlan],
        dropped: u32,
    ) {
        if dropped as usize == plans.len() {
            self.show(frames, port, reason, plans);
        } else if self.taps.watch_drops() {
            self.taps.dropped_some(self.now_ns, port, reason, dropped);
        }
    }

    #[cold]
    fn show(&self, frames: &[Frame<'_>], port: PortId, reason: DropReason, plans: &[TxPlan]) {
        if self.taps.watch_drops() {
            for plan in plans {
                let frame = &frames[plan.frame as usize];
                let drop = (port, Denial::new(reason));
                self.taps.dropped(self.now_ns, None, drop, frame);
            }
        }
    }
}

/// Counts frames for a port that is not attached.
#[cold]
fn refuse(bundle: &Bundle, port: PortId, worker: usize, frames: u64) {
    if let Some(counters) = counters(bundle, port, worker) {
        counters.offered.add(frames);
        counters.drop_frames(DropReason::PortDown, frames);
    }
}

#[inline]
fn counters(bundle: &Bundle, port: PortId, worker: usize) -> Option<&PortCounters> {
    bundle.port(port).map(|shared| &shared.counters[worker])
}
