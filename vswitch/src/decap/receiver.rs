//! The receiving thread: a tunnel port's frames in, mirrored frames into sniffers' queues out.
//!
//! ```text
//!   tunnel port ─► burst ─┬─ ARP, ICMP ─► host ─► answer by the same port
//!                         └─► mirror::decap ─► for each target: what is told of it ++ frame
//!                                                   └─► the sniffer's queue (one copy)
//! ```
//!
//! What must hold: the thread owns the receive queues of the tunnel port, so nobody else's frame is
//! ever before it; it waits for no sniffer: a queue without room drops and counts; nothing is
//! allocated in a turn but answers to neighbours.

use std::{os::fd::OwnedFd, sync::Arc};

use arrayvec::ArrayVec;
use crossbeam::channel::{Receiver as Inbox, Sender, TryRecvError};
use mirror::decap::{Decapsulator, Delivery, Outcome, SnifferId, Table, UnknownSession};
use pmd::{
    BURST, Burst, Clock, Frame, PrefixArena, TxBurst, TxPlan, TxQueue, TxReport, clock::cycles,
    pcap::Direction,
};

use super::{
    attachment::{Attachment, TEND_EVERY_NS},
    counts::{Loss, OwnCounters, SessionLosses, SnifferCounters},
    host::{Host, is_for_host},
    meta::{META_BYTES, Meta},
};
use crate::{
    counters::WorkerCounters,
    intake::{Groups, Intake},
    sleep::Sleeper,
};

/// The longest frame that is received, in bytes: what does not lie in one piece is copied first.
const MAX_FRAME_BYTES: usize = 65_550;

/// What control asks of the receiving thread.
pub(super) enum Order {
    /// Frames for a sniffer go there from now on.
    Attach(SnifferId, Box<Lane>),
    /// The sniffer is no more.
    Detach(SnifferId),
    /// Every later frame is decided by this table.
    Adopt(Arc<Table>, Sender<()>),
    /// From now on these are its addresses.
    Host(Host),
    /// List the sessions that are sent and not known.
    Unknown(Sender<Vec<UnknownSession>>),
}

/// The way to one sniffer.
pub(super) struct Lane {
    queue: Box<dyn TxQueue>,
    plans: ArrayVec<TxPlan, BURST>,
    counters: Arc<SnifferCounters>,
    losses: Arc<SessionLosses>,
    /// The longest frame that the queue takes, with what is told of it, in bytes.
    longest: usize,
}

impl Lane {
    pub(super) fn new(
        (queue, longest): (Box<dyn TxQueue>, usize),
        counters: Arc<SnifferCounters>,
        losses: Arc<SessionLosses>,
    ) -> Self {
        Self {
            queue,
            plans: ArrayVec::new(),
            counters,
            losses,
            longest,
        }
    }

    /// Counts what the queue did not take of what was planned, for each session. The queue takes plans
    /// in order, until it is full.
    #[cold]
    fn count_lost(&self, prefixes: &PrefixArena, report: &TxReport) {
        let mut sent = report.sent;
        for plan in &self.plans {
            let Some(meta) = Meta::read(prefixes.get(plan)) else {
                continue;
            };
            if report.down > 0 {
                self.losses.count(&meta, Loss::PortDown);
            } else if plan.wire_len() > self.longest {
                self.losses.count(&meta, Loss::TooLong);
            } else if sent > 0 {
                sent -= 1;
            } else {
                self.losses.count(&meta, Loss::QueueFull);
            }
        }
    }

    /// Copies what was planned into the queue.
    fn flush(&mut self, frames: &[Frame<'_>], prefixes: &PrefixArena) {
        let report = self.queue.transmit(&TxBurst {
            frames,
            prefixes,
            plans: &self.plans,
        });
        let offered = &self.counters.offered;
        offered.frames.add(self.plans.len() as u64);
        for (counter, frames) in [
            (&offered.queue_full, report.full),
            (&offered.too_long, report.too_big),
            (&offered.down, report.down),
        ] {
            if frames > 0 {
                counter.add(frames.into());
            }
        }
        if (report.sent as usize) < self.plans.len() {
            self.count_lost(prefixes, &report);
        }
        self.plans.clear();
    }
}

/// What the receiving thread works with.
pub struct Receiver {
    pub(super) intake: Intake,
    pub(super) port: Attachment,
    pub(super) decap: Decapsulator,
    /// By sniffer.
    lanes: Vec<Option<Box<Lane>>>,
    /// The sniffers that the burst in hand has frames for.
    touched: ArrayVec<u16, { BURST * 2 }>,
    prefixes: PrefixArena,
    host: Host,
    scratch: Box<[u8]>,
    clock: Clock,
    /// What the clock said at 1970, so to say: its readings and this make the time of day.
    epoch_ns: u64,
    tend_ns: u64,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) own: Arc<OwnCounters>,
    pub(super) losses: Arc<SessionLosses>,
}

