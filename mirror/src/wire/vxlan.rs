//! VXLAN (RFC 7348) behind UDP.

use super::{Refusal, Vni, be16, be32};
use crate::wire::outer::VXLAN_PORT;

/// Length of a UDP header in bytes.
pub const UDP_LEN: usize = 8;
/// Length of a VXLAN header in bytes.
pub const VXLAN_LEN: usize = 8;
/// The VNI is valid.
pub const VALID: u8 = 0x08;
/// The header names what it carries (draft-ietf-nvo3-vxlan-gpe): reserved in RFC 7348, and set by
/// senders that have more than Ethernet frames to send.
const NEXT_PROTOCOL: u8 = 0x04;
/// That it is Ethernet.
const NEXT_ETHERNET: u8 = 3;

/// UDP and VXLAN, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The network.
    pub vni: Vni,
    /// What it carries is Ethernet.
    pub ethernet: bool,
    /// Where the datagram ends, from UDP's first byte.
    pub end: usize,
}

/// Reads UDP and VXLAN; `packet` begins with UDP.
///
/// # Errors
/// It goes to another port, is cut off, or has no VNI.
pub fn parse(packet: &[u8]) -> Result<Vxlan, Refusal> {
    let port = be16(packet, 2).ok_or(Refusal::VxlanMalformed)?;
    if port != VXLAN_PORT {
        return Err(Refusal::NotATunnel);
    }
    let end = usize::from(be16(packet, 4).ok_or(Refusal::VxlanMalformed)?);
    let header = packet
        .get(UDP_LEN..end)
        .filter(|header| header.len() >= VXLAN_LEN)
        .ok_or(Refusal::VxlanMalformed)?;
    let flags = header[0];
    let vni = be32(header, 4).and_then(|word| Vni::new(word >> 8));
    let vni = vni.filter(|_| flags & VALID != 0);
    Ok(Vxlan {
        vni: vni.ok_or(Refusal::VxlanMalformed)?,
        ethernet: flags & NEXT_PROTOCOL == 0 || header[3] == NEXT_ETHERNET,
        end,
    })
}
