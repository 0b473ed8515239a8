//! What each message of a front end changes.
//!
//! In: messages, checked for form by the `vhost` crate. Out: changes of the [`Device`], and
//! answers. What must hold: what a front end asks for and this side cannot do is refused with a
//! reason; a value that a message carries is checked here, before anything is changed.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, readlink};
use rustix::io::Errno;
use vhost::vhost_user::{
    Backend, GpuBackend, Result, VhostUserBackendReqHandlerMut,
    message::{
        VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags,
        VhostUserInflight, VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures,
        VhostUserShMemConfig, VhostUserSharedMsg, VhostUserSingleMemoryRegion,
        VhostUserVringAddrFlags, VhostUserVringState,
    },
};

use super::{
    cursor::Position,
    device::{Addresses, Device, Setup},
    dirty_log::DirtyLog,
    memory::{Claim, MAX_REGIONS, MemoryMap, Region},
    ring::MAX_SIZE,
};

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
        self.mend_when_stopped();
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
        self.mend_when_stopped();
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
