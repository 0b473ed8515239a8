//! The JSON shapes of captures, documented for people in `docs/capture.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::mirror_types::{MirrorDirection, MirrorSampling, MirrorSource};

/// The header that has a capture's number.
pub const ID_HEADER: &str = "vswitch-capture";
/// The trailer that has its [`CaptureSummary`].
pub const SUMMARY_TRAILER: &str = "vswitch-capture-summary";
/// Copies a second of a capture that says nothing else.
pub const DEFAULT_FRAMES_PER_SECOND: u64 = 100_000;
/// Bits a second of a capture that says nothing else.
pub const DEFAULT_BITS_PER_SECOND: u64 = 500_000_000;

/// A capture, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CaptureRequest {
    /// What is captured.
    pub sources: Vec<MirrorSource>,
    /// The tenant for whom, and whose the sources must be. Without one, the provider.
    pub owner: Option<String>,
    /// Which frames.
    pub direction: MirrorDirection,
    /// Rules: `allow` captures, `deny` does not, the first that matches decides. None captures all.
    pub filter: Vec<String>,
    /// Frames that policy rejects, too.
    pub rejected: bool,
    /// Only so many bytes of each frame.
    pub truncate_bytes: Option<u32>,
    /// One in so many.
    pub sample: Option<u32>,
    /// Of what.
    pub sample_by: MirrorSampling,
    /// Copies a second, at most; null is no limit.
    pub frames_per_second: Option<u64>,
    /// Bits a second, at most; null is no limit.
    pub bits_per_second: Option<u64>,
    /// It ends after so many frames.
    pub count: Option<u64>,
    /// It ends after so many seconds.
    pub seconds: Option<u64>,
}

impl Default for CaptureRequest {
    /// All frames of nothing, within a budget that hurts nobody.
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            owner: None,
            direction: MirrorDirection::default(),
            filter: Vec::new(),
            rejected: false,
            truncate_bytes: None,
            sample: None,
            sample_by: MirrorSampling::default(),
            frames_per_second: Some(DEFAULT_FRAMES_PER_SECOND),
            bits_per_second: Some(DEFAULT_BITS_PER_SECOND),
            count: None,
            seconds: None,
        }
    }
}

/// A capture that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capture {
    /// Its number.
    pub id: u32,
    /// Who captures: the process at the other end of the control socket.
    pub who: String,
    /// Since when, in seconds since 1970.
    pub since_s: u64,
    /// What was asked for.
    #[serde(flatten)]
    pub request: CaptureRequest,
    /// Its ports.
    pub ports: Vec<CapturePort>,
}

/// What a capture counted of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CapturePort {
    /// The port.
    pub port: String,
    /// Frames that direction and filter chose.
    pub wanted: u64,
    /// Those that were copied.
    pub copied: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Copies that were cut.
    pub truncated: u64,
    /// Frames that were not copied, by reason; only those that happened.
    pub skipped: BTreeMap<String, u64>,
}

/// What all captures counted together since start, those that are over too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureTotals {
    /// Captures that go on.
    pub running: u64,
    /// Frames that they chose.
    pub wanted: u64,
    /// Those that were copied.
    pub copied: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that were chosen and not copied; what was sampled out is not among them.
    pub lost: u64,
}

/// How a capture went, behind its last frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CaptureSummary {
    /// Frames that were handed over.
    pub captured: u64,
    /// Frames that were chosen and are missing, by reason; only those that happened.
    pub dropped: BTreeMap<String, u64>,
    /// Why it ended.
    pub ended: String,
}