impl Receiver {
    pub(super) fn new(
        intake: Intake,
        port: Attachment,
        decap: Decapsulator,
        host: Host,
        clock: Clock,
    ) -> Self {
        Self {
            losses: Arc::new(SessionLosses::new(decap.table().room())),
            intake,
            port,
            decap,
            lanes: Vec::new(),
            touched: ArrayVec::new(),
            prefixes: PrefixArena::default(),
            host,
            scratch: vec![0; MAX_FRAME_BYTES].into(),
            clock,
            epoch_ns: epoch_ns(&clock),
            tend_ns: 0,
            counters: Arc::default(),
            own: Arc::default(),
        }
    }

    /// Receives a burst and hands its mirrored frames to the sniffers' queues. Returns how many
    /// frames there were.
    pub fn turn(&mut self) -> usize {
        let began = cycles();
        let now_ns = self.clock.ns_at(began);
        let (mut burst, mut groups) = (Burst::new(), Groups::new());
        self.intake.receive(&mut burst, &mut groups);
        let count = burst.len();
        if count > 0 {
            let bytes: usize = burst.iter().map(Frame::len).sum();
            let mut work = Work {
                decap: &mut self.decap,
                queues: Queues {
                    lanes: &mut self.lanes,
                    touched: &mut self.touched,
                    prefixes: &mut self.prefixes,
                    time_ns: self.epoch_ns.wrapping_add(now_ns),
                },
                port: &mut self.port,
                own: &self.own,
                host: &self.host,
                now_ns,
            };
            work.burst(&burst, &mut self.scratch);
            drop(burst);
            self.intake.release();
            let counters = &self.counters;
            counters.bursts.add(1);
            counters.frames.add(count as u64);
            counters.bytes.add(bytes as u64);
            counters.busy_cycles.add(cycles().wrapping_sub(began));
        } else {
            drop(burst);
            self.intake.release();
        }
        self.counters.turns.add(1);
        self.counters.running_ns.set(now_ns);
        count
    }

    /// The counters of the decapsulator's core.
    pub fn core_counters(&self) -> &Arc<mirror::decap::Counters> {
        self.decap.counters()
    }

    /// Runs until control closes the channel.
    pub(super) fn run(mut self, inbox: &Inbox<Order>, wake: &OwnedFd, max_sleep_us: u32) {
        // What came before the first table waits for it.
        let mut has_table = false;
        while !has_table {
            let Ok(order) = inbox.recv() else { return };
            has_table = matches!(order, Order::Adopt(..));
            self.obey(order);
        }
        let mut sleeper = Sleeper::new(Some(max_sleep_us));
        loop {
            let frames = self.turn();
            self.tend();
            match inbox.try_recv() {
                Ok(order) => self.obey(order),
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) if frames == 0 => {
                    sleeper.rest(&mut self.intake, wake, &self.counters);
                    continue;
                }
                Err(TryRecvError::Empty) => {}
            }
            sleeper.reset();
        }
    }

    /// Now and then: the port, fragments that waited too long, the time of day.
    fn tend(&mut self) {
        let now_ns = self.counters.running_ns.get();
        if now_ns >= self.tend_ns {
            self.tend_ns = now_ns + TEND_EVERY_NS;
            self.port.tend(&mut self.intake);
            self.decap.expire(now_ns);
            self.epoch_ns = epoch_ns(&self.clock);
        }
    }

    /// Does what control asks. Who does not wait for the answer any more has given up on it.
    pub(super) fn obey(&mut self, order: Order) {
        match order {
            Order::Attach(SnifferId(id), lane) => {
                let id = usize::from(id);
                if self.lanes.len() <= id {
                    self.lanes.resize_with(id + 1, || None);
                }
                self.lanes[id] = Some(lane);
            }
            Order::Detach(SnifferId(id)) => {
                if let Some(lane) = self.lanes.get_mut(usize::from(id)) {
                    *lane = None;
                }
            }
            Order::Adopt(table, reply) => {
                self.losses.adopt(&table);
                // Its room is that of the table before.
                if self.decap.adopt(table).is_ok() {
                    let _ = reply.send(());
                }
            }
            Order::Host(host) => self.host = host,
            Order::Unknown(reply) => {
                let _ = reply.send(self.decap.unknown().iter().copied().collect());
            }
        }
    }
}

/// The time of day at which the clock said 0, in nanoseconds since 1970.
pub(super) fn epoch_ns(clock: &Clock) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_nanos() as u64);
    now.wrapping_sub(clock.ns_at(cycles()))
}

/// What a burst is worked off with.
struct Work<'w> {
    decap: &'w mut Decapsulator,
    queues: Queues<'w>,
    port: &'w mut Attachment,
    own: &'w OwnCounters,
    host: &'w Host,
    now_ns: u64,
}

