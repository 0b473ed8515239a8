//! A route table that is plainly right, and routes that meet each other often.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU8,
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy::{
    InterfaceId,
    route::{NextHop, Origin, Route, RouteTable, Target},
};
use proptest::prelude::*;

/// Every route, in the order that they were put in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle(pub(crate) Vec<Route>);

/// What a lookup says, without the order of next hops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Via(BTreeSet<NextHop>),
    Other(Target),
}

impl Answer {
    pub(crate) fn of(target: &Target) -> Self {
        match target {
            Target::Via(hops) => Self::Via(hops.iter().copied().collect()),
            other => Self::Other(other.clone()),
        }
    }
}

impl Oracle {
    /// The prefix and what is followed.
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<(IpNet, Answer)> {
        let covering = self
            .0
            .iter()
            .filter(|route| route.prefix.contains(&address));
        let prefix = covering
            .map(|route| route.prefix)
            .max_by_key(IpNet::prefix_len)?;
        let here = || self.0.iter().filter(|route| route.prefix == prefix);
        let metric = here().map(|route| route.metric).min()?;
        let best = || {
            here()
                .filter(|route| route.metric == metric)
                .map(|route| &*route.target)
        };
        let connected =
            |target: &&Target| matches!(target, Target::Connected { .. } | Target::Host { .. });
        let answer = if let Some(first) = best().filter(connected).min() {
            Answer::Other(first.clone())
        } else if best().any(|target| target.next_hops().is_some()) {
            // What stands in several routes has its largest weight: those come last.
            let mut hops: Vec<_> = best()
                .filter_map(Target::next_hops)
                .flat_map(policy::route::NextHops::iter)
                .collect();
            hops.sort();
            let mut all = BTreeSet::new();
            for hop in hops {
                all.retain(|other: &NextHop| {
                    (other.address, other.interface) != (hop.address, hop.interface)
                });
                all.insert(*hop);
            }
            Answer::Via(all)
        } else if best().any(|target| *target == Target::Reject) {
            Answer::Other(Target::Reject)
        } else {
            Answer::Other(Target::Blackhole)
        };
        Some((prefix, answer))
    }
}

pub(crate) fn lookup(table: &RouteTable, address: IpAddr) -> Option<&Target> {
    match address {
        IpAddr::V4(address) => table.lookup_v4(address),
        IpAddr::V6(address) => table.lookup_v6(address),
    }
}

/// Addresses with few different bits, at all depths: prefixes of them are nested or the same.
pub(crate) fn address() -> BoxedStrategy<IpAddr> {
    let word = prop_oneof![
        Just(0_u16),
        Just(0xffff),
        Just(0x8000),
        Just(1),
        any::<u16>()
    ];
    let v4 = proptest::array::uniform2(word.clone()).prop_map(|[high, low]| {
        IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    });
    let v6 = proptest::array::uniform8(word).prop_map(|words| IpAddr::V6(Ipv6Addr::from(words)));
    // Boxed, or the stack is too small for what they are together.
    prop_oneof![v4, v6].boxed()
}

pub(crate) fn prefix() -> impl Strategy<Value = IpNet> {
    let len = prop_oneof![
        1 => Just(0_u8),
        1 => Just(128),
        6 => 0..=128_u8,
    ];
    (address(), len).prop_map(|(address, len)| match address {
        IpAddr::V4(address) => IpNet::V4(Ipv4Net::new_assert(address, len.min(127) % 33).trunc()),
        IpAddr::V6(address) => IpNet::V6(Ipv6Net::new_assert(address, len).trunc()),
    })
}

pub(crate) fn hop(ipv4: bool, number: u8, weight: u8) -> NextHop {
    let address = if ipv4 {
        IpAddr::from([10, 0, 0, number])
    } else {
        IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, u16::from(number)])
    };
    NextHop {
        address,
        interface: InterfaceId(u16::from(number) % 3),
        weight: NonZeroU8::new(weight).expect("a weight"),
    }
}

fn target(prefix: IpNet) -> impl Strategy<Value = Target> {
    let ipv4 = matches!(prefix, IpNet::V4(_));
    let host = prefix.prefix_len() == prefix.max_prefix_len();
    let via = proptest::collection::btree_map(1..6_u8, 1..3_u8, 1..4);
    let via = via.prop_map(move |hops| {
        Target::via(
            hops.into_iter()
                .map(|(number, weight)| hop(ipv4, number, weight)),
        )
        .expect("good next hops")
    });
    let interface = (0..3_u16).prop_map(InterfaceId);
    let attached = interface.prop_map(move |interface| {
        if host {
            Target::Host { interface }
        } else {
            Target::Connected { interface }
        }
    });
    prop_oneof![3 => via, 1 => attached, 1 => Just(Target::Reject), 1 => Just(Target::Blackhole)]
}

pub(crate) fn route() -> BoxedStrategy<Route> {
    route_to(prefix())
}

/// In the /12 where most others are, too; every other one in one of four /24s.
pub(crate) fn crowded_route() -> BoxedStrategy<Route> {
    let bits = prop_oneof![0..1_u32 << 20, 0..1_u32 << 10];
    let prefix = (bits, 13..=32_u8)
        .prop_map(|(bits, len)| IpNet::V4(Ipv4Net::new_assert(bits.into(), len).trunc()));
    route_to(prefix)
}

fn route_to(prefix: impl Strategy<Value = IpNet> + 'static) -> BoxedStrategy<Route> {
    let origin = prop_oneof![Just(Origin::Network), Just(Origin::Api)];
    let rest = prefix.prop_flat_map(|prefix| (Just(prefix), target(prefix)));
    (rest, 0..3_u32, origin)
        .prop_map(|((prefix, target), metric, origin)| Route {
            prefix,
            metric,
            origin,
            target: Arc::new(target),
        })
        .boxed()
}
