//! Hostile guests: each way to break the rules of a ring or of the protocol costs the guest its
//! own port, under a name, and nothing else.
//!
//! The classes are those that vhost-user back ends were found open to; the CVE numbers are of
//! DPDK's.

mod front_end;

use std::os::fd::AsFd;

use front_end::{
    Bed, FrontEnd, GUEST_BASE, INDIRECT, NEXT, Options, USER_BASE, WRITE, count, feature, frame,
    request, send_frames, take_frames, wait_down, wait_up,
};
use pmd::Frame;

/// Has a guest break a rule of its rings, and holds that its port alone stops for `reason`.
fn ring_attack(reason: &str, features: u64, attack: impl Fn(&mut FrontEnd)) {
    let (mut bed, mut other) = (Bed::new(), Bed::new());
    let mut bystander = other.guest(Options::default());
    let options = Options {
        features: feature::PLAIN | features,
        ..Options::default()
    };
    let mut guest = bed.guest(options);
    // Something good before it, which must have passed.
    guest.transmit(0, &frame(100, 1));
    assert_eq!(take_frames(&mut bed.port).len(), 1);
    while guest.take_used(1).is_some() {}
    attack(&mut guest);
    assert!(
        take_frames(&mut bed.port).is_empty(),
        "nothing of it passes"
    );
    let sent = frame(1500, 2);
    let report = send_frames(&mut bed.port, 0, &[Frame::contiguous(&sent)]);
    assert_eq!(report.sent, 0);
    let why = wait_down(&mut bed.port, "broke a rule");
    assert!(why.contains(reason), "{why}");
    assert_eq!(count(&mut bed.port, "ring_violations"), 1);
    // The bystander goes on.
    bystander.transmit(0, &sent);
    assert_eq!(take_frames(&mut other.port), std::slice::from_ref(&sent));
    // The port stays stopped whatever the guest puts into its rings, until a front end connects
    // anew.
    guest.transmit(0, &sent);
    assert!(take_frames(&mut bed.port).is_empty());
    drop(guest);
    wait_down(&mut bed.port, "no guest is connected");
    let mut guest = bed.guest(options);
    guest.transmit(0, &sent);
    assert_eq!(take_frames(&mut bed.port), [sent]);
}

#[test]
fn a_reset_of_the_driver_mends_its_port() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options::default());
    let sent = frame(200, 3);
    for broken in 1..=20 {
        guest.make_available(TX, 999);
        assert!(take_frames(&mut bed.port).is_empty());
        wait_down(&mut bed.port, "broke a rule");
        assert_eq!(count(&mut bed.port, "ring_violations"), broken);
        // One stopped virtqueue is no reset: the guest does not get away with half of it.
        guest.stop_queue(RX).expect("where it stood");
        guest.start_queue(RX);
        wait_down(&mut bed.port, "broke a rule");
        guest.reset();
        wait_up(&mut bed.port);
        guest.transmit(0, &sent);
        assert_eq!(take_frames(&mut bed.port), std::slice::from_ref(&sent));
        guest.post(0, &[2048]);
        let report = send_frames(&mut bed.port, 0, &[Frame::contiguous(&sent)]);
        assert_eq!(report.sent, 1);
        assert_eq!(guest.receive(0)[0].1, sent);
    }
    let details = bed.port.monitor.details();
    let last = details.iter().find(|(name, _)| *name == "last violation");
    let (_, last) = last.expect("what the guest did is still told");
    assert!(last.contains("beyond the ring's size"), "{last}");
    assert_eq!(count(&mut bed.port, "connections"), 1);
}

/// As [`ring_attack`], with one receive buffer or transmit frame of the given descriptor.
fn descriptor_attack(reason: &str, queue: usize, entry: (u64, u32, u16, u16)) {
    ring_attack(reason, feature::MRG_RXBUF, |guest| {
        guest.set_descriptor(queue, 0, entry);
        guest.make_available(queue, 0);
    });
}

const TX: usize = 1;
const RX: usize = 0;

#[test]
fn available_index_beyond_the_ring() {
    for ahead in [257, 1000, 0x8000, 0xfff0] {
        ring_attack("ran ahead", 0, |guest| {
            let index = guest.queues[TX].index.wrapping_add(ahead);
            let at = guest.queues[TX].available + 2;
            guest.memory.write(at, &index.to_le_bytes());
        });
    }
}

