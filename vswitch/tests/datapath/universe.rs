//! A small universe of models and frames: few enough addresses that frames meet each other's
//! traces and rules, and every kind of header, sound or not.

use ipnet::IpNet;
use policy::{
    Mac, VlanId,
    model::{Action, DirectionPolicy, Model, Port, RateLimit, SenderChecks, StormLimits, Vnic},
    rule::{FlagsMatch, FragmentMatch, IcmpMatch, MacMatch, Match, Rule},
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::bed::{build::*, frames::*};

/// Ports 0 to 5.
pub(crate) const PORTS: u16 = 6;

/// A frame that arrives.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) port: u16,
    pub(crate) bytes: Vec<u8>,
    /// The tag that comes beside it.
    pub(crate) beside: Option<u16>,
    /// Where and in which bit its sibling differs, if it does.
    difference: Option<(Index, u8)>,
}

impl Arrival {
    /// A frame whose sibling is no other.
    pub(crate) fn sound(port: u16, bytes: Vec<u8>) -> Self {
        Self {
            port,
            bytes,
            beside: None,
            difference: None,
        }
    }

    /// A frame that differs in one bit behind the Ethernet addresses, of the headers most likely:
    /// what a mask overlooks that is too narrow.
    pub(crate) fn sibling(&self) -> Self {
        let mut sibling = self.clone();
        let headers = sibling.bytes.len().min(64);
        if let Some((place, bit)) = self.difference.filter(|_| headers > 14) {
            sibling.bytes[14 + place.index(headers - 14)] ^= 1 << bit;
        }
        sibling
    }

    /// The same frame from one of two addresses that are `port`'s alone.
    pub(crate) fn at_home(&self, port: u16) -> Self {
        let mut arrival = self.clone();
        if let Some(source) = arrival.bytes.get_mut(6..12) {
            let own = port as u8 + 1 + (source[5] & 1) * 16;
            source.copy_from_slice(&mac(own).0);
        }
        arrival.port = port;
        arrival
    }
}

/// Every port is there, in one network.
pub(crate) fn everything() -> Model {
    model([network(0)], (0..PORTS).map(|id| access(id, 0)))
}

pub(crate) fn some_model() -> impl Strategy<Value = Model> {
    let limits = prop::collection::vec(select(vec![2, 5, 100, 100]), 3);
    let ports = prop::collection::vec(prop::option::weighted(0.92, port()), PORTS as usize);
    (limits, ports).prop_map(|(limits, ports)| {
        let mut networks = [vlan_network(0, 10), vlan_network(1, 20), network(2)];
        for (network, limit) in networks.iter_mut().zip(limits) {
            network.mac_limit = limit;
        }
        let ports = ports.into_iter().enumerate();
        let ports = ports.filter_map(|(id, port)| Some(numbered(id as u16, port?)));
        model(networks, ports)
    })
}

/// Gives a port its number, its vNIC the addresses that go with it, and its rules numbers: rules with
/// a limit are one rule wherever they do the same, as if it were a group's.
pub(crate) fn numbered(id: u16, mut port: Port) -> Port {
    port.id = policy::PortId(id);
    if let Some(vnic) = &mut port.vnic {
        vnic.mac = mac(id as u8 + 1);
        vnic.name = format!("vnic-{id}").into();
        for (direction, policy) in [(0, &mut vnic.inbound), (1, &mut vnic.outbound)] {
            let rules = policy.rules.iter().enumerate();
            let own = |index| u32::from(id) * 100 + direction * 50 + index as u32;
            let rules = rules.map(|(index, rule)| Rule {
                id: policy::RuleId(shared_number(rule).unwrap_or(own(index))),
                ..rule.clone()
            });
            policy.rules = rules.collect();
        }
        let last = id + 1;
        for net in &mut vnic.ipv4 {
            *net = format!("10.0.0.{last}/{}", net.prefix_len())
                .parse()
                .expect("a prefix");
        }
        for net in &mut vnic.ipv6 {
            *net = format!("2001:db8::{last}/{}", net.prefix_len())
                .parse()
                .expect("a prefix");
        }
    }
    port
}

