//! Samples of dropped frames, with names put to them.
//!
//! In: who wants to see what. Out: lines of the stream. What must hold: nothing here waits for
//! workers.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use policy::{DropReason, PortId};

use super::{Control, ControlError, view};
use crate::{
    api::types::{DropLine, DropSample},
    config::problem::nearest,
    decode,
    drop_watch::{Filter, MOST_WATCHES, Sample, Watch, What},
};

/// First bytes of a frame that are shown.
const SHOWN_BYTES: usize = 128;

/// Who wants to see what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchRequest {
    /// Only drops of frames that came in here or were to leave here.
    pub port: Option<String>,
    /// Only drops for this reason.
    pub reason: Option<String>,
    /// Most samples per second and worker.
    pub per_second: u32,
}

/// A stream of dropped frames.
pub struct DropFeed {
    control: Arc<Control>,
    watch: Watch,
}

impl Control {
    /// Begins a stream of dropped frames, which ends with what is returned.
    ///
    /// # Errors
    ///
    /// When there is no such port or reason, or too many watch already.
    pub fn watch_drops(self: &Arc<Self>, wanted: &WatchRequest) -> Result<DropFeed, ControlError> {
        let port = wanted.port.as_deref().map(|name| self.port_id(name));
        let reason = wanted.reason.as_deref().map(reason_named);
        let filter = Filter {
            what: What::Dropped(reason.transpose()?),
            port: port.transpose()?,
            per_second: wanted.per_second,
        };
        let watch = self.watch(filter)?;
        Ok(DropFeed {
            control: Arc::clone(self),
            watch,
        })
    }

    pub(super) fn watch(&self, filter: Filter) -> Result<Watch, ControlError> {
        self.datapath.watch(filter).ok_or_else(|| {
            ControlError::Refused(format!(
                "{MOST_WATCHES} watch frames already; one of them has to end first"
            ))
        })
    }
}

fn reason_named(name: &str) -> Result<DropReason, ControlError> {
    let mut reasons = DropReason::ALL.iter();
    reasons
        .find(|reason| reason.name() == name)
        .copied()
        .ok_or_else(|| {
            let names = DropReason::ALL.iter().map(|reason| reason.name());
            let help = match nearest(name, names) {
                nearest if nearest.is_empty() => "`vswitch drops --reasons` lists them".into(),
                nearest => nearest,
            };
            ControlError::NotFound {
                message: format!("there is no drop reason \"{name}\""),
                help,
            }
        })
}

impl DropFeed {
    /// Whether the switch is about to stop.
    pub fn is_over(&self) -> bool {
        self.control.streams_end()
    }

    /// The next sample. Never waits.
    pub fn next_line(&mut self) -> Option<DropLine> {
        let (sample, skipped) = self.watch.next_sample()?;
        Some(DropLine {
            skipped,
            sample: self.row(&sample),
        })
    }

    /// How many frames were dropped of which there is no sample and will be none. Asked when
    /// there is no further line.
    pub fn take_skipped(&mut self) -> u64 {
        self.watch.take_skipped()
    }

    fn row(&self, sample: &Sample) -> Option<DropSample> {
        let (port, denial) = sample.drop?;
        let now_ns = self.control.datapath.now_ns();
        let state = self.control.state.read();
        let name = |id: PortId| {
            let mut ports = state.ports.iter();
            let known = ports.find(|(_, port)| port.id == id);
            known.map_or_else(|| view::removed(id), |(name, _)| name.to_string())
        };
        let age = Duration::from_nanos(now_ns.saturating_sub(sample.at_ns));
        let time = SystemTime::now().checked_sub(age)?;
        let time = time.duration_since(UNIX_EPOCH).ok()?;
        let port = name(port);
        let vnic = state.config.vnics.iter().find(|vnic| *vnic.port == *port);
        let mut row = DropSample {
            time_s: time.as_secs_f64(),
            ingress: sample.ingress.map(name),
            vm: vnic.map(|vnic| vnic.vm.to_string()),
            reason: denial.reason.name().into(),
            stage: denial.reason.stage().name().into(),
            rule: denial.rule.map(|id| view::rule_row(&state, id)),
            frames: sample.frames,
            port,
            ..DropSample::default()
        };
        if let Some(frame) = &sample.frame {
            let (bytes, len) = (frame.bytes(), frame.frame_len_bytes);
            row.len_bytes = len;
            row.frame = decode::one_line(bytes, len as usize, frame.vlan_tci);
            row.hex = decode::hex(&bytes[..bytes.len().min(SHOWN_BYTES)]);
        }
        Some(row)
    }
}
