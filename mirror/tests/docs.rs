//! What docs/mirroring.md promises to list, it lists.

use mirror::{session::Skip, wire::Refusal};

/// The rows of the first table behind a heading.
fn table(heading: &str) -> Vec<&'static str> {
    let text = include_str!("../../docs/mirroring.md");
    let (_, behind) = text.split_once(heading).expect(heading);
    let lines = behind.lines().skip_while(|line| !line.starts_with("|---"));
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .collect()
}

#[test]
fn every_refusal_is_explained() {
    let expected: Vec<String> = Refusal::ALL
        .iter()
        .map(|refusal| {
            let account = match refusal.account() {
                mirror::wire::refusal::Account::Fragment => "fragment",
                mirror::wire::refusal::Account::Frame => "frame",
                mirror::wire::refusal::Account::Session => "session",
            };
            let (text, advice) = (refusal.text(), refusal.advice());
            format!("| `{refusal}` | {account} | {text} | {advice} |")
        })
        .collect();
    assert_eq!(table("\n## What the decapsulator refuses"), expected);
}

#[test]
fn every_reason_not_to_copy_is_explained() {
    let rows = Skip::ALL.iter();
    let expected: Vec<String> = rows
        .map(|skip| format!("| `{skip}` | {} | {} |", skip.text(), skip.advice()))
        .collect();
    assert_eq!(table("\n## What is not copied"), expected);
}

#[test]
fn names_are_unique_and_texts_are_sentences() {
    let refusals = Refusal::ALL
        .iter()
        .map(|r| (r.name(), r.text(), r.advice()));
    let skips = Skip::ALL.iter().map(|s| (s.name(), s.text(), s.advice()));
    let mut names = Vec::new();
    for (name, text, advice) in refusals.chain(skips) {
        assert!(text.ends_with('.') && advice.ends_with('.'), "{name}");
        names.push(name);
    }
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}
