//! Why a message to a service was refused, and how often: each refusal has a name and a sentence.

use std::{collections::HashMap, fmt};

use policy::NetworkId;

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $text:literal;)*) => {
        /// Why a message was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Refusal {
            $($(#[$doc])* $variant,)*
        }

        impl Refusal {
            /// Every refusal, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name in counters.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What it means, for an operator.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

refusals! {
    /// A header is cut off or contradicts itself.
    Malformed = "malformed", "A header of the message is cut off or contradicts itself.";
    /// A wrong checksum.
    Checksum = "checksum", "The message has a wrong checksum: it was damaged on its way.";
    /// Not ARP for IPv4 over Ethernet.
    ArpForm = "arp_form", "An ARP message is not for IPv4 over Ethernet, or its operation is neither request nor reply.";
    /// The ARP sender is a group.
    ArpSender = "arp_sender", "An ARP message names a group as its sender.";
    /// RFC 4861 §6.1, §7.1.
    NdHopLimit = "nd_hop_limit", "A neighbour discovery message has crossed a router: its hop limit is not 255.";
    /// RFC 4861 §6.1, §7.1.
    NdForm = "nd_form", "A neighbour discovery message is too short, has a code, an empty option or a group as its target.";
    /// RFC 4861 §7.1.1.
    NdUnspecified = "nd_unspecified", "A solicitation without source is not for a solicited-node group, or tells a link-layer address.";
    /// Not a BOOTP message for Ethernet.
    DhcpForm = "dhcp_form", "A DHCP message is too short, is not for Ethernet, or has no magic cookie.";
    /// Options that cannot be read.
    DhcpOptions = "dhcp_options", "An option of a DHCP message is cut off or has a wrong length.";
    /// No or unknown message type.
    DhcpType = "dhcp_type", "A DHCP message has no message type (plain BOOTP), or one that clients do not send.";
    /// chaddr is not the vNIC's.
    DhcpAddress = "dhcp_address", "A DHCP message asks for a hardware address that is not the vNIC's.";
    /// RFC 2131 §4.3.2.
    DhcpRequest = "dhcp_request", "A DHCP request names no address, or fields that exclude each other.";
    /// The vNIC has no lease.
    DhcpNoLease = "dhcp_no_lease", "The vNIC asks for an address by DHCP, and none is configured for it.";
    /// The client chose another server.
    DhcpOtherServer = "dhcp_other_server", "A DHCP message is for another server.";
    /// RFC 3046 §2.1.1.
    RelayForged = "relay_forged", "A guest's DHCP message claims to come from a relay (giaddr, option 82, or a relay message).";
    /// RFC 1542 §4.1.1.
    RelayHops = "relay_hops", "A DHCP message has passed too many relays.";
    /// Option 82 does not fit.
    RelayTooLong = "relay_too_long", "A DHCP message is too long to be relayed.";
    /// The table of outstanding messages is full.
    RelayFull = "relay_full", "More DHCP messages wait for servers than are kept; the client will ask again.";
    /// A server's message that answers nothing.
    RelayUnasked = "relay_unasked", "A DHCP server's message answers nothing that was relayed.";
    /// A reply from an address that is not a server's.
    RelayServer = "relay_server", "A reply to a relayed DHCP message comes from an address that is not one of the servers.";
    /// No server answered.
    RelaySilent = "relay_silent", "No DHCP server answered a relayed message in time.";
    /// RFC 8415 §16.
    Dhcp6Form = "dhcp6_form", "A DHCPv6 message is cut off, or an option has a wrong length.";
    /// RFC 8415 §16.
    Dhcp6Identity = "dhcp6_identity", "A DHCPv6 message lacks an identifier it must have, or has one it must not have.";
    /// RFC 8415 §16.
    Dhcp6Type = "dhcp6_type", "A DHCPv6 message is of a type that clients do not send.";
    /// RFC 8415 §16.
    Dhcp6OtherServer = "dhcp6_other_server", "A DHCPv6 message is for another server.";
    /// Longer than a packet.
    Dhcp6TooLong = "dhcp6_too_long", "A DHCPv6 message, or the answer to it, is too long for a packet.";
    /// RFC 8415 §18.3.3.
    Dhcp6NothingToConfirm = "dhcp6_nothing_to_confirm", "A DHCPv6 message asks to confirm no address.";
    /// Stateless `DHCPv6` only.
    Dhcp6NoAddresses = "dhcp6_no_addresses", "A vNIC asks for addresses by DHCPv6 where only settings are told.";
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often each refusal happened, by network.
#[derive(Clone, Debug, Default)]
pub struct Refusals(HashMap<NetworkId, Vec<u64>>);

impl Refusals {
    /// Counts one.
    pub fn count(&mut self, network: NetworkId, refusal: Refusal) {
        let counts = self.0.entry(network);
        let counts = counts.or_insert_with(|| vec![0; Refusal::ALL.len()]);
        counts[refusal as usize] += 1;
    }

    /// How many of one kind a network has had.
    pub fn get(&self, network: NetworkId, refusal: Refusal) -> u64 {
        let counts = self.0.get(&network);
        counts.map_or(0, |counts| counts[refusal as usize])
    }

    /// All that happened, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (NetworkId, Refusal, u64)> + '_ {
        self.0.iter().flat_map(|(network, counts)| {
            let counts = Refusal::ALL.iter().zip(counts).filter(|(_, n)| **n > 0);
            counts.map(|(refusal, n)| (*network, *refusal, *n))
        })
    }

    /// Forgets networks that are gone.
    pub fn retain(&mut self, keep: impl Fn(NetworkId) -> bool) {
        self.0.retain(|network, _| keep(*network));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_numbered_in_order_and_named_once() {
        let mut names = std::collections::HashSet::new();
        for (number, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*refusal as usize, number);
            assert!(names.insert(refusal.name()), "{refusal} twice");
            assert!(refusal.text().ends_with('.'), "{refusal}");
        }
    }
}
