//! What becomes of rules between the configuration and the snapshot: merging, groups, sets that
//! change, shared lists, the bound on lookups.

use policy::{
    PortId, RuleId,
    acl::Classifier,
    reader::Exact,
    rule::{Direction, Rule},
};

use super::{Control, ControlError, Shared, log, origin, running};
use crate::api::types::SetChange;

/// Two vNICs in one network, "a" with 10.0.0.1 and "b" with 10.0.0.2; `a` and `b` are their
/// further fields, and `rest` stands at the end.
pub(super) fn two(a: &str, b: &str, rest: &str) -> String {
    let vnic = |name: &str, last: u8, fields: &str| {
        format!(
            "[[port]]\nname = \"{name}\"\nnetwork = \"blue\"\ndriver = \"memory\"\n[[vnic]]\nname = \"{name}\"\nvm = \"{name}\"\nport = \"{name}\"\nmac = \"02:00:00:00:00:0{last}\"\nipv4 = [\"10.0.0.{last}\"]\nipv6 = [\"fd00::{last}\"]\n{fields}\n"
        )
    };
    let network = "[[network]]\nname = \"blue\"\ntenant = \"acme\"\n";
    format!("{network}{}{}{rest}", vnic("a", 1, a), vnic("b", 2, b))
}

pub(super) fn applied(text: &str) -> (Control, Shared) {
    let (control, world) = running(&[]);
    control.apply(origin(text), false).expect("applied");
    log(&world);
    (control, world)
}

/// The rule that decides a TCP frame to a port's VM, by number; `Err` for a drop.
fn judged(
    world: &Shared,
    port: u16,
    src: [u8; 4],
    dst_port: u16,
) -> Result<Option<u32>, Option<u32>> {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    frame.extend(src);
    frame.extend([10, 0, 0, 1]);
    frame.extend(1024_u16.to_be_bytes());
    frame.extend(dst_port.to_be_bytes());
    frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    let parsed = policy::parse(&frame, frame.len(), None, PortId(9));
    let world = world.lock();
    let snapshot = world.snapshot.as_ref().expect("published");
    let vnic = snapshot
        .port(PortId(port))
        .and_then(|port| port.vnic.as_ref());
    let judged = vnic.expect("a vNIC").judge_inbound(&mut Exact(&parsed.key));
    let number = |rule: Option<RuleId>| rule.map(|rule| rule.0);
    judged.map(number).map_err(|denial| number(denial.rule))
}

fn rules_of(world: &Shared, port: u16, direction: Direction) -> Vec<String> {
    let world = world.lock();
    let snapshot = world.snapshot.as_ref().expect("published");
    let vnic = snapshot
        .port(PortId(port))
        .and_then(|port| port.vnic.as_ref());
    let classifier = vnic.expect("a vNIC").classifier(direction);
    let told = |rule: &Rule| {
        let place = snapshot.places().of(rule.id).expect("a place");
        assert_eq!(place.acl, rule.origin.acl);
        format!("{}/{} {rule}", place.acl, place.position)
    };
    classifier.rules().iter().map(told).collect()
}

fn classifier(world: &Shared, port: u16, direction: Direction) -> *const Classifier {
    let world = world.lock();
    let snapshot = world.snapshot.as_ref().expect("published");
    let vnic = snapshot
        .port(PortId(port))
        .and_then(|port| port.vnic.as_ref());
    std::ptr::from_ref(vnic.expect("a vNIC").classifier(direction))
}

const LISTS: &str = r#"
[[acl]]
name = "own"
rules = [
  "allow in tcp to any port 1",
  "deny out tcp to any port 2 priority 900",
  "deny any priority 10",
]
[[group]]
name = "web"
rules = ["allow in tcp to any port @web stateful", "deny in udp priority 2000"]
[[group]]
name = "ssh"
rules = [{ action = "allow", direction = "in", protocol = "tcp", src = "group:web", dst_ports = [22] }]
[[port_set]]
name = "web"
ports = [80, 443]
"#;

#[test]
fn rules_of_acl_and_groups_are_merged_by_priority() {
    let member =
        "groups = [\"web\", \"ssh\"]\ninbound = { acl = \"own\" }\noutbound = { acl = \"own\" }";
    let (_control, world) = applied(&two(member, "groups = [\"ssh\"]", LISTS));
    assert_eq!(
        rules_of(&world, 0, Direction::In),
        [
            "group:web/2 deny udp",
            "own/1 allow tcp to any port 1",
            "group:web/1 allow tcp to any port 80,443 stateful",
            "group:ssh/1 allow tcp from 10.0.0.1 to any port 22",
            "group:ssh/1 allow tcp from fd00::1 to any port 22",
            "own/3 deny any",
        ]
    );
    assert_eq!(
        rules_of(&world, 0, Direction::Out),
        ["own/2 deny tcp to any port 2", "own/3 deny any"]
    );
    assert_eq!(rules_of(&world, 1, Direction::In).len(), 2);
}

#[test]
fn equal_lists_are_one_whoever_uses_them() {
    let member = "groups = [\"web\", \"ssh\"]";
    let (_control, world) = applied(&two(member, member, LISTS));
    assert_eq!(
        classifier(&world, 0, Direction::In),
        classifier(&world, 1, Direction::In)
    );
    let (_control, world) = applied(&two(member, "groups = [\"ssh\", \"web\"]", LISTS));
    assert_ne!(
        classifier(&world, 0, Direction::In),
        classifier(&world, 1, Direction::In),
        "the order of groups is that of the rules"
    );
}

