//! `vswitch-bench routes`.

use bench::routes;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Routes {
    /// Routes of the table [default: 1000000, with --v6 200000]
    #[arg(long = "routes", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    count: Option<u32>,
    /// IPv6 instead of IPv4
    #[arg(long)]
    v6: bool,
    /// Addresses that are looked up in turn
    #[arg(long, value_name = "N", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1024..=1 << 24))]
    addresses: u32,
    /// The core to measure on
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Routes {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let default = if self.v6 { 200_000 } else { 1_000_000 };
        let report = routes::run(&routes::Options {
            routes: self.count.unwrap_or(default) as usize,
            ipv6: self.v6,
            addresses: self.addresses as usize,
            core: self.core,
        })?;
        crate::print(&report, self.json)
    }
}
