//! The order in which control does things, against a datapath and drivers that write down what
//! they are asked.

mod routes;
mod rules;
mod updates;

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use pmd::{Health, OpenError};
use policy::{Epoch, FlowKey, PortId, conntrack::Connections, snapshot::Snapshot};

use super::{Control, ControlError, Datapath, Origin};
use crate::{
    api::types::{ExplainRequest, FrameText},
    bridge::{MacRow, Moves},
    config::{self, Machine, types::Port},
    counters::{PortCounts, WorkerCounts},
    drop_watch::{Filter, Watch, Watches},
    engine::{DropRow, EngineError, FlowRow, Outlook, PortQueues, QueueRow, RuleHits},
    mirroring::Mirrors,
};

/// What happens to the world outside control, and what control did to it.
#[derive(Default)]
pub(crate) struct World {
    /// In order: `open NAME`, `publish N`, `attach NUMBER`, `detach NUMBER`, `forget NUMBER`,
    /// `assign ...`.
    log: Vec<String>,
    /// Ports that cannot be opened because what they attach to is missing.
    missing: HashSet<String>,
    /// Ports that cannot be opened at all.
    broken: HashSet<String>,
    /// Ports that do not see VLAN tags.
    hiding_tags: HashSet<String>,
    /// Ports whose attaching fails.
    unattachable: HashSet<PortId>,
    health: HashMap<String, Health>,
    attached: HashSet<PortId>,
    /// Ports that a spanning tree frame has disabled, and for how many seconds.
    disabled: Vec<(PortId, u32)>,
    snapshot: Option<Snapshot>,
    mirrors: Arc<Mirrors>,
    epoch: u64,
}

type Shared = Arc<Mutex<World>>;

struct FakeDatapath(Shared);
struct FakeMonitor(String, Shared);

impl pmd::Monitor for FakeMonitor {
    fn health(&mut self) -> Health {
        let world = self.1.lock();
        world.health.get(&self.0).cloned().unwrap_or(Health::Up)
    }

    fn counts(&mut self) -> pmd::Counts {
        vec![("asked", 1)]
    }

    fn details(&mut self) -> pmd::Details {
        vec![("name of its own", self.0.clone())]
    }
}

impl Datapath for FakeDatapath {
    fn publish_mirrors(&self, mirrors: Arc<Mirrors>) -> Result<(), EngineError> {
        let mut world = self.0.lock();
        world.log.push("publish mirrors".into());
        world.mirrors = mirrors;
        Ok(())
    }

    fn seek(&self, _: policy::NetworkId, _: std::net::IpAddr) {}

    fn publish(&self, snapshot: Snapshot, mirrors: Arc<Mirrors>) -> Result<(), EngineError> {
        let mut world = self.0.lock();
        let epoch = snapshot.epoch().0;
        assert!(epoch > world.epoch, "an epoch is used once");
        world.epoch = epoch;
        world.log.push("publish".into());
        world.snapshot = Some(snapshot);
        world.mirrors = mirrors;
        Ok(())
    }

    fn attach(&self, id: PortId, _: PortQueues, _: &[usize]) -> Result<(), EngineError> {
        let mut world = self.0.lock();
        let judged = world
            .snapshot
            .as_ref()
            .is_some_and(|s| s.port(id).is_some());
        assert!(judged, "attached before its policy is in force");
        if world.unattachable.contains(&id) {
            return Err(EngineError::Invalid("no".into()));
        }
        world.log.push(format!("attach {}", id.0));
        assert!(world.attached.insert(id), "attached twice");
        Ok(())
    }

    fn detach(&self, id: PortId) -> Result<(), EngineError> {
        let mut world = self.0.lock();
        world.log.push(format!("detach {}", id.0));
        world.attached.remove(&id);
        Ok(())
    }

    fn forget_addresses(&self, id: PortId) {
        self.0.lock().log.push(format!("forget {}", id.0));
    }

    fn disabled_ports(&self) -> Vec<(PortId, u32)> {
        self.0.lock().disabled.clone()
    }

    fn enable(&self, id: PortId) -> bool {
        let mut world = self.0.lock();
        let before = world.disabled.len();
        world.disabled.retain(|(port, _)| *port != id);
        world.disabled.len() < before
    }

