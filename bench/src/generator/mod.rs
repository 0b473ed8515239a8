//! The packet generator: offers a load to one port and judges at another what became of it.
//!
//! ```text
//!   FlowSpace ─► Order ─┐
//!   SizeMix ─► Template ┼─► Sender ─► port ═══ switch under test ═══ port ─► Analyser
//!   Pacer ──────────────┘   (stamps flow, sequence, time)              (loss, order, latency)
//! ```
//!
//! It works over any [`pmd::Port`]: memory pairs, `AF_XDP`, tap. One thread sends and receives, so
//! that both ends read the same clock.
//!
//! Rooms: [`flow`] (which flows, in which order), [`template`] (their bytes), [`size`] (how long),
//! [`stamp`] (what identifies a frame), [`sender`], [`analyser`], [`load`] (a whole run).

pub mod analyser;
pub mod flow;
pub mod load;
pub mod popularity;
pub mod random;
pub mod sender;
pub mod size;
pub mod stamp;
pub mod template;
