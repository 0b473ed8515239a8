//! Precedence over what else runs on the machine, by a control group.
//!
//! What must hold: whatever was started meanwhile has ended when the guard is dropped.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// Where the hierarchies are: one for all controllers (version 2), one for the CPU (version 1).
const UNIFIED: &str = "/sys/fs/cgroup";
const CPU: &str = "/sys/fs/cgroup/cpu";

/// A control group that this process and all that it starts are in, until dropped.
#[derive(Debug)]
pub struct Priority {
    group: PathBuf,
    /// Where this process came from.
    home: PathBuf,
}

impl Priority {
    /// From now on this process, and what it starts, get the CPU before all others of ordinary
    /// priority.
    ///
    /// # Errors
    /// When this machine has no CPU controller, or does not let us.
    pub fn enter() -> anyhow::Result<Self> {
        let controllers = Path::new(UNIFIED).join("cgroup.controllers");
        let unified = fs::read_to_string(controllers)
            .is_ok_and(|text| text.split_whitespace().any(|name| name == "cpu"));
        let (root, weight, most) = if unified {
            write(&Path::new(UNIFIED).join("cgroup.subtree_control"), "+cpu")?;
            (UNIFIED, "cpu.weight", "10000")
        } else if Path::new(CPU).join("cpu.shares").exists() {
            (CPU, "cpu.shares", "262144")
        } else {
            bail!("neither {UNIFIED} nor {CPU} has the CPU controller of control groups");
        };
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| {
            let (_, line) = line.split_once(':')?;
            let (controllers, path) = line.split_once(':')?;
            let here = controllers.split(',').any(|name| name == "cpu");
            (here || unified && controllers.is_empty()).then_some(path)
        });
        let own = own.context("/proc/self/cgroup: no group for the CPU")?;
        let name = format!("vswitch-bench-{}", std::process::id());
        let priority = Self {
            group: Path::new(root).join(name),
            home: Path::new(root).join(own.trim_start_matches('/')),
        };
        let path = &priority.group;
        fs::create_dir(path).with_context(|| path.display().to_string())?;
        write(&path.join(weight), most)?;
        write(&path.join("cgroup.procs"), &std::process::id().to_string())?;
        Ok(priority)
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        let id = std::process::id().to_string();
        let _ = write(&self.home.join("cgroup.procs"), &id);
        let _ = fs::remove_dir(&self.group);
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text)
        .with_context(|| format!("{}: writing {text:?}; are you root?", path.display()))
}
