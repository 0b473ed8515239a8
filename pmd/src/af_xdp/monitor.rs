//! Health and counters of an `AF_XDP` port, for control.
//!
//! In: questions from control. Out: answers that cost two or a few system calls. What must hold:
//! nothing here touches what the workers own.
//!
//! The kernel's counters (`XDP_STATISTICS`): a frame that found no frame memory counts in both
//! `rx_dropped` and `rx_fill_ring_empty_descs`, one longer than the port can take in `rx_dropped`
//! only, one that found the receive ring full in `rx_ring_full` only. `tx_ring_empty_descs` counts
//! kicks that emptied the transmit ring, not frames.

use std::{
    io, mem,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{interface::Interface, queue::QueueState};
use crate::{Counts, Health, Monitor};

pub(super) struct AfXdpMonitor {
    pub(super) interface: Interface,
    /// Each queue's socket and state.
    pub(super) queues: Vec<(OwnedFd, Arc<QueueState>)>,
}

impl Monitor for AfXdpMonitor {
    fn health(&mut self) -> Health {
        let name = &self.interface.name;
        match self.interface.link() {
            Ok(None) => Health::Gone(format!(
                "the network interface {name} was removed or moved to another namespace"
            )),
            Ok(Some(link)) if !link.admin_up => Health::Down(format!(
                "the network interface {name} is down: `ip link set {name} up`"
            )),
            Ok(Some(link)) if !link.carrier => Health::Down(format!(
                "the network interface {name} has no carrier: its peer or cable is down"
            )),
            Ok(Some(_)) => Health::Up,
            Err(error) => Health::Down(format!("cannot ask about interface {name}: {error}")),
        }
    }

    fn counts(&mut self) -> Counts {
        let mut kernel = Statistics::default();
        for (socket, _) in &self.queues {
            if let Ok(of_queue) = statistics(socket) {
                kernel.add(of_queue);
            }
        }
        let ours = |counter: fn(&QueueState) -> &AtomicU64| {
            let of_queue = self.queues.iter();
            of_queue
                .map(|(_, state)| counter(state).load(Relaxed))
                .sum()
        };
        vec![
            ("rx_dropped", kernel.rx_dropped),
            ("rx_invalid_descs", kernel.rx_invalid_descs),
            ("tx_invalid_descs", kernel.tx_invalid_descs),
            ("rx_ring_full", kernel.rx_ring_full),
            ("rx_fill_ring_empty_descs", kernel.rx_fill_ring_empty_descs),
            ("tx_ring_empty_descs", kernel.tx_ring_empty_descs),
            ("tx_lost", ours(|state| &state.tx_lost)),
            ("tx_runts", ours(|state| &state.tx_runts)),
            (
                "rx_too_many_pieces",
                ours(|state| &state.rx_too_many_pieces),
            ),
            ("rx_short_head", ours(|state| &state.rx_short_head)),
            ("rx_other_tag", ours(|state| &state.rx_other_tag)),
        ]
    }
}

/// `struct xdp_statistics` of `linux/if_xdp.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Statistics {
    rx_dropped: u64,
    rx_invalid_descs: u64,
    tx_invalid_descs: u64,
    rx_ring_full: u64,
    rx_fill_ring_empty_descs: u64,
    tx_ring_empty_descs: u64,
}

impl Statistics {
    fn add(&mut self, other: Self) {
        self.rx_dropped += other.rx_dropped;
        self.rx_invalid_descs += other.rx_invalid_descs;
        self.tx_invalid_descs += other.tx_invalid_descs;
        self.rx_ring_full += other.rx_ring_full;
        self.rx_fill_ring_empty_descs += other.rx_fill_ring_empty_descs;
        self.tx_ring_empty_descs += other.tx_ring_empty_descs;
    }
}

fn statistics(socket: &OwnedFd) -> io::Result<Statistics> {
    let mut answer = Statistics::default();
    let mut len = mem::size_of::<Statistics>() as libc::socklen_t;
    // SAFETY: `answer` has `len` bytes, all of which the kernel may write with any value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_STATISTICS,
            (&raw mut answer).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(answer)
}
