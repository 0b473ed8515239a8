//! The reference: a switch that is plain, slow and obviously right.
//!
//! In: the same models and frames that the real one gets. Out: what leaves where, byte by byte,
//! and the drops by (port, reason). It shares with the switch the types of the desired state and
//! nothing else: it has its own reading of frames ([`view`]) and of rules ([`judge`]), no keys, no
//! masks, no cache, and looks at everything anew for every frame. The one thing it takes over is the
//! text of a rejection, which others judge (`policy/tests/reject.rs`).

mod connections;
mod judge;
mod limits;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use policy::DropReason;
use policy::model::{Action, Attachment, DirectionPolicy, Model, Network, Port, RateLimit};

use connections::{Connections, Part, Way};
use limits::{Bucket, Buckets, Place};
use view::View;

const GROUP_BIT: u8 = 1;

/// Rejected frames that the senders behind one port are told of: so many a second, and a tenth of
/// that and one at once.
const TOLD: RateLimit = RateLimit {
    per_second: 200,
    burst: 21,
};

#[derive(Clone, Copy)]
struct Location {
    port: u16,
    fixed: bool,
}

/// The reference switch.
#[derive(Clone)]
pub(crate) struct Reference {
    model: Model,
    macs: BTreeMap<(u16, [u8; 6]), Location>,
    /// Dropped frames by (port, reason).
    pub(crate) drops: BTreeMap<(u16, &'static str), u64>,
    /// Addresses that frames were flooded to, since nobody knew where they are.
    asked: BTreeSet<(u16, [u8; 6])>,
    /// How often something happened before which frames that came together must not be judged
    /// together, because it decides over those that come later: an address moved, or was learned
    /// after it had been asked for; a connection began or ended; a token was missing.
    pub(crate) turns: u64,
    /// By port, what its senders may be told.
    told: BTreeMap<u16, Bucket>,
    buckets: Buckets,
    connections: Connections,
    now_ns: u64,
}

/// The tokens that a frame takes when it leaves or is answered.
type Tokens = Option<(Place, RateLimit)>;

/// Why a frame is dropped, and the tokens of its answer.
struct Refusal(DropReason, Tokens);

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self(reason, None)
    }
}

/// Where a frame goes, and the tag it leaves with.
type Exit = (u16, Option<u16>);

impl Reference {
    pub(crate) fn new(model: &Model) -> Self {
        let mut switch = Self {
            model: Model::default(),
            macs: BTreeMap::new(),
            drops: BTreeMap::new(),
            asked: BTreeSet::new(),
            turns: 0,
            told: BTreeMap::new(),
            buckets: Buckets::default(),
            connections: Connections::default(),
            now_ns: 0,
        };
        switch.adopt(model);
        switch
    }

    /// Another desired state takes effect.
    pub(crate) fn adopt(&mut self, model: &Model) {
        self.model = model.clone();
        self.buckets.adopt(model);
        let mut owners = BTreeMap::new();
        let mut members = BTreeSet::new();
        for port in &model.ports {
            for (network, _) in self.memberships(port) {
                members.insert((network, port.id.0));
                if let Some(vnic) = &port.vnic {
                    owners.insert((network, vnic.mac.0), port.id.0);
                }
            }
        }
        self.macs.retain(|(network, mac), at| {
            let owner = owners.get(&(*network, *mac));
            !at.fixed && members.contains(&(*network, at.port)) && owner.is_none()
        });
        for (place, port) in owners {
            self.macs.insert(place, Location { port, fixed: true });
        }
    }

