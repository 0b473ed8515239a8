//! The device that one front end sets up: what its messages change.
//!
//! In: what [`super::requests`] was told. Out: rings that workers may use, once
//! everything that they need is known and good. What must hold: a change reaches a ring only
//! while no worker is inside its lock ([`super::queue`]); what a front end asks for and this
//! side cannot do is refused with a reason, and the connection with it.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
};

use vhost::vhost_user::{Error, Result, message::VhostUserProtocolFeatures};

use super::{
    cursor::{Parts, Position},
    dirty_log::DirtyLog,
    features::{Features, LOG_ALL, Negotiated, PROTOCOL_FEATURES},
    memory::MemoryMap,
    queue::Shared,
    ring::{Ring, Surroundings},
};

/// Where the front end says that a ring lies, in its own addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
    pub(super) used_log: Option<u64>,
}

/// What is known of one virtqueue.
#[derive(Debug, Default)]
pub(super) struct Setup {
    pub(super) size: u16,
    pub(super) addresses: Option<Addresses>,
    /// Where the ring goes on, while no worker has it.
    pub(super) at: Position,
    /// `at.used` is known; else the guest's memory tells.
    pub(super) used_known: bool,
    /// The front end gave a kick descriptor, or said that it has none.
    pub(super) started: bool,
    pub(super) kick: Option<OwnedFd>,
    pub(super) call: Option<OwnedFd>,
    pub(super) enabled: bool,
}

/// One front end's device.
pub(super) struct Device {
    pub(super) shared: Arc<Shared>,
    pub(super) offered: u64,
    pub(super) queue_pairs: u16,
    pub(super) features: u64,
    pub(super) protocol_features: u64,
    pub(super) memory: MemoryMap,
    pub(super) setups: Vec<Setup>,
    pub(super) log: Option<Arc<DirtyLog>>,
    /// Why the last message was refused.
    pub(super) refusal: Option<String>,
}

impl Device {
    pub(super) fn new(shared: Arc<Shared>, features: Features, queue_pairs: u16) -> Self {
        let setups = (0..queue_pairs * 2).map(|_| Setup::default()).collect();
        shared.adopt(0);
        Self {
            shared,
            offered: features.bits(),
            queue_pairs,
            features: 0,
            protocol_features: 0,
            memory: MemoryMap::default(),
            setups,
            log: None,
            refusal: None,
        }
    }

    pub(super) fn offered_protocol_features(&self) -> VhostUserProtocolFeatures {
        let mut features = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        if self.offered & LOG_ALL != 0 {
            features |= VhostUserProtocolFeatures::LOG_SHMFD;
        }
        features
    }

    /// The front end accepted protocol features as such, which a ring's being enabled belongs to.
    pub(super) fn has_protocol_features(&self) -> bool {
        self.features & PROTOCOL_FEATURES != 0
    }

    /// The front end may ask for an answer to each message.
    pub(super) fn acknowledges(&self) -> bool {
        self.protocol_features & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0
    }

    /// A front end with several queue pairs tells of each region that comes or goes once for each
    /// of them, as QEMU 7.2 does: what was told already is no mistake then.
    pub(super) fn says_all_twice(&self) -> bool {
        self.queue_pairs > 1
    }

    /// Refuses a message.
    pub(super) fn refuse<T>(&mut self, reason: impl Into<String>) -> Result<T> {
        self.refusal = Some(reason.into());
        Err(Error::InvalidParam)
    }

    pub(super) fn setup(&mut self, index: u32) -> Result<(usize, &mut Setup)> {
        let number = index as usize;
        if number >= self.setups.len() {
            let most = self.setups.len();
            return self.refuse(format!(
                "virtqueue {index} was named, and the port has {most}; \
                 give the port more queues, or the guest fewer"
            ));
        }
        Ok((number, &mut self.setups[number]))
    }

    /// Takes a ring from the workers, if they have it; waits until they let go of it.
    pub(super) fn take_ring(&mut self, number: usize) {
        let ring = self.shared.queues[number].ring.control().take();
        self.shared
            .active
            .fetch_and(!(1 << number), Ordering::Relaxed);
        if let Some(ring) = ring {
            self.setups[number].at = ring.position();
            self.setups[number].used_known = true;
        }
    }

    /// Gives the workers a ring that stands as it was set up, or takes it from them when it does
    /// not stand.
    fn renew(&mut self, number: usize) -> std::result::Result<(), String> {
        self.take_ring(number);
        let ring = self.build(number)?;
        if let Some(ring) = ring {
            self.setups[number].at = ring.position();
            self.setups[number].used_known = true;
            *self.shared.queues[number].ring.control() = Some(ring);
            self.shared.active.fetch_or(1 << number, Ordering::Relaxed);
        }
        if let Some(waker) = self.shared.queues[number].waker() {
            waker.nudge();
        }
        Ok(())
    }

    pub(super) fn renew_or_refuse(&mut self, number: usize) -> Result<()> {
        self.renew(number).or_else(|reason| self.refuse(reason))
    }

