//! The `vswitch` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    vswitch::cli::main()
}
