//! The desk: where frames are dealt with that the switch answers itself, on a thread of their own.
//!
//! In: parcels from the workers, plans from control, time. Out: parcels to the workers, with frames
//! of the switch's own and with frames that waited; neighbours, learned and forgotten. What must
//! hold: each parcel comes back to its worker or is answered, and frames that wait are so many and no
//! more, of one neighbour and in all: a scan of an empty network keeps nobody else waiting.

use std::{collections::HashMap, net::IpAddr, os::fd::OwnedFd, sync::Arc, thread, time::Duration};

use crossbeam::channel::{Receiver, TryRecvError};
use policy::{
    DropReason, Mac, NetworkId, PortId,
    snapshot::{Gateway, Snapshot},
};

use crate::{
    handoff::{Errand, Handoff, MAX_PARCEL_BYTES, Parcel},
    neighbors::{Answer, Question},
    published::Shared,
    router::{self, End},
    services::{
        Destination, Event, Ingress, Outgoing, Output, Services, Verdict, plan::Plan, solicit,
    },
};

/// Most frames that wait for one neighbour (RFC 1122 §2.3.2.2 asks for one).
const MOST_FOR_ONE: usize = 4;
/// How long a frame waits at most, in seconds: longer than it takes to ask in vain.
const WAIT_S: u32 = 5;
/// Most that wait, of one worker: the rest of its buffers serves others.
const MOST_WAITING: usize = 128;
/// Most parcels of a worker that are dealt with before the next one's.
const PARCELS_A_ROUND: usize = 64;
/// Longest rest. Whoever has something wakes the desk.
const REST: Duration = Duration::from_millis(100);

/// A worker, as the desk sees it.
#[derive(Debug)]
pub struct Counterpart {
    /// The way to it and back.
    pub handoff: Arc<Handoff>,
    /// What wakes it.
    pub wake: Arc<OwnedFd>,
}

/// A frame that waits for a neighbour.
#[derive(Debug)]
enum Waiting {
    /// Received by a worker.
    Parcel(usize, Box<Parcel>),
    /// Of the switch's own: an IP packet behind an Ethernet header.
    Own(Gateway, Vec<u8>),
}

/// The frames that wait for one neighbour.
#[derive(Debug)]
struct Queue {
    frames: Vec<Waiting>,
    /// When the first came.
    since_s: u32,
}

impl Queue {
    fn new(since_s: u32) -> Self {
        Self {
            frames: Vec::with_capacity(MOST_FOR_ONE),
            since_s,
        }
    }
}

/// The desk.
#[derive(Debug)]
pub struct Desk {
    shared: Arc<Shared>,
    workers: Vec<Counterpart>,
    services: Services,
    waiting: HashMap<(NetworkId, IpAddr), Queue>,
    /// How many wait, by worker.
    waits: Vec<usize>,
    aged_s: u32,
}

impl Desk {
    /// A desk for these workers, without a plan. `seed` is for jitter.
    pub fn new(shared: Arc<Shared>, workers: Vec<Counterpart>, seed: u64) -> Self {
        Self {
            waits: vec![0; workers.len()],
            shared,
            workers,
            services: Services::new(seed),
            waiting: HashMap::new(),
            aged_s: 0,
        }
    }

