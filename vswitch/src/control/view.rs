//! What readers are shown: the datapath's numbers with names put to them.

use std::{
    collections::{BTreeMap, HashMap},
    slice,
};

use policy::{Field, FlowKey, PortId};

use super::{Condition, Control, State};
use crate::{
    api::types,
    config::types::{Attachment, Port},
    counters::{PortCounts, WorkerCounts},
    engine::{DropRow, FlowVerdict, QueueRow},
};

impl Control {
    /// Every port.
    pub fn ports(&self) -> Vec<types::Port> {
        let queues = self.datapath.queues();
        let counts = self.counts_of_ports();
        let state = self.state.read();
        let ports = state.config.ports.iter();
        ports
            .filter_map(|port| port_row(&state, port, &queues, &counts))
            .collect()
    }

    /// One port, by name.
    ///
    /// # Errors
    ///
    /// [`super::ControlError::NotFound`], with the nearest name.
    pub fn port(&self, name: &str) -> Result<types::Port, super::ControlError> {
        self.port_id(name)?;
        let mut ports = self.ports().into_iter();
        ports
            .find(|port| port.name == name)
            .ok_or_else(|| super::ControlError::NotFound {
                message: format!("port \"{name}\" was just removed"),
                help: String::new(),
            })
    }

    /// Every receive queue.
    pub fn queues(&self) -> Vec<types::Queue> {
        let rows = self.datapath.queues();
        let names = self.port_names();
        rows.iter().map(|row| queue_row(row, &names)).collect()
    }

    /// Every worker.
    pub fn workers(&self) -> Vec<types::Worker> {
        let counts = self.datapath.worker_counts();
        counts.iter().map(worker_row).collect()
    }

    /// Every learned address, by network and address.
    pub fn macs(&self) -> Vec<types::Mac> {
        let mut rows = self.datapath.macs();
        let ports = self.port_names();
        let state = self.state.read();
        let networks: HashMap<_, _> = state
            .config
            .networks
            .iter()
            .filter_map(|n| Some((state.ids.network(&n.name)?, n.name.to_string())))
            .collect();
        rows.sort_by_key(|row| (row.network, row.mac));
        let macs = rows.iter().map(|row| types::Mac {
            network: networks.get(&row.network).cloned().unwrap_or_default(),
            mac: row.mac.to_string(),
            port: name_of(&ports, row.port),
            age_s: row.age_s,
            held_s: row.held_s,
        });
        macs.collect()
    }

    /// Entries of the flow caches, at most `limit` of each worker.
    ///
    /// # Errors
    ///
    /// When a worker does not answer.
    pub fn flows(&self, limit: usize) -> Result<Vec<types::Flow>, super::ControlError> {
        let rows = self.datapath.flows(limit)?;
        let ports = self.port_names();
        let flows = rows.iter().map(|row| types::Flow {
            worker: row.worker,
            port: name_of(&ports, row.ingress),
            fields: fields(&row.key),
            verdict: verdict(&row.verdict, &ports),
            hits: row.hits,
        });
        Ok(flows.collect())
    }

    /// Drops, the most frequent first.
    pub fn drops(&self) -> Vec<types::Drop> {
        let mut rows = self.datapath.drops();
        let ports = self.port_names();
        let state = self.state.read();
        rows.sort_by(|a, b| {
            let key = |row: &DropRow| (row.port, row.denial.reason as u8, row.denial.rule);
            b.frames.cmp(&a.frames).then(key(a).cmp(&key(b)))
        });
        let drops = rows.iter().filter(|row| row.frames > 0).map(|row| {
            let port = name_of(&ports, row.port);
            let vnic = state.config.vnics.iter().find(|vnic| *vnic.port == *port);
            types::Drop {
                reason: row.denial.reason.name().to_owned(),
                stage: row.denial.reason.stage().name().to_owned(),
                text: row.denial.reason.text().to_owned(),
                itemised: row.itemised,
                rule: row.denial.rule.map(|id| rule_row(&state, id)),
                vm: vnic.map(|vnic| vnic.vm.to_string()),
                port,
                frames: row.frames,
            }
        });
        drops.collect()
    }

