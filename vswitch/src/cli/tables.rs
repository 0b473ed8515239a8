//! Answers as text for a person: columns that are empty in every row are left out.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use crate::{
    api::types::{
        Connection, Drop, Flow, Lookup, Mac, Neighbor, Port, PortCounts, Queue, Route, RuleHits,
        Set, Stats, Worker,
    },
    control::Applied,
    doctor::{Finding, Status},
};

/// A column: its head, and whether its values are numbers.
pub(super) type Column = (&'static str, bool);
const TEXT: bool = false;
const NUMBER: bool = true;

/// Lays rows out in columns; `empty` is said when there is no row.
pub(super) fn table(columns: &[Column], rows: &[Vec<String>], empty: &str) -> String {
    if rows.is_empty() {
        return empty.to_owned();
    }
    let used: Vec<usize> = (0..columns.len())
        .filter(|at| rows.iter().any(|row| !row[*at].is_empty()))
        .collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(used.iter().map(|at| columns[*at].0));
    for row in rows {
        table.add_row(used.iter().map(|at| row[*at].as_str()));
    }
    for (column, at) in table.column_iter_mut().zip(&used) {
        column.set_padding((0, 2));
        if columns[*at].1 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// What looking up each vNIC's rules costs at most.
pub(super) fn lookups(rows: &[Lookup]) -> String {
    let columns = [
        ("VNIC", TEXT),
        ("DIRECTION", TEXT),
        ("RULES", NUMBER),
        ("METHOD", TEXT),
        ("MOST PROBES", NUMBER),
        ("MOST COMPARES", NUMBER),
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.vnic.clone(),
            row.direction.clone(),
            row.rules.to_string(),
            row.method.clone(),
            row.probes.to_string(),
            row.compares.to_string(),
        ]
    });
    table(&columns, &cells.collect::<Vec<_>>(), "")
}

fn last_hit(s_ago: Option<u32>) -> String {
    s_ago.map_or("never".into(), |seconds| format!("{seconds} s ago"))
}

/// Sets; of long ones the first members.
pub(super) fn sets(rows: &[Set]) -> String {
    const SHOWN: usize = 8;
    let columns = [
        ("NAME", TEXT),
        ("KIND", TEXT),
        ("RULES", NUMBER),
        ("PASSED", NUMBER),
        ("DROPPED", NUMBER),
        ("LAST", TEXT),
        ("COUNT", NUMBER),
        ("MEMBERS", TEXT),
    ];
    let cells = rows.iter().map(|row| {
        let shown = &row.members[..row.members.len().min(SHOWN)];
        let more = if row.members.len() > SHOWN {
            ", …"
        } else {
            ""
        };
        vec![
            row.name.clone(),
            row.kind.clone(),
            row.rules.to_string(),
            row.passed.to_string(),
            row.dropped.to_string(),
            last_hit(row.last_hit_s_ago),
            row.members.len().to_string(),
            shown.join(", ") + more,
        ]
    });
    table(&columns, &cells.collect::<Vec<_>>(), "there is no set")
}

fn dropped(counts: &PortCounts) -> u64 {
    counts.drops.values().sum()
}

fn share(part: u64, rest: u64) -> String {
    let whole = part + rest;
    if whole == 0 {
        String::new()
    } else {
        format!("{:.1}%", part as f64 * 100.0 / whole as f64)
    }
}

fn networks(port: &Port) -> String {
    if !port.trunk {
        return port.networks.join(",");
    }
    match &port.native {
        Some(native) => format!("trunk {} native {native}", port.networks.join(",")),
        None => format!("trunk {}", port.networks.join(",")),
    }
}

pub(super) fn ports(ports: &[Port]) -> String {
    let rows: Vec<_> = ports
        .iter()
        .map(|port| {
            vec![
                port.name.clone(),
                port.state.clone(),
                port.driver.clone(),
                port.interface.clone(),
                networks(port),
                port.vm.clone().unwrap_or_default(),
                port.counts.rx_frames.to_string(),
                port.counts.tx_frames.to_string(),
                dropped(&port.counts).to_string(),
                if port.state == "up" {
                    port.mode.clone()
                } else {
                    port.reason.clone()
                },
            ]
        })
        .collect();
    table(
        &[
            ("PORT", TEXT),
            ("STATE", TEXT),
            ("DRIVER", TEXT),
            ("INTERFACE", TEXT),
            ("NETWORK", TEXT),
            ("VM", TEXT),
            ("RX", NUMBER),
            ("TX", NUMBER),
            ("DROPPED", NUMBER),
            ("DETAIL", TEXT),
        ],
        &rows,
        "There is no port.",
    )
}

pub(super) fn port(port: &Port) -> String {
    let counts = &port.counts;
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            rows.push((name.to_owned(), value));
        }
    };
    row("port", format!("{} (number {})", port.name, port.id));
    row("state", format!("{} for {} s", port.state, port.since_s));
    row("reason", port.reason.clone());
    row("driver", port.driver.clone());
    row("interface", port.interface.clone());
    row("mode", port.mode.clone());
    if port.max_frame_bytes > 0 {
        row("longest frame", format!("{} bytes", port.max_frame_bytes));
    }
    row("network", networks(port));
    row(
        "isolated",
        if port.isolated {
            "yes".into()
        } else {
            String::new()
        },
    );
    row("vNIC", port.vnic.clone().unwrap_or_default());
    row("VM", port.vm.clone().unwrap_or_default());
    for detail in &port.details {
        row(&detail.name, detail.text.clone());
    }
    for queue in &port.queues {
        row(
            &format!("queue {}", queue.queue),
            format!("worker {}", queue.worker),
        );
    }
    if port.reattached > 0 {
        row("times attached again", port.reattached.to_string());
    }
    row(
        "received",
        format!("{} frames, {} bytes", counts.rx_frames, counts.rx_bytes),
    );
    row(
        "sent",
        format!("{} frames, {} bytes", counts.tx_frames, counts.tx_bytes),
    );
    row(
        "flow cache",
        format!("{} hits, {} misses", counts.cache_hits, counts.cache_misses),
    );
    for (reason, count) in &counts.drops {
        row(&format!("dropped: {reason}"), count.to_string());
    }
    for (name, count) in &port.driver_counts {
        row(&format!("driver: {name}"), count.to_string());
    }
    for note in &port.notes {
        row("note", note.clone());
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:width$}  {value}");
        text
    })
}