    /// Works until control closes the channel.
    pub fn run(mut self, plans: &Receiver<Order>) {
        for worker in &self.workers {
            worker.handoff.serve_by(thread::current());
        }
        loop {
            let now_ns = self.shared.clock.ns_at(pmd::clock::cycles());
            let mut out = Output::default();
            match plans.try_recv() {
                Ok(Order::Follow(plan)) => self.follow(plan, now_ns, &mut out),
                Ok(Order::Appeared(port)) => self.services.appeared(port, now_ns),
                Ok(Order::Disappeared(port)) => self.services.disappeared(port),
                Ok(Order::Seek(network, address)) => self.seek(network, address, now_ns),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
            let busy = self.round(now_ns, &mut out);
            self.services.tick(now_ns, &mut out);
            self.age((now_ns / 1_000_000_000) as u32);
            self.deliver(out, now_ns);
            if !busy && plans.is_empty() {
                let deadline = self.services.next_deadline_ns();
                let left =
                    deadline.map_or(REST, |at| Duration::from_nanos(at.saturating_sub(now_ns)));
                thread::park_timeout(left.min(REST));
            }
        }
    }

    fn follow(&mut self, plan: Plan, now_ns: u64, out: &mut Output) {
        self.services.replace(plan, now_ns, out);
        let bundle = self.shared.current.load();
        let snapshot = &bundle.snapshot;
        let routed = |id| snapshot.network(id).is_some_and(|n| !n.gateways.is_empty());
        self.shared.neighbors.retain(routed);
    }

    /// Deals with what the workers have left. Whether that was anything.
    fn round(&mut self, now_ns: u64, out: &mut Output) -> bool {
        let mut busy = false;
        for worker in 0..self.workers.len() {
            for _ in 0..PARCELS_A_ROUND {
                let Some(parcel) = self.workers[worker].handoff.next_for_services() else {
                    break;
                };
                busy = true;
                match parcel.errand {
                    Errand::Wait { network, neighbor } => {
                        self.wait(worker, parcel, (network, neighbor), now_ns);
                    }
                    _ => self.serve(worker, parcel, now_ns, out),
                }
            }
        }
        busy
    }

    fn serve(&mut self, worker: usize, mut parcel: Box<Parcel>, now_ns: u64, out: &mut Output) {
        let ingress = Ingress {
            port: parcel.ingress,
            network: parcel.network,
            now_ns,
        };
        untag(&mut parcel);
        match self.services.receive(&ingress, &parcel.bytes, out) {
            Verdict::Consumed => self.workers[worker].handoff.give_back(parcel),
            Verdict::Pass if self.is_for_gateway(&parcel) => {
                // What was learned of it is all that there was to do.
                self.workers[worker].handoff.give_back(parcel);
            }
            Verdict::Pass => self.hand(worker, parcel, Errand::Judge),
            Verdict::Refused(_) => {
                self.hand(worker, parcel, Errand::Drop(DropReason::ServiceRefused));
            }
        }
        for event in std::mem::take(&mut out.events) {
            self.note(event, (now_ns / 1_000_000_000) as u32);
        }
    }

    fn is_for_gateway(&self, parcel: &Parcel) -> bool {
        let bundle = self.shared.current.load();
        let network = bundle.snapshot.network(parcel.network);
        let to = parcel.bytes.first_chunk::<6>().map(|bytes| Mac(*bytes));
        network
            .zip(to)
            .is_some_and(|(network, to)| network.gateway(to).is_some())
    }

    fn note(&mut self, event: Event, now_s: u32) {
        match event {
            Event::Neighbor {
                network,
                address,
                mac,
                ..
            } => {
                let generations = self.shared.bridge.generations();
                let neighbors = &self.shared.neighbors;
                if neighbors.learn(network, address, mac, now_s, generations) {
                    self.release(network, address, Some(mac));
                }
            }
            Event::Conflict {
                port,
                address,
                mac,
                owner,
                ..
            } => {
                let name = self.port_name(port);
                tracing::warn!(port = %name, %address, claimed_by = %mac, owner = %owner, "two claim one address");
            }
            Event::Declined { port, address, .. } => {
                let name = self.port_name(port);
                tracing::warn!(port = %name, %address, "a VM found its address in use by another");
            }
        }
    }

    fn port_name(&self, port: PortId) -> String {
        let bundle = self.shared.current.load();
        let found = bundle.snapshot.port(port);
        found.map_or_else(|| port.0.to_string(), |port| port.name.to_string())
    }

    fn wait(&mut self, worker: usize, parcel: Box<Parcel>, to: (NetworkId, IpAddr), now_ns: u64) {
        let now_s = (now_ns / 1_000_000_000) as u32;
        let (network, address) = to;
        let Shared {
            neighbors, bridge, ..
        } = &*self.shared;
        // Somebody may have answered since.
        if let Answer::Known(mac) = neighbors.peek(network, address, now_s)
            && bridge.locate(network, mac).is_some()
        {
            return self.hand(worker, parcel, Errand::Judge);
        }
        if neighbors.want(network, address, now_s) {
            let last = None;
            self.ask(Question {
                network,
                address,
                last,
            });
        }
        let all = self.waiting.entry(to).or_insert_with(|| Queue::new(now_s));
        let all = &mut all.frames;
        if all.len() >= MOST_FOR_ONE || self.waits[worker] >= MOST_WAITING {
            return self.hand(worker, parcel, Errand::Drop(DropReason::NeighborWaiting));
        }
        self.waits[worker] += 1;
        all.push(Waiting::Parcel(worker, parcel));
    }

    /// Whoever waits for a neighbour goes on, or hears that there is nobody.
    fn release(&mut self, network: NetworkId, address: IpAddr, mac: Option<Mac>) {
        let queue = self.waiting.remove(&(network, address));
        for waiting in queue.into_iter().flat_map(|queue| queue.frames) {
            match waiting {
                Waiting::Parcel(worker, parcel) => {
                    self.waits[worker] -= 1;
                    // Judged again, it is sent, or its sender is told that nobody answers.
                    self.hand(worker, parcel, Errand::Judge);
                }
                Waiting::Own(gateway, mut frame) => {
                    if let Some(mac) = mac {
                        self.send_to(network, (gateway.mac, mac), &mut frame);
                    }
                }
            }
        }
    }

    fn age(&mut self, now_s: u32) {
        if now_s == self.aged_s {
            return;
        }
        self.aged_s = now_s;
        let generations = self.shared.bridge.generations();
        let (questions, nobody) = self.shared.neighbors.age(now_s, generations);
        for question in questions {
            self.ask(question);
        }
        for (network, address) in nobody {
            self.release(network, address, None);
        }
        // Whose neighbour is forgotten meanwhile, as its network goes, hears of nobody.
        let late: Vec<_> = self
            .waiting
            .extract_if(|_, queue| queue.since_s + WAIT_S < now_s)
            .flat_map(|(_, queue)| queue.frames)
            .collect();
        for waiting in late {
            if let Waiting::Parcel(worker, parcel) = waiting {
                self.waits[worker] -= 1;
                self.hand(worker, parcel, Errand::Drop(DropReason::NeighborUnresolved));
            }
        }
    }

    /// Asks a network who has an address, unless that was asked just now.
    fn seek(&self, network: NetworkId, address: IpAddr, now_ns: u64) {
        let now_s = (now_ns / 1_000_000_000) as u32;
        if self.shared.neighbors.want(network, address, now_s) {
            let last = None;
            self.ask(Question {
                network,
                address,
                last,
            });
        }
    }

    /// Asks a network who has an address.
    fn ask(&self, question: Question) {
        let bundle = self.shared.current.load();
        let snapshot = &bundle.snapshot;
        let Some(network) = snapshot.network(question.network) else {
            return;
        };
        // By whichever router of the network has an address that the neighbour may answer to.
        let by = network.gateways.iter().find_map(|gateway| {
            let router = snapshot.router(gateway.router)?;
            let interface = router.interface(gateway.interface)?;
            let near = interface
                .addresses
                .iter()
                .find(|net| net.contains(&question.address));
            let any = || interface.address_like(question.address);
            Some((gateway.mac, near.map(ipnet::IpNet::addr).or_else(any)?))
        });
        let Some((mac, address)) = by else { return };
        let Some(frame) = solicit::question(mac, address, question.address, question.last) else {
            return;
        };
        match question.last {
            Some(last) => match self.shared.bridge.locate(question.network, last) {
                Some(port) => self.send(snapshot, question.network, port, &frame),
                None => self.flood(snapshot, question.network, None, &frame),
            },
            None => self.flood(snapshot, question.network, None, &frame),
        }
    }

    fn deliver(&mut self, out: Output, now_ns: u64) {
        for Outgoing { network, to, frame } in out.frames {
            let bundle = self.shared.current.load_full();
            let snapshot = &bundle.snapshot;
            match to {
                Destination::Port(port) => self.send(snapshot, network, port, &frame),
                Destination::Flood { except } => self.flood(snapshot, network, except, &frame),
                Destination::Route => self.route(snapshot, network, frame, now_ns),
            }
        }
        for event in out.events {
            self.note(event, (now_ns / 1_000_000_000) as u32);
        }
    }

    /// Sends a packet of the switch's own as the network's router would.
    fn route(&mut self, snapshot: &Snapshot, network: NetworkId, mut frame: Vec<u8>, now_ns: u64) {
        let gateways = snapshot.network(network).map(|network| &network.gateways);
        let Some(gateway) = gateways.and_then(|gateways| gateways.first()).copied() else {
            return;
        };
        let parsed = policy::parse(&frame, frame.len(), None, PortId::default());
        let End::Onward(leg) = router::plot(snapshot, gateway, &parsed.key).end else {
            return;
        };
        let host = snapshot
            .network(leg.network)
            .and_then(|n| n.hosts.get(&leg.neighbor));
        let now_s = (now_ns / 1_000_000_000) as u32;
        let known = match host {
            Some(host) => Answer::Known(host.mac),
            None => self.shared.neighbors.find(leg.network, leg.neighbor, now_s),
        };
        let from = Gateway {
            mac: leg.from,
            ..gateway
        };
        match known {
            Answer::Known(mac) => self.send_to(leg.network, (leg.from, mac), &mut frame),
            Answer::Nobody => {}
            Answer::Unknown => {
                if self.shared.neighbors.want(leg.network, leg.neighbor, now_s) {
                    self.ask(Question {
                        network: leg.network,
                        address: leg.neighbor,
                        last: None,
                    });
                }
                let to = (leg.network, leg.neighbor);
                let all = self.waiting.entry(to).or_insert_with(|| Queue::new(now_s));
                if all.frames.len() < MOST_FOR_ONE {
                    all.frames.push(Waiting::Own(from, frame));
                }
            }
        }
    }

    /// Sends a frame of the switch's own to a neighbour.
    fn send_to(&self, network: NetworkId, (from, to): (Mac, Mac), frame: &mut [u8]) {
        let Some(macs) = frame.first_chunk_mut::<12>() else {
            return;
        };
        macs[..6].copy_from_slice(&to.0);
        macs[6..].copy_from_slice(&from.0);
        let bundle = self.shared.current.load();
        match self.shared.bridge.locate(network, to) {
            Some(port) => self.send(&bundle.snapshot, network, port, frame),
            None => self.flood(&bundle.snapshot, network, None, frame),
        }
    }

    fn flood(&self, snapshot: &Snapshot, network: NetworkId, except: Option<PortId>, frame: &[u8]) {
        let members = snapshot.network(network).map(|network| &network.members);
        for member in members.into_iter().flatten() {
            if Some(member.port) != except {
                self.send(snapshot, network, member.port, frame);
            }
        }
    }

    fn send(&self, snapshot: &Snapshot, network: NetworkId, port: PortId, frame: &[u8]) {
        let tag = snapshot
            .port(port)
            .and_then(|port| port.egress_tag(network));
        // One worker for each port, so that frames keep their order.
        let worker = port.index() % self.workers.len().max(1);
        let (Some(tag), Some(counterpart)) = (tag, self.workers.get(worker)) else {
            return;
        };
        let Some(mut parcel) = counterpart
            .handoff
            .empty()
            .filter(|_| frame.len() <= MAX_PARCEL_BYTES)
        else {
            self.count_lost(port);
            return;
        };
        parcel.bytes.clear();
        parcel.bytes.extend_from_slice(frame);
        (
            parcel.vlan_tci,
            parcel.partial_checksum,
            parcel.segment_bytes,
        ) = (None, None, 0);
        let tag = tag.map(Into::into);
        self.hand(worker, parcel, Errand::Send { port, tag });
    }

    /// Counts a frame of the switch's own for which there was no buffer.
    fn count_lost(&self, port: PortId) {
        let bundle = self.shared.current.load();
        let own = bundle
            .port(port)
            .and_then(|port| port.counters.get(self.workers.len()));
        if let Some(counters) = own {
            counters.originated.add(1);
            counters.offered.add(1);
            counters.drop_frames(DropReason::ServiceLost, 1);
        }
    }

    fn hand(&self, worker: usize, mut parcel: Box<Parcel>, errand: Errand) {
        parcel.errand = errand;
        let counterpart = &self.workers[worker];
        counterpart.handoff.send(parcel);
        // A full counter is readable already, which is all that is wanted.
        let _ = rustix::io::write(&*counterpart.wake, &1u64.to_ne_bytes());
    }
}

/// What control tells the desk.
#[derive(Debug)]
pub enum Order {
    /// From now on the services are these.
    Follow(Plan),
    /// A port works now.
    Appeared(PortId),
    /// A port does not work, or not any more.
    Disappeared(PortId),
    /// Somebody sends to this address.
    Seek(NetworkId, IpAddr),
}

/// Takes the outer tag out of a parcel's bytes: it stands beside them then.
fn untag(parcel: &mut Parcel) {
    const TAG: [u8; 2] = policy::key::ethertype::CUSTOMER_TAG.to_be_bytes();
    if parcel.vlan_tci.is_none()
        && parcel.bytes.get(12..14) == Some(&TAG)
        && let Some(tci) = parcel.bytes.get(14..16)
    {
        parcel.vlan_tci = Some(u16::from_be_bytes([tci[0], tci[1]]));
        parcel.bytes.drain(12..16);
    }
}

#[cfg(test)]
mod tests {
    use policy::{
        Epoch,
        conntrack::Connections,
        model::{self, Model},
    };
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::{
        counters::PortCounts,
        published::{Bundle, PortShared},
    };

