//! Network namespaces, veth pairs and raw sockets for tests that need the kernel.
//!
//! In: a test that may be root. Out: a namespace of its own that the test's thread is in, removed
//! at the end of the test, failed or not.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    ffi::{CString, c_int},
    fs::File,
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    process::{Child, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// True when the test may make namespaces; else says that it is skipped.
pub(crate) fn is_root() -> bool {
    // SAFETY: `geteuid` only answers.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        println!("skipped: needs root for network namespaces");
    }
    root
}

/// Waits until `condition` gives something.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A network namespace that the current thread is in. Its name is unique on the machine.
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace and moves the current thread into it.
    pub(crate) fn enter_new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "vsw{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        run(Command::new("ip").args(["netns", "add", &name]));
        let netns = Self { name };
        let file = File::open(format!("/run/netns/{}", netns.name)).expect("open the namespace");
        // SAFETY: moves this thread only; the descriptor is open.
        let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "setns: {}", io::Error::last_os_error());
        // Interfaces shall send nothing by themselves.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("no IPv6");
        netns
    }

    /// Its name, for `ip netns exec`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it; the words of `arguments` are separated by spaces.
    pub(crate) fn ip(&self, arguments: &str) {
        run(Command::new("ip")
            .args(["-n", &self.name])
            .args(arguments.split_whitespace()));
    }

    /// Runs `ip` in it and returns what it wrote.
    pub(crate) fn ip_output(&self, arguments: &str) -> String {
        let output = Command::new("ip")
            .args(["-n", &self.name])
            .args(arguments.split_whitespace())
            .output()
            .expect("run ip");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts `ip` in it and does not wait for it.
    pub(crate) fn spawn_ip(&self, arguments: &str) -> Child {
        Command::new("ip")
            .args(["-n", &self.name])
            .args(arguments.split_whitespace())
            .spawn()
            .expect("run ip")
    }

    /// Makes a veth receive on a kernel thread instead of on its sender's CPU; it must have
    /// an XDP program already.
    pub(crate) fn receive_on_a_thread(&self, interface: &str) {
        let set = format!("echo 1 > /sys/class/net/{interface}/threaded");
        run(Command::new("ip").args(["netns", "exec", &self.name, "sh", "-c", &set]));
    }

    /// Makes a veth pair `left`, `right` and sets both up.
    pub(crate) fn veth(&self, left: &str, right: &str, mtu: u32, queues: u32) {
        let queues = format!("numrxqueues {queues} numtxqueues {queues}");
        self.ip(&format!(
            "link add name {left} mtu {mtu} {queues} type veth peer name {right} mtu {mtu} {queues}"
        ));
        self.ip(&format!("link set {left} up"));
        self.ip(&format!("link set {right} up"));
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("run ip");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An `AF_PACKET` socket on one interface: the host's side of a veth.
pub(crate) struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens it on `interface` of the current thread's namespace.
    pub(crate) fn open(interface: &str) -> Self {
        const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: plain system calls; the address is plain old data of the length passed.
        unsafe {
            let fd = libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                c_int::from(ALL),
            );
            assert!(fd >= 0, "socket: {}", io::Error::last_os_error());
            let fd = OwnedFd::from_raw_fd(fd);
            let name = CString::new(interface).expect("a name");
            let mut address: libc::sockaddr_ll = mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = ALL;
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()).cast_signed();
            let len = mem::size_of_val(&address) as libc::socklen_t;
            let result = libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len);
            assert_eq!(result, 0, "bind: {}", io::Error::last_os_error());
            let buffer: c_int = 16 << 20;
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const buffer).cast(),
                mem::size_of_val(&buffer) as libc::socklen_t,
            );
            Self { fd }
        }
    }

    /// Sends one frame.
    pub(crate) fn send(&self, frame: &[u8]) {
        assert!(self.try_send(frame), "{}", io::Error::last_os_error());
    }

    /// Sends one frame unless the interface is gone or down.
    pub(crate) fn try_send(&self, frame: &[u8]) -> bool {
        // SAFETY: the buffer lives through the call.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        sent.cast_unsigned() == frame.len()
    }

    /// One received frame, if there is one. Frames that this host sent are left out.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        loop {
            let mut frame = vec![0; 1 << 16];
            // SAFETY: buffer and address live through the call, with the lengths passed.
            let (len, from) = unsafe {
                let mut from: libc::sockaddr_ll = mem::zeroed();
                let mut from_len = mem::size_of_val(&from) as libc::socklen_t;
                let len = libc::recvfrom(
                    self.fd.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut from_len,
                );
                (len, from)
            };
            if len < 0 {
                return None;
            }
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                frame.truncate(len as usize);
                return Some(frame);
            }
        }
    }
}
