//! The front of the IPv4 tree: where prefixes are many, what the tree would answer for each /24,
//! one load away.
//!
//! In come the tree, when a prefix of it has changed, and an address; out goes what the tree would
//! answer for the address, or which part of the tree is to be asked.
//!
//! ```text
//!   address   6 bits ─► block   6 bits ─► room, its page   12 bits ─► number ─► palette ─► Target
//!                                                            8 bits ─► of a leaf ──▲
//! ```
//!
//! A long table lies in memory, not in the caches, and a lookup in the tree is two or three loads
//! from there, each of which waits for the one before. Here only the number in a page is that far
//! away: blocks take 84 kB at most, and routes lead to few places.
//!
//! What must hold: a number stands for a prefix of more than [`ROOM_BITS`] bits and at most
//! [`PAGE_BITS`]. Shorter ones are left to the first nodes of the tree, which caches hold, so a
//! change writes into one page at most, whatever it is. A /24 with longer ones in it has a leaf, if
//! there is one for it; else it is left to the whole tree, as what is more than [`LEAVES_A_CHANGE`]
//! of a change is. Versions share blocks and pages. Only a room with many prefixes has a page. Pages
//! come from a [`Pool`], which says what they take.

use std::{ops::Range, sync::Arc};

use hashbrown::HashMap;

use super::{
    build::Sorted,
    leaves::{FIRST_LEAF, LEAF_NUMBERS, Leaves},
    pages::{NUMBERS, Page, Pool},
    target::Target,
    tree::{ARC_BYTES, Alike, Node},
};

/// Prefixes in a room from which on it has a page; at half as many it goes.
const MIN_PREFIXES: u32 = 16;
/// Leading bits that addresses of a room have in common.
pub(super) const ROOM_BITS: u8 = 12;
/// Leading bits that addresses of a number have in common.
pub(super) const PAGE_BITS: u8 = 24;
/// Blocks, and rooms of each.
const FAN_OUT: usize = 1 << (ROOM_BITS / 2);
const _: () = assert!(NUMBERS == 1 << (PAGE_BITS - ROOM_BITS));
/// Most targets that have a number, because a change that adds one may copy them all. What leads
/// elsewhere is left to the tree.
const MAX_TARGETS: usize = 4096;

/// Most leaves that a change writes.
const LEAVES_A_CHANGE: usize = 16;
/// More bits than an address has, and a multiple of those that a node decides.
const ALL_BITS: u8 = 36;

/// The number where no prefix of a page is.
const SHORTER: u16 = 0;
/// The number of what is left to the tree.
const TREE: u16 = 1;
/// The number of the first target.
const FIRST: u16 = 2;
const _: () = assert!(FIRST as usize + MAX_TARGETS <= FIRST_LEAF as usize);

#[derive(Clone, Debug)]
pub(super) struct Front {
    blocks: Blocks,
    pool: Pool,
    leaves: Arc<Leaves>,
    palette: Arc<Palette>,
    /// Prefixes of all rooms.
    prefixes: u32,
}

/// Rooms that lie together, each all addresses that have [`ROOM_BITS`] in common.
#[derive(Clone, Debug)]
struct Block {
    pages: [Option<Page>; FAN_OUT],
    /// Prefixes in each room that are longer.
    prefixes: [u32; FAN_OUT],
}

/// Blocks where any address has a prefix that is longer than a room's.
type Blocks = Arc<[Option<Arc<Block>>; FAN_OUT]>;

/// Targets and their numbers. One that nothing leads to any more stays as long as there are others.
#[derive(Clone, Debug, Default)]
struct Palette {
    targets: Vec<Arc<Target>>,
    numbers: HashMap<Arc<Target>, u16>,
}

/// What an address leads to.
pub(super) enum Answer<'a> {
    Target(&'a Target),
    /// To what the longest prefix of at most [`ROOM_BITS`] does.
    Shorter,
    /// To what the tree says.
    Tree,
}

impl Default for Block {
    fn default() -> Self {
        Self {
            pages: [const { None }; FAN_OUT],
            prefixes: [0; FAN_OUT],
        }
    }
}

