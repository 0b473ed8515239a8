//! What the decapsulator costs a frame, and what a prefix costs the mirrored port's worker.
//!
//! In: how many sessions, sniffers, bytes, and which format. Out: a [`Report`]. The decapsulator's
//! core is driven from memory on one thread: mirrored frames of all sessions in a random order that
//! is the same every time, made before, their sequence numbers written between the timed passes.
//! Timed is [`Decapsulator::receive_all`], and for each copy what a sniffer's port would do next: the
//! prefix and the rest copied into memory of the sniffer's own. With `runtime` it is a turn of the
//! receiving thread: from a memory port into the sniffers' queues.
//!
//! What must hold, or there is no report: every frame reaches sniffers, in order and without a gap,
//! and nothing is allocated.

use std::{hint::black_box, net::Ipv4Addr, num::NonZeroU16, ops::Range, sync::Arc};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use mirror::{
    decap::{Decapsulator, FanOut, Options as Start, Outcome, Reception, Sniffer, SnifferId},
    session::{Budget, Limits, Purse, Rate},
    wire::{
        Addresses, Carrier, Fields, Granularity, Link, MAX_PREFIX_BYTES, Oversize, SessionId, Tag,
        Template, Tunnel, Vni,
    },
};
use pmd::clock::cycles;
use policy::Mac;

use crate::{generator::random::Random, process, walk::bed};

mod report;
mod runtime;

pub use report::Report;

/// How many rounds the measured time is cut into.
pub const ROUNDS: usize = 11;

/// Frames of a pass.
const PASS: usize = 256;
/// Frames that a sniffer's memory has room for.
const SNIFFER_SLOTS: usize = 64;
/// The longest mirrored frame.
const MOST_BYTES: usize = 9000;

/// A format to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// ERSPAN type I.
    ErspanI,
    /// ERSPAN type II.
    ErspanII,
    /// ERSPAN type III, with subheader.
    ErspanIII,
    /// Keyed Ethernet in GRE.
    Gre,
    /// VXLAN.
    Vxlan,
}

impl Format {
    fn carrier(self, number: usize) -> Carrier {
        let session = SessionId::new(number as u16 % 1024).unwrap_or_default();
        match self {
            Self::ErspanI => Carrier::ErspanI,
            Self::ErspanII => Carrier::ErspanII { session, index: 0 },
            Self::ErspanIII => Carrier::ErspanIII {
                session,
                granularity: Granularity::Nanoseconds100,
                hardware: 0,
                sequence: true,
                port: Some(1),
            },
            Self::Gre => Carrier::Ethernet {
                key: Some(number as u32),
                sequence: true,
            },
            Self::Vxlan => Carrier::Vxlan {
                vni: Vni::new(number as u32).unwrap_or_default(),
            },
        }
    }
}

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Sessions, whose frames come in random order.
    pub sessions: u16,
    /// Sniffers, to which sessions are given one after the other.
    pub sniffers: NonZeroU16,
    /// How many of them each session has.
    pub sniffers_of_session: NonZeroU16,
    /// A session's flows are spread over its sniffers; otherwise each gets all.
    pub spread: bool,
    /// Duplicates are looked for.
    pub once: bool,
    /// Through the receiving thread's turn, ports and queues included.
    pub runtime: bool,
    /// Length of a mirrored frame in bytes, without FCS.
    pub size_bytes: usize,
    /// How frames are carried.
    pub format: Format,
    /// Measured time, in seconds.
    pub seconds: f64,
    /// The core to measure on; `None` stays where the scheduler puts it.
    pub core: Option<usize>,
}

/// Measures.
///
/// # Errors
/// When frames are not accounted for, or something is allocated.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    if let Some(core) = options.core {
        process::pin(core)?;
    }
    let mut drive = Drive::new(options)?;
    let turning = || runtime::Turning::new(options, &drive.templates);
    let mut threads = options.runtime.then(turning).transpose()?;
    let mut rounds = Vec::with_capacity(ROUNDS);
    let mut prefixes = Vec::with_capacity(ROUNDS);
    match &mut threads {
        Some(turning) => drive.turns(turning),
        None => drive.pass(),
    };
    drive.prefixes();
    let round_cycles =
        (pmd::Clock::calibrate().cycles_per_s() * options.seconds / ROUNDS as f64) as u64;
    let mut histogram = Histogram::<u64>::new_with_max(1 << 40, 3)?;
    let mut encoding = histogram.clone();
    let before = pmd::allocations::count();
    for _ in 0..ROUNDS {
        histogram.reset();
        encoding.reset();
        let began = cycles();
        while histogram.is_empty() || cycles() - began < round_cycles {
            histogram.saturating_record(match &mut threads {
                Some(turning) => drive.turns(turning),
                None => drive.pass(),
            });
            encoding.saturating_record(drive.prefixes());
        }
        rounds.push(histogram.value_at_quantile(0.5) as f64 / PASS as f64);
        prefixes.push(encoding.value_at_quantile(0.5) as f64 / PASS as f64);
    }
    let allocations = pmd::allocations::count() - before;
    ensure!(
        allocations == 0,
        "{allocations} allocations: the decapsulator must not allocate after start"
    );
    match &threads {
        Some(turning) => turning.check_accounts(drive.sent * drive.copies_of_frame)?,
        None => drive.check_accounts()?,
    }
    Ok(Report::new(options, &drive, &rounds, &prefixes))
}

