//! Frames between a guest and a vhost-user port: every form that a well-behaved guest may choose.

mod front_end;

use front_end::{
    Bed, FrontEnd, Options, WRITE, count, feature, frame, relay, send_frames, take_frames, wait_for,
};
use pmd::{Frame, Health, PartialChecksum};

const SIZES: [usize; 14] = [
    1, 14, 60, 64, 255, 256, 257, 511, 512, 1500, 4096, 9018, 65_535, 65_550,
];

#[test]
fn frames_of_every_size_arrive_as_they_left() {
    let (mut bed, mut other) = (Bed::new(), Bed::new());
    let options = Options {
        memory_bytes: 64 << 20,
        ..Options::default()
    };
    let (mut a, mut b) = (bed.guest(options), other.guest(options));
    for (n, size) in SIZES.iter().enumerate() {
        let sent = frame(*size, n as u8);
        b.post(0, &vec![2048; (size + 12).div_ceil(2048)]);
        let head = a.transmit(0, &sent);
        let (count, report) = relay(&mut bed.port, &mut other.port);
        assert_eq!(
            (count, report.sent, report.sent_bytes),
            (1, 1, *size as u64),
            "{size}"
        );
        assert_eq!(a.take_used(1), Some((u32::from(head), 0)), "{size}");
        let received = b.receive(0);
        assert_eq!(received.len(), 1);
        assert!(received[0].1 == sent, "frame of {size} bytes");
        assert_eq!(received[0].0[..10], [0; 10], "a plain header");
    }
}

#[test]
fn without_mergeable_buffers_a_frame_takes_one_chain() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options {
        features: feature::PLAIN,
        ..Options::default()
    });
    let sent = frame(9000, 3);
    // A buffer that is too small is no use, and stays where it is.
    guest.post(0, &[2048]);
    let report = send_frames(&mut bed.port, 0, &[Frame::contiguous(&sent)]);
    assert_eq!((report.sent, report.too_big), (0, 1));
    let report = send_frames(&mut bed.port, 0, &[Frame::contiguous(&sent[..2000])]);
    assert_eq!(report.sent, 1);
    assert_eq!(guest.receive(0)[0].1, sent[..2000]);
    // A chain of three buffers, the header split over two of them.
    let at = guest.memory.allocate(16_384, 1);
    guest.offer(0, &[(at, 5), (at + 100, 4000), (at + 5000, 6000)], WRITE);
    let report = send_frames(&mut bed.port, 0, &[Frame::contiguous(&sent)]);
    assert_eq!(report.sent, 1);
    let (_, len) = guest.take_used(0).expect("used");
    assert_eq!(len, 9012);
    let first = guest.memory.read(at + 100 + 7, 4000 - 7);
    let rest = guest.memory.read(at + 5000, 9000 - first.len());
    assert_eq!([first, rest].concat(), sent);
}

#[test]
fn a_frame_that_finds_no_room_keeps_no_smaller_one_out() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options::default());
    guest.post(0, &[112; 12]);
    let (long, short) = (frame(1500, 1), frame(100, 2));
    let mixed = [&long, &short, &long, &short, &short].map(|one| Frame::contiguous(one));
    let report = send_frames(&mut bed.port, 0, &mixed);
    assert_eq!((report.sent, report.full), (3, 2));
    assert!(guest.receive(0).iter().all(|(_, bytes)| *bytes == short));
    // Where buffers do not merge, a small one stands in the way of long frames only.
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options {
        features: feature::PLAIN,
        ..Options::default()
    });
    guest.post(0, &[112, 2048, 112]);
    let report = send_frames(&mut bed.port, 0, &mixed);
    assert_eq!((report.sent, report.too_big, report.full), (3, 1, 1));
    let lengths: Vec<usize> = guest
        .receive(0)
        .iter()
        .map(|(_, bytes)| bytes.len())
        .collect();
    assert_eq!(lengths, [100, 1500, 100]);
}

