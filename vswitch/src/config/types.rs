//! A configuration that was checked: every name resolves, every value is in range.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::{Range, RangeInclusive},
    path::PathBuf,
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use pmd::{
    af_xdp::{Mode, ZeroCopy},
    vhost_user::{Features, Role},
};
use policy::{
    InterfaceId, Mac, VlanId,
    model::{Action, MoveLimit, SenderChecks, SpanningTree, StormLimits},
    route::NextHop,
};

pub use super::acl_rules::{AclRule, AclRules, Head};
use super::{
    connections::Connections,
    decapsulator::Decapsulator,
    mirroring::MirrorTarget,
    service_types::{NetworkServices, VnicServices},
};

/// The whole desired state.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file's name, as it was given.
    pub file: Arc<str>,
    /// `[switch]`
    pub switch: Switch,
    /// `[workers]`
    pub workers: Workers,
    /// `[connections]`
    pub connections: Connections,
    /// `[metrics]`: where Prometheus may ask; `None` is nowhere but on the control socket.
    pub metrics: Option<SocketAddr>,
    /// `[host_routes]`; `None` is none.
    pub host_routes: Option<HostRoutes>,
    /// `[policy]`
    pub policy: Policy,
    /// `[[network]]`, in the order of the file.
    pub networks: Vec<Network>,
    /// `[[port]]`, in the order of the file.
    pub ports: Vec<Port>,
    /// `[[vnic]]`, in the order of the file.
    pub vnics: Vec<Vnic>,
    /// `[[router]]`, in the order of the file.
    pub routers: Vec<Router>,
    /// `[[acl]]`, in the order of the file.
    pub acls: Vec<Acl>,
    /// `[[group]]`, in the order of the file.
    pub groups: Vec<Group>,
    /// `[[address_set]]`, in the order of the file.
    pub address_sets: Vec<AddressSet>,
    /// `[[port_set]]`, in the order of the file.
    pub port_sets: Vec<PortSet>,
    /// `[decapsulator]` and `[[sniffer]]`
    pub decapsulator: Option<Decapsulator>,
    /// `[[mirror_target]]`, in the order of the file.
    pub mirror_targets: Vec<MirrorTarget>,
}

/// `[switch]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The control socket.
    pub socket: PathBuf,
    /// Its permissions.
    pub socket_mode: u32,
}

/// `[workers]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// One worker per entry, pinned to that core.
    pub cores: Vec<usize>,
    /// Never sleep.
    pub busy_poll: bool,
    /// Longest progressive sleep, microseconds.
    pub max_sleep_us: u32,
    /// Entries of each worker's flow cache.
    pub flow_cache_entries: usize,
}

/// `[policy]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Most probes and compares that looking up a vNIC's rules may take.
    pub max_lookup_cost: u32,
}

/// `[[network]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Other tenants whose vNICs may be in it.
    pub shared_with: Vec<Arc<str>>,
    /// Its VLAN on trunks.
    pub vlan: Option<VlanId>,
    /// Most addresses it learns.
    pub mac_limit: u32,
    /// Seconds until a silent address is forgotten.
    pub ageing_s: u32,
    /// How often an address may move between ports.
    pub moves: MoveLimit,
    /// What the switch itself says in it.
    pub services: NetworkServices,
}

/// `[[port]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name.
    pub name: Arc<str>,
    /// What moves its frames.
    pub driver: Driver,
    /// The networks, by name.
    pub attachment: Attachment,
    /// Split horizon.
    pub isolated: bool,
    /// What becomes of spanning tree frames.
    pub spanning_tree: SpanningTree,
    /// Seconds after which a port is enabled again that one disabled; `None` is never by itself.
    pub enable_after_s: Option<u32>,
    /// Most addresses it may have learned.
    pub mac_limit: u32,
    /// Limits on flooded frames.
    pub storm: StormLimits,
    /// Most misses resolved in one turn.
    pub misses_per_turn: u32,
    /// The worker of each receive queue, by its place in `cores`; empty is wherever there is room.
    pub workers: Vec<usize>,
    /// Faults to inject.
    pub fault: Option<pmd::fault::Config>,
}