/// A tunnel's frame, and where its sequence number stands.
#[derive(Debug)]
struct Sent {
    bytes: Vec<u8>,
    session: usize,
}

/// The decapsulator, and the frames that it gets.
#[derive(Debug)]
struct Drive {
    decap: Decapsulator,
    ring: Vec<Sent>,
    next: usize,
    sequences: Vec<u32>,
    templates: Vec<Template>,
    budget: Budget,
    purse: Purse,
    size: u32,
    /// Of all sniffers, one behind the other; in each, slots of a whole number of cache lines.
    memory: Vec<u8>,
    slot_bytes: usize,
    slots: Vec<usize>,
    sent: u64,
    copied: u64,
    copies_of_frame: u64,
}

impl Drive {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let count = usize::from(options.sessions).max(1);
        let sniffers: Vec<Sniffer> = (0..options.sniffers.get()).map(sniffer).collect();
        let templates: Result<Vec<Template>, _> = (0..count)
            .map(|number| Template::new(&tunnel(options, number)))
            .collect();
        let templates = templates?;
        let sessions: Vec<Reception> = templates
            .iter()
            .enumerate()
            .map(|(number, template)| reception(options, number, template))
            .collect();
        let mut decap = Decapsulator::new(&Start {
            sessions: count,
            secret: 0x5eed,
            ..Start::default()
        });
        let table = decap.table().next(&sessions, &sniffers)?;
        let adopted = decap.adopt(Arc::new(table));
        ensure!(adopted.is_ok(), "the table has more sessions than counters");

