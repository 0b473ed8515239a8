//! Sets of addresses and ports: shown, and changed on the running switch.
//!
//! In: members to put in and to take out. Out: the running configuration with that set changed, as
//! one transaction, until the next apply. What must hold: nothing else of the configuration
//! changes, and no line of it moves.

use std::{collections::HashMap, ops::Range};

use policy::rule::{Members, WrittenRule, net_text, range_text, text};

use super::{Applied, Control, ControlError};
use crate::{
    api::types,
    config::{self, Config, lists::Lists, problem::nearest},
};

impl Control {
    /// Every set, and the addresses of every group, with what the rules decided that name them.
    ///
    /// # Errors
    ///
    /// When a worker does not answer.
    pub fn sets(&self) -> Result<Vec<types::Set>, ControlError> {
        let hits = self.rules()?;
        let hits = hits.iter().map(|row| {
            let place = (row.rule.acl.as_str(), row.rule.position);
            (place, row)
        });
        let hits: HashMap<(&str, u32), &types::RuleHits> = hits.collect();
        let config = self.config();
        let lists = Lists::new(&config);
        let row = |name: &str, kind: &str, members: Vec<String>| {
            let mut set = types::Set {
                name: name.to_owned(),
                kind: kind.to_owned(),
                members,
                ..types::Set::default()
            };
            for place in mentions(&lists, name, kind) {
                set.rules += 1;
                if let Some(hits) = hits.get(&place) {
                    set.passed += hits.passed;
                    set.dropped += hits.dropped;
                    let last = [set.last_hit_s_ago, hits.last_hit_s_ago];
                    set.last_hit_s_ago = last.into_iter().flatten().min();
                }
            }
            set
        };
        let addresses = config.address_sets.iter().map(|set| {
            let members = set.addresses.iter().copied().map(net_text);
            row(&set.name, "address_set", members.collect())
        });
        let ports = config.port_sets.iter().map(|set| {
            let members = set.ports.iter().map(range_text);
            row(&set.name, "port_set", members.collect())
        });
        let groups = config.groups.iter().map(|group| {
            let members = config::lists::members(&config, &group.name);
            row(&group.name, "group", members.map(net_text).collect())
        });
        Ok(addresses.chain(ports).chain(groups).collect())
    }

    /// Puts members into a set and takes others out, in one step.
    ///
    /// # Errors
    ///
    /// As [`Control::apply`]; also when there is no such set, or no such member in it.
    pub fn change_set(
        &self,
        name: &str,
        change: &types::SetChange,
    ) -> Result<Applied, ControlError> {
        self.edit(|text| {
            let running = self.config();
            let set = changed(&running, name, change)?;
            config::replace_members(text, &set.span, &set.members)
                .map_err(|error| ControlError::Refused(format!("set \"{name}\": {error}")))
        })
    }
}

/// A set as the configuration holds it.
struct Held {
    /// Where its members stand in the text.
    span: Range<usize>,
    members: Vec<String>,
    /// A member in the one way that it is printed.
    plain: fn(&str) -> Option<String>,
}

fn held(config: &Config, name: &str) -> Result<Held, ControlError> {
    if let Some(set) = config.address_sets.iter().find(|set| &*set.name == name) {
        return Ok(Held {
            span: set.span.clone(),
            members: set.addresses.iter().copied().map(net_text).collect(),
            plain: |text| text::address(text).ok()?.0.map(net_text),
        });
    }
    if let Some(set) = config.port_sets.iter().find(|set| &*set.name == name) {
        return Ok(Held {
            span: set.span.clone(),
            members: set.ports.iter().map(range_text).collect(),
            plain: |text| text::port_range(text).map(|range| range_text(&range)),
        });
    }
    let addresses = config.address_sets.iter().map(|set| &*set.name);
    let ports = config.port_sets.iter().map(|set| &*set.name);
    Err(ControlError::NotFound {
        message: format!("there is no set \"{name}\""),
        help: nearest(name, addresses.chain(ports)),
    })
}

/// The set with the change made.
fn changed(config: &Config, name: &str, change: &types::SetChange) -> Result<Held, ControlError> {
    let mut set = held(config, name)?;
    // What cannot be read is added as it is, and refused with its place by the configuration.
    let print = set.plain;
    let plain = |member: &String| print(member).unwrap_or_else(|| member.clone());
    for member in change.remove.iter().map(plain) {
        let Some(at) = set.members.iter().position(|known| *known == member) else {
            return Err(ControlError::NotFound {
                message: format!("{member} is not in set \"{name}\""),
                help: nearest(&member, set.members.iter().map(String::as_str)),
            });
        };
        set.members.remove(at);
    }
    for member in change.add.iter().map(plain) {
        if !set.members.contains(&member) {
            set.members.push(member);
        }
    }
    Ok(set)
}

/// The written rules that name a set: their list, and their place in it from 1.
fn mentions<'l>(
    lists: &'l Lists<'_>,
    name: &'l str,
    kind: &'l str,
) -> impl Iterator<Item = (&'l str, u32)> {
    let wanted = match kind {
        "group" => Members::Group(name.into()),
        _ => Members::Set(name.into()),
    };
    let names = move |rule: &WrittenRule| {
        if kind == "port_set" {
            let mut ports = rule.src_port_sets.iter().chain(&rule.dst_port_sets);
            return ports.any(|port| **port == *name);
        }
        [&rule.src, &rule.dst]
            .into_iter()
            .flatten()
            .any(|members| *members == wanted)
    };
    let named = lists
        .by_name()
        .filter(move |(_, listed)| names(&listed.rule.rule));
    named.map(|(_, listed)| (&**listed.list, listed.position))
}
