//! Frames and masks in words, for people.
//!
//! In: a frame's first bytes, or a footprint mask. Out: what a person wants to know of it, a frame
//! after the manner of tcpdump. What must hold: any bytes may come in.

use std::{
    fmt::Write,
    net::{Ipv4Addr, Ipv6Addr},
};

use policy::{
    Class, Field, FlowKey, Mac, Parsed, PortId,
    key::{protocol, shape},
    parse::parse,
};

/// A frame in one line. `head` is all of it or its first 256 bytes, `vlan_tci` the tag that came
/// beside it.
pub fn one_line(head: &[u8], len_bytes: usize, vlan_tci: Option<u16>) -> String {
    let parsed = parse(head, len_bytes, vlan_tci, PortId(0));
    let key = &parsed.key;
    if parsed.class == Class::Runt {
        return format!("runt, {len_bytes} bytes");
    }
    let mut line = format!("{} > {}, ", key.eth_src(), key.eth_dst());
    if key.has(shape::TAGGED) {
        let tci = key.get(Field::VLAN_TCI);
        let _ = write!(line, "vlan {}, ", tci & 0xfff);
        if tci >> 13 != 0 {
            let _ = write!(line, "priority {}, ", tci >> 13);
        }
    }
    line += &payload(head, &parsed);
    let _ = write!(line, ", {len_bytes} bytes");
    line
}

/// A frame of which only the headers are left, in one line.
pub fn flow_words(parsed: &Parsed) -> String {
    let key = &parsed.key;
    let (src, dst) = (key.eth_src(), key.eth_dst());
    format!("{src} > {dst}, {}", payload(&[], parsed))
}

fn payload(head: &[u8], parsed: &Parsed) -> String {
    let ethertype = parsed.key.get(Field::ETHERTYPE);
    match parsed.class {
        Class::Runt => String::new(),
        Class::Malformed => format!("malformed, ethertype {ethertype:#06x}"),
        Class::NonIp if parsed.key.has(shape::NESTED) => {
            format!("a tag behind the tag ({ethertype:#06x})")
        }
        Class::NonIp if ethertype == 0 => "802.3".into(),
        Class::NonIp => format!("ethertype {ethertype:#06x}"),
        Class::Arp => arp(head, parsed),
        _ => ip(parsed),
    }
}

fn arp(head: &[u8], parsed: &Parsed) -> String {
    let key = &parsed.key;
    let sender = Ipv4Addr::from(key.get(Field::IP_SRC_LOW) as u32);
    let target = Ipv4Addr::from(key.get(Field::IP_DST_LOW) as u32);
    let at = usize::from(parsed.l3_offset) + 8;
    let mac = head.get(at..).and_then(|bytes| bytes.first_chunk::<6>());
    let mac = mac.map_or_else(String::new, |mac| Mac(*mac).to_string());
    match key.get(Field::PROTOCOL) {
        1 => format!("ARP who-has {target} tell {sender}"),
        2 => format!("ARP {sender} is-at {mac}"),
        operation => format!("ARP operation {operation}, {sender} ({mac})"),
    }
}

fn ip(parsed: &Parsed) -> String {
    let key = &parsed.key;
    let (src, dst) = addresses(parsed);
    let number = key.get(Field::PROTOCOL) as u8;
    let (from, to) = (key.get(Field::L4_SRC), key.get(Field::L4_DST));
    let mut text = if key.has(shape::L4) && number != protocol::ICMP && number != protocol::ICMPV6 {
        let end = |address: &str, port| {
            if key.has(shape::IPV6) {
                format!("[{address}]:{port}")
            } else {
                format!("{address}:{port}")
            }
        };
        format!("{} > {}: ", end(&src, from), end(&dst, to))
    } else {
        format!("{src} > {dst}: ")
    };
    match (number, key.has(shape::L4)) {
        (protocol::TCP, true) => {
            let _ = write!(text, "TCP {}", flags(key.get(Field::TCP_FLAGS) as u8));
        }
        (protocol::UDP, true) => text += "UDP",
        (protocol::SCTP, true) => text += "SCTP",
        (protocol::ICMP | protocol::ICMPV6, true) => text += &icmp(number, from),
        (number, _) => {
            let _ = write!(text, "protocol {number}");
        }
    }
    if key.has(shape::FIRST_FRAGMENT) {
        text += ", first fragment";
    } else if key.has(shape::LATER_FRAGMENT) {
        text += ", later fragment";
    }
    text
}

