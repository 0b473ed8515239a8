//! What the bench asks of a switch, whichever it is.

use std::{path::PathBuf, process::Command};

use ::vswitch::api::types::RouteChange;

use crate::process::{self, Process};

/// What the switch has to do with the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Each port's frames leave at the other.
    PortToPort,
    /// The same, where rules allow it that lie among the flows' addresses: see `rules`.
    Acl,
    /// As [`Case::Acl`], where the ports are in two networks, and a router takes each one's frames to
    /// the other: new Ethernet addresses, a lower TTL.
    Routed,
    /// The same as [`Case::Acl`], where the rules are far from any flow.
    AclElsewhere,
    /// The same, where so many rules allow it that lie among flows of any address and port, so that
    /// nearly each of those is another flow for the rules too.
    NewFlows {
        /// How many.
        rules: u32,
    },
    /// As [`Case::Acl`] with so many rules, of which the last denies everything unless open.
    Gate {
        /// How many.
        rules: u32,
        /// Whether frames pass.
        open: bool,
    },
}

impl Case {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::PortToPort => "port-to-port",
            Self::Acl => "acl",
            Self::Routed => "routed",
            Self::AclElsewhere => "acl-elsewhere",
            Self::NewFlows { .. } => "new-flows",
            Self::Gate { .. } => "gate",
        }
    }

    /// Rules in force.
    pub fn rules(self) -> u32 {
        match self {
            Self::PortToPort => 0,
            Self::Acl | Self::Routed | Self::AclElsewhere => super::rules::RULES,
            Self::NewFlows { rules } | Self::Gate { rules, .. } => rules,
        }
    }
}

/// How a switch is started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// The core that moves frames.
    pub(super) core: usize,
    /// Whether all else that the process does has to be on that core too, as when its CPU time is
    /// what is measured. Else it may be anywhere.
    pub(super) alone: bool,
    /// Pairs of ports: frames of one pair never get to another.
    pub(super) pairs: usize,
    /// Whether it may sleep when there is nothing to do, where it can.
    pub(super) may_sleep: bool,
    /// Whether a port may open as many flows as it likes while others have frames, where there is a
    /// choice.
    pub(super) unlimited_flows: bool,
}

impl Settings {
    /// One pair of ports, on `core` alone.
    pub(super) fn on(core: usize) -> Self {
        Self {
            core,
            alone: true,
            pairs: 1,
            may_sleep: false,
            unlimited_flows: false,
        }
    }

    /// Where the process is to be.
    pub(super) fn process_core(&self) -> Option<usize> {
        self.alone.then_some(self.core)
    }
}

/// A switch with pairs of ports, connecting as a client to [`Contender::sockets`]. It runs when made.
pub(super) trait Contender {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// Where it looks for the guests of a pair.
    fn sockets(&self, pair: usize) -> [PathBuf; 2];

    /// Whether it can do that at all.
    fn can(&self, _case: Case) -> bool {
        true
    }

    /// The command that makes this happen to frames from then on.
    ///
    /// # Errors
    /// When it cannot be prepared.
    fn change(&mut self, case: Case) -> anyhow::Result<Command>;

    /// Forgets what it knows of flows, where it would rather keep what is slower than need be.
    ///
    /// # Errors
    /// When it refuses.
    fn settle(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// From now on what passes the first port, either way, is copied to the third; or no longer.
    ///
    /// # Errors
    /// When the switch refuses, or cannot.
    fn mirror(&mut self, _on: bool) -> anyhow::Result<()> {
        anyhow::bail!("{} does not mirror", self.name())
    }

    /// From now on this is what happens to frames.
    ///
    /// # Errors
    /// When the switch refuses.
    fn enforce(&mut self, case: Case) -> anyhow::Result<()> {
        process::run(&mut self.change(case)?)?;
        self.settle()
    }

    /// Changes routes of the router that takes what the first port sends in [`Case::Routed`].
    ///
    /// # Errors
    /// When the switch refuses, or cannot.
    fn change_routes(&mut self, _change: &RouteChange) -> anyhow::Result<()> {
        anyhow::bail!("{} has no routes", self.name())
    }

    /// The process that moves frames.
    fn process(&mut self) -> &mut Process;
}

/// Paths of so many sockets in a directory.
pub(super) fn socket_names(pair: usize) -> [String; 2] {
    [0, 1].map(|side| format!("v{}.sock", 2 * pair + side))
}
