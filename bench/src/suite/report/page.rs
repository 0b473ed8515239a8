//! The page: one HTML file that needs nothing else.

use std::fmt::Write;

use super::{
    super::{
        Results, SCENARIOS, Scenario,
        results::digits,
        targets::{self, Target},
    },
    facet::{Facet, facets},
    plot,
};

const STYLE: &str = include_str!("page.css");

/// Draws everything.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn page(results: &Results) -> anyhow::Result<String> {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width\"/>\n\
         <title>vswitch: performance</title>\n<style>{STYLE}{}</style>\n</head>\n<body>\n\
         <h1>vswitch: performance, side by side</h1>\n",
        plot::style()
    );
    let _ = writeln!(
        html,
        "<p>{}, {}. Taken by <code>scripts/bench</code>. Bars are medians of rounds that the contenders \
         had in turns; whiskers go from the least round to the most. Frame lengths are without \
         FCS.</p>",
        escape(&results.machine.words()),
        escape(&results.date)
    );
    warnings(results, &mut html);
    table_of_targets(results, &mut html);
    for scenario in &SCENARIOS {
        section(results, scenario, &mut html)?;
    }
    html += "</body>\n</html>\n";
    Ok(html)
}

fn warnings(results: &Results, html: &mut String) {
    if results.quick {
        html.push_str(
            "<p class=\"note\">A quick run: it says that everything works, and nothing about \
             speed.</p>\n",
        );
    }
    if results.machine.load_before > 0.5 {
        let _ = writeln!(
            html,
            "<p class=\"note\">The machine had other work when this began (load {:.1}): what \
             follows compares contenders, and says too little of each.</p>",
            results.machine.load_before
        );
    }
}

fn table_of_targets(results: &Results, html: &mut String) {
    html.push_str(
        "<h2>What was to be reached</h2>\n<table>\n<tr><th>what</th><th>to reach</th>\
         <th>found</th><th></th></tr>\n",
    );
    for target in targets::all(results) {
        let Target { ref what, .. } = target;
        let class = match target.reached() {
            Some(true) => "reached",
            Some(false) => "missed",
            None => "unknown",
        };
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"{class}\">{}</td></tr>",
            escape(what),
            escape(&target.need()),
            escape(&target.found()),
            target.verdict(),
        );
    }
    html.push_str("</table>\n");
}

fn section(results: &Results, scenario: &Scenario, html: &mut String) -> anyhow::Result<()> {
    let missing: Vec<_> = results
        .missing
        .iter()
        .filter(|missing| missing.scenario == scenario.name)
        .collect();
    let facets = facets(results.of(scenario.name), scenario.axis);
    if facets.is_empty() && missing.is_empty() {
        return Ok(());
    }
    let _ = writeln!(
        html,
        "<h2 id=\"{}\">{}</h2>\n<p>{}</p>",
        scenario.name,
        escape(scenario.title),
        escape(scenario.about)
    );
    if let Some(figure) = results.of(scenario.name).next() {
        let _ = writeln!(
            html,
            "<p>Again: <code>{}</code>; {} rounds.</p>",
            escape(&figure.command),
            figure.rounds
        );
    }
    for missing in missing {
        let _ = writeln!(
            html,
            "<p class=\"note\">Missing: {}{}</p>",
            missing
                .contender
                .as_ref()
                .map_or_else(String::new, |name| format!("{}: ", escape(name))),
            escape(&missing.why)
        );
    }
    for facet in &facets {
        let _ = writeln!(html, "<figure>\n<h3>{}</h3>", escape(&facet.title()));
        html.push_str(&plot::draw(facet)?);
        key(facet, html);
        table(facet, html);
        html.push_str("</figure>\n");
    }
    Ok(())
}

fn key(facet: &Facet<'_>, html: &mut String) {
    html.push_str("<ul class=\"key\">");
    for contender in &facet.contenders {
        let class = plot::class(contender);
        let _ = write!(
            html,
            "<li><i class=\"{class}\"></i>{}</li>",
            escape(contender)
        );
    }
    html.push_str("</ul>\n");
}

