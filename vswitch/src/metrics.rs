//! Counters as text for Prometheus (text exposition format 0.0.4).
//!
//! In: the rows of the API. Out: the text. What must hold: names and labels are stable; every
//! family has a HELP and a TYPE line and stands in one piece.

use std::fmt::{Display, Write};

use crate::api::{
    capture_types::CaptureTotals,
    mirror_types::MirrorSession,
    types::{Port, PortCounts, Stats, Worker},
};

/// The text's content type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

type Family<T, V> = (&'static str, &'static str, fn(&T) -> V);

const PORT: &[Family<PortCounts, u64>] = &[
    ("rx_frames", "Frames received.", |c| c.rx_frames),
    ("rx_bytes", "Bytes received.", |c| c.rx_bytes),
    ("tx_frames", "Frames sent.", |c| c.tx_frames),
    ("tx_bytes", "Bytes sent.", |c| c.tx_bytes),
    ("replicas", "Extra destinations made by flooding.", |c| {
        c.replicas
    }),
    (
        "forwarded",
        "Destinations handed on from frames received.",
        |c| c.forwarded,
    ),
    ("offered", "Destinations handed to the port.", |c| c.offered),
    ("originated", "Frames made by the switch itself.", |c| {
        c.originated
    }),
    (
        "taken",
        "Frames received that the switch took itself.",
        |c| c.taken,
    ),
    (
        "returned",
        "Frames taken that came back to be judged.",
        |c| c.returned,
    ),
    ("cache_hits", "Frames judged by the flow cache.", |c| {
        c.cache_hits
    }),
    ("cache_misses", "Frames judged by the slow path.", |c| {
        c.cache_misses
    }),
];

const WORKER: &[Family<Worker, u64>] = &[
    ("frames", "Frames received.", |w| w.frames),
    ("bytes", "Bytes received.", |w| w.bytes),
    ("bursts", "Bursts that held a frame.", |w| w.bursts),
    ("turns", "Turns.", |w| w.turns),
    ("cache_hits", "Frames judged by the flow cache.", |w| {
        w.cache_hits
    }),
    ("cache_misses", "Frames judged by the slow path.", |w| {
        w.cache_misses
    }),
    (
        "budget_drops",
        "Frames dropped for want of a miss budget.",
        |w| w.budget_drops,
    ),
    ("busy_cycles", "Cycles in turns that had frames.", |w| {
        w.busy_cycles
    }),
    (
        "blocks",
        "Times the worker blocked until it was woken.",
        |w| w.blocks,
    ),
];

const WORKER_GAUGES: &[Family<Worker, f64>] = &[
    ("cache_entries", "Flows in the cache.", |w| {
        w.cache_entries as f64
    }),
    (
        "cycles_per_frame",
        "Busy cycles for each frame since start.",
        |w| w.cycles_per_frame,
    ),
    (
        "sleep_share",
        "Share of the time asleep since start.",
        |w| w.sleep_share,
    ),
];

const MIRROR: &[Family<MirrorSession, u64>] = &[
    ("wanted", "Frames that the session chose.", |m| m.wanted),
    ("copied", "Frames that were copied.", |m| m.copied),
    ("bytes", "Bytes that left for copies.", |m| m.bytes),
    ("truncated", "Copies that were cut.", |m| m.truncated),
    ("fragments", "Outer fragments sent.", |m| m.fragments),
];

/// Of connections and addresses.
fn tables(out: &mut Text, stats: &Stats) {
    let connections = &stats.connections;
    for (name, help, kind, value) in [
        (
            "vswitch_connections",
            "Connections there are.",
            "gauge",
            u64::from(connections.live),
        ),
        (
            "vswitch_connections_max",
            "Most connections there can be.",
            "gauge",
            u64::from(connections.max),
        ),
        (
            "vswitch_mac_moves_total",
            "Addresses that moved to another port.",
            "counter",
            stats.macs.moves,
        ),
        (
            "vswitch_mac_flaps_total",
            "Addresses held where they were, having moved too often.",
            "counter",
            stats.macs.flaps,
        ),
        (
            "vswitch_connections_opened_total",
            "Connections opened.",
            "counter",
            connections.opened,
        ),
        (
            "vswitch_connections_expired_total",
            "Connections forgotten because no frame came.",
            "counter",
            connections.expired,
        ),
    ] {
        out.family(name, help, kind);
        out.sample(name, &[], value);
    }
}