#[test]
fn chains_direct_and_indirect_are_one_frame() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options {
        features: feature::PLAIN | feature::INDIRECT_DESC,
        ..Options::default()
    });
    let sent = frame(5000, 9);
    let at = guest.place(&[vec![0; 12], sent.clone()].concat());
    let cuts: [&[u32]; 5] = [
        &[12, 5000],
        &[1, 1, 1, 9, 5000],
        &[5, 7, 100, 156, 4744],
        &[12, 255, 1, 1, 4743],
        &[5012],
    ];
    for indirect in [false, true] {
        for cut in cuts {
            let mut from = at;
            let buffers: Vec<(u64, u32)> = cut
                .iter()
                .map(|len| {
                    from += u64::from(*len);
                    (from - u64::from(*len), *len)
                })
                .collect();
            let head = if indirect {
                guest.offer_indirect(1, &buffers, 0)
            } else {
                guest.offer(1, &buffers, 0)
            };
            let frames = take_frames(&mut bed.port);
            assert_eq!(frames.len(), 1, "{cut:?}");
            assert!(frames[0] == sent, "{cut:?}");
            assert_eq!(guest.take_used(1), Some((u32::from(head), 0)));
        }
    }
    assert_eq!(bed.port.monitor.health(), Health::Up);
}

#[test]
fn a_burst_of_long_chains_takes_several_turns_and_loses_nothing() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options {
        features: feature::PLAIN | feature::INDIRECT_DESC,
        memory_bytes: 64 << 20,
        ..Options::default()
    });
    let sent: Vec<Vec<u8>> = (0..20).map(|n| frame(3000, n)).collect();
    for one in &sent {
        let at = guest.place(&[vec![0; 12], one.clone()].concat());
        let buffers: Vec<(u64, u32)> = (0..753).map(|n| (at + 4 * n, 4)).collect();
        guest.offer_indirect(1, &buffers, 0);
    }
    assert!(take_frames(&mut bed.port) == sent);
}

#[test]
fn a_buffer_may_lie_in_regions_that_touch() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options {
        regions: 4,
        ..Options::default()
    });
    let sent = frame(9000, 1);
    let bytes = [vec![0; 12], sent.clone()].concat();
    let border = front_end::GUEST_BASE + guest.options.memory_bytes / 2;
    for before in [6, 12, 100, 300, 9011] {
        let at = border - before;
        guest.memory.write(at, &bytes);
        guest.offer(1, &[(at, bytes.len() as u32)], 0);
        assert_eq!(
            take_frames(&mut bed.port),
            std::slice::from_ref(&sent),
            "{before}"
        );
        guest.memory.write(at, &vec![0; bytes.len()]);
        guest.offer(0, &[(at, bytes.len() as u32)], WRITE);
        let report = send_frames(&mut bed.port, 0, &[Frame::contiguous(&sent)]);
        assert_eq!(report.sent, 1);
        assert_eq!(guest.receive(0)[0].1, sent, "{before}");
    }
}

#[test]
fn many_frames_in_a_burst_keep_their_order_over_many_rings_full() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options {
        ring_size: 64,
        ..Options::default()
    });
    for round in 0..50u8 {
        let sent: Vec<Vec<u8>> = (0..50).map(|n| frame(60 + n as usize, round ^ n)).collect();
        for one in &sent {
            guest.transmit(0, one);
        }
        assert_eq!(take_frames(&mut bed.port), sent);
        while guest.take_used(1).is_some() {}
        guest.post(0, &[1600; 64]);
        let frames: Vec<Frame<'_>> = sent.iter().map(|one| Frame::contiguous(one)).collect();
        assert_eq!(send_frames(&mut bed.port, 0, &frames).sent, 50);
        let received: Vec<Vec<u8>> = guest.receive(0).into_iter().map(|(_, f)| f).collect();
        assert_eq!(received, sent);
        // The buffers that were not used are taken back by filling them.
        let rest = send_frames(&mut bed.port, 0, &frames);
        assert_eq!((rest.sent, rest.full), (14, 36));
        assert_eq!(guest.receive(0).len(), 14);
    }
}

#[test]
fn every_queue_pair_carries_frames_and_a_missing_one_is_stood_in_for() {
    let mut bed = Bed::with(|config| config.queue_pairs = 4);
    let mut guest = bed.guest(Options {
        queue_pairs: 4,
        ..Options::default()
    });
    for pair in 0..4 {
        let sent = frame(100, pair as u8);
        guest.transmit(pair, &sent);
        assert_eq!(take_frames(&mut bed.port), std::slice::from_ref(&sent));
        guest.post(pair, &[2048]);
        assert_eq!(
            send_frames(&mut bed.port, pair, &[Frame::contiguous(&sent)]).sent,
            1
        );
        assert_eq!(guest.receive(pair)[0].1, sent);
    }
    // The guest goes down to two pairs: all four transmit queues go on working.
    for queue in 4..8 {
        let off = front_end::request::SET_VRING_ENABLE;
        assert_eq!(guest.set_state(off, queue, 0), Ok(0));
    }
    guest.post(0, &[2048; 2]);
    guest.post(1, &[2048; 2]);
    for pair in 0..4 {
        let sent = frame(64, pair as u8);
        assert_eq!(
            send_frames(&mut bed.port, pair, &[Frame::contiguous(&sent)]).sent,
            1
        );
    }
    assert_eq!(guest.receive(0).len() + guest.receive(1).len(), 4);
}

