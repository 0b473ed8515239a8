//! A worker's thread: turn, answer, rest.
//!
//! In: commands from control, answered between turns. What must hold: nothing that a command
//! asks takes long (a walk through the flow cache is done in slices, one a turn), and whatever
//! the worker gives up goes back to control, which frees it.

use std::{os::fd::OwnedFd, sync::Arc};

use crossbeam::channel::{Receiver, Sender, TryRecvError};
use policy::{DropReason, Epoch, FlowKey, PortId};

use crate::{
    flow_cache::Entry,
    intake::OwnedQueue,
    outbox::SharedTxQueue,
    sleep::Sleeper,
    verdict::{Destination, Verdict},
    worker::Worker,
};

/// Cache entries looked at between two turns while flows are listed.
const SLICE: usize = 4096;

/// Cache entries settled between two turns as a matter of course: a few microseconds' worth.
const SETTLED_A_TURN: usize = 256;

/// In which time the whole cache is settled, while there are frames.
const SETTLED_WITHIN_NS: u64 = 4_000_000_000;

/// Most turns taken for what was received before a port is given up. A full ring takes 32; a port
/// that never falls silent must not keep control waiting.
const DRAIN_TURNS: usize = 256;

/// What control asks of a worker.
pub enum Command {
    /// Own this receive queue.
    AddRx {
        /// The queue.
        queue: OwnedQueue,
        /// Done.
        reply: Sender<()>,
    },
    /// Send what is for `port` to this queue.
    AddTx {
        /// The port.
        port: PortId,
        /// The queue.
        queue: Option<SharedTxQueue>,
        /// Done; the former queue, if there was one.
        reply: Sender<Option<SharedTxQueue>>,
    },
    /// Give up a receive queue.
    TakeRx {
        /// Its port.
        port: PortId,
        /// Its number.
        number: usize,
        /// The queue, if the worker owned it.
        reply: Sender<Option<OwnedQueue>>,
    },
    /// Give up everything of a port, after what was received has been judged and sent.
    Remove {
        /// The port.
        port: PortId,
        /// What the worker held.
        reply: Sender<Removed>,
    },
    /// The port is no more: free the rows that count its drops.
    Forget {
        /// The port.
        port: PortId,
        /// Done.
        reply: Sender<()>,
    },
    /// Credit the rules with all that the cache counted.
    Settle {
        /// Done.
        reply: Sender<()>,
    },
    /// Look whether the cache has a flow, without being a frame of it.
    Look {
        /// The key under its mask.
        masked: FlowKey,
        /// The snapshot whose mask it is.
        epoch: Epoch,
        /// The flow, if a frame of it would be answered by the cache.
        reply: Sender<Option<FlowRow>>,
    },
    /// List cached flows.
    Flows {
        /// At most so many.
        limit: usize,
        /// They.
        reply: Sender<Vec<FlowRow>>,
    },
}

/// What a worker held of a port.
#[derive(Default)]
pub struct Removed {
    /// Its receive queues.
    pub rx: Vec<OwnedQueue>,
    /// The way to its transmit queue.
    pub tx: Option<SharedTxQueue>,
}

/// A cached flow.
#[derive(Clone, Debug)]
pub struct FlowRow {
    /// Whose cache.
    pub worker: usize,
    /// Where its frames come from.
    pub ingress: PortId,
    /// What they have in common: a key under its mask.
    pub key: FlowKey,
    /// What becomes of them.
    pub verdict: FlowVerdict,
    /// How many the cache answered.
    pub hits: u64,
}

/// What becomes of a flow's frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowVerdict {
    /// They are dropped.
    Drop(DropReason),
    /// They go there.
    Forward(Vec<Destination>),
    /// A router sends them there.
    Routed(Destination),
    /// The switch takes them itself.
    Taken,
}

/// A list of flows in the making.
struct Listing {
    rows: Vec<FlowRow>,
    next: usize,
    limit: usize,
    reply: Sender<Vec<FlowRow>>,
}

/// The way round the cache, crediting rules with what entries counted.
#[derive(Default)]
struct Settling {
    next: usize,
    /// When the next part is due.
    due_ns: u64,
    /// Somebody waits until all entries are settled, of which so many are left.
    asked: Option<(usize, Sender<()>)>,
}

/// What a worker's thread is made of.
pub(crate) struct Runner {
    pub(crate) worker: Worker,
    pub(crate) core: usize,
    pub(crate) inbox: Receiver<Command>,
    pub(crate) wake: Arc<OwnedFd>,
    pub(crate) max_sleep_us: Option<u32>,
}

