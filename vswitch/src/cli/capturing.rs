//! `vswitch capture`: frames of ports as they pass, as pcapng.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use policy::rule::WrittenRule;

use super::{
    Shared,
    mirror::{self, Direction},
    pipe,
    tables::{Column, table},
};
use crate::api::{
    capture_types::{
        Capture, CaptureRequest, CaptureSummary, DEFAULT_BITS_PER_SECOND,
        DEFAULT_FRAMES_PER_SECOND,
    },
    mirror_types::{MirrorSampling, MirrorSource},
};

/// Of the table of captures.
const COLUMNS: [Column; 7] = [
    ("ID", true),
    ("WHO", false),
    ("OWNER", false),
    ("SOURCES", false),
    ("WANTED", true),
    ("COPIED", true),
    ("SKIPPED", true),
];

/// The command's arguments.
#[derive(Debug, Args)]
pub(super) struct Capturing {
    /// Capture at a port; can be given again
    #[arg(long, value_name = "PORT")]
    port: Vec<String>,
    /// Capture at a VM's interface; can be given again
    #[arg(long, value_name = "VNIC")]
    vnic: Vec<String>,
    /// Capture at the access ports of a network; can be given again
    #[arg(long, value_name = "NETWORK")]
    network: Vec<String>,
    /// For this tenant, whose the sources must be; without it you capture as the provider
    #[arg(long, value_name = "TENANT")]
    owner: Option<String>,
    #[command(flatten)]
    pub(super) wanted: Wanted,
    /// End after so many frames
    #[arg(long, short = 'c', value_name = "N")]
    count: Option<u64>,
    /// End after so long
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Into this file, which is replaced, instead of standard output
    #[arg(long, short = 'w', value_name = "FILE")]
    write: Option<PathBuf>,
    /// Show the captures that go on, whosever they are, and capture nothing
    #[arg(long, conflicts_with_all = ["port", "vnic", "network", "owner", "count", "seconds", "write", "end"])]
    list: bool,
    /// End the capture with this number, whosever it is, and capture nothing
    #[arg(long, value_name = "ID", conflicts_with_all = ["port", "vnic", "network", "owner", "count", "seconds", "write"])]
    end: Option<u32>,
}

/// Which frames, and how many.
#[derive(Clone, Debug, Args)]
pub(super) struct Wanted {
    /// in (to the VM), out (from the VM) or both
    #[arg(long, value_enum, default_value = "both")]
    direction: Direction,
    /// Rules, one after the other or with ; between: allow captures, deny does not, the first that
    /// matches decides
    #[arg(long, value_name = "RULE")]
    filter: Vec<String>,
    /// Frames that policy rejects, too; they are marked
    #[arg(long)]
    rejected: bool,
    /// Only the first bytes of each frame, at least 78
    #[arg(long, short = 's', value_name = "BYTES")]
    snap: Option<u32>,
    /// One in so many frames, as in 100; with "flows", as in 100flows, all frames of one in so many flows
    #[arg(long, value_name = "N[flows]", value_parser = mirror::sample)]
    sample: Option<(u32, MirrorSampling)>,
    /// Most copies a second
    #[arg(long, value_name = "N", default_value_t = DEFAULT_FRAMES_PER_SECOND)]
    frames_per_second: u64,
    /// Most bits a second
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BITS_PER_SECOND)]
    bits_per_second: u64,
    /// No budget: copies cost the ports' workers what they cost
    #[arg(long, conflicts_with_all = ["frames_per_second", "bits_per_second"])]
    unlimited: bool,
}

impl Wanted {
    /// What the switch is asked for; `filter` stands behind the rules of the arguments.
    pub(super) fn request(
        &self,
        sources: Vec<MirrorSource>,
        filter: Option<&str>,
    ) -> anyhow::Result<CaptureRequest> {
        let texts = self.filter.iter().map(String::as_str).chain(filter);
        let mut rules = Vec::new();
        for text in texts {
            rules.extend(self::rules(text).map_err(anyhow::Error::msg)?);
        }
        let budget = |per_second| (!self.unlimited).then_some(per_second);
        Ok(CaptureRequest {
            sources,
            owner: None,
            direction: self.direction.into(),
            filter: rules,
            rejected: self.rejected,
            truncate_bytes: self.snap,
            sample: self.sample.map(|(one_in, _)| one_in),
            sample_by: self.sample.map_or(MirrorSampling::Frames, |(_, by)| by),
            frames_per_second: budget(self.frames_per_second),
            bits_per_second: budget(self.bits_per_second),
            count: None,
            seconds: None,
        })
    }
}

