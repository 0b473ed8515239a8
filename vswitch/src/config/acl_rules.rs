//! The rules of an ACL or a group.
//!
//! In: rules as they are read. Out: the same, in order. What must hold: a list that differs from
//! another in some rules shares the others with it; and what is asked of every rule at every change
//! stands in a few bytes of its own, so that going through all of them is quick.

use std::{ops::Range, sync::Arc};

use policy::rule::{Direction, Runs, WrittenRule};

/// Rules in order, and what is asked of all of them.
#[derive(Clone, Debug, Default)]
pub struct AclRules {
    rules: Runs<AclRule>,
    heads: Vec<Head>,
    inline: bool,
}

/// A rule of an ACL or a group.
#[derive(Clone, Debug)]
pub struct AclRule {
    /// What was written.
    pub rule: Arc<WrittenRule>,
    /// The rule in one line.
    pub text: Arc<str>,
}

/// What is asked of every rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where the configuration's text has it: the first byte, and the one behind it.
    span: (u32, u32),
    /// The line that it begins in, from 1.
    pub line: u32,
    /// Rules of a higher priority are asked first.
    pub priority: u16,
    /// Which frames it is for.
    pub direction: Option<Direction>,
    /// Whether it names a set or a group.
    pub by_name: bool,
}

impl Head {
    /// The bytes of the configuration's text.
    pub fn span(&self) -> Range<usize> {
        self.span.0 as usize..self.span.1 as usize
    }
}

impl AclRule {
    /// A rule and what was read of it.
    pub(super) fn new(rule: WrittenRule) -> Self {
        Self {
            text: rule.to_string().into(),
            rule: Arc::new(rule),
        }
    }

    /// Whether both say the same. The text says all that there is to a rule.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.text, &other.text) || self.text == other.text
    }
}

impl AclRules {
    /// None yet. `inline` says that all will be items of one list, between its brackets.
    pub(super) fn new(inline: bool) -> Self {
        Self {
            inline,
            ..Self::default()
        }
    }

    /// Whether all are items of one list.
    pub(super) fn inline(&self) -> bool {
        self.inline
    }

    /// Puts rules at the end, each with its place in the text and its line.
    pub(super) fn extend(&mut self, rules: Vec<(AclRule, Range<usize>, usize)>) {
        let head = |(rule, span, line): &(AclRule, Range<usize>, usize)| {
            let written = &rule.rule;
            let ports = !written.src_port_sets.is_empty() || !written.dst_port_sets.is_empty();
            Head {
                span: (span.start as u32, span.end as u32),
                line: *line as u32,
                priority: written.priority,
                direction: written.direction,
                by_name: ports || written.src.is_some() || written.dst.is_some(),
            }
        };
        self.heads.extend(rules.iter().map(head));
        self.rules
            .extend(rules.into_iter().map(|(rule, ..)| rule).collect());
    }

    /// Puts rules of another list at the end, and shares them. They stand `bytes` and `lines`
    /// further on than there.
    pub(super) fn share(&mut self, other: &Self, range: Range<usize>, bytes: isize, lines: isize) {
        let moved = |at: u32, by: isize| at.wrapping_add_signed(by as i32);
        let heads = other.heads[range.clone()].iter().map(|head| Head {
            span: (moved(head.span.0, bytes), moved(head.span.1, bytes)),
            line: moved(head.line, lines),
            ..*head
        });
        self.heads.extend(heads);
        self.rules.share(&other.rules, range);
    }

    /// The rules.
    pub fn rules(&self) -> &Runs<AclRule> {
        &self.rules
    }

    /// What is asked of every rule, by its place.
    pub fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// All, from the first.
    pub fn iter(&self) -> impl Iterator<Item = &AclRule> {
        self.rules.iter()
    }

    /// Those that name sets or groups, with what is asked of all.
    pub fn by_name(&self) -> impl Iterator<Item = (&Head, &AclRule)> {
        let heads = self.heads.iter().enumerate();
        let named = heads.filter(|(_, head)| head.by_name);
        named.filter_map(|(place, head)| Some((head, self.rules.get(place)?)))
    }
}
