//! A frame's connection, on its way through the slow path.
//!
//! In: a frame of a class that is tracked at its port. Out: whether it may pass because of its
//! connection, and a [`Token`] that the verdict rests on.
//!
//! ```text
//!   begin ─► Absent ── rules are asked about the frame ──────────────► opened, where one says so
//!        ├─► Member ── rules are asked about the frame that opened it ─► advanced, or removed
//!        └─► Related ─ the same, for an ICMP error about a member        (never kept)
//! ```
//!
//! A later fragment, which has no ports, goes where the first of its packet was let through.
//!
//! What must hold: a connection permits what today's rules allow statefully of the frame that
//! opened it, each side for itself. A side that allows that no more, or never did, judges the
//! frame itself.

use policy::{
    Denial, DropReason, FlowKey, NetworkId, PortId, RuleId,
    conntrack::{
        Connections, Direction, Found, Probe, Settings, Sought, Token, Tuple, Zone,
        fragments::{FragmentKey, Grant},
        packet::flags,
        table::{DEFAULT_LIMIT, Opening},
        tcp::{Step, Tcp},
    },
    key::shape,
    parse::Parsed,
    reader::Exact,
    snapshot::{Pass, PortPolicy, Snapshot, VnicPolicy},
};

use crate::slow_path::Observer;

/// What is known of a frame's connection.
#[derive(Clone, Copy, Debug)]
enum Known {
    /// It can have none.
    Nothing,
    /// It has none; the token says so.
    Absent(Token),
    /// It belongs to this one.
    Member(Found),
    /// It is a later fragment of a packet whose first was let through.
    Follower(Grant),
    /// It is a later fragment of none.
    Stray,
    /// It is an ICMP error about a frame of this one, which went in the direction given.
    Related(Found, Tuple),
}

/// Who passes because of what.
#[derive(Debug)]
pub(crate) struct Trail<'a> {
    connections: &'a Connections,
    settings: &'a Settings,
    zone: Zone,
    now_s: u32,
    probe: Option<Probe>,
    /// Of a fragment.
    fragment: Option<FragmentKey>,
    known: Known,
    /// A rule allowed the frame itself statefully.
    wanted: bool,
    /// A side let the frame pass because of its connection.
    committed: bool,
}

/// What a verdict rests on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Footing {
    pub(crate) token: Token,
    /// Whether the next frame with this key would fare the same as long as the token stands.
    pub(crate) cacheable: bool,
}

impl<'a> Trail<'a> {
    /// Looks for the frame's connection. `head` is what `parsed` was parsed from.
    pub(crate) fn begin<O: Observer>(
        snapshot: &'a Snapshot,
        connections: &'a Connections,
        network: NetworkId,
        now_s: u32,
        head: &[u8],
        parsed: &Parsed,
    ) -> Self {
        let zone = network.into();
        let mut trail = Self {
            connections,
            settings: snapshot.connections(),
            zone,
            now_s,
            probe: Probe::read(head, parsed),
            fragment: FragmentKey::read(zone, head, parsed),
            known: Known::Nothing,
            wanted: false,
            committed: false,
        };
        trail.known = if parsed.key.has(shape::LATER_FRAGMENT) {
            let follow = |key| connections.fragments().follow(&key, now_s);
            let grant = trail.fragment.and_then(follow);
            grant.map_or(Known::Stray, Known::Follower)
        } else {
            trail.seek::<O>(&parsed.key)
        };
        trail
    }

    fn seek<O: Observer>(&self, key: &FlowKey) -> Known {
        let timeouts = &self.settings.timeouts;
        let find = |tuple| {
            self.connections
                .find(self.zone, tuple, timeouts, self.now_s)
        };
        match self.probe {
            None => Known::Nothing,
            Some(Probe::Error { about, seq }) => self
                .connections
                .concerned(self.zone, &about, seq, timeouts, self.now_s)
                .map_or(Known::Nothing, |found| Known::Related(found, about)),
            Some(probe) => {
                let Some(tuple) = Tuple::of(key) else {
                    return Known::Nothing;
                };
                match find(&tuple) {
                    Sought::Absent(token) => Known::Absent(token),
                    Sought::Found(found) if O::LEARNS && found.over && opens(&probe) => {
                        self.connections.remove(found.token);
                        match find(&tuple) {
                            Sought::Absent(token) => Known::Absent(token),
                            Sought::Found(found) => Known::Member(found),
                        }
                    }
                    Sought::Found(found) => Known::Member(found),
                }
            }
        }
    }

