//! The laws of `vswitch::counters`, held against what the API says.

use policy::{DropReason, denial::Side};
use vswitch::api::types::{PortCounts, Stats};

/// Which law is broken, if one is.
pub(crate) fn check(stats: &Stats) -> Result<(), String> {
    let removed = &stats.removed_ports;
    let mut forwarded = removed.forwarded + removed.originated;
    let mut offered = stats.removed_ports.offered;
    for port in &stats.ports {
        let counts = &port.counts;
        forwarded += counts.forwarded + counts.originated;
        offered += counts.offered;
        let came = counts.rx_frames + counts.returned + counts.replicas;
        let went = counts.forwarded + counts.taken + dropped(counts, Side::Ingress);
        same(&format!("what came in at {}", port.name), came, went)?;
        let went = counts.tx_frames + dropped(counts, Side::Egress);
        same(
            &format!("what was to go out at {}", port.name),
            counts.offered,
            went,
        )?;
    }
    same("forwarded, originated and offered", forwarded, offered)?;
    let total = |count: fn(&PortCounts) -> u64| -> u64 {
        let ports = stats.ports.iter().map(|port| &port.counts);
        ports.chain([&stats.removed_ports]).map(count).sum()
    };
    let came = total(|c| c.rx_frames + c.returned + c.replicas + c.originated);
    let went = total(|c| c.tx_frames + c.taken + c.drops.values().sum::<u64>());
    same("in total", came, went)
}

fn same(what: &str, left: u64, right: u64) -> Result<(), String> {
    (left == right)
        .then_some(())
        .ok_or_else(|| format!("{what}: {left} is not {right}"))
}

fn dropped(counts: &PortCounts, side: Side) -> u64 {
    let of_stage = counts.drops.iter().filter(|(name, _)| {
        let reason = DropReason::ALL.iter().find(|reason| reason.name() == *name);
        reason.expect("a documented reason").side() == side
    });
    of_stage.map(|(_, frames)| frames).sum()
}
