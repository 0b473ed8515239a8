//! Who gets which mirrored frame, and what is counted of the rest.

mod common;

use std::{collections::HashMap, path::Path, sync::Arc};

use common::{
    CAPTURES,
    bed::{Bed, Got, reception, sniffer},
    captures, captures_exist, carriers, encode, frames, tunnel, udp_frame, v4, v6,
};
use mirror::{
    decap::{FanOut, Options, ReassemblyLimits, Reception, Sniffer, SnifferId, Table, TableError},
    wire::{
        Addresses, Carrier, Fields, Identity, MAX_PREFIX_BYTES, Oversize, Refusal, Template,
        Tunnel, TunnelKind, decode,
    },
};
use policy::Mac;
use proptest::prelude::*;

fn template(addresses: Addresses, carrier: Carrier) -> Template {
    Template::new(&tunnel(addresses, carrier)).expect("valid")
}

fn from(last: u8) -> Addresses {
    Addresses::V4 {
        source: [192, 0, 2, last].into(),
        destination: [192, 0, 2, 99].into(),
    }
}

fn copy(template: &Template, sequence: u32, inner: &[u8]) -> Vec<u8> {
    let fields = Fields {
        inner_len: inner.len() as u32,
        sequence,
        ip_id: sequence,
        ..Fields::default()
    };
    encode(template, &fields, inner)
}

fn inner(number: u16) -> Vec<u8> {
    udp_frame([10, 0, 0, 1], [10, 0, 0, 2], (number, 53), 40)
}

/// What the fragments of a copy are, for an MTU of 576 or 1280 bytes.
fn in_fragments(addresses: Addresses, carrier: Carrier, id: u32, inner: &[u8]) -> Vec<Vec<u8>> {
    let tunnel = Tunnel {
        oversize: Oversize::Fragment,
        mtu_bytes: if matches!(addresses, Addresses::V4 { .. }) {
            576
        } else {
            1280
        },
        ..tunnel(addresses, carrier)
    };
    let template = Template::new(&tunnel).expect("valid");
    let fields = Fields {
        inner_len: inner.len() as u32,
        ip_id: id,
        ..Fields::default()
    };
    let mut prefix = [0; MAX_PREFIX_BYTES];
    let pieces = (0..).map_while(|number| {
        let piece = template.piece(&fields, number, &mut prefix)?;
        let rest = &inner[piece.skip as usize..(piece.skip + piece.len) as usize];
        Some([&prefix[..piece.prefix_len], rest].concat())
    });
    pieces.collect()
}

#[test]
fn every_capture_is_accounted_for_and_reaches_its_owner_alone() {
    if !captures_exist() {
        return;
    }
    let mut files = Vec::new();
    captures(Path::new(CAPTURES), &mut files);
    let (mut all, mut delivered) = (0, 0);
    for file in &files {
        let frames = frames(file);
        // Each session that is in it belongs to another tenant; every third is not known.
        let mut sessions: Vec<Reception> = Vec::new();
        for (_, frame) in &frames {
            let identity = match decode(frame) {
                Ok(decoded) => Some(decoded.identity),
                Err(refused) => refused.session.map(|(identity, _)| identity),
            };
            let number = sessions.len() as u16;
            let known = |identity| sessions.iter().any(|s| s.identity == identity);
            if let Some(identity) = identity.filter(|identity| !known(*identity)) {
                let tenant = format!("tenant {number}");
                sessions.push(reception(&tenant, &tenant, identity, &[number]));
            }
        }
        let sniffers: Vec<Sniffer> = (0..sessions.len())
            .map(|number| sniffer(number as u16, &format!("tenant {number}")))
            .collect();
        let mut bed = Bed::with(&sessions, &sniffers);
        for (place, frame) in &frames {
            for cut in [frame.len(), frame.len() * 2 / 3, frame.len().min(60)] {
                all += 1;
                for got in bed.receive(&frame[..cut]).unwrap_or_default() {
                    let owner = &sessions[usize::from(got.sniffer.0)];
                    let slot = bed.decap.table().find(&owner.identity);
                    assert_eq!(slot, Some(got.session), "{} {place}", file.display());
                    delivered += 1;
                }
            }
        }
    }
    println!(
        "{all} frames of {} captures, {delivered} delivered",
        files.len()
    );
    assert!(all > 10_000 && delivered > 500, "{all} {delivered}");
}

