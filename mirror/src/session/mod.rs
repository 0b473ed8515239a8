//! Mirror sessions: what a tenant asks for, checked, and made ready for the worker.
//!
//! ```text
//!   Session (the request) ──prepare──► Ready ─┬─ wants    pure, so that a verdict can hold it
//!                                             ├─ Sampler  a worker's own
//!                                             ├─ Purse    a worker's own, filled from the Budget
//!                                             └─ cut      how much of the frame, and in how many pieces
//! ```
//!
//! What must hold: only a session of the source's owner is made ready; a sniffer or a tunnel's port
//! is never a source; only what is ready is compiled.
//!
//! Rooms: [`filter`], [`sampling`], [`budget`], [`skip`] (why a frame was not copied).

use std::sync::Arc;

use policy::{
    KeyReader, RuleId,
    rule::{Direction, RuleList},
};

use crate::wire::{Template, Tunnel, TunnelError, encode::Fit};

pub mod budget;
pub mod filter;
pub mod sampling;
pub mod skip;

pub use budget::{Budget, Limits, Purse, Rate};
pub use filter::{Filter, FilterError};
pub use sampling::{Sampler, Sampling};
pub use skip::{CopyCounters, Skip};

/// No frame is longer, in bytes: what IP calls 64 KiB, behind Ethernet and its tags.
pub const MAX_FRAME_BYTES: u32 = 65_535 + 14 + 4 * 2;

/// The shortest that copies may be cut to, in bytes: Ethernet, a tag, IPv6 and TCP stay whole.
pub const MIN_TRUNCATE_BYTES: u32 = 78;

/// What is mirrored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A VM's interface.
    Vnic(Arc<str>),
    /// A port, whatever is bound to it.
    Port(Arc<str>),
    /// Every port of a network.
    Network(Arc<str>),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vnic(name) => write!(f, "vnic {name}"),
            Self::Port(name) => write!(f, "port {name}"),
            Self::Network(name) => write!(f, "network {name}"),
        }
    }
}

/// Which frames of a source are mirrored. As for rules: in is to the VM, and so leaves the switch;
/// out is from the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Directions {
    /// Those to the VM.
    In,
    /// Those from the VM.
    Out,
    /// All.
    Both,
}

impl Directions {
    /// Whether frames of a direction are among them.
    pub fn has(self, direction: Direction) -> bool {
        match self {
            Self::In => direction == Direction::In,
            Self::Out => direction == Direction::Out,
            Self::Both => true,
        }
    }
}

/// A mirror session, as asked for.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its name, one of a kind for its owner.
    pub name: Arc<str>,
    /// The tenant that asked for it, and whose the source must be.
    pub owner: Arc<str>,
    /// What is mirrored.
    pub source: Source,
    /// Which of its frames.
    pub directions: Directions,
    /// Which of those: the first rule that matches decides, `allow` mirrors and `deny` does not; what
    /// no rule matches is not mirrored. Without rules everything is.
    pub filter: RuleList,
    /// Frames that policy rejects are mirrored too.
    pub rejected: bool,
    /// Only so many bytes of each frame are sent.
    pub truncate_bytes: Option<u32>,
    /// Only some frames or flows.
    pub sampling: Sampling,
    /// How many at most.
    pub limits: Limits,
    /// Who is served first when there is not enough for all: the lower number.
    pub priority: u16,
    /// When it ends by itself, in seconds since 1970.
    pub lease_until_s: Option<u64>,
    /// How copies are carried; `None` for those that stay in this process, as they are.
    pub tunnel: Option<Tunnel>,
}

/// What a source is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A tenant's traffic.
    Ordinary,
    /// It receives mirrored frames.
    Sniffer,
    /// Tunnels leave or arrive by it.
    Tunnel,
}

/// What is known of a session's source.
#[derive(Clone, Debug)]
pub struct SourceFacts {
    /// Whose it is.
    pub tenant: Arc<str>,
    /// What it is used for.
    pub role: Role,
}

