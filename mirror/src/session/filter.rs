//! Which frames of a source a session is about, in the language of policy.

use std::sync::Arc;

use policy::{
    KeyReader, RuleId,
    acl::Classifier,
    model::Action,
    rule::{MatchError, RuleList},
};

/// A filter, compiled. A clone shares it.
#[derive(Clone, Debug)]
pub struct Filter(Option<Arc<Classifier>>);

/// What a rule of a filter cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A filter has two answers.
    #[error("a filter mirrors (allow) or does not (deny); \"{}\" means nothing here", .0.name())]
    Action(Action),
    /// Sessions have budgets.
    #[error("a filter's rule has no limit; give the session a budget")]
    Limit,
    /// A filter decides no frame's fate.
    #[error("a filter's rule is not logged; leave \"log\" out")]
    Log,
    /// Its parts contradict each other.
    #[error(transparent)]
    Match(#[from] MatchError),
}

impl Filter {
    /// Checks and compiles the rules. Without rules everything is selected.
    ///
    /// # Errors
    /// The first rule that a filter cannot have, counted from 1, and why.
    pub fn new(rules: &RuleList) -> Result<Self, (usize, FilterError)> {
        for (place, rule) in rules.iter().enumerate() {
            let wrong = |error| (place + 1, error);
            match rule.action {
                Action::Allow | Action::Deny => {}
                other => return Err(wrong(FilterError::Action(other))),
            }
            if rule.limit.is_some() {
                return Err(wrong(FilterError::Limit));
            }
            if rule.log {
                return Err(wrong(FilterError::Log));
            }
            rule.matches.validate().map_err(|e| wrong(e.into()))?;
        }
        let compile = |rules: &RuleList| Arc::new(Classifier::compile(rules.clone()));
        Ok(Self((!rules.is_empty()).then(|| compile(rules))))
    }

    /// Whether it has rules, so that not everything is selected.
    #[inline]
    pub(super) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Whether frames with a key are selected.
    #[inline]
    pub fn selects<R: KeyReader>(&self, reader: &mut R) -> bool {
        let Some(rules) = &self.0 else { return true };
        rules
            .decide(reader)
            .is_some_and(|(action, _)| action.passes())
    }

    /// The rule that decides about frames with a key; `None` when none matches, or there is none.
    pub(super) fn decider<R: KeyReader>(&self, reader: &mut R) -> Option<RuleId> {
        Some(self.0.as_ref()?.decide(reader)?.1)
    }
}
