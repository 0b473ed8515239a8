//! A network with a gateway and two vNICs, and what a client says and hears.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use policy::{Mac, NetworkId, PortId};
use vswitch::services::{
    Destination, Event, Ingress, Output, Services, Verdict,
    frame::{self, Arp, Datagram},
    plan::*,
};

pub(crate) const NETWORK: NetworkId = NetworkId(7);
pub(crate) const PORT: PortId = PortId(1);
pub(crate) const OTHER: PortId = PortId(2);
pub(crate) const UPLINK: PortId = PortId(3);
pub(crate) const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xfe]);
pub(crate) const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub(crate) const OTHER_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
pub(crate) const STRANGER_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub(crate) const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 9);
pub(crate) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0xfe);
pub(crate) const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);
pub(crate) const OTHER_ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2);
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

pub(crate) fn lease() -> Lease4 {
    Lease4 {
        address: "10.1.0.1/24".parse().expect("valid"),
        router: Some(GATEWAY),
        dns: vec![Ipv4Addr::new(10, 1, 0, 53), Ipv4Addr::new(10, 1, 0, 54)],
        search: vec!["blue.example".into(), "example".into()],
        mtu: Some(1450),
        routes: vec![("10.9.0.0/17".parse().expect("valid"), STRANGER)],
        lease_s: 3600,
        hostname: Some("vm-1".into()),
        options: vec![(43, vec![1, 4, 10, 1, 0, 7]), (42, vec![10, 1, 0, 123])],
        next_server: Some(Ipv4Addr::new(10, 1, 0, 66)),
        boot_file: Some("pxelinux.0".into()),
    }
}

pub(crate) fn advertisements() -> Advertisements {
    Advertisements {
        interval_s: 60,
        lifetime_s: 1800,
        managed: true,
        other: true,
        hop_limit: 64,
        mtu: Some(1450),
        prefixes: vec![Prefix {
            net: "fd00:1::/64".parse().expect("valid"),
            on_link: true,
            autonomous: false,
            valid_s: 7200,
            preferred_s: 3600,
        }],
        dns: vec![Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x53)],
        search: vec!["blue.example".into()],
        dns_lifetime_s: 900,
    }
}

fn vnic(name: &str, port: PortId, mac: Mac, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> VnicPlan {
    VnicPlan {
        name: name.into(),
        vm: format!("{name}-vm").into(),
        port,
        port_name: format!("{name}-port").into(),
        network: NETWORK,
        mac,
        ipv4: vec![ipv4],
        ipv6: vec![ipv6],
        router: false,
        dhcp4: Dhcp4 {
            mode: Mode4::Fixed,
            server: GATEWAY,
            lease: Some(Arc::new(Lease4 {
                address: ipnet::Ipv4Net::new_assert(ipv4, 24),
                ..lease()
            })),
        },
        dhcp6: Dhcp6 {
            mode: Mode6::Fixed,
            settings: Arc::new(Settings6 {
                dns: vec![Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x53)],
                search: vec!["blue.example".into()],
                preferred_s: 1000,
                valid_s: 2000,
                rapid_commit: true,
                boot_file_url: Some("tftp://[fd00:1::2]/boot.efi".into()),
            }),
        },
    }
}

/// The first vNIC is behind [`PORT`], the second behind [`OTHER`].
pub(crate) fn a_plan() -> Plan {
    Plan {
        networks: vec![NetworkPlan {
            others: Vec::new(),
            id: NETWORK,
            name: "blue".into(),
            mac: GATEWAY_MAC,
            gateways4: vec![ipnet::Ipv4Net::new_assert(GATEWAY, 24)],
            gateways6: vec![ipnet::Ipv6Net::new_assert(GATEWAY6, 64)],
            advertisements: None,
            neighbors: Neighbors::default(),
        }],
        vnics: vec![
            vnic("one", PORT, MAC, ADDRESS, ADDRESS6),
            vnic("two", OTHER, OTHER_MAC, OTHER_ADDRESS, OTHER_ADDRESS6),
        ],
    }
}

/// Services, and what they said last.
pub(crate) struct Bed {
    pub(crate) services: Services,
    pub(crate) now_ns: u64,
    pub(crate) events: Vec<Event>,
}

