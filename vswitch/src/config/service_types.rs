//! The services of networks and vNICs, as they are configured: what a vNIC leaves out is as its network says.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::Ipv4Net;

use crate::services::plan::{Advertisements, Neighbors};

/// Services of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkServices {
    /// `[network.dhcp]`
    pub dhcp: Dhcp,
    /// `[network.dhcp6]`
    pub dhcp6: Dhcp6,
    /// `[network.router_advertisements]`
    pub advertisements: Option<Advertisements>,
    /// `[network.neighbors]`
    pub neighbors: Neighbors,
}

/// Services of a vNIC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VnicServices {
    /// `[vnic.dhcp]`
    pub dhcp: Dhcp,
    /// `[vnic.dhcp6]`
    pub dhcp6: Dhcp6,
    /// It may be a DHCP server: such messages from it are not dropped.
    pub dhcp_server: bool,
    /// It may be a router: its router advertisements are not dropped.
    pub router: bool,
}

/// What is done with DHCP messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DhcpMode {
    /// They pass like any other frame.
    Off,
    /// They are answered with the vNIC's address.
    Fixed,
    /// They go to servers.
    Relay,
}

/// What is done with `DHCPv6` messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dhcp6Mode {
    /// They pass like any other frame.
    Off,
    /// They are answered with settings alone.
    Stateless,
    /// They are answered with the vNIC's addresses.
    Fixed,
    /// They go to servers.
    Relay,
}

/// The name that a host is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hostname {
    /// Its VM's.
    Vm,
    /// Its vNIC's.
    Vnic,
    /// None.
    None,
}

/// Declares a table all of whose fields may be left out, and how one stands in for another.
macro_rules! layered {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: Option<$type>,)*
        }

        impl $name {
            /// What it says, and what `beneath` says of what it leaves out.
            #[must_use]
            pub fn over(&self, beneath: &Self) -> Self {
                Self { $($field: self.$field.clone().or_else(|| beneath.$field.clone()),)* }
            }

            /// The fields in which `new` differs.
            pub fn changed(&self, new: &Self) -> Vec<&'static str> {
                let fields = [$((stringify!($field), self.$field != new.$field),)*];
                let changed = fields.into_iter().filter(|(_, changed)| *changed);
                changed.map(|(field, _)| field).collect()
            }
        }
    };
}

layered! {
    /// `dhcp` of a network or a vNIC.
    Dhcp {
        /// What is done with messages.
        mode: DhcpMode,
        /// The subnet of leases, where no gateway says it.
        subnet: Ipv4Net,
        /// The server identifier, and a relay's address, where there is no gateway.
        server_address: Ipv4Addr,
        /// The default gateway, where it is not the network's.
        router: Ipv4Addr,
        /// DNS servers.
        dns: Vec<Ipv4Addr>,
        /// Search domains.
        search: Vec<Arc<str>>,
        /// MTU.
        mtu: u16,
        /// Classless static routes.
        routes: Vec<(Ipv4Net, Ipv4Addr)>,
        /// Lease time, seconds.
        lease_s: u32,
        /// The host's name.
        hostname: Hostname,
        /// Other options.
        options: Vec<(u8, Vec<u8>)>,
        /// Boot server.
        next_server: Ipv4Addr,
        /// Boot file.
        boot_file: Arc<str>,
        /// A relay's servers.
        servers: Vec<Ipv4Addr>,
        /// How long one may take, milliseconds.
        timeout_ms: u32,
        /// Most relays that a message may have passed.
        max_hops: u8,
        /// The fixed lease when no server answers.
        fallback: bool,
    }
}

layered! {
    /// `dhcp6` of a network or a vNIC.
    Dhcp6 {
        /// What is done with messages.
        mode: Dhcp6Mode,
        /// DNS servers.
        dns: Vec<Ipv6Addr>,
        /// Search domains.
        search: Vec<Arc<str>>,
        /// Preferred lifetime, seconds.
        preferred_s: u32,
        /// Valid lifetime, seconds.
        valid_s: u32,
        /// Addresses at once, for clients that ask for that.
        rapid_commit: bool,
        /// Boot file.
        boot_file_url: Arc<str>,
        /// A relay's servers.
        servers: Vec<Ipv6Addr>,
    }
}

/// Lease time where nothing says another, seconds: a day.
pub const DEFAULT_LEASE_S: u32 = 86_400;
/// Time that a relay gives a server, milliseconds. Clients ask again after four seconds (RFC 2131 §4.1).
pub const DEFAULT_TIMEOUT_MS: u32 = 2000;
/// RFC 1542 §4.1.1.
pub const DEFAULT_MAX_HOPS: u8 = 4;
