//! Who gets what, when sniffers, sessions and tenants come, go and stand still.

use std::{
    fmt::Write,
    sync::atomic::{AtomicBool, Ordering},
};

use mirror::wire::{Addresses, Carrier, Identity, SessionId, Template, Tunnel, TunnelKind};

use crate::{
    bed::{Bed, TUNNEL, session, sniffer, wait_for},
    mirrored::{encode, tunnel, udp_frame},
};

/// A sender's session, as it stands on the wire.
pub(crate) struct Mirror {
    template: Template,
    sequence: u32,
}

impl Mirror {
    /// Session `id` of the sender 192.0.2.N.
    pub(crate) fn new(sender: u8, id: u16) -> Self {
        let addresses = Addresses::V4 {
            source: [192, 0, 2, sender].into(),
            destination: [192, 0, 2, 99].into(),
        };
        let carrier = Carrier::ErspanII {
            session: SessionId::new(id).expect("10 bits"),
            index: 0,
        };
        let tunnel: Tunnel = tunnel(addresses, carrier);
        Self {
            template: Template::new(&tunnel).expect("valid"),
            sequence: 0,
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        self.template.identity()
    }

    /// A mirrored frame, carried.
    pub(crate) fn carry(&mut self, inner: &[u8]) -> Vec<u8> {
        let fields = mirror::wire::Fields {
            inner_len: inner.len() as u32,
            sequence: self.sequence,
            ip_id: self.sequence,
            ..mirror::wire::Fields::default()
        };
        self.sequence = self.sequence.wrapping_add(1);
        encode(&self.template, &fields, inner)
    }
}

/// A frame of one flow, or with `back` of its answers.
fn flow(number: u16, back: bool) -> Vec<u8> {
    let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    if back {
        udp_frame(b, a, (80, number), 40)
    } else {
        udp_frame(a, b, (number, 80), 40)
    }
}

#[test]
fn equal_numbers_and_equal_addresses_of_two_tenants_stay_apart() {
    // The same session number, the same frames: only the senders differ.
    let (mut blue, mut red) = (Mirror::new(1, 7), Mirror::new(2, 7));
    let text = TUNNEL.to_owned()
        + &session("a", "blue", &blue.identity(), &["blue"])
        + &session("b", "red", &red.identity(), &["red"])
        + &sniffer("blue", "blue", 1, "")
        + &sniffer("red", "red", 2, "");
    let mut bed = Bed::new(&text);
    for number in 0..500 {
        bed.send(&blue.carry(&flow(number, false)));
        if number % 2 == 0 {
            bed.send(&red.carry(&flow(number, false)));
        }
    }
    let all = bed.settle();
    for (name, number, count) in [("blue", 1, 500), ("red", 2, 250)] {
        let got = bed.got(name);
        assert_eq!(got.len(), count, "{name}");
        assert!(
            got.iter()
                .all(|frame| frame[..6] == [2, 0xff, 0, 0, 0, number])
        );
    }
    for session in &all.sessions {
        assert_eq!(session.sequence.in_order, session.received);
    }
}

#[test]
fn after_the_acknowledgement_no_frame_goes_to_a_former_owner() {
    let mut mirror = Mirror::new(1, 7);
    let identity = mirror.identity();
    let of = |tenant: &str| {
        TUNNEL.to_owned()
            + &session("moving", tenant, &identity, &[tenant])
            + &sniffer("blue", "blue", 1, "")
            + &sniffer("red", "red", 2, "")
    };
    let mut bed = Bed::new(&of("blue"));
    // Taken before, so that the load has the rest of the bed for itself.
    let mut load = std::mem::replace(&mut bed.tunnel, {
        let unused = pmd::memory::pair(pmd::memory::Config::default()).expect("a pair");
        pmd::memory::Endpoint::new(unused.0)
    });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (stop, mirror) = (&stop, &mut mirror);
        scope.spawn(move || {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                // A frame that finds no room is one that was never sent.
                load.send(&mirror.carry(&flow(number, false)));
                number = number.wrapping_add(1);
            }
        });
        let mut owner = "blue";
        for _ in 0..50 {
            let before = bed.sniffer(owner).drain().len();
            wait_for("the owner gets frames", || {
                before + bed.sniffer(owner).drain().len() > 0
            });
            let former = owner;
            owner = if owner == "blue" { "red" } else { "blue" };
            bed.apply(&of(owner)).expect("applied");
            // What came before the acknowledgement.
            bed.got(former);
            let mut later = 0;
            wait_for("the new owner gets frames", || {
                later += bed.sniffer(owner).drain().len();
                later > 1000
            });
            assert_eq!(bed.got(former).len(), 0, "{former} got frames of {owner}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    wait_for("nothing moves", || {
        bed.got("blue");
        bed.got("red");
        let sniffers = bed.runtime.sniffers();
        let offered: u64 = sniffers.iter().map(|sniffer| sniffer.offered).sum();
        sniffers.iter().all(|sniffer| sniffer.waiting == 0)
            && offered == bed.runtime.totals().copies
    });
    crate::laws::check(&bed.runtime.everything()).expect("the laws");
}

