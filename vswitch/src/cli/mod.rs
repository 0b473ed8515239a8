//! The command line.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{config, control::lifecycle};

/// A userspace virtual switch.
#[derive(Debug, Parser)]
#[command(name = "vswitch", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the switch in the foreground
    Run {
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Never sleep, whatever the configuration says
        #[arg(long)]
        busy_poll: bool,
        /// The control socket, instead of the configuration's
        #[arg(long, env = "VSWITCH_SOCKET", value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Check a configuration; no running switch is needed
    Check {
        /// The configuration
        file: PathBuf,
    },
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run {
            config,
            busy_poll,
            socket,
        } => {
            tracing_subscriber::fmt()
                .with_env_filter(
                    tracing_subscriber::EnvFilter::try_from_default_env()
                        .unwrap_or_else(|_| "info".into()),
                )
                .with_writer(std::io::stderr)
                .init();
            lifecycle::run(&lifecycle::Options {
                config,
                socket,
                busy_poll,
            })
        }
        Command::Check { file } => lifecycle::read_config(&file).and_then(|origin| {
            config::parse(&origin.file, &origin.text, &config::Machine::this())?;
            println!("{}: ok", origin.file);
            Ok(())
        }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vswitch: {error:#}");
            ExitCode::FAILURE
        }
    }
}
