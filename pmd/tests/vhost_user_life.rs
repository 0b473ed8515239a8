//! Guests that come and go, sleep and migrate, and memory that changes under them.

mod front_end;

use std::{
    os::{fd::AsFd, unix::fs::FileExt, unix::net::UnixListener},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use front_end::{
    Bed, FrontEnd, GUEST_BASE, Options, USER_BASE, WRITE, count, feature, frame, request,
    send_frames, take_frames, wait_down, wait_for, wait_up,
};
use pmd::{
    Frame, Health, Wait,
    vhost_user::{Config, Role, open},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, ftruncate, memfd_create},
};

#[test]
fn a_port_without_a_guest_is_down_and_says_so() {
    let mut bed = Bed::new();
    let Health::Down(why) = bed.port.monitor.health() else {
        panic!("there is no guest")
    };
    assert!(why.starts_with("no guest is connected to "), "{why}");
    let sent = frame(64, 0);
    assert_eq!(
        send_frames(&mut bed.port, 0, &[Frame::contiguous(&sent)]).down,
        1
    );
    assert!(take_frames(&mut bed.port).is_empty());
    assert_eq!(bed.port.rx[0].prepare_wait(), Wait::Until(None));
    // Connected, and its driver not loaded.
    let mut guest = FrontEnd::connect(&bed.socket, Options::default());
    guest.negotiate();
    wait_down(&mut bed.port, "has not started its network device");
}

#[test]
fn a_client_finds_its_front_end_again_and_again() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("vm");
    let mut port = open(&Config::new(&path, Role::Client)).expect("open");
    wait_down(&mut port, "No such file");
    for round in 0..3 {
        // The front end starts, or is started again after it died.
        let listener = UnixListener::bind(&path).expect("bind");
        let (stream, _) = listener.accept().expect("accept");
        let mut guest = FrontEnd::over(stream, Options::default());
        guest.start();
        wait_up(&mut port);
        let sent = frame(64, round);
        guest.transmit(0, &sent);
        assert_eq!(take_frames(&mut port), [sent]);
        drop(listener);
        std::fs::remove_file(&path).expect("remove");
        drop(guest);
        wait_down(&mut port, "no guest is connected");
    }
    assert_eq!(count(&mut port, "connections"), 3);
}

#[test]
fn a_guest_lives_on_when_the_switch_is_restarted() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("vm");
    let listener = UnixListener::bind(&path).expect("bind");
    let mut kept: Option<FrontEnd> = None;
    for round in 0..3 {
        let mut port = open(&Config::new(&path, Role::Client)).expect("open");
        let (stream, _) = listener.accept().expect("accept");
        // The same memory and rings; the front end resumes where the used index stands.
        let mut guest = match kept.take() {
            None => FrontEnd::over(stream, Options::default()),
            Some(mut guest) => {
                stream
                    .set_read_timeout(Some(front_end::PATIENCE))
                    .expect("timeout");
                guest.stream = stream;
                guest
            }
        };
        guest.negotiate();
        guest.share_memory();
        for queue in 0..2 {
            let at = guest.queues[queue].used + 2;
            let index = guest.queues[queue].index;
            guest.queues[queue].index = guest.memory.read_u16(at);
            guest.start_queue(queue);
            guest.queues[queue].index = index;
        }
        wait_up(&mut port);
        let sent = frame(64, round);
        guest.transmit(0, &sent);
        assert_eq!(take_frames(&mut port), std::slice::from_ref(&sent));
        guest.post(0, &[2048, 2048]);
        assert_eq!(
            send_frames(&mut port, 0, &[Frame::contiguous(&sent)]).sent,
            1
        );
        assert_eq!(guest.receive(0)[0].1, sent);
        kept = Some(guest);
    }
}

