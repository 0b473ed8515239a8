//! Guests with real stacks (smoltcp) behind vNIC ports: what they say to each other arrives,
//! through policy and through ports that misbehave.

use std::collections::VecDeque;

use pmd::fault::{self, Probability};
use policy::{
    DropReason,
    model::{Action, Model, Vnic},
    rule::Match,
};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{self, Checksum, DeviceCapabilities, Medium},
    socket::{icmp, tcp},
    time::{Duration, Instant},
    wire::{HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, TcpPacket},
};

use crate::bed::{Bed, Options, build::*, frames::*};

const MTU: usize = 1514;
const SERVICE: u16 = 80;

/// A guest's network card: frames to it and from it, at most a ring's worth.
struct Card {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
    /// TCP checksums are left for the other side to complete, as veth does.
    partial_checksums: bool,
}

struct Arrived(Vec<u8>);
struct Leaving<'a>(&'a mut Card);

impl phy::RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl phy::TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        if self.0.partial_checksums {
            leave_checksum_partial(&mut frame);
        }
        self.0.outgoing.push(frame);
        result
    }
}

impl phy::Device for Card {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        if self.outgoing.len() >= 64 {
            return None;
        }
        let frame = self.incoming.pop_front()?;
        Some((Arrived(frame), Leaving(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        (self.outgoing.len() < 64).then_some(Leaving(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU;
        if self.partial_checksums {
            // Checked on receive, not written on send.
            capabilities.checksum.tcp = Checksum::Rx;
        }
        capabilities
    }
}

/// Writes the pseudo header's sum, folded and not inverted, where a TCP checksum belongs.
fn leave_checksum_partial(frame: &mut [u8]) {
    let (addresses, protocol, segment) = match frame[12..14] {
        [0x08, 0x00] => (26..34, frame[23], 34),
        [0x86, 0xdd] => (22..54, frame[20], 54),
        _ => return,
    };
    if protocol != TCP {
        return;
    }
    let len = frame.len() - segment;
    let words = frame[addresses].chunks_exact(2);
    let mut sum: u32 = words
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    sum += u32::from(protocol) + len as u32;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    frame[segment + 16..segment + 18].copy_from_slice(&(sum as u16).to_be_bytes());
}

/// A guest on a port: number n has the addresses that end in n.
struct Guest {
    port: u16,
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
}

impl Guest {
    fn new(number: u8, port: u16, partial_checksums: bool) -> Self {
        let mut card = Card {
            incoming: VecDeque::new(),
            outgoing: Vec::new(),
            partial_checksums,
        };
        let address = smoltcp::wire::EthernetAddress(mac(number).0);
        let mut config = Config::new(HardwareAddress::Ethernet(address));
        config.random_seed = u64::from(number);
        let mut interface = Interface::new(config, &mut card, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            for ip in [v4(number), v6(number)] {
                let len = if matches!(ip, IpAddress::Ipv4(_)) {
                    24
                } else {
                    64
                };
                addresses.push(IpCidr::new(ip, len)).expect("room for two");
            }
        });
        Self {
            port,
            card,
            interface,
            sockets: SocketSet::new(Vec::new()),
        }
    }

    fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 1 << 16]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }
}

fn v4(number: u8) -> IpAddress {
    IpAddress::v4(10, 0, 0, number)
}

fn v6(number: u8) -> IpAddress {
    IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number))
}

/// Two guests, the switch between them, and a clock.
struct World {
    bed: Bed,
    guests: [Guest; 2],
    now: Instant,
}

impl World {
    fn new(model: &Model, options: Options, partial_checksums: bool) -> Self {
        let guests = [(1, 0), (2, 1)];
        Self {
            bed: Bed::with(model, options),
            guests: guests.map(|(number, port)| Guest::new(number, port, partial_checksums)),
            now: Instant::ZERO,
        }
    }