#[test]
fn a_sniffer_that_goes_gets_nothing_more_and_its_frames_are_accounted_for() {
    let mut mirror = Mirror::new(1, 7);
    let identity = mirror.identity();
    let both = TUNNEL.to_owned()
        + &session("s", "blue", &identity, &["one", "two"])
        + &sniffer("one", "blue", 1, "")
        + &sniffer("two", "blue", 2, "");
    let alone = TUNNEL.to_owned()
        + &session("s", "blue", &identity, &["two"])
        + &sniffer("two", "blue", 2, "");
    let mut bed = Bed::new(&both);
    for number in 0..100 {
        bed.send(&mirror.carry(&flow(number, false)));
    }
    bed.settle();
    assert_eq!((bed.got("one").len(), bed.got("two").len()), (100, 100));
    bed.apply(&alone).expect("applied");
    for number in 0..100 {
        bed.send(&mirror.carry(&flow(number, false)));
    }
    let all = bed.settle();
    assert_eq!((bed.got("one").len(), bed.got("two").len()), (0, 100));
    assert_eq!(
        (all.totals.retired_offered, all.totals.retired_sent),
        (100, 100)
    );
    // The session is the same one as before.
    assert_eq!(all.sessions[0].received, 200);
}

#[test]
fn a_sniffer_that_stops_reading_slows_no_other() {
    let mut mirror = Mirror::new(1, 7);
    let stuck = "[[sniffer]]\nname = \"stuck\"\ntenant = \"blue\"\nmac = \"02:ff:00:00:00:02\"\n\
        port = { driver = \"memory\", slots = 64 }\n";
    let text = TUNNEL.to_owned()
        + &session("s", "blue", &mirror.identity(), &["stuck", "reads"])
        + &sniffer("reads", "blue", 1, "")
        + stuck;
    let mut bed = Bed::new(&text);
    let mut got = 0;
    for number in 0..3000 {
        bed.send(&mirror.carry(&flow(number, false)));
        got += bed.got("reads").len();
    }
    let all = bed.settle();
    got += bed.got("reads").len();
    assert_eq!(got, 3000);
    let row = |name: &str| all.sniffers.iter().find(|s| s.name == name).expect("a row");
    assert_eq!((row("reads").sent, row("stuck").sent), (3000, 64));
    let lost = &row("stuck").lost;
    assert_eq!(lost.values().sum::<u64>(), 3000 - 64, "{lost:?}");
    assert!(row("reads").lost.is_empty());
}

#[test]
fn what_a_sniffer_sends_is_counted_and_goes_nowhere() {
    let mut mirror = Mirror::new(1, 7);
    let text = TUNNEL.to_owned()
        + &session("s", "blue", &mirror.identity(), &["one", "two"])
        + &sniffer("one", "blue", 1, "")
        + &sniffer("two", "blue", 2, "");
    let mut bed = Bed::new(&text);
    // A frame that would be mirrored to both if anybody took it.
    let forged = mirror.carry(&flow(1, false));
    for _ in 0..100 {
        assert!(bed.sniffer("one").send(&forged));
    }
    wait_for("it is counted", || bed.runtime.sniffers()[0].refused == 100);
    let all = bed.settle();
    assert_eq!(all.totals.received, 0);
    assert_eq!((bed.got("one").len(), bed.got("two").len()), (0, 0));
}

