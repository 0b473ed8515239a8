//! The switch under measurement: one worker, two memory ports, policy on both.
//!
//! ```text
//!   generator ─► [ingress: vNIC 10.1.0.1, R outbound rules] ─► worker
//!                                  sink ◄─ [egress: vNIC, inbound rules] ◄─┘
//! ```
//!
//! The rules deny and allow by address, port, port range, protocol and prefix, and none but the
//! last of a list matches the traffic: a miss walks them all. Between them they read every bit in
//! which the flows differ, so policy can tell each flow from each other.

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU8,
    sync::Arc,
};

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net};
use mirror::{
    session,
    wire::{Addresses, Carrier, Link, Oversize, SessionId, Tunnel},
};
use pmd::memory::{self, Endpoint};
use policy::{
    Epoch, InterfaceId, Mac, NetworkId, PortId, RuleId, Snapshot,
    conntrack::{Connections, Settings},
    model::{self, Action, Attachment, DirectionPolicy, Model, SenderChecks, StormLimits, Vnic},
    route::{NextHop, Origin as RouteOrigin, Route, RouteTable, Target},
    router::{Interface, Router},
    rule::{Match, Origin, Rule},
};
use vswitch::{
    counters::PortCounts,
    intake::OwnedQueue,
    meter::Meters,
    mirroring::{self, Mirrors, SessionShared},
    published::{Bundle, PortShared, Shared},
    worker::Worker,
};

use super::Options;
use crate::generator::{
    flow::{Flow, FlowSpace},
    template::{Headers, Template, Transport},
};

const INGRESS: PortId = PortId(0);
const EGRESS: PortId = PortId(1);
/// Where copies leave.
const TUNNEL: PortId = PortId(2);
const UDP: u8 = 17;
const TCP: u8 = 6;

/// The router's address.
const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 0xfe]);

/// Buffers of each memory ring: what the worker finds when it is timed.
pub const RING_SLOTS: u32 = 256;

/// Room for connections, where every frame opens one.
const MOST_CONNECTIONS: usize = 1 << 20;

/// The most inbound rules of the egress port.
const INBOUND_RULES: usize = 8;

/// A worker between two memory ports, and the far ends of those.
#[derive(Debug)]
pub struct Bed {
    /// What is measured.
    pub worker: Worker,
    /// Where frames are put in.
    pub source: Endpoint,
    /// Where they come out.
    pub sink: Endpoint,
    /// Where copies come out, if there are any.
    pub tunnel: Option<Endpoint>,
    /// How many inbound rules the egress port has.
    pub inbound_rules: usize,
    /// Whether every flow is a connection.
    pub stateful: bool,
    shared: Arc<Shared>,
}

impl Bed {
    /// A worker whose flow cache has at least `cache_entries` entries, with `rules` outbound
    /// rules at the ingress port.
    ///
    /// # Errors
    /// When a memory port cannot be opened or the policy does not compile.
    pub fn new(options: &Options, cache_entries: usize) -> anyhow::Result<Self> {
        let mut beds = Self::several(options, cache_entries, 1)?;
        beds.pop().context("one worker makes one bed")
    }

    /// As [`Bed::new`], for several workers of one switch: they share its ports, of which each has
    /// a queue, its snapshot, its MAC table and its connections.
    ///
    /// # Errors
    /// As [`Bed::new`].
    pub fn several(
        options: &Options,
        cache_entries: usize,
        workers: usize,
    ) -> anyhow::Result<Vec<Self>> {
        let inbound_rules = options.rules.min(INBOUND_RULES);
        let model = model(options, inbound_rules);
        // Picked up in their middle, so that no handshake is needed.
        let settings = Settings {
            tcp_loose: true,
            ..Settings::default()
        };
        let snapshot = Snapshot::compile(&model, Epoch(1))
            .context("compiling the policy")?
            .with_connections(settings);
        let connections = match (options.stateful, options.miss) {
            (false, _) => 1,
            // Never so full that room is made.
            (true, false) => 2 * options.flows as usize + 4 * RING_SLOTS as usize,
            (true, true) => MOST_CONNECTIONS,
        };
        let shared = Arc::new(Shared::new(
            pmd::Clock::calibrate(),
            Connections::new(connections, [5, 6, 7, 8, 9, 10]),
        ));
        shared.bridge.configure(&snapshot);
        let ports = (0..=TUNNEL.0).map(|_| Some(Arc::new(PortShared::new(workers))));
        let ports = ports.collect();
        let meters = Meters::after(&Meters::default(), &snapshot)?;
        shared.current.store(Arc::new(Bundle {
            snapshot: Arc::new(snapshot),
            ports,
            meters: Arc::new(meters),
            mirrors: if options.mirrored {
                Arc::new(mirrors(workers)?)
            } else {
                Arc::default()
            },
            revision: 1,
        }));

        let mut seeds = crate::generator::random::Random::new(0x7e57_ab1e);
        let secret = std::array::from_fn(|_| seeds.next_u64());
        let beds = (0..workers).map(|id| {
            let worker = Worker::new(id, Arc::clone(&shared), cache_entries, secret);
            Self::attached(worker, id, options, Arc::clone(&shared))
        });
        beds.collect()
    }

