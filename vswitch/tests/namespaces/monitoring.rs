//! Monitoring on one host: a switch's mirror sessions into its own decapsulator, and on to sniffers in
//! namespaces of their own.
//!
//! ```text
//!   a1, a2 ─ blue, acme's ──┐ copies                                    ┌─► ids-a, ids-c and files of acme
//!                           ├───────► tun ══ veth ══ tunnel0 ─ decapsulator
//!   b1, b2 ─ green, beta's ─┘    network transport                      └─► ids-b of beta
//! ```
//!
//! Both tenants have the same addresses, and their sessions the same number. What must hold: each
//! sniffer sees its tenant's frames and nobody else's, in order and each once; and every copy that a
//! session counts is received, or missed by its number.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use pmd::pcap::Reader;
use vswitch::{api::mirror_types::MirrorSession, decap::view};

use super::{
    decap_laws,
    frames::{collect, drain, ethernet, ipv4, numbered_udp, udp, udp_number_of},
    lab::{Lab, Link, SetAtEnd, Task, mac, mac_text, ok, patiently, port},
    netns::{PacketSocket, eventually},
};

/// Copies of the longest frames fit.
const TUNNEL_MTU: u32 = 1600;

const NETWORKS: &str = r#"
[[network]]
name = "blue"
tenant = "acme"
neighbors = { proxy = false, announcements = 0 }
[[network]]
name = "green"
tenant = "beta"
neighbors = { proxy = false, announcements = 0 }
[[network]]
name = "transport"
tenant = "provider"
[[router]]
name = "transport"
tenant = "provider"
[[router.interface]]
network = "transport"
addresses = ["192.0.2.1/24"]
mtu = 1600
"#;

/// Tenants, and the address that copies of their targets come from.
const TENANTS: [(&str, &str); 2] = [("acme", "192.0.2.1"), ("beta", "192.0.2.2")];

/// The switch's ports and targets, and its decapsulator without sessions.
fn base() -> String {
    let mut config = NETWORKS.to_owned();
    for (name, network) in [("a1", "blue"), ("a2", "blue"), ("tun", "transport")] {
        config += &port(name, &format!("network = \"{network}\""));
    }
    for (tenant, local) in TENANTS {
        let target = format!(
            "[[mirror_target]]\nname = \"{tenant}-ids\"\nkind = \"erspan-3\"\nlocal = \"{local}\"\n\
             remote = \"192.0.2.99\"\nrouter = \"transport\"\nmtu = {TUNNEL_MTU}\ntenants = [\"{tenant}\"]\n"
        );
        config.push_str(&target);
    }
    config += "[[mirror_target]]\nname = \"any\"\nkind = \"gre\"\nlocal = \"192.0.2.1\"\n\
               remote = \"192.0.2.99\"\nrouter = \"transport\"\n";
    config
        + "[decapsulator]\nport = { driver = \"af_xdp\", interface = \"tunnel0\" }\n\
           addresses = [\"192.0.2.99\"]\nmac = \"02:00:00:00:99:99\"\n"
}

/// A session of the decapsulator: number 1 of the tenant's target.
fn session(tenant: usize, sniffers: &[&str]) -> String {
    let (tenant, local) = TENANTS[tenant];
    format!(
        "[[decapsulator.session]]\nname = \"{tenant}\"\ntenant = \"{tenant}\"\nsource = \"{local}\"\n\
         format = \"erspan_iii\"\nid = 1\nsniffers = {sniffers:?}\n"
    )
}

/// A sniffer with the fields `to`.
fn sniffer(name: &str, tenant: usize, mac: &str, to: &str) -> String {
    let (tenant, _) = TENANTS[tenant];
    format!("[[sniffer]]\nname = \"{name}\"\ntenant = \"{tenant}\"\nmac = \"{mac}\"\n{to}\n")
}

struct Site {
    lab: Lab,
    /// What the configuration has beside [`base`] and acme's session: beta, and `[[sniffer]]`.
    rest: String,
    tenants: &'static [(&'static str, &'static str)],
}

impl Site {
    /// acme, the tunnel and the running switch, without beta. acme's sniffers have these ports; its
    /// frames go to the first.
    fn alone(sniffers: &[&str]) -> Option<Self> {
        Self::new(sniffers, &sniffers[..1], String::new(), &TENANTS[..1])
    }