        let fits = options.size_bytes <= MOST_BYTES - MAX_PREFIX_BYTES;
        ensure!(fits, "--size {}: too long for a tunnel", options.size_bytes);
        let slot_bytes = options.size_bytes.next_multiple_of(64);
        let inner = bed::template(options.size_bytes, false).context("--size")?;
        let flows = bed::flows();
        let mut order: Vec<usize> = (0..count.max(4096)).map(|at| at % count).collect();
        Random::new(1).shuffle(&mut order);
        // Whole passes.
        order.truncate(order.len() / PASS * PASS);
        let ring = order.iter().enumerate().map(|(place, session)| {
            let mut bytes = vec![0; MAX_PREFIX_BYTES + options.size_bytes];
            let prefix_len = templates[*session].len_bytes();
            inner.write(&flows.flow(place as u64), &[], &mut bytes[prefix_len..]);
            bytes.truncate(prefix_len + options.size_bytes);
            let session = *session;
            Sent { bytes, session }
        });
        let bits = Rate {
            per_second: 100_000_000_000,
            burst: 10_000_000_000,
        };
        let each = if options.spread {
            1
        } else {
            options.sniffers_of_session.min(options.sniffers).get()
        };
        Ok(Self {
            decap,
            ring: ring.collect(),
            next: 0,
            sequences: vec![0; count],
            templates,
            budget: Budget::new(Limits {
                frames: Some(Rate {
                    per_second: 1 << 30,
                    burst: 1 << 30,
                }),
                bits: Some(bits),
            }),
            purse: Purse::default(),
            size: options.size_bytes as u32,
            memory: vec![0; sniffers.len() * SNIFFER_SLOTS * slot_bytes],
            slot_bytes,
            slots: vec![0; sniffers.len()],
            sent: 0,
            copied: 0,
            copies_of_frame: each.into(),
        })
    }

    /// What of a prefix depends on the frame.
    fn fields(&mut self, session: usize) -> Fields {
        let sequence = self.sequences[session];
        self.sequences[session] = sequence.wrapping_add(1);
        Fields {
            inner_len: self.size,
            sequence,
            ip_id: sequence,
            entropy: sequence as u16,
            tag: Tag::InFrame(5),
            truncated: false,
            egress: sequence & 1 == 0,
            time_ns: 1_700_000_000_000_000_000 + u64::from(sequence) * 1000,
        }
    }

    /// Cycles that the next frames take to be received and copied to sniffers.
    fn pass(&mut self) -> u64 {
        let Range { start, end } = self.number();
        let began = cycles();
        for burst in self.ring[start..end].chunks(pmd::BURST) {
            let mut frames: [&[u8]; pmd::BURST] = [&[]; pmd::BURST];
            for (frame, sent) in frames.iter_mut().zip(burst) {
                *frame = &sent.bytes;
            }
            let frames = &frames[..burst.len()];
            // The clock is read once a burst, and one tick is as good as another here.
            self.decap.receive_all(frames, began, |_, outcome| {
                let Outcome::Delivered(delivery) = outcome else {
                    return;
                };
                let rest = delivery.rest();
                for target in delivery.targets {
                    let sniffer = usize::from(target.sniffer.0);
                    let slot = &mut self.slots[sniffer];
                    *slot = (*slot + 1) % SNIFFER_SLOTS;
                    let at = (sniffer * SNIFFER_SLOTS + *slot) * self.slot_bytes;
                    let memory = &mut self.memory[at..at + 6 + rest.len()];
                    memory[..6].copy_from_slice(&target.prefix());
                    memory[6..].copy_from_slice(rest);
                    self.copied += 1;
                }
            });
        }
        let took = cycles() - began;
        black_box(&self.memory);
        took
    }

    /// As [`Drive::pass`], through the receiving thread's turns.
    fn turns(&mut self, turning: &mut runtime::Turning) -> u64 {
        let frames = self.number();
        turning.pass(self.ring[frames].iter().map(|sent| &sent.bytes[..]))
    }

    /// Writes the next sequence numbers into the next frames, and says which they are.
    fn number(&mut self) -> Range<usize> {
        let mut prefix = [0; MAX_PREFIX_BYTES];
        let (first, last) = (self.next, self.next + PASS);
        for at in first..last {
            let session = self.ring[at].session;
            let fields = self.fields(session);
            let len = self.templates[session].write(&fields, &mut prefix);
            self.ring[at].bytes[..len].copy_from_slice(&prefix[..len]);
        }
        self.sent += PASS as u64;
        self.next = if last == self.ring.len() { 0 } else { last };
        first..last
    }

    /// Cycles that as many prefixes take to be paid for and written.
    fn prefixes(&mut self) -> u64 {
        let mut prefix = [0; MAX_PREFIX_BYTES];
        let template = &self.templates[0];
        let began = cycles();
        for sequence in 0..PASS as u32 {
            let fields = Fields {
                inner_len: self.size,
                sequence,
                tag: Tag::InFrame(sequence as u16),
                egress: true,
                time_ns: began + u64::from(sequence),
                ..Fields::default()
            };
            if self.purse.pay(&self.budget, self.size + 54, began) {
                black_box(template.write(black_box(&fields), &mut prefix));
                black_box(&prefix);
            }
        }
        cycles() - began
    }

    /// Every frame was delivered, in order.
    fn check_accounts(&self) -> anyhow::Result<()> {
        let counters = self.decap.counters();
        let totals = &counters.totals;
        let delivered = totals.delivered.get();
        ensure!(
            delivered == self.sent && self.copied == delivered * self.copies_of_frame,
            "{} frames were sent, {delivered} delivered, {} copied",
            self.sent,
            self.copied
        );
        let gaps: u64 = counters
            .sessions
            .iter()
            .map(|session| session.sequence.sequenced.get() - session.sequence.in_order.get())
            .sum();
        ensure!(gaps == 0, "{gaps} frames were out of order");
        Ok(())
    }
}

fn sniffer(number: u16) -> Sniffer {
    let [high, low] = number.to_be_bytes();
    Sniffer {
        id: SnifferId(number),
        tenant: "tenant".into(),
        mac: Mac([2, 0xff, 0, 0, high, low]),
    }
}

fn reception(options: &Options, number: usize, template: &Template) -> Reception {
    let sniffers = options.sniffers.get();
    let each = options.sniffers_of_session.get().min(sniffers);
    let first = number % usize::from(sniffers);
    let ids = (0..each).map(|more| SnifferId((first as u16 + more) % sniffers));
    Reception {
        name: number.to_string().into(),
        tenant: "tenant".into(),
        identity: template.identity(),
        sniffers: ids.collect(),
        fan_out: if options.spread {
            FanOut::Spread
        } else {
            FanOut::All
        },
        once: options.once,
    }
}

/// Each session has a sender of its own, so that no number runs out.
fn tunnel(options: &Options, number: usize) -> Tunnel {
    Tunnel {
        link: Link {
            destination: Mac([2, 0, 0, 0, 0, 0x99]),
            source: Mac([2, 0, 0, 0, 0, 1]),
            tci: None,
        },
        addresses: Addresses::V4 {
            source: Ipv4Addr::from(0x0a01_0000 + number as u32),
            destination: [192, 0, 2, 99].into(),
        },
        dscp: 0,
        ttl: 64,
        dont_fragment: true,
        carrier: options.format.carrier(number),
        mtu_bytes: MOST_BYTES as u16,
        oversize: Oversize::Count,
    }
}
