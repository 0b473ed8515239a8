//! What ports may spend on misses.
//!
//! In: who has frames this turn, and what their misses cost. Out: whether a port may open one
//! more flow. The budget is there so that a port that opens flows as fast as it can does not slow
//! the others down; where there is nothing to protect it does not bind:
//!
//! - while one port alone has frames, its misses are free;
//! - for a while after a change of policy, when every established flow is a miss once, misses are
//!   free;
//! - a flow whose entry no longer stands, because an address moved, is charged but not refused:
//!   it is no new flow ([`FlowCache::knows`](crate::flow_cache::FlowCache::knows)).
//!
//! It is counted in judgements (see [`Decision::cost`](crate::slow_path::Decision::cost)): a
//! port's credit is filled up once a turn to what its policy allows, and a flood that overdraws
//! it is paid back over later turns.

use policy::{Epoch, PortId};

use crate::{intake::Groups, published::Bundle};

/// How long a new policy settles, nanoseconds: no frame that both policies allow may be lost.
const SETTLING_NS: u64 = 1_000_000_000;

/// One worker's account of its ports' misses.
#[derive(Debug, Default)]
pub struct Budget {
    /// What each port may still spend.
    credits: Vec<i32>,
    /// The one port whose frames came in the last burst, if it was one.
    lone_port: Option<PortId>,
    /// Until when a new policy settles.
    settled_ns: u64,
}

impl Budget {
    /// A policy takes effect at `now_ns`, after that of epoch `former`.
    pub fn adopt(&mut self, bundle: &Bundle, former: Epoch, now_ns: u64) {
        self.credits.resize(bundle.ports.len(), 0);
        // Before the first policy there were no flows.
        if former != Epoch(0) {
            self.settled_ns = now_ns + SETTLING_NS;
        }
    }

    /// Whether the misses of this burst cost nothing. Asked once a burst.
    #[inline]
    pub fn is_free(&mut self, groups: &Groups, now_ns: u64) -> bool {
        let mut ports = groups.iter().map(|group| group.port);
        let lone_now = ports
            .next()
            .filter(|first| ports.all(|port| port == *first));
        let alone = lone_now.is_some() && lone_now == self.lone_port;
        self.lone_port = lone_now;
        alone || now_ns < self.settled_ns
    }

    /// Gives each port what a turn allows it, once however many queues it has.
    pub fn fill(&mut self, groups: &Groups, bundle: &Bundle) {
        for (number, group) in groups.iter().enumerate() {
            let mut before = groups[..number].iter();
            if before.any(|other| other.port == group.port) {
                continue;
            }
            if let Some(credit) = self.credits.get_mut(group.port.index()) {
                // Refusing the frames of a port without policy costs next to nothing.
                let allowed = bundle
                    .snapshot
                    .port(group.port)
                    .map(|port| port.misses_per_turn);
                let full = allowed.map_or(i32::MAX, |n| i32::try_from(n).unwrap_or(i32::MAX));
                *credit = credit.saturating_add(full).min(full);
            }
        }
    }

    /// True when a port may still open a flow.
    pub fn allows(&self, port: PortId) -> bool {
        self.credits
            .get(port.index())
            .is_none_or(|&credit| credit > 0)
    }

    /// A port's miss has cost so much.
    pub fn charge(&mut self, port: PortId, cost: u32) {
        if let Some(credit) = self.credits.get_mut(port.index()) {
            *credit = credit.saturating_sub_unsigned(cost);
        }
    }
}
