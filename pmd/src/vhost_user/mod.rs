//! `vhost_user`: a virtual machine's network interface, through shared memory.
//!
//! ```text
//!   front end (QEMU, DPDK virtio-user)                 this driver
//!   ────────────────────────────────────               ─────────────────────────────────────────
//!   Unix socket: messages, descriptors  ◄────────────► control thread   (socket, requests)
//!   guest memory: rings and buffers     ◄────────────► workers          (rx, tx, ring, memory)
//!   kick and call event descriptors     ◄────────────► workers          (queue)
//! ```
//!
//! One control thread for each port speaks the protocol (the `vhost` crate parses it); it never
//! runs on a worker. `queue` says why nothing is unmapped under a worker and why no worker
//! waits, `ring` what is checked of what a guest writes, `memory` how its addresses become
//! places, `sigbus` what happens when its memory's file shrinks.
//!
//! VM to VM takes one copy: a frame's first bytes are snapshotted on receive and judged, its
//! rest stays in the sender's memory until the transmitting port copies both to the receiver's.
//!
//! A guest that breaks a rule of its rings stops its own port, which says so, and works again
//! when the guest's driver is reset or a front end connects anew. Nothing else is touched.
//!
//! Sources: virtio 1.2 §2.7 (split virtqueues) and §5.1 (network device); QEMU's
//! docs/interop/vhost-user.rst.

mod cursor;
mod device;
mod dirty_log;
mod features;
mod header;
mod lock;
mod mapping;
mod memory;
mod monitor;
mod pieces;
mod queue;
mod requests;
mod ring;
mod rx;
mod sigbus;
mod socket;
mod sum;
mod tx;
mod violation;
mod watch;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use rustix::event::{EventfdFlags, eventfd};

use crate::{OpenError, Port, PortInfo, RxQueue, TxQueue};
pub use features::Features;
use monitor::VhostMonitor;
use queue::Shared;
use rx::VhostRx;
use socket::{Control, Socket, Stop};
use tx::VhostTx;

/// Most queue pairs of a port.
pub const MAX_QUEUE_PAIRS: u16 = 8;

/// The longest frame that any guest may send or be sent, in bytes.
pub const MAX_FRAME_BYTES: usize = rx::MAX_FRAME_BYTES as usize;

/// Which side makes the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The front end makes it; this port connects, and again whenever the connection ends. A
    /// guest then survives a restart of the switch.
    Client,
    /// This port makes it, and front ends connect, one at a time.
    Server,
}

/// How a vhost-user port is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Who makes it.
    pub role: Role,
    /// Permission bits of a socket that this port makes.
    pub socket_mode: u32,
    /// Queue pairs, 1 to [`MAX_QUEUE_PAIRS`]; a guest may use fewer.
    pub queue_pairs: u16,
    /// What may be offered. The same choice gives the same offer after a restart.
    pub features: Features,
    /// Longest frame to the guest, in bytes, at most [`MAX_FRAME_BYTES`].
    pub max_frame_bytes: usize,
}

impl Config {
    /// One queue pair, every feature, every length; a made socket is for owner and group.
    pub fn new(socket: impl Into<PathBuf>, role: Role) -> Self {
        Self {
            socket: socket.into(),
            role,
            socket_mode: 0o660,
            queue_pairs: 1,
            features: Features::default(),
            max_frame_bytes: MAX_FRAME_BYTES,
        }
    }
}

/// Opens a port. It is there at once, and down until a guest is.
///
/// # Errors
///
/// [`OpenError::Unsupported`] when the request is out of range, or something that is not a stale
/// socket is in the socket's place; [`OpenError::System`] when the system refuses a step.
pub fn open(config: &Config) -> Result<Port, OpenError> {
    check(config)?;
    sigbus::install();
    let pairs = config.queue_pairs as usize;
    let shared = Shared::new(pairs).map_err(|e| OpenError::system("vhost-user: queues", e))?;
    let shared = Arc::new(shared);
    let socket = Socket::open(config)?;
    let handle = PortHandle::start(config, Arc::clone(&shared), socket)
        .map_err(|e| OpenError::system("vhost-user: control thread", e))?;
    let handle = Arc::new(handle);
    let rx = |pair| Box::new(VhostRx::new(Arc::clone(&handle), 2 * pair + 1)) as Box<dyn RxQueue>;
    let tx = |pair| {
        let queue = VhostTx::new(Arc::clone(&handle), pair, config.max_frame_bytes);
        Box::new(queue) as Box<dyn TxQueue>
    };
    Ok(Port {
        info: PortInfo {
            driver: "vhost_user",
            mode: format!(
                "{} {}, {pairs} queue pairs",
                match config.role {
                    Role::Client => "client of",
                    Role::Server => "server on",
                },
                config.socket.display()
            ),
            max_frame_bytes: config.max_frame_bytes,
            unmarked_partial_checksums: false,
            hidden_vlan_tags: false,
            notes: Vec::new(),
        },
        rx: (0..pairs).map(rx).collect(),
        tx: (0..pairs).map(tx).collect(),
        monitor: Box::new(VhostMonitor::new(config, handle)),
    })
}

/// Room for a path in a Unix socket's address, without the closing zero.
const MAX_PATH_BYTES: usize = 107;

fn check(config: &Config) -> Result<(), OpenError> {
    let path_bytes = config.socket.as_os_str().len();
    let wrong = if path_bytes == 0 || path_bytes > MAX_PATH_BYTES {
        format!("a socket's path has 1 to {MAX_PATH_BYTES} bytes, this one has {path_bytes}")
    } else if !(1..=MAX_QUEUE_PAIRS).contains(&config.queue_pairs) {
        format!(
            "{} queue pairs; 1 to {MAX_QUEUE_PAIRS} are possible",
            config.queue_pairs
        )
    } else if !(64..=MAX_FRAME_BYTES).contains(&config.max_frame_bytes) {
        format!("the longest frame must have 64 to {MAX_FRAME_BYTES} bytes")
    } else if config.socket_mode > 0o777 {
        format!("{:o} is no file mode", config.socket_mode)
    } else {
        return Ok(());
    };
    Err(OpenError::Unsupported(format!(
        "vhost-user port {}: {wrong}",
        config.socket.display()
    )))
}

/// Keeps the threads for as long as any part of the port lives.
struct PortHandle {
    shared: Arc<Shared>,
    stop: Arc<Stop>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl PortHandle {
    fn start(config: &Config, shared: Arc<Shared>, socket: Socket) -> io::Result<Self> {
        let stop = Arc::new(Stop::new(eventfd(
            0,
            EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC,
        )?));
        let control = Control::new(config, Arc::clone(&shared), socket, Arc::clone(&stop));
        let handle = Self {
            shared: Arc::clone(&shared),
            stop: Arc::clone(&stop),
            threads: Mutex::default(),
        };
        handle.spawn("vhost-user", move || control.run())?;
        handle.spawn("vhost-watch", move || watch::run(&shared, &stop))?;
        Ok(handle)
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(run)?;
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(thread);
        Ok(())
    }
}

impl Drop for PortHandle {
    /// Ends the threads, which detaches the guest and removes the socket.
    fn drop(&mut self) {
        self.stop.ask();
        let threads = self
            .threads
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            let _ = thread.join();
        }
    }
}
