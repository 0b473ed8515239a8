//! The tap driver against the real kernel. Each test has a thread with a network namespace of its
//! own, which vanishes with the thread whatever happens; without the right to make one the tests
//! say so and pass.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    process::Command,
    time::{Duration, Instant},
};

use pmd::{
    Burst, Frame, Health, OpenError, Port, PrefixArena, TxBurst, TxPlan, TxReport, Wait,
    tap::{self, Config},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// An ethertype for experiments (IEEE 802), so that nothing else answers it.
const OURS: [u8; 2] = [0x88, 0xb5];
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `test` in a fresh network namespace.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: changes only this thread's network namespace; no memory is involved.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            let error = io::Error::last_os_error();
            println!("skipped: no network namespace can be made: {error}");
            return;
        }
        if !std::path::Path::new("/dev/net/tun").exists() {
            println!("skipped: no /dev/net/tun");
            return;
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in this thread's namespace and returns what it prints.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2 is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The kernel's side of an interface: a packet socket that sends and sees its frames.
struct Kernel {
    socket: OwnedFd,
}

impl Kernel {
    fn on(interface: &str) -> Self {
        let all = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: plain integers in, a descriptor or -1 out.
        let socket = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                i32::from(all),
            )
        };
        assert!(socket >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: the descriptor was just opened and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let index = rustix::net::netdevice::name_to_index(&socket, interface).expect("it exists");
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: all,
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the pointer and the length describe `address`, which is only read.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        assert_eq!(bound, 0, "bind: {}", io::Error::last_os_error());
        Self { socket }
    }

    fn send(&self, bytes: &[u8]) {
        assert_eq!(rustix::io::write(&self.socket, bytes), Ok(bytes.len()));
    }

    /// The next frame that `wanted` accepts.
    fn receive(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = vec![0; 70_000];
        loop {
            match rustix::io::read(&self.socket, &mut buffer[..]) {
                Ok(len) if wanted(&buffer[..len]) => return buffer[..len].to_vec(),
                Ok(_) => {}
                Err(_) => wait_readable(&self.socket, deadline),
            }
        }
    }
}

fn wait_readable(fd: impl AsFd, deadline: Instant) {
    assert!(Instant::now() < deadline, "nothing came");
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&timeout)).expect("poll");
}

/// Receives as a worker does, sleeping on the wake descriptor, until `wanted` accepts a frame.
fn receive(port: &mut Port, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "nothing came");
        for queue in &mut port.rx {
            let mut burst = Burst::new();
            queue.receive(&mut burst);
            let found = burst.iter().map(Frame::to_vec).find(|frame| wanted(frame));
            drop(burst);
            queue.release();
            if let Some(frame) = found {
                return frame;
            }
        }
        let waits: Vec<Wait> = port
            .rx
            .iter_mut()
            .map(|queue| queue.prepare_wait())
            .collect();
        if !waits.contains(&Wait::Ready) {
            let fds: Vec<_> = port.rx.iter().filter_map(|queue| queue.wake_fd()).collect();
            let mut fds: Vec<_> = fds
                .iter()
                .map(|fd| PollFd::new(fd, PollFlags::IN))
                .collect();
            let timeout = Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            poll(&mut fds, Some(&timeout)).expect("poll");
        }
    }
}

fn transmit(port: &mut Port, bytes: &[u8]) -> TxReport {
    let plan = TxPlan {
        len_bytes: bytes.len() as u32,
        ..TxPlan::default()
    };
    port.tx[0].transmit(&TxBurst {
        frames: &[Frame::contiguous(bytes)],
        prefixes: &PrefixArena::default(),
        plans: &[plan],
    })
}

/// A broadcast frame of our ethertype.
fn frame(len: usize, fill: u8) -> Vec<u8> {
    let mut bytes = vec![fill; len];
    bytes[..6].fill(0xff);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    bytes[12..14].copy_from_slice(&OURS);
    bytes
}

fn ours(bytes: &[u8]) -> bool {
    bytes.get(12..14) == Some(&OURS)
}

fn open(config: &Config) -> Port {
    tap::open(config).expect("opens")
}

#[test]
fn frames_pass_both_ways_and_the_waiting_worker_is_woken() {
    in_namespace(|| {
        let mut port = open(&Config::new("tap0"));
        assert_eq!(port.info.max_frame_bytes, 1514);
        assert_eq!(port.monitor.health(), Health::Up);
        let kernel = Kernel::on("tap0");
        kernel.send(&frame(60, 1));
        assert_eq!(receive(&mut port, ours), frame(60, 1));
        let report = transmit(&mut port, &frame(1514, 2));
        assert_eq!((report.sent, report.sent_bytes), (1, 1514));
        let is_second = |bytes: &[u8]| ours(bytes) && bytes[20] == 2;
        assert_eq!(kernel.receive(is_second), frame(1514, 2));
    });
}

#[test]
fn a_frame_that_came_before_the_wait_is_reported() {
    in_namespace(|| {
        let mut port = open(&Config::new("tap0"));
        let kernel = Kernel::on("tap0");
        kernel.send(&frame(60, 1));
        assert_eq!(port.rx[0].prepare_wait(), Wait::Ready);
    });
}

