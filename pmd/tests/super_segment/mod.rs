//! Super-segments as guests make them, and the judge of what they are cut into: `smoltcp`.

use pmd::{Frame, MIN_HEAD_BYTES, PartialChecksum, PrefixArena, Run, TxPlan};
use proptest::{prelude::*, test_runner::TestCaseResult};
use smoltcp::wire::{IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const URG: u8 = 0x20;
pub(crate) const CWR: u8 = 0x80;

/// How the switch lets a frame leave.
#[derive(Clone, Debug)]
pub(crate) enum Leaving {
    /// As it came.
    Whole,
    /// With this TCI in a tag of its own before what the frame has.
    Tagged(u16),
    /// Without the outer tag, if it has one.
    Untagged,
    /// With other addresses and one more tag, all headers being in the prefix.
    Rewritten,
    /// Behind these bytes.
    Behind(Vec<u8>),
}

#[derive(Clone, Debug)]
pub(crate) struct SuperSegment {
    pub(crate) source_mac: [u8; 6],
    /// TPID and TCI.
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) is_ipv6: bool,
    /// In words of four bytes.
    pub(crate) ip_options: usize,
    /// IPv6: type, and length as it stands in the header.
    pub(crate) extensions: Vec<(u8, usize)>,
    /// In words of four bytes.
    pub(crate) tcp_options: usize,
    pub(crate) id: u16,
    pub(crate) sequence: u32,
    pub(crate) flags: u8,
    pub(crate) payload_bytes: usize,
    pub(crate) segment_bytes: u16,
    pub(crate) padding_bytes: usize,
    /// How many bytes lie in the frame's head, if not all, and in each piece behind it.
    pub(crate) split: Option<(usize, usize)>,
    pub(crate) leaving: Leaving,
}

pub(crate) fn any_super_segment() -> impl Strategy<Value = SuperSegment> {
    let tag = (prop::sample::select(vec![0x8100, 0x88a8]), any::<u16>());
    let headers = (
        prop::collection::vec(tag, 0..=2),
        any::<bool>(),
        0..=10_usize,
        prop::collection::vec((prop::sample::select(vec![0, 43, 60]), 0..=2_usize), 0..=2),
        0..=10_usize,
    );
    let tcp = (any::<u16>(), any::<u32>(), any::<u8>());
    let sizes = (
        prop_oneof![1..4_000_usize, 4_000..65_200_usize],
        prop_oneof![88..1_500_u16, 1_500..9_000_u16],
        prop_oneof![Just(0), 1..20_usize],
    );
    let split = prop::option::of((MIN_HEAD_BYTES..3_000, 1..5_000_usize));
    let leaving = prop_oneof![
        Just(Leaving::Whole),
        any::<u16>().prop_map(Leaving::Tagged),
        Just(Leaving::Untagged),
        Just(Leaving::Rewritten),
    ];
    (headers, tcp, sizes, split, leaving).prop_map(|(headers, tcp, sizes, split, leaving)| {
        let (mut tags, is_ipv6, ip_options, extensions, tcp_options) = headers;
        if matches!(leaving, Leaving::Tagged(_) | Leaving::Rewritten) {
            tags.truncate(1);
        }
        SuperSegment {
            source_mac: [2, 0, 0, 0, 0, 9],
            tags,
            is_ipv6,
            ip_options,
            extensions,
            tcp_options,
            id: tcp.0,
            sequence: tcp.1,
            flags: tcp.2 & !(SYN | RST | URG),
            payload_bytes: sizes.0,
            segment_bytes: sizes.1,
            padding_bytes: sizes.2,
            split,
            leaving,
        }
    })
}

/// A super-segment in bytes, and where things stand in them.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) bytes: Vec<u8>,
    pub(crate) headers_bytes: usize,
    ip_start: usize,
    tcp_start: usize,
    segment: SuperSegment,
}

impl SuperSegment {
    /// IPv4 without tags and options.
    pub(crate) fn plain(payload_bytes: usize, segment_bytes: u16) -> Self {
        Self {
            source_mac: [2, 0, 0, 0, 0, 9],
            tags: Vec::new(),
            is_ipv6: false,
            ip_options: 0,
            extensions: Vec::new(),
            tcp_options: 0,
            id: 0xfffe,
            sequence: u32::MAX - 2000,
            flags: 0x18,
            payload_bytes,
            segment_bytes,
            padding_bytes: 0,
            split: None,
            leaving: Leaving::Whole,
        }
    }

