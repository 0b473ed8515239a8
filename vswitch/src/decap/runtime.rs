//! The decapsulator's threads and tables, as control holds them.
//!
//! In: a checked configuration, and later ones. Out: running threads. What must hold: a change is made
//! whole or not at all; when it is made, it is in force (see [`Runtime::apply`]).

use std::{
    collections::HashMap, io::Read, os::fd::OwnedFd, sync::Arc, thread::JoinHandle, time::Duration,
};

use crossbeam::channel::{Sender as Channel, bounded};
use mirror::decap::{
    Decapsulator, Options, Reception, Sniffer, SnifferId, Table, TableError, UnknownSession,
};
use parking_lot::Mutex;
use pmd::{Clock, OpenError, memory};
use rustix::event::{EventfdFlags, eventfd};

use super::{
    attachment::{Attachment, Opener, State as PortState},
    counts::{OwnCounters, SessionLosses, SnifferCounters},
    files::FileSink,
    host::Host,
    meta::META_BYTES,
    receiver::{self, Lane, Receiver, epoch_ns},
    sender::{self, Sender},
    sink::{PortSink, Sink},
    stream::StreamSink,
};
use crate::{
    config::decapsulator::{self as config, Decapsulator as Config},
    counters::WorkerCounters,
    intake::{Intake, OwnedQueue},
};

/// How long a thread may take to answer: far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the tunnel port's queues are known by in the receiving thread's intake.
const TUNNEL: policy::PortId = policy::PortId(0);

/// Why a decapsulator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port that cannot work as it stands.
    #[error("{owner}'s port cannot be opened: {source}")]
    Open {
        /// Whose.
        owner: String,
        /// Why.
        source: OpenError,
    },
    /// The system refused a step.
    #[error("the decapsulator cannot start {step}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Why a change is not made.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// What only a new process can have.
    #[error("{0} cannot be changed while the decapsulator runs; restart it")]
    Restart(&'static str),
    /// The table contradicts itself.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A new sniffer's thread or port.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The change is made, but somebody has not said so.
    #[error("{0} does not answer; the change is in force for the others")]
    Silent(String),
}

/// A running decapsulator. Dropping it ends its threads.
pub struct Runtime {
    state: Mutex<State>,
    opener: Arc<Opener>,
    pub(super) clock: Clock,
    pub(super) counters: Arc<mirror::decap::Counters>,
    pub(super) receiver: Arc<WorkerCounters>,
    pub(super) own: Arc<OwnCounters>,
    pub(super) losses: Arc<SessionLosses>,
    pub(super) port: PortState,
}

/// What changes.
struct State {
    config: Arc<Config>,
    table: Arc<Table>,
    receiver: Thread<receiver::Order>,
    sniffers: HashMap<Arc<str>, Running>,
    retired: Retired,
}

/// What sniffers that are gone were offered, and got.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Retired {
    pub(super) offered: u64,
    pub(super) sent: u64,
}

/// A thread, and how control speaks with it.
struct Thread<Order> {
    name: String,
    /// `None` only while it is being ended.
    orders: Option<Channel<Order>>,
    wake: Arc<OwnedFd>,
    handle: Option<JoinHandle<()>>,
}

impl<Order> Thread<Order> {
    fn wake(&self) {
        // A full counter is readable already, which is all that is wanted.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }

    fn order(&self, order: Order) -> Result<(), ApplyError> {
        let silent = || ApplyError::Silent(self.name.clone());
        let orders = self.orders.as_ref().ok_or_else(silent)?;
        orders.send_timeout(order, PATIENCE).map_err(|_| silent())?;
        self.wake();
        Ok(())
    }

    /// Asks for something and waits for the answer.
    fn ask<T>(&self, order: impl FnOnce(Channel<T>) -> Order) -> Result<T, ApplyError> {
        let (reply, answer) = bounded(1);
        self.order(order(reply))?;
        let answer = answer.recv_timeout(PATIENCE);
        answer.map_err(|_| ApplyError::Silent(self.name.clone()))
    }
}

impl<Order> Drop for Thread<Order> {
    fn drop(&mut self) {
        self.orders = None;
        self.wake();
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            tracing::error!("{} ended by a panic", self.name);
        }
    }
}

/// A sniffer with its thread.
struct Running {
    id: SnifferId,
    config: config::Sniffer,
    thread: Thread<sender::Order>,
    counters: Arc<SnifferCounters>,
    state: PortState,
}

/// A sniffer, as people are shown it.
pub(super) struct SnifferView {
    pub(super) config: config::Sniffer,
    pub(super) counters: Arc<SnifferCounters>,
    pub(super) state: PortState,
}