pub(super) fn workers(workers: &[Worker]) -> String {
    let rows: Vec<_> = workers
        .iter()
        .map(|worker| {
            vec![
                worker.worker.to_string(),
                worker.core.to_string(),
                worker.frames.to_string(),
                format!("{:.0}", worker.cycles_per_frame),
                share(worker.cache_hits, worker.cache_misses),
                worker.cache_entries.to_string(),
                worker.budget_drops.to_string(),
                format!("{:.1}%", worker.sleep_share * 100.0),
            ]
        })
        .collect();
    table(
        &[
            ("WORKER", NUMBER),
            ("CORE", NUMBER),
            ("FRAMES", NUMBER),
            ("CYCLES/FRAME", NUMBER),
            ("CACHE HITS", NUMBER),
            ("FLOWS", NUMBER),
            ("BUDGET DROPS", NUMBER),
            ("ASLEEP", NUMBER),
        ],
        &rows,
        "There is no worker.",
    )
}

pub(super) fn queues(queues: &[Queue]) -> String {
    let rows: Vec<_> = queues
        .iter()
        .map(|row| {
            vec![
                row.port.clone(),
                row.queue.to_string(),
                row.worker.to_string(),
            ]
        })
        .collect();
    let columns = [("PORT", TEXT), ("QUEUE", NUMBER), ("WORKER", NUMBER)];
    table(&columns, &rows, "No port is attached.")
}

pub(super) fn macs(macs: &[Mac]) -> String {
    let rows: Vec<_> = macs
        .iter()
        .map(|row| {
            let age = row
                .age_s
                .map_or_else(|| "own".to_owned(), |age| format!("{age} s"));
            let held = row
                .held_s
                .map_or_else(String::new, |left| format!("flaps; held for {left} s"));
            vec![
                row.network.clone(),
                row.mac.clone(),
                row.port.clone(),
                age,
                held,
            ]
        })
        .collect();
    let columns = [
        ("NETWORK", TEXT),
        ("ADDRESS", TEXT),
        ("PORT", TEXT),
        ("AGE", NUMBER),
        ("NOTE", TEXT),
    ];
    table(&columns, &rows, "No address was learned yet.")
}

pub(super) fn neighbors(neighbors: &[Neighbor]) -> String {
    let rows: Vec<_> = neighbors
        .iter()
        .map(|row| {
            vec![
                row.network.clone(),
                row.address.clone(),
                row.mac.clone().unwrap_or_default(),
                row.state.clone(),
                format!("{} s", row.age_s),
            ]
        })
        .collect();
    let columns = [
        ("NETWORK", TEXT),
        ("ADDRESS", TEXT),
        ("ETHERNET", TEXT),
        ("STATE", TEXT),
        ("AGE", NUMBER),
    ];
    table(&columns, &rows, "No router has asked for a neighbour yet.")
}

