//! What rules refer to, and how much they may stand for.

use std::ops::Range;

use hashbrown::{HashMap, HashSet};
use policy::rule::{Direction, Members};

use super::{
    check::{exists, names},
    lists::{Lists, MOST_EXPANSIONS, MOST_RULES, MOST_RULES_OF_ALL, Use, sets},
    read::{Draft, Named},
    section::Reader,
    types::{AclRule, Config, Head, Vnic},
};

/// Notes names of sets and groups that are not there or not clear.
pub(super) fn references(draft: &Draft<'_>) {
    for set in &draft.port_sets {
        let Some(name) = &set.name else { continue };
        if names(&draft.address_sets).any(|other| other == name.value) {
            draft.reader.report(
                &name.span,
                format!("there is an address set \"{}\" already", name.value),
                "give the set of ports a name of its own",
            );
        }
    }
    for (head, rule) in rules(draft) {
        for members in [&rule.rule.src, &rule.rule.dst].into_iter().flatten() {
            let span = mention(draft, head, &members.to_string());
            match members {
                Members::Set(name) => {
                    exists(draft, "address set", &draft.address_sets, name, &span);
                }
                Members::Group(name) => exists(draft, "group", &draft.groups, name, &span),
            }
        }
        let ports = rule.rule.src_port_sets.iter();
        for name in ports.chain(&rule.rule.dst_port_sets) {
            let span = mention(draft, head, &format!("@{name}"));
            exists(draft, "port set", &draft.port_sets, name, &span);
        }
    }
}

/// Notes groups of vNICs that are not there, and groups that stand for addresses of two tenants:
/// tenants may use the same addresses.
pub(super) fn groups(draft: &Draft<'_>, tenant_of: &dyn Fn(&Vnic) -> Option<String>) {
    let named_by_rules: HashSet<Members> = rules(draft)
        .flat_map(|(_, rule)| [rule.rule.src.clone(), rule.rule.dst.clone()])
        .flatten()
        .collect();
    let mut tenants: HashMap<&str, (String, &str)> = HashMap::new();
    for named in &draft.vnics {
        let memberships = named.section.strings("groups");
        for (index, group) in memberships.iter().enumerate() {
            exists(draft, "group", &draft.groups, &group.value, &group.span);
            if memberships[..index].iter().any(|g| g.value == group.value) {
                let message = format!("group \"{}\" is named twice", group.value);
                draft.reader.report(&group.span, message, "name it once");
            }
        }
        let Some(vnic) = &named.value else { continue };
        let Some(tenant) = tenant_of(vnic) else {
            continue;
        };
        for (name, at) in vnic.groups.iter().zip(&memberships) {
            let stands_for_addresses = named_by_rules.contains(&Members::Group(name.clone()));
            let (first, other) = tenants
                .entry(name)
                .or_insert_with(|| (tenant.clone(), &vnic.name));
            if stands_for_addresses && *first != tenant {
                draft.reader.report(
                    &at.span,
                    format!(
                        "rules name the addresses of group:{name}, which would be of two tenants: vNIC \"{other}\" is of \"{first}\", this one of \"{tenant}\""
                    ),
                    "tenants may use the same addresses; make a group for each tenant",
                );
            }
        }
    }
}

/// The rules that name sets or groups.
fn rules<'n>(draft: &'n Draft<'_>) -> impl Iterator<Item = (&'n Head, &'n AclRule)> {
    fn values<'n, T>(named: &'n [Named<'_, T>]) -> impl Iterator<Item = &'n T> {
        named.iter().filter_map(|item| item.value.as_ref())
    }
    let acls = values(&draft.acls).flat_map(|acl| acl.rules.by_name());
    acls.chain(values(&draft.groups).flat_map(|group| group.rules.by_name()))
}

/// Where in a rule a name stands.
fn mention(draft: &Draft<'_>, head: &Head, name: &str) -> Range<usize> {
    let text = draft.reader.source.text(&head.span());
    // A name may be the beginning of another.
    let whole = |at: &usize| {
        let behind = text.and_then(|text| text[at + name.len()..].chars().next());
        !behind.is_some_and(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let mut found = text.into_iter().flat_map(|text| text.match_indices(name));
    match found.find(|(at, _)| whole(at)) {
        Some((at, name)) => {
            let start = head.span().start + at;
            start..start + name.len()
        }
        None => head.span(),
    }
}

/// Notes rules that stand for too many plain ones, alone or with the others of a vNIC.
pub(super) fn expansions(config: &Config, reader: &Reader<'_>) {
    let lists = Lists::new(config);
    let sets = sets(config);
    // One that names nothing stands for itself.
    let mut counts = vec![1; lists.len()];
    for (number, listed) in lists.by_name() {
        let count = listed.rule.rule.expansions(&sets);
        counts[number] = count;
        if count > MOST_EXPANSIONS {
            reader.report(
                &listed.head.span(),
                format!("with its sets, the rule stands for {count} plain rules; {MOST_EXPANSIONS} are allowed"),
                "name a set at one end only, or use shorter prefixes",
            );
        }
    }
    let mut seen = HashSet::new();
    let mut distinct = HashSet::new();
    let mut of_all = 0;
    for vnic in &config.vnics {
        for direction in [Direction::In, Direction::Out] {
            let of = Use::of(vnic, direction);
            if seen.contains(&of) {
                continue;
            }
            let order = lists.order(&of);
            seen.insert(of);
            let total: usize = order.iter().map(|number| counts[*number]).sum();
            let longest = order.iter().copied().max_by_key(|n| counts[*n]);
            if distinct.insert(order) {
                of_all += total;
            }
            let (count, most, whose) = if total > MOST_RULES {
                let whose = format!("the rules \"{direction}\" of vNIC \"{}\"", vnic.name);
                (total, MOST_RULES, whose)
            } else if of_all > MOST_RULES_OF_ALL {
                let whose = format!("the rules of the vNICs up to \"{}\"", vnic.name);
                (of_all, MOST_RULES_OF_ALL, whose)
            } else {
                continue;
            };
            let Some((longest, listed)) = longest.and_then(|n| Some((n, lists.get(n)?))) else {
                continue;
            };
            reader.report(
                &listed.head.span(),
                format!(
                    "with their sets, {whose} stand for {count} plain rules; {most} are allowed, and this one stands for {}",
                    counts[longest]
                ),
                "use smaller sets or shorter prefixes",
            );
            return;
        }
    }
}
