//! Frame bytes: a template of one size, into which a flow (and a stamp) is written.
//!
//! In: addresses, protocol, size; then flow after flow. Out: valid Ethernet frames, optionally
//! with one 802.1Q tag, holding IPv4 or IPv6 and UDP or TCP, all checksums right. What must hold:
//! writing a flow costs a copy and a few additions, because the sum of everything that does not
//! vary is taken once.

use std::net::IpAddr;

use pmd::transmit::{fold, sum};
use policy::Mac;

use super::flow::Flow;

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
const TCP_LEN: usize = 20;

/// UDP or TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// RFC 768.
    Udp,
    /// RFC 9293; a data segment with ACK and PSH, of no connection.
    Tcp,
}

impl Transport {
    fn protocol(self) -> u8 {
        match self {
            Self::Udp => 17,
            Self::Tcp => 6,
        }
    }

    fn header_len(self) -> usize {
        match self {
            Self::Udp => UDP_LEN,
            Self::Tcp => TCP_LEN,
        }
    }
}

/// What all frames of a template have in common.
#[derive(Clone, Copy, Debug)]
pub struct Headers {
    /// Ethernet source.
    pub eth_src: Mac,
    /// Ethernet destination.
    pub eth_dst: Mac,
    /// 802.1Q tag control information, if tagged.
    pub vlan_tci: Option<u16>,
    /// UDP or TCP.
    pub transport: Transport,
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
}

/// A frame that is too short for its headers, or too long for IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSize {
    /// The size asked for, in bytes.
    pub size_bytes: usize,
    /// The shortest that works.
    pub least_bytes: usize,
}

impl std::fmt::Display for BadSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a frame of {} bytes cannot hold these headers; choose {} to 65535 bytes",
            self.size_bytes, self.least_bytes
        )
    }
}

impl std::error::Error for BadSize {}

/// Frames of one size.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Box<[u8]>,
    l3: usize,
    l4: usize,
    ipv6: bool,
    transport: Transport,
    /// Sum of the IPv4 header with addresses and checksum zero.
    ipv4_sum: u64,
    /// Sum of the pseudo header's fixed part and of the segment, with addresses, ports, checksum
    /// and payload zero.
    l4_sum: u64,
}

impl Template {
    /// A template for frames of `size_bytes`, without FCS. The payload is zero.
    ///
    /// # Errors
    /// When the headers do not fit into the size.
    pub fn new(headers: &Headers, size_bytes: usize) -> Result<Self, BadSize> {
        let l3 = if headers.vlan_tci.is_some() { 18 } else { 14 };
        let l4 = l3 + if headers.ipv6 { IPV6_LEN } else { IPV4_LEN };
        let least_bytes = l4 + headers.transport.header_len();
        if size_bytes < least_bytes || size_bytes > usize::from(u16::MAX) {
            return Err(BadSize {
                size_bytes,
                least_bytes,
            });
        }
        let mut bytes = vec![0; size_bytes].into_boxed_slice();
        write_ethernet(&mut bytes, headers);
        write_ip(&mut bytes[l3..], headers);
        write_transport(&mut bytes[l4..], headers.transport);
        let segment_len = (size_bytes - l4) as u64;
        Ok(Self {
            ipv4_sum: if headers.ipv6 { 0 } else { sum(&bytes[l3..l4]) },
            l4_sum: sum(&bytes[l4..]) + segment_len + u64::from(headers.transport.protocol()),
            bytes,
            l3,
            l4,
            ipv6: headers.ipv6,
            transport: headers.transport,
        })
    }

    /// Length of its frames, in bytes, without FCS.
    #[inline]
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Where the payload begins.
    #[inline]
    pub fn payload_offset(&self) -> usize {
        self.l4 + self.transport.header_len()
    }

