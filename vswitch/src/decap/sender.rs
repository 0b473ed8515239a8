//! A sniffer's own thread: frames from its queue to its port, its files or its stream.
//!
//! ```text
//!   queue ─► is it still its own? ─► port, files or stream     (the Ethernet destination is the sniffer's)
//!   port  ─► counted, and given up                             (a sniffer only listens)
//! ```
//!
//! What must hold: nothing that was decided before the sniffer lost a session is sent after the thread
//! has taken the table over; the thread shares nothing with other sniffers', so a slow one slows only
//! itself; it answers control whatever its port does.

use std::{os::fd::OwnedFd, sync::Arc};

use crossbeam::channel::{Receiver as Inbox, Sender as Reply, TryRecvError};
use mirror::decap::{SnifferId, Table, Version};
use pmd::{BURST, Burst, Clock, Frame, clock::cycles};
use policy::PortId;

use super::{
    attachment::TEND_EVERY_NS,
    counts::{Fate, Loss, SessionLosses, SnifferCounters},
    meta::{META_BYTES, Meta},
    receiver::epoch_ns,
    sink::{Mirrored, Sink},
};
use crate::{
    counters::WorkerCounters,
    intake::{Groups, Intake},
    sleep::Sleeper,
};

/// What the queue's frames are known by in the thread's intake.
pub(super) const QUEUE: PortId = PortId(0);
/// What the frames are known by that the sniffer sends.
pub(super) const PORT: PortId = PortId(1);

/// Length of the Ethernet address that is replaced.
const MAC_BYTES: usize = 6;

/// What control asks of a sniffer's thread.
pub(super) enum Order {
    /// From now on this table says what is its own.
    Adopt(Arc<Table>, Reply<()>),
}

/// What a sniffer's thread works with.
pub struct Sender {
    id: SnifferId,
    intake: Intake,
    sink: Sink,
    admits_from: Version,
    counters: Arc<SnifferCounters>,
    losses: Arc<SessionLosses>,
    clock: Clock,
    tend_ns: u64,
    epoch_ns: u64,
    busy: Arc<WorkerCounters>,
}

impl Sender {
    pub(super) fn new(
        id: SnifferId,
        intake: Intake,
        sink: Sink,
        (counters, losses): (Arc<SnifferCounters>, Arc<SessionLosses>),
        clock: Clock,
    ) -> Self {
        Self {
            id,
            intake,
            sink,
            admits_from: Version::default(),
            counters,
            losses,
            clock,
            tend_ns: 0,
            epoch_ns: epoch_ns(&clock),
            busy: Arc::default(),
        }
    }

    /// Sends a burst. Returns how many frames there were, or `None` when nothing more can be taken
    /// from the queue until what was taken is written.
    pub fn turn(&mut self) -> Option<usize> {
        if !self.sink.flush() {
            return None;
        }
        let (mut burst, mut groups) = (Burst::new(), Groups::new());
        self.intake.receive(&mut burst, &mut groups);
        let count = burst.len();
        for group in &groups {
            let frames = &burst[group.range()];
            if group.port == QUEUE {
                let counts = (&*self.counters, &*self.losses);
                send(&mut self.sink, counts, self.admits_from, frames);
            } else {
                self.counters.sent.refused.add(frames.len() as u64);
            }
        }
        drop(burst);
        self.intake.release();
        Some(count)
    }

    /// Runs until control closes the channel.
    pub(super) fn run(mut self, inbox: &Inbox<Order>, wake: &OwnedFd, max_sleep_us: u32) {
        let mut sleeper = Sleeper::new(Some(max_sleep_us));
        loop {
            let frames = self.turn();
            self.tend();
            match (inbox.try_recv(), frames) {
                (Ok(order), _) => self.obey(order),
                (Err(TryRecvError::Disconnected), _) => {
                    self.sink.close(self.now_ns());
                    return;
                }
                (Err(TryRecvError::Empty), Some(0)) => {
                    sleeper.rest(&mut self.intake, wake, &self.busy);
                    continue;
                }
                (Err(TryRecvError::Empty), None) => self.sink.wait(wake),
                (Err(TryRecvError::Empty), Some(_)) => {}
            }
            sleeper.reset();
        }
    }

    /// The time of day.
    fn now_ns(&self) -> u64 {
        self.epoch_ns.wrapping_add(self.clock.ns_at(cycles()))
    }

    fn tend(&mut self) {
        let ns = self.clock.ns_at(cycles());
        if ns >= self.tend_ns {
            self.tend_ns = ns + TEND_EVERY_NS;
            self.epoch_ns = epoch_ns(&self.clock);
            let now_ns = self.now_ns();
            self.sink.tend(now_ns, &mut self.intake);
        }
    }

    pub(super) fn obey(&mut self, order: Order) {
        let Order::Adopt(table, reply) = order;
        // A sniffer that is no more admits nothing.
        let from = table.admits_from(self.id).unwrap_or(Version(u64::MAX));
        if from > self.admits_from {
            self.admits_from = from;
            self.sink.forget();
        }
        if let Some(mac) = table.mac(self.id) {
            self.sink.set_mac(mac);
        }
        let _ = reply.send(());
    }
}

/// Sends what is the sniffer's own.
fn send(
    sink: &mut Sink,
    (counters, losses): (&SnifferCounters, &SessionLosses),
    from: Version,
    frames: &[Frame<'_>],
) {
    let mut own: arrayvec::ArrayVec<Mirrored<'_>, BURST> = arrayvec::ArrayVec::new();
    let mut fate = Fate::default();
    for (index, frame) in frames.iter().enumerate() {
        // The queue's places lie in one piece.
        let bytes = frame.head();
        match Meta::read(bytes) {
            Some(meta) if meta.version >= from => own.push(Mirrored {
                index,
                meta,
                rest: bytes.get(META_BYTES + MAC_BYTES..).unwrap_or_default(),
            }),
            meta => {
                fate.former_owner += 1;
                if let Some(meta) = meta {
                    losses.count(&meta, Loss::FormerOwner);
                }
            }
        }
    }
    sink.send(frames, &own, &mut fate);
    counters.settle(&fate);
    if fate.full + fate.too_long + fate.down > 0 {
        count_lost(&own, &fate, losses);
    }
}

/// Counts, for each session, frames that the sink did not take. Which ones it does not say: those that
/// came last.
#[cold]
fn count_lost(own: &[Mirrored<'_>], fate: &Fate, losses: &SessionLosses) {
    let each = [
        (Loss::PortDown, fate.down),
        (Loss::PortFull, fate.full),
        (Loss::TooLong, fate.too_long),
    ];
    let reasons = each
        .iter()
        .flat_map(|(loss, frames)| std::iter::repeat_n(*loss, *frames as usize));
    for (mirrored, loss) in own.iter().rev().zip(reasons) {
        losses.count(&mirrored.meta, loss);
    }
}
