//! The program as a person uses it, on memory and pcap ports: no privileges needed.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const CONFIG: &str = r#"
[[network]]
name = "blue"
tenant = "acme"

[[port]]
name = "a"
driver = "memory"
network = "blue"

[[port]]
name = "b"
driver = "memory"
network = "blue"
"#;

/// A folder with a configuration, and at most one switch that runs on it.
struct Place {
    folder: tempfile::TempDir,
    switch: Option<Child>,
}

impl Place {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("temp");
        fs::write(folder.path().join("c.toml"), config).expect("written");
        Self {
            folder,
            switch: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
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

    fn ask(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    fn said(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn refused(&self, arguments: &[&str], code: i32) -> String {
        let output = self.ask(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn start(&mut self) {
        let log = fs::File::create(self.path("log")).expect("log");
        let child = self
            .command(&["run", "--config", "c.toml"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it starts");
        self.switch = Some(child);
        wait_for("it answers", || {
            self.ask(&["show", "ports"]).status.success()
        });
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let child = self.switch.as_ref().expect("running");
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, signal).expect("signalled");
    }

    fn end(&mut self) -> Option<i32> {
        let mut child = self.switch.take().expect("running");
        wait_for("it ends", || child.try_wait().expect("a child").is_some());
        child.wait().expect("a child").code()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).expect("log")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut child) = self.switch.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn left_over(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("folder");
    let names = entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("s.sock")).collect()
}

#[test]
fn it_starts_answers_and_leaves_nothing_behind() {
    let mut place = Place::new(CONFIG);
    let nobody = place.refused(&["show", "ports"], 3);
    assert!(nobody.contains("vswitch run --config"), "{nobody}");
    place.start();
    assert!(place.said(&["show", "ports"]).contains("memory"));
    let second = place.refused(&["run", "--config", "c.toml"], 1);
    assert!(second.contains("runs already"), "{second}");
    let stats = place.said(&["stats", "--json"]);
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
    assert_eq!(stats["ports"][1]["name"], "b");
    assert_eq!(stats["workers"][0]["core"], 0);
    for what in ["workers", "queues", "macs", "flows", "drops", "config"] {
        place.said(&["show", what]);
        let json = place.said(&["show", what, "--json"]);
        serde_json::from_str::<serde_json::Value>(&json).expect("JSON");
    }
    place.signal(rustix::process::Signal::TERM);
    assert_eq!(place.end(), Some(0), "{}", place.log());
    assert!(left_over(place.folder.path()).is_empty());
}

#[test]
fn the_service_manager_is_told() {
    let mut place = Place::new(CONFIG);
    let manager = UnixDatagram::bind(place.path("notify")).expect("bound");
    let patience = Some(Duration::from_secs(20));
    manager.set_read_timeout(patience).expect("set");
    let told = |wanted: &str| {
        let mut buffer = [0; 512];
        loop {
            let length = manager.recv(&mut buffer).expect("told in time");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains(wanted) {
                return;
            }
        }
    };
    let mut command = place.command(&["run", "--config", "c.toml"]);
    command
        .env("NOTIFY_SOCKET", place.path("notify"))
        .env("WATCHDOG_USEC", "200000")
        .stderr(Stdio::null());
    place.switch = Some(command.spawn().expect("it starts"));
    told("READY=1");
    told("WATCHDOG=1");
    told("WATCHDOG=1");
    place.signal(rustix::process::Signal::HUP);
    told("RELOADING=1");
    told("READY=1");
    place.signal(rustix::process::Signal::TERM);
    told("STOPPING=1");
    assert_eq!(place.end(), Some(0));
}

#[test]
fn after_a_kill_the_next_start_cleans_up() {
    let mut place = Place::new(CONFIG);
    place.start();
    place.signal(rustix::process::Signal::KILL);
    place.end();
    assert!(
        !left_over(place.folder.path()).is_empty(),
        "a kill leaves the socket"
    );
    place.start();
    place.signal(rustix::process::Signal::INT);
    assert_eq!(place.end(), Some(0));
    assert!(left_over(place.folder.path()).is_empty());
}

#[test]
fn a_change_is_shown_applied_and_reloaded() {
    let mut place = Place::new(CONFIG);
    place.start();
    let more = CONFIG.replace("name = \"b\"", "name = \"c\"");
    fs::write(place.path("d.toml"), &more).expect("written");
    let shown = place.said(&["apply", "--dry-run", "d.toml"]);
    assert!(
        shown.contains("- port b") && shown.contains("+ port c"),
        "{shown}"
    );
    assert!(place.said(&["show", "ports"]).contains("b  "));
    place.said(&["apply", "d.toml"]);
    assert_eq!(place.said(&["show", "config"]).trim(), more.trim());
    let same = place.said(&["apply", "d.toml"]);
    assert!(same.contains("Nothing differed"), "{same}");

    fs::write(place.path("e.toml"), CONFIG.replace("driver", "drivr")).expect("written");
    let refused = place.refused(&["apply", "e.toml"], 1);
    assert!(
        refused.contains("e.toml:8:1") && refused.contains("\"driver\"?"),
        "{refused}"
    );
    assert_eq!(place.said(&["show", "config"]).trim(), more.trim());

    place.signal(rustix::process::Signal::HUP);
    wait_for("the file is applied again", || {
        place.said(&["show", "config"]).trim() == CONFIG.trim()
    });
    place.said(&["port", "add", "name=d", "driver=memory", "network=blue"]);
    assert!(place.said(&["show", "port", "d"]).contains("up"));
    place.said(&["queue", "assign", "d", "0", "0"]);
    place.said(&["port", "remove", "d"]);
    let gone = place.refused(&["show", "port", "d"], 1);
    assert!(gone.contains("there is no port \"d\""), "{gone}");
}

#[test]
fn a_file_that_appears_is_attached() {
    let waiting = format!(
        "{CONFIG}\n[[port]]\nname = \"replay\"\ndriver = \"pcap\"\nreplay = \"in.pcap\"\nnetwork = \"blue\"\n"
    );
    let mut place = Place::new(&waiting);
    place.start();
    let port = place.said(&["show", "port", "replay"]);
    assert!(
        port.contains("waiting") && port.contains("in.pcap"),
        "{port}"
    );
    let file = place.path("in.pcap.part");
    let mut writer = pmd::pcap::Writer::create(&file).expect("created");
    let mut frame = [0_u8; 60];
    frame[..12].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9]);
    writer.write(0, 60, &frame).expect("written");
    writer.flush().expect("flushed");
    drop(writer);
    fs::rename(&file, place.path("in.pcap")).expect("renamed");
    wait_for("its frame is learned", || {
        place.said(&["show", "macs"]).contains("02:00:00:00:00:09")
    });
    wait_for("it is flooded to the others", || {
        let stats = place.said(&["stats", "--json"]);
        let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
        let sent = |port: usize| stats["ports"][port]["tx_frames"].as_u64();
        (sent(0), sent(1), sent(2)) == (Some(1), Some(1), Some(0))
    });
}

#[test]
fn nothing_is_left_of_a_start_that_fails() {
    let broken = format!(
        "{CONFIG}\n[[port]]\nname = \"bad\"\ndriver = \"pcap\"\nreplay = \"c.toml\"\nnetwork = \"blue\"\n"
    );
    let place = Place::new(&broken);
    let refused = place.refused(&["run", "--config", "c.toml"], 1);
    assert!(refused.contains("port \"bad\""), "{refused}");
    assert!(left_over(place.folder.path()).is_empty());
}

#[test]
fn what_needs_no_switch_works_without() {
    let place = Place::new(CONFIG);
    assert!(place.said(&["check", "c.toml"]).contains("2 ports"));
    fs::write(place.path("bad.toml"), "[[port]]\n").expect("written");
    let refused = place.refused(&["check", "bad.toml"], 1);
    assert!(refused.contains("bad.toml:1:1"), "{refused}");
    let json = place.ask(&["check", "bad.toml", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["ok"], false);
    assert_eq!(json["problems"][0]["line"], 1);
    assert!(place.said(&["completions", "bash"]).contains("vswitch"));
    assert!(place.said(&["man"]).contains(".TH"));
    place.said(&["man", "pages"]);
    assert!(place.path("pages/vswitch-show-drops.1").exists());
    let doctor = place.ask(&["doctor", "--json"]);
    let findings: serde_json::Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    assert!(findings.as_array().is_some_and(|all| all.len() > 5));
    place.refused(&["shw"], 2);
}
