//! A relay between a vNIC and DHCP servers elsewhere (RFC 2131 §4, RFC 1542 §4, RFC 3046).
//!
//! In: clients' messages, servers' replies, time. Out: what goes to a server, what goes to a client's port.
//! What must hold: a reply goes to the port that asked, and to no other; it is taken only from a
//! server that is configured; no number of messages makes the table grow beyond its bounds, and one
//! port cannot fill it.

use std::net::Ipv4Addr;

use policy::{Mac, NetworkId, PortId};

use super::{
    message::{HEADERS_BYTES, Kind, MIN_BYTES, Message, OPTIONS_AT, option},
    server::To,
};
use crate::services::{
    plan::{Relay4, VnicPlan},
    refusal::Refusal,
};

/// Most messages that wait for servers.
pub const MOST_OUTSTANDING: usize = 4096;
/// Most of one vNIC.
pub const MOST_OF_A_VNIC: usize = 8;
/// How long a transaction is remembered after its last message, nanoseconds.
const REMEMBERED_NS: u64 = 60_000_000_000;
const MOST_BYTES: usize = 1500 - HEADERS_BYTES;
const HOPS: usize = 3;
const GIADDR: std::ops::Range<usize> = 24..28;
/// Suboptions of option 82 (RFC 3046 §3).
const CIRCUIT_ID: u8 = 1;
const REMOTE_ID: u8 = 2;

/// A client's transaction.
#[derive(Clone, Debug)]
struct Outstanding {
    network: NetworkId,
    port: PortId,
    chaddr: Mac,
    xid: u32,
    giaddr: Ipv4Addr,
    /// Which server has it.
    server: usize,
    /// How many servers had the last message.
    tries: usize,
    /// When the next server is asked; `None` when there was an answer.
    deadline_ns: Option<u64>,
    expires_ns: u64,
    message: Message,
    relayed: Vec<u8>,
}

/// Transactions between clients and servers.
#[derive(Clone, Debug, Default)]
pub struct Relay {
    outstanding: Vec<Outstanding>,
}

/// A message for a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The server.
    pub server: Ipv4Addr,
    /// The relay's own address.
    pub giaddr: Ipv4Addr,
    /// The message.
    pub message: Vec<u8>,
}

/// A message for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deliver {
    /// Its network.
    pub network: NetworkId,
    /// Its port.
    pub port: PortId,
    /// Its Ethernet address.
    pub mac: Mac,
    /// The relay's own address.
    pub giaddr: Ipv4Addr,
    /// Where it goes.
    pub to: To,
    /// The message.
    pub message: Vec<u8>,
}

/// What a deadline brings about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Late {
    /// Another server is asked.
    Ask(NetworkId, Forward),
    /// No server answered this message.
    Silent(NetworkId, PortId, Box<Message>),
}

impl Relay {
    /// Takes a client's message.
    ///
    /// # Errors
    ///
    /// Why it is not relayed.
    pub fn forward(
        &mut self,
        (vnic, relay): (&VnicPlan, &Relay4),
        bytes: &[u8],
        message: &Message,
        now_ns: u64,
    ) -> Result<Forward, Refusal> {
        let kind = message.options.kind()?;
        if !message.giaddr.is_unspecified() || message.options.get(option::RELAY).is_some() {
            return Err(Refusal::RelayForged);
        }
        if message.hops >= relay.max_hops {
            return Err(Refusal::RelayHops);
        }
        if matches!(kind, Kind::Offer | Kind::Ack | Kind::Nak) {
            return Err(Refusal::DhcpType);
        }
        let giaddr = vnic.dhcp4.server;
        let relayed = with_agent(bytes, giaddr, &agent(vnic))?;
        let expects = matches!(kind, Kind::Discover | Kind::Request | Kind::Inform);
        let server = if expects {
            self.remember((vnic, relay), message, &relayed, now_ns)?
        } else {
            0
        };
        let server = relay.servers.get(server).or(relay.servers.first());
        Ok(Forward {
            server: *server.ok_or(Refusal::RelaySilent)?,
            giaddr,
            message: relayed,
        })
    }

    /// Notes a transaction, and which server has it.
    fn remember(
        &mut self,
        (vnic, relay): (&VnicPlan, &Relay4),
        message: &Message,
        relayed: &[u8],
        now_ns: u64,
    ) -> Result<usize, Refusal> {
        self.outstanding.retain(|other| other.expires_ns > now_ns);
        let of_vnic =
            |other: &Outstanding| (other.network, other.port) == (vnic.network, vnic.port);
        let same = |other: &Outstanding| {
            of_vnic(other) && other.xid == message.xid && other.chaddr == message.chaddr
        };
        let place = self.outstanding.iter().position(same);
        let of_vnic = self
            .outstanding
            .iter()
            .filter(|other| of_vnic(other))
            .count();
        let is_full = of_vnic >= MOST_OF_A_VNIC || self.outstanding.len() >= MOST_OUTSTANDING;
        if place.is_none() && is_full {
            return Err(Refusal::RelayFull);
        }
        let server = place.map_or(0, |place| self.outstanding.swap_remove(place).server);
        self.outstanding.push(Outstanding {
            network: vnic.network,
            port: vnic.port,
            chaddr: message.chaddr,
            xid: message.xid,
            giaddr: vnic.dhcp4.server,
            server,
            tries: 1,
            deadline_ns: Some(now_ns + u64::from(relay.timeout_ms) * 1_000_000),
            expires_ns: now_ns + REMEMBERED_NS,
            message: message.clone(),
            relayed: relayed.to_vec(),
        });
        Ok(server)
    }