fn shared_number(rule: &Rule) -> Option<u32> {
    let limit = rule.limit?;
    let number = LIMITS.iter().position(|other| *other == limit)?;
    Some(1000 + rule.action as u32 * 100 + number as u32)
}

/// Limits whose tokens come back at whole nanoseconds.
const LIMITS: [RateLimit; 5] = [
    limit(1, 1),
    limit(1, 3),
    limit(10, 2),
    limit(100, 4),
    limit(1000, 20),
];

const fn limit(per_second: u32, burst: u32) -> RateLimit {
    RateLimit { per_second, burst }
}

/// A rule that may have a limit.
pub(crate) fn a_rule(
    action: impl Strategy<Value = Action>,
    matches: impl Strategy<Value = Match>,
) -> impl Strategy<Value = Rule> {
    let limit = prop::option::weighted(0.3, select(&LIMITS[..]));
    (action, matches, limit).prop_map(|(action, matches, limit)| Rule {
        limit: limit.filter(|_| action != Action::Deny),
        ..rule(0, action, matches)
    })
}

fn port() -> impl Strategy<Value = Port> {
    let attached = prop_oneof![
        1 => (0u16..3).prop_map(|network| access(0, network)),
        3 => Just(access(0, 0)),
        2 => (
            select(vec![vec![], vec![0], vec![1], vec![0, 1]]),
            prop::option::of(0u16..3)
        )
            .prop_map(|(tagged, native)| trunk(0, &tagged, native)),
    ];
    let limit = || prop_oneof![8 => Just(None), 1 => Just(Some(0))];
    let storm =
        (limit(), limit(), limit()).prop_map(|(broadcast, multicast, unknown)| StormLimits {
            broadcast_pps: broadcast,
            multicast_pps: multicast,
            unknown_pps: unknown,
        });
    let mac_limit = select(vec![1, 3, 100, 100, 100]);
    let vnic = prop::option::weighted(0.5, some_vnic());
    (attached, prop::bool::weighted(0.25), storm, mac_limit, vnic).prop_map(
        |(port, isolated, storm, mac_limit, vnic)| Port {
            isolated,
            storm,
            mac_limit,
            vnic,
            ..port
        },
    )
}

fn some_vnic() -> impl Strategy<Value = Vnic> {
    let check = || prop::bool::weighted(0.6);
    let checks = (check(), check(), check(), check(), check());
    let prefix4 = select(vec![vec![], vec!["0.0.0.0/32"], vec!["0.0.0.0/30"]]);
    let prefix6 = select(vec![vec![], vec!["::/128"], vec!["::/126"]]);
    (
        checks,
        prefix4,
        prefix6,
        direction_policy(),
        direction_policy(),
    )
        .prop_map(
            |((mac_check, ipv4, ipv6, arp, nd), prefix4, prefix6, inbound, outbound)| {
                let checks = SenderChecks {
                    mac: mac_check,
                    ipv4,
                    ipv6,
                    arp,
                    nd,
                };
                let mut vnic = vnic(mac(0)).checks(checks);
                vnic = prefix4.iter().fold(vnic, |vnic, net| vnic.ipv4(net));
                vnic = prefix6.iter().fold(vnic, |vnic, net| vnic.ipv6(net));
                Vnic {
                    inbound,
                    outbound,
                    ..vnic
                }
            },
        )
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => Just(Action::Allow),
        2 => Just(Action::Deny),
        1 => Just(Action::Reject),
    ]
}

fn direction_policy() -> impl Strategy<Value = DirectionPolicy> {
    let rules = prop::collection::vec(a_rule(action(), a_match()), 0..5);
    (action(), rules).prop_map(|(default, rules)| direction(default, rules))
}

fn a_match() -> impl Strategy<Value = Match> {
    (link_match(), network_match(), transport_match())
        .prop_map(|(link, network, transport)| Match {
            eth_src: link.eth_src,
            eth_dst: link.eth_dst,
            vlan: link.vlan,
            ethertype: link.ethertype,
            src: network.src,
            dst: network.dst,
            fragment: network.fragment,
            ..transport
        })
        .prop_filter("a rule contradicts itself", |m| m.validate().is_ok())
}

