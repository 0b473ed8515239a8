//! What a run of the suite found, as it is kept: one JSON file.
//!
//! What must hold: a figure says all that is needed to judge it and to take it again.

use std::{fs, path::Path};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use crate::spread::Spread;

/// A whole run. Its JSON names are stable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// Where.
    pub machine: Machine,
    /// When it began, as `YYYY-MM-DD`, UTC.
    pub date: String,
    /// A look that says that everything works, and nothing about speed.
    pub quick: bool,
    /// What was measured, in that order.
    pub figures: Vec<Figure>,
    /// What could not be measured.
    pub missing: Vec<Missing>,
}

/// One thing measured of one contender under one load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The scenario's name.
    pub scenario: String,
    /// Who: `vswitch`, or what it is compared with.
    pub contender: String,
    /// What, with its unit last: `Mframes/CPU second`.
    pub metric: String,
    /// Whether more of it is better.
    pub better: Better,
    /// Under which load.
    pub load: Load,
    /// Over the rounds.
    #[serde(flatten)]
    pub spread: Spread,
    /// Rounds measured.
    pub rounds: usize,
    /// What takes this figure again.
    pub command: String,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// More.
    Higher,
    /// Less.
    Lower,
}

/// A load, and what it ran on. What does not apply is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Load {
    /// What is special about it: `acl`, `burst of 16`, `under a storm`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub case: Option<String>,
    /// Length of a frame in bytes, without FCS.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub frame_bytes: Option<usize>,
    /// Flows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flows: Option<u64>,
    /// Rules in force.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rules: Option<u64>,
    /// Ports.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ports: Option<u64>,
    /// Cores of the switch; 0 where that is what varies.
    pub cores: usize,
}

/// Something that could not be measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Missing {
    /// The scenario's name.
    pub scenario: String,
    /// Who; `None` is everybody.
    pub contender: Option<String>,
    /// Why.
    pub why: String,
}

impl Results {
    /// Reads a file that [`Results::write`] has written.
    ///
    /// # Errors
    /// When it is not there, or holds something else.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text)
            .with_context(|| format!("{}: not a result of the suite", path.display()))
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        let draft = path.with_extension("json.new");
        fs::write(&draft, text).with_context(|| draft.display().to_string())?;
        fs::rename(&draft, path).with_context(|| path.display().to_string())
    }

    /// Figures of a scenario.
    pub fn of<'a>(&'a self, scenario: &'a str) -> impl Iterator<Item = &'a Figure> {
        self.figures
            .iter()
            .filter(move |figure| figure.scenario == scenario)
    }
}

impl Load {
    /// In words, what varies left out: `64 bytes, 1,000 rules, 1 core`.
    pub fn words(&self) -> String {
        let mut words: Vec<String> = self.case.clone().into_iter().collect();
        let mut count = |number: Option<u64>, one: &str, many: &str| {
            if let Some(number) = number {
                let unit = if number == 1 { one } else { many };
                words.push(format!("{} {unit}", grouped(number)));
            }
        };
        count(self.frame_bytes.map(|bytes| bytes as u64), "byte", "bytes");
        count(self.flows, "flow", "flows");
        count(self.rules, "rule", "rules");
        count(self.ports, "port", "ports");
        let cores = Some(self.cores as u64).filter(|cores| *cores > 0);
        count(cores, "core", "cores");
        words.join(", ")
    }
}

/// A number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A figure's number, with about four digits that say something.
pub fn digits(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "–".to_owned(),
        size if size >= 1000.0 => {
            let sign = if value < 0.0 { "-" } else { "" };
            format!("{sign}{}", grouped(size.round() as u64))
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(digits(12_345.6), "12,346");
        assert_eq!(digits(12.345), "12.3");
        assert_eq!(digits(0.0), "0.00");
        assert_eq!(digits(f64::NAN), "–");
    }

    #[test]
    fn a_load_says_what_applies_and_nothing_else() {
        let load = Load {
            frame_bytes: Some(64),
            flows: Some(1),
            rules: Some(1000),
            cores: 1,
            ..Load::default()
        };
        assert_eq!(load.words(), "64 bytes, 1 flow, 1,000 rules, 1 core");
    }
}
