//! What a route costs to look up, to change and to keep: the table of routes beside a hash table
//! for each prefix length and a linear scan, on the same routes and addresses, in the same run, on
//! one thread.
//!
//! Addresses are of two sorts. *Matching* ones lie in a route, each route as likely as the other,
//! so that caches help as little as may be. *Missing* ones lie in none. Two figures of a lookup
//! differ in what the processor may do at once: addresses that are known beforehand, as those of a
//! burst are, and addresses that hang on the answer before.

mod baselines;
mod report;
mod synthesis;
mod update;

use std::{
    cell::Cell,
    fs,
    hash::Hash,
    hint::black_box,
    net::{Ipv4Addr, Ipv6Addr},
    num::NonZeroU8,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy::{
    InterfaceId,
    route::{NextHop, Origin, Route, RouteTable, Target},
};

use crate::generator::random::Random;
use baselines::{Hashed, Linear};
pub use report::Report;
use synthesis::Prefix;

/// Lookups that the clock is read for once, where each batch is timed.
const BATCH: usize = 32;
/// Lookups that the clock is read for once, where the mean is wanted: short enough to be left alone.
const RUN: usize = 2048;
/// What the processor loads at once.
const LINE_BYTES: usize = 64;
/// Places that routes lead to.
const TARGETS: u8 = 64;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Routes of the table.
    pub routes: usize,
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
    /// Matching addresses, and as many missing ones.
    pub addresses: usize,
    /// The core to measure on.
    pub core: Option<usize>,
}

/// Measures a table.
///
/// # Errors
/// The core cannot be used, or there are more routes than prefixes.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    if let Some(id) = options.core {
        let pinned = core_affinity::set_for_current(core_affinity::CoreId { id });
        ensure!(pinned, "core {id} cannot be used; choose another --core");
    }
    if options.ipv6 {
        measure::<Ipv6Addr>(options, &synthesis::IPV6)
    } else {
        measure::<Ipv4Addr>(options, &synthesis::IPV4)
    }
}

/// An address of one family.
trait Address: Copy + Eq + Hash {
    fn from_prefix(prefix: Prefix) -> Self;
    fn net(prefix: Prefix) -> IpNet;
    fn lookup(self, table: &RouteTable) -> Option<&Target>;
    fn masked(self, len: u8) -> Self;
    fn changed(self, bits: u32) -> Self;
}

impl Address for Ipv4Addr {
    fn from_prefix(prefix: Prefix) -> Self {
        Self::from_bits((prefix.bits >> 96) as u32)
    }

    fn net(prefix: Prefix) -> IpNet {
        Ipv4Net::new_assert(Self::from_prefix(prefix), prefix.len).into()
    }

    #[inline]
    fn lookup(self, table: &RouteTable) -> Option<&Target> {
        table.lookup_v4(self)
    }

    #[inline]
    fn masked(self, len: u8) -> Self {
        let hosts = u32::MAX.checked_shr(len.into()).unwrap_or(0);
        Self::from_bits(self.to_bits() & !hosts)
    }

    #[inline]
    fn changed(self, bits: u32) -> Self {
        Self::from_bits(self.to_bits() ^ bits)
    }
}

impl Address for Ipv6Addr {
    fn from_prefix(prefix: Prefix) -> Self {
        Self::from_bits(prefix.bits)
    }

    fn net(prefix: Prefix) -> IpNet {
        Ipv6Net::new_assert(Self::from_prefix(prefix), prefix.len).into()
    }

    #[inline]
    fn lookup(self, table: &RouteTable) -> Option<&Target> {
        table.lookup_v6(self)
    }

    #[inline]
    fn masked(self, len: u8) -> Self {
        let hosts = u128::MAX.checked_shr(len.into()).unwrap_or(0);
        Self::from_bits(self.to_bits() & !hosts)
    }

    #[inline]
    fn changed(self, bits: u32) -> Self {
        Self::from_bits(self.to_bits() ^ u128::from(bits))
    }
}

