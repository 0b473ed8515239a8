//! What a session would do with a frame that is not there.
//!
//! In: a session, a frame's first bytes and key. Out: what [`Copier`](super::Copier) would do, asked in
//! its order. What must hold: nothing is counted, taken from a budget, or sent.

use std::num::NonZeroU32;

use mirror::session::{Cut, Sampler, Sampling, Skip, Unwanted};
use policy::{FlowKey, reader::Exact, rule::Direction};

use super::{Mirrors, Session};

/// A frame that a session may copy.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its first bytes, as [`policy::parse()`] wants them.
    pub head: &'a [u8],
    /// How long it is, in bytes.
    pub len: usize,
    /// What its headers say.
    pub key: &'a FlowKey,
    /// Whether it is from the port's VM, or to it.
    pub direction: Direction,
    /// Policy lets it pass.
    pub accepted: bool,
}

/// What a session would do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreseen {
    /// It copies so much of it, if its budget is not used up and the tunnel's port has room.
    Copied(Cut),
    /// It copies one in so many such frames.
    OneIn(NonZeroU32, Cut),
    /// It does not want it.
    Unwanted(Unwanted),
    /// It wants it, and does not copy it.
    Skipped(Skip),
}

impl Mirrors {
    /// What a session in force would do with a frame.
    pub fn foresee(&self, session: &Session, seen: &Seen<'_>) -> Foreseen {
        let ready = &session.ready;
        let unwanted = ready.unwanted(&mut Exact(seen.key), seen.direction, seen.accepted);
        if let Some(why) = unwanted {
            return Foreseen::Unwanted(why);
        }
        let secret = session.shared.secret;
        let by_flow = matches!(ready.sampling, Sampling::Flows(_));
        if by_flow && !Sampler::new(0).takes(ready.sampling, seen.key, secret) {
            return Foreseen::Skipped(Skip::NotSampled);
        }
        if self.is_nested(seen.head, seen.len) {
            return Foreseen::Skipped(Skip::Nested);
        }
        if session.way.is_none() {
            return Foreseen::Skipped(Skip::Unreachable);
        }
        match (ready.cut(seen.len as u32), ready.sampling) {
            (Err(skip), _) => Foreseen::Skipped(skip),
            (Ok(cut), Sampling::Frames(one_in)) => Foreseen::OneIn(one_in, cut),
            (Ok(cut), Sampling::All | Sampling::Flows(_)) => Foreseen::Copied(cut),
        }
    }
}
