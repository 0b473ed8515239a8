//! One change of the desired state, as a transaction under traffic.
//!
//! In: the running configuration and the wanted one. Out: the wanted one runs, or the running one
//! as before. The order, and why:
//!
//! 1. open the new ports: most of what can fail fails here, before anything changed;
//! 2. close what a new port needs (the same interface or name) and open that;
//! 3. publish the snapshot: policy of new ports is in force before their first frame, and ports
//!    that go are without policy, so their frames drop;
//! 4. attach the new ports;
//! 5. detach the ports that go, and only then release their numbers.

use std::{collections::BTreeMap, sync::Arc};

use policy::{Epoch, PortId, model::Model, snapshot::Snapshot};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Condition, Control, ControlError, Hands, Opened, Origin, PortState,
    compile::{self, Made},
    cost,
    diff::{self, Change},
    ids::Renumbered,
    mirrors::Resolution,
    routes::RouteEdits,
    supervisor::Retry,
};
use crate::{
    config::{self, Config, lists::Lists, types::Port},
    decap::ApplyError,
};

/// What applying a configuration did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// True when nothing was done but looking.
    pub dry_run: bool,
    /// The epoch that is in force now.
    pub epoch: u64,
    /// What differed.
    pub changes: Vec<Change>,
    /// Ports that wait for what they attach to, with the reason.
    pub waiting: Vec<String>,
}

fn refused(error: ApplyError) -> ControlError {
    match error {
        ApplyError::Restart(what) => ControlError::Restart(vec![what.to_owned()]),
        other => ControlError::Refused(other.to_string()),
    }
}

/// What happens to ports.
struct Plan<'c> {
    /// Opened before anything is closed.
    open: Vec<&'c Port>,
    /// Closed before the snapshot changes, because `reopen` needs what they hold.
    close_first: Vec<&'c Port>,
    /// Opened after `close_first`.
    reopen: Vec<&'c Port>,
    /// Closed at the end.
    close_last: Vec<&'c Port>,
    /// Kept, with another placement on workers.
    replace: Vec<&'c Port>,
}

impl<'c> Plan<'c> {
    fn new(running: &'c Config, wanted: &'c Config) -> Self {
        let find = |config: &'c Config, name: &str| config.ports.iter().find(|p| &*p.name == name);
        let kept = |name: &str| match (find(running, name), find(wanted, name)) {
            (Some(old), Some(new)) => !diff::must_reopen(old, new),
            _ => false,
        };
        let going: Vec<_> = running.ports.iter().filter(|p| !kept(&p.name)).collect();
        let coming: Vec<_> = wanted.ports.iter().filter(|p| !kept(&p.name)).collect();
        let clash = |a: &Port, b: &Port| {
            let same = |x: Option<&str>, y: Option<&str>| x.is_some() && x == y;
            a.name == b.name
                || same(a.driver.interface(), b.driver.interface())
                || (a.driver.output().is_some() && a.driver.output() == b.driver.output())
                || (a.driver.socket().is_some() && a.driver.socket() == b.driver.socket())
        };
        let (close_first, close_last) = going
            .iter()
            .partition(|old| coming.iter().any(|new| clash(old, new)));
        let (reopen, open) = coming
            .iter()
            .partition(|new| going.iter().any(|old| clash(old, new)));
        let replace = wanted
            .ports
            .iter()
            .filter(|new| kept(&new.name))
            .filter(|new| find(running, &new.name).is_some_and(|old| old.workers != new.workers))
            .collect();
        Self {
            open,
            close_first,
            reopen,
            close_last,
            replace,
        }
    }
}

impl Control {
    /// Applies a configuration's text.
    ///
    /// # Errors
    ///
    /// [`ControlError`]; the running configuration goes on.
    pub fn apply(&self, origin: Origin, dry_run: bool) -> Result<Applied, ControlError> {
        let wanted = self.read(&origin)?;
        let mut hands = self.hands.lock();
        self.apply_locked(
            &mut hands,
            (origin, wanted),
            &RouteEdits::default(),
            dry_run,
        )
    }

