//! What the services know: networks with their gateways, vNICs with their addresses, and what is
//! offered to each. Control makes it anew with each configuration; names are resolved to numbers,
//! and what a vNIC does not say itself is filled in from its network.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{Ipv4Net, Ipv6Net};
use policy::{Mac, NetworkId, PortId};

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Networks that have services, in any order; numbers are unique.
    pub networks: Vec<NetworkPlan>,
    /// vNICs of these networks; one that is in several networks stands once for each.
    pub vnics: Vec<VnicPlan>,
}

/// What the switch itself is in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPlan {
    /// Its number.
    pub id: NetworkId,
    /// Its name.
    pub name: Arc<str>,
    /// Ethernet source of everything the switch says in the network: the gateway's address, the
    /// same on every host.
    pub mac: Mac,
    /// The gateway's IPv4 addresses, each with its subnet's prefix length.
    pub gateways4: Vec<Ipv4Net>,
    /// The gateway's IPv6 addresses; its link-local one (of [`link_local`]) comes on top.
    pub gateways6: Vec<Ipv6Net>,
    /// The addresses of further gateways, with their Ethernet addresses.
    pub others: Vec<(IpAddr, Mac)>,
    /// Router advertisements; `None` sends none.
    pub advertisements: Option<Advertisements>,
    /// ARP and neighbour discovery.
    pub neighbors: Neighbors,
}

/// What is answered by ARP and neighbour discovery beside the gateway's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbors {
    /// Answer for the network's vNICs.
    pub proxy: bool,
    /// How long others may answer a question before the gateway's Ethernet address is given as the
    /// answer, milliseconds; `None` never gives it.
    pub fallback_ms: Option<u32>,
    /// How often a vNIC's addresses are announced when it appears.
    pub announcements: u8,
    /// Time between these, milliseconds.
    pub announcement_interval_ms: u32,
    /// Time between announcements while a VM is about to move, milliseconds. ARP and neighbour
    /// discovery carry no lifetime: saying an address again is the only means there is to keep
    /// peers from going on with an old entry (see `announce`).
    pub moving_interval_ms: u32,
}

impl Default for Neighbors {
    fn default() -> Self {
        Self {
            proxy: true,
            fallback_ms: None,
            announcements: 3,
            announcement_interval_ms: 1000,
            moving_interval_ms: 1000,
        }
    }
}

/// Router advertisements of a network (RFC 4861 §4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisements {
    /// Longest time between unsolicited ones, seconds, 4 to 1800; the shortest is a third of it.
    pub interval_s: u32,
    /// How long the switch is a default router, seconds; 0 is none.
    pub lifetime_s: u16,
    /// Addresses are to be had by `DHCPv6` (M).
    pub managed: bool,
    /// Other settings are to be had by `DHCPv6` (O).
    pub other: bool,
    /// The hop limit that hosts shall use; 0 says nothing of it.
    pub hop_limit: u8,
    /// The link's MTU.
    pub mtu: Option<u32>,
    /// Prefixes of the link.
    pub prefixes: Vec<Prefix>,
    /// DNS servers (RFC 8106 §5.1).
    pub dns: Vec<Ipv6Addr>,
    /// DNS search list (RFC 8106 §5.2).
    pub search: Vec<Arc<str>>,
    /// Lifetime of both, seconds.
    pub dns_lifetime_s: u32,
}

/// A prefix of a router advertisement (RFC 4861 §4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The prefix.
    pub net: Ipv6Net,
    /// Its addresses are on the link (L).
    pub on_link: bool,
    /// Hosts may make their own addresses of it (A).
    pub autonomous: bool,
    /// Seconds; `u32::MAX` is forever.
    pub valid_s: u32,
    /// Seconds, at most `valid_s`.
    pub preferred_s: u32,
}

/// A vNIC in one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VnicPlan {
    /// Its name.
    pub name: Arc<str>,
    /// Its VM; the remote-id of relayed DHCP.
    pub vm: Arc<str>,
    /// Its port.
    pub port: PortId,
    /// Its port's name; the circuit-id of relayed DHCP.
    pub port_name: Arc<str>,
    /// The network.
    pub network: NetworkId,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its own IPv4 addresses.
    pub ipv4: Vec<Ipv4Addr>,
    /// Its own IPv6 addresses.
    pub ipv6: Vec<Ipv6Addr>,
    /// It may act as a router: nobody answers neighbour discovery for it, as only it knows whether
    /// it is one just now (RFC 4861 §4.4, R).
    pub router: bool,
    /// DHCP for IPv4.
    pub dhcp4: Dhcp4,
    /// DHCP for IPv6.
    pub dhcp6: Dhcp6,
}

/// DHCP for IPv4, as one vNIC meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dhcp4 {
    /// What is done with its messages.
    pub mode: Mode4,
    /// The server identifier of leases, the relay's address (giaddr) of relayed messages.
    pub server: Ipv4Addr,
    /// What the lease of [`Mode4::Fixed`] says; also that of a relay's fallback.
    pub lease: Option<Arc<Lease4>>,
}

