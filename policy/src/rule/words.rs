//! The names that rules are written with. Each number has one name here, so that what is printed
//! is what was meant.

use super::FragmentMatch;

/// IP protocols (IANA "Assigned Internet Protocol Numbers").
pub const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ospf", 89),
    ("vrrp", 112),
    ("sctp", 132),
];
/// Ethertypes (IANA "IEEE 802 Numbers").
pub const ETHERTYPES: &[(&str, u16)] = &[
    ("ipv4", 0x0800),
    ("arp", 0x0806),
    ("ipv6", 0x86dd),
    ("lldp", 0x88cc),
];
/// TCP flags, FIN lowest (RFC 9293 §3.1).
pub const FLAGS: &[(&str, u8)] = &[
    ("fin", 1),
    ("syn", 2),
    ("rst", 4),
    ("psh", 8),
    ("ack", 16),
    ("urg", 32),
    ("ece", 64),
    ("cwr", 128),
];
/// Which fragments.
pub const FRAGMENTS: &[(&str, FragmentMatch)] = &[
    ("no", FragmentMatch::No),
    ("any", FragmentMatch::Any),
    ("first", FragmentMatch::First),
    ("later", FragmentMatch::Later),
];

/// The value of a name, whatever its case.
pub fn value_of<T: Copy>(names: &[(&str, T)], name: &str) -> Option<T> {
    let found = names.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
    found.map(|(_, value)| *value)
}

/// The name of a value.
pub fn name_of<T: Copy + PartialEq>(names: &[(&'static str, T)], value: T) -> Option<&'static str> {
    let found = names.iter().find(|(_, v)| *v == value);
    found.map(|(name, _)| *name)
}

/// A name's value or a number, decimal or, behind `0x`, hexadecimal.
pub fn number_of<T: Copy + TryFrom<u64>>(names: &[(&str, T)], text: &str) -> Option<T> {
    if let Some(value) = value_of(names, text) {
        return Some(value);
    }
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let plain = digits.bytes().all(|c| c.is_ascii_hexdigit());
    let number = u64::from_str_radix(digits, radix).ok().filter(|_| plain)?;
    T::try_from(number).ok()
}

/// What the name of a set or group, or of any other thing of the configuration, may be: 1 to 64
/// letters, digits, `-`, `_` or `.`.
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}
