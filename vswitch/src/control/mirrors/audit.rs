//! What was done to mirror sessions: a line of the log each, and the last of them in memory.

use std::{
    collections::VecDeque,
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::api::mirror_types::MirrorAudit;

/// How many are remembered.
const MOST: usize = 1024;

/// Who does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The process at the other end of the control socket.
    Peer {
        /// Its user.
        uid: u32,
        /// Its number, if the system knows it.
        pid: Option<i32>,
    },
    /// The switch itself.
    Switch,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer {
                uid,
                pid: Some(pid),
            } => write!(f, "uid {uid} pid {pid}"),
            Self::Peer { uid, pid: None } => write!(f, "uid {uid}"),
            Self::Switch => f.write_str("vswitch"),
        }
    }
}

/// Seconds since 1970.
pub(super) fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What was done last.
#[derive(Debug, Default)]
pub(in crate::control) struct Audit(VecDeque<MirrorAudit>);

impl Audit {
    pub(super) fn note(
        &mut self,
        who: Who,
        (owner, session): (&str, &str),
        action: &str,
        detail: String,
    ) {
        let who = who.to_string();
        tracing::info!(target: "audit", who, owner, session, action, detail, "mirror session");
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(MirrorAudit {
            time_s: now_s(),
            who,
            owner: owner.to_owned(),
            session: session.to_owned(),
            action: action.to_owned(),
            detail,
        });
    }

    pub(super) fn rows(&self) -> Vec<MirrorAudit> {
        self.0.iter().cloned().collect()
    }
}
