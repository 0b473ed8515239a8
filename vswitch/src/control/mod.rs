//! Control: brings the running switch to the desired state and keeps it there.
//!
//! ```text
//!   text ──config──► Config ──diff──► what to open, publish, attach, detach ──► datapath
//!                                                    ▲
//!   monitors ──supervisor, five times a second───────┘   (a port that is gone is detached,
//!                                                         and attached again when it returns)
//! ```
//!
//! What must hold: a change is applied whole or not at all; no frame passes a port before its
//! policy is in force; a number (port, network) is given again only after the workers forgot its
//! former owner.
//!
//! Two locks, taken in this order: `hands` is held by whoever changes something, which may wait
//! for workers and drivers; `state` is what readers see, and is held for moments only, never
//! while the datapath is asked.

mod apply;
pub mod compare;
mod compile;
mod connections;
pub mod cost;
mod datapath;
pub mod diff;
mod drivers;
pub mod explain;
mod flow_frame;
mod ids;
pub mod lifecycle;
mod mirrors;
mod plan;
mod routes;
mod routing;
mod sets;
mod supervisor;
#[cfg(test)]
pub(crate) mod tests;
mod view;
mod watch;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use parking_lot::{Mutex, RwLock};
use pmd::{Counts, Details, Monitor, OpenError, PortInfo};
use policy::{
    PortId,
    model::Model,
    snapshot::{CompileError, Compiler},
};

pub use apply::Applied;
pub use datapath::Datapath;
pub use drivers::{Drivers, Opener};
pub use mirrors::{Feed, Who};
pub use watch::{DropFeed, WatchRequest};

use crate::{
    api::capture_types::CaptureTotals,
    config::{
        Config, Machine, Problems,
        types::{Attachment, Port},
    },
    decap::hosted::Hosted,
    engine::{EngineError, PortQueues},
    host_routes::{Keeper, Wanted},
};
use ids::{Ids, Rules};

/// Where the running configuration came from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The file's name, as it was given.
    pub file: String,
    /// The text.
    pub text: String,
}

/// Brings the datapath to the desired state and keeps it there.
pub struct Control {
    datapath: Box<dyn Datapath>,
    opener: Box<Opener>,
    machine: Machine,
    /// Beside the workers, of whom it knows nothing.
    decap: Arc<Hosted>,
    started: Instant,
    /// The process is about to end: streams end too.
    stopping: AtomicBool,
    hands: Mutex<Hands>,
    state: RwLock<State>,
}

/// What whoever changes something works with.
#[derive(Default)]
struct Hands {
    ids: Ids,
    /// The rule lists in force.
    made: compile::Made,
    /// The model in force, which single routes are changed in.
    model: Model,
    /// What was changed of routers' routes since the last configuration.
    route_edits: routes::RouteEdits,
    /// What the last change took.
    work: apply::Work,
    /// Compiles what is wanted after what was wanted before.
    compiler: Compiler,
    /// The last epoch that was published.
    epoch: u64,
    mirrors: mirrors::Sessions,
    /// Of every port that is open.
    monitors: HashMap<Arc<str>, Box<dyn Monitor>>,
    /// Of every port that is not.
    retries: HashMap<Arc<str>, supervisor::Retry>,
    /// Who keeps the host's routes, if the configuration wants some.
    routes: Option<Keeper>,
}

/// What readers see.
struct State {
    config: Arc<Config>,
    origin: Arc<Origin>,
    ids: Ids,
    rules: Rules,
    ports: BTreeMap<Arc<str>, PortState>,
    mirrors: Arc<Vec<mirrors::Entry>>,
    captures: Arc<Vec<mirrors::captures::Capture>>,
    /// What captures counted that are over.
    captured: CaptureTotals,
}

/// How a port is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Frames can pass.
    Up,
    /// It is attached, but no frame can pass; the text says why.
    Down(String),
    /// A spanning tree frame has disabled it; the text says what to do.
    Disabled(String),
    /// It is not attached; opening it is tried again and again. The text says why.
    Waiting(String),
}

/// What is known of a port.
#[derive(Clone, Debug)]
struct PortState {
    id: PortId,
    condition: Condition,
    /// Since when it has that condition.
    since: Instant,
    /// What was obtained when it was opened last.
    info: Option<PortInfo>,
    /// The driver's own counters, as they were asked for last.
    counts: Counts,
    /// What else the driver tells, the same way.
    details: Details,
    /// How often it was attached again after it was gone.
    reattached: u64,
}

impl PortState {
    fn new(id: PortId, condition: Condition, info: Option<PortInfo>) -> Self {
        Self {
            id,
            condition,
            since: Instant::now(),
            info,
            counts: Counts::new(),
            details: Details::new(),
            reattached: 0,
        }
    }

