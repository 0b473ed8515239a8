//! What software segmentation makes of super-segments: packets that another TCP/IP accepts, from
//! whatever a guest wrote, and a true account of them.

mod super_segment;

use pmd::{
    BURST, Frame, PartialChecksum, PrefixArena, TxBurst, TxPlan, TxQueue, TxReport,
    memory::{self, Endpoint},
    segment::{MIN_SEGMENT_BYTES, Segmenter, wrap},
    transmit::{MAX_PREFIX_BYTES, MAX_PREFIXES},
};
use proptest::prelude::*;
use super_segment::{
    CWR, FIN, Leaving, PSH, RST, SYN, SuperSegment, URG, any_super_segment, check,
};

/// What the inner queue does with the next plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Take,
    Full,
    TooBig,
    Down,
}

/// An inner queue that keeps what it took, and answers as it is told.
#[derive(Default)]
struct Recorder {
    taken: Vec<Vec<u8>>,
    /// The last is for all further plans; none takes them all.
    answers: Vec<Answer>,
    asked: usize,
    calls: usize,
    plans_at: Option<*const TxPlan>,
}

// SAFETY: the pointer is only compared.
unsafe impl Send for Recorder {}

impl TxQueue for Recorder {
    fn transmit(&mut self, burst: &TxBurst<'_>) -> TxReport {
        let mut report = TxReport::default();
        self.calls += 1;
        self.plans_at = Some(burst.plans.as_ptr());
        for plan in burst.plans {
            let answer = self.answers.get(self.asked).or(self.answers.last());
            self.asked += 1;
            match answer.unwrap_or(&Answer::Take) {
                Answer::Take => {
                    let mut bytes = vec![0; plan.wire_len()];
                    assert_eq!(burst.write(plan, &mut bytes), bytes.len());
                    report.sent += 1;
                    report.sent_bytes += bytes.len() as u64;
                    self.taken.push(bytes);
                }
                Answer::Full => report.full += 1,
                Answer::TooBig => report.too_big += 1,
                Answer::Down => report.down += 1,
            }
        }
        report
    }
}

fn frames_in(report: TxReport) -> usize {
    (report.sent + report.full + report.too_big + report.down) as usize
}

fn count(segmenter_tally: &pmd::segment::Tally, name: &str) -> u64 {
    let counts = segmenter_tally.counts();
    let found = counts.iter().find(|(counted, _)| *counted == name);
    found.expect("a count of that name").1
}

