//! The tables of the documentation, between markers that name them.
//!
//! ```text
//! <!-- results: performance -->
//! what stands here is written by `vswitch-bench report`
//! <!-- end of results -->
//! ```

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, ensure};

use super::{
    super::{Results, SCENARIOS, results::digits, targets},
    facet::{Facet, facets},
};

const END: &str = "<!-- end of results -->";

/// Puts `new` between the markers called `name` of a file.
///
/// # Errors
/// When the file cannot be read or written, or has no such markers.
pub fn put(path: &Path, name: &str, new: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let text = replaced(&text, name, new).with_context(|| path.display().to_string())?;
    fs::write(path, text).with_context(|| path.display().to_string())
}

fn replaced(text: &str, name: &str, new: &str) -> anyhow::Result<String> {
    let begin = format!("<!-- results: {name} -->");
    let places: Vec<_> = text.match_indices(&begin).collect();
    ensure!(
        places.len() == 1,
        "\"{begin}\" has to stand there once, and does {} times",
        places.len()
    );
    let from = places[0].0 + begin.len();
    let to = text[from..].find(END).map(|at| from + at);
    let to = to.with_context(|| format!("no \"{END}\" after \"{begin}\""))?;
    Ok(format!(
        "{}\n{}\n{}",
        &text[..from],
        new.trim_end(),
        &text[to..]
    ))
}

/// All figures, as docs/performance.md has them.
pub fn performance(results: &Results) -> String {
    let mut text = format!("{}, {}.\n", results.machine.words(), results.date);
    if results.machine.load_before > 0.5 || results.quick {
        let _ = writeln!(
            text,
            "**Not for quoting**: {}.",
            if results.quick {
                "a quick run".to_owned()
            } else {
                format!(
                    "the machine had other work (load {:.1})",
                    results.machine.load_before
                )
            }
        );
    }
    text += "\n### What was to be reached\n\n| what | to reach | found | |\n|---|---|---|---|\n";
    text += &table_of_targets(results);
    for scenario in &SCENARIOS {
        let facets = facets(results.of(scenario.name), scenario.axis);
        if facets.is_empty() {
            continue;
        }
        let _ = write!(
            text,
            "\n### {}\n\n    scripts/bench --only {}\n\n",
            scenario.title, scenario.name
        );
        text += &wrapped(scenario.about);
        for facet in &facets {
            table(facet, &mut text);
        }
    }
    for missing in &results.missing {
        let _ = write!(text, "\nMissing in {}: ", missing.scenario);
        if let Some(contender) = &missing.contender {
            let _ = write!(text, "{contender}: ");
        }
        let _ = writeln!(text, "{}", missing.why.lines().next().unwrap_or_default());
    }
    text
}

/// The few that the README has.
pub fn readme(results: &Results) -> String {
    format!(
        "{}, {}; `scripts/bench`:\n\n| what | to reach | found | |\n|---|---|---|---|\n{}",
        results.machine.words(),
        results.date,
        table_of_targets(results)
    )
}

fn table_of_targets(results: &Results) -> String {
    let mut text = String::new();
    for target in targets::all(results) {
        let verdict = match target.reached() {
            Some(false) => "**missed**",
            _ => target.verdict(),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {verdict} |",
            target.what,
            target.need(),
            target.found()
        );
    }
    text
}

fn table(facet: &Facet<'_>, text: &mut String) {
    let _ = write!(text, "\n{}:\n\n| {} |", facet.title(), facet.axis.name());
    for contender in &facet.contenders {
        let _ = write!(text, " {contender} |");
    }
    let _ = write!(text, "\n|---|{}\n", "---|".repeat(facet.contenders.len()));
    for step in &facet.steps {
        let _ = write!(text, "| {step} |");
        for contender in &facet.contenders {
            let spread = facet.at(step, contender).map(|figure| figure.spread);
            let cell = spread.map_or_else(
                || "–".to_owned(),
                |spread| {
                    format!(
                        "{} ({}–{})",
                        digits(spread.median),
                        digits(spread.min),
                        digits(spread.max)
                    )
                },
            );
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
}

/// A paragraph in lines of 100 characters at most.
fn wrapped(paragraph: &str) -> String {
    let mut text = String::new();
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > 100 {
            text.push('\n');
            column = 0;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text += word;
        column += length;
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "before\n<!-- results: a -->\nold\n<!-- end of results -->\nafter\n";

    #[test]
    fn what_stands_between_markers_is_replaced_and_nothing_else() {
        let new = replaced(TEXT, "a", "| x |\n").expect("has markers");
        assert_eq!(new, TEXT.replace("old", "| x |"));
        assert_eq!(replaced(&new, "a", "old\n").expect("still"), TEXT);
    }

    #[test]
    fn a_file_without_markers_is_refused() {
        assert!(replaced(TEXT, "b", "x").is_err());
        assert!(replaced(&TEXT.replace(END, ""), "a", "x").is_err());
        assert!(replaced(&TEXT.repeat(2), "a", "x").is_err());
    }

    #[test]
    fn lines_are_cut_between_words() {
        let text = wrapped(&"twelve chars ".repeat(20));
        assert!(
            text.lines()
                .all(|line| line.len() <= 100 && !line.ends_with(' '))
        );
        assert_eq!(text.split_whitespace().count(), 40);
    }
}