/// A frame that was sent.
pub(crate) type Sent = (Destination, Vec<u8>);

impl Bed {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut bed = Self {
            services: Services::new(1),
            now_ns: SECOND_NS,
            events: Vec::new(),
        };
        assert!(bed.replace(plan).is_empty());
        bed
    }

    pub(crate) fn replace(&mut self, plan: Plan) -> Vec<Sent> {
        let mut out = Output::default();
        self.services.replace(plan, self.now_ns, &mut out);
        self.take(out)
    }

    /// What comes of a frame.
    pub(crate) fn receive(&mut self, port: PortId, frame: &[u8]) -> (Verdict, Vec<Sent>) {
        let mut out = Output::default();
        let ingress = Ingress {
            port,
            network: NETWORK,
            now_ns: self.now_ns,
        };
        let verdict = self.services.receive(&ingress, frame, &mut out);
        (verdict, self.take(out))
    }

    /// Lets time pass, deadline by deadline; when each frame was sent, and where.
    pub(crate) fn wait(&mut self, ns: u64) -> Vec<(u64, Sent)> {
        let end_ns = self.now_ns + ns;
        let mut sent = Vec::new();
        while let Some(next_ns) = self
            .services
            .next_deadline_ns()
            .filter(|next| *next <= end_ns)
        {
            self.now_ns = self.now_ns.max(next_ns);
            let mut out = Output::default();
            self.services.tick(self.now_ns, &mut out);
            let now_ns = self.now_ns;
            sent.extend(self.take(out).into_iter().map(|frame| (now_ns, frame)));
            assert!(sent.len() < 10_000, "time stands still");
        }
        self.now_ns = end_ns;
        sent
    }

    fn take(&mut self, out: Output) -> Vec<Sent> {
        self.events.extend(out.events);
        let frames = out.frames.into_iter();
        frames
            .map(|outgoing| {
                assert_eq!(outgoing.network, NETWORK);
                (outgoing.to, outgoing.frame)
            })
            .collect()
    }
}

pub(crate) fn arp(sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let message = Arp {
        reply: false,
        sender_mac,
        sender,
        target_mac: Mac::default(),
        target,
    };
    frame::arp((sender_mac, Mac::BROADCAST), &message)
}

/// A client's DHCP message: the type and other options.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) ciaddr: Ipv4Addr,
    pub(crate) giaddr: Ipv4Addr,
    pub(crate) chaddr: Mac,
    pub(crate) flags: u16,
    pub(crate) hops: u8,
    pub(crate) xid: u32,
    pub(crate) to: Ipv4Addr,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            ciaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            chaddr: MAC,
            flags: 0,
            hops: 0,
            xid: 0x1234_5678,
            to: Ipv4Addr::BROADCAST,
        }
    }
}

impl Client {
    pub(crate) fn message(&self, options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 240];
        bytes[..4].copy_from_slice(&[1, 1, 6, self.hops]);
        bytes[4..8].copy_from_slice(&self.xid.to_be_bytes());
        bytes[10..12].copy_from_slice(&self.flags.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.ciaddr.octets());
        bytes[24..28].copy_from_slice(&self.giaddr.octets());
        bytes[28..34].copy_from_slice(&self.chaddr.0);
        bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
        for (code, data) in options {
            bytes.extend([*code, data.len() as u8]);
            bytes.extend_from_slice(data);
        }
        bytes.push(255);
        bytes
    }

    pub(crate) fn frame(&self, options: &[(u8, &[u8])]) -> Vec<u8> {
        udp4(
            (MAC, Mac::BROADCAST),
            (self.ciaddr, 68),
            (self.to, 67),
            &self.message(options),
        )
    }
}

pub(crate) fn udp4(
    macs: (Mac, Mac),
    (src, src_port): (Ipv4Addr, u16),
    (dst, dst_port): (Ipv4Addr, u16),
    payload: &[u8],
) -> Vec<u8> {
    let datagram = Datagram {
        src,
        dst,
        src_port,
        dst_port,
        payload,
    };
    frame::udp4(macs, &datagram)
}