    fn set(&mut self, condition: Condition) {
        if self.condition != condition {
            self.condition = condition;
            self.since = Instant::now();
        }
    }
}

/// Why something was not done. Nothing was changed, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The configuration has problems.
    #[error(transparent)]
    Config(#[from] Problems),
    /// It changes what cannot change while the process runs.
    #[error("restart vswitch to change this; nothing was changed:\n  {}", .0.join("\n  "))]
    Restart(Vec<String>),
    /// A port could not be opened.
    #[error("port \"{port}\" could not be opened, so the running configuration stays: {error}")]
    Open {
        /// The port.
        port: String,
        /// What the driver says.
        error: OpenError,
    },
    /// The policy could not be compiled.
    #[error("the policy could not be compiled, so nothing was changed: {0}")]
    Compile(CompileError),
    /// Looking up a vNIC's rules may take longer than the operator allows.
    #[error("{}", too_costly(.0, *.1))]
    TooCostly(crate::api::types::Lookup, u32),
    /// There are more ports or networks than numbers.
    #[error("there are too many ports or networks; nothing was changed")]
    TooMany,
    /// The workers did not follow.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// What was asked for is not there.
    #[error("{message}{}", if .help.is_empty() { String::new() } else { format!("; {}", .help) })]
    NotFound {
        /// What is not there.
        message: String,
        /// The nearest name.
        help: String,
    },
    /// The request cannot be carried out as it stands.
    #[error("{0}")]
    Refused(String),
}

/// Opens the ports of the decapsulator.
fn decap_opener() -> Arc<crate::decap::attachment::Opener> {
    let drivers = Drivers::default();
    Arc::new(move |name: &str, driver: &_| drivers.open_driver(name, driver))
}

fn too_costly(row: &crate::api::types::Lookup, most: u32) -> String {
    format!(
        "vNIC \"{}\": looking up its rules ({}, {} of them) may take {} operations for one frame, and max_lookup_cost of [policy] allows {most}; nothing was changed. Many rules that differ in nothing but port ranges, TCP flags or ICMP types cost most: merge them, or raise max_lookup_cost",
        row.vnic, row.direction, row.rules, row.cost
    )
}

impl Control {
    /// A control with nothing configured. `first` is the configuration that the datapath's
    /// workers were started with; it is not applied yet.
    pub fn new(
        datapath: Box<dyn Datapath>,
        opener: Box<Opener>,
        machine: Machine,
        first: &Config,
    ) -> Self {
        let config = Config {
            networks: Vec::new(),
            ports: Vec::new(),
            vnics: Vec::new(),
            acls: Vec::new(),
            groups: Vec::new(),
            address_sets: Vec::new(),
            port_sets: Vec::new(),
            host_routes: None,
            mirror_targets: Vec::new(),
            decapsulator: None,
            ..first.clone()
        };
        Self {
            datapath,
            opener,
            machine,
            decap: Arc::new(Hosted::new(decap_opener())),
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            hands: Mutex::default(),
            state: RwLock::new(State {
                config: Arc::new(config),
                origin: Arc::default(),
                ids: Ids::default(),
                rules: Rules::default(),
                ports: BTreeMap::new(),
                mirrors: Arc::default(),
                captures: Arc::default(),
                captured: CaptureTotals::default(),
            }),
        }
    }

    /// Where the decapsulator is, if the configuration has one.
    pub fn decapsulator(&self) -> &Arc<Hosted> {
        &self.decap
    }

    /// True when every worker answers.
    pub fn alive(&self) -> bool {
        self.datapath.alive()
    }

    /// Ends what would go on for as long as a client wants it.
    pub fn end_streams(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether [`Control::end_streams`] was called.
    pub fn streams_end(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The running configuration.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.state.read().config)
    }

    /// Moves a receive queue to another worker.
    ///
    /// # Errors
    ///
    /// [`ControlError::NotFound`] when there is no such port, or what the datapath says.
    pub fn assign(&self, port: &str, queue: usize, worker: usize) -> Result<(), ControlError> {
        let _hands = self.hands.lock();
        let id = self.port_id(port)?;
        self.datapath.assign(id, queue, worker)?;
        tracing::info!(port, queue, worker, "queue assigned");
        Ok(())
    }

    /// Enables a port that a spanning tree frame has disabled.
    ///
    /// # Errors
    ///
    /// [`ControlError::NotFound`], or [`ControlError::Refused`] when none had.
    pub fn enable_port(&self, name: &str) -> Result<(), ControlError> {
        let mut hands = self.hands.lock();
        let id = self.port_id(name)?;
        if !self.datapath.enable(id) {
            let refusal = format!(
                "port \"{name}\" is not disabled; `vswitch show port {name}` tells how it is"
            );
            return Err(ControlError::Refused(refusal));
        }
        self.check_health(&mut hands);
        self.keep_host_routes(&mut hands);
        Ok(())
    }

