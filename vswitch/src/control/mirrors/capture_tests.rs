//! Captures through changes of the configuration, against a datapath that writes down what it is given.

use std::{collections::HashSet, sync::Arc};

use serde_json::json;

use super::{
    super::tests::{mirrored, origin, running, text},
    *,
};
use crate::{api::capture_types::CaptureRequest, mirroring::Way};

const WHO: Who = Who::Peer {
    uid: 1000,
    pid: Some(7),
};

fn wanted(fields: serde_json::Value) -> CaptureRequest {
    serde_json::from_value(fields).expect("a request")
}

fn refused(control: &Arc<Control>, fields: serde_json::Value) -> String {
    match control.start_capture(wanted(fields), WHO) {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error.to_string(),
    }
}

fn ports(feed: &Feed) -> Vec<String> {
    feed.ports(0).iter().map(ToString::to_string).collect()
}

fn audit(control: &Control) -> Vec<(String, String, String)> {
    let rows = control.mirror_audit().into_iter();
    rows.map(|row| (row.action, row.session, row.who)).collect()
}

#[test]
fn each_port_has_a_session_of_its_own_and_all_one_budget_until_the_feed_goes() {
    let (control, world) = running(&["a", "b", "c"]);
    let control = Arc::new(control);
    let all = json!({ "sources": [{ "port": "b" }, { "network": "blue" }] });
    let first = control.start_capture(wanted(all), WHO).expect("sound");
    let one = json!({ "sources": [{ "port": "a" }], "owner": "acme" });
    let second = control.start_capture(wanted(one), WHO).expect("sound");
    // A port that two sources mean is captured once.
    assert_eq!(ports(&first), ["b", "a", "c"]);
    assert_eq!(ports(&second), ["a"]);
    let mirrors = mirrored(&world);
    let sessions = mirrors.sessions();
    let slots: HashSet<usize> = sessions.iter().map(|session| session.slot).collect();
    assert_eq!((sessions.len(), slots.len()), (4, 4));
    let budgets: HashSet<_> = sessions.iter().map(|s| Arc::as_ptr(&s.ready.budget)).collect();
    assert_eq!(budgets.len(), 2);
    for session in sessions {
        assert!(matches!(session.way, Some(Way::Memory(..))));
    }
    assert_eq!(control.captures().len(), 2);
    assert_eq!(control.mirrors(), []);
    drop(first);
    assert_eq!(mirrored(&world).sessions().len(), 1);
    assert_eq!(second.over(), None);
    control.end_capture(second.id(), WHO).expect("it goes on");
    assert_eq!(second.over().as_deref(), Some("ended by uid 1000 pid 7"));
    drop(second);
    assert!(!mirrored(&world).is_active());
    assert_eq!(control.captures(), []);
    let peer = "uid 1000 pid 7";
    let expected = [
        ("created", "capture-1", peer),
        ("created", "capture-2", peer),
        ("ended", "capture-1", peer),
        ("ended", "capture-2", peer),
    ];
    let expected = expected.map(|(a, s, w)| (a.to_owned(), s.to_owned(), w.to_owned()));
    assert_eq!(audit(&control), expected);
}

#[test]
fn what_is_not_the_owners_or_makes_no_sense_is_refused() {
    let (control, world) = running(&["a"]);
    let control = Arc::new(control);
    let port = |more: serde_json::Value| {
        let mut fields = json!({ "sources": [{ "port": "a" }] });
        let object = fields.as_object_mut().expect("an object");
        object.extend(more.as_object().cloned().unwrap_or_default());
        fields
    };
    for (fields, expected) in [
        (json!({ "sources": [] }), "1 to 256 sources"),
        (json!({ "sources": [{ "port": "z" }] }), "port z does not exist"),
        (port(json!({ "owner": "evil" })), "not tenant \"evil\"'s"),
        (port(json!({ "filter": ["allow tpc"] })), "column 7"),
        (port(json!({ "truncate_bytes": 10 })), "at least 78"),
        (port(json!({ "sample": 0 })), "one in 0 is none"),
        (port(json!({ "frames_per_second": 0 })), "a budget of 0"),
        (port(json!({ "count": 0 })), "captures nothing"),
    ] {
        let said = refused(&control, fields);
        assert!(said.contains(expected), "{said}");
    }
    assert_eq!(control.captures(), []);
    assert!(!mirrored(&world).is_active());
    let feeds: Vec<Feed> = (0..16)
        .map(|_| control.start_capture(wanted(port(json!({}))), WHO).expect("sound"))
        .collect();
    let said = refused(&control, port(json!({})));
    assert!(said.contains("16 captures go on already"), "{said}");
    drop(feeds);
    drop(control.start_capture(wanted(port(json!({}))), WHO).expect("one may again"));
}

#[test]
fn a_source_that_goes_or_changes_hands_is_captured_no_more() {
    let (control, world) = running(&["a", "b"]);
    let control = Arc::new(control);
    let both = json!({ "sources": [{ "port": "a" }, { "port": "b" }] });
    let feed = control.start_capture(wanted(both), WHO).expect("sound");
    let network = json!({ "sources": [{ "network": "blue" }] });
    let whole = control.start_capture(wanted(network), WHO).expect("sound");
    let apply = |text: &str| control.apply(origin(text), false).expect("applied");
    apply(&text(&["b", "c"]));
    assert_eq!(feed.over(), None);
    // What an interface counted stays, and a new port is a new one.
    assert_eq!(ports(&whole), ["a", "b", "c"]);
    assert_eq!(mirrored(&world).sessions().len(), 3);
    apply(&text(&["b", "c"]).replace("tenant = \"acme\"", "tenant = \"evil\""));
    assert_eq!(
        feed.over().as_deref(),
        Some("port b is another tenant's now")
    );
    assert!(whole.over().is_some());
    assert!(!mirrored(&world).is_active());
    assert_eq!(control.captures(), []);
    let by_switch = audit(&control);
    let by_switch = by_switch.iter().filter(|(_, _, who)| who == "vswitch");
    assert_eq!(by_switch.count(), 3);
    drop((feed, whole));
}
