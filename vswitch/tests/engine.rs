//! The workers as control drives them: attach, publish, detach, assign, list, stop, while frames
//! flow.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pmd::memory::{Config, Endpoint, pair};
use policy::{
    DropReason, Epoch, NetworkId, PortId,
    model::{
        Action, Attachment, DirectionPolicy, Model, Network, Port, SenderChecks, StormLimits, Vnic,
    },
    snapshot::Snapshot,
};
use vswitch::engine::{Engine, EngineError, FlowVerdict, PortQueues, Settings};

const NETWORK: NetworkId = NetworkId(1);

fn model(ports: &[u16]) -> Model {
    let network = Network {
        id: NETWORK,
        name: "blue".into(),
        tenant: "acme".into(),
        vlan: None,
        mac_limit: 100,
        ageing_s: 300,
        moves: policy::model::MoveLimit::default(),
        services: policy::model::Services::default(),
    };
    let ports = ports.iter().map(|id| Port {
        id: PortId(*id),
        name: Arc::from(format!("p{id}")),
        attachment: Attachment::Access(NETWORK),
        isolated: false,
        mac_limit: 100,
        storm: StormLimits::default(),
        misses_per_turn: 64,
        spanning_tree: policy::model::SpanningTree::default(),
        vnic: None,
    });
    Model {
        networks: vec![network],
        ports: ports.collect(),
        ..Model::default()
    }
}

fn publish(engine: &Engine, ports: &[u16]) {
    let epoch = Epoch(engine.epoch().0 + 1);
    let snapshot = Snapshot::compile(&model(ports), epoch).expect("compiles");
    engine
        .publish(snapshot, Arc::default())
        .expect("every worker acknowledges");
    assert_eq!(engine.epoch(), epoch);
}

fn attach(engine: &Engine, id: u16, placement: &[usize]) -> Endpoint {
    let (near, far) = pair(Config::default()).expect("pair");
    let queues = PortQueues {
        info: near.info,
        rx: near.rx,
        tx: near.tx,
    };
    engine
        .attach(PortId(id), queues, placement)
        .expect("attached");
    Endpoint::new(far)
}

fn start(workers: usize) -> Engine {
    // Both workers may share a core: what is tested is not speed.
    let settings = Settings {
        cores: vec![0; workers],
        flow_cache_entries: 256,
        ..Settings::default()
    };
    Engine::start(&settings).expect("starts")
}

fn frame(to: u8, from: u8, payload: u8) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5];
    bytes.resize(60, payload);
    bytes
}

/// Waits, within bounds, for `count` frames.
fn receive(endpoint: &mut Endpoint, count: usize) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut frames = Vec::new();
    while frames.len() < count {
        assert!(
            Instant::now() < deadline,
            "{} of {count} frames came",
            frames.len()
        );
        frames.extend(endpoint.drain());
        std::thread::yield_now();
    }
    frames
}

/// Waits, within bounds, until no frame is under way: the counters have stood still.
fn settle(engine: &Engine, ports: &[u16]) {
    let reading = || {
        ports
            .iter()
            .map(|id| engine.port_counts(PortId(*id)))
            .collect::<Vec<_>>()
    };
    let mut last = reading();
    let mut still = 0;
    while still < 5 {
        std::thread::sleep(Duration::from_millis(2));
        let now = reading();
        still = if now == last { still + 1 } else { 0 };
        last = now;
    }
}

fn check_conservation(engine: &Engine, ports: &[u16]) {
    settle(engine, ports);
    let mut total = (0, 0);
    for id in ports {
        let counts = engine.port_counts(PortId(*id));
        total.0 += counts.rx_frames + counts.replicas + counts.originated;
        total.1 += counts.tx_frames + counts.dropped_total();
    }
    let retired = engine.retired_counts();
    total.0 += retired.rx_frames + retired.replicas + retired.originated;
    total.1 += retired.tx_frames + retired.dropped_total();
    assert_eq!(total.0, total.1, "rx + replicas + originated = tx + drops");
}

