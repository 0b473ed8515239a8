//! One queue's socket: made, bound, put under the XDP program, and divided into its two halves.
//!
//! In: an interface, a queue, an attached program. Out: the halves and what the monitor watches.
//! What must hold: zero-copy is given up when the first queue cannot have it, so that all
//! queues of a port are alike.

use std::{
    error::Error,
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::Arc,
    thread,
    time::Instant,
};

use xsk_rs::{
    Socket, Umem,
    config::{BindFlags, Interface as XskInterface, LibxdpFlags, QueueSize, SocketConfig},
    socket::{RxQueue, TxQueue},
    umem::{CompQueue, FillQueue},
};

use super::{
    Plan, RELEASE_POLL, RELEASE_TIMEOUT, frames,
    interface::Interface,
    program::{Attachment, Request},
    queue::QueueState,
    rx::AfXdpRx,
    tx::{AfXdpTx, Limits},
};
use crate::OpenError;

/// `XDP_MAX_TX_SKB_BUDGET` of `linux/if_xdp.h` (Linux 6.17): frames per kick in copy mode.
const MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// What a packet buffer in the kernel costs beyond its frame, in bytes, generously.
const BUFFER_OVERHEAD_BYTES: u64 = 1024;

/// One open queue.
pub(super) struct Opened {
    pub(super) rx: AfXdpRx,
    pub(super) tx: AfXdpTx,
    pub(super) watched: (OwnedFd, Arc<QueueState>),
    pub(super) huge_pages: bool,
}

/// The four rings of a bound socket.
struct Rings {
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completions: CompQueue,
}

/// Whether sockets of this kernel take frames of several pieces, as those do since Linux 6.6.
pub(super) fn takes_pieces() -> bool {
    // SAFETY: a plain system call; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        // Opening a queue will say why.
        return true;
    }
    // SAFETY: `fd` was just opened and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: libc::XDP_USE_SG,
        sxdp_ifindex: 0,
        sxdp_queue_id: 0,
        sxdp_shared_umem_fd: 0,
    };
    // SAFETY: `address` is a whole `sockaddr_xdp` that lives through the call.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            mem::size_of_val(&address) as libc::socklen_t,
        )
    };
    // Flags are looked at before the interface, and there is no interface 0.
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL)
}

/// Opens `queue`; clears `zero_copy` when the driver does not offer it.
pub(super) fn open(
    interface: &Interface,
    queue: u32,
    plan: Plan,
    request: Request,
    attachment: &Arc<Attachment>,
    zero_copy: &mut bool,
) -> Result<Opened, OpenError> {
    let name = &interface.name;
    let ring = QueueSize::new(plan.ring_size)
        .map_err(|e| OpenError::Unsupported(format!("{name}: {e}")))?;
    let mut allocation = frames::allocate(name, ring, plan.frame_bytes)?;
    let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
    if request.fragments {
        flags |= BindFlags::XDP_USE_SG;
    }
    let rings = bind(interface, queue, plan, flags, &allocation.umem, zero_copy)?;
    let fd = rings.rx.fd().as_raw_fd();
    raise_send_limits(fd, plan);
    let state = Arc::new(QueueState::new(Arc::clone(attachment)));
    // SAFETY: `rings` keeps the descriptor open through this borrow.
    let watched = unsafe { BorrowedFd::borrow_raw(fd) }
        .try_clone_to_owned()
        .map_err(|e| OpenError::system(format!("{name}: duplicate the socket"), e))?;
    let for_tx = allocation.frames.split_off(plan.ring_size as usize);
    let rx = AfXdpRx::new(
        rings.rx,
        rings.fill,
        allocation.memory.clone(),
        Arc::clone(&state),
        request.vlan_tag,
        allocation.frames,
    );
    let tx = AfXdpTx::new(
        rings.tx,
        rings.completions,
        allocation.memory,
        Arc::clone(&state),
        Limits {
            max_frame_bytes: plan.max_frame_bytes,
            piece_bytes: plan.piece_bytes(),
        },
        for_tx,
    );
    // Last, so that the first frame finds the fill ring full.
    attachment
        .set_socket(queue, fd)
        .map_err(|e| OpenError::system(format!("{name}: give queue {queue} its socket"), e))?;
    Ok(Opened {
        rx,
        tx,
        watched: (watched, state),
        huge_pages: allocation.huge_pages,
    })
}