#[test]
fn the_host_answers_arp() {
    in_namespace(|| {
        let mac = [2, 0, 0, 0, 0, 1];
        let mut port = open(&Config {
            mac: Some(mac),
            ..Config::new("tap0")
        });
        ip("address add 192.0.2.1/24 dev tap0");
        let mut request = frame(42, 0);
        request[12..14].copy_from_slice(&[0x08, 0x06]);
        request[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        request[22..28].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        request[28..32].copy_from_slice(&[192, 0, 2, 9]);
        request[38..42].copy_from_slice(&[192, 0, 2, 1]);
        assert_eq!(transmit(&mut port, &request).sent, 1);
        let reply = receive(&mut port, |bytes| {
            bytes.get(12..14) == Some(&[0x08, 0x06]) && bytes[21] == 2
        });
        assert_eq!(reply[..6], [2, 0, 0, 0, 0, 9]);
        assert_eq!(reply[22..28], mac);
        assert_eq!(reply[28..32], [192, 0, 2, 1]);
    });
}

#[test]
fn several_queues_and_jumbo_frames() {
    in_namespace(|| {
        let mut port = open(&Config {
            queues: 4,
            mtu: Some(9000),
            ..Config::new("tap0")
        });
        assert_eq!((port.rx.len(), port.tx.len()), (4, 4));
        assert_eq!(port.info.max_frame_bytes, 9014);
        let kernel = Kernel::on("tap0");
        kernel.send(&frame(9014, 3));
        assert_eq!(receive(&mut port, ours), frame(9014, 3));
        // A tag may come on top of the longest frame.
        assert_eq!(transmit(&mut port, &frame(9018, 3)).sent, 1);
        assert_eq!(transmit(&mut port, &frame(9019, 3)).too_big, 1);
    });
}

#[test]
fn a_frame_is_whole_when_the_mtu_is_raised_behind_our_back() {
    in_namespace(|| {
        let mut port = open(&Config::new("tap0"));
        ip("link set tap0 mtu 65521");
        let kernel = Kernel::on("tap0");
        kernel.send(&frame(65_535, 4));
        assert_eq!(receive(&mut port, ours), frame(65_535, 4));
    });
}

#[test]
fn a_name_in_use_is_refused_and_a_closed_port_frees_it() {
    in_namespace(|| {
        let port = open(&Config::new("tap0"));
        for queues in [1, 2] {
            let error = tap::open(&Config {
                queues,
                ..Config::new("tap0")
            });
            let Err(OpenError::Unsupported(why)) = error else {
                panic!("must be refused: {error:?}");
            };
            assert!(why.contains("exists already"), "{why}");
        }
        // Not a tap at all.
        let error = tap::open(&Config::new("lo"))
            .expect_err("refused")
            .to_string();
        assert!(error.contains("exists already"), "{error}");
        drop(port);
        open(&Config::new("tap0"));
        // A persistent tap of someone else's, which the kernel would let us attach to.
        ip("tuntap add dev tap1 mode tap");
        let error = tap::open(&Config::new("tap1"))
            .expect_err("refused")
            .to_string();
        assert!(error.contains("exists already"), "{error}");
        assert!(!ip("-o link show").contains("tap0"));
    });
}

#[test]
fn health_follows_the_interface() {
    in_namespace(|| {
        let mut port = open(&Config {
            up: false,
            ..Config::new("tap0")
        });
        assert!(matches!(port.monitor.health(), Health::Down(_)));
        assert_eq!(transmit(&mut port, &frame(60, 5)).down, 1);
        ip("link set tap0 up");
        assert_eq!(port.monitor.health(), Health::Up);
        assert_eq!(transmit(&mut port, &frame(60, 5)).sent, 1);
        // A frame without a whole header is the kernel's to refuse.
        assert_eq!(transmit(&mut port, &[0xff; 13]).down, 1);
        assert!(port.monitor.counts().contains(&("tx_refused", 1)));
        ip("link set tap0 name other0");
        assert_eq!(port.monitor.health(), Health::Up);
        ip("link delete other0");
        assert!(matches!(port.monitor.health(), Health::Gone(_)));
        assert_eq!(transmit(&mut port, &frame(60, 5)).down, 1);
        let mut burst = Burst::new();
        port.rx[0].receive(&mut burst);
        assert!(burst.is_empty());
        drop(burst);
        port.rx[0].release();
        assert_eq!(port.rx[0].prepare_wait(), Wait::Until(None));
        assert!(port.rx[0].wake_fd().is_none());
    });
}

#[test]
fn frames_the_kernel_dropped_are_counted() {
    in_namespace(|| {
        let mut port = open(&Config::new("tap0"));
        ip("link set tap0 txqueuelen 4");
        let kernel = Kernel::on("tap0");
        for _ in 0..50 {
            // The kernel says so when it drops at once; that is what is tested.
            let _ = rustix::io::write(&kernel.socket, &frame(60, 6));
        }
        let dropped = port
            .monitor
            .counts()
            .into_iter()
            .find(|(name, _)| *name == "rx_kernel_dropped");
        assert!(dropped.is_some_and(|(_, count)| count > 0), "{dropped:?}");
    });
}

#[test]
fn requests_out_of_range_are_refused() {
    let cases = [
        (Config::new(""), "1 to 15 bytes"),
        (Config::new("sixteen-bytes-is"), "1 to 15 bytes"),
        (Config::new("tap%d"), "'%'"),
        (Config::new("a/b"), "'/'"),
        (
            Config {
                queues: 0,
                ..Config::new("tap0")
            },
            "0 queues",
        ),
        (
            Config {
                mtu: Some(65_522),
                ..Config::new("tap0")
            },
            "between 68 and 65521",
        ),
        (
            Config {
                mac: Some([1, 0, 0, 0, 0, 0]),
                ..Config::new("tap0")
            },
            "MAC address",
        ),
    ];
    for (config, expected) in cases {
        let error = tap::open(&config).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
}
