//! Figures sorted into plots: each has one metric, one load but for what varies along its axis, and
//! a value for each contender there.

use super::super::{Axis, Figure, Load, results::grouped};

/// One plot, and the table below it.
#[derive(Clone, Debug)]
pub struct Facet<'a> {
    /// What was measured.
    pub metric: &'a str,
    /// The load, without what varies.
    pub load: Load,
    /// What varies.
    pub axis: Axis,
    /// Its values, in the order in which they were measured.
    pub steps: Vec<String>,
    /// Everyone measured.
    pub contenders: Vec<&'a str>,
    figures: Vec<&'a Figure>,
}

/// Sorts the figures of a scenario, in their order.
pub fn facets<'a>(figures: impl Iterator<Item = &'a Figure>, axis: Axis) -> Vec<Facet<'a>> {
    let mut facets: Vec<Facet<'a>> = Vec::new();
    for figure in figures {
        let load = axis.without(&figure.load);
        let same = |facet: &&mut Facet<'_>| facet.metric == figure.metric && facet.load == load;
        let index = match facets.iter_mut().find(same) {
            Some(facet) => {
                facet.add(figure);
                continue;
            }
            None => facets.len(),
        };
        facets.push(Facet {
            metric: &figure.metric,
            load,
            axis,
            steps: Vec::new(),
            contenders: Vec::new(),
            figures: Vec::new(),
        });
        facets[index].add(figure);
    }
    facets
}

impl<'a> Facet<'a> {
    fn add(&mut self, figure: &'a Figure) {
        let step = self.axis.step(&figure.load);
        if !self.steps.contains(&step) {
            self.steps.push(step);
        }
        if !self.contenders.contains(&figure.contender.as_str()) {
            self.contenders.push(&figure.contender);
        }
        self.figures.push(figure);
    }

    /// What a contender has at a step.
    pub fn at(&self, step: &str, contender: &str) -> Option<&'a Figure> {
        let here = |figure: &&&Figure| {
            figure.contender == contender && self.axis.step(&figure.load) == step
        };
        self.figures.iter().rev().find(here).copied()
    }

    /// In a line.
    pub fn title(&self) -> String {
        match self.load.words() {
            words if words.is_empty() => self.metric.to_owned(),
            words => format!("{}: {words}", self.metric),
        }
    }
}

impl Axis {
    /// What it is called beside its values.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Rules => "rules",
            Self::Case => "case",
            Self::Cores => "cores",
        }
    }

    fn without(self, load: &Load) -> Load {
        let mut load = load.clone();
        match self {
            Self::Flows => load.flows = None,
            Self::Rules => load.rules = None,
            Self::Case => load.case = None,
            Self::Cores => load.cores = 0,
        }
        load
    }

    fn step(self, load: &Load) -> String {
        let number = |number: Option<u64>| number.map_or_else(|| "–".to_owned(), grouped);
        match self {
            Self::Flows => number(load.flows),
            Self::Rules => number(load.rules),
            Self::Case => load.case.clone().unwrap_or_else(|| "–".to_owned()),
            Self::Cores => load.cores.to_string(),
        }
    }
}
