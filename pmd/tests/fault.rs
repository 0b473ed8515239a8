//! What a fault wrapper does to a port, and what it must never do.

use std::{
    collections::VecDeque,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use pmd::{
    BURST, Burst, Counts, Frame, Health, Monitor, PartialChecksum, Port, PortInfo, PrefixArena,
    RxQueue, TxBurst, TxPlan, TxQueue, TxReport, Wait,
    fault::{self, COPIES, Config, Probability},
};
use proptest::prelude::*;

const TCI: Option<u16> = Some(0x2064);
const PARTIAL: Option<PartialChecksum> = Some(PartialChecksum {
    start: 1,
    offset: 2,
});
const SEGMENT_BYTES: u16 = 1448;

/// A port that receives what it is given, marks every frame with [`TCI`], [`PARTIAL`] and
/// [`SEGMENT_BYTES`], and insists on the loan rules.
#[derive(Default)]
struct Scripted {
    waiting: VecDeque<Vec<u8>>,
    lent: Vec<Vec<u8>>,
    on_loan: Arc<AtomicBool>,
}

impl RxQueue for Scripted {
    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) {
        assert!(!self.on_loan.swap(true, Ordering::Relaxed), "not released");
        let count = self.waiting.len().min(burst.remaining_capacity());
        self.lent.extend(self.waiting.drain(..count));
        for bytes in &self.lent {
            let mut frame = Frame::contiguous(bytes);
            frame.vlan_tci = TCI;
            frame.partial_checksum = PARTIAL;
            frame.segment_bytes = SEGMENT_BYTES;
            burst.push(frame);
        }
    }

    fn release(&mut self) {
        self.on_loan.store(false, Ordering::Relaxed);
        self.lent.clear();
    }

    fn prepare_wait(&mut self) -> Wait {
        if self.waiting.is_empty() {
            Wait::Until(None)
        } else {
            Wait::Ready
        }
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Takes frames until it is full, and says so in a count.
struct Sink {
    room: u32,
}

impl TxQueue for Sink {
    fn transmit(&mut self, burst: &TxBurst<'_>) -> TxReport {
        assert!(burst.plans.len() <= BURST);
        let sent = self.room.min(burst.plans.len() as u32);
        self.room -= sent;
        TxReport {
            sent,
            sent_bytes: burst
                .plans
                .iter()
                .take(sent as usize)
                .map(|p| p.wire_len() as u64)
                .sum(),
            full: burst.plans.len() as u32 - sent,
            ..TxReport::default()
        }
    }
}

struct Still;

impl Monitor for Still {
    fn health(&mut self) -> Health {
        Health::Down("as the inner port says".into())
    }

    fn counts(&mut self) -> Counts {
        vec![("inner", 7)]
    }
}

fn wrapped(frames: impl IntoIterator<Item = Vec<u8>>, config: Config) -> Port {
    let port = Port {
        info: PortInfo {
            driver: "memory",
            mode: String::new(),
            max_frame_bytes: 64,
            unmarked_partial_checksums: false,
            hidden_vlan_tags: false,
            notes: Vec::new(),
        },
        rx: vec![Box::new(Scripted {
            waiting: frames.into_iter().collect(),
            ..Scripted::default()
        })],
        tx: vec![Box::new(Sink { room: u32::MAX })],
        monitor: Box::new(Still),
    };
    fault::wrap(port, config)
}

/// So many frames of 8 bytes, each with its own number.
fn numbered(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|n| n.to_be_bytes().to_vec()).collect()
}

/// What one `receive` into a burst with so much room gives.
fn receive_into(port: &mut Port, room: usize) -> Vec<Vec<u8>> {
    let mut burst = Burst::new();
    burst.allow(room);
    port.rx[0].receive(&mut burst);
    let frames = burst.iter();
    let frames = frames
        .map(|frame| {
            assert_eq!((frame.vlan_tci, frame.partial_checksum), (TCI, PARTIAL));
            assert_eq!(frame.segment_bytes, SEGMENT_BYTES);
            frame.to_vec()
        })
        .collect();
    drop(burst);
    port.rx[0].release();
    frames
}

fn receive(port: &mut Port) -> Vec<Vec<u8>> {
    receive_into(port, BURST)
}

/// What comes until the port lets its worker sleep.
fn receive_all(port: &mut Port) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while port.rx[0].prepare_wait() == Wait::Ready {
        frames.extend(receive(port));
    }
    frames
}

