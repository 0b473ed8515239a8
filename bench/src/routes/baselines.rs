//! What else a router could look routes up by: a hash table for each prefix length, from the
//! longest on, and one route after the other.

use std::sync::Arc;

use hashbrown::HashMap;
use policy::route::{Route, Target};

use super::{Address, synthesis::Prefix};

/// A hash table for each prefix length, the longest first.
pub(super) struct Hashed<A> {
    tables: Vec<(u8, HashMap<A, Arc<Target>>)>,
}

/// All routes, the longest prefixes first.
pub(super) struct Linear<A> {
    routes: Vec<(A, u8, Arc<Target>)>,
}

impl<A: Address> Hashed<A> {
    pub(super) fn new(prefixes: &[Prefix], routes: &[Route]) -> Self {
        let mut tables: Vec<(u8, HashMap<A, Arc<Target>>)> = Vec::new();
        for (prefix, route) in prefixes.iter().zip(routes) {
            let known = tables.iter().position(|(len, _)| *len == prefix.len);
            let place = known.unwrap_or_else(|| {
                tables.push((prefix.len, HashMap::new()));
                tables.len() - 1
            });
            tables[place]
                .1
                .insert(A::from_prefix(*prefix), route.target.clone());
        }
        tables.sort_unstable_by_key(|(len, _)| std::cmp::Reverse(*len));
        Self { tables }
    }

    #[inline]
    pub(super) fn lookup(&self, address: A) -> Option<&Target> {
        let mut found = self
            .tables
            .iter()
            .map(|(len, table)| table.get(&address.masked(*len)));
        found.find_map(|target| target.map(|target| &**target))
    }

    /// How many tables a lookup asks.
    pub(super) fn probes(&self, address: A) -> usize {
        let found = |(len, table): &(u8, HashMap<A, _>)| table.contains_key(&address.masked(*len));
        let last = self.tables.iter().position(found);
        last.map_or(self.tables.len(), |last| last + 1)
    }
}

impl<A: Address> Linear<A> {
    pub(super) fn new(prefixes: &[Prefix], routes: &[Route]) -> Self {
        let routes = prefixes.iter().zip(routes);
        let routes = routes
            .map(|(prefix, route)| (A::from_prefix(*prefix), prefix.len, route.target.clone()));
        let mut routes: Vec<_> = routes.collect();
        routes.sort_by_key(|(_, len, _)| std::cmp::Reverse(*len));
        Self { routes }
    }

    pub(super) fn lookup(&self, address: A) -> Option<&Target> {
        let found = self
            .routes
            .iter()
            .find(|(bits, len, _)| address.masked(*len) == *bits);
        found.map(|(_, _, target)| &**target)
    }
}
