//! What people and programs are shown of the decapsulator: rows of the API.

use std::collections::BTreeMap;

use mirror::{
    decap::SessionCounters,
    wire::{Identity, Refusal, refusal::Account},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApplyError, Runtime,
    counts::{Loss, SnifferCounters},
};
use crate::config::decapsulator::Sink;

/// What names a session on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Carried {
    /// The sender.
    pub source: String,
    /// The address that it sends to.
    pub destination: String,
    /// `erspan_i`, `erspan_ii`, `erspan_iii`, `gre` or `vxlan`.
    pub format: String,
    /// The ERSPAN session, the GRE key or the VNI, where there is one.
    pub id: Option<u32>,
}

impl From<&Identity> for Carried {
    fn from(identity: &Identity) -> Self {
        Self {
            source: identity.source().to_string(),
            destination: identity.destination().to_string(),
            format: identity.kind().to_string(),
            id: identity.id(),
        }
    }
}

/// What the sequence numbers of a session told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sequence {
    /// Frames that followed the one before.
    pub in_order: u64,
    /// Frames before which others were missing.
    pub gaps: u64,
    /// How many were missing.
    pub missing: u64,
    /// Frames that came after later ones.
    pub reordered: u64,
    /// Frames that came again.
    pub duplicates: u64,
    /// Frames with which the sender began to count anew.
    pub resets: u64,
    /// Frames of a sender that does not count.
    pub constant: u64,
}

/// A session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// What names it on the wire.
    pub carried: Carried,
    /// Who gets its frames.
    pub sniffers: Vec<String>,
    /// `all`, or `spread` by flow.
    pub fan_out: String,
    /// Mirrored frames that named it.
    pub received: u64,
    /// Those that went to at least one sniffer.
    pub delivered: u64,
    /// Bytes of those, without the tunnel.
    pub delivered_bytes: u64,
    /// To how many sniffers they went, all together.
    pub copies: u64,
    /// Those that were not delivered, by reason.
    pub refused: BTreeMap<String, u64>,
    /// What its sniffers did not get of its copies, by reason.
    #[serde(default)]
    pub lost: BTreeMap<String, u64>,
    /// What the sequence numbers told.
    pub sequence: Sequence,
    /// Seconds since the last frame; none came when absent.
    pub last_seen_s_ago: Option<f64>,
}

/// A sniffer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sniffer {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// The Ethernet destination that it receives frames with.
    pub mac: String,
    /// Where its frames go.
    pub sink: String,
    /// `up`, or why frames cannot pass.
    pub state: String,
    /// Frames that were for it.
    pub offered: u64,
    /// Those that its port, files or stream took.
    pub sent: u64,
    /// Bytes of those.
    pub sent_bytes: u64,
    /// Those that wait in its queue, or for the reader of its stream.
    pub waiting: u64,
    /// Those that it did not get, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Frames that it sent itself, which nobody gets.
    pub refused: u64,
}

/// A session that is sent and not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Unknown {
    /// What names it on the wire.
    pub carried: Carried,
    /// Frames that came of it, at least.
    pub frames: u64,
    /// Seconds since the last one.
    pub last_seen_s_ago: f64,
}

/// The decapsulator as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// `up`, or why no frame can come by the tunnel port.
    pub state: String,
    /// Frames that came by the tunnel port.
    pub received: u64,
    /// Those that were for the host: ARP, neighbour discovery, ICMP.
    pub host: u64,
    /// Those of them that were answered.
    pub answered: u64,
    /// Those that were tunnels', or should have been.
    pub frames: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Those of them that were fragments.
    pub fragments: u64,
    /// Datagrams that were put together.
    pub reassembled: u64,
    /// Fragments that were put together.
    pub joined: u64,
    /// Fragments that wait for others.
    pub held: u64,
    /// Mirrored frames of known sessions.
    pub mirrored: u64,
    /// Those that went to at least one sniffer.
    pub delivered: u64,
    /// To how many sniffers they went, all together.
    pub copies: u64,
    /// What was refused of fragments, by reason.
    pub refused_fragments: BTreeMap<String, u64>,
    /// What was refused of frames of no known session, by reason.
    pub refused_frames: BTreeMap<String, u64>,
    /// What was refused of known sessions, by reason.
    pub refused_mirrored: BTreeMap<String, u64>,
    /// Frames for sniffers that are gone.
    pub retired_offered: u64,
    /// Those that they got.
    pub retired_sent: u64,
    /// Busy cycles of the receiving thread for each frame.
    pub cycles_per_frame: f64,
    /// The number of the table in force.
    pub table: u64,
}

/// All there is to show, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Everything {
    /// The whole.
    pub totals: Totals,
    /// Its sessions.
    pub sessions: Vec<Session>,
    /// Its sniffers.
    pub sniffers: Vec<Sniffer>,
}

fn ago(now_ns: u64, then_ns: u64) -> f64 {
    now_ns.saturating_sub(then_ns) as f64 / 1e9
}

fn refusals(account: Account, count: impl Fn(Refusal) -> u64) -> BTreeMap<String, u64> {
    let all = Refusal::ALL.iter().filter(|r| r.account() == account);
    let counted = all.map(|refusal| (refusal.name().to_owned(), count(*refusal)));
    counted.filter(|(_, frames)| *frames > 0).collect()
}