fn count(port: &mut Port, name: &str) -> u64 {
    let counts = port.monitor.counts();
    let found = counts.iter().find(|(known, _)| *known == name);
    found.expect("a count of this name").1
}

fn probability(value: f64) -> Probability {
    Probability::new(value).expect("in range")
}

#[test]
fn without_faults_a_port_is_as_it_was() {
    let mut port = wrapped(numbered(200), Config::default());
    assert_eq!(receive_all(&mut port), numbered(200));
    assert_eq!(port.rx[0].prepare_wait(), Wait::Until(None));
    assert_eq!(
        port.monitor.health(),
        Health::Down("as the inner port says".into())
    );
    for (name, value) in port.monitor.counts() {
        assert_eq!(value, if name == "inner" { 7 } else { 0 }, "{name}");
    }
}

#[test]
fn dropped_frames_are_gone_and_counted() {
    let mut port = wrapped(
        numbered(100),
        Config {
            drop: Probability::ALWAYS,
            corrupt: Probability::ALWAYS,
            duplicate: Probability::ALWAYS,
            delay: Probability::ALWAYS,
            ..Config::default()
        },
    );
    assert!(receive_all(&mut port).is_empty());
    assert_eq!(count(&mut port, "fault_dropped"), 100);
    assert_eq!(count(&mut port, "fault_corrupted"), 0);
}

#[test]
fn a_corrupted_frame_differs_in_one_bit() {
    let mut frames = numbered(300);
    frames[5].clear();
    let mut port = wrapped(
        frames.clone(),
        Config {
            corrupt: Probability::ALWAYS,
            ..Config::default()
        },
    );
    let received = receive_all(&mut port);
    assert_eq!(received.len(), frames.len());
    for (number, (was, is)) in frames.iter().zip(&received).enumerate() {
        let bits: u32 = was.iter().zip(is).map(|(a, b)| (a ^ b).count_ones()).sum();
        // A frame without bytes has no bit to flip.
        assert_eq!(bits, u32::from(number != 5), "frame {number}");
        assert_eq!(was.len(), is.len());
    }
    assert_eq!(count(&mut port, "fault_corrupted"), 299);
    assert_eq!(count(&mut port, "fault_no_copy"), 0);
}

#[test]
fn every_frame_comes_twice() {
    let mut port = wrapped(
        numbered(200),
        Config {
            duplicate: Probability::ALWAYS,
            ..Config::default()
        },
    );
    let twice: Vec<_> = numbered(200)
        .into_iter()
        .flat_map(|f| [f.clone(), f])
        .collect();
    assert_eq!(receive_all(&mut port), twice);
    assert_eq!(count(&mut port, "fault_duplicated"), 200);
}

#[test]
fn a_delayed_frame_comes_so_many_receives_later_and_the_worker_stays_awake() {
    let mut port = wrapped(
        numbered(5),
        Config {
            delay: Probability::ALWAYS,
            delay_receives: 3,
            ..Config::default()
        },
    );
    for _ in 0..3 {
        assert!(receive(&mut port).is_empty());
        assert_eq!(port.rx[0].prepare_wait(), Wait::Ready);
    }
    assert_eq!(count(&mut port, "fault_delayed"), 5);
    assert_eq!(count(&mut port, "fault_delay_ended"), 0);
    assert_eq!(receive(&mut port), numbered(5));
    assert_eq!(port.rx[0].prepare_wait(), Wait::Until(None));
    assert_eq!(count(&mut port, "fault_delay_ended"), 5);
}

#[test]
fn some_delay_reorders_and_loses_nothing() {
    let mut port = wrapped(
        numbered(500),
        Config {
            delay: probability(0.3),
            delay_receives: 2,
            ..Config::default()
        },
    );
    let mut received = receive_all(&mut port);
    assert_ne!(received, numbered(500));
    received.sort();
    assert_eq!(received, numbered(500));
}

