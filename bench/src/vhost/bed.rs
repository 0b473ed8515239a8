//! A switch with its guest, and what is measured there.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;

use super::{
    contender::{Case, Contender},
    guest::{Guest, Traffic},
    load::Load,
    testpmd::Testpmd,
};
use crate::process::{Directory, Process, interrupt};

/// How long a switch may take until frames come through.
const FIRST_FRAME: Duration = Duration::from_secs(20);

/// How long frames run before they are counted: rings, caches and flow tables fill.
const WARM_UP: Duration = Duration::from_millis(500);

/// A switch, its guest, and what was measured.
pub(super) struct Bed {
    pub(super) switch: Box<dyn Contender>,
    guest: Option<Box<dyn Load>>,
    /// Where the guest keeps its files.
    directory: Directory,
    pub(super) turns: Turns,
}

/// Which guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Testpmd,
    Own,
    /// The same, with frames for a router.
    Routed,
    /// The same, with each frame of a flow that never was.
    NewFlows,
}

/// What the turns of one number of flows found, by guest, case and size.
pub(super) type Turns = BTreeMap<(Kind, &'static str, usize), Vec<Count>>;

/// What happened in a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) mframes: f64,
    /// Where the guest counts them.
    pub(super) bytes: f64,
    /// Of the times that the guest wanted to send, those that found the ring full.
    pub(super) refused_share: f64,
}

impl Bed {
    /// A bed for a switch that sleeps.
    pub(super) fn new(switch: Box<dyn Contender>) -> anyhow::Result<Self> {
        Ok(Self {
            switch,
            guest: None,
            directory: Directory::new()?,
            turns: Turns::new(),
        })
    }

    /// Gives the switch a new guest, and waits until frames come through both ways.
    pub(super) fn connect(&mut self, kind: Kind, flows: u32, core: usize) -> anyhow::Result<()> {
        self.attach(|bed| {
            let sockets = bed.switch.sockets(0);
            Ok(match kind {
                Kind::Testpmd => Box::new(Testpmd::start(&bed.directory, &sockets, flows, core)?),
                Kind::Own => Box::new(Guest::start(&sockets, Traffic::Frames, flows, core)?),
                Kind::Routed => Box::new(Guest::start(&sockets, Traffic::Routed, flows, core)?),
                Kind::NewFlows => Box::new(Guest::start(&sockets, Traffic::NewFlows, flows, core)?),
            })
        })
    }

    fn attach(
        &mut self,
        start: impl FnOnce(&mut Self) -> anyhow::Result<Box<dyn Load>>,
    ) -> anyhow::Result<()> {
        self.awake(|bed| {
            bed.guest = None;
            bed.switch.enforce(Case::PortToPort)?;
            let mut guest = start(bed)?;
            bed.await_frames(guest.as_mut())?;
            bed.guest = Some(guest);
            Ok(())
        })
        .with_context(|| {
            let (log, name) = (self.switch.process().log(), self.switch.name());
            format!("{name}: connecting a guest; it said:\n{log}")
        })
    }

    pub(super) fn await_frames(&mut self, guest: &mut dyn Load) -> anyhow::Result<()> {
        guest.begin(64)?;
        interrupt::wait_for("frames both ways", FIRST_FRAME, || {
            self.switch.process().check()?;
            Ok((!guest.sample()?.received.contains(&0)).then_some(()))
        })?;
        guest.end()
    }

    /// Round trips of one frame in flight while rules are in force, with a guest that is gone
    /// afterwards.
    pub(super) fn round_trips(
        &mut self,
        size_bytes: usize,
        duration: Duration,
        core: usize,
    ) -> anyhow::Result<Histogram<u64>> {
        self.awake(|bed| {
            bed.guest = None;
            bed.switch.enforce(Case::Acl)?;
            let mut guest = Guest::start(&bed.switch.sockets(0), Traffic::Frames, 1, core)?;
            bed.await_frames(&mut guest)?;
            // The first of them find caches and tables empty.
            guest.round_trips(size_bytes, WARM_UP, Duration::ZERO)?;
            guest.round_trips(size_bytes, duration, Duration::ZERO)
        })
    }

    /// What comes through of TCP super-segments, with a guest that is gone afterwards.
    pub(super) fn segments(
        &mut self,
        size_bytes: usize,
        seconds: f64,
        core: usize,
    ) -> anyhow::Result<Count> {
        self.attach(|bed| {
            let sockets = bed.switch.sockets(0);
            Ok(Box::new(Guest::start(
                &sockets,
                Traffic::Segments,
                1,
                core,
            )?))
        })?;
        let count = self.turn(seconds, size_bytes);
        self.awake(|bed| {
            bed.guest = None;
            count
        })
    }

    /// From now on this is what happens to frames.
    pub(super) fn enforce(&mut self, case: Case) -> anyhow::Result<()> {
        self.awake(|bed| bed.switch.enforce(case))
    }

    /// Counts for some time what comes through.
    pub(super) fn turn(&mut self, seconds: f64, size_bytes: usize) -> anyhow::Result<Count> {
        let mut guest = self.guest.take().context("there is no guest")?;
        let count = self.turn_of(guest.as_mut(), seconds, size_bytes);
        self.guest = Some(guest);
        count
    }

    /// The same, with a guest that is not the bed's.
    pub(super) fn turn_of(
        &mut self,
        guest: &mut dyn Load,
        seconds: f64,
        size_bytes: usize,
    ) -> anyhow::Result<Count> {
        self.awake(|bed| {
            let process = bed.switch.process();
            guest.begin(size_bytes)?;
            interrupt::sleep(WARM_UP)?;
            let count = Count::during(Duration::from_secs_f64(seconds), guest, process)?;
            guest.end()?;
            process.check()?;
            Ok(count)
        })
    }

    /// Does something while the switch runs.
    pub(super) fn awake<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.switch.process().resume()?;
        let done = work(self);
        self.switch.process().pause()?;
        done
    }
}

impl Count {
    /// Counts for some time.
    fn during(duration: Duration, guest: &mut dyn Load, process: &Process) -> anyhow::Result<Self> {
        let (from, cpu_from_ns) = (guest.sample()?, process.cpu_time_ns()?);
        interrupt::sleep(duration)?;
        let (to, cpu_to_ns) = (guest.sample()?, process.cpu_time_ns()?);
        let frames = (0..2)
            .map(|port| to.received[port] - from.received[port])
            .sum::<u64>();
        let (tried, refused) = (to.tried - from.tried, to.refused - from.refused);
        ensure!(frames > 0, "no frame came through in {duration:?}");
        Ok(Self {
            seconds: (to.at - from.at).as_secs_f64(),
            cpu_seconds: (cpu_to_ns - cpu_from_ns) as f64 / 1e9,
            mframes: frames as f64 / 1e6,
            bytes: (to.bytes - from.bytes) as f64,
            refused_share: refused as f64 / tried.max(1) as f64,
        })
    }
}