#[test]
fn the_fragments_of_a_real_sender_are_put_together() {
    if !captures_exist() {
        return;
    }
    let frames = frames(&Path::new(CAPTURES).join("zeek/erspan.pcap"));
    let mut sessions: Vec<Reception> = Vec::new();
    for (_, frame) in &frames {
        if let Ok(decoded) = decode(frame)
            && !sessions.iter().any(|s| s.identity == decoded.identity)
        {
            let name = sessions.len().to_string();
            sessions.push(reception(&name, "blue", decoded.identity, &[1]));
        }
    }
    let mut bed = Bed::with(&sessions, &[sniffer(1, "blue")]);
    let mut long = 0;
    for (_, frame) in &frames {
        for got in bed.receive(frame).unwrap_or_default() {
            let ip_len = usize::from(u16::from_be_bytes([got.bytes[16], got.bytes[17]]));
            if got.bytes.len() > 1480 {
                assert_eq!(ip_len + 14, got.bytes.len());
                long += 1;
            }
        }
    }
    let totals = &bed.decap.counters().totals;
    assert_eq!(totals.fragments.get(), totals.joined.get());
    assert_eq!((totals.reassembled.get(), long), (16, 16));
    assert_eq!(totals.delivered.get(), 232 + 16);
}

#[test]
fn session_1_of_two_senders_is_two_sessions() {
    if !captures_exist() {
        return;
    }
    let file = Path::new(CAPTURES).join("tcpdump/tests/erspan-type-ii-2.pcap");
    let mut senders: HashMap<_, usize> = HashMap::new();
    for (_, frame) in frames(&file) {
        let identity = decode(&frame).expect("type II").identity;
        assert_eq!(identity.id(), Some(1));
        *senders.entry(identity).or_default() += 1;
    }
    assert_eq!(senders.len(), 2);
}

#[test]
fn nothing_but_the_destination_is_changed() {
    for addresses in [v4(), v6()] {
        for carrier in carriers(5) {
            let template = template(addresses, carrier);
            let session = reception("s", "blue", template.identity(), &[1, 2]);
            let mut bed = Bed::with(&[session], &[sniffer(1, "blue"), sniffer(2, "blue")]);
            let frame = inner(7);
            let got = bed.receive(&copy(&template, 1, &frame)).expect("delivered");
            let sniffers: Vec<SnifferId> = got.iter().map(|got| got.sniffer).collect();
            assert_eq!(sniffers, [SnifferId(1), SnifferId(2)]);
            for got in got {
                assert_eq!(got.bytes[..6], sniffer(got.sniffer.0, "blue").mac.0);
                assert_eq!(got.bytes[6..], frame[6..]);
            }
        }
    }
}

#[test]
fn tenants_with_the_same_addresses_and_numbers_stay_apart() {
    for carrier in carriers(5) {
        let [blue, red] = [1, 2].map(|last| template(from(last), carrier));
        let sessions = [
            reception("s", "blue", blue.identity(), &[1]),
            reception("s", "red", red.identity(), &[2]),
        ];
        let mut bed = Bed::with(&sessions, &[sniffer(1, "blue"), sniffer(2, "red")]);
        for number in 0..100 {
            for (template, owner) in [(&blue, 1), (&red, 2)] {
                let got = bed.receive(&copy(template, number.into(), &inner(number)));
                let got = got.expect("delivered");
                assert_eq!(got.len(), 1);
                assert_eq!(got[0].sniffer, SnifferId(owner), "{carrier:?}");
            }
        }
        // Sequences are counted apart too.
        for session in &bed.decap.counters().sessions[..2] {
            assert_eq!(
                session.sequence.gaps.get() + session.sequence.duplicates.get(),
                0
            );
        }
    }
}

#[test]
fn the_same_number_in_another_format_is_another_session() {
    let identities: Vec<Identity> = carriers(5)
        .into_iter()
        .map(|carrier| template(v4(), carrier).identity())
        .collect();
    let mut kinds: Vec<String> = identities.iter().map(ToString::to_string).collect();
    kinds.sort_unstable();
    kinds.dedup();
    // I, II, III, keyed and unkeyed Ethernet, VXLAN.
    assert_eq!(kinds.len(), 6, "{kinds:?}");
}