#[test]
fn frames_pass_between_ports_of_two_workers() {
    let engine = start(2);
    publish(&engine, &[1, 2]);
    let (mut one, mut two) = (attach(&engine, 1, &[0]), attach(&engine, 2, &[1]));
    for round in 0..20 {
        assert!(one.send(&frame(2, 1, round)));
        assert_eq!(receive(&mut two, 1), [frame(2, 1, round)]);
        assert!(two.send(&frame(1, 2, round)));
        assert_eq!(receive(&mut one, 1), [frame(1, 2, round)]);
        // Long enough for the workers to block, so that they must be woken.
        if round % 5 == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    check_conservation(&engine, &[1, 2]);
    assert_eq!(engine.macs().len(), 2);
    assert!(
        engine
            .worker_counts()
            .iter()
            .all(|worker| worker.frames == 20)
    );
    assert!(engine.alive());
    engine.stop();
}

#[test]
fn attaching_needs_a_policy_and_a_worker() {
    let engine = start(1);
    publish(&engine, &[1]);
    let queues = || {
        let near = pair(Config::default()).expect("pair").0;
        PortQueues {
            info: near.info,
            rx: near.rx,
            tx: near.tx,
        }
    };
    let refused = |result: Result<(), EngineError>| matches!(result, Err(EngineError::Invalid(_)));
    assert!(refused(engine.attach(PortId(9), queues(), &[])));
    assert!(refused(engine.attach(PortId(1), queues(), &[7])));
    assert!(engine.attach(PortId(1), queues(), &[]).is_ok());
    assert!(refused(engine.attach(PortId(1), queues(), &[])));
    assert!(refused(engine.assign(PortId(1), 1, 0)));
    assert!(refused(engine.assign(PortId(1), 0, 5)));
}

#[test]
fn a_detached_port_is_down_for_others_and_comes_back_with_its_counts() {
    let engine = start(2);
    publish(&engine, &[1, 2]);
    let (mut one, mut two) = (attach(&engine, 1, &[0]), attach(&engine, 2, &[1]));
    assert!(two.send(&frame(1, 2, 0)));
    receive(&mut one, 1);
    engine.detach(PortId(2)).expect("detached");
    assert!(!two.send(&frame(1, 2, 0)), "the driver's side is closed");
    assert!(one.send(&frame(2, 1, 1)));
    settle(&engine, &[1, 2]);
    assert_eq!(
        engine.port_counts(PortId(2)).dropped(DropReason::PortDown),
        1
    );

    let mut two = attach(&engine, 2, &[0]);
    assert!(one.send(&frame(2, 1, 2)));
    receive(&mut two, 1);
    check_conservation(&engine, &[1, 2]);
    assert_eq!(engine.port_counts(PortId(2)).rx_frames, 1, "counts go on");
}

#[test]
fn a_port_that_leaves_the_snapshot_ends_its_counts_but_not_the_totals() {
    let engine = start(1);
    publish(&engine, &[1, 2]);
    let (mut one, mut two) = (attach(&engine, 1, &[]), attach(&engine, 2, &[]));
    assert!(one.send(&frame(2, 1, 1)));
    receive(&mut two, 1);
    publish(&engine, &[1]);
    engine.detach(PortId(2)).expect("detached");
    check_conservation(&engine, &[1]);
    publish(&engine, &[1, 2]);
    let _two = attach(&engine, 2, &[]);
    assert_eq!(
        engine.port_counts(PortId(2)).rx_frames,
        0,
        "another port by that number"
    );
    assert!(engine.drops().iter().all(|row| row.port != PortId(2)));
}

#[test]
fn queues_move_between_workers_under_traffic_and_lose_nothing() {
    let engine = start(2);
    publish(&engine, &[1, 2]);
    let (mut one, mut two) = (attach(&engine, 1, &[0]), attach(&engine, 2, &[0]));
    let mut got = Vec::new();
    for round in 0..100u8 {
        while !one.send(&frame(2, 1, round)) {
            got.extend(two.drain());
        }
        if round % 10 == 0 {
            engine
                .assign(PortId(1), 0, usize::from(round / 10 % 2))
                .expect("assigned");
        }
    }
    let missing = 100 - got.len();
    got.extend(receive(&mut two, missing));
    let order: Vec<u8> = got.iter().map(|bytes| bytes[59]).collect();
    assert_eq!(order, (0..100).collect::<Vec<_>>(), "in order, each once");
    assert_eq!(engine.queues().len(), 2);
    check_conservation(&engine, &[1, 2]);
}

#[test]
fn flows_and_drops_are_listed() {
    let engine = start(1);
    publish(&engine, &[1, 2]);
    let (mut one, mut two) = (attach(&engine, 1, &[]), attach(&engine, 2, &[]));
    assert!(two.send(&frame(1, 2, 0)));
    receive(&mut one, 1);
    for _ in 0..3 {
        assert!(one.send(&frame(2, 1, 0)));
        receive(&mut two, 1);
    }
    let mut reserved = frame(0, 1, 0);
    reserved[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, 0x0e]);
    assert!(one.send(&reserved));
    settle(&engine, &[1, 2]);
    let flows = engine.flows(100).expect("listed");
    let to_two = flows.iter().find(|flow| {
        matches!(&flow.verdict, FlowVerdict::Forward(to) if to.len() == 1 && to[0].port == PortId(2))
    });
    assert_eq!(to_two.expect("cached").hits, 2);
    let drops = engine.drops();
    assert_eq!(drops.len(), 1);
    assert_eq!(drops[0].denial.reason, DropReason::LinkLocalGroup);
    assert_eq!((drops[0].port, drops[0].frames), (PortId(1), 1));
    assert_eq!(engine.flows(1).expect("listed").len(), 1);
}

