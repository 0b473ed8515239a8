//! Frames that services read and write.
//!
//! In: the bytes of a frame from its Ethernet header on, without a VLAN tag. Out: the message in
//! it that a service may be for, or the reason why it cannot be one. What must hold: whatever the
//! bytes, no panic; nothing behind the length that the headers claim is read (padding is not
//! payload). Frames that are written are complete, checksums included, and at least 60 bytes long.

use std::net::{Ipv4Addr, Ipv6Addr};

use policy::Mac;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
        EthernetRepr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket,
        UdpRepr,
    },
};

use super::{nd, refusal::Refusal};

/// The shortest Ethernet frame, without FCS (IEEE 802.3 §3.2.8).
const MIN_FRAME_BYTES: usize = 60;
const ETHERNET_BYTES: usize = 14;
const HOP_LIMIT: u8 = 64;

/// UDP ports of DHCP servers and relays, and of clients (RFC 2131 §4.1).
pub const DHCP_SERVER: u16 = 67;
/// Of clients.
pub const DHCP_CLIENT: u16 = 68;
/// Of `DHCPv6` servers and relays (RFC 8415 §7.2).
pub const DHCP6_SERVER: u16 = 547;
/// Of clients.
pub const DHCP6_CLIENT: u16 = 546;

/// A frame with a message that a service may be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'f> {
    /// Ethernet source.
    pub src: Mac,
    /// Ethernet destination.
    pub dst: Mac,
    /// What is in it.
    pub message: Message<'f>,
}

/// What a service may be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'f> {
    /// ARP for IPv4 over Ethernet.
    Arp(Arp),
    /// Neighbour discovery.
    Nd(nd::Message),
    /// UDP to a port of DHCP.
    Dhcp4(Datagram<'f, Ipv4Addr>),
    /// UDP to a port of `DHCPv6`.
    Dhcp6(Datagram<'f, Ipv6Addr>),
}

/// ARP (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// A reply, not a request.
    pub reply: bool,
    /// Sender, Ethernet.
    pub sender_mac: Mac,
    /// Sender, IPv4; 0.0.0.0 in a probe (RFC 5227 §1.1).
    pub sender: Ipv4Addr,
    /// Target, Ethernet.
    pub target_mac: Mac,
    /// Target, IPv4.
    pub target: Ipv4Addr,
}

/// A UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'f, A> {
    /// IP source.
    pub src: A,
    /// IP destination.
    pub dst: A,
    /// UDP source.
    pub src_port: u16,
    /// UDP destination.
    pub dst_port: u16,
    /// What it carries.
    pub payload: &'f [u8],
}

/// Reads a frame; `None` when it is nothing that services are for.
///
/// # Errors
///
/// What is wrong with a frame that seemed to be.
pub fn read(frame: &[u8]) -> Result<Option<Received<'_>>, Refusal> {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else {
        return Err(Refusal::Malformed);
    };
    let payload = &frame[ETHERNET_BYTES..];
    let message = match ethernet.ethertype() {
        EthernetProtocol::Arp => Some(Message::Arp(read_arp(payload)?)),
        EthernetProtocol::Ipv4 => read_ipv4(payload)?.map(Message::Dhcp4),
        EthernetProtocol::Ipv6 => read_ipv6(payload)?,
        EthernetProtocol::Unknown(_) => None,
    };
    Ok(message.map(|message| Received {
        src: Mac(ethernet.src_addr().0),
        dst: Mac(ethernet.dst_addr().0),
        message,
    }))
}

fn read_arp(payload: &[u8]) -> Result<Arp, Refusal> {
    let packet = ArpPacket::new_checked(payload).map_err(|_| Refusal::Malformed)?;
    let Ok(ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    }) = ArpRepr::parse(&packet)
    else {
        return Err(Refusal::ArpForm);
    };
    let reply = match operation {
        ArpOperation::Request => false,
        ArpOperation::Reply => true,
        ArpOperation::Unknown(_) => return Err(Refusal::ArpForm),
    };
    let sender_mac = Mac(source_hardware_addr.0);
    let sender = source_protocol_addr;
    if sender_mac.is_group() || sender.is_broadcast() || sender.is_multicast() {
        return Err(Refusal::ArpSender);
    }
    Ok(Arp {
        reply,
        sender_mac,
        sender,
        target_mac: Mac(target_hardware_addr.0),
        target: target_protocol_addr,
    })
}

