//! Frames and rules for the tests: descriptions, their bytes, and random ones from universes so
//! small that rules hit.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    sync::Arc,
};

use policy::{
    Mac, NetworkId, Parsed, PortId, RuleId, VlanId,
    model::{
        Action, Attachment, DirectionPolicy, Model, Network, Port, SenderChecks, StormLimits, Vnic,
    },
    parse,
    rule::{FlagsMatch, FragmentMatch, IcmpMatch, MacMatch, Match, Origin, Rule},
};
use proptest::{collection::vec, option, prelude::*, sample::select};

/// What a frame is meant to be.
#[derive(Clone, Debug)]
pub struct Spec {
    pub dst: Mac,
    pub src: Mac,
    pub tci: Option<u16>,
    /// The tag comes beside the frame.
    pub beside: bool,
    /// A second tag, of TPID 0x8100, follows.
    pub nested: bool,
    pub l3: L3,
}

#[derive(Clone, Debug)]
pub enum L3 {
    Other(u16),
    Arp {
        operation: u8,
        mac: Mac,
        sender: Ipv4Addr,
        target: Ipv4Addr,
    },
    V4 {
        src: Ipv4Addr,
        dst: Ipv4Addr,
        tos: u8,
        fragment: Fragment,
        options: bool,
        l4: L4,
    },
    V6 {
        src: Ipv6Addr,
        dst: Ipv6Addr,
        tos: u8,
        fragment: Fragment,
        options: bool,
        l4: L4,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    No,
    First,
    Later,
}

#[derive(Clone, Debug)]
pub enum L4 {
    Tcp(u16, u16, u8),
    Udp(u16, u16),
    Sctp(u16, u16),
    Icmp(u8, u8),
    /// Neighbour discovery and other ICMP with a body behind type and code.
    IcmpBody(u8, Vec<u8>),
    Other(u8),
}

impl L4 {
    pub fn protocol(&self, ipv6: bool) -> u8 {
        match self {
            Self::Tcp(..) => 6,
            Self::Udp(..) => 17,
            Self::Sctp(..) => 132,
            Self::Icmp(..) | Self::IcmpBody(..) => {
                if ipv6 {
                    58
                } else {
                    1
                }
            }
            Self::Other(protocol) => *protocol,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let ports = |src: u16, dst: u16, rest: &[u8]| {
            [&src.to_be_bytes(), &dst.to_be_bytes(), rest].concat()
        };
        match self {
            Self::Tcp(src, dst, flags) => {
                let rest = [0, 0, 0, 1, 0, 0, 0, 2, 0x50, *flags, 1, 0, 0, 0, 0, 0];
                ports(*src, *dst, &rest)
            }
            Self::Udp(src, dst) => ports(*src, *dst, &[0, 12, 0, 0, 1, 2, 3, 4]),
            Self::Sctp(src, dst) => ports(*src, *dst, &[0, 0, 0, 1, 0, 0, 0, 0]),
            Self::Icmp(kind, code) => vec![*kind, *code, 0, 0, 0, 0, 0, 0],
            Self::IcmpBody(kind, body) => [&[*kind, 0, 0, 0], body.as_slice()].concat(),
            Self::Other(_) => vec![7; 8],
        }
    }
}

impl Spec {
    /// A plain frame between two addresses.
    pub fn new(l3: L3) -> Self {
        Self {
            dst: mac(2),
            src: mac(1),
            tci: None,
            beside: false,
            nested: false,
            l3,
        }
    }

    pub fn ethertype(&self) -> u16 {
        match self.l3 {
            _ if self.nested => 0x8100,
            L3::Other(ethertype) => ethertype,
            L3::Arp { .. } => 0x0806,
            L3::V4 { .. } => 0x0800,
            L3::V6 { .. } => 0x86dd,
        }
    }

