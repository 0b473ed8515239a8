//! What must hold of any text that is given as a configuration. `fuzz/targets/config.rs` asks the
//! same of a fuzzer's texts.

use vswitch::config::{Machine, append_port, parse, remove_port};

const PORT: &str = "[[port]]\nname = \"vm-1\"\ndriver = \"memory\"\n";

/// The text is read or refused, with problems that can be shown, and may be edited either way.
///
/// # Panics
///
/// When that is not so.
pub(crate) fn is_read_or_refused(text: &str) {
    let machine = Machine {
        cores: vec![0, 1],
        memory_bytes: 1 << 32,
    };
    let edited = remove_port(text, "vm-1").unwrap_or_else(|_| append_port(text, PORT));
    for text in [text, &edited] {
        match parse("random.toml", text, &machine) {
            Ok(config) => assert!(!format!("{config:?}").is_empty()),
            Err(problems) => {
                assert!(!problems.0.is_empty());
                assert!(!problems.to_string().is_empty());
            }
        }
    }
}
