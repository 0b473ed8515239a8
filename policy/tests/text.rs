//! Rules as text: what is printed is read back to the same rule, errors point at what is wrong,
//! and names of sets stand for what is in them.

mod common;

use std::sync::Arc;

use common::{any_action, any_match};
use ipnet::IpNet;
use policy::{
    model::{Action, RateLimit},
    rule::{Direction, Match, Members, Sets, WrittenRule},
};
use proptest::{option, prelude::*, sample::select};

fn parse(text: &str) -> WrittenRule {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// What most parts begin with; what stands behind it belongs to it.
const BEGIN: [&str; 12] = [
    "from",
    "to",
    "flags",
    "fragment",
    "ethertype",
    "vlan",
    "src-mac",
    "dst-mac",
    "stateful",
    "log",
    "limit",
    "priority",
];

fn any_members() -> impl Strategy<Value = Members> {
    let name = || "[a-zA-Z0-9_.-]{1,9}".prop_map(Arc::from);
    prop_oneof![
        name().prop_map(Members::Set),
        name().prop_map(Members::Group)
    ]
}

fn any_limit() -> impl Strategy<Value = RateLimit> {
    (1..=u32::MAX, 1..=u32::MAX, any::<bool>()).prop_map(|(per_second, burst, whole)| RateLimit {
        per_second,
        burst: if whole { per_second } else { burst },
    })
}

/// Every kind of rule that is valid.
fn any_written() -> impl Strategy<Value = WrittenRule> {
    let sets = || proptest::collection::vec("[a-z-]{1,5}".prop_map(Arc::from), 0..3);
    let named = (
        option::weighted(0.3, any_members()),
        option::weighted(0.3, any_members()),
        sets(),
        sets(),
    );
    let direction = select(vec![None, Some(Direction::In), Some(Direction::Out)]);
    let priority = prop_oneof![Just(WrittenRule::DEFAULT_PRIORITY), any::<u16>()];
    let effects = (any::<bool>(), option::of(any_limit()), priority);
    (any_match(), any_action(), direction, named, effects)
        .prop_map(|(mut matches, action, direction, named, effects)| {
            let (src, dst, src_port_sets, dst_port_sets) = named;
            let (log, limit, priority) = effects;
            matches.src = matches.src.filter(|_| src.is_none()).map(|net| net.trunc());
            matches.dst = matches.dst.filter(|_| dst.is_none()).map(|net| net.trunc());
            let has_ports = matches!(matches.protocol, Some(6 | 17 | 132));
            let only = |sets: Vec<Arc<str>>| if has_ports { sets } else { Vec::new() };
            WrittenRule {
                direction,
                src,
                dst,
                src_port_sets: only(src_port_sets),
                dst_port_sets: only(dst_port_sets),
                log,
                limit,
                priority,
                ..WrittenRule::new(action, matches)
            }
        })
        .prop_filter("contradicts itself", |rule| rule.validate().is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_printed_rule_is_read_back_to_itself(rule in any_written()) {
        let text = rule.to_string();
        let read: WrittenRule = text.parse().map_err(|error| {
            TestCaseError::fail(format!("{text}: {error}"))
        })?;
        prop_assert_eq!(&read, &rule, "{}", text);
        prop_assert_eq!(read.to_string(), text);
    }

    #[test]
    fn the_order_of_parts_and_the_case_of_words_do_not_matter(rule in any_written()) {
        let text = rule.to_string();
        let mut parts: Vec<Vec<&str>> = vec![Vec::new()];
        for word in text.split(' ') {
            if BEGIN.contains(&word) {
                parts.push(Vec::new());
            }
            parts.last_mut().expect("one").push(word);
        }
        parts[1..].reverse();
        let turned = parts.concat().join("  \t");
        prop_assert_eq!(&parse(&turned), &rule, "{}", turned);
        if !text.contains(['@', ':']) {
            prop_assert_eq!(&parse(&text.to_uppercase().replace("0X", "0x")), &rule, "{}", text);
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(
        words in proptest::collection::vec(prop_oneof![
            select(vec![
                "allow", "deny", "reject", "in", "out", "any", "tcp", "icmp", "arp", "from", "to",
                "port", "type", "code", "flags", "fragment", "vlan", "src-mac", "limit", "burst",
                "priority", "stateful", "log", "@", "group:", "443,", "1-", "!", "é", "10.0.0.1/8",
            ]).prop_map(String::from),
            ".{0,6}",
        ], 0..12),
    ) {
        let text = words.join(" ");
        match text.parse::<WrittenRule>() {
            Ok(rule) => prop_assert_eq!(parse(&rule.to_string()), rule),
            Err(error) => {
                prop_assert!(text.is_char_boundary(error.span.start));
                prop_assert!(error.span.end <= text.len(), "{}", error);
                prop_assert!(error.column <= text.chars().count() + 1);
            }
        }
    }
}

#[test]
fn rules_read_as_they_are_meant() {
    let web = parse("allow in tcp from 10.0.0.0/8 port any to any port 443,8000-8999 stateful");
    let expected = WrittenRule {
        direction: Some(Direction::In),
        ..WrittenRule::new(
            Action::AllowStateful,
            Match {
                src: "10.0.0.0/8".parse().ok(),
                protocol: Some(6),
                dst_ports: vec![443..=443, 8000..=8999],
                ..Match::default()
            },
        )
    };
    assert_eq!(web, expected);
    assert_eq!(
        web.to_string(),
        "allow in tcp from 10.0.0.0/8 to any port 443,8000-8999 stateful"
    );
    for canonical in [
        "deny any",
        "reject out tcp to @mail port 25,@submission log limit 10/s burst 3 priority 2000",
        "allow in udp from group:web port 53 limit 100/s",
        "deny arp src-mac 02:00:00:00:00:01",
        "allow icmpv6 type 1 code 4 from fd00::1",
        "deny ipv6 fragment any",
        "deny ethertype 0x88f7 vlan 100 dst-mac 01:00:00:00:00:00/01:00:00:00:00:00",
        "deny tcp flags syn,!ack",
        "allow protocol 99 to 192.0.2.7",
    ] {
        assert_eq!(parse(canonical).to_string(), canonical);
    }
}

#[test]
fn errors_point_at_the_column_and_say_what_to_write() {
    for (text, column, message) in [
        ("", 1, "ends where an action is expected"),
        (
            "alow tcp",
            1,
            "\"alow\" is not an action; did you mean \"allow\"?",
        ),
        ("allow in", 9, "for everything, write any"),
        ("allow in tpc", 10, "did you mean \"tcp\"?"),
        ("allow tcp form 10.0.0.0/8", 11, "did you mean \"from\"?"),
        ("allow tcp port 80", 11, "to any port 443"),
        (
            "allow tcp from 10.0.0.1/8",
            16,
            "write 10.0.0.0/8 or 10.0.0.1",
        ),
        ("allow tcp from web", 16, "\"web\" cannot stand behind from"),
        ("allow tcp from @", 16, "1 to 64 letters"),
        (
            "allow tcp to any port 80,90-85",
            26,
            "\"90-85\" is not a port",
        ),
        ("allow tcp to any port 80, 81", 26, "\"\" is not a port"),
        ("allow to any port 80", 14, "ports need protocol"),
        ("allow tcp to any port @web,x", 28, "\"x\" is not a port"),
        ("deny tcp flags syn,akc", 20, "did you mean \"ack\"?"),
        ("deny tcp flags syn,syn", 20, "named twice"),
        ("deny any stateful", 10, "only what is allowed"),
        ("deny udp log log", 14, "says twice"),
        ("deny any tcp", 10, "says twice"),
        ("deny udp limit 0/s", 16, "100/s burst 20"),
        (
            "deny udp limit 5/s burst",
            25,
            "ends where a number of frames",
        ),
        ("deny icmp type 256", 16, "write 0 to 255"),
        ("allow icmp from fd00::1", 7, "icmpv6 with IPv6"),
        ("allow arp from @web", 7, "excludes the addresses"),
        ("deny é vlan 0", 6, "\"é\" is not known here"),
        ("deny any vlan 4095", 15, "write 1 to 4094"),
        ("deny any priority 65536", 19, "write 0 to 65535"),
    ] {
        let error = text.parse::<WrittenRule>().expect_err(text);
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.to_string().contains(message), "{text}: {error}");
    }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts
        .iter()
        .map(|net| net.parse().expect("a prefix"))
        .collect()
}

fn sets() -> Sets {
    let mut sets = Sets::default();
    let set = |name: &str| Members::Set(name.into());
    sets.addresses(
        set("mixed"),
        &nets(&["10.0.0.0/24", "10.0.1.0/24", "10.0.0.7/32", "fd00::/64"]),
    );
    sets.addresses(set("two"), &nets(&["192.0.2.1/32", "192.0.2.9/32"]));
    sets.addresses(set("none"), &[]);
    sets.addresses(set("all"), &nets(&["0.0.0.0/0", "::/0", "10.0.0.0/8"]));
    sets.addresses(Members::Group("web".into()), &nets(&["fd00::5/128"]));
    sets.ports("web".into(), vec![443..=443, 80..=80]);
    sets.ports(
        "much".into(),
        vec![7..=9, 65535..=65535, 1..=6, 2..=3, 11..=65535],
    );
    sets.ports("none".into(), Vec::new());
    sets
}

#[test]
fn names_stand_for_what_is_in_the_sets() {
    for (text, expected) in [
        ("deny any", &["any"][..]),
        // Neighbours are joined, covered ones left out.
        ("deny from @mixed", &["from 10.0.0.0/23", "from fd00::/64"]),
        (
            "deny tcp from @mixed to @two port 22,@web",
            &[
                "tcp from 10.0.0.0/23 to 192.0.2.1 port 22,80,443",
                "tcp from 10.0.0.0/23 to 192.0.2.9 port 22,80,443",
            ],
        ),
        ("deny icmpv6 from @mixed", &["icmpv6 from fd00::/64"]),
        ("deny ipv4 from @mixed", &["ipv4 from 10.0.0.0/23"]),
        (
            "deny from @mixed to fd00::1",
            &["from fd00::/64 to fd00::1"],
        ),
        ("deny to group:web", &["to fd00::5"]),
        ("deny from @all", &["from 0.0.0.0/0", "from ::/0"]),
        ("deny from @none", &[]),
        ("deny from group:unknown", &[]),
        (
            "deny from @two to @mixed",
            &[
                "from 192.0.2.1 to 10.0.0.0/23",
                "from 192.0.2.9 to 10.0.0.0/23",
            ],
        ),
        (
            "deny udp from any port @much",
            &["udp from any port 1-9,11-65535"],
        ),
        // Without a port left the rule is gone, and does not match every port.
        ("deny tcp to any port @none", &[]),
        ("deny tcp to any port 22,@none", &["tcp to any port 22"]),
    ] {
        let rule = parse(text);
        let sets = sets();
        let expanded = rule.expand(&sets);
        let texts: Vec<String> = expanded.iter().map(ToString::to_string).collect();
        assert_eq!(texts, expected, "{text}");
        assert_eq!(rule.expansions(&sets), expanded.len(), "{text}");
        assert!(expanded.iter().all(|m| m.validate().is_ok()), "{text}");
    }
}
