//! Footprint soundness: frames that are equal under a (port, class) mask are judged the same, by
//! every step of the walk. A narrower mask is caught.

mod common;

use std::collections::HashMap;

use common::{Fragment, L3, L4, Spec, any_model, any_rules, any_spec, port, rule, vnic};
use policy::{
    Denial, Epoch, Field, FlowKey, NeighborClaim, NetworkId, Parsed, PortId, RuleId, Snapshot,
    conntrack::{Tuple, packet::flags},
    key::{Class, shape},
    model::{Action, Attachment, Model},
    parse,
    reader::{Exact, KeyReader, Tracer},
    rule::{FlagsMatch, FragmentMatch, Match},
};
use proptest::{collection::vec, prelude::*};

type Judgement = Result<Option<RuleId>, Denial>;

/// Everything that is decided of a frame, each step whatever the one before it said.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    admitted: Result<NetworkId, Denial>,
    sender: Option<Result<(), Denial>>,
    outbound: Option<Judgement>,
    inbound: Vec<(PortId, Judgement)>,
}

fn judge(snapshot: &Snapshot, key: &FlowKey, claim: Option<&NeighborClaim>) -> Option<Outcome> {
    let r = &mut Exact(key);
    let port = snapshot.port(key.ingress())?;
    let admitted = port.admit(r);
    let members = admitted.ok().and_then(|id| snapshot.network(id));
    let inbound = members
        .iter()
        .flat_map(|network| &network.members)
        .filter_map(|member| {
            let vnic = snapshot.port(member.port)?.vnic.as_ref()?;
            Some((member.port, vnic.judge_inbound(r)))
        })
        .collect();
    Some(Outcome {
        admitted,
        sender: port.vnic.as_ref().map(|v| v.check_sender(r, claim)),
        outbound: port.vnic.as_ref().map(|v| v.judge_outbound(r)),
        inbound,
    })
}

/// Two of the frames that `narrow`ed masks take for one although they are judged differently.
fn unsound(
    snapshot: &Snapshot,
    frames: &[Parsed],
    narrow: impl Fn(&mut FlowKey),
) -> Option<(Parsed, Parsed)> {
    let mut seen: HashMap<(Class, FlowKey), &Parsed> = HashMap::new();
    for frame in frames.iter().filter(|frame| frame.class.cacheable()) {
        let mut mask = *snapshot.masks(frame.key.ingress()).of(frame.class);
        narrow(&mut mask);
        let first = *seen
            .entry((frame.class, &frame.key & &mask))
            .or_insert(frame);
        if judge(snapshot, &first.key, None) != judge(snapshot, &frame.key, None) {
            return Some((*first, *frame));
        }
    }
    None
}

/// Frames over 4 bits each of source address, destination port and TCP flags, whole and not.
fn tiny_universe() -> Vec<Parsed> {
    let mut frames = Vec::new();
    for bits in 0..1_u16 << 12 {
        let [source, destination_port, flags] = [bits & 15, bits >> 4 & 15, bits >> 8];
        let l4 = L4::Tcp(1024, 80 + destination_port, flags as u8);
        let fragments = [Fragment::No, Fragment::First, Fragment::Later];
        for fragment in fragments {
            let mut spec = Spec::new(common::ipv4_packet("10.0.0.0", "10.0.0.9", l4.clone()));
            if let L3::V4 {
                src, fragment: f, ..
            } = &mut spec.l3
            {
                *src = std::net::Ipv4Addr::from(0x0a00_0000 | u32::from(source));
                *f = fragment;
            }
            frames.push(spec.parse(PortId(0)).1);
        }
    }
    frames
}

fn tiny_match() -> impl Strategy<Value = Match> {
    let fragments = [
        None,
        None,
        Some(FragmentMatch::No),
        Some(FragmentMatch::Any),
        Some(FragmentMatch::First),
    ];
    let net = (0..16_u8, 28..=32_u8).prop_map(|(last, len)| {
        let text = format!("10.0.0.{last}/{len}");
        text.parse().expect("a prefix")
    });
    let ports = (80..96_u16, 0..16_u16).prop_map(|(first, more)| vec![first..=first + more]);
    let flags = (0..16_u8, 1..16_u8).prop_map(|(set, mask)| FlagsMatch {
        set: set & mask,
        mask,
    });
    (
        proptest::option::of(net),
        proptest::option::of(ports),
        proptest::option::of(flags),
        proptest::sample::select(fragments.to_vec()),
    )
        .prop_map(|(src, ports, tcp_flags, fragment)| Match {
            src,
            protocol: Some(6),
            dst_ports: ports.unwrap_or_default(),
            tcp_flags,
            fragment,
            ..Match::default()
        })
}