fn transmit(frames: &[Frame<'_>], plans: &[TxPlan], inner: &mut Recorder) -> TxReport {
    let burst = TxBurst {
        frames,
        prefixes: &PrefixArena::default(),
        plans,
    };
    Segmenter::default().transmit(&burst, inner)
}

/// Cuts one frame as a whole plan; what leaves, and the report.
fn cut(frame: Frame<'_>) -> (Vec<Vec<u8>>, TxReport) {
    let plan = TxPlan::whole(0, &frame);
    let mut inner = Recorder::default();
    let report = transmit(&[frame], &[plan], &mut inner);
    (inner.taken, report)
}

/// Cuts what `segment` is, leaving as it says.
fn cut_leaving(segment: &SuperSegment) -> (Vec<Vec<u8>>, TxReport) {
    let built = segment.build();
    let tail = built.tail();
    let frame = built.frame(&tail);
    let mut prefixes = PrefixArena::default();
    let plan = built.plan(0, &mut prefixes);
    let mut inner = Recorder::default();
    let report = Segmenter::default().transmit(
        &TxBurst {
            frames: &[frame],
            prefixes: &prefixes,
            plans: &[plan],
        },
        &mut inner,
    );
    (inner.taken, report)
}

proptest! {
    // There is no place beside an integration test for failures to be kept.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever headers, options, tags and rewrites: the segments are valid packets that carry
    /// the payload, whole and in order, and differ from the original in what they must only.
    #[test]
    fn segments_are_what_hardware_would_send(segment in any_super_segment()) {
        let (taken, report) = cut_leaving(&segment);
        check(&segment, &taken)?;
        prop_assert_eq!(report, TxReport {
            sent: 1,
            sent_bytes: taken.iter().map(|bytes| bytes.len() as u64).sum(),
            ..TxReport::default()
        });
    }

    /// Bits flipped in the headers, any metadata, any plan that lies within its frame: nothing
    /// panics, every frame is counted once, nothing that leaves is long, and there is little of
    /// it.
    #[test]
    fn hostile_frames_do_no_harm(
        segment in any_super_segment(),
        flips in prop::collection::vec((0..220_usize, any::<u8>()), 0..6),
        partial in prop_oneof![
            3 => Just(None),
            1 => any::<Option<(u16, u16)>>().prop_map(Some),
        ],
        segment_bytes in prop_oneof![Just(None), any::<u16>().prop_map(Some), (0..100_u16).prop_map(Some)],
        skip in prop_oneof![Just(None), any::<prop::sample::Index>().prop_map(Some)],
        keep in prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)],
    ) {
        let mut built = segment.build();
        for (at, value) in flips {
            if let Some(byte) = built.bytes.get_mut(at) {
                *byte = value;
            }
        }
        let tail = built.tail();
        let mut frame = built.frame(&tail);
        if let Some(partial) = partial {
            frame.partial_checksum = partial.map(|(start, offset)| PartialChecksum { start, offset });
        }
        frame.segment_bytes = segment_bytes.unwrap_or(frame.segment_bytes);
        let mut prefixes = PrefixArena::default();
        let mut plan = built.plan(0, &mut prefixes);
        if let Some(skip) = skip {
            plan.skip_bytes = skip.index(frame.len().min(u16::MAX.into())) as u16;
            plan.len_bytes = frame.len() as u32 - u32::from(plan.skip_bytes);
        }
        if let Some(keep) = keep {
            plan.len_bytes = keep.index(plan.len_bytes as usize + 1) as u32;
        }
        let burst = TxBurst { frames: &[frame], prefixes: &prefixes, plans: &[plan] };
        let mut inner = Recorder::default();
        let report = Segmenter::default().transmit(&burst, &mut inner);

        prop_assert_eq!(frames_in(report), 1);
        prop_assert_eq!(report.sent == 0, inner.taken.is_empty());
        if frame.segment_bytes > 0 {
            prop_assert!(inner.taken.len() <= 65_536_usize.div_ceil(MIN_SEGMENT_BYTES.into()));
            for bytes in &inner.taken {
                prop_assert!(bytes.len() <= MAX_PREFIX_BYTES + usize::from(frame.segment_bytes));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..2_000),
        ethertype in prop::sample::select(vec![[0x81, 0x00], [0x88, 0xa8], [0x08, 0x00], [0x86, 0xdd]]),
        (start, offset) in (0..80_u16, prop_oneof![Just(16_u16), any::<u16>()]),
        segment_bytes in 1..2_000_u16,
    ) {
        let mut bytes = bytes;
        if let Some(place) = bytes.get_mut(12..14) {
            place.copy_from_slice(&ethertype);
        }
        let mut frame = Frame::contiguous(&bytes);
        frame.partial_checksum = Some(PartialChecksum { start, offset });
        frame.segment_bytes = segment_bytes;
        let (taken, report) = cut(frame);
        prop_assert_eq!(frames_in(report), 1);
        prop_assert_eq!(report.sent == 0, taken.is_empty());
    }

    /// A queue that refuses at any point, for any reason: each frame that came in is counted
    /// once, as sent only if all of it was taken, and what leaves keeps the order.
    #[test]
    fn the_account_is_true_whatever_the_queue_takes(
        payloads in prop::collection::vec(prop_oneof![1..100_usize, 100..20_000_usize], 1..12),
        refused in prop::collection::vec(prop::bool::weighted(0.2), 12),
        answers in prop::collection::vec(
            prop_oneof![
                20 => Just(Answer::Take),
                1 => Just(Answer::Full),
                1 => Just(Answer::TooBig),
                1 => Just(Answer::Down),
            ],
            0..200,
        ),
    ) {
        let built: Vec<_> = payloads
            .iter()
            .enumerate()
            .map(|(index, payload)| {
                let mut segment = SuperSegment::plain(*payload, 100);
                segment.source_mac[5] = index as u8;
                if refused[index] {
                    segment.flags |= SYN;
                }
                segment.build()
            })
            .collect();
        let frames: Vec<_> = built.iter().map(|built| built.frame(&[])).collect();
        let plans: Vec<_> = (0..frames.len()).map(|index| TxPlan::whole(index, &frames[index])).collect();
        let mut inner = Recorder { answers, ..Recorder::default() };
        let report = transmit(&frames, &plans, &mut inner);

        prop_assert_eq!(frames_in(report), plans.len());
        let sources: Vec<u8> = inner.taken.iter().map(|bytes| bytes[11]).collect();
        prop_assert!(sources.is_sorted());
        let (mut sent, mut sent_bytes) = (0, 0);
        for index in 0..plans.len() {
            let of_frame = inner.taken.iter().filter(|bytes| usize::from(bytes[11]) == index);
            let (segments, bytes) = of_frame.fold((0, 0), |(n, sum), bytes| (n + 1, sum + bytes.len()));
            let headers = built[index].headers_bytes;
            if segments > 0 && bytes - segments * headers == payloads[index] {
                sent += 1;
                sent_bytes += bytes as u64;
            }
            let is_cut = payloads[index] > 100;
            prop_assert!(!(is_cut && refused[index]) || segments == 0);
        }
        prop_assert_eq!((report.sent, report.sent_bytes), (sent, sent_bytes));
    }
}