fn addresses(parsed: &Parsed) -> (String, String) {
    let key = &parsed.key;
    let address = |high: Field, low: Field| {
        if key.has(shape::IPV6) {
            let value = u128::from(key.get(high)) << 64 | u128::from(key.get(low));
            Ipv6Addr::from(value).to_string()
        } else {
            Ipv4Addr::from(key.get(low) as u32).to_string()
        }
    };
    (
        address(Field::IP_SRC_HIGH, Field::IP_SRC_LOW),
        address(Field::IP_DST_HIGH, Field::IP_DST_LOW),
    )
}

/// As in `[S.]`: tcpdump's letters.
fn flags(flags: u8) -> String {
    const LETTERS: [char; 8] = ['F', 'S', 'R', 'P', '.', 'U', 'E', 'W'];
    let set = (0..8).filter(|bit| flags >> bit & 1 == 1);
    let letters: String = set.map(|bit| LETTERS[bit]).collect();
    if letters.is_empty() {
        "[none]".into()
    } else {
        format!("[{letters}]")
    }
}

fn icmp(number: u8, kind_and_code: u64) -> String {
    let (kind, code) = (kind_and_code >> 8, kind_and_code & 0xff);
    let name = match (number, kind) {
        (protocol::ICMP, 0) | (protocol::ICMPV6, 129) => "echo reply",
        (protocol::ICMP, 8) | (protocol::ICMPV6, 128) => "echo request",
        (protocol::ICMP, 3) | (protocol::ICMPV6, 1) => "unreachable",
        (protocol::ICMPV6, 133) => "router solicitation",
        (protocol::ICMPV6, 134) => "router advertisement",
        (protocol::ICMPV6, 135) => "neighbour solicitation",
        (protocol::ICMPV6, 136) => "neighbour advertisement",
        _ => "",
    };
    let family = if number == protocol::ICMP {
        "ICMP"
    } else {
        "ICMPv6"
    };
    if name.is_empty() {
        format!("{family} type {kind} code {code}")
    } else {
        format!("{family} {name}")
    }
}

