//! Limits, the log and the counts of rules, and connections by command, on a running switch.

use std::time::Instant;

use vswitch::api::types;

use super::{
    frames::{arp_reply, collect, drain, ethernet, numbered_udp, udp_number_of},
    lab::{Lab, Link, NETWORK, mac, mac_text, ok, port},
    netns::{PacketSocket, eventually},
};

const RULES: &str = r#"
[[address_set]]
name = "neighbours"
addresses = ["10.0.0.1", "10.0.0.3"]

[[port_set]]
name = "asked"
ports = [3000]

[[acl]]
name = "in"
rules = [
  "allow in udp from @neighbours to any port 1000 log limit 1/s burst 20",
  "allow in udp to any port @asked stateful log limit 1/s burst 5",
  "reject in udp to any port 4000 limit 1/s burst 3",
]
"#;

fn vnics() -> String {
    let vnic = |name: &str, number: u8, more: &str| {
        format!(
            "[[vnic]]\nname = \"{name}\"\nvm = \"vm-{name}\"\nport = \"{name}\"\nmac = \"{}\"\n\
             ipv4 = [\"10.0.0.{number}\"]\n{more}\n",
            mac_text(number)
        )
    };
    vnic("a", 1, "inbound = { default = \"allow\" }")
        + &vnic(
            "b",
            2,
            "inbound = { acl = \"in\" }\noutbound = { default = \"deny\" }",
        )
}

fn config() -> String {
    // What each frame meets is its rule: none is dropped for coming with many others.
    let ports = ["a", "b"].map(|name| port(name, "network = \"lan\"\nmisses_per_turn = 10000"));
    NETWORK.to_owned() + &ports.concat() + &vnics() + RULES
}

/// A lab whose members know each other, so that nothing is flooded.
fn lab() -> Option<(Lab, PacketSocket, PacketSocket)> {
    let mut lab = Lab::new()?;
    for name in ["a", "b"] {
        lab.member(name, Link::default());
    }
    lab.start(&config());
    let [a, b] = ["a", "b"].map(|name| lab.socket(name));
    // An address that claims its own is learned: ARP passes.
    let claim = |number: u8| {
        let ip = [10, 0, 0, number];
        let packet = arp_reply(mac(number), ip, [0xff; 6], ip);
        ethernet([0xff; 6], mac(number), [8, 6], &packet)
    };
    a.send(&claim(1));
    b.send(&claim(2));
    eventually("both are known, and each has the other's claim", || {
        let macs: Vec<types::Mac> = lab.get("/v1/macs");
        let told = ["a", "b"].map(|name| lab.port(name).counts.tx_frames);
        (macs.len() == 2 && told == [1, 1]).then_some(())
    });
    Some((lab, a, b))
}

/// Sends datagrams to a port of member b, from source ports that begin at `from`, and waits until
/// all are accounted for.
fn pass(lab: &Lab, a: &PacketSocket, to: u16, from: u16, count: u16) {
    let fates = || {
        let port = lab.port("b").counts;
        port.tx_frames + port.drops.values().sum::<u64>()
    };
    let before = fates();
    for number in 0..count {
        a.send(&numbered_udp(1, 2, (from + number, to), u32::from(number)));
    }
    eventually("every frame has its fate", || {
        (fates() == before + u64::from(count)).then_some(())
    });
}

fn rule(lab: &Lab, position: u32) -> types::RuleHits {
    let rules: Vec<types::RuleHits> = lab.get("/v1/rules");
    let found = rules.into_iter().find(|row| row.rule.position == position);
    found.expect("the rule")
}