    /// Gives the worker its queue of each port.
    fn attached(
        mut worker: Worker,
        number: usize,
        options: &Options,
        shared: Arc<Shared>,
    ) -> anyhow::Result<Self> {
        let mut far_ends = Vec::new();
        let config = memory::Config {
            slots: RING_SLOTS,
            ..memory::Config::default()
        };
        let tunnel = if options.mirrored {
            let (near, far) = memory::pair(config)?;
            for queue in near.tx {
                let queue = Arc::new(parking_lot::Mutex::new(queue));
                worker.outbox.attach(TUNNEL, Some(queue));
            }
            Some(Endpoint::new(far))
        } else {
            None
        };
        for id in [INGRESS, EGRESS] {
            let (near, far) = memory::pair(config)?;
            for queue in near.rx {
                worker.intake.add(OwnedQueue {
                    queue,
                    port: id,
                    number,
                    unmarked_partial_checksums: false,
                    most_frames: pmd::BURST,
                });
            }
            for queue in near.tx {
                let queue = Arc::new(parking_lot::Mutex::new(queue));
                worker.outbox.attach(id, Some(queue));
            }
            far_ends.push(Endpoint::new(far));
        }
        let (Some(sink), Some(source)) = (far_ends.pop(), far_ends.pop()) else {
            anyhow::bail!("two ports make two far ends");
        };
        Ok(Self {
            worker,
            source,
            sink,
            tunnel,
            inbound_rules: options.rules.min(INBOUND_RULES),
            stateful: options.stateful,
            shared,
        })
    }

    /// The connections.
    pub fn connections(&self) -> &Connections {
        &self.shared.connections
    }

    /// Forgets all connections when the table is nearly full of them.
    pub fn make_room(&mut self) {
        let connections = &self.shared.connections;
        if self.stateful && connections.len() + 2 * RING_SLOTS > connections.capacity() {
            connections.flush(|_| true);
        }
    }

    /// What the ports counted, added up.
    pub fn counts(&self) -> PortCounts {
        let mut total = PortCounts::default();
        for port in self.shared.current.load().ports.iter().flatten() {
            port.counters
                .iter()
                .for_each(|counters| total.add(counters));
        }
        total
    }
}

/// A session that copies all that the sender sends.
fn mirrors(workers: usize) -> anyhow::Result<Mirrors> {
    let tunnel = Tunnel {
        link: Link {
            destination: Mac([2, 0, 0, 0, 0, 0xd0]),
            source: Mac([2, 0, 0, 0, 0, 0xd1]),
            tci: None,
        },
        addresses: Addresses::V4 {
            source: Ipv4Addr::new(192, 0, 2, 1),
            destination: Ipv4Addr::new(192, 0, 2, 9),
        },
        dscp: 0,
        ttl: 64,
        dont_fragment: true,
        carrier: Carrier::ErspanII {
            session: SessionId::new(1).context("a session number")?,
            index: 0,
        },
        mtu_bytes: 1500,
        oversize: Oversize::Truncate,
    };
    let owner: Arc<str> = "bench".into();
    let wanted = session::Session {
        name: "all".into(),
        owner: Arc::clone(&owner),
        source: session::Source::Port("p0".into()),
        directions: session::Directions::Out,
        filter: policy::rule::RuleList::default(),
        rejected: false,
        truncate_bytes: None,
        sampling: session::Sampling::All,
        limits: session::Limits::default(),
        priority: 100,
        lease_until_s: None,
        tunnel: Some(tunnel),
    };
    let facts = session::SourceFacts {
        tenant: owner,
        role: session::Role::Ordinary,
    };
    let session = mirroring::Session {
        ready: wanted.prepare(Some(&facts), None)?,
        shared: Arc::new(SessionShared::new(workers, 1)),
        slot: 0,
        ports: vec![INGRESS],
        way: Some(mirroring::Way::Port(TUNNEL)),
    };
    Ok(Mirrors::new(vec![session], Arc::default()))
}

