//! A whole switch on the test's own thread: workers, memory ports, a clock that the test moves.
//!
//! In: a [`Model`] (see [`build`]), frames (see [`frames`]), further models mid-stream. Out: what
//! left each port, and the counters. What must hold, and is checked when a bed is dropped: the
//! conservation laws of `vswitch::counters`, that drivers and counters agree on every frame, and
//! that every loan of frames was ended exactly once.

pub(crate) mod build;
pub(crate) mod frames;
mod rx;

use std::sync::{Arc, OnceLock};

use pmd::{fault, memory};
use policy::{DropReason, Epoch, PortId, RuleId, Snapshot, conntrack::Connections, model::Model};
use vswitch::{
    counters::PortCounts,
    flow_cache::FlowCache,
    intake::OwnedQueue,
    meter::Meters,
    mirroring::Mirrors,
    outbox::SharedTxQueue,
    published::{Bundle, PortShared, Shared},
    worker::Worker,
};

use rx::{BedRx, Feed};

/// More turns than any test needs to come to rest.
const MOST_TURNS: usize = 100_000;

/// Keys the flow caches' hash.
const SECRET: [u64; 8] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98_ec4e_6c89,
    0x4528_21e6_38d0_1377,
    0xbe54_66cf_34e9_0c6c,
    0xc0ac_29b7_c97c_50dd,
    0x3f84_d5b5_b547_0917,
];

/// Keys the connections' hash.
const CONNECTIONS_SECRET: [u64; 6] = [3, 14, 159, 2653, 58979, 323_846];

/// How the switch is built.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Entries of each worker's flow cache.
    pub(crate) cache_entries: usize,
    /// Workers; port number p belongs to worker p modulo their number.
    pub(crate) workers: usize,
    /// Most connections.
    pub(crate) connections: usize,
    /// How memory ports are made.
    pub(crate) port: memory::Config,
    /// Ports whose driver misbehaves.
    pub(crate) faults: Vec<(u16, fault::Config)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_entries: 256,
            workers: 1,
            connections: 1024,
            port: memory::Config {
                slots: 128,
                max_frame_bytes: 512,
                ..memory::Config::default()
            },
            faults: Vec::new(),
        }
    }
}

/// The far side of a port, as the test sees it.
struct Far {
    endpoint: memory::Endpoint,
    feed: Feed,
    /// What left the port and was not yet asked for.
    received: Vec<Vec<u8>>,
    received_total: u64,
    sent_total: u64,
    faulty: bool,
}

/// The switch.
pub(crate) struct Bed {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Vec<Worker>,
    options: Options,
    epoch: Epoch,
    ports: Vec<Option<Arc<PortShared>>>,
    far: Vec<Option<Far>>,
    /// The time of the next turn, in cycles.
    now: u64,
}

fn clock() -> pmd::Clock {
    static CLOCK: OnceLock<pmd::Clock> = OnceLock::new();
    *CLOCK.get_or_init(pmd::Clock::calibrate)
}

impl Bed {
    pub(crate) fn new(model: &Model) -> Self {
        Self::with(model, Options::default())
    }

    pub(crate) fn with(model: &Model, options: Options) -> Self {
        let shared = Arc::new(Shared::new(
            clock(),
            Connections::new(options.connections, CONNECTIONS_SECRET),
        ));
        let worker = |id| Worker::new(id, Arc::clone(&shared), options.cache_entries, SECRET);
        let mut bed = Self {
            workers: (0..options.workers).map(worker).collect(),
            shared,
            epoch: Epoch(0),
            ports: Vec::new(),
            far: Vec::new(),
            now: pmd::clock::cycles(),
            options,
        };
        bed.publish(model);
        bed
    }

    /// Puts a model in force, and attaches a memory port for each port that is new in it.
    pub(crate) fn publish(&mut self, model: &Model) -> Epoch {
        let snapshot = self.prepare(model);
        self.put_in_force(snapshot)
    }

    /// The first half of [`Bed::publish`]: all but the swap.
    pub(crate) fn prepare(&mut self, model: &Model) -> Snapshot {
        self.epoch = Epoch(self.epoch.0 + 1);
        let snapshot = Snapshot::compile(model, self.epoch).expect("the model is sound");
        self.shared.bridge.configure(&snapshot);
        for port in &model.ports {
            let index = port.id.index();
            if self.ports.len() <= index {
                self.ports.resize_with(index + 1, || None);
            }
            if self.ports[index].is_none() {
                self.ports[index] = Some(Arc::new(PortShared::new(self.workers.len())));
                self.attach(port.id);
            }
        }
        snapshot
    }