    /// Every rule in force and what it decided, in the order of their ACLs.
    ///
    /// # Errors
    ///
    /// When a worker does not answer.
    pub fn rules(&self) -> Result<Vec<types::RuleHits>, super::ControlError> {
        let hits = self.datapath.rules()?;
        let now_s = (self.datapath.now_ns() / 1_000_000_000) as u32;
        let state = self.state.read();
        let row = |id| {
            let hits = hits.get(&id);
            types::RuleHits {
                rule: rule_row(&state, id),
                passed: hits.map_or(0, |hits| hits.passed),
                dropped: hits.map_or(0, |hits| hits.dropped),
                last_hit_s_ago: hits.map(|hits| now_s.saturating_sub(hits.last_s)),
            }
        };
        let mut rows: Vec<_> = state.rules.live().map(row).collect();
        rows.sort_by(|a, b| {
            let (a, b) = (&a.rule, &b.rule);
            (&a.acl, a.position, a.id).cmp(&(&b.acl, b.position, b.id))
        });
        Ok(rows)
    }

    /// Everything that is counted.
    pub fn stats(&self) -> types::Stats {
        let ports: Vec<_> = {
            let state = self.state.read();
            let ports = state.config.ports.iter();
            ports
                .filter_map(|port| Some((port.name.to_string(), state.ports.get(&port.name)?.id)))
                .collect()
        };
        let ports = ports.into_iter().map(|(name, id)| types::PortStats {
            name,
            counts: counts_row(self.datapath.port_counts(id)),
        });
        let (table, moved) = (self.datapath.connections(), self.datapath.moves());
        types::Stats {
            epoch: self.datapath.epoch().0,
            uptime_s: self.started.elapsed().as_secs(),
            ports: ports.collect(),
            removed_ports: counts_row(self.datapath.retired_counts()),
            workers: self.workers(),
            connections: types::ConnectionStats {
                live: table.len(),
                max: table.capacity(),
                opened: table.opened(),
                expired: table.expired(),
            },
            macs: types::MacStats {
                moves: moved.moves,
                flaps: moved.flaps,
            },
        }
    }

    /// The running configuration's text.
    pub fn config_text(&self) -> types::Config {
        let epoch = self.datapath.epoch().0;
        let state = self.state.read();
        types::Config {
            file: state.origin.file.clone(),
            epoch,
            text: state.origin.text.clone(),
        }
    }