/// What moves a port's frames, and its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A network interface, through `AF_XDP`.
    AfXdp(AfXdp),
    /// An interface of the host's own stack, made by the switch.
    Tap(pmd::tap::Config),
    /// Capture files.
    Pcap(Pcap),
    /// An in-process pair; a program that embeds the switch holds the other end.
    Memory(Memory),
    /// A VM's network card.
    VhostUser(VhostUser),
}

/// Settings of an `af_xdp` port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AfXdp {
    /// The interface.
    pub interface: String,
    /// How many of its queues to use; `None` is all.
    pub queues: Option<u32>,
    /// Where the XDP program may run.
    pub mode: Mode,
    /// Whether the device may write the frame memory itself.
    pub zero_copy: ZeroCopy,
    /// Frames per queue and direction; a power of two.
    pub ring_size: u32,
    /// Bytes of a chunk of frame memory; `None` is by the interface's MTU.
    pub frame_bytes: Option<u32>,
}

/// Settings of a `pcap` port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pcap {
    /// The file whose frames arrive.
    pub replay: Option<PathBuf>,
    /// When they arrive.
    pub pace: pmd::pcap::Pace,
    /// How often.
    pub repeat: pmd::pcap::Repeat,
    /// The file for what leaves.
    pub write: Option<PathBuf>,
}

/// Settings of a `memory` port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Buffers in each direction.
    pub slots: u32,
    /// Longest frame.
    pub max_frame_bytes: usize,
}

/// Settings of a `vhost_user` port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostUser {
    /// Where the switch and the guest's front end meet.
    pub socket: PathBuf,
    /// Which end of it the switch is.
    pub role: Role,
    /// Its permissions, when the switch makes it.
    pub socket_mode: u32,
    /// Most queue pairs that the guest may use.
    pub queues: u16,
    /// What the guest may be offered.
    pub features: Features,
    /// Longest frame.
    pub max_frame_bytes: usize,
}

impl Driver {
    /// Its name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AfXdp(_) => "af_xdp",
            Self::Tap(_) => "tap",
            Self::Pcap(_) => "pcap",
            Self::Memory(_) => "memory",
            Self::VhostUser(_) => "vhost_user",
        }
    }

    /// The interface it holds, if it holds one.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::AfXdp(config) => Some(&config.interface),
            Self::Tap(config) => Some(&config.interface),
            Self::Pcap(_) | Self::Memory(_) | Self::VhostUser(_) => None,
        }
    }

    /// The socket by which it meets a guest, if it meets one.
    pub fn socket(&self) -> Option<&std::path::Path> {
        match self {
            Self::VhostUser(config) => Some(&config.socket),
            _ => None,
        }
    }

    /// The file it writes, if it writes one.
    pub fn output(&self) -> Option<&std::path::Path> {
        match self {
            Self::Pcap(config) => config.write.as_deref(),
            _ => None,
        }
    }
}

/// Which networks a port's frames belong to, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// Untagged frames of one network.
    Access(Arc<str>),
    /// Tagged frames of several.
    Trunk {
        /// With their VLAN.
        tagged: Vec<Arc<str>>,
        /// Without.
        native: Option<Arc<str>>,
    },
}

impl Attachment {
    /// Every network named, the native one last.
    pub fn networks(&self) -> Vec<&Arc<str>> {
        match self {
            Self::Access(network) => vec![network],
            Self::Trunk { tagged, native } => tagged.iter().chain(native).collect(),
        }
    }
}

/// `[[vnic]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vnic {
    /// Its name.
    pub name: Arc<str>,
    /// The VM.
    pub vm: Arc<str>,
    /// Whose it is; `None` is of the tenant of its networks.
    pub tenant: Option<Arc<str>>,
    /// The port it is bound to, by name.
    pub port: Arc<str>,
    /// Its Ethernet address.
    pub mac: Mac,
    /// What it may send from.
    pub ipv4: Vec<Ipv4Net>,
    /// What it may send from.
    pub ipv6: Vec<Ipv6Net>,
    /// What is checked of its frames' senders.
    pub checks: SenderChecks,
    /// Most connections that it may have opened at once.
    pub connection_limit: u32,
    /// The groups whose rules it has and whose member it is, by name.
    pub groups: Vec<Arc<str>>,
    /// Policy for frames to it.
    pub inbound: Direction,
    /// Policy for frames from it.
    pub outbound: Direction,
    /// What the switch itself says to it.
    pub services: VnicServices,
}