impl Runtime {
    /// Opens the ports and starts the threads. A port whose interface is missing is opened when it
    /// appears.
    ///
    /// # Errors
    ///
    /// A port that cannot work as it stands, or what the system refuses.
    pub fn start(config: Config, opener: Arc<Opener>) -> Result<Self, ApplyError> {
        let clock = Clock::calibrate();
        let mut intake = Intake::default();
        let port = Attachment::open(
            "decapsulator",
            &config.port,
            &opener,
            (TUNNEL, false),
            &mut intake,
        );
        let port = port.map_err(|source| StartError::Open {
            owner: "the decapsulator".into(),
            source,
        })?;
        let options = Options {
            secret: secret()?,
            ..config.options
        };
        let decap = Decapsulator::new(&options);
        let (table, counters) = (Arc::clone(decap.table()), Arc::clone(decap.counters()));
        let receiver = Receiver::new(intake, port, decap, host(&config), clock);
        let (busy, own) = (Arc::clone(&receiver.counters), Arc::clone(&receiver.own));
        let losses = Arc::clone(&receiver.losses);
        let state = receiver.port.state();
        let (core, max_sleep_us) = (config.core, config.max_sleep_us);
        let thread = start("decapsulator", core, move |inbox, wake| {
            receiver.run(&inbox, &wake, max_sleep_us);
        })?;
        let empty = Config {
            sessions: Vec::new(),
            sniffers: Vec::new(),
            ..config.clone()
        };
        let runtime = Self {
            state: Mutex::new(State {
                config: Arc::new(empty),
                table,
                receiver: thread,
                sniffers: HashMap::new(),
                retired: Retired::default(),
            }),
            opener,
            clock,
            counters,
            receiver: busy,
            own,
            losses,
            port: state,
        };
        runtime.apply(config)?;
        Ok(runtime)
    }

    /// Puts another configuration in force. When it returns without an error, no frame goes to the
    /// former owner of a session, and none that waited will.
    ///
    /// # Errors
    ///
    /// What needs a restart, a table that contradicts itself, a sniffer that cannot be started: then
    /// nothing was changed. A thread that does not answer: then the change is in force for the others.
    pub fn apply(&self, config: Config) -> Result<(), ApplyError> {
        let mut state = self.state.lock();
        let state = &mut *state;
        restarts(&state.config, &config)?;
        // A sniffer that is another now is ended, and another begins.
        let stays = |wanted: &config::Sniffer, running: &Running| {
            let before = &running.config;
            config::Sniffer {
                mac: before.mac,
                ..wanted.clone()
            } == *before
        };
        let mut ids = HashMap::new();
        let mut free = (0..=u16::MAX).filter(|id| state.sniffers.values().all(|s| s.id.0 != *id));
        let mut newcomers = Vec::new();
        for wanted in &config.sniffers {
            let running = state.sniffers.get(&wanted.name);
            let running = running.filter(|running| stays(wanted, running));
            let id = running.map_or_else(
                || {
                    let id = SnifferId(free.next().unwrap_or(u16::MAX));
                    newcomers.push((id, wanted));
                    id
                },
                |running| running.id,
            );
            ids.insert(Arc::clone(&wanted.name), id);
        }
        let table = Arc::new(
            state
                .table
                .next(&receptions(&config, &ids), &sniffers(&config, &ids))?,
        );
        drop(free);
        let gone: Vec<Arc<str>> = state
            .sniffers
            .iter()
            .filter(|(name, running)| ids.get(*name) != Some(&running.id))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        let mut started = Vec::new();
        for (id, wanted) in newcomers {
            started.push(self.start_sniffer(id, wanted, &config)?);
        }

        let mut former = Vec::new();
        for name in gone {
            former.extend(state.sniffers.remove(&name));
        }
        for (running, lane) in started {
            let order = receiver::Order::Attach(running.id, lane);
            state.receiver.order(order)?;
            state
                .sniffers
                .insert(Arc::clone(&running.config.name), running);
        }
        for wanted in &config.sniffers {
            if let Some(running) = state.sniffers.get_mut(&wanted.name) {
                running.config = wanted.clone();
            }
        }
        state.receiver.order(receiver::Order::Host(host(&config)))?;
        let adopt = |reply| receiver::Order::Adopt(Arc::clone(&table), reply);
        state.receiver.ask(adopt)?;
        state.table = Arc::clone(&table);
        state.config = Arc::new(config);
        for running in &former {
            state.receiver.order(receiver::Order::Detach(running.id))?;
        }
        for running in former {
            let counters = Arc::clone(&running.counters);
            // Ended, and what waited with it.
            drop(running);
            // The receiving thread has let go of the lane: it answers in order.
            let _ = state.receiver.ask(receiver::Order::Unknown)?;
            state.retired.offered += counters.offered.frames.get();
            state.retired.sent += counters.sent.frames.get();
        }
        let mut silent = None;
        for running in state.sniffers.values() {
            let adopt = |reply| sender::Order::Adopt(Arc::clone(&table), reply);
            silent = running.thread.ask(adopt).err().or(silent);
        }
        silent.map_or(Ok(()), Err)
    }

