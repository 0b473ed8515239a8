//! A tunnel's frame to the mirrored frame in it.
//!
//! What is never done: telling the ERSPAN version from the first bytes of a type I frame (a
//! destination address may look like a header), tagging a frame by what En says, forwarding what is
//! not Ethernet.

use std::ops::Range;

use policy::key::{ethertype, protocol};

use super::{
    Identity, Refusal, TunnelKind, be16,
    erspan::{FRAME_TYPE_ETHERNET, TYPE_II_LEN, TypeII, TypeIII},
    gre,
    outer::{self, ETHERNET_LEN, GRE, Outer},
    vxlan,
};

/// A mirrored frame, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Whose it is.
    pub identity: Identity,
    /// The tunnel's sequence number, if it has one.
    pub sequence: Option<u32>,
    /// What the tunnel says of the frame.
    pub header: Header,
    /// Where the mirrored frame stands.
    pub inner: Range<usize>,
    /// The mirrored frame is a tunnel's itself: a tenant's own, or one that was mirrored before.
    pub is_tunnel: bool,
}

/// What the tunnel says of a mirrored frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Nothing: ERSPAN type I, Ethernet in GRE, VXLAN.
    None,
    /// ERSPAN type II.
    TypeII(TypeII),
    /// ERSPAN type III.
    TypeIII(TypeIII),
}

impl Header {
    /// The frame was cut before it was sent. Formats without the bit say `false`.
    pub fn truncated(&self) -> bool {
        match self {
            Self::None => false,
            Self::TypeII(header) => header.common.truncated,
            Self::TypeIII(header) => header.common.truncated,
        }
    }

    /// The frame was leaving the port that is mirrored; `None` where the format does not say.
    pub fn egress(&self) -> Option<bool> {
        match self {
            Self::TypeIII(header) => Some(header.egress),
            _ => None,
        }
    }
}

/// A frame that is not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// The session that it names and its sequence number, when it was read so far.
    pub session: Option<(Identity, Option<u32>)>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            session: None,
        }
    }
}

/// Finds the mirrored frame in a whole frame; fragments are refused as
/// [`FragmentsFull`](Refusal::FragmentsFull), for they need a
/// [`Reassembly`](crate::decap::Reassembly).
///
/// # Errors
/// There is no mirrored frame in it, or none that may be delivered.
pub fn decode(frame: &[u8]) -> Result<Decoded, Refused> {
    let outer = outer::parse(frame)?;
    if outer.fragment.is_some() {
        return Err(Refusal::FragmentsFull.into());
    }
    let start = outer.payload.start;
    let mut decoded = decode_payload(&outer, &frame[outer.payload.clone()])?;
    decoded.inner = start + decoded.inner.start..start + decoded.inner.end;
    Ok(decoded)
}

/// Finds the mirrored frame in GRE or UDP and what it carries; `inner` counts from there.
///
/// # Errors
/// As [`decode`].
#[inline]
pub fn decode_payload(outer: &Outer, payload: &[u8]) -> Result<Decoded, Refused> {
    let mut decoded = if outer.protocol == GRE {
        in_gre(outer, payload)?
    } else {
        in_vxlan(outer, payload)?
    };
    decoded.0.judge(decoded.1, payload)?;
    Ok(decoded.0)
}

impl Decoded {
    #[inline]
    fn judge(&mut self, ethernet: bool, payload: &[u8]) -> Result<(), Refused> {
        let session = Some((self.identity, self.sequence));
        let refused = |refusal| Refused { refusal, session };
        if !ethernet {
            return Err(refused(Refusal::NotEthernet));
        }
        let inner = payload.get(self.inner.clone()).unwrap_or_default();
        if inner.len() < ETHERNET_LEN {
            return Err(refused(Refusal::InnerRunt));
        }
        match inner_tunnel(inner) {
            Some(InnerTunnel::Erspan) => return Err(refused(Refusal::Nested)),
            other => self.is_tunnel = other.is_some(),
        }
        Ok(())
    }
}