    /// Whether the switch is well.
    pub fn health(&self) -> types::Health {
        let (alive, epoch) = (self.datapath.alive(), self.datapath.epoch().0);
        let state = self.state.read();
        let not_up = state.ports.iter().filter_map(|(name, port)| {
            let (state, reason) = condition(&port.condition);
            (state != "up").then(|| format!("{name} is {state}: {reason}"))
        });
        types::Health {
            alive,
            epoch,
            uptime_s: self.started.elapsed().as_secs(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ports_not_up: not_up.collect(),
        }
    }

    pub(super) fn port_names(&self) -> HashMap<PortId, String> {
        let state = self.state.read();
        let ports = state.ports.iter();
        ports
            .map(|(name, port)| (port.id, name.to_string()))
            .collect()
    }

    /// Every port's counts. The datapath is asked while nothing is locked: it may make its
    /// caller wait for workers, and whoever waits for `state` would wait too.
    fn counts_of_ports(&self) -> HashMap<PortId, types::PortCounts> {
        let ports = self.port_names().into_keys();
        ports
            .map(|id| (id, counts_row(self.datapath.port_counts(id))))
            .collect()
    }
}

fn port_row(
    state: &State,
    port: &Port,
    queues: &[QueueRow],
    counts: &HashMap<PortId, types::PortCounts>,
) -> Option<types::Port> {
    let known = state.ports.get(&port.name)?;
    let vnic = state
        .config
        .vnics
        .iter()
        .find(|vnic| vnic.port == port.name);
    let (word, reason) = condition(&known.condition);
    let (networks, trunk, native) = match &port.attachment {
        Attachment::Access(network) => (vec![network.to_string()], false, None),
        Attachment::Trunk { tagged, native } => (
            tagged.iter().map(ToString::to_string).collect(),
            true,
            native.as_ref().map(ToString::to_string),
        ),
    };
    let names = HashMap::from([(known.id, port.name.to_string())]);
    let info = known.info.as_ref();
    Some(types::Port {
        name: port.name.to_string(),
        id: known.id.0,
        driver: port.driver.name().to_owned(),
        interface: port.driver.interface().unwrap_or_default().to_owned(),
        socket: port
            .driver
            .socket()
            .map_or_else(String::new, |path| path.display().to_string()),
        state: word.to_owned(),
        reason: reason.to_owned(),
        since_s: known.since.elapsed().as_secs(),
        mode: info.map(|info| info.mode.clone()).unwrap_or_default(),
        max_frame_bytes: info.map_or(0, |info| info.max_frame_bytes as u64),
        notes: info.map(|info| info.notes.clone()).unwrap_or_default(),
        networks,
        trunk,
        native,
        isolated: port.isolated,
        vnic: vnic.map(|vnic| vnic.name.to_string()),
        vm: vnic.map(|vnic| vnic.vm.to_string()),
        queues: queues
            .iter()
            .filter(|row| row.port == known.id)
            .map(|row| queue_row(row, &names))
            .collect(),
        reattached: known.reattached,
        driver_counts: known
            .counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect(),
        details: known
            .details
            .iter()
            .map(|(name, text)| types::Detail {
                name: (*name).to_owned(),
                text: text.clone(),
            })
            .collect(),
        counts: counts.get(&known.id).cloned().unwrap_or_default(),
    })
}

fn condition(condition: &Condition) -> (&'static str, &str) {
    match condition {
        Condition::Up => ("up", ""),
        Condition::Down(reason) => ("down", reason),
        Condition::Disabled(reason) => ("disabled", reason),
        Condition::Waiting(reason) => ("waiting", reason),
    }
}

pub(super) fn name_of(names: &HashMap<PortId, String>, id: PortId) -> String {
    names.get(&id).cloned().unwrap_or_else(|| removed(id))
}

/// What a port is called that is no more.
pub(super) fn removed(id: PortId) -> String {
    format!("(removed port {})", id.0)
}

fn queue_row(row: &QueueRow, names: &HashMap<PortId, String>) -> types::Queue {
    types::Queue {
        port: name_of(names, row.port),
        queue: row.queue,
        worker: row.worker,
    }
}

pub(super) fn rule_row(state: &State, id: policy::RuleId) -> types::Rule {
    match state.rules.written_of(id) {
        Some(written) => types::Rule {
            id: id.0,
            acl: written.place.acl.to_string(),
            position: written.place.position,
            text: written.text.to_string(),
            place: written.place.to_string(),
        },
        None => types::Rule {
            id: id.0,
            acl: String::new(),
            position: 0,
            text: "(a rule that is gone)".into(),
            place: String::new(),
        },
    }
}

fn counts_row(counts: PortCounts) -> types::PortCounts {
    types::PortCounts {
        rx_frames: counts.rx_frames,
        rx_bytes: counts.rx_bytes,
        tx_frames: counts.tx_frames,
        tx_bytes: counts.tx_bytes,
        replicas: counts.replicas,
        forwarded: counts.forwarded,
        offered: counts.offered,
        originated: counts.originated,
        taken: counts.taken,
        returned: counts.returned,
        cache_hits: counts.cache_hits,
        cache_misses: counts.cache_misses,
        drops: counts
            .drops
            .into_iter()
            .map(|(reason, count)| (reason.name().to_owned(), count))
            .collect(),
    }
}

fn worker_row(counts: &WorkerCounts) -> types::Worker {
    types::Worker {
        worker: counts.worker,
        core: counts.core,
        frames: counts.frames,
        bytes: counts.bytes,
        bursts: counts.bursts,
        turns: counts.turns,
        cache_hits: counts.cache_hits,
        cache_misses: counts.cache_misses,
        budget_drops: counts.budget_drops,
        cache_entries: counts.cache_entries,
        busy_cycles: counts.busy_cycles,
        cycles_per_frame: counts.cycles_per_frame(),
        sleep_share: counts.sleep_share(),
        blocks: counts.blocks,
    }
}

/// What becomes of a flow's frames, in words.
pub(super) fn verdict(verdict: &FlowVerdict, ports: &HashMap<PortId, String>) -> String {
    let destinations = match verdict {
        FlowVerdict::Drop(reason) => return format!("drop {reason}"),
        FlowVerdict::Taken => return "taken by the switch".into(),
        FlowVerdict::Routed(destination) => slice::from_ref(destination),
        FlowVerdict::Forward(destinations) => destinations,
    };
    let texts = destinations.iter().map(|to| {
        let port = name_of(ports, to.port);
        match (to.denied, to.tag) {
            (Some(denied), _) => format!("{port} (drop {})", denied.reason),
            (None, Some(_)) => format!("{port} (tagged)"),
            (None, None) => port,
        }
    });
    let texts: Vec<_> = texts.collect();
    let how = match verdict {
        FlowVerdict::Routed(_) => "routed to",
        _ => "to",
    };
    format!("{how} {}", texts.join(", "))
}

/// What the frames of a flow have in common, as text: fields of the key that are not zero. A
/// field that policy does not read is zero in the key of every flow.
fn fields(key: &FlowKey) -> BTreeMap<String, String> {
    const NUMBERS: &[(&str, Field)] = &[
        ("protocol", Field::PROTOCOL),
        ("l4_src", Field::L4_SRC),
        ("l4_dst", Field::L4_DST),
        ("vlan", Field::VLAN_VID),
        ("tcp_flags", Field::TCP_FLAGS),
        ("tos", Field::TOS),
    ];
    const ICMP: [u64; 2] = [1, 58];
    let mut texts = BTreeMap::new();
    let mut put = |name: &str, text: Option<String>| {
        if let Some(text) = text {
            texts.insert(name.to_owned(), text);
        }
    };
    let present = |value: u64| (value != 0).then_some(value);
    for (name, field) in [("eth_dst", Field::ETH_DST), ("eth_src", Field::ETH_SRC)] {
        let mac = present(key.get(field)).map(policy::Mac::from_u64);
        put(name, mac.map(|mac| mac.to_string()));
    }
    let icmp = ICMP.contains(&key.get(Field::PROTOCOL));
    for (name, field) in NUMBERS {
        if icmp && *field == Field::L4_SRC {
            // The type and code stand where other protocols have their source port.
            let value = key.get(*field);
            put("icmp_type", Some((value >> 8).to_string()));
            put("icmp_code", Some((value & 0xff).to_string()));
            continue;
        }
        put(
            name,
            present(key.get(*field)).map(|value| value.to_string()),
        );
    }
    let ethertype = present(key.get(Field::ETHERTYPE));
    put("ethertype", ethertype.map(|value| format!("{value:#06x}")));
    put(
        "ip_src",
        address(key, Field::IP_SRC_HIGH, Field::IP_SRC_LOW),
    );
    put(
        "ip_dst",
        address(key, Field::IP_DST_HIGH, Field::IP_DST_LOW),
    );
    texts
}

fn address(key: &FlowKey, high: Field, low: Field) -> Option<String> {
    let value = (key.get(high) as u128) << 64 | key.get(low) as u128;
    if value == 0 {
        None
    } else if key.has(policy::key::shape::IPV6) {
        Some(std::net::Ipv6Addr::from(value).to_string())
    } else {
        Some(std::net::Ipv4Addr::from(value as u32).to_string())
    }
}
