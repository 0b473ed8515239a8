//! Processes that a bench starts, and its ends: each is gone when its handle is dropped.
//!
//! In: a command and the core to keep it on. Out: whether it still runs, what it said, how much
//! CPU time it took. It is in a process group of its own, so that a Ctrl-C at the terminal
//! reaches the bench alone, which then ends what it started in the right order ([`interrupt`]).

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

pub mod interrupt;
pub mod priority;

/// How long a process may take to end when asked to.
const PATIENCE: Duration = Duration::from_secs(5);

/// A directory of one run, removed with all that is in it when dropped.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Makes one among the temporary files, its name unique on the host.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "vswitch-bench-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of something in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running process, ended when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, on `core` alone when there is one; what it says goes into the file `log`,
    /// and nothing is said to it unless `command` has a standard input of its own.
    ///
    /// # Errors
    /// When the program is not there or the core is not ours.
    pub fn start(command: &mut Command, log: PathBuf, core: Option<usize>) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        command
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        let spawn = || -> anyhow::Result<Child> {
            if let Some(id) = core {
                pin(id)?;
            }
            command
                .spawn()
                .with_context(|| format!("{name}: cannot be started; is it installed or built?"))
        };
        // A child has the cores of the thread that starts it, and this thread keeps its own.
        let child = thread::scope(|scope| scope.spawn(spawn).join());
        let Ok(child) = child else {
            bail!("the thread that was to start {name} panicked");
        };
        Ok(Self {
            child: child?,
            name,
            log,
        })
    }

    /// As [`Process::start`], with nothing on its standard input.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_deaf(
        command: &mut Command,
        log: PathBuf,
        core: Option<usize>,
    ) -> anyhow::Result<Self> {
        Self::start(command.stdin(Stdio::null()), log, core)
    }

    /// Its standard input, when it was started with one; once.
    pub fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// Fails, with what the process last said, when it has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(
            ended.is_none(),
            "{} ended ({ended:?}); it said:\n{}",
            self.name,
            self.log()
        );
        Ok(())
    }

    /// What the process has said so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// Takes it off its core until [`Process::resume`].
    ///
    /// # Errors
    /// When it is gone.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it run again.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("{}: sending {signal:?}", self.name))
    }

    /// CPU time that all its threads have had so far, in nanoseconds, as the scheduler accounts it
    /// (`/proc/PID/task/TID/schedstat`). Threads that have ended do not count.
    ///
    /// # Errors
    /// When it is gone, or the kernel keeps no such account.
    pub fn cpu_time_ns(&self) -> anyhow::Result<u64> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let mut total = 0;
        for task in fs::read_dir(&tasks).with_context(|| format!("{tasks} ({})", self.name))? {
            let path = task?.path().join("schedstat");
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                // The thread has ended since.
                Err(_) if !path.parent().is_some_and(Path::exists) => continue,
                Err(error) => return Err(error).context(path.display().to_string()),
            };
            let time = text.split_whitespace().next().and_then(|t| t.parse().ok());
            let time: u64 = time.with_context(|| format!("{}: {text:?}", path.display()))?;
            total += time;
        }
        Ok(total)
    }

    /// Memory, in bytes, by what `/proc/PID/status` calls it: `VmRSS` is what it has in use, `VmSize`
    /// all that it asked for.
    ///
    /// # Errors
    /// When it is gone.
    pub fn memory_bytes(&self, field: &str) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("{path}: no {field} in it"))? * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.signal(Signal::TERM);
        // One that is paused hears nothing.
        let _ = self.signal(Signal::CONT);
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if asked.elapsed() > PATIENCE {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Keeps the calling thread, and what it starts, on one core.
///
/// # Errors
/// When this process may not use the core.
pub fn pin(core: usize) -> anyhow::Result<()> {
    ensure!(
        core_affinity::set_for_current(core_affinity::CoreId { id: core }),
        "core {core}: cannot pin to it; choose one that this process may use"
    );
    Ok(())
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// When it cannot be run or fails; the error holds what it complained of.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| {
        format!(
            "{}: cannot be run; is it installed?",
            command.get_program().to_string_lossy()
        )
    })?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
