//! What other programs read of our frames: `tshark` and `tcpdump`, where they are installed.

mod common;

use std::{path::Path, process::Command};

use common::{carriers, encode, tunnel, udp_frame, v4, v6};
use mirror::wire::{Carrier, Fields, MAX_PREFIX_BYTES, Oversize, Piece, Tag, Template, Tunnel};
use pmd::pcap::Writer;
use serde_json::Value;

/// What a program writes to its standard output; `None`, and a word, when it is not installed.
fn output(program: &str, arguments: &[&str], capture: &Path) -> Option<String> {
    let mut command = Command::new(program);
    let Ok(output) = command.args(arguments).arg("-r").arg(capture).output() else {
        println!("skipped: no {program}; scripts/setup installs it");
        return None;
    };
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program}: {errors}");
    Some(String::from_utf8(output.stdout).expect("text"))
}

/// A capture file of frames, and the folder that holds it.
fn capture(frames: &[Vec<u8>]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mirrored.pcap");
    let mut writer = Writer::create(&path).expect("a file");
    for (at, frame) in frames.iter().enumerate() {
        let time_ns = at as u64 * 1_000_000;
        let written = writer.write(time_ns, frame.len() as u32, frame);
        written.expect("a record");
    }
    writer.flush().expect("a file");
    (folder, path)
}

const TIME_NS: u64 = 1_700_000_000_123_456_789;

fn fields(inner: &[u8], sequence: u32) -> Fields {
    Fields {
        inner_len: inner.len() as u32,
        sequence,
        ip_id: 7 + sequence,
        entropy: 0x0123,
        tag: Tag::InFrame(0x602a),
        truncated: true,
        egress: true,
        time_ns: TIME_NS,
    }
}

fn samples() -> Vec<(Tunnel, Vec<u8>, Fields)> {
    let mut samples = Vec::new();
    for addresses in [v4(), v6()] {
        for carrier in carriers(667) {
            let inner = udp_frame([10, 0, 0, 1], [10, 0, 0, 2], (4321, 1234), 40);
            let fields = fields(&inner, samples.len() as u32 + 100);
            samples.push((tunnel(addresses, carrier), inner, fields));
        }
    }
    samples
}

/// The first of the values that a field has in a frame: the outermost header's.
fn first<'a>(layers: &'a Value, field: &str) -> Option<&'a str> {
    layers.get(field)?.get(0)?.as_str()
}

#[test]
fn tshark_reads_what_was_written() {
    let samples = samples();
    let frames: Vec<Vec<u8>> = samples
        .iter()
        .map(|(tunnel, inner, fields)| {
            encode(&Template::new(tunnel).expect("valid"), fields, inner)
        })
        .collect();
    let (_folder, path) = capture(&frames);
    let mut arguments: Vec<&str> = vec!["-n", "-T", "json", "-o", "ip.check_checksum:TRUE"];
    let names = [
        "frame.protocols",
        "ip.dst",
        "ipv6.dst",
        "ip.checksum.status",
        "ip.id",
        "gre.proto",
        "gre.key",
        "gre.sequence_number",
        "erspan.version",
        "erspan.spanid",
        "erspan.vlan",
        "erspan.cos",
        "erspan.encap",
        "erspan.bso",
        "erspan.truncated",
        "erspan.index",
        "erspan.timestamp",
        "erspan.hw",
        "erspan.direction",
        "erspan.gra",
        "erspan.o",
        "erspan.ft",
        "erspan.platid",
        "erspan.pid3.port_index",
        "erspan.pid3.timestamp",
        "vxlan.vni",
        "udp.dstport",
        "udp.srcport",
        "ip.dsfield.dscp",
        "ip.ttl",
        "ipv6.hlim",
        "ipv6.flow",
        "ipv6.tclass.dscp",
        "_ws.expert.message",
    ];
    for name in &names {
        arguments.extend(["-e", name]);
    }
    let Some(text) = output("tshark", &arguments, &path) else {
        return;
    };
    let packets: Value = serde_json::from_str(&text).expect("JSON");
    let packets = packets.as_array().expect("a list");
    assert_eq!(packets.len(), samples.len());
    for (packet, (tunnel, _, fields)) in packets.iter().zip(&samples) {
        let layers = &packet["_source"]["layers"];
        compare(layers, tunnel, fields);
    }
    println!("{} frames of {} fields", packets.len(), names.len());
}

/// A number that a field shows, decimal or hexadecimal.
fn value(layers: &Value, field: &str) -> Option<u64> {
    let text = first(layers, field)?;
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    Some(number.unwrap_or_else(|_| panic!("{field} is {text}")))
}

