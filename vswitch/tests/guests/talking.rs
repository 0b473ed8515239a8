//! Guests talk to each other and to namespaces: by small frames, long ones, and TCP.

use super::{
    lab::{Lab, Link, access_port},
    vm::{Guest, Plan, Role, Site, config, lab, transfer},
};
use vswitch::api::types;

/// Frames and bytes received at a port.
fn received(lab: &Lab, port: &str) -> (u64, u64) {
    let counts = lab.port(port).counts;
    (counts.rx_frames, counts.rx_bytes)
}

/// The mean length of what a port received since `before`, in bytes.
fn mean_bytes(lab: &Lab, port: &str, before: (u64, u64)) -> u64 {
    let now = received(lab, port);
    (now.1 - before.1) / (now.0 - before.0).max(1)
}

fn detail<'p>(port: &'p types::Port, name: &str) -> &'p str {
    let found = port
        .details
        .iter()
        .find(|detail| detail.name.contains(name));
    &found
        .unwrap_or_else(|| panic!("no {name}: {:?}", port.details))
        .text
}

#[test]
fn two_guests_talk_whichever_end_of_the_socket_they_are() {
    let Some((mut lab, _turn)) = lab() else {
        return;
    };
    let plans = [
        Plan::new("a", 1, Role::Client),
        Plan {
            queues: 2,
            ..Plan::new("b", 2, Role::Server)
        },
    ];
    lab.start(&config(&lab, &plans, ""));
    let away = lab.port("a");
    assert_eq!(away.state, "down", "{away:?}");
    assert!(away.reason.contains("guest"), "{away:?}");
    let guests = Guest::start_all(&lab, &plans);
    let [a, b] = &guests[..] else { panic!("two") };
    a.ping("10.0.0.2", 56, 5);
    b.ping("fd00::1", 56, 5);
    a.ping("10.0.0.2", 1472, 5);

    // A segment passes whole from guest to guest.
    for (from, to, port, address) in [(a, b, "a", "10.0.0.2"), (b, a, "b", "fd00::1")] {
        let before = received(&lab, port);
        transfer(&Site::Guest(from), &Site::Guest(to), address, 8 << 10);
        let mean = mean_bytes(&lab, port, before);
        // Frames of the MTU have at most 1,514 bytes. How much longer segments become is up to the
        // guest's TCP.
        assert!(
            mean > 2000,
            "super-segments leave {port}: {mean} bytes a frame"
        );
    }
    lab.check_conservation();

    // What a person is told.
    let port = lab.port("b");
    assert!(detail(&port, "features").contains("GUEST_TSO4"), "{port:?}");
    let shown = lab.cli("show port b");
    for told in ["features", "MRG_RXBUF", "b.sock", "worker 0"] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    // A guest that is slow to take its frames has its ring full, which is no fault of the switch.
    for reason in ["too_big", "malformed"] {
        assert_eq!(
            lab.dropped("a", reason) + lab.dropped("b", reason),
            0,
            "{reason}"
        );
    }
}

#[test]
fn frames_of_9000_bytes_pass_in_one_piece() {
    const PINGS: u32 = 20;
    let Some((mut lab, _turn)) = lab() else {
        return;
    };
    let long = |name, number, role| Plan {
        mtu: 9000,
        ..Plan::new(name, number, role)
    };
    // One with buffers that merge, one with buffers that do not.
    let mut plans = [long("a", 1, Role::Client), long("b", 2, Role::Server)];
    plans[1].more = &["--device", "mrg_rxbuf=off"];
    lab.start(&config(&lab, &plans, ""));
    let guests = Guest::start_all(&lab, &plans);
    guests[0].ping("10.0.0.2", 8972, 1);
    let before = received(&lab, "b");
    guests[0].ping("10.0.0.2", 8972, PINGS);
    let now = received(&lab, "b");
    let (frames, bytes) = (now.0 - before.0, now.1 - before.1);
    assert!(bytes >= u64::from(PINGS) * 9014, "{bytes}");
    // A first ping, and neighbours that ask for each other now and then.
    assert!(frames <= u64::from(PINGS) + 10, "{frames} frames");
    lab.check_conservation();
}

#[test]
fn a_guest_and_a_namespace_exchange_files() {
    let Some((mut lab, _turn)) = lab() else {
        return;
    };
    let plans = [Plan::new("a", 2, Role::Client)];
    lab.member("m", Link::default());
    lab.address("m");
    lab.start(&config(&lab, &plans, &access_port("m")));
    let guests = Guest::start_all(&lab, &plans);
    let (guest, member) = (Site::Guest(&guests[0]), Site::Member(&lab, "m"));
    guests[0].ping("10.0.0.1", 1472, 5);
    lab.ping("m", "fd00::2", 5);

    // The switch cuts the guest's segments, and sums what either stack left to others.
    transfer(&guest, &member, "10.0.0.1", 8 << 10);
    transfer(&guest, &member, "fd00::1", 1 << 10);
    let cut = lab.port("m").driver_counts["tso_cut"];
    assert!(cut > 100, "{cut}");
    transfer(&member, &guest, "10.0.0.2", 8 << 10);
    transfer(&member, &guest, "fd00::2", 1 << 10);
    lab.check_conservation();
}