    fn serve(&self, _: crate::services::plan::Plan) {}

    fn appeared(&self, _: PortId) {}

    fn disappeared(&self, _: PortId) {}

    fn assign(&self, id: PortId, queue: usize, worker: usize) -> Result<(), EngineError> {
        let mut world = self.0.lock();
        world.log.push(format!("assign {} {queue} {worker}", id.0));
        Ok(())
    }

    fn queues(&self) -> Vec<QueueRow> {
        Vec::new()
    }
    fn port_counts(&self, _: PortId) -> PortCounts {
        PortCounts::default()
    }
    fn retired_counts(&self) -> PortCounts {
        PortCounts::default()
    }
    fn worker_counts(&self) -> Vec<WorkerCounts> {
        vec![WorkerCounts::default()]
    }
    fn macs(&self) -> Vec<MacRow> {
        Vec::new()
    }
    fn moves(&self) -> Moves {
        Moves::default()
    }
    fn flows(&self, _: usize) -> Result<Vec<FlowRow>, EngineError> {
        Ok(Vec::new())
    }
    fn drops(&self) -> Vec<DropRow> {
        let denial = policy::Denial {
            reason: policy::DropReason::AclIn,
            rule: Some(policy::RuleId(0)),
        };
        vec![DropRow {
            port: PortId(0),
            denial,
            itemised: true,
            frames: 3,
        }]
    }
    fn connections(&self) -> &Connections {
        static NOTHING: std::sync::OnceLock<Connections> = std::sync::OnceLock::new();
        NOTHING.get_or_init(|| Connections::new(16, [1; 6]))
    }
    fn now_s(&self) -> u32 {
        0
    }
    fn rules(&self) -> Result<HashMap<policy::RuleId, RuleHits>, EngineError> {
        let hits = RuleHits {
            passed: 0,
            dropped: 3,
            last_s: 8,
        };
        Ok(HashMap::from([(policy::RuleId(0), hits)]))
    }
    fn outlook(&self) -> Outlook {
        let clock = pmd::Clock::calibrate();
        let connections = Connections::new(16, [1; 6]);
        let shared = Arc::new(crate::published::Shared::new(clock, connections));
        let bundle = shared.current.load_full();
        Outlook { bundle, shared }
    }
    fn look_up(
        &self,
        _: PortId,
        _: &FlowKey,
        _: Epoch,
    ) -> Result<Vec<(usize, Option<FlowRow>)>, EngineError> {
        Ok(vec![(0, None)])
    }
    fn watch(&self, filter: Filter) -> Option<Watch> {
        Watches::new([]).start(filter)
    }
    fn now_ns(&self) -> u64 {
        0
    }
    fn epoch(&self) -> Epoch {
        Epoch(self.0.lock().epoch)
    }
    fn alive(&self) -> bool {
        true
    }
    fn stop(self: Box<Self>) {
        assert!(self.0.lock().attached.is_empty(), "stopped while attached");
    }
}

fn open(world: &Shared, port: &Port) -> Result<pmd::Port, OpenError> {
    let name = port.name.to_string();
    let mut state = world.lock();
    if state.missing.contains(&name) {
        return Err(OpenError::Missing(format!("no {name}")));
    }
    if state.broken.contains(&name) {
        return Err(OpenError::Unsupported(format!("{name} is broken")));
    }
    state.log.push(format!("open {name}"));
    let (mut near, _) = pmd::memory::pair(pmd::memory::Config::default())?;
    near.info.hidden_vlan_tags = state.hiding_tags.contains(&name);
    near.monitor = Box::new(FakeMonitor(name, Arc::clone(world)));
    Ok(near)
}

/// A configuration with these ports, `NAME` or `NAME=INTERFACE`, and an ACL.
pub(crate) fn text(ports: &[&str]) -> String {
    let mut text = String::from(
        "[[network]]\nname = \"blue\"\ntenant = \"acme\"\n[[acl]]\nname = \"web\"\nrules = [{ action = \"deny\", protocol = \"tcp\" }]\n",
    );
    for port in ports {
        let (name, driver) = match port.split_once('=') {
            Some((name, interface)) => (name, format!("\"tap\"\ninterface = \"{interface}\"")),
            None => (*port, "\"memory\"".into()),
        };
        let _ = write!(
            text,
            "[[port]]\nname = \"{name}\"\nnetwork = \"blue\"\ndriver = {driver}\n"
        );
    }
    text
}