/// Why there can be no such session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Nothing to call it by.
    #[error("a mirror session needs a name")]
    NoName,
    /// The source does not exist.
    #[error("{0} does not exist; see `vswitch show ports`")]
    NoSource(Source),
    /// Somebody else's traffic.
    #[error("{source_name} is not tenant \"{owner}\"'s; a tenant mirrors only what is its own")]
    NotOwner {
        /// What was asked for.
        source_name: Source,
        /// Who asked.
        owner: Arc<str>,
    },
    /// It would mirror the mirror.
    #[error("{0} receives mirrored frames; it cannot be mirrored itself")]
    SniffedSniffer(Source),
    /// It would mirror the mirror.
    #[error("tunnels pass {0}; it cannot be mirrored")]
    TunnelPort(Source),
    /// A rule of the filter that a filter cannot have.
    #[error("filter rule {position}: {error}")]
    Filter {
        /// Which rule, from 1.
        position: usize,
        /// What is wrong with it.
        error: FilterError,
    },
    /// Headers would be cut.
    #[error("truncating to {0} bytes cuts headers off; give at least {MIN_TRUNCATE_BYTES}")]
    Truncate(u32),
    /// Nothing would ever be mirrored.
    #[error("a budget of 0 mirrors nothing; give at least 1, or leave it out")]
    NoBudget,
    /// The longest frame would never fit.
    #[error("a burst of {burst} bits is less than one copy of {least}; raise it")]
    Burst {
        /// What was given.
        burst: u64,
        /// What the longest copy takes.
        least: u64,
    },
    /// The tunnel cannot be.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
}

impl Session {
    /// Checks the session and makes it ready. `source` is what is known of its source, `former` the
    /// session that it changes, whose budget goes on if it stays the same.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn prepare(
        &self,
        source: Option<&SourceFacts>,
        former: Option<&Ready>,
    ) -> Result<Ready, SessionError> {
        if self.name.is_empty() {
            return Err(SessionError::NoName);
        }
        let named = || self.source.clone();
        let facts = source.ok_or_else(|| SessionError::NoSource(named()))?;
        if facts.tenant != self.owner {
            let (source_name, owner) = (named(), Arc::clone(&self.owner));
            return Err(SessionError::NotOwner { source_name, owner });
        }
        match facts.role {
            Role::Ordinary => {}
            Role::Sniffer => return Err(SessionError::SniffedSniffer(named())),
            Role::Tunnel => return Err(SessionError::TunnelPort(named())),
        }
        if let Some(bytes) = self.truncate_bytes.filter(|b| *b < MIN_TRUNCATE_BYTES) {
            return Err(SessionError::Truncate(bytes));
        }
        let template = self.tunnel.as_ref().map(Template::new).transpose()?;
        self.check_limits(template.as_ref())?;
        let filter = Filter::new(&self.filter);
        let filter =
            filter.map_err(|(position, error)| SessionError::Filter { position, error })?;
        let kept = former.filter(|former| former.budget.limits() == self.limits);
        Ok(Ready {
            name: Arc::clone(&self.name),
            owner: Arc::clone(&self.owner),
            directions: self.directions,
            filter,
            rejected: self.rejected,
            truncate_bytes: self.truncate_bytes.unwrap_or(u32::MAX),
            sampling: self.sampling,
            priority: self.priority,
            lease_until_s: self.lease_until_s,
            budget: kept.map_or_else(
                || Arc::new(Budget::new(self.limits)),
                |former| Arc::clone(&former.budget),
            ),
            template,
        })
    }

    fn check_limits(&self, template: Option<&Template>) -> Result<(), SessionError> {
        let rates = [self.limits.frames, self.limits.bits];
        if rates
            .into_iter()
            .flatten()
            .any(|r| r.per_second == 0 || r.burst == 0)
        {
            return Err(SessionError::NoBudget);
        }
        let tunnelled = self
            .tunnel
            .as_ref()
            .zip(template)
            .map(|(tunnel, template)| u64::from(tunnel.mtu_bytes) + template.len_bytes() as u64);
        let most = tunnelled.unwrap_or(MAX_FRAME_BYTES.into());
        match self.limits.bits {
            Some(Rate { burst, .. }) if burst < most * 8 => {
                let least = most * 8;
                Err(SessionError::Burst { burst, least })
            }
            _ => Ok(()),
        }
    }
}

