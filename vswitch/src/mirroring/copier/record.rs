//! Copies that stay in memory.
//!
//! In: the frames of a burst that a session chose. Out: the same in the worker's ring, as they were
//! received or as they left, checksums completed. What must hold: what finds no room there is counted.

use mirror::session::Skip;
use pmd::{TxBurst, TxPlan};

use super::{MACS_BYTES, Making, TAG_BYTES, own_bytes};
use crate::mirroring::memory::{Memory, Note};

impl Making<'_> {
    pub(super) fn record(&mut self, memory: &Memory, interface: u32) {
        let mut pen = memory.pen(self.worker);
        for chosen in self.chosen.iter() {
            let frame = &self.received.frames[usize::from(chosen.plan.frame)];
            let mut buffer = [0; MACS_BYTES + TAG_BYTES];
            let (own, source) = own_bytes(self.sent, chosen, frame, &mut buffer);
            let len = chosen.cut.len as usize;
            let own = &own[..own.len().min(len)];
            let plan = TxPlan {
                prefix: 0,
                prefix_len_bytes: own.len() as u8,
                len_bytes: (len - own.len()) as u32,
                // Of what is cut the sum would be another.
                checksum_start: if chosen.cut.truncated {
                    0
                } else {
                    source.checksum_start
                },
                ..source
            };
            self.prefixes.clear();
            if let Some((_, prefix)) = self.prefixes.allocate() {
                prefix[..own.len()].copy_from_slice(own);
            }
            let restored = if chosen.beside.is_some() { TAG_BYTES } else { 0 };
            let note = Note {
                time_ns: self.received.wall_ns,
                original_len: (chosen.plan.wire_len() + restored) as u32,
                interface,
                sent: chosen.sent,
                accepted: chosen.accepted,
            };
            let room = pen.as_mut().and_then(|pen| pen.append(&note, len));
            let Some(room) = room else {
                self.counters.skip(Skip::NoRoom);
                continue;
            };
            let burst = TxBurst {
                frames: self.received.frames,
                prefixes: self.prefixes,
                plans: &[],
            };
            burst.write(&plan, room);
            self.counters.copied.add(1);
            self.counters.bytes.add(len as u64);
            self.counters.truncated.add(chosen.cut.truncated.into());
        }
        self.prefixes.clear();
        self.chosen.clear();
    }
}