    /// Refuses a fragment that nothing can be known of.
    pub(crate) fn check_fragment(&self) -> Result<(), Denial> {
        match self.known {
            Known::Stray => Err(Denial::new(DropReason::FragmentUnknown)),
            _ => Ok(()),
        }
    }

    /// Judges a frame from a vNIC; `Ok` holds the rule that lets it pass, if one does.
    pub(crate) fn judge_sender(
        &mut self,
        vnic: &VnicPolicy,
        key: &FlowKey,
    ) -> Result<Option<RuleId>, Denial> {
        let permitted = match &self.known {
            Known::Follower(_) => return Ok(None),
            Known::Member(found) => permits(vnic, key.ingress(), found.direction, &found.opener),
            // A router on the way may send it too; that one's own rules judge it.
            Known::Related(found, about) if comes_from_end(key, about) => {
                let side = found.direction.reverse();
                permits(vnic, key.ingress(), side, &found.opener)
            }
            Known::Related(..) | Known::Absent(_) | Known::Nothing | Known::Stray => None,
        };
        if let Some(pass) = permitted {
            self.committed = true;
            return Ok(pass.rule);
        }
        let pass = vnic.pass_outbound(&mut Exact(key))?;
        self.wanted |= pass.stateful;
        Ok(pass.rule)
    }

    /// Judges a frame to the vNIC of port `to`; `Ok` holds the rule that lets it pass, if one does.
    pub(crate) fn judge_receiver(
        &mut self,
        vnic: &VnicPolicy,
        to: PortId,
        key: &FlowKey,
    ) -> Result<Option<RuleId>, Denial> {
        let direction = match &self.known {
            Known::Member(found) => Some((found.direction.reverse(), &found.opener)),
            Known::Related(found, _) => Some((found.direction, &found.opener)),
            Known::Follower(grant) if grant.to == Some(to) => return Ok(None),
            Known::Absent(_) | Known::Nothing | Known::Follower(_) | Known::Stray => None,
        };
        // The receiver is the side that sends in the other direction.
        let permitted = direction.and_then(|(side, opener)| permits(vnic, to, side, opener));
        if let Some(pass) = permitted {
            self.committed = true;
            return Ok(pass.rule);
        }
        let pass = vnic.pass_inbound(&mut Exact(key))?;
        self.wanted |= pass.stateful;
        Ok(pass.rule)
    }

    /// What a verdict rests on that denies the frame before it has a destination.
    pub(crate) fn refused<O: Observer>(&self, snapshot: &Snapshot) -> Footing {
        match &self.known {
            Known::Member(found) => {
                let at = found.opener.ingress();
                let opener = match found.direction {
                    // Its own rules allow it no more.
                    Direction::Original => None,
                    Direction::Reply => snapshot.port(at),
                };
                let vnic = opener.and_then(|port| port.vnic.as_ref());
                let permitted = self.committed
                    || vnic
                        .and_then(|v| permits(v, at, Direction::Original, &found.opener))
                        .is_some();
                if O::LEARNS && !permitted {
                    self.connections.remove(found.token);
                }
                Footing {
                    token: found.token,
                    cacheable: permitted && !self.changes_state(),
                }
            }
            _ => self.footing(),
        }
    }

    /// The end of the way for a frame that is not there: what [`Trail::settle`] would make of a
    /// frame that its connection takes.
    pub(crate) fn foresee(&self, passes: bool) -> Footing {
        let abandoned = matches!(self.known, Known::Member(_)) && !self.committed;
        let opens = self.wanted && passes && self.changes_state();
        let mut footing = self.footing();
        footing.cacheable &= !abandoned && !opens && self.fragment.is_none();
        footing
    }

    /// The end of the way: `passes` when the frame has a destination that takes it. Opens,
    /// advances or removes the connection. `owner` is whose limit a new one counts against.
    pub(crate) fn settle(
        &mut self,
        passes: bool,
        to: Option<PortId>,
        key: &FlowKey,
        owner: Option<&PortPolicy>,
    ) -> Result<Footing, Denial> {
        let mut footing = self.settle_connection(passes, key, owner)?;
        if let Some(fragment) = self.fragment {
            if passes && key.has(shape::FIRST_FRAGMENT) {
                let fragments = self.connections.fragments();
                fragments.remember(fragment, Grant { to }, self.now_s);
            }
            // Each packet's first fragment is remembered anew.
            footing.cacheable = false;
        }
        Ok(footing)
    }

