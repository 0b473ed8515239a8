//! What a port is to the switch: receive queues, transmit queues, and a monitor.
//!
//! Every driver's `open` returns a [`Port`]. Its queues go to the workers (each [`RxQueue`] has
//! exactly one owner, a [`TxQueue`] is shared behind a lock taken once per burst), its
//! [`Monitor`] stays with control.

use std::{fmt, io, os::fd::BorrowedFd, time::Duration};

use crate::{Burst, TxBurst};

/// What a worker may do when all its queues are empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Frames are there already: do not sleep.
    Ready,
    /// Sleep; the queue's [`RxQueue::wake_fd`] becomes readable when frames come, or the time
    /// given passes, whichever is first.
    Until(Option<Duration>),
}

/// The receiving half of a queue. One worker owns it and polls it.
pub trait RxQueue: Send {
    /// Lends received frames, at most what `burst` has room for. Never waits.
    ///
    /// The caller calls [`RxQueue::release`] after it dropped the burst and before the next
    /// `receive`.
    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>);

    /// Takes back every frame that the last [`RxQueue::receive`] lent.
    fn release(&mut self);

    /// Makes sure that the worker will be woken by whatever comes from now on, and says whether
    /// it may sleep. A frame that came before the call is reported as [`Wait::Ready`], so no
    /// wake-up is lost between the last `receive` and the sleep.
    fn prepare_wait(&mut self) -> Wait;

    /// What becomes readable when frames come; `None` for a queue that only knows time.
    fn wake_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// What became of the plans of one [`TxQueue::transmit`]: the four counts add up to the number
/// of plans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxReport {
    /// Frames handed over.
    pub sent: u32,
    /// Bytes of those, without FCS.
    pub sent_bytes: u64,
    /// Frames that found the queue full.
    pub full: u32,
    /// Frames longer than the port can carry, and super-segments that cannot be cut.
    pub too_big: u32,
    /// Frames for a port that is down.
    pub down: u32,
}

/// The transmitting half of a queue.
pub trait TxQueue: Send {
    /// Copies every plan's frame out, in order, and says what became of them. Never waits: a
    /// frame that finds no room is counted as `full`.
    fn transmit(&mut self, burst: &TxBurst<'_>) -> TxReport;
}

/// How a port is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Frames can pass.
    Up,
    /// The port exists but no frame can pass now (no carrier, no peer); it may come back as it
    /// is. The text says why.
    Down(String),
    /// What the port was attached to is gone; the port must be closed, and opened again when the
    /// thing returns. The text says why.
    Gone(String),
}

/// What a driver counts that the switch cannot see, by name, since the port was opened.
pub type Counts = Vec<(&'static str, u64)>;

/// What there is to know of a port, as (name, text) pairs in the order they are to be shown.
pub type Details = Vec<(&'static str, String)>;

/// Watches a port from outside the workers.
pub trait Monitor: Send {
    /// How the port is doing now.
    fn health(&mut self) -> Health;
    /// The driver's own counters, such as frames the kernel dropped before the port saw them.
    fn counts(&mut self) -> Counts;
    /// What a person who looks at the port wants to know beyond that. Empty for most drivers.
    fn details(&mut self) -> Details {
        Details::new()
    }
}

/// What was obtained when a port was opened, for people and for the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// The driver's name: `af_xdp`, `memory`, `pcap`, `tap`, `vhost_user`.
    pub driver: &'static str,
    /// What the driver got, in words: mode, zero-copy or copy, ring and frame sizes.
    pub mode: String,
    /// Longest frame the port carries, in bytes, without FCS and without a VLAN tag.
    pub max_frame_bytes: usize,
    /// True when frames may arrive with a partial checksum that nothing marks, as from a veth
    /// peer; the walk then looks for them.
    pub unmarked_partial_checksums: bool,
    /// True when VLAN tags may travel beside frames where this port cannot see them, so that a
    /// tagged frame looks untagged.
    pub hidden_vlan_tags: bool,
    /// What a person should know about this port, one sentence each: a missing capability and
    /// what to do about it.
    pub notes: Vec<String>,
}

/// An open port.
pub struct Port {
    /// What was obtained.
    pub info: PortInfo,
    /// Receive queues, at least one.
    pub rx: Vec<Box<dyn RxQueue>>,
    /// Transmit queues, at least one.
    pub tx: Vec<Box<dyn TxQueue>>,
    /// Watches the port.
    pub monitor: Box<dyn Monitor>,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("info", &self.info)
            .field("rx", &self.rx.len())
            .field("tx", &self.tx.len())
            .finish_non_exhaustive()
    }
}

/// Why a port could not be opened, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What the port attaches to does not exist (yet); opening again later may work.
    #[error("{0}")]
    Missing(String),
    /// The request cannot work as it stands. The text says what to change.
    #[error("{0}")]
    Unsupported(String),
    /// The system refused a step.
    #[error("{step}: {source}")]
    System {
        /// What was being done, and to what.
        step: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl OpenError {
    /// An [`OpenError::System`] for the step `step`.
    pub fn system(step: impl Into<String>, source: io::Error) -> Self {
        Self::System {
            step: step.into(),
            source,
        }
    }
}
