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
        let (class, verdict) = match target.reached() {
            Some(true) => ("reached", "reached"),
            Some(false) => ("missed", "missed"),
            None => ("unknown", "not measured"),
        };
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"{class}\">{verdict}</td></tr>",
            escape(what),
            escape(&target.need()),
            escape(&target.found()),
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