fn link_match() -> impl Strategy<Value = Match> {
    let one = (1u8..9).prop_map(|n| MacMatch {
        address: mac(n),
        mask: BROADCAST,
    });
    let group = MacMatch {
        address: Mac([1, 0, 0, 0, 0, 0]),
        mask: Mac([1, 0, 0, 0, 0, 0]),
    };
    let mac_match = || prop::option::weighted(0.1, prop_oneof![one.clone(), Just(group)]);
    let ethertypes = vec![IPV4, IPV6, ARP, 0x88b5, 0x8100, 0];
    let vlan = select(vec![10u16, 20, 30]).prop_map(|vid| VlanId::new(vid).expect("a VLAN"));
    (
        mac_match(),
        mac_match(),
        prop::option::weighted(0.15, select(ethertypes)),
        prop::option::weighted(0.05, vlan),
    )
        .prop_map(|(eth_src, eth_dst, ethertype, vlan)| Match {
            eth_src,
            eth_dst,
            ethertype,
            vlan,
            ..Match::default()
        })
}

fn network_match() -> impl Strategy<Value = Match> {
    let net = || {
        let nets = [
            "10.0.0.2/32",
            "10.0.0.0/30",
            "0.0.0.0/0",
            "2001:db8::2/128",
            "2001:db8::/126",
        ];
        let nets: Vec<IpNet> = nets
            .iter()
            .map(|net| net.parse().expect("a prefix"))
            .collect();
        prop::option::weighted(0.2, select(nets))
    };
    let kinds = vec![
        FragmentMatch::No,
        FragmentMatch::Any,
        FragmentMatch::First,
        FragmentMatch::Later,
    ];
    let fragment = prop::option::weighted(0.1, select(kinds));
    (net(), net(), fragment).prop_map(|(src, dst, fragment)| Match {
        src,
        dst,
        fragment,
        ..Match::default()
    })
}

fn transport_match() -> impl Strategy<Value = Match> {
    let ranges = || {
        let ranges = vec![
            vec![],
            vec![],
            vec![1..=1],
            vec![0..=1],
            vec![0..=0, 2..=3],
            vec![67..=68],
        ];
        select(ranges)
    };
    let protocol = |protocol| Match {
        protocol: Some(protocol),
        ..Match::default()
    };
    let ports = (select(vec![TCP, UDP, 132]), ranges(), ranges()).prop_map(
        move |(number, src_ports, dst_ports)| Match {
            src_ports,
            dst_ports,
            ..protocol(number)
        },
    );
    let flags = (0u8..4, 1u8..4).prop_map(move |(set, mask)| Match {
        tcp_flags: Some(FlagsMatch {
            set: set & mask,
            mask,
        }),
        ..protocol(TCP)
    });
    let icmp = (
        select(vec![ICMP, ICMPV6]),
        select(vec![0, 8, 128, 135, 136]),
        prop::option::of(0u8..2),
    )
        .prop_map(move |(number, kind, code)| Match {
            icmp: Some(IcmpMatch { kind, code }),
            ..protocol(number)
        });
    prop_oneof![
        4 => Just(Match::default()),
        2 => ports,
        1 => flags,
        1 => icmp,
        1 => select(vec![0u8, ICMP, 47, ICMPV6]).prop_map(protocol),
    ]
}

/// A frame from somewhere, most often from where its addresses belong.
pub(crate) fn arrival() -> impl Strategy<Value = Arrival> {
    let sender = prop_oneof![4 => Just(None), 1 => (0..PORTS).prop_map(Some)];
    let difference = (any::<Index>(), 0u8..8);
    let parts = (0..PORTS, sender, frame(), tags(), damage(), difference);
    parts.prop_map(|(port, sender, frame, tags, damage, difference)| {
        let who = sender.unwrap_or(port) as u8 + 1;
        let (bytes, beside) = tags.apply(frame.bytes(who));
        Arrival {
            port,
            bytes: damage.apply(bytes),
            beside,
            difference: Some(difference),
        }
    })
}

/// A frame, but for its sender's number.
#[derive(Clone, Debug)]
struct Recipe {
    dst: Mac,
    group_source: bool,
    /// Whose addresses it claims: the sender's own when absent.
    claims: Option<u8>,
    to: u8,
    payload: Payload,
}

