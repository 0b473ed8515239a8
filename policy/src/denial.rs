//! Why a frame was dropped: one enum, whose variants are also the counters.
//!
//! The table below is all there is to know of a reason: `vswitch drops --reasons` prints it, and
//! docs/drops.md is checked against it.

use crate::{PortId, RuleId};

/// In whose account a drop stands: the port's that the frame came in by, or the port's that it was
/// to leave by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Before the frame had a destination: in the ingress port's account.
    Ingress,
    /// On the way out of one destination: in the egress port's account.
    Egress,
}

/// Where in the walk a frame is judged, in the order in which it gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Its headers are read.
    Parse,
    /// The flow cache has no answer, and the port may open one more flow.
    Budget,
    /// The port may send it, and on which network.
    Admission,
    /// The vNIC of the ingress port may be its sender.
    Sender,
    /// The outbound policy of that vNIC.
    Outbound,
    /// The services of the switch: what it answers itself.
    Service,
    /// The MAC table: where the sender is, and where the destination.
    Bridge,
    /// The routers: where a frame that is for one of them goes.
    Route,
    /// The tag that it is to leave with.
    Tag,
    /// The inbound policy of a vNIC that is to receive it.
    Inbound,
    /// The connection that it belongs to, or opens. Later fragments, which have neither, are judged
    /// before the outbound policy.
    Connection,
    /// The limits on what a port floods.
    Flood,
    /// The driver of a port that it is to leave by.
    Transmit,
}

impl Stage {
    /// The name used in the CLI and the docs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Budget => "budget",
            Self::Admission => "admission",
            Self::Sender => "sender checks",
            Self::Outbound => "outbound rules",
            Self::Service => "service",
            Self::Bridge => "bridge",
            Self::Route => "router",
            Self::Tag => "tag",
            Self::Inbound => "inbound rules",
            Self::Connection => "connection",
            Self::Flood => "flood limit",
            Self::Transmit => "transmit",
        }
    }

    /// In whose account its drops stand.
    pub const fn side(self) -> Side {
        match self {
            Self::Tag | Self::Inbound | Self::Transmit => Side::Egress,
            Self::Parse
            | Self::Budget
            | Self::Admission
            | Self::Sender
            | Self::Outbound
            | Self::Service
            | Self::Bridge
            | Self::Route
            | Self::Connection
            | Self::Flood => Side::Ingress,
        }
    }
}

