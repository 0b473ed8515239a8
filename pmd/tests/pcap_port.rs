//! A capture file as a port: what is replayed, when, and what is written.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use pmd::{
    Burst, Frame, Health, OpenError, Port, PrefixArena, TxBurst, TxPlan, TxReport, Wait,
    pcap::{self, Config, MAX_FRAME_BYTES, Pace, Reader, Repeat, Writer},
};
use tempfile::TempDir;

const HOUR_NS: u64 = 3_600_000_000_000;

fn folder() -> TempDir {
    tempfile::tempdir().expect("temporary folder")
}

/// A capture of these frames at these times.
fn capture(folder: &TempDir, frames: &[(u64, &[u8])]) -> PathBuf {
    let path = folder.path().join("in.pcap");
    let mut writer = Writer::create(&path).expect("create");
    for (timestamp_ns, bytes) in frames {
        writer
            .write(*timestamp_ns, bytes.len() as u32, bytes)
            .expect("write");
    }
    writer.flush().expect("flush");
    path
}

fn replay(path: &Path, pace: Pace, repeat: Repeat) -> Port {
    let config = Config {
        replay: Some(path.to_owned()),
        pace,
        repeat,
        write: None,
    };
    pcap::open(&config).expect("opens")
}

fn receive(port: &mut Port) -> Vec<Vec<u8>> {
    let mut burst = Burst::new();
    port.rx[0].receive(&mut burst);
    let frames = burst.iter().map(Frame::to_vec).collect();
    drop(burst);
    port.rx[0].release();
    frames
}

/// Receives as a worker does, sleeping as told, until the replay is over.
fn receive_all(port: &mut Port) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut frames = Vec::new();
    loop {
        assert!(Instant::now() < deadline, "the replay does not end");
        frames.extend(receive(port));
        match port.rx[0].prepare_wait() {
            Wait::Ready => {}
            Wait::Until(Some(rest)) => std::thread::sleep(rest),
            Wait::Until(None) => return frames,
        }
    }
}