#[test]
fn both_directions_of_a_flow_go_to_one_sniffer() {
    let mut mirror = Mirror::new(1, 7);
    let text = TUNNEL.to_owned()
        + &session("s", "blue", &mirror.identity(), &["one", "two", "three"])
        + "fan_out = \"spread\"\n"
        + &sniffer("one", "blue", 1, "")
        + &sniffer("two", "blue", 2, "")
        + &sniffer("three", "blue", 3, "");
    let mut bed = Bed::new(&text);
    for number in 0..300 {
        bed.send(&mirror.carry(&flow(number, false)));
        bed.send(&mirror.carry(&flow(number, true)));
    }
    bed.settle();
    let mut total = 0;
    for name in ["one", "two", "three"] {
        let got = bed.got(name);
        let without_mac = |frame: &Vec<u8>| frame[6..].to_vec();
        let got: Vec<Vec<u8>> = got.iter().map(without_mac).collect();
        assert!(got.len() > 100, "{name} got {}", got.len());
        for number in 0..300 {
            let there = got.contains(&without_mac(&flow(number, false)));
            assert_eq!(there, got.contains(&without_mac(&flow(number, true))));
        }
        total += got.len();
    }
    assert_eq!(total, 600);
}

#[test]
fn sixty_four_sniffers_and_ten_thousand_sessions_are_held() {
    const SNIFFERS: u16 = 64;
    const SESSIONS: u32 = 10_000;
    let mut text = TUNNEL.to_owned();
    let mirror = |number: u32| {
        let addresses = Addresses::V4 {
            source: (0x0a01_0000 + number).into(),
            destination: [192, 0, 2, 99].into(),
        };
        let session = SessionId::new((number % 1024) as u16).expect("10 bits");
        let carrier = Carrier::ErspanII { session, index: 0 };
        Mirror {
            template: Template::new(&tunnel(addresses, carrier)).expect("valid"),
            sequence: 0,
        }
    };
    let name = |number: u32| format!("n{}", number % u32::from(SNIFFERS));
    let tenant = |number: u32| format!("t{}", number % u32::from(SNIFFERS));
    let mut mirrors: Vec<Mirror> = (0..SESSIONS).map(mirror).collect();
    for (number, mirror) in mirrors.iter().enumerate() {
        let (number, sniffer) = (number as u32, name(number as u32));
        let label = format!("s{number}");
        text += &session(&label, &tenant(number), &mirror.identity(), &[&sniffer]);
    }
    for number in 0..u32::from(SNIFFERS) {
        let _ = write!(
            text,
            "[[sniffer]]\nname = \"{}\"\ntenant = \"{}\"\nmac = \"02:ff:00:00:00:{number:02x}\"\n\
             queue_frames = 256\nport = {{ driver = \"memory\", slots = 256 }}\n",
            name(number),
            tenant(number)
        );
    }
    let mut bed = Bed::new(&text);
    // In order of no cache's liking.
    let order = (0..SESSIONS).map(|at| (at * 7919) % SESSIONS);
    let inner = udp_frame([10, 0, 0, 1], [10, 0, 0, 2], (1, 2), 40);
    for (sent, number) in order.enumerate() {
        bed.send(&mirrors[number as usize].carry(&inner));
        if sent % 1000 == 999 {
            bed.settle();
            for number in 0..u32::from(SNIFFERS) {
                for frame in bed.got(&name(number)) {
                    assert_eq!(frame[..6], [2, 0xff, 0, 0, 0, number as u8]);
                }
            }
        }
    }
    let all = bed.settle();
    assert_eq!(all.sessions.len(), SESSIONS as usize);
    assert!(all.sessions.iter().all(|session| session.delivered == 1));
    assert_eq!(all.totals.copies, u64::from(SESSIONS));
    assert!(all.sniffers.iter().all(|sniffer| sniffer.lost.is_empty()));
}

#[test]
fn a_table_that_cannot_be_is_refused_and_nothing_changes() {
    let mut mirror = Mirror::new(1, 7);
    let text = TUNNEL.to_owned()
        + &session("s", "blue", &mirror.identity(), &["one"])
        + &sniffer("one", "blue", 1, "");
    let mut bed = Bed::new(&text);
    let other = text.replace("slots = 256", "slots = 512");
    let error = bed.apply(&other).expect_err("refused").to_string();
    assert!(error.contains("restart"), "{error}");
    bed.send(&mirror.carry(&flow(1, false)));
    bed.settle();
    assert_eq!(bed.got("one").len(), 1);
    assert_eq!(mirror.identity().kind(), TunnelKind::ErspanII);
}
