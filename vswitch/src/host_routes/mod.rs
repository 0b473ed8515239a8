//! Routes of VMs in the host's own tables, for its routing daemon to advertise.
//!
//! ```text
//!   configuration, states of ports ──wanted──► Wanted ──orders──► a thread ──rtnetlink──► the kernel
//! ```
//!
//! In: the configuration and which ports work. Out: one route of the kernel for each address of a
//! vNIC whose port works, through the interface of the handoff port; the host's addresses on it.
//! What must hold: every route of the protocol number is ours to take away, and no other one is; what
//! cannot be done is told once and tried again; nobody waits for the kernel but the thread.

mod kernel;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use ipnet::IpNet;

use crate::config::{
    Config,
    types::{Attachment, HostRoutes, Router, Vnic},
};
use kernel::Kernel;

/// How often the kernel's tables are looked at when nothing changes: somebody may have taken a route
/// away.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How soon what failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the host is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The interface of the handoff port.
    pub interface: String,
    /// The routes' protocol number (rtnetlink(7), `rtm_protocol`).
    pub protocol: u8,
    /// Their metric.
    pub metric: u32,
    /// Their table.
    pub table: u32,
    /// The host's own addresses on the interface.
    pub addresses: Vec<IpNet>,
    /// Addresses of vNICs, each with the router that leads there; without one it is on the link.
    pub routes: BTreeMap<IpAddr, Option<IpAddr>>,
}

impl Wanted {
    /// What a configuration wants while `is_up` tells which ports work. `None` without a
    /// `[host_routes]`.
    pub fn of(config: &Config, is_up: impl Fn(&str) -> bool) -> Option<Self> {
        let wishes = config.host_routes.as_ref()?;
        let port = config.ports.iter().find(|port| port.name == wishes.port)?;
        let Attachment::Access(near) = &port.attachment else {
            return None;
        };
        let mut routes = BTreeMap::new();
        let up = |vnic: &&Vnic| is_up(&vnic.port) && is_up(&wishes.port);
        for vnic in config.vnics.iter().filter(up) {
            let Some(network) = network_of(config, wishes, near, vnic) else {
                continue;
            };
            let four = vnic.hosts4().map(IpAddr::from);
            for address in four.chain(vnic.hosts6().map(IpAddr::from)) {
                if network == near {
                    routes.insert(address, None);
                } else if let Some(gateway) = gateway(config, near, network, address) {
                    routes.insert(address, Some(gateway));
                }
            }
        }
        Some(Self {
            interface: port.driver.interface()?.to_owned(),
            protocol: wishes.protocol,
            metric: wishes.metric,
            table: wishes.table,
            addresses: wishes.addresses.clone(),
            routes,
        })
    }

    /// The same without any route or address.
    fn nothing(&self) -> Self {
        Self {
            addresses: Vec::new(),
            routes: BTreeMap::new(),
            ..self.clone()
        }
    }
}

/// The network in which a vNIC's addresses are reached.
fn network_of<'c>(
    config: &'c Config,
    wishes: &HostRoutes,
    near: &'c Arc<str>,
    vnic: &Vnic,
) -> Option<&'c Arc<str>> {
    let port = config.ports.iter().find(|port| port.name == vnic.port)?;
    let networks = port.attachment.networks().into_iter();
    networks
        .filter(|name| wishes.networks.is_empty() || wishes.networks.contains(name))
        .find(|name| *name == near || joins(config, near, name).next().is_some())
}

/// The routers that join two networks.
pub(crate) fn joins<'c>(config: &'c Config, a: &str, b: &str) -> impl Iterator<Item = &'c Router> {
    let is_in = |router: &Router, name: &str| {
        let mut interfaces = router.interfaces.iter();
        interfaces.any(|interface| *interface.network == *name)
    };
    let routers = config.routers.iter();
    routers.filter(move |router| is_in(router, a) && is_in(router, b))
}

/// The address by which a router is reached in network `near` that leads to an address in `far`.
fn gateway(config: &Config, near: &str, far: &str, address: IpAddr) -> Option<IpAddr> {
    joins(config, near, far).find_map(|router| {
        let mut interfaces = router.interfaces.iter();
        let interface = interfaces.find(|interface| *interface.network == *near)?;
        let own = interface.addresses.iter().map(IpNet::addr);
        own.clone().find(|own| own.is_ipv4() == address.is_ipv4())
    })
}

/// The thread that keeps the host's routes, and what it was told last.
#[derive(Debug)]
pub struct Keeper {
    orders: Sender<Wanted>,
    last: Wanted,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Starts the thread, in the network namespace of the calling one.
    ///
    /// # Errors
    ///
    /// When the system refuses a thread.
    pub fn start(wanted: Wanted) -> std::io::Result<Self> {
        let (orders, inbox) = unbounded();
        let first = wanted.clone();
        let thread = std::thread::Builder::new()
            .name("host-routes".into())
            .spawn(move || keep(&first, &inbox))?;
        Ok(Self {
            orders,
            last: wanted,
            thread,
        })
    }

    /// From now on the host has these.
    pub fn want(&mut self, wanted: Wanted) {
        if self.last != wanted {
            self.last = wanted.clone();
            // A thread that ended by a panic takes no orders any more; its end was logged.
            let _ = self.orders.send(wanted);
        }
    }

    /// Takes all routes away and ends the thread.
    pub fn stop(mut self) {
        self.want(self.last.nothing());
        drop(self.orders);
        if self.thread.join().is_err() {
            tracing::error!("the keeper of the host's routes ended by a panic");
        }
    }
}

/// Brings the kernel's tables in line, whenever something is wanted and now and then.
fn keep(first: &Wanted, inbox: &Receiver<Wanted>) {
    let mut wanted = first.clone();
    let mut kernel = Kernel::default();
    let mut told = String::new();
    loop {
        let outcome = kernel.bring_in_line(&wanted);
        let failed = match outcome {
            Ok(changed) => {
                if changed.added + changed.removed > 0 {
                    let (added, removed) = (changed.added, changed.removed);
                    tracing::info!(added, removed, "host routes changed");
                }
                told.clear();
                false
            }
            Err(error) => {
                if told != error {
                    tracing::warn!("host routes: {error}; it is tried again");
                    told = error;
                }
                true
            }
        };
        let pause = if failed { RETRY_AFTER } else { LOOK_EVERY };
        match newest(inbox, pause) {
            Ok(Some(newer)) => {
                if newer.protocol != wanted.protocol {
                    // Those of the former number are nobody's any more.
                    let _ = kernel.bring_in_line(&wanted.nothing());
                }
                wanted = newer;
            }
            Ok(None) => {}
            Err(()) => return,
        }
    }
}

/// What came last within `pause`; an error when nothing comes any more.
fn newest(inbox: &Receiver<Wanted>, pause: Duration) -> Result<Option<Wanted>, ()> {
    match inbox.recv_deadline(Instant::now() + pause) {
        Ok(first) => Ok(inbox.try_iter().last().or(Some(first))),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(()),
    }
}
