//! The desired state that policy is compiled from: networks, ports, vNICs, ACLs.
//!
//! Control builds it from a configuration that it has checked; names are resolved to numbers.

use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::{
    Mac, NetworkId, PortId, VlanId,
    router::Router,
    rule::{Places, RuleList},
};

/// The whole desired state.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Networks, in any order; numbers are unique.
    pub networks: Vec<Network>,
    /// Ports, in any order; numbers are unique.
    pub ports: Vec<Port>,
    /// Routers, in any order.
    pub routers: Vec<Arc<Router>>,
    /// Where its rules were written. What a rule let pass may be forgotten when it has no place.
    pub places: Arc<Places>,
}

/// A bridge domain of one tenant.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its number.
    pub id: NetworkId,
    /// Its name.
    pub name: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Its VLAN on trunk ports; `None` when it is on no trunk, or only as native.
    pub vlan: Option<VlanId>,
    /// Most addresses it may learn.
    pub mac_limit: u32,
    /// Seconds after which an address that sends nothing is forgotten.
    pub ageing_s: u32,
    /// How often an address may move between ports.
    pub moves: MoveLimit,
    /// What the switch itself answers in it.
    pub services: Services,
}

/// What the switch itself answers in a network, beside what is for its gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent switches of the configuration"
)]
pub struct Services {
    /// ARP and neighbour discovery for the addresses of its vNICs.
    pub proxy: bool,
    /// ARP and neighbour discovery for addresses that nobody answers for.
    pub fallback: bool,
    /// Router solicitations (RFC 4861).
    pub advertises: bool,
    /// DHCP messages of some of its vNICs (RFC 2131).
    pub dhcp: bool,
    /// `DHCPv6` messages of some of its vNICs (RFC 8415).
    pub dhcp6: bool,
}

/// How often an address may move between ports of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveLimit {
    /// Most moves within [`MoveLimit::WINDOW_S`]. Who claims it at another port then is not believed.
    pub most: u32,
    /// For so many seconds.
    pub hold_s: u32,
}

impl MoveLimit {
    /// What moves are counted in, seconds.
    pub const WINDOW_S: u32 = 10;
}

impl Default for MoveLimit {
    fn default() -> Self {
        Self {
            most: 5,
            hold_s: 30,
        }
    }
}

/// What becomes of the frames by which bridges find loops (IEEE 802.1D and 802.1Q, and Cisco's PVST+).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpanningTree {
    /// They are sent on to the ports of the network that pass them too.
    Pass,
    /// They are dropped.
    #[default]
    Drop,
    /// The first one disables the port: a bridge is where none should be.
    Disable,
}

impl SpanningTree {
    /// Each, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Pass, Self::Drop, Self::Disable];

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Disable => "disable",
        }
    }
}

/// What a guest may pretend to be, and is otherwise dropped for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// A DHCP server, of either version.
    pub dhcp_server: bool,
    /// A router that advertises itself.
    pub router: bool,
}

/// A port's place in the networks and its limits.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// Its name.
    pub name: Arc<str>,
    /// Which networks its frames belong to.
    pub attachment: Attachment,
    /// Isolated ports of a network reach only ports that are not (split horizon).
    pub isolated: bool,
    /// What becomes of spanning tree frames.
    pub spanning_tree: SpanningTree,
    /// Most addresses the port may have learned, over all its networks.
    pub mac_limit: u32,
    /// Limits on frames that are flooded.
    pub storm: StormLimits,
    /// Most flow cache misses that a worker resolves for the port in one turn.
    pub misses_per_turn: u32,
    /// The vNIC bound to the port, with its policy; a port without one is not judged.
    pub vnic: Option<Vnic>,
}

/// Which networks a port's frames belong to.
#[derive(Clone, Debug)]
pub enum Attachment {
    /// Untagged and priority-tagged frames belong to the network; others are refused.
    Access(NetworkId),
    /// Frames belong to the network with their VLAN, untagged ones to `native`.
    Trunk {
        /// Networks carried with their tag.
        tagged: Vec<NetworkId>,
        /// The network carried without a tag.
        native: Option<NetworkId>,
    },
}

/// Frames per second that a port may flood, by kind; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StormLimits {
    /// To ff:ff:ff:ff:ff:ff.
    pub broadcast_pps: Option<u32>,
    /// To any other group address.
    pub multicast_pps: Option<u32>,
    /// To an address that no port was seen to have.
    pub unknown_pps: Option<u32>,
}

/// A VM's network interface: identity and policy.
#[derive(Clone, Debug)]
pub struct Vnic {
    /// Its name.
    pub name: Arc<str>,
    /// The VM it belongs to.
    pub vm: Arc<str>,
    /// Its Ethernet address.
    pub mac: Mac,
    /// IPv4 addresses or prefixes it may send from.
    pub ipv4: Vec<Ipv4Net>,
    /// IPv6 addresses or prefixes it may send from; its link-local address formed from `mac`
    /// (RFC 4291 appendix A) and `::` (for duplicate address detection) come on top.
    pub ipv6: Vec<Ipv6Net>,
    /// Most connections that it may have opened at once.
    pub connection_limit: u32,
    /// What is checked of its frames' senders.
    pub checks: SenderChecks,
    /// What it may be.
    pub roles: Roles,
    /// Policy for frames to the VM.
    pub inbound: DirectionPolicy,
    /// Policy for frames from the VM.
    pub outbound: DirectionPolicy,
}

/// Which claims of a sender are checked against its vNIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "five independent switches of the configuration"
)]
pub struct SenderChecks {
    /// Ethernet source.
    pub mac: bool,
    /// IPv4 source.
    pub ipv4: bool,
    /// IPv6 source.
    pub ipv6: bool,
    /// ARP sender addresses (RFC 826).
    pub arp: bool,
    /// Neighbour discovery addresses (RFC 4861).
    pub nd: bool,
}

impl SenderChecks {
    /// Everything is checked.
    pub const ALL: Self = Self {
        mac: true,
        ipv4: true,
        ipv6: true,
        arp: true,
        nd: true,
    };
    /// Nothing is checked.
    pub const NONE: Self = Self {
        mac: false,
        ipv4: false,
        ipv6: false,
        arp: false,
        nd: false,
    };
}

/// An ordered rule list and what applies when none matches.
#[derive(Clone, Debug)]
pub struct DirectionPolicy {
    /// First match wins. vNICs with the same list share it.
    pub rules: RuleList,
    /// When no rule matches. ARP and neighbour discovery pass all the same unless a rule denies
    /// them: without them a guest cannot be reached whatever its rules allow.
    pub default: Action,
}

/// What a rule or a default does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The frame passes.
    Allow,
    /// The frame passes, and so do the answers to it. Without connection tracking, as `Allow`.
    AllowStateful,
    /// The frame is dropped and counted.
    Deny,
    /// The frame is dropped and counted, and its sender is told.
    Reject,
}

impl Action {
    /// Every action, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Allow, Self::AllowStateful, Self::Deny, Self::Reject];

    /// Its name in the configuration and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::AllowStateful => "allow_stateful",
            Self::Deny => "deny",
            Self::Reject => "reject",
        }
    }

    /// Whether frames pass.
    pub const fn passes(self) -> bool {
        matches!(self, Self::Allow | Self::AllowStateful)
    }
}

/// How often something may happen: a bucket of `burst` tokens that `per_second` refill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// Tokens that come back each second; at least 1.
    pub per_second: u32,
    /// Most tokens there are, so what may happen at once; at least 1.
    pub burst: u32,
}
