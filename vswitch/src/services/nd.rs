//! Neighbour discovery messages (RFC 4861), as far as services read and write them.
//!
//! Validity is that of RFC 4861 §6.1.1, §7.1.1 and §7.1.2: what breaks it is refused.

use std::net::Ipv6Addr;

use policy::Mac;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpProtocol, NdiscNeighborFlags,
        NdiscOption, NdiscOptionType, NdiscRepr,
    },
};

use super::{frame, refusal::Refusal};

/// Every node of the link (RFC 4291 §2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The hop limit of a message that crossed no router.
pub(super) const HOP_LIMIT: u8 = 255;

/// A message and its IPv6 source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// IPv6 source; `::` of a node that has no address yet.
    pub src: Ipv6Addr,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Who is a router here?
    RouterSolicit,
    /// Who has the address?
    NeighborSolicit {
        /// The address.
        target: Ipv6Addr,
        /// The asker's Ethernet address.
        mac: Option<Mac>,
    },
    /// The address has this Ethernet address.
    NeighborAdvert {
        /// The address.
        target: Ipv6Addr,
        /// Its Ethernet address.
        mac: Option<Mac>,
    },
}

impl Message {
    /// Whether it asks if anybody has an address that its sender would like (RFC 4862 §5.4).
    pub fn is_probe(&self) -> bool {
        self.src.is_unspecified()
    }
}

/// Reads what stands behind an IPv6 header; `None` when it is another `ICMPv6` message.
pub(super) fn read(
    payload: &[u8],
    src: Ipv6Addr,
    dst: Ipv6Addr,
    hop_limit: u8,
) -> Result<Option<Message>, Refusal> {
    let kind = payload.first().map(|kind| Icmpv6Message::from(*kind));
    let known = [
        Icmpv6Message::RouterSolicit,
        Icmpv6Message::NeighborSolicit,
        Icmpv6Message::NeighborAdvert,
    ];
    let Some(kind) = kind.filter(|kind| known.contains(kind)) else {
        return Ok(None);
    };
    if hop_limit != HOP_LIMIT {
        return Err(Refusal::NdHopLimit);
    }
    let packet = Icmpv6Packet::new_checked(payload).map_err(|_| Refusal::NdForm)?;
    if !packet.verify_checksum(&src, &dst) {
        return Err(Refusal::Checksum);
    }
    if packet.msg_code() != 0 || src.is_multicast() {
        return Err(Refusal::NdForm);
    }
    let options = link_addresses(packet.payload())?;
    let body = match kind {
        Icmpv6Message::RouterSolicit => {
            if src.is_unspecified() && options.source.is_some() {
                return Err(Refusal::NdUnspecified);
            }
            Body::RouterSolicit
        }
        Icmpv6Message::NeighborSolicit => {
            let target = packet.target_addr();
            if src.is_unspecified() && (options.source.is_some() || dst != solicited_node(target)) {
                return Err(Refusal::NdUnspecified);
            }
            Body::NeighborSolicit {
                target,
                mac: options.source,
            }
        }
        _ => Body::NeighborAdvert {
            target: packet.target_addr(),
            mac: options.target,
        },
    };
    match body {
        Body::NeighborSolicit { target, .. } | Body::NeighborAdvert { target, .. }
            if target.is_multicast() =>
        {
            Err(Refusal::NdForm)
        }
        _ => Ok(Some(Message { src, body })),
    }
}

#[derive(Default)]
struct LinkAddresses {
    source: Option<Mac>,
    target: Option<Mac>,
}

fn link_addresses(mut options: &[u8]) -> Result<LinkAddresses, Refusal> {
    let mut found = LinkAddresses::default();
    while !options.is_empty() {
        // Length first: the option's own check refuses kinds that are unknown to it.
        let bytes = options.get(1).map_or(0, |units| usize::from(*units) * 8);
        if bytes == 0 || bytes > options.len() {
            return Err(Refusal::NdForm);
        }
        let (option, rest) = options.split_at(bytes);
        options = rest;
        let Ok(option) = NdiscOption::new_checked(option) else {
            continue;
        };
        let slot = match option.option_type() {
            NdiscOptionType::SourceLinkLayerAddr => &mut found.source,
            NdiscOptionType::TargetLinkLayerAddr => &mut found.target,
            _ => continue,
        };
        *slot = option
            .link_layer_addr()
            .as_bytes()
            .first_chunk()
            .map(|mac| Mac(*mac));
    }
    Ok(found)
}

/// The group in which an address's owner listens (RFC 4291 §2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// A neighbour advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert {
    /// Whose address it is about.
    pub target: Ipv6Addr,
    /// Its Ethernet address.
    pub mac: Mac,
    /// It is a router (R).
    pub router: bool,
    /// It answers a question (S).
    pub solicited: bool,
    /// It replaces what was known before (O).
    pub overrides: bool,
}

/// The frame of a neighbour advertisement to `dst`; its source is its target.
pub fn advert((src_mac, dst_mac): (Mac, Mac), dst: Ipv6Addr, advert: &Advert) -> Vec<u8> {
    let mut flags = NdiscNeighborFlags::empty();
    flags.set(NdiscNeighborFlags::ROUTER, advert.router);
    flags.set(NdiscNeighborFlags::SOLICITED, advert.solicited);
    flags.set(NdiscNeighborFlags::OVERRIDE, advert.overrides);
    let message = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags,
        target_addr: advert.target,
        lladdr: Some(EthernetAddress(advert.mac.0).into()),
    });
    let src = advert.target;
    let bytes = message.buffer_len();
    let header = (IpProtocol::Icmpv6, HOP_LIMIT);
    frame::ipv6((src_mac, dst_mac), (src, dst), header, bytes, |to| {
        let sums = ChecksumCapabilities::default();
        message.emit(&src, &dst, &mut Icmpv6Packet::new_unchecked(to), &sums);
    })
}
