//! A port as a thread of the decapsulator holds it: opened, looked after, and opened again when what it
//! was attached to comes back.
//!
//! What must hold: whatever becomes of the port costs nobody but the frames that were for it.

use std::sync::Arc;

use parking_lot::Mutex;
use pmd::{Health, Monitor, OpenError, Port, TxQueue};
use policy::PortId;

use crate::{
    config::types::Driver,
    intake::{Intake, OwnedQueue},
};

/// How ports are opened: by name and driver.
pub type Opener = dyn Fn(&str, &Driver) -> Result<Port, OpenError> + Send + Sync;

/// How often a port is looked after.
pub(super) const TEND_EVERY_NS: u64 = 500_000_000;

/// How something that frames go to is doing; `None` when frames can pass, else why not.
pub type State = Arc<Mutex<Option<String>>>;

/// A port, open or not.
pub(super) struct Attachment {
    name: String,
    driver: Driver,
    opener: Arc<Opener>,
    /// What its receive queues are known by in the thread's intake.
    id: PortId,
    monitor: Option<Box<dyn Monitor>>,
    tx: Vec<Box<dyn TxQueue>>,
    state: State,
}

impl Attachment {
    /// Opens the port. One that is missing is opened later; so is, when `patient`, one that the system
    /// refuses now.
    ///
    /// # Errors
    ///
    /// What the driver says of a port that cannot work as it stands.
    pub(super) fn open(
        name: &str,
        driver: &Driver,
        opener: &Arc<Opener>,
        (id, patient): (PortId, bool),
        intake: &mut Intake,
    ) -> Result<Self, OpenError> {
        let mut attachment = Self {
            name: name.to_owned(),
            driver: driver.clone(),
            opener: Arc::clone(opener),
            id,
            monitor: None,
            tx: Vec::new(),
            state: State::default(),
        };
        match attachment.attach(intake) {
            Err(OpenError::Missing(why)) => attachment.say(Some(why)),
            Err(error @ OpenError::System { .. }) if patient => {
                attachment.say(Some(error.to_string()));
            }
            other => other?,
        }
        Ok(attachment)
    }

    fn attach(&mut self, intake: &mut Intake) -> Result<(), OpenError> {
        let port = (self.opener)(&self.name, &self.driver)?;
        let unmarked_partial_checksums = port.info.unmarked_partial_checksums;
        for (number, queue) in port.rx.into_iter().enumerate() {
            intake.add(OwnedQueue {
                queue,
                port: self.id,
                number,
                unmarked_partial_checksums,
                most_frames: pmd::BURST,
            });
        }
        self.monitor = Some(port.monitor);
        self.tx = port.tx;
        self.say(None);
        Ok(())
    }

    /// Looks how the port is doing, and opens it if it is not open. To be called now and then.
    pub(super) fn tend(&mut self, intake: &mut Intake) {
        let Some(monitor) = &mut self.monitor else {
            if let Err(error) = self.attach(intake) {
                self.say(Some(error.to_string()));
            }
            return;
        };
        match monitor.health() {
            Health::Up => self.say(None),
            Health::Down(why) => self.say(Some(why)),
            Health::Gone(why) => {
                intake.remove(|queue| queue.port == self.id);
                self.tx.clear();
                self.monitor = None;
                self.say(Some(why));
            }
        }
    }

    /// Sets the state, and logs a change.
    fn say(&self, state: Option<String>) {
        let mut now = self.state.lock();
        if *now == state {
            return;
        }
        if let Some(why) = &state {
            tracing::warn!(port = self.name, "down: {why}");
        } else {
            tracing::info!(port = self.name, "up");
        }
        *now = state;
    }

    /// How it is doing.
    pub(super) fn state(&self) -> State {
        Arc::clone(&self.state)
    }

    /// The queue to send by, while the port is open.
    #[inline]
    pub(super) fn tx(&mut self) -> Option<&mut dyn TxQueue> {
        match self.tx.first_mut() {
            Some(queue) => Some(&mut **queue),
            None => None,
        }
    }
}