pub(super) fn routes(routes: &[Route]) -> String {
    let rows: Vec<_> = routes
        .iter()
        .map(|row| {
            vec![
                row.router.clone(),
                row.prefix.clone(),
                row.to.clone(),
                row.metric.to_string(),
                row.origin.clone(),
            ]
        })
        .collect();
    let columns = [
        ("ROUTER", TEXT),
        ("PREFIX", TEXT),
        ("TO", TEXT),
        ("METRIC", NUMBER),
        ("FROM", TEXT),
    ];
    table(&columns, &rows, "There is no router.")
}

pub(super) fn flows(flows: &[Flow]) -> String {
    let rows: Vec<_> = flows
        .iter()
        .map(|flow| {
            let fields = flow
                .fields
                .iter()
                .map(|(name, value)| format!("{name}={value}"));
            vec![
                flow.worker.to_string(),
                flow.port.clone(),
                flow.hits.to_string(),
                flow.verdict.clone(),
                fields.collect::<Vec<_>>().join(" "),
            ]
        })
        .collect();
    table(
        &[
            ("WORKER", NUMBER),
            ("FROM", TEXT),
            ("HITS", NUMBER),
            ("VERDICT", TEXT),
            ("FRAMES WITH", TEXT),
        ],
        &rows,
        "The flow caches are empty.",
    )
}

pub(super) fn connections(connections: &[Connection]) -> String {
    let end = |address: &str, port: u16| match port {
        0 => address.to_owned(),
        port if address.contains(':') => format!("[{address}]:{port}"),
        port => format!("{address}:{port}"),
    };
    let rows: Vec<_> = connections
        .iter()
        .map(|row| {
            vec![
                row.network.clone(),
                row.protocol.clone(),
                end(&row.src, row.src_port),
                end(&row.dst, row.dst_port),
                row.state.clone(),
                row.port.clone().unwrap_or_default(),
                format!("{} s", row.idle_s),
                format!("{} s", row.left_s),
            ]
        })
        .collect();
    table(
        &[
            ("NETWORK", TEXT),
            ("PROTOCOL", TEXT),
            ("FROM", TEXT),
            ("TO", TEXT),
            ("STATE", TEXT),
            ("OPENED AT", TEXT),
            ("IDLE", NUMBER),
            ("LEFT", NUMBER),
        ],
        &rows,
        "There are no connections.",
    )
}

pub(super) fn drops(drops: &[Drop]) -> String {
    let rows: Vec<_> = drops
        .iter()
        .map(|drop| {
            let rule = drop.rule.as_ref();
            vec![
                drop.port.clone(),
                drop.reason.clone(),
                drop.frames.to_string(),
                drop.vm.clone().unwrap_or_default(),
                match rule {
                    Some(rule) => format!("{} #{}: {}", rule.acl, rule.position, rule.text),
                    None if !drop.itemised => "(of many, not known which)".into(),
                    None => String::new(),
                },
                rule.map(|rule| rule.place.clone()).unwrap_or_default(),
                drop.text.clone(),
            ]
        })
        .collect();
    table(
        &[
            ("PORT", TEXT),
            ("REASON", TEXT),
            ("FRAMES", NUMBER),
            ("VM", TEXT),
            ("RULE", TEXT),
            ("WRITTEN AT", TEXT),
            ("WHAT HAPPENED", TEXT),
        ],
        &rows,
        "No frame was dropped.",
    )
}

pub(super) fn rules<'a>(rules: impl Iterator<Item = &'a RuleHits>) -> String {
    let rows: Vec<_> = rules
        .map(|hits| {
            vec![
                hits.rule.acl.clone(),
                hits.rule.position.to_string(),
                hits.passed.to_string(),
                hits.dropped.to_string(),
                last_hit(hits.last_hit_s_ago),
                hits.rule.text.clone(),
                hits.rule.place.clone(),
            ]
        })
        .collect();
    table(
        &[
            ("ACL", TEXT),
            ("#", NUMBER),
            ("PASSED", NUMBER),
            ("DROPPED", NUMBER),
            ("LAST", TEXT),
            ("RULE", TEXT),
            ("WRITTEN AT", TEXT),
        ],
        &rows,
        "No such rule.",
    )
}

