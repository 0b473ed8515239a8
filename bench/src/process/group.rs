//! A control group of its own for a process, so that its share of the CPU can be set.
//!
//! What must hold: the process ends before its group is dropped.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// Where the hierarchies are: one for all controllers (version 2), one for the CPU (version 1).
const UNIFIED: &str = "/sys/fs/cgroup";
const CPU: &str = "/sys/fs/cgroup/cpu";

/// In which a quota is counted, in microseconds: the kernel's default.
const PERIOD_US: u32 = 100_000;

/// A control group, removed when dropped.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    unified: bool,
}

impl Group {
    /// Makes a group called `name`, which goes before all others where they want the same core.
    ///
    /// # Errors
    /// When this machine has no CPU controller, or does not let us.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let controllers = Path::new(UNIFIED).join("cgroup.controllers");
        let unified = fs::read_to_string(controllers)
            .is_ok_and(|text| text.split_whitespace().any(|name| name == "cpu"));
        let parent = if unified {
            write(&Path::new(UNIFIED).join("cgroup.subtree_control"), "+cpu")?;
            UNIFIED
        } else if Path::new(CPU).join("cpu.shares").exists() {
            CPU
        } else {
            bail!("neither {UNIFIED} nor {CPU} has the CPU controller of control groups");
        };
        let path = Path::new(parent).join(name);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let group = Self { path, unified };
        let (file, most) = if unified {
            ("cpu.weight", "10000")
        } else {
            ("cpu.shares", "262144")
        };
        write(&group.path.join(file), most)?;
        Ok(group)
    }

    /// Takes in a process with all its threads.
    ///
    /// # Errors
    /// When it is gone.
    pub fn add(&self, process: u32) -> anyhow::Result<()> {
        write(&self.path.join("cgroup.procs"), &process.to_string())
    }

    /// From now on it gets at most this many hundredths of a core; `None` is no limit.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn limit(&self, percent: Option<u32>) -> anyhow::Result<()> {
        let quota_us = percent.map(|percent| PERIOD_US / 100 * percent);
        if self.unified {
            let quota = quota_us.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
            write(&self.path.join("cpu.max"), &format!("{quota} {PERIOD_US}"))
        } else {
            let quota = quota_us.map_or_else(|| "-1".to_owned(), |quota| quota.to_string());
            write(&self.path.join("cpu.cfs_quota_us"), &quota)
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(&path, text)
        .with_context(|| format!("{}: writing {text:?}; are you root?", path.display()))
}