#[test]
fn after_an_update_nothing_goes_to_a_former_owner() {
    let template = template(v4(), carriers(5)[1]);
    let sniffers = [sniffer(1, "blue"), sniffer(2, "red"), sniffer(3, "blue")];
    let other = self::template(from(7), carriers(5)[1]);
    let kept = reception("kept", "blue", other.identity(), &[3]);
    let of = |tenant, number| {
        [
            reception("s", tenant, template.identity(), &[number]),
            kept.clone(),
        ]
    };
    let mut bed = Bed::with(&of("blue", 1), &sniffers);
    for turn in 0..20u32 {
        let (tenant, number, former) = if turn % 2 == 0 {
            ("red", 2, 1)
        } else {
            ("blue", 1, 2)
        };
        let before = bed.decap.table().version();
        let table = bed.adopt(&of(tenant, number), &sniffers);
        // What still waits in the former owner's queue is not for it any more.
        assert!(!table.admits(SnifferId(former), before));
        assert!(
            table.admits(SnifferId(3), before),
            "nothing was taken from it"
        );
        for sequence in 0..10 {
            let got = bed.receive(&copy(&template, sequence, &inner(1)));
            let got: Vec<SnifferId> = got.expect("delivered").iter().map(|g| g.sniffer).collect();
            assert_eq!(got, [SnifferId(number)]);
        }
        // Another tenant's session begins with other counts.
        let slot = table.find(&template.identity()).expect("the session");
        let counts = &bed.decap.counters().sessions[slot.index()];
        assert_eq!(counts.received.get(), 10);
        assert_eq!(counts.sequence.in_order.get(), 10);
    }
    let gone = bed.adopt(std::slice::from_ref(&kept), &sniffers[2..]);
    assert!(!gone.admits(SnifferId(1), gone.version()));
    let refused = bed.receive(&copy(&template, 0, &inner(1)));
    assert_eq!(refused, Err(Refusal::UnknownSession));
}

#[test]
fn a_session_that_stays_keeps_its_counts() {
    let templates: Vec<Template> = (1..=4)
        .map(|last| template(from(last), carriers(5)[1]))
        .collect();
    let session = |index: usize| {
        reception(
            &index.to_string(),
            "blue",
            templates[index].identity(),
            &[1],
        )
    };
    let sniffers = [sniffer(1, "blue")];
    let mut bed = Bed::with(&[session(0), session(1)], &sniffers);
    let slot = bed.decap.table().find(&templates[1].identity());
    bed.receive(&copy(&templates[1], 4, &inner(1)))
        .expect("delivered");
    for others in [[2, 1], [3, 1], [1, 0]] {
        let table = bed.adopt(&others.map(session), &sniffers);
        assert_eq!(table.find(&templates[1].identity()), slot);
    }
    bed.receive(&copy(&templates[1], 5, &inner(1)))
        .expect("delivered");
    let counts = &bed.decap.counters().sessions[slot.expect("a slot").index()];
    assert_eq!(counts.sequence.in_order.get(), 2);
}

#[test]
fn a_table_that_would_mix_tenants_is_refused() {
    let identity = template(v4(), carriers(5)[1]).identity();
    let sniffers = [sniffer(1, "blue"), sniffer(2, "red")];
    let table = Table::empty(2);
    let refused = |sessions: &[Reception], sniffers: &[Sniffer]| {
        let error = table.next(sessions, sniffers).expect_err("refused");
        assert!(!error.to_string().is_empty());
        error
    };
    let foreign = refused(&[reception("s", "blue", identity, &[1, 2])], &sniffers);
    assert!(
        matches!(foreign, TableError::ForeignSniffer { .. }),
        "{foreign}"
    );
    let twice = [
        reception("s", "blue", identity, &[1]),
        reception("t", "red", identity, &[2]),
    ];
    let twice = refused(&twice, &sniffers);
    assert!(matches!(twice, TableError::SameIdentity { .. }), "{twice}");
    let nobody = refused(&[reception("s", "blue", identity, &[9])], &sniffers);
    assert!(
        matches!(nobody, TableError::UnknownSniffer { .. }),
        "{nobody}"
    );
    let same = refused(&[], &[sniffer(1, "blue"), sniffer(1, "red")]);
    assert_eq!(same, TableError::SameSniffer(SnifferId(1)));
    let group = Sniffer {
        mac: Mac::BROADCAST,
        ..sniffer(1, "blue")
    };
    assert!(matches!(
        refused(&[], &[group]),
        TableError::SnifferMac { .. }
    ));
    let many = (0..3).map(|n| {
        let source = [10, 0, 0, n].into();
        let identity = Identity::new(source, source, TunnelKind::Vxlan, Some(1));
        reception(&n.to_string(), "blue", identity, &[1])
    });
    let many = refused(&many.collect::<Vec<_>>(), &sniffers);
    assert_eq!(many, TableError::TooManySessions { count: 3, most: 2 });
}

