//! A guest moves live from one port to another while others talk to it.

use super::{
    netns::eventually,
    vm::{Guest, Plan, Role, Site, config, lab, transfer},
};

#[test]
fn a_guest_moves_to_another_port_and_goes_on() {
    let Some((mut lab, _turn)) = lab() else {
        return;
    };
    let [a, b, c] = [
        Plan::new("a", 1, Role::Client),
        Plan::new("b", 2, Role::Client),
        Plan::new("c", 1, Role::Server),
    ];
    lab.start(&config(&lab, &[a.clone(), b.clone(), c], ""));
    let guests = Guest::start_all(&lab, &[a, b]);
    let [mover, witness] = &guests[..] else {
        panic!("two")
    };
    mover.ping("10.0.0.2", 56, 3);
    let arrived = mover.twin("c", Role::Server);
    let prepared = arrived
        .up(&lab, &["--incoming"])
        .output()
        .expect("scripts/vm");
    assert!(
        prepared.status.success(),
        "{}",
        super::vm::text(&prepared.stderr)
    );

    mover.run("echo mine >/tmp/mark");
    let uptime = mover.uptime();
    witness.run("ping -i 0.1 10.0.0.1 >/tmp/pings 2>&1 & echo $! >/tmp/pid");
    let answered = || -> u32 {
        let said = witness.run("grep -c 'bytes from' /tmp/pings || true");
        said.trim().parse().expect("a count")
    };
    mover.migrate(&arrived);
    mover.down();
    lab.await_state("c", "up");
    lab.await_state("a", "down");
    assert_eq!(arrived.run("cat /tmp/mark").trim(), "mine");
    assert!(arrived.uptime() >= uptime, "it did not boot anew");
    witness.ping("10.0.0.1", 56, 10);
    // What pinged all along has answers again.
    let before = answered();
    eventually("the pings go on", || (answered() > before).then_some(()));
    witness.run("kill $(cat /tmp/pid)");
    transfer(
        &Site::Guest(&arrived),
        &Site::Guest(witness),
        "10.0.0.2",
        2 << 10,
    );
    lab.check_conservation();
}
