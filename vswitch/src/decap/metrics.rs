//! The decapsulator's counters as text for Prometheus.

use super::view::{Everything, Session, Sniffer, Totals};
use crate::metrics::Text;

type Family<T> = (&'static str, &'static str, fn(&T) -> u64);

const TOTALS: &[Family<Totals>] = &[
    ("received", "Frames that came by the tunnel port.", |t| {
        t.received
    }),
    ("host", "Frames for the decapsulator as a host.", |t| t.host),
    ("mirrored", "Mirrored frames of known sessions.", |t| {
        t.mirrored
    }),
    ("delivered", "Mirrored frames that went to sniffers.", |t| {
        t.delivered
    }),
    ("copies", "Copies for sniffers.", |t| t.copies),
    ("reassembled", "Datagrams put together of fragments.", |t| {
        t.reassembled
    }),
];

const SESSION: &[Family<Session>] = &[
    ("received", "Mirrored frames that named the session.", |s| {
        s.received
    }),
    ("delivered", "Those that went to sniffers.", |s| s.delivered),
    ("missing", "Frames lost before the decapsulator.", |s| {
        s.sequence.missing
    }),
    ("reordered", "Frames that came after later ones.", |s| {
        s.sequence.reordered
    }),
];

const SNIFFER: &[Family<Sniffer>] = &[
    ("offered", "Frames that were for the sniffer.", |s| {
        s.offered
    }),
    ("sent", "Frames that it got.", |s| s.sent),
    ("sent_bytes", "Bytes of those.", |s| s.sent_bytes),
    ("refused", "Frames that it sent, which nobody gets.", |s| {
        s.refused
    }),
];

/// The whole text.
pub fn render(all: &Everything) -> String {
    let mut out = Text::default();
    for (name, help, value) in TOTALS {
        let name = format!("vswitch_decap_{name}_total");
        out.family(&name, help, "counter");
        out.sample(&name, &[], value(&all.totals));
    }
    let name = "vswitch_decap_refused_total";
    out.family(name, "Frames that were refused, by reason.", "counter");
    let totals = &all.totals;
    let accounts = [
        &totals.refused_fragments,
        &totals.refused_frames,
        &totals.refused_mirrored,
    ];
    for (reason, frames) in accounts.into_iter().flatten() {
        out.sample(name, &[("reason", reason)], frames);
    }
    for (name, help, value) in SESSION {
        let name = format!("vswitch_decap_session_{name}_total");
        out.family(&name, help, "counter");
        for session in &all.sessions {
            let labels = [("session", &*session.name), ("tenant", &*session.tenant)];
            out.sample(&name, &labels, value(session));
        }
    }
    let name = "vswitch_decap_session_lost_total";
    let help = "Copies of a session that its sniffers did not get, by reason.";
    out.family(name, help, "counter");
    for session in &all.sessions {
        for (reason, frames) in &session.lost {
            let tenant = ("tenant", &*session.tenant);
            let labels = [("session", &*session.name), tenant, ("reason", &**reason)];
            out.sample(name, &labels, frames);
        }
    }
    for (name, help, value) in SNIFFER {
        let name = format!("vswitch_sniffer_{name}_total");
        out.family(&name, help, "counter");
        for sniffer in &all.sniffers {
            let labels = [("sniffer", &*sniffer.name), ("tenant", &*sniffer.tenant)];
            out.sample(&name, &labels, value(sniffer));
        }
    }
    let name = "vswitch_sniffer_lost_total";
    out.family(
        name,
        "Frames that a sniffer did not get, by reason.",
        "counter",
    );
    for sniffer in &all.sniffers {
        for (reason, frames) in &sniffer.lost {
            let labels = [("sniffer", &*sniffer.name), ("reason", &**reason)];
            out.sample(name, &labels, frames);
        }
    }
    let name = "vswitch_sniffer_up";
    out.family(name, "1 when frames can pass to the sniffer.", "gauge");
    for sniffer in &all.sniffers {
        let up = u8::from(sniffer.state == "up");
        out.sample(name, &[("sniffer", &sniffer.name)], up);
    }
    out.into_text()
}
