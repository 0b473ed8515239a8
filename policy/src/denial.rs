//! Why a frame was dropped: one enum, whose variants are also the counters.

use std::fmt;

use crate::{PortId, RuleId};

/// Where in the walk a frame was dropped, and so which port's account the drop stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Before the frame had a destination: in the ingress port's account.
    Ingress,
    /// On the way out of one destination: in the egress port's account.
    Egress,
}

macro_rules! drop_reasons {
    ($($variant:ident $name:literal $stage:ident $text:literal,)*) => {
        /// Why a frame was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $text] $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name used in counters, the CLI and the docs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What happened, for a person.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Where in the walk it is decided.
            pub const fn stage(self) -> Stage {
                match self { $(Self::$variant => Stage::$stage,)* }
            }
        }
    };
}

drop_reasons! {
    Runt "runt" Ingress "The frame is shorter than its Ethernet header.",
    Malformed "malformed" Ingress "A header contradicts itself or is cut off, so a vNIC's rules cannot judge it.",
    NoPolicy "no_policy" Ingress "No policy is in force for the port yet.",
    VlanNotAllowed "vlan_not_allowed" Ingress "The port may not send frames with this VLAN tag.",
    UntaggedNotAllowed "untagged_not_allowed" Ingress "The trunk port has no native network for untagged frames.",
    VlanNested "vlan_nested" Ingress "A vNIC sent a frame with a tag behind its tag, or any port one with a tag behind a priority tag.",
    MacOwned "mac_owned" Ingress "The source address belongs to a vNIC of another port.",
    GroupSource "group_source" Ingress "The source address is a group address.",
    LinkLocalGroup "link_local_group" Ingress "The destination is reserved for the link itself (01:80:c2:00:00:0x).",
    SpoofedMac "spoofed_mac" Ingress "A vNIC sent from an Ethernet address that is not its own.",
    SpoofedIpv4 "spoofed_ipv4" Ingress "A vNIC sent from an IPv4 address that is not its own.",
    SpoofedIpv6 "spoofed_ipv6" Ingress "A vNIC sent from an IPv6 address that is not its own.",
    SpoofedArp "spoofed_arp" Ingress "A vNIC claimed by ARP an address that is not its own.",
    SpoofedNd "spoofed_nd" Ingress "A vNIC claimed by neighbour discovery an address that is not its own.",
    AclOut "acl_out" Ingress "The sending vNIC's outbound policy denies it.",
    RejectOut "reject_out" Ingress "The sending vNIC's outbound policy rejects it.",
    MacLimitPort "mac_limit_port" Ingress "The port has as many learned addresses as it may.",
    MacLimitNetwork "mac_limit_network" Ingress "The network has as many learned addresses as it may.",
    StormBroadcast "storm_broadcast" Ingress "The port sent more broadcast frames per second than it may.",
    StormMulticast "storm_multicast" Ingress "The port sent more multicast frames per second than it may.",
    StormUnknown "storm_unknown" Ingress "The port sent more frames to unknown addresses per second than it may.",
    MissBudget "miss_budget" Ingress "The port opened more new flows in one turn than its budget allows.",
    SamePort "same_port" Ingress "The destination is behind the port the frame came from.",
    Isolated "isolated" Ingress "Both the sender's and the receiver's port are isolated.",
    NoDestination "no_destination" Ingress "No other port of the network may receive the frame.",
    AclIn "acl_in" Egress "The receiving vNIC's inbound policy denies it.",
    RejectIn "reject_in" Egress "The receiving vNIC's inbound policy rejects it.",
    NestedUntagged "nested_untagged" Egress "The frame would leave untagged, with the tag behind its tag as its own.",
    TxFull "tx_full" Egress "The port's transmit queue was full.",
    TooBig "too_big" Egress "The frame is longer than the port can carry.",
    PortDown "port_down" Egress "The port is down.",
}

impl DropReason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
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
        match self.reason.stage() {
            Stage::Ingress => ingress,
            Stage::Egress => egress,
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
        }
    }
}
