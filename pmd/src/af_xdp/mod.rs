//! `af_xdp`: a network interface as a port, through `AF_XDP` sockets.
//!
//! `AF_XDP` (Linux, kernel doc: `networking/af_xdp`) gives a process the frames of an interface's
//! receive queue before the network stack sees them, in memory that kernel and process share. A
//! small XDP program on the interface sends each frame to the socket of its queue:
//!
//! ```text
//!                    interface, queue q
//!   kernel     XDP program ── redirect ──► socket q ──────► device transmit
//!            ─────────────────────│───────────│───▲──────────────│────────────
//!   process    ┌── fill ring ◄────┼───┐       ▼   │              ▼
//!              │                receive     transmit ring   completion ring
//!              ▼                 ring ▼       ▲                  │
//!            AfXdpRx: its half of the UMEM    AfXdpTx: its half ◄┘
//! ```
//!
//! Each queue has one socket and one UMEM, the shared memory, cut into chunks of 2048 or 4096
//! bytes. Half of the chunks belong to the receiving half for ever, half to the transmitting
//! half, so the two share no free list and may run on different threads. A chunk has an
//! `OwnedFrame` or is with the kernel, never both; debug builds check that none is lost.
//!
//! **Modes.** *Native*: the program runs in the driver. *Generic*: after the kernel built its own
//! packet buffer; any interface, slower. *Zero-copy*: the device writes the UMEM itself, where
//! its driver can; else the kernel copies once each way. Native and zero-copy are tried first;
//! [`crate::PortInfo::mode`] says what was obtained, `notes` what is missing and what to do.
//!
//! **Caveats.**
//! - The port takes *all* frames of its queues: the host's own stack no longer sees them. Frames
//!   of queues that were not opened go to the host's stack.
//! - One XDP program per interface. The link that holds ours is removed with this process.
//! - veth: no zero-copy. Native mode needs an attached peer with no more transmit queues than
//!   this end has receive queues. Frames come with partial checksums that nothing marks, as they
//!   may in generic mode on any interface ([`crate::PortInfo::unmarked_partial_checksums`]). Native mode takes segmentation offload
//!   from the peer, so no super-frame arrives.
//! - Generic mode takes no offload from anybody: a frame longer than the port's chunks, such as
//!   a TSO super-frame, is dropped by the kernel and counted in `rx_dropped`.
//! - A VLAN tag that travels beside the frame is invisible to XDP, except to a program that asks
//!   the driver (Linux 6.8, native mode, drivers with that hint, veth among them).
//!   Such a tag of another kind than 802.1Q costs the frame, counted in `rx_other_tag`;
//!   `ethtool -K PEER tx-vlan-stag-hw-insert off` on a veth's peer keeps 802.1ad tags in the frame.
//! - In copy mode the kernel sends only when it is kicked, at most a budget of frames a call. What
//!   it has no room for stays on the ring; the next transmit or receive kicks again. A frame that
//!   the kernel took and dropped because a veth peer is behind is counted in `tx_lost`.
//! - When an interface goes down with frames on the transmit ring they are counted as `down`, yet
//!   leave if the same interface comes up again.
//! - A port is closed when its queues *and* its monitor are dropped. Frames that wait on the
//!   transmit ring then get one last kick; what the kernel has no room for even so is lost without
//!   a count, as there is nobody left to ask.
//! - Unbinding a socket completes after `close` returns; binding again is tried for 2 s.
//! - Registering a UMEM counts against `RLIMIT_MEMLOCK` for a process without `CAP_IPC_LOCK`; BPF
//!   programs and maps do not (since Linux 5.11).
//!
//! **Limits.** A frame has at most 18 pieces; before Linux 6.6 one, and longer frames are dropped. The MTU is read once, when the port is opened.

mod frames;
mod interface;
mod monitor;
mod program;
mod queue;
mod redirection;
mod rx;
mod socket;
mod tx;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{OpenError, Port, PortInfo, RxQueue, TxQueue};
use interface::Interface;
use program::{Attachment, Hook, Request};
pub use redirection::Redirection;

const ETHERNET_HEADER_BYTES: usize = 14;

/// How long another owner's asynchronous clean-up may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
const RELEASE_POLL: Duration = Duration::from_millis(20);