    /// A millisecond in which everybody does what there is to do.
    fn step(&mut self) {
        for guest in &mut self.guests {
            guest.card.incoming.extend(self.bed.received(guest.port));
            guest
                .interface
                .poll(self.now, &mut guest.card, &mut guest.sockets);
            for frame in guest.card.outgoing.drain(..) {
                self.bed.send(guest.port, &frame);
            }
            self.bed.run();
        }
        self.now += Duration::from_millis(1);
        self.bed.advance_ms(1);
    }

    /// Guest 0 connects to guest 1 and sends `len` bytes; returns what guest 1 read.
    fn transfer(&mut self, to: IpAddress, content: &[u8]) -> Vec<u8> {
        let [client, server] = &mut self.guests;
        let (sending, receiving) = (client.tcp(), server.tcp());
        let listener = server.sockets.get_mut::<tcp::Socket<'_>>(receiving);
        listener.listen(SERVICE).expect("a fresh socket");
        let connection = client.sockets.get_mut::<tcp::Socket<'_>>(sending);
        let context = client.interface.context();
        connection
            .connect(context, (to, SERVICE), 49152)
            .expect("a fresh socket");
        let (mut sent, mut read) = (0, Vec::new());
        // Ten minutes of the guests' time, in a worst case of retransmissions.
        for _ in 0..600_000 {
            self.step();
            let [client, server] = &mut self.guests;
            let connection = client.sockets.get_mut::<tcp::Socket<'_>>(sending);
            if connection.can_send() && sent < content.len() {
                sent += connection
                    .send_slice(&content[sent..])
                    .expect("it can send");
            } else if connection.may_send() && sent == content.len() {
                connection.close();
            }
            let connection = server.sockets.get_mut::<tcp::Socket<'_>>(receiving);
            while connection.can_recv() {
                let took = connection.recv(|bytes| {
                    read.extend_from_slice(bytes);
                    (bytes.len(), ())
                });
                took.expect("it can receive");
            }
            if read.len() == content.len() {
                break;
            }
        }
        read
    }
}

/// Guest 1 may open connections to the service and answer nothing else; guest 2 may be asked for
/// the service and say nothing unasked.
fn a_stateful_model() -> Model {
    let service = || Match {
        protocol: Some(TCP),
        dst_ports: vec![SERVICE..=SERVICE],
        tcp_flags: Some(policy::rule::FlagsMatch { set: 2, mask: 0x12 }),
        ..Match::default()
    };
    let vnic_of = |number: u8| -> Vnic {
        vnic(mac(number))
            .ipv4(&format!("10.0.0.{number}/32"))
            .ipv6(&format!("2001:db8::{number}/128"))
    };
    let client = vnic_of(1)
        .inbound(Action::Deny, [])
        .outbound(Action::Deny, [rule(1, Action::AllowStateful, service())]);
    let server = vnic_of(2)
        .inbound(Action::Deny, [rule(2, Action::AllowStateful, service())])
        .outbound(Action::Deny, []);
    model(
        [network(0)],
        [access(0, 0).vnic(client), access(1, 0).vnic(server)],
    )
}

/// Only the service and pings are allowed in; guest 1 answers from the service's port.
fn a_model() -> Model {
    let tcp = || Match {
        protocol: Some(TCP),
        ..Match::default()
    };
    let protocol = |number| Match {
        protocol: Some(number),
        ..Match::default()
    };
    let vnic_of = |number: u8| -> Vnic {
        vnic(mac(number))
            .ipv4(&format!("10.0.0.{number}/32"))
            .ipv6(&format!("2001:db8::{number}/128"))
    };
    let pings = |first| {
        [
            allow(first, protocol(ICMP)),
            allow(first + 1, protocol(ICMPV6)),
        ]
    };
    let to_service = allow(
        1,
        Match {
            dst_ports: vec![SERVICE..=SERVICE],
            ..tcp()
        },
    );
    let from_service = allow(
        2,
        Match {
            src_ports: vec![SERVICE..=SERVICE],
            ..tcp()
        },
    );
    let client = vnic_of(1).inbound(Action::Deny, [from_service].into_iter().chain(pings(10)));
    let server = vnic_of(2).inbound(Action::Deny, [to_service].into_iter().chain(pings(20)));
    model(
        [network(0)],
        [access(0, 0).vnic(client), access(1, 0).vnic(server)],
    )
}