    /// Both tenants; acme's frames go to `ids-a` and to files, beta's to `ids-b`.
    fn both() -> Option<Self> {
        let mut rest = session(1, &["ids-b"]);
        for name in ["b1", "b2"] {
            rest += &port(name, "network = \"green\"");
        }
        Self::new(&["ids-a", "ids-b"], &["ids-a", "disk-a"], rest, &TENANTS)
    }

    fn new(
        sniffers: &[&str],
        acme: &[&str],
        mut rest: String,
        tenants: &'static [(&'static str, &'static str)],
    ) -> Option<Self> {
        let mut lab = Lab::new()?;
        let members = ["a1", "a2", "b1", "b2"].iter().take(2 * tenants.len());
        for name in members.chain(sniffers) {
            lab.member(name, Link::default());
            // So that what a capture at the sender has is what its interface sends.
            lab.sh(name, "ethtool -K eth0 tx off >/dev/null");
        }
        if tenants.len() > 1 {
            for (twin, of) in [("b1", "a1"), ("b2", "a2")] {
                let address = mac_text(lab.number(of));
                lab.sh(twin, &format!("ip link set eth0 address {address}"));
            }
        }
        lab.host.ip(&format!(
            "link add tun mtu {TUNNEL_MTU} type veth \
             peer name tunnel0 mtu {TUNNEL_MTU} address 02:00:00:00:99:99"
        ));
        lab.host.ip("link set tun up");
        lab.host.ip("link set tunnel0 up");
        for name in sniffers {
            let to = format!(
                "port = {{ driver = \"af_xdp\", interface = \"{name}\" }}\nqueue_frames = 4096"
            );
            let tenant = usize::from(*name == "ids-b");
            rest += &sniffer(name, tenant, &mac_text(lab.number(name)), &to);
        }
        let files = format!("files = {{ folder = \"{}\" }}", lab.path("files").display());
        rest += &sniffer("disk-a", 0, "02:00:00:00:aa:aa", &files);
        let mut site = Self { lab, rest, tenants };
        let config = site.config(acme);
        site.lab.start(&config);
        for ((tenant, _), source) in tenants.iter().zip(["a1", "b1"]) {
            site.lab.cli(&format!(
                "mirror create look --owner {tenant} --port {source} --to {tenant}-ids"
            ));
            eventually("the decapsulator is found", || {
                (site.session(tenant).state == "active").then_some(())
            });
            assert_eq!(site.session(tenant).number, 1);
        }
        Some(site)
    }

    /// The configuration in which acme's frames go to `acme`.
    fn config(&self, acme: &[&str]) -> String {
        base() + &session(0, acme) + &self.rest
    }

    fn session(&self, tenant: &str) -> MirrorSession {
        self.lab.get(&format!("/v1/mirrors/{tenant}/look"))
    }

    fn socket(&self, member: &str) -> PacketSocket {
        self.lab.socket(member)
    }

    fn received(&self, tenant: &str) -> view::Session {
        let sessions: Vec<view::Session> = self.lab.get("/v1/decap/sessions");
        let session = sessions.into_iter().find(|session| session.name == tenant);
        session.expect("a session")
    }

    fn sniffer(&self, name: &str) -> view::Sniffer {
        let sniffers: Vec<view::Sniffer> = self.lab.get("/v1/decap/sniffers");
        let sniffer = sniffers.into_iter().find(|sniffer| sniffer.name == name);
        sniffer.expect("a sniffer")
    }

    /// Waits until every copy of each session has come or is known to be missing, and holds the
    /// counts of switch and decapsulator to their laws. The last copy must have come.
    fn settle(&self) {
        held("copies are accounted for", || {
            self.tenants.iter().try_for_each(|(tenant, _)| {
                let (copies, got) = (self.session(tenant), self.received(tenant));
                let skipped: u64 = copies.skipped.values().sum();
                let sequence = &got.sequence;
                let told = [
                    sequence.reordered,
                    sequence.duplicates,
                    sequence.resets,
                    sequence.constant,
                ];
                // A copy that found no room in the tunnel's port has used its number up.
                let no_room = copies.skipped.get("no_room").copied().unwrap_or(0);
                let counted = copies.wanted == copies.copied + skipped
                    && copies.copied + no_room == got.received + sequence.missing;
                let known = counted && told == [0; 4];
                known
                    .then_some(())
                    .ok_or_else(|| format!("{copies:?}\n{got:?}"))
            })
        });
        held("frames at the decapsulator are accounted for", || {
            decap_laws::check(&view::Everything {
                totals: self.lab.get("/v1/decap"),
                sessions: self.lab.get("/v1/decap/sessions"),
                sniffers: self.lab.get("/v1/decap/sniffers"),
            })
        });
        self.lab.check_conservation();
    }
}

