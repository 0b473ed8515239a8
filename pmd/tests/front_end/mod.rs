//! A vhost-user front end for tests: a guest and its hypervisor in one, as obedient or as
//! hostile as the test wants.
//!
//! In: a port's socket, frames, and whatever bytes a test puts into messages, rings and buffers.
//! Out: what the switch puts there. Guest memory is a memfd that is read and written by
//! pread/pwrite, so this side needs no mapping and no unsafe code.
//!
//! Messages: QEMU's docs/interop/vhost-user.rst. Rings: virtio 1.2 §2.7.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

pub mod random;

use std::{
    io::{IoSlice, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    path::Path,
    sync::atomic::{Ordering, fence},
    time::{Duration, Instant},
};

use pmd::{
    Burst, Frame, Health, Port, PrefixArena, TxBurst, TxPlan, TxReport,
    vhost_user::{Config, Role, open},
};
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, ftruncate, memfd_create},
    io::retry_on_intr,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};

/// Requests by number.
pub mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_LOG_BASE: u32 = 6;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
}

/// Feature bits.
pub mod feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const LOG_ALL: u64 = 1 << 26;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
    pub const IN_ORDER: u64 = 1 << 35;
    pub const PLAIN: u64 = VERSION_1 | PROTOCOL_FEATURES;
}

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Where the guest's memory begins for the guest, and for its hypervisor.
pub const GUEST_BASE: u64 = 0x1_0000_0000;
pub const USER_BASE: u64 = 0x7e00_0000_0000;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `done` gives something.
///
/// # Panics
///
/// When [`PATIENCE`] is over.
pub fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Guest memory: one file, in one or more regions that touch each other.
#[derive(Debug)]
pub struct Memory {
    pub file: std::fs::File,
    pub bytes: u64,
    next: u64,
}

impl Memory {
    pub fn new(bytes: u64) -> Self {
        let fd = memfd_create("vhost-user-test", MemfdFlags::CLOEXEC).expect("memfd");
        ftruncate(&fd, bytes).expect("size");
        Self {
            file: fd.into(),
            bytes,
            next: GUEST_BASE,
        }
    }

    /// Room for `bytes` bytes; a guest address.
    pub fn allocate(&mut self, bytes: u64, align: u64) -> u64 {
        let start = self.next.next_multiple_of(align);
        self.next = start + bytes;
        assert!(
            self.next <= GUEST_BASE + self.bytes,
            "guest memory is used up"
        );
        start
    }

    pub fn write(&self, guest: u64, bytes: &[u8]) {
        let offset = guest - GUEST_BASE;
        self.file.write_all_at(bytes, offset).expect("guest memory");
    }

    pub fn read(&self, guest: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let offset = guest - GUEST_BASE;
        self.file
            .read_exact_at(&mut bytes, offset)
            .expect("guest memory");
        bytes
    }

    pub fn read_u16(&self, guest: u64) -> u16 {
        let bytes = self.read(guest, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }
}

/// One virtqueue, from the driver's side.
#[derive(Debug)]
pub struct Virtqueue {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    /// Available index as this side counts it.
    pub index: u16,
    /// Used entries taken.
    pub taken: u16,
    /// Next descriptor to use; they are used in turn.
    pub next: u16,
    pub kick: OwnedFd,
    pub call: OwnedFd,
}

/// How a guest is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Features it accepts of those offered.
    pub features: u64,
    pub queue_pairs: u16,
    pub ring_size: u16,
    pub memory_bytes: u64,
    /// Into how many regions its memory is cut.
    pub regions: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            features: feature::PLAIN | feature::MRG_RXBUF,
            queue_pairs: 1,
            ring_size: 256,
            memory_bytes: 16 << 20,
            regions: 1,
        }
    }
}

/// A guest and its front end.
#[derive(Debug)]
pub struct FrontEnd {
    pub stream: UnixStream,
    pub memory: Memory,
    pub queues: Vec<Virtqueue>,
    pub features: u64,
    pub options: Options,
}

impl FrontEnd {
    /// Connects to a port in the server role, and sets nothing up yet.
    pub fn connect(path: &Path, options: Options) -> Self {
        let stream = wait_for("a socket to connect to", || UnixStream::connect(path).ok());
        Self::over(stream, options)
    }