pub(super) fn stats(stats: &Stats) -> String {
    let mut rows = Vec::new();
    for port in &stats.ports {
        let counts = &port.counts;
        let mut reasons: Vec<_> = counts.drops.iter().collect();
        reasons.sort_by(|a, b| b.1.cmp(a.1));
        let reasons: Vec<_> = reasons
            .iter()
            .map(|(name, n)| format!("{name} {n}"))
            .collect();
        rows.push(vec![
            port.name.clone(),
            counts.rx_frames.to_string(),
            counts.rx_bytes.to_string(),
            counts.tx_frames.to_string(),
            counts.tx_bytes.to_string(),
            share(counts.cache_hits, counts.cache_misses),
            dropped(counts).to_string(),
            reasons.join(", "),
        ]);
    }
    let ports = table(
        &[
            ("PORT", TEXT),
            ("RX FRAMES", NUMBER),
            ("RX BYTES", NUMBER),
            ("TX FRAMES", NUMBER),
            ("TX BYTES", NUMBER),
            ("CACHE HITS", NUMBER),
            ("DROPPED", NUMBER),
            ("BY REASON", TEXT),
        ],
        &rows,
        "There is no port.",
    );
    format!(
        "{ports}\n\n{}\n\nepoch {}, up for {} s",
        workers(&stats.workers),
        stats.epoch,
        stats.uptime_s
    )
}

pub(super) fn applied(applied: &Applied) -> String {
    let mut text = String::new();
    for change in &applied.changes {
        let _ = writeln!(text, "{change}");
    }
    for port in &applied.waiting {
        let _ = writeln!(text, "waiting: {port}");
    }
    let count = applied.changes.len();
    let _ = match (count, applied.dry_run) {
        (0, true) => write!(text, "Nothing differs from what runs."),
        (0, false) => write!(
            text,
            "Nothing differed; epoch {} is in force.",
            applied.epoch
        ),
        (_, true) => write!(text, "{count} would change; nothing was changed."),
        (_, false) => write!(
            text,
            "{count} changed; epoch {} is in force.",
            applied.epoch
        ),
    };
    text
}

pub(super) fn findings(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let status = match finding.status {
            Status::Ok => "ok     ",
            Status::Note => "note   ",
            Status::Problem => "PROBLEM",
        };
        let _ = writeln!(text, "{status}  {}: {}", finding.subject, finding.found);
        if !finding.advice.is_empty() {
            let _ = writeln!(text, "           -> {}", finding.advice);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::types::{PortStats, Rule};

    fn counts() -> PortCounts {
        PortCounts {
            rx_frames: 1000,
            tx_frames: 7,
            cache_hits: 3,
            cache_misses: 1,
            drops: BTreeMap::from([("acl_out".to_owned(), 2), ("spoofed_mac".to_owned(), 5)]),
            ..PortCounts::default()
        }
    }

    #[test]
    fn ports_without_interfaces_have_no_such_column() {
        let port = Port {
            name: "p1".into(),
            state: "up".into(),
            driver: "memory".into(),
            networks: vec!["blue".into()],
            counts: counts(),
            ..Port::default()
        };
        let text = ports(&[port]);
        assert_eq!(
            text,
            "PORT  STATE  DRIVER  NETWORK    RX  TX  DROPPED\np1    up     memory  blue     1000   7        7"
        );
    }

    #[test]
    fn a_port_that_is_not_up_says_why() {
        let port = Port {
            name: "p1".into(),
            state: "waiting".into(),
            reason: "no interface veth0".into(),
            ..Port::default()
        };
        assert!(ports(std::slice::from_ref(&port)).contains("no interface veth0"));
        assert!(super::port(&port).contains("reason      no interface veth0"));
    }

    #[test]
    fn drops_name_the_rule_and_where_it_was_written() {
        let drop = Drop {
            port: "p1".into(),
            reason: "acl_in".into(),
            stage: "inbound rules".into(),
            text: "Denied.".into(),
            itemised: true,
            rule: Some(Rule {
                id: 4,
                acl: "web".into(),
                position: 2,
                text: "deny tcp".into(),
                place: "a.toml:7".into(),
            }),
            vm: Some("vm1".into()),
            frames: 12,
        };
        let text = drops(&[drop]);
        for part in [
            "acl_in",
            "12",
            "vm1",
            "web #2: deny tcp",
            "a.toml:7",
            "Denied.",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(drops(&[]), "No frame was dropped.");
    }

    #[test]
    fn stats_list_reasons_the_most_frequent_first() {
        let stats = Stats {
            ports: vec![PortStats {
                name: "p1".into(),
                counts: counts(),
            }],
            workers: vec![Worker {
                cycles_per_frame: 81.6,
                ..Worker::default()
            }],
            ..Stats::default()
        };
        let text = super::stats(&stats);
        assert!(text.contains("spoofed_mac 5, acl_out 2"), "{text}");
        assert!(text.contains("75.0%"), "{text}");
        assert!(text.contains("82"), "{text}");
    }
}