fn options(unmarked_partial_checksums: bool) -> Options {
    let mut options = Options::default();
    options.port.max_frame_bytes = 1536;
    options.port.unmarked_partial_checksums = unmarked_partial_checksums;
    options
}

/// Bytes that repeat late.
fn content(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn tcp_passes_by_ipv4_and_ipv6_and_what_is_not_allowed_does_not() {
    for to in [v4(2), v6(2)] {
        let mut world = World::new(&a_model(), options(false), false);
        let sent = content(2 << 20);
        assert!(
            world.transfer(to, &sent) == sent,
            "the content arrives whole"
        );
        let hits = world.bed.counts(0).cache_hits;
        let frames = world.bed.counts(0).rx_frames;
        assert!(hits * 10 > frames * 9, "{hits} of {frames} from the cache");
        assert_eq!(world.bed.drops(), []);
        let listener = world.guests[1].tcp();
        let server = &mut world.guests[1];
        let socket = server.sockets.get_mut::<tcp::Socket<'_>>(listener);
        socket.listen(SERVICE + 1).expect("a fresh socket");
        let connecting = world.guests[0].tcp();
        let client = &mut world.guests[0];
        let socket = client.sockets.get_mut::<tcp::Socket<'_>>(connecting);
        let context = client.interface.context();
        socket
            .connect(context, (to, SERVICE + 1), 50_000)
            .expect("a fresh socket");
        for _ in 0..3000 {
            world.step();
        }
        let socket = world.guests[0].sockets.get::<tcp::Socket<'_>>(connecting);
        assert_eq!(socket.state(), tcp::State::SynSent);
        assert!(world.bed.counts(1).dropped(DropReason::AclIn) > 1);
    }
}

#[test]
fn a_stateful_policy_lets_a_conversation_pass_and_remembers_its_end() {
    for to in [v4(2), v6(2)] {
        let mut world = World::new(&a_stateful_model(), options(false), false);
        let sent = content(1 << 20);
        assert!(
            world.transfer(to, &sent) == sent,
            "the content arrives whole"
        );
        let counts = world.bed.counts(0);
        assert!(
            counts.cache_hits * 10 > counts.rx_frames * 9,
            "{} of {} from the cache",
            counts.cache_hits,
            counts.rx_frames
        );
        // Neighbours that nobody asked for are all that was dropped.
        let drops = world.bed.drops();
        assert!(
            drops
                .iter()
                .all(|(_, reason, _)| *reason != DropReason::ConnectionInvalid),
            "{drops:?}"
        );
        for _ in 0..1000 {
            world.step();
        }
        assert_eq!(world.bed.shared.connections.len(), 1);
    }
}

#[test]
fn a_ping_is_answered() {
    let mut world = World::new(&a_model(), options(false), false);
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 512]);
    let client = &mut world.guests[0];
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket
        .bind(icmp::Endpoint::Ident(7))
        .expect("a fresh socket");
    let echo = Icmpv4Repr::EchoRequest {
        ident: 7,
        seq_no: 1,
        data: b"are you there?",
    };
    let payload = socket.send(echo.buffer_len(), v4(2)).expect("room");
    let mut packet = Icmpv4Packet::new_unchecked(payload);
    echo.emit(&mut packet, &phy::ChecksumCapabilities::default());
    let handle = client.sockets.add(socket);
    for _ in 0..20 {
        world.step();
    }
    let socket = world.guests[0].sockets.get_mut::<icmp::Socket<'_>>(handle);
    let (reply, from) = socket.recv().expect("an answer");
    assert_eq!(from, v4(2));
    assert_eq!(Icmpv4Packet::new_unchecked(reply).data(), b"are you there?");
}