fn read_ipv4(payload: &[u8]) -> Result<Option<Datagram<'_, Ipv4Addr>>, Refusal> {
    let packet = Ipv4Packet::new_checked(payload).map_err(|_| Refusal::Malformed)?;
    if packet.version() != 4 || packet.next_header() != IpProtocol::Udp {
        return Ok(None);
    }
    // DHCP fits in a minimum datagram; what is cut is not put together here.
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Ok(None);
    }
    let (src, dst) = (packet.src_addr(), packet.dst_addr());
    let Some(udp) = dhcp_ports(packet.payload(), [DHCP_SERVER, DHCP_CLIENT])? else {
        return Ok(None);
    };
    if !packet.verify_checksum() || !is_summed(&udp, &src.into(), &dst.into()) {
        return Err(Refusal::Checksum);
    }
    Ok(Some(datagram(&udp, src, dst)))
}

fn read_ipv6(payload: &[u8]) -> Result<Option<Message<'_>>, Refusal> {
    let packet = Ipv6Packet::new_checked(payload).map_err(|_| Refusal::Malformed)?;
    if packet.version() != 6 {
        return Ok(None);
    }
    let (src, dst) = (packet.src_addr(), packet.dst_addr());
    match packet.next_header() {
        IpProtocol::Icmpv6 => {
            let message = nd::read(packet.payload(), src, dst, packet.hop_limit())?;
            Ok(message.map(Message::Nd))
        }
        IpProtocol::Udp => {
            let Some(udp) = dhcp_ports(packet.payload(), [DHCP6_SERVER, DHCP6_CLIENT])? else {
                return Ok(None);
            };
            // RFC 8200 §8.1: over IPv6 a UDP checksum is not left out.
            if udp.checksum() == 0 || !is_summed(&udp, &src.into(), &dst.into()) {
                return Err(Refusal::Checksum);
            }
            Ok(Some(Message::Dhcp6(datagram(&udp, src, dst))))
        }
        _ => Ok(None),
    }
}

fn dhcp_ports(payload: &[u8], ports: [u16; 2]) -> Result<Option<UdpPacket<&[u8]>>, Refusal> {
    let udp = UdpPacket::new_checked(payload).map_err(|_| Refusal::Malformed)?;
    Ok(ports.contains(&udp.dst_port()).then_some(udp))
}

/// Whether a checksum is right, is left out, or is one that a guest leaves to its network card.
fn is_summed(udp: &UdpPacket<&[u8]>, src: &IpAddress, dst: &IpAddress) -> bool {
    udp.verify_checksum(src, dst) || udp.verify_partial_checksum(src, dst)
}

fn datagram<'f, A>(udp: &UdpPacket<&'f [u8]>, src: A, dst: A) -> Datagram<'f, A> {
    Datagram {
        src,
        dst,
        src_port: udp.src_port(),
        dst_port: udp.dst_port(),
        payload: udp.payload(),
    }
}

/// An Ethernet frame around `payload` bytes that `emit` writes.
pub(super) fn ethernet(
    (src, dst): (Mac, Mac),
    ethertype: EthernetProtocol,
    payload_bytes: usize,
    emit: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let mut frame = vec![0; (ETHERNET_BYTES + payload_bytes).max(MIN_FRAME_BYTES)];
    let header = EthernetRepr {
        src_addr: EthernetAddress(src.0),
        dst_addr: EthernetAddress(dst.0),
        ethertype,
    };
    header.emit(&mut EthernetFrame::new_unchecked(&mut frame));
    emit(&mut frame[ETHERNET_BYTES..][..payload_bytes]);
    frame
}

