//! Access and trunk ports: tags in the frame and beside it, with an interface's stack in between.

use std::{
    fs,
    process::{Command, Stdio},
};

use super::{
    frames::{BROADCAST, collect, drain, number_of, numbered, tagged},
    lab::{Lab, Link, Task, mac, port},
    netns::{PacketSocket, eventually},
};

const NETWORKS: &str = r#"
[[network]]
name = "ten"
tenant = "lab"
vlan = 10
[[network]]
name = "twenty"
tenant = "lab"
vlan = 20
[[network]]
name = "plain"
tenant = "lab"
"#;

/// Members `ten` and `twenty` at access ports, `trunk` at a trunk port of both networks (`plain`
/// is its native network if `native`), `plain` at an access port of that.
fn trunk(native: bool) -> Option<Lab> {
    let mut lab = Lab::new()?;
    let mut config = NETWORKS.to_owned();
    for name in ["ten", "twenty", "plain"] {
        lab.member(name, Link::default());
        config += &port(name, &format!("network = \"{name}\""));
    }
    lab.member("trunk", Link::default());
    let native = if native { "native = \"plain\"" } else { "" };
    config += &port("trunk", &format!("trunk = [\"ten\", \"twenty\"]\n{native}"));
    lab.start(&config);
    Some(lab)
}

/// What arrives at an interface, its tags in place. A raw socket does not show them.
struct Capture {
    file: std::path::PathBuf,
    _tcpdump: Task,
}

impl Capture {
    /// Captures numbered frames from now on.
    fn start(lab: &Lab, member: &str, interface: &str) -> Self {
        let file = lab.path(&format!("{member}.pcap"));
        let said = lab.path(&format!("{member}.tcpdump"));
        let words = format!("tcpdump -i {interface} -Q in --immediate-mode -U -Z root -w");
        let mut command: Command = lab.at(member, &words);
        command.arg(&file).stdout(Stdio::null());
        command.stderr(fs::File::create(&said).expect("a file"));
        let tcpdump = Task::spawn(&mut command);
        eventually("tcpdump listens", || {
            let text = fs::read_to_string(&said).expect("read");
            text.contains("listening on").then_some(())
        });
        Self {
            file,
            _tcpdump: tcpdump,
        }
    }

    /// The frames captured, once there are so many: a pcap file has a header of 24 bytes, and
    /// each record one of 16 with the length at 8.
    fn frames(&self, count: usize) -> Vec<Vec<u8>> {
        eventually(&format!("{count} frames are captured"), || {
            let bytes = fs::read(&self.file).unwrap_or_default();
            let mut rest = bytes.get(24..).unwrap_or_default();
            let mut frames = Vec::new();
            while let Some((header, after)) = rest.split_at_checked(16) {
                let len = u32::from_le_bytes(header[8..12].try_into().expect("four")) as usize;
                let Some((frame, next)) = after.split_at_checked(len) else {
                    break;
                };
                frames.push(frame.to_vec());
                rest = next;
            }
            (frames.len() >= count).then_some(frames)
        })
    }
}

/// The numbers of what arrives at an access port: untagged, or the raw socket would show fewer
/// bytes than were captured.
fn numbers(socket: &PacketSocket, count: usize) -> Vec<u32> {
    collect(socket, count, |frame| {
        assert_eq!(frame.len(), 60, "{frame:02x?}");
        number_of(frame)
    })
}

#[test]
fn tags_in_the_frame_lead_to_their_network_and_back() {
    let Some(lab) = trunk(true) else { return };
    let [ten, twenty, plain, trunk] =
        ["ten", "twenty", "plain", "trunk"].map(|name| lab.socket(name));
    let arriving = Capture::start(&lab, "trunk", "eth0");
    let at_ten = Capture::start(&lab, "ten", "eth0");

    // Priority bits are the sender's affair; a tag without a VLAN is no tag.
    trunk.send(&tagged(numbered(BROADCAST, mac(4), 1), 10));
    trunk.send(&tagged(numbered(BROADCAST, mac(4), 2), 0xe014));
    trunk.send(&numbered(BROADCAST, mac(4), 3));
    trunk.send(&tagged(numbered(BROADCAST, mac(4), 4), 0x6000));
    assert_eq!(numbers(&ten, 1), [1]);
    assert_eq!(numbers(&twenty, 1), [2]);
    assert_eq!(numbers(&plain, 2), [3, 4]);
    assert_eq!(at_ten.frames(1), [numbered(BROADCAST, mac(4), 1)]);

    ten.send(&numbered(mac(4), mac(1), 5));
    twenty.send(&numbered(mac(4), mac(2), 6));
    plain.send(&numbered(mac(4), mac(3), 7));
    let frames = arriving.frames(3);
    let expected = [
        tagged(numbered(mac(4), mac(1), 5), 10),
        tagged(numbered(mac(4), mac(2), 6), 20),
        numbered(mac(4), mac(3), 7),
    ];
    for frame in &expected {
        assert!(
            frames.contains(frame),
            "{frame:02x?} is not among {frames:02x?}"
        );
    }
    assert_eq!(frames.len(), expected.len());
    assert_eq!(
        drain(&ten).len() + drain(&twenty).len() + drain(&plain).len(),
        0
    );
    lab.check_conservation();
}