fn up(state: Option<&String>) -> String {
    state.map_or_else(|| "up".to_owned(), Clone::clone)
}

impl Runtime {
    /// Every session, in the order of the configuration.
    pub fn sessions(&self) -> Vec<Session> {
        let now_ns = self.now_ns();
        let (config, table) = self.in_force();
        let rows = config.sessions.iter().filter_map(|session| {
            let slot = table.find(&session.identity)?;
            let counters = self.counters.sessions.get(slot.index())?;
            let fan_out = match session.fan_out {
                mirror::decap::FanOut::All => "all",
                mirror::decap::FanOut::Spread => "spread",
            };
            let lost = |loss| self.losses.lost(slot, loss);
            Some(Session {
                lost: named(lost),
                name: session.name.to_string(),
                tenant: session.tenant.to_string(),
                carried: (&session.identity).into(),
                sniffers: session.sniffers.iter().map(ToString::to_string).collect(),
                fan_out: fan_out.to_owned(),
                ..counted(counters, now_ns)
            })
        });
        rows.collect()
    }

    /// Every sniffer, in the order of the configuration.
    pub fn sniffers(&self) -> Vec<Sniffer> {
        let rows = self.sniffer_views().into_iter().map(|view| {
            let sink = match &view.config.sink {
                Sink::Port(driver) => match driver.interface() {
                    Some(interface) => format!("{} {interface}", driver.name()),
                    None => driver.name().to_owned(),
                },
                Sink::Files(files) => format!("files {}", files.folder.display()),
                Sink::Stream(path) => format!("stream {}", path.display()),
            };
            Sniffer {
                name: view.config.name.to_string(),
                tenant: view.config.tenant.to_string(),
                mac: view.config.mac.to_string(),
                sink,
                state: up(view.state.lock().as_ref()),
                ..got(&view.counters)
            }
        });
        rows.collect()
    }

    /// The whole.
    pub fn totals(&self) -> Totals {
        let totals = &self.counters.totals;
        let refused = |account| refusals(account, |refusal| totals.refused.get(refusal));
        let (frames, busy) = (self.receiver.frames.get(), self.receiver.busy_cycles.get());
        let retired = self.retired();
        Totals {
            state: up(self.port.lock().as_ref()),
            received: frames,
            host: self.own.received.get(),
            answered: self.own.answered.get(),
            frames: totals.frames.get(),
            bytes: totals.bytes.get(),
            fragments: totals.fragments.get(),
            reassembled: totals.reassembled.get(),
            joined: totals.joined.get(),
            held: totals.held.get(),
            mirrored: totals.received.get(),
            delivered: totals.delivered.get(),
            copies: totals.copies.get(),
            refused_fragments: refused(Account::Fragment),
            refused_frames: refused(Account::Frame),
            refused_mirrored: refused(Account::Session),
            retired_offered: retired.offered,
            retired_sent: retired.sent,
            cycles_per_frame: if frames == 0 {
                0.0
            } else {
                busy as f64 / frames as f64
            },
            table: self.in_force().1.version().0,
        }
    }

    /// Sessions that are sent and not known.
    ///
    /// # Errors
    ///
    /// When the receiving thread does not answer.
    pub fn unknown_rows(&self) -> Result<Vec<Unknown>, ApplyError> {
        let now_ns = self.now_ns();
        let mut unknown = self.unknown()?;
        unknown.sort_by_key(|session| std::cmp::Reverse(session.frames));
        let rows = unknown.iter().map(|session| Unknown {
            carried: (&session.identity).into(),
            frames: session.frames,
            last_seen_s_ago: ago(now_ns, session.last_seen_ns),
        });
        Ok(rows.collect())
    }

    /// All of it.
    pub fn everything(&self) -> Everything {
        Everything {
            totals: self.totals(),
            sessions: self.sessions(),
            sniffers: self.sniffers(),
        }
    }
}

fn counted(counters: &SessionCounters, now_ns: u64) -> Session {
    let sequence = &counters.sequence;
    let received = counters.received.get();
    Session {
        received,
        delivered: counters.delivered.get(),
        delivered_bytes: counters.delivered_bytes.get(),
        copies: counters.copies.get(),
        refused: refusals(Account::Session, |refusal| counters.refused.get(refusal)),
        sequence: Sequence {
            in_order: sequence.in_order.get(),
            gaps: sequence.gaps.get(),
            missing: sequence.missing.get(),
            reordered: sequence.reordered.get(),
            duplicates: sequence.duplicates.get(),
            resets: sequence.resets.get(),
            constant: sequence.constant.get(),
        },
        last_seen_s_ago: (received > 0).then(|| ago(now_ns, counters.last_seen_ns.get())),
        ..Session::default()
    }
}

/// Losses that there were.
fn named(lost: impl Fn(Loss) -> u64) -> BTreeMap<String, u64> {
    let all = Loss::ALL.iter();
    let counted = all.map(|loss| (loss.name().to_owned(), lost(*loss)));
    counted.filter(|(_, frames)| *frames > 0).collect()
}

fn got(counters: &SnifferCounters) -> Sniffer {
    Sniffer {
        offered: counters.offered.frames.get(),
        sent: counters.sent.frames.get(),
        sent_bytes: counters.sent.bytes.get(),
        waiting: counters.waiting(),
        lost: named(|loss| counters.lost(loss)),
        refused: counters.sent.refused.get(),
        ..Sniffer::default()
    }
}
