//! Flows as one number that is the same for both directions.
//!
//! In come a frame's key and a secret; out goes a hash. What must hold: a frame and its answer have
//! the same hash, and so have all frames of a flow; nobody without the secret can choose flows by
//! their hashes.
//!
//! Fragments have no ports, or only the first one has: they are told apart by addresses and protocol
//! alone, so that the fragments of one packet stay together.

use policy::{
    FlowKey,
    key::{Field, protocol, shape},
};

const K1: u64 = 0x9e37_79b9_7f4a_7c15;
const K2: u64 = 0xd6e8_feb8_6659_fd93;

/// Both halves of a product, folded: every bit of the result depends on all of both.
#[inline]
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// The hash of a frame's flow.
#[inline]
pub fn hash(key: &FlowKey, secret: u64) -> u64 {
    let end = |high: u64, low: u64, port: u64| {
        let address = mix(high ^ secret ^ K1, low ^ K2);
        mix(address ^ port, K1 ^ secret)
    };
    let ip = shape::IPV4 | shape::IPV6;
    let (a, b, kind) = if key.get(Field::SHAPE) & ip == 0 {
        let macs = [key.eth_src(), key.eth_dst()].map(policy::Mac::to_u64);
        (end(0, macs[0], 0), end(0, macs[1], 0), 0)
    } else {
        let kind = key.get(Field::PROTOCOL);
        let (source, destination) = ports(key, kind as u8);
        let [high, low] = [Field::IP_SRC_HIGH, Field::IP_SRC_LOW].map(|f| key.get(f));
        let a = end(high, low, source);
        let [high, low] = [Field::IP_DST_HIGH, Field::IP_DST_LOW].map(|f| key.get(f));
        (a, end(high, low, destination), kind)
    };
    // The sum does not tell the ends apart.
    mix(a.wrapping_add(b) ^ key.get(Field::ETHERTYPE), kind ^ K2)
}

/// What tells flows between the same addresses apart, for each end.
#[inline]
fn ports(key: &FlowKey, kind: u8) -> (u64, u64) {
    let fragment = shape::FIRST_FRAGMENT | shape::LATER_FRAGMENT;
    let (source, destination) = (key.get(Field::L4_SRC), key.get(Field::L4_DST));
    if key.get(Field::SHAPE) & fragment != 0 {
        return (0, 0);
    }
    match kind {
        // An echo and its reply differ in type, and have the identifier in common.
        protocol::ICMP | protocol::ICMPV6 => (destination, destination),
        _ => (source, destination),
    }
}

/// A hash of bytes.
#[inline]
pub(crate) fn digest(bytes: &[u8], secret: u64) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<16>();
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    let mut state = secret ^ bytes.len() as u64;
    for block in blocks.iter().chain([&last]) {
        let bits = u128::from_le_bytes(*block);
        state = mix(bits as u64 ^ state ^ K1, (bits >> 64) as u64 ^ secret ^ K2)
            ^ state.rotate_left(23);
    }
    mix(state ^ K2, K1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::{PortId, parse};

    fn frame(protocol: u8, from: ([u8; 4], u16), to: ([u8; 4], u16), place: u16) -> Vec<u8> {
        let mut bytes = vec![0; 74];
        bytes[12] = 8;
        bytes[14..18].copy_from_slice(&[0x45, 0, 0, 60]);
        bytes[20..22].copy_from_slice(&place.to_be_bytes());
        bytes[23] = protocol;
        bytes[26..30].copy_from_slice(&from.0);
        bytes[30..34].copy_from_slice(&to.0);
        bytes[34..36].copy_from_slice(&from.1.to_be_bytes());
        bytes[36..38].copy_from_slice(&to.1.to_be_bytes());
        bytes[38..40].copy_from_slice(&40u16.to_be_bytes());
        bytes[46] = 0x50;
        bytes
    }

    fn hashed(bytes: &[u8]) -> u64 {
        hash(&parse(bytes, bytes.len(), None, PortId(1)).key, 7)
    }

    #[test]
    fn both_directions_are_one_flow() {
        let (a, b) = (([10, 0, 0, 1], 1000), ([10, 0, 0, 2], 80));
        for protocol in [6, 17, 132, 50] {
            let there = hashed(&frame(protocol, a, b, 0));
            assert_eq!(there, hashed(&frame(protocol, b, a, 0)), "{protocol}");
            let other = ([10, 0, 0, 1], 1001);
            if protocol != 50 {
                assert_ne!(there, hashed(&frame(protocol, other, b, 0)), "{protocol}");
                // Ports exchanged without the addresses: another flow.
                let (c, d) = ((a.0, b.1), (b.0, a.1));
                assert_ne!(there, hashed(&frame(protocol, c, d, 0)), "{protocol}");
            }
        }
    }

    #[test]
    fn an_echo_and_its_reply_are_one_flow() {
        let echo = |from, to, kind: u16, id: u16| {
            let mut bytes = frame(1, (from, kind << 8), (to, 0), 0);
            bytes[38..40].copy_from_slice(&id.to_be_bytes());
            hashed(&bytes)
        };
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        assert_eq!(echo(a, b, 8, 5), echo(b, a, 0, 5));
        assert_ne!(echo(a, b, 8, 5), echo(a, b, 8, 6));
    }

    #[test]
    fn the_fragments_of_a_packet_stay_together() {
        let (a, b) = (([10, 0, 0, 1], 1000), ([10, 0, 0, 2], 80));
        let first = hashed(&frame(17, a, b, 0x2000));
        assert_eq!(first, hashed(&frame(17, (a.0, 0x5555), (b.0, 0x6666), 5)));
    }

    #[test]
    fn a_digest_depends_on_every_byte_and_the_length() {
        let bytes: Vec<u8> = (0..100).collect();
        let mut seen: Vec<u64> = (0..=100).map(|len| digest(&bytes[..len], 3)).collect();
        for at in 0..100 {
            let mut changed = bytes.clone();
            changed[at] ^= 0x80;
            seen.push(digest(&changed, 3));
        }
        seen.push(digest(&[&bytes[..], &[0]].concat(), 3));
        seen.push(digest(&bytes, 4));
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all);
    }
}