    /// Adds a port to the running configuration. `port` holds the fields of a `[[port]]`, as
    /// TOML.
    ///
    /// # Errors
    ///
    /// As [`Control::apply`].
    pub fn add_port(&self, port: &str) -> Result<Applied, ControlError> {
        // A body with headers of its own could bring anything in behind the port.
        let header = |line: &str| line.trim_start().starts_with('[');
        if port.lines().any(header) {
            let refusal = "send only the fields of one port, without [headers]";
            return Err(ControlError::Refused(refusal.into()));
        }
        self.edit(|text| Ok(config::append_port(text, port)))
    }

    /// Removes a port from the running configuration.
    ///
    /// # Errors
    ///
    /// As [`Control::apply`]; also when there is no such port or it is still referred to.
    pub fn remove_port(&self, name: &str) -> Result<Applied, ControlError> {
        self.port_id(name)?;
        self.edit(|text| {
            config::remove_port(text, name)
                .map_err(|error| ControlError::Refused(format!("port \"{name}\": {error}")))
        })
    }

    /// Reads a configuration, as one that comes after the running one.
    fn read(&self, wanted: &Origin) -> Result<Config, ControlError> {
        let (running, before) = {
            let state = self.state.read();
            (Arc::clone(&state.config), Arc::clone(&state.origin))
        };
        let after = (&*before.text, &*running);
        let config = config::parse_after(after, &wanted.file, &wanted.text, &self.machine);
        Ok(config?)
    }

    /// Applies the running configuration with its text edited.
    pub(super) fn edit(
        &self,
        edit: impl FnOnce(&str) -> Result<String, ControlError>,
    ) -> Result<Applied, ControlError> {
        let mut hands = self.hands.lock();
        let running = Arc::clone(&self.state.read().origin);
        let origin = Origin {
            file: running.file.clone(),
            text: edit(&running.text)?,
        };
        let wanted = self.read(&origin)?;
        let edits = hands.route_edits.clone();
        self.apply_locked(&mut hands, (origin, wanted), &edits, false)
    }

    fn apply_locked(
        &self,
        hands: &mut Hands,
        (origin, wanted): (Origin, Config),
        edits: &RouteEdits,
        dry_run: bool,
    ) -> Result<Applied, ControlError> {
        let running = self.config();
        let reasons = diff::needs_restart(&running, &wanted);
        if !reasons.is_empty() {
            return Err(ControlError::Restart(reasons));
        }
        self.decap.check(&wanted).map_err(refused)?;
        let changes = diff::changes(&running, &wanted);
        let mut applied = Applied {
            dry_run,
            epoch: hands.epoch,
            changes,
            waiting: Vec::new(),
        };
        if dry_run {
            return Ok(applied);
        }
        let plan = Plan::new(&running, &wanted);
        let Done {
            mut ports,
            rules,
            mirrors,
        } = self.transact(hands, &plan, &running, (&wanted, edits))?;
        applied.epoch = hands.epoch;
        for (name, port) in &ports {
            if let Condition::Waiting(reason) = &port.condition {
                applied.waiting.push(format!("{name}: {reason}"));
            }
        }
        let decap = self.decap.follow(&wanted);
        let mut state = self.state.write();
        for (name, port) in std::mem::take(&mut state.ports) {
            if wanted.ports.iter().any(|wanted| wanted.name == name) {
                ports.entry(name).or_insert(port);
            }
        }
        state.ports = ports;
        state.config = Arc::new(wanted);
        state.origin = Arc::new(origin);
        state.ids = hands.ids.clone();
        state.rules.put_in_force(rules.numbered);
        drop(state);
        self.commit(hands, mirrors);
        hands.made = rules.made;
        hands.model = rules.model;
        hands.route_edits = edits.clone();
        hands.work = rules.work;
        self.keep_host_routes(hands);
        tracing::info!(
            epoch = applied.epoch,
            changes = applied.changes.len(),
            rules_compiled = hands.work.compiled,
            "configuration applied"
        );
        decap.map_err(|error| {
            let what = "the switch follows the configuration, and the decapsulator does not";
            ControlError::Refused(format!("{what}: {error}"))
        })?;
        Ok(applied)
    }