#[test]
fn snapshots_replace_each_other_under_traffic() {
    let engine = start(2);
    publish(&engine, &[1, 2]);
    let (mut one, mut two) = (attach(&engine, 1, &[0]), attach(&engine, 2, &[1]));
    let mut sent = 0;
    let mut got = 0;
    for _ in 0..50 {
        for payload in 0..16 {
            sent += usize::from(one.send(&frame(2, 1, payload)));
        }
        publish(&engine, &[1, 2]);
        got += two.drain().len();
    }
    got += receive(&mut two, sent - got).len();
    assert_eq!(got, sent, "frames that every snapshot allows are not lost");
    check_conservation(&engine, &[1, 2]);
}

/// UDP from 10.0.0.`from`:1000 to 10.0.0.`to`:1000, behind ports of those numbers.
fn datagram(to: u8, from: u8) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0];
    bytes.extend([0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0]);
    bytes.extend([10, 0, 0, from, 10, 0, 0, to]);
    bytes.extend([3, 232, 3, 232, 0, 12, 0, 0, 1, 2, 3, 4]);
    bytes
}

/// Port 1's guest may ask statefully or not; nobody may send to it unasked.
fn publish_policy(engine: &Engine, asks: Action) {
    let mut model = model(&[1, 2]);
    let policy = |default| DirectionPolicy {
        rules: [].into(),
        default,
    };
    let guest = |number: u8, inbound, outbound| Vnic {
        name: format!("vnic{number}").into(),
        vm: format!("vm{number}").into(),
        mac: policy::Mac([2, 0, 0, 0, 0, number]),
        ipv4: Vec::new(),
        ipv6: Vec::new(),
        connection_limit: 100,
        checks: SenderChecks::NONE,
        roles: policy::model::Roles::default(),
        inbound: policy(inbound),
        outbound: policy(outbound),
    };
    model.ports[0].vnic = Some(guest(1, Action::Deny, asks));
    // Somebody always tracks, so that what is withdrawn is the permission alone.
    model.ports[1].vnic = Some(guest(2, Action::AllowStateful, Action::Allow));
    let epoch = Epoch(engine.epoch().0 + 1);
    let snapshot = Snapshot::compile(&model, epoch).expect("compiles");
    engine
        .publish(snapshot, Arc::default())
        .expect("every worker acknowledges");
}

/// Waits, within bounds, until a port has received `frames`.
fn wait_until_received(engine: &Engine, port: u16, frames: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while engine.port_counts(PortId(port)).rx_frames < frames {
        assert!(Instant::now() < deadline, "port {port} is not served");
        std::thread::yield_now();
    }
}

#[test]
fn no_answer_passes_after_the_withdrawal_of_its_permission_was_acknowledged() {
    const ROUNDS: u64 = 50;
    let engine = start(2);
    publish_policy(&engine, Action::AllowStateful);
    let (mut one, mut two) = (attach(&engine, 1, &[0]), attach(&engine, 2, &[1]));
    let (mut questions, mut answers) = (0, 0);
    for _ in 0..ROUNDS {
        publish_policy(&engine, Action::AllowStateful);
        assert!(one.send(&datagram(2, 1)));
        questions += 1;
        receive(&mut two, 1);
        for _ in 0..3 {
            assert!(two.send(&datagram(1, 2)));
            answers += 1;
        }
        receive(&mut one, 3);
        // Traffic in both directions goes on while the policy changes.
        for _ in 0..4 {
            questions += u64::from(one.send(&datagram(2, 1)));
            answers += u64::from(two.send(&datagram(1, 2)));
        }
        publish_policy(&engine, Action::Allow);
        wait_until_received(&engine, 1, questions);
        wait_until_received(&engine, 2, answers);
        settle(&engine, &[1, 2]);
        one.drain();
        two.drain();
        for _ in 0..3 {
            assert!(two.send(&datagram(1, 2)));
            answers += 1;
        }
        wait_until_received(&engine, 2, answers);
        settle(&engine, &[1, 2]);
        assert_eq!(one.drain(), Vec::<Vec<u8>>::new());
    }
    let refused = engine.port_counts(PortId(1)).dropped(DropReason::AclIn);
    assert!(refused >= 3 * ROUNDS, "{refused}");
    check_conservation(&engine, &[1, 2]);
}