    /// Closes every port and stops the workers.
    pub fn stop(self) {
        let mut hands = self.hands.into_inner();
        let state = self.state.into_inner();
        if let Some(routes) = hands.routes.take() {
            routes.stop();
        }
        for (name, port) in &state.ports {
            if hands.monitors.remove(name).is_some()
                && let Err(error) = self.datapath.detach(port.id)
            {
                tracing::error!(port = %name, %error, "port not detached cleanly");
            }
        }
        self.datapath.stop();
    }

    /// Has the host's routes follow the configuration and the ports' states.
    fn keep_host_routes(&self, hands: &mut Hands) {
        let wanted = {
            let state = self.state.read();
            let is_up = |port: &str| {
                let port = state.ports.get(port);
                port.is_some_and(|port| port.condition == Condition::Up)
            };
            Wanted::of(&state.config, is_up)
        };
        match (wanted, hands.routes.take()) {
            (Some(wanted), Some(mut keeper)) => {
                keeper.want(wanted);
                hands.routes = Some(keeper);
            }
            (Some(wanted), None) => match Keeper::start(wanted) {
                Ok(keeper) => hands.routes = Some(keeper),
                Err(error) => tracing::error!(%error, "the host's routes are not kept: no thread"),
            },
            (None, Some(keeper)) => keeper.stop(),
            (None, None) => {}
        }
    }

    fn port_id(&self, name: &str) -> Result<PortId, ControlError> {
        let state = self.state.read();
        state.ports.get(name).map(|port| port.id).ok_or_else(|| {
            let names = state.ports.keys().map(|name| &**name);
            ControlError::NotFound {
                message: format!("there is no port \"{name}\""),
                help: crate::config::problem::nearest(name, names),
            }
        })
    }

    /// Opens a port; a missing interface or file is no failure, the port then waits for it.
    fn open(&self, port: &Port) -> Result<Opened, ControlError> {
        match self.open_checked(port) {
            Ok(open) => Ok(Opened::Open(Box::new(open))),
            Err(OpenError::Missing(reason)) => Ok(Opened::Missing(reason)),
            Err(error) => Err(ControlError::Open {
                port: port.name.to_string(),
                error,
            }),
        }
    }

    /// Opens a port that can serve its networks. A trunk that does not see tags would take each
    /// network's frames for the native one's.
    fn open_checked(&self, port: &Port) -> Result<pmd::Port, OpenError> {
        let open = (self.opener)(port)?;
        if open.info.hidden_vlan_tags && matches!(port.attachment, Attachment::Trunk { .. }) {
            return Err(OpenError::Unsupported(format!(
                "VLAN tags may travel beside frames where this port ({}) cannot see them, so it cannot be a trunk, whatever the sender's offload settings: a trunk needs native mode on Linux 6.8 or newer; else make it an access port. What the driver says: {}",
                open.info.mode,
                open.info.notes.join(" ")
            )));
        }
        Ok(open)
    }

    /// Hands an open port to the workers and keeps its monitor. Some ports are down at first, such
    /// as one whose guest is not there yet.
    fn attach(
        &self,
        hands: &mut Hands,
        id: PortId,
        port: &Port,
        mut open: pmd::Port,
    ) -> Result<(PortInfo, Condition), EngineError> {
        let info = open.info.clone();
        let queues = PortQueues {
            info: open.info,
            rx: open.rx,
            tx: open.tx,
        };
        if let Err(error) = self.datapath.attach(id, queues, &port.workers) {
            // Some workers may have their queues already.
            let _ = self.datapath.detach(id);
            return Err(error);
        }
        // What is gone already is found at the supervisor's next look.
        let condition = datapath::condition(open.monitor.health()).unwrap_or(Condition::Up);
        hands.monitors.insert(Arc::clone(&port.name), open.monitor);
        tracing::info!(port = %port.name, driver = info.driver, mode = %info.mode, "port attached");
        if condition == Condition::Up {
            self.datapath.appeared(id);
        } else {
            self.datapath.disappeared(id);
        }
        for note in &info.notes {
            tracing::info!(port = %port.name, "{note}");
        }
        if let Condition::Down(why) = &condition {
            tracing::info!(port = %port.name, "port down: {why}");
        }
        Ok((info, condition))
    }
}

/// What opening a port gave.
enum Opened {
    /// It is open.
    Open(Box<pmd::Port>),
    /// What it attaches to is missing.
    Missing(String),
}
