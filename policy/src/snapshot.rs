//! The compiled state: what ports, networks and vNICs may do, as of one epoch.
//!
//! In comes a [`Model`]; out goes a [`Snapshot`], immutable, with a footprint mask for each
//! (port, class). A frame is judged in this order, and the mask holds every bit that any step
//! could read for a frame of the class:
//!
//! ```text
//!   PortPolicy::admit ─► VnicPolicy::check_sender ─► judge_outbound ─► bridge ─► judge_inbound
//!                        (where a vNIC is bound to the ingress port)    (per destination's vNIC)
//! ```
//!
//! What must hold: frames of one port and class that are equal under the mask get the same answer
//! from every step.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use hashbrown::HashMap;

use crate::{
    Denial, DropReason, Epoch, InterfaceId, Mac, NeighborClaim, NetworkId, PortId, RuleId, VlanId,
    acl::Classifier,
    conntrack,
    key::{Class, Field, FlowKey, shape},
    model::{
        self, Action, Attachment, Model, MoveLimit, RateLimit, Roles, Services, SpanningTree,
        StormLimits,
    },
    reader::KeyReader,
    rogue::{self, Rogue},
    router::Router,
    rule::{Direction, Origin, Places, Rule, RuleList},
    sender::{SenderPolicy, is_arp_or_nd},
};

mod compile;
pub use compile::{CompileError, Compiler, Renewed, Worn};

/// The state of one epoch.
#[derive(Debug, Default)]
pub struct Snapshot {
    epoch: Epoch,
    /// By number.
    ports: Vec<Option<PortPolicy>>,
    networks: Vec<Option<NetworkPolicy>>,
    routers: Vec<Arc<Router>>,
    /// By port number, then class.
    masks: Vec<Masks>,
    /// By port number: a bit for each class whose frames are tracked.
    tracked: Vec<u16>,
    /// What applies to all connections.
    connections: conntrack::Settings,
    rules: Arc<RuleIndex>,
}

/// Where rules are found by number.
#[derive(Debug, Default)]
struct RuleIndex {
    lists: Vec<RuleList>,
    /// Which list has the rule, and where; made when somebody asks.
    by_number: OnceLock<HashMap<RuleId, (u32, u32)>>,
    /// The rules whose decisions are logged, with what was written.
    logged: HashMap<RuleId, Arc<Origin>>,
    places: Arc<Places>,
}

impl RuleIndex {
    fn find(&self, id: RuleId) -> Option<(u32, u32)> {
        let by_number = self.by_number.get_or_init(|| {
            let mut found = HashMap::new();
            for (number, list) in (0..).zip(&self.lists) {
                for (place, rule) in (0..).zip(list.iter()) {
                    found.entry(rule.id).or_insert((number, place));
                }
            }
            found
        });
        by_number.get(&id).copied()
    }
}

/// A port's footprint masks: for each class, the key bits that any decision could read for a
/// frame of that class from that port.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Masks([FlowKey; Class::COUNT]);

impl Masks {
    /// Of a port that has no policy: no frame is like another.
    const ALL_ONES: Self = Self([FlowKey([u64::MAX; 8]); Class::COUNT]);

    /// The mask of a class.
    #[inline]
    pub fn of(&self, class: Class) -> &FlowKey {
        &self.0[class as usize]
    }
}

impl Snapshot {
    /// The state before the first: no ports, epoch 0.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Its number.
    #[inline]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A port's policy; `None` when it has none.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&PortPolicy> {
        self.ports.get(id.index())?.as_ref()
    }

    /// A network.
    #[inline]
    pub fn network(&self, id: NetworkId) -> Option<&NetworkPolicy> {
        self.networks.get(id.index())?.as_ref()
    }

    /// All ports, by number.
    pub fn ports(&self) -> impl Iterator<Item = &PortPolicy> {
        self.ports.iter().flatten()
    }

    /// All networks, by number.
    pub fn networks(&self) -> impl Iterator<Item = &NetworkPolicy> {
        self.networks.iter().flatten()
    }

    /// A router, by its number in a [`Gateway`].
    #[inline]
    pub fn router(&self, number: u16) -> Option<&Router> {
        self.routers.get(number as usize).map(AsRef::as_ref)
    }

    /// All routers.
    pub fn routers(&self) -> &[Arc<Router>] {
        &self.routers
    }

    /// The footprint masks of frames from `port`. All ones for a port without policy.
    #[inline]
    pub fn masks(&self, port: PortId) -> &Masks {
        self.masks.get(port.index()).unwrap_or(&Masks::ALL_ONES)
    }

    /// Whether frames of `class` from `port` may belong to connections: whether any policy that
    /// could judge them, or the frames that they answer, allows something statefully.
    #[inline]
    pub fn tracks(&self, port: PortId, class: Class) -> bool {
        let tracked = self.tracked.get(port.index());
        tracked.is_some_and(|tracked| tracked & 1 << class as u16 != 0)
    }

    /// What applies to all connections.
    pub fn connections(&self) -> &conntrack::Settings {
        &self.connections
    }

    /// The same state with other settings for connections.
    #[must_use]
    pub fn with_connections(self, connections: conntrack::Settings) -> Self {
        Self {
            connections,
            ..self
        }
    }

    /// Whether what a rule decides is logged.
    #[inline]
    pub fn logs(&self, id: RuleId) -> bool {
        // Every miss asks, and mostly no rule is logged.
        !self.rules.logged.is_empty() && self.rules.logged.contains_key(&id)
    }

    /// What was written of a rule whose decisions are logged. Allocates nothing.
    pub fn logged(&self, id: RuleId) -> Option<&Arc<Origin>> {
        self.rules.logged.get(&id)
    }

    /// A rule of any vNIC's lists. The first that is asked for makes the index of all, so this is
    /// not for workers.
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        let (list, place) = self.rules.find(id)?;
        self.rules.lists.get(list as usize)?.get(place as usize)
    }

    /// Where its rules were written.
    pub fn places(&self) -> &Arc<Places> {
        &self.rules.places
    }
}

