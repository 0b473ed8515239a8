//! A vNIC's configured address as a lease (RFC 2131 §4.3).
//!
//! In: a client's message, and the lease. Out: the answer, if there is one. There is no state: the
//! address is the vNIC's for as long as the configuration says so, whatever the client did before.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::message::{HEADERS_BYTES, Kind, MAX_BYTES, Message, Writer, option};
use crate::services::{dns, plan::Lease4, refusal::Refusal};

/// The longest answer whatever the client would take: no fragments on an Ethernet.
const MOST_BYTES: usize = 1500 - HEADERS_BYTES;

/// What becomes of a client's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is answered.
    Answer {
        /// With what.
        kind: Kind,
        /// The message.
        message: Vec<u8>,
    },
    /// The client says that somebody else has its address.
    Declined(Ipv4Addr),
    /// The client gives its address back. It stays the vNIC's.
    Released,
}

/// Answers a client's message.
///
/// # Errors
///
/// Why it is not answered.
pub fn answer(request: &Message, server: Ipv4Addr, lease: &Lease4) -> Result<Outcome, Refusal> {
    let kind = request.options.kind()?;
    let chosen = request.options.address(option::SERVER)?;
    let requested = request.options.address(option::REQUESTED)?;
    let own = lease.address.addr();
    // A discovery names no server; a broadcast request names the one that was chosen.
    if kind != Kind::Discover && chosen.is_some_and(|chosen| chosen != server) {
        return Err(Refusal::DhcpOtherServer);
    }
    let reply = match kind {
        Kind::Discover => Kind::Offer,
        Kind::Request => {
            let wanted = wanted(request, chosen.is_some(), requested)?;
            if wanted == own { Kind::Ack } else { Kind::Nak }
        }
        Kind::Inform if request.ciaddr.is_unspecified() => return Err(Refusal::DhcpRequest),
        Kind::Inform => Kind::Ack,
        Kind::Decline => {
            let address = requested.ok_or(Refusal::DhcpRequest)?;
            return Ok(Outcome::Declined(address));
        }
        Kind::Release => return Ok(Outcome::Released),
        Kind::Offer | Kind::Ack | Kind::Nak => return Err(Refusal::DhcpType),
    };
    let message = if reply == Kind::Nak {
        nak(request, server, own)
    } else {
        lease_message(request, (kind, reply), server, lease)
    };
    Ok(Outcome::Answer {
        kind: reply,
        message,
    })
}