pub(crate) fn origin(text: &str) -> Origin {
    Origin {
        file: "a.toml".into(),
        text: text.to_owned(),
    }
}

/// A control on a fake world, with these ports running.
pub(crate) fn running(ports: &[&str]) -> (Control, Shared) {
    let world = Shared::default();
    let machine = Machine {
        cores: vec![0],
        memory_bytes: 0,
    };
    let first = config::parse("a.toml", &text(ports), &machine).expect("valid");
    let opener = {
        let world = Arc::clone(&world);
        move |port: &Port| open(&world, port)
    };
    let datapath = Box::new(FakeDatapath(Arc::clone(&world)));
    let control = Control::new(datapath, Box::new(opener), machine, &first);
    control.apply(origin(&text(ports)), false).expect("applied");
    (control, world)
}

/// From now on a port cannot be opened.
pub(crate) fn break_port(world: &Shared, name: &str) {
    world.lock().broken.insert(name.into());
}

/// The mirror sessions that were published last.
pub(crate) fn mirrored(world: &Shared) -> Arc<Mirrors> {
    Arc::clone(&world.lock().mirrors)
}

fn log(world: &Shared) -> Vec<String> {
    std::mem::take(&mut world.lock().log)
}

fn state(control: &Control, port: &str) -> String {
    control.port(port).expect("there").state
}

/// Looks at the ports until `done`, for at most ten seconds.
fn look_until(control: &Control, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "it did not happen");
        control.look();
        std::thread::yield_now();
    }
}

#[test]
fn ports_are_attached_after_their_policy_and_detached_after_it_is_gone() {
    let (control, world) = running(&["a", "b"]);
    assert_eq!(
        log(&world),
        ["open a", "open b", "publish", "attach 0", "attach 1"]
    );
    control
        .apply(origin(&text(&["b", "c"])), false)
        .expect("applied");
    assert_eq!(log(&world), ["open c", "publish", "attach 2", "detach 0"]);
    control
        .apply(origin(&text(&["b", "c", "d"])), false)
        .expect("applied");
    assert_eq!(
        log(&world),
        ["open d", "publish", "attach 0"],
        "a number is given again after its owner was detached"
    );
    control.stop();
}

#[test]
fn a_port_that_cannot_be_opened_changes_nothing() {
    let (control, world) = running(&["a"]);
    world.lock().broken.insert("bad".into());
    log(&world);
    let refused = control
        .apply(origin(&text(&["b", "bad"])), false)
        .expect_err("refused");
    assert!(refused.to_string().contains("bad is broken"), "{refused}");
    assert_eq!(log(&world), ["open b"], "and b is closed by being dropped");
    assert_eq!(control.ports().len(), 1);
    control
        .apply(origin(&text(&["a", "c"])), false)
        .expect("goes on");
    assert_eq!(log(&world), ["open c", "publish", "attach 1"]);
}

#[test]
fn a_trunk_that_does_not_see_tags_is_refused_and_an_access_port_is_not() {
    let (control, world) = running(&["a"]);
    world.lock().hiding_tags.insert("b".into());
    log(&world);
    let access = text(&["a", "b"]);
    let trunk = access
        .replace("tenant = \"acme\"", "tenant = \"acme\"\nvlan = 10")
        .replace(
            "name = \"b\"\nnetwork = \"blue\"",
            "name = \"b\"\ntrunk = [\"blue\"]",
        );
    let refused = control.apply(origin(&trunk), false).expect_err("refused");
    assert!(matches!(refused, ControlError::Open { .. }), "{refused}");
    assert!(refused.to_string().contains("VLAN tags"), "{refused}");
    assert_eq!(log(&world), ["open b"], "nothing was attached");
    control.apply(origin(&access), false).expect("applied");
    assert_eq!(state(&control, "b"), "up");
    // What was missing when it was applied is no exception.
    world.lock().missing.insert("c".into());
    world.lock().hiding_tags.insert("c".into());
    let waiting = trunk.replace("name = \"b\"", "name = \"c\"");
    control.apply(origin(&waiting), false).expect("applied");
    world.lock().missing.clear();
    let reason = || control.port("c").expect("there").reason;
    look_until(&control, || reason().contains("VLAN tags"));
    assert_eq!(state(&control, "c"), "waiting");
}

