//! The API as a client sees it, over a real socket, on a control whose datapath is a stand-in.

use std::{path::PathBuf, sync::Arc};

use serde_json::Value;

use super::{ROUTES, openapi, service};
use crate::{
    cli::client::Client,
    control::tests::{running, text},
    decap,
};

struct Server {
    socket: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("temp");
        let socket = folder.path().join("s.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        listener.set_nonblocking(true).expect("set");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let (control, _world) = running(&["a"]);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime");
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).expect("listener");
                tokio::select! {
                    _ = axum::serve(listener, service(Arc::new(control))).into_future() => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            socket,
            stop: Some(stop),
            thread: Some(thread),
            _folder: folder,
        }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Result<Value, String> {
        let client = Client::new(self.socket.clone());
        let text = client
            .request(method, path, body.map(str::to_owned))
            .map_err(|error| error.to_string())?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn the_document_lists_every_route_and_no_other() {
    let document = serde_json::to_value(openapi()).expect("JSON");
    let mut listed = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            listed.push((method.as_str(), path.as_str()));
        }
    }
    let mut routes = [ROUTES, decap::api::ROUTES].concat();
    routes.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, routes);
}

#[test]
fn every_route_is_served() {
    let server = Server::start();
    for (method, path) in [ROUTES, decap::api::ROUTES].concat() {
        // A stream is asked for no longer than it takes to begin.
        let path = path
            .replace("{name}", "a")
            .replace("{owner}", "acme")
            .replace("samples", "samples?seconds=0");
        let answer = server.ask(&method.to_uppercase(), &path, None);
        if let Err(error) = &answer {
            assert!(!error.contains("no such path"), "{method} {path}: {error}");
            assert!(!error.contains("405"), "{method} {path}: {error}");
        }
    }
    let unknown = server.ask("GET", "/v1/nothing", None).expect_err("unknown");
    assert!(unknown.contains("/openapi.json"), "{unknown}");
}

#[test]
fn stats_have_their_documented_shape() {
    let server = Server::start();
    let stats = server.ask("GET", "/v1/stats", None).expect("answer");
    let port = &stats["ports"][0];
    assert_eq!(port["name"], "a");
    assert!(port["rx_frames"].is_u64() && port["tx_frames"].is_u64());
    assert!(port["drops"].is_object());
    let worker = &stats["workers"][0];
    assert!(worker["core"].is_u64() && worker["frames"].is_u64());
    assert!(worker["cycles_per_frame"].is_f64());
}

#[test]
fn configurations_are_applied_shown_and_refused() {
    let server = Server::start();
    let wanted = text(&["a", "b"]);
    let dry = server
        .ask("POST", "/v1/apply?dry_run=true", Some(&wanted))
        .expect("answer");
    assert_eq!(
        (&dry["dry_run"], &dry["changes"][0]["name"]),
        (&true.into(), &"b".into())
    );
    let done = server
        .ask("POST", "/v1/apply?file=x.toml", Some(&wanted))
        .expect("answer");
    assert_eq!(done["epoch"], 2);
    let config = server.ask("GET", "/v1/config", None).expect("answer");
    assert_eq!(
        (&config["file"], &config["text"]),
        (&"x.toml".into(), &wanted.clone().into())
    );
    let bad = wanted.replace("blue\"\ndriver", "bleu\"\ndriver");
    let refused = server
        .ask("POST", "/v1/apply", Some(&bad))
        .expect_err("refused");
    assert!(refused.contains("did you mean \"blue\"?"), "{refused}");
}

#[test]
fn ports_come_and_go() {
    let server = Server::start();
    let fields = "name = \"b\"\ndriver = \"memory\"\nnetwork = \"blue\"";
    server
        .ask("POST", "/v1/ports", Some(fields))
        .expect("added");
    assert_eq!(
        server.ask("GET", "/v1/ports/b", None).expect("there")["state"],
        "up"
    );
    server.ask("DELETE", "/v1/ports/b", None).expect("removed");
    let gone = server.ask("GET", "/v1/ports/b", None).expect_err("gone");
    assert!(gone.contains("there is no port \"b\""), "{gone}");
    let sly = "name = \"c\"\ndriver = \"memory\"\nnetwork = \"blue\"\n[[acl]]\nname = \"more\"";
    let refused = server
        .ask("POST", "/v1/ports", Some(sly))
        .expect_err("refused");
    assert!(refused.contains("without [headers]"), "{refused}");
}

#[test]
fn sets_are_shown_and_changed() {
    let server = Server::start();
    let sets = "[[address_set]]\nname = \"office\"\naddresses = [\"192.0.2.1\"]\n";
    let wanted = text(&["a"]) + sets;
    server
        .ask("POST", "/v1/apply", Some(&wanted))
        .expect("applied");
    let change = "{\"add\": [\"192.0.2.2\"], \"remove\": [\"192.0.2.1\"]}";
    let applied = server
        .ask("POST", "/v1/sets/office", Some(change))
        .expect("changed");
    assert_eq!(applied["changes"][0]["kind"], "address_set");
    let sets = server.ask("GET", "/v1/sets", None).expect("answer");
    assert_eq!(sets[0]["members"], serde_json::json!(["192.0.2.2"]));
    let refused = server
        .ask("POST", "/v1/sets/ofice", Some("{\"add\": []}"))
        .expect_err("unknown");
    assert!(refused.contains("did you mean \"office\"?"), "{refused}");
}

#[test]
fn a_configuration_may_be_given_in_json() {
    let rules = serde_json::json!({
        "network": [{ "name": "blue", "tenant": "acme" }],
        "acl": [{ "name": "web", "rules": [
            "allow in tcp to any port 443 stateful",
            { "action": "deny", "protocol": "udp", "dst_ports": ["1-5", 9] },
        ] }],
    });
    let toml = super::from_json(&rules.to_string()).expect("an object");
    let machine = crate::config::Machine {
        cores: vec![0],
        memory_bytes: 0,
    };
    let config = crate::config::parse("request", &toml, &machine).expect("valid");
    let texts: Vec<_> = config.acls[0]
        .rules
        .iter()
        .map(|rule| &*rule.text)
        .collect();
    assert_eq!(
        texts,
        [
            "allow in tcp to any port 443 stateful",
            "deny udp to any port 1-5,9"
        ]
    );
}

#[test]
fn a_port_may_be_given_in_json() {
    let text = super::from_json("{\"name\": \"b\\n[x]\", \"storm\": {\"broadcast_pps\": 5}}");
    let text = text.expect("an object");
    let parsed: toml::Table = text.parse().expect("TOML");
    assert_eq!(parsed["name"].as_str(), Some("b\n[x]"));
    assert_eq!(parsed["storm"]["broadcast_pps"].as_integer(), Some(5));
    assert!(super::from_json("[1]").is_err());
}
