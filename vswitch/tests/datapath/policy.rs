//! vNIC policy: rules by direction, defaults, anti-spoofing, and changes mid-stream.

use policy::{
    DropReason, Mac, RuleId, VlanId,
    model::{Action, Model, SenderChecks, Vnic},
    rule::{FlagsMatch, FragmentMatch, IcmpMatch, MacMatch, Match, Rule},
};

use crate::bed::{Bed, build::*, frames::*};

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];
const A6: &str = "2001:db8::1";
const B6: &str = "2001:db8::2";
const A_LINK: &str = "fe80::ff:fe00:1";

/// vNIC A, address 1, whose senders are not checked.
fn a() -> Vnic {
    vnic(mac(1)).checks(SenderChecks::NONE)
}

/// VLAN 10 with vNIC A on trunk port 0 (10 is also what untagged frames belong to) and, on
/// access port 1, vNIC B, address 2.
fn pair(a: Vnic, b: Vnic) -> Model {
    let ports = [trunk(0, &[1], Some(0)).vnic(a), access(1, 0).vnic(b)];
    let ports = ports.into_iter().chain([access(2, 1)]);
    model([network(0), vlan_network(1, 10)], ports)
}

fn b() -> Vnic {
    vnic(mac(2)).checks(SenderChecks::NONE)
}

fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ether(mac(2), mac(1), IPV4, &ipv4(A, B, protocol, payload))
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    ether(mac(2), mac(1), IPV6, &ipv6(A6, B6, next, payload))
}

fn fragment(offset: u16, payload: &[u8]) -> Vec<u8> {
    let packet = ipv4_fragment(A, B, UDP, offset, payload);
    ether(mac(2), mac(1), IPV4, &packet)
}

const FIRST: u16 = 0x2000;
const LATER: u16 = 0x2010;

/// A match, frames that it matches, frames that it does not.
struct Case {
    matches: Match,
    matching: Vec<Vec<u8>>,
    other: Vec<Vec<u8>>,
}

fn case(matches: Match, matching: Vec<Vec<u8>>, other: Vec<Vec<u8>>) -> Case {
    Case {
        matches,
        matching,
        other,
    }
}

/// Parts that look at the Ethernet header.
fn link_parts() -> Vec<Case> {
    let any = Match::default;
    let tcp80 = v4(TCP, &tcp(1000, 80, 0x02));
    let ping6 = v6(ICMPV6, &icmp(128, 0));
    let other = plain(mac(2), mac(1));
    vec![
        case(any(), vec![tcp80.clone(), other.clone()], vec![]),
        case(
            Match {
                eth_src: Some(MacMatch {
                    address: mac(1),
                    mask: BROADCAST,
                }),
                ..any()
            },
            vec![other.clone()],
            vec![plain(mac(2), mac(3))],
        ),
        case(
            Match {
                eth_dst: Some(MacMatch {
                    address: Mac([1, 0, 0, 0, 0, 0]),
                    mask: Mac([1, 0, 0, 0, 0, 0]),
                }),
                ..any()
            },
            vec![plain(BROADCAST, mac(1))],
            vec![other.clone()],
        ),
        case(
            Match {
                ethertype: Some(IPV4),
                ..any()
            },
            vec![tcp80.clone(), fragment(LATER, &[0; 8])],
            vec![ping6.clone(), other.clone()],
        ),
    ]
}

