//! The command line.
//!
//! In: arguments. Out: text for a person, or JSON for a program (`--json`, documented in
//! `docs/cli.md`). What must hold: an error says what to do, and the exit status tells the kinds
//! apart: 0 done, 1 refused or failed, 2 wrong usage, 3 no switch runs on the socket.

mod capture;
mod capturing;
pub(crate) mod client;
mod compare;
mod decap;
mod decap_tables;
mod drops;
mod explain;
mod extcap;
mod mirror;
mod pipe;
mod tables;

use std::{
    fmt::Write as _,
    io::{IsTerminal, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    api::types,
    config::{self, Machine},
    control::{Applied, Origin, cost, lifecycle},
    doctor,
};
use client::{Client, Failed};

/// A userspace virtual switch: ports of VMs, containers and uplinks, each VM's policy before and
/// after every hop
#[derive(Debug, Parser)]
#[command(name = "vswitch", version, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Args)]
struct Shared {
    /// The control socket [default: /run/vswitch/vswitch.sock]
    #[arg(long, global = true, env = "VSWITCH_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the switch in the foreground
    Run {
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Never sleep, whatever the configuration says
        #[arg(long)]
        busy_poll: bool,
    },
    /// Check a configuration; no running switch is needed
    Check {
        /// The configuration; `-` reads standard input
        file: PathBuf,
    },
    /// Apply a configuration, whole or not at all
    Apply {
        /// The configuration; `-` reads standard input
        file: PathBuf,
        /// Show what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        traffic: compare::Traffic,
    },
    /// Tell what would become of a frame, and why; nothing changes
    Explain(explain::Explain),
    /// Show dropped frames as they happen: when, where, why, by which rule
    Drops(drops::Drops),
    /// Show one aspect of the running switch
    #[command(subcommand)]
    Show(Show),
    /// Counters of ports and workers
    Stats,
    /// Add or remove a port until the next apply, or enable one that was disabled
    #[command(subcommand)]
    Port(Port),
    /// Change a set of addresses or ports until the next apply
    #[command(subcommand)]
    Set(Set),
    /// Change routes of a router until the next apply
    #[command(subcommand)]
    Route(Route),
    /// Move receive queues between workers
    #[command(subcommand)]
    Queue(Queue),
    /// Mirror sessions: copies of a tenant's frames for its sniffers
    #[command(subcommand)]
    Mirror(mirror::Mirror),
    /// Capture frames of ports as they pass: pcapng for Wireshark, tcpdump or a file
    Capture(Box<capturing::Capturing>),
    /// What Wireshark calls to list the switch's ports and to capture at them
    Extcap(Box<extcap::Extcap>),
    /// Forget connections, or carry a VM's to another host
    #[command(subcommand)]
    Connections(Connections),
    /// Receive mirrored frames and hand them to sniffers; or speak with what does
    Decap(decap::Decap),
    /// Look at this machine: what is there, what is missing, what to do
    Doctor {
        /// Look at the interfaces of this configuration only
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write one page per command into a folder
    Man {
        /// The folder
        folder: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum Show {
    /// Every port, its state and its counters
    Ports,
    /// All there is to know of one port
    Port {
        /// The port
        name: String,
    },
    /// Every worker
    Workers,
    /// Every receive queue and its worker
    Queues,
    /// Learned addresses
    Macs,
    /// Hosts that routers send to
    Neighbors,
    /// Routes of routers
    Routes {
        /// Of this router only
        #[arg(long)]
        router: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Entries of the flow caches
    Flows {
        /// Entries of each worker at most
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Connections
    Connections {
        /// Of this VM only
        #[arg(long)]
        vm: Option<String>,
        /// Of this port only
        #[arg(long)]
        port: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Dropped frames by port, reason and rule
    Drops,
    /// Rules and how many frames each decided
    Rules {
        /// Of this ACL alone
        #[arg(long, value_name = "NAME")]
        acl: Option<String>,
        /// Those alone that never decided
        #[arg(long)]
        unused: bool,
    },
    /// Sets of addresses and ports, and what is in them
    Sets,
    /// The running configuration
    Config,
}

#[derive(Debug, Subcommand)]
enum Port {
    /// Add a port: fields as in [[port]], such as name=p5 driver=tap interface=tap0 network=blue
    Add {
        /// Fields; a value that is not TOML is taken as text
        #[arg(required = true, value_name = "FIELD=VALUE")]
        fields: Vec<String>,
    },
    /// Remove a port
    Remove {
        /// The port
        name: String,
    },
    /// Enable a port that a spanning tree frame has disabled
    Enable {
        /// The port
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum Set {
    /// Put addresses, prefixes, ports or ranges of ports into a set, all in one step
    Add {
        /// The set
        name: String,
        /// Such as 10.0.0.7, 10.1.0.0/16, 443 or 8000-8999
        #[arg(required = true, value_name = "MEMBER")]
        members: Vec<String>,
    },
    /// Take members out of a set, all in one step
    Remove {
        /// The set
        name: String,
        /// As they were put in
        #[arg(required = true, value_name = "MEMBER")]
        members: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum Route {
    /// Put a route into a router
    Add(RouteWords),
    /// Take the routes to a prefix out of a router, or those of them that lead where it says
    Delete(RouteWords),
}

#[derive(Debug, Args)]
struct RouteWords {
    /// The router
    router: String,
    /// A prefix or an address, such as 10.9.0.0/16
    to: String,
    /// Where it leads: `via` and next hops, `blackhole`, or `reject`
    #[arg(value_name = "WHERE")]
    whereto: Vec<String>,
    /// The network of hosts that have the addresses, or of a link-local next hop
    #[arg(long)]
    network: Option<String>,
    /// Of several routes to a prefix, those with the least are followed
    #[arg(long)]
    metric: Option<u32>,
}

#[derive(Debug, Subcommand)]
enum Queue {
    /// Give a receive queue to a worker
    Assign {
        /// The port
        port: String,
        /// The queue's number
        queue: usize,
        /// The worker's number
        worker: usize,
    },
}

#[derive(Debug, Subcommand)]
enum Connections {
    /// Forget connections: their next frames are judged anew
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Flush {
        /// Those of this VM
        #[arg(long, group = "which")]
        vm: Option<String>,
        /// All
        #[arg(long, group = "which")]
        all: bool,
    },
    /// Write a VM's connections to standard output, for another host
    Export {
        /// The VM
        vm: String,
    },
    /// Take over a VM's connections from another host
    Import {
        /// The VM
        vm: String,
        /// What was exported; `-` reads standard input
        file: PathBuf,
    },
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse_from(extcap::arguments(std::env::args_os()));
    match cli.execute() {
        Ok(code) => code,
        Err(error) => {
            // A reader that went away, such as `head`, is no failure of ours.
            let io = error.downcast_ref::<std::io::Error>();
            if io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe) {
                return ExitCode::SUCCESS;
            }
            eprintln!("vswitch: {error:#}");
            match error.downcast_ref::<Failed>() {
                Some(Failed::NotRunning { .. }) => ExitCode::from(3),
                _ => ExitCode::from(1),
            }
        }
    }
}

impl Cli {
    fn execute(self) -> anyhow::Result<ExitCode> {
        let shared = self.shared;
        match self.command {
            Command::Run { config, busy_poll } => {
                log_to_stderr();
                lifecycle::run(&lifecycle::Options {
                    config,
                    socket: shared.socket,
                    busy_poll,
                })?;
            }
            Command::Check { file } => check(&shared, &file)?,
            Command::Apply {
                file,
                dry_run,
                traffic,
            } => apply(&shared, &file, dry_run, &traffic)?,
            Command::Explain(explain) => explain.execute(&shared)?,
            Command::Drops(drops) => drops.execute(&shared)?,
            Command::Show(show) => show.execute(&shared)?,
            Command::Stats => shared.get::<types::Stats>("/v1/stats", tables::stats)?,
            Command::Port(port) => port.execute(&shared)?,
            Command::Set(set) => set.execute(&shared)?,
            Command::Route(route) => route.execute(&shared)?,
            Command::Queue(Queue::Assign {
                port,
                queue,
                worker,
            }) => assign(&shared, port, queue, worker)?,
            Command::Mirror(mirror) => mirror.execute(&shared)?,
            Command::Capture(capture) => capture.execute(&shared)?,
            Command::Extcap(extcap) => return extcap.execute(&shared),
            Command::Connections(connections) => connections.execute(&shared)?,
            Command::Decap(decap) => decap.execute(&shared)?,
            Command::Doctor { config } => return diagnose(&shared, config),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "vswitch", &mut script);
                std::io::stdout().write_all(&script)?;
            }
            Command::Man { folder } => manual(folder)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Shared {
    fn client(&self) -> Client {
        let default = || PathBuf::from(config::DEFAULT_SOCKET);
        Client::new(self.socket.clone().unwrap_or_else(default))
    }

    fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        table: impl Fn(&T) -> String,
    ) -> anyhow::Result<()> {
        let body = self.client().request("GET", path, None)?;
        self.show(&body, table)
    }

    /// Prints an answer: as it came, or as a table.
    fn show<T: DeserializeOwned>(
        &self,
        body: &str,
        table: impl Fn(&T) -> String,
    ) -> anyhow::Result<()> {
        if self.json {
            let value: serde_json::Value = serde_json::from_str(body)?;
            return print_json(&value);
        }
        let value = serde_json::from_str(body)
            .context("the answer is not understood; is vswitch of another version running?")?;
        print(&table(&value))
    }
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.trim_end())?;
    Ok(out.flush()?)
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "info".into()))
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
}

fn read(file: &Path) -> anyhow::Result<Origin> {
    if file.as_os_str() != "-" {
        return lifecycle::read_config(file);
    }
    let mut text = String::new();
    let input = std::io::stdin().take(config::MAX_BYTES as u64 + 1);
    std::io::BufReader::new(input).read_to_string(&mut text)?;
    Ok(Origin {
        file: "stdin".into(),
        text,
    })
}

fn check(shared: &Shared, file: &Path) -> anyhow::Result<()> {
    let origin = read(file)?;
    let outcome = config::parse(&origin.file, &origin.text, &Machine::this());
    let lookups = outcome.as_ref().map(cost::lookups);
    if shared.json {
        let problems = outcome.as_ref().err().map_or(&[][..], |p| &p.0);
        let refusal = lookups.as_ref().ok().and_then(|rows| rows.as_ref().err());
        print_json(&serde_json::json!({
            "file": origin.file,
            "ok": outcome.is_ok() && refusal.is_none(),
            "problems": problems,
            "refusal": refusal.map(ToString::to_string),
            "lookups": lookups.as_ref().ok().and_then(|rows| rows.as_ref().ok()),
        }))?;
        return match (&outcome, refusal) {
            (Ok(_), None) => Ok(()),
            _ => Err(anyhow::anyhow!("the configuration has problems")),
        };
    }
    let lookups = match lookups {
        Ok(lookups) => lookups?,
        Err(problems) => return Err(problems.clone().into()),
    };
    let config = outcome?;
    let table = tables::lookups(&lookups);
    print(&format!(
        "{}: ok ({} ports, {} networks, {} vNICs, {} ACLs and {} groups with {} rules){}{table}",
        origin.file,
        config.ports.len(),
        config.networks.len(),
        config.vnics.len(),
        config.acls.len(),
        config.groups.len(),
        config::lists::Lists::new(&config).len(),
        if table.is_empty() { "" } else { "\n\n" },
    ))
}

fn apply(
    shared: &Shared,
    file: &Path,
    dry_run: bool,
    traffic: &compare::Traffic,
) -> anyhow::Result<()> {
    let mut origin = read(file)?;
    // The text is sent again with the traffic only.
    let text = if traffic.is_asked_for() {
        origin.text.clone()
    } else {
        std::mem::take(&mut origin.text)
    };
    let path = format!(
        "/v1/apply?dry_run={dry_run}&file={}",
        client::percent_encoded(&origin.file)
    );
    let body = shared.client().request("POST", &path, Some(text))?;
    if !traffic.is_asked_for() {
        return shared.show::<Applied>(&body, tables::applied);
    }
    if !shared.json {
        shared.show::<Applied>(&body, tables::applied)?;
        print("")?;
    }
    traffic.compare(shared, origin)
}

fn assign(shared: &Shared, port: String, queue: usize, worker: usize) -> anyhow::Result<()> {
    let wanted = serde_json::to_string(&types::Assignment {
        port,
        queue,
        worker,
    })?;
    let client = shared.client();
    let body = client.request("POST", "/v1/queues/assign", Some(wanted))?;
    shared.show::<Vec<types::Queue>>(&body, |rows| tables::queues(rows))
}

fn diagnose(shared: &Shared, config: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let wanted = match config {
        Some(file) => {
            let origin = lifecycle::read_config(&file)?;
            Some(config::parse(&origin.file, &origin.text, &Machine::this())?)
        }
        None => None,
    };
    let findings = doctor::examine(wanted.as_ref());
    if shared.json {
        print_json(&findings)?;
    } else {
        print(&tables::findings(&findings))?;
    }
    let bad = findings.iter().any(|f| f.status == doctor::Status::Problem);
    Ok(ExitCode::from(u8::from(bad)))
}

fn manual(folder: Option<PathBuf>) -> anyhow::Result<()> {
    if let Some(folder) = folder {
        return std::fs::create_dir_all(&folder)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), &folder))
            .with_context(|| format!("cannot write manual pages into {}", folder.display()));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    Ok(std::io::stdout().write_all(&page)?)
}

impl Show {
    fn execute(self, shared: &Shared) -> anyhow::Result<()> {
        match self {
            Self::Ports => shared.get::<Vec<_>>("/v1/ports", |rows| tables::ports(rows)),
            Self::Port { name } => {
                let path = format!("/v1/ports/{}", client::percent_encoded(&name));
                shared.get(&path, tables::port)
            }
            Self::Workers => shared.get::<Vec<_>>("/v1/workers", |rows| tables::workers(rows)),
            Self::Queues => shared.get::<Vec<_>>("/v1/queues", |rows| tables::queues(rows)),
            Self::Macs => shared.get::<Vec<_>>("/v1/macs", |rows| tables::macs(rows)),
            Self::Neighbors => {
                shared.get::<Vec<_>>("/v1/neighbors", |rows| tables::neighbors(rows))
            }
            Self::Routes { router, limit } => {
                let mut path = format!("/v1/routes?limit={limit}");
                if let Some(router) = router {
                    let _ = write!(path, "&router={}", client::percent_encoded(&router));
                }
                shared.get::<Vec<_>>(&path, |rows| tables::routes(rows))
            }
            Self::Flows { limit } => {
                let path = format!("/v1/flows?limit={limit}");
                shared.get::<Vec<_>>(&path, |rows| tables::flows(rows))
            }
            Self::Connections { vm, port, limit } => {
                let mut path = format!("/v1/connections?limit={limit}");
                for (name, value) in [("vm", vm), ("port", port)] {
                    if let Some(value) = value {
                        let _ = write!(path, "&{name}={}", client::percent_encoded(&value));
                    }
                }
                shared.get::<Vec<_>>(&path, |rows| tables::connections(rows))
            }
            Self::Drops => shared.get::<Vec<_>>("/v1/drops", |rows| tables::drops(rows)),
            Self::Rules { acl, unused } => {
                let text = |rows: &Vec<types::RuleHits>| {
                    let is_shown = |row: &&types::RuleHits| {
                        acl.as_ref().is_none_or(|acl| *acl == row.rule.acl)
                            && !(unused && row.last_hit_s_ago.is_some())
                    };
                    tables::rules(rows.iter().filter(is_shown))
                };
                shared.get("/v1/rules", text)
            }
            Self::Sets => shared.get::<Vec<_>>("/v1/sets", |rows| tables::sets(rows)),
            Self::Config => shared.get("/v1/config", |config: &types::Config| config.text.clone()),
        }
    }
}

impl Port {
    fn execute(self, shared: &Shared) -> anyhow::Result<()> {
        let client = shared.client();
        let body = match self {
            Self::Add { fields } => client.request("POST", "/v1/ports", Some(port_text(&fields)?)),
            Self::Remove { name } => {
                let path = format!("/v1/ports/{}", client::percent_encoded(&name));
                client.request("DELETE", &path, None)
            }
            Self::Enable { name } => {
                let path = format!("/v1/ports/{}/enable", client::percent_encoded(&name));
                let body = client.request("POST", &path, None)?;
                return shared.show(&body, tables::port);
            }
        }?;
        shared.show::<Applied>(&body, tables::applied)
    }
}

impl Connections {
    fn execute(self, shared: &Shared) -> anyhow::Result<()> {
        let client = shared.client();
        let of = |vm: &str| format!("/v1/vms/{}/connections", client::percent_encoded(vm));
        match self {
            Self::Flush { vm, .. } => {
                let which = vm.map_or_else(
                    || "all=true".to_owned(),
                    |vm| format!("vm={}", client::percent_encoded(&vm)),
                );
                let path = format!("/v1/connections/flush?{which}");
                let body = client.request("POST", &path, None)?;
                shared.show(&body, |flushed: &types::Flushed| {
                    format!("{} connections forgotten", flushed.connections)
                })
            }
            Self::Export { vm } => print(&client.request("GET", &of(&vm), None)?),
            Self::Import { vm, file } => {
                let text = if file.as_os_str() == "-" {
                    std::io::read_to_string(std::io::stdin())?
                } else {
                    std::fs::read_to_string(&file)
                        .with_context(|| format!("cannot read {}", file.display()))?
                };
                let body = client.request("PUT", &of(&vm), Some(text))?;
                shared.show(&body, |done: &serde_json::Value| {
                    let count = |name: &str| done.get(name).map_or(0, |n| n.as_u64().unwrap_or(0));
                    format!(
                        "{} connections imported, {} were there already, {} refused",
                        count("imported"),
                        count("present"),
                        count("refused")
                    )
                })
            }
        }
    }
}

impl Set {
    fn execute(self, shared: &Shared) -> anyhow::Result<()> {
        let mut change = types::SetChange::default();
        let name = match self {
            Self::Add { name, members } => {
                change.add = members;
                name
            }
            Self::Remove { name, members } => {
                change.remove = members;
                name
            }
        };
        let path = format!("/v1/sets/{}", client::percent_encoded(&name));
        let body = serde_json::to_string(&change)?;
        let body = shared.client().request("POST", &path, Some(body))?;
        shared.show::<Applied>(&body, tables::applied)
    }
}

impl RouteWords {
    fn spec(self) -> anyhow::Result<(String, types::RouteSpec)> {
        let mut spec = types::RouteSpec {
            to: self.to,
            network: self.network,
            metric: self.metric,
            ..types::RouteSpec::default()
        };
        let words: Vec<&str> = self.whereto.iter().map(String::as_str).collect();
        match words[..] {
            [] => {}
            ["via", ref hops @ ..] if !hops.is_empty() => {
                spec.via = hops.iter().map(|hop| (*hop).to_owned()).collect();
            }
            [action @ ("blackhole" | "reject")] => spec.action = Some(action.to_owned()),
            _ => anyhow::bail!(
                "\"{}\" is not where a route can lead: say `via 10.0.0.254`, with several next hops one after the other, `blackhole`, or `reject`",
                words.join(" ")
            ),
        }
        Ok((self.router, spec))
    }
}

impl Route {
    fn execute(self, shared: &Shared) -> anyhow::Result<()> {
        let mut change = types::RouteChange::default();
        let router = match self {
            Self::Add(words) => {
                let (router, spec) = words.spec()?;
                change.add.push(spec);
                router
            }
            Self::Delete(words) => {
                let (router, spec) = words.spec()?;
                change.delete.push(spec);
                router
            }
        };
        let path = format!("/v1/routers/{}/routes", client::percent_encoded(&router));
        let body = serde_json::to_string(&change)?;
        let body = shared.client().request("POST", &path, Some(body))?;
        shared.show(&body, |done: &types::RoutesChanged| {
            format!(
                "{} added, {} deleted, in effect after {} µs (epoch {})",
                done.added, done.deleted, done.took_us, done.epoch
            )
        })
    }
}

/// `field=value` arguments as TOML fields.
fn port_text(fields: &[String]) -> anyhow::Result<String> {
    let mut text = String::new();
    for field in fields {
        let (key, value) = field
            .split_once('=')
            .with_context(|| format!("\"{field}\" is not FIELD=VALUE, as in network=blue"))?;
        anyhow::ensure!(
            key.bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"_.".contains(&c)),
            "\"{key}\" cannot be a field"
        );
        let parsed = toml::de::ValueDeserializer::parse(value).is_ok() && !value.contains('\n');
        let value = if parsed {
            value.to_owned()
        } else {
            toml::Value::String(value.to_owned()).to_string()
        };
        let _ = writeln!(text, "{key} = {value}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn fields_become_toml() {
        let fields = [
            "name=p5",
            "slots=64",
            "trunk=[\"a\"]",
            "storm.broadcast_pps=5",
            "vm=a b",
        ];
        let text = port_text(&fields.map(String::from)).expect("valid");
        assert_eq!(
            text,
            "name = \"p5\"\nslots = 64\ntrunk = [\"a\"]\nstorm.broadcast_pps = 5\nvm = \"a b\"\n"
        );
        assert!(port_text(&["name".into()]).is_err());
        assert!(port_text(&["]\n[x=1".into()]).is_err());
    }
}
