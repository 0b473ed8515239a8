//! The JSON shapes of the API, documented for people in `docs/cli.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Frames dropped, by reason.
pub type Drops = BTreeMap<String, u64>;

/// A port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its number while it exists.
    pub id: u16,
    /// `af_xdp`, `tap`, `pcap`, `memory` or `vhost_user`.
    pub driver: String,
    /// The interface it holds; empty when it holds none.
    pub interface: String,
    /// The socket by which it meets its guest; empty when it meets none.
    #[serde(default)]
    pub socket: String,
    /// `up`, `down` or `waiting`.
    pub state: String,
    /// Why it is not up; empty when it is.
    pub reason: String,
    /// Seconds since the state is what it is.
    pub since_s: u64,
    /// What the driver got, in words.
    pub mode: String,
    /// Longest frame, bytes, without FCS and tag; 0 until the port was opened.
    pub max_frame_bytes: u64,
    /// What a person should know about the port.
    pub notes: Vec<String>,
    /// Networks carried with a tag, or the one of an access port.
    pub networks: Vec<String>,
    /// True for a trunk.
    pub trunk: bool,
    /// The network of a trunk's untagged frames.
    pub native: Option<String>,
    /// True when it reaches only ports that are not isolated.
    pub isolated: bool,
    /// The vNIC bound to it.
    pub vnic: Option<String>,
    /// Its VM.
    pub vm: Option<String>,
    /// Receive queues and their workers.
    pub queues: Vec<Queue>,
    /// How often it was attached again after it was gone.
    pub reattached: u64,
    /// What the driver counts itself.
    pub driver_counts: BTreeMap<String, u64>,
    /// What else the driver tells, such as what a guest negotiated, in the order to be shown.
    #[serde(default)]
    pub details: Vec<Detail>,
    /// What was counted.
    #[serde(flatten)]
    pub counts: PortCounts,
}

/// Something that a driver tells of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Detail {
    /// What it is about.
    pub name: String,
    /// What there is to know.
    pub text: String,
}

/// What is counted per port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortCounts {
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Extra destinations made by flooding frames received here.
    pub replicas: u64,
    /// Destinations handed on from frames received here.
    pub forwarded: u64,
    /// Destinations handed to this port.
    pub offered: u64,
    /// Those of them that the switch itself made.
    pub originated: u64,
    /// Frames judged by the flow cache.
    pub cache_hits: u64,
    /// Frames judged by the slow path.
    pub cache_misses: u64,
    /// Frames dropped, by reason; only those that happened.
    pub drops: Drops,
}

/// A port in the statistics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortStats {
    /// Its name.
    pub name: String,
    /// What was counted.
    #[serde(flatten)]
    pub counts: PortCounts,
}

/// A receive queue and who polls it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Queue {
    /// The port's name.
    pub port: String,
    /// The queue's number.
    pub queue: usize,
    /// The worker's number.
    pub worker: usize,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    /// Its number: its place in `[workers] cores`.
    pub worker: usize,
    /// The core it is pinned to.
    pub core: usize,
    /// Frames received.
    pub frames: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Bursts that held a frame.
    pub bursts: u64,
    /// Turns.
    pub turns: u64,
    /// Frames judged by the flow cache.
    pub cache_hits: u64,
    /// Frames judged by the slow path.
    pub cache_misses: u64,
    /// Frames dropped because a port had used up its misses of the turn.
    pub budget_drops: u64,
    /// Flows in the cache.
    pub cache_entries: u64,
    /// Cycles of the time stamp counter in turns that had frames.
    pub busy_cycles: u64,
    /// Busy cycles for each frame.
    pub cycles_per_frame: f64,
    /// Share of the time asleep, 0 to 1.
    pub sleep_share: f64,
    /// Times it blocked until it was woken.
    pub blocks: u64,
}

/// A learned address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mac {
    /// The network's name.
    pub network: String,
    /// The address.
    pub mac: String,
    /// The port's name.
    pub port: String,
    /// Seconds since it sent last; absent for a vNIC's own address, which does not age.
    pub age_s: Option<u32>,
}

/// An entry of a flow cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// The worker in whose cache it is.
    pub worker: usize,
    /// The port its frames came in by.
    pub port: String,
    /// What its frames have in common: field and value.
    pub fields: BTreeMap<String, String>,
    /// What happens to them.
    pub verdict: String,
    /// Frames that hit it.
    pub hits: u64,
}

/// Frames dropped at one port for one reason, by one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drop {
    /// The port's name.
    pub port: String,
    /// The reason's name.
    pub reason: String,
    /// The reason in words.
    pub text: String,
    /// The rule that decided, if one did.
    pub rule: Option<Rule>,
    /// The VM behind the port, if there is one.
    pub vm: Option<String>,
    /// How many.
    pub frames: u64,
}

/// A rule, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rule {
    /// Its number.
    pub id: u32,
    /// The ACL.
    pub acl: String,
    /// Its place in the ACL, from 1.
    pub position: u32,
    /// The rule in one line.
    pub text: String,
    /// `file:line`.
    pub place: String,
}

/// A rule in force and what it decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuleHits {
    /// The rule.
    #[serde(flatten)]
    pub rule: Rule,
    /// Frames that it let pass.
    pub passed: u64,
    /// Frames that it denied or rejected.
    pub dropped: u64,
    /// Seconds since it last decided, at most a few too low; none when it never did.
    pub last_hit_s_ago: Option<u32>,
}

/// Everything that is counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// The epoch in force.
    pub epoch: u64,
    /// Seconds since start.
    pub uptime_s: u64,
    /// By port.
    pub ports: Vec<PortStats>,
    /// Of ports that are no more, all together: without them the totals would not add up.
    pub removed_ports: PortCounts,
    /// By worker.
    pub workers: Vec<Worker>,
}

/// The running configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Config {
    /// The file's name, as it was given.
    pub file: String,
    /// The epoch it is in force with.
    pub epoch: u64,
    /// The text, with ports that were added and without those that were removed since.
    pub text: String,
}

/// Whether the switch is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// True when every worker answers.
    pub alive: bool,
    /// The epoch in force.
    pub epoch: u64,
    /// Seconds since start.
    pub uptime_s: u64,
    /// The process.
    pub pid: u32,
    /// The version.
    pub version: String,
    /// Ports that are not up: name, state and reason.
    pub ports_not_up: Vec<String>,
}

/// Which worker a receive queue shall have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Assignment {
    /// The port's name.
    pub port: String,
    /// The queue's number.
    pub queue: usize,
    /// The worker's number.
    pub worker: usize,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// What went wrong, and what to do.
    pub error: String,
    /// Each problem of a configuration.
    pub details: Vec<crate::config::Problem>,
}