/// The mirrored frame in GRE, and whether it is Ethernet.
#[inline]
fn in_gre(outer: &Outer, payload: &[u8]) -> Result<(Decoded, bool), Refusal> {
    let gre = gre::parse(payload)?;
    let rest = &payload[gre.len..];
    let session = |common: &super::erspan::Common| Some(u32::from(common.session.get()));
    let (kind, id, header, header_len, ethernet) = match (gre.protocol, gre.sequence) {
        (gre::ERSPAN, None) => (TunnelKind::ErspanI, gre.key, Header::None, 0, true),
        (gre::ERSPAN, Some(_)) => {
            let header = TypeII::parse(rest)?;
            let id = session(&header.common);
            let header = Header::TypeII(header);
            (TunnelKind::ErspanII, id, header, TYPE_II_LEN, true)
        }
        (gre::ERSPAN_III, _) => {
            let header = TypeIII::parse(rest)?;
            let (id, len) = (session(&header.common), header.len_bytes());
            let ethernet = header.frame_type == FRAME_TYPE_ETHERNET;
            let header = Header::TypeIII(header);
            (TunnelKind::ErspanIII, id, header, len, ethernet)
        }
        (gre::ETHERNET, _) => (TunnelKind::Ethernet, gre.key, Header::None, 0, true),
        _ => return Err(Refusal::GreProtocol),
    };
    let decoded = Decoded {
        identity: Identity::of_bits(outer.source, outer.destination, kind, id),
        sequence: gre.sequence,
        header,
        inner: gre.len + header_len..payload.len(),
        is_tunnel: false,
    };
    Ok((decoded, ethernet))
}

/// The mirrored frame in VXLAN, and whether it is Ethernet.
fn in_vxlan(outer: &Outer, payload: &[u8]) -> Result<(Decoded, bool), Refusal> {
    let vxlan = vxlan::parse(payload)?;
    let (kind, id) = (TunnelKind::Vxlan, Some(vxlan.vni.get()));
    let decoded = Decoded {
        identity: Identity::of_bits(outer.source, outer.destination, kind, id),
        sequence: None,
        header: Header::None,
        inner: vxlan::UDP_LEN + vxlan::VXLAN_LEN..vxlan.end,
        is_tunnel: false,
    };
    Ok((decoded, vxlan.ethernet))
}

/// What a mirrored frame is when it is a tunnel's itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InnerTunnel {
    /// ERSPAN of any type, in a whole packet or a first fragment.
    Erspan,
    /// Something that only a look at the sessions can tell from a tenant's own tunnel: Ethernet in
    /// GRE, VXLAN, or a later fragment of GRE or UDP, of which nobody can tell what it carries.
    Other,
}

/// Whether a frame may carry a mirrored frame itself. `inner` is all of it, or its first bytes.
#[inline]
pub fn inner_tunnel(inner: &[u8]) -> Option<InnerTunnel> {
    const OFFSET: u16 = 0x1fff;

    let (kind, at) = outer::network(inner)?;
    let protocol = match kind {
        ethertype::IPV4 => *inner.get(at + 9)?,
        ethertype::IPV6 => *inner.get(at + 6)?,
        _ => return None,
    };
    let at = match (kind, protocol) {
        // Most frames end here.
        (_, protocol::TCP) => return None,
        (ethertype::IPV4, _) if be16(inner, at + 6)? & OFFSET != 0 => {
            return later_fragment(protocol);
        }
        (ethertype::IPV4, GRE | protocol::UDP) => at + usize::from(inner[at] & 0xf) * 4,
        (ethertype::IPV6, GRE | protocol::UDP) => at + outer::IPV6_LEN,
        (ethertype::IPV6, _) => {
            let transport = outer::behind_extensions(inner.get(at..)?)?;
            if transport.fragment.is_some_and(|f| f.offset > 0) {
                return later_fragment(transport.protocol);
            }
            return tunnel_at(inner, transport.protocol, at + transport.at);
        }
        _ => return None,
    };
    tunnel_at(inner, protocol, at)
}

fn later_fragment(protocol: u8) -> Option<InnerTunnel> {
    matches!(protocol, GRE | protocol::UDP).then_some(InnerTunnel::Other)
}

fn tunnel_at(inner: &[u8], protocol: u8, at: usize) -> Option<InnerTunnel> {
    let word = be16(inner, at + 2)?;
    match (protocol, word) {
        (GRE, gre::ERSPAN | gre::ERSPAN_III) => Some(InnerTunnel::Erspan),
        (GRE, gre::ETHERNET) | (protocol::UDP, outer::VXLAN_PORT) => Some(InnerTunnel::Other),
        _ => None,
    }
}
