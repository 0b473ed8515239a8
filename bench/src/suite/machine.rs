//! Where the suite runs: what a reader needs to know of a machine to judge its figures.

use std::fs;

use serde::{Deserialize, Serialize};

/// A machine. Its JSON names are stable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Its name, or what it is to be called.
    pub name: String,
    /// What the processor says it is.
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Ticks of the time-stamp counter in a second.
    pub tsc_hz: f64,
    /// Memory.
    pub memory_mib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// Whether it is a guest of a hypervisor.
    pub virtual_machine: bool,
    /// Of how many processors other work had need during the minute before: figures of a machine
    /// with other work say little.
    pub load_before: f64,
}

impl Machine {
    /// This one, called `name` if it is to be called something.
    pub fn here(name: Option<&str>) -> Self {
        let system = rustix::system::uname();
        let info = read("/proc/cpuinfo");
        let field = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            let (_, value) = line.split_once(':')?;
            Some(value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory_kib = memory.and_then(|text| text.split(' ').next()?.parse().ok());
        let flags = field(&info, "flags").unwrap_or_default();
        let load = read("/proc/loadavg");
        Self {
            name: name.map_or_else(
                || system.nodename().to_string_lossy().into_owned(),
                str::to_owned,
            ),
            processor: field(&info, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            tsc_hz: pmd::Clock::calibrate().cycles_per_s(),
            memory_mib: memory_kib.map_or(0, |kib: u64| kib / 1024),
            kernel: system.release().to_string_lossy().into_owned(),
            virtual_machine: flags.split(' ').any(|flag| flag == "hypervisor"),
            load_before: load
                .split(' ')
                .next()
                .and_then(|text| text.parse().ok())
                .unwrap_or(f64::NAN),
        }
    }

    /// In a line.
    pub fn words(&self) -> String {
        format!(
            "{}, {} {} at {:.2} GHz{}, {} GiB, Linux {}",
            self.processor,
            self.cores,
            if self.cores == 1 { "core" } else { "cores" },
            self.tsc_hz / 1e9,
            if self.virtual_machine {
                " of a virtual machine"
            } else {
                ""
            },
            self.memory_mib.div_ceil(1024),
            self.kernel
        )
    }
}

/// Today, UTC, as `YYYY-MM-DD`.
pub fn today() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let days = since.map_or(0, |since| since.as_secs() / 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The date so many days after 1970-01-01 (Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms": years begin in March, so that leap days come last).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(11_017), (2000, 3, 1));
        assert_eq!(civil(20_453), (2025, 12, 31));
    }
}