/// Whether none, few or all frames leave here, and whether others' are to be cut.
#[test]
fn a_burst_without_super_segments_passes_as_it_is() {
    let built = SuperSegment::plain(9000, 1400).build();
    for other in [Frame::contiguous(&[0; 60]), built.frame(&[])] {
        let mut frames = [Frame::contiguous(&[0; 60]); BURST];
        frames[0] = other;
        for count in [1, 2, BURST - 1] {
            let plans: Vec<TxPlan> = (1..=count)
                .map(|index| TxPlan::whole(index, &frames[index]))
                .collect();
            let mut inner = Recorder::default();
            let report = transmit(&frames, &plans, &mut inner);
            assert_eq!(report.sent as usize, count);
            assert_eq!((inner.calls, inner.plans_at), (1, Some(plans.as_ptr())));
        }
    }
}

#[test]
fn few_plans_of_many_frames_are_cut_too() {
    let built = SuperSegment::plain(9000, 1400).build();
    let frames = [built.frame(&[]); BURST];
    let mut inner = Recorder::default();
    let report = transmit(&frames, &[TxPlan::whole(5, &frames[5])], &mut inner);
    assert_eq!((report.sent, inner.taken.len()), (1, 7));
}

#[test]
fn a_frame_no_longer_than_a_segment_passes_as_it_is() {
    let segment = SuperSegment::plain(1400, 1400);
    let (taken, _) = cut_leaving(&segment);
    assert_eq!(taken.len(), 1);
    check(&segment, &taken).expect("a valid packet");
    let (taken, _) = cut_leaving(&SuperSegment::plain(1401, 1400));
    assert_eq!(taken.len(), 2);
}