    /// The second half of [`Bed::publish`].
    pub(crate) fn put_in_force(&mut self, snapshot: Snapshot) -> Epoch {
        let epoch = snapshot.epoch();
        let former = self.shared.current.load();
        let meters = Meters::after(&former.meters, &snapshot).expect("few limits");
        self.shared.current.store(Arc::new(Bundle {
            snapshot: Arc::new(snapshot),
            ports: self.ports.clone(),
            meters: Arc::new(meters),
            mirrors: Arc::clone(&former.mirrors),
            revision: former.revision + 1,
        }));
        epoch
    }

    /// Puts mirror sessions in force.
    pub(crate) fn mirror(&mut self, mirrors: Mirrors) {
        let former = self.shared.current.load();
        self.shared.current.store(Arc::new(Bundle {
            snapshot: Arc::clone(&former.snapshot),
            ports: former.ports.clone(),
            meters: Arc::clone(&former.meters),
            mirrors: Arc::new(mirrors),
            revision: former.revision + 1,
        }));
    }

    fn attach(&mut self, id: PortId) {
        let (near, far) = memory::pair(self.options.port).expect("a memory pair");
        let mut faults = self.options.faults.iter();
        let fault = faults.find(|(port, _)| *port == id.0);
        let near = match fault {
            Some((_, config)) => fault::wrap(near, *config),
            None => near,
        };
        if self.far.len() <= id.index() {
            self.far.resize_with(id.index() + 1, || None);
        }
        self.far[id.index()] = Some(Far {
            endpoint: memory::Endpoint::new(far),
            feed: Feed::default(),
            received: Vec::new(),
            received_total: 0,
            sent_total: 0,
            faulty: fault.is_some(),
        });
        for tx in near.tx {
            let queue: SharedTxQueue = Arc::new(parking_lot::Mutex::new(tx));
            for worker in &mut self.workers {
                worker.outbox.attach(id, Some(Arc::clone(&queue)));
            }
        }
        for rx in near.rx {
            let feed = self.far(id.0).feed.clone();
            self.own(id, rx, feed, near.info.unmarked_partial_checksums);
        }
    }

    /// Gives a port one more receive queue, which the returned feed fills. What it is fed must
    /// be told to [`Bed::fed`].
    pub(crate) fn add_queue(&mut self, port: u16) -> Feed {
        let (near, _) = memory::pair(self.options.port).expect("a memory pair");
        let feed = Feed::default();
        for rx in near.rx {
            self.own(PortId(port), rx, feed.clone(), false);
        }
        feed
    }

    fn own(
        &mut self,
        port: PortId,
        rx: Box<dyn pmd::RxQueue>,
        feed: Feed,
        unmarked_partial_checksums: bool,
    ) {
        let owner = port.index() % self.workers.len();
        self.workers[owner].intake.add(OwnedQueue {
            queue: Box::new(BedRx::new(rx, feed)),
            port,
            number: 0,
            unmarked_partial_checksums,
            most_frames: pmd::BURST,
        });
    }

    /// Every worker's flow cache is as on its first day.
    pub(crate) fn forget_flows(&mut self) {
        for worker in &mut self.workers {
            worker.cache = FlowCache::new(self.options.cache_entries, SECRET);
        }
    }

    /// Takes a port's transmit queue away from every worker, as when its driver has gone.
    pub(crate) fn detach(&mut self, port: u16) {
        for worker in &mut self.workers {
            worker.outbox.attach(PortId(port), None);
        }
    }

    fn far(&mut self, port: u16) -> &mut Far {
        self.far[port as usize].as_mut().expect("the port exists")
    }

    /// So many frames were put into a feed of [`Bed::add_queue`].
    pub(crate) fn fed(&mut self, port: u16, frames: u64) {
        self.far(port).sent_total += frames;
    }

    /// A frame arrives at a port.
    pub(crate) fn send(&mut self, port: u16, bytes: &[u8]) {
        let far = self.far(port);
        assert!(far.endpoint.send(bytes), "port {port} takes no frame now");
        far.sent_total += 1;
    }

