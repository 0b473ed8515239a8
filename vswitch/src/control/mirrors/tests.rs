//! Sessions through changes of the configuration, against a datapath that writes down what it is given.

use std::sync::Arc;

use serde_json::json;

use super::{
    super::tests::{origin, running, text},
    *,
};
use crate::api::mirror_types::MirrorSource;

const WHO: Who = Who::Peer {
    uid: 1000,
    pid: Some(7),
};
const TARGET: &str = r#"
[[mirror_target]]
name = "ids"
kind = "erspan-2"
local = "192.0.2.1"
remote = "192.0.2.9"
port = "up"
peer_mac = "02:00:00:00:00:99"
tenants = ["acme"]
session_numbers = "5-6"
[[network]]
name = "outside"
tenant = "provider"
[[port]]
name = "up"
network = "outside"
driver = "memory"
"#;

fn config(ports: &[&str]) -> String {
    text(ports) + TARGET
}

fn control(ports: &[&str]) -> Control {
    let (control, _world) = running(&[]);
    control
        .apply(origin(&config(ports)), false)
        .expect("applied");
    control
}

fn request(name: &str, source: &serde_json::Value) -> MirrorRequest {
    let request = json!({ "name": name, "owner": "acme", "source": source, "target": "ids" });
    serde_json::from_value(request).expect("a request")
}

fn create(control: &Control, name: &str, port: &str) -> MirrorSession {
    let created = control.create_mirror(request(name, &json!({ "port": port })), WHO);
    created.expect("a sound session")
}

fn refused(control: &Control, change: impl FnOnce(&mut MirrorRequest)) -> String {
    let mut wanted = request("one", &json!({ "port": "a" }));
    change(&mut wanted);
    let before = control.mirrors();
    let error = control.create_mirror(wanted, WHO).expect_err("refused");
    assert_eq!(control.mirrors(), before, "{error}");
    error.to_string()
}

fn actions(control: &Control) -> Vec<(String, String)> {
    let rows = control.mirror_audit().into_iter();
    rows.map(|row| (row.action, row.who)).collect()
}

fn change(text: &str) -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_str(text).expect("an object")
}

#[test]
fn a_session_gets_a_number_of_its_own_and_its_audit_names_who_made_it() {
    let control = control(&["a", "b"]);
    let (one, two) = (create(&control, "one", "a"), create(&control, "two", "a"));
    assert_eq!((one.number, two.number), (5, 6));
    assert_eq!(
        (one.state.as_str(), one.ports.as_slice()),
        ("active", &["a".to_owned()][..])
    );
    let third = control.create_mirror(request("three", &json!({ "port": "b" })), WHO);
    let error = third.expect_err("two numbers").to_string();
    assert!(error.contains("no session number left"), "{error}");
    control.delete_mirror("acme", "one", WHO).expect("deleted");
    assert_eq!(create(&control, "three", "b").number, 5);
    let peer = || "uid 1000 pid 7".to_owned();
    let expected = ["created", "created", "deleted", "created"].map(|a| (a.to_owned(), peer()));
    assert_eq!(actions(&control), expected);
}

#[test]
fn what_is_not_the_owners_or_makes_no_sense_is_refused() {
    let control = control(&["a"]);
    let said = refused(&control, |r| r.source = MirrorSource::Port("z".into()));
    assert!(said.contains("port z does not exist"), "{said}");
    let said = refused(&control, |r| r.source = MirrorSource::Port("up".into()));
    assert!(said.contains("is not tenant \"acme\"'s"), "{said}");
    let said = refused(&control, |r| {
        r.owner = "provider".into();
        r.source = MirrorSource::Port("up".into());
    });
    assert!(said.contains("is not for tenant \"provider\""), "{said}");
    let said = refused(&control, |r| r.target = "idz".into());
    assert!(said.contains("did you mean \"ids\"?"), "{said}");
    let said = refused(&control, |r| {
        r.filter = vec!["allow tcp to any prot 1".into()];
    });
    assert!(
        said.contains("filter rule 1") && said.contains("prot"),
        "{said}"
    );
    let said = refused(&control, |r| r.filter = vec!["reject any".into()]);
    assert!(
        said.contains("a filter mirrors (allow) or does not (deny)"),
        "{said}"
    );
    let said = refused(&control, |r| r.filter = vec!["allow any from @x".into()]);
    assert!(said.contains("the provider's"), "{said}");
    let said = refused(&control, |r| r.truncate_bytes = Some(10));
    assert!(said.contains("at least 78"), "{said}");
    let said = refused(&control, |r| r.frames_per_second = Some(0));
    assert!(said.contains("a budget of 0"), "{said}");
    let said = refused(&control, |r| r.sample = Some(0));
    assert!(said.contains("one in 0 is none"), "{said}");
    let said = refused(&control, |r| r.name = "a b".into());
    assert!(said.contains("cannot be the name"), "{said}");
    create(&control, "one", "a");
    let said = refused(&control, |_| ());
    assert!(said.contains("already"), "{said}");
}