#[test]
fn a_spread_session_keeps_both_directions_together_and_uses_every_sniffer() {
    let template = template(v4(), carriers(5)[1]);
    let numbers: Vec<u16> = (1..=4).collect();
    let session = Reception {
        fan_out: FanOut::Spread,
        ..reception("s", "blue", template.identity(), &numbers)
    };
    let sniffers: Vec<Sniffer> = numbers.iter().map(|n| sniffer(*n, "blue")).collect();
    let mut bed = Bed::with(&[session], &sniffers);
    let mut used: HashMap<SnifferId, u32> = HashMap::new();
    for port in 0..1000 {
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let there = udp_frame(a, b, (1024 + port, 53), 40);
        let back = udp_frame(b, a, (53, 1024 + port), 90);
        let mut got = [there, back].map(|frame| {
            let got = bed.receive(&copy(&template, 0, &frame)).expect("delivered");
            assert_eq!(got.len(), 1);
            got[0].sniffer
        });
        assert_eq!(got[0], got[1]);
        *used.entry(std::mem::take(&mut got[0])).or_default() += 1;
    }
    assert_eq!(used.len(), 4);
    assert!(
        used.values().all(|flows| (150..350).contains(flows)),
        "{used:?}"
    );
}

#[test]
fn what_both_ends_mirror_is_delivered_once() {
    let [a, b, c] = [1, 2, 3].map(|last| template(from(last), carriers(5)[1]));
    let once = |name, tenant, template: &Template, sniffer| Reception {
        once: true,
        ..reception(name, tenant, template.identity(), &[sniffer])
    };
    let sessions = [
        once("a", "blue", &a, 1),
        once("b", "blue", &b, 1),
        once("c", "red", &c, 2),
    ];
    let mut bed = Bed::with(&sessions, &[sniffer(1, "blue"), sniffer(2, "red")]);
    for number in 0..100 {
        let frame = inner(number);
        let first = bed.receive(&copy(&a, number.into(), &frame));
        assert_eq!(first.map(|got| got.len()), Ok(1));
        let second = bed.receive(&copy(&b, number.into(), &frame));
        assert_eq!(second, Err(Refusal::Duplicate));
        // Another tenant's frame is another frame, however equal.
        let other = bed.receive(&copy(&c, number.into(), &frame));
        assert_eq!(other.map(|got| got.len()), Ok(1));
    }
    // What is sent twice at one end is two frames.
    for sequence in 100..102 {
        let got = bed.receive(&copy(&a, sequence, &inner(7777)));
        assert_eq!(got.map(|got| got.len()), Ok(1));
    }
}

#[test]
fn what_was_mirrored_before_is_refused_and_a_tenants_own_tunnel_is_not() {
    for carrier in [carriers(5)[6], carriers(5)[9]] {
        let [known, tenants, outer] = [(1, carrier), (2, carrier), (3, carriers(9)[1])]
            .map(|(last, carrier)| template(from(last), carrier));
        let sessions = [
            reception("inside", "blue", known.identity(), &[1]),
            reception("outside", "blue", outer.identity(), &[1]),
        ];
        let mut bed = Bed::with(&sessions, &[sniffer(1, "blue")]);
        let again = copy(&outer, 1, &copy(&known, 1, &inner(1)));
        assert_eq!(bed.receive(&again), Err(Refusal::Nested));
        let own = copy(&outer, 2, &copy(&tenants, 1, &inner(1)));
        assert_eq!(bed.receive(&own).map(|got| got.len()), Ok(1), "{carrier:?}");
    }
}