/// Parts that look at the IP header.
fn network_parts() -> Vec<Case> {
    let any = Match::default;
    let net = |text: &str| Some(text.parse().expect("a prefix"));
    let tcp80 = v4(TCP, &tcp(1000, 80, 0x02));
    let udp53 = v4(UDP, &udp(53, 5353));
    let ping6 = v6(ICMPV6, &icmp(128, 0));
    let other = plain(mac(2), mac(1));
    vec![
        case(
            Match {
                src: net("10.0.0.0/31"),
                ..any()
            },
            vec![tcp80.clone()],
            vec![
                ether(mac(2), mac(1), IPV4, &ipv4(B, A, TCP, &tcp(1, 2, 0))),
                ping6.clone(),
                other.clone(),
            ],
        ),
        case(
            Match {
                dst: net("2001:db8::2/128"),
                ..any()
            },
            vec![ping6.clone()],
            vec![
                ether(mac(2), mac(1), IPV6, &ipv6(B6, A6, 59, &[])),
                tcp80.clone(),
            ],
        ),
        case(
            Match {
                // A whole address family, and no other.
                dst: net("::/0"),
                ..any()
            },
            vec![ping6.clone()],
            vec![tcp80.clone(), other.clone()],
        ),
        case(
            Match {
                protocol: Some(UDP),
                ..any()
            },
            vec![udp53.clone(), v6(UDP, &udp(1, 2)), fragment(LATER, &[0; 8])],
            vec![tcp80.clone(), other.clone()],
        ),
        case(
            Match {
                // Protocol 0 is no sign of IP.
                protocol: Some(0),
                ..any()
            },
            vec![v4(0, &[0; 8])],
            vec![other.clone(), tcp80.clone()],
        ),
    ]
}

/// Parts that look at what stands behind IP.
fn transport_parts() -> Vec<Case> {
    let any = Match::default;
    let tcp80 = v4(TCP, &tcp(1000, 80, 0x02));
    let udp53 = v4(UDP, &udp(53, 5353));
    let ping = v4(ICMP, &icmp(8, 0));
    let ping6 = v6(ICMPV6, &icmp(128, 0));
    let other = plain(mac(2), mac(1));
    vec![
        case(
            Match {
                protocol: Some(UDP),
                src_ports: vec![50..=53],
                ..any()
            },
            vec![udp53.clone(), v6(UDP, &udp(50, 1))],
            vec![
                v4(UDP, &udp(54, 53)),
                v4(TCP, &tcp(50, 1, 0)),
                ping.clone(),
                other.clone(),
            ],
        ),
        case(
            Match {
                protocol: Some(UDP),
                dst_ports: vec![1..=3, 80..=80],
                ..any()
            },
            vec![v4(UDP, &udp(9, 80)), v6(UDP, &udp(9, 2))],
            vec![v4(UDP, &udp(80, 4)), fragment(LATER, &udp(1, 2))],
        ),
        case(
            Match {
                protocol: Some(ICMP),
                icmp: Some(IcmpMatch {
                    kind: 8,
                    code: None,
                }),
                ..any()
            },
            vec![ping.clone(), v4(ICMP, &icmp(8, 3))],
            vec![v4(ICMP, &icmp(0, 0)), ping6.clone()],
        ),
        case(
            Match {
                protocol: Some(ICMPV6),
                icmp: Some(IcmpMatch {
                    kind: 1,
                    code: Some(4),
                }),
                ..any()
            },
            vec![v6(ICMPV6, &icmp(1, 4))],
            vec![v6(ICMPV6, &icmp(1, 3)), v6(ICMPV6, &icmp(2, 4))],
        ),
        case(
            Match {
                protocol: Some(TCP),
                tcp_flags: Some(FlagsMatch {
                    set: 0x02,
                    mask: 0x12,
                }),
                ..any()
            },
            vec![tcp80.clone(), v6(TCP, &tcp(1, 2, 0xc2))],
            vec![v4(TCP, &tcp(1, 2, 0x12)), v4(TCP, &tcp(1, 2, 0x10))],
        ),
    ]
}

/// Parts that look at fragments.
fn fragment_parts() -> Vec<Case> {
    let any = Match::default;
    let udp53 = v4(UDP, &udp(53, 5353));
    let ping6 = v6(ICMPV6, &icmp(128, 0));
    let other = plain(mac(2), mac(1));
    vec![
        case(
            Match {
                fragment: Some(FragmentMatch::No),
                ..any()
            },
            vec![udp53.clone(), ping6.clone()],
            vec![fragment(FIRST, &udp(1, 2)), other.clone()],
        ),
        case(
            Match {
                fragment: Some(FragmentMatch::Any),
                ..any()
            },
            vec![fragment(FIRST, &udp(1, 2)), fragment(LATER, &[0; 8])],
            vec![udp53.clone(), other.clone()],
        ),
        case(
            Match {
                fragment: Some(FragmentMatch::First),
                ..any()
            },
            vec![fragment(FIRST, &udp(1, 2))],
            vec![udp53.clone(), fragment(LATER, &[0; 8])],
        ),
        case(
            Match {
                fragment: Some(FragmentMatch::Later),
                ..any()
            },
            vec![fragment(LATER, &[0; 8])],
            vec![udp53, fragment(FIRST, &udp(1, 2))],
        ),
    ]
}

