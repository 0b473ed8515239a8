//! Sessions that are sent but not known: the few that matter, whatever number of them is invented.
//!
//! What must hold: memory is constant; a session that sends more than chance keeps its entry.

use crate::wire::Identity;

const SETS: usize = 16;
const WAYS: usize = 4;

/// A session that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownSession {
    /// What names it.
    pub identity: Identity,
    /// Frames that came of it since it is listed, at least.
    pub frames: u64,
    /// When the last one came.
    pub last_seen_ns: u64,
}

/// The unknown sessions that are listed.
#[derive(Debug, Default)]
pub struct UnknownSessions {
    sets: [[Option<UnknownSession>; WAYS]; SETS],
}

impl UnknownSessions {
    /// Counts a frame. Where there is no room, those that are there lose a frame each, and who has
    /// none left its place (Misra and Gries, 1982).
    pub(crate) fn count(&mut self, identity: Identity, hash: u64, now_ns: u64) {
        let set = &mut self.sets[hash as usize % SETS];
        let mut listed = set.iter_mut().flatten();
        if let Some(found) = listed.find(|found| found.identity == identity) {
            found.frames += 1;
            found.last_seen_ns = now_ns;
            return;
        }
        let newcomer = UnknownSession {
            identity,
            frames: 1,
            last_seen_ns: now_ns,
        };
        if let Some(free) = set.iter_mut().find(|entry| entry.is_none()) {
            *free = Some(newcomer);
            return;
        }
        for entry in set {
            *entry = entry.and_then(|found| {
                let frames = found.frames.checked_sub(1).filter(|frames| *frames > 0)?;
                Some(UnknownSession { frames, ..found })
            });
        }
    }

    /// Those that are listed.
    pub fn iter(&self) -> impl Iterator<Item = &UnknownSession> {
        self.sets.iter().flatten().flatten()
    }
}