    /// Takes a server's reply from `source` to `giaddr`. `servers` gives those of a vNIC.
    ///
    /// # Errors
    ///
    /// Why it is not delivered.
    pub fn reply<'p>(
        &mut self,
        (source, giaddr): (Ipv4Addr, Ipv4Addr),
        bytes: &[u8],
        message: &Message,
        servers: impl Fn(NetworkId, PortId) -> Option<&'p Relay4>,
    ) -> Result<Deliver, Refusal> {
        let kind = message.options.kind()?;
        if !matches!(kind, Kind::Offer | Kind::Ack | Kind::Nak) {
            return Err(Refusal::DhcpType);
        }
        let asked = |other: &Outstanding| {
            (other.xid, other.chaddr) == (message.xid, message.chaddr)
                && other.giaddr == giaddr
                && message.giaddr == giaddr
        };
        let place = self.outstanding.iter().position(asked);
        let place = place.ok_or(Refusal::RelayUnasked)?;
        let found = &mut self.outstanding[place];
        let (network, port, mac) = (found.network, found.port, found.chaddr);
        let relay = servers(network, port).ok_or(Refusal::RelayUnasked)?;
        let Some(server) = relay.servers.iter().position(|server| *server == source) else {
            return Err(Refusal::RelayServer);
        };
        if kind == Kind::Offer {
            // The request that follows goes to the same server.
            found.server = server;
            found.deadline_ns = None;
        } else {
            self.outstanding.swap_remove(place);
        }
        Ok(Deliver {
            network,
            port,
            mac,
            giaddr,
            to: destination(message, kind),
            message: without_agent(bytes)?,
        })
    }

    /// The next deadline.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let deadlines = self.outstanding.iter().filter_map(|o| o.deadline_ns);
        deadlines.min()
    }

    /// What is late at `now_ns`.
    pub fn late<'p>(
        &mut self,
        now_ns: u64,
        servers: impl Fn(NetworkId, PortId) -> Option<&'p Relay4>,
    ) -> Vec<Late> {
        let mut late = Vec::new();
        for waiting in &mut self.outstanding {
            if waiting.deadline_ns.is_none_or(|deadline| deadline > now_ns) {
                continue;
            }
            waiting.deadline_ns = None;
            let Some(relay) = servers(waiting.network, waiting.port) else {
                continue;
            };
            waiting.server = (waiting.server + 1) % relay.servers.len().max(1);
            if waiting.tries < relay.servers.len() {
                waiting.tries += 1;
                waiting.deadline_ns = Some(now_ns + u64::from(relay.timeout_ms) * 1_000_000);
                let forward = Forward {
                    server: relay.servers[waiting.server],
                    giaddr: waiting.giaddr,
                    message: waiting.relayed.clone(),
                };
                late.push(Late::Ask(waiting.network, forward));
            } else {
                let message = Box::new(waiting.message.clone());
                late.push(Late::Silent(waiting.network, waiting.port, message));
            }
        }
        self.outstanding.retain(|other| other.expires_ns > now_ns);
        late
    }

    /// How many transactions are remembered.
    pub fn len(&self) -> usize {
        self.outstanding.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Forgets transactions of vNICs that are gone.
    pub fn retain(&mut self, keep: impl Fn(NetworkId, PortId) -> bool) {
        self.outstanding
            .retain(|other| keep(other.network, other.port));
    }
}

/// Where a server's reply goes (RFC 1542 §4.1.2).
fn destination(reply: &Message, kind: Kind) -> To {
    let addresses = [reply.yiaddr, reply.ciaddr];
    let address = addresses.into_iter().find(|a| !a.is_unspecified());
    match address {
        Some(address) if kind != Kind::Nak && !reply.broadcast => To::Client(address),
        _ => To::Everybody,
    }
}

/// Option 82: the port as the circuit, the VM as the remote end.
fn agent(vnic: &VnicPlan) -> Vec<u8> {
    let mut data = Vec::new();
    for (code, name) in [(CIRCUIT_ID, &vnic.port_name), (REMOTE_ID, &vnic.vm)] {
        let name = &name.as_bytes()[..name.len().min(100)];
        data.extend([code, name.len() as u8]);
        data.extend_from_slice(name);
    }
    data
}

/// The message with one more hop, the relay's address, and option 82 as its last (RFC 3046 §2.1).
fn with_agent(bytes: &[u8], giaddr: Ipv4Addr, agent: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut message = rewritten(bytes, &[])?;
    message[HOPS] += 1;
    message[GIADDR].copy_from_slice(&giaddr.octets());
    message.extend([option::RELAY, agent.len() as u8]);
    message.extend_from_slice(agent);
    finished(message)
}

/// The message without option 82 (RFC 3046 §2.1).
fn without_agent(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    finished(rewritten(bytes, &[option::RELAY])?)
}

/// The message up to its end option, but for options of these codes.
fn rewritten(bytes: &[u8], without: &[u8]) -> Result<Vec<u8>, Refusal> {
    let (header, mut options) = bytes
        .split_at_checked(OPTIONS_AT)
        .ok_or(Refusal::DhcpForm)?;
    let mut message = header.to_vec();
    loop {
        match options {
            [] | [option::END, ..] => return Ok(message),
            [option::PAD, rest @ ..] => options = rest,
            [code, length, ..] => {
                let bytes = 2 + usize::from(*length);
                let whole = options.split_at_checked(bytes);
                let (whole, rest) = whole.ok_or(Refusal::DhcpOptions)?;
                if !without.contains(code) {
                    message.extend_from_slice(whole);
                }
                options = rest;
            }
            [_] => return Err(Refusal::DhcpOptions),
        }
    }
}

fn finished(mut message: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    message.push(option::END);
    if message.len() > MOST_BYTES {
        return Err(Refusal::RelayTooLong);
    }
    let padded = message.len().max(MIN_BYTES);
    message.resize(padded, option::PAD);
    Ok(message)
}