    /// Uses a connection that a port in the client role made.
    pub fn over(stream: UnixStream, options: Options) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let mut memory = Memory::new(options.memory_bytes);
        let queues = (0..options.queue_pairs * 2)
            .map(|_| Virtqueue::new(&mut memory, options.ring_size))
            .collect();
        Self {
            stream,
            memory,
            queues,
            features: 0,
            options,
        }
    }

    /// A guest whose device is started.
    pub fn started(path: &Path, options: Options) -> Self {
        let mut guest = Self::connect(path, options);
        guest.start();
        guest
    }

    /// The whole handshake.
    pub fn start(&mut self) {
        self.negotiate();
        self.share_memory();
        for queue in 0..self.queues.len() {
            self.start_queue(queue);
        }
    }

    /// Features and protocol features.
    pub fn negotiate(&mut self) {
        let offered = self.ask_u64(request::GET_FEATURES);
        self.features = offered & self.options.features;
        let protocol = self.ask_u64(request::GET_PROTOCOL_FEATURES);
        // The acknowledgement that everything below waits for is bit 3.
        assert_ne!(protocol & 1 << 3, 0, "REPLY_ACK is offered");
        let body = protocol.to_le_bytes();
        self.send(request::SET_PROTOCOL_FEATURES, 1, &body, &[]);
        self.send(request::SET_OWNER, 1, &[], &[]);
        assert_eq!(
            self.set(request::SET_FEATURES, &self.features.to_le_bytes(), &[]),
            Ok(0)
        );
    }

    /// The memory table, cut into regions.
    pub fn share_memory(&mut self) {
        let table: Vec<[u64; 4]> = self.regions();
        assert_eq!(self.set_memory(&table), Ok(0));
    }

    /// Each region as the protocol has it: guest address, size, user address, offset.
    pub fn regions(&self) -> Vec<[u64; 4]> {
        let size = self.memory.bytes / self.options.regions;
        (0..self.options.regions)
            .map(|n| [GUEST_BASE + n * size, size, USER_BASE + n * size, n * size])
            .collect()
    }

    /// A memory table of any content.
    pub fn set_memory(&mut self, table: &[[u64; 4]]) -> Result<u64, String> {
        let mut body = (table.len() as u64).to_le_bytes().to_vec();
        body.extend(table.iter().flatten().flat_map(|word| word.to_le_bytes()));
        let file = self.memory.file.try_clone().expect("clone");
        let fds: Vec<_> = table.iter().map(|_| file.as_fd()).collect();
        self.set(request::SET_MEM_TABLE, &body, &fds)
    }

    /// Size, base, addresses, descriptors, enable.
    pub fn start_queue(&mut self, number: usize) {
        let queue = &self.queues[number];
        let (size, index) = (u32::from(queue.size), u32::from(queue.index));
        assert_eq!(self.set_state(request::SET_VRING_NUM, number, size), Ok(0));
        assert_eq!(
            self.set_state(request::SET_VRING_BASE, number, index),
            Ok(0)
        );
        assert_eq!(self.set_addresses(number, 0), Ok(0));
        assert_eq!(self.set_event(request::SET_VRING_KICK, number), Ok(0));
        assert_eq!(self.set_event(request::SET_VRING_CALL, number), Ok(0));
        assert_eq!(self.set_state(request::SET_VRING_ENABLE, number, 1), Ok(0));
    }

    pub fn set_addresses(&mut self, number: usize, flags: u32) -> Result<u64, String> {
        let queue = &self.queues[number];
        let user = |guest: u64| guest - GUEST_BASE + USER_BASE;
        let words = [
            user(queue.descriptors),
            user(queue.used),
            user(queue.available),
            queue.used,
        ];
        let mut body = (number as u32).to_le_bytes().to_vec();
        body.extend(flags.to_le_bytes());
        body.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.set(request::SET_VRING_ADDR, &body, &[])
    }

    pub fn set_state(&mut self, request: u32, number: usize, value: u32) -> Result<u64, String> {
        let mut body = (number as u32).to_le_bytes().to_vec();
        body.extend(value.to_le_bytes());
        self.set(request, &body, &[])
    }

    fn set_event(&mut self, request: u32, number: usize) -> Result<u64, String> {
        let queue = &self.queues[number];
        let fd = if request == request::SET_VRING_KICK {
            &queue.kick
        } else {
            &queue.call
        };
        let fd = fd.try_clone().expect("clone");
        self.set(request, &(number as u64).to_le_bytes(), &[fd.as_fd()])
    }

    /// Stops a virtqueue and returns where it stood.
    pub fn stop_queue(&mut self, number: usize) -> Result<u32, String> {
        let mut body = (number as u32).to_le_bytes().to_vec();
        body.extend(0u32.to_le_bytes());
        self.send(request::GET_VRING_BASE, 1, &body, &[]);
        let reply = self.reply()?;
        Ok(u32::from_le_bytes([reply[4], reply[5], reply[6], reply[7]]))
    }

    /// Stops every virtqueue and starts it anew with empty rings, as a driver's reset does.
    pub fn reset(&mut self) {
        for number in 0..self.queues.len() {
            self.stop_queue(number).expect("where it stood");
        }
        for number in 0..self.queues.len() {
            let queue = &mut self.queues[number];
            let entries = usize::from(queue.size);
            (queue.index, queue.taken, queue.next) = (0, 0, 0);
            self.memory
                .write(queue.available, &vec![0; 6 + 2 * entries]);
            self.memory.write(queue.used, &vec![0; 6 + 8 * entries]);
            self.start_queue(number);
        }
    }

    /// Sends a message and waits for its acknowledgement: 0 is success. An error when the port
    /// closed the connection.
    pub fn set(
        &mut self,
        request: u32,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<u64, String> {
        self.send(request, 1 | 8, body, fds);
        let reply = self.reply()?;
        Ok(u64::from_le_bytes(
            reply[..8].try_into().map_err(|_| "short reply")?,
        ))
    }

    pub fn ask_u64(&mut self, request: u32) -> u64 {
        self.send(request, 1, &[], &[]);
        let reply = self.reply().expect("a reply");
        u64::from_le_bytes(reply[..8].try_into().expect("eight bytes"))
    }

    /// Sends any message.
    pub fn send(&self, request: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut bytes = request.to_le_bytes().to_vec();
        bytes.extend(flags.to_le_bytes());
        bytes.extend((body.len() as u32).to_le_bytes());
        // The port takes descriptors with a message's header.
        self.send_raw(&bytes, fds);
        if !body.is_empty() {
            self.send_raw(body, &[]);
        }
    }

    /// Sends any bytes. A connection that the port closed is no error here.
    pub fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(40))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let parts = [IoSlice::new(bytes)];
        // A fuzzer's timer interrupts.
        let _ = retry_on_intr(|| sendmsg(&self.stream, &parts, &mut control, SendFlags::NOSIGNAL));
    }

    /// The body of the next message from the port.
    pub fn reply(&mut self) -> Result<Vec<u8>, String> {
        let mut header = [0; 12];
        self.stream
            .read_exact(&mut header)
            .map_err(|e| format!("the port closed the connection: {e}"))?;
        let size = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        let mut body = vec![0; size as usize];
        self.stream
            .read_exact(&mut body)
            .map_err(|e| e.to_string())?;
        Ok(body)
    }

    /// Bytes of the header before each frame.
    pub fn header_bytes(&self) -> usize {
        if self.features & (feature::VERSION_1 | feature::MRG_RXBUF) != 0 {
            12
        } else {
            10
        }
    }

    /// Writes descriptor number `index` of a virtqueue.
    pub fn set_descriptor(&self, queue: usize, index: u16, entry: (u64, u32, u16, u16)) {
        let at = self.queues[queue].descriptors + 16 * u64::from(index);
        self.memory.write(at, &descriptor(entry));
    }

    /// Makes the chain at `head` available.
    pub fn make_available(&mut self, queue: usize, head: u16) {
        let memory = &self.memory;
        let queue = &mut self.queues[queue];
        let slot = u64::from(queue.index % queue.size);
        memory.write(queue.available + 4 + 2 * slot, &head.to_le_bytes());
        fence(Ordering::SeqCst);
        queue.index = queue.index.wrapping_add(1);
        memory.write(queue.available + 2, &queue.index.to_le_bytes());
        fence(Ordering::SeqCst);
    }

    /// Puts a chain of these buffers into the table and makes it available. Returns its head.
    pub fn offer(&mut self, queue: usize, buffers: &[(u64, u32)], flags: u16) -> u16 {
        let size = self.queues[queue].size;
        let head = self.queues[queue].next;
        for (n, (guest, len)) in buffers.iter().enumerate() {
            let index = (head + n as u16) % size;
            let more = n + 1 < buffers.len();
            let next = if more { (index + 1) % size } else { 0 };
            let flags = flags | if more { NEXT } else { 0 };
            self.set_descriptor(queue, index, (*guest, *len, flags, next));
        }
        self.queues[queue].next = (head + buffers.len() as u16) % size;
        self.make_available(queue, head);
        head
    }

    /// As [`FrontEnd::offer`], through an indirect table.
    pub fn offer_indirect(&mut self, queue: usize, buffers: &[(u64, u32)], flags: u16) -> u16 {
        let table = self.memory.allocate(16 * buffers.len() as u64, 16);
        for (n, (guest, len)) in buffers.iter().enumerate() {
            let more = n + 1 < buffers.len();
            let flags = flags | if more { NEXT } else { 0 };
            let entry = (*guest, *len, flags, if more { n as u16 + 1 } else { 0 });
            self.memory.write(table + 16 * n as u64, &descriptor(entry));
        }
        let head = self.queues[queue].next;
        self.queues[queue].next = (head + 1) % self.queues[queue].size;
        let len = 16 * buffers.len() as u32;
        self.set_descriptor(queue, head, (table, len, INDIRECT, 0));
        self.make_available(queue, head);
        head
    }

    /// The next used entry: head and length.
    pub fn take_used(&mut self, queue: usize) -> Option<(u32, u32)> {
        let queue = &mut self.queues[queue];
        let index = self.memory.read_u16(queue.used + 2);
        fence(Ordering::SeqCst);
        if index == queue.taken {
            return None;
        }
        let slot = u64::from(queue.taken % queue.size);
        queue.taken = queue.taken.wrapping_add(1);
        let entry = self.memory.read(queue.used + 4 + 8 * slot, 8);
        let word = |at: usize| {
            u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
        };
        Some((word(0), word(4)))
    }

    /// Puts `bytes` somewhere in the guest's memory.
    pub fn place(&mut self, bytes: &[u8]) -> u64 {
        let at = self.memory.allocate(bytes.len() as u64, 1);
        self.memory.write(at, bytes);
        at
    }

    /// Transmits a frame from queue pair `pair`, in one buffer with a header that asks for
    /// nothing.
    pub fn transmit(&mut self, pair: usize, frame: &[u8]) -> u16 {
        let header = vec![0; self.header_bytes()];
        self.transmit_with(pair, &header, frame)
    }

    /// Transmits a frame with a header of any content.
    pub fn transmit_with(&mut self, pair: usize, header: &[u8], frame: &[u8]) -> u16 {
        let at = self.place(&[header, frame].concat());
        let len = (header.len() + frame.len()) as u32;
        self.offer(2 * pair + 1, &[(at, len)], 0)
    }

    /// Gives the switch receive buffers of these sizes, each a chain of its own.
    pub fn post(&mut self, pair: usize, sizes: &[u32]) -> Vec<u64> {
        sizes
            .iter()
            .map(|size| {
                let at = self.memory.allocate(u64::from(*size), 1);
                self.offer(2 * pair, &[(at, *size)], WRITE);
                at
            })
            .collect()
    }

    /// Every frame that arrived on queue pair `pair`: header and bytes. Buffers must be single
    /// descriptors.
    pub fn receive(&mut self, pair: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some(mut bytes) = self.take_buffer(2 * pair) {
            let merged = u16::from_le_bytes([bytes[10], bytes[11]]);
            if self.features & feature::MRG_RXBUF != 0 {
                for _ in 1..merged {
                    bytes.extend(self.take_buffer(2 * pair).expect("a merged buffer"));
                }
            }
            let frame = bytes.split_off(self.header_bytes());
            frames.push((bytes, frame));
        }
        frames
    }

    fn take_buffer(&mut self, queue: usize) -> Option<Vec<u8>> {
        let (head, len) = self.take_used(queue)?;
        let at = self.queues[queue].descriptors + 16 * u64::from(head);
        let entry = self.memory.read(at, 8);
        let guest = u64::from_le_bytes(entry.try_into().expect("eight bytes"));
        Some(self.memory.read(guest, len as usize))
    }

    /// How often the switch notified a virtqueue since the last question.
    pub fn calls(&self, queue: usize) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.queues[queue].call, &mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(_) => 0,
        }
    }
}

