//! Instructions that the walk executes for a frame: the same on every machine, so that a change's
//! cost is seen where nothing can be timed.
//!
//! In: a [`Table`] of what each case is to cost. Out: what it costs, by `valgrind --tool=callgrind`
//! on this very program, which runs [`counted::run`]. Two runs of different length are compared, so
//! that only what each further frame costs is left; the clock stands still in them, flows and secrets
//! come from fixed seeds, and the C library is told to use the copies that every x86-64 processor has.
//!
//! What must hold: a case that costs more than the table says, by more than [`TOLERANCE`], fails; the
//! table says who last moved it, and why.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::process::{self, Directory};

pub mod counted;

/// By how much a count may rise unexplained.
pub const TOLERANCE: f64 = 0.03;

/// Passes of 256 frames of the two runs.
const PASSES: [u64; 2] = [40, 240];

/// What the C library may not use: which of its copies it chooses depends on the processor.
const TUNABLES: &str = "glibc.cpu.hwcaps=-AVX512VL,-AVX512F,-AVX2,-AVX,-ERMS,-FSRM,\
                        -AVX_Fast_Unaligned_Load";

/// What each case is to cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The compiler that made the counted program: another one makes other instructions.
    pub rustc: String,
    /// The cases.
    #[serde(rename = "case")]
    pub cases: Vec<Entry>,
}

/// What a case is to cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// One of [`counted::CASES`].
    pub name: String,
    /// Instructions per frame.
    pub instructions: f64,
    /// What moved it last.
    pub why: String,
}

/// What a case costs now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Count {
    /// The case.
    pub name: String,
    /// Instructions per frame.
    pub instructions: f64,
}

/// How a count compares with the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Within the tolerance.
    Same,
    /// Less: the table can follow.
    Fell,
    /// More than is allowed.
    Rose,
    /// The table does not know the case.
    New,
}

impl Table {
    /// Reads a table.
    ///
    /// # Errors
    /// When it cannot be read, or an entry makes no sense.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let table: Self = toml::from_str(text)?;
        for entry in &table.cases {
            let Entry { name, why, .. } = entry;
            ensure!(
                counted::CASES.iter().any(|case| case.name == name),
                "there is no case \"{name}\""
            );
            ensure!(
                entry.instructions.is_finite() && entry.instructions > 0.0,
                "{name}: {} instructions make no sense",
                entry.instructions
            );
            ensure!(!why.trim().is_empty(), "{name}: say why it is what it is");
        }
        Ok(table)
    }

    /// How a count compares.
    pub fn judge(&self, count: &Count) -> (Change, Option<&Entry>) {
        let Some(entry) = self.cases.iter().find(|entry| entry.name == count.name) else {
            return (Change::New, None);
        };
        let ratio = count.instructions / entry.instructions;
        let change = if ratio > 1.0 + TOLERANCE {
            Change::Rose
        } else if ratio < 1.0 - TOLERANCE {
            Change::Fell
        } else {
            Change::Same
        };
        (change, Some(entry))
    }
}

/// Counts every case with the program `binary`, which is this one.
///
/// # Errors
/// When valgrind is missing or a run fails.
pub fn count(binary: &Path) -> anyhow::Result<Vec<Count>> {
    let directory = Directory::new()?;
    let each = counted::CASES.iter().map(|case| {
        let [few, many] = PASSES;
        let less = collected(binary, &directory, case.name, few)?;
        let more = collected(binary, &directory, case.name, many)?;
        let frames = (many - few) * u64::from(crate::walk::RING_SLOTS);
        Ok(Count {
            name: case.name.to_owned(),
            instructions: more.saturating_sub(less) as f64 / frames as f64,
        })
    });
    each.collect()
}

/// The compiler at hand.
///
/// # Errors
/// When there is none.
pub fn rustc() -> anyhow::Result<String> {
    let version = process::run(Command::new("rustc").arg("--version"))?;
    let version = version.split_whitespace().nth(1);
    Ok(version.unwrap_or("unknown").to_owned())
}

fn collected(binary: &Path, directory: &Directory, case: &str, passes: u64) -> anyhow::Result<u64> {
    let file = directory.join("callgrind.out");
    process::run(
        Command::new("valgrind")
            .args(["--tool=callgrind", "--collect-atstart=no"])
            .arg(format!("--toggle-collect=*{}*", counted::MARK))
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(binary)
            .args(["count-instructions", case, "--passes", &passes.to_string()])
            .env("GLIBC_TUNABLES", TUNABLES),
    )
    .context("counting instructions; install valgrind, and build with cargo build --release")?;
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let total = summary(&text).context("callgrind collected nothing: was the program stripped?")?;
    ensure!(
        total > 0,
        "callgrind collected nothing: was the program stripped?"
    );
    Ok(total)
}

/// The number of instructions in callgrind's file.
fn summary(text: &str) -> Option<u64> {
    let lines = ["summary:", "totals:"];
    let line = lines
        .iter()
        .find_map(|key| text.lines().find_map(|line| line.strip_prefix(key)))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let text =
            "rustc = \"1.0.0\"\n[[case]]\nname = \"hit\"\ninstructions = 100.0\nwhy = \"first\"\n";
        Table::parse(text).expect("a table")
    }

    fn change(instructions: f64) -> Change {
        let name = "hit".to_owned();
        table().judge(&Count { name, instructions }).0
    }

    #[test]
    fn only_a_rise_above_the_tolerance_is_one() {
        assert_eq!(change(100.0), Change::Same);
        assert_eq!(change(102.9), Change::Same);
        assert_eq!(change(103.1), Change::Rose);
        assert_eq!(change(97.1), Change::Same);
        assert_eq!(change(96.9), Change::Fell);
    }

    #[test]
    fn a_case_that_the_table_does_not_have_is_new() {
        let count = Count {
            name: "miss".to_owned(),
            instructions: 1.0,
        };
        assert_eq!(table().judge(&count), (Change::New, None));
    }

    #[test]
    fn a_table_must_make_sense() {
        let case = |name, count, why| {
            let text = format!(
                "rustc = \"1\"\n[[case]]\nname = \"{name}\"\ninstructions = {count}\nwhy = \"{why}\"\n"
            );
            Table::parse(&text)
        };
        assert!(case("hit", "1.0", "x").is_ok());
        assert!(case("hot", "1.0", "x").is_err());
        assert!(case("hit", "0.0", "x").is_err());
        assert!(case("hit", "nan", "x").is_err());
        assert!(case("hit", "1.0", " ").is_err());
    }

    #[test]
    fn the_table_in_the_repository_has_every_case() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.toml");
        let table = Table::read(Path::new(path)).expect("a table");
        for case in &counted::CASES {
            let known = table.cases.iter().any(|entry| entry.name == case.name);
            assert!(known, "{path} says nothing of {}", case.name);
        }
    }

    #[test]
    fn callgrinds_total_is_found() {
        let text = "version: 1\nevents: Ir\nsummary: 1234\n\nfn=(1) x\n1 2\n\ntotals: 1234\n";
        assert_eq!(summary(text), Some(1234));
        assert_eq!(summary("fn=(1)\n"), None);
    }
}