    /// A frame arrives at a port with its tag beside it.
    pub(crate) fn send_tagged(&mut self, port: u16, bytes: &[u8], tci: u16) {
        let far = self.far(port);
        far.feed.push(bytes, Some(tci));
        far.sent_total += 1;
    }

    /// A frame arrives at a port whose sender left a checksum to be completed there.
    pub(crate) fn send_marked(&mut self, port: u16, bytes: &[u8], mark: pmd::PartialChecksum) {
        let far = self.far(port);
        far.feed.push_marked(bytes, mark);
        far.sent_total += 1;
    }

    /// One turn of each worker. Returns how many frames it was.
    pub(crate) fn turn(&mut self) -> usize {
        let now = self.now;
        self.workers.iter_mut().map(|w| w.turn_at(now)).sum()
    }

    /// Turns until no more frames move.
    pub(crate) fn run(&mut self) {
        for _ in 0..MOST_TURNS {
            let frames = self.turn();
            self.collect();
            if frames == 0 {
                return;
            }
        }
        panic!("frames still move after {MOST_TURNS} turns");
    }

    /// Takes what left the ports from their far ends.
    pub(crate) fn collect(&mut self) {
        for far in self.far.iter_mut().flatten() {
            let frames = far.endpoint.drain();
            far.received_total += frames.len() as u64;
            far.received.extend(frames);
        }
    }

