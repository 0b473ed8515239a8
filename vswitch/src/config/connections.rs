//! `[connections]`: how many, and how long they live.

use policy::conntrack::{Settings, Timeouts};

use super::section::Section;

/// `[connections]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Most connections at once, over all vNICs.
    pub max: usize,
    /// Timeouts, and whether TCP may be picked up in its middle.
    pub settings: Settings,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            max: 1 << 18,
            settings: Settings::default(),
        }
    }
}

/// Longest timeout, seconds: five days.
const LONGEST_S: u32 = 432_000;

pub(super) fn connections(section: &Section<'_>) -> Connections {
    let mut connections = Connections::default();
    if let Some(max) = section.integer("max", 256..=1_u32 << 24) {
        connections.max = max as usize;
    }
    let settings = &mut connections.settings;
    settings.tcp_loose = section.bool("tcp_loose").unwrap_or(false);
    for (field, value) in timeouts(&mut settings.timeouts) {
        if let Some(seconds) = section.integer(field, 1..=LONGEST_S) {
            *value = seconds;
        }
    }
    connections
}

/// Each timeout by its field's name.
fn timeouts(timeouts: &mut Timeouts) -> [(&'static str, &mut u32); 12] {
    [
        ("tcp_syn_sent_s", &mut timeouts.tcp_syn_sent_s),
        ("tcp_syn_recv_s", &mut timeouts.tcp_syn_recv_s),
        ("tcp_established_s", &mut timeouts.tcp_established_s),
        ("tcp_fin_wait_s", &mut timeouts.tcp_fin_wait_s),
        ("tcp_close_wait_s", &mut timeouts.tcp_close_wait_s),
        ("tcp_last_ack_s", &mut timeouts.tcp_last_ack_s),
        ("tcp_time_wait_s", &mut timeouts.tcp_time_wait_s),
        ("tcp_close_s", &mut timeouts.tcp_close_s),
        ("udp_unreplied_s", &mut timeouts.udp_unreplied_s),
        ("udp_replied_s", &mut timeouts.udp_replied_s),
        ("icmp_s", &mut timeouts.icmp_s),
        ("other_s", &mut timeouts.other_s),
    ]
}
