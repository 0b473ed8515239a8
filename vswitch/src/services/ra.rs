//! Router advertisements (RFC 4861 §6.2, RFC 8106).
//!
//! In: time, router solicitations, a change of what is advertised. Out: frames for the network or for one port.
//! What must hold: between two advertisements to all of a network there are at least three seconds;
//! a solicitation is answered to its port alone and after at most half a second; when the switch stops
//! being a router, hosts are told at once.

use std::net::Ipv6Addr;

use policy::{Mac, PortId};
use smoltcp::{
    time::Duration,
    wire::{
        EthernetAddress, Icmpv6Packet, IpProtocol, NdiscOption, NdiscOptionRepr,
        NdiscPrefixInfoFlags, NdiscPrefixInformation,
    },
};

use super::{
    dice::Dice,
    dns, frame,
    nd::{ALL_NODES, HOP_LIMIT},
    plan::{Advertisements, Prefix, link_local},
};

const SECOND_NS: u64 = 1_000_000_000;
/// RFC 4861 §10: the first three come sooner.
const INITIAL: u8 = 3;
const INITIAL_INTERVAL_S: u32 = 16;
const MIN_BETWEEN_NS: u64 = 3 * SECOND_NS;
const MAX_DELAY_NS: u64 = SECOND_NS / 2;
/// Most solicitations that wait for their answer, of one network; others get the next
/// advertisement to all.
const MOST_WAITING: usize = 1024;

/// When a network's next advertisements are due.
#[derive(Clone, Debug)]
pub struct Schedule {
    next_ns: u64,
    initial: u8,
    waiting: Vec<Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    due_ns: u64,
    port: PortId,
    to: Option<(Ipv6Addr, Mac)>,
}

/// Whom an advertisement is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody in the network.
    Network,
    /// Who asked, behind one port: by its address, or all nodes there.
    Port(PortId, Option<(Ipv6Addr, Mac)>),
}

impl Schedule {
    /// The first advertisement is due at once.
    pub fn new(now_ns: u64) -> Self {
        Self {
            next_ns: now_ns,
            initial: INITIAL,
            waiting: Vec::new(),
        }
    }

    /// What was advertised has changed: hosts are told soon, three times.
    pub fn again(&mut self, now_ns: u64) {
        self.next_ns = self.next_ns.min(now_ns + MIN_BETWEEN_NS);
        self.initial = INITIAL;
    }

    /// A solicitation came from a port; an answer to it waits already, or will.
    pub fn solicited(
        &mut self,
        port: PortId,
        to: Option<(Ipv6Addr, Mac)>,
        now_ns: u64,
        dice: &mut Dice,
    ) {
        let waits = self.waiting.iter().any(|w| (w.port, w.to) == (port, to));
        if !waits && self.waiting.len() < MOST_WAITING {
            self.waiting.push(Waiting {
                due_ns: now_ns + dice.below(MAX_DELAY_NS),
                port,
                to,
            });
        }
    }

    /// When something is due.
    pub fn next_deadline_ns(&self) -> u64 {
        let waiting = self.waiting.iter().map(|waiting| waiting.due_ns);
        waiting.fold(self.next_ns, u64::min)
    }

    /// Who is to be told at `now_ns`.
    pub fn due(&mut self, interval_s: u32, now_ns: u64, dice: &mut Dice) -> Vec<Audience> {
        let mut due = Vec::new();
        if self.next_ns <= now_ns {
            due.push(Audience::Network);
            // RFC 4861 §6.2.4.
            let longest_s = if self.initial > 0 {
                interval_s.min(INITIAL_INTERVAL_S)
            } else {
                interval_s
            };
            self.initial = self.initial.saturating_sub(1);
            let longest_ns = u64::from(longest_s) * SECOND_NS;
            let shortest_ns = longest_ns / 3;
            let wait_ns = shortest_ns + dice.below(longest_ns - shortest_ns);
            self.next_ns = now_ns + wait_ns.max(MIN_BETWEEN_NS);
        }
        self.waiting.retain(|waiting| {
            if waiting.due_ns <= now_ns {
                due.push(Audience::Port(waiting.port, waiting.to));
            }
            waiting.due_ns > now_ns
        });
        due
    }
}

