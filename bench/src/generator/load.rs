//! A whole run: offers a load, waits for the last frames, and says what became of them.

use std::{fmt, time::Duration};

use pmd::{Burst, Clock, Port, RxQueue, clock::cycles};
use serde::Serialize;

use super::{
    analyser::Analyser,
    sender::{Pacer, Sender, Traffic},
};

/// How long after the last frame that arrived a further one is waited for.
const DRAIN: Duration = Duration::from_millis(200);

/// The result of a run. Its JSON names are stable.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Outcome {
    /// Frames that the sending port took.
    pub offered: u64,
    /// Frames that it had no room for; they never left.
    pub refused: u64,
    /// Frames that arrived, each counted once.
    pub delivered: u64,
    /// Frames that left and never arrived.
    pub lost: u64,
    /// Further copies of frames that arrived.
    pub duplicated: u64,
    /// Frames that arrived behind a later one of their flow.
    pub reordered: u64,
    /// Seconds during which frames were offered.
    pub seconds: f64,
    /// Offered frames per second.
    pub offered_pps: f64,
    /// Delivered frames per second of that time.
    pub delivered_pps: f64,
    /// The frame that took least, nanoseconds.
    pub latency_min_ns: u64,
    /// Half of the frames took at most so long, nanoseconds.
    pub latency_p50_ns: u64,
    /// 99 of 100 frames.
    pub latency_p99_ns: u64,
    /// 999 of 1000 frames.
    pub latency_p999_ns: u64,
    /// 9,999 of 10,000 frames.
    pub latency_p9999_ns: u64,
    /// The frame that took most.
    pub latency_max_ns: u64,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Seconds since it began.
    pub seconds: f64,
    /// Frames that left.
    pub offered: u64,
    /// Frames that arrived.
    pub delivered: u64,
}

/// How often progress is told, in seconds.
const TELL_S: f64 = 0.5;

/// Offers `traffic` at `from` for `seconds`, at `rate_pps` or as fast as the port takes it, and
/// analyses what arrives at `to`.
///
/// # Errors
/// When the latency histogram cannot be made.
pub fn run(
    from: &mut Port,
    to: &mut Port,
    traffic: Traffic,
    rate_pps: Option<f64>,
    seconds: f64,
    clock: &Clock,
) -> anyhow::Result<Outcome> {
    run_telling(from, to, traffic, (rate_pps, seconds), clock, |_| Ok(()))
}

/// As [`run`], and tells how far it is; an error of `tell` ends the run.
///
/// # Errors
/// As [`run`], and what `tell` fails with.
pub fn run_telling(
    from: &mut Port,
    to: &mut Port,
    traffic: Traffic,
    (rate_pps, seconds): (Option<f64>, f64),
    clock: &Clock,
    mut tell: impl FnMut(Progress) -> anyhow::Result<()>,
) -> anyhow::Result<Outcome> {
    let mut analyser = Analyser::new(traffic.flows)?;
    let mut sender = Sender::new(traffic);
    let cycles_per_s = clock.cycles_per_s();
    let began = cycles();
    let end = began + (cycles_per_s * seconds) as u64;
    let mut pacer = Pacer::new(rate_pps, cycles_per_s, began);
    let mut now = began;
    let mut telling = began;
    while now < end {
        let due = pacer.due(now);
        if due > 0 {
            sender.offer(&mut *from.tx[0], due, now);
            pacer.took(due);
        }
        receive(&mut to.rx, |frame, now| analyser.take(frame, now));
        // What comes back to the sending port is taken away, so that its rings do not fill.
        receive(&mut from.rx, |_, _| ());
        now = cycles();
        if now >= telling {
            telling = now + (cycles_per_s * TELL_S) as u64;
            tell(Progress {
                seconds: now.saturating_sub(began) as f64 / cycles_per_s,
                offered: sender.sent,
                delivered: analyser.delivered,
            })?;
        }
    }
    let seconds = (now - began) as f64 / cycles_per_s;
    let patience = (cycles_per_s * DRAIN.as_secs_f64()) as u64;
    let mut last = cycles();
    while cycles() - last < patience && analyser.delivered < sender.sent {
        if receive(&mut to.rx, |frame, now| analyser.take(frame, now)) > 0 {
            last = cycles();
        }
        // A driver that must be kicked sends what it still holds.
        sender.offer(&mut *from.tx[0], 0, last);
        receive(&mut from.rx, |_, _| ());
    }
    let latency_ns = |quantile| clock.ns_between(0, analyser.latency_cycles(quantile));
    Ok(Outcome {
        offered: sender.sent,
        refused: sender.refused,
        delivered: analyser.delivered,
        lost: sender.sent.saturating_sub(analyser.delivered),
        duplicated: analyser.duplicated,
        reordered: analyser.reordered,
        seconds,
        offered_pps: sender.sent as f64 / seconds,
        delivered_pps: analyser.delivered as f64 / seconds,
        latency_min_ns: latency_ns(0.0),
        latency_p50_ns: latency_ns(0.5),
        latency_p99_ns: latency_ns(0.99),
        latency_p999_ns: latency_ns(0.999),
        latency_p9999_ns: latency_ns(0.9999),
        latency_max_ns: latency_ns(1.0),
    })
}