#[test]
fn a_port_that_carries_copies_is_nobodys_source() {
    let (control, _world) = running(&[]);
    // The tunnel's port is the tenant's own.
    let text = config(&["a"]).replace("tenant = \"provider\"", "tenant = \"acme\"");
    control.apply(origin(&text), false).expect("applied");
    let said = refused(&control, |r| r.source = MirrorSource::Port("up".into()));
    assert!(said.contains("tunnels pass port up"), "{said}");
}

#[test]
fn a_network_means_its_owners_access_ports() {
    let control = control(&["a", "b"]);
    let wanted = request("all", &json!({ "network": "blue" }));
    let session = control.create_mirror(wanted, WHO).expect("a sound session");
    assert_eq!(session.ports, ["a", "b"]);
    control
        .apply(origin(&config(&["a", "b", "c"])), false)
        .expect("applied");
    assert_eq!(
        control.mirror("acme", "all").expect("there").ports,
        ["a", "b", "c"]
    );
}

#[test]
fn a_source_that_goes_ends_its_session_and_one_that_changes_hands_suspends_it() {
    let control = control(&["a", "b"]);
    create(&control, "one", "a");
    create(&control, "two", "b");
    control
        .apply(origin(&config(&["b"])), false)
        .expect("applied");
    let left: Vec<_> = control
        .mirrors()
        .into_iter()
        .map(|s| s.request.name)
        .collect();
    assert_eq!(left, ["two"]);
    let sold = config(&["b"]).replace("tenant = \"acme\"", "tenant = \"evil\"");
    control.apply(origin(&sold), false).expect("applied");
    let two = control.mirror("acme", "two").expect("kept");
    assert_eq!((two.state.as_str(), two.ports.len()), ("suspended", 0));
    assert!(
        two.reason.contains("not tenant \"acme\"'s"),
        "{}",
        two.reason
    );
    control
        .apply(origin(&config(&["b"])), false)
        .expect("applied");
    assert_eq!(control.mirror("acme", "two").expect("kept").state, "active");
    // Without its target, too.
    control
        .apply(origin(&text(&["b"])), false)
        .expect("applied");
    let two = control.mirror("acme", "two").expect("kept");
    assert!(two.reason.contains("no mirror target"), "{}", two.reason);
    let all = actions(&control);
    let by_switch: Vec<_> = all.iter().filter(|(_, who)| who == "vswitch").collect();
    let named: Vec<_> = by_switch
        .iter()
        .map(|(action, _)| action.as_str())
        .collect();
    assert_eq!(named, ["ended", "suspended", "resumed", "suspended"]);
}

#[test]
fn an_update_replaces_what_it_names_and_keeps_the_counts() {
    let control = control(&["a"]);
    create(&control, "one", "a");
    let shared = Arc::clone(&control.state.read().mirrors[0].shared);
    shared.counters[0].wanted.add(3);
    let fields =
        change(r#"{"direction": "in", "filter": ["allow udp"], "sample": 10, "lease_s": 60}"#);
    let one = control
        .update_mirror(("acme", "one"), fields, WHO)
        .expect("changed");
    assert_eq!((one.number, one.wanted), (5, 3));
    assert_eq!(
        (one.request.sample, one.request.filter.len()),
        (Some(10), 1)
    );
    assert!(one.request.lease_s.is_some_and(|lease| lease <= 60));
    let fields = change(r#"{"sample": null, "lease_s": null, "filter": null}"#);
    let one = control
        .update_mirror(("acme", "one"), fields, WHO)
        .expect("changed");
    assert_eq!((one.request.sample, one.request.lease_s), (None, None));
    assert_eq!(one.request.filter, Vec::<String>::new());
    for wrong in [
        r#"{"owner": "x"}"#,
        r#"{"nonsense": 1}"#,
        r#"{"truncate_bytes": 3}"#,
    ] {
        let before = control.mirrors();
        control
            .update_mirror(("acme", "one"), change(wrong), WHO)
            .expect_err(wrong);
        assert_eq!(control.mirrors(), before, "{wrong}");
    }
    let error = control
        .update_mirror(("acme", "on"), change("{}"), WHO)
        .expect_err("unknown");
    assert!(
        error.to_string().contains("did you mean \"one\"?"),
        "{error}"
    );
}

#[test]
fn a_lease_that_is_over_ends_the_session() {
    let control = control(&["a"]);
    let mut wanted = request("brief", &json!({ "port": "a" }));
    wanted.lease_s = Some(0);
    control.create_mirror(wanted, WHO).expect("a sound session");
    create(&control, "stays", "a");
    control.look();
    let left: Vec<_> = control
        .mirrors()
        .into_iter()
        .map(|s| s.request.name)
        .collect();
    assert_eq!(left, ["stays"]);
    let last = control.mirror_audit().pop().expect("a line");
    assert_eq!(
        (last.action.as_str(), last.detail.as_str()),
        ("ended", "its lease is over")
    );
}

#[test]
fn sessions_are_kept_over_a_restart() {
    let folder = tempfile::tempdir().expect("temp");
    let path = folder.path().join("s.mirrors");
    let first = control(&["a", "b"]);
    first.keep_mirrors(path.clone());
    create(&first, "one", "a");
    create(&first, "two", "b");
    first.delete_mirror("acme", "one", WHO).expect("deleted");
    let (second, _world) = running(&[]);
    second.keep_mirrors(path.clone());
    second
        .apply(origin(&config(&["a", "b"])), false)
        .expect("applied");
    let rows = second.mirrors();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].number, rows[0].state.as_str()), (6, "active"));
    // Whose source is gone meanwhile ends.
    let (third, _world) = running(&[]);
    third.keep_mirrors(path.clone());
    third
        .apply(origin(&config(&["a"])), false)
        .expect("applied");
    assert!(third.mirrors().is_empty());
    assert_eq!(file::read(&path), Ok(Vec::new()));
}

