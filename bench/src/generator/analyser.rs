//! Judges what arrives: loss, duplicates, reordering, latency.
//!
//! What must hold: every frame that arrives counts once, as delivered, duplicate or foreign.

use hdrhistogram::Histogram;
use pmd::Frame;

use super::stamp::Stamp;

/// The longest latency that is told apart, in cycles.
const MAX_LATENCY_CYCLES: u64 = 1 << 40;

/// What was seen of one flow: the next sequence number, and which of the 64 before it came.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    next: u32,
    window: u64,
}

/// Where a sequence number stands in its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    InOrder,
    Late,
    Again,
}

impl Seen {
    /// A frame more than 64 behind its flow's last is taken for late; a second copy of it is not
    /// recognised.
    fn place(&mut self, sequence: u32) -> Place {
        let ahead = sequence.wrapping_sub(self.next);
        if ahead < 1 << 31 {
            let shift = ahead + 1;
            self.window = self.window.checked_shl(shift).unwrap_or(0) | 1;
            self.next = sequence.wrapping_add(1);
            return Place::InOrder;
        }
        let behind = self.next.wrapping_sub(sequence) - 1;
        let Some(bit) = 1u64.checked_shl(behind) else {
            return Place::Late;
        };
        let place = if self.window & bit == 0 {
            Place::Late
        } else {
            Place::Again
        };
        self.window |= bit;
        place
    }
}

/// The far end.
#[derive(Debug)]
pub struct Analyser {
    seen: Vec<Seen>,
    latency: Histogram<u64>,
    /// Frames that arrived for the first time.
    pub delivered: u64,
    /// Frames that had arrived before.
    pub duplicated: u64,
    /// Delivered frames that came after a later one of their flow.
    pub reordered: u64,
    /// Frames of somebody else.
    pub foreign: u64,
}

impl Analyser {
    /// For so many flows.
    ///
    /// # Errors
    /// When the latency histogram cannot be made.
    pub fn new(flows: u32) -> anyhow::Result<Self> {
        Ok(Self {
            seen: vec![Seen::default(); flows as usize],
            latency: Histogram::new_with_max(MAX_LATENCY_CYCLES, 3)?,
            delivered: 0,
            duplicated: 0,
            reordered: 0,
            foreign: 0,
        })
    }

    /// A frame arrived at `now`. The stamp is looked for behind the headers that the switch's own
    /// parser finds.
    pub fn take(&mut self, frame: &Frame<'_>, now: u64) {
        let stamp = payload(frame).and_then(Stamp::decode);
        let known = stamp.and_then(|s| Some((s, self.seen.get_mut(s.flow as usize)?)));
        let Some((stamp, seen)) = known else {
            self.foreign += 1;
            return;
        };
        match seen.place(stamp.sequence) {
            Place::Again => {
                self.duplicated += 1;
                return;
            }
            Place::Late => self.reordered += 1,
            Place::InOrder => {}
        }
        self.delivered += 1;
        self.latency
            .saturating_record(now.saturating_sub(stamp.cycles));
    }

    /// The latency, in cycles, that the share `quantile` of frames did not exceed.
    pub fn latency_cycles(&self, quantile: f64) -> u64 {
        self.latency.value_at_quantile(quantile)
    }
}

/// What stands behind UDP or TCP.
fn payload<'a>(frame: &Frame<'a>) -> Option<&'a [u8]> {
    let parsed = policy::parse(frame.head(), frame.len(), frame.vlan_tci, policy::PortId(0));
    let l4 = usize::from(parsed.l4_offset);
    let header_len = match parsed.key.get(policy::Field::PROTOCOL) {
        17 if l4 > 0 => 8,
        6 if l4 > 0 => usize::from(frame.head().get(l4 + 12)? >> 4) * 4,
        _ => return None,
    };
    frame.head().get(l4 + header_len..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart_across_the_wrap() {
        let mut seen = Seen {
            next: u32::MAX - 1,
            window: 0,
        };
        let first = u32::MAX - 1;
        for (ahead, place) in [
            (0, Place::InOrder),
            (2, Place::InOrder),
            (1, Place::Late),
            (1, Place::Again),
            (2, Place::Again),
            (3, Place::InOrder),
            (100, Place::InOrder),
            (99, Place::Late),
            (99, Place::Again),
            (100, Place::Again),
            (30, Place::Late),
        ] {
            assert_eq!(seen.place(first.wrapping_add(ahead)), place, "{ahead}");
        }
    }
}
