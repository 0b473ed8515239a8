//! Routes of one address family, counted.

use super::{
    RouteError,
    bits::Bits,
    entry::{Candidate, Entry},
    tree::Node,
};

/// The tree of one address family, and what is known of all its routes.
#[derive(Clone, Debug)]
pub(super) struct Family {
    pub(super) root: Node,
    pub(super) routes: usize,
    /// Prefixes by length.
    lengths: [u32; 129],
    /// Prefixes for which the flow's hash makes a difference.
    multipath: u32,
}

impl Default for Family {
    fn default() -> Self {
        Self {
            root: Node::default(),
            routes: 0,
            lengths: [0; 129],
            multipath: 0,
        }
    }
}

impl Family {
    /// Replaces the routes of a prefix by what `change` makes of them.
    pub(super) fn change(
        &mut self,
        bits: impl Bits,
        len: u8,
        change: impl FnOnce(&mut Vec<Candidate>) -> Result<(), RouteError>,
    ) -> Result<(), RouteError> {
        let before = self.root.get(bits, len);
        let mut candidates = before.map_or_else(Vec::new, |entry| entry.candidates().to_vec());
        change(&mut candidates)?;
        let after = Entry::new(candidates)?;
        let (removed, added) = (Counts::of(before), Counts::of(after.as_ref()));
        self.count(len, removed, added);
        self.root.set(bits, len, after);
        Ok(())
    }

    /// Counts what one prefix has instead of what it had.
    pub(super) fn count(&mut self, len: u8, removed: Counts, added: Counts) {
        let length = &mut self.lengths[usize::from(len)];
        *length = *length + added.prefixes - removed.prefixes;
        self.multipath = self.multipath + added.multipath - removed.multipath;
        self.routes = self.routes + added.routes - removed.routes;
    }

    /// The length of the longest prefix.
    pub(super) fn depth_bits(&self) -> u8 {
        let longest = self.lengths.iter().rposition(|&prefixes| prefixes != 0);
        longest.unwrap_or(0) as u8
    }

    pub(super) fn is_multipath(&self) -> bool {
        self.multipath != 0
    }
}

/// What one prefix adds to the counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    prefixes: u32,
    multipath: u32,
    routes: usize,
}

impl Counts {
    pub(super) fn of(entry: Option<&Entry>) -> Self {
        entry.map_or_else(Self::default, |entry| Self {
            prefixes: 1,
            multipath: entry.best().is_multipath().into(),
            routes: entry.candidates().len(),
        })
    }
}
