//! What looking up the rules of vNICs costs, and whether it is more than the operator allows.
//!
//! In: a compiled snapshot. Out: a row for each direction of each vNIC. What must hold: the bound
//! is that of the compiled list, so no frame exceeds it, whatever is in it.

use policy::Epoch;
use policy::{
    acl::Method,
    rule::Direction,
    snapshot::{Snapshot, VnicPolicy},
};

use super::{
    ControlError, compile,
    ids::{Ids, Rules},
};
use crate::{
    api::types,
    config::{Config, lists::Lists},
};

/// What looking up each vNIC's rules costs. No running switch is needed.
///
/// # Errors
///
/// [`ControlError`], as applying the configuration would say.
pub fn lookups(config: &Config) -> Result<Vec<types::Lookup>, ControlError> {
    let number = |lists: &Lists<'_>| Rules::default().renumber(&config.file, lists);
    let made = compile::Made::default();
    let draft = compile::model(config, &mut Ids::default(), number, &made);
    let draft = draft.ok_or(ControlError::TooMany)?;
    let snapshot = Snapshot::compile(&draft.model, Epoch(1)).map_err(ControlError::Compile)?;
    within(&snapshot, config.policy.max_lookup_cost)?;
    let vnics = snapshot.ports().filter_map(|port| port.vnic.as_ref());
    Ok(vnics.flat_map(rows).collect())
}

/// Refuses a snapshot in which looking up a vNIC's rules may take too many operations.
pub(super) fn within(snapshot: &Snapshot, most: u32) -> Result<(), ControlError> {
    let vnics = snapshot.ports().filter_map(|port| port.vnic.as_ref());
    let mut rows = vnics.flat_map(rows);
    match rows.find(|row| row.cost > u64::from(most)) {
        None => Ok(()),
        Some(row) => Err(ControlError::TooCostly(row, most)),
    }
}

fn rows(vnic: &VnicPolicy) -> impl Iterator<Item = types::Lookup> + '_ {
    [Direction::In, Direction::Out]
        .into_iter()
        .map(|direction| {
            let classifier = vnic.classifier(direction);
            let bound = classifier.bound();
            types::Lookup {
                vnic: vnic.name.to_string(),
                direction: direction.to_string(),
                rules: classifier.rules().len() as u64,
                method: match classifier.method() {
                    Method::Linear => "linear",
                    Method::TupleMerge => "tuple_merge",
                }
                .to_owned(),
                tables: classifier.tables() as u64,
                probes: bound.probes as u64,
                compares: bound.compares as u64,
                cost: (bound.probes + bound.compares) as u64,
            }
        })
}
