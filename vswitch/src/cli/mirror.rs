//! `vswitch mirror`: a tenant's mirror sessions.

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::{
    Shared, client,
    tables::{Column, table},
};
use crate::api::mirror_types::{
    MirrorAudit, MirrorDirection, MirrorSampling, MirrorSession, MirrorSource,
};

/// Of the table of sessions.
const COLUMNS: [Column; 11] = [
    ("OWNER", false),
    ("NAME", false),
    ("SOURCE", false),
    ("DIRECTION", false),
    ("TARGET", false),
    ("NUMBER", true),
    ("STATE", false),
    ("WANTED", true),
    ("COPIED", true),
    ("SKIPPED", true),
    ("REASON", false),
];

#[derive(Debug, Subcommand)]
pub(super) enum Mirror {
    /// Make a session: copies of a source's frames go to a target
    Create {
        #[command(flatten)]
        session: Name,
        #[command(flatten)]
        fields: Box<Fields>,
    },
    /// Every session, how it is doing and what it counted
    List,
    /// All there is to know of one session
    Show {
        #[command(flatten)]
        session: Name,
    },
    /// Change a session: what is given replaces what was
    Update {
        #[command(flatten)]
        session: Name,
        #[command(flatten)]
        fields: Box<Fields>,
        /// Take a setting back
        #[arg(long, value_enum, value_name = "SETTING")]
        unset: Vec<Setting>,
    },
    /// End a session
    Delete {
        #[command(flatten)]
        session: Name,
    },
    /// What was done to sessions last: who, what, when
    Audit,
}

/// Which session.
#[derive(Debug, Args)]
pub(super) struct Name {
    /// Its name
    name: String,
    /// The tenant whose it is
    #[arg(long)]
    owner: String,
}

/// What is asked for.
#[derive(Debug, Args)]
pub(super) struct Fields {
    /// Mirror a VM's interface
    #[arg(long, group = "source")]
    vnic: Option<String>,
    /// Mirror a port
    #[arg(long, group = "source")]
    port: Option<String>,
    /// Mirror the owner's access ports of a network
    #[arg(long, group = "source")]
    network: Option<String>,
    /// Where copies go: a mirror target of the configuration
    #[arg(long, value_name = "TARGET")]
    to: Option<String>,
    /// in (to the VM), out (from the VM) or both
    #[arg(long, value_enum)]
    direction: Option<Direction>,
    /// A rule: allow mirrors, deny does not, the first that matches decides; can be given again
    #[arg(long, value_name = "RULE")]
    filter: Vec<String>,
    /// Frames that policy rejects, too
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    rejected: Option<bool>,
    /// Only the first bytes of each frame, at least 78
    #[arg(long, value_name = "BYTES")]
    truncate: Option<u32>,
    /// One in so many frames, as in 100; with "flows", as in 100flows, all frames of one in so many flows
    #[arg(long, value_name = "N[flows]", value_parser = sample)]
    sample: Option<(u32, MirrorSampling)>,
    /// Most copies a second
    #[arg(long, value_name = "N")]
    frames_per_second: Option<u64>,
    /// Most bits a second
    #[arg(long, value_name = "N")]
    bits_per_second: Option<u64>,
    /// Who is served first: the lower number [default: 100]
    #[arg(long, value_name = "N")]
    priority: Option<u16>,
    /// Seconds after which it ends by itself
    #[arg(long, value_name = "SECONDS")]
    lease: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Direction {
    In,
    Out,
    Both,
}

impl From<Direction> for MirrorDirection {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::In => Self::In,
            Direction::Out => Self::Out,
            Direction::Both => Self::Both,
        }
    }
}

/// What can be taken back.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Setting {
    Filter,
    Truncate,
    Sample,
    FramesPerSecond,
    BitsPerSecond,
    Lease,
}

pub(super) fn sample(text: &str) -> Result<(u32, MirrorSampling), String> {
    let (number, by) = match text.strip_suffix("flows") {
        Some(number) => (number, MirrorSampling::Flows),
        None => (text, MirrorSampling::Frames),
    };
    let number = number
        .trim()
        .parse()
        .map_err(|_| "write it as in 100 or 100flows".to_owned())?;
    Ok((number, by))
}

impl Fields {
    /// Those that were given, as the API has them.
    fn given(self) -> anyhow::Result<Map<String, Value>> {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            fields.extend(value.map(|value| (name.to_owned(), value)));
        };
        let source = match (self.vnic, self.port, self.network) {
            (Some(name), ..) => Some(MirrorSource::Vnic(name)),
            (_, Some(name), _) => Some(MirrorSource::Port(name)),
            (.., Some(name)) => Some(MirrorSource::Network(name)),
            _ => None,
        };
        put("source", source.map(serde_json::to_value).transpose()?);
        put("target", self.to.map(Value::from));
        let direction = self.direction.map(MirrorDirection::from);
        put(
            "direction",
            direction.map(serde_json::to_value).transpose()?,
        );
        put(
            "filter",
            (!self.filter.is_empty()).then(|| self.filter.into()),
        );
        put("rejected", self.rejected.map(Value::from));
        put("truncate_bytes", self.truncate.map(Value::from));
        put("sample", self.sample.map(|(number, _)| number.into()));
        let by = self.sample.map(|(_, by)| serde_json::to_value(by));
        put("sample_by", by.transpose()?);
        put("frames_per_second", self.frames_per_second.map(Value::from));
        put("bits_per_second", self.bits_per_second.map(Value::from));
        put("priority", self.priority.map(Value::from));
        put("lease_s", self.lease.map(Value::from));
        Ok(fields)
    }
}