#[test]
fn checksums_that_a_guest_left_to_its_hardware_are_completed() {
    for to in [v4(2), v6(2)] {
        let mut world = World::new(&a_model(), options(true), true);
        let sent = content(1 << 20);
        assert!(
            world.transfer(to, &sent) == sent,
            "the content arrives whole"
        );
    }
}

#[test]
fn a_checksum_is_completed_in_every_copy_and_behind_every_tag() {
    let networks = [vlan_network(0, 10)];
    let ports = [
        access(0, 0),
        access(1, 0),
        trunk(2, &[0], None),
        trunk(3, &[0], None),
    ];
    let mut bed = Bed::with(&model(networks, ports), options(true));
    let segment = tcp(1000, 80, 0x18);
    for payload in 0..40 {
        let segment = [segment.as_slice(), &vec![0xa5; payload]].concat();
        let packet = ipv4([10, 0, 0, 1], [10, 0, 0, 2], TCP, &segment);
        let mut frame = ether(BROADCAST, mac(1), IPV4, &packet);
        leave_checksum_partial(&mut frame);
        // Padding behind the packet is none of it.
        frame.resize(frame.len().max(60), 0);
        for (port, sent) in [(0, frame.clone()), (2, tag(&frame, 0x200a))] {
            let copies = bed.pass(port, &sent);
            assert_eq!(copies.len(), 3);
            for (port, copy) in copies {
                let tag = if port >= 2 { 4 } else { 0 };
                let segment = &copy[34 + tag..54 + tag + payload];
                let packet = TcpPacket::new_unchecked(segment);
                let (src, dst) = (v4(1), v4(2));
                assert!(
                    packet.verify_checksum(&src, &dst),
                    "{payload} bytes at {port}"
                );
            }
        }
    }
}

#[test]
fn partial_checksums_are_not_completed_where_the_driver_does_not_ask_for_it() {
    // The receiver refuses them, which shows that the test above tests something.
    let mut world = World::new(&a_model(), options(false), true);
    let client = &mut world.guests[0];
    let connecting = client.tcp();
    let socket = client.sockets.get_mut::<tcp::Socket<'_>>(connecting);
    let context = client.interface.context();
    socket
        .connect(context, (v4(2), SERVICE), 50_000)
        .expect("a fresh socket");
    let server = &mut world.guests[1];
    let listening = server.tcp();
    let socket = server.sockets.get_mut::<tcp::Socket<'_>>(listening);
    socket.listen(SERVICE).expect("a fresh socket");
    for _ in 0..3000 {
        world.step();
    }
    let socket = world.guests[1].sockets.get::<tcp::Socket<'_>>(listening);
    assert_eq!(socket.state(), tcp::State::Listen);
}

#[test]
fn tcp_survives_ports_that_misbehave() {
    let probability = |value| Probability::new(value).expect("from 0 to 1");
    let faults = [
        fault::Config {
            drop: probability(0.05),
            ..fault::Config::default()
        },
        fault::Config {
            corrupt: probability(0.05),
            ..fault::Config::default()
        },
        fault::Config {
            duplicate: probability(0.1),
            delay: probability(0.1),
            delay_receives: 7,
            ..fault::Config::default()
        },
        fault::Config {
            drop: probability(0.02),
            corrupt: probability(0.02),
            duplicate: probability(0.02),
            delay: probability(0.02),
            delay_receives: 3,
            full: probability(0.02),
            ..fault::Config::default()
        },
    ];
    for (seed, (config, model)) in faults
        .into_iter()
        .flat_map(|config| [(config, a_model()), (config, a_stateful_model())])
        .enumerate()
    {
        let on_port = |port: u16| {
            let seed = 2 * seed as u64 + u64::from(port);
            (port, fault::Config { seed, ..config })
        };
        let mut options = options(false);
        options.faults = vec![on_port(0), on_port(1)];
        let mut world = World::new(&model, options, false);
        let sent = content(128 << 10);
        let to = if seed % 4 < 2 { v4(2) } else { v6(2) };
        assert!(world.transfer(to, &sent) == sent, "with {config:?}");
    }
}
