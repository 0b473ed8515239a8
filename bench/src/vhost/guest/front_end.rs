//! A network device without a VM: the hypervisor's half of vhost-user.
//!
//! In: a socket that a switch connects to. Out: two virtqueues in memory that the switch has been
//! given. One queue pair, one memory region, split rings, frames behind a 12-byte header.
//!
//! Messages: QEMU's docs/interop/vhost-user.rst.

use std::{
    io::{IoSlice, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context, ensure};
use pmd::shared_memory::SharedMemory;
use rustix::{
    event::{EventfdFlags, eventfd},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};

use super::ring::{Layout, Ring};
use crate::process::interrupt;

/// Numbers of requests.
mod request {
    pub(super) const GET_FEATURES: u32 = 1;
    pub(super) const SET_FEATURES: u32 = 2;
    pub(super) const SET_OWNER: u32 = 3;
    pub(super) const SET_MEM_TABLE: u32 = 5;
    pub(super) const SET_VRING_NUM: u32 = 8;
    pub(super) const SET_VRING_ADDR: u32 = 9;
    pub(super) const SET_VRING_BASE: u32 = 10;
    pub(super) const SET_VRING_KICK: u32 = 12;
    pub(super) const SET_VRING_CALL: u32 = 13;
    pub(super) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(super) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(super) const SET_VRING_ENABLE: u32 = 18;
}

/// Features of virtio-net (virtio 1.2, §5.1.3 and §6) and of the protocol.
pub(super) mod feature {
    pub(in super::super) const CSUM: u64 = 1 << 0;
    pub(in super::super) const GUEST_CSUM: u64 = 1 << 1;
    pub(in super::super) const GUEST_TSO4: u64 = 1 << 7;
    pub(in super::super) const GUEST_TSO6: u64 = 1 << 8;
    pub(in super::super) const HOST_TSO4: u64 = 1 << 11;
    pub(in super::super) const HOST_TSO6: u64 = 1 << 12;
    pub(in super::super) const MRG_RXBUF: u64 = 1 << 15;
    pub(in super::super) const PROTOCOL_FEATURES: u64 = 1 << 30;
    pub(in super::super) const VERSION_1: u64 = 1 << 32;
    pub(in super::super) const IN_ORDER: u64 = 1 << 35;
    pub(in super::super) const REPLY_ACK: u64 = 1 << 3;
}

/// What every message's flags hold: the version, and the wish for an acknowledgement.
const VERSION: u32 = 1;
const NEED_REPLY: u32 = 1 << 3;

/// Where the device's memory is for the guest, and for the hypervisor.
const GUEST_BASE: u64 = 0x1_0000_0000;
const USER_BASE: u64 = 0x7e00_0000_0000;

/// How long a switch may take to connect and to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A device that a switch has started.
#[derive(Debug)]
pub(in super::super) struct FrontEnd {
    /// Open as long as the device is to run.
    _stream: UnixStream,
    /// What the switch may write to.
    pub(in super::super) memory: SharedMemory,
    /// Frames to the guest.
    pub(in super::super) receive: Ring,
    /// Frames from the guest.
    pub(in super::super) transmit: Ring,
}

/// The connection, while the device is being set up.
struct Handshake {
    stream: UnixStream,
}

impl FrontEnd {
    /// Waits at `socket` for a switch, and sets up a device with `features` and rings that lie as
    /// `layout` says.
    ///
    /// # Errors
    /// When no switch comes, or it refuses a step or a feature.
    pub(in super::super) fn accept(
        listener: &UnixListener,
        features: u64,
        layout: &Layout,
    ) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let stream = interrupt::wait_for("a switch connecting", PATIENCE, || {
            match listener.accept() {
                Ok((stream, _)) => Ok(Some(stream)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error.into()),
            }
        })?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let memory = SharedMemory::new(layout.memory_bytes(), true)
            .context("memory for a guest; are there hugepages?")?;
        let mut handshake = Handshake { stream };
        handshake.negotiate(features)?;
        handshake.share(&memory)?;
        let in_order = features & feature::IN_ORDER != 0;
        let receive = handshake.start(0, layout, in_order, &memory)?;
        let transmit = handshake.start(1, layout, in_order, &memory)?;
        Ok(Self {
            _stream: handshake.stream,
            memory,
            receive,
            transmit,
        })
    }
}

/// Listens where a switch will connect.
///
/// # Errors
/// When the socket cannot be made.
pub(in super::super) fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    let _ = std::fs::remove_file(socket);
    UnixListener::bind(socket).with_context(|| socket.display().to_string())
}

