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
//! Rooms: [`tuple`](mod@tuple) (which frames belong together), [`packet`] (what is read of them), [`tcp`]
//! (states and windows), [`line`](mod@line) (what a hit reads and writes), [`table`] (all of
//! them), [`fragments`] (what follows a first fragment), [`transfer`] (a VM's connections on their way to another host), [`timeouts`].

pub mod fragments;
pub mod line;
pub mod packet;
pub mod table;
pub mod tcp;
pub mod timeouts;
pub mod transfer;
pub mod tuple;

use crate::key::{Class, Field, FlowKey};

pub use line::{Line, Token};
pub use packet::{Probe, Segment};
pub use table::{Connections, Found, Row, Sought};
pub use timeouts::Timeouts;
pub use transfer::Exported;
pub use tuple::{Direction, Tuple, Zone};

/// What applies to all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How long they live without frames.
    pub timeouts: Timeouts,
    /// Whether a TCP connection may be picked up in its middle.
    pub tcp_loose: bool,
}

/// What following a connection reads of the key of a frame of `class`: its tuple, and the flags
/// that change its state.
pub fn footprint(class: Class) -> FlowKey {
    let mut mask = FlowKey::default();
    if !class.trackable() {
        return mask;
    }
    for field in [
        Field::IP_SRC_HIGH,
        Field::IP_SRC_LOW,
        Field::IP_DST_HIGH,
        Field::IP_DST_LOW,
        Field::PROTOCOL,
        Field::L4_SRC,
        Field::L4_DST,
        Field::SHAPE,
    ] {
        mask.set(field, field.ones());
    }
    if matches!(class, Class::Ipv4Tcp | Class::Ipv6Tcp) {
        mask.set(Field::TCP_FLAGS, u64::from(packet::flags::STATE));
    }
    mask
}
