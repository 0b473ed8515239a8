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
    /// `up`, `down`, `disabled` or `waiting`.
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
    /// Frames received here that the switch took itself.
    pub taken: u64,
    /// Those of them that came back to be judged.
    pub returned: u64,
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

/// What looking up the rules of a vNIC costs at most, whatever the frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lookup {
    /// The vNIC.
    pub vnic: String,
    /// `in` (to the VM) or `out`.
    pub direction: String,
    /// Rules, with what sets stand for put in.
    pub rules: u64,
    /// `linear` or `tuple_merge`.
    pub method: String,
    /// Hashed tables that the rules stand in.
    pub tables: u64,
    /// Most tables that are looked into.
    pub probes: u64,
    /// Most rules that are compared.
    pub compares: u64,
    /// The two together: what `max_lookup_cost` bounds.
    pub cost: u64,
}

/// A set of addresses or ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// `address_set`, `port_set`, or `group` for the addresses of a group's members.
    pub kind: String,
    /// What is in it.
    pub members: Vec<String>,
    /// How many written rules name it.
    pub rules: u64,
    /// Frames that these let pass.
    pub passed: u64,
    /// Frames that they denied or rejected, or that were over their limits.
    pub dropped: u64,
    /// Seconds since one of them last decided, at most a few too low; none when none did.
    pub last_hit_s_ago: Option<u32>,
}

/// Members to put into a set and to take out of it, in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SetChange {
    /// Addresses, prefixes, ports or ranges of ports. Those that are there stay.
    pub add: Vec<String>,
    /// The same; each must be there, as it was put in.
    pub remove: Vec<String>,
}

/// A route to put into a router, or to take out of it: the fields of `[[router.route]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// A prefix or an address.
    pub to: String,
    /// Next hops.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<String>,
    /// The network of hosts that have the addresses, or of a link-local next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// `blackhole` or `reject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The least is followed. To take a route out: of this metric alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

/// Routes to put into a router and to take out of it, in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteChange {
    /// To be put in; one that is there already is refused.
    pub add: Vec<RouteSpec>,
    /// To be taken out: every route to exactly the prefix, or those that lead where it says.
    pub delete: Vec<RouteSpec>,
}

/// What a change of routes did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoutesChanged {
    /// The epoch that is in force now.
    pub epoch: u64,
    /// Routes put in.
    pub added: usize,
    /// Routes taken out.
    pub deleted: usize,
    /// How long that took until it was in effect, microseconds.
    pub took_us: u64,
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
    /// For how many seconds more it is held there, having moved too often; absent when it is not.
    #[serde(default)]
    pub held_s: Option<u32>,
}

/// A host that a router sends to, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Neighbor {
    /// The network's name.
    pub network: String,
    /// Its address.
    pub address: String,
    /// Its Ethernet address; absent when nobody has answered.
    pub mac: Option<String>,
    /// `known`, `asked` or `nobody`.
    pub state: String,
    /// Seconds since that was learned or first asked.
    pub age_s: u32,
}

/// A route of a router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Route {
    /// The router's name.
    pub router: String,
    /// What it is a route to.
    pub prefix: String,
    /// Where it leads, in words.
    pub to: String,
    /// The least is followed.
    pub metric: u32,
    /// `network` for one that comes with an interface, else `configuration`.
    pub origin: String,
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
    /// Where in the walk it was decided.
    #[serde(default)]
    pub stage: String,
    /// The reason in words.
    pub text: String,
    /// False for what a full ledger counted by reason only: rules may have decided, which ones is
    /// not known.
    #[serde(default)]
    pub itemised: bool,
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
    /// Frames that it denied or rejected, or that were over its limit.
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
    /// Of connection tracking.
    pub connections: ConnectionStats,
    /// Of the MAC tables.
    #[serde(default)]
    pub macs: MacStats,
}

/// What happened to learned addresses since start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MacStats {
    /// Times that one moved to another port.
    pub moves: u64,
    /// Times that one had moved too often and was held where it was.
    pub flaps: u64,
}

