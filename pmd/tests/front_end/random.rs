//! Guests that do anything: what they put into rings, buffers and messages comes from a seed, or
//! from a fuzzer's bytes. Either way what must hold is the same.

use std::os::fd::AsFd;

use pmd::{Frame, Health};

use super::{
    Bed, FrontEnd, GUEST_BASE, INDIRECT, NEXT, Options, USER_BASE, WRITE, feature, frame, request,
    send_frames, take_frames, wait_down, wait_up,
};

/// Where choices come from.
pub trait Source {
    /// A number below `most`, which is at least 1.
    fn below(&mut self, most: u64) -> u64;

    /// There is nothing more to choose by.
    fn is_spent(&self) -> bool;

    /// Any number.
    fn number(&mut self) -> u64 {
        (0..4).fold(0, |number, _| number << 16 | self.below(1 << 16))
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

/// `SplitMix64` (Steele, Lea, Flood 2014).
pub struct Seed(pub u64);

impl Source for Seed {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most
    }

    fn is_spent(&self) -> bool {
        false
    }
}

/// A fuzzer's bytes, as few of them for each choice as it takes. Zeros follow.
pub struct Bytes<'a>(pub &'a [u8]);

impl Source for Bytes<'_> {
    fn below(&mut self, most: u64) -> u64 {
        let wanted = (64 - (most - 1).leading_zeros()).div_ceil(8) as usize;
        let (taken, rest) = self.0.split_at(wanted.min(self.0.len()));
        self.0 = rest;
        let number = taken
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte));
        number % most
    }

    fn is_spent(&self) -> bool {
        self.0.is_empty()
    }
}

const FEATURES: u64 = feature::PLAIN
    | feature::MRG_RXBUF
    | feature::INDIRECT_DESC
    | feature::EVENT_IDX
    | feature::IN_ORDER
    | feature::CSUM
    | feature::GUEST_CSUM
    | feature::HOST_TSO4
    | feature::GUEST_TSO4;

const MEMORY_BYTES: u64 = 1 << 20;

/// A descriptor that is good, nearly good, or nothing of the kind.
fn descriptor(random: &mut impl Source, writable: bool) -> (u64, u32, u16, u16) {
    let end = GUEST_BASE + MEMORY_BYTES;
    let guest = match random.below(12) {
        0 => random.number(),
        1 => end - random.below(64),
        2 => GUEST_BASE.wrapping_sub(random.below(64)),
        _ => GUEST_BASE + random.below(MEMORY_BYTES - 70_000),
    };
    let len = match random.below(12) {
        0 => random.number() as u32,
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
fn scribble(random: &mut impl Source, guest: &mut FrontEnd) {
    // Memory full of things that look like headers and descriptors.
    for _ in 0..40 {
        let at = GUEST_BASE + random.below(MEMORY_BYTES - 70_000);
        let writable = random.below(2) == 0;
        let entry = descriptor(random, writable);
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
                random.number() as u16
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

/// What became of a guest.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Frames that it sent.
    pub carried: usize,
    /// It broke a rule.
    pub stopped: bool,
}

/// A guest with anything in its rings, both ways. When it breaks a rule it leaves, or resets its
/// driver and goes on. Its frames could have been sent, or its port stops; `name` is told when neither is so.
pub fn rings(bed: &mut Bed, random: &mut impl Source, name: &str) -> Outcome {
    let mut guest = bed.guest(Options {
        features: FEATURES & (random.number() | feature::PLAIN),
        ring_size: 16,
        memory_bytes: MEMORY_BYTES,
        regions: random.pick(&[1, 2, 8]),
        ..Options::default()
    });
    let mut outcome = Outcome {
        carried: 0,
        stopped: false,
    };
    for _ in 0..20 {
        scribble(random, &mut guest);
        for bytes in take_frames(&mut bed.port) {
            assert!((1..=65_550).contains(&bytes.len()), "{name}");
            outcome.carried += 1;
        }
        let len = 1 + random.below(9000) as usize;
        let bytes = frame(len, len as u8);
        let frames = [Frame::contiguous(&bytes); 3];
        let report = send_frames(&mut bed.port, 0, &frames);
        let sum = report.sent + report.full + report.too_big + report.down;
        assert_eq!(sum, 3, "{name}");
        if bed.port.monitor.health() != Health::Up {
            wait_down(&mut bed.port, "broke a rule");
            outcome.stopped = true;
            if random.below(2) == 0 {
                break;
            }
            guest.reset();
            wait_up(&mut bed.port);
        }
        if random.is_spent() {
            break;
        }
    }
    drop(guest);
    wait_down(&mut bed.port, "no guest is connected");
    outcome
}

/// A word that may be an address, a length or nothing of the kind.
fn word(random: &mut impl Source) -> u64 {
    match random.below(6) {
        0 => random.number(),
        1 => 0,
        2 => GUEST_BASE + random.below(MEMORY_BYTES),
        3 => USER_BASE + random.below(MEMORY_BYTES),
        4 => MEMORY_BYTES,
        _ => random.below(300),
    }
}

/// One random message, well formed as often as not.
fn message(random: &mut impl Source, guest: &FrontEnd) {
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
    if random.below(64) == 0 {
        let len = random.below(40) as usize;
        return guest.send_raw(&random.bytes(len), &[]);
    }
    let kind = if random.below(30) == 0 {
        random.below(50) as u32
    } else {
        random.pick(&known)
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

/// A front end that says anything, until it has nothing more to say. The port goes on.
pub fn messages(bed: &mut Bed, random: &mut impl Source) {
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
        if random.is_spent() {
            break;
        }
    }
}

/// A well-behaved guest finds everything in order.
pub fn all_is_well(bed: &mut Bed) {
    let mut guest = bed.guest(Options {
        memory_bytes: MEMORY_BYTES,
        ..Options::default()
    });
    let sent = frame(64, 1);
    guest.transmit(0, &sent);
    assert_eq!(take_frames(&mut bed.port), [sent]);
}
