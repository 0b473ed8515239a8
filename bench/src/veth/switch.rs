//! The switch process under test, ended when dropped.

use std::{
    fmt::Write,
    fs::{self, File},
    path::{Path as FilePath, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    Addresses,
    lab::{Lab, Path, Side},
};

/// How long the process may take to end when asked to.
const PATIENCE: Duration = Duration::from_secs(5);

/// `vswitch run`, with a configuration of its own.
#[derive(Debug)]
pub struct Switch {
    child: Child,
    directory: PathBuf,
    binary: PathBuf,
}

impl Switch {
    /// Starts `binary` on the lab's switch path, its worker on `core`.
    ///
    /// # Errors
    /// When the configuration cannot be written or the process not be started.
    pub fn start(
        binary: &FilePath,
        lab: &Lab,
        core: usize,
        busy_poll: bool,
    ) -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(lab.name());
        fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        let started = Self::spawn(
            binary,
            &directory,
            &config(lab, &directory, core, busy_poll),
        );
        match started {
            Ok(child) => Ok(Self {
                child,
                directory,
                binary: binary.to_owned(),
            }),
            Err(error) => {
                let _ = fs::remove_dir_all(&directory);
                Err(error)
            }
        }
    }

    fn spawn(binary: &FilePath, directory: &FilePath, config: &str) -> anyhow::Result<Child> {
        let file = directory.join("vswitch.toml");
        fs::write(&file, config).with_context(|| file.display().to_string())?;
        let log = File::create(directory.join("log"))?;
        Command::new(binary)
            .arg("run")
            .arg("--config")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| {
                format!(
                    "{}: cannot be started; build it, or name it with --switch",
                    binary.display()
                )
            })
    }

    /// Fails, with what the process last said, when it has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(
            ended.is_none(),
            "the switch ended ({ended:?}); it said:\n{}",
            self.log()
        );
        Ok(())
    }

    /// What the process has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Busy cycles per frame of its worker, as it counts them itself.
    pub fn cycles_per_frame(&self) -> Option<f64> {
        let output = Command::new(&self.binary)
            .arg("stats")
            .arg("--json")
            .arg("--socket")
            .arg(self.directory.join("socket"))
            .output()
            .ok()?;
        let stats: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        stats["workers"][0]["cycles_per_frame"].as_f64()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        let _ = kill_process(pid, Signal::TERM);
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if asked.elapsed() > PATIENCE {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Two access ports of one network with a vNIC each: senders are checked, and what arrives at B
/// is judged by rules.
fn config(lab: &Lab, directory: &FilePath, core: usize, busy_poll: bool) -> String {
    let mut text = format!(
        "[switch]\nsocket = \"{}\"\n\n[workers]\ncores = [{core}]\nbusy_poll = {busy_poll}\n\n\
         [[network]]\nname = \"bench\"\ntenant = \"bench\"\n\n\
         [[acl]]\nname = \"to-b\"\nrules = [\n  \
         {{ action = \"deny\", protocol = \"tcp\", dst_ports = [22] }},\n  \
         {{ action = \"deny\", protocol = \"udp\", src_ports = [53], dst_ports = [53] }},\n  \
         {{ action = \"allow\", src = \"{}\", protocol = \"udp\" }},\n]\n\n\
         [[acl]]\nname = \"to-a\"\nrules = [{{ action = \"allow\", protocol = \"icmp\" }}]\n",
        directory.join("socket").display(),
        Addresses::A,
    );
    for (side, name, address) in [(Side::A, "a", Addresses::A), (Side::B, "b", Addresses::B)] {
        let interface = lab.host_end(Path::Switch, side);
        let _ = write!(
            text,
            "\n[[port]]\nname = \"{name}\"\ndriver = \"af_xdp\"\ninterface = \"{interface}\"\n\
             network = \"bench\"\nmisses_per_turn = 256\n\n\
             [[vnic]]\nname = \"{name}\"\nvm = \"{name}\"\nport = \"{name}\"\nmac = \"{}\"\n\
             ipv4 = [\"{address}\"]\ninbound = {{ acl = \"to-{name}\" }}\n",
            side.mac(),
        );
    }
    text
}