/// What connection tracking counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConnectionStats {
    /// Connections there are.
    pub live: u32,
    /// Most there can be.
    pub max: u32,
    /// Connections opened since start.
    pub opened: u64,
    /// Of those, forgotten because no frame came.
    pub expired: u64,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    /// Its network.
    pub network: String,
    /// `tcp`, `udp`, `icmp`, or the protocol's number.
    pub protocol: String,
    /// Who opened it.
    pub src: String,
    /// From which port; the identifier of an ICMP echo; 0 where there is none.
    pub src_port: u16,
    /// To whom.
    pub dst: String,
    /// To which port, the same way.
    pub dst_port: u16,
    /// Of TCP as in RFC 9293, else `unreplied` or `replied`.
    pub state: String,
    /// The port of the frame that opened it; absent when it came from another host.
    pub port: Option<String>,
    /// The port whose vNIC's `connection_limit` it counts against.
    pub counts_against: Option<String>,
    /// Seconds since it was opened.
    pub age_s: u32,
    /// Seconds since its last frame.
    pub idle_s: u32,
    /// Seconds until it is forgotten, if no frame comes.
    pub left_s: u32,
}

/// What a flush did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flushed {
    /// Connections that were forgotten.
    pub connections: u32,
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

/// Frames to be explained: those given, or one made for a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// The port that they would come in by.
    pub port: String,
    /// Whole frames, at most 1000.
    #[serde(default)]
    pub frames: Vec<FrameText>,
    /// The flow that a frame is to be made for.
    pub flow: Option<FlowText>,
}

/// A frame as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FrameText {
    /// Hexadecimal digits: all of it, or its first 256 bytes at least.
    pub hex: String,
    /// Its whole length, bytes; as many as there are digits for when absent.
    pub len_bytes: Option<usize>,
    /// How often it was seen, where that matters; 1 when absent.
    pub seen: Option<u64>,
}

/// A flow, for which a frame is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowText {
    /// `tcp` (a SYN), `udp` or `icmp` (an echo request).
    pub protocol: String,
    /// Source and destination, as in `10.0.0.1:1024,10.0.0.2:22`; for ICMP without ports.
    pub addresses: String,
    /// The sender's Ethernet address; that of the port's vNIC when absent.
    pub src_mac: Option<String>,
    /// The receiver's Ethernet address; that of the vNIC with the destination address when absent.
    pub dst_mac: Option<String>,
    /// The tag that the frame comes with.
    pub vlan: Option<u16>,
}

/// What would become of a frame, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The port that it would come in by.
    pub port: String,
    /// The frame in one line.
    pub frame: String,
    /// The epoch whose policy was asked.
    pub epoch: u64,
    /// Its class, which chooses the footprint mask.
    pub class: String,
    /// What policy could read of frames of this class from this port.
    pub mask: Vec<String>,
    /// The stages that it got to, in order.
    pub stages: Vec<ExplainedStage>,
    /// What becomes of it, in words.
    pub verdict: String,
    /// The reason for which it reaches nobody: for which it is dropped, or the first destination's
    /// when it is dropped at each.
    pub reason: Option<String>,
    /// What to do about that.
    pub advice: Option<String>,
    /// Where it goes, or would go but for the policy there.
    pub destinations: Vec<ExplainedDestination>,
    /// The mirror sessions of the ports that it passes, and whether each would copy it.
    #[serde(default)]
    pub mirrors: Vec<ExplainedMirror>,
    /// Whether the flow cache would keep the verdict.
    pub cacheable: bool,
    /// Whether the cache would have answered: of each worker that has a queue of the port.
    pub cache: Vec<CacheAnswer>,
}

/// One stage of the walk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedStage {
    /// Its name.
    pub stage: String,
    /// The port whose policy was asked.
    pub port: String,
    /// Whether the frame passed.
    pub passed: bool,
    /// What was found, in words.
    pub text: String,
    /// The reason for which it did not pass.
    pub reason: Option<String>,
    /// The rule that decided, if one did.
    pub rule: Option<Rule>,
    /// What a lookup among rules took.
    pub looked_at: Option<LookedAt>,
}

/// What a lookup among rules took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LookedAt {
    /// Rules in the list.
    pub rules: usize,
    /// Tables they stand in; 0 for a list that is looked through in order.
    pub tables: usize,
    /// Rules that were compared, if only by their first comparison.
    pub rules_compared: usize,
    /// Tables that were probed.
    pub tables_probed: usize,
}

/// A port that a frame is bound for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedDestination {
    /// The port.
    pub port: String,
    /// The VLAN it leaves with; absent when it leaves untagged.
    pub vlan: Option<u16>,
    /// What is done to its tag, in words.
    pub tag: String,
    /// True when it is handed to the port's driver.
    pub sent: bool,
    /// The reason for which it is not.
    pub reason: Option<String>,
}