impl Default for Front {
    fn default() -> Self {
        Self {
            blocks: Arc::new([const { None }; FAN_OUT]),
            pool: Pool::default(),
            leaves: Arc::default(),
            palette: Arc::default(),
            prefixes: 0,
        }
    }
}

impl Front {
    /// Of all prefixes of a tree, in the order of addresses, then lengths.
    pub(super) fn new(prefixes: &[Sorted<u32>]) -> Self {
        let mut front = Self::default();
        let long = || prefixes.iter().filter(|(_, len, _)| *len > ROOM_BITS);
        for (bits, ..) in long() {
            let (block, room) = room_mut(&mut front.blocks, *bits);
            block.prefixes[room] += 1;
            front.prefixes += 1;
        }
        let blocks = front.blocks.iter().flatten();
        let rooms = blocks.flat_map(|block| block.prefixes);
        let pages = rooms.filter(|prefixes| *prefixes >= MIN_PREFIXES).count();
        if pages > 0 {
            // One more, for the first change.
            front.pool.reserve(pages + 1);
        }
        for (bits, len, entry) in long() {
            let number = front.number(entry.best());
            let pool = &front.pool;
            let (block, room) = room_mut(&mut front.blocks, *bits);
            if block.prefixes[room] < MIN_PREFIXES {
                continue;
            }
            let page = block.pages[room].get_or_insert_with(|| pool.filled(SHORTER));
            let places = range(*bits, *len);
            if *len <= PAGE_BITS {
                places.for_each(|place| page.set(place, number));
                continue;
            }
            // Shorter prefixes came before, so that what they lead to stands there.
            let leaves = Arc::make_mut(&mut front.leaves);
            let before = page.number(places.start);
            let mut leaf = Some(before).filter(|number| *number >= FIRST_LEAF);
            if leaf.is_none() {
                leaf = leaves.take(pool);
                page.set(places.start, leaf.unwrap_or(TREE));
                if let Some(leaf) = leaf {
                    leaves.write(pool, leaf, 0, [before; LEAF_NUMBERS].into_iter());
                }
            }
            if let Some(leaf) = leaf {
                let first = *bits as usize % LEAF_NUMBERS;
                let count = 1 << (u32::BITS as u8 - len);
                leaves.write(pool, leaf, first, std::iter::repeat_n(number, count));
            }
        }
        front
    }

