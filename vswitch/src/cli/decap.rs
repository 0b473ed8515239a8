//! `vswitch decap`: a decapsulator that runs alone, and what it tells, there or within the switch.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{
    Shared,
    client::{Client, percent_encoded},
    decap_tables as tables, log_to_stderr, print, print_json, read,
};
use crate::{
    config::{self, Machine, decapsulator},
    decap::{process, view},
};

/// The command's arguments.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(super) struct Decap {
    /// Run a decapsulator in the foreground, without a switch
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration of a decapsulator; none need run
    Check {
        /// The configuration; `-` reads standard input
        file: PathBuf,
    },
    /// Apply a configuration to the decapsulator that runs alone, whole or not at all
    Apply {
        /// The configuration; `-` reads standard input
        file: PathBuf,
    },
    /// Show one aspect of the running decapsulator
    #[command(subcommand)]
    Show(Show),
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Show {
    /// The decapsulator as a whole: what came, and what was refused
    Totals,
    /// Every session, and what became of its frames
    Sessions,
    /// Every sniffer, and what it got
    Sniffers,
    /// Sessions that are sent and not known
    Unknown,
}

impl Decap {
    pub(super) fn execute(self, shared: &Shared) -> anyhow::Result<()> {
        if let Some(config) = self.config {
            log_to_stderr();
            return process::run(&process::Options {
                config,
                socket: shared.socket.clone(),
            });
        }
        match self.command {
            Some(Command::Check { file }) => check(shared, &file),
            Some(Command::Apply { file }) => apply(shared, &file),
            Some(Command::Show(show)) => show.execute(shared),
            // Clap has shown the help.
            None => Ok(()),
        }
    }
}

/// The decapsulator that runs alone if one does, else the switch's.
fn client(shared: &Shared) -> Client {
    let default = || {
        let alone = Path::new(decapsulator::DEFAULT_SOCKET);
        let switch = Path::new(config::DEFAULT_SOCKET);
        if alone.exists() { alone } else { switch }.to_owned()
    };
    Client::new(shared.socket.clone().unwrap_or_else(default))
}

fn check(shared: &Shared, file: &Path) -> anyhow::Result<()> {
    let origin = read(file)?;
    let outcome = decapsulator::parse(&origin.file, &origin.text, &Machine::this());
    if shared.json {
        let problems = outcome
            .as_ref()
            .err()
            .map_or(&[][..], |problems| &problems.0);
        print_json(&serde_json::json!({
            "file": origin.file,
            "ok": outcome.is_ok(),
            "problems": problems,
        }))?;
        outcome.map_err(|_| anyhow::anyhow!("the configuration has problems"))?;
        return Ok(());
    }
    let decapsulator = outcome?.decapsulator;
    print(&format!(
        "{}: ok ({} sessions, {} sniffers)",
        origin.file,
        decapsulator.sessions.len(),
        decapsulator.sniffers.len()
    ))
}

fn apply(shared: &Shared, file: &Path) -> anyhow::Result<()> {
    let origin = read(file)?;
    let path = format!("/v1/decap/apply?file={}", percent_encoded(&origin.file));
    let body = client(shared).request("POST", &path, Some(origin.text))?;
    shared.show(&body, |done: &serde_json::Value| {
        let count = |name: &str| done.get(name).and_then(serde_json::Value::as_u64);
        format!(
            "{} sessions and {} sniffers in force, table {}",
            count("sessions").unwrap_or(0),
            count("sniffers").unwrap_or(0),
            count("table").unwrap_or(0)
        )
    })
}

impl Show {
    fn execute(self, shared: &Shared) -> anyhow::Result<()> {
        let client = client(shared);
        let get = |path| client.request("GET", path, None);
        match self {
            Self::Totals => shared.show(&get("/v1/decap")?, tables::totals),
            Self::Sessions => shared
                .show(&get("/v1/decap/sessions")?, |rows: &Vec<view::Session>| {
                    tables::sessions(rows)
                }),
            Self::Sniffers => shared
                .show(&get("/v1/decap/sniffers")?, |rows: &Vec<view::Sniffer>| {
                    tables::sniffers(rows)
                }),
            Self::Unknown => shared
                .show(&get("/v1/decap/unknown")?, |rows: &Vec<view::Unknown>| {
                    tables::unknown(rows)
                }),
        }
    }
}
