//! Which session's frames go to which sniffers: one immutable table, replaced as a whole.
//!
//! In comes what tenants have now, and the table before; out goes the next one, with a version. What
//! must hold:
//! - a session's sniffers are its tenant's own, or there is no table;
//! - a session keeps its slot, and so its counts, as long as its name, tenant and identity stay;
//! - every delivery carries the version that it was decided by. A sniffer that lost a session gets
//!   nothing of an older version from then on: [`Table::admits`] tells, and whoever sends what waits
//!   in a sniffer's queue asks it. So when the decapsulator and the senders have said that they
//!   have taken the table over, no frame goes to a former owner.

use std::{ops::Range, sync::Arc};

use hashbrown::{HashMap, HashSet};
use policy::Mac;

use crate::wire::Identity;

/// A sniffer's number while it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnifferId(pub u16);

/// A session's number while it exists: an index into the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionSlot(pub u32);

impl SessionSlot {
    /// As an index.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The number of a table; grows with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// A tenant's sniffer, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sniffer {
    /// Its number.
    pub id: SnifferId,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// The Ethernet destination that it receives frames with.
    pub mac: Mac,
}

/// How a session's frames are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FanOut {
    /// Each sniffer gets all of them.
    All,
    /// Each flow goes to one sniffer, both directions to the same.
    Spread,
}

/// A session to decapsulate, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reception {
    /// Its name.
    pub name: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// What names it on the wire.
    pub identity: Identity,
    /// Who gets its frames.
    pub sniffers: Vec<SnifferId>,
    /// How they are shared out.
    pub fan_out: FanOut,
    /// What another session of the tenant has delivered is left out.
    pub once: bool,
}

/// Why there can be no such table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Counters are allocated at the start.
    #[error("there are {count} sessions; the decapsulator was started for {most}")]
    TooManySessions {
        /// How many were asked for.
        count: usize,
        /// How many there can be.
        most: usize,
    },
    /// Nobody could tell whose frames they are.
    #[error(
        "sessions \"{first}\" and \"{second}\" are both received as {identity}; give one another number or address"
    )]
    SameIdentity {
        /// One of them.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
        /// What both are known by.
        identity: Identity,
    },
    /// Two sniffers of one number.
    #[error("there are two sniffers with number {}", .0.0)]
    SameSniffer(SnifferId),
    /// Its frames would reach more than itself.
    #[error("sniffer {}'s address {mac} is a group's; give one host's", .id.0)]
    SnifferMac {
        /// Which sniffer.
        id: SnifferId,
        /// Its address.
        mac: Mac,
    },
    /// A session for a sniffer that does not exist.
    #[error("session \"{session}\" names sniffer {}, which does not exist", .sniffer.0)]
    UnknownSniffer {
        /// The session.
        session: Arc<str>,
        /// The sniffer.
        sniffer: SnifferId,
    },
    /// A session for another tenant's sniffer.
    #[error("session \"{session}\" of tenant \"{tenant}\" names sniffer {} of tenant \"{other}\"; a tenant's frames go to its own sniffers", .sniffer.0)]
    ForeignSniffer {
        /// The session.
        session: Arc<str>,
        /// Its tenant.
        tenant: Arc<str>,
        /// The sniffer.
        sniffer: SnifferId,
        /// The sniffer's tenant.
        other: Arc<str>,
    },
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The sniffer.
    pub sniffer: SnifferId,
    /// Its address.
    pub mac: Mac,
}

impl Target {
    /// What stands before [`Delivery::rest`](super::Delivery::rest).
    #[inline]
    pub fn prefix(&self) -> [u8; 6] {
        self.mac.0
    }
}

/// A session's entry.
#[derive(Clone, Debug)]
struct Route {
    reception: Reception,
    /// The version that gave it its slot.
    since: Version,
    /// The same for all sessions of a tenant, and no other's.
    tenant: u32,
}

/// What every frame of a session asks for, apart from what none does.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Path {
    /// Its targets: so many from the first.
    first: u32,
    count: u32,
    /// The same for all sessions of a tenant, and no other's.
    pub(super) tenant: u32,
    spread: bool,
    /// Duplicates are left out.
    pub(super) once: bool,
}

