//! The capture codec: what is written is read, both byte orders, and nothing that a file holds
//! can do harm.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
    process::Command,
};

use pmd::pcap::{self, Error, LinkType, MAX_RECORD_BYTES, Reader, Record, Writer};
use proptest::prelude::*;

fn read(bytes: &[u8]) -> Result<Vec<Record>, Error> {
    Reader::new(Cursor::new(bytes), "test.pcap")?.collect()
}

fn message(bytes: &[u8]) -> String {
    read(bytes).expect_err("must be refused").to_string()
}

/// Builds files in either byte order.
struct Builder {
    big: bool,
    bytes: Vec<u8>,
}

impl Builder {
    fn u16(mut self, value: u16) -> Self {
        let raw = value.to_le_bytes();
        self.put(&raw);
        self
    }

    fn u32(mut self, value: u32) -> Self {
        let raw = value.to_le_bytes();
        self.put(&raw);
        self
    }

    fn u64(mut self, value: u64) -> Self {
        let raw = value.to_le_bytes();
        self.put(&raw);
        self
    }

    fn put(&mut self, little: &[u8]) {
        if self.big {
            self.bytes.extend(little.iter().rev());
        } else {
            self.bytes.extend(little);
        }
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    fn padded(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// A pcapng block around what `body` builds.
    fn block(mut self, kind: u32, body: impl FnOnce(Self) -> Self) -> Self {
        let inner = body(Self {
            big: self.big,
            bytes: Vec::new(),
        });
        let total = inner.bytes.len() as u32 + 12;
        self = self.u32(kind).u32(total);
        self.raw(&inner.bytes).u32(total)
    }

    fn section(self) -> Self {
        self.block(0x0a0d_0d0a, |b| {
            b.u32(0x1a2b_3c4d).u16(1).u16(0).u64(u64::MAX)
        })
    }

    fn interface(self, link_type: u16, snap_len: u32, options: impl FnOnce(Self) -> Self) -> Self {
        self.block(1, |b| options(b.u16(link_type).u16(0).u32(snap_len)))
    }

    fn enhanced(self, interface: u32, stamp: u64, bytes: &[u8]) -> Self {
        self.block(6, |b| {
            b.u32(interface)
                .u32((stamp >> 32) as u32)
                .u32(stamp as u32)
                .u32(bytes.len() as u32)
                .u32(1500)
                .padded(bytes)
        })
    }
}

fn build(big: bool) -> Builder {
    Builder {
        big,
        bytes: Vec::new(),
    }
}

fn classic(big: bool, magic: u32, link_type: u32) -> Builder {
    build(big)
        .u32(magic)
        .u16(2)
        .u16(4)
        .u32(0)
        .u32(0)
        .u32(65535)
        .u32(link_type)
}

const MICRO: u32 = 0xa1b2_c3d4;
const NANO: u32 = 0xa1b2_3c4d;

fn no_options(builder: Builder) -> Builder {
    builder
}

#[test]
fn classic_files_of_both_orders_and_both_resolutions_are_read() {
    for big in [false, true] {
        for (magic, ns_per_unit) in [(MICRO, 1000), (NANO, 1)] {
            let file = classic(big, magic, 1)
                .u32(7)
                .u32(5)
                .u32(3)
                .u32(60)
                .raw(b"abc")
                .u32(8)
                .u32(0)
                .u32(0)
                .u32(0);
            let expected = [
                Record {
                    timestamp_ns: 7_000_000_000 + 5 * ns_per_unit,
                    original_len: 60,
                    bytes: b"abc".to_vec(),
                    link_type: LinkType::ETHERNET,
                },
                Record {
                    timestamp_ns: 8_000_000_000,
                    original_len: 0,
                    bytes: Vec::new(),
                    link_type: LinkType::ETHERNET,
                },
            ];
            assert_eq!(read(&file.bytes).expect("sound"), expected);
        }
    }
}

#[test]
fn the_upper_half_of_a_classic_link_type_is_about_the_fcs() {
    let file = classic(true, MICRO, 0x2400_0001)
        .u32(0)
        .u32(0)
        .u32(1)
        .u32(1)
        .raw(b"x");
    assert_eq!(
        read(&file.bytes).expect("sound")[0].link_type,
        LinkType::ETHERNET
    );
}

#[test]
fn pcapng_of_both_orders_is_read_and_unknown_blocks_are_passed_over() {
    for big in [false, true] {
        let file = build(big)
            .section()
            .block(0x0bad, |b| b.raw(&[0xff; 64]))
            .interface(1, 0, no_options)
            .interface(101, 2, |b| {
                // A name, nanoseconds, one hour later, end.
                b.u16(2)
                    .u16(3)
                    .padded(b"eth")
                    .u16(9)
                    .u16(1)
                    .padded(&[9])
                    .u16(14)
                    .u16(8)
                    .u64(3600)
                    .u16(0)
                    .u16(0)
            })
            .interface(1, 0, |b| b.u16(9).u16(1).padded(&[0x8a]))
            .enhanced(0, 1_000_001, b"abcde")
            .enhanced(1, 5_000_000_007, b"ip")
            .enhanced(2, 1536, b"")
            .block(3, |b| b.u32(3).padded(b"xyz"))
            .block(2, |b| {
                b.u16(0).u16(9).u32(0).u32(9).u32(1).u32(4).padded(b"o")
            });
        let records = read(&file.bytes).expect("sound");
        let seen: Vec<_> = records
            .iter()
            .map(|r| (r.timestamp_ns, r.original_len, &r.bytes[..], r.link_type.0))
            .collect();
        let expected: [(u64, u32, &[u8], u16); 5] = [
            (1_000_001_000, 1500, b"abcde", 1),
            (3_605_000_000_007, 1500, b"ip", 101),
            (1_500_000_000, 1500, b"", 1),
            (0, 3, b"xyz", 1),
            (9000, 4, b"o", 1),
        ];
        assert_eq!(seen, expected, "big: {big}");
    }
}

#[test]
fn a_new_section_may_change_the_order_and_forgets_interfaces() {
    let first = build(false)
        .section()
        .interface(1, 0, no_options)
        .enhanced(0, 0, b"a")
        .bytes;
    let second = build(true).section();
    let known = second
        .interface(1, 0, no_options)
        .enhanced(0, 0, b"b")
        .bytes;
    assert_eq!(
        read(&[&first[..], &known].concat()).expect("sound").len(),
        2
    );
    let unknown = build(true).section().enhanced(0, 0, b"b").bytes;
    let error = message(&[&first[..], &unknown].concat());
    assert!(
        error.contains("interface 0, which no block describes"),
        "{error}"
    );
}

#[test]
fn simple_packets_are_cut_to_the_snapshot_length() {
    let file = build(false)
        .section()
        .interface(1, 2, no_options)
        .block(3, |b| b.u32(9).padded(b"ab"));
    let records = read(&file.bytes).expect("sound");
    assert_eq!(
        (records[0].original_len, &records[0].bytes[..]),
        (9, &b"ab"[..])
    );
}

#[test]
fn damage_is_named_with_file_and_offset() {
    let ng = || build(false).section().interface(1, 0, no_options);
    let cases = [
        (Vec::new(), "byte 0: the file is empty"),
        (
            b"PK\x03\x04rest".to_vec(),
            "byte 0: begins with 50 4b 03 04",
        ),
        (
            classic(false, MICRO, 1).bytes[..20].to_vec(),
            "the file ends within a file header",
        ),
        (
            classic(false, MICRO, 1).raw(b"half").bytes,
            "byte 24: the file ends within a record header",
        ),
        (
            classic(false, MICRO, 1)
                .u32(0)
                .u32(0)
                .u32(9)
                .u32(9)
                .raw(b"short")
                .bytes,
            "byte 40: the file ends within a record",
        ),
        (
            classic(true, MICRO, 1)
                .u32(0)
                .u32(0)
                .u32(u32::MAX)
                .u32(0)
                .bytes,
            "byte 24: a record of 4294967295 bytes",
        ),
        (
            build(false).u32(MICRO).u16(3).raw(&[0; 18]).bytes,
            "byte 4: pcap version 3",
        ),
        (
            build(false).u32(0x0a0d_0d0a).u32(28).raw(&[0; 20]).bytes,
            "byte 0: a section header without byte-order magic",
        ),
        (ng().u32(77).u32(13).bytes, "byte 48: a block of 13 bytes"),
        (ng().u32(77).u32(8).bytes, "byte 48: a block of 8 bytes"),
        (
            ng().u32(6).u32(0xffff_fffc).bytes,
            "byte 48: a block of 4294967280 bytes",
        ),
        (
            ng().u32(77).u32(0xffff_fffc).raw(&[0; 99]).bytes,
            "the file ends within a block",
        ),
        (
            ng().u32(77).u32(16).u32(0).u32(20).bytes,
            "byte 48: a block whose lengths disagree",
        ),
        (
            ng().block(6, |b| b.u32(0).u64(0).u32(5).u32(5).padded(b"abc"))
                .bytes,
            "byte 48: a packet of 5 bytes in a block too short for it",
        ),
        (
            ng().block(6, |b| b.u32(0).u64(0).u32(MAX_RECORD_BYTES + 1).u32(5))
                .bytes,
            "byte 48: a record of 262145 bytes",
        ),
        (
            ng().block(6, |b| b.u32(0)).bytes,
            "byte 48: a packet block too short",
        ),
        (
            ng().interface(1, 0, |b| b.u16(9).u16(400)).bytes,
            "byte 48: an interface option that reaches beyond its block",
        ),
        (
            ng().interface(1, 0, |b| b.u16(9).u16(1).padded(&[20]))
                .bytes,
            "byte 48: a time resolution of 10^-20 s",
        ),
    ];
    for (bytes, expected) in cases {
        let error = message(&bytes);
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        assert!(error.starts_with("test.pcap"), "{error}");
    }
}

#[test]
fn after_an_error_the_reader_is_at_its_end() {
    let file = classic(false, MICRO, 1).raw(b"half").bytes;
    let mut reader = Reader::new(Cursor::new(file), "test.pcap").expect("header");
    assert!(matches!(reader.next(), Some(Err(_))));
    assert!(reader.next().is_none());
}

#[test]
fn a_missing_file_is_an_error_with_its_name() {
    let error = Reader::open("/nonexistent/file.pcap").expect_err("missing");
    assert!(
        error.to_string().starts_with("/nonexistent/file.pcap"),
        "{error}"
    );
}

#[test]
fn the_writer_refuses_what_a_reader_would_not_take() {
    let mut writer = Writer::new(Vec::new()).expect("memory");
    assert!(
        writer
            .write(0, 0, &vec![0; MAX_RECORD_BYTES as usize + 1])
            .is_err()
    );
    assert!(
        writer
            .write(0, 0, &vec![0; MAX_RECORD_BYTES as usize])
            .is_ok()
    );
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let record = (
        0..u64::from(u32::MAX) * 1_000_000_000,
        any::<u32>(),
        prop::collection::vec(any::<u8>(), 0..300),
    )
        .prop_map(|(timestamp_ns, original_len, bytes)| Record {
            timestamp_ns,
            original_len,
            bytes,
            link_type: LinkType::ETHERNET,
        });
    prop::collection::vec(record, 0..20)
}

fn written(records: &[Record]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file).expect("memory");
    for record in records {
        writer
            .write(record.timestamp_ns, record.original_len, &record.bytes)
            .expect("memory");
    }
    file
}

proptest! {
    // There is no place beside an integration test for failures to be kept.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(records in records()) {
        prop_assert_eq!(read(&written(&records)).expect("sound"), records);
    }