/// The fields of a footprint mask, with how much of each is read.
pub fn mask_words(mask: &FlowKey, class: Class) -> Vec<String> {
    const FIELDS: &[(&str, Field)] = &[
        ("ingress", Field::INGRESS),
        ("eth_dst", Field::ETH_DST),
        ("eth_src", Field::ETH_SRC),
        ("ethertype", Field::ETHERTYPE),
        ("vlan", Field::VLAN_VID),
        ("protocol", Field::PROTOCOL),
        ("l4_src", Field::L4_SRC),
        ("l4_dst", Field::L4_DST),
        ("tcp_flags", Field::TCP_FLAGS),
        ("tos", Field::TOS),
        ("shape", Field::SHAPE),
    ];
    let mut words = Vec::new();
    for (name, field) in FIELDS {
        let bits = mask.get(*field);
        if bits == field.ones() {
            words.push((*name).to_owned());
        } else if bits != 0 {
            words.push(format!("{name}&{bits:#x}"));
        }
    }
    let ipv4 = matches!(
        class,
        Class::Ipv4Tcp
            | Class::Ipv4Udp
            | Class::Ipv4Icmp
            | Class::Ipv4Other
            | Class::Ipv4Fragment
            | Class::Arp
    );
    for (name, high, low) in [
        ("ip_src", Field::IP_SRC_HIGH, Field::IP_SRC_LOW),
        ("ip_dst", Field::IP_DST_HIGH, Field::IP_DST_LOW),
    ] {
        let (bits, width) = if ipv4 {
            // Of an IPv4 address, all else is zero in every frame.
            (u128::from(mask.get(low) as u32) << 96, 32)
        } else {
            (
                u128::from(mask.get(high)) << 64 | u128::from(mask.get(low)),
                128,
            )
        };
        let prefix = bits.leading_ones();
        if bits == 0 {
        } else if prefix == width {
            words.push(name.to_owned());
        } else if bits.count_ones() == prefix {
            words.push(format!("{name}/{prefix}"));
        } else if ipv4 {
            words.push(format!("{name}&{:#x}", (bits >> 96) as u32));
        } else {
            words.push(format!("{name}&{bits:#x}"));
        }
    }
    words
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of a text of hexadecimal digits; spaces, colons and line ends between bytes are
/// passed over. `None` when it is something else.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !c.is_ascii_whitespace() && *c != ':')
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect();
    let digits = digits?;
    if digits.len() % 2 != 0 {
        return None;
    }
    let pairs = digits.chunks_exact(2);
    Some(pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Lines of 16 bytes, with their offset and their printable characters.
pub fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (number, line) in bytes.chunks(16).enumerate() {
        let _ = write!(text, "    {:04x} ", number * 16);
        for place in 0..16 {
            let gap = if place == 8 { " " } else { "" };
            let _ = match line.get(place) {
                Some(byte) => write!(text, "{gap} {byte:02x}"),
                None => write!(text, "{gap}   "),
            };
        }
        let printable = |byte: &u8| {
            if byte.is_ascii_graphic() || *byte == b' ' {
                *byte as char
            } else {
                '.'
            }
        };
        let _ = writeln!(text, "  {}", line.iter().map(printable).collect::<String>());
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> String {
        let bytes = from_hex(text).expect("hexadecimal");
        one_line(&bytes, bytes.len(), None)
    }

    #[test]
    fn frames_are_told_as_tcpdump_tells_them() {
        let ethernet = "020000000002 020000000001";
        let ipv4 = "0800 4500 0028 0001 0000 40 06 0000 0a000001 0a000002";
        let syn = "0400 0016 00000000 00000000 5002 1000 0000 0000";
        assert_eq!(
            line(&format!("{ethernet} {ipv4} {syn}")),
            "02:00:00:00:00:01 > 02:00:00:00:00:02, 10.0.0.1:1024 > 10.0.0.2:22: TCP [S], 54 bytes"
        );
        let arp = "ffffffffffff 020000000001 8100 000a 0806 0001 0800 06 04 0001 020000000001 0a000001 000000000000 0a000002";
        assert_eq!(
            line(arp),
            "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, vlan 10, ARP who-has 10.0.0.2 tell 10.0.0.1, 46 bytes"
        );
        assert_eq!(line("0200"), "runt, 2 bytes");
        assert!(line(&format!("{ethernet} 0800 45")).contains("malformed"));
    }

    #[test]
    fn hexadecimal_is_read_as_it_is_written() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(&hex(&bytes)), Some(bytes.clone()));
        assert_eq!(from_hex("02:00 0A\n"), Some(vec![2, 0, 10]));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("0g"), None);
        assert_eq!(dump(&bytes).lines().count(), 16);
        assert!(dump(b"abc").ends_with("  abc\n"));
    }

    #[test]
    fn a_mask_tells_prefixes_from_whole_addresses() {
        let mut mask = FlowKey::default();
        mask.set(Field::IP_SRC_LOW, 0xffff_ff00);
        mask.set(Field::IP_DST_LOW, 0xffff_ffff);
        mask.set(Field::TCP_FLAGS, 2);
        let words = mask_words(&mask, Class::Ipv4Tcp);
        assert_eq!(words, ["tcp_flags&0x2", "ip_src/24", "ip_dst"]);
        mask.set(Field::IP_SRC_HIGH, u64::MAX);
        mask.set(Field::IP_SRC_LOW, 0);
        let words = mask_words(&mask, Class::Ipv6Tcp);
        assert!(words.contains(&"ip_src/64".to_owned()), "{words:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_told(bytes in prop::collection::vec(any::<u8>(), 0..200), tci in any::<Option<u16>>()) {
            prop_assert!(!one_line(&bytes, bytes.len(), tci).contains('\n'));
        }
    }
}