impl Vnic {
    /// The IPv4 addresses among what it may send from: its own, not prefixes.
    pub fn hosts4(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let hosts = self.ipv4.iter().filter(|net| net.prefix_len() == 32);
        hosts.map(Ipv4Net::addr)
    }

    /// Its own IPv6 addresses.
    pub fn hosts6(&self) -> impl Iterator<Item = Ipv6Addr> + '_ {
        let hosts = self.ipv6.iter().filter(|net| net.prefix_len() == 128);
        hosts.map(Ipv6Net::addr)
    }
}

/// `[host_routes]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoutes {
    /// The port whose interface the host's routes lead through, by name.
    pub port: Arc<str>,
    /// Networks of whose vNICs the host has routes; empty is all that it reaches.
    pub networks: Vec<Arc<str>>,
    /// The host's own addresses on the interface.
    pub addresses: Vec<IpNet>,
    /// The routes' protocol number.
    pub protocol: u8,
    /// Their metric.
    pub metric: u32,
    /// Their table.
    pub table: u32,
}

/// `[[router]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// Its name.
    pub name: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Its Ethernet address, in every network and on every host.
    pub mac: Mac,
    /// Its places in networks.
    pub interfaces: Vec<RouterInterface>,
    /// Where it sends what is for elsewhere.
    pub routes: Vec<RouterRoute>,
}

impl Router {
    /// The network by whose name its connections go: its first of its own tenant, for a network
    /// that tenants share has routers of each.
    pub fn home<'s>(&'s self, networks: &[Network]) -> Option<&'s Arc<str>> {
        let own = |name: &Arc<str>| {
            let mut networks = networks.iter();
            networks.any(|network| network.name == *name && network.tenant == self.tenant)
        };
        let mut names = self.interfaces.iter().map(|interface| &interface.network);
        let first = names.clone().next();
        names.find(|name| own(name)).or(first)
    }
}

/// `interface` of a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterInterface {
    /// The network, by name.
    pub network: Arc<str>,
    /// Its addresses, with the length of the network's prefix.
    pub addresses: Vec<IpNet>,
    /// The longest packet that it sends, bytes.
    pub mtu: u16,
    /// Whether TCP is told to send segments that fit it.
    pub clamp_mss: bool,
}

/// `route` of a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterRoute {
    /// What it is a route to.
    pub to: IpNet,
    /// The least is followed.
    pub metric: u32,
    /// Where it leads.
    pub action: RouteAction,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// To one of these.
    Via(Vec<NextHop>),
    /// To hosts of an interface's network.
    OnLink(InterfaceId),
    /// Nowhere.
    Blackhole,
    /// Nowhere, and the sender is told.
    Reject,
}

/// `inbound` or `outbound` of a vNIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direction {
    /// The ACL, by name; `None` has no rules.
    pub acl: Option<Arc<str>>,
    /// When no rule matches.
    pub default: Action,
}

/// `[[acl]]`
#[derive(Clone, Debug)]
pub struct Acl {
    /// Its name.
    pub name: Arc<str>,
    /// In order; first match wins.
    pub rules: AclRules,
}

/// `[[group]]`
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: Arc<str>,
    /// In order. Each says which direction it is for.
    pub rules: AclRules,
}

/// `[[address_set]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressSet {
    /// Its name.
    pub name: Arc<str>,
    /// What is in it, in the order of the file.
    pub addresses: Vec<IpNet>,
    /// Where that stands: bytes of the configuration's text.
    pub span: Range<usize>,
}

/// `[[port_set]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSet {
    /// Its name.
    pub name: Arc<str>,
    /// What is in it, in the order of the file.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Where that stands: bytes of the configuration's text.
    pub span: Range<usize>,
}