/// The flows of the traffic: 2^36 of them, the first million over 1,024 hosts.
pub fn flows() -> FlowSpace {
    FlowSpace {
        first: Flow {
            src: address(0),
            dst: Ipv4Addr::new(10, 2, 0, 0).into(),
            src_port: 20_000,
            dst_port: 10_000,
        },
        dst_ports: 1024,
        dst_hosts: 1 << 16,
        src_ports: 1024,
    }
}

/// The traffic's frames: UDP over IPv4 from the ingress vNIC to the egress vNIC's MAC, or to the
/// router's.
///
/// # Errors
/// When `size_bytes` is too short for the headers.
pub fn template(size_bytes: usize, routed: bool) -> anyhow::Result<Template> {
    let to = if routed { GATEWAY } else { mac(1) };
    made_for(size_bytes, Transport::Udp, (mac(0), to))
}

/// The frames of stateful traffic: TCP, and the answers to it where `back`.
///
/// # Errors
/// When `size_bytes` is too short for the headers.
pub fn tcp_template(size_bytes: usize, back: bool) -> anyhow::Result<Template> {
    let ends = (mac(u8::from(back)), mac(u8::from(!back)));
    made_for(size_bytes, Transport::Tcp, ends)
}

fn made_for(
    size_bytes: usize,
    transport: Transport,
    (eth_src, eth_dst): (Mac, Mac),
) -> anyhow::Result<Template> {
    let headers = Headers {
        eth_src,
        eth_dst,
        vlan_tci: None,
        transport,
        ipv6: false,
    };
    Ok(Template::new(&headers, size_bytes)?)
}

fn mac(port: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, port + 1])
}

fn address(port: u8) -> IpAddr {
    Ipv4Addr::new(10, 1 + port, 0, 1).into()
}

fn model(options: &Options, inbound_rules: usize) -> Model {
    let &Options {
        rules: outbound_rules,
        stateful,
        routed,
        ..
    } = options;
    let rules = |acl, first, count| {
        if stateful {
            stateful_rules(acl, first, count)
        } else {
            rules(acl, first, count)
        }
    };
    let network = |number: u16| model::Network {
        id: NetworkId(number),
        name: format!("bench{number}").into(),
        tenant: "bench".into(),
        vlan: None,
        mac_limit: 1024,
        ageing_s: 300,
        moves: policy::model::MoveLimit::default(),
        services: policy::model::Services::default(),
    };
    let port = |number: u8, outbound: DirectionPolicy, inbound: DirectionPolicy| model::Port {
        id: PortId(number.into()),
        name: format!("p{number}").into(),
        attachment: Attachment::Access(NetworkId(if routed { number.into() } else { 0 })),
        isolated: false,
        mac_limit: 64,
        storm: StormLimits::default(),
        misses_per_turn: 256,
        spanning_tree: policy::model::SpanningTree::default(),
        vnic: Some(Vnic {
            name: format!("vnic{number}").into(),
            vm: format!("vm{number}").into(),
            mac: mac(number),
            ipv4: vec![Ipv4Net::new_assert(Ipv4Addr::new(10, 1 + number, 0, 1), 32)],
            ipv6: Vec::new(),
            connection_limit: u32::MAX,
            // Answers come from every address that the flows go to.
            checks: if stateful && number == 1 {
                SenderChecks::NONE
            } else {
                SenderChecks::ALL
            },
            roles: policy::model::Roles::default(),
            inbound,
            outbound,
        }),
    };
    Model {
        networks: (0..=u16::from(routed)).map(network).collect(),
        ports: vec![
            port(0, rules("out", 0, outbound_rules), rules("none", 0, 0)),
            port(1, rules("none", 0, 0), rules("in", 1 << 20, inbound_rules)),
        ],
        routers: routed.then(router).into_iter().collect(),
        ..Model::default()
    }
}

