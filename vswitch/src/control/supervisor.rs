//! Watching the ports: what is gone is detached, what is missing is opened when it comes.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::{Duration, Instant},
};

use pmd::OpenError;
use policy::{PortId, model::SpanningTree};

use super::{Condition, Control, Hands};

/// Between two looks at the ports.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// A look begins no further attempt after so long: an attempt may wait for a device that its
/// former owner has not let go yet, and whoever wants to change something waits for the look.
const LONGEST_LOOK: Duration = Duration::from_millis(200);

/// When to try again to open a port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    at: Instant,
    pause: Duration,
}

impl Retry {
    /// At the next look.
    pub(super) fn now() -> Self {
        Self {
            at: Instant::now(),
            pause: FIRST_RETRY,
        }
    }

    /// After the shortest pause.
    pub(super) fn soon() -> Self {
        Self {
            at: Instant::now() + FIRST_RETRY,
            pause: FIRST_RETRY,
        }
    }

    /// After one more failure.
    fn later(self) -> Self {
        let pause = (self.pause * 2).min(LONGEST_RETRY);
        Self {
            at: Instant::now() + pause,
            pause,
        }
    }
}

impl Control {
    /// Looks at the ports until `stop` is set.
    pub fn supervise(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            self.look();
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    /// One look at every port, and at the rule lists.
    pub fn look(&self) {
        let mut hands = self.hands.lock();
        self.check_health(&mut hands);
        self.reopen_due(&mut hands);
        self.keep_host_routes(&mut hands);
        self.tend_mirrors(&mut hands);
        drop(hands);
        self.renew_rules();
    }

    /// Compiles a rule list whole that changes have worn, for the next change. Nobody waits for it.
    fn renew_rules(&self) {
        let worn = self.hands.lock().compiler.worn();
        if let Some(worn) = worn {
            let renewed = worn.renew();
            self.hands.lock().compiler.adopt(renewed);
        }
    }

    /// The ports that are disabled, after those were enabled whose time has come, or that are not
    /// to be disabled any more.
    fn disabled(&self) -> HashMap<PortId, Condition> {
        let mut disabled = HashMap::new();
        let mut rows = self.datapath.disabled_ports();
        if rows.is_empty() {
            return disabled;
        }
        let (config, names) = (self.config(), self.port_names());
        rows.retain(|(id, since_s)| {
            let port = config
                .ports
                .iter()
                .find(|port| names.get(id).is_some_and(|name| **name == *port.name));
            let stays = port.is_some_and(|port| {
                let is_over = port
                    .enable_after_s
                    .is_some_and(|after_s| *since_s >= after_s);
                port.spanning_tree == SpanningTree::Disable && !is_over
            });
            stays || !self.datapath.enable(*id)
        });
        for (id, _) in rows {
            let name = names.get(&id).map_or("?", |name| name);
            let why = format!(
                "a spanning tree frame came: a bridge is behind it. Take it away, then `vswitch port enable {name}`"
            );
            disabled.insert(id, Condition::Disabled(why));
        }
        disabled
    }

    pub(super) fn check_health(&self, hands: &mut Hands) {
        let mut gone = Vec::new();
        let mut went_down = Vec::new();
        let mut disabled = self.disabled();
        for (name, monitor) in &mut hands.monitors {
            let health = super::datapath::condition(monitor.health());
            let counts = monitor.counts();
            let details = monitor.details();
            let mut state = self.state.write();
            let Some(port) = state.ports.get_mut(name) else {
                continue;
            };
            port.counts = counts;
            port.details = details;
            match health {
                Ok(condition) => {
                    let condition = disabled.remove(&port.id).unwrap_or(condition);
                    if port.condition != condition {
                        match &condition {
                            Condition::Up => {
                                tracing::info!(port = %name, "port up");
                                self.datapath.appeared(port.id);
                            }
                            Condition::Down(why) | Condition::Waiting(why) => {
                                tracing::warn!(port = %name, "port down: {why}");
                            }
                            Condition::Disabled(why) => {
                                tracing::warn!(port = %name, "port disabled: {why}");
                            }
                        }
                        if port.condition == Condition::Up {
                            went_down.push(port.id);
                        }
                    }
                    port.set(condition);
                }
                Err(reason) => gone.push((Arc::clone(name), port.id, reason)),
            }
        }
        // What was behind them may be elsewhere by now: frames to it are flooded, not lost here.
        for id in went_down {
            self.datapath.forget_addresses(id);
            self.datapath.disappeared(id);
        }
        for (name, id, reason) in gone {
            tracing::warn!(port = %name, "port gone: {reason}; it is attached again when it returns");
            hands.monitors.remove(&name);
            self.datapath.disappeared(id);
            if let Err(error) = self.datapath.detach(id) {
                tracing::error!(port = %name, %error, "port not detached cleanly");
            }
            hands.retries.insert(Arc::clone(&name), Retry::soon());
            if let Some(port) = self.state.write().ports.get_mut(&name) {
                port.set(Condition::Waiting(reason));
            }
        }
    }

    /// Tries the ports that wait and whose pause is over, those first that are due longest. What
    /// [`LONGEST_LOOK`] leaves untried stays due.
    pub(super) fn reopen_due(&self, hands: &mut Hands) {
        let now = Instant::now();
        let mut due: Vec<_> = hands
            .retries
            .iter()
            .filter(|(_, retry)| retry.at <= now)
            .map(|(name, retry)| (Arc::clone(name), *retry))
            .collect();
        due.sort_by_key(|(_, retry)| retry.at);
        let config = self.config();
        for (name, retry) in due {
            if now.elapsed() > LONGEST_LOOK {
                break;
            }
            let Some(port) = config.ports.iter().find(|port| port.name == name) else {
                hands.retries.remove(&name);
                continue;
            };
            let Some(id) = hands.ids.port(&name) else {
                continue;
            };
            let outcome = self.open_checked(port).map_err(|error| match error {
                OpenError::Missing(reason) => reason,
                other => other.to_string(),
            });
            let outcome = outcome.and_then(|open| {
                self.attach(hands, id, port, open)
                    .map_err(|error| error.to_string())
            });
            let mut state = self.state.write();
            let Some(known) = state.ports.get_mut(&name) else {
                continue;
            };
            match outcome {
                Ok((info, condition)) => {
                    hands.retries.remove(&name);
                    known.info = Some(info);
                    known.reattached += 1;
                    known.set(condition);
                }
                Err(reason) => {
                    hands.retries.insert(Arc::clone(&name), retry.later());
                    if known.condition != Condition::Waiting(reason.clone()) {
                        tracing::warn!(port = %name, "port waits: {reason}");
                    }
                    known.set(Condition::Waiting(reason));
                }
            }
        }
    }
}
