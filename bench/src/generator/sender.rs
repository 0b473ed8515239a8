//! Sends: stamps frames of many flows and hands them to a transmit queue, at a rate or as fast
//! as the queue takes them.

use pmd::{BURST, Frame, PrefixArena, TxBurst, TxPlan, TxQueue};

use super::{
    flow::{Flows, Order},
    stamp::Stamp,
    template::Template,
};

/// When the next frames are due.
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    /// `None` is as fast as possible.
    cycles_per_frame: Option<f64>,
    began: u64,
    given: u64,
}

impl Pacer {
    /// `rate_pps` frames per second from `now` on, on a counter of `cycles_per_s`.
    pub fn new(rate_pps: Option<f64>, cycles_per_s: f64, now: u64) -> Self {
        Self {
            cycles_per_frame: rate_pps.map(|rate| cycles_per_s / rate),
            began: now,
            given: 0,
        }
    }

    /// How many frames are due at `now`, at most a burst. What a slow caller missed stays due, so
    /// the mean rate holds.
    pub fn due(&self, now: u64) -> usize {
        match self.cycles_per_frame {
            None => BURST,
            Some(cycles_per_frame) => {
                let due = ((now - self.began) as f64 / cycles_per_frame) as u64;
                due.saturating_sub(self.given).min(BURST as u64) as usize
            }
        }
    }

    /// `frames` of those due were offered.
    pub fn took(&mut self, frames: usize) {
        self.given += frames as u64;
    }
}

/// What a load sends.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// One template for each size in turn, over and over, unless the order says which.
    pub templates: Vec<Template>,
    /// The flows.
    pub space: Flows,
    /// How many of them are used.
    pub flows: u32,
    /// In which order.
    pub order: Order,
}

/// Stamps and sends.
#[derive(Debug)]
pub struct Sender {
    traffic: Traffic,
    next_template: usize,
    /// By flow.
    sequences: Vec<u32>,
    buffers: Vec<Vec<u8>>,
    prefixes: PrefixArena,
    /// Frames that the queue took.
    pub sent: u64,
    /// Frames that the queue had no room for; they were not counted in their flow's sequence.
    pub refused: u64,
}

impl Sender {
    /// A sender of `traffic`.
    pub fn new(traffic: Traffic) -> Self {
        let longest = traffic.templates.iter().map(Template::size_bytes).max();
        Self {
            next_template: 0,
            sequences: vec![0; traffic.flows as usize],
            buffers: vec![vec![0; longest.unwrap_or(0)]; BURST],
            prefixes: PrefixArena::default(),
            sent: 0,
            refused: 0,
            traffic,
        }
    }

    /// Flow and template of the next frame.
    #[inline]
    fn next(&mut self) -> (u32, usize) {
        let traffic = &mut self.traffic;
        if let Some((flow, template)) = traffic.order.next_recorded() {
            return (flow, template as usize);
        }
        let template = self.next_template;
        self.next_template = (template + 1) % traffic.templates.len();
        let flow = traffic.order.next_of(u64::from(traffic.flows)) as u32;
        (flow, template)
    }

    /// Offers `count` frames, at most a burst, stamped with the time `now`, and returns how many
    /// the queue took.
    pub fn offer(&mut self, queue: &mut dyn TxQueue, count: usize, now: u64) -> usize {
        let count = count.min(BURST);
        let mut flows = [0u32; BURST];
        let mut lengths = [0usize; BURST];
        for index in 0..count {
            let (flow, template) = self.next();
            let template = &self.traffic.templates[template];
            let sequence = &mut self.sequences[flow as usize];
            let stamp = Stamp {
                flow,
                sequence: *sequence,
                cycles: now,
            };
            *sequence = sequence.wrapping_add(1);
            let flow_fields = self.traffic.space.flow(u64::from(flow));
            template.write(&flow_fields, &stamp.encode(), &mut self.buffers[index]);
            flows[index] = flow;
            lengths[index] = template.size_bytes();
        }
        let mut frames = [Frame::contiguous(&[]); BURST];
        let mut plans = [TxPlan::default(); BURST];
        for index in 0..count {
            frames[index] = Frame::contiguous(&self.buffers[index][..lengths[index]]);
            plans[index] = TxPlan {
                frame: index as u8,
                len_bytes: lengths[index] as u32,
                ..TxPlan::default()
            };
        }
        let report = queue.transmit(&TxBurst {
            frames: &frames[..count],
            prefixes: &self.prefixes,
            plans: &plans[..count],
        });
        // A queue takes frames in order, so those it refused are the last ones.
        let sent = report.sent as usize;
        for flow in &flows[sent..count] {
            let sequence = &mut self.sequences[*flow as usize];
            *sequence = sequence.wrapping_sub(1);
        }
        self.sent += sent as u64;
        self.refused += (count - sent) as u64;
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pacer_keeps_the_mean_rate_whatever_the_callers_pace() {
        let mut pacer = Pacer::new(Some(1000.0), 1e6, 0);
        let mut total = 0;
        for now in (0..=1_000_000).step_by(7_777).chain([1_000_000]) {
            let due = pacer.due(now);
            pacer.took(due);
            total += due;
        }
        assert_eq!(total, 1000);
        assert_eq!(Pacer::new(None, 1e6, 0).due(0), BURST);
    }
}