/// Of captures, all together: they come and go too often for series of their own.
fn captures(out: &mut Text, totals: &CaptureTotals) {
    let name = "vswitch_captures";
    out.family(name, "Captures that go on.", "gauge");
    out.sample(name, &[], totals.running);
    for (name, help, value) in [
        ("wanted", "Frames that captures chose.", totals.wanted),
        ("copied", "Frames that captures copied.", totals.copied),
        ("bytes", "Bytes that captures copied.", totals.bytes),
        (
            "lost",
            "Frames that captures chose and did not copy.",
            totals.lost,
        ),
    ] {
        let name = format!("vswitch_capture_{name}_total");
        out.family(&name, help, "counter");
        out.sample(&name, &[], value);
    }
}

/// The whole text.
pub fn render(
    stats: &Stats,
    ports: &[Port],
    mirrors: &[MirrorSession],
    captured: &CaptureTotals,
) -> String {
    let mut out = Text(String::new());
    for (name, help, value) in PORT {
        let name = format!("vswitch_port_{name}_total");
        out.family(&name, help, "counter");
        for port in &stats.ports {
            out.sample(&name, &[("port", &port.name)], value(&port.counts));
        }
    }
    out.family(
        "vswitch_drops_total",
        "Frames dropped, by reason.",
        "counter",
    );
    for port in &stats.ports {
        for (reason, count) in &port.counts.drops {
            let labels = [("port", port.name.as_str()), ("reason", reason)];
            out.sample("vswitch_drops_total", &labels, count);
        }
    }
    out.family(
        "vswitch_port_up",
        "1 when frames can pass the port.",
        "gauge",
    );
    for port in ports {
        let up = u8::from(port.state == "up");
        out.sample("vswitch_port_up", &[("port", &port.name)], up);
    }
    tables(&mut out, stats);
    self::mirrors(&mut out, mirrors);
    captures(&mut out, captured);
    let name = "vswitch_port_reattached_total";
    out.family(
        name,
        "Times the port was attached again after it was gone.",
        "counter",
    );
    for port in ports {
        out.sample(name, &[("port", &port.name)], port.reattached);
    }
    let name = "vswitch_port_driver_total";
    out.family(name, "What the port's driver counts itself.", "counter");
    for port in ports {
        for (count, value) in &port.driver_counts {
            out.sample(name, &[("port", &port.name), ("count", count)], value);
        }
    }
    for (name, help, value) in WORKER {
        worker_family(
            &mut out,
            stats,
            &format!("vswitch_worker_{name}_total"),
            help,
            "counter",
            *value,
        );
    }
    for (name, help, value) in WORKER_GAUGES {
        worker_family(
            &mut out,
            stats,
            &format!("vswitch_worker_{name}"),
            help,
            "gauge",
            *value,
        );
    }
    out.family("vswitch_epoch", "The epoch in force.", "gauge");
    out.sample("vswitch_epoch", &[], stats.epoch);
    out.family("vswitch_uptime_seconds", "Seconds since start.", "gauge");
    out.sample("vswitch_uptime_seconds", &[], stats.uptime_s);
    out.0
}

