//! Frames that were mirrored at both ends, told by a hash of all of their bytes.
//!
//! In come frames of sessions that ask for each once; out goes whether another session of the same
//! tenant has just delivered the same one. What must hold: memory is what was allocated at the
//! start; a frame that one session sends twice is two frames; each frame cancels at most one other.
//!
//! The window is bounded by time and by entries, and when it is too small what is missed is a
//! duplicate, never a frame.

/// Entries that a hash may stand in.
const WAYS: usize = 4;

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    hash: u64,
    /// When it was delivered; 0 for an entry that is free.
    at_ns: u64,
    session: u32,
}

/// Frames that were delivered a moment ago.
#[derive(Debug)]
pub(super) struct Duplicates {
    sets: Box<[[Entry; WAYS]]>,
    window_ns: u64,
}

impl Duplicates {
    /// Room for about `entries` frames of the last `window_ns` nanoseconds.
    pub(super) fn new(entries: usize, window_ns: u64) -> Self {
        let sets = entries.div_ceil(WAYS).next_power_of_two();
        Self {
            sets: vec![[Entry::default(); WAYS]; sets].into(),
            window_ns,
        }
    }

    /// Whether another session has delivered the frame; otherwise it is remembered.
    pub(super) fn is_duplicate(&mut self, hash: u64, session: u32, now_ns: u64) -> bool {
        let now_ns = now_ns.max(1);
        let index = hash as usize & (self.sets.len() - 1);
        let set = &mut self.sets[index];
        let live = |entry: &Entry| {
            entry.at_ns != 0 && now_ns.saturating_sub(entry.at_ns) <= self.window_ns
        };
        let twin = set
            .iter_mut()
            .find(|entry| entry.hash == hash && entry.session != session && live(entry));
        if let Some(entry) = twin {
            *entry = Entry::default();
            return true;
        }
        if let Some(oldest) = set.iter_mut().min_by_key(|entry| entry.at_ns) {
            *oldest = Entry {
                hash,
                at_ns: now_ns,
                session,
            };
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_sessions_send_is_one_frame() {
        let mut duplicates = Duplicates::new(16, 100);
        assert!(!duplicates.is_duplicate(7, 1, 10));
        // The same frame again at the same end, and then both at the other.
        assert!(!duplicates.is_duplicate(7, 1, 11));
        assert!(duplicates.is_duplicate(7, 2, 12));
        assert!(duplicates.is_duplicate(7, 2, 13));
        assert!(!duplicates.is_duplicate(7, 2, 14));
    }

    #[test]
    fn the_window_ends() {
        let mut duplicates = Duplicates::new(16, 100);
        assert!(!duplicates.is_duplicate(7, 1, 10));
        assert!(!duplicates.is_duplicate(7, 2, 111));
        assert!(duplicates.is_duplicate(7, 1, 112));
    }

    #[test]
    fn more_frames_than_entries_only_let_duplicates_pass() {
        let mut duplicates = Duplicates::new(16, u64::MAX);
        let first = (0..1000).filter(|hash| duplicates.is_duplicate(*hash, 1, 1 + hash));
        assert_eq!(first.count(), 0);
        let found = (0..1000)
            .rev()
            .filter(|hash| duplicates.is_duplicate(*hash, 2, 2000));
        assert!((1..=16).contains(&found.count()));
    }
}
