//! The time of a turn: one cheap reading, in cycles, that converts to nanoseconds.

use std::time::{Duration, Instant};

/// Reads the processor's time-stamp counter, which ticks at a constant rate.
#[inline]
pub fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: RDTSC exists on every x86_64 processor and touches no memory.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(target_arch = "aarch64")]
    {
        let ticks: u64;
        // SAFETY: CNTVCT_EL0 is readable from user space on Linux and touches no memory.
        unsafe {
            core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack));
        }
        ticks
    }
}

/// Converts the counter to nanoseconds since the clock was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: u64,
    /// Nanoseconds per cycle, 32.32 fixed point.
    ns_per_cycle_q32: u64,
}

impl Clock {
    /// Measures the counter's rate against the system clock; takes about 20 ms.
    pub fn calibrate() -> Self {
        let (began, origin) = simultaneous();
        std::thread::sleep(Duration::from_millis(20));
        let (ended, end) = simultaneous();
        let elapsed_ns = (ended - began).as_nanos();
        let ticks = end.saturating_sub(origin).max(1);
        let ns_per_cycle_q32 = ((elapsed_ns << 32) / u128::from(ticks)) as u64;
        Self {
            origin,
            ns_per_cycle_q32,
        }
    }

    /// Nanoseconds from this clock's origin to `cycles`, a reading of [`cycles`].
    #[inline]
    pub fn ns_at(&self, cycles: u64) -> u64 {
        self.ns_between(self.origin, cycles)
    }

    /// Nanoseconds between two readings.
    #[inline]
    pub fn ns_between(&self, from: u64, to: u64) -> u64 {
        let ticks = to.saturating_sub(from);
        ((u128::from(ticks) * u128::from(self.ns_per_cycle_q32)) >> 32) as u64
    }

    /// Cycles in one second, as measured.
    pub fn cycles_per_s(&self) -> f64 {
        1e9 * 4_294_967_296.0 / self.ns_per_cycle_q32 as f64
    }
}

/// Both clocks, read as closely together as several tries allow: what interrupts the process
/// between the two must not pass for time of one of them.
fn simultaneous() -> (Instant, u64) {
    let read = || {
        let before = cycles();
        let now = Instant::now();
        let after = cycles();
        (after.saturating_sub(before), now, before.midpoint(after))
    };
    let best = (0..16).map(|_| read()).min_by_key(|(apart, ..)| *apart);
    let (_, now, at) = best.unwrap_or_else(read);
    (now, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_the_same_whenever_it_is_measured() {
        let (one, two) = (Clock::calibrate(), Clock::calibrate());
        let ratio = one.cycles_per_s() / two.cycles_per_s();
        assert!((0.98..1.02).contains(&ratio), "{ratio}");
    }
}
