//! The compiled state: which network a frame belongs to, how it leaves, what defaults do, and
//! which desired states are refused.

mod common;

use std::sync::Arc;

use common::{Fragment, L3, L4, Spec, ipv4_packet, ipv6_packet, mac, port, rule, vnic};
use policy::{
    Denial, DropReason, Epoch, Field, FlowKey, Mac, NetworkId, PortId, RuleId, Snapshot, VlanId,
    key::{Class, shape},
    model::{Action, Attachment, Model, Port, RateLimit},
    reader::Exact,
    rule::{FlagsMatch, Match, MatchError, Rule, RuleList},
    snapshot::{CompileError, Compiler, Member},
};

const ACCESS: Attachment = Attachment::Access(NetworkId(0));

fn trunk(tagged: &[u16], native: Option<u16>) -> Attachment {
    Attachment::Trunk {
        tagged: tagged.iter().copied().map(NetworkId).collect(),
        native: native.map(NetworkId),
    }
}

fn compile(ports: Vec<Port>) -> Result<Snapshot, CompileError> {
    let model = Model {
        networks: common::networks(),
        ports,
        ..Model::default()
    };
    Snapshot::compile(&model, Epoch(3))
}

fn admit(snapshot: &Snapshot, spec: &Spec) -> Result<NetworkId, DropReason> {
    let (_, parsed) = spec.parse(PortId(1));
    let port = snapshot.port(PortId(1)).expect("the port");
    let admitted = port.admit(&mut Exact(&parsed.key));
    admitted.map_err(|denial| denial.reason)
}

#[test]
fn tags_say_which_network_a_frame_belongs_to() {
    let (net, not_allowed) = (|id| Ok(NetworkId(id)), Err(DropReason::VlanNotAllowed));
    let no_native = Err(DropReason::UntaggedNotAllowed);
    for (attachment, tci, expected) in [
        (ACCESS, None, net(0)),
        (ACCESS, Some(0xe000), net(0)),
        (ACCESS, Some(5), not_allowed),
        (trunk(&[0, 1], None), None, no_native),
        (trunk(&[0, 1], None), Some(0), no_native),
        (trunk(&[0, 1], None), Some(0xe005), net(0)),
        (trunk(&[0, 1], None), Some(6), net(1)),
        (trunk(&[0, 1], None), Some(7), not_allowed),
        (trunk(&[0, 1], None), Some(4095), not_allowed),
        (trunk(&[1], Some(2)), None, net(2)),
        (trunk(&[1], Some(2)), Some(0), net(2)),
        // The native network's own VLAN counts only where it is carried tagged too.
        (trunk(&[1], Some(0)), Some(5), not_allowed),
        (trunk(&[0, 1], Some(0)), Some(5), net(0)),
    ] {
        let snapshot = compile(vec![port(1, attachment.clone())]).expect("valid");
        for beside in [false, true] {
            let mut spec = Spec::new(ipv4_packet("10.0.0.1", "10.0.0.2", L4::Udp(1, 2)));
            (spec.tci, spec.beside) = (tci, beside);
            assert_eq!(admit(&snapshot, &spec), expected, "{attachment:?} {tci:?}");
        }
    }
}

#[test]
fn no_port_may_send_runts_group_sources_or_link_local_groups() {
    let snapshot = compile(vec![port(1, ACCESS)]).expect("valid");
    let mut spec = Spec::new(L3::Other(0x88cc));
    spec.src = Mac([3, 0, 0, 0, 0, 1]);
    assert_eq!(admit(&snapshot, &spec), Err(DropReason::GroupSource));
    spec.src = mac(1);
    spec.dst = Mac([0x01, 0x80, 0xc2, 0, 0, 0x0f]);
    assert_eq!(admit(&snapshot, &spec), Err(DropReason::LinkLocalGroup));
    spec.dst = Mac([0x01, 0x80, 0xc2, 0, 0, 0x10]);
    assert_eq!(admit(&snapshot, &spec), Ok(NetworkId(0)));
    let runt = policy::parse(&[0; 13], 13, None, PortId(1));
    let port = snapshot.port(PortId(1)).expect("the port");
    let refused = port.admit(&mut Exact(&runt.key));
    assert_eq!(refused, Err(Denial::new(DropReason::Runt)));
}

