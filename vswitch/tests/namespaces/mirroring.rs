//! Mirror sessions as programs that nobody here wrote see their copies: `tcpdump` and `tshark`.

use std::process::{Command, Stdio};

use serde_json::Value;
use vswitch::api::{mirror_types::MirrorSession, types::Explanation};

use super::{
    frames::{collect, ethernet, ipv4, udp, udp_number_of},
    lab::{Lab, Link, Task, mac, mac_text, ok, port},
    netns::eventually,
};

/// A tenant's network, and one of the provider's with a router that sends copies on: the target is
/// behind it, at the member `decap`.
const NETWORKS: &str = r#"
[[network]]
name = "lan"
tenant = "acme"
[network.neighbors]
proxy = false
announcements = 0
[[network]]
name = "outside"
tenant = "provider"
[[router]]
name = "transport"
tenant = "provider"
[[router.interface]]
network = "outside"
addresses = ["192.0.2.1/24", "2001:db8::1/64"]
"#;

fn target(name: &str, kind: &str, local: &str, remote: &str) -> String {
    format!(
        "[[mirror_target]]\nname = \"{name}\"\nkind = \"{kind}\"\nlocal = \"{local}\"\nremote = \"{remote}\"\nrouter = \"transport\"\n"
    )
}

/// Two VMs of a tenant, and the decapsulator.
fn lab(targets: &str) -> Option<Lab> {
    let mut lab = Lab::new()?;
    let mut config = NETWORKS.to_owned();
    for (name, network) in [("one", "lan"), ("two", "lan"), ("decap", "outside")] {
        lab.member(name, Link::default());
        config += &port(name, &format!("network = \"{network}\""));
    }
    lab.start(&(config + targets));
    lab.address("one");
    lab.address("two");
    lab.sh(
        "decap",
        "cd /proc/sys/net/ipv6/conf/eth0 && echo 0 > accept_ra && echo 0 > disable_ipv6 &&
         ip addr add 192.0.2.9/24 dev eth0 && ip -6 addr add 2001:db8::9/64 dev eth0 nodad",
    );
    lab.ping("one", "10.0.0.2", 1);
    Some(lab)
}

fn session(lab: &Lab, name: &str) -> MirrorSession {
    lab.get(&format!("/v1/mirrors/acme/{name}"))
}

/// Captures at the decapsulator while `work` is done, until `frames` frames are there.
fn captured(lab: &Lab, frames: usize, work: impl FnOnce()) -> std::path::PathBuf {
    let path = lab.path(&format!("{frames}.pcap"));
    let words = format!(
        "tcpdump -n -U --immediate-mode -Q in -i eth0 -w {} proto 47 or ip6 proto 47",
        path.display()
    );
    let mut command = lab.at("decap", &words);
    let log = std::fs::File::create(lab.path("tcpdump")).expect("a log");
    let _capture = Task::spawn(command.stderr(log));
    eventually("tcpdump listens", || {
        let said = std::fs::read_to_string(lab.path("tcpdump")).unwrap_or_default();
        said.contains("listening on").then_some(())
    });
    work();
    eventually("all copies are captured", || {
        let read = Command::new("tcpdump")
            .args(["-n", "-r"])
            .arg(&path)
            .stderr(Stdio::null())
            .output();
        let text = String::from_utf8(read.expect("tcpdump").stdout).expect("text");
        (text.lines().count() >= frames).then_some(())
    });
    path
}

/// What tshark makes of a capture.
fn dissected(path: &std::path::Path, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command
        .args(["-n", "-T", "fields", "-E", "separator=;", "-r"])
        .arg(path);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = ok(&mut command);
    let text = String::from_utf8(output.stdout).expect("text");
    let row = |line: &str| line.split(';').map(str::to_owned).collect();
    text.lines().map(row).collect()
}

#[test]
fn tcpdump_and_tshark_read_our_erspan_behind_a_router() {
    let targets = target("ii", "erspan-2", "192.0.2.1", "192.0.2.9")
        + &target("iii", "erspan-3", "2001:db8::1", "2001:db8::9");
    let Some(lab) = lab(&targets) else { return };
    for (name, target) in [("second", "ii"), ("third", "iii")] {
        let words =
            format!("mirror create {name} --owner acme --port one --to {target} --direction out");
        ok(lab.client(&words).args(["--filter", "allow icmp"]));
        eventually("the neighbour has answered", || {
            (session(&lab, name).state == "active").then_some(())
        });
        let path = captured(&lab, 5, || {
            ok(&mut lab.at("one", "ping -n -c 5 -i 0.05 -s 100 10.0.0.2"));
        });
        let text =
            String::from_utf8(ok(Command::new("tcpdump").args(["-n", "-r"]).arg(&path)).stdout);
        let text = text.expect("text");
        assert!(text.to_lowercase().contains("gre"), "{text}");
        let fields = [
            "frame.protocols",
            "erspan.spanid",
            "gre.sequence_number",
            "eth.dst",
            "ip.dst",
            "icmp.type",
            "erspan.direction",
        ];
        let rows = dissected(&path, &fields);
        assert_eq!(rows.len(), 5, "{rows:?}");
        for (number, row) in rows.iter().enumerate() {
            assert!(
                row[0].contains("gre:erspan:eth") && row[0].ends_with("icmp:data"),
                "{row:?}"
            );
            assert_eq!(row[1], "1", "{row:?}");
            assert_eq!(row[2].parse(), Ok(number), "{row:?}");
            let (decap, two) = (mac_text(lab.number("decap")), mac_text(lab.number("two")));
            assert_eq!(row[3], format!("{decap},{two}"), "{row:?}");
            assert!(row[4].ends_with("10.0.0.2"), "{row:?}");
            assert_eq!(row[5], "8", "{row:?}");
        }
        let counted = session(&lab, name);
        assert_eq!((counted.wanted, counted.copied), (5, 5));
        lab.cli(&format!("mirror delete {name} --owner acme"));
    }
    lab.check_conservation();
}