#[test]
fn what_was_judged_is_what_leaves() {
    let (mut bed, mut other) = (Bed::new(), Bed::new());
    let (mut a, mut b) = (
        bed.guest(Options::default()),
        other.guest(Options::default()),
    );
    let sent = frame(200, 5);
    let at = a.place(&[vec![0; 12], sent.clone()].concat());
    a.offer(1, &[(at, 212)], 0);
    b.post(0, &[2048]);
    let mut burst = pmd::Burst::new();
    bed.port.rx[0].receive(&mut burst);
    let judged = burst[0].head().to_vec();
    // The guest changes its mind after the frame was judged.
    a.memory.write(at + 12, &[0xff; 200]);
    assert_eq!(send_frames(&mut other.port, 0, &burst).sent, 1);
    drop(burst);
    bed.port.rx[0].release();
    assert_eq!(judged, sent);
    assert_eq!(b.receive(0)[0].1, sent);
}

#[test]
fn a_descriptor_goes_back_only_after_release() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options::default());
    guest.transmit(0, &frame(64, 0));
    let mut burst = pmd::Burst::new();
    bed.port.rx[0].receive(&mut burst);
    assert_eq!(burst.len(), 1);
    assert_eq!(guest.take_used(1), None);
    drop(burst);
    bed.port.rx[0].release();
    assert!(guest.take_used(1).is_some());
}

/// Virtio 1.2 §2.7.9: the entry of a burst's first chain names its last, and the others are left
/// as they are.
#[test]
fn where_order_is_negotiated_one_entry_gives_a_burst_back() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options {
        features: feature::PLAIN | feature::MRG_RXBUF | feature::IN_ORDER,
        ring_size: 16,
        ..Options::default()
    });
    let untouched = vec![0xee; 8];
    // Three chains at a time: bursts begin at every place of the ring, and wrap around.
    let (mut used, mut index) = (0, guest.queues[1].used);
    let entry = |slot: u16| 4 + 8 * u64::from(slot % 16);
    for round in 0..32u8 {
        for slot in 0..3 {
            let at = index + entry(used + slot);
            guest.memory.write(at, &untouched);
        }
        let sent = [frame(60, round), frame(300, round), frame(1500, round)];
        guest.transmit(0, &sent[0]);
        guest.transmit(0, &sent[1]);
        // A chain of two.
        let header = guest.place(&[0; 12]);
        let body = guest.place(&sent[2]);
        let last = guest.offer(1, &[(header, 12), (body, 1500)], 0);
        assert_eq!(take_frames(&mut bed.port), sent);
        assert_eq!(guest.memory.read_u16(index + 2), used + 3);
        let written = [u32::from(last).to_le_bytes(), [0; 4]].concat();
        assert_eq!(guest.memory.read(index + entry(used), 8), written);
        for slot in 1..3 {
            let at = index + entry(used + slot);
            assert_eq!(guest.memory.read(at, 8), untouched, "round {round}");
        }
        used += 3;
    }
    // Buffers that were written to need their lengths: each has an entry.
    index = guest.queues[0].used;
    let sent = frame(700, 1);
    guest.post(0, &[512, 512, 2048]);
    let frames = [Frame::contiguous(&sent), Frame::contiguous(&sent[..100])];
    assert_eq!(send_frames(&mut bed.port, 0, &frames).sent, 2);
    assert_eq!(guest.memory.read_u16(index + 2), 3);
    let received: Vec<Vec<u8>> = guest.receive(0).into_iter().map(|(_, f)| f).collect();
    assert_eq!(received, [&sent[..], &sent[..100]]);
}

/// An Ethernet and IPv4 frame whose checksum field, at 34 + 16, holds the pseudo header's sum.
fn tcp_frame(payload: usize) -> Vec<u8> {
    let mut bytes = frame(54 + payload, 7);
    bytes[12..14].copy_from_slice(&[0x08, 0x00]);
    bytes[46] = 0x50;
    bytes
}

const NEEDS_CSUM: [u8; 12] = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0];