    /// Time has passed, but not so much that anything was forgotten.
    pub(crate) fn at(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Every learned address has aged out, and every connection has expired.
    pub(crate) fn age_all(&mut self) {
        self.macs.retain(|_, at| at.fixed);
        self.connections = Connections::default();
    }

    /// A frame arrives; `beside` is the tag that came beside it. Returns what leaves where.
    pub(crate) fn receive(
        &mut self,
        port: u16,
        frame: &[u8],
        beside: Option<u16>,
    ) -> Vec<(u16, Vec<u8>)> {
        match self.forward(port, frame, beside) {
            Ok(sent) => sent,
            Err(Refusal(reason, answer)) => {
                self.count(port, reason);
                if reason == DropReason::RejectOut {
                    self.tell(port, frame, beside, answer)
                } else {
                    Vec::new()
                }
            }
        }
    }

    /// What leaves to tell the sender of a frame that it was rejected.
    fn tell(
        &mut self,
        port: u16,
        frame: &[u8],
        beside: Option<u16>,
        tokens: Tokens,
    ) -> Vec<(u16, Vec<u8>)> {
        if !self.take(tokens) {
            return Vec::new();
        }
        let told = self.told.entry(port);
        let told = told.or_insert_with(|| Bucket::full(TOLD, self.now_ns));
        if !told.take(self.now_ns) {
            return Vec::new();
        }
        let parsed = policy::parse(frame, frame.len(), beside, policy::PortId(port));
        let tci = View::read(frame, beside).and_then(|view| view.tci);
        let mut reply = [0; policy::reject::MAX_REPLY_BYTES];
        let len = policy::reject::reply(&mut reply, frame, &parsed, tci);
        len.map(|len| (port, reply[..len].to_vec()))
            .into_iter()
            .collect()
    }

    /// Whether there is a token, where one is needed; it is taken.
    fn take(&mut self, tokens: Tokens) -> bool {
        let has = tokens.is_none_or(|tokens| self.buckets.take(tokens, self.now_ns));
        self.turns += u64::from(!has);
        has
    }

    fn count(&mut self, port: u16, reason: DropReason) {
        *self.drops.entry((port, reason.name())).or_insert(0) += 1;
    }

    fn forward(
        &mut self,
        from: u16,
        frame: &[u8],
        beside: Option<u16>,
    ) -> Result<Vec<(u16, Vec<u8>)>, Refusal> {
        let model = self.model.clone();
        let port = model.ports.iter().find(|port| port.id.0 == from);
        let port = port.ok_or(DropReason::NoPolicy)?;
        let view = View::read(frame, beside).ok_or(DropReason::Runt)?;
        let network = self.admit(port, &view)?;
        if let Some(vnic) = &port.vnic {
            judge::sender(vnic, &view)?;
        }
        let mut part = self.connections.part(network, &view, self.is_tracked(port));
        let judged = self.judge(port, Way::Out, &view, &mut part);
        let tokens = judged.inspect_err(|_| {
            self.turns += u64::from(self.connections.refused(&part, &model));
        })?;
        // A frame that its sender's limit stops was there all the same.
        let ways = self.ways(network, port, &view, &part);
        let judged = ways.as_ref().ok().map(|ways| {
            let judged = ways.iter().map(|(to, tag)| match tag {
                None if view.nested => Err(DropReason::NestedUntagged.into()),
                _ => {
                    let to = model.ports.iter().find(|port| port.id.0 == *to);
                    let to = to.expect("frames go to ports");
                    self.judge(to, Way::In, &view, &mut part)
                }
            });
            let judged: Vec<_> = judged.collect();
            let is_taken = judged.iter().any(Result::is_ok);
            let connections = &mut self.connections;
            let turn = connections.met(&part, from, (frame, beside), is_taken);
            self.turns += u64::from(turn);
            judged
        });
        if !self.take(tokens) {
            return Err(DropReason::LimitOut.into());
        }
        let is_known = view.dst[0] & GROUP_BIT == 0 && self.macs.contains_key(&(network, view.dst));
        let mut sent = Vec::new();
        for ((to, tag), judged) in ways?.into_iter().zip(judged.into_iter().flatten()) {
            match judged {
                Ok(tokens) if self.take(tokens.clone()) => sent.push((to, view.with_tag(tag))),
                Ok(_) => self.count(to, DropReason::LimitIn),
                Err(Refusal(reason, answer)) => {
                    self.count(to, reason);
                    if is_known && reason == DropReason::RejectIn {
                        sent.extend(self.tell(from, frame, beside, answer));
                    }
                }
            }
        }
        Ok(sent)
    }

    /// Whether the vNIC of a port lets a frame out or in, and the tokens that this takes.
    fn judge(
        &mut self,
        port: &Port,
        way: Way,
        view: &View<'_>,
        part: &mut Part,
    ) -> Result<Tokens, Refusal> {
        let Some(vnic) = &port.vnic else {
            return Ok(None);
        };
        let [denied, rejected, limited] = match way {
            Way::Out => [
                DropReason::AclOut,
                DropReason::RejectOut,
                DropReason::LimitOut,
            ],
            Way::In => [DropReason::AclIn, DropReason::RejectIn, DropReason::LimitIn],
        };
        if part.passes(vnic, port.id.0, way) {
            return Ok(None);
        }
        let (action, rule) = judge::ruling(way.of(vnic), view);
        let tokens = rule.and_then(|rule| Some(((vnic.name.clone(), rule.id), rule.limit?)));
        match action {
            Action::Deny => Err(denied.into()),
            Action::Reject => Err(Refusal(rejected, tokens)),
            Action::Allow => Ok(tokens),
            // What can have no connection takes a token for each frame.
            Action::AllowStateful if part.ends.is_none() => Ok(tokens),
            Action::AllowStateful => {
                if !part.is_known() && !self.take(tokens) {
                    return Err(limited.into());
                }
                part.is_wanted = true;
                Ok(None)
            }
        }
    }

    /// Whether anybody in the port's networks allows anything statefully: elsewhere nobody looks
    /// for connections.
    fn is_tracked(&self, port: &Port) -> bool {
        let networks = |port: &Port| self.memberships(port).into_iter().map(|(id, _)| id);
        let is_near = |other: &&Port| networks(port).any(|id| networks(other).any(|own| own == id));
        let is_stateful = |policy: &DirectionPolicy| {
            let actions = policy.rules.iter().map(|rule| rule.action);
            let mut actions = actions.chain([policy.default]);
            actions.any(|action| action == Action::AllowStateful)
        };
        let vnics = self.model.ports.iter().filter(is_near);
        let mut vnics = vnics.filter_map(|port| port.vnic.as_ref());
        vnics.any(|vnic| is_stateful(&vnic.inbound) || is_stateful(&vnic.outbound))
    }

    /// Learns of the sender, and finds the ways that lead on.
    fn ways(
        &mut self,
        network: u16,
        port: &Port,
        view: &View<'_>,
        part: &Part,
    ) -> Result<Vec<Exit>, DropReason> {
        self.learn(network, port, view.src)?;
        if !self.macs.contains_key(&(network, view.dst)) {
            self.asked.insert((network, view.dst));
        }
        let ways = self.exits(network, port, view);
        ways.inspect_err(|_| {
            self.turns += u64::from(self.connections.refused(part, &self.model));
        })
    }

    /// The network that a frame of the port belongs to.
    fn admit(&self, port: &Port, view: &View<'_>) -> Result<u16, DropReason> {
        if view.src[0] & GROUP_BIT != 0 {
            return Err(DropReason::GroupSource);
        }
        // Of bridges, of provider bridges, of PVST+.
        let bridges = [
            [1, 0x80, 0xc2, 0, 0, 0],
            [1, 0x80, 0xc2, 0, 0, 8],
            [1, 0, 0x0c, 0xcc, 0xcc, 0xcd],
        ];
        if bridges.contains(&view.dst) {
            return Err(DropReason::Bpdu);
        }
        if view.dst[..5] == [1, 0x80, 0xc2, 0, 0] && view.dst[5] < 16 {
            return Err(DropReason::LinkLocalGroup);
        }
        let vid = view.tci.map_or(0, |tci| tci & 0xfff);
        if vid == 0 {
            if view.tci.is_some() && view.nested {
                return Err(DropReason::VlanNested);
            }
            let untagged = match &port.attachment {
                Attachment::Access(network) => Some(*network),
                Attachment::Trunk { native, .. } => *native,
            };
            return untagged.map(|n| n.0).ok_or(DropReason::UntaggedNotAllowed);
        }
        let Attachment::Trunk { tagged, .. } = &port.attachment else {
            return Err(DropReason::VlanNotAllowed);
        };
        let carried = tagged.iter().find(|id| self.vlan(id.0) == Some(vid));
        carried.map(|n| n.0).ok_or(DropReason::VlanNotAllowed)
    }

    fn network(&self, id: u16) -> Option<&Network> {
        self.model
            .networks
            .iter()
            .find(|network| network.id.0 == id)
    }

    fn vlan(&self, id: u16) -> Option<u16> {
        self.network(id)?.vlan.map(policy::VlanId::get)
    }

    /// The networks of a port, with the tag that their frames leave with.
    fn memberships(&self, port: &Port) -> Vec<(u16, Option<u16>)> {
        match &port.attachment {
            Attachment::Access(network) => vec![(network.0, None)],
            Attachment::Trunk { tagged, native } => {
                let native = native.map(|id| id.0);
                let tagged = tagged
                    .iter()
                    .map(|id| id.0)
                    .filter(|id| Some(*id) != native);
                let tagged = tagged.map(|id| (id, self.vlan(id)));
                native
                    .map(|id| (id, None))
                    .into_iter()
                    .chain(tagged)
                    .collect()
            }
        }
    }

    fn learn(&mut self, network: u16, port: &Port, mac: [u8; 6]) -> Result<(), DropReason> {
        let known = self.macs.get(&(network, mac)).copied();
        match known {
            Some(at) if at.port == port.id.0 => return Ok(()),
            Some(at) if at.fixed => return Err(DropReason::MacOwned),
            _ => {}
        }
        let learned = || self.macs.iter().filter(|(_, at)| !at.fixed);
        let by_port = learned().filter(|(_, at)| at.port == port.id.0).count();
        if by_port >= port.mac_limit as usize {
            return Err(DropReason::MacLimitPort);
        }
        let by_network = learned().filter(|((id, _), _)| *id == network).count();
        let limit = self.network(network).map_or(0, |network| network.mac_limit);
        if known.is_none() && by_network >= limit as usize {
            return Err(DropReason::MacLimitNetwork);
        }
        let voided = known.is_some() || self.asked.contains(&(network, mac));
        self.turns += u64::from(voided);
        let port = port.id.0;
        self.macs
            .insert((network, mac), Location { port, fixed: false });
        Ok(())
    }

    fn exits(&self, network: u16, from: &Port, view: &View<'_>) -> Result<Vec<Exit>, DropReason> {
        let mut members: Vec<(&Port, Option<u16>)> = Vec::new();
        for port in &self.model.ports {
            let mut memberships = self.memberships(port).into_iter();
            if let Some((_, tag)) = memberships.find(|(id, _)| *id == network) {
                members.push((port, tag));
            }
        }
        members.sort_by_key(|(port, _)| port.id);
        let group = view.dst[0] & GROUP_BIT != 0;
        let known = self.macs.get(&(network, view.dst)).filter(|_| !group);
        if let Some(at) = known {
            if at.port == from.id.0 {
                return Err(DropReason::SamePort);
            }
            let mut members = members.into_iter();
            let to = members.find(|(port, _)| port.id.0 == at.port);
            let (to, tag) = to.expect("an address is at a member");
            if to.isolated && from.isolated {
                return Err(DropReason::Isolated);
            }
            return Ok(vec![(to.id.0, tag)]);
        }
        let exits: Vec<Exit> = members
            .into_iter()
            .filter(|(to, _)| to.id != from.id && !(to.isolated && from.isolated))
            .map(|(to, tag)| (to.id.0, tag))
            .collect();
        if exits.is_empty() {
            return Err(DropReason::NoDestination);
        }
        let (limit, reason) = if view.dst == [0xff; 6] {
            (from.storm.broadcast_pps, DropReason::StormBroadcast)
        } else if group {
            (from.storm.multicast_pps, DropReason::StormMulticast)
        } else {
            (from.storm.unknown_pps, DropReason::StormUnknown)
        };
        match limit {
            None => Ok(exits),
            Some(0) => Err(reason),
            Some(_) => panic!("a limit on floods is zero or none"),
        }
    }
}
