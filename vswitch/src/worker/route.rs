//! What the walk does with frames that routers send on, or that the switch takes.
//!
//! In: frames with a routed verdict. Out: plans with the prefix that the neighbour gets, several
//! where a packet is cut; drops whose sender is told; frames handed to the services. What must
//! hold: whether a packet may go on is asked of each packet, since neither TTL nor length stands in
//! a flow's key; a packet that may not is dropped in its sender's account.

use std::ops::Range;

use pmd::{Frame, REWRITTEN_HEAD_BYTES, TxPlan};
use policy::{
    Denial, DropReason, Field, PortId,
    conntrack::fragments::{FragmentKey, Grant},
    key::{protocol, shape},
    parse::Parsed,
    reject,
    snapshot::Gateway,
};

use super::walk::{Outcome, Slot, Walk, follows, port_counters, standing};
use crate::{
    adjacency::{Adjacency, AdjacencyId},
    flow_cache::{NO_NETWORK, Straight},
    handoff::Errand,
    outbox::OwnTag,
    rewrite::{self, RewrittenHead},
    router::{self, End, MOST_HOPS},
    verdict::{Denied, Destination, Purpose},
};

/// How many errors of routers a second the sender behind a port is told (RFC 1812 §4.3.2.8,
/// RFC 4443 §2.4 (f)).
const ERRORS_PER_SECOND: u32 = 1000;
/// In [`Field::TCP_FLAGS`].
const SYN: u64 = 2;

/// A routed frame that may go on, as it is.
#[derive(Clone, Copy, Debug)]
struct Fit {
    l3: usize,
    own: Option<OwnTag>,
}

