//! What the bench asks of a switch, whichever it is.

use std::path::PathBuf;

use crate::process::Process;

/// What the switch has to do with the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Each port's frames leave at the other.
    PortToPort,
    /// The same, where rules allow it that lie among the flows' addresses: see `rules`.
    Acl,
    /// The same, where the rules are far from any flow.
    AclElsewhere,
}

impl Case {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::PortToPort => "port-to-port",
            Self::Acl => "acl",
            Self::AclElsewhere => "acl-elsewhere",
        }
    }

    /// Rules in force.
    pub fn rules(self) -> u32 {
        match self {
            Self::PortToPort => 0,
            Self::Acl | Self::AclElsewhere => super::rules::RULES,
        }
    }
}

/// A switch with two ports, connecting as a client to [`Contender::sockets`]. It runs when made.
pub(super) trait Contender {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// Where it looks for guests.
    fn sockets(&self) -> [PathBuf; 2];

    /// Whether it can do that at all.
    fn can(&self, _case: Case) -> bool {
        true
    }

    /// From now on this is what happens to frames.
    ///
    /// # Errors
    /// When the switch refuses.
    fn enforce(&mut self, case: Case) -> anyhow::Result<()>;

    /// The process that moves frames.
    fn process(&mut self) -> &mut Process;
}