#[derive(Clone, Debug)]
enum Payload {
    Plain(u16),
    Arp(u16),
    ArpProbe,
    Ip4(u8, u16, Vec<u8>),
    Ip4From0(Vec<u8>),
    Ip6(u8, Vec<u8>),
    /// A fragment header with this offset field, then the payload of the protocol.
    Ip6Fragment(u8, u16, Vec<u8>),
    /// Hop-by-hop options before the payload.
    Ip6Options(u8, Vec<u8>),
    /// Kind, target's number or `::` as the source, whose link-layer address.
    Nd(u8, u8, bool, Option<u8>),
}

fn frame() -> impl Strategy<Value = Recipe> {
    let dst = prop_oneof![
        6 => (1u8..9).prop_map(mac),
        2 => (17u8..23).prop_map(mac),
        2 => Just(BROADCAST),
        1 => Just(Mac([0x33, 0x33, 0, 0, 0, 1])),
        1 => (0u8..20).prop_map(|last| Mac([1, 0x80, 0xc2, 0, 0, last])),
    ];
    let claims = prop_oneof![4 => Just(None), 1 => (1u8..9).prop_map(Some)];
    (dst, prop::bool::weighted(0.03), claims, 1u8..9, payload()).prop_map(
        |(dst, group_source, claims, to, payload)| Recipe {
            dst,
            group_source,
            claims,
            to,
            payload,
        },
    )
}

/// A protocol and a payload of it.
fn transport() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let port = || select(vec![0u16, 1, 2, 3, 67, 68]);
    prop_oneof![
        (port(), port(), 0u8..8).prop_map(|(src, dst, flags)| (TCP, tcp(src, dst, flags))),
        (port(), port()).prop_map(|(src, dst)| (UDP, udp(src, dst))),
        (port(), port()).prop_map(|(src, dst)| (132, tcp(src, dst, 0))),
        (
            select(vec![ICMP, ICMPV6]),
            select(vec![0u8, 8, 128, 131, 143]),
            0u8..2
        )
            .prop_map(|(protocol, kind, code)| (protocol, icmp(kind, code))),
        (
            select(vec![47u8, 59, 0, 43, 51]),
            prop::collection::vec(any::<u8>(), 0..20)
        ),
    ]
}

fn payload() -> impl Strategy<Value = Payload> {
    let fragments = || select(vec![0u16, 0, 0, 0, 0x4000, 0x2000, 0x2002, 1, 5]);
    let nd = (
        133u8..138,
        1u8..9,
        prop::bool::weighted(0.2),
        prop::option::of(1u8..9),
    );
    prop_oneof![
        2 => select(vec![0x88b5u16, 0x0004, 0x05ff, 0x8847]).prop_map(Payload::Plain),
        2 => select(vec![1u16, 2, 0, 256]).prop_map(Payload::Arp),
        1 => Just(Payload::ArpProbe),
        6 => (transport(), fragments()).prop_map(|((protocol, bytes), f)| Payload::Ip4(protocol, f, bytes)),
        1 => transport().prop_map(|(_, bytes)| Payload::Ip4From0(bytes)),
        4 => transport().prop_map(|(protocol, bytes)| Payload::Ip6(protocol, bytes)),
        2 => (transport(), select(vec![0u16, 1, 8, 9]))
            .prop_map(|((protocol, bytes), place)| Payload::Ip6Fragment(protocol, place, bytes)),
        1 => transport().prop_map(|(protocol, bytes)| Payload::Ip6Options(protocol, bytes)),
        2 => nd.prop_map(|(kind, target, unspecified, link)| Payload::Nd(kind, target, unspecified, link)),
    ]
}

