//! Where a packet went: `explain`, `drops` and dry runs against traffic, on a running switch.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use vswitch::api::types::{
    Compared, DropLine, DropSample, Explanation, Flow, FlowLimit, Mac, Stats,
};
use vswitch::drop_watch::MOST_WATCHES;

use super::{
    frames::{collect, ethernet, numbered_udp, udp_number_of},
    lab::{Lab, SetAtEnd, mac, mac_text},
    netns::eventually,
};

const ACLS: &str = r#"
[[acl]]
name = "in"
rules = [
    { action = "allow", protocol = "udp", dst_ports = ["1000-1999"] },
    { action = "deny", protocol = "udp", dst_ports = ["2000"] },
]
"#;

fn vnic(name: &str, number: u8, more: &str) -> String {
    format!(
        "[[vnic]]\nname = \"{name}\"\nvm = \"vm-{name}\"\nport = \"{name}\"\nmac = \"{}\"\n\
         ipv4 = [\"10.0.0.{number}\"]\n{more}\n",
        mac_text(number)
    )
}

fn config() -> String {
    vnic("a", 1, "") + &vnic("b", 2, "inbound = { acl = \"in\" }") + ACLS
}

fn lab() -> Option<Lab> {
    Lab::quiet(&["a", "b"], &config())
}

fn explained(lab: &Lab, words: &str) -> Explanation {
    let json = lab.cli(&format!("--json explain --port a {words}"));
    serde_json::from_str(&json).expect("the documented shape")
}

/// What forwarding leaves behind: of each port received, sent and dropped frames, then addresses
/// and flows.
type Traces = (Vec<[u64; 3]>, Vec<Mac>, Vec<Flow>);

fn traces(lab: &Lab) -> Traces {
    let stats: Stats = lab.get("/v1/stats");
    let counts = stats.ports.iter().map(|port| {
        let drops = port.counts.drops.values().sum();
        [port.counts.rx_frames, port.counts.tx_frames, drops]
    });
    let mut macs: Vec<Mac> = lab.get("/v1/macs");
    for mac in &mut macs {
        mac.age_s = None;
    }
    (counts.collect(), macs, lab.get("/v1/flows"))
}

