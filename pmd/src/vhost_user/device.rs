//! The device that one front end sets up: what its messages change.
//!
//! In: messages, checked for form by the `vhost` crate. Out: rings that workers may use, once
//! everything that they need is known and good. What must hold: a change reaches a ring only
//! while no worker is inside its lock ([`super::queue`]); what a front end asks for and this
//! side cannot do is refused with a reason, and the connection with it.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, readlink};
use rustix::io::Errno;
use vhost::vhost_user::{
    Backend, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
    message::{
        VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags,
        VhostUserInflight, VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures,
        VhostUserShMemConfig, VhostUserSharedMsg, VhostUserSingleMemoryRegion,
        VhostUserVringAddrFlags, VhostUserVringState,
    },
};

use super::{
    dirty_log::DirtyLog,
    features::{Features, LOG_ALL, Negotiated, PROTOCOL_FEATURES},
    memory::{Claim, MAX_REGIONS, MemoryMap, Region},
    queue::Shared,
    ring::{MAX_SIZE, Parts, Position, Ring, Surroundings},
};

/// Where the front end says that a ring lies, in its own addresses.
#[derive(Clone, Copy, Debug)]
struct Addresses {
    descriptors: u64,
    available: u64,
    used: u64,
    used_log: Option<u64>,
}

/// What is known of one virtqueue.
#[derive(Debug, Default)]
struct Setup {
    size: u16,
    addresses: Option<Addresses>,
    /// Where the ring goes on, while no worker has it.
    at: Position,
    /// `at.used` is known; else the guest's memory tells.
    used_known: bool,
    /// The front end gave a kick descriptor, or said that it has none.
    started: bool,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
    enabled: bool,
}

/// One front end's device.
pub(super) struct Device {
    shared: Arc<Shared>,
    offered: u64,
    queue_pairs: u16,
    features: u64,
    protocol_features: u64,
    memory: MemoryMap,
    setups: Vec<Setup>,
    log: Option<Arc<DirtyLog>>,
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

