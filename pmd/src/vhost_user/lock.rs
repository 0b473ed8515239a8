//! The lock around one queue's ring: workers never wait for control, and control never starves.
//!
//! ```text
//!   state:   0 ──worker enters──► WORKER ──leaves──► 0
//!            control sets CONTROL (no worker enters any more), waits until WORKER is clear,
//!            owns the value, clears CONTROL
//! ```
//!
//! What must hold: whoever has the value is alone with it. A worker enters only by turning the
//! state from 0 to WORKER; control only goes on once it has set CONTROL and seen WORKER clear.
//! A worker holds the lock for a burst at most, so control waits for a turn at most. There is
//! one control thread for each lock.

use std::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

const WORKER: u32 = 1;
const CONTROL: u32 = 2;

/// How often a worker looks again while another worker transmits: longer than a burst takes.
const PATIENCE: u32 = 20_000;

/// Control looks again after this time.
const CONTROL_NAP: Duration = Duration::from_micros(20);

pub(super) struct QueueLock<T> {
    state: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the module's rule gives the value to one thread at a time.
unsafe impl<T: Send> Sync for QueueLock<T> {}

impl<T> QueueLock<T> {
    pub(super) fn new(value: T) -> Self {
        Self {
            state: AtomicU32::new(0),
            value: UnsafeCell::new(value),
        }
    }

    /// Enters as a worker, unless somebody is in, or control wants to be.
    #[inline(always)]
    pub(super) fn try_enter(&self) -> Option<Entered<'_, T>> {
        self.state
            .compare_exchange(0, WORKER, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| Entered { lock: self })
    }

    /// Enters as a worker, past another worker that is in for one transmit. Gives up when
    /// control is in.
    #[inline(always)]
    pub(super) fn enter_behind_worker(&self) -> Option<Entered<'_, T>> {
        self.try_enter().or_else(|| self.wait_for_worker())
    }

    #[cold]
    fn wait_for_worker(&self) -> Option<Entered<'_, T>> {
        for _ in 0..PATIENCE {
            if self.state.load(Ordering::Relaxed) & CONTROL != 0 {
                return None;
            }
            if let Some(entered) = self.try_enter() {
                return Some(entered);
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Resumes what [`Entered::keep`] kept.
    ///
    /// # Safety
    ///
    /// The caller kept it, and this is the only resumption.
    #[inline(always)]
    pub(super) unsafe fn resume(&self) -> Entered<'_, T> {
        Entered { lock: self }
    }

    /// Waits until no worker is in, and keeps them out.
    pub(super) fn control(&self) -> Controlled<'_, T> {
        let mut state = self.state.fetch_or(CONTROL, Ordering::Acquire);
        while state & WORKER != 0 {
            std::thread::sleep(CONTROL_NAP);
            state = self.state.load(Ordering::Acquire);
        }
        Controlled { lock: self }
    }
}

/// A worker's stay.
pub(super) struct Entered<'a, T> {
    lock: &'a QueueLock<T>,
}

impl<T> Entered<'_, T> {
    /// Stays in beyond this value's life, until [`QueueLock::resume`].
    #[inline(always)]
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl<T> Deref for Entered<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: this worker is alone with the value.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Entered<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this worker is alone with the value.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Entered<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.lock.state.fetch_and(!WORKER, Ordering::Release);
    }
}

/// Control's stay.
pub(super) struct Controlled<'a, T> {
    lock: &'a QueueLock<T>,
}

impl<T> Deref for Controlled<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: control is alone with the value.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Controlled<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: control is alone with the value.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Controlled<'_, T> {
    fn drop(&mut self) {
        self.lock.state.fetch_and(!CONTROL, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_gets_in_although_a_worker_always_comes_back() {
        let lock = QueueLock::new((0u64, 0u64));
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if let Some(mut value) = lock.try_enter() {
                        value.0 += 1;
                        value.1 += 1;
                    }
                }
            });
            for _ in 0..200 {
                let mut value = lock.control();
                assert_eq!(value.0, value.1);
                value.0 += 1;
                value.1 += 1;
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn what_is_kept_stays_closed_until_resumed() {
        let lock = QueueLock::new(1);
        lock.try_enter().expect("free").keep();
        assert!(lock.try_enter().is_none());
        // SAFETY: kept above, resumed once.
        drop(unsafe { lock.resume() });
        assert_eq!(lock.try_enter().map(|value| *value), Some(1));
    }
}