#[test]
fn a_port_whose_guest_is_away_is_attached_and_down_until_it_comes() {
    let (control, world) = running(&["a"]);
    let away = Health::Down("no guest is connected".into());
    world.lock().health.insert("b".into(), away);
    log(&world);
    let applied = control.apply(origin(&text(&["a", "b"])), false);
    assert!(applied.expect("applied").waiting.is_empty());
    assert_eq!(log(&world), ["open b", "publish", "attach 1"]);
    // At once, not at the supervisor's first look.
    let port = control.port("b").expect("there");
    assert_eq!(
        (&*port.state, &*port.reason),
        ("down", "no guest is connected")
    );
    control.look();
    assert_eq!(
        log(&world),
        [""; 0],
        "nothing is forgotten of what was never there"
    );
    let port = control.port("b").expect("there");
    let details: Vec<_> = port.details.iter().map(|d| (&*d.name, &*d.text)).collect();
    assert_eq!(details, [("name of its own", "b")]);

    world.lock().health.clear();
    control.look();
    assert_eq!(state(&control, "b"), "up");
    let away = Health::Down("the guest left".into());
    world.lock().health.insert("b".into(), away);
    control.look();
    assert_eq!(state(&control, "b"), "down");
    assert_eq!(log(&world), ["forget 1"], "it is not closed");
}

#[test]
fn a_disabled_port_says_so_until_it_is_enabled_by_command_by_time_or_by_configuration() {
    let guarded = |more: &str| {
        text(&["a", "b"]).replace(
            "name = \"b\"\n",
            &format!("name = \"b\"\nspanning_tree = \"disable\"\n{more}"),
        )
    };
    let (control, world) = running(&["a", "b"]);
    let disable = |since_s| world.lock().disabled.push((PortId(1), since_s));
    let apply = |text: &str| control.apply(origin(text), false).expect("applied");
    apply(&guarded(""));
    log(&world);
    disable(0);
    control.look();
    assert_eq!(state(&control, "b"), "disabled");
    assert_eq!(log(&world), ["forget 1"]);
    control.enable_port("b").expect("it was disabled");
    assert_eq!(state(&control, "b"), "up");
    let refused = control.enable_port("b").expect_err("it is not");
    assert!(refused.to_string().contains("is not disabled"), "{refused}");

    apply(&guarded("enable_after_s = 5\n"));
    disable(4);
    control.look();
    assert_eq!(state(&control, "b"), "disabled");
    world.lock().disabled[0].1 = 5;
    control.look();
    assert_eq!(state(&control, "b"), "up");

    disable(0);
    control.look();
    apply(&text(&["a", "b"]));
    control.look();
    assert_eq!(state(&control, "b"), "up", "nothing disables it now");
    control.stop();
}

#[test]
fn a_dry_run_and_a_bad_configuration_touch_nothing() {
    let (control, world) = running(&["a"]);
    log(&world);
    let shown = control.apply(origin(&text(&["b"])), true).expect("shown");
    assert_eq!(shown.changes.len(), 2);
    let refused = control
        .apply(origin("[[port]]\n"), false)
        .expect_err("refused");
    assert!(matches!(refused, ControlError::Config(_)));
    let restart = format!("[workers]\nmax_sleep_us = 7\n{}", text(&["b"]));
    let refused = control.apply(origin(&restart), false).expect_err("refused");
    assert!(
        refused.to_string().contains("max_sleep_us: 50 -> 7"),
        "{refused}"
    );
    assert!(log(&world).is_empty());
    assert_eq!(control.config_text().text, text(&["a"]));
}

#[test]
fn what_a_new_port_needs_is_closed_before_it_is_opened() {
    let (control, world) = running(&["a=tap0", "b"]);
    log(&world);
    control
        .apply(origin(&text(&["b", "c=tap0"])), false)
        .expect("applied");
    assert_eq!(log(&world), ["detach 0", "open c", "publish", "attach 2"]);
    control
        .apply(origin(&text(&["b", "c=tap1"])), false)
        .expect("applied");
    assert_eq!(
        log(&world),
        ["detach 2", "open c", "publish", "attach 2"],
        "a port that is opened again keeps its number"
    );
}