/// Waits until a law holds.
fn held(what: &str, law: impl Fn() -> Result<(), String>) {
    let mut why = String::new();
    let holds = patiently(|| law().map_err(|broken| why = broken).ok());
    assert!(holds.is_some(), "it does not hold that {what}: {why}");
}

/// tcpdump at a member's interface.
struct Capture {
    path: PathBuf,
    _tcpdump: Task,
}

impl Capture {
    fn start(lab: &Lab, member: &str) -> Self {
        let path = lab.path(&format!("{member}.pcap"));
        let words = "tcpdump -n -U -B 16384 --immediate-mode -Q in -i eth0 -w";
        let mut command = lab.at(member, words);
        command.arg(&path).stderr(Stdio::null());
        let tcpdump = Task::spawn(&mut command);
        eventually("tcpdump listens", || {
            (fs::metadata(&path).ok()?.len() >= 24).then_some(())
        });
        Self {
            path,
            _tcpdump: tcpdump,
        }
    }

    fn frames(&self) -> Vec<Vec<u8>> {
        captured(&self.path)
    }

    /// Waits until so many frames are there.
    fn await_frames(&self, count: usize) -> Vec<Vec<u8>> {
        eventually(
            &format!("{count} frames in {}", self.path.display()),
            || {
                let frames = self.frames();
                (frames.len() >= count).then_some(frames)
            },
        )
    }
}

fn captured(path: &Path) -> Vec<Vec<u8>> {
    let records = Reader::open(path).expect("a capture").map_while(Result::ok);
    records.map(|record| record.bytes).collect()
}

/// A frame as a sniffer with this address receives it.
fn as_seen(frame: &[u8], mac: [u8; 6]) -> Vec<u8> {
    [&mac, &frame[6..]].concat()
}

/// Sixteen frames from one port to another of a tenant, received there.
fn row(from: &PacketSocket, to: &PacketSocket, (src, dst): (u8, u8), first: u32) -> Vec<Vec<u8>> {
    let frames: Vec<Vec<u8>> = (first..first + 16)
        .map(|number| numbered_udp(src, dst, (u16::from(src), 80), number))
        .collect();
    for frame in &frames {
        from.send(frame);
    }
    assert_eq!(collect(to, 16, |frame| Some(frame.to_vec())), frames);
    frames
}

