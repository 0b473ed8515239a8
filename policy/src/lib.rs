//! What may pass: flow keys, rules, VM network state, snapshots and epochs. Does no I/O.
//!
//! ```text
//!   frame bytes ──parse──► FlowKey + Class ──┐
//!                                            ├─► PortPolicy / VnicPolicy ──► pass, or Denial
//!   Model ──compile──► Snapshot (epoch) ─────┘          (through a KeyReader)
//! ```
//!
//! Everything that decides reads the key through a [`KeyReader`]. Judging a frame uses
//! [`reader::Exact`]; compiling uses [`reader::Tracer`], which records the bits that the same
//! code could read. Those bits are the footprint mask of a (port, class), and the flow cache
//! compares frames under it: a decision and its mask cannot drift apart.
//!
//! Rooms: [`ids`] and [`key`] (words), [`parse`](mod@parse) (frame to key), [`checksum`] (unfinished
//! checksums), [`model`] (the desired state), [`reader`], [`rule`], [`acl`] (rule lists),
//! [`sender`] (anti-spoofing), [`route`] (route tables), [`router`] (where a frame that is for a
//! router goes), [`conntrack`] (connections), [`snapshot`] (the compiled state), [`denial`] (why a
//! frame was dropped), [`rogue`] (guests that pretend to be servers), [`reject`] (what its sender is told),
//! [`nearest`](mod@nearest) (help with misspelt words).
#![forbid(unsafe_code)]

pub mod acl;
pub mod checksum;
pub mod conntrack;
pub mod denial;
pub mod ids;
pub mod key;
pub mod model;
pub mod nearest;
pub mod parse;
pub mod reader;
mod reasons;
pub mod reject;
pub mod rogue;
pub mod route;
pub mod router;
pub mod rule;
pub mod sender;
pub mod snapshot;

pub use checksum::partial_checksum;
pub use denial::{Denial, DropReason, Side, Stage};
pub use ids::{Epoch, InterfaceId, Mac, NetworkId, PortId, RuleId, VlanId};
pub use key::{Class, Field, FlowKey};
pub use parse::{Parsed, parse};
pub use reader::KeyReader;
pub use sender::NeighborClaim;
pub use snapshot::{NetworkPolicy, PortPolicy, Snapshot, VnicPolicy};