#[test]
fn a_fragment_of_what_was_mirrored_before_is_refused_and_a_tenants_own_is_not() {
    let carrier = carriers(5)[9];
    let outer = template(from(3), carriers(9)[1]);
    let sessions = [
        reception("inside", "blue", template(v4(), carrier).identity(), &[1]),
        reception("outside", "blue", outer.identity(), &[1]),
    ];
    let mut bed = Bed::with(&sessions, &[sniffer(1, "blue")]);
    for (sequence, fragment) in (0..).zip(in_fragments(v4(), carrier, 1, &inner(1).repeat(40))) {
        let again = copy(&outer, sequence, &fragment);
        assert_eq!(bed.receive(&again), Err(Refusal::Nested));
    }
    for (sequence, fragment) in (9..).zip(in_fragments(from(4), carrier, 1, &inner(1).repeat(40))) {
        let own = copy(&outer, sequence, &fragment);
        assert_eq!(bed.receive(&own).map(|got| got.len()), Ok(1));
    }
}

#[test]
fn a_session_without_sniffers_delivers_to_nobody() {
    let template = template(v4(), carriers(5)[1]);
    let mut bed = Bed::with(&[reception("s", "blue", template.identity(), &[])], &[]);
    assert_eq!(
        bed.receive(&copy(&template, 1, &inner(1))),
        Err(Refusal::NoSniffer)
    );
}

#[test]
fn invented_sessions_take_no_memory_and_hide_no_real_one() {
    let template = template(v4(), carriers(5)[6]);
    let mut bed = Bed::with(&[], &[]);
    let mut state = 7u32;
    for _ in 0..20_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let key = Some(state);
        let noise = self::template(
            v4(),
            Carrier::Ethernet {
                key,
                sequence: false,
            },
        );
        assert_eq!(
            bed.receive(&copy(&noise, 0, &inner(1))),
            Err(Refusal::UnknownSession)
        );
        // A third of all frames come of one.
        if state.is_multiple_of(2) {
            assert_eq!(
                bed.receive(&copy(&template, 0, &inner(1))),
                Err(Refusal::UnknownSession)
            );
        }
    }
    let listed: Vec<_> = bed.decap.unknown().iter().collect();
    assert!(listed.len() <= 64, "{}", listed.len());
    let most = listed.iter().max_by_key(|session| session.frames);
    assert_eq!(most.expect("one").identity, template.identity());
}

#[test]
fn fragments_of_strangers_are_not_held() {
    let mut bed = Bed::with(&[], &[]);
    for fragment in in_fragments(v4(), carriers(5)[1], 1, &[0; 2000]) {
        assert_eq!(bed.receive(&fragment), Err(Refusal::UnknownSender));
    }
}

fn small() -> Options {
    Options {
        sessions: 4,
        reassembly: ReassemblyLimits {
            datagrams: 4,
            datagrams_of_sender: 3,
            datagram_bytes: 4096,
            timeout_ns: 1_000_000,
        },
        ..Options::default()
    }
}

fn small_bed() -> Bed {
    let mut bed = Bed::new(&small());
    let carrier = carriers(5)[1];
    let sessions = [1, 2].map(|last| {
        let identity = template(from(last), carrier).identity();
        reception(&last.to_string(), "blue", identity, &[1])
    });
    bed.adopt(&sessions, &[sniffer(1, "blue")]);
    bed
}

#[test]
fn reassembly_is_bounded_and_says_so() {
    let carrier = carriers(5)[1];
    let long = udp_frame([10, 0, 0, 1], [10, 0, 0, 2], (1, 2), 1500);
    let first = |last, id| in_fragments(from(last), carrier, id, &long).swap_remove(0);

    let mut bed = small_bed();
    for id in 0..3 {
        assert_eq!(bed.receive(&first(1, id)), Ok(Vec::new()));
    }
    // The sender has its share; another still finds room, until there is none.
    assert_eq!(bed.receive(&first(1, 9)), Err(Refusal::FragmentsFull));
    assert_eq!(bed.receive(&first(2, 9)), Ok(Vec::new()));
    assert_eq!(bed.receive(&first(2, 10)), Err(Refusal::FragmentsFull));
    assert_eq!(bed.decap.counters().totals.held.get(), 4);
    bed.now_ns += 2_000_000;
    bed.decap.expire(bed.now_ns);
    assert_eq!(bed.refused(Refusal::FragmentTimeout), 4);
    assert_eq!(bed.decap.counters().totals.held.get(), 0);
    bed.check_laws();

    let too_long = udp_frame([10, 0, 0, 1], [10, 0, 0, 2], (1, 2), 6000);
    let mut refusals = Vec::new();
    for fragment in in_fragments(from(1), carrier, 1, &too_long) {
        refusals.extend(bed.receive(&fragment).err());
    }
    assert!(refusals.contains(&Refusal::FragmentTooBig), "{refusals:?}");
}

