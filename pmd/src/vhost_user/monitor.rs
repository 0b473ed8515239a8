//! Health, counters and details of a vhost-user port, for control and for people.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use vhost::vhost_user::VhostUserProtocolFeatures;

use super::{
    Config, PortHandle, Role,
    features::bit_names,
    queue::{Queue, Status, Tally},
};
use crate::{Counts, Details, Health, Monitor};

pub(super) struct VhostMonitor {
    socket: PathBuf,
    role: Role,
    handle: Arc<PortHandle>,
}

impl VhostMonitor {
    pub(super) fn new(config: &Config, handle: Arc<PortHandle>) -> Self {
        Self {
            socket: config.socket.clone(),
            role: config.role,
            handle,
        }
    }

    /// Why no frame can pass, if none can.
    fn trouble(&self, status: &Status) -> Option<String> {
        let socket = self.socket.display();
        let shared = &self.handle.shared;
        if status.connected.is_none() {
            let reason = status.reason.as_deref().unwrap_or("none has come yet");
            return Some(format!("no guest is connected to {socket}: {reason}"));
        }
        if let Some(violation) = shared.violation() {
            return Some(format!(
                "the guest on {socket} broke a rule: {violation}; \
                 the port works again when the guest's driver is reset (as a reboot does), or \
                 its front end connects anew"
            ));
        }
        (shared.active.load(Relaxed) == 0).then(|| {
            format!("the guest on {socket} has not started its network device (no driver yet?)")
        })
    }

    fn sum(&self, counter: fn(&Tally) -> &AtomicU64) -> u64 {
        let queues = self.handle.shared.queues.iter();
        queues
            .map(|queue: &Queue| counter(&queue.tally).load(Relaxed))
            .sum()
    }
}

impl Monitor for VhostMonitor {
    fn health(&mut self) -> Health {
        match self.trouble(&self.handle.shared.status()) {
            None => Health::Up,
            Some(why) => Health::Down(why),
        }
    }

    fn counts(&mut self) -> Counts {
        let status = self.handle.shared.status();
        let mut counts = vec![
            ("notifications_sent", self.sum(|tally| &tally.notified)),
            (
                "notifications_suppressed",
                self.sum(|tally| &tally.suppressed),
            ),
            ("wakeups", self.sum(|tally| &tally.woken)),
            (
                "ring_violations",
                u64::from(self.handle.shared.violations.load(Relaxed)),
            ),
            ("connections", status.connections),
            ("connections_refused", status.refused),
        ];
        counts.extend(self.handle.shared.segments.counts());
        counts
    }

    fn details(&mut self) -> Details {
        let status = self.handle.shared.status();
        let role = match self.role {
            Role::Client => "client",
            Role::Server => "server",
        };
        let mut details: Details = vec![
            ("role", role.into()),
            ("socket", self.socket.display().to_string()),
        ];
        match (self.trouble(&status), status.connected) {
            (Some(why), None) => details.push(("connected", format!("no: {why}"))),
            (trouble, Some(since)) => {
                let seconds = since.elapsed().as_secs();
                details.push(("connected", format!("for {seconds} s")));
                details.extend(trouble.map(|why| ("trouble", why)));
            }
            (None, None) => {}
        }
        details.extend(status.last_violation.map(|what| ("last violation", what)));
        if status.connected.is_some() {
            details.push(("features", bit_names(status.features)));
            details.push((
                "protocol features",
                protocol_names(status.protocol_features),
            ));
            details.push((
                "memory",
                format!("{} regions, {} bytes", status.regions, status.region_bytes),
            ));
            details.push((
                "migration log",
                if status.logging { "on" } else { "off" }.into(),
            ));
            for (number, queue) in status.queues.iter().enumerate() {
                details.push((NAMES[number % NAMES.len()], self.queue(number, queue)));
            }
        }
        details
    }
}

impl VhostMonitor {
    fn queue(&self, number: usize, queue: &Result<u16, String>) -> String {
        let tally = &self.handle.shared.queues[number].tally;
        let way = if number.is_multiple_of(2) {
            "to the guest"
        } else {
            "from the guest"
        };
        match queue {
            Ok(size) => format!(
                "{way}, {size} entries, {} notifications sent, {} suppressed",
                tally.notified.load(Relaxed),
                tally.suppressed.load(Relaxed)
            ),
            Err(why) => format!("{way}, {why}"),
        }
    }
}

/// Virtqueues by number: two for each of the most queue pairs.
const NAMES: [&str; 16] = [
    "virtqueue 0",
    "virtqueue 1",
    "virtqueue 2",
    "virtqueue 3",
    "virtqueue 4",
    "virtqueue 5",
    "virtqueue 6",
    "virtqueue 7",
    "virtqueue 8",
    "virtqueue 9",
    "virtqueue 10",
    "virtqueue 11",
    "virtqueue 12",
    "virtqueue 13",
    "virtqueue 14",
    "virtqueue 15",
];

fn protocol_names(bits: u64) -> String {
    let known = VhostUserProtocolFeatures::from_bits_truncate(bits);
    known
        .iter_names()
        .map(|(name, _)| name)
        .collect::<Vec<_>>()
        .join(" ")
}
