//! What the kernel says about a network interface.
//!
//! In: a name, or later the index that was found for it. Out: index, MTU, driver, queue counts,
//! flags. What must hold: every question is asked in the network namespace in which the
//! interface was found, on whatever thread it is asked later; so the questions go through a
//! socket made at that time, and not through `/sys`, which shows the namespace it was mounted in.

use std::{
    ffi::{CStr, c_char, c_int},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use crate::OpenError;

/// `ETHTOOL_GDRVINFO` and `ETHTOOL_GCHANNELS` of `linux/ethtool.h`.
const GET_DRIVER_INFO: u32 = 0x3;
const GET_CHANNELS: u32 = 0x3c;

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    _rest: [u8; 160],
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// An interface that existed when it was looked up.
#[derive(Debug)]
pub(super) struct Interface {
    socket: OwnedFd,
    pub(super) name: String,
    pub(super) index: u32,
}

/// Flags of an interface that say whether frames can pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) admin_up: bool,
    pub(super) carrier: bool,
}

impl Interface {
    /// Finds the interface called `name` in the calling thread's network namespace.
    pub(super) fn find(name: &str) -> Result<Self, OpenError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['\0', '/']) {
            return Err(OpenError::Unsupported(format!(
                "\"{name}\" cannot be the name of a network interface: use 1 to {} characters",
                libc::IFNAMSIZ - 1
            )));
        }
        // SAFETY: a plain system call; the result is checked before it is owned.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(OpenError::system(
                format!("{name}: open a socket to ask about the interface"),
                io::Error::last_os_error(),
            ));
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut interface = Self {
            socket,
            name: name.to_owned(),
            index: 0,
        };
        let mut request = request_for(name);
        interface
            .ask(libc::SIOCGIFINDEX, &mut request)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENODEV) => OpenError::Missing(format!(
                    "there is no network interface {name}: create it, or wait until it appears"
                )),
                _ => OpenError::system(format!("{name}: look up its index"), error),
            })?;
        // SAFETY: SIOCGIFINDEX filled in `ifru_ifindex`.
        interface.index = unsafe { request.ifr_ifru.ifru_ifindex } as u32;
        Ok(interface)
    }

    /// Its MTU, in bytes.
    pub(super) fn mtu(&self) -> Result<usize, OpenError> {
        let mut request = request_for(&self.name);
        self.ask(libc::SIOCGIFMTU, &mut request)
            .map_err(|e| OpenError::system(format!("{}: read its MTU", self.name), e))?;
        // SAFETY: SIOCGIFMTU filled in `ifru_mtu`.
        Ok(unsafe { request.ifr_ifru.ifru_mtu } as usize)
    }

    /// The name of its kernel driver, empty when it does not say.
    pub(super) fn driver(&self) -> String {
        let mut info = DriverInfo {
            command: GET_DRIVER_INFO,
            driver: [0; 32],
            _rest: [0; 160],
        };
        if self.ask_ethtool(&raw mut info).is_err() {
            return String::new();
        }
        CStr::from_bytes_until_nul(&info.driver)
            .map(|driver| driver.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// How many receive queues it has; 1 when it does not say.
    pub(super) fn rx_queues(&self) -> u32 {
        let mut channels = Channels {
            command: GET_CHANNELS,
            ..Channels::default()
        };
        match self.ask_ethtool(&raw mut channels) {
            Ok(()) => (channels.rx + channels.combined).max(1),
            Err(_) => 1,
        }
    }

    /// Its state now, found by index so that neither a new name nor another interface under the
    /// old name misleads; `None` when it no longer exists in its namespace.
    pub(super) fn link(&self) -> io::Result<Option<Link>> {
        let mut request = request_for("");
        request.ifr_ifru.ifru_ifindex = self.index.cast_signed();
        let flags = self
            .ask(libc::SIOCGIFNAME, &mut request)
            .and_then(|()| self.ask(libc::SIOCGIFFLAGS, &mut request));
        match flags {
            Ok(()) => {
                // SAFETY: SIOCGIFFLAGS filled in `ifru_flags`.
                let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
                Ok(Some(Link {
                    admin_up: flags & libc::IFF_UP != 0,
                    carrier: flags & libc::IFF_RUNNING != 0,
                }))
            }
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn ask(&self, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: every `what` passed in this file reads and writes one `ifreq`, which lives
        // through the call.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), what, &raw mut *request) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Asks ethtool; `data` is a whole ethtool structure that starts with its command.
    fn ask_ethtool<T>(&self, data: *mut T) -> io::Result<()> {
        let mut request = request_for(&self.name);
        request.ifr_ifru.ifru_data = data.cast::<c_char>();
        self.ask(libc::SIOCETHTOOL, &mut request)
    }
}

/// An `ifreq` with the name filled in and all else zero.
fn request_for(name: &str) -> libc::ifreq {
    // SAFETY: an `ifreq` is plain old data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    request
}
