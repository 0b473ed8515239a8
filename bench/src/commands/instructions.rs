//! `vswitch-bench instructions`, and what it runs under callgrind.

use std::path::PathBuf;

use anyhow::ensure;
use bench::instructions::{self, Change, TOLERANCE, Table, counted};
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Instructions {
    /// What each case is to cost
    #[arg(long, value_name = "FILE", default_value = "bench/instructions.toml")]
    table: PathBuf,
    /// Print the counts as one JSON array, and judge nothing
    #[arg(long)]
    json: bool,
}

impl Instructions {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let counts = instructions::count(&std::env::current_exe()?)?;
        if self.json {
            println!("{}", serde_json::to_string(&counts)?);
            return Ok(());
        }
        let table = Table::read(&self.table)?;
        let mut rose = false;
        for count in &counts {
            let (change, entry) = table.judge(count);
            let judged = match (change, entry) {
                (Change::Same, Some(entry)) => {
                    format!("as the table says ({})", entry.instructions)
                }
                (Change::Fell, Some(entry)) => {
                    format!(
                        "less than {}: write the new number down",
                        entry.instructions
                    )
                }
                (Change::Rose, Some(entry)) => {
                    format!("MORE than {}, which was: {}", entry.instructions, entry.why)
                }
                _ => "MISSING in the table".to_owned(),
            };
            rose |= matches!(change, Change::Rose | Change::New);
            println!(
                "{:10} {:8.1} instructions/frame, {judged}",
                count.name, count.instructions
            );
        }
        let rustc = instructions::rustc()?;
        if rustc != table.rustc {
            println!(
                "the table was counted with rustc {}, this is {rustc}",
                table.rustc
            );
        }
        ensure!(
            !rose,
            "a frame costs over {:.0} % more instructions than {} says. Find out why; if the rise \
             is what the change is worth, write the new number there, and the reason",
            TOLERANCE * 100.0,
            self.table.display()
        );
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(crate) struct CountInstructions {
    /// Which case
    #[arg(value_name = "CASE")]
    case: String,
    /// Rings of 256 frames
    #[arg(long, value_name = "N", default_value_t = 100)]
    passes: u64,
}

impl CountInstructions {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        counted::run(&self.case, self.passes)
    }
}