/// The address that a DHCPREQUEST is for, by the client's state (RFC 2131 §4.3.2).
fn wanted(
    request: &Message,
    selecting: bool,
    requested: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, Refusal> {
    let ciaddr = request.ciaddr;
    match requested {
        // SELECTING and INIT-REBOOT.
        Some(address) if ciaddr.is_unspecified() => Ok(address),
        // RENEWING and REBINDING.
        None if !selecting && !ciaddr.is_unspecified() => Ok(ciaddr),
        _ => Err(Refusal::DhcpRequest),
    }
}

fn nak(request: &Message, server: Ipv4Addr, own: Ipv4Addr) -> Vec<u8> {
    let mut writer = Writer::answer(request, MAX_BYTES);
    // RFC 2131 §4.1: a relay would send it to an address that the client must not have.
    if !request.giaddr.is_unspecified() {
        writer.broadcast();
    }
    writer.option(option::TYPE, &[Kind::Nak as u8]);
    writer.option(option::SERVER, &server.octets());
    echo_client(request, &mut writer);
    writer.option(option::TEXT, format!("this interface has {own}").as_bytes());
    writer.finish()
}

/// RFC 6842 §3: the client's identifier is in every answer to a message that has one.
fn echo_client(request: &Message, writer: &mut Writer) {
    if let Some(id) = request.options.get(option::CLIENT) {
        writer.option(option::CLIENT, id);
    }
}

fn lease_message(
    request: &Message,
    (asked, kind): (Kind, Kind),
    server: Ipv4Addr,
    lease: &Lease4,
) -> Vec<u8> {
    let limit = match request.options.get(option::MAX_BYTES) {
        Some([high, low]) => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    };
    let limit = limit
        .saturating_sub(HEADERS_BYTES)
        .clamp(MAX_BYTES, MOST_BYTES);
    let mut writer = Writer::answer(request, limit);
    let none = Ipv4Addr::UNSPECIFIED;
    let informs = asked == Kind::Inform;
    let yours = if informs { none } else { lease.address.addr() };
    let ciaddr = if kind == Kind::Ack {
        request.ciaddr
    } else {
        none
    };
    writer.addresses(ciaddr, yours, lease.next_server.unwrap_or(none));
    if let Some(file) = &lease.boot_file {
        writer.file(file);
    }
    writer.option(option::TYPE, &[kind as u8]);
    writer.option(option::SERVER, &server.octets());
    echo_client(request, &mut writer);
    if !informs {
        writer.option(option::LEASE, &lease.lease_s.to_be_bytes());
        let (t1, t2) = renewal(lease.lease_s);
        writer.option(option::T1, &t1.to_be_bytes());
        writer.option(option::T2, &t2.to_be_bytes());
    }
    // RFC 2132 §3.3: the mask comes before the router.
    writer.option(option::MASK, &lease.address.netmask().octets());
    for code in parameters(request, lease) {
        if let Some(data) = parameter(code, lease) {
            writer.option(code, &data);
        }
    }
    writer.finish()
}

/// T1 and T2 (RFC 2131 §4.4.5).
pub(crate) fn renewal(lease_s: u32) -> (u32, u32) {
    if lease_s == u32::MAX {
        return (u32::MAX, u32::MAX);
    }
    (lease_s / 2, (u64::from(lease_s) * 7 / 8) as u32)
}

/// What the client asks for, in its order and each once; what it would need, if it does not say.
fn parameters(request: &Message, lease: &Lease4) -> Vec<u8> {
    const DEFAULT: [u8; 8] = [
        option::ROUTES,
        option::ROUTER,
        option::DNS,
        option::DOMAIN,
        option::BROADCAST,
        option::HOSTNAME,
        option::MTU,
        option::SEARCH,
    ];
    let own = lease.options.iter().map(|(code, _)| *code);
    let asked: Vec<u8> = match request.options.get(option::PARAMETERS) {
        Some(codes) => codes.to_vec(),
        None => DEFAULT.into_iter().chain(own).collect(),
    };
    let mut codes = Vec::with_capacity(asked.len());
    for code in asked {
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    codes
}

/// An option of the lease, if it has one to say.
fn parameter(code: u8, lease: &Lease4) -> Option<Vec<u8>> {
    let some = |data: Vec<u8>| (!data.is_empty()).then_some(data);
    let configured = lease.options.iter().find(|(known, _)| *known == code);
    if let Some((_, data)) = configured {
        return Some(data.clone());
    }
    let text = |text: &str| text.as_bytes().to_vec();
    match code {
        option::ROUTER => lease.router.map(|router| router.octets().to_vec()),
        option::DNS => some(lease.dns.iter().flat_map(Ipv4Addr::octets).collect()),
        option::HOSTNAME => lease.hostname.as_deref().map(text),
        option::DOMAIN => lease.search.first().map(|domain| text(domain)),
        option::MTU => lease.mtu.map(|mtu| mtu.to_be_bytes().to_vec()),
        option::BROADCAST if lease.address.prefix_len() < 31 => {
            Some(lease.address.broadcast().octets().to_vec())
        }
        option::TFTP_SERVER => lease.next_server.map(|server| text(&server.to_string())),
        option::BOOT_FILE => lease.boot_file.as_deref().map(text),
        option::SEARCH => some(dns::names(&lease.search)),
        option::ROUTES => some(routes(lease)),
        _ => None,
    }
}

/// RFC 3442: with these a client does not look at the router option, so that is among them.
fn routes(lease: &Lease4) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |net: &Ipv4Net, hop: Ipv4Addr| {
        let significant = usize::from(net.prefix_len().div_ceil(8));
        bytes.push(net.prefix_len());
        bytes.extend_from_slice(&net.network().octets()[..significant]);
        bytes.extend_from_slice(&hop.octets());
    };
    for (net, hop) in &lease.routes {
        put(net, *hop);
    }
    let has_default = lease.routes.iter().any(|(net, _)| net.prefix_len() == 0);
    match lease.router {
        Some(router) if !lease.routes.is_empty() && !has_default => {
            put(&Ipv4Net::default(), router);
        }
        _ => {}
    }
    bytes
}

/// Where an answer goes (RFC 2131 §4.1): its IP destination, its port, and whether it is for the
/// client's Ethernet address alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// To the relay that the message came by, its server port.
    Relay(Ipv4Addr),
    /// To the client alone, by its Ethernet address.
    Client(Ipv4Addr),
    /// To everybody, as the client has no address yet that it would listen to.
    Everybody,
}

/// Where an answer of `kind` goes, which gives the address `yours`.
pub fn destination(request: &Message, kind: Kind, yours: Ipv4Addr) -> To {
    if !request.giaddr.is_unspecified() {
        To::Relay(request.giaddr)
    } else if kind == Kind::Nak {
        To::Everybody
    } else if !request.ciaddr.is_unspecified() {
        To::Client(request.ciaddr)
    } else if request.broadcast || yours.is_unspecified() {
        To::Everybody
    } else {
        To::Client(yours)
    }
}