/// Where the XDP program may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Native, or generic where native is refused.
    #[default]
    Auto,
    /// In the driver only.
    Native,
    /// After the driver only.
    Generic,
}

/// Whether the device may write the frame memory itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Where the driver offers it.
    #[default]
    Auto,
    /// Never; the kernel copies.
    Never,
}

/// How an interface is opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the interface, in the calling thread's network namespace.
    pub interface: String,
    /// How many of its receive queues, from the first; `None` for all.
    pub queues: Option<u32>,
    /// Where the XDP program may run.
    pub mode: Mode,
    /// Whether the device may write the frame memory itself.
    pub zero_copy: ZeroCopy,
    /// Frames per queue and direction; a power of two from 64 to 16384.
    pub ring_size: u32,
    /// Bytes of a chunk of frame memory, 2048 or 4096; `None` for the smaller that holds a frame
    /// of the interface's MTU, else 4096. 256 of them are not for data.
    pub frame_bytes: Option<u32>,
}

impl Config {
    /// All defaults for `interface`.
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            queues: None,
            mode: Mode::default(),
            zero_copy: ZeroCopy::default(),
            ring_size: 2048,
            frame_bytes: None,
        }
    }
}

/// What the interface and the configuration ask for.
#[derive(Clone, Copy, Debug)]
struct Plan {
    queues: u32,
    ring_size: u32,
    frame_bytes: u32,
    max_frame_bytes: usize,
}

impl Plan {
    /// What one chunk holds.
    fn piece_bytes(&self) -> usize {
        self.frame_bytes as usize - frames::HEADROOM_BYTES
    }

    /// Frame memory of a queue.
    fn memory_bytes(&self) -> usize {
        2 * self.ring_size as usize * self.frame_bytes as usize
    }

    /// True when the longest frame, tagged, does not fit one chunk.
    fn needs_pieces(&self) -> bool {
        self.max_frame_bytes + tx::VLAN_TAG_BYTES > self.piece_bytes()
    }
}

/// Opens an interface as a port.
///
/// # Errors
///
/// [`OpenError::Missing`] when the interface does not exist or is down,
/// [`OpenError::Unsupported`] when the configuration does not fit it or another XDP program is
/// attached, [`OpenError::System`] when the kernel refuses a step.
pub fn open(config: &Config) -> Result<Port, OpenError> {
    program::silence_libraries();
    let interface = Interface::find(&config.interface)?;
    let link = interface
        .link()
        .map_err(|e| OpenError::system(format!("{}: read its flags", interface.name), e))?;
    if !link.is_some_and(|link| link.admin_up) {
        let name = &interface.name;
        return Err(OpenError::Missing(format!(
            "network interface {name} is down: `ip link set {name} up`"
        )));
    }
    let mut plan = plan(config, &interface)?;
    let driver = interface.driver();
    let mut notes = Vec::new();
    let attached = attach(config.mode, &interface, plan, &mut notes)?;
    if plan.needs_pieces() && !attached.request.fragments {
        plan.max_frame_bytes = plan.piece_bytes() - tx::VLAN_TAG_BYTES;
        notes.push(format!(
            "{}: this kernel does not take frames in pieces here (Linux 6.6 does), so longer frames than {} bytes are dropped: lower the MTU to {}.",
            interface.name,
            plan.max_frame_bytes,
            plan.max_frame_bytes - ETHERNET_HEADER_BYTES
        ));
    }
    add_notes(&interface, &driver, plan, attached.request, &mut notes);
    let attachment = Arc::new(attached.attachment);
    let mut zero_copy = config.zero_copy == ZeroCopy::Auto && attached.request.hook == Hook::Native;
    let mut rx: Vec<Box<dyn RxQueue>> = Vec::new();
    let mut tx: Vec<Box<dyn TxQueue>> = Vec::new();
    let mut watched = Vec::new();
    let mut huge_pages = true;
    for queue in 0..plan.queues {
        let opened = socket::open(
            &interface,
            queue,
            plan,
            attached.request,
            &attachment,
            &mut zero_copy,
        )?;
        huge_pages &= opened.huge_pages;
        rx.push(Box::new(opened.rx));
        tx.push(Box::new(opened.tx));
        watched.push(opened.watched);
    }
    log_pages(&interface, plan, huge_pages);
    Ok(Port {
        info: PortInfo {
            driver: "af_xdp",
            mode: describe(plan, attached.request, zero_copy, huge_pages),
            max_frame_bytes: plan.max_frame_bytes,
            // In generic mode a frame may come from a local sender by way of any virtual
            // interface, with its checksum left for hardware that it never meets.
            unmarked_partial_checksums: driver == "veth" || attached.request.hook == Hook::Generic,
            hidden_vlan_tags: !attached.request.vlan_tag
                && (driver == "veth" || attached.request.hook == Hook::Generic),
            notes,
        },
        rx,
        tx,
        monitor: Box::new(monitor::AfXdpMonitor {
            interface,
            queues: watched,
        }),
    })
}

