//! What mirroring costs what is mirrored.
//!
//! In: how many flows. Out: [`Rounds`] of each switch, without copies and with them. Each switch copies
//! in its own way: `vswitch` into an ERSPAN tunnel that ends behind the third port, Open vSwitch to the
//! third port, frames as they are.

use std::time::Duration;

use anyhow::Context;

use super::{
    Options,
    bed::Bed,
    beds,
    contender::{Case, Settings},
    experiments::{FRAME_BYTES, Rounds},
    guard,
    guest::{Guest, Others, Traffic},
};

/// How long frames run before they are counted.
const WARM_UP: Duration = Duration::from_millis(300);

/// What is found in a round, in this order.
const NAMES: [&str; 5] = [
    "Mframes/CPU second",
    "Mframes/s",
    "copies, % of frames",
    "p50, µs",
    "p99, µs",
];

/// The rules in force.
const CASE: Case = Case::Acl;

/// A switch, who sends, and who gets the copies.
struct Lab {
    bed: Bed,
    guest: Guest,
    sniffer: Guest,
}

impl Lab {
    fn new(mut bed: Bed, flows: u32, core: usize) -> anyhow::Result<Self> {
        let (guest, sniffer) = bed.awake(|bed| {
            bed.switch.enforce(Case::PortToPort)?;
            let [first, second] = [0, 1].map(|pair| bed.switch.sockets(pair));
            let mut guest = Guest::start(&first, Traffic::Frames, flows, core)?;
            bed.await_frames(&mut guest)?;
            let sniffer = Guest::start(&second, Traffic::Frames, 1, core)?;
            bed.switch.enforce(CASE)?;
            Ok((guest, sniffer))
        })?;
        Ok(Self {
            bed,
            guest,
            sniffer,
        })
    }

    /// One round: all as fast as it goes, then one frame after the other.
    fn round(&mut self, duration: Duration, mirrors: bool) -> anyhow::Result<[f64; NAMES.len()]> {
        let (guest, sniffer) = (&mut self.guest, &mut self.sniffer);
        self.bed.awake(|bed| {
            if mirrors {
                bed.switch.mirror(true)?;
            }
            let process = bed.switch.process();
            let cpu_ns = || process.cpu_time_ns();
            let counted = guest.mirrored(sniffer, FRAME_BYTES, (WARM_UP, duration), cpu_ns)?;
            let times = guest.established((sniffer, Others::Sniff), FRAME_BYTES, duration)?;
            if mirrors {
                bed.switch.mirror(false)?;
            }
            let mframes = counted.frames as f64 / 1e6;
            let us = |quantile| times.times.value_at_quantile(quantile) as f64 / 1e3;
            Ok([
                mframes / counted.cpu_seconds,
                mframes / counted.seconds,
                counted.copies as f64 / counted.frames as f64 * 100.0,
                us(0.5),
                us(0.99),
            ])
        })
    }
}

/// Frames of so many flows both ways between the ports of a pair, all of which are copied to a third
/// port, or not, by turns: how many come through, how many copies do, and how long a frame takes when
/// it is alone.
///
/// # Errors
/// As [`run`](super::run).
pub fn mirroring(options: &Options, flows: u32) -> anyhow::Result<Vec<(&'static str, Rounds)>> {
    let settings = Settings {
        pairs: 2,
        ..Settings::on(options.switch_core)
    };
    let _guard = guard(options, &settings)?;
    let duration = Duration::from_secs_f64(options.seconds);
    let mut labs = Vec::new();
    for bed in beds(options, &settings)? {
        let name = bed.switch.name();
        labs.push(Lab::new(bed, flows, options.guest_core).context(name)?);
    }
    let cases = [("without mirror", false), ("with mirror", true)];
    let mut found = vec![vec![[const { Vec::new() }; NAMES.len()]; labs.len()]; cases.len()];
    for _ in 0..options.rounds {
        for ((_, mirrors), found) in cases.iter().zip(&mut found) {
            for (lab, found) in labs.iter_mut().zip(found) {
                let name = lab.bed.switch.name();
                let values = lab.round(duration, *mirrors).context(name)?;
                let each = found.iter_mut().zip(values);
                each.for_each(|(all, value)| all.push(value));
            }
        }
    }
    let mut all = Vec::new();
    for ((case, _), found) in cases.into_iter().zip(found) {
        for (lab, found) in labs.iter().zip(found) {
            for (what, values) in NAMES.into_iter().zip(found) {
                let rounds = Rounds {
                    switch: lab.bed.switch.name(),
                    what,
                    rules: CASE.rules(),
                    values,
                };
                all.push((case, rounds));
            }
        }
    }
    Ok(all)
}
