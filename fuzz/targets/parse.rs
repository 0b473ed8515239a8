//! Frames: the parser takes any bytes, says of plain frames what it says of all, and names places
//! within the frame.

#![no_main]

use libfuzzer_sys::fuzz_target;
use policy::{
    PortId,
    parse::{general, parse, plain},
};

/// As much of a frame as is parsed at least, when it is longer.
const HEAD_BYTES: usize = 256;

fuzz_target!(|data: &[u8]| {
    // How the frame ends: before or behind the bytes at hand. And a tag beside it.
    let [end, tagged, t0, t1, frame @ ..] = data else {
        return;
    };
    let head = &frame[..frame.len().min(HEAD_BYTES)];
    let len = if head.len() < HEAD_BYTES {
        head.len().saturating_sub(usize::from(end % 16))
    } else {
        head.len() - 8 + usize::from(*end)
    };
    let vlan_tci = (tagged % 4 == 0).then(|| u16::from_be_bytes([*t0, *t1]));
    let ingress = PortId(7);
    let found = parse(head, len, vlan_tci, ingress);
    let mut by_general = parse(&[], 0, None, ingress);
    general(&mut by_general, head, len, vlan_tci, ingress);
    assert_eq!(found, by_general);
    if let Some(by_plain) = plain(head, len, vlan_tci, ingress) {
        assert_eq!(by_plain, by_general);
    }
    assert!(usize::from(found.l3_offset) <= len && usize::from(found.l4_offset) <= len);
    assert_eq!(found.key.0[0] & 0xffff, 7);
});