/// Sends each frame of `matching` and `other` twice, so that the cache answers too. Those that
/// `denies` speaks of are dropped for `reason` by rule 7, the others pass.
fn check(model: &Model, reason: DropReason, case: &Case, deny: bool) {
    let Case {
        matches,
        matching,
        other,
    } = case;
    let account = u16::from(reason == DropReason::AclIn);
    let mut bed = Bed::new(model);
    let mut denied = 0;
    for (frames, matched) in [(matching, true), (other, false)] {
        for frame in frames.iter().chain(frames) {
            if matched == deny {
                let drop = bed.dropped(0, frame);
                assert_eq!(drop, (account, reason), "{matches:?}: {frame:x?}");
                denied += 1;
            } else {
                assert_eq!(bed.ports_of(0, frame), [1], "{matches:?}: {frame:x?}");
            }
        }
    }
    let rule = deny.then_some(RuleId(7));
    let expected = (denied > 0).then_some((account, reason, rule, denied));
    assert_eq!(bed.ledger(), Vec::from_iter(expected));
}

#[test]
fn each_part_of_a_match_decides_in_both_directions() {
    let parts = [
        link_parts(),
        network_parts(),
        transport_parts(),
        fragment_parts(),
    ];
    for case in &parts.into_iter().flatten().collect::<Vec<_>>() {
        let denying = || [deny(7, case.matches.clone())];
        let allowing = || [allow(7, case.matches.clone())];
        let out = |action, rules: [Rule; 1]| pair(a().outbound(action, rules), b());
        let into = |action, rules: [Rule; 1]| pair(a(), b().inbound(action, rules));
        check(
            &out(Action::Allow, denying()),
            DropReason::AclOut,
            case,
            true,
        );
        check(
            &out(Action::Deny, allowing()),
            DropReason::AclOut,
            case,
            false,
        );
        check(
            &into(Action::Allow, denying()),
            DropReason::AclIn,
            case,
            true,
        );
        check(
            &into(Action::Deny, allowing()),
            DropReason::AclIn,
            case,
            false,
        );
    }
}

#[test]
fn a_rule_with_a_vlan_means_the_tag_the_frame_came_with() {
    let matches = Match {
        vlan: VlanId::new(10),
        ..Match::default()
    };
    let mut bed = Bed::new(&pair(a().outbound(Action::Allow, [deny(7, matches)]), b()));
    let frame = plain(BROADCAST, mac(1));
    assert_eq!(
        bed.dropped(0, &tag(&frame, 0xe00a)),
        (0, DropReason::AclOut)
    );
    assert_eq!(bed.ports_of(0, &frame), [1]);
}

#[test]
fn the_first_rule_that_matches_decides() {
    let udp_any = || Match {
        protocol: Some(UDP),
        ..Match::default()
    };
    let dns = Match {
        dst_ports: vec![53..=53],
        ..udp_any()
    };
    let rules = [
        allow(1, dns),
        deny(2, udp_any()),
        allow(3, udp_any()),
        deny(4, Match::default()),
    ];
    let mut bed = Bed::new(&pair(a(), b().inbound(Action::Allow, rules)));
    for _ in 0..2 {
        assert_eq!(bed.ports_of(0, &v4(UDP, &udp(1, 53))), [1]);
        bed.dropped(0, &v4(UDP, &udp(1, 54)));
        bed.dropped(0, &v4(TCP, &tcp(1, 53, 2)));
    }
    let rule = |id| (1, DropReason::AclIn, Some(RuleId(id)), 2);
    assert_eq!(bed.ledger(), [rule(2), rule(4)]);
}

