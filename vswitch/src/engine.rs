//! The workers and what they share, as control sees them.
//!
//! In: snapshots, open ports, questions. Out: workers that forward, counters, answers. What must
//! hold:
//! - a method that changes something returns when every worker has acknowledged the change;
//! - what a worker gives up (queues, a replaced bundle) is freed here, never on the worker;
//! - a port's counts outlive its being detached, and end with its leaving the snapshot.

mod threads;
mod view;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam::channel::{Sender, bounded};
use parking_lot::Mutex;
use pmd::{Clock, PortInfo, RxQueue, TxQueue};
use policy::{
    NetworkId, PortId,
    conntrack::{Connections, Row},
    snapshot::Snapshot,
};

use crate::{
    counters::PortCounts,
    desk::Order,
    drop_watch::Watches,
    intake::OwnedQueue,
    meter::Meters,
    mirroring::Mirrors,
    outbox::SharedTxQueue,
    published::{Bundle, PortShared, Shared},
    runner::{Command, Removed},
    services::plan::Plan,
    worker::Worker,
};
use threads::{
    WorkerHandle, secret, start_desk, start_housekeeper, start_log_writer, start_worker,
};

pub use crate::runner::{FlowRow, FlowVerdict};
pub use view::{DropRow, MOST_FLOWS, Outlook, QueueRow, RuleHits};

/// How long control waits for a worker.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the workers run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One worker for each, pinned to that core.
    pub cores: Vec<usize>,
    /// Never sleep.
    pub busy_poll: bool,
    /// Longest of the progressive sleeps, microseconds; then the worker blocks.
    pub max_sleep_us: u32,
    /// Entries of each worker's flow cache, at least.
    pub flow_cache_entries: usize,
    /// Most connections at once, of all workers.
    pub connections_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cores: vec![0],
            busy_poll: false,
            max_sleep_us: 50,
            flow_cache_entries: 1 << 16,
            connections_max: 1 << 12,
        }
    }
}

/// What can go wrong with the workers.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A worker does not answer.
    #[error(
        "worker {worker} has not answered for {} s: it is stuck, or its thread ended; \
         restart the switch",
        PATIENCE.as_secs()
    )]
    WorkerSilent {
        /// Its number.
        worker: usize,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The system refused something.
    #[error("{step}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// The queues of an open port, on their way to the workers.
pub struct PortQueues {
    /// What the driver obtained.
    pub info: PortInfo,
    /// Receive queues.
    pub rx: Vec<Box<dyn RxQueue>>,
    /// Transmit queues.
    pub tx: Vec<Box<dyn TxQueue>>,
}

impl std::fmt::Debug for PortQueues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PortQueues({} rx, {} tx)", self.rx.len(), self.tx.len())
    }
}

struct PortRecord {
    shared: Arc<PortShared>,
    /// The worker of each receive queue; empty while detached.
    placement: Vec<usize>,
}

#[derive(Default)]
struct State {
    ports: HashMap<PortId, PortRecord>,
    /// What ports counted that are no more.
    retired: PortCounts,
}

/// The workers. Every method may be called from any thread.
pub struct Engine {
    shared: Arc<Shared>,
    workers: Vec<WorkerHandle>,
    state: Mutex<State>,
    listing: Mutex<()>,
    watches: Watches,
    housekeeper: Option<Helper>,
    log_writer: Option<Helper>,
    desk: Option<(Sender<Order>, JoinHandle<()>)>,
}

/// A thread that is no worker's, and what ends it.
type Helper = (Sender<()>, JoinHandle<()>);

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({} workers)", self.workers.len())
    }
}

