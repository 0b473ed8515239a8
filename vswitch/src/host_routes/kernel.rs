//! The kernel's routes of one protocol number, by rtnetlink(7).
//!
//! In: what is wanted. Out: the kernel's tables, in line with it. What must hold: only routes of the
//! protocol number are taken away; what is there as wanted is not touched, so that no packet in
//! between finds no route.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
            RouteScope, RouteType,
        },
    },
};
use rustix::net::{AddressFamily as Family, SocketType, netdevice::name_to_index, socket};
use tokio::runtime::Runtime;

use super::Wanted;

/// How many routes changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changed {
    pub(super) added: usize,
    pub(super) removed: usize,
}

/// A route, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Row {
    to: IpAddr,
    prefix_len: u8,
    gateway: Option<IpAddr>,
    interface: u32,
    metric: u32,
    table: u32,
}

/// A connection to the kernel, made when it is needed first.
#[derive(Default)]
pub(super) struct Kernel {
    connection: Option<(Runtime, Handle)>,
    /// The interface that has the host's addresses already, and these.
    addressed: Option<(u32, Vec<IpNet>)>,
}

impl Kernel {
    /// Takes away what is not wanted and adds what is missing.
    pub(super) fn bring_in_line(&mut self, wanted: &Wanted) -> Result<Changed, String> {
        let (runtime, handle) = match &self.connection {
            Some(connection) => connection,
            None => self.connection.insert(connect()?),
        };
        let interface = index_of(&wanted.interface);
        let addressed = &mut self.addressed;
        runtime.block_on(async {
            let mut outcome = Ok(());
            if let Some(index) = interface
                && *addressed != Some((index, wanted.addresses.clone()))
            {
                outcome = add_addresses(handle, index, wanted).await;
                if outcome.is_ok() {
                    *addressed = Some((index, wanted.addresses.clone()));
                }
            }
            // Without an address of one family the routes of the other are of use.
            let changed = change(handle, interface, wanted).await?;
            outcome.map(|()| changed)
        })
    }
}

fn connect() -> Result<(Runtime, Handle), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime for rtnetlink: {error}"))?;
    let handle = {
        let _inside = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()
            .map_err(|error| format!("rtnetlink cannot be reached: {error}"))?;
        runtime.spawn(connection);
        handle
    };
    Ok((runtime, handle))
}

fn index_of(interface: &str) -> Option<u32> {
    let any = socket(Family::INET, SocketType::DGRAM, None).ok()?;
    name_to_index(&any, interface).ok()
}

async fn add_addresses(handle: &Handle, index: u32, wanted: &Wanted) -> Result<(), String> {
    for net in &wanted.addresses {
        let request = handle.address().add(index, net.addr(), net.prefix_len());
        let outcome = request.replace().execute().await;
        outcome.map_err(|error| {
            format!(
                "the address {net} cannot be put on {}: {error}",
                wanted.interface
            )
        })?;
    }
    Ok(())
}

async fn change(
    handle: &Handle,
    interface: Option<u32>,
    wanted: &Wanted,
) -> Result<Changed, String> {
    let mut changed = Changed::default();
    let mut missing: HashSet<Row> = interface.map_or_else(HashSet::new, |interface| {
        let routes = wanted.routes.iter();
        let row = |(to, gateway): (&IpAddr, &Option<IpAddr>)| Row {
            to: *to,
            prefix_len: if to.is_ipv4() { 32 } else { 128 },
            gateway: *gateway,
            interface,
            metric: wanted.metric,
            table: wanted.table,
        };
        routes.map(row).collect()
    });
    for message in present(handle, wanted.protocol).await? {
        let row = row_of(&message);
        if row.is_some_and(|row| missing.remove(&row)) {
            continue;
        }
        let outcome = handle.route().del(to_delete(message)).execute().await;
        outcome.map_err(|error| format!("a route cannot be taken away: {error}"))?;
        changed.removed += 1;
    }
    let mut failed = None;
    for row in missing {
        let outcome = handle.route().add(to_add(&row, wanted.protocol));
        match outcome.execute().await {
            Ok(()) => changed.added += 1,
            // One that cannot be added keeps no other from being there.
            Err(error) => {
                failed = Some(format!(
                    "a route to {} through {} cannot be added: {error}; has the host another one to it, with the same metric?",
                    row.to, wanted.interface
                ));
            }
        }
    }
    failed.map_or(Ok(changed), Err)
}

/// The routes of a protocol number, in all tables.
async fn present(handle: &Handle, protocol: u8) -> Result<Vec<RouteMessage>, String> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut asked = RouteMessage::default();
        asked.header.address_family = family;
        asked.header.protocol = RouteProtocol::from(protocol);
        let mut answers = std::pin::pin!(handle.route().get(asked).execute());
        loop {
            match answers.try_next().await {
                // Kernels before 4.20 tell of all routes.
                Ok(Some(message)) if u8::from(message.header.protocol) == protocol => {
                    all.push(message);
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return Err(format!("the host's routes cannot be read: {error}")),
            }
        }
    }
    Ok(all)
}

/// A unicast route with one next hop; `None` for any other, which is not one of ours.
fn row_of(message: &RouteMessage) -> Option<Row> {
    let header = &message.header;
    let (mut to, mut gateway, mut interface) = (None, None, 0);
    let (mut metric, mut table) = (0, u32::from(header.table));
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Oif(index) => interface = *index,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::MultiPath(_) | RouteAttribute::Via(_) => return None,
            _ => {}
        }
    }
    (header.kind == RouteType::Unicast).then_some(Row {
        to: to?,
        prefix_len: header.destination_prefix_length,
        gateway,
        interface,
        metric,
        table,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// What names a route so that exactly this one is taken away.
fn to_delete(message: RouteMessage) -> RouteMessage {
    let mut named = RouteMessage::default();
    named.header = RouteHeader {
        flags: RouteFlags::empty(),
        ..message.header
    };
    named.attributes = message.attributes;
    named.attributes.retain(|attribute| {
        matches!(
            attribute,
            RouteAttribute::Destination(_)
                | RouteAttribute::Gateway(_)
                | RouteAttribute::Oif(_)
                | RouteAttribute::Priority(_)
                | RouteAttribute::Table(_)
                | RouteAttribute::MultiPath(_)
        )
    });
    named
}

fn to_add(row: &Row, protocol: u8) -> RouteMessage {
    let protocol = RouteProtocol::from(protocol);
    // What is on the link has no router, and its scope says so to those that look for next hops.
    let scope = match row.gateway {
        Some(_) => RouteScope::Universe,
        None => RouteScope::Link,
    };
    match row.to {
        IpAddr::V4(to) => {
            let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to, row.prefix_len)
                .output_interface(row.interface)
                .priority(row.metric)
                .table_id(row.table)
                .protocol(protocol)
                .scope(scope);
            if let Some(IpAddr::V4(gateway)) = row.gateway {
                builder = builder.gateway(gateway).onlink();
            }
            builder.build()
        }
        IpAddr::V6(to) => {
            let mut builder = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to, row.prefix_len)
                .output_interface(row.interface)
                .priority(row.metric)
                .table_id(row.table)
                .protocol(protocol);
            if let Some(IpAddr::V6(gateway)) = row.gateway {
                builder = builder.gateway(gateway).onlink();
            }
            builder.build()
        }
    }
}
