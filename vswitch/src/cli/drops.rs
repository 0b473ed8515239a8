//! `vswitch drops`: dropped frames as they happen, and what the reasons mean.

use std::{fmt::Write, ops::ControlFlow};

use clap::Args;
use policy::DropReason;

use super::{Shared, client::percent_encoded, explain::rule_words, print, print_json, tables};
use crate::{
    api::types::{DropLine, DropSample},
    decode,
};

/// How long to watch when it is not said, seconds.
const DEFAULT_SECONDS: u64 = 5;
/// The longest time that the switch watches, seconds.
const FOLLOW_SECONDS: u64 = 86_400;

/// The command's arguments.
#[derive(Debug, Args)]
pub(super) struct Drops {
    /// Watch until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Only frames that came in by this port or were to leave by it
    #[arg(long)]
    port: Option<String>,
    /// Only frames dropped for this reason
    #[arg(long)]
    reason: Option<String>,
    /// End after so many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Watch for so long [default: 5]
    #[arg(long, conflicts_with = "follow")]
    seconds: Option<u64>,
    /// Samples per second of each worker at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    per_second: u32,
    /// Show the first 128 bytes too
    #[arg(long, short = 'x')]
    hex: bool,
    /// List the reasons with their meaning, and watch nothing; no running switch is needed
    #[arg(long, conflicts_with_all = ["follow", "port", "reason", "count", "seconds", "hex"])]
    reasons: bool,
}

impl Drops {
    pub(super) fn execute(&self, shared: &Shared) -> anyhow::Result<()> {
        if self.reasons {
            return reasons(shared);
        }
        let seconds = match self.seconds {
            _ if self.follow => FOLLOW_SECONDS,
            Some(seconds) => seconds,
            None => DEFAULT_SECONDS,
        };
        let mut path = format!(
            "/v1/drops/samples?seconds={seconds}&per_second={}",
            self.per_second
        );
        for (name, value) in [("port", &self.port), ("reason", &self.reason)] {
            if let Some(value) = value {
                let _ = write!(path, "&{name}={}", percent_encoded(value));
            }
        }
        let (mut shown, mut skipped) = (0, 0);
        shared.client().lines(&path, |line| {
            let parsed: DropLine = serde_json::from_str(line)?;
            skipped += parsed.skipped;
            if shared.json {
                print(line)?;
            } else if parsed.skipped > 0 {
                print(&format!("... {} more without a sample", parsed.skipped))?;
            }
            if let Some(sample) = &parsed.sample {
                shown += 1;
                if !shared.json {
                    print(&self.text(sample))?;
                }
            }
            let enough = self.count.is_some_and(|count| shown >= count);
            Ok(if enough {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        if !shared.json && shown + skipped == 0 {
            print(&format!("No frame was dropped within {seconds} s."))?;
        }
        Ok(())
    }

    fn text(&self, sample: &DropSample) -> String {
        let mut text = format!("{} ", time_of_day(sample.time_s));
        match &sample.ingress {
            Some(ingress) if *ingress != sample.port => {
                let _ = write!(text, "{ingress} -> {}", sample.port);
            }
            _ => text += &sample.port,
        }
        let _ = write!(text, " {} at {}", sample.reason, sample.stage);
        if let Some(vm) = &sample.vm {
            let _ = write!(text, ", VM {vm}");
        }
        if let Some(rule) = &sample.rule {
            let _ = write!(text, ", {}", rule_words(rule));
        }
        if sample.frame.is_empty() {
            let _ = write!(text, "\n    {} frames, not known which", sample.frames);
        } else {
            let _ = write!(text, "\n    {}", sample.frame);
        }
        if self.hex
            && let Some(bytes) = decode::from_hex(&sample.hex)
        {
            let _ = write!(text, "\n{}", decode::dump(&bytes));
        }
        text
    }
}

/// As in `17:04:05.123`, UTC.
fn time_of_day(time_s: f64) -> String {
    let ms = (time_s * 1000.0) as u64 % 86_400_000;
    format!(
        "{:02}:{:02}:{:02}.{:03}",
        ms / 3_600_000,
        ms / 60_000 % 60,
        ms / 1000 % 60,
        ms % 1000
    )
}

fn reasons(shared: &Shared) -> anyhow::Result<()> {
    if shared.json {
        let rows = DropReason::ALL.iter().map(|reason| {
            serde_json::json!({
                "reason": reason.name(),
                "stage": reason.stage().name(),
                "text": reason.text(),
                "advice": reason.advice(),
            })
        });
        return print_json(&rows.collect::<Vec<_>>());
    }
    let rows = DropReason::ALL.iter().map(|reason| {
        vec![
            reason.name().to_owned(),
            reason.stage().name().to_owned(),
            format!("{}\n{}", reason.text(), reason.advice().replace('`', "")),
        ]
    });
    let columns = [("REASON", false), ("STAGE", false), ("MEANING", false)];
    print(&tables::table(&columns, &rows.collect::<Vec<_>>(), ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_to_the_millisecond() {
        assert_eq!(time_of_day(1_700_000_000.25), "22:13:20.250");
    }
}