    /// What VXLAN puts before a frame of `frame_bytes`.
    pub(crate) fn vxlan_headers(frame_bytes: usize) -> Vec<u8> {
        let mut outer = [&[3; 12][..], &[0x08, 0x00, 0x45, 0]].concat();
        outer.extend(((frame_bytes + 36) as u16).to_be_bytes());
        outer.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        outer.extend([0x12, 0xb5, 0x12, 0xb5]);
        outer.extend(((frame_bytes + 16) as u16).to_be_bytes());
        outer.extend([0, 0, 8, 0, 0, 0, 0, 0, 1, 0]);
        outer
    }

    pub(crate) fn build(&self) -> Built {
        let mut bytes = [&[2, 0, 0, 0, 0, 1][..], &self.source_mac].concat();
        for (tpid, tci) in &self.tags {
            bytes.extend(tpid.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        let tcp_bytes = 20 + 4 * self.tcp_options + self.payload_bytes;
        bytes.extend(if self.is_ipv6 {
            [0x86, 0xdd]
        } else {
            [0x08, 0x00]
        });
        let ip_start = bytes.len();
        if self.is_ipv6 {
            self.put_ipv6(&mut bytes, tcp_bytes);
        } else {
            self.put_ipv4(&mut bytes, tcp_bytes);
        }
        let tcp_start = bytes.len();
        bytes.extend([0x30, 0x39, 0x01, 0xbb]);
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend([0x0a, 0x0b, 0x0c, 0x0d]);
        bytes.extend([(5 + self.tcp_options as u8) << 4, self.flags]);
        // The window; a checksum field that guests fill in different ways; no urgent pointer.
        bytes.extend([0x01, 0xf6, 0xde, 0xad, 0, 0]);
        bytes.resize(bytes.len() + 4 * self.tcp_options, 1);
        let headers_bytes = bytes.len();
        bytes.extend((0..self.payload_bytes).map(payload_byte));
        bytes.resize(bytes.len() + self.padding_bytes, 0xee);
        Built {
            bytes,
            headers_bytes,
            ip_start,
            tcp_start,
            segment: self.clone(),
        }
    }

    fn put_ipv4(&self, bytes: &mut Vec<u8>, tcp_bytes: usize) {
        let header_bytes = 20 + 4 * self.ip_options;
        bytes.extend([0x40 | (header_bytes / 4) as u8, 0x02]);
        bytes.extend(((header_bytes + tcp_bytes) as u16).to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend([0x40, 0, 64, 6, 0xbe, 0xef, 10, 0, 0, 1, 10, 200, 250, 2]);
        bytes.resize(bytes.len() + 4 * self.ip_options, 1);
    }

    fn put_ipv6(&self, bytes: &mut Vec<u8>, tcp_bytes: usize) {
        let extension_bytes: usize = self.extensions.iter().map(|(_, len)| (len + 1) * 8).sum();
        let mut next = self.extensions.iter().map(|(next, _)| *next).chain([6]);
        bytes.extend([0x62, 0x01, 0x02, 0x03]);
        bytes.extend(((extension_bytes + tcp_bytes) as u16).to_be_bytes());
        bytes.extend([next.next().expect("TCP at least"), 64]);
        bytes.extend([0xfd; 16]);
        bytes.extend([0xfe; 16]);
        for ((_, len), next) in self.extensions.iter().zip(next) {
            // Padding; and where the header is a routing header, no segments left.
            bytes.extend([next, *len as u8, 1, 0, 0, 0, 0, 0]);
            bytes.resize(bytes.len() + 8 * len, 0);
        }
    }
}

fn payload_byte(index: usize) -> u8 {
    (index % 251) as u8
}

impl Built {
    /// What lies behind the frame's head.
    pub(crate) fn tail(&self) -> Vec<Run> {
        let Some((head, piece)) = self.segment.split else {
            return Vec::new();
        };
        let tail = self.bytes.get(head..).unwrap_or(&[]);
        tail.chunks(piece)
            // SAFETY: the bytes are borrowed by the caller for as long as it uses the segments.
            .map(|piece| unsafe { Run::new(piece.as_ptr(), piece.len() as u32) })
            .collect()
    }

    pub(crate) fn frame<'a>(&'a self, tail: &'a [Run]) -> Frame<'a> {
        let mut frame = match self.segment.split {
            Some((head, _)) if !tail.is_empty() => Frame::in_runs(&self.bytes[..head], tail),
            _ => Frame::contiguous(&self.bytes),
        };
        frame.partial_checksum = Some(PartialChecksum {
            start: self.tcp_start as u16,
            offset: 16,
        });
        frame.segment_bytes = self.segment.segment_bytes;
        frame
    }

    /// Bytes that are put before the frame, and how many of it they replace.
    fn prefix(&self) -> (Vec<u8>, usize) {
        match &self.segment.leaving {
            Leaving::Whole => (Vec::new(), 0),
            Leaving::Tagged(tci) => {
                let tag = [&self.bytes[..12], &[0x81, 0x00], &tci.to_be_bytes()];
                (tag.concat(), 12)
            }
            Leaving::Untagged if self.segment.tags.is_empty() => (Vec::new(), 0),
            Leaving::Untagged => (self.bytes[..12].to_vec(), 16),
            Leaving::Rewritten => {
                let mut headers = self.bytes[..self.headers_bytes].to_vec();
                headers[0] = 6;
                let address = self.ip_start + if self.segment.is_ipv6 { 8 } else { 12 };
                headers[address] = 0xc0;
                headers.splice(12..12, [0x81, 0x00, 0, 7]);
                (headers, self.headers_bytes)
            }
            Leaving::Behind(outer) => (outer.clone(), 0),
        }
    }

    /// The plan of the frame's leaving.
    pub(crate) fn plan(&self, frame: usize, prefixes: &mut PrefixArena) -> TxPlan {
        let (prefix, skip) = self.prefix();
        let (number, slot) = prefixes.allocate().expect("room");
        slot[..prefix.len()].copy_from_slice(&prefix);
        TxPlan {
            frame: frame as u8,
            prefix: number,
            prefix_len_bytes: prefix.len() as u8,
            skip_bytes: skip as u16,
            len_bytes: (self.bytes.len() - skip) as u32,
            ..TxPlan::default()
        }
    }
}

/// Checks that `taken` are the segments of `segment`, in order.
pub(crate) fn check(segment: &SuperSegment, taken: &[Vec<u8>]) -> TestCaseResult {
    let built = segment.build();
    let (mut headers, skip) = built.prefix();
    headers.extend(&built.bytes[skip.min(built.headers_bytes)..built.headers_bytes]);
    let ip_start = built.ip_start + headers.len() - built.headers_bytes;
    let tcp_start = built.tcp_start + headers.len() - built.headers_bytes;
    let wire_bytes = headers.len() + segment.payload_bytes + segment.padding_bytes;
    let is_cut = wire_bytes > headers.len() + usize::from(segment.segment_bytes);
    let mut payload = Vec::new();
    for (number, bytes) in taken.iter().enumerate() {
        prop_assert!(bytes.len() <= headers.len() + usize::from(segment.segment_bytes));
        let is_last = number + 1 == taken.len();
        prop_assert!(is_last || bytes.len() == headers.len() + usize::from(segment.segment_bytes));
        // What must not change has not: put back what may, and all is as it was.
        let mut restored = bytes[..headers.len()].to_vec();
        let mut restore = |from, to| restored[from..to].copy_from_slice(&headers[from..to]);
        let ip_fields: &[(usize, usize)] = if segment.is_ipv6 {
            &[(4, 6)]
        } else {
            &[(2, 4), (4, 6), (10, 12)]
        };
        for (from, to) in ip_fields {
            restore(ip_start + from, ip_start + to);
        }
        for (from, to) in [(4, 8), (13, 14), (16, 18)] {
            restore(tcp_start + from, tcp_start + to);
        }
        prop_assert_eq!(&restored, &headers);

        let (source, destination, ip_bytes): (IpAddress, IpAddress, usize) = if segment.is_ipv6 {
            let ip = Ipv6Packet::new_checked(&bytes[ip_start..]).expect("IPv6");
            (ip.src_addr().into(), ip.dst_addr().into(), ip.total_len())
        } else {
            let ip = Ipv4Packet::new_checked(&bytes[ip_start..]).expect("IPv4");
            prop_assert!(!is_cut || ip.verify_checksum());
            prop_assert_eq!(ip.ident(), segment.id.wrapping_add(number as u16));
            (
                ip.src_addr().into(),
                ip.dst_addr().into(),
                ip.total_len().into(),
            )
        };
        if is_cut {
            prop_assert_eq!(ip_start + ip_bytes, bytes.len());
        }
        let tcp = TcpPacket::new_checked(&bytes[tcp_start..ip_start + ip_bytes]).expect("TCP");
        if is_cut {
            prop_assert!(tcp.verify_checksum(&source, &destination));
        }
        let sequence = segment.sequence.wrapping_add(payload.len() as u32);
        prop_assert_eq!(tcp.seq_number().0 as u32, sequence);
        let first_only = if number == 0 { 0 } else { CWR };
        let last_only = if is_last { 0 } else { FIN | PSH };
        let flags = segment.flags & !first_only & !last_only;
        prop_assert_eq!(bytes[tcp_start + 13], flags);
        payload.extend_from_slice(tcp.payload());
    }
    let expected: Vec<u8> = (0..segment.payload_bytes).map(payload_byte).collect();
    prop_assert!(payload == expected, "the payload is not the original's");
    Ok(())
}
