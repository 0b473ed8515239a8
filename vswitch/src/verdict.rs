//! What the slow path decided for a key, in the form in which the flow cache keeps it.

use policy::{DropReason, PortId, VlanId};

use crate::{
    adjacency::AdjacencyId, drop_ledger::LedgerSlot, meter::MeterSlot, rule_ledger::RuleSlot,
    storm::FloodKind,
};

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Dropped in the ingress port's account.
    Drop(Denied),
    /// Sent on to one port.
    Unicast(Destination),
    /// Sent on to each destination of a list.
    Flood(FloodKind, ListId),
    /// Sent on to one port by a router, to the neighbour that the adjacency says.
    Routed(Destination, AdjacencyId),
    /// The switch takes it itself.
    Taken(Purpose),
}

/// What the switch takes a frame for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is for a router itself.
    Router,
    /// It waits until the address of its next hop is known.
    Neighbor,
    /// It asks a service of the network.
    Service,
}

impl Verdict {
    /// Whether nobody gets the frame.
    pub fn denies(&self) -> bool {
        match self {
            Self::Drop(_) => true,
            Self::Unicast(to) | Self::Routed(to, _) => to.denied.is_some(),
            Self::Flood(..) | Self::Taken(_) => false,
        }
    }

    /// The verdict of an entry that was never filled.
    pub const NOTHING: Self = Self::Drop(Denied {
        reason: DropReason::NoPolicy,
        row: LedgerSlot::NOT_ITEMISED,
    });
}

impl Verdict {
    /// The one port that it is sent on to, if that is what becomes of the frame.
    #[inline]
    pub fn destination(&self) -> Option<Destination> {
        match self {
            Self::Unicast(to) | Self::Routed(to, _) => Some(*to),
            Self::Drop(_) | Self::Flood(..) | Self::Taken(_) => None,
        }
    }
}

/// A port to send to, and how the frame leaves there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Where.
    pub port: PortId,
    /// The tag it leaves with; `None` leaves untagged.
    pub tag: Option<VlanTag>,
    /// Set when the receiving vNIC's policy denies it: it is dropped in that port's account.
    pub denied: Option<Denied>,
    /// The rule of the receiving vNIC that let it pass, unless that has a limit.
    pub allowed: RuleSlot,
    /// The limit of that rule: each frame takes a token, or is dropped.
    pub meter: Option<MeterSlot>,
}

impl Destination {
    /// Whether the receiving vNIC's policy denies it and has the sender told so.
    pub fn is_rejected(&self) -> bool {
        self.denied
            .is_some_and(|denied| denied.reason == DropReason::RejectIn)
    }
}

/// A drop, with its row in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Why.
    pub reason: DropReason,
    /// The row that counts it by rule.
    pub row: LedgerSlot,
}

/// A VLAN identifier that takes two bytes in an `Option` too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VlanTag(std::num::NonZeroU16);

impl VlanTag {
    /// The identifier.
    #[inline]
    pub fn get(self) -> u16 {
        self.0.get()
    }

    /// The same, as policy calls it.
    pub fn id(self) -> Option<VlanId> {
        VlanId::new(self.get())
    }
}

impl From<VlanId> for VlanTag {
    fn from(vlan: VlanId) -> Self {
        // A VlanId is from 1 to 4094.
        Self(std::num::NonZeroU16::new(vlan.get()).unwrap_or(std::num::NonZeroU16::MIN))
    }
}

/// A list of destinations in a [`DestinationLog`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListId {
    /// The low half of a position, then the high one: a verdict that was aligned to 8 bytes would
    /// take 24.
    start: [u32; 2],
    len: u32,
}

impl ListId {
    #[inline]
    fn start(self) -> u64 {
        let [low, high] = self.start;
        u64::from(high) << 32 | u64::from(low)
    }
}