    fn offered_protocol_features(&self) -> VhostUserProtocolFeatures {
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
    fn says_all_twice(&self) -> bool {
        self.queue_pairs > 1
    }

    /// Refuses a message.
    fn refuse<T>(&mut self, reason: impl Into<String>) -> Result<T> {
        self.refusal = Some(reason.into());
        Err(Error::InvalidParam)
    }

    fn setup(&mut self, index: u32) -> Result<(usize, &mut Setup)> {
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
    fn take_ring(&mut self, number: usize) {
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

    fn renew_or_refuse(&mut self, number: usize) -> Result<()> {
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
    fn adopt(&mut self, memory: MemoryMap) -> Result<()> {
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

    fn check_log(&mut self) -> Result<()> {
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

    fn drop_kick(&mut self, number: usize) {
        let kick = self.setups[number].kick.take();
        if let (Some(kick), Some(waker)) = (kick, self.shared.queues[number].waker()) {
            waker.forget(kick);
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

/// A descriptor that must be an event descriptor, made never to block: a worker writes to it.
fn event_fd(file: File) -> io::Result<OwnedFd> {
    let fd = OwnedFd::from(file);
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    if readlink(link, Vec::new())?.as_bytes() != b"anon_inode:[eventfd]" {
        return Err(Errno::INVAL.into());
    }
    let flags = fcntl_getfl(fd.as_fd())?;
    fcntl_setfl(fd.as_fd(), flags | OFlags::NONBLOCK)?;
    Ok(fd)
}

fn claim(region: &VhostUserMemoryRegion) -> Claim {
    Claim {
        guest: region.guest_phys_addr,
        user: region.user_addr,
        size: region.memory_size,
        offset: region.mmap_offset,
    }
}

fn map(region: &VhostUserMemoryRegion, file: &File) -> std::result::Result<Region, String> {
    Region::map(claim(region), file)
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        for number in 0..self.setups.len() {
            self.take_ring(number);
            self.drop_kick(number);
            self.shared.queues[number].calls.set(None);
            self.setups[number] = Setup::default();
        }
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.offered != 0 {
            let more = features & !self.offered;
            return self.refuse(format!(
                "features {more:#x} were accepted and never offered"
            ));
        }
        if features != self.features {
            self.features = features;
            self.shared.adopt(features);
            for number in 0..self.setups.len() {
                self.renew_or_refuse(number)?;
            }
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let mapped = regions
            .iter()
            .zip(&files)
            .try_fold(MemoryMap::default(), |memory, (region, file)| {
                memory.with(map(region, file)?)
            });
        match mapped {
            Ok(memory) => self.adopt(memory).map(|()| None),
            Err(reason) => self.refuse(reason),
        }
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let (number, setup) = self.setup(index)?;
        if num == 0 || num > MAX_SIZE || !num.is_power_of_two() {
            return self.refuse(format!(
                "virtqueue {index}: a ring of {num}, which is no power of two up to {MAX_SIZE}"
            ));
        }
        if u32::from(setup.size) != num {
            // Before anybody can see a ring of the old length with the new size.
            self.take_ring(number);
            self.setups[number].size = num as u16;
            self.renew_or_refuse(number)?;
        }
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let (number, setup) = self.setup(index)?;
        let logged = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG);
        setup.addresses = Some(Addresses {
            descriptors: descriptor,
            available,
            used,
            used_log: logged.then_some(log),
        });
        self.renew_or_refuse(number)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let (number, _) = self.setup(index)?;
        if base > u32::from(u16::MAX) {
            return self.refuse(format!("virtqueue {index}: base {base} is no ring index"));
        }
        self.take_ring(number);
        let setup = &mut self.setups[number];
        setup.at = Position {
            available: base as u16,
            used: base as u16,
        };
        setup.used_known = false;
        self.renew_or_refuse(number)
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let (number, _) = self.setup(index)?;
        self.take_ring(number);
        self.drop_kick(number);
        let setup = &mut self.setups[number];
        setup.started = false;
        setup.call = None;
        self.shared.queues[number].calls.set(None);
        let setup = &self.setups[number];
        Ok(VhostUserVringState::new(
            index,
            u32::from(setup.at.available),
        ))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let (number, _) = self.setup(index.into())?;
        let kick = match fd.map(event_fd).transpose() {
            Ok(kick) => kick,
            Err(e) => {
                return self.refuse(format!(
                    "virtqueue {index}: kick is no event descriptor: {e}"
                ));
            }
        };
        self.drop_kick(number);
        if let (Some(kick), Some(waker)) = (&kick, self.shared.queues[number].waker())
            && let Err(e) = waker.watch(kick)
        {
            return self.refuse(format!("virtqueue {index}: kick cannot be watched: {e}"));
        }
        let setup = &mut self.setups[number];
        setup.kick = kick;
        setup.started = true;
        self.renew_or_refuse(number)
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let (number, _) = self.setup(index.into())?;
        match fd.map(event_fd).transpose() {
            Ok(call) => {
                let watched = call.as_ref().and_then(|call| call.try_clone().ok());
                if watched.is_none() && call.is_some() {
                    return self.refuse("the process is out of file descriptors");
                }
                // Not before the worker has left the old one, which it may be held fast in.
                self.take_ring(number);
                self.shared.queues[number].calls.set(watched);
                self.setups[number].call = call;
            }
            Err(e) => {
                return self.refuse(format!(
                    "virtqueue {index}: call is no event descriptor: {e}"
                ));
            }
        }
        self.renew_or_refuse(number)
    }

    /// Accepted and not used: errors are told to the operator, and the port stops.
    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> Result<()> {
        self.setup(index.into()).map(|_| ())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(self.offered_protocol_features())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let more = features & !self.offered_protocol_features().bits();
        if more != 0 {
            return self.refuse(format!(
                "protocol features {more:#x} were accepted and never offered"
            ));
        }
        self.protocol_features = features;
        Ok(())
    }

    /// Queue pairs, as front ends of network devices expect.
    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(u64::from(self.queue_pairs))
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let (number, setup) = self.setup(index)?;
        setup.enabled = enable;
        self.renew_or_refuse(number)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        fd: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<u64>> {
        if self.says_all_twice() && self.memory.holds(claim(region)) {
            return Ok(None);
        }
        match map(region, &fd).and_then(|region| self.memory.with(region)) {
            Ok(memory) => self.adopt(memory).map(|()| None),
            Err(reason) => self.refuse(reason),
        }
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let (guest, user, size) = (region.guest_phys_addr, region.user_addr, region.memory_size);
        match self.memory.without(guest, user, size) {
            Some(memory) => self.adopt(memory),
            None if self.says_all_twice() => Ok(()),
            None => self.refuse(format!(
                "memory region {guest:#x}+{size:#x} is to go and was never there"
            )),
        }
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        let (offset, bytes) = (log.mmap_offset, log.mmap_size);
        match DirtyLog::map(&file, offset, bytes) {
            Ok(log) => self.log = Some(Arc::new(log)),
            Err(reason) => return self.refuse(reason),
        }
        self.check_log()?;
        for number in 0..self.setups.len() {
            self.renew_or_refuse(number)?;
        }
        Ok(())
    }

    fn get_config(&mut self, _: u32, _: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        self.refuse("the device's configuration was asked for, which is the front end's")
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        self.refuse("the device's configuration was set, which is the front end's")
    }

    fn set_backend_req_fd(&mut self, _: Backend) {}

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        self.refuse("a socket for graphics")
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        self.refuse("a shared object was asked for")
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        self.refuse("an in-flight buffer was asked for and never offered")
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        self.refuse("an in-flight buffer was set and never offered")
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        self.refuse("a transfer of device state, which was never offered")
    }

    fn check_device_state(&mut self) -> Result<()> {
        self.refuse("a transfer of device state, which was never offered")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        self.refuse("shared memory regions were asked for and never offered")
    }
}