#[test]
fn an_apply_that_is_refused_leaves_the_sessions_alone() {
    let (control, world) = running(&[]);
    control
        .apply(origin(&config(&["a"])), false)
        .expect("applied");
    create(&control, "one", "a");
    let before = control.mirrors();
    super::super::tests::break_port(&world, "bad");
    control
        .apply(origin(&config(&["bad"])), false)
        .expect_err("refused");
    assert_eq!(control.mirrors(), before);
    assert_eq!(super::super::tests::mirrored(&world).sessions().len(), 1);
}

#[test]
fn a_session_that_a_router_has_no_way_for_is_unreachable_and_counts() {
    let control = control(&["a"]);
    let by_router = config(&["a"]).replace(
        "port = \"up\"\npeer_mac = \"02:00:00:00:00:99\"",
        "router = \"r\"",
    ) + "[[router]]\nname = \"r\"\ntenant = \"provider\"\n[[router.interface]]\nnetwork = \"outside\"\naddresses = [\"192.0.2.2/24\"]\n";
    control.apply(origin(&by_router), false).expect("applied");
    let one = create(&control, "one", "a");
    assert_eq!(one.state, "unreachable");
    assert!(
        one.reason.contains("192.0.2.9") || one.reason.contains("not in force"),
        "{}",
        one.reason
    );
}

#[test]
fn targets_have_ends_that_can_be() {
    let target = |field: &str, value: &str| -> String {
        let lines = TARGET.lines().map(|line| {
            if line.starts_with(&format!("{field} = ")) {
                format!("{field} = {value}\n")
            } else {
                format!("{line}\n")
            }
        });
        lines.collect()
    };
    let machine = crate::config::Machine {
        cores: vec![0],
        memory_bytes: 0,
    };
    let said = |more: &str| {
        let text = text(&["a"]) + more;
        match crate::config::parse("a.toml", &text, &machine) {
            Ok(_) => String::new(),
            Err(problems) => problems.to_string(),
        }
    };
    assert_eq!(said(TARGET), "");
    for (field, value, expected) in [
        ("kind", "\"erspan-4\"", "not a valid value"),
        ("local", "\"224.0.0.1\"", "no host's address"),
        ("local", "\"x\"", "is not an address"),
        ("local", "\"2001:db8::1\"", "two families"),
        ("remote", "\"192.0.2.1\"", "begin and end"),
        ("port", "\"upp\"", "there is no port"),
        (
            "peer_mac",
            "\"01:00:00:00:00:00\"",
            "cannot be an interface's own address",
        ),
        ("tenants", "[]", "nobody may use"),
        (
            "session_numbers",
            "\"5-2000\"",
            "no session numbers of erspan-2",
        ),
        (
            "session_numbers",
            "\"9-5\"",
            "no session numbers of erspan-2",
        ),
    ] {
        let said = said(&target(field, value));
        assert!(
            said.contains(expected) && said.contains("a.toml:"),
            "{field}: {said}"
        );
    }
    let with = |line: &str| said(&TARGET.replace("port = \"up\"\n", line));
    assert!(with("").contains("has no port"));
    assert!(with("router = \"r\"\n").contains("a router knows"));
    let neither = TARGET.replace("port = \"up\"\npeer_mac = \"02:00:00:00:00:99\"\n", "");
    assert!(said(&neither).contains("how do copies leave"));
    let small = TARGET.replace("kind =", "mtu = 200\nkind =");
    assert!(said(&small).contains("576"));
    let (again, _) = TARGET.split_once("[[network]]").expect("a target");
    let twins = format!("{TARGET}{}", again.replace("\"ids\"", "\"idt\""));
    assert!(said(&twins).contains("some of the same session numbers"));
    let apart = twins.replacen("5-6", "7-8", 1);
    assert_eq!(said(&apart), "");
}