fn transmit(port: &mut Port, frames: &[Frame<'_>]) -> TxReport {
    let plans: Vec<TxPlan> = frames
        .iter()
        .enumerate()
        .map(|(index, frame)| TxPlan {
            frame: index as u8,
            len_bytes: frame.len() as u32,
            ..TxPlan::default()
        })
        .collect();
    port.tx[0].transmit(&TxBurst {
        frames,
        prefixes: &PrefixArena::default(),
        plans: &plans,
    })
}

fn count(port: &mut Port, name: &str) -> u64 {
    let counts = port.monitor.counts();
    counts
        .iter()
        .find(|(known, _)| *known == name)
        .expect("known")
        .1
}

fn refusal(config: &Config) -> String {
    match pcap::open(config) {
        Err(error @ OpenError::Unsupported(_)) => error.to_string(),
        other => panic!("must be refused as unsupported: {other:?}"),
    }
}

#[test]
fn a_file_is_replayed_whole_and_in_order() {
    let folder = folder();
    let frames: Vec<Vec<u8>> = (0..200_u8).map(|n| vec![n; usize::from(n)]).collect();
    let records: Vec<(u64, &[u8])> = frames.iter().map(|f| (0, &f[..])).collect();
    let mut port = replay(&capture(&folder, &records), Pace::AsFast, Repeat::Once);
    assert_eq!(port.rx[0].prepare_wait(), Wait::Ready);
    assert_eq!(receive_all(&mut port), frames);
    assert!(receive(&mut port).is_empty());
    assert_eq!(count(&mut port, "frames_replayed"), 200);
    assert_eq!(count(&mut port, "passes"), 1);
    assert_eq!(port.monitor.health(), Health::Up);
}

#[test]
fn a_file_is_replayed_as_often_as_asked() {
    let folder = folder();
    let path = capture(&folder, &[(0, b"a"), (0, b"b")]);
    let mut port = replay(&path, Pace::AsFast, Repeat::Times(3));
    assert_eq!(receive_all(&mut port), [b"a", b"b", b"a", b"b", b"a", b"b"]);
    assert_eq!(count(&mut port, "passes"), 3);
    let mut port = replay(&path, Pace::AsFast, Repeat::Forever);
    for _ in 0..5 {
        assert_eq!(receive(&mut port).len(), pmd::BURST);
    }
    assert_eq!(port.rx[0].prepare_wait(), Wait::Ready);
}

#[test]
fn an_empty_file_is_over_at_once_even_for_ever() {
    let folder = folder();
    let mut port = replay(&capture(&folder, &[]), Pace::AsFast, Repeat::Forever);
    assert!(receive(&mut port).is_empty());
    assert_eq!(port.rx[0].prepare_wait(), Wait::Until(None));
    assert_eq!(port.info.notes.len(), 1);
}

#[test]
fn a_frame_comes_when_it_is_due_and_the_worker_may_sleep_until_then() {
    let folder = folder();
    let path = capture(&folder, &[(5, b"now"), (5 + HOUR_NS, b"in an hour")]);
    let mut port = replay(&path, Pace::Recorded, Repeat::Once);
    assert_eq!(receive(&mut port), [b"now"]);
    let Wait::Until(Some(rest)) = port.rx[0].prepare_wait() else {
        panic!("must be told how long to sleep");
    };
    assert!(rest <= Duration::from_nanos(HOUR_NS));
    assert!(rest > Duration::from_nanos(HOUR_NS / 2));
    assert!(receive(&mut port).is_empty());
    assert!(port.rx[0].wake_fd().is_none());
}

#[test]
fn paced_replays_end_with_every_frame() {
    let folder = folder();
    let path = capture(&folder, &[(0, b"a"), (2_000_000, b"b"), (1_000_000, b"c")]);
    let mut port = replay(&path, Pace::Recorded, Repeat::Times(2));
    assert_eq!(receive_all(&mut port), [b"a", b"b", b"c", b"a", b"b", b"c"]);
    let mut port = replay(&path, Pace::RatePps(1000), Repeat::Times(2));
    assert_eq!(receive_all(&mut port), [b"a", b"b", b"c", b"a", b"b", b"c"]);
}

#[test]
fn what_cannot_be_replayed_is_refused_with_the_reason() {
    let folder = folder();
    let config = |path: PathBuf| Config {
        replay: Some(path),
        ..Config::default()
    };
    let long = capture(&folder, &[(0, b"fine"), (0, &vec![0; MAX_FRAME_BYTES + 1])]);
    let error = refusal(&config(long.clone()));
    assert!(
        error.contains("in.pcap: frame 2 is 65551 bytes long"),
        "{error}"
    );

    let mut bytes = std::fs::read(&long).expect("read");
    bytes[20] = 113;
    std::fs::write(&long, &bytes).expect("write");
    let error = refusal(&config(long.clone()));
    assert!(
        error.contains("frame 1 has link type 113, Linux cooked"),
        "{error}"
    );

    std::fs::write(&long, &bytes[..30]).expect("write");
    let error = refusal(&config(long));
    assert!(
        error.contains("in.pcap: at byte 24: the file ends"),
        "{error}"
    );

    let missing = pcap::open(&config(folder.path().join("none.pcap")));
    assert!(matches!(missing, Err(OpenError::Missing(_))), "{missing:?}");
}

#[test]
fn requests_without_sense_are_refused() {
    let folder = folder();
    let path = capture(&folder, &[(0, b"keep me")]);
    let size = std::fs::metadata(&path).expect("exists").len();
    let sound = Config {
        replay: Some(path.clone()),
        ..Config::default()
    };
    assert!(refusal(&Config::default()).contains("give a file"));
    let same = Config {
        write: Some(folder.path().join(".").join("in.pcap")),
        ..sound.clone()
    };
    assert!(refusal(&same).contains("the same file"));
    assert_eq!(std::fs::metadata(&path).expect("exists").len(), size);
    let slow = Config {
        pace: Pace::RatePps(0),
        ..sound.clone()
    };
    assert!(refusal(&slow).contains("rate of 0"));
    let never = Config {
        repeat: Repeat::Times(0),
        ..sound
    };
    assert!(refusal(&never).contains("0 passes"));
}

#[test]
fn frames_captured_in_part_are_mentioned() {
    let folder = folder();
    let path = folder.path().join("part.pcap");
    let mut writer = Writer::create(&path).expect("create");
    writer.write(0, 1500, b"head only").expect("write");
    writer.flush().expect("flush");
    let port = replay(&path, Pace::AsFast, Repeat::Once);
    assert!(
        port.info.notes[0].starts_with("1 frames of"),
        "{:?}",
        port.info.notes
    );
}

fn write_to(path: &Path) -> Port {
    let config = Config {
        write: Some(path.to_owned()),
        ..Config::default()
    };
    pcap::open(&config).expect("opens")
}

fn frames_of(path: &Path) -> Vec<Vec<u8>> {
    let reader = Reader::open(path).expect("opens");
    reader.map(|record| record.expect("sound").bytes).collect()
}

#[test]
fn what_leaves_is_in_the_file_when_the_worker_idles_and_when_the_port_closes() {
    let folder = folder();
    let path = folder.path().join("out.pcap");
    let mut port = write_to(&path);
    let report = transmit(
        &mut port,
        &[Frame::contiguous(b"one"), Frame::contiguous(b"")],
    );
    let expected = TxReport {
        sent: 2,
        sent_bytes: 3,
        ..TxReport::default()
    };
    assert_eq!(report, expected);
    // Another worker may write while this one sleeps, so the sleep is bounded.
    assert!(matches!(port.rx[0].prepare_wait(), Wait::Until(Some(_))));
    assert_eq!(frames_of(&path), [&b"one"[..], b""]);
    transmit(&mut port, &[Frame::contiguous(b"two")]);
    assert_eq!(count(&mut port, "frames_written"), 3);
    drop(port);
    assert_eq!(frames_of(&path), [&b"one"[..], b"", b"two"]);
}

#[test]
fn a_frame_too_long_is_refused_alone() {
    let folder = folder();
    let path = folder.path().join("out.pcap");
    let mut port = write_to(&path);
    let long = vec![1; MAX_FRAME_BYTES + 1];
    let report = transmit(
        &mut port,
        &[Frame::contiguous(&long), Frame::contiguous(&long[1..])],
    );
    assert_eq!((report.sent, report.too_big), (1, 1));
    drop(port);
    assert_eq!(frames_of(&path), [&long[1..]]);
}

#[test]
fn a_file_that_cannot_be_written_takes_the_port_down() {
    let mut port = write_to(Path::new("/dev/full"));
    let bytes = vec![0; 60_000];
    let burst = vec![Frame::contiguous(&bytes); 10];
    let report = transmit(&mut port, &burst);
    assert!(report.down > 0);
    assert_eq!(report.sent + report.down, 10);
    assert_eq!(count(&mut port, "frames_written"), u64::from(report.sent));
    let Health::Down(why) = port.monitor.health() else {
        panic!("must be down");
    };
    assert!(why.contains("cannot write /dev/full"), "{why}");
    assert_eq!(transmit(&mut port, &burst).down, 10);
}

#[test]
fn without_a_file_what_leaves_is_discarded_and_counted() {
    let folder = folder();
    let path = capture(&folder, &[(0, b"x")]);
    let mut port = replay(&path, Pace::AsFast, Repeat::Once);
    assert_eq!(transmit(&mut port, &[Frame::contiguous(b"y")]).sent, 1);
    assert_eq!(count(&mut port, "frames_discarded"), 1);
    assert_eq!(count(&mut port, "frames_written"), 0);
}

#[test]
fn a_fifo_is_refused_and_not_waited_for() {
    let folder = folder();
    let fifo = folder.path().join("fifo");
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).expect("fifo");
    let refused = |replay: Option<&Path>, write: Option<&Path>| {
        let config = Config {
            replay: replay.map(Path::to_owned),
            write: write.map(Path::to_owned),
            ..Config::default()
        };
        let error = pcap::open(&config).expect_err("refused").to_string();
        assert!(error.contains("not a regular file"), "{error}");
    };
    refused(Some(&fifo), None);
    refused(None, Some(&fifo));
    // With a reader, opening to write would succeed.
    let mut reader = std::fs::File::options();
    let _reader = std::os::unix::fs::OpenOptionsExt::custom_flags(
        reader.read(true),
        rustix::fs::OFlags::NONBLOCK.bits().cast_signed(),
    )
    .open(&fifo)
    .expect("read end");
    refused(None, Some(&fifo));
}