#[test]
fn a_failure_after_something_was_closed_brings_it_back() {
    let (control, world) = running(&["a=tap0", "b"]);
    world.lock().broken.insert("c".into());
    log(&world);
    control
        .apply(origin(&text(&["b", "c=tap0"])), false)
        .expect_err("refused");
    assert_eq!(log(&world), ["detach 0", "publish", "open a", "attach 0"]);
    assert_eq!(state(&control, "a"), "up");
    assert_eq!(control.config_text().text, text(&["a=tap0", "b"]));
}

#[test]
fn a_failure_to_attach_brings_the_former_state_back() {
    let (control, world) = running(&["a"]);
    world.lock().unattachable.insert(PortId(2));
    log(&world);
    control
        .apply(origin(&text(&["a", "b", "c"])), false)
        .expect_err("refused");
    assert_eq!(
        log(&world),
        [
            "open b", "open c", "publish", "attach 1", "detach 2", "detach 1", "publish"
        ]
    );
    assert_eq!(world.lock().attached, HashSet::from([PortId(0)]));
    control.stop();
}

#[test]
fn a_missing_port_waits_and_is_attached_when_it_appears() {
    let (control, world) = running(&["a"]);
    world.lock().missing.insert("b".into());
    let applied = control
        .apply(origin(&text(&["a", "b"])), false)
        .expect("applied");
    assert_eq!(applied.waiting, ["b: no b"]);
    assert_eq!(state(&control, "b"), "waiting");
    world.lock().missing.clear();
    look_until(&control, || state(&control, "b") == "up");
    assert!(world.lock().attached.contains(&PortId(1)));
}

#[test]
fn a_port_that_is_gone_is_detached_and_comes_back() {
    let (control, world) = running(&["a", "b"]);
    log(&world);
    let gone = Health::Gone("a was deleted".into());
    world.lock().health.insert("a".into(), gone);
    world.lock().missing.insert("a".into());
    control.look();
    assert_eq!(log(&world), ["detach 0"]);
    let port = control.port("a").expect("there");
    assert_eq!(
        (port.state.as_str(), port.reason.as_str()),
        ("waiting", "a was deleted")
    );
    assert_eq!(state(&control, "b"), "up");
    world.lock().health.clear();
    world.lock().missing.clear();
    look_until(&control, || state(&control, "a") == "up");
    assert_eq!(log(&world), ["open a", "attach 0"]);
    assert_eq!(control.port("a").expect("there").reattached, 1);
}

#[test]
fn a_port_that_is_down_stays_attached_and_says_why() {
    let (control, world) = running(&["a"]);
    let down = Health::Down("no carrier".into());
    world.lock().health.insert("a".into(), down);
    log(&world);
    control.look();
    let port = control.port("a").expect("there");
    assert_eq!(
        (port.state.as_str(), port.reason.as_str()),
        ("down", "no carrier")
    );
    assert_eq!(port.driver_counts["asked"], 1);
    assert_eq!(
        log(&world),
        ["forget 0"],
        "what was behind it is looked for"
    );
    control.look();
    assert!(log(&world).is_empty(), "once");
}

#[test]
fn a_waiting_port_can_be_removed() {
    let (control, world) = running(&["a"]);
    world.lock().missing.insert("b".into());
    control
        .apply(origin(&text(&["a", "b"])), false)
        .expect("applied");
    control
        .apply(origin(&text(&["a"])), false)
        .expect("applied");
    world.lock().missing.clear();
    log(&world);
    control.look();
    assert!(log(&world).is_empty(), "nobody opens it any more");
}