#[test]
fn tcpdump_at_each_sniffer_sees_its_tenants_frames_in_order_and_in_both_directions() {
    const ROUNDS: u32 = 20;
    let Some(site) = Site::both() else {
        return;
    };
    let lab = &site.lab;
    let at_a = Capture::start(lab, "ids-a");
    let at_b = Capture::start(lab, "ids-b");
    let [a1, a2, b1, b2] = ["a1", "a2", "b1", "b2"].map(|name| site.socket(name));
    let (mut acme, mut beta) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        acme.extend(row(&a1, &a2, (1, 2), round * 32));
        acme.extend(row(&a2, &a1, (2, 1), round * 32 + 16));
        if round % 2 == 0 {
            // The same frames, half as often, and the other way round.
            beta.extend(row(&b2, &b1, (2, 1), round * 32 + 16));
            beta.extend(row(&b1, &b2, (1, 2), round * 32));
        }
    }
    for (capture, sniffer, sent) in [(&at_a, "ids-a", &acme), (&at_b, "ids-b", &beta)] {
        let to = mac(lab.number(sniffer));
        let expected: Vec<Vec<u8>> = sent.iter().map(|frame| as_seen(frame, to)).collect();
        assert!(capture.await_frames(sent.len()) == expected, "{sniffer}");
    }
    site.settle();
    for (tenant, sent) in [("acme", &acme), ("beta", &beta)] {
        let (copies, got) = (site.session(tenant), site.received(tenant));
        assert_eq!(
            (copies.wanted, copies.copied),
            (sent.len() as u64, sent.len() as u64)
        );
        assert_eq!(
            (got.received, got.sequence.in_order),
            (copies.copied, copies.copied)
        );
    }
    // Nothing came later.
    assert_eq!(at_a.frames().len(), acme.len());
    assert_eq!(at_b.frames().len(), beta.len());

    // The files say which way each frame went at the mirrored port.
    let folder = fs::read_dir(lab.path("files")).expect("files");
    let file = folder.map(|entry| entry.expect("a file").path()).next();
    let file = file.expect("a file");
    let seen = captured(&file);
    let expected: Vec<Vec<u8>> = acme
        .iter()
        .map(|frame| as_seen(frame, [2, 0, 0, 0, 0xaa, 0xaa]))
        .collect();
    assert!(seen == expected, "{} frames", seen.len());
    let mut tshark = std::process::Command::new("tshark");
    tshark.args([
        "-n",
        "-T",
        "fields",
        "-e",
        "frame.packet_flags_direction",
        "-e",
        "udp.srcport",
        "-r",
    ]);
    let text = String::from_utf8(ok(tshark.arg(&file)).stdout).expect("text");
    let mut ways: BTreeMap<&str, u32> = BTreeMap::new();
    for line in text.lines() {
        *ways.entry(line).or_default() += 1;
    }
    let each = ROUNDS * 16;
    // From the VM is into the switch: 1; to the VM is out of it: 2.
    assert_eq!(
        ways,
        BTreeMap::from([("0x00000001\t1", each), ("0x00000002\t2", each)])
    );
}

#[test]
fn after_a_remap_is_acknowledged_under_load_the_former_sniffer_gets_nothing_new() {
    const REMAPS: usize = 8;
    const EACH: usize = 300;
    const MOST_FRAMES: u32 = 500_000;
    let Some(site) = Site::alone(&["ids-a", "ids-c"]) else {
        return;
    };
    let lab = &site.lab;
    let [a1, a2] = ["a1", "a2"].map(|name| site.socket(name));
    row(&a2, &a1, (2, 1), 0);
    let sniffers = ["ids-a", "ids-c"];
    let taps = sniffers.map(|name| site.socket(name));
    let numbers = |tap: &PacketSocket| -> Vec<u32> {
        let frames = drain(tap).into_iter();
        frames
            .filter_map(|frame| Some(udp_number_of(&frame)?.1))
            .collect()
    };
    let (next, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _stop = SetAtEnd(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) && next.load(Ordering::SeqCst) < MOST_FRAMES {
                for _ in 0..8 {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    a1.try_send(&numbered_udp(1, 2, (1, 80), number));
                }
                // So much as everybody keeps up with, on a machine that others use, too.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        // What is sent from here on must not reach the former owner, until it is the owner again.
        let mut acknowledged = 0;
        for turn in 0..=REMAPS {
            let (owner, former) = (turn % 2, 1 - turn % 2);
            let mut got = 0;
            eventually("the owner gets frames of its own", || {
                let numbers = taps.each_ref().map(numbers);
                let stray = numbers[former]
                    .iter()
                    .find(|number| **number >= acknowledged);
                assert_eq!(
                    stray, None,
                    "after {acknowledged}, for {}",
                    sniffers[former]
                );
                got += numbers[owner].len();
                (got > EACH).then_some(())
            });
            if turn < REMAPS {
                lab.apply(&site.config(&[sniffers[former]]));
                acknowledged = next.load(Ordering::SeqCst);
            }
        }
    });
    // The last one tells what is missing before it.
    let last = next.load(Ordering::SeqCst);
    eventually("the last frame passes", || {
        a1.send(&numbered_udp(1, 2, (1, 80), last));
        numbers(&taps[REMAPS % 2]).contains(&last).then_some(())
    });
    site.settle();
    let lost = sniffers.map(|name| site.sniffer(name).lost);
    println!(
        "{last} frames, {} copied, lost {lost:?}",
        site.session("acme").copied
    );
}