/// An ARP frame.
pub fn arp((src, dst): (Mac, Mac), message: &Arp) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation: if message.reply {
            ArpOperation::Reply
        } else {
            ArpOperation::Request
        },
        source_hardware_addr: EthernetAddress(message.sender_mac.0),
        source_protocol_addr: message.sender,
        target_hardware_addr: EthernetAddress(message.target_mac.0),
        target_protocol_addr: message.target,
    };
    let bytes = repr.buffer_len();
    ethernet((src, dst), EthernetProtocol::Arp, bytes, |payload| {
        repr.emit(&mut ArpPacket::new_unchecked(payload));
    })
}

/// A reverse ARP request for its own address (RFC 903), which moves the MAC tables of switches
/// though the sender has no IP address.
pub fn rarp(mac: Mac) -> Vec<u8> {
    const RARP: u16 = 0x8035;
    const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 3];
    let ethertype = EthernetProtocol::Unknown(RARP);
    ethernet((mac, Mac::BROADCAST), ethertype, 28, |payload| {
        payload[..8].copy_from_slice(&REQUEST);
        payload[8..14].copy_from_slice(&mac.0);
        payload[18..24].copy_from_slice(&mac.0);
    })
}

/// A UDP datagram over IPv4.
pub fn udp4((src, dst): (Mac, Mac), datagram: &Datagram<'_, Ipv4Addr>) -> Vec<u8> {
    let udp = UdpRepr {
        src_port: datagram.src_port,
        dst_port: datagram.dst_port,
    };
    let ip = Ipv4Repr {
        src_addr: datagram.src,
        dst_addr: datagram.dst,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + datagram.payload.len(),
        hop_limit: HOP_LIMIT,
    };
    let bytes = ip.buffer_len() + ip.payload_len;
    let sums = ChecksumCapabilities::default();
    ethernet((src, dst), EthernetProtocol::Ipv4, bytes, |packet| {
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut *packet), &sums);
        emit_udp(&mut packet[ip.buffer_len()..], udp, datagram);
    })
}

/// A UDP datagram over IPv6.
pub fn udp6((src, dst): (Mac, Mac), datagram: &Datagram<'_, Ipv6Addr>) -> Vec<u8> {
    let udp = UdpRepr {
        src_port: datagram.src_port,
        dst_port: datagram.dst_port,
    };
    let bytes = udp.header_len() + datagram.payload.len();
    let ends = (datagram.src, datagram.dst);
    ipv6(
        (src, dst),
        ends,
        (IpProtocol::Udp, HOP_LIMIT),
        bytes,
        |to| {
            emit_udp(to, udp, datagram);
        },
    )
}

fn emit_udp<A: Copy + Into<IpAddress>>(to: &mut [u8], udp: UdpRepr, datagram: &Datagram<'_, A>) {
    udp.emit(
        &mut UdpPacket::new_unchecked(to),
        &datagram.src.into(),
        &datagram.dst.into(),
        datagram.payload.len(),
        |bytes| bytes.copy_from_slice(datagram.payload),
        &ChecksumCapabilities::default(),
    );
}

/// An IPv6 packet around `payload` bytes that `emit` writes.
pub(super) fn ipv6(
    macs: (Mac, Mac),
    (src, dst): (Ipv6Addr, Ipv6Addr),
    (next_header, hop_limit): (IpProtocol, u8),
    payload_bytes: usize,
    emit: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let ip = Ipv6Repr {
        src_addr: src,
        dst_addr: dst,
        next_header,
        payload_len: payload_bytes,
        hop_limit,
    };
    let bytes = ip.buffer_len() + payload_bytes;
    ethernet(macs, EthernetProtocol::Ipv6, bytes, |packet| {
        ip.emit(&mut Ipv6Packet::new_unchecked(&mut *packet));
        emit(&mut packet[ip.buffer_len()..]);
    })
}

/// The Ethernet address of an IPv6 group (RFC 2464 §7).
pub(crate) fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., g0, g1, g2, g3] = group.octets();
    Mac([0x33, 0x33, g0, g1, g2, g3])
}
