//! The `vswitch` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// A lookup among many flows, routes or rules should wait for memory alone.
#[global_allocator]
static ALLOCATOR: pmd::huge_pages::HugePages = pmd::huge_pages::HugePages;

fn main() -> ExitCode {
    vswitch::cli::main()
}
