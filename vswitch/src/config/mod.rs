//! The configuration: the whole desired state of the switch, in TOML.
//!
//! ```text
//!   text ──section──► tables with places ──read──► typed parts ──check──► Config
//!                        │                   │                    │
//!                        └──────── problems, all of them ─────────┘
//! ```
//!
//! In: a text and the file's name. Out: a [`Config`] in which every name resolves and every
//! value is in range, or every [`Problem`] that was found. What must hold: whatever the text, no
//! panic; a configuration with a problem is refused whole.
//!
//! `docs/config.md` documents it field by field.

mod acl_rules;
mod advertisements;
mod check;
mod check_rules;
mod check_services;
pub mod connections;
pub mod decapsulator;
mod edit;
mod host_routes;
pub mod lists;
pub mod mirroring;
mod port;
pub mod problem;
mod read;
mod reuse;
mod router;
mod rules;
pub mod schema;
mod section;
pub mod service_types;
mod services;
pub mod types;

pub use edit::{RemoveError, SetError, append_port, remove_port, replace_members};
pub use problem::{Problem, Problems};
pub use read::DEFAULT_SOCKET;
pub use router::read_route;
pub use types::Config;

use reuse::Kept;
use section::Reader;

/// The largest configuration that is read, in bytes.
pub const MAX_BYTES: usize = 16 << 20;

/// What the checks need to know of the machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The cores this process may run on.
    pub cores: Vec<usize>,
    /// Its memory, in bytes; 0 when it is not known.
    pub memory_bytes: u64,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let system = rustix::system::sysinfo();
        Self {
            cores: cores.into_iter().map(|core| core.id).collect(),
            memory_bytes: system.totalram * u64::from(system.mem_unit.max(1)),
        }
    }
}

/// Reads and checks a configuration.
///
/// # Errors
///
/// Every problem that was found, in the order of the text.
pub fn parse(file: &str, text: &str, machine: &Machine) -> Result<Config, Problems> {
    let reader = Reader::new(file, text);
    if text.len() > MAX_BYTES {
        let message = format!("the configuration is larger than {} MiB", MAX_BYTES >> 20);
        reader.report(&(0..0), message, "split the work over more switches");
        return Err(Problems(reader.into_problems()));
    }
    read(reader, text, machine)
}

/// As [`parse`], when `config` was read from the text `before`: rules that both texts have are not
/// read again.
///
/// # Errors
///
/// As [`parse`].
pub fn parse_after(
    (before, config): (&str, &Config),
    file: &str,
    text: &str,
    machine: &Machine,
) -> Result<Config, Problems> {
    if text.len() <= MAX_BYTES {
        let mut reader = Reader::new(file, text);
        if let Some(kept) = Kept::find(&reader.source, text, before, config) {
            reader.kept = Some(&kept);
            if let Ok(config) = read(reader, &kept.text, machine)
                && kept.all_met()
            {
                return Ok(config);
            }
        }
    }
    parse(file, text, machine)
}

/// Reads `text`, which is the reader's without the rules that are kept.
fn read(reader: Reader<'_>, text: &str, machine: &Machine) -> Result<Config, Problems> {
    let (root, errors) = toml::de::DeTable::parse_recoverable(text);
    for error in &errors {
        reader.report(&error.span().unwrap_or(0..0), error.message(), "");
    }
    if !errors.is_empty() {
        return Err(Problems(reader.into_problems()));
    }
    let config = {
        let draft = read::draft(&reader, root.get_ref(), machine);
        check::all(&draft, machine);
        draft.into_config()
    };
    if reader.count() == 0 {
        check_rules::expansions(&config, &reader);
    }
    let problems = reader.into_problems();
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(Problems(problems))
    }
}