/// A session that copies can be made for.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Its name.
    pub name: Arc<str>,
    /// Whose it is.
    pub owner: Arc<str>,
    directions: Directions,
    filter: Filter,
    rejected: bool,
    truncate_bytes: u32,
    /// Which of the frames that it wants are copied.
    pub sampling: Sampling,
    /// Who is served first: the lower number.
    pub priority: u16,
    lease_until_s: Option<u64>,
    /// How many copies may be made, over all workers.
    pub budget: Arc<Budget>,
    /// What stands before each copy that is carried somewhere.
    pub template: Option<Template>,
}

/// Why a session does not want a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwanted {
    /// It goes the other way.
    Direction,
    /// Policy rejects it, and the session is for what passes.
    Rejected,
    /// The filter leaves it out: by this rule, or because none matches.
    Filter(Option<RuleId>),
}

/// How much of a frame is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of the frame, from its first.
    pub len: u32,
    /// It is less than all of it.
    pub truncated: bool,
    /// It is sent in [`pieces`](Template::piece).
    pub fragments: bool,
}

impl Ready {
    /// Whether the session wants frames with a key. The same for all frames that the reader cannot
    /// tell apart, so that a cached verdict can hold the answer.
    pub fn wants<R: KeyReader>(
        &self,
        reader: &mut R,
        direction: Direction,
        accepted: bool,
    ) -> bool {
        self.directions.has(direction) && (accepted || self.rejected) && self.filter.selects(reader)
    }

    /// Why the session does not want what [`wants`](Self::wants) is false for.
    pub fn unwanted<R: KeyReader>(
        &self,
        reader: &mut R,
        direction: Direction,
        accepted: bool,
    ) -> Option<Unwanted> {
        if self.wants(reader, direction, accepted) {
            None
        } else if !self.directions.has(direction) {
            Some(Unwanted::Direction)
        } else if !accepted && !self.rejected {
            Some(Unwanted::Rejected)
        } else {
            Some(Unwanted::Filter(self.filter.decider(reader)))
        }
    }

    /// Whether it depends on a frame's key which frames of its directions are wanted or copied.
    #[inline]
    pub fn reads_key(&self) -> bool {
        self.filter.is_some() || matches!(self.sampling, Sampling::Flows(_))
    }

    /// How many bytes a copy is longer than what is copied.
    #[inline]
    pub fn overhead_bytes(&self) -> u32 {
        self.template.as_ref().map_or(0, |t| t.len_bytes() as u32)
    }

    /// The longest frame that a tunnel carries whole, if every frame of its directions is wanted,
    /// whatever is in it.
    pub fn plain_most(&self) -> Option<u32> {
        let is_plain = !self.filter.is_some() && self.sampling == Sampling::All;
        let template = self.template.as_ref().filter(|_| is_plain)?;
        Some(self.truncate_bytes.min(template.whole_most()))
    }

    /// Whether frames that policy rejects are wanted.
    #[inline]
    pub fn wants_rejected(&self) -> bool {
        self.rejected
    }

    /// Which frames of its source are wanted.
    pub fn directions(&self) -> Directions {
        self.directions
    }

    /// How much of a frame of `frame_len` bytes is sent.
    ///
    /// # Errors
    /// [`Skip::TooLong`].
    #[inline]
    pub fn cut(&self, frame_len: u32) -> Result<Cut, Skip> {
        let len = frame_len.min(self.truncate_bytes);
        let fit = self.template.as_ref().map(|template| template.fit(len));
        let (len, fragments) = match fit {
            None | Some(Fit::Whole) => (len, false),
            Some(Fit::Truncated(len)) => (len, false),
            Some(Fit::Fragments) => (len, true),
            Some(Fit::TooLong) => return Err(Skip::TooLong),
        };
        Ok(Cut {
            len,
            truncated: len < frame_len,
            fragments,
        })
    }

    /// Whether its time has passed.
    pub fn is_over(&self, now_s: u64) -> bool {
        self.lease_until_s.is_some_and(|until| until <= now_s)
    }

    /// What sessions of one source are sorted by: who is served first stands first.
    pub fn precedence(&self) -> (u16, Arc<str>) {
        (self.priority, Arc::clone(&self.name))
    }
}
