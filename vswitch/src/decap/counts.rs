//! What the decapsulator's threads count beside [`mirror::decap::counts`]. What must hold, of each
//! sniffer and whenever no frame is under way:
//!
//! ```text
//!   offered = sent + waiting + Σ lost        and over all sniffers, those that are gone included:
//!   Σ offered = copies
//! ```

use std::fmt;

use mirror::counter::Counter;

macro_rules! losses {
    ($($variant:ident $name:literal $text:literal, $advice:literal;)*) => {
        /// Why a sniffer did not get a frame that was for it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Loss {
            $(#[doc = $text] $variant,)*
        }

        impl Loss {
            /// Every loss, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name used in counters, the CLI and the docs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What happened, for a person.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What the operator can do about it.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

losses! {
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

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
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
    /// Frames taken from the queue.
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

    /// Frames in its queue.
    pub fn waiting(&self) -> u64 {
        let Self { offered, sent } = self;
        // Read in this order, so that what is taken meanwhile makes it no less than nothing.
        let taken = sent.taken.get();
        let lost = offered.queue_full.get() + offered.too_long.get() + offered.down.get();
        offered.frames.get().saturating_sub(lost + taken)
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
