//! The short way of most copies: whole frames without a tag, of a session that wants them all.
//!
//! In: a session whose copies differ in length and number alone, and its frames. Out: the same copies
//! and counts as by the long way, in under half of the instructions (`hit-mirrored` in
//! `bench/instructions.toml`). What must hold: copies leave in the order of their frames, whichever way each goes.

use std::sync::atomic::Ordering::Relaxed;

use mirror::{
    session::Skip,
    wire::{MAX_PREFIX_BYTES as TUNNEL_BYTES, Stamp},
};
use pmd::{Frame, TxPlan};

use super::Making;

/// Ethernet, IPv4 without options, and the ports.
const HEAD_BYTES: usize = 38;
const IPV4: [u8; 2] = [0x08, 0x00];
const NO_OPTIONS: u8 = 0x45;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Of the byte with a fragment's flags: what belongs to its place.
const OFFSET_HIGH: u8 = 0x1f;
const VXLAN: [u8; 2] = 4789_u16.to_be_bytes();

/// How a session's plain copies are made.
pub(super) struct Plain {
    stamp: Stamp,
    /// The longest frame that is sent whole.
    most: u32,
    /// What a copy is longer than its frame.
    overhead_bytes: u32,
}

/// Whether a frame is TCP or UDP over IPv4 without a tag, and no tunnel's, not even a part of one's.
#[inline(always)]
fn is_plain(frame: &Frame<'_>) -> bool {
    let Some(head) = frame.head().first_chunk::<HEAD_BYTES>() else {
        return false;
    };
    let is_open = match head[23] {
        TCP => true,
        UDP => head[36..] != VXLAN && head[20] & OFFSET_HIGH | head[21] == 0,
        _ => false,
    };
    is_open && head[12..14] == IPV4 && head[14] == NO_OPTIONS && frame.vlan_tci.is_none()
}

impl Making<'_> {
    /// How its plain frames are copied, if any is.
    pub(super) fn plain(&self, sent: bool) -> Option<Plain> {
        self.session.exit()?;
        let ready = &self.session.ready;
        let most = ready.plain_most()?;
        let stamp = ready.template.as_ref()?;
        Some(Plain {
            stamp: stamp.stamp(sent, self.received.wall_ns)?,
            most,
            overhead_bytes: ready.overhead_bytes(),
        })
    }

    /// Plans the copy of a plain frame, or counts why not. False: it is to go the long way.
    #[inline(always)]
    pub(super) fn copy_plain(
        &mut self,
        plain: Option<&Plain>,
        plan: TxPlan,
        frame: &Frame<'_>,
    ) -> bool {
        let Some(plain) = plain else {
            return false;
        };
        let is_whole = plan.prefix_len_bytes == 0 && plan.skip_bytes == 0;
        let is_plain = is_whole
            && plan.len_bytes <= plain.most
            && is_plain(frame)
            && !self.mirrors.is_for_sniffer(frame.head());
        if !is_plain {
            self.send_plain(Some(plain));
            return false;
        }
        if !self.chosen.is_empty() || self.plans.is_full() {
            self.make_way(plain);
        }
        self.counters.wanted.add(1);
        let budget = &self.session.ready.budget;
        let bytes = plain.overhead_bytes + plan.len_bytes;
        if !self.own.purse.pay(budget, bytes, self.received.now_ns) {
            self.counters.skip(Skip::OverBudget);
            return true;
        }
        let prefix = self.prefixes.allocate();
        let Some((number, Some(tunnel))) =
            prefix.map(|(number, prefix)| (number, prefix.first_chunk_mut::<TUNNEL_BYTES>()))
        else {
            self.counters.skip(Skip::NoRoom);
            return true;
        };
        let prefix_len = plain.stamp.write(plan.len_bytes, tunnel);
        self.plans.push(TxPlan {
            prefix: number,
            prefix_len_bytes: prefix_len as u8,
            ..plan
        });
        true
    }

    /// Those that came before leave before.
    #[cold]
    fn make_way(&mut self, plain: &Plain) {
        self.send();
        self.send_plain(Some(plain));
    }

    /// Numbers and sends what was planned.
    #[inline]
    pub(super) fn send_plain(&mut self, plain: Option<&Plain>) {
        let copies = self.plans.len() as u32;
        let Some(plain) = plain.filter(|_| copies > 0) else {
            return;
        };
        let first = self.session.shared.sequence.fetch_add(copies, Relaxed);
        for (number, prefix) in (0..).zip(self.prefixes.used_mut()) {
            if let Some(tunnel) = prefix.first_chunk_mut() {
                plain.stamp.number(first.wrapping_add(number), tunnel);
            }
        }
        self.transmit_whole(self.received.frames);
    }
}