#[test]
fn head_beyond_the_ring() {
    for queue in [RX, TX] {
        for head in [256, 0xffff] {
            ring_attack("beyond the ring's size", 0, |guest| {
                guest.make_available(queue, head);
            });
        }
    }
}

#[test]
fn next_beyond_the_table() {
    for (queue, flags) in [(TX, NEXT), (RX, NEXT | WRITE)] {
        descriptor_attack("next names one beyond", queue, (GUEST_BASE, 12, flags, 256));
    }
}

#[test]
fn chain_in_a_circle() {
    descriptor_attack("in a circle", TX, (GUEST_BASE, 12, NEXT, 0));
    descriptor_attack("in a circle", RX, (GUEST_BASE, 1, NEXT | WRITE, 0));
    ring_attack("in a circle", feature::INDIRECT_DESC, |guest| {
        let table = guest.memory.allocate(32, 16);
        let circle = [
            descriptor(GUEST_BASE, 12, NEXT, 1),
            descriptor(GUEST_BASE, 12, NEXT, 0),
        ];
        guest.memory.write(table, &circle.concat());
        guest.set_descriptor(TX, 0, (table, 32, INDIRECT, 0));
        guest.make_available(TX, 0);
    });
}

fn descriptor(guest: u64, len: u32, flags: u16, next: u16) -> Vec<u8> {
    let mut bytes = guest.to_le_bytes().to_vec();
    bytes.extend(len.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(next.to_le_bytes());
    bytes
}

/// CVE-2018-1059, CVE-2020-10725: address and length must lie wholly in the memory.
#[test]
fn buffer_outside_the_memory() {
    let end = GUEST_BASE + Options::default().memory_bytes;
    let places = [
        (0, 100),
        (GUEST_BASE - 1, 100),
        (end - 99, 100),
        (end, 100),
        (u64::MAX, 100),
        (u64::MAX - 50, 100),
        (GUEST_BASE, u32::MAX),
        (USER_BASE, 100),
    ];
    for (guest, len) in places {
        let too_long = len == u32::MAX;
        let reason = if too_long {
            ""
        } else {
            "outside the guest's shared memory"
        };
        descriptor_attack(reason, TX, (guest, len, 0, 0));
        if !too_long {
            descriptor_attack(reason, RX, (guest, 2000, WRITE, 0));
        }
    }
}

#[test]
fn indirect_table_outside_the_memory() {
    let end = GUEST_BASE + Options::default().memory_bytes;
    for guest in [0, end - 16, u64::MAX - 7] {
        ring_attack(
            "outside the guest's shared memory",
            feature::INDIRECT_DESC,
            |it| {
                it.set_descriptor(TX, 0, (guest, 32, INDIRECT, 0));
                it.make_available(TX, 0);
            },
        );
    }
}

/// CVE-2020-10725.
#[test]
fn descriptor_of_no_length() {
    descriptor_attack("length 0", TX, (GUEST_BASE, 0, 0, 0));
    descriptor_attack("length 0", RX, (GUEST_BASE, 0, WRITE, 0));
}

#[test]
fn descriptor_of_the_wrong_direction() {
    descriptor_attack(
        "for writing where the switch reads",
        TX,
        (GUEST_BASE, 100, WRITE, 0),
    );
    descriptor_attack("for reading where it writes", RX, (GUEST_BASE, 2000, 0, 0));
}

#[test]
fn indirect_without_negotiation() {
    descriptor_attack("not negotiated", TX, (GUEST_BASE, 16, INDIRECT, 0));
}

fn indirect_attack(reason: &str, table_len: u32, flags: u16, entries: &[Vec<u8>]) {
    ring_attack(reason, feature::INDIRECT_DESC, |guest| {
        let table = guest.place(&entries.concat());
        guest.set_descriptor(TX, 0, (table, table_len, INDIRECT | flags, 1));
        guest.make_available(TX, 0);
    });
}

/// CVE-2020-14378.
#[test]
fn indirect_table_of_a_bad_length() {
    let good = descriptor(GUEST_BASE, 100, 0, 0);
    for len in [0, 1, 15, 17, 31, 16 * 1025, u32::MAX - 15] {
        indirect_attack(
            "indirect table whose length",
            len,
            0,
            std::slice::from_ref(&good),
        );
    }
}

#[test]
fn indirect_within_indirect() {
    let nested = [descriptor(GUEST_BASE, 16, INDIRECT, 0)];
    indirect_attack("within an indirect table", 16, 0, &nested);
}

#[test]
fn indirect_with_a_next() {
    indirect_attack(
        "that has a next one",
        16,
        NEXT,
        &[descriptor(GUEST_BASE, 100, 0, 0)],
    );
    let table = feature::INDIRECT_DESC;
    ring_attack("that has a next one", table, |guest| {
        guest.set_descriptor(TX, 0, (GUEST_BASE, 50, NEXT, 1));
        guest.set_descriptor(TX, 1, (GUEST_BASE, 16, INDIRECT, 0));
        guest.make_available(TX, 0);
    });
}

#[test]
fn indirect_next_beyond_its_table() {
    indirect_attack(
        "next names one beyond",
        16,
        0,
        &[descriptor(GUEST_BASE, 100, NEXT, 1)],
    );
}

/// CVE-2022-2132.
#[test]
fn chain_shorter_than_its_header() {
    for len in [1, 5, 11, 12] {
        descriptor_attack(
            "too short for the virtio-net header",
            TX,
            (GUEST_BASE, len, 0, 0),
        );
    }
    ring_attack("too short for the virtio-net header", 0, |guest| {
        let at = guest.place(&[0; 64]);
        guest.offer(TX, &[(at, 4), (at, 4), (at, 4)], 0);
    });
}

#[test]
fn frame_longer_than_any() {
    ring_attack("longer than 65,550 bytes", 0, |guest| {
        guest.set_descriptor(TX, 0, (GUEST_BASE, 65_550 + 13, 0, 0));
        guest.make_available(TX, 0);
    });
    // Lengths whose sum wraps around 32 bits; the buffers lie in memory for once.
    ring_attack("longer than 65,550 bytes", 0, |guest| {
        let len = 8 << 20;
        for index in 0..255 {
            guest.set_descriptor(TX, index, (GUEST_BASE + 4096, len, NEXT, index + 1));
        }
        guest.set_descriptor(TX, 255, (GUEST_BASE, 12, 0, 0));
        guest.make_available(TX, 0);
    });
}

/// CVE-2024-11614.
#[test]
fn checksum_beyond_the_frame() {
    let offsets = [
        (0xffff, 0),
        (34, 0xffff),
        (99, 0),
        (98, 1),
        (100, 0),
        (0xffff, 0xffff),
    ];
    for (start, offset) in offsets {
        ring_attack(
            "checksum offload that points outside",
            feature::CSUM,
            |guest| {
                let [s0, s1] = u16::to_le_bytes(start);
                let [o0, o1] = u16::to_le_bytes(offset);
                let header = [1, 0, 0, 0, 0, 0, s0, s1, o0, o1, 0, 0];
                guest.transmit_with(0, &header, &frame(100, 0));
            },
        );
    }
}

#[test]
fn offload_that_was_not_negotiated() {
    let cases: [(u64, [u8; 2]); 2] = [
        (feature::CSUM, [1, 1]),
        (feature::CSUM | feature::HOST_TSO4, [1, 3]),
    ];
    for (features, [flags, kind]) in cases {
        ring_attack("offload which was not negotiated", features, |guest| {
            let header = [flags, kind, 0, 0, 100, 0, 34, 0, 16, 0, 0, 0];
            guest.transmit_with(0, &header, &frame(100, 0));
        });
    }
}

#[test]
fn segmentation_that_does_not_fit() {
    let features = feature::CSUM | feature::HOST_TSO4 | feature::HOST_TSO6;
    let ethernet = |kind: [u8; 2]| {
        let mut bytes = frame(200, 0);
        bytes[12..14].copy_from_slice(&kind);
        bytes
    };
    let cases: [([u8; 10], [u8; 2]); 5] = [
        // No size; no checksum; a TCP header beyond the end; the wrong protocol, twice.
        ([1, 1, 0, 0, 0, 0, 34, 0, 16, 0], [8, 0]),
        ([0, 1, 0, 0, 100, 0, 34, 0, 16, 0], [8, 0]),
        ([1, 1, 0, 0, 100, 0, 190, 0, 4, 0], [8, 0]),
        ([1, 1, 0, 0, 100, 0, 34, 0, 16, 0], [0x86, 0xdd]),
        ([1, 4, 0, 0, 100, 0, 34, 0, 16, 0], [8, 6]),
    ];
    for (header, kind) in cases {
        ring_attack("segmentation offload", features, |guest| {
            let header = [&header[..], &[0, 0]].concat();
            guest.transmit_with(0, &header, &ethernet(kind));
        });
    }
}

/// Has a front end break a rule of the protocol, and holds that it is cut off for `reason`.
fn message_attack(reason: &str, attack: impl FnOnce(&mut FrontEnd)) {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options::default());
    attack(&mut guest);
    let why = wait_down(&mut bed.port, "no guest is connected");
    assert!(why.contains(reason), "{why}");
    drop(guest);
    let mut guest = bed.guest(Options::default());
    let sent = frame(70, 0);
    guest.transmit(0, &sent);
    assert_eq!(take_frames(&mut bed.port), [sent]);
}