impl Engine {
    /// Starts the workers, without ports and under an empty snapshot.
    ///
    /// # Errors
    ///
    /// When there is no core, or the system refuses a thread.
    pub fn start(settings: &Settings) -> Result<Self, EngineError> {
        if settings.cores.is_empty() {
            return Err(EngineError::Invalid(
                "no worker: name at least one core".into(),
            ));
        }
        let [a, b, c, d, e, f, ..] = secret()?;
        let connections = Connections::new(settings.connections_max, [a, b, c, d, e, f]);
        let shared = Arc::new(Shared::new(Clock::calibrate(), connections));
        let secret = secret()?;
        let (mut taps, mut logs, mut handoffs) = (Vec::new(), Vec::new(), Vec::new());
        let workers = settings
            .cores
            .iter()
            .enumerate()
            .map(|(id, core)| {
                let entries = settings.flow_cache_entries;
                let worker = Worker::new(id, Arc::clone(&shared), entries, secret);
                taps.push(worker.taps());
                logs.push(Arc::clone(&worker.log));
                handoffs.push(Arc::clone(&worker.handoff));
                start_worker(worker, *core, settings)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let housekeeper = start_housekeeper(Arc::clone(&shared))?;
        let log_writer = start_log_writer(Arc::clone(&shared), logs)?;
        let wakes = workers.iter().map(|worker| Arc::clone(&worker.wake));
        let counterparts = handoffs.into_iter().zip(wakes);
        let desk = start_desk(Arc::clone(&shared), counterparts, secret[0])?;
        Ok(Self {
            shared,
            workers,
            state: Mutex::default(),
            listing: Mutex::default(),
            watches: Watches::new(taps),
            housekeeper: Some(housekeeper),
            log_writer: Some(log_writer),
            desk: Some(desk),
        })
    }

    /// Puts a snapshot in force, and the mirror sessions that go with it. When it returns, no worker
    /// uses a verdict from an older one.
    ///
    /// # Errors
    ///
    /// When its rules have too many limits, and nothing changed; when a worker does not
    /// acknowledge, and the snapshot is in force for those that do.
    pub fn publish(&self, snapshot: Snapshot, mirrors: Arc<Mirrors>) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let former = self.shared.current.load();
        let meters = Meters::after(&former.meters, &snapshot);
        let meters = meters.map_err(|error| EngineError::Invalid(error.to_string()))?;
        let workers = self.workers.len();
        for port in snapshot.ports() {
            state.ports.entry(port.id).or_insert_with(|| PortRecord {
                shared: Arc::new(PortShared::new(workers)),
                placement: Vec::new(),
            });
        }
        let gone = state
            .ports
            .extract_if(|id, record| snapshot.port(*id).is_none() && record.placement.is_empty());
        let gone: Vec<_> = gone.collect();
        self.shared.bridge.configure(&snapshot);
        let ports = (0..=state.ports.keys().map(|id| id.0).max().unwrap_or(0))
            .map(|id| Some(Arc::clone(&state.ports.get(&PortId(id))?.shared)))
            .collect();
        let bundle = Arc::new(Bundle {
            snapshot: Arc::new(snapshot),
            ports,
            meters: Arc::new(meters),
            mirrors,
            revision: former.revision + 1,
        });
        drop(former);
        self.put_in_force(&bundle)?;
        // What workers learned under the former snapshot since the tables were configured.
        self.shared.bridge.configure(&bundle.snapshot);
        for (id, record) in gone {
            // Only now does no worker count there any more.
            let counters = &record.shared.counters;
            counters
                .iter()
                .for_each(|counters| state.retired.add(counters));
            self.forget(id)?;
        }
        Ok(())
    }

    /// Puts mirror sessions in force, and leaves all else as it is: no cached verdict is void. When
    /// it returns, no worker copies anything for a session that is not among them.
    ///
    /// # Errors
    ///
    /// When a worker does not acknowledge, and the sessions are in force for those that do.
    pub fn publish_mirrors(&self, mirrors: Arc<Mirrors>) -> Result<(), EngineError> {
        let _state = self.state.lock();
        let former = self.shared.current.load_full();
        let bundle = Arc::new(Bundle {
            snapshot: Arc::clone(&former.snapshot),
            ports: former.ports.clone(),
            meters: Arc::clone(&former.meters),
            mirrors,
            revision: former.revision + 1,
        });
        self.put_in_force(&bundle)
    }

    fn put_in_force(&self, bundle: &Arc<Bundle>) -> Result<(), EngineError> {
        let former = self.shared.current.swap(Arc::clone(bundle));
        self.wait_for(bundle.revision)?;
        drop(former);
        Ok(())
    }

    fn wait_for(&self, revision: u64) -> Result<(), EngineError> {
        let deadline = Instant::now() + PATIENCE;
        self.workers.iter().for_each(WorkerHandle::wake);
        for (id, worker) in self.workers.iter().enumerate() {
            while worker.acknowledged.revision() < revision {
                if Instant::now() > deadline {
                    return Err(EngineError::WorkerSilent { worker: id });
                }
                std::thread::sleep(Duration::from_micros(20));
            }
        }
        Ok(())
    }

    /// Hands a port's queues to the workers. `placement` names the worker of each receive queue;
    /// queues beyond it go to the workers that have fewest.
    ///
    /// # Errors
    ///
    /// When the port is not in the snapshot in force, is attached already, or `placement` names
    /// no worker.
    pub fn attach(
        &self,
        id: PortId,
        queues: PortQueues,
        placement: &[usize],
    ) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        if let Some(worker) = placement
            .iter()
            .find(|worker| **worker >= self.workers.len())
        {
            return Err(EngineError::Invalid(format!(
                "worker {worker} does not exist: there are workers 0 to {}",
                self.workers.len() - 1
            )));
        }
        let mut load = self.load(&state);
        let record = state
            .ports
            .get_mut(&id)
            .ok_or_else(|| EngineError::Invalid("the port has no policy in force".into()))?;
        if !record.placement.is_empty() {
            return Err(EngineError::Invalid("the port is attached already".into()));
        }
        let tx: Vec<SharedTxQueue> = queues
            .tx
            .into_iter()
            .map(|queue| Arc::new(Mutex::new(queue)))
            .collect();
        for worker in 0..self.workers.len() {
            let queue = tx.get(worker % tx.len().max(1)).cloned();
            self.call(worker, |reply| Command::AddTx {
                port: id,
                queue,
                reply,
            })?;
        }
        for (number, queue) in queues.rx.into_iter().enumerate() {
            let worker = placement
                .get(number)
                .copied()
                .unwrap_or_else(|| least(&load));
            load[worker] += 1;
            record.placement.push(worker);
            let queue = OwnedQueue {
                queue,
                port: id,
                number,
                unmarked_partial_checksums: queues.info.unmarked_partial_checksums,
                most_frames: pmd::BURST,
            };
            self.call(worker, |reply| Command::AddRx { queue, reply })?;
        }
        Ok(())
    }