impl Name {
    fn path(&self) -> String {
        let (owner, name) = (
            client::percent_encoded(&self.owner),
            client::percent_encoded(&self.name),
        );
        format!("/v1/mirrors/{owner}/{name}")
    }
}

impl Mirror {
    pub(super) fn execute(self, shared: &Shared) -> anyhow::Result<()> {
        let client = shared.client();
        let body = match self {
            Self::List => return shared.get::<Vec<_>>("/v1/mirrors", |rows| sessions(rows)),
            Self::Audit => return shared.get::<Vec<_>>("/v1/mirrors/audit", |rows| audit(rows)),
            Self::Show { session } => return shared.get(&session.path(), one),
            Self::Create { session, fields } => {
                let mut wanted = fields.given()?;
                anyhow::ensure!(
                    wanted.contains_key("source"),
                    "what is to be mirrored? Give --vnic, --port or --network"
                );
                wanted
                    .get("target")
                    .context("where do copies go? Give --to TARGET")?;
                wanted.insert("name".into(), session.name.into());
                wanted.insert("owner".into(), session.owner.into());
                client.request("POST", "/v1/mirrors", Some(json!(wanted).to_string()))?
            }
            Self::Update {
                session,
                fields,
                unset,
            } => {
                let mut change = fields.given()?;
                change.extend(
                    unset
                        .into_iter()
                        .map(|setting| (setting.field().to_owned(), Value::Null)),
                );
                anyhow::ensure!(!change.is_empty(), "nothing was given that is to change");
                client.request("PATCH", &session.path(), Some(json!(change).to_string()))?
            }
            Self::Delete { session } => client.request("DELETE", &session.path(), None)?,
        };
        shared.show(&body, one)
    }
}

impl Setting {
    fn field(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Truncate => "truncate_bytes",
            Self::Sample => "sample",
            Self::FramesPerSecond => "frames_per_second",
            Self::BitsPerSecond => "bits_per_second",
            Self::Lease => "lease_s",
        }
    }
}

pub(super) fn source(source: &MirrorSource) -> String {
    match source {
        MirrorSource::Vnic(name) => format!("vnic {name}"),
        MirrorSource::Port(name) => format!("port {name}"),
        MirrorSource::Network(name) => format!("network {name}"),
    }
}

fn direction(direction: MirrorDirection) -> &'static str {
    match direction {
        MirrorDirection::In => "in",
        MirrorDirection::Out => "out",
        MirrorDirection::Both => "both",
    }
}

fn sessions(rows: &[MirrorSession]) -> String {
    let cells = rows.iter().map(|row| {
        let request = &row.request;
        vec![
            request.owner.clone(),
            request.name.clone(),
            source(&request.source),
            direction(request.direction).into(),
            request.target.clone(),
            row.number.to_string(),
            row.state.clone(),
            row.wanted.to_string(),
            row.copied.to_string(),
            row.skipped.values().sum::<u64>().to_string(),
            row.reason.clone(),
        ]
    });
    table(
        &COLUMNS,
        &cells.collect::<Vec<_>>(),
        "there is no mirror session",
    )
}

fn one(row: &MirrorSession) -> String {
    let request = &row.request;
    let mut lines: Vec<(&str, String)> = vec![
        (
            "session",
            format!("{} of tenant {}", request.name, request.owner),
        ),
        (
            "source",
            format!(
                "{}, direction {}",
                source(&request.source),
                direction(request.direction)
            ),
        ),
        ("ports", row.ports.join(", ")),
        (
            "target",
            format!("{}, session number {}", request.target, row.number),
        ),
        (
            "state",
            match row.reason.as_str() {
                "" => row.state.clone(),
                reason => format!("{}: {reason}", row.state),
            },
        ),
    ];
    lines.extend(request.filter.iter().map(|rule| ("filter", rule.clone())));
    if request.rejected {
        lines.push(("rejected", "frames that policy rejects, too".into()));
    }
    if let Some(bytes) = request.truncate_bytes {
        lines.push(("truncate", format!("to {bytes} bytes")));
    }
    if let Some(number) = request.sample {
        let of = match request.sample_by {
            MirrorSampling::Frames => "frames",
            MirrorSampling::Flows => "flows",
        };
        lines.push(("sample", format!("one in {number} {of}")));
    }
    if let Some(frames) = request.frames_per_second {
        lines.push(("budget", format!("{frames} frames/s")));
    }
    if let Some(bits) = request.bits_per_second {
        lines.push(("budget", format!("{bits} bit/s")));
    }
    lines.push(("priority", request.priority.to_string()));
    if let Some(lease) = request.lease_s {
        lines.push(("lease", format!("ends in {lease} s")));
    }
    lines.push(("wanted", format!("{} frames", row.wanted)));
    lines.push((
        "copied",
        format!("{} frames, {} bytes", row.copied, row.bytes),
    ));
    if row.truncated > 0 {
        lines.push(("truncated", format!("{} frames", row.truncated)));
    }
    if row.fragments > 0 {
        lines.push(("fragments", row.fragments.to_string()));
    }
    for (reason, frames) in &row.skipped {
        lines.push(("skipped", format!("{frames} {reason}")));
    }
    let lines = lines
        .iter()
        .map(|(name, text)| format!("{name:<10} {text}\n"));
    lines.collect()
}

fn audit(rows: &[MirrorAudit]) -> String {
    let columns = [
        ("TIME", true),
        ("WHO", false),
        ("OWNER", false),
        ("SESSION", false),
        ("ACTION", false),
        ("DETAIL", false),
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.time_s.to_string(),
            row.who.clone(),
            row.owner.clone(),
            row.session.clone(),
            row.action.clone(),
            row.detail.clone(),
        ]
    });
    table(&columns, &cells.collect::<Vec<_>>(), "nothing was done")
}