    const SECOND_NS: u64 = 1_000_000_000;
    const NETWORK: NetworkId = NetworkId(1);

    fn desk() -> (Desk, Arc<Handoff>) {
        let clock = pmd::Clock::calibrate();
        let shared = Arc::new(Shared::new(clock, Connections::new(16, [1; 6])));
        let handoff: Arc<Handoff> = Arc::default();
        let wake = eventfd(0, EventfdFlags::NONBLOCK).expect("an event descriptor");
        let counterpart = Counterpart {
            handoff: Arc::clone(&handoff),
            wake: Arc::new(wake),
        };
        (Desk::new(shared, vec![counterpart], 1), handoff)
    }

    fn waits_for(desk: &mut Desk, handoff: &Handoff, host: u8, now_s: u32) {
        let address = IpAddr::from([10, 0, 0, host]);
        let parcel = handoff.empty().expect("a buffer");
        desk.wait(0, parcel, (NETWORK, address), u64::from(now_s) * SECOND_NS);
    }

    fn errands(handoff: &Handoff) -> Vec<Errand> {
        let mut errands = Vec::new();
        while let Some(parcel) = handoff.next_for_worker() {
            errands.push(parcel.errand);
            handoff.give_back(parcel);
        }
        errands
    }

    #[test]
    fn so_many_frames_wait_for_a_neighbour_and_no_more() {
        let (mut desk, handoff) = desk();
        for _ in 0..=MOST_FOR_ONE {
            waits_for(&mut desk, &handoff, 1, 100);
        }
        let over = Errand::Drop(DropReason::NeighborWaiting);
        assert_eq!(errands(&handoff), [over]);
        let generations = desk.shared.bridge.generations();
        let address = [10, 0, 0, 1].into();
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        assert!(
            desk.shared
                .neighbors
                .learn(NETWORK, address, mac, 100, generations)
        );
        desk.release(NETWORK, address, Some(mac));
        assert_eq!(errands(&handoff), [Errand::Judge; MOST_FOR_ONE]);
        assert_eq!(desk.waits, [0]);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (mut desk, handoff) = desk();
        waits_for(&mut desk, &handoff, 1, 100);
        for now_s in 101..104 {
            desk.age(now_s);
        }
        // Judged again, it is dropped by name, and its sender told.
        assert_eq!(errands(&handoff), [Errand::Judge]);
        // One whose neighbour is forgotten has a time, too.
        waits_for(&mut desk, &handoff, 2, 110);
        desk.shared.neighbors.retain(|_| false);
        desk.age(112);
        assert_eq!(errands(&handoff), []);
        desk.age(110 + WAIT_S + 1);
        let gone = Errand::Drop(DropReason::NeighborUnresolved);
        assert_eq!(errands(&handoff), [gone]);
        assert_eq!(desk.waits, [0]);
        assert!(desk.waiting.is_empty());
    }

