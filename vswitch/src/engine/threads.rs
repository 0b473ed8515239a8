//! The threads of an engine: workers, and the housekeeper.
//!
//! In: a worker, or what workers share. Out: a running thread and what control needs to speak
//! with it.

use std::{os::fd::OwnedFd, sync::Arc, thread::JoinHandle, time::Duration};

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use policy::snapshot::Snapshot;
use rustix::event::{EventfdFlags, eventfd};

use super::{EngineError, Settings};
use crate::{
    bridge::Bridge,
    counters::WorkerCounters,
    desk::{Counterpart, Desk, Order},
    drop_ledger::LedgerRows,
    handoff::Handoff,
    published::{Acknowledged, Shared},
    rule_ledger::RuleRows,
    rule_log::{Ring, Writer},
    runner::{Command, Runner},
    worker::Worker,
};

/// A worker's thread, as control holds it.
pub(super) struct WorkerHandle {
    pub(super) core: usize,
    pub(super) commands: Sender<Command>,
    pub(super) wake: Arc<OwnedFd>,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) acknowledged: Arc<Acknowledged>,
    pub(super) ledger: Arc<LedgerRows>,
    pub(super) rules: Arc<RuleRows>,
    pub(super) thread: JoinHandle<()>,
}

impl WorkerHandle {
    pub(super) fn wake(&self) {
        // A full counter is readable already, which is all that is wanted.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

/// Random words that key the flow caches' hash.
pub(super) fn secret() -> Result<[u64; 8], EngineError> {
    let refused = |source| EngineError::System {
        step: "random numbers for the flow cache",
        source,
    };
    let mut bytes = [0; 64];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(refused)?;
    let mut words = [0; 8];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = chunk
            .iter()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    Ok(words)
}

/// Starts a worker's thread.
pub(super) fn start_worker(
    worker: Worker,
    core: usize,
    settings: &Settings,
) -> Result<WorkerHandle, EngineError> {
    let refused = |step| move |source| EngineError::System { step, source };
    let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
        .map_err(|e| refused("a worker's event descriptor")(e.into()))?;
    let wake = Arc::new(wake);
    let (commands, inbox): (Sender<Command>, Receiver<Command>) = bounded(16);
    let (counters, acknowledged) = (
        Arc::clone(&worker.counters),
        Arc::clone(&worker.acknowledged),
    );
    let ledger = worker.slow_path.ledger.rows();
    let rules = worker.slow_path.rules.rows();
    let max_sleep_us = (!settings.busy_poll).then_some(settings.max_sleep_us);
    let runner = Runner {
        worker,
        core,
        inbox,
        wake: Arc::clone(&wake),
        max_sleep_us,
    };
    let thread = std::thread::Builder::new()
        .name(format!("worker-{core}"))
        .spawn(move || runner.run())
        .map_err(refused("a worker's thread"))?;
    Ok(WorkerHandle {
        core,
        commands,
        wake,
        counters,
        acknowledged,
        ledger,
        rules,
        thread,
    })
}

/// How often the log of rules is written.
const LOG_EVERY: Duration = Duration::from_millis(100);

/// Writes what the workers leave of rules with `log`.
pub(super) fn start_log_writer(
    shared: Arc<Shared>,
    rings: Vec<Arc<Ring>>,
) -> Result<(Sender<()>, JoinHandle<()>), EngineError> {
    let (stop, stopped) = bounded::<()>(0);
    let mut writer = Writer::new(rings, shared.clock);
    let thread = std::thread::Builder::new()
        .name("rule-log".into())
        .spawn(move || {
            while stopped
                .recv_timeout(LOG_EVERY)
                .is_err_and(|e| e.is_timeout())
            {
                writer.write(&shared.current.load());
            }
            // What came since, now that no worker leaves any more.
            writer.write(&shared.current.load());
        })
        .map_err(|source| EngineError::System {
            step: "the thread of the log of rules",
            source,
        })?;
    Ok((stop, thread))
}

/// Starts the desk, where the services are.
pub(super) fn start_desk(
    shared: Arc<Shared>,
    workers: impl Iterator<Item = (Arc<Handoff>, Arc<OwnedFd>)>,
    seed: u64,
) -> Result<(Sender<Order>, JoinHandle<()>), EngineError> {
    let (orders, inbox) = unbounded();
    let workers = workers.map(|(handoff, wake)| Counterpart { handoff, wake });
    let desk = Desk::new(shared, workers.collect(), seed);
    let thread = std::thread::Builder::new()
        .name("services".into())
        .spawn(move || desk.run(&inbox))
        .map_err(|source| EngineError::System {
            step: "the thread of the services",
            source,
        })?;
    Ok((orders, thread))
}

/// In how many seconds all connections are looked at once.
const SWEEP_S: u32 = 4;

/// Ages the MAC tables and sweeps a part of the connections, once a second.
pub(super) fn start_housekeeper(
    shared: Arc<Shared>,
) -> Result<(Sender<()>, JoinHandle<()>), EngineError> {
    let (stop, stopped) = bounded::<()>(0);
    let thread = std::thread::Builder::new()
        .name("housekeeper".into())
        .spawn(move || {
            while stopped
                .recv_timeout(Duration::from_secs(1))
                .is_err_and(|e| e.is_timeout())
            {
                let now_ns = shared.clock.ns_at(pmd::clock::cycles());
                let now_s = (now_ns / 1_000_000_000) as u32;
                shared.bridge.age(now_s);
                shared.set_wall_clock();
                let bundle = shared.current.load();
                tell_flaps(&shared.bridge, &bundle.snapshot);
                let timeouts = &bundle.snapshot.connections().timeouts;
                shared.connections.sweep(SWEEP_S, timeouts, now_s);
            }
        })
        .map_err(|source| EngineError::System {
            step: "the housekeeper's thread",
            source,
        })?;
    Ok((stop, thread))
}

/// Logs which addresses moved between ports too often.
fn tell_flaps(bridge: &Bridge, snapshot: &Snapshot) {
    let name = |port| {
        let port = snapshot.port(port);
        port.map_or("(removed)", |port| &*port.name)
    };
    for flap in bridge.take_flaps() {
        let network = snapshot.network(flap.network);
        tracing::warn!(
            network = network.map_or("(removed)", |network| &*network.name),
            mac = %flap.mac,
            held_at = name(flap.port),
            refused_at = name(flap.refused),
            "an address moves between ports too often; it is held for {} s. Look for a loop, or for two machines with one address",
            flap.hold_s
        );
    }
}