    fn start_sniffer(
        &self,
        id: SnifferId,
        wanted: &config::Sniffer,
        config: &Config,
    ) -> Result<(Running, Box<Lane>), StartError> {
        let pair = memory::pair(memory::Config {
            slots: wanted.queue_frames,
            max_frame_bytes: wanted.max_frame_bytes + META_BYTES,
            ..memory::Config::default()
        });
        let open = |source| StartError::Open {
            owner: format!("sniffer \"{}\"", wanted.name),
            source,
        };
        let (near, far) = pair.map_err(open)?;
        let mut intake = Intake::default();
        for queue in far.rx {
            intake.add(OwnedQueue {
                queue,
                port: sender::QUEUE,
                number: 0,
                unmarked_partial_checksums: false,
                most_frames: pmd::BURST,
            });
        }
        let (name, mac, longest) = (&wanted.name, wanted.mac, wanted.max_frame_bytes);
        let counters = Arc::new(SnifferCounters::default());
        let (own, shape) = (
            (Arc::clone(&counters), Arc::clone(&self.losses)),
            (mac, longest),
        );
        let sink = match &wanted.sink {
            config::Sink::Port(driver) => {
                // Its interface may still be a former sniffer's.
                let id = (sender::PORT, true);
                let port = Attachment::open(name, driver, &self.opener, id, &mut intake);
                Sink::Port(Box::new(PortSink::new(port.map_err(open)?, mac)))
            }
            config::Sink::Files(files) => {
                let now_ns = epoch_ns(&self.clock).wrapping_add(self.now_ns());
                let files = FileSink::new(files, name, shape, own.0, now_ns);
                Sink::Files(Box::new(files))
            }
            config::Sink::Stream(path) => {
                Sink::Stream(Box::new(StreamSink::new(path, name, shape, own)))
            }
        };
        let state = sink.state();
        let shared = (Arc::clone(&counters), Arc::clone(&self.losses));
        let sender = Sender::new(id, intake, sink, shared, self.clock);
        let max_sleep_us = config.max_sleep_us;
        let thread = start(&format!("sniffer-{name}"), None, move |inbox, wake| {
            sender.run(&inbox, &wake, max_sleep_us);
        })?;
        let queue = near.tx.into_iter().next();
        let queue = queue.ok_or_else(|| open(OpenError::Unsupported("no queue".into())))?;
        let queue = (queue, longest + META_BYTES);
        let lane = Lane::new(queue, Arc::clone(&counters), Arc::clone(&self.losses));
        let running = Running {
            id,
            config: wanted.clone(),
            thread,
            counters,
            state,
        };
        Ok((running, Box::new(lane)))
    }

    /// What the clock of counters says, in nanoseconds.
    pub(super) fn now_ns(&self) -> u64 {
        self.clock.ns_at(pmd::clock::cycles())
    }

    /// Whether a configuration could be put in force.
    ///
    /// # Errors
    ///
    /// What needs a restart, or a table that contradicts itself.
    pub fn check(&self, config: &Config) -> Result<(), ApplyError> {
        let state = self.state.lock();
        restarts(&state.config, config)?;
        let names = config.sniffers.iter().enumerate();
        let ids = names.map(|(id, sniffer)| (Arc::clone(&sniffer.name), SnifferId(id as u16)));
        let ids = ids.collect();
        state
            .table
            .next(&receptions(config, &ids), &sniffers(config, &ids))?;
        Ok(())
    }

    /// The configuration and the table in force.
    pub(super) fn in_force(&self) -> (Arc<Config>, Arc<Table>) {
        let state = self.state.lock();
        (Arc::clone(&state.config), Arc::clone(&state.table))
    }

    pub(super) fn retired(&self) -> Retired {
        self.state.lock().retired
    }

    /// The sniffers, in the order of the configuration.
    pub(super) fn sniffer_views(&self) -> Vec<SnifferView> {
        let state = self.state.lock();
        let running = state.config.sniffers.iter();
        let running = running.filter_map(|sniffer| state.sniffers.get(&sniffer.name));
        let views = running.map(|running| SnifferView {
            config: running.config.clone(),
            counters: Arc::clone(&running.counters),
            state: Arc::clone(&running.state),
        });
        views.collect()
    }

    /// Sessions that are sent and not known.
    ///
    /// # Errors
    ///
    /// When the receiving thread does not answer.
    pub fn unknown(&self) -> Result<Vec<UnknownSession>, ApplyError> {
        self.state.lock().receiver.ask(receiver::Order::Unknown)
    }
}

