//! Golden cases: each folder under `golden/config` holds a configuration and what is said of it.
//! `UPDATE_GOLDEN=1` writes what is said now; read the difference before it is kept.

use std::{collections::BTreeSet, fmt::Write, fs, path::Path};

use vswitch::config::{self, Machine, schema};

fn machine() -> Machine {
    Machine {
        cores: vec![0, 1],
        memory_bytes: 1 << 30,
    }
}

fn said_of(text: &str) -> String {
    match config::parse("config.toml", text, &machine()) {
        Ok(_) => "ok\n".into(),
        Err(problems) => format!("{problems}\n"),
    }
}

#[test]
fn every_case_is_told_as_expected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config");
    let mut wrong = Vec::new();
    let mut cases = 0;
    for entry in fs::read_dir(root).expect("golden folder") {
        let folder = entry.expect("entry").path();
        let text = fs::read_to_string(folder.join("config.toml")).expect("config.toml");
        let said = said_of(&text);
        let expected = folder.join("expected.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&expected, &said).expect("written");
        }
        if fs::read_to_string(&expected).unwrap_or_default() != said {
            wrong.push(format!("{}:\n{said}", folder.display()));
        }
        cases += 1;
    }
    assert!(cases > 10, "the cases are not where they should be");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_problem_anywhere_refuses_the_whole() {
    let text = include_str!("../../examples/vswitch.toml");
    assert_eq!(said_of(text), "ok\n");
    for (number, line) in text.lines().enumerate() {
        if line.contains('=') && !line.trim_start().starts_with('#') {
            let mut lines: Vec<&str> = text.lines().collect();
            lines[number] = "?";
            assert_ne!(said_of(&lines.join("\n")), "ok\n", "line {}", number + 1);
        }
    }
}

#[test]
fn no_text_makes_the_reader_panic() {
    let text = include_str!("../../examples/vswitch.toml");
    for end in (0..text.len())
        .filter(|end| text.is_char_boundary(*end))
        .step_by(7)
    {
        let _ = said_of(&text[..end]);
        let _ = said_of(&text[end..]);
    }
}

#[test]
fn every_field_is_documented_and_in_the_example() {
    let docs = include_str!("../../docs/config.md");
    let example = concat!(
        include_str!("../../examples/vswitch.toml"),
        include_str!("../../examples/decapsulator.toml")
    );
    let mut missing = BTreeSet::new();
    for table in schema::ALL {
        for field in table.fields {
            if !docs.contains(&format!("`{field}`")) && !docs.contains(&format!("[{field}]")) {
                missing.insert(format!("{field} of {} in docs/config.md", table.name));
            }
        }
    }
    // One of two ways to say the same stands in the example.
    let shown = [
        "rate_pps",
        "frame_bytes",
        "eth_src",
        "eth_dst",
        "vlan",
        "dst",
        "src_ports",
        "fragment",
        "tenant",
    ];
    for table in schema::ALL {
        for field in table.fields.iter().filter(|field| !shown.contains(field)) {
            if !example.contains(&format!("{field} ")) && !example.contains(&format!("{field}]")) {
                missing.insert(format!(
                    "{field} of {} in examples/vswitch.toml",
                    table.name
                ));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn a_rule_is_the_same_as_text_and_as_table() {
    let pairs = [
        ("deny any", r#"action = "deny""#),
        (
            "allow in tcp from 10.0.0.0/8 to any port 443,8000-8999 stateful",
            r#"action = "allow_stateful", direction = "in", protocol = "tcp", src = "10.0.0.0/8", dst_ports = [443, "8000-8999"]"#,
        ),
        (
            "reject out udp from any port 53 to @office priority 2000",
            r#"action = "reject", direction = "out", protocol = 17, src_ports = [53], dst = "@office", priority = 2000"#,
        ),
        (
            "allow in tcp from group:web to any port 22,@web",
            r#"action = "allow", direction = "in", protocol = "tcp", src = "group:web", dst_ports = [22, "@web"]"#,
        ),
        (
            "deny icmp type 3 code 4 fragment no",
            r#"action = "deny", protocol = "icmp", icmp_type = 3, icmp_code = 4, fragment = "no""#,
        ),
        (
            "deny tcp flags fin,syn,!ack vlan 5",
            r#"action = "deny", protocol = "tcp", tcp_flags = "syn,fin/syn,fin,ack", vlan = 5"#,
        ),
        (
            "deny ethertype 0x88f7 src-mac 02:00:00:00:00:01 dst-mac 01:00:00:00:00:00/01:00:00:00:00:00",
            r#"action = "deny", ethertype = 0x88f7, eth_src = "02:00:00:00:00:01", eth_dst = "01:00:00:00:00:00/01:00:00:00:00:00""#,
        ),
    ];
    let mut rules = String::new();
    for (text, table) in pairs {
        let _ = writeln!(rules, "  \"{text}\",\n  {{ {table} }},");
    }
    let text = format!(
        "[[group]]\nname = \"web\"\n[[address_set]]\nname = \"office\"\naddresses = []\n[[port_set]]\nname = \"web\"\nports = [80]\n[[acl]]\nname = \"a\"\nrules = [\n{rules}]\n"
    );
    let config = config::parse("config.toml", &text, &machine());
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    let rules: Vec<_> = config.acls[0].rules.iter().collect();
    for (two, (text, _)) in rules.chunks(2).zip(pairs) {
        assert_eq!(two[0].rule, two[1].rule, "{text}");
        assert_eq!([&*two[0].text, &*two[1].text], [text; 2]);
    }
}