#[test]
fn a_group_s_addresses_follow_its_members() {
    let ssh = "groups = [\"ssh\"]";
    let (control, world) = applied(&two(ssh, "", LISTS));
    assert_eq!(judged(&world, 0, [10, 0, 0, 2], 22), Err(None));
    let joined = two(ssh, "groups = [\"web\"]", LISTS);
    control.apply(origin(&joined), false).expect("applied");
    let rule = judged(&world, 0, [10, 0, 0, 2], 22).expect("a member now");
    assert_eq!(judged(&world, 0, [10, 0, 0, 3], 22), Err(None));
    assert!(rule.is_some());
}

const OFFICE: &str = r#"
[[acl]]
name = "own"
rules = ["allow in tcp from @office to any port 22", "deny in tcp to any port 23"]
[[address_set]]
name = "office"
addresses = [
  "192.0.2.1",   # the door
  "198.51.100.0/24",
]
"#;

fn change(add: &[&str], remove: &[&str]) -> SetChange {
    let texts = |members: &[&str]| members.iter().map(ToString::to_string).collect();
    SetChange {
        add: texts(add),
        remove: texts(remove),
    }
}

#[test]
fn a_set_changes_in_one_step_and_nothing_else_does() {
    let text = two("inbound = { acl = \"own\" }", "", OFFICE);
    let (control, world) = applied(&text);
    let rule = judged(&world, 0, [192, 0, 2, 1], 22).expect("in the set");
    let denied = judged(&world, 0, [192, 0, 2, 1], 23);
    assert_eq!(
        judged(&world, 0, [198, 51, 100, 7], 22),
        Ok(rule),
        "one rule"
    );
    let applied = control.change_set(
        "office",
        &change(&["203.0.113.9", "192.0.2.2/32"], &["192.0.2.1"]),
    );
    let applied = applied.expect("changed");
    let told: Vec<_> = applied.changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["~ address_set office\n    - 192.0.2.1\n    + 203.0.113.9\n    + 192.0.2.2"]
    );
    assert_eq!(log(&world), ["publish"], "no port was touched");
    assert_eq!(judged(&world, 0, [192, 0, 2, 1], 22), Err(None));
    assert_eq!(
        judged(&world, 0, [203, 0, 113, 9], 22),
        Ok(rule),
        "its number stays"
    );
    assert_eq!(judged(&world, 0, [203, 0, 113, 9], 23), denied);
    assert_eq!(
        control.config_text().text.lines().count(),
        text.lines().count(),
        "no line moves"
    );
    let office = control.sets().expect("they answer").remove(0);
    assert_eq!(
        (office.members, office.rules),
        (
            ["198.51.100.0/24", "203.0.113.9", "192.0.2.2"]
                .map(String::from)
                .into(),
            1
        )
    );
}

#[test]
fn an_emptied_set_matches_nothing_and_the_next_apply_fills_it() {
    let text = two("inbound = { acl = \"own\" }", "", OFFICE);
    let (control, world) = applied(&text);
    control
        .change_set("office", &change(&[], &["192.0.2.1", "198.51.100.0/24"]))
        .expect("changed");
    assert_eq!(judged(&world, 0, [192, 0, 2, 1], 22), Err(None));
    control.apply(origin(&text), false).expect("applied");
    assert!(judged(&world, 0, [192, 0, 2, 1], 22).is_ok());
}

#[test]
fn a_change_of_a_set_that_cannot_be_made_changes_nothing() {
    let (control, world) = applied(&two("inbound = { acl = \"own\" }", "", OFFICE));
    for (name, change, said) in [
        (
            "ofice",
            change(&["192.0.2.7"], &[]),
            "did you mean \"office\"?",
        ),
        (
            "office",
            change(&["192.0.2.7"], &["192.0.2.9"]),
            "192.0.2.9 is not in set",
        ),
        (
            "office",
            change(&["192.0.2.7", "dorr"], &[]),
            "\"dorr\" cannot be in a set",
        ),
        (
            "office",
            change(&["10.0.0.1/8"], &[]),
            "bits behind its prefix",
        ),
    ] {
        let refused = control
            .change_set(name, &change)
            .expect_err(said)
            .to_string();
        assert!(refused.contains(said), "{refused}");
    }
    assert!(log(&world).is_empty());
    assert_eq!(judged(&world, 0, [192, 0, 2, 7], 22), Err(None));
}

#[test]
fn lists_that_cost_too_much_to_look_up_are_refused() {
    let text = two("inbound = { acl = \"own\" }", "", OFFICE);
    let (control, world) = applied(&text);
    // Two rules, three with the set put in.
    let strict = |most: u32| format!("[policy]\nmax_lookup_cost = {most}\n{text}");
    let refused = control
        .apply(origin(&strict(2)), false)
        .expect_err("too many");
    assert!(matches!(refused, ControlError::TooCostly(..)), "{refused}");
    let refused = refused.to_string();
    assert!(
        refused.contains("vNIC \"a\"") && refused.contains("allows 2"),
        "{refused}"
    );
    assert!(log(&world).is_empty(), "nothing was published");
    assert!(
        judged(&world, 0, [192, 0, 2, 1], 22).is_ok(),
        "the running one goes on"
    );
    control
        .apply(origin(&strict(3)), false)
        .expect("just enough");
}
