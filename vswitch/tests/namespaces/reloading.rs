//! The desired state changes under traffic.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use rustix::process::Signal;

use super::{
    frames::{BROADCAST, collect, numbered, numbered_udp, udp_number_of},
    lab::{Lab, Link, NETWORK, SetAtEnd, access_port, mac},
    netns::{PacketSocket, eventually},
};
use vswitch::api::types;

/// The receiver's UDP port that both policies allow, and the one that both deny.
const ALLOWED: u16 = 9000;
const DENIED: u16 = 9001;
/// Flows of each sender to each port.
const FLOWS: u16 = 64;

/// Members `a`, `b` (senders) and `c` (receiver) with a policy of 1,000 rules on `c`, another for
/// each `variant`: the rules that matter stand elsewhere, and the others read other fields.
fn config(cores: &str, variant: usize) -> String {
    let mut config = format!("[workers]\ncores = {cores}\n{NETWORK}");
    for name in ["a", "b", "c"] {
        config += &access_port(name);
    }
    config += "[[vnic]]\nname = \"c\"\nvm = \"c\"\nport = \"c\"\nipv4 = [\"10.0.0.3\"]\n";
    config += "mac = \"02:00:00:00:00:03\"\ninbound = { acl = \"in\" }\n";
    config += "[[acl]]\nname = \"in\"\nrules = [\n";
    let udp_to = |action, port| rule(action, "protocol = \"udp\", dst_ports", &[port]);
    for number in 0..998_u16 {
        if usize::from(number) == 100 * (variant % 9) {
            config += &udp_to("allow", ALLOWED);
        }
        if usize::from(number) == 900 - 100 * (variant % 9) {
            config += &udp_to("deny", DENIED);
        }
        config += &match variant % 3 {
            0 => rule("deny", "protocol = \"sctp\", dst_ports", &[number + 1]),
            1 => rule("allow", "protocol = \"tcp\", src_ports", &[number + 1]),
            _ => rule("deny", "protocol = \"udp\", src_ports", &[number + 1]),
        };
    }
    config + "]\n"
}

/// One rule that compares `field`.
fn rule(action: &str, field: &str, ports: &[u16]) -> String {
    let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
    format!("{{ action = \"{action}\", {field} = {ports:?} }},\n")
}

/// Sends one frame a flow from `a` and `b` to `c`, interleaved, so that both wait at once; then
/// waits until all that is allowed has arrived. Nothing else may.
fn round(sockets: [&PacketSocket; 3], number: u32) {
    let [a, b, c] = sockets;
    for flow in 0..FLOWS {
        for (socket, from) in [(a, 1), (b, 2)] {
            for port in [DENIED, ALLOWED] {
                socket.send(&numbered_udp(from, 3, (20_000 + flow, port), number));
            }
        }
    }
    collect(c, 2 * usize::from(FLOWS), |frame| {
        let (port, arrived) = udp_number_of(frame)?;
        assert_eq!(port, ALLOWED, "a denied frame passed");
        assert_eq!(arrived, number, "a frame of another round");
        Some(())
    });
}

/// Runs `change` while `a` and `b` send to `c`; all that is allowed must arrive, and nothing else.
fn under_traffic(lab: &Lab, change: impl FnOnce()) {
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.socket(name));
    let stop = AtomicBool::new(false);
    let rounds = AtomicU32::new(0);
    thread::scope(|scope| {
        let stopping = SetAtEnd(&stop);
        let traffic = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                round([&a, &b, &c], rounds.fetch_add(1, Ordering::Relaxed));
            }
        });
        eventually("traffic flows", || {
            (rounds.load(Ordering::Relaxed) > 1).then_some(())
        });
        change();
        drop(stopping);
        traffic.join().expect("the traffic");
    });
    // What was denied has had its chance to pass when the next round has arrived.
    round([&a, &b, &c], u32::MAX);
    lab.check_conservation();
}

fn lab(cores: &str) -> Option<Lab> {
    let mut lab = Lab::new()?;
    for name in ["a", "b", "c"] {
        lab.member(name, Link::default());
    }
    lab.start(&config(cores, 0));
    Some(lab)
}

fn reload(cores: &str) {
    let Some(lab) = lab(cores) else { return };
    under_traffic(&lab, || {
        for variant in 1..12 {
            let before = lab.get::<types::Stats>("/v1/stats").epoch;
            assert!(lab.apply(&config(cores, variant)) > before);
        }
    });
}

#[test]
fn a_reload_loses_nothing_allowed_and_passes_nothing_denied() {
    reload("[0]");
}

#[test]
fn nor_does_it_with_two_workers() {
    reload("[0, 1]");
}

#[test]
fn a_refused_configuration_changes_nothing() {
    let Some(lab) = lab("[0]") else { return };
    let running: types::Config = lab.get("/v1/config");
    let refused = [
        config("[0]", 1).replace("[[vnic]]", "[[vnick]]"),
        config("[0]", 1).replace("acl = \"in\"", "acl = \"inn\""),
        config("[0]", 1) + &access_port("a"),
        config("[0]", 1).replace("[\"9000\"]", "[\"9000-8000\"]"),
        config("[0]", 1) + "]",
    ];
    under_traffic(&lab, || {
        for text in &refused {
            let (status, body) = lab.request("POST", "/v1/apply?file=new.toml", &lab.whole(text));
            assert_eq!(status, 422, "{body}");
            let problem = &body["details"][0];
            assert_eq!(problem["file"], "new.toml", "{body}");
            assert!(problem["line"].as_u64() > Some(0), "{body}");
        }
        fs::write(lab.path("vswitch.toml"), lab.whole(&refused[1])).expect("write");
        lab.signal(Signal::HUP);
        eventually("the refusal is logged", || {
            lab.log().contains("reload refused").then_some(())
        });
    });
    assert_eq!(lab.get::<types::Config>("/v1/config"), running);
}

#[test]
fn a_hangup_applies_the_file_again() {
    let Some(lab) = lab("[0]") else { return };
    let before = lab.get::<types::Config>("/v1/config");
    let more = "[[network]]\nname = \"second\"\ntenant = \"lab\"\n";
    lab.write_config(&(config("[0]", 0) + more));
    lab.signal(Signal::HUP);
    eventually("the file is in force", || {
        let now = lab.get::<types::Config>("/v1/config");
        (now.epoch > before.epoch && now.text.contains("second")).then_some(())
    });
}

#[test]
fn ports_come_and_go_and_cost_the_others_nothing() {
    let Some(mut lab) = lab("[0]") else { return };
    lab.member("d", Link::default());
    let d = lab.socket("d");
    under_traffic(&lab, || {
        for round in 1..=4 {
            lab.cli("port add name=d driver=af_xdp interface=d network=lan");
            assert_eq!(lab.await_state("d", "up").networks, ["lan"]);
            d.send(&numbered(BROADCAST, mac(4), round));
            eventually("d is heard", || {
                (lab.port("d").counts.forwarded == 3).then_some(())
            });
            lab.cli("port remove d");
            assert!(!lab.has_xdp("d"));
            assert_eq!(lab.request("GET", "/v1/ports/d", "").0, 404);
        }
    });
}
