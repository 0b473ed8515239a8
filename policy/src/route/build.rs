//! A table of many routes at once: sorted, then each node made whole, once.

use std::sync::Arc;

use hashbrown::HashSet;

use super::{
    Route, RouteError,
    bits::{Bits, STRIDE},
    entry::{Candidate, Entry},
    family::{Counts, Family},
    target::Target,
    tree::{Alone, Child, Node, number},
};

/// Routes of one family that shall become a tree.
pub(super) struct Builder<B> {
    routes: Vec<(B, u8, Candidate)>,
}

/// What a tree is made of, in the order of addresses, then lengths.
pub(super) type Sorted<B> = (B, u8, Entry);

impl<B> Default for Builder<B> {
    fn default() -> Self {
        Self { routes: Vec::new() }
    }
}

/// Makes equal targets one.
#[derive(Default)]
pub(super) struct Targets(HashSet<Arc<Target>>);

impl Targets {
    pub(super) fn shared(&mut self, target: Arc<Target>) -> Arc<Target> {
        self.0.get_or_insert(target).clone()
    }
}

impl<B: Bits> Builder<B> {
    /// Takes a route whose prefix was checked.
    pub(super) fn add(&mut self, bits: B, len: u8, candidate: Candidate) {
        self.routes.push((bits, len, candidate));
    }

    /// The tree of all that was added, and what it was made of.
    pub(super) fn build(mut self) -> Result<(Family, Vec<Sorted<B>>), RouteError> {
        self.routes.sort_by_key(|(bits, len, _)| (*bits, *len));
        let mut family = Family::default();
        let mut entries = Vec::with_capacity(self.routes.len());
        let mut routes = self.routes.into_iter().peekable();
        while let Some((bits, len, candidate)) = routes.next() {
            let mut candidates = vec![candidate];
            while let Some((_, _, more)) = routes.next_if(|next| (next.0, next.1) == (bits, len)) {
                if candidates.contains(&more) {
                    let route = Route::new(bits.net(len), more);
                    return Err(RouteError::Duplicate(Box::new(route)));
                }
                candidates.push(more);
            }
            let entry = Entry::new(candidates)?;
            family.count(len, Counts::default(), Counts::of(entry.as_ref()));
            entries.extend(entry.map(|entry| (bits, len, entry)));
        }
        family.root = node(&entries, 0);
        Ok((family, entries))
    }
}

/// The node `depth` bits down of all these entries, which begin alike.
fn node<B: Bits>(entries: &[Sorted<B>], depth: u8) -> Node {
    let (mut numbered, mut children) = (Vec::new(), Vec::new());
    let mut node = Node::default();
    let mut left = entries;
    while let [(bits, len, entry), behind @ ..] = left {
        let slot = bits.after(depth).slot();
        if *len <= depth + STRIDE {
            let number = number(slot, len - depth);
            node.numbers[number / 64] |= 1 << (number % 64);
            numbered.push((number, entry.clone()));
            left = behind;
            continue;
        }
        let below = depth + STRIDE;
        let like = |other: &&Sorted<B>| other.0.first(below) == bits.first(below);
        let (together, behind) = left.split_at(left.iter().take_while(like).count());
        node.parents |= 1 << slot;
        children.push(match together {
            [_] => Child::Alone(Alone::new(bits.after(below), len - below, entry.clone())),
            _ => Child::Node(self::node(together, below)),
        });
        left = behind;
    }
    numbered.sort_unstable_by_key(|(number, _)| *number);
    node.entries = numbered.into_iter().map(|(_, entry)| entry).collect();
    node.children = children.into();
    node
}