/// Binds with zero-copy if it may and can, else with copy.
fn bind(
    interface: &Interface,
    queue: u32,
    plan: Plan,
    flags: BindFlags,
    umem: &Umem,
    zero_copy: &mut bool,
) -> Result<Rings, OpenError> {
    if *zero_copy {
        match bind_patiently(
            interface,
            queue,
            plan,
            flags | BindFlags::XDP_ZEROCOPY,
            umem,
        ) {
            Ok(rings) => return Ok(rings),
            Err(error) if queue == 0 && error.raw_os_error() != Some(libc::EBUSY) => {
                tracing::debug!(interface = interface.name, %error, "no zero-copy, the kernel copies");
                *zero_copy = false;
            }
            Err(error) => return Err(refusal(interface, queue, error)),
        }
    }
    bind_patiently(interface, queue, plan, flags | BindFlags::XDP_COPY, umem)
        .map_err(|error| refusal(interface, queue, error))
}

fn refusal(interface: &Interface, queue: u32, error: io::Error) -> OpenError {
    let name = &interface.name;
    let hint = match error.raw_os_error() {
        Some(libc::EBUSY) => " (another AF_XDP socket holds this queue: stop its process)",
        Some(libc::ENETDOWN) => " (the interface went down: set it up)",
        _ => "",
    };
    OpenError::system(
        format!("{name}: bind an AF_XDP socket to queue {queue}{hint}"),
        error,
    )
}

/// Binds; a former owner's socket may take a while to let go of the queue.
fn bind_patiently(
    interface: &Interface,
    queue: u32,
    plan: Plan,
    flags: BindFlags,
    umem: &Umem,
) -> io::Result<Rings> {
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    loop {
        match bind_once(interface, queue, plan, flags, umem) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                thread::sleep(RELEASE_POLL);
            }
            result => return result,
        }
    }
}

fn bind_once(
    interface: &Interface,
    queue: u32,
    plan: Plan,
    flags: BindFlags,
    umem: &Umem,
) -> io::Result<Rings> {
    // Twice the frames that could be in them, so that a ring never refuses a frame.
    let size = QueueSize::new(plan.ring_size * 2).map_err(io::Error::other)?;
    let config = SocketConfig::builder()
        .rx_queue_size(size)
        .tx_queue_size(size)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags)
        .build();
    let name: XskInterface = interface.name.parse().map_err(io::Error::other)?;
    // SAFETY: the UMEM is shared with no other queue, and no program is loaded by the library.
    let made = unsafe { Socket::new(config, umem, &name, queue) };
    let (tx, rx, rings) = made.map_err(|error| {
        error
            .source()
            .and_then(|source| source.downcast_ref::<io::Error>())
            .and_then(io::Error::raw_os_error)
            .map_or_else(
                || io::Error::other(error.to_string()),
                io::Error::from_raw_os_error,
            )
    })?;
    let (fill, completions) =
        rings.ok_or_else(|| io::Error::other("the socket came without fill ring"))?;
    Ok(Rings {
        rx,
        tx,
        fill,
        completions,
    })
}

/// Lets all frames of the transmitting half be under way at once. A kernel that refuses sends
/// fewer at a time.
fn raise_send_limits(socket: RawFd, plan: Plan) {
    let in_flight =
        u64::from(plan.ring_size) * (u64::from(plan.frame_bytes) + BUFFER_OVERHEAD_BYTES);
    // The kernel doubles the value.
    let send_buffer = libc::c_int::try_from(in_flight).unwrap_or(libc::c_int::MAX / 2);
    set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, send_buffer);
    let budget = plan.ring_size.min(256).cast_signed();
    set_option(socket, libc::SOL_XDP, MAX_TX_SKB_BUDGET, budget);
}

fn set_option(socket: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) {
    // SAFETY: the value is one int, as both options expect, and lives through the call.
    unsafe {
        libc::setsockopt(
            socket,
            level,
            option,
            (&raw const value).cast(),
            mem::size_of_val(&value) as libc::socklen_t,
        );
    }
}
