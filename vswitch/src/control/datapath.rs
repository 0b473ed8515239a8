//! What control asks of the datapath, so that its order of doing things can be tested without
//! one.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use pmd::Health;
use policy::{
    Epoch, FlowKey, NetworkId, PortId, RuleId, conntrack::Connections, snapshot::Snapshot,
};

use crate::{
    bridge::{MacRow, Moves},
    counters::{PortCounts, WorkerCounts},
    drop_watch::{Filter, Watch},
    engine::{DropRow, Engine, EngineError, FlowRow, Outlook, PortQueues, QueueRow, RuleHits},
    mirroring::Mirrors,
    services::plan::Plan,
};

/// The datapath, as [`Engine`] is it. What changes something returns when every worker has
/// acknowledged it.
#[allow(
    missing_docs,
    reason = "each is the method of the same name of `Engine`, documented there"
)]
#[allow(clippy::missing_errors_doc, reason = "documented at `Engine`")]
pub trait Datapath: Send + Sync {
    fn publish(&self, snapshot: Snapshot, mirrors: Arc<Mirrors>) -> Result<(), EngineError>;
    fn publish_mirrors(&self, mirrors: Arc<Mirrors>) -> Result<(), EngineError>;
    fn seek(&self, network: NetworkId, address: IpAddr);
    fn attach(&self, id: PortId, queues: PortQueues, workers: &[usize]) -> Result<(), EngineError>;
    fn detach(&self, id: PortId) -> Result<(), EngineError>;
    fn forget_addresses(&self, id: PortId);
    fn disabled_ports(&self) -> Vec<(PortId, u32)>;
    fn enable(&self, id: PortId) -> bool;
    fn serve(&self, plan: Plan);
    fn appeared(&self, id: PortId);
    fn disappeared(&self, id: PortId);
    fn assign(&self, id: PortId, queue: usize, worker: usize) -> Result<(), EngineError>;
    fn queues(&self) -> Vec<QueueRow>;
    fn port_counts(&self, id: PortId) -> PortCounts;
    fn retired_counts(&self) -> PortCounts;
    fn worker_counts(&self) -> Vec<WorkerCounts>;
    fn macs(&self) -> Vec<MacRow>;
    fn moves(&self) -> Moves;
    fn flows(&self, limit: usize) -> Result<Vec<FlowRow>, EngineError>;
    fn drops(&self) -> Vec<DropRow>;
    fn connections(&self) -> &Connections;
    fn now_s(&self) -> u32;
    /// What each rule that decided anything decided.
    fn rules(&self) -> Result<HashMap<RuleId, RuleHits>, EngineError>;
    fn outlook(&self) -> Outlook;
    fn look_up(
        &self,
        port: PortId,
        masked: &FlowKey,
        epoch: Epoch,
    ) -> Result<Vec<(usize, Option<FlowRow>)>, EngineError>;
    fn watch(&self, filter: Filter) -> Option<Watch>;
    fn now_ns(&self) -> u64;
    fn epoch(&self) -> Epoch;
    fn alive(&self) -> bool;
    fn stop(self: Box<Self>);
}

impl Datapath for Engine {
    fn publish(&self, snapshot: Snapshot, mirrors: Arc<Mirrors>) -> Result<(), EngineError> {
        Engine::publish(self, snapshot, mirrors)
    }
    fn publish_mirrors(&self, mirrors: Arc<Mirrors>) -> Result<(), EngineError> {
        Engine::publish_mirrors(self, mirrors)
    }
    fn seek(&self, network: NetworkId, address: IpAddr) {
        Engine::seek(self, network, address);
    }
    fn attach(&self, id: PortId, queues: PortQueues, workers: &[usize]) -> Result<(), EngineError> {
        Engine::attach(self, id, queues, workers)
    }
    fn detach(&self, id: PortId) -> Result<(), EngineError> {
        Engine::detach(self, id)
    }
    fn forget_addresses(&self, id: PortId) {
        Engine::forget_addresses(self, id);
    }
    fn disabled_ports(&self) -> Vec<(PortId, u32)> {
        Engine::disabled_ports(self)
    }
    fn enable(&self, id: PortId) -> bool {
        Engine::enable(self, id)
    }
    fn serve(&self, plan: Plan) {
        Engine::serve(self, plan);
    }
    fn appeared(&self, id: PortId) {
        Engine::appeared(self, id);
    }
    fn disappeared(&self, id: PortId) {
        Engine::disappeared(self, id);
    }
    fn assign(&self, id: PortId, queue: usize, worker: usize) -> Result<(), EngineError> {
        Engine::assign(self, id, queue, worker)
    }
    fn queues(&self) -> Vec<QueueRow> {
        Engine::queues(self)
    }
    fn port_counts(&self, id: PortId) -> PortCounts {
        Engine::port_counts(self, id)
    }
    fn retired_counts(&self) -> PortCounts {
        Engine::retired_counts(self)
    }
    fn worker_counts(&self) -> Vec<WorkerCounts> {
        Engine::worker_counts(self)
    }
    fn macs(&self) -> Vec<MacRow> {
        Engine::macs(self)
    }
    fn moves(&self) -> Moves {
        Engine::moves(self)
    }
    fn flows(&self, limit: usize) -> Result<Vec<FlowRow>, EngineError> {
        Engine::flows(self, limit)
    }
    fn drops(&self) -> Vec<DropRow> {
        Engine::drops(self)
    }
    fn connections(&self) -> &Connections {
        Engine::connections(self)
    }
    fn now_s(&self) -> u32 {
        Engine::now_s(self)
    }
    fn rules(&self) -> Result<HashMap<RuleId, RuleHits>, EngineError> {
        Engine::rules(self)
    }
    fn outlook(&self) -> Outlook {
        Engine::outlook(self)
    }
    fn look_up(
        &self,
        port: PortId,
        masked: &FlowKey,
        epoch: Epoch,
    ) -> Result<Vec<(usize, Option<FlowRow>)>, EngineError> {
        Engine::look_up(self, port, masked, epoch)
    }
    fn watch(&self, filter: Filter) -> Option<Watch> {
        Engine::watch(self, filter)
    }
    fn now_ns(&self) -> u64 {
        Engine::now_ns(self)
    }
    fn epoch(&self) -> Epoch {
        Engine::epoch(self)
    }
    fn alive(&self) -> bool {
        Engine::alive(self)
    }
    fn stop(self: Box<Self>) {
        Engine::stop(*self);
    }
}

/// A port's condition after its monitor said `health`; `None` when the port must be closed.
pub(super) fn condition(health: Health) -> Result<super::Condition, String> {
    match health {
        Health::Up => Ok(super::Condition::Up),
        Health::Down(reason) => Ok(super::Condition::Down(reason)),
        Health::Gone(reason) => Err(reason),
    }
}
