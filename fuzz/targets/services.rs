//! Frames from guests to the services of vNICs: whatever the bytes, no panic, and what is refused is
//! counted and not answered. The first byte says how the frame is made of the others.

#![no_main]

use std::{net::Ipv4Addr, sync::Arc};

use libfuzzer_sys::fuzz_target;
use policy::{Mac, NetworkId, PortId};
use vswitch::services::{
    Ingress, Output, Services, Verdict,
    frame::{self, Datagram},
    plan::*,
};

const NETWORK: NetworkId = NetworkId(1);
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xfe]);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);

fn a_plan(relay: bool) -> Plan {
    let gateway6: ipnet::Ipv6Net = "fd00:1::fe/64".parse().expect("valid");
    let server6 = "fd00:9::1".parse().expect("valid");
    let lease = Lease4 {
        address: "10.1.0.1/24".parse().expect("valid"),
        router: Some(GATEWAY),
        dns: vec![GATEWAY],
        search: vec!["blue.example".into()],
        mtu: Some(1450),
        routes: vec![("10.9.0.0/17".parse().expect("valid"), GATEWAY)],
        lease_s: 3600,
        hostname: Some("vm-1".into()),
        options: vec![(43, vec![1; 255]), (200, vec![2; 255])],
        next_server: Some(GATEWAY),
        boot_file: Some("pxelinux.0".into()),
    };
    let relay4 = Relay4 { servers: vec![Ipv4Addr::new(10, 1, 0, 9)], timeout_ms: 100, max_hops: 16, fallback: true };
    let settings = Settings6 {
        dns: vec![server6],
        search: vec!["blue.example".into()],
        preferred_s: 100,
        valid_s: 200,
        rapid_commit: true,
        boot_file_url: None,
    };
    let relay6 = Relay6 { link: gateway6.addr(), servers: vec![server6] };
    let vnic = VnicPlan {
        name: "one".into(),
        vm: "vm-1".into(),
        port: PortId(1),
        port_name: "p1".into(),
        network: NETWORK,
        mac: MAC,
        ipv4: vec![Ipv4Addr::new(10, 1, 0, 1)],
        ipv6: vec!["fd00:1::1".parse().expect("valid")],
        router: false,
        dhcp4: Dhcp4 {
            mode: if relay { Mode4::Relay(relay4) } else { Mode4::Fixed },
            server: GATEWAY,
            lease: Some(Arc::new(lease)),
        },
        dhcp6: Dhcp6 {
            mode: if relay { Mode6::Relay(relay6) } else { Mode6::Fixed },
            settings: Arc::new(settings),
        },
    };
    let network = NetworkPlan {
        others: Vec::new(),
        id: NETWORK,
        name: "blue".into(),
        mac: GATEWAY_MAC,
        gateways4: vec![ipnet::Ipv4Net::new_assert(GATEWAY, 24)],
        gateways6: vec![gateway6],
        advertisements: None,
        neighbors: Neighbors { fallback_ms: Some(100), ..Neighbors::default() },
    };
    Plan { networks: vec![network], vnics: vec![vnic] }
}

/// A frame with the bytes as they are, or as a DHCP message from a client or a server.
fn made(how: u8, bytes: &[u8]) -> Vec<u8> {
    let macs = (MAC, GATEWAY_MAC);
    let four = |src, src_port, dst| {
        frame::udp4(macs, &Datagram { src, dst, src_port, dst_port: 67, payload: bytes })
    };
    let six = |src: &str, src_port, dst: &str| {
        let (src, dst) = (src.parse().expect("valid"), dst.parse().expect("valid"));
        frame::udp6(macs, &Datagram { src, dst, src_port, dst_port: 547, payload: bytes })
    };
    match how % 5 {
        0 => bytes.to_vec(),
        1 => four(Ipv4Addr::UNSPECIFIED, 68, Ipv4Addr::BROADCAST),
        2 => four(Ipv4Addr::new(10, 1, 0, 9), 67, GATEWAY),
        3 => six("fe80::1", 546, "ff02::1:2"),
        _ => six("fd00:9::1", 547, "fd00:1::fe"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((how, bytes)) = bytes.split_first() else {
        return;
    };
    let bytes = &bytes[..bytes.len().min(1472)];
    for relay in [false, true] {
        let mut services = Services::new(1);
        let mut out = Output::default();
        services.replace(a_plan(relay), 0, &mut out);
        let ingress = Ingress { port: PortId(1), network: NETWORK, now_ns: 1 };
        let verdict = services.receive(&ingress, &made(*how, bytes), &mut out);
        if let Verdict::Refused(refusal) = verdict {
            assert!(out.frames.is_empty());
            assert_eq!(services.refusals().get(NETWORK, refusal), 1);
        }
        services.tick(1_000_000_000, &mut out);
        for outgoing in out.frames {
            assert!(matches!(frame::read(&outgoing.frame), Ok(Some(_))));
        }
    }
});
