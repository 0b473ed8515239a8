//! The decapsulator as a host: what senders and their routers must be told so that their frames come.
//!
//! In: frames of the tunnel port that are no tunnel's. Out: answers to ARP (RFC 826), neighbour
//! solicitations (RFC 4861) and echo requests (RFC 792, RFC 4443) for its own addresses. What must
//! hold: whatever the bytes, no panic, and at most one answer for each frame; nothing is answered for
//! an address that is not its own.

use std::net::IpAddr;

use policy::{
    Mac,
    key::{ethertype, protocol},
};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Packet, Icmpv4Repr,
        Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr,
    },
};

use crate::services::{
    frame::{self, Arp, Message},
    nd::{self, ALL_NODES, Advert, Body},
};

const ETHERNET_BYTES: usize = 14;
const TTL: u8 = 64;

/// Addresses, and the Ethernet address that they are at.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) mac: Mac,
}

/// Whether a frame is for a host rather than for the decapsulator's core: ARP, ICMP or `ICMPv6`.
#[inline]
pub(super) fn is_for_host(frame: &[u8]) -> bool {
    let Some(header) = frame.first_chunk::<24>() else {
        return false;
    };
    match u16::from_be_bytes([header[12], header[13]]) {
        ethertype::IPV4 => header[23] == protocol::ICMP,
        ethertype::IPV6 => header[20] == protocol::ICMPV6,
        other => other == ethertype::ARP,
    }
}

impl Host {
    /// The answer to a frame, if it asks for something that is its own.
    pub(super) fn answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        self.neighbor(frame).or_else(|| self.echo(frame))
    }

    fn neighbor(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let received = frame::read(frame).ok()??;
        match received.message {
            Message::Arp(arp) if !arp.reply && self.owns(arp.target) => {
                let reply = Arp {
                    reply: true,
                    sender_mac: self.mac,
                    sender: arp.target,
                    target_mac: arp.sender_mac,
                    target: arp.sender,
                };
                Some(frame::arp((self.mac, arp.sender_mac), &reply))
            }
            Message::Nd(message) => {
                let Body::NeighborSolicit { target, mac } = message.body else {
                    return None;
                };
                let (dst, dst_mac) = if message.is_probe() {
                    // RFC 4861 §7.2.4.
                    (ALL_NODES, frame::group_mac(ALL_NODES))
                } else {
                    (message.src, mac.unwrap_or(received.src))
                };
                let advert = Advert {
                    target,
                    mac: self.mac,
                    router: false,
                    solicited: !message.is_probe(),
                    overrides: true,
                };
                self.owns(target)
                    .then(|| nd::advert((self.mac, dst_mac), dst, &advert))
            }
            _ => None,
        }
    }

    fn echo(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        let payload = frame.get(ETHERNET_BYTES..)?;
        let sums = ChecksumCapabilities::default();
        let reply = match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => self.echo4(payload, &sums)?,
            EthernetProtocol::Ipv6 => self.echo6(payload, &sums)?,
            _ => return None,
        };
        let header = EthernetRepr {
            src_addr: EthernetAddress(self.mac.0),
            dst_addr: ethernet.src_addr(),
            ethertype: ethernet.ethertype(),
        };
        let mut answer = vec![0; ETHERNET_BYTES];
        header.emit(&mut EthernetFrame::new_unchecked(&mut answer));
        answer.extend(reply);
        Some(answer)
    }

    fn echo4(&self, packet: &[u8], sums: &ChecksumCapabilities) -> Option<Vec<u8>> {
        let packet = Ipv4Packet::new_checked(packet).ok()?;
        let ip = Ipv4Repr::parse(&packet, sums).ok()?;
        let whole = !packet.more_frags() && packet.frag_offset() == 0;
        if ip.next_header != IpProtocol::Icmp || !whole || !self.owns(ip.dst_addr) {
            return None;
        }
        let icmp = Icmpv4Packet::new_checked(packet.payload()).ok()?;
        let Ok(Icmpv4Repr::EchoRequest {
            ident,
            seq_no,
            data,
        }) = Icmpv4Repr::parse(&icmp, sums)
        else {
            return None;
        };
        let reply = Icmpv4Repr::EchoReply {
            ident,
            seq_no,
            data,
        };
        let ip = Ipv4Repr {
            src_addr: ip.dst_addr,
            dst_addr: ip.src_addr,
            next_header: IpProtocol::Icmp,
            payload_len: reply.buffer_len(),
            hop_limit: TTL,
        };
        let mut bytes = vec![0; ip.buffer_len() + ip.payload_len];
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes), sums);
        let body = &mut bytes[ip.buffer_len()..];
        reply.emit(&mut Icmpv4Packet::new_unchecked(body), sums);
        Some(bytes)
    }

    fn echo6(&self, packet: &[u8], sums: &ChecksumCapabilities) -> Option<Vec<u8>> {
        let packet = Ipv6Packet::new_checked(packet).ok()?;
        let ip = Ipv6Repr::parse(&packet).ok()?;
        if ip.next_header != IpProtocol::Icmpv6 || !self.owns(ip.dst_addr) {
            return None;
        }
        let icmp = Icmpv6Packet::new_checked(packet.payload()).ok()?;
        let Ok(Icmpv6Repr::EchoRequest {
            ident,
            seq_no,
            data,
        }) = Icmpv6Repr::parse(&ip.src_addr, &ip.dst_addr, &icmp, sums)
        else {
            return None;
        };
        let reply = Icmpv6Repr::EchoReply {
            ident,
            seq_no,
            data,
        };
        let ip = Ipv6Repr {
            src_addr: ip.dst_addr,
            dst_addr: ip.src_addr,
            next_header: IpProtocol::Icmpv6,
            payload_len: reply.buffer_len(),
            hop_limit: TTL,
        };
        let mut bytes = vec![0; ip.buffer_len() + ip.payload_len];
        ip.emit(&mut Ipv6Packet::new_unchecked(&mut bytes));
        let body = &mut bytes[ip.buffer_len()..];
        reply.emit(
            &ip.src_addr,
            &ip.dst_addr,
            &mut Icmpv6Packet::new_unchecked(body),
            sums,
        );
        Some(bytes)
    }

    fn owns(&self, address: impl Into<IpAddr>) -> bool {
        self.addresses.contains(&address.into())
    }
}