#[test]
fn a_partial_checksum_passes_between_guests_that_know_it() {
    let all = feature::PLAIN | feature::MRG_RXBUF | feature::CSUM | feature::GUEST_CSUM;
    let options = Options {
        features: all,
        ..Options::default()
    };
    let (mut bed, mut other) = (Bed::new(), Bed::new());
    let (mut a, mut b) = (bed.guest(options), other.guest(options));
    let sent = tcp_frame(600);
    a.transmit_with(0, &NEEDS_CSUM, &sent);
    b.post(0, &[2048]);
    assert_eq!(relay(&mut bed.port, &mut other.port).1.sent, 1);
    let (header, bytes) = b.receive(0).remove(0);
    assert_eq!(header[..10], NEEDS_CSUM[..10]);
    assert_eq!(bytes, sent);
}

#[test]
fn a_partial_checksum_is_completed_for_a_guest_that_does_not_know_it() {
    let (mut bed, mut other) = (Bed::new(), Bed::new());
    let mut a = bed.guest(Options {
        features: feature::PLAIN | feature::CSUM,
        ..Options::default()
    });
    let mut b = other.guest(Options::default());
    for payload in [0, 1, 199, 200, 600, 1401, 5000] {
        let sent = tcp_frame(payload);
        a.transmit_with(0, &NEEDS_CSUM, &sent);
        // Buffers of an odd size, so that words are cut.
        b.post(0, &vec![777; (sent.len() + 12).div_ceil(777)]);
        assert_eq!(relay(&mut bed.port, &mut other.port).1.sent, 1);
        let (header, bytes) = b.receive(0).remove(0);
        assert_eq!(header[..10], [0; 10]);
        let sum = pmd::transmit::fold(pmd::transmit::sum(&sent[34..]));
        let mut expected = sent.clone();
        expected[50..52].copy_from_slice(&(!sum).to_be_bytes());
        assert!(bytes == expected, "{payload}");
    }
}

#[test]
fn a_header_says_nothing_where_no_checksum_was_negotiated() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options::default());
    let sent = frame(100, 0);
    guest.transmit_with(0, &[0xff; 12], &sent);
    let mut burst = pmd::Burst::new();
    bed.port.rx[0].receive(&mut burst);
    assert_eq!(burst[0].to_vec(), sent);
    assert_eq!(
        (burst[0].partial_checksum, burst[0].segment_bytes),
        (None, 0)
    );
}

#[test]
fn a_tcp_super_segment_passes_whole_where_it_is_known() {
    let all = feature::PLAIN
        | feature::MRG_RXBUF
        | feature::CSUM
        | feature::GUEST_CSUM
        | feature::HOST_TSO4
        | feature::HOST_TSO6
        | feature::GUEST_TSO4
        | feature::GUEST_TSO6;
    let options = Options {
        features: all,
        memory_bytes: 64 << 20,
        ..Options::default()
    };
    let (mut bed, mut other) = (Bed::new(), Bed::new());
    let (mut a, mut b) = (bed.guest(options), other.guest(options));
    let mut sent = tcp_frame(65_000);
    let total_bytes = (sent.len() as u16 - 14).to_be_bytes();
    sent[14..24].copy_from_slice(&[0x45, 0, total_bytes[0], total_bytes[1], 0, 1, 0, 0, 64, 6]);
    sent[47] = 0x10;
    // gso_type TCPv4, hdr_len 54, gso_size 1448.
    let header = [1, 1, 54, 0, 0xa8, 0x05, 34, 0, 16, 0, 0, 0];
    a.transmit_with(0, &header, &sent);
    b.post(0, &[2048; 40]);
    assert_eq!(relay(&mut bed.port, &mut other.port).1.sent, 1);
    let (received, bytes) = b.receive(0).remove(0);
    assert_eq!(received[..10], header[..10]);
    assert!(bytes == sent);
    // For a guest that does not know it, it is cut.
    let mut plain = Bed::new();
    let mut c = plain.guest(Options::default());
    c.post(0, &[2048; 64]);
    a.transmit_with(0, &header, &sent);
    let (_, report) = relay(&mut bed.port, &mut plain.port);
    assert_eq!(report.sent, 1);
    let mut payload = Vec::new();
    for (header, bytes) in c.receive(0) {
        assert_eq!(header[..10], [0; 10]);
        assert!(bytes.len() <= 54 + 1448);
        // The pseudo header, the TCP header and the data, with the checksum in its place.
        let tcp_bytes = bytes.len() as u64 - 34;
        let sum = pmd::transmit::sum(&bytes[26..34]) + 6 + tcp_bytes;
        let sum = sum + pmd::transmit::sum(&bytes[34..]);
        assert_eq!(pmd::transmit::fold(sum), 0xffff);
        payload.extend_from_slice(&bytes[54..]);
    }
    assert!(payload == sent[54..]);
    assert_eq!(count(&mut plain.port, "tso_segments"), 45);
}