    /// Steps 1 to 5.
    fn transact(
        &self,
        hands: &mut Hands,
        plan: &Plan<'_>,
        running: &Config,
        (wanted, edits): (&Config, &RouteEdits),
    ) -> Result<Done, ControlError> {
        let compiled = self.open_all(&plan.open).and_then(|opened| {
            let (snapshot, rules) = self.compile(hands, wanted, edits)?;
            Ok((opened, snapshot, rules))
        });
        let (mut opened, snapshot, rules) = match compiled {
            Ok(compiled) => compiled,
            Err(error) => {
                hands.ids = self.ids_in_force();
                return Err(error);
            }
        };
        let mirrors = self.resolve_mirrors(hands, wanted, &snapshot);
        let mut attached = Vec::new();
        let result = (|| {
            for port in &plan.close_first {
                self.close(hands, port)?;
            }
            opened.extend(self.open_all(&plan.reopen)?);
            self.datapath
                .publish(snapshot, Arc::clone(&mirrors.mirrors))?;
            self.datapath.serve(super::plan::plan(wanted, &hands.ids));
            self.attach_all(hands, std::mem::take(&mut opened), &mut attached)
        })();
        let states = match result {
            Ok(states) => states,
            Err(error) => {
                drop(opened);
                self.restore(hands, plan, running, &attached);
                return Err(error);
            }
        };
        for port in &plan.close_last {
            if let Err(error) = self.close(hands, port) {
                tracing::error!(port = %port.name, %error, "port not detached cleanly");
            }
        }
        for port in &plan.replace {
            self.place(hands, port);
        }
        let kept = |name: &str| wanted.ports.iter().any(|port| &*port.name == name);
        hands.ids.ports.retain(kept);
        let kept = |name: &str| wanted.networks.iter().any(|network| &*network.name == name);
        hands.ids.networks.retain(kept);
        Ok(Done {
            ports: states,
            rules,
            mirrors,
        })
    }

    /// The numbers that the running configuration has.
    fn ids_in_force(&self) -> super::Ids {
        self.state.read().ids.clone()
    }