/// Cisco's spanning tree for each VLAN, which is sent to a group that bridges forward.
const PVST: u64 = 0x0100_0ccc_cccd;

/// Whether a frame is by which bridges find loops: to the group of bridges (IEEE 802.1D), of provider
/// bridges (IEEE 802.1ad), or of PVST+.
pub fn is_spanning_tree<R: KeyReader>(r: &mut R) -> bool {
    const BRIDGES: u64 = 0x0180_c200_0000;
    const PROVIDER_BRIDGES: u64 = 0x0180_c200_0008;
    let mut is_for = |group| r.equals(Field::ETH_DST, Field::ETH_DST.ones(), group);
    is_for(BRIDGES) || is_for(PROVIDER_BRIDGES) || is_for(PVST)
}

/// What may pass a port.
#[derive(Debug)]
pub struct PortPolicy {
    /// Its number.
    pub id: PortId,
    /// Its name.
    pub name: Arc<str>,
    /// Isolated ports of a network reach only ports that are not.
    pub isolated: bool,
    /// What becomes of spanning tree frames.
    pub spanning_tree: SpanningTree,
    /// Most addresses the port may have learned.
    pub mac_limit: u32,
    /// Limits on frames that are flooded.
    pub storm: StormLimits,
    /// Most flow cache misses that a worker resolves for the port in one turn.
    pub misses_per_turn: u32,
    /// The vNIC bound to the port.
    pub vnic: Option<VnicPolicy>,
    /// The network of untagged frames.
    untagged: Option<NetworkId>,
    /// Networks carried with their tag, in the order of their VLANs.
    tagged: Box<[(VlanId, NetworkId)]>,
}

impl PortPolicy {
    /// Which network a frame from the port belongs to.
    ///
    /// # Errors
    /// `runt`, `group_source`, `link_local_group`, `bpdu`, `bpdu_guard`, `vlan_not_allowed`,
    /// `vlan_nested`, `untagged_not_allowed`.
    pub fn admit<R: KeyReader>(&self, r: &mut R) -> Result<NetworkId, Denial> {
        const GROUP: u64 = 1 << 40;
        const LINK_LOCAL: (u64, u64) = (0xffff_ffff_fff0, 0x0180_c200_0000);

        if r.equals(Field::SHAPE, shape::RUNT, shape::RUNT) && !R::TRACING {
            return Err(Denial::new(DropReason::Runt));
        }
        if r.equals(Field::ETH_SRC, GROUP, GROUP) && !R::TRACING {
            return Err(Denial::new(DropReason::GroupSource));
        }
        let is_link_local = r.equals(Field::ETH_DST, LINK_LOCAL.0, LINK_LOCAL.1);
        let is_pvst = r.equals(Field::ETH_DST, Field::ETH_DST.ones(), PVST);
        if (is_link_local || is_pvst) && !R::TRACING {
            self.admit_link_local(r)?;
        }
        let mut vid = 0;
        let tagged = r.equals(Field::SHAPE, shape::TAGGED, shape::TAGGED)
            && r.test(Field::VLAN_VID, Field::VLAN_VID.ones(), |bits| {
                vid = bits as u16;
                // VID 0 is a priority tag: the frame counts as untagged (IEEE 802.1Q §6.9).
                vid != 0
            });
        if !tagged {
            // Without its priority tag the frame would leave with the tag behind it as its own.
            if r.equals(Field::SHAPE, shape::NESTED, shape::NESTED) && !R::TRACING {
                return Err(Denial::new(DropReason::VlanNested));
            }
            return self
                .untagged
                .ok_or(Denial::new(DropReason::UntaggedNotAllowed));
        }
        self.tagged
            .binary_search_by_key(&vid, |(vlan, _)| vlan.get())
            .map(|found| self.tagged[found].1)
            .map_err(|_| Denial::new(DropReason::VlanNotAllowed))
    }