#[test]
fn frames_leave_a_port_with_the_tag_of_their_network() {
    let snapshot = compile(vec![
        port(1, trunk(&[0, 1], Some(2))),
        port(2, trunk(&[0], Some(0))),
        port(4, ACCESS),
    ])
    .expect("valid");
    let tag = |id: u16, network| snapshot.port(PortId(id))?.egress_tag(NetworkId(network));
    let five = VlanId::new(5);
    assert_eq!(tag(1, 0), Some(five));
    assert_eq!(tag(1, 2), Some(None));
    assert_eq!(tag(2, 0), Some(None));
    assert_eq!(tag(2, 1), None);
    assert_eq!(tag(4, 0), Some(None));
    assert_eq!(tag(3, 0), None);
    let member = |port, tag| Member {
        port: PortId(port),
        tag,
        isolated: false,
    };
    let network = snapshot.network(NetworkId(0)).expect("the network");
    let expected = [member(1, five), member(2, None), member(4, None)];
    assert_eq!(network.members, expected);
    assert_eq!(
        (snapshot.ports().count(), snapshot.networks().count()),
        (3, 3)
    );
    assert_eq!(snapshot.epoch(), Epoch(3));
}

/// What the inbound and the outbound policy of a vNIC say of a frame.
fn judge(matches: Option<(Match, Action)>, default: Action, spec: &Spec) -> [Option<Denial>; 2] {
    let mut guest = vnic(1, default);
    let rules: Arc<[_]> = matches
        .map(|(matches, action)| rule(4, action, matches))
        .into_iter()
        .collect();
    guest.inbound.rules = rules.clone().into();
    guest.outbound.rules = rules.into();
    let mut ports = vec![port(1, ACCESS)];
    ports[0].vnic = Some(guest);
    let snapshot = compile(ports).expect("valid");
    let vnic = snapshot.port(PortId(1)).and_then(|port| port.vnic.as_ref());
    let vnic = vnic.expect("the vNIC");
    let (_, parsed) = spec.parse(PortId(1));
    let r = &mut Exact(&parsed.key);
    [vnic.judge_inbound(r).err(), vnic.judge_outbound(r).err()]
}

fn denials(rule: Option<u32>) -> [Option<Denial>; 2] {
    [DropReason::AclIn, DropReason::AclOut].map(|reason| {
        Some(Denial {
            reason,
            rule: rule.map(RuleId),
        })
    })
}

#[test]
fn rules_come_before_the_default() {
    let spec = Spec::new(ipv4_packet("10.0.0.1", "10.0.0.2", L4::Udp(1, 53)));
    let dns = Match {
        protocol: Some(17),
        dst_ports: vec![53..=53],
        ..Match::default()
    };
    let passes = [None, None];
    assert_eq!(judge(None, Action::Allow, &spec), passes);
    assert_eq!(judge(None, Action::Deny, &spec), denials(None));
    let allow = Some((dns.clone(), Action::Allow));
    assert_eq!(judge(allow, Action::Deny, &spec), passes);
    let deny = Some((dns, Action::Deny));
    assert_eq!(judge(deny, Action::Allow, &spec), denials(Some(4)));
}

#[test]
fn arp_and_neighbour_discovery_pass_unless_a_rule_denies_them() {
    let arp = Spec::new(L3::Arp {
        operation: 1,
        mac: mac(1),
        sender: "10.0.0.1".parse().expect("an address"),
        target: "10.0.0.2".parse().expect("an address"),
    });
    let solicitation = L4::IcmpBody(135, vec![0; 20]);
    let nd = Spec::new(ipv6_packet("2001:db8::1", "ff02::1", solicitation));
    let anything = || Some((Match::default(), Action::Deny));
    for spec in [&arp, &nd] {
        assert_eq!(judge(None, Action::Deny, spec), [None, None]);
        assert_eq!(judge(anything(), Action::Allow, spec), denials(Some(4)));
    }
    let mut fragment = nd.clone();
    if let L3::V6 { fragment, .. } = &mut fragment.l3 {
        *fragment = Fragment::First;
    }
    assert_eq!(judge(None, Action::Deny, &fragment), denials(None));
    let echo = Spec::new(ipv6_packet("2001:db8::1", "ff02::1", L4::Icmp(128, 0)));
    assert_eq!(judge(None, Action::Deny, &echo), denials(None));
}

