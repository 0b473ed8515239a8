//! What was found, for people and for programs.

use std::fmt;

use serde::Serialize;

/// One rule set. Times are nanoseconds per lookup.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Rules of the list.
    pub rules: usize,
    /// Matching and denied headers, in random order.
    pub ns_mean: f64,
    /// Headers inside rules.
    pub ns_mean_matching: f64,
    /// Headers that no rule matches, but perhaps a last one that matches all; absent if there are
    /// none.
    pub ns_mean_denied: Option<f64>,
    /// 99 of 100 headers take less.
    pub ns_p99: u64,
    /// The slowest header, those that were searched for included.
    pub ns_worst: u64,
    /// Tables probed.
    pub probes_mean: f64,
    /// Rules compared.
    pub compares_mean: f64,
    /// Most tables that a header probed.
    pub probes_worst: usize,
    /// Most rules that a header was compared with.
    pub compares_worst: usize,
    /// What probes cannot exceed.
    pub probes_bound: usize,
    /// What compares cannot exceed.
    pub compares_bound: usize,
    /// Tables that the rules stand in.
    pub tables: usize,
    /// Compiling the list.
    pub build_ms: f64,
    /// Heap of the lookup.
    pub bytes_per_rule: f64,
    /// Changing one rule of the list, in microseconds: mean of all.
    pub update_us: f64,
    /// The slowest one.
    pub update_us_worst: f64,
    /// The slowest one whose list was not compiled whole.
    pub update_us_worst_patched: f64,
    /// Heap that a version has for itself.
    pub update_bytes: f64,
    /// How many changes there were.
    pub updates: usize,
    /// How many of them had the list compiled whole.
    pub updates_rebuilt: usize,
    /// How many of them had every rule numbered again.
    pub updates_renumbered: usize,
    /// How many of them left a list that was then compiled whole, beside and for the next one.
    pub updates_renewed: usize,
    /// The slowest of those, in milliseconds.
    pub renewal_ms_worst: f64,
    /// The same headers, after all changes.
    pub ns_mean_updated: f64,
    /// Tables probed then.
    pub probes_mean_updated: f64,
    /// The same headers in the list as changed, compiled whole.
    pub ns_mean_fresh: f64,
    /// Tables probed there.
    pub probes_mean_fresh: f64,
    /// Compiling a policy with the list, in microseconds.
    pub policy_us: f64,
    /// The same after one rule has changed.
    pub policy_us_changed: f64,
    /// The linear scan, over some of the headers.
    pub linear_ns_mean: f64,
    /// Priority tuple-space search, over the same headers.
    pub tuple_space_ns_mean: f64,
    /// Its tables.
    pub tuple_space_tables: usize,
    /// Tables it probed.
    pub tuple_space_probes_mean: f64,
    /// Most tables that a header probed in it.
    pub tuple_space_probes_worst: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} rules in {} tables, built in {:.1} ms, {:.0} bytes a rule",
            self.rules, self.tables, self.build_ms, self.bytes_per_rule
        )?;
        writeln!(
            f,
            "classifier     {:8.0} ns   p99 {} ns, worst found {} ns",
            self.ns_mean, self.ns_p99, self.ns_worst
        )?;
        write!(f, "  matching     {:8.0} ns", self.ns_mean_matching)?;
        match self.ns_mean_denied {
            Some(ns) => writeln!(f, "\n  denied       {ns:8.0} ns")?,
            None => writeln!(f, "\n  denied       none found")?,
        }
        writeln!(
            f,
            "  probes       {:8.1}      worst found {}, bound {}\n\
             \x20 compares     {:8.1}      worst found {}, bound {}",
            self.probes_mean,
            self.probes_worst,
            self.probes_bound,
            self.compares_mean,
            self.compares_worst,
            self.compares_bound
        )?;
        writeln!(
            f,
            "update         {:8.1} us   worst {:.1} us, patched {:.1} us, {:.0} bytes\n\
             \x20 of {} changes {} compiled the list whole, {} numbered it again\n\
             \x20 renewed beside {} times, worst {:.0} ms\n\
             \x20 lookup then  {:8.0} ns   {:.1} probes; compiled whole {:.0} ns, {:.1} probes\n\
             policy         {:8.0} us   {:.0} us after a change of one rule",
            self.update_us,
            self.update_us_worst,
            self.update_us_worst_patched,
            self.update_bytes,
            self.updates,
            self.updates_rebuilt,
            self.updates_renumbered,
            self.updates_renewed,
            self.renewal_ms_worst,
            self.ns_mean_updated,
            self.probes_mean_updated,
            self.ns_mean_fresh,
            self.probes_mean_fresh,
            self.policy_us,
            self.policy_us_changed
        )?;
        writeln!(f, "linear scan    {:8.0} ns", self.linear_ns_mean)?;
        write!(
            f,
            "tuple space    {:8.0} ns   {:.1} probes, worst {}, of {} tables",
            self.tuple_space_ns_mean,
            self.tuple_space_probes_mean,
            self.tuple_space_probes_worst,
            self.tuple_space_tables
        )
    }
}
