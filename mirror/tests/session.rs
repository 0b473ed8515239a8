//! Sessions: who may have one, which frames it is about, and how many of them.

mod common;

use std::{num::NonZeroU32, sync::Arc};

use common::{carriers, tunnel, udp_frame, v4};
use mirror::{
    session::{
        Budget, Cut, Directions, Filter, FilterError, Limits, Purse, Rate, Role, Sampler, Sampling,
        Session, SessionError, Skip, Source, SourceFacts,
    },
    wire::{Oversize, TunnelError},
};
use policy::{
    FlowKey, PortId, RuleId,
    acl::LINEAR_MOST,
    key::Class,
    model::{Action, RateLimit},
    parse,
    reader::{Exact, Tracer},
    rule::{Direction, Origin, Rule, RuleList, Sets, WrittenRule},
};
use proptest::prelude::*;

const SECOND_NS: u64 = 1_000_000_000;

fn rules(texts: &[&str]) -> RuleList {
    let rules = texts.iter().enumerate().flat_map(|(place, text)| {
        let rule: WrittenRule = text.parse().expect("a rule");
        let origin = Arc::new(Origin {
            acl: "filter".into(),
            text: (*text).into(),
        });
        let (action, log, limit) = (rule.action, rule.log, rule.limit);
        rule.expand(&Sets::default())
            .into_iter()
            .map(move |matches| Rule {
                id: RuleId(place as u32),
                action,
                log,
                limit,
                matches,
                origin: Arc::clone(&origin),
            })
    });
    rules.collect()
}

fn a_session() -> Session {
    Session {
        name: "look".into(),
        owner: "blue".into(),
        source: Source::Vnic("vm1".into()),
        directions: Directions::Both,
        filter: RuleList::default(),
        rejected: false,
        truncate_bytes: None,
        sampling: Sampling::All,
        limits: Limits::default(),
        priority: 100,
        lease_until_s: None,
        tunnel: Some(tunnel(v4(), carriers(1)[1])),
    }
}

fn facts(tenant: &str, role: Role) -> SourceFacts {
    SourceFacts {
        tenant: tenant.into(),
        role,
    }
}

fn key(ports: (u16, u16)) -> FlowKey {
    let frame = udp_frame([10, 0, 0, 1], [10, 0, 0, 2], ports, 20);
    parse(&frame, frame.len(), None, PortId(1)).key
}

#[test]
fn only_the_owner_of_an_ordinary_source_gets_a_session() {
    let session = a_session();
    let ready = |facts: Option<&SourceFacts>| session.prepare(facts, None).map(|_| ());
    assert_eq!(ready(Some(&facts("blue", Role::Ordinary))), Ok(()));
    let source = session.source.clone();
    assert_eq!(ready(None), Err(SessionError::NoSource(source.clone())));
    assert_eq!(
        ready(Some(&facts("red", Role::Ordinary))),
        Err(SessionError::NotOwner {
            source_name: source.clone(),
            owner: "blue".into()
        })
    );
    assert_eq!(
        ready(Some(&facts("blue", Role::Sniffer))),
        Err(SessionError::SniffedSniffer(source.clone()))
    );
    assert_eq!(
        ready(Some(&facts("blue", Role::Tunnel))),
        Err(SessionError::TunnelPort(source))
    );
}

#[test]
fn what_would_mirror_nothing_or_half_is_refused() {
    let facts = facts("blue", Role::Ordinary);
    let with = |change: &dyn Fn(&mut Session)| {
        let mut session = a_session();
        change(&mut session);
        let error = session.prepare(Some(&facts), None).expect_err("refused");
        assert!(!error.to_string().is_empty());
        error
    };
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    assert_eq!(with(&|s| s.name = "".into()), SessionError::NoName);
    assert_eq!(
        with(&|s| s.truncate_bytes = Some(77)),
        SessionError::Truncate(77)
    );
    assert_eq!(
        with(&|s| s.limits.frames = rate(0, 1)),
        SessionError::NoBudget
    );
    assert_eq!(
        with(&|s| s.limits.bits = rate(1, 0)),
        SessionError::NoBudget
    );
    let least = (1500 + 50) * 8;
    assert_eq!(
        with(&|s| s.limits.bits = rate(1_000_000, 8000)),
        SessionError::Burst { burst: 8000, least }
    );
    assert_eq!(
        with(&|s| s.tunnel.as_mut().expect("one").ttl = 0),
        SessionError::Tunnel(TunnelError::Ttl)
    );
    let filter = |texts: &[&str], position, error| {
        let expected = SessionError::Filter { position, error };
        assert_eq!(with(&|s| s.filter = rules(texts)), expected);
    };
    filter(
        &["allow udp", "reject tcp"],
        2,
        FilterError::Action(Action::Reject),
    );
    let mut stateful = rules(&["allow udp"]).get(0).expect("a rule").clone();
    stateful.action = Action::AllowStateful;
    let stateful = Filter::new(&RuleList::from([stateful])).expect_err("refused");
    assert_eq!(stateful, (1, FilterError::Action(Action::AllowStateful)));
    let mut limited = rules(&["allow udp"]).get(0).expect("a rule").clone();
    limited.limit = Some(RateLimit {
        per_second: 1,
        burst: 1,
    });
    let limited = Filter::new(&RuleList::from([limited])).expect_err("refused");
    assert_eq!(limited, (1, FilterError::Limit));
    let mut logged = rules(&["allow udp"]).get(0).expect("a rule").clone();
    logged.log = true;
    let logged = Filter::new(&RuleList::from([logged])).expect_err("refused");
    assert_eq!(logged, (1, FilterError::Log));
}

