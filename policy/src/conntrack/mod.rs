//! Connections: who opened what, and whether a frame continues it.
//!
//! ```text
//!   slow path:  find(zone, tuple) ─► Absent │ Found ─► (rules are asked) ─► open / advance / remove
//!   hit path:   cached Token ─► follows? ─► (TCP) in the window? ─► the direction's line is updated
//! ```
//!
//! In come tuples and what the tracker reads of a frame ([`Segment`], [`Probe`]); out go
//! [`Token`]s, which a cached verdict keeps. A connection remembers the key of the frame that
//! opened it, never a verdict: what it permits is asked of today's rules.
//!
//! What must hold:
//! - a token stands only while what it says is true: a connection's until it is removed or may
//!   change its state, an absence's until a connection appears in its bucket;
//! - the table never grows: connections, connections of an owner and buckets have fixed limits;
//! - a cached verdict's frames take no lock and wait for nobody. Each direction's line is written
//!   by whoever forwards that direction, the other's is only read.
//!
//! Rooms: [`tuple`] (which frames belong together), [`packet`] (what is read of them), [`tcp`]
//! (states and windows), [`line`](mod@line) (what a hit reads and writes), [`table`] (all of
//! them), [`transfer`] (a VM's connections on their way to another host), [`timeouts`].

pub mod line;
pub mod packet;
pub mod table;
pub mod tcp;
pub mod timeouts;
pub mod transfer;
pub mod tuple;

pub use line::{Line, Token};
pub use packet::{Probe, Segment};
pub use table::{Connections, Found, Row, Sought};
pub use timeouts::Timeouts;
pub use transfer::Exported;
pub use tuple::{Direction, Tuple, Zone};