    /// What left a port since it was last asked.
    pub(crate) fn received(&mut self, port: u16) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.far(port).received)
    }

    /// What left each port that something left, and forgets it.
    pub(crate) fn all_received(&mut self) -> Vec<(u16, Vec<u8>)> {
        let mut all = Vec::new();
        for (port, far) in self.far.iter_mut().enumerate() {
            let far = far.as_mut().map(|far| std::mem::take(&mut far.received));
            let frames = far.into_iter().flatten();
            all.extend(frames.map(|frame| (port as u16, frame)));
        }
        all
    }

    /// Sends a frame, lets it pass and returns where it came out.
    pub(crate) fn pass(&mut self, port: u16, bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
        self.send(port, bytes);
        self.run();
        self.all_received()
    }

    /// Sends a frame, lets it pass and returns the ports where it came out.
    pub(crate) fn ports_of(&mut self, port: u16, bytes: &[u8]) -> Vec<u16> {
        let passed = self.pass(port, bytes);
        passed.into_iter().map(|(port, _)| port).collect()
    }

    /// Sends a frame and returns the one reason for which it was dropped, in whoever's account.
    pub(crate) fn dropped(&mut self, port: u16, bytes: &[u8]) -> (u16, DropReason) {
        let before = self.drops();
        let passed = self.pass(port, bytes);
        assert!(passed.is_empty(), "it came out at {passed:?}");
        self.new_drop(&before)
    }

    /// The one drop since `before`.
    pub(crate) fn new_drop(&self, before: &[(u16, DropReason, u64)]) -> (u16, DropReason) {
        let count_before = |port, reason| {
            let mut rows = before.iter();
            rows.find(|row| (row.0, row.1) == (port, reason))
                .map_or(0, |row| row.2)
        };
        let drops = self.drops().into_iter();
        let new: Vec<_> = drops
            .map(|(port, reason, count)| (port, reason, count - count_before(port, reason)))
            .filter(|row| row.2 > 0)
            .collect();
        match new.as_slice() {
            [(port, reason, 1)] => (*port, *reason),
            other => panic!("one drop was expected: {other:?}"),
        }
    }

    /// Lets time pass.
    pub(crate) fn advance_ms(&mut self, ms: u64) {
        self.now += (ms as f64 / 1000.0 * self.shared.clock.cycles_per_s()) as u64;
    }

    /// The time of the next turn, in nanoseconds.
    pub(crate) fn now_ns(&self) -> u64 {
        self.shared.clock.ns_at(self.now)
    }

    /// The time of the next turn, in seconds.
    pub(crate) fn now_s(&self) -> u32 {
        (self.shared.clock.ns_at(self.now) / 1_000_000_000) as u32
    }

    /// A port's counters, over all workers.
    pub(crate) fn counts(&self, port: u16) -> PortCounts {
        let mut counts = PortCounts::default();
        if let Some(shared) = self.ports.get(port as usize).and_then(Option::as_ref) {
            for counters in &shared.counters {
                counts.add(counters);
            }
        }
        counts
    }

    /// Every drop counter that is not zero: port, reason, frames.
    pub(crate) fn drops(&self) -> Vec<(u16, DropReason, u64)> {
        let mut drops = Vec::new();
        for port in 0..self.ports.len() as u16 {
            let counts = self.counts(port);
            drops.extend(counts.drops.iter().map(|(reason, n)| (port, *reason, *n)));
        }
        drops.sort_by_key(|(port, reason, _)| (*port, *reason as u8));
        drops
    }

    /// The drop ledger, over all workers: port, reason, rule, frames.
    pub(crate) fn ledger(&self) -> Vec<(u16, DropReason, Option<RuleId>, u64)> {
        let mut rows = std::collections::BTreeMap::new();
        for worker in &self.workers {
            for row in worker.slow_path.ledger.rows().entries() {
                let label = (row.port.0, row.denial.reason as u8, row.denial.rule);
                *rows.entry(label).or_insert(0) += row.frames;
            }
        }
        let row =
            |((port, reason, rule), frames)| (port, DropReason::ALL[reason as usize], rule, frames);
        rows.into_iter().map(row).collect()
    }

    /// Holds the laws of `vswitch::counters`, and that the far ends and the ledger agree.
    pub(crate) fn check_conservation(&mut self) {
        self.run();
        let mut total = PortCounts::default();
        for port in 0..self.ports.len() as u16 {
            let counts = self.counts(port);
            let by_side = |side| -> u64 {
                let drops = counts.drops.iter();
                drops
                    .filter(|(r, _)| r.side() == side)
                    .map(|(_, n)| n)
                    .sum()
            };
            let (ingress, egress) = (
                by_side(policy::Side::Ingress),
                by_side(policy::Side::Egress),
            );
            assert_eq!(
                counts.rx_frames + counts.returned + counts.replicas,
                counts.forwarded + counts.taken + ingress,
                "what came in at port {port}: {counts:?}"
            );
            assert_eq!(
                counts.offered,
                counts.tx_frames + egress,
                "what was to leave at port {port}: {counts:?}"
            );
            let judged = counts.rx_frames + counts.returned;
            assert_eq!(counts.cache_hits + counts.cache_misses, judged);
            if let Some(far) = &self.far[port as usize] {
                assert_eq!(counts.tx_frames, far.received_total, "sent at port {port}");
                if !far.faulty {
                    assert_eq!(counts.rx_frames, far.sent_total, "received at port {port}");
                }
            }
            total.rx_frames += counts.rx_frames;
            total.rx_bytes += counts.rx_bytes;
            total.replicas += counts.replicas;
            total.tx_frames += counts.tx_frames;
            total.forwarded += counts.forwarded;
            total.offered += counts.offered;
            total.originated += counts.originated;
            total.taken += counts.taken;
            total.returned += counts.returned;
            total.drops.extend(counts.drops);
        }
        assert_eq!(total.forwarded + total.originated, total.offered);
        assert_eq!(
            total.rx_frames + total.returned + total.replicas + total.originated,
            total.tx_frames + total.taken + total.dropped_total()
        );
        let workers = || self.workers.iter().map(|worker| &worker.counters);
        assert_eq!(
            workers().map(|w| w.frames.get()).sum::<u64>(),
            total.rx_frames
        );
        assert_eq!(
            workers().map(|w| w.bytes.get()).sum::<u64>(),
            total.rx_bytes
        );
        self.check_ledger();
    }

    /// What the ledger itemises adds up to the counters, but for what drivers refused.
    fn check_ledger(&self) {
        let driver = |reason| {
            matches!(
                reason,
                DropReason::TxFull
                    | DropReason::TooBig
                    | DropReason::PortDown
                    | DropReason::ServiceLost
            )
        };
        let mut expected = self.drops();
        expected.retain(|(_, reason, _)| !driver(*reason));
        let mut itemised: Vec<(u16, DropReason, u64)> = Vec::new();
        for (port, reason, _, frames) in self.ledger() {
            // Some of these the slow path foresees.
            if driver(reason) {
                continue;
            }
            match itemised.last_mut() {
                Some(last) if (last.0, last.1) == (port, reason) => last.2 += frames,
                _ => itemised.push((port, reason, frames)),
            }
        }
        assert_eq!(itemised, expected, "the ledger and the counters");
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_conservation();
        }
    }
}