impl Path {
    /// The targets of a frame: all, or the one that a hash chooses.
    #[inline]
    pub(super) fn choose(self, hash: impl FnOnce() -> u64) -> Range<usize> {
        let (first, count) = (self.first as usize, self.count as usize);
        if !self.spread || count < 2 {
            return first..first + count;
        }
        let chosen = (u128::from(hash()) * count as u128) >> 64;
        let one = first + chosen as usize;
        one..one + 1
    }
}

#[derive(Clone, Debug)]
struct Known {
    sniffer: Sniffer,
    /// What was decided before is not for it.
    admits_from: Version,
}

/// One version of which session's frames go to which sniffers.
#[derive(Clone, Debug, Default)]
pub struct Table {
    version: Version,
    sessions: HashMap<Identity, SessionSlot>,
    /// Between which addresses there are sessions.
    ends: HashSet<(u128, u128)>,
    routes: Box<[Option<Route>]>,
    paths: Box<[Path]>,
    targets: Box<[Target]>,
    sniffers: HashMap<SnifferId, Known>,
}

impl Table {
    /// A table without sessions, that has room for `most`.
    pub fn empty(most: usize) -> Self {
        Self {
            routes: vec![None; most].into(),
            paths: vec![Path::default(); most].into(),
            ..Self::default()
        }
    }

    /// The table that follows this one.
    ///
    /// # Errors
    /// What is asked for contradicts itself, or would give a tenant's frames to another.
    pub fn next(&self, sessions: &[Reception], sniffers: &[Sniffer]) -> Result<Self, TableError> {
        let (count, most) = (sessions.len(), self.routes.len());
        if count > most {
            return Err(TableError::TooManySessions { count, most });
        }
        let mut next = Self::empty(most);
        next.version = Version(self.version.0 + 1);
        next.add_sniffers(sniffers)?;
        let mut tenants: HashMap<Arc<str>, u32> = HashMap::new();
        let mut newcomers = Vec::new();
        for session in sessions {
            let number = tenants.len() as u32;
            let tenant = *tenants.entry(Arc::clone(&session.tenant)).or_insert(number);
            match self.slot_of(session) {
                Some((slot, since)) => next.add(session, slot, since, tenant)?,
                None => newcomers.push((session, tenant)),
            }
        }
        let mut free = 0..most;
        for (session, tenant) in newcomers {
            let slot = free.find(|slot| next.routes[*slot].is_none());
            let Some(slot) = slot else { break };
            next.add(session, SessionSlot(slot as u32), next.version, tenant)?;
        }
        next.close(self);
        Ok(next)
    }

    fn add_sniffers(&mut self, sniffers: &[Sniffer]) -> Result<(), TableError> {
        for sniffer in sniffers {
            let (id, mac) = (sniffer.id, sniffer.mac);
            if mac.is_group() {
                return Err(TableError::SnifferMac { id, mac });
            }
            let known = Known {
                sniffer: sniffer.clone(),
                admits_from: self.version,
            };
            if self.sniffers.insert(id, known).is_some() {
                return Err(TableError::SameSniffer(id));
            }
        }
        Ok(())
    }

    /// The slot that a session has, if it is the same session.
    fn slot_of(&self, session: &Reception) -> Option<(SessionSlot, Version)> {
        let slot = *self.sessions.get(&session.identity)?;
        let route = self.routes[slot.index()].as_ref()?;
        let same = route.reception.tenant == session.tenant && route.reception.name == session.name;
        same.then_some((slot, route.since))
    }

    fn add(
        &mut self,
        session: &Reception,
        slot: SessionSlot,
        since: Version,
        tenant: u32,
    ) -> Result<(), TableError> {
        for sniffer in &session.sniffers {
            let known = self.sniffers.get(sniffer);
            let known = known.ok_or_else(|| TableError::UnknownSniffer {
                session: Arc::clone(&session.name),
                sniffer: *sniffer,
            })?;
            if known.sniffer.tenant != session.tenant {
                return Err(TableError::ForeignSniffer {
                    session: Arc::clone(&session.name),
                    tenant: Arc::clone(&session.tenant),
                    sniffer: *sniffer,
                    other: Arc::clone(&known.sniffer.tenant),
                });
            }
        }
        let identity = session.identity;
        if let Some(first) = self.sessions.insert(identity, slot) {
            let first = self.routes[first.index()].as_ref();
            return Err(TableError::SameIdentity {
                first: first.map_or_else(|| "".into(), |route| Arc::clone(&route.reception.name)),
                second: Arc::clone(&session.name),
                identity,
            });
        }
        self.ends.insert((identity.source, identity.destination));
        self.routes[slot.index()] = Some(Route {
            reception: session.clone(),
            since,
            tenant,
        });
        Ok(())
    }

