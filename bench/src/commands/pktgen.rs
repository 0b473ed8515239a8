//! `vswitch-bench pktgen`.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
};

use anyhow::Context;
use bench::{
    generator::{load::Progress, size::SizeMix},
    pktgen::{self, Driver, Options, Popularity, Rate, Source, search::Search},
};
use clap::Args;

/// Offers frames at one end and judges what arrives at the other
#[derive(Debug, Args)]
#[command(
    after_help = "Ends: af_xdp:INTERFACE, af_xdp:INTERFACE@NAMESPACE, vhost_user:SOCKET (a switch \
    connects to it), or memory for both.\n\nA template is words of the form FIELD=VALUE: eth.src, eth.dst, \
    vlan, ip.src, ip.dst, udp.src, udp.dst, tcp.src, tcp.dst. A value is one, a range (1000..1999, \
    10.1.0.0/22), or drawn for each flow (random, random:1000..1999).\n\n\
    vswitch-bench pktgen --from af_xdp:a@left --to af_xdp:b@right --flows 1000 \\\n    \
    --template 'ip.dst=10.1.0.0/22 udp.dst=random' --popularity zipf:1.1 --search 0.001"
)]
pub(crate) struct Pktgen {
    /// Where frames leave
    #[arg(long, value_name = "END")]
    from: Driver,
    /// Where they arrive
    #[arg(long, value_name = "END")]
    to: Driver,
    /// What frames look like, as text, or a file that holds it
    #[arg(
        long,
        value_name = "TEXT|FILE",
        default_value = "",
        conflicts_with = "pcap"
    )]
    template: String,
    /// Take flows, sizes and order from a capture
    #[arg(long, value_name = "FILE", conflicts_with_all = ["size", "flows", "popularity"])]
    pcap: Option<PathBuf>,
    /// Length of a frame in bytes, without FCS, or "imix"
    #[arg(long, value_name = "B", default_value = "64")]
    size: SizeMix,
    /// Flows
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    flows: u32,
    /// How often each flow is seen: in-turn, uniform, zipf:EXPONENT
    #[arg(long, value_name = "HOW", default_value = "uniform")]
    popularity: Popularity,
    /// Frames per second [default: as many as the sending end takes]
    #[arg(long, value_name = "PPS", conflicts_with = "search")]
    rate: Option<f64>,
    /// Search for the highest rate with at most this share of frames lost (RFC 2544)
    #[arg(long, value_name = "SHARE")]
    search: Option<f64>,
    /// The rate at which a search begins
    #[arg(long, value_name = "PPS", default_value_t = 10e6)]
    search_from: f64,
    /// How near a search has to come, as a share of the rate at which it began
    #[arg(long, value_name = "SHARE", default_value_t = 0.005)]
    resolution: f64,
    /// How long; each trial of a search, too
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    seconds: f64,
    /// The core to run on
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Pktgen {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let source = match self.pcap {
            Some(path) => Source::Capture(path),
            None => Source::Text {
                spec: Box::new(spec(&self.template)?),
                sizes: self.size,
                flows: self.flows,
                popularity: self.popularity,
            },
        };
        let rate = match (self.search, self.rate) {
            (Some(loss), _) => Rate::Search(Search {
                loss,
                most_pps: self.search_from,
                resolution: self.resolution,
                trials: 30,
            }),
            (None, Some(rate)) => Rate::Constant(rate),
            (None, None) => Rate::Most,
        };
        let options = Options {
            from: self.from,
            to: self.to,
            source,
            rate,
            seconds: self.seconds,
            core: self.core,
        };
        let live = std::io::stderr().is_terminal();
        let mut before: Option<Progress> = None;
        let report = pktgen::run(&options, |now| {
            if live {
                progress(before.as_ref(), now)?;
                before = Some(*now);
            }
            Ok(())
        })?;
        if live {
            eprint!("\r\x1b[K");
        }
        crate::print(&report, self.json)
    }
}

/// The template itself, or what is in the file of that name.
fn spec(text: &str) -> anyhow::Result<pktgen::text::Spec> {
    let read = if text.is_empty() || text.contains('=') {
        text.to_owned()
    } else {
        std::fs::read_to_string(text).with_context(|| format!("--template {text}"))?
    };
    read.parse()
        .map_err(anyhow::Error::msg)
        .context("--template")
}

fn progress(before: Option<&Progress>, now: &Progress) -> anyhow::Result<()> {
    // A new trial begins with a new clock.
    let zero = Progress {
        seconds: 0.0,
        offered: 0,
        delivered: 0,
    };
    let before = before
        .filter(|before| before.seconds < now.seconds)
        .unwrap_or(&zero);
    let seconds = (now.seconds - before.seconds).max(f64::EPSILON);
    let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds / 1e6;
    let mut out = std::io::stderr().lock();
    write!(
        out,
        "\r\x1b[K{:5.1} s  {:.3} Mpps out  {:.3} Mpps in  {} under way or lost",
        now.seconds,
        rate(before.offered, now.offered),
        rate(before.delivered, now.delivered),
        now.offered.saturating_sub(now.delivered)
    )?;
    Ok(out.flush()?)
}