#[test]
fn frames_without_a_network_are_refused() {
    let Some(lab) = trunk(false) else { return };
    let [ten, plain, trunk] = ["ten", "plain", "trunk"].map(|name| lab.socket(name));
    trunk.send(&tagged(numbered(BROADCAST, mac(4), 1), 30));
    trunk.send(&numbered(BROADCAST, mac(4), 2));
    ten.send(&tagged(numbered(BROADCAST, mac(1), 3), 10));
    ten.send(&tagged(numbered(BROADCAST, mac(1), 4), 20));
    trunk.send(&tagged(numbered(BROADCAST, mac(4), 5), 10));
    assert_eq!(numbers(&ten, 1), [5]);
    eventually("all are judged", || {
        (lab.port("ten").counts.rx_frames == 2).then_some(())
    });
    assert_eq!(lab.dropped("trunk", "vlan_not_allowed"), 1);
    assert_eq!(lab.dropped("trunk", "untagged_not_allowed"), 1);
    assert_eq!(
        lab.dropped("ten", "vlan_not_allowed"),
        2,
        "its own VLAN too"
    );
    lab.check_conservation();
    assert_eq!(drain(&plain).len(), 0);
    let twenty = lab.port("twenty").counts;
    assert_eq!(twenty.tx_frames, 0);
}

#[test]
fn tags_beside_the_frame_lead_to_their_network_and_back() {
    // A bridge in the trunk's member takes the tag out of the frame and sends it on beside it.
    let Some(lab) = trunk(false) else { return };
    lab.sh(
        "trunk",
        "ip link add source type veth peer name in
         ip link add bridge type bridge forward_delay 0
         ip link set dev in master bridge
         ip link set dev eth0 master bridge
         for name in bridge source in; do ip link set dev $name up; done",
    );
    let [ten, twenty] = ["ten", "twenty"].map(|name| lab.socket(name));
    let source = lab.socket_on("trunk", "source");
    let arriving = Capture::start(&lab, "trunk", "source");
    // The bridge forwards as soon as its ports do.
    eventually("the bridge forwards", || {
        source.send(&tagged(numbered(BROADCAST, mac(9), 0), 10));
        (!drain(&ten).is_empty()).then_some(())
    });
    for number in 1..=20 {
        source.send(&tagged(numbered(BROADCAST, mac(9), number), 10));
        source.send(&tagged(numbered(BROADCAST, mac(9), 100 + number), 20));
        source.send(&tagged(numbered(BROADCAST, mac(9), 200 + number), 30));
    }
    let wanted: Vec<_> = (1..=20).collect();
    let fresh = |frame: &[u8]| number_of(frame).filter(|number| *number != 0);
    assert_eq!(collect(&ten, 20, fresh), wanted);
    let wanted: Vec<_> = (101..=120).collect();
    assert_eq!(numbers(&twenty, 20), wanted);
    eventually("the foreign tags are refused", || {
        (lab.dropped("trunk", "vlan_not_allowed") == 20).then_some(())
    });

    ten.send(&numbered(mac(9), mac(1), 300));
    twenty.send(&numbered(mac(9), mac(2), 301));
    let frames = arriving.frames(2);
    assert!(frames.contains(&tagged(numbered(mac(9), mac(1), 300), 10)));
    assert!(frames.contains(&tagged(numbered(mac(9), mac(2), 301), 20)));
    lab.check_conservation();
}
