//! Files and streams: what other programs read of them.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use pmd::pcap::Reader;

use crate::{
    bed::{Bed, TUNNEL, session, sniffer, wait_for},
    isolation::Mirror,
    mirrored::udp_frame,
};

fn inner(number: u16) -> Vec<u8> {
    udp_frame([10, 0, 0, 1], [10, 0, 0, 2], (number, 80), 400)
}

/// A sniffer with files.
fn files(folder: &Path, more: &str) -> String {
    format!(
        "[[sniffer]]\nname = \"disk\"\ntenant = \"blue\"\nmac = \"02:ff:00:00:00:01\"\n\
         files = {{ folder = \"{}\"{more} }}\n",
        folder.display()
    )
}

/// A sniffer's files, oldest first.
fn written(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    paths
}

/// What TShark prints of a capture's fields; `None`, and a word, when there is no TShark.
fn tshark(capture: &Path, fields: &[&str]) -> Option<String> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-T", "fields", "-r"]).arg(capture);
    for field in fields {
        command.args(["-e", field]);
    }
    let Ok(output) = command.output() else {
        println!("skipped: no tshark; scripts/setup installs it");
        return None;
    };
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    Some(String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn files_rotate_and_keep_to_their_total() {
    let folder = tempfile::tempdir().expect("a folder");
    let strange = folder.path().join("disk-of-somebody.pcapng");
    fs::write(&strange, "mine").expect("written");
    let mut mirror = Mirror::new(1, 7);
    let limits = ", file_bytes = 20000, total_bytes = 60000";
    let text = TUNNEL.to_owned()
        + &session("s", "blue", &mirror.identity(), &["disk"])
        + &files(folder.path(), limits);
    let mut bed = Bed::new(&text);
    for number in 0..500 {
        bed.send(&mirror.carry(&inner(number)));
        if number % 16 == 0 {
            bed.settle();
        }
    }
    let all = bed.settle();
    assert_eq!(all.sniffers[0].sent, 500, "{:?}", all.sniffers[0].lost);
    drop(bed);
    assert_eq!(fs::read(&strange).expect("still there"), b"mine");
    fs::remove_file(&strange).expect("removed");
    let paths = written(folder.path());
    assert!((2..=4).contains(&paths.len()), "{paths:?}");
    // The last burst may go beyond a file's length.
    let total: u64 = paths
        .iter()
        .map(|path| fs::metadata(path).expect("a file").len())
        .sum();
    assert!(total <= 60_000 + 64 * 600, "{total}");
    // The newest frames are there, in order and without a gap.
    let mut frames = Vec::new();
    for path in &paths {
        for record in Reader::open(path).expect("pcapng") {
            frames.push(record.expect("sound").bytes);
        }
    }
    let first = 500 - frames.len() as u16;
    for (number, frame) in (first..500).zip(&frames) {
        assert_eq!(frame[6..], inner(number)[6..], "{number}");
    }
}

#[test]
fn tshark_reads_stamps_lengths_and_what_was_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut mirror = Mirror::new(1, 7);
    let text = TUNNEL.to_owned()
        + &session("s", "blue", &mirror.identity(), &["disk"])
        + &files(folder.path(), "");
    let mut bed = Bed::new(&text);
    for number in 0..100 {
        // Cut after 100 bytes.
        bed.send(&mirror.carry(&inner(number)[..100]));
    }
    bed.settle();
    drop(bed);
    let paths = written(folder.path());
    let fields = [
        "frame.time_epoch",
        "frame.len",
        "frame.cap_len",
        "udp.srcport",
    ];
    let Some(text) = tshark(&paths[0], &fields) else {
        return;
    };
    assert_eq!(text.lines().count(), 100);
    for (number, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split('\t').collect();
        let nanoseconds = words[0].split('.').nth(1).expect("a fraction");
        assert_eq!(nanoseconds.len(), 9, "{line}");
        assert_eq!(words[1..], ["442", "100", &*number.to_string()], "{line}");
    }
}