#[test]
fn a_flow_is_explained_without_a_frame() {
    let Some(lab) = lab() else { return };
    let before = traces(&lab);
    let row = explained(&lab, "--udp 10.0.0.1:9,10.0.0.2:2000");
    let stages: Vec<_> = row.stages.iter().map(|stage| &*stage.stage).collect();
    assert_eq!(
        stages,
        [
            "parse",
            "admission",
            "sender checks",
            "outbound rules",
            "bridge",
            "inbound rules"
        ]
    );
    let last = row.stages.last().expect("a stage");
    let rule = last.rule.as_ref().expect("a rule");
    assert_eq!((&*rule.acl, rule.position), ("in", 2));
    assert!(rule.place.contains("vswitch.toml:"), "{rule:?}");
    assert_eq!(last.looked_at.expect("a lookup").rules, 2);
    assert_eq!(row.destinations[0].reason.as_deref(), Some("acl_in"));
    assert!(
        row.mask.iter().any(|field| field == "l4_dst"),
        "{:?}",
        row.mask
    );
    assert!(!row.cache[0].hit);
    let text = lab.cli("explain --port a --udp 10.0.0.1:9,10.0.0.2:2000");
    for part in [
        "inbound rules",
        "acl_in",
        "in #2: ",
        "vswitch.toml:",
        "slow path decides",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let passes = explained(&lab, "--udp 10.0.0.1:9,10.0.0.2:1000");
    assert_eq!(passes.verdict, "to b");
    let spoofed = explained(&lab, "--udp 10.0.0.7:9,10.0.0.2:1000");
    assert_eq!(spoofed.reason.as_deref(), Some("spoofed_ipv4"));
    assert!(spoofed.advice.is_some_and(|advice| advice.contains("ipv4")));
    assert_eq!(traces(&lab), before, "explaining changed something");

    // What was explained is what happens, and then the cache has it.
    let [a, b] = ["a", "b"].map(|name| lab.socket(name));
    for (number, port) in (0..).zip([2000, 1000]) {
        a.send(&numbered_udp(1, 2, (9, port), number));
    }
    assert_eq!(collect(&b, 1, udp_number_of), [(1000, 1)]);
    lab.check_conservation();
    assert_eq!(lab.dropped("b", "acl_in"), 1);
    let row = explained(&lab, "--udp 10.0.0.1:9,10.0.0.2:2000");
    assert!(row.cache[0].hit, "{:?}", row.cache);
}

#[test]
fn frames_of_a_capture_are_explained_one_by_one() {
    let Some(lab) = lab() else { return };
    let path = lab.path("frames.pcap");
    let mut writer = pmd::pcap::Writer::create(&path).expect("create a capture");
    let frames = [2000, 1000].map(|port| numbered_udp(1, 2, (9, port), 0));
    for frame in &frames {
        writer.write(0, frame.len() as u32, frame).expect("write");
    }
    writer.flush().expect("write");
    let text = lab.cli(&format!("explain --port a --pcap {}", path.display()));
    assert!(
        text.contains("frame 1: ") && text.contains("frame 2: "),
        "{text}"
    );
    assert!(text.contains("b: dropped: acl_in"), "{text}");
    assert!(text.contains("b: leaves untagged"), "{text}");
    // The same frame by its bytes.
    let hex = vswitch::decode::hex(&frames[0]);
    let row = explained(&lab, &format!("--frame {hex}"));
    assert_eq!(row.destinations[0].reason.as_deref(), Some("acl_in"));
}

/// `vswitch drops`, running.
struct Watcher {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Watcher {
    /// Starts it, and waits until it watches.
    fn start(lab: &Lab, words: &str) -> Self {
        let mut command = lab.client(&format!("--json drops --follow {words}"));
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start");
        let out = child.stdout.take().expect("piped");
        let mut watcher = Self {
            child,
            lines: BufReader::new(out).lines(),
        };
        // The first line comes at once.
        assert_eq!(watcher.line().expect("a line"), DropLine::default());
        watcher
    }

    /// The next line; `None` when there is none any more.
    fn line(&mut self) -> Option<DropLine> {
        let line = self.lines.next()?.expect("text");
        Some(serde_json::from_str(&line).expect("the documented shape"))
    }

    fn sample(&mut self) -> DropSample {
        loop {
            let line = self.line().expect("it goes on");
            assert_eq!(line.skipped, 0);
            if let Some(sample) = line.sample {
                return sample;
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn dropped_frames_are_shown_with_the_rule_that_dropped_them() {
    let Some(lab) = lab() else { return };
    let a = lab.socket("a");
    let mut watcher = Watcher::start(&lab, "--count 2");
    let mut of_a = Watcher::start(&lab, "--port a --reason spoofed_mac");
    let denied = numbered_udp(1, 2, (9, 2000), 5);
    let spoofed = ethernet(mac(2), mac(7), [0x88, 0xb5], &[0x5a; 46]);
    a.send(&denied);
    a.send(&spoofed);
    let sample = watcher.sample();
    assert_eq!((&*sample.port, &*sample.reason), ("b", "acl_in"));
    assert_eq!(sample.stage, "inbound rules");
    assert_eq!(sample.ingress.as_deref(), Some("a"));
    assert_eq!(sample.vm.as_deref(), Some("vm-b"));
    let rule = sample.rule.expect("a rule");
    assert_eq!((&*rule.acl, rule.position), ("in", 2));
    assert!(rule.place.contains("vswitch.toml:"), "{rule:?}");
    assert!(
        sample.frame.contains("10.0.0.1:9 > 10.0.0.2:2000: UDP"),
        "{}",
        sample.frame
    );
    let bytes = vswitch::decode::from_hex(&sample.hex).expect("hexadecimal");
    assert!(bytes.starts_with(&denied), "{bytes:02x?}");
    let sample = watcher.sample();
    assert_eq!((&*sample.port, &*sample.reason), ("a", "spoofed_mac"));
    let same = DropSample {
        time_s: sample.time_s,
        ..of_a.sample()
    };
    assert_eq!(same, sample);
    // It was asked for two.
    assert_eq!(watcher.line(), None);
    assert!(watcher.child.wait().expect("wait").success());
    // A person sees the same.
    drop(of_a);
    lab.check_conservation();
    let reasons = lab.cli("drops --reasons");
    assert!(
        reasons.contains("spoofed_mac") && reasons.contains("sender checks"),
        "{reasons}"
    );
}

#[test]
fn a_watcher_that_goes_away_makes_room() {
    let Some(lab) = lab() else { return };
    for _ in 0..2 {
        let watchers: Vec<_> = (0..MOST_WATCHES)
            .map(|_| {
                eventually("there is room for one more", || {
                    watch_once(&lab).then_some(())
                });
                Watcher::start(&lab, "")
            })
            .collect();
        let (status, body) = lab.request("GET", ONCE, "");
        assert_eq!(status, 409, "{body}");
        // Killed, as when a terminal is closed.
        drop(watchers);
    }
}

/// A watch that ends at once.
const ONCE: &str = "/v1/drops/samples?seconds=0";

fn watch_once(lab: &Lab) -> bool {
    lab.request("GET", ONCE, "").0 == 200
}

#[test]
fn a_dry_run_names_the_flows_that_would_change() {
    let Some(lab) = lab() else { return };
    let path = lab.path("frames.pcap");
    let mut writer = pmd::pcap::Writer::create(&path).expect("create a capture");
    for port in [2000, 1000, 1000, 1000, 3000] {
        let frame = numbered_udp(1, 2, (9, port), 0);
        writer.write(0, frame.len() as u32, &frame).expect("write");
    }
    writer.flush().expect("write");
    let running: vswitch::api::types::Config = lab.get("/v1/config");
    let new = lab.path("new.toml");
    std::fs::write(&new, running.text.replace("1000-1999", "1001-2000")).expect("write");
    let command = format!("--json apply --dry-run {}", new.display());

    let against = format!("{command} --against {} --port a", path.display());
    let compared: Compared = serde_json::from_str(&lab.cli(&against)).expect("the shape");
    assert_eq!((compared.flows, compared.frames), (3, 5));
    let changed: Vec<_> = compared
        .changed
        .iter()
        .map(|flow| (flow.seen, &*flow.now, &*flow.then))
        .collect();
    let expected = [
        (3, "to b", "to b (dropped: acl_in)"),
        (1, "to b (dropped: acl_in)", "to b"),
    ];
    assert_eq!(changed, expected);
    let rule = compared.changed[1].then_rule.as_ref().expect("a rule");
    assert!(rule.place.contains("new.toml:"), "{rule:?}");

    // What comes in while it looks; frames go on coming until it has ended.
    let ended = AtomicBool::new(false);
    let a = lab.socket("a");
    let json = std::thread::scope(|scope| {
        let _end = SetAtEnd(&ended);
        scope.spawn(|| {
            let mut number = 0;
            while !ended.load(Ordering::Relaxed) {
                a.send(&numbered_udp(1, 2, (9, 1000), number));
                number += 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        lab.cli(&format!("{command} --live 1"))
    });
    let compared: Compared = serde_json::from_str(&json).expect("the shape");
    assert_eq!(compared.changed_flows, 1, "{compared:?}");
    assert!(compared.changed[0].seen > 1, "{compared:?}");
    assert_eq!(compared.changed[0].then, "to b (dropped: acl_in)");
    // Nothing was changed by all this.
    let after: vswitch::api::types::Config = lab.get("/v1/config");
    assert_eq!(after, running);
}

#[test]
fn a_dry_run_names_the_flows_that_come_under_another_limit() {
    let rules = "[[acl]]\nname = \"in\"\nrules = [\n\
                 \"allow in udp to any port 1000\",\n\
                 \"allow in udp to any port 2000 stateful limit 100/s burst 20\",\n\
                 \"allow in udp to any port 3000 limit 5/s\",\n\
                 \"allow in udp to any port 4000 limit 7/s\",\n]\n";
    let config = vnic("a", 1, "") + &vnic("b", 2, "inbound = { acl = \"in\" }") + rules;
    let Some(lab) = Lab::quiet(&["a", "b"], &config) else {
        return;
    };
    let path = lab.path("frames.pcap");
    let mut writer = pmd::pcap::Writer::create(&path).expect("create a capture");
    for port in [1000, 1000, 2000, 3000, 4000] {
        let frame = numbered_udp(1, 2, (9, port), 0);
        writer.write(0, frame.len() as u32, &frame).expect("write");
    }
    writer.flush().expect("write");
    let running: vswitch::api::types::Config = lab.get("/v1/config");
    let new = lab.path("new.toml");
    // One comes under a limit, one under another, one is freed of its own; one keeps it, by a rule
    // that changed.
    let text = running
        .text
        .replace("port 1000", "port 1000 limit 3/s")
        .replace("100/s burst 20", "200/s burst 20")
        .replace(" limit 5/s", "")
        .replace("port 4000 limit", "port 4000-4001 limit");
    std::fs::write(&new, text).expect("write");
    let command = format!(
        "apply --dry-run {} --against {} --port a",
        new.display(),
        path.display()
    );
    let json = lab.cli(&format!("--json {command}"));
    let compared: Compared = serde_json::from_str(&json).expect("the shape");
    assert_eq!(
        (compared.changed_flows, compared.changed_limits_only),
        (3, 3),
        "{compared:?}"
    );
    let words = |limits: &[FlowLimit]| -> Vec<String> {
        let words = |l: &FlowLimit| format!("{} {} {} {}", l.limit, l.of, l.direction, l.port);
        limits.iter().map(words).collect()
    };
    let mut changed: Vec<_> = compared
        .changed
        .iter()
        .map(|flow| (flow.seen, words(&flow.now_limits), words(&flow.then_limits)))
        .collect();
    changed.sort();
    let some = |text: &str| vec![text.to_owned()];
    let expected = [
        (
            1,
            some("100/s burst 20 connections in b"),
            some("200/s burst 20 connections in b"),
        ),
        (1, some("5/s frames in b"), Vec::new()),
        (2, Vec::new(), some("3/s frames in b")),
    ];
    assert_eq!(changed, expected);
    let limit = &compared.changed[0].then_limits[0];
    assert!(limit.rule.place.contains("new.toml:"), "{limit:?}");

    let text = lab.cli(&command);
    for line in [
        "    now   no limit\n    then  at most 3/s frames in at b, by in #1: ",
        "    now   at most 100/s burst 20 connections in at b, by in #2: ",
        "3 of 4 flows would be judged otherwise (4 of 5 frames).\n3 of them go where they went, ",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
}