fn mirrors(out: &mut Text, mirrors: &[MirrorSession]) {
    fn labels(row: &MirrorSession) -> [(&str, &str); 2] {
        [
            ("owner", &row.request.owner),
            ("session", &row.request.name),
        ]
    }
    for (name, help, value) in MIRROR {
        let name = format!("vswitch_mirror_{name}_total");
        out.family(&name, help, "counter");
        for row in mirrors {
            out.sample(&name, &labels(row), value(row));
        }
    }
    let name = "vswitch_mirror_skipped_total";
    out.family(name, "Frames that were not copied, by reason.", "counter");
    for row in mirrors {
        let [owner, session] = labels(row);
        for (reason, frames) in &row.skipped {
            out.sample(name, &[owner, session, ("reason", reason)], frames);
        }
    }
    let name = "vswitch_mirror_active";
    out.family(name, "1 when the session's copies are made.", "gauge");
    for row in mirrors {
        out.sample(name, &labels(row), u8::from(row.state == "active"));
    }
}

fn worker_family<V: Display>(
    out: &mut Text,
    stats: &Stats,
    name: &str,
    help: &str,
    kind: &str,
    value: fn(&Worker) -> V,
) {
    out.family(name, help, kind);
    for worker in &stats.workers {
        let (number, core) = (worker.worker.to_string(), worker.core.to_string());
        let labels = [("worker", number.as_str()), ("core", core.as_str())];
        out.sample(name, &labels, value(worker));
    }
}

/// Text in the making.
#[derive(Default)]
pub(crate) struct Text(String);

impl Text {
    pub(crate) fn into_text(self) -> String {
        self.0
    }

    pub(crate) fn family(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let text = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.0, "{before}{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;
    use crate::api::types::PortStats;

    /// Reads the text as the format demands and returns the samples.
    fn parse(text: &str) -> Vec<(String, f64)> {
        let mut family = String::new();
        let mut families = HashSet::new();
        let mut samples = Vec::new();
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("name and help");
                assert!(families.insert(name.to_owned()), "{name} in two pieces");
                assert!(!help.is_empty());
                family = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("name and type");
                assert_eq!(name, family);
                assert!(["counter", "gauge"].contains(&kind));
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            } else {
                let (series, value) = line.rsplit_once(' ').expect("series and value");
                let name = series.split('{').next().expect("name");
                assert_eq!(name, family, "a sample outside its family");
                assert!(
                    name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'),
                    "{name}"
                );
                assert!(!samples.iter().any(|(s, _)| s == series), "{series} twice");
                samples.push((series.to_owned(), value.parse().expect("a number")));
            }
        }
        samples
    }

    #[test]
    fn the_text_is_sound_and_counts_what_the_stats_count() {
        let mut stats = Stats {
            workers: vec![Worker::default()],
            ..Stats::default()
        };
        for name in ["a", "b\"\\"] {
            let counts = PortCounts {
                rx_frames: 5,
                drops: BTreeMap::from([("acl_in".to_owned(), 2)]),
                ..PortCounts::default()
            };
            let name = name.to_owned();
            stats.ports.push(PortStats { name, counts });
        }
        let port = Port {
            name: "a".into(),
            state: "up".into(),
            driver_counts: BTreeMap::from([("rx_dropped".to_owned(), 9)]),
            ..Port::default()
        };
        let samples = parse(&render(&stats, &[port], &[], &CaptureTotals::default()));
        let value = |series: &str| samples.iter().find(|(s, _)| s == series).map(|(_, v)| *v);
        assert_eq!(value("vswitch_port_rx_frames_total{port=\"a\"}"), Some(5.0));
        assert_eq!(
            value("vswitch_port_rx_frames_total{port=\"b\\\"\\\\\"}"),
            Some(5.0)
        );
        assert_eq!(
            value("vswitch_drops_total{port=\"a\",reason=\"acl_in\"}"),
            Some(2.0)
        );
        assert_eq!(value("vswitch_port_up{port=\"a\"}"), Some(1.0));
        assert_eq!(
            value("vswitch_port_driver_total{port=\"a\",count=\"rx_dropped\"}"),
            Some(9.0)
        );
    }
}