#[test]
fn the_socket_is_made_with_its_mode_and_removed_and_nothing_else_is() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("vm");
    let mut config = Config::new(&path, Role::Server);
    config.socket_mode = 0o600;
    let port = open(&config).expect("open");
    let mode = std::fs::metadata(&path)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    // A second port in the same place is refused; the first is untouched.
    let error = open(&config).expect_err("in use").to_string();
    assert!(error.contains("another process listens"), "{error}");
    drop(port);
    assert!(!path.exists());
    // A stale socket makes way.
    drop(UnixListener::bind(&path).expect("bind"));
    assert!(path.exists());
    drop(open(&config).expect("stale"));
    assert!(!path.exists());
    // Anything else does not.
    std::fs::write(&path, "precious").expect("write");
    let error = open(&config).expect_err("no socket").to_string();
    assert!(error.contains("something else than a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).expect("there"), "precious");
}

#[test]
fn requests_out_of_range_are_refused() {
    let bad: [fn(&mut Config); 6] = [
        |config| config.queue_pairs = 0,
        |config| config.queue_pairs = 9,
        |config| config.max_frame_bytes = 65_551,
        |config| config.max_frame_bytes = 0,
        |config| config.socket_mode = 0o1777,
        |config| config.socket = "x".repeat(108).into(),
    ];
    for change in bad {
        let mut config = Config::new("/nonexistent/vm", Role::Server);
        change(&mut config);
        let error = open(&config).expect_err("refused");
        assert!(matches!(error, pmd::OpenError::Unsupported(_)), "{error}");
    }
}

#[test]
fn a_stopped_queue_says_where_it_stood_and_goes_on_from_there() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options::default());
    for n in 0..5 {
        guest.transmit(0, &frame(64, n));
    }
    assert_eq!(take_frames(&mut bed.port).len(), 5);
    assert_eq!(guest.stop_queue(1), Ok(5));
    guest.transmit(0, &frame(64, 9));
    assert!(take_frames(&mut bed.port).is_empty());
    guest.queues[1].index = 5;
    guest.start_queue(1);
    guest.queues[1].index = 6;
    assert_eq!(take_frames(&mut bed.port), [frame(64, 9)]);
}

#[test]
fn memory_comes_and_goes_while_frames_pass() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options::default());
    assert!(guest.ask_u64(request::GET_MAX_MEM_SLOTS) >= 2);
    let more = memfd_create("vhost-user-test-more", MemfdFlags::CLOEXEC).expect("memfd");
    ftruncate(&more, 1 << 20).expect("size");
    let far = GUEST_BASE + (1 << 32);
    let words = [0, far, 1 << 20, USER_BASE + (1 << 32), 0];
    let body: Vec<u8> = words
        .iter()
        .flat_map(|word: &u64| word.to_le_bytes())
        .collect();
    let more: std::fs::File = more.into();
    for round in 0..3 {
        assert_eq!(
            guest.set(request::ADD_MEM_REG, &body, &[more.as_fd()]),
            Ok(0)
        );
        let sent = frame(500, round);
        more.write_all_at(&[vec![0; 12], sent.clone()].concat(), 4096)
            .expect("write");
        guest.offer(1, &[(far + 4096, 512)], 0);
        assert_eq!(take_frames(&mut bed.port), std::slice::from_ref(&sent));
        // What lies in the memory that stays is as good as ever.
        assert_eq!(guest.set(request::REM_MEM_REG, &body, &[]), Ok(0));
        guest.transmit(0, &sent);
        assert_eq!(take_frames(&mut bed.port), [sent]);
    }
    guest.offer(1, &[(far + 4096, 512)], 0);
    assert!(take_frames(&mut bed.port).is_empty());
    wait_down(&mut bed.port, "outside the guest's shared memory");
}

#[test]
fn control_waits_for_a_burst_before_memory_goes() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options::default());
    let sent = frame(1000, 4);
    guest.transmit(0, &sent);
    let mut burst = pmd::Burst::new();
    bed.port.rx[0].receive(&mut burst);
    // The guest is gone; its memory stays until the burst is over.
    drop(guest);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(burst[0].to_vec(), sent);
    drop(burst);
    bed.port.rx[0].release();
    wait_down(&mut bed.port, "the last guest left");
}

#[test]
fn memory_that_shrinks_under_the_switch_costs_the_port() {
    let (mut bed, mut other) = (Bed::new(), Bed::new());
    for round in 0..3 {
        let mut bystander = other.guest(Options::default());
        let mut guest = bed.guest(Options::default());
        let sent = frame(1500, round);
        let at = GUEST_BASE + (12 << 20);
        guest
            .memory
            .write(at, &[vec![0; 12], sent.clone()].concat());
        guest.offer(1, &[(at, 1512)], 0);
        ftruncate(&guest.memory.file, 8 << 20).expect("shrink");
        // The access that finds nothing finds zeros, once.
        let frames = take_frames(&mut bed.port);
        assert!(frames.iter().all(|bytes| bytes.iter().all(|b| *b == 0)));
        wait_down(&mut bed.port, "memory shrank while it was in use");
        bystander.transmit(0, &sent);
        assert_eq!(take_frames(&mut other.port), [sent]);
        drop((guest, bystander));
        wait_down(&mut bed.port, "no guest is connected");
        wait_down(&mut other.port, "no guest is connected");
    }
    // The same on the way to the guest.
    let mut guest = bed.guest(Options::default());
    guest.offer(0, &[(GUEST_BASE + (12 << 20), 2048)], WRITE);
    ftruncate(&guest.memory.file, 8 << 20).expect("shrink");
    let sent = frame(1500, 0);
    send_frames(&mut bed.port, 0, &[Frame::contiguous(&sent)]);
    wait_down(&mut bed.port, "memory shrank while it was in use");
}