/// Where lists of destinations live: a ring that is only appended to. A list is good until the
/// ring has gone once round; whoever holds a list that is no longer good resolves again.
#[derive(Debug)]
pub struct DestinationLog {
    ring: Vec<Destination>,
    head: u64,
    /// The list being written began here.
    open: u64,
}

impl DestinationLog {
    /// A log for lists of at most `longest` destinations.
    ///
    /// A list that is good when a burst begins stays so until it ends: the second half of the
    /// ring takes what a burst can append.
    pub fn new(longest: usize) -> Self {
        let half = (pmd::BURST * longest.max(1) * 2).next_power_of_two();
        let nobody = Destination {
            port: PortId(u16::MAX),
            tag: None,
            denied: None,
            allowed: RuleSlot::NONE,
            meter: None,
        };
        Self {
            ring: vec![nobody; 2 * half],
            head: 0,
            open: 0,
        }
    }

    /// True when lists of `longest` destinations fit.
    pub fn holds(&self, longest: usize) -> bool {
        pmd::BURST * longest.max(1) * 4 <= self.ring.len()
    }

    /// Begins a list of at most `longest` destinations, which will lie in one piece.
    pub fn begin(&mut self, longest: usize) {
        let size = self.ring.len() as u64;
        let offset = self.head % size;
        if offset + longest as u64 > size {
            self.head += size - offset;
        }
        self.open = self.head;
    }

    /// Appends to the list that was begun.
    pub fn push(&mut self, destination: Destination) {
        let size = self.ring.len() as u64;
        self.ring[(self.head % size) as usize] = destination;
        self.head += 1;
    }

    /// Ends the list.
    pub fn finish(&mut self) -> ListId {
        ListId {
            start: [self.open as u32, (self.open >> 32) as u32],
            len: (self.head - self.open) as u32,
        }
    }

    /// Whether the list will be good to the end of this burst.
    #[inline]
    pub fn is_good(&self, list: ListId) -> bool {
        self.head - list.start() <= self.ring.len() as u64 / 2
    }

    /// The list's destinations.
    #[inline]
    pub fn get(&self, list: ListId) -> &[Destination] {
        let start = (list.start() % self.ring.len() as u64) as usize;
        &self.ring[start..start + list.len as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(port: u16) -> Destination {
        Destination {
            port: PortId(port),
            tag: None,
            denied: None,
            allowed: RuleSlot::NONE,
            meter: None,
        }
    }

    #[test]
    fn lists_stay_whole_for_half_a_ring_and_are_then_refused() {
        let mut log = DestinationLog::new(3);
        let mut lists = Vec::new();
        for round in 0..2000u16 {
            log.begin(3);
            (0..=round % 3).for_each(|i| log.push(to(round.wrapping_mul(7) + i)));
            lists.push((round, log.finish()));
            for (round, list) in lists.iter().rev() {
                if !log.is_good(*list) {
                    break;
                }
                let expected: Vec<_> = (0..=round % 3)
                    .map(|i| to(round.wrapping_mul(7) + i))
                    .collect();
                assert_eq!(log.get(*list), expected);
            }
        }
        assert!(!log.is_good(lists[0].1));
    }

    #[test]
    fn a_list_good_at_a_bursts_beginning_survives_it() {
        let longest = 5;
        let mut log = DestinationLog::new(longest);
        log.begin(longest);
        log.push(to(1));
        let list = log.finish();
        while log.is_good(list) {
            log.begin(longest);
            (0..longest).for_each(|_| log.push(to(2)));
            // Whatever one more burst appends, the list is not written over.
            let mut later = DestinationLog {
                ring: log.ring.clone(),
                ..log
            };
            if later.is_good(list) {
                for _ in 0..pmd::BURST {
                    later.begin(longest);
                    (0..longest).for_each(|_| later.push(to(3)));
                }
                assert_eq!(later.get(list), [to(1)]);
            }
        }
    }

    #[test]
    fn a_verdict_is_small() {
        assert_eq!(size_of::<Destination>(), 12);
        assert!(size_of::<Verdict>() <= 16);
    }
}
