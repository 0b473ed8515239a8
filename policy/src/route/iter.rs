//! All routes in order.

use std::slice;

use super::{
    Route,
    bits::{Bits, STRIDE},
    entry::Candidate,
    tree::{Child, Node},
};

/// Routes of a tree by address, then prefix length, then best first.
#[derive(Clone, Debug)]
pub(super) struct Routes<'a, B> {
    /// What is still to be visited, the next last.
    pending: Vec<Pending<'a, B>>,
}

#[derive(Clone, Debug)]
enum Pending<'a, B> {
    /// A node, the address that it begins at, and its depth in bits.
    Node(&'a Node, B, u8),
    /// Routes of a prefix.
    Prefix(slice::Iter<'a, Candidate>, B, u8),
}

impl<'a, B: Bits + Default> Routes<'a, B> {
    pub(super) fn new(root: &'a Node) -> Self {
        Self {
            pending: vec![Pending::Node(root, B::default(), 0)],
        }
    }
}

impl<B: Bits> Iterator for Routes<'_, B> {
    type Item = Route;

    fn next(&mut self) -> Option<Route> {
        loop {
            match self.pending.pop()? {
                Pending::Node(node, bits, depth) => self.visit(node, bits, depth),
                Pending::Prefix(mut candidates, bits, len) => {
                    if let Some(candidate) = candidates.next() {
                        self.pending.push(Pending::Prefix(candidates, bits, len));
                        return Some(Route::new(bits.net(len), candidate.clone()));
                    }
                }
            }
        }
    }
}

impl<'a, B: Bits> Routes<'a, B> {
    fn visit(&mut self, node: &'a Node, bits: B, depth: u8) {
        let first = self.pending.len();
        let numbers = ones(node.numbers[0]).chain(ones(node.numbers[1]).map(|slot| 64 + slot));
        let entries = numbers.zip(&*node.entries).map(|(number, entry)| {
            let len = number.ilog2() as u8;
            let slot = (number - (1 << len)) << (STRIDE - len);
            let bits = bits.with(slot, depth);
            Pending::Prefix(entry.candidates().iter(), bits, depth + len)
        });
        let children = ones(node.parents).zip(&*node.children);
        let children = children.map(|(slot, child)| {
            let (bits, depth) = (bits.with(slot, depth), depth + STRIDE);
            match child {
                Child::Node(child) => Pending::Node(child, bits, depth),
                Child::Alone(alone) => {
                    let bits = bits.joined(alone.bits(), depth);
                    Pending::Prefix(alone.entry.candidates().iter(), bits, depth + alone.len)
                }
            }
        });
        self.pending.extend(entries.chain(children));
        // A child's prefixes are longer than those of its node, so it sorts as one that is longer.
        self.pending[first..].sort_by_key(|pending| {
            let (bits, depth, is_node) = match pending {
                Pending::Node(_, bits, depth) => (bits, depth, true),
                Pending::Prefix(_, bits, len) => (bits, len, false),
            };
            std::cmp::Reverse((*bits, *depth, is_node))
        });
    }
}

/// The bits that are set, the lowest first.
fn ones(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (bits != 0).then(|| bits.trailing_zeros() as usize);
        bits &= bits.wrapping_sub(1);
        lowest
    })
}
