//! Configurations that somebody's hand, or a bad editor, has been at: whatever the text, it is
//! read or refused.

mod config_text;

use std::{fs, path::Path};

use config_text::is_read_or_refused;
use proptest::prelude::*;
use vswitch::config::{Machine, parse, parse_after};

/// One thing that happens to a text, at a place between 0 and 1 of it.
#[derive(Clone, Debug)]
enum Change {
    Delete(f64, usize),
    Insert(f64, String),
    /// Lines from the first place to the second once more, at the third.
    Repeat(f64, f64, f64),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let place = || 0.0..1.0f64;
    // What a configuration is made of, and what it is not.
    let word = prop_oneof![
        "[-a-z0-9_./:\"'=,\\[\\]{}# \n]{0,12}",
        ".{0,4}",
        Just("[[port]]\n".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("-1".to_owned()),
        Just("= {".to_owned()),
        Just("\"\"".to_owned()),
    ];
    let change = prop_oneof![
        (place(), 0..40usize).prop_map(|(at, len)| Change::Delete(at, len)),
        (place(), word).prop_map(|(at, word)| Change::Insert(at, word)),
        (place(), place(), place()).prop_map(|(from, to, at)| Change::Repeat(from, to, at)),
    ];
    prop::collection::vec(change, 1..6)
}

/// Where the character begins that byte `at` belongs to.
fn boundary(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    let begins = |at: &usize| text.is_char_boundary(*at);
    (0..=at).rev().find(begins).unwrap_or(0)
}

fn index(text: &str, place: f64) -> usize {
    boundary(text, (text.len() as f64 * place) as usize)
}

fn apply(text: &mut String, change: &Change) {
    match change {
        Change::Delete(at, len) => {
            let from = index(text, *at);
            let to = boundary(text, from + len);
            text.replace_range(from..to, "");
        }
        Change::Insert(at, word) => text.insert_str(index(text, *at), word),
        Change::Repeat(from, to, at) => {
            let lines: Vec<&str> = text.lines().collect();
            let line = |place: f64| (lines.len() as f64 * place) as usize;
            let (from, to, at) = (line(from.min(*to)), line(from.max(*to)), line(*at));
            let mut changed = lines.clone();
            changed.splice(at..at, lines[from..to].iter().copied());
            *text = changed.join("\n");
        }
    }
}

fn example() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(folder.join("../examples/vswitch.toml")).expect("the example")
}

/// The example, with a list in which there is something to keep.
fn long_example() -> String {
    let rule = |n: u32| match n % 3 {
        0 => format!("  {{ action = \"deny\", dst = \"10.1.0.{n}\" }},\n"),
        1 => format!("  \"allow in udp to any port {n}\", # {n}\n"),
        _ => format!("  'deny in tcp to any port {n}',\n"),
    };
    let rules: String = (0..120).map(rule).collect();
    format!(
        "[[group]]\nname = \"long\"\nrules = [\n{}]\n[[acl]]\nname = \"long\"\nrules = [{rules}]\n{}",
        rules.replace("\"deny\"", "\"deny\", direction = \"in\""),
        example()
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn after_another_a_configuration_is_what_it_is_alone(changes in changes()) {
        let machine = Machine {
            cores: vec![0, 1],
            memory_bytes: 1 << 32,
        };
        let before = long_example();
        let mut text = before.clone();
        let former = parse("random.toml", &before, &machine).expect("sound");
        for change in &changes {
            apply(&mut text, change);
            let alone = parse("random.toml", &text, &machine);
            let after = parse_after((&before, &former), "random.toml", &text, &machine);
            prop_assert_eq!(format!("{alone:?}"), format!("{after:?}"));
        }
    }

    #[test]
    fn a_spoilt_configuration_is_read_or_refused(changes in changes()) {
        let mut text = example();
        for change in &changes {
            apply(&mut text, change);
        }
        is_read_or_refused(&text);
    }
}
