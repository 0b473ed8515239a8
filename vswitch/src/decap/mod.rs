//! The decapsulator at work: threads of its own, around [`mirror::decap`].
//!
//! ```text
//!   tunnel port ─► receiver ─┬─ queue ─► sender ─► sniffer's port
//!                 (one)      ├─ queue ─► sender ─► rotating files
//!                            └─ queue ─► sender ─► stream
//! ```
//!
//! In: frames of the tunnel port, and tables from control. Out: mirrored frames in sniffers' hands. What
//! must hold:
//! - the receiving thread owns the tunnel port's receive queues, and shares nothing with the switch's
//!   workers: no tenant's frame gets here but through a tunnel;
//! - each sniffer has a thread and a bounded queue of its own, so a slow one slows no other; a queue is
//!   a [memory pair](pmd::memory), into which a frame is copied once, and from which it is sent;
//! - when [`Runtime::apply`] returns, nothing goes to the former owner of a session any more: the
//!   receiving thread decides by the new table, and the sniffers' threads give up what waited;
//! - [`counts`] and [`mirror::decap::counts`]: every frame is accounted for.
//!
//! Rooms, in the order of a frame: [`attachment`] (ports), [`receiver`], `host` (answers to neighbours),
//! `meta` (what is told of a frame), [`sender`], `sink`, `files`, `stream`; around them [`runtime`]
//! (threads and tables), [`view`] (what people are shown), [`api`], [`process`] (a decapsulator that runs
//! alone), [`hosted`] (one within the switch).

pub mod api;
pub mod attachment;
pub mod counts;
mod files;
mod host;
pub mod hosted;
pub mod meta;
pub mod metrics;
pub mod process;
pub mod receiver;
pub mod runtime;
pub mod sender;
mod sink;
mod stream;
pub mod view;

pub use runtime::{ApplyError, Runtime, StartError};
