//! Frames, byte by byte: nothing here is taken from the switch.

use policy::Mac;

pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const BROADCAST: Mac = Mac([0xff; 6]);

/// 02:00:00:00:00:`n`.
pub(crate) const fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

/// An Ethernet frame.
pub(crate) fn ether(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [dst.0, src.0].concat();
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A frame of an experimental ethertype, so that no policy but that of L2 looks at it.
pub(crate) fn plain(dst: Mac, src: Mac) -> Vec<u8> {
    ether(
        dst,
        src,
        0x88b5,
        b"some forty-six bytes of payload to look for...",
    )
}

/// The frame with a tag in front of its ethertype.
pub(crate) fn tag(frame: &[u8], tci: u16) -> Vec<u8> {
    tag_as(frame, 0x8100, tci)
}

/// As [`tag`], with another TPID.
pub(crate) fn tag_as(frame: &[u8], tpid: u16, tci: u16) -> Vec<u8> {
    let tag = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
    [&frame[..12], &tag, &frame[12..]].concat()
}

/// An IPv4 packet without options; the header checksum is left zero.
pub(crate) fn ipv4(src: [u8; 4], dst: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_fragment(src, dst, protocol, 0, payload)
}

/// As [`ipv4`], with the flags and fragment offset field given.
pub(crate) fn ipv4_fragment(
    src: [u8; 4],
    dst: [u8; 4],
    protocol: u8,
    flags_offset: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(flags_offset.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(src);
    packet.extend(dst);
    packet.extend(payload);
    packet
}

/// An IPv6 packet.
pub(crate) fn ipv6(src: &str, dst: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let octets = |text: &str| {
        let address: std::net::Ipv6Addr = text.parse().expect("an IPv6 address");
        address.octets()
    };
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 255]);
    packet.extend(octets(src));
    packet.extend(octets(dst));
    packet.extend(payload);
    packet
}

pub(crate) fn tcp(src: u16, dst: u16, flags: u8) -> Vec<u8> {
    let mut segment = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    segment.extend([0; 8]);
    segment.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    segment
}

pub(crate) fn udp(src: u16, dst: u16) -> Vec<u8> {
    let mut datagram = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    datagram.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    datagram
}

/// ICMP of either family with four bytes of body.
pub(crate) fn icmp(kind: u8, code: u8) -> Vec<u8> {
    vec![kind, code, 0, 0, 1, 2, 3, 4]
}

/// ARP for IPv4 on Ethernet.
pub(crate) fn arp(operation: u16, sender: Mac, ip: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(sender.0);
    packet.extend(ip);
    packet.extend([0; 6]);
    packet.extend(target);
    packet
}

/// A neighbour solicitation (135) or advertisement (136), with a link-layer address option when
/// `link` is given.
pub(crate) fn neighbor(kind: u8, target: &str, link: Option<Mac>) -> Vec<u8> {
    let target: std::net::Ipv6Addr = target.parse().expect("an IPv6 address");
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    if let Some(mac) = link {
        message.extend([kind - 134, 1]);
        message.extend(mac.0);
    }
    message
}