#[test]
fn a_session_survives_a_restart_and_is_shown_and_audited() {
    let targets = target("ii", "erspan-2", "192.0.2.1", "192.0.2.9");
    let Some(mut lab) = lab(&targets) else { return };
    let shown = lab.cli("mirror create look --owner acme --port one --to ii --truncate 100");
    assert!(shown.contains("session number 1"), "{shown}");
    lab.end(rustix::process::Signal::TERM);
    lab.start_again();
    eventually("the way is found again", || {
        (session(&lab, "look").state == "active").then_some(())
    });
    lab.ping("one", "10.0.0.2", 5);
    let look = session(&lab, "look");
    assert!(look.copied >= 10 && look.truncated == 0, "{look:?}");
    let table = lab.cli("mirror list");
    assert!(
        table.contains("look") && table.contains("active"),
        "{table}"
    );
    lab.cli("mirror delete look --owner acme");
    let audit: Vec<Value> = lab.get("/v1/mirrors/audit");
    let last = audit.last().expect("a line");
    assert_eq!(last["action"], "deleted");
    assert!(
        last["who"]
            .as_str()
            .is_some_and(|who| who.starts_with("uid 0 pid ")),
        "{last}"
    );
    assert!(lab.log().contains("action=\"deleted\""), "{}", lab.log());
    lab.check_conservation();
}

#[test]
fn explain_names_the_sessions_that_copy_a_frame_and_says_why_others_do_not() {
    let targets = target("ii", "erspan-2", "192.0.2.1", "192.0.2.9");
    let Some(lab) = lab(&targets) else { return };
    for (name, words, filter) in [
        ("all", "--port one", &[][..]),
        ("back", "--port one --direction in", &[]),
        ("cut", "--network lan --direction in --truncate 78", &[]),
        ("few", "--port two --sample 1000000", &[]),
        (
            "other",
            "--port two",
            &["deny udp to any port 80", "allow udp"],
        ),
        ("tcp", "--port two", &["allow tcp"]),
    ] {
        let words = format!("mirror create {name} --owner acme --to ii {words}");
        let mut create = lab.client(&words);
        for rule in filter {
            create.args(["--filter", rule]);
        }
        ok(&mut create);
        eventually("the neighbour has answered", || {
            (session(&lab, name).state == "active").then_some(())
        });
    }
    // To an address that nobody has, so that nobody answers.
    let datagram = udp(9, 80, &7u32.to_be_bytes());
    let packet = ipv4([10, 0, 0, 1], [10, 0, 0, 77], 17, &datagram);
    let frame = ethernet(mac(2), mac(1), [8, 0], &packet);
    let hex: Vec<String> = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let hex = hex.concat();
    let sessions = || lab.get::<Vec<MirrorSession>>("/v1/mirrors");
    // A member's kernel may send a frame of its own meanwhile.
    let (json, before) = eventually("a frame is explained and nothing is counted", || {
        let before = sessions();
        let json = lab.cli(&format!("--json explain --port one --frame {hex}"));
        (sessions() == before).then_some((json, before))
    });
    let explained: Explanation = serde_json::from_str(&json).expect("the documented shape");
    let rows = explained.mirrors.iter().map(|row| {
        let place = (
            row.session.as_str(),
            row.port.as_str(),
            row.direction.as_str(),
        );
        (place, row.copied, row.reason.as_deref())
    });
    let rows: Vec<_> = rows.collect();
    let expected = [
        (("all", "one", "out"), true, None),
        (("back", "one", "out"), false, Some("direction")),
        (("cut", "one", "out"), false, Some("direction")),
        (("cut", "two", "in"), true, None),
        (("few", "two", "in"), true, None),
        (("other", "two", "in"), false, Some("filter")),
        (("tcp", "two", "in"), false, Some("filter")),
    ];
    assert_eq!(rows, expected, "{json}");
    let texts: Vec<&str> = explained.mirrors.iter().map(|row| &*row.text).collect();
    assert_eq!(texts[0], format!("all {} bytes, to ii", frame.len()));
    assert!(texts[4].starts_with("one in 1000000 such"), "{texts:?}");
    assert!(
        texts[5].ends_with("rule 1 leaves it out: deny udp to any port 80"),
        "{texts:?}"
    );
    assert_eq!(texts[6], "no rule of its filter matches");
    let text = lab.cli(&format!("explain --port one --frame {hex}"));
    assert!(
        text.contains("mirrors  all of acme at one out: copies all"),
        "{text}"
    );
    assert!(
        text.contains("tcp of acme at two in: does not: filter"),
        "{text}"
    );

    // It happens as it was said.
    let (one, two) = (lab.socket("one"), lab.socket("two"));
    one.send(&frame);
    collect(&two, 1, udp_number_of);
    let copied =
        |before: &MirrorSession| session(&lab, &before.request.name).copied - before.copied;
    for was in &before {
        let name = was.request.name.as_str();
        let sure = name != "few";
        // Others may copy frames of a member's kernel, too.
        let is_alone = !was.request.filter.is_empty();
        let told = expected
            .iter()
            .filter(|((of, ..), copied, _)| *of == name && *copied);
        let told = told.count() as u64;
        eventually(&format!("{name} copies as told"), || {
            let copied = copied(was);
            let is_told = copied == told || copied > told && !is_alone;
            (!sure || is_told).then_some(())
        });
    }
    lab.check_conservation();
}
