//! Frames that no stack would send: the switch goes on, and each is accounted for.

use super::{
    frames::{
        BROADCAST, EXPERIMENT, arp_reply, collect, drain, ethernet, ipv4, ipv6, number_of,
        numbered, tagged, udp,
    },
    lab::{Lab, Link, mac},
    netns::eventually,
};

/// A generator of numbers (xorshift): the same on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// A well-formed frame of each kind that the switch reads deeply.
fn samples() -> Vec<Vec<u8>> {
    let tcp: Vec<u8> = [
        &[0, 80, 1, 0][..],
        &[0; 8],
        &[0x50, 0x12, 255, 255, 0, 0, 0, 0],
    ]
    .concat();
    let (v4, v6) = ([10, 0, 0, 1], [0xfd; 16]);
    let datagram = udp(1000, 2000, &[7; 30]);
    let of = |ethertype, payload: &[u8]| ethernet(mac(2), mac(1), ethertype, payload);
    let neighbour = [
        &[135, 0, 0, 0, 0, 0, 0, 0][..],
        &[0xfe; 16],
        &[1, 1],
        &mac(1),
    ]
    .concat();
    // A hop-by-hop header in front of the datagram.
    let options = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &datagram].concat();
    let frames = vec![
        of([8, 0], &ipv4(v4, [10, 0, 0, 2], 17, &datagram)),
        of([8, 0], &ipv4(v4, [10, 0, 0, 2], 6, &tcp)),
        of([8, 6], &arp_reply(mac(1), v4, mac(2), [10, 0, 0, 2])),
        of([0x86, 0xdd], &ipv6(v6, v6, 17, &datagram)),
        of([0x86, 0xdd], &ipv6(v6, v6, 0, &options)),
        of([0x86, 0xdd], &ipv6(v6, v6, 58, &neighbour)),
        of(EXPERIMENT, &[0; 46]),
    ];
    let with_tags = frames.iter().map(|frame| tagged(frame.clone(), 100));
    let nested = frames
        .iter()
        .map(|frame| tagged(tagged(frame.clone(), 5), 100));
    let tagged: Vec<_> = with_tags.chain(nested).collect();
    frames.into_iter().chain(tagged).collect()
}

/// Every sample cut at every length that a raw socket sends, every sample with bytes that are
/// not its own, and noise.
fn frames() -> Vec<Vec<u8>> {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut frames = Vec::new();
    for sample in samples() {
        for len in 14..=sample.len() {
            frames.push(sample[..len].to_vec());
        }
        for _ in 0..40 {
            let mut frame = sample.clone();
            for _ in 0..=random.next() % 4 {
                let at = 12 + random.next() as usize % (frame.len() - 12);
                frame[at] = random.next() as u8;
            }
            frames.push(frame);
        }
    }
    for _ in 0..500 {
        let len = 14 + random.next() as usize % 1500;
        frames.push(random.bytes(len));
    }
    frames
}

/// `a` is at an access port, `b` and `c` at trunk ports. Behind `b` is a vNIC whose rules make the
/// switch read everything that it can.
const CONFIG: &str = r#"
[[network]]
name = "lan"
tenant = "lab"
[[network]]
name = "tagged"
tenant = "lab"
vlan = 100
[[port]]
name = "a"
driver = "af_xdp"
interface = "a"
misses_per_turn = 65536
network = "lan"
[[port]]
name = "b"
driver = "af_xdp"
interface = "b"
misses_per_turn = 65536
trunk = ["tagged"]
native = "lan"
[[port]]
name = "c"
driver = "af_xdp"
interface = "c"
misses_per_turn = 65536
trunk = ["tagged"]
native = "lan"
[[vnic]]
name = "b"
vm = "b"
port = "b"
mac = "02:00:00:00:00:02"
ipv4 = ["10.0.0.0/8"]
ipv6 = ["::/0"]
inbound = { acl = "all" }
outbound = { acl = "all" }
[[acl]]
name = "all"
rules = [
    { action = "allow", protocol = "tcp", tcp_flags = "syn/syn,ack", dst_ports = ["1-9"] },
    { action = "allow", protocol = "icmpv6", icmp_type = 135, icmp_code = 0 },
    { action = "deny", fragment = "later" },
    { action = "allow", protocol = "udp", src_ports = ["1000"] },
]
"#;

#[test]
fn truncated_and_random_frames_are_each_accounted_for() {
    let Some(mut lab) = Lab::new() else { return };
    for name in ["a", "b", "c"] {
        lab.member(name, Link::default());
    }
    lab.start(CONFIG);
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.socket(name));
    let frames = frames();
    let mut sent = 0;
    for chunk in frames.chunks(200) {
        for frame in chunk {
            for socket in [&a, &b, &c] {
                socket.send(frame);
            }
        }
        sent += chunk.len() as u64;
        eventually("every frame is counted", || {
            let received = |name: &&str| lab.port(name).counts.rx_frames;
            let all = ["a", "b", "c"].iter().all(|name| received(name) == sent);
            all.then_some(())
        });
        drain(&a);
        drain(&b);
        drain(&c);
    }
    let stats = lab.check_conservation();
    let reasons: Vec<_> = stats
        .ports
        .iter()
        .flat_map(|port| port.counts.drops.keys())
        .collect();
    for reason in [
        "malformed",
        "vlan_not_allowed",
        "vlan_nested",
        "group_source",
        "spoofed_mac",
    ] {
        assert!(
            reasons.iter().any(|name| *name == reason),
            "no {reason}: {reasons:?}"
        );
    }
    assert!(!lab.log().contains("panicked"));
    // From an address that has not been at every port.
    a.send(&numbered(BROADCAST, mac(0x77), 77));
    collect(&c, 1, |frame| (number_of(frame)? == 77).then_some(()));
}
