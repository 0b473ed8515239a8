//! What services write, as Wireshark reads it.

use std::{fmt::Write as _, fs, process::Command};

use smoltcp::wire::NdiscRepr;
use vswitch::services::{
    Destination,
    dhcp6::message::{ALL_SERVERS, Kind, Writer, option},
    plan::{Mode4, Mode6, Relay4, Relay6, link_local},
};

use crate::{
    bed::*,
    dhcp6::udp6,
    neighbors::{ndisc, solicit},
};

/// The fields of the last frame that is written, by name; `None` without tshark.
fn read(frame: &[u8], fields: &[&str]) -> Option<Vec<String>> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("frame.pcap");
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([0xff, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend((frame.len() as u32).to_le_bytes().repeat(2));
    file.extend_from_slice(frame);
    fs::write(&path, file).expect("written");
    let mut command = Command::new("tshark");
    let checks = ["ip", "udp"].map(|layer| format!("{layer}.check_checksum:TRUE"));
    command
        .arg("-r")
        .arg(&path)
        .args(["-o", &checks[0], "-o", &checks[1]]);
    command.args(["-T", "fields", "-E", "separator=|"]);
    for field in fields
        .iter()
        .chain(&["_ws.malformed", "_ws.expert.severity"])
    {
        command.args(["-e", field]);
    }
    let Ok(output) = command.output() else {
        eprintln!("skipped: no tshark");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(
        text.trim_end_matches('\n')
            .split('|')
            .map(str::to_owned)
            .collect(),
    )
}

/// Holds that fields are read with these values, and that nothing is said to be wrong.
fn reads(frame: &[u8], expected: &[(&str, &str)]) {
    /// Errors, as severities are numbered.
    const ERROR: u32 = 0x0080_0000;

    let fields: Vec<&str> = expected.iter().map(|(field, _)| *field).collect();
    let Some(values) = read(frame, &fields) else {
        return;
    };
    let mut wrong = String::new();
    for ((field, value), read) in expected.iter().zip(&values) {
        if value != read {
            let _ = writeln!(wrong, "{field}: {read}, not {value}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}{frame:02x?}");
    let [malformed, severity] = &values[values.len() - 2..] else {
        panic!("{values:?}");
    };
    assert_eq!(malformed, "");
    let severities = severity.split(',').filter_map(|s| s.parse::<u32>().ok());
    assert!(
        severities.max().unwrap_or(0) < ERROR,
        "{severity} of {frame:02x?}"
    );
}

/// The only frame that comes of one.
fn answer(bed: &mut Bed, frame: &[u8]) -> Vec<u8> {
    let (verdict, mut sent) = bed.receive(PORT, frame);
    assert_eq!(sent.len(), 1, "{verdict:?}");
    sent.remove(0).1
}

#[test]
fn a_lease_is_read() {
    let parameters = [1, 3, 6, 12, 15, 26, 28, 42, 43, 66, 67, 119, 121];
    let discover =
        Client::default().frame(&[(53, &[1]), (61, b"\x01\x02\0\0\0\0\x01"), (55, &parameters)]);
    let offer = answer(&mut Bed::new(a_plan()), &discover);
    reads(
        &offer,
        &[
            ("ip.checksum.status", "1"),
            ("udp.checksum.status", "1"),
            ("ip.src", "10.1.0.254"),
            ("dhcp.type", "2"),
            ("dhcp.ip.your", "10.1.0.1"),
            ("dhcp.ip.server", "10.1.0.66"),
            ("dhcp.file", "pxelinux.0"),
            ("dhcp.option.dhcp", "2"),
            ("dhcp.option.dhcp_server_id", "10.1.0.254"),
            ("dhcp.option.ip_address_lease_time", "3600"),
            ("dhcp.option.renewal_time_value", "1800"),
            ("dhcp.option.rebinding_time_value", "3150"),
            ("dhcp.option.subnet_mask", "255.255.255.0"),
            ("dhcp.option.router", "10.1.0.254"),
            ("dhcp.option.domain_name_server", "10.1.0.53,10.1.0.54"),
            ("dhcp.option.hostname", "vm-1"),
            ("dhcp.option.domain_name", "blue.example"),
            ("dhcp.option.interface_mtu", "1450"),
            ("dhcp.option.broadcast_address", "10.1.0.255"),
            ("dhcp.option.tftp_server_name", "10.1.0.66"),
            ("dhcp.option.bootfile_name", "pxelinux.0"),
            (
                "dhcp.option.dhcp_dns_domain_search_list_fqdn",
                "blue.example,example",
            ),
        ],
    );
}

#[test]
fn a_relayed_message_is_read() {
    let mut plan = a_plan();
    plan.vnics[0].dhcp4.mode = Mode4::Relay(Relay4 {
        servers: vec![STRANGER],
        timeout_ms: 1000,
        max_hops: 4,
        fallback: false,
    });
    plan.vnics[0].dhcp6.mode = Mode6::Relay(Relay6 {
        link: GATEWAY6,
        servers: vec![OTHER_ADDRESS6],
    });
    let mut bed = Bed::new(plan);
    let discover = Client::default().frame(&[(53, &[1])]);
    reads(
        &answer(&mut bed, &discover),
        &[
            ("udp.checksum.status", "1"),
            ("dhcp.type", "1"),
            ("dhcp.hops", "1"),
            ("dhcp.ip.relay", "10.1.0.254"),
            (
                "dhcp.option.agent_information_option.agent_circuit_id",
                "6f6e652d706f7274",
            ),
            (
                "dhcp.option.agent_information_option.agent_remote_id",
                "6f6e652d766d",
            ),
        ],
    );
    let mut solicit = Writer::message(Kind::Solicit, [1, 2, 3]);
    solicit.option(option::CLIENT, b"\0\x03\0\x01\x02\0\0\0\0\x01");
    let solicit = udp6(
        (MAC, GATEWAY_MAC),
        (link_local(MAC), 546),
        (ALL_SERVERS, 547),
        &solicit.finish().expect("short"),
    );
    reads(
        &answer(&mut bed, &solicit),
        &[
            ("dhcpv6.msgtype", "12,1"),
            ("dhcpv6.hopcount", "0"),
            ("dhcpv6.linkaddr", "fd00:1::fe"),
            ("dhcpv6.peeraddr", "fe80::ff:fe00:1"),
            ("dhcpv6.interface_id", "6f6e652d706f7274"),
        ],
    );
}

#[test]
fn a_dhcp6_reply_is_read() {
    let mut solicit = Writer::message(Kind::Solicit, [1, 2, 3]);
    solicit.option(option::CLIENT, b"\0\x03\0\x01\x02\0\0\0\0\x01");
    solicit.option(option::IA_NA, &[0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    solicit.option(option::IA_PD, &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    solicit.option(option::RAPID_COMMIT, &[]);
    let solicit = udp6(
        (MAC, GATEWAY_MAC),
        (link_local(MAC), 546),
        (ALL_SERVERS, 547),
        &solicit.finish().expect("short"),
    );
    reads(
        &answer(&mut Bed::new(a_plan()), &solicit),
        &[
            ("udp.checksum.status", "1"),
            ("dhcpv6.msgtype", "7"),
            ("dhcpv6.iaaddr.ip", "fd00:1::1"),
            ("dhcpv6.iaaddr.pref_lifetime", "1000"),
            ("dhcpv6.iaaddr.valid_lifetime", "2000"),
            ("dhcpv6.iaid.t1", "500,0"),
            ("dhcpv6.iaid.t2", "800,0"),
            ("dhcpv6.status_code", "6"),
            ("dhcpv6.dns_server", "fd00:1::53"),
            ("dhcpv6.search_list_entry", "blue.example."),
        ],
    );
}

#[test]
fn a_router_advertisement_is_read() {
    let mut plan = a_plan();
    plan.networks[0].advertisements = Some(advertisements());
    let mut bed = Bed::new(plan);
    let all_routers = "ff02::2".parse().expect("valid");
    let solicit = ndisc(
        MAC,
        link_local(MAC),
        all_routers,
        &NdiscRepr::RouterSolicit { lladdr: None },
    );
    bed.receive(PORT, &solicit);
    let sent = bed.wait(SECOND_NS);
    let to_port = |(_, (to, _)): &&(u64, Sent)| *to == Destination::Port(PORT);
    let (_, (_, frame)) = sent.iter().find(to_port).expect("an answer");
    reads(
        frame,
        &[
            ("icmpv6.checksum.status", "1"),
            ("ipv6.dst", "fe80::ff:fe00:1"),
            ("icmpv6.type", "134"),
            ("icmpv6.nd.ra.cur_hop_limit", "64"),
            ("icmpv6.nd.ra.router_lifetime", "1800"),
            ("icmpv6.opt.mtu", "1450"),
            ("icmpv6.opt.prefix", "fd00:1::"),
            ("icmpv6.opt.prefix.length", "64"),
            ("icmpv6.opt.prefix.valid_lifetime", "7200"),
            ("icmpv6.opt.prefix.preferred_lifetime", "3600"),
            ("icmpv6.opt.rdnss", "fd00:1::53"),
            ("icmpv6.opt.rdnss.lifetime", "900"),
            ("icmpv6.opt.dnssl", "blue.example"),
        ],
    );
}

#[test]
fn neighbours_are_read() {
    let mut bed = Bed::new(a_plan());
    reads(
        &answer(&mut bed, &arp(MAC, ADDRESS, GATEWAY)),
        &[
            ("arp.opcode", "2"),
            ("arp.src.hw_mac", "02:00:00:00:00:fe"),
            ("arp.src.proto_ipv4", "10.1.0.254"),
            ("arp.dst.hw_mac", "02:00:00:00:00:01"),
            ("arp.dst.proto_ipv4", "10.1.0.1"),
        ],
    );
    reads(
        &answer(&mut bed, &solicit(MAC, ADDRESS6, GATEWAY6)),
        &[
            ("icmpv6.checksum.status", "1"),
            ("icmpv6.type", "136"),
            ("icmpv6.nd.na.target_address", "fd00:1::fe"),
            ("icmpv6.opt.target_linkaddr", "02:00:00:00:00:fe"),
        ],
    );
    bed.services.appeared(PORT, bed.now_ns);
    let sent = bed.wait(0);
    reads(
        &sent[0].1.1,
        &[
            ("eth.type", "0x8035"),
            ("arp.opcode", "3"),
            ("arp.src.hw_mac", "02:00:00:00:00:01"),
            ("arp.dst.hw_mac", "02:00:00:00:00:01"),
        ],
    );
    reads(
        &sent[1].1.1,
        &[
            ("arp.dst.proto_ipv4", "10.1.0.1"),
            ("arp.src.proto_ipv4", "10.1.0.1"),
        ],
    );
}