    /// Lays the targets out, and decides from which version on each sniffer admits frames.
    fn close(&mut self, former: &Self) {
        let mut targets = Vec::new();
        for (route, path) in self.routes.iter().zip(&mut self.paths) {
            let Some(route) = route else { continue };
            let first = targets.len();
            for sniffer in &route.reception.sniffers {
                if let Some(known) = self.sniffers.get(sniffer) {
                    let (sniffer, mac) = (*sniffer, known.sniffer.mac);
                    targets.push(Target { sniffer, mac });
                }
            }
            *path = Path {
                first: first as u32,
                count: (targets.len() - first) as u32,
                tenant: route.tenant,
                spread: route.reception.fan_out == FanOut::Spread,
                once: route.reception.once,
            };
        }
        self.targets = targets.into();

        for known in self.sniffers.values_mut() {
            let before = former.sniffers.get(&known.sniffer.id);
            if let Some(before) = before.filter(|before| before.sniffer == known.sniffer) {
                known.admits_from = before.admits_from;
            }
        }
        for (slot, route) in former.routes.iter().enumerate() {
            let Some(route) = route else { continue };
            let now = self.routes[slot].as_ref();
            let now = now.filter(|now| now.since == route.since);
            for lost in &route.reception.sniffers {
                if now.is_none_or(|now| !now.reception.sniffers.contains(lost))
                    && let Some(known) = self.sniffers.get_mut(lost)
                {
                    known.admits_from = self.version;
                }
            }
        }
    }

    /// Its number.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How many sessions it has room for.
    pub fn room(&self) -> usize {
        self.routes.len()
    }

    /// Every session, with its slot.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionSlot, &Reception)> {
        let routes = self.routes.iter().enumerate();
        routes.filter_map(|(slot, route)| {
            Some((SessionSlot(slot as u32), &route.as_ref()?.reception))
        })
    }

    /// The session that is known by an identity.
    #[inline]
    pub fn find(&self, identity: &Identity) -> Option<SessionSlot> {
        self.sessions.get(identity).copied()
    }

    /// Whether what was decided by `version` may still be sent to a sniffer.
    pub fn admits(&self, sniffer: SnifferId, version: Version) -> bool {
        let from = self.admits_from(sniffer);
        from.is_some_and(|from| version >= from)
    }

    /// From which version on a sniffer may be sent what was decided; `None` when there is no such
    /// sniffer.
    pub fn admits_from(&self, sniffer: SnifferId) -> Option<Version> {
        self.sniffers.get(&sniffer).map(|known| known.admits_from)
    }

    /// The Ethernet destination that a sniffer receives frames with.
    pub fn mac(&self, sniffer: SnifferId) -> Option<Mac> {
        self.sniffers.get(&sniffer).map(|known| known.sniffer.mac)
    }

    /// Whether there is a session between two addresses.
    pub(super) fn has_ends(&self, source: u128, destination: u128) -> bool {
        self.ends.contains(&(source, destination))
    }

    /// Reads of a session's path what is enough to have it near.
    #[inline]
    pub(super) fn touch(&self, slot: SessionSlot) -> u32 {
        self.paths.get(slot.index()).map_or(0, |path| path.first)
    }

    /// Where the frames of a session go.
    #[inline]
    pub(super) fn path(&self, slot: SessionSlot) -> Option<Path> {
        self.paths.get(slot.index()).copied()
    }

    #[inline]
    pub(super) fn target(&self, range: Range<usize>) -> &[Target] {
        &self.targets[range]
    }

    /// The version since which a slot belongs to whom it belongs to.
    pub fn since(&self, slot: SessionSlot) -> Option<Version> {
        self.routes
            .get(slot.index())?
            .as_ref()
            .map(|route| route.since)
    }
}