#[test]
fn at_full_load_every_copy_is_received_or_known_to_be_missing() {
    let Some(site) = Site::alone(&["ids-a"]) else {
        return;
    };
    let lab = &site.lab;
    lab.address("a1");
    lab.address("a2");
    lab.iperf3("a1", "a2", "-c 10.0.0.2 -t 2 -P 4 -b 200M");
    // The last copies tell what is missing before them.
    lab.ping("a1", "10.0.0.2", 20);
    site.settle();
    let (copies, got) = (site.session("acme"), site.received("acme"));
    assert!(copies.copied > 10_000, "{copies:?}");
    println!(
        "{} wanted, {:?} skipped, {} received, {} missing",
        copies.wanted, copies.skipped, got.received, got.sequence.missing
    );
}

/// Outer IPv4 of a tunnel, from one VM to another of acme.
fn tunnel(ends: ([u8; 4], [u8; 4]), protocol: u8, place: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = ipv4(ends.0, ends.1, protocol, payload);
    packet[6..8].copy_from_slice(&place.to_be_bytes());
    let sum = packet
        .iter_mut()
        .enumerate()
        .take(20)
        .fold(0, |sum, (at, byte)| {
            let byte = if at == 10 || at == 11 { 0 } else { *byte };
            sum + (u32::from(byte) << if at % 2 == 0 { 8 } else { 0 })
        });
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    ethernet(mac(2), mac(1), [8, 0], &packet)
}

/// GRE of ERSPAN type III, session 1, with a frame in it.
fn erspan(number: u32, frame: &[u8]) -> Vec<u8> {
    let mut gre = vec![0x10, 0, 0x22, 0xeb];
    gre.extend(number.to_be_bytes());
    gre.extend([0x20, 0, 0x00, 0x01, 0, 0, 0, 0, 0, 0, 0, 0]);
    gre.extend(frame);
    gre
}

#[test]
fn the_mirror_is_never_mirrored() {
    const GRE: u8 = 47;
    const UDP: u8 = 17;
    let Some(site) = Site::alone(&["ids-a"]) else {
        return;
    };
    let lab = &site.lab;
    let [a1, a2, heard] = ["a1", "a2", "ids-a"].map(|name| site.socket(name));
    let inner = numbered_udp(1, 2, (7, 7), 7);

    // Nobody's source is what copies pass, and sniffers' ports are no ports of the switch.
    let words = "mirror create loop --owner provider --to any";
    for (source, why) in [
        ("--port tun", "tunnels pass port"),
        ("--network transport", "tunnels pass network"),
        ("--port ids-a", "does not exist"),
        ("--port tunnel0", "does not exist"),
    ] {
        let refused = lab
            .client(&format!("{words} {source}"))
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains(why),
            "{source}: {said}"
        );
    }
    for interface in ["ids-a", "tunnel0"] {
        let shared = site.config(&["ids-a"]) + &port(interface, "network = \"blue\"");
        let (status, refusal) = lab.request("POST", "/v1/apply", &lab.whole(&shared));
        assert_eq!(status, 422, "{refusal}");
        assert!(
            refusal.to_string().contains("it cannot be shared"),
            "{refusal}"
        );
    }

    // A tenant's VM sends what copies look like: it arrives, and is not copied.
    let mirrors = ([192, 0, 2, 1], [192, 0, 2, 99]);
    let tenants = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let vxlan = udp(
        50_000,
        4789,
        &[&[8, 0, 0, 0, 0, 0, 1, 0], &inner[..]].concat(),
    );
    let ethernet_in_gre = [&[0, 0, 0x65, 0x58], &inner[..]].concat();
    let never = [
        tunnel(tenants, GRE, 0, &erspan(1, &inner)),
        tunnel(mirrors, GRE, 0, &erspan(2, &inner)),
        // The first fragment of one, and a later one.
        tunnel(mirrors, GRE, 0x2000, &erspan(3, &inner)),
        tunnel(mirrors, GRE, 0x0010, &[0x5a; 64]),
        tunnel(mirrors, UDP, 0, &vxlan),
        tunnel(mirrors, UDP, 0x0010, &[0x5a; 64]),
        tunnel(mirrors, GRE, 0, &ethernet_in_gre),
    ];
    let own = [
        tunnel(tenants, UDP, 0, &vxlan),
        tunnel(tenants, GRE, 0, &ethernet_in_gre),
        tunnel(tenants, UDP, 0x0010, &[0x5a; 64]),
    ];
    let sent: Vec<Vec<u8>> = [&never[..], &own[..]].concat();
    for frame in &sent {
        a1.send(frame);
    }
    assert_eq!(collect(&a2, sent.len(), |frame| Some(frame.to_vec())), sent);
    let mut to_sniffer = collect(&heard, own.len(), |frame| Some(frame.to_vec()));
    let at_sniffer = mac(lab.number("ids-a"));
    let expected = own.each_ref().map(|frame| as_seen(frame, at_sniffer));
    assert_eq!(to_sniffer, expected);
    let skipped = |reason: &str| site.session("acme").skipped.get(reason).copied();
    assert_eq!(skipped("carries_mirrored"), Some(never.len() as u64));

    // Somebody's VM sends what its sniffer hears into a mirrored port: it goes around no more.
    for frame in to_sniffer.drain(..) {
        a1.send(&frame);
    }
    eventually("it is counted", || {
        (skipped("carries_mirrored") == Some((never.len() + own.len()) as u64)).then_some(())
    });

    // What a sniffer sends, and be it tunnelled, nobody gets.
    heard.send(&inner);
    heard.send(&never[1]);
    eventually("it is refused", || {
        (site.sniffer("ids-a").refused == 2).then_some(())
    });
    site.settle();
    assert_eq!(site.received("acme").received, own.len() as u64);
    assert_eq!(drain(&heard), Vec::<Vec<u8>>::new());

    // ERSPAN in ERSPAN that somebody brings to the tunnel's port is refused there.
    let carrier = PacketSocket::open("tun");
    let mut nested = tunnel(
        mirrors,
        GRE,
        0,
        &erspan(1, &tunnel(tenants, GRE, 0, &erspan(1, &inner))),
    );
    nested[..6].copy_from_slice(&[2, 0, 0, 0, 0x99, 0x99]);
    carrier.send(&nested);
    eventually("it is refused", || {
        let refused = site.received("acme").refused;
        (refused.get("nested") == Some(&1)).then_some(())
    });
    assert_eq!(drain(&heard), Vec::<Vec<u8>>::new());
}

