//! A relay between a vNIC and `DHCPv6` servers elsewhere (RFC 8415 §19).
//!
//! There is no state: a server repeats what the relay said of the client. Every server is asked, and clients
//! choose among the answers (RFC 8415 §18.2.9), so one that is silent costs no time-out.

use std::net::Ipv6Addr;

use super::message::{Kind, Message, RelayMessage, Writer, option};
use crate::services::{
    plan::{Relay6, VnicPlan},
    refusal::Refusal,
};

/// What a server's message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deliver<'m> {
    /// The client's link.
    pub link: Ipv6Addr,
    /// The client.
    pub peer: Ipv6Addr,
    /// Where the relay got the client's message.
    pub interface_id: &'m [u8],
    /// The message for the client.
    pub message: &'m [u8],
}

/// A client's message as servers get it.
///
/// # Errors
///
/// Why it is not relayed.
pub fn forward(
    vnic: &VnicPlan,
    relay: &Relay6,
    peer: Ipv6Addr,
    bytes: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let message = Message::read(bytes)?;
    if matches!(
        message.kind,
        Kind::Advertise | Kind::Reply | Kind::Reconfigure
    ) {
        return Err(Refusal::Dhcp6Type);
    }
    let mut writer = Writer::relay(Kind::RelayForward, 0, relay.link, peer);
    writer.option(option::INTERFACE_ID, vnic.port_name.as_bytes());
    let [m0, m1, m2, m3, m4, m5] = vnic.mac.0;
    writer.option(option::LINK_ADDRESS, &[0, 1, m0, m1, m2, m3, m4, m5]);
    writer.option(option::RELAY_MESSAGE, bytes);
    writer.finish()
}

/// Reads what a server sent.
///
/// # Errors
///
/// What is wrong with it.
pub fn reply(bytes: &[u8]) -> Result<Deliver<'_>, Refusal> {
    let relayed = RelayMessage::read(bytes)?;
    let options = &relayed.options;
    let (Some(interface_id), Some(message)) = (
        options.get(option::INTERFACE_ID),
        options.get(option::RELAY_MESSAGE),
    ) else {
        return Err(Refusal::RelayUnasked);
    };
    let kind = Message::read(message)?.kind;
    if relayed.kind != Kind::RelayReply
        || !matches!(kind, Kind::Advertise | Kind::Reply | Kind::Reconfigure)
    {
        return Err(Refusal::Dhcp6Type);
    }
    Ok(Deliver {
        link: relayed.link,
        peer: relayed.peer,
        interface_id,
        message,
    })
}