fn measure<A: Address>(options: &Options, lengths: &synthesis::Lengths) -> anyhow::Result<Report> {
    let mut random = Random::new(6);
    let prefixes = synthesis::prefixes(options.routes, lengths, &mut random)?;
    let targets = targets(options.ipv6).context("the next hops")?;
    let mut routes: Vec<Route> = prefixes
        .iter()
        .map(|prefix| route::<A>(*prefix, &targets, &mut random))
        .collect();
    let resident_before = resident_bytes()?;
    let mut table = RouteTable::from_routes(routes.iter().cloned())?;
    let resident = resident_bytes()?.saturating_sub(resident_before);
    let build_ms = least((0..3).map(|_| {
        let routes = routes.clone();
        let start = Instant::now();
        let built = RouteTable::from_routes(routes);
        let took = start.elapsed();
        drop(built);
        took.as_secs_f64() * 1e3
    }));
    let hashed = Hashed::<A>::new(&prefixes, &routes);
    let linear = Linear::<A>::new(&prefixes, &routes);

    let matching: Vec<A> = (0..options.addresses)
        .map(|_| {
            A::from_prefix(prefixes[random.below(prefixes.len() as u64) as usize].host(&mut random))
        })
        .collect();
    let missing = missing(&hashed, lengths, options.addresses, &mut random);
    check(&table, &hashed, &linear, &matching, &missing)?;
    let probes: usize = matching.iter().map(|address| hashed.probes(*address)).sum();
    let few = &matching[..matching.len().min(20_000_000 / prefixes.len() + 1)];
    let mut report = Report {
        ipv6: options.ipv6,
        routes: table.len(),
        build_ms,
        bytes_per_route: table.memory_bytes() as f64 / table.len() as f64,
        resident_bytes_per_route: resident as f64 / table.len() as f64,
        bytes_of_ten: ten(&routes)?.memory_bytes(),
        depth_bits: if options.ipv6 {
            table.depth_bits_v6()
        } else {
            table.depth_bits_v4()
        },
        ns_mean: mean_ns(&matching, |address| cost(address.lookup(&table))),
        ns_p99: p99_ns(&matching, |address| cost(address.lookup(&table)))?,
        ns_mean_chained: chained_ns(&matching, |address| cost(address.lookup(&table))),
        ns_mean_missing: mean_ns(&missing, |address| cost(address.lookup(&table))),
        hashed_ns_mean: mean_ns(&matching, |address| cost(hashed.lookup(address))),
        hashed_ns_mean_chained: chained_ns(&matching, |address| cost(hashed.lookup(address))),
        hashed_ns_mean_missing: mean_ns(&missing, |address| cost(hashed.lookup(address))),
        hashed_probes_mean: probes as f64 / matching.len() as f64,
        linear_ns_mean: mean_ns(few, |address| cost(linear.lookup(address))),
        load_ns: load_ns(table.memory_bytes(), &mut random),
        updates: update::measure(&mut table, &mut routes, &mut random)?,
        ns_mean_updated: 0.0,
    };
    report.ns_mean_updated = mean_ns(&matching, |address| cost(address.lookup(&table)));
    Ok(report)
}

/// What comes of an answer: it is read, as a router would.
#[inline]
fn cost(target: Option<&Target>) -> u32 {
    match target {
        Some(Target::Via(hops)) => hops.iter().len() as u32,
        Some(_) => 1,
        None => 0,
    }
}

/// Most lead to one next hop, some to several.
fn targets(ipv6: bool) -> anyhow::Result<Vec<Arc<Target>>> {
    let hop = |number: u8| NextHop {
        address: if ipv6 {
            [0xfe80, 0, 0, 0, 0, 0, 0, u16::from(number) + 1].into()
        } else {
            [192, 0, 2, number + 1].into()
        },
        interface: InterfaceId(u16::from(number % 4)),
        weight: NonZeroU8::MIN,
    };
    let several = |number: u8| if number.is_multiple_of(8) { 4 } else { 1 };
    let target = |number| Target::via((number..number + several(number)).map(hop));
    (0..TARGETS)
        .map(|number| Ok(Arc::new(target(number)?)))
        .collect()
}

fn route<A: Address>(prefix: Prefix, targets: &[Arc<Target>], random: &mut Random) -> Route {
    Route {
        prefix: A::net(prefix),
        metric: 20,
        origin: Origin::Api,
        target: targets[random.below(targets.len() as u64) as usize].clone(),
    }
}

/// What a router of a small tenant keeps.
fn ten(routes: &[Route]) -> anyhow::Result<RouteTable> {
    Ok(RouteTable::from_routes(routes.iter().take(10).cloned())?)
}