crate::reasons! {
    /// Why a frame was dropped.
    pub enum DropReason;
    /// Where in the walk it is decided.
    fn stage -> Stage;

    Runt "runt" Admission
        "The frame is shorter than its Ethernet header.",
        "The sender or its driver is broken; nothing to do at the switch.";
    Malformed "malformed" Sender
        "A header contradicts itself or is cut off, so a vNIC's rules cannot judge it.",
        "Capture at the sender. From a guest it may be an attempt to pass the rules.";
    NoPolicy "no_policy" Admission
        "No policy is in force for the port yet.",
        "Expected for moments while a port is removed; else report it.";
    VlanNotAllowed "vlan_not_allowed" Admission
        "The port may not send frames with this VLAN tag.",
        "Access ports take no tags; on a trunk, add the network to `trunk`, or correct the sender's VLAN.";
    UntaggedNotAllowed "untagged_not_allowed" Admission
        "The trunk port has no native network for untagged frames.",
        "Set `native`, or tag at the sender.";
    VlanNested "vlan_nested" Sender
        "A vNIC sent a frame with a tag behind its tag, or any port one with a tag behind a priority tag.",
        "VLAN hopping, or QinQ in a guest, which is not carried for vNICs.";
    MacOwned "mac_owned" Bridge
        "The source address belongs to a vNIC of another port.",
        "Two machines with one address, or an impostor behind an unjudged port; see `show macs`.";
    GroupSource "group_source" Admission
        "The source address is a group address.",
        "The sender is broken.";
    LinkLocalGroup "link_local_group" Admission
        "The destination is reserved for the link itself (01:80:c2:00:00:0x).",
        "Normal.";
    Bpdu "bpdu" Admission
        "A spanning tree frame came to a port that does not pass them.",
        "Normal; set `spanning_tree = \"pass\"` for ports behind which bridges are to find their loops.";
    BpduGuard "bpdu_guard" Admission
        "A spanning tree frame came to a port that is to be disabled for it.",
        "A bridge is where none should be. Take it away, then `vswitch port enable`.";
    PortDisabled "port_disabled" Admission
        "The port is disabled since a spanning tree frame came to it.",
        "As for `bpdu_guard`; `show port` tells since when.";
    SpoofedMac "spoofed_mac" Sender
        "A vNIC sent from an Ethernet address that is not its own.",
        "Correct `mac`; for nested bridges or VRRP in the guest, set `anti_spoofing = { mac = false }`.";
    SpoofedIpv4 "spoofed_ipv4" Sender
        "A vNIC sent from an IPv4 address that is not its own.",
        "Add the address to `ipv4`, or switch off `anti_spoofing.ipv4` for routers. A guest's DHCP requests and ARP probes, from 0.0.0.0, pass.";
    SpoofedIpv6 "spoofed_ipv6" Sender
        "A vNIC sent from an IPv6 address that is not its own.",
        "Add it to `ipv6`; privacy addresses need the prefix.";
    SpoofedArp "spoofed_arp" Sender
        "A vNIC claimed by ARP an address that is not its own.",
        "As for `spoofed_ipv4`.";
    SpoofedNd "spoofed_nd" Sender
        "A vNIC claimed by neighbour discovery an address that is not its own.",
        "As for `spoofed_ipv6`.";
    RogueDhcp "rogue_dhcp" Sender
        "A vNIC sent what only a DHCP server sends.",
        "A guest that answers for others' addresses; if it is meant to be a server, set `dhcp_server = true` for the vNIC.";
    RogueRa "rogue_ra" Sender
        "A vNIC sent a router advertisement or a redirect.",
        "A guest that makes itself a router for others; if it is meant to be one, set `router = true` for the vNIC.";
    AclOut "acl_out" Outbound
        "The sending vNIC's outbound policy denies it.",
        "`show drops` names the rule and where it is written; without a rule it was the default.";
    RejectOut "reject_out" Outbound
        "The sending vNIC's outbound policy rejects it.",
        "As for `acl_out`. The sender is told: TCP by a reset, all else by ICMP \"administratively prohibited\", up to 200 times a second and port; not for a flooded frame.";
    LimitOut "limit_out" Outbound
        "A rule of the sending vNIC allows it, and so many frames or connections a second were there already.",
        "`show drops` names the rule; raise its `limit` or `burst` if that many are wanted. Each vNIC has the limit of a rule for itself.";
    ConnectionInvalid "connection_invalid" Connection
        "The frame belongs to no connection, or lies outside its connection's windows or state.",
        "TCP whose beginning the switch did not see (it was restarted, or the connection flushed): open it anew, or set `tcp_loose`. Otherwise a guest that sends nonsense, or an attack.";
    ConnectionLimit "connection_limit" Connection
        "The vNIC has as many connections as it may.",
        "`vswitch show connections --vm X`; raise `connection_limit`, or lower a timeout.";
    ConnectionTableFull "connection_table_full" Connection
        "The switch has as many connections as it may.",
        "Raise `max` of `[connections]`, or lower `connection_limit` of the vNICs.";
    FragmentUnknown "fragment_unknown" Connection
        "The fragment follows no first fragment that was let pass.",
        "The first was dropped or lost, came later, or came more than 30 s before.";
    MacLimitPort "mac_limit_port" Bridge
        "The port has as many learned addresses as it may.",
        "A flood of addresses, or raise the port's `mac_limit`.";
    MacLimitNetwork "mac_limit_network" Bridge
        "The network has as many learned addresses as it may.",
        "Raise the network's `mac_limit`, or find the port that floods.";
    MacFlapping "mac_flapping" Bridge
        "The source address moved between ports more often than it may, and is held at the one where it was.",
        "A loop, or two machines with one address: `show macs` tells where it is held. The network's `mac_moves` is the limit.";
    StormBroadcast "storm_broadcast" Flood
        "The port sent more broadcast frames per second than it may.",
        "Look for a loop behind the port; else raise the limit.";
    StormMulticast "storm_multicast" Flood
        "The port sent more multicast frames per second than it may.",
        "The same.";
    StormUnknown "storm_unknown" Flood
        "The port sent more frames to unknown addresses per second than it may.",
        "The receiver is silent or gone; else raise the limit.";
    MissBudget "miss_budget" Budget
        "The port opened more new flows in one turn than its budget allows.",
        "A scan or a flood from that port; for a busy uplink raise the limit, or `flow_cache_entries`.";
    SamePort "same_port" Bridge
        "The destination is behind the port the frame came from.",
        "Normal behind a hub or a nested bridge.";
    Isolated "isolated" Bridge
        "Both the sender's and the receiver's port are isolated.",
        "Intended; else clear `isolated` of one.";
    NoDestination "no_destination" Bridge
        "No other port of the network may receive the frame.",
        "The network has one port, or its others are isolated or waiting.";
    NotRoutable "not_routable" Route
        "The frame is for a router, and is no whole IP packet from one host to another.",
        "Link-local and group addresses stay in their network; a guest that sends others is broken.";
    NoRoute "no_route" Route
        "The router has no route to the destination.",
        "`vswitch show routes`; add a route, or a default one. The sender is told.";
    RouteBlackhole "route_blackhole" Route
        "A route says that packets to the destination are dropped.",
        "Intended; else correct the route.";
    RouteReject "route_reject" Route
        "A route says that packets to the destination are refused.",
        "Intended; else correct the route. The sender is told.";
    RoutingLoop "routing_loop" Route
        "The packet went through eight routers of the switch and was not done.",
        "Routes of two routers point at each other; `vswitch explain` shows the way.";
    TtlExpired "ttl_expired" Route
        "The packet may not pass another router.",
        "Normal for traceroute; otherwise a loop outside, or a sender with a low TTL.";
    PacketTooBig "packet_too_big" Route
        "The packet is longer than the next network's MTU, and may not be fragmented.",
        "Normal for path-MTU discovery: the sender is told the MTU.";
    NeighborUnresolved "neighbor_unresolved" Route
        "Nobody answers for the next hop's address.",
        "`vswitch show neighbors`; the host is down, or its address is another one.";
    NeighborWaiting "neighbor_waiting" Route
        "As many frames as may wait for their next hop's Ethernet address do so.",
        "Normal for moments; a scan of a network with few hosts makes many.";
    NoService "no_service" Route
        "The packet is for a router itself, which has no such service.",
        "Routers answer echo requests, ARP and neighbour discovery. The sender of TCP and UDP is told.";
    ServiceRefused "service_refused" Service
        "The message to a service of the switch is malformed, or asks for what its sender may not have.",
        "The log of the switch says what; capture at the sender.";
    ServiceBusy "service_busy" Service
        "The services of the switch had as many frames to look at as they take in.",
        "A flood of ARP, neighbour discovery or DHCP; `show drops` names the port.";
    AclIn "acl_in" Inbound
        "The receiving vNIC's inbound policy denies it.",
        "`show drops` names the rule; without a rule it was the default, which is deny.";
    RejectIn "reject_in" Inbound
        "The receiving vNIC's inbound policy rejects it.",
        "As for `acl_in`; the sender is told as for `reject_out`.";
    LimitIn "limit_in" Inbound
        "A rule of the receiving vNIC allows it, and so many frames or connections a second were there already.",
        "As for `limit_out`. On an `allow stateful` it is new connections that are too many, as in a SYN flood; those that are open go on.";
    NestedUntagged "nested_untagged" Tag
        "The frame would leave untagged, with the tag behind its tag as its own.",
        "VLAN hopping, or QinQ on a trunk, which is carried only between ports where the outer tag stays.";
    TxFull "tx_full" Transmit
        "The port's transmit queue was full.",
        "The receiver is slower than the sender. A larger `ring_size`, more queues, or a faster peer.";
    TooBig "too_big" Transmit
        "The frame is longer than the port can carry.",
        "Equal MTUs on all ports of a network, or a lower one at the sender.";
    ServiceLost "service_lost" Transmit
        "A frame of the switch's own found no free buffer on its way to the port.",
        "The services say more than workers take off them: announcements to very many ports, or a worker that is stuck.";
    PortDown "port_down" Transmit
        "The port is down.",
        "See `show ports`.";
}

impl DropReason {
    /// In whose account its drops stand.
    pub const fn side(self) -> Side {
        self.stage().side()
    }
}

/// A drop: why, and which rule decided, if one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub reason: DropReason,
    /// The rule that decided; `None` when the default policy or no rule did.
    pub rule: Option<RuleId>,
}

impl Denial {
    /// A drop that no rule decided.
    pub const fn new(reason: DropReason) -> Self {
        Self { reason, rule: None }
    }

    /// In whose account the drop stands: the ingress or the egress port's.
    pub fn account(&self, ingress: PortId, egress: PortId) -> PortId {
        match self.reason.side() {
            Side::Ingress => ingress,
            Side::Egress => egress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order_and_named_once() {
        let mut names = std::collections::HashSet::new();
        for (number, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            assert!(names.insert(reason.name()), "{reason} twice");
            assert!(reason.advice().ends_with('.'), "{reason} has no advice");
        }
    }
}
