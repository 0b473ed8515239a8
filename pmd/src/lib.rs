//! How frames get in and out of the switch.
//!
//! A *port* is opened by a *driver* and comes as queues: [`RxQueue`]s lend received frames for
//! one burst, [`TxQueue`]s copy frames out. The rule of the house is **borrow on receive, never
//! edit, copy once on transmit**:
//!
//! ```text
//!   RxQueue::receive ──► Burst<'_> of Frame<'_>   (borrowed, immutable, owned by the ingress port)
//!                              │
//!                        TxPlan {frame, prefix, skip, len}   (what leaves, decided by the caller)
//!                              │
//!   TxQueue::transmit ◄────────┘                  (copies prefix ++ frame[skip..skip+len] once)
//!   RxQueue::release                              (the ingress port takes its memory back)
//! ```
//!
//! So no port ever owns another port's memory, and a stalled or removed port starves nobody.
//! This crate knows frames and offload metadata, never protocols (but for [`segment`], which does
//! what hardware would), and is the only one with `unsafe` in it.
//!
//! Rooms: [`frame`] (what is lent), [`transmit`] (what is copied), [`port`] (the traits),
//! then one module per driver: [`memory`], [`pcap`], [`tap`], [`af_xdp`], [`vhost_user`], and two
//! that wrap any of them: [`segment`], which lets them take TCP super-segments, and [`fault`].
//! `guest` touches memory that a guest may write at any time; [`shared_memory`] is such memory, for
//! programs that play the guest. [`clock`] is the time of a turn,
//! [`cpu`] what the processor is asked for, [`huge_pages`] where the programs' memory comes from,
//! [`allocations`] how a bench holds that nothing allocates.

pub mod af_xdp;
pub mod allocations;
mod burst;
pub mod clock;
pub mod cpu;
pub mod fault;
pub mod frame;
mod guest;
pub mod huge_pages;
pub mod memory;
pub mod pcap;
pub mod port;
pub mod segment;
pub mod shared_memory;
pub mod tap;
pub mod transmit;
pub mod vhost_user;

pub use burst::Burst;
pub use clock::Clock;
pub use frame::{Frame, PartialChecksum, Run};
pub use port::{
    Counts, Details, Health, Monitor, OpenError, Port, PortInfo, RxQueue, TxQueue, TxReport, Wait,
};
pub use transmit::{MAX_PREFIX_BYTES, PrefixArena, REWRITTEN_HEAD_BYTES, TxBurst, TxPlan};

/// The most frames that are lent, judged and transmitted in one go.
pub const BURST: usize = 64;

/// The shortest head a multi-segment [`Frame`] may have, in bytes: room for every header the
/// walk parses (Ethernet, two tags, IPv6 with bounded extension headers, TCP).
pub const MIN_HEAD_BYTES: usize = 256;