#[test]
fn malformed_frames_are_denied_without_a_rule() {
    let malformed = Spec::new(L3::Other(0x86dd));
    let anything = Some((Match::default(), Action::Allow));
    assert_eq!(judge(anything, Action::Allow, &malformed), denials(None));
}

#[test]
fn rules_are_found_by_number() {
    let mut ports = vec![port(1, ACCESS)];
    let mut guest = vnic(1, Action::Deny);
    guest.inbound.rules = vec![rule(40, Action::Allow, Match::default())].into();
    ports[0].vnic = Some(guest);
    let snapshot = compile(ports).expect("valid");
    let found = snapshot.rule(RuleId(40)).map(|rule| &*rule.origin.acl);
    assert_eq!(found, Some("web"));
    assert_eq!(snapshot.rule(RuleId(41)), None);
}

#[test]
fn contradictory_states_are_refused_with_what_to_do() {
    let guest_port = |id, rules: Vec<_>| {
        let mut guest = vnic(1, Action::Deny);
        guest.inbound.rules = rules.into();
        Port {
            vnic: Some(guest),
            ..port(id, ACCESS)
        }
    };
    let ports_only = Match {
        dst_ports: vec![1..=2],
        ..Match::default()
    };
    let bad_rule = rule(7, Action::Allow, ports_only);
    let (allow, deny) = (
        rule(7, Action::Allow, Match::default()),
        rule(7, Action::Deny, Match::default()),
    );
    for (ports, expected) in [
        (vec![port(1, ACCESS), port(1, ACCESS)], "same number 1"),
        (
            vec![port(1, Attachment::Access(NetworkId(9)))],
            "number 9, which does not exist",
        ),
        (
            vec![port(1, trunk(&[0], Some(9)))],
            "number 9, which does not exist",
        ),
        (
            vec![port(1, trunk(&[0, 2], None))],
            "\"net2\" tagged, but the network has no vlan",
        ),
        (vec![port(1, trunk(&[0, 0], None))], "same vlan 5"),
        (
            vec![guest_port(1, vec![bad_rule])],
            "of ACL \"web\": ports need",
        ),
        (
            vec![guest_port(1, vec![allow]), guest_port(2, vec![deny])],
            "two different rules have the same number 7",
        ),
    ] {
        let error = compile(ports).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn networks_are_told_apart() {
    let mut model = Model {
        networks: common::networks(),
        ports: vec![port(1, trunk(&[0, 1], None))],
        ..Model::default()
    };
    model.networks[1].vlan = model.networks[0].vlan;
    let error = Snapshot::compile(&model, Epoch(1)).expect_err("one VLAN for two networks");
    assert!(matches!(error, CompileError::SharedVlan { vlan: 5, .. }));
    model.networks[1].id = NetworkId(0);
    let error = Snapshot::compile(&model, Epoch(1)).expect_err("one number for two networks");
    assert!(matches!(
        error,
        CompileError::DuplicateNetwork { id: 0, .. }
    ));
}

#[test]
fn vnics_share_rules_by_value_too() {
    let list = || -> Arc<[_]> { Arc::new([rule(7, Action::Allow, Match::default())]) };
    let ports = (1..4).map(|id| {
        let mut guest = vnic(id, Action::Deny);
        guest.inbound.rules = list().into();
        Port {
            vnic: Some(guest),
            ..port(id.into(), ACCESS)
        }
    });
    assert!(compile(ports.collect()).is_ok());
}

#[test]
fn a_network_s_masks_hold_what_its_receivers_read() {
    let mut ports = vec![port(1, ACCESS), port(2, ACCESS), port(3, trunk(&[1], None))];
    let mut guest = vnic(2, Action::Deny);
    let web = Match {
        protocol: Some(6),
        dst_ports: vec![80..=80],
        ..Match::default()
    };
    guest.inbound.rules = vec![rule(7, Action::Allow, web)].into();
    ports[1].vnic = Some(guest);
    let snapshot = compile(ports).expect("valid");
    let reads_port = |id, class| {
        let mask = snapshot.masks(PortId(id)).of(class);
        mask.get(policy::Field::L4_DST) == 0xffff
    };
    assert!(reads_port(1, Class::Ipv4Tcp));
    assert!(reads_port(1, Class::Ipv6Tcp));
    assert!(!reads_port(1, Class::Ipv4Udp));
    assert!(!reads_port(1, Class::Ipv4Fragment));
    assert!(!reads_port(3, Class::Ipv4Tcp));
    assert!(
        reads_port(0, Class::Ipv4Udp),
        "a port without policy shares nothing"
    );
}

#[test]
fn matches_that_contradict_themselves_are_refused() {
    type Change = fn(&mut Match);
    let cases: [(Change, MatchError); 10] = [
        (
            |m| m.dst_ports = vec![1..=2],
            MatchError::PortsWithoutProtocol,
        ),
        (
            |m| (m.protocol, m.src_ports) = (Some(1), vec![1..=2]),
            MatchError::PortsWithoutProtocol,
        ),
        (
            |m| {
                m.protocol = Some(6);
                #[allow(clippy::reversed_empty_ranges, reason = "that is the case")]
                m.src_ports.push(9..=8);
            },
            MatchError::EmptyRange(9, 8),
        ),
        (
            |m| {
                m.src = "10.0.0.0/8".parse().ok();
                m.dst = "::/0".parse().ok();
            },
            MatchError::MixedFamilies,
        ),
        (
            |m| (m.protocol, m.src) = (Some(58), "10.0.0.0/8".parse().ok()),
            MatchError::IcmpFamily,
        ),
        (
            |m| (m.ethertype, m.protocol) = (Some(0x0806), Some(6)),
            MatchError::EthertypeContradicts(0x0806),
        ),
        (
            |m| (m.ethertype, m.src) = (Some(0x0800), "::/0".parse().ok()),
            MatchError::EthertypeContradicts(0x0800),
        ),
        (
            |m| m.ethertype = Some(60),
            MatchError::EthertypeIsLength(60),
        ),
        (
            |m| {
                m.icmp = Some(policy::rule::IcmpMatch {
                    kind: 8,
                    code: None,
                });
            },
            MatchError::IcmpWithoutProtocol,
        ),
        (
            |m| m.tcp_flags = Some(policy::rule::FlagsMatch { set: 2, mask: 2 }),
            MatchError::FlagsWithoutTcp,
        ),
    ];
    for (change, expected) in cases {
        let mut matches = Match::default();
        change(&mut matches);
        assert_eq!(matches.validate(), Err(expected));
    }
}

#[test]
fn rejected_frames_have_reasons_of_their_own() {
    let spec = Spec::new(ipv4_packet("10.0.0.1", "10.0.0.2", L4::Udp(1, 53)));
    let rejections = |rule| {
        [DropReason::RejectIn, DropReason::RejectOut].map(|reason| Some(Denial { reason, rule }))
    };
    let everything = |action| Some((Match::default(), action));
    let rejected = judge(everything(Action::Reject), Action::Allow, &spec);
    assert_eq!(rejected, rejections(Some(RuleId(4))));
    assert_eq!(judge(None, Action::Reject, &spec), rejections(None));
    let passes = [None, None];
    let stateful = Action::AllowStateful;
    assert_eq!(judge(everything(stateful), Action::Deny, &spec), passes);
    assert_eq!(judge(None, stateful, &spec), passes);
}

#[test]
fn rules_of_one_number_may_differ_in_what_they_match_only() {
    let web = Match {
        protocol: Some(6),
        ..Match::default()
    };
    let one = rule(7, Action::Allow, Match::default());
    let other = |change: fn(&mut policy::rule::Rule)| {
        let mut other = rule(7, Action::Allow, web.clone());
        other.origin = one.origin.clone();
        change(&mut other);
        let mut guest = vnic(1, Action::Deny);
        guest.inbound.rules = vec![one.clone(), other].into();
        let mut ports = vec![port(1, ACCESS)];
        ports[0].vnic = Some(guest);
        compile(ports).is_ok()
    };
    assert!(other(|_| ()));
    assert!(!other(|rule| rule.log = true));
    assert!(!other(|rule| rule.action = Action::Reject));
}

#[test]
fn rules_print_in_one_line() {
    let flags = policy::rule::FlagsMatch { set: 2, mask: 0x12 };
    let ssh = Match {
        protocol: Some(6),
        dst: "10.0.0.0/8".parse().ok(),
        src_ports: vec![1024..=65535],
        dst_ports: vec![22..=22, 80..=81],
        tcp_flags: Some(flags),
        vlan: VlanId::new(5),
        ..Match::default()
    };
    assert_eq!(
        rule(1, Action::Deny, ssh).to_string(),
        "deny tcp from any port 1024-65535 to 10.0.0.0/8 port 22,80-81 flags syn,!ack vlan 5"
    );
    let everything = rule(1, Action::Allow, Match::default());
    assert_eq!(everything.to_string(), "allow any");
}

/// A rule for an address and a port of its own.
fn host(number: u32) -> Rule {
    let address = std::net::Ipv4Addr::from(0x0a00_0000 | (number.wrapping_mul(40_503) % 65_536));
    let matches = Match {
        src: Some(std::net::IpAddr::from(address).into()),
        protocol: Some([6, 17][number as usize % 2]),
        dst_ports: vec![80..=80 + (number % 7) as u16],
        ..Match::default()
    };
    let action = [Action::Allow, Action::Deny][number as usize % 3 % 2];
    rule(number, action, matches)
}

/// Two ports whose vNICs share the list.
fn sharers(rules: &RuleList) -> Model {
    let ports = (1..3).map(|id| {
        let mut port = port(id, ACCESS);
        let mut vnic = vnic(id as u8, Action::Deny);
        vnic.inbound.rules = rules.clone();
        port.vnic = Some(vnic);
        port
    });
    Model {
        networks: common::networks(),
        ports: ports.collect(),
        ..Model::default()
    }
}

/// Frames that [`host`]s' rules decide are judged alike, and `one`'s masks hold what those of
/// `other` do.
fn judges_as(one: &Snapshot, other: &Snapshot, rules: &RuleList, flags: u64) {
    for class in Class::ALL {
        let (one, other) = (one.masks(PortId(1)), other.masks(PortId(1)));
        let (mask, needed) = (one.of(class), other.of(class));
        assert_eq!(&(mask & needed), needed, "{class:?}");
    }
    for rule in rules.iter() {
        assert_eq!(one.rule(rule.id), Some(rule));
        let mut key = FlowKey::default();
        key.set(Field::ETHERTYPE, 0x0800);
        key.set(Field::SHAPE, shape::IPV4 | shape::L4);
        let source = rule.matches.src.map(|net| net.network());
        let Some(std::net::IpAddr::V4(source)) = source else {
            panic!("every rule has an IPv4 source");
        };
        key.set(Field::IP_SRC_LOW, u32::from(source).into());
        key.set(Field::PROTOCOL, rule.matches.protocol.map_or(0, u64::from));
        key.set(Field::L4_DST, (*rule.matches.dst_ports[0].end()).into());
        key.set(Field::TCP_FLAGS, flags);
        let judge = |snapshot: &Snapshot| {
            let port = snapshot.port(PortId(1)).expect("a port");
            let vnic = port.vnic.as_ref().expect("a vNIC");
            vnic.judge_inbound(&mut Exact(&key))
        };
        assert_eq!(judge(one), judge(other), "{rule}");
    }
}

/// Two vNICs with one inbound list, which changes state by state.
#[test]
fn a_state_compiled_after_another_is_judged_as_one_compiled_alone() {
    let mut list: Vec<_> = (1..=300).map(host).collect();
    let mut compiler = Compiler::default();
    let mut before: Option<Snapshot> = None;
    for step in 0..30_u32 {
        match step % 4 {
            0 => {
                let mut stateful = host(1000 + step);
                stateful.action = Action::AllowStateful;
                list.insert(step as usize * 9, stateful);
            }
            1 => drop(list.remove(step as usize * 7)),
            2 => list[step as usize * 5] = host(2000 + step),
            // A rule that reads what none before it did.
            _ => {
                let matches = &mut list[step as usize].matches;
                let tcp = matches.protocol == Some(6);
                matches.tcp_flags = tcp.then_some(FlagsMatch { set: 2, mask: 2 });
            }
        }
        let rules = RuleList::from(list.clone());
        let model = sharers(&rules);
        let epoch = Epoch(step.into());
        let next = compiler.compile(&model, epoch).expect("valid");
        let alone = Snapshot::compile(&model, epoch).expect("valid");
        assert!(next.tracks(PortId(1), Class::Ipv4Tcp));
        for class in Class::ALL {
            let is_tracked = |snapshot: &Snapshot| snapshot.tracks(PortId(1), class);
            assert!(!is_tracked(&alone) || is_tracked(&next), "{class:?}");
        }
        judges_as(&next, &alone, &rules, u64::from(step % 4));
        // A state that cannot be compiled leaves no trace.
        let twice = Model {
            ports: [model.ports.clone(), model.ports.clone()].concat(),
            ..model
        };
        assert!(compiler.compile(&twice, epoch).is_err());
        if let Some(before) = before.replace(next) {
            assert_eq!(before.epoch(), Epoch(u64::from(step) - 1));
        }
    }
}

#[test]
fn a_worn_list_is_renewed_beside_and_the_next_state_is_made_from_it() {
    let mut list: RuleList = (1..=300).map(host).collect();
    let limit = Some(RateLimit {
        per_second: 5,
        burst: 5,
    });
    let marked = Rule {
        log: true,
        limit,
        ..host(7000)
    };
    list.replace(299, marked);
    let is_marked = |snapshot: &Snapshot| {
        let port = snapshot.port(PortId(1)).expect("a port");
        let limits = port.vnic.as_ref().expect("a vNIC").limits();
        snapshot.logs(RuleId(7000)) && limits.map(|(id, _)| id).eq([RuleId(7000)])
    };
    let mut compiler = Compiler::default();
    let compile = |compiler: &mut Compiler, list: &RuleList| {
        compiler.compile(&sharers(list), Epoch(1)).expect("valid")
    };
    compile(&mut compiler, &list);
    assert!(compiler.worn().is_none());
    let mut changes = 0;
    let worn = loop {
        if let Some(worn) = compiler.worn() {
            break worn;
        }
        changes += 1;
        assert!(changes < 100, "so many changes do not wear it");
        list.replace(changes * 2, host(1000 + changes as u32));
        compile(&mut compiler, &list);
    };
    assert!(changes > 10);
    // What changes meanwhile is not lost.
    list.insert(5, host(5000));
    list.remove(50);
    compile(&mut compiler, &list);
    compiler.adopt(worn.renew());
    assert!(compiler.worn().is_none());
    assert!(is_marked(&compile(&mut compiler, &list)));
    list.replace(9, host(5001));
    let next = compile(&mut compiler, &list);
    assert!(is_marked(&next));
    let alone = Snapshot::compile(&sharers(&list), Epoch(1)).expect("valid");
    judges_as(&next, &alone, &list, 0);

    // Another list's is of no use.
    let other: RuleList = (20_000..20_100).map(host).collect();
    while compiler.worn().is_none() {
        changes += 1;
        list.replace(changes, host(6000 + changes as u32));
        compile(&mut compiler, &list);
    }
    let worn = compiler.worn().expect("worn");
    compile(&mut compiler, &other);
    compiler.adopt(worn.renew());
    let next = compile(&mut compiler, &other);
    let alone = Snapshot::compile(&sharers(&other), Epoch(1)).expect("valid");
    judges_as(&next, &alone, &other, 0);
}
