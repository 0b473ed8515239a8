//! What there is to measure: one file each.

use super::Run;

mod guests;
mod hit_path;
mod instructions;
mod routes;
mod scale;
mod veth;
mod walk;

/// What varies along the horizontal axis of a scenario's plots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Flows.
    Flows,
    /// Rules.
    Rules,
    /// The load's case.
    Case,
    /// Cores of the switch.
    Cores,
}

/// Something to measure.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What `--only` takes.
    pub name: &'static str,
    /// A heading.
    pub title: &'static str,
    /// How it is measured, in a few sentences.
    pub about: &'static str,
    /// What its plots vary.
    pub axis: Axis,
    /// Measures it.
    pub(super) measure: fn(&mut Run<'_>) -> anyhow::Result<()>,
}

/// All of them, in the order in which they are measured.
pub const SCENARIOS: [Scenario; 13] = [
    hit_path::SCENARIO,
    guests::SET_UP,
    guests::UPDATE,
    guests::ISOLATION,
    guests::MIRROR,
    guests::IDLE,
    veth::SCENARIO,
    walk::WALK,
    walk::BURST,
    walk::CORES,
    instructions::SCENARIO,
    routes::SCENARIO,
    scale::SCENARIO,
];
