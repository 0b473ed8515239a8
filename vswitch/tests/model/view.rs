//! The reference's reading of a frame: everything that policy may ask, as plain values.
//!
//! It follows the documents named in `policy::parse`, and that module's list of choices.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A frame, read.
pub(crate) struct View<'a> {
    bytes: &'a [u8],
    pub(crate) dst: [u8; 6],
    pub(crate) src: [u8; 6],
    /// The outer tag's TCI.
    pub(crate) tci: Option<u16>,
    tag_in_frame: bool,
    /// Behind the outer tag stands another.
    pub(crate) nested: bool,
    /// Behind the outer tag; 0 for 802.3.
    pub(crate) ethertype: u16,
    pub(crate) body: Body,
}

/// What stands behind Ethernet.
pub(crate) enum Body {
    Malformed,
    Arp(Option<Arp>),
    Ip(Ip),
    Other,
}

/// ARP for IPv4 on Ethernet.
pub(crate) struct Arp {
    pub(crate) sender_mac: [u8; 6],
    pub(crate) sender_ip: Ipv4Addr,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fragment {
    Whole,
    First,
    Later,
}

/// An IP packet.
pub(crate) struct Ip {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) fragment: Fragment,
    pub(crate) transport: Transport,
}

pub(crate) enum Transport {
    Tcp {
        src: u16,
        dst: u16,
        flags: u8,
    },
    Ports {
        src: u16,
        dst: u16,
    },
    /// ICMP of the packet's family, with the whole message.
    Icmp {
        kind: u8,
        code: u8,
        message: Vec<u8>,
    },
    Other,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn is_tpid(ethertype: u16) -> bool {
    [0x8100, 0x88a8].contains(&ethertype)
}

impl<'a> View<'a> {
    /// `None` for a runt.
    pub(crate) fn read(bytes: &'a [u8], beside: Option<u16>) -> Option<Self> {
        let mut ethertype = be16(bytes, 12)?;
        let mut payload = 14;
        let mut tci = beside;
        let mut tag_in_frame = false;
        if beside.is_none() && is_tpid(ethertype) {
            tci = Some(be16(bytes, 14)?);
            ethertype = be16(bytes, 16)?;
            payload = 18;
            tag_in_frame = true;
        }
        let nested = is_tpid(ethertype);
        if ethertype < 0x600 {
            ethertype = 0;
        }
        let rest = &bytes[payload..];
        let body = match ethertype {
            0x0800 => ipv4(rest).map_or(Body::Malformed, Body::Ip),
            0x86dd => ipv6(rest).map_or(Body::Malformed, Body::Ip),
            0x0806 if rest.len() < 28 => Body::Malformed,
            0x0806 => Body::Arp(arp(rest)),
            _ => Body::Other,
        };
        Some(Self {
            bytes,
            dst: bytes[..6].try_into().ok()?,
            src: bytes[6..12].try_into().ok()?,
            tci,
            tag_in_frame,
            nested,
            ethertype,
            body,
        })
    }