/// Checks the configuration against the interface.
fn plan(config: &Config, interface: &Interface) -> Result<Plan, OpenError> {
    let refused = |text: String| OpenError::Unsupported(format!("{}: {text}", interface.name));
    if !config.ring_size.is_power_of_two() || !(64..=16384).contains(&config.ring_size) {
        return Err(refused(format!(
            "ring_size is {}: use a power of two from 64 to 16384",
            config.ring_size
        )));
    }
    let available = interface.rx_queues();
    let queues = config.queues.unwrap_or(available);
    if queues == 0 || queues > available {
        return Err(refused(format!(
            "{queues} queues asked for, the interface has {available}: use 1 to {available}"
        )));
    }
    let max_frame_bytes = interface.mtu()? + ETHERNET_HEADER_BYTES;
    let fits_small = max_frame_bytes + tx::VLAN_TAG_BYTES <= 2048 - frames::HEADROOM_BYTES;
    let frame_bytes = config
        .frame_bytes
        .unwrap_or(if fits_small { 2048 } else { 4096 });
    if ![2048, 4096].contains(&frame_bytes) {
        return Err(refused(format!(
            "frame_bytes is {frame_bytes}: use 2048 or 4096"
        )));
    }
    let plan = Plan {
        queues,
        ring_size: config.ring_size,
        frame_bytes,
        max_frame_bytes,
    };
    if max_frame_bytes + tx::VLAN_TAG_BYTES > rx::MAX_PIECES * plan.piece_bytes() {
        return Err(refused(format!(
            "an MTU of {} needs more than {} pieces of {frame_bytes} bytes: use frame_bytes 4096 or a smaller MTU",
            max_frame_bytes - ETHERNET_HEADER_BYTES,
            rx::MAX_PIECES
        )));
    }
    Ok(plan)
}

/// A program on the interface, and how it was loaded.
struct Attached {
    attachment: Attachment,
    request: Request,
}

/// Attaches the best program that the kernel and the driver accept.
fn attach(
    mode: Mode,
    interface: &Interface,
    plan: Plan,
    notes: &mut Vec<String>,
) -> Result<Attached, OpenError> {
    let fragments = plan.needs_pieces() && socket::takes_pieces();
    let request = |hook, fragments, vlan_tag| Request {
        index: interface.index,
        hook,
        fragments,
        vlan_tag,
    };
    let mut choices = Vec::new();
    if mode != Mode::Generic {
        choices.push(request(Hook::Native, fragments, true));
        choices.push(request(Hook::Native, fragments, false));
    }
    if mode != Mode::Native {
        choices.push(request(Hook::Generic, fragments, false));
        if fragments {
            choices.push(request(Hook::Generic, false, false));
        }
    }
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    let mut last = None;
    for choice in choices {
        match attach_once(choice, plan.queues, deadline) {
            Ok(attachment) => {
                return Ok(Attached {
                    attachment,
                    request: choice,
                });
            }
            Err(error) => {
                if let Some(fatal) = fatal(interface, &error) {
                    return Err(fatal);
                }
                notes.push(refusal(interface, choice, &error));
                last = Some(error);
            }
        }
    }
    let name = &interface.name;
    Err(OpenError::system(
        format!("{name}: attach an XDP program ({})", notes.join(" ")),
        last.unwrap_or_else(|| io::ErrorKind::Unsupported.into()),
    ))
}

/// Attaches one program; waits until `deadline` for a former owner's program to go.
fn attach_once(request: Request, queues: u32, deadline: Instant) -> io::Result<Attachment> {
    loop {
        match Attachment::new(request, queues) {
            Err(error) if is_taken(&error) && Instant::now() < deadline => {
                std::thread::sleep(RELEASE_POLL);
            }
            result => return result,
        }
    }
}

