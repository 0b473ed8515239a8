//! What the rules of a vNIC are: those of its ACL and of its groups, in the order in which they
//! are asked, with what the names of sets and groups stand for.
//!
//! In: a [`Config`]. Out: references into it. What must hold: the order depends on the
//! configuration alone; a rule of a higher priority comes first, and among equals those of the
//! vNIC's own ACL, then those of its groups in the order of `groups`, each in its list's order.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use ipnet::IpNet;
use policy::rule::{Direction, Members, Sets};

use super::types::{AclRule, Config, Vnic};

/// The most plain rules that one written rule may stand for.
pub const MOST_EXPANSIONS: usize = 16_384;
/// The most plain rules of one direction of a vNIC.
pub const MOST_RULES: usize = 262_144;
/// The most plain rules of all lists together, where equal lists count once.
pub const MOST_RULES_OF_ALL: usize = 1 << 20;

/// A written rule and where it belongs.
#[derive(Clone, Debug)]
pub struct Listed<'c> {
    /// The ACL, or `group:NAME`.
    pub list: Arc<str>,
    /// Its place in that list, from 1.
    pub position: u32,
    /// The rule.
    pub rule: &'c AclRule,
}

/// All rules of a configuration, numbered.
#[derive(Debug)]
pub struct Lists<'c> {
    rules: Vec<Listed<'c>>,
    acls: HashMap<&'c str, std::ops::Range<usize>>,
    groups: HashMap<&'c str, std::ops::Range<usize>>,
}

impl<'c> Lists<'c> {
    /// The rules of every ACL and group, in the order of the file.
    pub fn new(config: &'c Config) -> Self {
        let mut lists = Self {
            rules: Vec::new(),
            acls: HashMap::new(),
            groups: HashMap::new(),
        };
        for acl in &config.acls {
            let range = lists.add(&acl.name, &acl.rules);
            lists.acls.insert(&acl.name, range);
        }
        for group in &config.groups {
            let range = lists.add(&format!("group:{}", group.name), &group.rules);
            lists.groups.insert(&group.name, range);
        }
        lists
    }

    fn add(&mut self, list: &str, rules: &'c [AclRule]) -> std::ops::Range<usize> {
        let first = self.rules.len();
        let list: Arc<str> = list.into();
        self.rules
            .extend((1..).zip(rules).map(|(position, rule)| Listed {
                list: Arc::clone(&list),
                position,
                rule,
            }));
        first..self.rules.len()
    }

    /// Every rule, by number.
    pub fn rules(&self) -> &[Listed<'c>] {
        &self.rules
    }

    /// The numbers of the rules of one direction of a vNIC, in the order in which they are asked.
    pub fn of(&self, vnic: &Vnic, direction: Direction) -> Vec<usize> {
        let own = match direction {
            Direction::In => &vnic.inbound.acl,
            Direction::Out => &vnic.outbound.acl,
        };
        let own = own.as_ref().and_then(|name| self.acls.get(&**name));
        let groups = vnic.groups.iter().filter_map(|n| self.groups.get(&**n));
        let mut numbers: Vec<usize> = own.into_iter().chain(groups).cloned().flatten().collect();
        let rule = |number: &usize| &self.rules[*number].rule.rule;
        numbers.retain(|number| rule(number).direction.is_none_or(|d| d == direction));
        numbers.sort_by_key(|number| Reverse(rule(number).priority));
        numbers
    }
}

/// What the names of sets and groups stand for.
pub fn sets(config: &Config) -> Sets {
    let mut sets = Sets::default();
    for set in &config.address_sets {
        sets.addresses(Members::Set(Arc::clone(&set.name)), &set.addresses);
    }
    for set in &config.port_sets {
        sets.ports(Arc::clone(&set.name), set.ports.clone());
    }
    for group in &config.groups {
        let nets: Vec<IpNet> = members(config, &group.name).collect();
        sets.addresses(Members::Group(Arc::clone(&group.name)), &nets);
    }
    sets
}

/// The addresses of a group: those that its members may send from.
pub fn members<'c>(config: &'c Config, group: &'c str) -> impl Iterator<Item = IpNet> + 'c {
    let in_group = move |vnic: &&Vnic| vnic.groups.iter().any(|name| **name == *group);
    config.vnics.iter().filter(in_group).flat_map(|vnic| {
        let ipv4 = vnic.ipv4.iter().copied().map(IpNet::V4);
        ipv4.chain(vnic.ipv6.iter().copied().map(IpNet::V6))
    })
}