    /// Of a frame to a reserved group, whether its port passes it.
    #[cold]
    fn admit_link_local<R: KeyReader>(&self, r: &mut R) -> Result<(), Denial> {
        Err(Denial::new(match self.spanning_tree {
            _ if !is_spanning_tree(r) => DropReason::LinkLocalGroup,
            SpanningTree::Pass => return Ok(()),
            SpanningTree::Drop => DropReason::Bpdu,
            SpanningTree::Disable => DropReason::BpduGuard,
        }))
    }

    /// The networks that it is in.
    pub fn networks(&self) -> impl Iterator<Item = NetworkId> + '_ {
        self.memberships().map(|(network, _)| network)
    }

    /// How frames of `network` leave the port: `None` when it is no member, `Some(None)` without
    /// a tag, `Some(Some(vlan))` with one. A trunk's native network leaves without a tag also when
    /// the trunk accepts it tagged.
    #[allow(
        clippy::option_option,
        reason = "no member, untagged and tagged are three answers"
    )]
    pub fn egress_tag(&self, network: NetworkId) -> Option<Option<VlanId>> {
        if self.untagged == Some(network) {
            return Some(None);
        }
        let mut tagged = self.tagged.iter();
        tagged
            .find(|(_, other)| *other == network)
            .map(|&(vlan, _)| Some(vlan))
    }

    /// The networks the port is a member of, with how their frames leave it.
    fn memberships(&self) -> impl Iterator<Item = (NetworkId, Option<VlanId>)> {
        let tagged = self.tagged.iter().map(|&(vlan, id)| (id, Some(vlan)));
        let untagged = self.untagged;
        let tagged = tagged.filter(move |(id, _)| Some(*id) != untagged);
        untagged.map(|id| (id, None)).into_iter().chain(tagged)
    }
}

/// The policy of a vNIC.
#[derive(Debug)]
pub struct VnicPolicy {
    /// Its name.
    pub name: Arc<str>,
    /// The VM it belongs to.
    pub vm: Arc<str>,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Most connections that it may have opened.
    pub connection_limit: u32,
    sender: SenderPolicy,
    roles: Roles,
    inbound: Judge,
    outbound: Judge,
}

impl VnicPolicy {
    /// Checks that a frame from the VM is sent from the vNIC's own addresses.
    ///
    /// # Errors
    /// As [`SenderPolicy::check`].
    pub fn check_sender<R: KeyReader>(
        &self,
        r: &mut R,
        claim: Option<&NeighborClaim>,
    ) -> Result<(), Denial> {
        self.sender.check(r, claim)
    }

    /// Checks that a frame from the VM is not what only servers and routers send, unless it is one.
    ///
    /// # Errors
    /// `rogue_dhcp` or `rogue_ra`.
    pub fn check_role<R: KeyReader>(&self, r: &mut R) -> Result<(), Denial> {
        if self.roles.dhcp_server && self.roles.router {
            return Ok(());
        }
        match rogue::classify(r) {
            Some(Rogue::DhcpServer) if !self.roles.dhcp_server => {
                Err(Denial::new(DropReason::RogueDhcp))
            }
            Some(Rogue::Router) if !self.roles.router => Err(Denial::new(DropReason::RogueRa)),
            _ => Ok(()),
        }
    }

    /// The rules for frames from the VM.
    pub fn outbound(&self) -> &Classifier {
        &self.outbound.classifier
    }

    /// The rules for frames to the VM.
    pub fn inbound(&self) -> &Classifier {
        &self.inbound.classifier
    }

    /// Judges a frame from the VM; `Ok` holds the rule that allowed it, if one did. Malformed
    /// frames are denied, whatever the default, without a rule.
    ///
    /// # Errors
    /// `acl_out` or `reject_out`, with the rule if one decided.
    pub fn judge_outbound<R: KeyReader>(&self, r: &mut R) -> Result<Option<RuleId>, Denial> {
        self.pass_outbound(r).map(|pass| pass.rule)
    }

    /// As [`VnicPolicy::judge_outbound`], and says whether answers may pass too.
    ///
    /// # Errors
    /// As there.
    pub fn pass_outbound<R: KeyReader>(&self, r: &mut R) -> Result<Pass, Denial> {
        self.outbound.judge(r, Refusals::OUTBOUND)
    }

