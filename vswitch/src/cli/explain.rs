//! `vswitch explain`.
//!
//! In: a frame, a flow or a capture. Out: each stage that it would get to, and why.

use std::{fmt::Write, path::PathBuf};

use clap::Args;

use super::{Shared, capture, print, print_json, tables};
use crate::{
    api::types::{ExplainRequest, Explanation, FlowText, FrameText, Rule},
    control::explain::MOST_FRAMES,
};

/// What is to be explained.
#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = false)]
struct What {
    /// The frame, in hexadecimal digits
    #[arg(long, value_name = "HEX")]
    frame: Option<String>,
    /// The first frame of a TCP connection
    #[arg(long, value_name = "SRC:PORT,DST:PORT")]
    tcp: Option<String>,
    /// A UDP datagram
    #[arg(long, value_name = "SRC:PORT,DST:PORT")]
    udp: Option<String>,
    /// An echo request
    #[arg(long, value_name = "SRC,DST")]
    icmp: Option<String>,
    /// Every frame of a capture
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
}

/// The command's arguments.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The port that it would come in by
    #[arg(long)]
    port: String,
    #[command(flatten)]
    what: What,
    /// The sender's Ethernet address; that of the port's vNIC when absent
    #[arg(long, value_name = "MAC", conflicts_with_all = ["frame", "pcap"])]
    src_mac: Option<String>,
    /// The receiver's Ethernet address; that of the vNIC with the address when absent
    #[arg(long, value_name = "MAC", conflicts_with_all = ["frame", "pcap"])]
    dst_mac: Option<String>,
    /// The VLAN tag that it would come with
    #[arg(long, conflicts_with_all = ["frame", "pcap"])]
    vlan: Option<u16>,
}

impl Explain {
    pub(super) fn execute(self, shared: &Shared) -> anyhow::Result<()> {
        if let Some(file) = &self.what.pcap {
            let frames = capture::frames(file)?;
            anyhow::ensure!(!frames.is_empty(), "{} has no frames", file.display());
            for (number, batch) in frames.chunks(MOST_FRAMES).enumerate() {
                let request = ExplainRequest {
                    port: self.port.clone(),
                    frames: batch.to_vec(),
                    flow: None,
                };
                Self::ask(shared, &request, Some(number * MOST_FRAMES + 1))?;
            }
            return Ok(());
        }
        let flow = [
            ("tcp", &self.what.tcp),
            ("udp", &self.what.udp),
            ("icmp", &self.what.icmp),
        ];
        let flow = flow.iter().find_map(|(protocol, addresses)| {
            Some(FlowText {
                protocol: (*protocol).to_owned(),
                addresses: (*addresses).clone()?,
                src_mac: self.src_mac.clone(),
                dst_mac: self.dst_mac.clone(),
                vlan: self.vlan,
            })
        });
        let frames = self.what.frame.iter().map(|hex| FrameText {
            hex: hex.clone(),
            ..FrameText::default()
        });
        let request = ExplainRequest {
            port: self.port.clone(),
            frames: frames.collect(),
            flow,
        };
        Self::ask(shared, &request, None)
    }

    /// Asks, and prints the answers. `first` is the number of the first frame.
    fn ask(shared: &Shared, request: &ExplainRequest, first: Option<usize>) -> anyhow::Result<()> {
        let body = serde_json::to_string(request)?;
        let answer = shared.client().request("POST", "/v1/explain", Some(body))?;
        let rows: Vec<Explanation> = serde_json::from_str(&answer)?;
        for (place, row) in rows.iter().enumerate() {
            if shared.json {
                print_json(row)?;
            } else {
                let number = first.map(|first| format!("frame {}: ", first + place));
                print(&format!("{}{}\n", number.unwrap_or_default(), text(row)))?;
            }
        }
        Ok(())
    }
}

/// A rule, with where it is written.
pub(super) fn rule_words(rule: &Rule) -> String {
    if rule.place.is_empty() {
        return rule.text.clone();
    }
    format!(
        "{} #{}: {} ({})",
        rule.acl, rule.position, rule.text, rule.place
    )
}

fn text(row: &Explanation) -> String {
    let mut out = format!(
        "{}\nport {}, class {}, epoch {}\n\n",
        row.frame, row.port, row.class, row.epoch
    );
    let stages = row.stages.iter().map(|stage| {
        let mut detail = stage.text.clone();
        if let Some(rule) = &stage.rule {
            let _ = write!(detail, ": {}", rule_words(rule));
        }
        let looked = stage.looked_at.map(|looked| {
            let mut text = format!("{} of {} rules", looked.rules_compared, looked.rules);
            if looked.tables > 0 {
                let _ = write!(
                    text,
                    ", {} of {} tables",
                    looked.tables_probed, looked.tables
                );
            }
            text
        });
        vec![
            stage.stage.clone(),
            stage.port.clone(),
            stage.reason.clone().unwrap_or_else(|| "ok".into()),
            looked.unwrap_or_default(),
            detail,
        ]
    });
    let columns = ["STAGE", "PORT", "RESULT", "LOOKED AT", "DETAIL"];
    out += &tables::table(
        &columns.map(|head| (head, false)),
        &stages.collect::<Vec<_>>(),
        "",
    );
    let _ = write!(out, "\n\nverdict  {}", row.verdict);
    for to in &row.destinations {
        let tag = match to.vlan {
            Some(vlan) => format!("with VLAN {vlan} (tag {})", to.tag),
            None => format!("untagged (tag {})", to.tag),
        };
        let fate = match &to.reason {
            Some(reason) => format!("dropped: {reason}"),
            None => format!("leaves {tag}"),
        };
        let _ = write!(out, "\n         {}: {fate}", to.port);
    }
    for (place, mirror) in row.mirrors.iter().enumerate() {
        let head = if place == 0 { "mirrors" } else { "" };
        let fate = match &mirror.reason {
            None => format!("copies {}", mirror.text),
            Some(reason) => format!("does not: {reason} ({})", mirror.text),
        };
        let _ = write!(
            out,
            "\n{head:8} {} of {} at {} {}: {fate}",
            mirror.session, mirror.owner, mirror.port, mirror.direction
        );
    }
    if let Some(advice) = &row.advice {
        let _ = write!(out, "\nadvice   {advice}");
    }
    let _ = write!(out, "\nmask     {}", row.mask.join(" "));
    let keeps = if row.cacheable {
        "the cache keeps the verdict"
    } else {
        "the cache does not keep the verdict"
    };
    let _ = write!(out, "\ncache    {keeps}");
    for answer in &row.cache {
        let text = match &answer.verdict {
            Some(verdict) => format!("answers: {verdict}; it did {} times", answer.hits),
            None => "would not answer: the slow path decides".into(),
        };
        let _ = write!(out, "\n         worker {} {text}", answer.worker);
    }
    if row.cache.is_empty() {
        out += "\n         no worker has a queue of the port";
    }
    out.push('\n');
    out
}
