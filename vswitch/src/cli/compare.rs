//! `vswitch apply --dry-run --against FILE | --live SECONDS`: which flows would fare otherwise.

use std::{fmt::Write, path::PathBuf, time::Duration};

use clap::Args;

use super::{Shared, capture, explain::rule_words, print, print_json};
use crate::{
    api::types::{ChangedFlow, CompareRequest, Compared, FlowLimit, Rule},
    control::Origin,
};

/// How long the answer may take beyond the time that traffic is looked at.
const PATIENCE: Duration = Duration::from_secs(60);

/// The traffic that a dry run is held against.
#[derive(Debug, Args)]
#[group(id = "traffic", multiple = true)]
pub(super) struct Traffic {
    /// With --dry-run: list the flows of a capture that would be judged otherwise
    #[arg(
        long,
        value_name = "FILE",
        requires = "dry_run",
        requires = "port",
        conflicts_with = "live"
    )]
    against: Option<PathBuf>,
    /// With --dry-run: the same of what comes in for so long
    #[arg(long, value_name = "SECONDS", requires = "dry_run")]
    live: Option<u32>,
    /// The port that the traffic comes in by; with --live any when absent
    #[arg(long)]
    port: Option<String>,
}

impl Traffic {
    pub(super) fn is_asked_for(&self) -> bool {
        self.against.is_some() || self.live.is_some()
    }

    pub(super) fn compare(&self, shared: &Shared, origin: Origin) -> anyhow::Result<()> {
        let (frames, left_out) = match &self.against {
            Some(file) => capture::flows(file)?,
            None => (Vec::new(), 0),
        };
        let request = CompareRequest {
            file: origin.file,
            text: origin.text,
            port: self.port.clone(),
            frames,
            live_s: self.live,
        };
        let body = serde_json::to_string(&request)?;
        let patience = PATIENCE + Duration::from_secs(self.live.unwrap_or(0).into());
        let client = shared.client().patient(patience);
        let answer = client.request("POST", "/v1/compare", Some(body))?;
        let mut compared: Compared = serde_json::from_str(&answer)?;
        compared.frames_not_looked_at += left_out;
        if shared.json {
            return print_json(&compared);
        }
        print(&text(&compared))
    }
}

fn text(compared: &Compared) -> String {
    let mut out = String::new();
    for flow in &compared.changed {
        out += &flow_text(flow);
    }
    let listed = compared.changed.len() as u64;
    if listed < compared.changed_flows {
        let _ = writeln!(out, "... and {} more", compared.changed_flows - listed);
    }
    let _ = write!(
        out,
        "{} of {} flows would be judged otherwise ({} of {} frames).",
        compared.changed_flows, compared.flows, compared.changed_frames, compared.frames
    );
    if compared.changed_limits_only > 0 {
        let _ = write!(
            out,
            "\n{} of them go where they went, under other limits: how many frames those drop depends \
             on when frames come.",
            compared.changed_limits_only
        );
    }
    if compared.frames_not_looked_at > 0 {
        let _ = write!(
            out,
            "\n{} frames were not looked at.",
            compared.frames_not_looked_at
        );
    }
    out
}

fn flow_text(flow: &ChangedFlow) -> String {
    let by = |rule: &Option<Rule>| match rule {
        Some(rule) => format!(", by {}", rule_words(rule)),
        None => String::new(),
    };
    let mut out = format!(
        "{}: {}\n    seen  {}\n    now   {}{}\n    then  {}{}\n",
        flow.port,
        flow.frame,
        flow.seen,
        flow.now,
        by(&flow.now_rule),
        flow.then,
        by(&flow.then_rule)
    );
    // Which rule says so is no difference by itself.
    let kinds = |limits: &[FlowLimit]| -> Vec<_> {
        let kind = |l: &FlowLimit| [&l.port, &l.direction, &l.of, &l.limit].map(String::clone);
        limits.iter().map(kind).collect()
    };
    if kinds(&flow.now_limits) != kinds(&flow.then_limits) {
        out += &limits_text("now", &flow.now_limits);
        out += &limits_text("then", &flow.then_limits);
    }
    out
}

fn limits_text(when: &str, limits: &[FlowLimit]) -> String {
    if limits.is_empty() {
        return format!("    {when:<4}  no limit\n");
    }
    let line = |limit: &FlowLimit| {
        let FlowLimit {
            port,
            direction,
            of,
            limit,
            rule,
        } = limit;
        let rule = rule_words(rule);
        format!("    {when:<4}  at most {limit} {of} {direction} at {port}, by {rule}\n")
    };
    limits.iter().map(line).collect()
}