impl Work<'_> {
    fn burst(&mut self, burst: &Burst<'_>, scratch: &mut [u8]) {
        self.queues.prefixes.clear();
        // Frames in a row that the core gets, and the place of the first.
        let (mut row, mut first) = (ArrayVec::<&[u8], BURST>::new(), 0);
        for (index, frame) in burst.iter().enumerate() {
            let head = frame.head();
            if head.len() == frame.len() && !is_for_host(head) {
                if row.is_empty() {
                    first = index;
                }
                row.push(head);
                continue;
            }
            self.row(&row, first, burst);
            row.clear();
            let bytes = match scratch.get_mut(..frame.len()) {
                Some(bytes) if head.len() < frame.len() => {
                    frame.copy_to(0, bytes);
                    &*bytes
                }
                _ => head,
            };
            self.apart(bytes, burst);
        }
        self.row(&row, first, burst);
        self.queues.flush(burst);
    }

    /// Decides on frames of the burst from the place `first` on, and plans what becomes of them.
    #[inline]
    fn row(&mut self, row: &[&[u8]], first: usize, burst: &[Frame<'_>]) {
        let queues = &mut self.queues;
        self.decap.receive_all(row, self.now_ns, |at, outcome| {
            if let Outcome::Delivered(delivery) = outcome {
                queues.plan(&delivery, first + at, burst);
            }
        });
    }

    /// A frame that is for the host, or that does not lie in one piece in the burst.
    #[cold]
    fn apart(&mut self, bytes: &[u8], burst: &[Frame<'_>]) {
        if is_for_host(bytes) {
            self.answer(bytes);
            return;
        }
        self.queues.flush(burst);
        if let Outcome::Delivered(delivery) = self.decap.receive(bytes, self.now_ns) {
            self.queues.send(&delivery);
        }
    }

    fn answer(&mut self, frame: &[u8]) {
        self.own.received.add(1);
        let Some(answer) = self.host.answer(frame) else {
            return;
        };
        let frames = [Frame::contiguous(&answer)];
        let plans = [TxPlan::whole(0, &frames[0])];
        if let Some(queue) = self.port.tx() {
            let report = queue.transmit(&TxBurst {
                frames: &frames,
                prefixes: self.queues.prefixes,
                plans: &plans,
            });
            self.own.answered.add(report.sent.into());
        }
    }
}

/// The ways to the sniffers, and what of a burst is planned for them.
struct Queues<'w> {
    lanes: &'w mut [Option<Box<Lane>>],
    /// The sniffers that frames are planned for.
    touched: &'w mut ArrayVec<u16, { BURST * 2 }>,
    prefixes: &'w mut PrefixArena,
    time_ns: u64,
}

impl Queues<'_> {
    /// Plans copies of a frame, which is number `index` of the burst or was put together of several.
    #[inline]
    fn plan(&mut self, delivery: &Delivery<'_>, index: usize, burst: &[Frame<'_>]) {
        let Some(offset) = delivery.offset else {
            // What was planned before goes first.
            self.flush(burst);
            self.send(delivery);
            return;
        };
        let plan = TxPlan {
            len_bytes: delivery.inner.len() as u32,
            skip_bytes: offset as u16,
            frame: index as u8,
            ..TxPlan::default()
        };
        let Some(plan) = self.tell(delivery, plan) else {
            return;
        };
        for target in delivery.targets {
            let id = target.sniffer.0;
            // A table is adopted only when all of its sniffers are attached.
            let Some(Some(lane)) = self.lanes.get_mut(usize::from(id)) else {
                continue;
            };
            if lane.plans.is_full() {
                lane.flush(burst, self.prefixes);
            }
            let is_first = lane.plans.is_empty();
            lane.plans.push(plan);
            if is_first && self.touched.try_push(id).is_err() {
                lane.flush(burst, self.prefixes);
            }
        }
    }

    /// Copies what was planned into the queues.
    fn flush(&mut self, burst: &[Frame<'_>]) {
        for id in self.touched.drain(..) {
            if let Some(Some(lane)) = self.lanes.get_mut(usize::from(id)) {
                lane.flush(burst, self.prefixes);
            }
        }
    }

    /// Hands over a frame that does not lie in the burst.
    #[cold]
    fn send(&mut self, delivery: &Delivery<'_>) {
        let frames = [Frame::contiguous(delivery.inner)];
        let plan = TxPlan::whole(0, &frames[0]);
        let Some(plan) = self.tell(delivery, plan) else {
            return;
        };
        for target in delivery.targets {
            if let Some(Some(lane)) = self.lanes.get_mut(usize::from(target.sniffer.0)) {
                lane.plans.push(plan);
                lane.flush(&frames, self.prefixes);
            }
        }
    }

    /// Writes what is told of a frame into a prefix of `plan`. A burst needs one prefix for each frame,
    /// and there is room for more.
    #[inline]
    fn tell(&mut self, delivery: &Delivery<'_>, plan: TxPlan) -> Option<TxPlan> {
        let (prefix, bytes) = self.prefixes.allocate()?;
        let direction = match delivery.header.egress() {
            None => Direction::Unknown,
            Some(false) => Direction::In,
            Some(true) => Direction::Out,
        };
        let meta = Meta {
            version: delivery.version,
            time_ns: self.time_ns,
            original_len: delivery.original_len() as u32,
            direction,
            session: delivery.session,
        };
        meta.write(bytes);
        Some(TxPlan {
            prefix,
            prefix_len_bytes: META_BYTES as u8,
            ..plan
        })
    }
}
