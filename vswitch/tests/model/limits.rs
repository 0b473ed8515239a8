//! The reference's buckets: tokens that come back with time.

use std::{collections::BTreeMap, sync::Arc};

use policy::{
    RuleId,
    model::{Model, RateLimit},
    rule::Rule,
};

/// A token, in the parts that come back: at one a second, one part each nanosecond.
const TOKEN: u64 = 1_000_000_000;

/// Whose bucket: this vNIC's, for this rule.
pub(crate) type Place = (Arc<str>, RuleId);

/// One bucket.
#[derive(Clone)]
pub(crate) struct Bucket {
    limit: RateLimit,
    /// Parts of tokens that are in it.
    parts: u64,
    /// When that was so.
    seen_ns: u64,
}

impl Bucket {
    pub(crate) fn full(limit: RateLimit, now_ns: u64) -> Self {
        Self {
            limit,
            parts: u64::from(limit.burst) * TOKEN,
            seen_ns: now_ns,
        }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now_ns: u64) -> bool {
        let back = (now_ns - self.seen_ns) * u64::from(self.limit.per_second);
        let full = u64::from(self.limit.burst) * TOKEN;
        self.parts = full.min(self.parts + back);
        self.seen_ns = now_ns;
        let is_there = self.parts >= TOKEN;
        if is_there {
            self.parts -= TOKEN;
        }
        is_there
    }
}

/// The buckets that something was taken from.
#[derive(Clone, Default)]
pub(crate) struct Buckets(BTreeMap<Place, Bucket>);

impl Buckets {
    /// Another desired state: a bucket goes on where the same vNIC has the same rule.
    pub(crate) fn adopt(&mut self, model: &Model) {
        let vnics = || model.ports.iter().filter_map(|port| port.vnic.as_ref());
        self.0.retain(|(name, rule), bucket| {
            let mut vnics = vnics().filter(|vnic| vnic.name == *name);
            let is_same = |other: &Rule| other.id == *rule && other.limit == Some(bucket.limit);
            vnics.any(|vnic| {
                let mut rules = vnic.inbound.rules.iter().chain(vnic.outbound.rules.iter());
                rules.any(is_same)
            })
        });
    }

    /// Takes a token of a bucket, which is full when nothing was taken from it before.
    pub(crate) fn take(&mut self, (place, limit): (Place, RateLimit), now_ns: u64) -> bool {
        let bucket = self.0.entry(place);
        let bucket = bucket.or_insert_with(|| Bucket::full(limit, now_ns));
        bucket.take(now_ns)
    }
}