#[test]
fn a_limit_of_frames_holds_across_an_apply_and_is_counted_and_logged() {
    let Some((lab, a, b)) = lab() else { return };
    let start = Instant::now();
    let to_b = |frame: &[u8]| udp_number_of(frame).filter(|(port, _)| *port == 1000);
    // What came back meanwhile may pass too.
    let back = || start.elapsed().as_secs() + 1;
    pass(&lab, &a, 1000, 7, 60);
    let hits = rule(&lab, 1);
    assert_eq!(hits.passed + hits.dropped, 60, "{hits:?}");
    assert!((20..=20 + back()).contains(&hits.passed), "{hits:?}");
    assert_eq!(lab.dropped("b", "limit_in"), hits.dropped);
    assert_eq!(
        collect(&b, hits.passed as usize, to_b).len() as u64,
        hits.passed
    );
    let shown = lab.cli("show drops");
    assert!(
        shown.contains("limit_in") && shown.contains("burst 20"),
        "{shown}"
    );

    // Something else changes; the bucket is no fuller for it.
    let epoch = lab.apply(&(config() + "[[network]]\nname = \"other\"\ntenant = \"lab\"\n"));
    assert!(epoch > 1);
    pass(&lab, &a, 1000, 7, 60);
    let hits = rule(&lab, 1);
    assert_eq!(hits.passed + hits.dropped, 120, "{hits:?}");
    assert!(hits.passed <= 20 + back(), "{hits:?}");

    let sets: Vec<types::Set> = lab.get("/v1/sets");
    let neighbours = sets
        .iter()
        .find(|set| set.name == "neighbours")
        .expect("the set");
    assert_eq!(
        (neighbours.passed, neighbours.dropped),
        (hits.passed, hits.dropped)
    );
    assert!(
        neighbours.last_hit_s_ago.is_some_and(|s| s < 60),
        "{neighbours:?}"
    );
    assert!(lab.cli("show sets").contains("PASSED"));

    let line = eventually("a line in the log", || {
        let log = lab.log();
        let mut lines = log.lines().filter(|line| line.contains("rule decided"));
        lines.next().map(ToOwned::to_owned)
    });
    for part in [
        "verdict=\"passed\"",
        "direction=in",
        "vm=vm-b",
        "vnic=b",
        "port=b",
        "network=lan",
        "> 10.0.0.2:1000: UDP",
        "log limit 1/s burst 20",
        "vswitch.toml:",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let text = lab.cli("explain --port a --udp 10.0.0.1:7,10.0.0.2:1000");
    assert!(
        text.contains("limit 1/s burst 20: ") && text.contains("; logged)"),
        "{text}"
    );
    lab.check_conservation();
}

#[test]
fn a_limit_of_connections_spares_those_that_are_open() {
    let Some((lab, a, _b)) = lab() else { return };
    let start = Instant::now();
    pass(&lab, &a, 3000, 100, 50);
    let opened = lab.get::<types::Stats>("/v1/stats").connections.live;
    let back = start.elapsed().as_secs() + 1;
    assert!((5..=5 + back).contains(&u64::from(opened)), "{opened}");
    assert_eq!(lab.dropped("b", "limit_in"), 50 - u64::from(opened));
    // The first five have theirs: every frame of it passes.
    let before = lab.port("b").counts.tx_frames;
    for number in 0..50 {
        a.send(&numbered_udp(
            1,
            2,
            (100 + number % 5, 3000),
            u32::from(number),
        ));
    }
    eventually("all pass", || {
        (lab.port("b").counts.tx_frames == before + 50).then_some(())
    });
    lab.check_conservation();
}

#[test]
fn a_limit_of_answers_leaves_the_rest_without() {
    let Some((lab, a, b)) = lab() else { return };
    let start = Instant::now();
    for number in 0..50 {
        a.send(&numbered_udp(1, 2, (100 + number, 4000), 0));
    }
    eventually("all are rejected", || {
        (lab.dropped("b", "reject_in") == 50).then_some(())
    });
    let unreachable = |frame: &[u8]| (frame.get(12..14)? == [8, 0] && frame[23] == 1).then_some(());
    let told = lab.port("a").counts.originated;
    let back = start.elapsed().as_secs() + 1;
    assert!((3..=3 + back).contains(&told), "{told}");
    assert_eq!(collect(&a, told as usize, unreachable).len() as u64, told);
    assert_eq!(
        drain(&b)
            .iter()
            .filter_map(|frame| udp_number_of(frame))
            .count(),
        0
    );
    lab.check_conservation();
}

#[test]
fn connections_are_shown_forgotten_and_carried_by_command() {
    let Some((lab, a, b)) = lab() else { return };
    pass(&lab, &a, 3000, 100, 3);
    let answer = |number: u16| numbered_udp(2, 1, (3000, 100 + number), 9);
    let shown = lab.cli("show connections --vm vm-b");
    for part in ["10.0.0.1", "10.0.0.2", "3000", "unreplied"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let count = || lab.get::<Vec<types::Connection>>("/v1/connections").len();
    assert_eq!(count(), 3);
    let exported = lab.cli("connections export vm-b");
    let file = lab.path("connections.json");
    std::fs::write(&file, &exported).expect("written");

    let flushed = lab.cli("connections flush --vm vm-b");
    assert!(flushed.contains("3 connections forgotten"), "{flushed}");
    assert_eq!(count(), 0);
    // Nobody asked any more, and b may send nothing unasked.
    b.send(&answer(0));
    eventually("the answer is dropped", || {
        (lab.dropped("b", "acl_out") == 1).then_some(())
    });

    let mut import = lab.client("connections import vm-b");
    let said = ok(import.arg(&file)).stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(
        said.contains("3 connections imported, 0 were there already, 0 refused"),
        "{said}"
    );
    assert_eq!(count(), 3);
    b.send(&answer(1));
    let ports = collect(&a, 1, |frame| udp_number_of(frame).map(|(port, _)| port));
    assert_eq!(ports, [101]);
    lab.check_conservation();
}
