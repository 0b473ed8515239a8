//! A frame for a flow that somebody names.
//!
//! In: addresses and ports, as text. Out: the first frame of such a flow, as the VM behind a port
//! would send it. What must hold: an Ethernet address that the configuration does not tell is asked
//! for, never guessed.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use policy::{
    Mac, VlanId,
    key::{ethertype, protocol},
};

use crate::{
    api::types::FlowText,
    config::{
        Config,
        types::{Attachment, Vnic},
    },
};

const SYN: u8 = 2;
const TTL: u8 = 64;
/// The least length of a frame without FCS (IEEE 802.3 §3.2.8).
const LEAST_BYTES: usize = 60;

/// The frame.
pub(super) fn build(flow: &FlowText, config: &Config, port: &str) -> Result<Vec<u8>, String> {
    let Ends { src, dst, ports } = Ends::read(flow)?;
    if src.is_ipv4() != dst.is_ipv4() {
        return Err(format!("{src} and {dst} are of different families"));
    }
    let given = |text: &Option<String>| -> Result<Option<Mac>, String> {
        let mac = text.as_ref().map(|text| text.parse::<Mac>());
        mac.transpose().map_err(|error| error.to_string())
    };
    let own = config.vnics.iter().find(|vnic| &*vnic.port == port);
    let src_mac = match (given(&flow.src_mac)?, own) {
        (Some(mac), _) => mac,
        (None, Some(vnic)) => vnic.mac,
        (None, None) => {
            return Err(format!(
                "no vNIC is bound to port \"{port}\", so the sender's Ethernet address is not known; say it with --src-mac"
            ));
        }
    };
    let dst_mac = match given(&flow.dst_mac)?.or_else(|| group(dst)) {
        Some(mac) => mac,
        None => neighbour(config, port, dst)?,
    };
    let (number, transport) = match (flow.protocol.as_str(), dst) {
        ("tcp", _) => (protocol::TCP, tcp(ports)),
        ("udp", _) => (protocol::UDP, udp(ports)),
        ("icmp", IpAddr::V4(_)) => (protocol::ICMP, vec![8, 0, 0, 0, 0, 1, 0, 1]),
        ("icmp", IpAddr::V6(_)) => (protocol::ICMPV6, vec![128, 0, 0, 0, 0, 1, 0, 1]),
        (other, _) => return Err(format!("\"{other}\" is not tcp, udp or icmp")),
    };
    let mut frame = [dst_mac.0, src_mac.0].concat();
    if let Some(vid) = flow.vlan {
        let vlan = VlanId::new(vid).ok_or_else(|| format!("{vid} is no VLAN; 1 to 4094 are"))?;
        frame.extend(ethertype::CUSTOMER_TAG.to_be_bytes());
        frame.extend(vlan.get().to_be_bytes());
    }
    frame.extend(ip(src, dst, number, &transport));
    frame.resize(frame.len().max(LEAST_BYTES), 0);
    Ok(frame)
}

struct Ends {
    src: IpAddr,
    dst: IpAddr,
    ports: (u16, u16),
}

impl Ends {
    fn read(flow: &FlowText) -> Result<Self, String> {
        let (src, dst) = flow.addresses.split_once(',').ok_or_else(|| {
            format!(
                "\"{}\" is not SOURCE,DESTINATION, as in 10.0.0.1:1024,10.0.0.2:22",
                flow.addresses
            )
        })?;
        if flow.protocol == "icmp" {
            let address = |text: &str| {
                let parsed = text.parse::<IpAddr>();
                parsed.map_err(|_| format!("\"{text}\" is not an IP address"))
            };
            return Ok(Self {
                src: address(src)?,
                dst: address(dst)?,
                ports: (0, 0),
            });
        }
        let end = |text: &str| {
            text.parse::<SocketAddr>().map_err(|_| {
                format!("\"{text}\" is not ADDRESS:PORT, as in 10.0.0.1:22 or [fd00::1]:22")
            })
        };
        let (src, dst) = (end(src)?, end(dst)?);
        Ok(Self {
            src: src.ip(),
            dst: dst.ip(),
            ports: (src.port(), dst.port()),
        })
    }
}

/// The Ethernet address of a group (RFC 1112 §6.4, RFC 2464 §7).
fn group(address: IpAddr) -> Option<Mac> {
    match address {
        IpAddr::V4(address) if address.is_broadcast() => Some(Mac::BROADCAST),
        IpAddr::V4(address) if address.is_multicast() => {
            let [_, b, c, d] = address.octets();
            Some(Mac([1, 0, 0x5e, b & 0x7f, c, d]))
        }
        IpAddr::V6(address) if address.is_multicast() => {
            let [.., a, b, c, d] = address.octets();
            Some(Mac([0x33, 0x33, a, b, c, d]))
        }
        _ => None,
    }
}