fn descriptor((guest, len, flags, next): (u64, u32, u16, u16)) -> Vec<u8> {
    let mut bytes = guest.to_le_bytes().to_vec();
    bytes.extend(len.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(next.to_le_bytes());
    bytes
}

impl Virtqueue {
    fn new(memory: &mut Memory, size: u16) -> Self {
        let entries = u64::from(size);
        let event = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("eventfd");
        Self {
            size,
            descriptors: memory.allocate(16 * entries, 16),
            available: memory.allocate(6 + 2 * entries, 2),
            used: memory.allocate(6 + 8 * entries, 4),
            index: 0,
            taken: 0,
            next: 0,
            kick: event(),
            call: event(),
        }
    }
}

/// Every frame that a port has, from all its queues.
pub fn take_frames(port: &mut Port) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for queue in &mut port.rx {
        loop {
            let mut burst = Burst::new();
            queue.receive(&mut burst);
            let count = burst.len();
            frames.extend(burst.iter().map(Frame::to_vec));
            drop(burst);
            queue.release();
            if count == 0 {
                break;
            }
        }
    }
    frames
}

/// Sends whole frames to queue number `queue` of a port.
pub fn send_frames(port: &mut Port, queue: usize, frames: &[Frame<'_>]) -> TxReport {
    let prefixes = PrefixArena::default();
    let plans: Vec<TxPlan> = frames
        .iter()
        .enumerate()
        .map(|(index, frame)| TxPlan::whole(index, frame))
        .collect();
    port.tx[queue].transmit(&TxBurst {
        frames,
        prefixes: &prefixes,
        plans: &plans,
    })
}

/// One burst from a port to another, whole: what a switch does.
pub fn relay(from: &mut Port, to: &mut Port) -> (usize, TxReport) {
    let mut burst = Burst::new();
    from.rx[0].receive(&mut burst);
    let count = burst.len();
    let report = send_frames(to, 0, &burst);
    drop(burst);
    from.rx[0].release();
    (count, report)
}

/// Why a port is down; waits for it.
pub fn wait_down(port: &mut Port, with: &str) -> String {
    let mut last = String::new();
    wait_for(
        &format!("the port to be down for {with:?}"),
        || match port.monitor.health() {
            Health::Down(why) if why.contains(with) => Some(why),
            other => {
                last = format!("{other:?}");
                None
            }
        },
    )
}

/// Waits until a port is up.
pub fn wait_up(port: &mut Port) {
    wait_for("the port to be up", || {
        (port.monitor.health() == Health::Up).then_some(())
    });
}

/// A counter of a port, by name.
pub fn count(port: &mut Port, name: &str) -> u64 {
    let counts = port.monitor.counts();
    counts
        .iter()
        .find(|(it, _)| *it == name)
        .map_or(0, |(_, value)| *value)
}

/// A port in the server role, with a socket of its own.
pub struct Bed {
    _folder: tempfile::TempDir,
    pub socket: std::path::PathBuf,
    pub port: Port,
}

impl Bed {
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let socket = folder.path().join("vm");
        let mut config = Config::new(&socket, Role::Server);
        change(&mut config);
        let port = open(&config).expect("open");
        Self {
            _folder: folder,
            socket,
            port,
        }
    }

    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// A guest whose device is started, and seen to be.
    pub fn guest(&mut self, options: Options) -> FrontEnd {
        let guest = FrontEnd::started(&self.socket, options);
        wait_up(&mut self.port);
        guest
    }
}

/// Bytes that tell frames apart.
pub fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed))
        .collect()
}