#[test]
fn defaults_deny_without_a_rule_and_let_arp_and_nd_pass() {
    let silent = || a().outbound(Action::Deny, []).inbound(Action::Deny, []);
    let mut bed = Bed::new(&pair(silent(), b().inbound(Action::Deny, [])));
    let request = ether(BROADCAST, mac(1), ARP, &arp(1, mac(1), A, B));
    let solicit = neighbor(135, B6, Some(mac(1)));
    assert_eq!(bed.ports_of(0, &request), [1]);
    assert_eq!(bed.ports_of(0, &v6(ICMPV6, &solicit)), [1]);
    assert_eq!(
        bed.dropped(0, &v6(ICMPV6, &icmp(128, 0))),
        (0, DropReason::AclOut)
    );
    assert_eq!(
        bed.dropped(1, &plain(mac(1), mac(2))),
        (0, DropReason::AclIn)
    );
    // Cut off it is no ARP.
    assert_eq!(bed.dropped(0, &request[..41]), (0, DropReason::Malformed));
    // A rule may deny them.
    let no_arp = deny(
        7,
        Match {
            ethertype: Some(ARP),
            ..Match::default()
        },
    );
    let mut bed = Bed::new(&pair(a(), b().inbound(Action::Deny, [no_arp])));
    assert_eq!(bed.dropped(0, &request), (1, DropReason::AclIn));
    assert_eq!(bed.ledger(), [(1, DropReason::AclIn, Some(RuleId(7)), 1)]);
}

#[test]
fn a_flood_reaches_those_who_allow_it() {
    let multicast = Match {
        eth_dst: Some(MacMatch {
            address: Mac([1, 0, 0, 0, 0, 0]),
            mask: Mac([1, 0, 0, 0, 0, 0]),
        }),
        ..Match::default()
    };
    let vnic_of = |n| vnic(mac(n)).checks(SenderChecks::NONE);
    let ports = [
        access(0, 0),
        access(1, 0).vnic(vnic_of(1).inbound(Action::Allow, [deny(7, multicast)])),
        access(2, 0).vnic(vnic_of(2)),
        access(3, 0).vnic(vnic_of(3).inbound(Action::Deny, [])),
        access(4, 0),
    ];
    let mut bed = Bed::new(&model([network(0)], ports));
    for _ in 0..3 {
        assert_eq!(bed.ports_of(0, &plain(BROADCAST, mac(9))), [2, 4]);
    }
    assert_eq!(
        bed.ledger(),
        [
            (1, DropReason::AclIn, Some(RuleId(7)), 3),
            (3, DropReason::AclIn, None, 3)
        ]
    );
    assert_eq!(bed.counts(0).replicas, 9);
}

/// vNIC A with every check and the addresses A and A6, on port 0.
fn checked() -> Bed {
    let a = vnic(mac(1)).ipv4("10.0.0.1/32").ipv6("2001:db8::1/128");
    Bed::new(&pair(a, b()))
}