    /// Port 0 in the network.
    fn one_port() -> Snapshot {
        let model = Model {
            networks: vec![model::Network {
                id: NETWORK,
                name: "n".into(),
                tenant: "t".into(),
                vlan: None,
                mac_limit: 16,
                ageing_s: 300,
                moves: model::MoveLimit::default(),
                services: model::Services::default(),
            }],
            ports: vec![model::Port {
                id: PortId(0),
                name: "p".into(),
                attachment: model::Attachment::Access(NETWORK),
                isolated: false,
                spanning_tree: model::SpanningTree::default(),
                mac_limit: 16,
                storm: model::StormLimits::default(),
                misses_per_turn: 1,
                vnic: None,
            }],
            ..Model::default()
        };
        Snapshot::compile(&model, Epoch(1)).expect("sound")
    }

    #[test]
    fn a_frame_of_the_switchs_own_without_a_buffer_is_counted() {
        let (desk, handoff) = desk();
        let buffers: Vec<_> = std::iter::from_fn(|| handoff.empty()).collect();
        let port = Arc::new(PortShared::new(1));
        let bundle = Bundle {
            snapshot: Arc::new(one_port()),
            ports: vec![Some(Arc::clone(&port))],
            meters: Arc::default(),
            mirrors: Arc::default(),
            revision: 1,
        };
        desk.shared.current.store(Arc::new(bundle));
        let snapshot = one_port();
        desk.send(&snapshot, NETWORK, PortId(0), &[0; 60]);
        let lost = |port: &PortShared| {
            let mut counts = PortCounts::default();
            port.counters.iter().for_each(|one| counts.add(one));
            (counts.originated, counts.offered, counts.drops)
        };
        let expected = vec![(DropReason::ServiceLost, 1)];
        assert_eq!(lost(&port), (1, 1, expected.clone()));
        for buffer in buffers {
            handoff.give_back(buffer);
        }
        desk.send(&snapshot, NETWORK, PortId(0), &[0; 60]);
        assert_eq!(lost(&port), (1, 1, expected), "its worker counts this one");
    }
}