fn table(facet: &Facet<'_>, html: &mut String) {
    let _ = write!(html, "<table>\n<tr><th>{}</th>", facet.axis.name());
    for contender in &facet.contenders {
        let _ = write!(html, "<th>{}</th>", escape(contender));
    }
    html.push_str("</tr>\n");
    for step in &facet.steps {
        let _ = write!(html, "<tr><td>{}</td>", escape(step));
        for contender in &facet.contenders {
            match facet.at(step, contender).map(|figure| figure.spread) {
                Some(spread) => {
                    let _ = write!(
                        html,
                        "<td>{} <small>({}–{})</small></td>",
                        digits(spread.median),
                        digits(spread.min),
                        digits(spread.max)
                    );
                }
                None => html.push_str("<td>–</td>"),
            }
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        spread::Spread,
        suite::{Better, Figure, Load, Missing, machine::Machine},
    };

    fn results() -> Results {
        let figure = |scenario: &str, contender: &str, flows, median: f64| Figure {
            scenario: scenario.to_owned(),
            contender: contender.to_owned(),
            metric: "Mframes/CPU second".to_owned(),
            better: Better::Higher,
            load: Load {
                case: Some("acl <&\"> x".to_owned()),
                flows: Some(flows),
                cores: 1,
                ..Load::default()
            },
            spread: Spread {
                min: median * 0.9,
                median,
                max: median * 1.2,
            },
            rounds: 3,
            command: "scripts/bench --only x".to_owned(),
        };
        let mut figures = Vec::new();
        for scenario in &SCENARIOS {
            for (contender, factor) in [
                ("vswitch", 1.0),
                ("openvswitch", 0.4),
                ("somebody & else", 0.0),
            ] {
                for flows in [1, 1_000_000] {
                    figures.push(figure(scenario.name, contender, flows, 12.5 * factor));
                }
            }
        }
        figures.push(figure("walk", "vswitch", 7, f64::NAN));
        Results {
            machine: Machine::here(Some("a <host>")),
            date: "2026-01-02".to_owned(),
            quick: true,
            figures,
            missing: vec![Missing {
                scenario: "veth".to_owned(),
                contender: Some("x".to_owned()),
                why: "a < b && c".to_owned(),
            }],
        }
    }

    /// Every element that begins ends, in its order, and text has no loose signs.
    fn check_well_formed(text: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = text
            .strip_prefix("<!DOCTYPE html>")
            .expect("a document type");
        while let Some(at) = rest.find('<') {
            let (before, tag) = rest.split_at(at);
            assert!(
                !before.contains('>') || open.last() == Some(&"style"),
                "loose > in {before:?}"
            );
            for (at, _) in before.match_indices('&') {
                let end = before[at..].find(';').expect("an entity ends");
                assert!(end < 8, "loose & in {before:?}");
            }
            let end = tag.find('>').expect("a tag ends");
            let inside = &tag[1..end];
            rest = &tag[end + 1..];
            assert_eq!(inside.matches('"').count() % 2, 0, "quotes in <{inside}>");
            if let Some(name) = inside.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "</{name}> ends something else");
            } else if !inside.ends_with('/') {
                open.push(inside.split_whitespace().next().expect("a name"));
            }
        }
        assert!(open.is_empty(), "{open:?} never end");
    }

    #[test]
    fn a_page_is_well_formed_and_needs_nothing_else() {
        let page = page(&results()).expect("draws");
        check_well_formed(&page);
        let without_name_space = page.replace("http://www.w3.org/2000/svg", "");
        for reference in [
            "http:", "https:", "//", "src=", "href=", "@import", "url(", "<script",
        ] {
            assert!(
                !without_name_space.contains(reference),
                "{reference} in the page"
            );
        }
        assert!(page.contains("prefers-color-scheme:dark") && page.contains("@media print"));
    }

    #[test]
    fn every_scenario_has_a_plot_with_a_table_and_the_command() {
        let page = page(&results()).expect("draws");
        for scenario in &SCENARIOS {
            let id = format!("<h2 id=\"{}\">", scenario.name);
            let section = page.split(&id).nth(1).expect("a section");
            let section = section.split("<h2").next().expect("its text");
            for part in ["<svg", "<table", "scripts/bench", "12.5", "11.2", "15.0"] {
                assert!(section.contains(part), "{} has no {part}", scenario.name);
            }
        }
    }

    #[test]
    fn a_quick_run_says_that_it_is_one() {
        let page = page(&results()).expect("draws");
        assert!(page.contains("A quick run"));
        let whole = super::page(&Results {
            quick: false,
            ..results()
        });
        assert!(!whole.expect("draws").contains("A quick run"));
    }

    #[test]
    fn results_are_read_back_as_they_were_written() {
        let directory = crate::process::Directory::new().expect("a directory");
        let path = directory.join("x.json");
        let mut results = results();
        // JSON has no number that is none.
        results
            .figures
            .retain(|figure| figure.spread.median.is_finite());
        results.write(&path).expect("writes");
        let read = Results::read(&path).expect("reads");
        assert_eq!(read.figures, results.figures);
        assert_eq!(read.date, results.date);
    }
}