    /// Writes the frame of `flow` to the first [`Template::size_bytes`] of `out`, and `payload`
    /// to the front of its payload, cut to what fits.
    ///
    /// # Panics
    /// When `out` is shorter than the frame, or the flow is not of the template's IP version.
    pub fn write(&self, flow: &Flow, payload: &[u8], out: &mut [u8]) {
        let out = &mut out[..self.bytes.len()];
        out.copy_from_slice(&self.bytes);
        let room = &mut out[self.payload_offset()..];
        let payload = &payload[..payload.len().min(room.len())];
        room[..payload.len()].copy_from_slice(payload);
        let (l3, l4) = (self.l3, self.l4);
        let addresses = match (flow.src, flow.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) if !self.ipv6 => {
                out[l3 + 12..l3 + 16].copy_from_slice(&src.octets());
                out[l3 + 16..l3 + 20].copy_from_slice(&dst.octets());
                let addresses = sum(&out[l3 + 12..l3 + 20]);
                let checksum = !fold(self.ipv4_sum + addresses);
                out[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
                addresses
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) if self.ipv6 => {
                out[l3 + 8..l3 + 24].copy_from_slice(&src.octets());
                out[l3 + 24..l3 + 40].copy_from_slice(&dst.octets());
                sum(&out[l3 + 8..l3 + 40])
            }
            _ => panic!("{flow:?} is not of the template's IP version"),
        };
        out[l4..l4 + 2].copy_from_slice(&flow.src_port.to_be_bytes());
        out[l4 + 2..l4 + 4].copy_from_slice(&flow.dst_port.to_be_bytes());
        let varying = addresses + sum(&out[l4..l4 + 4]) + sum(payload);
        // UDP's zero means "no checksum" and is sent as its twin (RFC 768); TCP takes either.
        let checksum = match !fold(self.l4_sum + varying) {
            0 => 0xffff,
            checksum => checksum,
        };
        let field = l4
            + match self.transport {
                Transport::Udp => 6,
                Transport::Tcp => 16,
            };
        out[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn write_ethernet(bytes: &mut [u8], headers: &Headers) {
    bytes[..6].copy_from_slice(&headers.eth_dst.0);
    bytes[6..12].copy_from_slice(&headers.eth_src.0);
    let mut at = 12;
    if let Some(tci) = headers.vlan_tci {
        bytes[12..14].copy_from_slice(&[0x81, 0x00]);
        bytes[14..16].copy_from_slice(&tci.to_be_bytes());
        at = 16;
    }
    let ethertype = if headers.ipv6 {
        [0x86, 0xdd]
    } else {
        [0x08, 0x00]
    };
    bytes[at..at + 2].copy_from_slice(&ethertype);
}

fn write_ip(packet: &mut [u8], headers: &Headers) {
    const HOP_LIMIT: u8 = 64;
    let protocol = headers.transport.protocol();
    if headers.ipv6 {
        let payload_len = (packet.len() - IPV6_LEN) as u16;
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&payload_len.to_be_bytes());
        packet[6..8].copy_from_slice(&[protocol, HOP_LIMIT]);
    } else {
        let total_len = packet.len() as u16;
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&total_len.to_be_bytes());
        // Don't Fragment (RFC 791).
        packet[6] = 0x40;
        packet[8..10].copy_from_slice(&[HOP_LIMIT, protocol]);
    }
}

fn write_transport(segment: &mut [u8], transport: Transport) {
    const ACK_PSH: u8 = 0x18;
    match transport {
        Transport::Udp => {
            let len = segment.len() as u16;
            segment[4..6].copy_from_slice(&len.to_be_bytes());
        }
        Transport::Tcp => {
            segment[12..16].copy_from_slice(&[5 << 4, ACK_PSH, 0xff, 0xff]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use policy::{Class, Field, PortId};

    use super::*;

    fn headers(ipv6: bool, transport: Transport, vlan_tci: Option<u16>) -> Headers {
        Headers {
            eth_src: Mac([2, 0, 0, 0, 0, 1]),
            eth_dst: Mac([2, 0, 0, 0, 0, 2]),
            vlan_tci,
            transport,
            ipv6,
        }
    }

    fn flow(ipv6: bool) -> Flow {
        let (src, dst): (IpAddr, IpAddr) = if ipv6 {
            let net = |host| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0xabcd, host);
            (net(1).into(), net(2).into())
        } else {
            (
                Ipv4Addr::new(10, 1, 2, 3).into(),
                Ipv4Addr::new(10, 9, 8, 7).into(),
            )
        };
        Flow {
            src,
            dst,
            src_port: 50_001,
            dst_port: 7,
        }
    }

    #[test]
    fn frames_parse_to_their_flow_and_every_checksum_adds_up() {
        for ipv6 in [false, true] {
            for transport in [Transport::Udp, Transport::Tcp] {
                for vlan_tci in [None, Some(0x2064)] {
                    let headers = headers(ipv6, transport, vlan_tci);
                    let template = Template::new(&headers, 101).expect("fits");
                    let mut bytes = [0xee; 128];
                    template.write(&flow(ipv6), &[1, 2, 3, 4, 5], &mut bytes);
                    let frame = &bytes[..101];
                    let parsed = policy::parse(frame, frame.len(), None, PortId(0));
                    let class = match (ipv6, transport) {
                        (false, Transport::Udp) => Class::Ipv4Udp,
                        (false, Transport::Tcp) => Class::Ipv4Tcp,
                        (true, Transport::Udp) => Class::Ipv6Udp,
                        (true, Transport::Tcp) => Class::Ipv6Tcp,
                    };
                    assert_eq!(parsed.class, class);
                    assert_eq!(parsed.key.get(Field::L4_SRC), 50_001);
                    assert_eq!(parsed.key.get(Field::L4_DST), 7);
                    assert_eq!(
                        parsed.key.get(Field::VLAN_TCI) as u16,
                        vlan_tci.unwrap_or(0)
                    );
                    let (l3, l4) = (template.l3, template.l4);
                    let addresses = if ipv6 {
                        &frame[l3 + 8..l4]
                    } else {
                        assert_eq!(fold(sum(&frame[l3..l4])), 0xffff);
                        &frame[l3 + 12..l4]
                    };
                    let segment = &frame[l4..];
                    let pseudo =
                        sum(addresses) + segment.len() as u64 + u64::from(transport.protocol());
                    assert_eq!(fold(pseudo + sum(segment)), 0xffff);
                    assert_eq!(&frame[template.payload_offset()..][..5], [1, 2, 3, 4, 5]);
                }
            }
        }
    }

    #[test]
    fn a_size_without_room_for_the_headers_is_refused() {
        let error = Template::new(&headers(true, Transport::Tcp, None), 60).expect_err("short");
        assert_eq!(error.least_bytes, 74);
    }
}
