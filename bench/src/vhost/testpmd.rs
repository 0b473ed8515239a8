//! The load: DPDK's testpmd behind two virtio-user devices, as a guest with two interfaces.
//!
//! In: two socket paths on which it waits for a switch to connect, how many flows. Out: how many
//! frames came through. Its forward mode flowgen sends on both ports, takes away what arrives, and
//! does nothing else, on one core. Frames are UDP over IPv4, from 00:01:02:03:04:00 and 10.254.0.0
//! port 1000 to 00:01:02:03:04:01 and 10.253.0.0 + flow port 1001, flow after flow; what port 1
//! sends has the Ethernet addresses exchanged ([`reply`]). A frame that finds the ring full is
//! built again later, for the same flow.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{
    load::{Load, Sample},
    reply,
};
use crate::process::{Directory, Process, interrupt};

/// How long it may take to start, the switch's connecting included, and to answer.
const START: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(10);

/// Descriptors of each ring: what libvirt calls the largest receive queue of a virtio interface.
pub(super) const RING_SLOTS: u32 = 256;

/// Frame buffers: all four rings full, what testpmd's threads keep at hand (up to 375 each), and some.
/// With fewer it stops for ever: it takes sent frames back only when it has a new one to send. With
/// more they no longer fit into the second-level cache, and it is slower.
const BUFFERS: u32 = 4 * RING_SLOTS + 1024;

/// Memory of the guest, in hugepages.
pub(super) const MEMORY_MIB: u64 = 128;

const PROMPT: &str = "testpmd> ";

/// The running generator.
#[derive(Debug)]
pub(super) struct Testpmd {
    process: Process,
    commands: ChildStdin,
    /// How much of what it said was read.
    read: usize,
}

impl Testpmd {
    /// Starts it on `core`, with one device for each of `sockets`, and returns when a switch has
    /// connected to both.
    ///
    /// # Errors
    /// When it is not installed, or no switch connects.
    pub(super) fn start(
        directory: &Directory,
        sockets: &[impl AsRef<Path>; 2],
        flows: u32,
        core: usize,
    ) -> anyhow::Result<Self> {
        let object = directory.join("reply.o");
        fs::write(&object, reply::object())?;
        for socket in sockets {
            // One that a killed predecessor left behind.
            let _ = fs::remove_file(socket);
        }
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "dpdk-testpmd", "--no-pci", "--in-memory"]);
        command.arg("--single-file-segments");
        command.arg(format!("--lcores=0@{core},1@{core}"));
        command.arg(format!("--socket-mem={MEMORY_MIB}"));
        for (index, socket) in sockets.iter().enumerate() {
            let socket = socket.as_ref().display();
            command.arg(format!(
                "--vdev=net_virtio_user{index},path={socket},server=1,queue_size={RING_SLOTS}"
            ));
        }
        command.args(["--", "--interactive", "--nb-cores=1"]);
        command.arg("--forward-mode=flowgen");
        command.arg(format!("--flowgen-flows={flows}"));
        command.arg(format!("--total-num-mbufs={BUFFERS}"));
        command.arg(format!("--rxd={RING_SLOTS}"));
        command.arg(format!("--txd={RING_SLOTS}"));
        command.stdin(Stdio::piped());
        let mut process = Process::start(&mut command, directory.join("testpmd.log"), None)
            .context("starting testpmd; install dpdk-dev and librte-net-virtio23")?;
        let commands = process.take_stdin().context("testpmd has no input")?;
        let mut testpmd = Self {
            process,
            commands,
            read: 0,
        };
        testpmd.await_text(PROMPT, START)?;
        testpmd.command(&format!("bpf-load tx 1 0 J {}", object.display()))?;
        Ok(testpmd)
    }

    /// Gives a command and returns what it says to it.
    fn command(&mut self, command: &str) -> anyhow::Result<String> {
        writeln!(self.commands, "{command}").context("testpmd takes no commands any more")?;
        // It echoes the command before it acts on it.
        self.await_text(command, ANSWER)?;
        self.await_text(PROMPT, ANSWER)
    }

    /// Waits until it says `text`, and returns what it said before.
    fn await_text(&mut self, text: &str, limit: Duration) -> anyhow::Result<String> {
        let Self { process, read, .. } = self;
        let waited = interrupt::wait_for(&format!("testpmd saying {text:?}"), limit, || {
            process.check()?;
            let log = process.log();
            Ok(log[*read..].find(text).map(|at| {
                let before = log[*read..*read + at].to_owned();
                *read += at + text.len();
                before
            }))
        });
        waited.with_context(|| format!("testpmd said:\n{}", tail(&self.process.log())))
    }
}

impl Load for Testpmd {
    fn begin(&mut self, size_bytes: usize) -> anyhow::Result<()> {
        const FCS_BYTES: usize = 4;
        self.command(&format!("set txpkts {}", size_bytes + FCS_BYTES))?;
        self.command("start").map(drop)
    }

    fn sample(&mut self) -> anyhow::Result<Sample> {
        let answer = self.command("show fwd stats all")?;
        let at = Instant::now();
        // One block for each port, and one for their sums.
        let words: Vec<&str> = answer.split_whitespace().collect();
        let counts = |name: &str| -> Option<[u64; 2]> {
            let named = words.windows(2).filter(|pair| pair[0] == name);
            let mut counts = named.filter_map(|pair| pair[1].parse().ok());
            Some([counts.next()?, counts.next()?])
        };
        let all = || {
            let names = ["RX-packets:", "TX-total:", "TX-dropped:"];
            Some((counts(names[0])?, counts(names[1])?, counts(names[2])?))
        };
        let (received, tried, refused) =
            all().with_context(|| format!("testpmd: no counts in its answer:\n{answer}"))?;
        Ok(Sample {
            at,
            received,
            bytes: 0,
            tried: tried.iter().sum(),
            refused: refused.iter().sum(),
        })
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.command("stop").map(drop)
    }
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
