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
//! A rule's limit is of frames, of which each takes a token as it leaves; where a rule allows
//! statefully, it is of connections: the frame that would open one takes the token, here, and no
//! other does. Frames that can have no connection take one each all the same.
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

use crate::{
    meter::{MeterSlot, Meters},
    slow_path::{Inputs, Observer},
};

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

/// How a side lets a frame pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// By this rule, or by default.
    pub rule: Option<RuleId>,
    /// The rule's limit, if each frame takes a token of it; told of a frame that is not there, also
    /// if this one alone would.
    pub meter: Option<MeterSlot>,
    /// Because of its connection, whose opening frame the rule allows.
    pub by_connection: bool,
}

impl Allowed {
    /// No rule was asked, or none matches.
    pub const BY_DEFAULT: Self = Self::by(None);

    const fn by(rule: Option<RuleId>) -> Self {
        Self {
            rule,
            meter: None,
            by_connection: false,
        }
    }

    const fn by_connection(rule: Option<RuleId>) -> Self {
        Self {
            rule,
            meter: None,
            by_connection: true,
        }
    }

    /// The rule that the frame counts for, if that need not wait for a token.
    pub(crate) fn counted_at_once(&self) -> Option<RuleId> {
        self.rule.filter(|_| self.meter.is_none())
    }
}

/// Who passes because of what.
#[derive(Debug)]
pub(crate) struct Trail<'a> {
    meters: &'a Meters,
    now_ns: u64,
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
    tokens: Tokens,
}

/// What became of the tokens that the connection needs, one at each side whose rule has a limit.
#[derive(Clone, Copy, Debug, Default)]
struct Tokens {
    /// A side gave one.
    taken: bool,
    /// A side had none left.
    missing: bool,
}

/// What a verdict rests on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Footing {
    pub(crate) token: Token,
    /// Whether the next frame with this key would fare the same as long as the token stands.
    pub(crate) cacheable: bool,
}