/// What is done with a vNIC's DHCP messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode4 {
    /// Nothing: they pass like any other frame.
    Off,
    /// They are answered with the vNIC's configured address.
    Fixed,
    /// They go to a server.
    Relay(Relay4),
}

/// The servers of a relay (RFC 2131 §4, RFC 3046).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay4 {
    /// Servers, the first to be asked first.
    pub servers: Vec<Ipv4Addr>,
    /// How long one may take to answer before the next is asked, milliseconds.
    pub timeout_ms: u32,
    /// Messages that passed so many relays are refused (RFC 1542 §4.1.1).
    pub max_hops: u8,
    /// When no server answers, the vNIC gets its lease, if it has one.
    pub fallback: bool,
}

/// A fixed lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease4 {
    /// The vNIC's address with its subnet's prefix length.
    pub address: Ipv4Net,
    /// The default gateway.
    pub router: Option<Ipv4Addr>,
    /// DNS servers.
    pub dns: Vec<Ipv4Addr>,
    /// Search domains; the first is the domain name.
    pub search: Vec<Arc<str>>,
    /// The interface's MTU.
    pub mtu: Option<u16>,
    /// Classless static routes: destination and next hop. With any of them, `router` is told as
    /// a default route among them too (RFC 3442).
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Lease time, seconds; `u32::MAX` is forever.
    pub lease_s: u32,
    /// The host's name.
    pub hostname: Option<Arc<str>>,
    /// Any other option, by code (43, the vendor's, among them).
    pub options: Vec<(u8, Vec<u8>)>,
    /// The server that a boot file is fetched from.
    pub next_server: Option<Ipv4Addr>,
    /// The boot file, at most 127 bytes.
    pub boot_file: Option<Arc<str>>,
}

/// DHCP for IPv6, as one vNIC meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dhcp6 {
    /// What is done with its messages.
    pub mode: Mode6,
    /// What is told beside addresses.
    pub settings: Arc<Settings6>,
}

/// What is done with a vNIC's `DHCPv6` messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode6 {
    /// Nothing: they pass like any other frame.
    Off,
    /// Settings are told, addresses are not given (RFC 8415 §6.1).
    Stateless,
    /// The vNIC's configured addresses are given.
    Fixed,
    /// They go to servers.
    Relay(Relay6),
}

/// The servers of a `DHCPv6` relay: all are asked at once (RFC 8415 §19).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay6 {
    /// The relay's own address, which tells servers the link; of the network's gateway.
    pub link: Ipv6Addr,
    /// The servers.
    pub servers: Vec<Ipv6Addr>,
}

/// What `DHCPv6` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings6 {
    /// DNS servers (RFC 3646 §3).
    pub dns: Vec<Ipv6Addr>,
    /// Search domains (RFC 3646 §4).
    pub search: Vec<Arc<str>>,
    /// Preferred lifetime of addresses, seconds, at most `valid_s`.
    pub preferred_s: u32,
    /// Valid lifetime of addresses, seconds.
    pub valid_s: u32,
    /// Answer a solicitation with the addresses at once, if the client asks for that.
    pub rapid_commit: bool,
    /// A boot file (RFC 5970 §3.1).
    pub boot_file_url: Option<Arc<str>>,
}

/// Where a network's leases come from when it has no gateway: nobody routes it, and clients use it
/// only to tell servers apart (RFC 3927).
pub const DEFAULT_SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The link-local address that belongs to an Ethernet address (RFC 4291 appendix A).
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let [m0, m1, m2, m3, m4, m5] = mac.0;
    let bytes = [
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        m0 ^ 2,
        m1,
        m2,
        0xff,
        0xfe,
        m3,
        m4,
        m5,
    ];
    Ipv6Addr::from(bytes)
}

impl NetworkPlan {
    /// The Ethernet address of the gateway, this one or a further, that has an address.
    pub fn gateway_mac(&self, address: IpAddr) -> Option<Mac> {
        let is_own = match address {
            IpAddr::V4(address) => self.has4(address),
            IpAddr::V6(address) => self.has6(address),
        };
        let others = self.others.iter().find(|(other, _)| *other == address);
        is_own.then_some(self.mac).or(others.map(|(_, mac)| *mac))
    }

    /// Whether an IPv4 address is the gateway's.
    pub fn has4(&self, address: Ipv4Addr) -> bool {
        self.gateways4.iter().any(|net| net.addr() == address)
    }

    /// Whether an IPv6 address is the gateway's.
    pub fn has6(&self, address: Ipv6Addr) -> bool {
        let routed = self.gateways6.iter().any(|net| net.addr() == address);
        routed || link_local(self.mac) == address
    }
}