    /// The frame and the tag beside it.
    pub fn bytes(&self) -> (Vec<u8>, Option<u16>) {
        let mut frame = [self.dst.0, self.src.0].concat();
        if let (Some(tci), false) = (self.tci, self.beside) {
            frame.extend([0x81, 0x00]);
            frame.extend(tci.to_be_bytes());
        }
        frame.extend(self.ethertype().to_be_bytes());
        if self.nested {
            frame.extend([0x00, 0x07, 0x08, 0x00]);
        }
        match &self.l3 {
            L3::Other(_) => frame.extend([0x5a; 30]),
            L3::Arp {
                operation,
                mac,
                sender,
                target,
            } => {
                frame.extend([0, 1, 8, 0, 6, 4, 0, *operation]);
                frame.extend(mac.0);
                frame.extend(sender.octets());
                frame.extend([0; 6]);
                frame.extend(target.octets());
            }
            L3::V4 {
                src,
                dst,
                tos,
                fragment,
                options,
                l4,
            } => {
                let payload = l4.bytes();
                let header_len = if *options { 24 } else { 20 };
                let fragment: u16 = match fragment {
                    Fragment::No => 0x4000,
                    Fragment::First => 0x2000,
                    Fragment::Later => 100,
                };
                frame.extend([0x40 | (header_len / 4) as u8, *tos]);
                frame.extend((header_len + payload.len() as u16).to_be_bytes());
                frame.extend([0, 9]);
                frame.extend(fragment.to_be_bytes());
                frame.extend([64, l4.protocol(false), 0, 0]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
                if *options {
                    frame.extend([1, 1, 1, 0]);
                }
                frame.extend(payload);
            }
            L3::V6 {
                src,
                dst,
                tos,
                fragment,
                options,
                l4,
            } => {
                let protocol = l4.protocol(true);
                let mut payload = l4.bytes();
                let mut next = protocol;
                let offset = match fragment {
                    Fragment::No => None,
                    Fragment::First => Some(1_u16),
                    Fragment::Later => Some(100 << 3),
                };
                if let Some(offset) = offset {
                    let [high, low] = offset.to_be_bytes();
                    payload.splice(0..0, [next, 0, high, low, 0, 0, 0, 9]);
                    next = 44;
                }
                if *options {
                    payload.splice(0..0, [next, 0, 1, 4, 0, 0, 0, 0]);
                    next = 60;
                }
                frame.extend([0x60 | tos >> 4, tos << 4, 0, 0]);
                frame.extend((payload.len() as u16).to_be_bytes());
                frame.extend([next, 64]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
                frame.extend(payload);
            }
        }
        (frame, self.tci.filter(|_| self.beside))
    }

    /// The frame as the parser sees it on `port`.
    pub fn parse(&self, port: PortId) -> (Vec<u8>, Parsed) {
        let (frame, tci) = self.bytes();
        let parsed = parse(&frame, frame.len(), tci, port);
        (frame, parsed)
    }
}

pub fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

pub fn ipv4_packet(src: &str, dst: &str, l4: L4) -> L3 {
    L3::V4 {
        src: src.parse().expect("an address"),
        dst: dst.parse().expect("an address"),
        tos: 0,
        fragment: Fragment::No,
        options: false,
        l4,
    }
}

pub fn ipv6_packet(src: &str, dst: &str, l4: L4) -> L3 {
    L3::V6 {
        src: src.parse().expect("an address"),
        dst: dst.parse().expect("an address"),
        tos: 0,
        fragment: Fragment::No,
        options: false,
        l4,
    }
}

pub fn rule(id: u32, action: Action, matches: Match) -> Rule {
    let text = matches.to_string();
    Rule {
        id: RuleId(id),
        action,
        log: false,
        limit: None,
        matches,
        origin: Arc::new(Origin {
            acl: "web".into(),
            text: text.into(),
        }),
    }
}

const PORTS: [u16; 6] = [22, 67, 68, 80, 1024, 65535];
const IPV4: [&str; 5] = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "192.168.0.1", "0.0.0.0"];
const IPV6: [&str; 5] = [
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:1::1",
    "fe80::ff:fe00:1",
    "::",
];
const VLANS: [u16; 3] = [5, 6, 7];

fn any_mac() -> impl Strategy<Value = Mac> {
    (1..5_u8).prop_map(mac)
}

fn any_l4() -> impl Strategy<Value = L4> {
    let ports = || (select(&PORTS[..]), select(&PORTS[..]));
    prop_oneof![
        (ports(), 0..64_u8).prop_map(|((src, dst), flags)| L4::Tcp(src, dst, flags)),
        ports().prop_map(|(src, dst)| L4::Udp(src, dst)),
        ports().prop_map(|(src, dst)| L4::Sctp(src, dst)),
        (select(&[0_u8, 3, 8, 128, 131, 135, 136][..]), 0..3_u8)
            .prop_map(|(kind, code)| L4::Icmp(kind, code)),
        select(&[47_u8, 50, 89, 103][..]).prop_map(L4::Other),
    ]
}

fn any_l3() -> impl Strategy<Value = L3> {
    let ip4 = || select(&IPV4[..]).prop_map(|ip| ip.parse::<Ipv4Addr>().expect("an address"));
    let ip6 = || select(&IPV6[..]).prop_map(|ip| ip.parse::<Ipv6Addr>().expect("an address"));
    let fragment = || {
        prop_oneof![
            4 => Just(Fragment::No),
            1 => Just(Fragment::First),
            1 => Just(Fragment::Later),
        ]
    };
    let tos = || select(&[0_u8, 0x10, 0xb8][..]);
    prop_oneof![
        1 => select(&[0x88cc_u16, 0x8035, 0x8863][..]).prop_map(L3::Other),
        1 => (1..3_u8, any_mac(), ip4(), ip4()).prop_map(|(operation, mac, sender, target)| {
            L3::Arp { operation, mac, sender, target }
        }),
        5 => (ip4(), ip4(), tos(), fragment(), any::<bool>(), any_l4()).prop_map(
            |(src, dst, tos, fragment, options, l4)| {
                L3::V4 { src, dst, tos, fragment, options, l4 }
            }
        ),
        4 => (ip6(), ip6(), tos(), fragment(), any::<bool>(), any_l4()).prop_map(
            |(src, dst, tos, fragment, options, l4)| {
                L3::V6 { src, dst, tos, fragment, options, l4 }
            }
        ),
    ]
}

/// Frames that make sense, from small universes.
pub fn any_spec() -> impl Strategy<Value = Spec> {
    let tci = (select(&[0_u16, 5, 6, 7, 8][..]), 0..2_u16).prop_map(|(vid, pcp)| pcp << 13 | vid);
    (
        any_mac(),
        any_mac(),
        option::weighted(0.3, tci),
        any::<bool>(),
        prop::bool::weighted(0.1),
        any_l3(),
    )
        .prop_map(|(dst, src, tci, beside, nested, l3)| Spec {
            dst,
            src,
            tci,
            beside,
            nested: nested && tci.is_some(),
            l3,
        })
}

fn any_ports() -> impl Strategy<Value = Vec<RangeInclusive<u16>>> {
    let range = (select(&PORTS[..]), select(&PORTS[..]));
    let range = range.prop_map(|(a, b)| a.min(b)..=a.max(b));
    prop_oneof![3 => Just(Vec::new()), 2 => vec(range, 1..3)]
}

fn any_mac_match() -> impl Strategy<Value = MacMatch> {
    (
        any_mac(),
        select(&[0xffff_ffff_ffff_u64, 0xffff_ffff_fffe, 3][..]),
    )
        .prop_map(|(mac, mask)| MacMatch {
            address: Mac::from_u64(mac.to_u64() & mask),
            mask: Mac::from_u64(mask),
        })
}

/// Matches that are valid.
pub fn any_match() -> impl Strategy<Value = Match> {
    let net = || {
        let ip4 = (select(&IPV4[..]), select(&[0, 8, 24, 31, 32][..]));
        let ip6 = (select(&IPV6[..]), select(&[0, 10, 48, 64, 127, 128][..]));
        prop_oneof![
            ip4.prop_map(|(ip, len)| format!("{ip}/{len}")),
            ip6.prop_map(|(ip, len)| format!("{ip}/{len}")),
        ]
        .prop_map(|text| text.parse().expect("a prefix"))
    };
    let link = (
        option::weighted(0.15, any_mac_match()),
        option::weighted(0.15, any_mac_match()),
        option::weighted(
            0.15,
            select(&[0x0800_u16, 0x86dd, 0x0806, 0x88cc, 0x8100, 0][..]),
        ),
        option::weighted(0.15, select(&VLANS[..]).prop_map(VlanId::new)),
    );
    let ip = (
        option::weighted(0.4, net()),
        option::weighted(0.3, net()),
        option::weighted(0.7, select(&[1_u8, 6, 6, 17, 17, 58, 132, 47][..])),
        option::weighted(
            0.2,
            select(
                &[
                    FragmentMatch::No,
                    FragmentMatch::Any,
                    FragmentMatch::First,
                    FragmentMatch::Later,
                ][..],
            ),
        ),
    );
    let flags = (0..64_u8, 1..64_u8).prop_map(|(set, mask)| FlagsMatch {
        set: set & mask,
        mask,
    });
    let icmp = (select(&[0_u8, 8, 128, 131, 135][..]), option::of(0..3_u8));
    let icmp = icmp.prop_map(|(kind, code)| IcmpMatch { kind, code });
    let l4 = (any_ports(), any_ports(), icmp, flags, any::<bool>());
    (link, ip, l4)
        .prop_map(|(link, ip, (src_ports, dst_ports, icmp, flags, with_l4))| {
            let (eth_src, eth_dst, ethertype, vlan) = link;
            let (src, dst, protocol, fragment) = ip;
            let mut matches = Match {
                eth_src,
                eth_dst,
                ethertype,
                vlan: vlan.flatten(),
                src,
                dst,
                protocol,
                fragment,
                ..Match::default()
            };
            match protocol {
                Some(6 | 17 | 132) => {
                    matches.src_ports = src_ports;
                    matches.dst_ports = dst_ports;
                    matches.tcp_flags = (with_l4 && protocol == Some(6)).then_some(flags);
                }
                Some(1 | 58) if with_l4 => matches.icmp = Some(icmp),
                _ => {}
            }
            matches
        })
        .prop_filter("contradicts itself", |matches| matches.validate().is_ok())
}

pub fn any_action() -> impl Strategy<Value = Action> {
    select(&Action::ALL[..])
}

/// Rule lists, with numbers from `first`.
pub fn any_rules(first: u32, most: usize) -> impl Strategy<Value = Arc<[Rule]>> {
    vec((any_match(), any_action()), 0..=most).prop_map(move |rules| {
        (first..)
            .zip(rules)
            .map(|(id, (matches, action))| rule(id, action, matches))
            .collect()
    })
}

fn network(id: u16, vlan: Option<u16>) -> Network {
    Network {
        id: NetworkId(id),
        name: format!("net{id}").into(),
        tenant: "red".into(),
        vlan: vlan.and_then(VlanId::new),
        mac_limit: 100,
        ageing_s: 300,
        moves: policy::model::MoveLimit::default(),
        services: policy::model::Services::default(),
    }
}

/// A port without a vNIC.
pub fn port(id: u16, attachment: Attachment) -> Port {
    Port {
        id: PortId(id),
        name: format!("port{id}").into(),
        attachment,
        isolated: false,
        mac_limit: 10,
        storm: StormLimits::default(),
        misses_per_turn: 64,
        spanning_tree: policy::model::SpanningTree::default(),
        vnic: None,
    }
}

/// A vNIC with address `mac(last)`, `10.0.0.0/24` and `2001:db8::/64`, and no rules.
pub fn vnic(last: u8, default: Action) -> Vnic {
    let policy = DirectionPolicy {
        rules: policy::rule::RuleList::default(),
        default,
    };
    Vnic {
        name: format!("vnic{last}").into(),
        vm: "vm".into(),
        mac: mac(last),
        ipv4: vec!["10.0.0.0/24".parse().expect("a prefix")],
        ipv6: vec!["2001:db8::/64".parse().expect("a prefix")],
        connection_limit: 100,
        checks: SenderChecks::ALL,
        roles: policy::model::Roles::default(),
        inbound: policy.clone(),
        outbound: policy,
    }
}

/// Networks 0 (VLAN 5), 1 (VLAN 6) and 2 (no VLAN).
pub fn networks() -> Vec<Network> {
    vec![network(0, Some(5)), network(1, Some(6)), network(2, None)]
}

fn any_attachment() -> impl Strategy<Value = Attachment> {
    let trunk = |tagged: &[u16], native: Option<u16>| Attachment::Trunk {
        tagged: tagged.iter().copied().map(NetworkId).collect(),
        native: native.map(NetworkId),
    };
    select(vec![
        Attachment::Access(NetworkId(0)),
        Attachment::Access(NetworkId(1)),
        Attachment::Access(NetworkId(2)),
        trunk(&[0, 1], None),
        trunk(&[0], Some(2)),
        trunk(&[0, 1], Some(0)),
        trunk(&[1], Some(0)),
    ])
}

fn any_checks() -> impl Strategy<Value = SenderChecks> {
    any::<[bool; 5]>().prop_map(|[mac, ipv4, ipv6, arp, nd]| SenderChecks {
        mac,
        ipv4,
        ipv6,
        arp,
        nd,
    })
}

/// Four ports, each with or without a vNIC, whose lists hold up to `most` rules.
pub fn any_model(most: usize) -> impl Strategy<Value = Model> {
    let vnic = move |first| {
        let rules = (any_rules(first, most), any_rules(first + 100, most));
        (rules, any_action(), any_action(), any_checks())
    };
    let port = move |id: u16| {
        let vnic = option::weighted(0.7, vnic(u32::from(id) * 1000));
        (any_attachment(), vnic).prop_map(move |(attachment, policy)| {
            let mut port = port(id, attachment);
            port.vnic = policy.map(|((inbound, outbound), default_in, default_out, checks)| {
                let mut vnic = super::common::vnic(id as u8 + 1, default_in);
                vnic.checks = checks;
                vnic.inbound.rules = inbound.into();
                vnic.outbound = DirectionPolicy {
                    rules: outbound.into(),
                    default: default_out,
                };
                vnic
            });
            port
        })
    };
    (port(0), port(1), port(2), port(3)).prop_map(|(a, b, c, d)| Model {
        networks: networks(),
        ports: vec![a, b, c, d],
        ..Model::default()
    })
}
