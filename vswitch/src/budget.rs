//! What ports may spend on misses.
//!
//! In: who has frames, and what their misses cost. Out: whether a port may open one more flow, and
//! how many of its frames the next burst takes. What must hold: a port that opens flows as fast as it
//! can does not slow the others down, which means that little is resolved for it between two looks at
//! any other port:
//!
//! - a turn allows it so many judgements (see
//!   [`Decision::cost`](crate::slow_path::Decision::cost)) as its policy says, besides what it
//!   has saved while it opened few flows ([`SAVED_MOST`]): so a guest that connects to many
//!   places at once loses nothing;
//! - once it has spent more in a turn than a turn allows, a burst takes [`SHORT_BURST`] of its frames,
//!   until it has stopped for a while: what is behind them waits in its own ring.
//!
//! Where there is nothing to protect, no flow is refused:
//!
//! - while no other port has had frames for a while, misses are free;
//! - for a while after a change of policy, when every established flow is a miss once, misses are
//!   free;
//! - a flow whose entry no longer stands, because an address moved, is charged but not refused:
//!   it is no new flow ([`FlowCache::knows`](crate::flow_cache::FlowCache::knows)).
//!
//! Short bursts are for these too. A flood that overdraws the account is paid back over later turns.

use pmd::BURST;
use policy::{Epoch, PortId};

use crate::{
    intake::{Groups, Intake},
    published::Bundle,
};

/// Frames that a burst takes from each queue of a port that spends more than a turn allows.
pub const SHORT_BURST: usize = 8;

/// Most judgements that a port saves.
pub const SAVED_MOST: u32 = 256;

/// In which time a port saves one, nanoseconds.
const SAVES_ONE_NS: u64 = 100_000;

/// For how long a port's bursts are short after it last spent more than a turn allows, and how long
/// nobody else has had frames when a port is alone, nanoseconds.
const LATELY_NS: u64 = 1_000_000;

/// How long a new policy settles, nanoseconds: no frame that both policies allow may be lost.
const SETTLING_NS: u64 = 1_000_000_000;

/// One port's.
#[derive(Clone, Copy, Debug)]
struct Account {
    /// What it may still spend.
    credit: i32,
    /// When what it saves was last added.
    filled_ns: u64,
    /// What a turn allows it, and what it has spent in this one.
    allowed: u32,
    spent: u32,
    /// Until when its bursts are short; 0 when they are not.
    short_until_ns: u64,
}

impl Account {
    const NEW: Self = Self {
        credit: i32::MAX,
        filled_ns: 0,
        allowed: 0,
        spent: 0,
        short_until_ns: 0,
    };

    /// A turn in which it has frames begins.
    fn fill(&mut self, allowed: u32, now_ns: u64) {
        (self.allowed, self.spent) = (allowed, 0);
        let saved = now_ns.saturating_sub(self.filled_ns) / SAVES_ONE_NS;
        self.filled_ns += saved * SAVES_ONE_NS;
        let more = u64::from(allowed).saturating_add(saved);
        let more = i32::try_from(more).unwrap_or(i32::MAX);
        let most = i32::try_from(allowed.max(SAVED_MOST)).unwrap_or(i32::MAX);
        self.credit = self.credit.saturating_add(more).min(most);
    }
}

/// One worker's account of its ports' misses.
#[derive(Debug, Default)]
pub struct Budget {
    accounts: Vec<Account>,
    /// Whether misses cost nothing now.
    free: bool,
    /// Who had frames last, and when any other port had some.
    last: Option<PortId>,
    last_ns: u64,
    others_ns: u64,
    /// Until when a new policy settles.
    settled_ns: u64,
    /// The turn's time.
    now_ns: u64,
    /// Ports whose bursts are short, and whether one of them is so only from now on.
    short: Vec<PortId>,
    is_news: bool,
}

impl Budget {
    /// A policy takes effect at `now_ns`, after that of epoch `former`.
    pub fn adopt(&mut self, bundle: &Bundle, former: Epoch, now_ns: u64) {
        self.accounts.resize(bundle.ports.len(), Account::NEW);
        self.short.reserve(bundle.ports.len());
        // Before the first policy there were no flows.
        if former != Epoch(0) {
            self.settled_ns = now_ns + SETTLING_NS;
        }
    }

    /// Looks at who has frames. Once a burst.
    #[inline]
    pub fn see(&mut self, groups: &Groups, now_ns: u64) {
        self.now_ns = now_ns;
        for group in groups {
            if Some(group.port) != self.last {
                self.others_ns = self.last_ns;
                self.last = Some(group.port);
            }
            self.last_ns = now_ns;
        }
        self.free = now_ns < self.settled_ns || now_ns >= self.others_ns + LATELY_NS;
    }

    /// Gives each port what a turn allows it, once however many queues it has.
    pub fn fill(&mut self, groups: &Groups, bundle: &Bundle, now_ns: u64) {
        for (number, group) in groups.iter().enumerate() {
            let mut before = groups[..number].iter();
            if before.any(|other| other.port == group.port) {
                continue;
            }
            if let Some(account) = self.accounts.get_mut(group.port.index()) {
                // Refusing the frames of a port without policy costs next to nothing.
                let port = bundle.snapshot.port(group.port);
                account.fill(port.map_or(u32::MAX, |port| port.misses_per_turn), now_ns);
            }
        }
    }

    /// True when a port may still open a flow.
    pub fn allows(&self, port: PortId) -> bool {
        let account = self.accounts.get(port.index());
        self.free || account.is_none_or(|account| account.credit > 0)
    }

    /// A port's miss has cost so much.
    pub fn charge(&mut self, port: PortId, cost: u32) {
        let Some(account) = self.accounts.get_mut(port.index()) else {
            return;
        };
        let left = account.credit.saturating_sub_unsigned(cost);
        // What is free leaves no debt.
        account.credit = if self.free {
            left.max(account.credit.min(0))
        } else {
            left
        };
        account.spent = account.spent.saturating_add(cost);
        if account.spent > account.allowed {
            if account.short_until_ns == 0 {
                self.short.push(port);
                self.is_news = true;
            }
            account.short_until_ns = self.now_ns + LATELY_NS;
        }
    }

    /// Says how many frames of each port the next burst takes.
    #[inline]
    pub fn pace(&mut self, intake: &mut Intake) {
        if !self.short.is_empty() {
            self.shorten(intake);
        }
    }

    #[inline(never)]
    fn shorten(&mut self, intake: &mut Intake) {
        let (accounts, now_ns) = (&mut self.accounts, self.now_ns);
        let is_news = std::mem::take(&mut self.is_news);
        self.short.retain(|port| {
            let Some(account) = accounts.get_mut(port.index()) else {
                return false;
            };
            let is_short = now_ns < account.short_until_ns;
            if !is_short {
                account.short_until_ns = 0;
                intake.shorten(*port, BURST);
            } else if is_news {
                intake.shorten(*port, SHORT_BURST);
            }
            is_short
        });
    }
}