fn missing<A: Address>(
    hashed: &Hashed<A>,
    lengths: &synthesis::Lengths,
    count: usize,
    random: &mut Random,
) -> Vec<A> {
    let mut missing = Vec::with_capacity(count);
    while missing.len() < count {
        let address = A::from_prefix(lengths.address(random));
        if hashed.lookup(address).is_none() {
            missing.push(address);
        }
    }
    missing
}

/// What is compared must agree.
fn check<A: Address>(
    table: &RouteTable,
    hashed: &Hashed<A>,
    linear: &Linear<A>,
    matching: &[A],
    missing: &[A],
) -> anyhow::Result<()> {
    for (number, address) in matching.iter().chain(missing).enumerate() {
        let found = address.lookup(table);
        ensure!(
            found == hashed.lookup(*address),
            "the table and the hash tables disagree"
        );
        let scan = number.is_multiple_of(matching.len() / 10 + 1);
        ensure!(
            !scan || found == linear.lookup(*address),
            "the table and the linear scan disagree"
        );
    }
    Ok(())
}

/// Bytes of this process in memory (proc(5), `status`).
fn resident_bytes() -> anyhow::Result<usize> {
    let text = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: usize = kib.context("/proc/self/status has no VmRSS")?.parse()?;
    Ok(kib * 1024)
}

fn least(figures: impl Iterator<Item = f64>) -> f64 {
    figures.fold(f64::INFINITY, f64::min)
}

/// Nanoseconds per address: of each run of addresses the least of passes over all of them, so that
/// what else the machine did does not count, and caches are as the other addresses left them.
fn least_passes<A>(addresses: &[A], run: impl Fn(&[A])) -> f64 {
    let until = Instant::now() + Duration::from_secs(1);
    let mut least = vec![Duration::MAX; addresses.len().div_ceil(RUN)];
    for pass in 0.. {
        if pass >= 5 && Instant::now() > until {
            break;
        }
        for (addresses, least) in addresses.chunks(RUN).zip(&mut least) {
            let start = Instant::now();
            run(addresses);
            *least = start.elapsed().min(*least);
        }
    }
    least.iter().sum::<Duration>().as_secs_f64() * 1e9 / addresses.len() as f64
}

/// Nanoseconds per address, where all are known beforehand.
fn mean_ns<A: Address>(addresses: &[A], lookup: impl Fn(A) -> u32) -> f64 {
    least_passes(addresses, |addresses| {
        for address in addresses {
            black_box(lookup(black_box(*address)));
        }
    })
}

/// Nanoseconds per address, where each hangs on the answer before.
fn chained_ns<A: Address>(addresses: &[A], lookup: impl Fn(A) -> u32) -> f64 {
    // Nothing of the answer, but the processor cannot know.
    let none = black_box(0);
    least_passes(addresses, |addresses| {
        let mut answer = 0;
        for address in addresses {
            answer = lookup(address.changed(answer & none));
        }
        black_box(answer);
    })
}

/// Nanoseconds of a load that hangs on the load before, among as many bytes as a table has: what a
/// table costs on this machine at this time is counted in these.
fn load_ns(bytes: usize, random: &mut Random) -> f64 {
    let mut places: Vec<usize> = (0..=bytes / LINE_BYTES).collect();
    random.shuffle(&mut places);
    let mut lines = vec![[0_u64; LINE_BYTES / 8]; places.len()];
    for (place, next) in places.iter().zip(places.iter().cycle().skip(1)) {
        lines[*place][0] = *next as u64;
    }
    let at = Cell::new(0);
    least_passes(&[(); 1 << 18], |run| {
        for () in run {
            at.set(lines[at.get() as usize][0]);
        }
        black_box(at.get());
    })
}

/// 99 of 100 batches take less, per address, less what reading the clock takes.
fn p99_ns<A: Address>(addresses: &[A], lookup: impl Fn(A) -> u32) -> anyhow::Result<f64> {
    let time = |addresses: &[A]| {
        let start = Instant::now();
        for address in addresses {
            black_box(lookup(black_box(*address)));
        }
        start.elapsed().as_nanos() as u64
    };
    let clock = (0..1000).map(|_| time(&[])).min().unwrap_or(0);
    let mut histogram = Histogram::<u64>::new(3)?;
    for batch in addresses.chunks_exact(BATCH) {
        histogram.record(time(batch).saturating_sub(clock))?;
    }
    Ok(histogram.value_at_quantile(0.99) as f64 / BATCH as f64)
}