#[test]
fn tshark_at_the_sniffer_finds_request_and_answer_of_a_tenants_connection() {
    let Some(site) = Site::alone(&["ids-a"]) else {
        return;
    };
    let lab = &site.lab;
    lab.address("a1");
    lab.address("a2");
    lab.ping("a1", "10.0.0.2", 1);
    let (found, log) = (lab.path("found"), lab.path("tshark"));
    let mut tshark = lab.at("ids-a", "tshark -n -l -i eth0 -Y http -T fields");
    for field in [
        "tcp.stream",
        "ip.src",
        "http.request.uri",
        "http.response.code",
    ] {
        tshark.args(["-e", field]);
    }
    tshark.stdout(fs::File::create(&found).expect("a file"));
    tshark.stderr(fs::File::create(&log).expect("a file"));
    let _tshark = Task::spawn(&mut tshark);
    eventually("tshark listens", || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        said.contains("Capture started").then_some(())
    });
    let answer = lab.path("answer");
    fs::write(&answer, "HTTP/1.0 204 No Content\r\n\r\n").expect("a file");
    let serve = format!(
        "socat -U TCP-LISTEN:80,reuseaddr,fork OPEN:{}",
        answer.display()
    );
    let _server = Task::spawn(&mut lab.at("a2", &serve));
    eventually("the server listens", || {
        let sockets = ok(&mut lab.at("a2", "ss -Hltn sport = :80"));
        (!sockets.stdout.is_empty()).then_some(())
    });
    lab.sh(
        "a1",
        "printf 'GET /look-for-me HTTP/1.0\\r\\n\\r\\n' | socat -t 2 - TCP:10.0.0.2:80",
    );
    eventually("tshark has found both", || {
        let found = fs::read_to_string(&found).ok()?;
        let has = |line: &str| found.lines().any(|found| found == line);
        (has("0\t10.0.0.1\t/look-for-me\t") && has("0\t10.0.0.2\t\t204")).then_some(())
    });
    site.settle();
}
