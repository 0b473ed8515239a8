//! `tap`: the host's own network stack as a port.
//!
//! ```text
//!   the kernel sends on the interface ──► read(2) ──► rx queue buffers ──► the switch
//!   the kernel receives on it         ◄── write(2) ◄── scratch buffer  ◄── the switch
//! ```
//!
//! In: a name for an interface that does not exist yet. Out: that interface, for as long as the
//! port lives: it is never persistent, so it vanishes with the process however that ends. What
//! must hold: every frame is one read or one write of whole bytes; the kernel completes checksums
//! and cuts super-frames before we see them, because no offload is asked for, and puts VLAN tags
//! into the frame.
//!
//! Source: the kernel's Documentation/networking/tuntap.rst and drivers/net/tun.c.

mod device;

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::{
    BURST, Burst, Counts, Frame, Health, Monitor, OpenError, Port, PortInfo, RxQueue, TxBurst,
    TxQueue, TxReport, Wait,
};
use device::Control;

/// The bytes of an Ethernet header, which the MTU does not count.
const HEADER_BYTES: usize = 14;
/// A tag may come on top, as on every Linux interface.
const TAG_BYTES: usize = 4;
/// The largest MTU a tap interface takes, and with it the longest frame: 65,535 and a tag. A
/// buffer for that, whatever the MTU, because a read into a shorter one cuts a frame silently
/// when the MTU is raised later. Not a multiple of a page, so that heads spread over the cache.
const MAX_MTU: u32 = 65_521;
const MIN_MTU: u32 = 68;
const BUFFER_BYTES: usize = 65_600;
/// The kernel's `MAX_TAP_QUEUES`.
const MAX_QUEUES: u32 = 256;

/// How a tap port is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The interface's name: at most 15 bytes, and not in use.
    pub interface: String,
    /// Queues; the kernel spreads flows over more than one.
    pub queues: u32,
    /// MTU in bytes, 68 to 65,521; `None` leaves the kernel's choice.
    pub mtu: Option<u32>,
    /// The host's address on the interface; `None` leaves the kernel's random choice.
    pub mac: Option<[u8; 6]>,
    /// Whether to set the interface up.
    pub up: bool,
}

impl Config {
    /// One queue, up, everything else as the kernel chooses.
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            queues: 1,
            mtu: None,
            mac: None,
            up: true,
        }
    }
}

/// Creates the interface, in the network namespace of the calling thread, and opens it.
///
/// # Errors
///
/// [`OpenError::Unsupported`] when an interface of that name exists or the request is out of
/// range, [`OpenError::System`] when the kernel refuses a step, for example for want of
/// `CAP_NET_ADMIN`.
pub fn open(config: &Config) -> Result<Port, OpenError> {
    check(config)?;
    let queues = device::create(&config.interface, config.queues)?;
    let control = Control::new(&config.interface)?;
    if let Some(mac) = config.mac {
        control.set_mac(mac)?;
    }
    if let Some(mtu) = config.mtu {
        control.set_mtu(mtu)?;
    }
    if config.up {
        control.set_up()?;
    }
    let mtu = control.mtu()?;
    let max_frame_bytes = mtu as usize + HEADER_BYTES;
    let queues: Vec<Arc<OwnedFd>> = queues.into_iter().map(Arc::new).collect();
    let refused = Arc::new(AtomicU64::new(0));
    Ok(Port {
        info: PortInfo {
            driver: "tap",
            mode: format!(
                "interface {}, {} queues, MTU {mtu}",
                config.interface, config.queues
            ),
            max_frame_bytes,
            unmarked_partial_checksums: false,
            hidden_vlan_tags: false,
            notes: Vec::new(),
        },
        rx: queues
            .iter()
            .map(|fd| Box::new(TapRx::new(Arc::clone(fd))) as Box<dyn RxQueue>)
            .collect(),
        tx: queues
            .iter()
            .map(|fd| {
                Box::new(TapTx {
                    fd: Arc::clone(fd),
                    scratch: vec![0; BUFFER_BYTES].into_boxed_slice(),
                    max_wire_bytes: (max_frame_bytes + TAG_BYTES).min(BUFFER_BYTES),
                    refused: Arc::clone(&refused),
                }) as Box<dyn TxQueue>
            })
            .collect(),
        monitor: Box::new(TapMonitor {
            fd: Arc::clone(&queues[0]),
            control,
            refused,
        }),
    })
}