#[test]
fn a_session_wants_its_direction_its_verdicts_and_its_filters_frames() {
    let facts = facts("blue", Role::Ordinary);
    let mut session = a_session();
    session.filter = rules(&["deny udp to any port 53", "allow udp"]);
    session.directions = Directions::In;
    let ready = session.prepare(Some(&facts), None).expect("ready");
    let wants =
        |ports, direction, accepted| ready.wants(&mut Exact(&key(ports)), direction, accepted);
    assert!(wants((1, 80), Direction::In, true));
    assert!(!wants((1, 53), Direction::In, true));
    assert!(!wants((1, 80), Direction::Out, true));
    assert!(!wants((1, 80), Direction::In, false));
    // No rule matches.
    let arp = FlowKey::default();
    assert!(!ready.wants(&mut Exact(&arp), Direction::In, true));

    session.rejected = true;
    session.filter = RuleList::default();
    let ready = session.prepare(Some(&facts), None).expect("ready");
    assert!(ready.wants(&mut Exact(&arp), Direction::In, false));

    session.lease_until_s = Some(100);
    let ready = session.prepare(Some(&facts), None).expect("ready");
    assert!(!ready.is_over(99) && ready.is_over(100));
}

#[test]
fn what_a_filter_reads_is_in_the_footprint() {
    let many: Vec<String> = (0..=LINEAR_MOST)
        .map(|port| format!("allow udp to any port {}", 1000 + port))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for texts in [&["deny udp to any port 53", "allow udp"][..], &many] {
        let filter = Filter::new(&rules(texts)).expect("a filter");
        let mut tracer = Tracer::new(Class::Ipv4Udp);
        filter.selects(&mut tracer);
        for port in [53, 54, 1000, 1050, 2000] {
            let key = key((1, port));
            let masked = &key & &tracer.mask;
            let same = filter.selects(&mut Exact(&masked));
            assert_eq!(same, filter.selects(&mut Exact(&key)), "port {port}");
        }
    }
}

#[test]
fn copies_are_cut_as_the_session_and_the_mtu_say() {
    let facts = facts("blue", Role::Ordinary);
    let ready = |truncate_bytes, oversize| {
        let mut session = a_session();
        session.truncate_bytes = truncate_bytes;
        session.tunnel.as_mut().expect("one").oversize = oversize;
        session.prepare(Some(&facts), None).expect("ready")
    };
    let cut = |len, truncated, fragments| {
        Ok(Cut {
            len,
            truncated,
            fragments,
        })
    };
    // Outer IP, GRE and ERSPAN take 36 of 1500.
    let whole = ready(None, Oversize::Truncate);
    assert_eq!(whole.cut(1464), cut(1464, false, false));
    assert_eq!(whole.cut(1465), cut(1464, true, false));
    assert_eq!(
        ready(None, Oversize::Fragment).cut(1465),
        cut(1465, false, true)
    );
    assert_eq!(ready(None, Oversize::Count).cut(1465), Err(Skip::TooLong));
    let first = ready(Some(128), Oversize::Count);
    assert_eq!(first.cut(128), cut(128, false, false));
    assert_eq!(first.cut(9000), cut(128, true, false));
}

#[test]
fn a_budget_goes_on_when_it_stays_the_same() {
    let facts = facts("blue", Role::Ordinary);
    let mut session = a_session();
    session.limits.frames = Some(Rate {
        per_second: 10,
        burst: 10,
    });
    let first = session.prepare(Some(&facts), None).expect("ready");
    session.priority = 1;
    let second = session.prepare(Some(&facts), Some(&first)).expect("ready");
    assert!(Arc::ptr_eq(&first.budget, &second.budget));
    session.limits.frames = Some(Rate {
        per_second: 11,
        burst: 10,
    });
    let third = session.prepare(Some(&facts), Some(&second)).expect("ready");
    assert!(!Arc::ptr_eq(&first.budget, &third.budget));
}