impl Handshake {
    fn negotiate(&mut self, features: u64) -> anyhow::Result<()> {
        let wanted = features | feature::VERSION_1 | feature::PROTOCOL_FEATURES;
        let offered = self.ask(request::GET_FEATURES)?;
        let missing = wanted & !offered;
        ensure!(
            missing == 0,
            "the switch does not offer features {missing:#x}"
        );
        let protocol = self.ask(request::GET_PROTOCOL_FEATURES)?;
        ensure!(
            protocol & feature::REPLY_ACK != 0,
            "the switch acknowledges nothing"
        );
        let chosen = feature::REPLY_ACK.to_le_bytes();
        self.send(request::SET_PROTOCOL_FEATURES, VERSION, &chosen, &[])?;
        self.send(request::SET_OWNER, VERSION, &[], &[])?;
        self.set(request::SET_FEATURES, &wanted.to_le_bytes(), &[])
    }

    /// One region: all there is.
    fn share(&mut self, memory: &SharedMemory) -> anyhow::Result<()> {
        let region = [1, GUEST_BASE, memory.len_bytes() as u64, USER_BASE, 0];
        let body = region.map(u64::to_le_bytes).concat();
        self.set(request::SET_MEM_TABLE, &body, &[memory.file()])
    }

    fn start(
        &mut self,
        number: u32,
        layout: &Layout,
        in_order: bool,
        memory: &SharedMemory,
    ) -> anyhow::Result<Ring> {
        let event = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let (kick, call): (OwnedFd, OwnedFd) = (event()?, event()?);
        let ring = layout.ring(number as usize, GUEST_BASE, kick, in_order, memory);
        let state = |value: u32| [number, value].map(u32::to_le_bytes).concat();
        self.set(request::SET_VRING_NUM, &state(layout.slots.into()), &[])?;
        self.set(request::SET_VRING_BASE, &state(0), &[])?;
        let [descriptors, available, used] = ring.areas().map(|area| USER_BASE + area as u64);
        let mut body = state(0);
        body.extend(
            [descriptors, used, available, 0]
                .map(u64::to_le_bytes)
                .concat(),
        );
        self.set(request::SET_VRING_ADDR, &body, &[])?;
        let index = u64::from(number).to_le_bytes();
        self.set(request::SET_VRING_KICK, &index, &[ring.kick.as_fd()])?;
        self.set(request::SET_VRING_CALL, &index, &[call.as_fd()])?;
        self.set(request::SET_VRING_ENABLE, &state(1), &[])?;
        Ok(ring)
    }

    /// Sends a message and waits for its acknowledgement.
    fn set(&mut self, request: u32, body: &[u8], files: &[BorrowedFd<'_>]) -> anyhow::Result<()> {
        self.send(request, VERSION | NEED_REPLY, body, files)?;
        let refused = self.answer(request)?;
        ensure!(
            refused == 0,
            "the switch refused request {request} ({refused})"
        );
        Ok(())
    }

    fn ask(&mut self, request: u32) -> anyhow::Result<u64> {
        self.send(request, VERSION, &[], &[])?;
        self.answer(request)
    }

    fn send(
        &self,
        request: u32,
        flags: u32,
        body: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> anyhow::Result<()> {
        let header = [request, flags, body.len() as u32]
            .map(u32::to_le_bytes)
            .concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            ensure!(
                control.push(SendAncillaryMessage::ScmRights(files)),
                "one descriptor to a message"
            );
        }
        // The descriptors go with the header, which is read first.
        for (bytes, control) in [
            (&header[..], &mut control),
            (body, &mut SendAncillaryBuffer::default()),
        ] {
            if !bytes.is_empty() {
                let sent = sendmsg(
                    &self.stream,
                    &[IoSlice::new(bytes)],
                    control,
                    SendFlags::NOSIGNAL,
                )
                .with_context(|| format!("request {request}"))?;
                ensure!(sent == bytes.len(), "request {request} was cut");
            }
        }
        Ok(())
    }

    /// The number that answers a request.
    fn answer(&mut self, request: u32) -> anyhow::Result<u64> {
        let mut message = [0; 20];
        self.stream
            .read_exact(&mut message)
            .with_context(|| format!("the switch did not answer request {request}"))?;
        let (_, number) = message.split_at(12);
        Ok(u64::from_le_bytes(number.try_into()?))
    }
}
