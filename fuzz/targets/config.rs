//! The text of a configuration: `is_read_or_refused` says what must hold.

#![no_main]

#[path = "../../vswitch/tests/config_text/mod.rs"]
mod config_text;

use config_text::is_read_or_refused;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| is_read_or_refused(text));
