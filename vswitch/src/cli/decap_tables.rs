//! The decapsulator's tables, for people.

use std::collections::BTreeMap;

use super::tables::table;
use crate::decap::view::{Carried, Session, Sniffer, Totals, Unknown};

fn reasons(counts: &BTreeMap<String, u64>) -> String {
    let words = counts
        .iter()
        .map(|(reason, frames)| format!("{reason} {frames}"));
    words.collect::<Vec<_>>().join("\n")
}

fn carried(carried: &Carried) -> String {
    let id = carried.id.map_or_else(String::new, |id| format!(" {id}"));
    format!(
        "{}{id}\n{} > {}",
        carried.format, carried.source, carried.destination
    )
}

fn last_seen(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "never".to_owned(), |s| format!("{s:.1} s ago"))
}

pub(super) fn sessions(rows: &[Session]) -> String {
    let columns = [
        ("SESSION", false),
        ("TENANT", false),
        ("CARRIED BY", false),
        ("SNIFFERS", false),
        ("RECEIVED", true),
        ("DELIVERED", true),
        ("LOST BEFORE", false),
        ("REFUSED", false),
        ("LOST BEHIND", false),
        ("LAST SEEN", false),
    ];
    let rows = rows.iter().map(|row| {
        let sequence = &row.sequence;
        let told = [
            ("missing", sequence.missing),
            ("reordered", sequence.reordered),
            ("duplicates", sequence.duplicates),
            ("resets", sequence.resets),
            ("constant", sequence.constant),
        ];
        let told = told.iter().filter(|(_, frames)| *frames > 0);
        let told = told.map(|(name, frames)| ((*name).to_owned(), *frames));
        let spread = if row.fan_out == "spread" {
            " (spread)"
        } else {
            ""
        };
        vec![
            row.name.clone(),
            row.tenant.clone(),
            carried(&row.carried),
            row.sniffers.join(", ") + spread,
            row.received.to_string(),
            row.delivered.to_string(),
            reasons(&told.collect()),
            reasons(&row.refused),
            reasons(&row.lost),
            last_seen(row.last_seen_s_ago),
        ]
    });
    table(&columns, &rows.collect::<Vec<_>>(), "No session.")
}

pub(super) fn sniffers(rows: &[Sniffer]) -> String {
    let columns = [
        ("SNIFFER", false),
        ("TENANT", false),
        ("TO", false),
        ("STATE", false),
        ("OFFERED", true),
        ("SENT", true),
        ("WAITING", true),
        ("LOST", false),
        ("REFUSED", true),
    ];
    let rows = rows.iter().map(|row| {
        vec![
            row.name.clone(),
            row.tenant.clone(),
            row.sink.clone(),
            row.state.clone(),
            row.offered.to_string(),
            row.sent.to_string(),
            row.waiting.to_string(),
            reasons(&row.lost),
            row.refused.to_string(),
        ]
    });
    table(&columns, &rows.collect::<Vec<_>>(), "No sniffer.")
}

pub(super) fn unknown(rows: &[Unknown]) -> String {
    let columns = [
        ("CARRIED BY", false),
        ("FRAMES", true),
        ("LAST SEEN", false),
    ];
    let rows = rows.iter().map(|row| {
        vec![
            carried(&row.carried).replace('\n', ", "),
            row.frames.to_string(),
            last_seen(Some(row.last_seen_s_ago)),
        ]
    });
    table(
        &columns,
        &rows.collect::<Vec<_>>(),
        "No unknown session is sent.",
    )
}

pub(super) fn totals(row: &Totals) -> String {
    let columns = [("", false), ("", true)];
    let mut rows = vec![vec!["tunnel port".to_owned(), row.state.clone()]];
    let counts = [
        ("frames received", row.received),
        ("for the host (ARP, ND, ICMP)", row.host),
        ("fragments", row.fragments),
        ("datagrams put together", row.reassembled),
        ("fragments that wait", row.held),
        ("mirrored frames", row.mirrored),
        ("delivered", row.delivered),
        ("copies for sniffers", row.copies),
    ];
    rows.extend(counts.map(|(name, count)| vec![name.to_owned(), count.to_string()]));
    let accounts = [
        ("refused fragments", &row.refused_fragments),
        ("refused frames", &row.refused_frames),
        ("refused mirrored frames", &row.refused_mirrored),
    ];
    for (name, counts) in accounts {
        for (reason, frames) in counts {
            rows.push(vec![format!("{name}: {reason}"), frames.to_string()]);
        }
    }
    rows.push(vec!["table".to_owned(), row.table.to_string()]);
    table(&columns, &rows, "")
}