#[test]
fn ordinary_frames_keep_their_place_between_super_segments() {
    let built = SuperSegment::plain(3000, 1400).build();
    let frames = [Frame::contiguous(&[7; 60]), built.frame(&[])];
    let plans = [0, 0, 1, 0, 1, 1, 0].map(|index| TxPlan::whole(index, &frames[index]));
    let mut inner = Recorder::default();
    let report = transmit(&frames, &plans, &mut inner);
    assert_eq!(report.sent, 7);
    let lengths: Vec<usize> = inner.taken.iter().map(Vec::len).collect();
    let cut = [1454, 1454, 254];
    let expected = [&[60, 60], &cut[..], &[60], &cut, &cut, &[60]].concat();
    assert_eq!(lengths, expected);
}

#[test]
fn a_frame_of_more_segments_than_a_burst_is_cut_whole() {
    let segment = SuperSegment::plain(65_000, MIN_SEGMENT_BYTES);
    let (taken, report) = cut_leaving(&segment);
    assert_eq!(taken.len(), 65_000_usize.div_ceil(MIN_SEGMENT_BYTES.into()));
    assert!(taken.len() > MAX_PREFIXES);
    assert_eq!(report.sent, 1);
    check(&segment, &taken).expect("valid packets");
}

#[test]
fn a_queue_that_is_full_is_not_asked_for_the_rest() {
    let built = SuperSegment::plain(65_000, MIN_SEGMENT_BYTES).build();
    let frame = built.frame(&[]);
    let mut inner = Recorder {
        answers: vec![Answer::Take, Answer::Full],
        ..Recorder::default()
    };
    let report = transmit(&[frame], &[TxPlan::whole(0, &frame)], &mut inner);
    let full = TxReport {
        full: 1,
        ..TxReport::default()
    };
    assert_eq!(report, full);
    assert_eq!((inner.calls, inner.taken.len()), (1, 1));
    assert!(inner.asked <= BURST);
}

#[test]
fn segments_for_a_port_that_is_down_are_one_frame_for_it() {
    for (answer, expected) in [
        (Answer::Down, [0, 0, 1]),
        (Answer::TooBig, [0, 1, 0]),
        (Answer::Full, [1, 0, 0]),
    ] {
        let built = SuperSegment::plain(9000, 1400).build();
        let frame = built.frame(&[]);
        let mut inner = Recorder {
            answers: vec![answer],
            ..Recorder::default()
        };
        let report = transmit(&[frame], &[TxPlan::whole(0, &frame)], &mut inner);
        assert_eq!([report.full, report.too_big, report.down], expected);
    }
}

#[test]
fn a_truncated_copy_leaves_if_it_is_no_longer_than_a_segment() {
    let built = SuperSegment::plain(9000, 1400).build();
    let frame = built.frame(&[]);
    for (len, leaves) in [(128, true), (1400, true), (3000, false)] {
        let plan = TxPlan {
            len_bytes: len,
            ..TxPlan::whole(0, &frame)
        };
        let mut inner = Recorder::default();
        let report = transmit(&[frame], &[plan], &mut inner);
        assert_eq!(
            (report.sent, report.too_big),
            (leaves.into(), (!leaves).into())
        );
        assert_eq!(
            inner
                .taken
                .iter()
                .any(|t| *t == built.bytes[..len as usize]),
            leaves
        );
    }
}

#[test]
fn only_the_first_has_cwr_and_only_the_last_has_fin_and_psh() {
    let mut segment = SuperSegment::plain(3000, 1400);
    segment.flags = 0x10 | FIN | PSH | CWR;
    let (taken, _) = cut_leaving(&segment);
    let flags: Vec<u8> = taken.iter().map(|bytes| bytes[47]).collect();
    assert_eq!(flags, [0x10 | CWR, 0x10, 0x10 | FIN | PSH]);
}