#[test]
fn ports_are_added_and_removed_in_the_running_text() {
    let (control, world) = running(&["a"]);
    log(&world);
    let port = "name = \"b\"\ndriver = \"memory\"\nnetwork = \"blue\"\n";
    control.add_port(port).expect("added");
    assert_eq!(log(&world), ["open b", "publish", "attach 1"]);
    assert!(control.config_text().text.contains("name = \"b\""));
    control.remove_port("b").expect("removed");
    assert_eq!(log(&world), ["publish", "detach 1"]);
    assert_eq!(
        control.config_text().text.trim_end(),
        text(&["a"]).trim_end()
    );
    let refused = control.remove_port("aa").expect_err("unknown");
    assert!(
        refused.to_string().contains("did you mean \"a\"?"),
        "{refused}"
    );
}

#[test]
fn only_placement_moves_queues_and_closes_nothing() {
    let (control, world) = running(&["a"]);
    log(&world);
    let moved = text(&["a"]).replace("driver = \"memory\"", "driver = \"memory\"\nworkers = [0]");
    control.apply(origin(&moved), false).expect("applied");
    assert_eq!(log(&world), ["publish", "assign 0 0 0"]);
}

#[test]
fn drops_name_their_rule_even_after_it_is_gone() {
    let (control, _world) = running(&["a"]);
    let rule = control.drops().remove(0).rule.expect("a rule");
    assert_eq!(
        (rule.acl.as_str(), rule.place.as_str()),
        ("web", "a.toml:6")
    );
    let without = text(&["a"]).replace("{ action = \"deny\", protocol = \"tcp\" }", "");
    control.apply(origin(&without), false).expect("applied");
    assert_eq!(control.drops().remove(0).rule.expect("a rule"), rule);
}

fn frame_text(hex: &str, seen: u64) -> FrameText {
    FrameText {
        hex: hex.into(),
        seen: Some(seen),
        ..FrameText::default()
    }
}

/// To everybody.
const BROADCAST: &str = "ffffffffffff 020000000001 88b5 00";

#[test]
fn a_configuration_is_compared_over_captured_frames_and_nothing_changes() {
    let (control, world) = running(&["a"]);
    log(&world);
    // Twice the same flow; the stand-in's policy lets nothing pass.
    let frames = [frame_text(BROADCAST, 3), frame_text(BROADCAST, 2)];
    let traffic = control.captured("a", &frames).expect("read");
    let wanted = origin(&text(&["a", "b"]));
    let compared = control.compare(&wanted, &traffic).expect("compared");
    assert_eq!((compared.flows, compared.frames), (1, 5));
    assert_eq!((compared.changed_flows, compared.changed_frames), (1, 5));
    let changed = &compared.changed[0];
    assert_eq!(
        (&*changed.now, &*changed.then),
        ("dropped: no_policy", "flooded to b")
    );
    assert_eq!(log(&world), [""; 0]);
    assert_eq!(control.config().ports.len(), 1);
}

#[test]
fn what_is_compared_is_bounded() {
    let (control, _world) = running(&["a"]);
    let refused = |frames: &[FrameText]| match control.captured("a", frames) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    };
    let many = vec![frame_text(BROADCAST, 1); super::compare::MOST_FLOWS + 1];
    assert!(refused(&many).contains("at most 20000"));
    assert!(refused(&[frame_text("0g", 1)]).contains("hexadecimal"));
    let cut_off = FrameText {
        len_bytes: Some(300),
        ..frame_text(BROADCAST, 1)
    };
    assert!(refused(&[cut_off]).contains("the first 256"));
    for seconds in [0, 301] {
        assert!(control.collect(None, seconds).is_err(), "{seconds} s");
    }
}

#[test]
fn an_explanation_needs_a_port_and_a_frame() {
    let (control, world) = running(&["a"]);
    log(&world);
    let mut request = ExplainRequest {
        port: "aa".into(),
        ..ExplainRequest::default()
    };
    let unknown = control.explain(&request).expect_err("no such port");
    assert!(
        unknown.to_string().contains("there is no port"),
        "{unknown}"
    );
    request.port = "a".into();
    let nothing = control.explain(&request).expect_err("nothing to explain");
    assert!(nothing.to_string().contains("name a frame"), "{nothing}");
    request.frames = vec![frame_text(BROADCAST, 1)];
    let rows = control.explain(&request).expect("explained");
    assert_eq!(rows[0].verdict, "dropped: no_policy");
    assert!(rows[0].advice.is_some());
    assert!(!rows[0].cache[0].hit);
    assert_eq!(log(&world), [""; 0]);
}