    /// Judges a frame to the VM; `Ok` holds the rule that allowed it, if one did. Malformed
    /// frames are denied, whatever the default, without a rule: `malformed` is the sender's.
    ///
    /// # Errors
    /// `acl_in` or `reject_in`, with the rule if one decided.
    pub fn judge_inbound<R: KeyReader>(&self, r: &mut R) -> Result<Option<RuleId>, Denial> {
        self.pass_inbound(r).map(|pass| pass.rule)
    }

    /// As [`VnicPolicy::judge_inbound`], and says whether answers may pass too.
    ///
    /// # Errors
    /// As there.
    pub fn pass_inbound<R: KeyReader>(&self, r: &mut R) -> Result<Pass, Denial> {
        self.inbound.judge(r, Refusals::INBOUND)
    }

    /// The rules of both directions that have a limit, with it. Rules that one written rule stands
    /// for follow each other under one number.
    pub fn limits(&self) -> impl Iterator<Item = (RuleId, RateLimit)> {
        let limits = self.inbound.limits.iter().chain(&*self.outbound.limits);
        limits.copied()
    }

    /// The compiled rules for frames to the VM, or from it.
    pub fn classifier(&self, direction: Direction) -> &Classifier {
        match direction {
            Direction::In => &self.inbound.classifier,
            Direction::Out => &self.outbound.classifier,
        }
    }
}

/// A frame that a direction's policy lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The rule that allowed it, if one did.
    pub rule: Option<RuleId>,
    /// Whether it may open a connection, so that answers to it pass too.
    pub stateful: bool,
}

/// What a direction's refusals are called.
#[derive(Clone, Copy, Debug)]
struct Refusals {
    denied: DropReason,
    rejected: DropReason,
}

impl Refusals {
    const OUTBOUND: Self = Self {
        denied: DropReason::AclOut,
        rejected: DropReason::RejectOut,
    };
    const INBOUND: Self = Self {
        denied: DropReason::AclIn,
        rejected: DropReason::RejectIn,
    };
}

/// One direction's rules and default.
#[derive(Clone, Debug)]
struct Judge {
    classifier: Arc<Classifier>,
    /// The rules that have a limit.
    limits: Arc<[(RuleId, RateLimit)]>,
    default: Action,
}

impl Judge {
    /// Malformed frames, and what stands behind a nested tag, are denied without a rule: rules
    /// cannot read what they would match.
    /// ARP and whole neighbour discovery pass unless a rule denies them.
    fn judge<R: KeyReader>(&self, r: &mut R, refusals: Refusals) -> Result<Pass, Denial> {
        let legible = |shape| shape & (shape::MALFORMED | shape::NESTED) == 0;
        if !r.test(Field::SHAPE, Field::SHAPE.ones(), legible) && !R::TRACING {
            return Err(Denial::new(refusals.denied));
        }
        let (action, rule) = match self.classifier.decide(r) {
            Some((action, rule)) => (action, Some(rule)),
            None if is_arp_or_nd(r) => (Action::Allow, None),
            None => (self.default, None),
        };
        let reason = match action {
            Action::Allow | Action::AllowStateful => {
                let stateful = action == Action::AllowStateful;
                return Ok(Pass { rule, stateful });
            }
            Action::Deny => refusals.denied,
            Action::Reject => refusals.rejected,
        };
        Err(Denial { reason, rule })
    }
}

/// A network: its limits and the ports that are in it.
#[derive(Debug)]
pub struct NetworkPolicy {
    /// Its number.
    pub id: NetworkId,
    /// Its name.
    pub name: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Its VLAN on trunk ports.
    pub vlan: Option<VlanId>,
    /// Most addresses it may learn.
    pub mac_limit: u32,
    /// Seconds after which an address that sends nothing is forgotten.
    pub ageing_s: u32,
    /// How often an address may move between ports.
    pub moves: MoveLimit,
    /// Its ports, by number.
    pub members: Vec<Member>,
    /// The routers that have an interface in it.
    pub gateways: Vec<Gateway>,
    /// What the switch itself answers in it.
    pub services: Services,
    /// The addresses of its vNICs, where a router may have to find them.
    pub hosts: HashMap<IpAddr, Host>,
}

impl NetworkPolicy {
    /// The router that frames to `mac` are for.
    #[inline]
    pub fn gateway(&self, mac: Mac) -> Option<Gateway> {
        let mut gateways = self.gateways.iter();
        gateways.find(|gateway| gateway.mac == mac).copied()
    }
}

/// A router's interface in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its Ethernet address.
    pub mac: Mac,
    /// The router's number.
    pub router: u16,
    /// The interface.
    pub interface: InterfaceId,
}

/// Where a vNIC's address is, by configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its port.
    pub port: PortId,
}

/// A port of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The port.
    pub port: PortId,
    /// The tag that the network's frames leave the port with; `None` is without.
    pub tag: Option<VlanId>,
    /// Whether the port is isolated.
    pub isolated: bool,
}