fn two_ports(rules: Vec<(Match, Action)>) -> Snapshot {
    let mut guest = vnic(1, Action::Allow);
    guest.outbound.rules = (1..)
        .zip(rules)
        .map(|(id, (matches, action))| rule(id, action, matches))
        .collect();
    let network = NetworkId(0);
    let mut ports = vec![
        port(0, Attachment::Access(network)),
        port(1, Attachment::Access(network)),
    ];
    ports[0].vnic = Some(guest);
    let model = Model {
        networks: common::networks(),
        ports,
        ..Model::default()
    };
    Snapshot::compile(&model, Epoch(1)).expect("a valid model")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn unread_bits_decide_nothing(
        model in any_model(6),
        specs in vec(any_spec(), 24),
        cut in any::<proptest::sample::Index>(),
        noise in vec(any::<[u64; 8]>(), 4),
    ) {
        let snapshot = Snapshot::compile(&model, Epoch(1)).expect("a valid model");
        for (number, spec) in specs.iter().enumerate() {
            let (mut frame, tci) = spec.bytes();
            if number % 4 == 0 {
                frame.truncate(cut.index(frame.len()));
            }
            for port in (0..4).map(PortId) {
                let parsed = parse(&frame, frame.len(), tci, port);
                let claim = NeighborClaim::read(&frame, &parsed);
                let mask = snapshot.masks(port).of(parsed.class);
                let expected = judge(&snapshot, &parsed.key, claim.as_ref());
                prop_assert!(expected.is_some());
                for noise in &noise {
                    let mut other = parsed.key;
                    for (word, (noise, mask)) in other.0.iter_mut().zip(noise.iter().zip(mask.0)) {
                        *word ^= noise & !mask;
                    }
                    prop_assert_eq!(
                        &judge(&snapshot, &other, claim.as_ref()), &expected,
                        "{:x?} {:x?}", parsed, other
                    );
                }
            }
        }
    }

    /// Where connections are followed, frames that are equal under the mask belong to the same one,
    /// and have the same flags that change its state; and they are followed wherever a policy that
    /// could judge the frame allows it statefully.
    #[test]
    fn frames_of_different_connections_share_no_verdict(
        model in any_model(4),
        specs in vec(any_spec(), 24),
        noise in vec(any::<[u64; 8]>(), 4),
    ) {
        let snapshot = Snapshot::compile(&model, Epoch(1)).expect("a valid model");
        for spec in &specs {
            for port in (0..4).map(PortId) {
                let frame = spec.parse(port).1;
                let tracked = snapshot.tracks(port, frame.class);
                let r = &mut Exact(&frame.key);
                let own = snapshot.port(port).is_some_and(|p| p.admit(r).is_ok());
                let stateful = snapshot
                    .port(port)
                    .and_then(|port| port.vnic.as_ref())
                    .is_some_and(|vnic| vnic.pass_outbound(r).is_ok_and(|pass| pass.stateful));
                prop_assert!(
                    tracked || !own || !stateful || !frame.class.trackable(),
                    "{:?}", frame
                );
                if !tracked || !frame.class.trackable() {
                    continue;
                }
                let mask = snapshot.masks(port).of(frame.class);
                for noise in &noise {
                    let mut other = frame.key;
                    for (word, (noise, mask)) in other.0.iter_mut().zip(noise.iter().zip(mask.0)) {
                        *word ^= noise & !mask;
                    }
                    prop_assert_eq!(Tuple::of(&other), Tuple::of(&frame.key));
                    if matches!(frame.class, Class::Ipv4Tcp | Class::Ipv6Tcp) {
                        let state = |key: &FlowKey| key.get(Field::TCP_FLAGS) as u8 & flags::STATE;
                        prop_assert_eq!(state(&other), state(&frame.key));
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_known_of_a_class_holds_for_its_frames(
        specs in vec(any_spec(), 20),
        cut in any::<proptest::sample::Index>(),
        change in (any::<proptest::sample::Index>(), any::<u8>()),
    ) {
        for spec in specs {
            let (mut frame, tci) = spec.bytes();
            let at = change.0.index(frame.len());
            frame[at] = change.1;
            for len in [frame.len(), cut.index(frame.len() + 1)] {
                let parsed = parse(&frame, len, tci, PortId(2));
                let tracer = Tracer::new(parsed.class);
                for (word, &bits) in parsed.key.0.iter().enumerate() {
                    prop_assert!(tracer.possible(Field::word(word), u64::MAX, bits), "{:?}", parsed);
                }
            }
        }
    }

    #[test]
    fn frames_equal_under_a_mask_are_of_one_class_and_judged_alike(
        model in any_model(4),
        specs in vec(any_spec(), 200),
    ) {
        let snapshot = Snapshot::compile(&model, Epoch(1)).expect("a valid model");
        for port in (0..4).map(PortId) {
            let frames: Vec<Parsed> = specs.iter().map(|spec| spec.parse(port).1).collect();
            prop_assert_eq!(unsound(&snapshot, &frames, |_| {}), None);
            for class in Class::ALL {
                let mask = snapshot.masks(port).of(class);
                let of_class: std::collections::HashSet<FlowKey> = frames
                    .iter()
                    .filter(|frame| frame.class == class)
                    .map(|frame| &frame.key & mask)
                    .collect();
                for other in frames.iter().filter(|frame| frame.class != class) {
                    prop_assert!(!of_class.contains(&(&other.key & mask)), "{:?}", other);
                }
            }
        }
    }

    #[test]
    fn masks_hold_only_what_the_policy_reads(rules in any_rules(1, 5)) {
        // Whoever follows connections reads more.
        let stateless = |action| match action {
            Action::AllowStateful => Action::Allow,
            action => action,
        };
        let rules: Vec<_> = rules
            .iter()
            .map(|r| (r.matches.clone(), stateless(r.action)))
            .collect();
        let (reads_flags, reads_destination) = (
            rules.iter().any(|(m, _)| m.tcp_flags.is_some()),
            rules.iter().any(|(m, _)| m.dst.is_some_and(|net| net.prefix_len() > 0)),
        );
        let snapshot = two_ports(rules);
        for class in Class::ALL {
            let mask = snapshot.masks(PortId(0)).of(class);
            prop_assert!(reads_flags || mask.get(Field::TCP_FLAGS) == 0);
            let destination = mask.get(Field::IP_DST_LOW) | mask.get(Field::IP_DST_HIGH);
            prop_assert!(reads_destination || destination == 0);
            prop_assert_eq!(mask.get(Field::TOS), 0);
            prop_assert_eq!(mask.get(Field::VLAN_TCI) & !Field::VLAN_VID.ones(), 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_whole_of_a_tiny_universe_is_judged_alike_under_masks(
        rules in vec((tiny_match(), common::any_action()), 0..=8),
    ) {
        let snapshot = two_ports(rules);
        prop_assert_eq!(unsound(&snapshot, &tiny_universe(), |_| {}), None);
    }
}

#[test]
fn a_mask_that_lost_the_tcp_flags_is_caught() {
    let syn = FlagsMatch { set: 2, mask: 0x12 };
    let deny_syn = Match {
        protocol: Some(6),
        tcp_flags: Some(syn),
        ..Match::default()
    };
    let snapshot = two_ports(vec![(deny_syn, Action::Deny)]);
    let frames = tiny_universe();
    assert_eq!(unsound(&snapshot, &frames, |_| {}), None);
    let caught = unsound(&snapshot, &frames, |mask| mask.set(Field::TCP_FLAGS, 0));
    assert!(caught.is_some());
}

#[test]
fn a_mask_that_lost_the_fragment_bits_is_caught() {
    let deny_fragments = Match {
        fragment: Some(FragmentMatch::Any),
        ..Match::default()
    };
    let snapshot = two_ports(vec![(deny_fragments, Action::Deny)]);
    let frames = tiny_universe();
    assert_eq!(unsound(&snapshot, &frames, |_| {}), None);
    let fragment_bits = shape::FIRST_FRAGMENT | shape::LATER_FRAGMENT;
    let caught = unsound(&snapshot, &frames, |mask| {
        mask.set(Field::SHAPE, mask.get(Field::SHAPE) & !fragment_bits);
    });
    assert!(caught.is_some());
}

#[test]
fn frames_of_a_port_without_policy_share_nothing() {
    let snapshot = Snapshot::empty();
    assert_eq!(snapshot.epoch(), Epoch(0));
    let mask = snapshot.masks(PortId(9)).of(Class::Ipv4Tcp);
    assert_eq!(*mask, FlowKey([u64::MAX; 8]));
}