#[test]
fn a_plan_with_a_prefix_moves_the_checksum() {
    let mut bed = Bed::new();
    let mut guest = bed.guest(Options {
        features: feature::PLAIN | feature::MRG_RXBUF | feature::GUEST_CSUM,
        ..Options::default()
    });
    guest.post(0, &[2048]);
    let bytes = tcp_frame(100);
    let mut one = Frame::contiguous(&bytes);
    one.partial_checksum = Some(PartialChecksum {
        start: 34,
        offset: 16,
    });
    let mut prefixes = pmd::PrefixArena::default();
    let (prefix, slot) = prefixes.allocate().expect("room");
    slot[..12].copy_from_slice(&bytes[..12]);
    slot[12..16].copy_from_slice(&[0x81, 0x00, 0x00, 0x07]);
    let plan = pmd::TxPlan {
        frame: 0,
        prefix,
        prefix_len_bytes: 16,
        skip_bytes: 12,
        len_bytes: bytes.len() as u32 - 12,
        ..pmd::TxPlan::default()
    };
    let report = bed.port.tx[0].transmit(&pmd::TxBurst {
        frames: &[one],
        prefixes: &prefixes,
        plans: &[plan],
    });
    assert_eq!(report.sent, 1);
    let (header, received) = guest.receive(0).remove(0);
    assert_eq!(header[..10], [1, 0, 0, 0, 0, 0, 38, 0, 16, 0]);
    assert_eq!(
        received[..16],
        [&bytes[..12], &[0x81, 0x00, 0x00, 0x07]].concat()
    );
    assert_eq!(received[16..], bytes[12..]);
}

#[test]
fn only_what_is_allowed_is_offered_and_always_the_same() {
    let features = pmd::vhost_user::Features::NONE
        .with("mergeable_buffers")
        .expect("a name");
    for _ in 0..2 {
        let bed = Bed::with(|config| config.features = features);
        let mut guest = FrontEnd::connect(&bed.socket, Options::default());
        let offered = guest.ask_u64(front_end::request::GET_FEATURES);
        assert_eq!(offered, feature::PLAIN | feature::MRG_RXBUF);
    }
}

#[test]
fn details_and_counts_tell_how_the_port_stands() {
    let mut bed = Bed::with(|config| config.queue_pairs = 2);
    let mut guest = bed.guest(Options {
        features: feature::PLAIN | feature::MRG_RXBUF | feature::EVENT_IDX,
        regions: 2,
        ..Options::default()
    });
    guest.transmit(0, &frame(64, 0));
    take_frames(&mut bed.port);
    // What people are told follows the last message at once, but behind it.
    let details = wait_for("the last queue to be told of", || {
        let details = bed.port.monitor.details();
        let started =
            |(name, text): &(&str, String)| *name == "virtqueue 1" && text.contains("256 entries");
        details.iter().any(started).then_some(details)
    });
    let text = |name: &str| {
        let found = details.iter().find(|(it, _)| *it == name);
        found.map(|(_, text)| text.as_str()).unwrap_or_default()
    };
    assert_eq!(text("role"), "server");
    assert_eq!(text("socket"), bed.socket.display().to_string());
    assert_eq!(
        text("features"),
        "MRG_RXBUF EVENT_IDX PROTOCOL_FEATURES VERSION_1"
    );
    assert_eq!(text("memory"), "2 regions, 16777216 bytes");
    assert!(text("virtqueue 1").contains("from the guest, 256 entries, 1 notifications"));
    assert!(
        text("virtqueue 3").contains("not started"),
        "{}",
        text("virtqueue 3")
    );
    assert!(text("connected").starts_with("for "));
    assert_eq!(count(&mut bed.port, "connections"), 1);
    assert_eq!(count(&mut bed.port, "notifications_sent"), 1);
    drop(guest);
    front_end::wait_down(&mut bed.port, "the last guest left");
    assert!(
        bed.port
            .monitor
            .details()
            .iter()
            .any(|(name, text)| { *name == "connected" && text.contains("the last guest left") })
    );
}