impl Recipe {
    fn bytes(&self, sender: u8) -> Vec<u8> {
        let mut src = mac(sender);
        if self.group_source {
            src.0[0] |= 1;
        }
        let claims = self.claims.unwrap_or(sender);
        let (ip, to) = ([10, 0, 0, claims], [10, 0, 0, self.to]);
        let ip6 = if claims == 8 {
            // Formed from the sender's Ethernet address.
            format!("fe80::ff:fe00:{sender:x}")
        } else {
            format!("2001:db8::{claims}")
        };
        let to6 = format!("2001:db8::{}", self.to);
        let v6 = |src: &str, next, payload: &[u8]| (IPV6, ipv6(src, &to6, next, payload));
        let (ethertype, payload) = match &self.payload {
            Payload::Plain(ethertype) => (*ethertype, vec![0x5a; 40]),
            Payload::Arp(operation) => (ARP, arp(*operation, mac(claims), ip, to)),
            Payload::ArpProbe => (ARP, arp(1, src, [0; 4], to)),
            Payload::Ip4(protocol, place, bytes) => {
                (IPV4, ipv4_fragment(ip, to, *protocol, *place, bytes))
            }
            Payload::Ip4From0(bytes) => (IPV4, ipv4([0; 4], to, UDP, bytes)),
            Payload::Ip6(next, bytes) => v6(&ip6, *next, bytes),
            Payload::Ip6Fragment(next, place, bytes) => {
                let [high, low] = place.to_be_bytes();
                v6(
                    &ip6,
                    44,
                    &[&[*next, 0, high, low, 0, 0, 0, 1], bytes.as_slice()].concat(),
                )
            }
            Payload::Ip6Options(next, bytes) => v6(
                &ip6,
                0,
                &[&[*next, 0, 1, 4, 0, 0, 0, 0], bytes.as_slice()].concat(),
            ),
            Payload::Nd(kind, target, unspecified, link) => {
                let from = if *unspecified { "::" } else { &ip6 };
                let target = format!("2001:db8::{target}");
                v6(from, ICMPV6, &neighbor_of(*kind, &target, link.map(mac)))
            }
        };
        ether(self.dst, src, ethertype, &payload)
    }
}

/// As [`neighbor`], of any kind.
fn neighbor_of(kind: u8, target: &str, link: Option<Mac>) -> Vec<u8> {
    let mut message = neighbor(135, target, link);
    message[0] = kind;
    if kind == 133 {
        message.drain(8..24);
    }
    message
}

/// The tags that a frame comes with.
#[derive(Clone, Debug)]
enum Tags {
    None,
    InFrame(u16, u16),
    Nested(u16, u16),
    Beside(u16),
    Both(u16, u16),
}

fn tags() -> impl Strategy<Value = Tags> {
    let tci = || {
        let vid = select(vec![0u16, 10, 10, 20, 20, 30, 4095]);
        (vid, 0u16..16).prop_map(|(vid, priority)| priority << 12 | vid)
    };
    let tpid = select(vec![0x8100u16, 0x8100, 0x88a8]);
    prop_oneof![
        6 => Just(Tags::None),
        4 => (tpid, tci()).prop_map(|(tpid, tci)| Tags::InFrame(tpid, tci)),
        1 => (tci(), tci()).prop_map(|(outer, inner)| Tags::Nested(outer, inner)),
        2 => tci().prop_map(Tags::Beside),
        1 => (tci(), tci()).prop_map(|(outer, inner)| Tags::Both(outer, inner)),
    ]
}

impl Tags {
    fn apply(&self, frame: Vec<u8>) -> (Vec<u8>, Option<u16>) {
        match *self {
            Self::None => (frame, None),
            Self::InFrame(tpid, tci) => (tag_as(&frame, tpid, tci), None),
            Self::Nested(outer, inner) => (tag(&tag(&frame, inner), outer), None),
            Self::Beside(tci) => (frame, Some(tci)),
            Self::Both(outer, inner) => (tag(&frame, inner), Some(outer)),
        }
    }
}

/// What happens to a frame on its way.
#[derive(Clone, Debug)]
enum Damage {
    None,
    Padded,
    CutOff(Index),
    /// A byte of the headers is another.
    Changed(Index, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        6 => Just(Damage::None),
        2 => Just(Damage::Padded),
        1 => any::<Index>().prop_map(Damage::CutOff),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, value)| Damage::Changed(at, value)),
    ]
}

impl Damage {
    fn apply(&self, mut frame: Vec<u8>) -> Vec<u8> {
        match self {
            Self::None => {}
            Self::Padded => frame.resize(frame.len().max(60), 0),
            Self::CutOff(len) => frame.truncate(len.index(frame.len())),
            Self::Changed(at, value) => {
                let at = at.index(frame.len().clamp(1, 80));
                frame[at] = *value;
            }
        }
        frame
    }
}