fn readable(port: &pmd::Port, most_ms: i64) -> bool {
    let fd = port.rx[0].wake_fd().expect("one");
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let time = Timespec {
        tv_sec: most_ms / 1000,
        tv_nsec: most_ms % 1000 * 1_000_000,
    };
    poll(&mut fds, Some(&time)) == Ok(1)
}

fn kick(guest: &FrontEnd, queue: usize) {
    rustix::io::write(&guest.queues[queue].kick, &1u64.to_ne_bytes()).expect("kick");
}

#[test]
fn a_sleeper_is_woken_by_a_kick_and_a_frame_before_the_sleep_is_seen() {
    for features in [feature::PLAIN, feature::PLAIN | feature::EVENT_IDX] {
        let mut bed = Bed::new();
        let mut guest = bed.guest(Options {
            features,
            ..Options::default()
        });
        assert_eq!(bed.port.rx[0].prepare_wait(), Wait::Until(None));
        while readable(&bed.port, 0) {
            assert_eq!(bed.port.rx[0].prepare_wait(), Wait::Until(None));
        }
        guest.transmit(0, &frame(64, 0));
        assert!(!readable(&bed.port, 0), "nobody has kicked yet");
        kick(&guest, 1);
        assert!(readable(&bed.port, 10_000));
        assert_eq!(bed.port.rx[0].prepare_wait(), Wait::Ready);
        assert_eq!(take_frames(&mut bed.port).len(), 1);
        // The kick was not read from the guest's descriptor, and wakes once all the same.
        assert_eq!(bed.port.rx[0].prepare_wait(), Wait::Until(None));
        assert!(!readable(&bed.port, 0));
        kick(&guest, 1);
        assert!(readable(&bed.port, 10_000));
    }
}

#[test]
fn a_guest_that_cannot_kick_is_polled() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options::default());
    let nothing = 0x101u64.to_le_bytes();
    assert_eq!(guest.set(request::SET_VRING_KICK, &nothing, &[]), Ok(0));
    assert!(matches!(
        bed.port.rx[0].prepare_wait(),
        Wait::Until(Some(time)) if time < Duration::from_millis(1)
    ));
    guest.transmit(0, &frame(64, 0));
    assert_eq!(take_frames(&mut bed.port).len(), 1);
}

#[test]
fn what_waited_while_a_queue_was_stopped_wakes_the_worker_when_it_starts() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options::default());
    assert_eq!(guest.set_state(request::SET_VRING_ENABLE, 1, 0), Ok(0));
    while bed.port.rx[0].prepare_wait() != Wait::Until(None) || readable(&bed.port, 0) {}
    guest.transmit(0, &frame(64, 0));
    assert!(!readable(&bed.port, 0));
    assert_eq!(guest.set_state(request::SET_VRING_ENABLE, 1, 1), Ok(0));
    assert!(readable(&bed.port, 10_000));
    assert_eq!(bed.port.rx[0].prepare_wait(), Wait::Ready);
}