#[test]
fn without_a_free_copy_frames_pass_as_they_are() {
    let total = COPIES as u64 + 100;
    let mut port = wrapped(
        numbered(total),
        Config {
            delay: Probability::ALWAYS,
            delay_receives: 1000,
            ..Config::default()
        },
    );
    let mut passed = Vec::new();
    for _ in 0..10 {
        passed.extend(receive(&mut port));
    }
    assert_eq!(passed, numbered(total)[COPIES..]);
    assert_eq!(count(&mut port, "fault_no_copy"), 100);
    let mut later = receive_all(&mut port);
    assert_eq!(later.len(), COPIES);
    later.extend(passed);
    assert_eq!(later, numbered(total));
}

#[test]
fn a_frame_too_long_for_a_copy_passes_as_it_is() {
    let long = vec![7; 69];
    let mut port = wrapped(
        [long.clone()],
        Config {
            corrupt: Probability::ALWAYS,
            ..Config::default()
        },
    );
    assert_eq!(receive_all(&mut port), [long]);
    assert_eq!(count(&mut port, "fault_no_copy"), 1);
}

fn transmit(port: &mut Port, plans: usize) -> TxReport {
    let plan = TxPlan {
        len_bytes: 8,
        ..TxPlan::default()
    };
    port.tx[0].transmit(&TxBurst {
        frames: &[Frame::contiguous(&[0; 8])],
        prefixes: &PrefixArena::default(),
        plans: &vec![plan; plans],
    })
}

#[test]
fn a_full_queue_takes_nothing() {
    let mut port = wrapped(
        [],
        Config {
            full: Probability::ALWAYS,
            ..Config::default()
        },
    );
    let report = transmit(&mut port, 150);
    let expected = TxReport {
        full: 150,
        ..TxReport::default()
    };
    assert_eq!(report, expected);
    assert_eq!(count(&mut port, "fault_full"), 150);
}

#[test]
fn a_sometimes_full_queue_reports_each_plan_once() {
    let mut port = wrapped(
        [],
        Config {
            full: probability(0.5),
            ..Config::default()
        },
    );
    let report = transmit(&mut port, 1000);
    assert_eq!(report.sent + report.full, 1000);
    assert_eq!(report.sent_bytes, u64::from(report.sent) * 8);
    assert!(report.sent > 0);
    assert_eq!(count(&mut port, "fault_full"), u64::from(report.full));
}

#[test]
fn the_inner_queues_own_refusals_are_not_counted_as_faults() {
    let mut port = wrapped([], Config::default());
    port.tx = vec![Box::new(Sink { room: 70 })];
    let mut port = fault::wrap(port, Config::default());
    let report = transmit(&mut port, 100);
    assert_eq!((report.sent, report.full), (70, 30));
    assert_eq!(count(&mut port, "fault_full"), 0);
}

fn some_of_each(seed: u64) -> Config {
    Config {
        seed,
        drop: probability(0.1),
        corrupt: probability(0.2),
        duplicate: probability(0.1),
        delay: probability(0.2),
        delay_receives: 2,
        full: probability(0.3),
    }
}

#[test]
fn a_seed_gives_the_same_faults_again_and_another_gives_others() {
    let run = |seed| {
        let mut port = wrapped(numbered(500), some_of_each(seed));
        (
            receive_all(&mut port),
            transmit(&mut port, 500),
            port.monitor.counts(),
        )
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

proptest! {
    // There is no place beside an integration test for failures to be kept.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// in = out + dropped − duplicated + held, after every receive, whatever room a burst has.
    #[test]
    fn frames_are_conserved(
        seed: u64,
        chances in prop::array::uniform4(0.0..=1.0_f64),
        delay_receives in 0..5_u32,
        rooms in prop::collection::vec(0..=BURST, 1..60),
    ) {
        let [drop, corrupt, duplicate, delay] = chances.map(probability);
        let offered = 600;
        let mut port = wrapped(
            numbered(offered),
            Config { seed, drop, corrupt, duplicate, delay, delay_receives, full: Probability::NEVER },
        );
        let mut out = 0;
        for room in rooms {
            let frames = receive_into(&mut port, room);
            prop_assert!(frames.len() <= room);
            out += frames.len() as u64;
        }
        out += receive_all(&mut port).len() as u64;
        let count = |port: &mut Port, name| count(port, name);
        prop_assert_eq!(
            count(&mut port, "fault_delayed"),
            count(&mut port, "fault_delay_ended")
        );
        prop_assert_eq!(
            offered + count(&mut port, "fault_duplicated"),
            out + count(&mut port, "fault_dropped")
        );
    }
}
