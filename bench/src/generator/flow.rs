//! Which flows: a space of (destination, destination port, source port), numbered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{popularity::Weighted, random::Random};

/// What tells one flow from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// IP source.
    pub src: IpAddr,
    /// IP destination, of the same family.
    pub dst: IpAddr,
    /// UDP or TCP source port.
    pub src_port: u16,
    /// UDP or TCP destination port.
    pub dst_port: u16,
}

/// Numbered flows: the destination port varies first, then the destination address, then the
/// source port. Every number below [`FlowSpace::len`] is another flow.
#[derive(Clone, Copy, Debug)]
pub struct FlowSpace {
    /// Flow 0.
    pub first: Flow,
    /// How many destination ports, upwards from the first.
    pub dst_ports: u16,
    /// How many destination addresses, upwards from the first.
    pub dst_hosts: u32,
    /// How many source ports, upwards from the first.
    pub src_ports: u16,
}

impl FlowSpace {
    /// How many flows there are.
    #[allow(
        clippy::len_without_is_empty,
        reason = "a space that varies nothing still has one flow"
    )]
    pub fn len(&self) -> u64 {
        let span = |count: u16| u64::from(count.max(1));
        span(self.dst_ports) * u64::from(self.dst_hosts.max(1)) * span(self.src_ports)
    }

    /// Flow number `index`, modulo [`FlowSpace::len`].
    #[inline]
    pub fn flow(&self, index: u64) -> Flow {
        let (ports, hosts) = (
            u64::from(self.dst_ports.max(1)),
            u64::from(self.dst_hosts.max(1)),
        );
        let (port, rest) = (index % ports, index / ports);
        let (host, rest) = (rest % hosts, rest / hosts);
        let source = rest % u64::from(self.src_ports.max(1));
        Flow {
            dst: advance(self.first.dst, host as u32),
            dst_port: self.first.dst_port.wrapping_add(port as u16),
            src_port: self.first.src_port.wrapping_add(source as u16),
            ..self.first
        }
    }
}

/// The flows of a load, by number.
#[derive(Clone, Debug)]
pub enum Flows {
    /// Of a space.
    Space(FlowSpace),
    /// One by one; at least one.
    Listed(Box<[Flow]>),
}

impl Flows {
    /// Flow number `index`, modulo their number.
    #[inline]
    pub fn flow(&self, index: u64) -> Flow {
        match self {
            Self::Space(space) => space.flow(index),
            Self::Listed(flows) => flows[(index % flows.len() as u64) as usize],
        }
    }
}

/// In which order flows send.
#[derive(Clone, Debug)]
pub enum Order {
    /// One after the other; holds the next.
    RoundRobin(u64),
    /// Each frame of any flow, equally likely.
    Uniform(Random),
    /// Each frame of any flow, some more likely than others.
    Weighted(Weighted),
    /// As listed, over and over: a flow and a template for each frame; holds the next.
    Recorded(Box<[(u32, u32)]>, usize),
}

impl Order {
    /// The next of `flows` flows.
    #[inline]
    pub fn next_of(&mut self, flows: u64) -> u64 {
        match self {
            Self::RoundRobin(next) => {
                let flow = *next % flows;
                *next = flow + 1;
                flow
            }
            Self::Uniform(random) => random.below(flows),
            Self::Weighted(weighted) => u64::from(weighted.draw()) % flows,
            Self::Recorded(..) => self.next_recorded().map_or(0, |(flow, _)| flow.into()),
        }
    }

    /// The next flow and template, where both are listed.
    #[inline]
    pub fn next_recorded(&mut self) -> Option<(u32, u32)> {
        let Self::Recorded(frames, next) = self else {
            return None;
        };
        let frame = frames.get(*next).copied();
        *next = if *next + 1 >= frames.len() {
            0
        } else {
            *next + 1
        };
        frame
    }
}

fn advance(address: IpAddr, steps: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_add(steps)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).wrapping_add(u128::from(steps))).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_number_is_another_flow() {
        let space = FlowSpace {
            first: Flow {
                src: Ipv4Addr::new(10, 1, 0, 1).into(),
                dst: Ipv4Addr::new(10, 2, 0, 0).into(),
                src_port: 1000,
                dst_port: 2000,
            },
            dst_ports: 7,
            dst_hosts: 300,
            src_ports: 3,
        };
        let flows: HashSet<Flow> = (0..space.len()).map(|i| space.flow(i)).collect();
        assert_eq!(flows.len(), 7 * 300 * 3);
        assert_eq!(space.flow(0), space.first);
        assert_eq!(space.flow(space.len()), space.first);
    }
}
