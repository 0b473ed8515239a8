//! A decapsulator's threads on memory ports: frames in by the tunnel port, sniffers' frames out, held to
//! the laws of its counters.

use std::{
    collections::HashMap,
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use mirror::wire::Identity;
use pmd::memory::Endpoint;
use vswitch::{
    config::{Machine, decapsulator},
    control::Drivers,
    decap::{ApplyError, Runtime, view},
};

use crate::laws;

/// How long a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a condition.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A tunnel port with room for the frames of captures.
pub(crate) const TUNNEL: &str = "[decapsulator]\nmax_sleep_us = 1\n\
    [decapsulator.port]\ndriver = \"memory\"\nslots = 256\nmax_frame_bytes = 16384\n";

/// A sniffer on a memory port.
pub(crate) fn sniffer(name: &str, tenant: &str, number: u8, more: &str) -> String {
    format!(
        "[[sniffer]]\nname = \"{name}\"\ntenant = \"{tenant}\"\nmac = \"02:ff:00:00:00:{number:02x}\"\n\
         port = {{ driver = \"memory\", slots = 1024 }}\n{more}"
    )
}

/// A session.
pub(crate) fn session(name: &str, tenant: &str, identity: &Identity, sniffers: &[&str]) -> String {
    let mut text = format!(
        "[[decapsulator.session]]\nname = \"{name}\"\ntenant = \"{tenant}\"\nsource = \"{}\"\n\
         destination = \"{}\"\nformat = \"{}\"\nsniffers = {sniffers:?}\n",
        identity.source(),
        identity.destination(),
        identity.kind()
    );
    if let Some(id) = identity.id() {
        let _ = writeln!(text, "id = {id}");
    }
    text
}

pub(crate) fn config(text: &str) -> decapsulator::Decapsulator {
    let machine = Machine {
        cores: Vec::new(),
        memory_bytes: 0,
    };
    let alone = decapsulator::parse("decap.toml", text, &machine);
    alone
        .unwrap_or_else(|problems| panic!("{problems}"))
        .decapsulator
}

pub(crate) struct Bed {
    pub(crate) runtime: Runtime,
    drivers: Arc<Drivers>,
    pub(crate) tunnel: Endpoint,
    sniffers: HashMap<String, Endpoint>,
    /// Frames that were sent into the tunnel port.
    sent: u64,
}

impl Bed {
    pub(crate) fn new(text: &str) -> Self {
        let drivers = Arc::new(Drivers::default());
        let opener = Arc::clone(&drivers);
        let runtime = Runtime::start(
            config(text),
            Arc::new(move |name: &str, driver: &_| opener.open_driver(name, driver)),
        )
        .expect("it starts");
        let tunnel = drivers.take_far_end("decapsulator").expect("a tunnel port");
        Self {
            runtime,
            drivers,
            tunnel: Endpoint::new(tunnel),
            sniffers: HashMap::new(),
            sent: 0,
        }
    }

    pub(crate) fn apply(&self, text: &str) -> Result<(), ApplyError> {
        self.runtime.apply(config(text))
    }

    /// The far end of a sniffer's port.
    pub(crate) fn sniffer(&mut self, name: &str) -> &mut Endpoint {
        self.sniffers.entry(name.to_owned()).or_insert_with(|| {
            Endpoint::new(self.drivers.take_far_end(name).expect("a sniffer's port"))
        })
    }

    /// Sends a frame into the tunnel port, when there is room.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        let tunnel = &mut self.tunnel;
        wait_for("room in the tunnel port", || tunnel.send(frame));
        self.sent += 1;
    }

    /// Waits until every frame that was sent has become something, and holds the counters to their
    /// laws.
    pub(crate) fn settle(&self) -> view::Everything {
        wait_for("every frame is received", || {
            self.runtime.totals().received == self.sent
        });
        wait_for("no frame waits", || {
            self.runtime.sniffers().iter().all(|s| s.waiting == 0)
        });
        let all = self.runtime.everything();
        laws::check(&all).expect("the laws");
        all
    }

    /// What a sniffer got since it was asked last.
    pub(crate) fn got(&mut self, name: &str) -> Vec<Vec<u8>> {
        self.sniffer(name).drain()
    }
}
