//! Ports that a spanning tree frame has disabled (BPDU guard).
//!
//! In: that such a frame came, and that somebody wants the port back. Out: whether a port is
//! disabled, and since when. Only the slow path asks. What must hold: who disables or enables a port
//! advances the generations of its networks afterwards, so that every cached decision that was made
//! before is void ([`crate::bridge::Bridge::disable`]).

use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Release},
};

use policy::PortId;

/// By port: 0, or the second in which it was disabled and one.
#[derive(Debug)]
pub struct Guards(Box<[AtomicU32]>);

impl Default for Guards {
    fn default() -> Self {
        Self((0..=u16::MAX).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Guards {
    /// Whether frames from and to a port are dropped.
    #[inline]
    pub fn is_disabled(&self, port: PortId) -> bool {
        self.0[port.index()].load(Acquire) != 0
    }

    /// When the port was disabled, in seconds of the clock.
    pub fn disabled_s(&self, port: PortId) -> Option<u32> {
        self.0[port.index()].load(Acquire).checked_sub(1)
    }

    /// Disables a port, if it is not yet.
    pub(crate) fn disable(&self, port: PortId, now_s: u32) -> bool {
        let cell = &self.0[port.index()];
        let disabled = now_s.saturating_add(1);
        cell.compare_exchange(0, disabled, Release, Acquire).is_ok()
    }

    /// Enables a port. Whether it was disabled.
    pub(crate) fn enable(&self, port: PortId) -> bool {
        self.0[port.index()].swap(0, Release) != 0
    }
}