/// CVE-2020-10723.
#[test]
fn ring_size_of_none_or_no_power_of_two() {
    for size in [0, 3, 255, 257, 32_769, 65_536, u32::MAX] {
        message_attack("which is no power of two", |guest| {
            let _ = guest.set_state(request::SET_VRING_NUM, 0, size);
        });
    }
}

#[test]
fn queue_that_does_not_exist() {
    let requests = [
        request::SET_VRING_NUM,
        request::SET_VRING_BASE,
        request::GET_VRING_BASE,
        request::SET_VRING_ENABLE,
    ];
    for kind in requests {
        for queue in [2, 0xffff, 0xffff_ffff] {
            message_attack("was named, and the port has 2", |guest| {
                let _ = guest.set_state(kind, queue, 1);
            });
        }
    }
}

#[test]
fn ring_outside_the_memory() {
    type Change = fn(&mut FrontEnd);
    let end = GUEST_BASE + Options::default().memory_bytes;
    assert_eq!(end - GUEST_BASE, 16 << 20);
    let changes: [Change; 4] = [
        |guest| guest.queues[0].descriptors = GUEST_BASE + (16 << 20) - 16,
        |guest| guest.queues[0].used = GUEST_BASE + (16 << 20) - 512,
        |guest| guest.queues[0].available = GUEST_BASE + (16 << 20) - 516,
        |guest| guest.queues[0].descriptors = GUEST_BASE + (1 << 40),
    ];
    for change in changes {
        message_attack("outside the shared memory", |guest| {
            change(guest);
            let _ = guest.set_addresses(0, 0);
        });
    }
}

