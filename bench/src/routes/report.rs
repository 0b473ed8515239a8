//! What was found, for people and for programs.

use std::fmt;

use serde::Serialize;

use super::update::Updates;

/// One table. Times of lookups are nanoseconds each.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
    /// Routes of the table.
    pub routes: usize,
    /// A table of all routes, in random order.
    pub build_ms: f64,
    /// Heap of the table, as the table counts it.
    pub bytes_per_route: f64,
    /// What the process grew by, the allocator's share included.
    pub resident_bytes_per_route: f64,
    /// All of a table with ten of the routes.
    pub bytes_of_ten: usize,
    /// Leading bits of an address that the answer depends on.
    pub depth_bits: u8,
    /// Matching addresses that are known beforehand.
    pub ns_mean: f64,
    /// 99 of 100 batches of them take less, per address.
    pub ns_p99: f64,
    /// Matching addresses, each of which hangs on the answer before.
    pub ns_mean_chained: f64,
    /// Missing addresses that are known beforehand.
    pub ns_mean_missing: f64,
    /// The hash tables, matching addresses.
    pub hashed_ns_mean: f64,
    /// The hash tables, each address hanging on the answer before.
    pub hashed_ns_mean_chained: f64,
    /// The hash tables, missing addresses.
    pub hashed_ns_mean_missing: f64,
    /// Tables that they ask for a matching address.
    pub hashed_probes_mean: f64,
    /// A load that hangs on the load before, among as many bytes as the table has.
    pub load_ns: f64,
    /// The linear scan, over some of the matching addresses.
    pub linear_ns_mean: f64,
    /// From a version of the table to the next.
    pub updates: Updates,
    /// As `ns_mean`, after all updates.
    pub ns_mean_updated: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} {} routes, built in {:.0} ms, {:.0} bytes a route ({:.0} resident); ten routes {} \
             bytes; {} bits deep",
            self.routes,
            if self.ipv6 { "IPv6" } else { "IPv4" },
            self.build_ms,
            self.bytes_per_route,
            self.resident_bytes_per_route,
            self.bytes_of_ten,
            self.depth_bits
        )?;
        writeln!(
            f,
            "table          {:8.1} ns   p99 {:.1} ns\n\
             \x20 chained      {:8.1} ns\n\
             \x20 missing      {:8.1} ns",
            self.ns_mean, self.ns_p99, self.ns_mean_chained, self.ns_mean_missing
        )?;
        writeln!(
            f,
            "hash tables    {:8.1} ns   {:.1} probes; {:.1} times the table's\n\
             \x20 chained      {:8.1} ns\n\
             \x20 missing      {:8.1} ns",
            self.hashed_ns_mean,
            self.hashed_probes_mean,
            self.hashed_ns_mean / self.ns_mean,
            self.hashed_ns_mean_chained,
            self.hashed_ns_mean_missing
        )?;
        writeln!(
            f,
            "linear scan    {:8.0} ns\n\
             one load       {:8.1} ns   among as many bytes; chained lookups take {:.1} of them",
            self.linear_ns_mean,
            self.load_ns,
            self.ns_mean_chained / self.load_ns
        )?;
        write!(
            f,
            "update         {:8.2} us   p99 {:.1} us, worst {:.1} us, of short prefixes {:.1} us; \
             {:.1} allocations\n\
             \x20 lookup then  {:8.1} ns   after {}",
            self.updates.us_mean,
            self.updates.us_p99,
            self.updates.us_worst,
            self.updates.us_worst_short,
            self.updates.allocations_mean,
            self.ns_mean_updated,
            self.updates.count
        )
    }
}