/// The router between the two networks: all destinations of the traffic are behind the egress vNIC.
fn router() -> Arc<Router> {
    let egress = InterfaceId(1);
    let target = Target::via([NextHop {
        address: address(1),
        interface: egress,
        weight: NonZeroU8::MIN,
    }]);
    let mut routes = RouteTable::default();
    if let Ok(target) = target {
        // Of an empty table no sound route is refused.
        let _ = routes.insert(Route {
            prefix: Ipv4Net::new_assert(Ipv4Addr::new(10, 2, 0, 0), 16).into(),
            metric: 0,
            origin: RouteOrigin::Configuration,
            target: Arc::new(target),
        });
    }
    let interface = |network| Interface {
        network: NetworkId(network),
        addresses: Vec::new(),
        mtu: 1500,
        clamp_mss: false,
    };
    Arc::new(Router {
        name: "bench".into(),
        tenant: "bench".into(),
        mac: GATEWAY,
        interfaces: vec![interface(0), interface(1)],
        home: NetworkId(0),
        routes,
    })
}

/// So many rules, of which the last allows the traffic; without any, the default allows it.
pub fn rules(acl: &str, first_id: u32, count: usize) -> DirectionPolicy {
    let rules = (0..count)
        .map(|index| {
            let (action, matches) = if index + 1 == count {
                (Action::Allow, the_traffic())
            } else {
                other_traffic(index as u32)
            };
            Rule {
                id: RuleId(first_id + index as u32),
                action,
                log: false,
                limit: None,
                matches,
                origin: Arc::new(Origin {
                    acl: acl.into(),
                    text: format!("{acl} {index}").into(),
                }),
            }
        })
        .collect();
    let default = if count == 0 {
        Action::Allow
    } else {
        Action::Deny
    };
    DirectionPolicy { rules, default }
}

/// The same, where the traffic is TCP and allowed statefully.
fn stateful_rules(acl: &str, first_id: u32, count: usize) -> DirectionPolicy {
    let DirectionPolicy { rules, default } = rules(acl, first_id, count);
    let mut rules: Vec<Rule> = rules.iter().cloned().collect();
    if let Some(last) = rules.last_mut() {
        last.action = Action::AllowStateful;
        last.matches.protocol = Some(TCP);
    }
    DirectionPolicy {
        rules: rules.into(),
        default,
    }
}

fn the_traffic() -> Match {
    Match {
        dst: Some(net([10, 2, 0, 0], 16)),
        protocol: Some(UDP),
        ..Match::default()
    }
}

/// A rule that does not match the traffic, of one of four kinds.
fn other_traffic(index: u32) -> (Action, Match) {
    let [.., high, low] = index.to_be_bytes();
    let port = (index % 1000) as u16;
    match index % 4 {
        // One service of one host of another subnet.
        0 => (
            Action::Deny,
            Match {
                dst: Some(net([10, 3, high, low], 32)),
                protocol: Some(UDP),
                dst_ports: vec![port..=port],
                ..Match::default()
            },
        ),
        // A TCP service of everybody.
        1 => (
            Action::Deny,
            Match {
                dst: Some(net([10, 0, 0, 0], 8)),
                protocol: Some(TCP),
                dst_ports: vec![port..=port],
                ..Match::default()
            },
        ),
        // Source ports that the traffic does not use, to the traffic's own subnet.
        2 => (
            Action::Deny,
            Match {
                dst: Some(net([10, 2, 0, 0], 16)),
                protocol: Some(UDP),
                src_ports: vec![port..=port + 1000],
                ..Match::default()
            },
        ),
        // A port range of another subnet.
        _ => (
            Action::Allow,
            Match {
                dst: Some(net([10, 4, low, 0], 24)),
                protocol: Some(UDP),
                dst_ports: vec![port + 1000..=port + 2000],
                ..Match::default()
            },
        ),
    }
}

fn net(address: [u8; 4], prefix_len: u8) -> IpNet {
    Ipv4Net::new_assert(address.into(), prefix_len).into()
}