/// Takes a burst from each queue; returns how many frames that was.
pub fn receive(
    queues: &mut [Box<dyn RxQueue>],
    mut take: impl FnMut(&pmd::Frame<'_>, u64),
) -> usize {
    let mut count = 0;
    for queue in queues {
        let mut burst = Burst::new();
        queue.receive(&mut burst);
        let now = cycles();
        count += burst.len();
        for frame in burst.iter() {
            take(frame, now);
        }
        drop(burst);
        queue.release();
    }
    count
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |ns: u64| ns as f64 / 1000.0;
        write!(
            f,
            "offered {:.0} pps, delivered {:.0} pps, lost {} of {} ({:.3} %), duplicated {}, \
             reordered {}; latency p50 {:.1}, p99 {:.1}, p99.9 {:.1} us",
            self.offered_pps,
            self.delivered_pps,
            self.lost,
            self.offered,
            100.0 * self.lost as f64 / self.offered.max(1) as f64,
            self.duplicated,
            self.reordered,
            us(self.latency_p50_ns),
            us(self.latency_p99_ns),
            us(self.latency_p999_ns),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use pmd::{fault, memory};
    use policy::Mac;

    use super::*;
    use crate::generator::{
        flow::{Flow, FlowSpace, Flows, Order},
        random::Random,
        template::{Headers, Template, Transport},
    };

    fn traffic(flows: u32) -> Traffic {
        let headers = Headers {
            eth_src: Mac([2, 0, 0, 0, 0, 1]),
            eth_dst: Mac([2, 0, 0, 0, 0, 2]),
            vlan_tci: None,
            transport: Transport::Udp,
            ipv6: false,
        };
        Traffic {
            templates: vec![Template::new(&headers, 60).expect("fits")],
            space: Flows::Space(FlowSpace {
                first: Flow {
                    src: Ipv4Addr::new(10, 0, 0, 1).into(),
                    dst: Ipv4Addr::new(10, 0, 0, 2).into(),
                    src_port: 1,
                    dst_port: 1,
                },
                dst_ports: 100,
                dst_hosts: 1,
                src_ports: 100,
            }),
            flows,
            order: Order::Uniform(Random::new(1)),
        }
    }

    #[test]
    fn a_clean_pair_delivers_everything_in_order() {
        let (mut a, mut b) = memory::pair(memory::Config::default()).expect("pair");
        let clock = Clock::calibrate();
        let outcome = run(&mut a, &mut b, traffic(50), None, 0.02, &clock).expect("runs");
        assert!(outcome.offered > 0);
        assert_eq!(outcome.delivered, outcome.offered);
        assert_eq!(
            (outcome.lost, outcome.duplicated, outcome.reordered),
            (0, 0, 0)
        );
    }

    #[test]
    fn faults_are_seen_as_what_they_are() {
        let (mut a, b) = memory::pair(memory::Config::default()).expect("pair");
        let tenth = fault::Probability::new(0.1).expect("a share");
        let faults = fault::Config {
            seed: 3,
            drop: tenth,
            duplicate: tenth,
            delay: tenth,
            ..fault::Config::default()
        };
        let mut b = fault::wrap(b, faults);
        let clock = Clock::calibrate();
        let outcome = run(&mut a, &mut b, traffic(5), None, 0.05, &clock).expect("runs");
        let share = |count: u64| count as f64 / outcome.offered as f64;
        assert!((0.05..0.2).contains(&share(outcome.lost)), "{outcome}");
        assert!(
            (0.05..0.2).contains(&share(outcome.duplicated)),
            "{outcome}"
        );
        assert!(outcome.reordered > 0, "{outcome}");
    }
}
