//! A decapsulator beside the switch's workers, in one process.
//!
//! In: each configuration that the switch is to follow. Out: the decapsulator runs as its
//! `[decapsulator]` says, or none does. What must hold: it shares nothing with the workers; its tunnel
//! port and its sniffers' ports are no ports of the switch.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{ApplyError, Runtime, api::Place, attachment::Opener};
use crate::config::Config;

/// The decapsulator of a switch, if it has one.
pub struct Hosted {
    opener: Arc<Opener>,
    runtime: Mutex<Option<Arc<Runtime>>>,
}

impl Hosted {
    /// None yet; `opener` will open its ports.
    pub fn new(opener: Arc<Opener>) -> Self {
        Self {
            opener,
            runtime: Mutex::default(),
        }
    }

    /// Whether [`Hosted::follow`] could be done.
    ///
    /// # Errors
    ///
    /// As [`Runtime::check`].
    pub fn check(&self, wanted: &Config) -> Result<(), ApplyError> {
        match (&*self.runtime.lock(), &wanted.decapsulator) {
            (Some(runtime), Some(wanted)) => runtime.check(wanted),
            _ => Ok(()),
        }
    }

    /// Has the decapsulator run as `wanted` says. What is equal to what runs is left alone.
    ///
    /// # Errors
    ///
    /// As [`Runtime::start`] and [`Runtime::apply`].
    pub fn follow(&self, wanted: &Config) -> Result<(), ApplyError> {
        let mut runtime = self.runtime.lock();
        match (&*runtime, &wanted.decapsulator) {
            (Some(running), Some(wanted)) if *running.in_force().0 == *wanted => {}
            (Some(running), Some(wanted)) => running.apply(wanted.clone())?,
            (None, Some(wanted)) => {
                let started = Runtime::start(wanted.clone(), Arc::clone(&self.opener))?;
                *runtime = Some(Arc::new(started));
            }
            (_, None) => *runtime = None,
        }
        Ok(())
    }
}

impl Place for Hosted {
    fn decapsulator(&self) -> Option<Arc<Runtime>> {
        self.runtime.lock().clone()
    }
}