#[test]
fn a_stream_has_a_head_for_each_reader_and_a_slow_one_loses_only_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0)
        .expect("a FIFO");
    let mut mirror = Mirror::new(1, 7);
    let stream = format!(
        "[[sniffer]]\nname = \"live\"\ntenant = \"blue\"\nmac = \"02:ff:00:00:00:09\"\n\
         stream = \"{}\"\n",
        fifo.display()
    );
    let text = TUNNEL.to_owned()
        + &session("s", "blue", &mirror.identity(), &["live", "reads"])
        + &sniffer("reads", "blue", 1, "")
        + &stream;
    let mut bed = Bed::new(&text);
    bed.send(&mirror.carry(&inner(0)));
    let all = bed.settle();
    let row = |all: &vswitch::decap::view::Everything| {
        all.sniffers
            .iter()
            .find(|s| s.name == "live")
            .expect("a row")
            .clone()
    };
    assert!(
        row(&all).state.contains("nobody reads"),
        "{}",
        row(&all).state
    );
    assert_eq!(row(&all).lost["port_down"], 1);
    for reader in 0..2 {
        let mut file = fs::File::open(&fifo).expect("the stream");
        wait_for("the stream is up", || {
            bed.runtime.sniffers()[1].state == "up"
        });
        let sent = row(&bed.settle()).sent;
        let mut got = bed.got("reads").len();
        // Nobody reads until all are sent: far more than a pipe and the queue hold.
        for number in 0..3000 {
            bed.send(&mirror.carry(&inner(number)));
            got += bed.got("reads").len();
        }
        wait_for("the other sniffer has them", || {
            got += bed.sniffer("reads").drain().len();
            got >= 3000
        });
        let path = folder.path().join(format!("{reader}.pcapng"));
        let mut bytes = vec![0; 1 << 16];
        let mut read = Vec::new();
        wait_for("what waited is read", || {
            let count = file.read(&mut bytes).expect("read");
            read.extend_from_slice(&bytes[..count]);
            row(&bed.runtime.everything()).waiting == 0
        });
        let all = bed.settle();
        assert!(row(&all).lost["queue_full"] > 0, "{:?}", row(&all));
        fs::write(&path, &read).expect("written");
        // What is in the pipe may end within a block; what was read until then is sound.
        let records = Reader::open(&path).expect("a head of its own");
        let frames = records.map_while(Result::ok).count() as u64;
        assert!(frames > 0 && frames <= row(&all).sent - sent);
        drop(file);
        wait_for("the reader is missed", || {
            bed.send(&mirror.carry(&inner(1)));
            bed.got("reads");
            bed.runtime.sniffers()[1].state != "up"
        });
    }
    bed.settle();
}

#[test]
fn a_stream_that_breaks_has_sent_what_was_written_whole_and_lost_the_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0)
        .expect("a FIFO");
    let mut mirror = Mirror::new(1, 7);
    let stream = format!(
        "[[sniffer]]\nname = \"live\"\ntenant = \"blue\"\nmac = \"02:ff:00:00:00:09\"\n\
         stream = \"{}\"\n",
        fifo.display()
    );
    let text = TUNNEL.to_owned() + &session("s", "blue", &mirror.identity(), &["live"]) + &stream;
    let mut bed = Bed::new(&text);
    let mut file = fs::File::open(&fifo).expect("the stream");
    wait_for("the stream is up", || {
        bed.runtime.sniffers()[0].state == "up"
    });
    // More than pipe and queue hold, and no more than one frame at once.
    while !bed.runtime.sniffers()[0].lost.contains_key("queue_full") {
        bed.send(&mirror.carry(&inner(1)));
    }
    let row = bed.runtime.sniffers()[0].clone();
    let waiting = rustix::io::ioctl_fionread(&file).expect("a pipe") as usize;
    let mut read = vec![0; waiting];
    file.read_exact(&mut read).expect("what waits");
    drop(file);
    let path = folder.path().join("read.pcapng");
    fs::write(&path, &read).expect("written");
    let records = Reader::open(&path).expect("a head");
    let whole = records.map_while(Result::ok).count() as u64;
    assert_eq!(row.sent, whole, "{row:?}");
    // The rest of the queue goes to nobody.
    wait_for("nothing waits", || bed.runtime.sniffers()[0].waiting == 0);
    let row = bed.runtime.sniffers()[0].clone();
    let lost: u64 = row.lost.values().sum();
    assert_eq!(row.offered, row.sent + lost, "{row:?}");
    crate::laws::check(&bed.runtime.everything()).expect("the laws");
}
