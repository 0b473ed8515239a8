//! What the decapsulator's threads count beside [`mirror::decap::counts`]. What must hold, of each
//! sniffer and whenever no frame is under way:
//!
//! ```text
//!   offered = sent + waiting + Σ lost        and over all sniffers, those that are gone included:
//!   Σ offered = copies
//! ```
//!
//! What sniffers lost of each session is counted beside it ([`SessionLosses`]). It is exact for queues, files
//! and streams; a port says how many frames it did not take and not which, and those that came last are
//! taken for them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use mirror::{
    counter::Counter,
    decap::{SessionSlot, Table},
};

use super::meta::Meta;

policy::reasons! {
    /// Why a sniffer did not get a frame that was for it.
    pub enum Loss;

    QueueFull "queue_full"
        "The sniffer's queue was full: its thread, or what it writes to, is slower than what is mirrored.",
        "Filter, truncate or spread the sessions, or raise `queue_frames`.";
    TooLong "too_long"
        "The frame is longer than the sniffer's queue or port takes.",
        "Raise the sniffer's `max_frame_bytes` or its port's MTU, or have the sender truncate.";
    FormerOwner "former_owner"
        "The frame waited in the queue when the sniffer lost a session; what waited then is given up.",
        "Nothing: the session was moved or ended.";
    PortFull "port_full"
        "The sniffer's port had no room: who reads there is too slow.",
        "Give the sniffer more time or longer rings, or spread the sessions over several.";
    PortDown "port_down"
        "The sniffer's port, file or stream could not be written to.",
        "See its state in `vswitch decap show sniffers`; it is attached again by itself.";
}

/// What the receiving thread counts of a sniffer.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Offered {
    /// Frames that were for it.
    pub frames: Counter,
    /// Those that its queue had no room for.
    pub queue_full: Counter,
    /// Those that were longer than its queue's places.
    pub too_long: Counter,
    /// Those that found its thread ended.
    pub down: Counter,
}

/// What a sniffer's own thread counts.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Sent {
    /// Frames taken from the queue of which it is known what became of them.
    pub taken: Counter,
    /// Frames that its port, file or stream took.
    pub frames: Counter,
    /// Bytes of those.
    pub bytes: Counter,
    /// Taken, and lost.
    pub former_owner: Counter,
    /// Taken, and lost.
    pub too_long: Counter,
    /// Taken, and lost.
    pub port_full: Counter,
    /// Taken, and lost.
    pub port_down: Counter,
    /// Frames that the sniffer sent, and that nobody gets.
    pub refused: Counter,
}

/// What became of frames that were taken from a sniffer's queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fate {
    pub(super) sent: u64,
    pub(super) sent_bytes: u64,
    pub(super) full: u64,
    pub(super) too_long: u64,
    pub(super) down: u64,
    pub(super) former_owner: u64,
}

impl Fate {
    /// All of them.
    pub(super) fn frames(&self) -> u64 {
        self.sent + self.full + self.too_long + self.down + self.former_owner
    }
}

/// What is counted of a sniffer.
#[derive(Debug, Default)]
pub struct SnifferCounters {
    /// By the receiving thread.
    pub offered: Offered,
    /// By its own.
    pub sent: Sent,
}

impl SnifferCounters {
    /// Frames that were for it and that it did not get.
    pub fn lost(&self, loss: Loss) -> u64 {
        let Self { offered, sent } = self;
        match loss {
            Loss::QueueFull => offered.queue_full.get(),
            Loss::TooLong => offered.too_long.get() + sent.too_long.get(),
            Loss::FormerOwner => sent.former_owner.get(),
            Loss::PortFull => sent.port_full.get(),
            Loss::PortDown => offered.down.get() + sent.port_down.get(),
        }
    }

    /// All of them.
    pub fn lost_total(&self) -> u64 {
        Loss::ALL.iter().map(|loss| self.lost(*loss)).sum()
    }

    /// Counts what became of frames that were taken from the queue.
    pub(super) fn settle(&self, fate: &Fate) {
        let sent = &self.sent;
        sent.taken.add(fate.frames());
        sent.frames.add(fate.sent);
        sent.bytes.add(fate.sent_bytes);
        for (counter, frames) in [
            (&sent.former_owner, fate.former_owner),
            (&sent.too_long, fate.too_long),
            (&sent.port_full, fate.full),
            (&sent.port_down, fate.down),
        ] {
            if frames > 0 {
                counter.add(frames);
            }
        }
    }

    /// Frames in its queue, or on their way from there into its stream.
    pub fn waiting(&self) -> u64 {
        let Self { offered, sent } = self;
        // Read in this order, so that what is taken meanwhile makes it no less than nothing.
        let taken = sent.taken.get();
        let lost = offered.queue_full.get() + offered.too_long.get() + offered.down.get();
        offered.frames.get().saturating_sub(lost + taken)
    }
}

/// What sniffers lost of each session, counted by whoever loses it.
#[derive(Debug)]
pub struct SessionLosses(Box<[SessionLoss]>);

#[derive(Debug, Default)]
struct SessionLoss {
    /// The table since which the slot is the session's.
    since: AtomicU64,
    frames: [AtomicU64; Loss::COUNT],
}

impl SessionLosses {
    /// For so many sessions.
    pub(super) fn new(sessions: usize) -> Self {
        let losses = std::iter::repeat_with(SessionLoss::default);
        Self(losses.take(sessions).collect())
    }

    /// Begins anew for slots that are another session's under `table`. To be called before a frame is
    /// decided by it.
    pub(super) fn adopt(&self, table: &Table) {
        for (slot, loss) in self.0.iter().enumerate() {
            let since = table.since(SessionSlot(slot as u32));
            let since = since.map_or(u64::MAX, |version| version.0);
            if loss.since.swap(since, Relaxed) != since {
                loss.frames
                    .iter()
                    .for_each(|frames| frames.store(0, Relaxed));
            }
        }
    }

    /// Counts a lost frame, unless its slot is another session's by now.
    #[cold]
    pub(super) fn count(&self, meta: &Meta, loss: Loss) {
        let counts = self.0.get(meta.session.index());
        let own = counts.filter(|counts| meta.version.0 >= counts.since.load(Relaxed));
        if let Some(counts) = own {
            counts.frames[loss as usize].fetch_add(1, Relaxed);
        }
    }

    /// Frames of a session that a sniffer did not get.
    pub fn lost(&self, session: SessionSlot, loss: Loss) -> u64 {
        let counts = self.0.get(session.index());
        counts.map_or(0, |counts| counts.frames[loss as usize].load(Relaxed))
    }
}

/// What the receiving thread counts of frames that are no tunnel's.
#[derive(Debug, Default)]
pub struct OwnCounters {
    /// ARP, neighbour discovery and echo requests, which never reach the decapsulator's core.
    pub received: Counter,
    /// Answers to them.
    pub answered: Counter,
}