/// The rules of a text that has them one after the other, with `;` or line ends between.
///
/// # Errors
/// What is wrong with the first that is none, with a mark under it.
pub(super) fn rules(text: &str) -> Result<Vec<String>, String> {
    let mut rules = Vec::new();
    for rule in text.split([';', '\n']) {
        if rule.trim().is_empty() {
            continue;
        }
        let parsed: Result<WrittenRule, _> = rule.parse();
        if let Err(error) = parsed {
            let start = rule.as_ptr() as usize - text.as_ptr() as usize;
            let before = text[..start + error.span.start].chars().count();
            let width = rule[error.span.clone()].chars().count().max(1);
            let help = match error.help.as_str() {
                "" => String::new(),
                help => format!("; {help}"),
            };
            return Err(format!(
                "filter, column {}: {}{help}\n  {}\n  {:before$}{}",
                before + 1,
                error.message,
                text.replace('\n', " "),
                "",
                "^".repeat(width)
            ));
        }
        rules.push(rule.trim().to_owned());
    }
    Ok(rules)
}

impl Capturing {
    pub(super) fn execute(&self, shared: &Shared) -> anyhow::Result<()> {
        if self.list {
            return shared.get::<Vec<Capture>>("/v1/captures", |rows| list(rows));
        }
        if let Some(id) = self.end {
            let path = format!("/v1/captures/{id}");
            let body = shared.client().request("DELETE", &path, None)?;
            return shared.show::<Capture>(&body, |row| list(std::slice::from_ref(row)));
        }
        let vnics = self.vnic.iter().cloned().map(MirrorSource::Vnic);
        let ports = self.port.iter().cloned().map(MirrorSource::Port);
        let networks = self.network.iter().cloned().map(MirrorSource::Network);
        let sources: Vec<MirrorSource> = ports.chain(vnics).chain(networks).collect();
        anyhow::ensure!(
            !sources.is_empty(),
            "what is to be captured? Give --port, --vnic or --network; `vswitch show ports` lists the ports"
        );
        let request = CaptureRequest {
            owner: self.owner.clone(),
            count: self.count,
            seconds: self.seconds,
            ..self.wanted.request(sources, None)?
        };
        let output = match &self.write {
            Some(path) if path.as_os_str() != "-" => create(path)?,
            _ => pipe::standard_output()?,
        };
        let summary = pipe::run(&shared.client(), &request, output)?;
        if shared.json {
            eprintln!("{}", serde_json::to_string(&summary)?);
        } else {
            eprintln!("{}", sentence(&summary));
        }
        Ok(())
    }
}

/// What is captured is its user's alone.
fn create(path: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600);
    let file = file.open(path);
    file.with_context(|| format!("cannot write to {}", path.display()))
}

/// How a capture went, in one line.
pub(super) fn sentence(summary: &CaptureSummary) -> String {
    let dropped: u64 = summary.dropped.values().sum();
    let reasons = summary.dropped.iter().map(|(reason, n)| format!("{n} {reason}"));
    let reasons: Vec<String> = reasons.collect();
    let why = if reasons.is_empty() {
        String::new()
    } else {
        format!(" ({})", reasons.join(", "))
    };
    format!(
        "{} frames captured, {dropped} dropped{why}; {}",
        summary.captured, summary.ended
    )
}

fn list(rows: &[Capture]) -> String {
    let cells = rows.iter().map(|row| {
        let sum = |count: fn(&crate::api::capture_types::CapturePort) -> u64| {
            row.ports.iter().map(count).sum::<u64>().to_string()
        };
        let sources: Vec<String> = row.request.sources.iter().map(mirror::source).collect();
        vec![
            row.id.to_string(),
            row.who.clone(),
            row.request.owner.clone().unwrap_or_default(),
            sources.join(", "),
            sum(|port| port.wanted),
            sum(|port| port.copied),
            sum(|port| port.skipped.values().sum()),
        ]
    });
    table(&COLUMNS, &cells.collect::<Vec<_>>(), "nobody captures")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_stand_one_after_the_other() {
        let found = rules("deny tcp to any port 22; allow tcp;\nallow icmp").expect("rules");
        assert_eq!(
            found,
            ["deny tcp to any port 22", "allow tcp", "allow icmp"]
        );
        assert_eq!(rules(" ; "), Ok(vec![]));
    }

    #[test]
    fn what_is_no_rule_is_pointed_at_in_the_whole_text() {
        let error = rules("allow icmp; allow tpc to any").expect_err("tpc");
        assert!(error.starts_with("filter, column 19: "), "{error}");
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines[1], "  allow icmp; allow tpc to any");
        assert_eq!(lines[2], "                    ^^^");
        let error = rules("allow").expect_err("nothing said");
        assert!(error.starts_with("filter, column 6: "), "{error}");
    }

    #[test]
    fn a_summary_says_what_is_missing_and_why() {
        let mut summary = CaptureSummary {
            captured: 5,
            ended: "its time is over".into(),
            ..CaptureSummary::default()
        };
        assert_eq!(
            sentence(&summary),
            "5 frames captured, 0 dropped; its time is over"
        );
        summary.dropped.insert("no_room".into(), 2);
        summary.dropped.insert("over_budget".into(), 1);
        let text = sentence(&summary);
        assert!(
            text.contains("3 dropped (2 no_room, 1 over_budget)"),
            "{text}"
        );
    }
}
