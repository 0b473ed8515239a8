//! What the two halves of a queue and the monitor share.
//!
//! In: what the halves come across. Out: counters, and the kick that makes the kernel send. What
//! must hold: nothing here is written per frame unless the frame is lost.

use std::{
    io,
    os::fd::RawFd,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use super::program::Attachment;

/// A kick moves so many frames in copy mode (`XDP_MAX_TX_SKB_BUDGET` raises it).
pub(super) const KICK_FRAMES: usize = 32;
/// So many kicks may fail to move anything before the rest is left for later.
const FRUITLESS_KICKS: usize = 16;

/// So many frames may be lost in a kick before the rest is left for later: whoever drops them is
/// full, and has room again only after a while.
const LOST_PER_KICK: u64 = 2;

/// Shared by the two halves of a queue and the monitor.
#[derive(Debug)]
pub(super) struct QueueState {
    /// Frames wait in the transmit ring for a kick that did not succeed yet.
    pub(super) tx_pending: AtomicBool,
    /// Frames that the kernel took and could not send.
    pub(super) tx_lost: AtomicU64,
    /// Frames too short to be Ethernet.
    pub(super) tx_runts: AtomicU64,
    /// Received frames of more pieces than a frame may have.
    pub(super) rx_too_many_pieces: AtomicU64,
    /// Received frames whose first piece is too short to be a head.
    pub(super) rx_short_head: AtomicU64,
    /// Received frames beside which came a tag that is not 802.1Q: a frame has no place for it.
    pub(super) rx_other_tag: AtomicU64,
    /// The program stays on the interface as long as any part of the port lives.
    _attachment: Arc<Attachment>,
}

/// What became of the frames in the transmit ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kicked {
    /// The kernel took them all.
    Drained,
    /// Some are still there; the kernel has no room for them now.
    Pending,
    /// The interface takes none.
    Down,
}

impl QueueState {
    pub(super) fn new(attachment: Arc<Attachment>) -> Self {
        Self {
            tx_pending: AtomicBool::new(false),
            tx_lost: AtomicU64::new(0),
            tx_runts: AtomicU64::new(0),
            rx_too_many_pieces: AtomicU64::new(0),
            rx_short_head: AtomicU64::new(0),
            rx_other_tag: AtomicU64::new(0),
            _attachment: attachment,
        }
    }

    /// Makes the kernel send what is in the transmit ring, in a number of attempts that `frames`,
    /// how many may be there, bounds. Safe to call from both halves at once: the kernel serialises
    /// the senders of a socket.
    pub(super) fn kick(&self, socket: RawFd, frames: usize) -> Kicked {
        // Before the first attempt, so that what the other half leaves meanwhile is not forgotten.
        self.tx_pending.store(false, Relaxed);
        let mut fruitless = 0;
        let mut lost = 0u64;
        let most = FRUITLESS_KICKS + frames.div_ceil(KICK_FRAMES);
        let kicked = loop {
            match send_nothing(socket) {
                Ok(()) => break Kicked::Drained,
                // The frame at the head was completed and is lost, as when a veth peer is behind;
                // the next may pass.
                Err(libc::EBUSY) => {
                    lost += 1;
                    if lost == LOST_PER_KICK {
                        break Kicked::Pending;
                    }
                }
                Err(libc::ENXIO | libc::ENETDOWN | libc::EBADF | libc::ENODEV) => {
                    break Kicked::Down;
                }
                // EAGAIN: the budget of one call is used up or the device's queue is full;
                // ENOBUFS: no memory for a packet buffer now.
                Err(_) => {
                    fruitless += 1;
                    if fruitless > most {
                        break Kicked::Pending;
                    }
                }
            }
        };
        if lost > 0 {
            self.tx_lost.fetch_add(lost, Relaxed);
        }
        if kicked == Kicked::Pending {
            self.tx_pending.store(true, Relaxed);
        }
        kicked
    }
}

fn send_nothing(socket: RawFd) -> Result<(), i32> {
    // SAFETY: an empty buffer and no address are what AF_XDP expects of a kick.
    let result =
        unsafe { libc::sendto(socket, ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
    if result < 0 {
        return Err(io::Error::last_os_error().raw_os_error().unwrap_or(0));
    }
    Ok(())
}