    fn settle_connection(
        &mut self,
        passes: bool,
        key: &FlowKey,
        owner: Option<&PortPolicy>,
    ) -> Result<Footing, Denial> {
        let Some(probe) = self.probe else {
            return Ok(self.footing());
        };
        if let Known::Member(found) = self.known {
            if self.committed {
                if passes {
                    let step = self.connections.advance(found.token, &probe, self.now_s)?;
                    if step == Step::Reopens {
                        return Err(Denial::new(DropReason::ConnectionInvalid));
                    }
                }
                return Ok(self.footing());
            }
            // Nobody stands up for it any more.
            self.connections.remove(found.token);
        }
        let open = match self.known {
            Known::Absent(_) | Known::Member(_) => self.wanted && passes,
            Known::Nothing | Known::Related(..) | Known::Follower(_) | Known::Stray => false,
        };
        if !open {
            let mut footing = self.footing();
            footing.cacheable &= !matches!(self.known, Known::Member(_));
            return Ok(footing);
        }
        let vnic = owner.and_then(|port| port.vnic.as_ref());
        let opening = Opening {
            zone: self.zone,
            key,
            probe: &probe,
            owner: owner.map_or(key.ingress(), |port| port.id),
            limit: vnic.map_or(DEFAULT_LIMIT, |vnic| vnic.connection_limit),
            loose: self.settings.tcp_loose,
            now_s: self.now_s,
        };
        let token = self.connections.open(&opening, &self.settings.timeouts)?;
        Ok(Footing {
            token,
            cacheable: !self.changes_state(),
        })
    }

    fn footing(&self) -> Footing {
        match &self.known {
            // An error that is about no connection now may be about one tomorrow.
            Known::Nothing => Footing {
                token: Token::UNTRACKED,
                cacheable: !matches!(self.probe, Some(Probe::Error { .. })),
            },
            Known::Related(..) | Known::Follower(_) | Known::Stray => Footing {
                token: Token::UNTRACKED,
                cacheable: false,
            },
            Known::Absent(token) => Footing {
                token: *token,
                cacheable: true,
            },
            Known::Member(found) => Footing {
                token: found.token,
                cacheable: !self.changes_state(),
            },
        }
    }

    fn changes_state(&self) -> bool {
        matches!(self.probe, Some(Probe::Tcp { segment, .. }) if segment.flags & flags::STATE != 0)
    }
}

/// How the vNIC of port `at`, as the side that sends in `side`, lets a connection's frames pass.
/// The side that opened it is the port where that came in, and none that a flood reaches besides.
fn permits(vnic: &VnicPolicy, at: PortId, side: Direction, opener: &FlowKey) -> Option<Pass> {
    let pass = match side {
        Direction::Original if at != opener.ingress() => return None,
        Direction::Original => vnic.pass_outbound(&mut Exact(opener)),
        Direction::Reply => vnic.pass_inbound(&mut Exact(opener)),
    };
    pass.ok().filter(|pass| pass.stateful)
}

fn opens(probe: &Probe) -> bool {
    matches!(probe, Probe::Tcp { segment, .. } if Tcp::opens(segment))
}

/// Whether an ICMP error comes from the end that the packet it is about was sent to.
fn comes_from_end(key: &FlowKey, about: &Tuple) -> bool {
    use policy::Field;
    let source = [key.get(Field::IP_SRC_HIGH), key.get(Field::IP_SRC_LOW)];
    about.is_to(source)
}

/// Whose limit a connection counts against: the vNIC that opens it, or the one it is opened to.
pub(crate) fn owner<'s>(
    snapshot: &'s Snapshot,
    from: &'s PortPolicy,
    to: impl Iterator<Item = PortId>,
) -> Option<&'s PortPolicy> {
    let has_vnic = |port: &&PortPolicy| port.vnic.is_some();
    let mut receivers = to.filter_map(|port| snapshot.port(port));
    Some(from)
        .filter(has_vnic)
        .or_else(|| receivers.find(has_vnic))
}