#[test]
fn overlapping_fragments_give_the_datagram_up() {
    let carrier = carriers(5)[1];
    let long = udp_frame([10, 0, 0, 1], [10, 0, 0, 2], (1, 2), 1500);
    let fragments = in_fragments(from(1), carrier, 1, &long);
    let mut bed = small_bed();
    assert_eq!(bed.receive(&fragments[0]), Ok(Vec::new()));
    assert_eq!(bed.receive(&fragments[0]), Err(Refusal::FragmentOverlap));
    assert_eq!(bed.refused(Refusal::FragmentOverlap), 2);
    // What comes of it later is waited with in vain.
    for fragment in &fragments[1..] {
        assert_eq!(bed.receive(fragment), Ok(Vec::new()));
    }
}

proptest! {
    #[test]
    fn fragments_in_any_order_are_the_datagram(
        which in 0..carriers(0).len(), ipv6: bool, len in 1500usize..4000, order: Vec<u16>,
        lost in proptest::option::of(any::<u16>()),
    ) {
        let (addresses, carrier) = (if ipv6 { v6() } else { v4() }, carriers(5)[which]);
        let identity = template(addresses, carrier).identity();
        let long = udp_frame([10, 0, 0, 1], [10, 0, 0, 2], (1, 2), len);
        let mut fragments = in_fragments(addresses, carrier, 77, &long);
        for (at, other) in order.iter().enumerate() {
            let (at, other) = (at % fragments.len(), usize::from(*other) % fragments.len());
            fragments.swap(at, other);
        }
        let lost = lost.map(|lost| usize::from(lost) % fragments.len());
        let mut bed = Bed::with(&[reception("s", "blue", identity, &[1])], &[sniffer(1, "blue")]);
        let mut got: Vec<Got> = Vec::new();
        for (at, fragment) in fragments.iter().enumerate() {
            if Some(at) != lost {
                got.extend(bed.receive(fragment).expect("held or delivered"));
            }
        }
        prop_assert_eq!(got.len(), usize::from(lost.is_none()));
        if let Some(got) = got.first() {
            prop_assert_eq!(&got.bytes[6..], &long[6..]);
        }
    }

    #[test]
    fn whatever_comes_is_counted(
        frames in proptest::collection::vec(
            (0..carriers(0).len(), 1u8..4, 0u16..4, any::<u32>(), 0usize..3000, any::<bool>(),
             proptest::collection::vec((0usize..120, any::<u8>()), 0..3)),
            0..60,
        ),
    ) {
        let mut bed = Bed::new(&small());
        let sessions: Vec<Reception> = [0, 1, 5].into_iter().map(|which| {
            let identity = template(from(1), carriers(2)[which]).identity();
            reception(&which.to_string(), "blue", identity, &[1])
        }).take(2).collect();
        bed.adopt(&sessions, &[sniffer(1, "blue")]);
        for (which, last, number, sequence, len, fragment, noise) in frames {
            let inner = udp_frame([10, 0, 0, 1], [10, 0, 0, 2], (1, 2), len);
            let carrier = carriers(number)[which];
            let mut all = if fragment {
                in_fragments(from(last), carrier, sequence % 4, &inner)
            } else {
                vec![copy(&template(from(last), carrier), sequence, &inner)]
            };
            for frame in &mut all {
                for (at, byte) in &noise {
                    let at = at % frame.len();
                    frame[at] = *byte;
                }
                let _ = bed.receive(frame);
            }
        }
        bed.now_ns += 10_000_000_000;
        bed.decap.expire(bed.now_ns);
        bed.check_laws();
        prop_assert_eq!(bed.decap.counters().totals.held.get(), 0);
    }
}

#[test]
fn a_table_for_more_sessions_than_there_are_counters_is_not_taken() {
    let mut bed = small_bed();
    let large = Arc::new(Table::empty(5));
    assert!(bed.decap.adopt(large).is_err());
    assert_eq!(bed.decap.table().room(), 4);
}