impl Walk<'_> {
    /// Plans frames up to the first that no router sends on, or that rests on a connection if not
    /// `TRACKED` and on none if it is, or of which more is asked than new addresses and a lower
    /// TTL. Says which that is.
    #[inline(never)]
    pub(super) fn match_routed<const TRACKED: bool>(
        &mut self,
        range: Range<usize>,
        frames: &[Frame<'_>],
    ) -> usize {
        let (shared, now_s) = (self.shared, self.now.s);
        let standing = standing(self.bundle, shared);
        let mut index = range.start;
        for (slot, frame) in self.slots.frames[range.clone()].iter().zip(&frames[range]) {
            let (adjacencies, outbox) = (&self.slow_path.adjacencies, &mut *self.outbox);
            let room = self.cache.answer(
                slot.candidate,
                &slot.key,
                (standing, now_s),
                |straight| match straight {
                    Straight::Routed(id) if !TRACKED => Some(id),
                    Straight::RoutedTracked(id) if TRACKED => Some(id),
                    _ => None,
                },
                |id, token| {
                    let generations = standing.generations;
                    let adjacency = adjacencies.standing_for(id, generations, frame.len())?;
                    // First, so that nothing read behind it is read anew.
                    let room = outbox.room(adjacency.port)?;
                    let head = goes_on(slot, frame, adjacency)?;
                    let is_ipv6 = slot.key.has(shape::IPV6);
                    *room.head = rewrite::routed_plain(head, is_ipv6, adjacency);
                    let follows = !TRACKED || follows(shared, token, slot, frame, now_s);
                    follows.then_some(room)
                },
            );
            let Some(room) = room else { break };
            room.plan(index, frame);
            index += 1;
        }
        index
    }

    /// Sends a frame on to a router's neighbour, or tells its sender why not.
    #[inline(never)]
    pub(super) fn send_routed(
        &mut self,
        frames: &[Frame<'_>],
        index: usize,
        (to, id): (Destination, AdjacencyId),
        outcome: &mut Outcome,
    ) {
        if let Some(denied) = to.denied {
            outcome.forwarded += 1;
            if to.is_rejected() {
                self.reject(frames, index, to.port, denied);
            }
            return self.refuse(frames, index, to.port, denied);
        }
        let Some(adjacency) = self.slow_path.adjacencies.get(id).copied() else {
            return self.drop_routed(frames, index, DropReason::NeighborUnresolved);
        };
        let (slot, frame) = (&self.slots.frames[index], &frames[index]);
        let fit = Fit {
            l3: usize::from(slot.parsed(frame).l3_offset),
            own: slot.tag(),
        };
        let packet = frame.head().get(fit.l3..).unwrap_or_default();
        if rewrite::ttl(packet).is_none_or(|ttl| ttl <= adjacency.hops) {
            return self.drop_routed(frames, index, DropReason::TtlExpired);
        }
        let fits = packet_bytes(frame, fit.l3, &slot.parsed(frame)) <= adjacency.mtu.into();
        if !fits && !may_be_cut(frame, packet) {
            return self.drop_routed(frames, index, DropReason::PacketTooBig);
        }
        let over_limit = |meter| self.take_token(meter, to.port, DropReason::LimitIn);
        if let Some(denied) = to.meter.and_then(over_limit) {
            outcome.forwarded += 1;
            return self.refuse(frames, index, to.port, denied);
        }
        if fits {
            outcome.forwarded += 1;
            self.send_whole(frames, index, fit, &adjacency);
        } else {
            let sent = self.send_cut(frames, index, fit, &adjacency);
            outcome.forwarded += sent;
            outcome.replicas += sent - 1;
        }
    }

    fn refuse(&mut self, frames: &[Frame<'_>], index: usize, at: PortId, denied: Denied) {
        if let Some(counters) = port_counters(self.bundle, at, self.id) {
            counters.offered.add(1);
        }
        self.drop(frames, index, at, denied);
    }

    fn send_whole(&mut self, frames: &[Frame<'_>], index: usize, fit: Fit, to: &Adjacency) {
        let frame = &frames[index];
        let slot = &self.slots.frames[index];
        let clamps = to.clamp_mss && is_syn(slot);
        let parsed = slot.parsed(frame);
        self.outbox
            .plan_with_prefix(self.bundle, frames, (index, to.port), |prefix| {
                let made = rewrite::routed(prefix, frame.head(), fit.l3, fit.own, to)?;
                if !clamps || parsed.l4_offset == 0 {
                    return Some(made);
                }
                let packet = frame.head().get(fit.l3..)?;
                let l4 = usize::from(parsed.l4_offset).checked_sub(fit.l3)?;
                let is_partial = frame.partial_checksum.is_some();
                Some(rewrite::clamp_mss(
                    prefix,
                    made,
                    (packet, l4),
                    to.mtu,
                    is_partial,
                ))
            });
    }

    /// Sends an IPv4 packet in fragments (RFC 791 §3.2), and says in how many.
    #[cold]
    fn send_cut(&mut self, frames: &[Frame<'_>], index: usize, fit: Fit, to: &Adjacency) -> u64 {
        let frame = &frames[index];
        let packet = frame.head().get(fit.l3..).unwrap_or_default();
        let (header, end) = ipv4_lengths(packet);
        let checksum = frame.partial_checksum.map(|partial| {
            let (start, end) = (usize::from(partial.start), fit.l3 + end);
            let place = start + usize::from(partial.offset);
            (place, whole_checksum(frame, start, end))
        });
        let mut sent = 0;
        for fragment in rewrite::fragments(header, end.saturating_sub(header), to.mtu.into()) {
            let data = fit.l3 + header + fragment.start;
            let mut checksum_bytes = 0;
            let plan = self.outbox.prefix(self.bundle, frames, to.port, |prefix| {
                let made = rewrite::routed(prefix, frame.head(), fit.l3, fit.own, to)?;
                let ip = made.len - rewrite::IPV4_REWRITTEN;
                let rest = packet.get(rewrite::IPV4_REWRITTEN..header)?;
                prefix[made.len..][..rest.len()].copy_from_slice(rest);
                let mut len = made.len + rest.len();
                rewrite::fragment_header(prefix, ip, len, fragment);
                // The whole packet's checksum stands in its first fragment.
                if let Some((place, checksum)) = checksum
                    && place + 2 > data
                    && place + 2 <= data + fragment.len
                {
                    checksum_bytes = place + 2 - data;
                    let before = frame.head().get(data..place + 2)?;
                    prefix
                        .get_mut(len..)?
                        .get_mut(..checksum_bytes)?
                        .copy_from_slice(before);
                    len += checksum_bytes;
                    prefix[len - 2..len].copy_from_slice(&checksum.to_be_bytes());
                }
                Some(len)
            });
            let Some((number, len)) = plan else { continue };
            let plan = TxPlan {
                frame: index as u8,
                prefix: number,
                prefix_len_bytes: len as u8,
                skip_bytes: (data + checksum_bytes) as u16,
                len_bytes: (fragment.len - checksum_bytes) as u32,
                ..TxPlan::default()
            };
            self.outbox.push(self.bundle, frames, to.port, plan);
            sent += 1;
        }
        sent.max(1)
    }

    /// Drops what a router does not send on.
    #[cold]
    fn drop_routed(&mut self, frames: &[Frame<'_>], index: usize, reason: DropReason) {
        let ingress = self.slots.frames[index].ingress();
        let row = self.slow_path.ledger.slot(ingress, Denial::new(reason));
        let denied = Denied { reason, row };
        self.tell_of_route(frames, index, denied.reason);
        self.drop(frames, index, ingress, denied);
    }

    /// Tells the sender of a frame that a router drops, if it may be told.
    #[cold]
    pub(super) fn tell_of_route(&mut self, frames: &[Frame<'_>], index: usize, why: DropReason) {
        let parsed = self.slots.frames[index].parsed(&frames[index]);
        let Some(gateway) = self.gateway(&parsed) else {
            return;
        };
        let snapshot = &self.bundle.snapshot;
        let ttl = packet_of(&frames[index], &parsed).and_then(rewrite::ttl);
        let (error, at) = match why {
            DropReason::TtlExpired => {
                let most = ttl.unwrap_or(1).saturating_sub(1).min(MOST_HOPS);
                let course = router::follow(snapshot, gateway, &parsed.key, most);
                (reject::Error::TimeExceeded, course.at)
            }
            DropReason::PacketTooBig => {
                let course = router::plot(snapshot, gateway, &parsed.key);
                let End::Onward(leg) = course.end else {
                    return;
                };
                (reject::Error::TooBig(leg.mtu), gateway)
            }
            DropReason::NoRoute => {
                let course = router::plot(snapshot, gateway, &parsed.key);
                (reject::Error::NoRoute, course.at)
            }
            DropReason::RouteReject | DropReason::NeighborUnresolved => {
                let course = router::plot(snapshot, gateway, &parsed.key);
                (reject::Error::Unreachable, course.at)
            }
            _ => return,
        };
        self.tell(frames, index, &parsed, at, error);
    }

    fn tell(
        &mut self,
        frames: &[Frame<'_>],
        index: usize,
        parsed: &Parsed,
        at: Gateway,
        error: reject::Error,
    ) {
        let slot = &self.slots.frames[index];
        let ingress = slot.ingress();
        let Some(like) = policy::router::destination(&parsed.key) else {
            return;
        };
        let Some(source) = router::own_address(&self.bundle.snapshot, at, like) else {
            return;
        };
        let gate = self.bundle.port(ingress).map(|shared| &shared.errors);
        if !gate.is_some_and(|gate| gate.pass(ERRORS_PER_SECOND, self.now.ns)) {
            return;
        }
        let tci = slot.tag().map(|tag| tag.tci);
        let head = frames[index].head();
        self.outbox
            .originate(self.bundle, frames, index, ingress, |to| {
                reject::error(to, head, parsed, tci, (source, error))
            });
    }

    /// The gateway that a frame is for.
    fn gateway(&self, parsed: &Parsed) -> Option<Gateway> {
        let snapshot = &self.bundle.snapshot;
        let port = snapshot.port(parsed.key.ingress())?;
        let network = port.admit(&mut policy::reader::Exact(&parsed.key)).ok()?;
        snapshot.network(network)?.gateway(parsed.key.eth_dst())
    }

    /// Takes a frame that is for the switch itself.
    #[cold]
    pub(super) fn take(&mut self, frames: &[Frame<'_>], index: usize, purpose: Purpose) {
        let frame = &frames[index];
        let parsed = self.slots.frames[index].parsed(frame);
        let ingress = parsed.key.ingress();
        if purpose == Purpose::Router && !is_dhcp(&parsed) {
            return self.answer_for_router(frames, index, &parsed);
        }
        let reason = if purpose == Purpose::Neighbor {
            DropReason::NeighborWaiting
        } else {
            DropReason::ServiceBusy
        };
        let errand = self.errand(&parsed, purpose);
        let taken = errand
            .is_some_and(|(errand, network)| self.handoff.take(errand, (ingress, network), frame));
        if taken {
            if let Some(counters) = port_counters(self.bundle, ingress, self.id) {
                counters.taken.add(1);
            }
        } else {
            let row = self.slow_path.ledger.slot(ingress, Denial::new(reason));
            self.drop(frames, index, ingress, Denied { reason, row });
        }
    }

    fn errand(&self, parsed: &Parsed, purpose: Purpose) -> Option<(Errand, policy::NetworkId)> {
        let snapshot = &self.bundle.snapshot;
        let port = snapshot.port(parsed.key.ingress())?;
        let network = port.admit(&mut policy::reader::Exact(&parsed.key)).ok()?;
        if purpose != Purpose::Neighbor {
            return Some((Errand::Serve, network));
        }
        let gateway = snapshot.network(network)?.gateway(parsed.key.eth_dst())?;
        let End::Onward(leg) = router::plot(snapshot, gateway, &parsed.key).end else {
            return None;
        };
        let errand = Errand::Wait {
            network: leg.network,
            neighbor: leg.neighbor,
        };
        Some((errand, network))
    }

    /// Whether it is an echo request, or a piece of one whose first was answered. A request in
    /// fragments is answered piece by piece, without one waiting for another: all that changes behind
    /// the IP header is in the first. Of any other packet no piece is: answers would be answered, and
    /// two routers could send one to each other without end.
    fn is_of_echo_request(&self, frame: &Frame<'_>, parsed: &Parsed) -> bool {
        let fragments = self.shared.connections.fragments();
        // What routers have answered is in no network's zone.
        let fragment = || FragmentKey::read(NO_NETWORK.into(), frame.head(), parsed);
        if parsed.key.has(shape::LATER_FRAGMENT) {
            return fragment().is_some_and(|key| fragments.follow(&key, self.now.s).is_some());
        }
        let is_request = is_echo_request(parsed);
        if is_request
            && parsed.key.has(shape::FIRST_FRAGMENT)
            && let Some(key) = fragment()
        {
            fragments.remember(key, Grant { to: None }, self.now.s);
        }
        is_request
    }

    /// What comes for a router's own address: echo requests are answered, for all else there is
    /// nobody (RFC 1812 §4.3.3.6, RFC 4443 §4.2).
    fn answer_for_router(&mut self, frames: &[Frame<'_>], index: usize, parsed: &Parsed) {
        let ingress = parsed.key.ingress();
        if self.is_of_echo_request(&frames[index], parsed) {
            if let Some(counters) = port_counters(self.bundle, ingress, self.id) {
                counters.taken.add(1);
            }
            let (frame, own) = (&frames[index], self.slots.frames[index].tag());
            self.outbox
                .originate_with(self.bundle, frames, (index, ingress), |prefix| {
                    rewrite::echo_reply(prefix, frame.head(), parsed, own)
                });
            return;
        }
        if let Some(gateway) = self.gateway(parsed) {
            let course = router::plot(&self.bundle.snapshot, gateway, &parsed.key);
            if matches!(
                parsed.key.get(Field::PROTOCOL) as u8,
                protocol::UDP | protocol::TCP
            ) {
                self.tell(frames, index, parsed, course.at, reject::Error::NoPort);
            }
        }
        let reason = DropReason::NoService;
        let row = self.slow_path.ledger.slot(ingress, Denial::new(reason));
        self.drop(frames, index, ingress, Denied { reason, row });
    }
}

/// The first bytes of a cached routed frame, of a length that goes to `to` whole, if it goes on with
/// new addresses, a lower TTL, and nothing else.
#[inline(always)]
fn goes_on<'f>(slot: &Slot, frame: &Frame<'f>, to: &Adjacency) -> Option<&'f RewrittenHead> {
    if to.clamp_mss && is_syn(slot) {
        return None;
    }
    let head = frame.head().first_chunk::<REWRITTEN_HEAD_BYTES>()?;
    rewrite::outlives(head, slot.key.has(shape::IPV6), to).then_some(head)
}

#[inline]
fn is_syn(slot: &Slot) -> bool {
    slot.key.get(Field::TCP_FLAGS) & SYN != 0
}

fn packet_of<'f>(frame: &Frame<'f>, parsed: &Parsed) -> Option<&'f [u8]> {
    frame.head().get(usize::from(parsed.l3_offset)..)
}

/// The length of the longest packet that a frame is on a wire.
fn packet_bytes(frame: &Frame<'_>, l3: usize, parsed: &Parsed) -> usize {
    if frame.segment_bytes == 0 {
        let packet = frame.head().get(l3..).unwrap_or_default();
        return match packet {
            [first, ..] if first >> 4 == 4 => ipv4_lengths(packet).1,
            // Behind the packet may be padding (RFC 894).
            [_, _, _, _, high, low, ..] => 40 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => 0,
        };
    }
    let l4 = usize::from(parsed.l4_offset);
    let tcp = frame
        .head()
        .get(l4 + 12)
        .map_or(0, |byte| usize::from(byte >> 4) * 4);
    l4.saturating_sub(l3) + tcp + usize::from(frame.segment_bytes)
}

/// Of an IPv4 packet: the bytes of its header, and of all of it.
fn ipv4_lengths(packet: &[u8]) -> (usize, usize) {
    match packet {
        [first, _, high, low, ..] => (
            usize::from(first & 15) * 4,
            usize::from(u16::from_be_bytes([*high, *low])),
        ),
        _ => (0, 0),
    }
}

/// Whether a packet may leave in fragments: IPv4 without "don't fragment", and not a TCP
/// super-segment.
fn may_be_cut(frame: &Frame<'_>, packet: &[u8]) -> bool {
    const DONT_FRAGMENT: u8 = 0x40;
    let is_ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
    is_ipv4
        && frame.segment_bytes == 0
        && packet
            .get(6)
            .is_some_and(|flags| flags & DONT_FRAGMENT == 0)
}

/// The transport checksum that a frame leaves to be completed, of its bytes `start..end`.
fn whole_checksum(frame: &Frame<'_>, start: usize, end: usize) -> u16 {
    let mut total = 0;
    let mut chunk = [0; 512];
    let mut at = start;
    while at < end.min(frame.len()) {
        let len = chunk.len().min(end.min(frame.len()) - at);
        frame.copy_to(at, &mut chunk[..len]);
        total += u64::from(rewrite::sum(&chunk[..len]));
        at += len;
    }
    match !rewrite::fold(total) {
        // UDP has no other way to say it (RFC 768).
        0 => 0xffff,
        checksum => checksum,
    }
}

/// What servers send back to a relay.
fn is_dhcp(parsed: &Parsed) -> bool {
    let mut key = policy::reader::Exact(&parsed.key);
    policy::rogue::asks_dhcp(&mut key, false) || policy::rogue::asks_dhcp(&mut key, true)
}

fn is_echo_request(parsed: &Parsed) -> bool {
    const ECHO: u64 = 8;
    const ECHO_V6: u64 = 128;
    let key = &parsed.key;
    let kind = key.get(Field::L4_SRC) >> 8;
    key.has(shape::L4)
        && match key.get(Field::PROTOCOL) as u8 {
            protocol::ICMP => kind == ECHO,
            protocol::ICMPV6 => kind == ECHO_V6,
            _ => false,
        }
}