    /// The bytes that leave with another tag, or none. The priority stays.
    pub(crate) fn with_tag(&self, vlan: Option<u16>) -> Vec<u8> {
        let tci = vlan.map(|vlan| self.tci.unwrap_or(0) & 0xf000 | vlan);
        if self.tag_in_frame && tci == self.tci {
            return self.bytes.to_vec();
        }
        let untagged = if self.tag_in_frame { 16 } else { 12 };
        let mut out = self.bytes[..12].to_vec();
        if let Some(tci) = tci {
            out.extend([0x81, 0x00]);
            out.extend(tci.to_be_bytes());
        }
        out.extend(&self.bytes[untagged..]);
        out
    }
}

fn arp(packet: &[u8]) -> Option<Arp> {
    if packet[..7] != [0, 1, 8, 0, 6, 4, 0] {
        return None;
    }
    // Operation 0 is reserved (RFC 5494).
    (packet[7] != 0).then(|| Arp {
        sender_mac: packet[8..14].try_into().expect("six bytes"),
        sender_ip: <[u8; 4]>::try_from(&packet[14..18])
            .expect("four bytes")
            .into(),
    })
}

/// `None` when the packet is malformed; the same below.
fn ipv4(bytes: &[u8]) -> Option<Ip> {
    if bytes.len() < 20 || bytes[0] >> 4 != 4 {
        return None;
    }
    let header_len = usize::from(bytes[0] & 15) * 4;
    let total_len = usize::from(be16(bytes, 2)?);
    if header_len < 20 || total_len < header_len || bytes.len() < total_len {
        return None;
    }
    let packet = &bytes[..total_len];
    let (protocol, place) = (packet[9], be16(packet, 6)?);
    let fragment = match (place & 0x1fff, place & 0x2000 != 0) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        (1, _) if protocol == 6 => return None,
        _ => Fragment::Later,
    };
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = packet[at..at + 4].try_into().ok()?;
        Some(Ipv4Addr::from(octets).into())
    };
    Some(Ip {
        src: address(12)?,
        dst: address(16)?,
        protocol,
        fragment,
        transport: transport(&packet[header_len..], protocol, fragment, 1)?,
    })
}

fn ipv6(bytes: &[u8]) -> Option<Ip> {
    if bytes.len() < 40 || bytes[0] >> 4 != 6 {
        return None;
    }
    let payload = bytes[40..].get(..usize::from(be16(bytes, 4)?))?;
    let (mut rest, mut protocol) = (payload, bytes[6]);
    let mut fragment = Fragment::Whole;
    let (mut headers, mut fragment_headers) = (0, 0);
    while fragment != Fragment::Later && [0, 43, 44, 51, 60, 135, 139, 140].contains(&protocol) {
        headers += 1;
        if headers > 8 || rest.len() < 8 {
            return None;
        }
        let units = usize::from(rest[1]);
        let len = match protocol {
            44 => {
                fragment_headers += 1;
                if fragment_headers > 1 {
                    return None;
                }
                fragment = match be16(rest, 2)? {
                    place if place >> 3 != 0 => Fragment::Later,
                    place if place & 1 != 0 => Fragment::First,
                    _ => Fragment::Whole,
                };
                8
            }
            51 => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        protocol = rest[0];
        rest = rest.get(len..)?;
    }
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = bytes[at..at + 16].try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    };
    Some(Ip {
        src: address(8)?,
        dst: address(24)?,
        protocol,
        fragment,
        transport: transport(rest, protocol, fragment, 58)?,
    })
}

fn transport(bytes: &[u8], protocol: u8, fragment: Fragment, icmp: u8) -> Option<Transport> {
    if fragment == Fragment::Later {
        return Some(Transport::Other);
    }
    match protocol {
        6 => {
            let header_len = usize::from(bytes.get(12)? >> 4) * 4;
            if header_len < 20 || header_len > bytes.len() {
                return None;
            }
            Some(Transport::Tcp {
                src: be16(bytes, 0)?,
                dst: be16(bytes, 2)?,
                flags: bytes[13],
            })
        }
        17 => {
            let len = usize::from(be16(bytes, 4)?);
            let whole = fragment == Fragment::Whole;
            if bytes.len() < 8 || len < 8 || (whole && len > bytes.len()) {
                return None;
            }
            Some(Transport::Ports {
                src: be16(bytes, 0)?,
                dst: be16(bytes, 2)?,
            })
        }
        132 if bytes.len() < 12 => None,
        132 => Some(Transport::Ports {
            src: be16(bytes, 0)?,
            dst: be16(bytes, 2)?,
        }),
        _ if protocol == icmp => {
            if bytes.len() < 4 {
                return None;
            }
            Some(Transport::Icmp {
                kind: bytes[0],
                code: bytes[1],
                message: bytes.to_vec(),
            })
        }
        _ => Some(Transport::Other),
    }
}
