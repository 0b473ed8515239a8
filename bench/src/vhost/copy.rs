//! What the machine can copy, for comparison: buffers of the same size, number and distance as the
//! guests', and nothing but the copy.

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;

use super::testpmd::RING_SLOTS;
use crate::process;

/// Copies `size_bytes` from each of a ring of buffers to each of another, over and over, on `core`.
///
/// # Errors
/// When the core is not to be had.
pub(super) fn bytes_per_s(size_bytes: usize, seconds: f64, core: usize) -> anyhow::Result<f64> {
    let copying = thread::spawn(move || {
        process::pin(core)?;
        let stride = size_bytes.next_multiple_of(4096);
        let from = vec![1_u8; RING_SLOTS as usize * stride];
        let mut to = vec![2_u8; from.len()];
        let began = Instant::now();
        let mut bytes = 0;
        while began.elapsed() < Duration::from_secs_f64(seconds) {
            for (from, to) in from.chunks(stride).zip(to.chunks_mut(stride)) {
                to[..size_bytes].copy_from_slice(black_box(&from[..size_bytes]));
                bytes += size_bytes;
            }
            black_box(&mut to);
        }
        Ok(bytes as f64 / began.elapsed().as_secs_f64())
    });
    match copying.join() {
        Ok(done) => done,
        Err(_) => bail!("the copying thread panicked"),
    }
}
