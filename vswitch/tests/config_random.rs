//! Configurations that somebody's hand, or a bad editor, has been at: whatever the text, it is
//! read or refused.

mod config_text;

use std::{fs, path::Path};

use config_text::is_read_or_refused;
use proptest::prelude::*;

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_spoilt_configuration_is_read_or_refused(changes in changes()) {
        let mut text = example();
        for change in &changes {
            apply(&mut text, change);
        }
        is_read_or_refused(&text);
    }
}
