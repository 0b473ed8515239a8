//! Hugepages for the DPDK programs of a run, given back when dropped.

use std::fs;

use anyhow::{Context, ensure};

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";
const COMPACT: &str = "/proc/sys/vm/compact_memory";

/// How often the kernel is asked.
const TRIES: usize = 12;

/// What was added to the kernel's pool of 2 MiB pages.
#[derive(Debug)]
pub(super) struct Hugepages {
    added: u64,
}

impl Hugepages {
    /// Sees to it that `pages` pages of 2 MiB are free.
    ///
    /// # Errors
    /// When the kernel has none, or not so many in one piece.
    pub(super) fn provide(pages: u64) -> anyhow::Result<Self> {
        let missing = pages.saturating_sub(read("free_hugepages")?);
        let before = read("nr_hugepages")?;
        // From here on dropping it gives back whatever was had.
        let mut provided = Self { added: 0 };
        if missing > 0 {
            for number in 0..TRIES {
                write(before + missing)?;
                provided.added = read("nr_hugepages")?.saturating_sub(before);
                if provided.added >= missing {
                    break;
                }
                // Memory in pieces: let the kernel put it together, and ask again. What it keeps of
                // files without need stands in the way, and is read again when it is wanted.
                if number >= TRIES / 2 {
                    let _ = fs::write(DROP_CACHES, "1");
                }
                let _ = fs::write(COMPACT, "1");
            }
            ensure!(
                provided.added >= missing,
                "{missing} more hugepages of 2 MiB are needed and the kernel found {}; free memory, \
                 or reserve them early: sysctl vm.nr_hugepages={}",
                provided.added,
                before + missing
            );
        }
        Ok(provided)
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        if self.added > 0
            && let Ok(now) = read("nr_hugepages")
        {
            let _ = write(now.saturating_sub(self.added));
        }
    }
}

fn read(file: &str) -> anyhow::Result<u64> {
    let path = format!("{POOL}/{file}");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("{path}: this kernel has no 2 MiB hugepages"))?;
    text.trim().parse().context(path)
}

fn write(pages: u64) -> anyhow::Result<()> {
    let path = format!("{POOL}/nr_hugepages");
    fs::write(&path, pages.to_string()).with_context(|| format!("{path}: are you root?"))
}
