//! What the services hand back to a worker: frames of the switch's own, and frames that waited.
//!
//! In: parcels. Out: plans and drops, as of frames that were received. What must hold: a frame that
//! waited is judged under the snapshot in force now, and counted as returned, not as received.

use arrayvec::ArrayVec;
use pmd::{Burst, Frame};
use policy::{Denial, DropReason};

use super::{
    Worker,
    walk::{Now, Walk, port_counters},
    walk_burst,
};
use crate::{
    handoff::{Errand, Parcel},
    intake::{Group, Groups},
    published::Bundle,
    rule_ledger::RuleSlot,
    verdict::Destination,
};

/// Most parcels of a turn.
const PARCELS_A_TURN: usize = 32;

impl Worker {
    /// Does what the services ask. Returns how many frames it was.
    #[cold]
    pub(super) fn serve(&mut self, bundle: &Bundle, now: Now) -> usize {
        let mut parcels = ArrayVec::<Box<Parcel>, PARCELS_A_TURN>::new();
        while !parcels.is_full()
            && let Some(parcel) = self.handoff.next_for_worker()
        {
            parcels.push(parcel);
        }
        self.outbox.now_ns = now.ns;
        self.outbox.wall_ns = self.shared.wall_ns(now.ns);
        self.send_own(bundle, &parcels);
        self.judge_returned(bundle, now, &parcels);
        let served = parcels.len();
        for parcel in parcels {
            self.handoff.give_back(parcel);
        }
        served
    }

    fn send_own(&mut self, bundle: &Bundle, parcels: &[Box<Parcel>]) {
        let frames: ArrayVec<Frame<'_>, PARCELS_A_TURN> =
            parcels.iter().map(|parcel| parcel.frame()).collect();
        for (index, parcel) in parcels.iter().enumerate() {
            let Errand::Send { port, tag } = parcel.errand else {
                continue;
            };
            // What would be said to nobody is not said.
            if !self.outbox.is_attached(port) {
                continue;
            }
            if let Some(counters) = port_counters(bundle, port, self.id) {
                counters.originated.add(1);
                if self.shared.bridge.guards().is_disabled(port) {
                    counters.offered.add(1);
                    counters.drop_frames(DropReason::PortDown, 1);
                    continue;
                }
            }
            let to = Destination {
                port,
                tag,
                denied: None,
                allowed: RuleSlot::NONE,
                meter: None,
            };
            self.outbox.plan_tagged(bundle, &frames, index, None, to);
        }
        self.outbox.transmit(bundle, &frames);
        if bundle.mirrors.is_active() {
            self.outbox.mirror(bundle, &frames, &Groups::new());
        }
    }

    fn judge_returned(&mut self, bundle: &Bundle, now: Now, parcels: &[Box<Parcel>]) {
        let (mut burst, mut groups) = (Burst::new(), Groups::new());
        for parcel in parcels {
            match parcel.errand {
                Errand::Judge => {
                    let start = burst.len() as u8;
                    burst.push(parcel.frame());
                    groups.push(Group {
                        port: parcel.ingress,
                        start,
                        end: start + 1,
                        unmarked_partial_checksums: false,
                        returned: true,
                    });
                }
                Errand::Drop(reason) => {
                    let ledger = &mut self.slow_path.ledger;
                    let row = ledger.slot(parcel.ingress, Denial::new(reason));
                    ledger.count(row, now.s);
                    if let Some(counters) = port_counters(bundle, parcel.ingress, self.id) {
                        counters.returned.add(1);
                        counters.drop_frames(reason, 1);
                    }
                }
                Errand::Serve | Errand::Wait { .. } | Errand::Send { .. } => {}
            }
        }
        if groups.is_empty() {
            return;
        }
        let mut walk = Walk {
            id: self.id,
            bundle,
            shared: &self.shared,
            now,
            groups: &groups,
            slots: &mut self.slots,
            cache: &mut self.cache,
            slow_path: &mut self.slow_path,
            outbox: &mut self.outbox,
            log: &self.log,
            handoff: &self.handoff,
            serves: false,
            counters: &self.counters,
        };
        walk_burst(&mut walk, &mut burst, &mut self.budget);
    }
}