impl Runner {
    /// Runs until control closes the channel. The queues that are left are freed at the end.
    pub(crate) fn run(mut self) {
        if !core_affinity::set_for_current(core_affinity::CoreId { id: self.core }) {
            tracing::warn!(
                core = self.core,
                "the worker could not be pinned to its core"
            );
        }
        let mut sleeper = Sleeper::new(self.max_sleep_us);
        let mut listing = None;
        let mut settling = Settling::default();
        loop {
            let frames = self.worker.turn();
            match self.inbox.try_recv() {
                Ok(command) => self.answer(command, &mut listing, &mut settling),
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty)
                    if frames == 0 && listing.is_none() && settling.asked.is_none() =>
                {
                    let worker = &mut self.worker;
                    sleeper.rest(&mut worker.intake, &self.wake, &worker.counters);
                    continue;
                }
                Err(TryRecvError::Empty) => {}
            }
            sleeper.reset();
            self.go_on(&mut listing);
            self.settle(&mut settling);
        }
    }

    /// A reply that nobody waits for any more is dropped: control has given up on it.
    fn answer(&mut self, command: Command, listing: &mut Option<Listing>, settling: &mut Settling) {
        let worker = &mut self.worker;
        match command {
            Command::AddRx { queue, reply } => {
                worker.intake.add(queue);
                let _ = reply.send(());
            }
            Command::AddTx { port, queue, reply } => {
                let _ = reply.send(worker.outbox.attach(port, queue));
            }
            Command::TakeRx {
                port,
                number,
                reply,
            } => {
                let taken = worker
                    .intake
                    .remove(|q| q.port == port && q.number == number)
                    .pop();
                let _ = reply.send(taken);
            }
            Command::Remove { port, reply } => {
                for _ in 0..DRAIN_TURNS {
                    if worker.turn() == 0 {
                        break;
                    }
                }
                let rx = worker.intake.remove(|queue| queue.port == port);
                let _ = reply.send(Removed {
                    rx,
                    tx: worker.outbox.attach(port, None),
                });
            }
            Command::Forget { port, reply } => {
                worker.slow_path.ledger.forget(port);
                let _ = reply.send(());
            }
            Command::Settle { reply } => {
                settling.asked = Some((worker.cache.capacity(), reply));
            }
            Command::Look {
                masked,
                epoch,
                reply,
            } => {
                let entry = worker.cached(&masked, epoch);
                let _ = reply.send(entry.map(|entry| worker.row(entry)));
            }
            Command::Flows { limit, reply } => {
                *listing = Some(Listing {
                    rows: Vec::with_capacity(limit),
                    next: 0,
                    limit,
                    reply,
                });
            }
        }
    }

    /// A part of the way round the cache, if it is due or asked for.
    fn settle(&mut self, settling: &mut Settling) {
        let worker = &mut self.worker;
        let (capacity, now_ns) = (worker.cache.capacity(), worker.counters.running_ns.get());
        let count = match &settling.asked {
            Some(_) => SLICE,
            None if now_ns >= settling.due_ns => SETTLED_A_TURN,
            None => return,
        };
        settling.due_ns = now_ns + SETTLED_WITHIN_NS * count as u64 / capacity as u64;
        let rules = &worker.slow_path.rules;
        let at_s = (worker.busy_ns / 1_000_000_000) as u32;
        worker.cache.settle(settling.next, count, rules, at_s);
        settling.next = if settling.next + count < capacity {
            settling.next + count
        } else {
            0
        };
        if let Some((left, reply)) = settling.asked.take() {
            match left.checked_sub(count) {
                Some(left) if left > 0 => settling.asked = Some((left, reply)),
                _ => {
                    let _ = reply.send(());
                }
            }
        }
    }

    /// One slice of a listing.
    fn go_on(&mut self, listing: &mut Option<Listing>) {
        let Some(open) = listing else { return };
        let rows = self.worker.flows(open.next, SLICE);
        open.rows.extend(rows.take(open.limit - open.rows.len()));
        open.next += SLICE;
        if (open.next >= self.worker.cache.capacity() || open.rows.len() == open.limit)
            && let Some(Listing { rows, reply, .. }) = listing.take()
        {
            let _ = reply.send(rows);
        }
    }
}

impl Worker {
    /// The flows that stand, among so many cache entries from the one numbered `from`.
    fn flows(&self, from: usize, count: usize) -> impl Iterator<Item = FlowRow> {
        self.live_entries(from, count).map(|entry| self.row(entry))
    }

    fn row(&self, entry: &Entry) -> FlowRow {
        FlowRow {
            worker: self.id,
            ingress: entry.key.ingress(),
            key: entry.key,
            verdict: self.describe(entry),
            hits: entry.hits,
        }
    }

    fn describe(&self, entry: &Entry) -> FlowVerdict {
        match entry.verdict {
            Verdict::Drop(denied) => FlowVerdict::Drop(denied.reason),
            Verdict::Unicast(destination) => FlowVerdict::Forward(vec![destination]),
            Verdict::Routed(destination, _) => FlowVerdict::Routed(destination),
            Verdict::Taken(_) => FlowVerdict::Taken,
            Verdict::Flood(_, list) => {
                FlowVerdict::Forward(self.slow_path.lists.get(list).to_vec())
            }
        }
    }
}