    /// A file cut anywhere gives the records before the cut, and an error unless the cut falls
    /// between two records.
    #[test]
    fn a_cut_file_gives_what_came_before_the_cut(records in records(), cut: prop::sample::Index) {
        let file = written(&records);
        let cut = cut.index(file.len() + 1);
        let Ok(reader) = Reader::new(Cursor::new(&file[..cut]), "cut") else {
            prop_assert!(cut < 24);
            return Ok(());
        };
        let mut end = 24;
        for (index, record) in reader.enumerate() {
            let Ok(record) = record else {
                prop_assert!(end < cut);
                return Ok(());
            };
            prop_assert_eq!(&record, &records[index]);
            end += 16 + record.bytes.len();
        }
        prop_assert_eq!(end, cut);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        start in prop::sample::select(vec![
            Vec::new(),
            classic(false, MICRO, 1).bytes,
            classic(true, NANO, 1).bytes,
            build(false).section().interface(1, 0, no_options).bytes,
            build(true).section().interface(1, 0, no_options).bytes,
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let _ = read(&[start, rest].concat());
    }

    #[test]
    fn a_damaged_file_does_no_harm(
        big: bool,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut file = build(big)
            .section()
            .interface(1, 0, |b| b.u16(9).u16(1).padded(&[9]).u16(14).u16(8).u64(1))
            .enhanced(0, 1, b"abcde")
            .block(3, |b| b.u32(3).padded(b"xyz"))
            .block(2, |b| b.u16(0).u16(9).u64(9).u32(1).u32(4).padded(b"o"))
            .bytes;
        for (at, value) in damage {
            let at = at.index(file.len());
            file[at] = value;
        }
        let _ = read(&file);
    }
}

fn captures(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().expect("readable folder") {
        let path = entry.expect("readable entry").path();
        if path.is_dir() {
            captures(&path, found);
        } else if path
            .extension()
            .is_some_and(|e| e == "pcap" || e == "pcapng")
        {
            found.push(path);
        }
    }
}

/// Frames in a file as tcpdump counts them; `None` when it cannot read it or it is not Ethernet.
fn tcpdump_count(path: &Path) -> Option<usize> {
    let output = Command::new("tcpdump")
        .arg("--count")
        .arg("-r")
        .arg(path)
        .output()
        .ok()?;
    let ethernet = String::from_utf8_lossy(&output.stderr).contains("link-type EN10MB");
    let text = String::from_utf8_lossy(&output.stdout);
    let count = text.split_whitespace().next()?.parse().ok()?;
    (output.status.success() && ethernet).then_some(count)
}

#[test]
fn every_shared_capture_reads_as_tcpdump_reads_it() {
    let folder = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/data/pcap"
    ));
    if !folder.is_dir() {
        println!("skipped: no {}", folder.display());
        return;
    }
    let mut paths = Vec::new();
    captures(folder, &mut paths);
    paths.sort();
    assert!(!paths.is_empty());
    let (mut compared, mut refused) = (0, 0);
    for path in &paths {
        let records: Result<Vec<Record>, Error> =
            Reader::open(path).and_then(std::iter::Iterator::collect);
        refused += usize::from(records.is_err());
        // Replaying refuses more (other link types), and must say so instead of panicking.
        let config = pcap::Config {
            replay: Some(path.clone()),
            ..pcap::Config::default()
        };
        let opened = pcap::open(&config);
        assert!(records.is_ok() || opened.is_err(), "{}", path.display());
        if let Some(count) = tcpdump_count(path) {
            let records = records.unwrap_or_else(|e| panic!("tcpdump reads it, we do not: {e}"));
            assert_eq!(records.len(), count, "{}", path.display());
            compared += 1;
        }
    }
    println!(
        "{} captures, {refused} refused, {compared} compared with tcpdump",
        paths.len()
    );
    if Command::new("tcpdump").arg("--version").output().is_ok() {
        assert!(compared > 0, "tcpdump read none of them");
    }
}