/// True when another XDP program is there.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

/// The errors that no other program or mode would avoid.
fn fatal(interface: &Interface, error: &io::Error) -> Option<OpenError> {
    let name = &interface.name;
    match error.raw_os_error()? {
        libc::EBUSY | libc::EEXIST => {
            let which = program::attached_program(interface.index)
                .map_or_else(String::new, |id| format!(" (program id {id})"));
            Some(OpenError::Unsupported(format!(
                "{name}: another XDP program is attached{which}: stop the process that owns it, or `ip link set dev {name} xdp off` if none does"
            )))
        }
        libc::ENODEV => Some(OpenError::Missing(format!(
            "network interface {name} went away while it was opened"
        ))),
        libc::EPERM => Some(OpenError::system(
            format!(
                "{name}: load an XDP program (run as root, or with CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF)"
            ),
            error.kind().into(),
        )),
        _ => None,
    }
}

/// Why the next best program is used.
fn refusal(interface: &Interface, request: Request, error: &io::Error) -> String {
    let name = &interface.name;
    match request {
        Request { vlan_tag: true, .. } => {
            format!("{name}: the XDP program that reads VLAN tags was refused ({error}).")
        }
        Request {
            hook: Hook::Native, ..
        } => format!(
            "{name}: native XDP was refused ({error}): a veth needs a peer with no more transmit queues than this end has receive queues (`ip link add … numrxqueues N`)."
        ),
        _ => format!("{name}: generic XDP was refused ({error})."),
    }
}

/// What the port lacks, and what to do about it.
fn add_notes(
    interface: &Interface,
    driver: &str,
    plan: Plan,
    request: Request,
    notes: &mut Vec<String>,
) {
    let name = &interface.name;
    if !request.vlan_tag {
        let remedy = if driver == "veth" {
            "`ethtool -K PEER txvlan off` on its peer".to_owned()
        } else {
            format!("`ethtool -K {name} rxvlan off`")
        };
        notes.push(format!(
            "{name}: VLAN tags that travel beside the frame are not seen: {remedy} puts them into the frame."
        ));
    }
    if request.hook == Hook::Generic {
        let longest = if request.fragments {
            rx::MAX_PIECES * plan.piece_bytes()
        } else {
            plan.piece_bytes()
        };
        notes.push(format!(
            "{name}: in generic mode the kernel drops received frames longer than {longest} bytes, such as TSO super-frames, and counts them in rx_dropped: turn off segmentation offload where they come from (`ethtool -K PEER tso off gso off` on a veth's peer, `ethtool -K {name} gro off lro off` on a NIC)."
        ));
    }
    let available = interface.rx_queues();
    if plan.queues < available {
        notes.push(format!(
            "{name}: {} of {available} receive queues are opened; frames of the others go to the host's stack.",
            plan.queues
        ));
    }
}

/// Says that huge pages were wanted and not there. Memory of another multiple never asks for them.
fn log_pages(interface: &Interface, plan: Plan, huge_pages: bool) {
    if !huge_pages && plan.memory_bytes().is_multiple_of(frames::HUGE_PAGE_BYTES) {
        tracing::info!(
            interface = interface.name,
            kib_per_queue = plan.memory_bytes() >> 10,
            "no huge pages for the frame memory, ordinary pages are used; set vm.nr_hugepages to change that"
        );
    }
}

fn describe(plan: Plan, request: Request, zero_copy: bool, huge_pages: bool) -> String {
    let hook = match request.hook {
        Hook::Native => "native",
        Hook::Generic => "generic",
    };
    let copy = if zero_copy { "zero-copy" } else { "copy" };
    let pieces = if request.fragments {
        ", frames in pieces"
    } else {
        ""
    };
    let tags = if request.vlan_tag {
        ", VLAN tags from metadata"
    } else {
        ""
    };
    let pages = if huge_pages { "huge" } else { "ordinary" };
    format!(
        "{hook} XDP, {copy}, {} queue{}, {} frames of {} bytes each way on {pages} pages{pieces}{tags}",
        plan.queues,
        if plan.queues == 1 { "" } else { "s" },
        plan.ring_size,
        plan.frame_bytes
    )
}