/// Cuts a plain frame after `change`, which must be refused, and counted under `name`.
#[track_caller]
fn refuse(name: &str, change: impl FnOnce(&mut Vec<u8>, &mut Option<PartialChecksum>, &mut u16)) {
    let mut built = SuperSegment::plain(9000, 1400).build();
    let mut partial = built.frame(&[]).partial_checksum;
    let mut segment_bytes = 1400;
    change(&mut built.bytes, &mut partial, &mut segment_bytes);
    let mut frame = Frame::contiguous(&built.bytes);
    frame.partial_checksum = partial;
    frame.segment_bytes = segment_bytes;
    let mut inner = Recorder::default();
    let tally = std::sync::Arc::default();
    let report = Segmenter::new(std::sync::Arc::clone(&tally)).transmit(
        &TxBurst {
            frames: &[frame],
            prefixes: &PrefixArena::default(),
            plans: &[TxPlan::whole(0, &frame)],
        },
        &mut inner,
    );
    let too_big = TxReport {
        too_big: 1,
        ..TxReport::default()
    };
    assert_eq!((report, inner.calls), (too_big, 0));
    assert_eq!(count(&tally, name), 1);
    let all: u64 = tally.counts().iter().map(|(_, count)| count).sum();
    assert_eq!(all, 1, "nothing else is counted");
}

#[test]
fn what_is_not_whole_tcp_is_refused() {
    const NAME: &str = "tso_refused_not_tcp";
    refuse(NAME, |bytes, _, _| bytes[23] = 17);
    refuse(NAME, |bytes, _, _| bytes[23] = 47);
    refuse(NAME, |bytes, _, _| {
        bytes[12..14].copy_from_slice(&[0x08, 0x06]);
    });
    // More fragments; and a fragment offset.
    refuse(NAME, |bytes, _, _| bytes[20] = 0x20);
    refuse(NAME, |bytes, _, _| bytes[21] = 1);
}

#[test]
fn lengths_that_contradict_the_frame_are_refused() {
    const NAME: &str = "tso_refused_lengths";
    refuse(NAME, |bytes, _, _| bytes[14] = 0x44);
    refuse(NAME, |bytes, _, _| bytes[14] = 0x65);
    refuse(NAME, |bytes, _, _| bytes[46] = 0x40);
    refuse(NAME, |bytes, _, _| bytes.truncate(9000));
    refuse(NAME, |bytes, _, _| {
        bytes[16..18].copy_from_slice(&[0xff, 0xff]);
    });
    // An IP packet that ends within the TCP header, and one that ends behind it.
    refuse(NAME, |bytes, _, _| bytes[16..18].copy_from_slice(&[0, 39]));
    refuse(NAME, |bytes, _, _| bytes[16..18].copy_from_slice(&[0, 40]));
}

#[test]
fn flags_that_cannot_be_repeated_are_refused() {
    for flag in [SYN, RST, URG] {
        refuse("tso_refused_flags", |bytes, _, _| bytes[47] |= flag);
    }
}

#[test]
fn a_checksum_that_is_not_tcps_is_refused() {
    const NAME: &str = "tso_refused_checksum";
    let partial = |start, offset| Some(PartialChecksum { start, offset });
    refuse(NAME, |_, place, _| *place = None);
    for (start, offset) in [
        (34, 6),
        (34, 900),
        (14, 16),
        (35, 16),
        (0, 50),
        (u16::MAX, 16),
    ] {
        refuse(NAME, |_, place, _| *place = partial(start, offset));
    }
}

#[test]
fn tiny_segments_are_refused() {
    for tiny in [1, 2, MIN_SEGMENT_BYTES - 1] {
        refuse("tso_refused_segment_bytes", |_, _, bytes| *bytes = tiny);
    }
}

#[test]
fn headers_longer_than_a_prefix_are_refused() {
    let mut segment = SuperSegment::plain(9000, 1400);
    segment.is_ipv6 = true;
    for (extension_bytes, sent) in [(112, 1), (120, 0)] {
        // Ethernet, IPv6 and TCP take 74 bytes.
        segment.extensions = vec![(60, extension_bytes / 8 - 1)];
        let (taken, report) = cut_leaving(&segment);
        assert_eq!((report.sent, report.too_big), (sent, 1 - sent));
        assert_eq!(taken.is_empty(), sent == 0);
    }
}

