//! Adjacencies: what a router needs to know to send a packet to a neighbour.
//!
//! In: a neighbour's Ethernet address and where it is. Out: a small number that a cached verdict
//! holds. What must hold: a number stands for one content until [`Adjacencies::clear`], and is good
//! only under the generation of the network that the neighbour is in, as of when it was last
//! resolved: so a neighbour that moves or changes its address voids what was decided before.

use hashbrown::HashMap;
use policy::{Mac, NetworkId, PortId};

use crate::{bridge::Generations, verdict::VlanTag};

/// Of the header of an untagged frame.
const ETHERNET_BYTES: u32 = 14;

/// The most of a worker.
const MOST: usize = 1 << 14;

/// A neighbour, and how packets are sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Adjacency {
    /// Its Ethernet address.
    pub to: Mac,
    /// The last router's.
    pub from: Mac,
    /// The network that it is in.
    pub network: NetworkId,
    /// Its port.
    pub port: PortId,
    /// The tag that its frames have there.
    pub tag: Option<VlanTag>,
    /// The longest packet that the way takes, in bytes.
    pub mtu: u16,
    /// How many routers of this switch a packet has passed then.
    pub hops: u8,
    /// Whether TCP is told to send segments that fit the MTU.
    pub clamp_mss: bool,
}

/// Which adjacency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdjacencyId(u16);

/// Aligned so that a number is a place by a shift.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
struct Row {
    adjacency: Adjacency,
    /// The longest frame that goes there without a tag, as it came, in bytes; 0 where frames have
    /// one.
    plain_bytes: u32,
    generation: u32,
}

/// One worker's adjacencies.
#[derive(Debug, Default)]
pub struct Adjacencies {
    rows: Vec<Row>,
    numbers: HashMap<Adjacency, u16>,
}

impl Adjacencies {
    /// Takes the memory, so that no frame has to.
    pub fn make_room(&mut self) {
        self.rows.reserve(MOST - self.rows.len());
        self.numbers.reserve(MOST - self.numbers.len());
    }

    /// Whether a burst of new ones might not find room.
    pub fn is_crowded(&self) -> bool {
        self.rows.len() + pmd::BURST > MOST
    }

    /// Forgets all. Nobody may hold a number then.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.numbers.clear();
    }

    /// The number of an adjacency that was resolved under `generation` of its network. `None`
    /// when there is no room.
    pub fn intern(&mut self, adjacency: Adjacency, generation: u32) -> Option<AdjacencyId> {
        if let Some(number) = self.numbers.get(&adjacency) {
            self.rows[usize::from(*number)].generation = generation;
            return Some(AdjacencyId(*number));
        }
        if self.rows.len() >= MOST {
            return None;
        }
        let number = self.rows.len() as u16;
        let plain_bytes = adjacency
            .tag
            .map_or(ETHERNET_BYTES + u32::from(adjacency.mtu), |_| 0);
        self.rows.push(Row {
            adjacency,
            plain_bytes,
            generation,
        });
        self.numbers.insert(adjacency, number);
        Some(AdjacencyId(number))
    }

    /// The adjacency of a number.
    #[inline]
    pub fn get(&self, id: AdjacencyId) -> Option<&Adjacency> {
        self.rows.get(usize::from(id.0)).map(|row| &row.adjacency)
    }

    /// The adjacency of a number, if the neighbour is still what and where it was.
    #[inline(always)]
    pub fn standing(&self, id: AdjacencyId, generations: &Generations) -> Option<&Adjacency> {
        self.standing_row(id, generations).map(|row| &row.adjacency)
    }

    /// The same, if a frame of so many bytes goes there whole and without a tag.
    #[inline(always)]
    pub fn standing_for(
        &self,
        id: AdjacencyId,
        generations: &Generations,
        bytes: usize,
    ) -> Option<&Adjacency> {
        let row = self.standing_row(id, generations)?;
        (bytes <= row.plain_bytes as usize).then_some(&row.adjacency)
    }

    #[inline(always)]
    fn standing_row(&self, id: AdjacencyId, generations: &Generations) -> Option<&Row> {
        let row = self.rows.get(usize::from(id.0))?;
        let stands = row.generation == generations.current(row.adjacency.network);
        stands.then_some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adjacency(last: u8) -> Adjacency {
        Adjacency {
            to: Mac([2, 0, 0, 0, 0, last]),
            from: Mac([2, 0, 0, 0, 1, 0]),
            network: NetworkId(3),
            port: PortId(1),
            tag: None,
            mtu: 1500,
            hops: 1,
            clamp_mss: false,
        }
    }

    #[test]
    fn equal_ones_are_one_and_stand_only_under_their_networks_generation() {
        let generations = Generations::default();
        let mut all = Adjacencies::default();
        all.make_room();
        let now = generations.current(NetworkId(3));
        let first = all.intern(adjacency(1), now).expect("room");
        let second = all.intern(adjacency(2), now).expect("room");
        assert_ne!(first, second);
        generations.advance(NetworkId(2));
        assert!(all.standing(first, &generations).is_some());
        generations.advance(NetworkId(3));
        assert!(all.standing(first, &generations).is_none());
        let now = generations.current(NetworkId(3));
        assert_eq!(all.intern(adjacency(1), now), Some(first));
        assert_eq!(all.standing(first, &generations), Some(&adjacency(1)));
        assert!(all.standing(second, &generations).is_none());
    }

    #[test]
    fn there_is_an_end_to_them() {
        let mut all = Adjacencies::default();
        let mut made = 0;
        while !all.is_crowded() {
            let more = Adjacency {
                mtu: made,
                ..adjacency(1)
            };
            assert!(all.intern(more, 0).is_some());
            made += 1;
        }
        assert_eq!(usize::from(made) + pmd::BURST, MOST + 1);
        all.clear();
        assert!(!all.is_crowded());
    }
}
