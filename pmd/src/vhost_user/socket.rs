//! The control thread of a port: the socket, one connection after another.
//!
//! In: a path and a role. Out: connections, each with a [`Device`] of its own. What must hold:
//! - the thread ends soon after it is asked to, wherever it waits;
//! - whatever a connection brought (memory, descriptors, rings) is gone when it ends;
//! - a socket that this port made is removed when the port closes, and nothing else ever is.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, chmod},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, listen,
        recv, send, socket_with,
    },
};
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserBackendReqHandlerMut};

use super::{Config, Role, device::Device, features::Features, queue::Shared, watch::PENALTY};
use crate::OpenError;

/// First and longest wait between two attempts to connect.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// Connections that may wait for the present one to end.
const BACKLOG: i32 = 4;

/// How control asks its thread to end.
#[derive(Debug)]
pub(super) struct Stop {
    event: OwnedFd,
    /// The connection that the thread may be waiting in.
    connection: Mutex<Option<UnixStream>>,
}

impl Stop {
    pub(super) fn new(event: OwnedFd) -> Self {
        Self {
            event,
            connection: Mutex::default(),
        }
    }

    pub(super) fn ask(&self) {
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        // A thread in the middle of a message gets its end.
        let connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = connection.as_ref() {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }

    fn set_connection(&self, connection: Option<UnixStream>) {
        *self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = connection;
    }

    /// Waits until `fd` is readable. False when the thread is to end, or the time is over.
    fn wait(&self, fd: Option<&dyn AsFd>, most: Option<Duration>) -> bool {
        let timeout = most.and_then(|most| Timespec::try_from(most).ok());
        loop {
            let mut fds = vec![PollFd::new(&self.event, PollFlags::IN)];
            fds.extend(fd.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
            if poll(&mut fds, timeout.as_ref()) == Err(rustix::io::Errno::INTR) {
                continue;
            }
            let asked = !fds[0].revents().is_empty();
            return !asked && fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        }
    }

    /// Waits for `time`. True when the thread is to end.
    pub(super) fn pause(&self, time: Duration) -> bool {
        self.wait(None, Some(time));
        self.is_asked()
    }

    fn is_asked(&self) -> bool {
        let mut fds = [PollFd::new(&self.event, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}

/// Where connections come from.
pub(super) enum Socket {
    Client(PathBuf),
    Server(Listener),
}

/// A socket that this port made.
pub(super) struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode, to know the file again.
    file: Option<(u64, u64)>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.file.is_some() && identity(&self.path) == self.file {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl Socket {
    pub(super) fn open(config: &Config) -> Result<Self, OpenError> {
        match config.role {
            Role::Client => Ok(Self::Client(config.socket.clone())),
            Role::Server => {
                clear_the_way(&config.socket)?;
                make(&config.socket, config.socket_mode)
                    .map(Self::Server)
                    .map_err(|e| {
                        let step = format!("vhost-user socket {}", config.socket.display());
                        OpenError::system(step, e)
                    })
            }
        }
    }
}

/// Removes a socket that nobody listens on any more.
fn clear_the_way(path: &Path) -> Result<(), OpenError> {
    let name = path.display();
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(OpenError::system(format!("vhost-user socket {name}"), e)),
    };
    if !metadata.file_type().is_socket() {
        return Err(OpenError::Unsupported(format!(
            "vhost-user socket {name}: something else than a socket is there, and is left alone; \
             move it away or choose another path"
        )));
    }
    if UnixStream::connect(path).is_ok() {
        return Err(OpenError::Unsupported(format!(
            "vhost-user socket {name}: another process listens there; stop it, choose another \
             path, or make this port the client"
        )));
    }
    fs::remove_file(path)
        .map_err(|e| OpenError::system(format!("remove the stale socket {name}"), e))
}

/// Makes the socket. Nobody can connect before its permissions are set.
fn make(path: &Path, mode: u32) -> io::Result<Listener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    let listener = Listener {
        socket: UnixListener::from(socket),
        path: path.to_owned(),
        file: identity(path),
    };
    chmod(path, Mode::from_raw_mode(mode))?;
    listen(&listener.socket, BACKLOG)?;
    Ok(listener)
}

/// What the thread is made of.
pub(super) struct Control {
    shared: Arc<Shared>,
    features: Features,
    queue_pairs: u16,
    socket: Socket,
    stop: Arc<Stop>,
}

impl Control {
    pub(super) fn new(
        config: &Config,
        shared: Arc<Shared>,
        socket: Socket,
        stop: Arc<Stop>,
    ) -> Self {
        Self {
            shared,
            features: config.features,
            queue_pairs: config.queue_pairs,
            socket,
            stop,
        }
    }

    /// Serves one connection after another until it is asked to end.
    pub(super) fn run(self) {
        let mut retry = FIRST_RETRY;
        while !self.stop.is_asked() {
            match self.connect() {
                Ok(Some(connection)) => {
                    retry = match self.serve(connection) {
                        // A front end that is refused again and again is asked less often.
                        Some(reason) => {
                            self.shared.tell(|status| {
                                status.refused += 1;
                                status.reason =
                                    Some(format!("the last guest was refused: {reason}"));
                            });
                            (retry * 2).min(LAST_RETRY)
                        }
                        None => FIRST_RETRY,
                    };
                }
                Ok(None) => continue,
                Err(error) => {
                    self.shared
                        .tell(|status| status.reason = Some(error.to_string()));
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
            if matches!(self.socket, Socket::Client(_)) {
                self.stop.wait(None, Some(retry));
            }
        }
    }

    /// The next connection; `None` when there was none after all.
    fn connect(&self) -> io::Result<Option<UnixStream>> {
        match &self.socket {
            Socket::Client(path) => UnixStream::connect(path).map(Some),
            Socket::Server(server) => {
                if !self.stop.wait(Some(&server.socket), None) {
                    return Ok(None);
                }
                match server.socket.accept() {
                    Ok((connection, _)) => {
                        connection.set_nonblocking(false)?;
                        Ok(Some(connection))
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
                    Err(e) => {
                        // Out of descriptors, perhaps: not at full speed.
                        self.stop.wait(None, Some(FIRST_RETRY));
                        Err(e)
                    }
                }
            }
        }
    }

    /// Serves a connection to its end. Returns why, when this side ended it.
    fn serve(&self, connection: UnixStream) -> Option<String> {
        let Ok(clone) = connection.try_clone() else {
            return Some("the process is out of file descriptors".into());
        };
        self.stop.set_connection(Some(clone));
        self.shared.mend();
        self.shared.tell(|status| {
            status.connected = Some(Instant::now());
            status.connections += 1;
            status.reason = None;
        });
        let device = Device::new(Arc::clone(&self.shared), self.features, self.queue_pairs);
        let device = Arc::new(Mutex::new(device));
        let lock = || device.lock().unwrap_or_else(PoisonError::into_inner);
        let mut requests = BackendReqHandler::from_stream(connection, Arc::clone(&device));
        let ended = loop {
            let socket = std::os::fd::AsRawFd::as_raw_fd(&requests);
            // SAFETY: `requests` owns the descriptor and outlives this borrow of it.
            let socket = unsafe { BorrowedFd::borrow_raw(socket) };
            if !self.stop.wait(Some(&socket), None) {
                break None;
            }
            let handled = match early_enable(socket) {
                Some(enable) if !lock().has_protocol_features() => {
                    take_early_enable(socket, enable, &mut lock())
                }
                _ => requests.handle_request(),
            };
            if let Err(error) = handled {
                break Some(error);
            }
            lock().tell();
        };
        let mut device = lock();
        let refusal = device.refusal.take();
        device.stop();
        device.tell();
        let violation = self.shared.violation();
        let held_up = self.shared.held_up();
        self.shared.mend();
        self.stop.set_connection(None);
        let (reason, refused) = match (refusal, violation, ended) {
            (Some(refusal), ..) => (refusal, true),
            (None, Some(violation), _) => {
                (format!("the last guest broke a rule: {violation}"), false)
            }
            (None, None, Some(Error::Disconnected) | None) => ("the last guest left".into(), false),
            (None, None, Some(error)) => (format!("the connection failed: {error}"), true),
        };
        self.shared.tell(|status| {
            status.connected = None;
            status.reason = Some(reason.clone());
        });
        drop(device);
        if held_up {
            self.stop.pause(PENALTY);
        }
        refused.then_some(reason)
    }
}

/// `SET_VRING_ENABLE`, as QEMU's docs/interop/vhost-user.rst lays messages out: request, flags and
/// size of the header, then queue and state, in the order of the machine's bytes.
#[derive(Clone, Copy, Debug)]
struct Enable {
    flags: u32,
    queue: u32,
    state: u32,
}

const SET_VRING_ENABLE: u32 = 18;
const ENABLE_BYTES: usize = 20;
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// The next message, when it is `SET_VRING_ENABLE`. It is only looked at.
///
/// QEMU enables its queues before it accepts features, and not again after. The `vhost` crate
/// refuses that, with the message gone, so such a message is handled here.
fn early_enable(socket: BorrowedFd<'_>) -> Option<Enable> {
    let mut bytes = [0; ENABLE_BYTES];
    let (len, _) = recv(socket, &mut bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT).ok()?;
    let word = |at: usize| {
        let word = bytes.get(4 * at..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*word))
    };
    let whole = len == ENABLE_BYTES && word(0)? == SET_VRING_ENABLE && word(2)? == 8;
    whole.then_some(Enable {
        flags: word(1)?,
        queue: word(3)?,
        state: word(4)?,
    })
}

/// Handles what [`early_enable`] saw.
fn take_early_enable(
    socket: BorrowedFd<'_>,
    enable: Enable,
    device: &mut Device,
) -> Result<(), Error> {
    let broken = |_| Error::Disconnected;
    let mut bytes = [0; ENABLE_BYTES];
    // All of it was there a moment ago, and nobody else reads.
    recv(socket, &mut bytes, RecvFlags::empty()).map_err(broken)?;
    if enable.state > 1 {
        return Err(Error::InvalidParam);
    }
    let outcome = device.set_vring_enable(enable.queue, enable.state == 1);
    if enable.flags & NEED_REPLY != 0 && device.acknowledges() {
        let failed = u64::from(outcome.is_err());
        let header = [SET_VRING_ENABLE, VERSION | REPLY, 8];
        let mut reply = header.map(u32::to_ne_bytes).concat();
        reply.extend(failed.to_ne_bytes());
        send(socket, &reply, SendFlags::NOSIGNAL).map_err(broken)?;
    }
    outcome
}