/// How many copies of `len` bytes each of some workers may send, asked in turns at one time.
fn paid(budget: &Budget, purses: &mut [Purse], len: u32, now_ns: u64) -> u64 {
    let mut paid = 0;
    loop {
        let more = purses
            .iter_mut()
            .map(|purse| u64::from(purse.pay(budget, len, now_ns)));
        match more.sum::<u64>() {
            0 => return paid,
            more => paid += more,
        }
        if paid > 1 << 20 {
            return paid;
        }
    }
}

proptest! {
    #[test]
    fn a_budget_is_given_and_not_exceeded(
        per_second in 1u64..10_000_000, burst in 1u64..5000, workers in 1usize..4, step_ns in 1u64..SECOND_NS,
    ) {
        let frames = Some(Rate { per_second, burst });
        let budget = Budget::new(Limits { frames, bits: None });
        let mut purses = vec![Purse::default(); workers];
        let start = 7 * SECOND_NS;
        prop_assert_eq!(paid(&budget, &mut purses, 1000, start), burst);
        let (mut all, mut now) = (burst, start);
        for _ in 0..20 {
            now += step_ns;
            all += paid(&budget, &mut purses, 1000, now);
            let refilled = u128::from(per_second) * u128::from(now - start) / u128::from(SECOND_NS);
            prop_assert!(u128::from(all) <= u128::from(burst) + refilled + 1);
        }
        // After a pause the bucket is full again, and whatever a purse kept stays with it.
        let again = paid(&budget, &mut purses, 1000, now + 20_000 * SECOND_NS);
        prop_assert_eq!(again, burst);
    }

    #[test]
    fn bits_are_counted_by_length(len in 60u32..1500, copies in 1u64..2000) {
        let burst = (copies * u64::from(len) * 8).max(12_000);
        let bits = Some(Rate { per_second: 1000, burst });
        let budget = Budget::new(Limits { frames: None, bits });
        let paid = paid(&budget, &mut [Purse::default()], len, SECOND_NS);
        prop_assert_eq!(paid, burst / (u64::from(len) * 8));
    }

    #[test]
    fn what_one_bucket_refuses_the_other_keeps(frames in 1u64..100, bits in 1u64..100) {
        let limits = Limits {
            frames: Some(Rate { per_second: 1, burst: frames }),
            bits: Some(Rate { per_second: 1, burst: bits * 8000 }),
        };
        let budget = Budget::new(limits);
        let paid = paid(&budget, &mut [Purse::default()], 1000, SECOND_NS);
        prop_assert_eq!(paid, frames.min(bits));
    }
}

#[test]
fn no_budget_is_no_limit() {
    let budget = Budget::new(Limits::default());
    let paid = paid(&budget, &mut [Purse::default()], u32::MAX, 0);
    assert!(paid > 1 << 20);
}

fn one_in(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not zero")
}

#[test]
fn one_frame_in_n_is_taken_at_no_fixed_distance() {
    for n in [1, 2, 10, 1000] {
        let mut sampler = Sampler::new(5);
        let frames = 2000 * n;
        let mut distances = Vec::new();
        let mut last = 0;
        for at in 0..frames {
            if sampler.takes(Sampling::Frames(one_in(n)), &FlowKey::default(), 0) {
                distances.push(at - std::mem::replace(&mut last, at));
            }
        }
        let taken = distances.len() as u32;
        assert!((1900..=2100).contains(&taken), "{taken} of {frames}");
        distances.sort_unstable();
        distances.dedup();
        assert!(n == 1 || distances.len() > 1);
    }
    let mut sampler = Sampler::new(5);
    assert!((0..100).all(|_| sampler.takes(Sampling::All, &FlowKey::default(), 0)));
}

#[test]
fn all_of_one_flow_in_n_is_taken_on_every_worker() {
    let sampling = Sampling::Flows(one_in(10));
    let mut workers = [Sampler::new(1), Sampler::new(2)];
    let mut taken = 0;
    for port in 0..10_000 {
        let there = key((port, 53));
        let back = udp_frame([10, 0, 0, 2], [10, 0, 0, 1], (53, port), 99);
        let back = parse(&back, back.len(), None, PortId(2)).key;
        let first = workers[0].takes(sampling, &there, 3);
        for key in [&there, &back] {
            for worker in &mut workers {
                assert_eq!(worker.takes(sampling, key, 3), first);
            }
        }
        taken += u32::from(first);
    }
    assert!((850..1150).contains(&taken), "{taken} of 10,000");
}