fn compare(layers: &Value, tunnel: &Tunnel, fields: &Fields) {
    let same = |field: &str, expected: u64| {
        assert_eq!(
            value(layers, field),
            Some(expected),
            "{field} of {layers:#}"
        );
    };
    let protocols = first(layers, "frame.protocols").expect("protocols");
    assert!(
        protocols.ends_with("eth:ethertype:ip:udp:data"),
        "{protocols}"
    );
    if let Some(destination) = first(layers, "ipv6.dst") {
        assert_eq!(destination, "2001:db8::99");
        same("ipv6.hlim", 64);
        same("ipv6.tclass.dscp", 8);
        same("ipv6.flow", u64::from(fields.entropy));
    } else {
        assert_eq!(first(layers, "ip.dst"), Some("192.0.2.99"));
        same("ip.ttl", 64);
        same("ip.dsfield.dscp", 8);
        same("ip.id", u64::from(fields.ip_id));
        // Good.
        same("ip.checksum.status", 1);
    }
    let common = || {
        same("erspan.spanid", 667);
        same("erspan.vlan", 42);
        same("erspan.cos", 3);
        same("erspan.truncated", 1);
    };
    let sequence = value(layers, "gre.sequence_number");
    match tunnel.carrier {
        Carrier::ErspanI => {
            assert!(protocols.contains(":gre:erspan:eth:"), "{protocols}");
            assert_eq!(sequence, None);
        }
        Carrier::ErspanII { index, .. } => {
            common();
            same("erspan.version", 1);
            same("erspan.encap", 3);
            same("erspan.index", index.into());
            same("gre.sequence_number", fields.sequence.into());
        }
        Carrier::ErspanIII {
            granularity,
            hardware,
            sequence: sent,
            port,
            ..
        } => {
            common();
            same("erspan.version", 2);
            same("erspan.bso", 0);
            same("erspan.ft", 0);
            same("erspan.hw", hardware.into());
            same("erspan.direction", 1);
            same("erspan.gra", granularity.bits().into());
            let (lower, upper) = granularity.stamp(TIME_NS);
            same("erspan.timestamp", lower.into());
            same("erspan.o", port.is_some().into());
            if let Some(port) = port {
                same("erspan.platid", 3);
                same("erspan.pid3.port_index", port.into());
                same("erspan.pid3.timestamp", upper.into());
            }
            assert_eq!(sequence, sent.then_some(fields.sequence.into()));
        }
        Carrier::Ethernet {
            key,
            sequence: sent,
        } => {
            same("gre.proto", 0x6558);
            assert_eq!(value(layers, "gre.key"), key.map(u64::from));
            assert_eq!(sequence, sent.then_some(fields.sequence.into()));
        }
        Carrier::Vxlan { .. } => {
            same("vxlan.vni", 667);
            same("udp.dstport", 4789);
            same("udp.srcport", u64::from(fields.entropy | 0xc000));
        }
    }
}

#[test]
fn tcpdump_reads_what_was_written() {
    let samples = samples();
    let frames: Vec<Vec<u8>> = samples
        .iter()
        .map(|(tunnel, inner, fields)| {
            encode(&Template::new(tunnel).expect("valid"), fields, inner)
        })
        .collect();
    let (_folder, path) = capture(&frames);
    let Some(text) = output("tcpdump", &["-n", "-v", "-t"], &path) else {
        return;
    };
    // IPv4 takes two lines, and the mirrored frame a line of its own.
    let mut text = text;
    for behind in ["\n    ", "\n\t", "\nIP (tos 0x0,"] {
        text = text.replace(behind, " ");
    }
    let text = text.trim_end();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), samples.len(), "{text}");
    for (line, (tunnel, _, fields)) in lines.iter().zip(&samples) {
        // It does not know that tunnels over IPv6 may go without a UDP checksum (RFC 6935).
        let line = line.replace("[bad udp cksum 0x0000", "");
        assert!(!line.contains("[bad") && !line.contains("[|"), "{line}");
        let expected: &[&str] = match tunnel.carrier {
            // Debian's looks no further into ERSPAN.
            Carrier::ErspanI | Carrier::ErspanII { .. } => &["gre-proto-0x88be"],
            Carrier::ErspanIII { .. } => &["gre-proto-0x22eb"],
            Carrier::Ethernet { .. } => &["10.0.0.1.4321 > 10.0.0.2.1234"],
            Carrier::Vxlan { .. } => &["VXLAN", "vni 667", "10.0.0.1.4321 > 10.0.0.2.1234"],
        };
        for word in expected {
            assert!(
                line.contains(word),
                "{word} of {:?}: {line}",
                tunnel.carrier
            );
        }
        let sequence = format!("seq {}", fields.sequence);
        let shown = line.contains(&sequence);
        let sent = matches!(
            tunnel.carrier,
            Carrier::ErspanII { .. }
                | Carrier::ErspanIII { sequence: true, .. }
                | Carrier::Ethernet { sequence: true, .. }
        );
        assert_eq!(shown, sent, "{line}");
    }
}

#[test]
fn tshark_puts_fragments_together() {
    let inner = udp_frame([10, 0, 0, 1], [10, 0, 0, 2], (4321, 1234), 4000);
    let mut frames = Vec::new();
    for addresses in [v4(), v6()] {
        for carrier in carriers(667) {
            let tunnel = Tunnel {
                oversize: Oversize::Fragment,
                ..tunnel(addresses, carrier)
            };
            let template = Template::new(&tunnel).expect("valid");
            let fields = fields(&inner, frames.len() as u32);
            let mut prefix = [0; MAX_PREFIX_BYTES];
            for number in 0.. {
                let Some(piece) = template.piece(&fields, number, &mut prefix) else {
                    break;
                };
                let Piece {
                    prefix_len,
                    skip,
                    len,
                } = piece;
                let rest = &inner[skip as usize..(skip + len) as usize];
                frames.push([&prefix[..prefix_len], rest].concat());
            }
        }
    }
    assert_eq!(frames.len(), 20 * 3);
    assert!(frames.iter().all(|frame| frame.len() <= 1514));
    let (_folder, path) = capture(&frames);
    let arguments = [
        "-n",
        "-T",
        "fields",
        "-e",
        "udp.length",
        "-Y",
        "udp.srcport == 4321",
    ];
    let Some(text) = output("tshark", &arguments, &path) else {
        return;
    };
    let whole = text.lines().filter(|line| line.ends_with("4008"));
    assert_eq!(whole.count(), 20, "{text}");
}