/// What is advertised when the switch is no router there any more: it is none from now on, and
/// addresses of its prefixes are for no new connections.
pub fn last(what: &Advertisements) -> Advertisements {
    let ended = |prefix: &Prefix| Prefix {
        preferred_s: 0,
        valid_s: 0,
        ..*prefix
    };
    Advertisements {
        lifetime_s: 0,
        dns_lifetime_s: 0,
        prefixes: what.prefixes.iter().map(ended).collect(),
        ..what.clone()
    }
}

/// `now`, with an end to prefixes that were advertised before.
pub fn succeeding(before: &Advertisements, now: &Advertisements) -> Advertisements {
    let mut both = now.clone();
    let gone = last(before).prefixes.into_iter();
    let is_gone = |old: &Prefix| !now.prefixes.iter().any(|new| new.net == old.net);
    both.prefixes.extend(gone.filter(is_gone));
    both
}

/// The frame of an advertisement from the gateway with this Ethernet address.
pub fn frame(mac: Mac, to: Option<(Ipv6Addr, Mac)>, what: &Advertisements) -> Vec<u8> {
    let src = link_local(mac);
    let (dst, dst_mac) = to.unwrap_or((ALL_NODES, frame::group_mac(ALL_NODES)));
    let body = body(mac, what);
    let header = (IpProtocol::Icmpv6, HOP_LIMIT);
    frame::ipv6((mac, dst_mac), (src, dst), header, body.len(), |bytes| {
        bytes.copy_from_slice(&body);
        Icmpv6Packet::new_unchecked(bytes).fill_checksum(&src, &dst);
    })
}

fn body(mac: Mac, what: &Advertisements) -> Vec<u8> {
    const TYPE: u8 = 134;
    const MANAGED: u8 = 0x80;
    const OTHER: u8 = 0x40;

    let managed = if what.managed { MANAGED } else { 0 };
    let other = if what.other { OTHER } else { 0 };
    let mut body = vec![TYPE, 0, 0, 0, what.hop_limit, managed | other];
    body.extend(what.lifetime_s.to_be_bytes());
    // Reachable and retransmission time: not said.
    body.extend([0; 8]);
    let address = NdiscOptionRepr::SourceLinkLayerAddr(EthernetAddress(mac.0).into());
    append(&mut body, &address);
    if let Some(mtu) = what.mtu {
        append(&mut body, &NdiscOptionRepr::Mtu(mtu));
    }
    for prefix in &what.prefixes {
        let mut flags = NdiscPrefixInfoFlags::empty();
        flags.set(NdiscPrefixInfoFlags::ON_LINK, prefix.on_link);
        flags.set(NdiscPrefixInfoFlags::ADDRCONF, prefix.autonomous);
        let information = NdiscPrefixInformation {
            prefix_len: prefix.net.prefix_len(),
            flags,
            valid_lifetime: Duration::from_secs(prefix.valid_s.into()),
            preferred_lifetime: Duration::from_secs(prefix.preferred_s.into()),
            prefix: prefix.net.network(),
        };
        append(&mut body, &NdiscOptionRepr::PrefixInformation(information));
    }
    append_dns(&mut body, what);
    body
}

fn append(body: &mut Vec<u8>, option: &NdiscOptionRepr<'_>) {
    let start = body.len();
    body.resize(start + option.buffer_len(), 0);
    option.emit(&mut NdiscOption::new_unchecked(&mut body[start..]));
}

/// RFC 8106 §5.1, §5.2: in units of eight bytes, filled up with zeros.
fn append_dns(body: &mut Vec<u8>, what: &Advertisements) {
    const SERVERS: u8 = 25;
    const SEARCH: u8 = 31;

    let servers: Vec<u8> = what.dns.iter().flat_map(Ipv6Addr::octets).collect();
    let names = dns::names(&what.search);
    for (kind, data) in [(SERVERS, servers), (SEARCH, names)] {
        let units = 1 + data.len().div_ceil(8);
        if data.is_empty() || units > usize::from(u8::MAX) {
            continue;
        }
        let end = body.len() + units * 8;
        body.extend([kind, units as u8, 0, 0]);
        body.extend(what.dns_lifetime_s.to_be_bytes());
        body.extend(data);
        body.resize(end, 0);
    }
}