    fn open_all<'c>(&self, ports: &[&'c Port]) -> Result<Vec<(&'c Port, Opened)>, ControlError> {
        let opened = ports.iter().map(|port| Ok((*port, self.open(port)?)));
        opened.collect()
    }

    fn attach_all<'c>(
        &self,
        hands: &mut Hands,
        opened: Vec<(&'c Port, Opened)>,
        attached: &mut Vec<&'c Port>,
    ) -> Result<BTreeMap<Arc<str>, PortState>, ControlError> {
        let mut states = BTreeMap::new();
        for (port, open) in opened {
            let id = hands.ids.port(&port.name).ok_or(ControlError::TooMany)?;
            let state = match open {
                Opened::Open(open) => {
                    let (info, condition) = self.attach(hands, id, port, *open)?;
                    attached.push(port);
                    PortState::new(id, condition, Some(info))
                }
                Opened::Missing(reason) => {
                    self.datapath.disappeared(id);
                    tracing::warn!(port = %port.name, "port waits: {reason}");
                    hands.retries.insert(Arc::clone(&port.name), Retry::soon());
                    PortState::new(id, Condition::Waiting(reason), None)
                }
            };
            states.insert(Arc::clone(&port.name), state);
        }
        Ok(states)
    }

    /// Takes a port from the workers, which closes it.
    pub(super) fn close(&self, hands: &mut Hands, port: &Port) -> Result<(), ControlError> {
        hands.retries.remove(&port.name);
        if hands.monitors.remove(&port.name).is_none() {
            return Ok(());
        }
        if let Some(id) = hands.ids.port(&port.name) {
            self.datapath.detach(id)?;
        }
        tracing::info!(port = %port.name, "port detached");
        Ok(())
    }

    /// Goes back to the running configuration after a step failed.
    fn restore(&self, hands: &mut Hands, plan: &Plan<'_>, running: &Config, attached: &[&Port]) {
        for port in attached {
            if let Err(error) = self.close(hands, port) {
                tracing::error!(port = %port.name, %error, "port not detached cleanly");
            }
        }
        for port in plan.open.iter().chain(&plan.reopen) {
            hands.retries.remove(&port.name);
        }
        hands.ids = self.ids_in_force();
        // Its rules are in force still, with the numbers that they have.
        let edits = hands.route_edits.clone();
        let compiled = self.compile(hands, running, &edits);
        let published = compiled.and_then(|(snapshot, _)| {
            let mirrors = self.resolve_mirrors(hands, running, &snapshot).mirrors;
            Ok(self.datapath.publish(snapshot, mirrors)?)
        });
        self.datapath.serve(super::plan::plan(running, &hands.ids));
        if let Err(error) = published {
            tracing::error!(%error, "the running policy could not be published again");
        }
        for port in &plan.close_first {
            // The supervisor opens it as it opens any port that is not there.
            hands.retries.insert(Arc::clone(&port.name), Retry::now());
            if let Some(state) = self.state.write().ports.get_mut(&port.name) {
                state.set(Condition::Waiting(
                    "opened again after a failed change".into(),
                ));
            }
        }
        self.reopen_due(hands);
    }

    /// Moves a kept port's queues to the workers that are wanted now.
    fn place(&self, hands: &Hands, port: &Port) {
        let Some(id): Option<PortId> = hands.ids.port(&port.name) else {
            return;
        };
        for (queue, worker) in port.workers.iter().enumerate() {
            if let Err(error) = self.datapath.assign(id, queue, *worker) {
                tracing::warn!(port = %port.name, queue, worker, %error, "queue not assigned");
            }
        }
    }

    /// A configuration's policy, with an epoch of its own: an epoch whose publishing failed half-way
    /// is never used for another snapshot.
    fn compile(
        &self,
        hands: &mut Hands,
        config: &Config,
        edits: &RouteEdits,
    ) -> Result<(Snapshot, InForce), ControlError> {
        let number = |lists: &Lists<'_>| self.state.read().rules.renumber(&config.file, lists);
        let draft = compile::model(config, &mut hands.ids, number, &hands.made);
        let mut draft = draft.ok_or(ControlError::TooMany)?;
        edits.put_into(&mut draft.model);
        hands.epoch += 1;
        let compiled = hands.compiler.compile(&draft.model, Epoch(hands.epoch));
        let mut snapshot = compiled.map_err(ControlError::Compile)?;
        let work = Work {
            numbered: draft.rules.looked_at,
            made: draft.rules_made,
            compiled: hands.compiler.rules_read(),
        };
        if cost::within(&snapshot, config.policy.max_lookup_cost).is_err() {
            // A list that was changed may cost somewhat more than the same list compiled whole.
            let whole = Snapshot::compile(&draft.model, Epoch(hands.epoch));
            snapshot = whole.map_err(ControlError::Compile)?;
            cost::within(&snapshot, config.policy.max_lookup_cost)?;
        }
        let rules = InForce {
            numbered: draft.rules,
            made: draft.made,
            model: draft.model,
            work,
        };
        let snapshot = snapshot.with_connections(config.connections.settings);
        Ok((snapshot, rules))
    }
}

/// What came into force with a transaction.
struct Done {
    /// What is known of the ports that were opened.
    ports: BTreeMap<Arc<str>, PortState>,
    rules: InForce,
    mirrors: Resolution,
}

/// The rules of a snapshot, for the next one to be made after.
struct InForce {
    numbered: Renumbered,
    made: Made,
    model: Model,
    work: Work,
}

/// How many rules a change had looked at one by one, the others being those in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// To give them numbers.
    pub(super) numbered: usize,
    /// To make plain rules of them.
    pub(super) made: usize,
    /// To compile them.
    pub(super) compiled: usize,
}
