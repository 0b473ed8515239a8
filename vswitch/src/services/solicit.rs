//! Questions of the switch's own: who has this address?
//!
//! In: who asks for what. Out: an ARP request (RFC 826) or a neighbour solicitation (RFC 4861 §4.3),
//! to everybody, or to the one that is asked whether it is still there (RFC 1122 §2.3.2.1,
//! RFC 4861 §7.3.3).

use std::net::IpAddr;

use policy::Mac;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol, NdiscRepr},
};

use super::{
    frame::{self, Arp},
    nd,
};

/// The frame by which `mac`, which has the address `own`, asks for `target`, of `last` alone if that
/// is given. `None` when the two addresses are of different families.
pub fn question(mac: Mac, own: IpAddr, target: IpAddr, last: Option<Mac>) -> Option<Vec<u8>> {
    match (own, target) {
        (IpAddr::V4(sender), IpAddr::V4(target)) => {
            let message = Arp {
                reply: false,
                sender_mac: mac,
                sender,
                target_mac: Mac::default(),
                target,
            };
            Some(frame::arp((mac, last.unwrap_or(Mac::BROADCAST)), &message))
        }
        (IpAddr::V6(src), IpAddr::V6(target)) => {
            let group = nd::solicited_node(target);
            let dst = if last.is_some() { target } else { group };
            let to = last.unwrap_or(frame::group_mac(group));
            let message = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
                target_addr: target,
                lladdr: Some(EthernetAddress(mac.0).into()),
            });
            let header = (IpProtocol::Icmpv6, nd::HOP_LIMIT);
            let bytes = message.buffer_len();
            Some(frame::ipv6((mac, to), (src, dst), header, bytes, |to| {
                let sums = ChecksumCapabilities::default();
                message.emit(&src, &dst, &mut Icmpv6Packet::new_unchecked(to), &sums);
            }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::frame::{Message, read};

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);

    #[test]
    fn a_question_reads_as_what_it_asks() {
        let (own, target) = (
            "10.0.0.1".parse().expect("an address"),
            "10.0.0.9".parse().expect("an address"),
        );
        let frame = question(OWN, own, target, None).expect("one family");
        let received = read(&frame).expect("sound").expect("ARP");
        assert_eq!(received.dst, Mac::BROADCAST);
        let Message::Arp(arp) = received.message else {
            panic!("no ARP")
        };
        assert_eq!((arp.sender.into(), arp.target.into()), (own, target));
        let last = Mac([2, 0, 0, 0, 0, 9]);
        let (own, target) = (
            "fd00::1".parse().expect("an address"),
            "fd00::9".parse().expect("an address"),
        );
        for last in [None, Some(last)] {
            let frame = question(OWN, own, target, last).expect("one family");
            let received = read(&frame).expect("sound").expect("ND");
            assert_eq!(received.dst.is_group(), last.is_none());
            let Message::Nd(message) = received.message else {
                panic!("no ND")
            };
            let IpAddr::V6(target) = target else {
                unreachable!()
            };
            let body = nd::Body::NeighborSolicit {
                target,
                mac: Some(OWN),
            };
            assert_eq!(message.body, body);
        }
        assert_eq!(
            question(OWN, own, "10.0.0.9".parse().expect("an address"), None),
            None
        );
    }
}
