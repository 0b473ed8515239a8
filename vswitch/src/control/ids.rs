//! Numbers for names: ports, networks and rules.
//!
//! In: names of the desired state. Out: small numbers that the workers index tables with. What
//! must hold: a name keeps its number as long as it is there; a number is given again only after
//! it was released; a rule keeps its number across reloads, and even after it was gone for a
//! while, so that its count goes on.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use hashbrown::HashMap;
use policy::{NetworkId, PortId, RuleId, rule::Origin};

/// Numbers below a limit, given out lowest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    numbers: HashMap<Arc<str>, u16>,
    free: BTreeSet<u16>,
    next: u16,
}

impl Names {
    /// The number of `name`, a new one if it has none; `None` when all 65,535 are in use.
    pub(super) fn intern(&mut self, name: &Arc<str>) -> Option<u16> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        let number = if let Some(number) = self.free.pop_first() {
            number
        } else {
            self.next = self.next.checked_add(1)?;
            self.next - 1
        };
        self.numbers.insert(Arc::clone(name), number);
        Some(number)
    }

    /// The number of `name`, if it has one.
    pub(super) fn get(&self, name: &str) -> Option<u16> {
        self.numbers.get(name).copied()
    }

    /// Forgets every name that `keep` does not want; their numbers may be given again.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.numbers.retain(|name, number| {
            let kept = keep(name);
            if !kept {
                self.free.insert(*number);
            }
            kept
        });
    }
}

/// How many rules that are gone are remembered.
const REMEMBERED_RULES: usize = 65_536;

/// What makes a rule the same rule: its ACL, its text, and which of the rules with that text.
type RuleKey = (Arc<str>, Arc<str>, u32);

/// Rule numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    live: HashMap<RuleKey, RuleId>,
    gone: HashMap<RuleKey, RuleId>,
    gone_order: VecDeque<RuleKey>,
    origins: HashMap<RuleId, Arc<Origin>>,
    free: Vec<RuleId>,
    next: u32,
}

impl Rules {
    /// Numbers the rules of a new desired state, in the order given; rules that are not among
    /// them any more are remembered for a while.
    pub(super) fn renumber(&mut self, origins: &[Arc<Origin>]) -> Vec<RuleId> {
        let mut before = std::mem::take(&mut self.live);
        self.live.reserve(origins.len());
        let mut occurrences: HashMap<(&str, &str), u32> = HashMap::with_capacity(origins.len());
        let mut ids = Vec::with_capacity(origins.len());
        for origin in origins {
            let occurrence = occurrences.entry((&origin.acl, &origin.text)).or_default();
            let key = (
                Arc::clone(&origin.acl),
                Arc::clone(&origin.text),
                *occurrence,
            );
            *occurrence += 1;
            let known = before.remove(&key).or_else(|| self.gone.remove(&key));
            let id = known.unwrap_or_else(|| self.fresh());
            self.origins.insert(id, Arc::clone(origin));
            self.live.insert(key, id);
            ids.push(id);
        }
        for (key, id) in before {
            self.gone_order.push_back(key.clone());
            self.gone.insert(key, id);
        }
        self.forget();
        ids
    }

    fn fresh(&mut self) -> RuleId {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            RuleId(self.next - 1)
        })
    }

    fn forget(&mut self) {
        // A key that came back to life may stand in the order still; it is dropped on the way.
        while self.gone.len() > REMEMBERED_RULES || self.gone_order.len() > 2 * REMEMBERED_RULES {
            let Some(key) = self.gone_order.pop_front() else {
                break;
            };
            if let Some(id) = self.gone.remove(&key) {
                self.origins.remove(&id);
                self.free.push(id);
            }
        }
    }

    /// The rules of the desired state.
    pub(super) fn live(&self) -> impl Iterator<Item = RuleId> + '_ {
        self.live.values().copied()
    }

    /// Where a rule was written.
    pub(super) fn origin(&self, id: RuleId) -> Option<&Arc<Origin>> {
        self.origins.get(&id)
    }
}

/// All numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Ids {
    /// Of ports.
    pub(super) ports: Names,
    /// Of networks.
    pub(super) networks: Names,
    /// Of rules.
    pub(super) rules: Rules,
}

impl Ids {
    /// A port's number.
    pub(super) fn port(&self, name: &str) -> Option<PortId> {
        self.ports.get(name).map(PortId)
    }

    /// A network's number.
    pub(super) fn network(&self, name: &str) -> Option<NetworkId> {
        self.networks.get(name).map(NetworkId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(acl: &str, text: &str) -> Arc<Origin> {
        Arc::new(Origin {
            acl: acl.into(),
            position: 1,
            place: "".into(),
            text: text.into(),
        })
    }

    #[test]
    fn a_name_keeps_its_number_and_a_released_one_is_given_again() {
        let mut names = Names::default();
        let (a, b, c) = ("a".into(), "b".into(), "c".into());
        assert_eq!(names.intern(&a), Some(0));
        assert_eq!(names.intern(&b), Some(1));
        names.retain(|name| name != "a");
        assert_eq!(names.intern(&b), Some(1));
        assert_eq!(names.intern(&c), Some(0));
        assert_eq!(names.get("a"), None);
    }

    #[test]
    fn numbers_run_out_without_a_panic() {
        let mut names = Names::default();
        for number in 0..u16::MAX {
            assert_eq!(names.intern(&number.to_string().into()), Some(number));
        }
        assert_eq!(names.intern(&"more".into()), None);
    }

    #[test]
    fn a_rule_keeps_its_number_wherever_it_moves() {
        let mut rules = Rules::default();
        let (x, y) = (origin("web", "allow tcp"), origin("web", "deny"));
        let first = rules.renumber(&[x.clone(), y.clone()]);
        let second = rules.renumber(&[y.clone(), origin("web", "allow udp"), x.clone()]);
        assert_eq!([second[2], second[0]], [first[0], first[1]]);
        assert!(!first.contains(&second[1]));
        rules.renumber(&[]);
        assert_eq!(rules.renumber(&[x, y]), first, "remembered while gone");
    }

    #[test]
    fn equal_rules_are_told_apart_by_their_order() {
        let mut rules = Rules::default();
        let x = origin("web", "deny");
        let ids = rules.renumber(&[x.clone(), x.clone()]);
        assert_ne!(ids[0], ids[1]);
        assert_eq!(rules.renumber(&[x.clone(), x]), ids);
    }

    #[test]
    fn memory_of_gone_rules_is_bounded() {
        let mut rules = Rules::default();
        for generation in 0..4 {
            let many: Vec<_> = (0..=REMEMBERED_RULES / 2)
                .map(|n| origin("a", &format!("{generation} {n}")))
                .collect();
            rules.renumber(&many);
        }
        rules.renumber(&[]);
        assert!(rules.gone.len() <= REMEMBERED_RULES);
        assert!(rules.origins.len() <= REMEMBERED_RULES);
        assert!((rules.next as usize) < 3 * REMEMBERED_RULES);
    }
}
