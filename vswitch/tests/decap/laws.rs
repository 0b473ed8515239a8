//! The laws of `mirror::decap::counts` and `vswitch::decap::counts`, held to what a decapsulator shows.

use std::collections::BTreeMap;

use vswitch::decap::view::Everything;

fn sum(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().sum()
}

/// The first law that does not hold.
pub(crate) fn check(all: &Everything) -> Result<(), String> {
    let totals = &all.totals;
    let whole = totals.frames - totals.fragments;
    let fragments = totals.joined + totals.held + sum(&totals.refused_fragments);
    let offered: u64 = all.sniffers.iter().map(|sniffer| sniffer.offered).sum();
    let mut laws = vec![
        (
            "received".to_owned(),
            totals.received,
            totals.host + totals.frames,
        ),
        ("fragments".to_owned(), totals.fragments, fragments),
        (
            "whole".to_owned(),
            whole + totals.reassembled,
            totals.mirrored + sum(&totals.refused_frames),
        ),
        (
            "mirrored".to_owned(),
            totals.mirrored,
            totals.delivered + sum(&totals.refused_mirrored),
        ),
        (
            "copies".to_owned(),
            totals.copies,
            offered + totals.retired_offered,
        ),
    ];
    if totals.table == 1 {
        // While all sessions are those of the start: of one that is gone nothing is told.
        let sessions = all.sessions.iter().map(|session| sum(&session.lost));
        let sniffers = all.sniffers.iter().map(|sniffer| sum(&sniffer.lost));
        laws.push(("lost".to_owned(), sessions.sum(), sniffers.sum()));
    }
    for session in &all.sessions {
        let known = session.delivered + sum(&session.refused);
        laws.push((format!("session {}", session.name), session.received, known));
    }
    for sniffer in &all.sniffers {
        let known = sniffer.sent + sniffer.waiting + sum(&sniffer.lost);
        laws.push((format!("sniffer {}", sniffer.name), sniffer.offered, known));
    }
    match laws.into_iter().find(|(_, left, right)| left != right) {
        None => Ok(()),
        Some((what, left, right)) => Err(format!("{what}: {left} is not {right}: {all:?}")),
    }
}