/// What a mirror session would do with a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedMirror {
    /// The session's owner.
    pub owner: String,
    /// The session.
    pub session: String,
    /// The port that it taps.
    pub port: String,
    /// `out`: as it is received from the VM; `in`: as it leaves for it.
    pub direction: String,
    /// Whether it would be copied.
    pub copied: bool,
    /// Why not: `suspended`, `direction`, `rejected`, `filter`, or the reason for which the session
    /// skips it.
    pub reason: Option<String>,
    /// The same in words.
    pub text: String,
}

/// What a worker's flow cache has for a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheAnswer {
    /// The worker.
    pub worker: usize,
    /// Whether the cache would answer; else the slow path does.
    pub hit: bool,
    /// The answer.
    pub verdict: Option<String>,
    /// Frames that it answered so far.
    pub hits: u64,
}

/// One line of the stream of dropped frames.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DropLine {
    /// Frames dropped, since the line before, of which no sample was taken.
    pub skipped: u64,
    /// A sample; absent in lines that come when there is none for a while.
    pub sample: Option<DropSample>,
}

/// A dropped frame, or several of which it is not known which they were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DropSample {
    /// When, seconds since 1970.
    pub time_s: f64,
    /// The port in whose account it was dropped.
    pub port: String,
    /// The port it came in by, where that is known.
    pub ingress: Option<String>,
    /// The VM behind `port`, if there is one.
    pub vm: Option<String>,
    /// The reason's name.
    pub reason: String,
    /// Where in the walk it was decided.
    pub stage: String,
    /// The rule that decided, if one did.
    pub rule: Option<Rule>,
    /// How many frames this is.
    pub frames: u32,
    /// The whole length, bytes; 0 when it is not known which frames they were.
    pub len_bytes: u32,
    /// The frame in one line; empty when it is not known.
    pub frame: String,
    /// Its first 128 bytes, in hexadecimal digits.
    pub hex: String,
}

/// A configuration that is to be compared with the running one, over traffic: over `frames` that
/// come in by `port`, or over what comes in for `live_s` seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompareRequest {
    /// The file's name, for messages and rules.
    pub file: String,
    /// The whole configuration.
    pub text: String,
    /// The port; with `live_s` any when absent.
    pub port: Option<String>,
    /// Frames, one of each flow, at most 20,000.
    #[serde(default)]
    pub frames: Vec<FrameText>,
    /// How long to look at what comes in, 1 to 300 seconds.
    pub live_s: Option<u32>,
}

/// Which flows two configurations judge differently.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Compared {
    /// Flows that both were asked about.
    pub flows: u64,
    /// Their frames.
    pub frames: u64,
    /// Frames that came and were not looked at: the rate of samples or the number of flows was
    /// exhausted.
    pub frames_not_looked_at: u64,
    /// Flows that would be judged otherwise.
    pub changed_flows: u64,
    /// Their frames.
    pub changed_frames: u64,
    /// Those of these flows that go where they went, under other limits. How many of their frames
    /// these drop depends on when frames come.
    pub changed_limits_only: u64,
    /// They, those seen most often first; at most 1000.
    pub changed: Vec<ChangedFlow>,
}

/// A flow that two configurations judge differently.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangedFlow {
    /// The port it comes in by.
    pub port: String,
    /// One of its frames in one line.
    pub frame: String,
    /// How many were seen.
    pub seen: u64,
    /// What becomes of them now.
    pub now: String,
    /// The rule that decides so, if one does.
    pub now_rule: Option<Rule>,
    /// What would become of them.
    pub then: String,
    /// The rule that would decide so, if one did.
    pub then_rule: Option<Rule>,
    /// The limits that it is under now.
    pub now_limits: Vec<FlowLimit>,
    /// The limits that it would be under.
    pub then_limits: Vec<FlowLimit>,
}

/// A rule's limit that a flow is under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowLimit {
    /// The port of the vNIC whose rule it is.
    pub port: String,
    /// `in` or `out`.
    pub direction: String,
    /// What takes a token: `frames`, `connections` that are opened, or `answers` to rejected frames.
    pub of: String,
    /// The limit, as in `100/s burst 20`.
    pub limit: String,
    /// The rule.
    pub rule: Rule,
}