    /// The ring, when all that it needs is there.
    fn build(&self, number: usize) -> std::result::Result<Option<Ring>, String> {
        let setup = &self.setups[number];
        let implied = self.features & PROTOCOL_FEATURES == 0;
        let ready = setup.started && (setup.enabled || implied) && setup.size > 0;
        let (true, Some(addresses), true) = (ready, setup.addresses, self.memory.len() > 0) else {
            return Ok(None);
        };
        let parts = self
            .parts(setup.size, addresses)
            .map_err(|reason| format!("virtqueue {number}: {reason}"))?;
        let mut at = setup.at;
        if !setup.used_known {
            // Chains go back in the order they came, so that every one before the used index is
            // done with: where the front end's base says otherwise, the ring is right.
            at.used = Ring::published(&parts);
            at.available = at.used;
        }
        let call = setup.call.as_ref().map(OwnedFd::try_clone).transpose();
        let call = call.map_err(|e| format!("virtqueue {number}: call descriptor: {e}"))?;
        let log = self.log.clone().filter(|_| self.features & LOG_ALL != 0);
        let negotiated = Negotiated {
            bits: self.features,
        };
        let around = Surroundings {
            memory: self.memory.clone(),
            negotiated,
            call,
            log,
            used_log: addresses.used_log,
            kicked: setup.kick.is_some(),
        };
        Ok(Some(Ring::new(parts, at, around)))
    }

    /// The places of a ring, each of its parts wholly in one region (virtio 1.2 §2.7: lengths
    /// and alignment), with the event words behind the entries.
    #[allow(
        clippy::cast_ptr_alignment,
        reason = "each place is checked for the alignment it is cast to"
    )]
    fn parts(&self, size: u16, at: Addresses) -> std::result::Result<Parts, String> {
        let entries = u64::from(size);
        let place = |name: &str, user: u64, len: u64, align: usize| {
            let place = self
                .memory
                .place_of_user(user, len)
                .ok_or_else(|| format!("its {name} ring lies outside the shared memory"))?;
            if place.addr() % align != 0 {
                return Err(format!("its {name} ring is not aligned to {align}"));
            }
            Ok(place)
        };
        Ok(Parts {
            size,
            descriptors: place("descriptor", at.descriptors, 16 * entries, 16)?
                .cast::<u64>()
                .cast_const(),
            available: place("available", at.available, 6 + 2 * entries, 2)?
                .cast::<u16>()
                .cast_const(),
            used: place("used", at.used, 6 + 8 * entries, 4)?.cast::<u32>(),
        })
    }

    /// Puts another memory map in force, for every ring at once.
    pub(super) fn adopt(&mut self, memory: MemoryMap) -> Result<()> {
        for number in 0..self.setups.len() {
            self.take_ring(number);
        }
        // The regions that are no more are unmapped here: no ring holds the old map any longer.
        self.memory = memory;
        self.check_log()?;
        for number in 0..self.setups.len() {
            self.renew_or_refuse(number)?;
        }
        Ok(())
    }

    pub(super) fn check_log(&mut self) -> Result<()> {
        let end = self.memory.guest_end();
        if self.log.as_ref().is_some_and(|log| !log.covers(end)) {
            return self.refuse("the dirty log is too small for the guest's memory");
        }
        Ok(())
    }

    /// Stops everything, as at the end of a connection.
    pub(super) fn stop(&mut self) {
        for number in 0..self.setups.len() {
            self.take_ring(number);
            self.drop_kick(number);
            self.shared.queues[number].calls.set(None);
            self.setups[number] = Setup::default();
        }
        self.memory = MemoryMap::default();
        self.log = None;
    }

    pub(super) fn drop_kick(&mut self, number: usize) {
        let kick = self.setups[number].kick.take();
        if let (Some(kick), Some(waker)) = (kick, self.shared.queues[number].waker()) {
            waker.forget(kick);
        }
    }

    /// Lets a port go on that its guest had broken, when every virtqueue has been stopped: so a
    /// driver's reset looks from here, and all that follows is set up anew. Workers break a port
    /// off inside a ring's lock, so none does it late. A front end that held a worker fast is not
    /// believed again: that costs the connection.
    pub(super) fn mend_when_stopped(&self) {
        let stopped = self.setups.iter().all(|setup| !setup.started);
        if stopped && !self.shared.held_up() {
            self.shared.mend();
        }
    }

    /// Tells people how things stand.
    pub(super) fn tell(&self) {
        let queues = self.setups.iter().enumerate().map(|(number, setup)| {
            let implied = self.features & PROTOCOL_FEATURES == 0;
            if self.shared.active.load(Ordering::Relaxed) >> number & 1 == 1 {
                Ok(setup.size)
            } else if !setup.started {
                Err("not started by the guest".into())
            } else if !setup.enabled && !implied {
                Err("not enabled by the guest".into())
            } else {
                Err("not set up by the guest".into())
            }
        });
        let queues = queues.collect();
        self.shared.tell(|status| {
            status.features = self.features;
            status.protocol_features = self.protocol_features;
            status.regions = self.memory.len();
            status.region_bytes = self.memory.bytes();
            status.logging = self.log.is_some() && self.features & LOG_ALL != 0;
            status.queues = queues;
        });
    }
}