#[test]
fn a_prefix_that_reaches_into_the_payload_is_refused() {
    let built = SuperSegment::plain(9000, 1400).build();
    let frame = built.frame(&[]);
    for (reach, sent) in [(0, 1), (1, 0)] {
        let prefix_bytes = built.headers_bytes + reach;
        let mut prefixes = PrefixArena::default();
        let (prefix, slot) = prefixes.allocate().expect("room");
        slot[..prefix_bytes].copy_from_slice(&built.bytes[..prefix_bytes]);
        let plan = TxPlan {
            prefix,
            prefix_len_bytes: prefix_bytes as u8,
            skip_bytes: prefix_bytes as u16,
            len_bytes: (built.bytes.len() - prefix_bytes) as u32,
            ..TxPlan::default()
        };
        let burst = TxBurst {
            frames: &[frame],
            prefixes: &prefixes,
            plans: &[plan],
        };
        let report = Segmenter::default().transmit(&burst, &mut Recorder::default());
        assert_eq!((report.sent, report.too_big), (sent, 1 - sent));
    }
}

#[test]
fn a_route_that_goes_on_is_refused() {
    let mut segment = SuperSegment::plain(9000, 1400);
    segment.is_ipv6 = true;
    segment.extensions = vec![(43, 0)];
    for (segments_left, sent) in [(0, 1), (1, 0)] {
        let mut built = segment.build();
        built.bytes[57] = segments_left;
        let (_, report) = cut(built.frame(&[]));
        assert_eq!((report.sent, report.too_big), (sent, 1 - sent));
    }
}

#[test]
fn a_third_tag_is_refused() {
    let mut segment = SuperSegment::plain(9000, 1400);
    for sent in [1, 1, 0] {
        segment.tags.push((0x8100, 5));
        let (_, report) = cut_leaving(&segment);
        assert_eq!((report.sent, report.too_big), (sent, 1 - sent));
    }
}

#[test]
fn a_segment_that_begins_where_no_plan_can_skip_to_is_refused() {
    // The last segment begins at byte 54 + 2 * 32,742.
    let (taken, report) = cut_leaving(&SuperSegment::plain(65_490, 32_742));
    assert_eq!((taken.len(), report.too_big), (0, 1));
    let (taken, report) = cut_leaving(&SuperSegment::plain(65_490, 32_740));
    assert_eq!((taken.len(), report.sent), (3, 1));
}

#[test]
fn an_encapsulated_super_segment_is_refused() {
    let mut segment = SuperSegment::plain(9000, 1400);
    // Outer Ethernet, IPv4, UDP and VXLAN before the whole frame.
    segment.leaving = Leaving::Behind(SuperSegment::vxlan_headers(9054));
    let (taken, report) = cut_leaving(&segment);
    assert_eq!((taken.len(), report.too_big), (0, 1));
}

#[test]
fn a_wrapped_port_takes_super_segments_and_counts_them() {
    let (near, far) = memory::pair(memory::Config::default()).expect("pair");
    let segment = SuperSegment::plain(20_000, 1448);
    let built = segment.build();
    let mut near = wrap(near);
    let frame = built.frame(&[]);
    let report = near.tx[0].transmit(&TxBurst {
        frames: &[frame],
        prefixes: &PrefixArena::default(),
        plans: &[TxPlan::whole(0, &frame)],
    });
    assert_eq!(report.sent, 1);
    check(&segment, &Endpoint::new(far).drain()).expect("valid packets");
    let counts = near.monitor.counts();
    assert!(counts.contains(&("tso_cut", 1)), "{counts:?}");
    assert!(counts.contains(&("tso_segments", 14)), "{counts:?}");
}
