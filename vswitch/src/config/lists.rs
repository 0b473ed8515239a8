//! What the rules of a vNIC are: those of its ACL and of its groups, in the order in which they
//! are asked, with what the names of sets and groups stand for.
//!
//! In: a [`Config`]. Out: references into it. What must hold: the order depends on the
//! configuration alone; a rule of a higher priority comes first, and among equals those of the
//! vNIC's own ACL, then those of its groups in the order of `groups`, each in its list's order.

use std::{cmp::Reverse, sync::Arc};

use hashbrown::HashMap;
use ipnet::IpNet;
use policy::rule::{Direction, Members, Sets};

use super::types::{AclRule, AclRules, Config, Head, Vnic};

/// The most plain rules that one written rule may stand for.
pub const MOST_EXPANSIONS: usize = 16_384;
/// The most plain rules of one direction of a vNIC.
pub const MOST_RULES: usize = 262_144;
/// The most plain rules of all lists together, where equal lists count once.
pub const MOST_RULES_OF_ALL: usize = 1 << 20;

/// A written rule and where it belongs.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'c> {
    /// The ACL, or `group:NAME`.
    pub list: &'c Arc<str>,
    /// Its place in that list, from 1.
    pub position: u32,
    /// The rule.
    pub rule: &'c AclRule,
    /// Where it stands.
    pub head: &'c Head,
}

/// The rules of an ACL or a group.
#[derive(Debug)]
pub struct List<'c> {
    /// The ACL, or `group:NAME`.
    pub name: Arc<str>,
    /// They.
    pub rules: &'c AclRules,
    /// The number of the first.
    first: usize,
}

/// All rules of a configuration, numbered from 0 list by list.
#[derive(Debug)]
pub struct Lists<'c> {
    all: Vec<List<'c>>,
    /// The numbers of lists.
    acls: HashMap<&'c str, usize>,
    groups: HashMap<&'c str, usize>,
}

/// What the order of a vNIC's rules depends on. Many vNICs may have one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Use {
    acl: Option<Arc<str>>,
    groups: Vec<Arc<str>>,
    direction: Direction,
}

impl Use {
    /// That of one direction of a vNIC.
    pub fn of(vnic: &Vnic, direction: Direction) -> Self {
        let own = match direction {
            Direction::In => &vnic.inbound.acl,
            Direction::Out => &vnic.outbound.acl,
        };
        Self {
            acl: own.clone(),
            groups: vnic.groups.clone(),
            direction,
        }
    }
}

impl<'c> Lists<'c> {
    /// The rules of every ACL and group, in the order of the file.
    pub fn new(config: &'c Config) -> Self {
        let mut lists = Self {
            all: Vec::new(),
            acls: HashMap::new(),
            groups: HashMap::new(),
        };
        for acl in &config.acls {
            lists.acls.insert(&acl.name, lists.all.len());
            lists.add(Arc::clone(&acl.name), &acl.rules);
        }
        for group in &config.groups {
            lists.groups.insert(&group.name, lists.all.len());
            lists.add(format!("group:{}", group.name).into(), &group.rules);
        }
        lists
    }

    fn add(&mut self, name: Arc<str>, rules: &'c AclRules) {
        self.all.push(List {
            name,
            rules,
            first: self.len(),
        });
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.all
            .last()
            .map_or(0, |last| last.first + last.rules.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All lists, in the order of their rules' numbers.
    pub fn lists(&self) -> &[List<'c>] {
        &self.all
    }

    /// A rule by its number.
    pub fn get(&self, number: usize) -> Option<Listed<'_>> {
        let begun = self.all.partition_point(|list| list.first <= number);
        self.all[..begun].last()?.get(number)
    }

    /// The rules that name sets or groups, with their numbers.
    pub fn by_name(&self) -> impl Iterator<Item = (usize, Listed<'_>)> {
        let all = self.all.iter().flat_map(|list| {
            let heads = (list.first..).zip(list.rules.heads());
            let named = heads.filter(|(_, head)| head.by_name);
            named.map(move |(number, _)| (number, list.get(number)))
        });
        all.filter_map(|(number, listed)| Some((number, listed?)))
    }

    /// The numbers of rules in the order in which they are asked.
    pub fn order(&self, of: &Use) -> Vec<usize> {
        let own = of.acl.as_ref().and_then(|name| self.acls.get(&**name));
        let groups = of.groups.iter().filter_map(|n| self.groups.get(&**n));
        let lists = own.into_iter().chain(groups).map(|n| &self.all[*n]);
        let mut order = Vec::new();
        let (mut lowest, mut sorted) = (u16::MAX, true);
        for list in lists {
            let heads = (list.first..).zip(list.rules.heads());
            let wanted = heads.filter(|(_, head)| head.direction.is_none_or(|d| d == of.direction));
            order.extend(wanted.map(|(number, head)| {
                sorted &= head.priority <= lowest;
                lowest = head.priority;
                number
            }));
        }
        if !sorted {
            let priority = |n: &usize| self.get(*n).map(|listed| listed.head.priority);
            order.sort_by_cached_key(|number| Reverse(priority(number)));
        }
        order
    }
}

impl List<'_> {
    fn get(&self, number: usize) -> Option<Listed<'_>> {
        let place = number - self.first;
        Some(Listed {
            list: &self.name,
            position: place as u32 + 1,
            rule: self.rules.rules().get(place)?,
            head: self.rules.heads().get(place)?,
        })
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