/// The Ethernet address of the vNIC that `address` belongs to, on a network of the port.
fn neighbour(config: &Config, port: &str, address: IpAddr) -> Result<Mac, String> {
    let networks = |name: &str| -> Vec<&str> {
        let port = config.ports.iter().find(|port| &*port.name == name);
        match port.map(|port| &port.attachment) {
            None => Vec::new(),
            Some(Attachment::Access(network)) => vec![network],
            Some(Attachment::Trunk { tagged, native }) => {
                tagged.iter().chain(native).map(|name| &**name).collect()
            }
        }
    };
    let here = networks(port);
    let owns = |vnic: &Vnic| -> Option<u8> {
        let v4 = vnic.ipv4.iter().map(|net| IpNet::V4(*net));
        let nets = v4.chain(vnic.ipv6.iter().map(|net| IpNet::V6(*net)));
        let holding = nets.filter(|net| net.contains(&address));
        holding.map(|net| net.prefix_len()).max()
    };
    let near = config.vnics.iter().filter(|vnic| {
        &*vnic.port != port && networks(&vnic.port).iter().any(|name| here.contains(name))
    });
    // Of a router and of the one behind it, the one whose very address it is.
    let best = near
        .filter_map(|vnic| Some((owns(vnic)?, vnic)))
        .max_by_key(|(len, _)| *len);
    best.map(|(_, vnic)| vnic.mac).ok_or_else(|| {
        format!(
            "no other vNIC on the networks of port \"{port}\" has the address {address}, so its Ethernet address is not known; say it with --dst-mac: its own (see `vswitch show macs`), or that of the router on the way"
        )
    })
}

fn tcp((src, dst): (u16, u16)) -> Vec<u8> {
    let mut segment = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    segment
}

fn udp((src, dst): (u16, u16)) -> Vec<u8> {
    let mut datagram = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    datagram.extend([0, 8, 0, 0]);
    datagram
}

/// Ethertype and packet. Checksums are left zero: policy does not read them.
fn ip(src: IpAddr, dst: IpAddr, number: u8, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u16;
    let mut packet = Vec::new();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            packet.extend(ethertype::IPV4.to_be_bytes());
            packet.extend([0x45, 0]);
            packet.extend((20 + len).to_be_bytes());
            packet.extend([0, 0, 0x40, 0, TTL, number, 0, 0]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
        }
        (src, dst) => {
            let octets = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            packet.extend(ethertype::IPV6.to_be_bytes());
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(len.to_be_bytes());
            packet.extend([number, TTL]);
            packet.extend(octets(src));
            packet.extend(octets(dst));
        }
    }
    packet.extend(payload);
    packet
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::{
        config::{self, Machine},
        decode,
    };

    fn config() -> Config {
        let mut text = String::from("[[network]]\nname = \"blue\"\ntenant = \"t\"\n");
        for number in 1..=2 {
            let _ = write!(
                text,
                "[[port]]\nname = \"p{number}\"\nnetwork = \"blue\"\ndriver = \"memory\"\n\
                 [[vnic]]\nname = \"v{number}\"\nvm = \"m{number}\"\nport = \"p{number}\"\n\
                 mac = \"02:00:00:00:00:0{number}\"\nipv4 = [\"10.0.0.{number}\"]\nipv6 = [\"fd00::{number}\"]\n"
            );
        }
        text += "[[port]]\nname = \"up\"\nnetwork = \"blue\"\ndriver = \"memory\"\n";
        let machine = Machine {
            cores: vec![0],
            memory_bytes: 0,
        };
        config::parse("a.toml", &text, &machine).expect("valid")
    }

    fn flow(protocol: &str, addresses: &str) -> FlowText {
        FlowText {
            protocol: protocol.into(),
            addresses: addresses.into(),
            ..FlowText::default()
        }
    }

    fn told(flow: &FlowText, port: &str) -> Result<String, String> {
        let frame = build(flow, &config(), port)?;
        Ok(decode::one_line(&frame, frame.len(), None))
    }

    #[test]
    fn a_flow_between_vnics_needs_no_ethernet_addresses() {
        let frames = [
            ("tcp", "10.0.0.1:1024,10.0.0.2:22", "TCP [S]"),
            ("udp", "[fd00::1]:1024,[fd00::2]:53", "[fd00::2]:53: UDP"),
            ("icmp", "10.0.0.1,10.0.0.2", "ICMP echo request"),
            ("icmp", "fd00::1,fd00::2", "ICMPv6 echo request"),
        ];
        for (protocol, addresses, words) in frames {
            let line = told(&flow(protocol, addresses), "p1").expect("known");
            assert!(
                line.starts_with("02:00:00:00:00:01 > 02:00:00:00:00:02, "),
                "{line}"
            );
            assert!(line.contains(words), "{line}");
        }
        let group = told(&flow("udp", "10.0.0.1:1,224.0.0.251:5353"), "p1").expect("known");
        assert!(group.contains("> 01:00:5e:00:00:fb"), "{group}");
        let tagged = FlowText {
            vlan: Some(7),
            ..flow("udp", "10.0.0.1:1,10.0.0.2:2")
        };
        assert!(told(&tagged, "p1").expect("known").contains("vlan 7"));
    }

    #[test]
    fn what_is_not_known_is_asked_for() {
        for (flow, port, words) in [
            (flow("tcp", "10.0.0.1:1,9.9.9.9:2"), "p1", "--dst-mac"),
            (flow("tcp", "10.0.0.7:1,10.0.0.2:2"), "up", "--src-mac"),
            (flow("tcp", "10.0.0.1,10.0.0.2"), "p1", "ADDRESS:PORT"),
            (flow("tcp", "10.0.0.1:1"), "p1", "SOURCE,DESTINATION"),
            (flow("icmp", "10.0.0.1,fd00::2"), "p1", "families"),
        ] {
            let error = told(&flow, port).expect_err("not known");
            assert!(error.contains(words), "{error}");
        }
    }
}
