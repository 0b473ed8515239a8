//! The JSON shapes of mirror sessions, documented for people in `docs/mirroring.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is mirrored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MirrorSource {
    /// A VM's interface.
    Vnic(String),
    /// A port.
    Port(String),
    /// The owner's access ports of a network.
    Network(String),
}

/// Which frames, as the VM sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MirrorDirection {
    /// To the VM.
    In,
    /// From the VM.
    Out,
    /// All.
    #[default]
    Both,
}

/// What one in so many is taken of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MirrorSampling {
    /// Of frames.
    #[default]
    Frames,
    /// Of flows, all frames of those.
    Flows,
}

fn default_priority() -> u16 {
    100
}

/// A mirror session, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MirrorRequest {
    /// Its name, one of a kind for its owner.
    pub name: String,
    /// The tenant whose it is, and whose the source must be.
    pub owner: String,
    /// What is mirrored.
    pub source: MirrorSource,
    /// Where copies go: a `[[mirror_target]]`.
    pub target: String,
    /// Which frames.
    #[serde(default)]
    pub direction: MirrorDirection,
    /// Rules: `allow` mirrors, `deny` does not, the first that matches decides. None mirrors all.
    #[serde(default)]
    pub filter: Vec<String>,
    /// Frames that policy rejects, too.
    #[serde(default)]
    pub rejected: bool,
    /// Only so many bytes of each frame.
    #[serde(default)]
    pub truncate_bytes: Option<u32>,
    /// One in so many.
    #[serde(default)]
    pub sample: Option<u32>,
    /// Of what.
    #[serde(default)]
    pub sample_by: MirrorSampling,
    /// Copies a second, at most.
    #[serde(default)]
    pub frames_per_second: Option<u64>,
    /// Bits a second, at most, headers of the tunnel included.
    #[serde(default)]
    pub bits_per_second: Option<u64>,
    /// Who is served first: the lower number.
    #[serde(default = "default_priority")]
    pub priority: u16,
    /// After so many seconds it ends by itself.
    #[serde(default)]
    pub lease_s: Option<u64>,
}

/// A mirror session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MirrorSession {
    /// What was asked for. `lease_s` is what is left of it.
    #[serde(flatten)]
    pub request: MirrorRequest,
    /// What names it at its target: the ERSPAN session, the GRE key, the VNI.
    pub number: u32,
    /// `active`; `unreachable`: there is no way to the decapsulator; or `suspended`.
    pub state: String,
    /// Why it is not active.
    pub reason: String,
    /// The ports that it taps.
    pub ports: Vec<String>,
    /// Frames that its direction and filter chose.
    pub wanted: u64,
    /// Those that were copied.
    pub copied: u64,
    /// Bytes that left for them.
    pub bytes: u64,
    /// Copies that were cut.
    pub truncated: u64,
    /// Outer fragments that were sent.
    pub fragments: u64,
    /// Frames that were not copied, by reason; only those that happened.
    pub skipped: BTreeMap<String, u64>,
}

/// Something that was done to a mirror session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MirrorAudit {
    /// When, in seconds since 1970.
    pub time_s: u64,
    /// By whom: the process at the other end of the control socket, or the switch itself.
    pub who: String,
    /// Whose session it is.
    pub owner: String,
    /// Which.
    pub session: String,
    /// `created`, `changed`, `deleted`, `ended`, `suspended` or `resumed`.
    pub action: String,
    /// What it is about, or why.
    pub detail: String,
}
