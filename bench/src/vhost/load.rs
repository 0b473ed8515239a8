//! What the bench asks of a guest, whichever it is.

use std::time::Instant;

/// What has happened since frames began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// When it was so.
    pub(super) at: Instant,
    /// Frames that came through, by port.
    pub(super) received: [u64; 2],
    /// Bytes of these; 0 when it does not count them.
    pub(super) bytes: u64,
    /// How often it wanted to send something, and how often of those it found the ring full.
    pub(super) tried: u64,
    pub(super) refused: u64,
}

/// A guest with two devices that sends from each to the other.
pub(super) trait Load {
    /// Frames of `size_bytes` from now on, without FCS.
    ///
    /// # Errors
    /// When the guest has failed.
    fn begin(&mut self, size_bytes: usize) -> anyhow::Result<()>;

    /// What has happened since it began.
    ///
    /// # Errors
    /// When the guest has failed.
    fn sample(&mut self) -> anyhow::Result<Sample>;

    /// No more frames.
    ///
    /// # Errors
    /// When the guest has failed.
    fn end(&mut self) -> anyhow::Result<()>;
}
