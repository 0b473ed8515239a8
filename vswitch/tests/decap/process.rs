//! The decapsulator as a person runs it: alone, and within the switch.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use pmd::pcap::{Reader, Writer};
use serde_json::Value;

use crate::{bed::wait_for, isolation::Mirror, mirrored::udp_frame};

const FRAMES: u16 = 50;

/// A folder with a capture of mirrored frames, a configuration, and what runs on it.
struct Place {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = Writer::create(folder.path().join("mirrored.pcap")).expect("a capture");
        let mut mirror = Mirror::new(1, 7);
        for number in 0..FRAMES {
            let frame = mirror.carry(&udp_frame([10, 0, 0, 1], [10, 0, 0, 2], (number, 80), 40));
            let written = writer.write(0, frame.len() as u32, &frame);
            written.expect("a record");
        }
        writer.flush().expect("written");
        Self {
            folder,
            child: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `[decapsulator]` that replays the capture, and one sniffer with files.
    fn sections(&self, sessions: &str) -> String {
        format!(
            "[decapsulator]\nport = {{ driver = \"pcap\", replay = \"{}\", pace = \"as_fast\" }}\n\
             {sessions}[[sniffer]]\nname = \"disk\"\ntenant = \"blue\"\nmac = \"02:ff:00:00:00:01\"\n\
             files = {{ folder = \"{}\" }}\n",
            self.path("mirrored.pcap").display(),
            self.path("files").display()
        )
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vswitch"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("VSWITCH_SOCKET", self.path("s.sock"))
            .env_remove("NOTIFY_SOCKET")
            .env_remove("RUST_LOG");
        command
    }

    fn start(&mut self, arguments: &[&str]) {
        let log = File::create(self.path("log")).expect("a log");
        let mut command = self.command(arguments);
        self.child = Some(
            command
                .stderr(log)
                .stdin(Stdio::null())
                .spawn()
                .expect("it starts"),
        );
        wait_for("it answers", || {
            self.ask(&["decap", "show", "totals"]).status.success()
        });
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    fn said(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn show(&self, what: &str) -> Value {
        let text = self.said(&["decap", "show", what, "--json"]);
        serde_json::from_str(&text).expect("JSON")
    }

    /// Ends it as a service manager does; returns its exit status.
    fn end(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("running");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        wait_for("it ends", || child.try_wait().expect("a child").is_some());
        child.wait().expect("a child").code()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const SESSION: &str = "[[decapsulator.session]]\nname = \"s\"\ntenant = \"blue\"\n\
    source = \"192.0.2.1\"\ndestination = \"192.0.2.99\"\nformat = \"erspan_ii\"\nid = 7\n\
    sniffers = [\"disk\"]\n";

fn frames_of(place: &Place) -> usize {
    let files = fs::read_dir(place.path("files")).expect("files");
    let paths = files.map(|entry| entry.expect("entry").path());
    paths
        .map(|path| {
            Reader::open(path)
                .expect("pcapng")
                .map_while(Result::ok)
                .count()
        })
        .sum()
}

#[test]
fn alone_it_delivers_answers_changes_and_leaves_nothing_behind() {
    let mut place = Place::new();
    let nobody = place.ask(&["decap", "show", "totals"]);
    assert_eq!(nobody.status.code(), Some(3));
    let text = place.sections(SESSION);
    fs::write(place.path("c.toml"), &text).expect("written");
    assert!(
        place
            .said(&["decap", "check", "c.toml"])
            .contains("1 sessions, 1 sniffers")
    );
    place.start(&["decap", "--config", "c.toml"]);
    wait_for("all are written", || {
        place.show("sniffers")[0]["sent"] == FRAMES
    });
    assert_eq!(place.show("sessions")[0]["sequence"]["in_order"], FRAMES);
    for what in ["totals", "sessions", "sniffers", "unknown"] {
        place.said(&["decap", "show", what]);
    }

    let foreign = text.replacen("tenant = \"blue\"", "tenant = \"red\"", 1);
    fs::write(place.path("foreign.toml"), foreign).expect("written");
    let refused = place.ask(&["decap", "apply", "foreign.toml"]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(words.contains("foreign.toml:10:"), "{words}");
    assert!(
        words.contains("a tenant's frames go to its own sniffers"),
        "{words}"
    );

    fs::write(place.path("none.toml"), place.sections("")).expect("written");
    let applied = place.said(&["decap", "apply", "none.toml"]);
    assert!(
        applied.contains("0 sessions and 1 sniffers in force"),
        "{applied}"
    );
    assert_eq!(place.show("sessions"), serde_json::json!([]));
    assert_eq!(place.end(), Some(0));
    assert_eq!(frames_of(&place), usize::from(FRAMES));
    assert!(!place.path("s.sock").exists() && !place.path("s.sock.lock").exists());
}

#[test]
fn within_the_switch_it_follows_the_configuration() {
    let mut place = Place::new();
    let network = "[[network]]\nname = \"lan\"\ntenant = \"blue\"\n\
        [[port]]\nname = \"a\"\ndriver = \"memory\"\nnetwork = \"lan\"\n";
    fs::write(place.path("plain.toml"), network).expect("written");
    let with = network.to_owned() + &place.sections(SESSION);
    fs::write(place.path("with.toml"), with).expect("written");
    let without = network.to_owned() + &place.sections("");
    fs::write(place.path("without.toml"), without).expect("written");

    let log = File::create(place.path("log")).expect("a log");
    let mut command = place.command(&["run", "--config", "plain.toml"]);
    place.child = Some(command.stderr(log).spawn().expect("it starts"));
    wait_for("it answers", || {
        place.ask(&["show", "ports"]).status.success()
    });
    let none = place.ask(&["decap", "show", "totals"]);
    assert_eq!(none.status.code(), Some(1));
    let words = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(words.contains("add [decapsulator]"), "{words}");

    let applied = place.said(&["apply", "with.toml"]);
    assert!(applied.contains("decapsulator_session s"), "{applied}");
    wait_for("all are written", || {
        place.show("sniffers")[0]["sent"] == FRAMES
    });
    let applied = place.said(&["apply", "without.toml"]);
    assert!(applied.contains("decapsulator_session s"), "{applied}");
    assert_eq!(place.show("sessions"), serde_json::json!([]));
    place.said(&["apply", "plain.toml"]);
    assert_eq!(
        place.ask(&["decap", "show", "totals"]).status.code(),
        Some(1)
    );
    assert_eq!(place.end(), Some(0));
    assert_eq!(frames_of(&place), usize::from(FRAMES));
}