#[test]
fn memory_that_its_file_does_not_hold() {
    let cases: [([u64; 4], &str); 4] = [
        ([GUEST_BASE, 32 << 20, USER_BASE, 0], "ends at"),
        ([GUEST_BASE, 16 << 20, USER_BASE, 4096], "ends at"),
        ([GUEST_BASE, 1 << 50, USER_BASE, 0], "ends at"),
        ([GUEST_BASE, 4096, USER_BASE, u64::MAX - 8191], "ends at"),
    ];
    for (region, reason) in cases {
        message_attack(reason, |guest| {
            let _ = guest.set_memory(&[region]);
        });
    }
}

#[test]
fn memory_regions_that_wrap_or_overlap_or_are_empty() {
    let wrapping = [
        [u64::MAX - 4095, 8192, USER_BASE, 0],
        [GUEST_BASE, 8192, u64::MAX - 4095, 0],
        [GUEST_BASE, 8192, USER_BASE, u64::MAX - 4095],
        [GUEST_BASE, 0, USER_BASE, 0],
    ];
    for region in wrapping {
        message_attack("the connection failed", |guest| {
            let _ = guest.set_memory(&[region]);
        });
    }
    message_attack("overlaps", |guest| {
        let first = [GUEST_BASE, 8192, USER_BASE, 0];
        let second = [GUEST_BASE + 4096, 8192, USER_BASE + (1 << 30), 0];
        let _ = guest.set_memory(&[first, second]);
    });
}

#[test]
fn memory_in_something_that_is_no_file_of_memory() {
    message_attack("", |guest| {
        let mut body = 1u64.to_le_bytes().to_vec();
        let region = [GUEST_BASE, 4096, USER_BASE, 0];
        body.extend(region.iter().flat_map(|word| word.to_le_bytes()));
        let kick = guest.queues[0].kick.try_clone().expect("clone");
        let _ = guest.set(request::SET_MEM_TABLE, &body, &[kick.as_fd()]);
    });
}