/// A receiving thread's work without the thread, and the far ends of its sniffers' queues in the order
/// of the configuration: for a program that turns it itself. What comes out of a queue has
/// [`META_BYTES`] before each frame.
///
/// # Errors
///
/// As [`Runtime::start`].
pub fn without_threads(
    config: &Config,
    opener: &Arc<Opener>,
) -> Result<(Receiver, Vec<pmd::Port>), ApplyError> {
    let open = |source| StartError::Open {
        owner: "the decapsulator".into(),
        source,
    };
    let mut intake = Intake::default();
    let id = (TUNNEL, false);
    let port = Attachment::open("decapsulator", &config.port, opener, id, &mut intake);
    let options = Options {
        secret: secret()?,
        ..config.options
    };
    let decap = Decapsulator::new(&options);
    let before = Arc::clone(decap.table());
    let clock = Clock::calibrate();
    let mut receiver = Receiver::new(intake, port.map_err(open)?, decap, host(config), clock);
    let (mut ids, mut ends) = (HashMap::new(), Vec::new());
    for (number, sniffer) in config.sniffers.iter().enumerate() {
        let pair = memory::pair(memory::Config {
            slots: sniffer.queue_frames,
            max_frame_bytes: sniffer.max_frame_bytes + META_BYTES,
            ..memory::Config::default()
        });
        let (near, far) = pair.map_err(open)?;
        let id = SnifferId(number as u16);
        for queue in near.tx {
            let queue = (queue, sniffer.max_frame_bytes + META_BYTES);
            let lane = Lane::new(queue, Arc::default(), Arc::clone(&receiver.losses));
            receiver.obey(receiver::Order::Attach(id, Box::new(lane)));
        }
        ids.insert(Arc::clone(&sniffer.name), id);
        ends.push(far);
    }
    let table = before.next(&receptions(config, &ids), &sniffers(config, &ids))?;
    let (reply, _answer) = bounded(1);
    receiver.obey(receiver::Order::Adopt(Arc::new(table), reply));
    Ok((receiver, ends))
}

fn host(config: &Config) -> Host {
    Host {
        addresses: config.addresses.clone(),
        mac: config.mac.unwrap_or_default(),
    }
}

/// What cannot be changed on the run.
fn restarts(before: &Config, after: &Config) -> Result<(), ApplyError> {
    let changes = [
        ("the port of [decapsulator]", before.port != after.port),
        ("core of [decapsulator]", before.core != after.core),
        (
            "max_sessions, reassembly and duplicates of [decapsulator]",
            before.options != after.options,
        ),
    ];
    match changes.iter().find(|(_, changed)| *changed) {
        Some((what, _)) => Err(ApplyError::Restart(what)),
        None => Ok(()),
    }
}

fn receptions(config: &Config, ids: &HashMap<Arc<str>, SnifferId>) -> Vec<Reception> {
    let receptions = config.sessions.iter().map(|session| Reception {
        name: Arc::clone(&session.name),
        tenant: Arc::clone(&session.tenant),
        identity: session.identity,
        sniffers: session
            .sniffers
            .iter()
            .filter_map(|name| ids.get(name).copied())
            .collect(),
        fan_out: session.fan_out,
        once: session.once,
    });
    receptions.collect()
}

fn sniffers(config: &Config, ids: &HashMap<Arc<str>, SnifferId>) -> Vec<Sniffer> {
    let sniffers = config.sniffers.iter().filter_map(|sniffer| {
        Some(Sniffer {
            id: *ids.get(&sniffer.name)?,
            tenant: Arc::clone(&sniffer.tenant),
            mac: sniffer.mac,
        })
    });
    sniffers.collect()
}

/// A number that nobody who sends knows.
fn secret() -> Result<u64, StartError> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| StartError::System {
            step: "random numbers",
            source,
        })?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Starts a thread that takes orders.
fn start<Order: Send + 'static>(
    name: &str,
    core: Option<usize>,
    work: impl FnOnce(crossbeam::channel::Receiver<Order>, Arc<OwnedFd>) + Send + 'static,
) -> Result<Thread<Order>, StartError> {
    let refused = |step| move |source| StartError::System { step, source };
    let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
        .map_err(|e| refused("an event descriptor")(e.into()))?;
    let wake = Arc::new(wake);
    let (orders, inbox) = bounded(16);
    let (name, theirs) = (name.to_owned(), Arc::clone(&wake));
    let label = name.clone();
    let handle = std::thread::Builder::new()
        // Linux shows 15 bytes of it.
        .name(name.chars().take(15).collect())
        .spawn(move || {
            if let Some(id) = core
                && !core_affinity::set_for_current(core_affinity::CoreId { id })
            {
                tracing::warn!(core = id, "{label} could not be pinned to its core");
            }
            work(inbox, theirs);
        })
        .map_err(refused("a thread"))?;
    Ok(Thread {
        name,
        orders: Some(orders),
        wake,
        handle: Some(handle),
    })
}
