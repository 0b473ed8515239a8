//! The switch goes and comes, and so do guests; the others stay as they are.

use std::sync::MutexGuard;

use rustix::process::Signal;

use super::{
    lab::Lab,
    vm::{Guest, Plan, Role, Site, config, lab, transfer},
};

/// A switch, and two guests that are up.
fn two_guests() -> Option<(Lab, MutexGuard<'static, ()>, Vec<Guest>)> {
    let (mut lab, turn) = lab()?;
    let plans = [
        Plan::new("a", 1, Role::Client),
        Plan::new("b", 2, Role::Server),
    ];
    lab.start(&config(&lab, &plans, ""));
    let guests = Guest::start_all(&lab, &plans);
    Some((lab, turn, guests))
}

#[test]
fn guests_outlive_the_switch() {
    let Some((mut lab, _turn, guests)) = two_guests() else {
        return;
    };
    let [a, b] = &guests[..] else { panic!("two") };
    a.ping("10.0.0.2", 56, 3);
    let features = |lab: &Lab| {
        let details = lab.port("a").details.into_iter();
        details
            .filter(|detail| detail.name.contains("features"))
            .collect::<Vec<_>>()
    };
    let negotiated = features(&lab);
    assert!(!negotiated.is_empty());
    for signal in [Signal::TERM, Signal::KILL] {
        let uptime = a.uptime();
        // Something is under way all the time.
        b.run("ping -i 0.1 10.0.0.1 >/tmp/pings 2>&1 & echo $! >/tmp/pid");
        lab.end(signal);
        lab.start_again();
        for guest in ["a", "b"] {
            lab.await_state(guest, "up");
        }
        a.ping("10.0.0.2", 56, 5);
        b.ping("fd00::1", 56, 5);
        b.run("kill $(cat /tmp/pid)");
        transfer(&Site::Guest(a), &Site::Guest(b), "10.0.0.2", 2 << 10);
        assert!(a.uptime() > uptime, "the guest was not touched");
        assert_eq!(features(&lab), negotiated, "the same is offered");
        lab.check_conservation();
    }
}

#[test]
fn a_guest_that_dies_is_missed_and_taken_back() {
    let Some((lab, _turn, guests)) = two_guests() else {
        return;
    };
    guests[0].ping("10.0.0.2", 56, 3);
    for guest in &guests {
        let other = if std::ptr::eq(guest, &raw const guests[0]) {
            &guests[1]
        } else {
            &guests[0]
        };
        let (name, address) = if std::ptr::eq(guest, &raw const guests[0]) {
            ("a", "10.0.0.1")
        } else {
            ("b", "10.0.0.2")
        };
        guest.kill();
        let port = lab.await_state(name, "down");
        assert!(port.reason.contains("guest"), "{port:?}");
        assert!(!other.reaches(address));
        guest.down();
        let started = guest.up(&lab, &[]).output().expect("scripts/vm");
        assert!(
            started.status.success(),
            "{}",
            super::vm::text(&started.stderr)
        );
        lab.await_state(name, "up");
        other.ping(address, 1472, 5);
        lab.check_conservation();
    }
}

#[test]
fn a_guest_may_reset_its_card_again_and_again() {
    let Some((lab, _turn, guests)) = two_guests() else {
        return;
    };
    let [a, b] = &guests[..] else { panic!("two") };
    b.ping("10.0.0.1", 56, 3);
    let uptime = a.uptime();
    for _ in 0..3 {
        a.run(
            "cd /sys/bus/virtio/drivers/virtio_net; card=$(ls -d virtio*); \
             echo $card >unbind && echo $card >bind",
        );
        // The card is a new one to the guest, and has no address yet.
        assert!(!b.reaches("10.0.0.1"));
        a.run("ip link set eth0 up; ip addr add 10.0.0.1/24 dev eth0");
        lab.await_state("a", "up");
        b.ping("10.0.0.1", 56, 5);
        transfer(&Site::Guest(b), &Site::Guest(a), "10.0.0.1", 512);
        lab.check_conservation();
    }
    assert!(a.uptime() > uptime, "it was not booted again");
}
