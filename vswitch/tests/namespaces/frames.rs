//! Frames that tests send, and the numbers in those that arrive.

use super::{
    lab::mac,
    netns::{PacketSocket, eventually},
};

/// An ethertype for local experiments (IEEE 802): nothing else here sends it.
pub(crate) const EXPERIMENT: [u8; 2] = [0x88, 0xb5];
/// To everybody.
pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

/// An Ethernet frame.
pub(crate) fn ethernet(dst: [u8; 6], src: [u8; 6], ethertype: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::from(dst);
    frame.extend(src);
    frame.extend(ethertype);
    frame.extend(payload);
    frame
}

/// A frame of 60 bytes that carries a number.
pub(crate) fn numbered(dst: [u8; 6], src: [u8; 6], number: u32) -> Vec<u8> {
    let mut frame = ethernet(dst, src, EXPERIMENT, &number.to_be_bytes());
    frame.resize(60, 0x5a);
    frame
}

/// The number of a [`numbered`] frame; `None` for any other frame.
pub(crate) fn number_of(frame: &[u8]) -> Option<u32> {
    let number = (frame.get(12..14)? == EXPERIMENT).then(|| frame.get(14..18))??;
    number.try_into().ok().map(u32::from_be_bytes)
}

/// A frame with an 802.1Q tag in it.
pub(crate) fn tagged(mut frame: Vec<u8>, tci: u16) -> Vec<u8> {
    let [high, low] = tci.to_be_bytes();
    frame.splice(12..12, [0x81, 0x00, high, low]);
    frame
}

/// IPv4 (RFC 791) without options, with its checksum.
pub(crate) fn ipv4(src: [u8; 4], dst: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16 + 20).to_be_bytes();
    let mut packet = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    packet.extend(src);
    packet.extend(dst);
    let words = packet
        .chunks(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    packet.extend(payload);
    packet
}

/// IPv6 (RFC 8200).
pub(crate) fn ipv6(src: [u8; 16], dst: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, high, low, next, 255];
    packet.extend(src);
    packet.extend(dst);
    packet.extend(payload);
    packet
}

/// UDP (RFC 768) without checksum.
pub(crate) fn udp(src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::from(src_port.to_be_bytes());
    datagram.extend(dst_port.to_be_bytes());
    datagram.extend((payload.len() as u16 + 8).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// An ARP reply (RFC 826) that claims `ip` for `hardware`.
pub(crate) fn arp_reply(hardware: [u8; 6], ip: [u8; 4], to: [u8; 6], to_ip: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 2];
    packet.extend(hardware);
    packet.extend(ip);
    packet.extend(to);
    packet.extend(to_ip);
    packet.resize(46, 0);
    packet
}

/// UDP over IPv4 from member `from` (10.0.0.N) to member `to`, with a number as payload.
pub(crate) fn numbered_udp(from: u8, to: u8, ports: (u16, u16), number: u32) -> Vec<u8> {
    let datagram = udp(ports.0, ports.1, &number.to_be_bytes());
    let packet = ipv4([10, 0, 0, from], [10, 0, 0, to], 17, &datagram);
    ethernet(mac(to), mac(from), [8, 0], &packet)
}

/// Destination port and number of a [`numbered_udp`] frame.
pub(crate) fn udp_number_of(frame: &[u8]) -> Option<(u16, u32)> {
    if frame.get(12..14)? != [8, 0] || *frame.get(23)? != 17 {
        return None;
    }
    let port = u16::from_be_bytes(frame.get(36..38)?.try_into().ok()?);
    let number = u32::from_be_bytes(frame.get(42..46)?.try_into().ok()?);
    Some((port, number))
}

/// Everything that waits at a socket.
pub(crate) fn drain(socket: &PacketSocket) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| socket.receive()).collect()
}

/// Waits until `count` frames came that `pick` takes, and returns what it made of them.
pub(crate) fn collect<T>(
    socket: &PacketSocket,
    count: usize,
    mut pick: impl FnMut(&[u8]) -> Option<T>,
) -> Vec<T> {
    let mut found = Vec::new();
    eventually(&format!("{count} frames arrive"), || {
        found.extend(drain(socket).iter().filter_map(|frame| pick(frame)));
        (found.len() >= count).then_some(())
    });
    found
}
