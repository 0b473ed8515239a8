//! The system calls of a tap interface: create it, set it up, look at it.
//!
//! What must hold: every structure handed to the kernel is a whole `ifreq` on our stack, and
//! every name in it ends in a zero byte.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, open},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};

use crate::OpenError;

const DEVICE: &str = "/dev/net/tun";

/// Creates the interface and opens so many queues of it.
pub(super) fn create(name: &str, queues: u32) -> Result<Vec<OwnedFd>, OpenError> {
    let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | several;
    (0..queues)
        .map(|queue| {
            let fd = open(
                DEVICE,
                OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|e| {
                let step = format!("tap port {name}: open {DEVICE} (is the tun module loaded?)");
                OpenError::system(step, e.into())
            })?;
            // Only the first queue may create the interface, and only if there is none.
            let exclusive = if queue == 0 { libc::IFF_TUN_EXCL } else { 0 };
            let mut request = named(name);
            request.ifr_ifru.ifru_flags = (flags | exclusive) as libc::c_short;
            ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &mut request)
                .map_err(|e| refused(name, queue, e))?;
            Ok(fd)
        })
        .collect()
}

fn refused(name: &str, queue: u32, error: io::Error) -> OpenError {
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EINVAL | libc::EEXIST) if queue == 0 => {
            OpenError::Unsupported(format!(
                "tap port {name}: an interface of this name exists already; delete it (ip link \
                 delete {name}) or choose another name"
            ))
        }
        Some(libc::EPERM) => OpenError::system(
            format!("tap port {name}: create the interface (needs CAP_NET_ADMIN)"),
            error,
        ),
        _ => OpenError::system(
            format!("tap port {name}: create the interface, queue {queue}"),
            error,
        ),
    }
}

/// The name the interface of `fd` has now; `None` when it was deleted.
pub(super) fn current_name(fd: BorrowedFd<'_>) -> Option<String> {
    let mut request = named("");
    ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &mut request).ok()?;
    let bytes = request.ifr_name.iter().map(|c| c.to_ne_bytes()[0]);
    let name: Vec<u8> = bytes.take_while(|b| *b != 0).collect();
    Some(String::from_utf8_lossy(&name).into_owned())
}

/// Asks and tells the kernel about interfaces of the network namespace it was made in, whichever
/// thread calls.
pub(super) struct Control {
    socket: OwnedFd,
    name: String,
}

impl Control {
    pub(super) fn new(name: &str) -> Result<Self, OpenError> {
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| OpenError::system(format!("tap port {name}: control socket"), e.into()))?;
        Ok(Self {
            socket,
            name: name.to_owned(),
        })
    }

    pub(super) fn set_mac(&self, mac: [u8; 6]) -> Result<(), OpenError> {
        let mut address = libc::sockaddr {
            sa_family: libc::ARPHRD_ETHER,
            sa_data: [0; 14],
        };
        for (slot, byte) in address.sa_data.iter_mut().zip(mac) {
            *slot = libc::c_char::from_ne_bytes([byte]);
        }
        let mut request = named(&self.name);
        request.ifr_ifru.ifru_hwaddr = address;
        self.call(libc::SIOCSIFHWADDR, &mut request, "set the MAC address")
    }

    pub(super) fn set_mtu(&self, mtu: u32) -> Result<(), OpenError> {
        let mut request = named(&self.name);
        request.ifr_ifru.ifru_mtu = mtu.cast_signed();
        self.call(libc::SIOCSIFMTU, &mut request, &format!("set MTU {mtu}"))
    }

    pub(super) fn mtu(&self) -> Result<u32, OpenError> {
        let mut request = named(&self.name);
        self.call(libc::SIOCGIFMTU, &mut request, "read the MTU")?;
        // SAFETY: the kernel filled the union's `ifru_mtu`, and any bits are a valid integer.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(u32::try_from(mtu).unwrap_or(0))
    }

    pub(super) fn set_up(&self) -> Result<(), OpenError> {
        let mut request = named(&self.name);
        self.call(libc::SIOCGIFFLAGS, &mut request, "read the flags")?;
        let flags = flags(&request) | libc::IFF_UP as libc::c_short;
        request.ifr_ifru.ifru_flags = flags;
        self.call(libc::SIOCSIFFLAGS, &mut request, "set the interface up")
    }

    /// Whether the interface `name` is up. One that was moved to another network namespace
    /// cannot be seen from here but still passes frames, so it counts as up.
    pub(super) fn is_up(&self, name: &str) -> bool {
        let mut request = named(name);
        match ioctl(self.socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request) {
            Ok(()) => flags(&request) & libc::IFF_UP as libc::c_short != 0,
            Err(_) => true,
        }
    }

    fn call(
        &self,
        operation: libc::c_ulong,
        request: &mut libc::ifreq,
        what: &str,
    ) -> Result<(), OpenError> {
        ioctl(self.socket.as_raw_fd(), operation as libc::Ioctl, request)
            .map_err(|e| OpenError::system(format!("tap port {}: {what}", self.name), e))
    }
}

/// Frames that the kernel dropped on their way to us, from the statistics of the calling thread's
/// network namespace; `None` when the interface is not in it.
pub(super) fn kernel_dropped(name: &str) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").ok()?;
    let row = table
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    // Eight columns of what the kernel received, then bytes, packets, errors and drops of what
    // it sent.
    row.split_whitespace().nth(11)?.parse().ok()
}

/// A request about the interface `name`, cut to what a name may be, everything else zero.
fn named(name: &str) -> libc::ifreq {
    // SAFETY: an `ifreq` is integers and a union of such and pointers; all zeroes are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (slot, byte) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *slot = libc::c_char::from_ne_bytes([byte]);
    }
    request
}

fn flags(request: &libc::ifreq) -> libc::c_short {
    // SAFETY: only called after the kernel filled `ifru_flags`; any bits are a valid integer.
    unsafe { request.ifr_ifru.ifru_flags }
}

fn ioctl(fd: i32, operation: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: `fd` is open, held by the caller; every operation used here reads and writes at
    // most one `ifreq`, which `request` is, exclusively.
    match unsafe { libc::ioctl(fd, operation, std::ptr::from_mut(request)) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
