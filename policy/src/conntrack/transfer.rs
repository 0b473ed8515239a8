//! A VM's connections on their way to another host.
//!
//! What is exported on one host and imported on another continues there: states, windows and who
//! opened what. Numbers of ports and networks are each host's own; they go by name, resolved by
//! whoever calls.

use std::{
    fmt::Write,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use serde::{Deserialize, Serialize};

use super::{
    line::Line,
    table::Connections,
    tcp::{Phase, Tcp},
    tuple::{Kind, Tuple, Zone},
};
use crate::{
    Denial, DropReason, PortId,
    key::{Field, FlowKey},
};

/// The version of [`Exported`] that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// Connections of one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exported {
    /// [`VERSION`].
    pub version: u32,
    /// In no order.
    pub connections: Vec<Connection>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// The network in which its frames are bridged.
    pub network: Arc<str>,
    /// The port of the frame that opened it; `None` for one that is not known to whoever exports.
    pub opened_at: Option<Arc<str>>,
    /// The port whose limit it counts against, the same way.
    pub owner: Option<Arc<str>>,
    /// The flow key of the frame that opened it: eight words (see [`crate::key`]) as 128
    /// hexadecimal digits, without the ingress port.
    pub opener: String,
    /// Seconds since it was opened.
    pub age_s: u32,
    /// Whether the other side has sent anything.
    pub replied: bool,
    /// Where it is TCP: the side that opened it, and the other.
    pub tcp: Option<[End; 2]>,
    /// Where it is TCP: its windows are not looked at.
    pub liberal: bool,
}

/// One end of a TCP connection. Sequence numbers are as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// How far it has come.
    pub phase: Phase,
    /// What must be acknowledged for its next phase.
    pub mark: u32,
    /// Behind the last sequence number that it sent.
    pub end: u32,
    /// The last sequence number that it lets the other end send.
    pub limit: u32,
    /// The largest window it announced, bytes.
    pub max_window: u32,
    /// The last acknowledgement that it sent.
    pub max_ack: u32,
    /// How far its windows are shifted; 16 when it did not offer that.
    pub scale: u32,
}

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Connections that are now in the table.
    pub imported: u32,
    /// Those that were there already.
    pub present: u32,
    /// Those for which there was no room, or whose network or key is unknown.
    pub refused: u32,
}

/// A name for a port, and a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The port.
    pub port: PortId,
    /// Its limit of connections.
    pub limit: u32,
}

impl Connections {
    /// The connections that `select` picks by the port that opened them and the tuple.
    pub fn export(
        &self,
        now_s: u32,
        network: impl Fn(Zone) -> Option<Arc<str>>,
        port: impl Fn(PortId) -> Option<Arc<str>>,
        select: impl Fn(Zone, &FlowKey, PortId) -> bool,
    ) -> Exported {
        let mut connections = Vec::new();
        self.each_live(|record, lines| {
            if !select(record.zone, &record.opener, record.owner) {
                return;
            }
            let Some(network) = network(record.zone) else {
                return;
            };
            let end = |side: usize| end_of(&record.tcp, lines, side);
            connections.push(Connection {
                network,
                opened_at: port(record.opener.ingress()),
                owner: port(record.owner),
                opener: to_hex(&record.opener),
                age_s: now_s.saturating_sub(record.opened_s),
                replied: record.tcp.replied,
                tcp: (record.kind == Some(Kind::Tcp)).then(|| [end(0), end(1)]),
                liberal: record.tcp.liberal,
            });
        });
        Exported {
            version: VERSION,
            connections,
        }
    }

    /// Puts connections into the table; those that are there stay as they are. `port` resolves
    /// names; what it does not know counts against `fallback`.
    pub fn import(
        &self,
        exported: &Exported,
        now_s: u32,
        zone: impl Fn(&str) -> Option<Zone>,
        port: impl Fn(&str) -> Option<Owner>,
        fallback: Owner,
    ) -> Imported {
        let mut done = Imported::default();
        for connection in &exported.connections {
            let resolve = |name: &Option<Arc<str>>| name.as_deref().and_then(&port);
            let owner = resolve(&connection.owner).unwrap_or(fallback);
            let opened_at = resolve(&connection.opened_at).map_or(PortId(u16::MAX), |o| o.port);
            let outcome = zone(&connection.network)
                .ok_or(Denial::new(DropReason::ConnectionInvalid))
                .and_then(|zone| self.import_one(connection, zone, opened_at, owner, now_s));
            match outcome {
                Ok(true) => done.imported += 1,
                Ok(false) => done.present += 1,
                Err(_) => done.refused += 1,
            }
        }
        done
    }

    fn import_one(
        &self,
        connection: &Connection,
        zone: Zone,
        opened_at: PortId,
        owner: Owner,
        now_s: u32,
    ) -> Result<bool, Denial> {
        let invalid = Denial::new(DropReason::ConnectionInvalid);
        let mut opener = from_hex(&connection.opener).ok_or(invalid)?;
        opener.set(Field::INGRESS, u64::from(opened_at.0));
        let tuple = Tuple::of(&opener).ok_or(invalid)?;
        let mut record = Self::blank(opener);
        record.kind = Some(Kind::of(tuple.protocol()));
        if (record.kind == Some(Kind::Tcp)) != connection.tcp.is_some() {
            return Err(invalid);
        }
        record.zone = zone;
        record.owner = owner.port;
        record.tcp.replied = connection.replied;
        record.opened_s = now_s.saturating_sub(connection.age_s);
        if let Some(ends) = connection.tcp {
            record.tcp = Tcp {
                phases: ends.map(|end| end.phase),
                marks: ends.map(|end| end.mark),
                replied: connection.replied,
                liberal: connection.liberal,
            };
        }
        self.insert(&record, owner.limit, now_s, |lines| {
            for (line, end) in lines.iter().zip(connection.tcp.iter().flatten()) {
                line.end.store(end.end, Relaxed);
                line.limit.store(end.limit, Relaxed);
                line.set_max_window(end.max_window);
                line.max_ack.store(end.max_ack, Relaxed);
                line.scale.store(end.scale.min(16), Relaxed);
            }
        })
    }
}

fn end_of(tcp: &Tcp, lines: &[Line; 2], side: usize) -> End {
    let line = &lines[side];
    End {
        phase: tcp.phases[side],
        mark: tcp.marks[side],
        end: line.end.load(Relaxed),
        limit: line.limit.load(Relaxed),
        max_window: line.max_window.load(Relaxed),
        max_ack: line.max_ack.load(Relaxed),
        scale: line.scale.load(Relaxed),
    }
}

fn to_hex(key: &FlowKey) -> String {
    let mut key = *key;
    key.set(Field::INGRESS, 0);
    key.0.iter().fold(String::new(), |mut text, word| {
        // Writing to a string does not fail.
        let _ = write!(text, "{word:016x}");
        text
    })
}

fn from_hex(text: &str) -> Option<FlowKey> {
    if text.len() != 128 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut words = [0; 8];
    for (index, word) in words.iter_mut().enumerate() {
        *word = u64::from_str_radix(text.get(16 * index..16 * index + 16)?, 16).ok()?;
    }
    Some(FlowKey(words))
}