impl<'a> Trail<'a> {
    /// Looks for the frame's connection, among those of `zone`. `head` is what `parsed` was parsed
    /// from.
    pub(crate) fn begin<O: Observer>(
        inputs: Inputs<'a>,
        zone: NetworkId,
        head: &[u8],
        parsed: &Parsed,
    ) -> Self {
        let Inputs {
            snapshot,
            connections,
            now_s,
            ..
        } = inputs;
        let zone = zone.into();
        let mut trail = Self {
            meters: inputs.meters,
            now_ns: inputs.now_ns,
            connections,
            settings: snapshot.connections(),
            zone,
            now_s,
            probe: Probe::read(head, parsed),
            fragment: FragmentKey::read(zone, head, parsed),
            known: Known::Nothing,
            wanted: false,
            committed: false,
            tokens: Tokens::default(),
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
                    Sought::Found(found) if found.over && opens(&probe) => {
                        if !O::LEARNS {
                            // It would be gone.
                            return Known::Absent(Token::UNTRACKED);
                        }
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

    /// Judges a frame from a vNIC.
    pub(crate) fn judge_sender<O: Observer>(
        &mut self,
        vnic: &VnicPolicy,
        key: &FlowKey,
    ) -> Result<Allowed, Denial> {
        let permitted = match &self.known {
            Known::Follower(_) => return Ok(Allowed::BY_DEFAULT),
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
            return Ok(Allowed::by_connection(pass.rule));
        }
        let pass = vnic.pass_outbound(&mut Exact(key))?;
        let allowed = self.limit::<O>(key.ingress(), pass, DropReason::LimitOut)?;
        self.wanted |= pass.stateful;
        Ok(allowed)
    }

    /// Judges a frame to the vNIC of port `to`.
    pub(crate) fn judge_receiver<O: Observer>(
        &mut self,
        vnic: &VnicPolicy,
        to: PortId,
        key: &FlowKey,
    ) -> Result<Allowed, Denial> {
        let direction = match &self.known {
            Known::Member(found) => Some((found.direction.reverse(), &found.opener)),
            Known::Related(found, _) => Some((found.direction, &found.opener)),
            Known::Follower(grant) if grant.to == Some(to) => return Ok(Allowed::BY_DEFAULT),
            Known::Absent(_) | Known::Nothing | Known::Follower(_) | Known::Stray => None,
        };
        // The receiver is the side that sends in the other direction.
        let permitted = direction.and_then(|(side, opener)| permits(vnic, to, side, opener));
        if let Some(pass) = permitted {
            self.committed = true;
            return Ok(Allowed::by_connection(pass.rule));
        }
        let pass = vnic.pass_inbound(&mut Exact(key))?;
        // A receiver of a flood that has no token left for the connection does not want it.
        let allowed = self.limit::<O>(to, pass, DropReason::LimitIn)?;
        self.wanted |= pass.stateful;
        Ok(allowed)
    }

    /// What the limit of a rule at port `at` makes of a frame that the rule lets pass.
    #[inline]
    fn limit<O: Observer>(
        &mut self,
        at: PortId,
        pass: Pass,
        over: DropReason,
    ) -> Result<Allowed, Denial> {
        match self.meters.slot(at, pass.rule) {
            None => Ok(Allowed::by(pass.rule)),
            Some(meter) => self.limit_by::<O>(meter, pass, over),
        }
    }

    #[cold]
    fn limit_by<O: Observer>(
        &mut self,
        meter: MeterSlot,
        pass: Pass,
        over: DropReason,
    ) -> Result<Allowed, Denial> {
        let by_connection = match self.known {
            _ if !pass.stateful => false,
            // It has been opened: the other side has it pass.
            Known::Member(_) => return Ok(Allowed::by(pass.rule)),
            // What opens none must not use up the tokens of what does.
            Known::Absent(_) if !self.may_open() => return Ok(Allowed::by(pass.rule)),
            Known::Absent(_) => true,
            Known::Nothing | Known::Related(..) | Known::Follower(_) | Known::Stray => false,
        };
        if !O::LEARNS || !by_connection {
            let allowed = frame_by_frame::<O>(self.meters, self.now_ns, meter, pass.rule, over);
            self.tokens.missing |= allowed.is_err() && by_connection;
            self.tokens.taken |= allowed.is_ok() && by_connection;
            return allowed;
        }
        if self.meters.take(meter, self.now_ns) {
            self.tokens.taken = true;
            return Ok(Allowed::by(pass.rule));
        }
        self.tokens.missing = true;
        Err(Denial {
            reason: over,
            rule: pass.rule,
        })
    }

    /// Whether the frame can open a connection, if one may.
    fn may_open(&self) -> bool {
        match &self.probe {
            Some(probe @ Probe::Tcp { .. }) => self.settings.tcp_loose || opens(probe),
            _ => true,
        }
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
            _ => self.unopened(),
        }
    }

    /// What a verdict rests on after which there is no connection: the next frame with this key
    /// takes a token again.
    fn unopened(&self) -> Footing {
        let mut footing = self.footing();
        footing.cacheable &= !self.tokens.taken;
        footing
    }

    /// The end of the way for a frame that is not there: what [`Trail::settle`] would make of it,
    /// and why its connection would not take it or not be opened, if so.
    pub(crate) fn foresee(
        &self,
        passes: bool,
        key: &FlowKey,
        owner: Option<&PortPolicy>,
    ) -> (Footing, Option<Denial>) {
        let member = matches!(self.known, Known::Member(_));
        let abandoned = member && !self.committed;
        let opens = self.wanted && passes;
        let state = opens && self.changes_state();
        let refusal = self.refusal(passes, key, owner);
        let mut footing = if opens {
            self.footing()
        } else {
            self.unopened()
        };
        footing.cacheable &= !abandoned && !state && self.fragment.is_none() && refusal.is_none();
        (footing, refusal)
    }

    fn refusal(&self, passes: bool, key: &FlowKey, owner: Option<&PortPolicy>) -> Option<Denial> {
        let probe = self.probe.as_ref().filter(|_| passes)?;
        match &self.known {
            Known::Member(found) if self.committed => {
                match self.connections.foresee_advance(found.token, probe) {
                    Ok(Step::Goes) => None,
                    Ok(Step::Reopens) => Some(Denial::new(DropReason::ConnectionInvalid)),
                    Err(denial) => Some(denial),
                }
            }
            // Of one that nobody stands up for any more the place is free again.
            Known::Absent(_) if self.wanted => {
                let opening = self.opening(probe, key, owner);
                let timeouts = &self.settings.timeouts;
                self.connections.foresee_open(&opening, timeouts).err()
            }
            _ => None,
        }
    }

    fn opening<'o>(
        &self,
        probe: &'o Probe,
        key: &'o FlowKey,
        owner: Option<&PortPolicy>,
    ) -> Opening<'o> {
        let vnic = owner.and_then(|port| port.vnic.as_ref());
        Opening {
            zone: self.zone,
            key,
            probe,
            owner: owner.map_or(key.ingress(), |port| port.id),
            limit: vnic.map_or(DEFAULT_LIMIT, |vnic| vnic.connection_limit),
            loose: self.settings.tcp_loose,
            now_s: self.now_s,
        }
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
            let mut footing = self.unopened();
            footing.cacheable &= !matches!(self.known, Known::Member(_));
            return Ok(footing);
        }
        let opening = self.opening(&probe, key, owner);
        let token = self.connections.open(&opening, &self.settings.timeouts)?;
        Ok(Footing {
            token,
            cacheable: !self.changes_state() && !self.tokens.missing,
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
                // There may be a token for the next frame.
                cacheable: !self.tokens.missing,
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

/// How the vNIC of port `at` lets a frame pass that can have no connection.
#[inline]
pub(crate) fn untracked<O: Observer>(
    inputs: Inputs<'_>,
    at: PortId,
    judged: Result<Pass, Denial>,
    over: DropReason,
) -> Result<Allowed, Denial> {
    let rule = judged?.rule;
    match inputs.meters.slot(at, rule) {
        None => Ok(Allowed::by(rule)),
        Some(meter) => frame_by_frame::<O>(inputs.meters, inputs.now_ns, meter, rule, over),
    }
}

/// What a limit makes of a frame that takes a token when it leaves. One that is not there is told
/// whether there is one.
#[cold]
fn frame_by_frame<O: Observer>(
    meters: &Meters,
    now_ns: u64,
    meter: MeterSlot,
    rule: Option<RuleId>,
    over: DropReason,
) -> Result<Allowed, Denial> {
    if !O::LEARNS && !meters.has(meter, now_ns) {
        return Err(Denial { reason: over, rule });
    }
    Ok(Allowed {
        meter: Some(meter),
        ..Allowed::by(rule)
    })
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
