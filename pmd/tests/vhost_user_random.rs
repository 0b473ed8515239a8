//! Random guests: whatever stands in rings, buffers and messages, the port answers with frames
//! that the guest could have sent, or stops with a reason, and works again for the next guest.
//!
//! Each run has a seed, which the failure names; `VHOST_USER_RUNS` asks for more runs than the
//! few that always take place.

mod front_end;

use std::os::fd::AsFd;

use front_end::{
    Bed, FrontEnd, GUEST_BASE, INDIRECT, NEXT, Options, USER_BASE, WRITE, feature, frame, request,
    send_frames, take_frames, wait_down,
};
use pmd::{Frame, Health};

/// `SplitMix64` (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

fn runs(few: u64) -> u64 {
    let asked = std::env::var("VHOST_USER_RUNS");
    asked.ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

const FEATURES: u64 = feature::PLAIN
    | feature::MRG_RXBUF
    | feature::INDIRECT_DESC
    | feature::EVENT_IDX
    | feature::CSUM
    | feature::GUEST_CSUM
    | feature::HOST_TSO4
    | feature::GUEST_TSO4;

const MEMORY_BYTES: u64 = 1 << 20;

/// A descriptor that is good, nearly good, or nothing of the kind.
fn descriptor(random: &mut Random, writable: bool) -> (u64, u32, u16, u16) {
    let end = GUEST_BASE + MEMORY_BYTES;
    let guest = match random.below(12) {
        0 => random.next(),
        1 => end - random.below(64),
        2 => GUEST_BASE.wrapping_sub(random.below(64)),
        _ => GUEST_BASE + random.below(MEMORY_BYTES - 70_000),
    };
    let len = match random.below(12) {
        0 => random.next() as u32,
        1 => random.below(14) as u32,
        2 => 16 * random.below(40) as u32,
        _ => 1 + random.below(4000) as u32,
    };
    let mut flags = if writable { WRITE } else { 0 };
    for (flag, odds) in [(NEXT, 3), (INDIRECT, 8), (WRITE, 16), (0x8000, 32)] {
        if random.below(odds) == 0 {
            flags ^= flag;
        }
    }
    (guest, len, flags, random.below(20) as u16)
}

/// One random burst of ring content, each way.
fn scribble(random: &mut Random, guest: &mut FrontEnd) {
    // Memory full of things that look like headers and descriptors.
    for _ in 0..40 {
        let at = GUEST_BASE + random.below(MEMORY_BYTES - 70_000);
        let entry = descriptor(random, random.0 & 1 == 0);
        let mut bytes = entry.0.to_le_bytes().to_vec();
        bytes.extend(entry.1.to_le_bytes());
        bytes.extend(entry.2.to_le_bytes());
        bytes.extend(entry.3.to_le_bytes());
        guest.memory.write(at, &bytes);
        let header = [random.pick(&[0, 1, 2, 0xff]), random.pick(&[0, 1, 4, 0x81])];
        guest.memory.write(at + 16, &header);
    }
    for queue in 0..2 {
        for index in 0..16 {
            let entry = descriptor(random, queue == 0);
            guest.set_descriptor(queue, index, entry);
        }
        for _ in 0..random.below(20) {
            let head = if random.below(64) == 0 {
                random.next() as u16
            } else {
                random.below(16) as u16
            };
            guest.make_available(queue, head);
        }
        if random.below(20) == 0 {
            let at = guest.queues[queue].available;
            let bytes = random.bytes(4);
            guest.memory.write(at, &bytes);
        }
    }
}

#[test]
fn random_rings_stop_the_port_or_carry_frames() {
    let mut bed = Bed::new();
    let mut stopped = 0;
    let mut carried = 0;
    for seed in 0..runs(400) {
        let random = &mut Random(seed);
        let mut guest = bed.guest(Options {
            features: FEATURES & (random.next() | feature::PLAIN),
            ring_size: 16,
            memory_bytes: MEMORY_BYTES,
            regions: random.pick(&[1, 2, 8]),
            ..Options::default()
        });
        for _ in 0..20 {
            scribble(random, &mut guest);
            for bytes in take_frames(&mut bed.port) {
                assert!((1..=65_550).contains(&bytes.len()), "seed {seed}");
                carried += 1;
            }
            let len = 1 + random.below(9000) as usize;
            let bytes = frame(len, seed as u8);
            let frames = [Frame::contiguous(&bytes); 3];
            let report = send_frames(&mut bed.port, 0, &frames);
            let sum = report.sent + report.full + report.too_big + report.down;
            assert_eq!(sum, 3, "seed {seed}");
            if bed.port.monitor.health() != Health::Up {
                wait_down(&mut bed.port, "broke a rule");
                stopped += 1;
                break;
            }
        }
        drop(guest);
        wait_down(&mut bed.port, "no guest is connected");
    }
    assert!(
        stopped > 0 && carried > 0,
        "{stopped} stopped, {carried} frames"
    );
}

/// One random message, well formed as often as not.
fn message(random: &mut Random, guest: &FrontEnd) {
    let known = [
        request::GET_FEATURES,
        request::SET_FEATURES,
        request::SET_MEM_TABLE,
        request::SET_LOG_BASE,
        request::SET_VRING_NUM,
        request::SET_VRING_ADDR,
        request::SET_VRING_BASE,
        request::GET_VRING_BASE,
        request::SET_VRING_KICK,
        request::SET_VRING_CALL,
        request::SET_PROTOCOL_FEATURES,
        request::SET_VRING_ENABLE,
        request::ADD_MEM_REG,
        request::REM_MEM_REG,
    ];
    let kind = if random.below(30) == 0 {
        random.below(50) as u32
    } else {
        random.pick(&known)
    };
    let word = |random: &mut Random| match random.below(6) {
        0 => random.next(),
        1 => 0,
        2 => GUEST_BASE + random.below(MEMORY_BYTES),
        3 => USER_BASE + random.below(MEMORY_BYTES),
        4 => MEMORY_BYTES,
        _ => random.below(300),
    };
    let words = match kind {
        request::SET_MEM_TABLE => 1 + 4 * random.below(3),
        request::ADD_MEM_REG | request::REM_MEM_REG | request::SET_VRING_ADDR => 5,
        request::SET_LOG_BASE => 2,
        request::GET_FEATURES => 0,
        _ => 1,
    };
    let mut body: Vec<u8> = (0..words)
        .flat_map(|_| word(random).to_le_bytes())
        .collect();
    match kind {
        request::SET_MEM_TABLE => body[..8].copy_from_slice(&((words - 1) / 4).to_le_bytes()),
        // Queue number and value.
        request::SET_VRING_NUM | request::SET_VRING_BASE | request::SET_VRING_ENABLE => {
            body[..4].copy_from_slice(&(random.below(3) as u32).to_le_bytes());
            let value = random.pick(&[0u32, 1, 16, 256, 300]);
            body[4..8].copy_from_slice(&value.to_le_bytes());
        }
        request::SET_VRING_KICK | request::SET_VRING_CALL => {
            body.copy_from_slice(&random.pick(&[0u64, 1, 0x100, 0x101, 2]).to_le_bytes());
        }
        request::GET_VRING_BASE => body.copy_from_slice(&random.below(3).to_le_bytes()),
        request::SET_VRING_ADDR => {
            body[..8].copy_from_slice(&random.below(3).to_le_bytes());
        }
        _ => {}
    }
    if random.below(40) == 0 {
        body.truncate(random.below(body.len() as u64 + 1) as usize);
    }
    let file = if random.below(2) == 0 {
        guest.memory.file.as_fd()
    } else {
        guest.queues[0].kick.as_fd()
    };
    let count = match kind {
        request::SET_MEM_TABLE => (words - 1) / 4,
        request::ADD_MEM_REG | request::SET_LOG_BASE => 1,
        request::SET_VRING_KICK | request::SET_VRING_CALL => u64::from(body.get(1) == Some(&0)),
        _ => u64::from(random.below(30) == 0),
    };
    let fds = vec![file; count as usize];
    guest.send(kind, random.pick(&[1, 1 | 8]), &body, &fds);
}

#[test]
fn random_messages_end_the_connection_or_do_no_harm() {
    let mut bed = Bed::new();
    for seed in 0..runs(400) {
        let random = &mut Random(seed ^ 0x5eed);
        let options = Options {
            ring_size: 16,
            memory_bytes: MEMORY_BYTES,
            ..Options::default()
        };
        // Half of them begin with a device that runs.
        let guest = if random.below(2) == 0 {
            bed.guest(options)
        } else {
            let mut guest = FrontEnd::connect(&bed.socket, options);
            guest.negotiate();
            guest
        };
        for _ in 0..30 {
            message(random, &guest);
            take_frames(&mut bed.port);
            let bytes = frame(100, 0);
            send_frames(&mut bed.port, 0, &[Frame::contiguous(&bytes)]);
        }
        drop(guest);
    }
    // A well-behaved guest finds everything in order.
    let mut guest = bed.guest(Options::default());
    let sent = frame(64, 1);
    guest.transmit(0, &sent);
    assert_eq!(take_frames(&mut bed.port), [sent]);
}