    fn load(&self, state: &State) -> Vec<usize> {
        let mut load = vec![0; self.workers.len()];
        state
            .ports
            .values()
            .flat_map(|record| &record.placement)
            .for_each(|w| load[*w] += 1);
        load
    }

    /// Takes a port's queues away from the workers and closes them. Addresses learned there are
    /// forgotten.
    ///
    /// # Errors
    ///
    /// When a worker does not answer: its queues then stay open.
    pub fn detach(&self, id: PortId) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(record) = state.ports.get_mut(&id) else {
            return Ok(());
        };
        let mut removed: Vec<Removed> = Vec::new();
        for worker in 0..self.workers.len() {
            removed.push(self.call(worker, |reply| Command::Remove { port: id, reply })?);
        }
        drop(removed);
        record.placement.clear();
        self.shared.bridge.forget_port(id);
        if self.shared.current.load().snapshot.port(id).is_none() {
            record
                .shared
                .counters
                .iter()
                .for_each(|counters| state.retired.add(counters));
            state.ports.remove(&id);
            self.forget(id)?;
        }
        Ok(())
    }

    /// Forgets the addresses learned at a port that has gone down, so that frames to them are
    /// flooded rather than lost.
    pub fn forget_addresses(&self, id: PortId) {
        self.shared.bridge.forget_port(id);
    }

    /// Ports that a spanning tree frame has disabled, and for how many seconds.
    pub fn disabled_ports(&self) -> Vec<(PortId, u32)> {
        let bundle = self.shared.current.load();
        let (guards, now_s) = (self.shared.bridge.guards(), self.now_s());
        let ports = bundle.snapshot.ports().map(|port| port.id);
        ports
            .filter_map(|id| Some((id, now_s.saturating_sub(guards.disabled_s(id)?))))
            .collect()
    }

    /// Enables a port that a spanning tree frame has disabled. False when none had.
    pub fn enable(&self, id: PortId) -> bool {
        let bundle = self.shared.current.load();
        let port = bundle.snapshot.port(id);
        port.is_some_and(|port| self.shared.bridge.enable(port))
    }

    /// From now on the services are these.
    pub fn serve(&self, plan: Plan) {
        self.order(Order::Follow(plan));
    }

    /// Asks a network who has an address, unless that was asked just now.
    pub fn seek(&self, network: NetworkId, address: IpAddr) {
        self.order(Order::Seek(network, address));
    }

    /// A port works now: who is behind it is announced.
    pub fn appeared(&self, id: PortId) {
        self.order(Order::Appeared(id));
    }

    /// A port does not work, or not any more: nobody is answered for who is behind it.
    pub fn disappeared(&self, id: PortId) {
        self.order(Order::Disappeared(id));
    }

    fn order(&self, order: Order) {
        if let Some((orders, desk)) = &self.desk {
            // One that ended by a panic takes no orders any more; its end was logged.
            let _ = orders.send(order);
            desk.thread().unpark();
        }
    }

    fn forget(&self, id: PortId) -> Result<(), EngineError> {
        // Its number may be another port's next.
        self.shared.bridge.retire(id);
        let of_port = |row: &Row| row.owner == id || row.ingress == id;
        self.shared.connections.flush(of_port);
        for worker in 0..self.workers.len() {
            self.call(worker, |reply| Command::Forget { port: id, reply })?;
        }
        Ok(())
    }

    /// Gives a receive queue to another worker. Frames in it wait meanwhile.
    ///
    /// # Errors
    ///
    /// When there is no such port, queue or worker.
    pub fn assign(&self, id: PortId, queue: usize, worker: usize) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        if worker >= self.workers.len() {
            return Err(EngineError::Invalid(format!(
                "worker {worker} does not exist: there are workers 0 to {}",
                self.workers.len() - 1
            )));
        }
        let owner = state
            .ports
            .get_mut(&id)
            .and_then(|record| record.placement.get_mut(queue))
            .ok_or_else(|| {
                EngineError::Invalid(format!("the port has no receive queue {queue}"))
            })?;
        let taken = self.call(*owner, |reply| Command::TakeRx {
            port: id,
            number: queue,
            reply,
        })?;
        let queue = taken.ok_or_else(|| {
            EngineError::Invalid(format!("worker {owner} does not own the queue any more"))
        })?;
        self.call(worker, |reply| Command::AddRx { queue, reply })?;
        *owner = worker;
        Ok(())
    }

    /// Stops and joins the workers, then closes every queue.
    pub fn stop(self) {
        drop(self);
    }

    /// Has a worker do something between two turns, and waits for its answer.
    fn call<T>(
        &self,
        worker: usize,
        command: impl FnOnce(Sender<T>) -> Command,
    ) -> Result<T, EngineError> {
        let silent = EngineError::WorkerSilent { worker };
        let (reply, answer) = bounded(1);
        let handle = &self.workers[worker];
        if handle
            .commands
            .send_timeout(command(reply), PATIENCE)
            .is_err()
        {
            return Err(silent);
        }
        handle.wake();
        answer.recv_timeout(PATIENCE).map_err(|_| silent)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        end(self.housekeeper.take());
        if let Some((orders, desk)) = self.desk.take() {
            drop(orders);
            desk.thread().unpark();
            if desk.join().is_err() {
                tracing::error!("the services ended by a panic");
            }
        }
        for worker in self.workers.drain(..) {
            // The thread ends when its command channel closes.
            drop(worker.commands);
            let _ = rustix::io::write(&*worker.wake, &1u64.to_ne_bytes());
            if worker.thread.join().is_err() {
                tracing::error!(core = worker.core, "a worker ended by a panic");
            }
        }
        // Behind the workers, so that it writes what they left last.
        end(self.log_writer.take());
    }
}

fn end(helper: Option<Helper>) {
    if let Some((stop, thread)) = helper {
        drop(stop);
        // One that panicked has nothing left to end.
        let _ = thread.join();
    }
}

fn least(load: &[usize]) -> usize {
    load.iter()
        .enumerate()
        .min_by_key(|(_, queues)| **queues)
        .map_or(0, |(worker, _)| worker)
}