#[test]
fn memory_in_a_file_that_may_make_the_switch_wait() {
    let folder = env!("CARGO_TARGET_TMPDIR");
    let file = tempfile::tempfile_in(folder).expect("a file");
    file.set_len(1 << 20).expect("grown");
    let tmpfs = 0x0102_1994;
    if rustix::fs::fstatfs(&file).expect("file system").f_type == tmpfs {
        println!("skipped: {folder} is in memory itself");
        return;
    }
    message_attack("use memory-backend-memfd", |guest| {
        let mut body = 1u64.to_le_bytes().to_vec();
        let region = [GUEST_BASE, 4096, USER_BASE, 0];
        body.extend(region.iter().flat_map(|word| word.to_le_bytes()));
        let _ = guest.set(request::SET_MEM_TABLE, &body, &[file.as_fd()]);
    });
}

#[test]
fn memory_region_that_goes_and_never_came() {
    message_attack("never there", |guest| {
        let words = [0, GUEST_BASE + 4096, 4096, USER_BASE, 0];
        let body: Vec<u8> = words
            .iter()
            .flat_map(|word: &u64| word.to_le_bytes())
            .collect();
        let _ = guest.set(request::REM_MEM_REG, &body, &[]);
    });
}

#[test]
fn event_descriptor_that_is_none() {
    for kind in [request::SET_VRING_KICK, request::SET_VRING_CALL] {
        message_attack("no event descriptor", |guest| {
            let file = guest.memory.file.try_clone().expect("clone");
            let _ = guest.set(kind, &0u64.to_le_bytes(), &[file.as_fd()]);
        });
    }
}

#[test]
fn features_that_were_never_offered() {
    message_attack("never offered", |guest| {
        let _ = guest.set(request::SET_FEATURES, &(1u64 << 34).to_le_bytes(), &[]);
    });
    message_attack("never offered", |guest| {
        let _ = guest.set(
            request::SET_PROTOCOL_FEATURES,
            &(1u64 << 9).to_le_bytes(),
            &[],
        );
    });
}

/// CVE-2020-10722.
#[test]
fn dirty_log_that_does_not_fit() {
    let log = |guest: &mut FrontEnd, size: u64, offset: u64| {
        let body = [size.to_le_bytes(), offset.to_le_bytes()].concat();
        let file = guest.memory.file.try_clone().expect("clone");
        let _ = guest.set(request::SET_LOG_BASE, &body, &[file.as_fd()]);
    };
    message_attack("dirty log ends at", |guest| log(guest, 17 << 20, 0));
    message_attack("dirty log ends at", |guest| log(guest, 1 << 62, 0));
    message_attack("dirty log is too small", |guest| log(guest, 64, 0));
    message_attack("the connection failed", |guest| {
        log(guest, u64::MAX, u64::MAX);
    });
}

#[test]
fn messages_of_the_wrong_form() {
    message_attack("the connection failed", |guest| {
        guest.send(999, 1, &[], &[]);
    });
    message_attack("the connection failed", |guest| {
        guest.send(request::SET_FEATURES, 1, &[0; 4], &[]);
    });
    message_attack("the connection failed", |guest| {
        guest.send(request::SET_FEATURES, 2, &[0; 8], &[]);
    });
    message_attack("the connection failed", |guest| {
        // A size that no message has.
        let mut header = request::SET_MEM_TABLE.to_le_bytes().to_vec();
        header.extend(1u32.to_le_bytes());
        header.extend(u32::MAX.to_le_bytes());
        guest.send_raw(&header, &[]);
    });
    message_attack("the connection failed", |guest| {
        // Half a header, then nothing ever again.
        guest.send_raw(&[1, 0, 0], &[]);
        let _ = guest.stream.shutdown(std::net::Shutdown::Write);
    });
    message_attack("the connection failed", |guest| {
        // Descriptors where none belong.
        let kick = guest.queues[0].kick.try_clone().expect("clone");
        guest.send(request::GET_FEATURES, 1, &[], &[kick.as_fd(); 8]);
    });
}

#[test]
fn a_front_end_that_says_half_a_message_keeps_nobody_from_closing_the_port() {
    let mut bed = Bed::new();
    let guest = bed.guest(Options::default());
    guest.send_raw(&[1, 0, 0], &[]);
    let socket = bed.socket.clone();
    drop(bed);
    assert!(!socket.exists());
}