#[test]
fn a_vnic_sends_only_from_its_own_addresses() {
    let mut bed = checked();
    let to_all = |ethertype, payload: &[u8]| ether(BROADCAST, mac(1), ethertype, payload);
    let from6 = |src, next, payload: &[u8]| to_all(IPV6, &ipv6(src, B6, next, payload));
    let from4 = |src, protocol, payload: &[u8]| to_all(IPV4, &ipv4(src, B, protocol, payload));
    let nd = |src, kind, target, link| from6(src, ICMPV6, &neighbor(kind, target, link));
    let own = [
        plain(BROADCAST, mac(1)),
        from4(A, UDP, &udp(1, 2)),
        // DHCP from nothing.
        from4([0; 4], UDP, &udp(68, 67)),
        from6(A6, UDP, &udp(1, 2)),
        from6(A_LINK, UDP, &udp(1, 2)),
        // Listener reports from nothing.
        from6("::", ICMPV6, &icmp(143, 0)),
        to_all(ARP, &arp(1, mac(1), A, B)),
        to_all(ARP, &arp(2, mac(1), A, B)),
        // An ARP probe.
        to_all(ARP, &arp(1, mac(1), [0; 4], A)),
        nd(A6, 135, B6, Some(mac(1))),
        nd(A6, 136, A6, Some(mac(1))),
        nd(A_LINK, 136, A_LINK, None),
        // Duplicate address detection.
        nd("::", 135, A6, None),
        from6(A_LINK, ICMPV6, &[133, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let spoofed = [
        (DropReason::SpoofedMac, plain(BROADCAST, mac(3))),
        (DropReason::SpoofedMac, plain(BROADCAST, mac(2))),
        (DropReason::SpoofedIpv4, from4(B, UDP, &udp(1, 2))),
        (DropReason::SpoofedIpv4, from4([0; 4], UDP, &udp(67, 68))),
        (DropReason::SpoofedIpv4, from4([0; 4], TCP, &tcp(68, 67, 2))),
        (DropReason::SpoofedIpv6, from6(B6, UDP, &udp(1, 2))),
        (DropReason::SpoofedIpv6, from6("fe80::1", UDP, &udp(1, 2))),
        (DropReason::SpoofedIpv6, from6("::", UDP, &udp(1, 2))),
        (DropReason::SpoofedIpv6, nd(B6, 136, A6, None)),
        (DropReason::SpoofedArp, to_all(ARP, &arp(1, mac(2), A, B))),
        (DropReason::SpoofedArp, to_all(ARP, &arp(2, mac(1), B, A))),
        (DropReason::SpoofedNd, nd(A6, 136, B6, Some(mac(1)))),
        (DropReason::SpoofedNd, nd(A6, 136, A6, Some(mac(2)))),
        (DropReason::SpoofedNd, nd(A6, 135, B6, Some(mac(2)))),
        (DropReason::SpoofedNd, nd("::", 135, B6, None)),
        // What only servers and routers send.
        (DropReason::RogueDhcp, from4(A, UDP, &udp(67, 68))),
        (DropReason::RogueDhcp, from4(A, UDP, &udp(9, 68))),
        (DropReason::RogueDhcp, from6(A6, UDP, &udp(547, 546))),
        (
            DropReason::RogueRa,
            from6(
                A_LINK,
                ICMPV6,
                &[134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
        ),
    ];
    for _ in 0..2 {
        for frame in &own {
            assert_eq!(bed.ports_of(0, frame), [1], "{frame:x?}");
        }
        for (reason, frame) in &spoofed {
            assert_eq!(bed.dropped(0, frame), (0, *reason), "{frame:x?}");
        }
    }
    // Nothing but its own address was learned from it.
    assert_eq!(
        bed.ports_of(1, &plain(mac(3), mac(2))),
        [0],
        "unknown: flooded"
    );
    assert_eq!(bed.shared.bridge.rows(bed.now_s()).len(), 3);
}

#[test]
fn each_check_can_be_off_alone() {
    let spoofs = [
        plain(BROADCAST, mac(3)),
        ether(BROADCAST, mac(1), IPV4, &ipv4(B, A, UDP, &udp(1, 2))),
        ether(BROADCAST, mac(1), IPV6, &ipv6(B6, A6, UDP, &udp(1, 2))),
        ether(BROADCAST, mac(1), ARP, &arp(1, mac(1), B, A)),
        ether(
            BROADCAST,
            mac(1),
            IPV6,
            &ipv6(A6, B6, ICMPV6, &neighbor(136, B6, None)),
        ),
    ];
    for off in 0..5 {
        let on = |check| check != off;
        let checks = SenderChecks {
            mac: on(0),
            ipv4: on(1),
            ipv6: on(2),
            arp: on(3),
            nd: on(4),
        };
        let a = vnic(mac(1)).ipv4("10.0.0.1/32").ipv6("2001:db8::1/128");
        let mut bed = Bed::new(&pair(a.checks(checks), b()));
        for (check, frame) in spoofs.iter().enumerate() {
            let passed = bed.ports_of(0, frame) == [1];
            assert_eq!(passed, check == off, "check {off} is off, frame {check}");
        }
    }
}

#[test]
fn a_change_takes_effect_on_cached_flows_at_the_next_turn_and_is_acknowledged() {
    let rules = |action| match action {
        Action::Allow => [allow(1, Match::default())],
        action => [rule(2, action, Match::default())],
    };
    let denying = |out, into| {
        pair(
            a().outbound(Action::Allow, rules(out)),
            b().inbound(Action::Allow, rules(into)),
        )
    };
    let frame = v4(UDP, &udp(1, 2));
    let mut bed = Bed::new(&denying(Action::Allow, Action::Allow));
    for round in 0..3 {
        for _ in 0..3 {
            assert_eq!(bed.ports_of(0, &frame), [1], "round {round}");
        }
        let epoch = bed.publish(&denying(Action::Deny, Action::Allow));
        assert_ne!(bed.workers[0].acknowledged.get(), epoch);
        for _ in 0..3 {
            assert_eq!(bed.dropped(0, &frame), (0, DropReason::AclOut));
        }
        assert_eq!(bed.workers[0].acknowledged.get(), epoch);
        bed.publish(&denying(Action::Allow, Action::Deny));
        for _ in 0..3 {
            assert_eq!(bed.dropped(0, &frame), (1, DropReason::AclIn));
        }
        bed.publish(&denying(Action::Allow, Action::Allow));
    }
    // An idle worker acknowledges too.
    let epoch = bed.publish(&denying(Action::Deny, Action::Deny));
    bed.turn();
    assert_eq!(bed.workers[0].acknowledged.get(), epoch);
    assert!(bed.counts(0).cache_hits > 0);
}

#[test]
fn frames_received_before_a_change_and_judged_after_it_meet_all_of_it() {
    let before = pair(a(), b());
    let after = pair(a().outbound(Action::Deny, []), b());
    let mut bed = Bed::new(&before);
    let frame = v4(UDP, &udp(1, 2));
    for _ in 0..100 {
        bed.send(0, &frame);
    }
    bed.turn();
    bed.publish(&after);
    bed.run();
    assert_eq!(bed.received(1).len(), pmd::BURST);
    assert_eq!(bed.counts(0).dropped(DropReason::AclOut), 36);
}

#[test]
fn a_port_without_policy_passes_nothing() {
    let both = pair(a(), b());
    let mut without = both.clone();
    without.ports.remove(0);
    let mut bed = Bed::new(&both);
    let frame = v4(UDP, &udp(1, 2));
    for _ in 0..2 {
        bed.publish(&without);
        for _ in 0..2 {
            assert_eq!(bed.dropped(0, &frame), (0, DropReason::NoPolicy));
        }
        bed.publish(&both);
        assert_eq!(bed.ports_of(0, &frame), [1]);
    }
}

/// Wherever a sender marks a checksum to be completed, nothing of the frame changes on its way
/// but the checksum of TCP.
#[test]
fn a_checksum_is_completed_only_where_it_is_one() {
    const TCP_START: u16 = 34;
    const TCP_CHECKSUM: usize = 34 + 16;
    let mut bed = Bed::new(&model([network(0)], [access(0, 0), access(1, 0)]));
    let frame = v4(TCP, &tcp(1000, 80, 0x10));
    for start in 0..60 {
        for offset in 0..60 {
            let mark = pmd::PartialChecksum { start, offset };
            bed.send_marked(0, &frame, mark);
            bed.run();
            let [passed] = &bed.received(1)[..] else {
                panic!("one frame leaves for {mark:?}");
            };
            let mut expected = frame.clone();
            if (start, offset) == (TCP_START, 16) {
                let checksum = &passed[TCP_CHECKSUM..TCP_CHECKSUM + 2];
                assert_ne!(checksum, [0, 0], "it is completed");
                expected[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(checksum);
            }
            assert_eq!(*passed, expected, "{mark:?}");
        }
    }
}