fn check(config: &Config) -> Result<(), OpenError> {
    let name = &config.interface;
    let bad_byte = |b: u8| !b.is_ascii_graphic() || matches!(b, b'/' | b':' | b'%');
    let wrong = if name.is_empty() || name.len() > 15 || name == "." || name == ".." {
        "an interface name has 1 to 15 bytes".to_owned()
    } else if name.bytes().any(bad_byte) {
        "an interface name has no spaces, '/', ':' or '%'".to_owned()
    } else if !(1..=MAX_QUEUES).contains(&config.queues) {
        format!("{} queues; 1 to {MAX_QUEUES} are possible", config.queues)
    } else if config
        .mtu
        .is_some_and(|mtu| !(MIN_MTU..=MAX_MTU).contains(&mtu))
    {
        format!("the MTU must lie between {MIN_MTU} and {MAX_MTU}")
    } else if config
        .mac
        .is_some_and(|mac| mac[0] & 1 == 1 || mac == [0; 6])
    {
        "the MAC address must be that of one station, not zero or a group".to_owned()
    } else {
        return Ok(());
    };
    Err(OpenError::Unsupported(format!("tap port {name}: {wrong}")))
}

struct TapRx {
    fd: Arc<OwnedFd>,
    /// A burst of buffers of [`BUFFER_BYTES`]; pages that no frame ever reached take no memory.
    buffers: Box<[u8]>,
    lengths: [usize; BURST],
    gone: bool,
}

impl TapRx {
    fn new(fd: Arc<OwnedFd>) -> Self {
        Self {
            fd,
            buffers: vec![0; BURST * BUFFER_BYTES].into_boxed_slice(),
            lengths: [0; BURST],
            gone: false,
        }
    }
}

impl RxQueue for TapRx {
    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) {
        let mut count = 0;
        for buffer in self
            .buffers
            .chunks_exact_mut(BUFFER_BYTES)
            .take(burst.remaining_capacity())
        {
            match rustix::io::read(&*self.fd, buffer) {
                Ok(len) => self.lengths[count] = len,
                Err(error) => {
                    self.gone = error == Errno::BADFD;
                    break;
                }
            }
            count += 1;
        }
        let frames = self.buffers.chunks_exact(BUFFER_BYTES).zip(&self.lengths);
        for (buffer, len) in frames.take(count) {
            burst.push(Frame::contiguous(&buffer[..*len]));
        }
    }

    fn release(&mut self) {}

    fn prepare_wait(&mut self) -> Wait {
        let mut fds = [PollFd::new(&*self.fd, PollFlags::IN)];
        let polled = poll(&mut fds, Some(&Timespec::default()));
        if polled.is_ok() && fds[0].revents().contains(PollFlags::IN) {
            Wait::Ready
        } else {
            Wait::Until(None)
        }
    }

    /// `None` once the interface is gone: its descriptor would report an error for ever.
    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.gone).then(|| self.fd.as_fd())
    }
}

struct TapTx {
    fd: Arc<OwnedFd>,
    scratch: Box<[u8]>,
    max_wire_bytes: usize,
    /// Frames that the kernel refused for what they are, such as ones without a whole header.
    refused: Arc<AtomicU64>,
}

impl TxQueue for TapTx {
    fn transmit(&mut self, burst: &TxBurst<'_>) -> TxReport {
        let mut report = TxReport::default();
        for plan in burst.plans {
            if plan.wire_len() > self.max_wire_bytes {
                report.too_big += 1;
                continue;
            }
            let len = burst.write(plan, &mut self.scratch);
            let written = loop {
                match rustix::io::write(&*self.fd, &self.scratch[..len]) {
                    Err(Errno::INTR) => {}
                    written => break written,
                }
            };
            match written {
                Ok(_) => {
                    report.sent += 1;
                    report.sent_bytes += len as u64;
                }
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => report.full += 1,
                // EIO, ENETDOWN: set down. EBADFD: gone.
                Err(error) => {
                    let down = matches!(error, Errno::IO | Errno::NETDOWN | Errno::BADFD);
                    self.refused.fetch_add(u64::from(!down), Ordering::Relaxed);
                    report.down += 1;
                }
            }
        }
        report
    }
}

struct TapMonitor {
    fd: Arc<OwnedFd>,
    control: Control,
    refused: Arc<AtomicU64>,
}

impl Monitor for TapMonitor {
    fn health(&mut self) -> Health {
        match device::current_name(self.fd.as_fd()) {
            None => Health::Gone("the tap interface was deleted".into()),
            Some(name) if self.control.is_up(&name) => Health::Up,
            Some(name) => Health::Down(format!(
                "interface {name} is set down; `ip link set {name} up` lets frames pass"
            )),
        }
    }

    fn counts(&mut self) -> Counts {
        let mut counts = vec![("tx_refused", self.refused.load(Ordering::Relaxed))];
        let dropped =
            device::current_name(self.fd.as_fd()).and_then(|name| device::kernel_dropped(&name));
        // Frames the kernel had for us while its queue was full.
        counts.extend(dropped.map(|dropped| ("rx_kernel_dropped", dropped)));
        counts
    }
}