/// What virtio 1.2 §2.7.10 says of a driver: kick when the device asked for that index.
fn driver_would_kick(guest: &FrontEnd, old: u16) -> bool {
    let queue = &guest.queues[1];
    std::sync::atomic::fence(Ordering::SeqCst);
    if guest.features & feature::EVENT_IDX == 0 {
        return guest.memory.read_u16(queue.used) & 1 == 0;
    }
    let event = guest
        .memory
        .read_u16(queue.used + 4 + 8 * u64::from(queue.size));
    let new = queue.index;
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// A worker that sleeps whenever it may, against a guest that kicks only when it is asked to:
/// with any wake-up lost, the two would wait for each other.
#[test]
fn no_wake_up_is_lost() {
    const FRAMES: u32 = 20_000;
    for features in [feature::PLAIN, feature::PLAIN | feature::EVENT_IDX] {
        let mut bed = Bed::new();
        let mut guest = bed.guest(Options {
            features,
            ..Options::default()
        });
        let at = guest.place(&[0; 76]);
        let stop = AtomicBool::new(false);
        let (received, slept) = std::thread::scope(|scope| {
            let port = &mut bed.port;
            let stop = &stop;
            let worker = scope.spawn(move || {
                let (mut received, mut slept) = (0, 0u32);
                while received < FRAMES && !stop.load(Ordering::Relaxed) {
                    received += take_frames(port).len() as u32;
                    if received < FRAMES && port.rx[0].prepare_wait() == Wait::Until(None) {
                        slept += 1;
                        if !readable(port, 15_000) {
                            break;
                        }
                    }
                }
                (received, slept)
            });
            for _ in 0..FRAMES {
                let old = guest.queues[1].index;
                guest.offer(1, &[(at, 76)], 0);
                if driver_would_kick(&guest, old) {
                    kick(&guest, 1);
                }
                // One frame in flight, most of the time: both sides are about to sleep.
                let patience = std::time::Instant::now();
                while guest.take_used(1).is_none() && patience.elapsed() < Duration::from_secs(20) {
                    std::thread::yield_now();
                }
            }
            stop.store(true, Ordering::Relaxed);
            worker.join().expect("worker")
        });
        assert_eq!(received, FRAMES, "slept {slept} times");
        assert!(slept > 0);
    }
}

#[test]
fn a_guest_is_told_once_a_burst_and_only_when_it_asks() {
    for features in [feature::PLAIN, feature::PLAIN | feature::EVENT_IDX] {
        let mut bed = Bed::new();
        let mut guest = bed.guest(Options {
            features,
            ..Options::default()
        });
        let sent: Vec<Vec<u8>> = (0..32).map(|n| frame(64, n)).collect();
        let frames: Vec<Frame<'_>> = sent.iter().map(|one| Frame::contiguous(one)).collect();
        let ask = |guest: &FrontEnd, wish: bool| {
            let queue = &guest.queues[0];
            if features & feature::EVENT_IDX == 0 {
                guest
                    .memory
                    .write(queue.available, &u16::from(!wish).to_le_bytes());
            } else {
                let event = if wish {
                    queue.taken
                } else {
                    queue.taken.wrapping_sub(1)
                };
                let at = queue.available + 4 + 2 * u64::from(queue.size);
                guest.memory.write(at, &event.to_le_bytes());
            }
        };
        // The first is always told of with an event index: nothing was decided before.
        guest.post(0, &[2048; 32]);
        send_frames(&mut bed.port, 0, &frames);
        guest.receive(0);
        assert_eq!(guest.calls(0), 1);
        for wish in [true, false, true, false] {
            ask(&guest, wish);
            guest.post(0, &[2048; 32]);
            assert_eq!(send_frames(&mut bed.port, 0, &frames).sent, 32);
            assert_eq!(guest.calls(0), u64::from(wish));
            assert_eq!(guest.receive(0).len(), 32);
        }
        assert_eq!(count(&mut bed.port, "notifications_sent"), 3);
        assert_eq!(count(&mut bed.port, "notifications_suppressed"), 2);
    }
}

#[test]
fn every_written_page_is_logged_while_a_guest_migrates() {
    let mut bed = Bed::new();
    let logged = feature::PLAIN | feature::MRG_RXBUF | feature::LOG_ALL;
    let mut guest = bed.guest(Options {
        features: feature::PLAIN | feature::MRG_RXBUF,
        ..Options::default()
    });
    // Pages are counted from guest address 0.
    let log_bytes = (GUEST_BASE + (16 << 20)) / 4096 / 8;
    let log = memfd_create("vhost-user-test-log", MemfdFlags::CLOEXEC).expect("memfd");
    ftruncate(&log, log_bytes).expect("size");
    let log: std::fs::File = log.into();
    let dirty = || {
        let mut bits = vec![0; (16 << 20) / 4096 / 8];
        let offset = GUEST_BASE / 4096 / 8;
        log.read_exact_at(&mut bits, offset).expect("log");
        log.write_all_at(&vec![0; bits.len()], offset).expect("log");
        (0..bits.len() as u64 * 8)
            .filter(|page| bits[(page / 8) as usize] >> (page % 8) & 1 == 1)
            .collect::<Vec<u64>>()
    };
    let page = |guest: u64| (guest - GUEST_BASE) / 4096;
    let body = [log_bytes.to_le_bytes(), [0; 8]].concat();
    // The reply of this one is the message itself.
    guest.send(request::SET_LOG_BASE, 1, &body, &[log.as_fd()]);
    guest.reply().expect("a reply");
    let sent = frame(9000, 1);
    let at = guest.memory.allocate(5 * 8192, 4096);
    let post = |guest: &mut FrontEnd| {
        for n in 0..5 {
            guest.offer(0, &[(at + n * 8192 + 100, 2048)], WRITE);
        }
    };
    // The log is there, and logging not yet on.
    post(&mut guest);
    assert_eq!(
        send_frames(&mut bed.port, 0, &[Frame::contiguous(&sent)]).sent,
        1
    );
    guest.receive(0);
    assert!(dirty().is_empty());
    assert_eq!(
        guest.set(request::SET_FEATURES, &logged.to_le_bytes(), &[]),
        Ok(0)
    );
    for queue in 0..2 {
        assert_eq!(guest.set_addresses(queue, 1), Ok(0));
    }
    dirty();
    post(&mut guest);
    assert_eq!(
        send_frames(&mut bed.port, 0, &[Frame::contiguous(&sent)]).sent,
        1
    );
    assert_eq!(guest.receive(0)[0].1, sent);
    let mut expected: Vec<u64> = (0..5).map(|n| page(at + n * 8192 + 100)).collect();
    expected.push(page(guest.queues[0].used));
    expected.sort_unstable();
    expected.dedup();
    let found = dirty();
    assert!(
        expected.iter().all(|page| found.contains(page)),
        "{expected:?} {found:?}"
    );
    // Nothing but the rings beside them.
    let rings = [guest.queues[0].used, guest.queues[0].used + 6 + 8 * 256].map(page);
    assert!(
        found
            .iter()
            .all(|it| expected.contains(it) || rings.contains(it)),
        "{found:?}"
    );
    // What a guest transmits dirties its used ring alone.
    guest.transmit(0, &sent);
    assert_eq!(take_frames(&mut bed.port).len(), 1);
    let rings = [guest.queues[1].used, guest.queues[1].used + 6 + 8 * 256].map(page);
    let found = dirty();
    assert!(
        !found.is_empty() && found.iter().all(|it| rings.contains(it)),
        "{found:?}"
    );
    // Logging ends.
    let plain = feature::PLAIN | feature::MRG_RXBUF;
    assert_eq!(
        guest.set(request::SET_FEATURES, &plain.to_le_bytes(), &[]),
        Ok(0)
    );
    dirty();
    post(&mut guest);
    assert_eq!(
        send_frames(&mut bed.port, 0, &[Frame::contiguous(&sent)]).sent,
        1
    );
    assert!(dirty().is_empty());
}

#[test]
fn a_guest_that_waits_for_the_other_to_leave_gets_its_turn() {
    let mut bed = Bed::new();
    let first = bed.guest(Options::default());
    let socket = bed.socket.clone();
    let second = std::thread::spawn(move || FrontEnd::started(&socket, Options::default()));
    std::thread::sleep(Duration::from_millis(20));
    assert!(!second.is_finished());
    drop(first);
    let mut second = second.join().expect("second");
    wait_up(&mut bed.port);
    second.transmit(0, &frame(64, 0));
    let frames = wait_for("a frame", || {
        let frames = take_frames(&mut bed.port);
        (!frames.is_empty()).then_some(frames)
    });
    assert_eq!(frames, [frame(64, 0)]);
}

#[test]
fn a_front_end_that_lets_a_notification_wait_holds_no_worker_fast() {
    use rustix::fs::{OFlags, fcntl_setfl};
    for queue in [0, 1] {
        let mut bed = Bed::new();
        let mut guest = bed.guest(Options::default());
        // The same open file as the port's: made to block again, and filled to the brim.
        let call = &guest.queues[queue].call;
        fcntl_setfl(call, OFlags::empty()).expect("flags");
        rustix::io::write(call, &(u64::MAX - 1).to_ne_bytes()).expect("fill");
        let sent = frame(64, 0);
        if queue == 0 {
            guest.post(0, &[2048]);
            send_frames(&mut bed.port, 0, &[Frame::contiguous(&sent)]);
        } else {
            guest.transmit(0, &sent);
            take_frames(&mut bed.port);
        }
        // Half a message keeps the control thread busy meanwhile.
        guest.send_raw(&[1, 0, 0], &[]);
        wait_down(&mut bed.port, "let a notification wait");
    }
}