    /// What an address leads to.
    #[inline]
    pub(super) fn lookup(&self, address: u32) -> Answer<'_> {
        let (block, room) = place(address);
        let page = self.blocks[block]
            .as_ref()
            .and_then(|block| block.pages[room].as_ref());
        let Some(page) = page else {
            return Answer::Tree;
        };
        let mut number = page.number((address >> (32 - PAGE_BITS)) as usize % NUMBERS);
        if number >= FIRST_LEAF {
            number = self.leaves.number(number, address as u8).unwrap_or(TREE);
        }
        match self
            .palette
            .targets
            .get(usize::from(number.wrapping_sub(FIRST)))
        {
            Some(target) => Answer::Target(target),
            None if number == SHORTER => Answer::Shorter,
            None => Answer::Tree,
        }
    }

    /// Follows a prefix of the tree that has changed; `was_there` and `is_there` say whether it had
    /// routes before, and whether it has now.
    pub(super) fn follow(
        &mut self,
        tree: &Node,
        (bits, len): (u32, u8),
        was_there: bool,
        is_there: bool,
    ) {
        if len <= ROOM_BITS {
            return;
        }
        self.prefixes = self.prefixes + u32::from(is_there) - u32::from(was_there);
        if self.prefixes == 0 {
            *self = Self::default();
            return;
        }
        let (block, room) = room_mut(&mut self.blocks, bits);
        let prefixes = block.prefixes[room] + u32::from(is_there) - u32::from(was_there);
        block.prefixes[room] = prefixes;
        let (mut page, written) = match block.pages[room].take() {
            Some(page) if prefixes < MIN_PREFIXES / 2 => return self.give_back(&page),
            Some(mut page) => {
                self.pool.own(&mut page);
                (page, range(bits, len))
            }
            None if prefixes < MIN_PREFIXES => return,
            None => (self.pool.filled(SHORTER), 0..NUMBERS),
        };
        let first = bits & !(u32::MAX >> ROOM_BITS);
        let mut leaves = 0;
        for place in written {
            let address = first | (place as u32) << (32 - PAGE_BITS);
            let leaf = Some(page.number(place)).filter(|number| *number >= FIRST_LEAF);
            let number = match tree.alike(address, ROOM_BITS, PAGE_BITS) {
                Alike::Entry(entry) => self.number(entry.best()),
                Alike::Shorter => SHORTER,
                Alike::Not if leaves < LEAVES_A_CHANGE => {
                    leaves += 1;
                    self.leaf(tree, address, leaf)
                }
                Alike::Not => TREE,
            };
            if let Some(leaf) = leaf.filter(|leaf| *leaf != number) {
                Arc::make_mut(&mut self.leaves).give_back(leaf);
            }
            page.set(place, number);
        }
        let (block, room) = room_mut(&mut self.blocks, bits);
        block.pages[room] = Some(page);
    }

    /// Writes the leaf of the /24 that begins at `first`: `known` if it has one, else another.
    /// [`TREE`] if there is none.
    fn leaf(&mut self, tree: &Node, first: u32, known: Option<u16>) -> u16 {
        let leaf = known.or_else(|| Arc::make_mut(&mut self.leaves).take(&self.pool));
        let Some(leaf) = leaf else {
            return TREE;
        };
        let mut numbers = [TREE; LEAF_NUMBERS];
        for (address, number) in (first..).zip(&mut numbers) {
            *number = match tree.alike(address, ROOM_BITS, ALL_BITS) {
                Alike::Entry(entry) => self.number(entry.best()),
                Alike::Shorter => SHORTER,
                Alike::Not => TREE,
            };
        }
        let leaves = Arc::make_mut(&mut self.leaves);
        leaves.write(&self.pool, leaf, 0, numbers.into_iter());
        leaf
    }

    /// Gives the leaves of a page back.
    fn give_back(&mut self, page: &Page) {
        let numbers = (0..NUMBERS).map(|place| page.number(place));
        let mut leaves = numbers.filter(|number| *number >= FIRST_LEAF).peekable();
        if leaves.peek().is_some() {
            let all = Arc::make_mut(&mut self.leaves);
            leaves.for_each(|leaf| all.give_back(leaf));
        }
    }

    /// The number of a target, [`TREE`] if it has none.
    fn number(&mut self, target: &Arc<Target>) -> u16 {
        if let Some(number) = self.palette.numbers.get(target) {
            return *number;
        }
        let known = self.palette.targets.len();
        if known == MAX_TARGETS {
            return TREE;
        }
        let palette = Arc::make_mut(&mut self.palette);
        let number = FIRST + known as u16;
        palette.targets.push(target.clone());
        palette.numbers.insert(target.clone(), number);
        number
    }

    /// Targets that it keeps alive.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.palette.targets.iter()
    }

    /// Bytes on the heap, targets left out.
    pub(super) fn heap_bytes(&self) -> usize {
        let blocks = self.blocks.iter().flatten();
        let palette = self.palette.targets.capacity() * size_of::<Arc<Target>>()
            + self.palette.numbers.allocation_size();
        3 * ARC_BYTES
            + size_of::<Leaves>()
            + self.leaves.heap_bytes()
            + size_of_val(&*self.blocks)
            + size_of::<Palette>()
            + palette
            + blocks.count() * (ARC_BYTES + size_of::<Block>())
            + self.pool.heap_bytes()
    }
}

/// The block that an address is in, and which room of it.
fn room_mut(blocks: &mut Blocks, address: u32) -> (&mut Block, usize) {
    let (block, room) = place(address);
    let block = Arc::make_mut(blocks)[block].get_or_insert_with(|| Arc::new(Block::default()));
    (Arc::make_mut(block), room)
}

/// The block and the room of an address.
#[inline]
fn place(address: u32) -> (usize, usize) {
    let room = (address >> (32 - ROOM_BITS)) as usize;
    (room / FAN_OUT, room % FAN_OUT)
}

/// Whose numbers a prefix of more than [`ROOM_BITS`] may change.
fn range(bits: u32, len: u8) -> Range<usize> {
    let first = (bits >> (32 - PAGE_BITS)) as usize % NUMBERS;
    first..first + (1 << PAGE_BITS.saturating_sub(len))
}
