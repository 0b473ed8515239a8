//! `vswitch-bench decap`.

use std::num::NonZeroU16;

use bench::decap::{self, Format};
use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct Decap {
    /// Sessions, whose frames come in random order
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..))]
    sessions: u16,
    /// Sniffers, to which sessions are given one after the other
    #[arg(long, value_name = "N", default_value_t = NonZeroU16::new(8).unwrap_or(NonZeroU16::MIN))]
    sniffers: NonZeroU16,
    /// Sniffers of each session
    #[arg(long, value_name = "N", default_value_t = NonZeroU16::MIN)]
    each: NonZeroU16,
    /// Spread a session's flows over its sniffers, instead of giving each all
    #[arg(long)]
    spread: bool,
    /// Look for frames that were mirrored at both ends
    #[arg(long)]
    once: bool,
    /// What is measured
    #[arg(long, value_name = "WHAT", default_value = "core")]
    through: Through,
    /// Length of a mirrored frame in bytes, without FCS
    #[arg(long, value_name = "B", default_value_t = 64)]
    size: usize,
    /// How frames are carried
    #[arg(long, value_name = "FORMAT", default_value = "erspan-ii")]
    format: CarriedBy,
    /// Measured time
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    seconds: f64,
    /// The core to measure on
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Through {
    /// The decapsulator's core, from memory into memory
    Core,
    /// The receiving thread's turn, from a memory port into the sniffers' queues
    Runtime,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CarriedBy {
    /// ERSPAN type I
    #[value(name = "erspan-i")]
    ErspanI,
    /// ERSPAN type II
    #[value(name = "erspan-ii")]
    ErspanII,
    /// ERSPAN type III with a subheader
    #[value(name = "erspan-iii")]
    ErspanIII,
    /// Keyed Ethernet in GRE
    Gre,
    /// VXLAN
    Vxlan,
}

impl Decap {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let report = decap::run(&decap::Options {
            sessions: self.sessions,
            sniffers: self.sniffers,
            sniffers_of_session: self.each,
            spread: self.spread,
            once: self.once,
            runtime: matches!(self.through, Through::Runtime),
            size_bytes: self.size,
            format: match self.format {
                CarriedBy::ErspanI => Format::ErspanI,
                CarriedBy::ErspanII => Format::ErspanII,
                CarriedBy::ErspanIII => Format::ErspanIII,
                CarriedBy::Gre => Format::Gre,
                CarriedBy::Vxlan => Format::Vxlan,
            },
            seconds: self.seconds,
            core: self.core,
        })?;
        crate::print(&report, self.json)
    }
}
